"""A configuration from somebody else: it may name code of listed packages alone, where that is wished."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from physteer.errors import PhysteerError

VARIABLE = "PHYSTEER_ONLY_PACKAGES"
"""Environment variable: packages whose code configurations may name, besides `ALWAYS`, separated by commas. It may be
empty; unset, every package is admitted."""
ALWAYS = ("physteer", "lightning", "torch", "torchmetrics")
_PATH = re.compile(r"([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)+")


def check_packages(settings: Any) -> None:
    """Check the texts of a configuration before anything that they name is imported.

    A text with dots whose first part can be imported here counts as the name of code, wherever it stands: class paths,
    loggers, strategies, functions.

    Args:
        settings: plain data: a tree of dictionaries, lists and texts.

    Raises:
        PhysteerError: A text names code of a package that is not listed.
    """
    listed = os.environ.get(VARIABLE)
    if listed is not None:
        _check(settings, {*ALWAYS, *(name.strip() for name in listed.split(","))})


def check_words(words: Sequence[str]) -> None:
    """Check the words of a command line, values after ``=`` among them, as `check_packages`."""
    check_packages([word.partition("=")[2] if word.startswith("-") else word for word in words])


def _check(node: Any, admitted: set[str]) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            _check(name, admitted)
            _check(value, admitted)
    elif isinstance(node, list | tuple):
        for value in node:
            _check(value, admitted)
    elif isinstance(node, str) and (match := _PATH.fullmatch(node.strip())) and match[1] not in admitted:
        if importlib.util.find_spec(match[1]) is None:  # finds a module without running it
            return
        raise PhysteerError(
            f"the configuration names {node.strip()}, code of a package that is not listed; {VARIABLE} lists "
            f"{', '.join(sorted(filter(None, admitted)))}: add {match[1]} if you trust it"
        )
