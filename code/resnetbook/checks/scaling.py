"""Loss scaler, learning rate, accumulation, shares, averages and the ring of chapter 10."""

import copy
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook.checks.common import (
    CheckFailed,
    answer_of,
    as_real,
    call_reader,
    compare_reals,
    exercise,
    kept,
    near,
    snapshot,
    spoiled,
)


def _scaled_lr(
    step: int,
    batch_size: int,
    steps_per_epoch: int,
    *,
    scale: Callable[[float], float] = lambda k: k,
    start: float | None = 0.1,
    by_epoch: bool = False,
    late_by: int = 0,
    decay: float = 0.1,
    compound: bool = True,
    warmup_epochs: int = 5,
    shift: int = 0,
    early: int = 0,
    strict: bool = False,
    epochs: tuple[int, ...] = (30, 60, 80),
) -> float:
    """The schedule of Goyal et al. 2017; the options make the mistakes that are named below."""
    target = 0.1 * scale(batch_size / 256)
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup and start is not None:
        progress = step // steps_per_epoch / warmup_epochs if by_epoch else (step + shift) / (warmup - early)
        return start + (target - start) * progress
    last_step = step - 1 if strict else step
    passed = [epoch for epoch in epochs if last_step >= (epoch + late_by) * steps_per_epoch]
    if not compound:
        return target * (decay if passed else 1)
    return target * decay ** len(passed)


@exercise
def scaled_lr(solution: Callable[[int, int, int], float]) -> str:
    """Check ``scaled_lr(step, batch_size, steps_per_epoch)``: linear scaling, warm-up, three decays.

    Raises:
        CheckFailed: if a learning rate differs.
    """
    # Apart, so that neither is blamed on the other.
    warmup = (
        (0, 256, 10),
        (0, 8192, 10),
        (7, 8192, 10),
        (25, 8192, 10),
        (49, 8192, 10),
        (3, 64, 4),
        (0, 300, 1),
        (2, 300, 1),
        (2_000, 2048, 626),
    )
    later = (
        (50, 8192, 10),
        (51, 8192, 10),
        (40, 64, 4),
        (299, 8192, 10),
        (300, 8192, 10),
        (330, 1024, 10),
        (599, 8192, 10),
        (600, 1024, 10),
        (650, 1024, 10),
        (799, 300, 10),
        (800, 512, 10),
        (899, 8192, 10),
        (30, 300, 1),
        (123_000, 2048, 626),
    )
    schedule = functools.partial
    compare_reals(
        solution,
        "scaled_lr",
        warmup,
        _scaled_lr,
        (
            (
                schedule(_scaled_lr, scale=lambda k: 1.0),
                "The batch size changes nothing: the rate is 0.1 for each 256 images of the batch.",
            ),
            (
                schedule(_scaled_lr, scale=math.sqrt),
                "You scale by the square root. The linear rule multiplies the rate by batch_size / 256.",
            ),
            (
                schedule(_scaled_lr, scale=lambda k: 1 / k),
                "A larger batch gets a larger rate, not a smaller one: batch_size / 256.",
            ),
            (
                schedule(_scaled_lr, scale=math.floor),
                "batch_size // 256 throws away the rest, so 64 images would get a rate of 0: divide with /.",
            ),
            (
                schedule(_scaled_lr, scale=lambda k: 256 * k),
                "The full rate is 0.1 for each 256 images of the batch, not for each image: divide by 256.",
            ),
            (
                schedule(_scaled_lr, start=None),
                "The warm-up is missing: five epochs from 0.1 to the full rate.",
            ),
            (
                schedule(_scaled_lr, start=0.0),
                "The warm-up begins at 0. It begins at 0.1, the rate that is known to work for 256 images.",
            ),
            (
                schedule(_scaled_lr, by_epoch=True),
                "The rate rises in jumps, once an epoch. Let it rise a little at every step.",
            ),
            (
                schedule(_scaled_lr, shift=1),
                "Step 0 is the first step, and it has the rate 0.1 exactly: no step + 1.",
            ),
            (
                schedule(_scaled_lr, early=1),
                "The full rate comes after five epochs, at step 5 · steps_per_epoch, not one step earlier.",
            ),
            (
                schedule(_scaled_lr, warmup_epochs=1),
                "The warm-up takes five epochs, and step counts steps: 5 · steps_per_epoch of them.",
            ),
            (
                lambda step, batch_size, steps: _scaled_lr(step, batch_size, 1),
                "step counts steps, not epochs: the warm-up ends with step 5 · steps_per_epoch.",
            ),
            (
                lambda step, batch_size, steps: min(
                    _scaled_lr(step, batch_size, steps), 0.1 * batch_size / 256
                ),
                "For a batch below 256 the warm-up goes down from 0.1 to the full rate; you cut it off.",
            ),
            (
                lambda step, batch_size, steps: max(_scaled_lr(step, batch_size, steps), 0.1),
                "For a batch below 256 the full rate is below 0.1, and the warm-up goes down to it.",
            ),
        ),
        "Work out the rate at step 0, in the middle of the warm-up, and at its end, on paper.",
    )
    compare_reals(
        solution,
        "scaled_lr",
        later,
        _scaled_lr,
        (
            (
                schedule(_scaled_lr, late_by=5),
                "Epochs count from the beginning of training, the warm-up included.",
            ),
            (
                schedule(_scaled_lr, late_by=-1),
                "The first epoch has the number 0, so epoch 30 begins with step 30 · steps_per_epoch.",
            ),
            (
                schedule(_scaled_lr, decay=1.0),
                "The three divisions by 10 are missing, at epochs 30, 60 and 80.",
            ),
            (
                schedule(_scaled_lr, compound=False),
                "The rate is divided by 10 three times: after epoch 80 it is a thousandth of the full rate.",
            ),
            (
                schedule(_scaled_lr, strict=True),
                "Epoch 30 begins with step 30 · steps_per_epoch: compare with >=.",
            ),
            (
                schedule(_scaled_lr, decay=0.5),
                "Each time the rate is divided by 10, not by 2.",
            ),
            (
                schedule(_scaled_lr, epochs=(30, 60, 90)),
                "The third division comes with epoch 80: epoch 90 is after the end.",
            ),
            (
                lambda step, batch_size, steps: _scaled_lr(step * steps, batch_size, steps),
                "step counts steps, not epochs: epoch 30 begins with step 30 · steps_per_epoch.",
            ),
            (
                lambda step, batch_size, steps: max(_scaled_lr(step, batch_size, steps), 0.1),
                "For a batch below 256 the full rate is below 0.1, and after each decay it is lower still.",
            ),
        ),
        "The warm-up is right. After it comes the full rate, 0.1 for each 256 images, divided by 10 at the "
        "beginning of epochs 30, 60 and 80, so by 1,000 in all: work out the rate at the end of the warm-up "
        "and one step before and after each of these, on paper.",
    )
    num_steps = len(warmup) + len(later)
    return f"the rate is right at {num_steps} steps, in the warm-up and after each decay."


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


@exercise
def ring_seconds(solution: Callable[[float, int, float, float], float]) -> str:
    """Check ``ring_seconds(num_bytes, num_ranks, bytes_per_second, latency)`` against a simulated ring.

    Raises:
        CheckFailed: if a time differs.
    """
    cases = (
        (1_000, 2, 100, 0),
        (1_000, 4, 100, 0),
        (1_200, 3, 50, 0.5),
        (1_000, 3, 100, 0.25),
        (102_228_128, 8, 6_250_000_000, 0.00001),
        (7, 1, 3, 1),
        (64, 16, 8, 0.25),
    )

    def ring(
        num_bytes: float,
        p: int,
        speed: float,
        latency: float,
        *,
        rounds: Callable[[int], float] = lambda p: 2 * (p - 1),
        piece: Callable[[int], float] = lambda p: 1 / p,
        waits: Callable[[int], float] | None = None,
    ) -> float:
        waits = waits or rounds
        return rounds(p) * piece(p) * num_bytes / speed + waits(p) * latency

    mistake = functools.partial
    compare_reals(
        solution,
        "ring_seconds",
        cases,
        _ring,
        (
            (
                mistake(ring, rounds=lambda p: p - 1),
                "After p − 1 steps every rank has one finished piece; as many more hand them on.",
            ),
            (
                mistake(ring, piece=lambda p: 1),
                "In each step a rank sends one piece, 1/p of the bytes, and not all of them.",
            ),
            (
                mistake(ring, rounds=lambda p: 2 * p),
                "p − 1 steps are enough to pass p ranks, once to add up and once to hand round: 2(p − 1).",
            ),
            (
                mistake(ring, waits=lambda p: 1),
                "Each of the 2(p − 1) steps waits for the latency, not the whole exchange once.",
            ),
            (
                mistake(ring, waits=lambda p: p - 1),
                "Both halves pay the latency: the p − 1 steps that add up, and the p − 1 that hand round.",
            ),
            (
                mistake(ring, waits=lambda p: 2 * (p - 1) / p),
                "Every step waits for the whole latency: only the bytes are divided by p.",
            ),
            (mistake(ring, waits=lambda p: 0), "The latency is missing: each step pays it."),
            (
                mistake(ring, waits=lambda p: 2),
                "Each of the 2(p − 1) steps waits for the latency, not each half of the exchange once.",
            ),
            (
                mistake(ring, waits=lambda p: p),
                "The latency is paid in each step, and there are 2(p − 1) of them, not p.",
            ),
            (
                mistake(ring, rounds=lambda p: 2 * math.log2(p)),
                "log₂ p is the number of steps of a tree. Round a ring it takes p − 1 steps, twice.",
            ),
            (
                lambda n, p, speed, latency: 2 * n / speed,
                "That is what it comes near to for many ranks; the exact share is 2(p − 1)/p, and each step "
                "has a latency.",
            ),
            (
                lambda n, p, speed, latency: 2 * n / speed + 2 * (p - 1) * latency,
                "2 · num_bytes is what it comes near to for many ranks; the exact share is 2(p − 1)/p.",
            ),
            (
                mistake(ring, piece=lambda p: 1 / max(p - 1, 1)),
                "The numbers are cut into p pieces, as many as there are ranks, not into p − 1.",
            ),
            (
                lambda n, p, speed, latency: ring(n // p * p, p, speed, latency),
                "num_bytes // num_ranks throws away the rest: divide with /.",
            ),
            (
                lambda n, p, speed, latency: ring(8 * n, p, speed, latency),
                "Both numbers are in bytes already: no factor of 8.",
            ),
            (
                lambda n, p, speed, latency: ring(n, p, speed, latency) if p > 1 else n / speed,
                "One rank alone has nobody to send to: it takes no time.",
            ),
            (
                lambda n, p, speed, latency: ring(n, p, speed, latency) * p,
                "All ranks send at the same time: do not add their times up.",
            ),
        ),
        "Draw three ranks in a ring, and count what each sends until all have the sum.",
    )
    return f"the time is that of a simulated ring in {len(cases)} cases, one rank alone among them."


# ---- a dynamic loss scaler


def _gradients(seed: int, scale: float, bad: str | None = None) -> list[Tensor]:
    """Three gradients as backward would leave them, one of them spoiled on request."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator) * scale for shape in ((3, 2), (4,), (2, 2, 2))]
    if bad is not None:
        # Not the first, so that it is not enough to look there.
        found[1][2] = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[bad]
    return found


def _trusted_scaler(
    events: Sequence[str | None], scale: float, growth_interval: int
) -> list[tuple[bool, float, list[Tensor]]]:
    """For each step: whether it is taken, the scale afterwards, the gradients that it is taken with."""
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=growth_interval
    )
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in _gradients(0, 1.0)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    scaler.scale(torch.zeros(()))  # PyTorch's sets itself up when it is first used
    told = []
    for seed, bad in enumerate(events):
        for parameter, gradient in zip(parameters, _gradients(seed, scaler.get_scale(), bad), strict=True):
            parameter.data.zero_()
            parameter.grad = gradient
        scaler.step(optimizer)
        scaler.update()
        used = [-parameter.detach().clone() for parameter in parameters]  # a step of lr 1 from 0
        told.append((bad is None, scaler.get_scale(), used))
    return told


@exercise
def loss_scaler(solution: Callable[[float, int], object]) -> str:
    """Check a class ``LossScaler(scale, growth_interval)`` against ``torch.amp.GradScaler``.

    Raises:
        CheckFailed: if a step is wrongly taken or skipped, or a scale or a gradient differs.
    """
    stories = (
        ([None, None, "inf", None, None, None, None, None, None], 1024.0, 3),
        ([None, None, "inf", None, "nan", "-inf", None, None, None, None, None], 64.0, 2),
        (["inf", "inf", None, None, None], 65536.0, 1),
        (["nan", "inf", None, None], 1.0, 2),  # down to a fraction
    )
    begun = False
    for events, scale, interval in stories:
        call = f"LossScaler({scale:g}, {interval})"
        scaler = answer_of(solution, scale, interval, describe=call, begun=begun)
        history: list[str] = []
        for step, (taken, after, used) in enumerate(_trusted_scaler(events, scale, interval)):
            before = _scale_of(scaler)
            if not near(before, scale):
                where = f"After {', '.join(history)}" if history else "At the start"
                raise CheckFailed(f"{where}: scale is {before:g} where it must be {scale:g}.")
            bad = events[step]
            gradients = _gradients(step, scale, bad)
            in_network = list(gradients)  # what the parameters' .grad would still point to
            if not callable(getattr(scaler, "update", None)):
                raise CheckFailed("The scaler has no method update(gradients).")
            said = call_reader(scaler.update, gradients, describe="update(gradients)", begun=begun)
            begun = True
            history.append(bad or "good")
            _compare_update(said, taken, bad, history)
            if taken:
                _compare_unscaled(gradients, in_network, used, scale, after)
            given = _scale_of(scaler)
            if not near(given, after):
                raise CheckFailed(_why_scale(history, scale, given, after, interval))
            scale = after
    steps = sum(len(events) for events, _, _ in stories)
    return f"steps, gradients and scale are those of torch.amp.GradScaler over {steps} steps."


def _scale_of(scaler: object) -> float:
    """The reader's scale.

    Raises:
        CheckFailed: if there is none, or it is no number.
    """
    value = getattr(scaler, "scale", None)
    return as_real(value, "scaler.scale is {value!r}: keep the scale there, as a number.")


def _compare_update(said: object, taken: bool, bad: str | None, history: list[str]) -> None:
    """Compare what ``update`` returns.

    Raises:
        CheckFailed: if it is not whether to take the step.
    """
    if isinstance(said, Tensor) and said.numel() == 1:
        said = bool(said)
    if not isinstance(said, bool | np.bool_):
        raise CheckFailed(
            f"update(gradients) gives {said!r}: return True if the step may be taken, and False if not."
        )
    if bool(said) == taken:
        return
    if taken:
        raise CheckFailed("All gradients are finite, and you return False: this step is to be taken.")
    if bad == "nan":
        raise CheckFailed(
            "One number is nan, and you return True. An overflow can end as nan as well (inf − inf): "
            "torch.isfinite knows both."
        )
    raise CheckFailed(
        f"One number in the second of three gradients is {bad}, and you return True: look at every gradient, "
        "and skip the step if one number is not finite."
    )


def _compare_unscaled(
    gradients: list[Tensor], in_network: list[Tensor], used: list[Tensor], scale: float, after: float
) -> None:
    """Compare the gradients of a step that is taken.

    Raises:
        CheckFailed: if they are not divided by the scale that the loss was multiplied with.
    """
    if len(gradients) != len(used) or not all(
        isinstance(mine, Tensor) and mine.shape == right.shape
        for mine, right in zip(gradients, used, strict=True)
    ):
        raise CheckFailed(
            "The list of gradients has changed: divide the numbers in place, and keep the list."
        )

    def divided_by(divisor: float, some: int = len(used), found: list[Tensor] = in_network) -> bool:
        return all(
            torch.allclose(mine * (divisor / scale if i < some else 1 / scale), right, rtol=1e-4)
            for i, (mine, right) in enumerate(zip(found, used, strict=True))
        )

    if divided_by(scale):
        return
    if divided_by(scale, found=gradients):
        raise CheckFailed(
            "You put new tensors into the list, and the network still has the old ones: change the tensors "
            "themselves, with gradient /= scale or gradient.div_(scale)."
        )
    if divided_by(1.0):
        raise CheckFailed(
            "You take the step, but the gradients are still those of the scaled loss: divide them "
            "by the scale, in place (gradient /= scale changes the tensor, gradient = gradient / scale only "
            "the name)."
        )
    if not near(scale, after) and divided_by(after):
        raise CheckFailed(
            "You divide by the new scale, after doubling it. The loss was multiplied with the old one: "
            "divide first."
        )
    if divided_by(1 / scale):
        raise CheckFailed("You multiply by the scale. The loss was multiplied already: divide the gradients.")
    if divided_by(scale, some=1):
        raise CheckFailed("Only the first gradient was divided: divide all of them.")
    raise CheckFailed("The gradients are not those of the loss: divide each by the scale, once.")


def _why_scale(history: list[str], before: float, given: float, right: float, interval: int) -> str:
    """Which mistake gives another scale after the last step."""
    said = f"After {', '.join(history)}: scale is {given:g} where it must be {right:g}. "
    last = history[-1]
    in_a_row = next((i for i, word in enumerate(reversed(history)) if word != "good"), len(history))
    if last != "good":
        if near(given, before):
            return said + "An overflow halves the scale."
        if near(given, before // 2):
            return said + "// 2 throws away the rest, and a scale may be less than 1: divide with /."
        return said + "Halve the scale once for each step that overflows, whatever it was before."
    if right > before:
        if near(given, before):
            return said + f"After {interval} good steps in a row the scale doubles."
        return said + "Double the scale, once."
    if given > before:
        if in_a_row < interval:
            return said + (
                f"Only {in_a_row} good steps in a row since the last overflow, and it takes {interval}. "
                "An overflow starts the count anew."
            )
        return said + f"After doubling, count anew: the next doubling comes {interval} good steps later."
    return said + "A good step alone leaves the scale as it is."


# ---- gradient accumulation


class _Kept:
    """What a forward pass keeps for the backward pass; it is gone when nothing refers to it any more."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Watched(nn.Module):
    """A small network without batch normalization that notes what is done with it.

    Attributes:
        events: for each forward pass its images, for each backward pass a 0.
        modes: for each forward pass the modes of all modules.
        held: how many forward passes still had their memory when a later one began.
    """

    def __init__(self) -> None:
        super().__init__()
        # The dropout drops nothing, but it has a mode.
        layers = (nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 5))
        self.body = nn.Sequential(*layers)
        self.forget()

    def forget(self) -> None:
        """Begin to note anew."""
        self.events: list[int] = []
        self.modes: list[list[bool]] = []
        self.held = 0
        self._kept: list[list[weakref.ref]] = []

    def still_held(self) -> int:
        """How many forward passes have something of their memory left."""
        return sum(any(kept() is not None for kept in of_one) for of_one in self._kept)

    def forward(self, x: Tensor) -> Tensor:
        self.events.append(len(x))
        self.modes.append(_modes(self))
        self.held = max(self.held, self.still_held())
        of_this: list[weakref.ref] = []
        self._kept.append(of_this)

        def pack(tensor: Tensor) -> _Kept:
            kept = _Kept(tensor)
            of_this.append(weakref.ref(kept))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            logits = self.body(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.events.append(0))
        return logits


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def _whole_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
    loss = F.cross_entropy(model(images), labels)
    return loss.item(), list(torch.autograd.grad(loss, list(model.parameters())))


@exercise
def accumulate(solution: Callable[[nn.Module, Tensor, Tensor, int], float]) -> str:
    """Check ``accumulate(model, images, labels, part_size)`` against the gradient of the whole batch.

    Raises:
        CheckFailed: if gradients, the loss or the size of a part differ.
    """
    call = "accumulate(model, images, labels, part_size)"
    cases = ((10, 4), (12, 4), (7, 3), (5, 8), (9, 8), (6, 1))  # an uneven one first: it tells mistakes apart
    for seed, (num_images, part_size) in enumerate(cases):
        torch.manual_seed(seed)
        model = _Watched()
        if seed % 3 == 1:
            model.body[3].eval()  # one layer frozen
        elif seed % 3 == 2:
            model.eval()
        modes = _modes(model)
        images, labels = torch.randn(num_images, 1, 3, 4), torch.randint(0, 5, (num_images,))
        loss, right = _whole_gradient(model, images, labels)
        # Gradients of an earlier step lie around, as they do in a real training.
        stale = [torch.randn_like(parameter) for parameter in model.parameters()]
        for parameter, gradient in zip(model.parameters(), stale, strict=True):
            parameter.grad = gradient.clone()
        weights = copy.deepcopy(model.state_dict())
        model.forget()
        with kept(call, images=images, labels=labels):
            said = call_reader(solution, model, images, labels, part_size, describe=call, begun=seed > 0)
        where = f"With {num_images} images in parts of {part_size}: "
        if _modes(model) != modes:
            raise CheckFailed(
                where + "the network, or a layer of it, is left in another mode. Whether norms and dropout "
                "train is the caller's choice (a layer may be frozen): call neither train() nor eval()."
            )
        if any(mode != modes for mode in model.modes):
            raise CheckFailed(
                where + "the images go through a network in another mode than it came in: its gradient is "
                "another one where there is a norm or dropout. Call neither train() nor eval()."
            )
        if any(not torch.equal(weights[name], value) for name, value in model.state_dict().items()):
            raise CheckFailed(
                where + "the weights have moved. Leave the gradient in .grad, and take no step."
            )
        _compare_parts(model, num_images, part_size, where)
        given = [parameter.grad for parameter in model.parameters()]
        if any(gradient is None for gradient in given):
            if 0 in model.events:
                raise CheckFailed(
                    where + "backward() was called, but at the end there is no gradient: clear .grad before "
                    "the first part, and leave it alone after the last."
                )
            raise CheckFailed(
                where + "a parameter has no gradient: call backward() on the loss of each part."
            )
        _compare_accumulated(model, images, labels, part_size, given, right, stale, where)
        if model.held or model.still_held():
            raise CheckFailed(
                where + "the gradients are right, but the memory of a part is still held when the next one "
                "begins, or at the end. backward() frees it, unless it is told to retain_graph, or comes too "
                "late: one backward() for each part, before the next part."
            )
        _compare_loss(said, loss, where, call)
    return f"gradients and loss are those of the whole batch in {len(cases)} cases, with uneven parts too."


def _compare_parts(model: _Watched, num_images: int, part_size: int, where: str) -> None:
    """Compare how the work was cut up.

    Raises:
        CheckFailed: if a part is too large, an image is missing, or nothing is saved.
    """
    events = model.events
    sizes = [size for size in events if size]
    if not sizes:
        raise CheckFailed(where + "the model was never called.")
    if max(sizes) > part_size:
        raise CheckFailed(
            where + f"{max(sizes)} images went through the network at once, and {part_size} are allowed."
        )
    if sum(sizes) != num_images:
        least = "the last, smaller part is missing" if sum(sizes) < num_images else "some came twice"
        raise CheckFailed(where + f"{sum(sizes)} images went through the network: {least}.")
    if len(sizes) > 1 and 0 in events and events.index(0) >= len(sizes):
        raise CheckFailed(
            where
            + "all parts go forward before the first backward(). Until then what each part has computed "
            "stays in memory, so nothing is saved: call backward() for each part at once."
        )


def _compare_accumulated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    part_size: int,
    given: list[Tensor],
    right: list[Tensor],
    stale: list[Tensor],
    where: str,
) -> None:
    """Compare gradients, and find out what went wrong.

    Raises:
        CheckFailed: if they differ.
    """

    def is_right(other: Sequence[Tensor]) -> bool:
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(given, other, strict=True))

    if is_right(right):
        return
    parts = list(zip(images.split(part_size), labels.split(part_size), strict=True))
    sizes = [len(part) for part, _ in parts]
    means = [_whole_gradient(model, *part)[1] for part in parts]

    def weighted(weights: list[float]) -> list[Tensor]:
        return [
            sum(w * g for w, g in zip(weights, column, strict=True)) for column in zip(*means, strict=True)
        ]

    num_parts, total = len(parts), sum(sizes)
    mistakes = (
        (
            [a + b for a, b in zip(right, stale, strict=True)],
            "gradients of an earlier step are still in there: clear them once, before the first part.",
        ),
        (
            weighted([1 / num_parts] * num_parts),
            "every part counts alike, and the last one is smaller: weigh each part's mean loss by its share "
            "of the images.",
        ),
        (
            weighted([1.0] * num_parts),
            "the parts' means are added up as they are: weigh each by its share of the images.",
        ),
        (
            weighted([1 / total] * num_parts),
            "a part's mean loss is divided by the number of all images: multiply it by the part's own number "
            "as well, or use the sum.",
        ),
        (
            weighted([1 / size for size in sizes]),
            "a part's mean loss is divided by its images already: weigh it by its share of the batch.",
        ),
        (
            weighted([1 / max(total // part_size, 1)] * num_parts),
            "len(images) // part_size does not count the smaller part: weigh each part by its share of the "
            "images.",
        ),
        (
            weighted([(num_parts - i) * size / total for i, size in enumerate(sizes)]),
            "the first parts count several times: call backward() on each part's own loss, not on a total.",
        ),
        (
            weighted([float(size) for size in sizes]),
            "this is the gradient of the sum over the images: divide by their number.",
        ),
        (
            weighted([size / part_size for size in sizes]),
            "this is divided by part_size: divide by the number of images in the whole batch.",
        ),
        (
            weighted([part_size / total] * num_parts),
            "the last part is smaller than part_size: weigh it with its real number of images.",
        ),
        (
            weighted([0.0] * (num_parts - 1) + [sizes[-1] / total]),
            "only the last part is left: clear the gradients once, before the first part.",
        ),
        (weighted([0.0] * (num_parts - 1) + [1.0]), "only the last part is left: clear the gradients once."),
        (
            weighted([0.0] * (num_parts - 1) + [1 / num_parts]),
            "only the last part is left: clear the gradients once.",
        ),
    )
    for other, message in mistakes:
        if is_right(other):
            raise CheckFailed(where + message)
    raise CheckFailed(where + "the gradient is not that of the mean loss of all images.")


def _compare_loss(said: object, loss: float, where: str, call: str) -> None:
    """Compare the loss that is returned.

    Raises:
        CheckFailed: if it is not the mean over the whole batch, as a number.
    """
    if isinstance(said, Tensor) and said.requires_grad:
        raise CheckFailed(
            where + "the gradients are right, but what you return still holds the computation: use .item()."
        )
    said = as_real(
        said, f"{where}the gradients are right, but {call} gives {{value!r}}: return the mean loss."
    )
    if abs(said - loss) > 1e-4:
        raise CheckFailed(
            f"{where}the gradients are right, but you return {said:.4f} and the mean loss is {loss:.4f}: "
            "weigh the parts as you did for the gradients."
        )


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


@exercise
def shares(solution: Callable[[Tensor, int, int, int], Sequence]) -> str:
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
                with kept(call, order=order):
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


# ---- the average of unequal shares


@exercise
def average_gradients(solution: Callable[[list[list[Tensor]], list[int]], Sequence[Tensor]]) -> str:
    """Check ``average_gradients(gradients, counts)`` against the gradient of all images together.

    Raises:
        CheckFailed: if a gradient differs.
    """
    call = "average_gradients(gradients, counts)"
    cases = ((5, 2), (4, 4), (3, 3, 1), (1, 7, 2, 6), (6,), (4, 0), (300, 20))  # an unequal one first
    for seed, counts in enumerate(cases):
        torch.manual_seed(seed)
        model = _Watched().double()
        images, labels = torch.randn(sum(counts), 1, 3, 4).double(), torch.randint(0, 5, (sum(counts),))
        _, right = _whole_gradient(model, images, labels)
        gradients = [
            _whole_gradient(model, *part)[1] if len(part[0]) else [torch.zeros_like(g) for g in right]
            for part in zip(images.split(counts), labels.split(counts), strict=True)
        ]
        before = copy.deepcopy(gradients)
        handed = list(counts)
        answer = answer_of(solution, gradients, handed, describe=call, begun=seed > 0)
        where = f"With {list(counts)} images: "
        if isinstance(answer, Tensor) or not isinstance(answer, list | tuple):
            raise CheckFailed(f"{where}{call} gives a {type(answer).__name__}: return a list of tensors.")
        if len(answer) != len(right):
            raise CheckFailed(
                f"{where}you return {len(answer)} tensors, and the network has {len(right)} parameters: one "
                "gradient for each of them."
            )
        strangers = [type(g).__name__ for g in answer if not isinstance(g, Tensor)]
        if strangers:
            raise CheckFailed(f"{where}the list holds a {strangers[0]}: return a list of tensors.")
        shapes = [tuple(g.shape) for g in answer]
        if shapes != [tuple(g.shape) for g in right]:
            raise CheckFailed(
                f"{where}the gradients must have the shapes of the parameters, and have {shapes}."
            )
        _compare_average(list(answer), before, counts, right, where)
        if spoiled(snapshot(before), gradients):
            raise CheckFailed(
                f"{where}right, but the gradients of a rank have been changed on the way: begin with a new "
                "sum."
            )
        if handed != list(counts):
            raise CheckFailed(
                f"{where}right, but `counts` has been changed on the way: it is {handed} afterwards."
            )
        given = {id(g) for of_rank in gradients for g in of_rank}
        if any(id(g) in given for g in answer):
            raise CheckFailed(
                f"{where}right, but you hand back a rank's own tensor: whoever changes one then changes "
                "both. Return new tensors."
            )
    return f"the average is the gradient of all images together in {len(cases)} cases."


def _compare_average(
    answer: list[Tensor],
    gradients: list[list[Tensor]],
    counts: tuple[int, ...],
    right: list[Tensor],
    where: str,
) -> None:
    """Compare an average, and find out what went wrong.

    Raises:
        CheckFailed: if it differs.
    """

    def weighted(weights: Sequence[float]) -> list[Tensor]:
        columns = zip(*gradients, strict=True)
        return [sum(w * g for w, g in zip(weights, column, strict=True)) for column in columns]

    def is_right(other: list[Tensor]) -> bool:
        return all(
            torch.allclose(a.double(), b, rtol=1e-4, atol=1e-7) for a, b in zip(answer, other, strict=True)
        )

    if is_right(right):
        return
    ranks, total = len(counts), sum(counts)
    mistakes = (
        (
            [1 / ranks] * ranks,
            "this is the plain mean over the ranks. It gives each image of a small share more weight: weigh "
            "each rank by its number of images.",
        ),
        ([1.0] * ranks, "the gradients are added up: they are means already, so weigh and divide."),
        (list(map(float, counts)), "weighed, but not divided: divide by the number of all images."),
        (
            [count / total / ranks for count in counts],
            "divided once too often: the weights count / total add up to 1 already.",
        ),
        ([count / ranks for count in counts], "divide by the number of images, not of ranks."),
        (
            [1 / count if count else 0.0 for count in counts],
            "each rank's gradient is a mean already: multiply by its count, and do not divide by it.",
        ),
        (
            [count // total for count in counts],
            "count // total throws away the rest: divide with /.",
        ),
        (
            [count / max(counts) for count in counts],
            "divide by the number of all images, not by the largest share.",
        ),
        ([1.0] + [0.0] * (ranks - 1), "this is the first rank's gradient alone."),
        ([0.0] * (ranks - 1) + [1.0], "this is the last rank's gradient alone."),
        (
            [1 / total] * ranks,
            "divided by the images, but not weighed: multiply each rank's mean by its count.",
        ),
    )
    for weights, message in mistakes:
        if is_right(weighted(weights)):
            raise CheckFailed(where + message)
    if any(not torch.isfinite(g).all() for g in answer):
        raise CheckFailed(where + "a number is not finite: a rank may have no image at all.")
    raise CheckFailed(where + "this is not the gradient of the mean loss over all images.")
