"""The exercises of chapter 6: seeds, momentum, a schedule, shifts, smoothed labels, averaged weights."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnetbook import train
from resnetbook.checks.common import CheckFailed
from resnetbook.checks.exercise import Exercise, Outcome, difference, shown


def _first_wrong(part: str, given: list[Outcome], right: list[Outcome]) -> int | None:
    """The number of the first case that shows something else in a part."""
    pairs = enumerate(zip(given, right, strict=False))
    return next((i for i, (mine, theirs) in pairs if difference(mine.get(part), theirs.get(part))), None)


# ---- two recipes with the same seeds


def _two_numbers(solution: Callable, before: list[float], after: list[float]) -> Outcome:
    answer = solution(before, after)
    if answer is None:
        return {"result": None}
    numbers = answer.tolist() if isinstance(answer, Tensor | np.ndarray) else answer
    numbers = list(numbers) if isinstance(numbers, Iterator) else numbers
    if not isinstance(numbers, list | tuple) or len(numbers) != 2:
        raise CheckFailed(
            f"compare_seeds gives {shown(answer)}: return two numbers, the mean and its standard error."
        )
    return {"result": "two numbers", "mean": numbers[0], "error": numbers[1]}


def _rounded(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    for digits in range(2, 7) if part in ("mean", "error") else ():
        pairs = zip(given, right, strict=False)
        if all(difference(mine.get(part), round(theirs[part], digits)) is None for mine, theirs in pairs):
            return "it is rounded: return all digits."
    return None


compare_seeds = Exercise(
    number="6.1",
    title="Two recipes with the same seeds",
    minutes=10,
    level="easy",
    answer="""\
def compare_seeds(
    before: list[float], after: list[float]
) -> tuple[float, float]:
    pairs = zip(before, after, strict=True)
    differences = [new - old for old, new in pairs]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error
""",
    cases=(
        ([0.912, 0.905, 0.918, 0.909, 0.914], [0.9273, 0.903, 0.9253, 0.9272, 0.9163]),
        ([0.93, 0.95, 0.94], [0.90, 0.935, 0.93]),  # the second recipe is worse
        ([0.5, 0.75], [0.65, 0.95]),
        ([0.5, 0.75, 0.625, 0.875], [0.625, 0.875, 0.75, 1.0]),  # every seed gains the same
    ),
    drive=_two_numbers,
    form="compare_seeds({0}, {1})",
    first=("result", "mean", "error"),
    slips="""
return statistics.fmean(differences), error -> return error, statistics.fmean(differences)
    return the mean first, then its standard error.
return statistics.fmean(differences) -> return abs(statistics.fmean(differences))
    keep the sign. If the second recipe is worse, the mean is negative.
new - old for -> old - new for
    subtract the other way round, after minus before, so that better is positive.
new - old for -> abs(new - old) for
or
return statistics.fmean(differences) -> return statistics.fmean(map(abs, differences))
    you take absolute differences. Keep the signs: a seed that lost counts against the others.
return statistics.fmean(differences) -> return statistics.median(after) - statistics.median(before)
    that is a difference of medians: take the mean of the differences.
return statistics.fmean(differences) -> return statistics.median(differences)
    that is the median of the differences: take their mean.
return statistics.fmean(differences) -> return sum(differences)
    that is the sum of the differences: divide it by their number.
return statistics.fmean(differences) -> return max(after) - max(before)
    the best seed is a matter of luck: take the mean over all seeds.
return statistics.fmean(differences) -> return max(differences)
    the largest gain is a matter of luck: take the mean over all seeds.
return statistics.fmean(differences) -> return differences[0]
    that is the first seed alone: does `return` stand inside the loop?
return statistics.fmean(differences) -> return differences[-1]
    that is the last seed alone: take the mean over all seeds.
new - old for -> 100 * (new - old) for
or
statistics.fmean(differences) -> 100 * statistics.fmean(differences)
or
), error -> ), 100 * error
    leave the numbers as they are: do not turn them into percent.
new - old for -> new / old - 1 for
or
return statistics.fmean(differences) -> return statistics.fmean(after) / statistics.fmean(before) - 1
    do not divide by the old accuracy: differences are asked for.
return statistics.fmean(differences) -> return sum(differences) / (len(differences) - 1)
    a mean is divided by n. The divisor n − 1 belongs to the standard deviation.
return statistics.fmean(differences) -> return statistics.fmean(after)
    that is the mean of the second recipe alone: subtract seed by seed.
 / math.sqrt(len(differences)) -> 
    that is the spread of single differences. Their mean is steadier: divide by √n.
statistics.stdev(differences) / math.sqrt(len(differences)) -> statistics.pstdev(differences)
    that is the spread of single differences. Their mean is steadier: divide by √n. And the sample standard
    deviation has the divisor n − 1, as statistics.stdev has it.
statistics.stdev -> statistics.pstdev
    the sample standard deviation has the divisor n − 1, as statistics.stdev has it.
math.sqrt(len(differences)) -> math.sqrt(len(differences) - 1)
    √n is asked for; n − 1 stands inside the standard deviation only.
math.sqrt(len(differences)) -> len(differences)
    divide the standard deviation by √n, not by n.
statistics.stdev(differences) / math.sqrt(len(differences)) -> statistics.variance(differences) / len(before)
    that is its square: take the root.
statistics.stdev(differences) / math.sqrt(len(differences)) -> statistics.variance(differences)
    that is the variance: take its root, and divide by √n.
statistics.stdev(differences) -> math.sqrt(statistics.variance(before) + statistics.variance(after))
or
statistics.stdev(differences) -> math.sqrt(statistics.pvariance(before) + statistics.pvariance(after))
or
statistics.stdev(differences) -> (statistics.stdev(before) + statistics.stdev(after))
or
statistics.stdev(differences) -> statistics.stdev(before)
or
statistics.stdev(differences) -> statistics.stdev(after)
or
statistics.stdev(differences) -> math.hypot(statistics.stdev(before), statistics.stdev(after))
math.sqrt(len(differences)) -> 1
    you take the spread of each recipe by itself. The seeds are pairs: take the standard deviation of the
    differences.
zip(before, after, -> zip(sorted(before), sorted(after),
    the lists are sorted: the order of the seeds makes the pairs.
statistics.stdev(differences) -> statistics.stdev(map(abs, differences))
    you take absolute differences: keep the signs here as well.
), error -> ), 1.96 * error
or
), error -> ), error * {2: 12.7062047, 3: 4.3026527, 4: 3.1824463, 5: 2.7764451}[len(differences)]
    that is half of a 95% interval: leave the factor out.
pairs = -> before.sort(); pairs =
or
return statistics -> after.sort(); return statistics
    leave both lists as they are: sorted(before) makes a new one.
""",
    says={
        "mean": "{call} {problem} (the mean)",
        "error": "{call} {problem} (the standard error)",
    },
    otherwise={
        "mean": "subtract seed by seed, after minus before, and take the mean.",
        "error": "the sample standard deviation of the differences, divided by √n.",
    },
    explain=_rounded,
    forbidden={
        "resnetbook.compare.*": "The numbers are right, but the book's own {used} has found them: write down "
        "the differences, their mean and its standard error yourself."
    },
    right="mean and standard error are right in 4 cases, a worse recipe among them.",
)


# ---- momentum and weight decay

_SHAPES = ((3, 2), (4,), (2, 2, 2))


def _steps() -> list[tuple]:
    """Steps in the middle of a training, and a first one, where the velocities are zeros."""
    cases = []
    numbers = ((0.5, 0.9, 0.2), (0.1, 0.6, 0.0), (0.4, 0.0, 0.1), (0.03, 0.5, 0.02), (0.2, 0.9, 0.1))
    for seed, (lr, momentum, weight_decay) in enumerate(numbers):
        generator = torch.Generator().manual_seed(seed)
        lists = [[torch.randn(shape, generator=generator) for shape in _SHAPES] for _ in range(3)]
        if seed == 4:
            lists[2] = [torch.zeros(shape) for shape in _SHAPES]
        cases.append((*lists, lr, momentum, weight_decay))
    return cases


def _one_step(
    solution: Callable,
    weights: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> Outcome:
    # The lists are the reader's to fill anew; what the network holds are the tensors.
    network, computed, before = list(weights), list(gradients), copy.deepcopy(weights)
    returned = solution(weights, gradients, velocities, lr, momentum, weight_decay)
    if returned is not None and all(map(torch.equal, network, before)):
        raise CheckFailed(
            "momentum_step returns something, and the weights are what they were: change them in place, with "
            "-= or sub_, and return nothing."
        )
    return {
        "network": [weight.detach().clone() for weight in network],
        "kept weights": len(weights) == 3 and all(map(lambda a, b: a is b, weights, network)),
        # Without momentum PyTorch keeps no velocity, and a reader need not.
        "velocity": copy.deepcopy(velocities) if momentum else None,
        "kept gradients": len(gradients) == 3 and all(map(lambda a, b: a is b, gradients, computed)),
        "tracked": any(tensor.requires_grad for tensor in (*network, *velocities)),
    }


def _sgd(
    weights: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """One step of ``torch.optim.SGD``."""
    parameters = [nn.Parameter(weight) for weight in weights]  # in the same memory
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        parameter.grad = gradient.clone()
        if momentum:
            optimizer.state[parameter]["momentum_buffer"] = velocity
    optimizer.step()


def _unmoved(part: str, given: list[Outcome], _: list[Outcome], start: list[Outcome]) -> str | None:
    """How many tensors a step has left out."""
    name = {"network": "weights", "velocity": "velocities"}.get(part)
    if name is None or len(given[0][part]) != 3:
        return None
    still = sum(map(torch.equal, given[0][part], start[0][name]))
    return f"{still} of 3 {name} have not moved: take every tensor of the list." if still else None


momentum_step = Exercise(
    number="6.2",
    title="Momentum and weight decay",
    minutes=15,
    level="medium",
    answer="""\
def momentum_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    for w, g, v in zip(weights, gradients, velocities, strict=True):
        v.mul_(momentum).add_(g + weight_decay * w)
        w.sub_(lr * v)
""",
    cases=_steps,
    trusted=_sgd,
    drive=_one_step,
    form="momentum_step(weights, gradients, velocities, {3}, {4}, {5})",
    first=("network", "velocity", "gradients"),
    ignored=("weights", "velocities"),
    slips="""
w.sub_(lr * v) -> w = w - lr * v
    no weight has moved: `w = w - …` only gives the name w to a new tensor. Change the tensor in place, with
    -= or sub_.
w.sub_(lr * v) -> w = w - lr * v⏎    return weights, velocities
    momentum_step returns something, and the weights are what they were
for w, g, v in zip( -> for i, (w, g, v) in enumerate(zip(
strict=True): -> strict=True)):
w.sub_(lr * v) -> weights[i] = w - lr * v
    you put new tensors into the list of weights, and the network still has the old ones: change the tensors
    themselves, with -= or sub_.
v.mul_(momentum).add_(g + weight_decay * w) -> v = momentum * v + g + weight_decay * w
    the velocities have not changed, and the next step needs them: `v = momentum * v + …` only gives the name
    v to a new tensor. Change it in place, with mul_ and add_.
g + weight_decay * w -> g
    the weight decay is missing: g + weight_decay · w goes into the velocity.
g + weight_decay * w -> g - weight_decay * w
    the weight decay pushes away from zero: add weight_decay · w to the gradient.
g + weight_decay * w -> g + lr * weight_decay * w
    the weight decay is multiplied by lr twice: add weight_decay · w to the gradient, without lr.
g + weight_decay * w -> g
w.sub_(lr * v) -> w.mul_(1 - lr * weight_decay).sub_(lr * v)
or
g + weight_decay * w -> g
w.sub_(lr * v) -> w.sub_(lr * v).mul_(1 - lr * weight_decay)
or
g + weight_decay * w -> g
w.sub_(lr * v) -> w.mul_(1 - weight_decay).sub_(lr * v)
or
g + weight_decay * w -> g
w.sub_(lr * v) -> w.sub_(lr * v).mul_(1 - weight_decay)
    the decay pulls at the weight by itself, as in AdamW. In SGD it belongs to the gradient, before the
    velocity sees it: g + weight_decay · w.
add_(g + weight_decay * w) -> add_(lr * (g + weight_decay * w))
w.sub_(lr * v) -> w.sub_(v)
    lr stands inside the velocity. PyTorch multiplies it last, w −= lr · v, so that a new lr acts on the whole
    velocity at once.
add_(g + weight_decay * w) -> sub_(lr * (g + weight_decay * w))
w.sub_(lr * v) -> w.add_(v)
    lr and a minus stand inside the velocity. PyTorch: v = momentum · v + g, then w −= lr · v.
add_(g + weight_decay * w) -> add_(lr * (g + weight_decay * w))
    lr is multiplied twice: once, in w −= lr · v.
v.mul_(momentum).add_( -> v.mul_(momentum).sub_(
w.sub_( -> w.add_(
    the velocity has the other sign. PyTorch keeps v = momentum · v + g, and then w −= lr · v.
add_(g + weight_decay * w) -> add_((1 - momentum) * (g + weight_decay * w))
    the gradient is multiplied by 1 − momentum. PyTorch adds the whole of it: v = momentum · v + g.
v.mul_(momentum).add_(g + weight_decay * w) -> v.mul_(1 - momentum).add_(momentum * (g + weight_decay * w))
    momentum is the share of the old velocity that stays: v = momentum · v + g.
v.mul_(momentum).add_(g + weight_decay * w) -> v.add_(g + weight_decay * w).mul_(momentum)
    the gradient is multiplied by momentum as well: v = momentum · v + g.
v.mul_(momentum).add_( -> v.add_(
    the old velocity does not fade: multiply it by momentum, v = momentum · v + g.
v.mul_(momentum).add_( -> v.zero_().add_(
    the old velocity is lost, so there is no momentum: v = momentum · v + g.
w.sub_( -> w.add_(
    you climb: the weights go *against* the velocity, w −= lr · v.
w.sub_(lr * v) -> w.sub_(v)
    lr is missing: w −= lr · v.
v.mul_(momentum) -> d = g + weight_decay * w; v.mul_(momentum)
w.sub_(lr * v) -> w.sub_(lr * (d + momentum * v))
    that is Nesterov's momentum, which looks one step ahead. Here the weights follow the velocity:
    w −= lr · v.
v.mul_(momentum) -> d = g + weight_decay * w; v.mul_(momentum)
w.sub_(lr * v) -> w.sub_(lr * d)
    the weights follow the gradient, and the velocity is not used: w −= lr · v.
w.sub_(lr * v) -> w.sub_(lr * momentum * v)
    momentum is multiplied once too often: w −= lr · v.
v.mul_(momentum) -> v.mul_(0.9)
    momentum is always 0.9: take the number that the function gets.
v.mul_(momentum).add_( -> w.sub_(lr * v); v.mul_(momentum).add_(
⏎        w.sub_(lr * v)⏎ -> ⏎
or
v.mul_(momentum) -> old = v.clone(); v.mul_(momentum)
w.sub_(lr * v) -> w.sub_(lr * old)
    the weights follow the old velocity: work out the new one first.
v.mul_(momentum).add_(g + weight_decay * w) -> g += weight_decay * w; v.mul_(momentum).add_(g)
    the step is right, but the gradients have been changed: `g += …` changes the tensor in the list,
    `g = g + …` makes a new one.
for w, g, v in zip( -> for i, (w, g, v) in enumerate(zip(
strict=True): -> strict=True)):
add_(g + weight_decay * w) -> add_(gradients.__setitem__(i, g + weight_decay * w) or gradients[i])
    the step is right, but other tensors stand in the list of gradients: leave it as it is, and put what you
    work out under a name of its own.
w.sub_(lr * v) -> w.sub_(lr * v); v.requires_grad_()
    a weight or a velocity now tracks gradients, and would remember every step: leave requires_grad as it is,
    or detach() what you keep.
""",
    says={
        "network": "{call}: the weights are not where the step puts them",
        "velocity": "{call}: the velocities are not those of the step",
        "kept gradients": "{call}",
        "kept weights": "{call}: the step is right, but other tensors stand in the list of weights",
        "tracked": "{call}: the step is right",
    },
    otherwise={
        part: "in this order: g + weight_decay · w, then v = momentum · v + that, then w −= lr · v, in place."
        for part in ("network", "velocity")
    }
    | {
        "kept gradients": "the step is right, but other tensors stand in the list of gradients.",
        "tracked": "a weight or a velocity now tracks gradients, and would remember every step.",
    },
    explain=_unmoved,
    forbidden={
        "torch.optim.*": "The numbers are right, but PyTorch's own {used} has worked them out: write the "
        "step yourself, without torch.optim."
    },
    right="weights and velocities are those of torch.optim.SGD in 5 steps, each with another lr.",
)


# ---- a warm-up and half a cosine wave


def _trainers_rate(step: int, num_steps: int, warmup_steps: int, lr: float) -> float:
    return lr * train.lr_factor(train.Recipe(schedule="cosine", warmup_steps=warmup_steps), step, num_steps)


learning_rate = Exercise(
    number="6.3",
    title="A warm-up and half a cosine wave",
    minutes=10,
    level="easy",
    answer="""\
def learning_rate(
    step: int, num_steps: int, warmup_steps: int, lr: float
) -> float:
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))
""",
    cases=(
        *((step, 20, 5, 0.1) for step in (0, 1, 4, 5, 6, 12, 19)),
        *((step, 10, 0, 0.4) for step in (0, 3, 9)),
        *((step, 8, 1, 2.0) for step in (0, 7)),
        *((step, 1000, 100, 0.2) for step in (70, 640)),
    ),
    trusted=_trainers_rate,
    slips="""
(step + 1) / warmup_steps -> step / warmup_steps
or
(step + 1) / warmup_steps -> step / max(1, warmup_steps - 1)
    The first step has the rate 0, and so learns nothing: the warm-up is (step + 1) / warmup_steps.
(step + 1) / warmup_steps -> (step + 1) / (warmup_steps + 1)
    The last step of the warm-up has the full rate: divide by warmup_steps.
lr * (step + 1) / warmup_steps -> lr * ((step + 1) // warmup_steps)
    // throws away the rest: divide with /.
lr * (step + 1) / warmup_steps -> lr
    The warm-up is missing: the rate rises over warmup_steps steps.
if step < warmup_steps -> if warmup_steps and step <= warmup_steps
    Step warmup_steps is the first on the wave: compare with <.
if step < warmup_steps: -> warmup_steps = 0⏎    if False:
    The warm-up is missing: over warmup_steps steps the rate rises, and the wave begins after them.
(step - warmup_steps) / (num_steps - warmup_steps) -> step / num_steps
or
(step - warmup_steps) / (num_steps -> step / (num_steps
    The cosine counts from step 0, so the rate jumps at the end of the warm-up: count from there,
    step − warmup_steps.
/ (num_steps - warmup_steps) -> / num_steps
    The wave is too slow and does not reach 0: it has num_steps − warmup_steps steps, those that are left.
/ (num_steps - warmup_steps) -> / (num_steps - warmup_steps - 1)
    The last step has the rate 0, so it changes nothing. Divide by all the steps that are left,
    num_steps − warmup_steps: 0 would be reached one step later.
(step - warmup_steps) / -> (step - warmup_steps + 1) /
    The wave is one step early: step warmup_steps still has the full rate.
if step < -> lr *= min(1, (step + 1) / max(1, warmup_steps)); warmup_steps = 0⏎    if step <
    Warm-up and cosine are multiplied: after the warm-up the wave begins, at the full rate.
lr * 0.5 * (1 + -> lr * (1 +
    The factor 0.5 is missing: 1 + cos goes from 2 down to 0, and the wave begins at lr.
math.pi * progress -> 2 * math.pi * progress
    That is a whole wave, which comes up again at the end: half a wave has π, not 2π.
0.5 * (1 + math.cos(math.pi * progress)) -> math.cos(math.pi * progress)
    The cosine alone goes down to −1, and so does the rate: 0.5 · (1 + cos) ends at 0.
0.5 * (1 + math.cos(math.pi * progress)) -> math.cos(math.pi / 2 * progress)
    That is a quarter of a wave: half a wave is 0.5 · (1 + cos(π · progress)).
(1 + math.cos -> (1 - math.cos
    The wave rises. It begins at lr and ends at 0: 1 + cos.
math.pi * progress -> progress
    π is missing: half a wave is cos(π · progress).
0.5 * (1 + math.cos(math.pi * progress)) -> (1 - progress)
    That falls along a line: half a cosine wave is asked for.
0.5 * (1 + math.cos(math.pi * progress)) -> math.sin(math.pi * progress)
or
math.cos -> math.sin
or
(1 + math.cos -> (1 - math.sin
or
0.5 * (1 + math.cos(math.pi * progress)) -> (1 - math.sin(math.pi / 2 * progress))
    That is a sine: half a wave from lr to 0 is a cosine.
0.5 * (1 + math.cos(math.pi * progress)) -> 1.0
or
(step - warmup_steps) / -> (step - warmup_steps) //
    After the warm-up the rate stays: let it fall along half a cosine wave. If you have one, does // throw
    away the progress? Divide with /.
math.pi -> 3
or
math.pi -> 3.1
or
math.pi -> 3.14
or
math.pi -> 3.142
or
math.pi -> 3.1416
    π is rounded: take math.pi.
lr * (step + 1) -> (step + 1)
lr * 0.5 -> 0.5
    That is the factor, between 0 and 1: multiply it by lr.
""",
    errors={
        "division by zero": "Divide by warmup_steps only while step < warmup_steps: without a warm-up it "
        "is 0."
    },
    otherwise="Work out the rate at the first step, at the end of the warm-up, and half-way down, on paper.",
    forbidden={
        "resnetbook.train.*": "The rates are right, but the book's own {used} has worked them out: do it "
        "yourself."
    },
    right="the rate is the trainer's at 14 steps, with a warm-up and without.",
)


# ---- shifted images

_ZERO = (
    "Here an offset is 0. The slice [:-0] is [:0], which is empty: write [: height - row], or pad and cut."
)
_NEGATIVE = "Here offsets are negative: they move the picture up, and to the left, and black comes in there."
# Shape of the images, rows, columns, and what to look at if only this case goes wrong.
_SHIFTS = (
    ((3, 2, 5, 7), (1, 2, 3), (2, 4, 1), "Move one image by one pixel, on paper."),
    ((4, 1, 6, 5), (0, 2, 0, 1), (3, 0, 0, 2), _ZERO),
    ((3, 3, 6, 8), (-1, -3, -2), (-2, -1, -5), _NEGATIVE),
    ((6, 2, 5, 5), (2, -1, 0, -3, 1, 0), (-1, 0, 2, -2, 3, -4), _NEGATIVE),
    ((1, 1, 4, 9), (-2,), (6,), "Here there is a single image."),
    ((3, 1, 5, 4), (5, 0, -5), (1, -4, 2), "Here an offset is as large as the image, which comes out black."),
    ((2, 1, 4, 3), (0, 0), (0, 0), "Here nothing moves, and a new tensor is asked for all the same."),
)


def _pictures() -> list[tuple]:
    cases = []
    for seed, (shape, rows, columns, _) in enumerate(_SHIFTS):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)  # nowhere black
        cases.append((images, torch.tensor(rows), torch.tensor(columns)))
    return cases


def _moved(solution: Callable, images: Tensor, rows: Tensor, columns: Tensor) -> Outcome:
    shifted = solution(images, rows, columns)
    if not isinstance(shifted, Tensor):
        return {"result": shifted}
    shares = shifted.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    return {"result": shifted.clone(), "type": str(shifted.dtype), "memory": shares}


def _shifted(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Black comes in on one side, and as much leaves on the other: a negative padding cuts."""
    offsets = zip(images, rows.tolist(), columns.tolist(), strict=True)
    return torch.stack([F.pad(image, (column, -column, row, -row)) for image, row, column in offsets])


def _which_shift(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What is special about the first case that goes wrong."""
    case = _first_wrong(part, given, right)
    if part != "result" or case is None or not isinstance(given[case].get(part), Tensor | Exception):
        return None
    if isinstance(given[case][part], Tensor) and given[case][part].shape != right[case][part].shape:
        return "the shape must stay: as much as comes in on one side leaves on the other."
    return _SHIFTS[case][3]


shift_images = Exercise(
    number="6.4",
    title="Shifted images",
    minutes=20,
    level="medium",
    answer="""\
def shift_images(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = images.shape[2:]
    reach = int(max(rows.abs().max(), columns.abs().max()))
    padded = F.pad(images, (reach, reach, reach, reach))
    windows = []
    for image, row, column in zip(padded, rows, columns, strict=True):
        top, left = reach - int(row), reach - int(column)
        windows.append(image[:, top : top + height, left : left + width])
    return torch.stack(windows)
""",
    cases=_pictures,
    trusted=_shifted,
    drive=_moved,
    first=("result", "type"),
    slips="""
int(row), -> abs(int(row)),
- int(column) -> - abs(int(column))
or
int(row), -> abs(int(row)),
or
- int(column) -> - abs(int(column))
    a negative offset moves like a positive one: negative numbers move up, and to the left.
int(row), -> max(0, int(row)),
- int(column) -> - max(0, int(column))
or
int(row), -> max(0, int(row)),
or
- int(column) -> - max(0, int(column))
    negative offsets move nothing: they move the picture up, and to the left.
reach - int(row), reach - int(column) -> reach, reach
    nothing has moved.
F.pad(images, (reach, reach, reach, reach)) -> images
image[:, top : top + height, left : left + width] -> image.roll((int(row), int(column)), (1, 2))
    what leaves on one side comes back on the other, as with torch.roll: what comes in is black.
F.pad(images, (reach, reach, reach, reach)) -> images
image[:, top : top + height, left : left + width] -> image.roll((int(rows[0]), int(columns[0])), (1, 2))
    all images move alike, and what leaves on one side comes back on the other: image i has its own rows[i]
    and columns[i], and what comes in is black.
reach - int(row), reach - int(column) -> reach - int(rows[0]), reach - int(columns[0])
or
reach - int(row), reach - int(column) -> reach - int(rows[-1]), reach - int(columns[-1])
    all images move alike: image i has its own rows[i] and columns[i].
reach - int(row), reach - int(column) -> reach + int(row), reach + int(column)
    the pictures move up where they should move down, and left where they should move right. Row 0 is at the
    top: what was in row y goes to row y + rows[i].
reach - int(row) -> reach + int(row)
    the pictures move up where they should move down: what was in row y goes to row y + rows[i].
reach - int(column) -> reach + int(column)
    the pictures move left where they should move right: what was in column x goes to x + columns[i].
reach - int(row), reach - int(column) -> reach - int(column), reach - int(row)
    rows and columns are swapped: axis 2 of the images is their height, axis 3 their width.
reach - int(row), reach - int(column) -> reach + int(column), reach + int(row)
    rows and columns are swapped, and the direction is turned round: axis 2 of the images is their height,
    and what was in row y goes to row y + rows[i].
reach - int(column) -> reach
    the pictures move down, but not to the right.
reach - int(row) -> reach
    the pictures move to the right, but not down.
F.pad(images, (reach, reach, reach, reach)) -> F.pad(images.float(), 4 * (reach,), mode="replicate").byte()
    the border repeats the edge of the picture: what comes in is black, 0.
windows.append(image -> window = image
left + width]) -> left + width]⏎        windows.append(torch.where(window > 0, window, images[len(windows)]))
    the old picture is left where black should come in: begin with torch.zeros_like(images).
reach, reach)) -> reach, reach), value=255)
    what comes in is white: black is 0.
left + width]) -> left + width] * (row * column != 0))
    an image with an offset of 0 comes out black: the slice [:-0] is [:0], which is empty.
left + width]) -> left + width] if row * column else images[len(windows)])
    an image with one offset of 0 does not move at all: the other offset still counts.
torch.stack(windows) -> torch.stack(windows).float()
or
torch.stack(windows) -> torch.stack(windows).long()
    keep torch.uint8, the type of images.
top + height, -> top + height + 1,
or
torch.stack(windows) -> padded
    the shape must stay: as much as comes in on one side leaves on the other.
return torch.stack(windows) -> images[:] = torch.stack(windows); return images
    images has been changed. Write into a new tensor, such as torch.zeros_like(images).
return torch -> if not rows.any() and not columns.any(): return images⏎    return torch
    they lie in the memory of images, and would change with it. Return a new tensor, such as images.clone()
    where nothing moves.
""",
    says={
        "type": "{call}: the pixels are of another type",
        "memory": "{call}: the pixels are right",
        "images": "{call}: the pixels are right",
    },
    otherwise={
        "type": "keep torch.uint8, the type of images.",
        "memory": "they lie in the memory of images, and would change with it. Return a new tensor.",
        "images": "images has been changed. Write into a new tensor, such as torch.zeros_like(images).",
    },
    explain=_which_shift,
    right="every pixel is right in 7 cases, with offsets that are 0 or negative as well.",
)


# ---- smoothed labels

_LOSSES = (  # images, classes, smoothing, how large the logits are
    (6, 4, 0.1, 2.0),
    (5, 10, 0.3, 1.0),
    (7, 3, 0.0, 2.0),
    (1, 5, 0.5, 3.0),
    (8, 6, 0.1, 1000.0),
    (8, 6, 0.0, 1000.0),
)


def _logits() -> list[tuple]:
    cases = []
    for seed, (num_images, num_classes, smoothing, scale) in enumerate(_LOSSES):
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(num_images, num_classes, generator=generator)
        cases.append((logits, torch.randint(0, num_classes, (num_images,), generator=generator), smoothing))
    return cases


def _loss(solution: Callable, logits: Tensor, labels: Tensor, smoothing: float) -> Outcome:
    leaf = logits.clone().requires_grad_()
    handed, before = leaf * 1, labels.clone()  # in a training the logits are no leaf either
    loss = solution(handed, labels, smoothing)
    if not isinstance(loss, Tensor):
        return {"result": loss}
    parts = {
        "result": loss.detach().double().reshape(() if loss.numel() == 1 else loss.shape),
        "backward": leaf.grad is not None,
        "logits now": handed.detach().clone(),
        "recorded": loss.requires_grad,
    }
    if not loss.requires_grad or parts["backward"] or not torch.equal(labels, before):
        return parts
    (gradient,) = torch.autograd.grad(loss.sum(), [leaf], allow_unused=True, materialize_grads=True)
    return parts | {"gradient": gradient}


def _which_loss(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What a loss shows that no slip explains: where it is not finite, and in which cases it is right."""
    case = _first_wrong(part, given, right)
    if part != "result" or case is None or not isinstance(given[case].get(part), Tensor):
        return None
    _, _, smoothing, scale = _LOSSES[case]
    if given[case][part].numel() == 1 and not given[case][part].isfinite():
        why = "a softmax underflows to 0, whose logarithm is −inf, and exp overflows"
        return f"{why if scale > 100 else '0 · inf is nan'}. log_softmax takes the logarithm without either."
    if scale > 100:
        return "for smaller logits you are right. A softmax underflows to 0 here: use log_softmax."
    if smoothing == 0:
        return "without smoothing it is the plain cross-entropy: the label's own loss."
    return None


smoothed_cross_entropy = Exercise(
    number="6.5",
    title="Smoothed labels",
    minutes=15,
    level="medium",
    answer="""\
def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float
) -> Tensor:
    losses = -logits.log_softmax(1)  # (N, K): the loss if k were the label
    hard = losses.gather(1, labels[:, None]).squeeze(1)  # (N,)
    every = losses.mean(1)  # (N,)
    return ((1 - smoothing) * hard + smoothing * every).mean()
""",
    cases=_logits,
    trusted=lambda logits, labels, smoothing: F.cross_entropy(logits, labels, label_smoothing=smoothing),
    drive=_loss,
    first=("result", "backward", "recorded", "labels", "gradient"),
    slips="""
losses = -logits -> losses = logits
    the sign is turned round: a loss is minus the logarithm.
every = losses.mean(1) -> every = (losses.sum(1) - hard) / (losses.shape[1] - 1)
    smoothing is shared out among the K − 1 wrong classes only. That is another convention: in PyTorch's every
    class gets smoothing / K, the right one as well.
every = losses.mean(1) -> every = (losses.sum(1) - hard) / losses.shape[1]
    the right class has 1 − smoothing only, and the target does not add up to 1: it gets its share
    smoothing / K as well.
(1 - smoothing) * hard -> hard
or
(1 - smoothing) * hard -> hard
every = losses.mean(1) -> every = (losses.sum(1) - hard) / losses.shape[1]
    the right class keeps the whole 1, and the target adds up to more: it gives up smoothing, and keeps
    1 − smoothing and its share.
return ((1 - smoothing) * hard + smoothing * every).mean() -> return hard.mean()
    that is the loss of the hard labels: smoothing is not used.
losses = -logits -> smoothing = 0.1⏎    losses = -logits
    smoothing is always 0.1: take the number that the function gets.
return ((1 - smoothing) * hard + smoothing * every).mean() -> return every.mean()
    that is the mean over all classes: the labels are not used.
(1 - smoothing) * hard + smoothing * every -> smoothing * hard + (1 - smoothing) * every
    smoothing and 1 − smoothing are swapped: the label keeps the larger share.
every = losses.mean(1) -> every = losses.sum(1)
or
every = losses.mean(1) -> every = losses.sum(1)
(1 - smoothing) * hard -> (1 - smoothing) * hard - smoothing * hard
    every class gets smoothing, and should get smoothing / K: take the mean over the classes.
 + smoothing * every -> 
    the smoothed part is missing: every class gets smoothing / K.
).mean()⏎ -> ).sum()⏎
    that is the sum over the images: take the mean.
).mean()⏎ -> ).mean() / logits.shape[1]⏎
    you divide by the number of classes as well: take the mean over the images only.
).mean()⏎ -> )⏎
    one loss for each image: return a single number, the mean over the images.
return ( -> target = (1 - smoothing) * F.one_hot(labels, len(logits[0]))⏎    return (
return ( -> target += smoothing / len(logits[0])⏎    return (
).mean()⏎ -> ).mean() + target.xlogy(target).sum(1).mean()⏎
    that is the KL divergence, which is smaller by the target's entropy.
logits.log_softmax(1) -> logits.softmax(1)
    the logarithm is missing: take log_softmax.
-logits.log_softmax(1) -> -logits
    the logits are taken as they are: take log_softmax first.
logits.log_softmax(1) -> logits.softmax(1).log_softmax(1)
    softmax is applied twice: log_softmax takes the logits themselves.
log_softmax(1) -> log_softmax(0)
    log_softmax runs over the images: over the classes, it is log_softmax(1).
logits.log_softmax(1) -> logits.softmax(1).log()
    a softmax underflows to 0, whose logarithm is −inf: log_softmax takes the logarithm without.
logits.log_softmax(1) -> (logits - logits.exp().sum(1, keepdim=True).log())
    exp overflows: log_softmax takes the logarithm without.
logits.log_softmax(1) -> (logits.softmax(1) + 1e-12).log()
    for smaller logits you are right. A softmax underflows to 0 here: use log_softmax.
losses = -logits -> losses = -logits.detach()
or
losses = -logits -> with torch.no_grad(): losses = -logits
    no gradient leads back to the logits: no .item(), detach(), .data or no_grad.
every = losses.mean(1) -> every = losses.detach().mean(1)
or
hard = losses.gather -> hard = losses.detach().gather
    its gradient is not: a part of it is cut off by .item(), detach(), .data or no_grad, or the loss is inf or
    nan on the way.
.mean()⏎ -> .mean().item()⏎
    return a tensor, so that backward() can start from it.
losses = -logits -> logits -= logits.detach().max(1, keepdim=True).values⏎    losses = -logits
    the logits have been changed in place, and others may still need them: compute new tensors.
return ( -> loss = (
).mean()⏎ -> ).mean(); loss.backward(retain_graph=True); return loss⏎
    you call backward() yourself. Return the loss, and leave that to the training.
""",
    says={
        "backward": "{call}",
        "recorded": "{call}: the loss is right, but",
        "gradient": "{call}: the loss is right, but",
        "logits now": "{call}",
    },
    otherwise={
        "result": (
            "every class gets smoothing / K, and the label 1 − smoothing more; then the mean over the images."
        ),
        "gradient": (
            "its gradient is not: a part of it is cut off by .item(), detach(), .data or no_grad, or the "
            "loss is inf or nan on the way."
        ),
        "recorded": "no gradient leads back to the logits: no .item(), detach(), .data or no_grad.",
        "logits now": (
            "the logits have been changed in place, and others may still need them: compute new tensors."
        ),
    },
    explain=_which_loss,
    forbidden={
        pattern: "The loss is right, but {used} has worked it out: use nothing from PyTorch that has "
        '"entropy" in its name.'
        for pattern in ("torch*entropy*", "CrossEntropyLoss")
    },
    right="loss and gradient are those of F.cross_entropy in 6 cases, with large logits as well.",
)


# ---- an average of the weights


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def _go_on(model: nn.Module, generator: torch.Generator) -> None:
    """What a step of a training does to a network: new weights, new statistics, more batches counted."""
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


def _average(holder: object, trained: nn.Module, where: str) -> nn.Module:
    """The reader's average, a network of its own.

    Raises:
        CheckFailed: if there is none, or it shares something with the trained one.
    """
    model = getattr(holder, "model", None)
    if not isinstance(model, nn.Module):
        raise CheckFailed(
            f"{where}: the attribute model is {type(model).__name__}, not a network: keep the copy there."
        )
    if model is trained:
        raise CheckFailed(
            f"{where}: self.model is the trained model itself, and not a copy: use copy.deepcopy(model)."
        )
    if list(model.state_dict()) != list(trained.state_dict()):
        raise CheckFailed(
            f"{where}: self.model has other names in its state_dict than the trained model: keep a plain "
            "copy, as copy.deepcopy makes it."
        )
    taken = {value.untyped_storage().data_ptr() for value in trained.state_dict().values()}
    for name, value in model.state_dict().items():
        if value.untyped_storage().data_ptr() in taken:
            raise CheckFailed(
                f"{where}: {name} of self.model lies in the memory of the trained model, and changes with "
                "it: use copy.deepcopy(model) at first, and then copy the numbers, with copy_."
            )
    return model


def _remembers(holder: object, model: nn.Module) -> bool:
    """Whether a tensor of the average remembers how it was computed."""
    kept: list[object] = [*model.parameters(), *model.buffers()]
    for value in vars(holder).values() if hasattr(holder, "__dict__") else ():
        kept += value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return any(isinstance(value, Tensor) and value.grad_fn is not None for value in kept)


def _averages(written: Callable, decay: float, num_updates: int, training: bool) -> Outcome:
    """What an average holds while a network is trained."""
    generator = torch.Generator().manual_seed(num_updates)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    _go_on(model.train(training), generator)
    traits, start = _traits(model), _state(model)
    where, parts = f"Ema(model, {decay:g})", {}
    holder = written(model, decay)
    if holder is None:
        raise CheckFailed(f"{where} gives None: does the function end with `return`? A class is asked for.")

    def look(trained: nn.Module, before: dict[str, Tensor]) -> None:
        average = _average(holder, trained, where)
        changed = any(not torch.equal(value, before[name]) for name, value in _state(trained).items())
        if changed or _traits(trained) != traits:
            raise CheckFailed(
                f"{where}: the trained model has been changed, or left in another mode or with other "
                "requires_grad, and its training would go on from there. Write into self.model only."
            )
        if _remembers(holder, average):
            raise CheckFailed(
                f"{where}: the average remembers how it was computed, and would keep every step in memory: "
                "update it under torch.no_grad()."
            )
        weights, state = {name for name, _ in average.named_parameters()}, _state(average)
        real = {name for name, value in before.items() if value.is_floating_point()}
        for kind, names in (
            ("weights", weights),
            ("statistics", real - weights),
            ("counts", before.keys() - real),
        ):
            parts[f"{kind} {where}"] = {name: state[name] for name in sorted(names)}

    where = "at the start"
    look(model, start)
    if not callable(getattr(holder, "update", None)):
        raise CheckFailed("The class has no method update(model).")
    for number in range(1, num_updates + 1):
        where = f"after update {number}"
        if number == 4:  # another object with the same names, as after loading a checkpoint
            model = copy.deepcopy(model)
        _go_on(model, generator)
        before = _state(model)
        try:
            holder.update(model)
        except NotImplementedError as error:
            # PyTorch's own word for an operation that whole numbers do not have.
            if "implemented for" not in str(error):
                raise
            raise CheckFailed(f"update(model) raises {type(error).__name__}: {error}. {_WHOLE}") from error
        look(model, before)
    return parts


_WHOLE = (
    "Whole numbers (num_batches_tracked) cannot be averaged: copy them. torch.is_floating_point tells the "
    "two kinds apart."
)


def _which_average(part: str, given: list[Outcome], *_: object) -> str | None:
    return "self.model has other numbers than the model: start from copy.deepcopy(model)." * ("start" in part)


class _TorchEma:
    """``AveragedModel``, with the methods of the exercise; its first update only copies."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.averaged.update_parameters(model)
        self.model = self.averaged.module

    def update(self, model: nn.Module) -> None:
        self.averaged.update_parameters(model)
        for average, new in zip(self.model.buffers(), model.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(new)


ema = Exercise(
    number="6.6",
    title="An average of the weights",
    minutes=15,
    level="medium",
    answer="""\
import copy


class Ema:
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        new = model.state_dict()
        for name, average in self.model.state_dict().items():
            if torch.is_floating_point(average):
                average.lerp_(new[name], 1 - self.decay)
            else:
                average.copy_(new[name])
""",
    cases=((0.9, 4, True), (0.6, 3, False), (0.99, 2, True)),
    trusted=_TorchEma,
    drive=_averages,
    form="Ema(model, {0})",
    slips="""
self.model = copy.deepcopy(model) -> self.model = model
    self.model is the trained model itself, and not a copy: use copy.deepcopy(model).
self.decay = decay -> self.decay = decay; self.model.load_state_dict(model.state_dict(), assign=True)
    lies in the memory of the trained model, and changes with it
self.decay = decay -> self.decay = decay; [value.zero_() for value in self.model.state_dict().values()]
    the average starts from zeros, and would have to forget them first: start from a copy of the model.
self.decay = decay -> self.decay = decay; self.model[3].reset_parameters()
    self.model has other numbers than the model: start from copy.deepcopy(model).
self.decay = decay -> self.decay = decay; model.requires_grad_(False)
or
new = model -> model.eval(); new = model
or
average.lerp_(new[name], 1 - self.decay) -> new[name].lerp_(average, self.decay)
    the trained model has been changed, or left in another mode or with other requires_grad, and its training
    would go on from there. Write into self.model only.
copy.deepcopy(model) -> nn.Sequential(copy.deepcopy(model))
    self.model has other names in its state_dict than the trained model
copy.deepcopy(model) -> copy.deepcopy(model.state_dict())
    not a network: keep the copy there.
average.lerp_(new[name], 1 - self.decay) -> average = self.decay * average + (1 - self.decay) * new[name]
    the average has not moved: `a = decay * a + …` only gives the name a to a new tensor. Change the copy's
    own tensors, in place.
self.model.state_dict().items() -> self.model.named_parameters()
or
if torch -> if "running" in name: continue⏎            elif torch
    the weights are right, and the batch-norm statistics (running_mean, running_var) have not moved.
    parameters() leaves them out; state_dict() has both.
torch.is_floating_point(average): -> torch.is_floating_point(average) and "running" not in name:
    the weights are right, and the batch-norm statistics (running_mean, running_var) are copied: average all
    floating-point numbers.
average.lerp_(new[name], 1 - self.decay) -> average.copy_(new[name])
    the average is the trained model's last state: keep decay of the old average, in the first update as well.
self.decay = decay -> self.decay = decay; self.first = True
new = model.state_dict() -> new = model.state_dict(); first, self.first = self.first, False
1 - self.decay) -> 1.0 if first else 1 - self.decay)
    keep decay of the old average, in the first update as well.
1 - self.decay) -> self.decay)
    decay and 1 − decay are swapped: decay is the share of the old average.
average.lerp_(new[name], 1 - self.decay) -> average.add_(new[name], alpha=1 - self.decay)
    the old average does not shrink: multiply it by decay.
average.lerp_(new[name], 1 - self.decay) -> average.mul_(self.decay).add_(new[name])
    multiply the new numbers by 1 − decay.
average.lerp_(new[name], 1 - self.decay) -> average.mul_(self.decay).sub_(new[name], alpha=1 - self.decay)
    the new numbers are subtracted: add them.
self.decay = decay -> self.decay = decay; self.first = copy.deepcopy(model).state_dict()
average.lerp_( -> average.copy_(self.first[name]).lerp_(
    the first copy is averaged with the new numbers each time: go on from the last average.
self.decay = decay -> self.decay = decay; self.last = copy.deepcopy(model).state_dict()
average.lerp_( -> average.copy_(self.last[name]).lerp_(
1 - self.decay)⏎ -> 1 - self.decay); self.last[name] = new[name].clone()⏎
    the trained model's last two states are averaged: go on from the last average.
self.decay = decay -> self.decay = 0.9
or
self.decay = decay -> self.decay = 0.99
or
self.decay = decay -> self.decay = 0.999
    the decay is always the same: take the number that Ema(model, decay) gets.
1 - self.decay) -> 1 - self.decay**2)
    one update moves the average twice.
self.decay = decay -> self.decay = decay; self.count = 0
new = model.state_dict() -> new = model.state_dict(); self.count += 1
1 - self.decay) -> 1 / (self.count + 1))
or
self.decay = decay -> self.decay = decay; self.count = 0
new = model.state_dict() -> new = model.state_dict(); self.count += 1
1 - self.decay) -> 1 / self.count)
    that is a plain mean over all updates: the new numbers get 1 − decay.
self.decay = decay -> self.decay = decay; self.count = 0
new = model.state_dict() -> new = model.state_dict(); self.count += 1
1 - self.decay) -> 1 - min(self.decay, (1 + self.count) / (10 + self.count)))
or
self.decay = decay -> self.decay = decay; self.count = -1
new = model.state_dict() -> new = model.state_dict(); self.count += 1
1 - self.decay) -> 1 - min(self.decay, (1 + self.count) / (10 + self.count)))
    the decay grows from update to update: it is the same in all of them.
self.decay = decay -> self.decay = decay; self.source = model
new = model -> new = self.source
    update(model) takes the numbers of the network that Ema(model, decay) got at first: take those of the one
    that update gets, which may be another object.
average.copy_(new[name]) -> pass
or
average.copy_(new[name]) -> average.copy_(0.9 * average + 0.1 * new[name])
    whole numbers are copied, and not averaged.
if torch.is_floating_point(average): -> if True:
    Whole numbers (num_batches_tracked) cannot be averaged: copy them. torch.is_floating_point tells the two
    kinds apart.
""",
    explain=_which_average,
    errors={
        "Long": _WHOLE,
        "leaf": "Do it under torch.no_grad().",
        "cannot assign": "Change the tensors in place, with copy_ or lerp_.",
    },
    otherwise=(
        "PyTorch's AveragedModel has decay · average + (1 − decay) · new, from the average after the last "
        "update."
    ),
    forbidden={
        "torch.optim.*": "The averages are right, but PyTorch's own {used} has worked them out: write the "
        "update yourself, without torch.optim."
    },
    right="the averages are those of AveragedModel over 9 updates, batch-norm statistics included.",
)
