"""The site: a strict build, links and pictures, the book's Sphinx extension, and every page in a browser.

The book is built once, into a temporary folder. The browser is Chromium, driven by Playwright, and may
reach nothing but the built site. Where a program is missing the tests that need it are skipped and say
so; with ``RESNETBOOK_STRICT=1`` they fail instead.
"""

import contextlib
import functools
import gzip
import http.server
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import resnetbook_site
import site_code
import site_files
import site_folds
import site_math
import site_theme
import site_verified
import torch
import yaml
from docutils import nodes
from docutils.utils import new_document
from test_notebooks import COLUMN

from resnetbook import blocks, models, probes, runs, studies
from resnetbook.experiments import Experiment
from resnetbook.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
STRICT = os.environ.get("RESNETBOOK_STRICT") == "1"
BUILD_SECONDS = 60
# Bytes that a first visit to a page transfers, text compressed as a web server does, figures not counted.
WEIGHT_LIMIT = 300_000
# The same for the search page, which loads the text of the whole book: 0.22 MB with ten chapters.
INDEX_LIMIT = 400_000
# A page may need long to open where other tests share the processor.
PATIENCE = 120_000
PHONE = 360


def missing(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped."""
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)


# ---------------------------------------------------------------------------------------------------
# The built site


@dataclass
class Site:
    """The built site, and how its build went; it took so many seconds of the processor."""

    folder: Path
    output: str
    status: int
    seconds: float

    @functools.cached_property
    def pages(self) -> dict[str, str]:
        """The text of every page by its path; the theme's own templates are no pages."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(self.folder.rglob("*.html"))
            if "_static" not in path.relative_to(self.folder).parts
        }

    @functools.cached_property
    def trees(self) -> dict:
        """Every page, parsed."""
        from bs4 import BeautifulSoup

        return {name: BeautifulSoup(text, "html.parser") for name, text in self.pages.items()}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    beside = Path(sys.executable).with_name("jupyter-book")
    program = str(beside) if beside.exists() else shutil.which("jupyter-book")
    if program is None:
        missing("jupyter-book is not installed: pip install -r requirements.txt")
    target = tmp_path_factory.mktemp("site")
    command = [program, "build", str(ROOT), "-W", "-n", "--keep-going", "--path-output", str(target)]
    # Seconds of the processor: other tests beside this one do not count.
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Site(target / "_build" / "html", done.stdout + done.stderr, done.returncode, seconds)


@pytest.fixture(scope="session")
def built(site: Site) -> Site:
    """The site, for tests that make no sense without one."""
    if not (site.folder / "index.html").exists():
        pytest.fail(f"there is no site to look at:\n{site.output[-3000:]}")
    return site


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def notebooks() -> list[Path]:
    return sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))


def markdown(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_the_build_is_strict_and_fast(site: Site) -> None:
    assert site.status == 0, site.output[-3000:]
    assert "WARNING" not in site.output and "ERROR" not in site.output
    assert site.seconds < BUILD_SECONDS


def test_every_page_of_the_contents_is_there(built: Site) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert {f"{file}.html" for file in files} <= built.pages.keys()
    # Every chapter that exists is in the contents.
    assert {f"book/{path.stem}" for path in notebooks()} <= set(files)


def test_every_page_says_its_language_and_title(built: Site) -> None:
    for name, tree in built.trees.items():
        assert tree.html and tree.html.get("lang") == "en", name
        assert tree.title and tree.title.get_text(strip=True), name


def test_index_leads_to_the_landing_page(built: Site) -> None:
    assert 'url=book/intro.html"' in built.pages["index.html"]


def test_every_image_has_an_alternative_text(built: Site) -> None:
    seen = 0
    for name, tree in built.trees.items():
        for image in tree.find_all("img"):
            alt = (image.get("alt") or "").strip()
            source = unquote(Path(urlsplit(image["src"]).path).name)
            assert alt, f"{name}: {source} has no alternative text"
            assert alt.lower() not in (source.lower(), image["src"].lower(), Path(source).stem.lower()), name
            assert not re.search(r"\.(svg|png|jpe?g|gif)$", alt, re.IGNORECASE), f"{name}: {alt}"
            if image.find_parent("article"):
                seen += 1
                assert len(alt) >= 15, f"{name}: {alt!r} says too little about a figure"
    assert seen > 0


def test_launch_buttons(built: Site) -> None:
    for path in notebooks():
        links = [link["href"] for link in built.trees[f"book/{path.stem}.html"].find_all("a", href=True)]
        assert (
            f"https://colab.research.google.com/github/resnetbook/resnetbook/blob/main/book/{path.name}"
            in links
        )
        assert (
            f"https://mybinder.org/v2/gh/resnetbook/resnetbook/main?urlpath=lab/tree/book/{path.name}"
            in links
        )
    for name, tree in built.trees.items():
        for link in tree.find_all("a", href=re.compile("colab")):
            form = r"https://colab\.research\.google\.com/github/resnetbook/resnetbook/blob/main/(book/\w+\.ipynb)"
            found = re.fullmatch(form, link["href"])
            assert found and (ROOT / found[1]).exists(), f"{name}: {link['href']}"


def test_a_chapter_can_be_opened_in_colab_and_links_to_pages_of_the_site_it_is_on(built: Site) -> None:
    for path in notebooks():
        article = built.trees[f"book/{path.stem}.html"].find("article")
        (button,) = article.select("p.colab-button > a")
        assert button["href"].endswith(f"/blob/main/book/{path.name}")
        assert article.find("h1").find_next("p") == button.parent
        for link in article.find_all("a", href=True):
            assert not link["href"].startswith("https://resnetbook.github.io/resnetbook/"), link["href"]


def test_the_repository_address_stands_in_one_place() -> None:
    """Outside of notebooks, whose links must be whole; ``code/tools/address.py`` writes those."""
    address = config()["repository"]["url"]
    owner = re.match(r"https://(github\.com/[\w.-]+)/[\w.-]+$", address)[1]
    files = [ROOT / "_toc.yml", *BOOK.glob("*.md"), *(BOOK / "site").rglob("*.*")]
    for path in files:
        if path.suffix in (".md", ".yml", ".py", ".css", ".js", ".svg"):
            assert owner not in path.read_text(encoding="utf-8"), path.name
    for path in notebooks():
        for found in re.findall(rf"{re.escape(owner)}[\w/.-]*", path.read_text(encoding="utf-8")):
            assert f"https://{found}".removesuffix(".git").startswith(address), path.name


def test_every_page_says_when_the_book_was_verified(built: Site) -> None:
    words = site_verified.sentence(json.loads((BOOK / "site" / "verified.json").read_text(encoding="utf-8")))
    pages = [name for name in built.trees if name.startswith("book/")]
    assert len(pages) > 15
    for name in pages:
        (note,) = built.trees[name].find_all("p", class_="verified")
        assert note.get_text() == words


def test_no_placeholder_is_left(built: Site) -> None:
    for name, text in built.pages.items():
        assert not re.findall(r"@[A-Z][A-Z0-9_]+@", text), name


def _local(page: str, reference: str) -> tuple[str, str] | None:
    """The page or file, and the anchor, that a reference on a page leads to; ``None`` if elsewhere."""
    parts = urlsplit(reference)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(urlsplit(urljoin(f"http://site/{page}", reference)).path).lstrip("/")
    return path or "index.html", unquote(parts.fragment)


def test_no_internal_link_is_broken(built: Site) -> None:
    anchors = {
        name: {tag["id"] for tag in tree.find_all(id=True)}
        | {tag["name"] for tag in tree.find_all("a", attrs={"name": True})}
        for name, tree in built.trees.items()
    }
    broken = []
    checked = 0
    for name, tree in built.trees.items():
        if name == "404.html":
            continue  # its links begin at the host, where the site does not stand here
        for tag in tree.find_all(True):
            for attribute in ("href", "src", "data", "poster"):
                reference = tag.get(attribute)
                # An object's data or a link's href is an address; other tags use "data" otherwise.
                if not isinstance(reference, str) or (attribute == "data" and tag.name != "object"):
                    continue
                target = _local(name, reference)
                if target is None or reference == "#":
                    continue
                checked += 1
                path, anchor = target
                if not (built.folder / path).is_file():
                    broken.append(f"{name}: {reference} leads to no file")
                elif anchor and path in anchors and anchor not in anchors[path]:
                    broken.append(f"{name}: {reference} leads to no anchor")
    assert not broken, "\n".join(broken)
    assert checked > 100


def test_nothing_is_loaded_from_another_host(built: Site) -> None:
    loading = {
        "img": "src",
        "script": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "audio": "src",
    }
    loading |= {"embed": "src", "object": "data", "input": "src", "track": "src"}
    foreign = []
    for name, tree in built.trees.items():
        for tag, attribute in loading.items():
            foreign += [
                f"{name}: <{tag}> {found[attribute]}"
                for found in tree.find_all(tag, attrs={attribute: re.compile(r"^(https?:)?//")})
            ]
        for link in tree.find_all("link", href=re.compile(r"^(https?:)?//")):
            if set(link.get("rel", [])) - {"alternate", "canonical", "license", "author"}:
                foreign.append(f"{name}: <link> {link['href']}")
    for path in built.folder.rglob("*.css"):
        # A namespace in an inlined SVG is a name; only url(http…) and @import load something.
        text = path.read_text(encoding="utf-8", errors="replace")
        foreign += [
            f"{path.name}: {found}"
            for found in re.findall(r"(?:url\(|@import\s+)['\"]?((?:https?:)?//[^'\")]+)", text)
        ]
    assert not foreign, "\n".join(foreign)


def test_heavy_things_that_no_page_uses_are_gone(built: Site) -> None:
    static = built.folder / "_static"
    fonts = {path.name: path.stat().st_size for path in static.rglob("*.woff2")}
    assert set(fonts) == {"math.woff2", "fa-solid-900.woff2", "fa-regular-400.woff2", "fa-brands-400.woff2"}
    assert sum(fonts.values()) < 50_000, fonts
    assert not list(static.rglob("mathjax")) and not (built.folder / "searchindex.js").exists()
    assert not list(static.rglob("fontawesome.js*"))
    for name, text in built.pages.items():
        assert "fontawesome.js" not in text and "thebe" not in text.lower(), name
        assert "MathJax" not in text and "searchtools.js" not in text, name
        assert ("search-index.js" in text) == (name == "search.html"), name


def test_every_icon_has_its_sign(built: Site) -> None:
    from fontTools.ttLib import TTFont

    css = (built.folder / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    folder = built.folder / "_static" / "vendor" / "fontawesome" / "webfonts"
    solid, brands = (
        set(TTFont(folder / f"fa-{kind}.woff2").getBestCmap()) for kind in ("solid-900", "brands-400")
    )
    styles = {"fa-solid", "fa-brands", "fa-regular", "fa-lg", "fa-fw"}
    shown = set()
    for tree in built.trees.values():
        for icon in tree.select("[class*=fa-]"):
            shown |= {name for name in icon["class"] if name.startswith("fa-")} - styles
    assert len(shown) > 8
    for name in shown:
        found = re.search(rf"\.{name}:before[^{{}}]*\{{content:\"\\([0-9a-f]+)\"\}}", css)
        assert found, name
        assert int(found[1], 16) in solid | brands, name
    own = (BOOK / "site" / "static" / "resnetbook.css").read_text(encoding="utf-8")
    assert {int(sign, 16) for sign in re.findall(r'"\\(f[0-9a-f]{3})"', own)} <= solid


def test_other_sites_are_told_what_a_page_is(built: Site) -> None:
    base = "https://resnetbook.github.io/resnetbook/"
    descriptions = []
    for name, tree in built.trees.items():
        if not name.startswith("book/"):
            continue
        assert tree.find("link", rel="canonical")["href"] == f"{base}{name}"
        text = tree.find("meta", attrs={"name": "description"})["content"]
        assert 60 < len(text) <= 203, f"{name}: {text}"
        descriptions.append(text)
        card = {tag["property"]: tag["content"] for tag in tree.find_all("meta", property=True)}
        assert card["og:url"] == f"{base}{name}" and card["og:description"] == text
        assert card["og:title"] in tree.title.get_text()
        picture = built.folder / card["og:image"].removeprefix(base)
        assert picture.is_file() and picture.stat().st_size < 100_000
    assert len(set(descriptions)) == len(descriptions)
    listed = re.findall(r"<loc>(.*?)</loc>", (built.folder / "sitemap.xml").read_text(encoding="utf-8"))
    assert listed == sorted(f"{base}{name}" for name in built.pages if name.startswith("book/"))
    assert f"Sitemap: {base}sitemap.xml" in (built.folder / "robots.txt").read_text(encoding="utf-8")
    # At any depth: its links begin at the host.
    links = [link["href"] for link in built.trees["404.html"].find_all("a")]
    assert links == ["/resnetbook/book/intro.html", "/resnetbook/search.html"]


def test_formulas_are_mathml_in_signs_that_the_font_has(built: Site) -> None:
    from fontTools.ttLib import TTFont

    signs = set(map(chr, TTFont(BOOK / "site" / "static" / "math.woff2").getBestCmap()))
    formulas = 0
    for name, tree in built.trees.items():
        for formula in tree.select(".math"):
            formulas += 1
            assert formula.find("math"), f"{name}: {formula.get_text()}"
            strange = set(formula.find("math").get_text()) - signs - set(" \n")
            assert not strange, f"{name}: {strange} in {formula.get_text()}: see code/tools/math_font.py"
    assert formulas > 300


# ---------------------------------------------------------------------------------------------------
# What the pages say


def test_numbers_on_the_landing_page() -> None:
    torchvision = pytest.importorskip("torchvision")
    text = (BOOK / "intro.md").read_text(encoding="utf-8")
    with torch.device("meta"):  # shapes without memory: VGG-16 alone would take half a gigabyte
        networks = {"VGG-16": torchvision.models.vgg16(), "ResNet-152": models.resnet152()}
    counts = {}
    for name, network in networks.items():
        layers = [
            layer
            for layer, module in network.named_modules()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and "downsample" not in layer
        ]
        counts[name] = (
            len(layers),
            probes.count_parameters(network),
            probes.count_macs(network, (3, 224, 224)),
        )
        row = " | ".join(f"{count:,}" for count in counts[name])
        assert f"| {name} | {row} |" in text
    (vgg_layers, vgg_parameters, vgg_macs), (layers, parameters, macs) = counts.values()
    assert 9 < layers / vgg_layers < 10  # "more than nine times as many layers"
    assert parameters < vgg_parameters / 2  # "less than half of the parameters"
    assert 0.24 < 1 - macs / vgg_macs < 0.27  # "a quarter less work"


def test_numbers_in_the_references() -> None:
    text = (BOOK / "references.md").read_text(encoding="utf-8")
    convolutions = [
        sum(module.weight.numel() for module in block.modules() if isinstance(module, torch.nn.Conv2d))
        for block in (blocks.Bottleneck(256, 256), blocks.BasicBlock(256, 256))
    ]
    assert f"{convolutions[0]:,} with {convolutions[1]:,} weights" in text


# Words a minute of plain prose; visible code is read at a third of that pace.
PACE = 230


def minutes_to_read(notebook: Path) -> float:
    """How long a chapter takes, nothing unfolded: its exercises have minutes of their own."""
    prose = code = 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
            fences = re.findall(r"```.*?```", text, re.DOTALL)
            code += sum(len(fence.split()) for fence in fences)
            text = re.sub(r"```.*?```|\]\([^)]*\)|^[\s|:-]+$", " ", text, flags=re.DOTALL | re.MULTILINE)
            prose += len(re.findall(r"\S*\w\S*", text))
        elif "hide-input" not in cell["metadata"].get("tags", []) and "checks." not in text:
            code += len(text.split())
    return prose / PACE + code / (PACE / 3)


def test_minutes_to_read_are_those_of_a_reader() -> None:
    for path in notebooks():
        told = int(re.search(r"about (\d+) minutes to read", markdown(path))[1])
        assert abs(told - minutes_to_read(path)) <= 3, f"{path.name}: {minutes_to_read(path):.1f}, not {told}"


def test_minutes_in_the_map_of_chapters() -> None:
    intro = (BOOK / "intro.md").read_text(encoding="utf-8")
    for path in notebooks():
        row = re.search(rf"\]\({path.name}\).*\| (\d+) min \| (\d+) min \| (\d+) min \|", intro)
        assert row, f"{path.name} has no minutes on the landing page"
        text = markdown(path)
        assert f"{row[1]} minutes to read" in text, path.name
        exercises = [
            int(minutes) for minutes in re.findall(r"\*\*Exercise [\d.]+: [^*]+\*\* \((\d+) min", text)
        ]
        assert int(row[3]) == sum(exercises), path.name


def test_the_glossary_speaks_four_languages(built: Site) -> None:
    glossary = built.trees["book/glossary.html"].find("dl", class_="glossary")
    terms = [term.find(string=True, recursive=False) for term in glossary.find_all("dt")]
    assert len(terms) >= 40
    assert [term.lower() for term in terms] == sorted(term.lower() for term in terms)
    for term, meaning in zip(terms, glossary.find_all("dd"), strict=True):
        for language, letters in {
            "es": r"[a-z]",
            "zh": r"[\u4e00-\u9fff]",
            "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
        }.items():
            found = meaning.find("span", lang=language)
            assert found and re.search(letters, found.get_text()), f"{term}: {language}"


def test_a_term_is_linked_to_the_glossary_where_a_chapter_first_prints_it_bold(built: Site) -> None:
    import site_terms

    glossary = built.trees["book/glossary.html"].find("dl", class_="glossary")
    entries = {term.find(string=True, recursive=False): term["id"] for term in glossary.find_all("dt")}
    names = site_terms.read_terms((BOOK / "glossary.md").read_text(encoding="utf-8"))
    entries = {term.replace("’", "'"): anchor for term, anchor in entries.items()}
    assert set(names.values()) == set(entries)  # the site's glossary and the list say the same
    assert names["stages"] == "stage" and names["backend"] == names["engine"] == "engine (backend)"
    linked = Counter()
    for path in notebooks():
        article = built.trees[f"book/{path.stem}.html"].find("article")
        seen = set()
        for strong in article.find_all("strong"):
            entry = names.get(" ".join(strong.get_text().lower().replace("’", "'").split()))
            link = strong.find("a")
            if entry is None or entry in seen:
                assert link is None, f"{path.name}: {strong}"
                continue
            seen.add(entry)
            assert link["href"] == f"glossary.html#{entries[entry]}", f"{path.name}: {strong}"
        linked[path.stem] = len(seen)
        # In the notebook it is bold, and no link.
        assert not re.search(r"glossary\.html#", markdown(path)), path.name
    assert sum(linked.values()) > 100 and min(linked.values()) >= 1, linked


def test_no_heading_of_a_table_is_empty(built: Site) -> None:
    for name, tree in built.trees.items():
        empty = [cell for cell in tree.find_all("th") if not cell.get_text(strip=True)]
        assert not empty, f"{name}: {empty[0].parent}"


def test_figures_and_tables_are_numbered_by_chapter(built: Site) -> None:
    for name, tree in built.trees.items():
        found = re.match(r"book/(\d\d)_", name)
        numbers = [tag.get_text(strip=True) for tag in tree.select("article .caption-number")]
        if not found:
            assert not numbers, name
            continue
        captions = tree.select("article figcaption, article table.rows caption")
        assert captions and len(captions) == len(numbers)  # all have one
        for kind in ("Figure", "Table"):
            of_kind = [number for number in numbers if number.startswith(kind)]
            assert of_kind == [f"{kind} {int(found[1])}.{i + 1}:" for i in range(len(of_kind))], name
        # Prose that names a number names one that there is.
        notebook = BOOK / f"{Path(name).stem}.ipynb"
        told = re.findall(rf"\b(?:Figure|Table) {int(found[1])}\.\d+\b", markdown(notebook))
        assert {f"{words}:" for words in told} <= set(numbers), name


def test_callouts_of_every_chapter_become_admonitions(built: Site) -> None:
    for path in notebooks():
        quoted = Counter(
            lead.lower()
            for lead in re.findall(
                r"^> \*\*(Exercise|Key idea|Warning|Predict|Try it|Note)\b", markdown(path), re.MULTILINE
            )
        )
        article = built.trees[f"book/{path.stem}.html"].find("article")
        for lead, number in quoted.items():
            css_class = resnetbook_site.CALLOUTS[lead][0]
            assert len(article.select(f"div.admonition.{css_class}")) == number, f"{path.name}: {lead}"


def test_every_record_is_in_the_appendix(built: Site) -> None:
    text = built.trees["book/runs.html"].find("article").get_text()
    for records in runs.by_experiment().values():
        assert resnetbook_site.accuracy_text(records) in text
        for record in records:
            assert record["command"] in text
            assert f"{record['test_accuracy']:.4f}" in text


# ---------------------------------------------------------------------------------------------------
# The extension by itself


def render(
    folder: Path, source: str, experiments: dict[str, Experiment] | None = None, **options
) -> tuple[object, str]:
    """Build one page with MyST and the extension alone; returns its parsed body and the warnings.

    The records are those in ``folder/records``, and ``experiments`` are all that the package defines.
    """
    from bs4 import BeautifulSoup
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    pages = folder / "pages"
    pages.mkdir(exist_ok=True)
    (pages / "index.md").write_text(source, encoding="utf-8")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser", "sphinx.ext.mathjax", "resnetbook_site"],
        "myst_enable_extensions": ["dollarmath"],
        "html_math_renderer": "mathml",
        "html_theme_options": {},
        **options,
    }
    records = mock.patch.object(runs, "RECORDS", folder / "records")
    measured = mock.patch.object(studies, "RECORDS", folder / "records" / "studies")
    known = mock.patch.object(runs, "EXPERIMENTS", experiments or {})
    with docutils_namespace(), records, measured, known:
        app = Sphinx(
            str(pages),
            None,
            str(folder / "out"),
            str(folder / "trees"),
            "html",
            settings,
            None,
            warnings,
            True,
        )
        app.build()
    html = (folder / "out" / "index.html").read_text(encoding="utf-8")
    return BeautifulSoup(html, "html.parser").find("div", class_="body"), warnings.getvalue()


@pytest.mark.parametrize(
    ("lead", "css_class", "title"),
    [
        ("**Exercise 4.1** (10 min, easy). Count them.", "exercise", "Exercise 4.1 (10 min, easy)"),
        (
            "**Exercise 4.1: Who counts?** (9 min). Count them.",
            "exercise",
            "Exercise 4.1: Who counts? (9 min)",
        ),
        ("**Exercise.** Count them.", "exercise", "Exercise"),
        ("**Key idea.** Count them.", "key-idea", "Key idea"),
        ("**Key idea**: Count them.", "key-idea", "Key idea"),
        ("**Warning** Count them.", "caution-note", "Warning"),
        ("**Predict:** Count them.", "predict", "Predict"),
        ("**Try it.** Count them.", "try-it", "Try it"),
        ("**Note.** Count them.", "remark", "Note"),
    ],
)
def test_a_quote_with_a_known_lead_becomes_an_admonition(
    tmp_path: Path, lead: str, css_class: str, title: str
) -> None:
    body, warnings = render(
        tmp_path, f"# Page\n\n> {lead}\n>\n> Then $x^2$:\n>\n> ```python\n> x = 1\n> ```\n"
    )
    assert not warnings
    assert not body.find("blockquote")
    box = body.find("div", class_="admonition")
    assert css_class in box["class"]
    assert box.find("p", class_="admonition-title").get_text() == title
    texts = [paragraph.get_text() for paragraph in box.find_all("p")]
    assert texts[1] == "Count them."
    assert box.find("span", class_="math").find("math").get_text() == "x2"
    assert box.find("pre").get_text().strip() == "x = 1"


def test_a_lead_alone_and_a_lead_before_code(tmp_path: Path) -> None:
    body, warnings = render(
        tmp_path, "# Page\n\n> **Predict.**\n>\n> - one\n> - two\n\n> **Note.** `x` is *it*.\n"
    )
    assert not warnings
    first, second = body.find_all("div", class_="admonition")
    assert [item.get_text(strip=True) for item in first.find_all("li")] == ["one", "two"]
    assert len(first.find_all("p", recursive=False)) == 1  # the title, and no empty paragraph
    assert second.find_all("p")[1].decode_contents().startswith("<code")


@pytest.mark.parametrize(
    "quote",
    [
        "An ordinary quote with **bold**.",
        "**Notebook** is no lead.",
        "**Warning signs** are no lead.",
        "**Note that** this goes on.",
        "*Predict* is not bold.",
        "Predict is not bold.",
        "Text first, then **Predict.**",
        "- **Warning** in a list",
        "```\nonly code\n> ```",
    ],
)
def test_other_quotes_stay_quotes(tmp_path: Path, quote: str) -> None:
    body, _ = render(tmp_path, f"# Page\n\n**Warning** outside a quote.\n\n> {quote}\n")
    assert body.find("blockquote")
    assert not body.find("div", class_="admonition")


def fake_record(folder: Path, experiment: str, seed: int, accuracy: float, **changes) -> None:
    """Write a record as ``runs.record`` does, with changes."""
    folder.mkdir(exist_ok=True)
    name = f"{experiment}-seed{seed}"
    record = {
        "name": name,
        "experiment": experiment,
        "model": {"family": "resnet", "depth": 18, "in_channels": 1, "num_classes": 10, "stem": "small"},
        "recipe": {"num_epochs": 2, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "resize": 96},
        "seed": seed,
        "held_out": 0,
        "num_images": 60_000,
        "history": [
            {"epoch": 1, "train_loss": 0.9, "train_accuracy": 0.6, "valid_accuracy": None, "seconds": 60.0},
            {"epoch": 2, "train_loss": 0.25, "train_accuracy": 0.9, "valid_accuracy": None, "seconds": 30.0},
        ],
        "test_accuracy": accuracy,
        "parameters": 1234567,
        "macs": 7654321,
        "hardware": {"device": "A processor", "threads": 2},
        "versions": {"torch": "2.15.0"},
        "date": "2026-01-02",
        "commit": "0123456789abcdef",
        "clean_tree": True,
        "command": f"python -m resnetbook train {name}",
    }
    (folder / f"{name}.json").write_text(json.dumps({**record, **changes}), encoding="utf-8")


def planned(seeds: int, about: str) -> Experiment:
    return Experiment({}, Recipe(), seeds=seeds, about=about)


PAGE = "# Runs\n\n```{runs}\n```\n"


@pytest.mark.parametrize("folder_exists", [True, False])
def test_no_records(tmp_path: Path, folder_exists: bool) -> None:
    if folder_exists:
        (tmp_path / "records").mkdir()
    body, warnings = render(tmp_path, PAGE, experiments={"first": planned(3, "About it.")})
    assert not warnings
    assert "No run is recorded yet." in body.get_text()
    assert "Planned and not recorded yet: first." in body.get_text()
    assert not body.find("table")


def test_records_of_several_seeds(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        fake_record(tmp_path / "records", "first", seed, accuracy)
    body, warnings = render(tmp_path, PAGE, experiments={"first": planned(3, "About it.")})
    assert not warnings
    text = re.sub(r"\s+", " ", body.get_text())
    # The mean of these is 0.91, and the sample standard deviation 0.01 exactly.
    assert "0.9100 ± 0.0100" in text and "standard deviation of 3 seeds." in text
    for expected in (
        "About it.",
        "ResNet-18, stem 3×3 of stride 1",
        "2 epochs of SGD, batches of 64, learning rate 0.05",
        "momentum 0.9",
        "images resized to 96×96",
        "60,000 to train on, none held out",
        "1,234,567",
        "MACs for one image at 96×96",
        "7,654,321",
        "A processor, 2 CPU threads",
        "torch 2.15.0",
    ):
        assert expected in text
    rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in body.find_all("tr")]
    assert ["1", "0.9100", "0.2500", "none held out", "1.5", "2026-01-02", "0123456789ab", "yes"] in rows
    assert ["first", "3", "0.9100 ± 0.0100", "1.5"] in rows
    assert "python -m resnetbook train first-seed2" in body.find("pre").get_text()
    assert "planned" not in text and "uncommitted" not in text


def test_an_unfinished_experiment_says_so(tmp_path: Path) -> None:
    fake_record(tmp_path / "records", "first", 0, 0.9, clean_tree=False)
    body, warnings = render(
        tmp_path, PAGE, experiments={"first": planned(3, "About it."), "second": planned(5, "Later.")}
    )
    text = re.sub(r"\s+", " ", body.get_text())
    assert not warnings
    assert "1 of 3 planned seeds; the others are not recorded yet" in text
    assert "One seed says nothing about the spread" in text
    assert "±" not in text.replace("mean ± standard deviation", "")
    assert "Planned and not recorded yet: second." in text
    assert "uncommitted changes" in text


def test_seeds_that_differ_are_told_apart(tmp_path: Path) -> None:
    fake_record(tmp_path / "records", "first", 0, 0.9)
    fake_record(tmp_path / "records", "first", 1, 0.9, hardware={"device": "A GPU", "threads": 1})
    body, _ = render(tmp_path, PAGE)
    assert "A processor, 2 CPU threads (seed 0); A GPU, 1 CPU thread (seed 1)" in body.get_text()


def test_a_run_of_several_processes_says_so(tmp_path: Path) -> None:
    hardware = {"device": "A processor", "threads": 1, "processes": 2}
    fake_record(tmp_path / "records", "first", 0, 0.9, hardware=hardware)
    body, _ = render(tmp_path, PAGE)
    assert "A processor, 1 CPU thread in each of 2 processes" in body.get_text()


def test_other_files_among_the_records(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    fake_record(folder, "unknown", 0, 0.9)
    (folder / "bench-speed.json").write_text('{"images_per_second": 12}', encoding="utf-8")
    (folder / "bench-list.json").write_text("[1, 2]", encoding="utf-8")
    (folder / "unknown-seed0.safetensors").write_bytes(b"logits")
    body, warnings = render(tmp_path, PAGE)
    assert not warnings
    assert "bench" not in body.get_text()
    assert "1 seed." in body.get_text()


@pytest.mark.parametrize(
    "content", ['{"test_accuracy": 0.5, "hist', '{"test_accuracy": 0.5, "history": [{}]}'], ids=["cut", "old"]
)
def test_a_broken_record_stops_the_build(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "cut-seed0.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="cut-seed0.*record it again"):
        render(tmp_path, PAGE)


def test_studies_stand_in_their_order(built: Site) -> None:
    """Some say "the same" of the one before."""
    parts = built.trees["book/runs.html"].select('section[id^="study-"]')
    assert [part["id"].removeprefix("study-") for part in parts] == list(studies.STUDIES)


def test_studies_stand_behind_the_runs(tmp_path: Path) -> None:
    folder = tmp_path / "records" / "studies"
    folder.mkdir(parents=True)
    fake_record(tmp_path / "records", "first", 0, 0.9)
    for seed in (0, 1):
        name = f"look-seed{seed}"
        record = {
            "name": name,
            "study": "look",
            "seed": seed,
            "result": {"secret": 1234.5},
            "seconds": 90.0,
            "hardware": {"device": "A processor", "threads": 1},
            "versions": {"torch": "2.15.0"},
            "date": "2026-01-02",
            "commit": "0123456789abcdef",
            "clean_tree": seed == 0,
            "command": f"python -m resnetbook measure {name}",
        }
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    body, warnings = render(tmp_path, PAGE)
    assert not warnings
    part = body.find("section", id="study-look")
    rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in part.find_all("tr")]
    assert ["0", "1.5", "2026-01-02", "0123456789ab", "yes"] in rows
    assert ["1", "1.5", "2026-01-02", "0123456789ab", "no"] in rows
    assert ["Hardware", "A processor, 1 CPU thread"] in rows
    commands = "python -m resnetbook measure look-seed0\npython -m resnetbook measure look-seed1"
    assert part.find("pre").get_text().strip() == commands
    assert "1234.5" not in body.get_text()


def test_a_measured_accuracy_in_a_sentence(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        fake_record(tmp_path / "records", "three", seed, accuracy)
    fake_record(tmp_path / "records", "one", 0, 0.8765)
    body, warnings = render(tmp_path, "# Page\n\nIt got {accuracy}`three`, then {accuracy}`one`.\n")
    assert not warnings
    assert "It got 0.910 ± 0.010 (3 seeds), then 0.876 (one seed)." in body.get_text()


def test_an_accuracy_without_a_record_is_a_warning(tmp_path: Path) -> None:
    _, warnings = render(tmp_path, "# Page\n\nIt got {accuracy}`nothing`.\n")
    assert "no record of experiment 'nothing'" in warnings


def test_the_page_follows_the_records(tmp_path: Path) -> None:
    fake_record(tmp_path / "records", "first", 0, 0.9)
    render(tmp_path, PAGE)
    fake_record(tmp_path / "records", "first", 1, 0.8)
    body, _ = render(tmp_path, PAGE)  # the page itself has not changed
    assert "2 seeds." in body.get_text()


def test_addresses_are_filled_in(tmp_path: Path) -> None:
    body, _ = render(
        tmp_path,
        "# Page\n\n[file](@TREE@/code)\n\n```bash\ngit clone @REPOSITORY@\n```\n\n[run](@COLAB@/04.ipynb)\n\n"
        "[read](@SITE@index.html)\n",
        html_theme_options={"repository_url": "https://github.com/some/book", "repository_branch": "dev"},
        html_theme="resnetbook_test",
        html_theme_path=[str(bare_theme(tmp_path))],
    )
    assert "git clone https://github.com/some/book" in body.find("pre").get_text()
    assert [link["href"] for link in body.find_all("a", class_="external")] == [
        "https://github.com/some/book/tree/dev/code",
        "https://colab.research.google.com/github/some/book/blob/dev/book/04.ipynb",
        "https://some.github.io/book/index.html",
    ]


def bare_theme(folder: Path) -> Path:
    """A theme that knows the two options of sphinx-book-theme that the extension reads."""
    theme = folder / "themes" / "resnetbook_test"
    theme.mkdir(parents=True)
    options = "[options]\nrepository_url =\nrepository_branch =\n"
    (theme / "theme.conf").write_text(f"[theme]\ninherit = basic\nstylesheet = basic.css\n\n{options}")
    return theme.parent


def test_cleaning_a_page() -> None:
    page = (
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>'
        '<script src="_static/scripts/bootstrap.js"></script>'
        '<script src="_static/language_data.js"></script><script src="searchindex.js"></script>'
        '<div id="pst-primary-sidebar" class="bd-sidebar">'
        '<button class="btn search-button-field x" title="Search" aria-label="Search" data-y="1">Go</button>'
        '<button class="btn search-button" title="Search" aria-label="Search"><i></i></button>'
        '<summary aria-label="Toggle hidden content">Show</summary>'
    )
    cleaned = resnetbook_site.clean_page(page)
    assert "searchindex" not in cleaned and "language_data" not in cleaned
    assert "fontawesome" not in cleaned and "bootstrap.js" in cleaned
    assert "<summary>Show" in cleaned
    assert '<button class="btn search-button-field x" title="Search" data-y="1">' in cleaned
    assert '<button class="btn search-button" title="Search" aria-label="Search">' in cleaned  # only an icon
    assert cleaned.count('role="complementary"') == 1
    assert resnetbook_site.clean_page(cleaned) == cleaned


def test_a_script_of_the_theme_that_has_changed_stops_the_build(tmp_path: Path, built: Site) -> None:
    path = Path("_static", "scripts", "pydata-sphinx-theme.js")
    script = (built.folder / path).read_text(encoding="utf-8")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(script, encoding="utf-8")
    site_theme.spare_folds(tmp_path)
    assert (tmp_path / path).read_text(encoding="utf-8") == script
    (tmp_path / path).write_text(script.replace("scrollWidth", "offsetWidth"), encoding="utf-8")
    with pytest.raises(ValueError, match="which this book mends"):
        site_theme.spare_folds(tmp_path)


def test_folds_say_of_what_they_are() -> None:
    page = (
        '<div class="exercise" id="exercise-4-2"><p>Count.</p></div>'
        "<details><summary>Hint</summary></details><details><summary>Solution</summary></details>"
        "<p><strong>3.</strong> Why?</p><details><summary>Answer</summary></details>"
        "<details><summary>What changed</summary></details>"
        '<div class="predict hint admonition"></div><details><summary>Hint</summary></details>'
        "<h2>Next</h2><details><summary>Hint</summary></details>"
    )
    named = resnetbook_site.clean_page(page)
    found = re.findall("<summary>(.*?)</summary>", named)
    assert found == [
        "Hint for exercise 4.2",
        "Solution of exercise 4.2",
        "Answer to question 3",
        "What changed",
        "Hint for the prediction",
        "Hint",
    ]
    assert resnetbook_site.clean_page(named) == named


def test_no_fold_of_the_book_is_nameless(built: Site) -> None:
    names = 0
    for name, tree in built.trees.items():
        for summary in tree.select("article summary"):
            text = summary.get_text(strip=True)
            assert text not in ("Hint", "Solution", "Answer"), f"{name}: {summary.parent.get_text()[:80]}"
            names += bool(re.match(r"(Hint for|Solution of) exercise \d+\.\d|Answer to question \d", text))
    assert names > 100


def test_what_sets_a_chapter_up_is_one_fold_before_section_1(built: Site) -> None:
    for path in notebooks():
        page = built.trees[f"book/{path.stem}.html"].select_one("article section")
        parts = page.find_all(recursive=False)
        before = list(itertools.takewhile(lambda part: part.name != "section", parts))
        assert not [part for part in before if "cell" in part.get("class", [])], path.stem
        (fold,) = [part for part in before if "set-up" in part.get("class", [])]
        assert "Install the book's helpers" in fold.get_text()
        told = fold.summary.get_text()
        assert ("long runs" in told) == ("Train the long ones yourself" in fold.get_text()), told


@pytest.mark.parametrize(("second", "folded"), [("tag_hide-input", True), ("tag_varies", False)])
def test_cells_are_set_up_only_if_each_is_folded(second: str, folded: bool) -> None:
    cells = [nodes.container(classes=["cell", tag]) for tag in ("tag_hide-input", second)]
    text = nodes.paragraph("", "what a reader needs")
    section = nodes.section("", nodes.container(classes=["cell"]))
    page = nodes.section("", text, *cells, section)
    document = new_document("a page")
    document += page
    site_folds.SetUp(document).apply()
    raw = [part for part in page.children if isinstance(part, nodes.raw)]
    assert page.children == ([text, raw[0], *cells, raw[1], section] if folded else [text, *cells, section])


PYGMENTS = """
html[data-theme="light"] .highlight { background: #fefefe; color: #080808 }
html[data-theme="light"] .highlight .k { color: #6730C5 } /* Keyword */
html[data-theme="light"] .highlight .n { color: #080808 } /* Name */
html[data-theme="light"] .highlight .p { color: #080808 } /* Punctuation */
html[data-theme="dark"] .highlight { background: #2b2b2b; color: #f8f8f2 }
html[data-theme="dark"] .highlight .n { color: #f8f8f2 } /* Name */
html[data-theme="dark"] .highlight .p { color: #f8f8f2; font-weight: bold } /* Punctuation */
"""


def test_words_of_code_that_have_no_colour_have_no_element(tmp_path: Path, built: Site) -> None:
    sheet = tmp_path / "_static" / "pygments.css"
    sheet.parent.mkdir()
    sheet.write_text(PYGMENTS, encoding="utf-8")
    assert site_code.plain_tokens(tmp_path) == {"n"}
    sheet.write_text(".highlight .n { color: #080808 }", encoding="utf-8")
    with pytest.raises(ValueError, match="no colours"):
        site_code.plain_tokens(tmp_path)
    page = (
        '<span class="n">a</span><div class="highlight"><pre><span></span><span class="n">a&lt;</span>'
        '<span class="k">if</span>\n</pre></div>'
    )
    once = page.replace('<span class="n">a&lt;</span>', "a&lt;")
    assert site_code.unwrap(page, frozenset("n")) == site_code.unwrap(once, frozenset("n")) == once
    plain = site_code.plain_tokens(built.folder)
    assert plain >= {"n", "p", "w"}
    for name, tree in built.trees.items():
        assert not tree.select(", ".join(f"div.highlight > pre > span.{token}" for token in plain)), name


@pytest.mark.parametrize(
    ("root", "size"),
    [
        ('<svg width="432pt" height="216.5pt" viewBox="0 0 432 216.5">', (576, 289)),
        ('<svg width="30px" height="20">', (30, 20)),
        ('<svg viewBox="0 0 640 320">', (640, 320)),
        ('<svg width="100%" height="3" viewBox="0 0 64 32">', (64, 32)),
        ("<svg>", None),
    ],
)
def test_the_browser_is_told_how_large_an_image_is(
    tmp_path: Path, root: str, size: tuple[int, int] | None
) -> None:
    (tmp_path / "a.svg").write_text(f"<?xml version='1.0'?>{root}</svg>", encoding="utf-8")
    page = '<img alt="a" src="a.svg" style="width: 100%;" /><img src="none.svg"><img src="b.png">'
    sized = site_files.size_images(page, tmp_path)
    told = f' width="{size[0]}" height="{size[1]}"' if size else ""
    assert sized == page.replace('"width: 100%;"', f'"width: 100%;"{told}')
    assert site_files.size_images(sized, tmp_path) == sized


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"F(x) + x", "F(x)+x"),
        (r"\mathrm{ReLU}(x)", "ReLU(x)"),
        (r"C_\text{in} \cdot C_\text{out}", "Cin⋅Cout"),
        (r"\begin{aligned}a &= b \\ &< c\end{aligned}", "a=b<c"),
        (r"\left\lfloor \frac{n}{2} \right\rfloor", "⌊n2⌋"),
        (r"\bar w \pm \sqrt{\ln n}", "w‾±lnn"),
    ],
)
def test_a_formula_becomes_mathml(latex: str, text: str) -> None:
    from xml.etree import ElementTree

    found = ElementTree.fromstring(site_math.to_mathml(latex))
    assert "".join(found.itertext()) == text
    words = [element.text for element in found.iter("mi") if element.get("mathvariant") == "normal"]
    assert not words  # upright letters are one word


@pytest.mark.parametrize("latex", [r"a \nosuchthing b", r"x & y", r"\begin{nosuch}x\end{nosuch}"])
def test_a_formula_that_is_not_understood_is_a_warning(tmp_path: Path, latex: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        site_math.to_mathml(latex)
    _, warnings = render(tmp_path, f"# Page\n\nA ${latex}$.\n")
    assert "formula" in warnings


# ---------------------------------------------------------------------------------------------------
# In a browser


@dataclass
class Visit:
    """What happened while a page was open."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    math: int = 0
    rendered: int = 0
    width: int = 0
    wide: list[str] = field(default_factory=list)
    scrolled: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    tables: int = 0
    background: float = 0.0
    faint: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)


def test_pages_in_other_languages_are_marked_and_name_each_other(built):
    pages = {"en": "book/intro", "es": "book/es", "zh": "book/zh", "ja": "book/ja"}
    for language, page in pages.items():
        html = built.pages[f"{page}.html"]
        found = dict(
            re.findall(r'<link rel="alternate" hreflang="([^"]+)" href="[^"]+/(book/[^"]+)\.html"', html)
        )
        assert found == {**pages, "x-default": "book/intro"}
        if language != "en":
            assert re.search(rf'<section lang="{language}"[^>]*>\s*<h1>', html)
            assert html.count("<figure") == 3


def test_the_glossary_and_the_other_languages_link_each_other(built):
    pages = {name.removesuffix(".html"): html for name, html in built.pages.items()}
    for language in ("es", "zh", "ja"):
        there = set(re.findall(rf'href="{language}\.html#(word-[^"]+)"', pages["book/glossary"]))
        here = set(re.findall(r'id="(word-[^"]+)"', pages[f"book/{language}"]))
        assert there == here
        assert len(here) >= 15
        assert pages[f"book/{language}"].count('href="glossary.html#term-') >= len(here)


def test_a_word_without_an_entry_fails_the_build(tmp_path):
    _, warnings = render(tmp_path, "# Page\n\n{word}`palabra <no such term>` and {word}`nothing`\n")
    assert "no such term" in warnings
    assert "a word needs its <term>" in warnings


def test_a_figure_that_no_chapter_has_fails_the_build(tmp_path):
    _, warnings = render(
        tmp_path, "# Page\n\n```{chapter-figure} 02_degradation fig-none\n:alt: x\n\nText\n```\n"
    )
    assert "no such figure" in warnings


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Say nothing: a page makes dozens of requests."""


@pytest.fixture(scope="session")
def address(built: Site) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(built.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# The ratio of WCAG 2 between each text and what lies behind it, and the luminance of the page.
_LOOK = """() => {
  // color-mix() is reported as color(srgb r g b), with channels from 0 to 1.
  const channels = text => {
    const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    return text.startsWith("color(") ? numbers.map((n, i) => i < 3 ? n * 255 : n) : numbers;
  };
  const alpha = c => c.length > 3 ? c[3] : 1;
  const over = (top, below) => [0, 1, 2].map(i => top[i] * alpha(top) + below[i] * (1 - alpha(top)));
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (alpha(color) > 0) layers.push(color);
      if (alpha(color) === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const luminance = c => {
    const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const faint = [];
  const texts = "article :is(p, li, td, th, h1, h2, h3, summary, figcaption, dt, code, pre, a), footer p";
  for (const element of document.querySelectorAll(texts)) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.matches(".headerlink")) continue;
    const below = behind(element);
    const color = over(channels(getComputedStyle(element).color), below);
    const found = ratio(luminance(color), luminance(below));
    const text = element.textContent.trim().slice(0, 60);
    if (found < 4.5) faint.push(`${found.toFixed(2)} ${element.tagName} ${text}`);
  }
  return [luminance(behind(document.body)), faint];
}"""

_WIDE = """limit => [...document.querySelectorAll("article *")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > limit + 1)
  .filter(e => {
    // Inside something that scrolls or cuts, width does no harm.
    for (let p = e.parentElement; p && p.tagName !== "BODY"; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return false;
    return true;
  })
  .slice(0, 5)
  .map(e => `<${e.tagName.toLowerCase()} class="${e.className}"> ${e.textContent.trim().slice(0, 60)}`)"""


# Code of at most 80 columns that cannot be seen whole without scrolling.
_SCROLLED = """() => [...document.querySelectorAll('article div.highlight > pre')]
  .filter(e => e.scrollWidth > e.clientWidth && e.textContent.split('\\n').every(line => line.length <= 80))
  .map(e => e.textContent.trim().slice(0, 60))"""

# Tables of results whose right-most column is out of sight.
_CUT = """() => [...document.querySelectorAll('article .text_html:has(table.rows)')]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.trim().replace(/\\s+/g, ' ').slice(0, 60))"""


_FINISH = """() => document.getAnimations()
  .filter(animation => animation.effect.getComputedTiming().endTime < Infinity)
  .forEach(animation => animation.finish())"""
_UNFOLD = "() => document.querySelectorAll('article details').forEach(d => d.open = true)"
# Whatever scrolls sideways can be reached by keys. A fold that was opened takes a moment to see to it.
_REACHED = """() => [...document.querySelectorAll("article pre")].every(
  (block) => block.scrollWidth <= block.clientWidth || block.tabIndex === 0)"""


@contextlib.contextmanager
def new_page(browser, **options) -> Iterator:
    """An empty page in a context of its own, with the patience that a busy processor needs."""
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
    finally:
        context.close()


def visit(browser, address: str, page_name: str, width: int, scheme: str) -> Visit:
    """Open a page with every other host blocked, wait for its math, and look at it."""
    from axe_playwright_python.sync_playwright import Axe  # as Playwright, only where it is installed

    seen = Visit()
    with new_page(browser, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:

        def gate(route) -> None:
            url = route.request.url
            if url.startswith((f"{address}/", "data:", "blob:")):
                route.continue_()
            else:
                seen.foreign.append(url)
                route.abort()

        page.route("**/*", gate)
        page.on("pageerror", lambda error: seen.errors.append(f"error: {error}"))
        page.on(
            "console",
            lambda text: seen.errors.append(f"console: {text.text}") if text.type == "error" else None,
        )
        page.on("requestfailed", lambda request: seen.errors.append(f"failed: {request.url}"))
        page.on(
            "response",
            lambda answer: (
                seen.errors.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
            ),
        )
        page.on("requestfinished", lambda request: seen.loaded.add(urlsplit(request.url).path))
        page.goto(f"{address}/{page_name}", wait_until="load")
        if page_name == "index.html":
            page.wait_for_url(f"{address}/book/intro.html", wait_until="load")
        seen.math = page.locator("article .math").count()
        page.wait_for_load_state("networkidle")
        # A formula that is shown has a height; those in folded solutions have none yet.
        seen.rendered = page.locator("article .math > math").count()
        # Folded solutions are a part of the page: unfold them before looking at it.
        page.evaluate(_UNFOLD)
        page.wait_for_function(_REACHED)
        seen.width = page.evaluate("() => document.scrollingElement.scrollWidth")
        seen.wide = page.evaluate(_WIDE, width)
        seen.scrolled = page.evaluate(_SCROLLED)
        seen.cut = page.evaluate(_CUT)
        seen.tables = page.locator("article table.rows").count()
        seen.background, seen.faint = page.evaluate(_LOOK)
        # What fades in has its colours at the end only; the style sheets are here already.
        page.evaluate(_FINISH)
        options = {"resultTypes": ["violations"], "preload": False}
        found = Axe().run(page, options=options).response["violations"]
        seen.axe = [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"][:3]]
    return seen


@pytest.fixture(scope="session")
def desktop(built: Site, browser, address: str) -> dict[str, Visit]:
    """Every page, wide and light."""
    return {name: visit(browser, address, name, 1280, "light") for name in built.pages}


@pytest.fixture(scope="session")
def phone(built: Site, browser, address: str) -> dict[str, Visit]:
    """Every page, at the width of a phone and in the dark."""
    return {name: visit(browser, address, name, PHONE, "dark") for name in built.pages}


def _complaints(visits: dict[str, Visit], of: str) -> str:
    return "\n".join(f"{name}: {text}" for name, seen in visits.items() for text in getattr(seen, of))


@pytest.mark.slow
def test_no_page_throws_an_error(desktop: dict[str, Visit], phone: dict[str, Visit]) -> None:
    assert not _complaints(desktop, "errors")
    assert not _complaints(phone, "errors")


@pytest.mark.slow
def test_axe_finds_no_barrier(desktop: dict[str, Visit], phone: dict[str, Visit]) -> None:
    """https://github.com/dequelabs/axe-core, with everything unfolded, in the light and in the dark."""
    assert not _complaints(desktop, "axe")
    assert not _complaints(phone, "axe")


@pytest.mark.slow
def test_no_request_leaves_the_host(desktop: dict[str, Visit], phone: dict[str, Visit]) -> None:
    assert not _complaints(desktop, "foreign")
    assert not _complaints(phone, "foreign")


@pytest.mark.slow
def test_all_math_is_rendered(desktop: dict[str, Visit]) -> None:
    assert desktop["book/intro.html"].math > 0
    for name, seen in desktop.items():
        assert seen.rendered == seen.math, f"{name}: {seen.rendered} of {seen.math} formulas are rendered"


@pytest.mark.slow
def test_80_columns_of_code_fit_on_a_desktop(desktop: dict[str, Visit]) -> None:
    assert not _complaints(desktop, "scrolled")


@pytest.mark.slow
def test_results_show_every_column(desktop: dict[str, Visit], phone: dict[str, Visit]) -> None:
    assert sum(seen.tables for seen in phone.values()) >= 2
    assert not _complaints(desktop, "cut")
    assert not _complaints(phone, "cut")


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(phone: dict[str, Visit]) -> None:
    assert not _complaints(phone, "wide")
    for name, seen in phone.items():
        assert seen.width <= PHONE + 1, f"{name} is {seen.width} pixels wide"


@pytest.mark.slow
def test_a_long_formula_begins_at_its_beginning(browser, address: str) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 740})
    page.goto(f"{address}/book/07_inside.html")
    places = page.eval_on_selector_all(
        "div.math",
        """boxes => boxes.map(box => {
            const sign = box.querySelector("mi, mo, mn").getBoundingClientRect();
            return [box.getBoundingClientRect().left, sign.left, box.scrollWidth > box.clientWidth];
        })""",
    )
    page.close()
    assert any(scrolls for _, _, scrolls in places)  # otherwise nothing is tested here
    assert all(sign >= box - 1 for box, sign, _ in places)


@pytest.mark.slow
def test_text_can_be_read_in_the_light_and_in_the_dark(
    desktop: dict[str, Visit], phone: dict[str, Visit]
) -> None:
    for name in desktop:
        assert desktop[name].background > 0.9, f"{name} is not light"
        assert phone[name].background < 0.05, f"{name} is not dark"
    assert not _complaints(desktop, "faint")
    assert not _complaints(phone, "faint")


@pytest.mark.slow
def test_no_page_is_heavy(built: Site, desktop: dict[str, Visit]) -> None:
    @functools.cache
    def weight(path: str) -> int:
        file = built.folder / unquote(path).lstrip("/")
        if not file.is_file():
            return 0
        content = file.read_bytes()
        text = file.suffix in (".html", ".css", ".js", ".svg", ".json")
        return len(gzip.compress(content, 6)) if text else len(content)

    for name, seen in desktop.items():
        figures = sum(weight(path) for path in seen.loaded if path.startswith("/_images/"))
        total = sum(map(weight, seen.loaded)) - figures
        print(f"{name}: {total:,} bytes and {figures:,} of figures")
        limit = WEIGHT_LIMIT + (INDEX_LIMIT if name == "search.html" else 0)
        assert total < limit, f"{name} transfers {total:,} bytes, its figures not counted"


@pytest.mark.slow
def test_a_page_without_scripts_in_a_dark_system_can_be_read(browser, address: str) -> None:
    with new_page(browser, java_script_enabled=False, color_scheme="dark") as page:
        page.goto(f"{address}/book/04_blocks.html", wait_until="domcontentloaded")
        background, faint = page.evaluate(_LOOK)
        assert background > 0.9 and not faint
        assert page.locator("article .math > math").count() > 5


@pytest.mark.slow
def test_the_landing_page_holds_still(browser, address: str) -> None:
    with new_page(browser, viewport={"width": PHONE, "height": 740}) as page:
        watch = "list => list.getEntries().forEach(e => e.hadRecentInput || (window.shift += e.value))"
        observe = "{type: 'layout-shift', buffered: true}"
        page.add_init_script(f"window.shift = 0; new PerformanceObserver({watch}).observe({observe})")
        page.goto(f"{address}/book/intro.html", wait_until="load")
        assert page.evaluate("() => new Promise(done => setTimeout(() => done(window.shift), 500))") < 0.05


# Notes every theme that a page has while it loads.
_THEMES = """
window.themes = [];
new MutationObserver((changes) => {
  const now = document.documentElement.dataset.theme;
  for (const { oldValue } of changes) if (oldValue !== now) window.themes.push(now);
}).observe(document, { subtree: true, attributeFilter: ["data-theme"], attributeOldValue: true });
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "chosen", "themes"),
    [("light", "auto", []), ("dark", "auto", ["dark"]), ("light", "dark", ["dark"]), ("dark", "light", [])],
)
def test_no_page_changes_its_theme_while_it_loads(
    browser, address: str, system: str, chosen: str, themes: list[str]
) -> None:
    # Every change styles the whole page anew, which takes a phone a fifth of a second, and is seen.
    with new_page(browser, color_scheme=system) as page:
        page.add_init_script(f"localStorage.setItem('mode', '{chosen}');{_THEMES}")
        page.goto(f"{address}/book/references.html", wait_until="load")
        assert page.evaluate("() => window.themes") == themes
        assert page.evaluate("() => document.documentElement.dataset.mode") == chosen
        page.locator(".theme-switch-button:visible").first.click()  # it still changes when it is asked to
        assert len(page.evaluate("() => window.themes")) == len(themes) + 1


@pytest.mark.slow
def test_what_scrolls_is_reached_by_keys_also_in_a_fold(browser, address: str) -> None:
    with new_page(browser, viewport={"width": PHONE, "height": 740}) as page:
        page.goto(f"{address}/book/04_blocks.html", wait_until="load")
        # A browser does not lay out what lies in a fold, unless it is asked how wide that is.
        assert page.locator("article pre[tabindex='0']").count()
        assert not page.locator("article details:not([open]) pre[tabindex]").count()
        page.evaluate(_UNFOLD)
        wide = "all => all.filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.eval_on_selector_all("article details pre", wide) > 5
        page.wait_for_function(_REACHED)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (PHONE, 740)])
def test_section_1_begins_within_a_screen_and_a_half(browser, address: str, width: int, height: int) -> None:
    with new_page(browser, viewport={"width": width, "height": height}) as page:
        for path in notebooks():
            page.goto(f"{address}/book/{path.stem}.html", wait_until="load")
            top = page.eval_on_selector("article h2", "e => e.getBoundingClientRect().top + scrollY")
            assert 0 < top <= 1.5 * height, f"{path.stem}: {top:.0f} pixels"
            if width == PHONE:
                figures = page.locator("article figure img")
                widths = figures.evaluate_all("all => all.map(img => [img.naturalWidth, img.width])")
                assert widths and all(shown >= min(COLUMN, natural) for natural, shown in widths), path.stem


@pytest.mark.slow
def test_the_narrowest_phone_and_a_finger(browser, address: str) -> None:
    """320 pixels, with everything unfolded; a finger cannot hover to find the button that copies."""
    with new_page(browser, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True) as page:
        for name in ("book/04_blocks.html", "book/06_recipes.html", "book/runs.html"):
            page.goto(f"{address}/{name}", wait_until="load")
            page.evaluate(_UNFOLD)
            assert page.evaluate("() => document.scrollingElement.scrollWidth") <= 321, name
            assert not page.evaluate(_WIDE, 320), name
            shown = "all => all.map(e => getComputedStyle(e).opacity)"
            assert set(page.eval_on_selector_all("button.copybtn", shown)) == {"1"}, name


@pytest.mark.slow
def test_each_run_is_folded_and_shows_every_column(browser, address: str) -> None:
    with new_page(browser, viewport={"width": 1280, "height": 900}) as page:
        cut = "all => all.filter(e => e.parentElement.scrollWidth > e.parentElement.clientWidth + 1).length"
        page.goto(f"{address}/book/runs.html", wait_until="load")
        assert page.locator("article details").count() >= len(runs.by_experiment())
        assert not page.locator("article details[open]").count()
        page.evaluate(_UNFOLD)
        assert page.locator("table.runs-seeds").count() >= len(runs.by_experiment())
        assert page.eval_on_selector_all("table.runs, table.runs-seeds", cut) == 0


@pytest.mark.slow
def test_paper_is_white_and_cuts_no_code(browser, address: str) -> None:
    # As wide as a sheet of A4 with margins of 15 mm, at 96 pixels an inch.
    with new_page(browser, viewport={"width": 680, "height": 1000}, color_scheme="dark") as page:
        wide = (
            "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"
        )
        page.goto(f"{address}/book/04_blocks.html", wait_until="load")
        page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate(_UNFOLD)
        # The theme fades from one colour to the other.
        page.wait_for_function(
            "() => getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'"
        )
        assert not page.evaluate(_LOOK)[1]
        assert not page.eval_on_selector_all("article div.highlight > pre", wide)
        assert page.evaluate("() => document.scrollingElement.scrollWidth") <= 680
        for furniture in (".bd-sidebar-primary", ".bd-header-article", ".headerlink", "button.copybtn"):
            assert not page.locator(f"{furniture}:visible").count(), furniture
        page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_stand_on_the_page_and_photographs_on_a_white_card(
    built: Site, browser, address: str, scheme: str
) -> None:
    """Plots are stored with a white ground. What is seen at their corners is the colour of the page."""
    from PIL import Image

    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    look = "e => [getComputedStyle(e).filter, getComputedStyle(e).backgroundColor]"
    try:
        for name, tree in built.trees.items():
            if not tree.select("article img"):
                continue
            page.goto(f"{address}/{name}", wait_until="load")
            color = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            ground = tuple(map(int, re.findall(r"\d+", color)))
            for image in page.query_selector_all("article img"):
                style, card = image.evaluate(look)
                if "invert-dark" not in (image.get_attribute("class") or ""):
                    assert style == "none" and (scheme == "light" or card == "rgb(255, 255, 255)"), name
                    continue
                assert ("invert(" in style) == (scheme == "dark") and card == "rgba(0, 0, 0, 0)", name
                image.scroll_into_view_if_needed()
                box = image.bounding_box()
                corner = {"x": box["x"] + 2, "y": box["y"] + 2, "width": 3, "height": 3}
                shown = Image.open(io.BytesIO(page.screenshot(clip=corner))).convert("RGB")
                assert shown.getcolors() == [(9, ground)], f"{name}: {image.get_attribute('alt')}"
    finally:
        context.close()


def test_pages_show_figures_as_svg_and_do_not_carry_the_png_beside_it(built: Site) -> None:
    figures = [
        output
        for path in notebooks()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", ())
        if "image/svg+xml" in output.get("data", ())
    ]
    shown = sum(
        len(tree.select(".cell_output img[src$='.svg']")) + len(tree.select("figure img[src$='.svg']"))
        for name, tree in built.trees.items()
        if (BOOK.parent / name).with_suffix(".ipynb").exists()
    )
    assert shown >= len(figures) > 0
    assert {path.suffix for path in (built.folder / "_images").iterdir()} == {".svg"}


# What people type, and where the answer is.
QUERIES = {
    "bottleneck": "book/04_blocks.html",
    "bottlenecks": "book/glossary.html#term-bottleneck",
    "16.94": "book/04_blocks.html",
    "69632": "book/04_blocks.html",
    "1,179,648": "book/04_blocks.html",
    "skip connection": "book/glossary.html#term-shortcut",
    "preactivation": "book/glossary.html#term-pre-activation",
    "pre-activation": "book/glossary.html#term-pre-activation",
    "degradation problem": "book/02_degradation.html",
    "batch normalization": "book/01_plain_cnns.html",
    "瓶颈": "book/glossary.html#term-bottleneck",
    "残差块": "book/glossary.html#term-residual-block",
    "ボトルネック": "book/glossary.html#term-bottleneck",
    "atajo": "book/es.html",
    "salto": "book/glossary.html#term-shortcut",
    "preactivacion": "book/glossary.html#term-pre-activation",
}


@pytest.mark.slow
def test_the_search_finds_what_people_type(built: Site, browser) -> None:
    """From a folder, where nothing can be fetched; the snippets are the book's text."""
    with new_page(browser) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((built.folder / "search.html").as_uri() + "?q=16.94", wait_until="domcontentloaded")
        page.wait_for_selector(".search-hits a")
        for query, wanted in QUERIES.items():
            # The page's own field, and not the one in the header's dialog.
            page.fill(".bd-search-container input[name=q]", query)
            first = page.eval_on_selector_all(
                ".search-hits a", "all => all.slice(0, 3).map(e => e.getAttribute('href'))"
            )
            assert any(link.startswith(wanted) for link in first), f"{query}: {first}"
            snippets = page.locator(".search-snippet").all_inner_texts()
            assert all(0 < len(text) < 300 and "#" not in text[:2] for text in snippets), query
        # Part of a number is no number, and no word is no result.
        for query in ("6.94", "16.9", "xyzzy"):
            page.fill(".bd-search-container input[name=q]", query)
            assert "16.94" not in " ".join(page.locator(".search-hits mark").all_inner_texts()), query
        assert "Nothing was found" in page.inner_text("#search-results")
        page.fill(".bd-search-container input[name=q]", "<b>")
        assert not page.locator("#search-results b").count()
        assert not errors


def test_the_search_index_is_light_and_holds_what_is_read(built: Site) -> None:
    index = (built.folder / "_static" / "search-index.js").read_bytes()
    assert len(gzip.compress(index, 6)) < INDEX_LIMIT
    parts = json.loads(index.decode().removeprefix("window.SEARCH_INDEX = ").removesuffix(";\n"))
    anchors = {name: {tag["id"] for tag in tree.find_all(id=True)} for name, tree in built.trees.items()}
    assert {page for page, _, _ in parts["pages"]} == {
        name for name in built.pages if name.startswith("book/")
    }
    for page, anchor, title, text in parts["texts"]:
        name = parts["pages"][page][0]
        assert title and (not anchor or anchor in anchors[name]), f"{name}: {anchor}"
        # Page furniture: the theme's buttons, headings' links, the foot of the page.
        for furniture in ("Binder", "Copyright", "Link to this", "previous", "Print to PDF"):
            assert furniture not in title
        assert "Print to PDF" not in text and "Copyright 2026" not in text, name


@pytest.mark.slow
def test_the_book_opens_from_a_folder(built: Site, browser) -> None:
    """README says: open ``_build/html/index.html``. No server is involved then."""
    context = browser.new_context()
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda text: errors.append(text.text) if text.type == "error" else None)
    try:
        page.goto((built.folder / "index.html").as_uri())
        page.wait_for_url("**/book/intro.html")
        page.wait_for_selector("math")
        assert not errors
    finally:
        context.close()


@pytest.mark.slow
def test_the_site_works_from_a_folder_without_a_network(built: Site, browser) -> None:
    """As from the zip that is published with it: no page misses a file, and no script fails."""
    with new_page(browser, offline=True) as page:
        problems = []
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))

        def failed(request) -> None:
            if "ABORTED" not in (request.failure or ""):  # the next page was called before all had come
                problems.append(f"{page.url}: {request.url}: {request.failure}")

        page.on("requestfailed", failed)
        for name in built.pages:
            if name != "index.html":  # it only leads on
                page.goto((built.folder / name).as_uri(), wait_until="load")
        assert problems == []
        # And what is missing would have been noticed.
        with page.expect_event("requestfailed", lambda request: "no-such-file" in request.url):
            page.evaluate("document.body.append(Object.assign(new Image(), {src: 'no-such-file.png'}))")
