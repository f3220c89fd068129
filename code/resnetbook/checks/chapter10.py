"""The exercises of chapter 10: loss scaler, learning rate, accumulation and activation checkpointing."""

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from resnetbook.checks.common import CheckFailed, as_real
from resnetbook.checks.exercise import Exercise, Outcome, difference

# ---- a dynamic loss scaler


def _gradients(seed: int, scale: float, bad: str | None = None) -> list[Tensor]:
    """Three gradients as backward would leave them, one of them spoiled on request."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator) * scale for shape in ((3, 2), (4,), (2, 2, 2))]
    if bad is not None:
        # Not the first, so that it is not enough to look there.
        found[1][2] = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[bad]
    return found


class _TorchScaler:
    """``torch.amp.GradScaler``, with the methods of the exercise."""

    def __init__(self, scale: float, growth_interval: int) -> None:
        self._scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=growth_interval
        )
        self._scaler.scale(torch.zeros(()))  # it sets itself up when it is first used
        self.scale = self._scaler.get_scale()

    def update(self, gradients: list[Tensor]) -> bool:
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        finite = all(gradient.isfinite().all() for gradient in gradients)
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        self._scaler.step(optimizer)
        self._scaler.update()
        self.scale = self._scaler.get_scale()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            gradient.copy_(-parameter.detach())  # a step of lr 1 from 0
        return finite


def _story(written: Callable, events: Sequence[str | None], scale: float, growth_interval: int) -> Outcome:
    """What a scaler says and does while gradients come, some of them spoiled."""
    scaler = written(scale, growth_interval)
    if scaler is None:
        raise CheckFailed("It gives None: does the function end with `return`? A class is asked for.")

    def now() -> float:
        value = getattr(scaler, "scale", None)
        return as_real(value, "scaler.scale is {value!r}: keep the scale there, as a number.")

    told, shown = [], {"scale at the start": now()}
    for seed, bad in enumerate(events):
        gradients = _gradients(seed, now(), bad)
        in_network = list(gradients)  # what the parameters' .grad would still point to
        if not callable(getattr(scaler, "update", None)):
            raise CheckFailed("The scaler has no method update(gradients).")
        answer = scaler.update(gradients)
        told.append(bad or "good")
        after = f"after {', '.join(told)}"
        shown[f"answer {after}"] = answer
        if bad is None:
            shown[f"gradients {after}"] = in_network
            shown[f"list {after}"] = gradients
        shown[f"scale {after}"] = now()
    return shown


def _why_scaler(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """The rule that a wrong answer, gradient or scale breaks."""
    kind, _, told = part.partition(" after ")
    last = told.rpartition(", ")[2]
    if kind == "answer":
        mine = next(outcome[part] for outcome in given if part in outcome)
        if not isinstance(mine, bool | np.bool_ | Tensor):
            return "return True if the step may be taken, and False if not."
        if last == "good":
            return "all gradients are finite, and you return False: this step is to be taken."
        return "look at every gradient, and skip the step if one number is not finite."
    if kind == "list":
        return "divide the numbers in place, and keep the list."
    if kind == "gradients":
        return "they are not those of the loss: divide each by the scale, once."
    if last == "good":
        return "a good step alone leaves the scale as it is; after growth_interval of them it doubles, once."
    return "halve the scale once for each step that overflows, whatever it was before."


loss_scaler = Exercise(
    number="10.1",
    title="A dynamic loss scaler",
    minutes=20,
    level="medium",
    answer="""\
class LossScaler:
    def __init__(self, scale: float, growth_interval: int) -> None:
        self.scale = scale
        self.growth_interval = growth_interval
        self.good_steps = 0

    def update(self, gradients: list[Tensor]) -> bool:
        if not all(torch.isfinite(gradient).all() for gradient in gradients):
            self.scale /= 2
            self.good_steps = 0
            return False
        for gradient in gradients:
            gradient /= self.scale
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale *= 2
            self.good_steps = 0
        return True
""",
    cases=(
        ([None, None, "inf", None, None, None, None, None, None], 1024.0, 3),
        ([None, None, "inf", None, "nan", "-inf", None, None, None, None, None], 64.0, 2),
        (["inf", "inf", None, None, None], 65536.0, 1),
        (["nan", "inf", None, None], 1.0, 2),  # down to a fraction
    ),
    trusted=_TorchScaler,
    drive=_story,
    form="LossScaler({1}, {2})",
    tolerance=1e-4,
    slips="""
not all(torch.isfinite(gradient).all() for gradient in gradients) -> False
or
for gradient in gradients): -> for gradient in gradients[:1]):
    one number in the second of three gradients is not finite, and you return True: look at every gradient,
    and skip the step if one number is not finite.
not all(torch.isfinite(gradient).all() -> any(torch.isinf(gradient).any()
    one number is nan, and you return True. An overflow can end as nan as well (inf − inf): torch.isfinite
    knows both.
return False -> return True
return True -> return False
    all gradients are finite, and you return False: this step is to be taken.
self.good_steps = 0⏎            return False -> return False
    an overflow starts the count anew: it takes growth_interval good steps in a row since the last one.
self.scale /= 2 -> pass
    an overflow halves the scale.
/= 2 -> //= 2
    // 2 throws away the rest, and a scale may be less than 1: divide with /.
gradient /= self.scale -> pass
or
gradient /= self.scale -> gradient = gradient / self.scale
    you take the step, but the gradients are still those of the scaled loss: divide them by the scale, in
    place (gradient /= scale changes the tensor, gradient = gradient / scale only the name).
for gradient in gradients:⏎ -> for i, gradient in enumerate(gradients):⏎
gradient /= self.scale -> gradients[i] = gradient / self.scale
    you put new tensors into the list, and the network still has the old ones: change the tensors themselves,
    with gradient /= scale or gradient.div_(scale).
in gradients:⏎ -> in gradients[:1]:⏎
    only the first gradient was divided: divide all of them.
gradient /= -> gradient *=
    you multiply by the scale. The loss was multiplied already: divide the gradients.
for gradient in gradients:⏎            gradient /= self.scale⏎ -> before = self.scale⏎
return True -> [gradient.div_(self.scale) for gradient in gradients]; return True
    you divide by the new scale, after doubling it. The loss was multiplied with the old one: divide first.
self.scale *= 2 -> pass
    after growth_interval good steps in a row the scale doubles.
self.scale *= 2⏎            self.good_steps = 0 -> self.scale *= 2
self.good_steps == -> self.good_steps >=
    after doubling, count anew: the next doubling comes growth_interval good steps later.
""",
    explain=_why_scaler,
    right="steps, gradients and scale are those of torch.amp.GradScaler over 29 steps.",
)


# ---- the learning rate

_WARMUP = (
    *((0, 256, 10), (0, 8192, 10), (7, 8192, 10), (25, 8192, 10), (49, 8192, 10)),
    *((3, 64, 4), (0, 300, 1), (2, 300, 1), (2_000, 2048, 626)),
)
_LATER = (
    *((50, 8192, 10), (51, 8192, 10), (40, 64, 4), (299, 8192, 10), (300, 8192, 10), (330, 1024, 10)),
    *((599, 8192, 10), (600, 1024, 10), (650, 1024, 10), (799, 300, 10), (800, 512, 10), (899, 8192, 10)),
    *((30, 300, 1), (123_000, 2048, 626)),
)


def _after_warmup(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """The plan of the epochs after the warm-up, where that much is right."""
    pairs = zip(given[: len(_WARMUP)], right, strict=False)
    if part != "result" or any(difference(mine[part], theirs[part]) for mine, theirs in pairs):
        return None
    return (
        "The warm-up is right. After it comes the full rate, 0.1 for each 256 images, divided by 10 at the "
        "beginning of epochs 30, 60 and 80, so by 1,000 in all: work out the rate at the end of the warm-up "
        "and one step before and after each of these, on paper."
    )


scaled_lr = Exercise(
    number="10.2",
    title="Linear scaling and warm-up",
    minutes=10,
    level="easy",
    answer="""\
def scaled_lr(step: int, batch_size: int, steps_per_epoch: int) -> float:
    full = 0.1 * batch_size / 256
    warmup_steps = 5 * steps_per_epoch
    if step < warmup_steps:
        return 0.1 + (full - 0.1) * step / warmup_steps
    decays = sum(step >= epoch * steps_per_epoch for epoch in (30, 60, 80))
    return full * 0.1**decays
""",
    cases=(*_WARMUP, *_LATER),
    slips="""
0.1 * batch_size / 256 -> 0.1
    The batch size changes nothing: the rate is 0.1 for each 256 images of the batch.
0.1 * batch_size / 256 -> 0.1 * math.sqrt(batch_size / 256)
    You scale by the square root. The linear rule multiplies the rate by batch_size / 256.
batch_size / 256 -> 256 / batch_size
    A larger batch gets a larger rate, not a smaller one: batch_size / 256.
batch_size / 256 -> (batch_size // 256)
    batch_size // 256 throws away the rest, so 64 images would get a rate of 0: divide with /.
batch_size / 256 -> batch_size
    The full rate is 0.1 for each 256 images of the batch, not for each image: divide by 256.
if step < warmup_steps -> if False
    The warm-up is missing: five epochs from 0.1 to the full rate.
0.1 + (full - 0.1) * -> full *
    The warm-up begins at 0. It begins at 0.1, the rate that is known to work for 256 images.
step / warmup_steps -> (step // steps_per_epoch) / 5
    The rate rises in jumps, once an epoch. Let it rise a little at every step.
step / warmup_steps -> (step + 1) / warmup_steps
    Step 0 is the first step, and it has the rate 0.1 exactly: no step + 1.
step / warmup_steps -> step / (warmup_steps - 1)
    The full rate comes after five epochs, at step 5 · steps_per_epoch, not one step earlier.
5 * steps_per_epoch -> steps_per_epoch
    The warm-up takes five epochs, and step counts steps: 5 · steps_per_epoch of them.
5 * steps_per_epoch -> 5
epoch * steps_per_epoch -> epoch
or
5 * steps_per_epoch -> 5
    step counts steps, not epochs: the warm-up ends with step 5 · steps_per_epoch.
return 0.1 + (full - 0.1) * step / warmup_steps -> return min(0.1 + (full - 0.1) * step / warmup_steps, full)
    For a batch below 256 the warm-up goes down from 0.1 to the full rate; you cut it off.
return 0.1 + (full - 0.1) * step / warmup_steps -> return max(0.1 + (full - 0.1) * step / warmup_steps, 0.1)
or
full = 0.1 * batch_size / 256 -> full = max(0.1 * batch_size / 256, 0.1)
    For a batch below 256 the full rate is below 0.1, and the warm-up goes down to it.
in (30, 60, 80) -> in (35, 65, 85)
    Epochs count from the beginning of training, the warm-up included.
in (30, 60, 80) -> in (29, 59, 79)
    The first epoch has the number 0, so epoch 30 begins with step 30 · steps_per_epoch.
return full * 0.1**decays -> return full
    The three divisions by 10 are missing, at epochs 30, 60 and 80.
0.1**decays -> 0.1 ** min(decays, 1)
or
in (30, 60, 80) -> in (30,)
    The rate is divided by 10 three times: after epoch 80 it is a thousandth of the full rate.
step >= -> step >
    Epoch 30 begins with step 30 · steps_per_epoch: compare with >=.
0.1**decays -> 0.5**decays
    Each time the rate is divided by 10, not by 2.
(30, 60, 80) -> (30, 60, 90)
    The third division comes with epoch 80: epoch 90 is after the end.
>= epoch * steps_per_epoch -> >= epoch
    step counts steps, not epochs: epoch 30 begins with step 30 · steps_per_epoch.
return full * 0.1**decays -> return max(full * 0.1**decays, 0.1)
    For a batch below 256 the full rate is below 0.1, and after each decay it is lower still.
""",
    explain=_after_warmup,
    otherwise="Work out the rate at step 0, in the middle of the warm-up, and at its end, on paper.",
    right=f"the rate is right at {len(_WARMUP) + len(_LATER)} steps, in the warm-up and after each decay.",
)


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


def _accumulations() -> list[tuple]:
    cases = []
    # An uneven one first: it tells mistakes apart.
    for seed, (num_images, part_size) in enumerate(((10, 4), (12, 4), (7, 3), (5, 8), (9, 8), (6, 1))):
        torch.manual_seed(seed)
        model = _Watched().double()
        if seed % 3 == 1:
            model.body[3].eval()  # one layer frozen
        elif seed % 3 == 2:
            model.eval()
        images = torch.randn(num_images, 1, 3, 4, dtype=torch.float64)
        labels = torch.randint(0, 5, (num_images,))
        # Gradients of an earlier step lie around, as they do in a real training.
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        cases.append((model, images, labels, part_size))
    return cases


def _whole_batch(model: nn.Module, images: Tensor, labels: Tensor, part_size: int) -> float:
    """The gradient of the whole batch, computed at once; the network sees the parts as it is to."""
    for x, y in zip(images.split(part_size), labels.split(part_size), strict=True):
        F.cross_entropy(model(x), y).backward()
    loss = F.cross_entropy(model.body(images), labels)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    return loss.item()


def _accumulate(
    written: Callable, model: nn.Module, images: Tensor, labels: Tensor, part_size: int
) -> Outcome:
    modes = _modes(model)
    model.forget()
    loss = written(model, images, labels, part_size)
    sizes = [size for size in model.events if size]
    first_backward = model.events.index(0) if 0 in model.events else len(model.events)
    return {
        "modes left": _modes(model) == modes,
        "modes run": all(mode == modes for mode in model.modes),
        "called": bool(sizes),
        "largest part": max(sizes, default=0) <= part_size,
        "images seen": sum(sizes),
        "at once": len(sizes) > 1 and first_backward >= len(sizes) and 0 in model.events,
        "backward": 0 in model.events,
        "every gradient": all(parameter.grad is not None for parameter in model.parameters()),
        "memory": model.held + model.still_held(),
        "result": loss,
    }


accumulate = Exercise(
    number="10.3",
    title="Gradient accumulation",
    minutes=15,
    level="medium",
    answer="""\
def accumulate(
    model: nn.Module, images: Tensor, labels: Tensor, part_size: int
) -> float:
    model.zero_grad()
    total = 0.0
    for x, y in zip(images.split(part_size), labels.split(part_size)):
        share = len(y) / len(labels)
        loss = F.cross_entropy(model(x), y) * share
        loss.backward()
        total += loss.item()
    return total
""",
    cases=_accumulations,
    trusted=_whole_batch,
    drive=_accumulate,
    first=(
        *("modes left", "modes run", "parameters of model", "called", "largest part", "images seen"),
        *("backward", "every gradient", "gradients of model", "memory", "at once", "result"),
    ),
    ignored=("mode of model", "own parameters of model"),
    tolerance=1e-6,
    slips="""
return total -> model.train(); return total
or
return total -> model.eval(); return total
    the network, or a layer of it, is left in another mode. Whether norms and dropout train is the caller's
    choice (a layer may be frozen): call neither train() nor eval().
model.zero_grad() -> model.zero_grad(); before = [m.training for m in model.modules()]; model.eval()
return total -> [setattr(m, "training", b) for m, b in zip(model.modules(), before)]; return total
    the images go through a network in another mode than it came in: its gradient is another one where there
    is a norm or dropout. Call neither train() nor eval().
return total -> torch.optim.SGD(model.parameters(), lr=0.1).step(); return total
    the weights have moved. Leave the gradient in .grad, and take no step.
images.split(part_size), labels.split(part_size) -> images.split(len(images)), labels.split(len(images))
    more images went through the network at once than part_size allows.
labels.split(part_size)): -> list(labels.split(part_size))[: max(1, len(labels) // part_size)]):
    the last, smaller part is missing.
loss.backward()⏎        total += loss.item() -> total += loss
return total -> total.backward(); return total.item()
    all parts go forward before the first backward(). Until then what each part has computed stays in memory,
    so nothing is saved: call backward() for each part at once.
model.zero_grad()⏎ -> model.zero_grad()⏎    images = images + 0⏎
loss.backward() -> pass
    a parameter has no gradient: call backward() on the loss of each part.
return total -> model.zero_grad(); return total
    backward() was called, but at the end there is no gradient: clear .grad before the first part, and leave
    it alone after the last.
model.zero_grad() -> pass
    gradients of an earlier step are still in there: clear them once, before the first part.
share = len(y) / len(labels) -> share = 1 / -(-len(labels) // part_size)
    every part counts alike, and the last one is smaller: weigh each part's mean loss by its share of the
    images.
share = len(y) / len(labels) -> share = 1
    the parts' means are added up as they are: weigh each by its share of the images.
share = len(y) / len(labels) -> share = 1 / len(labels)
    a part's mean loss is divided by the number of all images: multiply it by the part's own number as well,
    or use the sum.
share = len(y) / len(labels) -> share = 1 / len(y)
    a part's mean loss is divided by its images already: weigh it by its share of the batch.
share = len(y) / len(labels) -> share = 1 / max(len(labels) // part_size, 1)
    len(images) // part_size does not count the smaller part: weigh each part by its share of the images.
loss.backward()⏎        total += loss.item() -> total = total + loss; total.backward(retain_graph=True)
return total -> return total.item()
    the first parts count several times: call backward() on each part's own loss, not on a total.
share = len(y) / len(labels) -> share = len(y)
    this is the gradient of the sum over the images: divide by their number.
share = len(y) / len(labels) -> share = len(y) / part_size
    this is divided by part_size: divide by the number of images in the whole batch.
share = len(y) / len(labels) -> share = part_size / len(labels)
    the last part is smaller than part_size: weigh it with its real number of images.
share = len(y) -> model.zero_grad(); share = len(y)
or
share = len(y) / len(labels) -> model.zero_grad(); share = 1
or
share = len(y) / len(labels) -> model.zero_grad(); share = 1 / -(-len(labels) // part_size)
    only the last part is left: clear the gradients once, before the first part.
loss.backward() -> loss.backward(retain_graph=True); model.losses = [*getattr(model, "losses", []), loss]
    the gradients are right, but the memory of a part is still held when the next one begins, or at the end.
    backward() frees it, unless it is told to retain_graph, or comes too late: one backward() for each part,
    before the next part.
total += loss.item() -> total = loss.item()
or
total += loss.item() -> total = loss.item() / share
or
total += loss.item() -> total += loss.item() / share
    the gradients are right, but not the mean loss that you return: weigh the parts as you did for the
    gradients.
""",
    says={part: "{call}" for part in ("modes left", "modes run", "at once", "every gradient", "memory")}
    | {
        "called": "{call}: the model was never called",
        "largest part": "{call}",
        "backward": "{call}",
        "parameters of model": "{call}",
        "images seen": "{call}: the number of images that went through the network {problem}",
        "gradients of model": "{call}: the gradients are not those of the whole batch",
        "result": "the gradients are right, but {call} {problem}",
    },
    otherwise={
        "largest part": "more images went through the network at once than part_size allows.",
        "parameters of model": "the weights have moved. Leave the gradient in .grad, and take no step.",
        "backward": "a parameter has no gradient: call backward() on the loss of each part.",
        "every gradient": "a parameter has no gradient: call backward() on the loss of each part.",
        "gradients of model": "the gradient is not that of the mean loss of all images.",
        "memory": (
            "the gradients are right, but the memory of a part is still held when the next one begins, or at "
            "the end. backward() frees it, unless it is told to retain_graph, or comes too late: one "
            "backward() for each part, before the next part."
        ),
        "modes left": "leave the network's mode as it is: call neither train() nor eval().",
        "modes run": (
            "the images go through a network in another mode than it came in: its gradient is another one "
            "where there is a norm or dropout. Call neither train() nor eval()."
        ),
        "result": "return the mean loss of all images, as a number.",
    },
    right="gradients and loss are those of the whole batch in 6 cases, with uneven parts too.",
)


# ---- activation checkpointing


class _Segment(nn.Module):
    """One of several segments of a network; they note together how many of them hold memory at a time."""

    def __init__(self, notes: dict, *layers: nn.Module) -> None:
        super().__init__()
        self.notes, self.body = notes, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        notes = self.notes
        notes["held"] = max(notes["held"], _holding(notes))
        of_this: list[weakref.ref] = []
        notes["kept"].append(of_this)

        def pack(tensor: Tensor) -> _Kept:
            kept = _Kept(tensor)
            of_this.append(weakref.ref(kept))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            return self.body(x)


def _holding(notes: dict) -> int:
    """How many forward passes of segments have something of their memory left."""
    return sum(any(kept() is not None for kept in of_one) for of_one in notes["kept"])


def _segmented() -> list[tuple]:
    cases = []
    for seed, (num_images, num_segments) in enumerate(((6, 3), (5, 2), (4, 5), (3, 1))):
        torch.manual_seed(seed)
        notes: dict = {"held": 0, "kept": []}
        widths = [12, *(9 - i for i in range(num_segments - 1)), 5]
        segments = [
            _Segment(
                notes, *([nn.Flatten()] if i == 0 else []), nn.Linear(widths[i], widths[i + 1]), nn.Tanh()
            )
            for i in range(num_segments)
        ]
        model = nn.Sequential(*segments).double()
        images = torch.randn(num_images, 1, 3, 4, dtype=torch.float64)
        labels = torch.randint(0, 5, (num_images,))
        # Gradients of an earlier step lie around, as they do in a real training.
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        cases.append((model, images, labels))
    return cases


def _by_pytorch(model: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """PyTorch's own checkpointing of each segment."""
    model.zero_grad()
    x = images.clone().requires_grad_()  # else PyTorch sees no reason for a gradient
    for segment in model:
        x = checkpoint(segment, x, use_reentrant=True)
    loss = F.cross_entropy(x, labels)
    loss.backward()
    return loss.item()


def _in_segments(written: Callable, model: nn.Sequential, images: Tensor, labels: Tensor) -> Outcome:
    notes = model[0].notes
    notes.update(held=0, kept=[])
    loss = written(model, images, labels)
    return {
        "called": len(notes["kept"]) > 0,
        "every gradient": all(parameter.grad is not None for parameter in model.parameters()),
        "memory": notes["held"] + _holding(notes),
        "result": loss,
    }


backward_in_segments = Exercise(
    number="10.4",
    title="Checkpointing by hand",
    minutes=20,
    level="medium",
    answer="""\
def backward_in_segments(
    model: nn.Sequential, images: Tensor, labels: Tensor
) -> float:
    model.zero_grad()
    inputs = [images]
    with torch.no_grad():
        for segment in model[:-1]:
            inputs.append(segment(inputs[-1]))
    gradient = None
    for segment, x in zip(reversed(model), reversed(inputs)):
        x = x.detach().requires_grad_()
        out = segment(x)
        if gradient is None:
            loss = F.cross_entropy(out, labels)
            loss.backward()
        else:
            out.backward(gradient)
        gradient = x.grad
    return loss.item()
""",
    cases=_segmented,
    trusted=_by_pytorch,
    drive=_in_segments,
    first=("called", "parameters of model", "every gradient", "gradients of model", "memory", "result"),
    tolerance=1e-6,
    slips="""
torch.no_grad() -> torch.enable_grad()
    the first pass is recorded, so the maps of all segments are in memory at once: put it under
    torch.no_grad().
loss.backward() -> loss.backward(retain_graph=True)
or
out.backward(gradient) -> out.backward(gradient, retain_graph=True)
    with retain_graph a segment keeps its maps when its turn is over: leave it out.
model.zero_grad() -> pass
    gradients of an earlier step are still in there: clear them first.
return loss.item() -> model.zero_grad(); return loss.item()
    a parameter has no gradient: clear .grad before the first pass only.
loss.backward()⏎ -> pass⏎
x = x.detach().requires_grad_() -> x = x.detach()
or
x = x.detach().requires_grad_() -> x = x.detach()
    x.grad is None: an input gets a gradient only if it asks for one, by x.detach().requires_grad_().
gradient = x.grad -> gradient = torch.ones_like(x)
    the gradient that a segment goes on from is not right: it is x.grad of the segment behind it, where x is
    that one's input.
return loss.item() -> torch.optim.SGD(model.parameters(), lr=0.1).step(); return loss.item()
    the weights have moved. Leave the gradients in .grad, and take no step.
return loss.item() -> return loss.item() / len(labels)
    the gradients are right, but not the loss that you return: cross_entropy is the mean over the images
    already.
""",
    says={part: "{call}" for part in ("every gradient", "memory", "parameters of model")}
    | {
        "called": "{call}: no segment was ever called",
        "gradients of model": "{call}: the gradients are not those of the whole network at once",
        "result": "the gradients are right, but {call} {problem}",
    },
    errors={
        "grad can be implicitly created only for scalar outputs": (
            "x.grad is None: an input gets a gradient only if it asks for one, by "
            "x.detach().requires_grad_()."
        ),
    },
    otherwise={
        "every gradient": "a parameter has no gradient: go back through every segment.",
        "gradients of model": "go from the last segment to the first, and hand x.grad on as you go.",
        "memory": (
            "the maps of more than one segment are in memory at the same time. Go forward under "
            "torch.no_grad(), keep the segments' inputs only, and compute one segment again at a time."
        ),
        "result": "return the mean loss of all images, as a number.",
    },
    forbidden={"*checkpoint*": "It is right, but it is PyTorch's own: do without torch.utils.checkpoint."},
    right="gradients and loss are PyTorch's in 4 networks, and one segment is in memory at a time.",
)
