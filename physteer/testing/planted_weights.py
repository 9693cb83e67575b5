"""Files of planted networks; two are shipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

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
    sizes = described.get("sizes")
    if not isinstance(sizes, dict) or not all(type(size) is int and size >= 1 for size in sizes.values()):
        raise PhysteerError(f"{path} does not hold a whole planted network: its sizes are {sizes!r:.100}")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if sizes.get("n_blocks") != len(blocks):
        raise PhysteerError(f"{path} says {sizes.get('n_blocks')} blocks and holds {len(blocks)}")
    try:
        with torch.device("meta"):  # the file's tensors decide whether there is memory for what it declares
            network = PlantedTransformer(**sizes)
        network.load_state_dict(tensors, assign=True)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PhysteerError(f"{path} does not hold a whole planted network: {reason}") from error
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
