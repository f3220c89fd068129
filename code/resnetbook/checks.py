"""Checks that readers run on their own code: a right solution says so, a wrong one names the mistake.

Every check raises :class:`CheckFailed`, an ``AssertionError``, whose message says what is wrong and
what to look at next. A check never says that something is right which it has not compared with a
trusted implementation.
"""

import copy
import functools
import io
import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, models, probes


class CheckFailed(AssertionError):
    """The reader's solution is not right yet; the message names the mistake and a next step."""


def _exercise(check: Callable[[Callable], str]) -> Callable[[Callable], None]:
    """Let a check, which returns what it has compared, say "Right", or that nothing is there yet."""

    @functools.wraps(check)
    def run(solution: Callable) -> None:
        try:
            with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers stay as they were
                compared = check(solution)
        except NotImplementedError:
            # Not an error: a notebook whose exercises are untouched still runs to its end.
            print("Not done yet: replace `raise NotImplementedError`, then run this again.")
        else:
            print(f"Right: {compared}")

    return run


def _call(solution: Callable, *arguments: object, describe: str) -> object:
    """What the reader's code returns; its errors become a :class:`CheckFailed` that quotes them."""
    try:
        return solution(*arguments)
    except (NotImplementedError, CheckFailed):
        raise
    except Exception as error:  # whatever it is, it is the reader's, and the message must say where
        raise CheckFailed(f"{describe} raises {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------------------------
# Chapter 4: the reader's blocks. A block is judged by what it computes, next to the book's own block
# with the same weights; how it is built is only looked at to find its weights and to explain a mistake.


@dataclass(frozen=True)
class _Case:
    """One block to build, and the height and width of the maps to feed it with."""

    in_channels: int
    out_channels: int
    stride: int = 1
    size: tuple[int, int] = (6, 6)

    def __str__(self) -> str:
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}, stride={self.stride}"

    @property
    def batch_size(self) -> int:
        return 2 + self.in_channels % 3  # not always the same

    @property
    def changes_shape(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def output_size(self) -> tuple[int, int]:
        return tuple(-(-n // self.stride) for n in self.size)  # rounded up


@dataclass(frozen=True)
class _Kind:
    """What a kind of block is expected to look like."""

    trusted: type[nn.Module]
    kernels: tuple[int, ...]
    cases: tuple[_Case, ...]

    def width(self, case: _Case) -> int:
        return case.out_channels // self.trusted.expansion

    def channels(self, case: _Case) -> list[tuple[int, int]]:
        """Input and output channels of each convolution of F."""
        width = self.width(case)
        inner = [case.in_channels] + [width] * (len(self.kernels) - 1) + [case.out_channels]
        return list(itertools.pairwise(inner))

    def strides(self, case: _Case) -> list[list[int]]:
        """Where the stride may stand: on the first convolution, in a bottleneck also on the 3×3."""
        places = (0,) if self.trusted is blocks.BasicBlock else (0, 1)
        return [[case.stride if i == place else 1 for i in range(len(self.kernels))] for place in places]


# Few channels and many, odd sizes, new channels without a stride, a stride without new channels.
_BASIC = _Kind(
    blocks.BasicBlock,
    (3, 3),
    (
        _Case(8, 8),
        _Case(8, 16, 2),
        _Case(12, 12, 2),
        _Case(6, 12, 1, (5, 4)),
        _Case(5, 10, 2, (7, 5)),
        _Case(16, 16, 1, (1, 3)),
        _Case(8, 8, 3, (7, 8)),
        _Case(96, 96, 1, (4, 4)),
        _Case(64, 128, 2, (8, 8)),
        _Case(256, 512, 2, (3, 2)),
    ),
)
_BOTTLENECK = _Kind(
    blocks.Bottleneck,
    (1, 3, 1),
    (
        _Case(32, 32),
        _Case(32, 64, 2),
        _Case(24, 24, 2),
        _Case(12, 48, 1, (5, 4)),  # as in conv2_x, the input has the width of the 3×3 convolution
        _Case(20, 40, 2, (7, 5)),
        _Case(16, 16, 1, (1, 3)),
        _Case(16, 16, 3, (7, 8)),
        _Case(256, 256, 1, (4, 4)),
        _Case(256, 512, 2, (8, 8)),
        _Case(512, 1024, 2, (3, 2)),
    ),
)


class _LayerCall(NamedTuple):
    """A layer that ran, with copies of what went in and what came out."""

    layer: nn.Module
    input: Tensor
    output: Tensor


@contextmanager
def _watched() -> Iterator[list[_LayerCall]]:
    """Note every layer that runs, in order, also those that no module has registered."""
    calls: list[_LayerCall] = []

    def note(layer: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if inputs and isinstance(output, Tensor) and not list(layer.children()):
            calls.append(_LayerCall(layer, inputs[0].detach().clone(), output.detach().clone()))

    handle = nn.modules.module.register_module_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _kernel(conv: nn.Conv2d) -> str:
    return "×".join(map(str, conv.kernel_size))


def _ran(calls: list[_LayerCall], kind: type[nn.Module]) -> list[_LayerCall]:
    return [call for call in calls if isinstance(call.layer, kind)]


class _Layer(NamedTuple):
    """A convolution that ran, and the batch norm that followed it, if one did."""

    call: _LayerCall
    norm: nn.BatchNorm2d | None

    @property
    def conv(self) -> nn.Conv2d:
        return self.call.layer


def _layers(calls: list[_LayerCall]) -> tuple[list[_Layer], list[_LayerCall]]:
    """Each convolution with its norm, in the order in which they ran; and the norms left over."""
    found: list[_Layer] = []
    left_over = []
    for call in calls:
        if isinstance(call.layer, nn.Conv2d):
            found.append(_Layer(call, None))
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


def _split(layers: list[_Layer], x: Tensor, case: _Case) -> tuple[list[_Layer], list[_Layer]]:
    """The convolutions of F, and those of the shortcut: 1×1, from the block's input to out_channels."""
    seen = (x, x[:, :, :: case.stride, :: case.stride])
    heads = [layer for layer in layers if any(torch.equal(layer.call.input, y) for y in seen)]
    shortcut = [
        layer
        for layer in heads
        if layer.conv.kernel_size == (1, 1) and layer.conv.out_channels == case.out_channels
    ]
    if len(shortcut) == len(heads):
        shortcut = shortcut[1:]  # F must begin somewhere
    return [layer for layer in layers if layer not in shortcut], shortcut


def _new_block(cls: Callable[..., nn.Module], case: _Case) -> nn.Module:
    """The reader's block for a case, or a message that says why there is none."""
    options = {} if case.stride == 1 else {"stride": case.stride}  # stride=1 is the default
    try:
        make = functools.partial(cls, **options)
        block = _call(make, case.in_channels, case.out_channels, describe=f"Building the block ({case})")
    except CheckFailed as failed:
        error = failed.__cause__
        advice = ""
        if isinstance(error, TypeError) and "argument" in str(error):
            advice = " The constructor must accept (in_channels, out_channels, stride=1)."
        elif "before Module.__init__()" in str(error):
            advice = " Call super().__init__() first of all."
        raise CheckFailed(f"{failed}.{advice}") from error
    if not isinstance(block, nn.Module):
        raise CheckFailed(
            f"Building the block gives {type(block).__name__}; derive your class from nn.Module."
        )
    if type(block).forward is nn.Module.forward:
        raise CheckFailed("Your class has no method forward(self, x): check its name and its indentation.")
    return block


def _wrong_wiring(kind: _Kind, case: _Case, block: nn.Module, calls: list[_LayerCall]) -> str | None:
    """Mistakes with layers that hold whatever the block computes."""
    own = list(block.modules())
    learned = [call.layer for call in calls if isinstance(call.layer, nn.Conv2d | nn.BatchNorm2d)]
    for layer in learned:
        what = f"{_kernel(layer)} convolution" if isinstance(layer, nn.Conv2d) else "batch norm"
        if not any(layer is module for module in own):
            return (
                f"a {what} runs that is not registered, so parameters() misses it and it never learns: make "
                "it an attribute in __init__, and use nn.ModuleList or nn.Sequential instead of a Python "
                "list."
            )
        if sum(layer is other for other in learned) > 1:
            return (
                f"one {what} is used twice, so two places share its numbers: create a second one in __init__."
            )
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            return (
                f"the {what} has a bias. Batch norm subtracts the mean right after it, bias included: set "
                "bias=False."
            )
    return None


def _wrong_leftovers(case: _Case, block: nn.Module, calls: list[_LayerCall]) -> str | None:
    """A layer that is registered and never runs."""
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and not any(call.layer is module for call in calls):
            reason = (
                ""
                if case.changes_shape
                else " Where the shape stays, the shortcut is the identity, without parameters."
            )
            return (
                f"self.{name} is created and never runs, but counts as parameters. Use it in forward, by "
                f"calling it, or do not create it.{reason}"
            )
    return None


def _wrong_convolutions(kind: _Kind, case: _Case, chain: list[_Layer], x: Tensor) -> str | None:
    """Mistakes in which convolutions F has: then its weights cannot be copied."""
    kernels = [_kernel(layer.conv) for layer in chain]
    wanted = [f"{k}×{k}" for k in kind.kernels]
    if kernels != wanted:
        said = (
            f"F must run {', '.join(wanted)} convolutions in this order; yours runs "
            f"{', '.join(kernels) or 'none'}."
        )
        if sorted(kernels) == sorted(wanted):
            return said + " They are swapped: the 3×3 stands in the middle, where the channels are few."
        if not chain:
            return said + " Build them from nn.Conv2d, and call them in forward."
        extra = [layer for layer in chain[1:] if torch.equal(layer.call.input, x)]
        if extra and case.changes_shape:
            return said + " A projection on the shortcut is a 1×1 convolution to out_channels."
        return said
    width = kind.width(case)
    for i, (layer, (c_in, c_out)) in enumerate(zip(chain, kind.channels(case), strict=True)):
        conv = layer.conv
        if (conv.in_channels, conv.out_channels) == (c_in, c_out) and conv.groups == 1:
            continue
        if conv.groups != 1:
            return (
                f"convolution {i + 1} of F has groups={conv.groups}: leave groups out, so that channels mix."
            )
        said = (
            f"convolution {i + 1} of F must map {c_in} to {c_out} channels; yours maps {conv.in_channels} to "
            f"{conv.out_channels}. "
        )
        if kind is _BOTTLENECK and chain[2].conv.out_channels == 4 * case.out_channels:
            return said + (
                "out_channels is what comes out of the block; the width inside is a quarter of it, "
                "out_channels // 4."
            )
        if kind is _BOTTLENECK and chain[1].conv.in_channels == case.out_channels:
            return said + f"The expansion is forgotten: the 3×3 works at width out_channels // 4 = {width}."
        if kind is _BOTTLENECK and chain[1].conv.in_channels == case.in_channels // 4:
            return said + "The wrong width: it is out_channels // 4, whatever comes in."
        return said + "Check its channels."
    return None


def _wrong_norms(
    case: _Case, chain: list[_Layer], shortcut: list[_Layer], left_over: list[_LayerCall], x: Tensor
) -> str | None:
    """Mistakes in which norms there are, and a projection where none belongs."""
    if any(torch.equal(call.input, x) for call in left_over):
        return (
            "a batch norm comes before its convolution: that is the pre-activation block (v2). Here the "
            "order is "
            "convolution, norm, ReLU."
        )
    if len(shortcut) > 1 or (shortcut and not case.changes_shape):
        return (
            "there is a projection where none is needed (option C). Where input and output have the same "
            "shape, the shortcut is the identity; build the projection only if stride != 1 or the channels "
            "change."
        )
    for i, layer in enumerate(chain):
        if layer.norm is None:
            where = "the last convolution" if i == len(chain) - 1 else f"convolution {i + 1}"
            return (
                f"a batch norm is missing after {where} of F: each convolution has a BatchNorm2d of its own."
            )
    for layer in shortcut:
        if layer.norm is None:
            return "the projection is not normalized: a BatchNorm2d follows its 1×1 convolution."
    if left_over:
        return "there is a batch norm too many: one follows each convolution, and nothing else."
    for layer in chain + shortcut:
        norm = layer.norm
        if not norm.affine or not norm.track_running_stats or (norm.eps, norm.momentum) != (1e-5, 0.1):
            return (
                f"{norm} has other settings than torchvision's: use nn.BatchNorm2d(channels) with its "
                "defaults "
                "(a Keras momentum of 0.9 is 0.1 here)."
            )
    return None


def _wrong_settings(kind: _Kind, case: _Case, chain: list[_Layer], shortcut: list[_Layer]) -> str | None:
    """Mistakes with strides and paddings. Only asked for when the block is known to be wrong."""
    given = [layer.conv.stride[0] for layer in chain]
    allowed = kind.strides(case)
    if given not in allowed:
        total = math.prod(given)
        if case.stride == 1:
            return f"the stride is ignored: stride=1 is asked for, and the convolutions of F have {given}."
        if total == 1:
            said = (
                f"the stride is never applied in F: stride={case.stride} is asked for, and its convolutions "
                f"have {given}."
            )
            return said + (
                " To shrink the map, give the stride to a convolution; no pooling and no cutting are needed."
            )
        if sum(stride != 1 for stride in given) > 1:
            return (
                f"the stride is applied twice: the convolutions of F have {given}; only one may shrink the "
                "map."
            )
        if total != case.stride:
            return (
                f"the stride is ignored: stride={case.stride} is asked for, and the convolutions of F have "
                f"{given}."
            )
        place = next(i for i, stride in enumerate(given) if stride != 1) + 1
        right = "the first one" if kind is _BASIC else "the 3×3 (torchvision) or the first 1×1 (the paper)"
        which = ("first", "second", "last")[place - 1]
        return f"the stride is on the {which} convolution of F; it belongs on {right}."
    for layer in shortcut:
        if layer.conv.stride[0] != case.stride:
            return (
                f"the projection has stride {layer.conv.stride[0]}; it needs the block's stride, "
                f"{case.stride}."
            )
    for layer in chain + shortcut:
        conv = layer.conv
        right = conv.kernel_size[0] // 2
        if conv.padding not in ((right, right), "same") and not (conv.padding == "valid" and right == 0):
            return (
                f"wrong padding: a {_kernel(conv)} convolution needs padding={right}, yours has "
                f"{conv.padding}."
            )
        if set(conv.dilation) != {1} or conv.padding_mode != "zeros":
            return f"unusual settings: {conv}. Leave dilation and padding_mode out."
    return None


def _explain_crash(kind: _Kind, case: _Case, block: nn.Module, calls: list[_LayerCall], x: Tensor) -> str:
    """What may have led to an error inside forward: a guess from the layers, to stand behind the error."""
    layers, _ = _layers(calls)
    chain, shortcut = _split(layers, x, case)
    # As many as F itself has of that shape, and one more for the projection.
    of_that_shape = [
        module
        for module in block.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and (module.in_channels, module.out_channels) == (case.in_channels, case.out_channels)
    ]
    inside = list(zip(kind.kernels, kind.channels(case), strict=True))
    expected = 1 + inside.count((1, (case.in_channels, case.out_channels)))
    if wiring := _wrong_wiring(kind, case, block, calls):
        return f"Besides, {wiring}"
    if case.changes_shape and len(of_that_shape) < expected and not shortcut and chain:
        return (
            "Input and output differ in shape here, and your block has no projection that makes them fit: "
            "create a 1×1 convolution with the block's stride, and its norm, whenever stride != 1 or "
            "in_channels != out_channels. See that nothing overwrites it with None."
        )
    if len(chain) >= len(kind.kernels):
        problem = _wrong_convolutions(kind, case, chain, x) or _wrong_settings(kind, case, chain, shortcut)
        if problem:
            return f"Look here: {problem}"
    return "Follow the shapes through forward, layer by layer."


def _forward(kind: _Kind, case: _Case, block: nn.Module, x: Tensor, calls: list[_LayerCall]) -> Tensor:
    """The output of the reader's block; an error becomes a message, and so does what is no Tensor."""
    try:
        out = _call(block, x, describe=f"forward ({case}, input {tuple(x.shape)})")
    except CheckFailed as failed:
        raise CheckFailed(f"{failed}. {_explain_crash(kind, case, block, calls, x)}") from failed.__cause__
    if not isinstance(out, Tensor):
        raise CheckFailed(f"forward gives {type(out).__name__}, not a Tensor: does it end with `return`?")
    return out


def _randomize(layers: list[_Layer], generator: torch.Generator) -> None:
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


class _Rolled(nn.Module):
    """Zero padding with the new channels elsewhere: in front, or half on each side."""

    def __init__(self, padding: nn.Module, shift: int) -> None:
        super().__init__()
        self.padding, self.shift = padding, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.padding(x), self.shift, dims=1)


def _trusted_blocks(kind: _Kind, case: _Case, chain: list[_Layer], shortcut: list[_Layer]) -> list[nn.Module]:
    """The book's blocks that the reader's may equal, with the reader's weights.

    More than one, because the paper leaves open where a zero padding stands, and because the stride of
    a bottleneck may be on either of two convolutions.
    """
    shape = (case.in_channels, case.out_channels, case.stride)
    option = "B" if shortcut else "A"
    places = ({},) if kind is _BASIC else ({"stride_on": "3x3"}, {"stride_on": "1x1"})
    found = [kind.trusted(*shape, shortcut=option, **place) for place in places]
    new = case.out_channels - case.in_channels
    if option == "A" and new > 0:
        for shift, block in itertools.product({new, new // 2}, list(found)):
            rolled = copy.deepcopy(block)
            rolled.downsample = _Rolled(rolled.downsample, shift)
            found.append(rolled)
    for block in found:
        for (conv, norm), layer in zip(_trusted_layers(block), chain + shortcut, strict=True):
            conv.load_state_dict(layer.conv.state_dict())
            norm.load_state_dict(layer.norm.state_dict())
        block.double()
    return found


def _trusted_layers(block: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and norms of F, then those of the projection, if there is one."""
    names = ("1", "2", "3") if isinstance(block, blocks.Bottleneck) else ("1", "2")
    pairs = [(getattr(block, f"conv{n}"), getattr(block, f"bn{n}")) for n in names]
    return pairs + ([tuple(block.downsample)] if isinstance(block.downsample, nn.Sequential) else [])


def _measure(
    block: nn.Module,
    layers: list[tuple[nn.Conv2d, nn.BatchNorm2d]],
    x: Tensor,
    forward: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """All that can be seen of a block from outside: outputs, gradients, running statistics."""
    found = {}
    for mode in ("evaluation", "training"):
        block.train(mode == "training")
        block.zero_grad()
        leaf = x.clone().requires_grad_()
        out = forward(leaf * 1)  # inside a network the input of a block is no leaf either
        found[f"output in {mode} mode"] = out.detach().clone()
        # Any fixed direction will do to compare gradients, as long as no two of its numbers agree.
        direction = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape).sin()
        if out.requires_grad:
            (out * direction).sum().backward()
        found[f"gradient in the input, in {mode} mode"] = _gradients([leaf])
        weights = [p for conv, norm in layers for p in (conv.weight, norm.weight, norm.bias)]
        found[f"gradient in the weights, in {mode} mode"] = _gradients(weights)
    statistics = [s.flatten() for _, norm in layers for s in (norm.running_mean, norm.running_var)]
    found["running statistics of the norms"] = torch.cat(statistics).clone()
    return found


def _gradients(tensors: list[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(t) if t.grad is None else t.grad).flatten() for t in tensors])


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= 1e-6 * (1 + second.abs().max()))  # False for nan


_MISTAKES = {
    "never": "the skip is never added: add the shortcut to F(x) before the last ReLU.",
    "no last ReLU": "there is no ReLU at the end: it comes after the addition.",
    "after": "the skip is added after the last ReLU: add it first, then apply ReLU to the sum.",
    "early ReLU": (
        "there is an extra ReLU before the addition, so F(x) cannot be negative: the last norm is followed "
        "by "
        "the addition, and one ReLU after it."
    ),
    "no ReLU 0": "the ReLU is missing between the first and the second convolution.",
    "no ReLU 1": "the ReLU is missing between the second and the last convolution.",
    "no ReLU inside": "the ReLU is missing between the convolutions of F.",
    "minus": "the shortcut is subtracted; it must be added.",
    "reversed": "F(x) is subtracted from the shortcut; both must be added.",
    "times": "F(x) and the shortcut are multiplied; they must be added.",
    "maximum": "the larger of F(x) and the shortcut is taken; they must be added.",
    "twice": "the shortcut is added twice.",
    "half": "the mean of F(x) and the shortcut is taken; it must be their sum.",
    "ReLU on skip": "a ReLU is applied to the shortcut: x is added as it is.",
    "overwritten": (
        "what is added is not the block's input but what the first convolution made of it: forward "
        "overwrites "
        "x. Keep the input under a name of its own."
    ),
    "doubled": "F(x) is added to itself: forward overwrites x. Keep the input under a name of its own.",
    "norm after": "the last batch norm comes after the addition; it belongs before it.",
    "ReLU before norm": "ReLU comes before the batch norm; the order is convolution, norm, ReLU.",
}


def _mistaken(block: nn.Module, x: Tensor, mistakes: tuple[str, ...]) -> Tensor:
    """What the block would put out if it had been built with these mistakes, in evaluation mode."""
    pairs = _trusted_layers(block)
    pairs = pairs[: 3 if isinstance(block, blocks.Bottleneck) else 2]
    shortcut = block.downsample(x)
    out = x
    for i, (conv, norm) in enumerate(pairs):
        out = conv(out)
        last = i == len(pairs) - 1
        if last:
            break
        if "ReLU before norm" in mistakes:
            out = norm(F.relu(out))
            continue
        out = norm(out)
        if not {f"no ReLU {i}", "no ReLU inside"} & set(mistakes):
            out = F.relu(out)
        if i == 0 and "overwritten" in mistakes:
            shortcut = out
    if "ReLU on skip" in mistakes:
        shortcut = F.relu(shortcut)
    if "norm after" in mistakes:
        out = norm(out + shortcut)
    else:
        out = norm(out)
        if {"early ReLU", "after"} & set(mistakes):
            out = F.relu(out)
        joined = {
            "never": lambda: out,
            "minus": lambda: out - shortcut,
            "reversed": lambda: shortcut - out,
            "times": lambda: out * shortcut,
            "maximum": lambda: torch.maximum(out, shortcut),
            "twice": lambda: out + 2 * shortcut,
            "half": lambda: (out + shortcut) / 2,
            "doubled": lambda: 2 * out,
        }
        out = next((joined[m] for m in mistakes if m in joined), lambda: out + shortcut)()
    return out if {"no last ReLU", "after"} & set(mistakes) else F.relu(out)


def _explain_output(trusted: nn.Module, x: Tensor, output: Tensor) -> str | None:
    """The mistake, or the two mistakes, that would give just this output in evaluation mode."""
    trusted.eval()
    with torch.no_grad():
        for number in (1, 2):
            for mistakes in itertools.combinations(_MISTAKES, number):
                try:
                    guess = _mistaken(trusted, x, mistakes)
                except RuntimeError:
                    continue  # shapes that do not fit: not this mistake
                if _same(output, guess):
                    return " And ".join(_MISTAKES[mistake] for mistake in mistakes)
    return None


_RANDOM = (
    "the output depends on chance in {} mode: something in the block is random, like dropout. Leave it out."
)


def _random_mode(block: nn.Module, x: Tensor) -> str | None:
    """The mode in which the block's output depends on chance, if there is one."""
    for mode in ("evaluation", "training"):
        block.train(mode == "training")
        states = []
        with torch.no_grad():
            states.append((torch.get_rng_state(), random.getstate()))
            outputs = block(x), block(x)
            states.append((torch.get_rng_state(), random.getstate()))
        # A coin may fall on the same side twice, but it has been thrown.
        drawn = not torch.equal(states[0][0], states[1][0]) or states[0][1] != states[1][1]
        if drawn or not _same(*outputs):
            return mode
    return None


def _explain(
    kind: _Kind,
    case: _Case,
    block: nn.Module,
    calls: list[_LayerCall],
    layers: tuple[list[_Layer], list[_Layer]],
    references: list[nn.Module],
    x: Tensor,
    given: dict[str, Tensor],
    different: str,
) -> str:
    """Why a block differs from the trusted ones: settings, further layers, known mistakes, or only where."""
    if problem := _wrong_settings(kind, case, *layers):
        return problem
    usual = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity)
    strange = {type(call.layer).__name__: None for call in calls if not isinstance(call.layer, usual)}
    if strange:
        return (
            f"it also runs {', '.join(strange)}, which this block does not have. It needs only convolutions, "
            "batch norms, ReLU and one addition."
        )
    if mode := _random_mode(block, x):
        return _RANDOM.format(mode)
    if different == "output in evaluation mode":
        for reference in references:
            if mistake := _explain_output(reference, x, given[different]):
                return mistake
    said = f"the {different} is not that of the book's block with the same weights. "
    if different.startswith("gradient"):
        return said + "The output is right, so something cuts the gradient: detach(), .data or no_grad()."
    if different == "output in training mode":
        return (
            said + "In evaluation mode it is right: look for what depends on self.training, or for dropout."
        )
    if different.startswith("running"):
        return said + "Let each norm see its input once in each forward pass, in the mode of the block."
    if case.changes_shape and not layers[1]:
        return (
            said + "The shortcut has no projection, so it must be option A: every stride-th pixel, "
            "x[:, :, ::stride, ::stride], and zeros for the new channels."
        )
    return said + "Compare your forward with the diagram, arrow by arrow."


def _shape_problem(kind: _Kind, case: _Case, out: Tensor, chain: list[_Layer], shortcut: list[_Layer]) -> str:
    channels = out.shape[1] if out.dim() == 4 else None
    if channels in (2 * case.out_channels, case.in_channels + case.out_channels):
        return "F(x) and the shortcut are concatenated; they must be added, number by number."
    return (
        _wrong_settings(kind, case, chain, shortcut) or "Follow the shapes through forward, layer by layer."
    )


def _check_case(kind: _Kind, case: _Case, cls: Callable[..., nn.Module], generator: torch.Generator) -> str:
    """Compare the reader's block with the trusted one in one case; returns the shortcut's option."""
    block = _new_block(cls, case)
    # Large numbers of both signs: small ones would not tell ReLU from an activation that levels off.
    x = 3 * torch.randn(case.batch_size, case.in_channels, *case.size, generator=generator)
    before = x.clone()
    with _watched() as calls, torch.no_grad():
        out = _forward(kind, case, block, x, calls)

    def fail(message: str | None) -> None:
        if message:
            raise CheckFailed(f"With {case}: {message}")

    if not torch.equal(x, before):
        fail(
            "forward changes its own input in place, which others still need: no x += …, and no "
            "nn.ReLU(inplace=True) on x itself."
        )
    found, left_over = _layers(calls)
    chain, shortcut = _split(found, x, case)
    fail(_wrong_wiring(kind, case, block, calls))
    fail(_wrong_leftovers(case, block, calls))
    shape = (case.batch_size, case.out_channels, *case.output_size)
    fail(_wrong_convolutions(kind, case, chain, x))
    if tuple(out.shape) != shape:
        problem = _shape_problem(kind, case, out, chain, shortcut)
        fail(f"the wrong shape comes out: {tuple(out.shape)}, not {shape}. {problem}")
    fail(_wrong_norms(case, chain, shortcut, left_over, x))

    layers = chain + shortcut
    _randomize(layers, generator)
    references = _trusted_blocks(kind, case, chain, shortcut)
    if (count := probes.count_parameters(block)) != (right := probes.count_parameters(references[0])):
        fail(f"the block has {count:,} parameters, not {right:,}: find and remove what does not belong.")
    block.double()
    x = x.double()
    before = x.clone()
    names = [(layer.conv, layer.norm) for layer in layers]
    try:
        given = _measure(block, names, x, lambda y: _forward(kind, case, block, y, []))
    except RuntimeError as error:  # autograd's own complaints; those of forward are dealt with already
        raise CheckFailed(
            f"With {case}: the backward pass stops with {error}. Something is changed in place that autograd "
            "still needs: write out = out + shortcut instead of out += shortcut after a ReLU."
        ) from error
    differing = []
    for reference in references:
        fresh = copy.deepcopy(reference)  # measuring moves the running statistics
        right = _measure(fresh, _trusted_layers(fresh), x, fresh)
        differing.append(next((key for key in right if not _same(given[key], right[key])), None))
    if None not in differing:
        # Explain next to the reference that agrees with the block the longest.
        keys = list(given)
        last = max(differing, key=keys.index)
        fail(_explain(kind, case, block, calls, (chain, shortcut), references, x, given, last))
    if mode := _random_mode(block, x):
        fail(_RANDOM.format(mode))
    return "" if not case.changes_shape else "B" if shortcut else "A"


def _check_block(cls: Callable[..., nn.Module], kind: _Kind) -> str:
    """Compare the reader's block with the trusted one in every case, and say what was compared."""
    name = kind.trusted.__name__
    if cls is None:
        raise CheckFailed(
            "The check got None: give it your class itself, as in checks.residual_block(MyBlock)."
        )
    if isinstance(cls, nn.Module):
        raise CheckFailed(
            f"The check got a block that is already built: give it the class, {type(cls).__name__}, without "
            "parentheses."
        )
    if not callable(cls):
        raise CheckFailed(f"The check got {cls!r}: give it your class.")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    printed = io.StringIO()
    options = set()
    try:
        with redirect_stdout(printed), torch.enable_grad():
            for i, case in enumerate(kind.cases):
                try:
                    options.add(_check_case(kind, case, cls, generator))
                except NotImplementedError as error:
                    if i == 0:
                        raise  # not begun
                    raise CheckFailed(
                        f"With {case}: NotImplementedError. This case is still to be done."
                    ) from error
    finally:
        print(printed.getvalue()[:1000], end="")
    if printed.getvalue():
        raise CheckFailed(
            f"The block computes the right thing, but it prints {printed.getvalue().splitlines()[0]!r} on "
            "the way: "
            "remove the forgotten print, or every training step will repeat it."
        )
    used = {"A": "zero padding (option A)", "B": "a projection (option B)"}
    shortcuts = " or ".join(used[option] for option in sorted(options - {""}))
    return (
        f"with the same weights your block and the book's {name} agree in {len(kind.cases)} cases, in "
        "training and "
        "in evaluation mode: outputs, gradients and running statistics. Where shapes change, it uses "
        f"{shortcuts}."
    )


@_exercise
def residual_block(solution: Callable[..., nn.Module]) -> str:
    """Check a basic block, ``solution(in_channels, out_channels, stride=1)``.

    It is compared with :class:`resnetbook.blocks.BasicBlock` under copied random weights. Where the
    shape changes, the shortcut may be a projection (option B) or zero padding (option A).

    Raises:
        CheckFailed: if the block differs, naming the mistake where it is a known one.
    """
    return _check_block(solution, _BASIC)


@_exercise
def bottleneck(solution: Callable[..., nn.Module]) -> str:
    """Check a bottleneck block, ``solution(in_channels, out_channels, stride=1)``.

    ``out_channels`` is what comes out; the 3×3 convolution works at a quarter of it. The stride may be
    on the 3×3 (torchvision) or on the first 1×1 (the paper). Compared as :func:`residual_block` does.

    Raises:
        CheckFailed: if the block differs, naming the mistake where it is a known one.
    """
    return _check_block(solution, _BOTTLENECK)


def _compare_counts(
    solution: Callable[..., int],
    name: str,
    cases: tuple[tuple, ...],
    trusted: Callable[..., int],
    mistakes: tuple[tuple[Callable[..., int], str], ...],
) -> None:
    """Compare whole numbers in every case; a mistake is named if it gives the reader's numbers in all.

    Raises:
        CheckFailed: if a number differs.
    """
    given = []
    for i, case in enumerate(cases):
        call = f"{name}{case}"
        try:
            answer = _call(solution, *case, describe=call)
        except NotImplementedError as error:
            if i == 0:
                raise
            raise CheckFailed(f"{call} raises NotImplementedError: this case is still to be done.") from error
        if answer is None:
            raise CheckFailed(f"{call} gives None: does the function end with `return`?")
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise CheckFailed(f"{call} gives {answer!r}: a count is a whole number; divide with //.")
        given.append(answer)
    right = [trusted(*case) for case in cases]
    for case, answer, count in zip(cases, given, right, strict=True):
        if answer != count:
            said = f"{name}{case} gives {answer:,}, and it is {count:,}. "
            for mistake, message in mistakes:
                if given == [mistake(*c) for c in cases]:
                    raise CheckFailed(said + message)
            raise CheckFailed(said + "Write down each layer with its numbers, and add them up again.")


def _basic_formula(
    c_in: int,
    c_out: int,
    stride: int = 1,
    *,
    norms: int = 2,
    biases: int = 0,
    projection: str = "where",
    kernel: int = 9,
) -> int:
    """Parameters of a basic block; the options make the mistakes that are named below."""
    needed = {
        "where": stride != 1 or c_in != c_out,
        "stride": stride != 1,
        "channels": c_in != c_out,
        "always": True,
        "never": False,
    }[projection]
    layers = [(c_in, kernel), (c_out, kernel)] + [(c_in, 1)] * needed
    return sum(k * c * c_out + (norms + biases) * c_out for c, k in layers)


@_exercise
def basic_parameters(solution: Callable[[int, int, int], int]) -> str:
    """Check ``basic_parameters(in_channels, out_channels, stride)``: all parameters of a basic block.

    Raises:
        CheckFailed: if a count is not that of :class:`resnetbook.blocks.BasicBlock`.
    """
    cases = ((64, 64, 1), (64, 128, 2), (128, 128, 2), (8, 16, 1), (3, 5, 3))
    formula = functools.partial
    _compare_counts(
        solution,
        "basic_parameters",
        cases,
        lambda *case: probes.count_parameters(blocks.BasicBlock(*case)),
        (
            (
                formula(_basic_formula, norms=0),
                "The batch norms are missing: a scale and a shift for each channel.",
            ),
            (
                formula(_basic_formula, norms=1),
                "A batch norm learns two numbers for each channel, a scale and a shift.",
            ),
            (
                formula(_basic_formula, norms=4),
                "Running statistics are not learned, so they are no parameters.",
            ),
            (
                formula(_basic_formula, biases=1),
                "These convolutions have no bias: batch norm would subtract it again.",
            ),
            (
                formula(_basic_formula, projection="never"),
                "Where the shape changes there is a projection, with its norm.",
            ),
            (
                formula(_basic_formula, projection="always"),
                "Where the shape stays, the shortcut has no parameters.",
            ),
            (
                formula(_basic_formula, projection="stride"),
                "New channels need a projection too, also at stride 1.",
            ),
            (
                formula(_basic_formula, projection="channels"),
                "A stride needs a projection too, also with equal channels.",
            ),
            (
                lambda i, o, s=1: _basic_formula(i, o, s) - 2 * o * (s != 1 or i != o),
                "The projection has a batch norm as well.",
            ),
            (
                lambda i, o, s=1: _basic_formula(i, o, s) - 9 * i * o + 9 * o * o,
                "The first convolution reads in_channels, not out_channels.",
            ),
            (
                lambda i, o, s=1: _basic_formula(i, o, s) - 9 * o * o + 9 * i * o,
                "The second convolution reads what the first one put out: out_channels.",
            ),
            (formula(_basic_formula, kernel=3), "A 3×3 filter has nine weights for each input channel."),
        ),
    )
    return f"the counts are the module's in {len(cases)} cases, with and without a projection."


def _bottleneck_weights(width: int) -> int:
    """Convolution weights of a bottleneck with the given width inside and 4 · width outside."""
    convs = _trusted_layers(blocks.Bottleneck(4 * width, 4 * width))
    return sum(conv.weight.numel() for conv, _ in convs)


@_exercise
def equal_cost_channels(solution: Callable[[int], int]) -> str:
    """Check ``equal_cost_channels(width)``: the widest bottleneck for the price of two 3×3 convolutions.

    Raises:
        CheckFailed: if an answer is not a multiple of 4, too dear, or smaller than it could be.
    """
    widths = (64, 128, 1, 7, 512, 1000)
    with torch.device("meta"):
        for i, width in enumerate(widths):
            call = f"equal_cost_channels({width})"
            try:
                channels = _call(solution, width, describe=call)
            except NotImplementedError as error:
                if i == 0:
                    raise
                raise CheckFailed(
                    f"{call} raises NotImplementedError: this case is still to be done."
                ) from error
            if isinstance(channels, bool) or not isinstance(channels, int):
                raise CheckFailed(f"{call} gives {channels!r}: the number of channels is a whole number.")
            if channels < 4 or channels % 4:
                raise CheckFailed(f"{call} gives {channels}: out_channels is a multiple of 4, from 4 up.")
            if channels == 4 * width and width > 63:
                raise CheckFailed(
                    f"{call} gives {channels}: near, and the paper's choice, but a little more fits."
                )
            budget = sum(conv.weight.numel() for conv, _ in _trusted_layers(blocks.BasicBlock(width, width)))
            cost, next_cost = _bottleneck_weights(channels // 4), _bottleneck_weights(channels // 4 + 1)
            if cost > budget:
                raise CheckFailed(
                    f"{call} gives {channels}: that bottleneck has {cost:,} weights, two 3×3 at width "
                    f"{width} only "
                    f"{budget:,}. Round down, to a multiple of 4."
                )
            if next_cost <= budget:
                raise CheckFailed(
                    f"{call} gives {channels}, but {channels + 4} channels still fit: {next_cost:,} of "
                    f"{budget:,} weights."
                )
    return f"counted on the modules for the widths {', '.join(map(str, widths))}: no wider bottleneck fits."


def _bottleneck_macs(
    c_in: int,
    c_out: int,
    stride: int,
    side: int,
    stride_on: str,
    *,
    projection: str = "where",
    sizes: str = "right",
    round_down: bool = False,
    factor: int = 1,
) -> int:
    """Multiply-adds of a bottleneck; the options make the mistakes that are named below."""
    width, small = c_out // 4, side // stride if round_down else -(-side // stride)
    first = small if stride_on == "1x1" else side
    if sizes == "input":
        first = small = side
    elif sizes == "output":
        first = small
    elif sizes == "swapped":
        first = side if stride_on == "1x1" else small
    count = c_in * width * first**2 + 9 * width**2 * small**2 + width * c_out * small**2
    if projection == "where" and (stride != 1 or c_in != c_out):
        count += c_in * c_out * small**2
    elif projection == "always":
        count += c_in * c_out * small**2
    return factor * count


@_exercise
def bottleneck_macs(solution: Callable[[int, int, int, int, str], int]) -> str:
    """Check ``bottleneck_macs(in_channels, out_channels, stride, side, stride_on)`` for square maps.

    Raises:
        CheckFailed: if a count is not that of the module.
    """
    cases = (
        (256, 256, 1, 56, "3x3"),
        (256, 512, 2, 56, "3x3"),
        (256, 512, 2, 56, "1x1"),
        (64, 256, 1, 56, "1x1"),
        (16, 32, 2, 7, "3x3"),
        (16, 32, 2, 7, "1x1"),
        (32, 32, 2, 9, "3x3"),
    )

    def trusted(c_in: int, c_out: int, stride: int, side: int, stride_on: str) -> int:
        with torch.device("meta"):
            block = blocks.Bottleneck(c_in, c_out, stride, stride_on=stride_on)
            return probes.count_macs(block, (c_in, side, side))

    formula = functools.partial
    _compare_counts(
        solution,
        "bottleneck_macs",
        cases,
        trusted,
        (
            (
                formula(_bottleneck_macs, sizes="input"),
                "Layers from the stride on work on the small map: count output positions.",
            ),
            (
                formula(_bottleneck_macs, sizes="output"),
                "With the stride on the 3×3, the first 1×1 still sees every position of the large map.",
            ),
            (formula(_bottleneck_macs, sizes="swapped"), "You have swapped the two places of the stride."),
            (
                formula(_bottleneck_macs, projection="never"),
                "The projection works too, where the shape changes.",
            ),
            (formula(_bottleneck_macs, projection="always"), "Where the shape stays there is no projection."),
            (
                formula(_bottleneck_macs, round_down=True),
                "An odd side is rounded up: 7 becomes 4 at stride 2.",
            ),
            (formula(_bottleneck_macs, factor=2), "One MAC is a multiplication and an addition together."),
        ),
    )
    return f"the counts are the modules' in {len(cases)} cases, for both places of the stride and odd sides."


_STAGE_OF = {64: "conv2_x", 128: "conv3_x", 256: "conv4_x", 512: "conv5_x"}


def _wrong_plan(mine: list[_Layer], right: list[_Layer]) -> str | None:
    """Where the convolutions of a network differ from ResNet-34's in number, shape or map size."""

    def of_stage(layers: list[_Layer], channels: int) -> list[_Layer]:
        return [la for la in layers if la.conv.out_channels == channels and la.conv.kernel_size == (3, 3)]

    stem, wanted = mine[0], right[0]
    if stem.conv.weight.shape != wanted.conv.weight.shape or stem.conv.stride != wanted.conv.stride:
        return (
            "the stem must begin with a 7×7 convolution from 3 to 64 channels with stride 2; yours is "
            f"{stem.conv}."
        )
    for layer in mine:
        if layer.conv.bias is not None:
            return f"a {_kernel(layer.conv)} convolution has a bias; batch norm follows, so set bias=False."
        if layer.norm is None:
            return (
                f"a {_kernel(layer.conv)} convolution to {layer.conv.out_channels} channels has no batch "
                "norm."
            )
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


def _pair_up(mine: list[_Layer], right: list[_Layer]) -> list[tuple[_Layer, _Layer]]:
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


def _first_difference(
    mine: nn.Module, right: nn.Module, pairs: list[tuple[_Layer, _Layer]], x: Tensor
) -> str:
    """The first convolution, in the trusted order, whose output differs."""
    outputs = []
    for network in (mine, right):
        with _watched() as calls, torch.no_grad():
            network(x)
        outputs.append({id(call.layer): call.output for call in calls})
    for i, (layer, wanted) in enumerate(pairs):
        if not _same(outputs[0][id(layer.conv)], outputs[1][id(wanted.conv)]):
            place = (
                f"the {_kernel(wanted.conv)} convolution to {wanted.conv.out_channels} channels, number "
                f"{i + 1}"
            )
            return (
                f"The first convolution that gives something else is {place} of {len(pairs)}: look at what "
                "happens "
                "just before it. Does checks.residual_block accept your block?"
            )
    return (
        "All convolutions agree, so look behind the last one: its norm, the addition and ReLU, global "
        "average "
        "pooling, and one linear layer without a softmax."
    )


@_exercise
def resnet34(solution: Callable[[], nn.Module]) -> str:
    """Check ``solution()``, a whole ResNet-34 for 3 channels and 1,000 classes, with any names inside.

    Random weights of :func:`resnetbook.models.resnet34`, whose outputs are torchvision's, are copied
    into the reader's network layer by layer; then both must give the same logits.

    Raises:
        CheckFailed: if a layer is missing or too many, or the logits differ.
    """
    torch.manual_seed(0)
    mine = _call(solution, describe="Building the network")
    if not isinstance(mine, nn.Module):
        raise CheckFailed(
            f"The function gives {type(mine).__name__}, not a network: does it end with `return`?"
        )
    right = models.resnet34()
    x = torch.randn(2, 3, 64, 64)
    plans = []
    for network in (mine, right):
        network.eval()
        with _watched() as calls, torch.no_grad():
            out = _call(network, x, describe="The network, given images of 64×64,")
        plans.append((calls, _layers(calls)[0]))
        if network is mine and not isinstance(out, Tensor):
            raise CheckFailed(f"The network gives {type(out).__name__}, not a Tensor.")
        if network is mine and (not plans[0][1] or plans[0][1][0].call.input.shape[1] != 3):
            raise CheckFailed("The network runs no convolution on the images.")
    own = list(mine.modules())
    for layer in plans[0][1]:
        if not any(layer.conv is module for module in own):
            raise CheckFailed("A convolution runs that is not registered: use nn.Sequential for the blocks.")
    if problem := _wrong_plan(plans[0][1], plans[1][1]):
        raise CheckFailed(f"The plan differs: {problem}")
    linears = [[call.layer for call in _ran(calls, nn.Linear)] for calls, _ in plans]
    if [layer.weight.shape for layer in linears[0]] != [linears[1][0].weight.shape]:
        raise CheckFailed(f"The head must be one linear layer from 512 to 1,000; yours runs {linears[0]}.")
    pairs = _pair_up(plans[0][1], plans[1][1])
    count, wanted = probes.count_parameters(mine), probes.count_parameters(right)
    if count != wanted:
        raise CheckFailed(
            f"Your network has {count:,} parameters, not {wanted:,}: something is left over or shared."
        )

    _randomize([layer for _, layer in pairs], torch.Generator().manual_seed(1))
    for layer, source in pairs:
        layer.conv.load_state_dict(source.conv.state_dict())
        layer.norm.load_state_dict(source.norm.state_dict())
    linears[0][0].load_state_dict(linears[1][0].state_dict())
    mine.double()
    right.double()
    for mode, size in itertools.product(("evaluation", "training"), ((64, 64), (75, 61))):
        mine.train(mode == "training")
        right.train(mode == "training")
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            logits = _call(mine, x, describe=f"The network, given images of {size[0]}×{size[1]},")
            expected = right(x)
        if logits.shape != expected.shape:
            raise CheckFailed(f"The output has shape {tuple(logits.shape)}, not {tuple(expected.shape)}.")
        if not _same(logits, expected):
            where = _first_difference(mine, right, pairs, x)
            raise CheckFailed(f"With the same weights, the logits differ in {mode} mode. {where}")
    return (
        "with the weights of the book's ResNet-34 in it, your network gives the same logits, in training "
        "and in "
        "evaluation mode, for images of 64×64 and of 75×61."
    )


# ---------------------------------------------------------------------------------------------------
# Chapter 5


@_exercise
def map_sizes(solution: Callable[[int], list[int]]) -> str:
    """Check ``map_sizes(side)``: the sides of ResNet-18's maps after the stem and the four stages.

    Raises:
        CheckFailed: if a list differs from the shapes of the real network.
    """
    with torch.device("meta"):  # shapes without numbers
        network = models.d2l_resnet18()
    parts = ("the stem", "conv2_x", "conv3_x", "conv4_x", "conv5_x")
    sides = (224, 96, 28, 97, 33, 100, 2, 1)
    for side in sides:
        expected = [shape[-1] for shape in list(probes.shapes(network, (1, side, side)).values())[:5]]
        call = f"map_sizes({side})"
        given = _call(solution, side, describe=call)
        if given is None:
            raise CheckFailed(f"{call} gives None: does the function end with `return`?")
        if not isinstance(given, list | tuple) or len(given) != 5:
            raise CheckFailed(f"{call} gives {given!r}: five are asked for, after {', '.join(parts)}.")
        if not all(isinstance(size, int) for size in given):
            raise CheckFailed(f"{call} gives {given!r}: sizes are whole numbers; divide with //.")
        for i, (size, right) in enumerate(zip(given, expected, strict=True)):
            if size == right:
                continue
            said = f"{call}: after {parts[i]} you have {size}, the network has {right}. "
            if i == 0 and size == (side + 1) // 2:
                raise CheckFailed(said + "The convolution halves, and the max-pool halves once more.")
            if i == 0:
                raise CheckFailed(said + "Mind padding and rounding: put each layer into the formula.")
            if i == 1:
                raise CheckFailed(said + "The first stage keeps the size: its stride is 1.")
            if size == given[i - 1]:
                raise CheckFailed(said + "From conv3_x on, each stage halves once.")
            if size == given[i - 1] // 2:
                raise CheckFailed(said + "With a padding of 1, halving an odd size rounds up.")
            raise CheckFailed(said + "Only the first convolution of a stage has stride 2.")
    return f"the sizes are the real network's, for images of side {', '.join(map(str, sides))}."


def _parameters_of_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    biases: bool = True,
    per_norm: int = 2,
    projection: str = "where the shape changes",
    projection_bias: bool = True,
) -> int:
    """Parameters of d2l's residual block; the options make the mistakes that are named below."""
    count = 9 * in_channels * out_channels + 9 * out_channels**2 + 2 * per_norm * out_channels
    if biases:
        count += 2 * out_channels
    projects = {
        "where the shape changes": stride != 1 or in_channels != out_channels,
        "with a stride": stride != 1,
        "with new channels": in_channels != out_channels,
        "always": True,
        "never": False,
    }[projection]
    if projects:
        count += in_channels * out_channels + (out_channels if projection_bias else 0)
    return count


# Each mistake with the options that make it.
_PARAMETER_MISTAKES = (
    ({"biases": False, "per_norm": 0}, "biases and batch norms are missing; both are learned."),
    # Two biases, or one of two numbers in both norms: the same count, so both are named.
    (
        {"biases": False},
        "2 · out_channels are missing. Either the biases of the 3×3 convolutions: here each has one for each "
        "channel. Or half of the batch norms: each learns a scale and a shift.",
    ),
    ({"per_norm": 0}, "the two batch norms are missing."),
    ({"per_norm": 4}, "the running statistics of a batch norm are not learned, so they are no parameters."),
    (
        {"projection": "never"},
        "the projection is missing: where the shape changes there is a 1×1 convolution.",
    ),
    (
        {"projection": "with a stride"},
        "the projection is missing where the channels change at stride 1.",
    ),
    (
        {"projection": "with new channels"},
        "the projection is missing where the stride is 2 and the channels stay.",
    ),
    (
        {"projection": "always"},
        "there is no projection where the shape stays: the identity has no parameters.",
    ),
    ({"projection_bias": False}, "the bias of the projection is missing."),
    ({"biases": False, "projection_bias": False}, "all biases are missing; here each convolution has them."),
)


@_exercise
def block_parameters(solution: Callable[[int, int, int], int]) -> str:
    """Check ``block_parameters(in_channels, out_channels, stride)`` for chapter 5's ``Residual``.

    Raises:
        CheckFailed: if a count differs from that of the module.
    """
    cases = ((64, 64, 1), (64, 128, 2), (3, 6, 1), (6, 6, 2), (1, 5, 3))
    given, expected = [], []
    for case in cases:
        call = f"block_parameters{case}"
        answer = _call(solution, *case, describe=call)
        if answer is None:
            raise CheckFailed(f"{call} gives None: does the function end with `return`?")
        given.append(answer)
        expected.append(probes.count_parameters(blocks.D2LResidual(*case)))
    if given != expected:
        i = next(i for i in range(len(cases)) if given[i] != expected[i])
        said = f"block_parameters{cases[i]} gives {given[i]}, the module has {expected[i]}: "
        for options, mistake in _PARAMETER_MISTAKES:
            if given == [_parameters_of_residual(*case, **options) for case in cases]:
                raise CheckFailed(said + mistake)
        raise CheckFailed(said + "write down each layer with its weights and biases, and add them up again.")
    return f"the counts are the module's, for {len(cases)} shapes, with and without a projection."


def _sgd_reference(model: nn.Module, images: Tensor, labels: Tensor, lr: float, stale: bool) -> float:
    """One step of ``torch.optim.SGD`` in the model's mode; ``stale`` adds to the old gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if not stale:
        optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def _copy_gradients(source: nn.Module, target: nn.Module) -> None:
    """Copy the gradients, which ``copy.deepcopy`` leaves out."""
    for old, new in zip(source.parameters(), target.parameters(), strict=True):
        new.grad = old.grad.clone()


def _moves(before: nn.Module, after: nn.Module) -> list[Tensor]:
    """By how much each parameter changed."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return [(new - old).detach() for old, new in pairs]


def _close(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(first, second, strict=True))


@_exercise
def sgd_step(solution: Callable[[nn.Module, Tensor, Tensor, float], float]) -> str:
    """Check ``sgd_step(model, images, labels, lr)`` against one step of ``torch.optim.SGD``.

    Raises:
        CheckFailed: if weights, running statistics or the returned loss differ.
    """
    call = "sgd_step(model, images, labels, lr)"
    for seed, (num_images, lr, training) in enumerate(((8, 0.1, False), (5, 0.02, True))):
        torch.manual_seed(seed)
        start = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
        )
        images, labels = torch.randn(num_images, 1, 6, 6), torch.randint(0, 4, (num_images,))
        # Gradients of an earlier step lie around, as they do in a real training.
        F.cross_entropy(start(images.flip(0) + 1), labels).backward()
        start.train(training)

        right = copy.deepcopy(start).train()
        loss = _sgd_reference(right, images, labels, lr, stale=False)
        mine = copy.deepcopy(start)
        _copy_gradients(start, mine)
        try:
            given = _call(solution, mine, images, labels, lr, describe=call)
        except CheckFailed as failure:
            if "leaf" in str(failure):
                raise CheckFailed(
                    f"{failure} Moving a parameter is not a part of the computation: do it under "
                    "torch.no_grad()."
                ) from failure
            raise
        _compare_step(start, right, mine, images, labels, lr)
        if not isinstance(given, float):
            raise CheckFailed(
                f"the step is right, but {call} gives {given!r}: return the loss as a number, with .item()."
            )
        if abs(given - loss) > 1e-4:
            raise CheckFailed(
                f"the step is right, but you return {given:.4f} and the loss before the step is {loss:.4f}: "
                "return the mean over the batch, computed before the step."
            )
    return "weights, running statistics and loss are those of torch.optim.SGD."


def _compare_step(
    start: nn.Module, right: nn.Module, mine: nn.Module, images: Tensor, labels: Tensor, lr: float
) -> None:
    """Compare the reader's step with the right one, and find out what went wrong.

    Raises:
        CheckFailed: if they differ.
    """
    expected, given = _moves(start, right), _moves(start, mine)
    if not _close(expected, given):
        if not any(move.any() for move in given):
            raise CheckFailed(
                "no parameter has moved: `p = p - …` only gives the name p to a new tensor. Change the "
                "parameter in place, with -=."
            )
        still = [i for i, move in enumerate(given) if expected[i].any() and not move.any()]
        if still:
            raise CheckFailed(
                f"{len(still)} of {len(given)} parameter tensors have not moved: move every parameter."
            )
        stale = copy.deepcopy(start).train()
        _copy_gradients(start, stale)
        _sgd_reference(stale, images, labels, lr, stale=True)
        if _close(_moves(start, stale), given):
            raise CheckFailed("gradients add up from step to step: clear the old ones before backward().")
        evaluating = copy.deepcopy(start).eval()
        _sgd_reference(evaluating, images, labels, lr, stale=False)
        if _close(_moves(start, evaluating), given):
            raise CheckFailed("the step was taken in evaluation mode: call model.train() first.")
        flat_given, flat_expected = (torch.cat([m.flatten() for m in moves]) for moves in (given, expected))
        factor = (flat_given @ flat_expected / (flat_expected @ flat_expected)).item()
        if _close([move * factor for move in expected], given):
            if abs(factor + 1) < 1e-3:
                raise CheckFailed("the loss rises: you climb. Go *against* the gradient.")
            if abs(factor - len(images)) < 1e-2:
                raise CheckFailed("the step is too long: take the mean loss, not the sum over the batch.")
            raise CheckFailed(f"you go {factor:.2f} times as far as lr · gradient.")
        raise CheckFailed("the parameters are not where plain SGD puts them: parameter − lr · gradient.")
    for (name, theirs), ours in zip(right.named_buffers(), mine.buffers(), strict=True):
        if not torch.allclose(theirs, ours, rtol=1e-4, atol=1e-6):
            raise CheckFailed(
                f"the parameters are right, but the running statistics ({name}) are not: run the model "
                "once, in training mode."
            )


@_exercise
def accuracy(solution: Callable[[nn.Module, list[tuple[Tensor, Tensor]]], float]) -> str:
    """Check ``accuracy(model, batches)`` on a small network with batch normalization.

    Raises:
        CheckFailed: if the share of right answers, the mode or the use of gradients is wrong.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5))
    for _ in range(3):
        model(3 * torch.randn(8, 1, 3, 3) + 1)  # running statistics that are not the trivial 0 and 1
    sizes, num_right = (8, 8, 3), (5, 7, 1)
    batches = []
    model.eval()
    for size, right in zip(sizes, num_right, strict=True):
        images = torch.randn(size, 1, 3, 3)
        labels = model(images).argmax(1)
        labels[right:] = (labels[right:] + 1) % 5  # these answers are wrong
        batches.append((images, labels))
    seen: list[tuple[bool, bool]] = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))

    for mode in (True, False):
        model.train(mode)
        seen.clear()
        given = _call(solution, model, batches, describe="accuracy(model, batches)")
        if not seen:
            raise CheckFailed("the model was never called: predict with model(images).")
        if any(training for training, _ in seen):
            raise CheckFailed("the model ran in training mode: call model.eval() before the first batch.")
        if any(gradients for _, gradients in seen):
            raise CheckFailed("gradients were recorded: evaluate under torch.no_grad().")
        _compare_share(given, sizes, num_right)
        if model.training != mode:
            left, came = ("training", "evaluation") if model.training else ("evaluation", "training")
            raise CheckFailed(f"the model came in {came} mode and is left in {left} mode: put its mode back.")
    return "the share is right with a smaller last batch, and the model's mode is as it was."


def _compare_share(given: object, sizes: tuple[int, ...], num_right: tuple[int, ...]) -> None:
    """Compare with the right share, and with what the usual mistakes give.

    Raises:
        CheckFailed: if it is not the share of right answers.
    """
    if isinstance(given, Tensor) and given.numel() == 1:
        given = given.item()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise CheckFailed(f"accuracy(model, batches) gives {given!r}: return one number.")
    share = sum(num_right) / sum(sizes)
    if abs(given - share) < 1e-6:
        return
    mistakes = (
        (sum(num_right), "this is the number of right answers: divide by the number of images."),
        (100 * share, "return a share between 0 and 1, not percent."),
        (1 - share, "this is the share of wrong answers."),
        (num_right[-1] / sizes[-1], "this is the last batch alone: add up over all batches."),
        (
            sum(right / size for right, size in zip(num_right, sizes, strict=True)) / len(sizes),
            "this is the mean of the batches' accuracies. It gives images of a small batch more weight, and "
            "the last batch is smaller.",
        ),
        (
            sum(num_right) / (len(sizes) * sizes[0]),
            "divide by the number of images, and not by batches times batch size: the last one is smaller.",
        ),
        (sum(num_right) / len(sizes), "divide by the number of images, not of batches."),
    )
    said = f"you return {given:.4f}, and {sum(num_right)} of {sum(sizes)} answers are right: "
    for value, mistake in mistakes:
        if abs(given - value) < 1e-4:
            raise CheckFailed(said + mistake)
    raise CheckFailed(said + "count where the largest logit is at the label, and divide once, at the end.")


@_exercise
def confusion_matrix(solution: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Check ``confusion_matrix(truth, predictions, num_classes)`` against counting one by one.

    Raises:
        CheckFailed: if the matrix is not the counts, true classes in rows.
    """
    for seed, (num_images, num_classes, num_used) in enumerate(((40, 4, 3), (300, 10, 10), (1, 2, 1))):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(0, num_used, (num_images,), generator=generator)
        slips = torch.rand(num_images, generator=generator) < 0.4
        predictions = torch.where(slips, (truth + 1) % num_used, truth)
        expected = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for row, column in zip(truth.tolist(), predictions.tolist(), strict=True):
            expected[row, column] += 1
        given = _call(
            solution,
            truth,
            predictions,
            num_classes,
            describe="confusion_matrix(truth, predictions, num_classes)",
        )
        if not isinstance(given, Tensor):
            raise CheckFailed(f"you return {type(given).__name__}: return a tensor.")
        if given.shape != expected.shape:
            raise CheckFailed(
                f"the shape is {tuple(given.shape)} instead of {tuple(expected.shape)}: classes that never "
                "occur have a row and a column too."
            )
        if given.dtype.is_floating_point and (given <= 1).all() and num_images > 1:
            raise CheckFailed("return counts, not shares: how many images, row by row.")
        if given.dtype.is_floating_point or given.dtype == torch.bool:
            raise CheckFailed(f"counts are whole numbers: return int64, not {given.dtype}.")
        if torch.equal(given.to(torch.int64), expected):
            continue
        if torch.equal(given.to(torch.int64), expected.T):
            raise CheckFailed(
                "it is transposed: true classes belong in the rows, predictions in the columns."
            )
        if torch.equal(given.to(torch.int64), (expected > 0).to(torch.int64)):
            raise CheckFailed(
                "each pair is counted once: with repeated indices, `matrix[truth, predictions] += 1` adds "
                "only once."
            )
        if given.sum() != num_images:
            raise CheckFailed(f"it counts for {given.sum()} images, and there are {num_images}.")
        raise CheckFailed(
            "the sum is right, but some counts are in the wrong cell: row = truth, column = prediction."
        )
    return "the counts are those of counting one by one, also for classes that never occur."
