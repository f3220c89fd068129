"""The exercises of chapter 7: class activation maps, a silent block, rank correlation."""

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
