"""Training speed of ResNet-18, side by side in one process: d2l's loop with its loader, and ours.

Absolute speeds of a shared machine say little. So the contestants take turns, and what counts is the
ratio within each round. Beside it stands how near each comes to the fastest kernel of the same machine.

On Linux, glibc gives memory back to the system after every step, and fetching it again costs up to a
third of the time. ``GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=34359738368:``
``glibc.malloc.trim_threshold=34359738368`` in the environment makes it keep the memory, for all
contestants alike; the result says what was set.
"""

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, record_function

from resnetbook import data, models, probes, runs, train
from resnetbook._arguments import check_whole
from resnetbook._command import run_command
from resnetbook.bench import GROUPS, table
from resnetbook.devices import choose_device, has_bfloat16
from resnetbook.recipe import Recipe

SIDES = (96, 28)


@dataclass(frozen=True)
class Contestant:
    """One way to train the network.

    Attributes:
        model: the network that it trains.
        run: takes one turn and returns the seconds that count.
        precision: what the convolutions compute in, ``float32``, ``bfloat16`` or ``float16``.
        num_steps: training steps in one turn that count.
        lead_in: steps before them that do not.
    """

    model: nn.Module
    run: Callable[[], float]
    precision: str
    num_steps: int
    lead_in: int = 0


@contextlib.contextmanager
def _d2l_folder() -> Iterator[None]:
    """Work in a folder where d2l finds the data: it reads ``../data``, and would download otherwise."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="resnetbook-") as folder:
        data.fashion_mnist(Path(folder) / "data")
        work = Path(folder) / "work"
        work.mkdir()
        os.chdir(work)
        try:
            yield
        finally:
            os.chdir(here)


@contextlib.contextmanager
def _d2ls_workers() -> Iterator[None]:
    """No advice to take fewer: d2l takes four, however many cores there are, and that is measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told, before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _lead_in(device: torch.device) -> int:
    """Steps of d2l's loop at the start of a turn that do not count; see :func:`measure`."""
    # A fast device waits for the loader: it has to use up what the workers had ready beforehand.
    return 2 if device.type == "cpu" else 20


def _default_num_batches(side: int, device: torch.device) -> int:
    """Steps that make a turn of at least two seconds, so that what happens once per turn is lost in it."""
    if device.type != "cpu":
        return 100
    return 3 if side > 64 else 12


def _d2l_turn(
    model: nn.Module, num_batches: int, recipe: Recipe, device: torch.device
) -> Callable[[], float]:
    """Seconds of ``num_batches`` steps as ``d2l.train_ch6`` makes them, from d2l's own loader.

    The clock starts after the first steps, and drawing the live figure is not counted either.
    """
    from d2l import torch as d2l

    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    loss_function = nn.CrossEntropyLoss()
    lead_in = _lead_in(device)
    with _d2ls_workers():
        loader, _ = d2l.load_data_fashion_mnist(recipe.batch_size, resize=recipe.resize)

    def run() -> float:
        model.train()
        metric = d2l.Accumulator(3)
        # Kept by name until the end: stopping the workers takes a tenth of a second.
        with _d2ls_workers():
            batches = iter(loader)
        start = time.perf_counter()
        for step, (x, y) in enumerate(itertools.islice(batches, lead_in + num_batches), 1):
            optimizer.zero_grad()
            x, y = x.to(device), y.to(device)
            logits = model(x)
            loss = loss_function(logits, y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                metric.add(loss * x.shape[0], d2l.accuracy(logits, y), x.shape[0])
            if step == lead_in:
                _synchronize(device)
                start = time.perf_counter()
        _synchronize(device)
        return time.perf_counter() - start

    return run


def _our_turn(
    model: nn.Module, num_batches: int, recipe: Recipe, device: torch.device, loaded: data.FashionMNIST
) -> Callable[[], float]:
    """Seconds of ``num_batches`` steps of :func:`resnetbook.train.fit`, preparing the images included.

    All batches are full: a smaller last one would make ``torch.compile`` start again.
    """
    count = num_batches * recipe.batch_size
    images, labels = loaded.train_images[:count], loaded.train_labels[:count]

    def run() -> float:
        _synchronize(device)
        start = time.perf_counter()
        train.fit(model, images, labels, recipe, device=device, progress=False)
        _synchronize(device)
        return time.perf_counter() - start

    return run


def _low_precision(device: torch.device) -> str | None:
    """What autocast computes in: bfloat16 where there are instructions, float16 on other GPUs."""
    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if device.type == "cuda" else None


def _compile_problem(device: torch.device) -> str | None:
    """Why ``torch.compile`` does not work here, in words; ``None`` if it does.

    On a CPU it needs a C++ compiler, on a GPU Triton; whether it works is seen from a small example.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # it has dozens of ways to fail, and every one means the same
        return f"torch.compile does not work here: {str(error).strip().splitlines()[0]}"
    return None


def contestants(
    side: int,
    batch_size: int,
    num_batches: int,
    device: torch.device,
    loaded: data.FashionMNIST,
    cannot_compile: str | None,
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """All contestants by name, d2l's first, and those that are left out, with the reason.

    To be called in a folder where d2l finds the data.

    Args:
        side: of the images in pixels.
        batch_size: images per step.
        num_batches: steps per turn.
        device: where they train.
        loaded: the data.
        cannot_compile: why ``torch.compile`` is left out; ``None`` if it is not.
    """
    plain = dataclasses.replace(
        runs.EXPERIMENTS["source-recipe"].recipe,
        num_epochs=1,
        batch_size=batch_size,
        resize=None if side == 28 else side,
        # Once per training, not once per turn; d2l's loop does not count it either.
        initialization="model",
        channels_last=False,
        autocast=None,
    )
    recipes = {"ours, float32": plain}
    fast = dataclasses.replace(plain, channels_last=True)
    recipes["ours, channels-last"] = fast
    left_out = {}
    low = _low_precision(device)
    if low != "bfloat16":
        left_out["ours, channels-last, bfloat16"] = "this device has no instructions for bfloat16"
    if low is not None:
        fast = dataclasses.replace(fast, autocast=low)
        recipes[f"ours, channels-last, {low}"] = fast
    compiled = f"{list(recipes)[-1]}, compiled"
    if cannot_compile is None:
        recipes[compiled] = fast
    else:
        left_out[compiled] = cannot_compile

    model = models.d2l_resnet18()
    run = _d2l_turn(model, num_batches, plain, device)
    theirs = Contestant(model, run, "float32", num_batches, _lead_in(device))
    found = {"d2l.train_ch6's loop and loader": theirs}
    for name, recipe in recipes.items():
        model = models.d2l_resnet18()
        if name == compiled:
            model = torch.compile(model)
        run = _our_turn(model, num_batches, recipe, device, loaded)
        found[name] = Contestant(model, run, recipe.autocast or "float32", num_batches)
    return found, left_out


def training_flops(model: nn.Module, input_shape: tuple[int, int, int], padding: bool = True) -> int:
    """Floating-point operations of one training step for one image ``(C, H, W)``.

    Three times those of the forward pass, which are two for each multiply-add of a convolution or a
    linear layer: the backward pass has as many for the gradient in the weights, and as many again for
    the gradient in the input. That is how model FLOPs utilization (MFU) counts them (Chowdhery et al.
    2022, PaLM, https://arxiv.org/abs/2204.02311, appendix B). The count is kept to the letter: the
    gradient in the images is in it too, which no training computes (0.8 % of ResNet-18's operations
    at 96×96, 0.6 % at 28×28). But MFU divides by the theoretical peak of the machine, and what is called
    MFU here by the fastest kernel that was measured (:func:`peak`), which is less.

    Args:
        model: the network.
        input_shape: of one image.
        padding: count multiplications by the zeros around a map, as is usual. Libraries skip them, so
            on small maps MFU comes out too high: of a 3×3 convolution on a 3×3 map they are 40 %.
    """
    return 6 * probes.count_macs(model, input_shape, padding)


@dataclass(frozen=True)
class _Kernel:
    """A call to the library that does nothing but multiply and add."""

    name: str
    shape: str
    flops: int
    run: Callable[[], torch.Tensor]


# Large enough for the machine, and small enough to try them all in seconds.
_MATRICES = {"cpu": (1024, 2048), "gpu": (4096, 8192)}
# Rows, inputs and outputs of a linear layer.
_LINEAR = {"cpu": ((2304, 2304, 256), (4096, 1024, 1024)), "gpu": ((8192, 4096, 4096),)}
# Images, channels, side of the output, side of the kernel; without padding, so that all of it is work.
_CONVOLUTIONS = {
    "cpu": ((64, 64, 24, 3), (64, 128, 12, 3), (32, 256, 14, 3), (64, 256, 6, 3), (64, 256, 16, 1)),
    "gpu": ((256, 64, 56, 3), (256, 128, 28, 3), (256, 256, 14, 3), (256, 512, 7, 3), (256, 512, 14, 1)),
}


def _kernels(dtype: torch.dtype, device: torch.device) -> Iterator[_Kernel]:
    """The candidates for the peak, one after the other, to hold only one's tensors at a time."""
    size = "cpu" if device.type == "cpu" else "gpu"

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    for n in _MATRICES[size]:
        a, b = random(n, n), random(n, n)
        yield _Kernel("torch.mm", f"{n}×{n} by {n}×{n}", 2 * n**3, lambda a=a, b=b: torch.mm(a, b))
    for rows, inputs, outputs in _LINEAR[size]:
        x, weight = random(rows, inputs), random(outputs, inputs)
        shape = f"{rows}×{inputs} to {rows}×{outputs}"
        flops = 2 * rows * inputs * outputs
        yield _Kernel("F.linear", shape, flops, lambda x=x, weight=weight: F.linear(x, weight))
    for num_images, channels, side, kernel in _CONVOLUTIONS[size]:
        flops = 2 * num_images * (channels * side * kernel) ** 2
        for words, memory_format in (
            ("contiguous", torch.contiguous_format),
            ("channels-last", torch.channels_last),
        ):
            x = random(num_images, channels, side + kernel - 1, side + kernel - 1)
            x = x.contiguous(memory_format=memory_format)
            weight = random(channels, channels, kernel, kernel).contiguous(memory_format=memory_format)
            shape = f"{kernel}×{kernel}, {channels} channels, {num_images} maps of {side}×{side}, {words}"
            yield _Kernel("F.conv2d", shape, flops, lambda x=x, weight=weight: F.conv2d(x, weight))


@torch.no_grad()
def peak(precision: str, device: torch.device, least_seconds: float = 0.3) -> dict:
    """The most operations per second that any kernel of the library reaches on this device.

    Matrix multiplications, linear layers and convolutions of several shapes are tried, each at its
    fastest: on some processors the library's own convolutions are faster than its matrix
    multiplication. The settings are those that the contestants run under: on recent GPUs, float32
    convolutions compute in TF32.

    Args:
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: where.
        least_seconds: how long each kernel is repeated, at least three times.

    Returns:
        ``{"flops_per_second", "kernel", "shape"}`` of the winner.
    """
    best = {"flops_per_second": 0.0, "kernel": "", "shape": ""}
    for kernel in _kernels(getattr(torch, precision), device):
        kernel.run()  # the first call of its kind sets things up
        _synchronize(device)
        shortest, end, turn = float("inf"), time.perf_counter() + least_seconds, 0
        while turn < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            kernel.run()
            _synchronize(device)
            shortest = min(shortest, time.perf_counter() - start)
            turn += 1
        if kernel.flops / shortest > best["flops_per_second"]:
            best = {
                "flops_per_second": kernel.flops / shortest,
                "kernel": kernel.name,
                "shape": kernel.shape,
            }
    return best


def _lineage(event: FunctionEvent) -> list[str]:
    """The names of an operation, of the one that called it, and so on to the outermost."""
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    return names


_CONVERSIONS = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous")
_ELEMENTWISE = ("relu", "threshold", "pool", "aten::add", ": addbackward")


def _group(lineage: list[str]) -> str:
    """Which of ``GROUPS`` the time of an operation itself belongs to."""
    if any(name == "loading" or name.startswith("enumerate(DataLoader)") for name in lineage):
        return "data loading"
    if any(name.startswith("Optimizer.") for name in lineage):
        return "optimizer"
    backward = any(name.startswith("autograd::") for name in lineage)
    if not backward and "forward" not in lineage:
        # Loss, metric, and what Python does between the calls; only a batch is picked by index.
        return "data loading" if lineage[0] == "aten::index" else "other"
    if lineage[0] in _CONVERSIONS:
        return "format and type conversion"
    for name in map(str.lower, lineage):
        if "convolution" in name or "conv2d" in name:
            return "convolution, backward" if backward else "convolution, forward"
        if "batch_norm" in name or "batchnorm" in name:
            return "batch norm"
        if any(word in name for word in _ELEMENTWISE):
            return "activation, pooling, addition"
    return "other"


@contextlib.contextmanager
def _loading_marked() -> Iterator[None]:
    """Let the profiler see when ``fit`` prepares a batch; DataLoader says so by itself."""
    originals = {name: getattr(train, name) for name in ("augment", "prepare")}
    try:
        for name, function in originals.items():
            setattr(train, name, record_function("loading")(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(train, name, function)


def profile_step(contestant: Contestant, batch_size: int) -> dict:
    """Where the time of one training step goes: one further turn of the contestant, on the CPU.

    A step is taken from one forward pass to the next, so at its end stands the loading of the next
    batch; all whole steps of the turn that count are taken (but not the first of ours), and their mean
    is returned. PyTorch's profiler gives the time that each operation takes itself, without those that
    it calls. The groups share all of it, so they add up to the step.

    d2l's worker processes load while the step computes: of their work only the waiting is seen here.
    What it takes from the processors slows down the other groups: 0.05 s of one core for a batch of 256
    at 96×96, where a step takes 2.7 s on two cores, and 0.015 s at 28×28, where it takes 0.32 s.

    Args:
        contestant: one that is not compiled: compiled operations do not tell their kind.
        batch_size: images per step.

    Returns:
        ``{"num_steps": of which the mean was taken, "step_seconds": from begin to end, "seconds_per_image":
        {group: …}}`` with all ``GROUPS``. They add up to ``step_seconds / batch_size``, within 0.1 %.

    Raises:
        ValueError: if a turn has fewer than three steps that count, or trains on another device than
            the CPU, where this clock sees only when work is handed over.
    """
    if contestant.num_steps < 3:
        raise ValueError(f"a profile needs turns of at least 3 steps, got {contestant.num_steps}")
    device = next(contestant.model.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"a profile is of the CPU only, got {device}; leave it out, or say --device cpu")
    last = contestant.lead_in + contestant.num_steps
    first = max(contestant.lead_in, 1) + 1
    profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU])
    ranges: list[record_function] = []
    count = itertools.count(1)

    def open_range(name: str) -> None:
        ranges.append(record_function(name))
        ranges[-1].__enter__()

    def close_range() -> None:
        ranges.pop().__exit__(None, None, None)

    def before_forward(module: nn.Module, arguments: tuple) -> None:
        number = next(count)
        if number == first:
            profiler.start()
            open_range("steps")
        elif number == last:
            close_range()
            profiler.stop()
        open_range("forward")

    def after_forward(module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        close_range()

    handles = [
        contestant.model.register_forward_pre_hook(before_forward),
        contestant.model.register_forward_hook(after_forward),
    ]
    try:
        with _loading_marked():
            contestant.run()
    finally:
        for handle in handles:
            handle.remove()
    seconds = dict.fromkeys(GROUPS, 0.0)
    duration = 0.0
    for event in profiler.events():
        lineage = _lineage(event)
        if lineage == ["steps"]:
            duration = event.cpu_time_total / 1e6  # from microseconds
        # What runs in other threads, or belongs to the profiler, is not part of a step.
        if lineage[-1] == "steps":
            seconds[_group(lineage)] += event.self_cpu_time_total / 1e6
    num_steps = last - first
    return {
        "num_steps": num_steps,
        "step_seconds": duration / num_steps,
        "seconds_per_image": {name: value / num_steps / batch_size for name, value in seconds.items()},
    }


def measure(
    sides: Iterable[int] = SIDES,
    batch_size: int = 256,
    num_batches: int | None = None,
    rounds: int = 5,
    device: str | torch.device | None = None,
    profile: bool = False,
) -> dict:
    """Measure the contestants in turn, after a round that warms up (and compiles) and does not count.

    Every turn of d2l's loop begins with two steps that do not count (twenty on a GPU). In a training of
    235 steps an epoch they are rare, in a turn of a few steps they are not. On two cores, right after
    its four worker processes were started, the first step took twice (96×96) and 2.5 times (28×28) as
    long as later ones, the second 1.1 times: the workers are filling their queue of eight batches, and
    memory that they share has to be copied where the training writes to it. From the third on, steps
    take equally long, and the workers load as many batches as are used up. So a clock that starts with
    the first batch makes d2l's loop look slower than it is. A GPU can be faster than the loader; then
    the queue must be used up first, or the loop would look faster. Ours counts from the first step of
    ``fit`` on.

    Args:
        sides: of the images in pixels, one after the other.
        batch_size: images per step.
        num_batches: steps per turn; default: enough for a turn of two seconds (3 at 96×96 and 12 at
            28×28 on a CPU, 100 on a GPU).
        rounds: turns of each contestant.
        device: default: CUDA, MPS or the CPU, whichever there is.
        profile: also say where the time of a step goes (:func:`profile_step`), for d2l's loop, ours in
            float32 and the best that is not compiled, in as many further rounds.

    Returns:
        ``{"batch_size", "rounds", "sides": {"96": side, …}, "left_out": {name: why}, "peaks": {precision:
        what peak returns}, "hardware", "versions", "date", "commit", "clean_tree", "command"}``. A side is
        ``{"num_batches", "training_flops", "training_flops_without_padding": per image, "contestants",
        "profile": if asked for, {name: what profile_step returns for the turn whose step was the median,
        and "turns": the step_seconds of every turn}}``, and a contestant
        ``{"precision", "images_per_second": [one for each round], "median", "ratios": to d2l, round by
        round, "ratio": their median, "mfu": median speed times training_flops, as a share of the peak of
        its precision, "mfu_without_padding"}``.

    Raises:
        ValueError: for a count below 1, more images than there are, a device that is not there, or a
            profile that cannot be made.
        ImportError: if d2l is not installed.
    """
    import d2l  # noqa: F401  (missing, it is missed now, not after a minute of measuring)

    sides = list(dict.fromkeys(sides))
    for side in sides:
        check_whole(1, side=side)
    check_whole(1, batch_size=batch_size, rounds=rounds)
    if num_batches is not None:
        check_whole(1, num_batches=num_batches)
    chosen = choose_device(device)
    steps = {side: num_batches or _default_num_batches(side, chosen) for side in sides}
    available = data.SHAPES["train-images-idx3-ubyte"][0]
    most = _lead_in(chosen) + max(steps.values())
    if most * batch_size > available:
        raise ValueError(f"{most} batches of {batch_size:,} are more than the {available:,} training images")
    if profile and (chosen.type != "cpu" or min(steps.values()) < 3):
        raise ValueError("a profile needs the CPU (--device cpu) and turns of at least 3 steps")
    source = runs.source()  # before the run: what is edited while it computes did not take part
    loaded = data.fashion_mnist()
    low = _low_precision(chosen)
    result = {
        "batch_size": batch_size,
        "rounds": rounds,
        "sides": {},
        "left_out": {},
        "peaks": {name: peak(name, chosen) for name in ("float32", low) if name is not None},
        "hardware": runs.hardware(chosen),
        "versions": runs.versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **source,
        "command": _command(sides, batch_size, num_batches, rounds, device, profile),
    }
    if platform.libc_ver()[0] == "glibc":
        result["hardware"]["glibc_tunables"] = os.environ.get("GLIBC_TUNABLES")
    cannot_compile = _compile_problem(chosen)
    with _d2l_folder():
        for side, count in steps.items():
            # Otherwise the second side would be compiled for images of any size, which is slower.
            torch.compiler.reset()
            cast, result["left_out"] = contestants(side, batch_size, count, chosen, loaded, cannot_compile)
            speeds = _take_turns(cast, rounds, count * batch_size)
            result["sides"][str(side)] = _judge(cast, speeds, side, count, result["peaks"])
            if profile:
                result["sides"][str(side)]["profile"] = _profiles(cast, rounds, batch_size)
    return result


def _to_profile(cast: dict[str, Contestant]) -> list[str]:
    """d2l's loop, ours in float32, and the last that is not compiled: the fastest of those."""
    not_compiled = [name for name in cast if not name.endswith("compiled")]
    return [*not_compiled[:2], not_compiled[-1]]


def _profiles(cast: dict[str, Contestant], rounds: int, batch_size: int) -> dict[str, dict]:
    """Of each loop that is profiled the median turn: on a busy machine a single one can be far off."""
    turns: dict[str, list[dict]] = {name: [] for name in _to_profile(cast)}
    for _ in range(rounds):
        for name, found in turns.items():
            found.append(profile_step(cast[name], batch_size))
    return {name: _median_turn(found) for name, found in turns.items()}


def _median_turn(turns: list[dict]) -> dict:
    """The whole turn, so that its groups add up, and the length of a step in every turn."""
    in_order = sorted(turns, key=lambda turn: turn["step_seconds"])
    # Of two in the middle the shorter.
    median = in_order[(len(turns) - 1) // 2]
    return median | {"turns": [turn["step_seconds"] for turn in turns]}


def _command(
    sides: list[int],
    batch_size: int,
    num_batches: int | None,
    rounds: int,
    device: str | torch.device | None,
    profile: bool,
) -> str:
    parts = ["python code/tools/bench.py", *(f"--side {side}" for side in sides)]
    parts += ["--batch-size", str(batch_size), "--rounds", str(rounds)]
    parts += [] if num_batches is None else ["--batches", str(num_batches)]
    parts += [] if device is None else ["--device", str(device)]
    parts += ["--profile"] if profile else []
    return " ".join(parts)


def _take_turns(cast: dict[str, Contestant], rounds: int, num_images: int) -> dict[str, list[float]]:
    """Images per second of every contestant, one for each round; the first round does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in cast}
    for turn in range(rounds + 1):
        for name, contestant in cast.items():
            seconds = contestant.run()
            if turn > 0:
                speeds[name].append(num_images / seconds)
    return speeds


def _judge(
    cast: dict[str, Contestant],
    speeds: dict[str, list[float]],
    side: int,
    num_batches: int,
    peaks: dict[str, dict],
) -> dict:
    """What :func:`measure` returns for one side."""
    network = models.d2l_resnet18()
    flops = training_flops(network, (1, side, side))
    without_padding = training_flops(network, (1, side, side), padding=False)
    base = next(iter(speeds.values()))
    entries = {}
    for name, contestant in cast.items():
        ratios = [value / other for value, other in zip(speeds[name], base, strict=True)]
        median = statistics.median(speeds[name])
        fastest = peaks[contestant.precision]["flops_per_second"]
        entries[name] = {
            "precision": contestant.precision,
            "images_per_second": speeds[name],
            "median": median,
            "ratios": ratios,
            "ratio": statistics.median(ratios),
            "mfu": median * flops / fastest,
            "mfu_without_padding": median * without_padding / fastest,
        }
    return {
        "num_batches": num_batches,
        "training_flops": flops,
        "training_flops_without_padding": without_padding,
        "contestants": entries,
    }


def _run(arguments: argparse.Namespace) -> None:
    if arguments.json and not arguments.json.parent.is_dir():
        # Said before minutes of measuring, not after.
        raise ValueError(f"cannot write {arguments.json}: there is no folder {arguments.json.parent}")
    try:
        result = measure(
            arguments.side or SIDES,
            arguments.batch_size,
            arguments.batches,
            arguments.rounds,
            arguments.device,
            arguments.profile,
        )
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install -r requirements.txt") from error
    print(table(result))
    if arguments.json:
        named = {"name": arguments.json.stem} | result
        arguments.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 1 with a message on standard error."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/bench.py", description="Measure training speed, d2l's loop and ours in turn."
    )
    parser.add_argument(
        "--side", type=int, action="append", help="of the images in pixels; may be repeated (default: 96, 28)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images per step (default: 256)")
    parser.add_argument("--batches", type=int, help="steps per turn (default: enough for two seconds)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument("--profile", action="store_true", help="also say where the time of a step goes")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.set_defaults(run=_run)
    return run_command("bench", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
