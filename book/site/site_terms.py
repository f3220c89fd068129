"""On the site a chapter's words lead to the glossary, and its figures and tables have numbers.

A term is bold where a chapter explains it. On the site its first bold occurrence is a link to the glossary's
entry; in the notebook it is bold, and no more. What has a caption is counted by chapter: "Figure 3.2".
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "book/glossary"
_ENTRIES = re.compile(r"^:::\{glossary\}\n(.*?)^:::$", re.DOTALL | re.MULTILINE)
_CHAPTER = re.compile(r"book/(\d\d)_\w+")
_CAPTION = re.compile(r"<caption>(?!<span)")


def read_terms(glossary: str) -> dict[str, str]:
    """The glossary's entries by every way to write them in a chapter, in small letters.

    Args:
        glossary: the source of the page. An entry ``engine (backend)`` has two names.
    """
    found = _ENTRIES.search(glossary)
    entries = re.findall(r"^(\S.*)$", found[1], re.MULTILINE) if found else []
    names: dict[str, str] = {}
    for entry in entries:
        for name in re.findall(r"[^(),]+", entry):
            names[name.strip().lower()] = entry
    # Singular first: no plural takes the place of an entry.
    return {f"{name}s": entry for name, entry in names.items()} | names


class Terms(SphinxTransform):
    """Link the first bold occurrence of each term in a chapter to the glossary."""

    default_priority = 500  # when quotes are callouts, and their bold leads titles

    def apply(self, **kwargs: Any) -> None:
        """Look at every bold text of the document."""
        if not _CHAPTER.fullmatch(self.env.docname):
            return
        page = Path(self.env.doc2path(GLOSSARY))
        if not page.is_file():
            return
        self.env.note_dependency(str(page))
        terms, seen = read_terms(page.read_text(encoding="utf-8")), set()
        for strong in list(self.document.findall(nodes.strong)):
            entry = terms.get(" ".join(strong.astext().lower().split()))
            if entry is None or entry in seen or _is_in(strong, (nodes.title, nodes.reference)):
                continue
            seen.add(entry)
            words = nodes.inline("", "", *[child.deepcopy() for child in strong.children])
            link = addnodes.pending_xref(
                "",
                words,
                refdomain="std",
                reftype="term",
                reftarget=entry,
                refdoc=self.env.docname,
                refexplicit=True,
                refwarn=True,
            )
            strong.replace_self(nodes.strong("", "", link, classes=["term"]))


def _is_in(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


class Numbers(SphinxPostTransform):
    """Write "Figure 3.2: " and "Table 3.1: " before the captions of a chapter."""

    default_priority = 20  # when MyST-NB has chosen which form of an output is shown

    def run(self, **kwargs: Any) -> None:
        """Count what has a caption, figures and tables apart."""
        counts: Counter[tuple[str, int]] = Counter()
        for node in list(self.document.findall(lambda n: isinstance(n, nodes.caption | nodes.raw))):
            chapter = self._chapter(node)
            if chapter is None:
                continue

            def number(kind: str, chapter: int = chapter) -> str:
                counts[kind, chapter] += 1
                return f"{kind} {chapter}.{counts[kind, chapter]}:"

            if isinstance(node, nodes.raw):
                if "html" in node.get("format", ""):
                    text = _CAPTION.sub(
                        lambda _: f'<caption><span class="caption-number">{number("Table")} </span>',
                        node.astext(),
                    )
                    if text != node.astext():
                        node.children = []
                        node += nodes.Text(text)
                        node.rawsource = text
            elif isinstance(node.parent, nodes.figure):
                node.insert(0, nodes.inline("", f"{number('Figure')} ", classes=["caption-number"]))

    def _chapter(self, node: nodes.Node) -> int | None:
        """The chapter that a node stands in; all pages are one document where the book is one page."""
        docname = self.env.docname
        while node.parent is not None:
            node = node.parent
            if isinstance(node, addnodes.start_of_file):
                docname = node["docname"]
                break
        found = _CHAPTER.fullmatch(docname)
        return int(found[1]) if found else None


def setup(app: Sphinx) -> None:
    """Register both with Sphinx."""
    app.add_transform(Terms)
    app.add_post_transform(Numbers)
