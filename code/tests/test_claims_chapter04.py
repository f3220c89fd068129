"""What chapter 4 says is so: in its prose, in what its cells print, and in its alt texts."""

import math

import pytest
import torch
import torchvision
from conftest import claim, page_text
from torch import nn

from resnetbook import blocks, models, probes

SIDE = (3, 224, 224)


def network(depth: int) -> nn.Module:
    with torch.device("meta"):
        return models.resnet(depth)


def test_the_paper_tried_all_three_options_in_resnet_34():
    # He et al. 2015, table 3: top-1 error in percent of ResNet-34 A, B and C, and of the plain network.
    error = {"plain": 28.54, "A": 25.03, "B": 24.52, "C": 24.19}
    claim(
        "04",
        "The paper tries all three in ResNet-34 and finds B slightly better than A, and C than B",
        0 < error["A"] - error["B"] < 1 and 0 < error["B"] - error["C"] < 1,
    )
    assert "own ResNet-18 and 34 use A" not in page_text("04")


def test_the_number_on_paper():
    block = blocks.BasicBlock(128, 256, 2)
    projection = probes.count_parameters(block.downsample)
    claim("04", "and 32,768 + 512 for the projection: 919,040.", probes.count_parameters(block) == 919_040)
    claim("04", "294,912 + 589,824 + 1,024 for the path $F$", projection == 32_768 + 512)


def test_when_a_bias_in_front_of_a_norm_cancels():
    """In training mode at once; in evaluation mode when the running mean has caught up."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 8, 3).double(), nn.BatchNorm2d(8).double()
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)

    def outputs(passes):
        for _ in range(passes):
            trained = norm.train()(conv(x))
        return trained.detach(), norm.eval()(conv(x)).detach()

    before = outputs(300)
    with torch.no_grad():
        conv.bias += 100
    at_once, later = outputs(1), outputs(300)
    in_evaluation = [(now[1] - before[1]).abs().max().item() for now in (at_once, later)]
    claim(
        "04",
        "In training mode the bias changes nothing and learns nothing.",
        torch.allclose(before[0], at_once[0]),
    )
    claim(
        "04",
        "It follows step by step: once it has caught up, the bias is gone there, too.",
        in_evaluation[0] > 10 and in_evaluation[1] < 1e-8,
    )
    claim("04", "training mode: False evaluation mode, after one pass: True")
    claim("04", "evaluation mode, after 300 more: False")


def test_resnet_34_and_50_cost_about_the_same():
    ratios = [
        probes.count_parameters(network(50)) / probes.count_parameters(network(34)),
        probes.count_macs(network(50), SIDE) / probes.count_macs(network(34), SIDE),
    ]
    claim("04", "section 6 shows that their costs differ by less than a fifth", max(ratios) < 1.2)
    claim("04", "differ by less than a fifth in parameters and in work", 1 < min(ratios))


def test_which_networks_were_compared_with_torchvisions():
    said = page_text("04")
    printed = [d for d in (18, 34, 50, 101, 152) if f"ResNet-{d}: the outputs are torchvision's" in said]
    claim(
        "04",
        "all five in names, shapes, parameters and MACs, ResNet-18 and 50 in outputs, too",
        printed == [18, 50] and said.count("all parameters, all MACs: equal") == 5,
    )
    claim("04", "The tests of the book do it for all five of the package.")  # tests/test_models.py does


def test_the_two_ratios_and_their_conditions():
    wide, narrow, neck = 18 * 256**2, 18 * 64**2, 17 * 64**2
    claim("04", "two 3×3 at 256 1,179,648 16.94 equal width", f"{wide / neck:.2f}" == "16.94")
    claim("04", "two 3×3 at 64 73,728 1.06 equal cost", f"{narrow / neck:.2f}" == "1.06")
    claim("04", r"$4 \cdot \sqrt{18/17} \approx 4.12$", f"{4 * math.sqrt(18 / 17):.2f}" == "4.12")
    # Norms: two numbers for each channel, in two layers and in three.
    with_norm = [(wide + 4 * 256) / (neck + 2 * 384), (narrow + 4 * 64) / (neck + 2 * 384)]
    falls = [1 - ratio * neck / count for ratio, count in zip(with_norm, (wide, narrow), strict=True)]
    claim("04", "lowers both ratios by about one percent", all(0.005 < fall < 0.015 for fall in falls))
    claim("04", "the basic block has only a third of them", 2 * 64 * 3 == 64 + 64 + 256)
    claim(
        "04",
        "no network of the family has that block *on a map of 56×56*",
        all(block is not blocks.BasicBlock or side < 56 for block, side in blocks_of_256_channels()),
    )
    claim("04", "a horizontal arrow at 73,728 weights marks equal cost", narrow == 73_728)


def blocks_of_256_channels() -> list[tuple[type, int]]:
    """The kind, and the side of its map, of every block with 256 channels in and out."""
    found = []
    for depth in (18, 34, 50):
        model = network(depth)
        sides = {name: shape[-1] for name, shape in probes.shapes(model, SIDE).items()}
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for block in getattr(model, stage):
                last = block.conv3 if isinstance(block, blocks.Bottleneck) else block.conv2
                if block.conv1.in_channels == last.out_channels == 256:
                    found.append((type(block), sides[stage]))
    assert {kind for kind, _ in found} == {blocks.BasicBlock, blocks.Bottleneck}
    return found


def test_the_two_meanings_of_channels_differ_by_about_sixteen():
    ours = blocks.Bottleneck(256, 256)
    mistaken = torchvision.models.resnet.Bottleneck(1024, 256)  # 256 taken for the width inside
    ratio = probes.count_parameters(mistaken) / probes.count_parameters(ours)
    claim("04", "makes a network about sixteen times too large", 15 < ratio < 17)


def test_the_counts_of_vgg_16():
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    total = probes.count_parameters(vgg)
    first = probes.count_parameters(vgg.classifier[0]) / total
    macs = probes.macs_by_layer(vgg, SIDE)
    work = macs["classifier.0"] / sum(macs.values())
    claim(
        "04",
        "the first linear layer alone holds 74 percent of the parameters and under 1 percent of the MACs",
        round(100 * first) == 74 and work < 0.01,
    )
    convolutions = sum(probes.count_parameters(layer) for layer in vgg.features)
    claim(
        "04",
        "nearly all of the work with about a tenth of the parameters",
        0.09 < convolutions / total < 0.11,
    )
    resnet = network(152)
    linear = probes.count_parameters(resnet.fc) / probes.count_parameters(resnet)
    claim("04", "the linear layer holds 3 percent of the parameters", round(100 * linear) == 3)
    half = probes.count_parameters(resnet.layer3) / probes.count_parameters(resnet)
    by_layer = probes.macs_by_layer(resnet, SIDE)
    third = sum(n for name, n in by_layer.items() if name.startswith("layer3")) / sum(by_layer.values())
    claim("04", "both sit mostly in conv4_x", half > 0.5 and third > 0.5)


@pytest.mark.parametrize(("depth", "paper"), [(50, 3.8), (101, 7.6), (152, 11.3)])
def test_version_1_fits_the_papers_numbers(depth, paper):
    with torch.device("meta"):
        macs = probes.count_macs(models.resnet(depth, stride_on="1x1"), SIDE) / 1e9
    cut = math.floor(macs * 10) / 10 if depth == 50 else round(macs, 1)
    claim(
        "04", "3.8, 7.6 and 11.3 billion", cut == paper
    )  # "if you cut off the first instead of rounding it"


def test_a_block_in_the_right_order_lowers_half_of_its_numbers():
    """Far enough from the edges of rounding that no processor prints another percentage."""
    torch.manual_seed(0)
    block = blocks.BasicBlock(64, 64)
    x = torch.randn(8, 64, 14, 14).relu()
    with torch.no_grad():
        lowered = (block(x) < x)[x > 0].float().mean().item()
    claim("04", "plus, then ReLU: lower than x in 50% of the places", 0.496 < lowered < 0.504)
