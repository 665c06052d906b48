"""Bodies to answers: one JSON reply, or an event stream that came in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import APIError, Cancelled, ResponseParseError, StreamError, StreamServerError
from .accumulate import Accumulator, InlineThink, verdict
from .decode import NotJSONError, decode_json
from .error_body import ErrorDetail, find_error, status_error, stream_error
from .reasoning import DEFAULT_TAGS
from .response import CallInfo, ChatResponse, StreamEvent
from .sse import BEAT, DONE, MAX_EVENT_BYTES, iter_payloads, looks_like_sse

T = TypeVar("T")

SILENCE = StreamEvent("text", "")
"""This very event stands for ``BEAT``."""


def parse_turn(
    payload: Any,
    *,
    call: CallInfo | None = None,
    inline_think: InlineThink = "split",
    think_opened: bool = False,
    think_tags: Sequence[str] = DEFAULT_TAGS,
    make_id: Callable[[], str] | None = None,
    latency_ms: float = 0.0,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ChatResponse:
    """One decoded reply as a value, empty or not: nothing is judged."""
    accumulator = Accumulator(
        call, inline_think=inline_think, think_opened=think_opened, think_tags=think_tags, make_id=make_id
    )
    for item in payload if isinstance(payload, list) else [payload]:
        accumulator.feed(item)
    accumulator.finish()
    return accumulator.response(
        latency_ms=latency_ms,
        request_id=request_id,
        headers=headers,
        raw=payload if isinstance(payload, dict) else None,
    )


def parse_response(
    body: bytes | bytearray | str,
    *,
    call: CallInfo | None = None,
    inline_think: InlineThink = "split",
    think_opened: bool = False,
    think_tags: Sequence[str] = DEFAULT_TAGS,
    strict: bool = False,
    make_id: Callable[[], str] | None = None,
    latency_ms: float = 0.0,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    secrets: Iterable[str] = (),
    url: str = "",
) -> ChatResponse:
    """The answer in the body of a reply with HTTP 200.

    An event stream in place of JSON is read as well; ``strict`` refuses one that does not say that it is complete.

    Raises:
        ResponseParseError: not JSON.
        APIStatusError: the body is an error.
        ResponseShapeError: no choices, or an answer without text, tool calls or refusal.
        StreamInterruptedError: an event stream that is cut short, where ``strict``.
    """
    info = call or CallInfo()
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    if looks_like_sse(data):
        accumulator = Accumulator(
            info, inline_think=inline_think, think_opened=think_opened, think_tags=think_tags, make_id=make_id
        )
        try:
            complete = drain(stream_events([bytes(data)], accumulator, max_event_bytes=len(data) + 8))
        except StreamServerError:
            raise status_error(
                200,
                headers or {},
                json.dumps({"error": (accumulator.error or ErrorDetail())._asdict()}),
                provider=info.provider,
                url=url,
                request_id=request_id,
                secrets=secrets,
            ) from None
        response = accumulator.response(
            truncated=not complete, latency_ms=latency_ms, request_id=request_id, headers=headers
        )
    else:
        payload = decode_body(data, provider=info.provider, request_id=request_id)
        items = payload if isinstance(payload, list) else [payload]
        failed = next((item for item in items if find_error(item) is not None), None)
        if failed is not None:
            raise status_error(
                200,
                headers or {},
                bytes(data) if failed is payload else json.dumps(failed),
                provider=info.provider,
                url=url,
                request_id=request_id,
                secrets=secrets,
            )
        complete = True
        response = parse_turn(
            payload,
            call=info,
            inline_think=inline_think,
            think_opened=think_opened,
            think_tags=think_tags,
            make_id=make_id,
            latency_ms=latency_ms,
            request_id=request_id,
            headers=headers,
        )
    error = verdict(response, complete=complete, strict=strict)
    if error is not None:
        raise stamped(error, info.provider, request_id)
    return response


def decode_body(data: bytes | bytearray, *, provider: str = "", request_id: str | None = None) -> Any:
    """Decode a JSON body.

    Raises:
        ResponseParseError: not JSON; retryable where there was nothing, or only the beginning of a body.
    """
    try:
        return decode_json(data)
    except NotJSONError as error:
        start = bytes(data[:200]).decode("utf-8", "replace").strip()
        what = "an HTML page" if start.startswith("<") else "empty" if not start else f"not JSON ({error})"
        raise ResponseParseError(
            f"the reply of {provider or 'the server'} is {what}",
            provider=provider,
            request_id=request_id,
            retryable=not start or error.cut_short,
        ) from None


def stream_events(
    chunks: Iterable[bytes],
    accumulator: Accumulator,
    *,
    max_event_bytes: int = MAX_EVENT_BYTES,
    request_id: str | None = None,
    secrets: Iterable[str] = (),
    heard: Callable[..., object] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Generator[StreamEvent, None, bool]:
    """The events of a streamed body, all but the last; returns whether the body says that it is complete.

    Args:
        heard: called with ``token=`` for each payload: whether there was a piece of the answer in it.
        stopped: asked before each payload: whether the caller has ended the call.

    Raises:
        StreamServerError: the server sent an error inside the stream.
        StreamError: an event is larger than ``max_event_bytes``.
        Cancelled: ``stopped`` said so.
    """
    done = False
    try:
        for payload in iter_payloads(chunks, max_event_bytes=max_event_bytes):
            if payload is DONE:
                done = True
                break
            if stopped is not None and stopped():
                raise Cancelled
            if payload is BEAT:
                yield SILENCE
                continue
            events = accumulator.feed(payload)
            if heard is not None:
                heard(token=bool(events))
            yield from events
            if accumulator.error is not None:
                raise stream_error(accumulator.error, provider=accumulator.call.provider, secrets=secrets)
    except StreamError as error:
        raise stamped(error, accumulator.call.provider, request_id) from None
    yield from accumulator.finish()
    return done or accumulator.finished


def drain(events: Generator[StreamEvent, None, T]) -> T:
    """Run events to their end; what they return."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            result: T = stop.value
            return result


def stream_response(
    chunks: Iterable[bytes],
    sink: Callable[[StreamEvent], Any],
    *,
    call: CallInfo | None = None,
    inline_think: InlineThink = "split",
    think_opened: bool = False,
    strict: bool = False,
) -> ChatResponse:
    """Push the events of a streamed body into ``sink``, the last one ``done`` or ``error``; return the answer.

    Raises:
        StreamError, ResponseShapeError: as for a call, after ``sink`` has heard of it; ``.partial`` has what came.
    """
    accumulator = Accumulator(call, inline_think=inline_think, think_opened=think_opened)
    try:
        events = stream_events(chunks, accumulator)
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                complete = bool(stop.value)
                break
            sink(event)
        response = accumulator.response(truncated=not complete)
        error = verdict(response, complete=complete, strict=strict)
        if error is not None:
            raise stamped(error, response.provider, None)
    except APIError as failure:
        for event in accumulator.flush():
            sink(event)
        failure.provider = failure.provider or accumulator.call.provider
        failure.partial = failure.partial or accumulator.response()
        sink(StreamEvent("error", failure, 0, accumulator.call))
        raise
    sink(StreamEvent("done", response, 0, accumulator.call))
    return response


def stamped(error: APIError, provider: str, request_id: str | None) -> APIError:
    """``error``, with who was asked."""
    error.provider = provider
    error.request_id = request_id
    return error
