"""Two real processes over gloo end where one does."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import require
from two_processes import NUM_IMAGES, RECIPES, RESUMED

import notebooks
from resnetbook import parallel, runs
from resnetbook.train import fit

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def torchrun():
    """Run a job of ``two_processes.py``, in two processes or in one."""
    try:
        import lightning.fabric  # noqa: F401
    except ImportError:
        require(False, "Lightning is not installed")

    def run(job: str, folder: Path, processes: int = 2) -> subprocess.CompletedProcess:
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
            command += [f"--nproc-per-node={processes}"]
        command += [str(SCRIPT), job, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def trained(torchrun, tmp_path_factory):
    """The folders of the same trainings in one and in two processes."""
    folders = []
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        done = torchrun("train", folder, processes)
        assert done.returncode == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def uninterrupted(trained):
    """Where two processes end that nobody interrupts."""
    return torch.load(trained[1] / "end.pt")


def state_distance(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return max((a.float() - theirs[name].float()).abs().max().item() for name, a in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_with_frozen_statistics_two_processes_end_where_one_does(trained, name):
    one, two = (torch.load(folder / f"{name}-True-rank0.pt") for folder in trained)
    # bfloat16 keeps 8 bits of each product.
    tolerance = 5e-3 if RECIPES[name].autocast else 1e-6
    assert state_distance(one["state"], two["state"]) < tolerance
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=tolerance)
        if not RECIPES[name].autocast:
            assert ours["train_accuracy"] == theirs["train_accuracy"]
            assert ours["valid_accuracy"] == theirs["valid_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_statistics_of_each_process_change_the_result_but_all_processes_agree(trained, name):
    one, first = (torch.load(folder / f"{name}-False-rank0.pt") for folder in trained)
    second = torch.load(trained[1] / f"{name}-False-rank1.pt")
    assert state_distance(first["state"], second["state"]) == 0
    assert first["history"] == second["history"]
    assert 1e-5 < state_distance(one["state"], first["state"]) < 0.5


@pytest.mark.slow
def test_every_image_is_seen_once_per_epoch_whether_or_not_the_count_divides(trained):
    steps = 5  # batches of 16, 16, 16, 16 and 1
    ranks = [json.loads((trained[1] / f"seen-rank{rank}.json").read_text()) for rank in (0, 1)]
    alone = json.loads((trained[0] / "seen-rank0.json").read_text())
    for epoch in range(RESUMED.num_epochs):
        epochs = [rank[epoch * steps : (epoch + 1) * steps] for rank in ranks]
        # In the last batch there is nothing for the second process: it computes one image without weight.
        assert [len(part) for part in epochs[0]] == [8, 8, 8, 8, 1]
        assert [len(part) for part in epochs[1]] == [8, 8, 8, 8, 1]
        assert epochs[1][-1] == epochs[0][-1]
        seen = list(itertools.chain(*epochs[0], *epochs[1][:-1]))
        assert sorted(seen) == list(range(NUM_IMAGES))
        # Each batch holds the images that it holds in one process.
        for step in range(steps - 1):
            whole = alone[epoch * steps + step]
            assert whole[0::2] == epochs[0][step] and whole[1::2] == epochs[1][step]


@pytest.mark.slow
def test_only_the_first_process_prints_and_writes(trained):
    for folder in trained:
        assert (folder / "stdout").read_text().count("test accuracy") == 1
    stderr = (trained[1] / "stderr").read_text()
    assert "Grad strides" not in stderr
    assert stderr.count(" 0/20 [") == 1  # one bar began
    first = torch.load(trained[1] / "odd-True-rank0.pt")
    second = torch.load(trained[1] / "odd-True-rank1.pt")
    assert (first["told"], second["told"]) == (2, 0)


@pytest.mark.slow
def test_a_record_says_how_many_processes_made_it(trained):
    one, two = (runs.load("degradation-plain-8-seed0", folder / "records") for folder in trained)
    assert "processes" not in one["hardware"]
    assert two["hardware"]["processes"] == 2
    assert two["recipe"] == one["recipe"] and two["num_images"] == NUM_IMAGES
    for folder in trained:
        assert runs.load_logits("degradation-plain-8-seed0", folder / "records").shape == (NUM_IMAGES, 10)
        assert list((folder / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_the_last_checkpoint_resumes_it(
    torchrun, uninterrupted, tmp_path
):
    died = torchrun("die", tmp_path)
    assert died.returncode != 0
    # Who died of what, and what to do.
    assert "Root Cause" in died.stderr and "Signal 9 (SIGKILL)" in died.stderr
    # torchrun may end rank 0 before it has told of its broken connection.
    advice = f"start the job again; it resumes from {tmp_path / 'run.pt'}"
    assert advice in died.stderr or "Signal 15 (SIGTERM)" in died.stderr
    assert not (tmp_path / "end.pt").exists()
    again = torchrun("resume", tmp_path)
    assert again.returncode == 0, again.stderr
    found = torch.load(tmp_path / "end.pt")
    assert found["losses"] == uninterrupted["losses"]
    assert state_distance(found["state"], uninterrupted["state"]) == 0


@pytest.mark.parametrize("checkpoint", [None, Path("run.pt")])
def test_an_error_among_several_processes_says_how_to_go_on(checkpoint):
    def notes_of(error: Exception, world_size: int) -> list[str]:
        processes = types.SimpleNamespace(world_size=world_size)
        with pytest.raises(type(error)) as raised, parallel.advice_to_resume(processes, checkpoint):
            raise error
        return getattr(raised.value, "__notes__", [])

    (note,) = notes_of(RuntimeError("Connection reset by peer"), 2)
    assert "another of the 2 processes" in note and "start the job again" in note
    assert note.endswith("with a checkpoint it resumes." if checkpoint is None else "resumes from run.pt.")
    assert notes_of(RuntimeError("alone"), 1) == []
    assert notes_of(ValueError("no broken connection"), 2) == []


@pytest.mark.slow
def test_lightnings_own_launcher_starts_the_same_training(uninterrupted, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lightning.fabric.cli", "--accelerator=cpu", "--strategy=ddp"]
    command += ["--devices=2", f"--main-port={port}", str(SCRIPT), "resume", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "end.pt")
    assert found["losses"] == uninterrupted["losses"]
    assert state_distance(found["state"], uninterrupted["state"]) == 0


def commands_of(text: str) -> list[str]:
    """What is typed for torchrun on a page or in a docstring, continued lines joined."""
    return re.findall(r"torchrun --[^`\n]*", text.replace("\\\n", " "))


def test_torchrun_on_one_machine_never_goes_by_its_name():
    (chapter,) = notebooks.paths(["11"])
    page = "\n".join(cell.source for cell in nbformat.read(chapter, as_version=4).cells)
    found = commands_of(page) + commands_of(parallel.__doc__)
    alone = [command for command in found if "--standalone" in command]
    assert len(alone) == 3
    assert all("--standalone --local-addr 127.0.0.1 --nproc-per-node 2" in command for command in alone)
    # The others are for several machines.
    assert all("--rdzv-endpoint" in command for command in found if command not in alone)


@pytest.mark.slow
def test_the_pages_command_starts_where_the_machines_name_does_not_resolve(tmp_path):
    (chapter,) = notebooks.paths(["11"])
    page = "\n".join(cell.source for cell in nbformat.read(chapter, as_version=4).cells)
    program, *options, script = commands_of(page)[0].split()
    assert (program, script) == ("torchrun", "ddp.py")
    # Python reads this file when it starts: a name that no resolver knows, whatever this machine has.
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\nsocket.gethostname = socket.getfqdn = lambda *name: 'nowhere.invalid'\n"
    )
    (tmp_path / script).write_text(
        "import os, torch, torch.distributed as d\n"
        "d.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "d.all_reduce(total)\n"
        # In one go: both processes write to one pipe.
        "os.write(1, b'all together %.1f\\n' % total.item())\n"
        "d.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", *options, script]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    # Without the address it waits for five minutes, and then tries again.
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all together 2.0") == 2


def test_a_process_alone_has_no_fabric(monkeypatch):
    for world_size in (None, "1", "2"):
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        if world_size is not None:
            monkeypatch.setenv("WORLD_SIZE", world_size)  # set by something else, such as a scheduler
        assert parallel.launched(torch.device("cpu")) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert parallel.launched(torch.device("cpu")) is None


def test_a_device_that_cannot_be_shared_out_is_named(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes need CPUs or CUDA, not mps"):
        parallel.launched(torch.device("mps"))


def test_a_missing_lightning_is_named(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(ValueError, match="lightning.* is missing: pip install lightning"):
        parallel.launched(torch.device("cpu"))


class _Ranks:
    """A rank of several, as ``fit`` sees it."""

    def __init__(self, global_rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = global_rank, world_size


@pytest.mark.parametrize("num_images", [1, 2, 3, 7, 16, 33])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_shares_cover_a_batch_and_their_weights_add_up(num_images, world_size, accumulate):
    values = torch.randn(num_images, dtype=torch.float64)
    covered, mean_of_ranks = [], 0.0
    for rank in range(world_size):
        for part, weight in parallel.parts_of_batch(num_images, accumulate, _Ranks(rank, world_size)):
            mean_of_ranks += weight * values[part].mean().item() / world_size
            covered += list(range(num_images))[part] if weight else []
    assert sorted(covered) == list(range(num_images))
    assert mean_of_ranks == pytest.approx(values.mean().item(), abs=1e-12)


def test_a_device_beside_a_fabric_is_refused(few):
    with pytest.raises(ValueError, match="fabric brings its own device; leave out device='cpu'"):
        fit(torch.nn.Identity(), *few, RESUMED, device="cpu", fabric=_Ranks(0, 2))
