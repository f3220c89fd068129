"""Are a network's probabilities right? Reliability, expected calibration error, and temperature scaling.

Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Weinberger: On Calibration of Modern Neural Networks (2017),
https://arxiv.org/abs/1706.04599.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resnetbook import data, models
from resnetbook.train import evaluate

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted into bins by their confidence, which is the largest probability.

    Attributes:
        count: how many predictions fall into each bin, ``(bins,)``.
        confidence: their mean confidence; 0 in an empty bin.
        accuracy: how many of them are right, as a share; 0 in an empty bin.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Sort predictions into bins of equal width (Guo et al. 2017, section 2).

    Bin i holds the confidences above i / bins, up to (i + 1) / bins; the last bin holds 1.

    Args:
        probabilities: ``(N, K)``, each row with the sum 1.
        labels: ``(N,)``.
        bins: how many.

    Raises:
        ValueError: if there are no predictions, not as many labels, or no bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    if len(labels) != len(probabilities) or not len(labels):
        raise ValueError(f"{len(probabilities)} predictions and {len(labels)} labels cannot be compared")
    confidence, predicted = probabilities.double().max(1)  # (N,), (N,)
    which = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = torch.bincount(which, minlength=bins)
    total = torch.bincount(which, confidence, minlength=bins)
    right = torch.bincount(which, (predicted == labels).double(), minlength=bins)
    return Reliability(count, total / count.clamp(min=1), right / count.clamp(min=1))


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The gap between confidence and accuracy, averaged over bins by their counts (Guo et al. 2017, eq. 3).

    Raises:
        ValueError: as :func:`reliability`.
    """
    found = reliability(probabilities, labels, bins)
    gap = (found.accuracy - found.confidence).abs()
    return float((found.count * gap).sum() / found.count.sum())


def slope(logits: Tensor, labels: Tensor, beta: float) -> float:
    """The derivative of the mean cross-entropy of ``beta * logits`` for ``beta``, the inverse temperature.

    It is the mean logit under the network's own probabilities, minus that of the true class. Its derivative
    is the logits' variance under these probabilities, which is never negative: so it grows with beta, and
    the cross-entropy is convex in beta.
    """
    logits = logits.double()
    expected = ((beta * logits).softmax(1) * logits).sum(1)
    return float((expected - logits.gather(1, labels[:, None]).squeeze(1)).mean())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T for which ``logits / T`` has the least cross-entropy.

    Found by halving an interval of 1/T until the slope there is 0: one slope, one zero.

    Args:
        logits: ``(N, K)``, of images that the network was not trained on.
        labels: ``(N,)``.

    Raises:
        ValueError: if no T between 1/1000 and 1000 is best, as for predictions that are all right.
    """
    low, high = 1e-3, 1e3
    if not slope(logits, labels, low) < 0 < slope(logits, labels, high):
        raise ValueError(
            "no temperature between 1/1000 and 1000 is best: are all predictions right, or none?"
        )
    while high / low > 1 + 1e-9:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(logits, labels, middle) < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


def logits_of(experiment: str, seed: int) -> tuple[Tensor, Tensor]:
    """The logits of a kept network for all test images, ``(10000, 10)``, and the labels."""
    test = data.fashion_mnist()
    model = models.trained(experiment, seed)
    return evaluate(model, test.test_images, test.test_labels).logits, test.test_labels


def halves(num_images: int) -> tuple[slice, slice]:
    """The first half and the second."""
    return slice(num_images // 2), slice(num_images // 2, num_images)


def calibrated(logits: Tensor, labels: Tensor) -> dict:
    """What chapter 7 tells of a network's probabilities, before and after one temperature.

    The temperature of one half of the images is applied to the other, and the other way round.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.
    """
    logits = logits.double()
    probabilities = logits.softmax(1)
    found = reliability(probabilities, labels)
    # What chance makes of the same confidences if they are right: labels drawn from them.
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(probabilities, 1, generator=generator).squeeze(1) for _ in range(20)]
    first, second = halves(len(labels))
    scaled, temperatures = torch.empty_like(logits), []
    for fitted, other in ((first, second), (second, first)):
        temperatures.append(fit_temperature(logits[fitted], labels[fitted]))
        scaled[other] = logits[other] / temperatures[-1]
    after = reliability(scaled.softmax(1), labels)
    return {
        "num_images": len(labels),
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "accuracy_after": float((scaled.argmax(1) == labels).double().mean()),
        "confidence": float(probabilities.max(1).values.mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "ece_after": expected_calibration_error(scaled.softmax(1), labels),
        "ece_by_chance": [expected_calibration_error(probabilities, labels_) for labels_ in drawn],
        "loss": float(F.cross_entropy(logits, labels)),
        "loss_after": float(F.cross_entropy(scaled, labels)),
        "temperatures": temperatures,
        "count": found.count.tolist(),
        "bin_confidence": found.confidence.tolist(),
        "bin_accuracy": found.accuracy.tolist(),
        "count_after": after.count.tolist(),
        "bin_confidence_after": after.confidence.tolist(),
        "bin_accuracy_after": after.accuracy.tolist(),
    }


def calibration_study(seed: int) -> dict:
    """Calibration of the networks of 20 layers on the 10,000 test images."""
    return {name: calibrated(*logits_of(name, seed)) for name in ("resnet-20", "plain-20")}


def deep_calibration_study(seed: int) -> dict:
    """Calibration of the networks of 56 layers on the 10,000 test images."""
    return {name: calibrated(*logits_of(name, seed)) for name in ("resnet-56", "plain-56")}
