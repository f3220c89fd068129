"""The authors' commands: ``python code/tools/notebooks.py`` and ``python code/tools/bench.py``."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import bench
import notebooks
from resnetbook import bench as results

TOOLS = Path(notebooks.__file__).parent


def fails(tool, capsys, *arguments: str) -> str:
    """The message of a command that must fail in an orderly way."""
    assert tool.main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"{tool.__name__}: ") and "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        (notebooks, ["--check", "--again"]),
        (bench, ["--side", "--batch-size", "--batches", "--rounds", "--device", "--profile", "--json"]),
    ],
)
def test_every_tool_explains_every_option(capsys, tool, options):
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: python code/tools/{tool.__name__}.py" in out
    for option in options:
        # The option, perhaps a value, then words.
        assert re.search(rf"^  {option}( [A-Z_]+)?\s+\w+", out, re.M), option


@pytest.mark.parametrize(("tool", "arguments"), [(bench, ["--side", "many"]), (notebooks, ["--colour"])])
def test_a_wrong_option_is_explained(capsys, tool, arguments):
    with pytest.raises(SystemExit) as stopped:
        tool.main(arguments)
    assert stopped.value.code == 2
    assert f"usage: python code/tools/{tool.__name__}.py" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------
# notebooks


def test_an_unknown_notebook_is_named(capsys):
    message = fails(notebooks, capsys, "77")
    assert "no notebook '77'; there are: " in message and "04_blocks.ipynb" in message


@pytest.fixture
def two_notebooks(monkeypatch):
    monkeypatch.setattr(notebooks, "paths", lambda names: [Path("01_a.ipynb"), Path("02_b.ipynb")])


def test_a_stale_notebook_is_named(two_notebooks, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "refresh", lambda path: pytest.fail("wrote into a notebook"))
    monkeypatch.setattr(notebooks, "check", lambda path: "-old\n+new" if path.stem == "02_b" else "")
    assert notebooks.main(["--check"]) == 1
    out, err = capsys.readouterr()
    assert "-old\n+new" in out and "01_a.ipynb …" in out
    assert err == "notebooks: not the committed outputs: 02_b.ipynb; run python code/tools/notebooks.py\n"


def test_notebooks_are_refreshed(two_notebooks, monkeypatch, capsys):
    refreshed = []
    monkeypatch.setattr(notebooks, "refresh", refreshed.append)
    assert notebooks.main([]) == 0
    assert [path.name for path in refreshed] == ["01_a.ipynb", "02_b.ipynb"]


def test_a_cell_that_fails_is_quoted(tmp_path, monkeypatch, capsys):
    path = tmp_path / "01_a.ipynb"
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x / 0  # here")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    monkeypatch.setattr(notebooks, "paths", lambda names: [path])
    assert notebooks.main([]) == 1
    message = capsys.readouterr().err.split("notebooks: ")[1]
    assert message.startswith("01_a.ipynb: ")
    assert "x / 0  # here" in message and "ZeroDivisionError" in message
    assert "nbclient" not in message  # where the runner gave up is no news
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "module"), [("notebooks", "nbformat"), ("bench", "d2l")])
def test_a_missing_package_is_named(name, module, monkeypatch, capsys):
    """The tools need more than the package itself does."""
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    options = ["--side", "28", "--batch-size", "2", "--batches", "1"] if name == "bench" else []
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")
    message = stopped.value.code if name == "notebooks" else capsys.readouterr().err
    assert message.startswith(f"{name}: {module} is missing: pip install -r requirements.txt")


def test_a_tool_runs_as_a_script_and_fails_without_a_traceback(tmp_path):
    command = [sys.executable, str(TOOLS / "notebooks.py"), "--check", "77"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("notebooks: no notebook '77'; there are: ")


# ---------------------------------------------------------------------------------------------------
# bench


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--side", "0"], "side must be a whole number of at least 1, got 0"),
        (["--batch-size", "-1"], "batch_size must be a whole number of at least 1"),
        (["--batches", "0"], "num_batches must be"),
        (["--rounds", "0"], "rounds must be"),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--batch-size", "40000"], "more than the 60,000 training images"),
    ],
)
def test_bench_refuses_nonsense(capsys, arguments, message):
    assert message in fails(bench, capsys, *arguments)


def test_bench_prints_a_table_and_writes_json(monkeypatch, capsys, tmp_path):
    result, asked = {"sides": {}}, []
    monkeypatch.setattr(bench, "measure", lambda *arguments: asked.append(arguments) or result)
    monkeypatch.setattr(bench, "table", lambda found: f"table of {found}")
    options = ["--side", "28", "--batch-size", "4", "--batches", "1", "--rounds", "2", "--device", "cpu"]
    options += ["--side", "12", "--profile"]
    assert bench.main([*options, "--json", str(tmp_path / "mine.json")]) == 0
    assert asked == [([28, 12], 4, 1, 2, "cpu", True)]
    assert capsys.readouterr().out == f"table of {result}\n"
    # It carries its name, as bench.load wants it.
    assert (tmp_path / "mine.json").read_text() == '{\n "name": "mine",\n "sides": {}\n}\n'
    assert results.load("mine", tmp_path) == {"name": "mine", "sides": {}}
    assert os.listdir(tmp_path) == ["mine.json"]

    assert bench.main([]) == 0
    assert asked[1] == ((96, 28), 256, None, 5, None, False)


def test_bench_refuses_a_file_that_it_cannot_write_before_it_measures(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "measure", lambda *arguments: pytest.fail("measured"))
    path = tmp_path / "missing" / "bench.json"
    assert f"cannot write {path}: there is no folder" in fails(bench, capsys, "--json", str(path))
