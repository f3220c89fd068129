"""The loss around a trained network, along random directions with normalized filters.

Hao Li, Zheng Xu, Gavin Taylor, Christoph Studer, Tom Goldstein: Visualizing the Loss Landscape of Neural Nets
(2018), https://arxiv.org/abs/1712.09913.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import data, models
from resnetbook.probes import evaluation_mode
from resnetbook.recipe import Recipe
from resnetbook.transforms import prepare

NUM_IMAGES = 500
COORDINATES = tuple(round(-1 + 0.2 * step, 1) for step in range(11))


def random_direction(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction in which each filter is as long as the model's own (Li et al. 2018, section 4).

    A filter is what makes one output channel: ``weight[i]`` of a convolution or a linear layer. Biases, and
    the scales and shifts of norms, stay where they are: their direction is 0.

    Args:
        model: its parameters are not changed.
        generator: of the random numbers, on the CPU.

    Returns:
        For the name of each parameter a tensor of its shape.
    """
    direction = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.dim() < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        length, wanted = (each.flatten(1).norm(dim=1) for each in (drawn, weight))  # one for each filter
        direction[name] = drawn * (wanted / length).view(-1, *[1] * (weight.dim() - 1))
    return direction


@contextmanager
def moved(
    model: nn.Module, directions: Sequence[Mapping[str, Tensor]], coordinates: Sequence[float]
) -> Iterator[None]:
    """Within it the parameters are θ + a·d + b·e + …; behind it they are bit for bit what they were.

    Args:
        model: what is moved, in place.
        directions: each with a tensor for every parameter.
        coordinates: one for each direction.

    Raises:
        ValueError: if there are not as many coordinates as directions.
    """
    if len(directions) != len(coordinates):
        raise ValueError(f"{len(directions)} directions need as many coordinates, got {len(coordinates)}")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                for direction, how_far in zip(directions, coordinates, strict=True):
                    parameter.add_(direction[name], alpha=how_far)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])


@torch.no_grad()
def losses(
    model: nn.Module,
    directions: Sequence[Mapping[str, Tensor]],
    points: Sequence[Sequence[float]],
    images: Tensor,
    labels: Tensor,
    batch_size: int = 500,
) -> list[float]:
    """The mean cross-entropy at points around a model, in the mode that the model is in.

    Args:
        model: maps images to logits.
        directions: as for :func:`moved`.
        points: for each the coordinates, as for :func:`moved`.
        images: ``(N, C, H, W)``, prepared as for the training.
        labels: ``(N,)``.
        batch_size: how many images at a time. In training mode a norm uses the statistics of a batch.

    Returns:
        One loss for each point, in nats.
    """
    found = []
    for point in points:
        with moved(model, directions, point):
            total = 0.0
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                total += F.cross_entropy(model(x), y, reduction="sum").item()
        found.append(total / len(labels))
    return found


def some_training_images(num_images: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """The first training images, prepared, and their labels."""
    train = data.fashion_mnist()
    return prepare(train.train_images[:num_images], Recipe()), train.train_labels[:num_images]


def directions_of(model: nn.Module, seed: int) -> list[dict[str, Tensor]]:
    """The two random directions of a seed: the same random numbers, whatever the model's filters are."""
    generator = torch.Generator().manual_seed(seed)
    return [random_direction(model, generator) for _ in range(2)]


def surface_study(seed: int) -> dict:
    """The loss over a grid in two directions around both networks of 56 layers; a seed is their seed."""
    images, labels = some_training_images()
    points = [(a, b) for b in COORDINATES for a in COORDINATES]
    found: dict = {"num_images": len(labels), "coordinates": list(COORDINATES), "losses": {}}
    for name in ("plain-56", "resnet-56"):
        model = models.trained(name, 0)
        with evaluation_mode(model):
            flat = losses(model, directions_of(model, seed), points, images, labels)
        side = len(COORDINATES)
        # Row by row: the second coordinate grows downwards, the first to the right.
        found["losses"][name] = [flat[row * side : (row + 1) * side] for row in range(side)]
    return found


def cut_study(seed: int) -> dict:
    """The loss along the first of a seed's directions, for all four networks, with both kinds of statistics.

    In evaluation mode norms keep the statistics of the training; in training mode they take those of the 500
    images, as they do while a network learns.
    """
    images, labels = some_training_images()
    points = [(a,) for a in COORDINATES]
    found: dict = {"num_images": len(labels), "coordinates": list(COORDINATES), "kept": {}, "batch": {}}
    for name in ("plain-20", "resnet-20", "plain-56", "resnet-56"):
        model = models.trained(name, 0)
        along = directions_of(model, seed)[:1]
        found["kept"][name] = losses(model.eval(), along, points, images, labels)
        found["batch"][name] = losses(model.train(), along, points, images, labels)
    return found
