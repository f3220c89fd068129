"""Images turned, shifted and noisy, and what that does to a network's accuracy.

Pixels are between 0, which is black, and 1; what comes in from outside is black.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import data, models

DEGREES = (0, 5, 10, 15, 20, 30, 45, 60, 90, 135, 180)
PIXELS = (0, 1, 2, 3, 4, 5, 6, 8)
SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
NUM_IMAGES = 2000


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Images ``(N, C, H, W)``, turned to the left around their centre, bilinear between pixels.

    For H = W, 90 degrees are ``torch.rot90(images, 1, (2, 3))``.
    """
    height, width = images.shape[2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From a place of the new image (x to the right, y downwards, both from -1 to 1) to one of the old.
    back = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]], dtype=images.dtype)
    grid = F.affine_grid(back.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images), mode="bilinear", align_corners=False)


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images ``(N, C, H, W)``, shifted by whole pixels; negative numbers shift up and left.

    Raises:
        ValueError: if nothing of the images would be left.
    """
    height, width = images.shape[2:]
    if abs(down) >= height or abs(right) >= width:
        raise ValueError(f"a shift by ({down}, {right}) leaves nothing of {height}×{width} pixels")
    # A negative padding cuts off; in the order left, right, top, bottom.
    return F.pad(images, (right, -right, down, -down))


def noisy(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Images plus independent normal noise with the standard deviation ``sigma``; nothing is cut off."""
    return images + sigma * torch.randn(images.shape, generator=generator).to(images)


def turned_both_ways(images: Tensor, degrees: float) -> Tensor:
    """Every second image turned to the left, the others to the right."""
    changed = torch.empty_like(images)
    changed[0::2] = rotated(images[0::2], degrees)
    changed[1::2] = rotated(images[1::2], -degrees)
    return changed


def shifted_four_ways(images: Tensor, pixels: int) -> Tensor:
    """Every fourth image shifted down, up, right and left."""
    changed = torch.empty_like(images)
    for i, (down, right) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        changed[i::4] = shifted(images[i::4], down * pixels, right * pixels)
    return changed


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """How many images a model of the book gets right, as a share.

    Args:
        model: in evaluation mode; trained on normalized pixels.
        pixels: ``(N, C, H, W)``, from 0 to 1 before they were changed.
        labels: ``(N,)``.
        batch_size: how many images at a time.
    """
    parts = ((pixels - data.MEAN) / data.STD).split(batch_size)
    predicted = torch.cat([model(part).argmax(1) for part in parts])
    return float((predicted == labels).double().mean())


CHANGES: dict[str, tuple[tuple[float, ...], Callable[[Tensor, float], Tensor]]] = {
    "rotation": (DEGREES, turned_both_ways),
    "shift": (PIXELS, shifted_four_ways),
    # The same noise in every network, and for every sigma.
    "noise": (SIGMAS, lambda images, sigma: noisy(images, sigma, torch.Generator().manual_seed(0))),
}


def corruption_study(seed: int) -> dict:
    """Accuracy of the networks of 20 layers on changed test images, by kind of change and how large it is."""
    test = data.fashion_mnist()
    pixels, labels = test.test_images[:NUM_IMAGES].float() / 255, test.test_labels[:NUM_IMAGES]
    found: dict = {"num_images": len(labels)}
    for name in ("resnet-20", "plain-20"):
        model = models.trained(name, seed)
        found[name] = {
            kind: [accuracy(model, change(pixels, size), labels) for size in sizes]
            for kind, (sizes, change) in CHANGES.items()
        }
    found |= {kind: list(sizes) for kind, (sizes, _) in CHANGES.items()}
    return found
