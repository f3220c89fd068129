# ruff: noqa: F821, the names come from the files that stand above this one in the test.


@test_case(points=1)
def test_prediction_is_there(PREDICTION):
    assert isinstance(PREDICTION, str) and len(PREDICTION.split()) >= 8, "no sentence"


def losses(measured):
    assert isinstance(measured, dict) and set(measured) == set(NETWORKS), "not the three networks"
    # Who guesses among ten classes has log(10); nobody ends above twice that, or at 0.
    assert all(is_number(loss) and 0 < loss < 2 * math.log(10) for loss in measured.values())
    assert len(set(measured.values())) == 3, "the same number twice"
    return measured


@test_case(points=1)
def test_numbers_can_be_losses(measured):
    losses(measured)


# The students' own numbers are the measure: other processors, other last digits.
@test_case(points=1)
def test_differences_follow_from_the_numbers(measured, cost_of_depth, gain_of_shortcuts):
    found = losses(measured)
    assert is_number(cost_of_depth) and is_number(gain_of_shortcuts)
    assert abs(cost_of_depth - (found["plain-44"] - found["plain-8"])) < 0.0015
    assert abs(gain_of_shortcuts - (found["plain-44"] - found["residual-44"])) < 0.0015


@test_case(points=1)
def test_verdicts_follow_from_the_numbers(measured, plain_degrades, shortcuts_help):
    found = losses(measured)
    assert plain_degrades is (found["plain-44"] > found["plain-8"])
    assert shortcuts_help is (found["plain-44"] > found["residual-44"])
