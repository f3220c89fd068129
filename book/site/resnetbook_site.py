"""The book's own Sphinx extension: callouts, the runs appendix, and pages that need no other host.

What it adds:

- *Callouts.* Notebooks are read in Colab and on GitHub too, where MyST directives show as raw text. So
  they hold plain quotes with a bold lead, ``> **Exercise 4.1: Count** (10 min). ...``, which look good
  anywhere; here they become admonitions.
- *Exercises.* The directive ``{exercises}`` lists the exercises of all chapters.
- *Runs.* The directive ``{runs}`` writes the runs appendix from the records, and the role
  ``{accuracy}`` writes a measured accuracy, so that no page has one typed by hand.
- *Addresses.* ``@REPOSITORY@``, ``@TREE@``, ``@COLAB@`` and ``@SITE@`` in the pages stand for the addresses
  that follow from ``repository`` in ``_config.yml``.
- *Clean pages.* Formulas are MathML (``site_math.py``) and the search has the book's whole text
  (``site_search.py``). A script of 1.5 MB and the fonts of two thousand icons, which the theme loads for
  nothing, are removed, as are the elements around words of code that have no colour of their own
  (``site_code.py``); what it leaves unlabelled for screen readers is labelled.
- *Terms and numbers.* Words in bold lead to the glossary; figures and tables are numbered by chapter
  (``site_terms.py``).
- *Folds.* What sets a notebook up is one fold; a hint, a solution and an answer say of what they are
  (``site_folds.py``).
- *For other sites.* Every page has a description, a card and its canonical address; a sitemap, robots.txt
  and a page for addresses that are none are written (``site_files.py``).
"""

import re
from collections.abc import Callable, Iterable
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import site_code
import site_files
import site_folds
import site_languages
import site_links
import site_math
import site_numbers
import site_objectives
import site_search
import site_terms
import site_theme
import site_verified
from resnetbook import interactive, models, runs, studies
from resnetbook.experiments import Experiment
from resnetbook.recipe import Recipe
from site_tables import accuracy_text, table

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------
# Callouts

# The bold lead of a quote, and the classes of the admonition that it becomes. The first class is the
# book's own (resnetbook.css), the second one of the theme's, for its colour and icon.
CALLOUTS = {
    "exercise": ["exercise", "seealso"],
    "key idea": ["key-idea", "tip"],
    "warning": ["caution-note", "warning"],
    "predict": ["predict", "hint"],
    "try it": ["try-it", "seealso"],
    "note": ["remark", "note"],
}
# An exercise has a number, and then a title: "Exercise 4.1: Count the layers".
_LEAD = re.compile(
    rf"({'|'.join(CALLOUTS)})(?:(\s+\d+(?:\.\d+)*[a-z]?)(?::\s+\S.*)?)?\s*[.:!]?", re.IGNORECASE
)
# What may follow the lead and still belongs to the title: "(10 min)". Then a full stop or a colon.
_ASIDE = re.compile(r"\s*(\([^()]*\))?\s*[.:]?\s*", re.DOTALL)


class Callouts(SphinxTransform):
    """Turn quotes with a known bold lead into admonitions."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Replace every such quote in the document."""
        for quote in list(self.document.findall(nodes.block_quote)):
            admonition = _admonition(quote)
            if admonition is not None:
                quote.replace_self(admonition)


def _admonition(quote: nodes.block_quote) -> nodes.admonition | None:
    """The admonition that a quote stands for, or ``None`` if it is an ordinary quote."""
    first = quote.children[0] if quote.children else None
    if not isinstance(first, nodes.paragraph):
        return None
    # MyST puts an empty text in front of a paragraph that begins in bold.
    inlines = [child.deepcopy() for child in first.children if child.astext() or child.children]
    lead = inlines[0] if inlines else None
    found = _LEAD.fullmatch(lead.astext().strip()) if isinstance(lead, nodes.strong) else None
    if found is None:
        return None
    title = lead.astext().strip().rstrip(".:!")
    rest = nodes.paragraph("", "", *inlines[1:])
    if rest.children and isinstance(rest.children[0], nodes.Text):
        text = rest.children[0].astext()
        aside = _ASIDE.match(text)
        if aside.group(1):
            title += f" {aside.group(1)}"
        remaining = text[aside.end() :]
        rest.pop(0)
        if remaining:
            rest.insert(0, nodes.Text(remaining))
    classes = CALLOUTS[found.group(1).lower()]
    admonition = nodes.admonition("", nodes.title(title, title), classes=[*classes])
    if found.group(2):
        # Other pages can link to an exercise by its number.
        admonition["ids"].append(_anchor(found.group(1), found.group(2)))
    admonition.source, admonition.line = quote.source, quote.line
    if rest.children:
        admonition += rest
    admonition += [child.deepcopy() for child in quote.children[1:]]
    return admonition


def _anchor(kind: str, number: str) -> str:
    return nodes.make_id(f"{kind} {number.strip().replace('.', '-')}")


_EXERCISE = re.compile(
    r"^> \*\*Exercise (?P<number>[\d.]+): (?P<title>[^*]+)\*\* "
    r"\((?P<minutes>\d+) min(, (?P<level>[^)]+))?\)\.",
    re.MULTILINE,
)


def read_exercises(notebook: Path) -> list[dict[str, str]]:
    """The exercises of a notebook: ``number``, ``title``, ``minutes`` and ``level``."""
    text = site_objectives.prose(notebook)
    return [found.groupdict(default="") for found in _EXERCISE.finditer(text)]


class Exercises(SphinxDirective):
    """``{exercises}``: a table of all exercises of the chapters, each with a link."""

    def run(self) -> list[nodes.Node]:
        """Read the chapters' notebooks as they are now."""
        rows = []
        builder = self.env.app.builder
        for docname in sorted(self.env.found_docs):
            path = Path(self.env.doc2path(docname))
            if path.suffix != ".ipynb":
                continue
            self.env.note_dependency(str(path))
            for exercise in read_exercises(path):
                page = builder.get_relative_uri(self.env.docname, docname)
                target = f"{page}#{_anchor('exercise', exercise['number'])}"
                link = nodes.reference("", exercise["number"], refuri=target, internal=True)
                rows.append(([link], exercise["title"], exercise["minutes"], exercise["level"]))
        if not rows:
            return [nodes.paragraph("", "There are no exercises yet.")]
        return [table(("Exercise", "What it is", "Minutes", "Level"), rows)]


class Instrument(SphinxDirective):
    """``{instrument} how-deep``: an instrument (:mod:`resnetbook.interactive`) on a Markdown page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Ask the function that a notebook's cell calls, as its files and the records are now."""
        folder = Path(interactive.__file__).parent
        for path in [*sorted(folder.iterdir()), runs.RECORDS]:
            if path.name != "__pycache__":
                self.env.note_dependency(str(path))
        try:
            shown = interactive.show(self.arguments[0])
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.raw("", shown._repr_html_(), format="html")]


# ---------------------------------------------------------------------------------------------------
# Records


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _same_or_by_seed(records: list[dict], text_of: Callable[[dict], str]) -> str:
    """One text if all records agree, else each text with its seeds."""
    seeds: dict[str, list[str]] = {}
    for record in records:
        seeds.setdefault(text_of(record), []).append(str(record["seed"]))
    if len(seeds) == 1:
        return next(iter(seeds))
    return "; ".join(
        f"{text} (seed{'s' if len(of) > 1 else ''} {', '.join(of)})" for text, of in seeds.items()
    )


def _hardware(record: dict) -> str:
    hardware = record["hardware"]
    told = f"{hardware['device']}, {_count(hardware['threads'], 'CPU thread')}"
    if processes := hardware.get("processes"):
        told += f" in each of {processes} processes"
    return told


def _versions(record: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def _images(record: dict) -> str:
    held_out = f"{record['held_out']:,}" if record["held_out"] else "none"
    return f"{record['num_images']:,} to train on, {held_out} held out"


def _minutes(record: dict) -> float:
    return sum(epoch["seconds"] for epoch in record["history"]) / 60


def facts(records: list[dict]) -> list[tuple[str, str]]:
    """What the records of one experiment have in common, as pairs of a label and a text."""
    side = records[0]["recipe"]["resize"] or 28
    texts: dict[str, Callable[[dict], str]] = {
        "Network": lambda record: models.in_words(record["model"]),
        "Recipe": lambda record: Recipe.from_dict(record["recipe"]).in_words(),
        "Images": _images,
        "Parameters": lambda record: f"{record['parameters']:,}",
        f"MACs for one image at {side}×{side}": lambda record: f"{record['macs']:,}",
        "Hardware": _hardware,
        "Versions": _versions,
    }
    return [(label, _same_or_by_seed(records, text_of)) for label, text_of in texts.items()]


_SEED_HEADER = (
    "Seed",
    "Test accuracy",
    "Training loss, last epoch",
    "Held-out accuracy",
    "Minutes",
    "Date",
    "Commit",
    "Code unchanged",
)


def seed_row(record: dict) -> tuple[str, ...]:
    """One record as a row under ``_SEED_HEADER``."""
    last = record["history"][-1]
    valid = last["valid_accuracy"]
    return (
        str(record["seed"]),
        f"{record['test_accuracy']:.4f}",
        f"{last['train_loss']:.4f}",
        "none held out" if valid is None else f"{valid:.4f}",
        f"{_minutes(record):.1f}",
        *_origin(record),
    )


_STUDY_HEADER = ("Seed", "Minutes", "Date", "Commit", "Code unchanged")


def study_row(record: dict) -> tuple[str, ...]:
    """One record of a study as a row under ``_STUDY_HEADER``."""
    return (str(record["seed"]), f"{record['seconds'] / 60:.1f}", *_origin(record))


def _origin(record: dict) -> tuple[str, str, str]:
    return (
        record["date"],
        (record["commit"] or "not recorded")[:12],
        "yes" if record["clean_tree"] else "no",
    )


def seeds_in_words(records: list[dict], planned: int) -> str:
    """How many seeds there are, and of how many that are planned."""
    if len(records) >= planned:
        return _count(len(records), "seed")
    return f"{len(records)} of {planned} planned seeds; the others are not recorded yet"


def _commands(words: str, records: list[dict]) -> list[nodes.Node]:
    """The commands that make records again."""
    commands = "\n".join(record["command"] for record in records)
    return [nodes.paragraph("", words), nodes.literal_block(commands, commands, language="bash")]


def _in_order(found: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names in the order in which the package defines them; then any that it does not know."""
    defined = [name for name in known if name in found]
    return defined + [name for name in found if name not in defined]


def _section_id(experiment: str) -> str:
    return f"run-{nodes.make_id(experiment)}"


class Runs(SphinxDirective):
    """``{runs}``: an overview of all recorded experiments, then a section for each."""

    def run(self) -> list[nodes.Node]:
        """Build the nodes from the records as they are now."""
        # A folder never counts as an unchanged file, so the page is always written anew.
        self.env.note_dependency(str(runs.RECORDS))
        found, known = runs.by_experiment(), runs.EXPERIMENTS
        missing = [name for name in known if name not in found]
        order = _in_order(found, known)
        result: list[nodes.Node] = []
        if not found:
            result.append(nodes.paragraph("", "No run is recorded yet."))
        else:
            result.append(self._overview(found, known, order))
        if missing:
            result.append(self._missing(missing))
        result += [self._section(name, found[name], known.get(name)) for name in order]
        if studies.names():
            result.append(self._studies())
        return result

    def _studies(self) -> nodes.section:
        """What was measured on trained networks; its numbers are many, and stand in the chapters."""
        self.env.note_dependency(str(studies.RECORDS))
        section = nodes.section("", nodes.title("", "Studies of trained networks"), ids=["studies"])
        self.state.document.note_explicit_target(section)
        intro = (
            "Where a chapter measures something on trained networks and that takes long, it is recorded too: "
            "the numbers, and how they came about. The chapter shows them."
        )
        section += nodes.paragraph("", intro)
        records = runs.by_experiment(studies.RECORDS)
        for study in _in_order(records, studies.STUDIES):
            found = records[study]
            part = nodes.section("", nodes.title("", study), ids=[f"study-{nodes.make_id(study)}"])
            self.state.document.note_explicit_target(part)
            if study in studies.STUDIES:
                part += nodes.paragraph("", studies.STUDIES[study].about)
            texts: dict[str, Callable[[dict], str]] = {"Hardware": _hardware, "Versions": _versions}
            details = [
                table(("", ""), [(label, _same_or_by_seed(found, text)) for label, text in texts.items()]),
                table(_STUDY_HEADER, map(study_row, found), "runs-seeds"),
                *_commands("To measure it again:", found),
            ]
            part += site_folds.folded(f"Seeds and command of {study}", details)
            section += part
        return section

    def _overview(self, found: dict, known: dict, order: list[str]) -> nodes.Node:
        rows = []
        for name in order:
            records = found[name]
            planned = known[name].seeds if name in known else len(records)
            minutes = sum(map(_minutes, records)) / len(records)
            seeds = str(len(records)) if planned == len(records) else f"{len(records)} of {planned}"
            link = nodes.reference("", name, refid=_section_id(name))
            rows.append(([link], seeds, accuracy_text(records), f"{minutes:.1f}"))
        header = ("Experiment", "Seeds", "Test accuracy, mean ± standard deviation", "Minutes per seed")
        return table(header, rows)

    def _missing(self, names: list[str]) -> nodes.Node:
        paragraph = nodes.paragraph("", "Planned and not recorded yet: ")
        for number, name in enumerate(names):
            paragraph += nodes.Text(", " if number else "")
            paragraph += nodes.literal("", name)
        paragraph += nodes.Text(".")
        return paragraph

    def _section(self, name: str, records: list[dict], known: Experiment | None) -> nodes.section:
        planned, about = (known.seeds, known.about) if known else (len(records), "")
        section = nodes.section("", nodes.title("", name), ids=[_section_id(name)])
        self.state.document.note_explicit_target(section)
        if about:
            section += nodes.paragraph("", about)
        result = nodes.paragraph("", "Test accuracy: ")
        result += nodes.strong("", accuracy_text(records))
        spread = ", mean ± standard deviation of " if len(records) > 1 else ", "
        result += nodes.Text(f"{spread}{seeds_in_words(records, planned)}.")
        if len(records) == 1:
            result += nodes.Text(" One seed says nothing about the spread.")
        section += result
        details = [
            table(("", ""), facts(records)),
            table(_SEED_HEADER, map(seed_row, records), "runs-seeds"),
        ]
        if not all(record["clean_tree"] for record in records):
            text = "“Code unchanged: no” means that the package had uncommitted changes when the run began."
            details.append(nodes.paragraph("", text))
        details += _commands("To train it again:", records)
        section += site_folds.folded(f"Recipe, seeds and command of {name}", details)
        return section


class Accuracy(SphinxRole):
    """``{accuracy}`` with an experiment's name: its recorded test accuracy, with the seeds.

    A name without a record is a warning, so that a strict build fails.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Write the number as text."""
        self.env.note_dependency(str(runs.RECORDS))
        records = runs.by_experiment().get(self.text)
        if not records:
            logger.warning("no record of experiment %r", self.text, location=self.get_location())
            return [nodes.Text("(not recorded)")], []
        text = accuracy_text(records, digits=3)
        seeds = "one seed" if len(records) == 1 else f"{len(records)} seeds"
        return [nodes.Text(f"{text} ({seeds})")], []


# ---------------------------------------------------------------------------------------------------
# Addresses. MyST's url schemes could serve links, but not the address in a block of code, and each of them
# would repeat it.


def _addresses(app: Sphinx) -> dict[str, str]:
    options = app.config.html_theme_options
    return site_links.addresses(options.get("repository_url", ""), options.get("repository_branch", "main"))


def fill_addresses(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write the repository's address where a page has a placeholder for it (``source-read``).

    The full addresses in a notebook become links between pages, which Sphinx checks.
    """
    own = _addresses(app)
    if str(app.env.doc2path(docname)).endswith(".md"):
        for name in ("repository", "tree", "colab", "site"):
            source[0] = source[0].replace(f"@{name.upper()}@", own[name])
    else:
        source[0] = site_links.relative(source[0], own)


class ColabButton(SphinxTransform):
    """Let the link to Colab below a chapter's title look like a button."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Mark the paragraph that holds nothing else."""
        for paragraph in self.document.findall(nodes.paragraph):
            if paragraph.astext() == site_links.BUTTON and len(list(paragraph.findall(nodes.reference))) == 1:
                paragraph["classes"].append("colab-button")


# ---------------------------------------------------------------------------------------------------
# Clean pages

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}" />
</head>
<body><main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main></body>
</html>
"""

# Pairs of a pattern and what stands in its place. Each is harmless on a page that was cleaned before,
# because an incremental build leaves most pages as they are.
_CLEANING = [
    # 1.5 MB of icons as a script; the theme's style sheet draws the same icons from a font.
    (
        re.compile(
            r"(\s*<!-- So that users can add custom icons -->)?\s*<script[^>]*fontawesome\.js[^>]*></script>"
        ),
        "",
    ),
    # Sphinx's search, on every page.
    (re.compile(r'\s*<script src="[^"]*(searchtools|language_data)\.js[^"]*"></script>'), ""),
    # The book's search, on the page where it is used.
    (
        re.compile(r"(<script>DOCUMENTATION_OPTIONS\.pagename = 'search';</script>)(?!\s*<script defer)"),
        r'\1\n    <script defer src="_static/search-index.js"></script>'
        r'\n    <script defer src="_static/search.js"></script>',
    ),
    (re.compile(r'\s*<script src="[^"]*searchindex\.js[^"]*"></script>'), ""),
    # Where no script sets the theme it is neither light nor dark, and has no colours.
    (re.compile(r'(<html [^>]*data-theme=)"auto"'), r'\1"light"'),
    # And where a script sets it, "auto" is none: once the page was there, another script put the right one in
    # its place, and the whole page was styled and laid out a second time.
    (
        re.compile(r'(dataset\.theme = )localStorage\.getItem\("theme"\) \|\| "auto";'),
        r'\1({ light: "light", dark: "dark" })[localStorage.getItem("mode")]'
        r' || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");',
    ),
    # A label that hides the text on the thing itself: who says "click Show code" is not understood.
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    # A corner of a table without a word is the heading of nothing.
    (re.compile(r'<th(?: scope="col")?((?: (?:class|style)="[^"]*")*)>(<p></p>)?</th>'), r"<td\1>\2</td>"),
    # The sidebar is outside of every landmark, by which users of screen readers move.
    (
        re.compile(r'<div id="pst-primary-sidebar" class'),
        '<div id="pst-primary-sidebar" role="complementary" aria-label="The book" class',
    ),
]


def clean_page(html: str) -> str:
    """A page of the theme without what no reader needs, and with what a screen reader needs."""
    for pattern, replacement in _CLEANING:
        html = pattern.sub(replacement, html)
    return site_folds.name_folds(html)


# Sphinx's own search, in whose place stands the book's.
_SPHINX_SEARCH = ("_static/searchtools.js", "_static/language_data.js", "searchindex.js")


def prepare(app: Sphinx, config: Config) -> None:
    """Give every page its canonical address (``config-inited``)."""
    if not config.html_baseurl:
        config.html_baseurl = site_links.site_address(config.html_theme_options.get("repository_url", ""))


def leave_out_the_index(app: Sphinx) -> None:
    """Keep Sphinx from making its search index (``builder-inited``)."""
    app.builder.search = False


def search_page(app: Sphinx) -> Iterable[tuple[str, dict, str]]:
    """The search page, which comes with Sphinx's index otherwise (``html-collect-pages``)."""
    yield "search", {}, "search.html"


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    """Tell other sites what a page is about: its first paragraph (``html-page-context``)."""
    if doctree is None:
        return
    quoted = (nodes.admonition, nodes.block_quote, nodes.figure, nodes.table, nodes.container)
    texts = (
        re.sub(r"\s+", " ", paragraph.astext()).strip()
        for paragraph in doctree.findall(nodes.paragraph)
        if not any(isinstance(above, quoted) for above in _above(paragraph))
    )
    text = next((text for text in texts if len(text) > 60), context.get("title", ""))
    if len(text) > 200:
        text = text[:200].rsplit(" ", 1)[0] + " …"
    tags = {
        "og:title": re.sub(r"<[^>]*>", "", context.get("title", "")),
        "og:description": text,
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "twitter:card": "summary_large_image",
    }
    if base := app.config.html_baseurl:
        tags |= {"og:url": f"{base}{pagename}.html", "og:image": f"{base}_static/card.png"}
        tags["og:image:alt"] = "A residual block, and the title of the book"
    lines = [f'<meta name="description" content="{escape(text)}" />']
    lines += [
        f'<meta property="{name}" content="{escape(unescape(value))}" />' for name, value in tags.items()
    ]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def _above(node: nodes.Node) -> Iterable[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def finish_site(app: Sphinx, exception: Exception | None) -> None:
    """Clean every page once all are written, and write what stands beside them (``build-finished``)."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for script in [
        *(site / "_static" / "scripts").glob("fontawesome.js*"),
        *map(site.joinpath, _SPHINX_SEARCH),
    ]:
        script.unlink(missing_ok=True)
    themed = app.config.html_theme == "sphinx_book_theme"
    plain = site_code.plain_tokens(site) if themed else frozenset()
    for page in site.rglob("*.html"):
        if "_static" in page.relative_to(site).parts:
            continue  # the theme's templates, which are no pages
        html = page.read_text(encoding="utf-8")
        cleaned = site_files.size_images(site_code.unwrap(clean_page(html), plain), page.parent)
        if cleaned != html:
            page.write_text(cleaned, encoding="utf-8")
    root = f"{app.config.root_doc}.html"
    title = app.config.html_title
    if root != "index.html":
        # What stands there is a bare redirection, without a language or a title.
        (site / "index.html").write_text(_INDEX.format(title=title, page=root), encoding="utf-8")
    if app.builder.name != "html":
        return
    pages = sorted(f"{docname}.html" for docname in app.env.found_docs)
    site_search.write_index(site, pages)
    if themed:
        site_files.subset_icons(site)
        site_theme.spare_folds(site)
    if base := app.config.html_baseurl:
        (site / "sitemap.xml").write_text(site_files.sitemap(base, pages), encoding="utf-8")
        (site / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n")
        (site / "404.html").write_text(site_files.not_found(base, title, root), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_transform(Callouts)
    app.add_transform(ColabButton)
    app.add_directive("exercises", Exercises)
    app.add_directive("instrument", Instrument)
    app.add_directive("runs", Runs)
    app.add_role("accuracy", Accuracy())
    site_folds.setup(app)
    site_languages.setup(app)
    site_math.setup(app)
    site_numbers.setup(app)
    site_objectives.setup(app)
    site_verified.setup(app)
    site_terms.setup(app)
    app.connect("config-inited", prepare)
    app.connect("builder-inited", leave_out_the_index)
    app.connect("html-collect-pages", search_page)
    app.connect("html-page-context", describe)
    app.connect("source-read", fill_addresses)
    # Late, because other extensions write files when the build has finished.
    app.connect("build-finished", finish_site, priority=900)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
