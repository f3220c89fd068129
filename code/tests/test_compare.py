"""The yardstick, held against scipy and published examples."""

import math
import random
import statistics

import pytest
from scipy import stats

from resnetbook import compare

BEFORE = [0.8640, 0.7634, 0.8680, 0.8698, 0.8693]
AFTER = [0.8673, 0.8730, 0.8197, 0.8342, 0.8786]


def test_pairs_are_those_of_scipy():
    found = compare.paired_difference(BEFORE, AFTER)
    trusted = stats.ttest_rel(AFTER, BEFORE)
    assert found.p_value == pytest.approx(trusted.pvalue)
    assert found.interval == pytest.approx(tuple(trusted.confidence_interval()))
    assert found.mean / found.error == pytest.approx(trusted.statistic)


@pytest.mark.parametrize("second", [AFTER, AFTER[:3], [0.99, 0.98]])
def test_unpaired_differences_are_welchs(second):
    found = compare.unpaired_difference(BEFORE, second)
    trusted = stats.ttest_ind(second, BEFORE, equal_var=False)
    assert found.p_value == pytest.approx(trusted.pvalue)
    assert found.freedom == pytest.approx(trusted.df)
    assert found.interval == pytest.approx(tuple(trusted.confidence_interval()))


def test_clear_means_that_the_interval_leaves_out_zero():
    assert compare.unpaired_difference([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).clear
    assert not compare.unpaired_difference([1.0, 1.1, 0.9], [1.05, 1.15, 0.95]).clear
    assert compare.unpaired_difference([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).verdict == "clear"
    assert compare.unpaired_difference([1.0, 1.1, 0.9], [1.05, 1.15, 0.95]).verdict == "not clear"
    # More seeds of the same spread make the same difference clear.
    assert compare.unpaired_difference([1.0, 1.1, 0.9] * 20, [1.05, 1.15, 0.95] * 20).clear


@pytest.mark.parametrize("make", [compare.paired_difference, compare.unpaired_difference])
def test_one_seed_tells_nothing(make):
    found = make([0.9], [0.95])
    assert found.error == math.inf and not found.clear and found.p_value == 1
    assert "one seed" in str(found)


def test_no_spread_at_all():
    same, other = compare.paired_difference([1, 2], [1, 2]), compare.unpaired_difference([1, 1], [2, 2])
    assert not same.clear and same.p_value == 1
    assert other.clear and other.p_value == 0


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (compare.paired_difference, [1.0], [1.0, 2.0]),
        (compare.paired_difference, [], []),
        (compare.unpaired_difference, [], [1.0]),
    ],
)
def test_what_cannot_be_compared_is_refused(make, first, second):
    with pytest.raises(ValueError, match="need"):
        make(first, second)


def test_holm_is_stricter_than_the_level_and_milder_than_bonferroni():
    # Worked by hand: 0.01 <= 0.05/4; 0.013 <= 0.05/3; 0.03 > 0.05/2, and 0.04 falls with it.
    assert compare.holm([0.04, 0.01, 0.03, 0.013]) == [False, True, False, True]
    # Bonferroni would hold 0.013 to 0.0125.
    assert compare.holm([0.04]) == [True]
    assert compare.holm([]) == []
    # One that fails takes larger ones with it, though they would pass their own bound.
    assert compare.holm([0.03, 0.04]) == [False, False]


def test_a_prediction_interval_holds_one_further_value():
    low, high = compare.prediction_interval([1.0, 2.0, 3.0])
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653 (NIST's table: 4.303).
    assert (low, high) == pytest.approx((2 - 4.302653 * math.sqrt(4 / 3), 2 + 4.302653 * math.sqrt(4 / 3)))
    narrow = compare.prediction_interval([1.0, 2.0, 3.0], level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_of_normal_values_it_holds_95_in_100():
    generator = random.Random(0)
    draws = [[generator.gauss(0, 1) for _ in range(6)] for _ in range(4000)]
    inside = [
        low <= further <= high
        for *known, further in draws
        for low, high in [compare.prediction_interval(known)]
    ]
    # Standard error 0.0034.
    assert statistics.fmean(inside) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("values", "level"), [([1.0], 0.95), ([], 0.95), ([1.0, 2.0], 1.0), ([1.0, 2.0], 0.0)]
)
def test_a_prediction_interval_needs_a_spread_and_a_level(values, level):
    with pytest.raises(ValueError, match=r"at least two|between 0 and 1"):
        compare.prediction_interval(values, level)
