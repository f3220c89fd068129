"""Chapter 7's exercises: their trusted answers are the package's and scipy's; mistakes that no edit gives."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import fails, passes
from scipy.stats import rankdata
from torch import nn

from resnetbook import checks, inside, models


@pytest.mark.usefixtures("one_thread")
def test_the_closed_form_is_grad_cam_of_the_package():
    torch.manual_seed(0)
    model = models.cifar_resnet(8, width=4, in_channels=1).eval()
    x, classes = torch.randn(4, 1, 8, 8), torch.tensor([0, 9, 4, 4])
    maps = inside.feature_maps(model, ["layer3"], x)["layer3"]
    closed = checks.class_activation_map.built()(maps, model.fc.weight.detach(), classes)
    assert torch.allclose(closed, inside.grad_cam(model, "layer3", x, classes), atol=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_a_silent_block_is_a_removed_one():
    torch.manual_seed(0)
    model = models.cifar_resnet(8, width=4, in_channels=1).eval()
    x = torch.randn(2, 1, 8, 8)
    silenced = checks.silenced.built()
    with torch.no_grad():
        for name in inside.block_names(model):
            with silenced(model.get_submodule(name)):
                mine = model(x)
            with inside.removed(model, name):
                assert torch.allclose(mine, model(x), atol=1e-6)


@contextmanager
def weights_aside(block):
    kept = [p.detach().clone() for p in block.bn2.parameters()]
    with torch.no_grad():
        for parameter in block.bn2.parameters():
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(block.bn2.parameters(), kept, strict=True):
                parameter.copy_(old)


def by_loops(maps, weight, classes):
    found = torch.zeros(len(maps), *maps.shape[2:])
    for n, number in enumerate(classes.tolist()):
        for k in range(maps.shape[1]):
            found[n] += weight[number, k] * maps[n, k] / maps[n, k].numel()
    return found.clamp(min=0)


def test_other_right_solutions(capsys):
    passes(checks.class_activation_map, by_loops, capsys)
    passes(checks.silenced, weights_aside, capsys)
    passes(checks.rank_correlation, lambda a, b: np.corrcoef(rankdata(a), rankdata(b))[0, 1], capsys)


@contextmanager
def another_module(block):
    block.bn2 = nn.Identity()
    yield


@pytest.mark.parametrize(
    ("check", "solution", "message"),
    [
        (checks.class_activation_map, lambda maps, weight, classes: maps.mean(1), "One row of the weight"),
        (checks.class_activation_map, lambda maps, weight, classes: maps, "shape"),
        (checks.silenced, lambda block: None, "keep the line @contextmanager"),
        (checks.silenced, another_module, "The norm is skipped, and F goes on"),
        (checks.rank_correlation, lambda a, b: 0.123, "Replace each value by its rank"),
    ],
)
def test_other_wrong_solutions(check, solution, message):
    fails(check, solution, message)
