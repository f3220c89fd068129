"""Calibration: bins against numpy, the temperature against a grid and a closed form."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnetbook import calibration, checks, runs, studies

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 10, generator=generator)
    labels = (logits + 4 * torch.randn(logits.shape, generator=generator)).argmax(1)
    return logits.double(), labels


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bins_are_those_of_numpy(predictions, bins):
    logits, labels = predictions
    rows = logits.softmax(1).numpy()
    confidence, right = rows.max(1), rows.argmax(1) == labels.numpy()
    found = calibration.reliability(logits.softmax(1), labels, bins)
    which = np.digitize(confidence, np.linspace(0, 1, bins + 1), right=True) - 1
    error = 0.0
    for b in range(bins):
        inside = which == b
        assert found.count[b] == inside.sum()
        if inside.any():
            assert found.confidence[b].item() == pytest.approx(confidence[inside].mean())
            assert found.accuracy[b].item() == pytest.approx(right[inside].mean())
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration.expected_calibration_error(logits.softmax(1), labels, bins)
    assert found == pytest.approx(error)
    exercise = checks.expected_calibration_error.built()
    assert exercise(logits.softmax(1), labels, bins) == pytest.approx(error, abs=1e-6)


def test_edges_belong_to_the_bin_below_and_certainty_to_the_last():
    probabilities = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0], [0.625, 0.375]])
    found = calibration.reliability(probabilities, torch.tensor([0, 0, 1, 0]), 4)
    assert found.count.tolist() == [0, 1, 2, 1]
    assert found.accuracy.tolist() == [0, 1, 1, 0]
    # In the second bin 1 − 0.5; in the third 1 − 0.6875; in the last 1 − 0.
    error = calibration.expected_calibration_error(probabilities, torch.tensor([0, 0, 1, 0]), 4)
    assert error == pytest.approx((0.5 + 2 * 0.3125 + 1) / 4)


def test_right_probabilities_have_hardly_any_error():
    generator = torch.Generator().manual_seed(0)
    probabilities = (2 * torch.randn(20_000, 10, generator=generator)).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    assert calibration.expected_calibration_error(probabilities, labels) < 0.02
    too_sure = (3 * probabilities.log()).softmax(1)
    assert calibration.expected_calibration_error(too_sure, labels) > 0.1


@pytest.mark.parametrize(
    ("bins", "num_labels", "message"), [(0, 2, "bins must be"), (3, 1, "2 predictions and 1 labels")]
)
def test_what_cannot_be_binned_is_refused(bins, num_labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.reliability(torch.full((2, 2), 0.5), torch.zeros(num_labels, dtype=torch.long), bins)


def test_the_temperature_is_the_best_of_a_grid(predictions):
    logits, labels = predictions
    found = calibration.fit_temperature(logits, labels)
    best = F.cross_entropy(logits / found, labels)
    for other in np.geomspace(found / 20, found * 20, 401):
        assert best <= F.cross_entropy(logits / other, labels) + 1e-12
    assert found > 1  # sharper than the labels are


@pytest.mark.parametrize(("gap", "right"), [(1.0, 3), (5.0, 9), (0.2, 6)])
def test_the_temperature_of_two_classes_has_a_closed_form(gap, right):
    # All logits (gap, 0), right of ten of class 0: the best probability is right / 10.
    logits = torch.tensor([[gap, 0.0]]).repeat(10, 1)
    labels = (torch.arange(10) >= right).long()
    if right <= 5:
        with pytest.raises(ValueError, match="no temperature between"):
            calibration.fit_temperature(logits, labels)
    else:
        wanted = gap / math.log(right / (10 - right))
        assert calibration.fit_temperature(logits, labels) == pytest.approx(wanted, rel=1e-6)


def test_predictions_that_are_all_right_have_no_best_temperature():
    with pytest.raises(ValueError, match="all predictions right"):
        calibration.fit_temperature(torch.eye(3), torch.arange(3))


def test_the_slope_is_the_derivative_and_grows(predictions):
    logits, labels = predictions
    slopes = []
    for value in (0.1, 0.3, 1.0, 2.0):
        beta = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy(beta * logits, labels)
        (gradient,) = torch.autograd.grad(loss, beta)
        slopes.append(calibration.slope(logits, labels, value))
        assert slopes[-1] == pytest.approx(gradient.item(), rel=1e-9)
    assert slopes == sorted(slopes)


def test_temperatures_change_no_prediction_and_each_half_has_that_of_the_other(predictions):
    logits, labels = predictions
    found = calibration.calibrated(logits, labels)
    assert found["accuracy"] == found["accuracy_after"]
    assert found["ece_after"] < found["ece"] and found["loss_after"] < found["loss"]
    first, second = calibration.halves(len(labels))
    assert (first, second) == (slice(250), slice(250, 500))
    assert found["temperatures"] == [
        calibration.fit_temperature(logits[half], labels[half]) for half in (first, second)
    ]
    scaled = torch.cat(
        [logits[first] / found["temperatures"][1], logits[second] / found["temperatures"][0]]
    ).softmax(1)
    assert found["ece_after"] == pytest.approx(calibration.expected_calibration_error(scaled, labels))
    assert sum(found["count"]) == sum(found["count_after"]) == len(labels)


def test_the_records_have_the_accuracies_of_their_networks():
    for study in ("calibration", "calibration-56"):
        for record in studies.load_seeds(study):
            assert record["clean_tree"]
            for name, result in record["result"].items():
                trained = runs.load(f"{name}-seed{record['seed']}")
                assert result["accuracy"] == pytest.approx(trained["test_accuracy"], abs=2e-3)
                assert result["num_images"] == sum(result["count"]) == 10_000
                gap = np.abs(np.subtract(result["bin_accuracy"], result["bin_confidence"]))
                assert result["ece"] == pytest.approx(float(gap @ result["count"]) / 10_000)
