"""The sink that writes an answer's events to Redis."""

from __future__ import annotations

import itertools
import logging
import math
import os
import queue
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import attrs
from redis import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..._json import encode_json
from ..._log import logger
from ..._threads import spawn
from ...cancel import CancelToken
from ...errors import APITimeoutError, Cancelled, ConfigurationError
from ...web.formats import SSEEncoder
from ...web.public_error import public_error
from ...wire.messages import Usage
from ...wire.response import ChatResponse, StreamEvent
from .keys import alive_key, cancel_key, connect, stream_key, text

log: logging.Logger = logger("celery")

Entry = tuple[bytes, bytes]
"""An event's name and its data, JSON."""

START: Entry = (b"start", b"{}")
POLL_INTERVAL = 1.0
"""Seconds between two looks at whether the answer is still wanted."""
MAX_WAITING = 10_000
"""Events that may wait for Redis; beyond it the stream waits too."""
CLOSE_SECONDS = 30.0
"""How long Redis may take for what is left at the end."""


class RelaySink:
    """Writes the events of an answer to a Redis stream, for ``relay_response`` in another process.

    ::

        with RelaySink(redis, key) as relay:
            answer = client.chat(question, sink=relay, cancel=relay.token)
            save(answer)

    Readers learn that the answer is complete when the block ends, and that it failed when the block raises, whatever
    the exception: Celery's soft time limit too. What had come until then is with them. In a block there may be several
    rounds (``run_tools``), whose tokens are summed. Without ``with``, the first ``done`` or ``error`` is the end.

    Events are written by a thread, at once after a pause and then every ``flush_every`` seconds, pieces of text joined:
    one round trip for all that has come. Nothing is lost at the end: the block ends when Redis has everything.

    A sink, and a key, is for one answer. When its task runs again, readers hear ``start``, and forget what the first
    attempt said. An exception of Celery's ``self.retry()`` is not an end.

    Args:
        redis: a client, which may be shared, or a URL, whose connection is closed at the end.
        key: names the answer; whoever knows it can read it. A task's id does.
        expire: seconds for which events are kept after the last one.
        max_events: about how many events are kept; a reader who comes later than that hears that the beginning is gone.
        flush_every: seconds.
        lost_after: seconds without a sign of life from here after which readers are told that the worker is lost.
        should_stop: asked every second, on the thread that writes: whether the answer is no longer wanted.

    Attributes:
        token: give it to the call as ``cancel=``; cancelled by ``cancel_relay`` and ``should_stop``, also while the
            model is silent.

    Raises:
        ConfigurationError: a key that is not a string, a number that is not positive, or events after the end.
        redis.exceptions.RedisError: Redis cannot be reached: when the block begins, at the next event, or at the end.
    """

    def __init__(
        self,
        redis: Redis | str,
        key: str,
        *,
        expire: float = 3600.0,
        max_events: int = 10_000,
        flush_every: float = 0.05,
        lost_after: float = 15.0,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        for number in (expire, max_events, flush_every, lost_after):
            if not 0 < number < math.inf:
                raise ConfigurationError(
                    f"expire, max_events, flush_every and lost_after must be positive, not {number!r}"
                )
        self.token: CancelToken = CancelToken()
        self._options = _Options(
            redis=redis,
            stream=stream_key(key),
            expire_ms=_milliseconds(expire),
            max_events=max_events,
            flush_every=flush_every,
            lost_after=lost_after,
            should_stop=should_stop,
        )
        self._writer: _Writer | None = None
        self._in_block = False
        self._over = False
        self._usage: Usage | None = None
        self._last: StreamEvent | None = None

    def __enter__(self) -> RelaySink:
        if self._writer is not None:
            raise ConfigurationError("a RelaySink is for one answer: make another for the next")
        self._in_block = True
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._finish(self._last_entries())
            return
        try:
            if _is_retry(error):
                self._finish((), alive_ms=self._options.expire_ms)
            else:
                self._finish((_error_entry(error),))
        except Exception:
            log.exception("the readers of a relayed answer could not be told how it ended")

    def __del__(self) -> None:
        if (writer := getattr(self, "_writer", None)) is not None and not self._over:
            # Given up without a word; the writer's thread is all that is left of it.
            writer.queue.put(_End((_error_entry(None),)))

    def emit(self, event: StreamEvent) -> None:
        """Take an event. Waits only where Redis is far behind."""
        if self._over:
            raise ConfigurationError("this relay has ended; an answer of several rounds is relayed in a with block")
        writer = self._writer or self._begin()
        if event.kind == "usage":
            self._usage = event.data + self._usage
        elif event.kind in ("done", "error"):
            self._last = event
            if not self._in_block:
                self._finish(self._last_entries())
        else:
            self.token.raise_if_cancelled()
            writer.put(event)

    def _begin(self) -> _Writer:
        writer = _Writer(self._options, self.token)
        writer.begin()
        spawn(writer.run, name="openai_compat relay")
        self._writer = writer
        return writer

    def _last_entries(self) -> tuple[Entry, ...]:
        if self._last is not None and self._last.error is not None:
            return (_error_entry(self._last.error),)
        # Where nothing told the end, the block's own is one: what had come is the answer.
        answer = ChatResponse(truncated=True) if self._last is None else self._last.data
        events = [StreamEvent("done", attrs.evolve(answer, usage=self._usage or answer.usage))]
        if self._usage is not None:
            events.insert(0, StreamEvent("usage", self._usage))
        return tuple(_entries(events))

    def _finish(self, entries: tuple[Entry, ...], *, alive_ms: int = 0) -> None:
        self._over = True
        if self._writer is not None:
            self._writer.end(_End(entries, alive_ms))


@attrs.frozen
class _Options:
    redis: Redis | str
    stream: str
    expire_ms: int
    max_events: int
    flush_every: float
    lost_after: float
    should_stop: Callable[[], bool] | None


@attrs.frozen
class _End:
    """The last events, and for how long readers still wait for more."""

    entries: tuple[Entry, ...]
    alive_ms: int = 0


class _Writer:
    """Writes what is put into its queue, on a thread of its own.

    Only queues are shared, whose methods are whole: a signal's exception, such as a soft time limit's, may come
    anywhere and leaves no lock behind.
    """

    def __init__(self, options: _Options, token: CancelToken) -> None:
        self.options = options
        self.token = token
        self.redis, self._owned = connect(options.redis)
        # Looked up here and not imported: gevent replaces it.
        self.queue: queue.SimpleQueue[StreamEvent | _End] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._process = os.getpid()
        self._attempt = self._number = 0
        self._written = self._polled = -math.inf

    def begin(self) -> None:
        """Take away what an earlier attempt wrote, and tell its readers that another begins."""
        stream = self.options.stream
        try:
            known = self.redis.pipeline()
            known.time()
            known.xrevrange(stream, count=1)
            (seconds, microseconds), tail = known.execute()
            # After every id that a reader may have, whatever the clock says.
            earlier = int(text(tail[0][0]).partition("-")[0]) if tail else 0
            self._attempt = max(int(seconds) * 1000 + int(microseconds) // 1000, earlier + 1)
            changes = self.redis.pipeline()
            changes.delete(stream)
            event, data = START
            changes.xadd(stream, {b"event": event, b"data": data}, id=f"{self._attempt}-0")
            self._renew(changes, self._alive_ms)
            cancelled = changes.execute()[-1]
        except BaseException:
            self._close()
            raise
        if cancelled:
            self.token.cancel()

    def put(self, event: StreamEvent) -> None:
        """Have an event written.

        Raises:
            redis.exceptions.RedisError: what was put before could not be.
        """
        while self._failure is None and self.queue.qsize() >= MAX_WAITING:
            time.sleep(0.01)
        if self._failure is not None:
            raise self._failure
        self.queue.put(event)

    def end(self, end: _End) -> None:
        """Have the last events written, and wait until everything is.

        Raises:
            redis.exceptions.RedisError: it could not be.
        """
        if os.getpid() != self._process:  # a fork's copy, which has no thread
            return
        self.queue.put(end)
        try:
            self._ended.get(timeout=CLOSE_SECONDS)
        except queue.Empty:
            raise RedisTimeoutError("Redis did not take the end of a relayed answer") from None
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Write until the end."""
        try:
            end: _End | None = None
            while end is None:
                events, end = self._batch()
                self._write(_entries(_joined(events)), end)
                if end is None:
                    self._poll()
        except Exception as failure:
            self._failure = failure
        finally:
            self._close()
            self._ended.put(None)

    @property
    def _alive_ms(self) -> int:
        return _milliseconds(self.options.lost_after)

    def _batch(self) -> tuple[list[StreamEvent], _End | None]:
        """What is to be written next: all that comes until it is time, or nothing, as a sign of life."""
        events: list[StreamEvent] = []
        until = time.monotonic() + min(POLL_INTERVAL, self.options.lost_after / 3)
        while len(events) < MAX_WAITING:
            try:
                item = self.queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(item, _End):
                return events, item
            events.append(item)
            until = min(until, self._written + self.options.flush_every)
        return events, None

    def _write(self, entries: Iterable[Entry], end: _End | None) -> None:
        stream, limit = self.options.stream, self.options.max_events
        changes = self.redis.pipeline()
        for event, data in itertools.chain(entries, end.entries if end else ()):
            self._number += 1
            # Numbered here: what a lost connection sends again is not written twice.
            changes.xadd(stream, {b"event": event, b"data": data}, id=f"{self._attempt}-{self._number}", maxlen=limit)
        self._renew(changes, self._alive_ms if end is None else end.alive_ms)
        results = changes.execute(raise_on_error=False)
        self._written = time.monotonic()
        for refused in results:
            if isinstance(refused, Exception) and not self._is_repeated(refused):
                raise refused
        if results[-1]:
            self.token.cancel()

    def _renew(self, changes: Redis, alive_ms: int) -> None:
        """Say that the stream is needed and its producer alive; the last result is whether it is to end."""
        stream, alive = self.options.stream, alive_key(self.options.stream, self._attempt)
        changes.pexpire(stream, self.options.expire_ms)
        if alive_ms:
            changes.set(alive, 1, px=alive_ms)
        else:
            changes.delete(alive)
        changes.exists(cancel_key(stream))

    def _is_repeated(self, refused: Exception) -> bool:
        """Whether an entry was refused because it is there already, sent before a connection was lost.

        Raises:
            ConfigurationError: because another attempt, whose ids are greater, has begun.
        """
        if not (isinstance(refused, ResponseError) and "equal or smaller" in str(refused)):
            return False
        tail: Any = self.redis.xrevrange(self.options.stream, count=1)
        if tail and text(tail[0][0]).partition("-")[0] == str(self._attempt):
            return True
        raise ConfigurationError("something else has begun to write to this relay: a key is for one answer")

    def _poll(self) -> None:
        if self.options.should_stop is not None and time.monotonic() >= self._polled + POLL_INTERVAL:
            if self.options.should_stop():
                self.token.cancel()
            self._polled = time.monotonic()

    def _close(self) -> None:
        if self._owned:
            self.redis.close()


def _joined(events: list[StreamEvent]) -> Iterator[StreamEvent]:
    """The same with neighbouring pieces of text joined."""
    for (kind, _), group in itertools.groupby(events, key=lambda event: (event.kind, event.index)):
        pieces = list(group)
        if kind in ("text", "reasoning", "refusal"):
            yield attrs.evolve(pieces[0], data="".join(piece.data for piece in pieces))
        else:
            yield from pieces


def _entries(events: Iterable[StreamEvent]) -> Iterator[Entry]:
    """Events as ``openai_compat.web`` sends them, without those that browsers do not get."""
    encoder = SSEEncoder()
    for event in events:
        fields = dict(line.split(b": ", 1) for line in encoder.encode(event).split(b"\n") if line)
        if fields:
            yield fields[b"event"], fields[b"data"]


def _error_entry(error: BaseException | None) -> Entry:
    """What readers may know of an error; None where the producer was given up."""
    if _is_soft_limit(error):
        error = APITimeoutError("the task's time is over")
    elif isinstance(error, (SystemExit, KeyboardInterrupt)):  # a worker's process that is told to end, by revoke too
        error = Cancelled()
    return b"error", encode_json(public_error(error or RuntimeError()).to_wire()["error"])


def _is_soft_limit(error: BaseException | None) -> bool:
    billiard = sys.modules.get("billiard.exceptions")
    return billiard is not None and isinstance(error, billiard.SoftTimeLimitExceeded)


def _is_retry(error: BaseException) -> bool:
    celery = sys.modules.get("celery.exceptions")
    return celery is not None and isinstance(error, celery.Retry)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
