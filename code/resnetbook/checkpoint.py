"""Checkpoints: all that a training needs to go on from, in one file that is never half written."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnetbook.recipe import Recipe

_ELSE = "delete it or name another file"


@dataclass
class TrainingState:
    """What changes in the course of a training.

    Attributes:
        model: the weights, and the statistics of batch normalization.
        optimizer: SGD with its momentum.
        scaler: of the loss in float16; it does nothing otherwise.
        average: the moving average of the model, if the recipe keeps one.
        history: one entry for every epoch that is done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    history: list[dict] = field(default_factory=list)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated, and that the training ends with."""
        return self.model if self.average is None else self.average.module

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self) -> None:
        """A step along the gradients, after which the moving average follows the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the state of a training.

    Attributes:
        path: of the file; it need not be there yet.
        identity: what the run that goes on must share with the one that wrote the file.
    """

    path: Path
    identity: dict

    @classmethod
    def of_run(
        cls, path: str | Path, recipe: Recipe, seed: int, images: Tensor, labels: Tensor
    ) -> Checkpoint:
        """The checkpoint of one run; every image is read once, to tell it from other runs."""
        digest = hashlib.sha256(images.cpu().numpy().tobytes() + labels.cpu().numpy().tobytes())
        # int: NumPy's integers could not be read back.
        identity = {"recipe": dataclasses.asdict(recipe), "seed": int(seed), "data": digest.hexdigest()}
        return cls(Path(path), identity)

    def save(self, state: TrainingState) -> None:
        """Write aside, flush to the disk, rename: a kill at any moment leaves the old or the new one.

        Raises:
            OSError: if it cannot be written, as on a full disk; the message says what to do.
        """
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        content = {
            "identity": self.identity,
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "average": None if state.average is None else state.average.state_dict(),
            "random": torch.get_rng_state(),
            "history": state.history,
        }
        try:
            with open(aside, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except (OSError, RuntimeError) as error:
            # On a full disk PyTorch ends with a RuntimeError about positions; what caused it says why.
            cause = error if isinstance(error, OSError) else error.__context__ or error
            epoch = len(state.history)
            again = f"goes on after epoch {epoch - 1}" if path.exists() else "begins again"
            raise OSError(
                f"cannot write the checkpoint {path} of epoch {epoch}: {cause}. Make room there, and run "
                f"the same again: it {again}"
            ) from error
        finally:
            aside.unlink(missing_ok=True)  # there only if something went wrong, such as a full disk

    def load_into(self, state: TrainingState) -> None:
        """Put the state back as it was saved, and PyTorch's random state with it.

        Raises:
            ValueError: if the file cannot be read, or is of another run or model; the message says which.
        """
        content = _read(self.path)
        for key, value in self.identity.items():
            if content["identity"].get(key) != value:
                raise ValueError(f"{self.path} was made with another {key}; {_ELSE}")
        try:
            state.model.load_state_dict(content["model"])
            state.optimizer.load_state_dict(content["optimizer"])
            if state.average is not None:
                state.average.load_state_dict(content["average"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} was made with another model; {_ELSE}") from error
        state.scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["random"])
        state.history = content["history"]


def recipe_of(path: Path) -> Recipe | None:
    """The recipe of the run that a checkpoint belongs to; ``None`` if there is none that can be read."""
    try:
        # mmap: of the tensors nothing is read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return Recipe.from_dict(content["identity"]["recipe"])
    except Exception:  # fit() says what is wrong with it
        return None


def _read(path: Path) -> dict:
    try:
        # weights_only: nothing but tensors and plain containers is ever read from a file.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # PyTorch's own message advises to read the file without this protection: do not repeat it.
        reason = "it is damaged, or holds more than tensors and plain values"
        raise ValueError(f"{path} is not a checkpoint that can be read ({reason}); delete it") from None
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that can be read ({error}); delete it") from error
    keys = ("identity", "model", "optimizer", "scaler", "average", "random", "history")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise ValueError(f"{path} is not a checkpoint of a training run; {_ELSE}")
    return content
