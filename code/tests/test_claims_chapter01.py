"""What chapter 1 says is what its cells print, what the records say, or what can be computed again."""

import dis
import re
import statistics
import types

import nbformat
import pytest
import torch
from conftest import claim, last_of_seeds, page_text
from torch import nn
from torch.nn import functional as F

import notebooks
from resnetbook import compare, models, probes, runs

NETWORKS = ("lenet", "vgg-6", "vgg-9", "vgg-12", "vgg-15")
KEYS = ("train_loss", "valid_accuracy", "test_accuracy")
STEPS = (
    ("lenet", "vgg-6"),
    ("vgg-6", "vgg-9"),
    ("vgg-9", "vgg-12"),
    ("vgg-12", "vgg-15"),
    ("vgg-9", "vgg-15"),
    ("vgg-6", "vgg-15"),
)


@pytest.fixture(scope="module")
def differences() -> dict[tuple[str, str, str], compare.Difference]:
    return {
        (a, b, key): compare.unpaired_difference(last_of_seeds(a, key), last_of_seeds(b, key))
        for key in KEYS
        for a, b in STEPS
    }


@pytest.fixture(scope="module")
def stands(differences) -> dict[tuple[str, str, str], bool]:
    """Which of all of them Holm's correction leaves."""
    answers = compare.holm([found.p_value for found in differences.values()])
    return dict(zip(differences, answers, strict=True))


# ---- section 7: what did depth buy?


def test_the_page_prints_the_differences_that_it_speaks_of_with_their_verdicts(differences, stands):
    for a, b in (("lenet", "vgg-6"), ("vgg-6", "vgg-9"), ("vgg-9", "vgg-15")):
        for key in KEYS:
            found = differences[a, b, key]
            low, high = found.interval
            verdict = ("clear " if found.clear else "not clear ") + ("stands" if stands[a, b, key] else "–")
            claim("01", f"{a} → {b} {found.mean:+.4f} {low:+.4f} to {high:+.4f} {verdict}")
    claim("01", f"by Holm's correction {sum(stands.values())} of {len(stands)} stand")
    claim("01", "We compared eighteen: six steps of depth, by three measures.", len(stands) == 18)


def test_the_page_prints_mean_and_deviation_of_every_network():
    for name, label in zip(NETWORKS, ("LeNet", *(f"small VGG, {n}" for n in (6, 9, 12, 15))), strict=True):
        losses, accuracies = (last_of_seeds(name, key) for key in ("train_loss", "test_accuracy"))
        shown = " ".join(
            f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in (losses, accuracies)
        )
        claim("01", f"{label} {shown}", len(losses) == len(accuracies) == 3)
    claim("01", "Mean ± standard deviation, n = 3.")


def test_three_runs_need_three_to_four_standard_errors(differences):
    reach = [(found.interval[1] - found.mean) / found.error for found in differences.values()]
    claim("01", "three to four with three each", 2.7 < min(reach) and max(reach) < 4.5)
    many = compare.Difference(0.0, 1.0, 98)
    claim("01", "reaches about two standard errors to each side with many runs", 1.9 < many.interval[1] < 2.1)
    alone = compare.unpaired_difference([0.9], [0.91, 0.92])
    claim("01", "With a single run it is endless.", alone.interval[0] == -torch.inf)


def test_lenet_and_the_small_vgg(differences, stands):
    keys = [("lenet", "vgg-6", key) for key in KEYS]
    claim(
        "01",
        "From LeNet to the small VGG there is a clear step**, by every measure, and it stands.",
        all(differences[key].clear and stands[key] for key in keys) and differences[keys[1]].mean > 0,
    )


def test_six_and_nine_layers(differences, stands):
    loss, held_out, test = (differences["vgg-6", "vgg-9", key] for key in KEYS)
    claim(
        "01",
        "a clearly lower training loss, and a clearly higher test accuracy, by half a point.",
        loss.clear and loss.mean < 0 and test.clear and 0.0045 < test.mean < 0.0055,
    )
    claim(
        "01",
        "On the held-out images it is not clear, and none of the three stands among eighteen comparisons.",
        not held_out.clear and len(stands) == 18 and not any(stands["vgg-6", "vgg-9", key] for key in KEYS),
    )


def test_nine_and_fifteen_layers(differences, stands):
    loss, *accuracies = (differences["vgg-9", "vgg-15", key] for key in KEYS)
    macs = {name: runs.load_seeds(name)[0]["macs"] for name in NETWORKS}
    claim(
        "01",
        "The work doubles, and the intervals of both accuracies leave room for a quarter of a point at most.",
        1.9 < macs["vgg-15"] / macs["vgg-9"] < 2.1
        and 0.002 < max(found.interval[1] for found in accuracies) <= 0.0025,
    )
    claim("01", "The *training* loss even *rises*, and clearly.", loss.clear and loss.mean > 0)
    claim(
        "01", "But this rise does not stand either: it is a hint", not stands["vgg-9", "vgg-15", "train_loss"]
    )
    claim(
        "01",
        "no gain that we could find from 9 to 15, at twice the work",
        not any(d.clear for d in accuracies),
    )
    claim("01", "There the *training* loss even rose: a hint, no more.")


def test_the_runs_are_alike_but_for_the_network():
    records = [record for name in NETWORKS for record in runs.load_seeds(name)]
    first = records[0]
    same = all(
        r["recipe"] == first["recipe"] and (r["num_images"], r["held_out"]) == (50_000, 10_000)
        for r in records
    )
    claim(
        "01",
        "50,000 images, five epochs, the same recipe for all",
        same and first["recipe"]["num_epochs"] == 5,
    )
    seeds = {name: [r["seed"] for r in runs.load_seeds(name)] for name in NETWORKS}
    claim(
        "01",
        "| `full` | three seeds of five networks, 50,000 images each |",
        all(len(set(found)) == 3 == runs.EXPERIMENTS[name].seeds for name, found in seeds.items()),
    )


def test_the_picture_of_depth():
    names = NETWORKS[1:]
    losses = [sum(last_of_seeds(name, "train_loss")) / 3 for name in names]
    claim(
        "01",
        "The training loss is lowest with 9 layers and rises again towards 15.",
        losses[1] == min(losses) and losses[1] < losses[2] < losses[3],
    )
    accuracies = [[last_of_seeds(name, key) for name in names] for key in KEYS[1:]]
    everything = [value for rows in accuracies for row in rows for value in row]
    claim(
        "01",
        "All accuracies lie within little more than one point.",
        0.01 < max(everything) - min(everything) < 0.0125,
    )
    for rows in accuracies:
        six, *later = (sum(row) / 3 for row in rows)
        claim("01", "rise a little from 6 to 9 layers and then stay nearly level", six < min(later))
        assert max(later) - min(later) < later[0] - six


# ---- what networks see


def influence(layers: list[tuple[nn.Module | None, int]], side: int, row: int, column: int) -> torch.Tensor:
    """Whether each pixel can change one number of the last map, shape (side, side); with real borders."""
    x = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    out = x
    for layer, pool in layers:
        if layer is None:
            out = F.avg_pool2d(out, pool)
        else:
            weight = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64) / 9
            out = F.conv2d(out, weight, stride=layer.stride, padding=layer.padding)
    (gradient,) = torch.autograd.grad(out[0, 0, row, column], x)
    return gradient[0, 0] > 0


def test_lenet_sees_a_third_and_the_small_vgg_everything():
    lenet = models.lenet()
    layers = [(lenet.conv1, 0), (None, 2), (lenet.conv2, 0), (None, 2)]
    seen = influence(layers, 28, 2, 2)
    claim(
        "01",
        "One of LeNet's sees 16 of the 28 pixels in each direction: about a third of the image.",
        seen.any(0).sum() == seen.any(1).sum() == 16 and abs(seen.double().mean().item() - 1 / 3) < 0.02,
    )

    network = models.small_vgg(6)
    layers = [(network.stem[0], 0)]
    for stage in (network.stage1, network.stage2, network.stage3):
        layers += [(None, 2), (stage[0][0], 0)]
    assert network.fc1.in_features == 64 * 3 * 3
    middle = influence(layers, 28, 1, 1)
    claim("01", "has *more than the whole image* in its field, already with 6 layers", bool(middle.all()))
    missed = []
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):
        corner = influence(layers, 28, row, column)
        missed += [(~corner.any(1)).sum().item(), (~corner.any(0)).sum().item()]
    claim("01", "One in a corner misses a few rows and columns", 1 <= min(missed) and max(missed) <= 5)


# ---- costs


def test_norms_that_the_table_leaves_out():
    for depth in (6, 15):
        norms = [m for m in models.small_vgg(depth).modules() if isinstance(m, nn.BatchNorm2d)]
        assert sum(map(probes.count_parameters, norms)) < 1000
    claim("01", "fewer than a thousand numbers that section 5 explains, are left out of the table")


def test_rows_of_lenets_table_that_depend_on_its_arguments():
    def rows(*arguments: int) -> dict[str, tuple[int, int]]:
        network = models.lenet(*arguments)
        macs = probes.macs_by_layer(network, (arguments[1], 28, 28))
        return {n: (probes.count_parameters(network.get_submodule(n)), work) for n, work in macs.items()}

    usual = rows(10, 1)
    changed = [name for name, row in rows(7, 3).items() if row != usual[name]]
    claim("01", "Only two of its rows depend on `num_classes` or `in_channels`.", changed == ["conv1", "fc3"])


def test_fifty_seven_layers_are_not_dear():
    def cost(depth: int) -> tuple[int, int]:
        network = models.small_vgg(depth)
        return probes.count_parameters(network), probes.count_macs(network, (1, 28, 28))

    costs = {depth: cost(depth) for depth in (6, 9, 12, 15, 57)}
    for i in range(2):
        assert costs[9][i] - costs[6][i] == costs[12][i] - costs[9][i] == costs[15][i] - costs[12][i]
    claim(
        "01",
        "57 layers do about twenty times the multiply-adds of 6",
        19.5 < costs[57][1] / costs[6][1] < 20.5,
    )
    claim(
        "01",
        "still have far fewer of both than VGG-16",
        100 * costs[57][0] < 138_357_544 and 100 * costs[57][1] < 15_470_264_320,
    )
    assert "138,357,544" in page_text("01") and "15,470,264,320" in page_text("01")


def test_ten_batches_make_two_thirds_of_the_way():
    norm = nn.BatchNorm2d(1)
    x = torch.full((2, 1, 2, 2), 3.0)
    for _ in range(10):
        norm(x)
    way = norm.running_mean.item() / 3
    claim("01", "ten batches make about two thirds of the way ($1 - 0.9^{10}$)", 0.63 < way < 0.68)
    assert abs(way - (1 - 0.9**10)) < 1e-6


# ---- live


def test_the_small_vgg_is_ahead_live():
    """The page's words; that they come out so on every machine is what running the page again compares."""
    claim("01", "lower training loss: small VGG, # layers")
    claim("01", "higher held-out accuracy: small VGG, # layers")
    claim("01", "the small VGG is ahead, on the images it trained on and on those that it never saw")


# ---- the cells


def names(source: str) -> tuple[set[str], set[str]]:
    """The page's names that a cell gives a value, and those that it needs from other cells."""
    program = compile(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M), "cell", "exec")
    given, needed = set(), set()
    for instruction in dis.get_instructions(program):
        if instruction.opname == "STORE_NAME":
            given.add(instruction.argval)
        elif instruction.opname == "LOAD_NAME" and instruction.argval not in given:
            needed.add(instruction.argval)
    inside = [part for part in program.co_consts if isinstance(part, types.CodeType)]
    for part in inside:
        inside += [deeper for deeper in part.co_consts if isinstance(deeper, types.CodeType)]
        needed |= {i.argval for i in dis.get_instructions(part) if i.opname == "LOAD_GLOBAL"} - given
    return given, needed


def test_names_are_told_apart():
    source = "a = b\nd = a\ndef f(x):\n    return [a + c + x for x in e]"
    assert names(source) == ({"a", "d", "f"}, {"b", "c", "e"})


def test_no_cell_spoils_what_another_one_needs():
    """What two cells give a value, no other may need: it would depend on which of them ran last."""
    (path,) = notebooks.paths(["01"])
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    found = {cell.id: names(cell.source) for cell in cells}
    for name in set().union(*(given for given, _ in found.values())):
        givers = [cell for cell, (given, _) in found.items() if name in given]
        readers = [cell for cell, (_, needed) in found.items() if name in needed]
        assert len(givers) < 2 or not readers, f"{name}: from {givers}, for {readers}"
