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
    """Return 16 hexadecimal digits that name a network: the SHA-256 of its weights, its module tree and some settings.

    All numbers count, at about a gigabyte a second; on every device they have the same hash.

    Args:
        network: its parameters and persistent buffers, the printed module tree, and its class are hashed.
        settings: what else decides outputs and has a `repr`.
    """
    digest = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__} {settings!r} {network}".encode())
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


def _files(kinds: Iterable[type]) -> set[Path]:
    found = set()
    for kind in {base for one in kinds for base in one.__mro__}:
        if kind.__module__.split(".")[0] not in ("torch", "builtins", "typing"):
            with suppress(TypeError, OSError):  # classes of a notebook have no file
                found.add(Path(inspect.getfile(kind)))
    return {path for path in found if path.is_file()}
