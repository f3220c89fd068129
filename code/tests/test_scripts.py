"""The script of chapter 6, which stands alone: it is the book's network, recipe and order of images."""

import argparse
import importlib.util
import re
import struct
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from conftest import last_of_seeds

import notebooks
from resnetbook import data, models, runs, train

SCRIPT = notebooks.BOOK / "scripts" / "fashion_mnist_resnet.py"
EXPERIMENT = runs.EXPERIMENTS["epochs-5"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist_resnet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"epochs": 5, "seed": 0, "bfloat16": False} | changes)


@pytest.fixture(scope="module")
def few() -> tuple[torch.Tensor, torch.Tensor]:
    """Three batches, the last of them smaller."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8, generator=rng)
    return images, torch.randint(0, 10, (300,), generator=rng)


@pytest.fixture
def folder(tmp_path, few):
    """Data in torchvision's form, in a folder of their own: nothing is downloaded."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for which, number in (("train", 300), ("t10k", 100)):
        for kind, values in zip(("images-idx3", "labels-idx1"), few, strict=True):
            values = values[:number].squeeze().to(torch.uint8)
            head = struct.pack(f">{values.dim() + 1}I", 0x0800 + values.dim(), *values.shape)
            (raw / f"{which}-{kind}-ubyte").write_bytes(head + values.numpy().tobytes())
    return tmp_path


def test_it_stands_alone_and_is_short():
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    imported = {name.split(".")[0] for name in re.findall(r"^(?:import|from) ([\w.]+)", source, re.M)}
    assert imported == {"argparse", "math", "time", "torch", "torchvision"}
    assert f"is {sum(last_of_seeds('epochs-5', 'test_accuracy')) / 5:.4f}." in source
    assert "the book's five runs" in source


def test_its_network_is_ours(script, few):
    torch.manual_seed(3)
    theirs = script.ResNet18()
    torch.manual_seed(3)
    ours = models.build(EXPERIMENT.model)
    state = ours.state_dict()
    assert list(theirs.state_dict()) == list(state)
    for name, weight in theirs.state_dict().items():  # the same weights from the same seed, too
        assert torch.equal(weight, state[name]), name
    torch.manual_seed(4)
    theirs.load_state_dict(models.build(EXPERIMENT.model).state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = script.prepare(few[0][:8])
    for mode in (True, False):
        torch.testing.assert_close(theirs.train(mode)(x), ours.train(mode)(x))


def test_its_images_and_its_rate_are_ours(script, few):
    recipe = EXPERIMENT.recipe
    assert (script.MEAN, script.STD) == (data.MEAN, data.STD)
    assert torch.equal(script.prepare(few[0]), train.prepare(few[0], recipe))
    for num_steps in (7, 2345):
        for step in range(num_steps):
            assert script.one_cycle(step, num_steps) == pytest.approx(
                train.lr_factor(recipe, step, num_steps)
            )


@pytest.mark.parametrize(("autocast", "num_images"), [(None, 140), ("bfloat16", 140)])
def test_its_first_steps_give_the_weights_of_our_training(autocast, num_images, script, few):
    images, labels = (values[:num_images] for values in few)
    start = models.build(EXPERIMENT.model).state_dict()
    recipe = replace(EXPERIMENT.recipe, num_epochs=2, autocast=autocast)
    half = autocast is not None
    assert half or EXPERIMENT.recipe.autocast == "bfloat16"

    def trained(seed: int) -> dict:
        net = script.ResNet18()
        net.load_state_dict(start)
        script.train(net, images, labels, options(epochs=2, seed=seed, bfloat16=half))
        return net.state_dict()

    ours = models.build(EXPERIMENT.model)
    ours.load_state_dict(start)
    train.fit(ours, images, labels, recipe, seed=2, device="cpu", progress=False)
    theirs, other = trained(2), trained(3)
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-4, rtol=1e-3)
        if weight.dim() > 1:  # it has learned, and another order of images gives other weights
            assert not torch.allclose(theirs[name], start[name], atol=1e-3)
            assert not torch.allclose(theirs[name], other[name], atol=1e-3)


def test_its_defaults_are_those_of_the_recorded_runs(script, folder, monkeypatch, capsys):
    recorded = runs.load_seeds("epochs-5")[0]
    assert recorded["num_images"] == 60_000 and recorded["held_out"] == 0
    seen = []

    def remember(net, images, labels, options):
        seen.append((sum(p.numel() for p in net.parameters()), len(images), options))

    monkeypatch.setattr(script, "train", remember)
    script.main(["--data", str(folder)])
    ((parameters, num_images, asked),) = seen
    assert parameters == recorded["parameters"] and num_images == 300  # all there are
    assert (asked.epochs, asked.seed, asked.images) == (recorded["recipe"]["num_epochs"], 0, None)


def test_it_runs_from_a_terminal_on_a_folder_of_data(folder):
    command = [sys.executable, str(SCRIPT), "--data", str(folder), "--epochs", "1", "--images", "130"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert re.fullmatch(r"epoch 1: loss \d\.\d{4}, \d+ s\ntest accuracy 0\.\d\d00\n", ended.stdout)
    assert [path.name for path in folder.iterdir()] == ["FashionMNIST"]
    assert ended.stderr == ""


def test_what_it_printed_at_its_end_is_what_a_seed_of_the_book_may_print():
    """``fashion_mnist_resnet.txt``: one run with ``--bfloat16``, as chapter 6 says to start it."""
    printed = SCRIPT.with_suffix(".txt").read_text(encoding="utf-8")
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss (\d\.\d{4}), \d+ s$", printed, re.M)]
    (tested,) = re.findall(r"^test accuracy (0\.\d{4})$", printed, re.M)
    history = runs.load("epochs-5-seed0")["history"]
    # The same starting weights and order of images; what differs is rounding, which grows with the steps.
    assert losses == pytest.approx([epoch["train_loss"] for epoch in history], abs=0.01)
    assert runs.compare("epochs-5", float(tested)).inside
