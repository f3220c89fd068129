"""Several processes that train one model together, by Lightning Fabric.

PyTorch's ``torchrun`` starts the processes and tells each its place through the environment:
``torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 -m resnetbook train NAME``.
Without ``--local-addr`` it goes by this machine's name, and hangs where that does not resolve.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning.fabric import Fabric


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
