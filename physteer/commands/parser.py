"""The argument parser of the commands that need no trainer."""

from __future__ import annotations

import argparse
from typing import NoReturn

from physteer.errors import PhysteerError


class Parser(argparse.ArgumentParser):
    """Tells mistakes in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage."""
        raise PhysteerError(f"{message} ({self.prog} --help)")
