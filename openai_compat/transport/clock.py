"""What time it is for one exchange: which limit runs, since when, and how long the next wait may be."""

from __future__ import annotations

import time

from ..errors import APITimeoutError, Cancelled, Phase
from ..timeouts import Deadline

_SLACK = 0.05
"""Seconds: a wait may end this much before its limit, and is taken for having reached it."""
END_OF_BODY_TIME = 2.0
"""Seconds that the end of a body is waited for, when the answer is complete."""
_WORDS: dict[Phase, str] = {
    "connect": "no connection to {where} within {seconds:g} s",
    "first_token": "no answer from {where} within {seconds:g} s",
    "idle": "nothing more from {where} for {seconds:g} s",
    "total": "the call to {where} took more than {seconds:g} s in all",
}


class Clock:
    """The time limits of one exchange.

    A phase runs from ``enter``, anew from each ``progress``: when a consumer has handled a piece of the answer. What it
    takes to handle a tick (``exclude``) is not counted. The total of the call runs always.
    """

    def __init__(self, deadline: Deadline, *, where: str = "", provider: str = "") -> None:
        self.deadline = deadline
        self._where = where
        self._provider = provider
        self._tick_every: float | None = None
        self._next_tick = 0.0
        self.started: float = time.monotonic()
        self.enter("connect", deadline.timeout.connect)

    def enter(self, phase: Phase, seconds: float | None) -> None:
        """Begin a phase that may last ``seconds``."""
        self.phase = phase
        self._seconds = seconds
        self._since = time.monotonic()

    def progress(self) -> None:
        """Something has come, or was sent, or a consumer has handled it: the phase begins anew."""
        self._since = time.monotonic()
        if self._tick_every is not None:
            self._next_tick = self._since + self._tick_every

    def quiet(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._since

    def on_payload(self, *, token: bool, over: bool = False) -> None:
        """A payload of a stream has come, perhaps with a piece of the answer: the first ends the wait for it.

        Once all has been said (``over``), the end of the body is not waited for as long as a piece.
        """
        if over:
            idle = self.deadline.timeout.idle
            self.enter("idle", END_OF_BODY_TIME if idle is None else min(idle, END_OF_BODY_TIME))
            return
        if token and self.phase == "first_token":
            self.enter("idle", self.deadline.timeout.idle)

    def exclude(self, since: float) -> None:
        """A consumer held an event since ``since``, a monotonic time; that is not the server's fault."""
        now = time.monotonic()
        self._since = min(now, self._since + now - since)

    def left(self, now: float) -> float | None:
        """Seconds that the phase and the call may still take, below 0 when they are over; None without a limit."""
        left = None if self._seconds is None else self._since + self._seconds - now
        ends = self.deadline.ends
        return left if ends is None or (left is not None and left <= ends - now) else ends - now

    def wait(self) -> float | None:
        """Seconds that the next wait may take: until a limit, or until the next tick.

        Raises:
            APITimeoutError: nothing is left.
        """
        now = time.monotonic()
        left = self.left(now)
        if left is not None and left <= 0:
            raise self.error()
        if self._tick_every is None:
            return left
        tick = max(self._next_tick - now, 0.001)
        return tick if left is None else min(left, tick)

    def check(self) -> None:
        """Raise what ends the call, if anything does: ``APITimeoutError`` or ``Cancelled``."""
        if self.deadline.cancelled:
            raise Cancelled
        left = self.left(time.monotonic())
        if left is not None and left <= 0:
            raise self.error()

    def expired(self, phase: Phase | None = None) -> bool:
        """Whether a limit has been reached: that of the current phase or the total, or one phase's since the start."""
        if phase is None:
            left = self.left(time.monotonic())
            return left is not None and left <= _SLACK
        limit = getattr(self.deadline.timeout, phase)
        return limit is not None and time.monotonic() - self.started >= limit - _SLACK

    def tick_every(self, seconds: float) -> None:
        """From now on a wait ends when ``seconds`` have passed since the last piece of the answer, or the last tick."""
        self._tick_every = seconds
        self._next_tick = time.monotonic() + seconds

    def timed_out(self) -> bool:
        """Whether a wait that timed out was ours; then it may be tried again, for it was only until the next tick.

        Raises:
            APITimeoutError: a limit was reached.
        """
        if self.expired():
            raise self.error()
        now = time.monotonic()
        if self._tick_every is None or now < self._next_tick - _SLACK:
            return False
        self._next_tick = now + self._tick_every
        return True

    def error(self) -> APITimeoutError:
        """The error for the limit that was reached."""
        left = self.deadline.left
        return self.error_for("total" if left is not None and left <= _SLACK else self.phase)

    def error_for(self, phase: Phase) -> APITimeoutError:
        """The error for one limit."""
        seconds = getattr(self.deadline.timeout, phase) or 0.0
        return APITimeoutError(
            _WORDS[phase].format(where=self._where, seconds=seconds) + f" (timeout: {phase})",
            phase=phase,
            provider=self._provider,
            # A server that is slow to answer may still be at work: to ask again would double its load.
            retryable=phase == "connect",
        )
