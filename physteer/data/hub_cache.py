"""Data sets of the Hugging Face hub on a machine without network: the copy in the hub's cache."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from physteer.untrusted.hub import Repository


def cached_where_unreachable(path: str, storage_options: Mapping[str, Any]) -> str:
    """Return the folder of an ``hf://datasets/…`` address in the hub's cache, where the hub cannot be reached.

    Args:
        path: of a split, any address; all but those of data sets on the hub are returned as they are.
        storage_options: for fsspec; with any, such as another endpoint, the file system decides itself.

    Raises:
        PhysteerError: The hub cannot be reached and has left no copy, or it refuses the data set.
    """
    parsed = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/?(.*)", path)
    if parsed is None or storage_options:
        return path
    repository, inside = Repository(parsed[1], "dataset", parsed[2]), parsed[3].rstrip("/")
    if repository.names() is not None:
        return path
    folder = repository.cached()
    if folder is None:
        raise repository.unreachable(path, *(["--include", f"{inside}/*"] if inside else []))
    files = [file for ending in ("*.h5", "*.hdf5") for file in (folder / inside).glob(ending)]
    if files:  # maybe not all that the data set has
        warnings.warn(f"the hub cannot be reached: {path} is {len(files)} files of its cache", stacklevel=4)
    return str(folder / inside)
