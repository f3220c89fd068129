"""Training and evaluation: one recipe in, one history out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from resnetbook import devices
from resnetbook._arguments import check_whole
from resnetbook.checkpoint import Checkpoint, TrainingState
from resnetbook.devices import has_bfloat16 as has_bfloat16  # pages ask for it here
from resnetbook.parallel import OneProcess, advice_to_resume, parts_of_batch, share_statistics
from resnetbook.probes import evaluation_mode
from resnetbook.recipe import Recipe
from resnetbook.transforms import augment, prepare

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, share of right answers, and logits ``(N, num_classes)``."""

    loss: float
    accuracy: float
    logits: Tensor


def initialize(model: nn.Module, how: str) -> None:
    """Set the starting weights in place; ``how`` is ``Recipe.initialization``."""
    if how == "xavier":
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)


def lr_factor(recipe: Recipe, step: int, num_steps: int) -> float:
    """The share of ``recipe.lr`` at a step, counted from 0, of ``num_steps``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, num_steps - recipe.warmup_steps)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.schedule == "onecycle":
        return max(0.02, progress / 0.3) if progress < 0.3 else max(0.0, (1 - progress) / 0.7)
    return 1.0


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    valid: tuple[Tensor, Tensor] | None = None,
    fixed_slice: int = 0,
    seed: int = 0,
    device: torch.device | str | None = None,
    fabric: Fabric | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train ``model`` in place and return its history, one entry per epoch.

    Args:
        model: maps ``(N, C, H, W)`` to logits ``(N, num_classes)``; moved to ``device``.
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        recipe: how to train. If it initializes, seed first (``torch.manual_seed``).
        valid: held-out images and labels, evaluated after every epoch.
        fixed_slice: up to that many training images, the first, are evaluated after every epoch in
            evaluation mode: the running mean lags behind and sees batch statistics.
        seed: of the order of images and of the augmentation.
        device: default: CUDA, MPS or the CPU, whichever there is.
        fabric: a launched ``lightning.fabric.Fabric`` of strategy ``ddp``, which brings the device:
            several processes train together, as :mod:`resnetbook.parallel` has it.
        checkpoint: a file, written after every epoch; if it is there, training goes on from it.
        progress: show one progress bar.
        on_epoch: called with each new history entry, in the first process.

    Returns:
        A list of ``{"epoch", "train_loss", "train_accuracy", "valid_accuracy", "seconds"}``, where loss and
        accuracy are means over the epoch's batches as they were trained on, and ``valid_accuracy`` is
        ``None`` without ``valid``. With ``fixed_slice``, also ``"slice_loss"`` and ``"slice_accuracy"``.

    Raises:
        ValueError: if images, labels and model do not fit together, there is no such device, or the
            checkpoint cannot be read or belongs to another model, recipe, seed or data set.
        FloatingPointError: if the loss or a weight is no longer finite.
    """
    label_ranges = _check_arguments(images, labels, valid, fixed_slice, seed, device, fabric)
    processes = fabric or OneProcess(devices.choose_device(device))
    device = processes.device
    file = None if checkpoint is None else Checkpoint.of_run(checkpoint, recipe, seed, images, labels)
    state = _begin(model, recipe, device)
    if file is not None and file.path.exists():
        file.load_into(state)
    images, labels = images.to(device), labels.to(device)
    shared_model = processes.setup_module(model)  # the same weights, in passes that all take part in
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    num_steps = recipe.num_epochs * steps_per_epoch
    done, hidden = len(state.history), not progress or not processes.is_global_zero
    bar = tqdm(total=num_steps, initial=done * steps_per_epoch, unit="step", disable=hidden)
    with bar, advice_to_resume(processes, checkpoint), _advice_on_batches(processes, recipe, len(images)):
        for epoch in range(done + 1, recipe.num_epochs + 1):
            start = time.perf_counter()
            shared_model.train()
            # Order and augmentation follow from seed and epoch alone: a resumed run repeats them.
            generator = torch.Generator().manual_seed(int(seed) * 100_003 + epoch)
            order = torch.randperm(len(images), generator=generator).to(device)
            loss_sum, correct = torch.zeros(2, device=device)
            for step, indices in enumerate(order.split(recipe.batch_size), (epoch - 1) * steps_per_epoch):
                state.set_lr(recipe.lr * lr_factor(recipe, step, num_steps))
                batch = augment(images[indices], recipe, generator)
                state.optimizer.zero_grad(set_to_none=True)
                parts = parts_of_batch(len(indices), recipe.accumulate, processes)
                for part, weight in parts:
                    y = labels[indices[part]]
                    with devices.autocast(recipe, device):
                        logits = shared_model(prepare(batch[part], recipe))
                    _check_logits(logits, len(y), label_ranges)
                    logits = logits.float()
                    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                    # Processes exchange gradients once a step, during the backward pass of the last part.
                    with processes.no_backward_sync(shared_model, enabled=part is not parts[-1][0]):
                        processes.backward(state.scaler.scale(loss * weight))
                    if weight > 0:  # summed on the device: asking for a number at every step would wait
                        loss_sum += loss.detach() * len(y)
                        correct += (logits.detach().argmax(1) == y).sum()
                state.step()
                bar.update()
            loss_sum, correct = (processes.all_reduce(x, reduce_op="sum") for x in (loss_sum, correct))
            share_statistics(processes, model, state.evaluated)
            entry = {"epoch": epoch, "train_loss": loss_sum.item() / len(images)}
            entry |= {"train_accuracy": correct.item() / len(images), "valid_accuracy": None}
            entry["seconds"] = time.perf_counter() - start
            _check_finite(entry, model)
            entry |= _evaluations(state.evaluated, valid, images, labels, fixed_slice, recipe, device)
            state.history.append(entry)
            bar.set_postfix(epoch=epoch, loss=f"{entry['train_loss']:.3f}")
            if file is not None and processes.is_global_zero:
                file.save(state)
            if on_epoch is not None and processes.is_global_zero:
                on_epoch(entry)
    if state.average is not None:
        model.load_state_dict(state.average.module.state_dict())
    return state.history


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """Evaluate in evaluation mode, in batches, without augmentation; the mode is put back.

    Args:
        model: maps ``(N, C, H, W)`` to logits ``(N, num_classes)``; moved to ``device``.
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        recipe: how images are prepared; default ``Recipe()``.
        device: default: CUDA, MPS or the CPU, whichever there is.
        batch_size: images at a time; it changes the memory needed, not the result.

    Raises:
        ValueError: if images, labels and model do not fit together, there is no such device, or
            ``batch_size`` is below 1.
    """
    label_range = _check_data(images, labels)
    check_whole(1, batch_size=batch_size)
    recipe = recipe or Recipe()
    device = devices.choose_device(device)
    model.to(device)
    labels = labels.cpu()
    batches = []
    with evaluation_mode(model):
        for part in images.split(batch_size):
            x = prepare(part.to(device), recipe)
            with devices.autocast(recipe, device):
                logits = model(x)
                _check_logits(logits, len(part), [label_range])
                if recipe.flip_test:
                    logits = (logits + model(x.flip(3))) / 2
            batches.append(logits.float().cpu())
    logits = torch.cat(batches)
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Evaluation(loss, accuracy, logits)


def _begin(model: nn.Module, recipe: Recipe, device: torch.device) -> TrainingState:
    """The starting weights on the device, in the recipe's memory format, and what changes them."""
    initialize(model, recipe.initialization)
    model.to(device=device, memory_format=devices.memory_format(recipe, device))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.autocast == "float16")
    average = None
    if recipe.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    return TrainingState(model, optimizer, scaler, average)


def _evaluations(
    model: nn.Module,
    valid: tuple[Tensor, Tensor] | None,
    images: Tensor,
    labels: Tensor,
    fixed_slice: int,
    recipe: Recipe,
    device: torch.device,
) -> dict:
    """What an entry of the history says of held-out images, and of a slice of the training images."""
    found = {}
    if valid is not None:
        found["valid_accuracy"] = evaluate(model, *valid, recipe, device).accuracy
    if fixed_slice:
        part = evaluate(model, images[:fixed_slice], labels[:fixed_slice], recipe, device)
        found |= {"slice_loss": part.loss, "slice_accuracy": part.accuracy}
    return found


@contextmanager
def _advice_on_batches(processes: Fabric | OneProcess, recipe: Recipe, num_images: int) -> Iterator[None]:
    """PyTorch says that a batch norm met a single value: say where it came from, and what to do."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        last = num_images % recipe.batch_size or recipe.batch_size
        parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        shares = f" for {processes.world_size} processes" if processes.world_size > 1 else ""
        raise ValueError(
            "batch normalization met one image alone, on a map of 1×1: one value has no spread to divide by. "
            f"{num_images:,} images in batches of {recipe.batch_size} leave a last batch of {last}{parts}"
            f"{shares}; choose another batch_size{' or a smaller accumulate' if parts else ''}"
        ) from error


def _check_finite(entry: dict, model: nn.Module) -> None:
    epoch, train_loss = entry["epoch"], entry["train_loss"]
    if not math.isfinite(train_loss):
        raise FloatingPointError(f"the loss is {train_loss} in epoch {epoch}; lower lr")
    # The last step of an epoch changes the weights after the last loss.
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise FloatingPointError(f"a weight is no longer finite after epoch {epoch}; lower lr")


def _check_arguments(
    images: Tensor,
    labels: Tensor,
    valid: tuple[Tensor, Tensor] | None,
    fixed_slice: int,
    seed: int,
    device: torch.device | str | None,
    fabric: Fabric | None,
) -> list[tuple[int, int]]:
    """Refuse what does not fit together, before an hour of training; the ranges of all labels."""
    label_ranges = [_check_data(images, labels)]
    if valid is not None:
        label_ranges.append(_check_data(*valid))
    check_whole(0, fixed_slice=fixed_slice, seed=seed)
    if fabric is not None and device is not None:
        raise ValueError(f"fabric brings its own device; leave out device={device!r}")
    return label_ranges


def _check_data(images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Refuse images and labels that do not fit together; the smallest and the largest label."""
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 (0 to 255), got {images.dtype}; they are scaled here")
    if labels.dim() != 1 or len(labels) != len(images):
        raise ValueError(f"labels must have shape ({len(images)},), got {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
    if images.numel() == 0:
        raise ValueError(f"there are no images: their shape is {tuple(images.shape)}")
    return int(labels.min()), int(labels.max())


def _check_logits(logits: Tensor, num_images: int, label_ranges: list[tuple[int, int]]) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model must give logits (N, num_classes), got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != num_images:
        raise ValueError(
            f"the model must give logits ({num_images}, num_classes) for {num_images} images, "
            f"got {tuple(logits.shape)}"
        )
    for low, high in label_ranges:
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(f"labels run from {low} to {high}, the model knows 0 to {logits.shape[1] - 1}")
