"""Bodies to answers: one JSON reply, or an event stream that came in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from .._json import NotJSONError, decode_reply
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    Cancelled,
    ResponseParseError,
    StreamError,
    StreamInterruptedError,
    StreamServerError,
)
from ..redaction import redact_error_body
from .accumulate import Accumulator
from .chunk_template import ChunkTemplate
from .completeness import check_complete
from .error_body import ErrorDetail, describe_text, find_error, status_error, stream_error
from .event_data import DONE, Unreadable
from .reasoning import ThinkOptions
from .response import CallInfo, ChatResponse, ReplyInfo, StreamEvent
from .sse import MAX_EVENT_BYTES, TICK, NotAStream, iter_payloads, looks_like_sse

T = TypeVar("T")

TICK_EVENT = StreamEvent("text", "")
"""This very event stands for ``TICK``."""


def parse_turn(
    payload: Any,
    *,
    call: CallInfo | None = None,
    think: ThinkOptions = ThinkOptions(),  # noqa: B008 - a frozen value
    several: bool = False,
    make_id: Callable[[], str] | None = None,
    reply: ReplyInfo = ReplyInfo(),  # noqa: B008 - a frozen value
) -> ChatResponse:
    """One decoded reply as a value, empty or not: nothing is judged."""
    return _whole(payload, Accumulator(call, think=think, several=several, make_id=make_id), reply)


def _whole(payload: Any, accumulator: Accumulator, reply: ReplyInfo) -> ChatResponse:
    for item in payload if isinstance(payload, list) else [payload]:
        accumulator.feed(item)
    accumulator.finish()
    return accumulator.response(reply, raw=payload if isinstance(payload, dict) else None)


def parse_response(
    body: bytes | bytearray | str,
    *,
    call: CallInfo | None = None,
    think: ThinkOptions = ThinkOptions(),  # noqa: B008 - a frozen value
    several: bool = False,
    strict: bool = False,
    make_id: Callable[[], str] | None = None,
    reply: ReplyInfo = ReplyInfo(),  # noqa: B008 - a frozen value
    secrets: Iterable[str] = (),
    as_text: Callable[[Any], Any] | None = None,
) -> ChatResponse:
    """The answer in the body of a reply with HTTP 200.

    An event stream in place of JSON is read as well.

    Args:
        call, think, several, make_id: as for ``Accumulator``.
        strict: refuse an event stream that does not say that it is complete, or of which something cannot be read.
        reply: what came with the body.
        secrets: the caller's keys, masked wherever the server echoes them.
        as_text: ``tool_call_as_text``, where the answer was asked for as a call.

    Raises:
        ResponseParseError: not JSON.
        APIStatusError: the body is an error.
        ResponseShapeError: no choices, or an answer without text, tool calls, a refusal or anything else.
        StreamInterruptedError: an event stream that is cut short or damaged, where ``strict``.
    """
    accumulator = Accumulator(call, think=think, several=several, make_id=make_id)
    provider = accumulator.call.provider
    secrets = tuple(secrets)
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    payload, streamed = None, looks_like_sse(data)
    if not streamed:
        try:
            payload = decode_reply(data)
        except NotJSONError as reason:
            # Some servers end even a whole body with "data: [DONE]".
            streamed = _DATA_LINE.search(data) is not None
            if not streamed:
                raise _not_json(data, reason, provider, reply.request_id, secrets) from None

    def refused(error: bytes | str) -> APIStatusError:
        return status_error(
            200,
            reply.headers or {},
            error,
            provider=provider,
            url=reply.url,
            request_id=reply.request_id,
            secrets=secrets,
        )

    if streamed:
        events = stream_events(
            [bytes(data)],
            accumulator,
            max_event_bytes=len(data) + 8,
            request_id=reply.request_id,
            secrets=secrets,
            strict=strict,
            as_text=as_text,
        )
        try:
            complete = drain(events)
        except StreamServerError:
            raise refused(json.dumps({"error": (accumulator.error or ErrorDetail())._asdict()})) from None
        response = accumulator.response(reply, truncated=not complete)
    else:
        items = payload if isinstance(payload, list) else [payload]
        failed = next((item for item in items if find_error(item) is not None), None)
        if failed is not None:
            raise refused(bytes(data) if failed is payload else json.dumps(failed))
        complete = True
        response = _whole(payload if as_text is None else as_text(payload), accumulator, reply)
    check_complete(response, complete=complete, strict=strict, secrets=secrets, request_id=reply.request_id)
    return response


def decode_body(
    data: bytes | bytearray, *, provider: str = "", request_id: str | None = None, secrets: Iterable[str] = ()
) -> Any:
    """Decode a JSON body; the error of one that is none masks ``secrets``, the caller's keys.

    Raises:
        ResponseParseError: not JSON; retryable where there was nothing, or only the beginning of a body.
    """
    try:
        return decode_reply(data)
    except NotJSONError as error:
        raise _not_json(data, error, provider, request_id, secrets) from None


_DATA_LINE = re.compile(rb"^data:", re.MULTILINE)


def _not_json(
    data: bytes | bytearray, error: NotJSONError, provider: str, request_id: str | None, secrets: Iterable[str]
) -> ResponseParseError:
    start = bytes(data[:4096]).decode("utf-8", "replace").strip()
    what = "empty" if not start else f"not JSON ({error})"
    if start.startswith("<"):
        what = redact_error_body(describe_text(start).message, secrets=secrets)
    elif start and not start.startswith(("{", "[")):
        what = f"not JSON but text: {redact_error_body(start, secrets=secrets, limit=200)}"
    return ResponseParseError(
        f"the reply of {provider or 'the server'} is {what}",
        provider=provider,
        request_id=request_id,
        retryable=not start or error.cut_short,
    )


def stream_events(
    chunks: Iterable[bytes],
    accumulator: Accumulator,
    *,
    max_event_bytes: int = MAX_EVENT_BYTES,
    request_id: str | None = None,
    secrets: Iterable[str] = (),
    on_payload: Callable[..., object] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
    check: Callable[[], object] | None = None,
    strict: bool = False,
    as_text: Callable[[Any], Any] | None = None,
) -> Generator[StreamEvent, None, bool]:
    """The events of a streamed body, all but the last; returns whether the answer is known to be complete.

    A connection that breaks after the ``finish_reason`` costs nothing. An event that cannot be read is logged, and the
    answer not complete.

    Args:
        on_payload: called for each payload with ``token=``, whether there was a piece of the answer in it, and
            ``over=``, whether all has been said.
        is_cancelled: asked before each payload: whether the caller has ended the call.
        check: called at least every 64 KB and every 1,000 lines; what it raises ends the reading.
        strict: an event that cannot be read ends the call.
        as_text: ``tool_call_as_text``, where the answer was asked for as a call.

    Raises:
        StreamServerError: the server sent an error inside the stream.
        StreamInterruptedError: an event cannot be read, where ``strict``.
        StreamError: an event is larger than ``max_event_bytes``, or the answer than any.
        ResponseParseError: the body is neither an event stream nor JSON.
        Cancelled: ``is_cancelled`` said so.
    """
    done = False
    try:
        payloads = iter_payloads(chunks, max_event_bytes=max_event_bytes, check=check, template=ChunkTemplate())
        for payload in payloads:
            if payload is DONE:
                done = True
                break
            if is_cancelled is not None and is_cancelled():
                raise Cancelled
            if payload is TICK:
                yield TICK_EVENT
                continue
            if type(payload) is Unreadable:
                _skip(payload, accumulator, secrets, strict)
                continue
            if type(payload) is NotAStream:
                provider = accumulator.call.provider
                decode_body(payload.body, provider=provider, request_id=request_id, secrets=secrets)
            if type(payload) is str:  # of a chunk that is like the one before, its text
                events = accumulator.feed_text(payload)
            else:
                events = accumulator.feed(payload if as_text is None else as_text(payload))
            if on_payload is not None:
                on_payload(token=bool(events), over=not events and accumulator.settled)
            yield from events
            if accumulator.error is not None:
                raise stream_error(accumulator.error, provider=accumulator.call.provider, secrets=secrets)
    except StreamError as error:
        raise attributed(error, accumulator.call.provider, request_id) from None
    except APIConnectionError:
        # When all has been said, a connection that breaks has come to its end.
        if not accumulator.finished:
            raise
    yield from accumulator.finish()
    return (done or accumulator.finished) and not accumulator.skipped


def _skip(lost: Unreadable, accumulator: Accumulator, secrets: Iterable[str], strict: bool) -> None:
    """Count an event that cannot be read, and say so: something of the answer may be missing."""
    from .._log import log

    provider = accumulator.call.provider or "the server"
    told = f"{provider}: an event of the stream cannot be read: {redact_error_body(lost.text, secrets=secrets)!r}"
    accumulator.skipped += 1
    if strict:
        raise StreamInterruptedError(f"{told}; the text so far is in .partial", retryable=True)
    log.warning("%s; something of the answer may be missing", told)


def drain(events: Generator[StreamEvent, None, T]) -> T:
    """Run events to their end; what they return."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            result: T = stop.value
            return result


def parse_stream(
    chunks: Iterable[bytes],
    sink: Callable[[StreamEvent], Any],
    *,
    call: CallInfo | None = None,
    think: ThinkOptions = ThinkOptions(),  # noqa: B008 - a frozen value
    strict: bool = False,
) -> ChatResponse:
    """Push the events of a streamed body into ``sink``, the last one ``done`` or ``error``; return the answer.

    Raises:
        StreamError, ResponseParseError, ResponseShapeError: as for a call, after ``sink`` has heard of it; ``.partial``
            has what came.
    """
    accumulator = Accumulator(call, think=think)
    try:
        events = stream_events(chunks, accumulator, strict=strict)
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                complete = bool(stop.value)
                break
            sink(event)
        response = accumulator.response(truncated=not complete)
        check_complete(response, complete=complete, strict=strict)
    except APIError as failure:
        for event in accumulator.flush():
            sink(event)
        failure.provider = failure.provider or accumulator.call.provider
        failure.partial = failure.partial or accumulator.response()
        sink(StreamEvent("error", failure, 0, accumulator.call))
        raise
    sink(StreamEvent("done", response, 0, accumulator.call))
    return response


def attributed(error: APIError, provider: str, request_id: str | None) -> APIError:
    """``error``, with who was asked."""
    error.provider = provider
    error.request_id = request_id
    return error
