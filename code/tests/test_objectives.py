"""The guide's table of objectives: every one is tested by something, and every exercise tests one."""

import pytest
import site_objectives
from resnetbook_site import read_exercises

import notebooks

CHAPTERS = {path.name[:2]: path for path in notebooks.paths()}


def test_every_chapter_is_there():
    assert set(site_objectives.tested_by()) == set(CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_objective_is_tested_and_every_exercise_tests_one(chapter):
    path = CHAPTERS[chapter]
    tests = site_objectives.tested_by()[chapter]
    assert len(tests) == len(site_objectives.objectives(path))
    assert all(tests), "an objective that nothing tests"
    named = {name for names in tests for name in names}
    exercises = {exercise["number"] for exercise in read_exercises(path)}
    questions = set(site_objectives.questions(path))
    assert len(exercises) >= 4
    assert len(questions) >= 3
    assert named - exercises - questions == set(), "it does not exist"
    assert exercises - named == set(), "an exercise without an objective"


def test_a_chapter_without_objectives_is_noticed(tmp_path):
    path = tmp_path / "13_new.ipynb"
    path.write_text('{"cells": [{"cell_type": "markdown", "source": ["# 13. New\\n"]}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="13_new"):
        site_objectives.objectives(path)
