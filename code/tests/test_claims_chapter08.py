"""What chapter 8 says is so: in its prose, in its cells and in its alt texts."""

import copy
import math
import re
import statistics
import urllib.error

import nbformat
import pytest
import torch
import torchinfo
from conftest import claim, last_of_seeds, page_text
from torch import Tensor, nn
from torch.nn import functional as F

import notebooks
from resnetbook import compare, data, models, probes, runs, studies, train, transfer
from resnetbook.transforms import prepare

(PATH,) = notebooks.paths(["08"])
FOUND = studies.load_seeds("few-labels")


def cell(name: str) -> str:
    return next(c.source for c in nbformat.read(PATH, as_version=4).cells if c.id == name)


def test_networks_stay_on_the_processor_where_their_images_are():
    """The page trains there; an evaluation elsewhere would leave the network behind on a GPU."""
    source = "\n".join(c.source for c in nbformat.read(PATH, as_version=4).cells if c.cell_type == "code")
    calls = re.findall(r"train\.evaluate\([^\n]*", source)
    assert calls and all('"cpu")' in call for call in calls)


def near(method: str, per_class: int) -> list[float]:
    return [record["result"]["near"][method][str(per_class)] for record in FOUND]


def mean(method: str, per_class: int) -> float:
    return statistics.fmean(near(method, per_class))


def ahead(better: str, worse: str, per_class: int) -> compare.Difference:
    return compare.paired_difference(near(worse, per_class), near(better, per_class))


def test_every_seed_is_there_and_of_its_own_network():
    claim("08", "Five seeds.", len(FOUND) == 5)
    for seed, record in enumerate(FOUND):
        before = runs.load(f"pretrained-5-classes-seed{seed}")["test_accuracy"]
        assert record["result"]["old"]["before"] == pytest.approx(before, abs=5e-4)
        for values in record["result"]["near"].values():
            for value in values.values():  # a share of 5,000 images
                assert 5000 * value == pytest.approx(round(5000 * value), abs=1e-2)
    claim("08", "tested on all test images of the new classes")
    assert {r["num_images"] for r in runs.load_seeds("pretrained-5-classes")} == {30_000}
    assert min(last_of_seeds("pretrained-5-classes", "test_accuracy")) > 0.97


def test_the_halves_are_as_the_page_says():
    words = [[data.CLASSES[n] for n in half] for half in (transfer.OLD, transfer.NEW)]
    assert words == [
        ["t-shirt", "trouser", "pullover", "sandal", "sneaker"],
        ["dress", "coat", "shirt", "bag", "ankle boot"],
    ]
    claim("08", "Old: t-shirt, trouser, pullover, sandal, sneaker. New: dress, coat, shirt, bag, ankle boot.")


def test_where_pretraining_pays():
    found = {n: ahead("fine-tune", "scratch", n) for n in transfer.SIZES}
    claim(
        "08",
        "fine-tuning is ahead of training from scratch by about sixteen points; with 500, by about three",
        0.15 < found[5].mean < 0.18 and 0.02 < found[500].mean < 0.035,
    )
    assert all(found[n].clear for n in transfer.SIZES)
    claim("08", "by about sixteen points, with 500 by three")
    claim("08", "With 5 and 10 labels it, too, is far ahead of training from scratch")
    assert all(ahead("head", "scratch", n).mean > 0.05 for n in (5, 10))
    claim(
        "08",
        "a hundred times as many labels gain it only a few points",
        0.03 < mean("head", 500) - mean("head", 5) < 0.1,
    )
    networks = ("head", "pixels", "fine-tune", "scratch")
    claim("08", "with 500 it is the worst", min(networks, key=lambda m: mean(m, 500)) == "head")


def test_the_pixels_are_hard_to_beat():
    claim("08", "is as good as fine-tuning with 5 and 10 labels")
    assert not any(ahead("fine-tune", "pixels", n).clear for n in (5, 10))
    claim("08", "ahead of the frozen head from 50 on, and ahead of training from scratch up to 50")
    assert all(ahead("pixels", "head", n).clear for n in (50, 500))
    assert all(ahead("pixels", "scratch", n).clear for n in (5, 10, 50))
    claim("08", "Only fine-tuning leaves it behind, where there are more labels.")
    assert ahead("fine-tune", "pixels", 500).clear and not ahead("scratch", "pixels", 500).clear


def test_the_trap_does_not_show_on_the_new_task():
    claim(
        "08",
        "norms that move are about as good as norms that stay",
        all(abs(ahead("trap", "head", n).mean) < 0.02 for n in transfer.SIZES),
    )


def test_the_curves_are_as_the_alt_text_says():
    page = page_text("08")
    assert "five curves" in page and len(transfer.METHODS) == 5
    assert 0.58 < mean("scratch", 5) < 0.62 and 0.86 < mean("scratch", 500) < 0.88
    assert 0.73 < min(mean("head", 5), mean("trap", 5)) and max(mean("head", 5), mean("trap", 5)) < 0.77
    assert all(0.8 < mean(m, 500) < 0.83 for m in ("head", "trap"))
    assert 0.74 < mean("fine-tune", 5) < 0.79 and 0.89 < mean("fine-tune", 500) < 0.91
    assert 0.74 < mean("pixels", 5) < 0.79 and 0.865 < mean("pixels", 500) < 0.88


def test_what_is_left_of_the_old_classes():
    old = {key: [r["result"]["old"][key] for r in FOUND] for key in ("before", "head", "trap", "fine-tune")}
    claim("08", "untouched, to the last image", old["head"] == old["before"])
    lost = statistics.fmean(old["before"]) - statistics.fmean(old["trap"])
    claim("08", "With norms that move it is a little worse", 0.001 < lost < 0.01)
    lost = statistics.fmean(old["before"]) - statistics.fmean(old["fine-tune"])
    claim("08", "a strong word for five points", round(100 * lost) == 5)
    claim("08", "in a hundred steps", transfer.STEPS[50] == 100)


def test_shuffled_pixels():
    def shuffled(method: str) -> list[float]:
        return [record["result"]["shuffled"][method] for record in FOUND]

    means = {m: statistics.fmean(shuffled(m)) for m in ("pixels", "head", "fine-tune", "scratch")}
    claim("08", "the frozen head is the worst of all", min(means, key=means.get) == "head")
    gain = compare.paired_difference(shuffled("scratch"), shuffled("fine-tune"))
    claim("08", "about a point behind training from scratch", -0.015 < gain.mean < -0.007)
    claim("08", "small, and clear", gain.clear)
    claim("08", "On shuffled pixels pretraining did harm.")
    claim("08", "all networks are behind the pixels", max(means, key=means.get) == "pixels")
    # Shuffling changes nothing for them but the order in which weights are drawn.
    assert abs(means["pixels"] - mean("pixels", 50)) < 0.01


def test_the_loop_on_the_page_is_the_packages():
    scope = {"torch": torch, "nn": nn, "F": F, "math": math, "Tensor": Tensor, "transfer": transfer}
    exec(cell("loop-code").partition("\n\ntorch.manual_seed")[0], scope)
    x, y = torch.randn(60, 1, 8, 8), torch.arange(60) % 5
    start = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 5))
    for norms in ("kept", "moving"):
        mine, theirs = copy.deepcopy(start), copy.deepcopy(start)
        scope["adapt"](mine, x, y, [{"params": mine.parameters(), "lr": 0.1}], 5, norms, 3, 25)
        transfer.adapt(theirs, x, y, [{"params": theirs.parameters(), "lr": 0.1}], 5, norms, 3, 25)
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_the_summary_is_read_rightly():
    model = models.build(runs.load("pretrained-5-classes-seed0")["model"])
    claim("08", "`144` is 9·1·16 for the stem", model.conv1.weight.numel() == 144 == 9 * 16)
    claim("08", "`32` a scale and a shift for 16 channels")
    claim("08", "`325` is 64·5 + 5 for the head", 64 * 5 + 5 == probes.count_parameters(model.fc) == 325)
    claim(
        "08",
        "28 becomes 14, 7 and 4",
        [probes.shapes(model, (1, 28, 28))[f"layer{i}"][2] for i in (1, 2, 3)] == [14, 7, 4],
    )
    claim("08", "a slip of version 1.8.0", torchinfo.__version__ == "1.8.0")
    claim("08", "*Running statistics appear nowhere*")
    transfer.freeze(model)
    read = torchinfo.summary(model, (1, 1, 28, 28), depth=1, verbose=0)
    assert read.trainable_params == 325
    claim("08", "325 trainable parameters of 269,109", read.total_params == 269_109)
    claim("08", "A quarter of a million weights", 0.24 < read.total_params / 1e6 < 0.28)


def test_which_frozen_weights_move():
    scope = {"torch": torch, "nn": nn}
    exec(cell("optimizer-code").partition("\n\nWAYS")[0], scope)
    moves = scope["still_moves"]
    assert moves("requires_grad off, zero_grad to None") == (False, False)
    assert moves("requires_grad off, zero_grad to 0") == (True, False)
    assert moves("requires_grad off, no zero_grad") == (True, False)
    assert moves("gradient set to 0") == (True, True)
    assert moves("rate of its group 0") == (False, True)
    assert moves("left out of a new optimizer") == (False, True)
    claim("08", "The last two hold the weight, but pay for its gradient")


@pytest.mark.slow
def test_what_a_stream_does_to_a_frozen_network(dataset):
    """Whether the norms' drift costs as much as the page says, on all old test images and two networks."""
    old = data.of_classes(dataset.test_images, dataset.test_labels, transfer.OLD)
    old = old[0][1000:2000], old[1][1000:2000]  # others than the page's
    images, labels = transfer.task(dataset.train_images, dataset.train_labels)
    streams = {"mixed": images, "boots": images[labels == 4], "white": 255 - images}
    lost = dict.fromkeys(streams, 0.0)
    for seed in (0, 1):
        for name, stream in streams.items():
            model = transfer.backbone(seed)
            before = train.evaluate(model, *old, transfer.RECIPE, "cpu").accuracy
            for batch in stream[:2000].split(50):
                model.train()
                with torch.no_grad():
                    model(prepare(batch, transfer.RECIPE))
            lost[name] += (before - train.evaluate(model, *old, transfer.RECIPE, "cpu").accuracy) / 2
    claim("08", "you would not notice", lost["mixed"] < 0.02)
    claim("08", "One class alone costs a few points", 0.02 < lost["boots"] < 0.12)
    claim("08", "a white ground about ten", 0.05 < lost["white"] < 0.2)


def test_what_torchvision_says_of_its_weights():
    import torchvision

    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    claim("08", "a download of about 98 MB", round(weights.meta["_file_size"]) == 98)
    claim("08", "Resized to 232, the centre of 224 cut out")
    assert weights.transforms().resize_size == [232] and weights.transforms().crop_size == [224]


@pytest.mark.parametrize("network", [True, False])
def test_the_pretrained_network_is_fetched_or_the_page_says_why_not(network, monkeypatch, capsys):
    import torchvision

    build = torchvision.models.resnet50

    def fetched(weights=None):
        if weights is not None and not network:
            raise urllib.error.URLError("no route to host")
        return build()

    monkeypatch.setattr(torchvision.models, "resnet50", fetched)
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(300) % 5

    class Loaded:
        test_images = images

    def small(x: Tensor) -> Tensor:
        return F.interpolate(x.float(), size=32)  # as the weights' own, but quick

    scope = {"torch": torch, "nn": nn, "torchvision": torchvision, "transfer": transfer, "weights": weights}
    scope |= {"preprocess": small, "dataset": Loaded, "few_images": images[:50], "few_labels": labels[:50]}
    scope |= {"test_images": images, "test_labels": labels, "adapt": transfer.adapt}
    scope["replace_head"] = transfer.replace_head
    exec(cell("download").replace("DOWNLOAD = False", "DOWNLOAD = True"), scope)
    said = capsys.readouterr().out
    assert ("no route to host" in said) == ("random weights" in said) == (not network)
    assert "new head on its features: 0." in said
    assert scope["photo"].fc.out_features == 5
