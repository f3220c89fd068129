"""Training and evaluation: one recipe in, one history out."""

import dataclasses
import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from resnetbook._arguments import check_whole
from resnetbook.data import MEAN, STD
from resnetbook.probes import evaluation_mode

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
        channels_last: memory format of images and weights.
        autocast: ``None`` for float32, or ``bfloat16``, or ``float16`` (with loss scaling).

    Raises:
        ValueError: for a value that makes no sense; the message says what is allowed.
    """

    num_epochs: int = 10
    batch_size: int = 128
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
    channels_last: bool = False
    autocast: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name in ("nesterov", "normalize", "flip", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        whole = {"num_epochs": 1, "batch_size": 1, "warmup_steps": 0, "shift": 0, "resize": 1}
        for name, least in whole.items():
            if name == "resize" and self.resize is None:
                continue
            check_whole(least, **{name: getattr(self, name)})
            # A plain number: NumPy's could not be read back from a checkpoint or a record.
            object.__setattr__(self, name, int(getattr(self, name)))
        allowed = {
            "lr": (lambda x: 0 < x < math.inf, "a positive number"),
            "momentum": (lambda x: 0 <= x < 1, "a number of at least 0 and below 1"),
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

    @classmethod
    def from_dict(cls, fields: dict) -> "Recipe":
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
    if recipe.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


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
        checkpoint: a file, written after every epoch; if it is there, training goes on from it.
        progress: show one progress bar.
        on_epoch: called with each new history entry.

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
    device = choose_device(device)
    # Only a checkpoint needs it, and it reads every image.
    identity = _identity(recipe, seed, images, labels) if checkpoint is not None else {}
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    initialize(model, recipe.initialization)
    model.to(device=device, memory_format=memory_format)
    images, labels = images.to(device), labels.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.autocast == "float16")
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    num_steps = recipe.num_epochs * steps_per_epoch

    history: list[dict] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _load_checkpoint(Path(checkpoint), identity, model, optimizer, scaler)

    bar = tqdm(total=num_steps, initial=len(history) * steps_per_epoch, unit="step", disable=not progress)
    with bar:
        for epoch in range(len(history) + 1, recipe.num_epochs + 1):
            start = time.perf_counter()
            model.train()
            # Order and augmentation follow from seed and epoch alone: a resumed run repeats them.
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(images), generator=generator).to(device)
            loss_sum = torch.zeros((), device=device)
            correct = torch.zeros((), device=device)
            for step, indices in enumerate(order.split(recipe.batch_size)):
                factor = lr_factor(recipe, (epoch - 1) * steps_per_epoch + step, num_steps)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * factor
                x = prepare(augment(images[indices], recipe, generator), recipe)
                y = labels[indices]
                with _autocast(recipe, device):
                    logits = model(x)
                _check_logits(logits, len(y))
                logits = logits.float()
                if step == 0:
                    _check_labels(labels, logits.shape[1])
                    if valid is not None:
                        _check_labels(valid[1], logits.shape[1])
                loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                # Summed on the device: asking for a number at every step would wait for it.
                loss_sum += loss.detach() * len(y)
                correct += (logits.detach().argmax(1) == y).sum()
                bar.update()
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
                entry["valid_accuracy"] = evaluate(model, *valid, recipe, device).accuracy
            if fixed_slice:
                part = evaluate(model, images[:fixed_slice], labels[:fixed_slice], recipe, device)
                entry["slice_loss"] = part.loss
                entry["slice_accuracy"] = part.accuracy
            history.append(entry)
            bar.set_postfix(epoch=epoch, loss=f"{entry['train_loss']:.3f}")
            if checkpoint is not None:
                _save_checkpoint(Path(checkpoint), identity, model, optimizer, scaler, history)
            if on_epoch is not None:
                on_epoch(entry)
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
    batches = []
    with evaluation_mode(model):
        for part in images.split(batch_size):
            with _autocast(recipe, device):
                logits = model(prepare(part.to(device), recipe))
            _check_logits(logits, len(part))
            batches.append(logits.float().cpu())
    logits = torch.cat(batches)
    labels = labels.cpu()
    _check_labels(labels, logits.shape[1])
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Evaluation(loss, accuracy, logits)


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


def _check_logits(logits: Tensor, num_images: int) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model must give logits (N, num_classes), got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != num_images:
        raise ValueError(
            f"the model must give logits ({num_images}, num_classes) for {num_images} images, "
            f"got {tuple(logits.shape)}"
        )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels run from {low} to {high}, the model knows 0 to {num_classes - 1}")


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
    history: list[dict],
) -> None:
    """Write aside, flush to the disk, rename: a kill at any moment leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "random": torch.get_rng_state(),
        "history": history,
    }
    try:
        with open(aside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)  # there only if something went wrong, such as a full disk


def _load_checkpoint(
    path: Path,
    identity: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
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
    keys = ("identity", "model", "optimizer", "scaler", "random", "history")
    if not isinstance(state, dict) or any(key not in state for key in keys):
        raise ValueError(f"{path} is not a checkpoint of a training run; delete it or name another file")
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise ValueError(f"{path} was made with another {key}; delete it or name another file")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} was made with another model; delete it or name another file") from error
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"])
    return state["history"]
