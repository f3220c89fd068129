"""Look into a trained network: its maps, where it looked, what each block does, and what happens without it.

Blocks go by their names in the model, such as ``"layer2.0"``. Whatever is changed in a model is put back.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnetbook import data, models
from resnetbook._arguments import check_whole
from resnetbook.blocks import BasicBlock, Bottleneck, PlainBlock, PreActBlock
from resnetbook.probes import _hooked, evaluation_mode
from resnetbook.recipe import Recipe
from resnetbook.train import evaluate
from resnetbook.transforms import prepare

BLOCKS = (PlainBlock, BasicBlock, Bottleneck, PreActBlock)


def block_names(model: nn.Module) -> list[str]:
    """The names of a model's blocks, from front to back."""
    return [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]


def _found(model: nn.Module, name: str, kind: str, known: Sequence[str]) -> nn.Module:
    if name not in known:
        raise ValueError(f"the model has no {kind} {name!r}; it has {', '.join(known)}")
    return model.get_submodule(name)


# ---- maps


@torch.no_grad()
def feature_maps(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """What layers hand on, in evaluation mode.

    Args:
        model: maps images to logits.
        layers: names of modules, such as ``"layer1"``.
        images: ``(N, C, H, W)``, prepared as for the training.

    Returns:
        For each layer its output, copied: ``(N, C, H, W)`` behind a convolution.

    Raises:
        ValueError: if there is no such layer, or the model does not run it.
    """
    known = [name for name, _ in model.named_modules() if name]
    modules = {name: _found(model, name, "layer", known) for name in layers}
    found: dict[str, Tensor] = {}
    with (
        evaluation_mode(model),
        # Copied: a ReLU behind may work in place.
        _hooked(modules, lambda name, _module, _inputs, out: found.update({name: out.clone()})),
    ):
        model(images)
    if missing := [name for name in layers if name not in found]:
        raise ValueError(f"the model does not run {', '.join(missing)}")
    return found


def grad_cam(
    model: nn.Module, layer: str, images: Tensor, classes: Tensor | Sequence[int] | None = None
) -> Tensor:
    """Where a layer's maps speak for a class (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    The weight of a map is the mean, over its places, of the gradient of the class's logit. The weighted maps
    are added, and a ReLU keeps what speaks for the class. Evaluation mode; no gradient is left anywhere.

    Args:
        model: maps images to logits ``(N, K)``; its weights may be frozen.
        layer: name of a module whose output is ``(N, C, H, W)``.
        images: ``(N, C, H, W)``, prepared as for the training.
        classes: one for each image; default: the class that the model predicts.

    Returns:
        ``(N, H, W)``, as large as the layer's maps, not below 0.

    Raises:
        ValueError: if there is no such layer, it runs more than once or not at all, its output is no
            batch of maps, or there are not as many classes as images.
    """
    known = [name for name, _ in model.named_modules() if name]
    module = _found(model, layer, "layer", known)
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        # A leaf: the way back ends here, whether or not anything in front is frozen.
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # a ReLU behind may work in place, which a leaf forbids

    handle = module.register_forward_hook(keep)
    try:
        with evaluation_mode(model), torch.enable_grad():
            logits = model(images)  # (N, K)
    finally:
        handle.remove()
    if len(maps) != 1:
        raise ValueError(f"{layer!r} runs {len(maps)} times in one pass; name a layer that runs once")
    if maps[0].dim() != 4:
        raise ValueError(f"{layer!r} hands on {tuple(maps[0].shape)}, not maps of shape (N, C, H, W)")
    chosen = logits.argmax(1) if classes is None else torch.as_tensor(classes, device=logits.device)
    if chosen.shape != (len(images),):
        raise ValueError(f"{len(images)} images need as many classes, got {tuple(chosen.shape)}")
    with torch.enable_grad():
        # Images do not mix in evaluation mode: the gradient of the sum holds the gradient of each.
        total = logits.gather(1, chosen[:, None]).sum()
    (gradient,) = torch.autograd.grad(total, maps[0])
    weights = gradient.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    return torch.relu((weights * maps[0].detach()).sum(1))  # (N, H, W)


# ---- lesions


@contextmanager
def _replaced(model: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Put other modules in the places of these names, and the old ones back, also after an error."""
    places = {name: name.rpartition(".") for name in modules}
    before = {name: model.get_submodule(name) for name in modules}
    try:
        for name, (parent, _, last) in places.items():
            setattr(model.get_submodule(parent), last, modules[name])
        yield
    finally:
        for name, (parent, _, last) in places.items():
            setattr(model.get_submodule(parent), last, before[name])


def _shape(block: nn.Module) -> tuple[int, int, int]:
    """Channels in, channels out, stride."""
    convs = [m for name, m in block.named_children() if isinstance(m, nn.Conv2d) and name != "downsample"]
    return convs[0].in_channels, convs[-1].out_channels, max(conv.stride[0] for conv in convs)


def _keeps_shape(block: nn.Module) -> bool:
    in_channels, out_channels, stride = _shape(block)
    return in_channels == out_channels and stride == 1


def _without(block: nn.Module, name: str) -> nn.Module:
    """What is left of a block whose function F is 0."""
    if isinstance(block, PlainBlock):
        if not _keeps_shape(block):
            in_channels, out_channels, stride = _shape(block)
            raise ValueError(
                f"{name} of a plain network cannot be removed: it makes {out_channels} channels of "
                f"{in_channels}, with stride {stride}, and no shortcut does that in its place"
            )
        return nn.Identity()
    if isinstance(block, PreActBlock):
        projects = isinstance(block.downsample, nn.Conv2d)  # it reads the activated input
        return nn.Sequential(block.bn1, nn.ReLU(), block.downsample) if projects else block.downsample
    return nn.Sequential(block.downsample, nn.ReLU())


@contextmanager
def removed(model: nn.Module, *names: str) -> Iterator[None]:
    """Leave blocks out: of a residual one only the shortcut stays, a plain one is gone.

    The lesions of Veit et al. 2016, https://arxiv.org/abs/1605.06431, section 4.

    Args:
        model: of ``resnetbook.models``; whole again when the context ends, also after an error.
        names: of blocks, such as ``"layer2.1"``.

    Raises:
        ValueError: if there is no such block, or a plain one changes the shape.
    """
    known = block_names(model)
    blocks = {name: _found(model, name, "block", known) for name in names}
    with _replaced(model, {name: _without(block, name) for name, block in blocks.items()}):
        yield


@contextmanager
def swapped(model: nn.Module, first: str, second: str) -> Iterator[None]:
    """Let two blocks change places.

    Args:
        model: of ``resnetbook.models``; as before when the context ends, also after an error.
        first: name of a block.
        second: name of another of the same shape.

    Raises:
        ValueError: if there is no such block, or the two differ in channels or stride, or are one.
    """
    known = block_names(model)
    blocks = [_found(model, name, "block", known) for name in (first, second)]
    if first == second:
        raise ValueError(f"two blocks are swapped, got {first!r} twice")
    if not all(map(_keeps_shape, blocks)) or _shape(blocks[0]) != _shape(blocks[1]):
        shapes = [
            f"{name} has {i} to {o} channels and stride {s}"
            for name, (i, o, s) in zip((first, second), map(_shape, blocks), strict=True)
        ]
        raise ValueError(f"only blocks of one shape can be swapped: {', '.join(shapes)}")
    with _replaced(model, {first: blocks[1], second: blocks[0]}):
        yield


def removable(model: nn.Module) -> list[str]:
    """The blocks that :func:`removed` can leave out: residual ones, and plain ones that keep the shape."""
    blocks = {name: model.get_submodule(name) for name in block_names(model)}
    return [name for name, b in blocks.items() if not isinstance(b, PlainBlock) or _keeps_shape(b)]


def swappable(model: nn.Module) -> list[tuple[str, str]]:
    """The pairs of neighbours that :func:`swapped` can swap."""
    names = block_names(model)
    same = [
        _shape(model.get_submodule(name)) if _keeps_shape(model.get_submodule(name)) else None
        for name in names
    ]
    return [(names[i], names[i + 1]) for i in range(len(names) - 1) if same[i] and same[i] == same[i + 1]]


@torch.no_grad()
def residual_ratios(model: nn.Module, images: Tensor, batch_size: int = 500) -> dict[str, float]:
    """How much each block changes what it is given: the mean over images of ‖F(x)‖ / ‖x‖.

    F(x) is what is added to the shortcut, before the ReLU; where the shape changes, x is what comes out of
    the shortcut. A plain block that keeps the shape makes H(x) of x: there it is ‖H(x) − x‖ / ‖x‖, and one
    that does not is left out.

    Args:
        model: of ``resnetbook.models``; evaluation mode.
        images: ``(N, C, H, W)``, prepared as for the training.
        batch_size: images at a time; it changes the memory needed, not the result.

    Raises:
        ValueError: if ``batch_size`` is below 1.
    """
    check_whole(1, batch_size=batch_size)
    sums = dict.fromkeys(removable(model), 0.0)
    around: dict[str, nn.Module] = {}
    for name in sums:
        block = model.get_submodule(name)
        if isinstance(block, PlainBlock):
            around[name] = block
            continue
        # The last layer of F, and the shortcut beside it.
        last = (
            "conv2" if isinstance(block, PreActBlock) else "bn3" if isinstance(block, Bottleneck) else "bn2"
        )
        around[f"{name} F"] = block.get_submodule(last)
        around[f"{name} x"] = block.downsample
    seen: dict[str, Tensor] = {}

    def hook(key: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if key in sums:
            seen[f"{key} F"], seen[f"{key} x"] = output - inputs[0], inputs[0].clone()
        else:
            seen[key] = output.clone()

    for part in images.split(batch_size):
        with evaluation_mode(model), _hooked(around, hook):
            model(part)
        for name in sums:
            change, x = (seen[f"{name} {what}"].flatten(1).norm(dim=1) for what in ("F", "x"))
            sums[name] += (change / x).double().sum().item()
    return {name: total / len(images) for name, total in sums.items()}


def lesions(model: nn.Module, images: Tensor, labels: Tensor, draws: int = 0) -> dict:
    """Accuracy of a network that is whole, that lacks a block, and with two neighbours swapped.

    Args:
        model: of ``resnetbook.models``.
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        draws: how often several blocks are drawn at random and left out together, for each number of them:
            with the first 2,000 images.

    Returns:
        ``whole``: accuracy; ``removed`` and ``swapped``: accuracies by name, and by names with ``↔``;
        ``several``: for numbers of blocks, one accuracy for each draw; ``kept``: the blocks that cannot be
        removed; ``ratios``: of :func:`residual_ratios`; ``num_images``.
    """

    device = next(model.parameters()).device  # it stays where it is

    def accuracy(most: int | None = None) -> float:
        return round(evaluate(model, images[:most], labels[:most], device=device).accuracy, 6)

    names = removable(model)
    result: dict = {"num_images": len(images), "whole": accuracy(), "removed": {}, "swapped": {}}
    result["kept"] = [name for name in block_names(model) if name not in names]
    for name in names:
        with removed(model, name):
            result["removed"][name] = accuracy()
    for first, second in swappable(model):
        with swapped(model, first, second):
            result["swapped"][f"{first} ↔ {second}"] = accuracy()
    result["ratios"] = residual_ratios(model, prepare(images.to(device), Recipe()))
    if draws:
        generator = torch.Generator().manual_seed(0)
        result["several"] = {}
        for number in several_of(len(names)):
            found = result["several"][str(number)] = []
            for _ in range(draws):
                chosen = torch.randperm(len(names), generator=generator)[:number]
                with removed(model, *(names[i] for i in chosen.tolist())):
                    found.append(accuracy(2000))
    return result


def several_of(num_blocks: int) -> list[int]:
    """How many blocks are left out together: up to two thirds of them, in at most six steps."""
    most = 2 * num_blocks // 3
    return sorted({max(2, round(most * step / 6)) for step in range(1, 7)})


def lesion_study(seed: int) -> dict:
    """Lesions of ResNet-20 and of the plain network of 20 layers, on all test images."""
    test = data.fashion_mnist()
    return {
        name: lesions(models.trained(name, seed), test.test_images, test.test_labels, draws=10)
        for name in ("resnet-20", "plain-20")
    }


def deep_lesion_study(seed: int) -> dict:
    """Lesions of ResNet-56, on all test images."""
    test = data.fashion_mnist()
    model = models.trained("resnet-56", seed)
    return {"resnet-56": lesions(model, test.test_images, test.test_labels, draws=10)}


# ---- does a map mean anything?


def patch_of(cell: int) -> slice:
    """The 8 pixels below one of the four cells of the last stage's map, along one axis of 28 pixels.

    Behind a convolution with a window of 3, padding 1 and stride s, place i looks around place s · i. Three
    strides of 2 let the four cells look around the pixels 0, 8, 16 and 24; the first patch, which would stand
    half outside, is moved inwards.

    Args:
        cell: 0, 1, 2 or 3.
    """
    start = max(8 * cell - 4, 0)
    return slice(start, start + 8)


def erased(images: Tensor, row: int, column: int, value: float) -> Tensor:
    """Copies of images ``(N, C, 28, 28)`` with the pixels below one cell of a 4×4 map set to a value."""
    images = images.clone()
    images[:, :, patch_of(row), patch_of(column)] = value
    return images


@torch.no_grad()
def _probabilities(model: nn.Module, images: Tensor, classes: Tensor, batch_size: int = 500) -> Tensor:
    """The probability of one class for each image."""
    with evaluation_mode(model):
        logits = torch.cat([model(part) for part in images.split(batch_size)])
    return logits.softmax(1).gather(1, classes[:, None]).squeeze(1)


def drops(model: nn.Module, images: Tensor, classes: Tensor, value: float) -> Tensor:
    """How far the probability of a class falls when each of the 16 patches is erased by itself.

    Args:
        model: maps images to logits.
        images: ``(N, C, 28, 28)``, prepared as for the training.
        classes: one for each image.
        value: what the patch's pixels are set to.

    Returns:
        ``(N, 4, 4)``: the probability of the whole image minus that without the patch.
    """
    whole = _probabilities(model, images, classes)
    fallen = [
        whole - _probabilities(model, erased(images, row, column, value), classes)
        for row in range(4)
        for column in range(4)
    ]
    return torch.stack(fallen, 1).reshape(-1, 4, 4)


def ink(images: Tensor) -> Tensor:
    """The sum of the pixels in each of the 16 patches, black counted as 0: ``(N, 4, 4)``."""
    images = images - images.amin((1, 2, 3), keepdim=True)
    patches = [images[:, :, patch_of(r), patch_of(c)].sum((1, 2, 3)) for r in range(4) for c in range(4)]
    return torch.stack(patches, 1).reshape(-1, 4, 4)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """What stands at one place ``(N,)`` of each 4×4 map."""
    return values.flatten(1).gather(1, places[:, None]).squeeze(1).double()


def _mean_and_error(values: Tensor) -> list[float]:
    """Mean and standard error over images."""
    return [values.mean().item(), (values.std() / len(values) ** 0.5).item()]


def correlation(first: Tensor, second: Tensor) -> tuple[float, int]:
    """Mean rank correlation of maps ``(N, H, W)``, image by image, and of how many images.

    A map of one value has no ranks, and is left out.
    """
    from scipy.stats import spearmanr  # takes a second to import

    found = []
    for one, other in zip(first.flatten(1), second.flatten(1), strict=True):
        if one.min() < one.max() and other.min() < other.max():
            found.append(float(spearmanr(one.numpy(), other.numpy()).statistic))
    return sum(found) / max(len(found), 1), len(found)


def randomized(model: nn.Module, layers: Sequence[str], images: Tensor, seed: int = 0) -> nn.Module:
    """A copy with the weights of some layers drawn anew (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

    Batch normalization then takes its statistics anew from the images: with the old ones the maps would
    die or explode for a reason that has nothing to do with the question.

    Args:
        model: any network of ``resnetbook.models``; stays as it is.
        layers: names of its children to draw anew.
        images: ``(N, C, H, W)``, prepared as for the training.
        seed: of the weights; PyTorch's own generator goes on from it.

    Raises:
        ValueError: if there is no such layer.
    """
    torch.manual_seed(seed)
    fresh = copy.deepcopy(model)
    known = [name for name, _ in model.named_children()]
    for name in layers:
        layer = _found(fresh, name, "layer", known)
        for module in layer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
        models._initialize(layer)
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        fresh.train()
        for part in images.split(500):
            fresh(part)
    return fresh.eval()


RANDOMIZED = {
    "the linear layer": ("fc",),
    "and the last stage": ("fc", "layer3"),
    "and the second": ("fc", "layer3", "layer2"),
    "all": ("fc", "layer3", "layer2", "layer1", "bn1", "conv1"),
}


def salience_study(seed: int) -> dict:
    """What ResNet-20's Grad-CAM at the last stage tells: patches erased, weights drawn anew."""
    test = data.fashion_mnist()
    model = models.trained("resnet-20", seed)
    images = prepare(test.test_images[:5000], Recipe())
    logits = evaluate(model, test.test_images[:5000], test.test_labels[:5000], device="cpu").logits
    best, second = logits.topk(2).indices.T
    maps = torch.cat(
        [
            grad_cam(model, "layer3", part, classes)
            for part, classes in zip(images.split(500), best.split(500), strict=True)
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    places = {
        "Grad-CAM's hottest": maps.flatten(1).argmax(1),
        "Grad-CAM's coldest": maps.flatten(1).argmin(1),
        "most ink": ink(images).flatten(1).argmax(1),
        "at random": torch.randint(16, (len(images),), generator=generator),
    }
    result: dict = {"num_images": len(images), "erased": {}, "worst": {}, "randomized": {}}
    for name, value in (("black", images.min().item()), ("grey", 0.0)):
        fallen = drops(model, images, best, value)
        worst = fallen.flatten(1).argmax(1)
        taken = {where: _at(fallen, place) for where, place in (places | {"worst of the 16": worst}).items()}
        for other in ("Grad-CAM's coldest", "most ink"):
            taken[f"hottest − {other}"] = taken["Grad-CAM's hottest"] - taken[other]
        result["erased"][name] = {where: _mean_and_error(values) for where, values in taken.items()}
        result["worst"][name] = {
            where: (place == worst).double().mean().item() for where, place in places.items()
        }
    few, classes = images[:1000], best[:1000]
    result["randomized"]["nothing, second class"] = correlation(
        maps[:1000], grad_cam(model, "layer3", few, second[:1000])
    )
    statistics = prepare(test.train_images[:2000], Recipe())
    for name, layers in RANDOMIZED.items():
        other = randomized(model, layers, statistics, seed)
        result["randomized"][name] = correlation(maps[:1000], grad_cam(other, "layer3", few, classes))
    return result
