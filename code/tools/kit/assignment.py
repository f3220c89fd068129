"""The graded assignment: the students' notebook, its solution, and what grades it with otter-grader.

Its sources stand in ``assignment/``. ``notebook.md`` is the notebook: a fence of Python is a cell, with what
the student gets above a line ``===`` and the solution below it; a word behind ``python`` names a cell that
comes from elsewhere. ``questions/`` are otter's tests, ``personal.py`` what follows from a student's name.
"""

import ast
import importlib.util
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import nbformat
from nbformat import NotebookNode

import notebooks
from kit import handouts
from resnetbook import data

SOURCES = Path(__file__).with_suffix("")
OTTER = "7.0.0"
# Whose images the solution is trained on.
NAME = "solution"

_FENCE = re.compile(r"^```python *(.*)\n((?:.*\n)*?)```$", re.M)


def _read(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def source(name: str) -> ModuleType:
    """One of the sources as a module; they are handed out as files, and are no part of a package."""
    spec = importlib.util.spec_from_file_location(f"assignment_{name}", SOURCES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


def _exercise(name: str, solved: bool) -> str:
    """The cell of a chapter where an exercise is written, as the chapter has it, or with its answer."""
    exercise = handouts.exercises()[name]
    (path,) = notebooks.paths([f"{int(exercise.number.split('.')[0]):02d}"])
    chapter = nbformat.read(path, as_version=4)
    places = {found: place for place, found in handouts.exercise_cells(chapter).items()}
    cell = (handouts.solved(chapter, set(), "") if solved else chapter).cells[places[name]]
    return cell.source


def _install() -> str:
    """The first cell of code of every chapter."""
    chapter = nbformat.read(notebooks.paths(["04"])[0], as_version=4)
    return next(cell.source for cell in chapter.cells if cell.cell_type == "code")


def _cell(kind: str, text: str, solved: bool, values: Mapping[str, str]) -> NotebookNode:
    word, _, name = kind.partition(" ")
    if word == "exercise":
        return nbformat.v4.new_code_cell(_exercise(name, solved))
    if word == "install":
        return nbformat.v4.new_code_cell(_install())
    if word == "personal":
        return nbformat.v4.new_code_cell(
            "# @title What follows from your name\n" + _read("personal.py").strip()
        )
    student, found, solution = text.partition("\n===\n")
    written = solution if solved and found else student
    for key, value in values.items():
        written = written.replace("{" + key + "}", value)
    # Otter leaves out cells with this tag when it grades.
    metadata = {"tags": ["otter_ignore"]} if word == "train" else {}
    return nbformat.v4.new_code_cell(written.strip(), metadata=metadata)


def notebook(values: Mapping[str, str] | None = None) -> NotebookNode:
    """The students' notebook, or, with values for ``{name}`` and ``{measured}``, its solution."""
    text, cells, end = _read("notebook.md"), [], 0
    for fence in _FENCE.finditer(text):
        cells.append(nbformat.v4.new_markdown_cell(text[end : fence.start()].strip()))
        cells.append(_cell(fence[1].strip(), fence[2], values is not None, values or {}))
        end = fence.end()
    cells.append(nbformat.v4.new_markdown_cell(text[end:].strip()))
    made = nbformat.v4.new_notebook(cells=[cell for cell in cells if cell.source])
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    # The same bytes every time.
    for place, cell in enumerate(made.cells):
        cell["id"] = f"assignment-{place}"
    return made


def tests() -> dict[str, str]:
    """Otter's tests by file name, each of them whole: it has what follows from a name in itself."""
    head = "from otter.test_files import test_case\n\nOK_FORMAT = False\n"
    common = [_read("personal.py"), _read("questions/prelude.py")]
    found = {}
    for path in sorted((SOURCES / "questions").glob("q*.py")):
        parts = [head, f'name = "{path.stem}"\npoints = None\n', *common, path.read_text(encoding="utf-8")]
        found[path.name] = "\n\n".join(parts)
    return found


def possible() -> dict[str, float]:
    """The points of each question."""
    return {
        Path(name).stem: sum(
            keyword.value.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "test_case"
            for keyword in node.keywords
            if keyword.arg == "points"
        )
        for name, text in tests().items()
    }


def write_autograder(path: Path) -> None:
    """Write the archive that ``otter run`` reads: the tests, and settings."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("otter_config.json", '{"show_hidden": true, "print_summary": false}\n')
        for name, text in tests().items():
            archive.writestr(f"tests/{name}", text)


def _measured() -> dict[str, float]:
    """The losses of the solution, trained now."""
    personal, every = source("personal"), data.fashion_mnist()
    images, labels = personal.slice_of(NAME, every.train_images, every.train_labels)
    return personal.train_three(NAME, images, labels)


def make(out: Path) -> None:
    """Write the assignment into a folder: ``student/`` to hand out, ``teacher/`` to keep.

    Raises:
        resnetbook.data.DataError: if there is no Fashion-MNIST to train the solution on.
    """
    student, teacher = out / "student", out / "teacher"
    for folder in (student, teacher / "tests"):
        folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(), student / "assignment.ipynb")
    solution = notebook({"name": NAME, "measured": repr(_measured())})
    nbformat.write(solution, teacher / "solution.ipynb")
    write_autograder(teacher / "autograder.zip")
    with zipfile.ZipFile(teacher / "autograder.zip") as archive:
        archive.extractall(teacher)
    for name in ("grade.py", "personal.py", "spread.json"):
        shutil.copy(SOURCES / name, teacher / name)
    # For an archive that brings its own environment; the address is the one that Colab installs from.
    package = re.search(r'"(git\+[^"]+)"', _install())[1]
    (teacher / "requirements.txt").write_text(f"resnetbook @ {package}\n", encoding="utf-8")
    text = _read("teacher.md").replace("{otter}", OTTER).replace("{far}", str(source("grade").FAR))
    text = text.replace("{grade}", (teacher / "grade.py").as_posix())
    (teacher / "README.md").write_text(text, encoding="utf-8")
