"""What every check needs: the failure, the frame around a check, calling the reader's code."""

import copy
import functools
import math
import operator
import traceback
from collections.abc import Callable
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


def call_for_count(solution: Callable, call: str, *arguments: object, begun: bool) -> int:
    """The whole number that the reader's code returns; also one of numpy or torch."""
    answer = answer_of(solution, *arguments, describe=call, begun=begun)
    try:
        if not isinstance(answer, bool):
            return operator.index(answer)
    except TypeError:
        pass
    hint = ": divide with //." if isinstance(answer, Real) and not isinstance(answer, bool) else "."
    raise CheckFailed(f"{call} gives {answer!r}, which is no whole number{hint}")


def compare_counts(
    solution: Callable[..., int],
    name: str,
    cases: tuple[tuple, ...],
    trusted: Callable[..., int],
    mistakes: tuple[tuple[Callable[..., int], str], ...],
    otherwise: str = "Write down each layer with its numbers, and add them up again.",
) -> None:
    """Compare whole numbers in every case; a mistake is named if it gives the reader's numbers in all.

    ``otherwise`` is the next step for a mistake that none of them is.

    Raises:
        CheckFailed: if a number differs.
    """
    given = [call_for_count(solution, f"{name}{case}", *case, begun=i > 0) for i, case in enumerate(cases)]
    right = [trusted(*case) for case in cases]
    for case, answer, count in zip(cases, given, right, strict=True):
        if answer != count:
            said = f"{name}{case} gives {answer:,}, and it is {count:,}. "
            for mistake, message in mistakes:
                if given == [mistake(*c) for c in cases]:
                    raise CheckFailed(said + message)
            raise CheckFailed(said + otherwise)


def near(first: float, second: float) -> bool:
    """Whether two numbers differ by no more than the rounding of float32 over a few steps."""
    return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-12)


def as_real(value: object, complaint: str) -> float:
    """One number, also one of numpy or torch.

    Raises:
        CheckFailed: if it is none; ``complaint`` may quote it as ``{value!r}``.
    """
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise CheckFailed(complaint.format(value=value))
    return float(value)


def call_for_real(solution: Callable[..., float], call: str, *arguments: object, begun: bool) -> float:
    """The number that the reader's code returns; also one of numpy or torch."""
    answer = answer_of(solution, *arguments, describe=call, begun=begun)
    return as_real(answer, f"{call} gives {{value!r}}: return one number.")


def compare_reals(
    solution: Callable[..., float],
    name: str,
    cases: tuple[tuple, ...],
    trusted: Callable[..., float],
    mistakes: tuple[tuple[Callable[..., float], str], ...],
    otherwise: str,
) -> None:
    """Compare numbers in every case; a mistake is named if it gives the reader's numbers in all.

    ``otherwise`` is the next step for a mistake that none of them is.

    Raises:
        CheckFailed: if a number differs.
    """

    def shown(argument: list[float] | float) -> str:
        if not isinstance(argument, list):
            return f"{argument:_}"
        return f"[{len(argument)} weights]" if len(argument) > 4 else repr(argument)

    calls = [f"{name}({', '.join(map(shown, case))})" for case in cases]
    # Copies, because a reader may empty or turn round a list.
    given = [
        call_for_real(solution, call, *copy.deepcopy(case), begun=i > 0)
        for i, (call, case) in enumerate(zip(calls, cases, strict=True))
    ]
    for call, case, answer in zip(calls, cases, given, strict=True):
        right = trusted(*case)
        if near(answer, right):
            continue
        known = (
            message
            for mistake, message in mistakes
            if all(near(a, mistake(*c)) for a, c in zip(given, cases, strict=True))
        )
        raise CheckFailed(f"{call} gives {answer:.6g}, and it is {right:.6g}. {next(known, otherwise)}")
