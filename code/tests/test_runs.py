"""Records: written once, read back unchanged, and every committed one is what it says."""

import dataclasses
import datetime
import json
import math
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from test_checkpoint import can_limit, limit_files, resource
from torch.nn import functional as F

from resnetbook import data, devices, models, probes, runs, train
from resnetbook.__main__ import main
from resnetbook.train import Recipe

TINY = runs.Experiment(
    {"family": "cifar", "depth": 8, "width": 2, "stem_stride": 4, "in_channels": 1, "num_classes": 10},
    Recipe(num_epochs=3, batch_size=40, lr=0.05),
    seeds=2,
    held_out=40,
    keep_logits=True,
    about="Small enough for a test.",
)
KEYS = {
    "name",
    "model",
    "recipe",
    "seed",
    "history",
    "test_accuracy",
    "parameters",
    "macs",
    "hardware",
    "versions",
    "date",
    "commit",
    "clean_tree",
}
ENTRY = {"epoch", "train_loss", "train_accuracy", "valid_accuracy", "seconds"}


@pytest.fixture
def tiny(toy, tmp_path, monkeypatch) -> data.FashionMNIST:
    """A book that knows one experiment, on noise, and keeps its records and checkpoints in ``tmp_path``."""
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": TINY})
    monkeypatch.setattr(runs, "RECORDS", tmp_path / "records")
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNETBOOK_RUNS", raising=False)
    return toy


@pytest.fixture(autouse=True)
def switch_as_it_was(monkeypatch):
    """``runs.use`` lasts for the whole process."""
    monkeypatch.setattr(runs, "_chosen", dict(runs._chosen))


def record(name: str = "tiny-one-seed1", **options) -> dict:
    return runs.record(name, **{"device": "cpu", "progress": False, **options})


# ---------------------------------------------------------------------------------------------------
# Recording


def test_a_record_comes_back_as_it_was_made(tiny, tmp_path):
    result = record()
    assert runs.names() == ["tiny-one-seed1"]
    loaded = runs.load("tiny-one-seed1")
    assert loaded == result
    assert KEYS <= set(loaded)
    assert [entry["epoch"] for entry in loaded["history"]] == [1, 2, 3]
    assert all(set(entry) == ENTRY for entry in loaded["history"])
    assert Recipe.from_dict(loaded["recipe"]) == TINY.recipe
    assert (loaded["seed"], loaded["experiment"], loaded["num_images"]) == (1, "tiny-one", 80)
    assert loaded["date"] == datetime.datetime.now(datetime.UTC).date().isoformat()
    assert loaded["versions"]["torch"] == torch.__version__
    assert loaded["hardware"]["threads"] == torch.get_num_threads()
    assert loaded["command"] == "python -m resnetbook train tiny-one-seed1"
    model = models.build(loaded["model"])
    assert loaded["parameters"] == probes.count_parameters(model)
    assert loaded["macs"] == probes.count_macs(model, (1, 28, 28))
    logits = torch.from_numpy(runs.load_logits("tiny-one-seed1")).float()
    assert logits.shape == (40, 10)
    assert (logits.argmax(1) == tiny.test_labels).double().mean() == pytest.approx(
        loaded["test_accuracy"], abs=0.03
    )
    assert F.cross_entropy(logits, tiny.test_labels) == pytest.approx(loaded["test_loss"], abs=1e-2)
    # Neither temporary files nor the checkpoint stay.
    assert sorted(p.name for p in runs.RECORDS.iterdir()) == [
        "tiny-one-seed1.json",
        "tiny-one-seed1.safetensors",
    ]
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


def test_a_kept_network_comes_back_with_the_accuracy_of_its_record(tiny, tmp_path, monkeypatch):
    kept = dataclasses.replace(TINY, keep_weights=True)
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": kept})
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    result = record()
    for folder in (None, runs.RECORDS):
        assert (
            models.weights_path("tiny-one-seed1", folder)
            == tmp_path / "weights" / "tiny-one-seed1.safetensors"
        )
    model = models.trained("tiny-one", seed=1)
    assert not model.training
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 for value in floats)
    assert all(torch.equal(value, value.half().float()) for value in floats)
    test = train.evaluate(model, tiny.test_images, tiny.test_labels, kept.recipe, "cpu")
    assert (test.accuracy, test.loss) == (result["test_accuracy"], result["test_loss"])
    # Rounding is all that happened to it.
    images, labels, *_ = data.split(tiny.train_images, tiny.train_labels, 40)
    torch.manual_seed(1)
    same = models.build(TINY.model)
    train.fit(same, images, labels, TINY.recipe, seed=1, device="cpu", progress=False)
    for key, value in same.state_dict().items():
        assert torch.equal(
            model.state_dict()[key], value.half().float() if value.is_floating_point() else value
        )


def test_a_folder_of_ones_own_keeps_its_weights_within(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": dataclasses.replace(TINY, keep_weights=True)})
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    own = tmp_path / "own"
    record(folder=own)
    assert models.trained("tiny-one", 1, own).training is False
    assert (own / "weights" / "tiny-one-seed1.safetensors").is_file() and not models.WEIGHTS.exists()


def test_weights_that_are_not_there_or_not_the_recorded_ones_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(KeyError, match="no record 'tiny-one-seed1'"):
        models.trained("tiny-one", 1)
    record()
    with pytest.raises(KeyError, match="not kept; train it: python -m resnetbook train tiny-one-seed1"):
        models.trained("tiny-one", 1)
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": dataclasses.replace(TINY, keep_weights=True)})
    record()
    path = models.weights_path("tiny-one-seed1")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the file that was recorded.*--again"):
        models.trained("tiny-one", 1)


def test_a_record_is_what_fit_and_evaluate_give(tiny):
    """The same training by hand: the split, the seed, the test set at the end."""
    result = record()
    images, labels, *valid = data.split(tiny.train_images, tiny.train_labels, 40)
    torch.manual_seed(1)
    model = models.build(TINY.model)
    history = train.fit(model, images, labels, TINY.recipe, valid=valid, seed=1, device="cpu", progress=False)
    for ours, theirs in zip(result["history"], history, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    test = train.evaluate(model, tiny.test_images, tiny.test_labels, TINY.recipe, "cpu")
    assert (result["test_accuracy"], result["test_loss"]) == (test.accuracy, test.loss)


def test_recording_twice_gives_the_same_numbers(tiny, tmp_path):
    first, second = record(), record(folder=tmp_path / "another")
    for result in (first, second):
        assert all(entry.pop("seconds") > 0 for entry in result["history"])
    assert first == second
    other = record("tiny-one-seed0")
    assert other["test_loss"] != first["test_loss"]


def test_a_run_on_some_classes_trains_and_tests_on_their_images_alone(tiny):
    classes = (7, 2, 5)
    some = dataclasses.replace(
        TINY,
        model=TINY.model | {"num_classes": 3},
        classes=classes,
        recipe=dataclasses.replace(TINY.recipe, batch_size=7),
    )
    result = record(experiment=some)
    # By hand: what is kept aside is so before the classes are chosen.
    images, labels, *valid = data.split(tiny.train_images, tiny.train_labels, 40)
    parts = [(images, labels), tuple(valid), (tiny.test_images, tiny.test_labels)]
    parts = [
        (
            x[[int(y) in classes for y in t]],
            torch.tensor([classes.index(y) for y in t.tolist() if y in classes]),
        )
        for x, t in parts
    ]
    torch.manual_seed(1)
    model = models.build(some.model)
    history = train.fit(model, *parts[0], some.recipe, valid=parts[1], seed=1, device="cpu", progress=False)
    assert [entry["valid_accuracy"] for entry in result["history"]] == [e["valid_accuracy"] for e in history]
    test = train.evaluate(model, *parts[2], some.recipe, "cpu")
    assert (result["test_accuracy"], result["test_loss"]) == (test.accuracy, test.loss)
    assert result["num_images"] == len(parts[0][0]) < 80 and result["classes"] == [7, 2, 5]
    assert runs.load_logits("tiny-one-seed1").shape == (len(parts[2][0]), 3)
    assert "classes" not in record("tiny-one-seed0")  # a run on all of them says nothing


def interrupt_at(epoch: int, monkeypatch) -> list:
    """The training is stopped while this epoch is looked at, counted from 1; gives the list of the calls."""
    evaluate, calls = train.evaluate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(train, "evaluate", interrupted)
    return calls


def test_an_interrupted_recording_goes_on(tiny, tmp_path, monkeypatch):
    whole = record(folder=tmp_path / "whole")
    calls = interrupt_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        record()
    assert runs.names() == []
    (checkpoint,) = (tmp_path / "cache" / "checkpoints").iterdir()
    assert checkpoint.name == "tiny-one-seed1.pt"
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 2
    # What a kill in the middle of writing leaves beside it is tidied up as well.
    checkpoint.with_name("tiny-one-seed1.pt.4711.tmp").write_bytes(b"half")
    resumed = record()
    assert len(calls) == 4  # one more epoch, no more
    assert list(checkpoint.parent.iterdir()) == []
    for result in (whole, resumed):
        assert all(entry.pop("seconds") > 0 for entry in result["history"])
    assert resumed == whole


def test_a_run_without_validation_says_so(tiny):
    experiment = dataclasses.replace(TINY, held_out=0, fixed_slice=50, keep_logits=False, num_images=70)
    result = record(experiment=experiment)
    assert result["num_images"] == 70 and result["held_out"] == 0
    for entry in result["history"]:
        assert entry["valid_accuracy"] is None
        assert set(entry) == ENTRY | {"slice_loss", "slice_accuracy"}
    with pytest.raises(KeyError, match="tiny-one-seed1.*keeps no logits"):
        runs.load_logits("tiny-one-seed1")


def test_macs_are_counted_at_the_size_that_the_network_sees(tiny):
    recipe = dataclasses.replace(TINY.recipe, resize=12, num_epochs=1)
    result = record(experiment=dataclasses.replace(TINY, recipe=recipe, num_images=50))
    assert result["macs"] == probes.count_macs(models.build(TINY.model), (1, 12, 12))
    assert (result["recipe"]["resize"], result["recipe"]["num_epochs"]) == (12, 1)  # what was trained


def test_what_cannot_work_fails_before_the_training(tiny, tmp_path, monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(runs, "fit", forbidden)
    with pytest.raises(KeyError, match="no run 'tiny-two-seed0'.*tiny-one"):
        record("tiny-two-seed0")
    with pytest.raises(ValueError, match="no device 'gpu'"):
        record(device="gpu")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        record(folder=tmp_path / "file" / "records")


def test_the_commit_and_the_state_of_the_tree_are_git_words(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "records").mkdir(parents=True)
    monkeypatch.setattr(runs, "RECORDS", package / "records")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert runs.source() == {"commit": None, "clean_tree": False}  # not from a checkout

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.invalid"]
        command = ["git", "-C", str(package), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (package / "train.py").write_text("x = 1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    clean = {"commit": git("rev-parse", "HEAD"), "clean_tree": True}
    assert runs.source() == clean
    (package / "records" / "new-seed0.json").write_text("{}")  # a result is not code
    assert runs.source() == clean
    (package / "train.py").write_text("x = 2\n")
    assert runs.source() == {**clean, "clean_tree": False}


# ---------------------------------------------------------------------------------------------------
# Reading


def store(folder, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        runs.save({"name": name, "seed": int(name.rpartition("-seed")[2])}, folder)


def test_an_unknown_record_names_its_neighbours(tmp_path):
    store(tmp_path, "stem-small-seed0", "stem-small-seed1", "other-seed0")
    with pytest.raises(KeyError, match="no record 'stem-small-seed7'.*stem-small-seed0, stem-small-seed1'?"):
        runs.load("stem-small-seed7", tmp_path)
    with pytest.raises(KeyError) as caught:
        runs.load("stem-seed0", tmp_path)
    assert "other" not in str(caught.value)
    with pytest.raises(KeyError, match="there are: other-seed0, stem"):  # nothing is near: all of them
        runs.load("xyz", tmp_path)
    with pytest.raises(KeyError, match="none yet"):
        runs.load("xyz", tmp_path / "missing")
    with pytest.raises(KeyError, match="no record 'stem-large'"):
        runs.load_seeds("stem-large", tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: "../secret",
        lambda f: str(f.parent / "secret"),
        lambda f: "a/../x-seed0",
        lambda f: "./x-seed0",
        lambda f: "",
    ],
)
def test_a_name_is_not_a_path(tmp_path, make):
    folder = tmp_path / "records"
    store(folder, "x-seed0")
    (folder / "a").mkdir()
    (tmp_path / "secret.json").write_text('{"name": "secret"}')
    from safetensors.numpy import save_file

    for path in (tmp_path / "secret.safetensors", folder / "x-seed0.safetensors"):
        save_file({"test_logits": np.zeros((1, 10), np.float16)}, path)
    for read in (runs.load, runs.load_logits):
        with pytest.raises(KeyError, match="record"):
            read(make(folder), folder)
    assert runs.load_logits("x-seed0", folder).shape == (1, 10)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"name": "other-seed0"}', "\udcff"])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "x-seed0.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="x-seed0.json.*record it again"):
        runs.load("x-seed0", tmp_path)


def test_seeds_come_in_the_order_of_numbers_and_of_one_experiment_only(tmp_path):
    store(tmp_path, "a-seed10", "a-seed2", "a-seed0", "a-b-seed1", "aa-seed1")
    assert [found["seed"] for found in runs.load_seeds("a", tmp_path)] == [0, 2, 10]


def test_numbers_of_records_come_one_for_each_seed():
    found = runs.load_seeds("lenet")
    assert runs.last(found, "test_accuracy") == [record["test_accuracy"] for record in found]
    assert runs.last(found, "train_loss") == [record["history"][-1]["train_loss"] for record in found]
    assert runs.curves(found, "train_loss")[1][0] == found[1]["history"][0]["train_loss"]
    assert [len(curve) for curve in runs.curves(found, "seconds")] == [5, 5, 5]
    assert runs.seconds(found)[2] == pytest.approx(sum(e["seconds"] for e in found[2]["history"]))
    with pytest.raises(KeyError, match="test_acc"):
        runs.last(found, "test_acc")


def test_provenance_says_what_differs_between_records_and_says_once_what_does_not():
    one = {
        "num_images": 50_000,
        "history": [{"seconds": 30.0}, {"seconds": 60.0}],
        "hardware": {"device": "a CPU", "threads": 1},
        "recipe": {"autocast": None},
        "versions": {"torch": "2.6"},
        "date": "2026-01-02",
        "commit": "0123456789abcdef",
        "command": "python -m resnetbook train one-seed0",
    }
    assert runs.provenance([one]) == (
        "1 run of 50,000 images, 2 epochs, 90.0 s\n"
        "a CPU, 1 thread, float32\n"
        "recorded on 2026-01-02, torch 2.6, commit 0123456\n"
        "make it again: python -m resnetbook train one-seed0"
    )
    folded = runs.provenance([one | {"date": "<today>"}])._repr_html_()
    assert re.fullmatch(
        r"<details><summary>[^<]+</summary><pre>[^<]+&lt;today&gt;[^<]+</pre></details>", folded
    )
    other = one | {"date": "2026-01-01", "commit": None, "hardware": {"device": "a GPU", "threads": 2}}
    assert runs.provenance([one, other]) == (
        "2 runs of 50,000 images, 2 epochs, 3.0 min in all\n"
        "a CPU and a GPU, 1 and 2 threads, float32\n"
        "recorded on 2026-01-01 and 2026-01-02, torch 2.6, commit 0123456 and unknown\n"
        "make one again: python -m resnetbook train one-seed0"
    )


@pytest.mark.parametrize(
    "name",
    [
        "source-recipe",
        "source-recipe-seed",
        "source-recipe-seed-1",
        "source-recipe-seed1.0",
        "source-recipe-seed01",
        "source-recipe-seed²",
        "source-recipe-seed٣",
        "source-recipe-seed1 ",
        "source-recipe-seed1/../x",
        "source-recipe-Seed1",
        "-seed1",
        "seed1",
        "",
    ],
)
def test_a_malformed_run_name_says_how_names_look(name):
    with pytest.raises(KeyError, match="say EXPERIMENT-seedN with one of source-recipe"):
        runs.experiment_of(name)


def test_a_run_name_is_experiment_and_seed():
    assert runs.experiment_of("source-recipe-seed12") == (
        "source-recipe",
        runs.EXPERIMENTS["source-recipe"],
        12,
    )


def test_mean_and_sample_standard_deviation():
    values = [0.9, 0.92, 0.97]
    assert runs.mean_std(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert runs.mean_std([0.5]) == (0.5, 0.0)


def test_saving_never_leaves_half_a_record(tmp_path, monkeypatch):
    store(tmp_path, "x-seed0")
    before = (tmp_path / "x-seed0.json").read_bytes()
    monkeypatch.setattr(runs.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.save({"name": "x-seed0", "seed": 0, "more": "x" * 1000}, tmp_path)
    assert (tmp_path / "x-seed0.json").read_bytes() == before
    assert runs.names(tmp_path) == ["x-seed0"]


# ---------------------------------------------------------------------------------------------------
# The three modes


def test_recorded_mode_is_the_default_and_trains_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "record", lambda *a, **k: pytest.fail("trained"))
    for value in (None, "", "recorded"):
        if value is not None:
            monkeypatch.setenv("RESNETBOOK_RUNS", value)
        assert runs.obtain("tiny-one", tmp_path / "mine") == runs.RECORDS
    assert not (tmp_path / "mine").exists()


def test_full_mode_records_every_seed_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETBOOK_RUNS", "full")
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    folder = runs.obtain("tiny-one", str(tmp_path / "mine"))
    found = runs.load_seeds("tiny-one", folder)
    assert [r["seed"] for r in found] == [0, 1]
    assert all(r["recipe"]["num_epochs"] == 3 and r["num_images"] == 80 for r in found)
    assert found[0]["test_loss"] == pytest.approx(record("tiny-one-seed0")["test_loss"], rel=1e-3)
    monkeypatch.setattr(runs, "record", lambda *a, **k: pytest.fail("trained again"))
    assert runs.obtain("tiny-one", tmp_path / "mine") == folder


def test_full_mode_goes_on_with_the_missing_seed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETBOOK_RUNS", "full")
    folder = runs.obtain("tiny-one", tmp_path)
    (folder / "tiny-one-seed0.json").unlink()
    before = (folder / "tiny-one-seed1.json").read_bytes()
    runs.obtain("tiny-one", tmp_path)
    assert runs.names(folder) == ["tiny-one-seed0", "tiny-one-seed1"]
    assert (folder / "tiny-one-seed1.json").read_bytes() == before


def test_quick_mode_is_short_and_kept_apart(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETBOOK_RUNS", "quick")
    folder = runs.obtain("tiny-one", tmp_path)
    (found,) = runs.load_seeds("tiny-one", folder)
    assert found["recipe"]["num_epochs"] == 2
    monkeypatch.setenv("RESNETBOOK_RUNS", "full")
    assert runs.obtain("tiny-one", tmp_path) != folder


@pytest.fixture
def sixteen(tiny, monkeypatch) -> Recipe:
    """The experiment asks for bfloat16; the recipe that it asks for."""
    recipe = dataclasses.replace(TINY.recipe, autocast="bfloat16", num_epochs=2)
    monkeypatch.setattr(runs, "EXPERIMENTS", {"tiny-one": dataclasses.replace(TINY, recipe=recipe, seeds=1)})
    return recipe


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, None)])
def test_without_bfloat16_instructions_every_run_is_in_float32_and_says_so(
    sixteen, tmp_path, monkeypatch, capsys, has, expected
):
    """One rule, whoever asks: a notebook, the package, the command line."""
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: has)
    monkeypatch.setenv("RESNETBOOK_RUNS", "full")

    def from_a_notebook() -> dict:
        return runs.load_seeds("tiny-one", runs.obtain("tiny-one", tmp_path))[0]

    def from_the_command_line() -> dict:
        assert main(["train", "tiny-one-seed0", "--device", "cpu", "--again"]) == 0
        return runs.load("tiny-one-seed0")

    for found in (from_a_notebook, lambda: record("tiny-one-seed0"), from_the_command_line):
        assert found()["recipe"] == {**dataclasses.asdict(sixteen), "autocast": expected}
        said = [line for line in capsys.readouterr().out.splitlines() if "float32" in line]
        line = "tiny-one-seed0: float32 instead of bfloat16, for which this cpu has no instructions"
        assert said == ([] if has else [line])


@pytest.mark.parametrize("has_first", [True, False])
def test_a_run_goes_on_as_it_began_on_a_machine_with_other_instructions(
    sixteen, tmp_path, monkeypatch, capsys, has_first
):
    """Colab's next machine may be another one."""
    began = "bfloat16" if has_first else None
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: has_first)
    calls = interrupt_at(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        record("tiny-one-seed0")
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: not has_first)
    capsys.readouterr()
    found = record("tiny-one-seed0")
    assert found["recipe"]["autocast"] == began and len(found["history"]) == 2
    assert len(calls) == 3  # the first epoch was not done again
    said = capsys.readouterr().out
    assert f"tiny-one-seed0: goes on in {began or 'float32'}, as it began" in said
    assert ("slow on this machine; without " in said) == has_first


def test_a_checkpoint_of_another_recipe_is_still_refused(sixteen, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(runs, "save", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        record("tiny-one-seed0")  # its checkpoint stays
    other = dataclasses.replace(TINY, recipe=dataclasses.replace(sixteen, lr=0.3))
    with pytest.raises(ValueError, match="tiny-one-seed0.pt was made with another recipe"):
        record("tiny-one-seed0", experiment=other)


@can_limit
def test_a_record_that_cannot_be_written_costs_no_training(tiny, tmp_path, monkeypatch):
    whole = record(folder=tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    evaluate = runs.evaluate

    def full_from_here(*arguments):
        limit_files(500)
        return evaluate(*arguments)

    monkeypatch.setattr(runs, "evaluate", full_from_here)
    try:
        with pytest.raises(
            OSError, match="cannot write the record of tiny-one-seed1.*File too large"
        ) as caught:
            record()
    finally:
        limit_files(before)
    checkpoint = tmp_path / "cache" / "checkpoints" / "tiny-one-seed1.pt"
    assert f"make room there, and run the same again; it goes on from {checkpoint}" in str(caught.value)
    assert checkpoint.exists() and list(runs.RECORDS.iterdir()) == []
    monkeypatch.setattr(runs, "evaluate", evaluate)
    trained = []
    saved = record(on_epoch=trained.append)
    assert trained == [] and saved["test_loss"] == whole["test_loss"]


def test_many_may_save_one_record_at_once(tmp_path):
    """Each writes aside under a name of its own; with one name the second finds the first one's gone."""
    errors = []

    def save(number: int) -> None:
        try:
            for _ in range(50):
                runs.save({"name": "x-seed0", "seed": 0, "by": number, "more": "y" * 10_000}, tmp_path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in tmp_path.iterdir()] == ["x-seed0.json"]
    assert runs.load("x-seed0", tmp_path)["by"] in range(4)


def test_a_full_run_goes_on_from_its_checkpoint_in_the_folder_that_the_switch_names(
    tiny, tmp_path, monkeypatch
):
    """In Colab that folder is on Google Drive, and is all that is left of the machine before."""
    calls = interrupt_at(3, monkeypatch)
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    runs.use("full", folder=tmp_path / "drive")
    with pytest.raises(KeyboardInterrupt):
        runs.obtain("tiny-one")
    checkpoint = tmp_path / "drive" / "full" / "tiny-one-seed0.pt"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [checkpoint]
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "another machine"))
    folder = runs.obtain("tiny-one")
    assert [found["seed"] for found in runs.records("tiny-one")] == [0, 1]
    assert len(calls) == 3 + 1 + 3  # an epoch of the first seed, and all of the second
    assert folder == tmp_path / "drive" / "full" and not checkpoint.exists()
    assert [found["seed"] for found in runs.load_seeds("tiny-one", folder)] == [0, 1]


def test_the_switch_in_a_notebook_holds_over_the_environment_and_can_be_turned_again(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETBOOK_RUNS", "full")
    for mode, expected in (("quick", "quick"), ("recorded", "recorded"), (None, "full"), ("quick", "quick")):
        runs.use(mode)
        assert runs.mode() == expected
    with pytest.raises(ValueError, match="one of recorded, quick, full, got 'fast'"):
        runs.use("fast")
    assert runs.mode() == "quick"  # what was refused has changed nothing


def test_own_runs_are_kept_where_the_switch_says(tiny, tmp_path):
    runs.use("quick", folder=tmp_path / "drive")
    folder = runs.obtain("tiny-one")
    assert folder == tmp_path / "drive" / "quick"
    assert runs.names(folder) == ["tiny-one-seed0"]


def test_a_wrong_mode_or_experiment_says_what_there_is(tiny, tmp_path, monkeypatch):
    with pytest.raises(KeyError, match="tiny-one"):
        runs.obtain("tiny-two", tmp_path)
    monkeypatch.setenv("RESNETBOOK_RUNS", "fast")
    with pytest.raises(ValueError, match="RESNETBOOK_RUNS must be one of recorded, quick, full, got 'fast'"):
        runs.obtain("tiny-one", tmp_path)


# ---------------------------------------------------------------------------------------------------
# What the book ships


def test_the_records_folder_holds_records_and_their_logits_only():
    names = runs.names()
    assert names
    for path in runs.RECORDS.rglob("*"):
        assert path.stat().st_size < 2_000_000, path.name
        others = (runs.RECORDS / "bench", runs.RECORDS / "studies")
        if path.parent in others:  # what they hold is for test_bench.py and test_studies.py
            assert path.suffix == ".json", path.name
        elif path not in others:
            assert path.parent == runs.RECORDS, path
            assert path.stem in names and path.suffix in (".json", ".safetensors"), path.name


def test_the_weights_folder_holds_what_is_kept_of_the_records_and_nothing_else():
    kept = [name for name in runs.names() if runs.experiment_of(name)[1].keep_weights]
    assert kept
    assert sorted(path.name for path in models.WEIGHTS.iterdir()) == [f"{name}.safetensors" for name in kept]
    assert all(path.stat().st_size < 2_000_000 for path in models.WEIGHTS.iterdir())


def known_classes(found: dict) -> list[int]:
    return found.get("classes", list(range(10)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in runs.names() if runs.experiment_of(n)[1].keep_weights])
def test_a_kept_network_has_the_accuracy_of_its_record(name, dataset):
    found = runs.load(name)
    model = models.trained(found["experiment"], found["seed"])
    recipe = Recipe.from_dict(found["recipe"])
    test = train.evaluate(
        model, *data.of_classes(dataset.test_images, dataset.test_labels, known_classes(found)), recipe, "cpu"
    )
    # Another processor rounds otherwise, and moves the image or two that stand on the edge.
    assert test.accuracy == pytest.approx(found["test_accuracy"], abs=5e-4)
    assert test.loss == pytest.approx(found["test_loss"], rel=1e-3)


def finite(value) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@pytest.mark.parametrize("name", runs.names())
def test_a_committed_record_is_whole(name):
    found = runs.load(name)
    assert KEYS <= set(found)
    experiment_name, experiment, seed = runs.experiment_of(name)
    assert (found["name"], found["experiment"], found["seed"]) == (name, experiment_name, seed)
    assert found["command"] == f"python -m resnetbook train {name}"
    assert re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    assert found["clean_tree"] is True
    assert datetime.date.fromisoformat(found["date"]).year >= 2015
    assert found["hardware"]["device"] and found["hardware"]["threads"] >= 1
    assert {"python", "torch", "torchvision"} <= set(found["versions"])
    assert found["held_out"] == experiment.held_out
    assert found.get("classes") == (experiment.classes and list(experiment.classes))
    there = (60_000 - experiment.held_out) * len(known_classes(found)) // 10
    assert found["num_images"] == min(experiment.num_images or 60_000, there)

    history = found["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, found["recipe"]["num_epochs"] + 1))
    for entry in history:
        assert ENTRY <= set(entry)
        assert finite(entry["train_loss"]) and entry["train_loss"] >= 0 and entry["seconds"] > 0
        assert 0 <= entry["train_accuracy"] <= 1
        assert (entry["valid_accuracy"] is None) == (found["held_out"] == 0)
        assert entry["valid_accuracy"] is None or 0 <= entry["valid_accuracy"] <= 1
        assert ("slice_loss" in entry) == ("slice_accuracy" in entry) == bool(experiment.fixed_slice)
    assert 0 <= found["test_accuracy"] <= 1 and finite(found["test_loss"])
    images = (experiment.num_test or 1_000 * len(known_classes(found))) * found["test_accuracy"]
    assert images == pytest.approx(round(images), abs=1e-2)  # a share of whole images


@pytest.mark.parametrize("name", runs.names())
def test_a_committed_records_counts_are_those_of_its_model(name):
    found = runs.load(name)
    with torch.device("meta"):  # shapes without numbers
        model = models.build(found["model"])
    side = found["recipe"]["resize"] or 28
    assert found["parameters"] == probes.count_parameters(model)
    assert found["macs"] == probes.count_macs(model, (1, side, side))


@pytest.mark.parametrize("name", runs.names())
def test_a_committed_record_is_of_the_experiment_as_it_is_now(name):
    """Otherwise the command that the runs appendix shows would train something else."""
    found = runs.load(name)
    _, experiment, _ = runs.experiment_of(name)
    assert found["model"] == experiment.model
    assert Recipe.from_dict(found["recipe"]) == experiment.recipe
    # A field that is younger than the record has the value that does what was done then: its default.
    younger = dataclasses.asdict(Recipe()).keys() - found["recipe"].keys()
    assert younger <= {"accumulate", "ema", "flip_test"}
    now = json.loads(json.dumps(dataclasses.asdict(experiment.recipe)))
    assert found["recipe"] == {field: value for field, value in now.items() if field not in younger}


def test_committed_logits_give_the_recorded_accuracy(dataset):
    for name in runs.names():
        _, experiment, _ = runs.experiment_of(name)
        assert (runs.RECORDS / f"{name}.safetensors").exists() == experiment.keep_logits, name
        if not experiment.keep_logits:
            continue
        found = runs.load(name)
        stored = runs.load_logits(name)
        assert stored.dtype == np.float16 and stored.shape == (10_000, 10), name
        assert np.isfinite(stored).all(), name
        logits = torch.from_numpy(stored).float()
        accuracy = (logits.argmax(1) == dataset.test_labels).double().mean().item()
        # Rounding to float16 can swap the two largest only where they are now equally large, or neighbours.
        top = logits.topk(2).values
        close = top[:, 0] - top[:, 1] <= 2.0**-10 * top.abs().amax(1)
        assert abs(accuracy - found["test_accuracy"]) <= close.double().mean().item() + 1e-6, name
        assert F.cross_entropy(logits, dataset.test_labels).item() == pytest.approx(
            found["test_loss"], rel=2e-3
        ), name


def test_records_need_no_data_and_no_training_to_be_read(tmp_path):
    """A page that replays records works without the data set, and in a folder of its own."""
    script = (
        "from resnetbook import data, runs\n"
        "data.fashion_mnist = None\n"
        "print(len([runs.load(name) for name in runs.names()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(runs.names())


def test_a_run_is_compared_with_the_books():
    found = runs.load_seeds("epochs-5")
    same = runs.compare("epochs-5", found[0])
    assert same.inside
    assert (same.seeds, same.differs) == (5, ())
    assert str(same).startswith("inside: ")
    # A name of a run means its experiment.
    assert runs.compare("epochs-5-seed3", found[0]) == same
    assert str(runs.compare("epochs-5", 0.5)).startswith("outside: 0.5000")
    assert "another seed" in str(runs.compare("epochs-5", 0.5))


def test_where_a_run_lies_outside_it_says_where_to_look():
    mine = json.loads(json.dumps(runs.load("epochs-5-seed0")))
    mine["test_accuracy"] = 0.91
    mine["recipe"] |= {"lr": 0.02, "channels_last": False}
    mine["num_images"] = 6_000
    found = runs.compare("epochs-5", mine)
    assert not found.inside
    book = runs.load("epochs-5-seed0")
    assert found.differs == (
        f"- the recipe's lr is 0.02, in the book {book['recipe']['lr']}",
        "- the recipe's channels_last is False, in the book True",
        "- the number of training images is 6000, in the book 60000",
    )
    assert "Look at:\n- the recipe's lr" in str(found)


def test_an_old_record_is_no_other_recipe():
    """ResNet-20 of chapter 7 was trained by chapter 2's recipe, when recipes said more."""
    differs = runs.compare("degradation-residual-20", runs.load("resnet-20-seed0")).differs
    assert [line for line in differs if "recipe" in line or "model" in line] == []


@pytest.mark.parametrize(
    ("name", "mine", "error", "words"),
    [
        ("epochs-6", 0.9, KeyError, "epochs-5"),
        ("resnet-56", 0.9, ValueError, "one seed"),
        ("epochs-5", 93.7, ValueError, "between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(name, mine, error, words):
    with pytest.raises(error, match=words):
        runs.compare(name, mine)
