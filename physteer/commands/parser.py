"""The argument parser of the commands without a trainer, and its types of numbers."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any, NoReturn

from physteer.errors import PhysteerError
from physteer.files import home_expanded


class Parser(argparse.ArgumentParser):
    """An argument parser that reports user errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message that argparse would print with its usage."""
        raise PhysteerError(f"{message} ({self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, with ``~`` for the user's home also in ``--setting=~/…``, which the shell leaves alone."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([home_expanded(word) for word in words], namespace)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def whole_or_zero(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)
