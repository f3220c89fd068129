"""Figures: drawn where they are asked to be, the same bytes every time, and showing the numbers."""

import base64
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.axes import Axes
from nbclient import NotebookClient
from PIL import Image

import notebooks
from resnetbook import plotting

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8), dtype=np.uint8)
TIMES = {"theirs": {"loading": 0.001, "rest": 0.003}, "ours": {"loading": 0.00002, "rest": 0.001}}
MATRIX = np.array([[5, 1, 0], [0, 6, 0], [2, 0, 0]])
NETWORK = [("image", (1, 28, 28)), ("3×3", (16, 14, 14)), ("linear", (10,))]
DRAWINGS = {
    "axes": lambda **o: plotting.axes(**o),
    "seed_curves": lambda **o: plotting.seed_curves([[3, 2, 1], [5, 3, 1]], "plain", **o),
    "seed_means": lambda **o: plotting.seed_means([8, 20], [[3, 2, 4], [5, 3]], "plain", **o),
    "image_grid": lambda **o: plotting.image_grid(IMAGES, [f"no. {i}" for i in range(7)], columns=3, **o),
    "confusion": lambda **o: plotting.confusion(MATRIX, ["coat", "bag", "shirt"], **o),
    "block_diagram": lambda **o: plotting.block_diagram(["3×3, 64", "batch norm"], "A block", **o),
    "network_diagram": lambda **o: plotting.network_diagram(NETWORK, "A network", **o),
    "time_bars": lambda **o: plotting.time_bars(TIMES, **o),
}


@pytest.fixture(autouse=True)
def style():
    """The book's style, for this test alone; its figures are closed."""
    with mpl.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def test_every_public_function_that_draws_is_tested_here():
    public = {
        name
        for name, function in vars(plotting).items()
        if inspect.isfunction(function) and function.__module__ == plotting.__name__ and name[0] != "_"
    }
    assert public - {"use_style"} == set(DRAWINGS)
    for name in DRAWINGS:
        parameter = inspect.signature(getattr(plotting, name)).parameters["ax"]
        assert parameter.default is None, name


@pytest.mark.parametrize("name", DRAWINGS)
def test_without_axes_it_draws_on_a_new_figure(name):
    before = plt.get_fignums()
    ax = DRAWINGS[name]()
    assert isinstance(ax, Axes)
    assert len(plt.get_fignums()) == len(before) + 1


@pytest.mark.parametrize("name", DRAWINGS)
def test_it_draws_on_the_given_axes_and_nowhere_else(name):
    figure, (left, right) = plt.subplots(1, 2)
    empty = len(right.get_children())
    assert DRAWINGS[name](ax=left) is left
    assert plt.get_fignums() == [figure.number]
    assert len(right.get_children()) == empty and not right.has_data()
    if name != "axes":
        assert left.has_data() or left.patches or left.texts


def svg(draw) -> bytes:
    file = io.BytesIO()
    draw().figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close("all")
    return file.getvalue()


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_figure_has_the_same_bytes(name):
    assert svg(DRAWINGS[name]) == svg(DRAWINGS[name])


def test_another_process_writes_the_same_bytes():
    script = (
        "import io, sys, matplotlib; matplotlib.use('Agg')\n"
        "from resnetbook import plotting\n"
        "plotting.use_style()\n"
        "ax = plotting.seed_curves([[3, 2, 1], [5, 3, 1]], 'plain')\n"
        "ax.figure.savefig(sys.stdout.buffer, format='svg', bbox_inches='tight', metadata={'Date': None})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == svg(DRAWINGS["seed_curves"])


def test_a_network_shows_how_maps_shrink_and_channels_grow():
    ax = plotting.network_diagram(NETWORK)
    image, maps, vector = ax.patches
    assert image.get_width() == 2 * maps.get_width() > 2 * vector.get_width()
    assert image.get_height() < vector.get_height() < maps.get_height()
    assert [text.get_text() for text in ax.texts] == ["image", "1×28×28", "3×3", "16×14×14", "linear", "10"]
    with pytest.raises(ValueError, match="no layers"):
        plotting.network_diagram([])
    with pytest.raises(ValueError, match="'flat'.*4, 4"):
        plotting.network_diagram([("flat", (4, 4))])


@pytest.mark.parametrize("horizontal", [False, True])
def test_means_of_seeds_show_mean_range_and_number(horizontal):
    ax = plotting.seed_means([8, 20], [[3, 2, 4], [5, 3]], "plain", 1, horizontal=horizontal)
    points, _, (bars,) = ax.containers[0]
    means, places = points.get_xydata().T[:: 1 if horizontal else -1].tolist()
    assert (means, places) == ([3, 4], [8, 20])
    along = 0 if horizontal else 1
    reach = [sorted(end[along] for end in segment) for segment in bars.get_segments()]
    assert reach == [[2, 4], [3, 5]]
    assert ax.get_legend_handles_labels()[1] == ["plain (n = 2–3)"]
    assert points.get_linestyle() == "--" and points.get_marker() == plotting.MARKERS[1]


def test_means_of_seeds_need_a_place_each():
    with pytest.raises(ValueError, match="3 places need as many values, got 2"):
        plotting.seed_means([1, 2, 3], [[1.0], [2.0]])
    ax = plotting.seed_means([1], [[2.0]], line=False)
    assert ax.get_legend_handles_labels() == ([], []) and ax.lines[0].get_linestyle() == "None"


def assert_is_seen_everywhere(data: dict, metadata: dict) -> None:
    """A figure of a notebook as it is stored: both forms, of one size, on an opaque white ground."""
    assert {"image/svg+xml", "image/png"} <= set(data)
    svg = data["image/svg+xml"]
    # Matplotlib draws the ground of the figure first.
    first = re.search(r'<g id="patch_1">\s*<path [^>]*style="fill: ([^"]*)"', svg)
    assert first and first[1] == "#ffffff"
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert image.format == "PNG" and image.mode == "P" and "transparency" not in image.info
    pixels = np.asarray(image.convert("RGB"))
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert pixels[row, column].tolist() == [255, 255, 255]
    # One point is 96/72 pixels of a page. The PNG is sharper than that, and shown at the same size.
    width, height = (
        float(re.search(rf'<svg [^>]*{side}="([\d.]+)pt"', svg)[1]) for side in ("width", "height")
    )
    size = metadata["image/png"]
    assert (size["width"], size["height"]) == pytest.approx((width * 96 / 72, height * 96 / 72), rel=0.01)
    assert (image.width, image.height) == pytest.approx((2 * size["width"], 2 * size["height"]), abs=1)


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_png_has_the_same_bytes_every_time_and_few(name):
    data, size = plotting._png(DRAWINGS[name]().figure)
    assert plotting._png(DRAWINGS[name]().figure) == (data, size)
    assert len(data) < 60_000 and size["width"] > 100
    assert plotting._png(plt.figure()) is None  # nothing is drawn: IPython shows nothing either


def test_a_notebook_stores_both_forms_even_after_somebody_asks_for_svg():
    cells = [
        "from resnetbook import plotting\nimport matplotlib.pyplot as plt\nplotting.use_style()",
        "plotting.seed_curves([[3, 2, 1], [5, 3, 1]], 'plain')\nplt.show()",
        # As d2l's library does whenever it draws.
        "from matplotlib_inline.backend_inline import set_matplotlib_formats\n"
        "set_matplotlib_formats('svg', bbox_inches='tight', metadata={'Date': None})",
        "plotting.seed_curves([[3, 2, 1], [5, 3, 1]], 'plain')\nplt.show()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    (first,), (second,) = notebook.cells[1].outputs, notebook.cells[3].outputs
    assert_is_seen_everywhere(first.data, first.metadata)
    assert first.data == second.data and first.metadata == second.metadata


@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: path.stem)
def test_every_committed_figure_is_seen_in_the_dark_and_in_a_notebook_that_is_not_trusted(path: Path):
    """JupyterLab hides SVG of notebooks that it does not trust, and shows PNG."""
    assert path.stat().st_size < 2_000_000
    figures = 0
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            if any(kind.startswith("image/") for kind in output.get("data", ())):
                assert_is_seen_everywhere(output.data, output.metadata)
                figures += 1
    assert figures > 0


def test_curves_show_the_mean_and_the_range_of_the_seeds():
    ax = plotting.seed_curves([[3, 2, 1], [5, 3, 1]], "plain", index=1)
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == [4, 2.5, 1]
    assert line.get_color() == plotting.COLORS[1] and line.get_marker() == plotting.MARKERS[1]
    assert line.get_label() == "plain (n = 2)"
    (band,) = ax.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(1, 3), (1, 5), (2, 2), (2, 3), (3, 1)} <= corners
    ax = plotting.seed_curves([[3, 2, 1]], "residual", index=2, ax=ax)
    assert len(ax.lines) == 2 and len(ax.collections) == 1  # one seed has no band
    with pytest.raises(ValueError, match="equally many epochs"):
        plotting.seed_curves([[1, 2], [1]], "uneven")
    with pytest.raises(ValueError, match="epochs"):
        plotting.seed_curves([], "none")


def test_a_grid_holds_every_image_once_under_its_title():
    ax = DRAWINGS["image_grid"]()
    assert len(ax.images) == 7
    for drawn, image in zip(ax.images, IMAGES, strict=True):
        assert np.array_equal(drawn.get_array(), image)
    assert [text.get_text() for text in ax.texts] == [f"no. {i}" for i in range(7)]
    boxes = [drawn.get_extent() for drawn in ax.images]
    for i, (left, right, bottom, top) in enumerate(boxes):
        assert right > left and bottom > top  # the first row of pixels is on top
        for other_left, other_right, other_bottom, other_top in boxes[:i]:
            assert left >= other_right or right <= other_left or top >= other_bottom or bottom <= other_top
    for wrong, message in (
        ((IMAGES[:0],), "no images"),
        ((IMAGES, ["one"]), "7 images need 7 titles, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.image_grid(*wrong)


def test_a_confusion_matrix_shows_its_counts_in_their_places():
    ax = DRAWINGS["confusion"]()
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    assert shown == {(0, 0): "5", (1, 0): "1", (1, 1): "6", (0, 2): "2"}  # (column, row); zeros left out
    assert [label.get_text() for label in ax.get_yticklabels()] == ["coat", "bag", "shirt"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    shares = MATRIX / np.array([[6], [6], [2]])
    assert np.allclose(ax.images[0].get_array(), np.sqrt(shares))
    plotting.confusion(np.zeros((3, 3), int), ["a", "b", "c"])  # an empty row is no division by zero


@pytest.mark.parametrize("shortcut", ["identity", None])
def test_a_block_is_drawn_with_its_layers_and_its_shortcut(shortcut):
    ax = plotting.block_diagram(["3×3, 64", "batch norm"], "A block", shortcut, ["64 × 56 × 56"])
    texts = [text.get_text() for text in ax.texts]
    assert ax.get_title() == "A block"
    for text in ("3×3, 64", "batch norm", "ReLU", "x", "H(x)", "64 × 56 × 56"):
        assert text in texts
    assert ("+" in texts) == ("identity" in texts) == (shortcut is not None)


def test_time_bars_show_every_group_and_number_what_is_wide_enough():
    ax = plotting.time_bars(TIMES)
    boxes = [(bar.get_y(), bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert np.allclose(boxes, [(-0.25, 0, 1), (-0.25, 1, 3), (0.75, 0, 0.02), (0.75, 0.02, 1)])
    assert ax.get_xlabel() == "ms per image"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first bar is on top
    texts = [text.get_text() for text in ax.texts]
    # The third segment is too narrow for its number; names stand with their sums.
    assert texts == ["1", "2", "theirs: 4 ms", "2", "ours: 1.02 ms"]
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["1 loading", "2 rest"]
    for handle, bar in zip(legend.get_patches(), ax.patches[:2], strict=True):
        assert handle.get_facecolor() == bar.get_facecolor()


def test_time_bars_can_be_told_apart_and_read_on_a_phone():
    groups = {f"group {number}": 0.001 for number in range(8)}
    ax = plotting.time_bars({"d2l.train_ch6's loop and loader": groups})
    colors = {mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.patches}
    assert len(colors) == 8 and {color.lower() for color in plotting.COLORS} <= colors
    # At 360 pixels, one CSS pixel for each 1/96 inch of a wider figure is scaled down.
    scale = 360 / (96 * ax.figure.get_figwidth())
    sizes = [text.get_fontsize() for text in (*ax.texts, *ax.get_legend().get_texts())]
    assert min(sizes) * 96 / 72 * scale >= 10
    for times, message in (({}, "no times"), ({"a": {"x": 1}, "b": {"y": 1}}, "the same groups")):
        with pytest.raises(ValueError, match=message):
            plotting.time_bars(times)


def test_colours_and_markers_go_together():
    assert (
        len(plotting.COLORS)
        == len(set(plotting.COLORS))
        == len(plotting.MARKERS)
        == len(set(plotting.MARKERS))
    )
    assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(plotting.COLORS)
