"""Preparation and augmentation against PIL, torchvision, and loops over pixels."""

import math

import pytest
import torch
import torchvision
from conftest import DEVICES
from PIL import Image

from resnetbook import data
from resnetbook.recipe import Recipe
from resnetbook.transforms import augment, prepare


def test_resizing_is_d2ls_but_for_rounding(dataset):
    """d2l resizes PIL images, which hold whole grey values, so each step rounds; ours does not."""
    images = dataset.train_images[:60]
    ours = prepare(images, Recipe(resize=96, normalize=False))
    resize = torchvision.transforms.Resize(96)
    theirs = torch.stack(
        [torchvision.transforms.functional.to_tensor(resize(Image.fromarray(i[0].numpy()))) for i in images]
    )
    assert ours.shape == theirs.shape == (60, 1, 96, 96)
    difference = (ours - theirs).abs() * 255
    # PIL rounds after each of its two passes: at most half a grey value each time.
    assert difference.max() <= 1.05
    assert difference.mean() < 0.3
    # torchvision's own resizing of float tensors rounds nothing.
    exact = torchvision.transforms.functional.resize(images / 255, [96, 96], antialias=True)
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [14, 28, 40])
def test_resizing_down_smooths_as_torchvision_does(dataset, side):
    images = dataset.train_images[:5]
    ours = prepare(images, Recipe(resize=side, normalize=False))
    exact = torchvision.transforms.functional.resize(images / 255, [side, side], antialias=True)
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=0)


def test_normalized_training_images_have_mean_0_and_deviation_1(dataset):
    total = square = count = 0.0
    for part in dataset.train_images.split(10_000):
        x = prepare(part, Recipe())
        total += x.sum(dtype=torch.float64).item()
        square += x.square().sum(dtype=torch.float64).item()
        count += x.numel()
    assert total / count == pytest.approx(0, abs=2e-4)
    assert math.sqrt(square / count - (total / count) ** 2) == pytest.approx(1, abs=2e-4)


def test_the_mean_and_deviation_are_those_of_the_data_module():
    white, black = (
        torch.full((1, 1, 2, 2), 255, dtype=torch.uint8),
        torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
    )
    assert prepare(white, Recipe()).unique().item() == pytest.approx((1 - data.MEAN) / data.STD)
    assert prepare(black, Recipe()).unique().item() == pytest.approx(-data.MEAN / data.STD)


def naive_augment(images: torch.Tensor, recipe: Recipe, seed: int) -> torch.Tensor:
    """Image by image, pixel by pixel, from the same random numbers."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = images.shape
    result = [image.clone() for image in images]
    if recipe.flip:
        for i, number in enumerate(torch.rand(n, generator=generator).tolist()):
            if number < 0.5:
                result[i] = torch.stack([result[i][..., width - 1 - x] for x in range(width)], -1)
    if recipe.shift:
        downs, rights = torch.randint(0, 2 * recipe.shift + 1, (2, n), generator=generator).tolist()
        for i in range(n):
            moved = torch.zeros_like(result[i])
            for y in range(height):
                for x in range(width):
                    from_y, from_x = y + downs[i] - recipe.shift, x + rights[i] - recipe.shift
                    if 0 <= from_y < height and 0 <= from_x < width:
                        moved[:, y, x] = result[i][:, from_y, from_x]
            result[i] = moved
    if recipe.erase:
        chosen = torch.rand(n, generator=generator)
        areas = torch.empty(n).uniform_(0.02, 0.33, generator=generator)
        ratios = torch.empty(n).uniform_(math.log(0.3), math.log(3.3), generator=generator)
        tops, lefts = torch.rand(n, generator=generator), torch.rand(n, generator=generator)
        for i in range(n):
            area, ratio = areas[i] * height * width, math.exp(ratios[i])
            tall = min(height, int(math.sqrt(area * ratio)))
            wide = min(width, int(math.sqrt(area / ratio)))
            top, left = int(tops[i] * (height - tall + 1)), int(lefts[i] * (width - wide + 1))
            if chosen[i] < recipe.erase:
                result[i][:, top : top + tall, left : left + wide] = 0
    return torch.stack(result)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True},
        {"shift": 1},
        {"shift": 3},
        {"erase": 0.6},
        {"erase": 1.0},
        {"flip": True, "shift": 2, "erase": 0.5},
    ],
)
def test_augmenting_a_batch_is_augmenting_each_image(options, device):
    images = torch.randint(1, 256, (40, 3, 9, 12), dtype=torch.uint8)  # wider than high; no black
    recipe = Recipe(**options)
    given = images.clone()
    result = augment(images.to(device), recipe, torch.Generator().manual_seed(4)).cpu()
    again = augment(images.to(device), recipe, torch.Generator().manual_seed(4)).cpu()
    assert result.dtype == torch.uint8
    assert torch.equal(result, naive_augment(images, recipe, 4))
    assert torch.equal(result, again)
    assert torch.equal(images, given)  # the stored images stay as they are


def test_half_of_the_images_are_mirrored():
    images = torch.arange(1, 5, dtype=torch.uint8).reshape(1, 1, 1, 4).repeat(4_000, 1, 1, 1)
    result = augment(images, Recipe(flip=True), torch.Generator().manual_seed(0))[:, 0, 0]
    mirrored = (result == torch.tensor([4, 3, 2, 1])).all(1)
    assert torch.equal(result[~mirrored], images[~mirrored][:, 0, 0])
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.04)  # five standard deviations


def test_a_shift_moves_every_way_equally_often_and_fills_with_black():
    images = torch.zeros(9_000, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 200
    result = augment(images, Recipe(shift=1), torch.Generator().manual_seed(0))
    counts = (result == 200).sum(0)[0]
    assert counts.sum() == 9_000 and (counts[1:4, 1:4] > 850).all()
    white = torch.full((50, 1, 5, 5), 255, dtype=torch.uint8)
    result = augment(white, Recipe(shift=2), torch.Generator().manual_seed(0))
    for image in result[:, 0]:
        rows, columns = (image > 0).any(1), (image > 0).any(0)
        assert (image > 0).sum() == rows.sum() * columns.sum() >= 9
    assert (result == 0).any()


def test_erasing_hides_one_rectangle_of_the_promised_size():
    white = torch.full((2_000, 1, 28, 28), 255, dtype=torch.uint8)
    result = augment(white, Recipe(erase=0.5), torch.Generator().manual_seed(0))[:, 0]
    hidden = result == 0
    tall, wide = hidden.any(2).sum(1), hidden.any(1).sum(1)
    share = hidden.sum((1, 2)) / 784
    assert torch.equal(hidden.sum((1, 2)), tall * wide)  # full rows times full columns: a rectangle
    assert (share > 0).float().mean() == pytest.approx(0.5, abs=0.06)
    assert share.max() <= 0.33
    assert share[share > 0].mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.02)
