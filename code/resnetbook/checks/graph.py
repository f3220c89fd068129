"""What a network does to its images, operation by operation: a graph by behaviour, whatever the names.

Every operation that PyTorch carries out is noted below autograd, so that ``x + y``, ``torch.add`` and
``x += y`` look alike, and so do a layer and the function that it calls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# aten's names without overload and final underscore.
_CONVS = {"convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"}
_BATCH_NORMS = {
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
}
_NORMS = _BATCH_NORMS | {"native_group_norm", "native_layer_norm"}
_ACTIVATIONS = {
    *("relu", "clamp_min", "threshold", "hardtanh", "silu", "gelu", "leaky_relu", "elu", "celu", "mish"),
    *("hardswish", "softplus", "_prelu_kernel", "prelu", "rrelu_with_noise", "log_sigmoid_forward"),
}
_SQUASHES = {"sigmoid", "hardsigmoid", "tanh", "_softmax"}
_POOLS = {
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "mean", "amax", "sum"),
}
_LINEAR = {"addmm", "mm", "bmm", "linear"}
_PASSES = {
    *("view", "_unsafe_view", "reshape", "alias", "detach", "clone", "_to_copy", "expand", "permute"),
    *("transpose", "t", "squeeze", "unsqueeze", "lift_fresh", "contiguous"),
}
_CUTS = {"slice", "select", "constant_pad_nd", "cat", "copy", "index", "narrow", "slice_scatter", "stack"}
_RANDOM = {"bernoulli", "rand_like", "rand", "native_dropout", "normal", "uniform", "randn", "randn_like"}


@dataclass(eq=False)
class Step:
    """One operation on something that depends on the images.

    Attributes:
        index: its place in the order in which the operations ran.
        op: aten's name, without overload and final underscore.
        kind: ``conv``, ``norm``, ``act``, ``join`` (a sum of two), ``pool``, ``linear``, ``pass`` (the same
            numbers, seen otherwise), ``cut`` (some of the numbers, or zeros beside them), ``gate``,
            ``squash`` (a sigmoid or softmax), ``affine`` (a number for each channel), ``drop`` (by chance),
            ``scale`` or ``other``.
        parents: the steps whose results it reads.
        gates: those of its parents that only scale what comes from the others.
        where: name of the module whose ``forward`` was at work; empty for the network itself.
        weights: names of the parameters and buffers that it reads, directly or computed from them.
        lost: layers that it uses and that the network does not own.
        options: stride, padding and the like.
        shape: of what it gives.
        in_place: whether it overwrote what it read.
        operands: of a sum, those of its parents that have the shape of the result.
        reads: its parents, and whether autograd could follow what was read.
        out: the result itself; what overwrote it later has overwritten it here.
    """

    index: int
    op: str
    kind: str
    parents: tuple[Step, ...]
    where: str
    weights: tuple[str, ...]
    shape: tuple[int, ...]
    in_place: bool = False
    gates: tuple[Step, ...] = ()
    lost: tuple[Tensor, ...] = ()
    options: dict = field(default_factory=dict)
    operands: tuple[Step, ...] = ()
    reads: tuple[tuple[Step, bool], ...] = ()
    out: Tensor | None = None

    @property
    def main(self) -> tuple[Step, ...]:
        """Its parents without the gates."""
        return tuple(parent for parent in self.parents if parent not in self.gates)


class Recorder(TorchDispatchMode):
    """Notes every operation that depends on ``images`` while it is on."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.stack: list[str] = []
        self.calls: dict[str, int] = {}
        self.strangers: list[str] = []
        self._names = {id(t): name for name, t in [*network.named_parameters(), *network.named_buffers()]}
        self._modules = {id(module): name for name, module in network.named_modules()}
        self._known: dict[int, Step] = {}
        self._writers: dict[int, Step] = {}
        self._latest: dict[int, Step] = {}
        self._bases: dict[int, Step] = {}
        self._made: dict[int, tuple[set[str], bool]] = {}  # from weights alone: names, and whether by chance
        self._alive: list[Tensor] = []  # no id may be given to another tensor
        self.image = self._note("image", "image", (), images, {})

    # ---- which module is at work

    @contextmanager
    def on(self) -> Iterator[Recorder]:
        """Record what runs inside; after an error ``stack`` says how deep it was."""

        def enter(module: nn.Module, args: tuple) -> None:
            name = self._modules.get(id(module))
            if name is None:
                name = f"{self.stack[-1] if self.stack else ''}.<{type(module).__name__}>".lstrip(".")
                self.strangers.append(name)
            self.calls[name] = self.calls.get(name, 0) + 1
            self.stack.append(name)

        def leave(module: nn.Module, args: tuple, out: object) -> None:
            self.stack.pop()

        handles = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        ]
        try:
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    # ---- what runs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        tensors = [value for value in flat if isinstance(value, Tensor)]
        origins = [self._origin(tensor) for tensor in tensors]
        needs = [tensor.requires_grad for tensor in tensors]
        name = func._schema.name.removeprefix("aten::")
        # Read now: an in-place operation overwrites what it reads.
        rectifies = self._rectifier(name, tensors, origins)
        result = func(*args, **kwargs)
        outputs = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        self._alive += [*tensors, *outputs]
        if not outputs:
            return result
        op = re.sub(r"_$", "", name)
        in_place = func._schema.is_mutable and outputs[0] is tensors[0] if tensors else False
        parents = tuple(dict.fromkeys(origin for origin in origins if origin is not None))
        if not parents or op.endswith("_like") or op.startswith("new_"):  # of which only the shape matters
            self._note_weights(op, tensors, outputs)
            return result
        operands = tuple(
            o for t, o in zip(tensors, origins, strict=True) if o is not None and t.shape == outputs[0].shape
        )
        options = self._options(op, args)
        if rectifies is not None and torch.equal(outputs[0], rectifies):
            op = "relu"
        step = self._note(op, "", parents, outputs[0], options, in_place, tensors, operands)
        step.reads = tuple((o, need) for o, need in zip(origins, needs, strict=True) if o is not None)
        for output in outputs[1:]:
            self._known[id(output)] = step
        step.kind = self._kind(step, outputs[0], tensors)
        return result

    def _origin(self, tensor: Tensor) -> Step | None:
        known = self._known.get(id(tensor))
        storage = tensor.untyped_storage()._cdata
        writer = self._writers.get(storage)
        if known is not None and writer is not None and writer.index > known.index:
            return writer
        if known is None and id(tensor) not in self._names and id(tensor) not in self._made:
            return self._latest.get(storage)  # such as x.data, which runs no operation
        return known or writer

    def _note(
        self,
        op: str,
        kind: str,
        parents: tuple[Step, ...],
        out: Tensor,
        options: dict,
        in_place: bool = False,
        tensors: list[Tensor] = (),
        operands: tuple[Step, ...] = (),
    ) -> Step:
        weights: set[str] = set()
        lost = []
        for tensor in tensors:
            if id(tensor) in self._names:
                weights.add(self._names[id(tensor)])
            elif isinstance(tensor, nn.Parameter):
                lost.append(tensor)
            elif id(tensor) in self._made:
                weights |= self._made[id(tensor)][0]
        where = self.stack[-1] if self.stack else ""
        step = Step(
            len(self.steps), op, kind, parents, where, tuple(sorted(weights)), tuple(out.shape), in_place
        )
        step.options, step.operands, step.lost = dict(options), operands, tuple(lost)
        step.out = out
        self.steps.append(step)
        self._alive.append(out)
        self._known[id(out)] = step
        storage = out.untyped_storage()._cdata
        self._latest[storage] = step
        first = self._bases.setdefault(storage, step)
        if in_place:
            self._writers[storage] = step
            if out.numel() < math.prod(first.shape):
                step.shape = first.shape  # a part was written, and the whole goes on
        return step

    def _note_weights(self, op: str, tensors: list[Tensor], outputs: list[Tensor]) -> None:
        names, chance = set(), op in _RANDOM
        for tensor in tensors:
            if id(tensor) in self._names:
                names.add(self._names[id(tensor)])
            elif id(tensor) in self._made:
                names |= self._made[id(tensor)][0]
                chance |= self._made[id(tensor)][1]
        for output in outputs:
            if id(output) not in self._names:
                self._made[id(output)] = (names, chance)

    def _rectifier(self, name: str, tensors: list[Tensor], origins: list[Step | None]) -> Tensor | None:
        """What a ReLU would give, for operations that may be one written by hand."""
        if name.rstrip("_") not in ("mul", "where", "maximum", "clamp", "max"):
            return None
        of_images = [t for t, o in zip(tensors, origins, strict=True) if o is not None and t.dim() == 4]
        floats = [t for t in of_images if t.is_floating_point()]
        return floats[0].detach().clamp(min=0) if floats else None

    @staticmethod
    def _options(op: str, args: tuple) -> dict:
        if op in _CONVS:
            weight, bias, stride, padding, dilation, _transposed, _, groups = args[1:9]
            return {
                "kernel": tuple(weight.shape[2:]),
                "channels": (weight.shape[1] * groups, weight.shape[0]),
                "bias": bias is not None,
                "stride": tuple(stride),
                "padding": tuple(padding),
                "dilation": tuple(dilation),
                "groups": groups,
                "weight_id": id(weight),
                "learned": isinstance(weight, nn.Parameter) or weight.requires_grad,
                "macs": weight[0].numel(),
            }
        if op in _BATCH_NORMS:
            flags = [a for a in args if isinstance(a, bool)]
            numbers = [a for a in args if isinstance(a, float)]
            training = op != "_batch_norm_no_update" and (not flags or flags[0])
            return {"training": training, "momentum": numbers[0], "eps": numbers[-1]}
        if op == "max_pool2d_with_indices" or op == "avg_pool2d":
            size, stride, padding = (*args[1:4], 0, 0)[:3]
            ceil = args[5] if op.startswith("max") and len(args) > 5 else False
            found = {"size": _pair(size), "stride": _pair(stride or size), "padding": _pair(padding)}
            return {**found, "ceil": ceil}
        return {}

    def _kind(self, step: Step, out: Tensor, tensors: list[Tensor]) -> str:
        op = step.op
        if op in _CONVS:
            return "conv" if step.options["learned"] or step.lost else "other"
        for kinds, kind in (
            (_NORMS, "norm"),
            (_ACTIVATIONS, "act"),
            (_SQUASHES, "squash"),
            (_LINEAR, "linear"),
            (_PASSES, "pass"),
            (_CUTS, "cut"),
        ):
            if op in kinds:
                return kind
        side = step.parents[0].shape[2:]
        if op in _POOLS:
            reduces = op not in ("mean", "amax", "sum") or out.dim() < 4 or out.shape[2:] != side
            return "pool" if reduces or tuple(side) == (1, 1) else "other"
        if op == "native_dropout":
            return "drop"
        if op in ("add", "sub") and out.dim() == 4 and len(step.operands) == 2:
            return "join"
        if op in ("mul", "div", "where", "rsub", "add", "sub", "neg", "addcmul"):
            chance = any(self._made.get(id(t), (None, False))[1] for t in tensors)
            if len(step.parents) > 1:
                step.gates = self._gates(step, out)
                return "norm" if self._normalized(out) and op in ("mul", "div") else "gate"
            if out.dim() == 4 and not bool(out.any()):
                return "cut"  # zeros for option A, written as x * 0
            # One number for each channel is what a frozen norm has.
            learned = [t for t in tensors if id(t) in self._names or id(t) in self._made]
            if out.dim() == 4 and step.weights and any(t.numel() == out.shape[1] for t in learned):
                return "affine"
            return "drop" if chance else "scale"
        return "other"

    @staticmethod
    def _normalized(out: Tensor) -> bool:
        """Mean 0 and variance 1 in each channel: a batch norm written by hand."""
        if out.dim() != 4 or out[:, 0].numel() < 8:
            return False
        mean, var = out.detach().float().mean((0, 2, 3)), out.detach().float().var((0, 2, 3), correction=0)
        return bool(mean.abs().max() < 1e-3 and (var - 1).abs().max() < 0.05)

    def _gates(self, step: Step, out: Tensor) -> tuple[Step, ...]:
        """The parents that only say how much of another parent goes on."""

        def squashed(parent: Step) -> bool:
            while parent.kind == "pass" and len(parent.parents) == 1:
                (parent,) = parent.parents
            small = 1
            for size in parent.shape:
                small *= size
            return parent.kind == "squash" or small < out.numel() or parent.op in ("gt", "ge", "lt", "le")

        gates = tuple(parent for parent in step.parents if squashed(parent))
        return gates if len(gates) < len(step.parents) else ()


def _pair(value: int | list[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1]) if value else (0, 0)


class Graph:
    """The steps of one forward pass, and questions about them.

    Args:
        steps: as :class:`Recorder` noted them; the first is the images themselves.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.children: list[list[Step]] = [[] for _ in steps]
        # One bit for each step: sets of ancestors that cost next to nothing.
        self._above = [0] * len(steps)
        for step in steps:
            above = 1 << step.index
            for parent in step.main:
                above |= self._above[parent.index]
            for parent in step.parents:
                self.children[parent.index].append(step)
            self._above[step.index] = above

    def is_above(self, step: Step, other: Step) -> bool:
        """Whether ``other`` was computed from ``step``, or is the same."""
        return bool(self._above[other.index] >> step.index & 1)

    def fork(self, first: Step, second: Step) -> Step | None:
        """The last step from which both were computed."""
        common = self._above[first.index] & self._above[second.index]
        return self.steps[common.bit_length() - 1] if common else None

    def between(self, start: Step, end: Step) -> list[Step]:
        """What is computed from ``start``, and needed for ``end``: without the first, with the last."""
        found, rest = [], self._above[end.index] >> (start.index + 1)
        index = start.index + 1
        while rest:
            if rest & 1 and self.is_above(start, self.steps[index]):
                found.append(self.steps[index])
            rest >>= 1
            index += 1
        return found

    def settle_activations(self) -> None:
        """A sigmoid that gates nothing is an activation, and so is x times a sigmoid of x."""
        for step in self.steps:
            if (
                step.kind == "squash"
                and step.op != "_softmax"
                and not any(step in child.gates or child.kind == "gate" for child in self.children_of(step))
            ):
                step.kind = "act"
            elif step.kind == "gate" and len(step.gates) == 1 and len(step.main) == 1:
                (gate,), (main,) = step.gates, step.main
                if gate.kind == "squash" and gate.parents == (main,) and gate.shape == main.shape:
                    step.kind, step.op = "act", "silu"

    def children_of(self, step: Step) -> list[Step]:
        """All steps that read it, directly or by way of what has the same size of map."""
        found: list[Step] = []
        for child in self.children[step.index]:
            found.append(child)
            if child.kind in ("pass", "other", "cut"):
                found += self.children_of(child)
        return found

    def cuts(self, out: Tensor) -> list[Step]:
        """Where autograd could go on and does not, in a forward pass that gave ``out``."""
        found = []
        for step in self.steps[1:]:
            if not step.out.is_floating_point() or not (self.children[step.index] or step.out is out):
                continue  # autograd itself detaches what it keeps for later; nothing reads that
            gives = not step.out.requires_grad and any(need for _, need in step.reads)
            if gives or any(not need and origin.out.requires_grad for origin, need in step.reads):
                found.append(step)
        return found

    def next_real(self, step: Step, skip: Callable[[Step], bool] = lambda s: s.kind == "pass") -> list[Step]:
        """The steps that read it, seen through those that only pass it on."""
        found: list[Step] = []
        for child in self.children[step.index]:
            if step in child.gates:
                continue
            found += self.next_real(child, skip) if skip(child) else [child]
        return found
