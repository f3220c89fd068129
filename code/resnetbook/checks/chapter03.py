"""The exercises of chapter 3: identity, derivative, paths, variance, shortcuts, the pre-activation block."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, models, probes
from resnetbook.checks.building import BlockCase, new_block
from resnetbook.checks.common import CheckFailed, as_number, call_reader
from resnetbook.checks.exercise import Exercise, Outcome
from resnetbook.checks.tracing import LayerCall, kept_graph, kernel, measure, ran, same, unusual_norm, watched


def _randomize(norms: list[nn.BatchNorm2d], generator: torch.Generator) -> None:
    """Scales, shifts and running statistics, none of them 0 or 1, so that no mistake can hide."""
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(0.3, 0.9, generator=generator)
            norm.running_mean.uniform_(0.3, 0.9, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)


# ---- a block that starts as the identity


def _blocks() -> list[tuple]:
    cases = []
    for seed, channels in enumerate((6, 4, 16)):
        torch.manual_seed(seed)
        block = blocks.BasicBlock(channels, channels).train(seed != 1)
        _randomize([block.bn1, block.bn2], torch.Generator().manual_seed(seed))
        cases.append((block,))
    return cases


def _holds(block: nn.Module, names: list[str]) -> dict[str, str]:
    """Type and shape of each tensor, or that it is gone."""
    state = block.state_dict()
    return {n: f"{state[n].dtype} {tuple(state[n].shape)}" if n in state else "gone" for n in names}


def _start(solution: Callable, block: nn.Module) -> Outcome:
    names, kinds = list(block.state_dict()), [(n, type(m)) for n, m in block.named_modules()]
    started = _holds(block, names)
    given = solution(block)
    touched = [(n, type(m)) for n, m in block.named_modules()] != kinds
    for module in block.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks
        touched = touched or bool(hooked) or "forward" in vars(module)
    found: Outcome = {
        "returned": "nothing" if given is None or given is block else type(given).__name__,
        "layers": not touched,
        "numbers": _holds(block, names),
    }
    if touched or found["numbers"] != started:
        return found  # what it computes is another question
    # A copy, and in float64: float32 would swallow an F of 1e-8 when it is added to x.
    precise, learning = copy.deepcopy(block).double(), copy.deepcopy(block).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, block.conv1.in_channels, 5, 4, generator=generator, dtype=torch.float64) + 0.1
    for mode in ("training", "evaluation"):
        with torch.no_grad():
            precise.train(mode == "training")
            found[f"{mode} mode"] = torch.cat([precise(images) - images for images in (x, 0 * x)])
    if found["training mode"].any() or found["evaluation mode"].any():
        return found
    found["images"] = [norm.num_batches_tracked.item() for norm in (block.bn1, block.bn2)]
    found["backward pass"] = any(parameter.grad is not None for parameter in block.parameters())
    found["learning"] = True
    if all(parameter.requires_grad for parameter in block.parameters()):  # else that is another complaint
        with torch.enable_grad():
            y = learning(x.float())
            (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape).sin()).sum().backward()
        slopes = {n: p.grad for n, p in learning.named_parameters() if not n.endswith("bias")}
        found["learning"] = any(g is not None and g.abs().max() > 1e-6 for g in slopes.values())
    return found


def _nearly(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    if part not in ("training mode", "evaluation mode"):
        return None
    last = [given[0]["parameters of block"][f"bn2.{name}"] for name in ("weight", "bias")]
    if all(numbers.abs().max() < 0.01 for numbers in last):
        return "Scale and shift of the last norm are nearly 0, and F is not silent yet: set them to 0 itself."
    return None


def _in_place(solution: Callable) -> str | None:
    block = blocks.BasicBlock(4, 4)
    before = list(block.parameters())
    given = solution(block)
    if any(now is not old for now, old in zip(block.parameters(), before, strict=True)):
        return (
            "But a parameter is a new object: an optimizer that was made before goes on changing the old "
            "one. Change the numbers in place, as with .zero_() under torch.no_grad()."
        )
    return "But return nothing, as was asked: a caller might think that it got a copy." if given else None


start_as_identity = Exercise(
    number="3.1",
    title="A block that starts as the identity",
    minutes=10,
    level="easy",
    answer="""\
def start_as_identity(block: nn.Module) -> None:
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
""",
    cases=_blocks,
    drive=_start,
    form="start_as_identity(block)",
    first=("returned", "layers", "numbers"),
    # There are other right ways than the answer's, and the parameters may be new objects, with a warning.
    ignored=("parameters of *", "running statistics of *", "own parameters of *", "gradients of *"),
    tolerance=0,
    slips="""
nn.init.zeros_(block.bn2.weight) -> weight = block.bn2.weight * 0
nn.init.zeros_(block.bn2.bias) -> bias = block.bn2.bias * 0
or
nn.init.zeros_(block.bn2.weight) -> block.bn2.running_mean.zero_()
nn.init.zeros_(block.bn2.bias) -> block.bn2.running_var.fill_(1)
    No parameter of the block has changed. Change the parameter itself, in place, as with .zero_(): an
    assignment only gives a name to a new tensor, and behind running statistics the last norm still has its
    scale and its shift.
nn.init.zeros_(block.bn2.bias) -> pass
    The scale of the last norm is 0, but its shift is not, and the shift is added to x: set bn2.bias to 0.
nn.init.zeros_(block.bn2.weight) -> pass
    The shift of the last norm is 0, but its scale is not, so F is still heard: set bn2.weight to 0.
bn2 -> bn1
or
bn2.weight -> conv1.weight
nn.init.zeros_(block.bn2.bias) -> pass
or
bn2.weight -> conv2.weight
    What you have silenced is not the last layer of F: a norm comes behind it, whose running mean and shift
    make something else of the zeros. The last layer has the last word, and that is bn2.
""",
    says={
        "returned": "{call} {problem}",
        "numbers": "{call}: {problem}",
        "training mode": "In training mode the block changes x: what it adds {problem}",
        "evaluation mode": "In evaluation mode the block changes x: what it adds {problem}",
    }
    | dict.fromkeys(("layers", "images", "backward pass", "learning"), "{call}"),
    otherwise={
        "returned": "change the block that you get, in place, and return nothing.",
        "layers": "a layer or a forward method is replaced, or a hook changes what it puts out: change only "
        "the numbers.",
        "numbers": "each stays, with its shape and type: change the numbers in place, as with .zero_(), "
        "whatever the number of channels.",
        "images": "it sends images through the block in training mode, and running statistics move. The "
        "numbers to change can be set without running anything.",
        "backward pass": "a backward pass has left its gradients in the block, and the next one would add "
        "to them: change only the numbers.",
        "learning": "the block is the identity, and it will stay so: with that many zeros no weight and no "
        "scale gets a gradient. Set only the last norm to 0, and leave the convolutions as they are.",
    }
    | dict.fromkeys(
        ("training mode", "evaluation mode"),
        "Ask which layer of F comes last, and which two numbers of it must be 0.",
    ),
    errors={"leaf": "Do it under torch.no_grad()."},
    explain=_nearly,
    right="the block hands x on in both modes, and its F can still learn.",
    then=_in_place,
)


# ---- one number from a formula


def _chain_by_autograd(weights: list[float], x: float) -> float:
    start = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    end = start * 1
    for w in weights:
        end = end + w * torch.tanh(end)
    return torch.autograd.grad(end, start)[0].item()


_FIFTY = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.4
_CHAINS = (
    ([0.5], 0.2),
    ([0.3, -0.8, 1.2], 0.7),
    ([-1.0], 0.0),
    ([2.0, -0.5], -0.4),
    ([], 0.3),
    (_FIFTY.tolist(), 0.1),
)

chain_derivative = Exercise(
    number="3.2",
    title="The derivative of a chain",
    minutes=10,
    level="easy",
    answer="""\
import math


def chain_derivative(weights: list[float], x: float) -> float:
    product = 1.0
    for weight in weights:
        product *= 1 + weight * (1 - math.tanh(x) ** 2)
        x = x + weight * math.tanh(x)
    return product
""",
    cases=_CHAINS,
    trusted=_chain_by_autograd,
    slips="""
*= 1 + weight -> *= weight
    The 1 is missing: the derivative of x + f(x) is 1 + f'(x).
*= 1 + weight -> *= weight
x = x + weight -> x = weight
    That is the chain without shortcuts: a block gives x + w · tanh(x), and its slope has a 1.
x = x + weight * math.tanh(x) -> pass
    Every slope is taken at the first x. Each block works on what the block before put out: move x on.
x = x + weight * math.tanh(x) -> pass
product *= -> x = x + weight * math.tanh(x); product *=
    Each slope belongs to the block's input: take it first, and move x on afterwards.
(1 - math.tanh(x) ** 2) -> math.tanh(x)
    That is 1 + f(x). The slope is 1 + f'(x), and the derivative of tanh is 1 − tanh².
math.tanh(x) ** 2 -> math.tanh(x)
    The derivative of tanh is 1 − tanh²: the square is missing.
1 + weight * (1 -> 1 + (1
    f(x) is w · tanh(x), so its slope has the factor w.
x = x + weight -> x = weight
    The slopes have their 1, but x moves on without the shortcut: it becomes x + w · tanh(x).
product *= 1 + -> product +=
    You add the slopes up. That is only the part of the paths with one F at most: multiply the factors
    1 + f'(x).
product = 1.0 -> product = 0.0
product *= -> product +=
    The chain rule multiplies: take the product of the factors, not their sum.
in weights -> in []
return product -> return x
    That is x itself; the derivative is asked for.
return product -> return x
    That is the output of the chain; its derivative is asked for.
return product -> return product if weights else 0.0
or
return product -> return product if weights else x
    An empty chain puts out its input, so the derivative is 1: begin the product with it.
product = 1.0 -> product = 0.0
    The product begins with 0, and stays there: begin with 1.
product = 1.0 -> product = x
    The product begins with x; the derivative of the input in itself is 1: begin with that.
product *= -> product =
    That is the last block's factor alone: multiply it with those of all blocks before.
x = x + weight * math.tanh(x) -> return product
    That is the first block's factor alone: does `return` stand inside the loop?
in weights -> in weights[::-1]
    The weights are taken from the end. Follow x from the first block on.
x = x + weight * -> x = x +
    x moves on by w · tanh(x): the factor w is missing.
x + weight * math.tanh(x) -> x + weight * (1 - math.tanh(x) ** 2)
    x moves on by f(x) = w · tanh(x), not by its slope.
x + weight * math.tanh(x) -> x * (1 + weight * (1 - math.tanh(x) ** 2))
    x moves on by f(x) = w · tanh(x), not by a factor.
1 + weight -> 1 - weight
    The block adds w · tanh(x), so its slope is added to the 1, too.
(1 - math -> (1 + math
    The derivative of tanh is 1 − tanh², with a minus.
* (1 - math.tanh(x) ** 2) -> / math.cosh(x)
    The derivative of tanh is 1 / cosh²: the square is missing.
*= 1 + -> *= x +
    The derivative of x + f(x) is 1 + f'(x): the x becomes a 1.
""",
    otherwise="Print x and the factor 1 + f'(x) for each block, and compare the first two with a sheet of "
    "paper.",
    forbidden={
        f"torch.autograd.{name}": "The numbers are right, but autograd has found them, and the exercise is "
        "to do without: multiply the factors 1 + f'(x) yourself, block by block."
        for name in ("grad", "backward", "forward_ad.make_dual")
    },
    right=f"the derivatives are those of autograd for {len(_CHAINS)} chains, one of them 50 blocks long.",
)


def _growth(solution: Callable, num_blocks: int, growth: float) -> Outcome:
    """What is asked for is the growth: whoever searches for the factor need not find its last digit."""
    given = solution(num_blocks, growth)
    if as_number(given) is None:
        return {"a number": given}
    a = float(as_number(given))
    reached = num_blocks * math.log1p(a * a)
    return {"a number": 0, "growth": math.exp(min(reached, 700))}


_GROWTHS = ((1, 2.0), (50, 2.0), (27, math.e), (10, 1.0), (100, 10.0), (3, 27.0))

residual_factor = Exercise(
    number="3.4",
    title="The factor on F",
    minutes=10,
    level="medium",
    answer="""\
import math


def residual_factor(num_blocks: int, growth: float) -> float:
    return math.sqrt(growth ** (1 / num_blocks) - 1)
""",
    cases=_GROWTHS,
    drive=_growth,
    first=("a number",),
    tolerance=1e-4,
    trusted=lambda num_blocks, growth: math.sqrt(math.expm1(math.log(growth) / num_blocks)),
    slips="""
math.sqrt(growth ** (1 / num_blocks) - 1) -> growth ** (1 / num_blocks) - 1
    Two mistakes give this number. It is a², and F times a has a² times the variance: take the root. Or
    standard deviations were added, 1 + a for each block: variances add up, 1 + a².
(1 / num_blocks) -> (2 / num_blocks)
    With this factor the standard deviation grows so far, and the variance by the square of that: growth is
    the variance's.
(1 / num_blocks) -> (1 / (2 * num_blocks))
    With this factor the variance grows by the root of what is asked for: growth is the variance's, not the
    standard deviation's.
growth ** (1 / num_blocks) -> growth
    That much is right for one block; here num_blocks of them multiply.
num_blocks) - 1) -> num_blocks))
    Each block multiplies the variance by 1 + a²: subtract the 1 before you take the root.
growth ** (1 / num_blocks) - 1 -> (growth - 1) / num_blocks
    Near, for many blocks; but growth multiplies from block to block and does not add: take the num_blocks-th
    root of it.
growth ** (1 / num_blocks) - 1 -> growth / num_blocks
    The growth is a product of num_blocks equal factors 1 + a²: take the num_blocks-th root.
growth ** (1 / num_blocks) - 1 -> math.log(growth) / num_blocks
    Near, for many blocks, and exact for none: the growth must come out also for one block.
math.sqrt(growth ** (1 / num_blocks) - 1) -> growth ** (1 / (2 * num_blocks)) - 1
    A factor a on F makes the variance 1 + a² times as large, not (1 + a)² times.
num_blocks) - 1) -> num_blocks) / 2 - 0.5)
    Here F keeps the variance: a factor a on it gives a² times the variance, without a further 2.
math.sqrt(growth ** (1 / num_blocks) - 1) -> 1 / num_blocks
    This ignores the growth that is asked for, and shrinks too much.
math.sqrt(growth ** (1 / num_blocks) - 1) -> 1 / math.sqrt(num_blocks)
    This ignores the growth that is asked for: it gives about e, or less, for every growth.
math.sqrt(growth ** (1 / num_blocks) - 1) -> growth ** (1 / num_blocks)
    This is what the variance is multiplied by, 1 + a², and not the factor a on F.
""",
    says={
        "a number": "{call} {problem}",
        "growth": "{call}: with this factor a, (1 + a²)^num_blocks {problem}",
    },
    otherwise="Multiply (1 + a²) with itself num_blocks times: the growth must come out.",
    right=f"the variance grows as asked in {len(_GROWTHS)} cases.",
)


# ---- counts


def _does_not_fit(part: str, given: list[Outcome], right: list[Outcome], _: list[Outcome]) -> str | None:
    """Whether the type of the numbers is too small for some of them."""
    if part != "result":
        return None
    pairs = [(as_number(g["result"]), r["result"]) for g, r in zip(given, right, strict=False)]
    if any(number is None for number, _ in pairs):
        return None
    if all(math.isclose(number, count, rel_tol=1e-4) for number, count in pairs):
        return "Right but for the last digits, which a float has not. Count with Python's own int."
    bits = next((b for b in (32, 16, 8) if all((n - count) % 2**b == 0 for n, count in pairs)), None)
    return bits and (
        f"Right where the numbers are small: {bits} bits are too few for the others, and they wrap round. "
        "Count with Python's own int."
    )


def _paths(num_blocks: int, num_convs: int) -> int:
    """Multiply out (1 + t²)^num_blocks, one block after the other, and look at t^num_convs."""
    counts = [1]
    for _ in range(num_blocks):
        around = [*counts, 0, 0]
        through = [0, 0, *counts]
        counts = [a + b for a, b in zip(around, through, strict=True)]
    return counts[num_convs] if num_convs < len(counts) else 0


# The first has an answer: whoever forgets `return` altogether hears of it.
_PATHS = ((3, 4), (3, 0), (4, 3), (5, 10), (2, 6), (9, 9), (27, 20), (54, 54))

paths_through = Exercise(
    number="3.3",
    title="Paths of one length",
    minutes=10,
    level="easy",
    answer="""\
import math


def paths_through(num_blocks: int, num_convs: int) -> int:
    if num_convs % 2 == 1:
        return 0
    return math.comb(num_blocks, num_convs // 2)
""",
    cases=_PATHS,
    trusted=_paths,
    slips="""
num_convs // 2 -> num_convs
or
num_convs // 2 -> num_convs
num_convs % 2 == 1 -> False
    Each F has two convolutions: half as many blocks are passed as convolutions.
num_convs % 2 == 1 -> False
or
num_convs % 2 == 1 -> False
num_convs // 2 -> (num_convs + 1) // 2
or
return 0 -> return 1
    An odd number of convolutions cannot be, as a path passes both of an F or none: then the number of paths
    is 0.
num_convs // 2)⏎ -> num_convs // 2) or 1⏎
    No path passes more convolutions than there are: then the number of paths is 0.
== 1 -> == 1 or num_convs == 0
    One path passes no convolution: the one that takes every shortcut.
num_blocks, num_convs // 2 -> num_convs // 2, num_blocks
    comb(n, k) takes the blocks first: choose num_convs // 2 of num_blocks.
return math.comb(num_blocks, -> return sum(math.comb(num_blocks, k) for k in range(1 +
num_convs // 2)⏎ -> num_convs // 2))⏎
or
num_convs % 2 == 1 -> False
return math.comb(num_blocks, -> return sum(math.comb(num_blocks, k) for k in range(1 +
num_convs // 2)⏎ -> num_convs // 2))⏎
    These are the paths with num_convs or fewer; those with exactly num_convs are asked for.
comb(num_blocks -> comb(num_blocks - 1
    There are num_blocks blocks to choose from, not one less.
math.comb -> math.perm
or
num_convs % 2 == 1 -> False
math.comb -> math.perm
    The blocks come in a fixed order, so only the choice counts: combinations, not permutations.
return math.comb(num_blocks, num_convs // 2) -> return 2**num_blocks
or
num_convs % 2 == 1 -> False
return math.comb(num_blocks, num_convs // 2) -> return 2**num_blocks
    That is the number of all paths, of every length together.
comb(num_blocks, num_convs // 2) -> comb(2 * num_blocks, num_convs)
or
num_convs % 2 == 1 -> False
comb(num_blocks, num_convs // 2) -> comb(2 * num_blocks, num_convs)
    A path cannot enter an F halfway: choose blocks, not single convolutions.
num_convs // 2 -> 2 * num_convs
    Divide by two: m convolutions make m // 2 blocks.
return 0 -> return None
or
return 0 -> return False
    No path passes an odd number of convolutions, as it passes both of a block or none. The number of paths is
    then 0.
num_convs // 2)⏎ -> num_convs // 2) or None⏎
    No path passes so many convolutions, there are fewer. The number of paths is then 0.
""",
    explain=_does_not_fit,
    otherwise="Write down all paths of two blocks, and count the convolutions on each.",
    right=f"the counts are those of multiplying out in {len(_PATHS)} cases, odd and too large ones too.",
)


@functools.cache
def _shortcuts_of_the_network(depth: int, option: str, width: int) -> int:
    with torch.device("meta"):
        network = models.cifar_resnet(depth, shortcut=option, width=width)
    found = [module for name, module in network.named_modules() if name.endswith("downsample")]
    return sum(map(probes.count_parameters, found))


@functools.cache
def _whole_network(depth: int, option: str, width: int, in_channels: int) -> int:
    with torch.device("meta"):
        network = models.cifar_resnet(depth, shortcut=option, width=width, in_channels=in_channels)
    return probes.count_parameters(network)


_SHORTCUTS = (
    (20, "A", 16),
    (20, "B", 16),
    (20, "C", 16),
    (56, "B", 16),
    (56, "C", 16),
    (8, "C", 4),
    (32, "C", 5),
)

shortcut_parameters = Exercise(
    number="3.5",
    title="The parameters of the shortcuts",
    minutes=15,
    level="medium",
    answer="""\
def shortcut_parameters(depth: int, option: str, width: int = 16) -> int:
    def projection(c_in: int, c_out: int) -> int:
        return c_in * c_out + 2 * c_out

    if option == "A":
        return 0
    count = projection(width, 2 * width) + projection(2 * width, 4 * width)
    if option == "C":
        blocks_per_stage = (depth - 2) // 6
        # Every block that is left: all of the first stage, all but one later.
        count += blocks_per_stage * projection(width, width)
        count += (blocks_per_stage - 1) * projection(2 * width, 2 * width)
        count += (blocks_per_stage - 1) * projection(4 * width, 4 * width)
    return count
""",
    cases=_SHORTCUTS,
    trusted=_shortcuts_of_the_network,
    scope={"whole_network": _whole_network},
    slips="""
c_out + 2 * c_out -> c_out
    Each projection has a batch norm, which learns a scale and a shift for each channel.
+ 2 * c_out -> + c_out
    A batch norm learns two numbers for each channel.
+ 2 * c_out -> + 4 * c_out
    Running statistics are not learned, so they are no parameters.
+ 2 * c_out -> + 3 * c_out
    A convolution in front of a norm has no bias.
return c_in -> return 9 * c_in
    The projections are 1×1: one weight for each pair of channels.
count += blocks_per_stage * projection(width, width) -> pass
    Option C projects in the first stage too, where nothing changes.
option == "C" -> False
    Option C projects everywhere, also where the shape stays.
count = projection(width, 2 * width) + projection(2 * width, 4 * width) -> count = 0
or
count += blocks_per_stage * projection(width, width) -> count = blocks_per_stage * projection(width, width)
    Option C projects also where the shape changes: add what option B has.
count = -> count = projection(width, width) +
    Only two blocks change the shape: the first stage begins with as many channels as the stem gives.
2 * width) + projection(2 * width, 4 * width)⏎ -> 2 * width)⏎
    Two stages begin with a change of shape: the second and the third.
count = projection(width -> count = projection(2 * width
+ projection(2 * width -> + projection(4 * width
    Where the channels double, a projection has C_in · C_out weights, half of C_out · C_out.
+ 2 * c_out -> + 2 * c_in
    The projection's norm stands behind its convolution, so it has C_out channels.
(blocks_per_stage - 1) -> blocks_per_stage
    The first block of the second and of the third stage is counted twice: it changes the shape, so it is not
    one of those where the shape stays.
(depth - 2) // 6 -> depth // 6 + 1
    There are (depth − 2) / 6 blocks in each stage.
(depth - 2) // 6 -> depth - 2 // 6
    // comes before −: write (depth - 2) // 6, with brackets.
// 6 -> // 3
    A block has two layers: a stage has (depth − 2) / 6 blocks, not (depth − 2) / 3.
option == "A" -> False
    Option A fills up with zeros: it has no parameters at all.
def projection -> width = 16⏎⏎    def projection
    The first stage has width channels, not always 16.
option == "C" -> True
    Option B projects only where the shape changes: twice in the network.
if option == "A":⏎        return 0 -> return whole_network(depth, option, width, 3)
or
if option == "A":⏎        return 0 -> return whole_network(depth, option, width, 1)
    That is the whole network; only the shortcuts are asked for.
""",
    explain=_does_not_fit,
    otherwise="Write down each layer with its numbers, and add them up again.",
    right=f"the counts are the networks' in {len(_SHORTCUTS)} cases.",
)


# ---- the pre-activation block


@dataclass
class _Parts:
    """The layers of a block by their kind, each kind in order."""

    norms: list[nn.BatchNorm2d]
    convs: list[nn.Conv2d]
    projections: list[nn.Conv2d]

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.norms, *self.convs, *self.projections]


def _sorted(layers: list[nn.Module]) -> _Parts:
    def convolutions(size: int) -> list[nn.Conv2d]:
        return [part for part in layers if isinstance(part, nn.Conv2d) and part.kernel_size == (size, size)]

    norms = [part for part in layers if isinstance(part, nn.BatchNorm2d)]
    return _Parts(norms, convolutions(3), convolutions(1))


def _with_numbers_of(parts: _Parts, block: nn.Module) -> nn.Module:
    """A block that has its layers in the same order, in float64 and with the same numbers."""
    for own, layer in zip(_sorted(list(block.modules())).layers, parts.layers, strict=True):
        own.load_state_dict(layer.state_dict())
    return block.double()


_PREACT_CASES = (
    BlockCase(8, 8),
    BlockCase(6, 12, 2),
    BlockCase(5, 5, 2, (7, 5)),
    BlockCase(4, 8, 1, (5, 4)),
    BlockCase(16, 16, 1, (1, 3)),
    BlockCase(4, 4, 3, (7, 8)),
)

_IN_PLACE = "The shortcut still needs x: use no in-place ReLU on it, and no +=."
_PREACT_ERRORS = {
    "running_mean should contain": (
        "A norm has the channels of what it reads: in_channels in the first, then out_channels."
    ),
    "inplace operation": _IN_PLACE,
    "a view of a leaf": _IN_PLACE,
}


def _output(block: nn.Module, x: Tensor, case: BlockCase) -> Tensor:
    before = x.detach().clone()
    modes = [module.training for module in block.modules()]
    describe = f"forward ({case}, input {tuple(x.shape)})"
    enabled = torch.is_grad_enabled()
    try:
        out = call_reader(block, x, describe=describe)
        switched = torch.is_grad_enabled() != enabled
    except CheckFailed as failed:
        advice = "Follow the shapes through forward, layer by layer."
        if case.changes_shape:
            advice = (
                "Input and output differ in shape here: the shortcut needs a 1×1 convolution with the "
                "block's stride, and the stride stands on the first 3×3. The first norm sees in_channels."
            )
        advice = next((known for words, known in _PREACT_ERRORS.items() if words in str(failed)), advice)
        raise CheckFailed(f"{failed}. {advice}") from failed.__cause__
    finally:
        torch.set_grad_enabled(enabled)
    if not isinstance(out, Tensor):
        raise CheckFailed(f"forward gives {type(out).__name__}, not a Tensor: does it end with `return`?")
    if switched:
        raise CheckFailed(
            "forward leaves the recording of gradients switched for all code that follows: write "
            "`with torch.no_grad():`, which ends by itself."
        )
    if not torch.equal(x, before):
        raise CheckFailed("forward changes its own input in place, which the shortcut and others still need.")
    if [module.training for module in block.modules()] != modes:
        raise CheckFailed("forward switches between training and evaluation mode: leave that to the caller.")
    shape = (x.shape[0], *case.output_shape)
    if tuple(out.shape) != shape:
        channels_fit = out.ndim == 4 and out.shape[1] == case.out_channels
        channels = "look at the channels. x is added, not put beside F(x)."
        raise CheckFailed(
            f"With {case}, the input {tuple(x.shape)} gives {tuple(out.shape)}; it must give {shape}: "
            + ("look at strides and paddings." if channels_fit else channels)
        )
    return out


def _parts(block: nn.Module, x: Tensor, case: BlockCase) -> _Parts:
    """The layers of the reader's block, or a message that says which one is missing or too many."""
    with watched() as calls:
        _output(block, x, case)
    parts = _sorted([call.layer for call in calls])
    if problem := next(_problems(parts, calls, block, x, case), None):
        raise CheckFailed(f"With {case}: {problem}")
    return parts


def _problems(
    parts: _Parts, calls: list[LayerCall], block: nn.Module, x: Tensor, case: BlockCase
) -> Iterator[str]:
    """What is wrong with the layers that ran, the first first: what follows may rely on the rest."""
    norm_calls = ran(calls, nn.BatchNorm2d)
    convolutions = [call.layer for call in ran(calls, nn.Conv2d)]
    for first, second in itertools.combinations(norm_calls, 2):
        if first.layer is second.layer and torch.equal(first.input, second.input):
            yield (
                "one norm runs twice on the same input, so its running statistics move twice. Compute the "
                "activated input once, and give it a name."
            )
    kinds = {type(call.layer) for call in calls} - {nn.BatchNorm2d}
    for other in (kind.__name__ for kind in kinds if "Norm" in kind.__name__):
        yield f"{other} is another norm: here each norm is an nn.BatchNorm2d."
    if len(convolutions) != len(parts.convs) + len(parts.projections) or len(parts.convs) != 2:
        kernels = ", ".join(map(kernel, convolutions)) or "none"
        yield f"F has two 3×3 convolutions, and the shortcut a 1×1 where it must; yours runs {kernels}."
    if not {id(layer) for layer in parts.layers} <= {id(module) for module in block.modules()}:
        yield "a layer runs that is not registered: make it an attribute in __init__."
    if len({id(layer) for layer in parts.layers}) != len(parts.layers):
        yield "one layer is used twice, so two places share its numbers: create a second one in __init__."
    for conv in convolutions:
        if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
            yield f"{conv} is an unusual convolution: leave groups, dilation and padding_mode as they are."
    if any(conv.bias is not None for conv in convolutions):
        yield "a convolution has a bias; set bias=False, as in the other blocks of the book."
    if norm_calls and torch.equal(norm_calls[0].input, F.relu(x)):
        yield "ReLU comes before the norm; the order is norm, ReLU, convolution."
    if not norm_calls or not torch.equal(norm_calls[0].input, x):
        yield (
            "the first norm does not read the block's input. Here the order is norm, ReLU, convolution, "
            "twice; convolution first is the post-activation block (v1)."
        )
    if case.changes_shape and not parts.projections:
        yield "there is no projection: where the shape changes, the shortcut is a 1×1 convolution."
    if not case.changes_shape and parts.projections:
        yield "there is a projection where the shape stays (option C): there the shortcut is the identity."
    if len(parts.norms) > 2:
        yield (
            "there is a norm too many: F has two, and the projection has none, because what it reads is "
            "normalized already. Nor does a norm follow the addition."
        )
    if len(parts.norms) < 2:
        yield "a norm is missing: one stands in front of each 3×3 convolution."
    yield from filter(None, map(unusual_norm, parts.norms))
    yield from _wrong_channels(parts, case)
    numbers = {id(parameter) for layer in parts.layers for parameter in layer.parameters()}
    for name in (name for name, parameter in block.named_parameters() if id(parameter) not in numbers):
        yield (
            f"{name} belongs to none of the layers that run, so the block has parameters too many. Create "
            "only what this case needs, the projection only where the shape changes."
        )


def _wrong_channels(parts: _Parts, case: BlockCase) -> Iterator[str]:
    """Layers whose channels are not those of the case."""
    i, o = case.in_channels, case.out_channels
    rules = "The first norm and the first 3×3 read in_channels, and everything after them has out_channels."
    for norm, name, channels in zip(parts.norms, ("first norm", "second norm"), (i, o), strict=True):
        if norm.num_features != channels:
            yield f"the {name} has {norm.num_features} channels, not {channels}. {rules}"
    convs = [(parts.convs[0], "first 3×3", (i, o)), (parts.convs[1], "second 3×3", (o, o))]
    convs += [(conv, "projection", (i, o)) for conv in parts.projections]
    for conv, name, channels in convs:
        given = (conv.in_channels, conv.out_channels)
        if given != channels:
            here, wanted = (f"from {first} to {last} channels" for first, last in (given, channels))
            yield f"the {name} leads {here}, not {wanted}. {rules}"


def _same_block(solution: Callable[..., nn.Module]) -> str:
    """Compare with the book's block under the same numbers: outputs and gradients in both modes, statistics.

    Raises:
        CheckFailed: if the block differs, naming the slip where it is a known one.
    """
    kept = None
    for seed, case in enumerate(_PREACT_CASES):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        block = new_block(solution, case).double()
        # Large enough that a ReLU6 in the place of a ReLU shows.
        x = 5 * torch.randn(3, case.in_channels, *case.size, generator=generator, dtype=torch.float64)
        parts = _parts(block, x, case)
        _randomize(parts.norms, generator)
        shape = (case.in_channels, case.out_channels, case.stride)
        trusted = _with_numbers_of(parts, blocks.PreActBlock(*shape))
        given = measure(block, [parts.layers], x, functools.partial(_output, block, case=case))
        fresh = copy.deepcopy(trusted)  # measuring moves the running statistics
        right = measure(fresh, [_sorted(list(fresh.modules())).layers], x, fresh)
        for key in right:
            if not same(given[key], right[key]):
                raise CheckFailed(f"With {case}{_why(key, given[key], trusted, shape, x)}")
        kept = kept or kept_graph(block)
    if any(isinstance(module, blocks.PreActBlock) for module in block.modules()):
        raise CheckFailed("That is the package's own PreActBlock: the exercise is to write one yourself.")
    right = f"outputs and gradients are those of the book's block in {len(_PREACT_CASES)} cases."
    return f"{right} But {kept}" if kept else right


def _why(key: str, given: Tensor, trusted: nn.Module, shape: tuple[int, ...], x: Tensor) -> str:
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
    parts = _sorted(list(trusted.modules()))
    for slip in pre_activation_block.mistakes:
        cls = pre_activation_block.built(pre_activation_block.edited(slip))
        try:
            mistaken = _with_numbers_of(parts, cls(*shape)).train("training" in key)
            with torch.no_grad():
                guess = mistaken(x.clone())
        except Exception:
            continue  # it does not run with these layers, so it is another one
        if isinstance(guess, Tensor) and same(given, guess):
            return f": {slip.message}"
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


pre_activation_block = Exercise(
    number="3.6",
    title="A pre-activation block",
    minutes=20,
    level="medium",
    answer="""\
class MyPreActBlock(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        c_in, c_out = in_channels, out_channels
        self.activate1 = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU())
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.activate2 = nn.Sequential(nn.BatchNorm2d(c_out), nn.ReLU())
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.projection = None
        if stride != 1 or c_in != c_out:
            self.projection = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate1(x)
        shortcut = x if self.projection is None else self.projection(activated)
        out = self.conv1(activated)
        out = self.activate2(out)
        out = self.conv2(out)
        return out + shortcut
""",
    judge=_same_block,
    slips="""
return out + shortcut -> return (out + shortcut).relu()
    there is a ReLU after the addition; here nothing stands between it and the next block.
out + shortcut -> out
    the shortcut is never added.
(c_in), nn.ReLU() -> (c_in)
    the ReLU is missing between the first norm and the first convolution.
(c_out), nn.ReLU() -> (c_out)
    the ReLU is missing between the second norm and the second convolution.
nn.BatchNorm2d(c_in), nn.ReLU() -> nn.ReLU(), nn.BatchNorm2d(c_in)
or
nn.BatchNorm2d(c_out), nn.ReLU() -> nn.ReLU(), nn.BatchNorm2d(c_out)
    ReLU comes before the norm; the order is norm, ReLU, convolution.
= x if -> = activated if
    the activated input is added where the shape stays; the shortcut is x itself.
activated = self.activate1(x) -> normal = self.activate1[0](x); activated = normal.relu()
= x if -> = normal if
    the normalized input is added where the shape stays; the shortcut is x itself.
= x if -> = x.relu() if
    a ReLU stands on the shortcut: x is added as it is, with its negative numbers.
projection(activated) -> projection(x)
    the projection reads x; it reads the activated input, after the first norm and ReLU.
activated = self.activate1(x) -> normal = self.activate1[0](x); activated = normal.relu()
projection(activated) -> projection(normal)
    the projection reads the norm's output; it comes after the ReLU as well.
out + shortcut -> out - shortcut
    the shortcut is subtracted; it must be added.
c_in, c_out, 3, stride -> c_in, c_out, 3, 1
c_out, c_out, 3, 1 -> c_out, c_out, 3, stride
    the stride is on the second 3×3 convolution; it belongs on the first.
return out -> return out.relu()
    a ReLU stands between the last convolution and the addition: F may be negative.
+ shortcut -> + 2 * shortcut
    the shortcut is added twice.
out + shortcut -> out * shortcut
    the shortcut is multiplied with F(x); it must be added.
conv1(activated) -> conv1(x)
    the first convolution reads x itself; it reads the activated input, after norm and ReLU.
nn.ReLU -> nn.ReLU6
    the activation is ReLU6, and not the ReLU.
nn.ReLU -> nn.LeakyReLU
    the activation is LeakyReLU, and not the ReLU.
nn.ReLU -> nn.ELU
    the activation is ELU, and not the ReLU.
nn.ReLU -> nn.GELU
    the activation is GELU, and not the ReLU.
nn.ReLU -> nn.SiLU
    the activation is SiLU, and not the ReLU.
nn.ReLU -> nn.Sigmoid
    the activation is Sigmoid, and not the ReLU.
nn.ReLU -> nn.Tanh
    the activation is Tanh, and not the ReLU.
super().__init__() -> pass
    Call super().__init__() first of all.
out_channels: int, stride: int = 1 -> out_channels: int
super().__init__() -> super().__init__(); stride = 1
    The constructor must accept (in_channels, out_channels, stride=1).
def forward -> def forwards
    Your class has no method forward(self, x)
return out + shortcut -> out = out + shortcut
    does it end with `return`?
activate1(x) -> activate1(x.relu_())
    forward changes its own input in place
activated = self.activate1(x) -> self.eval(); activated = self.activate1(x)
    forward switches between training and evaluation mode
activated = self.activate1(x) -> torch.set_grad_enabled(False); activated = self.activate1(x)
    forward leaves the recording of gradients switched for all code that follows
return out + shortcut -> return torch.cat([out, shortcut], 1)
    look at the channels. x is added, not put beside F(x).
c_in, c_out, 3, stride -> c_in, c_out, 3, 1
c_in, c_out, 1, stride -> c_in, c_out, 1, 1
    look at strides and paddings.
c_in, c_out, 1, stride -> c_in, c_out, 1, 1
or
stride != 1 or c_in != c_out -> stride != 1
or
stride != 1 or c_in != c_out -> c_in != c_out
or
stride != 1 or c_in != c_out -> False
    the shortcut needs a 1×1 convolution with the block's stride
BatchNorm2d(c_in) -> BatchNorm2d(c_out)
    A norm has the channels of what it reads
self.conv1(activated) -> self.conv1(self.activate1(x))
    one norm runs twice on the same input
nn.BatchNorm2d(c_out) -> nn.GroupNorm(1, c_out)
    GroupNorm is another norm
c_out, c_out, 3, 1, 1 -> c_out, c_out, 1, 1, 0
    F has two 3×3 convolutions
self.conv2 = -> conv =
bias=False)⏎        self.projection = -> bias=False).double(); self.hidden = [conv]⏎        self.projection =
self.conv2(out) -> self.hidden[0](out)
    a layer runs that is not registered
self.activate2(out) -> self.activate1(out)
    one layer is used twice
3, 1, 1, -> 3, 1, 1, groups=c_out,
or
3, 1, 1, -> 3, 1, 1, padding_mode="reflect",
    is an unusual convolution
bias=False -> bias=True
    a convolution has a bias; set bias=False
stride != 1 or c_in != c_out -> True
    there is a projection where the shape stays (option C)
self.projection = nn.Conv2d -> self.projection = nn.Sequential(nn.Conv2d
1, stride, bias=False) -> 1, stride, bias=False), nn.BatchNorm2d(c_out))
or
self.projection = None -> self.projection, self.last = None, nn.BatchNorm2d(c_out)
return out + shortcut -> return self.last(out + shortcut)
    there is a norm too many
nn.BatchNorm2d(c_out), nn.ReLU() -> nn.ReLU()
    a norm is missing: one stands in front of each 3×3 convolution.
BatchNorm2d(c_in) -> BatchNorm2d(c_in, momentum=0.9)
    has other settings than torchvision's
c_in, c_out, 3, stride -> c_in, c_in, 3, stride
BatchNorm2d(c_out) -> BatchNorm2d(c_in)
c_out, c_out, 3 -> c_in, c_out, 3
    the second norm has 6 channels, not 12.
self.projection = None -> self.projection = None; self.alpha = nn.Parameter(torch.ones(1))
    alpha belongs to none of the layers that run
activate1(x) -> activate1(x.detach())
or
self.projection = None -> self.projection = None; self.conv2.weight.requires_grad_(False)
    the output is right, but a gradient is not
return out + shortcut -> return (out + shortcut).float()
    let no .float() or .to() change the type
""",
)
