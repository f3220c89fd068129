"""The exercises of chapter 7: class activation maps, a silent block, ranks, lengths, calibration."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from resnetbook.blocks import BasicBlock
from resnetbook.checks.common import CheckFailed
from resnetbook.checks.exercise import Exercise, Outcome

# ---- class activation maps


def _maps() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def case(images: int, channels: int, height: int, width: int, classes: list[int]) -> tuple:
        maps = torch.rand(images, channels, height, width, generator=generator)
        weight = torch.randn(6, channels, generator=generator)
        return maps, weight, torch.tensor(classes)

    return [case(3, 5, 4, 4, [2, 0, 5]), case(2, 6, 2, 3, [1, 1]), case(1, 1, 1, 1, [3])]


def _cam_by_einsum(maps: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    places = maps.shape[2] * maps.shape[3]
    return torch.einsum("nchw,nc->nhw", maps, weight.index_select(0, classes)).clamp(min=0) / places


class_activation_map = Exercise(
    number="7.1",
    title="The closed form",
    minutes=10,
    level="medium",
    answer="""\
def class_activation_map(
    maps: Tensor, weight: Tensor, classes: Tensor
) -> Tensor:
    rows = weight[classes]  # (N, C)
    weighted = rows[:, :, None, None] * maps
    num_places = maps.shape[2] * maps.shape[3]
    return torch.relu(weighted.sum(1)) / num_places
""",
    cases=_maps,
    trusted=_cam_by_einsum,
    slips="""
torch.relu(weighted.sum(1)) -> torch.relu(weighted).sum(1)
    ReLU comes after the sum: a map that speaks against the class has to count against it.
torch.relu(weighted.sum(1)) -> weighted.sum(1)
    What speaks against the class is cut off at the end, by a ReLU.
torch.relu(weighted.sum(1)) -> weighted.sum(1).abs()
    A negative value speaks against the class: it becomes 0, and not positive.
weighted.sum(1)) / num_places -> weighted.sum(1))
    The mean over places divides every gradient by the number of places, H · W.
weighted.sum(1) -> weighted.mean(1)
    The maps are added, not averaged over the channels.
/ num_places -> / maps.shape[2] * maps.shape[3]
or
num_places = maps.shape[2] * maps.shape[3] -> num_places = maps.shape[2] + maps.shape[3]
    The divisor is H · W as a whole.
weight[classes] -> weight[:1].expand(len(classes), -1)
    Each image has its own class, so take its own row of the weight.
/ num_places -> / weighted.sum(1).flatten(1).max(1).values[:, None, None]
    Many pictures are scaled so that their largest value is 1. The map itself is not.
weight[classes] -> weight[classes].abs()
    A negative weight says that the map speaks against the class: keep its sign.
torch.relu(weighted.sum(1)) -> torch.relu(rows.sum(1))[:, None, None] * maps.sum(1)
    Weight each map by its own number before you add them.
""",
    otherwise="One row of the weight for each image, times its maps; the sum, ReLU, over H · W.",
    right="the maps are the closed form's in 3 cases, for maps that are not square, too.",
)


# ---- a silent block


class _Broken(Exception):
    """What goes wrong within a context, on purpose."""


def _block(in_channels: int, out_channels: int, stride: int, option: str) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(out_channels)
    block = BasicBlock(in_channels, out_channels, stride, shortcut=option).eval()
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point():
                # Positive, since variances are among them; the kernels get both signs.
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
                tensor.sub_(0.7 if tensor.dim() == 4 else 0)
    return block, torch.randn(2, in_channels, 6, 6, generator=generator)


def _silences(written: Callable, in_channels: int, out_channels: int, stride: int, option: str) -> Outcome:
    """What a block gives within the context, behind it, and behind one that an error ended."""
    block, x = _block(in_channels, out_channels, stride, option)
    weights = {name: value.clone() for name, value in block.state_dict().items()}
    context = written(block)
    if not (hasattr(context, "__enter__") and hasattr(context, "__exit__")):
        raise CheckFailed(
            "silenced(block) cannot be used with `with`: keep the line @contextmanager above the function, "
            "and `yield` in it once."
        )
    parts: dict = {}
    with torch.no_grad():
        with context:
            parts["inside"] = block(x)
        parts["after"] = block(x)
        try:
            with written(block):
                raise _Broken
        except _Broken:
            parts["after an error"] = block(x)
        else:
            parts["after an error"] = "nothing: the error is swallowed"
    parts["weights"] = {
        name: bool((value == weights[name]).all()) for name, value in block.state_dict().items()
    }
    return parts


@contextmanager
def _by_forward(block: nn.Module) -> Iterator[None]:
    """Without a hook: another forward for as long as it takes."""
    block.forward = lambda x: torch.relu(block.downsample(x))
    try:
        yield
    finally:
        del block.forward


silenced = Exercise(
    number="7.2",
    title="A silent block",
    minutes=15,
    level="hard",
    answer="""\
@contextmanager
def silenced(block: nn.Module) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    handle = block.bn2.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
""",
    cases=((4, 4, 1, "A"), (3, 6, 2, "A"), (3, 6, 2, "B")),
    trusted=_by_forward,
    scope={"contextmanager": contextmanager},
    drive=_silences,
    form="silenced(BasicBlock({0}, {1}, stride={2}, shortcut={3}))",
    first=("inside", "after", "after an error", "weights"),
    slips="""
block.bn2.register -> block.conv2.register
or
block.bn2.register -> block.bn1.register
    Of a 0 the norm behind the convolution makes shift − scale · mean / deviation. Silence the last layer of
    F, which is bn2.
block.bn2.register -> block.register
    Then the shortcut is silent, too. Only F is 0; what comes out is relu(shortcut(x)).
block.bn2.register -> block.conv1.register
    What follows in F still adds its own: silence its last layer, bn2.
block.bn2.register -> block.downsample.register
    That silences the shortcut, and leaves F.
return torch.zeros_like(output) -> torch.zeros_like(output)
    A hook changes the output by returning another one; this one returns nothing.
return torch.zeros_like(output) -> return inputs[0]
    The norm is skipped, and F goes on. It shall be 0.
try:⏎        yield⏎    finally:⏎        handle.remove() -> yield⏎    handle.remove()
    The hook stays when an error ends the `with`: remove it under `finally`.
try:⏎        yield⏎    finally:⏎        handle.remove() -> yield
    The hook stays for good: remove its handle.
yield⏎ -> yield⏎    except Exception:⏎        pass⏎
    The error is swallowed: use `finally` without `except`, so that it goes on.
hook)⏎ -> hook)⏎    nn.init.zeros_(block.bn2.weight)⏎
or
hook)⏎ -> hook)⏎    nn.init.zeros_(block.bn2.bias)⏎
    The weights are lost: what is changed has to come back. A hook changes none.
""",
    says={
        "inside": "Within `with {call}`: the output {problem}",
        "after": "After `with {call}`: the output {problem}",
        "after an error": "After an error within `with {call}`: the output {problem}",
        "weights": "After `with {call}` the block has other weights",
    },
    otherwise={
        "inside": "Only F is 0; what comes out is relu(shortcut(x)).",
        "after": "The block has to be whole again.",
        "after an error": "The block has to be whole again, and the error has to go on.",
        "weights": "What is changed has to come back.",
    },
    right="F is silent, the shortcut is not, and the block is whole again, after an error as well.",
)


# ---- rank correlation


def _pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(9)
    return [
        (a, np.exp(3 * a)),
        (rng.permutation(12) * 1.5, rng.standard_normal(12)),
        (np.array([0.3, 2.0, 1.0, 0.1]), np.array([5.0, 1.0, 2.0, 40.0])),
        (rng.standard_normal(27), rng.standard_normal(27)),
    ]


rank_correlation = Exercise(
    number="7.3",
    title="A correlation of ranks",
    minutes=10,
    level="medium",
    answer="""\
def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])
""",
    cases=_pairs,
    trusted=lambda a, b: float(spearmanr(a, b).statistic),
    slips="""
np.argsort(np.argsort(values)) -> np.argsort(values)
    argsort says where the smallest value stands, not which rank the first value has. Its own argsort does.
np.argsort(np.argsort(values)) -> values
    That is the correlation of the values themselves: replace them by their ranks first.
np.argsort(np.argsort(values)) -> np.sort(values)
    Sorting each list by itself tears the pairs apart: every value needs its own rank, in its own place.
[0, 1]) -> [0, 0])
    The first entry of the matrix is a list with itself, which is always 1: take the one beside it.
[0, 1]) -> [0, 1] ** 2)
    The square has lost the sign: it is the share of the variance.
for values in (a, b) -> for values in (a, -b)
or
[0, 1]) -> [0, 1] * -1)
    The sign is turned: both lists are ranked from small to large.
[0, 1]) -> [0, 1].__abs__())
    A correlation has a sign: −1 where one list falls while the other rises.
""",
    forbidden={
        "*spearman*": "The number is right, but {used} has worked it out: rank and correlate yourself.",
    },
    otherwise="Replace each value by its rank in its list; then take the ordinary correlation of the ranks.",
    right="the coefficients are those of scipy.stats.spearmanr in 4 cases.",
)


# ---- filter normalization


def _directions() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def case(*shape: int) -> tuple[Tensor, Tensor]:
        # Filters of very different lengths, each around a mean of its own.
        lengths = torch.linspace(0.1, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
        weight = lengths * (0.3 + torch.randn(shape, generator=generator))
        return torch.randn(shape, generator=generator) + 0.2, weight

    return [case(4, 3, 3, 3), case(5, 2, 1, 3), case(6, 8), case(1, 1, 2, 2)]


def _by_rows(direction: Tensor, weight: Tensor) -> Tensor:
    normalize = torch.nn.functional.normalize
    return torch.stack(
        [
            normalize(row.flatten(), dim=0).view_as(row) * own.square().sum().sqrt()
            for row, own in zip(direction, weight, strict=True)
        ]
    )


filter_normalized = Exercise(
    number="7.4",
    title="A direction with the network's lengths",
    minutes=10,
    level="medium",
    answer="""\
def filter_normalized(direction: Tensor, weight: Tensor) -> Tensor:
    length = direction.flatten(1).norm(dim=1)  # (out,)
    wanted = weight.flatten(1).norm(dim=1)  # (out,)
    factor = wanted / length
    return direction * factor.view(-1, *[1] * (weight.dim() - 1))
""",
    cases=_directions,
    trusted=_by_rows,
    slips="""
direction * factor.view(-1, *[1] * (weight.dim() - 1)) -> direction * weight.norm() / direction.norm()
    Now the whole direction is as long as the whole weight. Each filter needs a factor of its own.
wanted / length -> length / wanted
    The factor is upside down: divide by the direction's own length, multiply by the weight's.
wanted / length -> 1 / length
    Every filter now has the length 1: multiply by the length of the weight's filter.
wanted / length -> wanted
    Divide by the direction's own length, too: it is not 1.
direction.flatten(1).norm(dim=1) -> direction.flatten(1).norm(dim=1) ** 2
or
weight.flatten(1).norm(dim=1) -> weight.flatten(1).norm(dim=1) ** 2
or
direction.flatten(1).norm(dim=1) -> direction.flatten(1).norm(dim=1) ** 2
weight.flatten(1).norm(dim=1) -> weight.flatten(1).norm(dim=1) ** 2
    A length is the root of the sum of squares.
direction.flatten(1).norm(dim=1) -> direction.flatten(1).abs().sum(1)
weight.flatten(1).norm(dim=1) -> weight.flatten(1).abs().sum(1)
    The length is the root of the sum of squares, not the sum of absolute values.
direction.flatten(1).norm(dim=1) -> direction.flatten(1).abs().amax(1)
weight.flatten(1).norm(dim=1) -> weight.flatten(1).abs().amax(1)
    The length is that of the whole filter, not of its largest entry.
return direction * -> return weight *
or
return direction * factor -> return weight * (length / wanted)
    Stretch the direction, not the weight.
""",
    otherwise="Filter i is direction[i]: divide it by its own norm, and multiply it by that of weight[i].",
    right="each filter has its place's length and its own direction, in 4 cases, linear layers among them.",
)


# ---- calibration


def _predictions() -> list[tuple[Tensor, Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for num_images, num_classes, bins, sharp in ((200, 10, 15, 3.0), (60, 4, 5, 1.0), (40, 3, 2, 6.0)):
        logits = sharp * torch.randn(num_images, num_classes, generator=generator)
        labels = (logits + 2 * torch.randn(logits.shape, generator=generator)).argmax(1)
        cases.append((logits.softmax(1), labels, bins))
    # On the edges of bins, and certain.
    edges = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125], [0.0, 1.0, 0.0], [0.625, 0.375, 0.0]])
    return [*cases, (edges, torch.tensor([0, 0, 2, 1]), 4)]


def _by_numpy(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    rows = probabilities.double().numpy()
    confidence, right = rows.max(1), rows.argmax(1) == labels.numpy()
    which = np.ceil(confidence * bins).astype(int)
    signed = [(right[which == b] - confidence[which == b]).sum() for b in range(bins + 1)]
    return float(np.abs(signed).sum() / len(rows))


expected_calibration_error = Exercise(
    number="7.5",
    title="The expected calibration error",
    minutes=15,
    level="medium",
    answer="""\
def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, bins: int
) -> float:
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).float()
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = right[inside].mean() - confidence[inside].mean()
            error += inside.float().mean() * gap.abs()
    return float(error)
""",
    cases=_predictions,
    trusted=_by_numpy,
    tolerance=1e-4,
    slips="""
gap.abs() -> gap
    Without the absolute value bins that are too sure and bins that are not sure enough cancel.
gap.abs() -> gap ** 2
    The gap counts as it is, not squared.
inside.float().mean() * gap.abs() -> gap.abs() / bins
    A bin weighs as much as it holds: its count over N.
inside.float().mean() * gap.abs() -> inside.float().sum() * gap.abs()
    Divide the counts by N, the number of all predictions.
inside.float().mean() * gap.abs() -> gap.abs()
    The gaps are averaged by the counts of their bins, not added.
right[inside].mean() - confidence[inside].mean() -> right[inside].mean() - (b + 0.5) / bins
    Compare with the mean confidence of the predictions in the bin, not with the bin's middle.
confidence > b / bins -> confidence >= b / bins
confidence <= (b + 1) / bins -> confidence < (b + 1) / bins
    A bin holds its upper edge, and not its lower one. Else a confidence of 1 is in no bin.
confidence > b / bins -> confidence >= b / bins
    What stands on an edge belongs to one bin only: the one below the edge.
        if inside.any():⏎            gap -> gap
            error += inside -> error += inside
    Of an empty bin there is no mean: leave it out, or the result is not a number.
range(bins) -> range(bins - 1)
    The last bin is left out, and the most confident predictions are in it.
right[inside].mean() - confidence[inside].mean() -> right.mean() - confidence.mean()
    Accuracy and confidence are those of the bin, not of all predictions.
probabilities.max(1) -> probabilities.softmax(1).max(1)
    The arguments are probabilities already.
""",
    otherwise="For each bin: its share of the predictions, times the gap of their accuracy and confidence.",
    right="the error is right in 4 cases, with empty bins and confidences on edges.",
)
