"""Which layers a network runs, in which order, and on what: to find weights, whatever their names."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from resnetbook import blocks
from resnetbook.checks.common import CheckFailed


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


class Operations(TorchFunctionMode):
    """Notes which of PyTorch's functions are called while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@contextmanager
def layers_used() -> Iterator[set[str]]:
    """Note which modules are built, and which convolutions and poolings are called, as functions too."""
    used: set[str] = set()
    built = nn.Module.__init__

    def note(module: nn.Module, *args: object, **kwargs: object) -> None:
        used.add(type(module).__name__)
        built(module, *args, **kwargs)

    nn.Module.__init__ = note
    try:
        with Operations() as operations:
            yield used
        used.update(name for name in operations.names if "conv" in name or "pool" in name)
    finally:
        nn.Module.__init__ = built


@contextmanager
def functions_run() -> Iterator[set[str]]:
    """Notes the functions that run while it is on, those of C as well, as ``module.name``.

    By what runs, and not by its name on the page, which may be another.
    """
    found: set[str] = set()

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "call":
            module, name = frame.f_globals.get("__name__") or "", frame.f_code.co_name
        elif event == "c_call":
            module, name = getattr(function, "__module__", None) or "", getattr(function, "__name__", "")
        else:
            return
        found.add(f"{module}.{name}" if module else name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def not_by_hand(network: nn.Module) -> str:
    """What to add to a "Right" for a class that the reader has only called: the book's, or torchvision's."""
    for part in network.modules():
        owner = next(cls for cls in type(part).__mro__ if "forward" in vars(cls))
        package = owner.__module__.split(".")[0]
        if package in ("resnetbook", "torchvision"):
            whose = "the book's" if package == "resnetbook" else "torchvision's"
            return f" But it is {whose} {owner.__name__} that computes here: write your own, from memory."
    return ""


def depends_on(block: nn.Module, x: Tensor) -> dict[nn.Conv2d, set[nn.Conv2d]]:
    """For each convolution that runs, those whose output goes into it, by way of whatever else."""
    inputs: dict[nn.Conv2d, Tensor] = {}

    def note(layer: nn.Module, args: tuple) -> None:
        if isinstance(layer, nn.Conv2d) and args:
            inputs[layer] = args[0]

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with torch.enable_grad():
            block(x)
    finally:
        handle.remove()
    found: dict[nn.Conv2d, set[nn.Conv2d]] = {}
    for layer, value in inputs.items():
        found[layer] = set()
        if value.requires_grad:
            others = [conv for conv in inputs if conv is not layer and conv.weight.requires_grad]
            weights = [conv.weight for conv in others]
            slopes = torch.autograd.grad(value.sum(), weights, retain_graph=True, allow_unused=True)
            found[layer] = {conv for conv, slope in zip(others, slopes, strict=True) if slope is not None}
    return found


def random_mode(network: nn.Module, x: Tensor) -> str | None:
    """What to say if the output depends on chance in one of the modes."""
    for mode in ("evaluation", "training"):
        network.train(mode == "training")
        states = []
        with torch.no_grad():
            states.append((torch.get_rng_state(), random.getstate()))
            outputs = network(x), network(x)
            states.append((torch.get_rng_state(), random.getstate()))
        # A coin may fall on the same side twice, but it has been thrown.
        drawn = not torch.equal(states[0][0], states[1][0]) or states[0][1] != states[1][1]
        if drawn or not same(*outputs):
            return (
                f"the output depends on chance in {mode} mode: something in it is random, like dropout. "
                "Leave it out."
            )
    return None


def kept_graph(network: nn.Module) -> str | None:
    """A tensor with its graph that the network has put away in an attribute."""
    for name, part in network.named_modules():
        for attribute, value in vars(part).items():
            held = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(v, Tensor) and v.grad_fn is not None for v in held):
                where = f"self.{name}.{attribute}" if name else f"self.{attribute}"
                return (
                    f"{where} keeps a result together with the whole computation that led to it, and so "
                    "holds the memory of a forward pass: use a local name, or .detach()."
                )
    return None


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


def hidden_method(module: nn.Module) -> str | None:
    """An attribute with the name of a method of nn.Module, which then cannot be called any more."""
    methods = [name for name in dir(nn.Module) if callable(getattr(nn.Module, name))]
    hidden = [n for part in module.modules() for n in methods if not callable(getattr(part, n))]
    return f"self.{hidden[0]} hides a method of nn.Module: choose another name for it." if hidden else None


def unusual_norm(norm: nn.BatchNorm2d) -> str | None:
    if norm.affine and norm.track_running_stats and (norm.eps, norm.momentum) == (1e-5, 0.1):
        return None
    return (
        f"{norm} has other settings than torchvision's: use nn.BatchNorm2d(channels) with its defaults (a "
        "Keras momentum of 0.9 is 0.1 here)."
    )


def same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool((first - second).abs().max() <= 1e-6 * (1 + second.abs().max()))  # False for nan


def measure(
    network: nn.Module, layers: list[tuple[nn.Module, ...]], x: Tensor, forward: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """All that can be seen of a network from outside; gradients only where they are enabled.

    Raises:
        CheckFailed: if autograd cannot go back.
    """
    found = {}
    parts = [part for together in layers for part in together]
    for mode in ("evaluation", "training"):
        network.train(mode == "training")
        network.zero_grad()
        leaf = x.clone().requires_grad_()
        out = forward(leaf * 1)  # inside a network the input of a block is no leaf either
        found[f"output in {mode} mode"] = out.detach().clone()
        if not torch.is_grad_enabled():
            continue
        # Any fixed direction will do to compare gradients, as long as no two of its numbers agree.
        direction = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape).sin()
        try:
            if out.requires_grad:
                (out * direction).sum().backward()
        except RuntimeError as error:
            raise CheckFailed(
                f"In {mode} mode, the backward pass stops with {error}. Something is changed in place that "
                "autograd still needs: write out = out + shortcut instead of out += shortcut after a ReLU."
            ) from error
        found[f"gradient in the input, in {mode} mode"] = _gradients([leaf])
        weights = [weight for part in parts for weight in part.parameters()]
        found[f"gradient in the weights, in {mode} mode"] = _gradients(weights)
    norms = [part for part in parts if isinstance(part, nn.BatchNorm2d)]
    statistics = [s.flatten() for norm in norms for s in (norm.running_mean, norm.running_var)]
    found["running statistics of the norms"] = torch.cat(statistics).clone()
    return found


def _gradients(tensors: list[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(t) if t.grad is None else t.grad).flatten() for t in tensors])


def explain_measured(key: str, given: Tensor, right: Tensor) -> str | None:
    """What a difference in one of the things measured points to, where it alone says so."""
    if given.shape != right.shape:
        return f"It has shape {tuple(given.shape)}, not {tuple(right.shape)}."
    if given.dtype != right.dtype:
        return f"It is {given.dtype} and the input {right.dtype}: let no .float() or .to() change the type."
    if key.startswith("gradient"):
        return (
            "The output is right, so something cuts the gradient: detach(), .data, no_grad() or "
            "requires_grad=False."
        )
    if key.startswith("running"):
        return "Let each norm see its input once in each forward pass, in the mode of the whole."
    return None
