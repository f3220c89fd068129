"""Measure a network: shapes, parameters, multiply-adds, gradient and activation norms.

Hooks are always removed, also when the forward pass fails.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """The number of weights (running statistics of batch normalization are not parameters)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


@contextmanager
def _hooked(
    modules: dict[str, nn.Module], hook: Callable[[str, nn.Module, tuple, Tensor], None]
) -> Iterator[None]:
    """Call ``hook(name, module, inputs, output)`` after each of the modules runs."""
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: hook(name, module, inputs, output)
        )
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back into the mode it was in, also after an error."""
    # Module by module: a model may keep some of its layers in evaluation mode while it trains.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _run_once(model: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """One forward pass of a single empty image, in evaluation mode."""
    weight = next(model.parameters(), torch.empty(0))
    with evaluation_mode(model):
        model(torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device))


def shapes(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Output shapes ``(N, C, H, W)`` of the direct children, for one image ``(C, H, W)``."""
    found: dict[str, tuple[int, ...]] = {}
    children = dict(model.named_children())
    with _hooked(children, lambda name, _module, _inputs, out: found.update({name: tuple(out.shape)})):
        _run_once(model, input_shape)
    return found


def macs_by_layer(
    model: nn.Module, input_shape: tuple[int, int, int], padding: bool = True
) -> dict[str, int]:
    """Multiply-adds of every convolution and linear layer, for one image ``(C, H, W)``.

    A convolution does ``C_out · H_out · W_out · (C_in / groups) · K · K``, a linear layer
    ``in · out``; biases, normalization, activation and pooling are not counted, as is usual.
    With ``padding=False``, multiplications by the zeros around a map are not counted either.
    """
    found: dict[str, int] = {}

    def hook(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            macs = output[0].numel() * module.in_features
        else:
            kernel = torch.ones(1, 1, *module.kernel_size)
            taps = output[0, 0].numel() * kernel.numel()  # over all places of one map
            if not padding:
                # Ones convolved with ones count those that lie on the map.
                ones = torch.ones(1, 1, *inputs[0].shape[2:])
                on_map = F.conv2d(ones, kernel, None, module.stride, module.padding, module.dilation)
                taps = int(on_map.sum())
            macs = module.out_channels * (module.in_channels // module.groups) * taps
        # A layer that is used twice counts twice.
        found[name] = found.get(name, 0) + macs

    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    with _hooked(layers, hook):
        _run_once(model, input_shape)
    return found


def count_macs(model: nn.Module, input_shape: tuple[int, int, int], padding: bool = True) -> int:
    """All multiply-adds for one image ``(C, H, W)``, as :func:`macs_by_layer` counts them."""
    return sum(macs_by_layer(model, input_shape, padding).values())


def gradient_norms(model: nn.Module, loss: Tensor) -> dict[str, float]:
    """L2 norm of the loss's gradient in the weights of every convolution and linear layer.

    It is 0 for a layer that the loss does not depend on, and for a frozen one. A norm squares
    before it adds: it is computed in float64, so that tiny gradients do not come out as 0.
    """
    layers = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    learning = [name for name, weight in layers.items() if weight.requires_grad]
    found = {}
    if learning:
        gradients = torch.autograd.grad(loss, [layers[name] for name in learning], allow_unused=True)
        found = dict(zip(learning, gradients, strict=True))
    norms = {name: 0.0 for name in layers}
    for name, gradient in found.items():
        if gradient is not None:
            norms[name] = gradient.cpu().double().norm().item()
    return norms


@torch.no_grad()
def activation_norms(
    model: nn.Module, x: Tensor, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
) -> dict[str, float]:
    """Standard deviation of the output of every layer of the given kinds, in the model's mode.

    Running statistics stay as they were, in training mode too.
    """
    found: dict[str, float] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with _hooked(
            layers, lambda name, _module, _inputs, out: found.update({name: out.float().std().item()})
        ):
            model(x)
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    return found
