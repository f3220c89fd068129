"""The exercises of chapter 5: sizes, parameters, a training step, an evaluation, a confusion matrix."""

import copy
import functools
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, models, probes
from resnetbook.checks.exercise import Exercise, Outcome

# ---- sizes

_PARTS = ("the stem", "conv2_x", "conv3_x", "conv4_x", "conv5_x")
_SIDES = (224, 96, 28, 97, 33, 100, 2, 1)


@functools.cache
def _real_sizes(side: int) -> list[int]:
    with torch.device("meta"):  # shapes without numbers
        network = models.d2l_resnet18()
    return [shape[-1] for shape in list(probes.shapes(network, (1, side, side)).values())[:5]]


def _first_size(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """Where the sizes part, if they are five whole numbers."""
    if part != "result":
        return None
    for mine, theirs in zip(given, right, strict=False):
        sizes = mine["result"].tolist() if hasattr(mine["result"], "tolist") else mine["result"]
        if not isinstance(sizes, list | tuple) or len(sizes) != 5:
            return f"after {', '.join(_PARTS)}."
        for stage, size, wanted in zip(_PARTS, sizes, theirs["result"], strict=True):
            if isinstance(size, int) and size != wanted:
                return f"After {stage} you have {size}, the network has {wanted}. {_FIRST_SIZE[stage]}"
    return None


_FIRST_SIZE = {stage: "Only the first convolution of a stage has stride 2." for stage in _PARTS} | {
    "the stem": "Mind padding and rounding: put each layer into the formula.",
    "conv2_x": "The first stage keeps the size: its stride is 1.",
}

map_sizes = Exercise(
    number="5.1",
    title="The sizes of the maps",
    minutes=10,
    level="easy",
    answer="""\
def map_sizes(side: int) -> list[int]:
    def out(n: int, kernel: int, stride: int, padding: int) -> int:
        return (n + 2 * padding - kernel) // stride + 1

    n = out(side, kernel=7, stride=2, padding=3)
    n = out(n, kernel=3, stride=2, padding=1)
    sizes = [n, n]  # after the stem, after conv2_x
    for _ in range(3):
        n = out(n, kernel=3, stride=2, padding=1)
        sizes.append(n)
    return sizes
""",
    cases=[(side,) for side in _SIDES],
    trusted=_real_sizes,
    slips="""
n = out(n, kernel=3, stride=2, padding=1)⏎    sizes -> sizes
    The convolution halves, and the max-pool halves once more.
kernel=7, stride=2, padding=3 -> kernel=7, stride=2, padding=0
or
[n, n] -> [side // 4, side // 4]; n = side // 4
    Mind padding and rounding: put each layer into the formula.
[n, n] -> [n, n := out(n, kernel=3, stride=2, padding=1)]
    The first stage keeps the size: its stride is 1.
[n, n]  # after the stem, after conv2_x⏎    for _ in range(3) -> [n, n, n]⏎    for _ in range(2)
    From conv3_x on, each stage halves once.
n = out(n, kernel=3, stride=2, padding=1)⏎        sizes -> n = n // 2⏎        sizes
    With a padding of 1, halving an odd size rounds up.
n = out(n, kernel=3, stride=2, padding=1)⏎        sizes -> n = (n + 3) // 4⏎        sizes
    Only the first convolution of a stage has stride 2.
""",
    explain=_first_size,
    forbidden={
        pattern: "The sizes are right, but PyTorch found them: your function uses {used}. Use the formula "
        "for the output size alone."
        for pattern in ("*Conv*", "*conv*", "*Pool*", "*pool*")
    },
    right=f"the sizes are the real network's, for images of side {', '.join(map(str, _SIDES))}.",
)


# ---- parameters

block_parameters = Exercise(
    number="5.2",
    title="The parameters of a block",
    minutes=10,
    level="medium",
    answer="""\
def block_parameters(in_channels: int, out_channels: int, stride: int = 1) -> int:
    conv1 = in_channels * out_channels * 9 + out_channels
    conv2 = out_channels * out_channels * 9 + out_channels
    norms = 2 * (2 * out_channels)
    projection = 0
    if stride != 1 or in_channels != out_channels:
        projection = in_channels * out_channels + out_channels
    return conv1 + conv2 + norms + projection
""",
    cases=((64, 64, 1), (64, 128, 2), (3, 6, 1), (6, 6, 2), (5, 5, 3)),
    trusted=lambda *case: probes.count_parameters(blocks.D2LResidual(*case)),
    slips="""
9 + out_channels -> 9
+ out_channels⏎    return -> + 2 * out_channels⏎    return
    That is the block of chapter 4: here each convolution has a bias, one number for each channel, and the
    projection has no norm.
+ out_channels⏎    return -> + 3 * out_channels⏎    return
    The projection has no norm here, only a bias.
+ out_channels⏎    return -> + 2 * out_channels⏎    return
    The projection has a bias here, and no norm.
 + out_channels⏎ -> ⏎
norms = 2 * (2 * out_channels) -> norms = 0
or
9 + out_channels -> 9
norms = 2 * (2 * out_channels) -> norms = 0
    Biases and batch norms are missing; both are learned.
9 + out_channels -> 9
or
2 * (2 * out_channels) -> 2 * out_channels
    2 · out_channels are missing. Either the biases of the 3×3 convolutions: here each has one for each
    channel. Or half of the batch norms: each learns a scale and a shift.
2 * (2 * out_channels) -> 0
    The two batch norms are missing.
2 * (2 * out_channels) -> 4 * (2 * out_channels)
    The running statistics of a batch norm are not learned, so they are no parameters.
projection = in_channels * out_channels + out_channels -> pass
    The projection is missing: where the shape changes there is a 1×1 convolution.
if stride != 1 or in_channels != out_channels -> if stride != 1
    The projection is missing where the channels change at stride 1.
if stride != 1 or in_channels != out_channels -> if in_channels != out_channels
    The projection is missing where there is a stride and the channels stay.
!= 1 or -> != 1 and
    A stride or new channels need a projection: write or, not and.
stride != 1 or -> stride == 2 or
    The projection is missing where the stride is neither 1 nor 2.
if stride != 1 or in_channels != out_channels -> if True
    There is no projection where the shape stays: the identity has no parameters.
+ out_channels⏎    return -> ⏎    return
    The bias of the projection is missing.
 + out_channels⏎ -> ⏎
    All biases are missing; here each convolution has them.
conv1 = in_channels * out_channels * 9 -> conv1 = out_channels * out_channels * 9
    The first convolution reads in_channels, not out_channels.
conv2 = out_channels * out_channels * 9 -> conv2 = in_channels * out_channels * 9
    The second convolution reads what the first one put out: out_channels.
 * 9 ->  * 3
    A 3×3 filter has nine weights for each input channel.
""",
    otherwise="Write down each layer with its numbers, and add them up again.",
    right="the counts are the module's, for five shapes, with and without a projection.",
    remarked={
        "Conv2d": "But your function builds {used} and counts what is there: the exercise is to write the "
        "formula, without PyTorch.",
    },
)


# ---- a training step


def _steps() -> list[tuple]:
    cases = []
    for seed, (num_images, lr, training) in enumerate(((8, 0.1, False), (5, 0.02, True))):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
        ).double()  # so that a small difference is one
        images = torch.randn(num_images, 1, 6, 6, dtype=torch.float64)
        labels = torch.randint(0, 4, (num_images,))
        # Gradients of an earlier step lie around, as they do in a real training.
        F.cross_entropy(model(images.flip(0) + 1), labels).backward()
        cases.append((model.train(training), images, labels, lr))
    return cases


def _step(solution: Callable, model: nn.Module, images: Tensor, labels: Tensor, lr: float) -> Outcome:
    training = model.training
    loss = solution(model, images, labels, lr)
    # A model that came in evaluation mode may be left in either.
    left = training and not all(module.training for module in model.modules())
    return {"result": loss, "left in evaluation mode": left}


def _moves(outcomes: list[Outcome], start: list[Outcome]) -> dict[str, Tensor]:
    part = "parameters of model"
    return {name: value - start[0][part][name] for name, value in outcomes[0][part].items()}


def _how_far(part: str, given: list[Outcome], right: list[Outcome], start: list[Outcome]) -> str | None:
    """What is wrong with a step, where it can be measured."""
    if part == "running statistics of model":
        return "the parameters are right, but these are not: run the model once, in training mode."
    if part != "parameters of model":
        return None
    mine, theirs = _moves(given, start), _moves(right, start)
    # The gradient of a bias in front of a norm is 0, but for rounding.
    still = [name for name, move in mine.items() if theirs[name].abs().max() > 1e-9 and not move.any()]
    if still:
        return f"{len(still)} of {len(mine)} parameter tensors have not moved: move every parameter."
    a, b = (torch.cat([move.flatten() for move in moves.values()]) for moves in (mine, theirs))
    factor = (a @ b / (b @ b)).item()
    if torch.allclose(a, factor * b, rtol=1e-6, atol=1e-12):
        return f"you go {factor:.4g} times as far as lr · gradient."
    return None


sgd_step = Exercise(
    number="5.3",
    title="A training step",
    minutes=15,
    level="medium",
    answer="""\
def sgd_step(model: nn.Module, images: Tensor, labels: Tensor, lr: float) -> float:
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= lr * parameter.grad
    return loss.item()
""",
    cases=_steps,
    drive=_step,
    first=("parameters of model", "running statistics of model", "result"),
    ignored=("gradients of model", "mode of model"),
    tolerance=1e-9,
    slips="""
parameter -= lr -> parameter = parameter - lr
    no parameter has moved. Is the step missing? Or is it `p = p - …`, which only gives the name p to a new
    tensor: change the parameter in place, with -=.
model.zero_grad() -> pass
    gradients add up from step to step: clear the old ones before backward().
model.train() -> model.eval()
or
model.train() -> pass
    the step was taken in evaluation mode: call model.train() first.
parameter -= lr -> parameter += lr
    the loss rises: you climb. Go *against* the gradient.
labels)⏎ -> labels, reduction="sum")⏎
    the step is too long: take the mean loss, not the sum over the batch.
return loss.item() -> return F.cross_entropy(model(images), labels).item()
or
return loss.item() -> return loss.item() * len(images)
    the step is right, but return the mean over the batch, computed before the step.
return loss.item() -> model.eval(); return loss.item()
    the step is right, but the model came in training mode and is left in evaluation mode: the next step
    would be wrong.
""",
    says={
        "parameters of model": "{call}: the parameters are not where one step puts them",
        "result": "the step is right, but {call} {problem}",
        "left in evaluation mode": "{call}",
    },
    errors={
        "leaf": "Moving a parameter is not a part of the computation: do it under torch.no_grad().",
    },
    otherwise={
        "parameters of model": (
            "plain SGD on the cross-entropy goes to parameter − lr · gradient, with no momentum, no weight "
            "decay and no label smoothing."
        ),
        "result": "return the mean over the batch, computed before the step.",
    },
    explain=_how_far,
    forbidden={"torch.optim.*.step": "the step is right, but {used} took it: move each parameter yourself."},
    right="weights, running statistics and loss are those of torch.optim.SGD.",
)


# ---- an evaluation

_BATCHES = ((300, 270), (300, 290), (70, 21))  # images, right answers: more than a byte can count


def _evaluations() -> list[tuple]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5))
    for _ in range(3):
        model(3 * torch.randn(8, 1, 3, 3) + 1)  # running statistics that are not the trivial 0 and 1
    batches = []
    model.eval()
    for size, num_right in _BATCHES:
        images = torch.randn(size, 1, 3, 3)
        with torch.no_grad():
            labels = model(images).argmax(1)
        labels[num_right:] = (labels[num_right:] + 1) % 5  # these answers are wrong
        batches.append((images, labels))
    return [(copy.deepcopy(model).train(mode), copy.deepcopy(batches)) for mode in (True, False)]


def _evaluate(solution: Callable, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Outcome:
    seen: list[tuple[bool, bool]] = []
    handle = model.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    with torch.enable_grad():
        share = solution(model, batches)
        left = torch.is_grad_enabled()
    handle.remove()
    return {
        "calls": bool(seen),
        "modes": any(training for training, _ in seen),
        "gradients": any(gradients for _, gradients in seen),
        "result": share,
        "switch": left,
    }


accuracy = Exercise(
    number="5.4",
    title="Evaluation",
    minutes=15,
    level="medium",
    answer="""\
@torch.no_grad()
def accuracy_of(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    was_training = model.training
    model.eval()
    num_correct, num_images = 0, 0
    for images, labels in batches:
        num_correct += (model(images).argmax(1) == labels).sum().item()
        num_images += len(labels)
    model.train(was_training)
    return num_correct / num_images
""",
    cases=_evaluations,
    drive=_evaluate,
    first=("calls", "modes", "gradients", "result", "mode of model", "switch", "requires_grad of model"),
    slips="""
model.eval() -> pass
or
model.eval() -> model.train()
    the model ran in training mode: call model.eval() before the first batch.
@torch.no_grad() -> @torch.enable_grad()
    gradients were recorded: evaluate under torch.no_grad().
return num_correct / num_images -> return num_correct
    this is the number of right answers: divide by the number of images.
return num_correct -> return 100 * num_correct
    return a share between 0 and 1, not percent.
 == labels ->  != labels
    this is the share of wrong answers.
num_correct += -> num_correct =
num_images += -> num_images =
    this is the last batch alone: add up over all batches.
.sum().item() -> .double().mean().item()
num_images += len(labels) -> num_images += 1
    this is the mean of the batches' accuracies. It gives images of a small batch more weight, and the last
    batch is smaller.
num_images += len(labels) -> num_images += len(batches[0][1])
    divide by the number of images, and not by batches times batch size: the last one is smaller.
num_images += len(labels) -> num_images += 1
    divide by the number of images, not of batches.
model.train(was_training) -> pass
or
model.train(was_training) -> model.train()
    the share is right, but the model came in one mode and is left in the other: put its mode back.
@torch.no_grad()⏎ -> ⏎
was_training = model.training -> was_training = model.training; torch.set_grad_enabled(False)
    the share is right, but gradients are left switched off for all that comes: use `with torch.no_grad():`,
    which switches them on again.
model.eval() -> model.eval().requires_grad_(False)
    the share is right, but the model's parameters are left without requires_grad, so that it can never train
    again: use torch.no_grad().
""",
    says={part: "{call}" for part in ("modes", "gradients", "switch")}
    | {
        "calls": "the model was never called: predict with model(images)",
    }
    | {
        part: "the share is right, but the model has other numbers in it than before"
        for part in ("running statistics of model", "parameters of model")
    },
    otherwise={
        "result": f"{sum(r for _, r in _BATCHES)} of {sum(n for n, _ in _BATCHES)} answers are right: count "
        "where the largest logit is at the label, and divide once, at the end."
    },
    right="the share is right with a smaller last batch, and the model's mode is as it was.",
)


# ---- a confusion matrix


def _predictions() -> list[tuple]:
    cases = []
    # The last two hold more images of one kind than one byte, and two bytes with a sign, can count.
    sizes = ((40, 4, 3), (300, 10, 10), (1, 2, 1), (2_000, 2, 2), (70_000, 2, 1))
    for seed, (num_images, num_classes, num_used) in enumerate(sizes):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(0, num_used, (num_images,), generator=generator)
        wrong = torch.rand(num_images, generator=generator) < 0.4
        cases.append((truth, torch.where(wrong, (truth + 1) % num_used, truth), num_classes))
    return cases


def _counted(truth: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for (row, column), count in Counter(zip(truth.tolist(), predictions.tolist(), strict=True)).items():
        matrix[row, column] = count
    return matrix


def _counts_for(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """What the sum of a matrix tells, and a count that did not fit."""
    if part != "result":
        return None
    for mine, theirs in ((m["result"], t["result"]) for m, t in zip(given, right, strict=False)):
        if not isinstance(mine, Tensor) or mine.shape != theirs.shape:
            return None
        if mine.dtype.is_floating_point or mine.dtype == torch.bool:
            return f"integer counts are asked for, and these are {mine.dtype}: .to(torch.int64)."
        if torch.equal(mine.long(), theirs):
            continue
        if torch.equal(mine, theirs.to(mine.dtype)):
            i = (mine != theirs).nonzero()[0].tolist()
            return (
                f"a count of {theirs[*i]:,} has become {mine[*i]:,}: {mine.dtype} cannot hold it. Count in "
                "torch.int64."
            )
        if mine.sum() != theirs.sum():
            return f"it counts for {mine.sum():,} images, and there are {theirs.sum():,}."
        return None
    return None


confusion_matrix = Exercise(
    number="5.5",
    title="A confusion matrix",
    minutes=15,
    level="medium",
    answer="""\
def confusion_matrix(truth: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    pairs = truth * num_classes + predictions
    counts = torch.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)
""",
    cases=_predictions,
    trusted=_counted,
    slips="""
num_classes)⏎ -> num_classes).T⏎
    it is transposed: true classes belong in the rows, predictions in the columns.
return counts -> return (counts > 0).long()
    each pair is counted once: with repeated indices, `matrix[truth, predictions] += 1` adds only once.
pairs = truth -> num_classes = int(max(truth.max(), predictions.max())) + 1; pairs = truth
    classes that never occur have a row and a column too.
num_classes)⏎ -> num_classes) / counts.reshape(num_classes, num_classes).sum(1, keepdim=True).clamp(min=1)⏎
or
num_classes)⏎ -> num_classes) / len(truth)⏎
    return counts, not shares: how many images, row by row.
""",
    explain=_counts_for,
    otherwise="the sum is right, but some counts are in the wrong cell: row = truth, column = prediction.",
    right="the counts are those of counting one by one, also for classes that never occur.",
)
