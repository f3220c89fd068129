"""Measure how far the losses of the assignment lie apart when only chance differs; write ``spread.json``.

Another processor rounds otherwise, and after some steps that is like another seed. So the band in which a
repetition should lie comes from several seeds on the same images.
"""

import json
import statistics
from datetime import date
from pathlib import Path

from personal import NETWORKS, NUM_IMAGES, slice_of, train_three

from resnetbook import data, runs

NAMES, SEEDS = ("first", "second", "third"), 3


def main() -> None:
    """Train, and write the losses and their standard deviation within a slice, pooled over the slices."""
    every = data.fashion_mnist()
    losses: dict[str, list[list[float]]] = {network: [] for network in NETWORKS}
    for name in NAMES:
        images, labels = slice_of(name, every.train_images, every.train_labels)
        found = [train_three(name, images, labels, shift=shift) for shift in range(SEEDS)]
        print(name, found, flush=True)
        for network in NETWORKS:
            losses[network].append([one[network] for one in found])
    spread = {
        "num_images": NUM_IMAGES,
        "losses": losses,
        "std": {
            network: round(statistics.fmean(map(statistics.variance, groups)) ** 0.5, 4)
            for network, groups in losses.items()
        },
        "date": date.today().isoformat(),
        "versions": runs.versions(),
    }
    path = Path(__file__).with_name("spread.json")
    path.write_text(json.dumps(spread, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
