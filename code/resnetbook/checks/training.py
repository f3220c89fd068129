"""A training step, an evaluation, a confusion matrix."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from resnetbook.checks.common import CheckFailed, answer_of, as_real, call_reader, exercise, kept


def _sgd_reference(model: nn.Module, images: Tensor, labels: Tensor, lr: float, stale: bool) -> float:
    """One step of ``torch.optim.SGD`` in the model's mode; ``stale`` adds to the old gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if not stale:
        optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def _copy_gradients(source: nn.Module, target: nn.Module) -> None:
    """Copy the gradients, which ``copy.deepcopy`` leaves out."""
    for old, new in zip(source.parameters(), target.parameters(), strict=True):
        new.grad = old.grad.clone()


def _moves(before: nn.Module, after: nn.Module) -> list[Tensor]:
    """By how much each parameter changed."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return [(new - old).detach() for old, new in pairs]


def _close(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-12) for a, b in zip(first, second, strict=True))


@contextmanager
def _optimizers() -> Iterator[list[str]]:
    """Note each step that an optimizer of PyTorch takes."""
    taken: list[str] = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: taken.append(type(optimizer).__name__))
    try:
        yield taken
    finally:
        handle.remove()


@exercise
def sgd_step(solution: Callable[[nn.Module, Tensor, Tensor, float], float]) -> str:
    """Check ``sgd_step(model, images, labels, lr)`` against one step of ``torch.optim.SGD``.

    Raises:
        CheckFailed: if weights, running statistics or the returned loss differ, if ``torch.optim`` took the
            step, or if something is left otherwise than it was.
    """
    call = "sgd_step(model, images, labels, lr)"
    for seed, (num_images, lr, training) in enumerate(((8, 0.1, False), (5, 0.02, True))):
        torch.manual_seed(seed)
        start = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
        ).double()  # so that a small difference is one
        images = torch.randn(num_images, 1, 6, 6, dtype=torch.float64)
        labels = torch.randint(0, 4, (num_images,))
        # Gradients of an earlier step lie around, as they do in a real training.
        F.cross_entropy(start(images.flip(0) + 1), labels).backward()
        start.train(training)

        right = copy.deepcopy(start).train()
        loss = _sgd_reference(right, images, labels, lr, stale=False)
        mine = copy.deepcopy(start)
        _copy_gradients(start, mine)
        parameters = list(mine.parameters())
        try:
            with kept(call, images=images, labels=labels), _optimizers() as optimizers:
                given = call_reader(solution, mine, images, labels, lr, describe=call, begun=seed > 0)
        except CheckFailed as failure:
            if "leaf" in str(failure):
                raise CheckFailed(
                    f"{failure} Moving a parameter is not a part of the computation: do it under "
                    "torch.no_grad()."
                ) from failure
            raise
        _compare_step(start, right, mine, images, labels, lr)
        if optimizers:
            raise CheckFailed(
                f"the step is right, but torch.optim.{optimizers[0]} took it: move each parameter yourself."
            )
        _compare_left(mine, parameters, training)
        if isinstance(given, Tensor) and given.requires_grad:
            raise CheckFailed(
                f"the step is right, but {call} gives {given!r}, which holds the whole computation: return "
                f"the loss as a number, with .item()."
            )
        given = as_real(
            given,
            f"the step is right, but {call} gives {{value!r}}: return the loss as a number, with .item().",
        )
        if abs(given - loss) > 1e-5:
            raise CheckFailed(
                f"the step is right, but you return {given:.4f} and the loss before the step is {loss:.4f}: "
                "return the mean over the batch, computed before the step."
            )
    return "weights, running statistics and loss are those of torch.optim.SGD."


def _compare_left(mine: nn.Module, parameters: list[nn.Parameter], training: bool) -> None:
    """See that the model can go on training.

    Raises:
        CheckFailed: if its mode, its parameters or its gradients are not fit for the next step.
    """
    if training and not all(module.training for module in mine.modules()):
        raise CheckFailed(
            "the step is right, but the model came in training mode and is left in evaluation mode: the next "
            "step would be wrong."
        )
    if [id(p) for p in mine.parameters()] != [id(p) for p in parameters]:
        raise CheckFailed(
            "the numbers are right, but the model has new parameters in place of its own, which others may "
            "hold: change each in place, with -=."
        )
    if not all(p.requires_grad and p.is_leaf for p in parameters):
        raise CheckFailed("the step is right, but a parameter does not ask for its gradient any more.")
    if any(p.grad is not None and p.grad.requires_grad for p in parameters):
        raise CheckFailed(
            "the step is right, but the gradients hold the whole computation: leave create_graph out."
        )


def _compare_step(
    start: nn.Module, right: nn.Module, mine: nn.Module, images: Tensor, labels: Tensor, lr: float
) -> None:
    """Compare the reader's step with the right one, and find out what went wrong.

    Raises:
        CheckFailed: if they differ.
    """
    expected, given = _moves(start, right), _moves(start, mine)
    if not _close(expected, given):
        if not any(move.any() for move in given):
            raise CheckFailed(
                "no parameter has moved. Is the step missing? Or is it `p = p - …`, which only gives the "
                "name p to a new tensor: change the parameter in place, with -=."
            )
        # The gradient of a bias in front of a norm is 0, but for rounding.
        still = [i for i, move in enumerate(given) if expected[i].abs().max() > 1e-9 and not move.any()]
        if still:
            raise CheckFailed(
                f"{len(still)} of {len(given)} parameter tensors have not moved: move every parameter."
            )
        stale = copy.deepcopy(start).train()
        _copy_gradients(start, stale)
        _sgd_reference(stale, images, labels, lr, stale=True)
        if _close(_moves(start, stale), given):
            raise CheckFailed("gradients add up from step to step: clear the old ones before backward().")
        evaluating = copy.deepcopy(start).eval()
        _sgd_reference(evaluating, images, labels, lr, stale=False)
        if _close(_moves(start, evaluating), given):
            raise CheckFailed("the step was taken in evaluation mode: call model.train() first.")
        flat_given, flat_expected = (torch.cat([m.flatten() for m in moves]) for moves in (given, expected))
        factor = (flat_given @ flat_expected / (flat_expected @ flat_expected)).item()
        if _close([move * factor for move in expected], given):
            if abs(factor + 1) < 1e-6:
                raise CheckFailed("the loss rises: you climb. Go *against* the gradient.")
            if abs(factor - len(images)) < 1e-6:
                raise CheckFailed("the step is too long: take the mean loss, not the sum over the batch.")
            raise CheckFailed(f"you go {factor:.4g} times as far as lr · gradient.")
        raise CheckFailed(
            "the parameters are not where plain SGD on the cross-entropy puts them: parameter − lr · "
            "gradient, with no momentum, no weight decay and no label smoothing."
        )
    for (name, theirs), ours in zip(right.named_buffers(), mine.buffers(), strict=True):
        if not torch.allclose(theirs, ours, rtol=1e-6, atol=1e-12):
            raise CheckFailed(
                f"the parameters are right, but the running statistics ({name}) are not: run the model "
                "once, in training mode."
            )


@exercise
def accuracy(solution: Callable[[nn.Module, list[tuple[Tensor, Tensor]]], float]) -> str:
    """Check ``accuracy(model, batches)`` on a small network with batch normalization.

    Raises:
        CheckFailed: if the share of right answers, the mode or the use of gradients is wrong, or if the
            model, the batches or PyTorch's switch for gradients are left otherwise than they were.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5))
    for _ in range(3):
        model(3 * torch.randn(8, 1, 3, 3) + 1)  # running statistics that are not the trivial 0 and 1
    sizes, num_right = (300, 300, 70), (270, 290, 21)  # more than a byte can count
    batches = []
    model.eval()
    for size, right in zip(sizes, num_right, strict=True):
        images = torch.randn(size, 1, 3, 3)
        with torch.no_grad():
            labels = model(images).argmax(1)
        labels[right:] = (labels[right:] + 1) % 5  # these answers are wrong
        batches.append((images, labels))
    seen: list[tuple[bool, bool]] = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))

    for mode in (True, False):
        model.train(mode)
        seen.clear()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        call = "accuracy(model, batches)"
        with kept(call, batches=batches), torch.enable_grad():
            given = answer_of(solution, model, batches, describe=call, begun=not mode)
            switched_off = not torch.is_grad_enabled()
        if not seen:
            raise CheckFailed("the model was never called: predict with model(images).")
        if any(training for training, _ in seen):
            raise CheckFailed("the model ran in training mode: call model.eval() before the first batch.")
        if any(gradients for _, gradients in seen):
            raise CheckFailed("gradients were recorded: evaluate under torch.no_grad().")
        _compare_share(given, sizes, num_right)
        if model.training != mode:
            left, came = ("training", "evaluation") if model.training else ("evaluation", "training")
            raise CheckFailed(f"the model came in {came} mode and is left in {left} mode: put its mode back.")
        if switched_off:
            raise CheckFailed(
                "the share is right, but gradients are left switched off for all that comes: use "
                "`with torch.no_grad():`, which switches them on again."
            )
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise CheckFailed(
                "the share is right, but the model's parameters are left without requires_grad, so that it "
                "can never train again: use torch.no_grad()."
            )
        if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
            raise CheckFailed("the share is right, but the model has other numbers in it than before.")
    return "the share is right with a smaller last batch, and the model's mode is as it was."


def _compare_share(given: object, sizes: tuple[int, ...], num_right: tuple[int, ...]) -> None:
    """Compare with the right share, and with what the usual mistakes give.

    Raises:
        CheckFailed: if it is not the share of right answers.
    """
    given = as_real(given, "accuracy(model, batches) gives {value!r}: return one number.")
    share = sum(num_right) / sum(sizes)
    if abs(given - share) < 1e-6:
        return
    mistakes = (
        (sum(num_right), "this is the number of right answers: divide by the number of images."),
        (100 * share, "return a share between 0 and 1, not percent."),
        (1 - share, "this is the share of wrong answers."),
        (num_right[-1] / sizes[-1], "this is the last batch alone: add up over all batches."),
        (
            sum(right / size for right, size in zip(num_right, sizes, strict=True)) / len(sizes),
            "this is the mean of the batches' accuracies. It gives images of a small batch more weight, and "
            "the last batch is smaller.",
        ),
        (
            sum(num_right) / (len(sizes) * sizes[0]),
            "divide by the number of images, and not by batches times batch size: the last one is smaller.",
        ),
        (sum(num_right) / len(sizes), "divide by the number of images, not of batches."),
    )
    said = f"you return {given:.4f}, and {sum(num_right)} of {sum(sizes)} answers are right: "
    for value, mistake in mistakes:
        if abs(given - value) < 1e-4:
            raise CheckFailed(said + mistake)
    raise CheckFailed(said + "count where the largest logit is at the label, and divide once, at the end.")


@exercise
def confusion_matrix(solution: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Check ``confusion_matrix(truth, predictions, num_classes)`` against counting one by one.

    Raises:
        CheckFailed: if the matrix is not the counts, true classes in rows.
    """
    # The last two hold more images of one kind than one byte, and two bytes with a sign, can count.
    cases = ((40, 4, 3), (300, 10, 10), (1, 2, 1), (2_000, 2, 2), (70_000, 2, 1))
    for seed, (num_images, num_classes, num_used) in enumerate(cases):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(0, num_used, (num_images,), generator=generator)
        slips = torch.rand(num_images, generator=generator) < 0.4
        predictions = torch.where(slips, (truth + 1) % num_used, truth)
        expected = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        pairs = Counter(zip(truth.tolist(), predictions.tolist(), strict=True))
        for (row, column), count in pairs.items():
            expected[row, column] = count
        call = "confusion_matrix(truth, predictions, num_classes)"
        with kept(call, truth=truth, predictions=predictions):
            given = answer_of(solution, truth, predictions, num_classes, describe=call, begun=seed > 0)
        if not isinstance(given, Tensor):
            raise CheckFailed(f"you return {type(given).__name__}: return a tensor.")
        if given.shape != expected.shape:
            raise CheckFailed(
                f"the shape is {tuple(given.shape)} instead of {tuple(expected.shape)}: classes that never "
                "occur have a row and a column too."
            )
        if given.dtype.is_floating_point and (given <= 1).all() and num_images > 1:
            raise CheckFailed("return counts, not shares: how many images, row by row.")
        if given.dtype.is_floating_point or given.dtype == torch.bool:
            raise CheckFailed(f"integer counts are asked for, and these are {given.dtype}: .to(torch.int64).")
        if torch.equal(given.to(torch.int64), expected):
            continue
        if torch.equal(given.to(torch.int64), expected.T):
            raise CheckFailed(
                "it is transposed: true classes belong in the rows, predictions in the columns."
            )
        if torch.equal(given.to(torch.int64), (expected > 0).to(torch.int64)):
            raise CheckFailed(
                "each pair is counted once: with repeated indices, `matrix[truth, predictions] += 1` adds "
                "only once."
            )
        bits = torch.iinfo(given.dtype).bits
        if bits < 64 and torch.equal(given, expected.to(given.dtype)):
            i = (given != expected).nonzero()[0].tolist()
            raise CheckFailed(
                f"a count of {expected[*i]:,} has become {given[*i]:,}: {given.dtype} cannot hold it. Count "
                f"in torch.int64."
            )
        if given.sum() != num_images:
            raise CheckFailed(f"it counts for {given.sum()} images, and there are {num_images}.")
        raise CheckFailed(
            "the sum is right, but some counts are in the wrong cell: row = truth, column = prediction."
        )
    return "the counts are those of counting one by one, also for classes that never occur."
