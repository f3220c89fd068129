"""What chapter 2 says of its results is what the records say, and what its short trainings give."""

from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import nbformat
import pytest
from conftest import claim, last_of_seeds

from resnetbook import compare, runs

NOTEBOOK = Path(__file__).parents[2] / "book" / "02_degradation.ipynb"
DEPTHS = (8, 14, 20, 32, 44, 56)
CONDITIONS = ("degradation", "limits-low-rate", "limits-long-warmup", "limits-long")


def losses(name: str) -> list[float]:
    return last_of_seeds(name, "slice_loss")


def cell(name: str) -> nbformat.NotebookNode:
    (found,) = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.get("id") == name]
    return found


def printed(name: str) -> str:
    """What a cell of the page prints and shows, without pictures."""
    outputs = cell(name).outputs
    return "\n".join(out.text if out.output_type == "stream" else out.data["text/plain"] for out in outputs)


def test_the_slice_that_chapter_2_evaluates():
    sizes = {
        runs.EXPERIMENTS[f"degradation-{k}-{d}"].fixed_slice for k in ("plain", "residual") for d in DEPTHS
    }
    claim("02", f"the first {max(sizes):,} training images are evaluated", len(sizes) == 1)


def row_of(gap: compare.Difference) -> str:
    """A row of a table of differences, as the page shows it."""
    low, high = gap.interval
    return f"{gap.mean:+.3f} {gap.error:.3f} {low:+.3f} to {high:+.3f} {gap.verdict}"


def test_what_chapter_2_says_of_its_seeds_is_so():
    plain, residual = (
        {depth: losses(f"degradation-{kind}-{depth}") for depth in DEPTHS} for kind in ("plain", "residual")
    )
    for found in (plain, residual):
        assert all(len(values) >= (5 if depth in (20, 56) else 3) for depth, values in found.items())
    # Plain: nothing is lost up to 14 layers; then every seed is behind every seed of the row above.
    means = [fmean(plain[depth]) for depth in DEPTHS]
    claim("02", "Up to 14 layers the mean does not rise, at 20 it does", means[1] <= means[0])
    claim("02", "from there on every mean is higher than the one above it", means[1:] == sorted(means[1:]))
    claim(
        "02",
        "from 14 layers on, the *best* seed of each depth is worse than the *worst* seed of the depth before",
        all(max(plain[a]) < min(plain[b]) for a, b in ((14, 20), (20, 32), (32, 44), (44, 56))),
    )
    # Residual: the mean falls up to 32 layers; beyond, most seeds end near those, and the worst among
    # plain ones of 20 to 32 layers or a little above.
    means = [fmean(residual[depth]) for depth in (8, 14, 20, 32)]
    claim("02", "**Residual:** the mean falls up to 32 layers", means == sorted(means, reverse=True))
    for depth in (44, 56):
        near = [loss for loss in residual[depth] if loss < min(plain[20])]
        assert len(near) > len(residual[depth]) / 2
        assert fmean(residual[depth]) > max(means[-2:])
        assert runs.mean_std(residual[depth])[1] > 3 * runs.mean_std(residual[20])[1]
        assert max(plain[20]) < max(residual[depth]) < min(plain[depth])
        assert max(residual[depth]) < 1.1 * max(plain[32])


def test_the_two_depths_that_chapter_2_compares():
    gaps = {
        kind: compare.unpaired_difference(*(losses(f"degradation-{kind}-{depth}") for depth in (20, 56)))
        for kind in ("plain", "residual")
    }
    assert gaps["plain"].clear and gaps["plain"].mean > 0
    low, high = gaps["residual"].interval
    claim(
        "02",
        "from 20 to 56 layers the residual mean rises a little, "
        "and the interval has room for no loss as well as for one",
        low < 0 < gaps["residual"].mean < high,
    )
    claim("02", "With shortcuts no loss is clear", not gaps["residual"].clear)
    for kind, gap in gaps.items():
        claim("02", f"{kind} {row_of(gap)}")
    assert compare.holm([gap.p_value for gap in gaps.values()]) == [True, False]


def test_the_deep_plain_network_is_clearly_worse_in_every_column():
    clear = {
        (kind, key): compare.unpaired_difference(
            *([1 - v for v in last_of_seeds(f"degradation-{kind}-{depth}", key)] for depth in (20, 56))
        )
        for kind in ("plain", "residual")
        for key in ("train_accuracy", "slice_accuracy", "test_accuracy")
    }
    plain = [gap for (kind, _), gap in clear.items() if kind == "plain"]
    residual = [gap for (kind, _), gap in clear.items() if kind == "residual"]
    stands = compare.holm([gap.p_value for gap in (*plain, *residual)])
    claim(
        "02",
        "has the larger error in *every* column, and clearly so",
        all(gap.mean > 0 for gap in plain) and all(stands[:3]),
    )
    claim("02", "For the residual networks nothing is clear", not any(gap.clear for gap in residual))


def test_what_chapter_2_says_of_its_limits_is_so():
    shallow, deep = ({name: losses(f"{name}-plain-{depth}") for name in CONDITIONS} for depth in (20, 56))
    gaps = {name: compare.unpaired_difference(shallow[name], deep[name]) for name in CONDITIONS}
    stands = compare.holm([gap.p_value for gap in gaps.values()])
    claim("02", "Under no condition: each gap is clear", all(stands))
    claim(
        "02",
        "the best seed of 56 layers stays worse than the worst of 20",
        all(min(deep[name]) > max(shallow[name]) for name in CONDITIONS),
    )
    change = fmean(shallow["limits-long-warmup"]) - fmean(shallow["degradation"])
    claim(
        "02",
        "A **long warm-up** costs the shallow network next to nothing",
        abs(change) < gaps["limits-long-warmup"].mean / 20,
    )
    claim(
        "02",
        "With a **learning rate ten times smaller** it ends higher in every seed",
        min(shallow["limits-low-rate"]) > max(shallow["degradation"]),
    )
    # What the shallow one had reached in six epochs of its own, not after a third of the eighteen.
    claim(
        "02",
        "still all seeds of 56 layers end above those of 20 layers after six epochs",
        min(deep["limits-long"]) > max(shallow["degradation"]),
    )
    claim(
        "02",
        "**Three times as many epochs** help both depths",
        all(
            max(after["limits-long"]) < min(after["degradation"]) for after in (shallow, deep)
        ),  # every seed, against every one
    )


def test_no_condition_clearly_changes_the_gap():
    by_seed = {
        name: [b - a for a, b in zip(*(losses(f"{name}-plain-{d}") for d in (20, 56)), strict=True)]
        for name in CONDITIONS
    }
    before = by_seed["degradation"]
    claim("02", "the first row has five seeds", len(before) == 5)
    claim(
        "02",
        "the two that the others lack happen to have wide gaps",
        min(before[3:]) > fmean(before[:3]),
    )
    changes = {}
    for name in CONDITIONS[1:]:
        assert len(by_seed[name]) == 3
        claim("02", "Each mean is smaller than the first", fmean(by_seed[name]) < fmean(before))
        changes[name] = compare.paired_difference(before[:3], by_seed[name])
        low, high = changes[name].interval
        mean = fmean(before[:3])
        claim("02", f"from {mean:.3f} {row_of(changes[name])}")
        claim(
            "02",
            "each interval has room for a good part of the gap, and for no change at all",
            low < -mean / 3 and high > 0,
        )
    claim("02", "Over the same seeds, no change is clear", not any(c.clear for c in changes.values()))


def test_what_the_shortcut_is_worth_at_each_depth():
    worth = {
        depth: compare.paired_difference(
            *(losses(f"degradation-{kind}-{depth}") for kind in ("residual", "plain"))
        )
        for depth in DEPTHS
    }
    means = [difference.mean for difference in worth.values()]
    claim("02", "At 8 layers there is next to nothing; then the mean grows with every row", means[0] < 0.005)
    assert means == sorted(means)
    stands = dict(zip(DEPTHS, compare.holm([d.p_value for d in worth.values()]), strict=True))
    assert [depth for depth, holds in stands.items() if holds] == [14, 20, 32, 56]
    for depth, holds in stands.items():
        claim("02", f"{depth} layers {row_of(worth[depth])} {'stands' if holds else '–'}")
    bad = losses("degradation-residual-44")
    claim("02", "At 44 layers one bad residual seed, of three, makes the interval wide", sorted(bad)[1] < 0.1)
    assert max(bad) > 0.2


# ---- sections 4 and 5: what holds on any machine, with room for the rounding of others


def run_cells(scope: dict, *names: str, **instead: str) -> None:
    """Run cells of the page in ``scope``; ``instead`` are names that they set, and to what they do here."""
    for name in names:
        source = cell(name).source
        for old, new in instead.items():
            assert f"{old} = " in source
            source = source.replace(f"{old} = ", f"{old} = {new}  # ")
        exec(source, scope)
    plt.close("all")


@pytest.fixture(scope="module")
def page(dataset) -> dict:
    """What the cells before section 4 define, as far as sections 4 and 5 need it."""
    scope: dict = {"display": print}
    run_cells(scope, "imports", "pair-code")
    experiment = runs.EXPERIMENTS["degradation-plain-56"]
    scope |= {"experiment": experiment, "KINDS": ("plain", "residual"), "DEEP": 56}
    run_cells(scope, "vanishing-code", SEEDS="range(2)")
    run_cells(scope, "vanishing-figure")
    return scope


@pytest.mark.slow
def test_without_batch_norm_the_start_decides(page):
    sizes = {start: page["typical"](curves) for start, curves in page["no_batch_norm"].items()}
    # The last layer is linear; the one before it is the last convolution.
    first, middle, end = (sizes["PyTorch, bias"][i] for i in (0, 28, -2))
    claim(
        "02",
        "In the middle the gradient is some twelve powers of ten smaller, and at the first layer more than "
        "twenty",
        1e-13 < middle / end < 1e-10 and first / end < 1e-20 and end > 1e-3,
    )
    equal = sizes["PyTorch, no bias"][:-1]
    claim("02", "all convolutions get equally little", max(equal) < 20 * min(equal) < 1e-21)
    he = sizes["He, no bias"]
    claim("02", "keeps the factor of each layer near 1", 0.1 < (he[0] / he[-2]) < 10)


@pytest.mark.slow
def test_section_4_of_chapter_2_holds_on_this_machine(page):
    """The page trains five seeds; two of them, with room for the rounding of other processors."""
    run_cells(page, "norms-start", "loop", "norms-later")
    claim(
        "02",
        "about a thousandfold or more, in every seed",
        all(sizes[0] > 700 * sizes[-2] for sizes in page["at_start"]["plain"]),
    )
    raw, weights, product = (page["typical"](page["later"]["plain", 50, part]) for part in page["PARTS"])
    claim("02", "their gradient has fallen below that of the last convolutions", raw[0] < raw[-2])
    before = page["typical"](page["later"]["plain", 0, "weights"])
    claim("02", "the *weights* of the first layer have grown many times over", weights[0] > 10 * before[0])
    claim("02", "is smaller in the middle than at the end", product[28] < product[-2])
    plain, residual = (page["typical"](page["later"][kind, 50, "product"]) for kind in page["KINDS"])
    claim(
        "02",
        "a fall by many powers of ten towards the first layers. There is none",
        min(plain[:-1]) > plain[-2] / 300,
    )
    claim(
        "02",
        "the plain curve lies *below* the residual one, by a factor of the order of ten",
        3 < residual[28] / plain[28] < 100,
    )
    learned = {kind: fmean(values) for kind, values in page["final_losses"].items()}
    claim(
        "02",
        "the plain network is hardly better than guessing, while the residual one has learned",
        learned["plain"] > 2.0 > 1.8 > learned["residual"],
    )


@pytest.mark.slow
def test_section_5_of_chapter_2_holds_on_this_machine(page):
    """Plain: what was made leaves the good place with large steps, and does not with small ones."""
    run_cells(page, "loop", "copy-block", "deepen-code")
    run_cells(page, "shallow-code", "train-on", "small-steps")
    tails = {label: fmean(values[-20:]) for label, values in page["train_on"].items()}
    claim(
        "02",
        "its loss rises above that of the shallow network that simply went on",
        tails["32, made"] > tails["8 layers"] + 0.1,
    )
    claim(
        "02",
        "From scratch, 32 layers stay behind the 8 layers all the way",
        tails["32, scratch"] > tails["8 layers"] + 0.1,
    )
    before = fmean(page["shallow_losses"][-20:])
    claim(
        "02",
        "With small steps it stays as good as it was, or becomes a little better",
        fmean(page["losses"][-20:]) < before + 0.05,
    )
