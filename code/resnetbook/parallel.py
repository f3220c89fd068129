"""Several processes that train one model together, by Lightning Fabric; and one that trains alone.

PyTorch's ``torchrun`` starts the processes and tells each its place through the environment:
``torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 -m resnetbook train NAME``.
Without ``--local-addr`` it goes by this machine's name, and hangs where that does not resolve.

Each process takes its share of every batch, and the gradients of the shares are averaged. A batch then
holds the same images, augmented alike, as in one process. Only batch normalization differs: every process
normalizes by its own share, and the running statistics are those of the first. Every process evaluates
all that is evaluated.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.fabric import Fabric


class OneProcess:
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


def launched(device: torch.device) -> Fabric | None:
    """The Fabric of the processes that torchrun started; ``None`` where this process is alone.

    Every process holds the whole model and exchanges gradients with the others (strategy ``ddp``),
    through NCCL between GPUs and through gloo between CPUs. Lightning's ``fabric run`` is torchrun, too.

    Args:
        device: of the type that the processes compute on; each process then gets its own.

    Raises:
        ValueError: if Lightning is not installed, or cannot share out such a device.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" not in os.environ or world_size == 1:
        return None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"several processes need CPUs or CUDA, not {device.type}; try --device cpu")
    try:
        # Only several processes need it, and a reader's machine may lack it.
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install lightning") from error
    # A convolution of one input channel has gradients that both memory formats describe alike.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    processes_here = int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=device.type,
        strategy="ddp",
        devices=processes_here,
        num_nodes=world_size // processes_here,
    )
    # Under Lightning's own launcher, `fabric run`, calling launch() is an error.
    if os.environ.get("LT_CLI_USED") != "1":
        fabric.launch()
    return fabric


def parts_of_batch(
    num_images: int, accumulate: int, processes: Fabric | OneProcess
) -> list[tuple[slice, float]]:
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


def share_statistics(processes: Fabric | OneProcess, *models: nn.Module) -> None:
    """Give every process the running statistics of the first; each has kept those of its own share."""
    if processes.world_size == 1:
        return
    for model in dict.fromkeys(models):
        statistics = processes.broadcast(dict(model.named_buffers()))
        model.load_state_dict(statistics, strict=False)


@contextmanager
def advice_to_resume(processes: Fabric | OneProcess, checkpoint: str | Path | None) -> Iterator[None]:
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
