"""Recorded runs: what was trained, how, where, and what came out.

A record is a JSON file in ``records/``. Its keys: ``name``, ``experiment``, ``model``, ``recipe``,
``seed``, ``held_out``, ``num_images``, ``history``, ``test_accuracy``, ``test_loss``, ``parameters``,
``macs``, ``hardware``, ``versions``, ``date``, ``commit``, ``clean_tree``, ``command``. Where a page needs
predictions, the test logits lie beside it as float16 (safetensors). Where one looks into the network, its
weights lie in ``weights/``, and the record's ``weights`` has their ``sha256``. A run on some of the classes
has them as ``classes``.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import html
import json
import os
import platform
import secrets
import statistics
import subprocess
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchvision
from safetensors.numpy import load_file
from safetensors.numpy import save as pack
from safetensors.torch import save as pack_weights
from torch import nn

from resnetbook import data, models, probes, tables
from resnetbook.checkpoint import recipe_of
from resnetbook.compare import prediction_interval
from resnetbook.devices import choose_device, suited
from resnetbook.experiments import EXPERIMENTS, Experiment
from resnetbook.recipe import Recipe
from resnetbook.train import evaluate, fit

if TYPE_CHECKING:
    from lightning.fabric import Fabric

RECORDS = Path(__file__).parent / "records"
MODES = ("recorded", "quick", "full")


# What a notebook's switch says; ``None`` leaves it to the environment.
_chosen: dict[str, str | None] = {"mode": None, "folder": "my-runs"}


def use(mode: str | None = None, folder: str | Path = "my-runs") -> None:
    """A notebook's switch: how it treats long runs from here on, and where it keeps those of its own.

    It may be called again at any time, and the last call holds.

    Args:
        mode: ``recorded``, ``quick`` or ``full``; ``None`` takes the environment variable
            ``RESNETBOOK_RUNS``, or ``recorded`` where that is not set.
        folder: for records and checkpoints of the modes ``quick`` and ``full``. In Colab, whose
            machines are taken back with all their files, name one on Google Drive, such as
            ``/content/drive/MyDrive/my-runs``.

    Raises:
        ValueError: for any other mode.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"the mode must be one of {', '.join(MODES)}, got {mode!r}")
    _chosen["mode"] = mode
    _chosen["folder"] = os.fspath(folder)


def mode() -> str:
    """How notebooks treat long runs: ``recorded``, ``quick`` or ``full``, as :func:`use` has it.

    Raises:
        ValueError: if the environment variable ``RESNETBOOK_RUNS`` decides and holds anything else.
    """
    chosen = _chosen["mode"] or os.environ.get("RESNETBOOK_RUNS") or "recorded"
    if chosen not in MODES:
        raise ValueError(f"RESNETBOOK_RUNS must be one of {', '.join(MODES)}, got {chosen!r}")
    return chosen


def own_folder() -> Path:
    """Where the modes ``quick`` and ``full`` keep records and checkpoints, as :func:`use` has it."""
    return Path(os.path.expanduser(_chosen["folder"]))


def names(folder: Path | None = None) -> list[str]:
    """The names of all stored records, sorted."""
    return sorted(path.stem for path in (folder or RECORDS).glob("*.json"))


def load(name: str, folder: Path | None = None) -> dict:
    """Load a record.

    Raises:
        KeyError: if there is none of this name; the message lists near names.
        ValueError: if the file holds no record.
    """
    known = names(folder)
    # A name is one of those, and no path: nothing outside of the folder is ever read.
    if name not in known:
        near = [k for k in known if k.startswith(name.split("-")[0])] or known
        raise KeyError(f"no record {name!r}; there are: {', '.join(near) or 'none yet'}")
    path = (folder or RECORDS) / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a record that can be read ({error}); record it again") from error
    if not isinstance(found, dict) or found.get("name") != name:
        raise ValueError(f"{path} does not hold the record {name!r}; record it again")
    return found


def load_seeds(experiment: str, folder: Path | None = None) -> list[dict]:
    """Load every recorded seed of an experiment, in order of the seed.

    Raises:
        KeyError: if there is none.
    """
    found = [name for name in names(folder) if name.rpartition("-seed")[0] == experiment]
    if not found:
        load(experiment, folder)  # raises, with near names
    return sorted((load(name, folder) for name in found), key=lambda record: record["seed"])


def records(experiment: str) -> list[dict]:
    """What a notebook shows: every seed of an experiment, recorded or trained now, as :func:`obtain` says.

    Raises:
        KeyError: if there is no such experiment.
    """
    return load_seeds(experiment, obtain(experiment))


def last(found: Sequence[dict], key: str) -> list[float]:
    """One number for each record: of its last epoch, such as ``train_loss``, or of the whole run,
    such as ``test_accuracy``.

    Raises:
        KeyError: if there is no such number.
    """
    return [{**record["history"][-1], **record}[key] for record in found]


def curves(found: Sequence[dict], key: str) -> list[list[float]]:
    """A number of every epoch, such as ``train_loss``, for each record.

    Raises:
        KeyError: if there is no such number.
    """
    return [[entry[key] for entry in record["history"]] for record in found]


def seconds(found: Sequence[dict]) -> list[float]:
    """How long the training of each record took."""
    return [sum(curve) for curve in curves(found, "seconds")]


class Folded(str):
    """Lines that a notebook shows folded, below one line that says what they are."""

    def _repr_html_(self) -> str:
        lines = html.escape(self)
        return f"<details><summary>Where the runs come from</summary><pre>{lines}</pre></details>"

    __repr__ = str.__str__


def provenance(found: Sequence[dict]) -> Folded:
    """Where records come from: what was trained, where and when, and how to make the first of them again.

    A notebook shows it folded; printed, it is plain text.
    """
    many = len(found) > 1
    arithmetic = _every(record["recipe"]["autocast"] or "float32" for record in found)
    images = _every(f"{record['num_images']:,}" for record in found)
    epochs = _every(len(record["history"]) for record in found)
    return Folded(
        "\n".join(
            [
                f"{len(found)} run{'s' * many} of {images} images, {epochs} epochs, "
                f"{tables.duration(sum(seconds(found)))}{' in all' * many}",
                f"{computers(found)}, {arithmetic}",
                f"recorded on {dates(found)}, {software(found)}",
                again(found),
            ]
        )
    )


def _every(values: Iterable[object]) -> str:
    """All different values, in order, in words."""
    return " and ".join(str(value) for value in sorted(set(values)))


def computers(found: Sequence[dict]) -> str:
    """Which devices made records, and with how many threads."""
    threads = {record["hardware"]["threads"] for record in found}
    devices = _every(record["hardware"]["device"] for record in found)
    return f"{devices}, {_every(threads)} thread{'s' * (threads != {1})}"


def dates(found: Sequence[dict]) -> str:
    """The days on which records were made."""
    return _every(record["date"] for record in found)


def software(found: Sequence[dict]) -> str:
    """PyTorch's versions and the commits that records were made with."""
    commits = _every((record["commit"] or "unknown")[:7] for record in found)
    return f"torch {_every(record['versions']['torch'] for record in found)}, commit {commits}"


def again(found: Sequence[dict]) -> str:
    """The command that makes the first of some records again."""
    return f"make {'one' if len(found) > 1 else 'it'} again: {found[0]['command']}"


def by_experiment(folder: Path | None = None) -> dict[str, list[dict]]:
    """Load every record, by experiment, each in order of the seed; other files in the folder do not matter.

    Raises:
        ValueError: if a file is named as a record and holds none.
    """
    experiments = dict.fromkeys(name.rpartition("-seed")[0] for name in names(folder))
    return {experiment: load_seeds(experiment, folder) for experiment in experiments if experiment}


def load_logits(name: str, folder: Path | None = None) -> np.ndarray:
    """Test logits of a record, float16 ``(num_test, num_classes)``; the book's have all 10,000.

    Raises:
        KeyError: if the record has none.
    """
    path = (folder or RECORDS) / f"{name}.safetensors"
    if name not in names(folder) or not path.is_file():
        raise KeyError(f"record {name!r} keeps no logits")
    return load_file(path)["test_logits"]


def mean_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n − 1); 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run of the reader's beside the book's.

    Attributes:
        accuracy: the reader's, on the test images.
        low: lower end of the band in which 95 of 100 runs of the book's recipe should lie.
        high: its upper end.
        seeds: how many records the band comes from.
        differs: in what the run differs from the book's, in words.
    """

    accuracy: float
    low: float
    high: float
    seeds: int
    differs: tuple[str, ...]

    @property
    def inside(self) -> bool:
        """Whether the accuracy lies in the band."""
        return self.low <= self.accuracy <= self.high

    def __str__(self) -> str:
        verdict = "inside" if self.inside else "outside"
        band = f"between {self.low:.4f} and {self.high:.4f} (from {self.seeds} seeds)"
        words = f"{verdict}: {self.accuracy:.4f}, and 95 of 100 runs should lie {band}"
        if self.differs:
            return "\n".join([f"{words}. {'It differs' if self.inside else 'Look at'}:", *self.differs])
        if self.inside:
            return words
        return (
            f"{words}. Look at what you changed in the code, and at the record, if you gave a number alone. "
            "If nothing differs, train another seed: of 100 right runs, 5 lie outside"
        )


def compare(name: str, mine: dict | float) -> Comparison:
    """Does a run of yours lie where a run of the book's recipe should lie?

    The band is :func:`resnetbook.compare.prediction_interval` of the recorded test accuracies, within 0 and
    1. With three seeds it is wide: so much is not known.

    Args:
        name: an experiment, or one of its runs, such as ``epochs-5`` or ``epochs-5-seed0``.
        mine: a record of yours (``runs.load("epochs-5-seed0", folder)``), or a test accuracy.

    Raises:
        KeyError: if the book has no such records.
        ValueError: if it has one seed only, or ``mine`` is an accuracy that is not between 0 and 1.
    """
    experiment = name if name in EXPERIMENTS else experiment_of(name)[0]
    found = load_seeds(experiment)
    if len(found) < 2:
        raise ValueError(f"the book has one seed of {experiment}, and one seed has no spread")
    accuracy = float(mine["test_accuracy"] if isinstance(mine, dict) else mine)
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy is a share between 0 and 1, got {accuracy}")
    low, high = prediction_interval(last(found, "test_accuracy"))
    differs = _differences(found, mine) if isinstance(mine, dict) else ()
    return Comparison(accuracy, max(low, 0.0), min(high, 1.0), len(found), tuple(differs))


def _differences(found: Sequence[dict], mine: dict) -> list[str]:
    """In what a record differs from those of the book, what matters most first."""

    def flat(record: dict) -> dict[str, object]:
        # Older records do not name what the recipe could not say yet.
        recipe = dataclasses.asdict(Recipe(**record["recipe"]))
        return {
            **{f"the model's {key}": value for key, value in record["model"].items()},
            **{f"the recipe's {key}": value for key, value in recipe.items()},
            "the number of training images": record["num_images"],
            "the number of images held out": record["held_out"],
            "the number of epochs done": len(record["history"]),
            "the processor": record["hardware"]["device"],
            "the number of threads": record["hardware"]["threads"],
            "PyTorch": record["versions"]["torch"],
        }

    book, yours = [flat(record) for record in found], flat(mine)
    lines = []
    for key in dict.fromkeys([*yours, *book[0]]):
        values = list(dict.fromkeys(str(record.get(key)) for record in book))
        if str(yours.get(key)) not in values:
            lines.append(f"- {key} is {yours.get(key)}, in the book {' or '.join(values)}")
    return lines


def experiment_of(name: str) -> tuple[str, Experiment, int]:
    """Split a record's name into experiment and seed.

    Raises:
        KeyError: if the name is not ``EXPERIMENT-seedN`` with a known experiment.
    """
    experiment, seed = split_name(name, EXPERIMENTS, "run", "EXPERIMENT")
    return experiment, EXPERIMENTS[experiment], seed


def split_name(name: str, known: Collection[str], what: str, first: str) -> tuple[str, int]:
    """Split a record's name in front of its seed.

    Args:
        name: such as ``FIRST-seedN``.
        known: what may stand in front.
        what: how a record of this kind is called in a message.
        first: how that which stands in front is called there.

    Raises:
        KeyError: if the name is of another form, or what stands in front is not known.
    """
    found, _, seed = name.rpartition("-seed")
    # One name for one record: neither seed01 nor digits of another script.
    if found not in known or not seed.isdecimal() or seed != str(int(seed)):
        raise KeyError(f"no {what} {name!r}: say {first}-seedN with one of {', '.join(known)}")
    return found, int(seed)


def record(
    name: str,
    folder: Path | None = None,
    checkpoints: Path | None = None,
    device: str | None = None,
    root: str | None = None,
    progress: bool = True,
    experiment: Experiment | None = None,
    fabric: Fabric | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> dict:
    """Train a run in full and write its record; an interrupted one goes on from its checkpoint.

    What this device does badly (:func:`resnetbook.devices.suited`) is done otherwise, and said in one line;
    the record holds the recipe that was carried out. A run that began elsewhere goes on as it began. With
    ``fabric`` several processes train together, and the first of them writes.

    Args:
        name: ``EXPERIMENT-seedN``.
        folder: where the record goes; default: the package's ``records/``.
        checkpoints: folder for checkpoints; default: in the cache.
        device: default: CUDA, MPS or the CPU, whichever there is.
        root: of the data.
        progress: show one progress bar.
        experiment: what to train instead of the experiment of that name.
        fabric: as for :func:`resnetbook.train.fit`; it brings the device.
        on_epoch: called with each new entry of the history.

    Raises:
        KeyError: if there is no such run.
        ValueError: if this machine has no such device.
        OSError: if a checkpoint or the record cannot be written; the message says what to do.
        data.DataError: if the data is missing or wrong.
    """
    experiment_name, known, seed = experiment_of(name)
    experiment = experiment or known
    folder = folder or RECORDS
    folder.mkdir(parents=True, exist_ok=True)  # before hours of training, not after
    chosen = choose_device(device) if fabric is None else fabric.device
    origin = source()  # before the run: what is edited while it computes did not take part
    dataset = data.fashion_mnist(root)
    images, labels, valid = dataset.train_images, dataset.train_labels, None
    if experiment.held_out:
        images, labels, *valid = data.split(images, labels, experiment.held_out)
    test_images, test_labels = dataset.test_images, dataset.test_labels
    if experiment.classes is not None:
        images, labels = data.of_classes(images, labels, experiment.classes)
        valid = valid and data.of_classes(*valid, experiment.classes)
        test_images, test_labels = data.of_classes(test_images, test_labels, experiment.classes)
    images, labels = images[: experiment.num_images], labels[: experiment.num_images]
    torch.manual_seed(seed)
    model = models.build(experiment.model)
    checkpoint = (checkpoints or data.cache_root() / "checkpoints") / f"{name}.pt"
    recipe, differs = _carried_out(experiment.recipe, chosen, checkpoint)
    experiment = dataclasses.replace(experiment, recipe=recipe)
    if differs and (fabric is None or fabric.is_global_zero):
        print(f"{name}: {differs}")
    history = fit(
        model,
        images,
        labels,
        experiment.recipe,
        valid=valid,
        fixed_slice=experiment.fixed_slice,
        seed=seed,
        device=None if fabric else chosen,
        fabric=fabric,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    if experiment.keep_weights:
        # Before the test: what is kept is what was tested.
        model.load_state_dict({key: _rounded(value) for key, value in model.state_dict().items()})
    test_images, test_labels = test_images[: experiment.num_test], test_labels[: experiment.num_test]
    test = evaluate(model, test_images, test_labels, experiment.recipe, chosen)
    side = experiment.recipe.resize or 28
    result = {
        "name": name,
        "experiment": experiment_name,
        "model": experiment.model,
        "recipe": dataclasses.asdict(experiment.recipe),
        "seed": seed,
        "held_out": experiment.held_out,
        "num_images": len(images),
        "history": history,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "parameters": probes.count_parameters(model),
        "macs": probes.count_macs(model, (1, side, side)),
        **circumstances(chosen, origin, f"python -m resnetbook train {name}"),
    }
    if experiment.classes is not None:
        result["classes"] = list(experiment.classes)
    if fabric is not None:
        result["hardware"]["processes"] = fabric.world_size
        if not fabric.is_global_zero:
            return result
    packed = None
    if experiment.keep_weights:
        packed = _packed(model)
        result["weights"] = {"dtype": "float16", "sha256": hashlib.sha256(packed).hexdigest()}
    _store(result, test.logits if experiment.keep_logits else None, packed, folder, checkpoint)
    return result


def _rounded(value: torch.Tensor) -> torch.Tensor:
    """As float16 keeps it; a count of batches stays a whole number."""
    return value.half().to(value.dtype) if value.is_floating_point() else value


def _packed(model: nn.Module) -> bytes:
    """The state of a network as the bytes of a safetensors file, in float16."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return pack_weights(
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    )


def _store(
    result: dict, logits: torch.Tensor | None, weights: bytes | None, folder: Path, checkpoint: Path
) -> None:
    """Write a record with its logits and weights; then the checkpoint has done its work."""
    try:
        if weights is not None:
            path = models.weights_path(result["name"], folder)
            path.parent.mkdir(exist_ok=True)
            _write(path, weights)
        if logits is not None:
            packed = pack({"test_logits": logits.half().numpy()})
            _write(folder / f"{result['name']}.safetensors", packed)
        save(result, folder)
    except OSError as error:
        raise OSError(
            f"cannot write the record of {result['name']} into {folder}: {error}. The training is not lost: "
            f"make room there, and run the same again; it goes on from {checkpoint}"
        ) from error
    # With what a kill in the middle of writing left beside it.
    for path in (checkpoint, *checkpoint.parent.glob(f"{checkpoint.name}.*.tmp")):
        path.unlink(missing_ok=True)


def obtain(experiment: str, folder: str | Path | None = None) -> Path:
    """Make sure that an experiment has records, as :func:`mode` says, and return their folder.

    ``recorded`` trains nothing and returns the book's records. ``quick`` trains one seed for two
    epochs on 1,000 images (or the experiment's ``quick_images``), with the warm-up and the reach of
    a moving average shortened alike, and tests it on 1,000, to see it happen; its numbers are not
    the book's.
    ``full`` trains every seed as the book did, as far as the device can (see :func:`record`), and goes on
    where it was interrupted: where the records go, the checkpoints lie as well.

    Args:
        experiment: a name in ``EXPERIMENTS``.
        folder: where ``quick`` and ``full`` keep their records and checkpoints; default:
            :func:`own_folder`.

    Raises:
        KeyError: if there is no such experiment.
    """
    known = experiment_of(f"{experiment}-seed0")[1]
    chosen = mode()
    if chosen == "recorded":
        return RECORDS
    seeds = known.seeds
    if chosen == "quick":
        known = known.quick()
        seeds = 1
    folder = (own_folder() if folder is None else Path(folder)) / chosen
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"{experiment}-seed{seed}" for seed in range(seeds)):
        if name not in names(folder):
            record(name, folder, checkpoints=folder, experiment=known)
    return folder


def save(result: dict, folder: Path | None = None) -> Path:
    """Write a record aside, then rename it into place."""
    path = (folder or RECORDS) / f"{result['name']}.json"
    _write(path, (json.dumps(result, indent=1) + "\n").encode())
    return path


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; two processes may write the same file, and the last one stays."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)  # there only if something went wrong, such as a full disk


def _carried_out(recipe: Recipe, device: torch.device, checkpoint: Path) -> tuple[Recipe, str]:
    """The recipe that a run is trained by on a device, and how it differs from ``recipe``, in words.

    In Colab or on a cluster the next machine may have other instructions than the one before: then the run
    goes on as it began, as half of it is done so.
    """
    chosen, differs = suited(recipe, device)
    began = recipe_of(checkpoint)
    machines = {"autocast": None, "channels_last": False}
    same_but_for_machines = began is not None and (
        dataclasses.replace(began, **machines) == dataclasses.replace(recipe, **machines)
    )
    if not same_but_for_machines or began == chosen:
        return chosen, differs
    differs = f"goes on in {began.autocast or 'float32'}, as it began"
    if suited(began, device)[0].autocast != began.autocast:
        differs += f", which is slow on this machine; without {checkpoint} it would begin again in float32"
    return began, differs


def source() -> dict:
    """The commit that the package runs from, and whether its files were unchanged."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RECORDS.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # New records are results, not code: they do not make the tree dirty.
        changes = git("status", "--porcelain", "--", ".", ":!records", ":!weights")
        return {"commit": git("rev-parse", "HEAD"), "clean_tree": changes == ""}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean_tree": False}


def circumstances(device: torch.device, origin: dict, command: str) -> dict:
    """How a record came about: on what, with which versions and code, when, and how to make it again.

    Args:
        device: what computed.
        origin: of the code, as :func:`source` said before the work.
        command: makes the record again.
    """
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **origin,
        "command": command,
    }


def hardware(device: torch.device) -> dict:
    """The name of the device that computes, and the number of CPU threads."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: platform's word is the best there is
    return {"device": name, "threads": torch.get_num_threads()}


def versions() -> dict:
    """The versions that a result may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
