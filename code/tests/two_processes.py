"""What the tests of several processes run, in one process or under torchrun; not a test itself.

``python two_processes.py JOB FOLDER`` writes what it finds to ``FOLDER``, the first process only unless
the name of the file tells which process wrote it.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from small_net import small_net
from torch import nn

from resnetbook import data, parallel, runs
from resnetbook.train import Recipe, fit

# 65 images in batches of 16: the last batch has one image, fewer than there are processes.
NUM_IMAGES = 65
RECIPES = {
    "one-step": Recipe(num_epochs=1, batch_size=NUM_IMAGES, lr=0.5),
    "odd": Recipe(num_epochs=2, batch_size=16, flip=True, shift=1),
    "accumulated": Recipe(num_epochs=2, batch_size=16, accumulate=3, ema=0.8, label_smoothing=0.1),
    "channels-last": Recipe(num_epochs=1, batch_size=16, channels_last=True, autocast="bfloat16"),
}
RESUMED = Recipe(num_epochs=4, batch_size=16)


def some_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, except that the first pixel of each image is its number."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM_IMAGES, 1, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 0, 0, 0] = torch.arange(NUM_IMAGES)
    return images, torch.randint(0, 10, (NUM_IMAGES,), generator=generator)


def net(frozen: bool) -> nn.Sequential:
    """The same weights in every process; ``frozen`` lets batch norm use its running statistics."""
    torch.manual_seed(3)
    model = small_net()
    if frozen:
        model[1].eval()
        model[1].train = lambda mode=True: model[1]
    return model


def train_all(folder: Path, fabric: object) -> None:
    images, labels = some_images()
    rank = fabric.global_rank if fabric else 0
    first = rank == 0
    for name, recipe in RECIPES.items():
        for frozen in (True, False):
            model = net(frozen)
            entries = []
            history = fit(
                model,
                images,
                labels,
                recipe,
                valid=(images[:20], labels[:20]),
                device=None if fabric else "cpu",
                fabric=fabric,
                checkpoint=folder / f"{name}-{frozen}.pt",
                progress=False,
                on_epoch=entries.append,
            )
            for entry in history:
                del entry["seconds"]
            torch.save(
                {"state": model.state_dict(), "history": history, "told": len(entries)},
                folder / f"{name}-{frozen}-rank{rank}.pt",
            )
    # Which images were trained on, by the number in the first pixel, after preparation.
    seen = []
    model = net(frozen=True)

    def remember(module: nn.Module, inputs: tuple) -> None:
        if module.training:
            pixels = (inputs[0][:, 0, 0, 0] * data.STD + data.MEAN) * 255
            seen.append(pixels.round().long().tolist())

    model[0].register_forward_pre_hook(remember)
    fit(model, images, labels, RESUMED, device=None if fabric else "cpu", fabric=fabric, progress=False)
    (folder / f"seen-rank{rank}.json").write_text(json.dumps(seen))

    data.fashion_mnist = lambda root=None: data.FashionMNIST(images, labels, images, labels)
    experiment = runs.Experiment(
        {"family": "cifar", "depth": 8, "in_channels": 1}, RESUMED, held_out=0, keep_logits=True
    )
    record = runs.record(
        "degradation-plain-8-seed0",
        folder / "records",
        folder / "checkpoints",
        experiment=experiment,
        progress=True,
        device=None if fabric else "cpu",
        fabric=fabric,
    )
    if first:
        print("test accuracy", record["test_accuracy"])


def resume(folder: Path, fabric: object, dies: bool) -> None:
    model = net(frozen=False)
    steps = 0

    def die(module: nn.Module, inputs: tuple) -> None:
        nonlocal steps
        steps += 1
        # In the third step of the third epoch of five steps.
        if steps == 13 and fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    if dies:
        model.register_forward_pre_hook(die)
    history = fit(model, *some_images(), RESUMED, fabric=fabric, checkpoint=folder / "run.pt", progress=False)
    if fabric.is_global_zero:
        torch.save(
            {"state": model.state_dict(), "losses": [e["train_loss"] for e in history]}, folder / "end.pt"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    job, where = sys.argv[1], Path(sys.argv[2])
    launched = parallel.launched(torch.device("cpu"))
    if job == "train":
        train_all(where, launched)
        if launched:
            resume(where, launched, dies=False)  # there is nothing yet to resume from: all of it
    else:
        resume(where, launched, dies=job == "die")
