"""What the book measures on trained networks where that takes long: recorded once, as a training is.

A record is a JSON file in ``records/studies/``. Its keys: ``name``, ``study``, ``seed``, ``result`` (what the
study returns), ``seconds``, ``hardware``, ``versions``, ``date``, ``commit``, ``clean_tree``, ``command``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnetbook import calibration, corruptions, inside, numerics, runs, surface, transfer
from resnetbook.devices import choose_device

RECORDS = runs.RECORDS / "studies"


@dataclass(frozen=True)
class Study:
    """Something to measure, for every seed.

    Attributes:
        measure: called with the seed; returns what JSON can hold.
        seeds: how many, counted from 0.
        about: one sentence for the runs appendix.
    """

    measure: Callable[[int], dict]
    seeds: int
    about: str


STUDIES: dict[str, Study] = {}


def study_of(name: str) -> tuple[str, Study, int]:
    """Split a record's name into study and seed.

    Raises:
        KeyError: if the name is not ``STUDY-seedN`` with a known study.
    """
    study, seed = runs.split_name(name, STUDIES, "study", "STUDY")
    return study, STUDIES[study], seed


def record(name: str, folder: Path | None = None) -> dict:
    """Measure, and write the record.

    Args:
        name: ``STUDY-seedN``.
        folder: where the record goes; default: the package's ``records/studies/``.

    Raises:
        KeyError: if there is no such study.
        OSError: if the record cannot be written.
        data.DataError: if the data is missing or wrong.
    """
    study_name, study, seed = study_of(name)
    folder = folder or RECORDS
    folder.mkdir(parents=True, exist_ok=True)  # before the work, not after
    origin = runs.source()  # likewise: what is edited meanwhile did not take part
    start = time.perf_counter()
    measured = study.measure(seed)
    result = {
        "name": name,
        "study": study_name,
        "seed": seed,
        "result": measured,
        "seconds": time.perf_counter() - start,
        **runs.circumstances(choose_device(), origin, f"python -m resnetbook measure {name}"),
    }
    runs.save(result, folder)
    return result


def names(folder: Path | None = None) -> list[str]:
    """The names of all stored records, sorted."""
    return runs.names(folder or RECORDS)


def load(name: str, folder: Path | None = None) -> dict:
    """Load a record.

    Raises:
        KeyError: if there is none of this name; the message lists near names.
        ValueError: if the file holds no record.
    """
    return runs.load(name, folder or RECORDS)


def load_seeds(study: str, folder: Path | None = None) -> list[dict]:
    """Load every recorded seed of a study, in order of the seed.

    Raises:
        KeyError: if there is none.
    """
    return runs.load_seeds(study, folder or RECORDS)


def provenance(found: list[dict]) -> str:
    """Where records come from: where and when they were measured, and how to make the first again."""
    where = f"measured on {runs.dates(found)}, {runs.computers(found)}, {runs.software(found)}"
    return f"{where}\n{runs.again(found)}"


STUDIES["lesions"] = Study(
    measure=inside.lesion_study,
    seeds=3,
    about="Chapter 7: blocks of the residual and the plain network of 20 layers left out or swapped, and how "
    "much each changes what it is given.",
)
STUDIES["lesions-56"] = Study(
    measure=inside.deep_lesion_study,
    seeds=1,
    about="Chapter 7: the same for the residual network of 56 layers.",
)
STUDIES["salience"] = Study(
    measure=inside.salience_study,
    seeds=3,
    about="Chapter 7: what Grad-CAM's maps of ResNet-20 tell: patches erased, weights drawn anew.",
)
STUDIES["few-labels"] = Study(
    measure=transfer.few_labels,
    seeds=5,
    about="Chapter 8: a network that knows five classes moved to the other five, 5 to 500 labels a class, "
    "against training from scratch. The rates were fixed on held-out images.",
)
STUDIES["surface"] = Study(
    measure=surface.surface_study,
    seeds=1,
    about="Chapter 7: the loss around both networks of 56 layers, over a grid in two random directions.",
)
STUDIES["surface-cuts"] = Study(
    measure=surface.cut_study,
    seeds=3,
    about="Chapter 7: the loss along one random direction around four networks, with either kind of "
    "statistics; a seed is a direction.",
)
STUDIES["calibration"] = Study(
    measure=calibration.calibration_study,
    seeds=3,
    about="Chapter 7: confidence against accuracy of both networks of 20 layers, before and after one "
    "temperature.",
)
STUDIES["calibration-56"] = Study(
    measure=calibration.deep_calibration_study,
    seeds=1,
    about="Chapter 7: the same for both networks of 56 layers.",
)
STUDIES["corruptions"] = Study(
    measure=corruptions.corruption_study,
    seeds=3,
    about="Chapter 7: accuracy of both networks of 20 layers on test images turned, shifted and noisy.",
)
STUDIES["numerics"] = Study(
    measure=numerics.numerics_study,
    seeds=5,
    about="Why your numbers differ: one epoch of ResNet-8, by one thread and by two, with other "
    "instructions, another memory layout, another PyTorch (of the Python that `RESNETBOOK_OTHER_PYTHON` "
    "names) and another seed.",
)
