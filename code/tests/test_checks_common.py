"""The rules that all checks share: what a number is, and that a function leaves alone what it is given."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from resnetbook.checks import CheckFailed
from resnetbook.checks.common import (
    as_number,
    as_real,
    as_whole,
    call_for_count,
    compare_counts,
    compare_reals,
    kept,
)

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
    torch.tensor([[5.0]], requires_grad=True),
]


@pytest.mark.parametrize("five", FIVES, ids=repr)
def test_five_is_five_of_whatever_kind(five):
    assert as_number(five) == 5
    assert type(as_whole(five, "f() gives 5")) is int
    assert as_whole(five, "f() gives 5") == 5
    assert type(as_real(five, "{value!r}")) is float
    compare_counts(lambda a: five, "f", ((1,), (2,)), lambda a: 5, ())
    compare_reals(lambda a: five, "f", ((1,), (2,)), lambda a: 5.0, (), "")


HALVES = [5.5, Fraction(11, 2), Decimal("5.5"), np.float32(5.5), np.array([5.5]), torch.tensor(5.5)]


@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_five_and_a_half_is_no_whole_number_and_what_is_said_is_true(value):
    with pytest.raises(CheckFailed, match=r"5\.5|11, 2") as failure:
        call_for_count(lambda: value, "f()", begun=True)
    assert "which is no whole number: divide with //" in str(failure.value)
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
    with pytest.raises(CheckFailed, match="no whole number: return one number"):
        as_whole(value, "f() gives it")
    with pytest.raises(CheckFailed, match="mine"):
        as_real(value, "mine")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), np.float32("inf"), torch.tensor(float("nan"))])
def test_no_count_is_infinite(value):
    with pytest.raises(CheckFailed, match="no whole number: is something divided by zero"):
        as_whole(value, "f() gives it")


# ---- arguments


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.inner = nn.BatchNorm1d(2)


SPOILS: list[tuple[Callable, object]] = [
    (lambda v: v.pop(), [1, 2]),
    (lambda v: v.reverse(), [1, 2]),
    (lambda v: v.sort(), [2, 1]),
    (lambda v: v.append(1), []),
    (lambda v: v[0].pop(), ([1, 2], 3)),
    (lambda v: v.update(a=2), {"a": 1}),
    (lambda v: v.pop("a"), {"a": 1}),
    (lambda v: v.add_(1), torch.zeros(2)),
    (lambda v: v.neg_(), torch.ones(2, dtype=torch.int8)),
    (lambda v: v.unsqueeze_(0), torch.zeros(2)),
    (lambda v: v.requires_grad_(), torch.zeros(2)),
    (lambda v: v[1].zero_(), [torch.ones(2), torch.ones(2)]),
    (lambda v: v.data.fill_(float("nan")), torch.zeros(2)),
    (lambda v: v.sort(), np.array([2, 1])),
    (lambda v: v.resize(3, refcheck=False), np.array([2, 1])),
    (lambda v: v.eval(), Counter()),
    (lambda v: v.inner.eval(), Counter()),
    (lambda v: v.weight.data.mul_(2), Counter()),
    (lambda v: v.inner.running_mean.add_(1), Counter()),
]


@pytest.mark.parametrize(("spoil", "value"), SPOILS)
def test_a_spoiled_argument_is_named(spoil, value):
    with pytest.raises(CheckFailed, match="f\\(a, b\\) changes its own argument b, which the caller"):
        with kept("f(a, b)", a=[1], b=value):
            spoil(value)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0, None, "x", float("nan")],
        torch.tensor([1.0, float("nan"), float("inf")]),
        np.array([1.0, np.nan]),
        torch.zeros(2, requires_grad=True) * 2,
        torch.empty(2, device="meta"),
        [(torch.zeros(2), torch.ones(1, dtype=torch.bool))],
        {"a": [1]},
        Counter(),
        iter([1]),
        torch.float32,
    ],
    ids=str,
)
def test_what_was_only_looked_at_is_not_spoiled(value):
    with kept("f(a)", a=value):
        pass


def test_an_error_inside_is_not_hidden():
    numbers = [1]
    with pytest.raises(ZeroDivisionError):
        with kept("f(a)", a=numbers):
            numbers.pop()
            _ = 1 / 0


def test_a_right_sum_that_empties_its_list_is_not_right():
    def total(numbers):
        return sum(numbers.pop() for _ in range(len(numbers)))

    cases = (([1.0, 2.0],), ([3.0],))
    compare_reals(sum, "total", cases, sum, (), "")
    with pytest.raises(CheckFailed, match=r"numbers are right, but total\(\[1.0, 2.0\]\) changes the list"):
        compare_reals(total, "total", cases, sum, (), "")
    assert cases == (([1.0, 2.0],), ([3.0],))
    with pytest.raises(CheckFailed, match="it is 3. Add them"):
        compare_reals(lambda numbers: total(numbers) + 1, "total", cases, sum, (), "Add them.")
