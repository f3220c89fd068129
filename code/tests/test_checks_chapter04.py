"""Chapter 4's checks: the page's solutions and other right ones pass, and each mistake is named."""

import copy
import functools
import math
import random
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torchvision
from conftest import fails, page_solutions, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import blocks, checks, models, probes

NOTEBOOK = Path(__file__).parents[2] / "book" / "04_blocks.ipynb"
CHECKS = {"MyBlock": checks.residual_block, "MyBottleneck": checks.bottleneck}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "name",
    ["basic_parameters", "MyBlock", "MyBottleneck", "equal_cost_channels", "resnet34", "bottleneck_macs"],
)
def test_the_pages_solution_passes(name, capsys):
    check = CHECKS.get(name) or getattr(checks, name)
    check(page_solutions(NOTEBOOK, BasicBlock=blocks.BasicBlock)[name])
    assert capsys.readouterr().out.startswith("Right")


def test_the_number_on_paper_in_the_first_solution_is_right():
    (text,) = (c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.id == "exercise-1-solution")
    assert f"{probes.count_parameters(blocks.BasicBlock(128, 256, 2)):,}" in text


# A block with switches: with the defaults it is right, and every switch makes one mistake.


class Block(nn.Module):
    bottleneck = False
    between, end, early, skip = True, True, False, "add"
    strides = None  # of the convolutions, as multiples: 1 gives the block's stride to one of them
    padding, kernels, biases = 1, None, False
    norms = None  # which convolutions have a norm
    projection = "where"
    projection_norm, projection_stride, projection_kernel, projection_bias = True, True, 1, False
    width = staticmethod(lambda i, o: o // 4)

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        kernels = self.kernels or ([1, 3, 1] if self.bottleneck else [3, 3])
        inner = self.width(in_channels, out_channels) if self.bottleneck else out_channels
        places = self.strides or ([0, 1, 0] if self.bottleneck else [1, 0])
        channels = [in_channels] + [inner] * (len(kernels) - 1) + [out_channels]
        self.convs, self.bns = nn.ModuleList(), nn.ModuleList()
        for i, kernel in enumerate(kernels):
            s = stride if places[i] else 1
            pad = self.padding if kernel > 1 else 0
            self.convs.append(nn.Conv2d(channels[i], channels[i + 1], kernel, s, pad, bias=self.biases))
            has_norm = self.norms is None or self.norms[i]
            self.bns.append(nn.BatchNorm2d(channels[i + 1]) if has_norm else nn.Identity())
        changes = {
            "where": stride != 1 or in_channels != out_channels,
            "always": True,
            "never": False,
            "stride": stride != 1,
            "channels": in_channels != out_channels,
        }[self.projection]
        self.down = nn.Identity()
        if changes:
            s = stride if self.projection_stride else 1
            k = self.projection_kernel
            conv = nn.Conv2d(in_channels, out_channels, k, s, k // 2, bias=self.projection_bias)
            self.down = (
                nn.Sequential(conv, nn.BatchNorm2d(out_channels))
                if self.projection_norm
                else nn.Sequential(conv)
            )

    def residual(self, x):
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            x = bn(conv(x))
            if i < len(self.convs) - 1 and self.between:
                x = F.relu(x)
        return x

    def forward(self, x):
        out = self.residual(x)
        shortcut = self.down(x)
        if self.early:
            out = F.relu(out)
        out = {
            "add": lambda: out + shortcut,
            "never": lambda: out,
            "after": lambda: F.relu(out) + shortcut,
            "subtract": lambda: out - shortcut,
            "reversed": lambda: shortcut - out,
            "multiply": lambda: out * shortcut,
            "concatenate": lambda: torch.cat([out, shortcut], 1),
            "half": lambda: (out + shortcut) / 2,
            "relu": lambda: out + F.relu(shortcut),
        }[self.skip]()
        return F.relu(out) if self.end and self.skip != "after" else out


def basic(**switches):
    return type("Mine", (Block,), switches)


def neck(**switches):
    return type("Mine", (Block,), {"bottleneck": True, **switches})


def changed(name, *bases, **methods):
    return type(name, bases or (Block,), methods)


# ---- right ones


class Sequential(nn.Module):
    """Everything in nn.Sequential, the shortcut first, in-place ReLU where it is harmless."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.identity = nn.Sequential()
        if in_channels != out_channels or stride > 1:
            self.identity.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.identity.append(nn.BatchNorm2d(out_channels))
        self.f = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, (3, 3), (stride, stride), (1, 1), bias=False),
                nn.BatchNorm2d(out_channels),
            ),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding="same", bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x):
        identity = self.identity(x)
        out = self.f(x)
        out += identity
        return F.relu_(out)


class Torchvision(torchvision.models.resnet.BasicBlock):
    """The true one, given its projection."""

    block = torchvision.models.resnet.BasicBlock

    def __init__(self, in_channels, out_channels, stride=1):
        down = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            down = nn.Sequential(conv, nn.BatchNorm2d(out_channels))
        super().__init__(in_channels, out_channels // self.expansion, stride, down)


class TorchvisionBottleneck(torchvision.models.resnet.Bottleneck):
    def __init__(self, in_channels, out_channels, stride=1):
        down = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            down = nn.Sequential(conv, nn.BatchNorm2d(out_channels))
        super().__init__(in_channels, out_channels // 4, stride, down)


class Lazy(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.stride, self.extra = stride, out_channels - in_channels
        self.a = nn.LazyConv2d(out_channels, 3, stride=stride, padding=1, bias=False)
        self.an = nn.LazyBatchNorm2d()
        self.b = nn.LazyConv2d(out_channels, 3, padding=1, bias=False)
        self.bn = nn.LazyBatchNorm2d()

    def forward(self, x):
        skip = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            zeros = torch.zeros(len(x), self.extra, *skip.shape[2:])
            skip = torch.cat([skip, zeros], 1)
        return torch.relu(self.bn(self.b(torch.relu(self.an(self.a(x))))) + skip)


class ZerosOnBothSides(blocks.BasicBlock):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride, shortcut="A")
        half = (out_channels - in_channels) // 2
        rest = out_channels - in_channels - half
        self.downsample = nn.Identity()
        self.skip = lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, half, rest))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.skip(x))


class TheOtherRounding(ZerosOnBothSides):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        half = (o - i) // 2
        self.skip = lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, o - i - half, half))


class PadsFirst(blocks.BasicBlock):
    """F does not see the block's input, but a padded one."""

    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.pad = nn.ZeroPad2d(1)
        self.conv1.padding = self.conv2.padding = (0, 0)

    def forward(self, x):
        out = self.conv2(self.pad(F.relu(self.bn1(self.conv1(self.pad(x))))))
        return F.relu(self.bn2(out) + self.downsample(x))


class OtherNames(blocks.BasicBlock):
    def __init__(self, c_in, c_out, strides=1):
        super().__init__(c_in, c_out, strides)


class StrideComesFourth(blocks.BasicBlock):
    def __init__(self, in_channels, out_channels, kernel=3, stride=1):
        super().__init__(in_channels, out_channels, stride)


class KeywordsOnly(blocks.BasicBlock):
    def __init__(self, *, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)


RELU = nn.ReLU()


class SharesOnlyReLU(blocks.BasicBlock):
    """Nothing is learned in what its blocks share."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.relu = RELU


class ZeroInitialized(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        nn.init.zeros_(self.bn2.weight)


class ZeroInitializedBottleneck(blocks.Bottleneck):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        nn.init.zeros_(self.bn3.weight)


class NormsCreatedLast(blocks.BasicBlock):
    """Both convolutions of a pair run before their norms, and a clone of x goes into the shortcut."""

    def forward(self, x):
        shortcut = x.clone()
        out = self.conv1(x)
        if len(list(self.downsample.children())):
            shortcut = self.downsample[0](shortcut)
            out, shortcut = self.bn1(out), self.downsample[1](shortcut)
        else:
            out = self.bn1(out)
        out = self.bn2(self.conv2(F.relu(out)))
        return F.relu(shortcut + out)


@pytest.mark.parametrize(
    "cls",
    [
        blocks.BasicBlock,
        functools.partial(blocks.BasicBlock, shortcut="A"),
        Torchvision,
        Sequential,
        Lazy,
        ZerosOnBothSides,
        TheOtherRounding,
        PadsFirst,
        OtherNames,
        StrideComesFourth,
        KeywordsOnly,
        SharesOnlyReLU,
        ZeroInitialized,
        NormsCreatedLast,
        basic(),
    ],
)
def test_a_right_basic_block_passes(cls, capsys):
    checks.residual_block(cls)
    assert capsys.readouterr().out.startswith("Right")


@pytest.mark.parametrize(
    "cls",
    [
        blocks.Bottleneck,
        functools.partial(blocks.Bottleneck, stride_on="1x1"),
        functools.partial(blocks.Bottleneck, shortcut="A"),
        functools.partial(blocks.Bottleneck, shortcut="A", stride_on="1x1"),
        TorchvisionBottleneck,
        ZeroInitializedBottleneck,
        neck(),
        neck(strides=[1, 0, 0]),
    ],
)
def test_a_right_bottleneck_passes(cls, capsys):
    checks.bottleneck(cls)
    assert capsys.readouterr().out.startswith("Right")


def test_the_check_leaves_the_random_numbers_of_the_notebook_alone(capsys):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    checks.residual_block(blocks.BasicBlock)
    assert torch.equal(torch.rand(1), expected)


# ---- wrong ones


class Overwritten(blocks.BasicBlock):
    """The projection is created, then lost."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = None

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(out + x)


class CallsNone(Overwritten):
    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class OneNorm(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn1(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


class OneConvolution(blocks.BasicBlock):
    def forward(self, x):
        first = self.conv1 if self.conv1.weight.shape == self.conv2.weight.shape else None
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2((first or self.conv2)(out))
        return F.relu(out + self.downsample(x))


class TiedWeights(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if i == o:
            self.conv2.weight = self.conv1.weight


class InAList(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        inner = blocks.BasicBlock(in_channels, out_channels, stride)
        self.layers = [inner.conv1, inner.bn1, nn.ReLU(), inner.conv2, inner.bn2]
        self.downsample = inner.downsample

    def forward(self, x):
        out = x
        for layer in self.layers:
            out = layer(out)
        return F.relu(out + self.downsample(x))


class OverwritesX(blocks.BasicBlock):
    def forward(self, x):
        if not isinstance(self.downsample, nn.Identity):
            return super().forward(x)
        x = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        return F.relu(out + x)


class AddsItself(blocks.BasicBlock):
    def forward(self, x):
        if not isinstance(self.downsample, nn.Identity):
            return super().forward(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + x)


class InPlaceOnInput(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = self.downsample(x)
        shortcut += out
        return F.relu(shortcut)


class InPlaceReLUOnInput(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(self.relu(x))


class InPlaceAfterReLU(blocks.BasicBlock):
    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        out += self.downsample(x)
        return out


class InPlaceBreaksBackward(blocks.BasicBlock):
    def forward(self, x):
        hidden = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(hidden))
        hidden += 1
        return F.relu(out + self.downsample(x))


class Prints(blocks.BasicBlock):
    def forward(self, x):
        print("shape", x.shape)
        return super().forward(x)


class Pools(blocks.BasicBlock):
    pool = nn.MaxPool2d

    def __init__(self, i, o, stride=1):
        super().__init__(i, o)
        self.shrink = self.pool(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.downsample = nn.Identity()
        if stride > 1 or i != o:
            self.downsample = nn.Sequential(blocks.conv1x1(i, o, stride), nn.BatchNorm2d(o))

    def forward(self, x):
        out = self.shrink(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(F.relu(out))) + self.downsample(x))


class PooledShortcut(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if not isinstance(self.downsample, nn.Identity):
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True), blocks.conv1x1(i, o), nn.BatchNorm2d(o)
            )


class PooledZeroPadding(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride, shortcut="A")
        if stride > 1 or i != o:
            self.downsample = lambda x: F.pad(F.avg_pool2d(x, stride, ceil_mode=True), (0, 0, 0, 0, 0, o - i))

    def __setattr__(self, name, value):
        if name == "downsample" and not isinstance(value, nn.Module):
            self._modules.pop("downsample", None)
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class Dropout(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bn2 = nn.Sequential(self.bn2, nn.Dropout(0.3))


class FunctionalDropout(blocks.BasicBlock):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.3, self.training)


class RandomAlways(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.rand(1)


class StochasticDepth(blocks.BasicBlock):
    """Seldom leaves F out while training; two runs would mostly agree."""

    def forward(self, x):
        out = super().forward(x)
        return F.relu(self.downsample(x)) if self.training and random.random() < 1e-6 else out


class LevelsOff(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x).clamp(max=6)


class ProjectionMadeInForward(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if stride > 1 or i != o:
            self.downsample, self.sizes = None, (i, o, stride)

    def forward(self, x):
        if self.downsample is not None:
            return super().forward(x)
        i, o, stride = self.sizes
        shortcut = nn.BatchNorm2d(o)(nn.Conv2d(i, o, 1, stride, bias=False)(x))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class Stride3IsNotTwo(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, 2 if stride > 1 else 1)


class DefaultStride2(blocks.BasicBlock):
    def __init__(self, i, o, stride=2):
        super().__init__(i, o, stride)


class ExtraLayer(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.conv3, self.bn3 = blocks.conv3x3(o, o), nn.BatchNorm2d(o)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x))


class ExtraParameter(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.alpha * out + self.downsample(x))


class UnusedProjection(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.proj, self.needed = nn.Conv2d(i, o, 1, stride, bias=False), stride > 1 or i != o


class LeakyReLU(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.relu = nn.LeakyReLU()


class FunctionalGelu(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(F.gelu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


class ReLUBeforeNorm(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(F.relu(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


class NormAfterAddition(blocks.BasicBlock):
    def forward(self, x):
        out = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(out + self.downsample(x)))


class Detached(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x.detach()))


class NoGradient(blocks.BasicBlock):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class AlwaysBatchStatistics(blocks.BasicBlock):
    def forward(self, x):
        self.bn1.train()
        return super().forward(x)


class AlwaysRunningStatistics(blocks.BasicBlock):
    def forward(self, x):
        self.bn2.eval()
        return super().forward(x)


class OnlySmall(blocks.BasicBlock):
    def forward(self, x):
        out = super().forward(x)
        return out if out.shape[1] <= 64 else out * 1.01


class OnlyStride1(blocks.BasicBlock):
    def forward(self, x):
        if self.conv1.stride == (1, 1):
            return super().forward(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out) + self.downsample(x)


class WrongInTraining(blocks.BasicBlock):
    def forward(self, x):
        out = super().forward(x)
        return out + 0.1 if self.training else out


class UnfinishedStride2(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if stride == 2:
            raise NotImplementedError


class NoForward(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3)


class NoSuper(nn.Module):
    def __init__(self, i, o, stride=1):
        self.conv = nn.Conv2d(i, o, 3)


class WrongSignature(nn.Module):
    def __init__(self, channels):
        super().__init__()


class ReturnsNothing(blocks.BasicBlock):
    def forward(self, x):
        super().forward(x)


class ReturnsTuple(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x), x


class Raises(blocks.BasicBlock):
    def forward(self, x):
        raise KeyError("weights")


class Momentum(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride, norm=functools.partial(nn.BatchNorm2d, momentum=0.9))


class GroupNorm(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride, norm=functools.partial(nn.GroupNorm, 1))


class Functional(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.w = nn.Parameter(torch.randn(o, i, 3, 3))

    def forward(self, x):
        return F.relu(F.conv2d(x, self.w, padding=1))


class SharedOtherNorm(blocks.BasicBlock):
    """The projection borrows the second norm of F."""

    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if stride > 1 or i != o:
            self.downsample = nn.Sequential(self.downsample[0], self.bn2)


class ModuleListCalled(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.f = nn.ModuleList([self.conv1, self.bn1, self.relu, self.conv2, self.bn2])

    def forward(self, x):
        return F.relu(self.f(x) + self.downsample(x))


class Misspelled(nn.Module):
    def forwrd(self, x):
        return x


class MisspelledPart(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.relu = Misspelled()


class UnfinishedWithText(blocks.BasicBlock):
    def forward(self, x):
        if self.conv1.stride != (1, 1):
            raise NotImplementedError("the projection")
        return super().forward(x)


class SharedAcrossBlocks(blocks.BasicBlock):
    made = {}

    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.conv2 = self.made.setdefault((i, o, stride), self.conv2)


class Float(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x).float()


class HidesTrain(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.train = True


class HidesDouble(blocks.BasicBlock):
    double = 2


class InPlaceOnlyInEvaluation(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x if self.training else x.relu_())


class ZeroedOnlyInEvaluation(blocks.BasicBlock):
    def forward(self, x):
        out = super().forward(x)
        if not self.training:
            x.zero_()
        return out


class HardCodedTwo(Lazy):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.stride = 1 if stride == 1 else 2


class ProjectsOnlyForTwo(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if stride == 3:
            self.downsample = nn.Identity()


class ShortcutFirst(blocks.BasicBlock):
    """With a 2×2 projection."""

    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if stride > 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 2, stride, 1, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        shortcut = self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Frozen(blocks.BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1.requires_grad_(False)


def joined(join=torch.add, inside=F.relu, last=F.relu):
    """A basic block with other functions."""

    def forward(self, x):
        out = self.bn2(self.conv2(inside(self.bn1(self.conv1(x)))))
        return last(join(out, self.downsample(x)))

    return changed("Mine", blocks.BasicBlock, forward=forward)


BASIC_MISTAKES = {
    "ModuleList called": (ModuleListCalled, r"NotImplementedError: Module \[ModuleList\]"),
    "misspelled part": (MisspelledPart, r"NotImplementedError: Module \[Misspelled\]"),
    "unfinished, with a text": (UnfinishedWithText, "the projection.*still to be done"),
    "shared across blocks": (SharedAcrossBlocks, "two blocks share a layer; create it in __init__"),
    "built once": (functools.cache(blocks.BasicBlock), "two blocks share a layer"),
    "float": (Float, r"float32.*\.float\(\)"),
    "hides train": (HidesTrain, "self.train hides"),
    "hides double": (HidesDouble, "self.double hides"),
    "in place in evaluation": (InPlaceOnlyInEvaluation, "evaluation mode: forward changes its own input"),
    "zeroed in evaluation": (ZeroedOnlyInEvaluation, "evaluation mode: forward changes its own input"),
    "leaky inside": (joined(inside=F.leaky_relu), "LeakyReLU stands between"),
    "ReLU6 inside": (joined(inside=F.relu6), "ReLU6 stands between"),
    "GELU everywhere": (joined(inside=F.gelu, last=F.gelu), "GELU stands between.*GELU stands after"),
    "half the skip": (joined(lambda f, s: f + 0.5 * s), r"1 · F\(x\) \+ 0.5 · shortcut"),
    "a tenth of F": (joined(lambda f, s: 0.1 * f + s), r"0.1 · F\(x\) \+ 1 · shortcut"),
    "all zero": (joined(lambda f, s: 0 * f), "not that of the book's block"),
    "hard-coded two": (HardCodedTwo, "use stride, not 2"),
    "projects only for two": (ProjectsOnlyForTwo, "use stride, not 2"),
    "projection 2×2": (ShortcutFirst, "is a 1×1.*yours is 2×2"),
    "frozen": (Frozen, "requires_grad=False"),
    "never added": (basic(skip="never"), "skip is never added"),
    "plain block": (blocks.PlainBlock, "skip is never added"),
    "after": (basic(skip="after"), "after the last ReLU"),
    "after, in place": (InPlaceAfterReLU, "after the last ReLU|in place"),
    "no end": (basic(end=False), "no ReLU at the end"),
    "none between": (basic(between=False), "ReLU is missing between"),
    "early": (basic(early=True), "extra ReLU before the addition"),
    "early and no end": (basic(early=True, end=False), "after the last ReLU|no ReLU at the end"),
    "none between and no end": (basic(between=False, end=False), "no ReLU at the end.*missing between"),
    "subtract": (basic(skip="subtract"), "subtracted"),
    "reversed": (basic(skip="reversed"), "subtracted from the shortcut"),
    "multiply": (basic(skip="multiply"), "multiplied"),
    "half": (basic(skip="half"), r"0.5 · F\(x\) \+ 0.5 · shortcut"),
    "relu on skip": (basic(skip="relu"), "ReLU is applied to the shortcut"),
    "concatenate": (basic(skip="concatenate"), "concatenated"),
    "overwritten": (Overwritten, "no projection"),
    "None called": (CallsNone, "NoneType"),
    "no projection": (basic(projection="never"), "no projection"),
    "projection by stride": (basic(projection="stride"), "in_channels != out_channels"),
    "projection by channels": (basic(projection="channels"), "stride != 1"),
    "option C": (basic(projection="always"), "option C"),
    "projection without norm": (basic(projection_norm=False), "projection is not normalized"),
    "projection without stride": (basic(projection_stride=False), "projection has stride 1"),
    "projection 3×3": (basic(projection_kernel=3), "projection.*is a 1×1.*yours is 3×3"),
    "projection with bias": (basic(projection_bias=True), "bias"),
    "bias": (basic(biases=True), "bias=False"),
    "stride never": (basic(strides=[0, 0]), "stride is never applied"),
    "stride nowhere": (basic(strides=[0, 0], projection_stride=False), "stride is never applied"),
    "stride twice": (basic(strides=[1, 1]), "stride is applied twice"),
    "stride second": (basic(strides=[0, 1]), "stride is on the second"),
    "no first norm": (basic(norms=[False, True]), "batch norm is missing after convolution 1"),
    "no last norm": (basic(norms=[True, False]), "batch norm is missing after the last"),
    "one norm": (OneNorm, "one batch norm is used twice"),
    "one convolution": (OneConvolution, "convolution is used twice"),
    "tied weights": (TiedWeights, "parameters"),
    "in a list": (InAList, "not registered"),
    "overwrites x": (OverwritesX, "overwrites x"),
    "adds itself": (AddsItself, "added to itself"),
    "in place": (InPlaceOnInput, "in place"),
    "in-place ReLU": (InPlaceReLUOnInput, "in place"),
    "in place, backward": (InPlaceBreaksBackward, "in place"),
    "prints": (Prints, "prints 'shape"),
    "no padding": (basic(padding=0), "padding"),
    "too much padding": (basic(padding=2), "padding"),
    "5×5": (basic(kernels=[5, 3], padding=2), "3×3, 3×3"),
    "one convolution only": (basic(kernels=[3]), "3×3, 3×3"),
    "pooling": (Pools, "stride is never applied"),
    "pooled shortcut": (PooledShortcut, "projection does not read the block's input as it is"),
    "pooled zero padding": (PooledZeroPadding, "option A"),
    "dropout": (Dropout, "Dropout"),
    "functional dropout": (FunctionalDropout, "random"),
    "random": (RandomAlways, "random"),
    "stochastic depth": (StochasticDepth, "depends on chance in training mode"),
    "levels off": (LevelsOff, "ReLU6 stands after the addition"),
    "projection made in forward": (ProjectionMadeInForward, "not registered"),
    "stride 3": (Stride3IsNotTwo, "stride=3.*stride is ignored"),
    "default stride": (DefaultStride2, "stride=1.*stride is ignored|stride"),
    "extra layer": (ExtraLayer, "3×3, 3×3, 3×3"),
    "extra parameter": (ExtraParameter, "parameters"),
    "unused projection": (UnusedProjection, "proj is created and never runs"),
    "leaky": (LeakyReLU, "LeakyReLU"),
    "gelu": (FunctionalGelu, "GELU stands between"),
    "ReLU before norm": (ReLUBeforeNorm, "ReLU comes before the batch norm"),
    "norm after addition": (NormAfterAddition, "batch norm comes after the addition"),
    "pre-activation": (blocks.PreActBlock, "pre-activation"),
    "detached": (Detached, "cuts the gradient"),
    "no gradient": (NoGradient, "cuts the gradient"),
    "batch statistics": (AlwaysBatchStatistics, "evaluation mode"),
    "running statistics": (AlwaysRunningStatistics, "training mode"),
    "only small": (OnlySmall, "out_channels=96|out_channels=128"),
    "only stride 1": (OnlyStride1, "stride=2.*after the last ReLU"),
    "training": (WrongInTraining, "training mode"),
    "unfinished": (UnfinishedStride2, "still to be done"),
    "no forward": (NoForward, "no method forward"),
    "no super": (NoSuper, r"super\(\)"),
    "signature": (WrongSignature, "in_channels, out_channels, stride=1"),
    "nothing": (ReturnsNothing, "return"),
    "tuple": (ReturnsTuple, "return one Tensor"),
    "raises": (Raises, "KeyError: 'weights'"),
    "momentum": (Momentum, "momentum"),
    "group norm": (GroupNorm, "batch norm is missing"),
    "functional": (Functional, "nn.Conv2d"),
    "shared norm": (SharedOtherNorm, "one batch norm is used twice"),
    "d2l's": (blocks.D2LResidual, "bias"),
    "torchvision's own": (torchvision.models.resnet.BasicBlock, "no projection"),
    "a bottleneck": (blocks.Bottleneck, "3×3, 3×3"),
    "no module": (lambda i, o, stride=1: 3, "nn.Module"),
    "an instance": (blocks.BasicBlock(8, 8), "without parentheses"),
    "None": (None, "got None"),
    "a number": (3, "got 3"),
}


@pytest.mark.parametrize("name", BASIC_MISTAKES)
def test_a_wrong_basic_block_is_named(name, capsys):
    cls, message = BASIC_MISTAKES[name]
    with pytest.raises(checks.CheckFailed, match=message):
        checks.residual_block(cls)
    assert "Right" not in capsys.readouterr().out


class NeckPrints(blocks.Bottleneck):
    def forward(self, x):
        print(x.shape)
        return super().forward(x)


class NeckHardCodedStride(blocks.Bottleneck):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, 1)


class NeckNormUsedTwice(blocks.Bottleneck):
    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn1(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class NeckOneReLUMissing(blocks.Bottleneck):
    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class NeckFirstReLUMissing(blocks.Bottleneck):
    def forward(self, x):
        out = self.bn1(self.conv1(x))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class NeckPools(blocks.Bottleneck):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.conv2.stride = (1, 1)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.pool(F.relu(self.bn2(self.conv2(out))))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class NeckGroups(blocks.Bottleneck):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        self.conv2 = nn.Conv2d(o // 4, o // 4, 3, stride, 1, groups=2, bias=False)


BOTTLENECK_MISTAKES = {
    "never added": (neck(skip="never"), "skip is never added"),
    "after": (neck(skip="after"), "after the last ReLU"),
    "no end": (neck(end=False), "no ReLU at the end"),
    "early": (neck(early=True), "extra ReLU before the addition"),
    "none between": (neck(between=False), "ReLU is missing between the convolutions"),
    "second ReLU": (NeckOneReLUMissing, "between the second and the last"),
    "first ReLU": (NeckFirstReLUMissing, "between the first and the second"),
    "subtract": (neck(skip="subtract"), "subtracted"),
    "multiply": (neck(skip="multiply"), "multiplied"),
    "concatenate": (neck(skip="concatenate"), "concatenated"),
    "expansion forgotten": (neck(width=staticmethod(lambda i, o: o)), "expansion is forgotten"),
    "width from in": (neck(width=staticmethod(lambda i, o: i // 4)), "width"),
    "width halved": (neck(width=staticmethod(lambda i, o: o // 2)), "channels"),
    "swapped": (neck(kernels=[3, 1, 1]), "swapped"),
    "swapped at the end": (neck(kernels=[1, 1, 3]), "swapped"),
    "all 3×3": (neck(kernels=[3, 3, 3]), "1×1, 3×3, 1×1"),
    "no last norm": (neck(norms=[True, True, False]), "batch norm is missing after the last"),
    "no middle norm": (neck(norms=[True, False, True]), "batch norm is missing after convolution 2"),
    "one norm": (NeckNormUsedTwice, "one batch norm is used twice"),
    "bias": (neck(biases=True), "bias=False"),
    "no projection": (neck(projection="never"), "no projection"),
    "projection by stride": (neck(projection="stride"), "no projection"),
    "option C": (neck(projection="always"), "option C"),
    "projection without norm": (neck(projection_norm=False), "not normalized"),
    "projection without stride": (neck(projection_stride=False), "projection has stride 1"),
    "stride never": (neck(strides=[0, 0, 0]), "stride is never applied"),
    "stride ignored": (NeckHardCodedStride, "stride|projection"),
    "stride twice": (neck(strides=[1, 1, 0]), "stride is applied twice"),
    "stride last": (neck(strides=[0, 0, 1]), r"stride is on the last.*\(the original implementation\)"),
    "padding": (neck(padding=0), "padding"),
    "pools": (NeckPools, "stride is never applied"),
    "groups": (NeckGroups, "groups"),
    "prints": (NeckPrints, "prints"),
    "torchvision's own": (torchvision.models.resnet.Bottleneck, "out_channels is what comes out"),
    "a basic block": (blocks.BasicBlock, "1×1, 3×3, 1×1"),
    "None": (None, "got None"),
    "an instance": (blocks.Bottleneck(8, 8), "without parentheses"),
}


@pytest.mark.parametrize("name", BOTTLENECK_MISTAKES)
def test_a_wrong_bottleneck_is_named(name, capsys):
    cls, message = BOTTLENECK_MISTAKES[name]
    with pytest.raises(checks.CheckFailed, match=message):
        checks.bottleneck(cls)
    assert "Right" not in capsys.readouterr().out


# ---- counts


def count(i, o, s=1, norms=2, biases=0):
    needed = s != 1 or i != o
    return 9 * i * o + 9 * o * o + 2 * (norms + biases) * o + needed * (i * o + (norms + biases) * o)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *c: count(*c, norms=0, biases=1), "no convolution here has a bias"),
        (
            lambda *c: probes.count_parameters(blocks.D2LResidual(*c)),
            "That is the block of chapter 5",
        ),
        (lambda *c: count(*c) + 1, "add them up again"),
        (lambda *c: count(*c) + 0.5, r"\.5, which is no whole number: divide with //"),
        (lambda *c: None, "return"),
        (lambda *c: 1 / 0, "ZeroDivisionError"),
        (295424, "got 295424.*without parentheses"),
    ],
)
def test_other_wrong_basic_parameters(function, message):
    fails(checks.basic_parameters, function, message)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda width: 4 * width + 8, r"\d\d,\d{3} weights, two 3×3 at width 64 only 73,728. Round down"),
        (lambda width: 4 * width + 1, "from 4 up"),
        (lambda width: 0, "from 4 up"),
        (lambda width: 4, "8 channels still fit: 68 of 73,728 weights"),
        (lambda width: 10**12, "Round down"),
        (lambda width: round(width * 4.116 / 4) * 4 + 4, "Round down"),
        (lambda width: 17.5 / 17 * width, "no whole number"),
        (lambda width: None, "return"),
    ],
)
def test_other_wrong_equal_cost_channels(function, message):
    fails(checks.equal_cost_channels, function, message)


def test_a_sum_of_macs_that_is_no_known_mistake():
    def one_too_many(i, o, s, side, on):
        return macs_of_the_module(i, o, s, side, on) + 1

    fails(checks.bottleneck_macs, one_too_many, "add them up again")


def count_the_module(*case):
    return sum(p.numel() for p in blocks.BasicBlock(*case).parameters())


def macs_of_the_module(i, o, s, side, on):
    return probes.count_macs(blocks.Bottleneck(i, o, s, stride_on=on), (i, side, side))


@pytest.mark.parametrize(
    ("check", "solution"),
    [(checks.basic_parameters, count_the_module), (checks.bottleneck_macs, macs_of_the_module)],
)
def test_counting_a_module_is_right_but_no_formula(check, solution, capsys):
    check(solution)
    said = capsys.readouterr().out
    assert "Right" in said
    assert "But your function builds Conv2d" in said
    assert "write the formula, without PyTorch" in said


@pytest.mark.parametrize("kind", [float, Fraction, np.float64, lambda n: torch.tensor([float(n)])])
def test_a_whole_number_may_be_of_any_kind(kind, capsys):
    checks.basic_parameters(lambda *case: kind(count(*case)))
    checks.equal_cost_channels(lambda width: kind(4 * math.isqrt(18 * width**2 // 17)))
    assert capsys.readouterr().out.count("Right") == 2


def test_a_later_width_that_is_still_to_be_done():
    def unfinished(width):
        if width != 64:
            raise NotImplementedError("other widths")
        return 260

    fails(checks.equal_cost_channels, unfinished, "NotImplementedError: other widths. This case is still")


# ---- a whole network


def network(
    plan=(3, 4, 6, 3),
    channels=(64, 128, 256, 512),
    strides=(1, 2, 2, 2),
    stem_stride=2,
    pool_stride=2,
    stem_relu=True,
    head=None,
    block=blocks.BasicBlock,
    num_classes=1000,
):
    layers = [nn.Conv2d(3, 64, 7, stem_stride, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU()] if stem_relu else []
    layers += [nn.MaxPool2d(3, pool_stride, 1)]
    before = 64
    for number, after, stride in zip(plan, channels, strides, strict=True):
        for i in range(number):
            layers.append(block(before, after, stride if i == 0 else 1))
            before = after
    layers += head or [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers)


class WrongBlock(blocks.BasicBlock):
    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return out + self.downsample(x)


@pytest.mark.parametrize("build", [torchvision.models.resnet34, models.resnet34, network])
def test_a_right_resnet34_passes(build, capsys):
    checks.resnet34(build)
    assert capsys.readouterr().out.startswith("Right")


POOL = nn.AdaptiveAvgPool2d(1)


class Doubles(blocks.BasicBlock):
    """A norm that sees its input twice while training."""

    def forward(self, x):
        if self.training:
            self.bn1(self.conv1(x))
        return super().forward(x)


def with_norm(**settings):
    return functools.partial(blocks.BasicBlock, norm=functools.partial(nn.BatchNorm2d, **settings))


class HidesEval(nn.Sequential):
    eval = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network(plan=(4, 5, 7, 4)), "conv2_x runs 8 .* 6, in 3 blocks. Count the first block"),
        (lambda: network(plan=(3, 1, 6, 3)), "conv3_x runs 2 .* 8, in 4 blocks"),
        (lambda: network(channels=(64, 128, 256, 256)), "conv4_x"),
        (lambda: network(pool_stride=1), "conv2_x works on maps of 32×32.*max-pool"),
        (lambda: network(strides=(2, 2, 2, 2)), "conv2_x works on maps of 8×8"),
        (lambda: network(strides=(1, 2, 1, 2)), "conv4_x works on maps of 8×8"),
        (lambda: network(stem_stride=1), "stem"),
        (lambda: network(stem_relu=False), "The first convolution that gives something else"),
        (lambda: network(num_classes=10), "head"),
        (lambda: network(head=[POOL, nn.Flatten(), nn.Linear(512, 1000), nn.Softmax(1)]), "softmax"),
        (lambda: network(head=[nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]), "average"),
        (lambda: network(head=[nn.AvgPool2d(7), nn.Flatten(), nn.Linear(512, 1000)]), "AdaptiveAvgPool2d"),
        (lambda: network(head=[POOL, nn.Linear(512, 1000)]), r"nn\.Flatten\(\)"),
        (lambda: network(head=[POOL, nn.Flatten(), nn.Linear(512, 1000, bias=False)]), "with a bias"),
        (lambda: network(block=TiedWeights), "missing, left over or shared"),
        (lambda: network(block=Detached), "gradient in the input.*cuts the gradient"),
        (lambda: network(block=Frozen), "gradient in the weights.*requires_grad=False"),
        (lambda: network(block=Doubles), "running statistics"),
        (lambda: network(block=with_norm(momentum=0.9)), "momentum"),
        (lambda: network(block=with_norm(eps=1e-3)), "eps=0.001"),
        (lambda: network(block=ModuleListCalled), r"Module \[ModuleList\]"),
        (lambda: HidesEval(network()), "self.eval hides"),
        (lambda: network, r"add \(\)"),
        (lambda: nn.Identity, r"add \(\)"),
        (network(), r"already built: give it your function.*without parentheses \(\)"),
        (None, "got None"),
        (lambda: network(block=functools.partial(blocks.BasicBlock, shortcut="A")), "projections"),
        (lambda: network(block=functools.partial(blocks.BasicBlock, shortcut="C")), "projections"),
        (lambda: network(block=WrongBlock), "checks.residual_block"),
        (lambda: network(block=blocks.D2LResidual), "bias"),
        (lambda: network(block=blocks.PlainBlock), "projections"),
        (models.resnet18, "conv2_x runs 4"),
        (models.resnet50, "conv2_x runs"),
        (lambda: None, "return"),
        (lambda: nn.Flatten(), "no convolution"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong_resnet34(build, message, capsys):
    with pytest.raises(checks.CheckFailed, match=message):
        checks.resnet34(build)
    assert "Right" not in capsys.readouterr().out


# ---- untouched


class Untouched(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        raise NotImplementedError


@pytest.mark.parametrize(
    "check",
    [
        checks.basic_parameters,
        checks.residual_block,
        checks.bottleneck,
        checks.equal_cost_channels,
        checks.resnet34,
        checks.bottleneck_macs,
    ],
)
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    def untouched(*arguments):
        raise NotImplementedError

    check(untouched)
    if check in CHECKS.values():
        check(Untouched)
    assert "Right" not in capsys.readouterr().out


# ---- a mistake on the shortcut is said to be on the shortcut


class Part(nn.Module):
    """Any function, with the layers that it uses."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def conv(i, o, stride=1, kernel=1, **settings):
    return nn.Conv2d(i, o, kernel, stride, bias=False, **settings)


def with_shortcut(changing, keeping=None, bottleneck=False):
    """A right F, and the shortcut that ``changing(i, o, stride)`` or ``keeping(i, o, stride)`` makes."""

    class Mine(nn.Module):
        def __init__(self, i, o, stride=1):
            super().__init__()
            channels = [(i, o // 4), (o // 4, o // 4), (o // 4, o)] if bottleneck else [(i, o), (o, o)]
            kernels, place = ((1, 3, 1), 1) if bottleneck else ((3, 3), 0)
            layers = []
            for n, ((c_in, c_out), k) in enumerate(zip(channels, kernels, strict=True)):
                layers.append(conv(c_in, c_out, stride if n == place else 1, k, padding=k // 2))
                layers += [nn.BatchNorm2d(c_out), nn.ReLU()]
            self.f = nn.Sequential(*layers[:-1])
            changes = stride != 1 or i != o
            self.s = changing(i, o, stride) if changes else (keeping or nn.Identity)(i, o, stride)

        def forward(self, x):
            return F.relu(self.f(x) + self.s(x))

    return Mine


def projection(i, o, s):
    return nn.Sequential(conv(i, o, s), nn.BatchNorm2d(o))


def half_the_channels(i, o, s):
    return nn.Sequential(conv(i, o, s, groups=2 if i % 2 == o % 2 == 0 else 1), nn.BatchNorm2d(o))


def two_convolutions(i, o, s):
    return nn.Sequential(conv(i, o, s), nn.BatchNorm2d(o), conv(o, o), nn.BatchNorm2d(o))


def behind(layer):
    return lambda i, o, s: nn.Sequential(layer(i, s), conv(i, o, s), nn.BatchNorm2d(o))


def pooled_before(i, o, s):
    return nn.Sequential(nn.AvgPool2d(s, ceil_mode=True), conv(i, o), nn.BatchNorm2d(o))


SHORTCUTS = {
    "padding": (lambda i, o, s: nn.Sequential(conv(i, o, s, padding=1), nn.BatchNorm2d(o)), "1×1.*padding=0"),
    "3×3": (
        lambda i, o, s: nn.Sequential(conv(i, o, s, 3, padding=1), nn.BatchNorm2d(o)),
        "A projection on the",
    ),
    "2×2": (
        lambda i, o, s: nn.Sequential(conv(i, o, s, 2), nn.BatchNorm2d(o)),
        "A projection on the shortcut",
    ),
    "groups": (half_the_channels, "the projection has groups=2"),
    "always two": (lambda i, o, s: projection(i, o, 2), "projection has stride 2; it needs the block's"),
    "ReLU before": (behind(lambda i, s: nn.ReLU()), "projection does not read the block's input as it is"),
    "norm before": (behind(lambda i, s: nn.BatchNorm2d(i)), "does not read the block's input as it is"),
    "pool before": (pooled_before, "does not read the block's input as it is"),
    "ReLU inside": (
        lambda i, o, s: nn.Sequential(conv(i, o, s), nn.ReLU(), nn.BatchNorm2d(o)),
        "ReLU stands on the shortcut, between the projection and its norm",
    ),
    "ReLU after": (lambda i, o, s: nn.Sequential(projection(i, o, s), nn.ReLU()), "applied to the shortcut"),
    "twice": (two_convolutions, "the shortcut runs 2 convolutions, 1×1, 1×1; a projection is one"),
    "dropout": (lambda i, o, s: nn.Sequential(projection(i, o, s), nn.Dropout(0.1)), "also runs Dropout"),
    "halved": (lambda i, o, s: Part(lambda x, p: p(x) / 2, projection(i, o, s)), r"F\(x\) \+ 0.5 · shortcut"),
}


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_mistake_on_the_shortcut_is_not_reported_as_one_of_f(name, bottleneck, capsys):
    changing, message = SHORTCUTS[name]
    check = checks.bottleneck if bottleneck else checks.residual_block
    with pytest.raises(checks.CheckFailed, match=message) as failure:
        check(with_shortcut(changing, bottleneck=bottleneck))
    assert "F must run" not in str(failure.value)
    assert "Right" not in capsys.readouterr().out


IDENTITIES = {
    "norm": (lambda i, o, s: nn.BatchNorm2d(o), "there is a batch norm on the shortcut"),
    "3×3": (lambda i, o, s: conv(i, o, kernel=3, padding=1), "a 3×3 convolution on the shortcut"),
    "ReLU": (lambda i, o, s: Part(lambda x: F.relu(x)), "applied to the shortcut"),
    "tenth": (lambda i, o, s: Part(lambda x: x / 10), r"0.1 · shortcut"),
}


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("name", IDENTITIES)
def test_something_on_a_shortcut_that_should_be_the_identity(name, bottleneck, capsys):
    keeping, message = IDENTITIES[name]
    check = checks.bottleneck if bottleneck else checks.residual_block
    fails(check, with_shortcut(projection, keeping, bottleneck), message, capsys)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_every_stride_th_pixel_may_be_taken_before_the_projection(bottleneck, capsys):
    def changing(i, o, s):
        return nn.Sequential(Part(lambda x: x[:, :, ::s, ::s]), conv(i, o), nn.BatchNorm2d(o))

    passes(
        checks.bottleneck if bottleneck else checks.residual_block,
        with_shortcut(changing, bottleneck=bottleneck),
        capsys,
    )


class KeepsItsOutput(blocks.BasicBlock):
    def forward(self, x):
        self.features = [F.relu(self.bn1(self.conv1(x)))]
        return F.relu(self.bn2(self.conv2(self.features[0])) + self.downsample(x))


def test_a_block_that_keeps_its_graph_alive(capsys):
    fails(checks.residual_block, KeepsItsOutput, r"self.features keeps a result.*\.detach\(\)", capsys)


# ---- right, but by another's hand


@pytest.mark.parametrize(
    ("check", "solution", "whose"),
    [
        (checks.residual_block, blocks.BasicBlock, "the book's BasicBlock"),
        (checks.residual_block, Torchvision, "torchvision's BasicBlock"),
        (checks.residual_block, type("Mine", (blocks.BasicBlock,), {}), "the book's BasicBlock"),
        (
            checks.residual_block,
            with_shortcut(projection),
            None,
        ),
        (checks.residual_block, basic(), None),
        (checks.bottleneck, blocks.Bottleneck, "the book's Bottleneck"),
        (checks.bottleneck, TorchvisionBottleneck, "torchvision's Bottleneck"),
        (checks.bottleneck, neck(), None),
        (checks.resnet34, models.resnet34, "the book's ResNet"),
        (checks.resnet34, torchvision.models.resnet34, "torchvision's ResNet"),
        (checks.resnet34, network, None),  # the exercise offers a block that is there
    ],
)
def test_a_ready_made_class_is_right_but(check, solution, whose, capsys):
    check(solution)
    said = capsys.readouterr().out
    assert said.startswith("Right")
    if whose:
        assert f"But it is {whose} that computes here: write your own" in said
    else:
        assert "But" not in said


# ---- the whole network


class Meddles(nn.Sequential):
    """Right, and its images are not what they were."""

    def forward(self, x):
        out = super().forward(x)
        with torch.no_grad():
            x.mul_(2)
        return out


def keeps(network):
    network.register_forward_hook(lambda module, _, out: setattr(module, "last", out))
    return network


CONVOLUTION = [POOL, nn.Conv2d(512, 1000, 1), nn.Flatten()]
AVERAGE_LAST = [nn.Conv2d(512, 1000, 1), POOL, nn.Flatten()]


@pytest.mark.parametrize("head", [CONVOLUTION, AVERAGE_LAST])
def test_a_head_may_be_a_convolution(head, capsys):
    passes(checks.resnet34, lambda: network(head=copy.deepcopy(head)), capsys)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: network(head=[POOL, nn.Conv2d(512, 10, 1), nn.Flatten()]),
            "The head must be one linear layer",
        ),
        (
            lambda: network(head=[POOL, nn.Conv2d(512, 1000, 1, bias=False), nn.Flatten()]),
            "The head must be one linear layer",
        ),
        (
            lambda: network(head=[POOL, nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 1000)]),
            "depends on chance in training mode: something in it is random, like dropout",
        ),
        (lambda: network(head=[nn.Dropout2d(0.1), POOL, nn.Flatten(), nn.Linear(512, 1000)]), "like dropout"),
        (lambda: Meddles(*network()), "The network changes its own argument images"),
        (lambda: keeps(network()), r"The logits are right, but self.last keeps a result"),
    ],
)
def test_other_wrong_networks(build, message, capsys):
    fails(checks.resnet34, build, message, capsys)
