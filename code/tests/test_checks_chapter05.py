"""Chapter 5's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import blocks, checks, models

pytestmark = pytest.mark.slow


def halve(n):
    return (n + 1) // 2


def sizes(side, stem=lambda n: halve(halve(n)), stages=(0, 1, 1, 1), rounding=halve):
    given = [stem(side)]
    for shrinks in stages:
        given.append(rounding(given[-1]) if shrinks else given[-1])
    return given


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda side: sizes(side, stages=(1, 1, 1, 1)), "first stage keeps the size"),
        (lambda side: sizes(side, stages=(0, 0, 1, 1)), "each stage halves once"),
        (lambda side: sizes(side)[:4], "5 are asked for"),
        (lambda side: [side / 3] * 5, "no whole number: divide with //"),
        (lambda side: None, "return"),
        (lambda side: [1] * 5, "After the stem you have 1, the network has 56"),
    ],
)
def test_wrong_map_sizes(function, message):
    fails(checks.map_sizes, function, message)


def parameters(i, o, s=1):
    count = 9 * i * o + 9 * o * o + 2 * o + 4 * o
    return count + (i * o + o) * (s != 1 or i != o)


def step(model, images, labels, lr, *, scale=1, num_moved=None):
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in list(model.parameters())[:num_moved]:
            parameter -= scale * lr * parameter.grad
    return loss.item()


def step_without_no_grad(model, images, labels, lr):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    for parameter in model.parameters():
        parameter -= lr * parameter.grad
    return loss.item()


def step_returns_tensor(model, images, labels, lr):
    loss = F.cross_entropy(copy.deepcopy(model).train()(images), labels)
    step(model, images, labels, lr)
    return loss


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *a: step(*a, scale=2), "2 times as far"),
        (lambda *a: step(*a, num_moved=2), "every parameter"),
        (step_without_no_grad, "no_grad"),
        (step_returns_tensor, "as a number"),
    ],
)
def test_wrong_sgd_step(function, message):
    fails(checks.sgd_step, function, message)


def evaluate(model, batches):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    model.train(was_training)
    return right / sum(len(y) for _, y in batches)


def counts(truth, predictions, k):
    return torch.bincount(truth * k + predictions, minlength=k * k).reshape(k, k)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t, p, k: counts(t, p, k).float(), r"integer counts.*\.to\(torch.int64\)"),
        (lambda t, p, k: counts(t[1:], p[1:], k), "counts for"),
        (lambda t, p, k: counts(t, p, k).numpy(), "return a tensor"),
    ],
)
def test_wrong_confusion_matrix(function, message):
    fails(checks.confusion_matrix, function, message)


# ---- numbers of another kind


@pytest.mark.parametrize("kind", [float, Fraction, np.int64, np.float64, torch.tensor])
def test_whole_numbers_are_right_of_whatever_kind(kind, capsys):
    passes(checks.map_sizes, lambda side: [kind(n) for n in sizes(side)], capsys)
    passes(checks.block_parameters, lambda *case: kind(float(parameters(*case))), capsys)


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_five_sizes_are_right_in_whatever_holds_them(kind, capsys):
    passes(checks.map_sizes, lambda side: kind(sizes(side)), capsys)


@pytest.mark.parametrize("kind", [Fraction, np.float32, np.array, torch.tensor])
def test_a_share_and_a_loss_are_right_of_whatever_kind(kind, capsys):
    passes(checks.accuracy, lambda model, batches: kind(evaluate(model, batches)), capsys)
    passes(checks.sgd_step, lambda *a: kind(step(*a)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda side: [True] * 5, "True in it, which is no whole number: return one number"),
        (
            lambda side: [n + 0.5 for n in sizes(side)],
            r"56.5 in it, which is no whole number: divide with //",
        ),
        (lambda side: [str(n) for n in sizes(side)], "'56' in it, which is no whole number"),
        (lambda side: torch.tensor([sizes(side)]), "5 are asked for"),
    ],
)
def test_what_is_no_list_of_five_whole_numbers(function, message):
    fails(checks.map_sizes, function, message)


# ---- what the text forbids


def sizes_by_layers(side):
    x = torch.zeros(1, 1, side, side, device="meta")
    parts = list(models.d2l_resnet18().eval().to("meta").children())[:5]
    return [(x := part(x)).shape[-1] for part in parts]


def sizes_by_functions(side):
    x = torch.zeros(1, 1, side, side)
    x = F.conv2d(x, torch.zeros(1, 1, 7, 7), stride=2, padding=3)
    given = [x := F.max_pool2d(x, 3, 2, 1)] * 2
    for _ in range(3):
        given.append(F.conv2d(given[-1], torch.zeros(1, 1, 3, 3), stride=2, padding=1))
    return [x.shape[-1] for x in given]


@pytest.mark.parametrize(("function", "used"), [(sizes_by_layers, "Conv2d"), (sizes_by_functions, "conv2d")])
def test_sizes_that_pytorch_finds(function, used):
    fails(checks.map_sizes, function, f"right, but PyTorch found them: your function uses .*{used}")


def test_a_wrong_size_is_named_first():
    fails(checks.map_sizes, lambda side: [n + 1 for n in sizes_by_layers(side)], "network has 56")


def test_counting_the_module_is_no_formula(capsys):
    def count(*case):
        return sum(p.numel() for p in blocks.D2LResidual(*case).parameters())

    checks.block_parameters(count)
    assert "Right" in (said := capsys.readouterr().out)
    assert "But your function builds" in said


def test_a_step_of_torch_optim_is_no_step_by_hand():
    def by_optimizer(model, images, labels, lr):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    fails(checks.sgd_step, by_optimizer, r"step is right, but torch\.optim\.sgd\.step took it")


# ---- a step that leaves things as they must not be


def by_autograd(model, images, labels, lr):
    """Right, without backward(): the gradients come as a tuple."""
    model.train()
    loss = F.cross_entropy(model(images), labels)
    weights = list(model.parameters())
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.data -= lr * gradient
    return loss.item()


def to_and_fro(model, images, labels, lr):
    """Right, and puts the mode back that the model came in."""
    was_training = model.training
    loss = step(model, images, labels, lr)
    model.train(was_training)
    return loss


@pytest.mark.parametrize("function", [by_autograd, to_and_fro])
def test_other_right_steps(function, capsys):
    passes(checks.sgd_step, function, capsys)


def step_then(change):
    def function(model, images, labels, lr):
        loss = step(model, images, labels, lr)
        change(model, images, labels)
        return loss

    return function


def replaced(model, images, labels):
    for part in model:
        for name, parameter in list(part.named_parameters()):
            setattr(part, name, nn.Parameter(parameter.detach().clone()))


def penalized(how):
    def function(model, images, labels, lr):
        model.train()
        model.zero_grad()
        loss = F.cross_entropy(model(images), labels, label_smoothing=1e-4 if how == "smooth" else 0)
        loss.backward(create_graph=how == "graph")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * (parameter.grad + (1e-5 if how == "decay" else 0) * parameter)
        return loss.item()

    return function


@pytest.mark.filterwarnings("ignore:Using backward")  # it warns of just this mistake
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (step_then(lambda model, images, labels: model.eval()), "is left in evaluation mode"),
        (step_then(lambda model, images, labels: model[1].eval()), "is left in evaluation mode"),
        (step_then(lambda model, images, labels: images.zero_()), "changes its own argument images"),
        (step_then(lambda model, images, labels: labels.zero_()), "changes its own argument labels"),
        (
            step_then(lambda model, images, labels: model.requires_grad_(False)),
            "does not ask for its gradient",
        ),
        (step_then(replaced), "new parameters in place of its own"),
        (penalized("graph"), "leave create_graph out"),
        (penalized("decay"), "no weight decay"),
        (penalized("smooth"), "no label smoothing"),
        (lambda *a: step(*a, scale=1.0001), "you go 1 times|plain SGD"),
        (lambda *a: step(*a) * (1 + 1e-4), "return the mean over the batch"),
        (step_then(lambda *a: 1 / 0), "raises ZeroDivisionError"),
        (lambda *a: None if step(*a) else None, "gives None"),
        (lambda model, images, labels, lr: 0.5, "Is the step missing"),
    ],
)
def test_other_wrong_steps(function, message):
    fails(checks.sgd_step, function, message)


# ---- an evaluation that leaves things as they must not be


def evaluate_then(change):
    def function(model, batches):
        share = evaluate(model, batches)
        change(model, batches)
        return share

    return function


def counts_in_bytes(model, batches):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().to(torch.uint8) for x, y in batches)
    model.train(was_training)
    return right / sum(len(y) for _, y in batches)


def by_freezing(model, batches):
    was_training = model.training
    model.eval().requires_grad_(False)
    torch.set_grad_enabled(False)
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    torch.set_grad_enabled(True)
    model.train(was_training)
    return right / sum(len(y) for _, y in batches)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (evaluate_then(lambda model, batches: batches.clear()), "changes its own argument batches"),
        (evaluate_then(lambda model, batches: batches[0][1].zero_()), "changes its own argument batches"),
        (evaluate_then(lambda model, batches: model[2].reset_running_stats()), "other numbers in it"),
        (
            evaluate_then(lambda model, batches: torch.set_grad_enabled(False)),
            "gradients are left switched off",
        ),
        (by_freezing, "left without requires_grad"),
        (counts_in_bytes, "answers are right"),
        (lambda model, batches: None if evaluate(model, batches) else 0, "return"),
        (lambda model, batches: str(evaluate(model, batches)), "return one number"),
        (lambda model, batches: 0.8, "the model was never called"),
    ],
)
def test_other_wrong_evaluations(function, message):
    before = torch.is_grad_enabled()
    fails(checks.accuracy, function, message)
    assert torch.is_grad_enabled() is before


# ---- counts that overflow


def one_by_one(dtype):
    def function(truth, predictions, k):
        matrix = torch.zeros(k * k, dtype=dtype)
        matrix.index_add_(0, truth * k + predictions, torch.ones(len(truth), dtype=dtype))
        return matrix.reshape(k, k)

    return function


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_counts_that_do_not_fit_are_named(dtype):
    fails(checks.confusion_matrix, one_by_one(dtype), rf"has become .*: {dtype} cannot hold it.*int64")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_counts_that_fit_are_right(dtype, capsys):
    passes(checks.confusion_matrix, one_by_one(dtype), capsys)


def test_a_confusion_matrix_that_spoils_its_arguments():
    def spoils(truth, predictions, k):
        pairs = truth.mul_(k).add_(predictions)
        return torch.bincount(pairs, minlength=k * k).reshape(k, k)

    fails(checks.confusion_matrix, spoils, "changes its own argument truth")
