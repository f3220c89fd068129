"""Seeds compared, momentum, a schedule, shifted images, smoothed labels and averaged weights of chapter 6."""

import copy
import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnetbook import compare, train
from resnetbook.checks.common import (
    HANDS_OFF,
    CheckFailed,
    answer_of,
    as_real,
    call_reader,
    compare_reals,
    exercise,
)
from resnetbook.checks.tracing import functions_run, inside


def _close(given: Tensor, right: Tensor) -> bool:
    """Equal but for the rounding of float32 over a few steps; nan never is."""
    return given.shape == right.shape and torch.allclose(
        given.detach().double(), right.detach().double(), rtol=1e-5, atol=1e-6
    )


def _all_close(given: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(map(_close, given, right))


# ---- two recipes with the same seeds


def _same(first: float, second: float) -> bool:
    # Wide enough for float32, where a difference of two accuracies is off by some 1e-7; a number rounded
    # to six digits is off by more.
    return math.isclose(first, second, rel_tol=1e-5, abs_tol=2e-7)


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def _reach(before: Sequence[float], after: Sequence[float]) -> float:
    """Standard errors from the mean to an end of the 95 percent interval, by Student's t."""
    found = compare.paired_difference(before, after)
    return (found.interval[1] - found.mean) / found.error if found.error else math.nan


@exercise
def compare_seeds(solution: Callable[[list[float], list[float]], tuple[float, float]]) -> str:
    """Check ``compare_seeds(before, after)``: the mean difference of pairs, and its standard error.

    Raises:
        CheckFailed: if one of the two numbers differs.
    """
    cases = (
        ([0.912, 0.905, 0.918, 0.909, 0.914], [0.9273, 0.903, 0.9253, 0.9272, 0.9163]),
        ([0.93, 0.95, 0.94], [0.90, 0.935, 0.93]),  # the second recipe is worse
        ([0.5, 0.75], [0.65, 0.95]),
        ([0.5, 0.75, 0.625, 0.875], [0.625, 0.875, 0.75, 1.0]),  # every seed gains the same
    )
    shortcuts: list[str] = []
    for i, (before, after) in enumerate(cases):
        call = f"compare_seeds({before}, {after})"
        handed = list(before), list(after)  # a reader may sort a list
        with functions_run(inside("resnetbook.compare")) as found:
            answer = answer_of(solution, *handed, describe=call, begun=i > 0)
            numbers = answer.tolist() if isinstance(answer, Tensor | np.ndarray) else answer
            if isinstance(numbers, Iterator):
                numbers = call_reader(list, numbers, describe=call, begun=True)
        shortcuts += found
        if not isinstance(numbers, list | tuple) or len(numbers) != 2:
            raise CheckFailed(
                f"{call} gives {answer!r}: return two numbers, the mean and its standard error."
            )
        mean, error = (
            as_real(number, f"{call}: the {what} is {{value!r}}, and must be a number.")
            for number, what in zip(numbers, ("mean", "standard error"), strict=True)
        )
        _compare_mean(call, mean, error, before, after)
        _compare_error(call, error, before, after)
        for name, values, now in zip(("before", "after"), (before, after), handed, strict=True):
            if now != values:
                raise CheckFailed(
                    f"The numbers are right, but {call} changes its own argument {name}, {HANDS_OFF}"
                )
    if shortcuts:
        raise CheckFailed(
            "The numbers are right, but the book's own resnetbook.compare has found them: write down the "
            "differences, their mean and its standard error yourself."
        )
    return f"mean and standard error are right in {len(cases)} cases, a worse recipe among them."


def _compare_mean(
    call: str, given: float, given_error: float, before: Sequence[float], after: Sequence[float]
) -> None:
    """Compare the mean of the differences, and find out what went wrong.

    Raises:
        CheckFailed: if it differs.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = statistics.fmean(differences)
    if _same(given, mean):
        return
    said = f"{call} gives the mean {given:.6g}, and it is {mean:.6g}: "
    if _same(given, _standard_error(differences)) and _same(given_error, mean):
        raise CheckFailed(said + "return the mean first, then its standard error.")
    mistakes = (
        (abs(mean), "keep the sign. If the second recipe is worse, the mean is negative."),
        (-mean, "subtract the other way round, after minus before, so that better is positive."),
        (
            statistics.fmean(map(abs, differences)),
            "you take absolute differences. Keep the signs: a seed that lost counts against the others.",
        ),
        (
            statistics.median(after) - statistics.median(before),
            "that is a difference of medians: take the mean of the differences.",
        ),
        (statistics.median(differences), "that is the median of the differences: take their mean."),
        (math.fsum(differences), "that is the sum of the differences: divide it by their number."),
        (max(after) - max(before), "the best seed is a matter of luck: take the mean over all seeds."),
        (max(differences), "the largest gain is a matter of luck: take the mean over all seeds."),
        (differences[0], "that is the first seed alone: does `return` stand inside the loop?"),
        (differences[-1], "that is the last seed alone: take the mean over all seeds."),
        (100 * mean, "leave the numbers as they are: do not turn them into percent."),
        (
            statistics.fmean(d / old for d, old in zip(differences, before, strict=True)),
            "do not divide by the old accuracy: differences are asked for.",
        ),
        (
            mean / statistics.fmean(before),
            "do not divide by the old accuracy: a difference is asked for.",
        ),
        (
            math.fsum(differences) / (len(differences) - 1),
            "a mean is divided by n. The divisor n − 1 belongs to the standard deviation.",
        ),
        (statistics.fmean(after), "that is the mean of the second recipe alone: subtract seed by seed."),
        *((round(mean, digits), "it is rounded: return all digits.") for digits in (2, 3, 4, 5, 6)),
    )
    for value, message in mistakes:
        if _same(given, value):
            raise CheckFailed(said + message)
    raise CheckFailed(said + "subtract seed by seed, after minus before, and take the mean.")


def _compare_error(call: str, given: float, before: Sequence[float], after: Sequence[float]) -> None:
    """Compare the standard error, and find out what went wrong.

    Raises:
        CheckFailed: if it differs.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    error, n = _standard_error(differences), len(differences)
    if _same(given, error):
        return
    deviation, variances = statistics.stdev(differences), [statistics.variance(v) for v in (before, after)]
    in_order = [new - old for old, new in zip(sorted(before), sorted(after), strict=True)]
    unpaired = (
        "you take the spread of each recipe by itself. The seeds are pairs: take the standard deviation of "
        "the differences."
    )
    sample = "the sample standard deviation has the divisor n − 1, as statistics.stdev has it."
    spread = "that is the spread of single differences. Their mean is steadier: divide by √n."
    mistakes = (
        (deviation, spread),
        (statistics.pstdev(differences), f"{spread} And {sample}"),
        (statistics.pstdev(differences) / math.sqrt(n), sample),
        (deviation / math.sqrt(n - 1), "√n is asked for; n − 1 stands inside the standard deviation only."),
        (deviation / n, "divide the standard deviation by √n, not by n."),
        (deviation**2 / n, "that is its square: take the root."),
        (deviation**2, "that is the variance: take its root, and divide by √n."),
        (math.sqrt(sum(variances) / n), unpaired),
        (math.sqrt(sum(variances)), unpaired),
        (math.sqrt(sum(variances) * (n - 1) / n / n), unpaired),
        (sum(math.sqrt(v / n) for v in variances), unpaired),
        *((math.sqrt(v / n), unpaired) for v in variances),
        (_standard_error(in_order), "the lists are sorted: the order of the seeds makes the pairs."),
        (
            _standard_error([abs(d) for d in differences]),
            "you take absolute differences: keep the signs here as well.",
        ),
        *(
            (factor * error, "that is half of a 95% interval: leave the factor out.")
            for factor in (1.96, _reach(before, after))
        ),
        (100 * error, "leave the numbers as they are: do not turn them into percent."),
        *((round(error, digits), "it is rounded: return all digits.") for digits in (2, 3, 4, 5, 6)),
    )
    said = f"{call} gives the standard error {given:.6g}, and it is {error:.6g}: "
    for value, message in mistakes:
        if _same(given, value):
            raise CheckFailed(said + message)
    raise CheckFailed(said + "the sample standard deviation of the differences, divided by √n.")


# ---- momentum and weight decay


def _momentum_step(
    w: Tensor,
    g: Tensor,
    v: Tensor,
    lr: float,
    momentum: float,
    weight_decay: float,
    *,
    decay: Callable[[Tensor, float, float], Tensor] = lambda w, lr, d: d * w,
    gather: Callable[[Tensor, Tensor, float, float], Tensor] = lambda v, g, lr, m: m * v + g,
    move: Callable[[Tensor, Tensor, Tensor, float, float], Tensor] = lambda w, v, g, lr, m: w - lr * v,
) -> tuple[Tensor, Tensor]:
    """Weight and velocity after a step; the options make the mistakes that are named below."""
    g = g + decay(w, lr, weight_decay)
    v = gather(v, g, lr, momentum)
    return move(w, v, g, lr, momentum), v


def _decoupled(
    w: Tensor, g: Tensor, v: Tensor, lr: float, m: float, d: float, *, factor: bool = True, late: bool = False
) -> tuple[Tensor, Tensor]:
    """The decay acts on the weight by itself, as in AdamW."""
    v = m * v + g
    moved = w - lr * v
    return moved - (lr if factor else 1) * d * (moved if late else w), v


def _old_velocity(w: Tensor, g: Tensor, v: Tensor, lr: float, m: float, d: float) -> tuple[Tensor, Tensor]:
    return w - lr * v, m * v + g + d * w


_with = functools.partial
_APART = (
    "the decay pulls at the weight by itself, as in AdamW. In SGD it belongs to the gradient, before the "
    "velocity sees it: g + weight_decay · w."
)
_STEP_MISTAKES: tuple[tuple[Callable[..., tuple[Tensor, Tensor]], str], ...] = (
    (
        _with(_momentum_step, decay=lambda w, lr, d: 0 * w),
        "the weight decay is missing: g + weight_decay · w goes into the velocity.",
    ),
    (
        _with(_momentum_step, decay=lambda w, lr, d: -d * w),
        "the weight decay pushes away from zero: add weight_decay · w to the gradient.",
    ),
    (
        _with(_momentum_step, decay=lambda w, lr, d: lr * d * w),
        "the weight decay is multiplied by lr twice: add weight_decay · w to the gradient, without lr.",
    ),
    (_decoupled, _APART),
    (_with(_decoupled, late=True), _APART),
    (_with(_decoupled, factor=False), _APART),
    (_with(_decoupled, factor=False, late=True), _APART),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * v + lr * g, move=lambda w, v, g, lr, m: w - v),
        "lr stands inside the velocity. PyTorch multiplies it last, w −= lr · v, so that a new lr acts on "
        "the whole velocity at once.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * v - lr * g, move=lambda w, v, g, lr, m: w + v),
        "lr and a minus stand inside the velocity. PyTorch: v = momentum · v + g, then w −= lr · v.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * v + lr * g),
        "lr is multiplied twice: once, in w −= lr · v.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * v - g, move=lambda w, v, g, lr, m: w + lr * v),
        "the weights are right, but the velocity has the other sign. PyTorch keeps v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * v + (1 - m) * g),
        "the gradient is multiplied by 1 − momentum. PyTorch adds the whole of it: v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: (1 - m) * v + m * g),
        "momentum is the share of the old velocity that stays: v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: m * (v + g)),
        "the gradient is multiplied by momentum as well: v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: v + g),
        "the old velocity does not fade: multiply it by momentum, v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, gather=lambda v, g, lr, m: g),
        "the old velocity is lost, so there is no momentum: v = momentum · v + g.",
    ),
    (
        _with(_momentum_step, move=lambda w, v, g, lr, m: w + lr * v),
        "you climb: the weights go *against* the velocity, w −= lr · v.",
    ),
    (
        _with(_momentum_step, move=lambda w, v, g, lr, m: w - v),
        "lr is missing: w −= lr · v.",
    ),
    (
        _with(_momentum_step, move=lambda w, v, g, lr, m: w - lr * (g + m * v)),
        "that is Nesterov's momentum, which looks one step ahead. Here the weights follow the velocity: "
        "w −= lr · v.",
    ),
    (
        _with(_momentum_step, move=lambda w, v, g, lr, m: w - lr * g),
        "the weights follow the gradient, and the velocity is not used: w −= lr · v.",
    ),
    (
        _with(_momentum_step, move=lambda w, v, g, lr, m: w - lr * m * v),
        "momentum is multiplied once too often: w −= lr · v.",
    ),
    (
        lambda w, g, v, lr, momentum, d: _momentum_step(w, g, v, lr, 0.9, d),
        "momentum is always 0.9: take the number that the function gets.",
    ),
    (_old_velocity, "the weights follow the old velocity: work out the new one first."),
)

_SHAPES = ((3, 2), (4,), (2, 2, 2))


def _random_tensors(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(shape, generator=generator) for shape in _SHAPES]


def _clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


_STEP = "momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)"


@exercise
def momentum_step(solution: Callable[..., None]) -> str:
    """Check ``momentum_step(weights, gradients, velocities, lr, momentum, weight_decay)`` against SGD.

    It changes ``weights`` and ``velocities`` in place, as ``torch.optim.SGD`` does. The learning rate changes
    from step to step.

    Raises:
        CheckFailed: if a weight or a velocity differs, a gradient is changed, or ``torch.optim`` is used.
    """
    stories = (  # momentum, weight decay, the rates of the steps
        (0.9, 0.2, (0.5, 0.1, 0.4, 0.2)),
        (0.6, 0.0, (0.1, 0.3, 0.2)),
        (0.0, 0.1, (0.2, 0.4)),
        (0.5, 0.02, (0.3, 0.03, 0.6)),
    )
    begun = False
    shortcuts: list[str] = []
    for seed, (momentum, weight_decay, rates) in enumerate(stories):
        generator = torch.Generator().manual_seed(seed)
        weights = _random_tensors(generator)
        velocities = [torch.zeros_like(weight) for weight in weights]
        trusted = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer = torch.optim.SGD(trusted, lr=1.0, momentum=momentum, weight_decay=weight_decay)
        for step, lr in enumerate(rates):
            gradients = _random_tensors(generator)
            given = _clones(gradients)
            # The lists are copies: what the network still holds are the tensors themselves.
            in_lists = list(weights), list(given), velocities
            with functions_run(inside("torch.optim")) as found:
                call_reader(solution, *in_lists, lr, momentum, weight_decay, describe=_STEP, begun=begun)
            begun = True
            shortcuts += found
            where = f"Step {step + 1} with lr {lr:g}, momentum {momentum:g}, weight_decay {weight_decay:g}: "
            _must_be_lists(in_lists, where)
            for parameter, gradient in zip(trusted, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            # Without momentum PyTorch keeps no velocity, and a reader need not.
            kept = [optimizer.state[p]["momentum_buffer"] for p in trusted] if momentum else velocities
            if not _all_close(weights, trusted) or not _all_close(velocities, kept):
                raise CheckFailed(where + _why_not_sgd(solution, lr, momentum, weight_decay))
            if not all(map(torch.equal, given, gradients)):
                raise CheckFailed(
                    where + "the step is right, but the gradients have been changed: `g += …` changes the "
                    "tensor in the list, `g = g + …` makes a new one."
                )
            if any(mine is not first for mine, first in zip(in_lists[1], given, strict=True)):
                raise CheckFailed(
                    where + "the step is right, but other tensors stand in the list of gradients: leave it "
                    "as it is, and put what you work out under a name of its own."
                )
            if any(tensor.requires_grad for tensor in (*weights, *in_lists[2])):
                raise CheckFailed(
                    where + "the step is right, but a weight or a velocity now tracks gradients, and would "
                    "remember every step: leave requires_grad as it is, or detach() what you keep."
                )
    if shortcuts:
        raise CheckFailed(
            f"The numbers are right, but PyTorch's own {shortcuts[-1]} has worked them out: write the step "
            "yourself, without torch.optim."
        )
    steps = sum(len(rates) for _, _, rates in stories)
    return f"weights and velocities are those of torch.optim.SGD over {steps} steps, while lr changes."


def _must_be_lists(lists: tuple[list[Tensor], ...], where: str) -> None:
    """Whether each list still holds one tensor of the right shape for each weight.

    Raises:
        CheckFailed: if not.
    """
    for name, tensors in zip(("weights", "gradients", "velocities"), lists, strict=True):
        shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tensors]
        if shapes != list(_SHAPES):
            raise CheckFailed(
                f"{where}the list of {name} now holds {shapes}, and it held {list(_SHAPES)}: change the "
                "numbers in place, and keep the list."
            )


def _why_not_sgd(solution: Callable[..., None], lr: float, momentum: float, weight_decay: float) -> str:
    """What a step in the middle of a training shows, where the velocities are not zeros."""
    generator = torch.Generator().manual_seed(99)
    weights, gradients, velocities = (_random_tensors(generator) for _ in range(3))
    numbers = lr, momentum, weight_decay
    old = list(zip(weights, gradients, velocities, strict=True))
    held = _clones(weights), _clones(gradients), _clones(velocities)
    lists = tuple(map(list, held))
    said = call_reader(solution, *lists, *numbers, describe=_STEP, begun=True)
    _must_be_lists(lists, "")
    moved, _, faster = held[0], held[1], lists[2]
    right = [_momentum_step(*tensors, *numbers) for tensors in old]
    still = [i for i, (w, first) in enumerate(zip(moved, weights, strict=True)) if torch.equal(w, first)]
    kept = [i for i, (v, first) in enumerate(zip(faster, velocities, strict=True)) if torch.equal(v, first)]
    if len(still) == len(weights):
        if any(mine is not first for mine, first in zip(lists[0], held[0], strict=True)):
            return (
                "you put new tensors into the list of weights, and the network still has the old ones: "
                "change the tensors themselves, with -= or sub_."
            )
        if said is not None:
            return (
                "you return something, and the weights are what they were: change them in place, with -= or "
                "sub_, and return nothing."
            )
        return (
            "no weight has moved: `w = w - …` only gives the name w to a new tensor. Change the tensor in "
            "place, with -= or sub_."
        )
    if still:
        return f"{len(still)} of {len(weights)} weights have not moved: take every tensor of the list."
    if len(kept) == len(velocities):
        return (
            "the velocities have not changed, and the next step needs them: `v = momentum * v + …` only "
            "gives the name v to a new tensor. Change it in place, with mul_ and add_."
        )
    if kept:
        return f"{len(kept)} of {len(velocities)} velocities have not changed: take every tensor of the list."
    for mistake, message in _STEP_MISTAKES:
        wrong = [mistake(*tensors, *numbers) for tensors in old]
        # One that changes nothing in this step, such as a missing decay where it is 0, explains nothing.
        if all(map(_all_close, wrong, right)):
            continue
        if all(map(_all_close, zip(moved, faster, strict=True), wrong)):
            return message
    return "in this order: g + weight_decay · w, then v = momentum · v + that, then w −= lr · v, in place."


# ---- a warm-up and half a cosine wave


def _rate(
    step: int,
    num_steps: int,
    warmup_steps: int,
    lr: float,
    *,
    warm: Callable[[int, int], float] = lambda step, warmup: (step + 1) / warmup,
    progress: Callable[[int, int, int], float] = lambda step, n, warmup: (step - warmup) / (n - warmup),
    wave: Callable[[float], float] = lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    longer: int = 0,
) -> float:
    """The schedule; the options make the mistakes that are named below."""
    if warmup_steps and step < warmup_steps + longer:
        return lr * warm(step, warmup_steps)
    return lr * wave(progress(step, num_steps, warmup_steps))


def _trusted_rate(step: int, num_steps: int, warmup_steps: int, lr: float) -> float:
    return lr * train.lr_factor(train.Recipe(schedule="cosine", warmup_steps=warmup_steps), step, num_steps)


_FROM_THE_START = (
    "The cosine counts from step 0, so the rate jumps at the end of the warm-up: count from there, "
    "step − warmup_steps."
)
_OVER_ALL = (
    "The wave is too slow and does not reach 0: it has num_steps − warmup_steps steps, those that are left."
)
_LAST_IS_ZERO = (
    "The last step has the rate 0, so it changes nothing. Divide by all the steps that are left, "
    "num_steps − warmup_steps: 0 would be reached one step later."
)
_STAYS = (
    "After the warm-up the rate stays: let it fall along half a cosine wave. If you have one, does // throw "
    "away the progress? Divide with /."
)
_TIMES = "Warm-up and cosine are multiplied: after the warm-up the wave begins, at the full rate."


@exercise
def learning_rate(solution: Callable[[int, int, int, float], float]) -> str:
    """Check ``learning_rate(step, num_steps, warmup_steps, lr)`` against the trainer's own schedule.

    Raises:
        CheckFailed: if a rate differs, in the warm-up, on the wave, or without a warm-up, or if the
            trainer's own schedule has been asked.
    """
    shortcuts: list[str] = []

    def observed(*case: float) -> float:
        with functions_run(inside("resnetbook.train")) as found:
            answer = solution(*case)
        shortcuts.extend(found)
        return answer

    cases = (
        (0, 20, 5, 0.1),
        (1, 20, 5, 0.1),
        (4, 20, 5, 0.1),
        (5, 20, 5, 0.1),
        (6, 20, 5, 0.1),
        (12, 20, 5, 0.1),
        (19, 20, 5, 0.1),
        (0, 10, 0, 0.4),
        (3, 10, 0, 0.4),
        (9, 10, 0, 0.4),
        (0, 8, 1, 2.0),
        (7, 8, 1, 2.0),
        (70, 1000, 100, 0.2),
        (640, 1000, 100, 0.2),
    )
    rate = functools.partial
    try:
        compare_reals(
            observed,
            "learning_rate",
            cases,
            _trusted_rate,
            (
                (
                    rate(_rate, warm=lambda step, warmup: step / warmup),
                    "The first step has the rate 0, and so learns nothing: the warm-up is "
                    "(step + 1) / warmup_steps.",
                ),
                (
                    rate(_rate, warm=lambda step, warmup: step / max(1, warmup - 1)),
                    "The first step has the rate 0, and so learns nothing: the warm-up is "
                    "(step + 1) / warmup_steps.",
                ),
                (
                    rate(_rate, warm=lambda step, warmup: (step + 1) / (warmup + 1)),
                    "The last step of the warm-up has the full rate: divide by warmup_steps.",
                ),
                (
                    rate(_rate, warm=lambda step, warmup: (step + 1) // warmup),
                    "// throws away the rest: divide with /.",
                ),
                (
                    rate(_rate, warm=lambda step, warmup: 1.0),
                    "The warm-up is missing: the rate rises over warmup_steps steps.",
                ),
                (rate(_rate, longer=1), "Step warmup_steps is the first on the wave: compare with <."),
                (
                    lambda step, n, warmup, lr: _rate(step, n, 0, lr),
                    "The warm-up is missing: over warmup_steps steps the rate rises, and the wave begins "
                    "after them.",
                ),
                (rate(_rate, progress=lambda step, n, warmup: step / n), _FROM_THE_START),
                (rate(_rate, progress=lambda step, n, warmup: step / (n - warmup)), _FROM_THE_START),
                (rate(_rate, progress=lambda step, n, warmup: (step - warmup) / n), _OVER_ALL),
                (
                    rate(_rate, progress=lambda step, n, warmup: (step - warmup) / (n - warmup - 1)),
                    _LAST_IS_ZERO,
                ),
                (
                    rate(_rate, progress=lambda step, n, warmup: (step - warmup + 1) / (n - warmup)),
                    "The wave is one step early: step warmup_steps still has the full rate.",
                ),
                (
                    lambda step, n, warmup, lr: (
                        _rate(step, n, 0, lr) * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
                    ),
                    _TIMES,
                ),
                (
                    rate(_rate, wave=lambda p: 1 + math.cos(math.pi * p)),
                    "The factor 0.5 is missing: 1 + cos goes from 2 down to 0, and the wave begins at lr.",
                ),
                (
                    rate(_rate, wave=lambda p: 0.5 * (1 + math.cos(2 * math.pi * p))),
                    "That is a whole wave, which comes up again at the end: half a wave has π, not 2π.",
                ),
                (
                    rate(_rate, wave=lambda p: math.cos(math.pi * p)),
                    "The cosine alone goes down to −1, and so does the rate: 0.5 · (1 + cos) ends at 0.",
                ),
                (
                    rate(_rate, wave=lambda p: math.cos(math.pi / 2 * p)),
                    "That is a quarter of a wave: half a wave is 0.5 · (1 + cos(π · progress)).",
                ),
                (
                    rate(_rate, wave=lambda p: 0.5 * (1 - math.cos(math.pi * p))),
                    "The wave rises. It begins at lr and ends at 0: 1 + cos.",
                ),
                (
                    rate(_rate, wave=lambda p: 0.5 * (1 + math.cos(p))),
                    "π is missing: half a wave is cos(π · progress).",
                ),
                (
                    rate(_rate, wave=lambda p: 1 - p),
                    "That falls along a line: half a cosine wave is asked for.",
                ),
                *(
                    (rate(_rate, wave=wave), "That is a sine: half a wave from lr to 0 is a cosine.")
                    for wave in (
                        lambda p: math.sin(math.pi * p),
                        lambda p: 0.5 * (1 + math.sin(math.pi * p)),
                        lambda p: 1 - math.sin(math.pi / 2 * p),
                        lambda p: 0.5 * (1 - math.sin(math.pi * p)),
                    )
                ),
                (rate(_rate, wave=lambda p: 1.0), _STAYS),
                *(
                    (
                        rate(_rate, wave=lambda p, pi=pi: 0.5 * (1 + math.cos(pi * p))),
                        f"π is rounded to {pi}: take math.pi.",
                    )
                    for pi in (3, 3.1, 3.14, 3.142, 3.1416, 3.14159)
                ),
                (
                    lambda step, n, warmup, lr: _rate(step, n, warmup, 1.0),
                    "That is the factor, between 0 and 1: multiply it by lr.",
                ),
            ),
            "Work out the rate at the first step, at the end of the warm-up, and half-way down, on paper.",
        )
    except CheckFailed as failed:
        if isinstance(failed.__cause__, ZeroDivisionError):
            raise CheckFailed(
                f"{failed}. Divide by warmup_steps only while step < warmup_steps: without a warm-up it is 0."
            ) from failed.__cause__
        raise
    if shortcuts:
        raise CheckFailed(
            "The rates are right, but the book's own train.lr_factor has worked them out: do it yourself."
        )
    return f"the rate is the trainer's at {len(cases)} steps, with a warm-up and without."


# ---- shifted images


def _shifted(image: Tensor, row: int, column: int, **options: object) -> Tensor:
    """Black comes in on one side, and as much leaves on the other: a negative padding cuts."""
    return F.pad(image, (column, -column, row, -row), **options)


def _each(move: Callable[[Tensor, int, int], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def shift(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        offsets = zip(images, rows.tolist(), columns.tolist(), strict=True)
        return torch.stack([move(image, row, column) for image, row, column in offsets])

    return shift


def _left_over(image: Tensor, row: int, column: int) -> Tensor:
    """The old picture stays where black should come in."""
    return torch.where(_shifted(torch.ones_like(image), row, column) > 0, _shifted(image, row, column), image)


def _repeated(image: Tensor, row: int, column: int) -> Tensor:
    """The border repeats the edge of the picture."""
    height, width = image.shape[1:]
    y = (torch.arange(height) - row).clamp(0, height - 1)
    x = (torch.arange(width) - column).clamp(0, width - 1)
    return image[:, y[:, None], x]


_shift_all = _each(_shifted)
# Those of negative offsets first: with such offsets only, they look like others.
_SHIFT_MISTAKES: tuple[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str], ...] = (
    *(
        (
            lambda x, r, c, rule=rule, down=down, right=right: _shift_all(
                x, rule(r) if down else r, rule(c) if right else c
            ),
            message,
        )
        for rule, message in (
            (
                torch.abs,
                "a negative offset moves like a positive one: negative numbers move up, and to the left.",
            ),
            (torch.relu, "negative offsets move nothing: they move the picture up, and to the left."),
        )
        for down, right in ((True, True), (True, False), (False, True))
    ),
    (lambda x, r, c: x, "nothing has moved."),
    (
        _each(lambda x, r, c: torch.roll(x, (r, c), (1, 2))),
        "what leaves on one side comes back on the other, as with torch.roll: what comes in is black.",
    ),
    (
        lambda x, r, c: torch.roll(x, (int(r[0]), int(c[0])), (2, 3)),
        "all images move alike, and what leaves on one side comes back on the other: image i has its own "
        "rows[i] and columns[i], and what comes in is black.",
    ),
    *(
        (
            lambda x, r, c, i=i: _shift_all(x, r[i].expand_as(r), c[i].expand_as(c)),
            "all images move alike: image i has its own rows[i] and columns[i].",
        )
        for i in (0, -1)
    ),
    (
        lambda x, r, c: _shift_all(x, -r, -c),
        "the pictures move up where they should move down, and left where they should move right. Row 0 is "
        "at the top: what was in row y goes to row y + rows[i].",
    ),
    (
        lambda x, r, c: _shift_all(x, -r, c),
        "the pictures move up where they should move down: what was in row y goes to row y + rows[i].",
    ),
    (
        lambda x, r, c: _shift_all(x, r, -c),
        "the pictures move left where they should move right: what was in column x goes to x + columns[i].",
    ),
    (
        lambda x, r, c: _shift_all(x, c, r),
        "rows and columns are swapped: axis 2 of the images is their height, axis 3 their width.",
    ),
    (
        lambda x, r, c: _shift_all(x, -c, -r),
        "rows and columns are swapped, and the direction is turned round: axis 2 of the images is their "
        "height, and what was in row y goes to row y + rows[i].",
    ),
    (lambda x, r, c: _shift_all(x, r, 0 * c), "the pictures move down, but not to the right."),
    (lambda x, r, c: _shift_all(x, 0 * r, c), "the pictures move to the right, but not down."),
    (_each(_repeated), "the border repeats the edge of the picture: what comes in is black, 0."),
    (
        _each(_left_over),
        "the old picture is left where black should come in: begin with torch.zeros_like(images).",
    ),
    (
        _each(functools.partial(_shifted, value=255)),
        "what comes in is white: black is 0.",
    ),
    (
        _each(lambda x, r, c: _shifted(x, r, c) if r and c else torch.zeros_like(x)),
        "an image with an offset of 0 comes out black: the slice [:-0] is [:0], which is empty.",
    ),
    (
        _each(lambda x, r, c: _shifted(x, r, c) if r and c else x),
        "an image with one offset of 0 does not move at all: the other offset still counts.",
    ),
)
_ZERO = (
    "Here an offset is 0. The slice [:-0] is [:0], which is empty: write [: height - row], or pad and cut."
)
_NEGATIVE = "Here offsets are negative: they move the picture up, and to the left, and black comes in there."
_LARGE = "Here an offset is as large as the image, which comes out black."
# Shape of the images, rows, columns, and what to look at if only this case goes wrong.
_SHIFT_CASES = (
    ((3, 2, 5, 7), (1, 2, 3), (2, 4, 1), "Move one image by one pixel, on paper."),
    ((4, 1, 6, 5), (0, 2, 0, 1), (3, 0, 0, 2), _ZERO),
    ((3, 3, 6, 8), (-1, -3, -2), (-2, -1, -5), _NEGATIVE),
    ((6, 2, 5, 5), (2, -1, 0, -3, 1, 0), (-1, 0, 2, -2, 3, -4), _NEGATIVE),
    ((1, 1, 4, 9), (-2,), (6,), "Here there is a single image."),
    ((3, 1, 5, 4), (5, 0, -5), (1, -4, 2), _LARGE),
    ((2, 1, 4, 3), (0, 0), (0, 0), "Here nothing moves, and a new tensor is asked for all the same."),
)


@exercise
def shift_images(solution: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check ``shift_images(images, rows, columns)`` on uint8 images ``(N, C, H, W)``, pixel by pixel.

    Raises:
        CheckFailed: if a pixel, the shape or the type differs, or the input is changed.
    """
    for i, (shape, rows, columns, advice) in enumerate(_SHIFT_CASES):
        generator = torch.Generator().manual_seed(i)
        images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)
        inputs = images, torch.tensor(rows), torch.tensor(columns)
        copies = _clones(inputs)
        where = f"With images {shape}, rows {list(rows)} and columns {list(columns)}"
        try:
            given = answer_of(solution, *copies, describe=f"{where}: shift_images", begun=i > 0)
        except CheckFailed as failed:
            raise CheckFailed(f"{failed}{'' if i == 0 else f' {advice}'}") from failed.__cause__
        if not isinstance(given, Tensor):
            raise CheckFailed(f"{where}: you return a {type(given).__name__}: return a tensor.")
        for name, after, before in zip(("images", "rows", "columns"), copies, inputs, strict=True):
            if not torch.equal(after, before):
                raise CheckFailed(
                    f"{where}: {name} has been changed. Write into a new tensor, such as "
                    "torch.zeros_like(images)."
                )
        if given.shape != images.shape:
            raise CheckFailed(
                f"{where}: the shape is {tuple(given.shape)}, and it must stay {shape}: as much as comes in "
                "on one side leaves on the other."
            )
        if given.dtype != torch.uint8:
            raise CheckFailed(f"{where}: the pixels are {given.dtype}: keep torch.uint8, the type of images.")
        right = _shift_all(*inputs)
        if torch.equal(given, right):
            if given.untyped_storage().data_ptr() == copies[0].untyped_storage().data_ptr():
                raise CheckFailed(
                    f"{where}: the pixels are right, but they lie in the memory of images, and would change "
                    "with it. Return a new tensor, such as images.clone() where nothing moves."
                )
            continue
        for mistake, message in _SHIFT_MISTAKES:
            wrong = mistake(*inputs)
            if torch.equal(given, wrong):
                raise CheckFailed(f"{where}: {message}")
        wrong = given != right
        n, _, y, x = wrong.nonzero()[0].tolist()
        raise CheckFailed(
            f"{where}: {int(wrong.sum())} of {right.numel()} pixels differ, the first in image {n} at row "
            f"{y}, column {x}. {advice}"
        )
    return f"every pixel is right in {len(_SHIFT_CASES)} cases, with offsets that are 0 or negative as well."


# ---- smoothed labels


def _smoothing_mistakes(logits: Tensor, labels: Tensor, s: float) -> Iterator[tuple[Tensor, str]]:
    """What the usual mistakes give, and what to say about each."""
    num_images, num_classes = logits.shape
    losses = -logits.log_softmax(1)  # (N, K): the loss if k were the label
    hard = losses.gather(1, labels[:, None]).squeeze(1)  # (N,)
    every = losses.mean(1)  # (N,)
    right = ((1 - s) * hard + s * every).mean()
    others = (losses.sum(1) - hard) / (num_classes - 1)  # (N,)
    yield -right, "the sign is turned round: a loss is minus the logarithm."
    yield (
        ((1 - s) * hard + s * others).mean(),
        "smoothing is shared out among the K − 1 wrong classes only. That is another convention: in "
        "PyTorch's every class gets smoothing / K, the right one as well.",
    )
    yield (
        ((1 - s) * hard + s * others * (num_classes - 1) / num_classes).mean(),
        "the right class has 1 − smoothing only, and the target does not add up to 1: it gets its share "
        "smoothing / K as well.",
    )
    yield (
        (hard + s * every).mean(),
        "the right class keeps the whole 1, and the target adds up to more: it gives up smoothing, and keeps "
        "1 − smoothing and its share.",
    )
    yield (
        (hard + s * others * (num_classes - 1) / num_classes).mean(),
        "the right class keeps the whole 1, and the target adds up to more: it gives up smoothing, and keeps "
        "1 − smoothing and its share.",
    )
    yield hard.mean(), "that is the loss of the hard labels: smoothing is not used."
    yield (
        (0.9 * hard + 0.1 * every).mean(),
        "smoothing is always 0.1: take the number that the function gets.",
    )
    yield every.mean(), "that is the mean over all classes: the labels are not used."
    yield (
        (s * hard + (1 - s) * every).mean(),
        "smoothing and 1 − smoothing are swapped: the label keeps the larger share.",
    )
    yield (
        ((1 - s) * hard + s * losses.sum(1)).mean(),
        "every class gets smoothing, and should get smoothing / K: take the mean over the classes.",
    )
    yield (
        ((1 - s) * hard).mean(),
        "the smoothed part is missing: every class gets smoothing / K.",
    )
    yield right * num_images, "that is the sum over the images: take the mean."
    yield (
        right / num_classes,
        "you divide by the number of classes as well: take the mean over the images only.",
    )
    target = torch.full_like(logits, s / num_classes)
    target[torch.arange(num_images), labels] += 1 - s
    yield (
        right + (target * target.clamp(min=1e-30).log()).sum(1).mean(),
        "that is the KL divergence, which is smaller by the target's entropy.",
    )
    yield (
        -(target * logits.softmax(1)).sum(1).mean(),
        "the logarithm is missing: take log_softmax.",
    )
    yield (
        -(target * logits).sum(1).mean(),
        "the logits are taken as they are: take log_softmax first.",
    )
    yield (
        F.cross_entropy(logits.softmax(1), labels, label_smoothing=s),
        "softmax is applied twice: log_softmax takes the logits themselves.",
    )
    yield (
        -(target * logits.log_softmax(0)).sum(1).mean(),
        "log_softmax runs over the images: over the classes, it is log_softmax(1).",
    )


@exercise
def smoothed_cross_entropy(solution: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Check ``smoothed_cross_entropy(logits, labels, smoothing)`` against ``F.cross_entropy``.

    Raises:
        CheckFailed: if the loss or its gradient differs.
    """
    cases = (  # images, classes, smoothing, how large the logits are
        (6, 4, 0.1, 2.0),
        (5, 10, 0.3, 1.0),
        (7, 3, 0.0, 2.0),
        (1, 5, 0.5, 3.0),
        (8, 6, 0.1, 1000.0),
        (8, 6, 0.0, 1000.0),
    )
    call = "smoothed_cross_entropy(logits, labels, smoothing)"
    shortcuts: list[str] = []
    for seed, (num_images, num_classes, smoothing, scale) in enumerate(cases):
        generator = torch.Generator().manual_seed(seed)
        leaf = scale * torch.randn(num_images, num_classes, generator=generator)
        labels = torch.randint(0, num_classes, (num_images,), generator=generator)
        where = f"With logits {tuple(leaf.shape)} and smoothing {smoothing:g}: "
        if scale > 100:
            where = (
                f"With logits {tuple(leaf.shape)} up to {leaf.abs().max():.0f} and smoothing {smoothing:g}: "
            )
        leaf.requires_grad_()
        with torch.enable_grad():
            logits = leaf * 1  # in a training the logits are no leaf either
            describe = where + call
            handed = labels.clone()
            with functions_run(_is_entropy) as found:
                given = answer_of(solution, logits, handed, smoothing, describe=describe, begun=seed > 0)
            shortcuts += found
            _must_be_loss(given, logits, leaf, num_images, where)
            if not torch.equal(handed, labels):
                raise CheckFailed(
                    where + "the labels have been changed in place, and others may still need them: compute "
                    "new tensors."
                )
            if leaf.grad is not None:
                raise CheckFailed(
                    where + "you call backward() yourself. Return the loss, and leave that to the training."
                )
            right = F.cross_entropy(leaf.double(), labels, label_smoothing=smoothing)
        if not _close(given.reshape(()), right):
            raise CheckFailed(
                f"{where}you give {given.item():.6g}, and F.cross_entropy gives {right.item():.6g}: "
                + _why_not_smoothed(given.item(), leaf.detach().double(), labels, smoothing, scale > 100)
            )
        if not given.requires_grad:
            raise CheckFailed(
                where + "the loss is right, but no gradient leads back to the logits: no .item(), detach(), "
                ".data or no_grad."
            )
        describe = f"{where}The loss is right, but backpropagation"
        differentiate = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
        (mine,) = call_reader(differentiate, given.sum(), [leaf], describe=describe, begun=True)
        (gradient,) = torch.autograd.grad(right, [leaf])
        if not _close(mine, gradient):
            raise CheckFailed(
                where + "the loss is right, but its gradient is not: a part of it is cut off by .item(), "
                "detach(), .data or no_grad, or the loss is inf or nan on the way."
            )
    if shortcuts:
        raise CheckFailed(
            f"The loss is right, but {shortcuts[-1]} has worked it out: use nothing from PyTorch that has "
            '"entropy" in its name.'
        )
    return f"loss and gradient are those of F.cross_entropy in {len(cases)} cases, with large logits as well."


def _is_entropy(module: str, name: str) -> bool:
    """Whether this is a function of PyTorch with "entropy" in its name."""
    return "entropy" in name.lower() and module.split(".")[0] == "torch"


def _must_be_loss(given: object, logits: Tensor, leaf: Tensor, num_images: int, where: str) -> None:
    """Whether it is a single number in a tensor, and the logits are as they were.

    Raises:
        CheckFailed: if not.
    """
    if not isinstance(given, Tensor):
        raise CheckFailed(
            f"{where}you return a {type(given).__name__}: return a tensor, so that backward() can start from "
            "it."
        )
    if given.numel() != 1:
        what = (
            "one loss for each image" if given.shape == (num_images,) else f"the shape {tuple(given.shape)}"
        )
        raise CheckFailed(f"{where}you return {what}: return a single number, the mean over the images.")
    if not torch.equal(logits, leaf):
        raise CheckFailed(
            where + "the logits have been changed in place, and others may still need them: compute new "
            "tensors."
        )


def _why_not_smoothed(given: float, logits: Tensor, labels: Tensor, smoothing: float, large: bool) -> str:
    """Which mistake gives this loss."""
    if not math.isfinite(given):
        why = (
            "a softmax underflows to 0, whose logarithm is −inf, and exp overflows"
            if large
            else "0 · inf is nan"
        )
        return f"{why}. log_softmax takes the logarithm without either."
    for value, message in _smoothing_mistakes(logits, labels, smoothing):
        if _same(given, value.item()):
            return message
    if large:
        return "for smaller logits you are right. A softmax underflows to 0 here: use log_softmax."
    if smoothing == 0:
        return "without smoothing it is the plain cross-entropy: the label's own loss."
    return "every class gets smoothing / K, and the label 1 − smoothing more; then the mean over the images."


# ---- an average of the weights


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _small_network(generator: torch.Generator) -> nn.Module:
    """A network with batch normalization that has seen a few batches."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    _go_on(model, generator)
    return model


@torch.no_grad()
def _go_on(model: nn.Module, generator: torch.Generator) -> None:
    """What a step of a training does to a network: new weights, new statistics, one more batch counted."""
    for parameter in model.parameters():
        parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    mode = model.training
    model.train()
    for _ in range(3):
        model(2 * torch.randn(4, 1, 4, 4, generator=generator) + 1)
    model.train(mode)


def _traits(model: nn.Module) -> list[bool]:
    """The modes of all modules, and whether each parameter is trained."""
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


def _shared(first: nn.Module, second: nn.Module) -> str | None:
    """A tensor of the first network that lies in the memory of the second."""
    taken = {value.untyped_storage().data_ptr() for value in second.state_dict().values()}
    return next((n for n, v in first.state_dict().items() if v.untyped_storage().data_ptr() in taken), None)


def _remembering(holder: object, model: nn.Module) -> bool:
    """Whether a tensor of the average remembers how it was computed."""
    kept: list[object] = [*model.parameters(), *model.buffers()]
    for value in vars(holder).values() if hasattr(holder, "__dict__") else ():
        kept += (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list | tuple)
            else [value]
        )
    return any(isinstance(value, Tensor) and value.grad_fn is not None for value in kept)


def _averaged_network(holder: object, names: list[str], where: str) -> nn.Module:
    """The reader's average.

    Raises:
        CheckFailed: if there is none, or it has other tensors than the trained model.
    """
    model = getattr(holder, "model", None)
    if not isinstance(model, nn.Module):
        raise CheckFailed(
            f"{where}the attribute model is {type(model).__name__}, not a network: keep the copy there."
        )
    if list(model.state_dict()) != names:
        raise CheckFailed(
            f"{where}self.model has other names in its state_dict than the trained model: keep a plain copy, "
            "as copy.deepcopy makes it."
        )
    return model


@exercise
def ema(solution: Callable[[nn.Module, float], object]) -> str:
    """Check a class ``Ema(model, decay)`` with ``model`` and ``update(model)`` against ``AveragedModel``.

    Raises:
        CheckFailed: if the average is not an own copy, differs after an update, or ``torch.optim`` is used.
    """
    stories = ((0.9, 4), (0.6, 3), (0.99, 2))  # the decay, and how many updates
    begun = False
    shortcuts: list[str] = []
    for seed, (decay, num_updates) in enumerate(stories):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = _small_network(generator).train(seed != 1)
        start, traits = _snapshot(model), _traits(model)
        call = f"Ema(model, {decay:g})"
        with torch.enable_grad(), functions_run(inside("torch.optim")) as found:
            holder = answer_of(solution, model, decay, describe=call, begun=begun)
            _must_track(call)
        shortcuts += found
        _must_be_copy(holder, model, start, call)
        if _traits(model) != traits:
            raise CheckFailed(
                f"{call}: the trained model has been left in another mode, or with other requires_grad, and "
                "its training would go on like that. Change only the copy."
            )
        if not callable(getattr(holder, "update", None)):
            raise CheckFailed("The class has no method update(model).")
        trusted = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        trusted.update_parameters(model)  # its first call only copies
        history = [start]
        for n in range(num_updates):
            _go_on(model, generator)
            history.append(_snapshot(model))
            old = _snapshot(trusted.module)
            # At last another object with the same names, as after loading a checkpoint.
            given = copy.deepcopy(model) if seed == 0 and n == num_updates - 1 else model
            if given is not model:
                _go_on(given, generator)
                history[-1] = _snapshot(given)
            with functions_run(inside("torch.optim")) as found:
                _update(holder, given, begun)
            shortcuts += found
            begun = True
            where = f"After {n + 1} update{'s' if n else ''} with decay {decay:g}: "
            if _differs(_snapshot(given), history[-1]) or _traits(given) != traits:
                raise CheckFailed(
                    where + "the trained model has been changed, and its training would go on from there. "
                    "Write into self.model only."
                )
            trusted.update_parameters(given)
            average = _averaged_network(holder, list(start), where)
            if _remembering(holder, average):
                raise CheckFailed(
                    where + "the average remembers how it was computed, and would keep every step in memory: "
                    "update it under torch.no_grad()."
                )
            if given is not model and _stands(average, old, _snapshot(model), decay):
                raise CheckFailed(
                    where + "update(model) takes the numbers of the network that Ema(model, decay) got at "
                    "first: take those of the one that update gets, which may be another object."
                )
            _compare_average(average, trusted.module, old, history, decay, where)
            if name := _shared(average, given):
                raise CheckFailed(
                    f"{where}{name} lies in the memory of the trained model, and will change with it: copy "
                    "the numbers, with copy_."
                )
    if shortcuts:
        raise CheckFailed(
            f"The averages are right, but PyTorch's own {shortcuts[-1]} has worked them out: write the "
            "update yourself, without torch.optim."
        )
    total = sum(updates for _, updates in stories)
    return f"the averages are those of AveragedModel over {total} updates, batch-norm statistics included."


def _must_track(call: str) -> None:
    """Whether gradients are still tracked.

    Raises:
        CheckFailed: if not.
    """
    if not torch.is_grad_enabled():
        raise CheckFailed(
            f"{call} leaves gradients switched off for all that comes after: use `with torch.no_grad():`, "
            "which ends by itself."
        )


def _stands(average: nn.Module, old: dict[str, Tensor], new: dict[str, Tensor], decay: float) -> bool:
    """Whether the average has moved towards these numbers."""
    given = _snapshot(average)
    names = [name for name, value in new.items() if torch.is_floating_point(value)]
    return all(_close(given[name], decay * old[name] + (1 - decay) * new[name]) for name in names)


def _differs(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() != second.keys() or not all(map(torch.equal, first.values(), second.values()))


def _must_be_copy(holder: object, model: nn.Module, start: dict[str, Tensor], call: str) -> None:
    """Whether the average begins as a copy of the model that shares nothing with it.

    Raises:
        CheckFailed: if not.
    """
    average = _averaged_network(holder, list(start), f"{call}: ")
    if average is model:
        raise CheckFailed(
            f"{call}: self.model is the trained model itself, and not a copy: use copy.deepcopy(model)."
        )
    if name := _shared(average, model):
        raise CheckFailed(
            f"{call}: {name} of self.model lies in the memory of the trained model, and changes with it: use "
            "copy.deepcopy(model)."
        )
    if _differs(_snapshot(model), start):
        raise CheckFailed(f"{call}: the trained model has been changed. Change only the copy.")
    mine = _snapshot(average)
    if _differs(mine, start):
        if not any(mine[name].any() for name, _ in average.named_parameters()):
            raise CheckFailed(
                f"{call}: the average starts from zeros, and would have to forget them first: start from "
                "a copy of the model."
            )
        raise CheckFailed(
            f"{call}: self.model has other numbers than the model: start from copy.deepcopy(model)."
        )


def _update(holder: object, model: nn.Module, begun: bool) -> None:
    """Call the reader's ``update``; what PyTorch says about whole numbers gets an explanation.

    Raises:
        CheckFailed: if it raises an error.
    """
    advice = (
        " Whole numbers (num_batches_tracked) cannot be averaged: copy them. torch.is_floating_point tells "
        "the two kinds apart."
    )
    try:
        with torch.enable_grad():
            call_reader(holder.update, model, describe="update(model)", begun=begun)
            _must_track("update(model)")
    except NotImplementedError as error:
        # PyTorch's own word for an operation that whole numbers do not have.
        if "implemented for" not in str(error):
            raise
        raise CheckFailed(f"update(model) raises {type(error).__name__}: {error}.{advice}") from error
    except CheckFailed as failed:
        said = str(failed)
        if "Long" in said:
            raise CheckFailed(f"{said}.{advice}") from failed.__cause__
        if "leaf" in said:
            raise CheckFailed(f"{said} Do it under torch.no_grad().") from failed.__cause__
        if "cannot assign" in said:
            raise CheckFailed(
                f"{said}. Change the tensors in place, with copy_ or lerp_."
            ) from failed.__cause__
        raise


def _compare_average(
    average: nn.Module,
    trusted: nn.Module,
    old: dict[str, Tensor],
    history: list[dict[str, Tensor]],
    decay: float,
    where: str,
) -> None:
    """Compare the average with PyTorch's, and find out what went wrong.

    Raises:
        CheckFailed: if a number differs.
    """
    given, right, new = _snapshot(average), _snapshot(trusted), history[-1]
    floating = [name for name, value in new.items() if torch.is_floating_point(value)]
    weights = {name for name, _ in average.named_parameters()}
    wrong = [name for name in floating if not _close(given[name], right[name])]
    if wrong:
        names = [name for name in wrong if name in weights] or wrong
        raise CheckFailed(where + _why_not_average(given, names, old, history, decay, set(names) <= weights))
    for name in given.keys() - set(floating):
        if given[name].dtype != new[name].dtype or not torch.equal(given[name], new[name]):
            raise CheckFailed(
                f"{where}{name} is {given[name].item():g}, and in the trained model it is "
                f"{new[name].item()}, as {new[name].dtype}: whole numbers are copied, and not averaged."
            )


def _why_not_average(
    given: dict[str, Tensor],
    names: list[str],
    old: dict[str, Tensor],
    history: list[dict[str, Tensor]],
    decay: float,
    in_weights: bool,
) -> str:
    """Which mistake gives these numbers; ``history`` holds the trained model's, the first one's included."""
    new, previous, start, n = history[-1], history[-2], history[0], len(history) - 1

    def gives(value: Callable[[str], Tensor]) -> bool:
        return all(_close(given[name], value(name)) for name in names)

    def mixed(first: dict[str, Tensor], share: float) -> Callable[[str], Tensor]:
        return lambda name: share * first[name] + (1 - share) * new[name]

    if not in_weights:
        if gives(lambda name: old[name]):
            return (
                "the weights are right, and the batch-norm statistics (running_mean, running_var) have not "
                "moved. parameters() leaves them out; state_dict() has both."
            )
        if gives(lambda name: new[name]):
            return (
                "the weights are right, and the batch-norm statistics (running_mean, running_var) are "
                "copied: average all floating-point numbers."
            )
    mistakes: tuple[tuple[Callable[[str], Tensor], str], ...] = (
        (
            lambda name: old[name],
            "the average has not moved: `a = decay * a + …` only gives the name a to a new tensor. Change "
            "the copy's own tensors, in place.",
        ),
        (
            lambda name: new[name],
            "the average is the trained model's last state: keep decay of the old average, in the first "
            "update as well.",
        ),
        (
            mixed(old, 1 - decay),
            "decay and 1 − decay are swapped: decay is the share of the old average.",
        ),
        (
            lambda name: old[name] + (1 - decay) * new[name],
            "the old average does not shrink: multiply it by decay.",
        ),
        (lambda name: decay * old[name] + new[name], "multiply the new numbers by 1 − decay."),
        (
            lambda name: decay * old[name] - (1 - decay) * new[name],
            "the new numbers are subtracted: add them.",
        ),
        (
            mixed(start, decay),
            "the first copy is averaged with the new numbers each time: go on from the last average.",
        ),
        (
            mixed(previous, decay),
            "the trained model's last two states are averaged: go on from the last average.",
        ),
        *(
            (
                mixed(old, share),
                f"the decay is always {share:g}: take the number that Ema(model, decay) gets.",
            )
            for share in (0.9, 0.99, 0.999)
        ),
        (mixed(old, decay**2), "one update moves the average twice."),
        *(
            (mixed(old, 1 - 1 / k), "that is a plain mean over all updates: the new numbers get 1 − decay.")
            for k in (n, n + 1)
        ),
        *(
            (
                mixed(old, min(decay, (1 + k) / (10 + k))),
                "the decay grows from update to update: it is the same in all of them.",
            )
            for k in (n - 1, n)
        ),
    )
    for value, message in mistakes:
        if gives(value):
            return message
    return (
        f"{names[0]} is not what PyTorch's AveragedModel has: decay · average + (1 − decay) · new, from the "
        "average after the last update."
    )
