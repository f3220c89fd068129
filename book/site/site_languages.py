"""Pages that tell the book in another language: figures of the chapters, and words of the glossary.

Such a page names its language in its front matter, ``language: es``. It has:

- ``{chapter-figure} CHAPTER NAME``: a figure of a chapter's notebook, as it was stored there, with a caption
  and an alternative text in the page's language;
- ``{word}`` with ``red residual <residual network>``: a word of that language, linked to the glossary's
  entry, which links back to it;
- ``{mean-accuracy}`` with an experiment's name: its recorded test accuracy.

Its text is marked with its language, and it and the landing page name each other as alternatives.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from resnetbook import runs
from site_tables import accuracy_text

logger = logging.getLogger(__name__)

LANDING = "book/intro"
GLOSSARY = "book/glossary"
_WORD = re.compile(r"(?P<text>.+?)\s*<(?P<term>[^<>]+)>", re.DOTALL)


def stored_figure(notebook: Path, name: str) -> tuple[bytes, list[str]]:
    """The SVG of a notebook's figure, and the classes of its image.

    Raises:
        KeyError: if the notebook has no figure of this name.
    """
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        shown = cell["metadata"].get("mystnb", {})
        if shown.get("figure", {}).get("name") != name:
            continue
        for output in cell.get("outputs", []):
            if svg := output.get("data", {}).get("image/svg+xml"):
                return "".join(svg).encode(), shown.get("image", {}).get("classes", "").split()
    raise KeyError(f"{notebook.name} has no figure {name!r}")


class ChapterFigure(SphinxDirective):
    """``{chapter-figure} CHAPTER NAME``: a figure of a chapter with a caption of this page's own."""

    required_arguments = 2
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 - docutils wants it so

    def run(self) -> list[nodes.Node]:
        """Write the figure's file beside those of the notebooks, and show it."""
        chapter, name = self.arguments
        notebook = Path(self.env.doc2path(f"book/{chapter}", base=True))
        self.env.note_dependency(str(notebook))
        try:
            svg, classes = stored_figure(notebook, name)
        except (KeyError, OSError) as error:
            logger.warning("no such figure: %s", error, location=self.get_location())
            return []
        folder = Path(self.env.app.outdir).parent / "jupyter_execute"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{hashlib.sha256(svg).hexdigest()}.svg"
        file.write_bytes(svg)
        relative = os.path.relpath(file, self.env.srcdir)
        image = nodes.image(uri=f"/{Path(relative).as_posix()}", alt=self.options["alt"], classes=classes)
        children, _ = self.state.inline_text("\n".join(self.content), self.content_offset)
        # A legend and no caption: figures with a caption are numbered, and this one has its number elsewhere.
        return [nodes.figure("", image, nodes.legend("", nodes.paragraph("", "", *children)))]


def _anchors(env: BuildEnvironment) -> dict[str, dict[str, str]]:
    """For each page, the anchor of the first place where it uses a term."""
    if not hasattr(env, "resnetbook_words"):
        env.resnetbook_words = {}
    return env.resnetbook_words


class Word(SphinxRole):
    """``{word}`` with ``text <term>``: a word of the page's language for a term of the glossary."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Link it, and remember where it stands."""
        found = _WORD.fullmatch(self.text)
        if found is None:
            logger.warning("a word needs its <term>: %r", self.text, location=self.get_location())
            return [nodes.Text(self.text)], []
        term = found["term"].lower()
        link = addnodes.pending_xref(
            "",
            nodes.inline("", found["text"]),
            refdomain="std",
            reftype="term",
            reftarget=term,
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )
        link.source, link.line = self.get_source_info()
        of_page = _anchors(self.env).setdefault(self.env.docname, {})
        if term in of_page:
            return [link], []
        of_page[term] = f"word-{nodes.make_id(term)}"
        return [nodes.inline("", "", link, ids=[of_page[term]])], []


class MeanAccuracy(SphinxRole):
    """``{mean-accuracy}`` with an experiment's name: mean ± standard deviation, three digits, no words."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Write the number as text."""
        self.env.note_dependency(str(runs.RECORDS))
        records = runs.by_experiment().get(self.text)
        if not records:
            logger.warning("no record of experiment %r", self.text, location=self.get_location())
            return [], []
        return [nodes.Text(accuracy_text(records, digits=3))], []


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page is read again (``env-purge-doc``)."""
    _anchors(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment) -> None:
    """Pages were read by another process (``env-merge-info``)."""
    for docname in set(docnames) & set(_anchors(other)):
        _anchors(env)[docname] = _anchors(other)[docname]


def write_glossary_again(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Its links depend on what other pages use (``env-updated``)."""
    return [GLOSSARY] if GLOSSARY in env.found_docs else []


def language_of(env: BuildEnvironment, docname: str) -> str:
    """The language that a page names in its front matter; empty for English."""
    return str(env.metadata.get(docname, {}).get("language", ""))


def link_back(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """In the glossary, link each foreign word to the page that uses it (``doctree-resolved``)."""
    if docname != GLOSSARY:
        return
    pages = {language_of(app.env, page): page for page in _anchors(app.env)}
    for item in doctree.findall(nodes.definition_list_item):
        names = [term.astext().lower() for term in item.findall(nodes.term)]
        for word in list(item.findall(nodes.inline)):
            language = next((c[9:] for c in word.get("classes", []) if c.startswith("language-")), "")
            page = pages.get(language)
            anchor = next((a for n in names if (a := _anchors(app.env).get(page, {}).get(n))), None)
            if anchor is None:
                continue
            target = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
            word.children = [nodes.reference("", "", *word.children, refuri=target, internal=True)]
            word.children[0].parent = word


def mark(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Say in which language a page is, and where it is in others (``html-page-context``)."""
    language = language_of(app.env, pagename)
    if language:
        context["body"] = context["body"].replace("<section", f'<section lang="{escape(language)}"', 1)
    base = app.config.html_baseurl
    if not base or not (language or pagename == LANDING):
        return
    pages = {language_of(app.env, page): page for page in app.env.found_docs if language_of(app.env, page)}
    addresses = {"en": LANDING, **dict(sorted(pages.items())), "x-default": LANDING}
    lines = [
        f'<link rel="alternate" hreflang="{escape(name)}" href="{escape(base)}{page}.html" />'
        for name, page in addresses.items()
    ]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def setup(app: Sphinx) -> None:
    """Register the directive, the roles and what follows from them."""
    app.add_directive("chapter-figure", ChapterFigure)
    app.add_role("word", Word())
    app.add_role("mean-accuracy", MeanAccuracy())
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", write_glossary_again)
    app.connect("doctree-resolved", link_back)
    app.connect("html-page-context", mark)
