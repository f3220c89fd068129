"""Instruments: small pictures with sliders, which run in a notebook's output or in a page without Python.

``show("block-cost")`` in a notebook shows one. The JavaScript lies beside this file, a file for each
instrument and ``common.js`` for what they share; Python says which controls there are, and hands over what
was recorded. All of it stands in the cell's output, so an instrument needs no network and no other file.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetbook import blocks, models, runs

_FOLDER = Path(__file__).parent
LIMIT = 25_000
"""Bytes that an instrument may take in a notebook or page."""


@dataclasses.dataclass(frozen=True)
class Control:
    """One setting: a slider over a list of values, or a list to choose from.

    Attributes:
        label: what stands beside it.
        values: all that it may be.
        start: where it stands at first.
        texts: how the values are written; by default as they are.
        slider: a slider, else a list to choose from.
    """

    label: str
    values: Sequence[int | float | str]
    start: int | float | str
    texts: Sequence[str] | None = None
    slider: bool = True

    def spec(self, key: str) -> dict[str, Any]:
        """What ``common.js`` reads."""
        texts = self.texts or [str(value) for value in self.values]
        kind = "range" if self.slider else "select"
        return {
            "key": key,
            "label": self.label,
            "kind": kind,
            "values": list(self.values),
            "texts": list(texts),
        }


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What Python knows of an instrument: its title, its controls, and what stands there without scripts."""

    title: str
    without: str
    controls: Callable[[], dict[str, Control]]
    presets: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    data: Callable[[], dict[str, Any]] = dict


class Instrument:
    """What a notebook shows as an instrument and a terminal as a sentence; made by :func:`show`."""

    def __init__(self, name: str, title: str, without: str, spec: dict[str, Any]) -> None:
        self.name = name
        self.title = title
        self.without = without
        self.spec = spec

    def __repr__(self) -> str:
        return f"Instrument: {self.title}"

    def _repr_html_(self) -> str:
        # "</script>" in a text would end the script.
        spec = json.dumps(self.spec, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        scripts = "\n".join(_shortened(f"{name}.js") for name in ("common", self.name))
        return (
            f"<style>{_shortened('common.css')}</style>"
            f'<div class="resnetbook-instrument" data-instrument="{self.name}">'
            f"<p>{html.escape(self.title)} {html.escape(self.without)}</p></div>"
            f'<script>(() => {{\n"use strict";\nconst NAME = "{self.name}", SPEC = {spec};\n'
            f"{scripts}\n}})();</script>"
        )


def show(name: str, **settings: int | float | str) -> Instrument:
    """Show an instrument; in a notebook, as the last line of a cell.

    Args:
        name: one of :data:`NAMES`, such as ``"block-cost"``.
        settings: where its controls stand at first, such as ``side=14``; the rest stand where they always do.

    Raises:
        ValueError: if there is no such instrument, or a control cannot stand there.
        TypeError: if it has no such control.
    """
    if name not in _KINDS:
        raise ValueError(f"no instrument {name!r}; there are: {', '.join(_KINDS)}")
    kind = _KINDS[name]
    controls = kind.controls()
    for key, value in settings.items():
        if key not in controls:
            raise TypeError(f"{name} has no setting {key!r}; there are: {', '.join(controls)}")
        if isinstance(value, bool) or value not in controls[key].values:
            possible = ", ".join(map(repr, controls[key].values))
            raise ValueError(f"{key} cannot be {value!r}; it can be: {possible}")
    spec = {
        "title": kind.title,
        "controls": [control.spec(key) for key, control in controls.items()],
        "presets": [{"text": text, "settings": wanted} for text, wanted in kind.presets.items()],
        "settings": {key: control.start for key, control in controls.items()} | settings,
        **kind.data(),
    }
    return Instrument(name, kind.title, kind.without, spec)


def _shortened(name: str) -> str:
    """A file without its comments and indentation: what a page carries. Each comment has its own line."""
    lines = (line.strip() for line in (_FOLDER / name).read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


# ---------------------------------------------------------------------------------------------------
# What does a block cost?


def _block_cost() -> dict[str, Control]:
    widths = [64, 128, 256, 512, 1024, 2048]
    names = ["weights", "with norms", "MACs"]
    return {
        "basic": Control("basic, channels", widths, 256),
        "bottleneck": Control("bottleneck, channels", widths, 256),
        "reduction": Control("reduction by", [2, 4, 8], 4),
        "side": Control("side of the map", [7, 14, 28, 56], 56),
        "count": Control("count", ["weights", "parameters", "macs"], "weights", names, slider=False),
    }


def _ratio(basic: int, bottleneck: int) -> str:
    """Weights of two 3×3 convolutions over those of a bottleneck that reduces by 4."""
    return f"{18 * basic**2 / (17 * bottleneck**2 / 16):.2f}×"


_BLOCK_PRESETS = {
    f"{condition}: {_ratio(basic, bottleneck)}": {
        "basic": basic,
        "bottleneck": bottleneck,
        "reduction": 4,
        "count": "weights",
    }
    for condition, basic, bottleneck in (("equal width", 256, 256), ("equal cost", 64, 256))
}


# ---------------------------------------------------------------------------------------------------
# How deep?

_DEPTHS = [8, 14, 20, 32, 44, 56]


def _depth_runs() -> dict[str, dict[int, list[dict]]]:
    """The book's records of chapter 2, by kind and depth."""
    return {
        kind: {depth: runs.load_seeds(f"degradation-{kind}-{depth}") for depth in _DEPTHS}
        for kind in ("plain", "residual")
    }


def _how_deep() -> dict[str, Control]:
    found = [{r["seed"] for r in records} for by in _depth_runs().values() for records in by.values()]
    seeds = sorted(set.intersection(*found))
    return {
        "depth": Control("layers", _DEPTHS, 20),
        "kind": Control("network", ["plain", "residual"], "plain", slider=False),
        "seed": Control("seed", ["all", *seeds], "all", slider=False),
    }


def _how_deep_data() -> dict[str, Any]:
    """Rounded to seven digits behind the point: far more than shown, far less than a float has."""
    by_kind = _depth_runs()
    data = {
        kind: {
            depth: [
                [
                    r["seed"],
                    [round(epoch["train_loss"], 7) for epoch in r["history"]],
                    round(runs.last([r], "slice_loss")[0], 7),
                    round(r["test_accuracy"], 7),
                ]
                for r in records
            ]
            for depth, records in by.items()
        }
        for kind, by in by_kind.items()
    }
    found = [run for by in data.values() for records in by.values() for run in records]
    # The axes end at the next half.
    most, most_last = (math.ceil(2 * max(v)) / 2 for v in ([max(r[1]) for r in found], [r[2] for r in found]))
    return {"data": data, "depths": _DEPTHS, "most": most, "mostLast": most_last}


# ---------------------------------------------------------------------------------------------------
# The window

# A boot, drawn by hand: grey from 0 to 9, 12×12.
_BOOT = """\
000000000000
000006888000
000007999000
000007998000
000007998000
000007998000
000018999000
000499999100
069999999200
899999999200
788888888200
222222222100"""


def _window() -> dict[str, Control]:
    edges = ["vertical edges", "horizontal edges", "mean"]
    return {
        "kernel": Control("kernel", [2, 3, 4, 5], 3),
        "kind": Control("what it looks for", ["vertical", "horizontal", "mean"], "vertical", edges, False),
        "stride": Control("stride", [1, 2, 3], 1),
        "padding": Control("padding", [0, 1, 2], 0),
        "row": Control("row", list(range(15)), 2),
        "column": Control("column", list(range(15)), 3),
        "layers": Control("layers stacked", [1, 2, 3, 4, 5], 1),
    }


def _window_data() -> dict[str, Any]:
    return {"image": [[int(digit) for digit in line] for line in _BOOT.splitlines()]}


# ---------------------------------------------------------------------------------------------------
# Paths and gradients


def _paths() -> dict[str, Control]:
    joins = ["none: F(x)", "add: x + F(x)", "½ (x + F(x))", "gate: 0.9 x + 0.1 F(x)"]
    return {
        "blocks": Control("blocks", [1, 2, 3, 5, 10, 20, 30, 40, 50], 20),
        "gain": Control("Var F / Var x", [0.01, 0.04, 0.1, 0.25, 0.5, 1, 2], 1),
        "join": Control("join", ["none", "add", "half", "gate"], "add", joins, slider=False),
    }


# ---------------------------------------------------------------------------------------------------
# The shape walker


def _shape_walker() -> dict[str, Control]:
    stems = ["7×7 and pool", "3×3, for small images"]
    tasks = ["grey, 10 classes", "colour, 1000 classes"]
    return {
        "depth": Control("ResNet-", list(models.FAMILY), 18),
        "side": Control("side of the image", [28, 32, 64, 96, 128, 192, 224], 96),
        "stem": Control("stem", ["imagenet", "small"], "imagenet", stems, slider=False),
        "task": Control("task", ["clothes", "photo"], "clothes", tasks, slider=False),
    }


def _shape_walker_data() -> dict[str, Any]:
    kinds = {blocks.BasicBlock: "basic", blocks.Bottleneck: "bottleneck"}
    family = {depth: [kinds[block], list(stages)] for depth, (block, stages) in models.FAMILY.items()}
    return {"family": family}


# ---------------------------------------------------------------------------------------------------

_KINDS = {
    "window": _Kind(
        "The window",
        "This instrument needs scripts. Without them, the figures of chapter 1 show how it moves.",
        _window,
        data=_window_data,
    ),
    "paths": _Kind(
        "Paths and gradients",
        "This instrument needs scripts. Without them, the figures of chapter 3 show such chains.",
        _paths,
    ),
    "shape-walker": _Kind(
        "Shape walker",
        "This instrument needs scripts. Without them, the tables of chapter 5 walk through one network.",
        _shape_walker,
        data=_shape_walker_data,
    ),
    "block-cost": _Kind(
        "What does a block cost?",
        "This instrument needs scripts. Without them, the tables of chapter 4 show two of its settings.",
        _block_cost,
        _BLOCK_PRESETS,
    ),
    "how-deep": _Kind(
        "How deep?",
        "This instrument needs scripts. Without them, the tables of chapter 2 show the same runs.",
        _how_deep,
        data=_how_deep_data,
    ),
}
NAMES = tuple(_KINDS)
"""The instruments."""
