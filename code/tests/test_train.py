"""Training against d2l's own loop, hand-written steps, PyTorch's schedulers, and real kills."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES
from small_net import small_net
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from resnetbook import devices, models, runs, train
from resnetbook.recipe import Recipe

PLAIN = Recipe(
    num_epochs=1,
    batch_size=70,
    lr=0.1,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    normalize=False,
)


def fit(model, few, recipe, **options):
    return train.fit(model, *few, recipe, **{"device": "cpu", "progress": False, **options})


def assert_same_state(ours: nn.Module, theirs: nn.Module, tolerance: float = 0.0) -> None:
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    for (name, a), (other, b) in pairs:
        assert name == other
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0, msg=name)


# ---------------------------------------------------------------------------------------------------
# The same recipe as d2l's


@pytest.fixture
def d2l(monkeypatch):
    """d2l's library; instead of drawing, its Animator keeps what it is given."""
    from d2l import torch as module

    class Animator:
        points: list = []

        def __init__(self, **options) -> None:
            self.points.clear()

        def add(self, x, y) -> None:
            self.points.append(y)

    monkeypatch.setattr(module, "Animator", Animator)
    return module


class OneBatch(list):
    """d2l divides the number of batches by 5 to decide when to draw, and cannot count fewer than 5."""

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize("resize", [None, 96])
def test_one_step_is_one_step_of_d2ls_train_ch6(d2l, dataset, resize):
    count = 32 if resize is None else 8
    images, labels = dataset.train_images[:count], dataset.train_labels[:count]
    recipe = dataclasses.replace(
        runs.EXPERIMENTS["source-recipe"].recipe,
        num_epochs=1,
        batch_size=count,
        channels_last=False,
        autocast=None,
        resize=resize,
    )
    # ToTensor's scaling, by hand; the resized images are ours, compared with PIL's below.
    x = images / 255 if resize is None else train.prepare(images, recipe)
    # In the order in which fit() takes them: rounding depends on it, and 18 layers make it grow.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    batch = (x[order], labels[order])
    theirs = models.d2l_resnet18()
    ours = copy.deepcopy(theirs)
    before = copy.deepcopy(theirs)

    torch.manual_seed(0)  # both draw Xavier weights, in the same order
    d2l.train_ch6(theirs, OneBatch([batch]), [batch], 1, recipe.lr, torch.device("cpu"))
    torch.manual_seed(0)
    (entry,) = train.fit(ours, images, labels, recipe, device="cpu", progress=False)

    loss, accuracy, _ = d2l.Animator.points[0]
    assert entry["train_loss"] == pytest.approx(loss, abs=1e-5)
    assert entry["train_accuracy"] == pytest.approx(accuracy)
    assert_same_state(ours, theirs, 1e-5)
    with pytest.raises(AssertionError):  # the comparison is not blind: the weights did move
        assert_same_state(before, theirs, 1e-3)


def test_the_source_recipe_is_the_chapters_one():
    recipe = runs.EXPERIMENTS["source-recipe"].recipe
    assert (recipe.lr, recipe.num_epochs, recipe.batch_size, recipe.resize) == (0.05, 10, 256, 96)
    assert (recipe.momentum, recipe.weight_decay, recipe.label_smoothing) == (0, 0, 0)
    assert recipe.schedule == "constant" and recipe.warmup_steps == 0 and not recipe.normalize
    assert recipe.initialization == "xavier"
    assert not (recipe.flip or recipe.shift or recipe.erase)


# ---------------------------------------------------------------------------------------------------
# Steps


def hand_written(model: nn.Module, images, labels, recipe: Recipe, seed: int) -> list[float]:
    """What :func:`fit` promises, without torch.optim, autograd's loss functions or a scheduler."""
    x_all = ((images / 255) - 0.2860) / 0.3530
    velocity: dict[nn.Parameter, torch.Tensor] = {}
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    num_steps = steps_per_epoch * recipe.num_epochs
    step, losses = 0, []
    for epoch in range(1, recipe.num_epochs + 1):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        total = 0.0
        for start in range(0, len(images), recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            model.zero_grad()
            log_p = torch.log(torch.softmax(model(x_all[chosen]), 1))
            right = -log_p[torch.arange(len(chosen)), labels[chosen]]
            s = recipe.label_smoothing
            loss = ((1 - s) * right + s * -log_p.mean(1)).mean()
            loss.backward()
            if step < recipe.warmup_steps:
                lr = recipe.lr * (step + 1) / recipe.warmup_steps
            else:
                t = (step - recipe.warmup_steps) / (num_steps - recipe.warmup_steps)
                lr = recipe.lr * (1 + math.cos(math.pi * t)) / 2
            with torch.no_grad():
                for p in model.parameters():
                    g = p.grad + recipe.weight_decay * p
                    velocity[p] = recipe.momentum * velocity[p] + g if p in velocity else g.clone()
                    p -= lr * (g + recipe.momentum * velocity[p] if recipe.nesterov else velocity[p])
            total += loss.item() * len(chosen)
            step += 1
        losses.append(total / len(images))
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0, "weight_decay": 0.0},
        {},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 1e-2},
        {"label_smoothing": 0.1, "warmup_steps": 4},
    ],
)
def test_steps_equal_a_hand_written_loop(few, options):
    recipe = Recipe(num_epochs=3, batch_size=32, lr=0.1, **options)  # 32 + 32 + 6 images
    ours = small_net()
    theirs = copy.deepcopy(ours)
    history = fit(ours, few, recipe, seed=5)
    theirs.train()
    assert [entry["train_loss"] for entry in history] == pytest.approx(
        hand_written(theirs, *few, recipe, seed=5), abs=1e-5
    )
    assert_same_state(ours, theirs, 1e-5)


@pytest.mark.parametrize("accumulate", [2, 3, 32])
def test_accumulated_gradients_are_those_of_the_whole_batch(few, accumulate):
    """Without batch normalization; the batches have 32, 32 and 6 images, parts of unequal size."""
    recipe = Recipe(num_epochs=2, batch_size=32, label_smoothing=0.1, flip=True)
    whole = small_net()
    whole[1] = nn.Identity()
    parts = copy.deepcopy(whole)
    sizes = []
    parts.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    expected = fit(whole, few, recipe)
    history = fit(parts, few, dataclasses.replace(recipe, accumulate=accumulate))
    assert_same_state(whole, parts, 1e-6)
    for ours, theirs in zip(history, expected, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
        assert ours["train_accuracy"] == theirs["train_accuracy"]
    assert sum(sizes) == 2 * 70
    assert len(sizes) == 2 * (2 * accumulate + min(accumulate, 6))


def test_batch_norm_sees_the_parts_of_an_accumulated_batch(few):
    recipe = Recipe(num_epochs=1, batch_size=35)
    whole = small_net()
    parts = copy.deepcopy(whole)
    fit(whole, few, recipe)
    fit(parts, few, dataclasses.replace(recipe, accumulate=5))
    assert (whole[1].num_batches_tracked, parts[1].num_batches_tracked) == (2, 10)
    with pytest.raises(AssertionError):
        assert_same_state(whole, parts, 1e-4)


def averages(net: nn.Module, images, labels, recipe: Recipe) -> tuple[list[dict], dict]:
    """The history of :func:`fit` without averaging, and the average of the states after each step."""
    plain = dataclasses.replace(recipe, ema=0.0)
    average, optimizer_step = {}, torch.optim.SGD.step

    def step(self, *arguments):
        result = optimizer_step(self, *arguments)
        for name, value in net.state_dict().items():
            value = value.double()
            before = average.get(name)
            average[name] = value if before is None else recipe.ema * before + (1 - recipe.ema) * value
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        return fit(net, (images, labels), plain), average


def test_the_model_ends_with_the_moving_average_of_its_states(few):
    recipe = Recipe(num_epochs=2, batch_size=16, ema=0.7)
    net = small_net()
    other = copy.deepcopy(net)
    history = fit(net, few, recipe, valid=few, fixed_slice=70)
    expected_history, expected = averages(other, *few, recipe)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5, msg=name)
    # Training goes on from the weights themselves, and what is evaluated is the average.
    assert [e["train_loss"] for e in history] == [e["train_loss"] for e in expected_history]
    assert history[-1]["valid_accuracy"] == train.evaluate(net, *few, recipe).accuracy
    assert history[-1]["slice_loss"] == train.evaluate(net, *few, recipe).loss


def test_a_resumed_average_goes_on(few, tmp_path):
    recipe = Recipe(num_epochs=3, batch_size=16, ema=0.9)
    nets = [small_net()]
    nets += [copy.deepcopy(nets[0]) for _ in range(2)]
    fit(nets[0], few, recipe)

    def stop(entry):
        if entry["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(nets[1], few, recipe, checkpoint=tmp_path / "run.pt", on_epoch=stop)
    for _ in range(2):  # on from epoch 2, then from a finished checkpoint
        fit(nets[2], few, recipe, checkpoint=tmp_path / "run.pt")
        assert_same_state(nets[0], nets[2])


def test_the_history_counts_the_images_as_they_were_trained_on(few):
    entries = []
    history = fit(small_net(), few, Recipe(num_epochs=2, batch_size=16), on_epoch=entries.append)
    assert history == entries
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        assert set(entry) == {"epoch", "train_loss", "train_accuracy", "valid_accuracy", "seconds"}
        assert entry["valid_accuracy"] is None and entry["seconds"] > 0
        right = entry["train_accuracy"] * 70
        assert right == pytest.approx(round(right), abs=1e-4)


def test_the_seed_decides_the_order_and_nothing_else_does(few):
    torch.manual_seed(0)
    nets = [small_net()]
    nets += [copy.deepcopy(nets[0]) for _ in range(2)]
    recipe = Recipe(num_epochs=2, batch_size=16, flip=True, shift=1, erase=0.5)
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        torch.rand(7)  # other random numbers in between do not matter
        fit(net, few, recipe, seed=seed)
    assert_same_state(nets[0], nets[1])
    with pytest.raises(AssertionError):
        assert_same_state(nets[0], nets[2], 1e-4)


def test_learning_rates_equal_pytorchs_cosine_schedule():
    recipe = Recipe(lr=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert recipe.lr * train.lr_factor(recipe, step, 40) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_learning_rates_equal_pytorchs_linear_warmup():
    recipe = Recipe(lr=0.3, schedule="constant", warmup_steps=8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 8, total_iters=7)
    for step in range(20):
        assert recipe.lr * train.lr_factor(recipe, step, 20) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_one_cycle_is_two_straight_lines(warmup):
    recipe = Recipe(schedule="onecycle", warmup_steps=warmup)
    factors = [train.lr_factor(recipe, step, 100 + warmup) for step in range(warmup, 100 + warmup)]
    assert factors[30] == 1 == max(factors)
    assert factors[1:] == pytest.approx(list(np.interp(range(1, 100), [0, 30, 100], [0, 1, 0])))
    assert factors[0] == 0.02  # not 0: the first step would be lost


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0, 3, 50])
def test_every_learning_rate_is_positive_and_at_most_the_largest(schedule, warmup):
    recipe = Recipe(schedule=schedule, warmup_steps=warmup)
    for num_steps in (1, 2, 10):
        assert all(0 < train.lr_factor(recipe, step, num_steps) <= 1 for step in range(num_steps))


def test_xavier_is_drawn_for_convolutions_and_linear_layers_alone():
    net = small_net()
    before = copy.deepcopy(net)
    train.initialize(net, "model")
    assert_same_state(net, before)
    train.initialize(net, "xavier")
    for ours, old in zip(net, before, strict=True):
        if isinstance(ours, nn.Conv2d | nn.Linear):
            fan_in, fan_out = ours.weight[0].numel(), ours.weight.numel() // ours.weight.shape[1]
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert not torch.equal(ours.weight, old.weight)
            assert 0.8 * bound < ours.weight.abs().max() <= bound
            assert ours.bias is None or torch.equal(ours.bias, old.bias)
        elif isinstance(ours, nn.BatchNorm2d):
            assert_same_state(ours, old)


# ---------------------------------------------------------------------------------------------------
# Batches on the device


class Counter(TorchDispatchMode):
    """Counts every operation, and the elements of the largest tensor made in float."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.largest_float = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.largest_float = max(self.largest_float, result.numel())
        return result


def test_work_on_a_batch_does_not_loop_over_its_images():
    recipe = Recipe(flip=True, shift=2, erase=0.5, resize=12)
    counts = []
    for size in (2, 200):
        images = torch.randint(0, 256, (size, 1, 8, 8), dtype=torch.uint8)
        with Counter() as counter:
            train.prepare(train.augment(images, recipe, torch.Generator().manual_seed(0)), recipe)
        counts.append(counter.operations)
    assert counts[0] == counts[1]


def test_images_are_moved_once_as_bytes_and_prepared_a_batch_at_a_time(few, monkeypatch):
    images = few[0].repeat(10, 1, 1, 1)
    labels = few[1].repeat(10)
    moved = []
    to = torch.Tensor.to

    def watched(tensor, *arguments, **options):
        if tensor.dim() == 4 and tensor.shape[1:] == images.shape[1:]:
            moved.append((len(tensor), tensor.dtype))
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    with Counter() as counter:
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (images, labels), Recipe(2, 50, flip=True))
    assert moved == [(700, torch.uint8)]
    assert counter.largest_float <= 50 * 64  # never all of the images as floats


@pytest.mark.parametrize("device", DEVICES)
def test_it_learns_on_every_device_that_is_there(few, device):
    images, labels = few[0].clone(), few[1] % 2
    images[labels == 1, :, :4] = 0
    net = small_net(num_classes=2)
    history = fit(net, (images, labels), Recipe(num_epochs=8, batch_size=10, flip=True), device=device)
    assert history[-1]["train_loss"] < 0.2 < history[0]["train_loss"]
    assert next(net.parameters()).device.type == device
    assert train.evaluate(net, images, labels, device=device).accuracy > 0.95


class Watched(nn.Module):
    """Notes the type and the memory format of what a convolution in the middle reads and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        self.seen: set = set()

    def forward(self, x):
        inside = self.first(x)
        out = self.second(inside)
        # Not only what a convolution gives: that is channels-last as soon as its weights are.
        formats = [
            t.is_contiguous(memory_format=torch.channels_last) for t in (x, inside, self.second.weight)
        ]
        self.seen.add((x.dtype, inside.dtype, out.dtype, *formats))
        return self.head(out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("options", "dtype", "tolerance"),
    [
        ({}, torch.float32, 0),
        ({"channels_last": True}, torch.float32, 1e-4),
        ({"autocast": "bfloat16"}, torch.bfloat16, 3e-2),
        ({"autocast": "float16"}, torch.float16, 1e-2),
        ({"autocast": "bfloat16", "channels_last": True}, torch.bfloat16, 3e-2),
    ],
)
def test_channels_last_and_autocast_reach_the_layers(options, dtype, tolerance, device):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (64,), generator=generator)
    torch.manual_seed(0)
    net = Watched()
    reference = copy.deepcopy(net)
    recipe = Recipe(num_epochs=4, batch_size=16, lr=0.05)
    expected = fit(reference, (images, labels), recipe, device=device)
    changed = dataclasses.replace(recipe, **options)
    history = fit(net, (images, labels), changed, device=device)
    last = "channels_last" in options
    assert net.seen == {(torch.float32, dtype, dtype, last, last, last)}
    net.seen.clear()
    logits = train.evaluate(net, images, labels, changed, device).logits
    assert net.seen == {(torch.float32, dtype, dtype, last, last, last)}
    # Weights, losses and logits stay in float32, and near those of a run in float32 alone.
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert logits.dtype == torch.float32
    for ours, theirs in zip(history, expected, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=tolerance)
    near = train.evaluate(reference, images, labels, recipe, device).logits
    torch.testing.assert_close(logits, near, atol=max(5 * tolerance, 1e-6), rtol=0)


# ---------------------------------------------------------------------------------------------------
# Evaluation


def test_evaluation_is_cross_entropy_and_accuracy_in_evaluation_mode(few):
    net = small_net(dropout=0.5)
    net.train()
    net[1].running_mean.fill_(0.3)
    before = copy.deepcopy(net.state_dict())
    result = train.evaluate(net, *few, Recipe(normalize=False), "cpu")
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    logits = net(few[0] / 255)
    torch.testing.assert_close(result.logits, logits)
    assert result.loss == pytest.approx(F.cross_entropy(logits, few[1]).item())
    assert result.accuracy == pytest.approx((logits.argmax(1) == few[1]).double().mean().item())
    assert not result.logits.requires_grad


def test_the_flip_test_is_the_mean_of_both_logits(few):
    images, labels = few
    net = small_net()
    recipe = Recipe(flip_test=True)
    expected = (train.evaluate(net, *few).logits + train.evaluate(net, images.flip(3), labels).logits) / 2
    found = train.evaluate(net, *few, recipe)
    torch.testing.assert_close(found.logits, expected)
    assert found.accuracy == (expected.argmax(1) == labels).float().mean().item()
    # The same for a picture and its mirror image, which one look is not.
    torch.testing.assert_close(train.evaluate(net, images.flip(3), labels, recipe).logits, found.logits)
    assert not torch.allclose(train.evaluate(net, *few).logits, found.logits)


@pytest.mark.parametrize("batch_size", [1, 7, 69, 70, 1000])
def test_evaluation_does_not_depend_on_the_batch_size(few, batch_size):
    torch.manual_seed(0)
    net = small_net()
    whole = train.evaluate(net, *few, device="cpu")
    parts = train.evaluate(net, *few, device="cpu", batch_size=batch_size)
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-6, rtol=0)
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss)


def test_evaluation_puts_the_mode_of_every_layer_back_even_after_an_error(few):
    net = small_net().train()
    net[1].eval()  # a frozen norm, as in transfer learning
    train.evaluate(net, *few, device="cpu")
    assert net.training and net[0].training and not net[1].training
    with pytest.raises(RuntimeError):
        train.evaluate(net, few[0].repeat(1, 3, 1, 1), few[1], device="cpu")
    assert net.training and not net[1].training


def test_valid_and_fixed_slice_are_evaluations_after_the_epoch(few):
    held = (few[0][:20], few[1][:20])
    rest = (few[0][20:], few[1][20:])
    net = small_net()
    seen = []

    def look(entry: dict) -> None:
        seen.append((train.evaluate(net, *held), train.evaluate(net, rest[0][:30], rest[1][:30])))

    recipe = Recipe(num_epochs=2, batch_size=16)
    history = fit(net, rest, recipe, valid=held, fixed_slice=30, on_epoch=look)
    for entry, (valid, part) in zip(history, seen, strict=True):
        assert entry["valid_accuracy"] == valid.accuracy
        assert (entry["slice_loss"], entry["slice_accuracy"]) == (part.loss, part.accuracy)
    # Looking does not change what is learned.
    torch.manual_seed(0)
    first, second = small_net(), small_net()
    second.load_state_dict(first.state_dict())
    fit(first, rest, recipe, valid=held, fixed_slice=30)
    fit(second, rest, recipe)
    assert_same_state(first, second)


# ---------------------------------------------------------------------------------------------------
# Progress


def test_there_is_one_progress_bar_on_standard_error(few, capsys):
    recipe = Recipe(num_epochs=3, batch_size=16)
    fit(small_net(), few, recipe, valid=few, fixed_slice=10, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n")  # rewritten in place, ended once
    drawn = [part for part in err.strip().split("\r") if part]
    assert all("/15 " in part for part in drawn)
    assert "15/15" in drawn[-1] and "epoch=3" in drawn[-1]


def test_without_progress_nothing_is_printed(few, capfd):
    fit(small_net(), few, Recipe(num_epochs=2, batch_size=16), valid=few, progress=False)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------------
# Bad input


def test_fit_and_evaluate_keep_to_the_memory_format_of_the_device(few, monkeypatch):
    """On MPS a recipe's channels-last memory is contiguous, also for who calls fit himself."""
    recipe = Recipe(num_epochs=1, batch_size=16, channels_last=True)
    assert devices.memory_format(recipe, torch.device("mps")) is torch.contiguous_format
    assert devices.memory_format(recipe, torch.device("cpu")) is torch.channels_last
    monkeypatch.setattr(devices, "memory_format", lambda recipe, device: torch.contiguous_format)
    images = few[0].expand(-1, 3, -1, -1).contiguous()
    net = Watched()
    fit(net, (images, few[1]), recipe, valid=(images, few[1]))
    assert {formats for _, _, _, *formats in map(tuple, net.seen) for formats in [tuple(formats)]} == {
        (False, False, False)
    }


IMAGES = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
LABELS = torch.arange(6)


@pytest.mark.parametrize("call", [fit, train.evaluate], ids=["fit", "evaluate"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, 0], LABELS, r"images must have shape \(N, C, H, W\), got \(6, 8, 8\)"),
        (IMAGES[0], LABELS, r"images must have shape \(N, C, H, W\)"),
        (IMAGES.float(), LABELS, "images must be uint8.*got torch.float32"),
        (IMAGES.long(), LABELS, "images must be uint8.*got torch.int64"),
        (IMAGES.numpy(), LABELS, "images must be a torch.Tensor, got ndarray"),
        (IMAGES, LABELS.tolist(), "labels must be a torch.Tensor, got list"),
        (IMAGES, LABELS[:5], r"labels must have shape \(6,\), got \(5,\)"),
        (IMAGES, LABELS[:, None], r"labels must have shape \(6,\), got \(6, 1\)"),
        (IMAGES, LABELS.float(), "labels must be int64, got torch.float32"),
        (IMAGES, LABELS.int(), "labels must be int64, got torch.int32"),
        (IMAGES[:0], LABELS[:0], "there are no images"),
        (IMAGES[:, :, :0], LABELS, "there are no images"),
        (IMAGES, LABELS - 1, "labels run from -1 to 4, the model knows 0 to 9"),
        (IMAGES, LABELS + 5, "labels run from 5 to 10, the model knows 0 to 9"),
    ],
)
def test_wrong_images_and_labels_are_named(call, images, labels, message):
    with pytest.raises(ValueError, match=message):
        if call is fit:
            fit(small_net(), (images, labels), PLAIN)
        else:
            train.evaluate(small_net(), images, labels)


def test_wrong_held_out_data_is_named_before_an_hour_of_training(few):
    steps = []
    net = small_net()
    net[1].register_forward_hook(lambda *_: steps.append(1))
    for valid, message in [
        ((IMAGES.float(), LABELS), "images must be uint8"),
        ((IMAGES, LABELS[:3]), "labels must have shape"),
        ((IMAGES, LABELS + 7), "labels run from 7 to 12"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(net, few, Recipe(batch_size=10), valid=valid)
    assert len(steps) <= 1  # the number of classes is only known from the first logits


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 10, 8)), r"\(6, 10, 1, 1\)"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(384, 10)), r"\(10,\)"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(384, 10), nn.Unflatten(0, (1, 10))), r"\(1, 10\)"),
    ],
)
def test_a_model_that_gives_no_logits_is_named(net, shape):
    message = rf"must give logits \(6, num_classes\) for 6 images, got {shape}"
    with pytest.raises(ValueError, match=message):
        fit(net, (IMAGES, LABELS), PLAIN)
    with pytest.raises(ValueError, match=message):
        train.evaluate(net, IMAGES, LABELS, device="cpu")


def test_a_model_that_gives_a_tuple_is_named():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)), x

    with pytest.raises(ValueError, match="must give logits.*got tuple"):
        fit(Two(64, 10), (IMAGES, LABELS), PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed_slice": -1}, "fixed_slice must be a whole number of at least 0, got -1"),
        ({"fixed_slice": 2.5}, "fixed_slice must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"device": "gpu"}, "no device 'gpu' on this machine; there is: cpu"),
        ({"device": "cuda:77"}, "no device 'cuda:77' on this machine; there is: cpu"),
    ],
)
def test_other_wrong_arguments_of_fit(few, options, message):
    with pytest.raises(ValueError, match=message):
        fit(small_net(), few, PLAIN, **options)


@pytest.mark.parametrize("batch_size", [0, -5, 2.5])
def test_a_wrong_batch_size_of_evaluate(few, batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        train.evaluate(small_net(), *few, device="cpu", batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"batch_size": 69},
            "70 images in batches of 69 leave a last batch of 1; choose another batch_size$",
        ),
        ({"batch_size": 1}, "70 images in batches of 1 leave a last batch of 1;"),
        (
            {"batch_size": 35, "accumulate": 20},
            "leave a last batch of 35 in 20 parts; choose another batch_size or a smaller accumulate$",
        ),
    ],
)
def test_one_image_alone_on_a_map_of_one_pixel(few, options, words):
    """On images of 8×8 the last stage has maps of 1×1."""
    spec = {"family": "resnet", "depth": 18, "width": 2, "stem": "small", "in_channels": 1, "num_classes": 10}
    with pytest.raises(ValueError, match=f"(?s)one image alone, on a map of 1×1.*{words}"):
        fit(models.build(spec), few, Recipe(num_epochs=1, **options))
    # On larger maps, and in the other mode, one image is no harm.
    fit(small_net(), few, Recipe(num_epochs=1, batch_size=69))
    train.evaluate(models.build(spec), few[0][:1], few[1][:1], device="cpu")


def test_a_loss_that_is_not_finite_stops_the_training(few, tmp_path):
    path = tmp_path / "run.pt"
    net = small_net()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1; lower lr"):
        fit(net, few, PLAIN, checkpoint=path)
    assert not path.exists()


def test_a_loss_that_explodes_stops_the_training(few):
    recipe = dataclasses.replace(PLAIN, num_epochs=50, lr=100.0, weight_decay=10.0)
    with pytest.raises(FloatingPointError, match="lower lr"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), few, recipe)


def test_weights_that_explode_in_the_last_step_are_noticed(few, tmp_path):
    """The loss is computed before the step: the last one cannot be seen in it."""
    path = tmp_path / "run.pt"
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(FloatingPointError, match="a weight is no longer finite after epoch 1; lower lr"):
        fit(net, few, dataclasses.replace(PLAIN, lr=3e38, normalize=True, weight_decay=1e3), checkpoint=path)
    assert not path.exists()
