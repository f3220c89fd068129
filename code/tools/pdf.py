"""The whole book as one PDF: ``python code/tools/pdf.py --out book.pdf``.

Sphinx writes the book as a single HTML page; Chromium prints it, tagged for screen readers, with an outline
and page numbers. It prints twice: then it is known on which page each section begins, for the contents.
Hints, solutions and answers stand at the end; code that only sets up or draws is left out, as it is folded on
the site; so are the tables of single runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import address
from publish import ROOT, build, chromium
from resnetbook._command import run_command

try:
    from playwright.sync_api import Browser
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import DictionaryObject, NameObject, TextStringObject
except ImportError as error:
    sys.exit(f"pdf: {error.name} is missing: pip install -r requirements.txt")

PARTS = Path(__file__).with_name("pdf_parts")
TITLE = "ResNets: from plain CNNs to a trained ResNet-18"
_FOOTER = (
    '<div style="font: 8px sans-serif; width: 100%; text-align: center; color: #444">'
    '<span class="pageNumber"></span></div>'
)


def build_single_page(folder: Path) -> Path:
    """Build the book as one HTML page below ``folder``.

    Raises:
        ValueError: if the build fails or warns; the message is the end of its output.
    """
    site = build(folder, "-W", "-n", builder="singlehtml")
    # Its links to images and styles are relative to the folder above.
    return (site / "book" / "intro.html").rename(site / "whole.html")


def note() -> list[str]:
    """The lines below the title: when and from what the PDF was made, and the licences."""
    repository, _ = address.read()
    log = ["git", "-C", str(ROOT), "log", "-1", "--format=%cs, commit %h"]
    found = subprocess.run(log, capture_output=True, encoding="utf-8", check=False).stdout.strip()
    return [
        f"As of {found}." if found else "",
        "Text under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), code under the MIT licence.",
        f"The notebooks and the code are at {repository}.",
        "Hints, solutions and answers stand at the end. Code that only sets up, draws or makes a table is "
        "left out; the notebooks have it.",
    ]


def outline_items(document: PdfReader | PdfWriter) -> list[DictionaryObject]:
    """The outline's entries in the order of the book."""
    found = []

    def walk(item: DictionaryObject | None) -> None:
        while item is not None:
            item = item.get_object()
            found.append(item)
            walk(item.get("/First"))
            item = item.get("/Next")

    walk(document.root_object["/Outlines"].get_object().get("/First"))
    return found


def page_numbers(pdf: Path, headings: list[dict]) -> dict[str, int]:
    """For each section of the contents, by id, the page on which it begins, counted from 1.

    Raises:
        ValueError: if the outline does not have an entry for each heading.
    """
    reader = PdfReader(pdf)
    items = outline_items(reader)
    if len(items) != len(headings):
        raise ValueError(f"the outline has {len(items)} entries for {len(headings)} headings")
    pages = {page.indirect_reference.idnum: number for number, page in enumerate(reader.pages, 1)}
    numbers = {}
    for item, heading in zip(items, headings, strict=True):
        if heading["id"] is not None:
            target = item["/Dest"] if "/Dest" in item else item["/A"]["/D"]
            if not isinstance(target, list):
                target = reader.named_destinations[target].dest_array
            numbers[heading["id"]] = pages[target[0].idnum]
    return numbers


def print_book(browser: Browser, page: Path, out: Path) -> None:
    """Print a single HTML page as the book."""
    tab = browser.new_page()
    tab.goto(page.as_uri(), wait_until="load")
    tab.add_style_tag(content=(PARTS / "book.css").read_text(encoding="utf-8"))
    script = (PARTS / "prepare.js").read_text(encoding="utf-8")
    headings = tab.evaluate(script[script.index("(book)") :], {"title": TITLE, "note": note()})
    tab.evaluate("() => Promise.all([...document.images].map(image => image.decode().catch(() => null)))")

    def write() -> None:
        tab.pdf(
            path=out,
            outline=True,
            tagged=True,
            prefer_css_page_size=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=_FOOTER,
        )

    write()
    numbers = page_numbers(out, headings)
    tab.evaluate(
        "numbers => document.querySelectorAll('.page-number').forEach("
        "node => { node.textContent = numbers[node.dataset.for] })",
        numbers,
    )
    write()
    tab.close()
    writer = PdfWriter(clone_from=out)
    # Chromium writes some titles twice, one behind the other.
    for item, heading in zip(outline_items(writer), headings, strict=True):
        item[NameObject("/Title")] = TextStringObject(heading["text"])
    writer.add_metadata({"/Title": TITLE, "/Author": "The ResNet book's authors"})
    writer.write(out)


def _run(given: argparse.Namespace) -> None:
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="resnetbook-pdf-") as folder, chromium() as browser:
        print_book(browser, build_single_page(Path(folder)), given.out)
    print(json.dumps({"pages": len(PdfReader(given.out).pages), "bytes": given.out.stat().st_size}))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/pdf.py", description="Make a PDF of the whole book."
    )
    parser.add_argument("--out", type=Path, default=Path("_build/book.pdf"))
    parser.set_defaults(run=_run)
    return run_command("pdf", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
