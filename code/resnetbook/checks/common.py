"""What every check needs: the failure, the frame around a check, calling the reader's code."""

import copy
import functools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


def call_for_count(solution: Callable, call: str, *arguments: object, begun: bool) -> int:
    """The whole number that the reader's code returns, of whatever kind."""
    answer = answer_of(solution, *arguments, describe=call, begun=begun)
    return as_whole(answer, f"{call} gives {answer!r}")


# ---- the caller's own things

HANDS_OFF = (
    "which the caller may still need: work on a copy, and let no -=, pop(), sort() or method whose name ends "
    "in _ touch what came in."
)


def snapshot(value: object) -> object:
    """What an argument holds, for :func:`spoiled`; of an iterator nothing can be seen."""
    if isinstance(value, Tensor):
        numbers = None if value.device.type == "meta" else value.detach().clone()
        return (Tensor, tuple(value.shape), value.dtype, value.requires_grad, numbers)
    if isinstance(value, np.ndarray):
        return (np.ndarray, value.shape, value.dtype, value.copy())
    if isinstance(value, nn.Module):
        state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        modes = [module.training for module in value.modules()]
        return (nn.Module, snapshot({name: tensor.detach() for name, tensor in state.items()}), modes)
    if isinstance(value, Mapping):
        return (dict, [(key, snapshot(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (list, [snapshot(item) for item in value])
    return value


def _equal(first: object, second: object) -> bool:
    """Whether two snapshots hold the same; nan equals itself here."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        exact = first.shape == second.shape and first.dtype == second.dtype
        return exact and bool(((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and bool(
            ((first == second) | ((first != first) & (second != second))).all()
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first is second or type(first) is type(second) and bool(first == second)


def spoiled(before: object, now: object) -> bool:
    """Whether an argument holds something else than it did ``before``, which :func:`snapshot` noted."""
    return not _equal(before, snapshot(now))


@contextmanager
def kept(call: str, **arguments: object) -> Iterator[None]:
    """See that what runs inside leaves its arguments as they were.

    Lists, tuples, dictionaries, tensors and arrays are compared by what they hold, modules by their
    parameters, buffers and modes. Say only those that the exercise does not change on purpose::

        with kept("accuracy(model, batches)", batches=batches):
            given = call_reader(solution, model, batches, describe=...)

    Args:
        call: for the message, such as ``"accuracy(model, batches)"``.
        **arguments: by the reader's names for them.

    Raises:
        CheckFailed: if one has changed. Nothing is said where the code inside raises.
    """
    before = {name: snapshot(value) for name, value in arguments.items()}
    yield
    for name, value in arguments.items():
        if spoiled(before[name], value):
            raise CheckFailed(f"{call} changes its own argument {name}, {HANDS_OFF}")


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
    """One number, of whatever kind (:func:`as_number`).

    Raises:
        CheckFailed: if it is none; ``complaint`` may quote it as ``{value!r}``.
    """
    number = as_number(value)
    if number is None:
        raise CheckFailed(complaint.format(value=value))
    return float(number)


def call_for_real(solution: Callable[..., float], call: str, *arguments: object, begun: bool) -> float:
    """The number that the reader's code returns, of whatever kind."""
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
        CheckFailed: if a number differs, or if all are right and an argument is not what it was.
    """

    def shown(argument: list[float] | float) -> str:
        if not isinstance(argument, list):
            return f"{argument:_}"
        return f"[{len(argument)} weights]" if len(argument) > 4 else repr(argument)

    calls = [f"{name}({', '.join(map(shown, case))})" for case in cases]
    handed = copy.deepcopy(cases)  # a reader may empty or turn round a list
    given = [
        call_for_real(solution, call, *case, begun=i > 0)
        for i, (call, case) in enumerate(zip(calls, handed, strict=True))
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
    for call, case, after in zip(calls, cases, handed, strict=True):
        for value, now in zip(case, after, strict=True):
            if spoiled(snapshot(value), now):
                raise CheckFailed(
                    f"The numbers are right, but {call} changes the list it is given, {HANDS_OFF}"
                )
