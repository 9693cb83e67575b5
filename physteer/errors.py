"""The error a user sees as one line."""

import difflib
from collections.abc import Iterable


class PhysteerError(Exception):
    """A mistake in what the user gave, told in one line: the thing, what was found, what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """

    status = 2
    """What the command line exits with."""


class ProcessEnded(PhysteerError):
    """Another process of a run has ended before the run has; exits with what a shell would tell of that process."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Terminated(KeyboardInterrupt):
    """SIGTERM (``timeout``, ``docker stop``, ``scancel``): what Ctrl+C does, but the exit status is 143."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'blocks.3'?"`` for the closest known names, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
