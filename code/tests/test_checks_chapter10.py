"""Chapter 10's checks: right solutions of several styles pass, and each plausible mistake is named."""

import math
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions, passes
from torch.nn import functional as F

from resnetbook import checks

NOTEBOOK = Path(__file__).parents[2] / "book" / "10_scaling.ipynb"
NAMES = {"LossScaler": checks.loss_scaler}
ALL = ["LossScaler", "scaled_lr", "accumulate", "shares", "average_gradients", "ring_seconds"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ALL)
def test_the_pages_solution_passes(name, capsys):
    passes(NAMES.get(name) or getattr(checks, name), page_solutions(NOTEBOOK)[name], capsys)


@pytest.mark.parametrize("name", ALL)
def test_an_untouched_exercise_does_not_stop_the_notebook(name, capsys):
    class Untouched:
        def __init__(self, *arguments):
            raise NotImplementedError

    def untouched(*arguments):
        raise NotImplementedError

    (NAMES.get(name) or getattr(checks, name))(Untouched if name == "LossScaler" else untouched)
    assert "Not done yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ALL)
def test_an_error_of_the_readers_is_quoted(name):
    def broken(*arguments):
        return arguments[0].nonsense

    fails(NAMES.get(name) or getattr(checks, name), broken, "raises AttributeError")


@pytest.mark.parametrize("name", [name for name in ALL if name != "accumulate"])
def test_a_forgotten_return_is_named(name):
    fails(NAMES.get(name) or getattr(checks, name), lambda *arguments: None, "return")


# ---- the loss scaler


class Scaler:
    """A right loss scaler; the options make mistakes."""

    options = {}

    def __init__(self, scale, growth_interval):
        self.scale = scale
        self.growth_interval = growth_interval
        self.good = 0

    def is_good(self, gradients):
        return all(torch.isfinite(gradient).all() for gradient in gradients)

    def on_overflow(self):
        self.scale /= 2
        self.good = 0

    def divide(self, gradients):
        for gradient in gradients:
            gradient /= self.scale

    def grow(self):
        self.good += 1
        if self.good == self.growth_interval:
            self.scale *= 2
            self.good = 0

    def update(self, gradients):
        if not self.is_good(gradients):
            self.on_overflow()
            return False
        self.divide(gradients)
        self.grow()
        return True


def scaler(**methods):
    return type("LossScaler", (Scaler,), methods)


def test_a_scaler_in_another_style_passes(capsys):
    class LossScaler:
        def __init__(self, scale, growth_interval):
            self.scale, self.interval, self.since = torch.tensor(scale), growth_interval, 0

        def update(self, gradients):
            worst = torch.stack([gradient.abs().sum() for gradient in gradients]).sum()
            fine = not (worst.isnan() or worst.isinf())
            if fine:
                torch._foreach_div_(gradients, self.scale.item())
            self.since = self.since + 1 if fine else 0
            if not fine:
                self.scale = self.scale * 0.5
            elif self.since % self.interval == 0:
                self.scale = self.scale * 2
            return torch.tensor(fine)

    passes(checks.loss_scaler, LossScaler, capsys)


def divide_a_name(self, gradients):
    for gradient in gradients:
        gradient = gradient / self.scale


def divide_the_list(self, gradients):
    gradients[:] = [gradient / self.scale for gradient in gradients]


def divide_first(self, gradients):
    gradients[0] /= self.scale


def multiply(self, gradients):
    for gradient in gradients:
        gradient *= self.scale


def grow_without_anew(self):
    self.good += 1
    if self.good >= self.growth_interval:
        self.scale *= 2


def grow_always(self):
    self.scale *= 2


def update_after_growing(self, gradients):
    if not self.is_good(gradients):
        self.on_overflow()
        return False
    self.grow()
    self.divide(gradients)
    return True


def update_says_skip(self, gradients):
    return not Scaler.update(self, gradients)


def update_says_nothing(self, gradients):
    Scaler.update(self, gradients)


def update_empties(self, gradients):
    taken = Scaler.update(self, gradients)
    gradients.clear()
    return taken


def halve_only(self):
    self.scale /= 2


def stay(self):
    self.good = 0


def halve_whole(self):
    self.scale //= 2
    self.good = 0


def back_to_the_start(self):
    self.scale, self.good = 1.0, 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"is_good": lambda self, g: True}, "not finite, and you return True: look at every gradient"),
        ({"is_good": lambda self, g: bool(torch.isfinite(g[0]).all())}, "look at every gradient"),
        ({"is_good": lambda self, g: not any(torch.isinf(x).any() for x in g)}, "nan.*isfinite"),
        ({"on_overflow": halve_only}, "overflow starts the count anew"),
        ({"on_overflow": stay}, "overflow halves the scale"),
        ({"on_overflow": back_to_the_start}, "halve the scale once"),
        ({"on_overflow": halve_whole}, "// 2 throws away the rest"),
        ({"divide": lambda self, g: None}, "divide them by the scale, in place"),
        ({"divide": divide_a_name}, "only the name"),
        ({"divide": divide_the_list}, "new tensors into the list.*still has the old ones"),
        ({"divide": divide_first}, "only the first"),
        ({"divide": multiply}, "you multiply by the scale"),
        ({"grow": lambda self: None}, "growth_interval good steps in a row the scale doubles"),
        ({"grow": grow_without_anew}, "after doubling, count anew"),
        ({"grow": grow_always}, "leaves the scale|good steps in a row"),
        ({"update": update_after_growing}, "new scale.*divide first"),
        ({"update": update_says_skip}, "this step is to be taken"),
        ({"update": update_says_nothing}, "return True if the step may be taken"),
        ({"update": update_empties}, "keep the list"),
        ({"update": None}, "no method update"),
        ({"__init__": lambda self, scale, growth_interval: None}, "keep the scale there"),
    ],
)
def test_wrong_scaler(methods, message, capsys):
    fails(checks.loss_scaler, scaler(**methods), message, capsys)


# ---- the learning rate


def schedule(
    step,
    batch_size,
    steps,
    *,
    k=lambda x: x,
    start=0.1,
    epochs=5,
    by_epoch=False,
    cuts=(30, 60, 80),
    shift=0,
    early=0,
    late=0,
):
    full = 0.1 * k(batch_size / 256)
    warm = epochs * steps
    if step < warm:
        done = (step // steps) * steps if by_epoch else step + shift
        return start + (full - start) * done / (warm - early)
    return full * 0.1 ** sum(step - late >= cut * steps for cut in cuts)


def test_other_ways_to_the_learning_rate_pass(capsys):
    def with_epochs(step, batch_size, steps_per_epoch):
        epoch = step / steps_per_epoch
        full = batch_size / 2560
        if epoch < 5:
            return np.float64((1 - epoch / 5) * 0.1 + epoch / 5 * full)
        for end, factor in ((30, 1), (60, 0.1), (80, 0.01), (math.inf, 0.001)):
            if epoch < end:
                return torch.tensor(full * factor, dtype=torch.float64)

    passes(checks.scaled_lr, schedule, capsys)
    passes(checks.scaled_lr, with_epochs, capsys)


def divided_by_two(step, batch_size, steps):
    rate = schedule(step, batch_size, steps, cuts=())
    return rate * 0.5 ** sum(step >= cut * steps for cut in (30, 60, 80))


def divided_early(step, batch_size, steps):
    """Divides the starting rate, and not the full one, after the first cut."""
    if step < 30 * steps:
        return schedule(step, batch_size, steps)
    return 0.1 * 0.1 ** sum(step >= cut * steps for cut in (30, 60, 80))


@pytest.mark.parametrize(
    "kind", [np.float32, np.float64, torch.tensor, lambda x: np.array([x]), Fraction, Decimal]
)
def test_a_rate_of_any_kind_is_a_number(kind, capsys):
    passes(checks.scaled_lr, lambda *a: kind(schedule(*a)), capsys)
    passes(checks.ring_seconds, lambda *a: kind(ring(*a)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *a: schedule(*a, k=lambda x: 1), "batch size changes nothing"),
        (lambda *a: schedule(*a, k=math.sqrt), "square root"),
        (lambda *a: schedule(*a, k=lambda x: 1 / x), "larger rate"),
        (lambda *a: schedule(*a, k=math.floor), "batch_size // 256"),
        (lambda *a: schedule(*a, k=lambda x: 256 * x), "not for each image"),
        (lambda *a: schedule(*a, early=1), "not one step earlier"),
        (lambda *a: schedule(*a, cuts=(29, 59, 79)), "first epoch has the number 0"),
        (lambda *a: schedule(*a, epochs=0), "warm-up is missing"),
        (lambda *a: schedule(*a, start=0.0), "begins at 0"),
        (lambda *a: schedule(*a, by_epoch=True), "in jumps"),
        (lambda *a: schedule(*a, shift=1), "no step \\+ 1"),
        (lambda *a: schedule(*a, epochs=1), "takes five epochs"),
        (lambda *a: schedule(*a, cuts=(35, 65, 85)), "warm-up included"),
        (lambda *a: schedule(*a, cuts=()), "divisions by 10 are missing"),
        (lambda *a: schedule(*a, cuts=(30,)), "three times"),
        (lambda *a: schedule(*a, cuts=(30, 60, 90)), "epoch 80: epoch 90 is after the end"),
        (
            lambda *a: schedule(*a, cuts=(30, 60)),
            "The warm-up is right. After it comes the full rate.* so by 1,000 in all",
        ),
        (lambda *a: schedule(*a, cuts=(20, 40, 60)), "The warm-up is right. After it"),
        (divided_by_two, "divided by 10, not by 2"),
        (divided_early, "The warm-up is right. After it"),
        (lambda s, b, n: schedule(s, b, 1), "step counts steps, not epochs: the warm-up"),
        (
            lambda s, b, n: schedule(s if s < 5 * n else s * n, b, n),
            "step counts steps, not epochs: epoch 30",
        ),
        (
            lambda s, b, n: max(schedule(s, b, n), 0.1) if s < 30 * n else schedule(s, b, n),
            "full rate is below 0.1",
        ),
        (lambda *a: schedule(*a, late=1), "compare with >="),
        (lambda s, b, n: min(schedule(s, b, n), b / 2560), "cut it off"),
        (lambda *a: 10 * schedule(*a), "on paper"),
        (lambda *a: [schedule(*a)], "return one number"),
        (lambda *a: True, "return one number"),
    ],
)
def test_wrong_learning_rate(function, message, capsys):
    fails(checks.scaled_lr, function, message, capsys)


# ---- accumulation


def accumulated(
    model,
    images,
    labels,
    part_size,
    *,
    weight=lambda size, part_size, num_parts, total: size / total,
    clear="before",
    returns=lambda losses, sizes: (
        sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    ),
    drop_last=False,
    step=False,
):
    if clear == "before":
        model.zero_grad()
    parts = list(zip(images.split(part_size), labels.split(part_size), strict=True))
    if drop_last and len(parts) > 1 and len(parts[-1][0]) < part_size:
        parts = parts[:-1]
    losses, sizes = [], []
    for x, y in parts:
        if clear == "each":
            model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss * weight(len(y), part_size, len(parts), len(labels))).backward()
        losses.append(loss.item())
        sizes.append(len(y))
    if step:
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    return returns(losses, sizes)


def summed_then_divided(model, images, labels, part_size):
    for parameter in model.parameters():
        parameter.grad = None
    total = 0.0
    for start in range(0, len(labels), part_size):
        stop = start + part_size
        loss = F.cross_entropy(model(images[start:stop]), labels[start:stop], reduction="sum")
        loss.backward()
        total += loss.detach()
    for parameter in model.parameters():
        parameter.grad /= len(labels)
    return total / len(labels)


def all_forward_first(model, images, labels, part_size):
    model.zero_grad()
    parts = zip(images.split(part_size), labels.split(part_size), strict=True)
    loss = sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in parts) / len(labels)
    loss.backward()
    return loss.item()


def at_once(model, images, labels, part_size):
    return accumulated(model, images, labels, len(labels))


def never_backward(model, images, labels, part_size):
    model.zero_grad()
    parts = zip(images.split(part_size), labels.split(part_size), strict=True)
    return sum(F.cross_entropy(model(x), y).item() for x, y in parts)


def with_other_parts(model, images, labels, part_size):
    """Even parts, as few as there may be, whose gradients never lie in .grad before the end."""
    parameters = list(model.parameters())
    sums, loss_sum = [torch.zeros_like(parameter) for parameter in parameters], torch.zeros(())
    num_parts = math.ceil(len(images) / part_size)
    for x, y in zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / len(labels)
        for total, gradient in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient
        loss_sum += loss.detach()
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad = gradient
    return np.float32(loss_sum)


def cleared_at_the_end(model, images, labels, part_size):
    loss = accumulated(model, images, labels, part_size)
    model.zero_grad()
    return loss


def backward_on_the_total(model, images, labels, part_size):
    model.zero_grad()
    total = 0.0
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        total = total + F.cross_entropy(model(x), y) * len(y) / len(labels)
        total.backward(retain_graph=True)
    return total.item()


def in_mode(mode, back=True):
    """Right numbers, in a mode of the function's own choice."""

    def function(model, images, labels, part_size):
        before = {module: module.training for module in model.modules()}
        model.train(mode)
        loss = accumulated(model, images, labels, part_size)
        if back:
            for module, training in before.items():
                module.training = training
        return loss

    return function


def keeping_the_graphs(model, images, labels, part_size):
    model.zero_grad()
    losses = []
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y) * len(y) / len(labels)
        loss.backward(retain_graph=True)
        losses.append(loss)
    return sum(loss.item() for loss in losses)


LEFT = []


def one_step_late(model, images, labels, part_size):
    """Two parts are in memory at a time."""
    model.zero_grad()
    total, waiting = 0.0, None
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y) * len(y) / len(labels)
        if waiting is not None:
            waiting.backward()
        waiting = loss
        total += loss.item()
    waiting.backward()
    return total


def keeping_the_last_graph(model, images, labels, part_size):
    model.zero_grad()
    total, LEFT[:] = 0.0, []
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        LEFT[:] = [F.cross_entropy(model(x), y) * len(y) / len(labels)]
        LEFT[0].backward(retain_graph=len(x) < part_size)
        total += LEFT[0].item()
    return total


def losses_kept_without_memory(model, images, labels, part_size):
    """The losses still know their graphs, but backward() has freed what these held."""
    model.zero_grad()
    total = 0.0
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        loss = F.cross_entropy(model(x), y) * (len(y) / len(labels))
        loss.backward()
        total = total + loss
    return total.item()


def spoiling(which):
    def function(model, images, labels, part_size):
        loss = accumulated(model, images, labels, part_size)
        if which == "images":
            images.mul_(0)
        else:
            labels[:] = labels.sort().values.flip(0)
        return loss

    return function


@pytest.mark.parametrize(
    "function", [accumulated, summed_then_divided, with_other_parts, losses_kept_without_memory]
)
def test_right_accumulation(function, capsys):
    passes(checks.accumulate, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *a: accumulated(*a, clear=None), "earlier step"),
        (lambda *a: accumulated(*a, clear="each"), "only the last part"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: 1 / n), "every part counts alike"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: 1), "added up as they are"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: s), "sum over the images"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: s / p), "divided by part_size"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: p / t), "real number of images"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: 1 / t), "number of all images: multiply"),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: 1 / s), "divided by its images already"),
        (
            lambda *a: accumulated(*a, weight=lambda s, p, n, t: 1 / (t // p)),
            "does not count the smaller part",
        ),
        (lambda *a: accumulated(*a, weight=lambda s, p, n, t: 2 * s / t), "mean loss of all"),
        (lambda *a: accumulated(*a, drop_last=True), "smaller part is missing"),
        (lambda *a: accumulated(*a, step=True), "take no step"),
        (lambda *a: accumulated(*a, returns=lambda losses, sizes: losses[-1]), "the mean loss that you return"),
        (lambda *a: accumulated(*a, returns=lambda losses, sizes: None), "does the function end with"),
        (lambda *a: accumulated(*a, returns=lambda losses, sizes: sum(losses)), "weigh the parts"),
        (all_forward_first, "nothing is saved"),
        (at_once, "at once than part_size allows"),
        (never_backward, "a parameter has no gradient: call backward"),
        (cleared_at_the_end, "leave it alone after the last"),
        (backward_on_the_total, "count several times"),
        (lambda *a: 0.0, "never called"),
        (in_mode(False, back=False), "left in another mode"),
        (in_mode(True, back=False), "left in another mode.*call neither train"),
        (in_mode(False), "go through a network in another mode"),
        (in_mode(True), "go through a network in another mode"),
        (keeping_the_graphs, "memory of a part is still held.*retain_graph"),
        (keeping_the_last_graph, "memory of a part is still held.*at the end"),
        (one_step_late, "memory of a part is still held.*too late"),
        (spoiling("images"), "changes its own argument images"),
        (spoiling("labels"), "changes its own argument labels"),
    ],
)
def test_wrong_accumulation(function, message, capsys):
    fails(checks.accumulate, function, message, capsys)


def test_a_loss_with_its_graph_is_refused():
    def function(model, images, labels, part_size):
        accumulated(model, images, labels, part_size)
        return torch.ones((), requires_grad=True)

    fails(checks.accumulate, function, r"\.item\(\)")


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


def padded(order, batch_size, rank, num_ranks):
    missing = -len(order) % num_ranks
    return strided(torch.cat([order, order[:missing]]), batch_size, rank, num_ranks)


def dropped(order, batch_size, rank, num_ranks):
    return strided(order[: len(order) // num_ranks * num_ranks], batch_size, rank, num_ranks)


def ranks_first(order, batch_size, rank, num_ranks):
    return list(order[rank::num_ranks].split(batch_size))


def ranks_first_smaller(order, batch_size, rank, num_ranks):
    return list(order[rank::num_ranks].split(max(1, batch_size // num_ranks)))


def without_empty(order, batch_size, rank, num_ranks):
    return [share for share in strided(order, batch_size, rank, num_ranks) if len(share)]


def neighbours_rounded_up(order, batch_size, rank, num_ranks):
    batches = order.split(batch_size)
    sizes = [math.ceil(len(batch) / num_ranks) for batch in batches]
    return [batch[rank * size : (rank + 1) * size] for batch, size in zip(batches, sizes, strict=True)]


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
        (padded, "more than once.*Fill nothing up"),
        (dropped, "never seen"),
        (ranks_first, "Cut the batches first|the ranks take"),
        (ranks_first_smaller, "Cut the batches first|the ranks take"),
        (without_empty, "empty share"),
        (last_takes_the_rest, "differ by one at most"),
        (lambda order, b, r, n: list(order.split(b)), "use the rank"),
        (lambda order, b, r, n: strided(torch.arange(len(order)) + 1, b, r, n), "there is no image"),
        (
            lambda order, b, r, n: strided(torch.arange(len(order)), b, r, n),
            "take the numbers out of `order`",
        ),
        (lambda order, b, r, n: strided(order.flip(0), b, r, n), "Cut the batches first"),
        (places_in_batch, "take the numbers out of `order`"),
        (neighbours_rounded_up, "differ by one at most"),
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


def average(gradients, counts, weight=lambda count, total, ranks: count / total):
    weights = [weight(count, sum(counts), len(counts)) for count in counts]
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
        (lambda g, c: average(g, c, lambda count, total, ranks: 1 / ranks), "plain mean over the ranks"),
        (lambda g, c: average(g, c, lambda count, total, ranks: 1), "means already"),
        (lambda g, c: average(g, c, lambda count, total, ranks: count), "not divided"),
        (lambda g, c: average(g, c, lambda count, total, ranks: count / total / ranks), "once too often"),
        (lambda g, c: average(g, c, lambda count, total, ranks: count / ranks), "not of ranks"),
        (lambda g, c: average(g, c, lambda count, total, ranks: 1 / total), "not weighed"),
        (lambda g, c: average(g, c, lambda count, total, ranks: 1 / max(count, 1)), "do not divide by it"),
        (lambda g, c: g[0], "first rank's gradient alone"),
        (lambda g, c: g[-1], "last rank's gradient alone"),
        (lambda g, c: [2 * x for x in average(g, c)], "not the gradient of the mean loss"),
        (lambda g, c: average(g, c)[:1], "gives 1 value, and 4 are asked for.*one tensor for each parameter"),
        (lambda g, c: average(g, c)[0], "return a list of tensors"),
        (lambda g, c: [x.numpy() for x in average(g, c)], "ndarray: return a tensor"),
        (lambda g, c: average(g, c, lambda count, total, ranks: count // total), "count // total"),
        (lambda g, c: average(g, c, lambda count, total, ranks: count / max(c)), "not by the largest share"),
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


@pytest.mark.parametrize("function", [ring, ring_in_a_loop])
def test_right_ring(function, capsys):
    passes(checks.ring_seconds, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, p, s, t: ring(n, p, s, t) / 2, "as many more hand them on"),
        (lambda n, p, s, t: 2 * (p - 1) * (t + n / s), "one piece, 1/p"),
        (lambda n, p, s, t: 2 * p * (t + n / p / s), r"2\(p − 1\)"),
        (lambda n, p, s, t: 2 * (p - 1) / p * n / s + t, "not the whole exchange once"),
        (lambda n, p, s, t: 2 * (p - 1) / p * n / s + 2 * t, "not each half"),
        (lambda n, p, s, t: 2 * (p - 1) / p * n / s + p * t, "not p"),
        (lambda n, p, s, t: 2 * (p - 1) / p * n / s, "latency is missing"),
        (lambda n, p, s, t: 2 * math.log2(p) * (t + n / p / s), "steps of a tree"),
        (lambda n, p, s, t: 2 * (p - 1) * n / p / s + (p - 1) * t, "Both halves pay the latency"),
        (lambda n, p, s, t: 2 * (p - 1) / p * (n / s + t), "only the bytes are divided by p"),
        (lambda n, p, s, t: 2 * (p - 1) * (t + n / max(p - 1, 1) / s), "not into p − 1"),
        (lambda n, p, s, t: ring(n // p * p, p, s, t), "throws away the rest"),
        (lambda n, p, s, t: 2 * n / s, "comes near to"),
        (lambda n, p, s, t: 2 * n / s + 2 * (p - 1) * t, "comes near to"),
        (lambda n, p, s, t: ring(8 * n, p, s, t), "no factor of 8"),
        (lambda n, p, s, t: ring(n, p, s, t) if p > 1 else n / s, "nobody to send to"),
        (lambda n, p, s, t: ring(n, p, s, t) * p, "same time"),
        (lambda n, p, s, t: ring(n, p, s, t) + 1, "three ranks"),
        (lambda n, p, s, t: str(ring(n, p, s, t)), "return one number"),
        (lambda n, p, s, t: True, "return one number"),
    ],
)
def test_wrong_ring(function, message, capsys):
    fails(checks.ring_seconds, function, message, capsys)
