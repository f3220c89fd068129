"""Chapter 12's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import checks, models, probes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_parameters_counted_from_nothing_pass(capsys):
    def count(num_classes, in_channels, small_stem):
        total = 64 * in_channels * (9 if small_stem else 49) + 2 * 64
        channels = 64
        for out in (64, 128, 256, 512):
            total += 9 * channels * out + 3 * 9 * out * out + 4 * 2 * out
            total += (channels * out + 2 * out) * (channels != out)
            channels = out
        return total + 512 * num_classes + num_classes

    passes(checks.resnet18_parameters, count, capsys)


def test_a_built_network_is_not_what_was_asked():
    def build(num_classes, in_channels, small_stem):
        stem = "small" if small_stem else "imagenet"
        return probes.count_parameters(models.resnet18(num_classes, in_channels, stem=stem))

    fails(checks.resnet18_parameters, build, "to do without")


def test_option_a_by_concatenation_passes(capsys):
    def option_a(x, out_channels, stride, halves):
        x = x[..., ::stride, ::stride]
        new = out_channels - x.shape[1]
        n, _, h, w = x.shape
        front, back = (new // 2, new - new // 2) if halves else (0, new)
        return torch.cat([x.new_zeros(n, front, h, w), x, x.new_zeros(n, back, h, w)], 1)

    passes(checks.option_a, option_a, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, out, stride, halves: x[:, :, ::stride, ::stride], "missing, and share them out"),
        (lambda x, out, stride, halves: None, "return"),
        (
            lambda x, out, stride, halves: F.conv2d(x, torch.ones(out, x.shape[1], 1, 1), stride=stride),
            "raises",
        ),
    ],
)
def test_wrong_options_a(function, message):
    fails(checks.option_a, function, message)


def test_asking_for_each_image_in_a_loop_passes(capsys):
    @torch.no_grad()
    def mixes(network, images):
        network.eval()
        rows = network(images)
        return any(
            (network(images[i : i + 1])[0] - row).abs().max().item() > 1e-6 for i, row in enumerate(rows)
        )

    passes(checks.mixes_images, mixes, capsys)


@pytest.mark.parametrize("answer", [True, False])
def test_a_constant_answer_is_wrong(answer):
    fails(checks.mixes_images, lambda network, images: answer, "mixes_images")


def test_gradients_by_autograd_pass(capsys):
    def without(network, images):
        named = dict(network.named_parameters())
        loss = (network(images) * torch.linspace(1, 2, 10).reshape(5, 2)).sum()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return [n for n, g in zip(named, found, strict=True) if g is None or g.abs().max() == 0]

    passes(checks.without_gradient, without, capsys)


def test_a_missing_gradient_that_is_not_asked_for_is_explained():
    def without(network, images):
        network.zero_grad()
        network(images).sum().backward()
        return [name for name, p in network.named_parameters() if not p.grad.any()]

    fails(checks.without_gradient, without, "has .grad None")


def test_the_first_difference_by_a_while_loop_passes(capsys):
    def first(mine, trusted, x):
        number = 0
        with torch.no_grad():
            while number < len(mine):
                right = trusted[number](x)
                if (mine[number](x.clone()) - right).abs().max() > 1e-6:
                    break
                x, number = right, number + 1
        return number

    passes(checks.first_difference, first, capsys)


def test_a_comparison_of_the_last_outputs_alone_is_wrong():
    def last(mine, trusted, x):
        same = torch.allclose(nn.Sequential(*mine)(x.clone()), nn.Sequential(*trusted)(x.clone()))
        return len(mine) if same else 0

    fails(checks.first_difference, last, "first_difference")
