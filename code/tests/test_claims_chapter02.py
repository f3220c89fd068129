"""What chapter 2 says of its results is what the records say, and what its short trainings give."""

import re
from pathlib import Path
from statistics import fmean, geometric_mean

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import claim, last_of_seeds
from torch import nn
from torch.nn import functional as F

from resnetbook import compare, models, probes, runs, train

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
        "the *best* seed of each row is worse than the *worst* of the row above it",
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


# ---- section 4: what holds on any machine, with room for the rounding of others


def rows(name: str) -> dict[tuple[str, str], list[float]]:
    """The numbers of a cell's grouped table, by the heading and the words of the row."""
    found, heading = {}, ""
    for line in printed(name).splitlines():
        label, *numbers = re.split(r"\s{2,}", line.strip())
        if line.startswith("  "):
            found[heading, label] = [float(number) for number in numbers]
        heading = heading if line.startswith("  ") else line
    return found


def test_without_batch_norm_the_start_decides():
    found = rows("vanishing-code")
    first, middle, end = found["PyTorch, bias", "56"]
    claim(
        "02",
        "In the middle the gradient is some twelve powers of ten smaller, and at the first layer more than "
        "twenty",
        1e-13 < middle / end < 1e-10 and first / end < 1e-20 and end > 1e-3,
    )
    equal = found["PyTorch, no bias", "56"]
    claim("02", "all layers get equally little", max(equal) < 10 * min(equal) < 1e-22)
    he = found["He, no bias", "8"][0] / found["He, no bias", "56"][0]
    claim("02", "from 8 layers to 56 the gradient falls less than a hundredfold", 10 < he < 100)


@pytest.mark.slow
def test_padding_takes_a_good_part_of_the_gradient(sample, one_thread):
    """Padding that wraps around carries signal: then much less is lost from 8 to 56 layers."""
    images, labels = sample
    falls = {}
    for mode in ("zeros", "circular"):
        sizes = []
        for depth in (8, 56):
            seeds = []
            for seed in range(3):
                torch.manual_seed(seed)
                model = plain_net(depth, normalized=False)
                for conv in model.modules():
                    if isinstance(conv, nn.Conv2d):
                        conv.padding_mode = mode
                        conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
                loss = F.cross_entropy(model(images), labels)
                seeds.append(probes.gradient_norms(model, loss)["conv1"])
            sizes.append(geometric_mean(seeds))
        falls[mode] = sizes[0] / sizes[1]
    claim("02", "A good part of that is lost at the edges", falls["circular"] < falls["zeros"] / 4)
    # Along each side of a 4×4 map, windows read 2 + 3 + 3 + 2 positions of the map, of 4 times 3.
    claim(
        "02",
        "three in ten of the numbers that a 3×3 window reads are padding",
        round(10 * (1 - (10 / 12) ** 2)) == 3,
    )


def plain_net(depth: int, **options: bool) -> nn.Module:
    return models.cifar_resnet(depth, residual=False, shortcut="A", in_channels=1, stem_stride=2, **options)


@pytest.fixture
def sample(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The 128 images that section 4 probes with."""
    recipe = runs.EXPERIMENTS["degradation-plain-56"].recipe
    return train.prepare(dataset.train_images[:128], recipe), dataset.train_labels[:128]


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
    return scope


@pytest.mark.slow
def test_section_4_of_chapter_2_holds_on_this_machine(page, capsys):
    """The page trains five seeds; two of them, with room for the rounding of other processors."""
    run_cells(page, "norms-start", "loop", "norms-later")
    assert "typical of 2 seeds" in capsys.readouterr().out
    claim(
        "02",
        "about a thousandfold or more, in every seed",
        all(sizes[0] > 700 * sizes[-2] for sizes in page["at_start"]["plain"]),
    )
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


def test_section_4_of_chapter_2_says_what_it_prints():
    found = rows("norms-later")
    plain, residual = (found[f"{kind}, after 50 steps", "product"] for kind in ("plain", "residual"))
    claim("02", "*below* the residual one, by a factor of the order of ten", 5 < residual[1] / plain[1] < 30)
    claim("02", "smaller after 50 steps in the middle than at the end", plain[1] < plain[2] / 2)
    low, high = (found["plain, after 50 steps", f"product, {end}"] for end in ("lowest", "highest"))
    claim("02", "the band opens to a factor of ten and more", high[0] > 10 * low[0])
    raw = found["plain, after 50 steps", "gradient"]
    claim("02", "fallen below that of the last convolution", raw[0] < raw[2] / 3)
    before, after = (found[f"plain, after {steps} steps", "weights"][0] for steps in (0, 50))
    claim("02", "The *weights* of the first layer have grown many times over", after > 10 * before)


@pytest.mark.slow
def test_section_5_of_chapter_2_holds_on_this_machine(page):
    """Plain: what was made leaves the good place with large steps, and does not with small ones."""
    run_cells(page, "loop", "copy-block", "deepen-code")
    page = page | {"KINDS": ("plain",)}
    run_cells(page, "shallow-code", "train-on", "small-steps")
    tails = {label: fmean(values[-20:]) for (_, label), values in page["train_on"].items()}
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
    before = fmean(page["shallow_losses"]["plain"][-20:])
    claim(
        "02",
        "With small steps it stays as good as it was, or becomes a little better",
        fmean(page["losses"][-20:]) < before + 0.05,
    )
