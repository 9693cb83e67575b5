"""What tells one network from another: its weights, its structure, and the code that runs it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn


def network_identity(network: nn.Module, settings: object = None) -> str:
    """Return 16 hexadecimal digits that name a network: the SHA-256 of its weights, its module tree and its settings.

    All numbers count, at about a gigabyte a second; on every device they have the same hash. Of every module its class
    counts, and its attributes that are plain values, such as a number of heads, which no weight tells.

    Args:
        network: any.
        settings: what else decides outputs and has a `repr`.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for name, module in network.named_modules():
        kind, plain = type(module), [item for item in sorted(vars(module).items()) if _is_setting(*item)]
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {plain}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def source_version(*kinds: type) -> str:
    """Return a hash of the source files in which classes and their base classes are defined, without torch's own."""
    digest = hashlib.sha256()
    for path in sorted(_files(kinds)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _is_setting(name: str, value: object) -> bool:
    if name == "training" or name.startswith("_"):
        return False
    values = value if isinstance(value, tuple) else (value,)
    return all(isinstance(one, bool | int | float | str | None) for one in values)


def _files(kinds: Iterable[type]) -> set[Path]:
    found = set()
    for kind in {base for one in kinds for base in one.__mro__}:
        if kind.__module__.split(".")[0] not in ("torch", "builtins", "typing"):
            with suppress(TypeError, OSError):  # classes of a notebook have no file
                found.add(Path(inspect.getfile(kind)))
    return {path for path in found if path.is_file()}
