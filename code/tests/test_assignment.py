"""The graded assignment: what it hands out, and that grading gives and takes exactly the right points."""

import csv
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import require

from kit import assignment, handouts
from resnetbook import checks

personal = assignment.source("personal")
# The losses of a training that no test waits for: only what follows from them is graded.
MEASURED = {"plain-8": 0.9, "plain-44": 1.7, "residual-44": 0.8}
VALUES = {"name": "Ünal  Example", "measured": repr(MEASURED)}

# Edits of the solution, and the points that each loses.
WRONG = {
    "relu_before_addition": (
        ("return F.relu(self.path(x) + shortcut)", "return F.relu(self.path(x)) + shortcut"),
        {"q1": 3},
    ),
    "macs_of_another_map": (("after = mine.side // 2", "after = mine.side"), {"q3": 2}),
    "not_mended": (
        (
            "        out = self.bn2(out)\n        out = out +",
            "        out = self.bn1(out)\n        out = out +",
        ),
        {"q4": 2},
    ),
    "no_prediction": (('PREDICTION = "plain', 'PREDICTION = ""  # "plain'), {"q5": 1}),
    "verdict_against_the_numbers": (
        ("plain_degrades = cost_of_depth > 0", "plain_degrades = cost_of_depth < 0"),
        {"q5": 1},
    ),
}


def edited(notebook, old, new):
    """The notebook with an edit in one of its cells."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
    cell.source = cell.source.replace(old, new)
    return notebook


def code(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_the_students_notebook_holds_no_answer_and_needs_no_otter():
    student, solution = assignment.notebook(), assignment.notebook(VALUES)
    nbformat.validate(student)
    assert "===" not in code(student).replace("====", "") and "{measured}" not in code(student)
    for name in ("residual_block", "bottleneck", "basic_parameters", "bottleneck_macs", "without_gradient"):
        answer = handouts.exercises()[name].answer.strip()
        assert answer in code(solution) and answer not in code(student)
    assert "self.bn2(out)" in code(solution)
    assert "self.bn2(out)" not in code(student)
    assert "otter" not in code(student)


def test_the_patient_runs_and_its_mistake_is_found():
    scope = {}
    (cell,) = [c for c in assignment.notebook(VALUES).cells if c.source.startswith("class Patient")]
    exec("import torch\nfrom torch import Tensor, nn\nfrom torch.nn import functional as F\n", scope)
    exec("from resnetbook import blocks\n" + cell.source, scope)
    idle = handouts.exercises()["without_gradient"].built()
    assert idle(scope["Patient"](8, 8), scope["torch"].randn(2, 8, 6, 6)) == ["bn2.weight", "bn2.bias"]
    with pytest.raises(checks.CheckFailed):
        checks.residual_block(scope["Patient"])


def test_numbers_follow_from_the_name_alone(dataset):
    first = personal.personal("Maria  Müller")
    assert first == personal.personal(" maria mu\u0308ller")
    others = {personal.personal(f"student {i}") for i in range(30)}
    assert len({one.seed for one in others}) == 30
    assert len({(one.in_channels, one.side) for one in others}) > 20
    with pytest.raises(ValueError, match="NAME"):
        personal.personal("  ")
    images, labels = personal.slice_of("a", dataset.train_images, dataset.train_labels)
    again, _ = personal.slice_of("A", dataset.train_images, dataset.train_labels)
    other, _ = personal.slice_of("b", dataset.train_images, dataset.train_labels)
    assert images.equal(again) and not images.equal(other) and len(labels) == personal.NUM_IMAGES
    small = images[:64], labels[:64]
    losses = personal.train_three("a", *small, num_epochs=1)
    assert losses == personal.train_three("A", *small, num_epochs=1)
    assert losses != personal.train_three("b", *small, num_epochs=1)


def test_what_is_made_is_whole_and_its_points_are_those_that_are_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "_measured", lambda: MEASURED)
    assignment.make(tmp_path)
    with zipfile.ZipFile(tmp_path / "teacher" / "autograder.zip") as archive:
        assert {f"tests/{question}.py" for question in assignment.possible()} < set(archive.namelist())
    text = (tmp_path / "teacher" / "README.md").read_text(encoding="utf-8")
    assert assignment.OTTER in text and "{" not in text
    student = nbformat.read(tmp_path / "student" / "assignment.ipynb", as_version=4)
    words = "\n".join(cell.source for cell in student.cells if cell.cell_type == "markdown")
    assert f"{sum(assignment.possible().values())} points are counted by a program" in words
    for question, points in assignment.possible().items():
        assert f"\n| {points} | {question[1:]}. " in text
        assert any(
            line.startswith(f"## {question[1:]}. ") and line.endswith(f"({points} points)")
            for line in words.splitlines()
        )


def test_the_grader_reads_what_was_written_and_marks_numbers_beyond_chance(monkeypatch, dataset):
    grade = assignment.source("grade")
    text = grade.code_of(assignment.notebook(VALUES))
    assert grade.written(text, "NAME") == VALUES["name"]
    assert grade.written(text, "measured") == MEASURED

    sys.path.insert(0, str(assignment.SOURCES))
    import personal as own

    monkeypatch.setattr(own, "train_three", lambda *_: MEASURED)
    assert grade.repeated("a", MEASURED).endswith("inside")
    assert grade.repeated("a", MEASURED | {"plain-8": 0.1}).endswith("ask about plain-8")
    sys.path.remove(str(assignment.SOURCES))


@pytest.fixture(scope="module")
def grader(tmp_path_factory) -> Path:
    """A Python with otter-grader in an environment of its own, that also sees the packages of this one.

    ``RESNETBOOK_GRADER`` may name one that is there already.
    """
    if "RESNETBOOK_GRADER" in os.environ:
        return Path(os.environ["RESNETBOOK_GRADER"])
    folder = tmp_path_factory.mktemp("grader")
    venv.create(folder, with_pip=True)
    scripts, library = (
        Path(sysconfig.get_path(name, "venv", {"base": str(folder), "platbase": str(folder)}))
        for name in ("scripts", "purelib")
    )
    here = sysconfig.get_path("purelib")
    (library / "this_one.pth").write_text(f"import site; site.addsitedir({here!r})\n", encoding="utf-8")
    python = scripts / Path(sys.executable).name
    install = [python, "-m", "pip", "install", "--quiet", f"otter-grader=={assignment.OTTER}"]
    done = subprocess.run(install, capture_output=True, text=True, encoding="utf-8")
    require(done.returncode == 0, f"otter-grader cannot be installed: {done.stderr[-500:]}")
    return python


@pytest.mark.slow
def test_right_full_empty_none_and_each_wrong_one_loses_its_points(grader, tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    nbformat.write(assignment.notebook(), folder / "empty.ipynb")
    nbformat.write(assignment.notebook(VALUES), folder / "right.ipynb")
    (folder / "torn.ipynb").write_text("{", encoding="utf-8")
    for name, (edit, _) in WRONG.items():
        nbformat.write(edited(assignment.notebook(VALUES), *edit), folder / f"{name}.ipynb")
    assignment.write_autograder(tmp_path / "autograder.zip")
    table = tmp_path / "marks.csv"
    command = [grader, assignment.SOURCES / "grade.py", folder, "--csv", table]
    subprocess.run([*command, "--autograder", tmp_path / "autograder.zip"], check=True)

    with table.open(encoding="utf-8", newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    full = assignment.possible()
    points = {name: {q: float(row[q]) for q in full} for name, row in rows.items()}
    assert points["right"] == full and float(rows["right"]["sum"]) == sum(full.values())
    assert points["empty"] == points["torn"] == dict.fromkeys(full, 0)
    for name, (_, lost) in WRONG.items():
        assert points[name] == {q: full[q] - lost.get(q, 0) for q in full}, name
    assert rows["right"]["name"] == VALUES["name"]
    assert "there twice" in rows["right"]["remarks"]
    assert "no name" in rows["empty"]["remarks"] and "no notebook" in rows["torn"]["remarks"]
