"""Whether to try again, and when: policy as a value, and the servers' own hints (``Retry-After``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ..errors import APIError, ConfigurationError

MAX_WAIT = 120.0
"""Seconds; a server that asks for a longer wait is not asked again automatically."""

MAX_HINT = 100
"""Characters of a wait or a date, which are looked through again from each digit."""

_DURATION = r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|us|µs|ns|h|m|s|d)"
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


Reason = Literal["", "retry", "replay", "adapted", "root", "fallback"]
"""Why a request was sent again, "" for the first time: after an error that may pass; over a new connection, as the kept
one turned out to be closed; in another form, as the server had refused that one; at the root, as ``/v1`` was not found;
to another endpoint."""


@attrs.frozen(kw_only=True)
class Attempt:
    """One time that the request of a call was sent.

    Args:
        number: of the try, from 1. A replay, and what a refusal has taught, is of the same try.
        reason: why it was sent (again): see ``Reason``.
        started: seconds since the call began.
        seconds: that it took.
        error: why it failed; None where it did not.
        status: HTTP status of the reply; None where there was none.
        waited: seconds that were waited before it.
        origin: the base URL of the server that it was sent to.
        path: what was asked there, such as ``/chat/completions``.
    """

    number: int
    reason: Reason = ""
    started: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    status: int | None = None
    waited: float = 0.0
    origin: str = ""
    path: str = ""

    @property
    def replay(self) -> bool:
        """A repetition within a try, over a new connection: the kept one turned out to be closed."""
        return self.reason == "replay"


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and after how long, a failed call is made again.

    Args:
        max_retries: tries after the first.
        first_wait: seconds before the second try; doubles from try to try, less up to half of it at random. A server's
            own hint wins.
        longest_wait: seconds that it doubles to.
        idempotency_key: whether all tries of a call carry one ``Idempotency-Key``, so that a server or gateway that
            knows the header does the work once.
    """

    max_retries: int = attrs.field(default=2)
    first_wait: float = attrs.field(default=0.5)
    longest_wait: float = attrs.field(default=8.0)
    idempotency_key: bool = True

    @max_retries.validator
    def _check(self, _: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigurationError(f"max_retries must be a whole number from 0, not {value!r}")

    @first_wait.validator
    @longest_wait.validator
    def _check_wait(self, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WAIT:
            raise ConfigurationError(f"{attribute.name} must be from 0 to {MAX_WAIT:g} seconds, not {value!r}")

    def delay(self, attempt: int, error: APIError, jitter: float) -> float | None:
        """Seconds to wait after try number ``attempt`` (from 0) failed with ``error``; None to give up.

        ``jitter`` is a random number from 0 to 1.
        """
        if attempt >= self.max_retries or not error.retryable:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= MAX_WAIT else None
        doubled = self.first_wait * 2.0 ** min(attempt, 60)
        return float(min(self.longest_wait, doubled) * (1.0 - jitter / 2.0))


def parse_duration(text: str) -> float | None:
    """Seconds in ``"6"``, ``"5.289s"``, ``"6m0s"`` or ``"17ms"``; None for all else, zero and negative too."""
    text = text.strip()
    if len(text) > MAX_HINT:
        return None
    try:
        seconds = float(text)
    except ValueError:
        parts = list(re.finditer(_DURATION, text))
        if not parts or "".join(part[0] for part in parts) != text:
            return None
        seconds = sum(float(part["number"]) * _SECONDS[part["unit"]] for part in parts)
    return seconds if 0 < seconds < 1e9 else None


def _http_date(text: str, now: float) -> float | None:
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    if len(text) > MAX_HINT:
        return None
    try:
        moment = parsedate_to_datetime(text)
        # A date of HTTP is in UTC, said or not.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 1e9 else None


def retry_after(headers: Mapping[str, str], payload: Any, now: float) -> float | None:
    """The wait that a server asks for, in seconds, or None.

    Read in this order: ``retry-after-ms``, ``x-ms-retry-after-ms``, ``Retry-After`` (seconds or an HTTP date, RFC 9110
    10.2.3), Google's ``RetryInfo`` in the body, and the ``x-ratelimit-reset-*`` of what has none remaining.

    Args:
        headers: with lower-case names.
        payload: the decoded body, or None.
        now: POSIX time in seconds.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = parse_duration(headers.get(name, ""))
        if milliseconds is not None:
            return milliseconds / 1000
    hint = headers.get("retry-after", "")
    seconds = parse_duration(hint) or _http_date(hint, now) or _retry_info(payload)
    if seconds is not None:
        return seconds
    limits = rate_limits(headers)
    waits = [
        limits[f"reset_{what}"]
        for what in ("requests", "tokens")
        if limits.get(f"remaining_{what}") == 0 and f"reset_{what}" in limits
    ]
    return max(waits, default=None)


def _retry_info(payload: Any) -> float | None:
    """``error.details[].retryDelay`` of google.rpc.RetryInfo."""
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    error = payload.get("error") if isinstance(payload, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return parse_duration(detail["retryDelay"])
    return None


def rate_limits(headers: Mapping[str, str]) -> dict[str, float]:
    """The ``x-ratelimit-*`` headers as numbers, by what follows that prefix; resets are seconds.

    Values that mean nothing (negative, or a reset of zero) are left out.
    """
    limits: dict[str, float] = {}
    for name, value in headers.items():
        if not name.startswith("x-ratelimit-"):
            continue
        key = name[len("x-ratelimit-") :].replace("-", "_")
        seconds = parse_duration(value)
        if seconds is not None:
            limits[key] = seconds
        elif value.strip() == "0" and not key.startswith("reset"):
            limits[key] = 0.0
    return limits
