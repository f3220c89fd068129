"""What every check needs: the failure, the frame around a check, calling the reader's code."""

import functools
from collections.abc import Callable

import torch


class CheckFailed(AssertionError):
    """The reader's solution is not right yet; the message names the mistake and a next step."""


def exercise(check: Callable[[Callable], str]) -> Callable[[Callable], None]:
    """Let a check, which returns what it has compared, say "Right", or that nothing is there yet."""

    @functools.wraps(check)
    def run(solution: Callable) -> None:
        try:
            with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers stay as they were
                compared = check(solution)
        except NotImplementedError:
            # Not an error: a notebook whose exercises are untouched still runs to its end.
            print("Not done yet: replace `raise NotImplementedError`, then run this again.")
        else:
            print(f"Right: {compared}")

    return run


def call_reader(solution: Callable, *arguments: object, describe: str) -> object:
    """What the reader's code returns; its errors become a :class:`CheckFailed` that quotes them."""
    try:
        return solution(*arguments)
    except (NotImplementedError, CheckFailed):
        raise
    except Exception as error:  # whatever it is, it is the reader's, and the message must say where
        raise CheckFailed(f"{describe} raises {type(error).__name__}: {error}") from error


def compare_counts(
    solution: Callable[..., int],
    name: str,
    cases: tuple[tuple, ...],
    trusted: Callable[..., int],
    mistakes: tuple[tuple[Callable[..., int], str], ...],
) -> None:
    """Compare whole numbers in every case; a mistake is named if it gives the reader's numbers in all.

    Raises:
        CheckFailed: if a number differs.
    """
    given = []
    for i, case in enumerate(cases):
        call = f"{name}{case}"
        try:
            answer = call_reader(solution, *case, describe=call)
        except NotImplementedError as error:
            if i == 0:
                raise
            raise CheckFailed(f"{call} raises NotImplementedError: this case is still to be done.") from error
        if answer is None:
            raise CheckFailed(f"{call} gives None: does the function end with `return`?")
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise CheckFailed(f"{call} gives {answer!r}: a count is a whole number; divide with //.")
        given.append(answer)
    right = [trusted(*case) for case in cases]
    for case, answer, count in zip(cases, given, right, strict=True):
        if answer != count:
            said = f"{name}{case} gives {answer:,}, and it is {count:,}. "
            for mistake, message in mistakes:
                if given == [mistake(*c) for c in cases]:
                    raise CheckFailed(said + message)
            raise CheckFailed(said + "Write down each layer with its numbers, and add them up again.")
