"""What chapter 11 says is what its cells print, what its scripts do, or what can be computed again."""

import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from conftest import claim, page_text
from torch import nn
from torch.utils.data import DistributedSampler

import notebooks
from resnetbook import models, probes, tables

(PATH,) = notebooks.paths(["11"])
SCRIPTS = sorted((notebooks.BOOK / "scripts").glob("ddp*.py"))


def cell(cell_id: str) -> nbformat.NotebookNode:
    (found,) = (cell for cell in nbformat.read(PATH, as_version=4).cells if cell.id == cell_id)
    return found


def source(cell_id: str) -> str:
    return cell(cell_id).source


def printed(cell_id: str) -> str:
    """The committed output of a code cell."""
    shown = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell(cell_id).outputs)
    return "\n".join(shown)


# ---- the scripts


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_page_writes_the_scripts_that_stand_beside_it(path):
    sources = [c.source for c in nbformat.read(PATH, as_version=4).cells if c.cell_type == "code"]
    script = path.read_text(encoding="utf-8").strip()
    assert sum(script in text and path.name in text for text in sources) == 1


def test_there_are_five_scripts_and_the_first_code_that_a_reader_sees_is_one():
    assert len(SCRIPTS) == 5
    cells = [c for c in nbformat.read(PATH, as_version=4).cells if c.cell_type == "code"]
    shown = next(c.source for c in cells if not c.source.startswith("# @title"))
    assert shown.startswith("%%capture\n%%writefile ddp.py\n")
    for name in ("init_process_group", "DistributedSampler", "DistributedDataParallel", "set_epoch"):
        assert name in shown


def test_what_is_shown_of_the_resumed_script_stands_in_it():
    script = (notebooks.BOOK / "scripts" / "ddp_resume.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", source("death"), re.S)
    assert len(blocks) == 3 and all(block in script for block in blocks)


def test_about_twenty_lines():
    lines = (notebooks.BOOK / "scripts" / "ddp.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines[1:] if line.strip() and not line.startswith(("import", "from"))]
    claim("11", "about 20 lines with `torch.distributed`", 18 <= len(code) <= 25)


# ---- 1 and 2: one training, three ways


def test_three_scripts_end_with_the_same_weights():
    found = re.findall(r"^\w+: off by (\S+)$", printed("three"), re.MULTILINE)
    claim("11", "To the last bit. All three run the same DDP", [float(x) for x in found] == [0, 0])
    claim("11", "Sixteen steps, of 64 images each", 1024 // 2 // 32 == 16)


# ---- 3: what differs


def test_which_gradients_are_those_of_one_process():
    rows = dict(re.findall(r"^(32 and .*?|48 and .*?) +(\S+e-\d+)$", printed("gradients"), re.MULTILINE))
    off = {name: float(value) for name, value in rows.items()}
    equal, plain, weighted, norms = off.values()
    claim(
        "11",
        "With equal shares and no norms the mean of the two gradients is one process's gradient.",
        0 < equal < 1e-5 and list(off)[0] == "32 and 32",
    )
    claim("11", "then the plain mean comes out right", weighted < 1e-5 < plain)
    claim("11", "With batch norm the difference is large", norms > 0.05 and "batch norm" in list(off)[3])
    claim("11", "each image of the small share counts three times as much", 48 / 16 == 3)


def test_what_the_sampler_repeats():
    shares = [list(DistributedSampler(range(7), 2, rank, shuffle=False)) for rank in range(2)]
    claim("11", "It makes eight out of seven: image 0 is trained on twice.", sum(shares, []).count(0) == 2)
    dropped = [list(DistributedSampler(range(7), 2, r, shuffle=False, drop_last=True)) for r in range(2)]
    claim("11", "(With `drop_last=True` one is left out instead.)", len(set(sum(dropped, []))) == 6)
    lines = printed("sampler").splitlines()
    first, untold, told = (line[line.index("[") :] for line in lines[3:6])
    claim("11", "without `set_epoch` every epoch has the same order", first == untold != told)


def test_synchronized_norms_among_processors_raise_an_error():
    program = (
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo', rank=0, world_size=1, store=d.HashStore())\n"
        "torch.nn.SyncBatchNorm(4)(torch.ones(2, 4, 3, 3))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    claim(
        "11",
        "among processes on processors it raises an error",
        done.returncode != 0 and "expected input tensor to be on GPU" in done.stderr,
    )
    net = nn.SyncBatchNorm.convert_sync_batchnorm(models.cifar_resnet(8))
    assert isinstance(net.bn1, nn.SyncBatchNorm)


# ---- 4: a resumed run


def test_nothing_is_promised_to_the_bit_but_what_is():
    rows = re.findall(r"^(nothing|optimizer|epochs) +(\d+) +(\S+) +(\S+)$", printed("resume"), re.MULTILINE)
    ran = {lost: (int(count), float(loss), float(off)) for lost, count, loss, off in rows}
    claim("11", "With nothing lost the end is that of `ddp.py`, to the last bit.", ran["nothing"][2] == 0)
    claim("11", "it is another training", min(ran["optimizer"][2], ran["epochs"][2]) > 1e-3)
    assert ran["nothing"][0] == ran["optimizer"][0] == 1 and ran["epochs"][0] == 2
    losses = re.findall(r"loss (\S+)", printed("run-ddp"))
    assert ran["nothing"][1] == float(losses[-1])
    claim("11", "Its loss looks like a loss", all(0.5 < loss < 2 for _, loss, _ in ran.values()))


def test_who_died():
    text = printed("death-code")
    claim("11", "rank 1, killed by signal 9", "rank : 1" in " ".join(text.split()) and "Signal 9" in text)
    assert re.findall(r"^epoch (\d)", text, re.MULTILINE) == ["1"]
    assert "net, optimizer, epochs" in text


# ---- 5: the plan


@pytest.fixture(scope="module")
def plan() -> dict:
    """What the plan's cells define."""
    scope = {"display": str, "models": models, "np": np, "probes": probes, "tables": tables}
    for cell in ("plan-code", "plan-data", "plan-check"):
        exec(source(cell), scope)
    return scope


def test_the_plan_against_published_trainings(plan):
    hours = {name: (count, hours) for count, hours, _, name in plan["PUBLISHED"]}
    assert hours["baseline"] == (8, 29) and "He" not in hours
    errors = {
        overlap: [
            plan["plan"](*[hours[name][0]], overlap=overlap)[0] / hours[name][1] - 1
            for name in ("Goyal", "Akiba")
        ]
        for overlap in (0, 1)
    }
    claim("11", "the plan is 3 percent too slow for both", all(round(100 * e) == 3 for e in errors[0]))
    claim("11", "if all of it is hidden, 9 percent too fast", all(round(100 * e) == -9 for e in errors[1]))
    claim("11", "to one hour on 256 *is* an efficiency of 91 percent", round(100 * 29 / 32) == 91)
    claim("11", "The plan says 88 percent efficiency", round(100 * plan["plan"](1024)[1]) == 88)


def test_akibas_own_network_and_16_bits(plan):
    hours, efficiency = plan["plan"](1024, bytes_per_second=2 * 56e9 / 8, num_bytes=2 * plan["parameters"])
    claim("11", "with those the plan says 97 percent", round(100 * efficiency) == 97)
    claim("11", f"{60 * hours:.1f} min, efficiency 97%")
    claim("11", "right for wrong reasons")
    claim("11", "over another network ([two links of 56 gigabits per second]")


def test_a_fixed_batch_of_256(plan):
    hours, efficiency = zip(
        *(plan["plan"](count, images_each=256 / count) for count in (64, 128, 256)), strict=True
    )
    for count, time, share in zip((64, 128, 256), hours, efficiency, strict=True):
        claim("11", f"{count} {time:.1f} {share:.0%}")
    claim("11", "each doubling buys less", hours[0] / hours[1] > hours[1] / hours[2] > 1)
    claim(
        "11",
        "With 64 GPUs the exchange takes as long as computing.",
        efficiency[0] == pytest.approx(0.5, abs=0.01),
    )
    claim(
        "11",
        "four times as many save a third of the hours",
        1 - hours[2] / hours[0] == pytest.approx(1 / 3, abs=0.02),
    )
    claim("11", "bends after 8 and ends at 256, at about five hours", round(hours[2]) == 5)
    claim("11", "falls from 1 at 8 accelerators to below 0.2 at 256", efficiency[2] < 0.2)
    assert "dozens" not in page_text("11")


def test_the_alternative_text_of_the_plans_figure(plan):
    claim(
        "11",
        "from 232 hours to a few minutes",
        round(plan["plan"](1)[0]) == 232 and plan["plan"](2048)[0] < 0.2,
    )
    others = [entry for entry in plan["PUBLISHED"] if entry[2] != "P100"]
    claim(
        "11",
        "Four trainings on other accelerators lie below the lines.",
        len(others) == 4
        and all(hours < plan["plan"](count, overlap=1)[0] for count, hours, _, _ in others[1:]),
    )
    # The P40s lie just below the lower line, at 2,048.
    assert others[0][1] < plan["plan"](2048, overlap=1)[0]
    claim("11", "32 images each falls to about 0.88 beyond 8", round(plan["plan"](1024)[1], 2) == 0.88)
    shares = [share for _, share, _ in plan["EFFICIENCIES"]]
    claim("11", "Published points lie between 0.8 and 0.92.", min(shares) == 0.8 and max(shares) < 0.92)


def test_who_took_29_hours():
    claim("11", "29 hours on eight NVIDIA P100 GPUs, the baseline of 2017")
    assert "He's 29 hours" not in page_text("11")


def test_one_ring_of_1024():
    steps, num_bytes = 2 * 1023, 102e6
    claim("11", "the bytes take 33 milliseconds", round(1e3 * steps * num_bytes / 1024 / (50e9 / 8)) == 33)
    claim("11", "the latency takes 20 more", round(1e3 * steps * 10e-6) == 20)
