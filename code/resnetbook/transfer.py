"""Transfer learning: a trained network is moved to other classes. Chapter 8 derives what is here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import data, models
from resnetbook._arguments import check_whole
from resnetbook.experiments import EXPERIMENTS
from resnetbook.probes import evaluation_mode
from resnetbook.recipe import Recipe
from resnetbook.train import evaluate
from resnetbook.transforms import prepare

# The halves were fixed before any run: each has upper garments that are taken for each other, footwear,
# and something of its own.
OLD = EXPERIMENTS["pretrained-5-classes"].classes
NEW = (3, 4, 6, 8, 9)
"""Dress, coat, shirt, bag and ankle boot: what the pretrained network has never seen."""

SIZES = (5, 10, 50, 500)
"""Labelled images a class that the new task is tried with."""

NORMS = nn.modules.batchnorm._BatchNorm
"""What keeps running statistics: batch norms of one, two or three dimensions."""

RECIPE = EXPERIMENTS["pretrained-5-classes"].recipe
"""Prepares images as the pretrained network knows them."""


def replace_head(model: nn.Module, num_classes: int) -> nn.Linear:
    """Put a new linear layer, with random weights, in the place of ``model.fc``, and return it.

    Raises:
        ValueError: if ``num_classes`` is below 1.
    """
    check_whole(1, num_classes=num_classes)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model.fc


def freeze(model: nn.Module, head: str = "fc") -> list[nn.Parameter]:
    """Stop all gradients but those of the child ``head``; return its parameters, for an optimizer.

    Running statistics are not parameters: only evaluation mode stops them (:func:`keep_statistics`).

    Raises:
        ValueError: if the model has no child of that name.
    """
    children = dict(model.named_children())
    if head not in children:
        raise ValueError(f"the model has no child {head!r}; it has {', '.join(children)}")
    model.requires_grad_(False)
    children[head].requires_grad_(True)
    return list(children[head].parameters())


def keep_statistics(model: nn.Module) -> nn.Module:
    """Training mode for all but the batch norms, whose running statistics are used, and stay as they are."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
    return model


def groups_by_depth(parts: Sequence[nn.Module], lr: float, factor: float) -> list[dict]:
    """Parameter groups for an optimizer: the last part learns at ``lr``, each before it ``factor`` times as
    fast as the next (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2).

    Args:
        parts: of a network, from the input to the output.
        lr: of the last part.
        factor: from one part to the one before it; below 1, what is near the input learns slowly.

    Returns:
        From the output to the input, ``{"params": […], "lr": …}``; what is frozen is left out.
    """
    groups = []
    for distance, part in enumerate(reversed(parts)):
        params = [parameter for parameter in part.parameters() if parameter.requires_grad]
        if params:
            groups.append({"params": params, "lr": lr * factor**distance})
    return groups


def parts_of(model: nn.Module) -> list[nn.Module]:
    """The children of a network that have parameters, in the order in which they stand in it.

    The norm of the stem learns as fast as its convolution: they are one part.
    """
    stem = nn.ModuleList([model.conv1, model.bn1])
    others = [child for name, child in model.named_children() if name not in ("conv1", "bn1")]
    return [stem, *(child for child in others if any(True for _ in child.parameters()))]


@torch.no_grad()
def features(model: nn.Module, images: Tensor, recipe: Recipe = RECIPE, batch_size: int = 500) -> Tensor:
    """What the head of a network reads, ``(N, in_features)``, for uint8 images ``(N, C, H, W)``.

    Computed in evaluation mode, and the mode is put back.
    """
    found: list[Tensor] = []
    handle = model.fc.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        with evaluation_mode(model):
            for part in images.split(batch_size):
                model(prepare(part, recipe))
    finally:
        handle.remove()
    return torch.cat(found)


def draw(images: Tensor, labels: Tensor, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many images of every class, drawn at random; fewer of the same seed are among more.

    Args:
        images: ``(N, C, H, W)``.
        labels: int64 ``(N,)``, from 0 on, all classes among them.
        per_class: how many of each.
        seed: of the draw.

    Raises:
        ValueError: if a class has fewer images.
    """
    check_whole(1, per_class=per_class)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in range(int(labels.max()) + 1):
        there = (labels == label).nonzero().flatten()
        if len(there) < per_class:
            raise ValueError(f"class {label} has {len(there)} images, {per_class} are asked for")
        chosen.append(there[torch.randperm(len(there), generator=generator)[:per_class]])
    indices = torch.cat(chosen)
    return images[indices], labels[indices]


def adapt(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    groups: list[dict],
    steps: int,
    norms: str = "kept",
    seed: int = 0,
    batch_size: int = 50,
) -> None:
    """Train in place on few images: SGD with momentum 0.9 and weight decay 5e-4, rates falling to 0.

    Args:
        model: maps ``x`` to logits.
        x: what the model reads, float ``(N, …)``.
        labels: int64 ``(N,)``.
        groups: parameter groups, each with its ``lr``.
        steps: how many.
        norms: ``kept`` leaves batch norms in evaluation mode, ``moving`` lets them go on.
        seed: of the order of the images.
        batch_size: images a step; all of them if there are fewer.

    Raises:
        ValueError: if ``norms`` is neither.
    """
    if norms not in ("kept", "moving"):
        raise ValueError(f"norms must be 'kept' or 'moving', got {norms!r}")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train() if norms == "moving" else keep_statistics(model)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < min(batch_size, len(x)):
            order = torch.randperm(len(x), generator=generator)
        batch, order = order[:batch_size], order[batch_size:]
        loss = F.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


# ---------------------------------------------------------------------------------------------------
# What is compared

METHODS = ("pixels", "head", "trap", "fine-tune", "scratch")
"""A linear classifier on pixels; a new head on frozen features; the same with norms that move; everything
trained, slowly near the input; a network with random weights."""

STEPS = {5: 60, 10: 60, 50: 100, 500: 200}
"""Steps of fine-tuning and from scratch, by labelled images a class."""

HEAD_STEPS = 100


def backbone(seed: int) -> nn.Module:
    """The network that knows the five old classes, in evaluation mode."""
    return models.trained("pretrained-5-classes", seed)


def task(images: Tensor, labels: Tensor, shuffled: bool = False) -> tuple[Tensor, Tensor]:
    """The images of the new classes, with labels from 0 to 4.

    Args:
        images: uint8 ``(N, 1, 28, 28)``.
        labels: int64 ``(N,)``, of all ten classes.
        shuffled: put the pixels of every image into one and the same random order.
    """
    images, labels = data.of_classes(images, labels, NEW)
    if shuffled:
        order = torch.randperm(images[0].numel(), generator=torch.Generator().manual_seed(8))
        images = images.flatten(1)[:, order].view_as(images)
    return images, labels


def moved(method: str, images: Tensor, labels: Tensor, per_class: int, seed: int) -> nn.Module:
    """A network for the new classes, trained by a method of :data:`METHODS`, in evaluation mode.

    Args:
        method: how.
        images: uint8 ``(N, 1, 28, 28)``, the few that have labels.
        labels: int64 ``(N,)``, from 0 to 4.
        per_class: how many of each class there are; it decides on the number of steps.
        seed: of the pretrained network, the new head's weights and the order of images.

    Raises:
        ValueError: for another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    torch.manual_seed(seed)
    x = prepare(images, RECIPE)
    classes = len(NEW)
    if method == "pixels":
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), classes))
        adapt(model, x, labels, [{"params": model.parameters(), "lr": 0.03}], HEAD_STEPS, seed=seed)
        return model
    if method == "scratch":
        model = models.build(EXPERIMENTS["pretrained-5-classes"].model)
        groups = [{"params": model.parameters(), "lr": 0.1}]
        adapt(model, x, labels, groups, STEPS[per_class], "moving", seed)
        return model
    model = backbone(seed)
    head = replace_head(model, classes)
    if method == "fine-tune":
        groups = groups_by_depth(parts_of(model), lr=0.1, factor=0.3)
        adapt(model, x, labels, groups, STEPS[per_class], "moving", seed)
        return model
    groups = [{"params": freeze(model), "lr": 0.3}]
    if method == "head":
        adapt(head, features(model, images), labels, groups, HEAD_STEPS, seed=seed)
    else:
        adapt(model, x, labels, groups, HEAD_STEPS, "moving", seed)
    return model.eval()


def old_accuracy(model: nn.Module, seed: int, images: Tensor, labels: Tensor) -> float:
    """What is left of the old task: the accuracy on it, with the old head on a moved network's backbone.

    Args:
        model: a moved network; it gets its own head back.
        seed: of the pretrained network, whose head is borrowed.
        images: uint8 ``(N, 1, 28, 28)``, of the old classes.
        labels: int64 ``(N,)``, from 0 to 4.
    """
    own, model.fc = model.fc, backbone(seed).fc
    try:
        return evaluate(model, images, labels, RECIPE).accuracy
    finally:
        model.fc = own


def few_labels(seed: int) -> dict:
    """The study ``few-labels``: test accuracies on the five new classes, for one seed.

    Returns:
        ``near``, by method and number of labels a class; ``shuffled``, by method, for 50 labels a class and
        images whose pixels are shuffled; ``old``, the accuracy on the old classes that the backbone has
        after each method that keeps one, for 50 labels a class, and ``before``.
    """
    dataset = data.fashion_mnist()
    images, labels, *_ = data.split(dataset.train_images, dataset.train_labels)
    old = data.of_classes(dataset.test_images, dataset.test_labels, OLD)
    near: dict[str, dict[str, float]] = {method: {} for method in METHODS}
    found = {"near": near, "shuffled": {}, "old": {"before": old_accuracy(backbone(seed), seed, *old)}}
    for shuffled in (False, True):
        pool = task(images, labels, shuffled)
        test = task(dataset.test_images, dataset.test_labels, shuffled)
        for per_class in (50,) if shuffled else SIZES:
            few = draw(*pool, per_class, seed)
            for method in METHODS:
                if shuffled and method == "trap":
                    continue
                model = moved(method, *few, per_class, seed)
                accuracy = evaluate(model, *test, RECIPE).accuracy
                if shuffled:
                    found["shuffled"][method] = accuracy
                    continue
                near[method][str(per_class)] = accuracy
                if per_class == 50 and method in ("head", "trap", "fine-tune"):
                    found["old"][method] = old_accuracy(model, seed, *old)
    return found
