"""Note with what the whole book was verified: the site shows it below every page.

``.ci/run`` calls this at its end, when everything has passed. The weekly workflow keeps what its run with the
newest packages has noted, as ``book/site/verified.json``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from resnetbook import runs
from resnetbook._command import run_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "keras", "lightning")


def note() -> dict:
    """Today's date, the commit, and the versions that are installed here.

    Raises:
        ValueError: if one of the packages is not installed, or this is no checkout.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(f"{package} is not installed, so nothing was verified with it") from error
    commit = runs.source()["commit"]
    if commit is None:
        raise ValueError("this is no checkout")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "versions": versions,
    }


def _run(given: argparse.Namespace) -> None:
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(note(), indent=1) + "\n", encoding="utf-8")
    print(f"noted in {given.out}")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/verified.py", description="Note date, commit and versions of a full check."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "site" / "verified.json")
    parser.set_defaults(run=_run)
    return run_command("verified", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
