"""Grade a folder of notebooks with otter-grader, without a container, and write a table of points.

Run it with the Python of an environment that has otter-grader, the book's package and what it needs.
"""

import argparse
import ast
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
FAR = 3  # standard deviations


def code_of(notebook: nbformat.NotebookNode) -> str:
    """All cells of code that Python can read, one below the other; IPython's own lines are left out."""
    kept = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)
            try:
                ast.parse(source)
            except SyntaxError:
                continue
            kept.append(source)
    return "\n".join(kept)


def written(code: str, variable: str) -> object:
    """The last plain value that the code gives a variable; ``None`` if there is none."""
    value = None
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [variable]:
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
    return value


def points(path: Path, autograder: Path, seconds: float) -> tuple[dict[str, float], str]:
    """The points of one notebook by question, and a remark if it could not be graded.

    Args:
        path: of the notebook.
        autograder: otter's archive.
        seconds: after so many it is stopped.
    """
    with tempfile.TemporaryDirectory(prefix="grading-") as folder:
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:  # whatever is wrong with a student's file: the others are still graded
            return {}, f"no notebook: {type(error).__name__}"
        # Whatever kernel the student had: it is run in this environment.
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        copy = Path(folder) / "submission.ipynb"
        nbformat.write(notebook, copy)
        command = [sys.executable, "-m", "otter", "run", "-a", str(autograder), "-o", folder, "--no-logo"]
        try:
            done = subprocess.run(
                [*command, str(copy)],
                env={**os.environ, "PYTHONUTF8": "1"},  # otter reads and prints in the system's encoding
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return {}, f"stopped after {seconds:.0f} s"
        results = Path(folder) / "results.json"
        if done.returncode or not results.exists():
            return {}, f"otter failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        tests = json.loads(results.read_text(encoding="utf-8"))["tests"]
    return {test["name"].split(" ")[0]: float(test["score"]) for test in tests if "score" in test}, ""


def repeated(name: str, measured: object) -> str:
    """What a repetition of the student's training says of the student's numbers."""
    sys.path.insert(0, str(HERE))
    from personal import NETWORKS, slice_of, train_three

    from resnetbook import data

    if not isinstance(measured, dict) or set(measured) != set(NETWORKS):
        return "no numbers to repeat"
    spread = json.loads((HERE / "spread.json").read_text(encoding="utf-8"))["std"]
    every = data.fashion_mnist()
    mine = train_three(name, *slice_of(name, every.train_images, every.train_labels))
    far = [n for n in NETWORKS if abs(measured[n] - mine[n]) > FAR * spread[n]]
    return f"repeated: {mine}" + (f"; ask about {', '.join(far)}" if far else "; inside")


def grade(
    submissions: Path, autograder: Path, seconds: float = 600, recompute: bool = False
) -> list[dict[str, object]]:
    """A row for each notebook in a folder: file, name, points by question, their sum, remarks.

    Raises:
        ValueError: if there is no notebook.
    """
    paths = sorted(submissions.glob("*.ipynb"))
    if not paths:
        raise ValueError(f"no notebook in {submissions}")
    rows, names = [], []
    for path in paths:
        print(path.name, flush=True)
        found, remark = points(path, autograder, seconds)
        remarks = [remark] if remark else []
        name = ""
        if found:
            code = code_of(nbformat.read(path, as_version=4))
            name = written(code, "NAME") or ""
            if not isinstance(name, str) or not name.strip():
                name, remarks = "", [*remarks, "no name"]
            elif recompute:
                remarks.append(repeated(name, written(code, "measured")))
        names.append(" ".join(name.casefold().split()))
        rows.append(
            {"file": path.name, "name": name, **found, "sum": sum(found.values()), "remarks": remarks}
        )
    often = Counter(names)
    for row, key in zip(rows, names, strict=True):
        if key and often[key] > 1:
            row["remarks"].append("this name is there twice")
        row["remarks"] = "; ".join(row["remarks"])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Grade a folder of notebooks, and write a table of points.")
    parser.add_argument("submissions", type=Path, help="a folder of notebooks")
    parser.add_argument("--csv", type=Path, required=True, help="the table to write")
    parser.add_argument("--autograder", type=Path, default=HERE / "autograder.zip")
    parser.add_argument("--seconds", type=float, default=600, help="for one notebook (default: 600)")
    parser.add_argument("--recompute", action="store_true", help="train each student's networks again")
    arguments = parser.parse_args(argv)
    try:
        rows = grade(arguments.submissions, arguments.autograder, arguments.seconds, arguments.recompute)
    except ValueError as error:
        print(f"grade: {error}", file=sys.stderr)
        return 1
    questions = sorted({key for row in rows for key in row} - {"file", "name", "sum", "remarks"})
    with arguments.csv.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["file", "name", *questions, "sum", "remarks"], restval=0.0)
        table.writeheader()
        table.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
