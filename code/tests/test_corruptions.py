"""Turned, shifted and noisy images, against closed forms; and the recorded study."""

import pytest
import torch

from resnetbook import corruptions, data, models, studies

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    return torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [28, 7])
def test_right_angles_are_those_of_rot90(images, turns, size):
    images = images[..., :size, :size]
    found = corruptions.rotated(images, 90 * turns)
    assert torch.allclose(found, torch.rot90(images, turns, (2, 3)), atol=1e-5)


def test_other_sizes_turn_by_half(images):
    images = images[..., :20]
    assert torch.allclose(corruptions.rotated(images, 180), images.flip(2, 3), atol=1e-5)


def test_a_point_goes_where_the_angle_says():
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 30] = 1  # 10 to the right of the centre
    turned = corruptions.rotated(image, 30)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    # To the left is upwards here: 10 · sin 30° = 5 up, 10 · cos 30° to the right.
    assert float((turned * rows).sum() / turned.sum()) == pytest.approx(15, abs=0.2)
    assert float((turned * columns).sum() / turned.sum()) == pytest.approx(28.66, abs=0.2)


def test_what_comes_in_is_black(images):
    turned = corruptions.rotated(torch.ones_like(images), 45)
    assert turned[..., 0, 0].eq(0).all() and turned[..., 14, 14].sub(1).abs().max() < 1e-5


def test_shifts_are_slices(images):
    found = corruptions.shifted(images, 2, -3)
    assert found.shape == images.shape
    assert torch.equal(found[..., 2:, :-3], images[..., :-2, 3:])
    assert not found[..., :2, :].any() and not found[..., -3:].any()
    assert torch.equal(corruptions.shifted(images, 0, 0), images)
    with pytest.raises(ValueError, match="leaves nothing"):
        corruptions.shifted(images, 28, 0)


def test_noise_has_its_deviation_and_no_mean():
    images = torch.full((200, 1, 28, 28), 0.5)
    noise = corruptions.noisy(images, 0.2, torch.Generator().manual_seed(0)) - images
    assert float(noise.std()) == pytest.approx(0.2, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    # Independent from pixel to pixel.
    beside = (noise[..., :-1] * noise[..., 1:]).mean() / noise.var()
    assert abs(float(beside)) < 0.02
    assert torch.equal(corruptions.noisy(images, 0, torch.Generator()), images)


def test_each_image_is_changed_in_its_own_direction(images):
    turned = corruptions.turned_both_ways(images, 90)
    assert torch.allclose(turned[2], torch.rot90(images[2], 1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned[3], torch.rot90(images[3], -1, (1, 2)), atol=1e-5)
    moved = corruptions.shifted_four_ways(images, 3)
    for i, way in enumerate(((3, 0), (-3, 0), (0, 3), (0, -3))):
        assert torch.equal(moved[4 + i : 5 + i], corruptions.shifted(images[4 + i : 5 + i], *way))


def test_the_records_are_of_these_changes_and_can_be_measured_again():
    found = studies.load_seeds("corruptions")
    for record in found:
        result = record["result"]
        assert record["clean_tree"] and result["num_images"] == corruptions.NUM_IMAGES
        for kind, (sizes, _) in corruptions.CHANGES.items():
            assert result[kind] == list(sizes)
            for name in ("resnet-20", "plain-20"):
                assert len(result[name][kind]) == len(sizes)
                # No change, however it is called, is one number.
                assert result[name][kind][0] == result[name]["rotation"][0]
    test = data.fashion_mnist()
    pixels = test.test_images[: corruptions.NUM_IMAGES].float() / 255
    labels = test.test_labels[: corruptions.NUM_IMAGES]
    live = corruptions.accuracy(models.trained("resnet-20"), corruptions.shifted_four_ways(pixels, 2), labels)
    assert live == pytest.approx(found[0]["result"]["resnet-20"]["shift"][2], abs=3e-3)
