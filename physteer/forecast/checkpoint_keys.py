"""Checks that a checkpoint's tensors fit a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from physteer.errors import PhysteerError


def check_state(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint has a model's tensors.

    Args:
        stored: tensors of the checkpoint, by name.
        wanted: tensors of the model, by name.

    Raises:
        PhysteerError: Tensors are missing, unknown or of another shape.
    """
    shapes = {name: (list(stored[name].shape), list(wanted[name].shape)) for name in wanted.keys() & stored.keys()}
    wrong = [f"{name} is {a}, not {b}" for name, (a, b) in sorted(shapes.items()) if a != b]
    missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    for problem, names in (("lacks", missing), ("has unknown tensors:", unknown), ("does not fit:", wrong)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise PhysteerError(f"the checkpoint is not one of this model: it {problem} {names[0]}{more}")
