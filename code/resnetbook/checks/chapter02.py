"""The exercises of chapter 2: parameters, a gap and what it is, gradients by layer, a kernel that copies."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models, probes
from resnetbook.checks.common import CheckFailed
from resnetbook.checks.exercise import Exercise, Outcome, difference

# ---- parameters


def _real_parameters(depth: int, width: int) -> int:
    with torch.device("meta"):  # shapes without numbers
        return probes.count_parameters(models.cifar_resnet(depth, width=width, in_channels=1))


_BUILT = (
    "The counts are right, but a {used} was built to find them: the exercise asks for a formula. Write down "
    "each layer with its numbers, and add them up."
)

network_parameters = Exercise(
    number="2.1",
    title="The parameters of a network",
    minutes=15,
    level="medium",
    answer="""\
def network_parameters(depth: int, width: int) -> int:
    n = (depth - 2) // 6
    count = (9 * 1 + 2) * width  # the stem and its norm
    channels = width
    for out_channels in (width, 2 * width, 4 * width):
        count += (9 * channels + 2) * out_channels  # the first of the stage
        count += (2 * n - 1) * (9 * out_channels + 2) * out_channels
        channels = out_channels
    return count + (channels + 1) * 10  # the linear layer, with its biases
""",
    cases=((8, 16), (14, 16), (20, 16), (56, 16), (20, 4), (32, 7)),
    trusted=_real_parameters,
    slips="""
 + 2) -> )
    The batch norms are missing: two numbers for each channel.
 + 2) ->  + 1)
    A batch norm learns two numbers for each channel.
 + 2) ->  + 4)
    Running statistics are not learned, so they are no parameters.
 + 2) ->  + 3)
    These convolutions have no bias: a norm follows each.
9 * 1 + 2 -> 9 * 1
    The stem has a batch norm, too.
(channels + 1) -> channels
    The last linear layer has a bias for each class.
9 * channels -> 9 * out_channels
    The first convolution of a stage reads the channels of the stage before, half as many.
2 * n - 1 -> n - 1
    A block has two convolutions, so a stage of n blocks has 2n.
// 6 -> // 6 + 1
    There is one block too many in each stage: n is (depth - 2) / 6.
// 6 -> // 6 - 1
    There is one block too few in each stage: the one that changes the shape counts, too.
2 * n - 1 -> 2 * n
    There is one convolution too many in each stage: the first, which reads other channels, is one of its 2n.
channels = out -> count += (channels + 2) * out_channels * (channels < out_channels); channels = out
    There are no projections here: option A fills up with zeros, and needs no parameters.
2 * width, 4 * width -> width, width
    The width doubles from stage to stage: width, 2 · width, 4 · width.
(width, 2 * width, 4 * width) -> (2 * width, 4 * width, 8 * width)
    The first stage has `width` channels, like the stem: width, 2 · width, 4 · width.
9 * 1 -> 9 * 3
    Grey images have one channel: the stem reads 1, not 3.
(9 * 1 + 2) * width -> 0
    The stem is missing, the 3×3 convolution at the front.
count + (channels + 1) * 10 -> count
    The linear layer at the end is missing.
(channels + 1) -> (width + 1)
    The linear layer reads the channels of the last stage, 4 · width.
(channels + 1) -> (16 * channels + 1)
    The linear layer reads one number for each channel, the mean of its 4×4 map.
9 * -> 3 *
    A 3×3 convolution has nine weights for each pair of channels, not three.
9 * -> 1 *
    A 3×3 convolution has nine weights for each pair of channels, not one.
depth - 2 -> 8 - 2
    It is the same for every depth: does the formula use the argument `depth`?
n = (depth -> width = 16; n = (depth
    It is the same for every width: does the formula use the argument `width`?
""",
    otherwise="Write down each layer with its numbers, and add them up again.",
    forbidden={"Conv2d": _BUILT, "BatchNorm2d": _BUILT, "Linear": _BUILT},
    right="the counts are the network's in 6 cases.",
)


# ---- the gap between two depths


def _two_values(solution: Callable, shallow: list[float], deep: list[float]) -> Outcome:
    known = min(len(shallow), len(deep)) > 1
    call = degradation_gap.call((shallow, deep))
    given = solution(shallow, deep)
    if given is None and not known:
        raise CheckFailed(
            f"{call} gives None. The gap is known there, too: return two values, and None only in the place "
            "of a standard error that cannot be known."
        )
    if given is None:
        raise CheckFailed(f"{call} gives None: does the function end with `return`?")
    pair = isinstance(given, tuple | list) or isinstance(given, Tensor | np.ndarray) and given.ndim == 1
    if not pair or len(given) != 2:
        raise CheckFailed(f"{call} gives {given!r}: return two values, the gap and its standard error.")
    gap, error = ("None" if value is None else value for value in given)
    return {"gap": gap, "standard error" if known else "error of one": error}


degradation_gap = Exercise(
    number="2.2",
    title="A gap and its standard error",
    minutes=10,
    level="medium",
    answer="""\
import statistics


def degradation_gap(
    shallow: list[float], deep: list[float]
) -> tuple[float, float | None]:
    gap = statistics.fmean(deep) - statistics.fmean(shallow)
    if min(len(shallow), len(deep)) < 2:
        return gap, None
    parts = [statistics.variance(v) / len(v) for v in (shallow, deep)]
    return gap, sum(parts) ** 0.5
""",
    cases=(
        ([0.1712, 0.1637, 0.1795], [0.4921, 0.4518, 0.5634, 0.4702]),  # of different length
        ([0.3013, 0.3429], [0.3104, 0.2917, 0.3371, 0.3718, 0.3546]),
        ([0.2513, 0.2498, 0.3127], [0.2049, 0.2118, 0.1936]),  # the deep one is better
        ([0.2017], [0.3021, 0.3198]),
        ([0.2017, 0.2231], [0.3021]),
        ([0.2017], [0.3021]),
    ),
    drive=_two_values,
    first=("result", "gap", "standard error", "error of one"),
    slips="""
return gap, None -> return None, gap
return gap, sum(parts) ** 0.5 -> return sum(parts) ** 0.5, gap
or
return gap, sum(parts) ** 0.5 -> return sum(parts) ** 0.5, gap
    the standard error comes first: return the gap, then its error.
return gap, -> return None,
    there is no gap. The means are known, even of a single value each.
return gap, -> return abs(gap),
    keep the sign. Where the deep network is better, the gap is negative.
return gap, -> return -gap,
    subtract the other way round, deep minus shallow, so that worse is positive.
statistics.fmean(deep) - statistics.fmean(shallow) -> min(deep) - min(shallow)
or
statistics.fmean(deep) - statistics.fmean(shallow) -> max(deep) - max(shallow)
or
statistics.fmean(deep) - statistics.fmean(shallow) -> max(deep) - min(shallow)
or
statistics.fmean(deep) - statistics.fmean(shallow) -> min(deep) - max(shallow)
    the best or worst seed is a matter of luck: compare the means.
statistics.fmean( -> sum(
    these are sums: divide each by its own number of seeds.
statistics.fmean( -> statistics.median(
    these are medians: compare the means.
fmean(deep) - statistics.fmean(shallow) -> fmean(b - a for a, b in zip(shallow, deep))
    the lists are not pairs, and may differ in length: take the mean of each list by itself.
return gap, -> return gap / statistics.fmean(shallow),
    do not divide by the shallow loss: the gap is a difference.
return gap, sum(parts) -> return gap / sum(parts) ** 0.5, sum(parts)
    do not divide by the standard error: return the two side by side.
return gap, -> return round(gap, 1),
sum(parts) ** 0.5 -> round(sum(parts) ** 0.5, 1)
or
return gap, -> return round(gap, 2),
sum(parts) ** 0.5 -> round(sum(parts) ** 0.5, 2)
or
return gap, -> return round(gap, 3),
sum(parts) ** 0.5 -> round(sum(parts) ** 0.5, 3)
or
return gap, -> return round(gap, 4),
sum(parts) ** 0.5 -> round(sum(parts) ** 0.5, 4)
    it is rounded: return all digits.
sum(parts) ** 0.5 -> None
    there is no standard error, but both sides have several values.
statistics.variance -> statistics.pvariance
    the variance of a sample has the divisor n - 1, as in statistics.variance.
statistics.variance(v) / len(v) -> statistics.variance(v)
    this is the spread of single runs. A mean of n runs is steadier: divide each variance by its n.
statistics.variance(v) / len(v) -> statistics.pvariance(v)
    this is the spread of single runs, and with the divisor n. The variance of a sample has n - 1; then divide
    each variance by its n.
sum(parts) ** 0.5 -> sum(parts)
    this is its square: take the square root.
/ len(v) -> / len(v) ** 2
    each variance is divided by its n once more. A standard error holds that division already: add the squares
    of the two standard errors, or divide the variances once.
/ len(v) -> / (len(v) - 1)
    the n - 1 stands in the variance already: then divide it by n.
sum(parts) ** 0.5 -> (sum(parts) / 2) ** 0.5
    variances add up: do not take the mean of the two.
sum(parts) ** 0.5 -> (sum(parts) / len(shallow + deep)) ** 0.5
    it is divided once more, by the number of all seeds: each variance by its own n is enough.
sum(parts) ** 0.5 -> sum(part**0.5 for part in parts)
    standard errors do not add up, their squares do: add the variances first, then take the root.
statistics.variance -> statistics.stdev
sum(parts) ** 0.5 -> sum(parts)
    divide the variance by n, not the standard deviation.
statistics.variance -> statistics.stdev
    these are standard deviations under the root: the formula has their squares, the variances.
in (shallow, deep) -> in (shallow,)
    the deep side has a spread as well: add both.
in (shallow, deep) -> in (deep,)
    the shallow side has a spread as well: add both.
sum(parts) ** 0.5 -> abs(parts[1] - parts[0]) ** 0.5
    the means are subtracted, but their variances add up: both make the gap uncertain.
/ len(v) for v in (shallow, deep) -> / len(w) for v, w in ((shallow, deep), (deep, shallow))
    each variance is divided by the other side's n: divide it by its own.
/ len(v) -> / len(shallow + deep)
    divide each variance by its own n, and not the sum by both together.
/ len(v) -> * (len(v) - 1) / (len(shallow + deep) - 2)
sum(parts) -> (sum(parts) * (1 / len(shallow) + 1 / len(deep)))
    this pools the variances, but the two sides may differ in spread: divide each by its own n.
in (shallow, deep) -> in (shallow + deep,)
    this is the error of a single mean, over both lists thrown together: take each side by itself.
in (shallow, deep) -> in ([b - a for a, b in zip(shallow, deep)],)
    the lists are not pairs, and may differ in length: take the variance of each by itself.
sum(parts) ** 0.5 -> 1.96 * sum(parts) ** 0.5
    this is half of a 95% interval: leave the factor 1.96 out.
return gap, None -> return gap, 0.0
or
return gap, None -> return gap, float("nan")
    one value has no spread, and that is not a spread of 0: return None for what cannot be known.
""",
    says={part: f"as the {part}, {{call}} {{problem}}" for part in ("gap", "standard error")}
    | {"error of one": "as the standard error, {call} {problem}"},
    otherwise={
        "gap": "subtract the mean of the shallow losses from the mean of the deep ones.",
        "standard error": "for each side, variance divided by n; add both; take the root.",
        "error of one": "return None for what cannot be known: one value has no spread.",
    },
    right="gap and standard error are right, and unknown where one side has a single seed.",
)


# ---- degradation or overfitting

_ANSWERS = ("degradation", "overfitting", "not clear", "neither")


def _middle(interval: tuple[float, float]) -> float:
    return 0.0 if math.isinf(interval[0]) else sum(interval) / 2


def _not_a_word(part: str, given: list[Outcome], *_: list[Outcome]) -> str | None:
    unknown = [o for o in given if not isinstance(o["result"], str) or o["result"] not in _ANSWERS]
    return f"Return one of the words {', '.join(map(repr, _ANSWERS))}." if unknown else None


diagnose = Exercise(
    number="2.3",
    title="Degradation or overfitting?",
    minutes=10,
    level="easy",
    answer="""\
def diagnose(
    training: tuple[float, float], test: tuple[float, float]
) -> str:
    if test[0] <= 0:
        return "neither"
    if training[0] > 0:
        return "degradation"
    if training[1] < 0:
        return "overfitting"
    return "not clear"
""",
    cases=(
        ((0.08, 0.15), (0.06, 0.12)),
        ((-0.05, -0.02), (0.01, 0.03)),
        ((-0.01, 0.02), (0.01, 0.03)),
        ((-0.04, -0.02), (-0.02, 0.01)),
        ((0.02, 0.03), (0.03, 0.07)),  # degradation, though the distance to the test has grown
        ((0.02, 0.05), (-0.03, -0.01)),  # worse to train, and yet better on the test
        ((0.02, 0.05), (-0.03, 0.01)),
        ((0.02, 0.05), (-0.01, 0.09)),  # the middle is larger, and not clearly so
        ((-0.01, 0.09), (0.02, 0.10)),
        ((-0.09, 0.01), (0.02, 0.10)),
        ((-0.05, -0.02), (-0.03, -0.01)),  # better in both
        ((-0.01, 0.02), (-0.03, -0.01)),
        ((-0.01, 0.02), (-0.01, 0.02)),
        ((0.0, 0.03), (0.01, 0.03)),  # an interval that ends at 0 does not leave it out
        ((-0.03, 0.0), (0.01, 0.03)),
        ((0.02, 0.05), (0.0, 0.03)),
        ((-math.inf, math.inf), (0.01, 0.03)),  # one seed: no spread
        ((0.02, 0.05), (-math.inf, math.inf)),
        ((1e-4, 4e-4), (2e-4, 3e-4)),  # small, and clear
        ((-4e-4, -1e-4), (2e-4, 3e-4)),
        ((2e-7, 4e-7), (0.01, 0.03)),
        ((-4e-7, -2e-7), (0.01, 0.03)),
        ((0.02, 0.05), (2e-7, 4e-7)),
    ),
    scope={"middle": _middle},  # for slips
    slips="""
"degradation" -> "other"
"overfitting" -> "degradation"
"other" -> "overfitting"
    You have swapped the two words: overfitting is what makes the training error smaller.
"degradation" -> "overfitting"
"not clear" -> "overfitting"
    The test error alone cannot tell the two apart: look at the training error as well.
test[0] <= 0 -> False
    You look at the training error alone: if the test error is not clearly larger, it is 'neither'.
if test -> if training[0] > 0:⏎        return "degradation"⏎    if test
    Ask for the test error first: where it is not clearly larger, nothing is to be explained.
training[0] > 0 -> middle(test) <= middle(training)
"not clear" -> "overfitting"
    The test error may grow more than the training error in both cases. Ask whether the training error itself
    has grown.
if test -> training, test = [(middle(i), middle(i)) for i in (training, test)]⏎    if test
or
if test -> training, test = [(i[0], i[0]) for i in (training, test)]⏎    if test
or
if test -> training, test = [(i[1], i[1]) for i in (training, test)]⏎    if test
    What counts is the whole interval. An error is clearly larger if even the lower end is above 0, and
    clearly smaller if even the upper end is below.
if test -> training = [middle(training)] * 2⏎    if test
    The training error is judged by its middle: what counts is the whole interval.
if test -> test = [middle(test)] * 2⏎    if test
    The test error is judged by its middle: what counts is the whole interval.
test[0] <= 0 -> test[0] < 0
training[0] > 0 -> training[0] >= 0
training[1] < 0 -> training[1] <= 0
or
test[0] <= 0 -> test[0] < 0
or
training[0] > 0 -> training[0] >= 0
training[1] < 0 -> training[1] <= 0
    An interval that ends at 0 does not leave 0 out: there the difference is not clear.
"not clear" -> "overfitting"
or
"not clear" -> "degradation"
    Where the training error is neither clearly larger nor clearly smaller, it is 'not clear': the seeds do
    not tell.
"not clear" -> "neither"
    Here the test error is clearly larger, so there is something to explain, and the seeds do not tell what:
    'not clear'.
"neither" -> "not clear" if test[1] >= 0 else "neither"
    Where the test error is not clearly larger there is nothing to explain: 'neither'.
test[0] <= 0 -> test[0] <= 0 <= test[1]
    A test error that is clearly smaller does no harm: ask whether it is larger.
if test -> training, test = test, training⏎    if test
    The first interval is that of the training error, the second that of the test error.
if test -> training, test = [(-high, -low) for low, high in (training, test)]⏎    if test
    The intervals are of deep minus shallow: above 0 the deep network is the worse one.
if test -> training, test = [(low - 5e-3, high + 5e-3) for low, high in (training, test)]⏎    if test
or
if test -> training, test = [(low - 1e-3, high + 1e-3) for low, high in (training, test)]⏎    if test
or
if test -> training, test = [(low - 5e-4, high + 5e-4) for low, high in (training, test)]⏎    if test
or
if test -> training, test = [(low - 1e-6, high + 1e-6) for low, high in (training, test)]⏎    if test
    A difference may be small and clear: the interval holds all that chance does, so add no tolerance of your
    own.
""",
    explain=_not_a_word,
    otherwise=(
        "Write down the questions one after the other: is the test error clearly larger? Is the training "
        "error clearly larger, or clearly smaller?"
    ),
    right="23 pairs of intervals, and each diagnosis is the one that the definitions give.",
)


# ---- gradients by layer

_LAYERS = nn.Conv2d | nn.Linear


def _losses() -> list[tuple[nn.Module, Tensor]]:
    cases = []
    # Whether gradients of an earlier step lie around, as in a real training; whether in training mode.
    settings = ((8, False, False, False), (8, True, True, True), (14, False, True, False))
    for seed, (depth, residual, stale, training) in enumerate(settings):
        torch.manual_seed(seed)
        model = models.cifar_resnet(depth, residual=residual, width=4, in_channels=1)
        x, y = torch.randn(6, 1, 8, 8), torch.randint(0, 10, (6,))
        model.train(training)
        if stale:
            F.cross_entropy(model(x.flip(0) + 1), y).backward()
        cases.append((model, F.cross_entropy(model(x), y)))
    return cases


def _norms(solution: Callable, model: nn.Module, loss: Tensor) -> Outcome:
    found = solution(model, loss)
    if not isinstance(found, dict):
        what = "None: does the function end with `return`?" if found is None else f"a {type(found).__name__}."
        raise CheckFailed(f"{_CALL} gives {what} Return a dict, the layer's name and its norm.")
    hooked = (*model.parameters(), *model.modules())
    hooks = sum(len(getattr(part, name, None) or ()) for part in hooked for name in _HOOKS)
    return {"layers": sorted(map(str, found)), "result": found, "hooks": hooks}


_CALL = "gradient_norms(model, loss)"
_HOOKS = (
    "_backward_hooks",
    "_post_accumulate_grad_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
)


def _by_autograd(model: nn.Module, loss: Tensor) -> dict[str, float]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _LAYERS)}
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    for layer, gradient in zip(layers.values(), gradients, strict=True):
        layer.weight.grad = gradient  # for _old_gradients
    return {name: layer.weight.grad.norm().item() for name, layer in layers.items()}


def _which_layers(part: str, given: list[Outcome], right: list[Outcome], start: list[Outcome]) -> str | None:
    """Which layers are there and should not be, or are wrong while others are right."""
    for mine, theirs, before in zip(given, right, start, strict=False):
        if part == "layers" and mine["layers"] != theirs["layers"]:
            return _other_layers(mine["layers"], theirs["layers"])
        if part == "result" and "layers" in mine and mine["layers"] == theirs["layers"]:
            wrong = [k for k, norm in theirs["result"].items() if difference(mine["result"][k], norm, 1e-4)]
            if wrong:
                return _old_gradients(wrong, mine, theirs, before)
    return None


def _other_layers(mine: list[str], theirs: list[str]) -> str | None:
    missing = [name for name in theirs if name not in mine]
    extra = [name for name in mine if name not in theirs]
    if len(extra) == len(mine) == len(theirs):
        return f"use the names that model.named_modules() gives, such as {theirs[1]!r}, not {extra[0]!r}."
    if extra:
        return (
            f"there are {len(extra)} entries too many, such as {extra[0]!r}. Take the weights of "
            "convolutions and linear layers, and nothing else."
        )
    return f"{len(missing)} of {len(theirs)} layers are missing, such as {missing[0]!r}."


def _old_gradients(wrong: list[str], mine: Outcome, theirs: Outcome, before: Outcome) -> str | None:
    new, old = (outcome["gradients of model"] for outcome in (theirs, before))
    weights = {name: f"{name}.weight" for name in wrong if old[f"{name}.weight"] is not None}
    for held, tensors in (
        ("an old gradient was added to it", {name: new[w] + old[w] for name, w in weights.items()}),
        ("this is an old gradient", {name: old[w] for name, w in weights.items()}),
    ):
        if tensors and not any(
            difference(mine["result"][k], float(t.norm()), 1e-4) for k, t in tensors.items()
        ):
            return (
                f"{held}. It is so in {len(wrong)} of {len(theirs['result'])} layers: clear the gradients of "
                "all layers before backward(), with model.zero_grad()."
            )
    if wrong == ["fc"]:
        return (
            "all others are right. Treat the linear layer as the convolutions: the gradient in its weight, "
            "square, add, take the root."
        )
    return None


gradient_norms = Exercise(
    number="2.4",
    title="The gradient of each layer",
    minutes=15,
    level="medium",
    answer="""\
def gradient_norms(model: nn.Module, loss: Tensor) -> dict[str, float]:
    model.zero_grad()
    loss.backward()
    return {
        name: layer.weight.grad.norm().item()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
""",
    cases=_losses,
    drive=_norms,
    trusted=_by_autograd,
    first=("layers", "result"),
    ignored=("gradients of model",),
    tolerance=1e-4,
    slips="""
name: layer -> f"{name}.weight": layer
    the keys are names of parameters: use the layer's name, 'conv1' for 'conv1.weight'.
nn.Conv2d | nn.Linear -> nn.Conv2d | nn.Linear | nn.BatchNorm2d
    the batch norms are too many: take the weights of convolutions and linear layers, and nothing else.
nn.Conv2d | nn.Linear -> nn.Conv2d
    the linear layer 'fc' is missing.
model.zero_grad() -> pass
    gradients add up, and old ones lie around. Call model.zero_grad() before backward(), or use
    torch.autograd.grad.
model.zero_grad()⏎    loss.backward() -> loss.backward()⏎    model.zero_grad(set_to_none=False)
    all of them are 0. Clear old gradients before backward(), not after it.
weight.grad.norm -> weight.norm
    this is the norm of the weights: measure their gradient, weight.grad.
norm().item() -> square().sum().item()
    this is the square of the norm: take the root.
norm().item() -> abs().mean().item()
    this is the mean size of a gradient: the L2 norm is the root of the sum.
norm().item() -> abs().sum().item()
    this is the L1 norm, a sum of sizes: square, add, take the root.
norm().item() -> abs().max().item()
    this is the largest entry: the L2 norm counts all of them.
norm().item() -> std().item()
    this is the standard deviation: the L2 norm does not divide by the count.
norm().item() -> square().mean().sqrt().item()
    this is the root of the mean: the L2 norm takes the sum.
norm().item() -> square().mean().item()
    this is the mean of the squares: take their sum, then the root.
norm().item() -> sum().item()
    this is a plain sum, in which signs cancel: square, add, take the root.
norm().item() -> mean().item()
    this is a plain mean, in which signs cancel: square, add, take the root.
norm().item() -> norm().item() / layer.weight.numel()
    do not divide by the number of entries.
norm().item() -> norm().log10().item()
    this is its logarithm: return the norm itself.
loss.backward() -> loss.backward(retain_graph=True); loss.backward()
    this is twice as much: go backward only once, gradients add up.
layer.weight.grad.norm() -> torch.linalg.matrix_norm(layer.weight.grad.flatten(1), 2)
    this is the norm of a matrix, its largest singular value: flatten the gradient first.
norm().item() -> norm().item() * layer.weight.norm().item()
    this is the product with the norm of the weights: here the gradient alone.
norm().item() -> norm().item() / layer.weight.norm().item()
    it is divided by the norm of the weights: here the gradient alone.
layer.weight.grad.norm() -> sum(p.grad.square().sum() for p in layer.parameters()).sqrt()
    all others are right. Take the gradient of its weight alone, without the bias.
""",
    says={
        "layers": "{call}",
        "result": "{call}: {problem}",
        "parameters of model": "the norms are right, but the weights have changed: only look, take no step",
        "running statistics of model": (
            "the norms are right, but the running statistics of a batch norm have moved: `loss` is computed "
            "already, so do not call the model again"
        ),
        "hooks": (
            "the norms are right, but a hook is left behind, and will run at every step: call remove() on "
            "what register_hook gives"
        ),
    },
    errors={
        "'NoneType' object has no attribute": (
            "A gradient is None before loss.backward(), and again after model.zero_grad(): first clear, then "
            "go backward, then read."
        ),
    },
    explain=_which_layers,
    otherwise={
        "result": "take the gradient of `loss` in the layer's weight, square, add, take the root.",
    },
    forbidden={
        "resnetbook.probes.gradient_norms": (
            "The norms are right, but the book's own probes.gradient_norms has found them: write it yourself."
        ),
    },
    right="the norms are autograd's, layer by layer, also where old gradients lie around.",
)


# ---- a kernel that copies


def _kernel(solution: Callable, channels: int) -> Outcome:
    kernel = solution(channels)
    return {"result": kernel, "type": str(getattr(kernel, "dtype", None))}


def _which_weights(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What the weights tell, whatever made them."""
    if part != "result":
        return None
    for kernel, theirs in ((m["result"], t["result"]) for m, t in zip(given, right, strict=False)):
        if not isinstance(kernel, Tensor):
            return None
        if kernel.shape != theirs.shape:
            return "the dimensions are: output channels, input channels, 3 rows, 3 columns."
        if kernel.dtype != theirs.dtype:
            return "weights are float32."
        if torch.equal(kernel.cpu(), theirs):
            continue
        if not kernel.isfinite().all():
            return (
                "Some weights are no finite numbers. Begin with torch.zeros: torch.empty holds whatever was "
                "in memory."
            )
        centre = kernel.detach()[:, :, 1, 1]
        if not centre.any() and kernel.any():
            return (
                "The image is shifted, because the ones are not in the centre. Rows and columns count from "
                "0: the centre is [1, 1]."
            )
        diagonal = centre.diagonal()
        if kernel.count_nonzero() == diagonal.count_nonzero() == len(kernel):
            factor = next(value for value in diagonal.tolist() if value != 1)
            return f"A channel is scaled by {factor!r}. Put 1 in the centre."
        return None
    return None


dirac_kernel = Exercise(
    number="2.5",
    title="A convolution that copies",
    minutes=10,
    level="easy",
    answer="""\
def dirac_kernel(channels: int) -> Tensor:
    kernel = torch.zeros(channels, channels, 3, 3)
    kernel[:, :, 1, 1] = torch.eye(channels)
    return kernel
""",
    cases=((3,), (1,), (16,), (300,)),  # 300: more than a byte can count
    drive=_kernel,
    trusted=lambda channels: nn.init.dirac_(torch.empty(channels, channels, 3, 3)),
    tolerance=0.0,
    slips="""
kernel[:, :, 1, 1] = torch.eye(channels) -> pass
    All weights are 0, so the output is 0 as well. A copy needs ones.
kernel[:, :, 1, 1] = torch.eye(channels) -> kernel[:] = 1
or
kernel[:, :, 1, 1] = torch.eye(channels) -> kernel[:] = torch.eye(channels)[:, :, None, None]
    A pixel is mixed with its neighbours. Only the centre, [1, 1], may differ from 0.
torch.eye(channels) -> 1
    Each output adds up several input channels. Output channel c takes from input channel c alone.
torch.eye(channels) -> torch.eye(channels).flip(0)
or
torch.eye(channels) -> torch.eye(channels).roll(1, 0)
    The channels come out in another order. Output channel c takes from input channel c alone.
torch.eye(channels) -> torch.eye(channels)[torch.arange(channels) % 256]
or
torch.eye(channels) -> torch.eye(channels)[:1]
    Some channels are taken twice, and others never. Output channel c takes from input channel c alone.
kernel[:, :, 1, 1] = torch.eye(channels) -> kernel[0, 0, 1, 1] = 1
    Some channels are 0: every channel needs its own 1.
return kernel -> return kernel.double()
    weights are float32.
""",
    says={"type": "{call} has another type"},
    explain=_which_weights,
    otherwise="Output channel c takes from input channel c alone: a 1 in the centre, and 0 everywhere else.",
    forbidden={
        "torch.nn.init.dirac_": (
            "The kernel is right, but nn.init.dirac_ has made it: begin with zeros, and put the ones in "
            "yourself."
        ),
    },
    right="a convolution with your kernel copies its input exactly, for 1, 3, 16 and 300 channels.",
)
