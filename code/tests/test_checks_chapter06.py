"""Chapter 6's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import copy
import math
import statistics
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy as by_another_name
from torch.optim.sgd import sgd
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import functional as transforms

from resnetbook import checks, compare, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

compare_seeds = checks.compare_seeds.built()
momentum_step = checks.momentum_step.built()
learning_rate = checks.learning_rate.built()
shift_images = checks.shift_images.built()
smoothed_cross_entropy = checks.smoothed_cross_entropy.built()
Ema = checks.ema.built()


def test_an_untouched_update_does_not_stop_the_notebook(capsys):
    class HalfDone(Ema):
        @torch.no_grad()
        def update(self, model):
            raise NotImplementedError

    checks.ema(HalfDone)
    assert "Not done yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["compare_seeds", "learning_rate", "shift_images", "smoothed_cross_entropy", "ema"]
)
def test_a_forgotten_return_is_named(name):
    fails(getattr(checks, name), lambda *arguments: None, "return")


# ---- two recipes with the same seeds


def seeds_with(mean=None, error=None):
    """``compare_seeds`` with another mean or error, of before, after and the differences."""

    def function(before, after):
        differences = [new - old for old, new in zip(before, after, strict=True)]
        right = compare_seeds(before, after)
        return (
            right[0] if mean is None else mean(before, after, differences),
            right[1] if error is None else error(before, after, differences),
        )

    return function


def seeds_by_torch(before, after):
    differences = torch.tensor(after) - torch.tensor(before)
    return differences.mean(), differences.std() / len(differences) ** 0.5


def seeds_by_numpy(before, after):
    differences = np.subtract(after, before)
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    return np.array([np.mean(differences), error])


def seeds_by_pstdev(before, after):
    differences = [after[i] - before[i] for i in range(len(before))]
    error = statistics.pstdev(differences) / math.sqrt(len(differences) - 1)
    return [sum(differences) / len(differences), error]


def seeds_taken_out(before, after):
    return compare_seeds([before.pop() for _ in range(len(before))], [after.pop() for _ in range(len(after))])


def seeds_by_the_book(before, after, find=compare.paired_difference):
    found = find(before, after)
    return found.mean, found.error


def in_kinds(mean, error):
    return lambda before, after: (
        mean(compare_seeds(before, after)[0]),
        error(compare_seeds(before, after)[1]),
    )


def seeds_in_a_generator(before, after):
    return (number for number in compare_seeds(before, after))


@pytest.mark.parametrize(
    "function",
    [
        seeds_by_torch,
        seeds_by_numpy,
        seeds_by_pstdev,
        seeds_in_a_generator,
        lambda b, a: torch.stack(seeds_by_torch(b, a)),
        lambda b, a: np.float32(seeds_by_numpy(b, a)),
        in_kinds(Fraction, Decimal),
        in_kinds(np.float64, torch.tensor),
        in_kinds(np.array, lambda error: np.array([error])),
    ],
)
def test_right_comparison(function, capsys):
    passes(checks.compare_seeds, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (seeds_taken_out, "It is right, but .* changes its own argument before"),
        (seeds_by_the_book, "book's own resnetbook.compare"),
        (seeds_with(mean=lambda b, a, d: 0.0), "subtract seed by seed"),
        (seeds_with(mean=lambda b, a, d: round(statistics.fmean(d), 6)), "rounded"),
        (seeds_with(error=lambda b, a, d: round(compare_seeds(b, a)[1], 3)), "rounded"),
        (seeds_with(error=lambda b, a, d: 1.0), "sample standard deviation of the differences"),
        (seeds_with(error=lambda b, a, d: math.nan), "sample standard deviation of the differences"),
        # A mistake in the one does not hide that the other is right.
        (
            seeds_with(mean=lambda b, a, d: 0.0, error=lambda b, a, d: statistics.stdev(d)),
            "the mean.: subtract",
        ),
        (seeds_with(error=lambda b, a, d: None), "gives None.*the standard error"),
        (lambda b, a: compare_seeds(b, a)[0], "return two numbers"),
        (lambda b, a: set(compare_seeds(b, a)), "return two numbers"),
        (lambda b, a: (*compare_seeds(b, a), len(b)), "return two numbers"),
    ],
)
def test_wrong_comparison(function, message, capsys):
    fails(checks.compare_seeds, function, message, capsys)


# ---- momentum


def step_by_index(weights, gradients, velocities, lr, momentum, weight_decay):
    for i in range(len(weights)):
        gradient = gradients[i].add(weights[i], alpha=weight_decay)
        velocities[i] *= momentum
        velocities[i] += gradient
        weights[i].add_(velocities[i], alpha=-lr)
    return None


def step_with_foreach(weights, gradients, velocities, lr, momentum, weight_decay):
    gradients = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, gradients)
    torch._foreach_sub_(weights, torch._foreach_mul(velocities, lr))


def step_in_double(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        faster = momentum * v.double() + g + weight_decay * w
        v.copy_(faster)
        w[...] = w - lr * faster


def step_in_numpy(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v.numpy()[...] = momentum * v.numpy() + g.numpy() + weight_decay * w.numpy()
        w.data = w - np.float64(lr) * v


def step_with_new_velocities(weights, gradients, velocities, lr, momentum, weight_decay):
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        velocities[i] = momentum * velocities[i] + (g + weight_decay * w)
        w -= lr * velocities[i]
    return weights


def step_without_velocity_if_no_momentum(weights, gradients, velocities, lr, momentum, weight_decay):
    if momentum:
        return momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)
    for w, g in zip(weights, gradients, strict=True):
        w -= lr * (g + weight_decay * w)


@pytest.mark.parametrize(
    "function",
    [
        step_by_index,
        step_with_foreach,
        step_in_double,
        step_in_numpy,
        step_with_new_velocities,
        step_without_velocity_if_no_momentum,
    ],
)
def test_right_step(function, capsys):
    passes(checks.momentum_step, function, capsys)


def names_only(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v = momentum * v + g + weight_decay * w
        w = w - lr * v


def weight_first(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        w -= lr * (momentum * v + g + weight_decay * w)


def emptied(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)
    gradients.clear()


def only_the_first(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights[:1], gradients[:1], velocities[:1], lr, momentum, weight_decay)


def three_times_as_far(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights, gradients, velocities, 3 * lr, momentum, weight_decay)


def by_pytorchs_sgd(weights, gradients, velocities, lr, momentum, weight_decay):
    parameters = [nn.Parameter(w) for w in weights]  # in the same memory
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        p.grad = g
        optimizer.state[p]["momentum_buffer"] = v
    optimizer.step()


def by_pytorchs_function(weights, gradients, velocities, lr, momentum, weight_decay):
    sgd(
        weights,
        gradients,
        velocities,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0,
        nesterov=False,
        maximize=False,
    )


def tracking(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)
    velocities[0] = velocities[0].requires_grad_()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (by_pytorchs_sgd, r"numbers are right, but PyTorch's own torch\.optim"),
        (by_pytorchs_function, r"numbers are right, but PyTorch's own torch\.optim"),
        (tracking, "now tracks gradients"),
        (three_times_as_far, "in this order"),
        (only_the_first, "2 of 3 weights have not moved"),
        (names_only, "no weight has moved"),
        (weight_first, "velocities have not changed"),
        (emptied, "changes its own argument gradients"),
        (lambda *arguments: None, "no weight has moved"),
    ],
)
def test_wrong_step(function, message, capsys):
    fails(checks.momentum_step, function, message, capsys)


# ---- the learning rate


def rate_in_float32(step, num_steps, warmup_steps, lr):
    steps = torch.arange(num_steps)
    rates = 0.5 * lr * (1 + torch.cos(math.pi * (steps - warmup_steps) / (num_steps - warmup_steps)))
    rates[:warmup_steps] = lr * (steps[:warmup_steps] + 1) / max(1, warmup_steps)
    return rates[step]


def rate_by_numpy(step, num_steps, warmup_steps, lr):
    rising = np.linspace(0, lr, warmup_steps + 1)[1:]
    angles = np.linspace(0, np.pi, num_steps - warmup_steps, endpoint=False)
    return np.concatenate([rising, lr * np.cos(angles / 2) ** 2])[step]


def rate_by_pytorch(step, num_steps, warmup_steps, lr):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    factor = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: learning_rate(s, num_steps, warmup_steps, 1)
    )
    for _ in range(step):
        optimizer.step()
        factor.step()
    return factor.get_last_lr()[0]


@pytest.mark.parametrize(
    "function",
    [
        rate_in_float32,
        rate_by_numpy,
        rate_by_pytorch,
        lambda *case: np.array([learning_rate(*case)]),
        lambda *case: Decimal(learning_rate(*case)),
    ],
)
def test_right_rate(function, capsys):
    passes(checks.learning_rate, function, capsys)


def rate_by_the_book(step, num_steps, warmup_steps, lr, find=train.lr_factor):
    return lr * find(train.Recipe(schedule="cosine", warmup_steps=warmup_steps), step, num_steps)


def rate_divides_first(step, num_steps, warmup_steps, lr):
    rising = (step + 1) / warmup_steps
    return lr * rising if rising <= 1 else learning_rate(step, num_steps, warmup_steps, lr)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (rate_divides_first, "raises ZeroDivisionError.*without a warm-up it is 0"),
        (rate_by_the_book, "book's own resnetbook.train.lr_factor"),
        (lambda *a: 3 * learning_rate(*a), "on paper"),
        (lambda *a: [learning_rate(*a)], "return one number"),
    ],
)
def test_wrong_rate(function, message, capsys):
    fails(checks.learning_rate, function, message, capsys)


# ---- shifted images


def shift_by_slices(images, rows, columns):
    height, width = images.shape[-2:]
    shifted = torch.zeros_like(images)
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        to_y, to_x = slice(max(row, 0), height + min(row, 0)), slice(max(column, 0), width + min(column, 0))
        from_y, from_x = (
            slice(max(-row, 0), height - max(row, 0)),
            slice(max(-column, 0), width - max(column, 0)),
        )
        shifted[i, :, to_y, to_x] = images[i, :, from_y, from_x]
    return shifted


def shift_by_index(images, rows, columns):
    n, _, height, width = images.shape
    y = torch.arange(height) - rows[:, None]  # (N, H)
    x = torch.arange(width) - columns[:, None]  # (N, W)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    picked = images[torch.arange(n)[:, None, None], :, y[:, :, None], x[:, None, :]].movedim(3, 1)
    return picked * inside[:, None]


def shift_by_rolling(images, rows, columns):
    shifted = []
    for image, row, column in zip(images, rows, columns, strict=True):
        row, column = int(row), int(column)
        image = torch.roll(image, (row, column), dims=(1, 2))
        image[:, : max(row, 0)] = 0
        image[:, image.shape[1] + min(row, 0) :] = 0
        image[:, :, : max(column, 0)] = 0
        image[:, :, image.shape[2] + min(column, 0) :] = 0
        shifted.append(image)
    return torch.stack(shifted)


def shift_by_pixels(images, rows, columns):
    n, channels, height, width = images.shape
    shifted = np.zeros(images.shape, dtype=np.uint8)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                old_y, old_x = y - int(rows[i]), x - int(columns[i])
                if 0 <= old_y < height and 0 <= old_x < width:
                    shifted[i, :, y, x] = images[i, :, old_y, old_x]
    return torch.from_numpy(shifted)


def shift_by_torchvision(images, rows, columns):
    shifted = [
        transforms.affine(image, angle=0, translate=[int(column), int(row)], scale=1, shear=[0, 0])
        for image, row, column in zip(images, rows, columns, strict=True)
    ]
    return torch.stack(shifted)


@pytest.mark.parametrize(
    "function", [shift_by_slices, shift_by_index, shift_by_rolling, shift_by_pixels, shift_by_torchvision]
)
def test_right_shift(function, capsys):
    passes(checks.shift_images, function, capsys)


def shift_from_zero(images, rows, columns):
    """Right for positive offsets only: [:-0] is empty."""
    shifted = torch.zeros_like(images)
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        shifted[i, :, row:, column:] = images[i, :, :-row, :-column]
    return shifted


def shift_only_forward(images, rows, columns):
    """Right for offsets that are not negative."""
    height, width = images.shape[2:]
    shifted = torch.zeros_like(images)
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        shifted[i, :, row:, column:] = images[i, :, : height - row, : width - column]
    return shifted


def shift_to_other_shape(images, rows, columns):
    return F.pad(images, (1, 1, 1, 1))


def shift_changes_rows(images, rows, columns):
    shifted = shift_images(images, rows, columns)
    rows += 4
    return shifted


def shift_unless_still_as_a_view(images, rows, columns):
    return shift_images(images, rows, columns) if rows.any() or columns.any() else images[:]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (shift_unless_still_as_a_view, "lie in the memory of images"),
        (shift_changes_rows, "changes its own argument rows"),
        (shift_from_zero, r"raises RuntimeError.*\[:-0\] is \[:0\]"),
        (shift_only_forward, "raises RuntimeError.*offsets are negative"),
        (shift_to_other_shape, "the shape must stay"),
        (lambda x, r, c: list(shift_images(x, r, c)), "return a tensor"),
        (lambda x, r, c: shift_images(x, r, c) // 2, "numbers wrong.*on paper"),
    ],
)
def test_wrong_shift(function, message, capsys):
    fails(checks.shift_images, function, message, capsys)


def test_the_trusted_shift_is_that_of_single_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (49, 2, 3, 3), dtype=torch.uint8, generator=generator)
    offsets = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    right = shift_by_pixels(images, *offsets.T)
    assert torch.equal(checks.shift_images.trusted(images, *offsets.T), right)


# ---- smoothed labels


def smoothed_by_target(logits, labels, smoothing):
    num_images, num_classes = logits.shape
    target = torch.full_like(logits, smoothing / num_classes)
    target[torch.arange(num_images), labels] += 1 - smoothing
    log_probabilities = logits - logits.logsumexp(1, keepdim=True)
    return -(target * log_probabilities).sum(dim=1).mean()


def smoothed_by_nll(logits, labels, smoothing):
    logs = F.log_softmax(logits.double(), dim=-1)
    return (1 - smoothing) * F.nll_loss(logs, labels) - smoothing * logs.mean()


def smoothed_in_a_loop(logits, labels, smoothing):
    total = 0
    for row, label in zip(logits, labels, strict=True):
        shifted = row - row.max()
        logs = shifted - shifted.exp().sum().log()
        total = total - (1 - smoothing) * logs[label] - smoothing * sum(logs) / len(logs)
    return total / len(labels)


@pytest.mark.parametrize(
    "function",
    [
        smoothed_by_target,
        smoothed_by_nll,
        smoothed_in_a_loop,
        lambda x, y, s: smoothed_cross_entropy(x, y, s).reshape(1),
    ],
)
def test_right_smoothing(function, capsys):
    passes(checks.smoothed_cross_entropy, function, capsys)


def smoothed_by_softmax(logits, labels, smoothing, smallest=1e-9):
    logs = (logits.softmax(1) + smallest).log()
    return (1 - smoothing) * F.nll_loss(logs, labels) - smoothing * logs.mean()


def smoothed_not_without(logits, labels, smoothing):
    return smoothed_cross_entropy(logits, labels, smoothing or 0.2)


def smoothed_changes_labels(logits, labels, smoothing):
    loss = smoothed_cross_entropy(logits, labels, smoothing)
    labels += 1
    return loss


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (smoothed_by_softmax, "for smaller logits you are right"),
        (lambda x, y, s: smoothed_by_softmax(x, y, s, 0.0), "underflows to 0.*log_softmax"),
        (smoothed_not_without, "without smoothing it is the plain cross-entropy"),
        (smoothed_changes_labels, "changes its own argument labels"),
        (lambda x, y, s: smoothed_cross_entropy(x, y, s).detach().numpy(), "gives ndarray: return a tensor"),
        (lambda x, y, s: x.log_softmax(1), "the shape"),
        (lambda x, y, s: F.cross_entropy(x, y, label_smoothing=s), "loss is right, but .*entropy"),
        (lambda x, y, s: by_another_name(x, y, label_smoothing=s), "loss is right, but .*entropy"),
        (lambda x, y, s: nn.CrossEntropyLoss(label_smoothing=s)(x, y), "loss is right, but .*entropy"),
        (
            lambda x, y, s: torch._C._nn.cross_entropy_loss(x, y, None, 1, -100, s),
            "loss is right, but .*entropy",
        ),
        (lambda x, y, s: 3 * smoothed_cross_entropy(x, y, s), "every class gets smoothing / K"),
        (lambda x, y, s: smoothed_cross_entropy(x, y, s) * math.nan, "nan"),
    ],
)
def test_wrong_smoothing(function, message, capsys):
    fails(checks.smoothed_cross_entropy, function, message, capsys)


# ---- an average of the weights


class EmaOfLists(Ema):
    """Parameters and buffers one after the other."""

    def update(self, model):
        with torch.no_grad():
            for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
                average.mul_(self.decay).add_(new, alpha=1 - self.decay)
            for average, new in zip(self.model.buffers(), model.buffers(), strict=True):
                if average.is_floating_point():
                    average.copy_(self.decay * average + (1 - self.decay) * new)
                else:
                    average.copy_(new)


class EmaOfNumbers:
    """The numbers are kept by the side, in double precision, and loaded at the end; no_grad is not needed."""

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.numbers = {name: value.clone().double() for name, value in model.state_dict().items()}

    def update(self, model):
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.numbers[name] = self.decay * self.numbers[name] + (1 - self.decay) * value.double()
            else:
                self.numbers[name] = value
        self.model.load_state_dict(self.numbers)


class EmaModule(nn.Module):
    """A module itself, which writes to .data."""

    def __init__(self, model, decay):
        super().__init__()
        self.model = copy.deepcopy(model)
        self.decay = decay

    def update(self, model):
        new = model.state_dict()
        for name, value in [*self.model.named_parameters(), *self.model.named_buffers()]:
            average = self.decay * value.detach() + (1 - self.decay) * new[name]
            value.data = average if value.is_floating_point() else new[name].clone()


@pytest.mark.parametrize("cls", [EmaOfLists, EmaOfNumbers, EmaModule])
def test_right_average(cls, capsys):
    passes(checks.ema, cls, capsys)


class FromScratch(Ema):
    def __init__(self, model, decay):
        super().__init__(model, decay)
        for module in self.model:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


class WithoutNoGrad(Ema):
    def update(self, model):
        for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
            average.mul_(self.decay).add_((1 - self.decay) * new)


class WithGraph(Ema):
    """The numbers by the side still hold the computation."""

    def __init__(self, model, decay):
        super().__init__(model, decay)
        self.numbers = dict(copy.deepcopy(model).named_parameters())

    def update(self, model):
        super().update(model)
        for name, new in model.named_parameters():
            self.numbers[name] = self.decay * self.numbers[name] + (1 - self.decay) * new


class GraphInBuffers(Ema):
    def update(self, model):
        super().update(model)
        self.model[1].running_mean = self.model[1].running_mean + 0 * model[1].weight


class WholeNumbersMultiplied(Ema):
    @torch.no_grad()
    def update(self, model):
        for name, average in self.model.state_dict().items():
            average.mul_(self.decay).add_(model.state_dict()[name], alpha=1 - self.decay)


class Assigned(Ema):
    def update(self, model):
        self.model[0].weight = self.decay * self.model[0].weight + (1 - self.decay) * model[0].weight


class SharedCount(Ema):
    def update(self, model):
        super().update(model)
        self.model[1].num_batches_tracked = model[1].num_batches_tracked


class ByPyTorch:
    """PyTorch's own average, told to decay; its first update only copies, which is done beforehand."""

    def __init__(self, model, decay):
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.averaged.update_parameters(model)
        self.model = self.averaged.module

    def update(self, model):
        self.averaged.update_parameters(model)
        for average, new in zip(self.model.buffers(), model.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(new)


class SwitchesGradientsOff(Ema):
    def update(self, model):
        torch.set_grad_enabled(False)
        super().update(model)


class AThird(Ema):
    @torch.no_grad()
    def update(self, model):
        super().update(model)
        for parameter in self.model.parameters():
            parameter /= 3


class NoUpdate:
    def __init__(self, model, decay):
        self.model = copy.deepcopy(model)


def test_pytorchs_average_is_a_plain_mean_unless_told_otherwise():
    """As the page says below exercise 6.6."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    plain = AveragedModel(model)
    told = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    seen, mine = [], None
    for _ in range(4):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        seen.append(model.weight.detach().clone())
        plain.update_parameters(model)
        told.update_parameters(model)
        if mine is None:
            mine = Ema(model, 0.9)  # "Its first update only copies."
            assert torch.equal(told.module.weight, model.weight)
        else:
            mine.update(model)
    assert torch.allclose(plain.module.weight, torch.stack(seen).mean(0))
    assert torch.allclose(told.module.weight, mine.model.weight)
    # "of the parameters": buffers are copied as they are, unless use_buffers is said.
    net = nn.BatchNorm1d(3)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    assert not averaged.use_buffers and AveragedModel(net, use_buffers=True).use_buffers


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (FromScratch, "other numbers than the model"),
        (SwitchesGradientsOff, "leaves the recording of gradients switched"),
        (ByPyTorch, r"averages are right, but PyTorch's own torch\.optim"),
        (WholeNumbersMultiplied, "raises RuntimeError.*is_floating_point"),
        (WithoutNoGrad, r"raises RuntimeError.*torch.no_grad\(\)"),
        (WithGraph, "remembers how it was computed"),
        (GraphInBuffers, "remembers how it was computed"),
        (Assigned, "raises TypeError.*in place"),
        (SharedCount, "num_batches_tracked of self.model lies in the memory"),
        (AThird, "AveragedModel"),
        (NoUpdate, r"no method update\(model\)"),
        (lambda model, decay: 3, "keep the copy there"),
    ],
)
def test_wrong_average(cls, message, capsys):
    fails(checks.ema, cls, message, capsys)
