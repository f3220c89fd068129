"""The judge of a reader's ResNet-34: layer by layer under the same weights, whatever the names inside."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnetbook import models, probes
from resnetbook.checks.common import CheckFailed, call_reader
from resnetbook.checks.exercise import left_alone
from resnetbook.checks.tracing import (
    Layer,
    LayerCall,
    explain_measured,
    hidden_method,
    kept_graph,
    kernel,
    layers_of,
    measure,
    not_by_hand,
    ran,
    random_mode,
    randomize,
    same,
    unusual_norm,
    watched,
)

_STAGE_OF = {64: "conv2_x", 128: "conv3_x", 256: "conv4_x", 512: "conv5_x"}


def _wrong_plan(mine: list[Layer], right: list[Layer]) -> str | None:
    """Where the convolutions of a network differ from ResNet-34's in number, shape or map size."""

    def of_stage(layers: list[Layer], channels: int) -> list[Layer]:
        return [la for la in layers if la.conv.out_channels == channels and la.conv.kernel_size == (3, 3)]

    stem, wanted = mine[0], right[0]
    if stem.conv.weight.shape != wanted.conv.weight.shape or stem.conv.stride != wanted.conv.stride:
        return (
            "the stem must begin with a 7×7 convolution from 3 to 64 channels with stride 2; yours is "
            f"{stem.conv}."
        )
    for layer in mine:
        if layer.conv.bias is not None:
            return f"a {kernel(layer.conv)} convolution has a bias; batch norm follows, so set bias=False."
        if layer.norm is None:
            return (
                f"a {kernel(layer.conv)} convolution to {layer.conv.out_channels} channels has no batch norm."
            )
        if problem := unusual_norm(layer.norm):
            return problem
    for channels, stage in _STAGE_OF.items():
        given, needed = of_stage(mine, channels), of_stage(right, channels)
        if len(given) != len(needed):
            return (
                f"{stage} runs {len(given)} 3×3 convolutions with {channels} channels, and ResNet-34 has "
                f"{len(needed)}, in {len(needed) // 2} blocks. Count the first block of the stage as one of "
                "them."
            )
        size, wanted_size = given[-1].call.output.shape[-2:], needed[-1].call.output.shape[-2:]
        if size != wanted_size:
            stem_hint = (
                " The max-pool of the stem is 3×3 with stride 2 and padding 1." if channels == 64 else ""
            )
            return (
                f"{stage} works on maps of {size[0]}×{size[1]}, and ResNet-34 on "
                f"{wanted_size[0]}×{wanted_size[1]} "
                f"(image 64×64). Each later stage halves once, in its first block.{stem_hint}"
            )
    projections = sum(layer.conv.kernel_size == (1, 1) for layer in mine)
    if projections != 3:
        return (
            f"it runs {projections} projections; torchvision's ResNet-34 has 3 (option B): one where each of "
            "conv3_x, conv4_x and conv5_x begins, and none in conv2_x, where the shape stays."
        )
    return None


def _pair_up(mine: list[Layer], right: list[Layer]) -> list[tuple[Layer, Layer]]:
    """Each trusted convolution with the reader's first free one of the same shape.

    Raises:
        CheckFailed: if one has no partner.
    """
    free = list(mine)
    pairs = []
    for wanted in right:
        fitting = [layer for layer in free if layer.conv.weight.shape == wanted.conv.weight.shape]
        if not fitting:
            shape = tuple(wanted.conv.weight.shape)
            raise CheckFailed(f"No convolution of yours has weights of shape {shape}, which ResNet-34 needs.")
        free.remove(fitting[0])
        pairs.append((fitting[0], wanted))
    return pairs


def _first_difference(mine: nn.Module, right: nn.Module, pairs: list[tuple[Layer, Layer]], x: Tensor) -> str:
    """The first convolution, in the trusted order, whose output differs."""
    outputs = []
    for network in (mine, right):
        with watched() as calls, torch.no_grad():
            network(x)
        outputs.append({id(call.layer): call.output for call in calls})
    for i, (layer, wanted) in enumerate(pairs):
        if not same(outputs[0][id(layer.conv)], outputs[1][id(wanted.conv)]):
            place = (
                f"the {kernel(wanted.conv)} convolution to {wanted.conv.out_channels} channels, number "
                f"{i + 1}"
            )
            return (
                f"The first convolution that gives something else is {place} of {len(pairs)}: look at what "
                "happens just before it. Does checks.residual_block accept your block?"
            )
    return (
        "All convolutions agree, so look behind the last one: its norm, the addition and ReLU, global "
        "average pooling, and one linear layer without a softmax."
    )


_CRASHES = {
    "Output size is too small": "nn.AdaptiveAvgPool2d(1) averages over maps of every size.",
    "mat1 and mat2": (
        "The linear layer needs 512 numbers for each image: nn.AdaptiveAvgPool2d(1), then nn.Flatten()."
    ),
}


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    """The output of the reader's network; an error becomes a message, and so does what is no Tensor."""
    try:
        out = call_reader(network, x, describe=f"The network, given images of {x.shape[2]}×{x.shape[3]},")
    except CheckFailed as failed:
        hints = [f". {hint}" for text, hint in _CRASHES.items() if text in str(failed)]
        raise CheckFailed(f"{failed}{''.join(hints)}") from failed.__cause__
    if not isinstance(out, Tensor):
        raise CheckFailed(f"The network gives {type(out).__name__}: return one Tensor.")
    return out


def _take_heads(calls: list[LayerCall], layers: list[Layer]) -> list[nn.Module]:
    """The layers that give the logits: linear ones, or a last 1×1 convolution, taken out of ``layers``.

    On a map of a single position a 1×1 convolution is a linear layer, and after it the mean over the
    positions may as well be taken.
    """
    linears = [call.layer for call in ran(calls, nn.Linear)]
    if not linears and layers and layers[-1].norm is None and layers[-1].conv.kernel_size == (1, 1):
        linears.append(layers.pop().conv)
    return linears


def judge_resnet34(build: Callable[[], nn.Module]) -> str:
    """Compare ``build()``, a ResNet-34 for 3 channels and 1,000 classes, with the book's.

    Random weights of :func:`resnetbook.models.resnet34`, whose outputs are torchvision's, are copied
    into the reader's network layer by layer; then both must give the same logits, gradients and running
    statistics.

    Returns:
        What was compared.

    Raises:
        CheckFailed: if a layer is missing or too many, or something differs.
    """
    torch.manual_seed(0)
    mine = call_reader(build, describe="Building the network")
    if not isinstance(mine, nn.Module):
        hint = "call it; add ()." if callable(mine) else "does it end with `return`?"
        raise CheckFailed(f"The function gives {type(mine).__name__}, not a network: {hint}")
    if problem := hidden_method(mine):
        raise CheckFailed(problem)
    # The exercise lets you use a block that is there; not a network.
    but = not_by_hand(mine) if "resnet" in type(mine).__module__ else ""
    right = models.resnet34()
    x = torch.randn(2, 3, 64, 64)
    plans = []
    for network in (mine, right):
        network.eval()
        with watched() as calls, torch.no_grad():
            _logits(network, x)
        plans.append((calls, layers_of(calls)[0]))
        if network is mine and (not plans[0][1] or plans[0][1][0].call.input.shape[1] != 3):
            raise CheckFailed("The network runs no convolution on the images.")
    own = list(mine.modules())
    for layer in plans[0][1]:
        if not any(layer.conv is module for module in own):
            raise CheckFailed("A convolution runs that is not registered: use nn.Sequential for the blocks.")
    heads = [_take_heads(*plan) for plan in plans]
    if problem := _wrong_plan(plans[0][1], plans[1][1]):
        raise CheckFailed(f"The plan differs: {problem}")
    forms = [[(tuple(layer.weight.shape[:2]), layer.bias is None) for layer in side] for side in heads]
    if forms[0] != forms[1]:
        raise CheckFailed(
            f"The head must be one linear layer from 512 to 1,000, with a bias; yours runs {heads[0]}."
        )
    pairs = _pair_up(plans[0][1], plans[1][1])
    count, wanted = probes.count_parameters(mine), probes.count_parameters(right)
    if count != wanted:
        raise CheckFailed(
            f"Your network has {count:,} parameters, not {wanted:,}: something is missing, left over or "
            "shared."
        )

    randomize([layer for _, layer in pairs], torch.Generator().manual_seed(1))
    for layer, source in pairs:
        layer.conv.load_state_dict(source.conv.state_dict())
        layer.norm.load_state_dict(source.norm.state_dict())
    with torch.no_grad():
        heads[0][0].weight.copy_(heads[1][0].weight.reshape(heads[0][0].weight.shape))
        heads[0][0].bias.copy_(heads[1][0].bias)
    mine.double()
    right.double()
    convs = [[(layer.conv, layer.norm) for layer in side] for side in zip(*pairs, strict=True)]
    for size in ((64, 64), (75, 61)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with left_alone("The network", images=x), torch.no_grad():
            _logits(mine.eval(), x)
        with torch.set_grad_enabled(size == (64, 64)):  # gradients cost far more time than outputs
            given = measure(mine, [*convs[0], heads[0]], x, functools.partial(_logits, mine))
            expected = measure(right, [*convs[1], heads[1]], x, right)
        key = next((key for key in expected if not same(given[key], expected[key])), None)
        if key is None:
            continue
        hint = explain_measured(key, given[key], expected[key])
        if hint is None and (chance := random_mode(copy.deepcopy(mine), x)):
            hint = f"{chance[0].upper()}{chance[1:]}"
        if hint is None:
            for network in (mine, right):
                network.train("training" in key)
            hint = _first_difference(mine, right, pairs, x)
        raise CheckFailed(f"With the same weights, the {key} differs. {hint}")
    with torch.enable_grad():
        _logits(mine, x)
    if problem := kept_graph(mine) or random_mode(mine, x):
        raise CheckFailed(f"The logits are right, but {problem}")
    return (
        "with the weights of the book's ResNet-34 in it, your network gives the same logits, in training "
        "and in evaluation mode, for images of 64×64 and of 75×61, and the same gradients."
    ) + but
