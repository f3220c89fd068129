"""What chapter 3 says of its results is what the records say."""

import math
from statistics import fmean

from conftest import last_of_seeds

from resnetbook import runs


def spreads_apart(first: str, second: str, key: str) -> float:
    """The distance of two means, in units of the seeds' spread, as chapter 3 judges it."""
    groups = [last_of_seeds(name, key) for name in (first, second)]
    (mean_1, std_1), (mean_2, std_2) = map(runs.mean_std, groups)
    return abs(mean_1 - mean_2) / math.sqrt((std_1**2 + std_2**2) / 2)


def test_what_chapter_3_judges_by_the_spread_is_so():
    a, b, c = "degradation-residual-20", "shortcut-b-20", "shortcut-c-20"
    assert min(len(runs.load_seeds(name)) for name in (a, b, c)) >= 3
    assert spreads_apart("degradation-plain-20", a, "test_accuracy") > 2
    assert all(spreads_apart(*pair, "test_accuracy") < 1 for pair in ((a, b), (b, c), (a, c)))
    losses = [fmean(last_of_seeds(name, "slice_loss")) for name in (a, b, c)]
    assert losses == sorted(losses)
    for depth, most in ((20, 1), (56, 2)):
        pair = f"degradation-residual-{depth}", f"preactivation-{depth}"
        assert min(len(runs.load_seeds(name)) for name in pair) >= 3
        assert spreads_apart(*pair, "test_accuracy") < most, depth
    assert spreads_apart(*pair, "slice_loss") < 2
    first, second = (last_of_seeds(name, "slice_loss") for name in pair)
    assert max(second) < max(first) and fmean(second) < fmean(first)
