"""The exercises of chapter 1: convolution, output sizes, receptive fields, LeNet's counts, batch norm."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models, probes
from resnetbook.checks.common import CheckFailed, call_reader
from resnetbook.checks.exercise import Exercise, Outcome, difference

# ---- convolution

# Channels in and out, height and width of image and kernel, stride, padding.
_CONVOLUTIONS = (
    (1, 1, 5, 5, 3, 3, 1, 0),
    # As many channels in as out: the weights bear being mixed up, and only the numbers tell.
    (2, 2, 8, 6, 2, 3, 1, 0),
    (2, 3, 6, 7, 3, 3, 1, 0),
    (2, 3, 6, 7, 3, 3, 1, 1),
    (3, 2, 8, 9, 3, 3, 2, 1),
    (1, 2, 9, 7, 5, 3, 3, 2),
)


def _images() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        (random(c_in, height, width), random(c_out, c_in, rows, columns), random(c_out), stride, padding)
        for c_in, c_out, height, width, rows, columns, stride, padding in _CONVOLUTIONS
    ]


def _conv_by_torch(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x[None], weight, bias, stride, padding)[0]


def _about_output(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What number of axes, number of maps, dtype or nan says of an output."""
    if part != "result":
        return None
    for mine, theirs in ((m["result"], t["result"]) for m, t in zip(given, right, strict=False)):
        if not isinstance(mine, Tensor):
            return None
        if mine.ndim != 3:
            return "Three axes are asked for: output channels, height, width."
        if len(mine) != len(theirs):
            return "There is one map for each filter: weight.shape[0] of them."
        if mine.shape != theirs.shape:
            return "Work the size out with the formula: (n + 2 * padding - kernel) // stride + 1."
        if mine.dtype not in (torch.float32, torch.float64):
            return f"The output holds {mine.dtype}: start from zeros of x's own dtype."
        if mine.isnan().any():
            return "It is nan. Is every place of the output filled? torch.empty holds whatever was there."
    return None


conv2d = Exercise(
    number="1.1",
    title="A convolution in loops",
    minutes=20,
    level="medium",
    answer="""\
def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
) -> Tensor:
    x = F.pad(x, (padding, padding, padding, padding))
    out_channels, _, rows, columns = weight.shape
    out_height = (x.shape[1] - rows) // stride + 1
    out_width = (x.shape[2] - columns) // stride + 1
    out = torch.zeros(out_channels, out_height, out_width, dtype=x.dtype)
    for i in range(out_height):
        for j in range(out_width):
            top, left = i * stride, j * stride
            window = x[:, top : top + rows, left : left + columns]
            # (C_out, C_in, KH, KW) times (C_in, KH, KW), added up per filter
            out[:, i, j] = (weight * window).sum(dim=(1, 2, 3)) + bias
    return out
""",
    cases=_images,
    form="conv2d({0}, {1}, bias, {3}, {4})",
    trusted=_conv_by_torch,
    tolerance=1e-6,  # a reader may compute in float32
    slips="""
weight * window -> weight.flip(2, 3) * window
    the kernel is flipped. That is what mathematics calls convolution; networks do not flip.
weight * window -> (weight.mT if rows == columns else weight) * window
    rows and columns of the kernel are swapped.
(weight * window) -> ((weight.transpose(0, 1) if len(weight) == len(x) else weight) * window)
    input and output channels of weight are mixed up: the output channels come first, weight[o, c] leads from
    input channel c to output channel o.
(weight * window) -> (weight * window * (torch.eye(len(x))[..., None, None] if len(weight) == len(x) else 1))
    output channel o reads input channel o alone: add up over all input channels.
weight * window -> weight * window.flip(0)
    input channel c is multiplied by the slice of another channel: it belongs to weight[:, c].
weight * window -> weight[:, :1] * window
    every input channel is multiplied by the same slice: channel c has its own, weight[:, c].
return out -> return out.flip(0)
    the maps are right, but their order is not: map o is that of weight[o].
 + bias⏎ -> ⏎
    the bias is missing: add bias[o] to the whole map of output channel o.
+ bias⏎ -> + bias * len(x)⏎
    the bias is added once for each input channel: add it once for each output.
+ bias⏎ -> + bias * weight[0].numel()⏎
or
+ bias⏎ -> + bias * rows * columns⏎
    the bias is added to each product, before the sum: add it once for each output.
+ bias⏎ -> + bias[0]⏎
    every output channel gets the same bias: output channel o has its own, bias[o].
weight * window -> weight[:, :1] * window[:1]
    only the first input channel is read: add up over all of them.
weight * window -> weight[:, -1:] * window[-1:]
    only the last input channel is left: add up over all of them, and do not overwrite.
weight * window -> weight[:1] * window
    every output channel uses the same filter: output channel o has its own, weight[o].
i * stride, j * stride -> i, j
    the windows start at rows i and columns j: with a stride they start at i * stride and j * stride.
i * stride, j * stride -> i * stride, j
    the stride moves the windows over the rows, but not over the columns.
i * stride, j * stride -> i, j * stride
    the stride moves the windows over the columns, but not over the rows.
(padding, padding, padding, padding) -> (0, 2 * padding, 0, 2 * padding)
or
(padding, padding, padding, padding) -> (2 * padding, 0, 2 * padding, 0)
    all of the padding is on one side: half of the zeros come before the image, half after it.
(padding, padding, padding, padding) -> (padding, padding, padding, padding), value=1.0
    the border is filled with ones: pad with zeros.
F.pad(x, (padding, padding, padding, padding)) -> F.pad(x[None], 4 * (padding,), "replicate")[0]
    the border repeats the edge of the image: pad with zeros.
F.pad(x, (padding, padding, padding, padding)) -> F.pad(x[None], 4 * (padding,), "reflect")[0]
    the border mirrors the image: pad with zeros.
F.pad(x, (padding, padding, padding, padding)) -> F.pad(x[None], 4 * (padding,), "circular")[0]
    the border holds the other side of the image: pad with zeros.
return out -> return out.transpose(1, 2)
    height and width of the output are swapped.
.sum(dim -> .mean(dim
    you take the mean over the window: the products are added up.
return out -> return out[None]
    There is no batch here: x has three axes, and so has the output.
(padding, padding, padding, padding) -> (0, 0, 0, 0)
    The padding is not applied. Work the size out: (n + 2 * padding - kernel) // stride + 1.
// stride -> // 1
i * stride, j * stride -> i, j
    The stride is not applied. Work the size out: (n + 2 * padding - kernel) // stride + 1.
(padding, padding, padding, padding) -> (0, 0, 0, 0)
// stride -> // 1
i * stride, j * stride -> i, j
    Neither padding nor stride is applied. Work the size out: (n + 2 * padding - kernel) // stride + 1.
(padding, padding, padding, padding) -> (0, padding, 0, padding)
or
(padding, padding, padding, padding) -> (padding, 0, padding, 0)
    The padding goes on both sides: n + 2 * padding.
stride + 1 -> stride
    One row and one column are missing: the formula ends with + 1.
(x.shape[1] - rows) -> (x.shape[1] - rows + stride - 1)
(x.shape[2] - columns) -> (x.shape[2] - columns + stride - 1)
= x[:, top -> = F.pad(x, (0, stride, 0, stride))[:, top
    Round down: a window that does not fit any more is left out.
out_height, out_width, dtype -> x.shape[1] - 2 * padding, x.shape[2] - 2 * padding, dtype
    It has the size of the input. Work the size out: (n + 2 * padding - kernel) // stride + 1.
(padding, padding, padding, padding) -> (padding, padding)
or
(x.shape[1] - rows) // stride -> (x.shape[1] - rows)
i * stride, j * stride -> i, j * stride
    The width is right, the height is not: padding and stride count in both directions.
(padding, padding, padding, padding) -> (0, 0, padding, padding)
or
(x.shape[2] - columns) // stride -> (x.shape[2] - columns)
i * stride, j * stride -> i * stride, j
    The height is right, the width is not: padding and stride count in both directions.
""",
    explain=_about_output,
    otherwise={
        "result": "Work this one out by hand: cut its window from all input channels, multiply by its "
        "filter, add up.",
    },
    forbidden={
        "torch.conv*": "The numbers are right, but your function calls PyTorch's own {used}: cut out the "
        "windows and add up the products yourself, in loops."
    },
    remarked={
        pattern: "But unfold has cut out the windows for you: the exercise asks for loops."
        for pattern in ("unfold", "torch.nn.functional.unfold")
    },
    right=f"the numbers are those of F.conv2d in {len(_CONVOLUTIONS)} cases, with padding and stride.",
)


# ---- sizes


def _padding_by_trying(n: int, kernel: int, stride: int, wanted: int) -> int:
    """The first padding with which a real convolution puts out enough."""
    weight = torch.empty(1, 1, kernel, device="meta")
    for padding in range(wanted * stride + kernel):
        x = torch.empty(1, 1, n + 2 * padding, device="meta")
        if x.shape[-1] >= kernel and F.conv1d(x, weight, None, stride).shape[-1] >= wanted:
            return padding
    raise ValueError(f"no padding makes {wanted} of {n}")


_PADDINGS = (
    (28, 3, 1, 28),
    (28, 5, 1, 28),
    (28, 3, 2, 14),
    (7, 3, 2, 4),
    (7, 4, 1, 7),
    (9, 5, 3, 4),
    (28, 5, 1, 20),
    (5, 7, 2, 1),
)

smallest_padding = Exercise(
    number="1.2",
    title="The padding that is needed",
    minutes=10,
    level="medium",
    answer="""\
def smallest_padding(n: int, kernel: int, stride: int, wanted: int) -> int:
    missing = (wanted - 1) * stride + kernel - n
    return max(0, (missing + 1) // 2)
""",
    cases=_PADDINGS,
    trusted=_padding_by_trying,
    slips="""
max(0, (missing + 1) // 2) -> (missing + 1) // 2
    It is negative where the input is large enough already: no padding is less than 0.
(missing + 1) // 2 -> missing // 2
    Round up: where one zero too few is left, one output is missing.
(missing + 1) // 2 -> missing
    There is padding on both sides: half of the missing pixels on each.
(missing + 1) // 2 -> round(missing / 2)
    Round up, and not to the nearest: half a zero cannot be added.
(wanted - 1) * stride -> wanted * stride
    The first window does not move: it takes wanted - 1 steps from the first to the last.
(wanted - 1) * stride -> (wanted - 1)
    The stride is missing: each step moves the window by it.
+ kernel - n -> - n
    The window has a size: from the start of the last one it reaches over kernel pixels.
+ kernel - n -> + kernel
    Subtract the pixels that are there already.
max(0, (missing + 1) // 2) -> (kernel - 1) // 2
or
max(0, (missing + 1) // 2) -> kernel // 2
    This keeps the size at stride 1; here the padding depends on what is wanted.
""",
    otherwise="Draw the last window that is wanted, and count the pixels that it lacks.",
    remarked={
        pattern: "But {used} has found them for you: the exercise asks for a formula."
        for pattern in ("torch.conv*", "torch.*_pool?d")
    },
    right=f"real convolutions need as much, and no less, in {len(_PADDINGS)} cases.",
)


# ---- receptive field

_Layers = Sequence[tuple[int, int, int]]  # kernel, stride and padding of each, the first one first

_STACKS: tuple[tuple[_Layers, int], ...] = (
    ([(3, 1, 0)], 4),
    ([(3, 1, 1)], 4),
    ([(3, 1, 1), (3, 1, 1)], 4),
    ([(3, 2, 1)], 3),
    ([(3, 2, 1), (5, 1, 1)], 3),
    ([(5, 1, 2), (2, 2, 0), (5, 1, 0), (2, 2, 0)], 2),
    ([(7, 2, 3), (3, 2, 1), (1, 1, 0)], 5),
    ([(4, 3, 0), (3, 1, 1), (2, 2, 1)], 2),
    ([(3, 1, 1)] * 6, 1),
)


def _measured_span(layers: _Layers, index: int) -> tuple[int, int]:
    """First and last pixel that output ``index`` depends on, by autograd.

    Measured at a later output, far from the border, and moved back: a network of convolutions does
    the same everywhere. So pixels before 0, which are padding, are found too.
    """
    jump = math.prod(stride for _, stride, _ in layers)
    away = 50
    with torch.enable_grad():
        size = (index + 2 * away) * jump + 200
        x = torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)
        out = x
        for kernel, stride, padding in layers:
            # Positive weights: nothing can cancel.
            weight = torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64)
            out = F.conv1d(out, weight, None, stride, padding)
        (gradient,) = torch.autograd.grad(out[0, 0, index + away], x)
    reached = gradient.flatten().nonzero().flatten()
    return int(reached[0]) - away * jump, int(reached[-1]) - away * jump


receptive_span = Exercise(
    number="1.3",
    title="The pixels that an output sees",
    minutes=15,
    level="medium",
    answer="""\
def receptive_span(
    layers: list[tuple[int, int, int]], index: int
) -> tuple[int, int]:
    first = last = index
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + kernel - 1
    return first, last
""",
    cases=_STACKS,
    trusted=_measured_span,
    slips="""
return first, last -> return last, first
    Return the first pixel first, then the last one.
kernel - 1⏎ -> kernel⏎
    The last pixel itself is asked for: a kernel of 3 that starts at 4 reads 4, 5 and 6.
return first, last -> return first, last + 1
    The last pixel itself is asked for, not the one behind it.
return first, last -> return first, last - first + 1
    The last pixel is asked for, not how many there are.
stride - padding -> stride
    The padding is missing: it moves the windows to the left.
stride - padding -> stride + padding
    You add the padding: subtract it, it moves the windows to the left.
last * stride - padding -> last * stride + padding
    You add the padding to the end: subtract it there, too. It moves the whole window to the left.
last * stride - padding -> last * stride
    The padding is missing at the end: it moves the whole window to the left.
stride - padding -> stride - padding * stride
    The layer's own stride multiplies the padding, too. Walking back, window i starts at i · stride − padding.
    Walking forwards, a padding counts in the jump *before* the layer.
stride - padding -> stride
return first, last -> borders = sum(p for *_, p in layers); return first - borders, last - borders
    You add up the paddings: a padding of a later layer is one of *its* pixels, each a jump wide.
first * stride - padding -> first * stride - kernel // 2
last * stride - padding + kernel - 1 -> last * stride + kernel // 2
    You put the middle of window i at i · stride: the window *starts* at i · stride − padding.
reversed(layers) -> layers
    Walk backwards: begin with the last layer and end at the image.
* stride - padding -> - padding
    The stride is missing: window i starts at i · stride − padding.
 + kernel - 1⏎ -> ⏎
    You follow the start of the last window: add kernel − 1 to its end.
stride - padding -> stride - padding * stride
kernel - 1⏎ -> (kernel - 1) * stride⏎
or
kernel - 1⏎ -> (kernel - 1) * stride⏎
    You update the jump too early: kernel and padding of a layer are counted in the jump *before* it, and only
    then its stride multiplies the jump.
return first, last -> return first, first + sum(k - 1 for k, *_ in layers)
    The size of the field grows by (kernel − 1) · jump: a further neighbour is a jump away.
first = last = index -> first = last = 0
return first, last -> return first + index, last + index
    Output number index lies index *jumps* behind output number 0.
last = last * stride - padding -> last = first
    You keep one window only: the last pixel is that of the *last* window, which starts at
    last · stride − padding.
return first, last -> return max(first, 0), last
    Do not cut off at 0: what lies before it is padding, and the number shows how much.
""",
    otherwise="Take one layer, and ask which of its inputs one output reads.",
    right=f"the spans are those that autograd measures, for {len(_STACKS)} stacks of layers.",
)


# ---- LeNet

_LENETS = ((10, 1), (10, 3), (7, 2))


def _real_counts(num_classes: int, in_channels: int) -> tuple[int, int]:
    with torch.device("meta"):  # shapes without numbers
        network = models.lenet(num_classes, in_channels)
        macs = probes.count_macs(network, (in_channels, 28, 28))
    return probes.count_parameters(network), macs


def _two_counts(solution: Callable, num_classes: int, in_channels: int) -> Outcome:
    """Both counts by themselves, so that a mistake in one does not hide one in the other."""
    pair = solution(num_classes, in_channels)
    if pair is None:
        return {"parameters": None}
    values = pair.tolist() if isinstance(pair, Tensor | np.ndarray) else pair
    if not isinstance(values, tuple | list) or len(values) != 2:
        call = f"lenet_counts({num_classes}, {in_channels})"
        raise CheckFailed(f"{call} gives {pair!r}: return two numbers, parameters and MACs.")
    return dict(zip(("parameters", "MACs"), values, strict=True))


lenet_counts = Exercise(
    number="1.4",
    title="LeNet's parameters and MACs",
    minutes=15,
    level="easy",
    answer="""\
def lenet_counts(num_classes: int, in_channels: int) -> tuple[int, int]:
    # inputs of one output, outputs, positions
    layers = [
        (5 * 5 * in_channels, 6, 28 * 28),
        (5 * 5 * 6, 16, 10 * 10),
        (16 * 5 * 5, 120, 1),
        (120, 84, 1),
        (84, num_classes, 1),
    ]
    parameters = sum((inputs + 1) * outputs for inputs, outputs, _ in layers)
    macs = sum(inputs * outputs * n for inputs, outputs, n in layers)
    return parameters, macs
""",
    cases=_LENETS,
    trusted=_real_counts,
    drive=_two_counts,
    slips="""
return parameters, macs -> return macs, parameters
    Both counts are right, but in the wrong order: return parameters, then MACs.
(inputs + 1) -> inputs
    The biases are missing: every convolution and every linear layer has one for each output.
(inputs + 1) * outputs -> inputs * outputs + 1
    A layer has one bias for each of its outputs, and not one for all of them.
(inputs + 1) * outputs for inputs, outputs, _ -> (inputs + (n == 1)) * outputs for inputs, outputs, n
    The biases of the convolutions are missing.
(inputs + 1) * outputs for inputs, outputs, _ -> (inputs + (n > 1)) * outputs for inputs, outputs, n
    The biases of the linear layers are missing.
5 * 5 * in_channels -> 5 * 5
    conv1 reads in_channels channels, and not always one.
num_classes, 1 -> 10, 1
    fc3 has num_classes outputs, and not always ten.
5 * 5 * 6, 16 -> 5 * 5, 16
    conv2 reads 6 channels: each of its filters has 25 weights for *each* of them.
5 * 5 * in_channels -> 5 * 5
5 * 5 * 6, 16 -> 5 * 5, 16
    A filter has 25 weights for *each* of its input channels.
16 * 5 * 5 -> 16 * 4 * 4
    fc1 reads 16 maps of 5×5, 400 numbers, and not of 4×4: conv1 has a padding of 2, so it keeps 28×28.
28 * 28 -> 24 * 24
10 * 10 -> 8 * 8
16 * 5 * 5 -> 16 * 4 * 4
    The first convolution has a padding of 2, so its output is 28×28, and not 24×24: fc1 reads 16 maps of 5×5.
28 * 28 -> 24 * 24
10 * 10 -> 8 * 8
or
28 * 28 -> 24 * 24
    conv1 has a padding of 2, so its output is 28×28, not 24×24.
10 * 10 -> 14 * 14
    conv2 has no padding: count its output positions, 10×10, and not those of its input.
28 * 28 -> 14 * 14
10 * 10 -> 5 * 5
    The convolutions work before the pools, on the larger maps.
16 * 5 * 5 -> 16 * 10 * 10
    fc1 reads what the second pool puts out: 16 maps of 5×5, and not of 10×10.
16 * 5 * 5 -> 16
    fc1 reads every position of 16 maps of 5×5: 400 numbers.
inputs * outputs * n -> (inputs + (n == 1)) * outputs * n
    Adding a bias is no multiply-add: it is not counted.
inputs * outputs * n -> (inputs + (n > 1)) * outputs * n
    It is 6 · 784 + 16 · 100 = 6,304 too many. Either the biases of the convolutions: adding one is no
    multiply-add. Or the average pools, with 4 MACs for each output: here they count as nothing.
inputs * outputs * n -> (inputs + 1) * outputs * n
    Adding a bias is no multiply-add: it is not counted. (Average pools, with 4 MACs for each output, would
    add what the convolutions' biases add. They are not counted either.)
macs = sum( -> macs = 6 * 14 * 14 + 16 * 5 * 5 + sum(
    It is 1,576 too many: one for each output of the pools. Poolings and activation functions count as nothing
    here.
macs = sum( -> macs = 3 * (6 * 14 * 14 + 16 * 5 * 5) + sum(
    It is 4,728 too many: three additions for each output of the pools. Poolings and activation functions
    count as nothing here.
macs = sum( -> macs = sum(outputs * n for _, outputs, n in layers[:4]) + sum(
    It is 6,508 too many: one for each number that goes through an activation function. Poolings and
    activation functions count as nothing here.
macs = sum( -> macs = 2 * sum(
    One MAC is a multiplication together with an addition: it counts 1.
* n for inputs, outputs, n in layers) -> * n for inputs, outputs, n in layers[:2])
    The linear layers work too: one MAC for each weight.
* n for inputs, outputs, n in layers) -> for inputs, outputs, n in layers[2:])
    The convolutions are missing.
inputs * outputs * n -> inputs * outputs
or
inputs * outputs * n -> (inputs + 1) * outputs
    A convolution uses its weights again at every output position.
""",
    says={"parameters": "Parameters: {call} {problem}", "MACs": "MACs: {call} {problem}"},
    otherwise="Write down each layer with its numbers, and add them up again.",
    remarked={
        "torch.nn.modules.module.register_parameter": "But you have built layers and asked them: the "
        "exercise asks for formulas.",
    },
    right=f"parameters and MACs are those of the network in {len(_LENETS)} cases.",
)


# ---- batch normalization

_STATISTICS = ("running_mean", "running_var")
# A layer's statistics must move in all of these. The third: whether x needs a gradient.
_PASSES = {
    "training mode": (True, True, True),
    "evaluation mode": (False, True, True),
    "training mode, under torch.no_grad()": (True, False, True),
    "training mode, where x needs no gradient": (True, True, False),
    "evaluation mode, under torch.no_grad()": (False, False, True),
}
_BATCHES = ("training mode", *_PASSES, "evaluation mode, under torch.no_grad()")
_LEFT = "In {}, the output is right, but something is left behind"


def _norms() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cases = []
    for shape in ((4, 3, 2, 2), (2, 5, 3, 1), (3, 1, 2, 2)):
        channels = shape[1]
        # Channels far from mean 0 and variance 1; one so small that eps matters.
        spread = torch.logspace(-2.5, 1, channels, dtype=torch.float64)
        offset = torch.linspace(-2, 3, channels, dtype=torch.float64) * spread
        batches = random(len(_BATCHES), *shape) * spread[:, None, None] + offset[:, None, None]
        weight, bias, mean, deviation = random(4, channels)
        values = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": deviation**2 + 1}
        cases.append((channels, batches, values))
    return cases


def _kind(module: nn.Module, name: str) -> str:
    if name in dict(module.named_parameters()):
        return "a parameter"
    if name not in dict(module.named_buffers()):
        return "a plain attribute" if isinstance(getattr(module, name, None), Tensor) else "missing"
    return "a buffer" if name in module.state_dict() else "a buffer that is not saved"


def _left_behind(module: nn.Module, training: bool) -> str:
    """What a forward pass has left behind in the module."""
    if module.training != training:
        return "forward changes the mode of the module: read self.training, and leave it as it is."
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            return f"forward leaves a gradient in {name}: it only computes the output, without backward()."
    for part in module.modules():
        for name, value in {**dict(part.named_buffers()), **vars(part)}.items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                return (
                    f"self.{name} remembers how it was computed, and would keep the whole batch in memory: "
                    "use a local variable, or .detach()."
                )
    return ""


def _forward(module: nn.Module, x: Tensor, when: str, begun: bool) -> tuple[Tensor, Tensor]:
    """One pass: what went in, and what came out, which has the shape and the dtype that it must have.

    Raises:
        CheckFailed: if it has not, or if x has changed.
    """
    _, recorded, needed = _PASSES[when]
    describe = f"In {when}, on x {tuple(x.shape)}, forward"
    given = x.clone().requires_grad_(needed)
    with torch.set_grad_enabled(recorded):
        out = call_reader(module, given, describe=describe, begun=begun)
    if out is None:
        raise CheckFailed(f"{describe} gives None: does it end with `return`?")
    if not isinstance(out, Tensor):
        raise CheckFailed(f"{describe} gives {type(out).__name__}: return a tensor.")
    if not torch.equal(given.detach(), x):
        raise CheckFailed(f"{describe} changes x itself: compute a new tensor.")
    if given.requires_grad != needed:
        raise CheckFailed(f"{describe} changes whether x needs a gradient: leave x as it is.")
    if out.shape != x.shape:
        raise CheckFailed(
            f"{describe} gives the shape {tuple(out.shape)}, and x has {tuple(x.shape)}. Reshape what has "
            "one number per channel to (1, C, 1, 1), or take the mean with keepdim=True."
        )
    if out.dtype != x.dtype:
        raise CheckFailed(f"{describe} gives {out.dtype}, and x is {x.dtype}: keep the dtype of x.")
    return given, out


def _train_and_evaluate(
    cls: Callable[[int], nn.Module], num_channels: int, batches: Tensor, values: dict[str, Tensor]
) -> Outcome:
    """What a batch norm shows at first, in each pass, and after new statistics have been loaded."""
    module = cls(num_channels)
    if not isinstance(module, nn.Module):
        raise CheckFailed(f"The class gives {type(module).__name__}: let it inherit from nn.Module.")
    found: Outcome = {f"kind of {name}": _kind(module, name) for name in _STATISTICS}
    found["parameters"] = sorted(name for name, _ in module.named_parameters())
    if list(found.values()) != ["a buffer", "a buffer", ["bias", "weight"]]:
        return found
    found["learned"] = [parameter.requires_grad for parameter in module.parameters()]
    first = {f"{name} at first": getattr(module, name).detach().clone() for name in values}
    found |= first
    if any(value.shape != (num_channels,) for value in first.values()):
        return found

    def load(*names: str) -> None:
        with torch.no_grad():
            for name in names:
                getattr(module, name).copy_(values[name])

    module.double()
    load("weight", "bias")
    for i, (when, x) in enumerate(zip(_BATCHES, batches, strict=False)):
        training, *usual = _PASSES[when]
        given, out = _forward(module.train(training), x, when, begun=i > 0)

        def note(part: str, value: object) -> None:
            found.setdefault(part, []).append(value)

        note(f"output in {when}", out.detach().clone())
        for name in _STATISTICS:
            statistic = getattr(module, name)
            if not isinstance(statistic, Tensor) or statistic.shape != (num_channels,):
                raise CheckFailed(
                    f"After a batch, {name} is no longer one number for each channel: keep its shape."
                )
            note(f"{name} after {when}", statistic.detach().clone())
        note(_LEFT.format(when), _left_behind(module, training))
        if not all(usual):
            continue
        inputs = {"x": given, "weight": module.weight, "bias": module.bias}
        slope = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).sin()
        gradients, error = [torch.zeros_like(value) for value in inputs.values()], ""
        try:
            if out.requires_grad:
                gradients = torch.autograd.grad(
                    out, list(inputs.values()), slope, allow_unused=True, materialize_grads=True
                )
        except RuntimeError as stopped:
            error = str(stopped)
        note(f"backpropagation in {when}", error)
        for name, gradient in zip(inputs, gradients, strict=True):
            note(f"gradient in {name} in {when}", gradient)
    # As after loading a saved network: what forward reads is what the buffers hold.
    load(*_STATISTICS)
    _, found["output with loaded statistics"] = _forward(module, batches[-1], _BATCHES[-1], begun=True)
    out = call_reader(module.float(), batches[-1].float(), describe="In float32, forward", begun=True)
    found["dtype in float32"] = str(out.dtype)
    return found


def _about_norm(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What a part of a batch norm says by itself, where no slip shows the same."""
    pairs = [(m.get(part), t.get(part)) for m, t in zip(given, right, strict=False)]
    mine, theirs = next((m, t) for m, t in pairs if difference(m, t, 1e-9))
    if part.startswith("output in"):
        if difference(mine, theirs, 1e-4) is None:
            return "It is right to a few digits only: compute in x's own dtype, without .float()."
        what = "the batch's mean and biased variance" if "training" in part else "the running statistics"
        return f"It is (x − mean) / √(variance + eps) · weight + bias, with {what}."
    if "after" in part:
        return "0.9 · old + 0.1 · new is asked for, one number for each channel."
    if part.startswith("gradient"):
        return "Compute with x, weight and bias themselves, without .data, .detach() or no_grad."
    if part == "parameters":
        return (
            f"They are {', '.join(mine) or 'none'}: write self.weight = nn.Parameter(…), one number per "
            "channel, and the same for bias; nothing else is learned."
        )
    if part.startswith(("backpropagation", _LEFT[:2])):
        return next(said for said in mine if said)
    return None


batch_norm = Exercise(
    number="1.5",
    title="Batch normalization",
    minutes=20,
    level="medium",
    answer="""\
class MyBatchNorm(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean = x.mean(dim=(0, 2, 3))
            var = x.var(dim=(0, 2, 3), correction=0)
            with torch.no_grad():
                unbiased = x.var(dim=(0, 2, 3), correction=1)
                self.running_mean.mul_(0.9).add_(0.1 * mean)
                self.running_var.mul_(0.9).add_(0.1 * unbiased)
        shape = (1, -1, 1, 1)
        x = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + 1e-5)
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)
""",
    cases=_norms,
    form="MyBatchNorm({0})",
    drive=_train_and_evaluate,
    trusted=nn.BatchNorm2d,
    tolerance=1e-9,  # rounding to float32 is seen
    slips="""
register_buffer("running_mean", torch.zeros(num_channels)) -> running_mean = torch.zeros(num_channels)
register_buffer("running_var", torch.ones(num_channels)) -> running_var = torch.ones(num_channels)
    it is a plain attribute: use self.register_buffer. A buffer moves with the model to another device or
    dtype, and is saved with it.
register_buffer( -> register_parameter(
torch.zeros(num_channels))⏎        self.reg -> nn.Parameter(torch.zeros(num_channels)))⏎        self.reg
"running_var", torch.ones(num_channels) -> "running_var", nn.Parameter(torch.ones(num_channels))
    it is a parameter: nothing learns it by gradient. Keep it with self.register_buffer.
"running_mean", torch.zeros(num_channels) -> "running_mean", torch.zeros(num_channels), False
"running_var", torch.ones(num_channels) -> "running_var", torch.ones(num_channels), False
    it is not in the state_dict: register it without persistent=False.
"running_mean" -> "mean"
self.running_mean -> self.mean
"running_var" -> "var"
self.running_var -> self.var
    there is no such buffer: self.register_buffer(name, …) keeps it.
correction=0 -> correction=1
    the batch is normalized with the unbiased variance. It is normalized with the biased one, divided by n:
    correction=0, or unbiased=False.
self.running_mean, self.running_var -> self.running_mean.clone(), self.running_var.clone(); old = mean, var
shape = (1, -1, 1, 1) -> shape = (1, -1, 1, 1); mean, var = old
or
shape = (1, -1, 1, 1) -> shape = (1, -1, 1, 1); mean, var = self.running_mean, self.running_var
or
if self.training: -> if self.training and torch.is_grad_enabled():
    the running statistics are used while training: use those of the batch.
if self.training: -> if True:
with torch.no_grad(): -> if self.training:⏎              with torch.no_grad():
or
if self.training: -> if True:
    the batch's statistics are used in evaluation mode: use the running ones. self.training tells the mode.
self.running_mean, self.running_var -> self.running_mean.clone(), self.running_var.clone(); old = mean, var
if self.training: -> if True:
shape = (1, -1, 1, 1) -> shape = (1, -1, 1, 1); mean, var = (mean, var) if self.training else old
    it moves in evaluation mode: only training batches count.
mean.reshape(shape) -> (x.mean(0, True) if self.training else mean.reshape(shape))
var.reshape(shape) -> (x.var(0, False, True) if self.training else var.reshape(shape))
    mean and variance are taken at each position by itself: take one of each per channel, over images and
    positions.
mean.reshape(shape) -> (x.mean((2, 3), True) if self.training else mean.reshape(shape))
var.reshape(shape) -> (x.var((2, 3), False, True) if self.training else var.reshape(shape))
    mean and variance are taken for each image by itself: take one of each per channel, over images and
    positions.
mean.reshape(shape) -> (x.mean((1, 2, 3), True) if self.training else mean.reshape(shape))
var.reshape(shape) -> (x.var((1, 2, 3), False, True) if self.training else var.reshape(shape))
    mean and variance are taken over the channels of each image: take one of each per channel, over images and
    positions.
mean.reshape(shape) -> (x.mean() if self.training else mean.reshape(shape))
var.reshape(shape) -> (x.var(unbiased=False) if self.training else var.reshape(shape))
    mean and variance are taken over everything at once: take one of each per channel, over images and
    positions.
x * self.weight.reshape(shape) + self.bias.reshape(shape) -> x
    the learned scale and shift are missing: times weight, plus bias, for each channel.
self.weight.reshape(shape) + self.bias.reshape(shape) -> self.weight.reshape(shape)
    the learned shift is missing: plus bias.
x * self.weight.reshape(shape) + -> x +
    the learned scale is missing: times weight.
self.weight.reshape(shape) + self.bias.reshape(shape) -> self.weight.reshape(shape)
return x * -> return (x + self.bias.reshape(shape)) *
    the shift is added before the scale: times weight, then plus bias.
1e-5 -> 0
    eps is missing: it is 1e-5, added to the variance.
1e-5 -> 1e-3
or
1e-5 -> 1e-6
or
1e-5 -> 1e-8
    eps is another number here: it is 1e-5, added to the variance.
sqrt(var.reshape(shape) + 1e-5) -> sqrt(var.reshape(shape)).add(1e-5)
    eps is added to the standard deviation: add it to the variance, under the root.
torch.sqrt(var.reshape(shape) + 1e-5) -> (var.reshape(shape) + 1e-5)
    you divide by the variance: divide by its square root, the standard deviation.
self.running_mean.mul_(0.9).add_(0.1 * mean) -> pass
self.running_var.mul_(0.9).add_(0.1 * unbiased) -> pass
    it has not moved: update it with every training batch, from x as it came in.
with torch.no_grad(): -> if torch.is_grad_enabled():⏎              with torch.no_grad():
or
with torch.no_grad(): -> if x.requires_grad:⏎              with torch.no_grad():
    it does not move there: every batch in training mode counts, whether gradients are computed or not. Ask
    self.training, and nothing else.
(0.9).add_(0.1 -> (0.1).add_(0.9
    the shares are swapped: 0.9 of the old value, 0.1 of the new one.
(0.9).add_(0.1 -> (0.0).add_(1.0
    it is the value of the last batch alone: keep 0.9 of the old value.
super().__init__() -> super().__init__(); self.steps = 0
unbiased = -> self.steps += 1; unbiased =
(0.9).add_(0.1 -> (1 - 1 / self.steps).add_(1 / self.steps
    it is a plain average over all batches: the new value gets a share of 0.1.
.mul_(0.9).add_ -> .add_
    the old value must shrink to 0.9 of itself before the new one is added.
with torch.no_grad(): -> for _ in range(2):⏎              with torch.no_grad():
    it is updated twice for one batch.
unbiased = x.var( -> z = F.batch_norm(x, None, None, training=True); unbiased = z.var(
0.1 * mean -> 0.1 * z.mean((0, 2, 3))
    it takes the statistics of the normalized x: take those of x as it came in.
unbiased = x.var( -> z = F.batch_norm(x, None, None, self.weight, self.bias, True); unbiased = z.var(
0.1 * mean -> 0.1 * z.mean((0, 2, 3))
    it takes the statistics of the output: take those of x as it came in.
correction=1 -> correction=0
    it is updated with the biased variance. PyTorch updates it with the unbiased one, divided by n − 1, though
    it normalizes with the biased one.
unbiased = x.var -> unbiased = x.std
    it holds standard deviations: keep variances.
0.1 * unbiased -> 0.1 * (unbiased + 1e-5)
or
0.1 * unbiased -> 0.1 * (var + 1e-5)
    eps belongs to the normalization, not to the statistic.
0.1 * unbiased -> 0.1 * var * len(x) / (len(x) - 1)
or
0.1 * unbiased -> 0.1 * var * x[0, 0].numel() / (x[0, 0].numel() - 1)
or
0.1 * unbiased -> 0.1 * var * x.numel() / (x.numel() - 1)
    its n is wrong: each channel has images · height · width numbers.
with torch.no_grad(): -> if True:
    a running statistic remembers how it was computed, and would keep every batch in memory: update it under
    torch.no_grad(), or with .detach().
mean = x.mean -> mean = x.detach().mean
var = x.var -> var = x.detach().var
or
mean = x.mean -> mean = x.detach().mean
or
var = x.var -> var = x.detach().var
    mean and variance of the batch depend on x: do not detach them.
x * self.weight.reshape(shape) + self.bias -> x * self.weight.data.reshape(shape) + self.bias.data
    compute with weight and bias themselves, without .data, .detach() or no_grad.
def forward -> @torch.no_grad()⏎    def forward
    forward records no gradients: leave no_grad to what is not a part of the output.
""",
    says={
        "parameters": "Its parameters are to be weight and bias",
        "learned": "weight and bias are to be learned",
        "dtype in float32": "Where all is float32, forward {problem}",
        "output with loaded statistics": "After the buffers have got other values, forward does not use them",
    }
    | {f"{name} at first": f"At first, {name} {{problem}}" for name in ("weight", "bias", *_STATISTICS)}
    | {f"kind of {name}": f"{name} is to be a buffer" for name in _STATISTICS}
    | {
        f"{name} after {when}": f"In {when}, the output is right, but {name} is not"
        for name in _STATISTICS
        for when in _PASSES
    }
    | {_LEFT.format(when): "{part}" for when in _PASSES}
    | {
        f"gradient in {name} in {when}": f"In {when}, the output is right, but the gradient in {name} is not"
        for name in ("x", "weight", "bias")
        for when in _PASSES
    }
    | {
        f"backpropagation in {when}": f"In {when}, the output is right, but backpropagation stops"
        for when in _PASSES
    },
    otherwise={
        "dtype in float32": "keep the dtype of x.",
        "learned": "leave their requires_grad as nn.Parameter sets it.",
        "output with loaded statistics": "a loaded network would be evaluated with old statistics. Read "
        "self.running_mean and self.running_var anew in each forward.",
    }
    | {
        f"{name} at first": "Keep one number for each channel, and reshape in forward; weight and "
        "running_var start at 1, the others at 0."
        for name in ("weight", "bias", *_STATISTICS)
    },
    explain=_about_norm,
    forbidden={
        "torch.nn.modules.batchnorm.*": "The numbers are right, but PyTorch's own BatchNorm is in it: "
        "compute mean and variance, and normalize with them, yourself.",
    }
    | {
        f"torch.*{kind}_norm": "The numbers are right, but forward calls PyTorch's own {used}: compute "
        "mean and variance, and normalize with them, yourself."
        for kind in ("batch", "instance", "group", "layer")
    },
    right="outputs, gradients and running statistics are those of nn.BatchNorm2d, in training and in "
    "evaluation mode, also where no gradients are computed.",
)
