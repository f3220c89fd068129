"""Chapter 9's exercises: their trusted answers are Keras's own; mistakes that no edit gives."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")

import keras
import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn

from resnetbook import checks, models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", checks.same_padding.cases)
def test_same_padding_is_what_keras_pads(case):
    size, kernel_size, stride = case
    row = np.random.default_rng(0).standard_normal((1, size, 1)).astype("float32")
    kernel = np.random.default_rng(1).standard_normal((kernel_size, 1, 1)).astype("float32")
    padded = np.pad(row, ((0, 0), checks.same_padding.trusted(*case), (0, 0)))
    mine = keras.ops.conv(padded, kernel, strides=stride, padding="valid")
    theirs = keras.ops.conv(row, kernel, strides=stride, padding="same")
    assert mine.shape == theirs.shape
    assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("case", checks.early_stopping.cases)
def test_early_stopping_is_keras(case):
    losses, patience = case
    callback = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    callback.on_train_begin()
    for last, loss in enumerate(losses):
        callback.on_epoch_end(last, {"val_loss": loss})
        if model.stop_training:
            break
    assert checks.early_stopping.trusted(*case) == (last, callback.best_epoch)


@pytest.mark.parametrize("case", checks.keras_sgd.cases)
def test_weight_decay_is_keras(case):
    weight, gradients, lr, momentum, decay = case
    variable = keras.Variable(np.float32(weight))
    optimizer = keras.optimizers.SGD(lr, momentum=momentum, weight_decay=decay)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.float32(gradient))], [variable])
    assert float(variable.numpy()) == pytest.approx(checks.keras_sgd.trusted(*case), rel=1e-5)


@pytest.mark.parametrize(
    ("depth", "trainable", "in_all"),
    [(50, 25_583_592, 25_636_712), (101, 44_601_832, 44_707_176), (152, 60_268_520, 60_419_944)],
)
def test_counts_are_those_of_keras_applications(depth, trainable, in_all):
    with torch.device("meta"):
        network = models.resnet(depth)
    channels = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert checks.keras_counts.trusted(parameters, channels) == (trainable, in_all)
    with keras.device("meta"):
        theirs = getattr(keras.applications, f"ResNet{depth}")(weights=None)
    assert theirs.count_params() == in_all
    assert sum(int(np.prod(weight.shape)) for weight in theirs.trainable_weights) == trainable


def searched(size, kernel_size, stride):
    total = 0
    while (size + total - kernel_size) // stride + 1 < -(-size // stride) or size + total < kernel_size:
        total += 1
    return [total // 2, -(-total // 2)]


def test_other_right_solutions(capsys):
    passes(checks.same_padding, searched, capsys)
    passes(checks.to_keras, lambda w: np.moveaxis(w, (0, 1), (-1, -2)) if w.ndim > 1 else w, capsys)
    passes(checks.keras_counts, lambda p, c: (p + sum(c), p + 3 * sum(c)), capsys)


@pytest.mark.parametrize(
    ("check", "solution", "message"),
    [
        (checks.same_padding, lambda *case: 1, "2 values are asked for"),
        (checks.same_padding, lambda size, kernel_size, stride: (7, 7), "Where does the last window begin"),
        (checks.to_keras, lambda weight: weight, "it is"),
        (checks.to_keras, lambda weight: weight.tolist(), "tensor"),
        (checks.early_stopping, lambda losses, patience: (0, 0), "Keep the best loss"),
        (checks.keras_sgd, lambda weight, *rest: weight / 2, "shrink the weight"),
        (checks.keras_counts, lambda parameters, channels: (0, 0), "on top"),
    ],
)
def test_other_wrong_solutions(check, solution, message):
    fails(check, solution, message)
