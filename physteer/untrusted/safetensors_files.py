"""Safetensors files: opened with their faults in one line, and a digest of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import reason

CHECKSUM = "checksum"
"""The key of `content_digest` in the JSON header of our files."""
_IN_PARALLEL = 8 * 2**20
"""Tensors of together fewer bytes are hashed in one thread."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield safetensors' handle of a file (`safetensors.safe_open`); tensors that are read stay memory-mapped.

    Raises:
        PhysteerError: The file is not there, not whole, or holds a tensor that torch cannot hold.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except PhysteerError:
        raise
    except FileNotFoundError:
        raise PhysteerError(f"there is no file {path}") from None
    # Besides its own error it raises what torch does for a shape or a dtype: RuntimeError, TypeError, AttributeError.
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise PhysteerError(f"{path} is not a whole safetensors file: {reason(error)[:200]}") from None


def tensors_of(file: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return all tensors of an open file by name.

    Args:
        file: of `opened`.
        path: of the file, for the error.

    Raises:
        PhysteerError: An empty tensor has dimensions that the file's size does not explain.
    """
    tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    size = os.path.getsize(path)
    for name, tensor in tensors.items():
        # other tensors lie in the file, byte by byte
        if not tensor.numel() and math.prod(n for n in tensor.shape if n) > size:
            raise PhysteerError(f"{path} is not a whole safetensors file: {name} is empty, {list(tensor.shape)}")
    return tensors


def content_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of tensors: names, dtypes, shapes and values, in hexadecimal digits.

    Tensors are hashed where they are, without a copy, each on its own and several at a time: 1.3 GiB a second and core.

    Args:
        header: what JSON can hold; the entry `CHECKSUM` is left out.
        tensors: by name, on the CPU.
    """
    described = {name: value for name, value in header.items() if name != CHECKSUM}
    digest = hashlib.sha256(json.dumps(described, ensure_ascii=True, sort_keys=True).encode())
    names = sorted(tensors)
    large = sum(tensor.nbytes for tensor in tensors.values()) >= _IN_PARALLEL
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1) if large else 1) as pool:  # hashlib leaves the lock to others
        parts = pool.map(lambda name: _values_digest(tensors[name]), names)
        for name, part in zip(names, parts, strict=True):
            about = json.dumps([name, str(tensors[name].dtype), list(tensors[name].shape)])
            digest.update(about.encode() + part)
    return digest.hexdigest()


def check_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Check a file's content against the digest in its header.

    Raises:
        PhysteerError: They differ, or there is none.
    """
    if CHECKSUM not in header:
        raise PhysteerError(f"{path} has no checksum: it is from before physteer 0.1.0, or was changed; make it again")
    if header[CHECKSUM] != content_digest(header, tensors):
        raise PhysteerError(f"{path} is damaged: its content does not fit its checksum; make or copy it again")


def _values_digest(tensor: Tensor) -> bytes:
    if not tensor.numel():
        return b""
    flat = tensor.detach().contiguous().flatten()
    if flat.stride(0) != 1:  # a single value of a longer tensor counts as contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    content = flat.view(torch.uint8).numpy()
    return hashlib.sha256(content).digest()  # type: ignore[arg-type]
