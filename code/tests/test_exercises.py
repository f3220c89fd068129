"""Every exercise: its page says what its data say, its answer is right, and each of its slips is named."""

import re

import nbformat
import pytest
import torch

import notebooks
from kit import handouts
from resnetbook import checks
from resnetbook.checks.exercise import Exercise

EXERCISES = handouts.exercises()
each = pytest.mark.parametrize("name", list(EXERCISES))


def _page(exercise: Exercise) -> list:
    chapter = exercise.number.partition(".")[0].zfill(2)
    (path,) = notebooks.paths([chapter])
    return nbformat.read(path, as_version=4).cells


@each
def test_the_page_and_the_data_say_the_same(name):
    exercise, cells = EXERCISES[name], _page(EXERCISES[name])
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert (
        f"> **Exercise {exercise.number}: {exercise.title}** ({exercise.minutes} min, {exercise.level})."
        in text
    )
    solutions = re.findall(r"<summary>Solution</summary>(.*?)</details>", text, re.S)
    blocks = [block for part in solutions for block in re.findall(r"```python\n(.*?)```", part, re.S)]
    assert exercise.answer in blocks
    called = [cell for cell in cells if cell.cell_type == "code" and f"checks.{name}(" in cell.source]
    assert [f"checks.{name}({exercise.name})" in cell.source for cell in called] == [True]
    assert getattr(checks, name) is exercise


@each
def test_the_answer_is_right(name, capsys):
    answer = EXERCISES[name].built()
    torch.manual_seed(3)
    EXERCISES[name](answer)
    after = torch.rand(2)
    assert capsys.readouterr().out.startswith(f"Right: {EXERCISES[name].right}")
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))  # a check leaves the random numbers alone


@each
@pytest.mark.filterwarnings("ignore")  # a mistake may be one that PyTorch warns of
@pytest.mark.slow
def test_every_slip_is_named(name):
    exercise, unnamed = EXERCISES[name], []
    for slip in exercise.mistakes:
        with pytest.raises(checks.CheckFailed) as failure:
            exercise(exercise.built(exercise.edited(slip)))
        if slip.message not in str(failure.value):
            unnamed.append(f"{slip.edits}\n  should be: {slip.message}\n  is said: {failure.value}")
    assert not unnamed, "\n".join(unnamed)


@each
def test_an_untouched_exercise_does_not_stop_the_notebook(name, capsys):
    def untouched(*arguments: object) -> None:
        raise NotImplementedError

    EXERCISES[name](untouched)
    assert capsys.readouterr().out.startswith("Not done yet")


@each
def test_an_error_of_the_readers_is_quoted(name):
    def broken(*arguments: object) -> None:
        raise KeyError("mine")

    with pytest.raises(checks.CheckFailed, match="raises KeyError: 'mine'"):
        EXERCISES[name](broken)


@each
def test_a_call_in_place_of_the_name_is_refused(name):
    with pytest.raises(checks.CheckFailed, match=r"by its name, without parentheses"):
        EXERCISES[name](5)


def test_every_exercise_of_a_page_is_there():
    numbers = {exercise.number for exercise in EXERCISES.values()}
    for path in notebooks.paths():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        assert set(re.findall(r"^> \*\*Exercise (\d+\.\d+)\b", text, re.M)) <= numbers, path.name
