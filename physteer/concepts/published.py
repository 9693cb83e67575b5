"""Published concepts and activations: Python pickles of tensors, read without running code of the file.

A pickle is a program. This reader lets it build tensors and dictionaries, and nothing else. While the pickle runs,
tensors are only described; they are made afterwards, when their descriptions have been checked.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.storage import TypedStorage

from physteer.concepts.concept import Concept
from physteer.errors import PhysteerError, did_you_mean
from physteer.files import file_digest

PUBLISHED_SITE = "blocks.39"
"""Site of the published concepts; a pickle of a bare tensor does not name it."""
FORMULA = "as published (Fear et al., arXiv 2511.20798)"
_ZIP = b"PK\x03\x04"
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in a `torch.save` file from before its zip format."""


def read_published_concept(path: str | os.PathLike[str], site: str | None = None) -> Concept:
    """Read a concept: one tensor [1, 1, d, h, w, δ], or a dictionary of them by module path.

    Args:
        path: the pickle.
        site: the entry of a dictionary, by default its only one; for a bare tensor the site of its activations, by
            default `blocks.39`.

    Returns:
        The concept, [h, w, δ, d]; its file's name and digest are in `data`.

    Raises:
        PhysteerError: There is no such file, it holds more than tensors, is damaged, or holds no concept at the site.
    """
    tree = _read(Path(path))
    if isinstance(tree, Tensor):
        site = site or PUBLISHED_SITE
    else:
        if site is None and len(tree) != 1:
            raise PhysteerError(f"{path} holds {', '.join(tree) or 'nothing'}: say which site")
        site = site or next(iter(tree))
        if site not in tree:
            raise PhysteerError(f"{path} has no {site!r}; it holds {', '.join(tree)}{did_you_mean(site, tree)}")
        tree = tree[site]
    if tree.ndim != 6 or tree.shape[:2] != (1, 1):
        kind = "activations [T, B, d, h, w, δ] of which concepts are made" if tree.ndim == 6 else "no concept"
        raise PhysteerError(f"{path}: a concept is [1, 1, d, h, w, δ]; {list(tree.shape)} is {kind}")
    try:
        return Concept(
            direction=tree[0, 0].permute(1, 2, 3, 0),
            site=site,
            data=f"{Path(path).name} (SHA-256 {file_digest(path)}…)",
            formula=FORMULA,
        )
    except PhysteerError as error:
        raise PhysteerError(f"{path}: {error}") from error


def read_published_activations(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read captured activations: a dictionary module path → tensor [T, B, d, h, w, δ].

    Returns:
        Module path → activation [B, T, h, w, δ, d], as `DifferenceOfMeans.update` takes them.

    Raises:
        PhysteerError: There is no such file, it holds more than tensors, is damaged, or holds no such dictionary.
    """
    tree = _read(Path(path))
    if isinstance(tree, Tensor):
        raise PhysteerError(f"{path} holds one tensor, not a dictionary of activations by module path")
    wrong = [name for name, tensor in tree.items() if tensor.ndim != 6]
    if wrong:
        raise PhysteerError(f"{path}: {wrong[0]} has shape {list(tree[wrong[0]].shape)}, not [T, B, d, h, w, δ]")
    return {name: tensor.permute(1, 0, 3, 4, 5, 2).contiguous() for name, tensor in tree.items()}


def _read(path: Path) -> Tensor | dict[str, Tensor]:
    """Read a pickle, or a file of `torch.save`, of a tensor or of tensors by name."""
    if not path.is_file():
        raise PhysteerError(f"there is no file {path}")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's doubts about pickle protocols: it opens a file or refuses it
            zipped = file.read(len(_ZIP)) == _ZIP
            file.seek(0)
            tree: Any = _TORCH_MAGIC if zipped else _Unpickler(file).load()
            if isinstance(tree, int) and tree == _TORCH_MAGIC:
                tree = _torch_load(path)
        if isinstance(tree, dict):
            unnamed = [name for name in tree if not isinstance(name, str)]
            if unnamed:
                raise _Refused(f"a dictionary with the key {unnamed[0]!r}, which is no module path")
            return {name: _made(tree[name], repr(name)) for name in tree}
        return _made(tree, "it")
    except _Refused as error:
        raise PhysteerError(f"{path} holds {error} and was not opened: only tensors are") from None
    except Exception as error:  # a damaged pickle may raise anything, says pickle's documentation
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PhysteerError(f"{path} is not a whole pickle of tensors: {reason}") from None


class _Refused(Exception):
    """Something in a pickle that is neither a tensor nor a dictionary."""


def _torch_load(file: Path | io.BytesIO) -> Any:
    """Read a file of `torch.save`: tensors and plain data only."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Of torch's paragraphs, only what it met: the rest advises to switch the check off.
        met = re.search(r"GLOBAL (\S+)|WeightsUnpickler error:\s*(.+)", str(error))
        raise _Refused((met[1] or met[2]) if met else "more than tensors") from None


# What a pickle can get hold of has no attributes to set and no method that pickle would call (`__setstate__`).
class _Storage(NamedTuple):
    values: Tensor  # [n], of the storage's type


class _Stored(NamedTuple):
    storage: Any
    offset: Any
    shape: Any
    strides: Any


def _storage(content: Any) -> _Storage:
    """Read a storage, itself a file of `torch.save` inside the pickle."""
    if not isinstance(content, bytes):
        raise _Refused("a storage that is not made of bytes")
    storage = _torch_load(io.BytesIO(content))
    if not isinstance(storage, TypedStorage):
        raise _Refused(f"a storage that is a {type(storage).__name__}")
    return _Storage(torch.empty(0, dtype=storage.dtype).set_(storage))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> _Stored:
    """Describe a tensor; whether it requires gradients and its hooks do not matter."""
    return _Stored(storage, offset, shape, strides)


def _parameter(data: Any, *_unused: Any) -> Any:
    return data


def _latin1(text: Any, encoding: Any) -> bytes:
    """Rebuild bytes as pickles of protocols below 3 write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside")


def _made(stored: Any, name: str) -> Tensor:
    """Make a tensor of its description, checked to lie inside its storage."""
    if isinstance(stored, Tensor):
        tensor = stored.detach()
    elif isinstance(stored, _Stored):
        tensor = _view(stored, name)
    else:
        raise _Refused(f"a {type(stored).__name__}" if name == "it" else f"a {type(stored).__name__} under {name}")
    if tensor.layout is not torch.strided or not tensor.is_floating_point():
        raise _Refused(f"a tensor of {tensor.dtype} ({tensor.layout}), not floating-point numbers,")
    return tensor


def _view(stored: _Stored, name: str) -> Tensor:
    storage, offset, shape, strides = stored
    integers = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    integers = integers and all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not integers:
        raise _Refused(f"a tensor whose shape or storage makes no sense ({name})")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage.values):
        raise _Refused(
            f"a tensor of shape {list(shape)} that reaches beyond its {len(storage.values)} numbers ({name})"
        )
    return torch.as_strided(storage.values, shape, strides, offset).clone()
