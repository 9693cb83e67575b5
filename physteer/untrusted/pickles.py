"""Pickles of tensors: what one holds is described and checked before any of it is made, and no code of it runs.

A pickle is a program that can call anything that can be imported. Here it is run with stand-ins first: for tensors,
which are only described, and for whatever else it names, which is remembered and refused. `check_opcodes` looks for
what costs memory even so.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import torch

_ITEM_BYTES = {
    **{"BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "UntypedStorage": 1},
    **{"HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2},
    **{"FloatStorage": 4, "IntStorage": 4, "DoubleStorage": 8, "LongStorage": 8},
    **{"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
}
"""Bytes of a number by the class of storage, as `torch.save` names it."""
_UNUSUAL = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "PERSID"}
"""What no file of tensors needs; the first makes as many bytes as it declares."""
_MOST_NAMED = 3


class RefusedPickleError(Exception):
    """What a pickle holds besides tensors and plain data, as in "it would call posix.system"."""


class StoredTensor(NamedTuple):  # a pickle cannot set attributes of a tuple, and finds no method to call
    """A tensor as a pickle describes it, checked to lie inside its storage."""

    storage: Any
    """A `Storage`, or what the caller's stand-in for `torch.storage._load_from_bytes` returned."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Storage(NamedTuple):
    """Numbers that lie outside the pickle, in the same file."""

    key: str
    item_bytes: int
    numbers: int
    """Number of numbers, of `item_bytes` each."""


class _Opaque:
    """Stands for what a pickle names and is refused for; takes what a pickle does to an object."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class Described(pickle.Unpickler):
    """Reads one pickle, at the position of a file, into plain data and `StoredTensor`.

    Args:
        file: the pickle.
        load_storage: what a pickle without a file around it calls for a storage, with the storage's bytes; returns
            anything with a length. None where storages lie in the same file, as `Storage`.
    """

    def __init__(self, file: IO[bytes], load_storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}
        self._named: list[str] = []
        self._load_storage = load_storage

    def tree(self) -> Any:
        """Return what the pickle holds.

        Raises:
            RefusedPickleError: It names what is no part of tensors and plain data, or a tensor makes no sense.
            Exception: Any; pickle raises whatever a damaged file makes it do.
        """
        try:
            tree = self.load()
        except RefusedPickleError:
            raise
        except Exception:
            if not self._named:
                raise
            tree = None
        if self._named:
            names = list(dict.fromkeys(self._named))
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            raise RefusedPickleError(f"it would call {', '.join(names[:_MOST_NAMED])}{more}")
        return tree

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for what the pickle names."""
        module = "builtins" if module == "__builtin__" else module  # its name in protocols below 3
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if (module, name) == ("torch.storage", "_load_from_bytes") and self._load_storage is not None:
            return self._load_storage
        if module in ("torch", "torch.storage") and name in _ITEM_BYTES and self._load_storage is None:
            return _ITEM_BYTES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        self._named.append(f"{module}.{name}")
        return _Opaque

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage that lies in the same file."""
        if self._load_storage is not None:
            raise RefusedPickleError("it has a reference to something outside")
        kind, item_bytes, key, _, count, *view = pid
        whole = isinstance(key, str) and isinstance(item_bytes, int) and isinstance(count, int) and count >= 0
        if kind != "storage" or not whole or any(part is not None for part in view):
            raise RefusedPickleError("it has a storage that makes no sense")
        storage = Storage(key, item_bytes, count)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedPickleError("it describes one storage in two ways")
        return storage


def check_opcodes(file: IO[bytes], size: int) -> None:
    """Check one pickle for what would take memory beyond its own size; the file is read to the pickle's end.

    Args:
        file: at the beginning of the pickle.
        size: of the file.

    Raises:
        RefusedPickleError: It does something that no pickle of tensors needs.
        ValueError: It is no pickle, or not whole.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in _UNUSUAL:
            raise RefusedPickleError(f"it has the instruction {opcode.name}, which tensors do not need")
        # the memo has a place for every number below the largest; a frame is read in one piece
        largest = {"PUT": count, "BINPUT": count, "LONG_BINPUT": count, "FRAME": size}.get(opcode.name)
        if largest is not None and int(argument or 0) > largest:
            raise RefusedPickleError(f"its instruction {opcode.name} {argument} does not fit its size")


def stored_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> StoredTensor:
    """Describe a tensor; whether it requires gradients, and its hooks, do not matter.

    Raises:
        RefusedPickleError: It does not lie inside its storage, or declares more numbers than the storage has.
    """
    integers = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    integers = integers and all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    count: Any = getattr(storage, "numbers", -1)
    if not isinstance(count, int) or count < 0 or not integers:
        raise RefusedPickleError("it has a tensor whose shape or storage makes no sense")
    numbers, last = 1, offset
    for n, stride in zip(shape, strides, strict=True):
        numbers *= max(n, 1)
        last += (n - 1) * stride
    if (0 not in shape and last >= count) or numbers > max(count, 1):
        raise RefusedPickleError(f"it has a tensor of shape {list(shape)} that reaches beyond its {count} numbers")
    return StoredTensor(storage, offset, shape, strides)


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    """Describe a tensor of a type that has no class of storage of its own: [requires_grad, hooks, dtype, …]."""
    dtype = rest[2]
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise RefusedPickleError("it has a tensor whose shape or storage makes no sense")
    whole = Storage(storage.key, dtype.itemsize, storage.numbers // dtype.itemsize)
    return stored_tensor(whole, offset, shape, strides)


def _parameter(data: Any, *_unused: Any) -> Any:
    return data


def _latin1(text: Any, encoding: Any) -> bytes:
    """Rebuild bytes as pickles of protocols below 3 write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedPickleError(f"it has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _size(sizes: Any) -> tuple[int, ...]:
    return tuple(sizes)


def _device(*_unused: Any) -> None: ...


_ADMITTED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): stored_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("builtins", "set"): set,
    ("_codecs", "encode"): _latin1,
}
"""What a pickle may name: no more than `torch.load` admits without code."""
