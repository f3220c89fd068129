"""Networks: LeNet, a small VGG, the ImageNet and CIFAR residual families, d2l's ResNet-18; trained ones."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load as unpack
from torch import Tensor, nn

from resnetbook._arguments import check_whole, is_whole
from resnetbook.blocks import BasicBlock, Bottleneck, D2LResidual, Norm, PlainBlock, PreActBlock

STEMS = ("imagenet", "small")
WEIGHTS = Path(__file__).parent / "weights"


def _check_images(x: Tensor, in_channels: int, side: int | None = None) -> None:
    if x.dim() != 4 or x.shape[1] != in_channels or (side and x.shape[2:] != (side, side)):
        size = "H, W" if side is None else f"{side}, {side}"
        raise ValueError(
            f"expected a batch of images of shape (N, {in_channels}, {size}), got {tuple(x.shape)}"
        )


def _initialize(model: nn.Module) -> None:
    """He initialization of the convolutions (He et al. 2015, https://arxiv.org/abs/1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class LeNet(nn.Module):
    """LeNet-5 for images of 28×28: two convolutions, three fully connected layers, tanh.

    The network of LeCun et al. 1998, https://doi.org/10.1109/5.726791, with what
    later readers simplify: plain average pooling, every map of the second convolution connected to
    every map before it, and a linear output. 61,706 parameters for 1 channel and 10 classes.

    Raises:
        ValueError: for a size below 1, or images that are not 28×28.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        check_whole(1, num_classes=num_classes, in_channels=in_channels)
        self.in_channels = in_channels
        # A padding of 2 makes up for the 32×32 images of the paper.
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.AvgPool2d(kernel_size=2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, in_channels, 28, 28)`` to logits ``(N, num_classes)``."""
        _check_images(x, self.in_channels, side=28)
        x = torch.tanh(self.conv1(x))  # (N, 6, 28, 28)
        x = self.pool(x)  # (N, 6, 14, 14)
        x = torch.tanh(self.conv2(x))  # (N, 16, 10, 10)
        x = self.pool(x)  # (N, 16, 5, 5)
        x = torch.flatten(x, 1)  # (N, 400)
        x = torch.tanh(self.fc1(x))  # (N, 120)
        x = torch.tanh(self.fc2(x))  # (N, 84)
        return self.fc3(x)


def lenet(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """LeNet-5 with the weights that PyTorch starts with."""
    return LeNet(num_classes, in_channels)


class SmallVGG(nn.Module):
    """A network in the manner of VGG for images of 28×28: 3×3 convolutions, max-pools, two linear layers.

    One convolution at 28×28, then three stages at 14×14, 7×7 and 3×3 with equally many convolutions
    in each. Only the depth of the stages changes from one network to the next. After Simonyan &
    Zisserman 2014, https://arxiv.org/abs/1409.1556, made narrow, and with batch normalization.
    """

    def __init__(
        self,
        convs_per_stage: int,
        width: int = 16,
        num_classes: int = 10,
        in_channels: int = 1,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        check_whole(
            1,
            convs_per_stage=convs_per_stage,
            width=width,
            num_classes=num_classes,
            in_channels=in_channels,
            hidden=hidden,
        )
        self.in_channels = in_channels
        self.stem = self._layer(in_channels, width)
        channels = width
        for i in range(3):
            out_channels = width * 2**i
            stage = [self._layer(channels, out_channels)]
            stage += [self._layer(out_channels, out_channels) for _ in range(convs_per_stage - 1)]
            setattr(self, f"stage{i + 1}", nn.Sequential(*stage))
            channels = out_channels
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.fc1 = nn.Linear(channels * 3 * 3, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        _initialize(self)

    @staticmethod
    def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, in_channels, 28, 28)`` to logits ``(N, num_classes)``."""
        _check_images(x, self.in_channels, side=28)
        x = self.stem(x)  # (N, width, 28, 28)
        x = self.pool(x)  # (N, width, 14, 14)
        x = self.stage1(x)
        x = self.pool(x)  # (N, width, 7, 7)
        x = self.stage2(x)
        x = self.pool(x)  # (N, 2 * width, 3, 3)
        x = self.stage3(x)  # (N, 4 * width, 3, 3)
        x = torch.flatten(x, 1)
        x = torch.relu(self.fc1(x))
        return self.fc2(x)


def small_vgg(
    depth: int, width: int = 16, num_classes: int = 10, in_channels: int = 1, hidden: int = 256
) -> SmallVGG:
    """A narrow VGG of depth 3n + 3 for images of 28×28.

    Args:
        depth: layers with weights: 1 convolution, 3 stages of n, 2 linear layers; so 3n + 3.
        width: channels of the first stage; the others have 2 and 4 times as many.
        num_classes: length of the output.
        in_channels: 3 for colour, 1 for grey images.
        hidden: units between the two linear layers.

    Raises:
        ValueError: for a depth that is not 3n + 3 (6, 9, 12, …), or a size below 1.
    """
    if not is_whole(depth) or depth < 6 or depth % 3:
        raise ValueError(f"depth must be 3n + 3 (6, 9, 12, …), got {depth!r}")
    return SmallVGG((depth - 3) // 3, width, num_classes, in_channels, hidden)


class ResNet(nn.Module):
    """A residual network in five parts, conv1 and conv2_x to conv5_x, for images of any size.

    The parts are named as in torchvision (``conv1``, ``layer1`` … ``layer4``, ``fc``), so a
    ``state_dict`` of one loads strictly into the other.

    Args:
        block: makes a block: ``BasicBlock``, ``Bottleneck`` or a partial of one.
        blocks_per_stage: four numbers of blocks, e.g. ``(2, 2, 2, 2)`` for ResNet-18.
        num_classes: length of the output.
        in_channels: 3 for colour, 1 for grey images.
        stem: ``"imagenet"`` (7×7 convolution of stride 2 and max-pool) or ``"small"``
            (3×3 of stride 1, no pool) for images of about 32×32.
        width: channels of the first stage; each later stage has twice as many.
        zero_init_residual: start every block as its shortcut, by zeros in its last norm.

    Raises:
        ValueError: for a size below 1 or an unknown stem.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        blocks_per_stage: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
        width: int = 64,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        check_whole(1, num_classes=num_classes, in_channels=in_channels, width=width)
        if not isinstance(blocks_per_stage, Sequence) or len(blocks_per_stage) != 4:
            raise ValueError(f"blocks_per_stage must be four numbers, got {blocks_per_stage!r}")
        for i, num_blocks in enumerate(blocks_per_stage):
            check_whole(1, **{f"blocks_per_stage[{i}]": num_blocks})
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}; choose one of {', '.join(STEMS)}")
        self.in_channels = in_channels
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        expansion = (block.func if isinstance(block, partial) else block).expansion
        channels = width
        for i, num_blocks in enumerate(blocks_per_stage):
            out_channels = width * 2**i * expansion
            # The stem or its pool has already halved the images before the first stage.
            stride = 1 if i == 0 else 2
            stage = [block(channels, out_channels, stride)]
            stage += [block(out_channels, out_channels) for _ in range(num_blocks - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            channels = out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

        _initialize(self)
        if zero_init_residual:
            zero_last_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``."""
        _check_images(x, self.in_channels)
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x)  # (N, C, 1, 1)
        x = torch.flatten(x, 1)  # (N, C)
        return self.fc(x)


def zero_last_norms(model: nn.Module) -> None:
    """Zero the scale of the last normalization of each residual block, so that F(x) = 0 at first.

    Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


# Published in He et al. 2015, table 1: block, blocks per stage.
FAMILY: dict[int, tuple[type[nn.Module], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "imagenet",
    shortcut: str = "B",
    stride_on: str = "3x3",
    width: int = 64,
    zero_init_residual: bool = False,
) -> ResNet:
    """A network of the ImageNet family: ``depth`` is 18, 34, 50, 101 or 152.

    Raises:
        ValueError: for another depth, a size below 1, or an unknown stem, shortcut or stride_on.
    """
    if depth not in FAMILY:
        raise ValueError(f"no ResNet-{depth} in the family; choose one of {', '.join(map(str, FAMILY))}")
    block, blocks_per_stage = FAMILY[depth]
    options = {"shortcut": shortcut}
    if block is Bottleneck:
        options["stride_on"] = stride_on
    return ResNet(
        partial(block, **options), blocks_per_stage, num_classes, in_channels, stem, width, zero_init_residual
    )


def resnet18(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-18; the options are those of :func:`resnet`."""
    return resnet(18, num_classes, in_channels, **options)


def resnet34(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-34; the options are those of :func:`resnet`."""
    return resnet(34, num_classes, in_channels, **options)


def resnet50(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-50; the options are those of :func:`resnet`."""
    return resnet(50, num_classes, in_channels, **options)


def resnet101(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-101; the options are those of :func:`resnet`."""
    return resnet(101, num_classes, in_channels, **options)


def resnet152(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-152; the options are those of :func:`resnet`."""
    return resnet(152, num_classes, in_channels, **options)


class CifarResNet(nn.Module):
    """The narrow network of He et al. 2015, section 4.2: a 3×3 stem and three stages of n blocks."""

    def __init__(
        self,
        block: Callable[..., nn.Module],
        blocks_per_stage: int,
        width: int = 16,
        in_channels: int = 3,
        num_classes: int = 10,
        stem_stride: int = 1,
        norm: Norm = nn.BatchNorm2d,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        check_whole(
            1,
            blocks_per_stage=blocks_per_stage,
            width=width,
            in_channels=in_channels,
            num_classes=num_classes,
            stem_stride=stem_stride,
        )
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stem_stride, padding=1, bias=False)
        # A pre-activation block normalizes its own input, and leaves its output as it is:
        # its network normalizes after the last block instead of after the stem.
        self.bn1 = nn.Identity() if final_norm else norm(width)
        self.relu = nn.Identity() if final_norm else nn.ReLU(inplace=True)
        channels = width
        for i in range(3):
            out_channels = width * 2**i
            stage = [block(channels, out_channels, 1 if i == 0 else 2)]
            stage += [block(out_channels, out_channels) for _ in range(blocks_per_stage - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            channels = out_channels
        self.final = nn.Sequential(norm(channels), nn.ReLU(inplace=True)) if final_norm else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``."""
        _check_images(x, self.in_channels)
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.final(x)
        x = self.avgpool(x)  # (N, C, 1, 1)
        x = torch.flatten(x, 1)  # (N, C)
        return self.fc(x)


def cifar_resnet(
    depth: int,
    residual: bool = True,
    shortcut: str = "A",
    width: int = 16,
    in_channels: int = 3,
    num_classes: int = 10,
    stem_stride: int = 1,
    preactivation: bool = False,
    normalized: bool = True,
    zero_init_residual: bool = False,
) -> CifarResNet:
    """A network of depth 6n + 2 for small images (He et al. 2015, section 4.2).

    Args:
        depth: layers with weights: 1 stem, 3 stages of n blocks of 2, 1 output; so 6n + 2.
        residual: ``False`` leaves every shortcut out; the parameters stay the same (option A).
        shortcut: option A, B or C.
        width: channels of the first stage; the others have 2 and 4 times as many.
        in_channels: 3 for colour, 1 for grey images.
        num_classes: length of the output.
        stem_stride: 2 halves the images at once: a quarter of the computation.
        preactivation: blocks of v2 (He et al. 2016).
        normalized: ``False`` leaves every batch normalization out.
        zero_init_residual: start every block as its shortcut.

    Raises:
        ValueError: for a depth that is not 6n + 2 (naming the nearest), a size below 1, or
            options that contradict each other.
    """
    if not is_whole(depth):
        raise ValueError(f"depth must be a whole number, 6n + 2 (8, 14, 20, …), got {depth!r}")
    if depth < 8 or depth % 6 != 2:
        below = max(8, 6 * ((depth - 2) // 6) + 2)
        near = f"{below} or {below + 6}" if depth > 8 else "8"
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, …), got {depth}; the nearest is {near}")
    if preactivation and not residual:
        raise ValueError("a plain network has no pre-activation blocks: set residual=True")
    norm = nn.BatchNorm2d if normalized else nn.Identity
    if not residual:
        block = partial(PlainBlock, norm=norm)
    else:
        block = partial(PreActBlock if preactivation else BasicBlock, shortcut=shortcut, norm=norm)
    model = CifarResNet(
        block, (depth - 2) // 6, width, in_channels, num_classes, stem_stride, norm, final_norm=preactivation
    )
    if zero_init_residual:
        if not normalized or not residual or preactivation:
            raise ValueError("zero_init_residual needs post-activation residual blocks with batch norm")
        zero_last_norms(model)
    return model


def d2l_resnet18(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """ResNet-18 as d2l.ai's chapter builds it; 11,178,378 parameters for 1 channel, 10 classes."""
    check_whole(1, num_classes=num_classes, in_channels=in_channels)
    stages = [
        nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
    ]
    channels = 64
    for i, out_channels in enumerate((64, 128, 256, 512)):
        first = D2LResidual(channels, out_channels, stride=1 if i == 0 else 2)
        stages.append(nn.Sequential(first, D2LResidual(out_channels, out_channels)))
        channels = out_channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)]
    return nn.Sequential(*stages, *head)


def build(spec: dict) -> nn.Module:
    """Build a model from a record's ``model`` entry, e.g. ``{"family": "cifar", "depth": 20}``.

    Raises:
        ValueError: if the family or an option is unknown, or a value makes no sense.
    """
    options = dict(spec)
    family = options.pop("family", None)
    families = {
        "cifar": cifar_resnet,
        "resnet": resnet,
        "d2l-resnet18": d2l_resnet18,
        "lenet": lenet,
        "small-vgg": small_vgg,
    }
    if family not in families:
        raise ValueError(f"unknown model family {family!r}; choose one of {', '.join(families)}")
    known = inspect.signature(families[family]).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"{family!r} has no option {name!r}; its options are {', '.join(known)}")
    missing = [
        name for name, option in known.items() if option.default is option.empty and name not in options
    ]
    if missing:
        raise ValueError(f"{family!r} needs {', '.join(missing)}")
    return families[family](**options)


def in_words(spec: dict) -> str:
    """A record's ``model`` entry as a phrase; an option that has no words of its own is listed behind it."""
    rest = {name: value for name, value in spec.items() if name not in ("in_channels", "num_classes")}
    family = rest.pop("family")
    if family == "d2l-resnet18":
        words = ["ResNet-18 as d2l.ai builds it"]
    elif family == "resnet":
        words = [f"ResNet-{rest.pop('depth')}"]
        imagenet = rest.pop("stem", "imagenet") == "imagenet"
        words.append("stem 7×7 of stride 2 and max-pool" if imagenet else "stem 3×3 of stride 1")
    elif family == "cifar":
        kind = "residual" if rest.pop("residual", True) else "plain"
        words = [f"{kind} network of {rest.pop('depth')} layers for small images"]
        shortcut = rest.pop("shortcut", "A")
        if kind == "residual":
            words.append(f"shortcut option {shortcut}")
        words.append(f"stem of stride {rest.pop('stem_stride', 1)}")
    else:
        words = [family]
    if rest.pop("zero_init_residual", False):
        words.append("each block begins as its shortcut")
    if rest.pop("preactivation", False):
        words.append("pre-activation blocks")
    words += [f"{name.replace('_', ' ')} {value}" for name, value in rest.items()]
    return ", ".join(words)


def weights_path(name: str, folder: Path | None = None) -> Path:
    """Where the weights of a record lie: in ``weights/`` beside the folder of the book's records, or in
    ``weights/`` within any other.

    Args:
        name: of the record, ``EXPERIMENT-seedN``.
        folder: of the record; ``None`` is the package's ``records/``.
    """
    from resnetbook import runs  # it needs the models, too

    own = folder is not None and folder != runs.RECORDS
    return (folder / "weights" if own else WEIGHTS) / f"{name}.safetensors"


def trained(experiment: str, seed: int = 0, folder: Path | None = None) -> nn.Module:
    """A network that the book trained and kept, in evaluation mode, in float32.

    Its weights were rounded to float16 before its test, so it has exactly the test accuracy of its record,
    ``runs.load(f"{experiment}-seed{seed}")``, up to how a processor rounds.

    Args:
        experiment: ``"resnet-20"``, ``"plain-20"``, ``"resnet-56"``, ``"plain-56"`` or
            ``"pretrained-5-classes"``: for images ``(N, 1, 28, 28)``, normalized as
            :class:`~resnetbook.recipe.Recipe` does by default.
        seed: which of the runs.
        folder: of the record; ``None`` is the package's.

    Raises:
        KeyError: if there is no such record, or its weights were not kept.
        ValueError: if the file is not the one that was recorded (by its SHA-256).
    """
    from resnetbook import runs

    record = runs.load(f"{experiment}-seed{seed}", folder)
    path = weights_path(record["name"], folder)
    if "weights" not in record or not path.is_file():
        raise KeyError(f"the weights of {record['name']!r} are not kept; train it: {record['command']}")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != record["weights"]["sha256"]:
        raise ValueError(
            f"{path} is not the file that was recorded; make it again: {record['command']} --again"
        )
    model = build(record["model"])
    model.load_state_dict(unpack(packed))  # copied into float32
    return model.eval()
