"""The exercises of chapter 4: the counts of a block, both residual blocks, ResNet-34."""

import bisect
import functools

import torch
from torch import nn

from resnetbook import blocks, probes
from resnetbook.checks.common import as_number
from resnetbook.checks.exercise import Exercise, Outcome
from resnetbook.checks.network import judge_resnet34
from resnetbook.checks.residual import BASIC, BOTTLENECK, judge_block

# Whoever has the modules counted is right, and has not done what was asked.
_BY_MODULES = {
    "*Conv2d": "But your function builds {used} and counts what is there: the exercise is to write the "
    "formula, without PyTorch."
}
_ADD_AGAIN = "Write down each layer with its numbers, and add them up again."

# When there is a projection: mistaken conditions, for both counts.
_CONDITIONS = """
stride != 1 or in_channels -> in_channels
    The projection is missing where there is a stride and the channels stay.
stride != 1 or in_channels != out_channels -> stride != 1
    The projection is missing where the channels change at stride 1.
!= 1 or -> != 1 and
    A stride or new channels need a projection: write or, not and.
stride != 1 or -> stride == 2 or
    The projection is missing where the stride is neither 1 nor 2.
"""


# ---- parameters

basic_parameters = Exercise(
    number="4.1",
    title="The parameters of a basic block",
    minutes=10,
    level="easy",
    answer="""\
def basic_parameters(
    in_channels: int, out_channels: int, stride: int = 1
) -> int:
    weights = 9 * in_channels * out_channels + 9 * out_channels * out_channels
    norms = 2 * (2 * out_channels)
    projection = 0
    if stride != 1 or in_channels != out_channels:
        projection = in_channels * out_channels + 2 * out_channels
    return weights + norms + projection
""",
    cases=((64, 64, 1), (64, 128, 2), (128, 128, 2), (8, 16, 1), (5, 5, 3)),
    trusted=lambda *case: probes.count_parameters(blocks.BasicBlock(*case)),
    slips="""
2 * (2 * out_channels) -> 0
+ 2 * out_channels⏎ -> ⏎
    The batch norms are missing: a scale and a shift for each channel.
2 * (2 * out_channels) -> 0
projection = in_channels -> projection = 0 * in_channels
+ 2 * out_channels⏎ -> ⏎
    The batch norms are missing, and the projection where the shape changes.
2 * (2 * out_channels) -> 2 * out_channels
+ 2 * out_channels⏎ -> + out_channels⏎
    A batch norm learns two numbers for each channel, a scale and a shift; and no convolution here has a
    bias, which would be one number for each channel.
2 * (2 * out_channels) -> 2 * (4 * out_channels)
+ 2 * out_channels⏎ -> + 4 * out_channels⏎
    Running statistics are not learned, so they are no parameters.
2 * (2 * out_channels) -> 2 * (3 * out_channels)
or
2 * (2 * out_channels) -> 2 * (3 * out_channels)
+ 2 * out_channels⏎ -> + 3 * out_channels⏎
    These convolutions have no bias: batch norm would subtract it again.
2 * (2 * out_channels) -> 2 * (3 * out_channels)
+ 2 * out_channels⏎ -> + out_channels⏎
    That is the block of chapter 5: its convolutions have biases, and its projection has no norm.
+ 2 * out_channels⏎ -> + out_channels⏎
    The projection has a batch norm, of two numbers for each channel, and no bias.
+ 2 * out_channels⏎ -> ⏎
    The projection has a batch norm as well.
if stride != 1 or in_channels != out_channels -> if False
    Where the shape changes there is a projection, with its norm.
if stride != 1 or in_channels != out_channels -> if True
    Where the shape stays, the shortcut has no parameters.
9 * in_channels * out_channels -> 9 * out_channels * out_channels
    The first convolution reads in_channels, not out_channels.
9 * out_channels * out_channels -> 9 * in_channels * out_channels
    The second convolution reads what the first one put out: out_channels.
9 * -> 3 *
    A 3×3 filter has nine weights for each input channel.
"""
    + _CONDITIONS,
    otherwise=_ADD_AGAIN,
    right="the counts are the module's in 5 cases, with and without a projection.",
    remarked=_BY_MODULES,
)


# ---- the residual blocks

residual_block = Exercise(
    number="4.2",
    title="A basic block from memory",
    minutes=20,
    level="medium",
    answer="""\
class MyBlock(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.path = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.path(x) + shortcut)
""",
    judge=functools.partial(judge_block, kind=BASIC),
    slips="""
super().__init__() -> pass
    Call super().__init__() first of all.
int, stride: int = 1 -> int
= stride -> = 1
3, stride -> 3, 1
    The constructor must accept (in_channels, out_channels, stride=1).
forward -> forwrd
    Your class has no method forward(self, x): check its name and its indentation.
return F.relu -> F.relu
    forward gives NoneType, not a Tensor: does it end with `return`?
return F.relu(self.path(x) + shortcut) -> return F.relu(self.path(x) + shortcut), x
    forward gives a tuple, not a Tensor: return one Tensor.
 + shortcut) -> )
    the skip is never added
return F.relu(self.path(x) + shortcut) -> return self.path(x) + shortcut
    there is no ReLU at the end: it comes after the addition.
F.relu(self.path(x) + shortcut) -> F.relu(self.path(x)) + shortcut
    the skip is added after the last ReLU
(self.path(x) + shortcut) -> (F.relu(self.path(x)) + shortcut)
    there is an extra ReLU before the addition
nn.ReLU() -> nn.Identity()
    the ReLU is missing between
nn.ReLU() -> nn.Identity()
return F.relu(self.path(x) + shortcut) -> return self.path(x) + shortcut
    there is no ReLU at the end: it comes after the addition. And the ReLU is missing between
nn.ReLU() -> nn.LeakyReLU()
    it also runs LeakyReLU, which this block does not have.
return F.relu -> return F.relu6
    a ReLU6 stands after the addition instead of ReLU.
return F.relu -> return F.gelu
    a GELU stands after the addition instead of ReLU.
) + shortcut -> ) - shortcut
    the shortcut is subtracted; it must be added.
self.path(x) + shortcut -> shortcut - self.path(x)
    F(x) is subtracted from the shortcut; both must be added.
) + shortcut -> ) * shortcut
    F(x) and the shortcut are multiplied; they must be added.
self.path(x) + shortcut -> torch.maximum(self.path(x), shortcut)
    the larger of F(x) and the shortcut is taken; they must be added.
self.path(x) + shortcut -> torch.cat([self.path(x), shortcut], 1)
    F(x) and the shortcut are concatenated; they must be added, number by number.
) + shortcut -> ) + 0.5 * shortcut
    the sum is 1 · F(x) + 0.5 · shortcut; both are added as they are, with no factor.
) + shortcut -> ) + F.relu(shortcut)
    a ReLU is applied to the shortcut
) + shortcut -> ) + shortcut.detach()
    so something cuts the gradient: detach(), .data, no_grad() or requires_grad=False.
F.relu(self.path(x) + shortcut) -> F.dropout(F.relu(self.path(x) + shortcut), 0.3, self.training)
    the output depends on chance in training mode
F.relu(self.path(x) + shortcut) -> F.relu(self.path(x) + shortcut) + self.training * 0.1
    In evaluation mode it is right: look for what depends on self.training, or for dropout.
F.relu(self.path(x) + shortcut) -> F.relu(self.path(x) + shortcut).float()
    let no .float() or .to() change the type.
shortcut = x[ -> x += 0.1; shortcut = x[
    forward changes its own input in place
self.path(x) + shortcut -> x.relu_() + self.path(x)
    forward changes its own input in place
shortcut = x[ -> print(x.shape); shortcut = x[
    remove the forgotten print, or every training step will repeat it.
shortcut = x[ -> self.input = self.path[0](x); shortcut = x[
    one 3×3 convolution is used twice, so two places share its numbers: create a second one in __init__.
shortcut = x[ -> self.kept = x + 0; shortcut = x[
    self.kept keeps a result together with the whole computation that led to it
bias=False -> bias=True
    the 3×3 convolution has a bias.
3, stride, 1, -> 3, 1, 1,
    the stride is never applied in F
3, 1, 1, -> 3, stride, 1,
    the stride is applied twice
3, 1, 1, -> 3, 1, stride,
3, stride, 1, -> 3, 1, 1,
3, 1, stride, -> 3, stride, 1,
    the stride is on the second convolution of F; it belongs on the first one.
3, stride, 1, -> 3, min(stride, 2), 1,
    Look here: the stride is ignored: stride=3 is asked for
= stride -> = min(stride, 2)
or
= stride -> = 1 if stride == 1 else 2
    A stride of 2 works, so look for a hard-coded 2
shortcut = x[:, :, :: self.stride, :: self.stride] -> shortcut = x
or
shortcut = F.pad( -> F.pad(
    your block has no projection that makes them fit
shortcut = x[:, :, :: self.stride, :: self.stride] -> shortcut = F.avg_pool2d(x, self.stride, ceil_mode=True)
    it must be option A: every stride-th pixel
stride, 1, bias -> stride, 0, bias
    wrong padding: a 3×3 convolution needs padding=1, yours has (0, 0).
out_channels, 3, stride, 1, -> out_channels, 5, stride, 2,
    F must run 3×3, 3×3 convolutions in this order; yours runs 5×5, 3×3.
stride, 1, bias -> stride, 1, padding_mode="reflect", bias
    Leave dilation and padding_mode out.
3, 1, 1, bias -> 3, 1, 1, groups=out_channels, bias
    leave groups out, so that channels mix.
nn.BatchNorm2d(out_channels),⏎            nn.ReLU(), -> nn.ReLU(),
    a batch norm is missing after convolution 1 of F
3, 1, 1, bias=False),⏎            nn.BatchNorm2d(out_channels), -> 3, 1, 1, bias=False),
    a batch norm is missing after the last convolution of F
nn.BatchNorm2d(out_channels),⏎            nn.ReLU(), -> nn.ReLU(),⏎            nn.BatchNorm2d(out_channels),
    ReLU comes before the batch norm; the order is convolution, norm, ReLU.
F.relu(self.path(x) + shortcut) -> F.relu(self.path[4](self.path[:4](x) + shortcut))
    the last batch norm comes after the addition; it belongs before it.
self.path = nn.Sequential( -> self.path = nn.Sequential(⏎            nn.BatchNorm2d(in_channels),
    that is the pre-activation block (v2).
nn.BatchNorm2d(out_channels) -> nn.BatchNorm2d(out_channels, momentum=0.9)
    a Keras momentum of 0.9 is 0.1 here
nn.BatchNorm2d(out_channels) -> nn.GroupNorm(1, out_channels)
    a batch norm is missing after convolution 1 of F
shortcut = x[ -> self.path.eval(); shortcut = x[
    the output in training mode is not that of the book's block
shortcut = x[ -> self.path.train(); shortcut = x[
    the output in evaluation mode is not that of the book's block
self.path = -> self.scale = nn.Parameter(torch.ones(1)); self.path =
    find and remove what does not belong.
self.path = -> self.projection = nn.Conv2d(in_channels, out_channels, 1); self.path =
    self.projection is created and never runs, but counts as parameters.
self.path = -> self.train = True; self.path =
    self.train hides a method of nn.Module: choose another name for it.
nn.Conv2d(in -> _made.setdefault((in_channels, out_channels, stride), nn.Conv2d(in
stride, 1, bias=False) -> stride, 1, bias=False))
class MyBlock -> _made = {}⏎⏎⏎class MyBlock
    two blocks share a layer; create it in __init__.
nn.Sequential( -> (lambda *layers: list(layers))(
self.path(x) -> functools.reduce(lambda y, layer: layer(y), self.path, x)
class MyBlock -> import functools⏎⏎⏎class MyBlock
    a 3×3 convolution runs that is not registered
""",
)

bottleneck = Exercise(
    number="4.3",
    title="A bottleneck from memory",
    minutes=20,
    level="medium",
    answer="""\
def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    )


class MyBottleneck(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        width = out_channels // 4
        self.reduce = conv_norm(in_channels, width, 1)
        self.work = conv_norm(width, width, 3, stride)
        self.restore = conv_norm(width, out_channels, 1)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.reduce(x))
        out = F.relu(self.work(out))
        return F.relu(self.restore(out) + self.shortcut(x))
""",
    judge=functools.partial(judge_block, kind=BOTTLENECK),
    slips="""
 + self.shortcut(x)) -> )
    the skip is never added
return F.relu(self.restore(out) + self.shortcut(x)) -> return self.restore(out) + self.shortcut(x)
    there is no ReLU at the end
F.relu(self.restore(out) + self.shortcut(x)) -> F.relu(self.restore(out)) + self.shortcut(x)
    the skip is added after the last ReLU
(self.restore(out) + -> (F.relu(self.restore(out)) +
    there is an extra ReLU before the addition
F.relu(self.reduce(x)) -> self.reduce(x)
F.relu(self.work(out)) -> self.work(out)
    the ReLU is missing between the convolutions of F.
F.relu(self.reduce(x)) -> self.reduce(x)
    the ReLU is missing between the first and the second convolution.
F.relu(self.work(out)) -> self.work(out)
    the ReLU is missing between the second and the last convolution.
F.relu(self.reduce(x)) -> F.silu(self.reduce(x))
F.relu(self.work(out)) -> F.silu(self.work(out))
    a SiLU stands between the convolutions instead of ReLU.
+ self.shortcut(x) -> + F.relu(self.shortcut(x))
    a ReLU is applied to the shortcut
out = F.relu(self.reduce(x)) -> x = out = F.relu(self.reduce(x))
self.shortcut(x) -> x
    Is it still the block's input that is added?
nn.BatchNorm2d(out_channels), -> nn.ReLU(),⏎        nn.BatchNorm2d(out_channels),
F.relu(self.reduce(x)) -> self.reduce(x)
F.relu(self.work(out)) -> self.work(out)
    ReLU comes before the batch norm; the order is convolution, norm, ReLU.
width = out_channels // 4 -> width = out_channels
    The expansion is forgotten: the 3×3 works at width out_channels // 4
width = out_channels // 4 -> width = in_channels // 4
    The wrong width: it is out_channels // 4, whatever comes in.
width = out_channels // 4 -> width = out_channels // 2
    Check its channels.
width = out_channels // 4 -> width, out_channels = out_channels, 4 * out_channels
    out_channels is what comes out of the block; the width inside is a quarter of it, out_channels // 4.
(in_channels, width, 1) -> (in_channels, width, 3)
(width, width, 3, stride) -> (width, width, 1, stride)
    They are swapped: the 3×3 stands in the middle, where the channels are few.
(in_channels, width, 1) -> (in_channels, width, 3)
(width, out_channels, 1) -> (width, out_channels, 3)
    F must run 1×1, 3×3, 1×1 convolutions in this order; yours runs 3×3, 3×3, 3×3.
self.restore(out) -> self.restore(F.relu(self.work(out)))
    one 3×3 convolution is used twice
3, stride) -> 3)
    the stride is never applied in F
(in_channels, width, 1) -> (in_channels, width, 1, stride)
    the stride is applied twice
3, stride) -> 3)
(width, out_channels, 1) -> (width, out_channels, 1, stride)
    it belongs on the 3×3 (torchvision) or the first 1×1 (the original implementation).
padding=kernel_size // 2 -> padding=0
or
padding=kernel_size // 2 -> padding=1
    wrong padding
bias=False -> bias=True
    convolution has a bias
self.work = conv_norm(width, width, 3, stride) -> self.work = conv_norm(width, width, 3, stride)[0]
    a batch norm is missing after convolution 2 of F
self.restore = conv_norm(width, out_channels, 1) -> self.restore = conv_norm(width, out_channels, 1)[0]
    a batch norm is missing after the last convolution of F
(in_channels, out_channels, 1, stride) -> (in_channels, out_channels, 1, stride)[0]
    the projection is not normalized: a BatchNorm2d follows its 1×1 convolution.
if stride != 1 or in_channels != out_channels -> if False
or
stride != 1 or in -> in
or
stride != 1 or in_channels != out_channels -> stride != 1
or
!= 1 or -> != 1 and
    your block has no projection that makes them fit
if stride != 1 or in_channels != out_channels -> if True
    there is a projection where none is needed (option C).
(in_channels, out_channels, 1, stride) -> (in_channels, out_channels, 1)
    the projection has stride 1; it needs the block's stride
(in_channels, out_channels, 1, stride) -> (in_channels, out_channels, 3, stride)
    A projection on the shortcut is a 1×1 convolution to out_channels; yours is 3×3
self.shortcut = conv_norm(in_channels -> self.shortcut = nn.Sequential(nn.ReLU(), conv_norm(in_channels
1, stride)⏎ -> 1, stride))⏎
    the projection does not read the block's input as it is.
self.shortcut = nn.Identity() -> self.shortcut = nn.BatchNorm2d(in_channels)
    there is a batch norm on the shortcut. Where the shape stays, the shortcut is the identity
""",
)


# ---- equal cost

_WIDTHS = (64, 128, 1, 7, 512, 1000)


def _weights(block: type[nn.Module], channels: int) -> int:
    with torch.device("meta"):  # shapes without numbers
        layers = block(channels, channels).modules()
        return sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))


@functools.cache
def _widest(width: int) -> int:
    """Searched among the real blocks, whose weights grow with their channels."""
    places = range(4, 8 * width, 4)
    budget = _weights(blocks.BasicBlock, width)
    return 4 * bisect.bisect_right(places, budget, key=lambda n: _weights(blocks.Bottleneck, n))


def _what_it_costs(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What the first wrong bottleneck would cost, next to what may be spent."""
    if part != "result":
        return None
    for width, mine, theirs in zip(_WIDTHS, given, right, strict=False):
        channels = as_number(mine["result"])
        if channels is None or channels != int(channels):
            return None  # said without this
        if channels == theirs["result"]:
            continue
        if channels < 4 or channels % 4:
            return "out_channels is a multiple of 4, from 4 up."
        inside, budget = int(channels) // 4, 18 * width**2
        cost, more = 17 * inside**2, 17 * (inside + 1) ** 2
        if cost > budget:
            return (
                f"that bottleneck has {cost:,} weights, two 3×3 at width {width} only {budget:,}. Round "
                "down, to a multiple of 4."
            )
        return f"{channels + 4:,} channels still fit: {more:,} of {budget:,} weights."
    return None


equal_cost_channels = Exercise(
    number="4.4",
    title="Width for the same price",
    minutes=15,
    level="medium",
    answer="""\
import math


def equal_cost_channels(width: int) -> int:
    inside = math.isqrt(18 * width * width // 17)
    return 4 * inside
""",
    cases=[(width,) for width in _WIDTHS],
    trusted=_widest,
    slips="""
4 * inside -> 4 * width
    near, and the paper's choice, but a little more fits.
return 4 * inside -> return inside
    that is the width inside, which puts out four times as many channels.
18 * width -> 9 * width
    there are two 3×3 convolutions to pay for.
""",
    explain=_what_it_costs,
    right=f"for the widths {', '.join(map(str, _WIDTHS))}, no wider bottleneck fits.",
)


# ---- the whole network

resnet34 = Exercise(
    number="4.5",
    title="ResNet-34 without looking",
    minutes=20,
    level="hard",
    answer="""\
def resnet34() -> nn.Module:
    layers = [
        nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    ]
    channels = 64
    for out_channels, num_blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
        for i in range(num_blocks):
            stride = 2 if i == 0 and out_channels != 64 else 1
            layers.append(BasicBlock(channels, out_channels, stride))
            channels = out_channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers)
""",
    scope={"BasicBlock": blocks.BasicBlock},
    judge=judge_resnet34,
    slips="""
range(num_blocks) -> range(num_blocks + 1)
    conv2_x runs 8 3×3 convolutions with 64 channels, and ResNet-34 has 6, in 3 blocks.
(128, 4) -> (128, 1)
    conv3_x runs 2 3×3 convolutions with 128 channels, and ResNet-34 has 8, in 4 blocks.
i == 0 and out_channels != 64 -> i == 0
    conv2_x works on maps of 8×8, and ResNet-34 on 16×16
kernel_size=3, stride=2 -> kernel_size=3, stride=1
    The max-pool of the stem is 3×3 with stride 2 and padding 1.
i == 0 and out_channels != 64 -> i == 0 and out_channels in (128, 512)
    conv4_x works on maps of 8×8, and ResNet-34 on 4×4
i == 0 and out_channels != 64 -> out_channels != 64
    conv3_x works on maps of
kernel_size=7, stride=2 -> kernel_size=7, stride=1
    the stem must begin with a 7×7 convolution from 3 to 64 channels with stride 2
padding=3, bias=False -> padding=3
    a 7×7 convolution has a bias; batch norm follows, so set bias=False.
nn.BatchNorm2d(64) -> nn.Identity()
    a 7×7 convolution to 64 channels has no batch norm.
nn.ReLU() -> nn.Identity()
    The first convolution that gives something else is the 3×3 convolution to 64 channels, number 2
nn.Linear(512, 1000) -> nn.Linear(512, 10)
    The head must be one linear layer from 512 to 1,000, with a bias
nn.Linear(512, 1000) -> nn.Linear(512, 1000), nn.Softmax(1)
    All convolutions agree, so look behind the last one
nn.AdaptiveAvgPool2d(1) -> nn.AvgPool2d(7)
    nn.AdaptiveAvgPool2d(1) averages over maps of every size.
nn.Flatten(), -> nn.Identity(),
    The linear layer needs 512 numbers for each image
nn.Linear(512 -> nn.Dropout(0.2), nn.Linear(512
    The output depends on chance in training mode
return nn.Sequential(*layers) -> nn.Sequential(*layers)
    The function gives NoneType, not a network: does it end with `return`?
return nn.Sequential(*layers) -> return nn.Sequential
    call it; add ().
""",
)


# ---- multiply-adds


def _real_macs(in_channels: int, out_channels: int, stride: int, side: int, stride_on: str) -> int:
    with torch.device("meta"):
        block = blocks.Bottleneck(in_channels, out_channels, stride, stride_on=stride_on)
        return probes.count_macs(block, (in_channels, side, side))


bottleneck_macs = Exercise(
    number="4.6",
    title="The work of a bottleneck",
    minutes=15,
    level="medium",
    answer="""\
def bottleneck_macs(
    in_channels: int, out_channels: int, stride: int, side: int, stride_on: str
) -> int:
    width = out_channels // 4
    small = -(-side // stride)
    after_first = small if stride_on == "1x1" else side
    macs = in_channels * width * after_first**2  # reduce
    macs += 9 * width * width * small**2  # work
    macs += width * out_channels * small**2  # restore
    if stride != 1 or in_channels != out_channels:
        macs += in_channels * out_channels * small**2  # projection
    return macs
""",
    cases=(
        (256, 256, 1, 56, "3x3"),
        (256, 512, 2, 56, "3x3"),
        (256, 512, 2, 56, "1x1"),
        (64, 256, 1, 56, "1x1"),
        (16, 32, 2, 7, "3x3"),
        (16, 32, 2, 7, "1x1"),
        (32, 32, 2, 9, "3x3"),
        (48, 48, 3, 8, "3x3"),
        (48, 96, 3, 8, "1x1"),
    ),
    trusted=_real_macs,
    slips="""
-(-side // stride) -> side
    Layers from the stride on work on the small map: count output positions.
small if stride_on == "1x1" else side -> small
    With the stride on the 3×3, the first 1×1 still sees every position of the large map.
small if stride_on == "1x1" else side -> side
    With the stride on the 1×1, it already puts out the small map: count output positions.
stride_on == "1x1" -> stride_on == "3x3"
    You have swapped the two places of the stride.
-(-side // stride) -> side // stride
    An odd side is rounded up: 7 becomes 4 at stride 2.
-(-side // stride) -> -(-side // min(stride, 2))
    Divide by the stride, which is not always 2.
if stride != 1 or in_channels != out_channels -> if False
    The projection works too, where the shape changes.
if stride != 1 or in_channels != out_channels -> if True
    Where the shape stays there is no projection.
small**2  # projection -> side**2
    The projection has the block's stride: it works on the small map.
width = out_channels // 4 -> width = in_channels // 4
    The width inside is a quarter of out_channels, whatever comes in.
width = out_channels // 4 -> width = out_channels
    The 3×3 works at a quarter of out_channels: out_channels // 4.
9 * width -> 3 * width
    A 3×3 filter has nine weights for each input channel.
return macs -> return 2 * macs
    One MAC is a multiplication and an addition together.
"""
    + _CONDITIONS,
    otherwise=_ADD_AGAIN,
    right="the counts are the modules' in 9 cases, for both places of the stride and odd sides.",
    remarked=_BY_MODULES,
)
