"""``--model FILE`` and ``--data FILE``: parts of a configuration that stand in files of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from physteer.errors import PhysteerError
from physteer.files import home_expanded
from physteer.untrusted.yaml_text import read_yaml

_BASES: dict[str, type] = {"--model": L.LightningModule, "--data": L.LightningDataModule}


def with_whole_parts(arguments: Sequence[str]) -> list[str]:
    """Return a command line on which a file that names a class stands for all settings of that class.

    jsonargparse would merge the file with what a configuration before it has set, also for another class: a network of
    the file would get the width of the one that it replaces. Files without ``class_path`` are merged.

    Args:
        arguments: the command line after ``physteer``.
    """
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, _, value = argument.partition("=")
        if option not in _BASES:
            expanded.append(argument)
            continue
        words = [argument] if value else [argument, *islice(rest, 1)]
        whole = _all_settings(option, value or words[-1])
        expanded += words if whole is None else [option, whole]
    return expanded


def _all_settings(option: str, text: str) -> str | None:
    """Return the class of a file with all its settings as JSON; None for another word than such a file."""
    path = Path(home_expanded(text))
    try:
        settings = read_yaml(path) if path.suffix in (".yaml", ".yml", ".json") and path.is_file() else None
    except PhysteerError:
        return None  # the parser tells what is wrong
    if not isinstance(settings, dict) or "class_path" not in settings:
        return None
    name = option.removeprefix("--")
    parser = LightningArgumentParser(exit_on_error=False)
    try:
        parser.add_subclass_arguments(_BASES[option], name)
        parsed = parser.parse_args([option, text])
        whole: str = json.dumps(json.loads(parser.dump(parsed, format="json", skip_none=False))[name])
    except Exception:  # the parser of the command meets the same fault, and tells it
        return None
    return whole
