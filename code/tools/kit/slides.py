"""Slides from small Markdown files: figures, tables and code come out of the committed notebooks.

A deck is ``code/tools/kit/slides/NAME.md``. It begins with its title and its minutes between two lines
``---``; such a line also stands between its slides. A slide is a heading, Markdown, what it shows, and its
notes::

    ## Deeper is worse

    Which curve is which?

    ![](02#curves)

    Note (4 min): Ask first. …

``![](02#curves)`` shows the picture that the cell ``curves`` of chapter 2 has put out (a label such as
``fig-degradation-curves`` will do as well), else its table or its text; ``![](02#table/2)`` its second
output; ``![code](04#basic-code)`` its source; ``![code BasicBlock.forward](04#basic-code)`` one definition in
it. With ``later`` in the brackets it appears when the speaker goes on: a prediction comes first. So no figure
and no measured number is copied by hand. reveal.js comes from a package that pip fetches, pinned by its
SHA-256.
"""

import ast
import base64
import hashlib
import html
import re
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

import latex2mathml.converter
import nbformat
import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import notebooks
from kit.handouts import site_address
from publish import chromium
from resnetbook import data

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DECKS = Path(__file__).with_name("slides")
WIDTH, HEIGHT = 1280, 720  # pixels of a slide
# What a deck needs of reveal.js, by its path in the wheel.
_PINNED = DECKS / "reveal.txt"
_IN_WHEEL = "sphinx_revealjs/_static/revealjs/"
REVEAL = {
    "dist/reveal.js": "reveal.js",
    "dist/reveal.css": "reveal.css",
    "plugin/notes/notes.js": "notes.js",
    "LICENSE": "LICENSE",
}
_SHOWN = re.compile(r"^!\[(later)? ?(code(?: [\w.]+)?)?\]\((\d\d)#([\w-]+)(?:/(\d+))?\)$", re.M)
_NOTE = re.compile(r"^Note \((\d+) min\): ", re.M)


@dataclass(frozen=True)
class Shown:
    """A figure, a table, a text or code of a notebook: where it stands, and as HTML."""

    chapter: str
    cell: str
    kind: str  # image, table, printed or code
    html: str  # with @SIZE@ for the size of its type
    plain: str = ""  # what is printed, or the source
    later: bool = False  # shown when the speaker goes on
    file: str = ""  # of an image
    content: bytes = b""
    aspect: float = 0  # of an image: its width by its height


@dataclass(frozen=True)
class Slide:
    """One slide; ``text`` is Markdown, ``notes`` are the speaker's."""

    title: str
    text: str
    shown: tuple[Shown, ...]
    minutes: int
    notes: str


@dataclass(frozen=True)
class Deck:
    """A row of slides; ``minutes`` is what all of them take together."""

    name: str
    title: str
    subtitle: str
    slides: tuple[Slide, ...]

    @property
    def minutes(self) -> int:
        return sum(slide.minutes for slide in self.slides)


# ---- what notebooks hold


@cache
def _cells(chapter: str) -> dict[str, nbformat.NotebookNode]:
    """The code cells of a chapter, by id and by the label of their figure."""
    (path,) = notebooks.paths([chapter])
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            label = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            found |= {name: cell for name in (cell.id, label) if name}
    return found


def _definition(source: str, name: str) -> str:
    """The source of a function, a class or a method such as ``BasicBlock.forward``."""
    nodes = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%"))).body
    for part in name.split("."):
        found = [node for node in nodes if getattr(node, "name", None) == part]
        if not found:
            raise ValueError(f"no definition {name}")
        nodes = found[0].body
    return textwrap.dedent(ast.get_source_segment(source, found[0], padded=True))


def shown(chapter: str, name: str, output: int | None = None, code: str | None = None) -> Shown:
    """What a cell of a notebook shows, or its source.

    Args:
        chapter: such as ``"04"``.
        name: the cell's id, or the label of its figure.
        output: which of its pictures, tables and texts; the first is 1. Default: the first picture, else the
            first table, else the first text.
        code: ``"code"`` for the source of the cell, ``"code NAME"`` for one definition in it.

    Raises:
        ValueError: if there is no such thing, or a picture without alt text.
    """
    where = f"{chapter}#{name}"
    cell = _cells(chapter).get(name)
    if cell is None:
        raise ValueError(f"{where}: chapter {chapter} has no such code cell or figure")
    if code:
        _, _, definition = code.partition(" ")
        source = _definition(cell.source, definition) if definition else cell.source
        return Shown(chapter, cell.id, "code", _coloured(source), source)
    outputs = [o for o in cell.outputs if o.output_type in ("display_data", "execute_result", "stream")]
    if output is None:
        outputs.sort(key=_rank)
    if not 1 <= (output or 1) <= len(outputs):
        raise ValueError(f"{where} has {len(outputs)} outputs, and number {output or 1} is asked for")
    chosen = outputs[(output or 1) - 1]
    if chosen.output_type == "stream":
        return Shown(chapter, cell.id, "printed", _printed(chosen.text), chosen.text)
    kinds = chosen.data
    for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png")):
        if kind in kinds:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
            if not alt:
                raise ValueError(f"{where}: a picture without alt text")
            file = f"figures/{chapter}-{cell.id}.{suffix}"
            content = kinds[kind].encode() if suffix == "svg" else base64.b64decode(kinds[kind])
            image = f'<img src="{file}" alt="{html.escape(alt)}">'
            aspect = _svg_aspect(kinds[kind]) if suffix == "svg" else 1
            return Shown(chapter, cell.id, "image", image, file=file, content=content, aspect=aspect)
    if "text/html" in kinds:
        table = kinds["text/html"].replace('class="rows"', 'class="rows" style="font-size: @SIZE@px"')
        return Shown(chapter, cell.id, "table", table)
    return Shown(chapter, cell.id, "printed", _printed(kinds["text/plain"]), kinds["text/plain"])


def _svg_aspect(text: str) -> float:
    width, height = (float(n) for n in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())
    return width / height


def _rank(output: nbformat.NotebookNode) -> int:
    """Pictures first, then tables, then what is printed."""
    kinds = output.get("data", {})
    return 0 if any(kind.startswith("image/") for kind in kinds) else 1 if "text/html" in kinds else 2


def _printed(text: str) -> str:
    return f'<pre style="font-size: @SIZE@px">{html.escape(text.rstrip())}</pre>'


def _coloured(source: str) -> str:
    style = HtmlFormatter(noclasses=True, style="friendly", prestyles="font-size: @SIZE@px")
    return highlight(source.strip("\n"), PythonLexer(), style)


# ---- decks


def deck(path: Path) -> Deck:
    """Read a deck.

    Raises:
        ValueError: if its form is not that of this module's docstring, or it shows what there is not.
    """
    parts = re.split(r"^---$", path.read_text(encoding="utf-8"), flags=re.M)
    if len(parts) < 3 or parts[0].strip():
        raise ValueError(f"{path.name} does not begin with its title between two lines ---")
    head = yaml.safe_load(parts[1])
    slides = tuple(
        _slide(part.strip(), f"{path.name}, slide {i}") for i, part in enumerate(parts[2:], start=1)
    )
    made = Deck(path.stem, head["title"], head["subtitle"], slides)
    if made.minutes != head["minutes"]:
        raise ValueError(
            f"{path.name}: its slides take {made.minutes} minutes, and it says {head['minutes']}"
        )
    return made


def _slide(text: str, where: str) -> Slide:
    note = _NOTE.search(text)
    if not text.startswith("## ") or not note:
        raise ValueError(f"{where} has no heading, or no line that begins with Note (… min):")
    title, _, body = text[: note.start()].removeprefix("## ").partition("\n")
    found = []
    for match in _SHOWN.finditer(body):
        later, code, chapter, name, output = match.groups()
        try:
            one = shown(chapter, name, int(output) if output else None, code)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        found.append(replace(one, later=bool(later)))
    body = _SHOWN.sub("", body).strip()
    if "![" in body:
        raise ValueError(f"{where}: a picture that is not of the form ![](02#cell)")
    return Slide(title, body, tuple(found), int(note[1]), text[note.end() :].strip())


def decks() -> list[Deck]:
    """All decks, the one for the whole argument first."""
    return [deck(path) for path in sorted(DECKS.glob("*.md"))]


# ---- HTML


@cache
def _markdown() -> MarkdownIt:
    def formula(content: str, options: dict) -> str:
        display = "block" if options["display_mode"] else "inline"
        return latex2mathml.converter.convert(content, display=display)

    return MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, renderer=formula)


def _text_height(text: str) -> float:
    """About how many pixels high the words of a slide are, at full width."""
    return sum(
        16 + 44 * -(-len(part) // 60) + 28 * part.startswith(">") for part in text.splitlines() if part
    )


def _size(items: list[Shown], width: float, height: float) -> int:
    """The size of type, in pixels, in which tables, texts and code fit into a place.

    It is a guess, since fonts differ: a test looks whether everything fits.
    """
    wanted, lines = 31.0, 0.0
    for item in items:
        if item.kind == "table":
            cells = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>")
            rows = [
                [html.unescape(re.sub("<[^>]+>", "", cell)) for cell in cells.findall(row)]
                for row in item.html.split("<tr>")[1:]
            ]
            columns = max(map(len, rows))
            letters = [max(len(row[i]) for row in rows if len(row) == columns) for i in range(columns)]
            wanted = min(wanted, (width - 32 * columns) / (0.58 * sum(letters)))
            lines += 1.75 * (len(rows) + item.html.count("<caption"))
        elif item.plain:
            rows = item.plain.strip("\n").splitlines()
            # A letter of a typewriter's type is 0.61 times as wide as it is high.
            wanted = min(wanted, (width - 44) / (0.61 * max(map(len, rows))))
            lines += 1.32 * len(rows) + 1.2
    return max(15, int(min(wanted, height / lines if lines else wanted)))


def _section(slide: Slide) -> str:
    pictures = [one for one in slide.shown if one.kind == "image"]
    others = [one for one in slide.shown if one.kind != "image"]
    if not slide.shown:
        layout = "words"
    elif slide.text and any(one.aspect < 2 for one in pictures):
        layout = "beside"
    else:
        layout = "below"
    text = f'<div class="text">{_markdown().render(slide.text)}</div>' if slide.text else ""
    size = _size(others, 600 if pictures else 1150, 540 - _text_height(slide.text))
    items = "".join(
        f'<div class="{one.kind}{" fragment" if one.later else ""}">{one.html}</div>' for one in slide.shown
    )
    media = f'<div class="shown{" pictures" if pictures else ""}">{items}</div>' if items else ""
    media = media.replace("@SIZE@", str(size))
    chapters = sorted({one.chapter for one in slide.shown})
    pages = {chapter: notebooks.paths([chapter])[0].stem for chapter in chapters}
    links = ", ".join(
        f'<a href="{site_address()}/book/{stem}.html">chapter {int(chapter)}</a>'
        for chapter, stem in pages.items()
    )
    source = f'<p class="from">from {links}</p>' if links else ""
    notes = _markdown().render(f"**{slide.minutes} min.** {slide.notes}")
    return (
        f'<section><div class="slide"><h2>{_markdown().renderInline(slide.title)}</h2>'
        f'<div class="body {layout}">{text}{media}</div>{source}</div>'
        f'<aside class="notes">{notes}</aside></section>'
    )


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="slides.css">
</head>
<body>
<div class="reveal"><div class="slides">
<section><div class="slide title"><h1>{title}</h1><p>{subtitle}</p>
<p class="from">{minutes} minutes · <kbd>S</kbd> opens the speaker’s notes ·
text and figures under CC BY 4.0</p></div></section>
{sections}
</div></div>
<script src="reveal/reveal.js"></script>
<script src="reveal/notes.js"></script>
<script>
Reveal.initialize({{
  width: {width}, height: {height}, margin: 0, minScale: 0.1, maxScale: 4, center: false, hash: true,
  slideNumber: "c/t", transition: "none", backgroundTransition: "none", plugins: [RevealNotes],
}});
</script>
</body>
</html>
"""

_INDEX = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides</title>
<link rel="stylesheet" href="slides.css">
</head>
<body class="index">
<main>
<h1>Slides</h1>
<p>Open a deck, press <kbd>S</kbd> for the speaker’s notes and <kbd>F</kbd> for the full screen. It all works
without a network. Minutes, and what to expect, are estimates.
Text and figures are under CC BY 4.0: name <a href="{site}/">the book</a>.</p>
<ul>
{items}
</ul>
</main>
</body>
</html>
"""


def page(made: Deck) -> str:
    """A deck as a page for reveal.js."""
    return _PAGE.format(
        title=html.escape(made.title),
        subtitle=html.escape(made.subtitle),
        minutes=made.minutes,
        sections="\n".join(map(_section, made.slides)),
        width=WIDTH,
        height=HEIGHT,
    )


def _index(all_decks: list[Deck], printed: bool) -> str:
    items = []
    for one in all_decks:
        papers = (
            f', <a href="{one.name}.pdf">PDF</a>, <a href="{one.name}-notes.pdf">PDF with notes</a>'
            if printed
            else ""
        )
        items.append(
            f'<li><a href="{one.name}.html">{html.escape(one.title)}</a>: {html.escape(one.subtitle)} '
            f"({one.minutes} minutes{papers})</li>"
        )
    return _INDEX.format(site=site_address(), items="\n".join(items))


# ---- reveal.js


def reveal_wheel() -> Path:
    """The package that holds reveal.js: from the cache, else fetched by pip, which holds it to its SHA-256.

    Raises:
        ValueError: if it is not there and pip cannot fetch it, or the cached file is another one.
    """
    (pin,) = [line for line in _PINNED.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    name, version, digest = re.fullmatch(r"([\w-]+)==([\d.]+) --hash=sha256:(\w{64})", pin).groups()
    folder = data.cache_root() / "reveal"
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not wheel.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--dest", str(folder), "--requirement", str(_PINNED)],
            capture_output=True,
            text=True,
            errors="replace",
        )
        if not wheel.exists():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(
                f"the slides need reveal.js, and pip could not fetch {name} {version} ({reason}). Run this "
                f"again where there is a network, or bring the file {wheel.name} to {folder}"
            )
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{wheel} is not the file that the book knows; remove it, and run this again")
    return wheel


# ---- the folder


def print_decks(out: Path, browser: "Browser", all_decks: list[Deck]) -> None:
    """Write each deck as PDF, a page for each step; and once more with a page of notes behind each slide."""
    for one in all_decks:
        for suffix, query in (("", "print-pdf"), ("-notes", "print-pdf&showNotes=separate-page")):
            tab = browser.new_page()
            tab.goto(f"{(out / one.name).absolute().as_uri()}.html?{query}")
            tab.wait_for_selector(".pdf-page")
            tab.wait_for_function("Reveal.isReady() && [...document.images].every(i => i.complete)")
            tab.pdf(
                path=out / f"{one.name}{suffix}.pdf",
                prefer_css_page_size=True,
                print_background=True,
                tagged=True,
                outline=True,
            )
            tab.close()


def make(out: Path, pdf: bool = True) -> None:
    """Write all decks, their figures, reveal.js, a page that lists them, and PDFs.

    Args:
        out: a folder.
        pdf: print them, too; this needs Chromium.

    Raises:
        ValueError: as :func:`deck`, :func:`reveal_wheel` and :func:`chromium` do.
    """
    all_decks = decks()
    wheel = reveal_wheel()
    (out / "figures").mkdir(parents=True, exist_ok=True)
    (out / "reveal").mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        for inside, name in REVEAL.items():
            (out / "reveal" / name).write_bytes(files.read(_IN_WHEEL + inside))
    copyfile(DECKS / "slides.css", out / "slides.css")
    copyfile(notebooks.BOOK / "site" / "static" / "math.woff2", out / "math.woff2")
    for one in all_decks:
        for slide in one.slides:
            for item in slide.shown:
                if item.file:
                    (out / item.file).write_bytes(item.content)
        (out / f"{one.name}.html").write_text(page(one), encoding="utf-8")
    (out / "index.html").write_text(_index(all_decks, pdf), encoding="utf-8")
    if pdf:
        with chromium("; or add --no-pdf") as browser:
            print_decks(out, browser, all_decks)
