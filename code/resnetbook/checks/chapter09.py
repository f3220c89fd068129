"""The exercises of chapter 9: axes, padding, early stopping, weight decay and counts, as Keras has them."""

from itertools import accumulate

import numpy as np

from resnetbook.checks.exercise import Exercise

# ---- axes


def _weights() -> list[tuple[np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = ((5, 3, 2, 4), (3, 3, 3, 3), (6, 4, 1, 1), (4, 6), (5, 5), (7,))
    return [(rng.standard_normal(shape),) for shape in shapes]


def _by_einsum(weight: np.ndarray) -> np.ndarray:
    return np.einsum({4: "oihw->hwio", 2: "oi->io", 1: "o->o"}[weight.ndim], weight)


to_keras = Exercise(
    number="9.1",
    title="Weights in Keras's order of axes",
    minutes=10,
    level="easy",
    answer="""\
def to_keras(weight: np.ndarray) -> np.ndarray:
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if weight.ndim == 2:
        return weight.transpose(1, 0)
    return weight
""",
    cases=_weights,
    trusted=_by_einsum,
    slips="""
transpose(2, 3, 1, 0) -> reshape(weight.shape[2:] + weight.shape[1::-1])
or
transpose(2, 3, 1, 0) -> reshape(weight.shape[2:] + weight.shape[1::-1])
transpose(1, 0) -> reshape(weight.shape[::-1])
    The shape is right, and the numbers stand elsewhere: reshape reads them in their old order, and deals them
    out anew. Move the axes.
transpose(2, 3, 1, 0) -> transpose(2, 3, 0, 1)
    The last two axes of a kernel are in, then out.
transpose(2, 3, 1, 0) -> transpose(3, 2, 1, 0)
    Height stands before width in both: here kernels are turned over at their diagonal.
transpose(2, 3, 1, 0) -> transpose(0, 2, 3, 1)
    That is the order of images. A kernel has its window first: height, width, in, out.
transpose(1, 0) -> copy()
    The weight of a linear layer is (out, in) in PyTorch, and (in, out) in Keras.
weight.ndim == 4 -> weight.ndim == 3
    A convolution's weight has four axes, and none of them has moved.
""",
    otherwise="Write the axes below each other: out, in, height, width, and height, width, in, out.",
    right="the axes stand in Keras's order for convolutions, linear layers and vectors, square ones too.",
)


# ---- padding


def _searched(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """The smallest padding in all that gives one output for each stride begun, found by trying."""
    wanted = len(range(0, size, stride))
    total = next(
        t for t in range(kernel_size + stride) if len(range(kernel_size, size + t + 1, stride)) >= wanted
    )
    return total // 2, total - total // 2


same_padding = Exercise(
    number="9.2",
    title='What "same" pads',
    minutes=15,
    level="medium",
    answer="""\
def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    num_outputs = -(-size // stride)
    last_begins = (num_outputs - 1) * stride
    missing = max(last_begins + kernel_size - size, 0)
    before = missing // 2
    return before, missing - before
""",
    cases=((224, 3, 2), (225, 3, 2), (224, 7, 2), (225, 7, 2), (8, 3, 1), (56, 1, 2), (8, 4, 1), (10, 5, 3)),
    trusted=_searched,
    slips="""
before, missing - before -> missing - before, before
    Where the padding is odd, the larger part stands behind: below, and on the right.
before, missing - before -> before, before
    Where the padding is odd, one is left over: it stands behind, below and on the right.
max(last_begins + kernel_size - size, 0) -> last_begins + kernel_size - size
    Where the window is smaller than the stride, nothing is missing: no padding is below 0.
max(last_begins + kernel_size - size, 0) -> kernel_size - 1
    That is the padding for a stride of 1. With a stride the last window begins earlier.
-(-size // stride) -> size // stride
    There are size / stride outputs, rounded up.
(num_outputs - 1) * stride -> num_outputs * stride
    The first window begins at 0, so the last one begins at (outputs - 1) · stride.
missing // 2 -> kernel_size // 2
missing - before -> kernel_size // 2
    That is PyTorch's padding, the same on both sides.
before, missing - before -> missing, missing
    What is missing in all is shared out between the two sides.
""",
    otherwise="Where does the last window begin, and how far does it reach beyond the last pixel?",
    right="the padding is Keras's in 8 cases, with even and odd sizes, and with windows of 1 to 7.",
)


# ---- early stopping


def _stopped(losses: list[float], patience: int) -> tuple[int, int]:
    """By its definition: the first epoch whose best lies as far back as the patience goes."""
    best = list(accumulate(losses, min))
    firsts = [losses.index(least) for least in best]
    ends = [epoch for epoch, first in enumerate(firsts) if epoch - first >= patience]
    last = ends[0] if ends else len(losses) - 1
    return last, firsts[last]


early_stopping = Exercise(
    number="9.3",
    title="Early stopping by hand",
    minutes=15,
    level="medium",
    answer="""\
def early_stopping(losses: list[float], patience: int) -> tuple[int, int]:
    best, best_epoch = math.inf, 0
    for epoch, loss in enumerate(losses):
        if loss < best:
            best, best_epoch = loss, epoch
        elif epoch - best_epoch >= patience:
            return epoch, best_epoch
    return len(losses) - 1, best_epoch
""",
    cases=(
        ([0.9, 0.7, 0.8, 0.75, 0.6, 0.5], 2),
        ([0.9, 0.7, 0.8, 0.75, 0.6, 0.5], 3),
        ([0.5, 0.4, 0.4, 0.4, 0.3, 0.2], 2),
        ([0.8, 0.6, 0.7, 0.5, 0.6, 0.55, 0.52, 0.4], 3),
        ([0.3, 0.4], 1),
        ([0.5, 0.4, 0.3, 0.35], 4),
        ([0.5], 1),
    ),
    trusted=_stopped,
    slips="""
loss < best -> loss <= best
    A loss that is only equal is no improvement.
epoch - best_epoch >= patience -> epoch - best_epoch > patience
    The training ends with the epoch that is the patience-th without an improvement, not one later.
return epoch, best_epoch -> return epoch, epoch
or
return epoch, best_epoch -> return epoch, epoch
return len(losses) - 1, best_epoch -> return len(losses) - 1, len(losses) - 1
    The second number is the best epoch, whose weights come back, and not the last.
elif epoch - best_epoch >= patience -> elif loss > losses[epoch - 1]
    One loss that rises ends nothing: count the epochs since the best.
return len(losses) - 1, -> return len(losses),
    Epochs are counted from 0, so the last one has the number len(losses) - 1.
math.inf -> -math.inf
loss < best -> loss > best
    A smaller loss is the better one.
return epoch, best_epoch -> return best_epoch, epoch
return len(losses) - 1, best_epoch -> return best_epoch, len(losses) - 1
    The last epoch comes first, then the best.
return epoch, best_epoch -> return len(losses) - 1, best_epoch
    The training ends early: after the epoch that uses up the patience nothing is run.
""",
    otherwise="Keep the best loss and its epoch, and ask in each epoch how long ago that was.",
    right="the last epoch and the best are those of Keras's EarlyStopping, with ties and without an end.",
)


# ---- weight decay


def _closed(weight: float, gradients: list[float], lr: float, momentum: float, decay: float) -> float:
    """Without a loop over weights: what every gradient has moved, shrunk by every step after it."""
    n, keeps = len(gradients), 1 - lr * decay
    moved = sum(
        -lr * gradient * momentum ** (k - j) * keeps ** (n - 1 - k)
        for j, gradient in enumerate(gradients)
        for k in range(j, n)
    )
    return keeps**n * weight + moved


keras_sgd = Exercise(
    number="9.4",
    title="Keras's weight decay",
    minutes=15,
    level="medium",
    answer="""\
def keras_sgd(
    weight: float, gradients: list[float], lr: float, momentum: float, decay: float
) -> float:
    velocity = 0.0
    for gradient in gradients:
        weight -= lr * decay * weight
        velocity = momentum * velocity - lr * gradient
        weight += velocity
    return weight
""",
    cases=(
        (1.0, [0.0, 0.0, 0.0], 0.1, 0.9, 0.5),
        (1.0, [1.0, -2.0, 0.5, 3.0], 0.1, 0.9, 0.2),
        (-2.0, [0.3, 0.1], 0.5, 0.5, 0.1),
        (3.0, [1.0], 0.2, 0.9, 0.0),
        (0.5, [], 0.1, 0.9, 0.1),
    ),
    trusted=_closed,
    slips="""
weight -= lr * decay * weight -> gradient = gradient + decay * weight
    That is PyTorch's way: the decay is in the gradient, and momentum gathers it. Keras shrinks the weight
    beside the step.
lr * decay -> decay
    The weight shrinks by lr · decay of itself: the learning rate counts here, too.
weight -= lr * decay * weight -> pass
    Nothing shrinks the weight.
weight -= lr * decay * weight⏎ -> pass⏎
weight += velocity -> weight += velocity; weight -= lr * decay * weight
    The weight shrinks before the step, not after it.
velocity - lr * gradient -> velocity - (1 - momentum) * lr * gradient
    The gradient is not divided between old and new: the velocity is momentum · velocity - lr · gradient.
momentum * velocity - -> -
    The velocity of the step before has been lost.
weight += velocity -> weight += momentum * velocity - lr * gradient
    That is Nesterov's form: the plain one adds the velocity itself.
weight += velocity -> weight -= velocity
    The velocity points downhill already, since it is made of -lr · gradient: add it.
""",
    otherwise="For each gradient: shrink the weight, make the new velocity, add it.",
    right="the weights are those of keras.optimizers.SGD, in 5 cases.",
)


# ---- counts


def _by_layers(parameters: int, channels: list[int]) -> tuple[int, int]:
    trainable = parameters
    for number in channels:
        trainable += np.zeros(number).size  # one bias for each channel
    return trainable, trainable + sum(np.zeros((2, number)).size for number in channels)


keras_counts = Exercise(
    number="9.5",
    title="The counts of Keras Applications",
    minutes=10,
    level="easy",
    answer="""\
def keras_counts(parameters: int, channels: list[int]) -> tuple[int, int]:
    biases = sum(channels)
    statistics = 2 * sum(channels)
    trainable = parameters + biases
    return trainable, trainable + statistics
""",
    cases=((1_000, [64, 64, 256, 256]), (25_557_032, [64] * 7 + [256] * 3), (10, []), (99, [3])),
    trusted=_by_layers,
    slips="""
biases = sum(channels) -> biases = 0
    The biases are missing: in Keras Applications each convolution has one for each channel.
2 * sum(channels) -> sum(channels)
    Each norm remembers two numbers for each channel: a mean and a variance.
2 * sum(channels) -> 0
    The second count holds the running statistics as well.
2 * sum(channels) -> 4 * sum(channels)
    Scale and shift are among torchvision's parameters already: only mean and variance come on top.
return trainable, trainable + statistics -> return trainable + statistics, trainable + statistics
    Running statistics are not trained, so they belong to the second count alone.
return trainable, trainable + statistics -> return trainable + statistics, trainable
    First what is trained, then all.
sum(channels) -> len(channels)
    A layer has a bias for each of its channels, not one in all.
2 * sum(channels) -> 2 * sum(channels) + len(channels)
    PyTorch's counter of batches, num_batches_tracked, has no counterpart here.
""",
    otherwise="What does each convolution have on top, and what does each norm remember?",
    right="both counts are right; for the channels of ResNet-50, 101 and 152 they are Keras's.",
)
