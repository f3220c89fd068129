"""Chapter 8's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, transfer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KeepsNorms = checks.keeps_norms.built()
grey_kernel = checks.grey_kernel.built()


@pytest.mark.parametrize("name", ["trained_counts", "grey_kernel"])
def test_a_forgotten_return_is_named(name):
    fails(getattr(checks, name), lambda *arguments: None, "return")


# ---- freeze


def freeze_by_switch(model, head):
    model.requires_grad_(False)
    return list(getattr(model, head).requires_grad_(True).parameters())


def freeze_by_name(model, head):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(f"{head}.")
    return (p for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("function", [freeze_by_switch, freeze_by_name, transfer.freeze])
def test_right_freezing(function, capsys):
    passes(checks.freeze, function, capsys)


def names_of(model, head):
    freeze_by_switch(model, head)
    return [name for name, _ in model.named_parameters() if name.startswith(f"{head}.")]


def copies_of(model, head):
    return [p.detach().clone() for p in freeze_by_switch(model, head)]


def frozen_in_evaluation_mode(model, head):
    trained = freeze_by_switch(model, head)
    for name, child in model.named_children():
        child.train(name == head)
    return trained


def the_rest(model, head):
    trained = {id(p) for p in freeze_by_switch(model, head)}
    return [p for p in model.parameters() if id(p) not in trained]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (names_of, "gives names: return the parameters themselves"),
        (lambda model, head: dict(getattr(model, head).named_parameters()), "return a list of the param"),
        (copies_of, "no parameter of the model"),
        (frozen_in_evaluation_mode, "mode"),
        (lambda *case: freeze_by_switch(*case) and None, "return"),
        (the_rest, "return the head's parameters"),
    ],
)
def test_wrong_freezing(function, message, capsys):
    fails(checks.freeze, function, message, capsys)


# ---- counts


def counts_by_loop(width, num_classes):
    head = (4 * width + 1) * num_classes
    norms = sum(2 * c for c in [width] + 6 * [width] + 6 * [2 * width] + 6 * [4 * width])
    stage = 9 * 2 * width * 4 * width + 2 * 4 * width
    stage += sum(9 * (4 * width) ** 2 + 2 * 4 * width for _ in range(5))
    return [head, head + norms, head + stage]


def test_right_counts(capsys):
    passes(checks.trained_counts, counts_by_loop, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda width, classes: (325, 325 + 1376, 325 + 203_520), "head: 4"),
        (lambda width, classes: 4 * width * classes + classes, "3 values are asked for"),
    ],
)
def test_wrong_counts(function, message, capsys):
    fails(checks.trained_counts, function, message, capsys)


# ---- keeping norms


class ByBase(KeepsNorms):
    def train(self, mode=True):
        nn.Module.train(self, mode)
        norms = (m for m in self.model.modules() if isinstance(m, transfer.NORMS))
        for module in norms:
            module.train(False)
        return self


class OneByOne(KeepsNorms):
    def train(self, mode=True):
        for module in self.modules():
            module.training = mode and not isinstance(module, transfer.NORMS)
        return self


@pytest.mark.parametrize("cls", [ByBase, OneByOne])
def test_right_mode(cls, capsys):
    passes(checks.keeps_norms, cls, capsys)


class WithoutMomentum(KeepsNorms):
    """The statistics stay, and the batch's own are used."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, transfer.NORMS):
                module.train(mode)
                module.momentum = 0.0
        return self


class GivesTheModel(KeepsNorms):
    def train(self, mode=True):
        super().train(mode)
        return self.model


class OnlyTheModel(KeepsNorms):
    def train(self, mode=True):
        transfer.keep_statistics(self.model) if mode else self.model.eval()
        return self


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WithoutMomentum, "a norm's mode is wrong"),
        (GivesTheModel, "end with `return self`"),
        (OnlyTheModel, "all but the norms follow the mode"),
        (lambda model: model, "keeps the network as self.model"),
    ],
)
def test_wrong_mode(cls, message, capsys):
    fails(checks.keeps_norms, cls, message, capsys)


# ---- rates by depth


def groups_from_the_front(parts, lr, factor):
    groups = []
    for i, part in enumerate(parts):
        params = [p for p in part.parameters() if p.requires_grad]
        groups += [{"params": params, "lr": lr * factor ** (len(parts) - 1 - i)}] if params else []
    return tuple(groups)


def a_group_each(parts, lr, factor):
    found = []
    for part in parts[::-1]:
        found += [{"params": p, "lr": lr, "momentum": 0.9} for p in part.parameters() if p.requires_grad]
        lr *= factor
    return found


@pytest.mark.parametrize("function", [groups_from_the_front, a_group_each, transfer.groups_by_depth])
def test_right_groups(function, capsys):
    passes(checks.depth_groups, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda parts, lr, factor: [p for part in parts for p in part.parameters()], "list of dictionaries"),
        (lambda *case: 2 * a_group_each(*case), "stands in two groups"),
        (lambda *case: a_group_each(*case)[:-1], "the rates"),
        (
            lambda parts, lr, factor: [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr}],
            "no parameter of any part",
        ),
    ],
)
def test_wrong_groups(function, message, capsys):
    fails(checks.depth_groups, function, message, capsys)


# ---- a grey kernel


def by_einsum(weight, mean, std):
    kernel = torch.einsum("oikl,i->okl", weight, 1 / std)[:, None]
    return [kernel, -torch.einsum("oikl,i->o", weight, mean / std)]


def by_a_black_image(weight, mean, std):
    """The bias is what the convolution makes of a black image."""
    black = (-mean / std).view(1, 3, 1, 1).expand(1, 3, *weight.shape[2:])
    return (weight / std[:, None, None]).sum(1)[:, None], F.conv2d(black, weight).flatten()


@pytest.mark.parametrize("function", [by_einsum, by_a_black_image])
def test_right_kernel(function, capsys):
    passes(checks.grey_kernel, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda w, m, s: grey_kernel(w, m, s)[0], "return two tensors"),
        (lambda w, m, s: (grey_kernel(w, m, s)[0], 0.0), "the bias"),
        (lambda w, m, s: (2 * grey_kernel(w, m, s)[0], grey_kernel(w, m, s)[1]), "divide each channel"),
    ],
)
def test_wrong_kernel(function, message, capsys):
    fails(checks.grey_kernel, function, message, capsys)


def test_the_kernel_does_inside_of_an_image_what_the_page_says():
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)
    g = torch.rand(2, 1, 20, 20)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = conv((g.expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    grey = F.conv2d(g, *grey_kernel(conv.weight, mean, std), stride=2, padding=3)
    assert torch.allclose(colour[:, :, 2:-2, 2:-2], grey[:, :, 2:-2, 2:-2], atol=1e-5)
    assert not torch.allclose(colour, grey, atol=1e-2)
