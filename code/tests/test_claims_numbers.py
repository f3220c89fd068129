"""What the page on differing numbers says is so, held against the records."""

import statistics

import pytest
import site_numbers
from conftest import claim

from resnetbook import compare, numerics, runs, studies

PAGE = "your_numbers"
WAYS = site_numbers.circumstances()
# Other ways of computing the same seed.
CHANGED = ("two threads", "an older processor", "channels first")


def test_the_tables_are_those_of_the_records():
    for name, accuracy, band in site_numbers.bands():
        values = [record["test_accuracy"] for record in runs.load_seeds(name)]
        assert (
            accuracy == f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f} (n = {len(values)})"
        )
        low, high = map(float, band.split("–"))
        expected = compare.prediction_interval(values)
        assert (low, high) == pytest.approx((max(expected[0], 0), min(expected[1], 1)), abs=0.0005)
    missing = set(runs.by_experiment()) - {name for name, *_ in site_numbers.bands()}
    assert all(len(runs.load_seeds(name)) < 3 for name in missing)


def test_the_band_and_compare_agree():
    name, _, band = site_numbers.bands()[-1]
    found = runs.compare(name, 0.5)
    assert band == f"{found.low:.3f}–{found.high:.3f}"


def test_the_band_is_right_about_as_often_as_it_says():
    inside, number = site_numbers.left_out()
    assert number > 150
    assert 0.9 < inside / number < 0.98


def test_the_same_again_gives_the_same_bits():
    claim(
        PAGE,
        "The same computer with the same settings gives the same bits",
        WAYS["the same again"]["largest"] == [0.0] * len(numerics.STEPS)
        and WAYS["the same again"]["changed"][-1] == 0,
    )


def test_differences_grow():
    first, tenth, hundredth, _ = zip(*(WAYS[name]["largest"] for name in CHANGED), strict=True)
    claim(PAGE, "After one step the logits differ in their seventh digit", max(first) < 3e-6)
    claim(
        PAGE,
        "a hundredfold and more in ten steps and a thousandfold in the next ninety",
        all(after > 100 * before for before, after in zip(first, tenth, strict=True))
        and all(after > 1_000 * before for before, after in zip(tenth, hundredth, strict=True)),
    )


def test_answers_change_and_the_accuracy_hardly_does():
    claim(
        PAGE,
        "It gives several images in a hundred another answer, yet its accuracy has moved by far less",
        all(
            0.02 < WAYS[name]["changed"][-1] < 0.1 and WAYS[name]["moved"][-1] < WAYS[name]["changed"][-1] / 2
            for name in CHANGED
        ),
    )
    claim(
        PAGE,
        "another number of threads is, after one epoch, almost another seed",
        WAYS["two threads"]["changed"][-1] > WAYS["another seed"]["changed"][-1] / 2.5,
    )


def test_two_releases_agree():
    other = WAYS["another PyTorch"]
    assert other["torch"] != WAYS["the same again"]["torch"]
    claim(PAGE, "gave the same bits on this computer", other["largest"] == [0.0] * len(numerics.STEPS))


def test_the_spread_of_seeds():
    plain = compare.prediction_interval(runs.last(runs.load_seeds("degradation-plain-56"), "test_accuracy"))
    assert plain[1] - plain[0] > 0.1
    deviations = [
        statistics.stdev(runs.last(found, "test_accuracy"))
        for found in runs.by_experiment().values()
        if len(found) > 2
    ]
    usual = sum(0.0005 <= deviation < 0.0035 for deviation in deviations) / len(deviations)
    claim(PAGE, "about 0.001 to 0.003 for a recipe that works", usual > 0.6)
    claim(PAGE, "twenty times that where training is on the edge", 0.02 < max(deviations))


def test_the_processors_pairs():
    first, second, rows = site_numbers.processors()
    assert first != second
    for recipe, twin in site_numbers.TWINS.items():
        differs = runs.compare(recipe, runs.load(f"{twin}-seed0")).differs
        assert [line for line in differs if "recipe" in line or "model" in line] == []
    by_label = {label: abs(float(difference)) for label, *_, difference in rows}
    claim(
        PAGE,
        "the differences are about as large as those between seeds",
        max(size for label, size in by_label.items() if "-20" in label) < 0.005,
    )
    claim(
        PAGE,
        "the plain network, whose training is on the edge, moved most",
        max(by_label, key=by_label.get).startswith("plain-56"),
    )


def test_the_study_is_what_the_page_says():
    records = studies.load_seeds("numerics")
    claim(PAGE, "over the 10,000 test images and five seeds", len(records) == 5)
    experiment = runs.EXPERIMENTS[numerics.EXPERIMENT]
    steps = -(-60_000 // experiment.recipe.batch_size)
    claim(PAGE, "an epoch of 469 steps", numerics.STEPS[-1] == steps == 469)
    claim(
        PAGE,
        "the residual network of 8 layers",
        experiment.model["depth"] == 8 and experiment.model["residual"],
    )
