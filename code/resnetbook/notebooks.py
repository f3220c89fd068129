"""Run the book's notebooks as a reader would, and compare their outputs with the committed ones."""

import copy
import difflib
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parents[2] / "book"
# A cell with this tag prints numbers that depend on the machine (a live training, a clock):
# the words around them must come out the same, the numbers may differ.
VARIES = "varies"
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
    with tempfile.TemporaryDirectory(prefix="resnetbook-") as folder:
        shutil.copy(path, folder)
        notebook = nbformat.read(Path(folder) / path.name, as_version=4)
        environment = {"RESNETBOOK_RUNS": mode, "SOURCE_DATE_EPOCH": "0"}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            NotebookClient(
                notebook,
                timeout=timeout,
                kernel_name="python3",
                resources={"metadata": {"path": folder}},
                record_timing=False,
                coalesce_streams=True,
            ).execute()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    _clean(notebook, path.name)
    return notebook


def _clean(notebook: NotebookNode, name: str) -> None:
    """Drop what differs from run to run and says nothing."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                # A progress bar rewrites its line; tqdm also notes that widgets are missing.
                if "\r" not in output.text and "TqdmWarning" not in output.text:
                    raise ValueError(f"{name}, cell {number} writes to standard error: {output.text}")
            elif "application/vnd.jupyter.widget-view+json" not in output.get("data", {}):
                kept.append(output)
        cell.outputs = kept
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )


def text_outputs(notebook: NotebookNode) -> list[str]:
    """What each code cell prints and returns, as text; pictures are left out."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        parts = []
        for output in cell.outputs:
            if output.output_type == "stream":
                parts.append(output.text)
            elif output.output_type in ("execute_result", "display_data"):
                if not any(kind.startswith("image/") for kind in output.data):
                    parts.append(output.data.get("text/html") or output.data.get("text/plain", ""))
            else:
                parts.append(f"{output.ename}: {output.evalue}")
        text = "\n".join(part.rstrip() for part in parts)
        if VARIES in cell.metadata.get("tags", []):
            text = re.sub(r" +", " ", _NUMBER.sub("#", text))
        texts.append(text)
    return texts


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


def check(path: Path) -> str:
    """Run a notebook and say how its text outputs differ from the committed ones."""
    committed = nbformat.read(path, as_version=4)
    return differences(copy.deepcopy(committed), execute(path))
