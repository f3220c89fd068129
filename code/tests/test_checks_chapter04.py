"""Chapter 4's exercises: other right solutions pass; mistakes are named that no edit of an answer gives."""

import dataclasses
import functools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import blocks, checks, probes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


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


# ---- any shortcut, with a right F


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


def pixels_first(i, o, s):
    return nn.Sequential(Part(lambda x: x[:, :, ::s, ::s]), conv(i, o), nn.BatchNorm2d(o))


# ---- right blocks


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


def on_the_first(i, o, stride=1):
    """A bottleneck from the page, with its stride on the first 1×1."""
    source = checks.bottleneck.answer.replace("width, 1)", "width, 1, stride)").replace("3, stride)", "3)")
    return checks.bottleneck.built(source)(i, o, stride)


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
        with_shortcut(projection),
        with_shortcut(pixels_first),
    ],
)
def test_a_right_basic_block_passes(cls, capsys):
    passes(checks.residual_block, cls, capsys)


@pytest.mark.parametrize(
    "cls",
    [
        blocks.Bottleneck,
        functools.partial(blocks.Bottleneck, stride_on="1x1"),
        functools.partial(blocks.Bottleneck, shortcut="A"),
        functools.partial(blocks.Bottleneck, shortcut="A", stride_on="1x1"),
        TorchvisionBottleneck,
        ZeroInitializedBottleneck,
        on_the_first,
        with_shortcut(pixels_first, bottleneck=True),
    ],
)
def test_a_right_bottleneck_passes(cls, capsys):
    passes(checks.bottleneck, cls, capsys)


def test_the_check_leaves_the_random_numbers_of_the_notebook_alone(capsys):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    checks.residual_block(blocks.BasicBlock)
    assert torch.equal(torch.rand(1), expected)


# ---- wrong blocks


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


class TiedWeights(blocks.BasicBlock):
    def __init__(self, i, o, stride=1):
        super().__init__(i, o, stride)
        if i == o:
            self.conv2.weight = self.conv1.weight


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


class InPlaceBreaksBackward(blocks.BasicBlock):
    def forward(self, x):
        hidden = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(hidden))
        hidden += 1
        return F.relu(out + self.downsample(x))


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


class RandomAlways(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.rand(1)


class StochasticDepth(blocks.BasicBlock):
    """Seldom leaves F out while training; two runs would mostly agree."""

    def forward(self, x):
        out = super().forward(x)
        return F.relu(self.downsample(x)) if self.training and random.random() < 1e-6 else out


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


class DefaultStride2(blocks.BasicBlock):
    def __init__(self, i, o, stride=2):
        super().__init__(i, o, stride)


class NoGradient(blocks.BasicBlock):
    @torch.no_grad()
    def forward(self, x):
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


class Raises(blocks.BasicBlock):
    def forward(self, x):
        raise KeyError("weights")


class Functional(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.w = nn.Parameter(torch.randn(o, i, 3, 3))

    def forward(self, x):
        return F.relu(F.conv2d(x, self.w, padding=1))


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


class InPlaceOnlyInEvaluation(blocks.BasicBlock):
    def forward(self, x):
        return super().forward(x if self.training else x.relu_())


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


class KeepsItsOutput(blocks.BasicBlock):
    def forward(self, x):
        self.features = [F.relu(self.bn1(self.conv1(x)))]
        return F.relu(self.bn2(self.conv2(self.features[0])) + self.downsample(x))


class NoStride(blocks.BasicBlock):
    """Nothing is shrunk, in F or beside it."""

    def __init__(self, i, o, stride=1):
        super().__init__(i, o)


def joined(join=torch.add, inside=F.relu, last=F.relu):
    """A basic block with other functions."""

    def forward(self, x):
        out = self.bn2(self.conv2(inside(self.bn1(self.conv1(x)))))
        return last(join(out, self.downsample(x)))

    return type("Mine", (blocks.BasicBlock,), {"forward": forward})


BASIC_MISTAKES = {
    "ModuleList called": (ModuleListCalled, r"NotImplementedError: Module \[ModuleList\]"),
    "misspelled part": (MisspelledPart, r"NotImplementedError: Module \[Misspelled\]"),
    "unfinished, with a text": (UnfinishedWithText, "the projection.*still to be done"),
    "in place in evaluation": (InPlaceOnlyInEvaluation, "evaluation mode: forward changes its own input"),
    "in place, backward": (InPlaceBreaksBackward, "backward pass stops with .*in place"),
    "GELU everywhere": (joined(inside=F.gelu, last=F.gelu), "GELU stands between.*GELU stands after"),
    "never, and no end": (joined(lambda f, s: f, last=lambda x: x), "never added.* And there is no ReLU"),
    "a tenth of F": (joined(lambda f, s: 0.1 * f + s), r"0.1 · F\(x\) \+ 1 · shortcut"),
    "all zero": (joined(lambda f, s: 0 * f), "not that of the book's block"),
    "only small": (OnlySmall, "out_channels=96|out_channels=128"),
    "only stride 1": (OnlyStride1, "stride=2.*after the last ReLU"),
    "overwrites x": (OverwritesX, "what is added is not the block's input .*: forward overwrites x"),
    "adds itself": (AddsItself, "added to itself"),
    "random": (RandomAlways, "depends on chance in evaluation mode"),
    "stochastic depth": (StochasticDepth, "depends on chance in training mode"),
    "frozen": (Frozen, "gradient in the weights.*requires_grad=False"),
    "no gradient": (NoGradient, "cuts the gradient"),
    "keeps its graph": (KeepsItsOutput, r"self.features keeps a result.*\.detach\(\)"),
    "tied weights": (TiedWeights, "parameters"),
    "one norm": (OneNorm, "one batch norm is used twice"),
    "projection overwritten": (Overwritten, "no projection"),
    "None called": (CallsNone, "NoneType"),
    "projection made in forward": (ProjectionMadeInForward, "not registered"),
    "projects only for two": (ProjectsOnlyForTwo, "use stride, not 2"),
    "projection 2×2, first": (ShortcutFirst, "is a 1×1.*yours is 2×2"),
    "torchvision's own": (torchvision.models.resnet.BasicBlock, "no projection"),
    "stride nowhere": (NoStride, "stride is never applied"),
    "default stride": (DefaultStride2, "stride=1 is asked for, and the convolutions of F have"),
    "pooling": (Pools, "stride is never applied.*no pooling"),
    "one convolution only": (Functional, "nn.Conv2d"),
    "raises": (Raises, "KeyError: 'weights'"),
    "no module": (lambda i, o, stride=1: 3, "nn.Module"),
    "an instance": (blocks.BasicBlock(8, 8), "without parentheses"),
}


@pytest.mark.parametrize("name", BASIC_MISTAKES)
def test_other_wrong_basic_blocks(name, capsys):
    fails(checks.residual_block, *BASIC_MISTAKES[name], capsys)


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


# ---- a whole network


def network(*edits, block=blocks.BasicBlock):
    """The page's ResNet-34, with edits of its text, or another block."""
    source = checks.resnet34.answer
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return dataclasses.replace(checks.resnet34, scope={"BasicBlock": block}).built(source)


class Doubles(blocks.BasicBlock):
    """A norm that sees its input twice while training."""

    def forward(self, x):
        if self.training:
            self.bn1(self.conv1(x))
        return super().forward(x)


class Detached(blocks.BasicBlock):
    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x.detach()))


class WrongBlock(blocks.BasicBlock):
    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return out + self.downsample(x)


class HidesEval(nn.Sequential):
    eval = 3


class Meddles(nn.Sequential):
    """Right, and its images are not what they were."""

    def forward(self, x):
        out = super().forward(x)
        with torch.no_grad():
            x.mul_(2)
        return out


class Momentum(blocks.BasicBlock):
    def __init__(self, *args):
        super().__init__(*args, norm=functools.partial(nn.BatchNorm2d, momentum=0.9))


def keeps(network):
    network.register_forward_hook(lambda module, _, out: setattr(module, "last", out))
    return network


HEAD = "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)"


def with_head(head, **more):
    return network((HEAD, head), **more)


@pytest.mark.parametrize(
    "build",
    [
        # On one position a 1×1 convolution is a linear layer, and after it the mean may as well be taken.
        with_head("nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 1000, 1), nn.Flatten()"),
        with_head("nn.Conv2d(512, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()"),
    ],
)
def test_a_head_may_be_a_convolution(build, capsys):
    checks.resnet34(build)
    said = capsys.readouterr().out
    assert said.startswith("Right")
    assert "But" not in said  # the exercise offers a block that is there


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (network(("(512, 3)", "(256, 3)"), ("Linear(512", "Linear(256")), "conv4_x runs 18 .* 12"),
        (with_head("nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000, bias=False)"), "with a bias"),
        (
            with_head("nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 1000, 1, bias=False), nn.Flatten()"),
            "The head must be one linear layer",
        ),
        (network(block=TiedWeights), "missing, left over or shared"),
        (network(block=Detached), "gradient in the input.*cuts the gradient"),
        (network(block=Frozen), "gradient in the weights.*requires_grad=False"),
        (network(block=Doubles), "running statistics"),
        (network(block=Momentum), "momentum"),
        (network(block=ModuleListCalled), r"Module \[ModuleList\]"),
        (network(block=WrongBlock), "checks.residual_block"),
        (network(block=functools.partial(blocks.BasicBlock, shortcut="A")), "runs 0 projections"),
        (network(block=functools.partial(blocks.BasicBlock, shortcut="C")), "runs 16 projections"),
        (lambda: HidesEval(network()()), "self.eval hides"),
        (lambda: Meddles(*network()()), "The network changes its own argument images"),
        (lambda: keeps(network()()), r"The logits are right, but self.last keeps a result"),
        (lambda: nn.Flatten(), "no convolution"),
        (lambda: 1 / 0, "Building the network raises ZeroDivisionError"),
    ],
)
def test_other_wrong_networks(build, message, capsys):
    fails(checks.resnet34, build, message, capsys)


# ---- right, but by another's hand


@pytest.mark.parametrize(
    ("check", "solution", "whose"),
    [
        (checks.residual_block, blocks.BasicBlock, "the book's BasicBlock"),
        (checks.residual_block, Torchvision, "torchvision's BasicBlock"),
        (checks.residual_block, type("Mine", (blocks.BasicBlock,), {}), "the book's BasicBlock"),
        (checks.residual_block, with_shortcut(projection), None),
        (checks.bottleneck, blocks.Bottleneck, "the book's Bottleneck"),
        (checks.resnet34, torchvision.models.resnet34, "torchvision's ResNet"),
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


class Untouched(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        raise NotImplementedError


def test_an_untouched_class_does_not_stop_the_notebook(capsys):
    checks.residual_block(Untouched)
    assert capsys.readouterr().out.startswith("Not done yet")
