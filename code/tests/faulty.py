"""Residual networks with planted mistakes, for the tests of the audit: one mistake in each."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A right basic block; subclasses plant mistakes."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = self.conv(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.second = self.conv(out_channels, out_channels, 1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.project = None
        if stride != 1 or in_channels != out_channels:
            self.project = self.projection(in_channels, out_channels, stride)

    def conv(self, in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)

    def projection(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.first(x)))
        return self.norm2(self.second(out))

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.project is None else self.project(x)

    def join(self, out: Tensor, shortcut: Tensor) -> Tensor:
        return F.relu(out + shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.residual(x), self.shortcut(x))


class Bottleneck(Block):
    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        width = out_channels // 4
        self.first = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.third = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.first(x)))
        out = F.relu(self.norm2(self.second(out)))
        return self.norm3(self.third(out))


class Net(nn.Module):
    """A right network of four stages; subclasses plant mistakes."""

    block = Block
    blocks = (2, 2, 2, 2)
    widths = (8, 16, 32, 64)
    strides = (1, 2, 2, 2)
    in_channels = 3

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        width = self.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(self.in_channels, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            self.pool(),
        )
        stages, channels = [], width
        for number, width, stride in zip(self.blocks, self.widths, self.strides, strict=True):
            out_channels = width * self.block.expansion
            stages.append(self.stage(channels, out_channels, number, stride))
            channels = out_channels
        self.stages = self.together(stages)
        self.last = nn.Linear(channels, num_classes)

    def pool(self) -> nn.Module:
        return nn.MaxPool2d(3, 2, 1)

    def stage(self, in_channels: int, out_channels: int, number: int, stride: int) -> nn.Module:
        first = self.block(in_channels, out_channels, stride)
        return nn.Sequential(first, *(self.block(out_channels, out_channels) for _ in range(number - 1)))

    def together(self, stages: list[nn.Module]) -> nn.Module:
        return nn.Sequential(*stages)

    def features(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))

    def head(self, x: Tensor) -> Tensor:
        return self.last(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def with_block(base: type[Block] = Block, **methods: object) -> type[Net]:
    """A network whose blocks have other methods."""
    return type("Net", (Net,), {"block": type("Block", (base,), methods)})


def with_net(**methods: object) -> type[Net]:
    """A network that has other methods itself."""
    return type("Net", (Net,), methods)


def _init(extra):  # noqa: ANN001, ANN202
    """A constructor that goes on after the right one."""

    def __init__(self, *arguments) -> None:  # noqa: ANN001, ANN002
        super(type(self), self).__init__(*arguments)
        extra(self)

    return __init__


class ByHand(nn.Module):
    """A batch norm that always normalizes with running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, training=False)


def _relu_last(self, x):
    return F.relu(Block.residual(self, x))


def _late(self, x):
    x = F.relu(self.norm1(self.first(x))) if self.project is None else x
    if self.project is not None:
        return Block.forward(self, x)
    return F.relu(self.norm2(self.second(x)) + x)


def _in_place(self, x):
    out = self.residual(x)
    if self.project is None:
        x += out
        return F.relu(x)
    return F.relu(out + self.project(x))


def _itself(self, x):
    x = self.residual(x)
    return F.relu(x + x)


def _only_where_it_changes(self, x):
    out = self.residual(x)
    if self.project is not None:
        out = out + self.project(x)
    return F.relu(out)


def _print(self, x):
    print("w")
    return Block.forward(self, x)


def _norm_after(self, out, shortcut):
    return F.relu(self.norm2(out + shortcut))


def _no_last_norm(self, x):
    return self.second(F.relu(self.norm1(self.first(x))))


def _no_middle_relu(self, x):
    return self.norm2(self.second(self.norm1(self.first(x))))


def _relu_first(self, x):
    return self.norm2(self.second(self.norm1(F.relu(self.first(x)))))


def _no_grad_residual(self, x):
    with torch.no_grad():
        return Block.residual(self, x)


def _share_norms(self):
    self.norm2 = self.norm1


def _freeze(self):
    for parameter in self.stages[1].parameters():
        parameter.requires_grad_(False)


def _halve(self):
    self.stages[2].half()


def _half_forward(self, x):
    return self.last(x.mean((2, 3)).half().float())


def _train(self, mode=True):
    nn.Module.train(self, mode)
    for module in self.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return self


def _untracked(self):
    for module in self.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None


def _momentum(self):
    for module in self.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.99


def _list_of_blocks(self, in_channels, out_channels, number, stride):
    stage = Net.stage(self, in_channels, out_channels, number, stride)
    layers = list(stage)

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    return Stage()


def _constant(self):
    for module in self.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.01)


def _silence(self):
    for parameter in self.stages.parameters():
        nn.init.zeros_(parameter)


def _built_in_forward(self, x):
    return self.last(nn.Conv2d(64, 64, 1, bias=False)(x).mean((2, 3)))


# Each mistake: a network, and a word that the report must say of it.
WRONG: dict[str, tuple[type[Net], str]] = {
    "ReLU before the plus": (with_block(residual=_relu_last), "ReLU before the plus"),
    "ReLU before the plus, bottleneck": (
        with_block(Bottleneck, residual=lambda self, x: F.relu(Bottleneck.residual(self, x))),
        "ReLU before the plus",
    ),
    "no shortcut at all": (
        with_block(forward=lambda self, x: F.relu(self.residual(x)), projection=lambda *a: None),
        "No shortcut",
    ),
    "no identity shortcut": (with_block(forward=_only_where_it_changes), "without a shortcut"),
    "shortcut after the first ReLU": (with_block(forward=_late), "around all"),
    "projection without norm": (
        with_block(projection=lambda self, i, o, s: nn.Conv2d(i, o, 1, s, bias=False)),
        "projections without a norm",
    ),
    "projection with ReLU": (
        with_block(
            projection=lambda self, i, o, s: nn.Sequential(Block.projection(self, i, o, s), nn.ReLU())
        ),
        "activation on",
    ),
    "no last ReLU": (with_block(join=lambda self, out, shortcut: out + shortcut), "No ReLU after the plus"),
    "minus": (with_block(join=lambda self, out, shortcut: F.relu(out - shortcut)), "minus"),
    "F added to itself": (with_block(forward=_itself, projection=lambda *a: None), "with itself"),
    "norm after the plus": (with_block(residual=_no_last_norm, join=_norm_after), "norm after the plus"),
    "no second norm": (with_block(residual=_no_last_norm), "without its norm"),
    "no ReLU inside": (with_block(residual=_no_middle_relu), "No ReLU between"),
    "in place": (with_block(forward=_in_place), "in place"),
    "detached F": (with_block(residual=lambda self, x: Block.residual(self, x).detach()), "gradient is cut"),
    "F without gradient": (with_block(residual=_no_grad_residual), "gradient is cut"),
    "detached shortcut": (
        with_block(shortcut=lambda self, x: Block.shortcut(self, x).detach()),
        "gradient is cut",
    ),
    "shortcut by data": (
        with_block(shortcut=lambda self, x: Block.shortcut(self, x.data)),
        "gradient is cut",
    ),
    "shared norms": (with_block(__init__=_init(_share_norms)), "more than one place"),
    "shared block": (
        with_net(stage=lambda self, i, o, n, s: nn.Sequential(self.block(i, o, s), *[self.block(o, o)] * n)),
        "more than one place",
    ),
    "blocks in a list": (with_net(stage=_list_of_blocks), "does not own"),
    "stages in a list": (
        with_net(together=lambda self, stages: lambda x: [x := s(x) for s in stages][-1]),
        "does not own",
    ),
    "layers built in forward": (with_net(head=_built_in_forward), "does not own"),
    "a stage that never runs": (
        with_net(
            features=lambda self, x: self.stages[2](self.stages[1](self.stages[0](self.stem(x)))),
            head=lambda self, x: self.last(F.pad(x.mean((2, 3)), (0, 32))),
        ),
        "never run",
    ),
    "max-pool of stride 1": (with_net(pool=lambda self: nn.MaxPool2d(3, 1, 1)), "stride 1"),
    "stride never applied": (with_net(strides=(1, 1, 1, 1)), "should halve"),
    "one stride forgotten": (with_net(strides=(1, 2, 1, 2)), "should halve"),
    "stride in every block": (
        with_net(
            stage=lambda self, i, o, n, s: nn.Sequential(
                self.block(i, o, s), *(self.block(o, o, s) for _ in range(n - 1))
            )
        ),
        "halve the map",
    ),
    "the neighbour's channels": (with_net(widths=(8, 16, 16, 32)), "same channels"),
    "padding 0 in the stem": (
        with_net(__init__=_init(lambda self: setattr(self.stem[0], "padding", (0, 0)))),
        "wrong padding",
    ),
    "padding 1 on a 1×1": (
        with_block(
            Bottleneck,
            __init__=_init(
                lambda self: [setattr(self.first, "padding", (1, 1)), setattr(self.second, "padding", (0, 0))]
            ),
        ),
        "wrong padding",
    ),
    "softmax": (with_net(head=lambda self, x: Net.head(self, x).softmax(1)), "softmax"),
    "ReLU on the logits": (with_net(head=lambda self, x: F.relu(Net.head(self, x))), "logits pass"),
    "norms stay in evaluation mode": (with_net(train=_train), "evaluation mode while"),
    "norms stay in training mode": (with_net(__init__=_init(_untracked)), "training mode while"),
    "F.batch_norm without training": (
        with_block(__init__=_init(lambda self: setattr(self, "norm1", ByHand(self.norm1.num_features)))),
        "evaluation mode while",
    ),
    "dropout always": (
        with_net(head=lambda self, x: self.last(F.dropout(x.mean((2, 3)), 0.5))),
        "Chance in evaluation",
    ),
    "images mixed": (with_net(head=lambda self, x: self.last((x - x.mean(0)).mean((2, 3)))), "mixed"),
    "half left over": (with_net(__init__=_init(_halve)), "several types"),
    "half in forward": (with_net(head=_half_forward), "float16"),
    "equal filters": (with_net(__init__=_init(_constant)), "same"),
    "all zero": (with_net(__init__=_init(_silence)), "cannot start to learn"),
    "not a number": (
        with_net(__init__=_init(lambda self: nn.init.constant_(self.last.weight, torch.nan))),
        "no numbers",
    ),
    "projection overwritten": (
        with_block(
            forward=lambda self, x: (
                F.relu(self.residual(x) + self.project(x))
                if self.first.stride == (2, 2)
                else Block.forward(self, x)
            ),
            __init__=_init(lambda self: setattr(self, "project", None)),
        ),
        "does not run",
    ),
    "shapes do not fit": (with_block(projection=lambda *a: nn.Identity()), "does not run"),
    "images flattened together": (
        with_net(
            head=lambda self, x: self.last(x.mean((2, 3), keepdim=True).repeat(1, 1, 2, 1).reshape(-1, 64))
        ),
        "output of shape",
    ),
    "input changed": (with_net(features=lambda self, x: Net.features(self, x.mul_(2))), "caller's images"),
    "no stem ReLU": (
        with_net(__init__=_init(lambda self: self.stem.__setitem__(2, nn.Identity()))),
        "No ReLU in the stem",
    ),
    "odd sizes": (
        with_block(
            projection=lambda self, i, o, s: nn.Sequential(
                nn.AvgPool2d(s), nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o)
            )
        ),
        "stops for",
    ),
    "names say 34": (type("ResNet34", (Net,), {"blocks": (4, 5, 7, 4)}), "its name says 34"),
    "one block in conv3_x": (type("ResNet34", (Net,), {"blocks": (3, 1, 6, 3)}), "its name says 34"),
}
DOUBTFUL: dict[str, tuple[type[Net], str]] = {
    "bias before the norm": (
        with_block(conv=lambda self, i, o, s: nn.Conv2d(i, o, 3, s, 1)),
        "bias in front of a norm",
    ),
    "2×2 max-pool": (with_net(pool=lambda self: nn.MaxPool2d(2)), "max-pool is 2×2"),
    "no max-pool": (with_net(pool=lambda self: nn.Identity()), "no max-pool"),
    "one block too many": (with_net(blocks=(4, 5, 7, 4)), "one more in every stage than ResNet-34"),
    "print": (with_block(forward=_print), "prints"),
    "momentum of Keras": (with_net(__init__=_init(_momentum)), "momentum of 0.99"),
    "frozen stage": (with_net(__init__=_init(_freeze)), "frozen"),
    "ReLU before the norm": (with_block(residual=_relu_first), "ReLU before the norm"),
    "64 channels of images": (with_net(in_channels=64), "reads 64 channels"),
    "average of a window": (
        with_net(head=lambda self, x: self.last(F.avg_pool2d(x, 2).flatten(1))),
        "Other numbers for other sizes",
    ),
}


# ---- nothing wrong with these


class Gated(Block):
    """With squeeze-and-excitation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.squeeze = nn.Linear(out_channels, max(out_channels // 4, 1))
        self.excite = nn.Linear(max(out_channels // 4, 1), out_channels)

    def residual(self, x: Tensor) -> Tensor:
        out = super().residual(x)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(out.mean((2, 3))))))
        return out * scale[:, :, None, None]


class Padded(Block):
    """Option A, with zeros on both sides of the old channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.project = None
        self.new, self.stride = out_channels - in_channels, stride

    def shortcut(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))


class Doubled(Padded):
    """Option A, as some code for Torch has it: the zeros are x * 0."""

    def shortcut(self, x: Tensor) -> Tensor:
        if self.new == 0:
            return x
        x = F.avg_pool2d(x, 1, self.stride)
        return torch.cat((x, x.mul(0)), 1)


class Sliced(Padded):
    """Option A, written into a part of the output."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.residual(x).clone()
        out[:, : x.shape[1]] += x[:, :, :: self.stride, :: self.stride]
        return F.relu(out)


class PreActivated(Block):
    """Version 2, its projection on the activated input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)
        if self.project is not None:
            self.project = self.project[0]

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        shortcut = x if self.project is None else self.project(active)
        return self.second(F.relu(self.norm2(self.first(active)))) + shortcut


def _pre_activated(self):
    self.final = nn.BatchNorm2d(64)
    self.stem[1] = self.stem[2] = nn.Identity()


def _groups(self):
    channels = self.norm1.num_features
    self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)


def _swish(self, x):
    out = self.norm1(self.first(x))
    return self.norm2(self.second(out * torch.sigmoid(out)))


def _with_dropout(self, x):
    out = F.dropout(F.relu(self.norm1(self.first(x))), 0.1, self.training)
    return self.norm2(self.second(out))


def _deep_stem(self):
    layers = []
    for i, o, stride in ((3, 4, 2), (4, 4, 1), (4, 8, 1)):
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    self.stem = nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1))


def _small_stem(self):
    self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


# Each network, and what the report says of it that is neither wrong nor doubtful; "" for nothing.
SOUND: dict[str, tuple[type[Net], str]] = {
    "basic": (Net, ""),
    "bottleneck": (with_block(Bottleneck), ""),
    "other widths": (with_net(widths=(12, 24, 48, 96)), ""),
    "deeper": (with_net(blocks=(2, 3, 4, 2)), "Stages of 2, 3, 4, 2 blocks"),
    "shallow": (with_net(blocks=(1, 1, 1, 1)), ""),
    "three stages": (with_net(blocks=(2, 2, 2), widths=(8, 16, 32), strides=(1, 2, 2)), ""),
    "one channel": (with_net(in_channels=1), ""),
    "deep stem": (with_net(__init__=_init(_deep_stem)), ""),
    "small stem": (with_net(__init__=_init(_small_stem)), ""),
    "squeeze and excitation": (with_block(Gated), "Gates"),
    "dropout": (with_block(residual=_with_dropout), "Dropout"),
    "swish": (with_block(residual=_swish), "silu"),
    "group norm": (with_block(__init__=_init(_groups)), "no batch norm"),
    "option A, both sides": (with_block(Padded), ""),
    "option A, times zero": (with_block(Doubled), ""),
    "option A, in a slice": (with_block(Sliced), ""),
    "in place where it may": (with_block(join=lambda self, out, shortcut: out.add_(shortcut).relu_()), ""),
    "ReLU by hand": (
        with_block(join=lambda self, out, shortcut: (out + shortcut) * (out + shortcut > 0)),
        "",
    ),
    "ReLU by maximum": (
        with_block(join=lambda self, out, shortcut: torch.maximum(out + shortcut, torch.zeros(()))),
        "",
    ),
    "pre-activation": (
        with_net(
            block=PreActivated,
            __init__=_init(_pre_activated),
            head=lambda self, x: self.last(F.relu(self.final(x)).mean((2, 3))),
        ),
        "",
    ),
}
