"""The command line: ``python -m resnetbook data | train | notebooks | bench``."""

import argparse
import codecs
import dataclasses
import json
import pathlib
import sys

import torch
from tqdm import tqdm

from resnetbook import data, parallel, runs
from resnetbook.devices import choose_device


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


def _train(arguments: argparse.Namespace) -> None:
    if arguments.show and arguments.names:
        for name in arguments.names:
            _show(name)
        return
    if arguments.list or not arguments.names:
        for name, experiment in runs.EXPERIMENTS.items():
            print(f"{name}-seed0 … seed{experiment.seeds - 1}: {experiment.about}")
        return
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
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


def _notebooks(arguments: argparse.Namespace) -> None:
    try:
        # Only this command needs them, and a reader's machine may lack them.
        from nbclient.exceptions import CellExecutionError

        from resnetbook import notebooks
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install -r requirements.txt") from error
    stale = []
    for path in notebooks.paths(arguments.names):
        print(f"{path.name} …", flush=True)
        try:
            if not (arguments.check or arguments.again):
                notebooks.refresh(path)
                continue
            different = notebooks.execute_again(path)[1] if arguments.again else notebooks.check(path)
            if different:
                print(different)
                stale.append(path.name)
        except CellExecutionError as error:
            # It quotes the cell and its traceback; nbclient's own traceback says nothing more.
            raise ValueError(f"{path.name}: {error}") from error
    if stale:
        advice = "see above" if arguments.again else "run python -m resnetbook notebooks"
        raise ValueError(f"not the committed outputs: {', '.join(stale)}; {advice}")


def _bench(arguments: argparse.Namespace) -> None:
    try:
        from resnetbook import bench

        if arguments.json and not arguments.json.parent.is_dir():
            # Said before minutes of measuring, not after.
            raise ValueError(f"cannot write {arguments.json}: there is no folder {arguments.json.parent}")
        result = bench.measure(
            arguments.side or bench.SIDES,
            arguments.batch_size,
            arguments.batches,
            arguments.rounds,
            arguments.device,
            arguments.profile,
        )
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install -r requirements.txt") from error
    print(bench.table(result))
    if arguments.json:
        named = {"name": arguments.json.stem} | result
        arguments.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


# For terminals and files whose characters are few, such as those of Windows.
_SPELLED = {"…": "...", "×": "x", "±": "+-", "–": "-", "−": "-", "→": "->", "’": "'", "“": '"', "”": '"'}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """In place of characters that an encoding lacks, what looks like them; a question mark for others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character, "?") for character in lacking), error.end


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with a message on standard error."""
    codecs.register_error("resnetbook.spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        # Something else may stand in for them, such as a notebook's.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="resnetbook.spell")
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

    command = commands.add_parser("notebooks", help="run the book's notebooks, and store their outputs")
    command.add_argument("names", nargs="*", help="such as 04 or 04_blocks.ipynb (default: all)")
    command.add_argument("--check", action="store_true", help="only compare with the stored outputs")
    command.add_argument(
        "--again",
        action="store_true",
        help="run quick cells twice, then again both ways, and compare",
    )
    command.set_defaults(run=_notebooks)

    command = commands.add_parser("bench", help="measure training speed, d2l's loop and ours in turn")
    command.add_argument(
        "--side", type=int, action="append", help="of the images in pixels; may be repeated (default: 96, 28)"
    )
    command.add_argument("--batch-size", type=int, default=256, help="images per step (default: 256)")
    command.add_argument("--batches", type=int, help="steps per turn (default: enough for two seconds)")
    command.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    command.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    command.add_argument("--profile", action="store_true", help="also say where the time of a step goes")
    command.add_argument("--json", type=pathlib.Path, help="also write the result to this file")
    command.set_defaults(run=_bench)

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (data.DataError, FloatingPointError, KeyError, OSError, ValueError) as error:
        # A KeyError would print its message in quotes; an OSError's first argument is only a number.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"resnetbook: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("resnetbook: interrupted", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
