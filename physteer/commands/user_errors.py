"""User errors: wrong settings and files, reported in one line each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.fabric.utilities.exceptions import MisconfigurationException

from physteer.commands.guards.listed_packages import check_packages, check_words
from physteer.commands.guards.missing_packages import missing_package
from physteer.errors import PhysteerError, did_you_mean
from physteer.files import home_expanded
from physteer.untrusted.torch_files import load_tensors
from physteer.untrusted.yaml_text import UnboundedYAMLError, check_bounds, check_texts, read_yaml

_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Subclass types expect|a class path \(str\)|a dict with"
    r"|Expected a <class '(NoneType|list)'>$"
)
_UNKNOWN = re.compile(r"(?:Subcommand '\w+' does not accept option|Option|unrecognized arguments:) '?-*([\w.]+)")


def check_yaml(arguments: Sequence[str]) -> None:
    """Check that the files after ``--config`` are YAML, and that only listed packages are named (`check_packages`).

    The parser's own message about a file would not name it.

    Raises:
        PhysteerError: A file is not, or a value on the command line stands for more than a setting can hold.
    """
    try:
        check_texts([argument.partition("=")[2] or argument for argument in arguments])
    except UnboundedYAMLError as error:
        raise PhysteerError(f"a value on the command line was not read: {error}") from None
    check_words(arguments)
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = argument.partition("=")
        path = Path(home_expanded(value or following))
        if option not in ("--config", "-c") or not path.is_file():
            continue
        settings = read_yaml(path)
        check_packages(settings)
        if not isinstance(settings, dict):
            raise PhysteerError(f"{path} holds no settings; a configuration has the keys model, data and trainer")


def bound_yaml() -> None:
    """Let the command line's parser read any YAML, such as a part's file or a value, within the bounds of our own."""
    load: Callable[[str], Any] = get_loader("yaml")
    if getattr(load, "bounded", False):
        return

    def load_bounded(text: str) -> Any:
        check_bounds(text)
        try:
            tree = load(text)
            check_texts(tree)
            check_packages(tree)
            return tree
        except (ValueError, OverflowError, TypeError) as error:  # such as numbers of 5000 digits
            raise yaml.YAMLError(" ".join(str(error).split())) from error

    load_bounded.bounded = True  # type: ignore[attr-defined]
    set_loader("yaml", load_bounded, (yaml.YAMLError,))


def in_one_line(message: str, settings: Collection[str], classes: Collection[str]) -> str:
    """Shorten jsonargparse's message about a wrong setting to the setting, the problem, and the allowed values.

    Args:
        message: the message, of one or many lines.
        settings: names of all settings.
        classes: names of classes that need no module path.
    """
    if (unknown := _UNKNOWN.match(message)) is not None:
        name = unknown[1]
        allowed = did_you_mean(name, settings)
        if not allowed:
            siblings = sorted(s for s in settings if s.count(".") == name.count(".") and _parent(s) == _parent(name))
            allowed = f"; there {'is' if len(siblings) == 1 else 'are'} {', '.join(siblings)}" if siblings else ""
        return f"there is no setting {name!r}{allowed}"
    lines = [" ".join(line.strip().removeprefix("- ").split()) for line in message.splitlines() if line.strip()]
    key = ""
    if lines and (key_and_reason := re.match(r'Parser key "([\w.]+)":\s*(.*)', lines[0])) is not None:
        key, lines[0] = f"{key_and_reason[1]}: ", key_and_reason[2]
    if (path := re.search(r"Expected a path but (\S+\.(?:ya?ml|json)) either", message)) and not Path(path[1]).exists():
        return f"{key}there is no file {path[1]}"
    reasons = [line for line in lines if line and not _NOISE.match(line) and "either not accessible" not in line]
    expected = [line.removeprefix("Expected a ") for line in reasons or lines if line.startswith("Expected a <class")]
    expected += [line.removeprefix("Expected a ") for line in reasons if line.startswith("Expected a typing.")]
    reason = (reasons or lines or ["the configuration cannot be read"])[0]
    if expected and reason.startswith("Expected a "):
        reason = f"expected {' or '.join(dict.fromkeys(expected))}"
    if (name := re.match(r"Expected a dot import path string: (\S+)", reason)) is not None:
        reason = f"there is no class {name[1]!r}{did_you_mean(name[1], classes)}"
    elif reason.endswith(":") and len(reasons) > 1:
        reason = f"{reason} {reasons[1]}"
    given_value = re.search(r"^\s*Given value: (.{1,60})$", message, re.MULTILINE)
    if given_value is not None and reason.startswith(("expected", "Not a valid")):
        reason = f"{reason}; found {given_value[1]}"
    reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason.replace(". Got value: ", "; found "))
    reason = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", reason)
    return key + reason[:1].lower() + reason[1:]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def check_checkpoint(path: str | None) -> None:
    """Check that ``--ckpt_path`` is a checkpoint of Lightning; no code in it is run.

    Raises:
        PhysteerError: There is no such file, it is damaged, holds code, or is something else.
    """
    if path is None or path in ("last", "hpc") or "://" in path:
        return
    if not os.path.isfile(path):
        raise PhysteerError(f"ckpt_path {path} does not exist; it is a file, or 'last' for the run folder's last one")
    checkpoint = load_tensors(Path(path), "checkpoint")
    if not isinstance(checkpoint, dict) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
        raise PhysteerError(
            f"{path} is not a checkpoint of `physteer fit`; weights to start from go to model.checkpoint"
        )


def user_error_behind(error: BaseException) -> PhysteerError | None:
    """Return the user error behind an exception of a library; None where there is no user error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PhysteerError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ImportError | ValueError | MisconfigurationException):
        missing = missing_package(error)
        if missing is not None:
            return missing
    if isinstance(error, ValueError | MisconfigurationException) and _raised_in(error, "lightning"):
        return PhysteerError(" ".join(str(error).split()))
    if isinstance(error, OSError) and error.filename is not None:
        return PhysteerError(f"{error.filename}: {error.strerror}")
    return None


def _raised_in(error: BaseException, package: str) -> bool:
    """Return whether an error was raised by a library itself, and not by code that it calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(f"{package}.")
