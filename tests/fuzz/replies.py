"""What servers send: streams, whole replies, errors, embeddings, lists of models."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from openai_compat.errors import (
    APIError,
    APIStatusError,
    ResponseParseError,
    ResponseShapeError,
    StreamError,
    StreamServerError,
)
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.chunk_template import ChunkTemplate
from openai_compat.wire.dialect import Dialect
from openai_compat.wire.embeddings import EmbeddingResponse, parse_embeddings_response
from openai_compat.wire.error_body import find_error, status_error
from openai_compat.wire.event_data import DONE, Unreadable
from openai_compat.wire.models import parse_models
from openai_compat.wire.parse import parse_response, parse_stream
from openai_compat.wire.partial_json import PartialJSON
from openai_compat.wire.reasoning import KNOWN_TAGS, ReasoningSplitter, split_reasoning
from openai_compat.wire.response import ChatResponse, ReplyInfo
from openai_compat.wire.response_format import tool_call_as_text
from openai_compat.wire.sse import NotAStream, iter_payloads

from .inputs import SECRET, attempt, cut, json_value, text


def payloads(data: bytes) -> None:
    """Bytes may be cut anywhere; the payloads are the same, or one of them is too large."""
    body, pieces = cut(data)
    whole, in_pieces = (attempt(partial(_payloads, chunks), StreamError) for chunks in ([body], pieces))
    assert repr(whole) == repr(in_pieces)


def _payloads(chunks: list[bytes]) -> list[str]:
    return [*map(repr, iter_payloads(chunks, max_event_bytes=30_000))]


def stream(data: bytes) -> None:
    """A streamed body comes to one answer, or to one error, however it is cut, and the sink hears the end once."""
    body, pieces = cut(data)
    assert _told([body]) == _told(pieces)


def _told(chunks: list[bytes]) -> tuple[Any, ...]:
    events: list[Any] = []
    result = attempt(
        lambda: parse_stream(chunks, events.append), StreamError, ResponseParseError, ResponseShapeError, APIStatusError
    )
    last = events[-1]
    assert [event for event in events if event.done or event.error] == [last]
    failed = isinstance(result, APIError)
    assert (last.error if failed else last.response) is result
    answer = result.partial if isinstance(result, APIError) else result
    assert answer is not None
    _check_answer(answer)
    first = [event for event in events if event.index == 0]
    assert "".join(event.delta for event in first).strip() == answer.text.strip()
    assert "".join(event.reasoning for event in first).strip() == answer.reasoning.strip()
    return (type(result).__name__, str(result) if failed else "", repr(attrs.asdict(answer)))


def _check_answer(answer: ChatResponse) -> None:
    """An answer can be shown, kept and sent back; its calls are told apart."""
    assert repr(answer)
    pickle.loads(pickle.dumps(answer))
    for choice in answer.choices:
        ids = [call.id for call in choice.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)
        for call in choice.tool_calls:
            assert call.invalid or call.type != "function" or isinstance(call.arguments, dict)
    if answer.choices:
        json.dumps(answer.to_message().to_wire())


def chunk_template(data: bytes) -> None:
    """Chunks that differ in one string alone say the same, read the short way or the long one."""
    assert _fed(data, None) == _fed(data, ChunkTemplate())


def _fed(body: bytes, template: ChunkTemplate | None) -> str:
    accumulator = Accumulator()
    for payload in iter_payloads([body], template=template):
        if payload is DONE:
            break
        if isinstance(payload, (Unreadable, NotAStream)):
            continue
        if isinstance(payload, str):
            accumulator.feed_text(payload)
        else:
            accumulator.feed(payload)
    accumulator.finish()
    return repr(attrs.asdict(accumulator.response()))


def tool_calls(data: bytes) -> None:
    """Deltas of tool calls, a JSON value a line: every call is whole or says why not, and none is made up."""
    accumulator = Accumulator()
    deltas = [json_value(line) for line in data.split(b"\n")]
    for delta in deltas:
        entries = delta if isinstance(delta, list) else [delta]
        accumulator.feed({"choices": [{"index": 0, "delta": {"tool_calls": entries}}]})
    accumulator.finish()
    answer = accumulator.response()
    _check_answer(answer)
    said = json.dumps(deltas, ensure_ascii=False)
    for call in answer.tool_calls:
        assert all(json.dumps(char, ensure_ascii=False)[1:-1] in said for char in call.name), "a name nobody wrote"


def deltas(data: bytes) -> None:
    """Deltas of any shape, a JSON value a line, come to an answer; so they do where a call's arguments are the text."""
    values = [json_value(line) for line in data.split(b"\n")]
    changes: tuple[Callable[[Any], Any], ...] = (lambda payload: payload, tool_call_as_text)
    for change in changes:
        accumulator = Accumulator()
        for value in values:
            accumulator.feed(change({"choices": [{"index": 0, "delta": value}]}))
            accumulator.feed(change(value))
        accumulator.finish()
        _check_answer(accumulator.response())


_ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 9,
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "input": "x",
    "encoding_format": "base64",
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
    "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}},
}


def rejection(data: bytes) -> None:
    """What a server says of a request that it refuses teaches what can be sent; a user's words in it do not."""
    dialect = Dialect()
    for _ in range(8):
        adapted = dialect.adapt(_ASKED)[0]
        assert json.dumps(adapted)
        taught = dialect.learn(status_error(400, {}, data, now=1.8e9), adapted)
        if taught is None:
            break
        dialect = taught
    words = text(data)
    quoting = {**_ASKED, "messages": [{"role": "user", "content": words}]}
    assert Dialect().learn(APIStatusError(words, status_code=400), quoting) is None


def reply(data: bytes) -> None:
    """A whole reply is an answer, or an error that can be shown, kept and raised again; the key is nowhere."""
    result = attempt(
        lambda: parse_response(data.replace(b"\x00", SECRET.encode()), secrets=[SECRET], reply=ReplyInfo(headers={})),
        ResponseParseError,
        APIStatusError,
        ResponseShapeError,
        StreamServerError,
        StreamError,
    )
    if isinstance(result, ChatResponse):
        _check_answer(result)
    else:
        _check_error(result, len(data))


def error_body(data: bytes) -> None:
    """The body of an error, under any status, is told within bounds and without the caller's key."""
    status = (400, 401, 404, 429, 500, 503)[data[0] % 6] if data else 502
    body = data[1:].replace(b"\x00", SECRET.encode())
    find_error(json_value(body))
    error = status_error(status, {"content-type": "application/json"}, body, secrets=[SECRET], now=1.8e9)
    assert error.status_code == status
    assert error.code is None or isinstance(error.code, (str, int))
    assert error.retry_after is None or 0 < error.retry_after < 1e9
    assert len(str(error)) < 5000
    _check_error(error, len(body))


def _check_error(error: APIError, size: int) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert len(str(error)) < size + 5000
    fields = {name: value for name, value in vars(error).items() if name != "partial"}
    assert SECRET not in f"{error} {error!r} {fields!r}"


def embeddings(data: bytes) -> None:
    """Vectors are finite, of one length, and as many as the texts; what JSON says in plain floats is what comes."""
    count = data[0] % 4 if data else 1
    dtype = ("float32", "int8", "uint8", "binary", "ubinary", "other")[data[0] // 4 % 6] if data else "float32"
    body = data[1:]
    result = attempt(
        lambda: parse_embeddings_response(body, count=count, dtype=dtype),
        ResponseParseError,
        APIStatusError,
        ResponseShapeError,
    )
    if isinstance(result, EmbeddingResponse):
        assert len(result) == count
        assert len({len(vector) for vector in result}) == 1
        assert all(math.isfinite(number) for vector in result for number in vector)
        assert pickle.loads(pickle.dumps(result)) == result
    else:
        _check_error(result, len(body))


def models(data: bytes) -> None:
    """A list of models, or a documented error."""
    listed = attempt(lambda: parse_models(json_value(data)), ResponseShapeError)
    assert isinstance(listed, ResponseShapeError) or all(model.id for model in listed)


def partial_json(data: bytes) -> None:
    """JSON in pieces is JSON in one: and what the standard library reads."""
    body, pieces = cut(data)
    whole, in_pieces = PartialJSON(), PartialJSON()
    whole.feed(text(body))
    letters = text(body)
    at = 0
    for piece in pieces:
        in_pieces.feed(letters[at : at + len(piece)])
        at += len(piece)
        assert in_pieces.value is None or isinstance(in_pieces.value, (dict, list))
    assert _flat(whole.value) == _flat(in_pieces.value)
    assert whole.complete == in_pieces.complete
    expected = _standard(letters)
    if isinstance(expected, (dict, list)):
        assert whole.complete
        assert _flat(whole.value) == _flat(expected)


def _flat(value: Any) -> list[str]:
    """A value of any depth as what can be compared."""
    found, waiting = [], [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            found.append(f"object {list(inner)}")
            waiting += inner.values()
        elif isinstance(inner, list):
            found.append(f"array {len(inner)}")
            waiting += inner
        else:
            found.append(repr(inner))
    return found


def _standard(letters: str) -> Any:
    """What the standard library reads; None where it fails, or differs on purpose (surrogates, NaN, huge numbers)."""
    try:
        value = json.loads(letters, parse_constant=lambda name: 1 / 0)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError, ZeroDivisionError):
        return None
    return value


def reasoning(data: bytes) -> None:
    """Text and reasoning are the same however the content is cut, and nothing is in them that was not said."""
    body, pieces = cut(data)
    letters = text(body)
    mode = data[0] if data else 0
    leading, opened = bool(mode & 1), bool(mode & 2)
    splitter = ReasoningSplitter(KNOWN_TAGS, opened=opened, leading=leading)
    found = []
    at = 0
    for piece in pieces:
        found += splitter.feed(letters[at : at + len(piece)])
        at += len(piece)
    found += splitter.finish()
    joined = tuple("".join(piece for kind, piece in found if kind == wanted) for wanted in ("text", "reasoning"))
    assert joined == split_reasoning(letters, KNOWN_TAGS, opened=opened, leading=leading)
    assert sum(map(len, joined)) <= len(letters) + letters.count("<") + letters.count("[") + letters.count("\u25c1")
