"""A recipe: what it refuses, and what it says."""

import dataclasses
import math

import pytest
import torch

from resnetbook.recipe import Recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be a whole number of at least 1, got 0"),
        ({"num_epochs": -3}, "num_epochs.*at least 1, got -3"),
        ({"num_epochs": 1.5}, "num_epochs.*whole number.*got 1.5"),
        ({"num_epochs": True}, "num_epochs.*whole number.*got True"),
        ({"num_epochs": "10"}, "num_epochs.*whole number.*got '10'"),
        ({"num_epochs": None}, "num_epochs.*whole number.*got None"),
        ({"batch_size": 0}, "batch_size.*at least 1"),
        ({"batch_size": 32.0}, "batch_size.*whole number.*32.0"),
        ({"accumulate": 0}, "accumulate.*at least 1"),
        ({"accumulate": 2.0}, "accumulate.*whole number"),
        ({"accumulate": 129}, "accumulate must be at most batch_size 128, got 129"),
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"lr": -0.1}, "lr must be a positive number"),
        ({"lr": math.nan}, "lr must be a positive number, got nan"),
        ({"lr": math.inf}, "lr must be a positive number, got inf"),
        ({"lr": "0.1"}, "lr must be a positive number, got '0.1'"),
        ({"lr": True}, "lr must be a positive number, got True"),
        ({"lr": None}, "lr must be a positive number, got None"),
        ({"momentum": -0.1}, "momentum must be a number of at least 0 and below 1"),
        ({"momentum": 1.0}, "momentum.*below 1"),
        ({"momentum": math.nan}, "momentum.*got nan"),
        ({"weight_decay": -1e-4}, "weight_decay must be a number of at least 0"),
        ({"weight_decay": math.inf}, "weight_decay.*got inf"),
        ({"weight_decay": math.nan}, "weight_decay.*got nan"),
        ({"schedule": "linear"}, "schedule must be one of 'constant', 'cosine', 'onecycle', got 'linear'"),
        ({"schedule": None}, "schedule must be one of"),
        ({"schedule": ["cosine"]}, "schedule must be one of"),
        ({"warmup_steps": -1}, "warmup_steps.*at least 0"),
        ({"warmup_steps": 0.5}, "warmup_steps.*whole number"),
        ({"label_smoothing": 1.1}, "label_smoothing must be a number between 0 and 1, got 1.1"),
        ({"label_smoothing": math.nan}, "label_smoothing.*got nan"),
        ({"initialization": "he"}, "initialization must be one of 'model', 'xavier'"),
        ({"normalize": 1}, "normalize must be True or False, got 1"),
        ({"nesterov": "no"}, "nesterov must be True or False"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"flip": 0.5}, "flip must be True or False"),
        ({"flip_test": None}, "flip_test must be True or False"),
        ({"ema": 1.0}, "ema must be a number of at least 0 and below 1, got 1.0"),
        ({"ema": -0.1}, "ema.*at least 0"),
        ({"ema": "0.9"}, "ema.*got '0.9'"),
        ({"channels_last": None}, "channels_last must be True or False"),
        ({"resize": 0}, "resize.*at least 1"),
        ({"resize": 96.0}, "resize.*whole number"),
        ({"resize": (96, 96)}, "resize.*whole number"),
        ({"shift": -1}, "shift.*at least 0"),
        ({"shift": 1.5}, "shift.*whole number"),
        ({"erase": -0.1}, "erase must be a number between 0 and 1"),
        ({"erase": 2}, "erase must be a number between 0 and 1"),
        ({"autocast": "fp16"}, "autocast must be one of None, 'bfloat16', 'float16', got 'fp16'"),
        ({"autocast": True}, "autocast must be one of"),
        ({"autocast": torch.bfloat16}, "autocast must be one of"),
    ],
)
def test_a_wrong_recipe_says_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(options)


def test_the_table_above_knows_every_field():
    """A new field needs a wrong value there."""
    (mark,) = [m for m in test_a_wrong_recipe_says_what_is_allowed.pytestmark if m.name == "parametrize"]
    tried = {name for options, _ in mark.args[1] for name in options}
    assert tried == {field.name for field in dataclasses.fields(Recipe)}


def test_a_recipe_comes_back_from_its_dictionary():
    recipe = Recipe(num_epochs=3, resize=96, autocast="bfloat16", nesterov=True, erase=0.25)
    assert Recipe.from_dict(dataclasses.asdict(recipe)) == recipe
    with pytest.raises(ValueError, match="unknown recipe field 'learning_rate'; the fields are num_epochs"):
        Recipe.from_dict({"lr": 0.1, "learning_rate": 0.1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_epochs": 1}, "1 epoch of SGD, batches of 128, learning rate 0.1"),
        ({"batch_size": 64}, "10 epochs of SGD, batches of 64"),
        ({"accumulate": 4}, "each batch in 4 parts"),
        ({"lr": 0.05}, "learning rate 0.05 (falling to 0 along a cosine)"),
        ({"momentum": 0.0}, "no momentum"),
        ({"nesterov": True}, "Nesterov"),
        ({"weight_decay": 0.0}, "no weight decay"),
        ({"schedule": "onecycle"}, "learning rate 0.1 (one cycle)"),
        ({"warmup_steps": 1_407}, "warm-up over 1,407 steps"),
        ({"label_smoothing": 0.1}, "label smoothing 0.1"),
        ({"initialization": "xavier"}, "Xavier initialization"),
        ({"normalize": False}, "not normalized"),
        ({"resize": 96}, "images resized to 96×96"),
        ({"flip": True}, "half of the training images mirrored"),
        ({"shift": 1}, "shifted by up to 1 pixel"),
        ({"erase": 0.5}, "hidden with probability 0.5"),
        ({"ema": 0.9}, "moving average of the weights with decay 0.9"),
        ({"flip_test": True}, "mirror image"),
        ({"channels_last": True}, "channels-last memory"),
        ({"autocast": "bfloat16"}, "bfloat16"),
    ],
)
def test_what_differs_from_the_default_is_said(options, words):
    plain, told = Recipe().in_words(), Recipe(**options).in_words()
    assert words in told and words not in plain
    # Nothing else is: the parts are those of the default, but for one.
    assert len(set(told.rstrip(".").split(", ")) - set(plain.rstrip(".").split(", "))) == 1


def test_the_words_know_every_field():
    """A new field needs words."""
    (mark,) = [m for m in test_what_differs_from_the_default_is_said.pytestmark if m.name == "parametrize"]
    tried = {name for options, _ in mark.args[1] for name in options}
    assert tried == {field.name for field in dataclasses.fields(Recipe)}
