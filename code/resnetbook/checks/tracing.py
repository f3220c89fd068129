"""Which layers a network runs, in which order, and on what: to find weights, whatever their names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnetbook import blocks


class LayerCall(NamedTuple):
    """A layer that ran, with copies of what went in and what came out."""

    layer: nn.Module
    input: Tensor
    output: Tensor


@contextmanager
def watched() -> Iterator[list[LayerCall]]:
    """Note every layer that runs, in order, also those that no module has registered."""
    calls: list[LayerCall] = []

    def note(layer: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if inputs and isinstance(output, Tensor) and not list(layer.children()):
            calls.append(LayerCall(layer, inputs[0].detach().clone(), output.detach().clone()))

    handle = nn.modules.module.register_module_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def kernel(conv: nn.Conv2d) -> str:
    return "×".join(map(str, conv.kernel_size))


def ran(calls: list[LayerCall], kind: type[nn.Module]) -> list[LayerCall]:
    return [call for call in calls if isinstance(call.layer, kind)]


class Layer(NamedTuple):
    """A convolution that ran, and the batch norm that followed it, if one did."""

    call: LayerCall
    norm: nn.BatchNorm2d | None

    @property
    def conv(self) -> nn.Conv2d:
        return self.call.layer


def layers_of(calls: list[LayerCall]) -> tuple[list[Layer], list[LayerCall]]:
    """Each convolution with its norm, in the order in which they ran; and the norms left over."""
    found: list[Layer] = []
    left_over = []
    for call in calls:
        if isinstance(call.layer, nn.Conv2d):
            found.append(Layer(call, None))
        elif isinstance(call.layer, nn.BatchNorm2d):
            free = [i for i, layer in enumerate(found) if layer.norm is None]
            exact = [i for i in free if torch.equal(found[i].call.output, call.input)]
            near = [i for i in free if found[i].conv.out_channels == call.layer.num_features]
            if exact or near:
                i = exact[0] if exact else near[-1]
                found[i] = found[i]._replace(norm=call.layer)
            else:
                left_over.append(call)
    return found, left_over


def randomize(layers: list[Layer], generator: torch.Generator) -> None:
    """Random weights and statistics, none of them 0 or 1, so that no layer can hide."""

    def normal(like: Tensor, scale: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale

    with torch.no_grad():
        for conv, norm in ((layer.conv, layer.norm) for layer in layers):
            conv.weight.copy_(normal(conv.weight, conv.weight[0].numel() ** -0.5))
            norm.weight.copy_(normal(norm.weight, 0.3) + 1)
            norm.bias.copy_(normal(norm.bias, 0.5))
            norm.running_mean.copy_(normal(norm.running_mean, 0.5))
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)


def trusted_layers(block: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and norms of F, then those of the projection, if there is one."""
    names = ("1", "2", "3") if isinstance(block, blocks.Bottleneck) else ("1", "2")
    pairs = [(getattr(block, f"conv{n}"), getattr(block, f"bn{n}")) for n in names]
    return pairs + ([tuple(block.downsample)] if isinstance(block.downsample, nn.Sequential) else [])


def same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= 1e-6 * (1 + second.abs().max()))  # False for nan
