"""What the targets begin with, and what fuzzing has left: one input a line, as a JSON string of its bytes (Latin-1)."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from display.pages import EVIL
from support.corpus import load_cases

KEPT = Path(__file__).with_name("kept")

_CALL = '{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}'
_DEEP = b"[" * 3000
_JSON = (
    '{"kind": "branch", "children": [{"kind": "leaf", "size": 3.0}], "colour": "red", "at": [1, 2],'
    ' "notes": {"n": {"when": "2026-01-02T03:04:05Z", "price": 1.10, "key": "12345678123456781234567812345678"}}}',
    '{"a": [1, -2.5e10, "\\ud83d\\ude00", true, null, {"b": {}}]}',
    '[1, "2", NaN, 1e999, 123456789012345678901234567890]',
    'Sure!\n```json\n{"value": [1, 2]}\n```\n',
    '"P1DT2H"',
    '{"a": 1,}',
)
_SCHEMAS = (
    '{"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}, "required": ["a"]}\n{"a": 1}',
    '{"$ref": "#/$defs/t", "$defs": {"t": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/t"}]}}}\nnull',
    '{"type": "array", "items": {"enum": [1, "a"]}, "uniqueItems": true}\n[1, "a"]',
    '{"name": "x", "strict": true, "schema": {"type": "string", "format": "date-time"}}\n"2026-01-02T03:04:05Z"',
)
_REPLIES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n3\r\n you\r\n0\r\nTrailer: t\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\nA: b\r\n c\r\n\r\nuntil closed",
    b"HTTP/1.1 200 OK\nContent-Length: 3, 3\nConnection: keep-alive\n\nabcdef",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
_URLS = (
    *("http://localhost:11434/v1/", "https://user:p%40ss@example.com/openai?api-version=1#x", "http://[::1]:8000"),
    *("https://bücher.example/chat/completions", "HTTP://EXAMPLE.COM:80/./v1", "http://[fe80::1%25eth0]/v1", "a.b/c"),
)
_HEADERS = (
    "Retry-After: 3\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 6m0s\n\n",
    "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\nDate: x\n\n",
    'retry-after-ms: 17\n\n{"error": {"details": [{"retryDelay": "5.2s"}]}}',
)
_SAVED = tuple(path.read_bytes() for path in sorted(Path(__file__).parents[1].glob("conversations/*.json")))
_MEDIA = (
    *(b"\x89PNG\r\n\x1a\n0000", b"\xff\xd8\xff\xe0", b"RIFF0000WEBPVP8 ", b"RIFF0000WAVEfmt ", b"ID3", b"\xff\xfb\x90"),
    *(b"\x00\x00\x00\x18ftypavif0000", b"BM00000000000000", b"data:image/png;base64,iVBORw0KGgo=", b"https://x.test/a"),
    *(b"data:audio/wav;base64,UklGRjAwMDBXQVZF",),
)
_MESSAGES = (
    '[{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]}]',
    f'[{{"role": "assistant", "content": null, "tool_calls": [{_CALL}]}}, {{"role": "tool", "content": "x"}}]',
)


_PATTERNS = (r"^\p{Lu}[\p{L}\d_-]*$", r"(?<a>\u{1f600}|\ud83d\ude00)\k<a>[^]", r"[[a&&b]]\cJ[]\/", "abc")
_REFUSALS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    '{"error": {"message": "Unknown parameter: \'stream_options.include_usage\'.", "param": "stream_options"}}',
    '{"detail": [{"loc": ["body", "chat_template_kwargs"], "msg": "Extra inputs are not permitted"}]}',
    "reasoning_effort must be one of 'low', 'high'",
    "Function tools with reasoning_effort are not supported for m",
    "'response_format.type' must be 'json_object'",
)
_DELTAS = (
    '{"content": "a", "x": [{"index": 0, "t": "a"}]}\n{"content": "b", "x": [{"index": 0, "t": "b"}, {"index": 1}]}',
    '{"images": [{"type": "image_url", "image_url": {"url": "data:,"}}], "audio": {"id": "1", "data": "AAA="}}',
    f'{{"choices": [{{"message": {{"tool_calls": [{_CALL}]}}, "finish_reason": "tool_calls"}}]}}',
)


def _own(name: str) -> Iterable[bytes | str]:
    """What a target begins with."""
    cases = load_cases()
    bodies = [case.body for case in cases if case.replies and isinstance(case.replies[0].body, bytes)]
    if name in ("payloads", "stream", "reasoning"):
        return [b"\x01" + body for body in bodies]
    if name in ("chunk_template", "reply", "decoded", "models"):
        return bodies
    if name in ("error_body", "embeddings"):
        kind = "error" if name == "error_body" else "embeddings"
        return [b"\x01" + case.body for case in cases if case.kind == kind and case.replies]
    own: dict[str, Iterable[bytes | str]] = {
        "tool_calls": [
            f"{_CALL}\n{_CALL}",
            '{"index": 0, "function": {"arguments": "{"}}\n{"function": {"name": "g"}}',
        ],
        "deltas": _DELTAS,
        "rejection": _REFUSALS,
        "pattern": _PATTERNS,
        "inflated": [b"\x01" + pack(b"hello " * 2000) for pack in (gzip.compress, zlib.compress, _raw)],
        "partial_json": ["\x01" + text for text in _JSON],
        "converted": _JSON,
        "typed_answer": _JSON,
        "raw_schema": _SCHEMAS,
        "html": EVIL,
        "markdown": EVIL,
        "redacted": ["key \x00", "Bearer \x00", '{"k": "sk-\x00"}', "aGk6\x00 %73%6b"],
        "http1": [b"\x01" + reply for reply in _REPLIES],
        "base_url": _URLS,
        "headers": _HEADERS,
        "conversation": _SAVED,
        "messages": _MESSAGES,
        "media": _MEDIA,
    }
    return own[name]


def _raw(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def seeds(name: str) -> list[bytes]:
    """What a target begins with, nothing and deep nesting among it."""
    own = [one if isinstance(one, bytes) else one.encode("utf-8", "surrogatepass") for one in _own(name)]
    return [b"", b"\x00", _DEEP, b"\x02" + _DEEP, *own]


def kept(name: str) -> list[bytes]:
    """What fuzzing has left: inputs that reach what no seed reaches, and those that broke a promise once."""
    path = KEPT / f"{name}.jsonl"
    return [*_lines(path)] if path.exists() else []


def _lines(path: Path) -> Iterator[bytes]:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield json.loads(line).encode("latin-1")


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write what a target is to keep."""
    KEPT.mkdir(exist_ok=True)
    lines = sorted({json.dumps(one.decode("latin-1")) for one in inputs}, key=lambda line: (len(line), line))
    if lines:
        (KEPT / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
