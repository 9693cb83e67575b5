"""Are a checkpoint's tensors those of a model?"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from physteer.errors import PhysteerError


def check_state(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint's tensors that are not those of this model.

    Raises:
        PhysteerError: tensors are missing, unknown or of another shape.
    """
    shapes = {name: (list(found[name].shape), list(wanted[name].shape)) for name in wanted.keys() & found.keys()}
    wrong = [f"{name} is {a}, not {b}" for name, (a, b) in sorted(shapes.items()) if a != b]
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    for what, names in (("lacks", missing), ("has unknown tensors:", unknown), ("does not fit:", wrong)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise PhysteerError(f"the checkpoint is not one of this model: it {what} {names[0]}{more}")
