"""For instructors: which exercise, or which question of the quiz, tests each objective of a chapter."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from site_tables import table

BOOK = Path(__file__).resolve().parents[1]
TESTS = Path(__file__).with_name("objectives.yml")
_LIST = re.compile(r"\*\*When you are done, you can\*\*\n\n(?P<items>(?:- .+\n)+)")


def chapters() -> list[Path]:
    """The notebooks of the chapters, in order."""
    return sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))


def prose(notebook: Path) -> str:
    """The Markdown cells of a notebook, one below the other."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def objectives(notebook: Path) -> list[str]:
    """What the reader can do when the chapter is done, as its beginning says, in Markdown.

    Raises:
        ValueError: if it does not say so.
    """
    found = _LIST.search(prose(notebook) + "\n")
    if found is None:
        raise ValueError(f"{notebook.name} has no list of what the reader can do")
    return [line[2:].strip().rstrip(",.") for line in found["items"].splitlines()]


def questions(notebook: Path) -> list[str]:
    """The quiz's questions, by name: ``quiz 1``, and so on."""
    _, _, quiz = prose(notebook).partition("\n## Quiz\n")
    return [f"quiz {number}" for number in re.findall(r"(?m)^\*\*(\d+)\.\*\* ", quiz)]


def tested_by() -> dict[str, list[list[str]]]:
    """For each chapter, ``"01"``, and each objective, in order: exercises and questions that test it."""
    return yaml.safe_load(TESTS.read_text(encoding="utf-8"))


class Objectives(SphinxDirective):
    """``{objectives}``: a table of every chapter's objectives, and what tests each."""

    def run(self) -> list[nodes.Node]:
        """Read the chapters as they are now."""
        self.env.note_dependency(str(TESTS))
        rows = []
        for notebook in chapters():
            self.env.note_dependency(str(notebook))
            page = self.env.app.builder.get_relative_uri(self.env.docname, f"book/{notebook.stem}")
            tests = tested_by()[notebook.name[:2]]
            for objective, names in zip(objectives(notebook), tests, strict=True):
                text, _ = self.state.inline_text(f"{int(notebook.name[:2])}. {objective}", 0)
                links: list[nodes.Node] = []
                for name in names:
                    anchor = "quiz" if name.startswith("quiz") else f"exercise-{name.replace('.', '-')}"
                    links += [nodes.Text(", ")] if links else []
                    links.append(nodes.reference("", name, refuri=f"{page}#{anchor}", internal=True))
                rows.append((text, links))
        return [table(("Chapter, and what a student can do after it", "Tested by"), rows)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("objectives", Objectives)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
