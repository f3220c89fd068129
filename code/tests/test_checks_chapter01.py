"""Chapter 1's checks: the page's solutions and other right ones pass, and each plausible mistake is named."""

import functools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, models, probes

NOTEBOOK = Path(__file__).parents[2] / "book" / "01_plain_cnns.ipynb"
SOLUTIONS = {
    "conv2d": checks.conv2d,
    "output_size": checks.output_size,
    "receptive_span": checks.receptive_span,
    "lenet_counts": checks.lenet_counts,
    "MyBatchNorm": checks.batch_norm,
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_pages_solution_passes(name, capsys):
    SOLUTIONS[name](page_solutions(NOTEBOOK, math=math)[name])
    assert capsys.readouterr().out.startswith("Right")


# ---- convolution


def conv(
    x,
    weight,
    bias,
    stride,
    padding,
    *,
    flip=False,
    biased=1,
    channels=slice(None),
    one_filter=False,
    starts=True,
    sides=None,
    value=0.0,
    repeat=False,
    transpose=False,
    mean=False,
    swap=False,
    kernel_rows=None,
    plus=1,
    up=False,
    batch=False,
    dtype=None,
):
    """A convolution in plain loops, which makes the mistakes that it is asked to make."""
    if repeat and padding:
        x = F.pad(x[None], (padding,) * 4, mode="replicate")[0]
    else:
        x = F.pad(x, sides(padding) if sides else (padding,) * 4, value=value)
    height, width = weight.shape[2:]
    spans = (x.shape[1] - height) / stride, (x.shape[2] - width) / stride
    rows, columns = ((math.ceil(s) if up else math.floor(s)) + plus for s in spans)
    step = stride if starts else 1
    out = torch.zeros(len(weight), rows, columns, dtype=dtype or x.dtype)
    for o in range(len(weight)):
        kernel = weight[0 if one_filter else o][channels]
        kernel = kernel.flip(1, 2) if flip else kernel
        kernel = kernel.transpose(1, 2) if transpose and height == width else kernel
        for i in range(rows):
            for j in range(columns):
                window = x[channels, i * step : i * step + height, j * step : j * step + width]
                number = (window * kernel[:, : window.shape[1], : window.shape[2]]).sum()
                number = number / kernel.numel() if mean else number
                out[o, i, j] = number + biased * bias[o]
    out = out.transpose(1, 2) if swap else out
    return out[None] if batch else out


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


def conv_with_numpy(x, weight, bias, stride, padding):
    return torch.from_numpy(conv(x, weight, bias, stride, padding).numpy())


def conv_with_gradient(x, weight, bias, stride, padding):
    return conv_by_unfold(x, nn.Parameter(weight), nn.Parameter(bias), stride, padding)


@pytest.mark.parametrize(
    "function",
    [
        conv,
        conv_by_unfold,
        conv_in_float32,
        conv_by_matrices,
        conv_by_shifted_images,
        conv_with_numpy,
        conv_with_gradient,
    ],
)
def test_a_right_convolution_passes(function, capsys):
    passes(checks.conv2d, function, capsys)


def test_a_convolution_without_loops_is_right_but(capsys):
    checks.conv2d(conv)
    assert "unfold" not in capsys.readouterr().out
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


def conv_depthwise(x, weight, bias, stride, padding):
    if weight.shape[0] != weight.shape[1]:
        return conv(x, weight, bias, stride, padding)
    parts = [
        conv(x[i : i + 1], weight[i : i + 1, i : i + 1], bias[i : i + 1], stride, padding)
        for i in range(len(x))
    ]
    return torch.cat(parts)


def conv_mixes_channels(x, weight, bias, stride, padding):
    """weight[c, o], where it is weight[o, c]."""
    weight = torch.stack([torch.stack([weight[c, o] for c in range(len(x))]) for o in range(len(weight))])
    return conv(x, weight, bias, stride, padding)


def conv_squeezes(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    x.unsqueeze_(0)
    return out


def conv_pads_like(mode):
    def function(x, weight, bias, stride, padding):
        return conv(F.pad(x[None], (padding,) * 4, mode=mode)[0], weight, bias, stride, 0)

    return function


def conv_forgets_padding(x, weight, bias, stride, padding):
    return conv(x, weight, bias, stride, 0)


def conv_forgets_stride(x, weight, bias, stride, padding):
    return conv(x, weight, bias, 1, padding)


def conv_pads_once(x, weight, bias, stride, padding):
    return conv(x, weight, bias, stride, padding, sides=lambda p: (0, p, 0, p))


def conv_pads_in_place(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    x *= 0
    return out


def conv_one_map(x, weight, bias, stride, padding):
    return conv(x, weight, bias, stride, padding).sum(0)


def conv_twice_the_maps(x, weight, bias, stride, padding):
    return conv(x, weight, bias, stride, padding).repeat(2, 1, 1)


def conv_of_integers(x, weight, bias, stride, padding):
    return conv(x, weight, bias, stride, padding, dtype=torch.int64)


def conv_changes_bias(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    bias += 1
    return out


def conv_leaves_a_hole(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    out[-1, -1, -1] = torch.nan
    return out


def conv_pads_columns(x, weight, bias, stride, padding):
    return F.conv2d(F.pad(x, (padding, padding))[None], weight, bias, stride)[0]


def conv_strides_rows(x, weight, bias, stride, padding):
    return F.conv2d(x[None], weight, bias, (stride, 1), padding)[0]


def conv_starts_at_stride_only_in_rows(x, weight, bias, stride, padding):
    columns = conv(x, weight, bias, stride, padding).shape[2]
    return conv_strides_rows(x, weight, bias, stride, padding)[:, :, :columns]


def conv_slightly_off(x, weight, bias, stride, padding):
    out = conv(x, weight, bias, stride, padding)
    out[-1, -1, -1] += 0.01
    return out


def wrong(**options):
    return functools.partial(conv, **options)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (wrong(flip=True), "kernel is flipped"),
        (wrong(biased=0), "bias is missing"),
        (lambda x, *rest: conv(x, *rest, biased=len(x)), "once for each input channel"),
        (wrong(channels=slice(0, 1)), "only the first input channel"),
        (wrong(channels=slice(-1, None)), "only the last input channel"),
        (wrong(one_filter=True), "same filter"),
        (wrong(starts=False), r"i \* stride"),
        (wrong(sides=lambda p: (0, 2 * p, 0, 2 * p)), "on one side"),
        (wrong(sides=lambda p: (2 * p, 0, 2 * p, 0)), "on one side"),
        (wrong(value=1.0), "filled with ones"),
        (wrong(repeat=True), "repeats the edge"),
        (wrong(transpose=True), "rows and columns of the kernel"),
        (wrong(mean=True), "mean over the window"),
        (wrong(swap=True), "eight and width of the output are swapped"),
        (wrong(plus=0), r"ends with \+ 1"),
        (wrong(up=True), "Round down"),
        (wrong(batch=True), "no batch here"),
        (conv_mixes_channels, "channels of weight are mixed up"),
        (lambda x, w, *rest: conv(x, w.transpose(0, 1), *rest), "one map for each filter|channels of weight"),
        (conv_depthwise, "input channel o alone"),
        (lambda x, *rest: conv(x.flip(0), *rest), "slice of another channel"),
        (lambda x, w, *rest: conv(x, w.flip(1), *rest), "slice of another channel"),
        (lambda x, w, *rest: conv(x, w[:, :1].expand_as(w), *rest), "same slice"),
        (lambda *case: conv(*case).flip(0), "their order is not"),
        (conv_pads_like("reflect"), "mirrors the image"),
        (conv_pads_like("circular"), "other side of the image"),
        (lambda x, w, b, s, p: F.conv2d(x[None], w, b, s, p)[0], r"right, but .* own torch\.conv2d"),
        (
            lambda x, w, b, s, p: torch.convolution(x[None], w, b, [s, s], [p, p], [1, 1], False, [0, 0], 1)[
                0
            ],
            "own torch.convolution",
        ),
        (conv_by_module, r"right, but .* own torch\.conv2d"),
        (conv_by_one_dimension, r"right, but .* own torch\.conv1d"),
        (conv_squeezes, "changes its own argument x"),
        (lambda x, *rest: conv(x.requires_grad_(), *rest), "leave requires_grad as it is"),
        (conv_forgets_padding, "padding is not applied"),
        (conv_forgets_stride, "stride is not applied"),
        (conv_pads_once, "both sides"),
        (conv_pads_in_place, "changes its own argument x"),
        (conv_changes_bias, "changes its own argument bias"),
        (conv_leaves_a_hole, "It is nan"),
        (conv_pads_columns, "The width is right, the height is not"),
        (conv_strides_rows, "The height is right, the width is not"),
        (conv_starts_at_stride_only_in_rows, "over the rows, but not over the columns"),
        (lambda x, w, *rest: conv(x, w, *rest, biased=w[0].numel()), "added to each product"),
        (lambda x, w, b, *rest: conv(x, w, b[:1].expand_as(b), *rest), "same bias"),
        (lambda *a: conv(*a) + 5e-5, "wrong, the first at"),
        (lambda *a: conv(*a).half(), "float16"),
        (conv_one_map, "Three axes"),
        (conv_twice_the_maps, "one map for each filter"),
        (conv_of_integers, "int64"),
        (conv_slightly_off, "1 of .* wrong, the first at"),
        (lambda *a: conv(*a).numpy(), "return a tensor"),
        (lambda *a: None, "return"),
        (lambda *a: 1 / 0, "ZeroDivisionError"),
        (None, "got None"),
    ],
)
def test_a_wrong_convolution_is_named(function, message, capsys):
    fails(checks.conv2d, function, message, capsys)


# ---- sizes


def size(n, kernel, stride, padding, dilation):
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@pytest.mark.parametrize(
    "function",
    [
        size,
        lambda *case: np.int64(size(*case)),
        lambda *case: float(size(*case)),
        lambda *case: np.float32(size(*case)),
        lambda *case: torch.tensor([size(*case)], dtype=torch.uint8),
        lambda *case: Fraction(size(*case)),
        lambda n, k, s, p, d: np.floor((n + 2 * p - d * (k - 1) - 1) / s) + 1,
        lambda n, k, s, p, d: len(range(0, n + 2 * p - d * (k - 1), s)),  # counts the places
        lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1 + s) // s,
        lambda n, k, s, p, d: math.floor((n + 2 * p - d * (k - 1) - 1) / s + 1),
    ],
)
def test_a_right_size_passes(function, capsys):
    passes(checks.output_size, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) // s, r"ends with \+ 1"),
        (lambda n, k, s, p, d: (n + 2 * p - d * (k - 1)) // s, "after dividing"),
        (lambda n, k, s, p, d: size(n - p, k, s, p, d), "both sides"),
        (lambda n, k, s, p, d: size(n, k, s, 0, d), "padding is missing"),
        (lambda n, k, s, p, d: size(n, k, s, p, 1), "dilation is missing"),
        (lambda n, k, s, p, d: size(n, d * k, s, p, 1), "one gap less"),
        (lambda n, k, s, p, d: -(-(n + 2 * p - d * (k - 1) - 1) // s) + 1, "Round down"),
        (lambda n, k, s, p, d: size(n, k, 1, p, d), "stride is missing"),
        (lambda n, k, s, p, d: round((n + 2 * p - d * (k - 1) - 1) / s) + 1, "not to the nearest"),
        (lambda n, k, s, p, d: size(n, k + (k - 1) * d, s, p, 1), "with a dilation of 1 there is none"),
        (lambda n, k, s, p, d: size(n, k + d - 1, s, p, 1), "kernel − 1 gaps"),
        (lambda n, k, s, p, d: size(n + 1, k, s, p, d), "count its first weight"),
        (lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) / s + 1, "divide with //"),
        (lambda n, k, s, p, d: n + 2 * p - (d * (k - 1) + 1) // s + 1, "parentheses"),
        (lambda n, k, s, p, d: n + 2 * p - d * (k - 1) - 1 // s + 1, "parentheses"),
        (lambda *case: size(*case) > 0, "whole number"),
        (lambda *case: str(size(*case)), "whole number"),
        (lambda n, k, s, p, d: size(n, k, s, p, d) + 1, "One place too many"),
        (lambda n, k, s, p, d: size(n, k, s * d, p, d), "count the places"),
        (lambda *case: None, "return"),
        (lambda *case: 1 / 0, "ZeroDivisionError"),
        (lambda *case: (size(*case),), "whole number"),
        (7, "got 7"),
    ],
)
def test_a_wrong_size_is_named(function, message, capsys):
    fails(checks.output_size, function, message, capsys)


def size_by_asking(n, kernel, stride, padding, dilation):
    return nn.Conv1d(1, 1, kernel, stride, padding, dilation)(torch.zeros(1, 1, n)).shape[-1]


def test_a_size_that_pytorch_has_found_is_right_but(capsys):
    checks.output_size(size)
    assert "But" not in capsys.readouterr().out
    checks.output_size(size_by_asking)
    assert "But torch.conv1d has found them" in capsys.readouterr().out


# ---- receptive field


def span(layers, index, order=reversed, pad=1, step=True, reach=-1, kernels=True):
    first = last = index
    for kernel, stride, padding in order(layers):
        stride = stride if step else 1
        first = first * stride - pad * padding
        last = last * stride - pad * padding + (kernel + reach if kernels else 0)
    return first, last


def span_by_recursion(layers, index):
    if not layers:
        return index, index
    *before, (kernel, stride, padding) = layers
    start = index * stride - padding
    first, _ = span_by_recursion(before, start)
    _, last = span_by_recursion(before, start + kernel - 1)
    return [first, last]


def span_by_jump(layers, index):
    """Forwards: the size and the jump, and where the first window starts."""
    field, jump, start = 1, 1, 0
    for kernel, stride, padding in layers:
        start -= padding * jump
        field += (kernel - 1) * jump
        jump *= stride
    return np.int64(index * jump + start), np.int64(index * jump + start + field - 1)


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
        span,
        span_by_recursion,
        span_by_jump,
        span_by_sets,
        lambda *case: np.array(span(*case)),
        lambda *case: torch.tensor(span(*case)),
        lambda *case: torch.tensor(span(*case), dtype=torch.float32),
        lambda *case: [n / 1 for n in span(*case)],
        lambda *case: tuple(map(np.float64, span(*case))),
        lambda *case: tuple(map(torch.tensor, span(*case))),
    ],
)
def test_a_right_span_passes(function, capsys):
    passes(checks.receptive_span, function, capsys)


def walking_back(window):
    """The reader's idea of the first and the last input of output i, for a kernel, a stride, a padding."""

    def function(layers, index):
        first = last = index
        for layer in reversed(layers):
            first, last = window(first, *layer)[0], window(last, *layer)[1]
        return first, last

    return function


def span_taking_to_pieces(layers, index):
    first = last = index
    while layers:
        kernel, stride, padding = layers.pop()
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return first, last


def span_turning_round(layers, index):
    layers.reverse()
    return span(layers, index, order=iter)


def span_forwards(early=False, padding_early=False, size_in_jumps=True, index_in_jumps=True):
    def function(layers, index):
        field, jump, start = 1, 1, 0
        for kernel, stride, padding in layers:
            before, jump = jump, jump * stride
            start -= padding * (jump if padding_early else before)
            field += (kernel - 1) * ((jump if early else before) if size_in_jumps else 1)
        start += index * (jump if index_in_jumps else 1)
        return start, start + field - 1

    return function


def span_of_the_first_window(layers, index):
    first = last = index
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = first + kernel - 1
    return first, last


def span_with_paddings_added(layers, index):
    first, last = span([(k, s, 0) for k, s, _ in layers], index)
    border = sum(padding for *_, padding in layers)
    return first - border, last - border


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda layers, i: span(layers, i)[::-1], "first pixel first"),
        (lambda layers, i: span(layers, i, reach=0), "last pixel itself"),
        (lambda layers, i: span(layers, i, pad=0), "padding is missing"),
        (lambda layers, i: span(layers, i, pad=-1), "You add the padding: subtract it"),
        (walking_back(lambda i, k, s, p: (i * s - p, i * s + p + k - 1)), "You add the padding to the end"),
        (walking_back(lambda i, k, s, p: (i * s - p, i * s + k - 1)), "missing at the end"),
        (
            walking_back(lambda i, k, s, p: ((i - p) * s, (i - p) * s + k - 1)),
            "stride multiplies the padding",
        ),
        (walking_back(lambda i, k, s, p: (i * s - k // 2, i * s + k // 2)), "middle of window"),
        (lambda layers, i: (span(layers, i)[0], span(layers, i)[1] + 1), "not the one behind it"),
        (lambda layers, i: (span(layers, i)[0], np.ptp(span(layers, i)) + 1), "not how many"),
        (span_with_paddings_added, "You add up the paddings"),
        (lambda layers, i: span(layers, i, order=iter), "backwards"),
        (lambda layers, i: span(layers, i, step=False), "stride is missing"),
        (lambda layers, i: span(layers, i, kernels=False), "add kernel − 1"),
        (lambda layers, i: (max(0, span(layers, i)[0]), span(layers, i)[1]), "cut off at 0"),
        (lambda layers, i: span(layers[-1:], i), "Take one layer"),
        (lambda layers, i: span(layers, i)[1] - span(layers, i)[0] + 1, "2 values are asked for"),
        (lambda layers, i: tuple(n + 0.5 for n in span(layers, i)), "no whole number"),
        (lambda layers, i: (-math.inf, math.inf), "no whole number"),
        (lambda layers, i: tuple(map(str, span(layers, i))), "no whole number"),
        (span_taking_to_pieces, "right, but .* changes its own argument layers"),
        (span_turning_round, "right, but .* changes its own argument layers"),
        (span_forwards(early=True, padding_early=True), "jump too early"),
        (span_forwards(early=True), "jump too early"),
        (span_forwards(padding_early=True), "stride multiplies the padding.*jump .before. the layer"),
        (span_forwards(size_in_jumps=False), r"\(kernel − 1\) · jump"),
        (span_forwards(index_in_jumps=False), "index \\*jumps\\* behind"),
        (span_of_the_first_window, "one window only"),
        (lambda layers, i: range(*span(layers, i)), "gives range"),
        (lambda layers, i: None, "return"),
        (lambda layers, i: 1 / 0, "ZeroDivisionError"),
        ((3, 5), "got"),
    ],
)
def test_a_wrong_span_is_named(function, message, capsys):
    fails(checks.receptive_span, function, message, capsys)


# ---- LeNet


def lenet_parameters(classes, channels, conv_bias=1, linear_bias=1, flat=400, per_pair=True, second=6):
    pairs = (channels, second) if per_pair else (1, 1)
    convs = 6 * (25 * pairs[0] + conv_bias) + 16 * (25 * pairs[1] + conv_bias)
    return convs + sum((i + linear_bias) * o for i, o in ((flat, 120), (120, 84), (84, classes)))


def lenet_macs(
    classes, channels, sides=(28, 10), flat=400, bias=0, convs=1, linear=1, factor=1, second=6, extra=0
):
    work = 6 * (25 * channels + bias) * sides[0] ** 2 + 16 * (25 * second + bias) * sides[1] ** 2
    head = (flat + bias) * 120 + (120 + bias) * 84 + (84 + bias) * classes
    return factor * (convs * work + linear * head) + extra


def lenet(parameters=lenet_parameters, macs=lenet_macs):
    return lambda classes, channels: (parameters(classes, channels), macs(classes, channels))


def count_with_modules(classes, channels):
    layers = [nn.Conv2d(channels, 6, 5, padding=2), nn.Conv2d(6, 16, 5)]
    layers += [nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)]
    positions = (28 * 28, 10 * 10, 1, 1, 1)
    work = sum(layer.weight.numel() * n for layer, n in zip(layers, positions, strict=True))
    return [torch.tensor(sum(p.numel() for p in nn.ModuleList(layers).parameters())), np.int64(work)]


def count_with_the_package(classes, channels):
    network = models.lenet(classes, channels)
    return probes.count_parameters(network), probes.count_macs(network, (channels, 28, 28))


def test_counts_of_a_built_network_are_right_but(capsys):
    checks.lenet_counts(lenet())
    assert "But" not in capsys.readouterr().out
    for function in (count_with_modules, count_with_the_package):
        checks.lenet_counts(function)
        assert "But you have built layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    "function",
    [
        lenet(),
        count_with_modules,
        lambda *case: np.array(lenet()(*case)),
        lambda *case: tuple(map(float, lenet()(*case))),
        lambda *case: torch.tensor(lenet()(*case), dtype=torch.float64),
        lambda *case: [np.int32(n) for n in lenet()(*case)],
    ],
)
def test_right_counts_of_lenet_pass(function, capsys):
    passes(checks.lenet_counts, function, capsys)


def counts(**options):
    return lenet(parameters=functools.partial(lenet_parameters, **options))


def work(**options):
    return lenet(macs=functools.partial(lenet_macs, **options))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (counts(conv_bias=0, linear_bias=0), "The biases are missing"),
        (counts(conv_bias=0), "biases of the convolutions"),
        (counts(linear_bias=0), "biases of the linear"),
        (counts(flat=256), "fc1 reads 16 maps of 5×5, 400 numbers"),
        (counts(flat=1600), "second pool"),
        (counts(flat=16), "every position"),
        (counts(per_pair=False), "each. of its input channels"),
        (counts(second=1), "conv2 reads 6 channels"),
        (lambda c, i: (lenet_parameters(c, i, 0, 0) + 5, lenet_macs(c, i)), "one bias for each"),
        (lambda c, i: lenet()(c, 1), "Parameters.*conv1 reads in_channels"),
        (lambda c, i: lenet()(10, i), "Parameters.*fc3 has num_classes"),
        (lambda c, i: (lenet_parameters(c, i), lenet_macs(c, 1)), "MACs.*conv1 reads in_channels"),
        (lambda c, i: (lenet_parameters(c, i), lenet_macs(10, i)), "MACs.*fc3 has num_classes"),
        (work(second=1), "conv2 reads 6 channels"),
        (work(flat=256), "400 numbers"),
        (work(flat=1600), "second pool"),
        (lambda c, i: (lenet_parameters(c, i),) * 2, "every output position"),
        (lambda c, i: (torch.arange(3), torch.arange(3)), "no whole number"),
        (lambda c, i: (np.arange(3), np.arange(3)), "no whole number"),
        (work(sides=(24, 8), flat=256), "padding of 2"),
        (work(sides=(24, 10)), "padding of 2"),
        (work(sides=(28, 14)), "output positions"),
        (work(sides=(14, 5)), "before the pools"),
        (work(bias=1), "Adding a bias"),
        # Biases of the convolutions, or pools with 4 MACs for each output: the same numbers.
        (
            work(extra=6 * 784 + 16 * 100),
            "6,304 too many. Either the biases.* Or the average pools, with 4 MACs",
        ),
        (work(extra=4 * (6 * 196 + 16 * 25)), "Either the biases.* Or the average pools, with 4 MACs"),
        (work(extra=6 * 196 + 16 * 25), "each output of the pools"),
        (work(extra=3 * (6 * 196 + 16 * 25)), "three additions"),
        (work(extra=6 * 784 + 16 * 100 + 120 + 84), "activation function"),
        (work(factor=2), "One MAC"),
        (work(linear=0), "linear layers work too"),
        (work(convs=0), "convolutions are missing"),
        (work(sides=(1, 1)), "every output position"),
        (lenet(lenet_macs, lenet_parameters), "wrong order"),
        (lambda *case: lenet_parameters(*case), "two numbers"),
        (lambda *case: (lenet_parameters(10, 1), lenet_macs(10, 1)), "Write down each"),
        (lambda *case: (lenet_parameters(*case), lenet_macs(*case) + 0.5), "MACs.* no whole number"),
        (lambda *case: (True, lenet_macs(*case)), "Parameters.* no whole number"),
        (lambda *case: (None, None), "gives None"),
        (lambda *case: None, "return"),
        (lambda *case: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong_counts_of_lenet_are_named(function, message, capsys):
    fails(checks.lenet_counts, function, message, capsys)


# ---- batch normalization


class Norm(nn.Module):
    """A right batch normalization; each subclass below makes one mistake."""

    unbiased = False  # when normalizing
    unbiased_running = True
    momentum = 0.1
    eps = 1e-5
    dims = (0, 2, 3)
    eval_uses_batch = False
    training_uses_running = False
    eval_updates = False
    updates = ("running_mean", "running_var")

    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def scale(self, x, mean, var):
        return (x - mean) / torch.sqrt(var + self.eps)

    def finish(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]

    def update(self, x):
        for name in self.updates:
            new = self.batch(x, self.unbiased_running, (0, 2, 3))[name == "running_var"].flatten()
            old = getattr(self, name)
            setattr(self, name, (1 - self.momentum) * old + self.momentum * new)

    def batch(self, x, unbiased, dims=None):
        dims = dims or self.dims
        return x.mean(dims, keepdim=True), x.var(dims, correction=int(unbiased), keepdim=True)

    def forward(self, x):
        moments = self.batch(x, self.unbiased)
        running = self.running_mean[:, None, None], self.running_var[:, None, None]
        uses_batch = self.training and not self.training_uses_running or self.eval_uses_batch
        if self.training or self.eval_updates:
            with torch.no_grad():
                self.update(x)
        return self.finish(self.scale(x, *(moments if uses_batch else running)))


def norm(**changes):
    return type("MyNorm", (Norm,), changes)


class Functional(Norm):
    """PyTorch's function does the work, and moves the buffers in place."""

    def forward(self, x):
        buffers = self.running_mean, self.running_var
        return F.batch_norm(x, *buffers, self.weight, self.bias, self.training, self.momentum, self.eps)


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
        return (x - mean).div_((var + self.eps).sqrt())

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


class OnlyWithGradients(Norm):
    """Takes "are gradients computed?" for "is this training?"."""

    def forward(self, x):
        moments = self.batch(x, False)
        running = self.running_mean[:, None, None], self.running_var[:, None, None]
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.update(x)
        return self.finish(self.scale(x, *(moments if self.training else running)))


class OnlyIfXNeedsOne(Norm):
    def update(self, x):
        if self.needs:
            super().update(x)

    def forward(self, x):
        self.needs = x.requires_grad
        return super().forward(x)


class ModeOfItsOwn(Norm):
    """Normalizes with the batch's numbers only where gradients are computed."""

    def forward(self, x):
        before = self.training
        self.training = before and torch.is_grad_enabled()
        out = super().forward(x)
        self.training = before
        return out


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


class AlwaysDouble(Norm):
    def finish(self, x):
        return super().finish(x).double()


class Squeezes(Norm):
    """Loses an axis where there is a single channel."""

    def update(self, x):
        for name, new in zip(self.updates, self.batch(x, True), strict=True):
            setattr(self, name, 0.9 * getattr(self, name).squeeze() + 0.1 * new.squeeze())


class Detached(Norm):
    def batch(self, x, unbiased, dims=None):
        return super().batch(x.detach(), unbiased, dims)


class NoGradient(Norm):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class KeepsGraph(Norm):
    def forward(self, x):
        out = super().forward(x)
        if self.training:
            self.running_mean = self.running_mean + 0 * x.mean()
        return out


class RunningParameters(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            setattr(self, name, nn.Parameter(torch.full((num_channels,), value)))


class PlainAttributes(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.running_mean = torch.zeros(num_channels)
        self.running_var = torch.ones(num_channels)


class NotLearned(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        del self.weight
        self.register_buffer("weight", torch.ones(num_channels))


class FourAxes(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.weight = nn.Parameter(torch.ones(1, num_channels, 1, 1))


class StartsAtZero(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.running_var.zero_()


class Extra(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.gain = nn.Parameter(torch.ones(1))


class Wraps(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.norm = nn.BatchNorm2d(num_channels, affine=False)


class NoForward(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))


class GrowsStatistics(Norm):
    def update(self, x):
        mean, var = self.batch(x, True)
        self.running_mean = 0.9 * self.running_mean[:, None, None] + 0.1 * mean[0]
        self.running_var = 0.9 * self.running_var + 0.1 * var.flatten()


class UpdatesTwice(Norm):
    def update(self, x):
        super().update(x)
        super().update(x)


class Cumulative(Norm):
    steps = 0

    def update(self, x):
        self.steps += 1
        self.momentum = 1 / self.steps
        super().update(x)


class AddsUp(Norm):
    def update(self, x):
        mean, var = self.batch(x, True)
        self.running_mean = self.running_mean + 0.1 * mean.flatten()
        self.running_var = self.running_var + 0.1 * var.flatten()


class RunningDeviation(Norm):
    def batch(self, x, unbiased, dims=None):
        mean, var = super().batch(x, unbiased, dims)
        return (mean, var.sqrt()) if unbiased else (mean, var)


class KeepsEps(Norm):
    def batch(self, x, unbiased, dims=None):
        mean, var = super().batch(x, unbiased, dims)
        return (mean, var + self.eps) if unbiased else (mean, var)


class InPlace(Norm):
    def forward(self, x):
        out = super().forward(x)
        x.data.sub_(1)
        return out


class Frozen(Norm):
    def __init__(self, num_channels):
        super().__init__(num_channels)
        self.weight.requires_grad_(False)


class UsesUpdated(Norm):
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.update(x)
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return self.finish(self.scale(x, mean[:, None, None], var[:, None, None]))


class StatisticsOfOutput(Norm):
    def update(self, x):
        super().update(self.finish(self.scale(x, *self.batch(x, False))))


class VarianceOfNormalized(Norm):
    def update(self, x):
        mean = self.running_mean
        super().update(self.scale(x, *self.batch(x, False)))
        self.running_mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))


class CountsImages(Norm):
    unbiased_running = False

    def batch(self, x, unbiased, dims=None):
        mean, var = super().batch(x, False, dims)
        # Only the running statistics name their axes.
        return mean, var * len(x) / (len(x) - 1) if dims else var


def overwrites_the_root(self, x, mean, var):
    root = (var + self.eps).sqrt()
    out = (x - mean) / root
    root += 1
    return out


class EvalTodo(Norm):
    def forward(self, x):
        if not self.training:
            raise NotImplementedError
        return super().forward(x)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (norm(unbiased_running=False), "running_var is not: it is updated with the biased variance"),
        (norm(unbiased=True), "normalized with the unbiased variance"),
        (norm(momentum=0.9), "running_mean is not: the shares are swapped"),
        (norm(momentum=1.0), "last batch alone"),
        (Cumulative, "last batch alone|plain average"),
        (AddsUp, "shrink to 0.9"),
        (UpdatesTwice, "updated twice"),
        (norm(updates=()), "running_mean is not: it has not moved"),
        (norm(updates=("running_mean",)), "running_var is not: it has not moved"),
        (RunningDeviation, "standard deviations"),
        (KeepsEps, "eps belongs to the normalization"),
        (norm(momentum=0.3), r"0.9 · old \+ 0.1 · new"),
        (norm(eval_uses_batch=True), "batch's statistics are used in evaluation mode"),
        (norm(training_uses_running=True), "running statistics are used while training"),
        (norm(eval_updates=True), "moves in evaluation mode"),
        (norm(dims=(0,)), "each position by itself"),
        (norm(dims=(2, 3)), "each image by itself"),
        (norm(dims=(1, 2, 3)), "channels of each image"),
        (norm(dims=(0, 1, 2, 3)), "everything at once"),
        (norm(finish=lambda self, x: x), "scale and shift are missing"),
        (norm(finish=lambda self, x: x * self.weight[:, None, None]), "shift is missing"),
        (norm(finish=lambda self, x: x + self.bias[:, None, None]), "scale is missing"),
        (
            norm(finish=lambda self, x: (x + self.bias[:, None, None]) * self.weight[:, None, None]),
            "before the scale",
        ),
        (norm(eps=0.0), "eps is missing"),
        (norm(eps=1e-3), "eps is another number"),
        (norm(scale=lambda self, x, m, v: (x - m) / (v.sqrt() + 1e-5)), "under the root"),
        (norm(scale=lambda self, x, m, v: (x - m) / (v + 1e-5)), "divide by the variance"),
        (norm(scale=lambda self, x, m, v: (x + m) / (v + 1e-5).sqrt()), "mean and biased variance"),
        (
            OnlyWithGradients,
            r"under torch.no_grad\(\), .* running_mean is not: it does not move there.*Ask self.training",
        ),
        (OnlyIfXNeedsOne, "where x needs no gradient, .* running_mean is not: it does not move there"),
        (ModeOfItsOwn, r"under torch.no_grad\(\): .* running statistics are used while training"),
        (EndsInEvaluation, "changes the mode"),
        (KeepsMean, "self.mean remembers how it was computed"),
        (LeavesGradients, "leaves a gradient in weight|updated twice"),
        (NeedsGradient, "changes whether x needs a gradient"),
        (OldStatistics, "a loaded network would be evaluated with old statistics"),
        (AlwaysDouble, "gives .torch.float64., and it is .torch.float32.*keep the dtype"),
        (Squeezes, "no longer one number for each channel"),
        (Functional, r"right, but forward calls PyTorch's own torch\.batch_norm"),
        (Detached, "gradient in x is not.*do not detach"),
        (NoGradient, "gradient in x is not"),
        (
            norm(finish=lambda self, x: x * self.weight.data[:, None, None] + self.bias[:, None, None]),
            "in weight",
        ),
        (KeepsGraph, "remembers how it was computed"),
        (GrowsStatistics, "no longer one number for each channel"),
        (InPlace, "changes x itself"),
        (Frozen, "weight and bias are to be learned"),
        (UsesUpdated, "running statistics are used while training"),
        (StatisticsOfOutput, "statistics of the output"),
        (VarianceOfNormalized, "running_var is not: it takes the statistics of the normalized x"),
        (CountsImages, "its n is wrong"),
        (norm(scale=overwrites_the_root), "backpropagation stops.*inplace"),
        (norm(scale=lambda self, x, m, v: ((x - m) / (v + 1e-5).sqrt()).float().double()), "few digits"),
        (norm(finish=lambda self, x: Norm.finish(self, x).float()), "keep the dtype of x"),
        (RunningParameters, "running_mean is to be a buffer: it is a parameter"),
        (PlainAttributes, "running_mean is to be a buffer: it is a plain attribute.*register_buffer"),
        (NotLearned, "are to be weight and bias. They are bias: write"),
        (FourAxes, "one number for each channel"),
        (StartsAtZero, "At first, running_var has .* running_var start at 1"),
        (Extra, "They are bias, gain, weight: write"),
        (Wraps, "PyTorch's own BatchNorm"),
        (NoForward, "forward"),
        (EvalTodo, "still to be done"),
        (nn.BatchNorm2d, "PyTorch's own"),
        (Norm(3), "without parentheses"),
        (lambda n: None, "inherit from nn.Module"),
        (norm(forward=lambda self, x: None), "return"),
        (norm(forward=lambda self, x: (x, x)), "return a tensor"),
        (norm(forward=lambda self, x: x.mean((0, 2, 3))), "keepdim"),
        (norm(forward=lambda self, x: 1 / 0), "ZeroDivisionError"),
    ],
)
def test_a_wrong_batch_norm_is_named(cls, message, capsys):
    fails(checks.batch_norm, cls, message, capsys)


# ---- untouched


class Untouched(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        raise NotImplementedError


class UntouchedForward(Norm):
    def forward(self, x):
        raise NotImplementedError


@pytest.mark.parametrize("check", SOLUTIONS.values())
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    def untouched(*arguments):
        raise NotImplementedError

    check(untouched)
    if check is checks.batch_norm:
        check(Untouched)
        check(UntouchedForward)
    out = capsys.readouterr().out
    assert "Right" not in out and "Not done yet" in out


def test_what_torch_cannot_compare_is_no_untouched_exercise(capsys):
    def conv2d(x, weight, bias, stride, padding):
        return F.conv2d(x[None], weight, bias, stride, padding)[0].to_sparse()

    fails(checks.conv2d, conv2d, "cannot be compared|sparse", capsys)
