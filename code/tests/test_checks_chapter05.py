"""Chapter 5's checks: the page's solutions pass, and each plausible mistake is named."""

from pathlib import Path

import pytest
import torch
from conftest import fails, page_solutions
from torch.nn import functional as F

from resnetbook import checks

NOTEBOOK = Path(__file__).parents[2] / "book" / "05_resnet18_fashion_mnist.ipynb"
NAMES = {"accuracy_of": checks.accuracy}


@pytest.mark.parametrize(
    "name", ["map_sizes", "block_parameters", "sgd_step", "accuracy_of", "confusion_matrix"]
)
def test_the_pages_solution_passes(name, capsys):
    check = NAMES.get(name) or getattr(checks, name)
    check(page_solutions(NOTEBOOK)[name])
    assert capsys.readouterr().out.startswith("Right")


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
        (lambda side: sizes(side, stem=halve), "max-pool halves once more"),
        (lambda side: sizes(side, stem=lambda n: n // 4), "padding and rounding"),
        (lambda side: sizes(side, stages=(1, 1, 1, 1)), "first stage keeps the size"),
        (lambda side: sizes(side, stages=(0, 0, 1, 1)), "each stage halves once"),
        (lambda side: sizes(side, rounding=lambda n: n // 2), "rounds up"),
        (lambda side: sizes(side)[:4], "five are asked for"),
        (lambda side: [side / 4] * 5, "whole numbers"),
        (lambda side: None, "return"),
    ],
)
def test_wrong_map_sizes(function, message):
    fails(checks.map_sizes, function, message)


def parameters(i, o, s=1, biases=True, norms=4, projection="where", projection_bias=True):
    count = 9 * i * o + 9 * o * o + 2 * o * biases + norms * o
    needed = projection == "always" or (projection == "where" and (s != 1 or i != o))
    needed = needed or (projection == "stride" and s != 1)
    return count + (i * o + o * projection_bias) * needed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"biases": False}, "biases"),
        ({"norms": 0}, "two batch norms are missing"),
        ({"norms": 2}, "a scale and a shift"),
        ({"norms": 8}, "running statistics"),
        ({"projection": "never"}, "projection is missing"),
        ({"projection": "stride"}, "projection is missing"),
        ({"projection": "always"}, "no projection where"),
        ({"projection_bias": False}, "bias of the projection"),
        ({"biases": False, "norms": 0}, "Biases and batch norms"),
    ],
)
def test_wrong_block_parameters(options, message):
    fails(checks.block_parameters, lambda i, o, s=1: parameters(i, o, s, **options), message)


def step(model, images, labels, lr, *, train=True, clear=True, sign=1, scale=1, reduction="mean", some=False):
    if train:
        model.train()
    if clear:
        model.zero_grad()
    loss = F.cross_entropy(model(images), labels, reduction=reduction)
    loss.backward()
    with torch.no_grad():
        for parameter in list(model.parameters())[: 2 if some else None]:
            parameter -= sign * scale * lr * parameter.grad
    return loss.item()


def step_without_no_grad(model, images, labels, lr):
    model.train()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    for parameter in model.parameters():
        parameter -= lr * parameter.grad
    return loss.item()


def step_out_of_place(model, images, labels, lr):
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    for parameter in model.parameters():
        parameter = parameter - lr * parameter.grad
    return loss.item()


def step_returns_tensor(model, images, labels, lr):
    step(model, images, labels, lr)
    return torch.tensor(1.0)


def step_returns_later_loss(model, images, labels, lr):
    step(model, images, labels, lr)
    with torch.no_grad():
        model.eval()
        return F.cross_entropy(model(images), labels).item()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *a: step(*a, train=False), r"model\.train\(\)"),
        (lambda *a: step(*a, clear=False), "gradients add up"),
        (lambda *a: step(*a, sign=-1), "you climb"),
        (lambda *a: step(*a, scale=2), "2.00 times as far"),
        (lambda *a: step(*a, reduction="sum"), "sum over the batch"),
        (lambda *a: step(*a, some=True), "every parameter"),
        (step_without_no_grad, "no_grad"),
        (step_out_of_place, "in place"),
        (step_returns_tensor, "as a number"),
        (step_returns_later_loss, "before the step"),
    ],
)
def test_wrong_sgd_step(function, message):
    fails(checks.sgd_step, function, message)


def evaluate(model, batches, *, mode=True, restore=True, grad=False, how="images"):
    was_training = model.training
    if mode:
        model.eval()
    with torch.set_grad_enabled(grad):
        right = [(model(x).argmax(1) == y).sum().item() for x, y in batches]
    if restore:
        model.train(was_training)
    seen = [len(y) for _, y in batches]
    return {
        "images": sum(right) / sum(seen),
        "means": sum(r / n for r, n in zip(right, seen, strict=True)) / len(seen),
        "last": right[-1] / seen[-1],
        "count": sum(right),
        "percent": 100 * sum(right) / sum(seen),
        "full batches": sum(right) / (len(seen) * seen[0]),
        "wrong ones": 1 - sum(right) / sum(seen),
    }[how]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": False}, r"model\.eval\(\)"),
        ({"restore": False}, "put its mode back"),
        ({"grad": True}, "no_grad"),
        ({"how": "means"}, "the last batch is smaller"),
        ({"how": "last"}, "last batch alone"),
        ({"how": "count"}, "divide by the number of images"),
        ({"how": "percent"}, "not percent"),
        ({"how": "full batches"}, "batch size"),
        ({"how": "wrong ones"}, "wrong answers"),
    ],
)
def test_wrong_accuracy(options, message):
    fails(checks.accuracy, lambda model, batches: evaluate(model, batches, **options), message)


def test_an_accuracy_in_training_mode_always_is_not_blessed():
    def function(model, batches):
        model.train()
        return evaluate(model, batches, mode=False)

    fails(checks.accuracy, function, r"model\.eval\(\)")


def counts(truth, predictions, k):
    return torch.bincount(truth * k + predictions, minlength=k * k).reshape(k, k)


def counts_once(truth, predictions, k):
    matrix = torch.zeros(k, k, dtype=torch.int64)
    matrix[truth, predictions] += 1
    return matrix


def counts_only_seen(truth, predictions, k):
    size = int(max(truth.max(), predictions.max())) + 1
    return counts(truth, predictions, size)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t, p, k: counts(p, t, k), "transposed"),
        (counts_once, "repeated indices"),
        (counts_only_seen, "never occur"),
        (lambda t, p, k: counts(t, p, k) / counts(t, p, k).sum(1, keepdim=True).clamp(min=1), "not shares"),
        (lambda t, p, k: counts(t, p, k).float(), "whole numbers"),
        (lambda t, p, k: counts(t[1:], p[1:], k), "counts for"),
        (lambda t, p, k: counts(t, p, k).numpy(), "return a tensor"),
    ],
)
def test_wrong_confusion_matrix(function, message):
    fails(checks.confusion_matrix, function, message)


@pytest.mark.parametrize(
    "check",
    [
        checks.map_sizes,
        checks.block_parameters,
        checks.sgd_step,
        checks.accuracy,
        checks.confusion_matrix,
    ],
)
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    def untouched(*arguments):
        raise NotImplementedError

    check(untouched)
    assert "Right" not in capsys.readouterr().out
