"""Exercises as data: a right answer as source, the cases it is tried on, and slips, which are edits of it.

The engine runs the reader's code and a trusted one on every case, and compares what they return and what
becomes of their arguments: numbers, modes, gradients. Where they differ, it looks for the edit of the answer
that shows the same, and says what stands below that edit.
"""

import ast
import copy
import fnmatch
import functools
import inspect
import itertools
import math
import random
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook.checks.common import HANDS_OFF, CheckFailed, as_number, as_whole, call_reader, exercise
from resnetbook.checks.tracing import functions_run, layers_used

# What a solution on a page may use: the chapters' own imports.
SCOPE = {
    "Callable": Callable,
    "F": F,
    "Iterator": Iterator,
    "Sequence": Sequence,
    "Tensor": Tensor,
    "copy": copy,
    "itertools": itertools,
    "math": math,
    "nn": nn,
    "np": np,
    "random": random,
    "statistics": statistics,
    "torch": torch,
}

# No seed that anyone would write: so it is seen when somebody seeds anew.
_FIRST_SEED = 7_302_511

Outcome = dict[str, object]
"""What one case shows, by part: the result, and what has become of each argument."""


@dataclass(frozen=True)
class Slip:
    """A mistake that readers make: the edits that turn the right answer into it, and what to say."""

    edits: tuple[tuple[str, str], ...]
    message: str

    def applied_to(self, source: str) -> str:
        """The source with the slip in it.

        Raises:
            ValueError: if an edit has nothing to change.
        """
        for old, new in self.edits:
            if old not in source:
                raise ValueError(f"there is no {old!r} to change")
            source = source.replace(old, new)
        return source


def slips_in(text: str) -> list[Slip]:
    """The slips that a text tells, in the form that :class:`Exercise` describes.

    Raises:
        ValueError: if a line is no edit, or an edit has no message.
    """
    found, ways, edits, message = [], [], [], []

    def close() -> None:
        if not message:
            raise ValueError(f"no message for {edits}")
        found.extend(Slip(tuple(way), " ".join(message)) for way in (*ways, edits))

    for line in text.strip("\n").splitlines():
        if line.startswith("    "):
            if not edits:
                raise ValueError(f"{line.strip()!r} is a message, and there is no edit above it")
            message.append(line.strip())
            continue
        if message:
            close()
            ways, edits, message = [], [], []
        if line.strip() == "or":
            ways, edits = [*ways, edits], []
        elif line.strip():
            old, arrow, new = line.partition(" -> ")
            if not arrow:
                raise ValueError(f"{line!r} is no edit: old -> new")
            edits.append((old.replace("⏎", "\n"), new.replace("⏎", "\n")))
    if edits:
        close()
    return found


@dataclass(frozen=True, repr=False)
class Exercise:
    """An exercise and all that is known about it; calling it checks what a reader has written.

    Attributes:
        number: such as ``"6.3"``.
        title: a few words.
        minutes: how long it takes.
        level: ``easy``, ``medium`` or ``hard``.
        answer: the source of a right answer, word for word as the page's folded solution shows it.
        cases: the arguments of each case; a function makes them anew where copies will not do, as for
            modules, whose gradients a copy leaves out.
        slips: mistakes as text: lines ``old -> new``, all of them edits of the answer for one mistake, and
            below them, indented, what to say. ``⏎`` stands for a line break. A line ``or`` between edits
            begins another way to the same message.
        right: what has been compared, said after "Right: ".
        otherwise: the next step where no slip shows the same; for all parts, or by part.
        trusted: another implementation to compare with; default: the answer.
        scope: more names that the answer may use.
        drive: how a case is shown where calling is not enough, as for classes: called with what the reader
            wrote and the case, it returns the result, or a dictionary of parts, compared in its order.
        form: how a case is written, such as ``"LossScaler({1}, {2})"``, if not as a call with all arguments.
        first: parts to compare before the others.
        ignored: parts that the exercise leaves open, such as ``"gradients of *"``.
        says: how a complaint begins, by part, if not with the call; it may quote ``{call}``, ``{problem}``.
        errors: words of an exception, and what to say about it.
        forbidden: what the answer must not use, as a pattern for names such as ``"torch.optim.*"`` or
            ``"conv2d"``, and what to say of it where all else is right; ``{used}`` is the name.
        remarked: the same for what is right, and yet not what was asked: said after "Right".
        tolerance: relative, for numbers and tensors that are not whole.
        explain: asked where no slip shows the same: with the part, and the outcomes of the reader's code, of
            the right one, and of doing nothing. For what is measured, and no edit can say.
        then: called with what the reader wrote after all is right; what it returns is added to "Right".
        judge: checks in place of the comparison, and returns what is said after "Right: ". For networks,
            whose layers are found by what they do. The slips are those that it must name in their words.
    """

    number: str
    title: str
    minutes: int
    level: str
    answer: str
    cases: Sequence[tuple] | Callable[[], Sequence[tuple]] = ()
    slips: str = ""
    right: str = ""
    otherwise: str | Mapping[str, str] = ""
    trusted: Callable | None = None
    scope: Mapping[str, object] = field(default_factory=dict)
    drive: Callable | None = None
    form: str = ""
    first: tuple[str, ...] = ("result",)
    ignored: tuple[str, ...] = ()
    says: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    forbidden: Mapping[str, str] = field(default_factory=dict)
    remarked: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-5
    explain: Callable[[str, list[Outcome], list[Outcome], list[Outcome]], str | None] = lambda *_: None
    then: Callable[[Callable], str | None] = lambda solution: None
    judge: Callable[[Callable], str] | None = None

    def __repr__(self) -> str:
        return f"Exercise {self.number}: {self.title} ({self.minutes} min, {self.level})"

    def __call__(self, solution: Callable) -> None:
        """Check what a reader has written; print "Right", or that nothing is there yet.

        Raises:
            CheckFailed: if it is not right; the message names the mistake and a next step.
        """
        exercise(self.judge or self._compare)(solution)

    # ---- the answer and the mistakes

    @functools.cached_property
    def name(self) -> str:
        """The name of what the reader writes: the last function or class of the answer."""
        definitions = ast.FunctionDef | ast.ClassDef
        return [node.name for node in ast.parse(self.answer).body if isinstance(node, definitions)][-1]

    def built(self, source: str | None = None) -> Callable:
        """The answer, or another source, as a function or a class."""
        scope = {**SCOPE, **self.scope, "__name__": "answer"}
        exec(compile(source or self.answer, f"exercise {self.number}", "exec"), scope)
        return scope[self.name]

    @functools.cached_property
    def mistakes(self) -> list[Slip]:
        """The slips, read from their text.

        Raises:
            ValueError: if a line is no edit, has nothing to change in the answer, or has no message.
        """
        found = slips_in(self.slips)
        for slip in found:
            self.edited(slip)  # complains
        return found

    def edited(self, slip: Slip) -> str:
        """The answer with the slip in it.

        Raises:
            ValueError: if an edit has nothing to change.
        """
        return slip.applied_to(self.answer)

    # ---- what a function shows

    def _cases(self) -> list[tuple]:
        return list(self.cases()) if callable(self.cases) else copy.deepcopy(list(self.cases))

    @functools.cached_property
    def _parameters(self) -> list[str]:
        """The names of a case's arguments."""
        names = list(inspect.signature(self.drive or self.built()).parameters)
        return names[1:] if self.drive else names

    def call(self, arguments: tuple) -> str:
        """How a case is written, with what is too long left out."""
        values = list(map(shown, arguments))
        return self.form.format(*values) if self.form else f"{self.name}({', '.join(values)})"

    def _watches(self, arguments: tuple) -> list[Callable[[], Outcome]]:
        return [_watch(name, value) for name, value in zip(self._parameters, arguments, strict=False)]

    @functools.cached_property
    def _start(self) -> list[Outcome]:
        """What each case shows while nothing has been called."""
        found = []
        for arguments in self._cases():
            with _switches() as outcome:
                for watch in self._watches(arguments):
                    outcome |= watch()
            found.append(outcome)
        return found

    def outcomes(self, solution: Callable, ask: Callable | None = None) -> list[Outcome]:
        """What a function shows in each case; an error is a result, too, and ends the list.

        Args:
            solution: the function, or a class where there is a ``drive``.
            ask: calls it in place of a plain call, as :func:`~resnetbook.checks.common.call_reader` does.
        """
        found: list[Outcome] = []
        drive = self.drive or (lambda written, *case: written(*case))
        for number, arguments in enumerate(self._cases()):
            torch.manual_seed(_FIRST_SEED + number)
            random.seed(number)
            watches = self._watches(arguments)
            with _switches() as switches:
                try:
                    if ask is None:
                        returned = drive(solution, *arguments)
                    else:
                        call = self.call(arguments)
                        returned = ask(drive, solution, *arguments, describe=call, begun=number > 0)
                    if isinstance(returned, Iterator):
                        returned = list(returned)
                except NotImplementedError:
                    raise
                except Exception as error:
                    return [*found, {"result": error}]
            outcome = dict(returned) if self.drive and isinstance(returned, dict) else {"result": returned}
            for watch in watches:
                outcome |= watch()
            found.append(outcome | switches)
        return found

    @functools.cached_property
    def _right(self) -> list[Outcome]:
        return self.outcomes(self.trusted or self.built())

    @functools.cached_property
    def _slipped(self) -> list[list[Outcome]]:
        """What the answer shows with each of the mistakes."""
        return [self.outcomes(self.built(self.edited(slip))) for slip in self.mistakes]

    # ---- the comparison

    def _compare(self, solution: Callable) -> str:
        used: set[str] = set()
        with _noting(used) if self.forbidden or self.remarked else nullcontext():
            given = self.outcomes(solution, call_reader)
        right = self._right
        calls = [self.call(arguments) for arguments in self._cases()]
        for part in self._parts(right):
            for i, (call, mine, theirs) in enumerate(zip(calls, given, right, strict=False)):
                failed = isinstance(mine.get("result"), Exception)
                if failed and part != "result":
                    continue
                problem = difference(mine.get(part), theirs.get(part), self.tolerance)
                if problem:
                    self._complain(part, call, problem, i, given)
        for pattern, message in self.forbidden.items():
            if names := _matching(used, pattern):
                raise CheckFailed(message.format(used=names[0]))
        remarks = [m.format(used=n[0]) for p, m in self.remarked.items() if (n := _matching(used, p))]
        remarks.append(self.then(solution) or "")
        return " ".join([self.right, *remarks]).strip()

    def _parts(self, right: list[Outcome]) -> list[str]:
        """All parts in the order of their comparison: first what the function is for."""
        # An error is always a result.
        parts = dict.fromkeys([*self.first, *itertools.chain.from_iterable(right), "result"])
        return [part for part in parts if not any(fnmatch.fnmatchcase(part, p) for p in self.ignored)]

    def _complain(
        self,
        part: str,
        call: str,
        problem: str,
        case: int,
        given: list[Outcome],
    ) -> None:
        """Say what is wrong with a part.

        Raises:
            CheckFailed: always.
        """
        right, start = self._right, self._start
        value = given[case].get(part)
        named = self._named(part, given, right, case)
        own = _OWN_ADVICE.fullmatch(problem)
        if named and own:
            problem = own[1]
        advice = named or self.explain(part, given, right, start)
        if isinstance(value, Exception):
            advice = advice or next((a for words, a in self.errors.items() if words in str(value)), "")
            said = str(value) if isinstance(value, CheckFailed) else f"{call} {problem}"
            raise CheckFailed(said if advice in said else f"{said} {advice}") from value.__cause__
        if not advice and part in start[case] and part not in self.says:
            untouched = difference(start[case][part], right[case][part], self.tolerance) is None
            if untouched and part != "result":
                raise CheckFailed(f"It is right, but {_hands_off(part, call)}")
        if not advice and not own:
            known = self.otherwise
            advice = known if isinstance(known, str) else known.get(part, "")
        advice = advice or ""
        said = self.says.get(part, "{call} {problem}" if part == "result" else "{call}: {part}: {problem}")
        said = said.format(call=call, part=part, problem=problem)
        mark = " " if said.endswith("?") else ": " if advice[:1].islower() else ". "
        said = f"{said}{mark}{advice}".rstrip(" .:")
        raise CheckFailed(said if said.endswith("?") else f"{said}.")

    def _named(self, part: str, given: list[Outcome], right: list[Outcome], case: int) -> str | None:
        """What to say of the slip that the reader's function shows.

        Best is one that shows the same in all parts of every case; then in this part of every case. Else
        several may explain it together: each the same as the reader's code wherever the slip itself is
        wrong, and all cases that are wrong among them. Last, one whose tensors have the same wrong shapes:
        what is in them must not hide why.
        """

        def same(first: list[Outcome], second: list[Outcome], part: str) -> list[bool]:
            return [
                difference(a.get(part), b.get(part), self.tolerance, exact=True) is None
                for a, b in zip(first, second, strict=False)
            ]

        def shapes(outcomes: list[Outcome]) -> list[object]:
            return [getattr(outcome.get(part), "shape", None) for outcome in outcomes]

        in_part, partly, in_shape, explained = None, None, None, set()
        for slip, slipped in zip(self.mistakes, self._slipped, strict=True):
            wrong = {i for i, equal in enumerate(same(slipped, right, part)) if not equal}
            agrees = same(given, slipped, part)
            if case in wrong and len(given) == len(slipped) and all(agrees):
                if all(all(same(given, slipped, other)) for other in self._parts(right)):
                    return slip.message
                in_part = in_part or slip.message
            elif wrong and all(agrees[i] for i in wrong if i < len(agrees)):
                explained |= wrong
                partly = partly or (slip.message if case in wrong else None)
            if any(shapes(given)) and shapes(given) == shapes(slipped) != shapes(right):
                in_shape = in_shape or slip.message
        # A later case that raises will be complained of by itself.
        raised = {i for i, outcome in enumerate(given) if isinstance(outcome.get("result"), Exception)}
        mistaken = {i for i, equal in enumerate(same(given, right, part)) if not equal} - raised
        return in_part or (partly if mistaken <= explained else None) or in_shape


# What is no number, no tensor or nothing at all: the difference itself says what to do.
_OWN_ADVICE = re.compile(r"(.*): ((return|does|divide) .*)")


def difference(given: object, right: object, tolerance: float = 1e-5, exact: bool = False) -> str | None:
    """In words, how a value differs from the right one; ``None`` if it does not.

    Numbers may be of any kind, a list may be a tuple, an array or a tensor, and nothing is asked of a value
    where the right one is ``None``, unless the comparison is to be ``exact``.
    """
    if isinstance(given, Exception) or isinstance(right, Exception):
        alike = type(given) is type(right) and (isinstance(right, ValueError) or str(given) == str(right))
        told = f"raises {type(given).__name__}: {given}" if isinstance(given, Exception) else None
        return None if alike else told or f"gives {shown(given)}, and it must raise {type(right).__name__}"
    if given is right or (right is None and not exact):
        return None
    if right is None:
        return f"gives {shown(given)}, and it is None"
    if given is None:
        return "gives None: does the function end with `return`?"
    if isinstance(right, np.ndarray):
        given, right = (torch.as_tensor(v) if isinstance(v, np.ndarray) else v for v in (given, right))
    if isinstance(right, Tensor):
        return _tensor_difference(given, right, tolerance)
    if isinstance(right, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(right):
            return f"gives {shown(given)}, and it has the keys {', '.join(map(str, right))}"
        pairs = [(f"{key} ", given[key], value) for key, value in right.items()]
    elif isinstance(right, list | tuple):
        values = given.tolist() if isinstance(given, Tensor | np.ndarray) and given.ndim else given
        if isinstance(given, Tensor) and any(isinstance(value, Tensor) for value in right):
            return "gives one tensor: return a list of tensors"
        if not isinstance(values, Sequence) or isinstance(values, str):
            return f"gives {shown(given)}: {len(right)} values are asked for"
        if len(values) != len(right):
            return f"gives {len(values)} value{'s' * (len(values) != 1)}, and {len(right)} are asked for"
        if all(isinstance(value, str | bool | int | float) for value in right):
            problems = [
                difference(mine, value, tolerance, exact) for mine, value in zip(values, right, strict=True)
            ]
            none = next((p for p in problems if p and "which is no" in p), None)
            listed = f"gives {shown(values)}, and it is {shown(right)}" if any(problems) else None
            return none.replace("gives", "has", 1).replace(", which", " in it, which", 1) if none else listed
        pairs = [
            (f"number {i + 1} ", mine, value)
            for i, (mine, value) in enumerate(zip(values, right, strict=True))
        ]
    elif isinstance(right, str | bool) or as_number(right) is None:
        alike = isinstance(given, str) or not isinstance(right, str)  # an array compares with any text
        return None if alike and given == right else f"gives {shown(given)}, and it is {shown(right)}"
    else:
        return _number_difference(given, right, tolerance)
    found = ((where, difference(mine, value, tolerance, exact)) for where, mine, value in pairs)
    return next((f"{where}{problem}" for where, problem in found if problem), None)


def _number_difference(given: object, right: float, tolerance: float) -> str | None:
    if isinstance(right, int):
        try:
            whole = as_whole(given, f"gives {given!r}")
        except CheckFailed as failure:
            return str(failure).rstrip(".")
        return None if whole == right else f"gives {whole:,}, and it is {right:,}"
    number = as_number(given)
    if number is None:
        return f"gives {shown(given)}, which is no number: return one number"
    if isinstance(given, Tensor) and given.requires_grad:
        return f"gives {given!r}, which holds the whole computation: return it as a number, with .item()"
    # A right number may have come through float32.
    same = math.isclose(number, right, rel_tol=max(tolerance, 1e-6), abs_tol=1e-12)
    same = same or (number != number and right != right)
    return None if same else f"gives {float(number):.6g}, and it is {right:.6g}"


def _tensor_difference(given: object, right: Tensor, tolerance: float) -> str | None:
    if not isinstance(given, Tensor):
        return f"gives {type(given).__name__}: return a tensor"
    if given.shape != right.shape:
        return f"has the shape {tuple(given.shape)}, and it is {tuple(right.shape)}"
    if given.dtype.is_floating_point != right.dtype.is_floating_point:
        return f"holds {given.dtype}, and it is {right.dtype}"
    if right.device.type == "meta":  # a shape without numbers
        return None
    mine, theirs = given.detach().double(), right.detach().double()
    tolerance = tolerance if right.dtype.is_floating_point else 0.0
    # Relative to the largest number, as rounding is: a sum may cancel to almost nothing.
    largest = theirs.abs().max().item() if theirs.numel() else 0.0
    absolute = tolerance * (largest if math.isfinite(largest) else 1.0)
    wrong = ~torch.isclose(mine, theirs, rtol=tolerance, atol=absolute, equal_nan=True)
    if not wrong.any():
        return None
    first = tuple(wrong.nonzero()[0].tolist())
    values = f": {mine[first].item():.6g}, and it is {theirs[first].item():.6g}"
    where = f", the first at {first}" if first else ""
    return f"has {int(wrong.sum())} of {right.numel()} numbers wrong{where}{values}"


def shown(value: object) -> str:
    """A value as a call or a message writes it: short."""
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) > 4:
        return f"{type(value).__name__.lower()} {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return "model"
    if isinstance(value, Tensor) and value.ndim == 0 and value.grad_fn is not None:
        return "loss"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}"
    if isinstance(value, list | tuple) and len(repr(value)) > 60:
        return f"[{len(value)} values]"
    return repr(value)


# ---- what becomes of things


def _held(value: object) -> object:
    """A copy of what a list or a dictionary holds, tensors included, to compare with later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, set):
        return set(value)
    if isinstance(value, Mapping):
        return {key: _held(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_held(item) for item in value]
    return value


def _watch(name: str, value: object) -> Callable[[], Outcome]:
    """A function that tells, after a call, what has become of an argument; of what cannot change, nothing."""
    if isinstance(value, nn.Module):
        before = list(value.parameters())

        def of_model() -> Outcome:
            parameters = dict(value.named_parameters())
            return {
                f"parameters of {name}": {key: p.detach().clone() for key, p in parameters.items()},
                f"running statistics of {name}": {key: b.clone() for key, b in value.named_buffers()},
                f"mode of {name}": [module.training for module in value.modules()],
                f"own parameters of {name}": [id(p) for p in value.parameters()] == [id(p) for p in before],
                f"requires_grad of {name}": [p.requires_grad for p in before],
                f"gradients of {name}": {
                    key: None if p.grad is None else p.grad.detach().clone() for key, p in parameters.items()
                },
                f"graph of {name}": any(p.grad is not None and p.grad.requires_grad for p in before),
            }

        return of_model
    if isinstance(value, Tensor):
        return lambda: {name: _held(value), f"requires_grad of {name}": value.requires_grad}
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        return lambda: {name: _held(value)}
    return dict


_HANDS_OFF = {
    "mode": "the model is left in another mode than it came in: put its mode back.",
    "own parameters": (
        "the model has new parameters in place of its own, which others may hold: change each in place, "
        "with -=."
    ),
    "requires_grad": "it does not ask for its gradient as it did before: leave requires_grad as it is.",
    "graph": "the gradients hold the whole computation: leave create_graph out.",
}


def _hands_off(part: str, call: str) -> str:
    """What to say of a part that is not left as it was."""
    kind, of, name = part.partition(" of ")
    if part in _SWITCHES:
        return f"{call} {_SWITCHES[part]}"
    if kind in _HANDS_OFF:
        return f"{call}: {_HANDS_OFF[kind]}"
    if of:
        return f"{call} changes the {kind} of its own argument {name}, {HANDS_OFF}"
    return f"{call} changes its own argument {part}, {HANDS_OFF}"


@contextmanager
def left_alone(call: str, **arguments: object) -> Iterator[None]:
    """For a judge: see that what runs inside leaves its arguments, and PyTorch's switches, as they were.

    Args:
        call: for the message, such as ``"shares(order, 4, 0, 2)"``.
        **arguments: by the reader's names for them.

    Raises:
        CheckFailed: if one has changed. Nothing is said where the code inside raises.
    """
    watches = [_watch(name, value) for name, value in arguments.items()]
    with _switches() as before:
        for watch in watches:
            before |= watch()
    with _switches() as after:
        yield
        for watch in watches:
            after |= watch()
    for part, value in before.items():
        if difference(after[part], value, 0.0, exact=True):
            raise CheckFailed(_hands_off(part, call))


_SWITCHES = {
    "recording of gradients": (
        "leaves the recording of gradients switched for all code that follows: write "
        "`with torch.no_grad():`, which ends by itself."
    ),
    "default type": "changes PyTorch's default type for all code that follows: leave it as it is.",
    "random numbers": "seeds PyTorch's random numbers anew for all code that follows: draw, and do not seed.",
}


@contextmanager
def _switches() -> Iterator[Outcome]:
    """What becomes of PyTorch's switches, and of its seed; the switches are afterwards as before."""
    gradients, kind, seed = torch.is_grad_enabled(), torch.get_default_dtype(), torch.initial_seed()
    found: Outcome = {}
    try:
        yield found
        # Whoever draws numbers does no harm. None: a trusted function that seeds asks nothing of others.
        kept = True if torch.initial_seed() == seed else None
        now = torch.is_grad_enabled(), str(torch.get_default_dtype()), kept
        found |= dict(zip(_SWITCHES, now, strict=True))
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(kind)


@contextmanager
def _noting(used: set[str]) -> Iterator[None]:
    """Note the names of all functions that run, and of the layers that are built or called."""
    with layers_used() as layers, functions_run() as functions:
        yield
    used.update(layers, functions)


def _matching(used: set[str], pattern: str) -> list[str]:
    return sorted(name for name in used if fnmatch.fnmatchcase(name, pattern))
