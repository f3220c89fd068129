"""Checks that readers run on their own code: a right solution says so, a wrong one names the mistake.

Every check raises :class:`CheckFailed`, an ``AssertionError``, whose message says what is wrong and
what to look at next. A check never says that something is right which it has not compared with a
trusted implementation.
"""

from resnetbook.checks.audit import audit
from resnetbook.checks.chapter01 import batch_norm, conv2d, lenet_counts, receptive_span, smallest_padding
from resnetbook.checks.chapter02 import (
    degradation_gap,
    diagnose,
    dirac_kernel,
    gradient_norms,
    network_parameters,
)
from resnetbook.checks.chapter03 import (
    chain_derivative,
    paths_through,
    pre_activation_block,
    residual_factor,
    shortcut_parameters,
    start_as_identity,
)
from resnetbook.checks.chapter04 import (
    basic_parameters,
    bottleneck,
    bottleneck_macs,
    equal_cost_channels,
    residual_block,
    resnet34,
)
from resnetbook.checks.chapter05 import accuracy, block_parameters, confusion_matrix, map_sizes, sgd_step
from resnetbook.checks.chapter06 import (
    compare_seeds,
    ema,
    learning_rate,
    momentum_step,
    shift_images,
    smoothed_cross_entropy,
)
from resnetbook.checks.chapter07 import (
    class_activation_map,
    expected_calibration_error,
    filter_normalized,
    rank_correlation,
    silenced,
)
from resnetbook.checks.chapter08 import depth_groups, freeze, grey_kernel, keeps_norms, trained_counts
from resnetbook.checks.chapter09 import early_stopping, keras_counts, keras_sgd, same_padding, to_keras
from resnetbook.checks.chapter10 import accumulate, backward_in_segments, loss_scaler, scaled_lr
from resnetbook.checks.chapter11 import (
    average_gradients,
    best_interval,
    merged_statistics,
    ring_seconds,
    shares,
)
from resnetbook.checks.chapter12 import (
    first_difference,
    mixes_images,
    option_a,
    resnet18_parameters,
    without_gradient,
)
from resnetbook.checks.common import CheckFailed

__all__ = [
    "CheckFailed",
    "accumulate",
    "accuracy",
    "audit",
    "average_gradients",
    "backward_in_segments",
    "basic_parameters",
    "batch_norm",
    "best_interval",
    "block_parameters",
    "bottleneck",
    "bottleneck_macs",
    "chain_derivative",
    "class_activation_map",
    "compare_seeds",
    "confusion_matrix",
    "conv2d",
    "degradation_gap",
    "depth_groups",
    "diagnose",
    "dirac_kernel",
    "early_stopping",
    "ema",
    "equal_cost_channels",
    "expected_calibration_error",
    "filter_normalized",
    "first_difference",
    "freeze",
    "gradient_norms",
    "grey_kernel",
    "keeps_norms",
    "keras_counts",
    "keras_sgd",
    "learning_rate",
    "lenet_counts",
    "loss_scaler",
    "map_sizes",
    "merged_statistics",
    "mixes_images",
    "momentum_step",
    "network_parameters",
    "option_a",
    "paths_through",
    "pre_activation_block",
    "receptive_span",
    "rank_correlation",
    "residual_block",
    "residual_factor",
    "resnet18_parameters",
    "resnet34",
    "ring_seconds",
    "same_padding",
    "scaled_lr",
    "sgd_step",
    "shares",
    "shift_images",
    "shortcut_parameters",
    "silenced",
    "smallest_padding",
    "smoothed_cross_entropy",
    "start_as_identity",
    "to_keras",
    "trained_counts",
    "without_gradient",
]
