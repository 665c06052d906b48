"""The time that a fake server goes by."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that only ever grow."""

    def now(self) -> float:
        """Seconds since some moment."""

    def pausing(self, change: int) -> None:
        """A pause begins (1), or is over (-1)."""


class RealClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def pausing(self, change: int) -> None:
        pass


class FakeClock:
    """Stands still until the test moves it.

    ::

        clock = FakeClock()
        server = FakeServer(stream_of("Hel", 30, "lo"), clock=clock)
        ...                     # the client has "Hel"
        clock.wait_for_pause()  # the server has come to its pause
        clock.advance(30)       # and goes on
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._pauses = 0
        self._changed = threading.Condition()

    def now(self) -> float:
        """Seconds that the test has let pass."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let that many seconds pass."""
        with self._changed:
            self._now += seconds

    def pausing(self, change: int) -> None:
        """A pause begins (1), or is over (-1); the server tells."""
        with self._changed:
            self._pauses += change
            self._changed.notify_all()

    def wait_for_pause(self, count: int = 1, timeout: float = 10.0) -> None:
        """Until that many replies are in a pause.

        Raises:
            TimeoutError: they are not, after ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._pauses >= count, timeout):
                raise TimeoutError(f"{self._pauses} replies are in a pause, not {count}")
