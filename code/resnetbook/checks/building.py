"""The reader's block, built: what every check of a block does first."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from resnetbook.checks.common import CheckFailed, call_reader
from resnetbook.checks.tracing import hidden_method


@dataclass(frozen=True)
class BlockCase:
    """One block to build, and the height and width of the maps to feed it with."""

    in_channels: int
    out_channels: int
    stride: int = 1
    size: tuple[int, int] = (6, 6)

    def __str__(self) -> str:
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}, stride={self.stride}"

    @property
    def batch_size(self) -> int:
        return 2 + self.in_channels % 3  # not always the same

    @property
    def changes_shape(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Channels, height and width; sizes are rounded up."""
        return (self.out_channels, *(-(-n // self.stride) for n in self.size))


def _build(cls: Callable[..., object], case: BlockCase) -> object:
    """What the reader's class makes in a case, whatever the names of its arguments are."""
    shape = (case.in_channels, case.out_channels)
    options = {} if case.stride == 1 else {"stride": case.stride}  # stride=1 is the default
    ways = (
        functools.partial(cls, *shape, **options),
        functools.partial(cls, *shape, *options.values()),
        functools.partial(cls, in_channels=shape[0], out_channels=shape[1], **options),
    )
    failures = []
    for way in ways:
        try:
            return call_reader(way, describe=f"Building the block ({case})")
        except CheckFailed as failed:
            failures.append(failed)
            if not isinstance(failed.__cause__, TypeError) or "argument" not in str(failed.__cause__):
                raise
    raise failures[0]


def new_block(cls: Callable[..., nn.Module], case: BlockCase) -> nn.Module:
    """The reader's block for a case.

    Raises:
        CheckFailed: if there is none; the message says why.
    """
    try:
        block, other = _build(cls, case), _build(cls, case)
    except CheckFailed as failed:
        error = failed.__cause__
        advice = ""
        if isinstance(error, TypeError) and "argument" in str(error):
            advice = " The constructor must accept (in_channels, out_channels, stride=1)."
        elif "before Module.__init__()" in str(error):
            advice = " Call super().__init__() first of all."
        raise CheckFailed(f"{failed}.{advice}") from error
    if not isinstance(block, nn.Module):
        raise CheckFailed(
            f"Building the block gives {type(block).__name__}; derive your class from nn.Module."
        )
    if type(block).forward is nn.Module.forward:
        raise CheckFailed("Your class has no method forward(self, x): check its name and its indentation.")
    if problem := hidden_method(block):
        raise CheckFailed(problem)
    if {id(p) for p in block.parameters()} & {id(p) for p in other.parameters()}:
        raise CheckFailed(f"With {case}: two blocks share a layer; create it in __init__.")
    return block
