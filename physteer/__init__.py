"""Train, inspect and steer physics foundation models."""

__version__ = "0.1.0"
