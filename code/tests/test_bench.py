"""The benchmark measures what its labels say, and leaves no trace."""

import dataclasses
import functools
import json
import os
import statistics
import time

import pytest
import torch
from small_net import small_net
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bench
from resnetbook import bench as results
from resnetbook import data, models, probes, runs, train

CPU = torch.device("cpu")
D2L = "d2l.train_ch6's loop and loader"
NO_COMPILER = "torch.compile does not work here: no compiler in this test"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few and small kernels for the peak, and no compilation, which takes a minute."""
    monkeypatch.setattr(bench, "_MATRICES", {"cpu": (256,)})
    monkeypatch.setattr(bench, "_LINEAR", {"cpu": ((256, 256, 256),)})
    monkeypatch.setattr(bench, "_CONVOLUTIONS", {"cpu": ((8, 64, 12, 3), (8, 64, 12, 1))})
    monkeypatch.setattr(bench, "_compile_problem", lambda device: NO_COMPILER)


@pytest.fixture
def cells(monkeypatch):
    """Instead of training: a clock that advances by what each contestant is said to take."""
    recipes = []
    monkeypatch.setattr(models, "d2l_resnet18", small_net)
    peak = {"flops_per_second": 1e12, "kernel": "torch.mm", "shape": "8×8 by 8×8"}
    monkeypatch.setattr(bench, "peak", lambda precision, device: peak)

    def ours(model, num_batches, recipe, device, loaded):
        recipes.append(recipe)
        seconds = iter([100.0, 0.5, 2.0])
        return lambda: next(seconds)

    def theirs(model, num_batches, recipe, device):
        recipes.append(recipe)
        seconds = iter([50.0, 1.0, 8.0])
        return lambda: next(seconds)

    monkeypatch.setattr(bench, "_our_turn", ours)
    monkeypatch.setattr(bench, "_d2l_turn", theirs)
    return recipes


def test_the_first_round_does_not_count_and_ratios_are_taken_round_by_round(toy, cells):
    result = bench.measure([28], batch_size=4, num_batches=2, rounds=2, device="cpu")
    base, *ours = result["sides"]["28"]["contestants"].values()
    assert base["images_per_second"] == [8.0, 1.0]
    assert base["ratio"] == 1.0 and base["ratios"] == [1.0, 1.0]
    for entry in ours:
        assert entry["images_per_second"] == [16.0, 4.0]
        assert entry["median"] == statistics.median([16.0, 4.0])
        assert entry["ratios"] == [2.0, 4.0]
        assert entry["ratio"] == statistics.median([2.0, 4.0])
    table = results.table(result)
    assert "28×28, turns of 2 steps" in table and "batches of 4" in table and "medians of 2 rounds" in table
    row = next(line for line in table.splitlines() if line.startswith("ours, float32"))
    assert row[len("ours, float32") :].split()[:4] == ["10", "3.00", "2.00", "4.00"]
    assert all(name in table for name in result["sides"]["28"]["contestants"])


@pytest.mark.parametrize("low", ["bfloat16", "float16", None])
@pytest.mark.parametrize("compiles", [True, False])
def test_the_labels_tell_what_is_measured(toy, cells, monkeypatch, low, compiles):
    compiled = []

    def fake_compile(model):
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", fake_compile)
    monkeypatch.setattr(bench, "_low_precision", lambda device: low)
    cast, left_out = bench.contestants(28, 4, 3, CPU, toy, None if compiles else NO_COMPILER)
    assert list(cast)[:3] == [D2L, "ours, float32", "ours, channels-last"]
    for (name, contestant), recipe in zip(cast.items(), cells, strict=True):
        precision = next((word for word in ("bfloat16", "float16") if word in name.split(", ")), None)
        expected = {
            "channels_last": "channels-last" in name,
            "autocast": precision,
            "lr": 0.05,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "normalize": False,
            "resize": None,
            "batch_size": 4,
            "num_epochs": 1,
        }
        assert {key: getattr(recipe, key) for key in expected} == expected, name
        assert contestant.precision == (precision or "float32")
        assert any(contestant.model is model for model in compiled) == name.endswith("compiled")
    # The last is the one before it, compiled; what is missing is named, with the reason.
    assert len(cast) == 3 + (low is not None) + compiles
    if compiles:
        assert list(cast)[-1] == f"{list(cast)[-2]}, compiled"
    reasons = {name.split(", ")[-1]: why for name, why in left_out.items()}
    assert ("bfloat16" in reasons) == (low != "bfloat16")
    assert reasons.get("compiled") == (None if compiles else NO_COMPILER)
    # Every contestant trains a network of its own.
    assert len({id(contestant.model) for contestant in cast.values()}) == len(cast)


def test_both_sides_are_measured_unless_told_otherwise(toy, cells):
    result = bench.measure(batch_size=4, rounds=1, device="cpu")
    assert list(result["sides"]) == ["96", "28"]
    assert [side["num_batches"] for side in result["sides"].values()] == [3, 12]
    assert [recipe.resize for recipe in cells[:2]] == [96, 96] and cells[-1].resize is None
    # An epoch's worth of the real data holds the steps that count and those that do not.
    assert bench._lead_in(torch.device("cuda")) + bench._default_num_batches(28, torch.device("cuda")) < 235


def test_what_is_left_out_is_said_in_words(toy, cells):
    result = bench.measure([28], batch_size=4, num_batches=1, rounds=1, device="cpu")
    (name,) = (name for name in result["left_out"] if name.endswith("compiled"))
    assert result["left_out"][name] == NO_COMPILER
    assert f"left out: {name} ({NO_COMPILER})" in " ".join(results.table(result).split())
    assert name not in result["sides"]["28"]["contestants"]


def test_the_result_says_how_it_was_made(toy, cells, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=34359738368")
    monkeypatch.setattr(bench.platform, "libc_ver", lambda: ("glibc", "2.36"))
    result = bench.measure([28, 28], batch_size=4, num_batches=2, rounds=1, device="cpu")
    expected = "python code/tools/bench.py --side 28 --batch-size 4 --rounds 1 --batches 2 --device cpu"
    assert result["command"] == expected
    assert {"commit", "clean_tree", "date", "versions"} <= set(result)
    assert result["hardware"]["threads"] == torch.get_num_threads()
    table = results.table(result)
    assert "GLIBC_TUNABLES: hugetlb=1, trim_threshold=34359738368" in table
    assert all(len(line) <= 100 for line in table.splitlines())
    monkeypatch.delenv("GLIBC_TUNABLES")
    result = bench.measure([28], batch_size=4, num_batches=2, rounds=1, device="cpu")
    assert "GLIBC_TUNABLES: not set" in results.table(result)
    monkeypatch.setattr(bench.platform, "libc_ver", lambda: ("", ""))  # another system
    result = bench.measure([28], batch_size=4, num_batches=2, rounds=1, device="cpu")
    assert "GLIBC" not in results.table(result)


# ---------------------------------------------------------------------------------------------------
# The contestants


@pytest.fixture
def five_batches(dataset, monkeypatch):
    """Five batches of noise in place of d2l's loader."""
    from d2l import torch as d2l

    torch.manual_seed(0)
    loaded = [(torch.rand(4, 1, 8, 8), torch.arange(4)) for _ in range(5)]
    monkeypatch.setattr(d2l, "load_data_fashion_mnist", lambda *a, **k: (loaded, None))
    return loaded


def plain_recipe(**changes):
    known = runs.EXPERIMENTS["source-recipe"].recipe
    plain = {"num_epochs": 1, "batch_size": 4, "resize": None, "autocast": None, "initialization": "model"}
    return dataclasses.replace(known, **plain | changes)


def test_d2ls_contestant_takes_d2ls_steps(five_batches):
    """Its hand-copied loop ends at the weights of the book's own loop, from d2l's loader."""
    torch.manual_seed(0)
    net = small_net()
    other = small_net()
    other.load_state_dict(net.state_dict())
    assert bench._d2l_turn(net, 2, plain_recipe(), CPU)() > 0
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05)
    for x, y in five_batches[:4]:  # two that count after two that do not, though there are five
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(other(x), y).backward()
        optimizer.step()
    for (name, a), b in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_only_the_steps_after_the_lead_in_count(five_batches):
    net = small_net()
    steps = []

    def slow(module, arguments):
        steps.append(0.4 if len(steps) < 2 else 0.05)
        time.sleep(steps[-1])

    net.register_forward_pre_hook(slow)
    seconds = bench._d2l_turn(net, 2, plain_recipe(), CPU)()
    assert steps == [0.4, 0.4, 0.05, 0.05]
    assert 0.1 <= seconds < 0.8


def test_our_contestant_is_fit_on_full_batches(toy, monkeypatch):
    asked = []

    def fit(model, images, labels, recipe, **options):
        asked.append((model, images, labels, recipe, options))
        time.sleep(0.05)

    monkeypatch.setattr(train, "fit", fit)
    net, recipe = small_net(), plain_recipe()
    assert 0.05 <= bench._our_turn(net, 3, recipe, CPU, toy)() < 1
    ((model, images, labels, used, options),) = asked
    assert model is net and used is recipe and options["device"] == CPU
    assert torch.equal(images, toy.train_images[:12]) and torch.equal(labels, toy.train_labels[:12])


@pytest.mark.slow
def test_it_is_compiled_once_and_in_the_warm_up(toy, monkeypatch, one_thread):
    """Not again in later turns, and not for a smaller batch."""
    graphs = []
    real = torch.compile

    def backend(graph, inputs):
        graphs.append([x for x in inputs if isinstance(x, torch.Tensor)])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=backend))
    monkeypatch.setattr(bench, "_d2l_turn", lambda *arguments: lambda: 1.0)
    monkeypatch.setattr(models, "d2l_resnet18", small_net)
    for side in (28, 12):  # the second side is compiled for itself, not for images of any size
        graphs.clear()
        torch.compiler.reset()
        cast, _ = bench.contestants(side, 4, 3, CPU, toy, None)
        (contestant,) = (found for name, found in cast.items() if name.endswith("compiled"))
        contestant.run()
        assert len(graphs) == 1
        assert (4, 1, side, side) in [tuple(x.shape) for x in graphs[0]]
        contestant.run()
        contestant.run()
        assert len(graphs) == 1
    torch.compiler.reset()


def test_measuring_starts_each_side_from_an_empty_compiler(toy, cells, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    real = bench.contestants
    monkeypatch.setattr(bench, "contestants", lambda *a: calls.append("contestants") or real(*a))
    bench.measure([28, 12], batch_size=4, num_batches=1, rounds=1, device="cpu")
    assert calls == ["reset", "contestants"] * 2


def test_why_it_cannot_be_compiled_is_said_in_one_line(monkeypatch):
    monkeypatch.undo()

    def failing(function):
        raise RuntimeError("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", failing)
    expected = "torch.compile does not work here: No working C++ compiler found"
    assert bench._compile_problem(CPU) == expected
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert bench._compile_problem(CPU) is None


@pytest.mark.parametrize(
    ("device", "has", "low"),
    [("cpu", True, "bfloat16"), ("cpu", False, None), ("cuda", True, "bfloat16"), ("cuda", False, "float16")],
)
def test_the_low_precision_is_one_the_device_has_instructions_for(monkeypatch, device, has, low):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: has)
    assert bench._low_precision(torch.device(device)) == low


def test_d2l_finds_the_data_without_a_download_and_the_working_folder_is_put_back(dataset, monkeypatch):
    monkeypatch.setattr(data, "_download", lambda *a: pytest.fail("touched the network"))
    here = os.getcwd()
    with pytest.raises(RuntimeError, match="on purpose"), bench._d2l_folder():
        inside = os.getcwd()
        assert inside != here
        assert sorted(os.listdir("../data/FashionMNIST/raw")) == sorted(data.SHA256)
        raise RuntimeError("on purpose")
    assert os.getcwd() == here and not os.path.exists(inside)


# ---------------------------------------------------------------------------------------------------
# Operations and the peak


def counted_flops(model: nn.Module, x: torch.Tensor) -> int:
    """Of forward and backward pass, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


def test_the_formula_for_the_operations_of_a_step(one_thread):
    net, shape = small_net(), (1, 8, 8)
    flops = bench.training_flops(net, shape)
    assert flops == 3 * 2 * probes.count_macs(net, shape)
    # PyTorch counts the same, for several images, if they want a gradient too …
    assert counted_flops(net, torch.rand(5, *shape, requires_grad=True)) == 5 * flops
    # … and without it one forward pass of the first layer less.
    first = 2 * probes.macs_by_layer(net, shape)["0"]
    assert counted_flops(net, torch.rand(5, *shape)) == 5 * (flops - first)


def test_operations_of_resnet18_and_the_share_of_the_gradient_in_the_images():
    net = models.d2l_resnet18()
    for side, share in ((96, 0.008), (28, 0.006)):  # as the docstring says
        first = 2 * probes.macs_by_layer(net, (1, side, side))["0.0"]
        assert first / bench.training_flops(net, (1, side, side)) == pytest.approx(share, abs=5e-4)


def test_multiplications_by_padding_can_be_left_out():
    def flops(layer, padding, shape=(4, 5, 5)):
        return bench.training_flops(nn.Sequential(layer), shape, padding=padding)

    # Along one axis of length n, a kernel of 3 with padding 1 has 3n taps, 2 of them outside.
    layer = nn.Conv2d(4, 6, 3, padding=1)
    assert flops(layer, True) == 6 * 4 * 6 * 15**2
    assert flops(layer, False) == 6 * 4 * 6 * 13**2
    assert flops(layer, False, (4, 3, 3)) / flops(layer, True, (4, 3, 3)) == pytest.approx(0.6, abs=0.01)
    layer = nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2)
    assert flops(layer, False) == 6 * 2 * 6 * (2 + 3 + 2) ** 2
    for layer in (nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(4, 6, 1), nn.Linear(5, 7)):
        assert flops(layer, False) == flops(layer, True)
    net = models.d2l_resnet18()
    both = [bench.training_flops(net, (1, 28, 28), padding=padding) for padding in (True, False)]
    assert 0.4 < both[1] / both[0] < 0.6
    assert not any(module._forward_hooks for module in net.modules())


def test_the_kernels_do_the_operations_that_they_claim(one_thread):
    kernels = list(bench._kernels(torch.float32, CPU))
    assert {kernel.name for kernel in kernels} == {"torch.mm", "F.linear", "F.conv2d"}
    assert any("channels-last" in kernel.shape for kernel in kernels)
    assert any("contiguous" in kernel.shape for kernel in kernels)
    for kernel in kernels:
        with FlopCounterMode(display=False) as counter:
            kernel.run()
        assert counter.get_total_flops() == kernel.flops, kernel
    # Nothing is padded: what is counted is work.
    convolution = next(kernel for kernel in kernels if kernel.name == "F.conv2d")
    assert convolution.shape.startswith("3×3, 64 channels, 8 maps of 12×12")
    assert convolution.run().shape == (8, 64, 12, 12)


def test_the_peak_is_the_fastest_kernel_and_is_named(monkeypatch):
    fake = [
        bench._Kernel("slow", "small", 100, lambda: time.sleep(0.02)),
        bench._Kernel("fast", "large", 1000, lambda: time.sleep(0.02)),
        bench._Kernel("late", "huge", 1000, lambda: time.sleep(0.06)),
    ]
    monkeypatch.setattr(bench, "_kernels", lambda dtype, device: iter(fake))
    found = bench.peak("float32", CPU, least_seconds=0)
    assert (found["kernel"], found["shape"]) == ("fast", "large")
    assert 1000 / 0.04 < found["flops_per_second"] <= 1000 / 0.02


def test_the_peak_is_above_what_a_small_matrix_multiplication_and_a_training_reach(one_thread):
    a, b = torch.rand(48, 48), torch.rand(48, 48)
    start = time.perf_counter()
    for _ in range(100):
        torch.mm(a, b)
    naive = 100 * 2 * 48**3 / (time.perf_counter() - start)
    found = bench.peak("float32", CPU, least_seconds=0.05)
    assert found["flops_per_second"] > naive
    # One step of a network whose convolutions are those of the peak's kernel: it is no faster.
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    x = torch.rand(8, 64, 14, 14, requires_grad=True)
    net(x).sum().backward()
    start = time.perf_counter()
    net(x).sum().backward()
    reached = 8 * bench.training_flops(net, (64, 14, 14)) / (time.perf_counter() - start)
    assert 0 < reached < found["flops_per_second"]


# ---------------------------------------------------------------------------------------------------
# The profile


def test_groups_follow_from_what_an_operation_is_part_of():
    forward, backward = ["forward", "steps"], "autograd::engine::evaluate_function: "
    cases = {
        "convolution, forward": ["aten::mkldnn_convolution", "aten::convolution", "aten::conv2d", *forward],
        "convolution, backward": [
            "aten::convolution_backward",
            "ConvolutionBackward0",
            backward + "ConvolutionBackward0",
            "steps",
        ],
        "batch norm": ["aten::empty", "aten::native_batch_norm", "aten::batch_norm", *forward],
        "activation, pooling, addition": ["aten::clamp_min", "aten::relu", *forward],
        "format and type conversion": ["aten::copy_", "aten::_to_copy", "aten::to", *forward],
        "optimizer": ["aten::_foreach_add_", "Optimizer.step#SGD.step", "steps"],
        "data loading": ["aten::copy_", "aten::_to_copy", "aten::to", "loading", "steps"],
        "other": ["aten::nll_loss_forward", "aten::cross_entropy_loss", "steps"],
    }
    assert list(cases) == list(results.GROUPS)
    for group, lineage in cases.items():
        assert bench._group(lineage) == group
    for lineage in (
        ["enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", "steps"],
        ["aten::index", "steps"],
    ):
        assert bench._group(lineage) == "data loading"
    for name in ("NativeBatchNormBackward0", "CudnnBatchNormBackward0"):
        assert bench._group(["aten::mul", backward + name, "steps"]) == "batch norm"
    for name in ("ReluBackward0", "MaxPool2DWithIndicesBackward0", "AddBackward0"):
        assert bench._group([backward + name, "steps"]) == "activation, pooling, addition"
    assert bench._group(["aten::copy_", backward + "ToCopyBackward0", "steps"]).startswith("format")
    assert bench._group(["aten::sum", "steps"]) == "other"


@pytest.mark.parametrize("which", [D2L, "ours, channels-last"])
def test_the_groups_add_up_to_the_step(which, toy, five_batches, monkeypatch, one_thread):
    """And each holds something, for either loop."""

    def d2l_resnet18():
        net = small_net()
        net[0], net[1], net[3] = nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 6, 3, stride=2)
        return net

    monkeypatch.setattr(models, "d2l_resnet18", d2l_resnet18)
    five_batches[:] = [(torch.rand(24, 1, 28, 28), torch.arange(24) % 10) for _ in range(5)]
    cast, _ = bench.contestants(28, 24, 3, CPU, toy, NO_COMPILER)
    functions = train.augment, train.prepare
    contestant = cast[which]
    contestant.run()
    start = time.perf_counter()
    found = bench.profile_step(contestant, 24)
    assert 0 < found["num_steps"] * found["step_seconds"] < time.perf_counter() - start
    assert found["num_steps"] == (2 if which == D2L else 1)
    assert tuple(found["seconds_per_image"]) == results.GROUPS
    total = 24 * sum(found["seconds_per_image"].values())
    assert total == pytest.approx(found["step_seconds"], rel=1e-3)
    seconds = found["seconds_per_image"]
    busy = [name for name in results.GROUPS if name != "format and type conversion"]
    if which == D2L:
        busy.remove("data loading")  # a list of tensors takes no time, and says nothing to the profiler
    assert all(seconds[name] > 0 for name in busy), seconds
    assert seconds["convolution, backward"] > seconds["optimizer"] / 10
    # Nothing stays behind.
    assert (train.augment, train.prepare) == functions
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in contestant.model.modules())


def test_a_step_is_as_long_as_the_clock_says(toy, one_thread):
    net = small_net()
    net[2].register_forward_hook(lambda *arguments: time.sleep(0.1))  # no operation: other
    run = bench._our_turn(net, 4, plain_recipe(), CPU, toy)
    found = bench.profile_step(bench.Contestant(net, run, "float32", 4), 4)
    assert found["num_steps"] == 2
    assert 0.1 <= found["step_seconds"] < 0.2
    assert 0.1 <= 4 * found["seconds_per_image"]["other"] <= found["step_seconds"]


def test_a_profile_that_cannot_be_made_is_refused(toy, monkeypatch):
    net = small_net()
    contestant = bench.Contestant(net, lambda: pytest.fail("ran"), "float32", 2)
    with pytest.raises(ValueError, match="at least 3 steps, got 2"):
        bench.profile_step(contestant, 4)
    meta = bench.Contestant(small_net().to("meta"), lambda: pytest.fail("ran"), "float32", 3)
    with pytest.raises(ValueError, match="of the CPU only, got meta"):
        bench.profile_step(meta, 4)
    monkeypatch.setattr(bench, "peak", lambda *a: pytest.fail("measured before it refused"))
    with pytest.raises(ValueError, match="turns of at least 3 steps"):
        bench.measure([28], batch_size=4, num_batches=2, device="cpu", profile=True)


def test_loops_are_profiled_in_turn_and_the_median_turn_is_kept(monkeypatch):
    contestant = bench.Contestant(small_net(), lambda: 1.0, "float32", 3)
    cast = dict.fromkeys(
        (D2L, "ours, float32", "ours, channels-last", "ours, bfloat16, compiled"), contestant
    )
    lengths = iter([9.0, 1.0, 5.0, 3.0, 2.0, 4.0, 4.0, 9.0, 6.0])
    monkeypatch.setattr(bench, "profile_step", lambda *_: {"step_seconds": next(lengths)})
    found = bench._profiles(cast, 3, 4)
    assert found == {
        D2L: {"step_seconds": 4.0, "turns": [9.0, 3.0, 4.0]},
        "ours, float32": {"step_seconds": 2.0, "turns": [1.0, 2.0, 9.0]},
        "ours, channels-last": {"step_seconds": 5.0, "turns": [5.0, 4.0, 6.0]},
    }
    lengths = iter([3.0, 5.0, 6.0, 1.0, 4.0, 8.0])
    found = bench._profiles(cast, 2, 4)
    assert [entry["step_seconds"] for entry in found.values()] == [1.0, 4.0, 6.0]


def test_a_step_that_fails_leaves_no_hooks(toy):
    net, functions = small_net(), (train.augment, train.prepare)

    def run():
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        bench.profile_step(bench.Contestant(net, run, "float32", 3), 4)
    assert (train.augment, train.prepare) == functions
    assert not (net._forward_hooks or net._forward_pre_hooks)


# ---------------------------------------------------------------------------------------------------
# Real results


@pytest.mark.slow
def test_a_real_run_in_miniature(dataset, tmp_path, monkeypatch, recwarn):
    """All is real but the network's size: 11 million weights take seconds a step on a busy machine."""

    def network():
        return models.cifar_resnet(8, width=8, in_channels=1, stem_stride=2)

    monkeypatch.setattr(models, "d2l_resnet18", network)
    monkeypatch.setattr(bench, "peak", functools.partial(bench.peak, least_seconds=0))
    before = os.getcwd()
    result = bench.measure([28], batch_size=4, num_batches=3, rounds=1, device="cpu", profile=True)
    side = result["sides"]["28"]
    assert len(side["contestants"]) >= 3
    for entry in side["contestants"].values():
        assert len(entry["images_per_second"]) == len(entry["ratios"]) == 1
        assert entry["images_per_second"][0] == entry["median"] > 0
        assert entry["ratio"] == entry["ratios"][0] > 0
        peak = result["peaks"][entry["precision"]]["flops_per_second"]
        assert entry["mfu"] == pytest.approx(entry["median"] * side["training_flops"] / peak)
        assert 0 < entry["mfu_without_padding"] < entry["mfu"] < 1
    assert next(iter(side["contestants"].values()))["ratio"] == 1
    assert result["hardware"]["device"] and result["versions"]["torch"] == torch.__version__
    assert os.getcwd() == before
    # The reader cannot change how many workers d2l takes.
    assert not any("worker" in str(warning.message) for warning in recwarn)
    # From the real loader and the real network, every loop has every group; the sums hold.
    assert list(side["profile"])[:2] == [D2L, "ours, float32"] and len(side["profile"]) == 3
    for profile in side["profile"].values():
        total = 4 * sum(profile["seconds_per_image"].values())
        assert total == pytest.approx(profile["step_seconds"], rel=1e-3)
        assert all(value > 0 for value in profile["seconds_per_image"].values())

    table = results.table(result)
    assert all(group in table for group in results.GROUPS)
    assert all(len(line) <= 100 for line in table.splitlines())
    # There and back: a stored result prints the same.
    (tmp_path / "mine.json").write_text(json.dumps({"name": "mine"} | result))
    assert results.recorded(tmp_path) == ["mine"]
    loaded = results.load("mine", tmp_path)
    assert loaded == {"name": "mine"} | result
    assert results.table(loaded) == table


def test_what_is_recorded_loads_and_prints():
    for name in results.recorded():
        result = results.load(name)
        table = results.table(result)
        assert all(len(line) <= 100 for line in table.splitlines()), name
        assert result["clean_tree"] is True and result["commit"], name
        assert result["rounds"] >= 5, name
        for side in result["sides"].values():
            entries = side["contestants"]
            assert all(len(entry["ratios"]) == result["rounds"] for entry in entries.values()), name
            assert all(0 < entry["mfu_without_padding"] < 1 for entry in entries.values()), name
            assert all(len(e["turns"]) == result["rounds"] for e in side.get("profile", {}).values()), name
    with pytest.raises(KeyError, match="no record 'nothing'"):
        results.load("nothing")


def test_results_are_no_records_of_training_runs():
    assert not set(results.recorded()) & set(runs.names())
    assert results.RECORDS.parent == runs.RECORDS


@pytest.mark.parametrize("name", ["side", "batch_size", "num_batches", "rounds"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_counts_must_be_whole_and_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value!r}"):
        bench.measure(**({"sides": [value]} if name == "side" else {name: value}))
