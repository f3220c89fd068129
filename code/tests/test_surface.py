"""Loss surfaces: what a direction is, that a network comes back, and what scaling its weights does."""

import copy

import pytest
import torch
from conftest import stir_norms
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, models, studies, surface

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return stir_norms(models.cifar_resnet(8, width=4, in_channels=1, residual=False)).eval()


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 1, 16, 16, generator=generator)
    return images, torch.randint(0, 10, (12,), generator=generator)


def direction(model, seed=0):
    return surface.random_direction(model, torch.Generator().manual_seed(seed))


def test_each_filter_is_as_long_as_the_models_and_nothing_else_moves(model):
    found = direction(model)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, weight in model.named_parameters():
        assert found[name].shape == weight.shape
        if weight.dim() < 2:
            assert not found[name].any()
            continue
        for row, own in zip(found[name], weight, strict=True):
            assert torch.isclose(row.norm(), own.norm(), rtol=1e-5)


def test_a_direction_is_that_of_the_exercise_and_of_its_seed(model):
    first, again, other = direction(model), direction(model), direction(model, 1)
    generator = torch.Generator().manual_seed(0)
    normalized = checks.filter_normalized.built()
    for name, weight in model.named_parameters():
        assert torch.equal(first[name], again[name])
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=generator)
            assert torch.allclose(first[name], normalized(drawn, weight.detach()), rtol=1e-5)
            assert not torch.equal(first[name], other[name])


def test_the_two_directions_of_a_seed_differ_and_are_nearly_at_a_right_angle(model):
    d, e = (torch.cat([part.flatten() for part in each.values()]) for each in surface.directions_of(model, 0))
    assert abs(F.cosine_similarity(d, e, dim=0)) < 0.15


def test_a_moved_model_is_where_it_should_be_and_comes_back_bit_for_bit(model):
    before = copy.deepcopy(model.state_dict())
    d, e = surface.directions_of(model, 0)
    with surface.moved(model, [d, e], (0.3, -2)):
        for name, parameter in model.named_parameters():
            wanted = before[name] + 0.3 * d[name] - 2 * e[name]
            assert torch.allclose(parameter, wanted, atol=1e-6)
    with pytest.raises(ZeroDivisionError), surface.moved(model, [d], (1,)):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="1 directions need as many coordinates, got 2"):
        with surface.moved(model, [d], (1, 2)):
            pass


def test_losses_are_the_cross_entropies_of_the_moved_model(model, examples):
    images, labels = examples
    d, e = surface.directions_of(model, 0)
    points = [(0, 0), (0.5, -0.25)]
    found = surface.losses(model, [d, e], points, images, labels, batch_size=5)
    for point, loss in zip(points, found, strict=True):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                parameter += point[0] * d[name] + point[1] * e[name]
            assert loss == pytest.approx(F.cross_entropy(other(images), labels).item(), rel=1e-5)


def test_weights_ten_times_as_long_are_the_same_function_and_only_normalized_steps_know(model, examples):
    bigger = copy.deepcopy(model)
    with torch.no_grad():
        for module in bigger.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 10
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean *= 10
                module.running_var *= 100
    step, own = direction(model), direction(bigger)

    def losses(which, along):
        return surface.losses(which, [along], [(0,), (1,)], *examples)

    at, after = losses(model, step)
    assert abs(after - at) > 0.05
    assert losses(bigger, own) == pytest.approx([at, after], rel=1e-3)
    # Without normalization the same step does something else.
    convolutions_only = {name: d if name != "fc.weight" else 0 * d for name, d in step.items()}
    moved = abs(losses(model, convolutions_only)[1] - at)
    assert abs(losses(bigger, convolutions_only)[1] - at) < moved / 2


def test_the_records_hold_a_whole_grid_and_the_centre_is_the_trained_network():
    (record,) = studies.load_seeds("surface")
    grid = record["result"]
    assert record["clean_tree"] and grid["coordinates"] == list(surface.COORDINATES)
    middle = surface.COORDINATES.index(0)
    images, labels = surface.some_training_images(grid["num_images"])
    for rows in grid["losses"].values():
        assert len(rows) == 11 and all(len(row) == 11 for row in rows)
        assert rows[middle][middle] == min(map(min, rows))
    cuts = studies.load_seeds("surface-cuts")
    assert all(record["clean_tree"] for record in cuts)
    for name in grid["losses"]:
        # The first cut is the middle row of the grid.
        assert cuts[0]["result"]["kept"][name] == pytest.approx(grid["losses"][name][middle], rel=1e-4)
    model = models.trained("resnet-20")
    (live,) = surface.losses(model, surface.directions_of(model, 0)[:1], [(0.2,)], images, labels)
    assert live == pytest.approx(cuts[0]["result"]["kept"]["resnet-20"][6], rel=0.01)
