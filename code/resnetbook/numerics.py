"""Why your numbers differ: the same training once more, in other circumstances.

Sums of floating-point numbers depend on the order in which they are added. Other threads, instructions,
memory layouts and versions of PyTorch add in another order. The first step then differs in the last digits,
and training makes more of it with every step.

``python -m resnetbook.numerics`` is how the study calls itself: threads and instructions are settled when a
process starts, so each way of computing has a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from resnetbook import data, models
from resnetbook.experiments import EXPERIMENTS
from resnetbook.train import evaluate, fit

EXPERIMENT = "degradation-residual-8"
STEPS = (1, 10, 100, 469)  # the last is one epoch: 60,000 images in batches of 128
# A Python with another version of PyTorch, where there is one: the study then has one more way.
OTHER_PYTHON = "RESNETBOOK_OTHER_PYTHON"


@dataclass(frozen=True)
class Way:
    """How a training is computed.

    Attributes:
        threads: of the processor.
        channels_last: whether images and weights lie channels last in memory.
        seed_by: what is added to the seed.
        environment: variables that are set when its process starts.
        python: the interpreter.
    """

    threads: int = 1
    channels_last: bool = True
    seed_by: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable


# What all others are compared with: one thread, and the recipe as it stands.
FIRST = Way()
WAYS = {
    "the same again": Way(),
    "two threads": Way(threads=2),
    "an older processor": Way(environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "channels first": Way(channels_last=False),
    "another seed": Way(seed_by=1),
}


def train(seed: int, num_steps: int, channels_last: bool) -> np.ndarray:
    """Train the network of :data:`EXPERIMENT` for some steps on the CPU.

    Returns:
        Logits of all test images, float32 ``(10000, 10)``.
    """
    experiment = EXPERIMENTS[EXPERIMENT]
    recipe = dataclasses.replace(experiment.recipe, num_epochs=1, channels_last=channels_last)
    dataset = data.fashion_mnist()
    count = num_steps * recipe.batch_size
    torch.manual_seed(seed)
    model = models.build(experiment.model)
    images, labels = dataset.train_images[:count], dataset.train_labels[:count]
    fit(model, images, labels, recipe, seed=seed, device="cpu", progress=False)
    return evaluate(model, dataset.test_images, dataset.test_labels, recipe, "cpu").logits.numpy()


def train_in_a_process(way: Way, seed: int, steps: Sequence[int] = STEPS) -> tuple[np.ndarray, str]:
    """Train by one way, in a process of its own, anew for each number of steps.

    Returns:
        Logits of all test images, float32 ``(len(steps), 10000, 10)``, and the version of PyTorch.

    Raises:
        RuntimeError: if the process fails; the message is what it said.
    """
    settings = {"OMP_NUM_THREADS": str(way.threads), "PYTHONPATH": str(Path(__file__).parents[1])}
    environment = {**os.environ, **settings, **way.environment}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "logits.npz"
        command = [way.python, "-m", "resnetbook.numerics", str(seed + way.seed_by), str(file)]
        command += ["--threads", str(way.threads), "--steps", *map(str, steps)]
        command += ["--channels-last"] * way.channels_last
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
        with np.load(file) as found:
            return found["logits"], str(found["torch"])


def differences(logits: np.ndarray, first: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """How far two trainings are apart, for each number of steps.

    Args:
        logits: ``(number of steps, N, K)``.
        first: of the training to compare with, likewise.
        labels: ``(N,)``.

    Returns:
        ``largest``: the largest absolute difference of two logits; ``changed``: the share of images with
        another answer; ``accuracy``: the share of right answers.
    """
    answers = logits.argmax(2)
    return {
        "largest": [float(x) for x in np.abs(logits - first).max(axis=(1, 2))],
        "changed": [float(x) for x in (answers != first.argmax(2)).mean(axis=1)],
        "accuracy": [float(x) for x in (answers == labels).mean(axis=1)],
    }


def numerics_study(seed: int) -> dict:
    """Train by every way of :data:`WAYS`, and compare with the first.

    Returns:
        ``steps``; ``accuracy`` of the first training, for each number of steps; and ``ways``, with the
        :func:`differences` of each and its version of PyTorch as ``torch``.
    """
    labels = data.fashion_mnist().test_labels.numpy()
    ways = dict(WAYS)
    if os.environ.get(OTHER_PYTHON):
        ways["another PyTorch"] = Way(python=os.environ[OTHER_PYTHON])
    first, _ = train_in_a_process(FIRST, seed)
    found = {}
    for name, way in ways.items():
        logits, version = train_in_a_process(way, seed)
        found[name] = {"torch": version, **differences(logits, first, labels)}
    accuracy = differences(first, first, labels)["accuracy"]
    return {"steps": list(STEPS), "accuracy": accuracy, "ways": found}


def _main() -> None:
    parser = argparse.ArgumentParser(description="Train one way, for the study of circumstances.")
    parser.add_argument("seed", type=int)
    parser.add_argument("file", type=Path, help="where the logits go")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--channels-last", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logits = np.stack([train(given.seed, steps, given.channels_last) for steps in given.steps])
    np.savez(given.file, logits=logits, torch=torch.__version__.partition("+")[0])


if __name__ == "__main__":
    _main()
