"""Chapter 3's exercises: other right solutions, and mistakes that no edit of the answer gives."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import fails, passes
from torch import nn
from torch.nn import functional as F

from resnetbook import blocks, checks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize(
    "check",
    [
        checks.start_as_identity,
        checks.chain_derivative,
        checks.paths_through,
        checks.residual_factor,
        checks.shortcut_parameters,
        checks.pre_activation_block,
    ],
)
def test_whatever_goes_wrong_becomes_a_message(check, capsys):
    fails(check, lambda *arguments: 1 / 0, "ZeroDivisionError", capsys)
    fails(check, lambda *arguments: "five", "five|str", capsys)
    fails(check, 3, "got 3.*without parentheses", capsys)
    if check is not checks.start_as_identity:  # which has nothing to return
        fails(check, lambda *arguments: None, "return|None", capsys)


# ---- a block that starts as the identity


def silence(block):
    block.bn2.weight.data.fill_(0)
    block.bn2.bias.data *= 0


@torch.no_grad()
def silence_the_last_convolution(block):
    # Unusual, and right: the norm takes the mean away again, and its shift is gone.
    block.conv2.weight.zero_()
    block.bn2.running_mean.zero_()
    block.bn2.bias.zero_()


@pytest.mark.parametrize("solution", [silence, silence_the_last_convolution])
def test_other_ways_to_start_as_the_identity(solution, capsys):
    checks.start_as_identity(solution)
    said = capsys.readouterr().out
    assert said.startswith("Right") and " But " not in said


def silence_and_return(block):
    silence(block)
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
    def solution(block):
        block.bn2.weight.data.fill_(scale)
        block.bn2.bias.data.fill_(shift)

    return solution


def silence_and(change):
    def solution(block):
        silence(block)
        change(block)

    return solution


def zero(*names):
    def solution(block):
        for name in names or dict(block.named_parameters()):
            block.get_parameter(name).data.zero_()

    return solution


def run(block):
    with torch.no_grad():
        block.train()(torch.rand(2, block.conv1.in_channels, 5, 5))


def run_and_go_back(block):
    mode = block.training
    run(block)
    block.train(mode)


def leave_gradients(block):
    sum(parameter.sum() for parameter in block.parameters()).backward()


def replace_forward(block):
    block.forward = lambda x: x


def replace_layer(block):
    block.bn2 = nn.Identity()


def drop_parameters(block):
    block.bn2.weight = block.bn2.bias = None


def for_sixteen_channels(block):
    block.bn2.weight = nn.Parameter(torch.zeros(16))


def hook(block):
    block.bn2.register_forward_hook(lambda module, inputs, output: output * 0)


def without_no_grad(block):
    block.bn2.weight.zero_()


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (zero("conv1.weight"), "not the last layer of F"),
        (zero("bn1.weight", "bn1.bias", "conv1.weight"), "not the last layer of F"),
        (zero(), "no weight and no scale"),
        (zero("bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias"), "no weight and no scale"),
        (zero("conv2.weight", "bn2.bias"), "In evaluation mode the block changes x.*not the last"),
        (without_no_grad, "leaf.*no_grad"),
        (lambda block: None, "No parameter of the block has changed"),
        (lambda block: nn.Identity(), "gives 'Identity'.*in place"),
        (replace_forward, "replaced"),
        (replace_layer, "replaced"),
        (hook, "a hook"),
        (for_sixteen_channels, r"bn2.weight gives 'torch.float32 \(16,\)', and it is 'torch.float32 \(6,\)'"),
        (drop_parameters, "bn2.weight gives 'gone'"),
        (silence_and(lambda block: block.double()), "each stays, with its shape and type"),
        (nearly(1e-7, 1e-7), "nearly 0"),
        (nearly(0, -1e-12), "nearly 0"),
        (nearly(0.5, 0), "which two numbers"),
        (silence_and(lambda block: block.requires_grad_(False)), "leave requires_grad as it is"),
        (silence_and(lambda block: block.eval()), "put its mode back"),
        (silence_and(run_and_go_back), "running statistics move"),
        (silence_and(leave_gradients), "left its gradients"),
        (silence_and(lambda block: torch.set_grad_enabled(False)), "no_grad"),
    ],
)
def test_a_block_that_is_not_the_identity(solution, message, capsys):
    fails(checks.start_as_identity, solution, message, capsys)
    assert torch.is_grad_enabled()


# ---- the derivative of a chain


def derivative(weights, x):
    """Block by block, from the end of the chain."""
    if not weights:
        return 1.0
    slope = 1 + weights[0] / math.cosh(x) ** 2
    return slope * derivative(weights[1:], x + weights[0] * math.tanh(x))


def by_tensors(weights, x):
    """Right: tensors are used, and autograd is not."""
    x, product = torch.tensor(x, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    with torch.no_grad():
        for w in weights:
            product = product * (1 + w * (1 - torch.tanh(x) ** 2))
            x = x + w * torch.tanh(x)
    return product


@pytest.mark.parametrize("function", [derivative, by_tensors, lambda *case: np.float32(derivative(*case))])
def test_other_right_derivatives(function, capsys):
    passes(checks.chain_derivative, function, capsys)


def emptying(weights, x):
    product = 1.0
    while weights:
        w = weights.pop(0)
        product, x = product * (1 + w / math.cosh(x) ** 2), x + w * math.tanh(x)
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


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda weights, x: derivative(weights, x) + 1e-3, "sheet of paper"),
        (lambda weights, x: float("nan"), "sheet of paper"),
        (lambda weights, x: torch.zeros(3), "one number"),
        (lambda weights, x: derivative(weights, x) if weights else None, r"\[\], 0.3\) gives None"),
        (emptying, "is right, but .* changes its own argument weights"),
        (by_grad, "autograd has found them"),
        (by_backward, "autograd has found them"),
        (by_func, "autograd has found them"),
        (by_forward_mode, "autograd has found them"),
    ],
)
def test_wrong_derivatives(function, message, capsys):
    fails(checks.chain_derivative, function, message, capsys)


# ---- counts


def pascal(dtype):
    """Pascal's triangle in a type of numpy, which may be too small."""

    def count(num_blocks, num_convs):
        row = np.zeros(2 * num_blocks + 3, dtype=dtype)
        row[0] = 1
        for _ in range(num_blocks):
            row[2:] = row[2:] + row[:-2]
        return row[num_convs] if num_convs < len(row) else 0

    return count


def one_by_one(num_blocks, num_convs):
    if num_blocks > 12:  # too many to list
        return pascal(object)(num_blocks, num_convs)
    return sum(sum(path) == num_convs for path in itertools.product([0, 2], repeat=num_blocks))


@pytest.mark.parametrize("function", [one_by_one, pascal(np.int64), pascal(np.float64)])
def test_other_right_paths(function, capsys):
    passes(checks.paths_through, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, m: one_by_one(n, m) + 1, "all paths of two blocks"),
        (lambda n, m: math.comb(n, m // 2) if m % 2 == 0 and m <= 2 * n else None, "None. No path passes an"),
        (lambda n, m: math.perm(n, m // 2), "not permutations"),
        (lambda n, m: print(math.comb(n, m // 2)), "does the function end with `return`"),
        (lambda n, m: math.factorial(n) // math.factorial(n - m // 2), "permutations|ValueError"),
        (pascal(np.int32), "32 bits are too few"),
        (pascal(np.int16), "16 bits are too few"),
        (pascal(np.uint8), "8 bits are too few"),
        (pascal(np.float32), "but for the last digits"),
    ],
)
def test_wrong_paths(function, message, capsys):
    fails(checks.paths_through, function, message, capsys)


def shortcuts(depth, option, width):
    def projection(i, o):
        return i * o + 2 * o

    kept = {"A": 0, "B": 0, "C": (depth - 2) // 6}[option]
    count = projection(width, 2 * width) + projection(2 * width, 4 * width) if option != "A" else 0
    return count + sum((kept - (c > 1)) * projection(c * width, c * width) for c in (1, 2, 4) if kept)


def test_other_right_shortcut_counts(capsys):
    passes(checks.shortcut_parameters, lambda *case: np.float32(shortcuts(*case)), capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *case: np.array(shortcuts(*case)).astype(np.int16), "16 bits are too few"),
        (lambda *case: np.array(shortcuts(*case)).astype(np.uint8), "8 bits are too few"),
        (lambda *case: shortcuts(*case) + 1, "Write down each layer"),
    ],
)
def test_wrong_shortcut_counts(function, message, capsys):
    fails(checks.shortcut_parameters, function, message, capsys)


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


def negative(num_blocks, growth):
    return torch.tensor(-by_bisection(num_blocks, growth))


@pytest.mark.parametrize("function", [functools.partial(by_bisection, precision=1e-6), by_newton, negative])
def test_other_right_factors(function, capsys):
    passes(checks.residual_factor, function, capsys)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *case: 0.5, "the growth must come out"),
        (lambda *case: 1.001 * by_bisection(*case), "gives 2.00.*, and it is 2.*come out"),
        (lambda *case: float("nan"), "gives nan, and it is 2"),
        (lambda *case: float("inf"), "the growth must come out"),
        (lambda *case: [0.5], "one number"),
    ],
)
def test_wrong_factors(function, message, capsys):
    fails(checks.residual_factor, function, message, capsys)


# ---- the pre-activation block


class PreAct(nn.Module):
    """Right; what the tests change is a part of it."""

    activation = staticmethod(F.relu)

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.stride = stride
        self.a, self.b = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.c = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.d = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.p = None
        if stride != 1 or in_channels != out_channels:
            self.p = self.projection(in_channels, out_channels)

    def projection(self, in_channels, out_channels):
        return nn.Conv2d(in_channels, out_channels, 1, self.stride, bias=False)

    def shortcut(self, x, activated):
        return x if self.p is None else self.p(activated)

    def join(self, residual, shortcut):
        return residual + shortcut

    def forward(self, x):
        activated = self.activation(self.a(x))
        shortcut = self.shortcut(x, activated)
        return self.join(self.d(self.activation(self.b(self.c(activated)))), shortcut)


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


class Sliced(PreAct):
    """The projection's stride is taken by slicing: unusual, and the same numbers."""

    def projection(self, in_channels, out_channels):
        return nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def shortcut(self, x, activated):
        return super().shortcut(x, activated[:, :, :: self.stride, :: self.stride])


class Clamped(PreAct):
    """Another way to write ReLU, and an addition in place where it does no harm."""

    activation = staticmethod(lambda x: x.clamp(min=0))

    def join(self, residual, shortcut):
        residual += shortcut
        return residual


@pytest.mark.parametrize("cls", [PreAct, Clamped, Sequential, Sliced], ids=lambda cls: cls.__name__)
def test_right_pre_activation_blocks(cls, capsys):
    checks.pre_activation_block(cls)
    said = capsys.readouterr().out
    assert said.startswith("Right") and " But " not in said


class Remembers(PreAct):
    def shortcut(self, x, activated):
        self.activated = activated
        return super().shortcut(x, activated)


def test_a_graph_that_is_kept_alive_is_noticed(capsys):
    checks.pre_activation_block(Remembers)
    said = capsys.readouterr().out
    assert said.startswith("Right") and "But self.activated keeps" in said


class Wraps(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.block = blocks.PreActBlock(in_channels, out_channels, stride)

    def forward(self, x):
        return self.block(x)


class EndsInTraining(PreAct):
    def join(self, residual, shortcut):
        self.train()
        return residual + shortcut


class ReluFirst(PreAct):
    """ReLU before the norm, twice."""

    def forward(self, x):
        activated = self.a(F.relu(x))
        return self.d(self.b(F.relu(self.c(activated)))) + self.shortcut(x, activated)


class Idle(PreAct):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, stride)
        self.other = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def with_join(join):
    return type("Mine", (PreAct,), {"join": join})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (blocks.BasicBlock, "post-activation block"),
        (blocks.PlainBlock, "post-activation block"),
        (functools.partial(blocks.PreActBlock, shortcut="A"), "no projection"),
        (blocks.PreActBlock, "package's own PreActBlock"),
        (Wraps, "package's own PreActBlock"),
        (PreAct(8, 8), "without parentheses"),
        (EndsInTraining, "switches between training and evaluation"),
        (ReluFirst, "ReLU comes before the norm"),
        (Idle, "other.weight belongs to none of the layers that run"),
        (with_join(lambda self, r, s: (r + s) / 2), "Write the order down"),
        (with_join(lambda self, r, s: F.dropout(r, 0.3, self.training) + s), "in training mode it is not"),
        (with_join(lambda self, r, s: r + s if self.training else r), "never added"),
    ],
)
def test_a_wrong_pre_activation_block_is_named(cls, message, capsys):
    fails(checks.pre_activation_block, cls, message, capsys)
    assert torch.is_grad_enabled()
