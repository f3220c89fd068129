"""The teacher's kit: hand-outs without and with the answers, and the command that makes all parts."""

import re

import nbformat
import pytest

import notebooks
import teaching
from kit import handouts

CHAPTERS = notebooks.paths()
NAMES = {path.name for path in CHAPTERS}
SITE = "https://example.org/book-of-mine"
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def text_of(notebook, kind):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def own_lines(answer, stub):
    """The lines of an answer that the reader has to find, without indentation and comments."""
    lines = [line.partition("  #")[0].strip() for line in answer.splitlines()]
    given = {line.strip() for line in stub.splitlines()}
    return [line for line in lines if len(line) > 8 and line not in given]


@each_chapter
def test_a_students_copy_holds_no_answer(path):
    original = nbformat.read(path, as_version=4)
    exercises = handouts.exercise_cells(original)
    numbers = re.findall(r"^> \*\*Exercise (\d+\.\d+): ", text_of(original, "markdown"), re.M)
    known = handouts.exercises()
    assert [known[name].number for name in exercises.values()] == numbers  # each is found, in its order

    copy = handouts.student(original, NAMES, SITE)
    words = text_of(copy, "markdown")
    assert not re.search(r"<summary>(Solution|Answer)", words)
    lines = {line.strip() for line in words.splitlines()}
    for place, name in exercises.items():
        for line in own_lines(known[name].answer, original.cells[place].source):
            assert line not in lines, f"{known[name].number}: {line}"
    assert all(not cell.outputs for cell in copy.cells if cell.cell_type == "code")
    # The rest is there: code and checks as they were, hints, quiz and predictions with a place to answer.
    assert text_of(copy, "code") == text_of(original, "code")
    before = text_of(original, "markdown")
    assert words.count("<summary>Hint</summary>") == before.count("<summary>Hint</summary>")
    assert words.count("*Your answer:*") == before.count("<summary>Answer</summary>")
    assert words.count("*Your prediction:*") == len(re.findall(r"^> \*\*Predict\.\*\*", before, re.M))
    nbformat.validate(copy)


@each_chapter
def test_a_solved_copy_holds_every_answer_where_the_reader_writes(path):
    original = nbformat.read(path, as_version=4)
    known = handouts.exercises()
    copy = handouts.solved(original, NAMES, SITE)
    changed = handouts.exercise_cells(original)
    for place, (mine, theirs) in enumerate(zip(copy.cells, original.cells, strict=True)):
        if place in changed:
            exercise = known[changed[place]]
            assert mine.source == f"{exercise.answer.strip()}\n\n\nchecks.{changed[place]}({exercise.name})"
        elif theirs.cell_type == "code":
            assert mine.source == theirs.source
    assert "raise NotImplementedError  # your turn" not in text_of(copy, "code")


@each_chapter
def test_links_lead_to_a_neighbour_or_to_the_site(path):
    alone = handouts.student(nbformat.read(path, as_version=4), {path.name}, SITE)
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(alone, "markdown"))
    assert all(re.match(r"https?://|#", target) or target.startswith(path.name) for target in targets)
    inside = [t.removeprefix(f"{SITE}/book/").partition("#")[0] for t in targets if t.startswith(SITE)]
    for page in inside:
        stem = page.removesuffix(".html")
        assert any((notebooks.BOOK / f"{stem}{suffix}").exists() for suffix in (".md", ".ipynb")), page


def test_a_solution_that_its_check_refuses_is_refused():
    says = nbformat.v4.new_output("stream", name="stdout", text="Not done yet: …")
    cell = nbformat.v4.new_code_cell("checks.equal_cost_channels(equal_cost_channels)", outputs=[says])
    refused = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(ValueError, match=r"04_small: exercise 4\.4 says: 'Not done yet"):
        handouts.run_solved(refused, "04_small", execute=lambda path: nbformat.read(path, as_version=4))


@pytest.mark.slow
def test_a_solved_chapter_runs_and_prints_what_the_book_prints(tmp_path):
    assert teaching.main(["--out", str(tmp_path), "--part", "solution", "--chapters", "01"]) == 0
    (path,) = (tmp_path / "solution").glob("*.ipynb")
    made = nbformat.read(path, as_version=4)
    original = nbformat.read(notebooks.BOOK / path.name, as_version=4)
    places = [place for place, cell in enumerate(original.cells) if cell.cell_type == "code"]
    solved = handouts.exercise_cells(original)
    fresh = dict(zip(places, notebooks.text_outputs(made), strict=True))
    for place, text in zip(places, notebooks.text_outputs(original), strict=True):
        assert fresh[place].startswith("Right: ") if place in solved else fresh[place] == text


def test_the_command_makes_the_chapters_that_are_asked_for_and_empties_only_its_own_folders(tmp_path, capsys):
    command = ["--out", str(tmp_path), "--part", "student"]
    assert teaching.main([*command, "--chapters", "02", "04"]) == 0
    made = {path.name for path in (tmp_path / "student").glob("*.ipynb")}
    assert made == {path.name for path in notebooks.paths(["02", "04"])}
    assert teaching.main([*command, "--chapters", "04"]) == 0
    assert {path.name[:2] for path in (tmp_path / "student").glob("*.ipynb")} == {"04"}

    (tmp_path / "student" / teaching.MARK).unlink()
    assert teaching.main(command) == 1
    assert "was not made by this command" in capsys.readouterr().err
    assert len(list((tmp_path / "student").glob("*.ipynb"))) == 1
    assert teaching.main([*command, "--chapters", "99"]) == 1
    assert "no notebook '99'" in capsys.readouterr().err
