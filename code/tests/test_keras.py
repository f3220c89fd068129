"""The Keras networks beside PyTorch's, on every engine that is installed; saving, loading, strictness."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

# Before Keras is imported; elsewhere in the suite nobody does.
os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetbook import blocks, keras_models, models

pytestmark = pytest.mark.slow

# Engines beside PyTorch: those that are not here are not collected, so that none is skipped.
OTHERS = [name for name in ("tensorflow", "jax") if importlib.util.find_spec(name)]
LR = 0.01
FORMS = ("subclassed", "functional")


def network(depth: int, seed: int, **options) -> nn.Module:
    """A network with norms that are not the trivial zeros and ones, and statistics of real passes."""
    torch.manual_seed(seed)
    found, damped = models.resnet(depth, **options), []
    with torch.no_grad():
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif isinstance(module, blocks.BasicBlock | blocks.Bottleneck):
                # Else the gradients of a new network grow from block to block, and rounding with them.
                last = module.bn3 if isinstance(module, blocks.Bottleneck) else module.bn2
                damped.append(last)
        for module in damped:
            module.weight.mul_(0.25)
        for _ in range(3):
            found(torch.randn(4, options["in_channels"], 40, 40))
    return found


def case(depth: int, side: int, form: str, floatx: str, lr: float, **more) -> dict:
    """What a process needs to do again what PyTorch does here, and PyTorch's own answer."""
    options = {"depth": depth, "num_classes": 10, "in_channels": 3, **more}
    kind = getattr(torch, floatx)
    net = network(**options, seed=depth + side).to(kind)
    images = torch.randn(2, options["in_channels"], side, side, dtype=kind)
    labels = torch.tensor([3, 7])
    found = {"options": options, "form": form, "lr": lr, "images": images, "labels": labels}
    found["state"] = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        found["before"] = net.eval()(images)
    if lr:
        found["loss"], found["after"] = step(net, images, labels, lr)
    return found


def step(net: nn.Module, images: Tensor, labels: Tensor, lr: float) -> tuple[float, Tensor]:
    """The loss of one step of PyTorch's SGD, and what the network says after it, in evaluation mode."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    loss = F.cross_entropy(net.train()(images), labels)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return loss.item(), net.eval()(images)


def cases(floatx: str) -> list[dict]:
    """Every depth, at an even and at an odd size, in both forms; in double precision with a larger step."""
    found = []
    double = floatx == "float64"
    for depth in (18, 34, 50):
        for side, form in zip(
            (64, 33) if double else (224, 97), FORMS[::-1] if double else FORMS, strict=True
        ):
            found.append(case(depth, side, form, floatx, 0.1 if double else LR))
    if not double:
        found.append(case(50, 65, "subclassed", floatx, 0.0, stride_on="1x1", width=16))
        found.append(case(18, 28, "functional", floatx, 0.0, stem="small", in_channels=1, width=16))
    return found


def away(given: np.ndarray, right: Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    return float(np.abs(given - right.numpy()).max() / right.abs().max())


# On PyTorch and JAX Keras computes means and variances in single precision whatever it is told.
ENGINES = [("torch", "float32")]
ENGINES += [(name, "float32") for name in OTHERS] + [
    (name, "float64") for name in OTHERS if name == "tensorflow"
]


@pytest.mark.parametrize(("engine", "floatx"), ENGINES)
def test_outputs_and_steps_are_pytorchs(engine, floatx, tmp_path):
    settings = {"backend": engine, "floatx": floatx, "epsilon": 1e-7, "image_data_format": "channels_last"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    expected = cases(floatx)
    for i, found in enumerate(expected):
        torch.save(found, tmp_path / f"{i}.case")
    environment = {**os.environ, "KERAS_BACKEND": engine, "KERAS_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment |= {"JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("keras_engine.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-3:-1] == [engine, floatx]
    before, after = (1e-4, 1e-3) if floatx == "float32" else (1e-10, 1e-8)
    for i, right in enumerate(expected):
        given = torch.load(tmp_path / f"{i}.answer", weights_only=False)
        said = f"{right['options']}, {right['form']}, {tuple(right['images'].shape)}"
        assert away(given["before"], right["before"]) < before, said
        if right["lr"]:
            assert given["loss"] == pytest.approx(right["loss"], rel=before), said
            assert away(given["after"], right["after"]) < after, said


def test_a_saved_model_comes_back_with_its_settings_and_its_optimizer(tmp_path):
    images = np.random.default_rng(0).standard_normal((2, 33, 40, 3)).astype("float32")
    for name, model in {
        "subclassed": keras_models.ResNet(50, num_classes=4, stride_on="1x1", width=8),
        "functional": keras_models.functional_resnet(18, num_classes=4, width=8),
    }.items():
        model.compile(keras_models.SGD(0.1, l2=3e-4), "mse")
        model.fit(images, np.zeros((2, 4)), verbose=0)
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        outputs = [keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, loaded)]
        assert np.array_equal(*outputs)
        settings = [
            json.loads(json.dumps(m.get_config())) for m in (model, loaded)
        ]  # a tuple comes back as a list
        assert settings[0] == settings[1]
        assert loaded.optimizer.l2 == 3e-4 and int(loaded.optimizer.iterations.numpy()) == 1


@pytest.mark.parametrize("layer", [keras_models.BasicBlock(8, 2), keras_models.Bottleneck(8, 3, "1x1")])
def test_a_block_says_its_shape_and_is_made_again_from_its_settings(layer):
    again = type(layer).from_config(layer.get_config())
    images = np.ones((2, 9, 14, 5), "float32")
    assert tuple(again(images).shape) == again.compute_output_shape(images.shape)
    assert (again.out_channels, again.stride) == (layer.out_channels, layer.stride)


def built(depth: int = 18, channels: int = 3, **options) -> keras.Model:
    model = keras_models.ResNet(depth, num_classes=10, width=8, **options)
    model.build((None, None, None, channels))
    return model


def small(depth: int = 18, **options) -> nn.Module:
    return models.resnet(depth, num_classes=10, width=8, **options)


@pytest.mark.parametrize(
    ("network", "model", "message"),
    [
        (lambda: small(34), built, "the Keras model has nothing for layer1.2"),
        (small, lambda: built(34), "the network has nothing for"),
        (lambda: small(in_channels=1), built, r"conv1.weight has shape \(7, 7, 1, 8\)"),
        (small, lambda: built(stem="small"), r"conv1.weight has shape \(7, 7, 3, 8\)"),
        (small, lambda: keras_models.ResNet(18, 10, width=8), "no weights yet"),
        (lambda: small(shortcut="A"), built, "the network has nothing for"),
        (
            lambda: small(34),
            lambda: keras_models.functional_resnet(18, num_classes=10, width=8),
            "has nothing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(network, model, message):
    model = model()
    before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        keras_models.copy_weights(network(), model)
    after = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    assert all(map(np.array_equal, before, after))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, "no ResNet-20"),
        ({"depth": 18, "stem": "large"}, "unknown stem"),
        ({"depth": 50, "stride_on": "5x5"}, "stride_on must be"),
        ({"depth": 18, "num_classes": 0}, "num_classes"),
    ],
)
def test_settings_without_sense_are_refused_in_both_forms(arguments, message):
    for make in (keras_models.ResNet, keras_models.functional_resnet):
        with pytest.raises(ValueError, match=message):
            make(**arguments)


def test_weights_come_back_as_they_went():
    network, model = small(50), built(50)
    keras_models.copy_weights(network, model)
    back, state = keras_models.weights_as_torch(model, network), network.state_dict()
    assert {*back} == {name for name in state if not name.endswith("num_batches_tracked")}
    assert all(np.array_equal(array, state[name].numpy()) for name, array in back.items())


def test_the_running_variance_is_pytorchs():
    images = torch.randn(4, 3, 2, 2)
    trusted, norm, plain = nn.BatchNorm2d(3), keras_models.BatchNorm(), keras.layers.BatchNormalization
    for _ in range(3):
        trusted(images)
        norm(images.permute(0, 2, 3, 1).numpy(), training=True)
    found = norm.moving_variance.numpy()
    assert found == pytest.approx(trusted.running_var.numpy(), rel=1e-5)
    assert norm.moving_mean.numpy() == pytest.approx(trusted.running_mean.numpy(), abs=1e-6)
    norm.trainable = False
    norm(images.permute(0, 2, 3, 1).numpy() + 7, training=True)
    assert np.array_equal(norm.moving_variance.numpy(), found)
    assert plain().momentum == 0.99 and plain().epsilon == 1e-3  # what the page calls Keras's defaults


def test_weight_decay_is_pytorchs_over_many_steps():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    trusted = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.05)
    variable = keras.Variable(weight.detach().numpy().copy())
    optimizer = keras_models.SGD(0.1, momentum=0.9, l2=0.05)
    for i in range(20):
        weight.grad = torch.tensor([0.3, -0.1]) * (i % 3 - 1)
        optimizer.apply([weight.grad.clone()], [variable])
        trusted.step()
    assert variable.numpy() == pytest.approx(weight.detach().numpy(), rel=1e-5)


def test_keras_applications_are_v1_with_biases():
    network = models.resnet50(num_classes=7, stride_on="1x1")
    network(torch.randn(4, 3, 64, 64))
    theirs = keras.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classes=7, classifier_activation=None
    )
    keras_models.copy_to_applications(network, theirs)
    images = torch.randn(2, 3, 64, 64)
    given = keras.ops.convert_to_numpy(theirs(images.permute(0, 2, 3, 1).numpy(), training=False))
    with torch.no_grad():
        assert away(given, network.eval()(images)) < 1e-4
    with pytest.raises(ValueError):
        keras_models.copy_to_applications(models.resnet34(num_classes=7), theirs)
