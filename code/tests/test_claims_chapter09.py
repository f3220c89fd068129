"""What chapter 9 says is so: in its prose, in what its cells print, and in its alt texts."""

import math
import os
import re

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")

import keras
import nbformat
import numpy as np
import pytest
import torch
from conftest import claim, page_text
from torch import nn
from torch.nn import functional as F

import notebooks
from resnetbook import keras_models, models, probes

(PATH,) = notebooks.paths(["09"])


def printed(cell: str) -> str:
    """What one cell of the page prints."""
    notebook = nbformat.read(PATH, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return next(text for c, text in zip(cells, notebooks.text_outputs(notebook), strict=True) if c.id == cell)


def same_padded(size: int) -> bool:
    """Whether "same" and a padding of half the window agree for the strides of ResNet-18 at this size."""
    for kernel_size in (7, 3, 3, 3, 3):  # stem, pool, three stages
        missing = max((-(-size // 2) - 1) * 2 + kernel_size - size, 0)
        if missing % 2 == 1:
            return False
        size = -(-size // 2)
    return True


def test_at_which_sizes_the_two_paddings_agree():
    agree = [side for side in range(33, 70) if same_padded(side)]
    claim("09", '"same" agrees with PyTorch at 33 and 65 pixels', agree == [33, 65])
    claim("09", "At 65 pixels every map that meets a stride has an odd size")
    claim("09", "Test an even size as well, 32 or 224.", not same_padded(32) and not same_padded(224))
    claim("09", "except at 33 and at 65 pixels, where it drops below one millionth")


def test_what_the_settings_are_called_and_do():
    norm, torchs = keras.layers.BatchNormalization(), nn.BatchNorm2d(1)
    claim(
        "09",
        "leave `epsilon` and `momentum` at Keras's defaults, 0.001 and 0.99. PyTorch's are 1e-5 and 0.1.",
        (norm.epsilon, norm.momentum, torchs.eps, torchs.momentum) == (1e-3, 0.99, 1e-5, 0.1),
    )
    claim("09", "A hundred times as much is little", norm.epsilon / torchs.eps == pytest.approx(100))
    rows = {
        row.split("  ")[0]: re.findall(r"[\d.]+(?=%)", row) for row in printed("traps-compare").splitlines()
    }
    assert rows["as in PyTorch"] == ["0.0"] * 3
    claim("09", "the outputs have little in common", float(rows['"same" for all padding'][0]) > 50)
    claim(
        "09", "**momentum** changes nothing in evaluation mode, at first.", rows["momentum 0.99"][0] == "0.0"
    )
    assert float(rows["momentum 0.99"][2]) > 10 and 0 < float(rows["epsilon 0.001"][0]) < 5


def test_losses_of_logits_and_probabilities():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    wrong = loss(np.array([1]), torch.tensor([[3.0, -1, 0]])).item()
    claim("09", "a wrong one would cost about 16", round(wrong) == 16)
    perfect = F.cross_entropy(torch.eye(10)[:1], torch.tensor([0])).item()
    claim(
        "09",
        r"$\ln(e + 9) - 1 \approx 1.46$",
        f"{perfect:.2f}" == f"{math.log(math.e + 9) - 1:.2f}" == "1.46",
    )


def test_which_variance_is_remembered():
    for images, side, percent in ((64, 7, "99.97"), (4, 7, "99.49"), (4, 1, "75.00")):
        values = images * side**2
        assert f"{100 * (values - 1) / values:.2f}" == percent
        assert f"{percent}%" in printed("variance-code")
    shape = probes.shapes(models.resnet18(in_channels=1).eval(), (1, 28, 28))["layer4"]
    claim(
        "09",
        "whose last maps have one pixel, a quarter of the variance is missing",
        tuple(shape[-2:]) == (1, 1),
    )


def test_weight_decay_is_ten_times_as_strong_in_pytorch():
    lost = [float(found) for found in re.findall(r"([\d.]+)%", printed("decay-code"))]
    claim(
        "09",
        "Ten times: $1 / (1 - 0.9)$.",
        lost[0] == lost[2] and lost[0] / lost[1] == pytest.approx(10, rel=0.1),
    )
    assert 1 - (1 - 0.1 * 1e-4) ** 1000 == pytest.approx(lost[1] / 100, rel=0.05)


def test_the_counts_of_keras_applications():
    with torch.device("meta"):
        network = models.resnet50()
    channels = sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    claim("09", "79,680 = 26,560 biases + 2·26,560 statistics", (channels, 3 * channels) == (26_560, 79_680))
    with keras.device("meta"):
        second = keras.applications.ResNet50V2(weights=None)
    read = {
        tensor._keras_history.operation.name: layer for layer in second.layers for tensor in _inputs(layer)
    }
    biased = {
        layer.name: not isinstance(read[layer.name], keras.layers.BatchNormalization)
        for layer in second.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.use_bias
    }
    claim(
        "09",
        "only those convolutions have one that no norm follows directly",
        bool(biased) and all(biased.values()),
    )
    assert "conv1_conv" in biased
    claim("09", "20,490 = 2048·10 + 10", 2048 * 10 + 10 == 20_490)


def _inputs(layer: keras.layers.Layer) -> list:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def test_the_summary_is_read_rightly():
    model = keras_models.functional_resnet(34, (28, 28, 1), num_classes=10)
    counts = {layer.name: layer.count_params() for layer in model.layers[:4]}
    claim(
        "09", "`conv1` has 7·7·1·64 = 3,136 weights and no bias. `bn1` has 256", counts["conv1"] == 7 * 7 * 64
    )
    assert counts["bn1"] == 4 * 64
    claim("09", "on the longest way: 50")


def test_every_word_of_the_list_of_differences_is_on_the_page():
    claim("09", "name eight settings that differ without a warning")
    listed = re.search(r"Eight differences raise no error: ([^.]*)\.", page_text("09"))[1]
    assert len(re.split(r", (?:and )?", listed)) == 8
