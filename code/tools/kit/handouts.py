"""A chapter's two hand-outs: without the answers, for students, and with them, run to the end.

Both come from the committed notebook and from the exercises' data (:mod:`resnetbook.checks.exercise`).
"""

import copy
import importlib
import pkgutil
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import notebooks
from notebooks import site_links
from resnetbook import checks
from resnetbook.checks.exercise import Exercise

ROOT = Path(__file__).resolve().parents[3]
STUDENT, SOLUTION = "student", "solution"

_CHECK = re.compile(r"^checks\.(\w+)\((\w+)\)$", re.M)
_ANSWER = re.compile(r"<details>\s*<summary>Answer</summary>.*?</details>", re.S)
_FOLDED_SOLUTION = re.compile(r"\s*<details>\s*<summary>Solution</summary>.*?</details>", re.S)
# The whole quote that asks for a prediction.
_PREDICT = re.compile(r"^> \*\*Predict\.\*\*.*(?:\n>.*)*", re.M)
# A link to another page of the book; its anchor, if any, by itself.
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([\w/.-]+?)(\.ipynb|\.md|\.py|\.txt)(#[^)]*)?\)")
_NOTES = {
    STUDENT: (
        "*A copy for a class: exercises and checks are here, solutions and answers to the quiz are not, and "
        "no cell has been run. Write your predictions down before you run what follows them.*"
    ),
    SOLUTION: "*A copy for whoever teaches: every exercise is solved, and every cell has been run.*",
}


def exercises() -> dict[str, Exercise]:
    """All exercises of the book, by the name of their check."""
    found = {}
    for module in pkgutil.iter_modules(checks.__path__, "resnetbook.checks."):
        if re.search(r"\.chapter\d\d$", module.name):
            contents = vars(importlib.import_module(module.name))
            found |= {name: thing for name, thing in contents.items() if isinstance(thing, Exercise)}
    return found


def exercise_cells(notebook: NotebookNode) -> dict[int, str]:
    """Where the exercises of a notebook are written: the place of the cell, and the name of its check."""
    known = exercises()
    return {
        place: match[1]
        for place, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        and (match := _CHECK.search(cell.source))
        and match[1] in known
        and "raise NotImplementedError" in cell.source
    }


def site_address() -> str:
    """Where GitHub Pages serves the book, from the repository's address in ``_config.yml``."""
    return site_links.own_addresses()["site"].removesuffix("/")


def _linked(text: str, names: set[str], site: str) -> str:
    """The text with its links to pages that are not among ``names`` pointing into the site."""

    def address(match: re.Match[str]) -> str:
        page, suffix, anchor = match[1], match[2], match[3] or ""
        if f"{page}{suffix}" in names:
            return match[0]
        if suffix not in (".ipynb", ".md"):  # a script, or what it printed: the site has no page of it
            return site_links.absolute(match[0], site_links.own_addresses())
        return f"]({site}/book/{page}.html{anchor})"

    return _LINK.sub(address, text)


def _prepared(notebook: NotebookNode, kind: str, names: set[str], site: str) -> NotebookNode:
    """A copy with a line below the title that says what it is, and links that lead somewhere."""
    made = copy.deepcopy(notebook)
    own = site_links.own_addresses()
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = _linked(site_links.relative(cell.source, own), names, site)
    # It would open the chapter, and not this copy.
    made.cells[0].source = site_links.without_button(made.cells[0].source)
    title, _, rest = made.cells[0].source.partition("\n")
    if not title.startswith("# "):
        raise ValueError(f"a chapter begins with its title, not with {title!r}")
    made.cells[0].source = f"{title}\n\n{_NOTES[kind]}\n{rest}"
    return made


def student(notebook: NotebookNode, names: set[str], site: str) -> NotebookNode:
    """The hand-out for students: solutions, answers and all outputs removed, hints and checks kept.

    Args:
        notebook: a chapter, as it is committed.
        names: file names of the notebooks that lie beside this one.
        site: the address of the site, or the way to its folder, for links to other pages.

    Raises:
        ValueError: if an exercise has no solution to remove.
    """
    made = _prepared(notebook, STUDENT, names, site)
    removed = 0
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            continue
        cell.source, count = _FOLDED_SOLUTION.subn("", cell.source)
        removed += count
        cell.source = _ANSWER.sub("*Your answer:*", cell.source)
        cell.source = _PREDICT.sub(r"\g<0>\n\n*Your prediction:*", cell.source)
    made.cells = [cell for cell in made.cells if cell.source.strip()]
    if removed < len(exercise_cells(notebook)):
        raise ValueError(
            f"{removed} solutions are folded on a page of {len(exercise_cells(notebook))} exercises"
        )
    return made


def solved(notebook: NotebookNode, names: set[str], site: str) -> NotebookNode:
    """The chapter with the answer of every exercise where the reader would write it; not yet run.

    Args: as for :func:`student`.
    """
    made = _prepared(notebook, SOLUTION, names, site)
    known = exercises()
    for place, name in exercise_cells(notebook).items():
        cell = made.cells[place]
        cell.source = f"{known[name].answer.strip()}\n\n\n{cell.source[_CHECK.search(cell.source).start() :]}"
    return made


def run_solved(notebook: NotebookNode, file_name: str, execute: Callable = notebooks.execute) -> NotebookNode:
    """Run a solved chapter from top to bottom.

    Args:
        notebook: from :func:`solved`.
        file_name: its name, for messages.
        execute: runs the notebook at a path and returns it with its outputs.

    Raises:
        ValueError: if a check does not say that its answer is right.
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    with tempfile.TemporaryDirectory(prefix="resnetbook-") as folder:
        path = Path(folder) / file_name
        nbformat.write(notebook, path)
        made = execute(path)
    known = exercises()
    printed = dict(zip(_code_places(made), notebooks.text_outputs(made), strict=True))
    for place, cell in enumerate(made.cells):
        match = _CHECK.search(cell.source) if cell.cell_type == "code" else None
        if match and match[1] in known and not printed[place].startswith("Right"):
            raise ValueError(f"{file_name}: exercise {known[match[1]].number} says: {printed[place]!r}")
    return made


def _code_places(notebook: NotebookNode) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def write(out: Path, kind: str, chapters: list[str] | None = None, site: str | None = None) -> list[Path]:
    """Write the hand-outs of some chapters.

    Args:
        out: a folder.
        kind: ``student`` or ``solution``; solutions are run, which takes a minute or two for each chapter.
        chapters: such as ``["02", "04"]``; default: all.
        site: the way to the site in links; default: where it is published.

    Returns:
        The notebooks' paths.

    Raises:
        ValueError: as :func:`student` and :func:`run_solved` do.
    """
    sources = notebooks.paths(chapters)
    names = {path.name for path in sources}
    written = []
    for source in sources:
        notebook = nbformat.read(source, as_version=4)
        if kind == STUDENT:
            made = student(notebook, names, site or site_address())
        else:
            print(f"  {source.name} …", flush=True)
            made = run_solved(solved(notebook, names, site or site_address()), source.name)
        nbformat.write(made, out / source.name)
        written.append(out / source.name)
    return written
