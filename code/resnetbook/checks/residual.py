"""The judge of a reader's residual block: by what it computes, next to the book's own with the same weights.

How a block is built is only looked at to find its weights, and to explain a mistake.
"""

import copy
import io
import itertools
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, probes
from resnetbook.checks.building import BlockCase, new_block
from resnetbook.checks.common import CheckFailed, call_reader
from resnetbook.checks.exercise import Slip, slips_in
from resnetbook.checks.tracing import (
    Layer,
    LayerCall,
    depends_on,
    explain_measured,
    kept_graph,
    kernel,
    layers_of,
    measure,
    not_by_hand,
    random_mode,
    randomize,
    same,
    trusted_layers,
    unusual_norm,
    watched,
)


@dataclass(frozen=True)
class Kind:
    """What a kind of block is expected to look like."""

    trusted: type[nn.Module]
    kernels: tuple[int, ...]
    forward: str  # what the trusted block computes, for the mistakes, which are edits of it
    cases: tuple[tuple, ...]  # of BlockCase

    def width(self, case: BlockCase) -> int:
        return case.out_channels // self.trusted.expansion

    def channels(self, case: BlockCase) -> list[tuple[int, int]]:
        """Input and output channels of each convolution of F."""
        width = self.width(case)
        inner = [case.in_channels] + [width] * (len(self.kernels) - 1) + [case.out_channels]
        return list(itertools.pairwise(inner))

    def strides(self, case: BlockCase) -> list[list[int]]:
        """Where the stride may stand: on the first convolution, in a bottleneck also on the 3×3."""
        places = (0,) if self.trusted is blocks.BasicBlock else (0, 1)
        return [[case.stride if i == place else 1 for i in range(len(self.kernels))] for place in places]


# Few channels and many, odd sizes, new channels without a stride, a stride without new channels.
BASIC = Kind(
    blocks.BasicBlock,
    (3, 3),
    """\
def forward(self, x):
    out = F.relu(self.bn1(self.conv1(x)))
    out = self.bn2(self.conv2(out))
    shortcut = self.downsample(x)
    return F.relu(out + shortcut)
""",
    ((8, 8), (8, 16, 2), (12, 12, 2), (6, 12, 1, (5, 4)), (5, 10, 2, (7, 5)), (16, 16, 1, (1, 3)))
    + ((8, 8, 3, (7, 8)), (96, 96, 1, (4, 4)), (64, 128, 2, (8, 8)), (256, 512, 2, (3, 2))),
)


BOTTLENECK = Kind(
    blocks.Bottleneck,
    (1, 3, 1),
    """\
def forward(self, x):
    out = F.relu(self.bn1(self.conv1(x)))
    out = F.relu(self.bn2(self.conv2(out)))
    out = self.bn3(self.conv3(out))
    shortcut = self.downsample(x)
    return F.relu(out + shortcut)
""",
    # In the fourth, as in conv2_x, the input has the width of the 3×3 convolution.
    ((32, 32), (32, 64, 2), (24, 24, 2), (12, 48, 1, (5, 4)), (20, 40, 2, (7, 5)), (16, 16, 1, (1, 3)))
    + ((16, 16, 3, (7, 8)), (256, 256, 1, (4, 4)), (256, 512, 2, (8, 8)), (512, 1024, 2, (3, 2))),
)


@dataclass
class _Run:
    """A block of a reader, and the layers that ran in it."""

    kind: Kind
    case: BlockCase
    block: nn.Module
    x: Tensor
    calls: list[LayerCall]

    def __post_init__(self) -> None:
        layers, self.left_over = layers_of(self.calls)
        self.chain, self.shortcut = _split(self.kind, self.case, layers, self.x)


def _split(kind: Kind, case: BlockCase, layers: list[Layer], x: Tensor) -> tuple[list[Layer], list[Layer]]:
    """The convolutions of F, and those of the shortcut: 1×1, from the block's input to out_channels."""
    seen = (x, x[:, :, :: case.stride, :: case.stride])
    heads = [layer for layer in layers if any(torch.equal(layer.call.input, y) for y in seen)]
    # Whoever takes out_channels for the width inside projects to four times as many.
    channels = (case.out_channels, 4 * case.out_channels)
    shortcut = [la for la in heads if la.conv.kernel_size == (1, 1) and la.conv.out_channels in channels]
    shortcut = [la for la in shortcut if la.conv.out_channels == max(s.conv.out_channels for s in shortcut)]
    if len(shortcut) == len(heads) and len(layers) - len(shortcut) < len(kind.kernels):
        shortcut = shortcut[1:]  # F must begin somewhere, and not behind an explicit padding
    return [layer for layer in layers if layer not in shortcut], shortcut


def _wrong_wiring(run: _Run) -> str | None:
    """Mistakes with layers that hold whatever the block computes."""
    own = list(run.block.modules())
    learned = [call.layer for call in run.calls if isinstance(call.layer, nn.Conv2d | nn.BatchNorm2d)]
    for layer in learned:
        what = f"{kernel(layer)} convolution" if isinstance(layer, nn.Conv2d) else "batch norm"
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


def _wrong_leftovers(run: _Run) -> str | None:
    """A layer that is registered and never runs."""
    used = [call.layer for call in run.calls]
    for name, module in run.block.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and not any(layer is module for layer in used):
            stays = " Where the shape stays, the shortcut is the identity, without parameters."
            return (
                f"self.{name} is created and never runs, but counts as parameters. Use it in forward, by "
                f"calling it, or do not create it.{stays * (not run.case.changes_shape)}"
            )
    return None


def _wide_projection(run: _Run) -> str | None:
    """A second convolution that sees the block's input and is no projection of 1×1."""
    heads = [layer for layer in run.chain if torch.equal(layer.call.input, run.x)]
    if len(heads) < 2 or not run.case.changes_shape:
        return None
    first = (run.kind.kernels[0],) * 2
    conv = next((layer.conv for layer in heads if layer.conv.kernel_size != first), heads[-1].conv)
    return (
        f"A projection on the shortcut is a 1×1 convolution to out_channels; yours is {kernel(conv)}, to "
        f"{conv.out_channels} channels."
    )


def _wrong_shortcut(run: _Run) -> str | None:
    """Convolutions beside F that are no projection: none of them goes into F's, or comes out of them."""
    try:
        before = depends_on(run.block, run.x)
    except RuntimeError:
        return None
    convs = [layer.conv for layer in run.chain + run.shortcut if layer.conv in before]
    heads = [conv for conv in convs if not before[conv] & set(convs)]
    if len(heads) != 2:
        return None
    ways = [[conv for conv in convs if conv is head or head in before[conv]] for head in heads]
    if set(map(id, ways[0])) & set(map(id, ways[1])):
        return None
    # The one that is F is as long as F; the other is the shortcut.
    wanted = [f"{k}×{k}" for k in run.kind.kernels]
    sides = [way for way in ways if [kernel(conv) for conv in way] != wanted]
    if len(sides) != 1:
        return None
    (side,) = sides
    shown = ", ".join(kernel(conv) for conv in side)
    if not run.case.changes_shape:
        return (
            f"there is a {shown} convolution on the shortcut. Where the shape stays, the shortcut is the "
            "identity, without any layer."
        )
    if len(side) > 1:
        return (
            f"the shortcut runs {len(side)} convolutions, {shown}; a projection is one, of 1×1, and its norm."
        )
    if side[0].kernel_size != (1, 1) or side[0].out_channels != run.case.out_channels:
        return None  # said elsewhere
    return (
        "the projection does not read the block's input as it is. Nothing stands before it on the shortcut, "
        "no ReLU, norm or pooling: the 1×1 convolution takes x, with the block's stride, and a norm follows."
    )


def _wrong_convolutions(run: _Run) -> str | None:
    """Mistakes in which convolutions F has: then its weights cannot be copied."""
    kernels = [kernel(layer.conv) for layer in run.chain]
    wanted = [f"{k}×{k}" for k in run.kind.kernels]
    if kernels != wanted:
        said = (
            f"F must run {', '.join(wanted)} convolutions in this order; yours runs "
            f"{', '.join(kernels) or 'none'}."
        )
        if sorted(kernels) == sorted(wanted):
            return said + " They are swapped: the 3×3 stands in the middle, where the channels are few."
        if not run.chain:
            return said + " Build them from nn.Conv2d, and call them in forward."
        return _wide_projection(run) or said
    width = run.kind.width(run.case)
    for i, (layer, (c_in, c_out)) in enumerate(zip(run.chain, run.kind.channels(run.case), strict=True)):
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
        if run.kind is BOTTLENECK and run.chain[2].conv.out_channels == 4 * run.case.out_channels:
            return said + (
                "out_channels is what comes out of the block; the width inside is a quarter of it, "
                "out_channels // 4."
            )
        if run.kind is BOTTLENECK and run.chain[1].conv.in_channels == run.case.out_channels:
            return said + f"The expansion is forgotten: the 3×3 works at width out_channels // 4 = {width}."
        if run.kind is BOTTLENECK and run.chain[1].conv.in_channels == run.case.in_channels // 4:
            return said + "The wrong width: it is out_channels // 4, whatever comes in."
        return said + "Check its channels."
    return None


def _wrong_norms(run: _Run) -> str | None:
    """Mistakes in which norms there are, and a projection where none belongs."""
    if any(torch.equal(call.input, run.x) for call in run.left_over):
        if torch.equal(run.chain[0].call.input, run.x):
            return (
                "there is a batch norm on the shortcut. Where the shape stays, the shortcut is the identity, "
                "without any layer."
            )
        return (
            "a batch norm comes before its convolution: that is the pre-activation block (v2). Here the "
            "order is convolution, norm, ReLU."
        )
    if len(run.shortcut) > 1 or (run.shortcut and not run.case.changes_shape):
        return (
            "there is a projection where none is needed (option C). Where input and output have the same "
            "shape, the shortcut is the identity; build the projection only if stride != 1 or the channels "
            "change."
        )
    for i, layer in enumerate(run.chain):
        if layer.norm is None:
            where = "the last convolution" if i == len(run.chain) - 1 else f"convolution {i + 1}"
            return (
                f"a batch norm is missing after {where} of F: each convolution has a BatchNorm2d of its own."
            )
    for layer in run.shortcut:
        if layer.norm is None:
            return "the projection is not normalized: a BatchNorm2d follows its 1×1 convolution."
    if run.left_over:
        return "there is a batch norm too many: one follows each convolution, and nothing else."
    for layer in run.chain + run.shortcut:
        if problem := unusual_norm(layer.norm):
            return problem
    return None


def _wrong_settings(run: _Run) -> str | None:
    """Mistakes with strides and paddings. Only asked for when the block is known to be wrong."""
    given = [layer.conv.stride[0] for layer in run.chain]
    if given not in run.kind.strides(run.case):
        asked = f"stride={run.case.stride} is asked for, and the convolutions of F have {given}"
        shrinking = [i for i, stride in enumerate(given) if stride != 1]
        if not shrinking:
            return (
                f"the stride is never applied in F: {asked}. To shrink the map, give the stride to a "
                "convolution; no pooling and no cutting are needed."
            )
        if len(shrinking) > 1 and run.case.stride != 1:
            return f"the stride is applied twice: {asked}; only one may shrink the map."
        if math.prod(given) != run.case.stride:
            return f"the stride is ignored: {asked}."
        right = (
            "the first one"
            if run.kind is BASIC
            else "the 3×3 (torchvision) or the first 1×1 (the original implementation)"
        )
        which = ("first", "second", "last")[shrinking[0]]
        return f"the stride is on the {which} convolution of F; it belongs on {right}."
    for layer in run.shortcut:
        if layer.conv.stride[0] != run.case.stride:
            return (
                f"the projection has stride {layer.conv.stride[0]}; it needs the block's stride, "
                f"{run.case.stride}."
            )
    for layer in run.chain + run.shortcut:
        conv = layer.conv
        right = conv.kernel_size[0] // 2
        if conv.padding not in ((right, right), "same") and not (conv.padding == "valid" and right == 0):
            return (
                f"wrong padding: a {kernel(conv)} convolution needs padding={right}, yours has "
                f"{conv.padding}."
            )
        if set(conv.dilation) != {1} or conv.padding_mode != "zeros":
            return f"unusual settings: {conv}. Leave dilation and padding_mode out."
    return None


def _explain_crash(run: _Run) -> str:
    """What may have led to an error inside forward: a guess from the layers, to stand behind the error."""
    if wiring := _wrong_wiring(run):
        return f"Besides, {wiring}"
    if projection := _wide_projection(run):
        return projection
    if len(run.chain) >= len(run.kind.kernels):
        if problem := _wrong_convolutions(run) or _wrong_settings(run):
            return f"Look here: {problem}"
        if not run.case.changes_shape:
            return "Is it still the block's input that is added? See that forward does not overwrite x."
    convs = [module for module in run.block.modules() if isinstance(module, nn.Conv2d)]
    if run.case.changes_shape and len(convs) <= len(run.kind.kernels) and not run.shortcut and run.chain:
        if run.case.stride > 2:  # the cases with stride 2 come first
            return (
                "A stride of 2 works, so look for a hard-coded 2: use stride, not 2, as in "
                "x[:, :, ::stride, ::stride] and in stride != 1."
            )
        return (
            "Input and output differ in shape here, and your block has no projection that makes them fit: "
            "create a 1×1 convolution with the block's stride, and its norm, whenever stride != 1 or "
            "in_channels != out_channels. See that nothing overwrites it with None."
        )
    return "Follow the shapes through forward, layer by layer."


def _forward(kind: Kind, case: BlockCase, block: nn.Module, x: Tensor, calls: list[LayerCall]) -> Tensor:
    """The output of the reader's block; an error becomes a message, and so does what is no Tensor."""
    before = x.detach().clone()
    try:
        out = call_reader(block, x, describe=f"forward ({case}, input {tuple(x.shape)})")
    except CheckFailed as failed:
        raise CheckFailed(
            f"{failed}. {_explain_crash(_Run(kind, case, block, x, calls))}"
        ) from failed.__cause__
    if isinstance(out, tuple | list):
        raise CheckFailed(f"forward gives a {type(out).__name__}, not a Tensor: return one Tensor.")
    if not isinstance(out, Tensor):
        raise CheckFailed(f"forward gives {type(out).__name__}, not a Tensor: does it end with `return`?")
    if not torch.equal(x, before):
        raise CheckFailed(
            f"With {case}, in {'training' if block.training else 'evaluation'} mode: forward changes its own "
            "input in place, which others still need: no x += …, and no nn.ReLU(inplace=True) on x itself."
        )
    return out


class _Rolled(nn.Module):
    """Zero padding with the new channels elsewhere: in front, or half on each side."""

    def __init__(self, padding: nn.Module, shift: int) -> None:
        super().__init__()
        self.padding, self.shift = padding, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.padding(x), self.shift, dims=1)


def _trusted_blocks(run: _Run) -> list[nn.Module]:
    """The book's blocks that the reader's may equal, with the reader's weights.

    More than one, because the paper leaves open where a zero padding stands, and because the stride of
    a bottleneck may be on either of two convolutions.
    """
    shape = (run.case.in_channels, run.case.out_channels, run.case.stride)
    option = "B" if run.shortcut else "A"
    places = ({},) if run.kind is BASIC else ({"stride_on": "3x3"}, {"stride_on": "1x1"})
    found = [run.kind.trusted(*shape, shortcut=option, **place) for place in places]
    new = run.case.out_channels - run.case.in_channels
    if option == "A" and new > 0:
        for shift, block in itertools.product({new, new // 2, new - new // 2}, list(found)):
            rolled = copy.deepcopy(block)
            rolled.downsample = _Rolled(rolled.downsample, shift)
            found.append(rolled)
    for block in found:
        for (conv, norm), layer in zip(trusted_layers(block), run.chain + run.shortcut, strict=True):
            conv.load_state_dict(layer.conv.state_dict())
            norm.load_state_dict(layer.norm.state_dict())
        block.double()
    return found


# Edits of a forward, in the order in which they are tried: alone, and then two together.
_MISTAKES = slips_in(
    """
out + shortcut -> out
    the skip is never added: add the shortcut to F(x) before the last ReLU.
return F.relu( -> return (
    there is no ReLU at the end: it comes after the addition.
F.relu(out + shortcut) -> F.relu(out) + shortcut
    the skip is added after the last ReLU: add it first, then apply ReLU to the sum.
F.relu(self.bn -> (self.bn
    the ReLU is missing between the convolutions of F.
F.relu(self.bn1(self.conv1(x))) -> self.bn1(self.conv1(x))
    the ReLU is missing between the first and the second convolution.
F.relu(self.bn2(self.conv2(out))) -> self.bn2(self.conv2(out))
    the ReLU is missing between the second and the last convolution.
out + shortcut -> out - shortcut
    the shortcut is subtracted; it must be added.
out + shortcut -> shortcut - out
    F(x) is subtracted from the shortcut; both must be added.
out + shortcut -> out * shortcut
    F(x) and the shortcut are multiplied; they must be added.
out + shortcut -> torch.maximum(out, shortcut)
    the larger of F(x) and the shortcut is taken; they must be added.
out + shortcut -> out + out
    F(x) is added to itself: forward overwrites x. Keep the input under a name of its own.
F.relu(out -> F.relu(F.relu(out)
    there is an extra ReLU before the addition, so F(x) cannot be negative: the last norm is followed by the
    addition, and one ReLU after it.
= self.downsample(x) -> = F.relu(self.downsample(x))
    a ReLU is applied to the shortcut: what it gives is added as it is.
= self.downsample(x) -> = self.downsample[1](F.relu(self.downsample[0](x)))
    a ReLU stands on the shortcut, between the projection and its norm: leave it out.
out = F.relu(self.bn1 -> x = out = F.relu(self.bn1
    what is added is not the block's input but what the first convolution made of it: forward overwrites x.
    Keep the input under a name of its own.
= self.bn2(self.conv2(out)) -> = self.conv2(out)
(out + shortcut) -> (self.bn2(out + shortcut))
or
= self.bn3(self.conv3(out)) -> = self.conv3(out)
(out + shortcut) -> (self.bn3(out + shortcut))
    the last batch norm comes after the addition; it belongs before it.
F.relu(self.bn1(self.conv1(x))) -> self.bn1(F.relu(self.conv1(x)))
F.relu(self.bn2(self.conv2(out))) -> self.bn2(F.relu(self.conv2(out)))
or
F.relu(self.bn1(self.conv1(x))) -> self.bn1(F.relu(self.conv1(x)))
F.relu(self.bn2(self.conv2(out))) -> self.bn2(F.relu(self.conv2(out)))
self.bn3(self.conv3(out)) -> self.bn3(F.relu(self.conv3(out)))
or
F.relu(self.bn1(self.conv1(x))) -> self.bn1(F.relu(self.conv1(x)))
or
F.relu(self.bn1(self.conv1(x))) -> self.bn1(F.relu(self.conv1(x)))
= self.bn2(self.conv2(out)) -> = self.bn2(F.relu(self.conv2(out)))
    ReLU comes before the batch norm; the order is convolution, norm, ReLU.
"""
    + "".join(
        f"""
F.relu(self.bn -> F.{function}(self.bn
    a {name} stands between the convolutions instead of ReLU.
return F.relu( -> return F.{function}(
    a {name} stands after the addition instead of ReLU.
"""
        for name, function in (
            ("LeakyReLU", "leaky_relu"),
            ("ReLU6", "relu6"),
            ("GELU", "gelu"),
            ("SiLU", "silu"),
        )
    )
)


def _mistaken(kind: Kind, block: nn.Module, x: Tensor, *slips: Slip) -> Tensor | None:
    """What the block would put out with these mistakes in its forward; nothing where they do not fit."""
    source, scope = kind.forward, {"F": F, "torch": torch}
    try:
        for slip in slips:
            source = slip.applied_to(source)
        exec(source, scope)
        return scope["forward"](block, x)
    except (ValueError, RuntimeError, TypeError):
        return None


def _factors(block: nn.Module, x: Tensor, residual: Tensor, output: Tensor) -> str | None:
    """The factors on F(x) and on the shortcut that would give just this output in evaluation mode."""
    shortcut = block.downsample(x)
    shown = output > 0  # elsewhere ReLU hides the sum
    terms = torch.stack([residual[shown], shortcut[shown]], dim=1)
    a, b = torch.linalg.lstsq(terms, output[shown]).solution
    if shown.any() and same(output, F.relu(a * residual + b * shortcut)):
        return f"the sum is {a:.4g} · F(x) + {b:.4g} · shortcut; both are added as they are, with no factor."
    return None


def _explain_output(kind: Kind, block: nn.Module, x: Tensor, output: Tensor) -> str | None:
    """The mistake, or the two mistakes, that would give just this output in evaluation mode."""
    block.eval()
    with torch.no_grad():
        for slips in (*((slip,) for slip in _MISTAKES), *itertools.combinations(_MISTAKES, 2)):
            guess = _mistaken(kind, block, x, *slips)
            if guess is not None and same(output, guess):
                return " And ".join(slip.message for slip in slips)
        residual = _mistaken(kind, block, x, Slip((("return F.relu(out + shortcut)", "return out"),), "F(x)"))
        return _factors(block, x, residual, output) if output.shape == residual.shape else None


def _explain(
    run: _Run, references: list[nn.Module], given: dict[str, Tensor], right: dict[str, Tensor], different: str
) -> str:
    """Why a block differs from the trusted ones: settings, further layers, known mistakes, or only where."""
    if problem := _wrong_settings(run):
        return problem
    usual = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Identity)
    strange = {type(call.layer).__name__: None for call in run.calls if not isinstance(call.layer, usual)}
    if strange:
        return (
            f"it also runs {', '.join(strange)}, which this block does not have. It needs only convolutions, "
            "batch norms, ReLU and one addition."
        )
    if chance := random_mode(run.block, run.x):
        return chance
    said = f"the {different} is not that of the book's block with the same weights. "
    if hint := explain_measured(different, given[different], right[different]):
        return said + hint
    if different == "output in evaluation mode":
        for reference in references:
            if mistake := _explain_output(run.kind, reference, run.x, given[different]):
                return mistake
    if different == "output in training mode":
        return (
            said + "In evaluation mode it is right: look for what depends on self.training, or for dropout."
        )
    if run.case.changes_shape and not run.shortcut:
        return (
            said + "The shortcut has no projection, so it must be option A: every stride-th pixel, "
            "x[:, :, ::stride, ::stride], and zeros for the new channels."
        )
    return said + "Compare your forward with the diagram, arrow by arrow."


def _shape_problem(run: _Run, out: Tensor) -> str:
    channels = out.shape[1] if out.dim() == 4 else None
    if channels in (2 * run.case.out_channels, run.case.in_channels + run.case.out_channels):
        return "F(x) and the shortcut are concatenated; they must be added, number by number."
    return _wrong_settings(run) or "Follow the shapes through forward, layer by layer."


def _check_case(
    kind: Kind, case: BlockCase, cls: Callable[..., nn.Module], generator: torch.Generator
) -> str:
    """Compare the reader's block with the trusted one in one case; returns the shortcut's option."""
    block = new_block(cls, case)
    # Large numbers of both signs: small ones would not tell ReLU from an activation that levels off.
    x = 3 * torch.randn(case.batch_size, case.in_channels, *case.size, generator=generator)
    with watched() as calls, torch.no_grad():
        out = _forward(kind, case, block, x, calls)

    def fail(message: str | None) -> None:
        if message:
            raise CheckFailed(f"With {case}: {message}")

    run = _Run(kind, case, block, x, calls)
    fail(_wrong_wiring(run))
    fail(_wrong_leftovers(run))
    shape = (case.batch_size, *case.output_shape)
    if len(run.chain) > len(kind.kernels):
        fail(_wrong_shortcut(run))
    fail(_wrong_convolutions(run))
    for layer in run.shortcut:
        if layer.conv.groups != 1:
            fail(f"the projection has groups={layer.conv.groups}: leave groups out, so that channels mix.")
    if tuple(out.shape) != shape:
        fail(f"the wrong shape comes out: {tuple(out.shape)}, not {shape}. {_shape_problem(run, out)}")
    fail(_wrong_norms(run))

    layers = run.chain + run.shortcut
    randomize(layers, generator)
    references = _trusted_blocks(run)
    if (count := probes.count_parameters(block)) != (right := probes.count_parameters(references[0])):
        fail(f"the block has {count:,} parameters, not {right:,}: find and remove what does not belong.")
    block.double()
    run.x = x = x.double()
    names = [(layer.conv, layer.norm) for layer in layers]
    given = measure(block, names, x, lambda y: _forward(kind, case, block, y, []))
    differing = []
    for reference in references:
        fresh = copy.deepcopy(reference)  # measuring moves the running statistics
        right = measure(fresh, trusted_layers(fresh), x, fresh)
        differing.append(next((key for key in right if not same(given[key], right[key])), None))
    if None not in differing:
        # Explain next to the reference that agrees with the block the longest.
        fail(_explain(run, references, given, right, max(differing, key=list(given).index)))
    fail(kept_graph(block))
    fail(random_mode(block, x))
    return "" if not case.changes_shape else "B" if run.shortcut else "A"


def judge_block(cls: Callable[..., nn.Module], kind: Kind) -> str:
    """Compare a block, ``cls(in_channels, out_channels, stride=1)``, with the trusted one in every case.

    Where the shape changes, the shortcut may be a projection (option B) or zero padding (option A). The
    stride of a bottleneck may be on the 3×3 (torchvision) or on the first 1×1 (the original implementation).

    Returns:
        What was compared.

    Raises:
        CheckFailed: if the block differs, naming the mistake where it is a known one.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    printed = io.StringIO()
    options = set()
    try:
        with redirect_stdout(printed), torch.enable_grad():
            for i, case in enumerate(BlockCase(*case) for case in kind.cases):
                try:
                    options.add(_check_case(kind, case, cls, generator))
                except NotImplementedError as error:
                    if i == 0:
                        raise  # not begun
                    raise CheckFailed(f"With {case}: {error!r}. This case is still to be done.") from error
    finally:
        print(printed.getvalue()[:1000], end="")
    if printed.getvalue():
        raise CheckFailed(
            f"The block computes the right thing, but it prints {printed.getvalue().splitlines()[0]!r} on "
            "the way: remove the forgotten print, or every training step will repeat it."
        )
    used = {"A": "zero padding (option A)", "B": "a projection (option B)"}
    but = not_by_hand(new_block(cls, BlockCase(*kind.cases[0])))
    shortcuts = " or ".join(used[option] for option in sorted(options - {""}))
    return (
        f"with the same weights your block and the book's {kind.trusted.__name__} agree in "
        f"{len(kind.cases)} cases, in training and in evaluation mode: outputs, gradients and running "
        f"statistics. Where shapes change, it uses {shortcuts}.{but}"
    )
