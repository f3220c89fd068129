"""What every check needs: the failure, the frame around a check, calling the reader's code, numbers."""

import functools
import math
import traceback
from collections.abc import Callable
from decimal import Decimal
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn


class CheckFailed(AssertionError):
    """The reader's solution is not right yet; the message names the mistake and a next step."""


def exercise(check: Callable[[Callable], str]) -> Callable[[Callable], None]:
    """Let a check, which returns what it has compared, say "Right", or that nothing is there yet."""

    @functools.wraps(check)
    def run(solution: Callable) -> None:
        if isinstance(solution, nn.Module) or not callable(solution):
            built = isinstance(solution, nn.Module)
            what = f"a {type(solution).__name__} that is already built" if built else repr(solution)
            raise CheckFailed(
                f"The check got {what}: give it your function or class by its name, without parentheses ()."
            )
        try:
            with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers stay as they were
                compared = check(solution)
        except NotImplementedError as error:
            if _raised_in(error, "torch", "resnetbook"):
                raise CheckFailed(f"What your solution gives cannot be compared: {error}") from error
            # Not an error: a notebook whose exercises are untouched still runs to its end.
            print("Not done yet: replace `raise NotImplementedError`, then run this again.")
        else:
            print(f"Right: {compared}")

    return run


def _raised_in(error: Exception, *packages: str) -> bool:
    """Whether code of these packages raised it: torch does so where an nn.ModuleList is called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in packages


def call_reader(solution: Callable, *arguments: object, describe: str, begun: bool = False) -> object:
    """What the reader's code returns; its errors become a :class:`CheckFailed` that quotes them.

    Raises:
        NotImplementedError: the reader's own, unless something else has been ``begun`` already.
    """
    try:
        return solution(*arguments)
    except CheckFailed:
        raise
    except Exception as error:  # whatever it is, it is the reader's, and the message must say where
        said = f"{describe} raises {type(error).__name__}: {error}"
        if isinstance(error, NotImplementedError) and not _raised_in(error, "torch"):
            if not begun:
                raise
            said = f"{said.removesuffix(': ')}. This case is still to be done."
        raise CheckFailed(said) from error


def answer_of(solution: Callable, *arguments: object, describe: str, begun: bool = False) -> object:
    """What the reader's function returns, as :func:`call_reader` does; ``None`` is refused."""
    answer = call_reader(solution, *arguments, describe=describe, begun=begun)
    if answer is None:
        raise CheckFailed(f"{describe} gives None: does the function end with `return`?")
    return answer


def as_number(value: object) -> int | float | Real | None:
    """The one rule for what a number is, whatever kind it has; ``None`` for all else.

    Numbers are int, float, Fraction and Decimal, those of numpy, and a tensor or an array with a single
    element. ``True`` and ``False`` are none, of whatever kind, nor are complex numbers and text.
    """
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and value.device.type != "meta" else None
    elif isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else None
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        return value
    return None


def as_whole(value: object, said: str) -> int:
    """A whole number of whatever kind: 5.0 is one, 5.5 is not.

    Args:
        value: what the reader gives.
        said: how a complaint begins, such as ``f"{call} gives {value!r}"``.

    Raises:
        CheckFailed: if it is none.
    """
    number = as_number(value)
    if number is None:
        raise CheckFailed(f"{said}, which is no whole number: return one number.")
    if not math.isfinite(number):
        raise CheckFailed(f"{said}, which is no whole number: is something divided by zero?")
    if number != int(number):
        raise CheckFailed(f"{said}, which is no whole number: divide with //.")
    return int(number)


HANDS_OFF = (
    "which the caller may still need: work on a copy, and let no -=, pop(), sort() or method whose name ends "
    "in _ touch what came in."
)


def as_real(value: object, complaint: str) -> float:
    """One number, of whatever kind (:func:`as_number`).

    Raises:
        CheckFailed: if it is none; ``complaint`` may quote it as ``{value!r}``.
    """
    number = as_number(value)
    if number is None:
        raise CheckFailed(complaint.format(value=value))
    return float(number)
