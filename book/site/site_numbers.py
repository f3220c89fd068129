"""The tables of the page on why numbers differ, written from the records when the site is built."""

import statistics
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from resnetbook import compare, numerics, runs, studies
from site_tables import accuracy_text, table


def _of_several_seeds() -> list[tuple[str, list[dict]]]:
    """The experiments of three seeds or more, each with its records: fewer make no band."""
    return [(name, found) for name, found in runs.by_experiment().items() if len(found) >= 3]


def bands() -> list[tuple[str, str, str]]:
    """For each experiment of three seeds or more: name, accuracy with its deviation and seeds, and band."""
    rows = []
    for name, found in _of_several_seeds():
        low, high = compare.prediction_interval(runs.last(found, "test_accuracy"))
        accuracy = f"{accuracy_text(found)} (n = {len(found)})"
        rows.append((name, accuracy, f"{max(low, 0):.3f}–{min(high, 1):.3f}"))
    return rows


def left_out() -> tuple[int, int]:
    """How many records of such experiments lie in the band of their other seeds, and of how many."""
    inside = []
    for _, found in _of_several_seeds():
        values = runs.last(found, "test_accuracy")
        for number, value in enumerate(values):
            low, high = compare.prediction_interval(values[:number] + values[number + 1 :])
            inside.append(low <= value <= high)
    return sum(inside), len(inside)


def circumstances() -> dict[str, dict[str, list[float] | str]]:
    """The study ``numerics`` by ways of computing, over its seeds.

    Returns:
        For each way: ``largest``, the largest difference of two logits after each of
        :data:`numerics.STEPS <resnetbook.numerics.STEPS>`; ``changed``, the mean share of test images with
        another answer, likewise; ``moved``, the largest change of the test accuracy, likewise; and ``torch``.
    """
    found = [record["result"] for record in studies.load_seeds("numerics")]
    ways = {}
    for name in found[0]["ways"]:
        of_seeds = [result["ways"][name] for result in found]
        moves = [
            [abs(after - before) for after, before in zip(way["accuracy"], result["accuracy"], strict=True)]
            for way, result in zip(of_seeds, found, strict=True)
        ]
        ways[name] = {
            "largest": [max(column) for column in zip(*(way["largest"] for way in of_seeds), strict=True)],
            "changed": [
                statistics.fmean(column) for column in zip(*(way["changed"] for way in of_seeds), strict=True)
            ],
            "moved": [max(column) for column in zip(*moves, strict=True)],
            "torch": " and ".join(sorted({way["torch"] for way in of_seeds})),
        }
    return ways


def in_words(value: float) -> str:
    """A difference in one or two digits; 0 where there is none at all."""
    if value == 0:
        return "0"
    return f"{value:.0e}".replace("e-0", "e-") if value < 0.001 else f"{value:.2g}"


# The same recipe, recorded on two kinds of processors: chapter 2's networks, and those of chapter 7, which
# were trained again to keep their weights.
TWINS = {
    "degradation-residual-20": "resnet-20",
    "degradation-plain-20": "plain-20",
    "degradation-residual-56": "resnet-56",
    "degradation-plain-56": "plain-56",
}


def processors() -> tuple[str, str, list[tuple[str, str, str, str]]]:
    """Both processors, and for each twin and seed: network and seed, both accuracies, and the difference."""
    known = runs.by_experiment()
    rows = []
    for first, second in TWINS.items():
        by_seed = {record["seed"]: record for record in known[first]}
        for record in known[second]:
            before, after = by_seed[record["seed"]]["test_accuracy"], record["test_accuracy"]
            label = f"{second}, seed {record['seed']}"
            rows.append((label, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    devices = [known[name][0]["hardware"]["device"] for name in next(iter(TWINS.items()))]
    return devices[0], devices[1], rows


class _FromRecords(SphinxDirective):
    """A directive whose content follows from the records: the page is always written anew."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(runs.RECORDS))
        return self.content_nodes()

    def content_nodes(self) -> list[nodes.Node]:
        raise NotImplementedError


class Bands(_FromRecords):
    """``{number-bands}``: where a reader's accuracy should lie, for each experiment."""

    def content_nodes(self) -> list[nodes.Node]:
        """Write the table."""
        return [table(("Experiment", "Test accuracy, mean ± standard deviation", "Band"), bands())]


class LeftOut(_FromRecords):
    """``{number-left-out}``: how often the band was right."""

    def content_nodes(self) -> list[nodes.Node]:
        """Write one sentence."""
        inside, number = left_out()
        text = (
            f"Tried on the records themselves, each against the band of the other seeds of its experiment: "
            f"{inside} of {number} lie inside ({inside / number:.1%})."
        )
        return [nodes.paragraph("", text)]


class Growth(_FromRecords):
    """``{number-growth}``: how far the logits of two trainings are apart, by steps."""

    def content_nodes(self) -> list[nodes.Node]:
        """Write the table."""
        rows = [(name, *map(in_words, way["largest"])) for name, way in circumstances().items()]
        return [table(("Steps", *map(str, numerics.STEPS)), rows)]


class Epoch(_FromRecords):
    """``{number-epoch}``: what is left of it after an epoch."""

    def content_nodes(self) -> list[nodes.Node]:
        """Write the table."""
        rows = [
            (name, f"{way['changed'][-1]:.1%}", f"{way['moved'][-1]:.2%}")
            for name, way in circumstances().items()
        ]
        return [table(("", "Other answers", "Accuracy moved by"), rows)]


class OtherVersion(SphinxRole):
    """``{number-versions}``: the two versions of PyTorch of the study."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Write them as text."""
        ways = circumstances()
        versions = [ways[name]["torch"] for name in ("the same again", "another PyTorch")]
        return [nodes.Text(" and ".join(versions))], []


class Processors(_FromRecords):
    """``{number-processors}``: the same seeds on two kinds of processors."""

    def content_nodes(self) -> list[nodes.Node]:
        """Write a sentence and the table."""
        first, second, rows = processors()
        return [
            nodes.paragraph("", f"The first processor is an {first}, the second an {second}."),
            table(("Network", "First", "Second", "Difference"), rows),
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the role."""
    app.add_directive("number-bands", Bands)
    app.add_directive("number-left-out", LeftOut)
    app.add_directive("number-growth", Growth)
    app.add_directive("number-epoch", Epoch)
    app.add_directive("number-processors", Processors)
    app.add_role("number-versions", OtherVersion())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
