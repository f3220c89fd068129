"""Chapter 10's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint_sequential

from resnetbook import checks

ALL = ["loss_scaler", "scaled_lr", "accumulate", "backward_in_segments"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("accumulate", "backward_in_segments")])
def test_a_forgotten_return_is_named(name):
    fails(getattr(checks, name), lambda *arguments: None, "return")


# ---- the loss scaler


class Scaler:
    """A right loss scaler; the options make mistakes."""

    options = {}

    def __init__(self, scale, growth_interval):
        self.scale = scale
        self.growth_interval = growth_interval
        self.good = 0

    def is_good(self, gradients):
        return all(torch.isfinite(gradient).all() for gradient in gradients)

    def on_overflow(self):
        self.scale /= 2
        self.good = 0

    def divide(self, gradients):
        for gradient in gradients:
            gradient /= self.scale

    def grow(self):
        self.good += 1
        if self.good == self.growth_interval:
            self.scale *= 2
            self.good = 0

    def update(self, gradients):
        if not self.is_good(gradients):
            self.on_overflow()
            return False
        self.divide(gradients)
        self.grow()
        return True


def scaler(**methods):
    return type("LossScaler", (Scaler,), methods)


def test_a_scaler_in_another_style_passes(capsys):
    class LossScaler:
        def __init__(self, scale, growth_interval):
            self.scale, self.interval, self.since = torch.tensor(scale), growth_interval, 0

        def update(self, gradients):
            worst = torch.stack([gradient.abs().sum() for gradient in gradients]).sum()
            fine = not (worst.isnan() or worst.isinf())
            if fine:
                torch._foreach_div_(gradients, self.scale.item())
            self.since = self.since + 1 if fine else 0
            if not fine:
                self.scale = self.scale * 0.5
            elif self.since % self.interval == 0:
                self.scale = self.scale * 2
            return torch.tensor(fine)

    passes(checks.loss_scaler, LossScaler, capsys)


def grow_always(self):
    self.scale *= 2


def update_says_nothing(self, gradients):
    Scaler.update(self, gradients)


def update_empties(self, gradients):
    taken = Scaler.update(self, gradients)
    gradients.clear()
    return taken


def back_to_the_start(self):
    self.scale, self.good = 1.0, 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"on_overflow": back_to_the_start}, "halve the scale once"),
        ({"grow": grow_always}, "leaves the scale|good steps in a row"),
        ({"update": update_says_nothing}, "return True if the step may be taken"),
        ({"update": update_empties}, "keep the list"),
        ({"update": None}, "no method update"),
        ({"__init__": lambda self, scale, growth_interval: None}, "keep the scale there"),
    ],
)
def test_wrong_scaler(methods, message, capsys):
    fails(checks.loss_scaler, scaler(**methods), message, capsys)


# ---- the learning rate


def schedule(step, batch_size, steps, *, cuts=(30, 60, 80)):
    full = 0.1 * batch_size / 256
    warm = 5 * steps
    if step < warm:
        return 0.1 + (full - 0.1) * step / warm
    return full * 0.1 ** sum(step >= cut * steps for cut in cuts)


def test_other_ways_to_the_learning_rate_pass(capsys):
    def with_epochs(step, batch_size, steps_per_epoch):
        epoch = step / steps_per_epoch
        full = batch_size / 2560
        if epoch < 5:
            return np.float64((1 - epoch / 5) * 0.1 + epoch / 5 * full)
        for end, factor in ((30, 1), (60, 0.1), (80, 0.01), (math.inf, 0.001)):
            if epoch < end:
                return torch.tensor(full * factor, dtype=torch.float64)

    passes(checks.scaled_lr, schedule, capsys)
    passes(checks.scaled_lr, with_epochs, capsys)


def divided_early(step, batch_size, steps):
    """Divides the starting rate, and not the full one, after the first cut."""
    if step < 30 * steps:
        return schedule(step, batch_size, steps)
    return 0.1 * 0.1 ** sum(step >= cut * steps for cut in (30, 60, 80))


@pytest.mark.parametrize(
    "kind", [np.float32, np.float64, torch.tensor, lambda x: np.array([x]), Fraction, Decimal]
)
def test_a_rate_of_any_kind_is_a_number(kind, capsys):
    passes(checks.scaled_lr, lambda *a: kind(schedule(*a)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda *a: schedule(*a, cuts=(30, 60)),
            "The warm-up is right. After it comes the full rate.* so by 1,000 in all",
        ),
        (lambda *a: schedule(*a, cuts=(20, 40, 60)), "The warm-up is right. After it"),
        (divided_early, "The warm-up is right. After it"),
        (
            lambda s, b, n: max(schedule(s, b, n), 0.1) if s < 30 * n else schedule(s, b, n),
            "full rate is below 0.1",
        ),
        (lambda *a: 10 * schedule(*a), "on paper"),
        (lambda *a: [schedule(*a)], "return one number"),
        (lambda *a: True, "return one number"),
    ],
)
def test_wrong_learning_rate(function, message, capsys):
    fails(checks.scaled_lr, function, message, capsys)


# ---- accumulation


def accumulated(
    model,
    images,
    labels,
    part_size,
    *,
    weight=1,
    returns=lambda losses, sizes: np.average(losses, weights=sizes),
):
    model.zero_grad()
    losses, sizes = [], []
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y)
        (weight * loss * len(y) / len(labels)).backward()
        losses.append(loss.item())
        sizes.append(len(y))
    return returns(losses, sizes)


def summed_then_divided(model, images, labels, part_size):
    for parameter in model.parameters():
        parameter.grad = None
    total = 0.0
    for start in range(0, len(labels), part_size):
        stop = start + part_size
        loss = F.cross_entropy(model(images[start:stop]), labels[start:stop], reduction="sum")
        loss.backward()
        total += loss.detach()
    for parameter in model.parameters():
        parameter.grad /= len(labels)
    return total / len(labels)


def never_backward(model, images, labels, part_size):
    model.zero_grad()
    parts = zip(images.split(part_size), labels.split(part_size), strict=True)
    return sum(F.cross_entropy(model(x), y).item() for x, y in parts)


def with_other_parts(model, images, labels, part_size):
    """Even parts, as few as there may be, whose gradients never lie in .grad before the end."""
    parameters = list(model.parameters())
    sums, loss_sum = [torch.zeros_like(parameter) for parameter in parameters], torch.zeros(())
    num_parts = math.ceil(len(images) / part_size)
    for x, y in zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / len(labels)
        for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient
        loss_sum += loss.detach()
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad = gradient
    return np.float32(loss_sum)


def in_mode(mode, back=True):
    """Right numbers, in a mode of the function's own choice."""

    def function(model, images, labels, part_size):
        before = {module: module.training for module in model.modules()}
        model.train(mode)
        loss = accumulated(model, images, labels, part_size)
        if back:
            for module, training in before.items():
                module.training = training
        return loss

    return function


LEFT = []


def one_step_late(model, images, labels, part_size):
    """Two parts are in memory at a time."""
    model.zero_grad()
    total, waiting = 0.0, None
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y) * len(y) / len(labels)
        if waiting is not None:
            waiting.backward()
        waiting = loss
        total += loss.item()
    waiting.backward()
    return total


def keeping_the_last_graph(model, images, labels, part_size):
    model.zero_grad()
    total, LEFT[:] = 0.0, []
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        LEFT[:] = [F.cross_entropy(model(x), y) * len(y) / len(labels)]
        LEFT[0].backward(retain_graph=len(x) < part_size)
        total += LEFT[0].item()
    return total


def losses_kept_without_memory(model, images, labels, part_size):
    """The losses still know their graphs, but backward() has freed what these held."""
    model.zero_grad()
    total = 0.0
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y) * (len(y) / len(labels))
        loss.backward()
        total = total + loss
    return total.item()


def spoiling(which):
    def function(model, images, labels, part_size):
        loss = accumulated(model, images, labels, part_size)
        if which == "images":
            images.mul_(0)
        else:
            labels[:] = labels.sort().values.flip(0)
        return loss

    return function


@pytest.mark.parametrize(
    "function", [accumulated, summed_then_divided, with_other_parts, losses_kept_without_memory]
)
def test_right_accumulation(function, capsys):
    passes(checks.accumulate, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *a: accumulated(*a, weight=2), "mean loss of all"),
        (
            lambda *a: accumulated(*a, returns=lambda losses, sizes: losses[-1]),
            "the mean loss that you return",
        ),
        (lambda *a: accumulated(*a, returns=lambda losses, sizes: None), "does the function end with"),
        (lambda *a: accumulated(*a, returns=lambda losses, sizes: sum(losses)), "weigh the parts"),
        (never_backward, "a parameter has no gradient: call backward"),
        (lambda *a: 0.0, "never called"),
        (in_mode(False, back=False), "left in another mode"),
        (in_mode(True, back=False), "left in another mode.*call neither train"),
        (in_mode(False), "go through a network in another mode"),
        (in_mode(True), "go through a network in another mode"),
        (keeping_the_last_graph, "memory of a part is still held.*at the end"),
        (one_step_late, "memory of a part is still held.*too late"),
        (spoiling("images"), "changes its own argument images"),
        (spoiling("labels"), "changes its own argument labels"),
    ],
)
def test_wrong_accumulation(function, message, capsys):
    fails(checks.accumulate, function, message, capsys)


def test_a_loss_with_its_graph_is_refused():
    def function(model, images, labels, part_size):
        accumulated(model, images, labels, part_size)
        return torch.ones((), requires_grad=True)

    fails(checks.accumulate, function, r"\.item\(\)")


# ---- activation checkpointing


def from_the_end(model, images, labels, first_pass=torch.no_grad, own_copy=torch.Tensor.detach):
    """Recomputes segment by segment, by another way than the answer's; the options make mistakes."""
    for parameter in model.parameters():
        parameter.grad = None
    with first_pass():
        inputs = {0: images}
        for i, segment in enumerate(model):
            inputs[i + 1] = segment(inputs[i])
    logits = inputs[len(model)].detach().requires_grad_()
    loss = F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    for i in reversed(range(len(model))):
        x = own_copy(inputs[i]).requires_grad_()
        wanted = [x, *model[i].parameters()]
        gradient, *found = torch.autograd.grad(model[i](x), wanted, gradient)
        for parameter, value in zip(model[i].parameters(), found, strict=True):
            parameter.grad = value
    return loss.item()


def all_at_once(model, images, labels):
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.item()


def by_pytorch(model, images, labels):
    model.zero_grad()
    x = images.clone().requires_grad_()
    logits = checkpoint_sequential(model, len(model), x, use_reentrant=True)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    return loss.item()


def spoiling_images(model, images, labels):
    loss = from_the_end(model, images, labels)
    images.zero_()
    return loss


def test_another_way_through_the_segments_is_right(capsys):
    passes(checks.backward_in_segments, from_the_end, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (all_at_once, "maps of more than one segment are in memory at the same time"),
        (lambda *a: from_the_end(*a, first_pass=torch.enable_grad), "under torch.no_grad"),
        (by_pytorch, "do without torch.utils.checkpoint"),
        (lambda *a: 0.0, "no segment was ever called"),
        (lambda *a: from_the_end(*a) * 2, "the gradients are right, but"),
        (spoiling_images, "changes its own argument images"),
    ],
)
def test_wrong_checkpointing(function, message, capsys):
    fails(checks.backward_in_segments, function, message, capsys)
