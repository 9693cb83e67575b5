"""Checks that a checkpoint's tensors and its adapter fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from physteer.errors import PhysteerError
from physteer.forecast.lora import InjectedLora


def check_state(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint has a model's tensors (`state_fault`).

    Raises:
        PhysteerError: Tensors are missing, unknown or of another shape.
    """
    fault = state_fault(stored, wanted)
    if fault:
        raise PhysteerError(f"the checkpoint is not one of this model: {fault}")


def state_fault(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in which way a file's tensors are not a model's, as the end of a sentence; empty where they are.

    Args:
        stored: tensors of the file, by name.
        wanted: tensors of the model, by name.
    """
    shapes = {name: (list(stored[name].shape), list(wanted[name].shape)) for name in wanted.keys() & stored.keys()}
    wrong = [f"{name} is {a}, not {b}" for name, (a, b) in sorted(shapes.items()) if a != b]
    missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    for problem, names in (("lacks", missing), ("has unknown tensors:", unknown), ("does not fit:", wrong)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it {problem} {names[0]}{more}"
    return ""


def check_same_adapter(stored: Mapping[str, Any] | None, injected: InjectedLora | None) -> None:
    """Check that a checkpoint has an adapter where a model has one, with the same settings.

    Args:
        stored: `LoraSettings.of_the_checkpoint`; None where the checkpoint has no adapter.
        injected: of the model.

    Raises:
        PhysteerError: One of them has none, or the settings differ.
    """
    if stored is not None and injected is None:
        raise PhysteerError(
            "the checkpoint holds a LoRA adapter and no network: list the LoRA callback that trained it, or set "
            "model.lora to the folder lora/ that its fit wrote, without the checkpoint"
        )
    if stored is None and injected is not None:
        raise PhysteerError("the checkpoint holds no LoRA adapter: leave out the LoRA callback")
    if stored is not None and injected is not None:
        for name, value in injected.settings.of_the_checkpoint.items():
            if stored.get(name) != value:
                raise PhysteerError(f"the checkpoint has LoRA.{name} {stored.get(name)}; here it is {value}")
