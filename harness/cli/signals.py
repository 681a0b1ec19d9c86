"""Ctrl-C and SIGTERM: what they interrupt, and when."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

from harness.cli.display import err
from harness.errors import INTERRUPTED

PATIENCE = 10
"""Seconds that a tidy end may take; a signal that comes later ends the process at once."""


class Interrupts:
    """Turns Ctrl-C and SIGTERM, while its block lasts, into one KeyboardInterrupt, so that what follows can tidy up.

    Args:
        message: printed at the first signal.
        deferred: the first signal is only noted, for `raised` and `check`.
        insist: a second signal raises KeyboardInterrupt.
    """

    def __init__(self, message: str, *, deferred: bool = False, insist: bool = False) -> None:
        self.message, self.deferred, self.insist = message, deferred, insist
        self.raised_at: float | None = None

    def __enter__(self) -> Self:
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if threading.current_thread() is threading.main_thread():  # where alone Python hears signals
            for number in self.before:
                signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised_at is None:
            self.raised_at = time.monotonic()
            err.print(self.message)
            if not self.deferred:
                raise KeyboardInterrupt
        elif self.insist:
            raise KeyboardInterrupt
        elif time.monotonic() - self.raised_at > PATIENCE:
            os._exit(INTERRUPTED)

    def ignore_signals(self) -> None:
        """From now on nothing is raised: what is left is to tidy up."""
        if self.raised_at is None:
            self.raised_at = time.monotonic()

    def raised(self) -> bool:
        return self.raised_at is not None

    def check(self, seconds: float = 0.0) -> None:
        """Raise what was noted, or lost in a destructor or in an import with a bare except, so long ago or longer."""
        if self.raised_at is not None and time.monotonic() >= self.raised_at + seconds:
            raise KeyboardInterrupt
