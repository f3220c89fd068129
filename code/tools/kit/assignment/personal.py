"""What follows from a student's name: a seed, a slice of the training images, a block to count."""

import hashlib
import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor

from resnetbook import models, train
from resnetbook.recipe import Recipe

NUM_IMAGES = 2_000
NETWORKS = {"plain-8": (8, False), "plain-44": (44, False), "residual-44": (44, True)}


@dataclass(frozen=True)
class Personal:
    """Numbers of one student; the block to count halves a map of ``side`` × ``side`` pixels."""

    seed: int
    in_channels: int
    out_channels: int
    side: int


def personal(name: str) -> Personal:
    """The numbers of a name; capitals and spaces more or fewer make no difference.

    Raises:
        ValueError: if the name is empty.
    """
    key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not key:
        raise ValueError("write your name into NAME")
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    in_channels = 8 * (2 + digest[4] % 14)
    return Personal(int.from_bytes(digest[:4], "big"), in_channels, 2 * in_channels, 2 * (8 + digest[5] % 16))


def slice_of(name: str, images: Tensor, labels: Tensor, size: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """The images ``(size, 1, 28, 28)`` and the labels ``(size,)`` that belong to a name."""
    generator = torch.Generator().manual_seed(personal(name).seed)
    chosen = torch.randperm(len(images), generator=generator)[:size]
    return images[chosen], labels[chosen]


def train_three(name: str, images: Tensor, labels: Tensor, num_epochs: int = 4, shift: int = 0) -> dict:
    """Train the three networks on the slice of a name; the training loss of each in its last epoch.

    Args:
        name: of the student.
        images: of a slice, as :func:`slice_of` gives them.
        labels: of the slice.
        num_epochs: passes over the slice.
        shift: added to the seed, for other starting weights and another order of the same images.
    """
    seed = personal(name).seed + shift
    losses = {}
    for network, (depth, residual) in NETWORKS.items():
        torch.manual_seed(seed)
        model = models.cifar_resnet(depth, residual, width=8, in_channels=1, stem_stride=2)
        recipe = Recipe(num_epochs=num_epochs, lr=0.1)
        history = train.fit(model, images, labels, recipe, seed=seed, device="cpu", progress=False)
        losses[network] = round(history[-1]["train_loss"], 3)
    return losses
