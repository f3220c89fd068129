"""Counts against formulae and torchvision; hooks that leave no trace."""

import pytest
import torch
import torchvision
from torch import nn

from resnetbook import models, probes


def test_parameters_of_trainable_layers_only():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert probes.count_parameters(model) == 3 * 8 * 9 + 8 + 16 + 18
    model[0].requires_grad_(False)
    assert probes.count_parameters(model, trainable_only=True) == 16 + 18


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 8 * 100 * 3 * 9),
        (nn.Conv2d(4, 8, (3, 1), stride=2), (4, 9, 9), 8 * 4 * 5 * 4 * 3),
        (nn.Conv2d(8, 8, 3, padding=1, groups=4), (8, 6, 6), 8 * 36 * 2 * 9),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 60),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.ReLU(), nn.BatchNorm2d(1)), (1, 4, 4), 16),
    ],
)
def test_macs_by_hand(layer, shape, macs):
    assert probes.count_macs(layer, shape) == macs


def test_a_layer_used_twice_counts_twice():
    layer = nn.Conv2d(2, 2, 1)
    assert probes.count_macs(nn.Sequential(layer, layer), (2, 3, 3)) == 2 * 9 * 4


# torchvision publishes these as GFLOPS of its weights, and means multiply-adds.
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_macs_are_those_that_torchvision_publishes(depth):
    weights = getattr(torchvision.models, f"ResNet{depth}_Weights").IMAGENET1K_V1
    macs = probes.count_macs(models.resnet(depth), (3, 224, 224))
    assert macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.006)


def test_shapes_of_stages():
    found = probes.shapes(models.cifar_resnet(8), (3, 32, 32))
    assert found["layer1"] == (1, 16, 32, 32)
    assert found["layer3"] == (1, 64, 8, 8)
    assert found["fc"] == (1, 10)


@pytest.mark.parametrize("probe", [probes.shapes, probes.count_macs])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind_even_after_an_error(probe, training):
    model = models.cifar_resnet(8).train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    probe(model, (3, 16, 16))
    with pytest.raises(ValueError, match="expected a batch"):
        probe(model, (4, 16, 16))
    assert model.training == training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_hooks_are_removed_when_the_forward_pass_fails_in_the_middle():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("on purpose")

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), Breaks(), nn.Conv2d(2, 1, 1)).train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for probe in (
        lambda: probes.shapes(model, (1, 8, 8)),
        lambda: probes.macs_by_layer(model, (1, 8, 8)),
        lambda: probes.activation_norms(model.train(), torch.rand(2, 1, 8, 8)),
    ):
        with pytest.raises(RuntimeError, match="on purpose"):
            probe()
        assert all(not module._forward_hooks for module in model.modules())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_every_layer_keeps_its_own_mode():
    model = models.cifar_resnet(8).train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    probes.shapes(model, (3, 16, 16))
    probes.count_macs(model, (3, 16, 16))
    assert [module.training for module in model.modules()] == modes


def test_a_user_hook_stays():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    probes.count_macs(model, (1, 4, 4))
    probes.shapes(model, (1, 4, 4))
    assert len(calls) == 2 and len(model[0]._forward_hooks) == 1


def test_a_network_without_weights_has_shapes_and_no_cost():
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    assert probes.shapes(model, (3, 8, 8)) == {"0": (1, 3, 4, 4), "1": (1, 48)}
    assert probes.count_macs(model, (3, 8, 8)) == 0


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_macs_of_a_grouped_convolution_are_its_multiplications(groups):
    """Counted another way: every weight is used once for every pixel of the output."""
    layer = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    height, width = layer(torch.zeros(1, 8, 9, 7)).shape[2:]
    assert probes.count_macs(layer, (8, 9, 7)) == layer.weight.numel() * height * width


def test_macs_by_layer_name_each_layer():
    found = probes.macs_by_layer(models.cifar_resnet(8, in_channels=1), (1, 28, 28))
    assert found["conv1"] == 28 * 28 * 16 * 9
    assert found["layer2.0.conv1"] == 14 * 14 * 32 * 16 * 9
    assert found["fc"] == 64 * 10
    assert len(found) == 8


def test_gradient_norms_of_a_frozen_layer_are_0():
    """As in transfer learning: the backbone is frozen, and has no gradient."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    found = probes.gradient_norms(model, model(torch.randn(5, 1, 4, 4)).square().mean())
    assert found["0"] == 0 and found["2"] > 0
    model.requires_grad_(False)
    assert probes.gradient_norms(model, model(torch.randn(5, 1, 4, 4)).sum()) == {"0": 0, "2": 0}


def test_gradient_norms_of_tiny_gradients_are_not_lost():
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.ones(1, 3)
    found = probes.gradient_norms(model, 1e-25 * model(x).sum())
    assert found["0"] == pytest.approx(1e-25 * 6**0.5, rel=1e-5)  # its squares are 0 in float32


def test_gradient_norms_are_the_closed_form_of_a_linear_layer():
    """The loss is the mean of w·x, so the gradient is the mean of x."""
    model = nn.Linear(3, 1, bias=False)
    x = torch.tensor([[1.0, 2.0, 2.0], [3.0, 2.0, 2.0]])
    loss = nn.Sequential(model)(x).mean()
    assert probes.gradient_norms(nn.Sequential(model), loss) == {"0": pytest.approx(12**0.5)}
    assert model.weight.grad is None  # nothing is left in .grad


def test_activation_norms_leave_running_statistics_alone():
    model = models.cifar_resnet(8).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = probes.activation_norms(model, torch.rand(4, 3, 16, 16))
    assert len(found) == 8 and all(value > 0 for value in found.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_gradient_norms_are_autograds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(5, 1, 4, 4)
    found = probes.gradient_norms(model, model(x).square().mean())
    model(x).square().mean().backward()
    assert found == pytest.approx(
        {"0": model[0].weight.grad.norm().item(), "2": model[2].weight.grad.norm().item()}
    )


def test_a_layer_outside_the_graph_has_no_gradient():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    assert probes.gradient_norms(model, model["used"](torch.ones(1, 2)).sum())["unused"] == 0


def test_activation_norms_are_standard_deviations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(50, 4)
    found = probes.activation_norms(model, x)
    assert found["0"] == pytest.approx(model[0](x).std().item())
    assert found["2"] == pytest.approx(model(x).std().item())
    assert list(probes.activation_norms(model, x, (nn.ReLU,))) == ["1"]
