"""The networks against torchvision, and against published counts."""

import pytest
import torch
import torchvision
from torch import nn

from resnetbook import blocks, models, probes

PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
CIFAR = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def randomize(model: nn.Module) -> None:
    """Random weights, and batch-norm statistics that are not the trivial 0 and 1."""
    torch.manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)


@pytest.mark.parametrize("depth", PUBLISHED)
@pytest.mark.slow
def test_family_equals_torchvision(depth):
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    randomize(reference)
    model = models.resnet(depth)
    model.load_state_dict(reference.state_dict(), strict=True)
    assert probes.count_parameters(model) == PUBLISHED[depth]
    for training in (False, True):
        model.train(training), reference.train(training)
        for side in (224, 97):
            x = torch.randn(2, 3, side, side)
            with torch.no_grad():
                torch.testing.assert_close(model(x), reference(x), atol=1e-5, rtol=0)
    # Training mode must have moved the running statistics alike, too.
    for (name, ours), theirs in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_counts_plain_equals_residual(depth):
    plain = models.cifar_resnet(depth, residual=False)
    residual = models.cifar_resnet(depth)
    assert probes.count_parameters(plain) == CIFAR[depth]
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in residual.state_dict().items()}


@pytest.mark.parametrize(("depth", "near"), [(18, "14 or 20"), (21, "20 or 26"), (5, "8"), (0, "8")])
def test_wrong_depth_names_its_neighbours(depth, near):
    with pytest.raises(ValueError, match=f"6n \\+ 2.*nearest is {near}"):
        models.cifar_resnet(depth)


def test_one_channel_counts():
    assert probes.count_parameters(models.resnet18(10, 1)) == 11_175_370
    assert probes.count_parameters(models.d2l_resnet18()) == 11_178_378


def test_lenet_is_the_layers_of_the_paper_in_a_row():
    model = models.lenet()
    row = nn.Sequential(
        *(model.conv1, nn.Tanh(), nn.AvgPool2d(2), model.conv2, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(model.fc1, nn.Tanh(), model.fc2, nn.Tanh(), model.fc3),
    )
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(model(x), row(x))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["conv1.weight"] == (6, 1, 5, 5) and shapes["conv2.weight"] == (16, 6, 5, 5)
    assert [shapes[f"fc{i}.weight"] for i in (1, 2, 3)] == [(120, 400), (84, 120), (10, 84)]


@pytest.mark.parametrize("depth", [6, 9, 15])
def test_small_vgg_has_its_depth_and_stages(depth):
    model = models.small_vgg(depth, width=8, in_channels=3, hidden=20)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    n = (depth - 3) // 3
    convs = [(m.in_channels, m.out_channels) for m in layers if isinstance(m, nn.Conv2d)]
    expected = [(3, 8), (8, 8), *[(8, 8)] * (n - 1), (8, 16), *[(16, 16)] * (n - 1)]
    expected += [(16, 32), *[(32, 32)] * (n - 1)]
    assert convs == expected
    sides = []
    for name in ("stem", "stage1", "stage2", "stage3"):
        getattr(model, name).register_forward_hook(lambda m, x, y: sides.append(y.shape[-1]))
    assert model(torch.randn(2, 3, 28, 28)).shape == (2, 10)
    assert sides == [28, 14, 7, 3]
    weights = sum(9 * a * b + 2 * b for a, b in convs) + (32 * 9 * 20 + 20) + (20 * 10 + 10)
    assert probes.count_parameters(model) == weights


@pytest.mark.parametrize("depth", [0, 3, 7, 9.0, True])
def test_a_wrong_depth_of_the_small_vgg_says_which_are_right(depth):
    with pytest.raises(ValueError, match=r"3n \+ 3 \(6, 9, 12"):
        models.small_vgg(depth)


@pytest.mark.parametrize("build", [models.lenet, lambda: models.small_vgg(6)], ids=["lenet", "vgg"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (1, 28, 28)])
def test_networks_for_one_size_say_which(build, shape):
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\)"):
        build()(torch.zeros(shape))


def test_stride_on_1x1_or_3x3():
    for stride_on, strides in (("1x1", (2, 1)), ("3x3", (1, 2))):
        block = blocks.Bottleneck(64, 128, stride=2, stride_on=stride_on)
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
        assert block(torch.randn(2, 64, 7, 7)).shape == (2, 128, 4, 4)


@pytest.mark.parametrize("option", blocks.SHORTCUTS)
def test_shortcut_parameters(option):
    narrow = blocks.make_shortcut(16, 32, 2, option)
    same = blocks.make_shortcut(16, 16, 1, option)
    assert probes.count_parameters(narrow) == (0 if option == "A" else 16 * 32 + 2 * 32)
    assert probes.count_parameters(same) == (16 * 16 + 2 * 16 if option == "C" else 0)
    assert narrow(torch.randn(2, 16, 7, 7)).shape == (2, 32, 4, 4)


def test_zero_padding_keeps_values():
    x = torch.randn(2, 3, 5, 5)
    y = blocks.ZeroPadShortcut(3, 7, 2)(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()


def test_zero_init_makes_identity():
    model = models.cifar_resnet(20, zero_init_residual=True)
    x = torch.rand(2, 16, 8, 8)  # not negative, so the last ReLU changes nothing
    assert torch.equal(model.layer1(x), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.resnet(19),
        lambda: models.resnet18(num_classes=0),
        lambda: models.resnet18(in_channels=0),
        lambda: models.resnet18(stem="large"),
        lambda: models.resnet18(shortcut="D"),
        lambda: models.resnet50(stride_on="5x5"),
        lambda: models.cifar_resnet(20, residual=False, preactivation=True),
        lambda: models.build({"family": "vgg"}),
        lambda: blocks.Bottleneck(8, 10),
        lambda: blocks.ZeroPadShortcut(8, 4),
        lambda: models.resnet18()(torch.zeros(1, 1, 28, 28)),
        lambda: models.resnet18()(torch.zeros(3, 28, 28)),
    ],
)
def test_bad_input_is_a_value_error(make):
    with pytest.raises(ValueError, match=r"\w"):
        make()


@pytest.mark.parametrize("value", ["10", 2.5, 10.0, True, None, 0, -1])
@pytest.mark.parametrize("name", ["num_classes", "in_channels", "width"])
@pytest.mark.parametrize("build", [models.resnet18, lambda **o: models.cifar_resnet(8, **o)])
def test_counts_are_whole_and_positive(build, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value!r}"):
        build(**{name: value})


@pytest.mark.parametrize("value", ["10", 2.5, True, 0])
def test_d2ls_network_checks_its_counts_too(value):
    with pytest.raises(ValueError, match=f"num_classes must be a whole number.*got {value!r}"):
        models.d2l_resnet18(num_classes=value)
    with pytest.raises(ValueError, match="in_channels must be a whole number"):
        models.d2l_resnet18(in_channels=value)


@pytest.mark.parametrize(
    ("blocks_per_stage", "message"),
    [
        ((2, 0, 2, 2), r"blocks_per_stage\[1\] must be a whole number of at least 1, got 0"),
        ((2, 2, -1, 2), r"blocks_per_stage\[2\].*got -1"),
        ((2, 2, 2, 1.5), r"blocks_per_stage\[3\].*got 1.5"),
        ((2, 2, 2, True), r"blocks_per_stage\[3\].*got True"),
        ((2, 2, 2), "blocks_per_stage must be four numbers"),
        ((2, 2, 2, 2, 2), "blocks_per_stage must be four numbers"),
        (8, "blocks_per_stage must be four numbers, got 8"),
        (None, "blocks_per_stage must be four numbers, got None"),
    ],
)
def test_every_stage_needs_a_block(blocks_per_stage, message):
    with pytest.raises(ValueError, match=message):
        models.ResNet(blocks.BasicBlock, blocks_per_stage, width=4)


@pytest.mark.parametrize("value", [0, -1, 1.0, True])
def test_every_stage_of_the_small_family_needs_a_block(value):
    with pytest.raises(ValueError, match="blocks_per_stage must be a whole number of at least 1"):
        models.CifarResNet(blocks.PlainBlock, value)


@pytest.mark.parametrize("depth", [20.0, "20", True, None])
def test_a_depth_is_a_whole_number(depth):
    with pytest.raises(ValueError, match=f"depth must be a whole number.*got {depth!r}"):
        models.cifar_resnet(depth)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "unknown model family None; choose one of cifar, resnet, d2l-resnet18, lenet, small-vgg"),
        (
            {"family": "cifar", "depth": 8, "layers": 3},
            "'cifar' has no option 'layers'; its options are depth",
        ),
        ({"family": "d2l-resnet18", "depth": 18}, "'d2l-resnet18' has no option 'depth'"),
        ({"family": "resnet"}, "'resnet' needs depth"),
    ],
)
def test_a_wrong_model_entry_of_a_record_says_what_is_allowed(spec, message):
    before = dict(spec)
    with pytest.raises(ValueError, match=message):
        models.build(spec)
    assert spec == before


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"family": "cifar", "depth": 20, "residual": False}, 269_722),
        ({"family": "resnet", "depth": 18}, 11_689_512),
        ({"family": "d2l-resnet18"}, 11_178_378),
        ({"family": "lenet"}, 61_706),
    ],
)
def test_a_model_entry_builds_the_published_network(spec, expected):
    assert probes.count_parameters(models.build(spec)) == expected


@pytest.mark.parametrize(("stride", "out_channels"), [(1, 3), (2, 6), (2, 3), (1, 6)])
def test_d2ls_block_is_d2ls(stride, out_channels):
    """Its own ``Residual``, from its library, under copied weights."""
    from d2l import torch as d2l

    torch.manual_seed(0)
    projects = stride != 1 or out_channels != 3
    theirs = d2l.Residual(3, out_channels, use_1x1conv=projects, strides=stride)
    randomize(theirs)
    ours = blocks.D2LResidual(3, out_channels, stride)
    state = {name.replace("conv3", "shortcut"): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    x = torch.rand(4, 3, 6, 6)
    for training in (True, False):
        ours.train(training), theirs.train(training)
        torch.testing.assert_close(ours(x), theirs(x))


def test_preactivation_is_the_formula():
    torch.manual_seed(0)
    block = blocks.PreActBlock(4, 8, stride=2)
    x = torch.randn(2, 4, 6, 6)
    activated = torch.relu(block.bn1(x))
    expected = block.conv2(torch.relu(block.bn2(block.conv1(activated)))) + block.downsample(activated)
    torch.testing.assert_close(block(x), expected)
    assert block(x).min() < 0  # no ReLU after the addition


def test_macs_of_resnet50_at_224():
    # 4.09 GMACs with the stride on the 3×3, as torchvision documents (GFLOPS column).
    assert probes.count_macs(models.resnet50(), (3, 224, 224)) / 1e9 == pytest.approx(4.09, abs=0.005)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"family": "d2l-resnet18"}, "ResNet-18 as d2l.ai builds it"),
        ({"family": "resnet", "depth": 34}, "ResNet-34, stem 7×7 of stride 2 and max-pool"),
        (
            {"family": "cifar", "depth": 20, "stem_stride": 2, "preactivation": True, "num_classes": 10},
            "residual network of 20 layers for small images, shortcut option A, stem of stride 2, "
            "pre-activation blocks",
        ),
        (
            {"family": "cifar", "depth": 8, "residual": False},
            "plain network of 8 layers for small images, stem of stride 1",
        ),
        ({"family": "other", "size": 3}, "other, size 3"),
    ],
)
def test_a_model_is_told_in_words(spec, words):
    assert models.in_words(spec) == words
