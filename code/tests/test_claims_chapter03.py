"""What chapter 3 says of its results is so: by the records, and measured again with other seeds."""

import itertools
import math
from fractions import Fraction
from statistics import fmean, geometric_mean, median

import pytest
import torch
from conftest import claim, last_of_seeds
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, compare, models, runs

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, NUM_BLOCKS = 32, 50
PLAIN, A, B, C = "degradation-plain-20", "degradation-residual-20", "shortcut-b-20", "shortcut-c-20"
LABELS = {PLAIN: "no shortcut", A: "option A", B: "option B", C: "option C"}
LABELS |= {f"preactivation-{depth}": f"v2, {depth} layers" for depth in (20, 56)}
V1 = {A: "v1, 20 layers", "degradation-residual-56": "v1, 56 layers"}
MEASURES = {"training loss": "slice_loss", "test accuracy": "test_accuracy"}


# ---- the chain of section 1 and 3


class Branch(nn.Module):
    """F of the page's chains: linear, ReLU, linear."""

    def __init__(self, width: int, he: bool = False, last_gain: str = "relu") -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False, dtype=torch.float64)
        self.second = nn.Linear(width, width, bias=False, dtype=torch.float64)
        if he:
            nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
            nn.init.kaiming_normal_(self.second.weight, nonlinearity=last_gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


JOINS = {
    "plain": lambda x, residual: F.relu(residual),
    "v1": lambda x, residual: F.relu(x + residual),
    "v2": lambda x, residual: x + residual,
}


def chain(branches: list[Branch], x: Tensor, join: str) -> list[Tensor]:
    outputs = [x]
    for branch in branches:
        outputs.append(JOINS[join](outputs[-1], branch(outputs[-1])))
    return outputs


def copying_error(seed: int, join: str, lr: float, steps: int) -> float:
    """How far five blocks are from the identity after so many steps, as in section 1."""
    torch.manual_seed(seed)
    branches = nn.ModuleList(Branch(16) for _ in range(5))
    x = torch.randn(256, 16, dtype=torch.float64)
    optimizer = torch.optim.Adam(branches.parameters(), lr=lr)
    for _ in range(steps + 1):
        out = x
        for branch in branches:
            out = branch(out) + (out if join == "v2" else 0)
        loss = (out - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.slow
def test_a_plain_chain_does_not_learn_to_copy():
    for seed in range(2):
        start = copying_error(seed, "plain", 1e-3, 0)
        near = copying_error(seed, "v2", 1e-3, 100)
        claim("03", "it has nearly arrived after 100 steps", near < 0.05 * start)
        claim("03", "starts much closer", copying_error(seed, "v2", 1e-3, 0) < 0.5 * start)
        slow = copying_error(seed, "plain", 1e-3, 500)
        claim("03", "500 steps do not bring them halfway", slow > 0.53 * start)
        fast = copying_error(seed, "plain", 1e-2, 500)
        claim(
            "03",
            "Ten times the learning rate brings them a little past halfway, and still nowhere near the other",
            0.3 * start < fast < 0.5 * start and fast > 10 * near,
        )


def gradients(seed: int, he: bool) -> dict[str, float]:
    """Length of the gradient at the first block as a share of that at the last, for each way to join."""
    torch.manual_seed(seed)
    branches = [Branch(WIDTH, he) for _ in range(NUM_BLOCKS)]
    x = torch.rand(WIDTH, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(WIDTH, dtype=torch.float64)
    found = {}
    for join in JOINS:
        outputs = chain(branches, x, join)
        first, last = torch.autograd.grad(outputs[-1] @ direction, [outputs[0], outputs[-1]])
        found[join] = (first.norm() / last.norm()).item()
    return found


def test_which_gradients_vanish_and_which_explode():
    small, he = ([gradients(seed, kind) for seed in range(12)] for kind in (False, True))
    claim("03", "the plain chain loses its gradient", all(g["plain"] < 1e-35 for g in small))
    claim("03", "The shortcut saves it", all(0.3 < g[join] < 30 for g in small for join in ("v1", "v2")))
    lost = {kind: [g["v2"] / g["v1"] for g in found] for kind, found in (("small", small), ("he", he))}
    claim("03", "Over fifty blocks that is little with small weights.", max(lost["small"]) < 10)
    claim(
        "03",
        "With He weights it is much, and how much depends on the seed.",
        median(lost["he"]) > 50 and max(lost["he"]) > 30 * min(lost["he"]),
    )
    claim(
        "03",
        "with other seeds it loses up to a few powers of ten",
        all(1e-6 < g["plain"] < 100 for g in he) and min(g["plain"] for g in he) < 0.01,
    )
    exploded = [g["v2"] for g in he]
    claim("03", "the *residual* ones explode", min(min(exploded), *(g["v1"] for g in he)) > 1e6)
    claim(
        "03",
        "A single chain may miss this average by a power of ten or two.",
        all(3**25 / 200 < g < 3**25 * 200 for g in exploded),
    )
    claim("03", "$\\sqrt3^{\\,50}=3^{25}$-fold, nearly $10^{12}$", 0.8e12 < 3**25 < 1e12)


def test_the_worked_example_on_paper():
    """Two blocks with F(x) = x²/20 at x = 2: slopes in exact fractions."""
    x, fifth = Fraction(2), Fraction(1, 5)
    value, slope = (lambda at: at**2 / 20), (lambda at: at / 10)
    assert value(x) == slope(x) == fifth
    plain = slope(value(x)) * slope(x)
    claim("03", "|slope of block 1, at 2|$0.2$|$1+0.2$| |its output|$0.2$|$2+0.2=2.2$|")
    claim("03", "|slope of block 2, there|$0.02$|$1+0.22$|", slope(value(x)) == Fraction("0.02"))
    claim("03", "|gradient, the product|$0.004$|$1.464$|", plain == Fraction("0.004"))
    first, second = slope(x), slope(x + value(x))
    claim("03", "|through the second $F$ only|$0.22\\cdot 1=0.22$|", second == Fraction("0.22"))
    claim("03", "|through both|$0.22\\cdot 0.2=0.044$|", second * first == Fraction("0.044"))
    whole = (1 + second) * (1 + first)
    claim(
        "03",
        "Multiply $(1+0.22)(1+0.2)$ out",
        whole == 1 + first + second + second * first == Fraction("1.464"),
    )
    claim("03", "Two thirds of the gradient have passed no $F$", abs(1 / whole - Fraction(2, 3)) < 0.02)
    claim("03", "plain: gradient 0.004 residual: gradient 1.464 sum over the four paths: 1.464")


# ---- variances, section 5


@pytest.mark.parametrize(("last_gain", "alone"), [("relu", 2), ("linear", 1)])
def test_what_a_random_f_does_to_the_variance(last_gain, alone):
    torch.manual_seed(5)
    x = torch.randn(500, 128, dtype=torch.float64)
    of_f, of_sum, of_gradient = [], [], []
    for _ in range(100):
        branch = Branch(128, True, last_gain)
        start = x[:20].clone().requires_grad_()
        arriving = torch.randn(20, 128, dtype=torch.float64)
        (leaving,) = torch.autograd.grad(start + branch(start), start, arriving)
        of_gradient.append((leaving.square().sum() / arriving.square().sum()).item())
        with torch.no_grad():
            residual = branch(x)
        of_f.append((residual.var() / x.var()).item())
        of_sum.append(((x + residual).var() / x.var()).item())
    assert fmean(of_f) == pytest.approx(alone, rel=0.03)
    assert fmean(of_sum) == pytest.approx(1 + alone, rel=0.03)
    assert fmean(of_gradient) == pytest.approx(1 + alone, rel=0.05)


def test_the_page_says_so():
    claim("03", "$$\\mathrm{Var}(F(x))=2\\,\\mathrm{Var}(x).$$")
    claim("03", "=\\mathrm{Var}(x)+\\mathrm{Var}(F(x))=3\\,\\mathrm{Var}(x).$$")
    claim("03", "He 2.0 3.0 without doubling 1.0 2.0")
    claim("03", "has three times the squared length of $g$")
    claim("03", "and $F$ keeps the variance, while the block doubles it")


def test_the_variance_along_twenty_basic_blocks():
    factors, before_relu, normed = [], [], []
    for seed, norm in itertools.product(range(3), (nn.Identity, nn.BatchNorm2d)):
        torch.manual_seed(seed)
        x = F.relu(torch.randn(4, 64, 16, 16))
        x = x / x.std()
        found = [x.var().item()]
        for _ in range(20):
            block = blocks.BasicBlock(64, 64, norm=norm)
            for conv in (block.conv1, block.conv2):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            with torch.no_grad():
                residual = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
                if norm is nn.Identity:
                    before_relu.append(((x + residual).var() / x.var()).item())
                x = F.relu(x + residual)
            found.append(x.var().item())
        if norm is nn.Identity:
            factors.append(found[-1] ** (1 / 20))
        else:
            normed.append(found)
    claim("03", "the sum more than triples the variance", geometric_mean(before_relu) > 3.5)
    claim("03", "no norm: 2.3 times per block, on average", all(2 < factor < 2.5 for factor in factors))
    claim("03", "a little steeper than the dotted line of exact doubling")
    for found in normed:  # the same amount in every five blocks
        steps = [found[i + 5] - found[i] for i in range(0, 20, 5)]
        claim("03", "each block adds about the same amount", max(steps) < 1.3 * min(steps))
        claim("03", "With batch norm it bends and ends below 10.", 7 < found[-1] < 9)


# ---- ways to join, section 8


def test_a_norm_after_the_plus_divides_the_shortcut():
    torch.manual_seed(3)
    x = torch.randn(256, WIDTH, dtype=torch.float64).relu()
    for _ in range(10):
        residual = F.batch_norm(Branch(WIDTH)(x), None, None, training=True)
        variance = (x + residual).var(dim=0).mean().item()
        claim("03", "$F(x)$ adds variance, and the norm divides the sum, $x$ included", 1.1 < variance < 1.9)
        x = F.relu(F.batch_norm(x + residual, None, None, training=True)).detach()


def test_the_alt_text_of_the_five_ways_repeats_what_is_printed():
    claim("03", "plus, then ReLU (v1) 100% 50% 4e-01 ReLU on the shortcut 100% 50% 3e-01")
    claim("03", "Plus then ReLU, and ReLU on the shortcut, fall to four and three tenths")


def test_the_live_training_points_where_the_long_ones_do():
    claim("03", "with shortcuts lower after every epoch: True")
    plain, residual = (
        last_of_seeds(f"degradation-{kind}-32", "slice_loss") for kind in ("plain", "residual")
    )
    claim("03", "they point where the longer trainings", max(residual) < min(plain))


# ---- recorded trainings, sections 6 and 7


def differences(pairs: list[tuple[str, str]]) -> dict[tuple[str, str, str], tuple[compare.Difference, str]]:
    """Every difference in both measures with its verdict, by the book's yardstick."""
    found = {}
    for measure, key in MEASURES.items():
        for first, second in pairs:
            values = last_of_seeds(first, key), last_of_seeds(second, key)
            paired = (first, second) == (PLAIN, A)  # the only two that share their weights
            judge = compare.paired_difference if paired else compare.unpaired_difference
            found[measure, first, second] = judge(*values)
    stands = compare.holm([difference.p_value for difference in found.values()])
    return {
        key: (difference, "clear" if holds else "clear alone" if difference.clear else "not clear")
        for (key, difference), holds in zip(found.items(), stands, strict=True)
    }


def assert_printed(found: dict, labels: dict[str, str]) -> None:
    for (_, first, second), (difference, verdict) in found.items():
        low, high = difference.interval
        said = {"clear": "clear stands", "clear alone": "clear –", "not clear": "not clear –"}[verdict]
        claim(
            "03",
            f"{labels[first]} → {labels[second]} {difference.mean:+.3f} {difference.error:.3f} "
            f"{low:+.3f} to {high:+.3f} {said}",
        )


def test_the_verdicts_on_the_shortcut_options():
    assert all(len(runs.load_seeds(name)) >= 3 for name in (PLAIN, A, B, C))
    found = differences([(PLAIN, A), (A, B), (A, C), (B, C)])
    assert_printed(found, LABELS)
    verdicts = {key: verdict for key, (_, verdict) in found.items()}
    claim("03", "it clearly lowers the training loss", verdicts["training loss", PLAIN, A] == "clear")
    claim("03", "In test accuracy it is clear alone.", verdicts["test accuracy", PLAIN, A] == "clear alone")
    losses = [fmean(last_of_seeds(name, "slice_loss")) for name in (A, B, C)]
    options = [("training loss", A, B), ("training loss", A, C), ("training loss", B, C)]
    claim(
        "03",
        "The dearer ones end with a little *more* training loss, from A to C clear alone",
        losses == sorted(losses)
        and [verdicts[key] for key in options] == ["not clear", "clear alone", "not clear"],
    )
    accuracies = [("test accuracy", *pair) for pair in itertools.combinations((A, B, C), 2)]
    claim("03", "in test accuracy nothing is clear", all(verdicts[key] == "not clear" for key in accuracies))
    claim(
        "03",
        "the intervals are wide: in accuracy, each leaves room for half a point",
        all(max(map(abs, found[key][0].interval)) > 0.005 for key in accuracies),
    )
    claim("03", "they cannot be put in an order", "clear" not in [verdicts[k] for k in options + accuracies])


def test_only_the_network_without_shortcuts_and_option_a_begin_with_the_same_weights():
    def start(shortcut: str, residual: bool = True) -> list[Tensor]:
        torch.manual_seed(1)
        network = models.cifar_resnet(20, residual, shortcut, in_channels=1, stem_stride=2)
        return list(network.state_dict().values())

    plain, a, b = start("A", residual=False), start("A"), start("B")
    same = len(plain) == len(a) and all(map(torch.equal, plain, a))
    claim("03", "Option A begins, seed by seed, with the weights of the network without shortcuts", same)
    assert not torch.equal(a[-2], b[-2])


def test_the_verdicts_on_the_two_versions():
    pairs = [(f"degradation-residual-{depth}", f"preactivation-{depth}") for depth in (20, 56)]
    assert all(len(runs.load_seeds(name)) >= 3 for pair in pairs for name in pair)
    found = differences(pairs)
    assert_printed(found, LABELS | V1)
    claim("03", "Nothing is clear.", all(verdict == "not clear" for _, verdict in found.values()))
    deep = pairs[1]
    claim(
        "03",
        "At 56 layers version 2 is ahead in both columns, but both intervals reach across 0.",
        found["training loss", *deep][0].mean < 0 < found["test accuracy", *deep][0].mean,
    )
    first, second = (sorted(last_of_seeds(name, "slice_loss")) for name in deep)
    accuracy = sorted(last_of_seeds(deep[0], "test_accuracy"))
    claim(
        "03",
        "version 1 has one bad seed among its five",
        len(first) == 5
        and first[-1] - first[-2] > first[-2] - first[0]
        and accuracy[1] - accuracy[0] > accuracy[-1] - accuracy[1],
    )
    claim("03", "no seed of version 2 was like it", max(second) < first[0])


def test_what_the_dots_show():
    def split(experiment: str) -> tuple[list[float], list[float]]:
        return last_of_seeds(experiment, "slice_loss"), last_of_seeds(experiment, "test_accuracy")

    (plain_loss, plain_accuracy), *options = map(split, (PLAIN, A, B, C))
    losses, accuracies = ([values[i] for values in options] for i in (0, 1))
    claim(
        "03",
        "Training loss: every dot without a shortcut lies far to the right of every other dot",
        min(plain_loss) - max(map(max, losses)) > max(map(max, losses)) - min(map(min, losses)),
    )
    claim("03", "those of the three options lie close together.")  # less wide than the gap, as just asserted
    claim(
        "03",
        "the mean without a shortcut lies furthest to the left, and the dots of the three options overlap",
        fmean(plain_accuracy) < min(map(fmean, accuracies))
        and max(map(min, accuracies)) < min(map(max, accuracies)),
    )
    kinds = ("degradation-residual", "preactivation")
    loss, accuracy = zip(*(split(f"{kind}-{depth}") for kind in kinds for depth in (20, 56)), strict=True)
    loss, accuracy = (sorted(itertools.chain(*values)) for values in (loss, accuracy))
    (deep_loss, deep_accuracy) = split("degradation-residual-56")
    claim(
        "03",
        "but for one seed of version 1 with 56 layers: by far the highest loss, and the lowest accuracy",
        loss[-1] == max(deep_loss)
        and accuracy[0] == min(deep_accuracy)
        and deep_loss.index(loss[-1]) == deep_accuracy.index(accuracy[0])
        and loss[-1] - loss[-2] > loss[-2] - loss[0]
        and accuracy[1] - accuracy[0] > accuracy[-1] - accuracy[1],
    )


def test_the_paths_that_carry_the_gradient():
    """On average over the weights, what came through k functions has a mean square of comb(n, k) · r^k."""

    def mean_length(ratio: float) -> float:
        norms = [math.sqrt(math.comb(NUM_BLOCKS, k) * ratio**k) for k in range(NUM_BLOCKS + 1)]
        return sum(k * norm for k, norm in enumerate(norms)) / sum(norms)

    # One F with He weights doubles a mean square. PyTorch's own weights have a variance of 1 / (3 · width),
    # a sixth of He's, in each of two layers.
    claim("03", "gradient, small weights 3", abs(mean_length(2 / 36) - 3) < 1)
    claim("03", "gradient, He weights 33", abs(mean_length(2) - 33) < 1)
    claim("03", "With He weights it is the long ones that win", mean_length(2) > NUM_BLOCKS / 2 + 5)
