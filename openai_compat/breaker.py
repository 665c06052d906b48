"""Is an endpoint worth asking? What its errors say of it, and the circuit breaker that counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    ResponseParseError,
    ResponseTypeError,
    StreamServerError,
)
from .wire.error_body import is_out_of_quota
from .wire.retry import MAX_WAIT

MAX_REST = 600.0
"""Seconds; an endpoint that asks to be left alone for longer is tried again after these."""

Fault = Literal["caller", "unable", "busy", "failed", "exhausted"]
"""Whose fault an error is. The caller's: wherever the request is sent, or until somebody mends the settings. Else the
endpoint's, which cannot do this, is busy until a moment that it names, failed, or has no quota left for long."""
State = Literal["closed", "open", "half-open"]


def fault_of(error: APIError) -> Fault:
    """What an error says of the endpoint that it came from."""
    if isinstance(error, (APIConnectionError, ResponseParseError)):
        return "failed"
    if isinstance(error, (APIStatusError, StreamServerError)):
        return _fault_of_status(error)
    return "failed" if error.retryable and not isinstance(error, ResponseTypeError) else "caller"


def _fault_of_status(error: APIStatusError | StreamServerError) -> Fault:
    status = error.status_code or 0
    if is_out_of_quota(error):
        return "exhausted"
    if status in (400, 401, 403, 404, 422):
        return "caller"
    wait = error.retry_after
    if wait is not None and wait > MAX_WAIT:
        return "exhausted"
    if status == 429:
        return "failed" if wait is None else "busy"
    if error.retryable:
        return "failed"
    return "unable" if status >= 500 else "caller"


class Breaker:
    """A circuit breaker: closed while all is well, open after failures, half-open when one call may see how it is now.

    Whoever shares it holds a lock around each use. ``opened`` is how often it has opened, ``probed`` whether a probe is
    under way.

    Args:
        failures: calls in a row that fail before it opens.
        cool_down: seconds that it stays open.
        clock: seconds, as of ``time.monotonic``.
    """

    def __init__(self, *, failures: int, cool_down: float, clock: Callable[[], float]) -> None:
        self._limit, self._cool_down, self._clock = failures, cool_down, clock
        self.failures: int = 0
        self.opened: int = 0
        self.probed: bool = False
        self._ends: float | None = None
        self._rests_until = 0.0

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half-open``."""
        if self._ends is None:
            return "closed"
        return "half-open" if self._clock() >= self._ends else "open"

    @property
    def ready(self) -> bool:
        """Whether a call may begin."""
        return self.state == "closed" or (self.state == "half-open" and not self.probed)

    @property
    def resting(self) -> bool:
        """Whether the endpoint has asked not to be called just now."""
        return self._clock() < self._rests_until

    @property
    def left(self) -> float:
        """Seconds until it may be asked."""
        return max((self._ends or 0.0) - self._clock(), 0.0)

    def begin(self) -> bool:
        """A call begins; whether it is a probe, since the breaker is not closed."""
        if self._ends is None:
            return False
        self.probed = True
        return True

    def end(self, *, probe: bool) -> None:
        """A call is over; without ``succeeded`` or ``failed`` before, nothing is known of it."""
        if probe:
            self.probed = False

    def succeeded(self, *, probe: bool) -> None:
        """The endpoint works. Of a call that began before the breaker opened, that says nothing about now."""
        if probe or self._ends is None:
            self.failures, self._ends, self._rests_until = 0, None, 0.0

    def failed(self, fault: Fault, wait: float | None, *, probe: bool) -> bool:
        """The endpoint does not work; whether the breaker has opened.

        Args:
            fault: which.
            wait: seconds that the endpoint asks for.
        """
        now = self._clock()
        wait = min(wait or 0.0, MAX_REST)
        self._rests_until = max(self._rests_until, now + wait)
        if self._ends is not None and not probe:
            return False
        self.failures += fault != "busy"
        if not probe and fault != "exhausted" and self.failures < self._limit:
            return False
        self._ends = now + max(self._cool_down, wait)
        self.opened += 1
        return True
