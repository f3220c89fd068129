"""What is folded away on a page: under which words, and that the words say of what."""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# An exercise, a question of a quiz, and what is folded below them.
_FOLD = re.compile(
    r'id="exercise-(?P<chapter>\d+)-(?P<number>\d+[a-z]?)"'
    r"|<h2|<div class=\"[^\"]*\b(?P<predict>predict)\b"
    r"|<p><strong>(?P<question>\d+)\.</strong>"
    r"|<summary>(?P<fold>Hint|Solution|Answer)</summary>"
)


def folded(summary: str, content: list[nodes.Node], css_class: str | None = None) -> list[nodes.Node]:
    """Content that is folded away under a line of text, without a script."""
    named = f' class="{css_class}"' if css_class else ""
    return [
        nodes.raw("", f"<details{named}><summary>{escape(summary)}</summary>\n", format="html"),
        *content,
        nodes.raw("", "</details>\n", format="html"),
    ]


def _is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and "cell" in node["classes"]


class SetUp(SphinxTransform):
    """Put what sets a notebook up, all that stands before its first section, under one fold.

    Who reads on a phone would scroll past half a screen of closed folds otherwise.
    """

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Fold from the first cell to the first section, if every cell there is folded itself."""
        page = next(iter(self.document.findall(nodes.section)), None)
        if page is None:
            return
        parts = page.children
        end = next((i for i, part in enumerate(parts) if isinstance(part, nodes.section)), len(parts))
        begin = next((i for i, part in enumerate(parts[:end]) if _is_cell(part)), end)
        content = parts[begin:end]
        cells = [part for part in content if _is_cell(part)]
        if not cells or not all("tag_hide-input" in cell["classes"] for cell in cells):
            return
        told = len(cells) < len(content)
        summary = "Set-up, and how long runs are replayed" if told else "Set-up: helpers and imports"
        page[begin:end] = folded(summary, content, "set-up")


def name_folds(html: str) -> str:
    """Say of what a folded hint, solution or answer is: a list of thirty times "Hint" is no help."""
    exercise = question = ""

    def named(found: re.Match) -> str:
        nonlocal exercise, question
        if found["number"]:
            exercise = f"exercise {found['chapter']}.{found['number']}"
        elif found["predict"]:
            exercise = "the prediction"
        elif found[0] == "<h2":
            exercise = question = ""
        elif found["question"]:
            question = f"question {found['question']}"
        elif found["fold"] == "Answer" and question:
            return f"<summary>Answer to {question}</summary>"
        elif found["fold"] != "Answer" and exercise:
            return (
                f"<summary>{found['fold']} {'for' if found['fold'] == 'Hint' else 'of'} {exercise}</summary>"
            )
        return found[0]

    return _FOLD.sub(named, html)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_transform(SetUp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
