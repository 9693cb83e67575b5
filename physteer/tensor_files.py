"""Our safetensors files: a few tensors with a description, of a stated kind and version."""

from __future__ import annotations

import contextlib
import json
import math
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import save
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.untrusted.json_text import json_object
from physteer.untrusted.safetensors_files import CHECKSUM, check_digest, content_digest, opened, tensors_of

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


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
        try:
            values = _field_values(cls, {**described, **tensors})
            # JSON has no tuples
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except Exception as error:  # values of the right types may still not fit together, or not be allowed
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise PhysteerError(f"{path} is not a whole {cls.KIND}: {text}") from error

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
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"version": version, **described}
    header = json.loads(json.dumps(header)) | {CHECKSUM: content_digest(header, stored)}
    # One key: safetensors writes several in random order.
    content = save(stored, {_key(kind): json.dumps(header, ensure_ascii=False, sort_keys=True)})
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description of a file that `write_tensors` wrote, and check them by its checksum.

    Raises:
        PhysteerError: There is no such file, it is of another kind or version, or damaged.
    """
    if not Path(path).is_file():
        raise PhysteerError(f"there is no {kind} file {path}")
    with opened(path) as file:
        header = (file.metadata() or {}).get(_key(kind))
        if header is None:
            raise PhysteerError(f"{path} is not a {kind}: it holds {_some(list(file.keys()))}")
        described = json_object(header, f"the description in {path}")
        found = described.get("version")
        if type(found) is not int or found != version:
            raise PhysteerError(f"{path} has {kind} format {found!r:.40}; this physteer reads {version}")
        tensors = tensors_of(file, path)
        check_digest(described, tensors, path)
    return tensors, {name: value for name, value in described.items() if name not in ("version", CHECKSUM)}


def tensor_kind(path: str | os.PathLike[str]) -> str:
    """Return the kind of a file that `write_tensors` wrote, its words joined by underscores; empty for any other."""
    with contextlib.suppress(PhysteerError), opened(path) as file:
        keys = [key for key in file.metadata() or {} if key.startswith(_key(""))]
        return keys[0].removeprefix(_key("")) if keys else ""
    return ""


def numbered_direction(address: str) -> tuple[str, int | None]:
    """Return the file and the number of an address such as ``PATH#3``; no number where a file has that very name."""
    file, _, number = address.rpartition("#")
    if not file or not number.isdecimal() or os.path.isfile(address):
        return address, None
    return file, int(number)


def _field_values(cls: type[TensorFile], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a dataclass's fields, each of the type that the field declares.

    Raises:
        PhysteerError: A value is missing or of another type, or a number is not finite and its default is.
    """
    hints = get_type_hints(cls)
    chosen: dict[str, Any] = {}
    for field in fields(cls):
        if field.name not in values:
            if field.default is MISSING and field.default_factory is MISSING:
                raise PhysteerError(f"it lacks {field.name}")
            continue
        value = values[field.name]
        may_be_nan = isinstance(field.default, float) and not math.isfinite(field.default)
        if not _is_a(value, hints[field.name], may_be_nan):
            shown = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.60}"
            raise PhysteerError(f"its {field.name} is {shown}, not {field.type}")
        chosen[field.name] = value
    return chosen


def _is_a(value: Any, hint: Any, may_be_nan: bool) -> bool:
    """Return whether what JSON or a file of tensors holds is of a type as dataclasses declare it."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_a(value, one, may_be_nan) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_is_a(item, get_args(hint)[0], may_be_nan) for item in value)
    if get_origin(hint) is dict:
        name, item = get_args(hint)
        return isinstance(value, dict) and all(
            _is_a(n, name, may_be_nan) and _is_a(v, item, may_be_nan) for n, v in value.items()
        )
    if hint is float:
        return type(value) in (int, float) and (may_be_nan or math.isfinite(value))
    if hint is Tensor:
        return isinstance(value, Tensor) and value.dtype in _DTYPES
    return type(value) is hint or (hint is types.NoneType and value is None)


def _key(kind: str) -> str:
    return f"physteer.{kind.replace(' ', '_')}"


def _some(names: list[str]) -> str:
    """Name a few tensors of many."""
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    return f"the tensors {shown}" if names else "no tensors"
