"""Run the book's notebooks as a reader would, and store their outputs or compare them.

``python code/tools/notebooks.py 05`` runs chapter 5 and stores what comes out; ``--check`` only compares.
"""

import argparse
import contextlib
import copy
import difflib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "book" / "site"))

import site_links

from resnetbook._command import run_command

try:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import NotebookNode
except ImportError as error:
    sys.exit(f"notebooks: {error.name} is missing: pip install -r requirements.txt")

BOOK = Path(__file__).resolve().parents[2] / "book"
# A cell with this tag prints numbers that depend on the machine (a live training, a clock):
# the words around them must come out the same, the numbers may differ.
VARIES = "varies"
# What sets up, draws or makes a table is folded: such a cell begins with a title, which Colab understands.
_TITLE = re.compile(r"# @title (\S.*)")
FOLDED = "hide-input"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def paths(names: list[str] | None = None) -> list[Path]:
    """The book's notebooks, all of them or those whose names begin with one of ``names``.

    Raises:
        ValueError: if there is none, or a name fits none.
    """
    found = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(f"no notebooks in {BOOK}; run this from a checkout of the book")
    chosen = []
    for name in names or [""]:
        fitting = [path for path in found if path.name.startswith(Path(name).name)]
        if not fitting:
            raise ValueError(f"no notebook {name!r}; there are: {', '.join(p.name for p in found)}")
        chosen += fitting
    return chosen


@contextlib.contextmanager
def _client(path: Path, mode: str, timeout: int) -> Iterator[NotebookClient]:
    """A client for a copy of the notebook, in an empty folder with nothing but itself."""
    with tempfile.TemporaryDirectory(prefix="resnetbook-") as folder:
        shutil.copy(path, folder)
        notebook = nbformat.read(Path(folder) / path.name, as_version=4)
        environment = {"RESNETBOOK_RUNS": mode, "SOURCE_DATE_EPOCH": "0"}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield NotebookClient(
                notebook,
                timeout=timeout,
                kernel_name="python3",
                resources={"metadata": {"path": folder}},
                record_timing=False,
            )
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def execute(path: Path, mode: str = "recorded", timeout: int = 900) -> NotebookNode:
    """Run a notebook from top to bottom, in an empty folder with nothing but itself.

    Args:
        path: the notebook.
        mode: ``recorded``, ``quick`` or ``full``, for the notebook's long runs.
        timeout: seconds for one cell.

    Returns:
        The notebook with its new outputs, free of progress bars and clock times.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
        ValueError: if a cell writes anything but a progress bar to standard error.
    """
    with _client(path, mode, timeout) as client:
        client.execute()
    _clean(client.nb, path.name)
    return client.nb


def execute_again(path: Path, quick: float = 3.0, timeout: int = 900) -> tuple[NotebookNode, str]:
    """Run a notebook as a reader who plays with it, and say where that breaks.

    From top to bottom, every quick cell twice; then all quick cells again forwards, and backwards. None
    may fail, and each must print what it printed at first (but for numbers in cells that vary).

    Args:
        path: the notebook.
        quick: a cell that takes fewer seconds than this is quick.
        timeout: seconds for one cell.

    Returns:
        The notebook as :func:`execute` gives it, and a line for each cell and pass that differs from the
        first; empty if none does.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails when it is run for the first time.
        ValueError: if a cell writes anything but a progress bar to standard error.
    """
    problems = []
    with _client(path, "recorded", timeout) as client, client.setup_kernel():
        cells = [(i, cell) for i, cell in enumerate(client.nb.cells) if cell.cell_type == "code"]
        first: dict[int, str] = {}

        def once_more(number: int, when: str) -> None:
            position, cell = cells[number]
            # A copy: a cell that fails keeps what it printed at first.
            cell = copy.deepcopy(cell)
            try:
                client.execute_cell(cell, position)
            except CellExecutionError as error:
                problems.append(f"code cell {number + 1} fails {when}: {error.ename}: {error.evalue}")
                return
            if (printed := _text_of(cell)) != first[number]:
                diff = difflib.unified_diff(
                    first[number].splitlines(), printed.splitlines(), "at first", when, lineterm="", n=0
                )
                problems.append(f"code cell {number + 1}:\n" + "\n".join(diff))

        for number, (position, cell) in enumerate(cells):
            start = time.perf_counter()
            client.execute_cell(cell, position)
            if time.perf_counter() - start < quick:
                first[number] = _text_of(cell)
                once_more(number, "at once again")
        for number in first:
            once_more(number, "after the end, forwards")
        for number in reversed(first):
            once_more(number, "after the end, backwards")
    _clean(client.nb, path.name)
    return client.nb, "\n".join(problems)


def _clean(notebook: NotebookNode, name: str) -> None:
    """Drop what differs from run to run and says nothing."""
    link(notebook, name)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        fold(cell)
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                # A progress bar rewrites its line; older and slower kernels lose the carriage return.
                # tqdm also notes that widgets are missing.
                if not re.search(r"\r|\d%\|", output.text) and "TqdmWarning" not in output.text:
                    raise ValueError(f"{name}, cell {number} writes to standard error: {output.text}")
            elif "application/vnd.jupyter.widget-view+json" not in output.get("data", {}):
                kept.append(output)
        cell.outputs = _joined(kept)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )


def link(notebook: NotebookNode, name: str) -> None:
    """Let a notebook's links work where it is alone, and offer to open it in Colab (:mod:`site_links`)."""
    own = site_links.own_addresses()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = site_links.absolute(cell.source, own)
    title = notebook.cells[0] if notebook.cells else None
    if title and title.cell_type == "markdown" and title.source.startswith("# "):
        title.source = site_links.with_button(title.source, name, own)


def fold(cell: NotebookNode) -> None:
    """Let the metadata of a code cell say what its title does: folded on the site and in Colab, or not."""
    title = _TITLE.match(cell.source)
    tags = [tag for tag in cell.metadata.get("tags", []) if tag != FOLDED]
    shown = {key: value for key, value in cell.metadata.get("mystnb", {}).items() if "prompt" not in key}
    if title:
        tags.append(FOLDED)
        words = f"Code: {title[1][0].lower()}{title[1][1:]}"
        shown |= {"code_prompt_show": words, "code_prompt_hide": words}
        cell.metadata["cellView"] = "form"
    else:
        cell.metadata.pop("cellView", None)
    for key, value in {"tags": tags, "mystnb": shown}.items():
        if value:
            cell.metadata[key] = value
        else:
            cell.metadata.pop(key, None)


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, with prints that follow each other in one: they may arrive in several pieces."""
    found: list[NotebookNode] = []
    for output in outputs:
        same = output.output_type == "stream" and found and found[-1].get("name") == output.name
        if same:
            found[-1] = nbformat.from_dict({**found[-1], "text": found[-1].text + output.text})
        else:
            found.append(output)
    return found


def _text_of(cell: NotebookNode) -> str:
    """What a code cell prints and returns, as text; pictures and progress bars are left out."""
    parts = []
    for output in _joined([o for o in cell.outputs if o.get("name") != "stderr"]):
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type in ("execute_result", "display_data"):
            kinds = output.data
            if not any(k.startswith("image/") or "widget" in k for k in kinds):
                # A table says the same in both; of others only the HTML says what is shown.
                plain, rich = kinds.get("text/plain", ""), kinds.get("text/html")
                parts.append(rich if rich and plain.startswith("<") else plain)
        else:
            parts.append(f"{output.ename}: {output.evalue}")
    text = "\n".join(part.rstrip() for part in parts)
    if VARIES in cell.metadata.get("tags", []):
        text = re.sub(r" +", " ", _NUMBER.sub("#", text))
    return text


def text_outputs(notebook: NotebookNode) -> list[str]:
    """What each code cell prints and returns, as text; pictures are left out."""
    return [_text_of(cell) for cell in notebook.cells if cell.cell_type == "code"]


def differences(committed: NotebookNode, fresh: NotebookNode) -> str:
    """A readable comparison of the text outputs of two runs; empty if they agree."""
    lines = []
    pairs = zip(text_outputs(committed), text_outputs(fresh), strict=True)
    for number, (old, new) in enumerate(pairs, start=1):
        diff = difflib.unified_diff(
            old.splitlines(),
            new.splitlines(),
            f"code cell {number}, committed",
            "run again",
            lineterm="",
            n=0,
        )
        lines += diff
    return "\n".join(lines)


def refresh(path: Path) -> None:
    """Run a notebook and write its new outputs into the file, aside first."""
    fresh = execute(path)
    aside = path.with_suffix(".tmp")
    nbformat.write(fresh, aside)
    os.replace(aside, path)


def relink(path: Path) -> None:
    """Write a notebook's links anew, and leave all else in the file as it is."""
    notebook = nbformat.read(path, as_version=4)
    link(notebook, path.name)
    aside = path.with_suffix(".tmp")
    nbformat.write(notebook, aside)
    os.replace(aside, path)


def check(path: Path) -> str:
    """Run a notebook and say how its text outputs differ from the committed ones."""
    committed = nbformat.read(path, as_version=4)
    return differences(copy.deepcopy(committed), execute(path))


def _run(arguments: argparse.Namespace) -> None:
    stale = []
    for path in paths(arguments.names):
        print(f"{path.name} …", flush=True)
        try:
            if arguments.links:
                relink(path)
                continue
            if not (arguments.check or arguments.again):
                refresh(path)
                continue
            different = execute_again(path)[1] if arguments.again else check(path)
            if different:
                print(different)
                stale.append(path.name)
        except CellExecutionError as error:
            # It quotes the cell and its traceback; nbclient's own traceback says nothing more.
            raise ValueError(f"{path.name}: {error}") from error
    if stale:
        advice = "see above" if arguments.again else "run python code/tools/notebooks.py"
        raise ValueError(f"not the committed outputs: {', '.join(stale)}; {advice}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with a message on standard error."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/notebooks.py",
        description="Run the book's notebooks as a reader would, and store their outputs.",
    )
    parser.add_argument("names", nargs="*", help="such as 04 or 04_blocks.ipynb (default: all)")
    parser.add_argument("--check", action="store_true", help="only compare with the stored outputs")
    parser.add_argument(
        "--again",
        action="store_true",
        help="run quick cells twice, then again both ways, and compare",
    )
    parser.add_argument(
        "--links",
        action="store_true",
        help="run nothing; only let the links follow the repository's address in _config.yml",
    )
    parser.set_defaults(run=_run)
    return run_command("notebooks", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
