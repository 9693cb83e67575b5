"""A callback that is interrupted."""

import signal
from pathlib import Path

import lightning as L


class Interrupted(L.Callback):
    """Send a signal to this process the first time that one of Lightning's events comes, and say that it goes on.

    Args:
        signum: name of the signal.
        event: name of the method.
        folder: where a file says that it was sent.
    """

    def __init__(self, signum: str, event: str, folder: str) -> None:
        self.signum, self.sent = signal.Signals[signum], Path(folder, "sent")
        setattr(self, event, self._send)

    def _send(self, *args: object) -> None:
        if not self.sent.exists():
            self.sent.touch()
            signal.raise_signal(self.signum)
            print("goes on")
