"""The exercises of chapter 8: what is frozen, counted and kept; rates by depth; a kernel for grey."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from resnetbook import models
from resnetbook.checks.common import CheckFailed
from resnetbook.checks.exercise import Exercise, Outcome, shown

# ---- freeze all but the head


class _TwoHeads(nn.Module):
    """A network one of whose children has a name that begins as another's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.fc_norm = nn.LayerNorm(2)
        self.fc = nn.Linear(2, 3)


class _Deep(nn.Module):
    """A head of two layers, and a layer within the backbone that is called as the head is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("head", nn.Linear(2, 2))
        self.body.add_module("norm", nn.BatchNorm1d(2))
        self.head = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))


def _to_freeze() -> list[tuple]:
    """Networks as they come: some parameters frozen already, of the head as well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)  # the same numbers each time: they must stay as they are
        first, second, third = _TwoHeads(), _Deep().eval(), _TwoHeads()
    second.requires_grad_(False)
    third.bn1.requires_grad_(False)
    third.fc.bias.requires_grad_(False)
    return [(first, "fc"), (second, "head"), (third, "fc")]


def _given_to_optimizer(solution: Callable, model: nn.Module, head: str) -> Outcome:
    """The names of what is returned: which it is matters, and not the numbers in it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    returned = solution(model, head)
    if returned is None:
        return {"result": None}
    if isinstance(returned, Tensor | str | Mapping) or not isinstance(returned, Iterable):
        raise CheckFailed(
            f'freeze(model, "{head}") gives {shown(returned)}: return a list of the parameters themselves.'
        )
    returned = list(returned)
    if any(isinstance(item, str | tuple) for item in returned):
        raise CheckFailed(
            f'freeze(model, "{head}") gives names: return the parameters themselves, as an optimizer wants '
            "them."
        )
    if any(id(item) not in names for item in returned):
        raise CheckFailed(
            f'freeze(model, "{head}") gives something that is no parameter of the model: return the very '
            "objects that the model has, and no copies."
        )
    return {"result": sorted(names[id(item)] for item in returned)}


freeze = Exercise(
    number="8.1",
    title="Freeze all but the head",
    minutes=10,
    level="easy",
    answer="""\
def freeze(model: nn.Module, head: str) -> list[nn.Parameter]:
    for parameter in model.parameters():
        parameter.requires_grad = False
    trained = list(model.get_submodule(head).parameters())
    for parameter in trained:
        parameter.requires_grad = True
    return trained
""",
    cases=_to_freeze,
    drive=_given_to_optimizer,
    form="freeze(model, {1})",
    first=("requires_grad of model",),
    slips="""
parameter.requires_grad = False -> parameter.require_grad = False
    nothing is frozen: set requires_grad of all parameters to False first. (A misspelt attribute is set
    without an error.)
parameter.requires_grad = False⏎ -> parameter.requires_grad &= parameter.dim() == 1⏎
    biases, and the scales and shifts of norms, are parameters as well: freeze them, too.
list(model.get_submodule(head).parameters()) -> [p for n, p in model.named_parameters() if n.startswith(head)]
    a name may begin as the head's does, as fc_norm begins with fc: compare up to the dot, or ask the child
    itself, getattr(model, head).
list(model.get_submodule(head).parameters()) -> [p for n, p in model.named_parameters() if head in n]
    a name within the backbone may contain the head's: ask the child itself, getattr(model, head).
parameter.requires_grad = True -> pass
    the head must be trained: set its requires_grad to True, whatever it was before.
parameter.requires_grad = False -> parameter.requires_grad = not False
parameter.requires_grad = True -> parameter.requires_grad = False
    that is the wrong way round: the head learns, and all else is frozen.
return trained -> return list(model.parameters())
    return what is to be trained, the head's parameters alone.
return trained -> pass
    gives None: does the function end with `return`?
return trained -> model.eval(); return trained
    leave the mode alone: freezing and evaluation mode are two things, and the next sections keep them apart.
""",
    says={
        "requires_grad of model": "{call}: requires_grad {problem}",
    },
    otherwise={
        "requires_grad of model": "True for every parameter of the head, False for all others.",
        "result": "return the head's parameters.",
    },
    right="in 3 networks the head learns, all else is frozen, and the optimizer gets the head alone.",
)


# ---- count by hand what is trained


def _counts(width: int, num_classes: int) -> tuple[int, int, int]:
    """Counted in the network itself."""
    with torch.device("meta"):
        model = models.cifar_resnet(20, width=width, in_channels=1, num_classes=num_classes)
    head = sum(p.numel() for p in model.fc.parameters())
    norms = (m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    stage = sum(p.numel() for p in model.layer3.parameters())
    return head, head + sum(p.numel() for m in norms for p in m.parameters()), head + stage


trained_counts = Exercise(
    number="8.2",
    title="Count what is trained",
    minutes=15,
    level="medium",
    answer="""\
def trained_counts(width: int, num_classes: int) -> tuple[int, int, int]:
    channels = 4 * width
    head = channels * num_classes + num_classes
    norms = 2 * (7 * width + 6 * 2 * width + 6 * channels)
    convs = 9 * channels * (channels // 2) + 5 * 9 * channels * channels
    last_stage = convs + 2 * 6 * channels
    return head, head + norms, head + last_stage
""",
    cases=((16, 5), (16, 10), (8, 3), (64, 100)),
    trusted=_counts,
    slips="""
channels * num_classes + num_classes -> channels * num_classes
    the head has a bias, too: one number for each class.
channels = 4 * width -> channels = width
    the head reads what the last stage gives: 4 · width channels.
channels = 4 * width -> channels = 8 * width
    three stages, and not four: the last has 4 · width channels.
return head, head + norms, head + last_stage -> return head, norms, last_stage
    the head is new, and is trained in all three cases: add it.
norms = 2 * ( -> norms = (
    a norm has two numbers for each channel: a scale and a shift.
norms = 2 * ( -> norms = 4 * (
    a norm learns two numbers for each channel. Its running mean and variance are buffers: nobody trains them.
(7 * width -> (6 * width
    one norm is missing: the stem has one, as wide as the first stage.
(7 * width + 6 * 2 * width + 6 * channels) -> (4 * width + 3 * 2 * width + 3 * channels)
    a block has two norms: three blocks have six.
9 * channels * (channels // 2) + 5 * 9 -> 6 * 9
    the first convolution of the stage reads the stage before: 2 · width channels.
+ 2 * 6 * channels -> 
    a stage has norms as well, and they are trained with it.
5 * 9 * channels -> 6 * 9 * channels
    three blocks of two convolutions are six, the first of them included.
last_stage = convs + -> last_stage = channels * (channels // 2) + convs +
    option A has no projection: its shortcut has no parameter.
""",
    errors={"unpack": "Return three numbers."},
    otherwise="head: 4 · width · classes + classes. A norm: 2 a channel. A convolution: 9 · in · out.",
    right="three counts are those of the network itself, in 4 sizes.",
)


# ---- training mode that keeps the norms


class _Body(nn.Module):
    """Norms of two kinds at several depths, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.block = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), nn.Dropout(0.2))
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.block(self.bn(self.conv(x))))


_FORMS = {
    "train()": lambda model: model.train(),
    "train(True)": lambda model: model.train(True),
    "eval()": lambda model: model.eval(),
    "train(False)": lambda model: model.train(False),
    "train(), eval(), train()": lambda model: model.train().eval().train(),
}


def _modes(written: type, calls: str) -> Outcome:
    """The modes of all modules after some calls, and whether the statistics have moved."""
    model = written(_Body())
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "model", None), _Body):
        raise CheckFailed("KeepsNorms(model) must be a module that keeps the network as self.model.")
    before = {name: value.clone() for name, value in model.named_buffers()}
    try:
        returned = _FORMS[calls](model)
    except AttributeError as error:
        if "NoneType" not in str(error):
            raise
        raise CheckFailed(
            f"{calls}: train() gives None. End with `return self`, as PyTorch's does."
        ) from error
    except RecursionError as error:
        raise CheckFailed(
            f"{calls}: train() calls itself without end. The train of the class above is super().train(mode)."
        ) from error
    if returned is not model:
        raise CheckFailed(
            f"{calls} gives {shown(returned)}, and not the module: end with `return self`, as "
            "PyTorch's train does."
        )
    modes = {name or "the wrapper": module.training for name, module in model.named_modules()}
    norms = {
        name: m for name, m in modes.items() if ".bn" in name or name in ("model.block.0.1", "model.flat.2")
    }
    model(torch.randn(4, 1, 4, 4))
    moved = any(not torch.equal(value, before[name]) for name, value in model.named_buffers())
    frozen = all(parameter.requires_grad for parameter in model.parameters())
    return {"norms": norms, "others": {k: m for k, m in modes.items() if k not in norms}, "moved": moved,
            "requires_grad": frozen, "result": True}  # fmt: skip


keeps_norms = Exercise(
    number="8.3",
    title="A training mode that keeps the norms",
    minutes=15,
    level="medium",
    answer="""\
class KeepsNorms(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def train(self, mode: bool = True) -> "KeepsNorms":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self
""",
    cases=tuple((calls,) for calls in _FORMS),
    drive=_modes,
    form="{0}",
    first=("norms", "others", "moved", "requires_grad", "result"),
    slips="""
super().train(mode)⏎ -> super().train()⏎
or
super().train(mode)⏎ -> pass⏎
    eval() calls train(False), and must put everything into evaluation mode: begin with super().train(mode).
nn.BatchNorm1d | nn.BatchNorm2d -> nn.BatchNorm2d
    a BatchNorm1d keeps statistics, too.
self.modules() -> self.model.children()
    norms stand deeper than that: modules() walks through all levels, children() through one.
module.eval() -> module.train(mode)
or
super().train(mode)⏎ -> super().train(mode); return self⏎
or
super().train(mode)⏎ -> pass⏎
return self⏎ -> super().train(mode); return self⏎
or
self.modules() -> self.children()
    all norms are in training mode, and their statistics move: after super().train(mode), call eval() on each.
    modules() finds those at any depth, children() looks at one level.
module.eval() -> module.requires_grad_(False)
    that freezes the scale and the shift. The running statistics are no parameters: only eval() stops them.
super().train(mode)⏎        for -> super().train(False)⏎        for
    all is in evaluation mode, the dropout as well: only the norms are to stay there.
isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) -> not list(module.children())
    other layers are put into evaluation mode as well, such as the dropout: only the norms are to stay there.
return self⏎ -> pass⏎
    End with `return self`, as PyTorch's does.
super().train(mode)⏎ -> self.train(mode)⏎
    train() calls itself without end. The train of the class above is super().train(mode).
module.eval() -> module.eval(); module.requires_grad_(False)
    leave requires_grad alone: whether scale and shift learn is another question.
""",
    says={
        "norms": "after {call} a norm's mode is wrong",
        "others": "after {call} the mode of another module is wrong",
        "moved": "after {call} the running statistics {problem} (whether they have moved)",
        "requires_grad": "after {call}",
    },
    otherwise={
        "norms": "evaluation mode for every batch norm, at any depth.",
        "others": "all but the norms follow the mode that train gets.",
        "requires_grad": "leave requires_grad alone: whether scale and shift learn is another question.",
    },
    right="after train() only the norms are in evaluation mode, after eval() everything is.",
)


# ---- rates by depth


def _stages(frozen: Sequence[int] = ()) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        parts = _new_stages()
    for number in frozen:
        parts[number].requires_grad_(False)
    return parts


def _new_stages() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()),
        nn.Conv2d(2, 4, 3),
        nn.Linear(4, 3),
    ]


def _to_group() -> list[tuple]:
    half = _stages()
    half[1][0].bias.requires_grad_(False)
    return [
        (_stages(), 0.1, 0.5),
        (_stages((0,)), 0.2, 0.3),
        (_stages((2,)), 0.1, 0.1),
        (half, 0.01, 0.5),
        (_stages((0, 1, 2)), 0.1, 0.5),
    ]


def _rates(solution: Callable, parts: list[nn.Module], lr: float, factor: float) -> Outcome:
    """The rate of every parameter, as an optimizer takes it."""
    names = {
        id(p): f"part {i}: {name}" for i, part in enumerate(parts) for name, p in part.named_parameters()
    }
    frozen = {id(p) for part in parts for p in part.parameters() if not p.requires_grad}
    before = list(parts)
    groups = solution(parts, lr, factor)
    if groups is None:
        return {"result": None}
    groups = groups if isinstance(groups, Sequence) and not isinstance(groups, str) else [groups]
    if not all(isinstance(group, Mapping) and {"params", "lr"} <= set(group) for group in groups):
        raise CheckFailed(
            f'depth_groups gives {shown(groups)}: return a list of dictionaries, each with "params" and "lr".'
        )
    rates, empty = {}, False
    for group in groups:
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        empty = empty or not params
        for parameter in params:
            name = names.get(id(parameter))
            if name is None:
                raise CheckFailed("depth_groups gives something that is no parameter of any part.")
            if name in rates:
                raise CheckFailed(f"{name} stands in two groups, and an optimizer refuses that.")
            rates[name] = float(group["lr"])
    moved = {names[i]: rates.pop(names[i]) for i in frozen if names[i] in rates}
    return {"frozen": sorted(moved), "rates": rates, "empty": empty, "kept": parts == before, "result": 1}


depth_groups = Exercise(
    number="8.4",
    title="Rates by depth",
    minutes=15,
    level="medium",
    answer="""\
def depth_groups(
    parts: list[nn.Module], lr: float, factor: float
) -> list[dict]:
    groups = []
    for distance, part in enumerate(reversed(parts)):
        params = [p for p in part.parameters() if p.requires_grad]
        if params:
            groups.append({"params": params, "lr": lr * factor**distance})
    return groups
""",
    cases=_to_group,
    drive=_rates,
    form="depth_groups(parts, {1}, {2})",
    first=("frozen", "rates", "empty", "kept", "result"),
    ignored=("parts",),  # new ones each time
    slips="""
enumerate(reversed(parts)) -> enumerate(parts)
    that is the wrong way round: the last part, the head, learns at lr, and the first one slowest.
enumerate(reversed(parts)) -> enumerate(reversed(parts), start=1)
    the last part learns at lr itself: count its distance as 0.
lr * factor**distance -> lr * factor
    every part has the same rate: multiply by the factor once for each part between.
lr * factor**distance -> lr * factor * distance
    multiply by the factor once for each part, that is, raise it to a power.
lr * factor**distance -> lr / factor**distance
    the first part learns fastest: multiply by the factor, and do not divide.
lr * factor**distance -> lr * (1 - factor * distance)
    multiply by the factor once for each part, that is, raise it to a power.
lr * factor**distance -> lr
    every part has the same rate: multiply by the factor once for each part between.
 if p.requires_grad] -> ]
    what is frozen is in a group. Leave it out: where a gradient is still there from before, an optimizer
    would move it.
if params: -> if True:
    a group is empty: leave it out where all of a part is frozen.
groups = []⏎ -> groups, learns = [], lambda part: any(p.requires_grad for p in part.parameters())⏎
enumerate(reversed(parts)): -> enumerate(filter(learns, reversed(parts))):
    a frozen part counts, too: the distance is that from the head in the network.
enumerate(reversed(parts)): -> enumerate(parts[::-1]):
 if p.requires_grad] -> if all(q.requires_grad for q in part.parameters())]
    a part of which something is frozen may still learn in the rest: ask every parameter.
for distance, part -> parts.reverse()⏎    for distance, part
enumerate(reversed(parts)) -> enumerate(parts)
    leave the list as it is: reversed(parts) walks backwards and changes nothing.
""",
    says={
        "frozen": "{call}: something frozen stands in a group",
        "rates": "{call}: the rates: {problem}",
        "empty": "{call}",
        "kept": "{call}",
    },
    otherwise={
        "frozen": "Leave out what does not require a gradient.",
        "rates": "the last part learns at lr, each before it factor times as fast as the next.",
        "empty": "a group is empty: leave it out where all of a part is frozen.",
        "kept": "leave the list as it is: reversed(parts) walks backwards and changes nothing.",
    },
    right="the rates are right in 5 networks, and what is frozen is in no group.",
)


# ---- a kernel for grey images


def _kernels() -> list[tuple]:
    cases = []
    spreads = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5), (0.2, 0.3, 0.25))
    means = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.0, 0.1, 0.9))
    for seed, (mean, std) in enumerate(zip(means, spreads, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(4, 3, 3 + 2 * seed, 3, generator=generator)
        cases.append((weight, torch.tensor(mean), torch.tensor(std)))
    return cases


def _kernel_and_bias(solution: Callable, weight: Tensor, mean: Tensor, std: Tensor) -> Outcome:
    returned = solution(weight, mean, std)
    if returned is None:
        return {"result": None}
    if not isinstance(returned, list | tuple) or len(returned) != 2:
        raise CheckFailed(
            f"grey_kernel gives {shown(returned)}: return two tensors, the kernel and the bias."
        )
    return {"result": "two", "kernel": returned[0], "bias": returned[1]}


grey_kernel = Exercise(
    number="8.5",
    title="A kernel for grey images",
    minutes=15,
    level="hard",
    answer="""\
def grey_kernel(
    weight: Tensor, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    scaled = weight / std.view(1, 3, 1, 1)
    kernel = scaled.sum(dim=1, keepdim=True)
    bias = -(scaled * mean.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    return kernel, bias
""",
    cases=_kernels,
    drive=_kernel_and_bias,
    form="grey_kernel({0}, {1}, {2})",
    first=("result", "kernel", "bias"),
    slips="""
scaled.sum(dim=1, keepdim=True) -> scaled.sum(dim=1)
    keep the axis of the input channels: (O, 1, K, K), with keepdim=True.
scaled.sum(dim=1, keepdim=True) -> scaled.mean(dim=1, keepdim=True)
    that is the mean of the three kernels, and gives a third: a convolution adds up its input channels.
scaled.sum(dim=1, keepdim=True) -> scaled.sum(dim=0, keepdim=True)
    axis 0 counts the output channels: add up over axis 1, the input channels.
scaled.sum(dim=1, keepdim=True) -> scaled[:, :1]
    that is the first channel alone: add up all three.
scaled.sum(dim=1, keepdim=True) -> weight.sum(dim=1, keepdim=True)
    every channel is divided by its own standard deviation: divide before you add up.
scaled.sum(dim=1, keepdim=True) -> weight.sum(dim=1, keepdim=True) / std.mean()
    every channel is divided by its own standard deviation: divide before you add up.
weight / std.view(1, 3, 1, 1) -> weight * std.view(1, 3, 1, 1)
    normalization divides by the standard deviation.
-(scaled * -> (scaled *
    the mean is subtracted: the bias has a minus.
(scaled * mean.view(1, 3, 1, 1)) -> (weight * mean.view(1, 3, 1, 1))
    the mean is divided by the standard deviation, too: (g − m) / s.
(scaled * mean.view(1, 3, 1, 1)) -> (scaled * mean.mean())
    each channel has its own mean.
(scaled * mean.view(1, 3, 1, 1)).sum(dim=(1, 2, 3)) -> (scaled * mean.view(1, 3, 1, 1)).sum(dim=1)
    the bias is one number for each output channel: add up over the kernel's places as well.
bias = -(scaled * mean.view(1, 3, 1, 1)).sum(dim=(1, 2, 3)) -> bias = torch.zeros(len(weight))
    the mean that is subtracted is a constant, which the bias must hold.
scaled = weight / std.view(1, 3, 1, 1) -> scaled = weight.div_(std.view(1, 3, 1, 1))
    leave the weights as they are: others may still need them. weight / … makes new ones.
""",
    says={"kernel": "{call}: the kernel {problem}", "bias": "{call}: the bias {problem}"},
    otherwise={
        "kernel": "divide each channel's kernel by its standard deviation, and add up the three.",
        "bias": "minus the sum over channels and places of kernel · mean / standard deviation.",
    },
    right="kernel and bias are right for 3 convolutions, one with three different means.",
)
