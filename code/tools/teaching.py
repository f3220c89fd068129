"""Make the teacher's kit from the book's chapters: hand-outs, solutions, slides, a stick.

``python code/tools/teaching.py --out kit`` makes all of it; ``--part slides`` only that.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nbclient.exceptions import CellExecutionError

import notebooks
from kit import assignment, handouts, slides, stick
from resnetbook._command import run_command

# In each folder that this command makes. It empties no other.
MARK = ".made-by-teaching"


def _student(out: Path, arguments: argparse.Namespace) -> None:
    handouts.write(out, handouts.STUDENT, arguments.chapters)


def _solution(out: Path, arguments: argparse.Namespace) -> None:
    try:
        handouts.write(out, handouts.SOLUTION, arguments.chapters)
    except CellExecutionError as error:
        # It quotes the cell and its traceback; nbclient's own traceback says nothing more.
        raise ValueError(str(error)) from error


def _assignment(out: Path, arguments: argparse.Namespace) -> None:
    assignment.make(out)


def _slides(out: Path, arguments: argparse.Namespace) -> None:
    slides.make(out, pdf=not arguments.no_pdf)


def _stick(out: Path, arguments: argparse.Namespace) -> None:
    stick.make(out, arguments.chapters, arguments.index)


# In the order in which they are made.
PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "student": _student,
    "solution": _solution,
    "assignment": _assignment,
    "slides": _slides,
    "stick": _stick,
}


def emptied(folder: Path) -> Path:
    """The folder, new or emptied.

    Raises:
        ValueError: if there is one already that this command has not made.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise ValueError(f"{folder} was not made by this command; name another folder with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def _run(arguments: argparse.Namespace) -> None:
    notebooks.paths(arguments.chapters)  # complains of a chapter that there is not
    for name in PARTS:
        if name in arguments.part:
            print(f"{name} …", flush=True)
            PARTS[name](emptied(arguments.out / name), arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with a message on standard error."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/teaching.py",
        description="Make the teacher's kit from the book's chapters.",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the kit, such as kit")
    parser.add_argument(
        "--part", nargs="+", choices=PARTS, default=list(PARTS), help="make only these parts (default: all)"
    )
    parser.add_argument(
        "--chapters", nargs="+", help="such as 02 04: notebooks of these chapters only (default: all)"
    )
    parser.add_argument("--no-pdf", action="store_true", help="slides without PDF, which needs Chromium")
    parser.add_argument(
        "--index", help="one more index for pip, for the stick: PyTorch's builds for the CPU, for instance"
    )
    parser.set_defaults(run=_run)
    return run_command("teaching", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
