"""The exercises of chapter 4: the counts of a block, both residual blocks, ResNet-34."""

import bisect
import functools

import torch
from torch import nn

from resnetbook import blocks, probes
from resnetbook.checks.common import as_number
from resnetbook.checks.exercise import Exercise, Outcome

# Whoever has the modules counted is right, and has not done what was asked.
_BY_MODULES = {
    "*Conv2d": "But your function builds {used} and counts what is there: the exercise is to write the "
    "formula, without PyTorch."
}
_ADD_AGAIN = "Write down each layer with its numbers, and add them up again."

# When there is a projection: mistaken conditions, for both counts.
_CONDITIONS = """
stride != 1 or in_channels -> in_channels
    The projection is missing where there is a stride and the channels stay.
stride != 1 or in_channels != out_channels -> stride != 1
    The projection is missing where the channels change at stride 1.
!= 1 or -> != 1 and
    A stride or new channels need a projection: write or, not and.
stride != 1 or -> stride == 2 or
    The projection is missing where the stride is neither 1 nor 2.
"""


# ---- parameters

basic_parameters = Exercise(
    number="4.1",
    title="The parameters of a basic block",
    minutes=10,
    level="easy",
    answer="""\
def basic_parameters(
    in_channels: int, out_channels: int, stride: int = 1
) -> int:
    weights = 9 * in_channels * out_channels + 9 * out_channels * out_channels
    norms = 2 * (2 * out_channels)
    projection = 0
    if stride != 1 or in_channels != out_channels:
        projection = in_channels * out_channels + 2 * out_channels
    return weights + norms + projection
""",
    cases=((64, 64, 1), (64, 128, 2), (128, 128, 2), (8, 16, 1), (5, 5, 3)),
    trusted=lambda *case: probes.count_parameters(blocks.BasicBlock(*case)),
    slips="""
2 * (2 * out_channels) -> 0
+ 2 * out_channels⏎ -> ⏎
    The batch norms are missing: a scale and a shift for each channel.
2 * (2 * out_channels) -> 0
projection = in_channels -> projection = 0 * in_channels
+ 2 * out_channels⏎ -> ⏎
    The batch norms are missing, and the projection where the shape changes.
2 * (2 * out_channels) -> 2 * out_channels
+ 2 * out_channels⏎ -> + out_channels⏎
    A batch norm learns two numbers for each channel, a scale and a shift; and no convolution here has a
    bias, which would be one number for each channel.
2 * (2 * out_channels) -> 2 * (4 * out_channels)
+ 2 * out_channels⏎ -> + 4 * out_channels⏎
    Running statistics are not learned, so they are no parameters.
2 * (2 * out_channels) -> 2 * (3 * out_channels)
or
2 * (2 * out_channels) -> 2 * (3 * out_channels)
+ 2 * out_channels⏎ -> + 3 * out_channels⏎
    These convolutions have no bias: batch norm would subtract it again.
2 * (2 * out_channels) -> 2 * (3 * out_channels)
+ 2 * out_channels⏎ -> + out_channels⏎
    That is the block of chapter 5: its convolutions have biases, and its projection has no norm.
+ 2 * out_channels⏎ -> + out_channels⏎
    The projection has a batch norm, of two numbers for each channel, and no bias.
+ 2 * out_channels⏎ -> ⏎
    The projection has a batch norm as well.
if stride != 1 or in_channels != out_channels -> if False
    Where the shape changes there is a projection, with its norm.
if stride != 1 or in_channels != out_channels -> if True
    Where the shape stays, the shortcut has no parameters.
9 * in_channels * out_channels -> 9 * out_channels * out_channels
    The first convolution reads in_channels, not out_channels.
9 * out_channels * out_channels -> 9 * in_channels * out_channels
    The second convolution reads what the first one put out: out_channels.
9 * -> 3 *
    A 3×3 filter has nine weights for each input channel.
"""
    + _CONDITIONS,
    otherwise=_ADD_AGAIN,
    right="the counts are the module's in 5 cases, with and without a projection.",
    remarked=_BY_MODULES,
)


# ---- equal cost

_WIDTHS = (64, 128, 1, 7, 512, 1000)


def _weights(block: type[nn.Module], channels: int) -> int:
    with torch.device("meta"):  # shapes without numbers
        layers = block(channels, channels).modules()
        return sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))


@functools.cache
def _widest(width: int) -> int:
    """Searched among the real blocks, whose weights grow with their channels."""
    places = range(4, 8 * width, 4)
    budget = _weights(blocks.BasicBlock, width)
    return 4 * bisect.bisect_right(places, budget, key=lambda n: _weights(blocks.Bottleneck, n))


def _what_it_costs(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What the first wrong bottleneck would cost, next to what may be spent."""
    if part != "result":
        return None
    for width, mine, theirs in zip(_WIDTHS, given, right, strict=False):
        channels = as_number(mine["result"])
        if channels is None or channels != int(channels):
            return None  # said without this
        if channels == theirs["result"]:
            continue
        if channels < 4 or channels % 4:
            return "out_channels is a multiple of 4, from 4 up."
        inside, budget = int(channels) // 4, 18 * width**2
        cost, more = 17 * inside**2, 17 * (inside + 1) ** 2
        if cost > budget:
            return (
                f"that bottleneck has {cost:,} weights, two 3×3 at width {width} only {budget:,}. Round "
                "down, to a multiple of 4."
            )
        return f"{channels + 4:,} channels still fit: {more:,} of {budget:,} weights."
    return None


equal_cost_channels = Exercise(
    number="4.4",
    title="Width for the same price",
    minutes=15,
    level="medium",
    answer="""\
import math


def equal_cost_channels(width: int) -> int:
    inside = math.isqrt(18 * width * width // 17)
    return 4 * inside
""",
    cases=[(width,) for width in _WIDTHS],
    trusted=_widest,
    slips="""
4 * inside -> 4 * width
    near, and the paper's choice, but a little more fits.
return 4 * inside -> return inside
    that is the width inside, which puts out four times as many channels.
18 * width -> 9 * width
    there are two 3×3 convolutions to pay for.
""",
    explain=_what_it_costs,
    right=f"for the widths {', '.join(map(str, _WIDTHS))}, no wider bottleneck fits.",
)


# ---- multiply-adds


def _real_macs(in_channels: int, out_channels: int, stride: int, side: int, stride_on: str) -> int:
    with torch.device("meta"):
        block = blocks.Bottleneck(in_channels, out_channels, stride, stride_on=stride_on)
        return probes.count_macs(block, (in_channels, side, side))


bottleneck_macs = Exercise(
    number="4.6",
    title="The work of a bottleneck",
    minutes=15,
    level="medium",
    answer="""\
def bottleneck_macs(
    in_channels: int, out_channels: int, stride: int, side: int, stride_on: str
) -> int:
    width = out_channels // 4
    small = -(-side // stride)
    after_first = small if stride_on == "1x1" else side
    macs = in_channels * width * after_first**2  # reduce
    macs += 9 * width * width * small**2  # work
    macs += width * out_channels * small**2  # restore
    if stride != 1 or in_channels != out_channels:
        macs += in_channels * out_channels * small**2  # projection
    return macs
""",
    cases=(
        (256, 256, 1, 56, "3x3"),
        (256, 512, 2, 56, "3x3"),
        (256, 512, 2, 56, "1x1"),
        (64, 256, 1, 56, "1x1"),
        (16, 32, 2, 7, "3x3"),
        (16, 32, 2, 7, "1x1"),
        (32, 32, 2, 9, "3x3"),
        (48, 48, 3, 8, "3x3"),
        (48, 96, 3, 8, "1x1"),
    ),
    trusted=_real_macs,
    slips="""
-(-side // stride) -> side
    Layers from the stride on work on the small map: count output positions.
small if stride_on == "1x1" else side -> small
    With the stride on the 3×3, the first 1×1 still sees every position of the large map.
small if stride_on == "1x1" else side -> side
    With the stride on the 1×1, it already puts out the small map: count output positions.
stride_on == "1x1" -> stride_on == "3x3"
    You have swapped the two places of the stride.
-(-side // stride) -> side // stride
    An odd side is rounded up: 7 becomes 4 at stride 2.
-(-side // stride) -> -(-side // min(stride, 2))
    Divide by the stride, which is not always 2.
if stride != 1 or in_channels != out_channels -> if False
    The projection works too, where the shape changes.
if stride != 1 or in_channels != out_channels -> if True
    Where the shape stays there is no projection.
small**2  # projection -> side**2
    The projection has the block's stride: it works on the small map.
width = out_channels // 4 -> width = in_channels // 4
    The width inside is a quarter of out_channels, whatever comes in.
width = out_channels // 4 -> width = out_channels
    The 3×3 works at a quarter of out_channels: out_channels // 4.
9 * width -> 3 * width
    A 3×3 filter has nine weights for each input channel.
return macs -> return 2 * macs
    One MAC is a multiplication and an addition together.
"""
    + _CONDITIONS,
    otherwise=_ADD_AGAIN,
    right="the counts are the modules' in 9 cases, for both places of the stride and odd sides.",
    remarked=_BY_MODULES,
)
