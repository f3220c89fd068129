"""Depth: parameters, the gap between two depths, what it is, gradients by layer, kernels that copy."""

import functools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models, probes
from resnetbook.checks.common import (
    CheckFailed,
    answer_of,
    as_real,
    call_reader,
    compare_counts,
    exercise,
    kept,
    snapshot,
    spoiled,
)
from resnetbook.checks.tracing import exactly, functions_run, tell_layers


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
    window: int = 9,
    extra_convs: int = 0,
) -> int:
    """Parameters of a plain network for grey images, ten classes; the options make mistakes."""
    num_blocks = (depth - 2) // 6 + extra_blocks
    each = norms + biases  # numbers for each output channel, beside the weights
    count = (window * in_channels + each) * width * stem
    channels = width
    for factor in widths:
        out_channels = factor * width
        first = channels if first_reads == "stage before" else out_channels
        count += (window * first + each) * out_channels
        count += (convs * num_blocks - 1 + extra_convs) * (window * out_channels + each) * out_channels
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
        CheckFailed: if a count is not that of :func:`resnetbook.models.cifar_resnet`, or a network is
            built to find it.
    """
    cases = ((8, 16), (14, 16), (20, 16), (56, 16), (20, 4), (32, 7))

    def trusted(depth: int, width: int) -> int:
        with torch.device("meta"):
            return probes.count_parameters(models.cifar_resnet(depth, width=width, in_channels=1))

    formula = functools.partial
    used: set[str] = set()
    compare_counts(
        tell_layers(solution, used),
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
            (
                formula(_network_formula, biases=True),
                "These convolutions have no bias: a norm follows each.",
            ),
            (formula(_network_formula, stem_norm=False), "The stem has a batch norm, too."),
            (
                formula(_network_formula, output_bias=False),
                "The last linear layer has a bias for each class.",
            ),
            (
                formula(_network_formula, first_reads="own"),
                "The first convolution of a stage reads the channels of the stage before, half as many.",
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
            (
                formula(_network_formula, stem=False),
                "The stem is missing, the 3×3 convolution at the front.",
            ),
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
                formula(_network_formula, extra_convs=1),
                "There is one convolution too many in each stage: the first, which reads other channels, "
                "is one of its 2n.",
            ),
            (
                formula(_network_formula, window=3),
                "A 3×3 convolution has nine weights for each pair of channels, not three.",
            ),
            (
                formula(_network_formula, window=1),
                "A 3×3 convolution has nine weights for each pair of channels, not one.",
            ),
            (
                lambda depth, width: _network_formula(8, width),
                "It is the same for every depth: does the formula use the argument `depth`?",
            ),
            (
                lambda depth, width: _network_formula(depth, 16),
                "It is the same for every width: does the formula use the argument `width`?",
            ),
        ),
    )
    if used:
        raise CheckFailed(
            f"The counts are right, but a {sorted(used)[0]} was built to find them: the exercise asks for a "
            "formula. Write down each layer with its numbers, and add them up."
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


def _same(a: float, b: float) -> bool:
    # Wide enough for float32: a difference of numbers below 1 is off by some 1e-7 there.
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


Losses = list[float]
Rule = Callable[[Losses, Losses], float]


@exercise
def degradation_gap(solution: Callable[[Losses, Losses], tuple]) -> str:
    """Check ``degradation_gap(shallow, deep)``: a difference of means, and its standard error.

    Raises:
        CheckFailed: if one of them is wrong, or there is an error where it cannot be known.
    """
    several = (
        ([0.1712, 0.1637, 0.1795], [0.4921, 0.4518, 0.5634, 0.4702]),  # of different length
        ([0.3013, 0.3429], [0.3104, 0.2917, 0.3371, 0.3718, 0.3546]),
        ([0.2513, 0.2498, 0.3127], [0.2049, 0.2118, 0.1936]),  # the deep one is better
    )
    single = (([0.2017], [0.3021, 0.3198]), ([0.2017, 0.2231], [0.3021]), ([0.2017], [0.3021]))
    given = [_call_gap(solution, *case, begun=i > 0) for i, case in enumerate(several)]
    gaps = [_gap_of(pair, *case) for pair, case in zip(given, several, strict=True)]
    errors = []
    for pair, case in zip(given, several, strict=True):
        call = _gap_call(*case)
        if pair[1] is None:
            raise CheckFailed(f"{call} gives no standard error, but both sides have several values.")
        errors.append(as_real(pair[1], f"the standard error of {call} is {{value!r}}: it must be a number."))
    if _fits(gaps, several, _error) and not _fits(gaps, several, _gap):
        raise CheckFailed(
            f"{_gap_call(*several[0])} gives the standard error first: return the gap, then its error."
        )
    _compare_rule("gap", gaps, several, _gap, GAP_MISTAKES)
    _compare_rule("standard error", errors, several, _error, ERROR_MISTAKES)
    for case in single:
        pair = _call_gap(solution, *case, begun=True)
        _compare_rule("gap", [_gap_of(pair, *case)], (case,), _gap, GAP_MISTAKES)
        if pair[1] is not None:
            raise CheckFailed(
                f"{_gap_call(*case)} gives the standard error {pair[1]!r}. One value has no spread, and that "
                "is not a spread of 0: return None for what cannot be known."
            )
    return "gap and standard error are right, and unknown where one side has a single seed."


def _gap_call(shallow: Losses, deep: Losses) -> str:
    return f"degradation_gap({shallow}, {deep})"


def _call_gap(solution: Callable, shallow: Losses, deep: Losses, begun: bool) -> Sequence:
    """The two values that the reader returns.

    Raises:
        CheckFailed: if there are not two, or a list is not as it was.
    """
    call = _gap_call(shallow, deep)
    handed = list(shallow), list(deep)
    with kept(call, shallow=handed[0], deep=handed[1]):
        given = call_reader(solution, *handed, describe=call, begun=begun)
    if given is None and min(len(shallow), len(deep)) < 2:
        raise CheckFailed(
            f"{call} gives None. The gap is known there, too: return two values, and None only in the "
            "place of a standard error that cannot be known."
        )
    if given is None:
        raise CheckFailed(f"{call} gives None: does the function end with `return`?")
    pair = isinstance(given, tuple | list) or (isinstance(given, Tensor | np.ndarray) and given.ndim == 1)
    if not pair or len(given) != 2:
        raise CheckFailed(f"{call} gives {given!r}: return two values, the gap and its standard error.")
    return given


def _gap_of(pair: Sequence, shallow: Losses, deep: Losses) -> float:
    """The reader's gap as a number.

    Raises:
        CheckFailed: if it is none.
    """
    call = _gap_call(shallow, deep)
    if pair[0] is None:
        raise CheckFailed(f"{call} gives no gap. The means are known, even of a single value each.")
    return as_real(pair[0], f"the gap of {call} is {{value!r}}: it must be a number.")


def _fits(mine: list[float], cases: Sequence[tuple[Losses, Losses]], rule: Rule) -> bool:
    return all(_same(value, rule(*case)) for value, case in zip(mine, cases, strict=True))


def _compare_rule(
    what: str,
    mine: list[float],
    cases: Sequence[tuple[Losses, Losses]],
    right: Rule,
    mistakes: Sequence[tuple[Rule, str]],
) -> None:
    """Compare the reader's numbers; a mistake is named if it gives them in all cases.

    Raises:
        CheckFailed: if one differs.
    """
    for value, case in zip(mine, cases, strict=True):
        if _same(value, right(*case)):
            continue
        # What fits all that the reader gives explains it; one case alone may fit by accident.
        otherwise = mistakes[-1][1]
        named = (message for rule, message in mistakes[:-1] if _fits(mine, cases, rule))
        raise CheckFailed(
            f"{_gap_call(*case)} gives the {what} {value:.6g}, and it is {right(*case):.6g}: "
            + next(named, otherwise)
        )


def _gap(shallow: Losses, deep: Losses) -> float:
    return math.fsum(deep) / len(deep) - math.fsum(shallow) / len(shallow)


def _pairs(shallow: Losses, deep: Losses) -> list[float]:
    """What comes of taking the two lists for pairs, as far as the shorter one goes."""
    return [b - a for a, b in zip(shallow, deep, strict=False)]


def _pair_error(shallow: Losses, deep: Losses) -> float:
    differences = _pairs(shallow, deep)
    return math.sqrt(_variance(differences, len(differences) - 1) / len(differences))


def _extremes(of_deep: Callable, of_shallow: Callable) -> Rule:
    return lambda shallow, deep: of_deep(deep) - of_shallow(shallow)


def _rounded(rule: Rule, digits: int) -> Rule:
    return lambda shallow, deep: round(rule(shallow, deep), digits)


# What each common mistake gives, and its name; the last entry is for all others.
GAP_MISTAKES: tuple[tuple[Rule, str], ...] = (
    (lambda s, d: abs(_gap(s, d)), "keep the sign. Where the deep network is better, the gap is negative."),
    (
        lambda s, d: -_gap(s, d),
        "subtract the other way round, deep minus shallow, so that worse is positive.",
    ),
    *(
        (_extremes(a, b), "the best or worst seed is a matter of luck: compare the means.")
        for a in (min, max)
        for b in (min, max)
    ),
    (
        lambda s, d: math.fsum(d) - math.fsum(s),
        "these are sums: divide each by its own number of seeds.",
    ),
    (_extremes(statistics.median, statistics.median), "these are medians: compare the means."),
    (
        lambda s, d: statistics.fmean(_pairs(s, d)),
        "the lists are not pairs, and may differ in length: take the mean of each list by itself.",
    ),
    (
        lambda s, d: _gap(s, d) / statistics.fmean(s),
        "do not divide by the shallow loss: the gap is a difference.",
    ),
    (
        lambda s, d: _gap(s, d) / _error(s, d),
        "do not divide by the standard error: return the two side by side.",
    ),
    *((_rounded(_gap, digits), "it is rounded: return all digits.") for digits in (1, 2, 3, 4)),
    (_gap, "subtract the mean of the shallow losses from the mean of the deep ones."),
)


def _from_variances(rule: Callable[[list[float], list[int]], float], lost: int = 1) -> Rule:
    """A rule on the variances of both sides, with the divisor n - ``lost``, and their sizes."""
    return lambda *sides: rule([_variance(v, len(v) - lost) for v in sides], [len(v) for v in sides])


def _each_by_n(variances: list[float], sizes: list[int]) -> list[float]:
    return [v / n for v, n in zip(variances, sizes, strict=True)]


ERROR_MISTAKES: tuple[tuple[Rule, str], ...] = (
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n(v, n))), lost=0),
        "the variance of a sample has the divisor n - 1, as in statistics.variance.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(v))),
        "this is the spread of single runs. A mean of n runs is steadier: divide each variance by its n.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(v)), lost=0),
        "this is the spread of single runs, and with the divisor n. The variance of a sample has n - 1; then "
        "divide each variance by its n.",
    ),
    (_from_variances(lambda v, n: sum(_each_by_n(v, n))), "this is its square: take the square root."),
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n(_each_by_n(v, n), n)))),
        "each variance is divided by its n once more. A standard error holds that division already: add the "
        "squares of the two standard errors, or divide the variances once.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n(v, [k - 1 for k in n])))),
        "the n - 1 stands in the variance already: then divide it by n.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n(v, n)) / 2)),
        "variances add up: do not take the mean of the two.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n(v, n)) / sum(n))),
        "it is divided once more, by the number of all seeds: each variance by its own n is enough.",
    ),
    (
        _from_variances(lambda v, n: sum(map(math.sqrt, _each_by_n(v, n)))),
        "standard errors do not add up, their squares do: add the variances first, then take the root.",
    ),
    (
        _from_variances(lambda v, n: sum(_each_by_n([math.sqrt(x) for x in v], n))),
        "divide the variance by n, not the standard deviation.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(_each_by_n([math.sqrt(x) for x in v], n)))),
        "these are standard deviations under the root: the formula has their squares, the variances.",
    ),
    (_from_variances(lambda v, n: math.sqrt(v[0] / n[0])), "the deep side has a spread as well: add both."),
    (
        _from_variances(lambda v, n: math.sqrt(v[1] / n[1])),
        "the shallow side has a spread as well: add both.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(abs(v[1] / n[1] - v[0] / n[0]))),
        "the means are subtracted, but their variances add up: both make the gap uncertain.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(v[0] / n[1] + v[1] / n[0])),
        "each variance is divided by the other side's n: divide it by its own.",
    ),
    (
        _from_variances(lambda v, n: math.sqrt(sum(v) / sum(n))),
        "divide each variance by its own n, and not the sum by both together.",
    ),
    (
        lambda s, d: math.sqrt(_pooled(s, d) * (1 / len(s) + 1 / len(d))),
        "this pools the variances, but the two sides may differ in spread: divide each by its own n.",
    ),
    (
        lambda s, d: math.sqrt(_variance(s + d, len(s + d) - 1) / len(s + d)),
        "this is the error of a single mean, over both lists thrown together: take each side by itself.",
    ),
    (_pair_error, "the lists are not pairs, and may differ in length: take the variance of each by itself."),
    (
        lambda s, d: 1.96 * _error(s, d),
        "this is half of a 95% interval: leave the factor 1.96 out.",
    ),
    *((_rounded(_error, digits), "it is rounded: return all digits.") for digits in (1, 2, 3, 4)),
    (_error, "for each side, variance divided by n; add both; take the root."),
)


def _gradient_tensors(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    layers = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return dict(zip(layers, torch.autograd.grad(loss(model), list(layers.values())), strict=True))


@exercise
def gradient_norms(solution: Callable[[nn.Module, Tensor], dict[str, float]]) -> str:
    """Check ``gradient_norms(model, loss)`` against autograd: one L2 norm for each layer's weights.

    Raises:
        CheckFailed: if a layer is missing or too many, a norm is not that of the gradient, or the model
            is not left as it was.
    """
    call = "gradient_norms(model, loss)"
    cases = (
        # depth, residual, gradients of an earlier step lie around, as in a real training; training mode
        (8, False, False, False),
        (8, True, True, True),
        (14, False, True, False),
    )
    shortcuts: set[str] = set()
    for seed, (depth, residual, stale, training) in enumerate(cases):
        torch.manual_seed(seed)
        model = models.cifar_resnet(depth, residual=residual, width=4, in_channels=1)
        x, y = torch.randn(6, 1, 8, 8), torch.randint(0, 10, (6,))
        model.train(training)

        def loss_of(net: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
            return F.cross_entropy(net(x), y)

        if stale:
            F.cross_entropy(model(x.flip(0) + 1), y).backward()
        old = {n: m.weight.grad for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        old = {name: None if grad is None else grad.clone() for name, grad in old.items()}
        gradients = _gradient_tensors(model, loss_of)
        loss = loss_of(model)
        before = _state(model)
        try:
            with functions_run(exactly(probes.gradient_norms)) as found:
                given = call_reader(solution, model, loss, describe=call, begun=seed > 0)
            shortcuts.update(found)
            recording = torch.is_grad_enabled()
        except CheckFailed as failed:
            if "'NoneType' object has no attribute" not in str(failed):
                raise
            raise CheckFailed(
                f"{failed}. A gradient is None before loss.backward(), and again after model.zero_grad(): "
                "first clear, then go backward, then read."
            ) from failed
        finally:
            torch.set_grad_enabled(True)
        _compare_norms(call, given, gradients, old, model)
        for part, value in _state(model).items():
            if spoiled(snapshot(before[part]), value):
                raise CheckFailed(f"The norms are right, but {LEFT[part]}")
        if not recording:
            raise CheckFailed(
                "The norms are right, but from now on PyTorch records no gradients at all: switch that off "
                "inside of `with torch.no_grad():` only."
            )
        if any(isinstance(norm, Tensor) and norm.requires_grad for norm in given.values()):
            raise CheckFailed(
                "The norms are right, but they are still part of a graph, which keeps the whole computation "
                "in memory: no create_graph=True, and return numbers, with .item()."
            )
    if shortcuts:
        raise CheckFailed(
            "The norms are right, but the book's own probes.gradient_norms has found them: write it yourself."
        )
    return "the norms are autograd's, layer by layer, also where old gradients lie around."


# What a reader's function may leave behind in a model.
LEFT = {
    "weights": "the weights have changed: only look, take no step.",
    "statistics": "the running statistics of a batch norm have moved: `loss` is computed already, so do not "
    "call the model again.",
    "modes": "the model is left in another mode: no train() or eval() is needed.",
    "learning": "a parameter's requires_grad is not what it was: the model would not learn on.",
    "hooks": "a hook is left behind, and will run at every step: call remove() on what register_hook gives.",
}


def _state(model: nn.Module) -> dict[str, object]:
    """What a function that only looks leaves as it was, by the words of ``LEFT``."""
    parameters = list(model.parameters())
    hooked = [*parameters, *model.modules()]
    return {
        "weights": [p.detach().clone() for p in parameters],
        "statistics": [buffer.clone() for buffer in model.buffers()],
        "modes": [module.training for module in model.modules()],
        "learning": [p.requires_grad for p in parameters],
        "hooks": [len(getattr(part, name, None) or ()) for part in hooked for name in _HOOKS],
    }


_HOOKS = (
    "_backward_hooks",
    "_post_accumulate_grad_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
)


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
    mine = {}
    for name in gradients:
        value = given[name]
        if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) != 1:
            shape = f"a {type(value).__name__} of shape {tuple(value.shape)}"
            raise CheckFailed(f"the norm of {name!r} is {shape}: it must be a number.")
        mine[name] = as_real(value, f"the norm of {name!r} is {{value!r}}: it must be a number.")

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
    if None not in old.values():
        stale = {"with": lambda n: gradients[n] + old[n], "only": lambda n: old[n]}
        for how, tensor in stale.items():
            if all(math.isclose(mine[name], tensor(name).norm(), rel_tol=1e-4) for name in wrong):
                held = "an old gradient was added to it" if how == "with" else "this is an old gradient"
                which = f"{len(wrong)} of {len(gradients)} layers, and others are right"
                raise CheckFailed(
                    said + f"{held}. It is so in {which}: clear the gradients of all layers before "
                    "backward(), with model.zero_grad()."
                )
    bias = model.get_submodule("fc").bias.grad
    with_bias = None if bias is None else math.hypot(float(gradients["fc"].norm()), float(bias.norm()))
    if wrong == ["fc"] and with_bias is not None and math.isclose(mine["fc"], with_bias, rel_tol=1e-4):
        raise CheckFailed(
            f"the norm of 'fc' is {mine['fc']:.4g}, and it should be {float(gradients['fc'].norm()):.4g}; "
            "all others are right. Take the gradient of its weight alone, without the bias."
        )
    if wrong == ["fc"]:
        raise CheckFailed(
            said + "all others are right. Treat the linear layer as the convolutions: the gradient in its "
            "weight, square, add, take the root."
        )
    raise CheckFailed(said + "take the gradient of `loss` in the layer's weight, square, add, take the root.")


@exercise
def dirac_kernel(solution: Callable[[int], Tensor]) -> str:
    """Check ``dirac_kernel(channels)``: 3×3 weights with which a padded convolution copies its input.

    Raises:
        CheckFailed: if the shape is wrong or the input does not come out as it went in, or if
            ``nn.init.dirac_`` has made the kernel.
    """
    shortcuts: set[str] = set()
    for i, channels in enumerate((3, 1, 16, 300)):  # 300: more than a byte can count
        call = f"dirac_kernel({channels})"
        with functions_run(exactly(nn.init.dirac_)) as found:
            kernel = answer_of(solution, channels, describe=call, begun=i > 0)
        shortcuts.update(found)
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
        kernel = kernel.detach().cpu()
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
    if shortcuts:
        raise CheckFailed(
            "The kernel is right, but nn.init.dirac_ has made it: begin with zeros, and put the ones in "
            "yourself."
        )
    return "a convolution with your kernel copies its input exactly, for 1, 3, 16 and 300 channels."


ANSWERS = ("degradation", "overfitting", "not clear", "neither")
Interval = tuple[float, float]
Diagnosis = Callable[[Interval, Interval], str]


def _diagnosis(training: Interval, test: Interval) -> str:
    """What a deeper network suffers from, by the intervals of deep minus shallow."""
    if test[0] <= 0:
        return "neither"
    if training[0] > 0:
        return "degradation"
    return "overfitting" if training[1] < 0 else "not clear"


def _with_words(rule: Diagnosis, **words: str) -> Diagnosis:
    """The same, but for other words; an underscore in a name stands for a space."""
    instead = {old.replace("_", " "): new for old, new in words.items()}
    return lambda *intervals: instead.get(found := rule(*intervals), found)


def _narrowed(interval: Interval, to: Callable[[Interval], float]) -> Interval:
    return (to(interval),) * 2


def _by_one_number(to: Callable[[Interval], float]) -> Diagnosis:
    """The diagnosis by one number of each interval, as if nothing were uncertain."""
    return lambda training, test: _diagnosis(_narrowed(training, to), _narrowed(test, to))


def _middle(interval: Interval) -> float:
    return 0.0 if math.isinf(interval[0]) else sum(interval) / 2


def _training_first(training: Interval, test: Interval) -> str:
    """Degradation wherever the training error is clearly larger, whatever the test says."""
    return "degradation" if training[0] > 0 else _diagnosis(training, test)


def _by_test_alone(training: Interval, test: Interval) -> str:
    return "overfitting" if test[0] > 0 else "neither"


def _by_training_alone(training: Interval, test: Interval) -> str:
    return _diagnosis(training, (1.0, 1.0))


def _touching(training: Interval, test: Interval) -> str:
    """An interval that ends at 0 is taken to leave it out."""
    if test[0] < 0:
        return "neither"
    if training[0] >= 0:
        return "degradation"
    return "overfitting" if training[1] <= 0 else "not clear"


def _touching_in_test(training: Interval, test: Interval) -> str:
    return "neither" if test[0] < 0 else _by_training_alone(training, test)


def _touching_in_training(training: Interval, test: Interval) -> str:
    return _touching(training, test) if test[0] > 0 else "neither"


def _any_clear_test(training: Interval, test: Interval) -> str:
    """A test error that is clearly smaller is explained as well."""
    return "neither" if test[0] <= 0 <= test[1] else _by_training_alone(training, test)


def _unclear_test(training: Interval, test: Interval) -> str:
    """A test error that is not clear is called so, and not 'neither'."""
    return "not clear" if test[0] <= 0 <= test[1] else _diagnosis(training, test)


def _by_distance(training: Interval, test: Interval) -> str:
    """Overfitting wherever the test error has grown more than the training error."""
    if test[0] <= 0:
        return "neither"
    return "overfitting" if _middle(test) > _middle(training) else "degradation"


def _with_tolerance(tolerance: float) -> Diagnosis:
    def diagnosis(training: Interval, test: Interval) -> str:
        if test[0] <= tolerance:
            return "neither"
        if training[0] > tolerance:
            return "degradation"
        return "overfitting" if training[1] < -tolerance else "not clear"

    return diagnosis


@exercise
def diagnose(solution: Diagnosis) -> str:
    """Check ``diagnose(training, test)``, two intervals of deep minus shallow, for both errors.

    Raises:
        CheckFailed: if an answer is not the one that the two definitions give.
    """
    cases = (
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
        return f"{len(cases)} pairs of intervals, and each diagnosis is the one that the definitions give."
    distance = (
        "The test error may grow more than the training error in both cases. Ask whether the training error "
        "itself has grown."
    )
    one_number = (
        "What counts is the whole interval. An error is clearly larger if even the lower end is above 0, and "
        "clearly smaller if even the upper end is below."
    )
    touching = "An interval that ends at 0 does not leave 0 out: there the difference is not clear."
    mistakes: tuple[tuple[Diagnosis, str], ...] = (
        (
            _with_words(_diagnosis, degradation="overfitting", overfitting="degradation"),
            "You have swapped the two words: overfitting is what makes the training error smaller.",
        ),
        (
            _by_test_alone,
            "The test error alone cannot tell the two apart: look at the training error as well.",
        ),
        (
            _by_training_alone,
            "You look at the training error alone: if the test error is not clearly larger, it is 'neither'.",
        ),
        (
            _training_first,
            "Ask for the test error first: where it is not clearly larger, nothing is to be explained.",
        ),
        (_by_distance, distance),
        *((_by_one_number(to), one_number) for to in (_middle, lambda i: i[0], lambda i: i[1])),
        (
            lambda training, test: _diagnosis(_narrowed(training, _middle), test),
            f"The training error is judged by its middle. {one_number}",
        ),
        (
            lambda training, test: _diagnosis(training, _narrowed(test, _middle)),
            f"The test error is judged by its middle. {one_number}",
        ),
        (_touching, touching),
        (_touching_in_test, touching),
        (_touching_in_training, touching),
        (
            _with_words(_diagnosis, not_clear="overfitting"),
            "Where the training error is neither clearly larger nor clearly smaller, it is 'not clear': the "
            "seeds do not tell.",
        ),
        (
            _with_words(_diagnosis, not_clear="degradation"),
            "Where the training error is neither clearly larger nor clearly smaller, it is 'not clear': the "
            "seeds do not tell.",
        ),
        (
            _with_words(_diagnosis, not_clear="neither"),
            "Here the test error is clearly larger, so there is something to explain, and the seeds do not "
            "tell what: 'not clear'.",
        ),
        (
            _unclear_test,
            "Where the test error is not clearly larger there is nothing to explain: 'neither'.",
        ),
        (
            _any_clear_test,
            "A test error that is clearly smaller does no harm: ask whether it is larger.",
        ),
        (
            lambda training, test: _diagnosis(test, training),
            "The first interval is that of the training error, the second that of the test error.",
        ),
        (
            lambda training, test: _diagnosis(*((-high, -low) for low, high in (training, test))),
            "The intervals are of deep minus shallow: above 0 the deep network is the worse one.",
        ),
        *(
            (
                _with_tolerance(tolerance),
                "A difference may be small and clear: the interval holds all that chance does, so add no "
                "tolerance of your own.",
            )
            for tolerance in (0.005, 0.001, 1e-3 / 2, 1e-5, 1e-6)
        ),
    )
    case, mine, answer = next(c for c in zip(cases, given, right, strict=True) if c[1] != c[2])
    said = "diagnose({}, {}) gives {!r}, and it is {!r}. ".format(*case, mine, answer)
    for mistake, message in mistakes:
        if given == [mistake(*c) for c in cases]:
            raise CheckFailed(said + message)
    raise CheckFailed(
        said + "Write down the questions one after the other: is the test error clearly larger? Is the "
        "training error clearly larger, or clearly smaller?"
    )
