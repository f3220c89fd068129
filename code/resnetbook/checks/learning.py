"""Identity, derivative, paths, variance, shortcuts and the pre-activation block of chapter 3."""

import contextlib
import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from resnetbook import blocks, models, probes
from resnetbook.checks.building import BlockCase, new_block
from resnetbook.checks.common import (
    CheckFailed,
    as_number,
    call_for_real,
    call_reader,
    compare_counts,
    compare_reals,
    exercise,
    near,
)
from resnetbook.checks.tracing import (
    LayerCall,
    kernel,
    measure,
    ran,
    same,
    unusual_norm,
    watched,
)


def _randomize(norms: list[nn.BatchNorm2d], generator: torch.Generator) -> None:
    """Scales, shifts and running statistics, none of them 0 or 1, so that no mistake can hide."""
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(0.3, 0.9, generator=generator)
            norm.running_mean.uniform_(0.3, 0.9, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)


@contextlib.contextmanager
def _leaving_no_trace(call: str) -> Iterator[None]:
    """See that the reader's code leaves the recording of gradients as it was.

    Raises:
        CheckFailed: if it is switched; here it is set right again.
    """
    enabled = torch.is_grad_enabled()
    try:
        yield
        if torch.is_grad_enabled() != enabled:
            raise CheckFailed(
                f"{call} leaves the recording of gradients {'off' if enabled else 'on'} for all code that "
                "follows: write `with torch.no_grad():`, which ends by itself."
            )
    finally:
        torch.set_grad_enabled(enabled)


# ---- a block that starts as the identity


def _why_not_silent(block: nn.Module, changed: set[str]) -> str:
    """Which mistake leaves a basic block that is not the identity."""

    def zero(*tensors: Tensor) -> bool:
        return not any(tensor.detach().any() for tensor in tensors)

    if not changed:
        return (
            "No number of the block has changed. Change the parameter itself, in place, as with .zero_(): "
            "an assignment only gives a name to a new tensor."
        )
    if not changed & {name for name, _ in block.named_parameters()}:
        return (
            "Only running statistics have changed. They are not what F puts out: the last norm still has its "
            "scale and its shift."
        )
    last = block.bn2
    if max(last.weight.detach().abs().max(), last.bias.detach().abs().max()) < 0.01:
        return (
            "The scale and the shift of the last norm are nearly 0, and F is not silent yet: set them to 0 "
            "itself."
        )
    if zero(last.weight) and not zero(last.bias):
        return (
            "The scale of the last norm is 0, but its shift is not, and the shift is added to x: "
            "set bn2.bias to 0, too."
        )
    if zero(last.bias) and not zero(last.weight):
        return (
            "The shift of the last norm is 0, but its scale is not, so F is still heard: set bn2.weight to 0."
        )
    if zero(block.bn1.weight) and not zero(last.weight):
        return (
            "You have silenced the first norm, and the layers behind it speak again: the last layer of F "
            "has the last word, and that is bn2."
        )
    if zero(block.conv2.weight) and not zero(last.bias):
        return (
            "The last convolution gives zeros, but a norm comes after it, and its shift makes them something "
            "else: silence the last layer of F, bn2."
        )
    return "Ask which layer of F comes last, and which two numbers of it must be 0."


@exercise
def start_as_identity(solution: Callable[[nn.Module], None]) -> str:
    """Check ``start_as_identity(block)``, which makes a basic block hand on what is not negative.

    Raises:
        CheckFailed: if the changed block is not the identity in both modes, or cannot learn any more.
    """
    call = "start_as_identity(block)"
    but = ""
    for seed, (channels, size) in enumerate(((6, 5), (4, 3), (16, 4))):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        block = blocks.BasicBlock(channels, channels).train(seed != 1)
        _randomize([block.bn1, block.bn2], generator)
        before = {name: value.clone() for name, value in block.state_dict().items()}
        parameters = list(block.parameters())
        modules = [(name, type(module)) for name, module in block.named_modules()]
        modes = [module.training for module in block.modules()]
        try:
            with _leaving_no_trace(call):
                given = call_reader(solution, block, describe=call, begun=seed > 0)
        except CheckFailed as failed:
            advice = " Do it under torch.no_grad()." if "leaf" in str(failed) else ""
            raise CheckFailed(f"{failed}{advice}") from failed.__cause__
        if given is not None and given is not block:
            raise CheckFailed(
                f"{call} gives a {type(given).__name__}: change the block that you get, in place, and return "
                "nothing."
            )
        replaced = [(name, type(module)) for name, module in block.named_modules()] != modules
        if replaced or any("forward" in vars(module) for module in block.modules()):
            raise CheckFailed(
                "A layer or a forward method has been replaced: keep them, and change only the numbers."
            )
        if any(module._forward_hooks or module._forward_pre_hooks for module in block.modules()):
            raise CheckFailed("A hook changes what a layer puts out: use none, and change only the numbers.")
        if [module.training for module in block.modules()] != modes:
            raise CheckFailed(
                f"{call} switches between training and evaluation mode. Whoever trains the block goes on in "
                "the mode that it had: change only its numbers."
            )
        changed = _changed(block, before)
        if any(name.endswith("num_batches_tracked") for name in changed):
            raise CheckFailed(
                f"{call} sends images through the block in training mode, and running statistics move. The "
                "numbers to change can be set without running anything."
            )
        # A copy, and in float64: float32 would swallow an F of 1e-8 when it is added to x.
        precise = copy.deepcopy(block).double()
        x = torch.rand(3, channels, size, size, generator=generator, dtype=torch.float64) + 0.1
        for training, images in itertools.product((True, False), (x, torch.zeros_like(x))):
            precise.train(training)
            y = call_reader(precise, images, describe="The changed block", begun=True)
            if not torch.equal(y, images):
                mode = "training" if training else "evaluation"
                raise CheckFailed(
                    f"In {mode} mode the block changes x, by up to {(y - images).abs().max().item():.2g}. "
                    + _why_not_silent(block, changed)
                )
        _must_learn(block, x.float())
        if any(now is not old for now, old in zip(block.parameters(), parameters, strict=True)):
            but = (
                " But a parameter is a new object: an optimizer that was made before goes on changing the "
                "old one. Change the numbers in place, as with .zero_() under torch.no_grad()."
            )
        elif given is block:
            but = " But return nothing, as was asked: a caller might think that it got a copy."
    return f"the block hands x on in both modes, and its F can still learn.{but}"


def _changed(block: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The names of the tensors whose numbers have changed.

    Raises:
        CheckFailed: if one of them is gone, or has another shape or type.
    """
    after = block.state_dict()
    for name, value in before.items():
        if name not in after:
            raise CheckFailed(f"{name} is gone: it stays, and becomes 0.")
        if after[name].shape != value.shape:
            raise CheckFailed(
                f"{name} had the shape {tuple(value.shape)}, and now it has {tuple(after[name].shape)}: "
                "change the numbers in place, as with .zero_(), whatever the number of channels."
            )
        if after[name].dtype != value.dtype:
            raise CheckFailed(f"{name} was {value.dtype}, and now it is {after[name].dtype}: keep the type.")
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


def _must_learn(block: nn.Module, x: Tensor) -> None:
    """Whether anything but shifts gets a gradient.

    Raises:
        CheckFailed: if not.
    """
    if not all(parameter.requires_grad for parameter in block.parameters()):
        raise CheckFailed("The block is the identity, but requires_grad=False freezes it: it never learns.")
    if any(parameter.grad is not None for parameter in block.parameters()):
        raise CheckFailed(
            "A backward pass has left its gradients in the block, and the next one would add to them: change "
            "only the numbers."
        )
    block = copy.deepcopy(block).train()
    y = block(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape).sin()).sum().backward()
    learning = [
        name
        for name, parameter in block.named_parameters()
        if not name.endswith("bias") and parameter.grad is not None and parameter.grad.abs().max() > 1e-6
    ]
    if not learning:
        raise CheckFailed(
            "The block is the identity, and it will stay so: with that many zeros no weight and no scale "
            "gets a gradient. Set only the last norm to 0, and leave the convolutions as they are."
        )


# ---- one number from a formula


def _chain(
    weights: list[float],
    x: float,
    *,
    slope: Callable[[float, float], float] = lambda w, x: 1 + w * (1 - math.tanh(x) ** 2),
    move: str = "after",
    plain: bool = False,
) -> float:
    """The product of the slopes along the chain; the options make the mistakes that are named below."""
    product = 1.0
    for w in weights:
        following = w * math.tanh(x) + (0 if plain else x)
        if move == "before":
            x = following
        product *= slope(w, x)
        if move == "after":
            x = following
    return product


class _Autograd(TorchFunctionMode):
    """Notes whether autograd is asked for derivatives while this is active."""

    asked = False

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if getattr(function, "__name__", "") in ("backward", "grad", "_make_dual"):
            self.asked = True
        return function(*args, **(kwargs or {}))


def _chain_by_autograd(weights: list[float], x: float) -> float:
    start = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    end = start * 1
    for w in weights:
        end = end + w * torch.tanh(end)
    return torch.autograd.grad(end, start)[0].item()


@exercise
def chain_derivative(solution: Callable[[list[float], float], float]) -> str:
    """Check ``chain_derivative(weights, x)`` for blocks ``x + w · tanh(x)`` against autograd.

    Raises:
        CheckFailed: if a derivative differs.
    """
    fifty = (torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.4).tolist()
    cases = (
        ([0.5], 0.2),
        ([0.3, -0.8, 1.2], 0.7),
        ([-1.0], 0.0),
        ([2.0, -0.5], -0.4),
        ([], 0.3),
        (fifty, 0.1),
    )
    chain = functools.partial

    def right(w: float, x: float) -> float:
        return 1 + w * (1 - math.tanh(x) ** 2)

    def inner(w: float, x: float) -> float:
        return w * (1 - math.tanh(x) ** 2)

    def slopes(weights: list[float], x: float) -> list[float]:
        found = []
        for w in weights:
            found.append(inner(w, x))
            x += w * math.tanh(x)
        return found

    def output(weights: list[float], x: float) -> float:
        for w in weights:
            x += w * math.tanh(x)
        return x

    def moving(step: Callable[[float, float], float]) -> Callable[[list[float], float], float]:
        """The slopes are right, and x moves on by another step."""

        def product(weights: list[float], x: float) -> float:
            found = 1.0
            for w in weights:
                found, x = found * right(w, x), step(w, x)
            return found

        return product

    def for_no_blocks(value: Callable[[float], float]) -> Callable[[list[float], float], float]:
        return lambda weights, x: _chain(weights, x) if weights else value(x)

    empty = "An empty chain puts out its input, so the derivative is 1: begin the product with it."
    autograd = _Autograd()

    def watched_solution(weights: list[float], x: float) -> float:
        with _leaving_no_trace("chain_derivative(weights, x)"), autograd:
            return solution(weights, x)

    compare_reals(
        watched_solution,
        "chain_derivative",
        cases,
        _chain_by_autograd,
        (
            (chain(_chain, slope=inner), "The 1 is missing: the derivative of x + f(x) is 1 + f'(x)."),
            (
                chain(_chain, slope=inner, plain=True),
                "That is the chain without shortcuts: a block gives x + w · tanh(x), and its slope has a 1.",
            ),
            (
                chain(_chain, move="never"),
                "Every slope is taken at the first x. Each block works on what the block before put out: "
                "move x on.",
            ),
            (
                chain(_chain, move="before"),
                "Each slope belongs to the block's input: take it first, and move x on afterwards.",
            ),
            (
                chain(_chain, slope=lambda w, x: 1 + w * math.tanh(x)),
                "That is 1 + f(x). The slope is 1 + f'(x), and the derivative of tanh is 1 − tanh².",
            ),
            (
                chain(_chain, slope=lambda w, x: 1 + w * (1 - math.tanh(x))),
                "The derivative of tanh is 1 − tanh²: the square is missing.",
            ),
            (
                chain(_chain, slope=lambda w, x: 1 + (1 - math.tanh(x) ** 2)),
                "f(x) is w · tanh(x), so its slope has the factor w.",
            ),
            (
                chain(_chain, plain=True),
                "The slopes have their 1, but x moves on without the shortcut: it becomes x + w · tanh(x).",
            ),
            (
                lambda weights, x: 1 + sum(slopes(weights, x)),
                "You add the slopes up. That is only the part of the paths with one F at most: multiply the "
                "factors 1 + f'(x).",
            ),
            (
                lambda weights, x: sum(1 + s for s in slopes(weights, x)),
                "The chain rule multiplies: take the product of the factors, not their sum.",
            ),
            (lambda weights, x: x, "That is x itself; the derivative is asked for."),
            (output, "That is the output of the chain; its derivative is asked for."),
            (for_no_blocks(lambda x: 0.0), empty),
            (for_no_blocks(lambda x: x), empty),
            (lambda weights, x: 0.0, "The product begins with 0, and stays there: begin with 1."),
            (
                lambda weights, x: x * _chain(weights, x),
                "The product begins with x; the derivative of the input in itself is 1: begin with that.",
            ),
            (
                lambda weights, x: 1 + slopes(weights, x)[-1] if weights else 1.0,
                "That is the last block's factor alone: multiply it with those of all blocks before.",
            ),
            (
                lambda weights, x: 1 + slopes(weights, x)[0] if weights else 1.0,
                "That is the first block's factor alone: does `return` stand inside the loop?",
            ),
            (
                lambda weights, x: _chain(weights[::-1], x),
                "The weights are taken from the end. Follow x from the first block on.",
            ),
            (
                moving(lambda w, x: x + math.tanh(x)),
                "x moves on by w · tanh(x): the factor w is missing.",
            ),
            (moving(lambda w, x: x + inner(w, x)), "x moves on by f(x) = w · tanh(x), not by its slope."),
            (moving(lambda w, x: x * right(w, x)), "x moves on by f(x) = w · tanh(x), not by a factor."),
            (
                chain(_chain, slope=lambda w, x: 1 - inner(w, x)),
                "The block adds w · tanh(x), so its slope is added to the 1, too.",
            ),
            (
                chain(_chain, slope=lambda w, x: 1 + w * (1 + math.tanh(x) ** 2)),
                "The derivative of tanh is 1 − tanh², with a minus.",
            ),
            (
                chain(_chain, slope=lambda w, x: 1 + w / math.cosh(x)),
                "The derivative of tanh is 1 / cosh²: the square is missing.",
            ),
            (
                chain(_chain, slope=lambda w, x: x + inner(w, x)),
                "The derivative of x + f(x) is 1 + f'(x): the x becomes a 1.",
            ),
        ),
        "Print x and the factor 1 + f'(x) for each block, and compare the first two with a sheet of paper.",
    )
    if autograd.asked:
        raise CheckFailed(
            "The numbers are right, but autograd has found them, and the exercise is to do without: multiply "
            "the factors 1 + f'(x) yourself, block by block."
        )
    return f"the derivatives are those of autograd for {len(cases)} chains, one of them 50 blocks long."


@exercise
def residual_factor(solution: Callable[[int, float], float]) -> str:
    """Check ``residual_factor(num_blocks, growth)``: the factor on F that makes the variance grow so far.

    Raises:
        CheckFailed: if blocks with that factor give another growth.
    """
    cases = ((1, 2.0), (50, 2.0), (27, math.e), (10, 1.0), (100, 10.0), (3, 27.0))
    calls = [f"residual_factor({n}, {growth:.4g})" for n, growth in cases]
    given = [
        abs(call_for_real(solution, call, *case, begun=i > 0))
        for i, (call, case) in enumerate(zip(calls, cases, strict=True))
    ]
    for call, (n, growth), a in zip(calls, cases, given, strict=True):
        reached = n * math.log1p(a * a)
        # What is asked for is the growth, so that is compared: whoever searches for a, as by bisection,
        # need not find its last digit.
        if not abs(reached - math.log(growth)) <= 1e-4:
            known = (
                message
                for mistake, message in _FACTOR_MISTAKES
                if all(near(x, mistake(*case)) for x, case in zip(given, cases, strict=True))
            )
            grown = f"{math.exp(min(reached, 700)):.5g}"
            raise CheckFailed(
                f"{call} gives {a:.6g}, and with this factor the variance grows {grown}-fold. "
                + next(known, "Multiply (1 + a²) with itself num_blocks times: the growth must come out.")
            )
    return f"the variance grows as asked in {len(cases)} cases."


# Each gives the answer that a mistake leads to, for num_blocks and growth.
_FACTOR_MISTAKES: tuple[tuple[Callable[[int, float], float], str], ...] = (
    (
        lambda n, growth: growth ** (1 / n) - 1,
        "Two mistakes give this number. It is a², and F times a has a² times the variance: take the root. Or "
        "standard deviations were added, 1 + a for each block: variances add up, 1 + a².",
    ),
    (
        lambda n, growth: math.sqrt(growth ** (2 / n) - 1),
        "With this factor the standard deviation grows so far, and the variance by the square of that: "
        "growth is the variance's.",
    ),
    (
        lambda n, growth: math.sqrt(growth ** (1 / (2 * n)) - 1),
        "With this factor the variance grows by the root of what is asked for: growth is the variance's, not "
        "the standard deviation's.",
    ),
    (
        lambda n, growth: math.sqrt(growth - 1),
        "That much is right for one block; here num_blocks of them multiply.",
    ),
    (
        lambda n, growth: math.sqrt(growth ** (1 / n)),
        "Each block multiplies the variance by 1 + a²: subtract the 1 before you take the root.",
    ),
    (
        lambda n, growth: math.sqrt((growth - 1) / n),
        "Near, for many blocks; but growth multiplies from block to block and does not add: take the "
        "num_blocks-th root of it.",
    ),
    (
        lambda n, growth: math.sqrt(growth / n),
        "The growth is a product of num_blocks equal factors 1 + a²: take the num_blocks-th root.",
    ),
    (
        lambda n, growth: math.sqrt(math.log(growth) / n),
        "Near, for many blocks, and exact for none: the growth must come out also for one block.",
    ),
    (
        lambda n, growth: growth ** (1 / (2 * n)) - 1,
        "A factor a on F makes the variance 1 + a² times as large, not (1 + a)² times.",
    ),
    (
        lambda n, growth: math.sqrt((growth ** (1 / n) - 1) / 2),
        "Here F keeps the variance: a factor a on it gives a² times the variance, without a further 2.",
    ),
    (lambda n, growth: 1 / n, "This ignores the growth that is asked for, and shrinks too much."),
    (
        lambda n, growth: 1 / math.sqrt(n),
        "This ignores the growth that is asked for: it gives about e, or less, for every growth.",
    ),
    (
        lambda n, growth: growth ** (1 / n),
        "This is what the variance is multiplied by, 1 + a², and not the factor a on F.",
    ),
)


# ---- counts


def _paths(num_blocks: int, num_convs: int) -> int:
    """Multiply out (1 + t²)^num_blocks, one block after the other, and look at t^num_convs."""
    counts = [1]
    for _ in range(num_blocks):
        around = [*counts, 0, 0]
        through = [0, 0, *counts]
        counts = [a + b for a, b in zip(around, through, strict=True)]
    return counts[num_convs] if num_convs < len(counts) else 0


def _too_small_types(right: Callable[..., int]) -> tuple[tuple[Callable[..., int], str], ...]:
    """What comes out where a number does not fit its type, and its message."""

    def wrapped(bits: int, signed: bool) -> Callable[..., int]:
        half = 2 ** (bits - 1) if signed else 0
        return lambda *case: (right(*case) + half) % 2**bits - half

    return tuple(
        (
            wrapped(bits, signed),
            f"Right where the numbers are small: {'int' if signed else 'uint'}{bits} is too small for the "
            "others, and they wrap round. Count with Python's own int.",
        )
        for bits, signed in itertools.product((32, 16, 8), (True, False))
    )


@exercise
def paths_through(solution: Callable[[int, int], int]) -> str:
    """Check ``paths_through(num_blocks, num_convs)``: paths with so many convolutions, two in each F.

    Raises:
        CheckFailed: if a count differs from multiplying out.
    """
    cases = ((3, 4), (3, 0), (4, 3), (5, 10), (2, 6), (9, 9), (27, 20), (54, 54))

    right_so_far = True

    def a_number(num_blocks: int, num_convs: int) -> object:
        nonlocal right_so_far
        answer, right = solution(num_blocks, num_convs), _paths(num_blocks, num_convs)
        number = as_number(answer)
        if number is None and right == 0:
            # The case (3, 4) comes first: whoever forgets `return` altogether does not get here.
            why = "a path passes both convolutions of a block or none" if num_convs % 2 else "there are fewer"
            raise CheckFailed(
                f"paths_through({num_blocks}, {num_convs}) gives {answer!r}. No path passes {num_convs} "
                f"convolutions of {num_blocks} blocks ({why}), and the number of paths is then 0."
            )
        right_so_far = right_so_far and number is not None
        if right_so_far and number != right:
            if isinstance(number, float) and math.isclose(number, right, rel_tol=1e-4):
                raise CheckFailed(
                    f"paths_through({num_blocks}, {num_convs}) is {right:,}, and you give {number:,.0f}: "
                    "right but for its last digits, which a float has not. Count with Python's own int."
                )
            right_so_far = False
        return answer

    compare_counts(
        a_number,
        "paths_through",
        cases,
        _paths,
        (
            (math.comb, "Each F has two convolutions: half as many blocks are passed as convolutions."),
            (
                lambda n, m: math.comb(n, m // 2),
                "An odd number of convolutions cannot be: a path passes both of an F or none.",
            ),
            (
                lambda n, m: math.comb(n, (m + 1) // 2),
                "An odd number of convolutions cannot be: a path passes both of an F or none.",
            ),
            (
                lambda n, m: 1 if m % 2 else math.comb(n, m // 2),
                "An odd number of convolutions cannot be: then the number of paths is 0.",
            ),
            (
                lambda n, m: _paths(n, m) if m <= 2 * n else 1,
                "No path passes more convolutions than there are: then the number of paths is 0.",
            ),
            (
                lambda n, m: 0 if m == 0 else _paths(n, m),
                "One path passes no convolution: the one that takes every shortcut.",
            ),
            (
                lambda n, m: 0 if m % 2 else math.comb(m // 2, n),
                "comb(n, k) takes the blocks first: choose num_convs // 2 of num_blocks.",
            ),
            (
                lambda n, m: sum(_paths(n, k) for k in range(m + 1)),
                "These are the paths with num_convs or fewer; those with exactly num_convs are asked for.",
            ),
            (
                lambda n, m: 0 if m % 2 else math.comb(n - 1, m // 2),
                "There are num_blocks blocks to choose from, not one less.",
            ),
            (
                lambda n, m: 0 if m % 2 else math.perm(n, m // 2),
                "The blocks come in a fixed order, so only the choice counts: combinations, not "
                "permutations.",
            ),
            (lambda n, m: math.perm(n, m // 2), "Combinations, not permutations; and an odd number gives 0."),
            (lambda n, m: 2**n, "That is the number of all paths, of every length together."),
            (
                lambda n, m: math.comb(2 * n, m),
                "A path cannot enter an F halfway: choose blocks, not single convolutions.",
            ),
            (
                lambda n, m: 0 if m % 2 else math.comb(n, 2 * m),
                "Divide by two: m convolutions make m // 2 blocks.",
            ),
            *_too_small_types(_paths),
        ),
        otherwise="Write down all paths of two blocks, and count the convolutions on each.",
    )
    return f"the counts are those of multiplying out in {len(cases)} cases, odd and too large ones too."


def _shortcut_formula(
    depth: int,
    option: str,
    width: int,
    *,
    norm: int = 2,
    kernel_size: int = 1,
    first_stage: bool = True,
    staying: bool = True,
    changing: bool = True,
    extra_transition: bool = False,
    one_transition: bool = False,
    inputs_per_output: float = 0.5,
    norm_of_inputs: bool = False,
    twice: bool = False,
    blocks_per_stage: Callable[[int], int] = lambda depth: (depth - 2) // 6,
) -> int:
    """Parameters of all shortcuts; the options make the mistakes that are named below."""
    if option == "A":
        return 0
    count = 0
    n = blocks_per_stage(depth)
    for stage in range(3):
        channels = width * 2**stage
        per_norm = norm * channels
        if stage and changing and not (one_transition and stage == 2):
            count += int(kernel_size * channels * channels * inputs_per_output)
            count += per_norm // 2 if norm_of_inputs else per_norm
        if option == "C" and staying and (stage or first_stage):
            left = n - (bool(stage) and not twice)
            count += left * (kernel_size * channels * channels + per_norm)
    if extra_transition:
        count += kernel_size * width * width + norm * width
    return count


def _shortcuts_of_the_network(depth: int, option: str, width: int) -> int:
    with torch.device("meta"):
        network = models.cifar_resnet(depth, shortcut=option, width=width)
    found = [module for name, module in network.named_modules() if name.endswith("downsample")]
    return sum(map(probes.count_parameters, found))


@exercise
def shortcut_parameters(solution: Callable[[int, str, int], int]) -> str:
    """Check ``shortcut_parameters(depth, option, width)`` for the networks of depth 6n + 2.

    Raises:
        CheckFailed: if a count is not that of the module.
    """
    cases = (
        (20, "A", 16),
        (20, "B", 16),
        (20, "C", 16),
        (56, "B", 16),
        (56, "C", 16),
        (8, "C", 4),
        (32, "C", 5),
    )
    mistakes = {
        "Each projection has a batch norm, which learns a scale and a shift for each channel.": {"norm": 0},
        "A batch norm learns two numbers for each channel.": {"norm": 1},
        "Running statistics are not learned, so they are no parameters.": {"norm": 4},
        "A convolution in front of a norm has no bias.": {"norm": 3},
        "The projections are 1×1: one weight for each pair of channels.": {"kernel_size": 9},
        "Option C projects in the first stage too, where nothing changes.": {"first_stage": False},
        "Option C projects everywhere, also where the shape stays.": {"staying": False},
        "Option C projects also where the shape changes: add what option B has.": {"changing": False},
        "Only two blocks change the shape: the first stage begins with as many channels as the stem gives.": {
            "extra_transition": True
        },
        "Two stages begin with a change of shape: the second and the third.": {"one_transition": True},
        "Where the channels double, a projection has C_in · C_out weights, half of C_out · C_out.": {
            "inputs_per_output": 1
        },
        "The projection's norm stands behind its convolution, so it has C_out channels.": {
            "norm_of_inputs": True
        },
        "The first block of the second and of the third stage is counted twice: it changes the shape, so it "
        "is not one of those where the shape stays.": {"twice": True},
        "There are (depth − 2) / 6 blocks in each stage.": {"blocks_per_stage": lambda depth: depth // 6 + 1},
        "// comes before −: write (depth - 2) // 6, with brackets.": {
            "blocks_per_stage": lambda depth: depth - 2 // 6
        },
        "A block has two layers: a stage has (depth − 2) / 6 blocks, not (depth − 2) / 3.": {
            "blocks_per_stage": lambda depth: (depth - 2) // 3
        },
    }

    def zero_padding_counts(depth: int, option: str, width: int) -> int:
        return _shortcut_formula(depth, "B" if option == "A" else option, width)

    def without_width(depth: int, option: str, width: int) -> int:
        return _shortcut_formula(depth, option, 16)

    def always_c(depth: int, option: str, width: int) -> int:
        return _shortcut_formula(depth, "A" if option == "A" else "C", width)

    def whole_network(depth: int, option: str, width: int) -> int:
        with torch.device("meta"):
            return probes.count_parameters(models.cifar_resnet(depth, shortcut=option, width=width))

    def whole_network_for_gray(depth: int, option: str, width: int) -> int:
        return whole_network(depth, option, width) - 2 * 9 * width

    compare_counts(
        solution,
        "shortcut_parameters",
        cases,
        _shortcuts_of_the_network,
        (
            *((functools.partial(_shortcut_formula, **options), text) for text, options in mistakes.items()),
            (zero_padding_counts, "Option A fills up with zeros: it has no parameters at all."),
            (without_width, "The first stage has width channels, not always 16."),
            (always_c, "Option B projects only where the shape changes: twice in the network."),
            (whole_network, "That is the whole network; only the shortcuts are asked for."),
            (whole_network_for_gray, "That is the whole network; only the shortcuts are asked for."),
            *_too_small_types(_shortcuts_of_the_network),
        ),
    )
    return f"the counts are the networks' in {len(cases)} cases."


# ---- the pre-activation block


@dataclass
class _Parts:
    """The layers that ran in a reader's block, by their kind, in order."""

    norms: list[nn.BatchNorm2d]
    convs: list[nn.Conv2d]
    projections: list[nn.Conv2d]


_PREACT_CASES = (
    BlockCase(8, 8),
    BlockCase(6, 12, 2),
    BlockCase(5, 5, 2, (7, 5)),
    BlockCase(4, 8, 1, (5, 4)),
    BlockCase(16, 16, 1, (1, 3)),
    BlockCase(4, 4, 3, (7, 8)),
)


def _output(block: nn.Module, x: Tensor, case: BlockCase) -> Tensor:
    before = x.detach().clone()
    modes = [module.training for module in block.modules()]
    describe = f"forward ({case}, input {tuple(x.shape)})"
    try:
        with _leaving_no_trace(describe):
            out = call_reader(block, x, describe=describe)
    except CheckFailed as failed:
        said = f"{failed}. "
        if "running_mean should contain" in str(failed):
            said += "A norm has the channels of what it reads: in_channels in the first, then out_channels."
        elif "inplace operation" in str(failed) or "a view of a leaf" in str(failed):
            said += "The shortcut still needs x: use no in-place ReLU on it, and no +=."
        elif case.changes_shape:
            said += (
                "Input and output differ in shape here: the shortcut needs a 1×1 convolution with the "
                "block's stride, and the stride stands on the first 3×3. The first norm sees in_channels."
            )
        else:
            said += "Follow the shapes through forward, layer by layer."
        raise CheckFailed(said) from failed.__cause__
    if not isinstance(out, Tensor):
        raise CheckFailed(f"forward gives {type(out).__name__}, not a Tensor: does it end with `return`?")
    if not torch.equal(x, before):
        raise CheckFailed("forward changes its own input in place, which the shortcut and others still need.")
    if [module.training for module in block.modules()] != modes:
        raise CheckFailed("forward switches between training and evaluation mode: leave that to the caller.")
    shape = (x.shape[0], *case.output_shape)
    if tuple(out.shape) != shape:
        raise CheckFailed(
            f"With {case}, the input {tuple(x.shape)} gives {tuple(out.shape)}; it must give {shape}: "
            + (
                "look at strides and paddings."
                if out.ndim == 4 and out.shape[1] == case.out_channels
                else "look at the channels. x is added, not put beside F(x)."
            )
        )
    return out


def _parts(block: nn.Module, x: Tensor, case: BlockCase) -> _Parts:
    """The layers of the reader's block, or a message that says which one is missing or too many."""
    with watched() as calls:
        _output(block, x, case)
    norm_calls = ran(calls, nn.BatchNorm2d)
    convolutions = [call.layer for call in ran(calls, nn.Conv2d)]
    parts = _Parts(
        [call.layer for call in norm_calls],
        [conv for conv in convolutions if conv.kernel_size == (3, 3)],
        [conv for conv in convolutions if conv.kernel_size == (1, 1)],
    )
    for first, second in itertools.combinations(norm_calls, 2):
        if first.layer is second.layer and torch.equal(first.input, second.input):
            raise CheckFailed(
                f"With {case}: one norm runs twice on the same input, so its running statistics move twice. "
                "Compute the activated input once, and give it a name."
            )
    problem = _other_norm(calls) or _wrong_parts(
        parts, convolutions, norm_calls[0].input if norm_calls else None, block, x, case
    )
    if problem:
        raise CheckFailed(f"With {case}: {problem}")
    return parts


def _other_norm(calls: list[LayerCall]) -> str | None:
    """A normalization layer of another kind."""
    kinds = {type(call.layer) for call in calls} - {nn.BatchNorm2d}
    other = [name for kind in kinds if "Norm" in (name := kind.__name__)]
    return f"{other[0]} is another norm: here each norm is an nn.BatchNorm2d." if other else None


def _wrong_channels(parts: _Parts, case: BlockCase) -> str | None:
    """The first layer whose channels are not those of the case."""
    i, o = case.in_channels, case.out_channels
    rules = "The first norm and the first 3×3 read in_channels, and everything after them has out_channels."
    for norm, name, channels in zip(parts.norms, ("first norm", "second norm"), (i, o), strict=True):
        if norm.num_features != channels:
            return f"the {name} has {norm.num_features} channels, not {channels}. {rules}"
    convs = [(parts.convs[0], "first 3×3", (i, o)), (parts.convs[1], "second 3×3", (o, o))]
    convs += [(conv, "projection", (i, o)) for conv in parts.projections]
    for conv, name, channels in convs:
        given = (conv.in_channels, conv.out_channels)
        if given != channels:
            here, wanted = (f"from {first} to {last} channels" for first, last in (given, channels))
            return f"the {name} leads {here}, not {wanted}. {rules}"
    return None


def _wrong_parts(
    parts: _Parts,
    convolutions: list[nn.Conv2d],
    first_norm_reads: Tensor | None,
    block: nn.Module,
    x: Tensor,
    case: BlockCase,
) -> str | None:
    known = {id(module) for module in block.modules()}
    used = [*convolutions, *parts.norms]
    if len(convolutions) != len(parts.convs) + len(parts.projections) or len(parts.convs) != 2:
        kernels = ", ".join(map(kernel, convolutions)) or "none"
        return f"F has two 3×3 convolutions, and the shortcut a 1×1 where it must; yours runs {kernels}."
    if any(id(layer) not in known for layer in used):
        return "a layer runs that is not registered: make it an attribute in __init__."
    if len({id(layer) for layer in used}) != len(used):
        return "one layer is used twice, so two places share its numbers: create a second one in __init__."
    for conv in convolutions:
        if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
            return f"{conv} is an unusual convolution: leave groups, dilation and padding_mode as they are."
    if any(conv.bias is not None for conv in convolutions):
        return "a convolution has a bias; set bias=False, as in the other blocks of the book."
    if first_norm_reads is not None and torch.equal(first_norm_reads, F.relu(x)):
        return _PREACT_MISTAKES["relu before norm"]
    if first_norm_reads is None or not torch.equal(first_norm_reads, x):
        return (
            "the first norm does not read the block's input. Here the order is norm, ReLU, convolution, "
            "twice; convolution first is the post-activation block (v1)."
        )
    if case.changes_shape and not parts.projections:
        return "there is no projection: where the shape changes, the shortcut is a 1×1 convolution."
    if not case.changes_shape and parts.projections:
        return "there is a projection where the shape stays (option C): there the shortcut is the identity."
    if len(parts.norms) > 2:
        return (
            "there is a norm too many: F has two, and the projection has none, because what it reads is "
            "normalized already. Nor does a norm follow the addition."
        )
    if len(parts.norms) < 2:
        return "a norm is missing: one stands in front of each 3×3 convolution."
    if problem := next((problem for norm in parts.norms if (problem := unusual_norm(norm))), None):
        return problem
    if problem := _wrong_channels(parts, case):
        return problem
    numbers = {id(parameter) for layer in used for parameter in layer.parameters()}
    idle = [name for name, parameter in block.named_parameters() if id(parameter) not in numbers]
    if idle:
        return (
            f"{idle[0]} belongs to none of the layers that run, so the block has parameters too many. Create "
            "only what this case needs, the projection only where the shape changes."
        )
    return None


_OTHER_ACTIVATIONS = {
    function.__name__: function
    for function in (F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, torch.sigmoid, torch.tanh)
}

_PREACT_MISTAKES = {
    "relu after": "there is a ReLU after the addition; here nothing stands between it and the next block.",
    "never": "the shortcut is never added.",
    "no relu 0": "the ReLU is missing between the first norm and the first convolution.",
    "no relu 1": "the ReLU is missing between the second norm and the second convolution.",
    "relu before norm": "ReLU comes before the norm; the order is norm, ReLU, convolution.",
    "adds activated": "the activated input is added where the shape stays; the shortcut is x itself.",
    "adds normalized": "the normalized input is added where the shape stays; the shortcut is x itself.",
    "relu on skip": "a ReLU stands on the shortcut: x is added as it is, with its negative numbers.",
    "projects x": "the projection reads x; it reads the activated input, after the first norm and ReLU.",
    "projects normalized": "the projection reads the norm's output; it comes after the ReLU as well.",
    "minus": "the shortcut is subtracted; it must be added.",
    "late stride": "the stride is on the second 3×3 convolution; it belongs on the first.",
    "relu before plus": "a ReLU stands between the last convolution and the addition: F may be negative.",
    "twice": "the shortcut is added twice.",
    "times": "the shortcut is multiplied with F(x); it must be added.",
    "reads x": "the first convolution reads x itself; it reads the activated input, after norm and ReLU.",
    **{name: f"the activation is {name}, and not the ReLU." for name in _OTHER_ACTIVATIONS},
}


def _preact_layers(block: blocks.PreActBlock) -> list[nn.Module]:
    """Norms, 3×3 convolutions, and the projection if there is one, in the order of :class:`_Parts`."""
    projections = [block.downsample] if isinstance(block.downsample, nn.Conv2d) else []
    return [block.bn1, block.bn2, block.conv1, block.conv2, *projections]


def _mistaken_preact(block: blocks.PreActBlock, x: Tensor, mistake: str) -> Tensor:
    """What the trusted block would put out with one mistake."""
    activation = _OTHER_ACTIVATIONS.get(mistake, F.relu)
    normalized = block.bn1(x)
    if mistake == "relu before norm":
        normalized = block.bn1(F.relu(x))
    activated = normalized if mistake in ("no relu 0", "relu before norm") else activation(normalized)
    if isinstance(block.downsample, nn.Conv2d):
        reads = {"projects x": x, "projects normalized": normalized}.get(mistake, activated)
        shortcut = block.downsample(reads)
    else:
        choices = {"adds activated": activated, "adds normalized": normalized, "relu on skip": F.relu(x)}
        shortcut = choices.get(mistake, x)
    first, second = block.conv1, block.conv2
    stride = first.stride
    early, late = ((1, 1), stride) if mistake == "late stride" else (stride, (1, 1))
    out = F.conv2d(x if mistake == "reads x" else activated, first.weight, None, early, 1)
    out = block.bn2(F.relu(out)) if mistake == "relu before norm" else block.bn2(out)
    if mistake not in ("no relu 1", "relu before norm"):
        out = activation(out)
    out = F.conv2d(out, second.weight, None, late, 1)
    if mistake == "never":
        return out
    if mistake == "relu before plus":
        out = F.relu(out)
    if mistake == "times":
        return out * shortcut
    out = out + shortcut * {"minus": -1, "twice": 2}.get(mistake, 1)
    return F.relu(out) if mistake == "relu after" else out


@exercise
def pre_activation_block(solution: Callable[..., nn.Module]) -> str:
    """Check a pre-activation block, ``solution(in_channels, out_channels, stride=1)``.

    It is compared with :class:`resnetbook.blocks.PreActBlock` with the same weights: outputs and gradients
    in both modes, and running statistics. Names of layers do not matter.

    Raises:
        CheckFailed: if the block differs, naming the mistake where it is a known one.
    """
    but = ""
    for seed, case in enumerate(_PREACT_CASES):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        block = new_block(solution, case).double()
        # Large enough that a ReLU6 in the place of a ReLU shows.
        x = 5 * torch.randn(3, case.in_channels, *case.size, generator=generator, dtype=torch.float64)
        parts = _parts(block, x, case)
        _randomize(parts.norms, generator)
        trusted = blocks.PreActBlock(case.in_channels, case.out_channels, case.stride).double()
        mine = [*parts.norms, *parts.convs, *parts.projections]
        for own, layer in zip(_preact_layers(trusted), mine, strict=True):
            own.load_state_dict(layer.state_dict())
        given = measure(block, [mine], x, functools.partial(_output, block, case=case))
        fresh = copy.deepcopy(trusted)  # measuring moves the running statistics
        right = measure(fresh, [_preact_layers(fresh)], x, fresh)
        for key in right:
            if not same(given[key], right[key]):
                trusted.train("training" in key)
                raise CheckFailed(f"With {case}{_explain_preact(key, given[key], trusted, x)}")
        but = but or _kept_alive(block)
    if any(isinstance(module, blocks.PreActBlock) for module in block.modules()):
        raise CheckFailed("That is the package's own PreActBlock: the exercise is to write one yourself.")
    return f"outputs and gradients are those of the book's block in {len(_PREACT_CASES)} cases.{but}"


def _kept_alive(block: nn.Module) -> str:
    """A warning, if the block holds tensors of its last forward pass, and with them all the graph."""
    for module in block.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                return (
                    f" But self.{name} keeps the last forward pass in memory, its graph included: a local "
                    "name is enough."
                )
    return ""


def _explain_preact(key: str, given: Tensor, trusted: nn.Module, x: Tensor) -> str:
    """What a difference in one of the things measured points to; those before it in order are right."""
    if given.dtype != x.dtype:
        return (
            f": the output is {given.dtype} and the input {x.dtype}: let no .float() or .to() change the "
            "type."
        )
    if key.startswith("gradient"):
        return (
            ": the output is right, but a gradient is not: detach(), .data, no_grad() or "
            "requires_grad=False cuts it."
        )
    if key.startswith("running"):
        return ": let each norm see its input once in each forward pass, in the mode of the whole."
    with torch.no_grad():
        for mistake, message in _PREACT_MISTAKES.items():
            try:
                guess = _mistaken_preact(trusted, x, mistake)
            except RuntimeError:
                continue  # shapes that do not fit: not this mistake
            if same(given, guess):
                return f": {message}"
    if "training" in key:
        return (
            ": in evaluation mode the output is right, in training mode it is not. Look for what differs "
            "between the two: a dropout, or a norm that is kept in evaluation mode."
        )
    return (
        ", in evaluation mode, the output differs from the book's block with the same weights. Write the "
        "order down: norm, ReLU, 3×3, norm, ReLU, 3×3, plus x; the first 3×3 has the stride and both have a "
        "padding of 1."
    )
