"""The committed notebooks: run as a reader runs them, and held to the rules for notebooks."""

import copy
import importlib.util
import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import site_files
from IPython.core.inputtransformer2 import TransformerManager
from IPython.utils.text import DollarFormatter

import notebooks
from resnetbook import runs

PATHS = notebooks.paths()
EVERY = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

FIRST_CELL = """\
# @title Install the book's helpers
# In Colab this installs the book's helpers, and changes no package that Colab ships.
import importlib.util

if importlib.util.find_spec("resnetbook") is None:
    %pip install --quiet "git+https://github.com/resnetbook/resnetbook#subdirectory=code"
    importlib.invalidate_caches()
    if importlib.util.find_spec("resnetbook") is None:
        raise ModuleNotFoundError(
            "The book's helpers were not installed; pip's lines above say why. "
            "Without a network, put the book's folder code/ beside this notebook, "
            "run  %pip install --no-deps --no-build-isolation ./code  in a new cell, "
            "and go on below."
        )"""


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


@pytest.mark.slow
@EVERY
def test_it_gives_the_committed_outputs_and_bears_being_run_again_in_any_order(path, monkeypatch):
    # A reader who is offline: every connection through a proxy fails at once.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fresh, broken = notebooks.execute_again(path)
    assert notebooks.differences(read(path), fresh) == ""
    assert broken == ""


def test_a_cell_that_breaks_when_it_is_run_again_is_noticed(tmp_path):
    sources = [
        "total = 0\nvalues = [1]",
        "total += 1\nprint(total)",
        "values.pop()",
        "total = {}",
        "values = [2]",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    path = tmp_path / "99_again.ipynb"
    nbformat.write(notebook, path)
    _, found = notebooks.execute_again(path)
    assert "code cell 2:\n--- at first\n+++ at once again" in found and "-1\n+2" in found
    assert "code cell 3 fails at once again: IndexError: pop from empty list" in found
    # The first cell puts things right on the way forwards; on the way back, `total` is something else.
    assert "code cell 2 fails after the end, forwards" not in found
    assert "code cell 2 fails after the end, backwards: TypeError" in found


@EVERY
def test_outputs_are_those_of_one_run_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


@EVERY
def test_what_has_a_title_is_folded_on_the_site_and_in_colab_and_nothing_else_is(path):
    for cell in code_cells(path):
        again = copy.deepcopy(cell)
        notebooks.fold(again)
        assert again == cell, cell.source[:80]
        assert cell.source.startswith("# @title ") == ("hide-input" in cell.metadata.get("tags", []))


def test_folding_keeps_what_else_the_metadata_says():
    figure = {"image": {"alt": "A line."}}
    cell = nbformat.v4.new_code_cell(
        "# @title The figure\nplot()", metadata={"tags": ["varies"], "mystnb": figure}
    )
    notebooks.fold(cell)
    words = {"code_prompt_show": "Code: the figure", "code_prompt_hide": "Code: the figure"}
    folded = {"tags": ["varies", "hide-input"], "mystnb": {**figure, **words}, "cellView": "form"}
    assert cell.metadata == folded
    cell.source = "plot()"
    notebooks.fold(cell)
    assert cell.metadata == {"tags": ["varies"], "mystnb": figure}


@EVERY
def test_what_draws_and_defines_nothing_is_folded(path):
    for cell in code_cells(path):
        draws = any("image/svg+xml" in output.get("data", {}) for output in cell.outputs)
        if draws and not re.search(r"^(def|class) ", cell.source, re.M):
            shown = [words for words in VISIBLE if words in cell.source]
            assert shown or "hide-input" in cell.metadata.get("tags", []), cell.source[:200]


# Cells that draw and that a reader should see all the same.
VISIBLE = ("d2l.train_ch6(", "plotting.confusion(", "losses.argsort(descending=True)[:10]")


# The width of a page's text and figures, in pixels, on a phone of 360: test_site.py measures it.
COLUMN = 328


@EVERY
def test_labels_in_figures_are_legible_on_a_phone(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if svg := output.get("data", {}).get("image/svg+xml"):
                assert smallest_label(svg) >= 9, f"{cell.id}: {smallest_label(svg):.1f} pixels"


def smallest_label(svg: str) -> float:
    """Size in pixels of the smallest text in one of matplotlib's figures, in a column of a phone.

    Text is drawn as outlines, in units of a hundredth of its size in points. An exponent is scaled once
    more, inside, and is left out.
    """
    width, _ = site_files.svg_size(svg)
    points = min((100 * float(scale) for scale in re.findall(r"scale\(([\d.]+) -", svg)), default=math.inf)
    return points * 96 / 72 * min(1, COLUMN / width)


def test_a_small_label_in_a_wide_figure_is_noticed():
    figure, ax = plt.subplots(figsize=(4.8, 3))
    ax.set_xlabel("epoch", fontsize=9)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    plt.close(figure)
    assert smallest_label(drawn.getvalue()) == pytest.approx(9 * COLUMN / (4.8 * 72), abs=0.1)


@EVERY
def test_the_first_cell_is_the_common_one(path):
    assert code_cells(path)[0].source == FIRST_CELL


@pytest.mark.parametrize("pip_works", [True, False])
def test_the_first_cell_says_at_once_that_an_installation_has_failed(pip_works, monkeypatch):
    installed = []

    class Shell:
        def run_line_magic(self, name, line):
            assert name == "pip"
            installed.append(line)

    def find_spec(name, known=importlib.util.find_spec):
        return known(name) if name != "resnetbook" or (pip_works and installed) else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    source = TransformerManager().transform_cell(FIRST_CELL)
    scope = {"get_ipython": Shell}
    if pip_works:
        exec(source, scope)
    else:
        with pytest.raises(ModuleNotFoundError, match="not installed.*%pip install --no-deps"):
            exec(source, scope)
    assert len(installed) == 1


@pytest.mark.parametrize(
    ("there", "offered", "asked", "missing"),
    [
        ({"d2l", "pandas", "requests"}, set(), [], None),
        ({"pandas", "requests"}, {"d2l"}, ["d2l==0.17.0"], None),  # Colab
        (set(), {"d2l", "pandas", "requests"}, ["d2l==0.17.0", "pandas requests"], None),
        ({"pandas"}, set(), ["d2l==0.17.0"], "d2l"),  # no network
        ({"d2l"}, {"pandas"}, ["pandas requests"], "requests"),
    ],
)
def test_d2l_comes_with_what_it_imports_or_the_page_says_what_to_do(
    there, offered, asked, missing, monkeypatch
):
    (path,) = notebooks.paths(["05"])
    cell = next(cell for cell in code_cells(path) if cell.id == "d2l-import")
    source = TransformerManager().transform_cell(cell.source.partition("import matplotlib_inline")[0])
    there, lines = set(there), []

    class Shell:
        def run_line_magic(self, name, line):
            lines.append(DollarFormatter().vformat(line, (), scope))  # as IPython fills in what is in braces
            there.update(name for name in offered if re.search(rf"\b{name}\b", lines[-1]))

    def find_spec(name, known=importlib.util.find_spec):
        return known(name) if name not in ("d2l", "pandas", "requests") else name in there or None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    scope = {"get_ipython": Shell, "importlib": importlib}
    if missing is None:
        exec(source, scope)
    else:
        with pytest.raises(ModuleNotFoundError, match=f"{missing}.*could not be installed"):
            exec(source, scope)
    assert [line.partition("--quiet ")[2].removeprefix("--no-deps ") for line in lines] == asked
    assert all("--no-deps" in line for line in lines if "d2l" in line)


@EVERY
def test_every_figure_has_alt_text_that_says_what_it_shows(path):
    figures = 0
    for cell in code_cells(path):
        if any("image" in kind for output in cell.outputs for kind in output.get("data", {})):
            figures += 1
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 8, f"{cell.id}: {alt!r}"
    assert figures >= 3


@EVERY
def test_a_captioned_figure_is_the_only_output_to_look_at(path):
    # The site gives every table and picture of such a cell the caption and the name of the figure.
    for cell in code_cells(path):
        if "figure" in cell.metadata.get("mystnb", {}):
            assert sum(output.output_type != "stream" for output in cell.outputs) == 1, cell.id


@EVERY
def test_markdown_is_portable(path):
    # Inside fences anything goes; outside, MyST's roles and directives would show up raw.
    text = re.sub(r"```.*?```|`[^`\n]*`", "", prose(path), flags=re.S)
    assert not re.search(r"\{[a-z][\w:-]*\}\s*`|^\s*:::|^\(\w+\)=", text, re.M)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://"), target  # a lone notebook has no pages beside it


@EVERY
def test_links_follow_the_address_of_the_repository(path):
    again = read(path)
    notebooks.link(again, path.name)
    # Otherwise run code/tools/notebooks.py --links.
    assert again == read(path)
    title = again.cells[0].source.split("\n\n")
    assert title[1].startswith("[Open in Colab](https://colab.research.google.com/github/")
    assert title[1].endswith(f"/blob/main/book/{path.name})")
    # What is left when links to pages are relative leads to another site, or nowhere.
    own = notebooks.site_links.own_addresses()
    left = notebooks.site_links.relative(prose(path), own)
    assert own["site"] not in left and f"{own['files']}/book" not in left


def test_links_of_an_author_and_of_another_repository_become_those_of_this_book():
    own = notebooks.site_links.addresses("https://github.com/my/book", "dev")
    written = "[a](04_blocks.ipynb#1-two), [b](glossary.md), [c](scripts/fashion_mnist_resnet.py), [d](no.md)"
    known = (
        "[a](https://my.github.io/book/book/04_blocks.html#1-two), "
        "[b](https://my.github.io/book/book/glossary.html), "
        "[c](https://github.com/my/book/blob/dev/book/scripts/fashion_mnist_resnet.py), [d](no.md)"
    )
    assert notebooks.site_links.absolute(written, own) == known
    assert notebooks.site_links.relative(known, own) == written
    other = notebooks.site_links.addresses("https://github.com/the/other", "main")
    assert (
        notebooks.site_links.absolute(known, other) == notebooks.site_links.absolute(written, other) != known
    )
    abroad = "[e](https://d2l.ai/book/lenet.html), [f](https://github.com/a/b/blob/main/setup.py)"
    assert notebooks.site_links.absolute(abroad, own) == abroad
    cell = notebooks.site_links.with_button("# A title\n\nText.", "07_a.ipynb", other)
    assert notebooks.site_links.with_button(cell, "07_a.ipynb", own) == (
        "# A title\n\n[Open in Colab](https://colab.research.google.com/github/my/book/blob/dev/book/07_a.ipynb)\n\nText."
    )
    assert notebooks.site_links.without_button(cell) == "# A title\n\nText."


@EVERY
def test_exercises_have_minutes_a_check_and_a_folded_solution(path):
    text = prose(path)
    chapter = str(int(path.name[:2]))
    exercises = re.findall(r"> \*\*Exercise (\d+)\.(\d+): [^*\n]+\*\* \((\d+) min", text)
    assert len(exercises) >= 4
    assert [(c, int(n)) for c, n, _ in exercises] == [(chapter, i + 1) for i in range(len(exercises))]
    assert text.count("<details><summary>Solution</summary>\n\n") == len(exercises)
    used = {m for cell in code_cells(path) for m in re.findall(r"^checks\.(\w+)\(", cell.source, re.M)}
    assert len(used) >= len(exercises)


def visible(path):
    """Words and lines of code that a reader sees who unfolds nothing; blank lines do not count."""
    text = re.sub(r"<details>.*?</details>|```.*?```|\]\([^)]*\)", " ", prose(path), flags=re.S)
    # A word has a letter or a digit: marks of Markdown and the bars of a table are none.
    words = [word for word in text.split() if re.search(r"\w", word)]
    sources = [
        cell.source for cell in code_cells(path) if notebooks.FOLDED not in cell.metadata.get("tags", [])
    ]
    return len(words), sum(bool(line.strip()) for source in sources for line in source.splitlines())


@EVERY
def test_a_chapter_is_no_longer_than_a_reader_bears(path):
    words, lines = visible(path)
    assert words <= 3500 and lines <= 400, f"{path.name}: {words} words, {lines} lines of code"


def test_what_is_folded_is_not_counted(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("## Two words\n\n<details>\nnot these\n</details>"),
            nbformat.v4.new_markdown_cell("- a [link here](https://example.org/a b) and $x$"),
            nbformat.v4.new_code_cell("a = 1\n\nb = 2"),
            nbformat.v4.new_code_cell("# @title The figure\nc = 3"),
        ]
    )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            notebooks.fold(cell)
    nbformat.write(notebook, tmp_path / "99_test.ipynb")
    assert visible(tmp_path / "99_test.ipynb") == (2 + 5, 2)


@EVERY
def test_it_ends_with_a_quiz_and_a_summary(path):
    text = prose(path)
    assert 3 <= text.count("<details><summary>Answer</summary>\n\n") <= 7
    assert "\n## Quiz" in text and "\n## Summary" in text


def numbers_in_prose(path):
    """Measured numbers in Markdown before the quiz: two decimals or more, or a thousands separator."""
    text = prose(path).split("\n## Quiz")[0]
    text = re.sub(r"```.*?```|`[^`\n]*`|<details>.*?</details>|\]\([^)]*\)", "", text, flags=re.S)
    text = text.replace("{,}", ",")  # how LaTeX writes a separator
    return re.findall(r"(?<![\d.,])\d+\.\d{2,}(?![\d.])|(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", text)


@EVERY
def test_prose_states_no_number_that_no_cell_prints_or_asserts(path):
    shown = "\n".join(notebooks.text_outputs(read(path)) + [cell.source for cell in code_cells(path)])
    shown += shown.replace("_", "").replace(",", "")
    for number in numbers_in_prose(path):
        assert number in shown or number.replace(",", "") in shown, number


def test_a_stale_output_is_noticed(tmp_path):
    notebook = read(PATHS[0])
    changed = read(PATHS[0])
    cell = next(c for c in changed.cells if c.cell_type == "code" and any("text" in o for o in c.outputs))
    output = next(o for o in cell.outputs if "text" in o)
    cell.metadata.tags = []
    output.text += "one line more\n"
    assert "one line more" in notebooks.differences(notebook, changed)
    assert notebooks.differences(notebook, notebook) == ""


@pytest.mark.parametrize(
    ("tags", "differs"), [((), True), ((notebooks.VARIES,), False)], ids=["plain", "varies"]
)
def test_only_numbers_of_tagged_cells_may_vary(tags, differs):
    def notebook(text):
        cell = nbformat.v4.new_code_cell("", metadata={"tags": list(tags)})
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        return nbformat.v4.new_notebook(cells=[cell])

    old = notebook("loss 1.25, 3,000 images/s\n")
    assert bool(notebooks.differences(old, notebook("loss   0.8, 41 images/s\n"))) == differs
    assert notebooks.differences(old, notebook("error 1.25, 3,000 images/s\n"))


@EVERY
def test_no_word_of_a_measured_cell_hangs_on_how_fast_the_machine_is(path):
    # `tables.duration` chooses its unit, and only numbers of such a cell may vary.
    measured = [c for c in code_cells(path) if notebooks.VARIES in c.metadata.get("tags", [])]
    assert not [c.id for c in measured if "duration(" in c.source]


def test_warnings_on_standard_error_are_not_swallowed(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import warnings; warnings.warn('old way')")]
    )
    path = tmp_path / "99_warns.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match="old way"):
        notebooks.execute(path)


def test_an_unknown_notebook_is_named():
    with pytest.raises(ValueError, match="no notebook '77'.*04_blocks"):
        notebooks.paths(["77"])


@pytest.fixture(scope="module")
def quick(dataset, tmp_path_factory) -> Iterator[Callable[[int], tuple[Path, dict]]]:
    """Chapter 2's plain networks as a reader trains them in quick mode, by their depth: file and record."""
    folder = tmp_path_factory.mktemp("quick")

    def plain(depth: int) -> tuple[Path, dict]:
        name = f"degradation-plain-{depth}"
        (record,) = runs.load_seeds(name, runs.obtain(name, folder))
        return folder / "quick" / f"{record['name']}.json", record

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNETBOOK_RUNS", "quick")
        yield plain


@pytest.mark.slow
def test_quick_mode_really_trains_once(quick):
    path, record = quick(20)
    losses = [entry["train_loss"] for entry in record["history"]]
    assert losses[-1] < losses[0]
    assert record["num_images"] == runs.EXPERIMENTS["degradation-plain-20"].quick_images
    # Asked again, it reads what is there.
    written = path.stat().st_mtime_ns
    assert quick(20) == (path, record)
    assert path.stat().st_mtime_ns == written


@pytest.mark.slow
def test_the_deeper_plain_network_has_the_larger_training_loss_in_quick_mode(quick):
    """The effect of the chapter, trained here and now: a minute or two on two cores."""
    (_, shallow), (_, deep) = quick(20), quick(56)
    for kind in ("train_loss", "slice_loss"):
        # It is not close: a margin, so that luck cannot decide.
        assert deep["history"][-1][kind] > shallow["history"][-1][kind] + 0.2, kind
