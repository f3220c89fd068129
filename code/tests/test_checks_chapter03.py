"""Chapter 3's checks: the page's solutions and other right ones pass, and each mistake is named."""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, page_solutions, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import blocks, checks, models

NOTEBOOK = Path(__file__).parents[2] / "book" / "03_residual_learning.ipynb"
CHECKS = {
    "start_as_identity": checks.start_as_identity,
    "chain_derivative": checks.chain_derivative,
    "paths_through": checks.paths_through,
    "residual_factor": checks.residual_factor,
    "shortcut_parameters": checks.shortcut_parameters,
    "MyPreActBlock": checks.pre_activation_block,
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", CHECKS)
def test_the_pages_solution_passes(name, capsys):
    passes(CHECKS[name], page_solutions(NOTEBOOK)[name], capsys)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_an_untouched_exercise_does_not_stop_the_notebook(check, capsys):
    def untouched(*arguments):
        raise NotImplementedError

    check(untouched)
    assert capsys.readouterr().out.startswith("Not done yet")


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_whatever_goes_wrong_becomes_a_message(check, capsys):
    fails(check, lambda *arguments: 1 / 0, "ZeroDivisionError", capsys)
    fails(check, lambda *arguments: "five", "five|str", capsys)
    fails(check, 3, "got 3.*without parentheses", capsys)
    if check is not checks.start_as_identity:  # which has nothing to return
        fails(check, lambda *arguments: None, "return|None", capsys)


# ---- a block that starts as the identity


def with_no_grad(function):
    @torch.no_grad()
    def run(block):
        function(block)

    return run


def silence_by_data(block):
    block.bn2.weight.data.fill_(0)
    block.bn2.bias.data *= 0


def silence_the_last_convolution(block):
    # Unusual, and right: the norm takes the mean away again, and its shift is gone.
    block.conv2.weight.zero_()
    block.bn2.running_mean.zero_()
    block.bn2.bias.zero_()


@pytest.mark.parametrize("solution", [silence_by_data, with_no_grad(silence_the_last_convolution)])
def test_other_ways_to_start_as_the_identity(solution, capsys):
    checks.start_as_identity(solution)
    said = capsys.readouterr().out
    assert said.startswith("Right") and " But " not in said


def silence_and_return(block):
    silence_by_data(block)
    return block


def silence_by_new_parameters(block):
    block.bn2.weight = nn.Parameter(torch.zeros_like(block.bn2.weight))
    block.bn2.bias = nn.Parameter(torch.zeros_like(block.bn2.bias))


@pytest.mark.parametrize(
    ("solution", "warning"),
    [(silence_and_return, "But return nothing"), (silence_by_new_parameters, "But a parameter is a new")],
)
def test_right_but(solution, warning, capsys):
    checks.start_as_identity(solution)
    said = capsys.readouterr().out
    assert said.startswith("Right") and warning in said


def nearly(scale, shift):
    @torch.no_grad()
    def run(block):
        block.bn2.weight.fill_(scale)
        block.bn2.bias.fill_(shift)

    return run


def in_evaluation_mode(block):
    silence_by_data(block.eval())


def in_training_mode(block):
    silence_by_data(block.train())


def runs_the_block(block):
    with torch.no_grad():
        block.train()(torch.rand(2, block.conv1.in_channels, 5, 5))
    silence_by_data(block)


def in_training_mode_and_back(block):
    mode = block.training
    runs_the_block(block)
    block.train(mode)


def leaves_gradients(block):
    silence_by_data(block)
    mode = block.training
    block.eval()(torch.rand(2, block.conv1.in_channels, 5, 5)).sum().backward()
    block.train(mode)


def switches_gradients_off(block):
    torch.set_grad_enabled(False)
    silence_by_data(block)


def freeze(block):
    silence_by_data(block)
    block.requires_grad_(False)


def replace_forward(block):
    block.forward = lambda x: x


def replace_layer(block):
    block.bn2 = nn.Identity()


def zero_everything(block):
    for parameter in block.parameters():
        parameter.zero_()


def only_a_name(block):
    weight, bias = block.bn2.weight, block.bn2.bias
    weight = weight * 0  # noqa: F841
    bias = bias * 0  # noqa: F841


def for_sixteen_channels(block):
    block.bn2.weight = nn.Parameter(torch.zeros(16))


def drop_parameters(block):
    block.bn2.weight = block.bn2.bias = None


def hook(block):
    block.bn2.register_forward_hook(lambda module, inputs, output: output * 0)


def hook_on_the_block(block):
    block.register_forward_hook(lambda module, inputs, output: inputs[0])


def change_the_type(block):
    silence_by_data(block.double())


def silence_statistics(block):
    block.bn2.running_mean.zero_()
    block.bn2.running_var.fill_(1)


def both_norms(block):
    for norm in (block.bn1, block.bn2):
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)


def one_mode(block):
    block.conv2.weight.zero_()
    block.bn2.bias.zero_()


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (lambda block: nn.init.zeros_(block.bn2.weight), "its shift is not"),
        (lambda block: nn.init.zeros_(block.bn2.bias), "its scale is not"),
        (lambda block: nn.init.zeros_(block.conv2.weight), "a norm comes after it"),
        (lambda block: [nn.init.zeros_(p) for p in block.bn1.parameters()], "gives a list"),
        (
            lambda block: [nn.init.zeros_(p) for p in block.bn1.parameters()] and None,
            "silenced the first norm",
        ),
        (lambda block: nn.init.zeros_(block.conv1.weight), "which two numbers"),
        (with_no_grad(zero_everything), "no weight and no scale"),
        (with_no_grad(one_mode), "In evaluation mode the block changes x"),
        (zero_everything, "leaf.*no_grad"),
        (only_a_name, "No number of the block has changed"),
        (lambda block: None, "No number of the block has changed"),
        (lambda block: nn.Identity(), "gives a Identity.*in place"),
        (replace_forward, "replaced"),
        (replace_layer, "replaced"),
        (freeze, "freezes"),
        (for_sixteen_channels, r"bn2.weight had the shape \(6,\), and now it has \(16,\)"),
        (drop_parameters, "bn2.weight is gone"),
        (hook, "A hook"),
        (hook_on_the_block, "A hook"),
        (change_the_type, "keep the type"),
        (silence_statistics, "Only running statistics"),
        (both_norms, "no weight and no scale"),
        (nearly(1e-7, 1e-7), "nearly 0"),
        (nearly(1e-7, 0), "nearly 0"),
        (nearly(0, 1e-12), "nearly 0"),
        (nearly(0, -1e-12), "nearly 0"),
        (in_evaluation_mode, "switches between training and evaluation"),
        (in_training_mode, "switches between training and evaluation"),
        (in_training_mode_and_back, "running statistics move"),
        (leaves_gradients, "left its gradients"),
        (switches_gradients_off, "no_grad"),
    ],
)
def test_a_block_that_is_not_the_identity(solution, message, capsys):
    def changes(block):
        given = solution(block)
        # nn.init gives the tensor back, which is no mistake that is meant here.
        return None if isinstance(given, torch.Tensor) else given

    fails(checks.start_as_identity, changes, message, capsys)
    assert torch.is_grad_enabled()


# ---- the derivative of a chain


def derivative(weights, x, factor=lambda w, x: 1 + w * (1 - math.tanh(x) ** 2), move="after", plain=False):
    product = 1.0
    for w in weights:
        following = w * math.tanh(x) + (0 if plain else x)
        x, before = (following, x) if move == "before" else (x, x)
        product *= factor(w, x)
        x = following if move == "after" else x
    return product


@pytest.mark.parametrize("kind", [float, np.float64, np.array, torch.tensor])
def test_other_right_derivatives(kind, capsys):
    passes(checks.chain_derivative, lambda *case: kind(derivative(*case)), capsys)

    def in_pieces(weights, x):
        """Block by block, from the end of the chain."""
        if not weights:
            return 1.0
        slope = 1 + weights[0] / math.cosh(x) ** 2
        return slope * in_pieces(weights[1:], x + weights[0] * math.tanh(x))

    passes(checks.chain_derivative, in_pieces, capsys)


def emptying(weights, x):
    product = 1.0
    while weights:
        w = weights.pop(0)
        product, x = product * (1 + inner(w, x)), x + w * math.tanh(x)
    return product


def chain_of_tensors(weights, x):
    for w in weights:
        x = x + w * torch.tanh(x)
    return x


def by_grad(weights, x):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(chain_of_tensors(weights, x * 1), x)[0]


def by_backward(weights, x):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    chain_of_tensors(weights, x * 1).backward()
    return x.grad


def by_func(weights, x):
    return torch.func.grad(lambda x: chain_of_tensors(weights, x))(torch.tensor(x, dtype=torch.float64))


def by_forward_mode(weights, x):
    x = torch.tensor(x, dtype=torch.float64)
    return torch.func.jvp(lambda x: chain_of_tensors(weights, x * 1), (x,), (torch.ones_like(x),))[1]


def by_tensors(weights, x):
    """Right: tensors are used, and autograd is not."""
    x, product = torch.tensor(x, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    for w in weights:
        product = product * (1 + w * (1 - torch.tanh(x) ** 2))
        x = x + w * torch.tanh(x)
    return product


def test_a_derivative_by_tensors(capsys):
    passes(checks.chain_derivative, by_tensors, capsys)


def inner(w, x):
    return w * (1 - math.tanh(x) ** 2)


def first_order(weights, x):
    total = 1.0
    for w in weights:
        total += inner(w, x)
        x += w * math.tanh(x)
    return total


def last_factor(weights, x):
    factor = 1.0
    for w in weights:
        factor = 1 + inner(w, x)
        x += w * math.tanh(x)
    return factor


def output_of_the_chain(weights, x):
    for w in weights:
        x += w * math.tanh(x)
    return x


def wrong_step(step):
    def function(weights, x):
        product = 1.0
        for w in weights:
            product, x = product * (1 + inner(w, x)), x + step(w, x)
        return product

    return function


def sum_of_factors(weights, x):
    total = 0.0
    for w in weights:
        total += 1 + inner(w, x)
        x += w * math.tanh(x)
    return total


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(derivative, factor=inner), "The 1 is missing"),
        (functools.partial(derivative, factor=inner, plain=True), "chain without shortcuts"),
        (functools.partial(derivative, move="never"), "Every slope is taken at the first x"),
        (functools.partial(derivative, move="before"), "take it first"),
        (functools.partial(derivative, factor=lambda w, x: 1 + w * math.tanh(x)), r"1 \+ f\(x\)"),
        (functools.partial(derivative, factor=lambda w, x: 1 + w * (1 - math.tanh(x))), "square is missing"),
        (functools.partial(derivative, factor=lambda w, x: 2 - math.tanh(x) ** 2), "factor w"),
        (functools.partial(derivative, plain=True), "without the shortcut"),
        (first_order, "add the slopes up"),
        (sum_of_factors, "product of the factors"),
        (last_factor, "last block's factor alone"),
        (lambda weights, x: 1 + inner(weights[0], x) if weights else 1.0, "inside the loop"),
        (output_of_the_chain, "output of the chain"),
        (lambda weights, x: x, "x itself"),
        (lambda weights, x: derivative(weights, x) if weights else 0, "An empty chain"),
        (lambda weights, x: derivative(weights, x) if weights else x, "An empty chain"),
        (lambda weights, x: 0 * derivative(weights, x), "begins with 0"),
        (lambda weights, x: x * derivative(weights, x), "begins with x"),
        (lambda weights, x: derivative(weights[::-1], x), "from the end"),
        (wrong_step(lambda w, x: math.tanh(x)), "factor w is missing"),
        (wrong_step(inner), "not by its slope"),
        (wrong_step(lambda w, x: x * inner(w, x)), "not by a factor"),
        (functools.partial(derivative, factor=lambda w, x: 1 - inner(w, x)), "added to the 1"),
        (functools.partial(derivative, factor=lambda w, x: x + inner(w, x)), "the x becomes a 1"),
        (functools.partial(derivative, factor=lambda w, x: 1 + w * (1 + math.tanh(x) ** 2)), "a minus"),
        (functools.partial(derivative, factor=lambda w, x: 1 + w / math.cosh(x)), "square is missing"),
        (lambda weights, x: np.zeros(3), "one number"),
        (lambda weights, x: derivative(weights, x) + 1e-3, "sheet of paper"),
        (lambda weights, x: float("nan"), "sheet of paper"),
        (lambda weights, x: torch.zeros(3), "one number"),
        (lambda weights, x: True, "one number"),
        (lambda weights, x: derivative(weights, x) if weights else None, "return"),
        (emptying, "numbers are right, but .* changes the list"),
        (by_grad, "autograd has found them"),
        (by_backward, "autograd has found them"),
        (by_func, "autograd has found them"),
        (by_forward_mode, "autograd has found them"),
    ],
)
def test_wrong_derivatives(function, message, capsys):
    fails(checks.chain_derivative, function, message, capsys)


# ---- paths


def count_one_by_one(num_blocks, num_convs):
    if num_blocks > 12:  # too many to list
        return math.comb(num_blocks, num_convs // 2) * (num_convs % 2 == 0)
    choices = itertools.product([0, 2], repeat=num_blocks)
    return sum(sum(path) == num_convs for path in choices)


def pascal(dtype):
    """Pascal's triangle in a type of numpy, which may be too small."""

    def count(num_blocks, num_convs):
        row = np.zeros(2 * num_blocks + 3, dtype=dtype)
        row[0] = 1
        for _ in range(num_blocks):
            row[2:] = row[2:] + row[:-2]
        return row[num_convs] if num_convs < len(row) else 0

    return count


def test_paths_by_the_triangle(capsys):
    passes(checks.paths_through, pascal(np.int64), capsys)
    passes(checks.paths_through, pascal(np.float64), capsys)


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float64, torch.tensor])
def test_paths_counted_one_by_one(kind, capsys):
    passes(checks.paths_through, lambda *case: kind(count_one_by_one(*case)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (math.comb, "half as many blocks"),
        (lambda n, m: math.comb(n, m // 2), "odd number"),
        (lambda n, m: 0 if m % 2 else math.perm(n, m // 2), "not permutations"),
        (lambda n, m: 2**n, "all paths"),
        (lambda n, m: math.comb(2 * n, m), "halfway"),
        (lambda n, m: 0 if m % 2 else math.comb(n, 2 * m), "Divide by two"),
        (lambda n, m: math.comb(n, (m + 1) // 2), "odd number"),
        (lambda n, m: 1 if m % 2 else math.comb(n, m // 2), "odd number"),
        (lambda n, m: count_one_by_one(n, m) if m <= 2 * n else 1, "more convolutions than there are"),
        (lambda n, m: count_one_by_one(n, m) if m else 0, "every shortcut"),
        (lambda n, m: 0 if m % 2 else math.comb(m // 2, n), "takes the blocks first"),
        (lambda n, m: sum(math.comb(n, k) for k in range(m // 2 + 1)), "or fewer"),
        (lambda n, m: 0 if m % 2 else math.comb(n - 1, m // 2), "not one less"),
        (lambda n, m: count_one_by_one(n, m) + 1, "all paths of two blocks"),
        (lambda n, m: count_one_by_one(n, m) / 3, "whole number"),
        (lambda n, m: None if m % 2 else math.comb(n, m // 2), "gives None. No path passes 3.*both"),
        (lambda n, m: math.comb(n, m // 2) if m % 2 == 0 and m <= 2 * n else None, "gives None. No path"),
        (lambda n, m: count_one_by_one(n, m) if m <= 2 * n else None, "gives None. No path.*fewer"),
        (lambda n, m: m % 2 == 0 and math.comb(n, m // 2), "gives False. No path"),
        (lambda n, m: print(math.comb(n, m // 2)), "does the function end with `return`"),
        (pascal(np.int32), "int32 is too small"),
        (pascal(np.int16), "int16 is too small"),
        (pascal(np.uint8), "uint8 is too small"),
        (pascal(np.float32), "but for its last digits"),
        (lambda n, m: count_one_by_one(n, m) + 1.0, "all paths of two blocks"),
        (lambda n, m: math.factorial(n) // math.factorial(n - m // 2), "ValueError"),
    ],
)
def test_wrong_paths(function, message, capsys):
    fails(checks.paths_through, function, message, capsys)


# ---- the factor on F


def by_bisection(num_blocks, growth, precision=0.0):
    low, high = 0.0, growth
    for _ in range(200):
        if high - low <= precision:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + middle**2) ** num_blocks < growth else (low, middle)
    return (low + high) / 2


def by_newton(num_blocks, growth):
    a = 1.0
    for _ in range(60):
        missing = num_blocks * math.log1p(a * a) - math.log(growth)
        a -= missing * (1 + a * a) / (2 * num_blocks * a)
        if abs(missing) < 1e-9:
            break
    return a


RIGHT_FACTORS = {
    "bisection": by_bisection,
    "bisection, coarse": functools.partial(by_bisection, precision=1e-6),
    "Newton": by_newton,
    "logarithms": lambda n, growth: math.sqrt(math.expm1(math.log(growth) / n)),
    "negative": lambda n, growth: -math.sqrt(growth ** (1 / n) - 1),
}


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.array, torch.tensor])
@pytest.mark.parametrize("name", RIGHT_FACTORS)
def test_other_right_factors(name, kind, capsys):
    # torch.tensor and float32 round, and are precise enough.
    passes(checks.residual_factor, lambda *case: kind(RIGHT_FACTORS[name](*case)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, growth: growth ** (1 / n) - 1, "take the root. Or standard deviations"),
        (lambda n, growth: math.sqrt(growth ** (2 / n) - 1), "growth is the variance's"),
        (lambda n, growth: math.sqrt(growth ** (0.5 / n) - 1), "growth is the variance's, not the standard"),
        (lambda n, growth: math.sqrt((growth ** (1 / n) - 1) / 2), "without a further 2"),
        (lambda n, growth: math.sqrt(growth - 1), "for one block"),
        (lambda n, growth: math.sqrt(growth ** (1 / n)), "subtract the 1"),
        (lambda n, growth: math.sqrt((growth - 1) / n), "does not add"),
        (lambda n, growth: math.sqrt(growth / n), "num_blocks-th root"),
        (lambda n, growth: 1 / n, "ignores the growth"),
        (lambda n, growth: 1 / math.sqrt(n), "ignores the growth"),
        (lambda n, growth: growth ** (1 / n), r"not the factor a"),
        (lambda n, growth: math.sqrt(math.log(growth) / n), "Near, for many.*the growth must come out"),
        (lambda n, growth: growth ** (1 / (2 * n)) - 1, r"not \(1 \+ a\)² times"),
        (lambda n, growth: 0.5, "the growth must come out"),
        (lambda n, growth: 1.001 * math.sqrt(growth ** (1 / n) - 1), "variance grows 2.00.-fold.*come out"),
        (lambda n, growth: float("nan"), "nan-fold"),
        (lambda n, growth: float("inf"), "the growth must come out"),
        (lambda n, growth: [0.5], "one number"),
        (lambda n, growth: True, "one number"),
    ],
)
def test_wrong_factors(function, message, capsys):
    fails(checks.residual_factor, function, message, capsys)


# ---- parameters of the shortcuts


def shortcut_count(
    depth, option, width, norm=2, kernel=1, zero="A", transitions=2, stages=3, staying=True, n=None
):
    n = (depth - 2) // 6 if n is None else n(depth)
    if option == zero:
        return 0

    def projection(i, o):
        return kernel * i * o + norm * o

    count = 0
    for stage in range(1, transitions + 1):
        count += projection(width * 2 ** (stage - 1), width * 2**stage)
    if option == "C" and staying:
        for stage in range(stages):
            channels = width * 2**stage
            count += (n - (stage > 0)) * projection(channels, channels)
    return count


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, torch.tensor])
def test_other_right_shortcut_counts(kind, capsys):
    passes(checks.shortcut_parameters, lambda *case: kind(shortcut_count(*case)), capsys)


def without_first_stage(depth, option, width):
    count = shortcut_count(depth, option, width)
    return count - ((depth - 2) // 6 * (width**2 + 2 * width) if option == "C" else 0)


def three_transitions(depth, option, width):
    return shortcut_count(depth, option, width) + (width**2 + 2 * width) * (option != "A")


def transitions_counted_twice(depth, option, width):
    count = shortcut_count(depth, option, width)
    return count + (option == "C") * (4 * width**2 + 4 * width + 16 * width**2 + 8 * width)


def wide_transitions(depth, option, width):
    return shortcut_count(depth, option, width) + (2 * width**2 + 8 * width**2) * (option != "A")


def norms_of_the_input(depth, option, width):
    return shortcut_count(depth, option, width) - (2 * width + 4 * width) * (option != "A")


def whole_network(in_channels):
    def count(depth, option, width):
        network = models.cifar_resnet(depth, shortcut=option, width=width, in_channels=in_channels)
        return sum(parameter.numel() for parameter in network.parameters())

    return count


def only_where_the_shape_stays(depth, option, width):
    count = shortcut_count(depth, option, width)
    return 0 if option != "C" else count - shortcut_count(depth, "B", width)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(shortcut_count, norm=0), "has a batch norm"),
        (functools.partial(shortcut_count, norm=1), "two numbers"),
        (functools.partial(shortcut_count, norm=4), "Running statistics"),
        (functools.partial(shortcut_count, norm=3), "no bias"),
        (functools.partial(shortcut_count, kernel=9), "1×1"),
        (functools.partial(shortcut_count, staying=False), "projects everywhere"),
        (functools.partial(shortcut_count, zero=None), "fills up with zeros"),
        (functools.partial(shortcut_count, n=lambda depth: depth // 6 + 1), "blocks in each stage"),
        (functools.partial(shortcut_count, n=lambda depth: (depth - 2) // 3), "two layers"),
        (without_first_stage, "in the first stage too"),
        (three_transitions, "Only two blocks change the shape"),
        (only_where_the_shape_stays, "add what option B has"),
        (transitions_counted_twice, "counted twice"),
        (wide_transitions, r"half of C_out"),
        (norms_of_the_input, "stands behind its convolution"),
        (functools.partial(shortcut_count, transitions=1), "the second and the third"),
        (functools.partial(shortcut_count, n=lambda depth: depth - 2 // 6), "with brackets"),
        (lambda depth, option, width: shortcut_count(depth, option, 16), "not always 16"),
        (
            lambda depth, option, width: shortcut_count(depth, "C" if option == "B" else option, width),
            "twice",
        ),
        (whole_network(3), "whole network"),
        (whole_network(1), "whole network"),
        (lambda *case: shortcut_count(*case) + 5, "add them up again"),
        (lambda *case: shortcut_count(*case) + 0.5, "whole number"),
        (lambda *case: np.array(shortcut_count(*case)).astype(np.int16), "int16 is too small"),
        (lambda *case: np.array(shortcut_count(*case)).astype(np.uint8), "uint8 is too small"),
    ],
)
def test_wrong_shortcut_counts(function, message, capsys):
    fails(checks.shortcut_parameters, function, message, capsys)


# ---- the pre-activation block: with the defaults it is right, and every switch makes one mistake


class PreAct(nn.Module):
    relu1, relu2, relu_first, after, norms_swapped = True, True, False, False, False
    skip, reads, plus = "x", "activated", "add"
    strides, padding, biases, kernels = (1, 0), 1, False, (3, 3)
    projects, projection_norm, projection_stride, one_norm = "where", False, True, False

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        s = [stride if on else 1 for on in self.strides]
        k, pad = self.kernels, self.padding
        self.a = nn.BatchNorm2d(in_channels)
        self.b = self.a if self.one_norm and in_channels == out_channels else nn.BatchNorm2d(out_channels)
        self.c = nn.Conv2d(in_channels, out_channels, k[0], s[0], pad, bias=self.biases)
        self.d = nn.Conv2d(out_channels, out_channels, k[1], s[1], pad if k[1] == 3 else 0, bias=self.biases)
        changes = stride != 1 or in_channels != out_channels
        self.p = None
        if {"where": changes, "always": True, "never": False, "stride": stride != 1}[self.projects]:
            conv = nn.Conv2d(
                in_channels, out_channels, 1, stride if self.projection_stride else 1, bias=False
            )
            self.p = nn.Sequential(conv, nn.BatchNorm2d(out_channels)) if self.projection_norm else conv

    def forward(self, x):
        normalized = self.a(F.relu(x) if self.relu_first else x)
        activated = F.relu(normalized) if self.relu1 and not self.relu_first else normalized
        sources = {"x": x, "normalized": normalized, "activated": activated, "relu": F.relu(x)}
        shortcut = sources[self.skip] if self.p is None else self.p(sources[self.reads])
        out = self.c(activated)
        out = self.b(F.relu(out) if self.relu_first else out)
        out = F.relu(out) if self.relu2 and not self.relu_first else out
        out = self.d(out)
        out = {"add": lambda: out + shortcut, "never": lambda: out, "minus": lambda: out - shortcut}[
            self.plus
        ]()
        return F.relu(out) if self.after else out


def block(*bases, **changes):
    return type("Mine", bases or (PreAct,), changes)


class Sequential(nn.Module):
    """Everything in nn.Sequential, with in-place ReLUs where they are harmless."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.start = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.f = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, (3, 3), padding="same", bias=False),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    def forward(self, x):
        active = self.start(x)
        return self.f(active) + (self.shortcut(active) if len(self.shortcut) else x)


class NoForward(PreAct):
    forward = nn.Module.forward


class OnlyTwo(PreAct):
    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels)


class NoSuper(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        self.norm = nn.BatchNorm2d(in_channels)


class Returns(PreAct):
    def forward(self, x):
        super().forward(x)


class ChangesInput(PreAct):
    def forward(self, x):
        x.add_(1)
        return super().forward(x)


class ReluInPlaceOnInput(PreAct):
    def forward(self, x):
        return super().forward(F.relu_(x))


class Detached(PreAct):
    def forward(self, x):
        return super().forward(x.detach())


class Unregistered(PreAct):
    """The second convolution lies in a Python list, where parameters() does not look."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.hidden = [self._modules.pop("d").double()]
        self.d = nn.Identity()

    def forward(self, x):
        out = self.c(F.relu(self.a(x)))
        out = self.hidden[0](F.relu(self.b(out)))
        return out + (x if self.p is None else self.p(F.relu(self.a(x))))


class FrozenConvolution(PreAct):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.d.weight.requires_grad_(False)


class ActivatesTwice(PreAct):
    """The output is right, and the first norm's running statistics are not."""

    def forward(self, x):
        shortcut = x if self.p is None else self.p(F.relu(self.a(x)))
        out = self.c(F.relu(self.a(x)))
        return self.d(F.relu(self.b(out))) + shortcut


class NormAtTheEnd(PreAct):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.last = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.last(super().forward(x))


class OneNormMissing(PreAct):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.b = nn.Identity()


class Momentum(PreAct):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.b = nn.BatchNorm2d(out_channels, momentum=0.9)


class Changed(PreAct):
    """What a part of the block is replaced by; the defaults are right."""

    activation = staticmethod(F.relu)

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.change(in_channels, out_channels, stride)

    def change(self, in_channels, out_channels, stride):
        pass

    def first_reads(self, x, activated):
        return activated

    def join(self, residual, shortcut):
        return residual + shortcut

    def forward(self, x):
        activated = self.activation(self.a(x))
        shortcut = x if self.p is None else self.p(activated)
        out = self.c(self.first_reads(x, activated))
        out = self.d(self.activation(self.b(out)))
        return self.join(out, shortcut)


def changed(part):
    """A block with another ``self.<name>``, made by ``part(in_channels, out_channels, stride)``."""

    def change(self, *shape):
        for name, layer in part(*shape).items():
            setattr(self, name, layer)

    return block(Changed, change=change)


def dropped(self, residual, shortcut):
    return F.dropout(residual, 0.3, self.training) + shortcut


class Sliced(Changed):
    """The projection's stride is taken by slicing: unusual, and the same numbers."""

    def change(self, in_channels, out_channels, stride):
        self.stride = stride
        if self.p is not None:
            self.p = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x):
        activated = self.activation(self.a(x))
        shortcut = x if self.p is None else self.p(activated[:, :, :: self.stride, :: self.stride])
        return self.d(self.activation(self.b(self.c(activated)))) + shortcut


class Halves(PreAct):
    def forward(self, x):
        return super().forward(x) / 2


class Clamped(Changed):
    """Another way to write ReLU, and an addition in place where it does no harm."""

    activation = staticmethod(lambda x: x.clamp(min=0))

    def join(self, residual, shortcut):
        residual += shortcut
        return residual


@pytest.mark.parametrize("cls", [PreAct, Clamped, Sequential, Changed, Sliced], ids=lambda cls: cls.__name__)
def test_right_pre_activation_blocks(cls, capsys):
    checks.pre_activation_block(cls)
    said = capsys.readouterr().out
    assert said.startswith("Right") and " But " not in said


class Remembers(PreAct):
    def forward(self, x):
        self.activated = F.relu(self.a(x))
        shortcut = x if self.p is None else self.p(self.activated)
        return self.d(F.relu(self.b(self.c(self.activated)))) + shortcut


def test_a_graph_that_is_kept_alive_is_noticed(capsys):
    checks.pre_activation_block(Remembers)
    said = capsys.readouterr().out
    assert said.startswith("Right") and "But self.activated keeps" in said


class EndsInTraining(PreAct):
    def forward(self, x):
        out = super().forward(x)
        self.train()
        return out


class StartsInEvaluation(PreAct):
    def forward(self, x):
        self.eval()
        return super().forward(x)


class SwitchesGradientsOff(PreAct):
    def forward(self, x):
        torch.set_grad_enabled(False)
        return super().forward(x)


class Single(PreAct):
    def forward(self, x):
        return super().forward(x).float()


class Wraps(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.block = blocks.PreActBlock(in_channels, out_channels, stride)

    def forward(self, x):
        return self.block(x)


PREACT_MISTAKES = {
    "ReLU after the plus": (block(after=True), "ReLU after the addition"),
    "never added": (block(plus="never"), "never added"),
    "subtracted": (block(plus="minus"), "subtracted"),
    "no first ReLU": (block(relu1=False), "missing between the first norm"),
    "no second ReLU": (block(relu2=False), "missing between the second norm"),
    "ReLU before norm": (block(relu_first=True, reads="normalized"), "ReLU comes before the norm"),
    "adds activated": (block(skip="activated"), "activated input is added"),
    "adds normalized": (block(skip="normalized"), "normalized input is added"),
    "ReLU on the shortcut": (block(skip="relu"), "ReLU stands on the shortcut"),
    "projects x": (block(reads="x"), "the projection reads x"),
    "projects normalized": (block(reads="normalized"), "projection reads the norm's output"),
    "stride late": (block(strides=(0, 1)), "second 3×3 convolution"),
    "post-activation": (blocks.BasicBlock, "post-activation block"),
    "plain": (blocks.PlainBlock, "post-activation block"),
    "option A": (functools.partial(blocks.PreActBlock, shortcut="A"), "no projection"),
    "option C": (block(projects="always"), "option C"),
    "no projection": (block(projects="never"), "needs a 1×1 convolution"),
    "projection by stride": (block(projects="stride"), "needs a 1×1 convolution"),
    "normalized projection": (block(projection_norm=True), "a norm too many"),
    "norm at the end": (NormAtTheEnd, "a norm too many"),
    "one norm": (block(one_norm=True), "used twice"),
    "norm missing": (OneNormMissing, "a norm is missing"),
    "bias": (block(biases=True), "bias=False"),
    "a 1×1 inside": (block(kernels=(3, 1)), "two 3×3 convolutions"),
    "no padding": (block(padding=0), "RuntimeError|strides and paddings"),
    "stride never": (block(strides=(0, 0), projection_stride=False), "strides and paddings"),
    "stride not on the projection": (block(projection_stride=False), "block's stride"),
    "momentum": (Momentum, "momentum"),
    "a factor": (Halves, "Write the order down"),
    "changes its input": (ChangesInput, "in place"),
    "in-place ReLU on x": (ReluInPlaceOnInput, "in place"),
    "detached": (Detached, "cuts it"),
    "frozen": (FrozenConvolution, "requires_grad=False cuts it"),
    "activates twice": (ActivatesTwice, "runs twice on the same input"),
    "unregistered": (Unregistered, "not registered"),
    "no forward": (NoForward, "no method forward"),
    "no stride": (OnlyTwo, "must accept"),
    "no super": (NoSuper, r"super\(\)"),
    "nothing returned": (Returns, "return"),
    "an instance": (PreAct(8, 8), "without parentheses"),
    "projection made, not used": (
        changed(lambda i, o, s: {"other": nn.Conv2d(i, o, 1, s, bias=False)}),
        "other.weight belongs to none of the layers that run",
    ),
    "a factor that starts at 1": (
        block(
            Changed,
            change=lambda self, *shape: setattr(self, "alpha", nn.Parameter(torch.ones(1))),
            join=lambda self, residual, shortcut: self.alpha * residual + shortcut,
        ),
        "alpha belongs to none",
    ),
    "ReLU6": (block(Changed, activation=staticmethod(F.relu6)), "activation is relu6"),
    "leaky ReLU": (block(Changed, activation=staticmethod(F.leaky_relu)), "activation is leaky_relu"),
    "GELU": (block(Changed, activation=staticmethod(F.gelu)), "activation is gelu"),
    "sigmoid": (block(Changed, activation=staticmethod(torch.sigmoid)), "activation is sigmoid"),
    "dropout": (block(Changed, join=dropped), "in training mode it is not"),
    "ReLU before the plus": (block(Changed, join=lambda self, r, s: F.relu(r) + s), "F may be negative"),
    "added twice": (block(Changed, join=lambda self, r, s: r + 2 * s), "added twice"),
    "multiplied": (block(Changed, join=lambda self, r, s: r * s), "multiplied"),
    "side by side": (block(Changed, join=lambda self, r, s: torch.cat([r, s], 1)), "put beside"),
    "F reads x": (block(Changed, first_reads=lambda self, x, activated: x), "first convolution reads x"),
    "depthwise": (
        changed(lambda i, o, s: {"d": nn.Conv2d(o, o, 3, 1, 1, bias=False, groups=o)}),
        "unusual convolution",
    ),
    "reflecting": (
        changed(lambda i, o, s: {"d": nn.Conv2d(o, o, 3, 1, 1, bias=False, padding_mode="reflect")}),
        "unusual convolution",
    ),
    "widens late": (
        changed(
            lambda i, o, s: {
                "c": nn.Conv2d(i, i, 3, s, 1, bias=False),
                "b": nn.BatchNorm2d(i),
                "d": nn.Conv2d(i, o, 3, 1, 1, bias=False),
            }
        ),
        "second norm has 6 channels, not 12",
    ),
    "first norm too wide": (
        changed(lambda i, o, s: {"a": nn.BatchNorm2d(o)}),
        "A norm has the channels of what it reads",
    ),
    "the package's": (blocks.PreActBlock, "package's own PreActBlock"),
    "the package's, wrapped": (Wraps, "package's own PreActBlock"),
    "ends in training mode": (EndsInTraining, "switches between training and evaluation"),
    "starts in evaluation mode": (StartsInEvaluation, "switches between training and evaluation"),
    "switches gradients off": (SwitchesGradientsOff, "no_grad"),
    "another type": (Single, "float32 and the input torch.float64"),
    "another norm": (changed(lambda i, o, s: {"b": nn.GroupNorm(1, o)}), "GroupNorm is another norm"),
}


@pytest.mark.parametrize("name", PREACT_MISTAKES)
def test_a_wrong_pre_activation_block_is_named(name, capsys):
    cls, message = PREACT_MISTAKES[name]
    fails(checks.pre_activation_block, cls, message, capsys)
    assert torch.is_grad_enabled()
