"""The blocks that residual networks are built from.

Every block has the same signature, ``Block(in_channels, out_channels, stride=1, ...)``,
maps ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / stride), ceil(W / stride))``
and names its layers as torchvision does, so that weights can be copied either way.

Sources: He et al. 2015, https://arxiv.org/abs/1512.03385 (blocks, shortcut options A, B, C)
and He et al. 2016, https://arxiv.org/abs/1603.05027 (pre-activation).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]
"""Makes a normalization layer for a number of channels, e.g. ``nn.BatchNorm2d``."""

SHORTCUTS = ("A", "B", "C")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3×3 convolution whose padding of 1 keeps height and width at stride 1.

    There is no bias by default: the batch normalization that follows subtracts it again.
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 1×1 convolution: the same linear map of the channels at every position."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=bias)


class ZeroPadShortcut(nn.Module):
    """Shortcut option A: every ``stride``-th pixel, and zeros for the new channels.

    It has no parameters, so a plain and a residual network that use it have equally many.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"zero padding cannot reduce channels, from {in_channels} to {out_channels}; "
                'use shortcut="B" (a projection)'
            )
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H/stride), ceil(W/stride))``."""
        x = x[:, :, :: self.stride, :: self.stride]
        # F.pad counts from the last dimension: width (0, 0), height (0, 0), channels (0, new).
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))


def make_shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    option: str,
    norm: Norm = nn.BatchNorm2d,
) -> nn.Module:
    """The path around a block (He et al. 2015, section 4.1).

    - option A: identity; where the shape changes, zero padding
    - option B: identity; where the shape changes, a normalized 1×1 convolution (a projection)
    - option C: a projection in every block

    Raises:
        ValueError: if ``option`` is none of these.
    """
    if option not in SHORTCUTS:
        raise ValueError(f"unknown shortcut option {option!r}; choose one of {', '.join(SHORTCUTS)}")
    same_shape = stride == 1 and in_channels == out_channels
    if same_shape and option != "C":
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), norm(out_channels))


class PlainBlock(nn.Module):
    """Two 3×3 convolutions, each normalized, without a shortcut.

    It has the parameters of a :class:`BasicBlock` with shortcut option A, name by name.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = norm(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        return self.relu(out)


class BasicBlock(nn.Module):
    """The two-layer residual block of ResNet-18 and ResNet-34: ``relu(F(x) + shortcut(x))``."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: str = "B",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = norm(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        # torchvision's name for the shortcut, so that the keys of state_dict agree.
        self.downsample = make_shortcut(in_channels, out_channels, stride, shortcut, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        # The addition comes before the last ReLU, so F may be negative as well as positive.
        out = out + self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """The three-layer block of ResNet-50, 101 and 152: 1×1 reduces, 3×3 works, 1×1 restores.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, 4 times the width of the 3×3 convolution.
        stride: of the block.
        shortcut: option A, B or C.
        stride_on: the convolution that carries the stride: ``"3x3"`` (torchvision, known as
            v1.5) or ``"1x1"`` (He et al. 2015).
        norm: makes a normalization layer.

    Raises:
        ValueError: if ``out_channels`` is not a multiple of 4, or ``stride_on`` is unknown.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: str = "B",
        stride_on: str = "3x3",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if out_channels % self.expansion != 0:
            raise ValueError(f"out_channels must be a multiple of {self.expansion}, got {out_channels}")
        if stride_on not in ("1x1", "3x3"):
            raise ValueError(f'stride_on must be "1x1" or "3x3", got {stride_on!r}')
        width = out_channels // self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = conv1x1(in_channels, width, stride_1x1)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride_3x3)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(in_channels, out_channels, stride, shortcut, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.conv3(out)
        out = self.bn3(out)
        out = out + self.downsample(x)
        return self.relu(out)


class PreActBlock(nn.Module):
    """The updated, pre-activation block (v2): normalize, activate, then convolve; no ReLU after +.

    Where the shape changes, the projection reads the activated input, as in He et al. 2016;
    zero padding (option A) reads the input itself.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: str = "B",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.bn1 = norm(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = norm(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        # Not in place: the shortcut still needs the tensor that the first ReLU reads.
        self.relu = nn.ReLU()
        self.downsample = make_shortcut(in_channels, out_channels, stride, shortcut, norm)
        if isinstance(self.downsample, nn.Sequential):
            # The activated input is normalized already: the projection is a bare convolution.
            self.downsample = self.downsample[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        activated = self.relu(self.bn1(x))
        projects = isinstance(self.downsample, nn.Conv2d)
        shortcut = self.downsample(activated if projects else x)
        out = self.conv1(activated)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.conv2(out)
        return out + shortcut


class D2LResidual(nn.Module):
    """The residual block of d2l.ai's chapter: convolutions with biases, projection not normalized.

    Kept apart from :class:`BasicBlock` so that the source recipe can be run as published.
    """

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride, bias=True)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, bias=True)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else conv1x1(in_channels, out_channels, stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = torch.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out = out + self.shortcut(x)
        return torch.relu(out)
