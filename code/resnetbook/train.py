"""Training and evaluation: one recipe in, one history out."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from resnetbook._arguments import check_whole
from resnetbook.data import MEAN, STD
from resnetbook.probes import evaluation_mode

if TYPE_CHECKING:
    from lightning.fabric import Fabric

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


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, share of right answers, and logits ``(N, num_classes)``."""

    loss: float
    accuracy: float
    logits: Tensor


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; elsewhere it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # PyTorch's own names are private, and older versions lack some.
        questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
    return False


def suited(recipe: Recipe, device: torch.device) -> tuple[Recipe, str]:
    """The recipe as it is best carried out on a device, and what differs, in words (empty if nothing does).

    Where there are no instructions for bfloat16, what asks for it is trained in float32: bfloat16 would be
    many times slower there. On MPS memory is contiguous, as :func:`fit` has it.
    """
    changes, words = {}, []
    if recipe.autocast == "bfloat16" and not has_bfloat16(device):
        changes["autocast"] = None
        words.append(f"float32 instead of bfloat16, for which this {device.type} has no instructions")
    if recipe.channels_last and _memory_format(recipe, device) is not torch.channels_last:
        changes["channels_last"] = False
        words.append(f"contiguous memory instead of channels-last, which can be wrong on {device.type}")
    return dataclasses.replace(recipe, **changes), "; ".join(words)


def _memory_format(recipe: Recipe, device: torch.device) -> torch.memory_format:
    # On MPS some versions of PyTorch compute wrong gradients of batch normalization in channels-last
    # memory (https://github.com/pytorch/pytorch/issues/175189).
    if recipe.channels_last and device.type != "mps":
        return torch.channels_last
    return torch.contiguous_format


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """The device of that name; without a name, the best there is.

    Raises:
        ValueError: if this machine has no such device; the message names those it has.
    """
    if device is None:
        return default_device()
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = dict.fromkeys(["cpu", default_device().type])
        raise ValueError(f"no device {device!r} on this machine; there is: {', '.join(there)}") from error
    return chosen


def initialize(model: nn.Module, how: str) -> None:
    """Set the starting weights in place; ``how`` is ``Recipe.initialization``."""
    if how == "xavier":
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)


def prepare(images: Tensor, recipe: Recipe) -> Tensor:
    """Turn stored images, uint8 ``(N, C, H, W)``, into what the network reads, float32."""
    x = images.float() / 255
    if recipe.resize is not None:
        x = F.interpolate(x, size=(recipe.resize, recipe.resize), mode="bilinear", antialias=True)
    if recipe.normalize:
        x = (x - MEAN) / STD
    return x.contiguous(memory_format=_memory_format(recipe, x.device))


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Change training images, uint8 ``(N, C, H, W)``, at random, each in its own way.

    The random numbers are drawn on the CPU, so that a seed means the same on every device.
    """
    num_images, _, height, width = images.shape
    device = images.device
    if recipe.flip:
        flipped = torch.rand(num_images, generator=generator).to(device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    if recipe.shift:
        padded = F.pad(images, (recipe.shift,) * 4)
        offsets = torch.randint(0, 2 * recipe.shift + 1, (2, num_images), generator=generator).to(device)
        rows = offsets[0][:, None] + torch.arange(height, device=device)  # (N, H)
        columns = offsets[1][:, None] + torch.arange(width, device=device)  # (N, W)
        n = torch.arange(num_images, device=device)[:, None, None]
        # Advanced indices around a slice put the channel axis last; move it back.
        images = padded[n, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.erase:
        chosen = torch.rand(num_images, generator=generator) < recipe.erase
        area = torch.empty(num_images).uniform_(0.02, 0.33, generator=generator) * height * width
        ratio = torch.empty(num_images).uniform_(math.log(0.3), math.log(3.3), generator=generator).exp()
        tall = (area * ratio).sqrt().clamp(max=height).long()
        wide = (area / ratio).sqrt().clamp(max=width).long()
        top = (torch.rand(num_images, generator=generator) * (height - tall + 1)).long()
        left = (torch.rand(num_images, generator=generator) * (width - wide + 1)).long()
        y, x = torch.arange(height), torch.arange(width)
        in_rows = (y >= top[:, None]) & (y < (top + tall)[:, None])  # (N, H)
        in_columns = (x >= left[:, None]) & (x < (left + wide)[:, None])  # (N, W)
        hidden = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
        images = images.masked_fill(hidden[:, None].to(device), 0)
    return images


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


class _OneProcess:
    """What ``fit`` asks of Lightning's Fabric, for a single process, so that both run the same lines."""

    global_rank = 0
    world_size = 1
    is_global_zero = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup_module(self, model: nn.Module) -> nn.Module:
        return model

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_backward_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager:
        return nullcontext()

    def all_reduce(self, value: Tensor, reduce_op: str) -> Tensor:
        return value


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

    With ``fabric`` several processes train together: each takes its share of every batch, and the
    gradients of the shares are averaged. A batch then holds the same images, augmented alike, as in
    one process. Only batch normalization differs: every process normalizes by its own share, and
    the running statistics are those of the first. Every process evaluates all that is evaluated.

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
        fabric: a launched ``lightning.fabric.Fabric`` of strategy ``ddp``; it brings the device.
        checkpoint: a file, written after every epoch; if it is there, training goes on from it.
        progress: show one progress bar.
        on_epoch: called with each new history entry, in the first process.

    Returns:
        A list of ``{"epoch", "train_loss", "train_accuracy", "valid_accuracy", "seconds"}``, where
        loss and accuracy are means over the epoch's batches as they were trained on, and
        ``valid_accuracy`` is ``None`` without ``valid``. With ``fixed_slice``, also
        ``"slice_loss"`` and ``"slice_accuracy"``.

    Raises:
        ValueError: if images, labels and model do not fit together, there is no such device, or the
            checkpoint cannot be read or belongs to another model, recipe, seed or data set.
        FloatingPointError: if the loss or a weight is no longer finite.
    """
    _check_data(images, labels)
    if valid is not None:
        _check_data(*valid)
    check_whole(0, fixed_slice=fixed_slice, seed=seed)
    seed = int(seed)  # NumPy's integers could not be read back from a checkpoint
    if fabric is not None and device is not None:
        raise ValueError(f"fabric brings its own device; leave out device={device!r}")
    processes = fabric or _OneProcess(choose_device(device))
    device = processes.device
    # Only a checkpoint needs it, and it reads every image.
    identity = _identity(recipe, seed, images, labels) if checkpoint is not None else {}
    initialize(model, recipe.initialization)
    model.to(device=device, memory_format=_memory_format(recipe, device))
    images, labels = images.to(device), labels.to(device)
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
    evaluated = model if average is None else average.module
    label_ranges = [_label_range(labels)]
    if valid is not None:
        label_ranges.append(_label_range(valid[1]))
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    num_steps = recipe.num_epochs * steps_per_epoch

    history: list[dict] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _load_checkpoint(Path(checkpoint), identity, model, optimizer, scaler, average)
    # The same weights, but a forward and backward pass that all processes take part in.
    shared_model = processes.setup_module(model)

    bar = tqdm(
        total=num_steps,
        initial=len(history) * steps_per_epoch,
        unit="step",
        disable=not progress or not processes.is_global_zero,
    )
    advice = _advice_on_batches(processes, recipe, len(images))
    with bar, _advice_to_resume(processes, checkpoint), advice:
        for epoch in range(len(history) + 1, recipe.num_epochs + 1):
            start = time.perf_counter()
            shared_model.train()
            # Order and augmentation follow from seed and epoch alone: a resumed run repeats them.
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(images), generator=generator).to(device)
            loss_sum = torch.zeros((), device=device)
            correct = torch.zeros((), device=device)
            for step, indices in enumerate(order.split(recipe.batch_size)):
                factor = lr_factor(recipe, (epoch - 1) * steps_per_epoch + step, num_steps)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * factor
                batch = augment(images[indices], recipe, generator)
                optimizer.zero_grad(set_to_none=True)
                parts = _parts(len(indices), recipe.accumulate, processes)
                for part, weight in parts:
                    y = labels[indices[part]]
                    with _autocast(recipe, device):
                        logits = shared_model(prepare(batch[part], recipe))
                    _check_logits(logits, len(y), label_ranges)
                    logits = logits.float()
                    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                    # Processes exchange gradients once a step, during the backward pass of the last part.
                    with processes.no_backward_sync(shared_model, enabled=part is not parts[-1][0]):
                        processes.backward(scaler.scale(loss * weight))
                    # Summed on the device: asking for a number at every step would wait for it.
                    if weight > 0:
                        loss_sum += loss.detach() * len(y)
                        correct += (logits.detach().argmax(1) == y).sum()
                scaler.step(optimizer)
                scaler.update()
                if average is not None:
                    average.update_parameters(model)
                bar.update()
            loss_sum = processes.all_reduce(loss_sum, reduce_op="sum")
            correct = processes.all_reduce(correct, reduce_op="sum")
            if processes.world_size > 1:
                # Each process has kept running statistics of its own share: take the first's.
                for module in dict.fromkeys((model, evaluated)):
                    statistics = processes.broadcast(dict(module.named_buffers()))
                    module.load_state_dict(statistics, strict=False)
            entry = {
                "epoch": epoch,
                "train_loss": loss_sum.item() / len(images),
                "train_accuracy": correct.item() / len(images),
                "valid_accuracy": None,
                "seconds": time.perf_counter() - start,
            }
            if not math.isfinite(entry["train_loss"]):
                raise FloatingPointError(f"the loss is {entry['train_loss']} in epoch {epoch}; lower lr")
            # The last step of an epoch changes the weights after the last loss.
            if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
                raise FloatingPointError(f"a weight is no longer finite after epoch {epoch}; lower lr")
            if valid is not None:
                entry["valid_accuracy"] = evaluate(evaluated, *valid, recipe, device).accuracy
            if fixed_slice:
                part = evaluate(evaluated, images[:fixed_slice], labels[:fixed_slice], recipe, device)
                entry["slice_loss"] = part.loss
                entry["slice_accuracy"] = part.accuracy
            history.append(entry)
            bar.set_postfix(epoch=epoch, loss=f"{entry['train_loss']:.3f}")
            if processes.is_global_zero:
                if checkpoint is not None:
                    _save_checkpoint(Path(checkpoint), identity, model, optimizer, scaler, average, history)
                if on_epoch is not None:
                    on_epoch(entry)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    return history


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
    _check_data(images, labels)
    check_whole(1, batch_size=batch_size)
    recipe = recipe or Recipe()
    device = choose_device(device)
    model.to(device)
    labels = labels.cpu()
    label_ranges = [_label_range(labels)]
    batches = []
    with evaluation_mode(model):
        for part in images.split(batch_size):
            x = prepare(part.to(device), recipe)
            with _autocast(recipe, device):
                logits = model(x)
                _check_logits(logits, len(part), label_ranges)
                if recipe.flip_test:
                    logits = (logits + model(x.flip(3))) / 2
            batches.append(logits.float().cpu())
    logits = torch.cat(batches)
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Evaluation(loss, accuracy, logits)


@contextmanager
def _advice_to_resume(processes: Fabric | _OneProcess, checkpoint: str | Path | None) -> Iterator[None]:
    """Where one process dies, the others only learn that a connection was closed: say what to do."""
    try:
        yield
    except RuntimeError as error:
        if processes.world_size > 1:
            advice = "with a checkpoint it resumes" if checkpoint is None else f"it resumes from {checkpoint}"
            error.add_note(
                f"If another of the {processes.world_size} processes has died (its own message says why), "
                f"start the job again; {advice}."
            )
        raise


@contextmanager
def _advice_on_batches(processes: Fabric | _OneProcess, recipe: Recipe, num_images: int) -> Iterator[None]:
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


def _parts(num_images: int, accumulate: int, processes: Fabric | _OneProcess) -> list[tuple[slice, float]]:
    """Which images of a batch this process computes at a time, and the weight of their mean loss.

    Process r of p takes the images r, r + p, r + 2p, … With the weights, the mean over the processes
    of their gradients is the gradient of the whole batch's mean loss, however unequal the shares are.
    """
    rank, world_size = processes.global_rank, processes.world_size
    count = len(range(rank, num_images, world_size))
    if count == 0:
        # Fewer images than processes. All have to take part in the exchange: this one brings zeros.
        return [(slice(0, 1), 0.0)]
    parts = min(accumulate, count)
    bounds = [rank + world_size * (count * i // parts) for i in range(parts + 1)]
    slices = [slice(low, high, world_size) for low, high in itertools.pairwise(bounds)]
    sizes = [len(range(num_images)[part]) for part in slices]
    return [(part, size * world_size / num_images) for part, size in zip(slices, sizes, strict=True)]


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager:
    if recipe.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.autocast))


def _check_data(images: Tensor, labels: Tensor) -> None:
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


def _label_range(labels: Tensor) -> tuple[int, int]:
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


def _identity(recipe: Recipe, seed: int, images: Tensor, labels: Tensor) -> dict:
    """What a checkpoint must share with the run that goes on from it."""
    digest = hashlib.sha256(images.cpu().numpy().tobytes() + labels.cpu().numpy().tobytes())
    return {"recipe": dataclasses.asdict(recipe), "seed": seed, "data": digest.hexdigest()}


def _save_checkpoint(
    path: Path,
    identity: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
    history: list[dict],
) -> None:
    """Write aside, flush to the disk, rename: a kill at any moment leaves the old or the new one.

    Raises:
        OSError: if it cannot be written, as on a full disk; the message says what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "average": None if average is None else average.state_dict(),
        "random": torch.get_rng_state(),
        "history": history,
    }
    try:
        with open(aside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        # On a full disk PyTorch ends with a RuntimeError about positions; what caused it says why.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        again = f"goes on after epoch {len(history) - 1}" if path.exists() else "begins again"
        raise OSError(
            f"cannot write the checkpoint {path} of epoch {len(history)}: {cause}. Make room there, and run "
            f"the same again: it {again}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)  # there only if something went wrong, such as a full disk


def recipe_of(checkpoint: Path) -> Recipe | None:
    """The recipe of the run that a checkpoint belongs to; ``None`` if there is none that can be read."""
    try:
        # mmap: of the tensors nothing is read.
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return Recipe.from_dict(state["identity"]["recipe"])
    except Exception:  # fit() says what is wrong with it
        return None


def _load_checkpoint(
    path: Path,
    identity: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
) -> list[dict]:
    try:
        # weights_only: nothing but tensors and plain containers is ever read from a file.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # PyTorch's own message advises to read the file without this protection: do not repeat it.
        reason = "it is damaged, or holds more than tensors and plain values"
        raise ValueError(f"{path} is not a checkpoint that can be read ({reason}); delete it") from None
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that can be read ({error}); delete it") from error
    keys = ("identity", "model", "optimizer", "scaler", "average", "random", "history")
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise ValueError(f"{path} is not a checkpoint of a training run; delete it or name another file")
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise ValueError(f"{path} was made with another {key}; delete it or name another file")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} was made with another model; delete it or name another file") from error
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"])
    return state["history"]
