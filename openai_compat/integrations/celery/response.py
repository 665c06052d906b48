"""A relayed answer as the response of a view: reads a Redis stream, and sends server-sent events."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, overload
from urllib.parse import parse_qs

from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..._json import encode_json
from ..._log import logger
from ...errors import ConfigurationError
from ...web.disconnect import watch_disconnect
from ...web.formats import RETRY_MS
from ...web.public_error import PublicError, public_error
from ...web.stream import SAFE_HEADERS
from .keys import alive_key, cancel_relay, connect, stream_key, text

if TYPE_CHECKING:
    import flask
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

log: logging.Logger = logger("celery")

Id = tuple[int, int]
"""An event's id: its attempt, and its number in that. Redis writes ``"1700000000000-17"``."""

BEGINNING: Id = (0, 0)
RECONNECT_MS = 1000
"""After how long a browser whose connection was lost comes back, to go on where it was."""
MAX_BLOCK = 1.0
"""Seconds for which one read waits: how often is looked whether the browser, and what writes, are still there."""
MAX_ENTRIES = 500
"""Events that are read at once."""
LAST = (b"done", b"error")

LOST = PublicError(
    status=502, message="The answer was broken off on this server.", type="server_error", code="worker_lost"
)
NOT_STARTED = PublicError(
    status=504, message="The answer has not begun; try again later.", type="server_error", code="not_started"
)
TRIMMED = PublicError(
    status=410, message="The beginning of the answer is no longer there.", type="server_error", code="events_gone"
)


class Task(Protocol):
    """What a reader asks of a task: Celery's ``AsyncResult``."""

    def ready(self) -> bool:
        """Whether it is over, in whatever way."""


class RelayStream(Iterator[bytes]):
    """The body of a response that sends what a ``RelaySink`` writes, with its status and headers: for any WSGI server.

    The events are those of ``EventStream``, after a ``start`` for each attempt (whose text is to replace what came
    before), and have ids. A reader who tells the last one that it has, in the header ``Last-Event-ID`` (an
    ``EventSource`` does when it reconnects) or as ``?lastEventId=``, gets what follows; any other all events from the
    beginning. Who has them all already gets 204, after which an ``EventSource`` gives up.

    It ends after ``done`` or ``error``. A reader hears an ``error`` of its own where nothing will come:
    ``worker_lost``, ``not_started``, ``events_gone``. One that leaves does not end the answer, which others may read.

    ::

        def app(environ, start_response):
            body = RelayStream(redis, key, environ=environ)
            start_response(body.status, body.headers)
            return body

    Args:
        redis: a client or a URL. Each reader holds one connection.
        key: as given to the ``RelaySink``. Whether the visitor may read it is for the view to say.
        environ: the WSGI environment: where the reader was, and its socket, to notice that it leaves.
        last_event_id: where the reader was, in place of what ``environ`` says.
        heartbeat: seconds in which nothing is sent, after which a comment is.
        start_within: seconds that a task may wait for a worker.
        task: Celery's ``AsyncResult``; one that is over without an end of its answer (killed, revoked while it waited)
            is told at once, not after ``lost_after`` or ``start_within``.
        cancel_on_disconnect: end the answer when this reader leaves before its end.

    Raises:
        ConfigurationError: a key that is not a string, or seconds that are not positive.
        redis.exceptions.RedisError: Redis cannot be reached.
    """

    def __init__(
        self,
        redis: Redis | str,
        key: str,
        *,
        environ: Mapping[str, Any] | None = None,
        last_event_id: str | None = None,
        heartbeat: float = 15.0,
        start_within: float = 300.0,
        task: Task | None = None,
        cancel_on_disconnect: bool = False,
    ) -> None:
        for seconds in (heartbeat, start_within):
            if not 0 < seconds < math.inf:
                raise ConfigurationError(f"heartbeat and start_within must be positive seconds, not {seconds!r}")
        self._key = key
        self._stream = stream_key(key)
        self._heartbeat = heartbeat
        self._start_within = start_within
        self._task = task
        self._cancel_on_disconnect = cancel_on_disconnect
        self._last = _read_id(_where_it_was(environ or {}) if last_event_id is None else last_event_id)
        self._left = False
        self._over = False
        self._unwatch: Callable[[], None] = _nothing
        self._body: Iterator[bytes] = iter(())
        self.status_code: int = 200
        self.headers: list[tuple[str, str]] = [("Content-Type", "text/event-stream; charset=utf-8"), *SAFE_HEADERS]
        self._redis, self._owned = connect(redis)
        try:
            if self._last != BEGINNING and self._is_all_read():
                self.status_code, self.headers, self._over = 204, [], True
            elif environ is not None and environ.get("REQUEST_METHOD") == "HEAD":
                self._over = True
            else:
                self._unwatch = watch_disconnect(environ or {}, self._disconnected)
                self._body = self._run()
        except BaseException:
            self._release()
            raise
        if self._over:
            self._release()

    @property
    def status(self) -> str:
        """As ``start_response`` takes it: ``"200 OK"``."""
        return f"{self.status_code} {HTTPStatus(self.status_code).phrase}"

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def __next__(self) -> bytes:
        return next(self._body)

    def cancel(self) -> None:
        """End the reading, from any thread, for the browser has disconnected; ``close`` is still needed."""
        self._left = True

    def close(self) -> None:
        """End the response. May be called twice, and on any thread."""
        self._disconnected()
        try:
            if isinstance(self._body, Generator):
                self._body.close()
        except ValueError:  # another thread reads; it ends by itself, within a second
            return
        self._release()

    def _disconnected(self) -> None:
        self._left = True
        if self._cancel_on_disconnect and not self._over:
            self._cancel_on_disconnect = False
            try:
                cancel_relay(self._redis, self._key)
            except Exception:
                log.exception("an answer whose reader has left could not be cancelled")

    def _release(self) -> None:
        self._unwatch()
        if self._owned:
            self._redis.close()

    def _run(self) -> Generator[bytes, None, None]:
        try:
            yield b"retry: %d\n" % RECONNECT_MS
            yield from self._events()
        except Exception as error:
            self._over = True
            if not self._left:
                log.exception("the events of an answer could not be read from Redis")
                yield _failure(public_error(error))
        finally:
            self._release()

    def _events(self) -> Iterator[bytes]:
        began = spoke = time.monotonic()
        problem: PublicError | None = None
        while not self._left:
            # Where there is a problem, once more without waiting: the end may have come just before it.
            entries = self._read(wait=problem is None)
            for event_id, event, data in entries:
                if not self._follows(event_id, event):
                    self._over = True
                    yield _failure(TRIMMED)
                    return
                self._last = event_id
                self._over = event in LAST
                yield b"event: %b\nid: %d-%d\ndata: %b\n\n" % (event, *event_id, data)
                if self._over:
                    return
            now = time.monotonic()
            if entries:
                problem, spoke = None, now
                continue
            if problem is not None:
                self._over = True
                yield _failure(problem)
                return
            problem = self._problem(now - began)
            if now - spoke >= self._heartbeat:
                spoke = now
                yield b":\n"

    def _follows(self, event_id: Id, event: bytes) -> bool:
        """Whether no event is missing in front of this one."""
        attempt, number = self._last
        return event == b"start" or event_id == (attempt, number + 1)

    def _problem(self, waited: float) -> PublicError | None:
        """Why nothing more will come, if so."""
        if self._task is not None and self._task.ready():
            return LOST
        if self._last != BEGINNING:
            return None if self._redis.exists(alive_key(self._stream, self._last[0])) else LOST
        return NOT_STARTED if waited >= self._start_within else None

    def _read(self, *, wait: bool) -> list[tuple[Id, bytes, bytes]]:
        seconds = min(MAX_BLOCK, self._heartbeat, self._start_within, (self._socket_timeout() or math.inf) / 2)
        try:
            reply: Any = self._redis.xread(
                {self._stream: "{}-{}".format(*self._last)},
                count=MAX_ENTRIES,
                block=max(1, int(seconds * 1000)) if wait else None,
            )
        except RedisTimeoutError:
            if not wait:
                raise
            return []  # the client's patience was shorter than the wait
        return [_parse(entry) for entry in _entries(reply)]

    def _socket_timeout(self) -> float | None:
        timeout: float | None = self._redis.get_connection_kwargs().get("socket_timeout")
        return timeout

    def _is_all_read(self) -> bool:
        """Whether nothing follows what the reader has: it is the end, or all is gone."""
        tail: Any = self._redis.xrevrange(self._stream, count=1)
        if not tail:
            return True
        event_id, event, _ = _parse(tail[0])
        return event in LAST and event_id <= self._last


def _entries(reply: Any) -> Iterator[Any]:
    """The entries in an answer to XREAD of one stream, which protocols and versions of redis-py nest differently."""
    for entries in reply.values() if isinstance(reply, Mapping) else (entries for _, entries in reply or ()):
        for entry in entries:
            yield from entry if isinstance(entry, list) else [entry]


def _parse(entry: tuple[Any, Mapping[Any, Any]]) -> tuple[Id, bytes, bytes]:
    """An entry's id, and its event's name and data; redis-py may have decoded them."""
    event_id, raw = entry
    fields = {text(name): text(value).encode() for name, value in raw.items()}
    return _read_id(text(event_id)), fields["event"], fields["data"]


def _read_id(text: str) -> Id:
    """An id; what is none is the beginning."""
    match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", text)
    if match is None:
        return BEGINNING
    attempt, number = int(match[1]), int(match[2] or 0)
    return (attempt, number) if max(attempt, number) < 2**64 else BEGINNING


def _where_it_was(environ: Mapping[str, Any]) -> str:
    header: str | None = environ.get("HTTP_LAST_EVENT_ID")
    if header is not None:
        return header
    query: str = environ.get("QUERY_STRING", "")
    return parse_qs(query).get("lastEventId", [""])[-1]


def _failure(shown: PublicError) -> bytes:
    """An error of this response, not of the answer: without an id, and not to be come back for."""
    return b"event: error\nretry: %d\ndata: %b\n\n" % (RETRY_MS, encode_json(shown.to_wire()["error"]))


def _nothing() -> None:
    pass


@overload
def relay_response(
    key: str,
    *,
    request: None = None,
    redis: Redis | str | None = None,
    headers: Iterable[tuple[str, str]] = ...,
    **options: Any,
) -> flask.Response: ...
@overload
def relay_response(
    key: str,
    *,
    request: HttpRequest,
    redis: Redis | str | None = None,
    headers: Iterable[tuple[str, str]] = ...,
    **options: Any,
) -> HttpResponseBase: ...
def relay_response(
    key: str,
    *,
    request: HttpRequest | None = None,
    redis: Redis | str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    **options: Any,
) -> flask.Response | HttpResponseBase:
    """What a view returns to send a relayed answer: Flask's response, or Django's where ``request`` is given.

    Args:
        key: as given to the ``RelaySink``. Whether this visitor may read it is for the view to say.
        request: Django's, under WSGI or ASGI.
        redis: a client or a URL; where None, that of the results of the current Celery application.
        headers: sent too.
        options: what ``RelayStream`` takes: ``task``, ``cancel_on_disconnect``, ``heartbeat``, ``start_within``,
            ``last_event_id``.

    Raises:
        ConfigurationError: as ``RelayStream``, or Celery keeps its results elsewhere and no ``redis`` was given.
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    if redis is None:
        redis = _results()
    if request is None:
        import flask

        body = RelayStream(redis, key, environ=flask.request.environ, **options)
        return flask.Response(body, body.status_code, [*body.headers, *headers])
    from django.core.handlers.asgi import ASGIRequest
    from django.http import HttpResponse, StreamingHttpResponse

    from ..django.responses import AsyncBody

    body = RelayStream(redis, key, environ=request.META, **options)
    sent = dict([*body.headers, *headers])
    if body.status_code != 200:
        return HttpResponse(status=body.status_code, headers=sent)
    # GZipMiddleware would hold all of it back, heartbeats included.
    content = AsyncBody(body) if isinstance(request, ASGIRequest) else body
    return StreamingHttpResponse(content, headers={"Content-Encoding": "identity", **sent})


def _results() -> Redis:
    """The client that Celery keeps its results with."""
    try:
        from celery import current_app
    except ImportError:
        raise ConfigurationError("which Redis? relay_response(key, redis=...)") from None
    client = getattr(current_app.backend, "client", None)
    if not isinstance(client, Redis):
        raise ConfigurationError("Celery's results are not in Redis: relay_response(key, redis=...)")
    return client
