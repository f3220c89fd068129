"""What the book trains: each can be built and found by its name."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

from resnetbook import data, experiments, models, probes, runs
from resnetbook.experiments import EXPERIMENTS, Experiment, like
from resnetbook.recipe import Recipe
from resnetbook.transforms import prepare


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_built_and_trained(name):
    experiment = EXPERIMENTS[name]
    model = models.build(experiment.model)
    side = experiment.recipe.resize or 28
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert prepare(images, experiment.recipe).shape == (2, 1, side, side)
    assert probes.shapes(model, (1, side, side)).popitem()[1] == (1, len(experiment.classes or data.CLASSES))
    # A result is a mean with its spread; a network that one looks into is one.
    assert experiment.seeds >= 3 or experiment.keep_weights
    assert experiment.about.endswith(".")
    assert runs.experiment_of(f"{name}-seed0")[0] == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_quick_form_of_every_experiment_is_short_and_keeps_its_shape(name):
    whole, quick = EXPERIMENTS[name], EXPERIMENTS[name].quick()
    assert quick.model == whole.model and quick.recipe.lr == whole.recipe.lr
    assert quick.recipe.num_epochs <= 2 and quick.num_images <= 12_800 and quick.num_test == 1_000
    assert quick.held_out <= 1_000 and quick.fixed_slice <= 1_000
    steps = math.ceil(quick.num_images / quick.recipe.batch_size) * quick.recipe.num_epochs
    share = len(whole.classes or data.CLASSES) / 10
    all_images = (whole.num_images or (60_000 - whole.held_out) * share) * whole.recipe.num_epochs
    share = whole.recipe.warmup_steps * whole.recipe.batch_size / all_images
    assert quick.recipe.warmup_steps / steps == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("decay", "images"), [(0.999, 60_000), (0.9, 6_000), (0.5, 60_000), (0.0, 60_000)])
def test_the_quick_form_of_a_moving_average_looks_back_over_the_same_share_of_the_steps(decay, images):
    recipe = Recipe(num_epochs=4, batch_size=100, ema=decay)
    whole = Experiment({}, recipe, held_out=0, num_images=images, quick_images=1_000)
    quick = whole.quick().recipe
    steps_back = 1 / (1 - decay) * (1_000 * 2) / (images * 4) if decay else 1
    # It can look back over one step at least: that is no average.
    assert 1 / (1 - quick.ema) == pytest.approx(max(1, steps_back))


def test_every_name_stands_in_the_source():
    source = Path(experiments.__file__).read_text(encoding="utf-8")
    defined = re.findall(r'^EXPERIMENTS\["([^"]+)"\] = ', source, re.M)
    assert defined == list(EXPERIMENTS)  # each once, and none made up on the way


def test_like_changes_what_is_named_and_nothing_else():
    base = Experiment({"family": "cifar", "depth": 8}, Recipe(lr=0.3, flip=True), held_out=7, about="A.")
    changed = like(base, model={"depth": 14, "width": 2}, lr=0.2, seeds=5)
    assert changed == dataclasses.replace(
        base, model={"family": "cifar", "depth": 14, "width": 2}, recipe=Recipe(lr=0.2, flip=True), seeds=5
    )
    assert base.model == {"family": "cifar", "depth": 8} and like(base) == base
    with pytest.raises(TypeError, match="learning_rate"):
        like(base, learning_rate=0.1)
    with pytest.raises(ValueError, match="lr must be a positive number"):
        like(base, lr=0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_told_in_words(name):
    experiment = EXPERIMENTS[name]
    recipe, model = experiment.recipe.in_words(), models.in_words(experiment.model)
    assert f"{experiment.recipe.num_epochs} epoch" in recipe and str(experiment.recipe.lr) in recipe
    # No option is without words of its own: those would be listed as they are.
    assert not re.search("_|None|False|True", recipe + model)
