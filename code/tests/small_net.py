"""A network for tests, by itself: the processes of ``two_processes.py`` load nothing more of the tests."""

from torch import nn


def small_net(num_classes: int = 10, dropout: float = 0.0) -> nn.Sequential:
    """A network for 8×8 images that trains in milliseconds; has a norm, and random numbers on request."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, num_classes),
    )
