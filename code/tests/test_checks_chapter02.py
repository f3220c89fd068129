"""Chapter 2's checks: right solutions pass, and each mistake is named. And the effect itself, small."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions
from torch import nn

from resnetbook import checks, models, probes, runs

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
):
    n = (depth - 2) // 6 + blocks
    total, channels = (9 * images + stem + conv_bias) * width, width
    for i in range(3):
        out = width * 2 ** (i + wider) if doubles else width
        total += (9 * (first or channels) + norms + conv_bias) * out
        total += (n * per_block - 1) * (9 * out + norms + conv_bias) * out
        total += (channels + 2) * out * a * (i > 0)
        channels = out
    return total + (channels + bias) * 10


def test_another_right_count_passes(capsys):
    checks.network_parameters(parameters)
    checks.network_parameters(lambda depth, width: torch.tensor(parameters(depth, width)))
    assert capsys.readouterr().out.count("Right") == 2


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
        (lambda d, w: parameters(d, w) / 1, "whole number"),
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
    assert capsys.readouterr().out.count("Right") == 6


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
        (lambda s, d: (sum(d) - sum(s), gap(s, d)[1]), "its own number of seeds|keep the sign|means"),
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
    checks.gradient_norms(probes.gradient_norms)
    checks.gradient_norms(lambda m, loss: {n: torch.tensor(v) for n, v in norms(m, loss).items()})
    assert capsys.readouterr().out.count("Right") == 3


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
    ],
)
def test_wrong_gradient_norms(function, message):
    fails(checks.gradient_norms, function, message)


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
    assert capsys.readouterr().out.count("Right") == 2


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
    ],
)
def test_wrong_kernels(function, message):
    fails(checks.dirac_kernel, function, message)


# ---- diagnose


def diagnosis(shallow, deep, *, worse=float.__gt__, harm=float.__gt__, words=("degradation", "overfitting")):
    if not harm(deep[1], shallow[1]):
        return "neither"
    return words[0] if worse(deep[0], shallow[0]) else words[1]


def diagnosis_by_table(shallow, deep):
    table = {(True, True): "degradation", (False, True): "overfitting"}
    return table.get((deep[0] > shallow[0], deep[1] > shallow[1]), "neither")


def test_another_right_diagnosis_passes(capsys):
    checks.diagnose(diagnosis)
    checks.diagnose(diagnosis_by_table)
    assert capsys.readouterr().out.count("Right") == 2


def by_distance(shallow, deep):
    if deep[1] - deep[0] > shallow[1] - shallow[0]:
        return "overfitting"
    return diagnosis(shallow, deep)


def by_distance_where_worse(shallow, deep):
    if deep[1] <= shallow[1]:
        return "neither"
    return by_distance(shallow, deep)


def overfitting_needs_a_smaller_training_error(shallow, deep):
    return "neither" if deep[0] == shallow[0] else diagnosis(shallow, deep)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, d: diagnosis(s, d, words=("overfitting", "degradation")), "swapped the two words"),
        (lambda s, d: "overfitting" if d[1] > s[1] else "neither", "test error alone"),
        (lambda s, d: "degradation" if d[0] > s[0] else "neither", "training error alone"),
        (by_distance, "distance from training to test"),
        (lambda s, d: "degradation" if d[0] > s[0] else diagnosis(s, d), "test error first"),
        (lambda s, d: "overfitting" if d[0] < s[0] else diagnosis(s, d), "does no harm"),
        (lambda s, d: diagnosis(s, d, worse=float.__ge__), "equal training error"),
        (lambda s, d: diagnosis(s, d, harm=float.__ge__), "equal test error"),
        (lambda s, d: "neither", "one after the other"),
        (lambda s, d: diagnosis(d, s), "The first pair is the shallow network's"),
        (lambda s, d: diagnosis(s[::-1], d[::-1]), "training error first"),
        (lambda s, d: "degradation" if d[0] > s[0] else "overfitting", "never says 'neither'"),
        (lambda s, d: "overfitting" if d[1] > d[0] else "neither", "is the rule"),
        (by_distance_where_worse, "distance from training to test"),
        (overfitting_needs_a_smaller_training_error, "equal training error"),
        # Right but for a tie in the test error; right but for a tolerance.
        (lambda s, d: "degradation" if d[0] > s[0] and d[1] >= s[1] else diagnosis(s, d), "equal test error"),
        (lambda s, d: diagnosis(s, d) if d[1] > s[1] + 0.005 else "neither", "one after the other"),
        (lambda s, d: np.array([1, 2]), "one of the words"),
        (lambda s, d: True, "one of the words"),
        (lambda s, d: diagnosis(s, d) if d[1] > s[1] else None, "every branch"),
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


def test_the_deeper_plain_network_has_the_larger_training_loss_in_quick_mode(dataset, tmp_path, monkeypatch):
    """The effect of the chapter, trained here and now: a minute or two on two cores."""
    monkeypatch.setenv("RESNETBOOK_RUNS", "quick")
    losses = {}
    for depth in (20, 56):
        folder = runs.obtain(f"degradation-plain-{depth}", tmp_path)
        (record,) = runs.load_seeds(f"degradation-plain-{depth}", folder)
        losses[depth] = record["history"][-1]
    for kind in ("train_loss", "slice_loss"):
        # It is not close: a margin, so that luck cannot decide.
        assert losses[56][kind] > losses[20][kind] + 0.2, kind
