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
        if (event.data) tell(JSON.parse(event.data).message);
    });

An ``EventSource`` whose response ends connects again and would ask the model again: ``source.close()`` prevents that,
and where it is forgotten, the server answers 204, after which a browser gives up.
"""

from __future__ import annotations

import _socket
import json
import logging
import math
import os
import queue
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs

from .._json import as_mapping, encode_json
from .._threads import spawn
from ..cancel import CancelToken
from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Cancelled,
    ConfigurationError,
    OpenAICompatError,
    ResponseTypeError,
    StreamServerError,
)
from ..wire.parse import TICK_EVENT
from ..wire.response import UNKNOWN, CallInfo, ChatResponse, Choice, StreamEvent, ToolCallDelta

if TYPE_CHECKING:
    from ..stream import ChatStream
    from ..wire.messages import ToolCall, Usage

__all__ = ["EventStream", "PublicError", "is_reconnect", "public_error", "wsgi_response"]

log = logging.getLogger("openai_compat")

Format = Literal["sse", "text", "openai"]
Run = Callable[..., ChatResponse]
"""Asks with the keyword arguments ``sink`` and ``cancel``, and returns the answer: ``partial(client.chat, "hi")``."""
Leave = Callable[[], Callable[[], None] | None]
"""A weak reference to what ends a stream."""
Handler = Callable[[ChatResponse], object]
"""Gets an answer, for instance to store it."""

RETRY_MS = 24 * 60 * 60 * 1000
"""After how long a browser that did not close its ``EventSource`` connects again."""
LOOK_EVERY = 0.25
"""Seconds between two looks at the sockets of the browsers."""
ENDING_SECONDS = 5.0
"""How long what is cancelled may take until it says what had come."""
MAX_CHOICES = 128
"""The largest ``n`` that OpenAI's API takes."""
SAFE_HEADERS = (
    # nginx would hold the answer back, and a proxy that compresses would too.
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
    headers: Iterable[tuple[str, str]] = (),
) -> EventStream:
    """What a WSGI application returns to stream an answer.

    Args:
        headers: sent too, for instance for CORS.
        source, environ, format, stream_options, heartbeat, on_done, on_disconnect: as for ``EventStream``.
    """
    body = EventStream(
        source,
        format=format,
        stream_options=stream_options,
        environ=environ,
        heartbeat=heartbeat,
        on_done=on_done,
        on_disconnect=on_disconnect,
    )
    try:
        start_response(body.status, [*body.headers, *headers])
    except BaseException:
        body.close()
        raise
    return body


def is_reconnect(environ: Mapping[str, Any]) -> bool:
    """Whether this request is an ``EventSource`` that connects again after the end of its stream."""
    return "HTTP_LAST_EVENT_ID" in environ


@attrs.frozen(kw_only=True)
class PublicError:
    """What a visitor may know of an error: no key, no address and no word of the model's server.

    Args:
        status: HTTP status.
        message: one sentence, always the same for the same kind of error.
        type: ``"invalid_request_error"`` where the visitor's question is to blame, else ``"server_error"``.
        code: which kind of error.
        retry_after: whole seconds, for the header of that name; None where the model's server gave no hint.
    """

    status: int
    message: str
    type: str
    code: str
    retry_after: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON body, in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code}}


def public_error(error: BaseException) -> PublicError:
    """What a visitor may know of ``error``, and the HTTP status to say it with.

    A refusal of our key, or of our model's name, is our own fault and not the visitor's: 502, as for a server that is
    not there. A question that the server does not take is 400, one too many 429, a timeout 504, a bug 500.
    """
    if isinstance(error, (APIStatusError, StreamServerError)):
        refused = _refusal(error.status_code or 502, error.code)
        wait = error.retry_after
        return attrs.evolve(refused, retry_after=None if wait is None else math.ceil(wait))
    if isinstance(error, APITimeoutError):
        return _server_error(504, "The model took too long to answer.", "timeout")
    if isinstance(error, APIConnectionError):
        return _server_error(502, "The model cannot be reached.", "unreachable")
    if isinstance(error, Cancelled):
        return _server_error(503, "The answer was cancelled.", "cancelled")
    if isinstance(error, OpenAICompatError) and not isinstance(error, ConfigurationError):
        return _server_error(502, "The model's answer cannot be used.", "bad_answer")
    return _server_error(500, "Something went wrong on this server.", "internal_error")


_OF_THE_VISITOR = "invalid_request_error"
_TOLD = frozenset({"context_length_exceeded", "content_filter", "content_policy_violation"})
"""Codes that say something about the visitor's question, and nothing about the server."""


def _refusal(status: int, code: object) -> PublicError:
    if status in (400, 413, 422):
        told = code if isinstance(code, str) and code in _TOLD else "invalid_request"
        return PublicError(
            status=413 if status == 413 else 400,
            message="The model does not accept this question.",
            type=_OF_THE_VISITOR,
            code=told,
        )
    if status == 429:
        return _server_error(429, "Too many questions at the moment; try again later.", "rate_limited")
    if status in (503, 529):
        return _server_error(503, "The model is overloaded; try again later.", "overloaded")
    if status in (408, 504):
        return _server_error(504, "The model took too long to answer.", "timeout")
    return _server_error(502, "The model is not available.", "unavailable")


def _server_error(status: int, message: str, code: str) -> PublicError:
    return PublicError(status=status, message=message, type="server_error", code=code)


class EventStream(Iterator[bytes]):
    """The body of a response, and the status and headers that go with it.

    Its source is a ``ChatStream``, or a function that reports to a sink, such as ``partial(conversation.say, "hi")`` or
    ``partial(client.run_tools, "hi", tools=[f])``. Such a function is called with ``sink`` and ``cancel``, on a thread
    of its own, in a copy of the caller's context. The browser learns that the answer is complete when it has returned,
    or that it failed when it raises; if the browser leaves, ``cancel`` is cancelled.

    The request is sent, and the first event awaited, before this is made: what fails until then is a proper HTTP status
    with a JSON body, what fails later an event of the stream. No exception of the stream ever reaches the server.
    ``close``, which every WSGI server calls, ends the call to the model.

    ::

        "sse"     text, reasoning, refusal   {"delta": "..."}
                  tool_call                  {"id", "name", "arguments"}
                  usage                      {"input_tokens", "output_tokens", ...}
                  done                       {"finish_reason", "model", "usage", "truncated"}
                  error                      {"message", "type", "code"}
        "text"    the text and nothing else; an error is a last line in square brackets
        "openai"  the chunks of OpenAI's own format, for clients of that; not for an ``EventSource``

    With ``n``, the events of further choices have ``"choice"`` in their data. Of a function's rounds, ``usage`` and
    ``done`` come once, at its end, and ``"openai"`` leaves out the calls of tools that were answered here.

    A browser that leaves is noticed within half a second where the server hands over its socket (gunicorn, werkzeug),
    also while nothing comes from the model; elsewhere when it cannot be written to: for ``"text"``, which has no
    heartbeats, that is at the next piece of text.

    Args:
        source: a stream that was not yet read from, which this closes; or a function.
        format: what the browser gets.
        stream_options: of ``"openai"``, the field of that name in the client's request: the tokens used are sent only
            where it has ``"include_usage"``.
        environ: the WSGI environment, to watch the browser's socket, to answer a reconnect with 204, and a HEAD without
            asking the model.
        heartbeat: seconds in which nothing is sent, after which a comment is.
        first_wait: seconds to wait for the first event before the headers are sent; ``heartbeat`` where None.
        on_done: called with the whole answer before the browser learns that it is complete, for instance to store it;
            on the thread that writes the response. Not called when the answer fails or the browser leaves; what it
            raises is an error of the stream.
        on_disconnect: called with the answer as far as it had come, ``truncated``, when the browser leaves before its
            end, for instance because the visitor has pressed stop; on the thread that closes the response. Not called
            where nothing had come, nor when the answer fails; what it raises is logged.

    Raises:
        ConfigurationError: an unknown format, or a number of seconds that is not positive.
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
    ) -> None:
        if format not in _FORMATS:
            raise ConfigurationError(f"format must be 'sse', 'text' or 'openai', not {format!r}")
        for seconds in (heartbeat, first_wait):
            if seconds is not None and not 0 < seconds < math.inf:
                raise ConfigurationError(f"heartbeat and first_wait must be positive seconds, not {seconds!r}")
        self.status_code = 200
        self.headers: list[tuple[str, str]] = []
        self._stream: ChatStream | _Function = _Function(source) if callable(source) else source
        self._format = _FORMATS[format](
            answered_here=callable(source), include_usage=bool(as_mapping(stream_options).get("include_usage"))
        )
        self._heartbeat = heartbeat
        self._on_done = on_done
        self._on_disconnect = on_disconnect
        self._over = False
        self._left = False
        self._released = threading.Event()
        self._unwatch: Callable[[], None] = _nothing
        # Looked up here and not imported: gevent replaces it.
        self._read: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._body: Iterator[bytes] = iter(())
        self._reader: threading.Thread | None = None
        if environ is not None and is_reconnect(environ):
            self.status_code = 204
            self._release()
            return
        self.headers = [("Content-Type", self._format.content_type), *SAFE_HEADERS]
        if environ is not None and environ.get("REQUEST_METHOD") == "HEAD":
            self._release()
            return
        try:
            if environ is not None:
                self._unwatch = _watch_browser(environ, self._disconnected)
            self._start(heartbeat if first_wait is None else first_wait)
        except BaseException:
            self._release()
            raise

    @property
    def status(self) -> str:
        """As ``start_response`` takes it: ``"200 OK"``."""
        return f"{self.status_code} {HTTPStatus(self.status_code).phrase}"

    def __iter__(self) -> Iterator[bytes]:
        # Not this object: a server's loop over the generator itself costs less for each piece.
        return self._body

    def __next__(self) -> bytes:
        return next(self._body)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_released") and not self._released.is_set():
            self._left = True
            self._release()

    def close(self) -> None:
        """End the response, and the call to the model where it is not over. May be called twice, and on any thread."""
        self._left = True
        self._release()
        if isinstance(self._body, Generator):
            _close(self._body)
        on_disconnect, self._on_disconnect = self._on_disconnect, None
        if on_disconnect is not None and self._reader is not None:
            self._tell_what_came(on_disconnect, self._reader)

    def _tell_what_came(self, on_disconnect: Handler, reader: threading.Thread) -> None:
        """Call ``on_disconnect``, whose failure must not reach the server."""
        reader.join(ENDING_SECONDS)
        if reader.is_alive():
            log.warning("a stream to a browser did not end when it was cancelled: what had come of its answer is lost")
            return
        try:
            try:
                came = self._stream.response
            except ResponseTypeError as error:  # half a value has no type
                came = error.partial
            if came is not None and came.choices:
                on_disconnect(came)
        except Exception:
            log.exception("what had come of a stream to a browser could not be kept")

    def _start(self, seconds: float) -> None:
        """Send the request on a thread of its own, and decide on the status by what comes first."""
        reading = (self._stream, self._read, self._heartbeat, self._released)
        self._reader = spawn(_read_ahead, *reading, name="openai_compat web")
        try:
            first = self._read.get(timeout=seconds)
        except queue.Empty:
            first = TICK_EVENT
        if isinstance(first, StreamEvent) and first.error is not None:
            first = first.error
        if isinstance(first, BaseException):
            self._refuse(first)
        else:
            self._body = self._run(first)

    def _refuse(self, error: BaseException) -> None:
        shown = self._shown(error)
        body = encode_json(shown.to_wire())
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
        self._on_disconnect = None
        self._release()

    def _run(self, first: Any) -> Generator[bytes, None, None]:
        try:
            if self._format.begin:
                yield self._format.begin
            yield from self._encoded(self._queued(first))
            if not self._over and not isinstance(self._stream, _Function):
                yield from self._encoded(self._stream)
                self._over = True
        except Exception as error:
            self._over = True
            if not self._left:
                self._on_disconnect = None
                yield self._format.failed(self._shown(error))
        finally:
            self._release()

    def _queued(self, item: Any) -> Iterator[StreamEvent]:
        """The events that the other thread reads, beginning with ``item``."""
        while item is not _HANDED_OVER:
            if item is _END:
                self._over = True
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, BaseException):
                raise RuntimeError("the thread that reads the stream was ended") from item
            yield item
            try:
                item = self._read.get(timeout=self._heartbeat)
            except queue.Empty:
                item = TICK_EVENT

    def _encoded(self, events: Iterable[StreamEvent]) -> Iterator[bytes]:
        encode = self._format.encode
        unheard: float | None = None  # since when events come that the browser does not get
        for event in events:
            if self._left:
                return
            if event is TICK_EVENT:
                yield self._format.beat
            elif event.kind == "error":
                raise event.data
            else:
                if event.kind == "done":
                    self._on_disconnect = None
                    if self._on_done is not None:
                        self._on_done(event.data)
                if data := encode(event):
                    unheard = None
                    yield data
                else:
                    now = time.monotonic()
                    unheard = now if unheard is None else unheard
                    if now - unheard >= self._heartbeat:
                        unheard = now
                        yield self._format.beat

    def _shown(self, error: BaseException) -> PublicError:
        shown = public_error(error)
        if self._left and isinstance(error, Cancelled):
            log.info("a browser left before its answer began")
        elif shown.type == _OF_THE_VISITOR or shown.status == 429:
            log.warning("a stream to a browser was refused (%d): %s", shown.status, error)
        else:
            log.error("a stream to a browser failed: %s", type(error).__name__, exc_info=error)
        return shown

    def _disconnected(self) -> None:
        self._left = True
        self._stream.cancel()

    def _release(self) -> None:
        self._released.set()
        self._unwatch()
        if not self._over:
            # First, for it also wakes another thread that is reading, which then closes the stream itself.
            self._stream.cancel()
        _close(self._stream)


class _Function:
    """A function that reports to a sink, as far as an ``EventStream`` treats it like a stream."""

    def __init__(self, run: Run) -> None:
        self.response: ChatResponse | None = None
        self._run = run
        self._token = CancelToken()

    def run(self, put: Callable[[StreamEvent], object]) -> None:
        """Call it, and pass on what its sink hears: of all its rounds, one end."""

        call = CallInfo()

        def hear(event: StreamEvent) -> None:
            nonlocal call
            call = event.call
            if event.kind not in ("usage", "done", "error"):
                put(event)

        try:
            answer = self._run(sink=hear, cancel=self._token)
        except Cancelled as error:
            self.response = error.partial
            raise
        if not isinstance(answer, ChatResponse):
            raise ConfigurationError(f"a function that is streamed returns its answer, not {type(answer).__name__}")
        self.response = answer
        if answer.usage is not None:
            put(StreamEvent("usage", answer.usage, 0, call))
        put(StreamEvent("done", answer, 0, call))

    def cancel(self) -> None:
        self._token.cancel()

    def close(self) -> None:
        pass


# Not a method: its thread must not keep alive an ``EventStream`` that everyone else has forgotten.
def _read_ahead(
    stream: ChatStream | _Function, read: queue.SimpleQueue[Any], heartbeat: float, released: threading.Event
) -> None:
    """Read the first event, and all others too where only waiting on another thread can tell that none comes."""
    try:
        if isinstance(stream, _Function):
            stream.run(read.put)
        else:
            for event in stream:
                read.put(event)
                if stream.tick_every(heartbeat):
                    read.put(_HANDED_OVER)
                    return
        read.put(_END)
    except BaseException as error:
        read.put(error)
    finally:
        if released.is_set():
            _close(stream)


_HANDED_OVER = object()
_END = object()


def _nothing() -> None:
    pass


def _close(stream: Any) -> None:
    """Close what may be in use by another thread; what its owner's code raises must not reach the server."""
    try:
        stream.close()
    except Exception as error:
        if not (isinstance(error, ValueError) and "already executing" in str(error)):
            log.exception("a stream to a browser could not be closed")


class _Format(Protocol):
    """Events as bytes. ``begin`` comes first, ``beat`` shows that the server is alive."""

    content_type: str
    begin: bytes
    beat: bytes

    def encode(self, event: StreamEvent) -> bytes:
        """An event; empty where the browser does not get it."""

    def failed(self, error: PublicError) -> bytes:
        """The last bytes of a stream that failed."""


class _ServerSentEvents:
    content_type = "text/event-stream; charset=utf-8"
    begin = b"retry: %d\nid: 0\n\n" % RETRY_MS
    beat = b": \n\n"

    def __init__(self, *, answered_here: bool = False, include_usage: bool = False) -> None:
        self._id = 0

    def encode(self, event: StreamEvent) -> bytes:
        kind: str = event.kind
        if kind == "text" and not event.index:
            # As below, for what is nearly all there is.
            self._id += 1
            return b'event: text\nid: %d\ndata: {"delta":%b}\n\n' % (self._id, _json(event.data))
        if kind in ("text", "reasoning", "refusal"):
            fields = {"delta": event.data}
        elif kind == "tool_call_done":
            kind = "tool_call"
            fields = _tool_call(event.data)
        elif kind == "usage":
            fields = _usage(event.data)
        elif kind == "done":
            fields = _summary(event.data)
        else:
            return b""
        if event.index:
            fields["choice"] = event.index
        return self._event(kind, fields)

    def failed(self, error: PublicError) -> bytes:
        return self._event("error", error.to_wire()["error"])

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._id += 1
        return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), self._id, _json(fields))


def _tool_call(call: ToolCall) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return {**fields, "invalid": True, "arguments_json": call.arguments_json} if call.invalid else fields


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _summary(response: ChatResponse) -> dict[str, Any]:
    return {
        "finish_reason": response.finish_reason,
        "model": response.model,
        "usage": None if response.usage is None else _usage(response.usage),
        "truncated": response.truncated,
    }


class _Text:
    content_type = "text/plain; charset=utf-8"
    begin = b""
    # Sends the headers, and nothing more.
    beat = b""

    def __init__(self, *, answered_here: bool = False, include_usage: bool = False) -> None:
        self._begun = False

    def encode(self, event: StreamEvent) -> bytes:
        text = event.delta or event.refusal
        self._begun = self._begun or bool(text)
        return text.encode("utf-8", "replace")

    def failed(self, error: PublicError) -> bytes:
        return b"%b[%b]\n" % (b"\n\n" if self._begun else b"", error.message.encode())


class _Chunks:
    content_type = "text/event-stream; charset=utf-8"
    # Neither "id" nor "retry": after one of them, OpenAI's own decoder takes every blank line for an event.
    begin = b""
    beat = b": \n\n"

    def __init__(self, *, answered_here: bool = False, include_usage: bool = False) -> None:
        self._head: dict[str, Any] = {}
        self._answered_here = answered_here
        self._include_usage = include_usage
        self._begun: set[int] = set()
        self._announced: dict[int, int] = {}
        self._held: set[int] = set()

    def encode(self, event: StreamEvent) -> bytes:
        kind = event.kind
        if not self._head:
            self._begin(event)
        if kind == "text":
            return self._delta(event.index, {"content": event.data})
        if kind == "reasoning":
            return self._delta(event.index, {"reasoning_content": event.data})
        if kind == "refusal":
            return self._delta(event.index, {"refusal": event.data})
        if kind == "tool_call_delta" and not self._answered_here:
            return self._piece_of_call(event.index, event.data)
        return self._end(event.data) if kind == "done" else b""

    def failed(self, error: PublicError) -> bytes:
        return b"data: %b\n\n" % _json(error.to_wire())

    def _begin(self, event: StreamEvent) -> None:
        self._head = {
            "id": f"chatcmpl-{event.call.call_id or os.urandom(12).hex()}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": event.call.model or (event.data.model if event.kind == "done" else ""),
        }
        if self._include_usage:
            self._head["usage"] = None

    def _piece_of_call(self, index: int, piece: ToolCallDelta) -> bytes:
        """A call that can be announced once and for all is streamed; any other, and those behind it, wait for the end.

        Clients append whatever comes: a name may grow until the arguments begin, an id may come late or be made, and
        arguments that are no object become one.
        """
        announced = self._announced.get(index, 0)
        arguments = piece.arguments
        if piece.position < announced:
            return self._call(index, piece.position, function={"arguments": arguments})
        ready = piece.position == announced and piece.id and piece.name and arguments.lstrip().startswith("{")
        if index in self._held or not ready:
            self._held.add(index)
            return b""
        return self._announce(index, piece.id, piece.name, arguments)

    def _announce(self, index: int, call_id: str, name: str, arguments: str) -> bytes:
        position = self._announced.get(index, 0)
        self._announced[index] = position + 1
        function = {"name": name, "arguments": arguments}
        return self._call(index, position, id=call_id, type="function", function=function)

    def _call(self, index: int, position: int, **fields: Any) -> bytes:
        return self._delta(index, {"tool_calls": [{"index": position, **fields}]})

    def _delta(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        before = b""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
            # Clients keep choices in a list, and add a new one at its end, whatever its index.
            missing = [lower for lower in range(min(index, MAX_CHOICES)) if lower not in self._begun]
            before = b"".join(self._delta(lower, {}) for lower in missing)
        return before + self._chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish_reason}])

    def _end(self, response: ChatResponse) -> bytes:
        end = b""
        for choice in response.choices:
            for call in choice.tool_calls[self._announced.get(choice.index, 0) :]:
                end += self._announce(choice.index, call.id, call.name, call.arguments_json)
            if not response.truncated:
                end += self._delta(choice.index, {}, _finish_reason(choice))
        if self._include_usage and response.usage is not None:
            end += self._chunk(choices=[], usage=_wire_usage(response.usage))
        # Without these, a client of this format sees that the answer is cut short.
        return end if response.truncated else end + b"data: [DONE]\n\n"

    def _chunk(self, **fields: Any) -> bytes:
        return b"data: %b\n\n" % _json({**self._head, **fields})


def _finish_reason(choice: Choice) -> str:
    """Always one: without it, clients of this format call a whole answer broken."""
    if choice.finish_reason != UNKNOWN:
        return choice.finish_reason
    return "tool_calls" if choice.tool_calls else "stop"


def _wire_usage(usage: Usage) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens or 0,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total_tokens or 0,
    }
    if usage.cached_tokens is not None:
        wire["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        wire["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return wire


_FORMATS: Mapping[str, Callable[..., _Format]] = {
    "sse": _ServerSentEvents,
    "text": _Text,
    "openai": _Chunks,
}


def _json(fields: dict[str, Any] | str) -> bytes:
    try:
        return encode_json(fields)
    except UnicodeError:
        # Half of a surrogate pair, the other half of which the next piece has: the browser puts them together.
        return json.dumps(fields, separators=(",", ":")).encode()


def _watch_browser(environ: Mapping[str, Any], leave: Callable[[], None]) -> Callable[[], None]:
    """Call ``leave`` when the browser goes away, where its socket is known; what is returned ends that.

    Its stream is not kept alive for it.
    """
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if sock is None or not hasattr(socket, "MSG_DONTWAIT"):
        return _nothing
    global _watcher
    if _watcher.process != os.getpid():
        _watcher = DisconnectWatcher()
    return _watcher.add(weakref.WeakMethod(leave), sock)


class DisconnectWatcher:
    """The one thread that looks after the browsers of all streams, while there are any."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # Taken again where the lock's holder drops the last reference to a stream, which is then closed.
        self._lock = threading.RLock()
        self._sockets: dict[Leave, Any] = {}
        self._looking = False

    def add(self, leave: Leave, sock: Any) -> Callable[[], None]:
        """Look after a browser; what is returned ends that."""
        with self._lock:
            self._sockets[leave] = sock
            if not self._looking:
                threading.Thread(target=self._look, name="openai_compat watcher", daemon=True).start()
                self._looking = True
        return lambda: self._remove(leave)

    def _remove(self, leave: Leave) -> None:
        with self._lock:
            self._sockets.pop(leave, None)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_EVERY)
            with self._lock:
                try:
                    gone = _gone(self._sockets)
                except Exception:
                    log.exception("browsers cannot be watched; heartbeats tell which have left")
                    gone = []
                    self._sockets.clear()
                for leave in gone:
                    del self._sockets[leave]
                self._looking = bool(self._sockets)
                last = not self._looking
            for leave in gone:
                try:
                    if (call := leave()) is not None:
                        call()
                except Exception:
                    log.exception("a stream whose browser has left could not be cancelled")
            if last:
                return


_watcher = DisconnectWatcher()


def _gone(sockets: Mapping[Leave, Any]) -> list[Leave]:
    """Whose browser has closed its connection."""
    if (new_poll := _system_poll()) is None:
        return [leave for leave, sock in sockets.items() if _has_ended(sock)]
    poll = new_poll()
    numbers = {leave: sock.fileno() for leave, sock in sockets.items()}
    for number in numbers.values():
        if number >= 0:
            poll.register(number, select.POLLRDHUP)
    hung_up = {-1, *(number for number, _ in poll.poll(0))}
    return [leave for leave, number in numbers.items() if number in hung_up]


def _system_poll() -> Callable[[], Any] | None:
    """The operating system's own ``poll``, where it tells of a peer that has closed its side."""
    if not hasattr(select, "POLLRDHUP"):
        return None
    # gevent takes poll away, or puts one in its place that knows no POLLRDHUP.
    gevent = sys.modules.get("gevent.monkey")
    return gevent.get_original("select", "poll") if gevent is not None else select.poll


def _has_ended(sock: Any) -> bool:
    try:
        # Past gevent's and TLS's own recv, which would wait, or take no flags.
        return not _socket.socket.recv(getattr(sock, "_sock", sock), 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
