"""The benchmark measures what its labels say, and leaves no trace."""

import dataclasses
import os
import statistics

import pytest
import torch
from conftest import small_net

from resnetbook import bench, data, models, runs


@pytest.fixture
def cells(monkeypatch):
    """Instead of training: a clock that advances by what each contestant is said to take."""
    recipes = []

    def ours(num_batches, recipe, device, loaded):
        recipes.append(recipe)
        seconds = iter([100.0, 0.5, 2.0])
        return lambda: next(seconds)

    def theirs(side, num_batches, recipe, device):
        recipes.append(recipe)
        seconds = iter([50.0, 1.0, 8.0])
        return lambda: next(seconds)

    monkeypatch.setattr(bench, "_our_contestant", ours)
    monkeypatch.setattr(bench, "_d2l_contestant", theirs)
    return recipes


def test_the_first_round_does_not_count_and_ratios_are_taken_round_by_round(toy, cells):
    result = bench.measure(side=28, batch_size=4, num_batches=2, rounds=2, device="cpu")
    base, *ours = result["contestants"].values()
    assert base["images_per_second"] == [8.0, 1.0]
    assert base["ratio"] == 1.0
    for entry in ours:
        assert entry["images_per_second"] == [16.0, 4.0]
        assert entry["median"] == statistics.median([16.0, 4.0])
        assert entry["ratio"] == statistics.median([2.0, 4.0])
    table = bench.table(result)
    assert "28×28, batches of 4" in table and "medians of 2 rounds" in table
    assert all(name in table for name in result["contestants"])


def test_the_labels_tell_what_is_measured(toy, cells):
    result = bench.measure(side=28, batch_size=4, num_batches=1, rounds=1, device="cpu")
    for name, recipe in zip(result["contestants"], cells, strict=True):
        expected = {
            "channels_last": "channels-last" in name,
            "autocast": "bfloat16" if "bfloat16" in name or "bf16" in name else None,
            "lr": 0.05,
            "momentum": 0.0,
            "resize": None,
            "batch_size": 4,
        }
        assert {key: getattr(recipe, key) for key in expected} == expected, name


def test_d2ls_contestant_takes_d2ls_steps(dataset, monkeypatch):
    """Its hand-copied loop ends at the weights of the book's own loop, from d2l's loader."""
    from d2l import torch as d2l

    recipe = dataclasses.replace(
        runs.EXPERIMENTS["source-recipe"].recipe, num_epochs=1, batch_size=4, resize=None, autocast=None
    )
    torch.manual_seed(0)
    net, loaded = small_net(), [(torch.rand(4, 1, 8, 8), torch.arange(4)) for _ in range(5)]
    other = small_net()
    other.load_state_dict(net.state_dict())
    monkeypatch.setattr(models, "d2l_resnet18", lambda: net)
    monkeypatch.setattr(d2l, "load_data_fashion_mnist", lambda *a, **k: (loaded, None))
    assert bench._d2l_contestant(28, 3, recipe, torch.device("cpu"))() > 0
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    for x, y in loaded[:3]:  # three steps, as asked for, though the loader has five batches
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(other(x), y).backward()
        optimizer.step()
    for (name, a), b in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_d2l_finds_the_data_without_a_download_and_the_working_folder_is_put_back(dataset, monkeypatch):
    monkeypatch.setattr(data, "_download", lambda *a: pytest.fail("touched the network"))
    here = os.getcwd()
    with pytest.raises(RuntimeError, match="on purpose"), bench._d2l_folder():
        inside = os.getcwd()
        assert inside != here
        assert sorted(os.listdir("../data/FashionMNIST/raw")) == sorted(data.SHA256)
        raise RuntimeError("on purpose")
    assert os.getcwd() == here and not os.path.exists(inside)


def test_a_real_run_in_miniature(dataset):
    before = os.getcwd()
    result = bench.measure(side=28, batch_size=4, num_batches=1, rounds=1, device="cpu")
    assert len(result["contestants"]) >= 3
    for entry in result["contestants"].values():
        assert len(entry["images_per_second"]) == 1
        assert entry["images_per_second"][0] == entry["median"] > 0
        assert entry["ratio"] > 0
    assert next(iter(result["contestants"].values()))["ratio"] == 1
    assert result["hardware"]["device"] and result["versions"]["torch"] == torch.__version__
    assert os.getcwd() == before


@pytest.mark.parametrize("name", ["side", "batch_size", "num_batches", "rounds"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_counts_must_be_whole_and_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value!r}"):
        bench.measure(**{name: value})
