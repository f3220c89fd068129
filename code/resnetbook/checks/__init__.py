"""Checks that readers run on their own code: a right solution says so, a wrong one names the mistake.

Every check raises :class:`CheckFailed`, an ``AssertionError``, whose message says what is wrong and
what to look at next. A check never says that something is right which it has not compared with a
trusted implementation.
"""

from resnetbook.checks.common import CheckFailed
from resnetbook.checks.counts import (
    basic_parameters,
    block_parameters,
    bottleneck_macs,
    equal_cost_channels,
    map_sizes,
)
from resnetbook.checks.network import resnet34
from resnetbook.checks.residual import bottleneck, residual_block
from resnetbook.checks.training import accuracy, confusion_matrix, sgd_step

__all__ = [
    "CheckFailed",
    "accuracy",
    "basic_parameters",
    "block_parameters",
    "bottleneck",
    "bottleneck_macs",
    "confusion_matrix",
    "equal_cost_channels",
    "map_sizes",
    "residual_block",
    "resnet34",
    "sgd_step",
]
