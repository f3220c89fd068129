"""What chapter 7 says is so, by its records and its kept networks: maps, Grad-CAM, lesions, ratios."""

import statistics

import pytest
import torch
from conftest import claim, require
from scipy.stats import spearmanr

from resnetbook import data, inside, models, studies
from resnetbook.recipe import Recipe
from resnetbook.transforms import prepare

SHAPES_CHANGE = ("layer2.0", "layer3.0")


def results(study: str) -> list[dict]:
    return [record["result"] for record in studies.load_seeds(study)]


def lesions(network: str) -> list[dict]:
    return [result[network] for result in results("lesions")]


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return models.trained("resnet-20")


def test_maps_and_what_excites_a_channel(resnet, dataset: data.FashionMNIST):
    images, labels = prepare(dataset.test_images[:2000], Recipe()), dataset.test_labels[:2000]
    last = torch.cat([inside.feature_maps(resnet, ["layer3"], part)["layer3"] for part in images.split(500)])
    claim("07", "what remains is sixteen numbers to a map", last.shape[2] * last.shape[3] == 16)
    claim("07", "What does one of the 64 last maps stand for?", last.shape[1] == 64)
    activity = last.mean((2, 3))
    top = labels[activity.topk(9, dim=0).indices]
    favourite = top.mode(dim=0).values
    pure = (top == favourite).all(0)
    own = torch.stack([activity[labels == k, c].sum() for c, k in enumerate(favourite)]) / activity.sum(0)
    claim("07", "Many channels look as if they had a class of their own", int(pure.sum()) >= 25)
    claim(
        "07",
        "most of what a typical one of them puts out comes from other classes",
        0.15 < own[pure].median() < 0.45,
    )


def test_which_images_are_shown(resnet, dataset: data.FashionMNIST):
    numbers = [0, 1, 2, 23]
    with torch.no_grad():
        probabilities = resnet(prepare(dataset.test_images[numbers], Recipe())).softmax(1)
    best, second = probabilities.topk(2).indices.T
    true = dataset.test_labels[numbers]
    words = [data.CLASSES[k] for k in true]
    claim(
        "07",
        "four test images: an ankle boot, a pullover, trousers and another ankle boot",
        words == ["ankle boot", "pullover", "trouser", "ankle boot"],
    )
    assert torch.equal(best[:3], true[:3])
    assert probabilities[3, best[3]] - probabilities[3, second[3]] > 0.02  # no rounding turns them round
    claim("07", "The last boot is taken for a sandal", data.CLASSES[best[3]] == "sandal")
    claim("07", "its second class is ankle boot", data.CLASSES[second[3]] == "ankle boot")


def test_a_cell_has_seen_the_whole_picture():
    # Receptive field and step of the stem and of three stages of six convolutions with a window of 3.
    field, step = 3, 2
    for stage in range(3):
        for conv in range(6):
            field += 2 * step
            step *= 2 if conv == 0 and stage > 0 else 1
    claim("07", "receptive field** is wider than the picture", step == 8 and field > 2 * 28)


@pytest.mark.parametrize("result", results("salience"))
def test_what_grad_cam_passes_and_what_not(result):
    drawn = result["randomized"]
    claim(
        "07",
        "With a new linear layer little or nothing is left of the map",
        abs(drawn["the linear layer"][0]) < 0.25,
    )
    claim(
        "07",
        "the trained network's map for *another class* still has much in common with the first",
        drawn["nothing, second class"][0] > 0.35 > 2 * abs(drawn["the linear layer"][0]),
    )
    for fill in ("black", "grey"):
        costs = {where: value[0] for where, value in result["erased"][fill].items()}
        claim(
            "07",
            "The hottest patch costs more than a random one, and far more than the coldest.",
            costs["Grad-CAM's hottest"] > 1.15 * costs["at random"]
            and costs["Grad-CAM's hottest"] > 2 * costs["Grad-CAM's coldest"],
        )
        claim(
            "07", "costs more than twice as much", costs["worst of the 16"] > 2 * costs["Grad-CAM's hottest"]
        )
    gaps = {fill: result["erased"][fill]["hottest − most ink"] for fill in ("black", "grey")}
    claim("07", "in black the ink costs *more*, and clearly so", gaps["black"][0] < -2 * gaps["black"][1])
    claim("07", "only in grey does Grad-CAM win", gaps["grey"][0] > 2 * gaps["grey"][1])
    named = [result["worst"][fill]["Grad-CAM's hottest"] for fill in ("black", "grey")]
    claim("07", "names it in less than one image of five; chance would be one of sixteen", max(named) < 0.2)


def lost(result: dict, block: str) -> float:
    return result["whole"] - result["removed"][block]


@pytest.mark.parametrize("result", lesions("resnet-20"))
def test_what_the_residual_network_loses(result):
    assert result["num_images"] == 10_000
    claim("07", "Now every block, all 10,000 test images")
    blocks = list(result["removed"])
    assert len(blocks) == 9
    claim(
        "07",
        "The residual network loses little by most cuts",
        sum(lost(result, b) < 0.1 for b in blocks) >= 6,
    )
    claim(
        "07",
        "Block 1.1 is the dearest in every residual network here",
        max(blocks, key=lambda block: lost(result, block)) == "layer1.0",
    )
    claim(
        "07",
        "2.1 costs more than its neighbours",
        lost(result, "layer2.0") > max(lost(result, b) for b in ("layer1.2", "layer2.1")),
    )
    swaps = [result["whole"] - accuracy for accuracy in result["swapped"].values()]
    claim("07", "Swapping neighbours shows the same.", sorted(swaps)[2] < 0.1)


@pytest.mark.parametrize("result", lesions("plain-20"))
def test_what_the_plain_network_loses(result):
    # 0.1 is chance.
    removed = result["removed"]
    assert set(SHAPES_CHANGE) == set(result["kept"])
    claim("07", "the plain one nearly everything by nearly any", sum(a < 0.3 for a in removed.values()) >= 5)
    assert max(result["swapped"].values()) < 0.4


def test_what_depends_on_the_seed():
    shares = [lost(result, "layer1.0") / result["whole"] for result in lesions("resnet-20")]
    claim("07", "and once cost more than half of the accuracy", sum(share > 0.5 for share in shares) == 1)
    ends = [result["removed"]["layer1.0"] for result in lesions("plain-20")]
    claim(
        "07",
        "what a plain network keeps without its first or last block depends on the seed",
        max(ends) > 0.3 and min(ends) < 0.15,
    )


def test_several_blocks_at_once():
    means = [
        statistics.fmean(value for result in lesions("resnet-20") for value in result["several"][number])
        for number in ("2", "4", "6")
    ]
    claim("07", "the accuracy falls step by step, as paths get fewer", means[0] > means[1] > means[2])
    claim("07", "Taking one out leaves half of them, unchanged", 2**8 * 2 == 2**9)


def test_how_much_blocks_change():
    ratios = [value for result in lesions("resnet-20") for value in result["ratios"].values()]
    claim("07", "about as large as what it is given", 0.5 < min(ratios) and max(ratios) < 2.5)
    for residual, plain in zip(lesions("resnet-20"), lesions("plain-20"), strict=True):
        inner = [b for b in plain["ratios"] if b != "layer1.0"]
        claim(
            "07",
            "A plain block's change is larger still.",
            all(plain["ratios"][block] > residual["ratios"][block] for block in inner),
        )
    generator = torch.Generator().manual_seed(0)
    first, second = torch.zeros(2, 1000)
    first[:500], second[500:] = torch.rand(2, 500, generator=generator)
    unlike = (first / first.norm() - second / second.norm()).norm().item()
    claim("07", r"it would be $\sqrt 2$", unlike == pytest.approx(2**0.5, abs=1e-3))


def test_the_deep_network():
    require(
        "lesions-56-seed0" in studies.names(),
        "ResNet-56's lesions are not recorded: measure lesions-56-seed0",
    )
    (result,) = (found["resnet-56"] for found in results("lesions-56"))
    blocks = list(result["removed"])
    assert len(blocks) == 27
    cost = {block: lost(result, block) for block in blocks}
    claim("07", "In ResNet-56 single cuts hardly show.", statistics.median(cost.values()) < 0.02)
    assert sum(value < 0.05 for value in cost.values()) >= 24
    claim(
        "07", "Block 1.1 is the dearest in every residual network here", max(cost, key=cost.get) == "layer1.0"
    )
    ratios = result["ratios"]
    claim("07", "In ResNet-56 most ratios are below a half", statistics.median(ratios.values()) < 0.5)
    for left_out in ((), SHAPES_CHANGE):
        kept = [block for block in blocks if block not in left_out]
        test = spearmanr([ratios[b] for b in kept], [cost[b] for b in kept])
        claim(
            "07",
            "there the ratio predicts the order of the harm: clearly, though not exactly",
            test.pvalue < 0.05 and 0.7 < test.statistic < 0.99,
        )


def test_ratio_and_harm_in_the_shallow_network():
    clear = []
    for result in lesions("resnet-20"):
        ratios, blocks = result["ratios"], list(result["removed"])
        cost = [lost(result, block) for block in blocks]
        claim(
            "07",
            "Block 1.1 has the largest ratio everywhere, and costs most.",
            max(ratios, key=ratios.get) == "layer1.0" == blocks[cost.index(max(cost))],
        )
        for left_out in ((), SHAPES_CHANGE):
            kept = [i for i, block in enumerate(blocks) if block not in left_out]
            test = spearmanr([ratios[blocks[i]] for i in kept], [cost[i] for i in kept])
            claim("07", "The correlation is positive in each network.", test.statistic > 0)
            clear.append(test.pvalue < 0.05)
    claim("07", "it depends on the seed whether it is clear", any(clear) and not all(clear))
