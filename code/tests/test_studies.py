"""Studies: measured once, recorded with their origin, made again by one command."""

import datetime
import json
import re

import pytest
import torch

from resnetbook import runs, studies
from resnetbook.__main__ import main
from resnetbook.studies import Study


@pytest.fixture
def one(tmp_path, monkeypatch):
    """A book that knows one study, and keeps its records in ``tmp_path``."""
    calls = []

    def measure(seed: int) -> dict:
        calls.append(seed)
        return {"accuracy": [0.5, 0.25 + seed]}

    monkeypatch.setattr(studies, "STUDIES", {"one": Study(measure, 2, "What it is about.")})
    monkeypatch.setattr(studies, "RECORDS", tmp_path / "studies")
    return calls


def test_a_record_comes_back_as_it_was_made(one):
    made = studies.record("one-seed1")
    assert one == [1] and studies.names() == ["one-seed1"]
    assert studies.load("one-seed1") == made
    assert made["result"] == {"accuracy": [0.5, 1.25]}
    assert (made["name"], made["study"], made["seed"]) == ("one-seed1", "one", 1)
    assert made["command"] == "python -m resnetbook measure one-seed1"
    assert made["date"] == datetime.datetime.now(datetime.UTC).date().isoformat()
    assert made["versions"]["torch"] == torch.__version__
    assert made["hardware"]["threads"] == torch.get_num_threads()
    assert made["seconds"] > 0 and {"commit", "clean_tree"} <= set(made)


def test_seeds_come_in_their_order_and_say_where_they_come_from(one):
    for seed in (10, 2):
        studies.record(f"one-seed{seed}")
    found = studies.load_seeds("one")
    assert [record["seed"] for record in found] == [2, 10]
    words = studies.provenance(found)
    assert words.endswith("make one again: python -m resnetbook measure one-seed2")
    assert found[0]["date"] in words and found[0]["hardware"]["device"] in words
    assert studies.provenance(found[:1]).endswith("make it again: python -m resnetbook measure one-seed2")


@pytest.mark.parametrize("name", ["two-seed0", "one", "one-seed", "one-seed01", "one-seed٣", "one-seed-1"])
def test_only_known_names_are_measured(one, name):
    with pytest.raises(KeyError, match="say STUDY-seedN with one of one"):
        studies.record(name)
    assert not one


def test_what_is_not_recorded_is_said(one):
    with pytest.raises(KeyError, match="no record 'one-seed0'"):
        studies.load("one-seed0")
    with pytest.raises(KeyError, match="no record 'one'"):
        studies.load_seeds("one")


def test_the_command_measures_once_and_again_on_request(one, capsys):
    for arguments in (["measure", "--list"], ["measure"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == "one-seed0 … seed1: What it is about.\n"
    assert main(["measure", "one-seed0"]) == 0
    assert re.fullmatch(r"one-seed0: measured in \d+\.\d s\n", capsys.readouterr().out)
    assert main(["measure", "one-seed0"]) == 0
    assert "recorded already (--again measures it once more)" in capsys.readouterr().out
    assert main(["measure", "one-seed0", "--again"]) == 0
    assert one == [0, 0]


def test_a_wrong_argument_fails_before_anything_is_measured(one, capsys):
    assert main(["measure", "one-seed0", "two-seed0"]) == 1
    assert "no study 'two-seed0': say STUDY-seedN with one of one" in capsys.readouterr().err
    assert main(["measure", "one-seed0", "--threads", "0"]) == 1
    assert "--threads must be at least 1" in capsys.readouterr().err
    assert not one


def test_threads_are_set(one, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert main(["measure", "one-seed0", "--threads", "3"]) == 0
    assert asked == [3]


# ---------------------------------------------------------------------------------------------------
# What the book ships


def test_every_study_is_told_and_named():
    for name, study in studies.STUDIES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert study.about.endswith(".") and study.seeds >= 1
        assert name not in runs.EXPERIMENTS  # one name, one thing


@pytest.mark.parametrize("name", studies.names())
def test_a_committed_record_is_whole(name):
    found = studies.load(name)
    study, _, seed = studies.study_of(name)
    assert (found["name"], found["study"], found["seed"]) == (name, study, seed)
    assert found["command"] == f"python -m resnetbook measure {name}"
    assert re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    assert found["clean_tree"] is True
    assert found["result"] and found["seconds"] > 0
    assert found["hardware"]["device"] and found["hardware"]["threads"] >= 1
    # Numbers that JSON has: no NaN, no infinity.
    json.dumps(found, allow_nan=False)
