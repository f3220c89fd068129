"""Convolution, output sizes, receptive fields, LeNet's counts and batch normalization, by hand."""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from resnetbook.checks.common import (
    CheckFailed,
    call_reader,
    exercise,
)
from resnetbook.checks.tracing import Operations

Layers = Sequence[tuple[int, int, int]]
"""Kernel, stride and padding of each layer, the first one first."""


def _close(given: Tensor, right: Tensor) -> bool:
    """Equal but for the rounding of float32, which a reader may compute in."""
    return given.shape == right.shape and bool(_near(given, right).all())


def _near(given: Tensor, right: Tensor) -> Tensor:
    """For each number, whether it is equal but for the rounding of float32; nan never is."""
    return torch.isclose(given.detach().double(), right.double(), rtol=1e-4, atol=1e-5)


# ---- batch normalization

_MOMENTUM, _EPS = 0.1, 1e-5
_STATISTICS = ("running_mean", "running_var")


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)


def _moments(x: Tensor, dims: tuple[int, ...] = (0, 2, 3), unbiased: bool = False) -> tuple[Tensor, Tensor]:
    return x.mean(dims, keepdim=True), x.var(dims, correction=int(unbiased), keepdim=True)


def _norm_mistakes(x: Tensor, state: dict[str, Tensor], training: bool) -> Iterator[tuple[Tensor, str]]:
    """What the usual mistakes put out, and what to say about each."""
    scale, shift = _per_channel(state["weight"]), _per_channel(state["bias"])
    running = _per_channel(state["running_mean"]), _per_channel(state["running_var"])

    def finish(moments: tuple[Tensor, Tensor], eps: float = _EPS) -> Tensor:
        mean, variance = moments
        return scale * (x - mean) / (variance + eps).sqrt() + shift

    mean, variance = _moments(x) if training else running
    if training:
        yield (
            finish(_moments(x, unbiased=True)),
            "the batch is normalized with the unbiased variance. It is normalized with the biased one, "
            "divided by n: correction=0, or unbiased=False.",
        )
        moved = zip(running, _moments(x, unbiased=True), strict=True)
        updated = tuple((1 - _MOMENTUM) * old + _MOMENTUM * new for old, new in moved)
        for statistics in (running, updated):
            yield (
                finish(statistics),
                "the running statistics are used while training: use those of the batch.",
            )
    else:
        for unbiased in (False, True):
            yield (
                finish(_moments(x, unbiased=unbiased)),
                "the batch's statistics are used in evaluation mode: use the running ones. "
                "self.training tells the mode.",
            )
    for dims, what in (
        ((0,), "at each position by itself"),
        ((2, 3), "for each image by itself"),
        ((1, 2, 3), "over the channels of each image"),
        ((0, 1, 2, 3), "over everything at once"),
    ):
        yield (
            finish(_moments(x, dims)),
            f"mean and variance are taken {what}: take one of each per channel, over images and positions.",
        )
    normalized = (x - mean) / (variance + _EPS).sqrt()
    yield normalized, "the learned scale and shift are missing: times weight, plus bias, for each channel."
    yield scale * normalized, "the learned shift is missing: plus bias."
    yield normalized + shift, "the learned scale is missing: times weight."
    yield scale * (normalized + shift), "the shift is added before the scale: times weight, then plus bias."
    for eps in (0.0, 1e-3, 1e-6, 1e-8):
        said = "missing" if eps == 0 else f"{eps:g}"
        yield finish((mean, variance), eps), f"eps is {said}: it is {_EPS:g}, added to the variance."
    yield (
        scale * (x - mean) / (variance.sqrt() + _EPS) + shift,
        "eps is added to the standard deviation: add it to the variance, under the root.",
    )
    yield (
        scale * (x - mean) / (variance + _EPS) + shift,
        "you divide by the variance: divide by its square root, the standard deviation.",
    )


def _statistics_problem(name: str, given: Tensor, old: Tensor, x: Tensor, y: Tensor, step: int) -> str:
    """Why a running statistic is not what it should be after a training batch ``x`` with output ``y``."""
    mean, biased = (moment.flatten() for moment in _moments(x))
    unbiased = _moments(x, unbiased=True)[1].flatten()
    new = mean if name == "running_mean" else unbiased

    def mixed(value: Tensor, share: float = _MOMENTUM) -> Tensor:
        return (1 - share) * old + share * value

    if _same(given, old):
        return "it has not moved: update it with every training batch, from x as it came in."
    reasons = [
        (mixed(new, 1 - _MOMENTUM), "the shares are swapped: 0.9 of the old value, 0.1 of the new one."),
        (new, "it is the value of the last batch alone: keep 0.9 of the old value."),
        (mixed(new, 1 / step), "it is a plain average over all batches: the new value gets a share of 0.1."),
        (old + _MOMENTUM * new, "the old value must shrink to 0.9 of itself before the new one is added."),
        (mixed(new, 1 - (1 - _MOMENTUM) ** 2), "it is updated twice for one batch."),
    ]
    normalized = (x - _per_channel(mean)) / _per_channel(biased + _EPS).sqrt()
    for source, what in ((normalized, "of the normalized x"), (y, "of the output")):
        for unbiased_too in (False, True):
            moment = _moments(source, unbiased=unbiased_too)[name == "running_var"].flatten()
            reasons.append((mixed(moment), f"it takes the statistics {what}: take those of x as it came in."))
    if name == "running_var":
        reasons = [
            (
                mixed(biased),
                "it is updated with the biased variance. PyTorch updates it with the unbiased one, divided "
                "by n − 1, though it normalizes with the biased one.",
            ),
            *reasons,
            (mixed(unbiased.sqrt()), "it holds standard deviations: keep variances."),
            (mixed(biased + _EPS), "eps belongs to the normalization, not to the statistic."),
            (mixed(unbiased + _EPS), "eps belongs to the normalization, not to the statistic."),
            *(
                (
                    mixed(biased * n / (n - 1)),
                    "its n is wrong: each channel has images · height · width numbers.",
                )
                for n in (len(x), x[0, 0].numel(), x.numel())
            ),
        ]
    for value, reason in reasons:
        if _same(given, value):
            return reason
    return "0.9 · old + 0.1 · new is asked for, one number for each channel."


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal but for rounding: that of ``second``'s dtype."""
    rtol, atol = (1e-7, 1e-9) if second.dtype == torch.float64 else (1e-3, 1e-4)
    return first.shape == second.shape and torch.allclose(
        first.double(), second.double(), rtol=rtol, atol=atol
    )


_GRADIENTS = ("as usual", "x needs none", "under torch.no_grad()")
"""How a forward pass is run: a layer's statistics must move in all of them."""


def _leftover(module: nn.Module, training: bool) -> str | None:
    """What a forward pass has left behind in the module, if it has."""
    if module.training != training:
        return "forward changes the mode of the module: read self.training, and leave it as it is."
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            return f"forward leaves a gradient in {name}: it only computes the output, without backward()."
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                return (
                    f"self.{name} remembers how it was computed, and would keep the whole batch in memory: "
                    "use a local variable."
                )
    return None


def _new_norm(cls: Callable[[int], nn.Module], channels: int, begun: bool) -> nn.Module:
    """The reader's module; its parameters and buffers have the right names, shapes and first values."""
    call = f"{getattr(cls, '__name__', 'the class')}({channels})"
    module = call_reader(cls, channels, describe=call, begun=begun)
    if not isinstance(module, nn.Module):
        raise CheckFailed(
            f"{call} gives {type(module).__name__}: write a class that inherits from nn.Module."
        )
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    own = [type(m).__name__ for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    if own:
        raise CheckFailed(f"{call} holds PyTorch's own {own[0]}: compute mean and variance yourself.")
    for name in _STATISTICS:
        if name in parameters:
            raise CheckFailed(
                f"{name} is a parameter: nothing learns it by gradient. Keep it with self.register_buffer."
            )
        if name not in buffers:
            there = isinstance(getattr(module, name, None), Tensor)
            what = f"{name} is a plain attribute" if there else f"there is no buffer {name}"
            raise CheckFailed(
                f"{what}: use self.register_buffer({name!r}, …). A buffer moves with the model to another "
                "device or dtype, and is saved with it."
            )
        if module.state_dict().get(name) is None:
            raise CheckFailed(f"{name} is not in the state_dict: register it without persistent=False.")
    for name in ("weight", "bias"):
        if name not in parameters:
            raise CheckFailed(
                f"there is no parameter {name}: self.{name} = nn.Parameter(…), one per channel."
            )
        if not parameters[name].requires_grad:
            raise CheckFailed(f"{name} is not learned: leave its requires_grad as nn.Parameter sets it.")
    extra = [name for name in parameters if name not in ("weight", "bias")]
    if extra:
        raise CheckFailed(f"{extra[0]} is one parameter too many: only weight and bias are learned.")
    first = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in first.items():
        tensor = getattr(module, name).detach()
        if tensor.shape != (channels,):
            raise CheckFailed(
                f"{name} has shape {tuple(tensor.shape)}: keep one number for each channel, ({channels},), "
                "and reshape it to (1, C, 1, 1) in forward."
            )
        others = tensor[tensor != value]
        if len(others):
            raise CheckFailed(
                f"{name} must start as {value:g} in every channel, and one of them starts as {others[0]:g}."
            )
    return module


def _run_norm(
    module: nn.Module,
    right: nn.BatchNorm2d,
    x: Tensor,
    training: bool,
    gradients: str,
    step: int,
    begun: bool,
    calls: Operations,
) -> None:
    """Compare one forward pass in one mode: output, gradients and running statistics.

    Args:
        module: the reader's.
        right: PyTorch's, in the same state.
        x: the batch.
        training: the mode.
        gradients: one of ``_GRADIENTS``.
        step: number of the training batch.
        begun: whether something of the reader's has run already.
        calls: notes what the reader's forward calls.

    Raises:
        CheckFailed: if anything differs.
    """
    mode = "training" if training else "evaluation"
    usual = gradients == "as usual"
    how = "" if usual else f" ({gradients})"
    describe = f"In {mode} mode{how}, on x {tuple(x.shape)}, forward"
    module.train(training)
    right.train(training)
    state = {name: value.clone() for name, value in right.state_dict().items()}
    given_x, right_x = (x.clone().requires_grad_(gradients != "x needs none") for _ in range(2))
    with torch.set_grad_enabled(gradients != "under torch.no_grad()"):
        with calls:
            given = call_reader(module, given_x, describe=describe, begun=begun)
        expected = right(right_x)
    if given is None:
        raise CheckFailed(f"{describe} gives None: does it end with `return`?")
    if not isinstance(given, Tensor):
        raise CheckFailed(f"{describe} gives {type(given).__name__}: return a tensor.")
    if not torch.equal(given_x.detach(), x):
        raise CheckFailed(f"{describe} changes x itself: compute a new tensor.")
    if given_x.requires_grad != right_x.requires_grad:
        raise CheckFailed(f"{describe} changes whether x needs a gradient: leave x as it is.")
    if given.shape != expected.shape:
        raise CheckFailed(
            f"{describe} gives the shape {tuple(given.shape)}, and x has {tuple(x.shape)}. Reshape what has "
            "one number per channel to (1, C, 1, 1), or take the mean with keepdim=True."
        )
    if given.dtype != x.dtype:
        raise CheckFailed(f"{describe} gives {given.dtype}, and x is {x.dtype}: keep the dtype of x.")
    if not _same(given.detach(), expected.detach()):
        for mistaken, message in _norm_mistakes(x, state, training):
            if _same(given.detach(), mistaken):
                raise CheckFailed(f"{describe} is wrong: {message}")
        if _close(given, expected.detach()):
            raise CheckFailed(
                f"{describe} is right to a few digits only: x is {x.dtype} here. Compute in x's own dtype, "
                "without .float()."
            )
        what = "the batch's mean and biased variance" if training else "the running mean and variance"
        raise CheckFailed(
            f"{describe} is wrong: (x − mean) / √(variance + eps) · weight + bias, with {what}."
        )
    for name in _STATISTICS:
        statistic = getattr(module, name)
        if not isinstance(statistic, Tensor) or statistic.shape != state[name].shape:
            raise CheckFailed(
                f"after a batch, {name} is no longer one number for each channel: keep its shape."
            )
        if statistic.requires_grad:
            raise CheckFailed(
                f"{name} remembers how it was computed, and would keep every batch in memory: update it "
                "under torch.no_grad(), or with .detach()."
            )
        if not _same(statistic, getattr(right, name)):
            if not training:
                raise CheckFailed(f"{name} moves in evaluation mode: only training batches count.")
            if not usual and _same(statistic, state[name]):
                raise CheckFailed(
                    f"In {mode} mode{how} {name} does not move: every batch in training mode counts, whether "
                    "gradients are computed or not. Ask self.training, and nothing else."
                )
            problem = _statistics_problem(name, statistic, state[name], x, given.detach(), step)
            raise CheckFailed(f"The output is right, but {name} is not: {problem}")
    if problem := _leftover(module, training):
        raise CheckFailed(f"In {mode} mode the output is right, but {problem}")
    if not usual:
        return
    generator = torch.Generator().manual_seed(step)
    slope = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    names = ("x", "weight", "bias")
    inputs = given_x, module.weight, module.bias
    differentiate = functools.partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
    describe = f"In {mode} mode the output is right, but backpropagation"
    ours = (
        call_reader(differentiate, given, inputs, slope, describe=describe, begun=True)
        if given.requires_grad
        else (None,) * 3
    )
    theirs = torch.autograd.grad(expected, (right_x, right.weight, right.bias), slope)
    for name, mine, gradient in zip(names, ours, theirs, strict=True):
        if mine is None or not _same(mine, gradient):
            hint = "Mean and variance of the batch depend on x: do not detach them."
            if name != "x" or not training:
                hint = "Compute with x, weight and bias themselves, without .data, .detach() or no_grad."
            raise CheckFailed(
                f"In {mode} mode the output is right, but the gradient in {name} is not. {hint}"
            )


@exercise
def batch_norm(solution: Callable[[int], nn.Module]) -> str:
    """Check a batch normalization, ``solution(num_channels)``, against ``nn.BatchNorm2d``.

    It keeps PyTorch's names: parameters ``weight`` and ``bias``, buffers ``running_mean`` and
    ``running_var``.

    Raises:
        CheckFailed: if outputs, gradients or running statistics differ in either mode.
    """
    generator = torch.Generator().manual_seed(0)
    calls = Operations()
    usual, none_in_x, no_grad = _GRADIENTS
    passes = (
        (True, usual),
        (True, usual),
        (False, usual),
        (True, no_grad),
        (True, none_in_x),
        (False, usual),
        (False, no_grad),
    )
    # The last in float32, as networks compute, and with a single channel.
    cases = (((4, 3, 2, 2), torch.float64), ((2, 5, 3, 1), torch.float64), ((3, 1, 2, 2), torch.float32))
    with torch.enable_grad():
        for i, (shape, dtype) in enumerate(cases):
            channels = shape[1]
            module = _new_norm(solution, channels, begun=i > 0).to(dtype)
            right = nn.BatchNorm2d(channels).to(dtype)

            def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
                return torch.randn(*shape, generator=generator, dtype=dtype)

            with torch.no_grad():
                for name in ("weight", "bias"):
                    values = random(channels)
                    getattr(module, name).copy_(values)
                    getattr(right, name).copy_(values)
            step = 0
            for training, gradients in passes:
                step += training
                # Channels far from mean 0 and variance 1; one so small that eps matters.
                spread = torch.logspace(-2.5, 1, channels, dtype=dtype)
                offset = torch.linspace(-2, 3, channels, dtype=dtype) * spread
                x = random(*shape) * _per_channel(spread) + _per_channel(offset)
                begun = i > 0 or step > 1 or not training
                _run_norm(module, right, x, training, gradients, step, begun, calls)
            # As after loading a saved network: what forward reads is what the buffers hold.
            for name, values in (
                ("running_mean", random(channels)),
                ("running_var", random(channels) ** 2 + 1),
            ):
                for each in (module, right):
                    getattr(each, name).copy_(values)
            describe = "In evaluation mode, after the buffers have got other values, forward"
            x = random(*shape)
            given = call_reader(module.eval(), x, describe=describe, begun=True)
            if not _same(given.detach(), right.eval()(x).detach()):
                raise CheckFailed(
                    f"{describe} does not use them: a loaded network would be evaluated with old statistics. "
                    "Read self.running_mean and self.running_var anew in each forward."
                )
    if name := calls.like("batch_norm", "instance_norm", "group_norm", "layer_norm"):
        raise CheckFailed(
            f"The numbers are right, but forward calls PyTorch's own {name}: compute mean and variance, and "
            "normalize with them, yourself."
        )
    return (
        "outputs, gradients and running statistics are those of nn.BatchNorm2d, in training and in "
        "evaluation mode, also where no gradients are computed."
    )
