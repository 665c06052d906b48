"""Streams to browsers: a ``ChatStream`` as the bytes of a WSGI response.

::

    def app(environ, start_response):
        return wsgi_response(client.stream("hi"), environ, start_response)

    body = EventStream(client.stream("hi"), environ=request.environ)  # in a framework
    return Response(body, body.status_code, body.headers)

    EventStream(partial(conversation.say, "hi"))  # or any function that takes a sink and a token to cancel it

In the page::

    const source = new EventSource("/ask");
    source.addEventListener("text", (event) => show(JSON.parse(event.data).delta));
    source.addEventListener("done", () => source.close());
    source.addEventListener("error", (event) => {
        source.close();
        tell(event.data ? JSON.parse(event.data).message : "The answer was broken off.");
    });

An ``EventSource`` reconnects when its response ends, which would ask the model again. ``source.close()`` prevents that;
where a page forgets it, the reconnect is answered with 204, after which a browser gives up.
"""

from __future__ import annotations

import contextvars
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .._json import as_mapping, encode_json
from .._log import logger
from .._misuse import refuse_coroutines
from .._threads import spawn
from ..cancel import CancelToken
from ..errors import Cancelled, ConfigurationError, ResponseTypeError
from ..tools.pool import tool_caller
from ..wire.parse import TICK_EVENT
from ..wire.response import CallInfo, ChatResponse, StreamEvent
from .disconnect import watch_disconnect
from .formats import ENCODERS, Encoder, Format, error_stream
from .public_error import PublicError, public_error

if TYPE_CHECKING:
    from ..stream import ChatStream

__all__ = ["EventStream", "Format", "Handler", "Run", "is_reconnect", "wsgi_response"]

log: logging.Logger = logger("web")

Run = Callable[..., ChatResponse]
"""Asks with the keyword arguments ``sink`` and ``cancel``, and returns the answer: ``partial(client.chat, "hi")``."""
Handler = Callable[[ChatResponse], object]
"""Is called with an answer, for instance to store it."""

MAX_WAITING = 256
"""Events that wait for a browser that reads slowly; then the source waits for it."""
FULL_INTERVAL = 0.02
"""Seconds between two looks whether fewer wait."""
TICK_SECONDS = 0.5
"""How long a stream that is silent takes at most to notice that something has to be written."""
CANCEL_SECONDS = 5.0
"""How long a cancelled source may take to hand over its partial answer."""
CROSS_SITE = PublicError(
    status=403, message="Other sites may not ask here.", type="invalid_request_error", code="cross_site"
)
SAFE_HEADERS = (
    # nginx would buffer the answer, and so would a proxy that compresses.
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
)


def wsgi_response(
    source: ChatStream | Run,
    environ: Mapping[str, Any],
    start_response: Callable[..., Any],
    *,
    format: Format = "sse",
    stream_options: dict[str, Any] | None = None,
    heartbeat: float = 15.0,
    on_done: Handler | None = None,
    on_disconnect: Handler | None = None,
    tools_in_request: bool = False,
    cross_site: bool = False,
    headers: Iterable[tuple[str, str]] = (),
) -> EventStream:
    """Returns what a WSGI application returns to stream an answer.

    Args:
        headers: further ones, for instance for CORS.
        source, environ, format, stream_options, heartbeat, on_done, on_disconnect, tools_in_request, cross_site: as for
            ``EventStream``.
    """
    body = EventStream(
        source,
        format=format,
        stream_options=stream_options,
        environ=environ,
        heartbeat=heartbeat,
        on_done=on_done,
        on_disconnect=on_disconnect,
        tools_in_request=tools_in_request,
        cross_site=cross_site,
    )
    try:
        start_response(body.status, [*body.headers, *headers])
    except BaseException:
        body.close()
        raise
    return body


def is_reconnect(environ: Mapping[str, Any]) -> bool:
    """Whether this request is an ``EventSource`` that reconnects after the end of its stream."""
    return "HTTP_LAST_EVENT_ID" in environ


def is_event_source(environ: Mapping[str, Any]) -> bool:
    """Whether this request is an ``EventSource``'s: its page learns neither the status nor the body of an error."""
    return environ.get("REQUEST_METHOD") == "GET" and environ.get("HTTP_ACCEPT") == "text/event-stream"


def _is_cross_site_get(environ: Mapping[str, Any]) -> bool:
    """Whether a page of another site made a browser send this, which for GET needs no permission: an image does it."""
    if environ.get("REQUEST_METHOD") != "GET":
        return False
    if site := environ.get("HTTP_SEC_FETCH_SITE"):
        return bool(site == "cross-site")
    # Over plain HTTP browsers tell no site; an origin, with GET, only where it is another.
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")


class EventStream(Iterator[bytes]):
    """The body of a response, and the status and headers that go with it.

    Its source is a ``ChatStream``, or a function that reports to a sink, such as ``partial(conversation.say, "hi")`` or
    ``partial(client.run_tools, "hi", tools=[f])``. Such a function is called with ``sink`` and ``cancel``, on a thread
    of its own, in a copy of the caller's context. The browser learns that the answer is complete when it has returned,
    or that it failed when it raises; if the browser disconnects, ``cancel`` is cancelled.

    The constructor sends the request and waits for the first event: what fails until then is a proper HTTP status with
    a JSON body, what fails later an event of the stream. An ``EventSource``, which sees no status, gets an event in
    either case; one of another site gets 403. No exception of the stream ever reaches the WSGI server.
    ``close``, which every WSGI server calls, ends the call to the model.

    ::

        "sse"     text, reasoning, refusal   {"delta": "..."}
                  tool_call                  {"id", "name", "arguments"}
                  usage                      {"input_tokens", "output_tokens", ...}
                  done                       {"finish_reason", "model", "usage", "truncated"}
                  error                      {"message", "type", "code"}
        "text"    the text and nothing else; an error is a last line in square brackets
        "openai"  the chunks of OpenAI's own format, for its clients; not for an ``EventSource``

    With ``n``, the events of further choices have ``"choice"`` in their data. A function that asks several times has
    one ``usage`` and one ``done``, at its end, and ``"openai"`` leaves out the tool calls that the server answered.

    A browser that disconnects is noticed within about a second where the server hands over its socket (gunicorn,
    werkzeug), even while the model is silent; elsewhere at the next write that fails: for ``"text"``, which has no
    heartbeats, that is at the next piece of text. One that closes its own side alone, and still reads, gets its answer,
    but not as ``"text"``.

    Args:
        source: a stream that nobody has read from, which is closed at the end; or a function.
        format: what the browser gets.
        stream_options: for ``"openai"``, the field of that name in the client's request: token usage is sent only where
            it has ``"include_usage"``.
        environ: the WSGI environment, to watch the browser's socket, to answer a reconnect with 204 and a HEAD request
            without asking the model, and to tell an ``EventSource`` of every error by an event.
        heartbeat: seconds of silence after which a comment is sent.
        first_wait: seconds to wait for the first event before the headers are sent; ``heartbeat`` where None. With 0
            the status is 200, unless ``settle`` is called when ``begun`` is done.
        on_done: called with the whole answer before the browser learns that it is complete, for instance to store it;
            on the thread that writes the response. Not called when the answer fails or the browser disconnects; what it
            raises is an error of the stream.
        on_disconnect: called with the partial answer, which is ``truncated``, when the browser disconnects before the
            end, for instance because the visitor pressed stop; on the thread that closes the response. Not called where
            nothing had arrived, nor when the answer fails; what it raises is logged.
        tools_in_request: whether the tools of a function run on the thread that writes the response, one after another,
            and there see what belongs to it, such as the request's connection to a database. No heartbeats are sent
            meanwhile.
        cross_site: whether pages of other sites may ask by GET, as far as ``environ`` tells; else they get 403, and no
            model is asked. Your framework's CSRF protection is for the other methods.

    Raises:
        ConfigurationError: unknown format, a number of seconds that is not positive, or a coroutine function.

    Attributes:
        begun: is done when the first event has come, or when none will; it cannot be cancelled.
    """

    def __init__(
        self,
        source: ChatStream | Run,
        *,
        format: Format = "sse",
        stream_options: dict[str, Any] | None = None,
        environ: Mapping[str, Any] | None = None,
        heartbeat: float = 15.0,
        first_wait: float | None = None,
        on_done: Handler | None = None,
        on_disconnect: Handler | None = None,
        tools_in_request: bool = False,
        cross_site: bool = False,
    ) -> None:
        if format not in ENCODERS:
            raise ConfigurationError(f"format must be 'sse', 'text' or 'openai', not {format!r}")
        if isinstance(source, ChatResponse):
            raise ConfigurationError("an answer that is there cannot be streamed: give client.stream(...)")
        refuse_coroutines(source=source, on_done=on_done, on_disconnect=on_disconnect)
        for seconds in (heartbeat, first_wait or heartbeat):
            if not 0 < seconds < math.inf:
                raise ConfigurationError(f"heartbeat and first_wait must be positive seconds, not {seconds!r}")
        self._is_event_source = format == "sse" and environ is not None and is_event_source(environ)
        self.status_code: int = 200
        self.headers: list[tuple[str, str]] = []
        self.begun: Future[Any] = Future()
        self.begun.set_running_or_notify_cancel()
        encoder = ENCODERS[format](
            defer_tool_calls=callable(source), include_usage=bool(as_mapping(stream_options).get("include_usage"))
        )
        # The generator knows the writing, and the writing knows nobody: who drops the response drops all of it.
        stream = _FunctionStream(source, tools_in_request=tools_in_request) if callable(source) else source
        self._writing = _Writing(stream, encoder, heartbeat, on_done, on_disconnect)
        self._body: Iterator[bytes] = iter(())
        self._reader: threading.Thread | None = None
        if environ is not None and is_reconnect(environ):
            self.status_code = 204
            self._end_unasked()
            return
        if environ is not None and not cross_site and _is_cross_site_get(environ):
            log.warning("a page of another site tried to ask, and was refused; cross_site=True would allow it")
            self._end_unasked()
            self._is_event_source = False  # Its page may read neither a status nor an event.
            self._fail(CROSS_SITE)
            return
        self.headers = [("Content-Type", encoder.content_type), *SAFE_HEADERS]
        if environ is not None and environ.get("REQUEST_METHOD") == "HEAD":
            self._end_unasked()
            return
        try:
            if environ is not None:
                self._writing.unwatch = watch_disconnect(environ, self._writing.disconnect, self._writing.half_close)
            writing = self._writing
            arguments = (writing.stream, writing.queue, self.begun, writing.tick, writing.released)
            self._reader = spawn(_read_ahead, *arguments, name="openai_compat web")
            if first_wait == 0:
                self._body = self._writing.run(waiting=True)
                return
            seconds = heartbeat if first_wait is None else first_wait
            wait([self.begun, self._writing.asked_to_write], seconds, FIRST_COMPLETED)
            self.settle()
        except BaseException:
            self._writing.release()
            raise

    @property
    def status(self) -> str:
        """As ``start_response`` takes it: ``"200 OK"``."""
        return f"{self.status_code} {HTTPStatus(self.status_code).phrase}"

    def __iter__(self) -> Iterator[bytes]:
        # The generator itself, over which a server's loop is cheaper than over this object.
        return self._body

    def __next__(self) -> bytes:
        return next(self._body)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the response, and the call to the model if it is still running.

        May be called more than once, and on any thread.
        """
        writing = self._writing
        writing.disconnected = True
        writing.release()
        if isinstance(self._body, Generator):
            _close(self._body)
        on_disconnect, writing.on_disconnect = writing.on_disconnect, None
        if on_disconnect is not None and self._reader is not None:
            self._report_partial(on_disconnect, self._reader)

    def _report_partial(self, on_disconnect: Handler, reader: threading.Thread) -> None:
        """Call ``on_disconnect``, whose failure must not reach the server."""
        reader.join(CANCEL_SECONDS)
        if reader.is_alive():
            log.warning("a stream to a browser did not end when it was cancelled: its partial answer is lost")
            return
        try:
            try:
                partial = self._writing.stream.response
            except ResponseTypeError as error:  # half a value has no type
                partial = error.partial
            if partial is not None and partial.choices:
                on_disconnect(partial)
        except Exception:
            log.exception("on_disconnect failed for the partial answer of a stream to a browser")

    def settle(self) -> None:
        """Choose status, headers and body by the first event, if it has come. Not once the body has been read from."""
        if self._reader is None:
            return
        first = self.begun.result() if self.begun.done() else TICK_EVENT
        if isinstance(first, StreamEvent) and first.error is not None:
            first = first.error
        if isinstance(first, BaseException):
            self._fail(self._writing.logged(first))
        else:
            self._body = self._writing.run(waiting=first is TICK_EVENT)

    def cancel(self) -> None:
        """End the call to the model, from any thread, for the browser has disconnected; ``close`` is still needed."""
        self._writing.disconnect()

    def _end_unasked(self) -> None:
        """Be a response without a body, for which no model is asked."""
        self.begun.set_result(None)
        self._writing.release()

    def _fail(self, shown: PublicError) -> None:
        """Make the response one that says what failed."""
        body = encode_json(shown.to_wire())
        if self._is_event_source:
            body = error_stream(shown)
        else:
            self.status_code = shown.status
            self.headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
            ]
            if shown.retry_after is not None:
                self.headers.append(("Retry-After", str(shown.retry_after)))
        self._body = iter((body,))
        self._writing.on_disconnect = None
        self._writing.release()


class _Writing:
    """What there is of a response while it is written; ``run`` writes it. One that is dropped ends its call."""

    def __init__(
        self,
        stream: ChatStream | _FunctionStream,
        encoder: Encoder,
        heartbeat: float,
        on_done: Handler | None,
        on_disconnect: Handler | None,
    ) -> None:
        self.stream = stream
        self.heartbeat = heartbeat
        self._ticks = math.ceil(heartbeat / TICK_SECONDS)
        self.tick: float = heartbeat / self._ticks
        self.on_disconnect = on_disconnect
        self.disconnected = False
        self.released = threading.Event()
        # Done when something has to be written, to see whether the browser still reads.
        self.asked_to_write: Future[None] = Future()
        self.unwatch: Callable[[], None] = lambda: None
        # Looked up here and not imported: gevent replaces it.
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._encoder = encoder
        self._on_done = on_done
        self._finished = False

    def __del__(self) -> None:
        if not self.released.is_set():
            self.disconnected = True
            self.release()

    def run(self, *, waiting: bool) -> Generator[bytes, None, None]:
        """The bytes of the body; ``waiting`` begins with a heartbeat."""
        try:
            if self._encoder.preamble:
                yield self._encoder.preamble
            if waiting:
                yield self._encoder.heartbeat
            yield from self._encoded(self._queued())
            if not self._finished and not isinstance(self.stream, _FunctionStream):
                yield from self._encoded(self.stream)
                self._finished = True
        except Exception as error:
            self._finished = True
            if not self.disconnected:
                self.on_disconnect = None
                yield self._encoder.encode_error(self.logged(error))
        finally:
            self.release()

    def _queued(self) -> Iterator[StreamEvent]:
        """The events that the reading thread passes on."""
        while True:
            try:
                item = self.queue.get(timeout=self.tick)
            except queue.Empty:
                item = TICK_EVENT
            if item is _HANDED_OVER:
                return
            if item is _END:
                self._finished = True
                return
            if isinstance(item, _ToolCall):
                if not self.disconnected:
                    item.run()
                continue
            if isinstance(item, Exception):
                raise item
            if isinstance(item, BaseException):
                raise RuntimeError("the thread that reads the stream was killed") from item
            yield item

    def _encoded(self, events: Iterable[StreamEvent]) -> Iterator[bytes]:
        encode = self._encoder.encode
        quiet_since: float | None = None  # while all events are ones that the browser does not get
        ticks = 0
        written = False  # since the browser closed its side
        for event in events:
            if self.disconnected:
                return
            if event is TICK_EVENT:
                ticks += 1
                if ticks == self._ticks or (not written and self.asked_to_write.done()):
                    written = self.asked_to_write.done()
                    ticks = 0
                    yield self._encoder.heartbeat
            elif event.kind == "error":
                raise event.data
            else:
                if event.kind == "done":
                    self.on_disconnect = None
                    if self._on_done is not None:
                        self._on_done(event.data)
                ticks = 0
                if data := encode(event):
                    quiet_since = None
                    yield data
                else:
                    now = time.monotonic()
                    quiet_since = now if quiet_since is None else quiet_since
                    if now - quiet_since >= self.heartbeat:
                        quiet_since = now
                        yield self._encoder.heartbeat

    def logged(self, error: BaseException) -> PublicError:
        """Log an error, of which the browser gets only the public part."""
        shown = public_error(error)
        if self.disconnected and isinstance(error, Cancelled):
            log.info("a browser disconnected before its answer began")
        elif shown.status < 500:
            log.warning("a stream to a browser was rejected (%d): %s", shown.status, error)
        else:
            log.error("a stream to a browser failed: %s", type(error).__name__, exc_info=error)
        return shown

    def disconnect(self) -> None:
        """End the call to the model, for its browser has left."""
        self.disconnected = True
        self.stream.cancel()

    def half_close(self) -> None:
        """The browser has closed its side: if it is gone, the next write shows it. Without heartbeats there is none."""
        if self._encoder.heartbeat:
            self.asked_to_write.set_result(None)
        else:
            self.disconnect()

    def release(self) -> None:
        """End the call to the model if it is still running; from any thread, and as often as it comes."""
        self.released.set()
        self.unwatch()
        if not self._finished:
            # Before the close: this wakes a thread that is still reading, which then closes the stream itself.
            self.stream.cancel()
        _close(self.stream)


class _FunctionStream:
    """A function that reports to a sink, with the part of a ``ChatStream`` that an ``EventStream`` needs."""

    def __init__(self, run: Run, *, tools_in_request: bool) -> None:
        self.response: ChatResponse | None = None
        self._run = run
        self._tools_in_request = tools_in_request
        self._token = CancelToken()

    def run(self, put: Callable[[object], object]) -> None:
        """Call the function, and pass on its events, with one end in place of one for each round."""
        call = CallInfo()
        if self._tools_in_request:
            # For this thread, which has a context of its own, and for those that it starts.
            tool_caller.set(partial(self._call_in_request, put))

        def sink(event: StreamEvent) -> None:
            nonlocal call
            call = event.call
            if event.kind not in ("usage", "done", "error"):
                put(event)

        try:
            answer = self._run(sink=sink, cancel=self._token)
        except Cancelled as error:
            self.response = error.partial
            raise
        if not isinstance(answer, ChatResponse):
            raise ConfigurationError(f"a streamed function must return a ChatResponse, not {type(answer).__name__}")
        self.response = answer
        if answer.usage is not None:
            put(StreamEvent("usage", answer.usage, 0, call))
        put(StreamEvent("done", answer, 0, call))

    def _call_in_request(self, put: Callable[[object], object], use: Callable[[], Any]) -> Any:
        call = _ToolCall(use)
        self._token.subscribe(call.outcome.cancel)
        try:
            put(call)
            return call.outcome.result()
        except CancelledError:
            raise Cancelled from None
        finally:
            self._token.unsubscribe(call.outcome.cancel)

    def cancel(self) -> None:
        self._token.cancel()

    def close(self) -> None:
        # Nobody reads on, nor calls its tools.
        self._token.cancel()


def _call_here(use: Callable[[], Any]) -> Any:
    return use()


class _ToolCall:
    """A call of a tool that waits for the thread that writes the response."""

    def __init__(self, use: Callable[[], Any]) -> None:
        self.outcome: Future[Any] = Future()
        self._use = use
        self._context = contextvars.copy_context()

    def run(self) -> None:
        """Call the tool, in the context that it would have had, unless nobody waits for it any more."""
        if not self.outcome.set_running_or_notify_cancel():
            return
        try:
            self.outcome.set_result(self._context.run(self._call))
        except BaseException as error:
            self.outcome.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _call(self) -> Any:
        # Tools that the tool itself has called would wait for this thread, which waits for them.
        tool_caller.set(_call_here)
        return self._use()


# Not a method: its thread must not keep alive an ``EventStream`` that nobody else refers to.
def _read_ahead(
    stream: ChatStream | _FunctionStream,
    events: queue.SimpleQueue[Any],
    begun: Future[Any],
    heartbeat: float,
    released: threading.Event,
) -> None:
    """Read the first event, and all others too where only a second thread can notice that none comes."""

    def put(item: object) -> None:
        # No lock, which the collector could find taken when it releases the stream.
        while events.qsize() >= MAX_WAITING and not released.is_set():
            time.sleep(FULL_INTERVAL)
        events.put(item)
        if not begun.done():
            begun.set_result(item)

    try:
        if isinstance(stream, _FunctionStream):
            stream.run(put)
        else:
            for event in stream:
                put(event)
                if stream.tick_every(heartbeat):
                    put(_HANDED_OVER)
                    return
        put(_END)
    except BaseException as error:
        put(error)
    finally:
        if released.is_set():
            _close(stream)


_HANDED_OVER = object()
_END = object()


def _close(stream: Any) -> None:
    """Close what another thread may be using; what closing raises must not reach the server."""
    try:
        stream.close()
    except Exception as error:
        if not (isinstance(error, ValueError) and "already executing" in str(error)):
            log.exception("a stream to a browser could not be closed")
