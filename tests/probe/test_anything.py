"""A probe of a server that answers anything at all: rows, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat import Dialect, Probe
from openai_compat.probe.framing import read_stream
from openai_compat.probe.run import FEATURES, run_probe
from openai_compat.probe.saved import dialect_from


@attrs.define
class Said:
    """A reply out of nowhere."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def chunks(self) -> Iterator[bytes]:
        yield self.body

    def finish(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


WORDS = st.sampled_from(
    [
        *("choices", "message", "delta", "content", "tool_calls", "function", "arguments", "usage", "data"),
        *("logprobs", "top_logprobs", "prompt_tokens", "results", "count", "tokens", "prompt", "id", "index", "meta"),
        *("reasoning_content", "completion_tokens_details", "finish_reason", "models", "embedding"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
REPLIES = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(st.dictionaries(WORDS, VALUES, max_size=3) | SCALARS, max_size=3),
        "data": st.lists(st.dictionaries(WORDS, VALUES, max_size=3) | SCALARS, max_size=3),
        "usage": VALUES,
        "error": VALUES,
    },
)
BODIES = (REPLIES | VALUES).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20)


def probed(
    bodies: list[bytes],
    *,
    model: str = "m",
    headers: Mapping[str, str] = MappingProxyType({}),
    hide: Callable[[str], str] = str,
) -> Probe:
    left = iter(bodies * 50)

    def send(
        method: str, path: str, body: bytes | None, *, seconds: float, headers: Mapping[str, str], at_root: bool
    ) -> Said:
        return Said(next(left), headers=said_of_itself)

    said_of_itself = headers
    return run_probe(send, base_url="u", provider="p", dialect=Dialect(), model=model, seconds=60, hide=hide)


@given(st.lists(BODIES, min_size=1, max_size=9))
def test_every_row_is_there_once(bodies: list[bytes]) -> None:
    chat = json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode()
    probe = probed([b'{"data": []}', chat, *bodies])
    assert sorted(row.name for row in probe.rows) == sorted(FEATURES)
    assert dialect_from(json.loads(probe.to_json())) == probe.dialect
    assert str(probe)
    assert probe.to_markdown()


HELLO: dict[str, Any] = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
HALF = "\ud800"


def streamed(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    "reply",
    [
        *(streamed(tool_calls=calls) for calls in (5, "x", {"a": 1}, [5], [{"function": "x"}])),
        b'data: {"choices": [{"delta": {"content": "x"}}], "usage": {"completion_tokens": 1%s}}\n\n' % (b"0" * 400),
        b'{"data": [{"embedding": [1%s]}, {"embedding": [1]}]}' % (b"0" * 400),
        b'{"choices": [{}], "usage": {"prompt_tokens": %s, "completion_tokens": 1}}' % (b"9" * 4300),
        b'{"data": [{"id": "m", "context_length": %s}]}' % (b"9" * 4300),
        json.dumps({"results": [{HALF: 1}, {}]}).encode(),
        json.dumps({"error": HALF}).encode(),
        json.dumps({"data": [{"id": HALF}]}).encode(),
    ],
    ids=lambda reply: reply[:60].decode(),
)
def test_a_hostile_answer_is_a_row(reply: bytes) -> None:
    for model in ("m", ""):
        probe = probed([reply, json.dumps(HELLO).encode(), *[reply] * 50], model=model)
        assert len(f"{probe}\n{probe.to_markdown()}{probe.to_json()}".encode()) < 30_000


def test_what_a_server_says_of_itself_moves_no_cursor_and_is_short() -> None:
    said = "\x1b[2J\nchat  yes  " + "x" * 500
    choice = {"message": {"content": "hi"}, "finish_reason": said}
    probe = probed([b'{"data": []}', json.dumps({"choices": [choice]}).encode()])
    assert all(len(row.detail) <= 90 and row.detail.isprintable() for row in probe.rows)


@pytest.mark.parametrize("length", range(40, 100, 7))
def test_no_piece_of_a_key_is_left_where_words_are_cut(length: int) -> None:
    key = "key-of-a-probe-" + "1234567890" * 4
    said = "x" * length + key
    models = json.dumps({"data": [{"id": said}, {"id": "m"}]}).encode()
    error = json.dumps({"error": said}).encode()
    for bodies in ([models, json.dumps(HELLO).encode()], [b'{"data": []}', error], [error]):
        probe = probed(bodies, headers={"server": said}, hide=lambda text: text.replace(key, "***"))
        assert key[:15] not in f"{probe}\n{probe.to_json()}"


@given(st.lists(BODIES | st.binary(max_size=9), max_size=5), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r"]))
def test_any_bytes_are_a_stream_or_none(bodies: list[bytes], end: bytes) -> None:
    pieces = [(float(at), b"data: " + body + end) for at, body in enumerate(bodies)]
    stream = read_stream(pieces)
    assert 0 <= stream.deltas <= stream.events
    assert stream.first_text is None or stream.first_text <= stream.last


def test_a_stream_may_be_cut_anywhere() -> None:
    event: dict[str, Any] = {"choices": [{"delta": {"content": "a"}}]}
    whole = b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n"
    for at in range(len(whole)):
        stream = read_stream([(1.0, whole[:at]), (2.0, whole[at:])])
        assert (stream.events, stream.deltas) == (1, 1)
