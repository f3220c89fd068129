"""One style for every figure, and the few kinds of figure that several chapters share.

Every function draws on the Axes that it is given, or on new ones, and returns them.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from PIL import Image

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers too.
# Their yellow is left out: it cannot be seen on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Colour is never the only difference between two curves.
MARKERS = ("o", "s", "^", "D", "v", "P")
# A page has 96 pixels to the inch; many screens have twice as many.
_PAGE_DPI = 96
_SHARPER = 2


def use_style() -> None:
    """Set the book's style; in a notebook, also store figures as SVG and as PNG, always the same bytes.

    The SVG is what a page shows. JupyterLab does not show it in a notebook that is not trusted, such as
    one that was just downloaded: there the PNG stands in.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            # Opaque: nobody can read black on the ground of a dark notebook. The book's site, which knows
            # whether it is dark, lets the white vanish (resnetbook.css).
            "figure.facecolor": "white",
            "axes.facecolor": "none",
            "savefig.facecolor": "auto",
            "axes.prop_cycle": mpl.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#888888",
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "font.size": 11,
            "figure.constrained_layout.use": True,
            # Without a fixed salt the ids inside an SVG are random.
            "svg.hashsalt": "resnetbook",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return  # a plain script: nothing to set
    if get_ipython() is not None:
        set_matplotlib_formats("svg", bbox_inches="tight", metadata={"Date": None})
        # For the class above Figure: who asks for SVG once more, as d2l's library does whenever it draws,
        # takes the other formats from Figure itself.
        get_ipython().display_formatter.formatters["image/png"].for_type(FigureBase, _png)


def _png(figure: FigureBase) -> tuple[str, dict[str, int]] | None:
    """A figure as PNG in base64, and the size in pixels at which a page shows it.

    At most 256 colours: a third of the bytes, and no eye tells the difference.
    """
    if not figure.axes and not figure.lines:
        return None  # as IPython treats a figure with nothing in it
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", dpi=_SHARPER * _PAGE_DPI)
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    size = {
        side: round(pixels / _SHARPER) for side, pixels in zip(("width", "height"), image.size, strict=True)
    }
    return base64.b64encode(packed.getvalue()).decode("ascii"), size


def axes(ax: Axes | None = None, **figure_options) -> Axes:
    """``ax`` itself, or the Axes of a new figure."""
    return plt.subplots(**figure_options)[1] if ax is None else ax


def seed_curves(
    curves: Sequence[Sequence[float]],
    label: str,
    index: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """One line for several seeds: the mean at each epoch, and a band from the lowest to the highest.

    Args:
        curves: one sequence per seed, each with one value per epoch, all equally long.
        label: for the legend; the number of seeds is added.
        index: which colour and marker.
        ax: where to draw.

    Raises:
        ValueError: if the curves differ in length.
    """
    if len({len(curve) for curve in curves}) != 1:
        raise ValueError(f"every seed needs equally many epochs, got {[len(curve) for curve in curves]}")
    ax = axes(ax)
    values = np.asarray(curves, dtype=float)  # (seeds, epochs)
    epochs = np.arange(1, values.shape[1] + 1)
    color = COLORS[index % len(COLORS)]
    ax.plot(
        epochs,
        values.mean(0),
        color=color,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4,
        label=f"{label} (n = {len(curves)})",
    )
    if len(curves) > 1:
        ax.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.25, linewidth=0)
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def seed_means(
    places: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str | None = None,
    index: int = 0,
    ax: Axes | None = None,
    line: bool = True,
    horizontal: bool = False,
) -> Axes:
    """A marker for the mean of several seeds at each place, and a bar from the lowest to the highest.

    Args:
        places: one for each marker, such as depths.
        values: for each place, one value for each seed.
        label: for the legend; the number of seeds is added.
        index: which colour, marker and line.
        ax: where to draw.
        line: join the markers.
        horizontal: values to the right, places upwards.

    Raises:
        ValueError: if there are not as many places as values.
    """
    if len(places) != len(values):
        raise ValueError(f"{len(places)} places need as many values, got {len(values)}")
    ax = axes(ax)
    means = [float(np.mean(seeds)) for seeds in values]
    reach = [
        [mean - min(seeds) for mean, seeds in zip(means, values, strict=True)],
        [max(seeds) - mean for mean, seeds in zip(means, values, strict=True)],
    ]
    if label is not None:
        label += f" (n = {'–'.join(map(str, sorted({len(seeds) for seeds in values})))})"
    points = (means, places) if horizontal else (places, means)
    ax.errorbar(
        *points,
        **{"xerr" if horizontal else "yerr": reach},
        color=COLORS[index % len(COLORS)],
        marker=MARKERS[index % len(MARKERS)],
        linestyle=("-", "--", ":", "-.")[index % 4] if line else "",
        capsize=4,
        label=label,
    )
    return ax


def image_grid(
    images: np.ndarray,
    titles: Sequence[str] | None = None,
    columns: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Grey images ``(N, H, W)`` in rows of ``columns``, each with its title above it.

    Raises:
        ValueError: if there are no images, or not as many titles.
    """
    if len(images) == 0:
        raise ValueError("there are no images to show")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} images need {len(images)} titles, got {len(titles)}")
    height, width = images.shape[1:]
    rows = -(-len(images) // columns)
    side = min(1.45, 5.9 / columns)  # inches: no wider, or a phone shrinks the titles too far
    # In units of one image: room above each for its title of up to two lines.
    head = 0.42 * 1.45 / side if titles is not None else 0.08
    ax = axes(ax, figsize=(side * columns, side * rows * (1 + head)))
    for i, image in enumerate(np.asarray(images)):
        left, top = (i % columns) * 1.08, (i // columns) * (1 + head) + head
        ax.imshow(image, cmap="gray", extent=(left, left + 1, top + height / width, top))
        if titles is not None:
            ax.text(left + 0.5, top - 0.05, titles[i], ha="center", va="bottom", fontsize=12)
    ax.set_xlim(-0.04, columns * 1.08)
    ax.set_ylim(rows * (1 + head) + 0.04, 0)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def confusion(matrix: np.ndarray, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """A confusion matrix of counts ``(K, K)``: true classes in rows, predicted ones in columns.

    The colour shows the share of the row, on a square-root scale, so that rare mistakes are seen.
    """
    matrix = np.asarray(matrix)
    ax = axes(ax, figsize=(4.8, 5.0))
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    ax.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if share[row, column] > 0.35 else "black"
        if count:
            ax.text(column, row, str(count), ha="center", va="center", color=color, fontsize=10)
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    ax.set_yticks(range(len(classes)), classes)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.grid(False)
    return ax


def block_diagram(
    layers: Sequence[str],
    title: str,
    shortcut: str | None = "identity",
    tensors: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a block from top to bottom: its layers, the addition, the last ReLU and the shortcut.

    Args:
        layers: the text of each layer of the path F, in order; a text that is ``"ReLU"`` or ends
            in "norm" is drawn in its own colour.
        title: above the diagram.
        shortcut: the text beside the path around F; ``None`` draws a plain block, without one.
        tensors: the text beside each arrow, first the input; may be shorter.
        ax: where to draw.
    """
    plain = shortcut is None
    nodes = list(layers) + ([] if plain else ["+"]) + ["ReLU"]
    ax = axes(ax, figsize=(3.2, 0.62 * len(nodes) + 1.2))
    step, width, height = 1.0, 2.6, 0.56

    def box(text: str, y: float) -> None:
        color = COLORS[2] if text == "ReLU" else COLORS[5] if text.endswith("norm") else COLORS[0]
        style = "round,pad=0.02,rounding_size=0.12"
        corner = (-width / 2, y - height / 2)
        ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color + "33", ec=color))
        ax.text(0, y, text, ha="center", va="center", fontsize=10)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="#444444"))

    for i, text in enumerate(nodes):
        y = -step * (i + 1)
        half = height / 2 if text != "+" else 0.2
        before = 0.0 if i == 0 else height / 2 if nodes[i - 1] != "+" else 0.2
        arrow((0, y + step - before - 0.02), (0, y + half + 0.02))
        if i < len(tensors):
            ax.text(0.12, y + step / 2 + 0.02, tensors[i], fontsize=8, va="center", color="#444444")
        if text == "+":
            ax.add_patch(Circle((0, y), 0.2, fc="none", ec=COLORS[1], lw=1.6))
            ax.text(0, y, "+", ha="center", va="center", color=COLORS[1], fontsize=12)
            side = width / 2 + 0.45
            ax.plot([0, side, side], [-0.32, -0.32, y], color=COLORS[1], lw=1.6)
            arrow((side, y), (0.22, y))
            ax.text(side + 0.12, y / 2, shortcut, rotation=90, va="center", fontsize=10, color=COLORS[1])
        else:
            box(text, y)
    end = -step * len(nodes)
    arrow((0, end - height / 2 - 0.02), (0, end - step + 0.05))
    ax.text(0, 0.08, "x", ha="center", va="bottom", style="italic")
    ax.text(0, end - step, "H(x)", ha="center", va="top", style="italic")
    ax.set_title(title, fontsize=11)
    ax.set_xlim(-width / 2 - 0.3, width / 2 + 1.0)
    ax.set_ylim(end - step - 0.4, 0.45)
    ax.axis("off")
    return ax


def network_diagram(
    layers: Sequence[tuple[str, Sequence[int]]], title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a network from top to bottom: a bar for what each layer puts out, with its name and shape.

    The longer a bar, the larger the map; the thicker, the more channels. A vector is maps of one pixel.

    Args:
        layers: name and shape of each output, ``(C, H, W)`` or ``(C,)``; the first one is the input.
        title: above the diagram.
        ax: where to draw.

    Raises:
        ValueError: if there are no layers, or a shape has neither one nor three numbers.
    """
    if not layers:
        raise ValueError("there are no layers to draw")
    for name, shape in layers:
        if len(shape) not in (1, 3):
            raise ValueError(f"{name!r}: a shape is (C, H, W) or (C,), got {tuple(shape)}")
    ax = axes(ax, figsize=(4.4, 0.36 * len(layers) + 0.4))
    longest = max(shape[-1] if len(shape) == 3 else 1 for _, shape in layers)
    most = max(shape[0] for _, shape in layers)
    for row, (name, shape) in enumerate(layers):
        is_map = len(shape) == 3
        width = max((shape[-1] if is_map else 1) / longest, 0.04)
        # Logarithmic: a linear layer may have hundreds of channels, and an image has one.
        height = 0.16 + 0.64 * np.log(shape[0]) / np.log(max(most, 2))
        color = COLORS[0] if is_map else COLORS[5]
        corner = (-width / 2, row - height / 2)
        ax.add_patch(Rectangle(corner, width, height, fc=color + "66", ec=color))
        ax.text(0.6, row, name, va="center", fontsize=10)
        ax.text(2.6, row, "×".join(map(str, shape)), ha="right", va="center", fontsize=10)
    ax.set_title(title, fontsize=11)
    ax.set_xlim(-0.52, 2.62)
    ax.set_ylim(len(layers) - 0.45, -0.55)
    ax.axis("off")
    return ax


def time_bars(times: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Where the time goes: one horizontal bar per name, with a segment for each group, in ms per image.

    Segments carry the group's number, which the legend explains; the narrowest are left without.

    Args:
        times: for each bar its groups, in seconds per image; all with the same groups.
        ax: where to draw.

    Raises:
        ValueError: if there is no bar, or the groups differ.
    """
    bars = list(times.items())
    if not bars:
        raise ValueError("there are no times to show")
    groups = list(bars[0][1])
    if any(list(parts) != groups for _, parts in bars):
        raise ValueError("every bar needs the same groups, in the same order")
    # Small enough for a phone without shrinking the text below what can be read.
    ax = axes(ax, figsize=(4.8, 0.75 * len(bars) + 0.28 * len(groups) + 0.9))
    # Two greys, as there are more groups than colours; the numbers tell them apart in any case.
    colors = (*COLORS, "#999999", "#DDDDDD")
    longest = 1e3 * max(sum(parts.values()) for _, parts in bars)
    for row, (name, parts) in enumerate(bars):
        left = 0.0
        for number, group in enumerate(groups):
            width = 1e3 * parts[group]
            color = colors[number % len(colors)]
            ax.barh(row, width, 0.5, left, color=color, edgecolor="white", linewidth=0.5)
            if width > 0.035 * longest:
                ink = "white" if color == COLORS[0] else "black"  # the only dark one
                ax.text(left + width / 2, row, str(number + 1), ha="center", va="center", color=ink)
            left += width
        ax.text(0, row - 0.3, f"{name}: {left:.3g} ms", ha="left", va="bottom")
    handles = [
        Patch(facecolor=colors[number % len(colors)], label=f"{number + 1} {group}")
        for number, group in enumerate(groups)
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.5 / (0.75 * len(bars))))
    ax.set_xlabel("ms per image")
    ax.set_axisbelow(True)
    ax.set_yticks([])
    ax.set_ylim(len(bars) - 0.6, -0.75)  # the first bar on top
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    return ax
