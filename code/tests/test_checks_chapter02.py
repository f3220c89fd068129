"""Chapter 2's checks: other right solutions pass, and mistakes that no edit of the answer makes are named."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, compare, models, probes

pytestmark = pytest.mark.slow

# ---- network_parameters


def parameters(depth, width):
    n = (depth - 2) // 6
    total, channels = 11 * width, width
    for out in (width, 2 * width, 4 * width):
        total += (9 * channels + 2) * out + (2 * n - 1) * (9 * out + 2) * out
        channels = out
    return total + (channels + 1) * 10


def test_another_right_count_passes(capsys):
    for kind in (Fraction, np.int32, np.array, lambda count: torch.tensor([count])):
        passes(checks.network_parameters, lambda *case, kind=kind: kind(parameters(*case)), capsys)


def built(depth, width):
    return probes.count_parameters(models.cifar_resnet(depth, width=width, in_channels=1))


def built_layer_by_layer(depth, width):
    stem = nn.Conv2d(1, width, 3, bias=False)
    return parameters(depth, width) - 9 * width + stem.weight.numel()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d, w: parameters(d, w) + 15 * 4 * w * 10, "the mean of its 4×4 map"),
        (lambda d, w: parameters(d, 16), "argument `width`"),
        (lambda d, w: parameters(d, w) + 1, "each layer with its numbers"),
        (lambda d, w: np.array(parameters(d, w)).astype(np.int16), "gives"),  # it overflows
        (built, "a network|asks for a formula"),
        (built_layer_by_layer, "a Conv2d was built.*asks for a formula"),
    ],
)
def test_wrong_network_parameters(function, message):
    fails(checks.network_parameters, function, message)


# ---- degradation_gap


def gap(shallow, deep, *, single=None, error=None):
    """Right by default; ``error`` stands in place of the standard error."""
    difference = statistics.fmean(deep) - statistics.fmean(shallow)
    if min(len(shallow), len(deep)) < 2:
        return difference, single
    right = math.sqrt(sum(statistics.variance(side) / len(side) for side in (shallow, deep)))
    return difference, right if error is None else error


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


def emptied(shallow, deep):
    total, count = 0.0, len(deep)
    result = gap(shallow, deep)
    while deep:
        total += deep.pop()
    return total / count - statistics.fmean(shallow), result[1]


def nothing_for_one_seed(shallow, deep):
    return None if min(len(shallow), len(deep)) < 2 else gap(shallow, deep)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing_for_one_seed, "The gap is known there"),
        (lambda s, d: gap(s, d, error=1.0), "take the root"),
        (lambda s, d: (max(d) - statistics.fmean(s), gap(s, d)[1]), "subtract the mean of the shallow"),
        (emptied, "changes its own argument deep"),
        (lambda s, d: gap(s, d, single=1.0), "return None for what cannot be known"),
        (lambda s, d: None, "`return`"),
        (lambda s, d: gap(s, d)[0], "two values"),
    ],
)
def test_wrong_gaps(function, message):
    fails(checks.degradation_gap, function, message)


# ---- gradient_norms


def norms(model, loss, *, clear=True, backward=True, factor=1.0):
    if clear:
        model.zero_grad()
    if backward:
        loss.backward()
    return {name: factor * weight.grad.norm().item() for name, weight in weights_of(model).items()}


def test_other_right_norms_pass(capsys):
    for function in (norms, by_autograd, one_by_one, with_hooks):
        checks.gradient_norms(function)
    for kind in (np.array, Fraction):
        checks.gradient_norms(lambda m, loss, kind=kind: {n: kind(v) for n, v in norms(m, loss).items()})
    assert capsys.readouterr().out.count("Right") == 6


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


def left_in_training_mode(model, loss):
    model.train()
    return norms(model, loss)


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


def cleared_too_late(model, loss):
    loss.backward()
    model.zero_grad()
    return norms(model, loss, clear=False, backward=False)


LAYERS = nn.Conv2d | nn.Linear


def by_number(model, loss):
    return dict(enumerate(norms(model, loss).values()))


def with_a_step(model, loss):
    found = norms(model, loss)
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return found


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, loss: norms(m, loss, clear=False, backward=False), "NoneType.*before loss.backward"),
        (cleared_too_late, "NoneType.*after model.zero_grad"),
        (by_number, "named_modules.. gives, such as 'fc', not '0'"),
        (lambda m, loss: norms(m, loss, factor=3.0), "square, add, take the root"),
        (every_parameter, "there are 23 entries too many, such as 'bn1.bias'"),
        (lambda m, loss: {"conv1": norms(m, loss)["conv1"]}, "7 of 8 layers are missing, such as 'fc'"),
        (lambda m, loss: None, "`return`"),
        (lambda m, loss: list(norms(m, loss).values()), "Return a dict"),
        (with_a_step, "take no step"),
        (only_convolutions_cleared, "fc gives.*an old gradient was added to it.*1 of 8 layers"),
        (only_the_linear_layer_cleared, "an old gradient was added to it.*model.zero_grad"),
        (only_the_first_stage_is_old, "this is an old gradient.*clear the gradients of all layers"),
        (lambda m, loss: norms(m, loss) | {"fc": 1.5}, "all others are right. Treat the linear layer"),
        (called_again, "running statistics.*do not call the model again"),
        (left_in_training_mode, "left in another mode"),
        (frozen_afterwards, "leave requires_grad as it is"),
        (no_more_gradients, "leaves the recording of gradients switched"),
        (lambda m, loss: with_hooks(m, loss, remove=False), "a hook is left behind"),
        (lambda m, loss: by_autograd(m, loss, create_graph=True), "holds the whole computation"),
        (probes.gradient_norms, "the book's own probes.gradient_norms"),
        (lambda m, loss: dict(probes.gradient_norms(m, loss)), "the book's own probes.gradient_norms"),
    ],
)
def test_wrong_gradient_norms(function, message):
    fails(checks.gradient_norms, function, message)
    assert torch.is_grad_enabled()


# ---- dirac_kernel


def dirac(channels, *, at=(1, 1), value=1.0):
    kernel = torch.zeros(channels, channels, 3, 3)
    for c in range(channels):
        kernel[c, c, at[0], at[1]] = value
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
        (lambda c: dirac(c, value=0.5), "scaled by 0.5"),
        (lambda c: dirac(c) * torch.arange(1.0, c + 1).reshape(c, 1, 1, 1), "scaled by 2"),
        (lambda c: dirac(c) * math.nan, "no finite numbers"),
        (lambda c: dirac(c)[:, :1], "has the shape"),
        (lambda c: torch.eye(3), "has the shape"),
        (lambda c: dirac(c).long(), "weights are float32"),
        (dirac_of_torch, "right, but nn.init.dirac_ has made it"),
        (dirac_under_another_name, "right, but nn.init.dirac_ has made it"),
    ],
)
def test_wrong_kernels(function, message):
    fails(checks.dirac_kernel, function, message)


# ---- diagnose


def diagnosis(training, test, worse=lambda i: i[0] > 0):
    if test[0] <= 0:
        return "neither"
    if worse(training):
        return "degradation"
    return "overfitting" if training[1] < 0 else "not clear"


def diagnosis_by_table(training, test):
    signs = [(low > 0) - (high < 0) for low, high in (training, test)]
    table = {(1, 1): "degradation", (-1, 1): "overfitting", (0, 1): "not clear"}
    return table.get(tuple(signs), "neither")


def test_another_right_diagnosis_passes(capsys):
    checks.diagnose(diagnosis)
    checks.diagnose(diagnosis_by_table)
    checks.diagnose(lambda training, test: np.str_(diagnosis(training, test)))
    assert capsys.readouterr().out.count("Right") == 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: "neither", "one after the other"),
        (lambda a, b: diagnosis(a, b, worse=lambda i: i[0] > 1e-3), "one after the other"),
        (lambda a, b: diagnosis(a, b).upper(), "one of the words"),
        (lambda a, b: np.array([1, 2]), "one of the words"),
        (lambda a, b: True, "one of the words"),
        (lambda a, b: diagnosis(a, b) if b[0] > 0 else None, "`return`"),
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
