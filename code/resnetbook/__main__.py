"""The command line: ``python -m resnetbook data | train | measure``."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping

import torch
from tqdm import tqdm

from resnetbook import data, parallel, runs, studies
from resnetbook._command import run_command
from resnetbook.devices import choose_device
from resnetbook.experiments import Experiment


def _data(arguments: argparse.Namespace) -> None:
    loaded = data.fashion_mnist(arguments.root, download=not arguments.offline)
    print(
        f"Fashion-MNIST is ready: {len(loaded.train_images):,} training and "
        f"{len(loaded.test_images):,} test images, checked."
    )


def _print_epoch(entry: dict) -> None:
    """One line for an epoch; its seconds are those of training, without evaluation."""
    line = f"epoch {entry['epoch']}: {entry['seconds']:.1f} s, training loss {entry['train_loss']:.4f}"
    line += f", training accuracy {entry['train_accuracy']:.4f}"
    if entry["valid_accuracy"] is not None:
        line += f", held-out accuracy {entry['valid_accuracy']:.4f}"
    # It steps aside for the progress bar.
    tqdm.write(line, file=sys.stdout)


def _show(name: str) -> None:
    """An experiment with all that it leaves to defaults."""
    if name in runs.EXPERIMENTS:
        experiment, seeds = runs.EXPERIMENTS[name], f"seeds 0 to {runs.EXPERIMENTS[name].seeds - 1}"
    else:
        _, experiment, seed = runs.experiment_of(name)
        seeds = f"seed {seed}"
    kept = dataclasses.asdict(experiment)
    parts = {"model": kept.pop("model"), "recipe": kept.pop("recipe")}
    print(f"{name}, {seeds}: {kept.pop('about')}")
    for title, fields in {**parts, "images, seeds and what is kept": kept}.items():
        print(f"{title}:")
        for field, value in fields.items():
            print(f"  {field:20}{value}")


def _list(known: Mapping[str, Experiment | studies.Study]) -> None:
    for name, each in known.items():
        print(f"{name}-seed0 … seed{each.seeds - 1}: {each.about}")


def _use_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.show and arguments.names:
        for name in arguments.names:
            _show(name)
        return
    if arguments.list or not arguments.names:
        _list(runs.EXPERIMENTS)
        return
    _use_threads(arguments.threads)
    # A wrong name or device fails before hours of training.
    for name in arguments.names:
        runs.experiment_of(name)
    device = choose_device(arguments.device)
    fabric = parallel.launched(device)
    for name in arguments.names:
        if name in runs.names() and not arguments.again:
            message = "recorded already (--again trains it once more)"
        else:
            result = runs.record(
                name, device=arguments.device, root=arguments.root, fabric=fabric, on_epoch=_print_epoch
            )
            seconds = sum(entry["seconds"] for entry in result["history"])
            message = f"test accuracy {result['test_accuracy']:.4f} after {seconds:,.1f} s of training"
        if fabric is None or fabric.is_global_zero:
            print(f"{name}: {message}")


def _measure(arguments: argparse.Namespace) -> None:
    if arguments.list or not arguments.names:
        _list(studies.STUDIES)
        return
    _use_threads(arguments.threads)
    # A wrong name fails before the work on another.
    for name in arguments.names:
        studies.study_of(name)
    for name in arguments.names:
        if name in studies.names() and not arguments.again:
            print(f"{name}: recorded already (--again measures it once more)")
        else:
            print(f"{name}: measured in {studies.record(name)['seconds']:,.1f} s")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with a message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m resnetbook", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("data", help="fetch and check Fashion-MNIST")
    command.add_argument("--root", help="folder that holds FashionMNIST/raw (default: the cache)")
    command.add_argument("--offline", action="store_true", help="touch no network")
    command.set_defaults(run=_data)

    command = commands.add_parser("train", help="train recorded runs again, and write their records")
    command.add_argument("names", nargs="*", help="such as source-recipe-seed0")
    command.add_argument("--list", action="store_true", help="list what can be trained")
    command.add_argument("--show", action="store_true", help="print the model and the recipe of each name")
    command.add_argument("--again", action="store_true", help="train even what is recorded already")
    command.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    command.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    command.add_argument("--root", help="folder that holds FashionMNIST/raw (default: the cache)")
    command.set_defaults(run=_train)

    command = commands.add_parser("measure", help="measure recorded studies again, and write their records")
    command.add_argument("names", nargs="*", help="such as lesions-seed0")
    command.add_argument("--list", action="store_true", help="list what can be measured")
    command.add_argument("--again", action="store_true", help="measure even what is recorded already")
    command.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    command.set_defaults(run=_measure)

    return run_command("resnetbook", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
