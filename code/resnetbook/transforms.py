"""What becomes of images before a network reads them: augmentation, then preparation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from resnetbook import devices
from resnetbook.data import MEAN, STD
from resnetbook.recipe import Recipe


def prepare(images: Tensor, recipe: Recipe) -> Tensor:
    """Turn stored images, uint8 ``(N, C, H, W)``, into what the network reads, float32."""
    x = images.float() / 255
    if recipe.resize is not None:
        x = F.interpolate(x, size=(recipe.resize, recipe.resize), mode="bilinear", antialias=True)
    if recipe.normalize:
        x = (x - MEAN) / STD
    return x.contiguous(memory_format=devices.memory_format(recipe, x.device))


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Change training images, uint8 ``(N, C, H, W)``, at random, each in its own way.

    The random numbers are drawn on the CPU, so that a seed means the same on every device.
    """
    num_images, _, height, width = images.shape
    device = images.device
    if recipe.flip:
        flipped = torch.rand(num_images, generator=generator).to(device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    if recipe.shift:
        padded = F.pad(images, (recipe.shift,) * 4)
        offsets = torch.randint(0, 2 * recipe.shift + 1, (2, num_images), generator=generator).to(device)
        rows = offsets[0][:, None] + torch.arange(height, device=device)  # (N, H)
        columns = offsets[1][:, None] + torch.arange(width, device=device)  # (N, W)
        n = torch.arange(num_images, device=device)[:, None, None]
        # Advanced indices around a slice put the channel axis last; move it back.
        images = padded[n, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.erase:
        hidden = _rectangles(num_images, height, width, recipe.erase, generator)
        images = images.masked_fill(hidden[:, None].to(device), 0)
    return images


def _rectangles(
    num_images: int, height: int, width: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Which pixels are hidden, bool ``(N, H, W)``: one rectangle in an image, or none."""
    chosen = torch.rand(num_images, generator=generator) < probability
    area = torch.empty(num_images).uniform_(0.02, 0.33, generator=generator) * height * width
    ratio = torch.empty(num_images).uniform_(math.log(0.3), math.log(3.3), generator=generator).exp()
    tall = (area * ratio).sqrt().clamp(max=height).long()
    wide = (area / ratio).sqrt().clamp(max=width).long()
    top = (torch.rand(num_images, generator=generator) * (height - tall + 1)).long()
    left = (torch.rand(num_images, generator=generator) * (width - wide + 1)).long()
    y, x = torch.arange(height), torch.arange(width)
    in_rows = (y >= top[:, None]) & (y < (top + tall)[:, None])  # (N, H)
    in_columns = (x >= left[:, None]) & (x < (left + wide)[:, None])  # (N, W)
    return in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
