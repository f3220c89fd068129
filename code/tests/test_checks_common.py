"""What all exercises share: what a number is, what is left alone, which slip is named, what is forbidden."""

import copy
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn

from resnetbook.checks import CheckFailed
from resnetbook.checks.common import as_number, as_real, as_whole
from resnetbook.checks.exercise import Exercise, left_alone


def exercise(answer: str, **more: object) -> Exercise:
    """An exercise of chapter 0."""
    return Exercise(number="0.1", title="", minutes=1, level="easy", answer=answer, **more)


# ---- numbers

FIVES = [
    5,
    5.0,
    Fraction(5),
    Fraction(10, 2),
    Decimal("5.0"),
    np.int8(5),
    np.uint8(5),
    np.float32(5),
    np.float16(5),
    np.array(5),
    np.array([5.0]),
    np.array([[5]], dtype=object),
    torch.tensor(5),
    torch.tensor(5, dtype=torch.uint8),
    torch.tensor(5.0, dtype=torch.bfloat16),
]
FIVE = exercise("def f(a):\n    return 5\n", cases=((1,), (2,)))
FIVE_REAL = exercise("def f(a):\n    return 5.0\n", cases=((1,), (2,)))
TWO_FIVES = exercise("def f(a):\n    return [5, 5]\n", cases=((1,), (2,)))


@pytest.mark.parametrize("five", FIVES, ids=repr)
def test_five_is_five_of_whatever_kind(five, capsys):
    assert as_number(five) == 5
    assert type(as_whole(five, "f() gives 5")) is int
    assert as_whole(five, "f() gives 5") == 5
    assert type(as_real(five, "{value!r}")) is float
    passes(FIVE, lambda a: five, capsys)
    passes(FIVE_REAL, lambda a: five, capsys)
    passes(TWO_FIVES, lambda a: [five, five], capsys)


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor, iter, lambda fives: (n for n in fives)])
def test_two_fives_in_whatever_holds_them(kind, capsys):
    passes(TWO_FIVES, lambda a: kind([5, 5]), capsys)


def test_a_number_that_holds_a_computation_is_not_done():
    fails(FIVE_REAL, lambda a: torch.tensor(5.0, requires_grad=True), r"holds the whole.*\.item\(\)")


HALVES = [5.5, Fraction(11, 2), Decimal("5.5"), np.float32(5.5), np.array([5.5]), torch.tensor(5.5)]


@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_five_and_a_half_is_no_whole_number_and_what_is_said_is_true(value):
    fails(FIVE, lambda a: value, r"f\(1\) gives .*(5\.5|11, 2).*, which is no whole number: divide with //")
    fails(TWO_FIVES, lambda a: [5, value], "in it, which is no whole number: divide with //")
    fails(FIVE_REAL, lambda a: value, r"f\(1\) gives 5\.5, and it is 5")
    assert as_real(value, "") == 5.5


NO_NUMBERS = [
    True,
    False,
    np.True_,
    np.array([True]),
    torch.tensor(True),
    torch.tensor([True]),
    5 + 0j,
    torch.tensor(5 + 0j),
    "5",
    [5],
    (5,),
    b"5",
    np.array([5, 5]),
    np.array([]),
    np.array("5"),
    torch.arange(2),
    torch.empty(0),
    torch.empty(1, device="meta"),
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_at_all(value):
    assert as_number(value) is None
    fails(FIVE, lambda a: value, "no whole number: return one number")
    fails(FIVE_REAL, lambda a: value, "no number: return one number")
    with pytest.raises(CheckFailed, match="mine"):
        as_real(value, "mine")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), np.float32("inf"), torch.tensor(float("nan"))])
def test_no_count_is_infinite(value):
    fails(FIVE, lambda a: value, "no whole number: is something divided by zero")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a: None, r"f\(1\) gives None: does the function end with `return`\?"),
        (lambda a: [5], "gives 1 value, and 2 are asked for"),
        (lambda a: 5, "gives 5: 2 values are asked for"),
        (lambda a: "55", "gives '55': 2 values are asked for"),
        (lambda a: 1 / 0, r"f\(1\) raises ZeroDivisionError: division by zero"),
        (lambda a: [5, 5 + (a == 2)], r"f\(2\) gives \[5, 6\], and it is \[5, 5\]"),
    ],
)
def test_other_answers(answer, message):
    fails(TWO_FIVES, answer, message)


def test_what_is_begun_is_still_to_be_done():
    def half(a):
        if a == 2:
            raise NotImplementedError
        return 5

    fails(FIVE, half, r"f\(2\) raises NotImplementedError\. This case is still to be done")


def test_a_wrong_number_is_told_before_a_later_error():
    fails(FIVE, lambda a: 6 // (2 - a), r"f\(1\) gives 6, and it is 5")


# ---- tensors

TENSOR = exercise("def f(x):\n    return 1000 * x\n", cases=((torch.linspace(0, 1, 5),),))
COUNTS = exercise("def f(x):\n    return x\n", cases=((torch.tensor([3, 1_000_000]),),))


@pytest.mark.parametrize(
    ("check", "answer", "message"),
    [
        (TENSOR, lambda x: (1000 * x).tolist(), "gives list: return a tensor"),
        (TENSOR, lambda x: 1000 * x[1:], r"has the shape \(4,\), and it is \(5,\)"),
        (TENSOR, lambda x: (1000 * x).long(), r"holds torch\.int64, and it is torch\.float32"),
        (TENSOR, lambda x: 1000 * x + (x == 0.5), r"1 of 5 numbers wrong, the first at \(2,\): 501, and"),
        (TENSOR, lambda x: x * torch.nan, "5 of 5 numbers wrong"),
        (COUNTS, lambda x: x + (x > 5), r"1 of 2 numbers wrong, the first at \(1,\)"),
    ],
)
def test_other_tensors(check, answer, message):
    fails(check, answer, message)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_a_tensor_of_another_precision_is_right(kind, capsys):
    passes(TENSOR, lambda x: 1000 * x.to(kind), capsys)
    passes(COUNTS, lambda x: x.int(), capsys)


# ---- arguments


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.inner = nn.BatchNorm1d(2)


SPOILS: list[tuple[Callable, object, str]] = [
    (lambda v: v.pop(), [1, 2], "its own argument b"),
    (lambda v: v.reverse(), [1, 2], "its own argument b"),
    (lambda v: v.append(1), [], "its own argument b"),
    (lambda v: v[0].pop(), ([1, 2], 3), "its own argument b"),
    (lambda v: v.update(a=2), {"a": 1}, "its own argument b"),
    (lambda v: v.pop("a"), {"a": 1}, "its own argument b"),
    (lambda v: v.add(2), {1}, "its own argument b"),
    (lambda v: v.add_(1), torch.zeros(2), "its own argument b"),
    (lambda v: v.neg_(), torch.ones(2, dtype=torch.int8), "its own argument b"),
    (lambda v: v.unsqueeze_(0), torch.zeros(2), "its own argument b"),
    (lambda v: v.requires_grad_(), torch.zeros(2), "leave requires_grad as it is"),
    (lambda v: v[1].zero_(), [torch.ones(2), torch.ones(2)], "its own argument b"),
    (lambda v: v.data.fill_(float("nan")), torch.zeros(2), "its own argument b"),
    (lambda v: v.sort(), np.array([2, 1]), "its own argument b"),
    (lambda v: v.resize(3, refcheck=False), np.array([2, 1]), "its own argument b"),
    (lambda v: v.eval(), Counter(), "put its mode back"),
    (lambda v: v.inner.eval(), Counter(), "put its mode back"),
    (lambda v: v.weight.data.mul_(2), Counter(), "changes the parameters of its own argument b"),
    (lambda v: v.requires_grad_(False), Counter(), "leave requires_grad as it is"),
    (lambda v: setattr(v, "weight", nn.Parameter(torch.ones(2))), Counter(), "change each in place"),
    (lambda v: v.inner.running_mean.add_(1), Counter(), "the running statistics of its own argument b"),
    (lambda v: torch.set_grad_enabled(False), 1, "leaves the recording of gradients switched"),
    (lambda v: torch.set_default_dtype(torch.float64), 1, "changes PyTorch's default type"),
    (lambda v: torch.manual_seed(0), 1, "seeds PyTorch's random numbers anew"),
]


@pytest.mark.parametrize(("spoil", "value", "message"), SPOILS)
def test_a_spoiled_argument_is_named(spoil, value, message, capsys):
    check = exercise("def f(a, b):\n    return a\n", cases=((1, value), (2, copy.deepcopy(value))))
    passes(check, lambda a, b: a, capsys)
    fails(check, lambda a, b: [a, spoil(b)][0], rf"It is right, but f\(1, .*{message}")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    if isinstance(value, int):
        return
    with pytest.raises(CheckFailed, match=rf"f\(a, b\).*{message}"):
        with left_alone("f(a, b)", a=[1], b=value):
            spoil(value)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0, None, "x", float("nan")],
        torch.tensor([1.0, float("nan"), float("inf")]),
        np.array([1.0, np.nan]),
        torch.empty(2, device="meta"),
        [(torch.zeros(2), torch.ones(1, dtype=torch.bool))],
        {"a": [1]},
        Counter(),
        torch.float32,
    ],
    ids=str,
)
def test_what_was_only_looked_at_is_not_spoiled(value, capsys):
    with left_alone("f(a)", a=value):
        pass
    passes(exercise("def f(a):\n    return 1\n", cases=((value,),)), lambda a: 1, capsys)


def test_whoever_draws_random_numbers_does_no_harm(capsys):
    passes(FIVE, lambda a: 5 + 0 * int(torch.randint(9, ())), capsys)


def test_an_error_inside_is_not_hidden():
    numbers = [1]
    with pytest.raises(ZeroDivisionError):
        with left_alone("f(a)", a=numbers):
            numbers.pop()
            _ = 1 / 0


# ---- slips

HALVED = exercise(
    "def f(a, b=2):\n    return a // b + 1\n",
    cases=((1, 2), (4, 2), (9, 3), (-3, 2)),
    slips="""
// b + 1 -> // b
    add one.
a // b -> int(a / b)
    // rounds down, also below zero.
// b + 1 -> // (b + 1)
or
a // b -> (a + 1) // b
    divide first.
""",
    otherwise="work it out on paper.",
)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, b: a // b, "gives 0, and it is 1: add one"),
        (lambda a, b: int(a / b) + 1, r"f\(-3, 2\) gives 0, and it is -1. // rounds down"),
        (lambda a, b: a // (b + 1), "divide first"),
        (lambda a, b: (a + 1) // b + 1, "divide first"),
        (lambda a, b: a, "work it out on paper"),
        # Two mistakes, which never show in the same case: the one of the first wrong case is named.
        (lambda a, b: a // b if (a, b) == (1, 2) else a // b + 1, "on paper"),
    ],
)
def test_the_slip_that_shows_the_same_is_named(answer, message):
    fails(HALVED, answer, message)


def test_two_slips_that_never_meet_are_both_seen():
    check = exercise(
        "def f(a):\n    return 2 * a if a > 0 else -a\n",
        cases=((1,), (2,), (-1,)),
        slips="2 * a -> 3 * a\n    twice.\nelse -a -> else a\n    turn the sign.\n",
        otherwise="think.",
    )
    fails(check, lambda a: 3 * a if a > 0 else a, "twice")
    fails(check, lambda a: 2 * a if a > 0 else a, "turn the sign")
    fails(check, lambda a: 3 * a if a > 0 else -5, "think")


@pytest.mark.parametrize(
    ("slips", "message"),
    [
        ("// c -> / b\n    no.\n", "no '// c' to change"),
        ("// b\n    no.\n", "is no edit: old -> new"),
        ("// b -> / b\n", "no message"),
        ("    a // b -> a / b\n    no.\n", "there is no edit above it"),
    ],
)
def test_a_slip_that_is_none_is_refused(slips, message):
    with pytest.raises(ValueError, match=message):
        _ = exercise("def f(a, b):\n    return a // b\n", cases=((1, 2),), slips=slips).mistakes


# ---- what must not be used


def test_what_is_forbidden_is_said_after_all_else_and_what_is_remarked_after_right(capsys):
    more = {"cases": ((torch.ones(1, 1, 4, 4),),), "right": "the mean."}
    answer = "def f(x):\n    return x.sum().item() / x.numel()\n"
    forbidden = exercise(answer, forbidden={"*pool*": "right, but {used} did it."}, **more)
    remarked = exercise(answer, remarked={"*pool*": "But {used} did it."}, **more)

    def by_pooling(x):
        return nn.functional.avg_pool2d(x, 4).item()

    fails(forbidden, by_pooling, "right, but .*avg_pool2d did it")
    fails(forbidden, lambda x: 2 * by_pooling(x), "gives 2, and it is 1")
    remarked(by_pooling)
    assert "Right: the mean. But avg_pool2d did it." in capsys.readouterr().out
    passes(remarked, lambda x: x.mean().item(), capsys)
