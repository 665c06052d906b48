"""How long a call may take."""

from __future__ import annotations

import decimal
import math
import numbers
import time
from typing import Any

import attrs

from .cancel import CancelToken
from .errors import APITimeoutError, Cancelled, ConfigurationError


def _plain(value: Any) -> Any:
    """A number of another library as Python's own; anything else as it is."""
    is_foreign = isinstance(value, (numbers.Real, decimal.Decimal)) and not isinstance(value, (int, float))
    return float(value) if is_foreign else value


def _seconds(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf
    ):
        raise ConfigurationError(f"timeout: {attribute.name} must be a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeout:
    """How long to wait, in seconds; None is for ever.

    Args:
        connect: for the connection, TLS included.
        first_token: from the request to the first piece of the answer; without a stream, to the reply's headers, which
            most servers send when the whole answer is there.
        idle: between two pieces of the answer; keep-alive comments are no pieces.
        total: for the whole call, retries included. A plain number given as a timeout is this.
    """

    connect: float | None = attrs.field(default=10.0, converter=_plain, validator=_seconds)
    first_token: float | None = attrs.field(default=600.0, converter=_plain, validator=_seconds)
    idle: float | None = attrs.field(default=120.0, converter=_plain, validator=_seconds)
    total: float | None = attrs.field(default=None, converter=_plain, validator=_seconds)

    @classmethod
    def of(cls, value: Timeout | float | None) -> Timeout:
        """``value`` as a Timeout; None means no limit at all."""
        if isinstance(value, Timeout):
            return value
        if value is None:
            return cls(connect=None, first_token=None, idle=None)
        _check_kind(value)
        return cls(total=value)


def _check_kind(value: Any) -> None:
    """Refuse a pair as requests takes it, or a dict, and say how it is written as a ``Timeout``."""
    if isinstance(value, (tuple, list, dict)):
        raise ConfigurationError(f"a timeout is a number of seconds or a Timeout: write {_meant(value)}")


def _meant(value: Any) -> str:
    limits = value if isinstance(value, dict) else {}
    if not limits and len(value) == 2:
        limits = {"connect": value[0], "first_token": value[1], "idle": value[1]}
    return f"Timeout({', '.join(f'{name}={seconds!r}' for name, seconds in limits.items()) or 'total=60'})"


class Deadline:
    """When a call has to be over, and what may end it before."""

    def __init__(self, timeout: Timeout, cancel: CancelToken | None = None) -> None:
        self.timeout = timeout
        self.cancel = cancel
        self.started: float = time.monotonic()
        self.ends: float | None = None if timeout.total is None else self.started + timeout.total

    @property
    def cancelled(self) -> bool:
        """Whether the caller has ended the call."""
        return self.cancel is not None and self.cancel.cancelled

    @property
    def left(self) -> float | None:
        """Seconds until the call's total is used up, 0 at the least; None where there is no total."""
        return None if self.ends is None else max(self.ends - time.monotonic(), 0.0)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.monotonic() - self.started) * 1000

    def within(self, seconds: float | None) -> float | None:
        """``seconds``, or what is left of the total where that is less."""
        left = self.left
        return seconds if left is None else left if seconds is None else min(seconds, left)

    def sleep(self, seconds: float) -> None:
        """Wait to try again; ends early with ``Cancelled``, or at once with a timeout that would come before."""
        left = self.left
        if left is not None and left < seconds:
            raise APITimeoutError(
                f"no time is left to try again: {seconds:.1f} s are to be waited, {self.timeout.total:g} s were given",
                phase="total",
            )
        if self.cancel is None:
            time.sleep(seconds)
        elif self.cancel.wait(seconds):
            raise Cancelled
