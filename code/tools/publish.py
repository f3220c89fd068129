"""What the tools that publish the book share: the built pages, and the browser that prints them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path, *options: str, builder: str = "html") -> Path:
    """Build the book below ``folder``, and return where its pages lie.

    Args:
        folder: for all that Jupyter Book writes.
        options: of ``jupyter-book build``, such as ``"-W"``.
        builder: Sphinx's.

    Raises:
        ValueError: if the book does not build; the message is the end of what was said.
    """
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*program, "build", str(ROOT), *options, "--builder", builder, "--path-output", str(folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    built = folder / "_build" / builder
    if done.returncode or not (built / "index.html").exists():
        raise ValueError(f"the book does not build: {(done.stdout + done.stderr).strip()[-2000:]}")
    return built


@contextmanager
def chromium(advice: str = "") -> Iterator[Browser]:
    """A browser of Playwright's.

    Args:
        advice: what else one may do where there is none.

    Raises:
        ValueError: if there is no Chromium or Chrome.
    """
    from playwright.sync_api import Error, sync_playwright

    program = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    # On Windows and macOS Chrome is not among the commands; Playwright knows where it lies.
    where = {"executable_path": program} if program else {"channel": "chrome"}
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, and containers have little shared memory.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        arguments = ["--disable-dev-shm-usage"] + ["--no-sandbox"] * root
        try:
            browser = playwright.chromium.launch(**where, args=arguments)
        except Error as error:
            needed = (
                "no Chromium or Chrome that starts: install one, for instance with apt-get install chromium"
            )
            raise ValueError(needed + advice) from error
        yield browser
        browser.close()
