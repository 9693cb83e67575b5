"""Our safetensors files: a few tensors with a description, of a stated kind and version."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import atomic_write


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A dataclass of tensors and what JSON can hold, with a file of its own kind."""

    KIND: ClassVar[str]
    """What its files are called, such as `concept`."""
    VERSION: ClassVar[int]
    """Of the format of its files."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            PhysteerError: It cannot be written.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        described = {name: value for name, value in values.items() if name not in tensors}
        write_tensors(path, self.KIND, self.VERSION, tensors, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            PhysteerError: There is no such file, it is of another kind or version, or damaged.
        """
        tensors, described = read_tensors(path, cls.KIND, cls.VERSION)
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in described.items() if name in known} | tensors
        try:  # JSON has no tuples
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
        except (PhysteerError, TypeError) as error:
            raise PhysteerError(f"{path}: {error}") from error

    @classmethod
    def is_kind_of(cls, path: str | os.PathLike[str]) -> bool:
        """Return whether a file is of this kind."""
        return tensor_kind(path) == cls.KIND.replace(" ", "_")


def finite_float32(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor in float32, on the CPU, contiguous and off the autograd tape, as files store it.

    Args:
        tensor: any.
        name: of the tensor, for the error.

    Raises:
        PhysteerError: A value is not finite.
    """
    converted = tensor.detach().to("cpu", torch.float32).contiguous()
    if not bool(converted.isfinite().all()):
        raise PhysteerError(f"{name} has values that are not finite")
    return converted


def write_tensors(
    path: str | os.PathLike[str], kind: str, version: int, tensors: Mapping[str, Tensor], described: Mapping[str, Any]
) -> None:
    """Write a safetensors file, whole or not at all; equal contents are equal files.

    Args:
        path: of the file.
        kind: what is in it, such as `concept`; readers refuse other kinds.
        version: of the format; readers refuse others.
        tensors: by name.
        described: what JSON can hold.

    Raises:
        PhysteerError: It cannot be written.
    """
    header = json.dumps({"version": version, **described}, ensure_ascii=False, sort_keys=True)
    # One key: safetensors writes several in random order.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {_key(kind): header})
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description of a file that `write_tensors` wrote.

    Raises:
        PhysteerError: There is no such file, it is of another kind or version, or damaged.
    """
    if not Path(path).is_file():
        raise PhysteerError(f"there is no {kind} file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_key(kind))
            names = list(file.keys())
            tensors = {} if header is None else {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise PhysteerError(f"{path} is not a whole safetensors file: {error}") from error
    if header is None:
        raise PhysteerError(f"{path} is not a {kind}: it holds {_some(names)}")
    described: dict[str, Any] = json.loads(header)
    found = described.pop("version", None)
    if found != version:
        raise PhysteerError(f"{path} has {kind} format {found}; this physteer reads {version}")
    return tensors, described


def tensor_kind(path: str | os.PathLike[str]) -> str:
    """Return the kind of a file that `write_tensors` wrote, its words joined by underscores; empty for any other."""
    with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
        keys = [key for key in file.metadata() or {} if key.startswith(_key(""))]
        return keys[0].removeprefix(_key("")) if keys else ""
    return ""


def numbered_direction(address: str) -> tuple[str, int | None]:
    """Return the file and the number of an address such as ``PATH#3``; no number where a file has that very name."""
    file, _, number = address.rpartition("#")
    if not file or not number.isdecimal() or os.path.isfile(address):
        return address, None
    return file, int(number)


def _key(kind: str) -> str:
    return f"physteer.{kind.replace(' ', '_')}"


def _some(names: list[str]) -> str:
    """Name a few tensors of many."""
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    return f"the tensors {shown}" if names else "no tensors"
