"""The search index: the text of every section of every page, as the reader sees it.

Sphinx's own index knows words alone. It drops numbers, takes a Chinese sentence for one word, and fetches
every page that it found for the lines around the word, which a browser refuses when the site is opened from
a folder. The whole text of the book is hardly larger than that index, compressed; ``static/search.js``
looks through it.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

# What stands in an article and is no text of it. Formulas are text, as signs.
_SKIPPED_TAGS = {"script", "style", "noscript", "template", "button", "svg"}
_SKIPPED_CLASSES = {"colab-button", "headerlink", "eqno", "toc-drawer", "prev-next-footer", "linenos"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_INLINE = {"a", "abbr", "b", "code", "em", "i", "kbd", "mark", "small", "span", "strong", "sub", "sup"}
_INLINE |= {"math", "mrow", "mi", "mo", "mn", "msub", "msup", "msubsup", "mtext", "mfrac", "msqrt", "mover"}
# The runs appendix repeats the names of experiments, which are made of the words that people look for.
_WEIGHTS = {"book/runs.html": 0.5}
_HEADINGS = {"h1", "h2", "h3", "dt"}


class _Article(HTMLParser):
    """Collects ``[anchor, title, text]`` for each section of a page; glossary terms are sections."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[list[str]] = []
        self._open: list[str] = []
        self._article: int | None = None  # the depth at which the article is open
        self._skipped: int | None = None
        self._heading: int | None = None
        self._anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self._add(" ")
            if tag == "img":  # what a figure shows is worth finding
                self._add(f"{dict(attrs).get('alt') or ''} ")
            return
        self._open.append(tag)
        depth, given = len(self._open), dict(attrs)
        classes = set((given.get("class") or "").split())
        if tag == "article" and self._article is None:
            self._article = depth
        if self._article is None or self._skipped is not None:
            return
        if tag in _SKIPPED_TAGS or classes & _SKIPPED_CLASSES:
            self._skipped = depth
            return
        if tag == "section" and given.get("id"):
            self._anchors.append(given["id"])
        if tag in _HEADINGS and self._heading is None:
            anchor = given.get("id") or (self._anchors[-1] if self._anchors and tag != "dt" else "")
            if tag != "dt" or anchor:
                self._heading = depth
                self.sections.append([anchor, "", ""])
        if tag not in _INLINE:
            self._add(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID or tag not in self._open:
            return
        while self._open:
            depth = len(self._open)
            closed = self._open.pop()
            if self._skipped == depth:
                self._skipped = None
            if self._heading == depth:
                self._heading = None
            if self._article == depth:
                self._article = None
            if closed == tag:
                break
        if tag not in _INLINE:
            self._add(" ")

    def handle_data(self, data: str) -> None:
        self._add(data)

    def _add(self, text: str) -> None:
        if self._article is None or self._skipped is not None or not self.sections:
            return
        self.sections[-1][1 if self._heading is not None else 2] += text


def read_sections(html: str) -> list[list[str]]:
    """The sections of a page: ``[anchor, title, text]`` of each, with single spaces."""
    reader = _Article()
    reader.feed(html)
    return [[re.sub(r"\s+", " ", part).strip() for part in section] for section in reader.sections]


def make_index(pages: dict[str, str]) -> str:
    """The script that holds the index of some pages, HTML by path relative to the search page."""
    titles: list[list[str | float]] = []
    texts: list[list[str | int]] = []
    for path, html in pages.items():
        sections = read_sections(html)
        if not sections:
            continue
        sections[0][0] = ""  # the page's own heading: the top of the page
        titles.append([path, sections[0][1], _WEIGHTS.get(path, 1)])
        texts += [[len(titles) - 1, *section] for section in sections]
    index = {"pages": titles, "texts": texts}
    return f"window.SEARCH_INDEX = {json.dumps(index, ensure_ascii=False, separators=(',', ':'))};\n"


def write_index(site: Path, names: list[str]) -> None:
    """Write the index of the named pages into the site's folder of static files."""
    pages = {name: (site / name).read_text(encoding="utf-8") for name in names}
    (site / "_static" / "search-index.js").write_text(make_index(pages), encoding="utf-8")
