"""Chapter 11's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import math
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import fails, passes

from resnetbook import checks

ALL = ["average_gradients", "shares", "merged_statistics", "best_interval", "ring_seconds"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("name", ALL)
def test_a_forgotten_return_is_named(name):
    fails(getattr(checks, name), lambda *arguments: None, "return")


# ---- shares


def strided(order, batch_size, rank, num_ranks):
    return [batch[rank::num_ranks] for batch in order.split(batch_size)]


def contiguous(order, batch_size, rank, num_ranks):
    return [batch.tensor_split(num_ranks)[rank] for batch in order.split(batch_size)]


def as_lists(order, batch_size, rank, num_ranks):
    numbers = order.tolist()
    return tuple(numbers[i : i + batch_size][rank::num_ranks] for i in range(0, len(numbers), batch_size))


def rotating(order, batch_size, rank, num_ranks):
    batches = enumerate(order.split(batch_size))
    return [batch[(rank + b) % num_ranks :: num_ranks].numpy() for b, batch in batches]


@pytest.mark.parametrize("function", [strided, contiguous, as_lists, rotating])
def test_right_shares(function, capsys):
    passes(checks.shares, function, capsys)


def of_numbers_from_numpy(order, batch_size, rank, num_ranks):
    return [[np.int64(i) for i in share] for share in strided(order, batch_size, rank, num_ranks)]


def of_scalars(order, batch_size, rank, num_ranks):
    return [list(share) for share in strided(order, batch_size, rank, num_ranks)]


def of_int32(order, batch_size, rank, num_ranks):
    return [share.int() for share in strided(order, batch_size, rank, num_ranks)]


@pytest.mark.parametrize("function", [of_numbers_from_numpy, of_scalars, of_int32])
def test_shares_of_any_kind_that_picks_images_are_right(function, capsys):
    passes(checks.shares, function, capsys)


def shuffled_by_itself(order, batch_size, rank, num_ranks):
    return strided(order[torch.randperm(len(order))], batch_size, rank, num_ranks)


def shuffled_by_python(order, batch_size, rank, num_ranks):
    numbers = order.tolist()
    random.shuffle(numbers)
    return strided(torch.tensor(numbers), batch_size, rank, num_ranks)


def shuffled_in_each_batch(order, batch_size, rank, num_ranks):
    batches = order.split(batch_size)
    return [batch[torch.randperm(len(batch))][rank::num_ranks] for batch in batches]


def shuffled_by_a_seed_of_the_rank(order, batch_size, rank, num_ranks):
    generator = torch.Generator().manual_seed(rank)
    return strided(order[torch.randperm(len(order), generator=generator)], batch_size, rank, num_ranks)


def shuffled_by_one_seed(order, batch_size, rank, num_ranks):
    generator = torch.Generator().manual_seed(0)
    return strided(order[torch.randperm(len(order), generator=generator)], batch_size, rank, num_ranks)


def overlapping(order, batch_size, rank, num_ranks):
    return [batch[rank : rank + len(batch) // num_ranks] for batch in order.split(batch_size)]


def sorting_in_place(order, batch_size, rank, num_ranks):
    found = [share.clone() for share in strided(order, batch_size, rank, num_ranks)]
    order.sort()
    order[:] = order.sort().values
    return found


def places_in_batch(order, batch_size, rank, num_ranks):
    return [torch.arange(len(batch))[rank::num_ranks] for batch in order.split(batch_size)]


def last_takes_the_rest(order, batch_size, rank, num_ranks):
    found = []
    for batch in order.split(batch_size):
        size = len(batch) // num_ranks
        found.append(
            batch[rank * size :] if rank == num_ranks - 1 else batch[rank * size : (rank + 1) * size]
        )
    return found


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (last_takes_the_rest, "differ by one at most"),
        (places_in_batch, "take the numbers out of `order`"),
        (lambda order, b, r, n: [s.float() for s in strided(order, b, r, n)], "type float32.*as `order` has"),
        (lambda order, b, r, n: [s.to(torch.uint8) for s in strided(order, b, r, n)], "type uint8.*overflow"),
        (lambda order, b, r, n: [s.to(torch.int8) for s in strided(order, b, r, n)], "type int8.*overflow"),
        (
            lambda order, b, r, n: [s.to(torch.int8).long() for s in strided(order, b, r, n)],
            "300 images.*there is no image -",
        ),
        (lambda order, b, r, n: [(s + 0.5).tolist() for s in strided(order, b, r, n)], "no whole numbers"),
        (shuffled_by_itself, "draws random numbers.*each rank shuffles for itself"),
        (shuffled_by_python, "draws random numbers.*each rank shuffles for itself"),
        (shuffled_in_each_batch, "draws random numbers.*each rank shuffles for itself"),
        (shuffled_by_a_seed_of_the_rank, "others never.*by a seed of its own"),
        (shuffled_by_one_seed, "Cut the batches first, from `order` as it stands"),
        (overlapping, "others never.*slices of the ranks overlap"),
        (sorting_in_place, "changes its own argument order"),
        (lambda order, b, r, n: strided(order, b, 0, n), "more than once|same images"),
        (lambda order, b, r, n: [len(s) for s in strided(order, b, r, n)], "one tensor of indices"),
        (lambda order, b, r, n: 3, "a list with one share"),
    ],
)
def test_wrong_shares(function, message, capsys):
    fails(checks.shares, function, message, capsys)


# ---- averages


def average(gradients, counts):
    weights = [count / sum(counts) for count in counts]
    return [
        sum(w * g for w, g in zip(weights, column, strict=True)) for column in zip(*gradients, strict=True)
    ]


def average_in_place(gradients, counts):
    for mine, count in zip(gradients, counts, strict=True):
        for gradient in mine:
            gradient *= count / sum(counts)
    return [sum(column) for column in zip(*gradients, strict=True)]


def average_stacked(gradients, counts):
    weights = torch.tensor(counts, dtype=torch.float64)
    columns = [torch.stack(column) for column in zip(*gradients, strict=True)]
    return tuple(torch.tensordot(weights / weights.sum(), column, dims=1) for column in columns)


def average_popping(gradients, counts):
    answer = average(gradients, counts)
    counts.pop()
    return answer


def average_of_one_as_it_is(gradients, counts):
    return gradients[0] if len(counts) == 1 else average(gradients, counts)


def average_in_bytes(gradients, counts):
    weights = torch.tensor([count % 256 for count in counts], dtype=torch.uint8)
    return average(gradients, weights.tolist())


@pytest.mark.parametrize("function", [average, average_stacked])
def test_right_averages(function, capsys):
    passes(checks.average_gradients, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda g, c: [2 * x for x in average(g, c)], "not the gradient of the mean loss"),
        (lambda g, c: average(g, c)[:1], "gives 1 value, and 4 are asked for.*one tensor for each parameter"),
        (lambda g, c: average(g, c)[0], "return a list of tensors"),
        (lambda g, c: [x.numpy() for x in average(g, c)], "ndarray: return a tensor"),
        (lambda g, c: [x.flatten() for x in average(g, c)], "number 1 has the shape"),
        (lambda g, c: [x * (1 if all(c) else math.nan) for x in average(g, c)], "no image at all"),
        (average_in_place, "changes its own argument gradients"),
        (average_popping, "changes its own argument counts"),
        (average_of_one_as_it_is, "a rank's own tensor"),
        (average_in_bytes, r"\[300, 20\]\).*this is not the gradient"),
    ],
)
def test_wrong_averages(function, message, capsys):
    fails(checks.average_gradients, function, message, capsys)


# ---- the ring


def ring(num_bytes, p, speed, latency):
    return 2 * (p - 1) * (latency + num_bytes / p / speed)


def ring_in_a_loop(num_bytes, num_ranks, bytes_per_second, latency):
    seconds = 0.0
    for _ in range(2):
        for _ in range(num_ranks - 1):
            seconds += latency + num_bytes / (num_ranks * bytes_per_second)
    return seconds


@pytest.mark.parametrize(
    "kind", [np.float32, np.float64, torch.tensor, lambda x: np.array([x]), Fraction, Decimal]
)
def test_seconds_of_any_kind_are_a_number(kind, capsys):
    passes(checks.ring_seconds, lambda *a: kind(ring(*a)), capsys)


@pytest.mark.parametrize("function", [ring, ring_in_a_loop])
def test_right_ring(function, capsys):
    passes(checks.ring_seconds, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, p, s, t: ring(n, p, s, t) + 1, "three ranks"),
        (lambda n, p, s, t: str(ring(n, p, s, t)), "return one number"),
        (lambda n, p, s, t: True, "return one number"),
    ],
)
def test_wrong_ring(function, message, capsys):
    fails(checks.ring_seconds, function, message, capsys)


# ---- statistics


def by_pieces(means, variances, counts):
    """Merges one rank after the other, by the formula of Chan, Golub and LeVeque (1979)."""
    mean, square, total = torch.zeros_like(means[0]), torch.zeros_like(means[0]), 0
    for m, v, n in zip(means, variances, counts, strict=True):
        apart = m - mean
        square = square + n * v + apart**2 * total * n / (total + n)
        mean = mean + apart * n / (total + n)
        total += n
    return [mean, square / total]


def test_another_way_to_the_statistics_is_right(capsys):
    passes(checks.merged_statistics, by_pieces, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, v, n: by_pieces(m, v, n)[0], "gives"),
        (lambda m, v, n: (by_pieces(m, v, n)[0], sum(v) / len(v)), "merged_statistics"),
        (lambda m, v, n: (by_pieces(m, v, n)[0], by_pieces(m, v, n)[1] + 1e-3), "adds up like the mean does"),
        (lambda m, v, n: (m.append(m[0]), by_pieces(m[:-1], v, n))[1], "changes its own argument means"),
    ],
)
def test_wrong_statistics(function, message, capsys):
    fails(checks.merged_statistics, function, message, capsys)


# ---- how often to save


def tried_out(save, between, num_machines):
    """The best of many intervals, as far as the tolerance sees."""
    intervals = np.geomspace(1e-3, 1e3, 2_000_001)
    return intervals[np.argmin(save / intervals + num_machines / between * intervals / 2)]


def test_an_interval_that_was_tried_out_is_right(capsys):
    passes(checks.best_interval, tried_out, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, b, n: math.sqrt(s * b / n), "half an interval"),
        (lambda s, b, n: math.sqrt(2 * s * b), "num_machines times as often"),
        (lambda s, b, n: b / n, "Draw the loss"),
    ],
)
def test_wrong_intervals(function, message, capsys):
    fails(checks.best_interval, function, message, capsys)
