"""The exercises of chapter 12: parameters, three tests for any network, and the two options A."""

import functools

import torch
from torch import Tensor, nn

from resnetbook import blocks, models, probes
from resnetbook.checks.exercise import Exercise

# ---- the parameters of a ResNet-18


@functools.cache
def _real_parameters(num_classes: int, in_channels: int, small_stem: bool) -> int:
    with torch.device("meta"):  # shapes without numbers
        stem = "small" if small_stem else "imagenet"
        return probes.count_parameters(models.resnet18(num_classes, in_channels, stem=stem))


resnet18_parameters = Exercise(
    number="12.1",
    title="Which ResNet-18?",
    minutes=10,
    level="easy",
    answer="""\
def resnet18_parameters(
    num_classes: int, in_channels: int, small_stem: bool
) -> int:
    published = 11_689_512  # 1,000 classes, 3 channels, a stem of 7×7
    side = 3 if small_stem else 7
    stem = 64 * (side * side * in_channels - 7 * 7 * 3)
    head = (512 + 1) * (num_classes - 1000)
    return published + stem + head
""",
    cases=((1000, 3, False), (10, 3, False), (10, 1, False), (10, 3, True), (100, 1, True), (2000, 4, False)),
    trusted=_real_parameters,
    slips="""
(512 + 1) -> 512
    The last layer has a bias, too: one number for each class.
(num_classes - 1000) -> num_classes
or
(num_classes - 1000) -> (num_classes - 10)
    The published number already holds the head of 1,000 classes: take it out before you put in yours.
- 7 * 7 * 3 -> - 0
    The published number already holds a stem of 7×7 for 3 channels: take it out before you put in yours.
side * side * in_channels -> 7 * 7 * in_channels
    A stem of 3×3 has nine weights for each pair of channels, not forty-nine.
side * side * in_channels -> side * side * 3
    The stem reads in_channels channels, not always 3.
side * side * in_channels - 7 * 7 * 3) -> side * side * in_channels + 1 - 7 * 7 * 3)
    The stem has no bias: a norm follows it.
""",
    otherwise="Only the stem and the last layer differ from the published network: what has each?",
    forbidden={
        "*Conv2d": "The counts are right, but your function builds {used}: the exercise is to do without."
    },
    right="the counts are the networks', for six pairs of stem and head.",
)


# ---- what gets no gradient


class _Idle(nn.Module):
    """Two branches: one is detached, and one is built and never runs."""

    def __init__(self, detached: bool, idle: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.branch = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.detached = detached
        if idle:
            self.spare = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.branch(x)
        return self.last(x + (branch.detach() if self.detached else branch))


def _branches() -> list[tuple]:
    torch.manual_seed(0)
    cases = []
    for detached, idle in ((False, False), (True, False), (False, True), (True, True)):
        network = _Idle(detached, idle).double()
        images = torch.randn(5, 3, dtype=torch.float64)
        if detached:  # gradients of an earlier step, which say nothing about this one
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
        cases.append((network, images))
    # A layer that is multiplied by zero gets a gradient, and it is zero.
    network = _Idle(False, False).double()
    nn.init.zeros_(network.last.weight)
    cases.append((network, torch.randn(5, 3, dtype=torch.float64)))
    return cases


without_gradient = Exercise(
    number="12.2",
    title="What gets no gradient",
    minutes=15,
    level="medium",
    answer="""\
def without_gradient(network: nn.Module, images: Tensor) -> list[str]:
    network.zero_grad()
    network(images).square().sum().backward()
    return [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
""",
    cases=_branches,
    ignored=("gradients of network", "mode of network"),
    form="without_gradient(network, images)",
    slips="""
network.zero_grad() -> pass
    old gradients are still there from an earlier step: clear them first.
parameter.grad is None or not parameter.grad.any() -> parameter.grad is None
    a gradient may also be there and be zero everywhere: such a layer does not learn either.
parameter.grad is None or not parameter.grad.any() -> not parameter.requires_grad
    requires_grad says who may learn, not who does: look at .grad after backward().
""",
    errors={"NoneType": "a parameter that takes no part has .grad None: ask for that first."},
    otherwise="after one backward pass, name every parameter whose .grad is None, or zero everywhere.",
    right="five networks: with a detached branch, with a spare layer, with both, with zeros, with none.",
)


# ---- a prediction and its company


class _Mean(nn.Module):
    """Subtracts the mean over the batch: what it says of an image depends on the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def _networks() -> list[nn.Module]:
    torch.manual_seed(0)

    def network(*more: nn.Module, norm: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), norm, nn.ReLU(), *more, nn.Flatten(), nn.Linear(16, 3)
        )

    found = [
        network(norm=nn.BatchNorm2d(4)),
        network(norm=nn.BatchNorm2d(4, track_running_stats=False)),
        network(_Mean(), norm=nn.BatchNorm2d(4)),
        network(norm=nn.GroupNorm(2, 4)),
    ]
    return [network.double() for network in found]


def _company() -> list[tuple]:
    torch.manual_seed(1)
    images = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    return [(network.train(mode), images.clone()) for mode in (True, False) for network in _networks()]


mixes_images = Exercise(
    number="12.3",
    title="A prediction and its company",
    minutes=10,
    level="medium",
    answer="""\
@torch.no_grad()
def mixes_images(network: nn.Module, images: Tensor) -> bool:
    network.eval()
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    return not torch.allclose(together, alone, atol=1e-5)
""",
    cases=_company,
    ignored=("mode of network", "gradients of network"),
    form="mixes_images(network, images)",
    slips="""
network.eval() -> pass
    a batch norm in training mode always mixes: call network.eval() first.
network.eval() -> network.train()
    a batch norm in training mode always mixes: call network.eval(), not train().
return not torch -> return torch
    this is the other way round: True means that the images are mixed.
together, alone, atol -> together, network(images), atol
or
[network(image[None]) for image in images] -> [network(images)[i : i + 1] for i in range(len(images))]
    twice the same batch gives twice the same: ask for each image alone.
""",
    otherwise="compare each row of network(images) with what the network gives for that image alone.",
    right="four networks, handed over in both modes: two mix their images and two do not.",
)


# ---- where two networks part


class _Scale(nn.Module):
    def __init__(self, factor: float, in_place: bool = False) -> None:
        super().__init__()
        self.factor, self.in_place = factor, in_place

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.factor) if self.in_place else x * self.factor


class _Clip(nn.Module):
    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.most)


def _stacks() -> list[tuple]:
    def stack(*factors: float, in_place: int = -1) -> list[nn.Module]:
        return [_Scale(factor, number == in_place) for number, factor in enumerate(factors)]

    x = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    return [
        (stack(2, 3, 4, 5), stack(2, 3, 4, 5), x.clone()),
        (stack(2, 3, 9, 5), stack(2, 3, 4, 5), x.clone()),
        (stack(2, 9, 4, 9), stack(2, 3, 4, 5), x.clone()),
        (stack(7, 3, 4, 5), stack(2, 3, 4, 5), x.clone()),
        (stack(2, 3, 4, 7), stack(2, 3, 4, 5), x.clone()),
        (stack(2, 3, 4, 7, in_place=1), stack(2, 3, 4, 5), x.clone()),
        # What differs only for numbers as large as the block before gives.
        ([_Scale(9), _Clip(4)], [_Scale(9), _Clip(7)], x / 6),
        # Two mistakes that cancel each other: the last outputs agree.
        (stack(2, 6, 2, 5), stack(2, 3, 4, 5), x.clone()),
    ]


first_difference = Exercise(
    number="12.4",
    title="Where two networks part",
    minutes=15,
    level="medium",
    answer="""\
@torch.no_grad()
def first_difference(
    mine: list[nn.Module], trusted: list[nn.Module], x: Tensor
) -> int:
    for number, (block, right) in enumerate(zip(mine, trusted, strict=True)):
        y = right(x)
        if not torch.allclose(block(x.clone()), y, atol=1e-5):
            return number
        x = y
    return len(trusted)
""",
    cases=_stacks,
    form="first_difference(mine, trusted, x)",
    ignored=("mine", "trusted"),
    slips="""
return number⏎ -> found = number⏎
return len(trusted) -> return found if "found" in locals() else len(trusted)
    this is the last block that differs: return at the first one.
return number⏎ -> return number + 1⏎
    blocks are counted from 0.
x = y -> pass
    every block must be given what the block before it puts out, not the images.
return len(trusted) -> return -1
    where nothing differs, return len(trusted).
if not torch -> if torch
    this is the first block that agrees.
""",
    otherwise="give both the same tensor, compare what comes out, and go on with the trusted one's output.",
    right="eight pairs of stacks: the same, one block off, two off, two that cancel, one in place.",
)


# ---- option A, twice


def _maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 8, 2), (4, 8, 2), (4, 8, 1), (3, 6, 2), (5, 5, 2))
    maps = [torch.randn(2, i, 7, 6, generator=generator, dtype=torch.float64) for i, _, _ in sizes]
    return [
        (x, out, stride, halves)
        for x, (_, out, stride) in zip(maps, sizes, strict=True)
        for halves in (False, True)
    ]


def _both(x: Tensor, out_channels: int, stride: int, halves: bool) -> Tensor:
    x = blocks.ZeroPadShortcut(x.shape[1], out_channels, stride)(x)
    # Zeros behind; rolled by half of them, they come from the end to the front.
    new = int((x.abs().amax((0, 2, 3)) == 0).sum())
    return x.roll(new // 2, dims=1) if halves else x


option_a = Exercise(
    number="12.5",
    title="Both options A",
    minutes=10,
    level="medium",
    answer="""\
def option_a(
    x: Tensor, out_channels: int, stride: int, halves: bool
) -> Tensor:
    x = x[:, :, ::stride, ::stride]
    new = out_channels - x.shape[1]
    before = new // 2 if halves else 0
    return F.pad(x, (0, 0, 0, 0, before, new - before))
""",
    cases=_maps,
    trusted=_both,
    slips="""
::stride, ::stride] -> ::stride]
    The stride stands for both directions: every stride-th row, and every stride-th column.
x = x[:, :, ::stride, ::stride] -> x = F.avg_pool2d(x, stride)
or
x = x[:, :, ::stride, ::stride] -> x = F.max_pool2d(x, stride)
    Option A takes every stride-th pixel as it is: no pooling, which would round odd sizes down, too.
(0, 0, 0, 0, before, new - before) -> (before, new - before, 0, 0, 0, 0)
or
(0, 0, 0, 0, before, new - before) -> (before, new - before)
or
(0, 0, 0, 0, before, new - before) -> (0, 0, before, new - before)
    F.pad counts from the last dimension: two numbers for the width, two for the height, then
    two for the channels.
before, new - before -> new - before, before
    The zeros are on the wrong side: without halves they all stand behind, and of an odd
    number the larger half.
new // 2 if halves else 0 -> new // 2
or
new // 2 if halves else 0 -> 0 if halves else new // 2
    With halves=False all zeros stand behind the old channels.
new // 2 if halves else 0 -> 0
    With halves=True half of the zeros stand before the old channels, half behind.
""",
    otherwise="Slice first, then count the channels that are missing, and share them out.",
    right="both ways, for odd and even sizes, with an odd number of new channels, and with none.",
)
