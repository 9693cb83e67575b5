"""The command line: ``physteer fit|validate|test|predict --config …`` and commands that need no trainer."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from physteer import __version__
from physteer.errors import PhysteerError, Terminated

TRAINER = {
    "fit": "train Walrus, or an intervention or probe on a frozen Walrus",
    "validate": "score the model on the validation split: one step and rollouts, beside baselines",
    "test": "the same on the test split",
    "predict": "roll out, with whatever the callbacks capture, steer and write",
}
COMMANDS = {
    "demo": "simulate, capture, steer and report with the model that ships with physteer, in minutes",
    "data": "simulate data sets in The Well's format",
    "sites": "list where a model can be captured and edited, with shapes and memory",
    "convert": "turn published checkpoints and concepts into safetensors",
    "report": "make tables, figures and report.html from a run folder",
    "compare": "put the tables and figures of several runs side by side",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the words after ``physteer``; those of the process when None. ``sys.argv`` is left as it is, because DDP
            starts its other processes from it.

    Returns:
        The exit status: 0, or 2 after a mistake in what the user gave, which is told in one line; 130 after Ctrl+C and
        143 after SIGTERM.
    """
    words = list(sys.argv[1:] if args is None else args)
    command = words[0] if words else "--help"
    try:
        if command in ("-h", "--help", "help"):
            print(_usage())
        elif command == "--version":
            print(f"physteer {__version__}")
        elif command in COMMANDS:
            with _terminable():
                return int(importlib.import_module(f"physteer.commands.{command}").main(words[1:]))
        elif command in TRAINER:
            from physteer.commands.trainer_cli import run  # imports torch and Lightning

            run(words)
        else:
            known = ", ".join([*TRAINER, *COMMANDS])
            raise PhysteerError(f"unknown command {command!r}; there are {known}")
    except PhysteerError as error:
        return _tell(error)
    except ImportError as error:
        from physteer.commands.guards.missing_packages import missing_package

        missing = missing_package(error, f"physteer {command}")
        if missing is None:
            raise
        return _tell(missing)
    except BrokenPipeError:  # `physteer sites … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Terminated:
        print("physteer: stopped by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("physteer: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl+C does, with clean-up; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(*args: Any) -> None:
        if os.getpid() != process:  # a child, which a library ends in this way
            os._exit(128 + signal.SIGTERM)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tell(error: PhysteerError) -> int:
    """Print a user error and return the exit status."""
    print(f"physteer: error: {error}\n", end="", file=sys.stderr)  # at once: another process may write too
    return error.status


def _usage() -> str:
    lines = ["usage: physteer COMMAND [...]", "", "with a trainer (add --config FILE; --help lists every setting):"]
    lines += [f"  {name:<10}{what}" for name, what in TRAINER.items()]
    lines += ["", "others (add --help):"]
    lines += [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(lines)
