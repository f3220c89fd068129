"""What chapter 5 says is so: in its prose, in what its cells print, and in its alt texts."""

import ast
import dataclasses
import math
import re
from statistics import fmean

import nbformat
import pytest
import torch
from conftest import claim, last_of_seeds, page_text
from torch import Tensor, nn

import notebooks
from resnetbook import compare, data, models, runs

(PAGE,) = notebooks.paths(["05"])
STEMS = ("stem-imagenet-28", "stem-small-28", "stem-imagenet-96")


def source_of(cell: str) -> str:
    return next(c.source for c in nbformat.read(PAGE, as_version=4).cells if c.id == cell)


def printed_by(cell: str) -> str:
    found = next(c for c in nbformat.read(PAGE, as_version=4).cells if c.id == cell)
    return "".join(out.text for out in found.outputs if out.output_type == "stream" and out.name == "stdout")


@pytest.fixture(scope="module")
def published() -> dict[str, float]:
    """d2l's own runs by the commit that holds them, as the page lists them."""
    for node in ast.parse(source_of("results-table")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "PUBLISHED":
            return ast.literal_eval(node.value)
    raise AssertionError("the page lists no published runs")


@pytest.fixture(scope="module")
def answers() -> list[tuple[Tensor, Tensor]]:
    """Probabilities of all test images and the labels, for every seed of the source recipe."""
    truth = data.fashion_mnist().test_labels
    names = [record["name"] for record in runs.load_seeds("source-recipe")]
    return [(torch.tensor(runs.load_logits(name)).float().softmax(1), truth) for name in names]


# ---- the recipe and the network


def test_how_many_biases_do_nothing():
    convs = {n: m for n, m in models.d2l_resnet18().named_modules() if isinstance(m, nn.Conv2d)}
    biases = sum(conv.bias.numel() for conv in convs.values())
    projections = sum(conv.bias.numel() for conv in convs.values() if conv.kernel_size == (1, 1))
    claim("05", "3,904 of the 4,800 biases do nothing", (biases - projections, biases) == (3904, 4800))
    claim("05", "The others belong to the projections", projections == 128 + 256 + 512)
    claim("05", "of the biases, in front of a norm: 3,904")


def test_in_what_the_long_runs_differ_from_the_tutorials():
    recipe = dataclasses.asdict(runs.EXPERIMENTS["source-recipe"].recipe)
    tutorial = {
        "num_epochs": 10,
        "batch_size": 256,
        "lr": 0.05,
        "initialization": "xavier",
        "resize": 96,
        "schedule": "constant",
        "accumulate": 1,
    }
    others = {k: v for k, v in recipe.items() if k not in tutorial and v not in (0.0, False)}
    claim(
        "05",
        "The long runs of section 5 differ from it in two points, bfloat16 and the routine that resizes",
        {k: recipe[k] for k in tutorial} == tutorial
        and others
        == {"channels_last": True, "autocast": "bfloat16"},  # the first moves numbers in memory only
    )
    assert all(record["recipe"]["autocast"] == "bfloat16" for record in runs.load_seeds("source-recipe"))
    assert "no lookalike" not in page_text("05")
    assert "to the letter" not in page_text("05")


def test_the_digits_of_bfloat16():
    digits = -math.log10(torch.finfo(torch.bfloat16).eps / 2)
    claim("05", "the range of float32 and two to three significant digits", 2 < digits < 3)
    largest = [torch.finfo(kind).max for kind in (torch.bfloat16, torch.float32)]
    assert largest[0] == pytest.approx(largest[1], rel=0.01)
    assert "halves the time" not in page_text("05")


# ---- live cells, whatever the machine: what was stored, and what the text says of it


def test_what_was_printed_when_the_page_was_made():
    loss, accuracy = re.search(r"loss ([\d.]+), train acc ([\d.]+)", printed_by("d2l-run")).groups()
    assert f"loss {loss}, train acc {accuracy}" in printed_by("ours-run")
    claim("05", "same weights after ten steps", "below 1e-5: True" in printed_by("ours-run"))
    training = [float(n) for n in re.findall(r"loss [\d.]+, accuracy ([\d.]+)", printed_by("live-code"))]
    unseen, mended = (float(n) for n in re.findall(r": +(0\.\d+)", printed_by("restat")))
    claim(
        "05",
        "accuracy on unseen images is a good deal worse than on the training images",
        training[-1] - unseen > 0.05,
    )
    claim("05", "Same weights, and most of the gap is gone.", mended - unseen > (training[-1] - unseen) / 2)
    cosines = [float(n) for n in re.findall(r": +(-?\d\.\d{4})$", printed_by("bfloat16"), re.M)]
    claim(
        "05", "Which images happen to be in the batch matters far more", cosines[0] > 0.95 > 0.8 > cosines[1]
    )


# ---- results


def test_the_published_runs(published):
    values = list(published.values())
    assert len(published) == 21  # one for each commit: a dict holds no commit twice
    assert all(re.fullmatch("[0-9a-f]{7}", commit) for commit in published)
    claim("05", "The tutorial's 0.895 is one of 21 such runs.", published["9dff6f3"] == 0.895)
    claim("05", "they range from 0.838 to 0.922", (min(values), max(values)) == (0.838, 0.922))
    claim("05", "one notebook whose runs range over eight points", 0.08 < max(values) - min(values) < 0.09)
    ours = last_of_seeds("source-recipe", "test_accuracy")
    gain = compare.unpaired_difference(values, ours)
    low, high = gain.interval
    claim(
        "05",
        f"ours − d2l's, test accuracy {gain.mean:+.3f} {gain.error:.3f} {low:+.3f} to {high:+.3f} not clear",
        not gain.clear,
    )
    claim(
        "05",
        "Against all of the 21, the interval of the difference holds 0: it is not clear.",
        low < 0 < high,
    )
    claim("05", "The reported 0.895 is below each of our three runs.", min(ours) > 0.895 and len(ours) == 3)
    claim("05", "by more than a point between the lowest and the highest", max(ours) - min(ours) > 0.01)
    for key, reported in (("train_loss", 0.014), ("train_accuracy", 0.996)):
        mine = last_of_seeds("source-recipe", key)
        claim("05", "to about one thousandth", max(abs(value - reported) for value in mine) < 0.0015)


def test_the_curves():
    records = runs.load_seeds("source-recipe")
    loss, accuracy = (
        [fmean(epoch) for epoch in zip(*[[e[key] for e in r["history"]] for r in records], strict=True)]
        for key in ("train_loss", "train_accuracy")
    )
    test = fmean(record["test_accuracy"] for record in records)
    claim(
        "05",
        "The training loss falls from 0.48 to 0.01, ever more slowly.",
        (round(loss[0], 2), round(loss[-1], 2)) == (0.48, 0.01),
    )
    claim(
        "05",
        "crosses the dashed line of the mean test accuracy, 0.91, between the second and the third epoch",
        round(test, 2) == 0.91 and accuracy[1] < test < accuracy[2] and round(accuracy[0], 2) == 0.83,
    )
    claim("05", "one test image in ten wrong", 0.08 < 1 - test < 0.11)


def test_what_it_gets_wrong(answers):
    probabilities, truth = answers[0]
    predictions = probabilities.argmax(1)
    wrong = predictions != truth
    shoes = [data.CLASSES.index(name) for name in ("sandal", "sneaker", "ankle boot")]
    bag = data.CLASSES.index("bag")
    is_shoe = torch.isin(truth, torch.tensor(shoes))
    taken_for = predictions[wrong & is_shoe]
    claim(
        "05",
        "gets a shoe wrong, it takes it for another shoe or a bag, and never for a garment.",
        bool(torch.isin(taken_for, torch.tensor([*shoes, bag])).all()),
    )
    by_class = torch.tensor(
        [[(p.argmax(1) == t)[t == k].float().mean() for k in range(10)] for p, t in answers]
    )
    mean = dict(zip(data.CLASSES, by_class.mean(0).tolist(), strict=True))
    claim(
        "05",
        "Sneaker, trouser, sandal and bag are right in about 98 percent of the cases",
        all(0.975 < mean[name] < 0.99 for name in ("sneaker", "trouser", "sandal", "bag")),
    )
    claim(
        "05", "Shirt is lowest, a little above 70 percent.", 0.7 < mean["shirt"] == min(mean.values()) < 0.73
    )
    coat, pullover = (by_class[:, data.CLASSES.index(name)] for name in ("coat", "pullover"))
    claim(
        "05",
        "Coat and pullover have a mean of 84 percent, and ranges from about 70 to more than 90.",
        all(
            round(c.mean().item(), 2) == 0.84 and 0.69 < c.min() < 0.73 and c.max() > 0.9
            for c in (coat, pullover)
        ),
    )
    leaning = (coat - pullover).tolist()
    claim("05", "another that is the other way round", max(leaning) > 0.1 and min(leaning) < -0.1)


def test_how_sure_it_is(answers):
    probabilities, truth = answers[0]
    confidence, predictions = probabilities.max(1)
    right = predictions == truth
    sure = confidence > 0.99
    share_wrong = (~right)[sure].float().mean().item()
    claim(
        "05",
        "is well above its accuracy: 0.964 against 0.904",
        (f"{confidence.mean():.3f}", f"{right.float().mean():.3f}") == ("0.964", "0.904"),
    )
    claim("05", f"surer than 99%: {sure.sum():,} answers, {share_wrong:.1%} wrong")
    claim("05", "and it gets 2.5 in a hundred wrong", round(100 * share_wrong, 1) == 2.5)
    for other, t in answers[1:]:  # not of this seed alone
        assert other.max(1).values.mean() > (other.argmax(1) == t).float().mean() + 0.04
    worst = nn.functional.nll_loss(probabilities.double().log(), truth, reduction="none")
    ten = worst.argsort(descending=True)[:10]
    labels = [data.CLASSES[k] for k in truth[ten]]
    claim(
        "05",
        "Eight are labelled pullover; the network says coat, shirt, dress or t-shirt. One t-shirt is taken "
        "for a dress, one dress for a t-shirt. For nine of them the network is 100 percent sure.",
        sorted(labels) == ["dress"] + ["pullover"] * 8 + ["t-shirt"]
        and sum(f"{c:.0%}" == "100%" for c in confidence[ten]) == 9,
    )


# ---- stems


def test_the_recipe_of_the_stems_is_told():
    source = runs.EXPERIMENTS["source-recipe"].recipe
    for name in STEMS:
        experiment = runs.EXPERIMENTS[name]
        assert experiment.model["family"] == "resnet"  # torchvision's form
        for field in dataclasses.fields(source):
            value = getattr(experiment.recipe, field.name)
            if field.name != "resize" and value != getattr(source, field.name):
                claim("05", f" {field.name} {getattr(source, field.name)} {value}")
    claim("05", "torchvision's form of the network, three epochs on 6,000 images")
    assert {(r["num_images"], len(r["history"])) for n in STEMS for r in runs.load_seeds(n)} == {(6000, 3)}


def test_the_verdicts_on_the_stems():
    narrow, small, wide = (last_of_seeds(name, "valid_accuracy") for name in STEMS)
    differences = {
        "3×3 instead of 7×7, at 28×28": compare.unpaired_difference(narrow, small),
        "96×96 instead of 28×28, 7×7": compare.paired_difference(narrow, wide),
        "7×7 at 96×96 against 3×3": compare.unpaired_difference(small, wide),
    }
    stands = compare.holm([d.p_value for d in differences.values()])
    said = page_text("05")
    for (label, difference), holds in zip(differences.items(), stands, strict=True):
        low, high = difference.interval
        line = f"{label} {difference.mean:+.3f} {difference.error:.3f} {low:+.3f} to {high:+.3f}"
        line += f" {difference.verdict} {'stands' if holds else '–'}"
        assert line in said, line
    claim(
        "05",
        "Both differences are clear, and still are when Holm's correction reckons with three comparisons.",
        stands == [True, True, False],
    )
    gains = [d.mean for d in differences.values()]
    claim("05", "beat the 7×7 stem at 28×28 by about three points", all(0.025 < g < 0.035 for g in gains[:2]))
    claim(
        "05",
        "half a point cannot be told from none",
        gains[2] < 0.005 and not differences["7×7 at 96×96 against 3×3"].clear,
    )
    # On the test images the same three verdicts, so nothing hangs on the part that was held out.
    narrow, small, wide = (last_of_seeds(name, "test_accuracy") for name in STEMS)
    on_test = [compare.unpaired_difference(*p) for p in ((narrow, small), (narrow, wide), (small, wide))]
    assert [d.clear for d in on_test] == [True, True, False]
