"""What the server replays: bytes that are ready before anyone asks, and what they mean."""

import base64
import functools
import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import Answer

WORDS = (" the", " model", " answers", ",", " one", " small", " piece", " after", " another", ".", " Ünïcode", "\n")
STAMP = b"%020d" % 0  # the server writes the time of the write, in ns of CLOCK_MONOTONIC, over this
TEXTS, DIMENSIONS = 256, 1536
BIG = 4_000_000  # characters
ORDER_LINES = 1000


@dataclass(frozen=True)
class Scenario:
    """One reply, cut as the server writes it, and what a contestant must have understood of it."""

    writes: list[bytes]
    expected: Any
    pause: float = 0.0  # seconds before each write
    close: bool = False  # whether the end of the connection ends the reply

    @property
    def body_bytes(self) -> int:
        return sum(map(len, self.writes))


def _head(content_type: str, *lines: str) -> bytes:
    always = ("HTTP/1.1 200 OK", "date: Sat, 01 Mar 2025 12:00:00 GMT", "server: uvicorn", "x-request-id: req_1")
    return "\r\n".join([*always, f"content-type: {content_type}", *lines, "", ""]).encode()


def _json(value: Any) -> list[bytes]:
    body = json.dumps(value).encode()
    return [_head("application/json", f"content-length: {len(body)}") + body]


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(**fields: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-BTfAvyzWk4uVZJmR0P5HxU2K6qLs1",
        "object": "chat.completion.chunk",
        "created": 1740830400,
        "model": "m",
        "system_fingerprint": "fp_44709d6fcb",
        **fields,
    }
    return b"data: %s\n\n" % json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode()


def _choice(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def _events(deltas: Iterable[dict[str, Any]], finish: str, tokens: int) -> list[bytes]:
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    return [
        _choice({"role": "assistant", "content": ""}),
        *map(_choice, deltas),
        _choice({}, finish),
        _event(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]


def _chunked(pieces: Iterable[bytes]) -> list[bytes]:
    """The terminating chunk is a write of its own, as ASGI servers send it."""
    return [_head("text/event-stream", "transfer-encoding: chunked"), *map(_http_chunk, pieces), b"0\r\n\r\n"]


def _grouped(data: list[bytes], size: int) -> list[bytes]:
    return [b"".join(data[i : i + size]) for i in range(0, len(data), size)]


def chat() -> Scenario:
    text = "The sky is blue because air scatters short wavelengths of sunlight more than long ones."
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    answer = {
        "id": "chatcmpl-BTfAvyzWk4uVZJmR0P5HxU2K6qLs1",
        "object": "chat.completion",
        "created": 1740830400,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 18,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
    }
    return Scenario(_json(answer), Answer(text, "stop", 9, 18))


def orders() -> Scenario:
    """An answer that is meant for a ``response_type``."""
    lines = [{"name": f"n{number}", "price": 1.5, "count": number} for number in range(ORDER_LINES)]
    text = json.dumps({"customer": "c", "lines": lines})
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 18, "total_tokens": 27}
    return Scenario(_json({"model": "m", "choices": [choice], "usage": usage}), Answer(text, "stop", 9, 18))


def stream(chunks: int, events_a_write: int = 1) -> Scenario:
    words = [WORDS[i % len(WORDS)] for i in range(chunks)]
    events = _events(({"content": word} for word in words), "stop", chunks)
    return Scenario(_chunked(_grouped(events, events_a_write)), Answer("".join(words), "stop", 9, chunks))


def tools(deltas: int) -> Scenario:
    """Two parallel calls, half of the deltas each."""
    starts, pieces, expected = [], [], []
    for index, name in enumerate(("write_file", "send_mail")):
        words = [WORDS[i % len(WORDS)] for i in range(deltas // 2 - 2)]
        function = {"name": name, "arguments": ""}
        starts.append(
            {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}
        )
        for piece in ('{"text":"', *(json.dumps(word, ensure_ascii=False)[1:-1] for word in words), '"}'):
            pieces.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        expected.append((name, {"text": "".join(words)}))
    half = len(pieces) // 2
    order = [starts[0], *pieces[:half], starts[1], *pieces[half:]]
    return Scenario(_chunked(_events(order, "tool_calls", deltas)), expected)


def delay(chunks: int, close: bool) -> Scenario:
    """A chunk every millisecond, whose text is the time at which it was written."""
    events = _events([{"content": STAMP.decode() + " "}] * chunks, "stop", chunks)
    closing = [_head("text/event-stream", "connection: close"), *events]
    expected = (chunks, "stop", 9, chunks)
    return Scenario(closing if close else _chunked(events), expected, pause=0.001, close=close)


def big_event() -> Scenario:
    text = "0123456789abcdef" * (BIG // 16)
    data = b"".join(_events([{"content": text}], "stop", 1))
    kilobytes = [data[i : i + 1024] for i in range(0, len(data), 1024)]
    return Scenario(_chunked(kilobytes), Answer(text, "stop", 9, 1))


@functools.cache
def _vectors() -> "list[array[float]]":
    dice = random.Random(1)
    return [array("f", (dice.uniform(-0.1, 0.1) for _ in range(DIMENSIONS))) for _ in range(TEXTS)]


def digest(vectors: Iterable[Any]) -> tuple[int, str]:
    """Return the number of vectors and the hash of their float32 bytes, from float32 buffers or lists of floats."""
    raw = [array("f", vector) if isinstance(vector, list) else memoryview(vector).cast("B") for vector in vectors]
    return len(raw), hashlib.sha256(b"".join(raw)).hexdigest()


def embeddings(encoding: str) -> Scenario:
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": list(vector) if encoding == "float" else base64.b64encode(vector).decode(),
        }
        for index, vector in enumerate(_vectors())
    ]
    usage = {"prompt_tokens": TEXTS, "total_tokens": TEXTS}
    answer = {"object": "list", "data": data, "model": "m", "usage": usage}
    return Scenario(_json(answer), digest(_vectors()))


MAKERS: dict[str, Callable[[], Scenario]] = {
    "chat": chat,
    "orders": orders,
    "embed-float": functools.partial(embeddings, "float"),
    "embed-base64": functools.partial(embeddings, "base64"),
    "stream-100": functools.partial(stream, 100),
    "stream-5000": functools.partial(stream, 5_000),
    "stream-50000": functools.partial(stream, 50_000),
    "grouped-5000": functools.partial(stream, 5_000, 100),
    "grouped-50000": functools.partial(stream, 50_000, 100),
    "tools-5000": functools.partial(tools, 5_000),
    "delay-chunked": functools.partial(delay, 500, close=False),
    "delay-closed": functools.partial(delay, 500, close=True),
    "big-event": big_event,
}


@functools.cache
def scenario(name: str) -> Scenario:
    return MAKERS[name]()
