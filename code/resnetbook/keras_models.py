"""The ImageNet family in Keras 3, on whichever engine Keras runs: PyTorch, TensorFlow or JAX.

Nothing else in the package imports this module, and only this module imports Keras. Choose the engine
before the first import: ``os.environ["KERAS_BACKEND"] = "torch"``.

Two forms of the same networks: :class:`ResNet` is subclassed, reads images of any size, and is built from
layers that save and load; :func:`functional_resnet` is a graph of Keras's own layers, so that each of them
can be listed, counted and cut at. Both take images ``(N, H, W, channels)``, and :func:`copy_weights` fills
either from the networks of :mod:`resnetbook.models`.

Source: He et al. 2015, https://arxiv.org/abs/1512.03385; strides and padding as in torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers, ops
from torch import nn

from resnetbook import blocks
from resnetbook._arguments import check_whole
from resnetbook.models import FAMILY, STEMS

PACKAGE = "resnetbook"


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNorm(layers.BatchNormalization):
    """Batch normalization with PyTorch's settings: momentum, epsilon, and the variance that is remembered.

    PyTorch's 0.1 is the weight of what is new, Keras's 0.9 that of what is old. Both divide a batch by its
    plain variance, over n values; for the running variance PyTorch alone divides by n - 1 instead.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **options) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **options)

    def call(self, inputs, training=None, mask=None):
        """Map ``(..., C)`` to the same shape."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        old = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training, mask=mask)
        new = ops.convert_to_tensor(self.moving_variance)
        count = ops.cast(ops.size(inputs) // inputs.shape[-1], new.dtype)
        # new - old is the batch's share, from a division by n: add what a division by n - 1 adds.
        self.moving_variance.assign(new + (new - old) / (count - 1))
        return outputs


def _convolution(channels: int, kernel_size: int, stride: int = 1, name: str | None = None) -> layers.Conv2D:
    """A convolution without bias; with a stride, its input must be padded beforehand."""
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(
        channels,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        # He initialization as in torchvision: Keras's own default is Glorot's.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )


class _Block(layers.Layer):
    """What both blocks share: the shortcut, saving, and loading."""

    expansion: int

    def __init__(self, out_channels: int, stride: int = 1, **options) -> None:
        super().__init__(**options)
        check_whole(1, out_channels=out_channels, stride=stride)
        self.out_channels = out_channels
        self.stride = stride
        # PyTorch pads both sides; "same" would pad one side only where a stride of 2 meets an even size.
        self.pad = layers.ZeroPadding2D(1 if stride > 1 else 0)
        self.downsample = []  # torchvision's name for the projection, so that weights can be copied

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.stride != 1 or input_shape[-1] != self.out_channels:
            self.downsample = [_convolution(self.out_channels, 1, self.stride), BatchNorm()]
        # A layer that is loaded needs its weights before it sees an image: a symbolic one will do.
        self.call(keras.KerasTensor(input_shape))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        sides = [None if side is None else -(-side // self.stride) for side in input_shape[1:3]]
        return (input_shape[0], *sides, self.out_channels)

    def _shortcut(self, x, training):
        if not self.downsample:
            return x
        conv, norm = self.downsample
        return norm(conv(x), training=training)

    def get_config(self) -> dict:
        return {**super().get_config(), "out_channels": self.out_channels, "stride": self.stride}


@keras.saving.register_keras_serializable(PACKAGE)
class BasicBlock(_Block):
    """The block of ResNet-18 and ResNet-34: two normalized 3×3 convolutions, and the shortcut.

    Maps ``(N, H, W, C)`` to ``(N, ceil(H / stride), ceil(W / stride), out_channels)``. Whether a projection
    is needed is known when the layer is built.
    """

    expansion = 1

    def __init__(self, out_channels: int, stride: int = 1, **options) -> None:
        super().__init__(out_channels, stride, **options)
        self.conv1 = _convolution(out_channels, 3, stride)
        self.bn1 = BatchNorm()
        self.conv2 = _convolution(out_channels, 3)
        self.bn2 = BatchNorm()

    def call(self, x, training=None):
        out = self.conv1(self.pad(x))
        out = self.bn1(out, training=training)
        out = ops.relu(out)
        out = self.conv2(out)
        out = self.bn2(out, training=training)
        out = out + self._shortcut(x, training)
        return ops.relu(out)


@keras.saving.register_keras_serializable(PACKAGE)
class Bottleneck(_Block):
    """The block of ResNet-50 and deeper: 1×1 reduces, 3×3 works, 1×1 restores.

    Args:
        out_channels: channels of the output, 4 times the width of the 3×3 convolution.
        stride: of the block.
        stride_on: ``"3x3"`` (torchvision, v1.5) or ``"1x1"`` (v1, as in Keras Applications).

    Raises:
        ValueError: if ``out_channels`` is not a multiple of 4, or ``stride_on`` is unknown.
    """

    expansion = 4

    def __init__(self, out_channels: int, stride: int = 1, stride_on: str = "3x3", **options) -> None:
        super().__init__(out_channels, stride, **options)
        if out_channels % self.expansion != 0:
            raise ValueError(f"out_channels must be a multiple of {self.expansion}, got {out_channels}")
        if stride_on not in ("1x1", "3x3"):
            raise ValueError(f'stride_on must be "1x1" or "3x3", got {stride_on!r}')
        self.stride_on = stride_on
        width = out_channels // self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.pad = layers.ZeroPadding2D(1 if stride_3x3 > 1 else 0)
        self.conv1 = _convolution(width, 1, stride_1x1)
        self.bn1 = BatchNorm()
        self.conv2 = _convolution(width, 3, stride_3x3)
        self.bn2 = BatchNorm()
        self.conv3 = _convolution(out_channels, 1)
        self.bn3 = BatchNorm()

    def call(self, x, training=None):
        out = self.conv1(x)
        out = self.bn1(out, training=training)
        out = ops.relu(out)
        out = self.conv2(self.pad(out))
        out = self.bn2(out, training=training)
        out = ops.relu(out)
        out = self.conv3(out)
        out = self.bn3(out, training=training)
        out = out + self._shortcut(x, training)
        return ops.relu(out)

    def get_config(self) -> dict:
        return {**super().get_config(), "stride_on": self.stride_on}


def _check_options(depth: int, num_classes: int, stem: str, width: int) -> None:
    if depth not in FAMILY:
        raise ValueError(f"no ResNet-{depth} in the family; choose one of {', '.join(map(str, FAMILY))}")
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}; choose one of {', '.join(STEMS)}")
    check_whole(1, num_classes=num_classes, width=width)


@keras.saving.register_keras_serializable(PACKAGE)
class ResNet(keras.Model):
    """A network of the family as a subclassed model: images ``(N, H, W, channels)`` of any size to logits.

    Its parts have torchvision's names (``conv1``, ``layer1[0].bn2``, ``fc`` …).

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: length of the output.
        stem: ``"imagenet"`` (7×7 of stride 2 and max-pool) or ``"small"`` (3×3 of stride 1, no pool).
        stride_on: the convolution of a bottleneck that has the stride, ``"3x3"`` or ``"1x1"``.
        width: channels of the first stage.

    Raises:
        ValueError: for another depth, a size below 1, or an unknown stem or stride_on.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        stem: str = "imagenet",
        stride_on: str = "3x3",
        width: int = 64,
        **options,
    ) -> None:
        super().__init__(**options)
        _check_options(depth, num_classes, stem, width)
        self.depth, self.num_classes, self.width = depth, num_classes, width
        self.stem, self.stride_on = stem, stride_on
        if stem == "imagenet":
            self.conv1 = _convolution(width, 7, 2)
            self.pads = [layers.ZeroPadding2D(3), layers.ZeroPadding2D(1)]
            self.maxpool = layers.MaxPooling2D(3, strides=2)
        else:
            self.conv1 = _convolution(width, 3)
        self.bn1 = BatchNorm()
        kind, blocks_per_stage = FAMILY[depth]
        for i, num_blocks in enumerate(blocks_per_stage):
            stage = []
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                if kind is blocks.Bottleneck:
                    stage.append(Bottleneck(4 * width * 2**i, stride, stride_on))
                else:
                    stage.append(BasicBlock(width * 2**i, stride))
            setattr(self, f"layer{i + 1}", stage)
        self.avgpool = layers.GlobalAveragePooling2D()
        self.fc = layers.Dense(num_classes)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.call(keras.KerasTensor(input_shape))

    def call(self, x, training=None):
        if self.stem == "imagenet":
            x = self.conv1(self.pads[0](x))
        else:
            x = self.conv1(x)
        x = self.bn1(x, training=training)
        x = ops.relu(x)
        if self.stem == "imagenet":
            # After a ReLU nothing is below 0, so zeros at the rim never win.
            x = self.maxpool(self.pads[1](x))
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x, training=training)
        x = self.avgpool(x)  # (N, C)
        return self.fc(x)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict:
        own = ("depth", "num_classes", "stem", "stride_on", "width")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def functional_resnet(
    depth: int,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 1000,
    stem: str = "imagenet",
    stride_on: str = "3x3",
    width: int = 64,
) -> keras.Model:
    """A network of the family as a graph of Keras's layers, named ``layer1_0_conv1`` and so on.

    Args:
        depth: 18, 34, 50, 101 or 152.
        input_shape: height, width and channels of the images; ``None`` for sides of any length.
        num_classes: length of the output.
        stem: ``"imagenet"`` or ``"small"``.
        stride_on: the convolution of a bottleneck that has the stride, ``"3x3"`` or ``"1x1"``.
        width: channels of the first stage.

    Returns:
        A model that maps ``(N, *input_shape)`` to logits ``(N, num_classes)``.

    Raises:
        ValueError: for another depth, a size below 1, or an unknown stem or stride_on.
    """
    _check_options(depth, num_classes, stem, width)
    if stride_on not in ("1x1", "3x3"):
        raise ValueError(f'stride_on must be "1x1" or "3x3", got {stride_on!r}')

    def conv_norm(x, channels: int, kernel_size: int, stride: int, conv: str, norm: str):
        if stride > 1 and kernel_size > 1:
            x = layers.ZeroPadding2D(kernel_size // 2, name=f"{conv}_pad")(x)
        x = _convolution(channels, kernel_size, stride, conv)(x)
        return BatchNorm(name=norm)(x)

    def block(x, out_channels: int, stride: int, name: str):
        shortcut = x
        if stride != 1 or x.shape[-1] != out_channels:
            shortcut = conv_norm(x, out_channels, 1, stride, f"{name}_downsample_0", f"{name}_downsample_1")
        # Channels, size of the window and stride of every convolution on the main path.
        if kind is blocks.Bottleneck:
            stride_1x1, stride_3x3 = (stride, 1) if stride_on == "1x1" else (1, stride)
            path = [(out_channels // 4, 1, stride_1x1), (out_channels // 4, 3, stride_3x3)]
            path += [(out_channels, 1, 1)]
        else:
            path = [(out_channels, 3, stride), (out_channels, 3, 1)]
        for i, (channels, kernel_size, step) in enumerate(path, start=1):
            x = conv_norm(x, channels, kernel_size, step, f"{name}_conv{i}", f"{name}_bn{i}")
            if i < len(path):
                x = layers.ReLU(name=f"{name}_relu{i}")(x)
        x = layers.Add(name=f"{name}_add")([x, shortcut])
        return layers.ReLU(name=f"{name}_out")(x)

    kind, blocks_per_stage = FAMILY[depth]
    images = keras.Input(input_shape, name="images")
    size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = conv_norm(images, width, size, stride, "conv1", "bn1")
    x = layers.ReLU(name="relu")(x)
    if stem == "imagenet":
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)
    for i, num_blocks in enumerate(blocks_per_stage):
        for j in range(num_blocks):
            out_channels = width * 2**i * kind.expansion
            x = block(x, out_channels, 2 if i > 0 and j == 0 else 1, f"layer{i + 1}_{j}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    logits = layers.Dense(num_classes, name="fc")(x)
    return keras.Model(images, logits, name=f"resnet{depth}")


# ---- weights, there and back

# By the last part of PyTorch's name: the attribute of a Keras norm.
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def to_keras(weight: np.ndarray) -> np.ndarray:
    """PyTorch's array of weights in Keras's order of axes.

    ``(out, in, height, width)`` becomes ``(height, width, in, out)``, and ``(out, in)`` becomes
    ``(in, out)``; a vector stays.
    """
    return weight.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[weight.ndim])


def to_torch(weight: np.ndarray) -> np.ndarray:
    """The way back: Keras's array of weights in PyTorch's order of axes."""
    return weight.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[weight.ndim])


def _layer(model: keras.Model, path: str) -> layers.Layer:
    """The layer of a PyTorch name such as ``layer1.0.downsample.1``."""
    if not isinstance(model, ResNet):
        return model.get_layer(path.replace(".", "_"))
    found = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


def _pairs(model: keras.Model, names: list[str]) -> Iterator[tuple[str, keras.Variable]]:
    """The Keras variable for each of PyTorch's names."""
    for name in names:
        path, _, last = name.rpartition(".")
        try:
            layer = _layer(model, path)
            if isinstance(layer, layers.BatchNormalization):
                yield name, getattr(layer, _NORM[last])
            else:
                yield name, layer.kernel if last == "weight" else layer.bias
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(f"the Keras model has nothing for {name}: is it the same network?") from error


def _names(network: nn.Module) -> list[str]:
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def copy_weights(network: nn.Module, model: keras.Model) -> None:
    """Copy all weights and statistics of a PyTorch network into the Keras model of the same form.

    Args:
        network: of :mod:`resnetbook.models` or torchvision, with option B's shortcuts.
        model: a built :class:`ResNet`, or what :func:`functional_resnet` gives.

    Raises:
        ValueError: if the model is not built, or one has a weight, or a shape, that the other has not. Then
            nothing has been copied.
    """
    if not model.built:
        raise ValueError("the Keras model has no weights yet: model.build((None, None, None, channels))")
    state = network.state_dict()
    pairs = dict(_pairs(model, _names(network)))
    arrays = {name: to_keras(state[name].detach().cpu().numpy()) for name in pairs}
    for name, variable in pairs.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape} in Keras's order, and the Keras model has "
                f"{tuple(variable.shape)}"
            )
    filled = {id(variable) for variable in pairs.values()}
    left = [variable.path for variable in model.weights if id(variable) not in filled]
    if left:
        raise ValueError(f"the network has nothing for {', '.join(left)}")
    for name, variable in pairs.items():
        variable.assign(arrays[name])


def weights_as_torch(model: keras.Model, network: nn.Module) -> dict[str, np.ndarray]:
    """The Keras model's weights and statistics under PyTorch's names and in PyTorch's order of axes.

    Args:
        model: as for :func:`copy_weights`.
        network: the PyTorch network of the same form; only its names are used.

    Raises:
        ValueError: if the Keras model has not what the network has.
    """
    return {
        name: to_torch(ops.convert_to_numpy(variable)) for name, variable in _pairs(model, _names(network))
    }


def copy_to_applications(network: nn.Module, model: keras.Model) -> None:
    """Copy a PyTorch ResNet-50, 101 or 152 into the model of that name in ``keras.applications`` (not V2).

    Those models have their stride on the 1×1, so ``network`` should (``stride_on="1x1"``); the biases of
    their convolutions, which a norm subtracts again, become zero.

    Raises:
        ValueError: if the model has not the same layers.
    """
    names = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}
    for i in range(1, 5):
        for j in range(len(getattr(network, f"layer{i}"))):
            here, there = f"layer{i}.{j}", f"conv{i + 1}_block{j + 1}"
            for k in (1, 2, 3):
                names[f"{here}.conv{k}"] = f"{there}_{k}_conv"
                names[f"{here}.bn{k}"] = f"{there}_{k}_bn"
            names[f"{here}.downsample.0"] = f"{there}_0_conv"
            names[f"{here}.downsample.1"] = f"{there}_0_bn"
    state = network.state_dict()
    filled = set()
    for name in _names(network):
        path, _, last = name.rpartition(".")
        layer = model.get_layer(names[path])
        if isinstance(layer, layers.BatchNormalization):
            variable = getattr(layer, _NORM[last])
        else:
            variable = layer.kernel if last == "weight" else layer.bias
            if isinstance(layer, layers.Conv2D):
                layer.bias.assign(np.zeros(layer.bias.shape, "float32"))
                filled.add(id(layer.bias))
        variable.assign(to_keras(state[name].detach().cpu().numpy()))
        filled.add(id(variable))
    left = [variable.path for variable in model.weights if id(variable) not in filled]
    if left:
        raise ValueError(f"the network has nothing for {', '.join(left)}")


# ---- training as PyTorch trains


@keras.saving.register_keras_serializable(PACKAGE)
class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as PyTorch's is.

    Keras's own ``weight_decay`` shrinks the weights beside the step; here the gradient of
    ``l2 / 2 * sum(w ** 2)`` is added to the loss's, so that the momentum gathers it, too.

    Args:
        learning_rate: a number or a schedule.
        momentum: at least 0 and at most 1.
        l2: PyTorch's ``weight_decay``.
    """

    def __init__(self, learning_rate=0.1, momentum: float = 0.9, l2: float = 1e-4, **options) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, **options)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate) -> None:
        gradient = gradient + self.l2 * ops.convert_to_tensor(variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        return {**super().get_config(), "l2": self.l2}
