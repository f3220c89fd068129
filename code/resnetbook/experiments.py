"""What the book trains: every experiment by its name, each told by what differs from another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from resnetbook import data
from resnetbook.recipe import Recipe


@dataclass(frozen=True)
class Experiment:
    """What the book trains, for every seed: a model, a recipe, and what is kept.

    Attributes:
        model: for ``models.build``.
        recipe: how to train.
        seeds: how many, counted from 0.
        held_out: training images kept aside for validation; 0 keeps none aside.
        num_images: train on the first so many of the rest; ``None`` trains on all of it.
        num_test: test images read at the end; ``None`` reads all of them.
        fixed_slice: training images evaluated after every epoch in evaluation mode.
        keep_logits: store the test logits beside the record.
        keep_weights: store the trained network, its weights rounded to float16 before the test.
        quick_images: how many images the ``quick`` mode trains on.
        classes: train and test on the images of these classes alone, with labels from 0 on in this order;
            ``None`` takes all. Aside is kept before: the same images whatever the classes.
        about: one sentence for the runs appendix.
    """

    model: dict
    recipe: Recipe
    seeds: int = 3
    held_out: int = 10_000
    num_images: int | None = None
    num_test: int | None = None
    fixed_slice: int = 0
    keep_logits: bool = False
    keep_weights: bool = False
    quick_images: int = 1_000
    classes: tuple[int, ...] | None = None
    about: str = field(default="", kw_only=True)

    def quick(self) -> Experiment:
        """A short form of the same shape, to see it train in a minute or two."""
        num_epochs = min(2, self.recipe.num_epochs)
        # The same share of the steps, as near as whole steps allow.
        all_images = data.SHAPES["train-images-idx3-ubyte"][0] - self.held_out
        if self.classes is not None:  # the classes are equally large
            all_images = all_images * len(self.classes) // len(data.CLASSES)
        num_images = self.num_images or all_images
        shorter = self.quick_images * num_epochs / (num_images * self.recipe.num_epochs)
        # An average with the decay d looks back over about 1 / (1 - d) steps.
        decay = max(0.0, 1 - (1 - self.recipe.ema) / shorter) if self.recipe.ema else 0.0
        recipe = dataclasses.replace(
            self.recipe,
            num_epochs=num_epochs,
            warmup_steps=round(self.recipe.warmup_steps * shorter),
            ema=decay,
        )
        return dataclasses.replace(
            self,
            recipe=recipe,
            num_images=self.quick_images,
            num_test=1_000,
            held_out=min(1_000, self.held_out),
            fixed_slice=min(1_000, self.fixed_slice),
        )


def like(base: Experiment, *, model: dict | None = None, **changes: object) -> Experiment:
    """The same experiment but for what is named.

    Args:
        base: the experiment that it is like.
        model: what changes in, or is added to, the base's model.
        changes: fields of :class:`Experiment` or of its :class:`~resnetbook.recipe.Recipe`.

    Raises:
        TypeError: if a field is neither's.
        ValueError: if a value makes no sense.
    """
    own = {field.name for field in dataclasses.fields(Experiment)}
    fields = {name: value for name, value in changes.items() if name in own}
    recipe = {name: value for name, value in changes.items() if name not in own}
    return dataclasses.replace(
        base,
        model=base.model | (model or {}),
        recipe=dataclasses.replace(base.recipe, **recipe),
        **fields,
    )


EXPERIMENTS: dict[str, Experiment] = {}

_GREY = {"in_channels": 1, "num_classes": 10}
# Small networks on maps of 14×14, which cost a quarter of 28×28.
_SMALL = {"family": "cifar", "stem_stride": 2, **_GREY}

# ---------------------------------------------------------------------------------------------------
# Chapter 5: d2l's chapter to the letter, but for how the machine stores and multiplies: channels-last
# memory, and bfloat16 inside convolutions and linear layers. On a processor with bfloat16 instructions
# both together halve the time.

EXPERIMENTS["source-recipe"] = Experiment(
    {"family": "d2l-resnet18"},
    Recipe(
        num_epochs=10,
        batch_size=256,
        lr=0.05,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        initialization="xavier",
        normalize=False,
        resize=96,
        channels_last=True,
        autocast="bfloat16",
    ),
    held_out=0,
    keep_logits=True,
    about="d2l's ResNet-18 and recipe: SGD 0.05, 10 epochs, images at 96×96, in bfloat16.",
)
# One short recipe for every stem, so that the stem is the only change.
EXPERIMENTS["stem-imagenet-28"] = Experiment(
    {"family": "resnet", "depth": 18, **_GREY, "stem": "imagenet"},
    Recipe(
        num_epochs=3,
        batch_size=64,
        lr=0.05,
        weight_decay=5e-4,
        schedule="onecycle",
        channels_last=True,
        autocast="bfloat16",
    ),
    num_images=6_000,
    about="ResNet-18, one stem and image size against the others, 6,000 images, 3 epochs.",
)
EXPERIMENTS["stem-small-28"] = like(EXPERIMENTS["stem-imagenet-28"], model={"stem": "small"})
EXPERIMENTS["stem-imagenet-96"] = like(EXPERIMENTS["stem-imagenet-28"], resize=96)

# ---------------------------------------------------------------------------------------------------
# Chapter 1: one recipe for LeNet and for every depth of the small VGG.

EXPERIMENTS["lenet"] = Experiment(
    {"family": "lenet", **_GREY},
    Recipe(num_epochs=5, batch_size=64, lr=0.05, weight_decay=5e-4, schedule="onecycle", channels_last=True),
    about="LeNet-5 with tanh, 50,000 images, 5 epochs.",
)
EXPERIMENTS["vgg-6"] = like(
    EXPERIMENTS["lenet"],
    model={"family": "small-vgg", "depth": 6},
    about="A narrow VGG with batch norm; only its depth changes; 50,000 images, 5 epochs.",
)
EXPERIMENTS["vgg-9"] = like(EXPERIMENTS["vgg-6"], model={"depth": 9})
EXPERIMENTS["vgg-12"] = like(EXPERIMENTS["vgg-6"], model={"depth": 12})
EXPERIMENTS["vgg-15"] = like(EXPERIMENTS["vgg-6"], model={"depth": 15})

# ---------------------------------------------------------------------------------------------------
# Chapter 2: the paper's SGD, short. Maps of 14×14 show the same effect as larger ones.

_PLAIN = Experiment(
    _SMALL | {"depth": 8, "residual": False, "shortcut": "A"},
    Recipe(num_epochs=6, batch_size=128, lr=0.1, weight_decay=1e-4, warmup_steps=200, channels_last=True),
    held_out=0,
    fixed_slice=10_000,
    quick_images=12_800,
    about="Plain against residual at equal parameters, 14×14 maps, 6 epochs.",
)
_RESIDUAL = like(_PLAIN, model={"residual": True})

EXPERIMENTS["degradation-plain-8"] = _PLAIN
EXPERIMENTS["degradation-residual-8"] = _RESIDUAL
EXPERIMENTS["degradation-plain-14"] = like(_PLAIN, model={"depth": 14})
EXPERIMENTS["degradation-residual-14"] = like(_RESIDUAL, model={"depth": 14})
EXPERIMENTS["degradation-plain-20"] = like(_PLAIN, model={"depth": 20}, seeds=5)
EXPERIMENTS["degradation-residual-20"] = like(_RESIDUAL, model={"depth": 20}, seeds=5)
EXPERIMENTS["degradation-plain-32"] = like(_PLAIN, model={"depth": 32})
EXPERIMENTS["degradation-residual-32"] = like(_RESIDUAL, model={"depth": 32})
EXPERIMENTS["degradation-plain-44"] = like(_PLAIN, model={"depth": 44})
EXPERIMENTS["degradation-residual-44"] = like(_RESIDUAL, model={"depth": 44})
EXPERIMENTS["degradation-plain-56"] = like(_PLAIN, model={"depth": 56}, seeds=5)
EXPERIMENTS["degradation-residual-56"] = like(_RESIDUAL, model={"depth": 56}, seeds=5)

# Honest limits: one setting changed, for the two plain depths that are compared.
EXPERIMENTS["limits-low-rate-plain-20"] = like(
    _PLAIN, model={"depth": 20}, lr=0.01, about="Plain, as in the degradation runs, but with lr 0.01."
)
EXPERIMENTS["limits-low-rate-plain-56"] = like(EXPERIMENTS["limits-low-rate-plain-20"], model={"depth": 56})
EXPERIMENTS["limits-long-warmup-plain-20"] = like(
    _PLAIN,
    model={"depth": 20},
    warmup_steps=1_407,  # half of all steps
    about="Plain, as in the degradation runs, but with warmup_steps 1407.",
)
EXPERIMENTS["limits-long-warmup-plain-56"] = like(
    EXPERIMENTS["limits-long-warmup-plain-20"], model={"depth": 56}
)
EXPERIMENTS["limits-long-plain-20"] = like(
    _PLAIN,
    model={"depth": 20},
    num_epochs=18,
    about="Plain, as in the degradation runs, but with num_epochs 18.",
)
EXPERIMENTS["limits-long-plain-56"] = like(EXPERIMENTS["limits-long-plain-20"], model={"depth": 56})

# ---------------------------------------------------------------------------------------------------
# Chapter 3: as degradation-residual, but for the shortcut, or the order inside of the block.

_BLOCK = dataclasses.replace(_PLAIN, model=_SMALL | {"depth": 20, "shortcut": "A"})
EXPERIMENTS["shortcut-b-20"] = like(
    _BLOCK,
    model={"shortcut": "B"},
    about="The residual network of 20 layers with another shortcut; option A is degradation-residual-20.",
)
EXPERIMENTS["shortcut-c-20"] = like(EXPERIMENTS["shortcut-b-20"], model={"shortcut": "C"})
EXPERIMENTS["preactivation-20"] = like(
    _BLOCK,
    model={"preactivation": True},
    about="Pre-activation blocks (v2); post-activation is degradation-residual-20.",
)
EXPERIMENTS["preactivation-56"] = like(
    _BLOCK,
    model={"depth": 56, "preactivation": True},
    about="Pre-activation blocks (v2); post-activation is degradation-residual-56.",
)

# ---------------------------------------------------------------------------------------------------
# Chapter 7: four networks of chapter 2, trained once more and kept, to look into.

EXPERIMENTS["plain-20"] = like(
    EXPERIMENTS["degradation-plain-20"],
    seeds=3,
    keep_weights=True,
    about="A network of chapter 2, trained once more, and its weights kept.",
)
EXPERIMENTS["resnet-20"] = like(EXPERIMENTS["plain-20"], model={"residual": True})
# One of each depth that takes long: how its accuracy varies with the seed is told by chapter 2.
EXPERIMENTS["plain-56"] = like(EXPERIMENTS["plain-20"], model={"depth": 56}, seeds=1)
EXPERIMENTS["resnet-56"] = like(EXPERIMENTS["resnet-20"], model={"depth": 56}, seeds=1)

# ---------------------------------------------------------------------------------------------------
# Chapter 8: a network that knows five classes, to be moved to the other five. Each half has upper garments
# that are taken for each other, footwear, and something of its own; the halves were fixed before any run.

EXPERIMENTS["pretrained-5-classes"] = Experiment(
    _SMALL | {"depth": 20, "num_classes": 5},
    Recipe(num_epochs=3, batch_size=128, lr=0.1, weight_decay=5e-4, schedule="onecycle", channels_last=True),
    seeds=5,
    held_out=0,
    keep_weights=True,
    classes=(0, 1, 2, 5, 7),  # t-shirt, trouser, pullover, sandal, sneaker
    about="A network for five classes, t-shirt, trouser, pullover, sandal and sneaker, and its weights kept.",
)

# ---------------------------------------------------------------------------------------------------
# Chapter 6, what accuracy costs, and the time to accuracy: one large cycle.

_TRIALS = "; chosen on held-out images, in trials that were not recorded."

EXPERIMENTS["speed-90-cpu"] = Experiment(
    _SMALL | {"depth": 8},
    Recipe(
        num_epochs=2,
        batch_size=128,
        lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        schedule="onecycle",
        label_smoothing=0.1,
        channels_last=True,
        autocast="bfloat16",
    ),
    seeds=5,
    held_out=0,
    quick_images=12_800,
    about="The time to a test accuracy of 0.90 on two CPU cores, on 60,000 images again, as with 50,000 "
    "a seed stayed below it" + _TRIALS,
)
# On maps of 28×28. What is learned from both mirror images is asked for both.
_NARROW = dataclasses.replace(
    EXPERIMENTS["speed-90-cpu"],
    model={"family": "resnet", "depth": 18, "width": 16, "stem": "small", **_GREY},
    quick_images=6_000,
)
EXPERIMENTS["speed-94-cpu"] = like(
    _NARROW,
    num_epochs=9,
    flip=True,
    flip_test=True,
    about="The time to a test accuracy of 0.94 on two CPU cores" + _TRIALS,
)
EXPERIMENTS["epochs-5"] = like(_NARROW, num_epochs=5, about="How good in 5 epochs" + _TRIALS)
EXPERIMENTS["epochs-20"] = like(
    _NARROW,
    num_epochs=20,
    erase=0.5,
    flip=True,
    flip_test=True,
    about="How good in 20 epochs" + _TRIALS,
)
EXPERIMENTS["epochs-50"] = like(
    EXPERIMENTS["epochs-20"], num_epochs=50, about="How good in 50 epochs" + _TRIALS
)
# Not chosen by a trial: what did harm in five epochs, asked again where there are ten times as many.
EXPERIMENTS["epochs-50-shift"] = like(
    EXPERIMENTS["epochs-50"],
    shift=2,
    about="As epochs-50, and each training image moved by up to two pixels; fixed before its first run.",
)
# Not chosen by a trial, either: the book's own network at its full width, with the recipe that brings
# the narrow one to 0.94, in five epochs, which is what two cores can do in an hour.
EXPERIMENTS["resnet-18"] = like(
    EXPERIMENTS["speed-94-cpu"],
    model={"width": 64},
    num_epochs=5,
    seeds=3,
    keep_logits=True,
    about="The recipe of speed-94-cpu at the full width of a ResNet-18, in 5 epochs; fixed in advance.",
)

# ---------------------------------------------------------------------------------------------------
# Chapter 6, the rows of its table: a narrow ResNet-18, 5 epochs, 50,000 images. First the ladder: each
# row is the row above and one change, from the source recipe on.

EXPERIMENTS["ablation-0-source"] = Experiment(
    {"family": "resnet", "depth": 18, "width": 8, **_GREY},
    dataclasses.replace(EXPERIMENTS["source-recipe"].recipe, num_epochs=5),
    seeds=5,
    quick_images=6_000,
    about="A step of the ladder: one change to the step before.",
)
EXPERIMENTS["ablation-1-normalize-he"] = like(
    EXPERIMENTS["ablation-0-source"], normalize=True, initialization="model"
)
EXPERIMENTS["ablation-2-sgd"] = like(
    EXPERIMENTS["ablation-1-normalize-he"], lr=0.1, momentum=0.9, weight_decay=1e-4
)
EXPERIMENTS["ablation-3-cosine"] = like(EXPERIMENTS["ablation-2-sgd"], schedule="cosine")
EXPERIMENTS["ablation-4-stem"] = like(EXPERIMENTS["ablation-3-cosine"], model={"stem": "small"}, resize=None)
EXPERIMENTS["ablation-5-flip"] = like(EXPERIMENTS["ablation-4-stem"], flip=True)

# Then each of these alone, on top of the ladder's last row.
_TOP = like(
    EXPERIMENTS["ablation-5-flip"], about="One addition to the last step of the ladder, ablation-5-flip."
)
EXPERIMENTS["ablation-6-shift"] = like(_TOP, shift=2)
EXPERIMENTS["ablation-7-smoothing"] = like(_TOP, label_smoothing=0.1)
EXPERIMENTS["ablation-8-erasing"] = like(_TOP, erase=0.5)
EXPERIMENTS["ablation-9-zero-init"] = like(_TOP, model={"zero_init_residual": True})
EXPERIMENTS["ablation-10-ema"] = like(_TOP, ema=0.99)
EXPERIMENTS["ablation-11-flip-test"] = like(_TOP, flip_test=True)
