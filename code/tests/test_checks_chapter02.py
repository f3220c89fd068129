"""Chapter 2's checks: right solutions pass, and each mistake is named."""

import math
import statistics
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, compare, models, probes

NOTEBOOK = Path(__file__).parents[2] / "book" / "02_degradation.ipynb"
CHECKS = [
    checks.network_parameters,
    checks.degradation_gap,
    checks.gradient_norms,
    checks.diagnose,
    checks.dirac_kernel,
]
NAMES = [check.__name__ for check in CHECKS]


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_solution_passes(name, capsys):
    getattr(checks, name)(page_solutions(NOTEBOOK)[name])
    assert capsys.readouterr().out.startswith("Right")


# ---- what every check must survive


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    def untouched(*arguments):
        raise NotImplementedError

    check(untouched)
    assert capsys.readouterr().out.startswith("Not done yet")


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_an_error_of_the_readers_is_quoted(check):
    def broken(*arguments):
        raise TypeError("no such thing")

    fails(check, broken, "raises TypeError: no such thing")


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_a_solution_that_is_called_already_is_refused(check):
    fails(check, 3, "without parentheses")


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_a_forgotten_return_is_named(check):
    fails(check, lambda *arguments: None, "`return`")


# ---- network_parameters


def parameters(
    depth,
    width,
    *,
    norms=2,
    bias=1,
    first=None,
    per_block=2,
    blocks=0,
    doubles=True,
    stem=2,
    a=0,
    conv_bias=0,
    images=1,
    wider=0,
    window=9,
    extra=0,
):
    n = (depth - 2) // 6 + blocks
    total, channels = (window * images + stem + conv_bias) * width, width
    for i in range(3):
        out = width * 2 ** (i + wider) if doubles else width
        total += (window * (first or channels) + norms + conv_bias) * out
        total += (n * per_block - 1 + extra) * (window * out + norms + conv_bias) * out
        total += (channels + 2) * out * a * (i > 0)
        channels = out
    return total + (channels + bias) * 10


def test_another_right_count_passes(capsys):
    checks.network_parameters(parameters)
    kinds = (
        float,
        Fraction,
        np.int32,
        np.float64,
        np.array,
        torch.tensor,
        lambda count: torch.tensor([count]),
    )
    for kind in kinds:
        checks.network_parameters(lambda depth, width, kind=kind: kind(parameters(depth, width)))
    assert capsys.readouterr().out.count("Right") == 1 + len(kinds)


def built(depth, width):
    return probes.count_parameters(models.cifar_resnet(depth, width=width, in_channels=1))


def built_layer_by_layer(depth, width):
    stem = nn.Conv2d(1, width, 3, bias=False)
    return parameters(depth, width) - 9 * width + stem.weight.numel()


def first_reads_own(depth, width):
    return parameters(depth, width) + 9 * (width * 2 * width + 2 * width * 4 * width)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d, w: parameters(d, w, norms=0, stem=0), "batch norms are missing"),
        (lambda d, w: parameters(d, w, norms=1, stem=1), "two numbers for each channel"),
        (lambda d, w: parameters(d, w, norms=4, stem=4), "Running statistics"),
        (lambda d, w: parameters(d, w, stem=0), "stem has a batch norm"),
        (lambda d, w: parameters(d, w, bias=0), "linear layer has a bias"),
        (lambda d, w: parameters(d, w, conv_bias=1), "convolutions have no bias"),
        (first_reads_own, "channels of the stage before"),
        (lambda d, w: parameters(d, w, per_block=1), "two convolutions"),
        (lambda d, w: parameters(d, w, blocks=1), "one block too many"),
        (lambda d, w: parameters(d, w, blocks=-1), "one block too few"),
        (lambda d, w: parameters(d, w, a=1), "no projections"),
        (lambda d, w: parameters(d, w, doubles=False), "doubles from stage to stage"),
        (lambda d, w: parameters(d, w, wider=1), "first stage has `width` channels"),
        (lambda d, w: parameters(d, w, images=3), "Grey images"),
        (lambda d, w: parameters(d, w) - 11 * w, "stem is missing"),
        (lambda d, w: parameters(d, w) - (4 * w + 1) * 10, "linear layer at the end is missing"),
        (lambda d, w: parameters(d, w) - 3 * w * 10, "channels of the last stage"),
        (lambda d, w: parameters(d, w) + 15 * 4 * w * 10, "the mean of its 4×4 map"),
        (lambda d, w: parameters(d, 16), "argument `width`"),
        (lambda d, w: parameters(d, w) + 1, "each layer with its numbers"),
        (lambda d, w: parameters(d, w, window=3), "nine weights for each pair of channels, not three"),
        (lambda d, w: parameters(d, w, window=1), "nine weights for each pair of channels, not one"),
        (lambda d, w: parameters(d, w, extra=1), "one convolution too many in each stage"),
        (lambda d, w: parameters(8, w), "argument `depth`"),
        (lambda d, w: parameters(d, w) + 0.5, "whole number"),
        (lambda d, w: np.array(parameters(d, w)).astype(np.int16), "gives"),  # it overflows
        (built, "a network|asks for a formula"),
        (built_layer_by_layer, "a Conv2d was built.*asks for a formula"),
    ],
)
def test_wrong_network_parameters(function, message):
    fails(checks.network_parameters, function, message)


# ---- degradation_gap


def gap(shallow, deep, *, variance=statistics.variance, single=None, error=None):
    """Right by default; ``error(variances, sizes)`` is another rule for the standard error."""
    difference = statistics.fmean(deep) - statistics.fmean(shallow)
    if min(len(shallow), len(deep)) < 2:
        return difference, single
    variances, sizes = [variance(shallow), variance(deep)], [len(shallow), len(deep)]
    if error is not None:
        return difference, error(variances, sizes)
    return difference, math.sqrt(sum(v / n for v, n in zip(variances, sizes, strict=True)))


def gap_by_torch(shallow, deep):
    sides = [torch.tensor(side, dtype=torch.float64) for side in (shallow, deep)]
    difference = sides[1].mean() - sides[0].mean()
    if any(len(side) == 1 for side in sides):
        return [difference, None]
    return [difference, torch.sqrt(sum(side.var() / len(side) for side in sides))]


def gap_by_numpy(shallow, deep, dtype):
    sides = [np.array(side, dtype=dtype) for side in (shallow, deep)]
    difference = sides[1].mean() - sides[0].mean()
    if min(map(len, sides)) < 2:
        return difference, None
    return difference, np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))


def test_another_right_gap_passes(capsys):
    checks.degradation_gap(gap)
    checks.degradation_gap(gap_by_torch)
    checks.degradation_gap(lambda s, d: gap_by_numpy(s, d, np.float64))
    # Where both means are near, float32 leaves a difference of some 1e-8.
    checks.degradation_gap(lambda s, d: gap_by_numpy(s, d, np.float32))
    checks.degradation_gap(lambda s, d: np.array(gap(s, d), dtype=object))
    checks.degradation_gap(lambda s, d: [None if v is None else np.array(v) for v in gap(s, d)])
    checks.degradation_gap(lambda s, d: [None if v is None else Fraction(v) for v in gap(s, d)])
    checks.degradation_gap(gap_by_the_book)
    assert capsys.readouterr().out.count("Right") == 8


def gap_by_the_book(shallow, deep):
    found = compare.unpaired_difference(shallow, deep)
    return found.mean, found.error if math.isfinite(found.error) else None


def sorted_in_place(shallow, deep):
    shallow.sort()
    return gap(shallow, deep)


def emptied(shallow, deep):
    total, count = 0.0, len(deep)
    result = gap(shallow, deep)
    while deep:
        total += deep.pop()
    return total / count - statistics.fmean(shallow), result[1]


def pair_error(shallow, deep):
    if min(len(shallow), len(deep)) < 2:
        return gap(shallow, deep)
    pairs = [b - a for a, b in zip(shallow, deep, strict=False)]
    return gap(shallow, deep)[0], statistics.stdev(pairs) / math.sqrt(len(pairs))


def one_list(shallow, deep):
    both = shallow + deep
    return gap(shallow, deep, error=lambda v, n: statistics.stdev(both) / math.sqrt(len(both)))


def by_pairs(shallow, deep):
    return statistics.fmean(b - a for a, b in zip(shallow, deep, strict=False)), gap(shallow, deep)[1]


def pooled(shallow, deep):
    def error(variances, sizes):
        squares = sum(v * (n - 1) for v, n in zip(variances, sizes, strict=True))
        return math.sqrt(squares / (sum(sizes) - 2) * sum(1 / n for n in sizes))

    return gap(shallow, deep, error=error)


def nothing_for_one_seed(shallow, deep):
    return None if min(len(shallow), len(deep)) < 2 else gap(shallow, deep)


def rounded(shallow, deep):
    return [None if value is None else round(value, 2) for value in gap(shallow, deep)]


def reversed_gap(shallow, deep):
    difference, error = gap(shallow, deep)
    return -difference, error


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (reversed_gap, "other way round"),
        (lambda s, d: (abs(gap(s, d)[0]), gap(s, d)[1]), "keep the sign"),
        (lambda s, d: (max(d) - min(s), gap(s, d)[1]), "compare the means"),
        (lambda s, d: (min(d) - min(s), gap(s, d)[1]), "compare the means"),
        (lambda s, d: (sum(d) - sum(s), gap(s, d)[1]), "its own number of seeds"),
        (lambda s, d: (max(d) - max(s), gap(s, d)[1]), "compare the means"),
        (lambda s, d: (statistics.median(d) - statistics.median(s), gap(s, d)[1]), "medians"),
        (lambda s, d: (gap(s, d)[0] / statistics.fmean(s), gap(s, d)[1]), "do not divide by the shallow"),
        (by_pairs, "lists are not pairs"),
        (pooled, "pools the variances"),
        (rounded, "it is rounded"),
        (nothing_for_one_seed, "The gap is known there"),
        (lambda s, d: (None, gap(s, d)[1]), "gives no gap"),
        (lambda s, d: gap(s, d)[::-1], "standard error first"),
        (lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(sum(v) / sum(n))), "by its own n"),
        (lambda s, d: gap(s, d, error=lambda v, n: 1.96 * gap(s, d)[1]), "factor 1.96"),
        (lambda s, d: gap(s, d, variance=statistics.pvariance), "divisor n - 1"),
        (lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(sum(v))), "divide each variance by its n"),
        (lambda s, d: gap(s, d, error=lambda v, n: v[0] / n[0] + v[1] / n[1]), "square root"),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0] / n[0]) + math.sqrt(v[1] / n[1])),
            "add the variances first",
        ),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0]) / n[0] + math.sqrt(v[1]) / n[1]),
            "not the standard deviation",
        ),
        (lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0] / n[0])), "deep side has a spread"),
        (lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[1] / n[1])), "shallow side has a spread"),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(abs(v[1] / n[1] - v[0] / n[0]))),
            "variances add up",
        ),
        (lambda s, d: gap(s, d, error=lambda v, n: 1.0), "take the root"),
        # Divided once more, in all the ways one may.
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0] / n[0] ** 2 + v[1] / n[1] ** 2)),
            "once more",
        ),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt((v[0] / n[0] + v[1] / n[1]) / sum(n))),
            "once more, by the number of all seeds",
        ),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt((v[0] / n[0] + v[1] / n[1]) / 2)),
            "the mean of the two",
        ),
        (
            lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0] / (n[0] - 1) + v[1] / (n[1] - 1))),
            "n - 1 stands in the variance already",
        ),
        (
            lambda s, d: gap(
                s, d, error=lambda v, n: math.sqrt(math.sqrt(v[0]) / n[0] + math.sqrt(v[1]) / n[1])
            ),
            "standard deviations under the root",
        ),
        (lambda s, d: gap(s, d, error=lambda v, n: math.sqrt(v[0] / n[1] + v[1] / n[0])), "other side's n"),
        (
            lambda s, d: gap(s, d, variance=statistics.pvariance, error=lambda v, n: math.sqrt(sum(v))),
            "spread of single runs, and with the divisor n",
        ),
        (pair_error, "lists are not pairs"),
        (one_list, "over both lists thrown together"),
        (lambda s, d: (round(gap(s, d)[0], 3), gap(s, d)[1]), "it is rounded"),
        (lambda s, d: (gap(s, d)[0] / (gap(s, d)[1] or 1), gap(s, d)[1]), "side by side"),
        (sorted_in_place, "changes its own argument shallow"),
        (emptied, "changes its own argument deep"),
        (lambda s, d: gap(s, d, single=0.0), "not a spread of 0"),
        (lambda s, d: gap(s, d, single=math.nan), "return None"),
        (lambda s, d: (gap(s, d)[0], None), "both sides have several values"),
        (lambda s, d: gap(s, d)[0], "two values"),
        (lambda s, d: ("large", 0.1), "must be a number"),
    ],
)
def test_wrong_gaps(function, message):
    fails(checks.degradation_gap, function, message)


# ---- gradient_norms


def norms(
    model, loss, *, clear=True, backward=True, measure=torch.norm, kinds=(nn.Conv2d, nn.Linear), key="{}"
):
    if clear:
        model.zero_grad()
    if backward:
        loss.backward()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    return {key.format(name): measure(layer.weight.grad).item() for name, layer in layers.items()}


def test_other_right_norms_pass(capsys):
    checks.gradient_norms(norms)
    checks.gradient_norms(by_autograd)
    checks.gradient_norms(one_by_one)
    checks.gradient_norms(with_hooks)
    for kind in (torch.tensor, np.float32, np.array, Fraction):
        checks.gradient_norms(lambda m, loss, kind=kind: {n: kind(v) for n, v in norms(m, loss).items()})
    assert capsys.readouterr().out.count("Right") == 8


def weights_of(model):
    return {name: m.weight for name, m in model.named_modules() if isinstance(m, LAYERS)}


def by_autograd(model, loss, **options):
    weights = weights_of(model)
    found = torch.autograd.grad(loss, list(weights.values()), **options)
    return {name: grad.norm() for name, grad in zip(weights, found, strict=True)}


def one_by_one(model, loss):
    weights = weights_of(model).items()
    return {n: torch.autograd.grad(loss, w, retain_graph=True)[0].norm().item() for n, w in weights}


def with_hooks(model, loss, remove=True):
    found = {}
    handles = [
        weight.register_hook(lambda grad, name=name: found.update({name: grad.norm().item()}))
        for name, weight in weights_of(model).items()
    ]
    loss.backward()
    if remove:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in weights_of(model)}


def only_convolutions_cleared(model, loss):
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.grad = None
    return norms(model, loss, clear=False)


def only_the_linear_layer_cleared(model, loss):
    model.fc.zero_grad()
    return norms(model, loss, clear=False)


def only_the_first_stage_is_old(model, loss):
    """Old gradients of the first stage are put back after backward()."""
    old = {n: w.grad.clone() for n, w in weights_of(model.layer1).items() if w.grad is not None}
    found = norms(model, loss)
    return found | {f"layer1.{name}": grad.norm().item() for name, grad in old.items()}


def called_again(model, loss):
    F.cross_entropy(model(torch.randn(2, 1, 8, 8)), torch.tensor([0, 1]))
    return norms(model, loss)


def left_in(mode):
    def function(model, loss):
        model.train(mode)
        return norms(model, loss)

    return function


def frozen_afterwards(model, loss):
    found = norms(model, loss)
    model.requires_grad_(False)
    return found


def no_more_gradients(model, loss):
    found = norms(model, loss)
    torch.set_grad_enabled(False)
    return found


def every_parameter(model, loss):
    loss.backward()
    return {name: p.grad.norm().item() for name, p in model.named_parameters()}


def of_the_weights(model, loss):
    return {
        n: m.weight.norm().item() for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }


LAYERS = nn.Conv2d | nn.Linear


def cleared_too_late(model, loss, **options):
    loss.backward()
    model.zero_grad(**options)
    return norms(model, loss, clear=False, backward=False)


def with_bias(model, loss):
    model.zero_grad()
    loss.backward()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    return {n: math.hypot(*(p.grad.norm().item() for p in m.parameters())) for n, m in layers.items()}


def by_number(model, loss):
    return dict(enumerate(norms(model, loss).values()))


def backward_twice(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return norms(model, loss, clear=False)


def times_weights(model, loss, power=1):
    found = norms(model, loss)
    return {
        name: norm * model.get_submodule(name).weight.norm().item() ** power for name, norm in found.items()
    }


def with_a_step(model, loss):
    found = norms(model, loss)
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return found


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, loss: norms(m, loss, clear=False), "gradients add up"),
        (lambda m, loss: norms(m, loss, clear=False, backward=False), "NoneType.*before loss.backward"),
        (cleared_too_late, "NoneType.*after model.zero_grad"),
        (lambda m, loss: cleared_too_late(m, loss, set_to_none=False), "all of them are 0"),
        (with_bias, "'fc'.*all others are right.*without the bias"),
        (by_number, "not names of layers"),
        (backward_twice, "only once"),
        (times_weights, "product with the norm of the weights"),
        (lambda m, loss: times_weights(m, loss, power=-1), "divided by the norm of the weights"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.square().mean()), "mean of the squares"),
        (lambda m, loss: norms(m, loss, measure=torch.sum), "plain sum"),
        (lambda m, loss: norms(m, loss, measure=torch.mean), "plain mean"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.norm() / g.numel()), "number of entries"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.norm().log10()), "logarithm"),
        (
            lambda m, loss: norms(m, loss, measure=lambda g: torch.linalg.matrix_norm(g.flatten(1), 2)),
            "singular value",
        ),
        (lambda m, loss: {n: m.get_submodule(n).weight for n in norms(m, loss)}, "Parameter of shape"),
        (of_the_weights, "norm of the weights"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.square().sum()), "take the root"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.abs().mean()), "mean size"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.abs().sum()), "L1 norm"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.abs().max()), "largest entry"),
        (lambda m, loss: norms(m, loss, measure=torch.std), "standard deviation"),
        (lambda m, loss: norms(m, loss, measure=lambda g: g.square().mean().sqrt()), "root of the mean"),
        (lambda m, loss: norms(m, loss, measure=lambda g: 3 * g.norm()), "square, add, take the root"),
        (lambda m, loss: norms(m, loss, key="{}.weight"), "names of parameters"),
        (every_parameter, "too many"),
        (lambda m, loss: norms(m, loss, kinds=(nn.Conv2d, nn.Linear, nn.BatchNorm2d)), "batch norm"),
        (lambda m, loss: norms(m, loss, kinds=(nn.Conv2d,)), "linear layer 'fc'"),
        (lambda m, loss: list(norms(m, loss).values()), "return a dict"),
        (lambda m, loss: {n: "large" for n in norms(m, loss)}, "must be a number"),
        (with_a_step, "take no step"),
        (only_convolutions_cleared, "'fc'.*an old gradient was added to it.*1 of 8 layers"),
        (only_the_linear_layer_cleared, "an old gradient was added to it.*model.zero_grad"),
        (only_the_first_stage_is_old, "this is an old gradient.*clear the gradients of all layers"),
        (lambda m, loss: norms(m, loss) | {"fc": 1.5}, "all others are right. Treat the linear layer"),
        (called_again, "running statistics.*do not call the model again"),
        (left_in(True), "left in another mode"),
        (left_in(False), "left in another mode"),
        (frozen_afterwards, "requires_grad is not what it was"),
        (no_more_gradients, "records no gradients at all"),
        (lambda m, loss: with_hooks(m, loss, remove=False), "a hook is left behind"),
        (lambda m, loss: by_autograd(m, loss, create_graph=True), "still part of a graph"),
        (probes.gradient_norms, "the book's own probes.gradient_norms"),
        (lambda m, loss: dict(probes.gradient_norms(m, loss)), "the book's own probes.gradient_norms"),
    ],
)
def test_wrong_gradient_norms(function, message):
    fails(checks.gradient_norms, function, message)
    assert torch.is_grad_enabled()


# ---- dirac_kernel


def dirac(channels, *, at=(1, 1), value=1.0, used=None, mix=False, everywhere=False):
    kernel = torch.zeros(channels, channels, 3, 3)
    for c in range(used or channels):
        kernel[c, c, at[0], at[1]] = value
    if mix:
        kernel[:, :, 1, 1] = 1
    if everywhere:
        kernel[torch.arange(channels), torch.arange(channels)] = 1
    return kernel


def dirac_by_eye(channels):
    kernel = torch.zeros(channels, channels, 3, 3)
    kernel[:, :, 1, 1] = torch.eye(channels)
    return nn.Parameter(kernel)


def test_another_right_kernel_passes(capsys):
    checks.dirac_kernel(dirac)
    checks.dirac_kernel(dirac_by_eye)
    checks.dirac_kernel(lambda c: F.pad(torch.eye(c)[:, :, None, None], (1, 1, 1, 1)))
    assert capsys.readouterr().out.count("Right") == 3


def dirac_by_bytes(channels):
    """An index in a byte begins again at 256."""
    kernel = torch.zeros(channels, channels, 3, 3)
    index = torch.from_numpy(np.arange(channels).astype(np.uint8)).long()
    kernel[torch.arange(channels), index, 1, 1] = 1
    return kernel


def dirac_of_torch(channels):
    return nn.init.dirac_(torch.empty(channels, channels, 3, 3))


def dirac_under_another_name(channels, init=nn.init.dirac_):
    kernel = torch.zeros(channels, channels, 3, 3)
    init(kernel)
    return kernel


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c: dirac(c, at=(0, 0)), "not in the centre"),
        (lambda c: dirac(c, at=(2, 2)), "not in the centre"),
        (lambda c: dirac(c, everywhere=True), "mixed with its neighbours"),
        (lambda c: torch.ones(c, c, 3, 3), "mixed with its neighbours"),
        (lambda c: dirac(c, mix=True), "adds up several input channels"),
        (lambda c: dirac(c, used=1), "every channel needs its own 1"),
        (lambda c: dirac(c, value=0.5), "scaled by 0.5"),
        (lambda c: dirac(c) * torch.arange(1.0, c + 1).reshape(c, 1, 1, 1), "scaled by 2"),
        (lambda c: dirac(c).flip(0), "in another order"),
        (lambda c: dirac(c)[:1].repeat(c, 1, 1, 1), "taken twice, and others never"),
        (lambda c: dirac(c) * math.nan, "no finite numbers"),
        (lambda c: torch.zeros(c, c, 3, 3), "all weights are 0"),
        (lambda c: dirac(c)[:, :1], "has the shape"),
        (lambda c: torch.eye(3), "has the shape"),
        (lambda c: dirac(c).long(), "weights are float32"),
        (lambda c: dirac(c).numpy(), "return a tensor"),
        (lambda c: dirac(c).double(), "weights are float32"),
        (dirac_by_bytes, r"dirac_kernel\(300\).*taken twice"),
        (dirac_of_torch, "right, but nn.init.dirac_ has made it"),
        (dirac_under_another_name, "right, but nn.init.dirac_ has made it"),
    ],
)
def test_wrong_kernels(function, message):
    fails(checks.dirac_kernel, function, message)


# ---- diagnose


def diagnosis(
    training,
    test,
    *,
    worse=lambda i: i[0] > 0,
    better=lambda i: i[1] < 0,
    harm=lambda i: i[0] > 0,
    words=("degradation", "overfitting", "not clear", "neither"),
):
    if not harm(test):
        return words[3]
    if worse(training):
        return words[0]
    return words[1] if better(training) else words[2]


def diagnosis_by_table(training, test):
    signs = [(low > 0) - (high < 0) for low, high in (training, test)]
    table = {(1, 1): "degradation", (-1, 1): "overfitting", (0, 1): "not clear"}
    return table.get(tuple(signs), "neither")


def test_another_right_diagnosis_passes(capsys):
    checks.diagnose(diagnosis)
    checks.diagnose(diagnosis_by_table)
    checks.diagnose(lambda training, test: np.str_(diagnosis(training, test)))
    assert capsys.readouterr().out.count("Right") == 3


def middle(interval):
    return 0 if math.isinf(interval[0]) else statistics.fmean(interval)


def by_distance(training, test):
    if test[0] <= 0:
        return "neither"
    return "overfitting" if middle(test) > middle(training) else "degradation"


def clear(interval):
    return interval[0] > 0 or interval[1] < 0


def tolerant(tolerance):
    return lambda training, test: diagnosis(
        training,
        test,
        worse=lambda i: i[0] > tolerance,
        better=lambda i: i[1] < -tolerance,
        harm=lambda i: i[0] > tolerance,
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda a, b: diagnosis(a, b, words=("overfitting", "degradation", "not clear", "neither")),
            "swapped the two words",
        ),
        (lambda a, b: "overfitting" if b[0] > 0 else "neither", "test error alone"),
        (lambda a, b: diagnosis(a, b, harm=lambda i: True), "training error alone"),
        (lambda a, b: "degradation" if a[0] > 0 else diagnosis(a, b), "test error first"),
        (by_distance, "may grow more than the training error"),
        (
            lambda a, b: diagnosis((middle(a),) * 2, (middle(b),) * 2),
            "What counts is the whole interval",
        ),
        (lambda a, b: diagnosis((middle(a),) * 2, b), "training error is judged by its middle"),
        (lambda a, b: diagnosis(a, (middle(b),) * 2), "test error is judged by its middle"),
        (lambda a, b: diagnosis((a[1],) * 2, (b[1],) * 2), "What counts is the whole interval"),
        (lambda a, b: diagnosis(a, b, harm=lambda i: i[0] >= 0), "ends at 0"),
        (lambda a, b: diagnosis(a, b, worse=lambda i: i[0] >= 0, better=lambda i: i[1] <= 0), "ends at 0"),
        (
            lambda a, b: diagnosis(a, b, words=("degradation", "overfitting", "overfitting", "neither")),
            "it is 'not clear': the seeds",
        ),
        (
            lambda a, b: diagnosis(a, b, words=("degradation", "overfitting", "degradation", "neither")),
            "it is 'not clear': the seeds",
        ),
        (
            lambda a, b: diagnosis(a, b, words=("degradation", "overfitting", "neither", "neither")),
            "there is something to explain",
        ),
        (lambda a, b: "not clear" if not clear(b) else diagnosis(a, b), "nothing to explain: 'neither'"),
        (lambda a, b: diagnosis(a, b, harm=clear), "clearly smaller does no harm"),
        (lambda a, b: diagnosis(b, a), "The first interval is that of the training error"),
        (lambda a, b: diagnosis((-a[1], -a[0]), (-b[1], -b[0])), "deep minus shallow"),
        (tolerant(0.005), "no tolerance of your own"),
        (tolerant(1e-6), "no tolerance of your own"),
        (lambda a, b: "neither", "one after the other"),
        (lambda a, b: diagnosis(a, b, worse=lambda i: i[0] > 1e-3), "one after the other"),
        (lambda a, b: diagnosis(a, b).upper(), "one of the words"),
        (lambda a, b: np.array([1, 2]), "one of the words"),
        (lambda a, b: True, "one of the words"),
        (lambda a, b: diagnosis(a, b) if b[0] > 0 else None, "every branch"),
    ],
)
def test_wrong_diagnoses(function, message):
    fails(checks.diagnose, function, message)


# ---- the chapter's claims


def test_plain_and_residual_networks_have_equally_many_parameters():
    for depth in (8, 20, 56):
        counts = {
            probes.count_parameters(models.cifar_resnet(depth, residual=residual, in_channels=1))
            for residual in (False, True)
        }
        assert len(counts) == 1
