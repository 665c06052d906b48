"""What wakes one who waits."""

from __future__ import annotations

import contextlib
import threading


class Bell:
    """Rung by any thread, at any place: in the garbage collector or by what handles a signal.

    Unlike a ``SimpleQueue``, whose ``get`` waits for ever where a signal is handled for longer than it would wait; and
    rung twice it is heard once.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Wake who waits, or who will."""
        if self._silence.locked():
            with contextlib.suppress(RuntimeError):  # another one rang in this instant
                self._silence.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it rang, within so many seconds; None waits for ever."""
        return self._silence.acquire(timeout=-1 if seconds is None else max(seconds, 0.0))
