"""Published concepts and activations: Python pickles of tensors, read without running code of the file.

A pickle is a program. This reader lets it build tensors and dictionaries, and nothing else. While the pickle runs,
tensors are only described; they are made afterwards, when their descriptions have been checked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physteer.concepts.concept import Concept
from physteer.errors import PhysteerError, did_you_mean
from physteer.files import file_digest
from physteer.untrusted.pickles import Described, RefusedPickleError, StoredTensor, check_opcodes
from physteer.untrusted.torch_files import TORCH_MAGIC, ZIP, check_torch_file, in_short, load_storage, read_torch

PUBLISHED_SITE = "blocks.39"
"""Site of the published concepts; a pickle of a bare tensor does not name it."""
FORMULA = "as published (Fear et al., arXiv 2511.20798)"


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
    return _concept(_read(Path(path)), path, site)


def read_published(path: str | os.PathLike[str], site: str | None = None) -> Concept | dict[str, Tensor]:
    """Read a concept or captured activations, whichever a pickle holds.

    Args:
        path: the pickle.
        site: as `read_published_concept` takes it; of activations, the only entry to return.

    Returns:
        A concept; or activations [B, T, h, w, δ, d] by module path, where the dictionary's entries have more than one
        sample or frame.

    Raises:
        PhysteerError: There is no such file, it holds more than tensors, is damaged, or holds neither.
    """
    tree = _read(Path(path))
    entries = tree if isinstance(tree, dict) else {}
    chosen = {site: entries[site]} if site in entries else entries
    if (site is None or site in entries) and any(h.ndim == 6 and h.shape[:2] != (1, 1) for h in chosen.values()):
        return _activations(chosen, path)
    return _concept(tree, path, site)


def _concept(tree: Tensor | dict[str, Tensor], path: str | os.PathLike[str], site: str | None) -> Concept:
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
    return _activations(_read(Path(path)), path)


def _activations(tree: Tensor | dict[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
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
        tree = _tree(path)
        if isinstance(tree, dict):
            unnamed = [name for name in tree if not isinstance(name, str)]
            if unnamed:
                raise RefusedPickleError(f"it has a dictionary with the key {unnamed[0]!r}, which is no module path")
            return {name: _made(tensor, f"it has under {name!r}") for name, tensor in tree.items()}
        return _made(tree, "it is")
    except RefusedPickleError as error:
        raise PhysteerError(f"{path} holds more than tensors and was not opened: {error}") from None
    except Exception as error:  # a damaged pickle may raise anything, says pickle's documentation
        raise PhysteerError(f"{path} is not a whole pickle of tensors: {in_short(error)}") from None


def _tree(path: Path) -> Any:
    """Return what a file holds, with tensors or descriptions of them."""
    with path.open("rb") as file:
        size = path.stat().st_size
        is_archive = file.read(len(ZIP)) == ZIP
        file.seek(0)
        if not is_archive:
            check_opcodes(file, size)
            file.seek(0)
            tree = Described(file, _storage).tree()
            if not isinstance(tree, int) or tree != TORCH_MAGIC:
                return tree
        check_torch_file(file)
    return read_torch(path)


class _Numbers:
    """A storage with its values; a pickle has no way to change it."""

    __slots__ = ("numbers", "values")

    def __init__(self, values: Tensor) -> None:
        self.values = values  # [n], of the storage's type
        self.numbers = len(values)

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickleError("it changes a storage")


def _storage(content: Any) -> _Numbers:
    """Read a storage, itself a file of `torch.save` inside the pickle."""
    if not isinstance(content, bytes):
        raise RefusedPickleError("it has a storage that is not made of bytes")
    storage = load_storage(content)
    return _Numbers(torch.empty(0, dtype=storage.dtype).set_(storage))


def _made(stored: Any, found: str) -> Tensor:
    """Make a tensor of its description."""
    if isinstance(stored, StoredTensor):
        tensor = torch.as_strided(stored.storage.values, stored.shape, stored.strides, stored.offset).clone()
    elif isinstance(stored, Tensor):
        tensor = stored.detach()
    else:
        raise RefusedPickleError(f"{found} a {type(stored).__name__}")
    if tensor.layout is not torch.strided or not tensor.is_floating_point():
        raise RefusedPickleError(f"{found} a tensor of {tensor.dtype} ({tensor.layout}), not floating-point numbers")
    return tensor
