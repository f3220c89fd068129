"""Helpers of an executable book on residual networks: blocks, models, data, training, records."""

__version__ = "0.1.0"
