"""The exercises of chapter 11: shares, averages, statistics, how often to save, and the ring."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook.checks.common import CheckFailed, answer_of
from resnetbook.checks.exercise import Exercise, Outcome, left_alone

# ---- shares of a batch


def _as_numbers(share: object, call: str) -> list[int]:
    """One share as a list of whole numbers.

    Raises:
        CheckFailed: if it is none.
    """
    if isinstance(share, Tensor | np.ndarray):
        kind = str(share.dtype).removeprefix("torch.")
        if share.ndim == 1 and kind not in ("int64", "int32") and len(share):
            raise CheckFailed(
                f"{call} gives numbers of the type {kind} for a batch. PyTorch picks images by int64 or "
                "int32 only (floats it refuses, bool and uint8 it takes for a mask, and short types "
                "overflow): leave them as `order` has them."
            )
        share = share.tolist()
    if isinstance(share, range | tuple):
        share = list(share)
    if isinstance(share, list):
        share = [i.item() if isinstance(i, Tensor | np.generic) and i.ndim == 0 else i for i in share]
    if not isinstance(share, list) or any(isinstance(i, bool) or not isinstance(i, Real) for i in share):
        raise CheckFailed(f"{call} must give one tensor of indices for each batch; one of them is {share!r}.")
    if any(i != int(i) for i in share):
        raise CheckFailed(
            f"{call} gives {share!r} for a batch: these are no whole numbers, and cannot pick images."
        )
    return [int(i) for i in share]


def _judge_shares(solution: Callable[[Tensor, int, int, int], Sequence]) -> str:
    """Check ``shares(order, batch_size, rank, num_ranks)``: what a rank computes of every batch.

    Raises:
        CheckFailed: if an image is missing, comes twice, is in another batch, or a share is too large.
    """
    cases = (
        (12, 4, 2),
        (11, 4, 2),
        (7, 7, 2),
        (51, 16, 2),
        (26, 8, 3),
        (9, 4, 4),
        (14, 9, 4),
        (10, 5, 2),
        (5, 8, 1),
        (300, 70, 2),  # more than a byte can count
    )
    begun = False
    for num_images, batch_size, num_ranks in cases:
        order = torch.randperm(num_images, generator=torch.Generator().manual_seed(num_images))
        batches = [batch.tolist() for batch in order.split(batch_size)]
        told = []
        for rank in range(num_ranks):
            call = (
                f"shares(order of {num_images}, batch_size={batch_size}, rank={rank}, num_ranks={num_ranks})"
            )
            asked = []
            for _ in range(2):
                with left_alone(call, order=order):
                    answer = answer_of(
                        solution, order, batch_size, rank, num_ranks, describe=call, begun=begun
                    )
                begun = True
                if isinstance(answer, Tensor | np.ndarray):
                    answer = list(answer)
                if not isinstance(answer, list | tuple):
                    raise CheckFailed(
                        f"{call} gives {answer!r}: return a list with one share for each batch."
                    )
                asked.append([_as_numbers(share, call) for share in answer])
            if asked[0] != asked[1]:
                raise CheckFailed(
                    f"{call} gives other shares when it is called again: it draws random numbers. So each "
                    "rank shuffles for itself, and together they see some images twice and others never. "
                    "`order` is shuffled already, alike for all ranks: take it as it stands."
                )
            told.append(asked[0])
        where = f"{num_images} images in batches of {batch_size} on {num_ranks} ranks: "
        _compare_shares(told, batches, order.tolist(), where)
    return f"every image once, in its own batch, in {len(cases)} cases where the count divides or does not."


def _compare_shares(
    told: list[list[list[int]]], batches: list[list[int]], order: list[int], where: str
) -> None:
    """Hold all ranks' shares together against the batches.

    Raises:
        CheckFailed: if they do not make up the batches.
    """
    seen = [i for shares_of_rank in told for share in shares_of_rank for i in share]
    strangers = set(seen) - set(order)
    if strangers:
        raise CheckFailed(f"{where}there is no image {min(strangers)}: share out the numbers in `order`.")
    if all(len(shares_of_rank) == len(batches) for shares_of_rank in told):
        together = [sorted(i for part in parts for i in part) for parts in zip(*told, strict=True)]
        ends = itertools.accumulate(map(len, batches))
        in_order = [list(range(end - len(batch), end)) for end, batch in zip(ends, batches, strict=True)]
        in_batch = [list(range(len(batch))) for batch in batches]
        if together in (in_order, in_batch) and together != [sorted(batch) for batch in batches]:
            raise CheckFailed(
                f"{where}you share out 0, 1, 2, and so on, and not the images in this epoch's order: take "
                "the numbers out of `order`, as they stand there."
            )
    twice = [i for i in order if seen.count(i) > 1]
    missing = [i for i in order if i not in seen]
    if len(told) > 1 and len(twice) == len(order) and told[0] == told[1]:
        raise CheckFailed(where + "every rank gets the same images: use the rank.")
    if twice and missing:
        raise CheckFailed(
            f"{where}some images are seen more than once, image {twice[0]} for instance, and others never, "
            f"image {missing[0]} for instance. Either each rank shuffles for itself (by a seed of its own, "
            "say): `order` is shuffled already, alike for all. Or the slices of the ranks overlap: begin at "
            "the rank, and go on in steps of num_ranks."
        )
    if twice:
        raise CheckFailed(
            f"{where}{len(twice)} images are seen more than once, image {twice[0]} for instance. Fill "
            "nothing up: a share may be smaller, by one."
        )
    if missing:
        raise CheckFailed(
            f"{where}{len(missing)} images are never seen, image {missing[0]} for instance. Drop nothing: "
            "shares may differ by one, and the last batch may be smaller."
        )
    lengths = [len(shares_of_rank) for shares_of_rank in told]
    if set(lengths) != {len(batches)}:
        raise CheckFailed(
            f"{where}the ranks take {lengths} steps, and there are {len(batches)} batches. Each step is an "
            "exchange that all ranks take part in, so all must take one for each batch, if need be with an "
            "empty share."
        )
    for b, batch in enumerate(batches):
        together = [i for shares_of_rank in told for i in shares_of_rank[b]]
        if sorted(together) != sorted(batch):
            raise CheckFailed(
                f"{where}in step {b} the ranks together compute {sorted(together)}, and one process would "
                f"compute {sorted(batch)}. Cut the batches first, from `order` as it stands, and then share "
                "out each of them."
            )
        sizes = [len(shares_of_rank[b]) for shares_of_rank in told]
        if max(sizes) - min(sizes) > 1:
            raise CheckFailed(
                f"{where}in step {b} the shares have {sizes} images, and everyone waits for the largest: let "
                "them differ by one at most."
            )


shares = Exercise(
    number="11.2",
    title="Shares of a batch",
    minutes=10,
    level="easy",
    answer="""\
def shares(
    order: Tensor, batch_size: int, rank: int, num_ranks: int
) -> list[Tensor]:
    return [batch[rank::num_ranks] for batch in order.split(batch_size)]
""",
    judge=_judge_shares,
    slips="""
order.split(batch_size)] -> torch.cat([order, order[: -len(order) % num_ranks]]).split(batch_size)]
    more than once
order.split(batch_size)] -> order[: len(order) // num_ranks * num_ranks].split(batch_size)]
or
[rank::num_ranks] -> [rank * (len(batch) // num_ranks) : (rank + 1) * (len(batch) // num_ranks)]
    never seen, image
[batch[rank::num_ranks] for batch in order.split -> [batch for batch in order[rank::num_ranks].split
    there are 3 batches. Each step is an exchange that all ranks take part in
[batch[rank::num_ranks] for batch in order -> [batch for batch in order[rank::num_ranks]
split(batch_size) -> split(max(1, batch_size // num_ranks))
    the ranks take [
in order.split -> in order.flip(0).split
    Cut the batches first, from `order` as it stands
in order.split(batch_size)] -> in order.split(batch_size) if len(batch) > rank]
    if need be with an empty share
batch[rank::num_ranks] -> batch[rank * -(-len(batch) // num_ranks) : (rank + 1) * -(-len(batch) // num_ranks)]
    let them differ by one at most
batch[rank::num_ranks] -> batch
    every rank gets the same images: use the rank.
in order.split -> in torch.arange(len(order)).split
    take the numbers out of `order`, as they stand there.
in order.split -> in (torch.arange(len(order)) + 1).split
    share out the numbers in `order`.
in order.split -> in order[torch.randperm(len(order))].split
    it draws random numbers. So each rank shuffles for itself
in order.split -> in order[torch.randperm(len(order), generator=torch.Generator().manual_seed(rank))].split
    Either each rank shuffles for itself (by a seed of its own, say)
rank::num_ranks -> rank : rank + len(batch) // num_ranks
    Or the slices of the ranks overlap: begin at the rank, and go on in steps of num_ranks.
[rank::num_ranks] for -> [rank::num_ranks].to(torch.int8) for
    (floats it refuses, bool and uint8 it takes for a mask, and short types overflow)
return [ -> order.copy_(order.sort().values); return [
    changes its own argument order
""",
)


# ---- the average of unequal shares

# An unequal one first: it tells mistakes apart.
_COUNTS = ((5, 2), (4, 4), (3, 3, 1), (1, 7, 2, 6), (6,), (4, 0), (300, 20))


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    loss = F.cross_entropy(model(images), labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@functools.cache
def _unequal_shares() -> list[tuple[list[Tensor], list[list[Tensor]], list[int]]]:
    """For each case the gradient of all images together, those of the ranks, and their counts."""
    cases = []
    for seed, counts in enumerate(_COUNTS):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5)).double()
        images, labels = torch.randn(sum(counts), 1, 3, 4).double(), torch.randint(0, 5, (sum(counts),))
        right = _gradient(model, images, labels)
        of_ranks = [
            _gradient(model, *part) if len(part[0]) else [torch.zeros_like(gradient) for gradient in right]
            for part in zip(images.split(counts), labels.split(counts), strict=True)
        ]
        cases.append((right, of_ranks, list(counts)))
    return cases


def _of_all_together(gradients: list[list[Tensor]], counts: list[int]) -> list[Tensor]:
    return next(right for right, _, of_case in _unequal_shares() if of_case == counts)


def _average(written: Callable, gradients: list[list[Tensor]], counts: list[int]) -> Outcome:
    answer = written(gradients, counts)
    given = {id(gradient) for of_rank in gradients for gradient in of_rank}
    values = answer if isinstance(answer, list | tuple) else []
    return {"result": answer, "a rank's own tensor": any(id(value) in given for value in values)}


average_gradients = Exercise(
    number="11.1",
    title="The average of unequal shares",
    minutes=10,
    level="easy",
    answer="""\
def average_gradients(
    gradients: list[list[Tensor]], counts: list[int]
) -> list[Tensor]:
    total = sum(counts)
    return [
        sum(count / total * g for count, g in zip(counts, of_one_parameter))
        for of_one_parameter in zip(*gradients)
    ]
""",
    cases=lambda: copy.deepcopy([case[1:] for case in _unequal_shares()]),
    trusted=_of_all_together,
    drive=_average,
    slips="""
count / total * g -> g / len(counts)
    this is the plain mean over the ranks. It gives each image of a small share more weight: weigh each rank
    by its number of images.
count / total * g -> g
    the gradients are added up: they are means already, so weigh and divide.
count / total * g -> count * g
    weighed, but not divided: divide by the number of all images.
count / total * g -> count / total / len(counts) * g
    divided once too often: the weights count / total add up to 1 already.
count / total * g -> count / len(counts) * g
    divide by the number of images, not of ranks.
count / total * g -> g / max(count, 1)
    each rank's gradient is a mean already: multiply by its count, and do not divide by it.
count / total -> count // total
    count // total throws away the rest: divide with /.
total = sum(counts) -> total = max(counts)
    divide by the number of all images, not by the largest share.
for count, g in zip(counts, of_one_parameter) -> for count, g in list(zip(counts, of_one_parameter))[:1]
or
sum(count / total * g for count, g in zip(counts, of_one_parameter)) -> of_one_parameter[0].clone()
    this is the first rank's gradient alone.
sum(count / total * g for count, g in zip(counts, of_one_parameter)) -> of_one_parameter[-1].clone()
    this is the last rank's gradient alone.
count / total * g -> g / total
    divided by the images, but not weighed: multiply each rank's mean by its count.
count / total * g -> count / total * g / count * count
    a number is not finite: a rank may have no image at all.
""",
    says={"a rank's own tensor": "{call}: right"},
    otherwise={
        "a rank's own tensor": (
            "but you hand back a rank's own tensor: whoever changes one then changes both. Return new ones."
        ),
        "result": (
            "this is not the gradient of the mean loss over all images: one tensor for each parameter."
        ),
    },
    right=f"the average is the gradient of all images together in {len(_COUNTS)} cases.",
)


# ---- the statistics of unequal shares


@functools.cache
def _shared_statistics() -> list[tuple[tuple[Tensor, Tensor], list[Tensor], list[Tensor], list[int]]]:
    """For each case mean and variance of all values, those of the ranks, and their counts."""
    cases = []
    for seed, counts in enumerate(((5, 2), (4, 4), (3, 3, 2), (30, 7, 2, 6), (6,))):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)
        # Ranks see different images: their means lie apart.
        places = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        values = values * torch.tensor([1.0, 2.0, 0.5]) + places[:, None] * torch.tensor([0.5, -1.0, 2.0])
        parts = values.split(counts)
        variance, mean = torch.var_mean(values, 0, correction=0)
        found = [torch.var_mean(part, 0, correction=0) for part in parts]
        cases.append(((mean, variance), [m for _, m in found], [v for v, _ in found], list(counts)))
    return cases


def _of_all_values(means: list[Tensor], variances: list[Tensor], counts: list[int]) -> tuple[Tensor, Tensor]:
    return next(right for right, _, _, of_case in _shared_statistics() if of_case == counts)


merged_statistics = Exercise(
    number="11.3",
    title="The statistics of all ranks",
    minutes=20,
    level="medium",
    answer="""\
def merged_statistics(
    means: list[Tensor], variances: list[Tensor], counts: list[int]
) -> tuple[Tensor, Tensor]:
    total = sum(counts)
    mean = sum(n / total * m for n, m in zip(counts, means))
    square = sum(
        n / total * (v + m**2) for n, m, v in zip(counts, means, variances)
    )
    return mean, square - mean**2
""",
    cases=lambda: copy.deepcopy([case[1:] for case in _shared_statistics()]),
    trusted=_of_all_values,
    slips="""
(v + m**2) -> v
square - mean**2 -> square
    the mean of the variances is too small: the ranks' means lie apart, and that spread belongs to it.
n / total * m -> m / len(counts)
n / total * (v + m**2) -> (v + m**2) / len(counts)
or
n / total * m -> m / len(counts)
    this is the plain mean over the ranks: weigh each rank by its number of values.
square - mean**2 -> square
    this is the mean of the squares: the variance is that minus the square of the mean.
(v + m**2) -> (v + m)
or
(v + m**2) -> m**2
    a rank's mean of squares is its variance plus the square of its mean.
square - mean**2 -> (square - mean**2) * total / max(total - 1, 1)
    a norm divides by n, and not by n − 1, when it normalizes.
(v + m**2) -> (v * n / max(n - 1, 1) + m**2)
    the ranks' variances are divided by n, not by n − 1: take them as they are.
square - mean**2 -> (square - mean**2).sqrt()
    this is the standard deviation: leave out the root.
return mean, square - mean**2 -> return square - mean**2, mean
    the mean comes first, then the variance.
return mean, square - mean**2 -> return means[0], variances[0]
    these are the statistics of the first rank alone.
total = sum(counts) -> total = max(counts)
    divide by the number of all values, not by the largest share.
n / total -> n // total
    n // total throws away the rest: divide with /.
""",
    otherwise="Write down the mean of all squares first: it adds up like the mean does.",
    right="mean and variance are those of all values together in 5 cases.",
)


# ---- how often to save


def _smallest_loss(save: float, between: float, num_machines: int) -> float:
    """The interval of the smallest loss, found by trying: a golden-section search over its logarithm."""

    def loss(logarithm: float) -> float:
        interval = math.exp(logarithm)
        return save / interval + num_machines / between * interval / 2

    low, high = math.log(1e-6), math.log(1e6)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


best_interval = Exercise(
    number="11.4",
    title="How often to save",
    minutes=10,
    level="medium",
    answer="""\
def best_interval(save: float, between: float, num_machines: int) -> float:
    return (2 * save * between / num_machines) ** 0.5
""",
    cases=((0.1, 1_000, 10), (0.05, 50_000, 1_024), (0.5, 24, 3), (1, 8, 1), (0.01, 10_000, 7)),
    trusted=_smallest_loss,
    slips="""
(2 * save * between / num_machines) ** 0.5 -> 2 * save * between / num_machines
    the square root is missing: the loss is smallest where save / T equals half of T · failures in an hour.
2 * save -> save
    after a failure half an interval is lost on average, not a whole one.
2 * save -> save / 2
    the two halves are on the wrong side: save / T = T · num_machines / between / 2, solved for T.
between / num_machines -> between
    the job stops when any of its machines fails: that is num_machines times as often.
between / num_machines -> between * num_machines
    with more machines something fails more often, not less: between / num_machines.
save * between / num_machines -> between / save / num_machines
    the longer it takes to save, the less often you should: save stands above, not below.
between / num_machines -> between // num_machines
    between // num_machines throws away the rest: divide with /.
""",
    otherwise="Draw the loss for a few intervals, and look where it is smallest.",
    tolerance=1e-4,
    right="the interval is the one that a search finds in 5 cases.",
)


# ---- the ring


def _ring(num_bytes: float, num_ranks: int, bytes_per_second: float, latency: float) -> float:
    """Send round the ring, one piece after the other, until everyone has the sum; add up the time."""
    seconds = 0.0
    # holds[r][c]: whose numbers are summed up in rank r's copy of piece c
    holds = [[{rank} for _ in range(num_ranks)] for rank in range(num_ranks)]
    everyone = set(range(num_ranks))
    step = 0
    while any(piece != everyone for pieces in holds for piece in pieces):
        sent = [(rank, (rank - step) % num_ranks) for rank in range(num_ranks)]
        moving = [(rank, piece, set(holds[rank][piece])) for rank, piece in sent]
        for rank, piece, content in moving:
            holds[(rank + 1) % num_ranks][piece] |= content
        seconds += latency + num_bytes / num_ranks / bytes_per_second  # all ranks send at the same time
        step += 1
    return seconds


ring_seconds = Exercise(
    number="11.5",
    title="The time of a ring",
    minutes=10,
    level="easy",
    answer="""\
def ring_seconds(
    num_bytes: float, num_ranks: int, bytes_per_second: float, latency: float
) -> float:
    num_steps = 2 * (num_ranks - 1)
    piece = num_bytes / num_ranks
    return num_steps * (latency + piece / bytes_per_second)
""",
    cases=(
        (1_000, 2, 100, 0),
        (1_000, 4, 100, 0),
        (1_200, 3, 50, 0.5),
        (1_000, 3, 100, 0.25),
        (102_228_128, 8, 6_250_000_000, 0.00001),
        (7, 1, 3, 1),
        (64, 16, 8, 0.25),
    ),
    trusted=_ring,
    slips="""
2 * (num_ranks - 1) -> num_ranks - 1
    After p − 1 steps every rank has one finished piece; as many more hand them on.
num_bytes / num_ranks -> num_bytes
    In each step a rank sends one piece, 1/p of the bytes, and not all of them.
2 * (num_ranks - 1) -> 2 * num_ranks
    p − 1 steps are enough to pass p ranks, once to add up and once to hand round: 2(p − 1).
num_steps * (latency + piece / bytes_per_second) -> num_steps * piece / bytes_per_second + latency
    Each of the 2(p − 1) steps waits for the latency, not the whole exchange once.
num_steps * (latency + piece / bytes_per_second) -> num_steps * (latency / 2 + piece / bytes_per_second)
    Both halves pay the latency: the p − 1 steps that add up, and the p − 1 that hand round.
(latency + piece / bytes_per_second) -> (latency + num_bytes / bytes_per_second) / num_ranks
    Every step waits for the whole latency: only the bytes are divided by p.
(latency + piece / bytes_per_second) -> piece / bytes_per_second
    The latency is missing: each step pays it.
num_steps * (latency + piece / bytes_per_second) -> num_steps * piece / bytes_per_second + 2 * latency
    Each of the 2(p − 1) steps waits for the latency, not each half of the exchange once.
return num_steps * (latency + piece -> return num_ranks * latency + num_steps * (piece
    The latency is paid in each step, and there are 2(p − 1) of them, not p.
2 * (num_ranks - 1) -> 2 * math.log2(num_ranks)
    log₂ p is the number of steps of a tree. Round a ring it takes p − 1 steps, twice.
return num_steps * (latency + piece / bytes_per_second) -> return 2 * num_bytes / bytes_per_second
    That is what it comes near to for many ranks; the exact share is 2(p − 1)/p, and each step has a latency.
(latency + piece / bytes_per_second) -> latency + 2 * num_bytes / bytes_per_second
    2 · num_bytes is what it comes near to for many ranks; the exact share is 2(p − 1)/p.
num_bytes / num_ranks -> num_bytes / max(num_ranks - 1, 1)
    The numbers are cut into p pieces, as many as there are ranks, not into p − 1.
num_bytes / num_ranks -> num_bytes // num_ranks
    num_bytes // num_ranks throws away the rest: divide with /.
num_bytes / num_ranks -> 8 * num_bytes / num_ranks
    Both numbers are in bytes already: no factor of 8.
return num_steps -> return num_bytes / bytes_per_second if num_ranks == 1 else num_steps
    One rank alone has nobody to send to: it takes no time.
return num_steps -> return num_ranks * num_steps
    All ranks send at the same time: do not add their times up.
""",
    otherwise="Draw three ranks in a ring, and count what each sends until all have the sum.",
    right="the time is that of a simulated ring in 7 cases, one rank alone among them.",
)
