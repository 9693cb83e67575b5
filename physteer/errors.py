"""The error a user sees as one line."""

import difflib
from collections.abc import Iterable


class PhysteerError(Exception):
    """A mistake in what the user gave, told in one line: the thing, what was found, what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'blocks.3'?"`` for the closest known names, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
