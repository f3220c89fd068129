"""A recipe: how a network is trained, checked when it is made, and said in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from resnetbook._arguments import check_whole

_CHOICES = {
    "schedule": ("constant", "cosine", "onecycle"),
    "initialization": ("model", "xavier"),
    "autocast": (None, "bfloat16", "float16"),
}


@dataclass(frozen=True)
class Recipe:
    """How to train. Every field is recorded with the run.

    Attributes:
        num_epochs: passes over the training images.
        batch_size: images per step; the last, smaller batch of an epoch is used too.
        accumulate: parts that a batch is computed in, one after the other, to save memory; their
            gradients are added up to that of the whole batch's mean loss. Batch normalization sees
            the parts, not the batch.
        lr: the (largest) learning rate of SGD.
        momentum: of SGD, at least 0 and below 1.
        nesterov: look ahead along the momentum, which must not be 0.
        weight_decay: of SGD, on every parameter.
        schedule: ``constant``; ``cosine`` to 0; or ``onecycle`` (up over 30 % of the steps, then
            down, both linear).
        warmup_steps: steps over which the learning rate rises linearly first.
        label_smoothing: share of the target spread over all classes.
        initialization: ``model`` keeps that of the model; ``xavier`` is d2l's: Xavier uniform
            for the weights of convolutions and linear layers.
        normalize: subtract the training set's mean and divide by its standard deviation.
        resize: side in pixels that images are scaled to (bilinear); ``None`` keeps them.
        flip: mirror half of the training images.
        shift: move training images by up to this many pixels, filling with black.
        erase: probability of hiding a random rectangle (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        ema: decay per step of an exponential moving average of weights and batch-norm statistics
            (Polyak & Juditsky 1992, https://doi.org/10.1137/0330046, took the plain average), at
            least 0 and below 1. It is what is evaluated, and what the model ends with; 0 keeps none.
        flip_test: evaluate each image and its mirror image, and take the mean of both logits.
        channels_last: memory format of images and weights; Apple's MPS always gets contiguous ones.
        autocast: ``None`` for float32, or ``bfloat16``, or ``float16`` (with loss scaling).

    Raises:
        ValueError: for a value that makes no sense; the message says what is allowed.
    """

    num_epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    initialization: str = "model"
    normalize: bool = True
    resize: int | None = None
    flip: bool = False
    shift: int = 0
    erase: float = 0.0
    ema: float = 0.0
    flip_test: bool = False
    channels_last: bool = False
    autocast: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name in ("nesterov", "normalize", "flip", "flip_test", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        whole = {
            "num_epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
            "warmup_steps": 0,
            "shift": 0,
            "resize": 1,
        }
        for name, least in whole.items():
            if name == "resize" and self.resize is None:
                continue
            check_whole(least, **{name: getattr(self, name)})
            # A plain number: NumPy's could not be read back from a checkpoint or a record.
            object.__setattr__(self, name, int(getattr(self, name)))
        allowed = {
            "lr": (lambda x: 0 < x < math.inf, "a positive number"),
            "momentum": (lambda x: 0 <= x < 1, "a number of at least 0 and below 1"),
            "ema": (lambda x: 0 <= x < 1, "a number of at least 0 and below 1"),
            "weight_decay": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
            "label_smoothing": (lambda x: 0 <= x <= 1, "a number between 0 and 1"),
            "erase": (lambda x: 0 <= x <= 1, "a number between 0 and 1"),
        }
        for name, (fits, words) in allowed.items():
            value = getattr(self, name)
            # Not a number (NaN) fails every comparison.
            if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
                raise ValueError(f"{name} must be {words}, got {value!r}")
            object.__setattr__(self, name, float(value))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got 0")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate must be at most batch_size {self.batch_size}, got {self.accumulate}"
            )

    @classmethod
    def from_dict(cls, fields: dict) -> Recipe:
        """A recipe from a record's ``recipe`` entry.

        Raises:
            ValueError: if a field is unknown, or its value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise ValueError(f"unknown recipe field {unknown[0]!r}; the fields are {', '.join(known)}")
        return cls(**fields)

    def in_words(self) -> str:
        """The recipe as a sentence: its SGD, and whatever else differs from the default."""
        words = [f"{_count(self.num_epochs, 'epoch')} of SGD, batches of {self.batch_size}"]
        words.append(f"learning rate {self.lr} ({_SCHEDULES[self.schedule]})")
        words.append(f"momentum {self.momentum}" if self.momentum else "no momentum")
        words.append(f"weight decay {self.weight_decay}" if self.weight_decay else "no weight decay")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _WORDS and value != field.default:
                words.append(_WORDS[field.name](value))
        return ", ".join(words) + "."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_SCHEDULES = {"constant": "constant", "cosine": "falling to 0 along a cosine", "onecycle": "one cycle"}
# What is said of a field that differs from its default; the others are in every sentence.
_WORDS: dict[str, Callable[..., str]] = {
    "accumulate": lambda parts: f"each batch in {parts} parts",
    "nesterov": lambda _: "Nesterov's form of momentum",
    "warmup_steps": lambda steps: f"warm-up over {_count(steps, 'step')}",
    "label_smoothing": lambda share: f"label smoothing {share}",
    "initialization": lambda _: "Xavier initialization",
    "normalize": lambda _: "pixels from 0 to 1 (not normalized)",
    "resize": lambda side: f"images resized to {side}×{side}",
    "flip": lambda _: "half of the training images mirrored",
    "shift": lambda pixels: f"training images shifted by up to {_count(pixels, 'pixel')}",
    "erase": lambda share: f"a rectangle of a training image hidden with probability {share}",
    "ema": lambda decay: f"moving average of the weights with decay {decay}",
    "flip_test": lambda _: "tested on each image and its mirror image",
    "channels_last": lambda _: "channels-last memory",
    "autocast": str,
}
