"""The yardstick, held against scipy and published examples."""

import math

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
