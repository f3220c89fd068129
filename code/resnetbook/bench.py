"""Training speed of ResNet-18, side by side in one process: d2l's loop with its loader, and ours.

Absolute speeds of a shared machine say little. So the contestants take turns, and what counts is the
ratio within each round.
"""

import contextlib
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from resnetbook import data, models, runs
from resnetbook._arguments import check_whole
from resnetbook.train import Recipe, choose_device, fit


@contextlib.contextmanager
def _d2l_folder() -> Iterator[None]:
    """Work in a folder where d2l finds the data: it reads ``../data``, and would download otherwise."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="resnetbook-") as folder:
        data.fashion_mnist(Path(folder) / "data")
        work = Path(folder) / "work"
        work.mkdir()
        os.chdir(work)
        try:
            yield
        finally:
            os.chdir(here)


def _d2l_contestant(side: int, num_batches: int, recipe: Recipe, device: torch.device) -> Callable[[], float]:
    """Seconds of ``num_batches`` steps as ``d2l.train_ch6`` makes them, from d2l's own loader.

    The clock starts once the first batch is there, so that starting its worker processes is not
    counted; drawing the live figure is not counted either.
    """
    from d2l import torch as d2l

    model = models.d2l_resnet18().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    loss_function = nn.CrossEntropyLoss()
    loader, _ = d2l.load_data_fashion_mnist(recipe.batch_size, resize=side)

    def run() -> float:
        model.train()
        metric = d2l.Accumulator(3)
        batches = iter(loader)
        batch = next(batches)
        start = time.perf_counter()
        for x, y in itertools.islice(itertools.chain([batch], batches), num_batches):
            optimizer.zero_grad()
            x, y = x.to(device), y.to(device)
            logits = model(x)
            loss = loss_function(logits, y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                metric.add(loss * x.shape[0], d2l.accuracy(logits, y), x.shape[0])
        return time.perf_counter() - start

    return run


def _our_contestant(
    num_batches: int, recipe: Recipe, device: torch.device, loaded: data.FashionMNIST
) -> Callable[[], float]:
    """Seconds of ``num_batches`` steps of :func:`resnetbook.train.fit`, preparing the images included."""
    model = models.d2l_resnet18()
    count = num_batches * recipe.batch_size
    images, labels = loaded.train_images[:count], loaded.train_labels[:count]

    def run() -> float:
        start = time.perf_counter()
        fit(model, images, labels, recipe, device=device, progress=False)
        return time.perf_counter() - start

    return run


def measure(
    side: int = 96,
    batch_size: int = 256,
    num_batches: int = 2,
    rounds: int = 5,
    device: str | torch.device | None = None,
) -> dict:
    """Measure the contestants in turn, after a round that warms up and does not count.

    Args:
        side: of the images in pixels.
        batch_size: images per step.
        num_batches: steps per turn.
        rounds: turns of each contestant.
        device: default: CUDA, MPS or the CPU, whichever there is.

    Returns:
        ``{"side", "batch_size", "num_batches", "contestants": {name: {"images_per_second": [one for each
        round], "median", "ratio": median of the ratios to d2l, round by round}}, "hardware", "versions"}``.

    Raises:
        ValueError: for a count below 1, more images than there are, or a device that is not there.
        ImportError: if d2l is not installed.
    """
    counts = {"side": side, "batch_size": batch_size, "num_batches": num_batches, "rounds": rounds}
    check_whole(1, **counts)
    available = data.SHAPES["train-images-idx3-ubyte"][0]
    if num_batches * batch_size > available:
        raise ValueError(
            f"{num_batches} batches of {batch_size:,} are more than the {available:,} training images"
        )
    chosen = choose_device(device)
    recipe = dataclasses.replace(
        runs.EXPERIMENTS["source-recipe"].recipe,
        num_epochs=1,
        batch_size=batch_size,
        resize=None if side == 28 else side,
        channels_last=False,
        autocast=None,
    )
    loaded = data.fashion_mnist()
    with _d2l_folder():
        contestants = {
            "d2l.train_ch6's loop and loader": _d2l_contestant(side, num_batches, recipe, chosen),
            "ours, float32": _our_contestant(num_batches, recipe, chosen, loaded),
            "ours, channels-last": _our_contestant(
                num_batches, dataclasses.replace(recipe, channels_last=True), chosen, loaded
            ),
        }
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):
            for name, run in contestants.items():
                seconds = run()
                if turn > 0:
                    speeds[name].append(num_batches * batch_size / seconds)
    base = next(iter(speeds.values()))
    return {
        "side": side,
        "batch_size": batch_size,
        "num_batches": num_batches,
        "contestants": {
            name: {
                "images_per_second": values,
                "median": statistics.median(values),
                "ratio": statistics.median(v / b for v, b in zip(values, base, strict=True)),
            }
            for name, values in speeds.items()
        },
        "hardware": runs.hardware(chosen),
        "versions": runs.versions(),
    }


def table(result: dict) -> str:
    """The result for people."""
    lines = [
        f"ResNet-18, {result['side']}×{result['side']}, batches of {result['batch_size']}, "
        f"data loading included, {result['hardware']['device']}",
        f"{'':34}{'images/s':>10}{'ratio':>8}",
    ]
    lines += [
        f"{name:34}{entry['median']:>10.0f}{entry['ratio']:>8.2f}"
        for name, entry in result["contestants"].items()
    ]
    rounds = len(next(iter(result["contestants"].values()))["images_per_second"])
    return "\n".join([*lines, f"medians of {rounds} rounds; the ratio is to d2l, round by round"])
