"""The Keras networks beside PyTorch's, on every engine that is installed; saving, loading, strictness."""

import copy
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

# Before Keras is imported; elsewhere in the suite nobody does.
os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import keras_models, models

# Engines beside PyTorch: those that are not here are not collected, so that none is skipped.
OTHERS = [name for name in ("tensorflow", "jax") if importlib.util.find_spec(name)]
FORMS = ("subclassed", "functional")
SIDES = (224, 97)


def network(depth: int, seed: int, **options) -> nn.Module:
    """A network with norms that are not the trivial zeros and ones, and statistics of real passes."""
    torch.manual_seed(seed)
    found = models.resnet(depth, **options)
    with torch.no_grad():
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for _ in range(3):
            found(torch.randn(4, options["in_channels"], 40, 40))
    return found


def case(depth: int, side: int, form: str, floatx: str = "float32", lr: float = 0.0, **more) -> dict:
    """What a process needs to do again what PyTorch does here, and PyTorch's own answer."""
    options = {"depth": depth, "num_classes": 10, "in_channels": 3, **more}
    kind = getattr(torch, floatx)
    net = network(**options, seed=depth + side).to(kind)
    images = torch.randn(2, options["in_channels"], side, side, dtype=kind)
    labels = torch.tensor([3, 7])
    found = {"options": options, "form": form, "floatx": floatx, "lr": lr, "images": images, "labels": labels}
    found["state"] = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        found["before"] = net.eval()(images)
    if lr:
        found["loss"], found["after"] = step(net, images, labels, lr)
    return found


def step(net: nn.Module, images: Tensor, labels: Tensor, lr: float) -> tuple[float, Tensor]:
    """The loss of one step of PyTorch's SGD, and what the network says after it, in evaluation mode."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    loss = F.cross_entropy(net.train()(images), labels)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return loss.item(), net.eval()(images)


def cases() -> list[dict]:
    """Every depth, at 224 and at an odd size; steps also in double precision, where rounding is no excuse."""
    found = []
    for depth in (18, 34, 50):
        for i, side in enumerate(SIDES):
            found.append(case(depth, side, FORMS[i], lr=0.001))
            found.append(case(depth, side // 2, FORMS[1 - i], "float64", lr=0.1))
    found.append(case(50, 65, "subclassed", stride_on="1x1", width=16))
    found.append(case(18, 28, "functional", stem="small", in_channels=1, width=16))
    return found


def away(given: np.ndarray, right: Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    return float(np.abs(given - right.numpy()).max() / right.abs().max())


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    for i, found in enumerate(cases()):
        torch.save(found, folder / f"{i:02}.case")
    return folder


@pytest.mark.parametrize("engine", ["torch", *OTHERS])
def test_outputs_and_steps_are_pytorchs(engine, asked):
    environment = {
        **os.environ,
        "KERAS_BACKEND": engine,
        "JAX_ENABLE_X64": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("keras_engine.py")
    done = subprocess.run(
        [sys.executable, str(script), str(asked)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(asked / "engine.told")["engine"] == engine
    for path in sorted(asked.glob("*.case")):
        right, given = torch.load(path), torch.load(path.with_suffix(".answer"), weights_only=False)
        said = f"{engine}: {right['options']}, {right['form']}, {tuple(right['images'].shape)}"
        double = right["floatx"] == "float64"
        print(said, away(given["before"], right["before"]), right["lr"] and away(given["after"], right["after"]))
        assert away(given["before"], right["before"]) < (1e-9 if double else 1e-4), said
        if right["lr"]:
            assert given["loss"] == pytest.approx(right["loss"], rel=1e-9 if double else 1e-4), said
            assert away(given["after"], right["after"]) < (1e-6 if double else 1e-3), said
