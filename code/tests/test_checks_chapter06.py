"""Chapter 6's checks: right solutions of several styles pass, and each plausible mistake is named."""

import copy
import math
import statistics
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions, passes
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy as by_another_name
from torch.optim.sgd import sgd
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import functional as transforms

from resnetbook import checks, compare, train
from resnetbook.checks import recipes

pytestmark = pytest.mark.usefixtures("one_thread")

NOTEBOOK = Path(__file__).parents[2] / "book" / "06_recipes.ipynb"
PAGE = page_solutions(NOTEBOOK, math=math, statistics=statistics)
compare_seeds = PAGE["compare_seeds"]
momentum_step = PAGE["momentum_step"]
learning_rate = PAGE["learning_rate"]
shift_images = PAGE["shift_images"]
smoothed_cross_entropy = PAGE["smoothed_cross_entropy"]
Ema = PAGE["Ema"]
SOLUTIONS = {
    checks.compare_seeds: compare_seeds,
    checks.momentum_step: momentum_step,
    checks.learning_rate: learning_rate,
    checks.shift_images: shift_images,
    checks.smoothed_cross_entropy: smoothed_cross_entropy,
    checks.ema: Ema,
}


@pytest.mark.parametrize("check", SOLUTIONS)
def test_the_pages_solution_passes(check, capsys):
    passes(check, SOLUTIONS[check], capsys)


@pytest.mark.parametrize("check", SOLUTIONS)
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    class Untouched:
        def __init__(self, *arguments):
            raise NotImplementedError

    def untouched(*arguments):
        raise NotImplementedError

    check(Untouched if check is checks.ema else untouched)
    assert "Not done yet" in capsys.readouterr().out


def test_an_untouched_update_does_not_stop_the_notebook(capsys):
    class HalfDone(Ema):
        @torch.no_grad()
        def update(self, model):
            raise NotImplementedError

    checks.ema(HalfDone)
    assert "Not done yet" in capsys.readouterr().out


@pytest.mark.parametrize("check", SOLUTIONS)
def test_an_error_of_the_readers_is_quoted(check):
    def broken(*arguments):
        return arguments[0].nonsense

    fails(check, broken, "raises AttributeError")


@pytest.mark.parametrize("check", [check for check in SOLUTIONS if check is not checks.momentum_step])
def test_a_forgotten_return_is_named(check):
    fails(check, lambda *arguments: None, "return")


@pytest.mark.parametrize("check", SOLUTIONS)
def test_a_check_leaves_the_random_numbers_alone(check):
    torch.manual_seed(3)
    check(SOLUTIONS[check])
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))


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


def seeds_sorted_at_last(before, after):
    numbers = compare_seeds(before, after)
    after.sort()
    return numbers


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


def unpaired(before, after, differences):
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (before, after)))


def error_of_sorted(before, after, differences):
    return compare_seeds(sorted(before), sorted(after))[1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda b, a: compare_seeds(a, b), "after minus before"),
        (seeds_with(mean=lambda b, a, d: abs(statistics.fmean(d))), "keep the sign"),
        (seeds_with(mean=lambda b, a, d: statistics.fmean(map(abs, d))), "absolute differences"),
        (
            seeds_with(mean=lambda b, a, d: statistics.median(a) - statistics.median(b)),
            "difference of medians",
        ),
        (seeds_with(mean=lambda b, a, d: statistics.median(d)), "median of the differences"),
        (seeds_with(mean=lambda b, a, d: sum(d)), "sum of the differences"),
        (seeds_with(mean=lambda b, a, d: max(a) - max(b)), "best seed"),
        (seeds_with(mean=lambda b, a, d: max(d)), "largest gain"),
        (seeds_with(mean=lambda b, a, d: d[0]), "first seed alone"),
        (seeds_with(mean=lambda b, a, d: d[-1]), "last seed alone"),
        (lambda b, a: [100 * x for x in compare_seeds(b, a)], "percent"),
        (seeds_with(error=lambda b, a, d: 100 * compare_seeds(b, a)[1]), "percent"),
        (
            seeds_with(mean=lambda b, a, d: statistics.fmean(y / x - 1 for x, y in zip(b, a, strict=True))),
            "do not divide by the old accuracy",
        ),
        (
            seeds_with(mean=lambda b, a, d: statistics.fmean(a) / statistics.fmean(b) - 1),
            "do not divide by the old accuracy",
        ),
        (seeds_with(mean=lambda b, a, d: sum(d) / (len(d) - 1)), "a mean is divided by n"),
        (seeds_with(mean=lambda b, a, d: statistics.fmean(a)), "second recipe alone"),
        (seeds_with(mean=lambda b, a, d: round(statistics.fmean(d), 3)), "rounded"),
        (seeds_with(mean=lambda b, a, d: 0.0), "subtract seed by seed"),
        (lambda b, a: compare_seeds(b, a)[::-1], "the mean first"),
        (seeds_with(error=lambda b, a, d: statistics.stdev(d)), "spread of single differences.*√n.$"),
        (seeds_with(error=lambda b, a, d: statistics.pstdev(d)), "spread of single.*divisor n − 1"),
        (
            seeds_with(error=lambda b, a, d: statistics.pstdev(d) / math.sqrt(len(d))),
            "sample standard deviation has the divisor n − 1",
        ),
        (seeds_with(error=lambda b, a, d: statistics.stdev(d) / math.sqrt(len(d) - 1)), "√n is asked for"),
        (seeds_with(error=lambda b, a, d: statistics.stdev(d) / len(d)), "by √n, not by n"),
        (seeds_with(error=lambda b, a, d: statistics.variance(d) / len(d)), "take the root"),
        (seeds_with(error=lambda b, a, d: statistics.variance(d)), "that is the variance"),
        (seeds_with(error=unpaired), "seeds are pairs"),
        (seeds_with(error=lambda b, a, d: statistics.stdev(a) / math.sqrt(len(a))), "seeds are pairs"),
        (seeds_with(error=error_of_sorted), "sorted"),
        (seeds_with(error=lambda b, a, d: compare_seeds([0] * len(d), list(map(abs, d)))[1]), "absolute"),
        (seeds_with(error=lambda b, a, d: 1.96 * compare_seeds(b, a)[1]), "95% interval"),
        (
            seeds_with(
                error=lambda b, a, d: compare.paired_difference(b, a).interval[1] - statistics.fmean(d),
            ),
            "95% interval",
        ),
        (seeds_with(mean=lambda b, a, d: round(statistics.fmean(d), 6)), "rounded"),
        (seeds_with(error=lambda b, a, d: round(compare_seeds(b, a)[1], 6)), "rounded"),
        (seeds_taken_out, r"numbers are right, but .* changes its own argument before"),
        (seeds_sorted_at_last, r"numbers are right, but .* changes its own argument after"),
        (seeds_by_the_book, r"book's own resnetbook.compare"),
        (seeds_with(error=lambda b, a, d: round(compare_seeds(b, a)[1], 3)), "rounded"),
        (seeds_with(error=lambda b, a, d: 1.0), "sample standard deviation of the differences"),
        (seeds_with(error=lambda b, a, d: math.nan), "sample standard deviation of the differences"),
        (seeds_with(error=lambda b, a, d: None), "standard error is None"),
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


def wrong_step(
    *,
    decay=lambda w, lr, d: d * w,
    gather=lambda v, g, lr, m: m * v + g,
    move=lambda w, v, g, lr, m: w - lr * v,
    after=lambda w, lr, d: w,
    some=None,
):
    def function(weights, gradients, velocities, lr, momentum, weight_decay):
        for w, g, v in list(zip(weights, gradients, velocities, strict=True))[:some]:
            g = g + decay(w, lr, weight_decay)
            v.copy_(gather(v, g, lr, momentum))
            w.copy_(after(move(w, v, g, lr, momentum), lr, weight_decay))

    return function


def no_decay(w, lr, d):
    return 0 * w


def adamw(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        w.mul_(1 - lr * weight_decay)
        v.mul_(momentum).add_(g)
        w.sub_(lr * v)


def names_only(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v = momentum * v + g + weight_decay * w
        w = w - lr * v


def velocity_names_only(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v = momentum * v + g + weight_decay * w
        w -= lr * v


def weight_names_only(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v.mul_(momentum).add_(g + weight_decay * w)
        w = w - lr * v


def new_in_the_list(weights, gradients, velocities, lr, momentum, weight_decay):
    for i, g in enumerate(gradients):
        velocities[i] = momentum * velocities[i] + g + weight_decay * weights[i]
        weights[i] = weights[i] - lr * velocities[i]


def returned(weights, gradients, velocities, lr, momentum, weight_decay):
    velocities = [
        momentum * v + g + weight_decay * w for w, g, v in zip(weights, gradients, velocities, strict=True)
    ]
    return [w - lr * v for w, v in zip(weights, velocities, strict=True)], velocities


def gradients_in_place(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        g += weight_decay * w
        v *= momentum
        v += g
        w -= lr * v


def old_velocity(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        new = momentum * v + g + weight_decay * w
        w -= lr * v
        v.copy_(new)


def weight_first(weights, gradients, velocities, lr, momentum, weight_decay):
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        w -= lr * (momentum * v + g + weight_decay * w)


def emptied(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)
    gradients.clear()


def fixed_momentum(weights, gradients, velocities, lr, momentum, weight_decay):
    momentum_step(weights, gradients, velocities, lr, 0.9, weight_decay)


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


def gradients_replaced(weights, gradients, velocities, lr, momentum, weight_decay):
    for i, w in enumerate(weights):
        gradients[i] = gradients[i] + weight_decay * w
        velocities[i].mul_(momentum).add_(gradients[i])
        w.sub_(lr * velocities[i])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (by_pytorchs_sgd, r"numbers are right, but PyTorch's own torch\.optim"),
        (by_pytorchs_function, r"numbers are right, but PyTorch's own torch\.optim"),
        (tracking, "now tracks gradients"),
        (gradients_replaced, "other tensors stand in the list of gradients"),
        (wrong_step(decay=no_decay), "weight decay is missing"),
        (wrong_step(decay=lambda w, lr, d: -d * w), "away from zero"),
        (wrong_step(decay=lambda w, lr, d: lr * d * w), "by lr twice"),
        (adamw, "as in AdamW"),
        (wrong_step(decay=no_decay, after=lambda w, lr, d: w - lr * d * w), "as in AdamW"),
        (wrong_step(decay=no_decay, after=lambda w, lr, d: w - d * w), "as in AdamW"),
        (
            wrong_step(gather=lambda v, g, lr, m: m * v + lr * g, move=lambda w, v, g, lr, m: w - v),
            "lr stands inside the velocity",
        ),
        (
            wrong_step(gather=lambda v, g, lr, m: m * v - lr * g, move=lambda w, v, g, lr, m: w + v),
            "lr and a minus stand inside",
        ),
        (wrong_step(gather=lambda v, g, lr, m: m * v + lr * g), "multiplied twice"),
        (
            wrong_step(gather=lambda v, g, lr, m: m * v - g, move=lambda w, v, g, lr, m: w + lr * v),
            "other sign",
        ),
        (wrong_step(gather=lambda v, g, lr, m: m * v + (1 - m) * g), "by 1 − momentum"),
        (wrong_step(gather=lambda v, g, lr, m: (1 - m) * v + m * g), "share of the old velocity"),
        (wrong_step(gather=lambda v, g, lr, m: m * (v + g)), "by momentum as well"),
        (wrong_step(gather=lambda v, g, lr, m: v + g), "does not fade"),
        (wrong_step(gather=lambda v, g, lr, m: g), "there is no momentum"),
        (wrong_step(move=lambda w, v, g, lr, m: w + lr * v), "you climb"),
        (wrong_step(move=lambda w, v, g, lr, m: w - v), "lr is missing"),
        (wrong_step(move=lambda w, v, g, lr, m: w - lr * (g + m * v)), "Nesterov"),
        (wrong_step(move=lambda w, v, g, lr, m: w - lr * g), "velocity is not used"),
        (wrong_step(move=lambda w, v, g, lr, m: w - lr * m * v), "once too often"),
        (wrong_step(move=lambda w, v, g, lr, m: w - 3 * lr * v), "in this order"),
        (wrong_step(some=1), "2 of 3 weights have not moved"),
        (names_only, "no weight has moved"),
        (weight_names_only, "no weight has moved"),
        (velocity_names_only, "velocities have not changed"),
        (weight_first, "velocities have not changed"),
        (new_in_the_list, "new tensors into the list of weights"),
        (returned, "you return something"),
        (gradients_in_place, "gradients have been changed"),
        (old_velocity, "follow the old velocity"),
        (emptied, "list of gradients now holds"),
        (fixed_momentum, "always 0.9"),
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


def test_the_rate_is_the_trainers():
    for warmup in (0, 7):
        recipe = train.Recipe(schedule="cosine", warmup_steps=warmup)
        for step in range(40):
            given = learning_rate(step, 40, warmup, 0.3)
            assert given == pytest.approx(0.3 * train.lr_factor(recipe, step, 40), rel=1e-12)


def rate_with(
    warm=lambda step, warmup: (step + 1) / warmup,
    progress=lambda step, n, warmup: (step - warmup) / (n - warmup),
    wave=lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    times_lr=True,
):
    def function(step, num_steps, warmup_steps, lr):
        share = (
            warm(step, warmup_steps) if step < warmup_steps else wave(progress(step, num_steps, warmup_steps))
        )
        return share * lr if times_lr else share

    return function


def rate_by_the_book(step, num_steps, warmup_steps, lr, find=train.lr_factor):
    return lr * find(train.Recipe(schedule="cosine", warmup_steps=warmup_steps), step, num_steps)


def rate_too_late(step, num_steps, warmup_steps, lr):
    if warmup_steps and step <= warmup_steps:
        return lr * (step + 1) / warmup_steps
    return learning_rate(step, num_steps, warmup_steps, lr)


def rate_divides_first(step, num_steps, warmup_steps, lr):
    rising = (step + 1) / warmup_steps
    return lr * rising if rising <= 1 else learning_rate(step, num_steps, warmup_steps, lr)


def rate_of_both(step, num_steps, warmup_steps, lr):
    rising = min(1, (step + 1) / warmup_steps) if warmup_steps else 1
    return lr * rising * 0.5 * (1 + math.cos(math.pi * step / num_steps))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (rate_with(warm=lambda step, warmup: step / warmup), "first step has the rate 0"),
        (rate_with(warm=lambda step, warmup: step / max(1, warmup - 1)), "first step has the rate 0"),
        (rate_with(warm=lambda step, warmup: (step + 1) / (warmup + 1)), "last step of the warm-up"),
        (rate_with(warm=lambda step, warmup: (step + 1) // warmup), "// throws away"),
        (rate_with(warm=lambda step, warmup: 1), "warm-up is missing: the rate rises"),
        (lambda step, n, warmup, lr: learning_rate(step, n, 0, lr), "the wave begins after"),
        (rate_too_late, "compare with <"),
        (rate_divides_first, "raises ZeroDivisionError.*without a warm-up it is 0"),
        (rate_with(progress=lambda step, n, warmup: step / n), "counts from step 0"),
        (rate_with(progress=lambda step, n, warmup: step / (n - warmup)), "counts from step 0"),
        (rate_with(progress=lambda step, n, warmup: (step - warmup) / n), "does not reach 0"),
        (rate_with(progress=lambda step, n, warmup: (step - warmup) / (n - warmup - 1)), "changes nothing"),
        (rate_with(progress=lambda step, n, warmup: (step - warmup + 1) / (n - warmup)), "one step early"),
        (rate_of_both, "are multiplied"),
        (rate_with(wave=lambda p: 1 + math.cos(math.pi * p)), "factor 0.5 is missing"),
        (rate_with(wave=lambda p: 0.5 * (1 + math.cos(2 * math.pi * p))), "whole wave"),
        (rate_with(wave=lambda p: math.cos(math.pi * p)), "down to −1"),
        (rate_with(wave=lambda p: math.cos(math.pi / 2 * p)), "quarter of a wave"),
        (rate_with(wave=lambda p: 0.5 * (1 - math.cos(math.pi * p))), "The wave rises"),
        (rate_with(wave=lambda p: 0.5 * (1 + math.cos(p))), "π is missing"),
        (rate_with(wave=lambda p: 1 - p), "along a line"),
        (rate_with(wave=lambda p: math.sin(math.pi * p)), "That is a sine"),
        (rate_with(wave=lambda p: 0.5 * (1 + math.sin(math.pi * p))), "That is a sine"),
        (rate_with(wave=lambda p: 1.0), "After the warm-up the rate stays"),
        (rate_with(progress=lambda step, n, warmup: (step - warmup) // (n - warmup)), "does // throw away"),
        (rate_with(wave=lambda p: 0.5 * (1 + math.cos(3.14 * p))), "rounded to 3.14: "),
        (rate_with(wave=lambda p: 0.5 * (1 + math.cos(3.1416 * p))), "rounded to 3.1416: "),
        (rate_by_the_book, "book's own train.lr_factor"),
        (rate_with(times_lr=False), "multiply it by lr"),
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


def shift_in_place(images, rows, columns):
    images[:] = shift_images(images, rows, columns)
    return images


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


def shift_stays_if_zero(images, rows, columns):
    shifted = shift_images(images, rows, columns)
    still = (rows == 0) | (columns == 0)
    return torch.where(still[:, None, None, None], images, shifted)


def shift_black_if_zero(images, rows, columns):
    shifted = shift_images(images, rows, columns)
    shifted[(rows == 0) | (columns == 0)] = 0
    return shifted


def shift_repeats(images, rows, columns):
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (9, 9, 9, 9), mode="replicate").to(torch.uint8)
    windows = [
        image[:, 9 - r : 9 - r + height, 9 - c : 9 - c + width]
        for image, r, c in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(windows)


def shift_onto_the_old(images, rows, columns):
    inside = shift_images(torch.ones_like(images), rows, columns) > 0
    return torch.where(inside, shift_images(images, rows, columns), images)


def shift_to_other_shape(images, rows, columns):
    return F.pad(images, (1, 1, 1, 1))


def shift_by_roll(images, rows, columns):
    return torch.stack(
        [torch.roll(x, (int(r), int(c)), (1, 2)) for x, r, c in zip(images, rows, columns, strict=True)]
    )


def shift_changes_rows(images, rows, columns):
    shifted = shift_images(images, rows, columns)
    rows += 4
    return shifted


def shift_unless_still(images, rows, columns):
    return shift_images(images, rows, columns) if rows.any() or columns.any() else images


def shift_unless_still_as_a_view(images, rows, columns):
    return shift_images(images, rows, columns) if rows.any() or columns.any() else images[:]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (shift_unless_still, "lie in the memory of images"),
        (shift_unless_still_as_a_view, "lie in the memory of images"),
        (shift_by_roll, "comes back on the other"),
        (lambda x, r, c: torch.roll(x, (int(r[0]), int(c[0])), (2, 3)), "all images move alike, and"),
        (lambda x, r, c: shift_images(x, r[:1].expand_as(r), c[:1].expand_as(c)), "all images move alike:"),
        (lambda x, r, c: shift_images(x, r[-1:].expand_as(r), c[-1:].expand_as(c)), "all images move alike:"),
        (lambda x, r, c: shift_images(x, -r, -c), "up where they should move down, and left"),
        (lambda x, r, c: shift_images(x, -r, c), "up where they should move down: "),
        (lambda x, r, c: shift_images(x, r, -c), "left where they should move right: "),
        (lambda x, r, c: shift_images(x, c, r), "rows and columns are swapped: "),
        (lambda x, r, c: shift_images(x, -c, -r), "swapped, and the direction"),
        (lambda x, r, c: shift_images(x, r, 0 * c), "but not to the right"),
        (lambda x, r, c: shift_images(x, 0 * r, c), "but not down"),
        (shift_repeats, "repeats the edge"),
        (lambda x, r, c: 255 - shift_images(255 - x, r, c), "white"),
        (lambda x, r, c: x.clone(), "nothing has moved"),
        (shift_in_place, "images has been changed"),
        (shift_changes_rows, "rows has been changed"),
        (shift_from_zero, r"raises RuntimeError.*\[:-0\] is \[:0\]"),
        (shift_black_if_zero, "comes out black"),
        (shift_stays_if_zero, "does not move at all"),
        (shift_only_forward, "raises RuntimeError.*offsets are negative"),
        (lambda x, r, c: shift_images(x, r.abs(), c.abs()), "moves like a positive one"),
        (lambda x, r, c: shift_images(x, r.abs(), c), "moves like a positive one"),
        (lambda x, r, c: shift_images(x, r, c.abs()), "moves like a positive one"),
        (lambda x, r, c: shift_images(x, r.clamp(min=0), c.clamp(min=0)), "negative offsets move nothing"),
        (lambda x, r, c: shift_images(x, r.clamp(min=0), c), "negative offsets move nothing"),
        (shift_onto_the_old, "old picture is left"),
        (lambda x, r, c: shift_images(x, r, c).float(), "keep torch.uint8"),
        (lambda x, r, c: shift_images(x, r, c).to(torch.int64), "keep torch.uint8"),
        (shift_to_other_shape, "it must stay"),
        (lambda x, r, c: list(shift_images(x, r, c)), "you return a list"),
        (lambda x, r, c: shift_images(x, r, c).numpy(), "you return a ndarray"),
        (lambda x, r, c: shift_images(x, r, c) // 2, "pixels differ"),
    ],
)
def test_wrong_shift(function, message, capsys):
    fails(checks.shift_images, function, message, capsys)


def test_the_trusted_shift_is_that_of_single_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (49, 2, 3, 3), dtype=torch.uint8, generator=generator)
    offsets = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    right = shift_by_pixels(images, *offsets.T)
    assert torch.equal(recipes._shift_all(images, *offsets.T), right)


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


def smoothed_with(right, others, logs=lambda x: x.log_softmax(1), reduce=torch.mean):
    """The target has right(s, K) at the label, and others(s, K) elsewhere."""

    def function(logits, labels, smoothing):
        num_classes = logits.shape[1]
        hot = F.one_hot(labels, num_classes)
        target = hot * right(smoothing, num_classes) + (1 - hot) * others(smoothing, num_classes)
        return reduce(-(target * logs(logits)).sum(1))

    return function


def is_right(s, k):
    return 1 - s + s / k


def is_other(s, k):
    return s / k


def smoothed_logits_in_place(logits, labels, smoothing):
    logits -= logits.max(1, keepdim=True).values.detach()
    return smoothed_cross_entropy(logits, labels, smoothing)


def smoothed_kl(logits, labels, smoothing):
    target = F.one_hot(labels, logits.shape[1]) * (1 - smoothing) + smoothing / logits.shape[1]
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")


def smoothed_half_detached(logits, labels, smoothing):
    logs = logits.log_softmax(1)
    hard = F.nll_loss(logs, labels)
    return (1 - smoothing) * hard - smoothing * logs.detach().mean()


def smoothed_not_without(logits, labels, smoothing):
    return smoothed_cross_entropy(logits, labels, smoothing or 0.2)


def smoothed_changes_labels(logits, labels, smoothing):
    loss = smoothed_cross_entropy(logits, labels, smoothing)
    labels += 1
    return loss


def smoothed_and_back(logits, labels, smoothing):
    loss = smoothed_cross_entropy(logits, labels, smoothing)
    loss.backward(retain_graph=True)
    return loss


def naive_logs(x):
    return x.softmax(1).log()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (smoothed_with(lambda s, k: 1 - s, lambda s, k: s / (k - 1)), "another convention"),
        (smoothed_with(lambda s, k: 1 - s, is_other), "does not add up to 1"),
        (smoothed_with(lambda s, k: 1 + s / k, is_other), "keeps the whole 1"),
        (smoothed_with(lambda s, k: 1, is_other), "keeps the whole 1"),
        (smoothed_with(lambda s, k: 1, lambda s, k: 0), "smoothing is not used"),
        (smoothed_with(lambda s, k: 1 / k, lambda s, k: 1 / k), "labels are not used"),
        (smoothed_with(lambda s, k: s + (1 - s) / k, lambda s, k: (1 - s) / k), "are swapped"),
        (smoothed_with(lambda s, k: 1, lambda s, k: s), "should get smoothing / K"),
        (smoothed_with(lambda s, k: 1 - s, lambda s, k: 0), "smoothed part is missing"),
        (smoothed_with(is_right, is_other, reduce=torch.sum), "sum over the images"),
        (lambda x, y, s: smoothed_cross_entropy(x, y, s) / x.shape[1], "number of classes as well"),
        (lambda x, y, s: -smoothed_cross_entropy(x, y, s), "sign is turned round"),
        (smoothed_kl, "KL divergence"),
        (smoothed_with(is_right, is_other, logs=lambda x: x.softmax(1)), "logarithm is missing"),
        (smoothed_with(is_right, is_other, logs=lambda x: x), "logits are taken as they are"),
        (smoothed_with(is_right, is_other, logs=lambda x: x.softmax(1).log_softmax(1)), "applied twice"),
        (smoothed_with(is_right, is_other, logs=lambda x: x.log_softmax(0)), "over the images"),
        (smoothed_with(is_right, is_other, logs=naive_logs), "underflows to 0.*log_softmax"),
        (smoothed_with(is_right, is_other, logs=lambda x: x - x.exp().sum(1, True).log()), "exp overflows"),
        (
            smoothed_with(is_right, is_other, logs=lambda x: (x.softmax(1) + 1e-12).log()),
            "for smaller logits you are right",
        ),
        (lambda x, y, s: smoothed_cross_entropy(x, y, 0.1), "always 0.1"),
        (smoothed_not_without, "without smoothing it is the plain cross-entropy"),
        (lambda x, y, s: smoothed_cross_entropy(x.detach(), y, s), "no gradient leads back"),
        (smoothed_half_detached, "its gradient is not"),
        (lambda x, y, s: smoothed_cross_entropy(x, y, s).item(), "you return a float"),
        (lambda x, y, s: smoothed_cross_entropy(x, y, s).detach().numpy(), "you return a ndarray"),
        (smoothed_with(is_right, is_other, reduce=lambda x: x), "one loss for each image"),
        (lambda x, y, s: x.log_softmax(1), "the shape"),
        (smoothed_logits_in_place, "logits have been changed in place"),
        (smoothed_changes_labels, "labels have been changed in place"),
        (smoothed_and_back, r"call backward\(\) yourself"),
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


def ema_with(mix, which=lambda name: True, whole=lambda average, new: average.copy_(new)):
    """``mix(average, new, ema, name)`` for the floating-point numbers that ``which`` names."""

    class Mistaken(Ema):
        def __init__(self, model, decay):
            super().__init__(model, decay)
            self.first = copy.deepcopy(self.model.state_dict())
            self.last = copy.deepcopy(self.model.state_dict())
            self.count = 0

        @torch.no_grad()
        def update(self, model):
            self.count += 1
            for name, average in self.model.state_dict().items():
                new = model.state_dict()[name]
                if not average.is_floating_point():
                    whole(average, new)
                elif which(name):
                    average.copy_(mix(average, new, self, name))
            self.last = copy.deepcopy(model.state_dict())

    return Mistaken


def mixed(average, new, ema, name):
    return ema.decay * average + (1 - ema.decay) * new


def is_statistic(name):
    return "running" in name


class SameObject(Ema):
    def __init__(self, model, decay):
        self.model, self.decay = model, decay


class SameTensors(Ema):
    def __init__(self, model, decay):
        self.model, self.decay = copy.deepcopy(model), decay
        self.model.load_state_dict(model.state_dict(), assign=True)


class FromZeros(Ema):
    def __init__(self, model, decay):
        super().__init__(model, decay)
        for value in self.model.state_dict().values():
            value.zero_()


class FromScratch(Ema):
    def __init__(self, model, decay):
        super().__init__(model, decay)
        for module in self.model:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


class FreezesTheTrained(Ema):
    def __init__(self, model, decay):
        super().__init__(model, decay)
        model.requires_grad_(False)


class EvaluatesTheTrained(Ema):
    def update(self, model):
        super().update(model.eval())


class MovesTheTrained(Ema):
    @torch.no_grad()
    def update(self, model):
        for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
            new.lerp_(average, self.decay)


class NamesOnly(Ema):
    def update(self, model):
        new = model.state_dict()
        for name, average in self.model.state_dict().items():
            average = self.decay * average + (1 - self.decay) * new[name]


class OnlyParameters(Ema):
    @torch.no_grad()
    def update(self, model):
        for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(new, 1 - self.decay)


class OnlyParametersSwapped(Ema):
    @torch.no_grad()
    def update(self, model):
        for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(new, self.decay)


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


class WholeNumbersLerped(Ema):
    @torch.no_grad()
    def update(self, model):
        for name, average in self.model.state_dict().items():
            average.lerp_(model.state_dict()[name], 1 - self.decay)


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


class Wrapped(Ema):
    def __init__(self, model, decay):
        self.model = nn.Sequential(copy.deepcopy(model))


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


class KeepsItsSource(Ema):
    def __init__(self, model, decay):
        super().__init__(model, decay)
        self.source = model

    def update(self, model):
        super().update(self.source)


class SwitchesGradientsOff(Ema):
    def update(self, model):
        torch.set_grad_enabled(False)
        super().update(model)


class LeavesEvaluating(Ema):
    def __init__(self, model, decay):
        super().__init__(model.eval(), decay)


class StateOnly(Ema):
    def __init__(self, model, decay):
        self.model = copy.deepcopy(model.state_dict())


class FixedDecay(Ema):
    def __init__(self, model, decay):
        super().__init__(model, 0.9)


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
        (SameObject, "is the trained model itself"),
        (SameTensors, "lies in the memory of the trained model"),
        (FromZeros, "starts from zeros"),
        (FromScratch, "other numbers than the model"),
        (FreezesTheTrained, "other requires_grad"),
        (LeavesEvaluating, "left in another mode"),
        (SwitchesGradientsOff, "leaves gradients switched off"),
        (KeepsItsSource, "may be another object"),
        (ByPyTorch, r"averages are right, but PyTorch's own torch\.optim"),
        (EvaluatesTheTrained, "trained model has been changed"),
        (MovesTheTrained, "trained model has been changed"),
        (NamesOnly, "has not moved"),
        (OnlyParameters, "parameters\\(\\) leaves them out"),
        (OnlyParametersSwapped, "are swapped"),
        (ema_with(mixed, which=lambda name: not is_statistic(name)), "statistics .* have not moved"),
        (ema_with(lambda a, n, e, k: n if is_statistic(k) else mixed(a, n, e, k)), "statistics .* copied"),
        (ema_with(mixed, which=is_statistic), "has not moved"),
        (ema_with(lambda a, n, e, k: (1 - e.decay) * a + e.decay * n), "are swapped"),
        (ema_with(lambda a, n, e, k: n), "trained model's last state"),
        (ema_with(lambda a, n, e, k: n if e.count == 1 else mixed(a, n, e, k)), "first update as well"),
        (ema_with(lambda a, n, e, k: a + (1 - e.decay) * n), "does not shrink"),
        (ema_with(lambda a, n, e, k: e.decay * a + n), "multiply the new numbers"),
        (ema_with(lambda a, n, e, k: e.decay * a - (1 - e.decay) * n), "subtracted"),
        (ema_with(lambda a, n, e, k: mixed(e.first[k], n, e, k)), "first copy is averaged"),
        (ema_with(lambda a, n, e, k: mixed(a if e.count == 1 else e.last[k], n, e, k)), "last two states"),
        (ema_with(lambda a, n, e, k: mixed(mixed(a, n, e, k), n, e, k)), "twice"),
        (ema_with(lambda a, n, e, k: a + (n - a) / (e.count + 1)), "plain mean"),
        (
            ema_with(lambda a, n, e, k: a + (1 - min(e.decay, (1 + e.count) / (10 + e.count))) * (n - a)),
            "grows from update to update",
        ),
        (ema_with(lambda a, n, e, k: (a + n) / 3), "AveragedModel"),
        (ema_with(lambda a, n, e, k: mixed(a, n, e, k) * math.nan), "AveragedModel"),
        (
            ema_with(mixed, whole=lambda a, n: a.copy_(0.9 * a + 0.1 * n)),
            "whole numbers are copied, and not averaged",
        ),
        (ema_with(mixed, whole=lambda a, n: None), "whole numbers are copied, and not averaged"),
        (WholeNumbersLerped, "raises NotImplementedError.*is_floating_point"),
        (WholeNumbersMultiplied, "raises RuntimeError.*is_floating_point"),
        (WithoutNoGrad, r"raises RuntimeError.*torch.no_grad\(\)"),
        (WithGraph, "remembers how it was computed"),
        (GraphInBuffers, "remembers how it was computed"),
        (Assigned, "raises TypeError.*in place"),
        (SharedCount, "num_batches_tracked lies in the memory"),
        (Wrapped, "other names"),
        (StateOnly, "not a network"),
        (FixedDecay, "always 0.9"),
        (NoUpdate, r"no method update\(model\)"),
        (lambda model, decay: 3, "keep the copy there"),
    ],
)
def test_wrong_average(cls, message, capsys):
    fails(checks.ema, cls, message, capsys)
