"""Depth: parameters, the gap between two depths, what it is, gradients by layer, kernels that copy."""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models, probes
from resnetbook.checks.common import CheckFailed, answer_of, call_reader, compare_counts, exercise


def _network_formula(
    depth: int,
    width: int,
    *,
    norms: int = 2,
    stem_norm: bool = True,
    biases: bool = False,
    output_bias: bool = True,
    first_reads: str = "stage before",
    convs: int = 2,
    extra_blocks: int = 0,
    projections: bool = False,
    widths: tuple[int, int, int] = (1, 2, 4),
    in_channels: int = 1,
    stem: bool = True,
    output_from: int | None = None,
    output: bool = True,
) -> int:
    """Parameters of a plain network for grey images, ten classes; the options make mistakes."""
    num_blocks = (depth - 2) // 6 + extra_blocks
    each = norms + biases  # numbers for each output channel, beside the weights
    count = (9 * in_channels + each) * width * stem
    channels = width
    for factor in widths:
        out_channels = factor * width
        first = channels if first_reads == "stage before" else out_channels
        count += (9 * first + each) * out_channels
        count += (convs * num_blocks - 1) * (9 * out_channels + each) * out_channels
        channels = out_channels
    if not stem_norm:
        count -= norms * width
    if projections:
        count += sum((width * f // 2 + 2) * width * f for f in widths[1:])
    # output_from: numbers that the linear layer reads, in multiples of the width
    reads = channels if output_from is None else output_from * width
    return count + (reads + output_bias) * 10 * output


@exercise
def network_parameters(solution: Callable[[int, int], int]) -> str:
    """Check ``network_parameters(depth, width)``: grey images, ten classes, plain or option A.

    Raises:
        CheckFailed: if a count is not that of :func:`resnetbook.models.cifar_resnet`.
    """
    cases = ((8, 16), (14, 16), (20, 16), (56, 16), (20, 4), (32, 7))

    def trusted(depth: int, width: int) -> int:
        with torch.device("meta"):
            return probes.count_parameters(models.cifar_resnet(depth, width=width, in_channels=1))

    formula = functools.partial
    compare_counts(
        solution,
        "network_parameters",
        cases,
        trusted,
        (
            (
                formula(_network_formula, norms=0),
                "The batch norms are missing: two numbers for each channel.",
            ),
            (formula(_network_formula, norms=1), "A batch norm learns two numbers for each channel."),
            (
                formula(_network_formula, norms=4),
                "Running statistics are not learned, so they are no parameters.",
            ),
            (formula(_network_formula, biases=True), "These convolutions have no bias: a norm follows each."),
            (formula(_network_formula, stem_norm=False), "The stem has a batch norm, too."),
            (
                formula(_network_formula, output_bias=False),
                "The last linear layer has a bias for each class.",
            ),
            (
                formula(_network_formula, first_reads="own"),
                "The first convolution of a stage reads the channels of the stage before it, half as many.",
            ),
            (
                formula(_network_formula, convs=1),
                "A block has two convolutions, so a stage of n blocks has 2n.",
            ),
            (
                formula(_network_formula, extra_blocks=1),
                "There is one block too many in each stage: n is (depth - 2) / 6.",
            ),
            (
                formula(_network_formula, extra_blocks=-1),
                "There is one block too few in each stage: the one that changes the shape counts, too.",
            ),
            (
                formula(_network_formula, projections=True),
                "There are no projections here: option A fills up with zeros, and needs no parameters.",
            ),
            (
                formula(_network_formula, widths=(1, 1, 1)),
                "The width doubles from stage to stage: width, 2 · width, 4 · width.",
            ),
            (
                formula(_network_formula, widths=(2, 4, 8)),
                "The first stage has `width` channels, like the stem: width, 2 · width, 4 · width.",
            ),
            (
                formula(_network_formula, in_channels=3),
                "Grey images have one channel: the stem reads 1, not 3.",
            ),
            (formula(_network_formula, stem=False), "The stem is missing, the 3×3 convolution at the front."),
            (formula(_network_formula, output=False), "The linear layer at the end is missing."),
            (
                formula(_network_formula, output_from=1),
                "The linear layer reads the channels of the last stage, 4 · width.",
            ),
            (
                formula(_network_formula, output_from=4 * 16),
                "The linear layer reads one number for each channel, the mean of its 4×4 map.",
            ),
            (
                lambda depth, width: _network_formula(depth, 16),
                "It is the same for every width: does the formula use the argument `width`?",
            ),
        ),
    )
    return f"the counts are the network's in {len(cases)} cases."


def _variance(values: Sequence[float], divisor: int) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / divisor


def _error(shallow: Sequence[float], deep: Sequence[float]) -> float:
    """The standard error of the difference of two means."""
    return math.sqrt(sum(_variance(v, len(v) - 1) / len(v) for v in (shallow, deep)))


def _pooled(shallow: Sequence[float], deep: Sequence[float]) -> float:
    """The variance of both sides, if they are taken to have the same."""
    squares = sum(_variance(v, 1) for v in (shallow, deep))
    return squares / (len(shallow) + len(deep) - 2)


def _number(value: object, what: str) -> float:
    """A number of the reader's as a float; a tensor or an array with one number is one, too."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1:
        value = value.item()
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        if isinstance(value, Tensor | np.ndarray):
            given = f"a {type(value).__name__} of shape {tuple(value.shape)}"
        else:
            given = repr(value)
        raise CheckFailed(f"the {what} is {given}: it must be a number.")
    return number


@exercise
def degradation_gap(solution: Callable[[list[float], list[float]], tuple]) -> str:
    """Check ``degradation_gap(shallow, deep)``: a difference of means, and its standard error.

    Raises:
        CheckFailed: if one of them is wrong, or there is an error where it cannot be known.
    """
    cases = (
        ([0.17, 0.16, 0.18], [0.49, 0.45, 0.56]),
        ([0.30, 0.34], [0.31, 0.29, 0.33, 0.37, 0.35]),  # of different length
        ([0.25, 0.25, 0.31], [0.20, 0.21, 0.19]),  # the deep one is better
        ([0.20], [0.30, 0.32]),
        ([0.20, 0.22], [0.30]),
        ([0.20], [0.30]),
    )
    for i, (shallow, deep) in enumerate(cases):
        call = f"degradation_gap({shallow}, {deep})"
        # Copies: a solution that sorts or empties its lists must not spoil the comparison.
        given = call_reader(solution, list(shallow), list(deep), describe=call, begun=i > 0)
        if given is None and i > 0:
            raise CheckFailed(
                f"{call} gives None. The gap is known there, too: return two values, and None only in the "
                "place of a standard error that cannot be known."
            )
        if given is None:
            raise CheckFailed(f"{call} gives None: does the function end with `return`?")
        pair = isinstance(given, tuple | list) or (isinstance(given, Tensor | np.ndarray) and given.ndim == 1)
        if not pair or len(given) != 2:
            raise CheckFailed(f"{call} gives {given!r}: return two values, the gap and its standard error.")
        gap = math.fsum(deep) / len(deep) - math.fsum(shallow) / len(shallow)
        if given[0] is None:
            raise CheckFailed(f"{call} gives no gap. The means are known, even of a single value each.")
        mine = _number(given[0], f"gap of {call}")
        single = min(len(shallow), len(deep)) < 2
        if not single and not _same(mine, gap) and _same(mine, _error(shallow, deep)):
            raise CheckFailed(f"{call} gives the standard error first: return the gap, then its error.")
        _compare_gap(call, mine, gap, shallow, deep)
        if single:
            if given[1] is not None:
                raise CheckFailed(
                    f"{call} gives the standard error {given[1]!r}. One value has no spread, and that is "
                    "not a spread of 0: return None for what cannot be known."
                )
            continue
        if given[1] is None:
            raise CheckFailed(f"{call} gives no standard error, but both sides have several values.")
        _compare_error(call, _number(given[1], f"standard error of {call}"), shallow, deep)
    return "gap and standard error are right, and unknown where one side has a single seed."


def _same(a: float, b: float) -> bool:
    # Wide enough for float32: a difference of numbers below 1 is off by some 1e-7 there.
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


def _compare_gap(call: str, mine: float, gap: float, shallow: list[float], deep: list[float]) -> None:
    """Compare the gap with the right one.

    Raises:
        CheckFailed: if it differs.
    """
    if _same(mine, gap):
        return
    said = f"{call} gives the gap {mine:.6g}, and it is {gap:.6g}: "
    sizes = (len(shallow), len(deep))
    if _same(mine, abs(gap)):
        raise CheckFailed(said + "keep the sign. Where the deep network is better, the gap is negative.")
    if _same(mine, -gap):
        raise CheckFailed(
            said + "subtract the other way round, deep minus shallow, so that worse is positive."
        )
    extremes = (min, max)
    if any(_same(mine, a(deep) - b(shallow)) for a in extremes for b in extremes):
        raise CheckFailed(said + "the best or worst seed is a matter of luck: compare the means.")
    if _same(mine, math.fsum(deep) - math.fsum(shallow)):
        raise CheckFailed(said + "these are sums: divide each by its own number of seeds.")
    if _same(mine, statistics.median(deep) - statistics.median(shallow)):
        raise CheckFailed(said + "these are medians: compare the means.")
    if _same(mine, math.fsum(b - a for a, b in zip(shallow, deep, strict=False)) / min(sizes)):
        raise CheckFailed(
            said + "the lists are not pairs, and may differ in length: take the mean of each list by itself."
        )
    if _same(mine, gap / (math.fsum(shallow) / len(shallow))):
        raise CheckFailed(said + "do not divide by the shallow loss: the gap is a difference.")
    raise CheckFailed(said + "subtract the mean of the shallow losses from the mean of the deep ones.")


def _compare_error(call: str, mine: float, shallow: list[float], deep: list[float]) -> None:
    """Compare the standard error with the right one, and with what the usual mistakes give.

    Raises:
        CheckFailed: if it differs.
    """
    right = _error(shallow, deep)
    if _same(mine, right):
        return
    sample = [_variance(v, len(v) - 1) for v in (shallow, deep)]
    biased = [_variance(v, len(v)) for v in (shallow, deep)]
    sizes = [len(shallow), len(deep)]
    per_mean = [v / n for v, n in zip(sample, sizes, strict=True)]
    mistakes = (
        (
            math.sqrt(sum(v / n for v, n in zip(biased, sizes, strict=True))),
            "the variance of a sample has the divisor n - 1, as in statistics.variance.",
        ),
        (
            math.sqrt(sum(sample)),
            "this is the spread of single runs. A mean of n runs is steadier: divide each variance by its n.",
        ),
        (sum(per_mean), "this is its square: take the square root."),
        (
            sum(map(math.sqrt, per_mean)),
            "standard errors do not add up, their squares do: add the variances first, then take the root.",
        ),
        (
            sum(math.sqrt(v) / n for v, n in zip(sample, sizes, strict=True)),
            "divide the variance by n, not the standard deviation.",
        ),
        (math.sqrt(per_mean[0]), "the deep side has a spread as well: add both."),
        (math.sqrt(per_mean[1]), "the shallow side has a spread as well: add both."),
        (
            math.sqrt(abs(per_mean[1] - per_mean[0])),
            "the means are subtracted, but their variances add up: both make the gap uncertain.",
        ),
        (
            math.sqrt(sum(sample) / sum(sizes)),
            "divide each variance by its own n, and not the sum by both together.",
        ),
        (
            math.sqrt(_pooled(shallow, deep) * sum(1 / n for n in sizes)),
            "this pools the variances, but the two sides may differ in spread: divide each by its own n.",
        ),
        (1.96 * right, "this is half of a 95% interval: leave the factor 1.96 out."),
        (round(right, 2), "it is rounded: return all digits."),
    )
    said = f"{call} gives the standard error {mine:.6g}, and it is {right:.6g}: "
    for value, message in mistakes:
        if _same(mine, value):
            raise CheckFailed(said + message)
    raise CheckFailed(said + "for each side, variance divided by n; add both; take the root.")


def _gradient_tensors(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    layers = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return dict(zip(layers, torch.autograd.grad(loss(model), list(layers.values())), strict=True))


@exercise
def gradient_norms(solution: Callable[[nn.Module, Tensor], dict[str, float]]) -> str:
    """Check ``gradient_norms(model, loss)`` against autograd: one L2 norm for each layer's weights.

    Raises:
        CheckFailed: if a layer is missing or too many, or a norm is not that of the gradient.
    """
    call = "gradient_norms(model, loss)"
    for seed, (depth, residual, stale) in enumerate(((8, False, False), (8, True, True), (14, False, True))):
        torch.manual_seed(seed)
        model = models.cifar_resnet(depth, residual=residual, width=4, in_channels=1)
        x, y = torch.randn(6, 1, 8, 8), torch.randint(0, 10, (6,))
        # In evaluation mode the loss depends on the weights alone, however often it is computed.
        model.eval()

        def loss_of(net: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
            return F.cross_entropy(net(x), y)

        if stale:  # gradients of an earlier step lie around, as they do in a real training
            F.cross_entropy(model(x.flip(0) + 1), y).backward()
        old = {n: m.weight.grad for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        old = {name: None if grad is None else grad.clone() for name, grad in old.items()}
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients = _gradient_tensors(model, loss_of)
        try:
            given = call_reader(solution, model, loss_of(model), describe=call, begun=seed > 0)
        except CheckFailed as failed:
            if "'NoneType' object has no attribute" not in str(failed):
                raise
            raise CheckFailed(
                f"{failed}. A gradient is None before loss.backward(), and again after model.zero_grad(): "
                "first clear, then go backward, then read."
            ) from failed
        _compare_norms(call, given, gradients, old, model)
        if any(not torch.equal(p, weights[name]) for name, p in model.named_parameters()):
            raise CheckFailed("the norms are right, but the weights have changed: only look, take no step.")
    return "the norms are autograd's, layer by layer, also where old gradients lie around."


def _compare_norms(
    call: str,
    given: object,
    gradients: dict[str, Tensor],
    old: dict[str, Tensor | None],
    model: nn.Module,
) -> None:
    """Compare the reader's norms with the right ones, and find out what went wrong.

    Raises:
        CheckFailed: if they differ.
    """
    if given is None:
        raise CheckFailed(f"{call} gives None: does the function end with `return`?")
    if not isinstance(given, dict):
        raise CheckFailed(
            f"{call} gives a {type(given).__name__}: return a dict, the layer's name and its norm."
        )
    if set(given) == {f"{name}.weight" for name in gradients}:
        raise CheckFailed(
            "the keys are names of parameters: use the layer's name, 'conv1' for 'conv1.weight'."
        )
    missing = [name for name in gradients if name not in given]
    extra = [str(name) for name in given if name not in gradients]
    if len(extra) == len(given) == len(gradients):
        raise CheckFailed(
            f"the keys are not names of layers, such as {extra[0]!r}: take the names that "
            f"model.named_modules() gives, such as {missing[1]!r}."
        )
    if extra:
        hint = " It is a batch norm or its parameter." if any("bn" in name for name in extra) else ""
        raise CheckFailed(
            f"there are {len(extra)} entries too many, such as {extra[0]!r}.{hint} Take the weights of "
            "convolutions and linear layers, and nothing else."
        )
    if missing:
        kind = "linear layer" if missing == ["fc"] else "layer"
        raise CheckFailed(
            f"{len(missing)} of {len(gradients)} layers are missing: the {kind} {missing[0]!r}."
        )
    mine = {name: _number(given[name], f"norm of {name!r}") for name in gradients}

    def fits(measure: Callable[[Tensor], Tensor], tensors: dict[str, Tensor] = gradients) -> bool:
        values = [float(measure(tensors[name])) for name in gradients]
        pairs = zip(values, mine.values(), strict=True)
        return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9) for a, b in pairs)

    if fits(torch.norm):
        return
    # The first that is wrong, so that the message does not show two equal numbers.
    layer = next(n for n, g in gradients.items() if not math.isclose(mine[n], g.norm(), rel_tol=1e-4))
    said = (
        f"the norm of {layer!r} is {mine[layer]:.4g}, and it should be {float(gradients[layer].norm()):.4g}: "
    )
    weights = {name: model.get_submodule(name).weight.detach() for name in gradients}
    if None not in old.values():
        added = {name: gradients[name] + old[name] for name in gradients}
        if fits(torch.norm, added):
            raise CheckFailed(
                said + "gradients add up, and old ones lie around. Call model.zero_grad() before "
                "backward(), or use torch.autograd.grad."
            )
        if fits(torch.norm, old):
            raise CheckFailed(said + "these are the old gradients: call loss.backward() first.")
    if not any(mine.values()):
        raise CheckFailed(said + "all of them are 0. Clear old gradients before backward(), not after it.")
    if fits(torch.norm, weights):
        raise CheckFailed(said + "this is the norm of the weights: measure their gradient, weight.grad.")
    for measure, message in (
        (lambda g: g.square().sum(), "this is the square of the norm: take the root."),
        (
            lambda g: g.abs().mean(),
            "this is the mean size of a gradient: the L2 norm is the root of the sum.",
        ),
        (lambda g: g.abs().sum(), "this is the L1 norm, a sum of sizes: square, add, take the root."),
        (lambda g: g.abs().max(), "this is the largest entry: the L2 norm counts all of them."),
        (lambda g: g.std(), "this is the standard deviation: the L2 norm does not divide by the count."),
        (lambda g: g.square().mean().sqrt(), "this is the root of the mean: the L2 norm takes the sum."),
        (lambda g: g.square().mean(), "this is the mean of the squares: take their sum, then the root."),
        (lambda g: g.sum(), "this is a plain sum, in which signs cancel: square, add, take the root."),
        (lambda g: g.mean(), "this is a plain mean, in which signs cancel: square, add, take the root."),
        (lambda g: g.norm() / g.numel(), "do not divide by the number of entries."),
        (lambda g: g.norm().log10(), "this is its logarithm: return the norm itself."),
        (lambda g: 2 * g.norm(), "this is twice as much: go backward only once, gradients add up."),
        (
            lambda g: torch.linalg.matrix_norm(g.flatten(1), 2),
            "this is the norm of a matrix, its largest singular value: flatten the gradient first.",
        ),
    ):
        if fits(measure):
            raise CheckFailed(said + message)
    products = {name: gradients[name] * weights[name].norm() for name in gradients}
    if fits(torch.norm, products):
        raise CheckFailed(said + "this is the product with the norm of the weights: here the gradient alone.")
    ratios = {name: gradients[name] / weights[name].norm() for name in gradients}
    if fits(torch.norm, ratios):
        raise CheckFailed(said + "it is divided by the norm of the weights: here the gradient alone.")
    wrong = [name for name in gradients if not math.isclose(mine[name], gradients[name].norm(), rel_tol=1e-4)]
    if wrong == ["fc"]:
        raise CheckFailed(
            f"the norm of 'fc' is {mine['fc']:.4g}, and it should be {float(gradients['fc'].norm()):.4g}; "
            "all others are right. Take the gradient of its weight alone, without the bias."
        )
    raise CheckFailed(said + "take the gradient of `loss` in the layer's weight, square, add, take the root.")


@exercise
def dirac_kernel(solution: Callable[[int], Tensor]) -> str:
    """Check ``dirac_kernel(channels)``: 3×3 weights with which a padded convolution copies its input.

    Raises:
        CheckFailed: if the shape is wrong or the input does not come out as it went in.
    """
    for i, channels in enumerate((3, 1, 16)):
        call = f"dirac_kernel({channels})"
        kernel = answer_of(solution, channels, describe=call, begun=i > 0)
        if not isinstance(kernel, Tensor):
            raise CheckFailed(f"{call} gives a {type(kernel).__name__}: return a tensor.")
        shape = (channels, channels, 3, 3)
        if tuple(kernel.shape) != shape:
            raise CheckFailed(
                f"{call} has the shape {tuple(kernel.shape)}, not {shape}: output channels, input channels, "
                "3 rows, 3 columns."
            )
        if kernel.dtype != torch.float32:
            raise CheckFailed(f"{call} is of type {kernel.dtype}: weights are float32.")
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(2, channels, 5, 7, generator=generator)
        kernel = kernel.detach()
        out = F.conv2d(x, kernel, padding=1)
        expected = nn.init.dirac_(torch.empty(shape))
        if torch.equal(out, x) and torch.equal(kernel, expected):
            continue
        said = f"with {call} the input does not come out as it went in: "
        centre = kernel[:, :, 1, 1]
        off_centre = kernel.clone()
        off_centre[:, :, 1, 1] = 0
        if not kernel.isfinite().all():
            raise CheckFailed(
                said + "some weights are no finite numbers. Begin with torch.zeros: torch.empty holds "
                "whatever was in memory."
            )
        if not kernel.any():
            raise CheckFailed(said + "all weights are 0, so the output is 0 as well. A copy needs ones.")
        if off_centre.any():
            if not centre.any():
                raise CheckFailed(
                    said + "the image is shifted, because the ones are not in the centre. Rows and columns "
                    "count from 0: the centre is [1, 1]."
                )
            raise CheckFailed(
                said + "a pixel is mixed with its neighbours. Only the centre, [1, 1], may differ from 0."
            )
        if channels > 1 and torch.equal(
            torch.sort(centre.flatten()).values, torch.sort(expected[:, :, 1, 1].flatten()).values
        ):
            rows = (centre.sum(0) == 1).all() and (centre.sum(1) == 1).all()
            raise CheckFailed(
                said
                + (
                    "the channels come out in another order. "
                    if rows
                    else "some channels are taken twice, and others never. "
                )
                + "Output channel c takes from input channel c alone."
            )
        if channels > 1 and (centre - torch.diag(centre.diagonal())).any():
            raise CheckFailed(
                said + "each output adds up several input channels. Output channel c takes from input "
                "channel c alone."
            )
        if (centre.diagonal() == 0).any():
            raise CheckFailed(said + "some channels are 0: every channel needs its own 1.")
        factor = next(value for value in centre.diagonal().tolist() if value != 1)
        raise CheckFailed(said + f"a channel is scaled by {factor!r}. Put 1 in the centre.")
    return "a convolution with your kernel copies its input exactly, for 1, 3 and 16 channels."


ANSWERS = ("degradation", "overfitting", "neither")
Errors = tuple[float, float]


def _diagnosis(shallow: Errors, deep: Errors) -> str:
    """What a deeper network suffers from, by its errors on training and on test images."""
    if deep[1] <= shallow[1]:
        return "neither"
    return "degradation" if deep[0] > shallow[0] else "overfitting"


def _by_test_alone(shallow: Errors, deep: Errors) -> str:
    return "overfitting" if deep[1] > shallow[1] else "neither"


def _by_training_alone(shallow: Errors, deep: Errors) -> str:
    return "degradation" if deep[0] > shallow[0] else "neither"


def _by_gap(shallow: Errors, deep: Errors) -> str:
    """Overfitting wherever the distance from training to test error has grown."""
    if deep[1] - deep[0] > shallow[1] - shallow[0]:
        return "overfitting"
    return "degradation" if deep[0] > shallow[0] and deep[1] > shallow[1] else "neither"


def _training_first(shallow: Errors, deep: Errors) -> str:
    """Degradation wherever the training error is larger, whatever the test says."""
    return "degradation" if deep[0] > shallow[0] else _by_test_alone(shallow, deep)


def _overfitting_whatever_the_test(shallow: Errors, deep: Errors) -> str:
    """Overfitting wherever the training error has fallen."""
    return "overfitting" if deep[0] < shallow[0] else _diagnosis(shallow, deep)


def _swapped(shallow: Errors, deep: Errors) -> str:
    right = _diagnosis(shallow, deep)
    return {"degradation": "overfitting", "overfitting": "degradation"}.get(right, right)


def _strict(shallow: Errors, deep: Errors) -> str:
    """A training error that is equal is taken for a larger one."""
    right = _diagnosis(shallow, deep)
    return "degradation" if right == "overfitting" and deep[0] == shallow[0] else right


def _ties(shallow: Errors, deep: Errors) -> str:
    """A test error that is equal is taken for a larger one."""
    if deep[1] < shallow[1]:
        return "neither"
    return "degradation" if deep[0] > shallow[0] else "overfitting"


def _ties_in_training(shallow: Errors, deep: Errors) -> str:
    """A test error that is equal is taken for a larger one where the training error is larger."""
    return "degradation" if deep[0] > shallow[0] and deep[1] == shallow[1] else _diagnosis(shallow, deep)


def _by_gap_where_worse(shallow: Errors, deep: Errors) -> str:
    right = _diagnosis(shallow, deep)
    if right == "neither":
        return right
    return "overfitting" if deep[1] - deep[0] > shallow[1] - shallow[0] else "degradation"


@exercise
def diagnose(solution: Callable[[Errors, Errors], str]) -> str:
    """Check ``diagnose(shallow, deep)``, each a pair of training error and test error.

    Raises:
        CheckFailed: if an answer is not the one that the two definitions give.
    """
    cases = (
        ((0.05, 0.09), (0.17, 0.18)),
        ((0.05, 0.09), (0.01, 0.11)),
        ((0.05, 0.09), (0.02, 0.08)),
        ((0.05, 0.09), (0.08, 0.15)),  # degradation, though the distance to the test has grown
        ((0.05, 0.09), (0.07, 0.08)),  # worse to train, and yet better on the test
        ((0.05, 0.09), (0.02, 0.09)),  # the test is as good
        ((0.05, 0.09), (0.05, 0.12)),  # the training is as good
        ((0.02, 0.10), (0.05, 0.11)),
        ((0.05, 0.09), (0.07, 0.09)),  # worse to train, and as good on the test
        ((0.05, 0.09), (0.05, 0.09)),  # equal
        ((0.050, 0.090), (0.051, 0.0901)),  # a small difference is one, too
        ((0.050, 0.090), (0.0499, 0.0902)),
    )
    given = []
    for i, case in enumerate(cases):
        call = "diagnose({}, {})".format(*case)
        answer = call_reader(solution, *case, describe=call, begun=i > 0)
        if answer is None:
            raise CheckFailed(f"{call} gives None: does every branch of the function end with `return`?")
        if not isinstance(answer, str) or answer not in ANSWERS:
            words = ", ".join(map(repr, ANSWERS))
            raise CheckFailed(f"{call} gives {answer!r}: return one of the words {words}.")
        given.append(answer)
    right = [_diagnosis(*case) for case in cases]
    if given == right:
        return f"{len(cases)} pairs of networks, and each diagnosis is the one that the definitions give."
    mistakes = (
        (_swapped, "You have swapped the two words: overfitting is what the training error does not show."),
        (
            _by_test_alone,
            "The test error alone cannot tell the two apart: look at the training error as well.",
        ),
        (
            _by_training_alone,
            "You look at the training error alone: where only the test error is larger, it is overfitting.",
        ),
        (
            _by_gap,
            "The distance from training to test error may grow in both cases. Ask whether the training "
            "error itself is larger.",
        ),
        (
            _training_first,
            "Ask for the test error first: where it is no larger, nothing is to be explained.",
        ),
        (
            _overfitting_whatever_the_test,
            "A smaller training error does no harm as long as the test error is no larger.",
        ),
        (_strict, "With an equal training error it is overfitting: use > for the training error, not >=."),
        (_ties, "With an equal test error it is neither: use > for the test error, not >=."),
        (_ties_in_training, "With an equal test error it is neither: use > for the test error, not >=."),
        (
            lambda shallow, deep: _diagnosis(shallow[::-1], deep[::-1]),
            "Each pair holds the training error first and the test error second.",
        ),
        (
            lambda shallow, deep: _diagnosis(deep, shallow),
            "The first pair is the shallow network's, the second is the deep one's.",
        ),
        (
            lambda shallow, deep: "degradation" if deep[0] > shallow[0] else "overfitting",
            "It never says 'neither': where the test error is no larger, there is nothing to explain.",
        ),
        (
            lambda shallow, deep: "overfitting" if deep[1] > deep[0] else "neither",
            "A test error above the training error is the rule. Compare the deep network with the other.",
        ),
        (
            _by_gap_where_worse,
            "The distance from training to test error may grow in both cases. Ask whether the training "
            "error itself is larger.",
        ),
        (
            lambda shallow, deep: (
                "neither" if deep[1] > shallow[1] and deep[0] == shallow[0] else _diagnosis(shallow, deep)
            ),
            "With an equal training error and a larger test error it is overfitting.",
        ),
    )
    case, mine, answer = next(c for c in zip(cases, given, right, strict=True) if c[1] != c[2])
    said = "diagnose({}, {}) gives {!r}, and it is {!r}. ".format(*case, mine, answer)
    for mistake, message in mistakes:
        if given == [mistake(*c) for c in cases]:
            raise CheckFailed(said + message)
    raise CheckFailed(
        said + "Write down the two questions, test error and training error, one after the other."
    )
