"""Files of planted networks; two are shipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import physteer
from physteer.errors import PhysteerError, did_you_mean
from physteer.tensor_files import finite_float32, read_tensors, write_tensors
from physteer.testing.planted_tasks import TASKS
from physteer.testing.planted_transformer import PlantedTransformer

KIND = "planted network"
"""What the files are called."""
VERSION = 1
"""Of the format."""


def load_planted(name: str) -> PlantedTransformer:
    """Return the shipped network of a task, frozen.

    Args:
        name: of the task, `recall` or `regression` (`physteer.testing.planted_tasks.TASKS`).

    Raises:
        PhysteerError: No network of that name is shipped.
    """
    if name not in TASKS:
        known = ", ".join(map(repr, TASKS))
        raise PhysteerError(
            f"no planted network {name!r} is shipped{did_you_mean(name, TASKS) or f'; there are {known}'}"
        )
    return read_planted(Path(physteer.__file__).parent / "assets" / planted_file(name))


def planted_file(name: str) -> str:
    """Return the file name of a task's network."""
    return f"planted-{name}.safetensors"


def read_planted(path: str | os.PathLike[str]) -> PlantedTransformer:
    """Return the network of a file that `write_planted` wrote, frozen.

    Raises:
        PhysteerError: There is no such file, it is of another kind or version, or damaged.
    """
    tensors, described = read_tensors(path, KIND, VERSION)
    try:
        network = PlantedTransformer(**described["sizes"])
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise PhysteerError(f"{path} does not hold a whole planted network: {error}") from error
    return network.requires_grad_(False).eval()


def write_planted(path: str | os.PathLike[str], network: PlantedTransformer, **described: Any) -> None:
    """Write a network, in float32.

    Args:
        path: of the file.
        network: to write.
        described: how it was made, such as the task's name and the seed; what JSON can hold.

    Raises:
        PhysteerError: A weight is not finite, or the file cannot be written.
    """
    weights = {name: finite_float32(weight, name) for name, weight in network.state_dict().items()}
    write_tensors(path, KIND, VERSION, weights, {"sizes": network.sizes, **described})
