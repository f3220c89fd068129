"""What chapter 10 says is what its cells print, what the bench recorded, or what can be computed again."""

import math
import re
import statistics

import nbformat
import numpy as np
import pytest
import torch
from conftest import claim, page_text
from torch import nn

import bench
import notebooks
from resnetbook import bench as results
from resnetbook import compare, models, probes, runs, tables, train

(PATH,) = notebooks.paths(["10"])


def source(cell_id: str) -> str:
    (found,) = (cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.id == cell_id)
    return found


def printed(cell_id: str) -> str:
    """The committed output of a code cell."""
    (cell,) = (cell for cell in nbformat.read(PATH, as_version=4).cells if cell.id == cell_id)
    shown = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "\n".join(shown)


# ---- the opening


def test_what_the_earlier_chapters_took_on_trust():
    earlier = ("source-recipe", "stem-", "ablation-", "epochs-", "speed-")
    recipes = [found.recipe for name, found in runs.EXPERIMENTS.items() if name.startswith(earlier)]
    claim(
        "10",
        "Chapters 5 and 6 trained with numbers of 16 bits and channels-last memory",
        len(recipes) > 20
        and all(recipe.channels_last and recipe.autocast == "bfloat16" for recipe in recipes),
    )


def test_nothing_is_promised_to_the_bit_but_a_resumed_run():
    text = page_text("10")
    promises = re.findall(r"[^.|-]*(?:single bit|last bit|same bits|bit for bit)[^.|]*", text)
    assert promises and "split a batch that does not fit, and interrupt" not in text
    claim("10", "interrupt a training and go on, without changing the result by a single bit")
    claim("10", "resumed equals never interrupted, bit for bit: True")
    claim("10", "| yes, up to rounding, if there is no batch norm |")
    claim("10", "| yes, up to rounding, but for batch norm |")
    rows = re.findall(r"^ *\d+ +(\S+e-\d+) +(\S+e-\d+)$", printed("accumulation-code"), re.MULTILINE)
    with_norm, without = ([float(word) for word in column] for column in zip(*rows, strict=True))
    assert len(rows) == 7
    claim("10", "Without batch norm the difference is the rounding of float32.", 0 < max(without) < 1e-5)
    claim("10", "With batch norm it is not small at all.", min(with_norm) > 0.05)
    claim("10", "and most so with two images in a part.", max(with_norm) == with_norm[-1])


# ---- 1: 16 bits


@pytest.mark.parametrize(("kind", "digits"), [("bfloat16", 2.4), ("float16", 3.3)])
def test_decimal_digits(kind, digits):
    # One bit is not stored: 8 and 11 bits in all.
    bits = {"bfloat16": 7, "float16": 10}[kind] + 1
    claim("10", f"about {digits} decimal digits", round(bits * math.log10(2), 1) == digits)
    assert torch.finfo(getattr(torch, kind)).eps == 2.0 ** (1 - bits)


def test_where_the_gradients_lie():
    text = printed("underflow")
    (median,) = re.findall(r"half of them are below (\S+)", text)
    claim("10", "A typical gradient of a feature map is about a millionth, or less.", float(median) < 2e-6)
    zero, lost = re.search(r"2\^0 +([\d.]+)% +([\d.]+)%", text).groups()
    claim("10", "float16 makes more than one in twenty of them zero", float(zero) > 5)
    claim("10", "of nearly all others it loses digits", float(lost) / (100 - float(zero)) > 0.95)


def test_the_weights_decide_which_way_the_first_convolution_writes():
    layer, grey = nn.Conv2d(1, 16, 3), torch.randn(2, 1, 8, 8)

    def is_last(maps: torch.Tensor) -> bool:
        return maps.is_contiguous(memory_format=torch.channels_last)

    before = is_last(layer(grey))
    claim(
        "10",
        "it is the *weights* that decide which way the first convolution writes",
        is_last(grey) and not before and is_last(layer.to(memory_format=torch.channels_last)(grey)),
    )


# ---- 4: the bench


@pytest.fixture(scope="module")
def result() -> dict:
    return results.load("cpu")


@pytest.fixture(scope="module")
def steps(result) -> dict[tuple[str, str], tuple[float, compare.Difference]]:
    """For each row of a table, but the first: its speed over the row above, as median and as logarithms."""
    found = {}
    for side, entry in result["sides"].items():
        rows = list(entry["contestants"].items())
        for (_, above), (name, below) in zip(rows, rows[1:], strict=False):
            speeds = [row["images_per_second"] for row in (above, below)]
            median = statistics.median(b / a for a, b in zip(*speeds, strict=True))
            logs = [[math.log(speed) for speed in row] for row in speeds]
            found[side, name.split(", ")[-1]] = (median, compare.paired_difference(*logs))
    return found


def test_the_table_prints_each_row_over_the_row_above_with_its_interval(steps):
    for (_, name), (median, found) in steps.items():
        low, high = map(math.exp, found.interval)
        label = name if name == "float32" else f"+ {name}"
        assert re.search(
            rf"^ *{re.escape(label)} .* {median:.2f} \({low:.2f} to {high:.2f}\)",
            printed("bench"),
            re.MULTILINE,
        )


def test_bfloat16_is_no_factor_of_two(steps, result):
    claim(
        "10",
        "Over the row above it, it is 1.67 times as fast at 96×96, and 1.31 times at 28×28.",
        [round(steps[side, "bfloat16"][0], 2) for side in ("96", "28")] == [1.67, 1.31],
    )
    entry = result["sides"]["96"]["contestants"]["ours, channels-last, bfloat16"]
    claim("10", "The 2.09 at 96×96 is against d2l's loop", round(entry["ratio"], 2) == 2.09)
    assert all(steps[side, "bfloat16"][1].interval[1] < math.log(2) for side in ("96", "28"))
    assert "twice as fast" not in page_text("10")


def test_channels_last_and_compiling(steps):
    claim(
        "10",
        "by 16 percent over the row above it at 96×96, and by 7 at 28×28",
        [round(100 * steps[side, "channels-last"][0]) - 100 for side in ("96", "28")] == [16, 7],
    )
    claim(
        "10",
        "**Channels-last helps at both sizes**",
        all(steps[s, "channels-last"][1].clear for s in ("96", "28")),
    )
    at_28 = steps["28", "compiled"][1]
    claim("10", "At 28×28 it is clearly slower than the row above it.", at_28.clear and at_28.mean < 0)
    claim("10", "the interval does not leave out 1", not steps["96", "compiled"][1].clear)
    stand = compare.holm([found.p_value for _, found in steps.values()])
    clear = [found.clear for _, found in steps.values()]
    claim(
        "10",
        "Of these eight comparisons, six are clear, and all six stand with Holm's correction.",
        len(clear) == 8 and sum(clear) == 6 and list(stand) == clear,
    )


def test_ratios_by_round(result):
    ratios = {
        side: [entry["ratios"] for entry in found["contestants"].values()]
        for side, found in result["sides"].items()
    }
    assert result["rounds"] == 5  # "the median of five turns"
    for side in ("96", "28"):
        _, _, _, bfloat16, compiled = ratios[side]
        assert all(c < b for b, c in zip(bfloat16, compiled, strict=True))
    claim("10", "At 96×96 it was slower in every round")
    float32 = ratios["96"][1]
    claim("10", "a sixth slower than d2l's in one round", min(float32) == pytest.approx(1 - 1 / 6, abs=0.01))
    claim("10", "a seventh faster in another", max(float32) == pytest.approx(1 + 1 / 7, abs=0.01))
    told = ", ".join(f"{ratio:.2f}" for ratio in float32)
    claim("10", f"float32 × d2l, round by round: {told}")
    float32 = ratios["28"][1]
    claim(
        "10",
        "at 28×28 it is faster in every round, by about a ninth",
        min(float32) > 1 and statistics.median(float32) == pytest.approx(1 + 1 / 9, abs=0.01),
    )


def test_two_loops_of_the_same_arithmetic(steps):
    claim("10", "At 96×96 these rounds show no clear difference", not steps["96", "float32"][1].clear)
    assert steps["28", "float32"][1].clear


def test_where_the_time_goes(result):
    for side, found in result["sides"].items():
        profiles = [profile["seconds_per_image"] for profile in found["profile"].values()]
        d2l, float32, bfloat16 = profiles
        convolutions = [parts["convolution, forward"] + parts["convolution, backward"] for parts in profiles]
        for parts, seconds in zip(profiles[1:], convolutions[1:], strict=True):
            claim("10", "more than four fifths of it in our loops", seconds > 0.8 * sum(parts.values()))
            claim(
                "10",
                "the backward pass, which is more than half of a step",
                parts["convolution, backward"] > sum(parts.values()) / 2,
            )
        for parts in profiles:
            claim(
                "10",
                "the backward part is about twice as long as the forward part, or longer",
                parts["convolution, backward"] > 1.9 * parts["convolution, forward"],
            )
        if side == "96":
            claim("10", "little more than half of their time", 0.5 < convolutions[2] / convolutions[1] < 0.56)
        else:
            gains = [
                bfloat16[kind] / float32[kind] for kind in ("convolution, forward", "convolution, backward")
            ]
            claim("10", "there the forward pass gains about as much", 0.5 < gains[0] < 0.56)
            claim("10", "keeps four fifths of its time", 0.78 < gains[1] < 0.85)
        slower = {part: d2l[part] / float32[part] for part in results.GROUPS[:4]}
        written = [slower.pop("batch norm"), slower.pop("activation, pooling, addition")]
        claim("10", "in proportion most in batch norm and ReLU", max(slower.values()) < min(written))
        claim("10", "one and a half to two times as long", 1.45 < min(written) and max(written) < 2.15)
        for number, (name, profile) in enumerate(found["profile"].items()):
            seconds = [turn / result["batch_size"] for turn in profile["turns"]]
            race = 1 / found["contestants"][name]["median"]
            if number == 0:
                claim("10", "d2l's takes longer", min(seconds) > 1.04 * race)
                claim("10", "by a different amount in each turn", max(seconds) > 1.2 * min(seconds))
            else:
                claim(
                    "10", "Ours take about as long", 0.96 * race < min(seconds) and max(seconds) < 1.06 * race
                )


def test_what_mfu_is_and_what_ours_divides_by(result):
    claim("10", "By definition that is its *theoretical* peak")
    claim(
        "10", "fastest matrix multiplication or convolution that was *measured* there in the same precision"
    )
    for side in result["sides"].values():
        for entry in side["contestants"].values():
            fastest = result["peaks"][entry["precision"]]["flops_per_second"]
            assert entry["mfu"] == pytest.approx(entry["median"] * side["training_flops"] / fastest)
    peaks = {precision: found["flops_per_second"] for precision, found in result["peaks"].items()}
    claim(
        "10",
        "In bfloat16 the machine can do twice as much",
        1.95 < peaks["bfloat16"] / peaks["float32"] < 2.05,
    )
    told = "; ".join(f"{precision} {peak / 1e9:.0f} GFLOP/s" for precision, peak in peaks.items())
    claim("10", f"fastest kernel: {told}")
    assert "not of a theoretical peak" in " ".join(results.table(result).split())


def test_how_the_bench_was_run(result):
    claim(
        "10",
        "The C library was told to keep its memory, for all alike",
        "trim_threshold" in result["hardware"]["glibc_tunables"],
    )
    claim(
        "10",
        "`train.has_bfloat16` asks",
        isinstance(train.has_bfloat16(torch.device("cpu")), bool),
    )


def test_the_bench_leaves_bfloat16_out_where_there_are_no_instructions(monkeypatch):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: False)
    claim(
        "10",
        "on a processor without instructions for bfloat16 the bench leaves that row out",
        bench._low_precision(torch.device("cpu")) is None,
    )


# ---- 5: batches


def test_the_live_batches():
    losses = {}
    for line in printed("batches-live").splitlines():
        if found := re.match(r"(batch \d+, rate [\d.]+(?:, warm-up)?) +(\d+) +(.*)", line):
            losses[found[1]] = [float(word) for word in found[3].split()]
            assert int(found[2]) == 4 * 3072 // int(found[1].split()[1].rstrip(","))
    small, same, scaled, warm = losses.values()
    claim(
        "10",
        "Eight times the rate wins back a part of the gap, and not all of it.** All seeds agree",
        max(small) < min(scaled + warm) and max(scaled + warm) < min(same),
    )
    gap = statistics.mean(same) - statistics.mean(small)
    changes = abs(statistics.mean(warm) - statistics.mean(scaled))
    claim("10", "What it changes is small beside the gap", changes < gap / 3)
    claim("10", "here it is six steps of 24", 4 * 3072 // 512 == 24)
    assert "num_steps // 4" in source("batches-live")


def test_the_linear_rule():
    rows = re.findall(r"^(no norms|batch norm) +([\d.]+) +(\d+)% +(\d+)%$", printed("rule"), re.MULTILINE)
    far = {(words, float(rate)): int(percent) for words, rate, percent, _ in rows}
    claim("10", "Without norms and with small steps the rule is nearly exact.", far["no norms", 0.001] < 5)
    claim("10", "With batch norm there is a difference even for tiny steps", far["batch norm", 0.001] > 5)
    claim("10", "at a rate of 0.1, more than half of the way is different", far["batch norm", 0.1] > 50)
    claim("10", "The last column is close to 7/8", all(abs(int(row[3]) - 87.5) < 4 for row in rows))


# ---- 7: a resumed run


def test_what_is_forgotten():
    rows = {line.split()[0]: line.split()[1:] for line in printed("forget").splitlines()[1:]}
    momentum, step, statistics_ = (rows[name] for name in ("momentum", "step", "statistics"))
    off = {name: int(row[3].rstrip("%")) for name, row in rows.items()}
    claim("10", "the final weights are off by a small part of the whole way", 0 < off["momentum"] < 25)
    claim("10", "The weights end up far away.", off["step"] > 2 * off["momentum"])
    claim("10", "The first loss is the same, because the weights are.", momentum[0] == rows["nothing"][0])
    assert step[0] != rows["nothing"][0]
    claim(
        "10",
        "The training loss is the same to the last bit, and so are the weights",
        statistics_[:4] == rows["nothing"][:4],
    )
    claim("10", "on unseen images the loss is higher", float(statistics_[4]) > float(rows["nothing"][4]))


# ---- 10: the plan


@pytest.fixture(scope="module")
def plan() -> dict:
    """What the plan's cells define."""
    scope = {"display": str, "models": models, "np": np, "probes": probes, "tables": tables}
    for cell in ("plan-code", "plan-check"):
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
    claim("10", "the plan is 3 percent too slow for both", all(round(100 * e) == 3 for e in errors[0]))
    claim("10", "if all of it is hidden, 9 percent too fast", all(round(100 * e) == -9 for e in errors[1]))
    claim("10", "to one hour on 256 *is* an efficiency of 91 percent", round(100 * 29 / 32) == 91)
    claim("10", "The plan says 88 percent efficiency", round(100 * plan["plan"](1024)[1]) == 88)


def test_akibas_own_network_and_16_bits(plan):
    hours, efficiency = plan["plan"](1024, bytes_per_second=2 * 56e9 / 8, num_bytes=2 * plan["parameters"])
    claim("10", "with those the plan says 97 percent", round(100 * efficiency) == 97)
    claim("10", f"{60 * hours:.1f} min, efficiency 97%")
    claim("10", "right for wrong reasons")
    claim("10", "over another network ([two links of 56 gigabits per second]")


def test_a_fixed_batch_of_256(plan):
    hours, efficiency = zip(
        *(plan["plan"](count, images_each=256 / count) for count in (64, 128, 256)), strict=True
    )
    for count, time, share in zip((64, 128, 256), hours, efficiency, strict=True):
        claim("10", f"{count} {time:.1f} {share:.0%}")
    claim("10", "each doubling buys less", hours[0] / hours[1] > hours[1] / hours[2] > 1)
    claim("10", "the exchange takes as long as computing", efficiency[0] == pytest.approx(0.5, abs=0.01))
    claim(
        "10",
        "four times as many GPUs save a third of the hours",
        1 - hours[2] / hours[0] == pytest.approx(1 / 3, abs=0.02),
    )
    claim("10", "bends after 8 and ends at 256, at about five hours", round(hours[2]) == 5)
    claim("10", "falls from 1 at 8 accelerators to below 0.2 at 256", efficiency[2] < 0.2)
    assert "dozens" not in page_text("10")


def test_the_alternative_text_of_the_plans_figure(plan):
    claim(
        "10",
        "from 232 hours to a few minutes",
        round(plan["plan"](1)[0]) == 232 and plan["plan"](2048)[0] < 0.2,
    )
    others = [entry for entry in plan["PUBLISHED"] if entry[2] != "P100"]
    claim(
        "10",
        "Four trainings on other accelerators lie below the lines.",
        len(others) == 4
        and all(hours < plan["plan"](count, overlap=1)[0] for count, hours, _, _ in others[1:]),
    )
    # The P40s lie just below the lower line, at 2,048.
    assert others[0][1] < plan["plan"](2048, overlap=1)[0]
    claim("10", "32 images each falls to about 0.88 beyond 8", round(plan["plan"](1024)[1], 2) == 0.88)
    shares = [share for _, share, _ in plan["EFFICIENCIES"]]
    claim("10", "Published points lie between 0.8 and 0.92.", min(shares) == 0.8 and max(shares) < 0.92)


def test_who_took_29_hours():
    claim("10", "29 hours on eight NVIDIA P100 GPUs. That is the baseline of 2017")
    assert "He's 29 hours" not in page_text("10")


def test_one_ring_of_1024():
    steps, num_bytes = 2 * 1023, 102e6
    claim("10", "the bytes take 33 milliseconds", round(1e3 * steps * num_bytes / 1024 / (50e9 / 8)) == 33)
    claim("10", "the latency takes 20 more", round(1e3 * steps * 10e-6) == 20)
