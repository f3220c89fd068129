"""Looking inside: Grad-CAM against its closed form, lesions and ratios against networks written by hand."""

import copy

import pytest
import torch
from conftest import stir_norms
from torch import Tensor, nn

from resnetbook import data, devices, inside, models, studies
from resnetbook.recipe import Recipe
from resnetbook.transforms import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


def network(**options: object) -> nn.Module:
    """A small network whose norms are no identities, in evaluation mode."""
    torch.manual_seed(0)
    spec = {"depth": 20, "width": 4, "in_channels": 1} | options
    return stir_norms(models.cifar_resnet(**spec)).eval()


KINDS = [
    {},
    {"shortcut": "B"},
    {"shortcut": "C"},
    {"preactivation": True},
    {"preactivation": True, "shortcut": "B"},
    {"residual": False},
]
each_kind = pytest.mark.parametrize("options", KINDS, ids=str)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1))


# ---- maps


def test_maps_are_what_the_layers_hand_on(x):
    model = network()
    found = inside.feature_maps(model, ["conv1", "layer1", "layer2"], x)
    with torch.no_grad():
        conv = model.conv1(x)
        first = model.layer1(model.relu(model.bn1(conv.clone())))
        second = model.layer2(first)
    assert list(found) == ["conv1", "layer1", "layer2"]
    for name, expected in zip(found, (conv, first, second), strict=True):
        assert torch.equal(found[name], expected)
    assert not any(module._forward_hooks for module in model.modules())


def test_maps_of_an_unknown_or_idle_layer_are_refused(x):
    model = network()
    model.idle = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="no layer 'layer9'; it has conv1"):
        inside.feature_maps(model, ["layer9"], x)
    with pytest.raises(ValueError, match="does not run idle"):
        inside.feature_maps(model, ["layer1", "idle"], x)
    assert not any(module._forward_hooks for module in model.modules())


# ---- Grad-CAM


def closed_form(model: nn.Module, layer: str, x: Tensor, classes: Tensor) -> Tensor:
    """CAM (Zhou et al. 2016): the class's row of the weight applied to the maps, over H · W, ReLU."""
    maps = inside.feature_maps(model, [layer], x)[layer]
    rows = model.fc.weight.detach()[classes]
    return torch.einsum("nk,nkhw->nhw", rows, maps).clamp(min=0) / maps[0, 0].numel()


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_grad_cam_at_the_last_stage_is_the_closed_form(options, number, x):
    model = network(**options)
    # Behind layer3 of a pre-activation network stand a norm and a ReLU: the last stage ends there.
    layer = "final" if options.get("preactivation") else "layer3"
    classes = torch.full((len(x),), number)
    found = inside.grad_cam(model, layer, x, classes)
    assert found.shape == (6, 3, 3)
    assert torch.allclose(found, closed_form(model, layer, x, classes), atol=1e-6)


def test_each_image_has_its_own_class_and_the_predicted_one_is_the_default(x):
    model = network()
    classes = [3, 1, 4, 1, 5, 9]
    found = inside.grad_cam(model, "layer3", x, classes)
    assert torch.allclose(found, closed_form(model, "layer3", x, torch.tensor(classes)), atol=1e-6)
    with torch.no_grad():
        predicted = model(x).argmax(1)
    assert torch.equal(inside.grad_cam(model, "layer3", x), inside.grad_cam(model, "layer3", x, predicted))


def test_grad_cam_further_in_front_is_that_of_autograd(x):
    model = network()
    maps = model.layer1(model.relu(model.bn1(model.conv1(x)))).detach().requires_grad_()
    logits = model.fc(model.layer3(model.layer2(maps)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 7].sum(), maps)
    expected = torch.zeros(6, 12, 12)
    for n in range(6):  # by the formula, map by map
        for k in range(4):
            expected[n] += gradient[n, k].mean() * maps[n, k].detach()
    found = inside.grad_cam(model, "layer1", x, [7] * 6)
    assert torch.allclose(found, expected.clamp(min=0), atol=1e-6)


def test_grad_cam_leaves_nothing_behind_and_asks_for_nothing(x):
    model = network().train().requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    # In front of a ReLU that works in place; weights frozen; gradients switched off; training mode.
    with torch.no_grad():
        assert inside.grad_cam(model, "bn1", x).shape == (6, 12, 12)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "classes", "message"),
    [
        ("layer9", None, "no layer 'layer9'"),
        ("layer1.0.relu", None, "runs 2 times in one pass"),
        ("fc", None, r"hands on \(6, 10\), not maps"),
        ("layer3", [1, 2], r"6 images need as many classes, got \(2,\)"),
    ],
)
def test_grad_cam_says_what_it_cannot_do(layer, classes, message, x):
    model = network()
    with pytest.raises(ValueError, match=message):
        inside.grad_cam(model, layer, x, classes)
    assert not any(module._forward_hooks for module in model.modules())


# ---- lesions


def by_hand(model: nn.Module, x: Tensor, left_out: tuple[str, ...]) -> Tensor:
    """The network of post-activation blocks, written out, with F = 0 in some of them."""
    x = torch.relu(model.bn1(model.conv1(x)))
    for stage in ("layer1", "layer2", "layer3"):
        for place, block in enumerate(getattr(model, stage)):
            plain = not hasattr(block, "downsample")
            if f"{stage}.{place}" in left_out:
                x = x if plain else torch.relu(block.downsample(x))
                continue
            out = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
            x = torch.relu(out if plain else out + block.downsample(x))
    return model.fc(x.mean((2, 3)))


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"residual": False}], ids=str)
def test_removed_is_the_network_written_by_hand(options, x):
    model = network(**options)
    with torch.no_grad():
        whole = model(x)
        assert torch.allclose(whole, by_hand(model, x, ()), atol=1e-6)
        for name in inside.removable(model):
            with inside.removed(model, name):
                cut = model(x)
            assert torch.allclose(cut, by_hand(model, x, (name,)), atol=1e-6)
            assert not torch.allclose(cut, whole, atol=1e-3)
        several = ("layer1.1", "layer2.2", "layer3.1")
        with inside.removed(model, *several):
            assert torch.allclose(model(x), by_hand(model, x, several), atol=1e-6)
        assert torch.equal(model(x), whole)


@pytest.mark.parametrize("options", KINDS[:5], ids=str)
def test_removed_is_what_a_silent_function_gives(options, x):
    # A second way: the last layer of F multiplied by 0.
    model = network(**options)
    for name in inside.block_names(model):
        other = copy.deepcopy(model)
        block = other.get_submodule(name)
        last = block.conv2 if options.get("preactivation") else block.bn2
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad(), inside.removed(model, name):
            assert torch.allclose(model(x), other(x), atol=1e-6)


@each_kind
def test_swapped_is_the_network_with_the_blocks_in_the_other_order(options, x):
    model = network(**options)
    pairs = inside.swappable(model)
    assert [p for p in pairs if p[0][:6] != p[1][:6]] == []  # within a stage
    assert len(pairs) == 4
    for first, second in pairs:
        other = copy.deepcopy(model)
        stage, place = other.get_submodule(first.partition(".")[0]), int(first.partition(".")[2])
        blocks = list(stage)
        blocks[place], blocks[place + 1] = blocks[place + 1], blocks[place]
        setattr(other, first.partition(".")[0], nn.Sequential(*blocks))
        with torch.no_grad():
            whole = model(x)
            with inside.swapped(model, first, second):
                assert torch.allclose(model(x), other(x), atol=1e-6)
                assert not torch.allclose(model(x), whole, atol=1e-3)
            assert torch.equal(model(x), whole)
    with pytest.raises(KeyError), inside.swapped(model, *pairs[0]):
        raise KeyError


@each_kind
def test_a_model_is_whole_again_after_an_error(options, x):
    model = network(**options)
    modules = dict(model.named_modules())
    for context in (
        inside.removed(model, "layer1.1", "layer3.2"),
        inside.swapped(model, "layer2.1", "layer2.2"),
    ):
        with pytest.raises(ZeroDivisionError), context:
            assert dict(model.named_modules()) != modules
            1 / 0  # noqa: B018
        assert list(model.named_modules()) == list(modules.items())
    with pytest.raises(ValueError), inside.removed(model, "layer1.1", "layer7.0"):
        pass
    assert list(model.named_modules()) == list(modules.items())


def test_what_cannot_be_cut_says_why():
    plain, residual = network(residual=False), network()
    assert inside.removable(residual) == inside.block_names(residual)
    assert set(inside.block_names(plain)) - set(inside.removable(plain)) == {"layer2.0", "layer3.0"}
    message = "layer2.0 of a plain network cannot be removed: it makes 8 channels of 4, with stride 2, and no"
    with pytest.raises(ValueError, match=message), inside.removed(plain, "layer2.0"):
        pass
    with (
        pytest.raises(ValueError, match="no block 'layer4.0'; it has layer1.0"),
        inside.removed(plain, "layer4.0"),
    ):
        pass
    message = "only blocks of one shape.*layer2.0 has 4 to 8 channels and stride 2, layer2.1 has 8 to 8"
    with pytest.raises(ValueError, match=message), inside.swapped(residual, "layer2.0", "layer2.1"):
        pass
    with (
        pytest.raises(ValueError, match="got 'layer1.1' twice"),
        inside.swapped(residual, "layer1.1", "layer1.1"),
    ):
        pass


def test_lesions_are_those_of_each_block(monkeypatch):
    model = network()
    images = torch.randint(
        0, 256, (30, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        x = prepare(images, Recipe())
        labels = model(x).argmax(1)
        expected = {
            name: (by_hand(model, x, (name,)).argmax(1) == labels).float().mean().item()
            for name in inside.block_names(model)
        }
    # Where there is a GPU, too, the model and its images stay on one device.
    monkeypatch.setattr(devices, "default_device", lambda: pytest.fail("asked for another device"))
    found = inside.lesions(model, images, labels, draws=3)
    assert found["whole"] == 1 and found["num_images"] == 30 and found["kept"] == []
    assert found["removed"] == pytest.approx(expected, abs=1e-5)
    assert list(found["swapped"])[:2] == ["layer1.0 ↔ layer1.1", "layer1.1 ↔ layer1.2"]
    assert list(found["several"]) == ["2", "3", "4", "5", "6"]
    assert all(len(draws) == 3 for draws in found["several"].values())
    assert inside.several_of(27) == [3, 6, 9, 12, 15, 18]


# ---- ratios


@pytest.mark.parametrize("options", KINDS[:3] + KINDS[5:], ids=str)
def test_ratios_are_those_of_the_network_written_by_hand(options, x):
    model = network(**options)
    expected = {}
    with torch.no_grad():
        h = torch.relu(model.bn1(model.conv1(x)))
        for stage in ("layer1", "layer2", "layer3"):
            for place, block in enumerate(getattr(model, stage)):
                out = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(h)))))
                if hasattr(block, "downsample"):
                    change, start = out, block.downsample(h)
                    h = torch.relu(out + start)
                else:
                    before, h = h, torch.relu(out)
                    if before.shape != h.shape:
                        continue
                    change, start = h - before, before
                ratios = [c.norm() / s.norm() for c, s in zip(change, start, strict=True)]
                expected[f"{stage}.{place}"] = sum(ratios).item() / len(ratios)
    assert inside.residual_ratios(model, x, batch_size=4) == pytest.approx(expected, rel=1e-5)


def test_the_ratio_of_a_zero_function_is_zero(x):
    model = network(zero_init_residual=True, preactivation=False)
    for block in inside.block_names(model):
        nn.init.zeros_(model.get_submodule(block).bn2.weight)
        nn.init.zeros_(model.get_submodule(block).bn2.bias)
    assert set(inside.residual_ratios(model, x).values()) == {0.0}
    with pytest.raises(ValueError, match="batch_size"):
        inside.residual_ratios(model, x, batch_size=0)


# ---- does a map mean anything?


def test_patches_stand_where_the_cells_look():
    # A window that hands on its centre: three convolutions of stride 2 take every eighth pixel.
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 1
    pixels = torch.arange(28.0).expand(1, 1, 28, 28)
    for _ in range(3):
        pixels = nn.functional.conv2d(pixels, kernel, stride=2, padding=1)
    centres = pixels[0, 0, 0].tolist()
    assert centres == [0, 8, 16, 24]
    for cell, centre in enumerate(centres):
        patch = inside.patch_of(cell)
        assert patch.stop - patch.start == 8 and 0 <= patch.start and patch.stop <= 28
        assert patch.start <= centre <= patch.stop
    whole = torch.zeros(1, 1, 28, 28)
    for row in range(4):
        for column in range(4):
            whole = inside.erased(whole, row, column, 1.0)
    assert whole.all()


class Counter(nn.Module):
    """Two classes: the logit of the first is the sum of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum((1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], 1)


def test_drops_are_what_the_pixels_below_are_worth():
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(3)) / 100
    found = inside.drops(Counter(), images, torch.zeros(3, dtype=torch.long), 0.0)
    totals = images.sum((1, 2, 3))
    assert found.shape == (3, 4, 4)
    below = images[:, 0, 12:20, 4:12].sum((1, 2))  # row 2, column 1
    assert torch.allclose(found[:, 2, 1], torch.sigmoid(totals) - torch.sigmoid(totals - below), atol=1e-6)
    darkest = images.amin((1, 2, 3))
    assert torch.allclose(inside.ink(images)[:, 2, 1], below - 64 * darkest, atol=1e-5)


def test_correlation_is_that_of_ranks_image_by_image():
    first = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(4)) + 1
    assert inside.correlation(first, first**3) == (pytest.approx(1), 5)
    assert inside.correlation(first, -first) == (pytest.approx(-1), 5)
    flat = first.clone()
    flat[2] = 0  # a map of one value
    assert inside.correlation(first, flat) == (pytest.approx(1), 4)


def test_randomized_draws_anew_what_it_is_told_and_measures_statistics(x):
    model = network()
    before = copy.deepcopy(model.state_dict())
    other = inside.randomized(model, ("layer3", "fc"), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in other.named_parameters():
        drawn = name.startswith(("layer3", "fc"))
        assert torch.equal(parameter, before[name]) is not drawn, name
    with torch.no_grad():
        first = other.conv1(x)
    assert torch.allclose(other.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-6)
    assert not other.training
    with pytest.raises(ValueError, match="no layer 'layer4'"):
        inside.randomized(model, ("layer4",), x)


# ---- what the book recorded


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in studies.names() if n.startswith("lesions")])
def test_recorded_lesions_are_those_of_the_kept_weights(name, dataset: data.FashionMNIST):
    # Processors round differently: of 10,000 images a few may change sides.
    study, _, seed = studies.study_of(name)
    for network_name, result in studies.load(name)["result"].items():
        model = models.trained(network_name, seed)
        blocks = (
            list(result["removed"]) if seed == 0 and study == "lesions" else list(result["removed"])[1::4]
        )
        for block in blocks:
            with inside.removed(model, block):
                found = inside.evaluate(model, dataset.test_images, dataset.test_labels).accuracy
            assert found == pytest.approx(result["removed"][block], abs=0.002), (network_name, block)
        ratios = inside.residual_ratios(model, prepare(dataset.test_images[:1000], Recipe()))
        assert ratios == pytest.approx(result["ratios"], rel=0.03)
