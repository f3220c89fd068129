"""The command line, as a reader uses it."""

import dataclasses
import io
import re
import subprocess
import sys
import types

import pytest
import torch

from resnetbook import data, parallel, runs
from resnetbook.__main__ import main
from resnetbook.experiments import EXPERIMENTS
from resnetbook.recipe import Recipe

COMMANDS = ("data", "train", "measure")


def fails(capsys, *arguments: str) -> str:
    """The message of a command that must fail in an orderly way."""
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert err.startswith("resnetbook: ") and "Traceback" not in err
    return err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^\s+{name}\s+\w", out, re.M) for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("data", ["--root", "--offline"]),
        ("train", ["--list", "--show", "--again", "--device", "--threads", "--root"]),
        ("measure", ["--list", "--again", "--threads"]),
    ],
)
def test_every_command_explains_every_option(capsys, command, options):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for option in options:
        # The option, perhaps a value, then words.
        assert re.search(rf"^  {option}( [A-Z_]+)?\s+\w+", out, re.M), option


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["data", "--colour"], ["bench"], ["train", "--threads", "x"]]
)
def test_a_wrong_command_is_explained(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m resnetbook" in capsys.readouterr().err


def test_it_runs_as_a_module_and_fails_without_a_traceback(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "resnetbook", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / "file").write_text("in the way")
    done = run("data", "--offline", "--root", str(tmp_path / "file"))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("resnetbook: cannot write to ") and "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
    done = run("train", "--list")
    assert done.returncode == 0 and done.stderr == ""
    assert "source-recipe-seed0" in done.stdout


@pytest.mark.parametrize("encoding", ["cp1251", "cp437", "cp932", "ascii", "utf-8"])
@pytest.mark.parametrize(
    "arguments",
    [["train", "--list"], ["--help"], *([name, "--help"] for name in COMMANDS), ["data", "--root", "…/☃"]],
    ids=" ".join,
)
def test_every_word_is_written_in_an_encoding_of_few_characters(monkeypatch, tmp_path, encoding, arguments):
    """Python asks Windows, or a pipe, what it can take; some take no "…"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "_download", lambda name, aside: (_ for _ in ()).throw(data.DataError("no")))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "cache"))
    written = {}
    for name in ("stdout", "stderr"):
        written[name] = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written[name], encoding=encoding))
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    for name in ("stdout", "stderr"):
        getattr(sys, name).flush()
    out, err = (written[name].getvalue().decode(encoding) for name in ("stdout", "stderr"))
    if arguments[0] == "data" and len(arguments) == 3:
        assert status == 1 and err.startswith("resnetbook: ")
        assert "…/☃" in err if encoding == "utf-8" else "☃" not in err and "/?" in err
        return
    assert status == 0 and err == ""
    lines = [line for line in out.splitlines() if "source-recipe-seed0" in line]
    if arguments == ["train", "--list"]:
        assert len(out.splitlines()) == len(runs.EXPERIMENTS)
        assert re.match(r"source-recipe-seed0 (…|\.\.\.) seed\d: ", lines[0])
        assert "?" not in out and "\\u" not in out  # nothing is lost


# ---------------------------------------------------------------------------------------------------
# data


def test_data_says_what_is_ready(toy, capsys):
    assert main(["data"]) == 0
    assert capsys.readouterr().out == "Fashion-MNIST is ready: 120 training and 40 test images, checked.\n"


def test_data_hands_its_options_on(monkeypatch, capsys):
    seen = []

    def fashion_mnist(root, download):
        seen.append((root, download))
        raise data.DataError("nothing here; do this")

    monkeypatch.setattr(data, "fashion_mnist", fashion_mnist)
    assert fails(capsys, "data", "--root", "somewhere", "--offline") == "resnetbook: nothing here; do this\n"
    fails(capsys, "data")
    assert seen == [("somewhere", False), (None, True)]


def test_a_wrong_file_is_named(tmp_path, capsys):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in data.SHA256:
        (folder / name).write_bytes(b"\0\0\x08\x03 much too short")
    message = fails(capsys, "data", "--root", str(tmp_path), "--offline")
    assert str(folder / "train-images-idx3-ubyte") in message
    assert "cut short" in message and "Delete it" in message


# ---------------------------------------------------------------------------------------------------
# train


@pytest.fixture
def tiny(toy, tmp_path, monkeypatch):
    """One experiment on noise; records and checkpoints in ``tmp_path``."""
    experiment = runs.Experiment(
        {"family": "cifar", "depth": 8, "width": 2, "in_channels": 1, "stem_stride": 4},
        Recipe(num_epochs=1, batch_size=40),
        seeds=2,
        held_out=20,
        about="Small enough for a test.",
    )
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": experiment})
    monkeypatch.setattr(runs, "RECORDS", tmp_path / "records")
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_train_lists_what_can_be_trained(tiny, capsys):
    for arguments in (["train", "--list"], ["train"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == "tiny-one-seed0 … seed1: Small enough for a test.\n"


@pytest.mark.parametrize("name", ["ablation-6-shift", "degradation-plain-56-seed3"])
def test_train_shows_the_model_and_the_recipe_with_their_defaults(capsys, monkeypatch, name):
    monkeypatch.setattr(runs, "record", lambda *a, **k: pytest.fail("trained"))
    assert main(["train", "--show", name]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    experiment = EXPERIMENTS[name.removesuffix("-seed3")]
    seeds = "seed 3" if name.endswith("-seed3") else "seeds 0 to 4"
    assert head == f"{name}, {seeds}: {experiment.about}"
    shown: dict[str, dict[str, str]] = {}
    title = ""
    for line in lines:
        if line.startswith("  "):
            field, value = line.split()
            shown[title][field] = value
        else:
            title = line.removesuffix(":")
            shown[title] = {}
    assert shown["model"] == {field: str(value) for field, value in experiment.model.items()}
    recipe = dataclasses.asdict(experiment.recipe)
    assert shown["recipe"] == {field: str(value) for field, value in recipe.items()}
    assert shown["images, seeds and what is kept"]["held_out"] == str(experiment.held_out)
    assert "no run 'ablation-6': say EXPERIMENT-seedN" in fails(capsys, "train", "--show", "ablation-6")


def test_train_records_once_and_again_on_request(tiny, capsys):
    assert main(["train", "tiny-one-seed0", "--device", "cpu"]) == 0
    accuracy = runs.load("tiny-one-seed0")["test_accuracy"]
    out, err = capsys.readouterr()
    epochs = runs.load("tiny-one-seed0")["history"]
    *lines, last = out.splitlines()
    for line, epoch in zip(lines, epochs, strict=True):
        assert line == (
            f"epoch {epoch['epoch']}: {epoch['seconds']:.1f} s, training loss {epoch['train_loss']:.4f}, "
            f"training accuracy {epoch['train_accuracy']:.4f}, "
            f"held-out accuracy {epoch['valid_accuracy']:.4f}"
        )
    seconds = sum(epoch["seconds"] for epoch in epochs)
    assert last == f"tiny-one-seed0: test accuracy {accuracy:.4f} after {seconds:,.1f} s of training"
    assert "3/3" in err  # the progress bar

    path = runs.RECORDS / "tiny-one-seed0.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 99'))
    assert main(["train", "tiny-one-seed0", "--device", "cpu"]) == 0
    assert "recorded already (--again trains it once more)" in capsys.readouterr().out
    assert runs.load("tiny-one-seed0")["seed"] == 99  # it was left alone
    assert main(["train", "tiny-one-seed0", "--device", "cpu", "--again"]) == 0
    assert runs.load("tiny-one-seed0")["seed"] == 0


def test_a_wrong_argument_fails_before_the_first_run(tiny, capsys, monkeypatch):
    monkeypatch.setattr(runs, "record", lambda *a, **k: pytest.fail("trained"))
    message = fails(capsys, "train", "tiny-one-seed0", "tiny-two-seed0")
    assert "no run 'tiny-two-seed0': say EXPERIMENT-seedN with one of tiny-one" in message
    assert "'\n" not in message and '"' not in message  # not in a KeyError's quotes
    assert "no run 'tiny-one'" in fails(capsys, "train", "tiny-one")
    assert "no device 'gpu'" in fails(capsys, "train", "tiny-one-seed0", "--device", "gpu")
    for threads in ("0", "-2"):
        assert "--threads must be at least 1" in fails(
            capsys, "train", "tiny-one-seed0", "--threads", threads
        )


def test_threads_are_set(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert main(["train", "tiny-one-seed0", "--threads", "3", "--device", "cpu"]) == 0
    assert asked == [3]


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_only_the_first_speaks(tiny, capsys, monkeypatch, first):
    fabric = types.SimpleNamespace(is_global_zero=first)
    given = []

    def record(name, **options):
        given.append(options["fabric"])
        return {"test_accuracy": 0.5, "history": [{"seconds": 2.0}, {"seconds": 1.5}]}

    monkeypatch.setattr(parallel, "launched", lambda device: fabric)
    monkeypatch.setattr(runs, "record", record)
    assert main(["train", "tiny-one-seed0", "--device", "cpu"]) == 0
    assert given == [fabric]
    assert capsys.readouterr().out == (
        "tiny-one-seed0: test accuracy 0.5000 after 3.5 s of training\n" if first else ""
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FloatingPointError("the loss is nan in epoch 1; lower lr"), "resnetbook: the loss is nan"),
        (
            OSError(28, "No space left on device", "a.pt"),
            "resnetbook: [Errno 28] No space left on device: 'a.pt'",
        ),
        (KeyboardInterrupt(), "resnetbook: interrupted"),
    ],
)
def test_what_goes_wrong_while_training_is_said_without_a_traceback(
    tiny, capsys, monkeypatch, error, message
):
    def record(*arguments, **options):
        raise error

    monkeypatch.setattr(runs, "record", record)
    assert fails(capsys, "train", "tiny-one-seed0").startswith(message)
