"""Sizes, parameters and multiply-adds, next to those of the real modules."""

import functools
from collections.abc import Callable

import torch

from resnetbook import blocks, probes
from resnetbook.checks.common import (
    CheckFailed,
    call_for_count,
    compare_counts,
    exercise,
)
from resnetbook.checks.tracing import tell_layers

# Mistaken rules for when there is a projection, in every count.
_RULES = {
    "stride": "The projection is missing where the channels change at stride 1.",
    "channels": "The projection is missing where there is a stride and the channels stay.",
    "both": "A stride or new channels need a projection: write or, not and.",
    "stride 2": "The projection is missing where the stride is neither 1 nor 2.",
}


def _but(used: set[str]) -> str:
    if not used:
        return ""
    return (
        f" But your function builds {', '.join(sorted(used))} and counts what is there: the exercise is to "
        f"write the formula, without PyTorch."
    )


def _projects(rule: str, c_in: int, c_out: int, stride: int) -> bool:
    """Whether a block has a projection, by the right rule, "where", or by a mistaken one."""
    return {
        "where": stride != 1 or c_in != c_out,
        "stride": stride != 1,
        "channels": c_in != c_out,
        "both": stride != 1 and c_in != c_out,
        "stride 2": stride == 2 or c_in != c_out,
        "always": True,
        "never": False,
    }[rule]


def _basic_formula(
    c_in: int,
    c_out: int,
    stride: int = 1,
    *,
    extra: int = 2,
    projection_extra: int | None = None,
    projection: str = "where",
    kernel: int = 9,
) -> int:
    """Parameters of a basic block; the options make the mistakes that are named below.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: of the block.
        extra: numbers for each output channel of a layer beside its weights: 2 in a norm, 1 in a bias.
        projection_extra: the same for the projection; default: ``extra``.
        projection: the rule when there is one.
        kernel: weights of a 3×3 filter for each input channel.
    """
    count = (kernel * c_in + extra) * c_out + (kernel * c_out + extra) * c_out
    if _projects(projection, c_in, c_out, stride):
        count += (c_in + (extra if projection_extra is None else projection_extra)) * c_out
    return count


@exercise
def basic_parameters(solution: Callable[[int, int, int], int]) -> str:
    """Check ``basic_parameters(in_channels, out_channels, stride)``: all parameters of a basic block.

    Raises:
        CheckFailed: if a count is not that of :class:`resnetbook.blocks.BasicBlock`.
    """
    cases = ((64, 64, 1), (64, 128, 2), (128, 128, 2), (8, 16, 1), (5, 5, 3))
    formula = functools.partial
    used: set[str] = set()
    compare_counts(
        tell_layers(solution, used),
        "basic_parameters",
        cases,
        lambda *case: probes.count_parameters(blocks.BasicBlock(*case)),
        (
            (
                formula(_basic_formula, extra=0),
                "The batch norms are missing: a scale and a shift for each channel.",
            ),
            (
                formula(_basic_formula, extra=1),
                "A batch norm learns two numbers for each channel, a scale and a shift; and no convolution "
                "here has a bias, which would be one number for each channel.",
            ),
            (
                formula(_basic_formula, extra=4),
                "Running statistics are not learned, so they are no parameters.",
            ),
            (
                formula(_basic_formula, extra=3),
                "These convolutions have no bias: batch norm would subtract it again.",
            ),
            (
                formula(_basic_formula, extra=3, projection_extra=1),
                "That is the block of chapter 5: its convolutions have biases, and its projection has no "
                "norm.",
            ),
            (
                formula(_basic_formula, extra=3, projection_extra=2),
                "These convolutions have no bias: batch norm would subtract it again.",
            ),
            (
                formula(_basic_formula, projection_extra=1),
                "The projection has a batch norm, of two numbers for each channel, and no bias.",
            ),
            (
                formula(_basic_formula, projection="never"),
                "Where the shape changes there is a projection, with its norm.",
            ),
            (
                formula(_basic_formula, projection="always"),
                "Where the shape stays, the shortcut has no parameters.",
            ),
            (
                formula(_basic_formula, extra=0, projection="never"),
                "The batch norms are missing, and the projection where the shape changes.",
            ),
            *((formula(_basic_formula, projection=rule), message) for rule, message in _RULES.items()),
            (
                formula(_basic_formula, projection_extra=0),
                "The projection has a batch norm as well.",
            ),
            (
                lambda i, o, s=1: _basic_formula(i, o, s) - 9 * i * o + 9 * o * o,
                "The first convolution reads in_channels, not out_channels.",
            ),
            (
                lambda i, o, s=1: _basic_formula(i, o, s) - 9 * o * o + 9 * i * o,
                "The second convolution reads what the first one put out: out_channels.",
            ),
            (formula(_basic_formula, kernel=3), "A 3×3 filter has nine weights for each input channel."),
        ),
    )
    return f"the counts are the module's in {len(cases)} cases, with and without a projection.{_but(used)}"


@exercise
def equal_cost_channels(solution: Callable[[int], int]) -> str:
    """Check ``equal_cost_channels(width)``: the widest bottleneck for the price of two 3×3 convolutions.

    Raises:
        CheckFailed: if an answer is not a multiple of 4, too dear, or smaller than it could be.
    """
    widths = (64, 128, 1, 7, 512, 1000)
    for i, width in enumerate(widths):
        call = f"equal_cost_channels({width})"
        channels = call_for_count(solution, call, width, begun=i > 0)
        if channels < 4 or channels % 4:
            raise CheckFailed(f"{call} gives {channels}: out_channels is a multiple of 4, from 4 up.")
        if channels == 4 * width and width > 63:
            raise CheckFailed(
                f"{call} gives {channels}: near, and the paper's choice, but a little more fits."
            )
        # With w channels inside: 4w · w and w · 4w in the 1×1, 9 · w · w in the 3×3.
        budget, cost, next_cost = 18 * width**2, 17 * (channels // 4) ** 2, 17 * (channels // 4 + 1) ** 2
        if cost > budget:
            raise CheckFailed(
                f"{call} gives {channels}: that bottleneck has {cost:,} weights, two 3×3 at width {width} "
                f"only {budget:,}. Round down, to a multiple of 4."
            )
        if next_cost <= budget:
            raise CheckFailed(
                f"{call} gives {channels}, but {channels + 4} channels still fit: {next_cost:,} of "
                f"{budget:,} weights."
            )
    return f"for the widths {', '.join(map(str, widths))}, no wider bottleneck fits."


def _bottleneck_macs(
    c_in: int,
    c_out: int,
    stride: int,
    side: int,
    stride_on: str,
    *,
    projection: str = "where",
    sizes: str = "right",
    projection_sees: str = "small",
    width_of: str = "out // 4",
    round_down: bool = False,
    factor: int = 1,
) -> int:
    """Multiply-adds of a bottleneck; the options make the mistakes that are named below."""
    width = {"out // 4": c_out // 4, "in // 4": c_in // 4, "out": c_out}[width_of]
    small = side // stride if round_down else -(-side // stride)
    first = small if stride_on == "1x1" else side
    if sizes == "input":
        first = small = side
    elif sizes == "output":
        first = small
    elif sizes == "swapped":
        first = side if stride_on == "1x1" else small
    count = c_in * width * first**2 + 9 * width**2 * small**2 + width * c_out * small**2
    if _projects(projection, c_in, c_out, stride):
        count += c_in * c_out * (small if projection_sees == "small" else side) ** 2
    return factor * count


@exercise
def bottleneck_macs(solution: Callable[[int, int, int, int, str], int]) -> str:
    """Check ``bottleneck_macs(in_channels, out_channels, stride, side, stride_on)`` for square maps.

    Raises:
        CheckFailed: if a count is not that of the module.
    """
    cases = (
        (256, 256, 1, 56, "3x3"),
        (256, 512, 2, 56, "3x3"),
        (256, 512, 2, 56, "1x1"),
        (64, 256, 1, 56, "1x1"),
        (16, 32, 2, 7, "3x3"),
        (16, 32, 2, 7, "1x1"),
        (32, 32, 2, 9, "3x3"),
        (48, 48, 3, 8, "3x3"),
        (48, 96, 3, 8, "1x1"),
    )

    def trusted(c_in: int, c_out: int, stride: int, side: int, stride_on: str) -> int:
        with torch.device("meta"):
            block = blocks.Bottleneck(c_in, c_out, stride, stride_on=stride_on)
            return probes.count_macs(block, (c_in, side, side))

    formula = functools.partial
    used: set[str] = set()
    compare_counts(
        tell_layers(solution, used),
        "bottleneck_macs",
        cases,
        trusted,
        (
            (
                formula(_bottleneck_macs, sizes="input"),
                "Layers from the stride on work on the small map: count output positions.",
            ),
            (
                formula(_bottleneck_macs, sizes="output"),
                "With the stride on the 3×3, the first 1×1 still sees every position of the large map.",
            ),
            (formula(_bottleneck_macs, sizes="swapped"), "You have swapped the two places of the stride."),
            (
                formula(_bottleneck_macs, projection="never"),
                "The projection works too, where the shape changes.",
            ),
            (formula(_bottleneck_macs, projection="always"), "Where the shape stays there is no projection."),
            (
                formula(_bottleneck_macs, round_down=True),
                "An odd side is rounded up: 7 becomes 4 at stride 2.",
            ),
            *((formula(_bottleneck_macs, projection=rule), message) for rule, message in _RULES.items()),
            (
                formula(_bottleneck_macs, projection_sees="large"),
                "The projection has the block's stride: it works on the small map.",
            ),
            (
                formula(_bottleneck_macs, width_of="in // 4"),
                "The width inside is a quarter of out_channels, whatever comes in.",
            ),
            (
                formula(_bottleneck_macs, width_of="out"),
                "The 3×3 works at a quarter of out_channels: out_channels // 4.",
            ),
            (
                lambda i, o, s, side, on: _bottleneck_macs(i, o, min(s, 2), side, on),
                "Divide by the stride, which is not always 2.",
            ),
            (formula(_bottleneck_macs, factor=2), "One MAC is a multiplication and an addition together."),
        ),
    )
    return (
        f"the counts are the modules' in {len(cases)} cases, for both places of the stride and odd "
        f"sides.{_but(used)}"
    )
