"""Chapter 1's checks: right solutions of another kind pass, and mistakes are named that no slip is."""

import math

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, models, probes

pytestmark = pytest.mark.slow

# ---- convolution


def conv(x, weight, bias, stride, padding):
    """In plain loops."""
    x = F.pad(x, (padding,) * 4)
    height, width = weight.shape[2:]
    rows, columns = (x.shape[1] - height) // stride + 1, (x.shape[2] - width) // stride + 1
    out = torch.zeros(len(weight), rows, columns, dtype=x.dtype)
    for o in range(len(weight)):
        for i in range(rows):
            for j in range(columns):
                window = x[:, i * stride :, j * stride :][:, :height, :width]
                out[o, i, j] = (window * weight[o]).sum() + bias[o]
    return out


def conv_by_unfold(x, weight, bias, stride, padding):
    columns = F.unfold(x[None], weight.shape[2:], padding=padding, stride=stride)[0]
    out = weight.flatten(1) @ columns + bias[:, None]
    height = (x.shape[1] + 2 * padding - weight.shape[2]) // stride + 1
    return out.reshape(len(weight), height, -1)


def conv_in_float32(x, weight, bias, stride, padding):
    return conv(x.float(), weight.float(), bias.float(), stride, padding)


def conv_by_matrices(x, weight, bias, stride, padding):
    """Each window a row, all filters at once."""
    x = F.pad(x, (padding,) * 4)
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[1:], weight.shape[2:], strict=True))
    windows = [
        x[:, i * stride :, j * stride :][:, : weight.shape[2], : weight.shape[3]].flatten()
        for i in range(rows)
        for j in range(columns)
    ]
    return (torch.stack(windows) @ weight.flatten(1).T + bias).T.reshape(-1, rows, columns)


def conv_by_shifted_images(x, weight, bias, stride, padding):
    """A loop over the kernel, and in-place sums into a tensor of its own."""
    x = F.pad(x, (padding,) * 4)
    rows, columns = ((n - k) // stride for n, k in zip(x.shape[1:], weight.shape[2:], strict=True))
    out = bias[:, None, None].repeat(1, rows + 1, columns + 1)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = x[:, i : i + rows * stride + 1 : stride, j : j + columns * stride + 1 : stride]
            out += torch.einsum("oc,chw->ohw", weight[:, :, i, j], part)
    return out


@pytest.mark.parametrize(
    "function",
    [
        conv,
        conv_in_float32,
        conv_by_matrices,
        conv_by_shifted_images,
        lambda *case: torch.from_numpy(conv(*case).numpy()),
        lambda x, weight, bias, *rest: conv(x, nn.Parameter(weight), nn.Parameter(bias), *rest),
    ],
)
def test_a_right_convolution_passes(function, capsys):
    checks.conv2d(function)
    said = capsys.readouterr().out
    assert said.startswith("Right") and "unfold" not in said


def test_a_convolution_without_loops_is_right_but(capsys):
    checks.conv2d(conv_by_unfold)
    assert "But unfold has cut out the windows" in capsys.readouterr().out


def conv_by_module(x, weight, bias, stride, padding):
    layer = nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], stride, padding)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.double()(x[None])[0].detach()


def conv_by_one_dimension(x, weight, bias, stride, padding):
    """Rows in a loop, and PyTorch along them."""
    x = F.pad(x, (padding,) * 4)
    rows = []
    for top in range(0, x.shape[1] - weight.shape[2] + 1, stride):
        parts = (
            F.conv1d(x[None, :, top + i], weight[:, :, i], stride=stride) for i in range(weight.shape[2])
        )
        rows.append(sum(parts)[0] + bias[:, None])
    return torch.stack(rows, dim=1)


def conv_mixes_channels(x, weight, bias, stride, padding):
    """weight[c, o], where it is weight[o, c]."""
    weight = torch.stack([torch.stack([weight[c, o] for c in range(len(x))]) for o in range(len(weight))])
    return conv(x, weight, bias, stride, padding)


def conv_squeezes(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    x.unsqueeze_(0)
    return out


def conv_leaves_a_hole(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    out[-1, -1, -1] = torch.nan
    return out


def conv_slightly_off(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    out[-1, -1, -1] += 5e-5
    return out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (conv_mixes_channels, "channels of weight are mixed up"),
        (lambda x, w, b, s, p: conv(x, w.flip(2, 3), b, s, 0) + 1, "The padding is not applied"),
        (lambda x, w, b, s, p: F.conv2d(x[None], w, b, s, p)[0], r"right, but .* own torch\.conv2d"),
        (
            lambda x, w, b, s, p: torch.convolution(x[None], w, b, [s, s], [p, p], [1, 1], False, [0, 0], 1)[
                0
            ],
            r"own torch\.convolution",
        ),
        (conv_by_module, r"right, but .* own torch\.conv2d"),
        (conv_by_one_dimension, r"right, but .* own torch\.conv1d"),
        (conv_squeezes, "changes its own argument x"),
        (lambda x, *rest: conv(x.requires_grad_(), *rest), "leave requires_grad as it is"),
        (conv_leaves_a_hole, "It is nan"),
        (conv_slightly_off, "1 of .* wrong, the first at"),
        (lambda *a: conv(*a).half(), "float16"),
        (lambda *a: conv(*a).long(), "int64.*zeros of x's own dtype"),
        (lambda *a: conv(*a).sum(0), "Three axes"),
        (lambda *a: conv(*a).repeat(2, 1, 1), "one map for each filter"),
        (lambda *a: conv(*a)[:, 1:, 1:], r"missing: the formula ends with \+ 1"),
        (lambda *a: conv(*a)[:, 2:], "Work the size out with the formula"),
        (lambda *a: conv(*a).numpy(), "return a tensor"),
    ],
)
def test_a_wrong_convolution_is_named(function, message, capsys):
    fails(checks.conv2d, function, message, capsys)


def test_what_torch_cannot_compare_is_no_untouched_exercise(capsys):
    def conv2d(x, weight, bias, stride, padding):
        return F.conv2d(x[None], weight, bias, stride, padding)[0].to_sparse()

    fails(checks.conv2d, conv2d, "cannot be compared|sparse", capsys)


# ---- sizes


@pytest.mark.parametrize(
    "function",
    [
        lambda n, k, s, wanted: max(0, math.ceil(((wanted - 1) * s + k - n) / 2)),
        lambda n, k, s, wanted: next(p for p in range(99) if (n + 2 * p - k) // s + 1 >= wanted),
        lambda n, k, s, wanted: torch.tensor([max(0, -((n - k - (wanted - 1) * s) // 2))]),
    ],
)
def test_a_right_padding_passes(function, capsys):
    checks.smallest_padding(function)
    said = capsys.readouterr().out
    assert said.startswith("Right") and "But" not in said


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, k, s, wanted: max(0, (wanted - 1) * s + k - n) / 2, "whole|half a zero|//"),
        (lambda n, k, s, wanted: max(0, ((wanted - 1) * s * s + k - n + 1) // 2), "Draw the last window"),
    ],
)
def test_a_wrong_padding_is_named(function, message, capsys):
    fails(checks.smallest_padding, function, message, capsys)


def test_a_padding_that_pytorch_has_found_is_right_but(capsys):
    def padding_by_asking(n, kernel, stride, wanted):
        weight = torch.zeros(1, 1, kernel)
        for p in range(99):
            if (
                n + 2 * p >= kernel
                and F.conv1d(torch.zeros(1, 1, n), weight, None, stride, p).numel() >= wanted
            ):
                return p

    checks.smallest_padding(padding_by_asking)
    assert "But torch.conv1d has found them" in capsys.readouterr().out


# ---- receptive field


def span(layers, index):
    first = last = index
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return first, last


def span_by_recursion(layers, index):
    if not layers:
        return index, index
    *before, (kernel, stride, padding) = layers
    start = index * stride - padding
    first, _ = span_by_recursion(before, start)
    _, last = span_by_recursion(before, start + kernel - 1)
    return [first, last]


def span_forwards(early=False, padding_early=False, size_in_jumps=True, index_in_jumps=True):
    """By size, jump and start; the options make mistakes."""

    def function(layers, index):
        field, jump, start = 1, 1, 0
        for kernel, stride, padding in layers:
            before, jump = jump, jump * stride
            start -= padding * (jump if padding_early else before)
            field += (kernel - 1) * ((jump if early else before) if size_in_jumps else 1)
        start += index * (jump if index_in_jumps else 1)
        return np.int64(start), np.int64(start + field - 1)

    return function


def span_by_sets(layers, index):
    """Every pixel by itself."""
    pixels = {index}
    layers = list(layers)
    while layers:
        kernel, stride, padding = layers.pop()
        pixels = {i * stride - padding + j for i in pixels for j in range(kernel)}
    return min(pixels), max(pixels)


@pytest.mark.parametrize(
    "function",
    [
        span_by_recursion,
        span_forwards(),
        span_by_sets,
        lambda *case: torch.tensor(span(*case), dtype=torch.float32),
    ],
)
def test_a_right_span_passes(function, capsys):
    passes(checks.receptive_span, function, capsys)


def span_turning_round(layers, index):
    layers.reverse()
    return span(layers[::-1], index)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (span_forwards(early=True, padding_early=True), "jump too early"),
        (span_forwards(early=True), "jump too early"),
        (span_forwards(padding_early=True), "stride multiplies the padding.*jump .before. the layer"),
        (span_forwards(size_in_jumps=False), r"\(kernel − 1\) · jump"),
        (span_forwards(index_in_jumps=False), "index \\*jumps\\* behind"),
        (span_turning_round, "right, but .* changes its own argument layers"),
        (lambda layers, i: span(layers[-1:], i), "Take one layer"),
        (lambda layers, i: span(layers, i)[1] - span(layers, i)[0] + 1, "2 values are asked for"),
        (lambda layers, i: tuple(n + 0.5 for n in span(layers, i)), "no whole number"),
    ],
)
def test_a_wrong_span_is_named(function, message, capsys):
    fails(checks.receptive_span, function, message, capsys)


# ---- LeNet


def parameters(classes, channels, flat=400):
    layers = ((25 * channels, 6), (25 * 6, 16), (flat, 120), (120, 84), (84, classes))
    return sum((inputs + 1) * outputs for inputs, outputs in layers)


def macs(classes, channels, flat=400):
    return 6 * 25 * channels * 784 + 16 * 150 * 100 + flat * 120 + 120 * 84 + 84 * classes


def count_with_modules(classes, channels):
    layers = [nn.Conv2d(channels, 6, 5, padding=2), nn.Conv2d(6, 16, 5)]
    layers += [nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)]
    positions = (28 * 28, 10 * 10, 1, 1, 1)
    work = sum(layer.weight.numel() * n for layer, n in zip(layers, positions, strict=True))
    return [torch.tensor(sum(p.numel() for p in nn.ModuleList(layers).parameters())), np.int64(work)]


def count_with_the_package(classes, channels):
    network = models.lenet(classes, channels)
    return probes.count_parameters(network), probes.count_macs(network, (channels, 28, 28))


@pytest.mark.parametrize("kind", [tuple, np.array, lambda pair: torch.tensor(pair, dtype=torch.float64)])
def test_right_counts_of_lenet_pass(kind, capsys):
    checks.lenet_counts(lambda *case: kind((parameters(*case), macs(*case))))
    said = capsys.readouterr().out
    assert said.startswith("Right") and "But" not in said


@pytest.mark.parametrize("function", [count_with_modules, count_with_the_package])
def test_counts_of_a_built_network_are_right_but(function, capsys):
    checks.lenet_counts(function)
    said = capsys.readouterr().out
    assert said.startswith("Right") and "But you have built layers" in said


@pytest.mark.parametrize(
    ("function", "message"),
    [
        # Two mistakes, and mistakes in one of the two counts alone.
        (lambda c, i: (parameters(c, i, 1600), 2 * macs(c, i)), "Parameters.*second pool"),
        (lambda c, i: (parameters(c, i), macs(c, 1)), "MACs.*conv1 reads in_channels"),
        (lambda c, i: (parameters(c, i), macs(10, i)), "MACs.*fc3 has num_classes"),
        (lambda c, i: (parameters(c, i), macs(c, i, 256)), "MACs.*400 numbers"),
        (lambda c, i: (parameters(c, i, 256), macs(c, i)), "Parameters.*400 numbers"),
        (lambda c, i: (parameters(c, i),) * 2, "every output position"),
        # Pools with 4 MACs for each output: the same number as that of the biases.
        (
            lambda c, i: (parameters(c, i), macs(c, i) + 4 * (6 * 196 + 16 * 25)),
            "Or the average pools, with 4",
        ),
        (lambda c, i: (parameters(10, 1), macs(10, 1)), "Write down each"),
        (lambda *case: parameters(*case), "two numbers"),
        (lambda *case: (torch.arange(3), macs(*case)), "Parameters.* no whole number"),
        (lambda *case: (parameters(*case), macs(*case) + 0.5), "MACs.* no whole number"),
        (lambda *case: None, "return"),
    ],
)
def test_wrong_counts_of_lenet_are_named(function, message, capsys):
    fails(checks.lenet_counts, function, message, capsys)


# ---- batch normalization


class Norm(nn.Module):
    """A right batch normalization; others below change one of its methods."""

    momentum = 0.1
    updates = ("running_mean", "running_var")

    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def scale(self, x, mean, var):
        return (x - mean) / torch.sqrt(var + 1e-5)

    def finish(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]

    def update(self, x):
        for name in self.updates:
            new = self.batch(x, unbiased=True)[name == "running_var"].flatten()
            setattr(self, name, (1 - self.momentum) * getattr(self, name) + self.momentum * new)

    def batch(self, x, unbiased):
        return x.mean((0, 2, 3), True), x.var((0, 2, 3), correction=int(unbiased), keepdim=True)

    def forward(self, x):
        moments = self.running_mean[:, None, None], self.running_var[:, None, None]
        if self.training:
            moments = self.batch(x, unbiased=False)
            with torch.no_grad():
                self.update(x)
        return self.finish(self.scale(x, *moments))


def norm(**changes):
    return type("MyNorm", (Norm,), changes)


class Functional(Norm):
    """PyTorch's function does the work, and moves the buffers in place."""

    def forward(self, x):
        buffers = self.running_mean, self.running_var
        return F.batch_norm(x, *buffers, self.weight, self.bias, self.training)


class ByAxes(Norm):
    """Another right one: channels last, and the variance as a mean of squares."""

    def forward(self, x):
        x = x.movedim(1, -1)
        mean, var = self.running_mean, self.running_var
        if self.training:
            flat = x.flatten(0, -2)
            mean = flat.mean(0)
            var = ((flat - mean) ** 2).mean(0)
            n = len(flat)
            self.running_mean.mul_(0.9).add_(0.1 * mean.detach())
            self.running_var.mul_(0.9).add_(0.1 * var.detach() * n / (n - 1))
        x = (x - mean) * (var + 1e-5).rsqrt() * self.weight + self.bias
        return x.movedim(-1, 1)


class InPlaceAfterwards(Norm):
    """Another right one: what it changes in place is its own, and no gradient needs the old numbers."""

    def scale(self, x, mean, var):
        return (x - mean).div_((var + 1e-5).sqrt())

    def finish(self, x):
        return (x * self.weight[:, None, None]).add_(self.bias[:, None, None])


class ByChannel(Norm):
    """Another right one: a loop over the channels, and statistics that are moved in place."""

    def forward(self, x):
        out = torch.empty_like(x)
        for c in range(x.shape[1]):
            mean, var = self.running_mean[c].clone(), self.running_var[c].clone()
            if self.training:
                mean, var = x[:, c].mean(), x[:, c].var(correction=0)
                self.running_mean[c] += 0.1 * (mean.detach() - self.running_mean[c])
                self.running_var[c] += 0.1 * (x[:, c].detach().var() - self.running_var[c])
            out[:, c] = (x[:, c] - mean) / (var + 1e-5) ** 0.5 * self.weight[c] + self.bias[c]
        return out


class Detaches(Norm):
    """Another right one: a mean that it keeps, but not the graph of it, and a buffer of its own."""

    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.register_buffer("num_batches", torch.tensor(0))

    def forward(self, x):
        self.last_mean = x.mean((0, 2, 3)).detach()
        self.num_batches += 1
        return super().forward(x)


@pytest.mark.parametrize("cls", [Norm, ByAxes, InPlaceAfterwards, ByChannel, Detaches])
def test_a_right_batch_norm_passes(cls, capsys):
    passes(checks.batch_norm, cls, capsys)


class EndsInEvaluation(Norm):
    def forward(self, x):
        out = super().forward(x)
        self.training = False
        return out


class KeepsMean(Norm):
    def forward(self, x):
        self.mean = x.mean((0, 2, 3))
        return super().forward(x)


class LeavesGradients(Norm):
    def forward(self, x):
        with torch.enable_grad():
            super().forward(x.detach()).sum().backward()
        return super().forward(x)


class NeedsGradient(Norm):
    def forward(self, x):
        return super().forward(x.requires_grad_())


class OldStatistics(Norm):
    """Keeps its statistics elsewhere, and copies them to the buffers: it never reads what is loaded."""

    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.hidden = [torch.zeros(num_channels), torch.ones(num_channels)]

    def forward(self, x):
        self.running_mean, self.running_var = (value.to(x.dtype) for value in self.hidden)
        out = super().forward(x)
        self.hidden = [self.running_mean.clone(), self.running_var.clone()]
        return out


class Squeezes(Norm):
    """Loses an axis where there is a single channel."""

    def update(self, x):
        for name, new in zip(self.updates, self.batch(x, unbiased=True), strict=True):
            setattr(self, name, 0.9 * getattr(self, name).squeeze() + 0.1 * new.squeeze())


class GrowsStatistics(Norm):
    def update(self, x):
        mean, var = self.batch(x, unbiased=True)
        self.running_mean = 0.9 * self.running_mean[:, None, None] + 0.1 * mean[0]
        self.running_var = 0.9 * self.running_var + 0.1 * var.flatten()


def changed(change):
    """A right class, with something changed once it is built."""

    class Changed(Norm):
        def __init__(self, num_channels):
            super().__init__(num_channels)
            change(self)

    return Changed


def without_weight(module):
    del module.weight
    module.register_buffer("weight", torch.ones_like(module.bias))


def plain_variance(module):
    del module.running_var
    module.running_var = torch.ones_like(module.running_mean)


class InPlace(Norm):
    def forward(self, x):
        out = super().forward(x)
        x.data.sub_(1)
        return out


def overwrites_the_root(self, x, mean, var):
    root = (var + 1e-5).sqrt()
    out = (x - mean) / root
    root += 1
    return out


def eval_is_to_be_done(self, x):
    if not self.training:
        raise NotImplementedError
    return Norm.forward(self, x)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (norm(updates=("running_mean",)), "running_var is not: it has not moved"),
        (norm(momentum=0.3), r"0.9 · old \+ 0.1 · new"),
        (norm(scale=lambda self, x, m, v: (x + m) / (v + 1e-5).sqrt()), "mean and biased variance"),
        (norm(scale=overwrites_the_root), "backpropagation stops.*inplace"),
        (norm(scale=lambda self, x, m, v: ((x - m) / (v + 1e-5).sqrt()).float().double()), "few digits"),
        (norm(finish=lambda self, x: Norm.finish(self, x).float()), "gives torch.float32, and x is"),
        (
            norm(finish=lambda self, x: Norm.finish(self, x).double()),
            "float32, forward gives .torch.float64",
        ),
        (EndsInEvaluation, "changes the mode"),
        (KeepsMean, "self.mean remembers how it was computed"),
        (LeavesGradients, "leaves a gradient in weight|updated twice"),
        (NeedsGradient, "changes whether x needs a gradient"),
        (OldStatistics, "a loaded network would be evaluated with old statistics"),
        (Squeezes, "no longer one number for each channel"),
        (GrowsStatistics, "no longer one number for each channel"),
        (InPlace, "changes x itself"),
        (Functional, r"right, but forward calls PyTorch's own torch\.batch_norm"),
        (changed(lambda module: module.weight.requires_grad_(False)), "weight and bias are to be learned"),
        (changed(plain_variance), "running_var is to be a buffer: it is a plain attribute.*register_buffer"),
        (changed(without_weight), "are to be weight and bias. They are bias: write"),
        (
            changed(lambda module: setattr(module, "gain", nn.Parameter(torch.ones(1)))),
            "They are bias, gain, weight: write",
        ),
        (
            changed(lambda module: setattr(module, "weight", nn.Parameter(torch.ones(1, 3, 1, 1)))),
            "At first, weight has the shape .*Keep one number for each channel",
        ),
        (
            changed(lambda module: module.running_var.zero_()),
            "At first, running_var has .* running_var start at 1",
        ),
        (
            changed(lambda module: setattr(module, "norm", nn.BatchNorm2d(3, affine=False))),
            "PyTorch's own BatchNorm",
        ),
        (norm(forward=nn.Module.forward), "forward"),
        (norm(forward=eval_is_to_be_done), "still to be done"),
        (norm(forward=lambda self, x: None), "return"),
        (norm(forward=lambda self, x: (x, x)), "return a tensor"),
        (norm(forward=lambda self, x: x.mean((0, 2, 3))), "keepdim"),
        (nn.BatchNorm2d, "PyTorch's own"),
        (lambda n: None, "inherit from nn.Module"),
    ],
)
def test_a_wrong_batch_norm_is_named(cls, message, capsys):
    fails(checks.batch_norm, cls, message, capsys)


def test_a_batch_norm_with_an_untouched_forward_does_not_stop_the_notebook(capsys):
    def forward(self, x):
        raise NotImplementedError

    checks.batch_norm(norm(forward=forward))
    assert capsys.readouterr().out.startswith("Not done yet")
