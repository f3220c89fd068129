"""What chapter 7 says of loss surfaces, calibration and changed images is what the records say."""

import statistics

import numpy as np
import pytest
import torch
from conftest import claim

from resnetbook import calibration, data, models, probes, runs, studies, surface


def says(words: str, holds: bool = True) -> None:
    """The page says these words, and they hold."""
    claim("07", words, holds)


def test_what_is_said_of_the_surface():
    (record,) = studies.load_seeds("surface")
    grids = {name: np.array(rows) for name, rows in record["result"]["losses"].items()}
    parameters = probes.count_parameters(models.trained("resnet-56"))
    says("has nearly a million weights", 800_000 < parameters < 1_000_000)
    says("500 training images, 11×11 points", record["result"]["num_images"] == 500)
    assert all(grid.shape == (11, 11) for grid in grids.values())

    def lowest(grid: np.ndarray) -> int:
        """How many inner points lie below all eight around them."""
        around = [np.roll(grid, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        return int((grid < np.min(around, axis=0))[1:-1, 1:-1].sum())

    says("with one lowest point", lowest(grids["resnet-56"]) == 1)
    below = {name: int((grid < 1).sum()) for name, grid in grids.items()}
    says("in a narrow hole in an uneven plateau", lowest(grids["plain-56"]) > 1)
    assert below["plain-56"] < below["resnet-56"] / 2
    far = np.abs(np.array(record["result"]["coordinates"])) >= 0.7
    plateau = grids["plain-56"][far[:, None] | far]
    says("at losses that guessing (2.3) would beat", plateau.min() > np.log(10))
    corners = grids["resnet-56"][[0, 0, -1, -1], [0, -1, 0, -1]]
    says("at the corners the bowl rises above 1,000", max(corners) > 1000 and min(corners) > 500)
    says("nowhere does plain-56 lose more than 13", grids["plain-56"].max() < 13)


def test_what_is_said_of_the_cuts():
    cuts = [record["result"] for record in studies.load_seeds("surface-cuts")]
    near = [surface.COORDINATES.index(-0.4), surface.COORDINATES.index(0.4)]

    def rise(how: str, name: str) -> float:
        lines = np.array([cut[how][name] for cut in cuts])
        return float((lines[:, near] - lines[:, [5]]).mean())

    several, less = (rise(how, "plain-56") / rise(how, "resnet-56") for how in ("kept", "batch"))
    says("with kept statistics plain-56 climbs several times as far as resnet-56", several > 3)
    says("with those of the images not even three times", 1 < less < 3)
    for how in ("kept", "batch"):
        ratio = rise(how, "plain-20") / rise(how, "resnet-20")
        says("The two networks of 20 layers show no such difference.", 0.5 < ratio < 2)
    says("plain-56 ended higher, its training loss had told us")
    last = {name: runs.load(f"{name}-seed0")["history"][-1] for name in ("plain-56", "resnet-56")}
    assert last["plain-56"]["train_loss"] > 2 * last["resnet-56"]["train_loss"]


@pytest.fixture(scope="module")
def calibrated() -> dict[str, list[dict]]:
    found = {
        name: [record["result"][name] for record in studies.load_seeds(study)]
        for study, *names in (
            ("calibration", "resnet-20", "plain-20"),
            ("calibration-56", "resnet-56", "plain-56"),
        )
        for name in names
    }
    labels = data.fashion_mnist().test_labels
    found["chapter 5"] = [
        calibration.calibrated(torch.from_numpy(runs.load_logits(f"source-recipe-seed{seed}")), labels)
        for seed in range(3)
    ]
    return found


def test_what_is_said_of_calibration(calibrated):
    first = calibrated["resnet-20"][0]
    says("ResNet-20 is right for 92 percent of the test images", round(first["accuracy"], 2) == 0.92)
    gaps = np.subtract(first["bin_confidence"], first["bin_accuracy"])
    says("From 0.6 on, every bin lies below the line, by up to 0.11", bool((gaps[9:] > 0).all()))
    assert 0.105 < gaps[9:].max() < 0.115
    says("Four fifths of the predictions are in the last bin", 0.79 < first["count"][-1] / 10_000 < 0.82)
    says("and there the gap is 0.01", round(gaps[-1], 2) == 0.01)

    def mean(name: str, key: str) -> float:
        return statistics.fmean(np.ravel([result[key] for result in calibrated[name]]).tolist())

    for results in calibrated.values():
        for result in results:
            says("All are too sure", result["confidence"] > result["accuracy"])
            assert all(temperature > 1 for temperature in result["temperatures"])
            assert result["ece_after"] < result["ece"] and result["accuracy"] == result["accuracy_after"]
    others = [name for name in calibrated if name != "chapter 5"]
    says("and none by much, but for chapter 5's network", max(mean(name, "ece") for name in others) < 0.03)
    assert mean("chapter 5", "ece") > 0.05
    times = runs.load("source-recipe-seed0")["parameters"] / runs.load("resnet-20-seed0")["parameters"]
    says("a ResNet-18 with forty times as many parameters", 39 < times < 42)
    learned = [record["history"][-1]["train_accuracy"] for record in runs.load_seeds("source-recipe")]
    says("trained until it made hardly any mistake on the training images", min(learned) > 0.98)
    says(
        "One number takes most of its error away",
        mean("chapter 5", "ece_after") < mean("chapter 5", "ece") / 3,
    )
    says(
        "with its temperature ResNet-20 gets down to that",
        mean("resnet-20", "ece_after") < 1.25 * mean("resnet-20", "ece_by_chance"),
    )
    says(
        "nobody's probabilities are better here than those of plain-56, the worst at the task",
        min(calibrated, key=lambda name: mean(name, "ece")) == "plain-56"
        and min(calibrated, key=lambda name: mean(name, "accuracy")) == "plain-56",
    )


def test_what_is_said_of_changed_images():
    found = [record["result"] for record in studies.load_seeds("corruptions")]
    networks = [result[name] for result in found for name in ("resnet-20", "plain-20")]

    def at(kind: str, size: float) -> list[float]:
        return [network[kind][found[0][kind].index(size)] for network in networks]

    says("at 30 degrees a quarter is right", all(0.22 < value < 0.28 for value in at("rotation", 30)))
    says("at 90 fewer than by guessing", max(at("rotation", 90)) < 0.1)
    whole = at("rotation", 0)
    lost = [a - b for a, b in zip(whole, at("shift", 4), strict=True)]
    says("costs 30 to 41 points", (round(100 * min(lost)), round(100 * max(lost))) == (30, 41))
    for kind, size in (("rotation", 5), ("shift", 1), ("noise", 0.05)):
        says(
            "cost less than 5",
            max(a - b for a, b in zip(whole, at(kind, size), strict=True)) < 0.05,
        )
    says("Turning is worst", max(at("rotation", 30)) < min(at("shift", 4) + at("noise", 0.2)))
    for size in (0.3, 0.5):
        place = found[0]["noise"].index(size)
        says(
            "it is the *plain* networks that keep more, in all three pairs",
            all(result["plain-20"]["noise"][place] > result["resnet-20"]["noise"][place] for result in found),
        )
