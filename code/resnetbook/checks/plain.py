"""Convolution, output sizes, receptive fields, LeNet's counts and batch normalization, by hand."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models, probes
from resnetbook.checks.common import (
    HANDS_OFF,
    CheckFailed,
    answer_of,
    as_number,
    as_whole,
    call_for_count,
    call_reader,
    compare_counts,
    exercise,
    snapshot,
    spoiled,
)
from resnetbook.checks.tracing import Operations

Layers = Sequence[tuple[int, int, int]]
"""Kernel, stride and padding of each layer, the first one first."""


def _close(given: Tensor, right: Tensor) -> bool:
    """Equal but for the rounding of float32, which a reader may compute in."""
    return given.shape == right.shape and bool(_near(given, right).all())


def _near(given: Tensor, right: Tensor) -> Tensor:
    """For each number, whether it is equal but for the rounding of float32; nan never is."""
    return torch.isclose(given.detach().double(), right.double(), rtol=1e-4, atol=1e-5)


@contextmanager
def _layers_built() -> Iterator[list[str]]:
    """Notes the kinds of modules that get parameters while it is on."""
    built: list[str] = []
    handle = nn.modules.module.register_module_parameter_registration_hook(
        lambda module, name, parameter: built.append(type(module).__name__)
    )
    try:
        yield built
    finally:
        handle.remove()


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose", "conv_tbc", "convolution")


def _pair(solution: Callable, *arguments: object, describe: str, what: str, begun: bool) -> list | tuple:
    """The two things that the reader's code returns; also from an array or a tensor of two."""
    answer = answer_of(solution, *arguments, describe=describe, begun=begun)
    two = answer.tolist() if hasattr(answer, "tolist") else answer
    if not isinstance(two, tuple | list) or len(two) != 2:
        raise CheckFailed(f"{describe} gives {answer!r}: return two numbers, {what}.")
    return two


def _name_mistake(
    said: str,
    given: list,
    cases: Sequence[tuple],
    mistakes: Sequence[tuple[Callable, str]],
    otherwise: str,
) -> CheckFailed:
    """The failure to raise; it names the mistake that gives the reader's answers in every case."""
    for mistaken, message in mistakes:
        if given == [mistaken(*case) for case in cases]:
            return CheckFailed(said + message)
    return CheckFailed(said + otherwise)


# ---- convolution

_ConvCase = tuple[int, int, int, int, int, int, int, int]
# Channels in and out, height and width of image and kernel, stride, padding.
_CONV_CASES: tuple[_ConvCase, ...] = (
    (1, 1, 5, 5, 3, 3, 1, 0),
    # As many channels in as out: the weights bear being mixed up, and only the numbers tell.
    (2, 2, 8, 6, 2, 3, 1, 0),
    (2, 3, 6, 7, 3, 3, 1, 0),
    (2, 3, 6, 7, 3, 3, 1, 1),
    (3, 2, 8, 9, 3, 3, 2, 1),
    (1, 2, 9, 7, 5, 3, 3, 2),
)


def _windows_side_by_side(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, steps: tuple[int, int] = (1, 1)
) -> Tensor:
    """The mistake of moving the window by 1, and putting out as many numbers as with the stride."""
    height, width = F.conv2d(x[None], weight, bias, stride, padding)[0].shape[1:]
    return F.conv2d(x[None], weight, bias, steps, padding)[0, :, :height, :width]


def _conv_mistakes(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
) -> Iterator[tuple[Callable[[], Tensor], str]]:
    """What the usual mistakes put out, and what to say about each."""

    def conv(
        image: Tensor = x,
        kernel: Tensor = weight,
        shift: Tensor | None = bias,
        step: int = stride,
        border: int = padding,
    ) -> Tensor:
        return F.conv2d(image[None], kernel, shift, step, border)[0]

    twice = 2 * padding
    yield (
        lambda: conv(kernel=weight.flip(2, 3)),
        "the kernel is flipped. That is what mathematics calls convolution; networks do not flip.",
    )
    if weight.shape[0] == weight.shape[1] > 1:
        yield (
            lambda: conv(kernel=weight.transpose(0, 1)),
            "input and output channels of weight are mixed up: the output channels come first, "
            "weight[o, c] leads from input channel c to output channel o.",
        )
        yield (
            lambda: F.conv2d(
                x[None], weight.diagonal().movedim(-1, 0)[:, None], bias, stride, padding, 1, len(x)
            )[0],
            "output channel o reads input channel o alone: add up over all input channels.",
        )
    yield (
        lambda: conv(x.flip(0)),
        "input channel c is multiplied by the slice of another channel: it belongs to weight[:, c].",
    )
    yield (
        lambda: conv(kernel=weight[:, :1].expand_as(weight)),
        "every input channel is multiplied by the same slice: channel c has its own, weight[:, c].",
    )
    yield lambda: conv().flip(0), "the maps are right, but their order is not: map o is that of weight[o]."
    yield lambda: conv(shift=None), "the bias is missing: add bias[o] to the whole map of output channel o."
    yield (
        lambda: conv(shift=bias * len(x)),
        "the bias is added once for each input channel: add it once for each output.",
    )
    for times in (weight[0].numel(), weight[0, 0].numel()):
        yield (
            lambda times=times: conv(shift=bias * times),
            "the bias is added to each product, before the sum: add it once for each output.",
        )
    yield (
        lambda: conv(shift=bias[:1].expand_as(bias)),
        "every output channel gets the same bias: output channel o has its own, bias[o].",
    )
    yield (
        lambda: conv(x[:1], weight[:, :1]),
        "only the first input channel is read: add up over all of them.",
    )
    yield (
        lambda: conv(x[-1:], weight[:, -1:]),
        "only the last input channel is left: add up over all of them, and do not overwrite.",
    )
    yield (
        lambda: conv(kernel=weight[:1].expand_as(weight)),
        "every output channel uses the same filter: output channel o has its own, weight[o].",
    )
    yield (
        lambda: _windows_side_by_side(x, weight, bias, stride, padding),
        "the windows start at rows i and columns j: with a stride they start at i * stride and j * stride.",
    )
    for steps, right, wrong in (((stride, 1), "rows", "columns"), ((1, stride), "columns", "rows")):
        yield (
            lambda steps=steps: _windows_side_by_side(x, weight, bias, stride, padding, steps),
            f"the stride moves the windows over the {right}, but not over the {wrong}.",
        )
    for sides in ((0, twice, 0, twice), (twice, 0, twice, 0)):
        yield (
            lambda sides=sides: conv(F.pad(x, sides), border=0),
            "all of the padding is on one side: half of the zeros come before the image, half after it.",
        )
    yield (
        lambda: conv(F.pad(x, (padding,) * 4, value=1.0), border=0),
        "the border is filled with ones: pad with zeros.",
    )
    for mode, what in (
        ("replicate", "repeats the edge of the image"),
        ("reflect", "mirrors the image"),
        ("circular", "holds the other side of the image"),
    ):
        yield (
            lambda mode=mode: conv(F.pad(x[None], (padding,) * 4, mode=mode)[0], border=0),
            f"the border {what}: pad with zeros.",
        )
    if weight.shape[2] == weight.shape[3]:
        yield lambda: conv(kernel=weight.transpose(2, 3)), "rows and columns of the kernel are swapped."
    yield lambda: conv().transpose(1, 2), "height and width of the output are swapped."
    yield (
        lambda: conv(shift=None) / weight[0].numel() + bias[:, None, None],
        "you take the mean over the window: the products are added up.",
    )


def _conv_shape_problem(given: tuple[int, ...], x: Tensor, weight: Tensor, stride: int, padding: int) -> str:
    """Why an output of the wrong shape has just this shape."""
    height, width = x.shape[1:]
    kernel = tuple(weight.shape[2:])
    if len(given) == 4:
        return "There is no batch here: x has three axes, and so has the output."
    if len(given) != 3:
        return "Three axes are asked for: output channels, height, width."
    if given[0] != len(weight):
        return "There is one map for each filter: weight.shape[0] of them."

    def sizes(border: int, step: int, plus: int = 1, up: bool = False) -> tuple[int, int]:
        spans = ((n + border - k) / step for n, k in zip((height, width), kernel, strict=True))
        return tuple((math.ceil(span) if up else math.floor(span)) + plus for span in spans)

    right = sizes(2 * padding, stride)
    reasons = (
        (right[::-1], "Height and width are swapped."),
        (sizes(0, stride), "The padding is not applied."),
        (sizes(2 * padding, 1), "The stride is not applied."),
        (sizes(0, 1), "Neither padding nor stride is applied."),
        (sizes(padding, stride), "The padding goes on both sides: n + 2 * padding."),
        (
            sizes(2 * padding, stride, plus=0),
            "One row and one column are missing: the formula ends with + 1.",
        ),
        (sizes(2 * padding, stride, up=True), "Round down: a window that does not fit any more is left out."),
        ((height, width), "It has the size of the input."),
    )
    for size, reason in reasons:
        if given[1:] == size:
            return f"{reason} Work the size out: (n + 2 * padding - kernel) // stride + 1."
    for axis, (good, bad) in enumerate((("height", "width"), ("width", "height"))):
        if given[1 + axis] == right[axis]:
            return f"The {good} is right, the {bad} is not: padding and stride count in both directions."
    return "Work the size out with the formula: (n + 2 * padding - kernel) // stride + 1."


@exercise
def conv2d(solution: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]) -> str:
    """Check ``conv2d(x, weight, bias, stride, padding)`` against ``F.conv2d``.

    ``x`` is one image ``(C_in, H, W)``, ``weight`` is ``(C_out, C_in, KH, KW)``, ``bias`` is ``(C_out,)``.

    Raises:
        CheckFailed: if shape or numbers differ in any case, the input is changed, or PyTorch's own
            convolution has done the work.
    """
    calls = Operations()
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for i, (c_in, c_out, height, width, rows, columns, stride, padding) in enumerate(_CONV_CASES):
        x, weight, bias = random(c_in, height, width), random(c_out, c_in, rows, columns), random(c_out)
        case = f"With x {tuple(x.shape)}, weight {tuple(weight.shape)}, stride {stride} and padding {padding}"
        copies = x.clone(), weight.clone(), bias.clone()
        with calls:
            given = call_reader(solution, *copies, stride, padding, describe=f"{case}: conv2d", begun=i > 0)
        if given is None:
            raise CheckFailed(f"{case}: you return None. Does the function end with `return`?")
        if not isinstance(given, Tensor):
            raise CheckFailed(f"{case}: you return {type(given).__name__}: return a tensor.")
        for name, copy, original in zip(("x", "weight", "bias"), copies, (x, weight, bias), strict=True):
            if spoiled(snapshot(original), copy):
                raise CheckFailed(
                    f"{case}: {name} has been changed: write into a new tensor. `a += b` changes a itself, "
                    "and every tensor that shares its numbers."
                )
        right = F.conv2d(x[None], weight, bias, stride, padding)[0]
        if given.shape != right.shape:
            raise CheckFailed(
                f"{case}: the shape is {tuple(given.shape)}, and it is {tuple(right.shape)}. "
                + _conv_shape_problem(tuple(given.shape), x, weight, stride, padding)
            )
        if given.dtype not in (torch.float32, torch.float64):
            raise CheckFailed(f"{case}: the output holds {given.dtype}: start from zeros of x's own dtype.")
        if _close(given, right):
            continue
        for mistaken, message in _conv_mistakes(x, weight, bias, stride, padding):
            if _close(given, mistaken()):
                raise CheckFailed(f"{case}: {message}")
        wrong = ~_near(given, right)
        where = tuple(wrong.nonzero()[0].tolist())
        advice = (
            "Work this one out by hand: cut its window from all input channels, multiply by its filter, "
            "add up."
        )
        if given[where].isnan():
            advice = (
                "It is nan. Is every place of the output filled? torch.empty holds whatever was there before."
            )
        raise CheckFailed(
            f"{case}: {int(wrong.sum())} of {right.numel()} numbers differ, the first at {where}. {advice}"
        )
    if name := calls.like(*_CONVOLUTIONS):
        raise CheckFailed(
            f"The numbers are right, but your function calls PyTorch's own {name}: cut out the windows and "
            "add up the products yourself, in loops."
        )
    compared = f"the numbers are those of F.conv2d in {len(_CONV_CASES)} cases, with padding and stride."
    if calls.like("unfold"):
        compared += " But unfold has cut out the windows for you: the exercise asks for loops."
    return compared


# ---- sizes


def _size(
    n: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    *,
    reach: str = "right",
    sides: int = 2,
    inside: int = 0,
    rounding: Callable[[float], int] = math.floor,
    plus: int = 1,
    strides: bool = True,
) -> int:
    """The output size; the options make the mistakes that are named below."""
    pixels = {
        "right": dilation * (kernel - 1) + 1,
        "no dilation": kernel,
        "product": dilation * kernel,
        "one less": dilation * (kernel - 1),
        "wide gaps": kernel + (kernel - 1) * dilation,
        "one gap": kernel + dilation - 1,
    }[reach]
    room = n + sides * padding - pixels + inside
    return rounding(room / (stride if strides else 1)) + plus


@exercise
def output_size(solution: Callable[[int, int, int, int, int], int]) -> str:
    """Check ``output_size(n, kernel, stride, padding, dilation)`` against the size of a real convolution.

    Raises:
        CheckFailed: if a size differs.
    """
    cases = (
        (7, 3, 1, 0, 1),
        (7, 3, 2, 1, 1),
        (8, 3, 2, 0, 1),
        (28, 5, 1, 2, 1),
        (28, 3, 1, 2, 2),
        (30, 3, 2, 0, 4),
        (10, 2, 3, 1, 3),
        (5, 5, 4, 0, 1),
    )

    def trusted(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
        x, weight = (torch.empty(1, 1, size, device="meta") for size in (n, kernel))
        return F.conv1d(x, weight, None, stride, padding, dilation).shape[-1]

    mistakes = {
        "Count the window at the start, too: the formula ends with + 1.": {"plus": 0},
        "The 1 is added after dividing by the stride: it stands for the first window, and not for a pixel.": {
            "plus": 0,
            "inside": 1,
        },
        "There is padding on both sides: n + 2 · padding.": {"sides": 1},
        "The padding is missing: n + 2 · padding.": {"sides": 0},
        "The dilation is missing: a kernel with gaps reaches over dilation · (kernel − 1) + 1 pixels.": {
            "reach": "no dilation"
        },
        "The gaps lie between the kernel's positions, and there is one gap less than positions: "
        "dilation · (kernel − 1) + 1.": {"reach": "product"},
        "The kernel reaches over one pixel more than dilation · (kernel − 1): count its first weight, too.": {
            "reach": "one less"
        },
        "A gap is dilation − 1 pixels wide: with a dilation of 1 there is none.": {"reach": "wide gaps"},
        "There is a gap between each two neighbouring weights, so there are kernel − 1 gaps.": {
            "reach": "one gap"
        },
        "Round down: a window that does not fit any more is left out.": {"rounding": math.ceil},
        "Round down, and not to the nearest: a window that does not fit any more is left out.": {
            "rounding": round
        },
        "The stride is missing: divide by it, before you add 1.": {"strides": False},
    }
    brackets = "// comes before + and −: put parentheses around all that is divided by the stride."
    unbracketed = (
        lambda n, k, s, p, d: n + 2 * p - (d * (k - 1) + 1) // s + 1,
        lambda n, k, s, p, d: n + 2 * p - d * (k - 1) - 1 // s + 1,
        lambda n, k, s, p, d: n + 2 * p - d * (k - 1) // s - 1 + 1,
        lambda n, k, s, p, d: n + 2 * p - d * (k - 1) // s + 1,
    )
    calls = Operations()
    with calls:
        given = [
            call_for_count(solution, f"output_size{case}", *case, begun=i > 0) for i, case in enumerate(cases)
        ]
    for case, answer in zip(cases, given, strict=True):
        if answer != (right := trusted(*case)):
            raise _name_mistake(
                f"output_size{case} gives {answer}, and it is {right}. ",
                given,
                cases,
                [
                    *(
                        (functools.partial(_size, **options), message)
                        for message, options in mistakes.items()
                    ),
                    *((mistaken, brackets) for mistaken in unbracketed),
                ],
                "Draw the pixels with their padding in a row, and count the places where the window fits.",
            )
    compared = f"the sizes are those of real convolutions in {len(cases)} cases."
    if name := calls.like(*_CONVOLUTIONS, "pool"):
        compared += f" But {name} has found them for you: the exercise asks for a formula."
    return compared


# ---- receptive field


def _measured_span(layers: Layers, index: int) -> tuple[int, int]:
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
            out = F.conv1d(
                out, torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64), None, stride, padding
            )
        (gradient,) = torch.autograd.grad(out[0, 0, index + away], x)
    reached = gradient.flatten().nonzero().flatten()
    return int(reached[0]) - away * jump, int(reached[-1]) - away * jump


def _span(
    layers: Layers,
    index: int,
    *,
    backward: bool = True,
    sign: int = 1,
    strides: bool = True,
    beyond: int = 0,
    kernels: bool = True,
    clip: bool = False,
    padding_first: bool = False,
    centred: bool = False,
    last_sign: int | None = None,
) -> tuple[int, int]:
    """The span by walking back; the options make the mistakes that are named below."""
    first = last = index
    last_sign = sign if last_sign is None else last_sign
    for kernel, stride, padding in reversed(layers) if backward else layers:
        step = stride if strides else 1
        if centred:
            first, last = first * step - kernel // 2, last * step + kernel // 2
            continue
        border = padding * step if padding_first else padding
        first = first * step - sign * border
        last = last * step - last_sign * border + (kernel - 1 + beyond if kernels else 0)
    return (max(first, 0), last) if clip else (first, last)


def _span_with_paddings_added(layers: Layers, index: int) -> tuple[int, int]:
    """The mistake of adding up the paddings, though those of later layers are jumps of the image."""
    first, last = _span(layers, index)
    shift = index * math.prod(stride for _, stride, _ in layers) - sum(p for *_, p in layers)
    return shift, shift + last - first


def _span_forwards(
    layers: Layers,
    index: int,
    *,
    early: bool = False,
    padding_early: bool = False,
    jump_in_size: bool = True,
    jump_at_end: bool = True,
) -> tuple[int, int]:
    """The span by size, jump and start; the options make the mistakes that are named below.

    Args:
        layers: as everywhere.
        index: of the output.
        early: whether the jump is updated before the size.
        padding_early: whether it is updated before the start.
        jump_in_size: whether a further neighbour is a jump away.
        jump_at_end: whether the next output is a jump away.
    """
    size, jump, start = 1, 1, 0
    for kernel, stride, padding in layers:
        later = jump * stride
        start -= padding * (later if padding_early else jump)
        size += (kernel - 1) * ((later if early else jump) if jump_in_size else 1)
        jump = later
    start += index * (jump if jump_at_end else 1)
    return start, start + size - 1


def _span_of_one_window(layers: Layers, index: int) -> tuple[int, int]:
    """The mistake of keeping only the first window of those that were found before."""
    first = last = index
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = first + kernel - 1
    return first, last


_SPAN_CASES: tuple[tuple[Layers, int], ...] = (
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


@exercise
def receptive_span(solution: Callable[[Layers, int], tuple[int, int]]) -> str:
    """Check ``receptive_span(layers, index)``: the first and the last pixel that an output reads.

    Raises:
        CheckFailed: if a span is not the one that autograd measures.
    """
    given, right = [], []
    emptied = None
    for i, (layers, index) in enumerate(_SPAN_CASES):
        call = f"receptive_span({layers}, {index})"
        what = "the first and the last pixel"
        handed = list(layers)
        answer = _pair(solution, handed, index, describe=call, what=what, begun=i > 0)
        numbers = [as_number(part) for part in answer]
        if any(n is None or not math.isfinite(n) or n != int(n) for n in numbers):
            raise CheckFailed(f"{call} gives {answer!r}: pixels are whole numbers; do not divide.")
        if spoiled(snapshot(layers), handed):
            emptied = emptied or call
        given.append(tuple(map(int, numbers)))
        right.append(_measured_span(layers, index))
    mistake = functools.partial
    mistakes = (
        (
            lambda layers, index: _span(layers, index)[::-1],
            "Return the first pixel first, then the last one.",
        ),
        (
            mistake(_span, beyond=1),
            "The last pixel itself is asked for: a kernel of 3 that starts at 4 reads 4, 5 and 6.",
        ),
        (
            lambda layers, index: (_span(layers, index)[0], _span(layers, index)[1] + 1),
            "The last pixel itself is asked for, not the one behind it.",
        ),
        (
            lambda layers, index: (
                _span(layers, index)[0],
                _span(layers, index)[1] - _span(layers, index)[0] + 1,
            ),
            "The last pixel is asked for, not how many there are.",
        ),
        (mistake(_span, sign=0), "The padding is missing: it moves the windows to the left."),
        (mistake(_span, sign=-1), "You add the padding: subtract it, it moves the windows to the left."),
        (
            mistake(_span, last_sign=-1),
            "You add the padding to the end: subtract it there, too. It moves the whole window to the left.",
        ),
        (
            mistake(_span, last_sign=0),
            "The padding is missing at the end: it moves the whole window to the left.",
        ),
        (
            mistake(_span, padding_first=True),
            "The layer's own stride multiplies the padding, too. Walking back, window i starts at "
            "i · stride − padding. Walking forwards, a padding counts in the jump *before* the layer.",
        ),
        (
            _span_with_paddings_added,
            "You add up the paddings: a padding of a later layer is one of *its* pixels, each a jump wide.",
        ),
        (
            mistake(_span, centred=True),
            "You put the middle of window i at i · stride: the window *starts* at i · stride − padding.",
        ),
        (mistake(_span, backward=False), "Walk backwards: begin with the last layer and end at the image."),
        (mistake(_span, strides=False), "The stride is missing: window i starts at i · stride − padding."),
        (
            mistake(_span, kernels=False),
            "You follow the start of the last window: add kernel − 1 to its end.",
        ),
        *(
            (
                mistake(_span_forwards, early=True, padding_early=padding_early),
                "You update the jump too early: kernel and padding of a layer are counted in the jump "
                "*before* it, and only then its stride multiplies the jump.",
            )
            for padding_early in (True, False)
        ),
        (
            mistake(_span_forwards, jump_in_size=False),
            "The size of the field grows by (kernel − 1) · jump: a further neighbour is a jump away.",
        ),
        (
            mistake(_span_forwards, jump_at_end=False),
            "Output number index lies index *jumps* behind output number 0.",
        ),
        (
            _span_of_one_window,
            "You keep one window only: the last pixel is that of the *last* window, which starts at "
            "last · stride − padding.",
        ),
        (
            mistake(_span, clip=True),
            "Do not cut off at 0: what lies before it is padding, and the number shows how much.",
        ),
    )
    for (layers, index), answer, span in zip(_SPAN_CASES, given, right, strict=True):
        if answer != span:
            said = f"receptive_span({layers}, {index}) gives {answer}, and autograd measures {span}. "
            otherwise = "Take one layer, and ask which of its inputs one output reads."
            raise _name_mistake(said, given, _SPAN_CASES, mistakes, otherwise)
    if emptied:
        raise CheckFailed(f"The pixels are right, but {emptied} changes the list layers, {HANDS_OFF}")
    return f"the spans are those that autograd measures, for {len(_SPAN_CASES)} stacks of layers."


# ---- LeNet


def _lenet_parameters(
    num_classes: int,
    in_channels: int,
    *,
    conv_bias: bool = True,
    linear_bias: bool = True,
    flat: int = 16 * 25,
    first_reads: int | None = None,
    second_reads: int = 6,
    extra: int = 0,
) -> int:
    """LeNet's parameters; the options make the mistakes that are named below."""
    first_reads = first_reads or in_channels
    convs = (25 * first_reads + conv_bias) * 6 + (25 * second_reads + conv_bias) * 16
    linear = (flat + linear_bias) * 120 + (120 + linear_bias) * 84 + (84 + linear_bias) * num_classes
    return convs + linear + extra


def _lenet_macs(
    num_classes: int,
    in_channels: int,
    *,
    sides: tuple[int, int] = (28, 10),
    flat: int = 16 * 25,
    conv_bias: bool = False,
    linear_bias: bool = False,
    convs: bool = True,
    linear: bool = True,
    first_reads: int | None = None,
    second_reads: int = 6,
    factor: int = 1,
) -> int:
    """LeNet's multiply-adds; the options make the mistakes that are named below."""
    first = (25 * (first_reads or in_channels) + conv_bias) * 6 * sides[0] ** 2
    second = (25 * second_reads + conv_bias) * 16 * sides[1] ** 2
    head = (flat + linear_bias) * 120 + (120 + linear_bias) * 84 + (84 + linear_bias) * num_classes
    return factor * (convs * (first + second) + linear * head)


_LENET_CASES = ((10, 1), (10, 3), (7, 2))


@exercise
def lenet_counts(solution: Callable[[int, int], tuple[int, int]]) -> str:
    """Check ``lenet_counts(num_classes, in_channels)``: LeNet's parameters and multiply-adds at 28×28.

    Raises:
        CheckFailed: if a count is not that of :func:`resnetbook.models.lenet`.
    """

    def network(num_classes: int, in_channels: int) -> nn.Module:
        with torch.device("meta"):  # shapes without numbers
            return models.lenet(num_classes, in_channels)

    trusted = (
        lambda *case: probes.count_parameters(network(*case)),
        lambda *case: probes.count_macs(network(*case), (case[1], 28, 28)),
    )
    answers = []
    with _layers_built() as built:
        for i, case in enumerate(_LENET_CASES):
            call = f"lenet_counts{case}"
            pair = _pair(solution, *case, describe=call, what="parameters and MACs", begun=i > 0)
            answers.append(
                tuple(
                    as_whole(count, f"{kind}: {call} gives {count!r}")
                    for kind, count in zip(("Parameters", "MACs"), pair, strict=True)
                )
            )
    right = [tuple(count(*case) for count in trusted) for case in _LENET_CASES]
    if answers == [pair[::-1] for pair in right]:
        raise CheckFailed("Both counts are right, but in the wrong order: return parameters, then MACs.")
    # The reader's answers have all been heard: look them up, one kind after the other.
    heard = dict(zip(_LENET_CASES, answers, strict=True))
    mistake = functools.partial
    parameter_mistakes = (
        (
            mistake(_lenet_parameters, conv_bias=False, linear_bias=False),
            "The biases are missing: every convolution and every linear layer has one for each output.",
        ),
        (
            mistake(_lenet_parameters, conv_bias=False, linear_bias=False, extra=5),
            "A layer has one bias for each of its outputs, and not one for all of them.",
        ),
        (
            mistake(_lenet_parameters, first_reads=1),
            "conv1 reads in_channels channels, and not always one.",
        ),
        (
            lambda _, in_channels: _lenet_parameters(10, in_channels),
            "fc3 has num_classes outputs, and not always ten.",
        ),
        (
            mistake(_lenet_parameters, second_reads=1),
            "conv2 reads 6 channels: each of its filters has 25 weights for *each* of them.",
        ),
        (mistake(_lenet_parameters, conv_bias=False), "The biases of the convolutions are missing."),
        (mistake(_lenet_parameters, linear_bias=False), "The biases of the linear layers are missing."),
        (
            mistake(_lenet_parameters, flat=16 * 16),
            "fc1 reads 16 maps of 5×5: the first convolution has a padding of 2, so it keeps 28×28.",
        ),
        (
            mistake(_lenet_parameters, flat=16 * 100),
            "fc1 reads what the second pool puts out: 16 maps of 5×5, and not of 10×10.",
        ),
        (mistake(_lenet_parameters, flat=16), "fc1 reads every position of 16 maps of 5×5: 400 numbers."),
        (
            mistake(_lenet_parameters, first_reads=1, second_reads=1),
            "A filter has 25 weights for *each* of its input channels.",
        ),
    )
    mac_mistakes = (
        (
            mistake(_lenet_macs, sides=(24, 8), flat=16 * 16),
            "The first convolution has a padding of 2, so its output is 28×28, and not 24×24.",
        ),
        (mistake(_lenet_macs, sides=(24, 8)), "conv1 has a padding of 2, so its output is 28×28, not 24×24."),
        (
            mistake(_lenet_macs, sides=(24, 10)),
            "conv1 has a padding of 2, so its output is 28×28, not 24×24.",
        ),
        (
            mistake(_lenet_macs, sides=(28, 14)),
            "conv2 has no padding: count its output positions, 10×10, and not those of its input.",
        ),
        (mistake(_lenet_macs, sides=(14, 5)), "The convolutions work before the pools, on the larger maps."),
        (
            mistake(_lenet_macs, linear_bias=True),
            "Adding a bias is no multiply-add: it is not counted.",
        ),
        # A pool of 2×2 reads four numbers where the convolution before it has added four biases, so both
        # give the same count, and both are named.
        (
            mistake(_lenet_macs, conv_bias=True),
            "It is 6 · 784 + 16 · 100 = 6,304 too many. Either the biases of the convolutions: adding one is "
            "no multiply-add. Or the average pools, with 4 MACs for each output: here they count as nothing.",
        ),
        (
            mistake(_lenet_macs, conv_bias=True, linear_bias=True),
            "Adding a bias is no multiply-add: it is not counted. (Average pools, with 4 MACs for each "
            "output, would add what the convolutions' biases add. They are not counted either.)",
        ),
        *(
            (
                lambda *case, extra=extra: _lenet_macs(*case) + extra,
                f"It is {extra:,} too many: {what}. Poolings and activation functions count as nothing here.",
            )
            for extra, what in (
                (1176 + 400, "one for each output of the pools"),
                (3 * (1176 + 400), "three additions for each output of the pools"),
                (4704 + 1600 + 120 + 84, "one for each number that goes through an activation function"),
            )
        ),
        (mistake(_lenet_macs, first_reads=1), "conv1 reads in_channels channels, and not always one."),
        (
            lambda _, in_channels: _lenet_macs(10, in_channels),
            "fc3 has num_classes outputs, and not always ten.",
        ),
        (
            mistake(_lenet_macs, second_reads=1),
            "conv2 reads 6 channels: each of its outputs reads 25 numbers of *each* of them.",
        ),
        *(
            (mistake(_lenet_macs, flat=flat), "fc1 reads 16 maps of 5×5: 400 numbers.")
            for flat in (16, 16 * 16, 16 * 100)
        ),
        (
            mistake(_lenet_macs, factor=2),
            "One MAC is a multiplication together with an addition: it counts 1.",
        ),
        (mistake(_lenet_macs, linear=False), "The linear layers work too: one MAC for each weight."),
        (mistake(_lenet_macs, convs=False), "The convolutions are missing."),
        (
            mistake(_lenet_macs, first_reads=1, second_reads=1),
            "An output of a convolution reads 25 pixels of *each* input channel.",
        ),
        *(
            (
                mistake(_lenet_macs, sides=(1, 1), conv_bias=bias, linear_bias=bias),
                "A convolution uses its weights again at every output position.",
            )
            for bias in (False, True)
        ),
    )
    for i, (what, mistakes) in enumerate((("Parameters", parameter_mistakes), ("MACs", mac_mistakes))):
        compare_counts(
            lambda *case, i=i: heard[case][i], f"{what}: lenet_counts", _LENET_CASES, trusted[i], mistakes
        )
    compared = f"parameters and MACs are those of the network in {len(_LENET_CASES)} cases."
    if built:
        compared += f" But you have built layers ({built[0]}) and asked them: the exercise asks for formulas."
    return compared


# ---- batch normalization

_MOMENTUM, _EPS = 0.1, 1e-5
_STATISTICS = ("running_mean", "running_var")


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)


def _moments(x: Tensor, dims: tuple[int, ...] = (0, 2, 3), unbiased: bool = False) -> tuple[Tensor, Tensor]:
    return x.mean(dims, keepdim=True), x.var(dims, correction=int(unbiased), keepdim=True)


def _norm_mistakes(x: Tensor, state: dict[str, Tensor], training: bool) -> Iterator[tuple[Tensor, str]]:
    """What the usual mistakes put out, and what to say about each."""
    scale, shift = _per_channel(state["weight"]), _per_channel(state["bias"])
    running = _per_channel(state["running_mean"]), _per_channel(state["running_var"])

    def finish(moments: tuple[Tensor, Tensor], eps: float = _EPS) -> Tensor:
        mean, variance = moments
        return scale * (x - mean) / (variance + eps).sqrt() + shift

    mean, variance = _moments(x) if training else running
    if training:
        yield (
            finish(_moments(x, unbiased=True)),
            "the batch is normalized with the unbiased variance. It is normalized with the biased one, "
            "divided by n: correction=0, or unbiased=False.",
        )
        moved = zip(running, _moments(x, unbiased=True), strict=True)
        updated = tuple((1 - _MOMENTUM) * old + _MOMENTUM * new for old, new in moved)
        for statistics in (running, updated):
            yield (
                finish(statistics),
                "the running statistics are used while training: use those of the batch.",
            )
    else:
        for unbiased in (False, True):
            yield (
                finish(_moments(x, unbiased=unbiased)),
                "the batch's statistics are used in evaluation mode: use the running ones. "
                "self.training tells the mode.",
            )
    for dims, what in (
        ((0,), "at each position by itself"),
        ((2, 3), "for each image by itself"),
        ((1, 2, 3), "over the channels of each image"),
        ((0, 1, 2, 3), "over everything at once"),
    ):
        yield (
            finish(_moments(x, dims)),
            f"mean and variance are taken {what}: take one of each per channel, over images and positions.",
        )
    normalized = (x - mean) / (variance + _EPS).sqrt()
    yield normalized, "the learned scale and shift are missing: times weight, plus bias, for each channel."
    yield scale * normalized, "the learned shift is missing: plus bias."
    yield normalized + shift, "the learned scale is missing: times weight."
    yield scale * (normalized + shift), "the shift is added before the scale: times weight, then plus bias."
    for eps in (0.0, 1e-3, 1e-6, 1e-8):
        said = "missing" if eps == 0 else f"{eps:g}"
        yield finish((mean, variance), eps), f"eps is {said}: it is {_EPS:g}, added to the variance."
    yield (
        scale * (x - mean) / (variance.sqrt() + _EPS) + shift,
        "eps is added to the standard deviation: add it to the variance, under the root.",
    )
    yield (
        scale * (x - mean) / (variance + _EPS) + shift,
        "you divide by the variance: divide by its square root, the standard deviation.",
    )


def _statistics_problem(name: str, given: Tensor, old: Tensor, x: Tensor, y: Tensor, step: int) -> str:
    """Why a running statistic is not what it should be after a training batch ``x`` with output ``y``."""
    mean, biased = (moment.flatten() for moment in _moments(x))
    unbiased = _moments(x, unbiased=True)[1].flatten()
    new = mean if name == "running_mean" else unbiased

    def mixed(value: Tensor, share: float = _MOMENTUM) -> Tensor:
        return (1 - share) * old + share * value

    if _same(given, old):
        return "it has not moved: update it with every training batch, from x as it came in."
    reasons = [
        (mixed(new, 1 - _MOMENTUM), "the shares are swapped: 0.9 of the old value, 0.1 of the new one."),
        (new, "it is the value of the last batch alone: keep 0.9 of the old value."),
        (mixed(new, 1 / step), "it is a plain average over all batches: the new value gets a share of 0.1."),
        (old + _MOMENTUM * new, "the old value must shrink to 0.9 of itself before the new one is added."),
        (mixed(new, 1 - (1 - _MOMENTUM) ** 2), "it is updated twice for one batch."),
    ]
    normalized = (x - _per_channel(mean)) / _per_channel(biased + _EPS).sqrt()
    for source, what in ((normalized, "of the normalized x"), (y, "of the output")):
        for unbiased_too in (False, True):
            moment = _moments(source, unbiased=unbiased_too)[name == "running_var"].flatten()
            reasons.append((mixed(moment), f"it takes the statistics {what}: take those of x as it came in."))
    if name == "running_var":
        reasons = [
            (
                mixed(biased),
                "it is updated with the biased variance. PyTorch updates it with the unbiased one, divided "
                "by n − 1, though it normalizes with the biased one.",
            ),
            *reasons,
            (mixed(unbiased.sqrt()), "it holds standard deviations: keep variances."),
            (mixed(biased + _EPS), "eps belongs to the normalization, not to the statistic."),
            (mixed(unbiased + _EPS), "eps belongs to the normalization, not to the statistic."),
            *(
                (
                    mixed(biased * n / (n - 1)),
                    "its n is wrong: each channel has images · height · width numbers.",
                )
                for n in (len(x), x[0, 0].numel(), x.numel())
            ),
        ]
    for value, reason in reasons:
        if _same(given, value):
            return reason
    return "0.9 · old + 0.1 · new is asked for, one number for each channel."


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal but for rounding: that of ``second``'s dtype."""
    rtol, atol = (1e-7, 1e-9) if second.dtype == torch.float64 else (1e-3, 1e-4)
    return first.shape == second.shape and torch.allclose(
        first.double(), second.double(), rtol=rtol, atol=atol
    )


_GRADIENTS = ("as usual", "x needs none", "under torch.no_grad()")
"""How a forward pass is run: a layer's statistics must move in all of them."""


def _leftover(module: nn.Module, training: bool) -> str | None:
    """What a forward pass has left behind in the module, if it has."""
    if module.training != training:
        return "forward changes the mode of the module: read self.training, and leave it as it is."
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            return f"forward leaves a gradient in {name}: it only computes the output, without backward()."
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                return (
                    f"self.{name} remembers how it was computed, and would keep the whole batch in memory: "
                    "use a local variable."
                )
    return None


def _new_norm(cls: Callable[[int], nn.Module], channels: int, begun: bool) -> nn.Module:
    """The reader's module; its parameters and buffers have the right names, shapes and first values."""
    call = f"{getattr(cls, '__name__', 'the class')}({channels})"
    module = call_reader(cls, channels, describe=call, begun=begun)
    if not isinstance(module, nn.Module):
        raise CheckFailed(
            f"{call} gives {type(module).__name__}: write a class that inherits from nn.Module."
        )
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    own = [type(m).__name__ for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    if own:
        raise CheckFailed(f"{call} holds PyTorch's own {own[0]}: compute mean and variance yourself.")
    for name in _STATISTICS:
        if name in parameters:
            raise CheckFailed(
                f"{name} is a parameter: nothing learns it by gradient. Keep it with self.register_buffer."
            )
        if name not in buffers:
            there = isinstance(getattr(module, name, None), Tensor)
            what = f"{name} is a plain attribute" if there else f"there is no buffer {name}"
            raise CheckFailed(
                f"{what}: use self.register_buffer({name!r}, …). A buffer moves with the model to another "
                "device or dtype, and is saved with it."
            )
        if module.state_dict().get(name) is None:
            raise CheckFailed(f"{name} is not in the state_dict: register it without persistent=False.")
    for name in ("weight", "bias"):
        if name not in parameters:
            raise CheckFailed(
                f"there is no parameter {name}: self.{name} = nn.Parameter(…), one per channel."
            )
        if not parameters[name].requires_grad:
            raise CheckFailed(f"{name} is not learned: leave its requires_grad as nn.Parameter sets it.")
    extra = [name for name in parameters if name not in ("weight", "bias")]
    if extra:
        raise CheckFailed(f"{extra[0]} is one parameter too many: only weight and bias are learned.")
    first = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in first.items():
        tensor = getattr(module, name).detach()
        if tensor.shape != (channels,):
            raise CheckFailed(
                f"{name} has shape {tuple(tensor.shape)}: keep one number for each channel, ({channels},), "
                "and reshape it to (1, C, 1, 1) in forward."
            )
        others = tensor[tensor != value]
        if len(others):
            raise CheckFailed(
                f"{name} must start as {value:g} in every channel, and one of them starts as {others[0]:g}."
            )
    return module


def _run_norm(
    module: nn.Module,
    right: nn.BatchNorm2d,
    x: Tensor,
    training: bool,
    gradients: str,
    step: int,
    begun: bool,
    calls: Operations,
) -> None:
    """Compare one forward pass in one mode: output, gradients and running statistics.

    Args:
        module: the reader's.
        right: PyTorch's, in the same state.
        x: the batch.
        training: the mode.
        gradients: one of ``_GRADIENTS``.
        step: number of the training batch.
        begun: whether something of the reader's has run already.
        calls: notes what the reader's forward calls.

    Raises:
        CheckFailed: if anything differs.
    """
    mode = "training" if training else "evaluation"
    usual = gradients == "as usual"
    how = "" if usual else f" ({gradients})"
    describe = f"In {mode} mode{how}, on x {tuple(x.shape)}, forward"
    module.train(training)
    right.train(training)
    state = {name: value.clone() for name, value in right.state_dict().items()}
    given_x, right_x = (x.clone().requires_grad_(gradients != "x needs none") for _ in range(2))
    with torch.set_grad_enabled(gradients != "under torch.no_grad()"):
        with calls:
            given = call_reader(module, given_x, describe=describe, begun=begun)
        expected = right(right_x)
    if given is None:
        raise CheckFailed(f"{describe} gives None: does it end with `return`?")
    if not isinstance(given, Tensor):
        raise CheckFailed(f"{describe} gives {type(given).__name__}: return a tensor.")
    if not torch.equal(given_x.detach(), x):
        raise CheckFailed(f"{describe} changes x itself: compute a new tensor.")
    if given_x.requires_grad != right_x.requires_grad:
        raise CheckFailed(f"{describe} changes whether x needs a gradient: leave x as it is.")
    if given.shape != expected.shape:
        raise CheckFailed(
            f"{describe} gives the shape {tuple(given.shape)}, and x has {tuple(x.shape)}. Reshape what has "
            "one number per channel to (1, C, 1, 1), or take the mean with keepdim=True."
        )
    if given.dtype != x.dtype:
        raise CheckFailed(f"{describe} gives {given.dtype}, and x is {x.dtype}: keep the dtype of x.")
    if not _same(given.detach(), expected.detach()):
        for mistaken, message in _norm_mistakes(x, state, training):
            if _same(given.detach(), mistaken):
                raise CheckFailed(f"{describe} is wrong: {message}")
        if _close(given, expected.detach()):
            raise CheckFailed(
                f"{describe} is right to a few digits only: x is {x.dtype} here. Compute in x's own dtype, "
                "without .float()."
            )
        what = "the batch's mean and biased variance" if training else "the running mean and variance"
        raise CheckFailed(
            f"{describe} is wrong: (x − mean) / √(variance + eps) · weight + bias, with {what}."
        )
    for name in _STATISTICS:
        statistic = getattr(module, name)
        if not isinstance(statistic, Tensor) or statistic.shape != state[name].shape:
            raise CheckFailed(
                f"after a batch, {name} is no longer one number for each channel: keep its shape."
            )
        if statistic.requires_grad:
            raise CheckFailed(
                f"{name} remembers how it was computed, and would keep every batch in memory: update it "
                "under torch.no_grad(), or with .detach()."
            )
        if not _same(statistic, getattr(right, name)):
            if not training:
                raise CheckFailed(f"{name} moves in evaluation mode: only training batches count.")
            if not usual and _same(statistic, state[name]):
                raise CheckFailed(
                    f"In {mode} mode{how} {name} does not move: every batch in training mode counts, whether "
                    "gradients are computed or not. Ask self.training, and nothing else."
                )
            problem = _statistics_problem(name, statistic, state[name], x, given.detach(), step)
            raise CheckFailed(f"The output is right, but {name} is not: {problem}")
    if problem := _leftover(module, training):
        raise CheckFailed(f"In {mode} mode the output is right, but {problem}")
    if not usual:
        return
    generator = torch.Generator().manual_seed(step)
    slope = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    names = ("x", "weight", "bias")
    inputs = given_x, module.weight, module.bias
    differentiate = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
    describe = f"In {mode} mode the output is right, but backpropagation"
    ours = (
        call_reader(differentiate, given, inputs, slope, describe=describe, begun=True)
        if given.requires_grad
        else (None,) * 3
    )
    theirs = torch.autograd.grad(expected, (right_x, right.weight, right.bias), slope)
    for name, mine, gradient in zip(names, ours, theirs, strict=True):
        if mine is None or not _same(mine, gradient):
            hint = "Mean and variance of the batch depend on x: do not detach them."
            if name != "x" or not training:
                hint = "Compute with x, weight and bias themselves, without .data, .detach() or no_grad."
            raise CheckFailed(
                f"In {mode} mode the output is right, but the gradient in {name} is not. {hint}"
            )


@exercise
def batch_norm(solution: Callable[[int], nn.Module]) -> str:
    """Check a batch normalization, ``solution(num_channels)``, against ``nn.BatchNorm2d``.

    It keeps PyTorch's names: parameters ``weight`` and ``bias``, buffers ``running_mean`` and
    ``running_var``.

    Raises:
        CheckFailed: if outputs, gradients or running statistics differ in either mode.
    """
    generator = torch.Generator().manual_seed(0)
    calls = Operations()
    usual, none_in_x, no_grad = _GRADIENTS
    passes = (
        (True, usual),
        (True, usual),
        (False, usual),
        (True, no_grad),
        (True, none_in_x),
        (False, usual),
        (False, no_grad),
    )
    # The last in float32, as networks compute, and with a single channel.
    cases = (((4, 3, 2, 2), torch.float64), ((2, 5, 3, 1), torch.float64), ((3, 1, 2, 2), torch.float32))
    with torch.enable_grad():
        for i, (shape, dtype) in enumerate(cases):
            channels = shape[1]
            module = _new_norm(solution, channels, begun=i > 0).to(dtype)
            right = nn.BatchNorm2d(channels).to(dtype)

            def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
                return torch.randn(*shape, generator=generator, dtype=dtype)

            with torch.no_grad():
                for name in ("weight", "bias"):
                    values = random(channels)
                    getattr(module, name).copy_(values)
                    getattr(right, name).copy_(values)
            step = 0
            for training, gradients in passes:
                step += training
                # Channels far from mean 0 and variance 1; one so small that eps matters.
                spread = torch.logspace(-2.5, 1, channels, dtype=dtype)
                offset = torch.linspace(-2, 3, channels, dtype=dtype) * spread
                x = random(*shape) * _per_channel(spread) + _per_channel(offset)
                begun = i > 0 or step > 1 or not training
                _run_norm(module, right, x, training, gradients, step, begun, calls)
            # As after loading a saved network: what forward reads is what the buffers hold.
            for name, values in (
                ("running_mean", random(channels)),
                ("running_var", random(channels) ** 2 + 1),
            ):
                for each in (module, right):
                    getattr(each, name).copy_(values)
            describe = "In evaluation mode, after the buffers have got other values, forward"
            x = random(*shape)
            given = call_reader(module.eval(), x, describe=describe, begun=True)
            if not _same(given.detach(), right.eval()(x).detach()):
                raise CheckFailed(
                    f"{describe} does not use them: a loaded network would be evaluated with old statistics. "
                    "Read self.running_mean and self.running_var anew in each forward."
                )
    if name := calls.like("batch_norm", "instance_norm", "group_norm", "layer_norm"):
        raise CheckFailed(
            f"The numbers are right, but forward calls PyTorch's own {name}: compute mean and variance, and "
            "normalize with them, yourself."
        )
    return (
        "outputs, gradients and running statistics are those of nn.BatchNorm2d, in training and in "
        "evaluation mode, also where no gradients are computed."
    )
