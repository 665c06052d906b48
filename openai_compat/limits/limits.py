"""Limits that all calls of some clients keep to: who may go, who waits, in their order."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from .._bell import Bell
from .._imports import importing
from .._log import logger
from ..errors import (
    APIStatusError,
    APITimeoutError,
    Cancelled,
    ConfigurationError,
    SharedLimitsError,
    StreamServerError,
)
from ..timeouts import Deadline
from .bucket import Bucket
from .estimate import input_tokens, output_tokens
from .pace import Pace
from .redis_buckets import RedisBuckets, is_redis, without_password

if TYPE_CHECKING:
    from typing import Self

    from ..wire.messages import Usage
    from ..wire.prices import Charge

log: logging.Logger = logger("limits")

USUAL_OUTPUT = 500.0
"""Tokens that an answer is taken to have before any has come."""
LONGEST_DEBT = 600.0
"""Seconds that one answer has others wait, however many tokens it is said to have; 1,000 are always believed."""
_NAMES = "requests", "input_tokens", "output_tokens"
REFUSALS = (429, 503, 529)
"""Statuses of a server that has too much to do."""


def _whole(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"limits: {attribute.name} must be a whole number from 1, not {value!r}")


@attrs.frozen(kw_only=True, eq=False)
class Limits:
    """How much may be asked, by all clients that are given this object, in all threads of the process.

    Whoever has to wait does so in order, within the call's ``Timeout(total)``, and until its ``CancelToken`` is
    cancelled. A server that says it has enough (HTTP 429 or 503, ``x-ratelimit-*``) slows all calls, also where no
    number is given.

    Args:
        requests_per_minute: how often something is sent, tries that are repeated included.
        input_tokens_per_minute: estimated before a request is sent, and corrected by the answer's usage.
        output_tokens_per_minute: likewise.
        concurrency: most requests under way; a stream is until it has been read or closed.
        shared: the path of an SQLite file, or a URL such as ``redis://localhost:6379/0`` (extra ``redis``). All
            processes that name it share what may be asked in a minute: of this machine in a file, of any in Redis, and
            there ``concurrency`` too. What the server says is each process's own.
        name: in Redis, with whom: a name for each server and key whose limits these are.

    Raises:
        ConfigurationError: a limit that is no whole number from 1.
    """

    requests_per_minute: int | None = attrs.field(default=None, validator=_whole)
    input_tokens_per_minute: int | None = attrs.field(default=None, validator=_whole)
    output_tokens_per_minute: int | None = attrs.field(default=None, validator=_whole)
    concurrency: int | None = attrs.field(default=None, validator=_whole)
    shared: str | os.PathLike[str] | None = attrs.field(default=None, repr=without_password)
    name: str = "default"
    # By process: a forked child has nothing under way, and no thread that would end it.
    _gates: dict[int, _Gate] = attrs.field(init=False, factory=dict, repr=False)

    def permit(self, body: Mapping[str, Any], deadline: Deadline) -> Permit:
        """What a call with this body needs for each of its tries."""
        gate = self._gates.get(os.getpid()) or self._gates.setdefault(os.getpid(), _Gate(self))
        return Permit(gate, body, deadline)

    def __reduce__(self) -> tuple[Any, ...]:
        # What was asked so far belongs to this process.
        options = {field.name: getattr(self, field.name) for field in attrs.fields(type(self)) if field.init}
        return _restored, (type(self), options)


def _restored(cls: type[Limits], options: dict[str, Any]) -> Limits:
    return cls(**options)


class Answer(Protocol):
    """What an answer says of its tokens, and of the server."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def charges(self) -> tuple[Charge, ...]: ...


class Permit:
    """A context manager around each try of a call: waits until it may be sent, and tells what came of it."""

    def __init__(self, gate: _Gate, body: Mapping[str, Any], deadline: Deadline) -> None:
        self._gate, self._body, self._deadline = gate, body, deadline
        self.number = 0
        self.needs: tuple[float, float, float] = (1.0, 0.0, 0.0)
        self.lease: str = os.urandom(8).hex()
        self._since = 0.0

    def __enter__(self) -> Self:
        """Wait.

        Raises:
            APITimeoutError: the call's total time is over first.
            Cancelled: by the call's token.
        """
        self.needs = 1.0, *self._gate.estimate(self._body)
        try:
            self._gate.admit(self, self._deadline)
        except BaseException:
            self._gate.leave(self)
            raise
        self._since = time.monotonic()
        return self

    def settle(self, answer: Answer) -> None:
        """The try was answered and is over: correct what was estimated, and heed what the server says of its limits."""
        usage = answer.usage
        told = (usage.input_tokens, usage.output_tokens) if usage is not None else (None, None)
        self._gate.answered(self, told, answer.headers, time.monotonic() - self._since)
        self._gate.leave(self)

    def cut_off(self, answer: Answer) -> None:
        """The answer will not be whole, and this much has come: its estimate stays."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, (APIStatusError, StreamServerError)):
            headers = error.headers if isinstance(error, APIStatusError) else {}
            self._gate.failed(self, headers, refused=error.retryable and error.status_code in REFUSALS)
        self._gate.leave(self)


class _Gate:
    """What all calls share: the buckets, the pace, and who waits."""

    def __init__(self, limits: Limits) -> None:
        rates = limits.requests_per_minute, limits.input_tokens_per_minute, limits.output_tokens_per_minute
        self._buckets = [Bucket(rate) if rate is not None else None for rate in rates]
        self._current: AbstractContextManager[None] = contextlib.nullcontext()
        self._clock = time.monotonic
        self._redis: RedisBuckets | None = None
        if limits.shared is not None:
            named = {name: bucket for name, bucket in zip(_NAMES, self._buckets, strict=True) if bucket}
            if is_redis(limits.shared):
                self._redis = RedisBuckets(str(limits.shared), limits.name, named, limits.concurrency)
            else:
                with importing:
                    from .shared import SharedBuckets

                self._current = SharedBuckets(limits.shared, named)
                self._clock = time.time  # the one that processes have in common
        self._pace = Pace(limits.concurrency)
        self._usual_output = USUAL_OUTPUT
        # Reentrant: a stream that the garbage collector finds in here leaves from here.
        self._lock = threading.RLock()
        self._queue: deque[Bell] = deque()

    def estimate(self, body: Mapping[str, Any]) -> tuple[float, float]:
        _, inputs, outputs = self._buckets
        return (
            0.0 if inputs is None else input_tokens(body),
            0.0 if outputs is None else output_tokens(body, self._usual_output),
        )

    def admit(self, permit: Permit, deadline: Deadline) -> None:
        with self._lock:
            if not self._queue and self._try(permit) == 0:
                return
            turn = Bell()
            self._queue.append(turn)
        cancel, wake = deadline.cancel, turn.ring
        try:
            if cancel is not None:
                cancel.subscribe(wake)
            while not self._waited(permit, deadline, turn):
                pass
        finally:
            if cancel is not None:
                cancel.unsubscribe(wake)
            with self._lock:
                self._queue.remove(turn)
                self._wake()

    def _waited(self, permit: Permit, deadline: Deadline, turn: Bell) -> bool:
        """Whether it may go; else it has waited for its turn, or for what is missing."""
        if deadline.cancelled:
            raise Cancelled
        with self._lock:
            seconds = self._try(permit) if self._queue[0] is turn else math.inf
        if seconds == 0:
            return True
        if deadline.left == 0:
            total = deadline.timeout.total
            raise APITimeoutError(f"the limits had no room for it within {total:g} s (timeout: total)", phase="total")
        turn.wait(deadline.within(None if seconds == math.inf else seconds))
        return False

    def _try(self, permit: Permit) -> float:
        """Seconds to wait; 0 where it has begun."""
        if pause := self._pace.wait(time.monotonic()):
            return pause
        if self._redis is not None:
            if seconds := self._redis.take(self._named(permit.needs), permit.lease):
                return seconds
            permit.number = self._pace.begin(time.monotonic())
            return 0.0
        wanted = [(bucket, need) for bucket, need in zip(self._buckets, permit.needs, strict=True) if bucket and need]
        with self._current:
            now = self._clock()
            if seconds := max((bucket.wait(need, now) for bucket, need in wanted), default=0.0):
                return seconds
            for bucket, need in wanted:
                bucket.take(need)
        permit.number = self._pace.begin(time.monotonic())
        return 0.0

    def answered(
        self, permit: Permit, told: tuple[float | None, ...], headers: Mapping[str, str], seconds: float
    ) -> None:
        # A server whose counts are absurd stops nobody for years.
        most = [math.inf if bucket is None else max(bucket.rate * LONGEST_DEBT, 1000.0) for bucket in self._buckets[1:]]
        told = tuple(None if real is None else min(real, limit) for real, limit in zip(told, most, strict=True))
        with self._lock:
            self._pace.answered(permit.number, seconds)
            needs = permit.needs[1:]
            self._correct([0.0 if real is None else real - need for real, need in zip(told, needs, strict=True)])
            if told[1] is not None:
                self._usual_output = 0.9 * self._usual_output + 0.1 * told[1]
            self._pace.told(headers, float(sum(filter(None, told))), time.monotonic())

    def failed(self, permit: Permit, headers: Mapping[str, str], *, refused: bool) -> None:
        """No answer came of it, so that it cost no tokens."""
        with self._lock:
            self._correct([-need for need in permit.needs[1:]])
            if refused:
                self._pace.refused(permit.number)
                self._pace.told(headers, sum(permit.needs[1:]), time.monotonic())

    def _correct(self, tokens: list[float]) -> None:
        """Take so many more input and output tokens."""
        if not any(self._buckets[1:]):
            return
        try:
            if self._redis is not None:
                self._redis.correct(self._named((0.0, *tokens)))
                return
            with self._current:
                for bucket, more in zip(self._buckets[1:], tokens, strict=True):
                    if bucket is not None:
                        bucket.take(more)
        except SharedLimitsError as error:
            # An answer is worth more than the count of its tokens.
            log.warning("%s", error)

    def _named(self, amounts: tuple[float, ...]) -> dict[str, float]:
        """By the names of the buckets that there are."""
        each = zip(_NAMES, self._buckets, amounts, strict=True)
        return {name: amount for name, bucket, amount in each if bucket is not None and amount}

    def leave(self, permit: Permit) -> None:
        with self._lock:
            if permit.number:
                permit.number = 0
                if self._redis is not None:
                    self._redis.release(permit.lease)
                self._pace.end()
                self._wake()

    def _wake(self) -> None:
        if self._queue:
            self._queue[0].ring()
