"""Audit any ResNet-like network: what is wrong with it, what is doubtful, and what is only unusual.

The audit reads no source code and trusts no name. It runs a copy of the network, notes every operation
(:mod:`resnetbook.checks.graph`), finds the additions and what stands around them, and compares with
He et al. 2015, https://arxiv.org/abs/1512.03385, and He et al. 2016, https://arxiv.org/abs/1603.05027.
"""

from __future__ import annotations

import contextlib
import copy
import html
import io
import math
import random
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import models
from resnetbook.blocks import BasicBlock, Bottleneck
from resnetbook.checks.findings import TEXTS
from resnetbook.checks.graph import Graph, Recorder, Step
from resnetbook.checks.tracing import hidden_method, kept_graph
from resnetbook.tables import table

KINDS = ("wrong", "doubtful", "unusual")
TESTS = {
    "shapes": "sizes, odd ones too; one row for each image; strides, padding, pools",
    "counts": "blocks and channels; no layer is idle, shared or not owned",
    "order": "what stands inside of each block, on its shortcut, and between the blocks",
    "gradients": "every weight gets one, and nothing cuts the way",
    "statistics": "norms follow the mode; a prediction depends on its image alone",
    "twin": "the outputs of a trusted network with the same weights, in both modes",
}
_HEADINGS = {
    "wrong": "Wrong",
    "doubtful": "Doubtful: it works, and is nearly always an oversight",
    "unusual": "Other than in the paper, and fine if you meant it",
}
_BN = nn.modules.batchnorm._BatchNorm
_SIZES = (64, 32, 224, 28, 96, 128, 256, 299)
# Blocks per stage that have a name: He et al. 2015, table 1, and what is common besides.
_FAMILY = {
    (3, 3): {(1, 1, 1, 1): 10, (2, 2, 2, 2): 18, (3, 4, 6, 3): 34},
    (1, 3, 1): {
        (1, 1, 1, 1): 14,
        (2, 2, 2, 2): 26,
        (3, 4, 6, 3): 50,
        (3, 4, 23, 3): 101,
        (3, 8, 36, 3): 152,
        (3, 24, 36, 3): 200,
    },
}
_BLOCK_NAMES = {(3, 3): "basic", (1, 3, 1): "bottleneck"}


@dataclass(frozen=True)
class Finding:
    """One thing that the audit has found.

    Attributes:
        kind: ``wrong``, ``doubtful`` or ``unusual``.
        test: which of :data:`TESTS` found it.
        what: it in a few words.
        where: the modules where it is, in the order in which they run; empty for the whole network.
        why: what it does, in plain words.
        next_step: what to do about it.
        key: of its text in :mod:`resnetbook.checks.findings`.
    """

    kind: str
    test: str
    what: str
    where: tuple[str, ...]
    why: str
    next_step: str
    key: str = ""

    def __str__(self) -> str:
        places = list(dict.fromkeys(place or "the network itself" for place in self.where))
        at = f" ({_listed(places)})" if places else ""
        return f"{self.what}{at}. {self.why} {self.next_step}".rstrip()


@dataclass
class Plan:
    """What was counted in the network; ``None`` where it could not be."""

    image_shape: tuple[int, int, int]
    parameters: int
    macs: int | None = None
    layers: int | None = None
    kernels: tuple[int, ...] | None = None
    blocks: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    maps: tuple[int, ...] = ()
    shortcuts: str = ""
    order: str = ""
    stem: str = ""

    def __str__(self) -> str:
        shape = "×".join(map(str, self.image_shape))
        words = [f"{self.parameters:,} parameters"]
        if self.macs:
            words.append(f"{self.macs:,} multiply-adds for an image of {shape}")
        if self.blocks:
            kind = _BLOCK_NAMES.get(self.kernels, "")
            words += [
                f"{self.layers} layers with weights",
                f"stem {self.stem}",
                f"{_numbers(self.blocks)} {kind} blocks".replace("  ", " "),
                f"channels {_numbers(self.channels)} on maps of {_numbers(self.maps)}",
                f"shortcuts: {self.shortcuts}",
                self.order,
            ]
        return "; ".join(words)


@dataclass
class Report:
    """What an audit has found; ``print`` it, or let a notebook show it.

    Attributes:
        name: of the network's class.
        plan: what was counted.
        findings: all of them, the worst first.
        tests: for each of :data:`TESTS`, ``passed``, ``found something``, or why it did not run.
    """

    name: str
    plan: Plan
    findings: list[Finding] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what is doubtful or unusual does not count."""
        return not self.wrong

    @property
    def wrong(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == "wrong"]

    @property
    def doubtful(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == "doubtful"]

    @property
    def unusual(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == "unusual"]

    @property
    def verdict(self) -> str:
        """One line."""
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in KINDS)
        return f"nothing wrong ({counts})" if self.ok else f"not right ({counts})"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}", *_wrapped(str(self.plan), "  ")]
        for kind in KINDS:
            found = getattr(self, kind)
            if found:
                lines += ["", f"{_HEADINGS[kind]}:"]
                for number, finding in enumerate(found, start=1):
                    lines += _wrapped(f"{number}. {finding}", "  ", "     ")
        lines += ["", "Tests:"]
        width = max(map(len, TESTS))
        for name in TESTS:
            line = f"{name:{width}}  {self.tests.get(name, 'not run')}"
            lines += _wrapped(line, "  ", " " * (width + 4))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook, where lines break as the page is wide."""

        def listed(findings: list[Finding]) -> str:
            return "".join(f"<li>{html.escape(str(finding))}</li>" for finding in findings)

        name, plan = html.escape(self.name), html.escape(str(self.plan))
        parts = [f"<p><strong>{name}: {self.verdict}</strong><br>{plan}</p>"]
        for kind in KINDS:
            if found := getattr(self, kind):
                parts.append(f"<p>{_HEADINGS[kind]}:</p><ol>{listed(found)}</ol>")
        rows = [(name, self.tests.get(name, "not run")) for name in TESTS]
        return "".join(parts) + table(rows, columns=["test", "result"])._repr_html_()


def audit(
    network: nn.Module, image_shape: tuple[int, int, int] | None = None, depth: int | None = None
) -> Report:
    """Test a residual network that you did not write, or no longer trust.

    It works on a copy: weights, modes and running statistics of yours stay as they are.

    Args:
        network: any module that maps images ``(N, C, H, W)`` to logits ``(N, num_classes)``.
        image_shape: ``(C, H, W)`` of its images; default: what its first convolution reads, at the first of
            64, 32, 224, 28, … pixels that it accepts.
        depth: how many layers with weights it is said to have, such as 34; default: the number in the name
            of its class, if there is one.

    Returns:
        A :class:`Report`: ``print`` it, or look through ``report.findings``.

    Raises:
        TypeError: if it is no module; a class has to be called first.
    """
    if not isinstance(network, nn.Module):
        hint = "; call it first: add ()" if isinstance(network, type) else ""
        raise TypeError(f"audit() takes a network, not {type(network).__name__}{hint}")
    state = torch.get_rng_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            return _Audit(network, image_shape, depth).report()
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])


# ---- small helpers


def _wrapped(text: str, first: str, rest: str = "") -> list[str]:
    return textwrap.wrap(text, 78, initial_indent=first, subsequent_indent=rest or first)


def _numbers(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _listed(places: list[str], most: int = 3) -> str:
    if len(places) <= most:
        return ", ".join(places)
    return f"{', '.join(places[:most])} and {len(places) - most} more"


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


@dataclass(eq=False)
class _Block:
    """An addition with its two sides."""

    join: Step
    fork: Step
    end: Step  # where F ends
    short: Step  # where the shortcut ends
    inner: list[Step]  # F, in the order in which it runs
    path: list[Step]  # the shortcut
    owner: str

    @property
    def convs(self) -> list[Step]:
        return [step for step in self.inner if step.kind == "conv"]

    @property
    def projections(self) -> list[Step]:
        return [step for step in self.path if step.kind == "conv"]

    @property
    def kernels(self) -> tuple[int, ...]:
        return tuple(conv.options["kernel"][0] for conv in self.convs)

    @property
    def channels(self) -> int:
        return self.join.shape[1]

    @property
    def grows(self) -> bool:
        return self.fork.shape[1] != self.channels

    @property
    def shrinks(self) -> bool:
        return self.join.shape[2] < self.fork.shape[2]


_LETTERS = {
    "conv": "c",
    "norm": "n",
    "affine": "f",
    "act": "a",
    "pool": "p",
    "drop": "d",
    "scale": "s",
    "gate": "g",
    "squash": "q",
    "join": "j",
    "cut": "z",
    "other": "o",
}


def _word(steps: list[Step]) -> str:
    """The kinds of some steps as letters; what only passes numbers on is left out."""
    return "".join(_LETTERS.get(step.kind, "o") for step in steps if step.kind != "pass")


class _Audit:
    def __init__(
        self, network: nn.Module, image_shape: tuple[int, int, int] | None, depth: int | None
    ) -> None:
        self.original = network
        self.findings: list[Finding] = []
        self.tests: dict[str, str] = {}
        self.depth = depth
        self.said = "you say"
        if depth is None:
            named = re.search(r"res_?net_?(\d{2,4})(?![\dx])", type(network).__name__, re.I)
            self.depth = int(named[1]) if named else None
            self.said = "its name says"
        self.wanted_shape = tuple(image_shape) if image_shape else None
        self.plan = Plan(self.wanted_shape or (0, 0, 0), sum(p.numel() for p in network.parameters()))

    def add(self, key: str, where: Sequence[str], *values: object, kind: str = "") -> None:
        """Note a finding of :mod:`resnetbook.checks.findings`, with what belongs into its gaps."""
        text = TEXTS[key]
        what, why, step = (part.format(*values) for part in (text.what, text.why, text.next_step))
        self.findings.append(Finding(kind or text.kind, text.test, what, tuple(where), why, step, key))

    def report(self) -> Report:
        self.prepare()
        stages = [
            ("shapes", self.run_it),
            ("counts", self.count_it),
            ("order", self.read_order),
            ("gradients", self.follow_gradients),
            ("statistics", self.compare_modes),
            ("twin", self.compare_with_twin),
        ]
        for test, stage in stages:
            if self.tests.get("shapes", "").startswith("it does not run"):
                self.tests[test] = "not run: the network has to run first"
                continue
            self.tests[test] = stage() or ""
        for test in TESTS:
            # A test may also find what belongs to another: so who found something is said at the end.
            if any(finding.test == test and finding.kind != "unusual" for finding in self.findings):
                if not self.tests.get(test, "").startswith("it does not run"):
                    self.tests[test] = "found something"
            elif not self.tests.get(test):
                self.tests[test] = f"passed ({TESTS[test]})"
        keys = {finding.key for finding in self.findings}
        explained = {effect for cause in keys for effect in _EXPLAINS.get(cause, "").split()}
        self.findings = [finding for finding in self.findings if finding.key not in explained]
        self.findings.sort(key=lambda finding: (KINDS.index(finding.kind), finding.key not in _FIRST))
        return Report(type(self.original).__name__, self.plan, self.findings, self.tests)

    # ---- a copy that can be run

    def prepare(self) -> None:
        modes = {module.training for module in self.original.modules() if isinstance(module, _BN)}
        if modes and modes != {self.original.training}:
            other = [
                name
                for name, module in self.original.named_modules()
                if isinstance(module, _BN) and module.training != self.original.training
            ]
            self.add(
                "mixed-modes",
                other,
                _many(len(other), "norm"),
                "training" if self.original.training else "evaluation",
            )
        if problem := kept_graph(self.original):
            self.add("kept-graph", (), problem[0].upper(), problem[1:])
        if problem := hidden_method(self.original):
            self.add("hidden-method", (), problem)
        try:
            self.network = copy.deepcopy(self.original)
        except Exception as error:  # noqa: BLE001 - whatever it holds, it cannot be copied
            self.network = self.original
            if not kept_graph(self.original):
                self.add("no-copy", (), error)
        self.state = copy.deepcopy(self.original.state_dict()) if self.network is self.original else None
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        floating = {name: t for name, t in tensors if t.is_floating_point()}
        types = Counter(str(t.dtype).removeprefix("torch.") for t in floating.values())
        if len(types) > 1:
            usual = types.most_common(1)[0][0]
            other = [n for n, t in floating.items() if str(t.dtype).removeprefix("torch.") != usual]
            self.add("types", [name.rpartition(".")[0] for name in other], _numbers(sorted(types)), usual)
        elif types and set(types) != {"float32"}:
            self.add("all-of-a-type", (), next(iter(types)))
        devices = {str(t.device) for _, t in tensors}
        if len(devices) > 1:
            self.add("devices", (), _numbers(sorted(devices)))
        bad = [name for name, t in floating.items() if not bool(torch.isfinite(t).all())]
        if bad:
            self.add("no-numbers", bad)
        self.network.to("cpu").float()
        self.look_at_weights()
        self.mend()

    def look_at_weights(self) -> None:
        alike, dead = [], []
        for name, module in self.network.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Conv2d) and isinstance(weight, Tensor) and module.out_channels > 1:
                first = weight.detach()[:1]
                if bool((weight.detach() == first).all()):
                    (dead if not bool(first.any()) else alike).append(name)
        if alike:
            self.add("equal-filters", alike)
        zero = {name for name, p in self.network.named_parameters() if not bool(p.detach().any())}
        for name in dead:
            prefix = name.rpartition(".")[0]
            others = [z for z in zero if z.startswith(f"{prefix}.") and z.endswith("weight")]
            if len(others) > 1:
                self.add("dead-block", [prefix], _many(len(others), "weight"))
                break

    @torch.no_grad()
    def mend(self) -> None:
        """Numbers behind which no mistake can hide: not the zeros and ones that norms begin with."""
        generator = torch.Generator().manual_seed(0)

        def uniform(tensor: Tensor, low: float, high: float) -> None:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

        for module in self.network.modules():
            if isinstance(module, _BN):
                if module.affine:
                    uniform(module.weight, 0.5, 1.5)
                    uniform(module.bias, -0.3, 0.3)
                if module.running_mean is not None:
                    uniform(module.running_mean, -0.3, 0.3)
                    uniform(module.running_var, 0.5, 1.5)
        for parameter in self.network.parameters():
            if not bool(parameter.any()) or not bool(torch.isfinite(parameter).all()):
                uniform(parameter, -0.2, 0.2)

    # ---- shapes

    def first_channels(self) -> list[int]:
        found = [m.in_channels for m in self.network.modules() if isinstance(m, nn.Conv2d)]
        return list(dict.fromkeys([*found[:1], 3, 1]))

    def images(self, shape: Sequence[int], number: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(number + sum(shape))
        return torch.randn(number, *shape, generator=generator)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield
        self.printed = self.printed or printed.getvalue()

    printed = ""

    def forward(self, images: Tensor, network: nn.Module | None = None) -> Tensor:
        with self.quiet():
            out = (network or self.network)(images)
        return _logits(out)

    def attempt(self, shape: Sequence[int]) -> tuple[Exception | None, str]:
        """What stops one forward pass, in evaluation mode, and where."""
        self.network.eval()
        images = self.images(shape, 2)
        recorder = Recorder(self.network, images)
        try:
            with recorder.on(), torch.no_grad(), self.quiet():
                self.network(images)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the reader has to know
            place = recorder.stack[-1] if recorder.stack else ""
            self.last_op = recorder.steps[-1].kind
            return error, place
        return None, ""

    def run_it(self) -> str:
        tried: list[tuple[tuple[int, ...], Exception, str]] = []
        shapes = [self.wanted_shape] if self.wanted_shape else []
        if not shapes:
            shapes = [(c, side, side) for side in _SIZES for c in self.first_channels()]
        for shape in shapes:
            error, place = self.attempt(shape)
            if error is None:
                break
            tried.append((shape, error, place))
        else:
            # The most telling failure: that of the deepest layer.
            shape, error, place = max(
                tried, key=lambda t: (t[0][1] <= 224, t[0][0] == tried[0][0][0], t[0][1])
            )
            self.plan.image_shape = shape
            self.add(
                "does-not-run",
                [place],
                "×".join(map(str, shape)),
                type(error).__name__,
                str(error).splitlines()[0] if str(error) else "",
                _advice(error),
            )
            self.tests["shapes"] = "it does not run"
            return "it does not run"
        self.plan.image_shape = tuple(shape)
        self.trace()
        if self.trace_error is not None:
            error, place = self.trace_error
            self.add(
                "not-in-training", [place], type(error).__name__, str(error).splitlines()[0], _advice(error)
            )
            self.tests["shapes"] = "it does not run in training mode"
            return "it does not run in training mode"
        if self.printed:
            self.add("prints", (), self.printed.splitlines()[0][:40])
        self.look_at_sizes(shape)
        self.look_at_output()
        self.look_at_convs()
        return ""

    trace_error: tuple[Exception, str] | None = None

    def trace(self) -> None:
        """One pass in training mode, recorded; autograd follows it."""
        self.network.train()
        leaf = self.images(self.plan.image_shape).requires_grad_()
        given = leaf * 1
        before = given.detach().clone()
        recorder = Recorder(self.network, given)
        try:
            with recorder.on(), self.quiet():
                self.out = _logits(self.network(given))
        except Exception as error:  # noqa: BLE001
            self.trace_error = (error, recorder.stack[-1] if recorder.stack else "")
            return
        self.recorder = recorder
        self.graph = Graph(recorder.steps)
        self.steps = recorder.steps
        if not torch.equal(before, given.detach()):
            self.add("changes-images", ())
        self.graph.settle_activations()
        self.norms = [step for step in self.steps if step.kind == "norm"]
        self.convs = [step for step in self.steps if step.kind == "conv"]
        self.find_blocks()

    def look_at_sizes(self, shape: Sequence[int]) -> None:
        channels, height, width = shape
        others = [(height + 11, width - 3), (height + 32, width + 32)]
        failed = []
        for size in others:
            error, place = self.attempt((channels, *size))
            if error is not None:
                failed.append((size, error, place, self.last_op))
        if not failed:
            return
        size, error, place, _ = failed[0]
        text = str(error)
        in_a_block = any(block.owner and place.startswith(block.owner) for block in self.blocks)
        in_a_block |= "must match the size of tensor" in text and not place
        if not in_a_block or len(failed) == 2:
            self.add("one-size", [place], height, width, size[0], size[1])
        else:
            pooled = any("p" in _word(block.inner) for block in self.blocks)
            self.add(
                "odd-sizes",
                [place],
                height,
                width,
                size[0],
                size[1],
                type(error).__name__,
                text.splitlines()[0],
                kind="doubtful" if pooled else "wrong",
            )

    def look_at_output(self) -> None:
        out, number = self.out, self.images(self.plan.image_shape).shape[0]
        if out.dim() == 0 or out.shape[0] != number:
            self.add("rows", (), number, tuple(out.shape))
        elif out.dim() != 2:
            self.add("output-shape", (), tuple(out.shape))
        last = self.origin_of_output()
        while last is not None and last.kind == "pass" and last.parents:
            last = last.parents[0]
        if last is None:
            return
        if last.op in ("_softmax", "sigmoid", "hardsigmoid", "tanh"):
            binary = out.dim() == 2 and out.shape[1] == 1
            name = "softmax" if "softmax" in last.op else last.op
            self.add("softmax", [last.where], name, kind="unusual" if binary else "")
        elif last.op == "_log_softmax":
            self.add("log-softmax", [last.where])
        elif last.kind in ("act", "drop"):
            what = "an activation" if last.kind == "act" else "dropout"
            self.add("bent-logits", [last.where], what)

    def origin_of_output(self) -> Step | None:
        return self.recorder._origin(self.out)

    def look_at_convs(self) -> None:
        shifted, pools = [], []
        for step in self.convs:
            source = step.main[0]
            while source.op == "constant_pad_nd" and source.parents:
                source = source.parents[0]
            kernel, stride = step.options["kernel"], step.options["stride"]
            if any(k % 2 == 0 for k in kernel) or len(source.shape) != 4:
                continue
            wanted = tuple(-(-n // s) for n, s in zip(source.shape[2:], stride, strict=True))
            if step.shape[2:] != wanted:
                shifted.append((step, source.shape[2:], wanted))
        if shifted:
            step, size, wanted = shifted[0]
            k = step.options["kernel"][0]
            self.add(
                "padding",
                [s.where for s, _, _ in shifted],
                _many(len(shifted), "convolution"),
                k,
                step.options["padding"][0],
                step.shape[2],
                step.shape[3],
                size[0],
                size[1],
                wanted[0],
                wanted[1],
                (k - 1) // 2,
            )
        for step in self.steps:
            if step.kind == "pool" and step.op == "max_pool2d_with_indices":
                pools.append(step)
        big = [s for s in self.stem if s.kind == "conv" and s.options["kernel"][0] == 7]
        seven = bool(big)
        for step in pools:
            size, stride, padding = (step.options[key][0] for key in ("size", "stride", "padding"))
            blurred = any(
                len(s.shape) == 4 and s.shape[2] < step.shape[2] and s.kind != "conv"
                for s in self.graph.children_of(step)
            )
            if stride == 1 and not blurred:
                self.add("pool-stride", [step.where], size)
            elif (size, stride, padding) != (3, 2, 1) and step in self.stem:
                odd = step.parents[0].op == "constant_pad_nd" or step.options["ceil"]
                self.add(
                    "stem-pool",
                    [step.where],
                    size,
                    stride,
                    padding,
                    kind="doubtful" if seven and not (odd or blurred) else "unusual",
                )
        if big and big[0].options["stride"][0] == 2 and self.blocks:
            entering = self.blocks[0].fork.shape[2]
            if entering > -(-self.plan.image_shape[1] // 4):
                self.add("no-pool", [big[0].where])

    # ---- the blocks

    def find_blocks(self) -> None:
        graph = self.graph
        self.blocks: list[_Block] = []
        self.self_sums: list[Step] = []
        found: list[_Block] = []
        for join in (step for step in self.steps if step.kind == "join"):
            first, second = join.operands
            if first is second:
                self.self_sums.append(join)
                continue
            fork = graph.fork(first, second)
            if fork is None or any(set(join.operands) == set(other.join.operands) for other in found):
                continue
            sides = []
            for side in (first, second):
                inside = [] if side is fork else graph.between(fork, side)
                weights = sum(math.prod(s.options["kernel"]) for s in inside if s.kind == "conv")
                sides.append((sum(s.kind == "conv" for s in inside), weights, len(inside), side, inside))
            sides.sort(key=lambda s: s[:3])
            (_, _, _, short, path), (count, _, _, end, inner) = sides
            if not count:
                continue
            found.append(_Block(join, fork, end, short, inner, path, join.where))
        # An addition inside of another's F, or around several others.
        self.long: list[_Block] = []
        self.nested: list[_Block] = []
        for block in found:
            inside = [other for other in found if other is not block and other.join in block.inner]
            chain = [other for other in inside if len(other.convs) > 1]
            if len(chain) > 1 or (chain and len(chain[0].convs) == len(block.convs)):
                self.long.append(block)
            else:
                self.nested += inside
        self.blocks = [b for b in found if b not in self.long and b not in self.nested]
        self.blocks.sort(key=lambda block: block.join.index)
        start = self.blocks[0].fork if self.blocks else self.steps[-1]
        self.stem = [s for s in self.steps if graph.is_above(s, start) and s.kind != "image"]
        covered = {step for b in self.blocks for step in (*b.inner, *b.path)}
        self.gate_steps = self.steps_of_gates()
        self.loose = [
            s
            for s in self.convs
            if s not in covered and s not in self.stem and s not in self.gate_steps and s.shape[2:] != (1, 1)
        ]
        self.stem_convs = [s for s in self.stem if s.kind == "conv" and s not in self.gate_steps]

    def steps_of_gates(self) -> set[Step]:
        """What only feeds gates, such as the two layers of squeeze-and-excitation."""
        main: set[int] = set()
        last = self.origin_of_output() or self.steps[-1]
        for step in self.steps:
            if self.graph.is_above(step, last):
                main.add(step.index)
        return {step for step in self.steps if step.index not in main}

    # ---- counts

    def count_it(self) -> str:
        self.count_layers()
        self.look_at_ownership()
        if not self.blocks:
            return ""
        self.fill_plan()
        self.compare_with_family()
        self.compare_widths()
        self.compare_strides()
        return ""

    def count_layers(self) -> None:
        number = self.out.shape[0] or 1
        self.plan.macs = sum(math.prod(step.shape[1:]) * step.options["macs"] for step in self.convs) + sum(
            math.prod(step.shape) * step.parents[-1].shape[-1] // number
            for step in self.steps
            if step.kind == "linear" and len(step.shape) == 2
        )

    def look_at_ownership(self) -> None:
        used = {name for step in self.steps for name in step.weights}
        parameters = dict(self.network.named_parameters(remove_duplicate=False))
        same_as = {id(p): name for name, p in self.network.named_parameters()}
        idle = [n for n, p in parameters.items() if same_as[id(p)] not in used]
        if idle:
            layers = list(dict.fromkeys(name.rpartition(".")[0] for name in idle))
            count = sum({id(parameters[n]): parameters[n].numel() for n in idle}.values())
            self.add("never-runs", layers, _many(len(layers), "layer"), count)
        lost = [step for step in self.steps if step.lost]
        if lost:
            self.add("not-owned", list(dict.fromkeys(step.where for step in lost)), _many(len(lost), "layer"))
        self.shared: set[str] = set()
        for kind, what in (("conv", "convolution"), ("norm", "norm"), ("linear", "linear layer")):
            places: dict[str, list[Step]] = {}
            for step in self.steps:
                if step.kind == kind:
                    for name in step.weights:
                        places.setdefault(name, []).append(step)
            names = [n for n, steps in places.items() if len(steps) > 1 and n.rpartition(".")[2] == "weight"]
            names = names or [n for n, steps in places.items() if len(steps) > 1 and kind == "norm"]
            self.shared.update(names)
            if names:
                layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
                times = max(len(places[name]) for name in names)
                self.add(
                    "shared",
                    layers,
                    _many(len(layers), what),
                    times,
                    ", and the running statistics mix what they see there." if kind == "norm" else ".",
                )

    def fill_plan(self) -> None:
        plan, blocks = self.plan, self.blocks
        self.stages: list[list[_Block]] = []
        for block in blocks:
            previous = self.stages[-1][-1] if self.stages else None
            if previous is None or block.channels != previous.channels:
                self.stages.append([block])
            elif block.shrinks and not previous.shrinks:
                self.stages.append([block])
            else:
                self.stages[-1].append(block)
        kernels = Counter(block.kernels for block in blocks)
        plan.kernels = kernels.most_common(1)[0][0]
        plan.blocks = tuple(len(stage) for stage in self.stages)
        plan.channels = tuple(stage[0].channels for stage in self.stages)
        plan.maps = tuple(stage[-1].join.shape[2] for stage in self.stages)
        convs = len(self.stem_convs) + sum(len(block.convs) for block in blocks) + len(self.loose)
        linears = [step for step in self.steps if step.kind == "linear" and step not in self.gate_steps]
        last = [s for s in self.convs if s.shape[2:] == (1, 1) and s.index > blocks[-1].join.index]
        plan.layers = convs + len(linears) + len(last)
        kernel = self.stem_convs[0].options if self.stem_convs else None
        if kernel:
            k, s = kernel["kernel"][0], kernel["stride"][0]
            pooled = any(step.kind == "pool" for step in self.stem)
            plan.stem = (
                f"{k}×{k}" + (f" with stride {s}" if s > 1 else "") + (" and a pool" if pooled else "")
            )
            if len(self.stem_convs) > 1:
                plan.stem = f"of {len(self.stem_convs)} convolutions"
        projected = [block for block in blocks if block.projections]
        changing = [block for block in blocks if block.grows or block.shrinks]
        padded = [block for block in changing if not block.projections]
        if padded and not projected:
            plan.shortcuts = "option A (zeros where the shape changes)"
        elif len(projected) == len(blocks):
            plan.shortcuts = "option C (a projection in every block)"
        elif not changing and not projected:
            plan.shortcuts = "all of them the identity"
        else:
            plan.shortcuts = "option B (a projection where the shape changes)"
        self.padded, self.projected = padded, projected
        identities = [block for block in blocks if not block.projections]
        starts = [_word(block.inner)[:1] in ("n", "a", "f") for block in identities]
        ends = [_word(block.inner).rstrip("dsgf")[-1:] == "c" for block in blocks]
        if identities:
            self.v2 = sum(starts) * 2 > len(starts)
        else:
            roads = [self.road(i) for i in range(1, len(blocks))]
            self.v2 = sum(ends) * 2 > len(ends) and sum("n" in road for road in roads) * 2 > len(roads)
        plan.order = "pre-activation (v2)" if self.v2 else "post-activation (v1)"

    def compare_with_family(self) -> None:
        plan = self.plan
        odd = [block for block in self.blocks if block.kernels != plan.kernels]
        if odd:
            most = "×".join(map(str, odd[0].kernels))
            self.add(
                "other-blocks",
                [block.owner for block in odd],
                _many(len(odd), "block"),
                len(plan.kernels),
                _numbers(plan.kernels),
                _numbers(odd[0].kernels) or most,
            )
        family = _FAMILY.get(plan.kernels)
        per_block = len(plan.kernels)
        expected = None
        if self.depth is not None:
            for blocks, layers in (family or {}).items():
                if layers == self.depth:
                    expected = blocks
            if expected is None and len(plan.blocks) == 3 and (self.depth - 2) % (3 * per_block) == 0:
                expected = ((self.depth - 2) // (3 * per_block),) * 3
            # A wide network counts its projections, too; a deep stem has two convolutions more.
            counted = plan.layers + len(self.projected)
            near = {plan.layers - len(self.stem_convs) + 1, plan.layers, counted, counted - 1}
            if plan.blocks == expected:
                return
            if self.depth not in near or (expected and plan.blocks != expected):
                should = f", and {_numbers(expected)} belong to that depth" if expected else ""
                self.add("depth", (), plan.layers, self.said, self.depth, _numbers(plan.blocks), should)
            return
        if family is None:
            self.add("kernels", (), _many(per_block, "convolution"), _numbers(plan.kernels))
            return
        if plan.blocks in family or (len(plan.blocks) == 3 and len(set(plan.blocks)) == 1):
            return
        for blocks, layers in family.items():
            if len(blocks) != len(plan.blocks) or layers in (10, 14, 26, 200):
                continue
            steps = [mine - right for mine, right in zip(plan.blocks, blocks, strict=True)]
            if len(set(steps)) == 1 and abs(steps[0]) == 1 and len(set(blocks)) > 1:
                told = f"one {'more' if steps[0] > 0 else 'less'} in every stage than ResNet-{layers}"
            elif sum(step != 0 for step in steps) == 1:
                told = f"ResNet-{layers} has {_numbers(blocks)}"
            else:
                continue
            self.add("near-family", (), _numbers(plan.blocks), told)
            return
        self.add("other-stages", (), _numbers(plan.blocks))

    def compare_widths(self) -> None:
        channels, maps = self.plan.channels, self.plan.maps
        ratios = [b / a for a, b in zip(channels, channels[1:], strict=False)]
        equal = [i for i, ratio in enumerate(ratios) if ratio == 1 and maps[i + 1] < maps[i]]
        right = [channels[0] * 2**i for i in range(len(channels))]
        off = [i for i, (mine, wanted) in enumerate(zip(channels, right, strict=True)) if mine != wanted]
        kept = [channels[i] if i not in off else 0 for i in range(len(channels))]
        copies = all(channels[i] in (kept[i - 1], *kept[i + 1 : i + 2]) for i in off)
        if equal and len(equal) < len(ratios) and (set(ratios) == {1, 2} or copies):
            self.add("neighbours", [self.stages[i + 1][0].owner for i in equal], _numbers(channels))
        elif any(ratio != 2 for ratio in ratios):
            self.add("channels", (), _numbers(channels))
        if self.plan.kernels == (1, 3, 1):
            ratio = Counter(
                b.channels / b.convs[1].options["channels"][1] for b in self.blocks if len(b.convs) == 3
            )
            if ratio and set(ratio) != {4.0}:
                self.add("expansion", (), _numbers(f"{r:g}" for r in sorted(ratio)))
        if any(conv.options["groups"] > 1 for block in self.blocks for conv in block.convs):
            self.add("groups", ())
        first = self.stem_convs[0].options["channels"][0] if self.stem_convs else 3
        if first > 16:
            self.add("image-channels", [self.stem_convs[0].where], first)

    def compare_strides(self) -> None:
        never = []
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            block = stage[0]
            if block.channels > before[-1].channels and not any(b.shrinks for b in stage):
                dilated = any(conv.options["dilation"][0] > 1 for b in stage for conv in b.convs)
                if dilated:
                    self.add("dilation", [block.owner])
                elif block.fork.shape[2] > 1:
                    never.append(block)
        if never:
            self.add("no-stride", [block.owner for block in never], _many(len(never), "stage"))
        for number, stage in enumerate(self.stages):
            halving = [block for block in stage if block.shrinks]
            if len(halving) > 1:
                self.add("every-stride", [block.owner for block in halving], len(halving))
            elif halving and halving[0] is not stage[0]:
                self.add("late-stride", [halving[0].owner])
            elif halving and number == 0 and self.blocks[0].fork.shape[2] < self.plan.image_shape[1]:
                reduced = 4 * self.blocks[0].fork.shape[2] <= self.plan.image_shape[1] + 3
                self.add("first-stride", [halving[0].owner], kind="doubtful" if reduced else "")
        early = [b for b in self.blocks if b.kernels == (1, 3, 1) and b.convs[0].options["stride"][0] > 1]
        if early:
            self.add("stride-1x1", [block.owner for block in early])

    # ---- order

    def road(self, number: int) -> str:
        """What stands on the main road before block ``number``, as letters."""
        start = self.blocks[number - 1].join
        fork = self.blocks[number].fork
        return "" if start is fork else _word(self.graph.between(start, fork))

    def read_order(self) -> str:
        for join in self.self_sums:
            self.add("self-sum", [join.where])
        if not self.blocks:
            joined = "cat" in {step.op for step in self.steps if len(step.parents) > 1}
            self.add(
                "plain",
                (),
                ": here it is concatenated, as in a DenseNet." if joined else ": this is a plain network.",
            )
            return ""
        self.look_for_missing_shortcuts()
        self.look_at_signs()
        self.look_inside()
        self.look_at_shortcuts()
        self.look_at_the_road()
        self.look_at_extras()
        return ""

    def look_for_missing_shortcuts(self) -> None:
        classes = {
            type(m) for n, m in self.network.named_modules() if n in {b.owner for b in self.blocks} and n
        }
        owners = {block.owner for block in self.blocks}
        modules = dict(self.network.named_modules())

        def block_of(step: Step) -> str | None:
            """The module of a block's class in which a step ran."""
            parts = step.where.split(".")
            for length in range(len(parts), 0, -1):
                name = ".".join(parts[:length])
                if type(modules.get(name)) in classes:
                    return name
            return None

        late, without, single = [], [], []
        for step in [*self.loose, *self.stem_convs]:
            owner = block_of(step)
            if owner in owners:
                late.append(owner)
            elif owner is not None:
                without.append(owner)
            elif step in self.loose:
                single.append(step)
        if not classes:
            # Written without classes: a run of as many loose convolutions as a block has is a block.
            counts = Counter(self.blocks_passed(step) for step in single)
            runs = [s for s in single if counts[self.blocks_passed(s)] >= len(self.plan.kernels)]
            without += [step.where for step in runs]
            single = [step for step in single if step not in runs]
        if without:
            names = list(dict.fromkeys(without))
            self.add("no-shortcut", names, _many(len(names), "block"))
        if late:
            names = list(dict.fromkeys(late))
            self.add(
                "late-shortcut",
                names,
                f"{_many(len(names), 'shortcut')} that does not go around all of its block"
                if len(names) == 1
                else f"{_many(len(names), 'shortcut')} that do not go around all of their blocks",
            )
        if single:
            self.add("loose-convs", [step.where for step in single], _many(len(single), "convolution"))

    def blocks_passed(self, step: Step) -> int:
        return sum(block.join.index < step.index for block in self.blocks)

    def look_at_signs(self) -> None:
        minus = [b.owner for b in self.blocks if b.join.op == "sub"]
        if minus:
            self.add("minus", minus)
        if self.long:
            self.add("long-shortcut", [b.owner for b in self.long], _many(len(self.long), "shortcut"))

    def look_inside(self) -> None:
        """F of every block."""
        some_norms = bool(self.norms) or any(s.kind == "affine" for s in self.steps)
        relu_last, linear, bare, early = [], [], [], []
        for block in self.blocks:
            steps = [s for s in block.inner if s.kind not in ("pass", "drop", "gate", "squash", "scale")]
            word = _word(steps)
            if word.rstrip("f").endswith("a") and not (block.end.kind == "affine"):
                relu_last.append(block.owner)
            between = [steps[i] for i in range(len(steps))]
            for one, other in _neighbours(between, "conv"):
                gap = between[between.index(one) + 1 : between.index(other)]
                depthwise = one.options["groups"] > 1 or other.options["groups"] > 1
                if (
                    not any(s.kind == "act" for s in gap)
                    and not depthwise
                    and self.graph.is_above(one, other)
                ):
                    linear.append(block.owner)
            if re.search("ca+[nf]", word) and not self.v2:
                early.append(block.owner)
            if some_norms and self.lacks_norm(block, word):
                bare.append(block.owner)
        if relu_last:
            self.add("relu-before-plus", relu_last, _many(len(relu_last), "block"))
        if linear:
            linear = list(dict.fromkeys(linear))
            self.add("linear-pair", linear, _many(len(linear), "block"))
        if early:
            self.add("relu-before-norm", early, _many(len(early), "block"))
        stem = [s for s in self.stem_convs if some_norms and not self.normed(s) and not self.v2]
        if stem and stem[-1] is self.stem_convs[-1]:
            bare.append(stem[-1].where)
        if bare:
            self.add("bare-conv", bare, _many(len(bare), "place"))
        elif not some_norms:
            self.add("no-norms", ())

    def lacks_norm(self, block: _Block, word: str) -> bool:
        if self.v2:
            lead = word.replace("f", "n")
            fork_road = self.before(block)
            return re.fullmatch("((n?a?n?)c)+.*", (fork_road + lead)) is None or "cc" in lead or "cac" in lead
        return re.search("c(?!a*[nf])", re.sub("[poj]", "", word)) is not None

    def before(self, block: _Block) -> str:
        """What stands between the plus before a block and the place where its shortcut begins."""
        number = self.blocks.index(block)
        return self.road(number).replace("f", "n") if number else ""

    def normed(self, conv: Step) -> bool:
        followers = self.graph.next_real(conv, lambda s: s.kind in ("pass", "pool", "drop", "scale", "other"))
        return any(step.kind in ("norm", "affine") for step in followers)

    def look_at_shortcuts(self) -> None:
        bare, active, touched, three, same, normed = [], [], [], [], [], []
        biased = {s for s in self.convs if s.options["bias"]}
        for block in self.blocks:
            word = _word(block.path)
            changes = block.grows or block.shrinks
            if "a" in word:
                active.append(block.owner)
            if "d" in word or "s" in word or "g" in word:
                touched.append(block.owner)
            if not block.projections:
                if "n" in word or "f" in word:
                    normed.append(block.owner)
                continue
            if any(conv.options["kernel"] != (1, 1) for conv in block.projections):
                three.append(block.owner)
            if not changes and not self.plan.shortcuts.startswith("option C"):
                same.append(block.owner)
            if not self.v2 and self.norms and not re.search("c[nf]", word):
                bare.append(block)
        if bare:
            all_of_them = len(bare) == len(self.projected)
            style = all_of_them and len(biased) > len(bare)
            self.add(
                "bare-projection",
                [block.owner for block in bare],
                _many(len(bare), "projection"),
                ". d2l.ai's network is built so, with biases in place of the norms." if style else ".",
                kind="doubtful" if style else "wrong",
            )
        if active:
            self.add("active-shortcut", active, _many(len(active), "shortcut"))
        if normed:
            self.add("normed-shortcut", normed, _many(len(normed), "shortcut"))
        if touched:
            self.add("touched-shortcut", touched, _many(len(touched), "shortcut"))
        if three:
            self.add("large-projection", three, _many(len(three), "projection"))
        if same:
            self.add("needless-projection", same, _many(len(same), "projection"))
        if self.plan.shortcuts.startswith("option C") and len(self.blocks) > len(self.stages):
            self.add("option-c", ())

    def look_at_the_road(self) -> None:
        """What every block's output, and so every shortcut, must pass."""
        no_relu, with_norm, relu_v2, factors, changed = [], [], [], [], []
        for number in range(1, len(self.blocks)):
            block, before = self.blocks[number], self.blocks[number - 1]
            road = self.road(number)
            starts = _word(block.inner)[:1]
            if not self.v2 and "a" not in road and starts not in ("a", "n", "f"):
                no_relu.append(before.owner)
            if ("n" in road or "f" in road) and not block.projections:
                with_norm.append(before.owner)
            if self.v2 and "a" in road and "n" not in road and not block.projections:
                relu_v2.append(block.owner)
            steps = [] if before.join is block.fork else self.graph.between(before.join, block.fork)
            if any(s.in_place and s.kind in ("scale", "drop", "gate", "other") for s in steps):
                changed.append(block.owner)
            elif "s" in road or "d" in road:
                factors.append(before.owner)
        if changed:
            self.add("changed-input", changed, _many(len(changed), "block"))
        if factors:
            self.add("factor-after-plus", factors)
        head = self.head_word()
        if "a" not in head or (self.v2 and self.norms and "n" not in head):
            no_relu.append(self.blocks[-1].owner)
        if no_relu and self.v2:
            self.add("no-last-relu-v2", no_relu)
        elif no_relu:
            self.add("no-last-relu", no_relu, _many(len(no_relu), "block"))
        if with_norm:
            self.add(
                "norm-after-plus",
                with_norm,
                _many(len(with_norm), "block"),
                "Norm inside of F, then the plus."
                if not self.v2
                else "In v2 the shortcut begins before the norm, unless a projection stands on it.",
            )
        if relu_v2:
            self.add("relu-on-road", relu_v2, _many(len(relu_v2), "block"))

    def head_word(self) -> str:
        last = self.origin_of_output() or self.steps[-1]
        steps = self.graph.between(self.blocks[-1].join, last)
        return _word(steps).partition("p")[0]

    def look_at_extras(self) -> None:
        stem = _word([s for s in self.stem if s.kind != "pass"])
        if self.stem_convs and "a" not in stem and not self.v2:
            self.add("stem-relu", [self.stem_convs[-1].where])
        if re.match("[sofg]+c", stem):
            self.add("image-arithmetic", ())
        biased = [
            s for s in self.convs if s.options["bias"] and s not in self.gate_steps and self.cancelled(s)
        ]
        if biased:
            count = sum(s.options["channels"][1] for s in biased)
            self.add("bias", [s.where for s in biased], _many(len(biased), "convolution"), count)
        gates = [s for b in self.blocks for s in b.inner if s.kind == "gate"]
        if gates:
            self.add("gates", [s.where for s in gates])
        drops = [s for s in self.steps if s.kind == "drop"]
        if drops:
            self.add("dropout", [s.where for s in drops])
        scales = [s for b in self.blocks for s in b.inner if s.kind == "scale"]
        if scales:
            self.add("factor", [s.where for s in scales])
        paths = {s for b in self.blocks for s in b.path}
        strange = [s for s in self.steps if s.kind in ("other", "cut") and s.op not in _PLAIN_OPERATIONS]
        strange = [
            s
            for s in strange
            if s not in self.gate_steps
            and s not in paths
            and not any(c.kind == "join" or c.op == "copy" for c in self.graph.children[s.index])
        ]
        if strange:
            self.add("strange", [s.where for s in strange], _numbers(sorted({s.op for s in strange})))
        others = Counter(s.op for s in self.steps if s.kind == "act")
        if set(others) - {"relu"}:
            names = _numbers(sorted({name.replace("hardtanh", "relu6") for name in others}))
            self.add("activations", (), names)
        kinds = {s.op for s in self.norms if not s.op.endswith(("batch_norm", "legit", "update"))}
        if kinds - {"mul", "div"}:
            self.add("other-norms", ())
        elif kinds:
            self.add("hand-norms", ())
        pools = [s for s in self.steps if s.kind == "pool" and s.index > self.blocks[-1].join.index]
        if not pools:
            self.add("no-last-pool", ())
        elif any("max" in step.op for step in pools):
            self.add("max-last-pool", ())
        pooled = [b.owner for b in self.blocks if b.projections and "p" in _word(b.path)]
        if pooled:
            self.add("pooled-projection", pooled)

    def cancelled(self, conv: Step) -> bool:
        """Whether a batch norm reads what the convolution puts out, at once."""
        followers = self.graph.next_real(conv)
        batch = [s for s in followers if s.kind == "norm" and "training" in s.options]
        return bool(batch) and len(batch) == len(followers)

    # ---- gradients

    def follow_gradients(self) -> str:
        casts = [
            s
            for s in self.steps
            if s.out.is_floating_point() and s.out.dtype != torch.float32 and s.kind != "image"
        ]
        if casts:
            self.add("casts", [s.where for s in casts], str(casts[0].out.dtype).removeprefix("torch."))
        frozen = [n for n, p in self.network.named_parameters() if not p.requires_grad]
        if frozen:
            layers = list(dict.fromkeys(name.rpartition(".")[0] for name in frozen))
            learning = {n.split(".")[0] for n, p in self.network.named_parameters() if p.requires_grad}
            head_only = len(learning) == 1
            self.add(
                "frozen",
                layers,
                _many(len(layers), "layer"),
                ", as in transfer learning." if head_only else ".",
                "" if head_only else "parameter.requires_grad_(True), if they are to learn.",
                kind="unusual" if head_only else "doubtful",
            )
        inside = {
            step: block.owner for block in self.blocks for step in (*block.inner, *block.path, block.join)
        }
        cuts = [step for step in self.graph.cuts(self.out) if not (frozen and not self.learns_above(step))]
        if cuts:
            self.add("cut", [inside.get(step, step.where) for step in cuts], _many(len(cuts), "place"))
        if not self.out.requires_grad:
            if not cuts:
                self.add("no-gradient", ())
            return ""
        generator = torch.Generator().manual_seed(1)
        direction = torch.randn(self.out.shape, generator=generator)
        try:
            (self.out * direction).sum().backward()
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            self.add("backward", self.suspects(), text.partition(": [")[0])
            return ""
        used = {name for step in self.steps for name in step.weights}
        # The few units of a gate may all be silent by chance.
        gated = {name for step in self.gate_steps for name in step.weights}
        dead = [
            n
            for n, p in self.network.named_parameters()
            if p.requires_grad and n in used and (p.grad is None or not (n in gated or bool(p.grad.any())))
        ]
        if dead and not cuts:
            self.add("dead-weight", dead, _many(len(dead), "weight"))
        return ""

    def suspects(self) -> list[str]:
        """Where a sum overwrites what it reads, and that is no fresh result."""
        return [b.owner for b in self.blocks if b.join.in_place and b.join.operands[0] is b.short]

    def learns_above(self, step: Step) -> bool:
        parameters = dict(self.network.named_parameters())
        above = [s for s in self.steps if self.graph.is_above(s, step)]
        return any(n in parameters and parameters[n].requires_grad for s in above for n in s.weights)

    # ---- statistics

    def compare_modes(self) -> str:
        stuck = [s for s in self.norms if s.options.get("training") is False]
        if stuck:
            self.add("stuck-norms", [s.where for s in stuck], _many(len(stuck), "norm"))
        strange = [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, _BN) and module.momentum is not None and module.momentum > 0.5
        ]
        if strange:
            self.add(
                "momentum", [name for name, _ in strange], _many(len(strange), "norm"), strange[0][1].momentum
            )
        plain = [n for n, m in self.network.named_modules() if isinstance(m, _BN) and not m.affine]
        if plain:
            self.add("no-affine", plain, _many(len(plain), "norm"))
        wide = [(n, m) for n, m in self.network.named_modules() if isinstance(m, _BN) and m.eps >= 1e-2]
        if wide:
            self.add("epsilon", [name for name, _ in wide], _many(len(wide), "norm"), wide[0][1].eps)
        network = self.network.eval()
        images = self.images(self.plan.image_shape)
        given = images.clone()
        before = {name: b.clone() for name, b in network.named_buffers()}
        recorder = Recorder(network, given)
        states = [(torch.get_rng_state(), random.getstate())]
        with torch.no_grad(), self.quiet():
            with recorder.on():
                first = _logits(network(given))
            again = _logits(network(images.clone()))
            single = _logits(network(images[:1].clone()))
        states.append((torch.get_rng_state(), random.getstate()))
        drawn = not torch.equal(states[0][0], states[1][0]) or states[0][1] != states[1][1]
        training = [s for s in recorder.steps if s.kind == "norm" and s.options.get("training")]
        if training:
            self.add("training-norms", [s.where for s in training], _many(len(training), "norm"))
        scale = 1 + float(first.abs().max())
        moved = [
            name
            for name, b in network.named_buffers()
            if not torch.equal(before[name], b) and not bool((b != b).any())
        ]
        if moved:
            self.add("eval-changes", [name.rpartition(".")[0] for name in moved])
        if drawn or (first - again).abs().max() > 1e-5 * scale:
            self.add("chance", [s.where for s in recorder.steps if s.kind == "drop"])
        elif not training and first.shape[:1] == (4,) and (first[:1] - single).abs().max() > 1e-3 * scale:
            self.add("mixed-images", ())
        return ""

    # ---- the twin

    def compare_with_twin(self) -> str:
        why = self.no_twin()
        if why:
            return f"not run: {why}"
        torch.manual_seed(1)
        last = [s for s in self.steps if s.kind == "linear"][-1]
        options = [False] if not self.padded else [False, True]
        differences = []
        for halves in options:
            twin = self.make_twin(halves, last)
            difference, elsewhere = self.differences(twin)
            differences.append(difference)
            if difference <= 1e-6:
                if elsewhere > 1e-6:
                    _, height, width = self.plan.image_shape
                    self.add("other-size", (), height, width, *self.another_size(), elsewhere)
                if self.padded:
                    self.plan.shortcuts = (
                        "option A (zeros behind the old channels)"
                        if not halves
                        else "option A (half of the zeros before the old channels, half behind)"
                    )
                return ""
        self.add("twin", (), min(differences))
        return ""

    def no_twin(self) -> str:
        plan = self.plan
        if not self.blocks or any(finding.key not in _HARMLESS for finding in self.findings):
            return "what is found comes first, or there is none of this form"
        if plan.kernels not in _BLOCK_NAMES or self.v2:
            return "the book has no network of this form to compare with"
        stem = self.stem_convs[0].options if len(self.stem_convs) == 1 else {}
        pools = [s for s in self.stem if s.kind == "pool"]
        imagenet = stem.get("kernel") == (7, 7) and stem["stride"] == (2, 2) and len(pools) == 1
        small = stem.get("kernel") == (3, 3) and not pools
        if (
            not (imagenet or small)
            or len(self.stages) not in (3, 4)
            or plan.kernels != self.blocks[0].kernels
        ):
            return "the book has no network of this form to compare with"
        if len(self.stages) == 4 and small and stem["stride"] != (1, 1):
            return "the book has no network of this form to compare with"
        width = plan.channels[0] // (4 if plan.kernels == (1, 3, 1) else 1)
        if stem["channels"][1] != width or not all(s.options.get("training") for s in self.norms):
            return "the book has no network of this form to compare with"
        if any(b.shrinks for b in self.stages[0]) or len(self.out.shape) != 2:
            return "the book has no network of this form to compare with"
        if len([s for s in self.steps if s.kind == "linear"]) != 1 or self.loose:
            return "the book has no network of this form to compare with"
        if any(s.kind in ("scale", "other", "affine") for s in self.steps):
            return "it does some arithmetic that the book's networks do not"
        if any(
            not n.endswith((".weight", ".bias", "running_mean", "running_var"))
            for s in self.norms
            for n in s.weights
        ):
            return "its norms keep their numbers under other names"
        return ""

    def make_twin(self, halves: bool, last: Step) -> nn.Module:
        plan = self.plan
        bottleneck = plan.kernels == (1, 3, 1)
        shortcut = "A" if self.padded else "C" if len(self.projected) == len(self.blocks) else "B"
        if len(self.projected) == len(self.blocks) == len(self.stages):
            shortcut = "C"
        block: Callable[..., nn.Module] = partial(BasicBlock, shortcut=shortcut)
        if bottleneck:
            early = any(b.convs[0].options["stride"][0] > 1 for b in self.blocks)
            block = partial(Bottleneck, shortcut=shortcut, stride_on="1x1" if early else "3x3")
        channels, classes = plan.image_shape[0], last.shape[1]
        stem = self.stem_convs[0].options
        width = stem["channels"][1]
        if len(plan.blocks) == 4:
            small = "small" if stem["kernel"] == (3, 3) else "imagenet"
            twin = models.ResNet(block, plan.blocks, classes, channels, small, width)
        else:
            twin = _ThreeStages(block, plan.blocks, width, channels, classes, stem, bottleneck)
        if halves:
            for module in twin.modules():
                if hasattr(module, "new_channels"):
                    module.forward = partial(_pad_both_sides, module)
        return twin

    def another_size(self) -> tuple[int, int]:
        """Height and width of images whose maps have odd sides."""
        _, height, width = self.plan.image_shape
        return height + 11, width - 3

    def differences(self, twin: nn.Module) -> tuple[float, float]:
        """The largest difference of any output, as a share of the largest output, in double precision.

        For images of the plan's size in both modes, and for another size; where that one stops, 0.
        """
        mine = self.network
        mine.double()
        twin.double()
        pairs = []
        for network in (mine, twin):
            network.eval()
            images = self.images(self.plan.image_shape, 2).double()
            recorder = Recorder(network, images)
            with recorder.on(), torch.no_grad(), self.quiet():
                network(images)
            steps = [s for s in recorder.steps if s.kind in ("conv", "norm", "linear")]
            pairs.append(self.in_order(Graph(recorder.steps), steps))
        if [s.kind for s in pairs[0]] != [s.kind for s in pairs[1]]:
            return math.inf, math.inf
        state, target = mine.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
        with torch.no_grad():
            for one, other in zip(*pairs, strict=True):
                for name in other.weights:
                    end = name.rpartition(".")[2]
                    match = [n for n in one.weights if n.rpartition(".")[2] == end]
                    if len(match) != 1 or state[match[0]].shape != target[name].shape:
                        return math.inf, math.inf
                    target[name].copy_(state[match[0]])
                if one.kind == "norm":
                    owner = twin.get_submodule(other.where)
                    owner.eps, owner.momentum = one.options["eps"], one.options["momentum"]
        channels, *own = self.plan.image_shape
        here, elsewhere = 0.0, 0.0
        for size, training in ((own, True), (own, False), (self.another_size(), False)):
            images = self.images((channels, *size), 2).double()
            mine.train(training)
            twin.train(training)
            with torch.no_grad():
                try:
                    given = self.forward(images.clone())
                except Exception:  # noqa: BLE001 - a network for one size; that was said already
                    continue
                right = twin(images)
            off = float((given - right).abs().max() / right.abs().max())
            here, elsewhere = (max(here, off), elsewhere) if size is own else (here, off)
        return here, elsewhere

    def in_order(self, graph: Graph, steps: list[Step]) -> list[Step]:
        """Steps in an order that does not depend on which way around a block runs first."""
        joins = [s for s in graph.steps if s.kind == "join"]
        placed: list[Step] = []
        sums: set[int] = set()
        for join in joins:
            first, second = join.operands
            fork = graph.fork(first, second)
            sides = [[] if side is fork else graph.between(fork, side) for side in (first, second)]
            sides.sort(key=lambda side: -sum(s.kind == "conv" for s in side))
            before = [s for s in graph.steps if s.index not in sums and graph.is_above(s, fork)]
            for step in [*before, *sides[0], *sides[1]]:
                if step.index not in sums:
                    sums.add(step.index)
                    placed.append(step)
        placed += [s for s in graph.steps if s.index not in sums]
        wanted = set(map(id, steps))
        return [s for s in placed if id(s) in wanted]


# Operations that are only another way of writing what the paper's networks have.
_PLAIN_OPERATIONS = {"constant_pad_nd", "convolution", "copy", "gt", "ge", "lt", "le"}

# What one mistake looks like besides: whoever mends the first has mended the others.
_EXPLAINS = {
    "late-shortcut": "other-blocks kernels norm-after-plus other-stages near-family no-last-relu",
    "no-shortcut": "other-blocks kernels first-stride other-stages near-family",
    "norm-after-plus": "bare-conv",
    "shared": "other-stages near-family",
    "not-owned": "training-norms chance",
    "pool-stride": "no-pool",
    "self-sum": "plain",
    "every-stride": "needless-projection",
    "odd-sizes": "pooled-projection",
    "changes-images": "image-arithmetic",
}

# What explains other findings, and comes before them.
_FIRST = {"does-not-run", "plain", "no-shortcut", "late-shortcut"}

# What the twin has too, or can have.
_HARMLESS = {"stride-1x1", "option-c", "other-stages", "near-family", "one-size"}


class _ThreeStages(nn.Module):
    """The CIFAR form with any number of blocks in its three stages."""

    def __init__(
        self,
        block: Callable[..., nn.Module],
        blocks: Sequence[int],
        width: int,
        in_channels: int,
        num_classes: int,
        stem: dict,
        bottleneck: bool,
    ) -> None:
        super().__init__()
        kernel = stem["kernel"][0]
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stem["stride"], kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if kernel == 7 else nn.Identity()
        stages, channels = [], width
        for i, number in enumerate(blocks):
            out = width * 2**i * (4 if bottleneck else 1)
            stage = [block(channels, out, 1 if i == 0 else 2)] + [block(out, out) for _ in range(number - 1)]
            stages += stage
            channels = out
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.stages(x).mean((2, 3)))


def _pad_both_sides(shortcut: nn.Module, x: Tensor) -> Tensor:
    before = shortcut.new_channels // 2
    x = x[:, :, :: shortcut.stride, :: shortcut.stride]
    return F.pad(x, (0, 0, 0, 0, before, shortcut.new_channels - before))


def _neighbours(steps: list[Step], kind: str) -> Iterator[tuple[Step, Step]]:
    chosen = [step for step in steps if step.kind == kind]
    yield from zip(chosen, chosen[1:], strict=False)


def _logits(out: object) -> Tensor:
    """The first tensor of what a network gives."""
    if isinstance(out, dict):
        out = next(iter(out.values()))
    while isinstance(out, list | tuple) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        raise TypeError(f"forward gives {type(out).__name__}, not a tensor: does it end with return?")
    return out


def _advice(error: Exception) -> str:
    """What an error usually means in a residual network."""
    text = str(error)
    if isinstance(error, NotImplementedError):
        return "forward is missing, or misspelt, or indented into another method."
    if "NoneType" in text:
        return "A layer is None where it is called: look for a name that is overwritten, or never set."
    if "must match the size of tensor" in text:
        return (
            "The two sides of a plus have different shapes: where channels or sizes change, the shortcut "
            "needs a projection with the same stride."
        )
    if "to have" in text and "channels" in text:
        return "A layer is given other channels than it was built for: follow in_channels through the stages."
    if "mat1 and mat2" in text:
        return "The linear layer was built for another number of features: pool over the map, then flatten."
    if "running_mean should contain" in text:
        return "A norm has another number of channels than the convolution in front of it."
    if isinstance(error, AttributeError):
        return "An attribute is used in forward that __init__ never sets."
    if "inplace" in text or "in-place" in text:
        return "Something is changed in place that autograd still needs: write out = out + x, not x += out."
    if isinstance(error, TypeError) and "does it end with return" in text:
        return "The last line of forward returns the logits."
    return "Run the network layer by layer up to that place, and print shapes."
