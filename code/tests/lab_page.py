"""A laboratory's page as a reader opens it from a folder, without building the whole site."""

import re
from pathlib import Path

BOOK = Path(__file__).resolve().parents[2] / "book"
LABS = BOOK / "site" / "static" / "labs"


def write(folder: Path, name: str) -> str:
    """Write the raw HTML of ``book/NAME.md`` as a page beside the site's static files; its address."""
    raw = re.findall(r"```\{raw\} html\n(.*?)```", (BOOK / f"{name}.md").read_text(encoding="utf-8"), re.S)
    (folder / "_static").symlink_to(LABS.parent)
    (folder / "book").mkdir()
    page = folder / "book" / f"{name}.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>Lab</title>{''.join(raw)}", encoding="utf-8")
    return page.as_uri()


def opened(browser, address: str, **options):
    """The page in a context of its own; whatever it logs as an error stands in ``page.errors``."""
    page = browser.new_context(**options).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda text: page.errors.append(text.text) if text.type == "error" else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else page.errors.append(r.url),
    )
    page.goto(address)
    return page
