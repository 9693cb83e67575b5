"""YAML: the one loader for configurations, `extended_config.yaml` and others, which refuses what grows without end.

A few hundred bytes of YAML can stand for billions of nodes: an alias repeats what its anchor holds. So nodes are
counted before anything is built of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from physteer.errors import PhysteerError

MOST_BYTES = 10 * 2**20
"""Largest file that is read."""
MOST_NODES = 200_000
"""Most values and keys of a document, where every alias counts as all that its anchor holds."""
DEEPEST = 64
"""Deepest nesting of lists and mappings."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnboundedYAMLError(yaml.YAMLError):
    """The text is valid YAML, but stands for more than a configuration can hold."""


def check_bounds(text: str) -> None:
    """Check the size of what a text stands for, without building it.

    Raises:
        UnboundedYAMLError: There are more nodes than `MOST_NODES`, nested deeper than `DEEPEST`.
        yaml.YAMLError: It is not YAML.
    """
    sizes: dict[str, int] = {}  # of what each anchor holds
    total, anchors, sizes_before = 0, [], []  # of the lists and mappings that are open
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:  # undefined, or what it stands for holds it
                raise UnboundedYAMLError(f"the alias *{event.anchor} stands for itself or for nothing")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            sizes_before.append(total)
            total += 1
            if event.anchor:
                sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = anchors.pop(), sizes_before.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MOST_NODES:
            raise UnboundedYAMLError(f"it stands for more than {MOST_NODES} values: are its aliases (*name) meant?")
        if len(anchors) > DEEPEST:
            raise UnboundedYAMLError(f"lists and mappings are nested deeper than {DEEPEST}")


def load_yaml(text: str) -> Any:
    """Return what a text holds: plain data.

    Raises:
        yaml.YAMLError: It is not YAML, or stands for too much (`check_bounds`).
    """
    check_bounds(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:  # 2001-99-99, numbers of 5000 digits
        raise yaml.YAMLError(" ".join(str(error).split())) from error


def check_texts(node: Any) -> None:
    """Check every text in plain data that may be YAML itself: the command line's parser reads values once more.

    Raises:
        UnboundedYAMLError: One stands for too much (`check_bounds`).
    """
    if isinstance(node, dict):
        for name, value in node.items():
            check_texts(name)
            check_texts(value)
    elif isinstance(node, list):
        for value in node:
            check_texts(value)
    elif isinstance(node, str) and len(node) > 2 * DEEPEST:  # no shorter text can stand for much
        try:
            inner = load_yaml(node)
        except UnboundedYAMLError:
            raise
        except yaml.YAMLError:
            return
        if inner != node:
            check_texts(inner)


def read_yaml(path: Path) -> Any:
    """Return what a file holds: plain data.

    Raises:
        PhysteerError: It cannot be read, is no text or no YAML, or stands for too much; one line says where.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PhysteerError(f"{path} is larger than {MOST_BYTES // 2**20} MiB, so no configuration")
        tree = load_yaml(path.read_text(encoding="utf-8"))
        check_texts(tree)
        return tree
    except UnicodeDecodeError:
        raise PhysteerError(f"{path} is not a text file, so no configuration") from None
    except OSError as error:
        raise PhysteerError(f"cannot read {path}: {error.strerror or error}") from None
    except UnboundedYAMLError as error:
        raise PhysteerError(f"{path} was not read: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or error.context
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise PhysteerError(f"{path}{position} is not YAML: {' '.join(str(problem).split())}") from None
    except yaml.YAMLError as error:
        raise PhysteerError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
