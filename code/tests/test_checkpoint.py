"""Checkpoints: real kills, full disks, and files that are none."""

import dataclasses
import io
import multiprocessing
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_net import small_net
from test_train import PLAIN, assert_same_state, fit
from torch import nn

from resnetbook import checkpoint, train
from resnetbook.recipe import Recipe

KILLED = Recipe(
    num_epochs=30, batch_size=40, lr=0.05, warmup_steps=20, nesterov=True, flip=True, shift=1, erase=0.3
)

try:
    import resource
except ImportError:  # Windows
    resource = None

can_limit = pytest.mark.skipif(resource is None, reason="Windows limits no file's size")


def _train_in_child(checkpoint: Path, result: Path, moment: str, sender) -> None:
    """Train with a checkpoint; at a moment, unless it is "never", die by ``kill -9`` in the next one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (480, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (480,), generator=generator)
    torch.manual_seed(3)
    net = small_net(dropout=0.3)  # draws from the global generator at every step
    save, replace = torch.save, os.replace

    def die(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def save_half(state, file) -> None:
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        die()

    if moment == "half written":
        torch.save = save_half
    elif moment == "before the rename":
        os.replace = die
    elif moment == "after the rename":
        os.replace = lambda *paths: die(replace(*paths))
    sender.send(0)
    history = train.fit(
        net,
        images[80:],
        labels[80:],
        KILLED,
        valid=(images[:80], labels[:80]),
        seed=1,
        device="cpu",
        checkpoint=checkpoint,
        progress=False,
        on_epoch=lambda entry: sender.send(entry["epoch"]),
    )
    save({"weights": net.state_dict(), "history": history}, result)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have PyTorch loaded already, so that a kill costs no import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnetbook.runs", "matplotlib", "pytest", "torchvision"])
    return context


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_weights_and_history(tmp_path, processes):
    def start(checkpoint: str, moment: str = "never"):
        receiver, sender = processes.Pipe(duplex=False)
        arguments = (tmp_path / checkpoint, tmp_path / f"{checkpoint}.result", moment, sender)
        process = processes.Process(target=_train_in_child, args=arguments)
        process.start()
        sender.close()
        assert receiver.poll(60) and receiver.recv() == 0
        return process, receiver

    def epochs_stored() -> int:
        path = tmp_path / "killed"
        # Whatever the moment: what lies there under its name is whole.
        return len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0

    process, receiver = start("whole")
    began = time.perf_counter()
    process.join(120)
    epoch_seconds = (time.perf_counter() - began) / KILLED.num_epochs
    assert process.exitcode == 0

    rng = random.Random(15)
    done = 0
    for _ in range(6):
        process, receiver = start("killed")
        for _ in range(rng.randrange(4)):
            assert receiver.poll(60)
            receiver.recv()
        time.sleep(rng.uniform(0, 1.5 * epoch_seconds))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert done <= epochs_stored() < KILLED.num_epochs
        done = epochs_stored()
    assert done > 0
    for moment, gained in (("half written", 0), ("before the rename", 0), ("after the rename", 1)):
        process, _ = start("killed", moment)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, moment
        assert epochs_stored() == done + gained, moment
        done += gained

    process, receiver = start("killed")
    assert receiver.poll(60) and receiver.recv() == done + 1  # it goes on, and does not begin again
    process.join(120)
    assert process.exitcode == 0

    whole = torch.load(tmp_path / "whole.result", weights_only=True)
    killed = torch.load(tmp_path / "killed.result", weights_only=True)
    for history in (whole["history"], killed["history"]):
        assert all(entry.pop("seconds") > 0 for entry in history)
    assert killed["history"] == whole["history"]
    assert killed["weights"].keys() == whole["weights"].keys()
    assert all(torch.equal(killed["weights"][name], value) for name, value in whole["weights"].items())


def test_a_finished_checkpoint_gives_back_weights_and_history_without_training(few, tmp_path):
    recipe = Recipe(num_epochs=2, batch_size=16, autocast="float16")
    first, second = small_net(), small_net()
    history = fit(first, few, recipe, checkpoint=tmp_path / "new folder" / "run.pt")
    seen = []
    path = tmp_path / "new folder" / "run.pt"
    assert fit(second, few, recipe, checkpoint=str(path), on_epoch=seen.append) == history
    assert seen == []
    assert_same_state(first, second)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"identity": {}, "history": [bad]}])
@pytest.mark.parametrize("how", ["pickle", "torch.save", "torch.save, old format"])
def test_a_checkpoint_is_never_unpickled(few, tmp_path, how, wrap):
    path, marker = tmp_path / "run.pt", tmp_path / "executed"
    state = wrap(Malicious(marker))
    if how == "pickle":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization="old" not in how)
    with pytest.raises(ValueError, match="run.pt is not a checkpoint that can be read") as caught:
        fit(small_net(), few, PLAIN, checkpoint=path)
    assert not marker.exists()
    # PyTorch's message advises to read it without protection; ours must not hand that on.
    assert "weights_only" not in str(caught.value)
    # The attack is a real one.
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(few, tmp_path, share):
    path = tmp_path / "run.pt"
    fit(small_net(), few, PLAIN, checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="run.pt is not a checkpoint that can be read.*delete it"):
        fit(small_net(), few, PLAIN, checkpoint=path)


@pytest.mark.parametrize("state", [torch.zeros(3), [1, 2], {"weight": torch.zeros(3)}, {"identity": 3}])
def test_some_other_file_of_tensors_is_no_checkpoint(few, tmp_path, state):
    torch.save(state, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="run.pt is not a checkpoint of a training run"):
        fit(small_net(), few, PLAIN, checkpoint=tmp_path / "run.pt")


def test_a_folder_is_no_checkpoint(few, tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        fit(small_net(), few, PLAIN, checkpoint=tmp_path)


def test_a_checkpoint_of_another_run_is_refused(few, tmp_path):
    path = tmp_path / "run.pt"
    fit(small_net(), few, PLAIN, checkpoint=path)
    before = path.read_bytes()
    images, labels = few
    other_images, other_labels = images.clone(), labels.clone()
    other_images[3, 0, 0, 0] ^= 1
    other_labels[3] = (labels[3] + 1) % 10
    for name, arguments, options in [
        ("recipe", (small_net(), few, dataclasses.replace(PLAIN, lr=0.2)), {}),
        ("recipe", (small_net(), few, dataclasses.replace(PLAIN, num_epochs=2)), {}),
        ("seed", (small_net(), few, PLAIN), {"seed": 1}),
        ("data", (small_net(), (other_images, labels), PLAIN), {}),
        ("data", (small_net(), (images, other_labels), PLAIN), {}),
        ("data", (small_net(), (images[1:], labels[1:]), PLAIN), {}),
        ("model", (small_net(num_classes=11), few, PLAIN), {}),
        ("model", (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), few, PLAIN), {}),
    ]:
        with pytest.raises(ValueError, match=f"run.pt was made with another {name}; delete it or name"):
            fit(*arguments, checkpoint=path, **options)
    assert path.read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint_and_leaves_nothing_beside_it(few, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    recipe = dataclasses.replace(PLAIN, num_epochs=3)
    save = torch.save

    def full_at_the_second(state, file) -> None:
        if len(state["history"]) == 2:
            file.write(b"PK")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        fit(small_net(), few, recipe, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert len(torch.load(path, weights_only=True)["history"]) == 1


def limit_files(size: int) -> None:
    """No file of this process may grow beyond so many bytes: like a full disk, also to PyTorch's C++."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@can_limit
def test_a_checkpoint_that_cannot_be_written_says_what_to_do(few, tmp_path):
    path = tmp_path / "run.pt"
    recipe = dataclasses.replace(PLAIN, num_epochs=3)
    whole = fit(small_net(), few, recipe)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    torch.manual_seed(5)
    net = small_net()
    try:
        message = "checkpoint .*run.pt of epoch 2: .*File too large.*Make room there.*goes on after epoch 1$"
        with pytest.raises(OSError, match=message):
            fit(net, few, recipe, checkpoint=path, on_epoch=lambda entry: limit_files(2_000))
        with pytest.raises(OSError, match="of epoch 1: .*File too large.*it begins again$"):
            fit(net, few, recipe, checkpoint=tmp_path / "other.pt")
    finally:
        limit_files(before)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    epochs = []
    resumed = fit(net, few, recipe, checkpoint=path, on_epoch=epochs.append)
    assert len(resumed) == len(whole) and [entry["epoch"] for entry in epochs] == [2, 3]


def test_the_recipe_of_a_checkpoint(few, tmp_path):
    recipe = dataclasses.replace(PLAIN, lr=0.25, channels_last=True)
    fit(small_net(), few, recipe, checkpoint=tmp_path / "run.pt")
    assert checkpoint.recipe_of(tmp_path / "run.pt") == recipe
    torch.save({"identity": 3}, tmp_path / "other.pt")
    (tmp_path / "damaged.pt").write_bytes(b"PK")
    for name in ("other.pt", "damaged.pt", "missing.pt"):
        assert checkpoint.recipe_of(tmp_path / name) is None


def test_numbers_of_numpy_can_be_read_back(few, tmp_path):
    lr = np.linspace(0.1, 0.2, 2)[0]
    recipe = dataclasses.replace(PLAIN, lr=lr, momentum=np.float32(0.5), num_epochs=np.int64(1))
    assert type(recipe.lr) is float and type(recipe.momentum) is float and type(recipe.num_epochs) is int
    path = tmp_path / "run.pt"
    history = fit(small_net(), few, recipe, checkpoint=path, seed=np.int64(2))
    assert fit(small_net(), few, recipe, checkpoint=path, seed=2) == history
