"""Byte chunks to payloads, at any cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import cut, examples, growth, pieces, quick, thorough

from openai_compat.errors import StreamError
from openai_compat.wire.error_body import find_error
from openai_compat.wire.event_data import CHECK_EVERY_LINES, DONE, Unreadable
from openai_compat.wire.sse import CHECK_EVERY_BYTES, TICK, NotAStream, iter_payloads, looks_like_sse

A: dict[str, Any] = {"a": 1}
B: dict[str, Any] = {"b": {"c": "é"}}
ONE = b'{"a": 1}'
TWO = '{"b": {"c": "é"}}'.encode()

STREAMS: dict[str, tuple[bytes, list[Any]]] = {
    "nothing": (b"", [NotAStream(b"")]),
    "blank": (b"\n\n \n", [NotAStream(b"")]),
    "lf": (b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n" % (ONE, TWO), [A, B, DONE]),
    "crlf": (b"data: %b\r\n\r\ndata: %b\r\n\r\ndata: [DONE]\r\n\r\n" % (ONE, TWO), [A, B, DONE]),
    "cr": (b"data: %b\r\rdata: %b\r\rdata: [DONE]\r\r" % (ONE, TWO), [A, B, DONE]),
    "mixed": (b"data: %b\r\n\ndata: %b\n\r\ndata: %b\r\r\ndata: %b\n\r\n" % (ONE, TWO, ONE, TWO), [A, B, A, B]),
    "lf-crlf": (b"data: %b\n\r\ndata: %b\n\n" % (ONE, TWO), [A, B]),
    "bom": (b"\xef\xbb\xbfdata: %b\n\n" % ONE, [A]),
    "bom-and-blank-lines": (b"\xef\xbb\xbf\r\n\r\ndata: %b\n\n" % ONE, [A]),
    "bom-json": (b"\xef\xbb\xbf" + ONE, [A]),
    "bom-alone": (b"\xef\xbb\xbf", [NotAStream(b"")]),
    "half-a-bom": (b"\xef\xbb", [NotAStream(b"\xef\xbb\n")]),
    "leading-space": (b"  data: %b\n\n" % ONE, [A]),
    "comments": (b": ping\n\ndata: %b\n\n:\n: OPENROUTER PROCESSING\n\ndata: %b\n\n: bye\n\n" % (ONE, TWO), [A, B]),
    "keep-alives": (b"data:\n\ndata: \n\ndata: : keepalive\n\ndata: ping\n\ndata: %b\n\n" % ONE, [A]),
    "comment-inside": (b"data: %b\n: comment\n\n" % ONE, [A]),
    "no-space": (b"data:%b\n\ndata:[DONE]\n\n" % ONE, [A, DONE]),
    "two-spaces": (b"data:  %b\n\n" % ONE, [A]),
    "other-fields": (b"id: 7\nevent: message\nretry: 100\nx: y\nname\ndata: %b\n\n" % ONE, [A]),
    "named": (b"event: completion\ndata: %b\n\n" % ONE, [A]),
    "fields-after": (b"data: %b\nid: 7\n\n" % ONE, [A]),
    "multi-line-data": (b'data: {"a":\ndata: 1\ndata: }\n\ndata: %b\n\n' % TWO, [A, B]),
    "multi-line-braces": (b'data: {"b": {\ndata: "c": "\xc3\xa9"}\ndata: }\n\n', [B]),
    "not-json": (
        b"data: hello\n\ndata: %b\n\ndata: {\n\ndata: %b\n\n" % (ONE, TWO),
        [Unreadable("hello"), A, Unreadable("{"), B],
    ),
    "single-newlines": (b"data: %b\ndata: %b\ndata: %b\ndata: [DONE]\n" % (ONE, TWO, ONE), [A, B, A, DONE]),
    "single-newlines-crlf": (b"data: %b\r\ndata: %b\r\ndata: [DONE]\r\n" % (ONE, TWO), [A, B, DONE]),
    "single-newlines-with-junk": (b"data: %b\ndata: junk\ndata: %b\n" % (ONE, TWO), [A, Unreadable("junk"), B]),
    "no-final-blank-line": (b"data: %b\n\ndata: %b\n" % (ONE, TWO), [A, B]),
    "no-final-newline": (b"data: %b\n\ndata: %b" % (ONE, TWO), [A, B]),
    "cut-short": (b"data: %b\n\ndata: %b" % (ONE, TWO[:-1]), [A, Unreadable(TWO[:-1].decode())]),
    "done-without-newline": (b"data: %b\n\ndata: [DONE]" % ONE, [A, DONE]),
    "done-ends": (b"data: [DONE]\n\ndata: %b\n\n" % ONE, [DONE]),
    "done-with-more": (b"data: [DONE] bye\n\n", [DONE]),
    "done-in-a-block-ends": (b"data: %b\ndata: [DONE]\ndata: %b\n\n" % (ONE, TWO), [A, DONE]),
    "bare-done": (b"data: %b\n\n[DONE]\n\n" % ONE, [A, DONE]),
    "utf8": ('data: {"x": "é漢😀\u2028\u0085\x1c"}\n\n'.encode(), [{"x": "é漢😀\u2028\u0085\x1c"}]),
    "invalid-utf8": (b'data: {"x": "\xff"}\n\ndata: %b\n\n' % ONE, [{"x": "\ufffd"}, A]),
    "cut-utf8": (b'data: {"x": "\xf0\x9f\x98"}\n\ndata: %b\n\n' % ONE, [{"x": "\ufffd"}, A]),
    "lone-surrogate": (b'data: {"x": "\\ud83d"}\n\n', [{"x": "\ud83d"}]),
    "vertical-tabs": (
        b'data: {"x": "\x0b1\x0b0"}\n\nevent: x\ndata: {"x":\ndata: "\x0b1\x0b0"}\n\n',
        [{"x": "\x0b1\x0b0"}] * 2,
    ),
    "nan": (b'data: {"x": -Infinity}\n\n', [{"x": float("-inf")}]),
    "scalars": (b'data: 7\n\ndata: null\n\ndata: "x"\n\n', [7, None, Unreadable("x")]),
    "array-of-chunks": (b"data: [%b, %b]\n\n" % (ONE, TWO), [A, B]),
    "error-field": (b'data: %b\n\nerror: {"message": "no"}\n\n' % ONE, [A, {"message": "no"}]),
    "error-field-of-no-known-shape": (b'data: %b\n\nerror: {"why": "no"}\n\n' % ONE, [A, {"error": {"why": "no"}}]),
    "error-field-text": (b"error: no\n\n", [{"error": "no"}]),
    "error-field-known": (b'error: {"error": {"code": 429}}\n\n', [{"error": {"code": 429}}]),
    "error-field-last": (b"data: %b\n\nerror:no" % ONE, [A, {"error": "no"}]),
    "error-event": (b'event: error\ndata: {"message": "no"}\n\n', [{"message": "no"}]),
    "error-event-of-no-known-shape": (b'event: error\ndata: {"why": "no"}\n\n', [{"error": {"why": "no"}}]),
    "error-event-text": (b"event: error\ndata: no\n\n", [{"error": "no"}]),
    "error-event-empty": (b"event: error\ndata: {}\n\n", [{"error": "{}"}]),
    "error-event-null": (b"event: error\ndata: null\n\n", [{"error": "null"}]),
    "error-event-two-lines": (
        b'event: error\ndata: {"message": "no"}\ndata: {"why": 1}\n\n',
        [{"error": '{"message": "no"}\n{"why": 1}'}],
    ),
    "error-event-named-last": (b'data: {"message": "no"}\nevent: error\n\n', [{"message": "no"}]),
    "error-event-named-last-two-lines": (
        b'data: {"x": 1}\ndata: {"y": 2}\nevent: error\n\n',
        # The first line is a whole event by the time that the second one comes.
        [{"x": 1}, {"error": {"y": 2}}],
    ),
    "bare-line": (b'data: %b\n\n{"error": {"message": "no"}}\n\n' % ONE, [A, {"error": {"message": "no"}}]),
    "bare-line-last": (b'data: %b\n\n{"error": "no"}' % ONE, [A, {"error": "no"}]),
    "bare-line-after-data": (b'data: %b\n{"error": "no"}\n\n' % ONE, [A, {"error": "no"}]),
    "bare-line-first": (b'{"error": "no"}\n\ndata: %b\n\n' % ONE, [{"error": "no"}, A]),
    "ndjson": (b"%b\n%b\n" % (ONE, TWO), [A, B]),
    "json-body": (TWO, [B]),
    "json-body-pretty": (b'\n {\r\n  "b": {"c":\r\n\r\n  "\xc3\xa9"}\n}\n', [B]),
    "json-body-cut-short": (TWO[:-1], [NotAStream(TWO[:-1])]),
    "json-body-invalid-utf8": (b'{"x": "\xff"}', [{"x": "\ufffd"}]),
    "json-array-body": (b"[%b,\n%b]" % (ONE, TWO), [A, B]),
    "json-array-body-lines": (b"[%b\n,\n%b\n]\n" % (ONE, TWO), [A, B]),
    "json-body-then-done": (b"%b\n\ndata: [DONE]\n\n" % TWO, [B, DONE]),
    "json-body-pretty-then-done": (b'{\n "a": 1\n}\n\ndata: [DONE]\n\n', [A, DONE]),
    "json-body-then-events": (b"%b\ndata: %b\n\n" % (ONE, TWO), [A, B]),
    "keep-alive-words": (
        b"data: keepalive\n\ndata: PING\n\ndata: [heartbeat]\n\ndata: -- keep-alive --\n\nevent: ping\ndata: 12:00\n\n"
        b'data: "ping"\n\ndata: : OPENROUTER PROCESSING\n\ndata: %b\n\n' % ONE,
        [A],
    ),
    "two-on-a-line": (b"data: %b%b\n\ndata: %b %b\n\n" % (ONE, TWO, TWO, ONE), [A, B, B, A]),
    "two-on-a-line-with-prefix": (b"data: %bdata: %b\n\ndata: %bdata: [DONE]\n\n" % (ONE, TWO, ONE), [A, B, A, DONE]),
    "one-and-a-half-on-a-line": (b"data: %b%b\n\n" % (ONE, TWO[:9]), [A, Unreadable(TWO[:9].decode())]),
    "half-and-one-on-a-line": (
        b"data: %bdata: %b\n\n" % (TWO[:9], ONE),
        [Unreadable(f"{TWO[:9].decode()}data: {ONE.decode()}")],
    ),
    "two-commas": (b'data: {"a": [1,,]}\n\ndata: %b\n\n' % TWO, [Unreadable('{"a": [1,,]}'), B]),
    "trailing-commas": (b'data: {"a": 1,}\n\ndata: {"b": {"c": "\xc3\xa9", } , }\n\n', [A, B]),
    "comma-in-a-string": (b'data: {"x": ",}", }\n\n', [{"x": ",}"}]),
    "prefix-damaged": (
        b"data: %b\n\ndat: %b\n\ndata: %b\n\n" % (ONE, TWO, ONE),
        [A, Unreadable(f"dat: {TWO.decode()}"), A],
    ),
    "first-prefix-damaged": (b"dat: %b\n\ndata: %b\n\n" % (TWO, ONE), [Unreadable(f"dat: {TWO.decode()}\n\n"), A]),
    "unknown-fields": (b"data: %b\nfoo: bar\nbaz\n\n" % ONE, [A]),
    "multi-line-damaged": (b'data: {"a":\ndata: "x\n\ndata: %b\n\n' % ONE, [Unreadable('{"a":\n"x'), A]),
    "html": (b"<html>\n\n<body>\n</html>\n\n", [NotAStream(b"<html>\n\n<body>\n</html>\n\n")]),
}


LONG: dict[str, tuple[bytes, list[Any]]] = {
    "thousands-of-digits": (b'data: {"a": 1, "n": %b}\n\n' % (b"7" * 5000), [{"a": 1, "n": None}]),
    "too-deep": (b"data: %b\n\ndata: %b\n\n" % (b"[" * 9999, ONE), [Unreadable("[" * 200), A]),
    "objects-too-deep": (
        b'data: {"x": %b\n\ndata: %b\n\n' % (b'{"x":' * 9999, ONE),
        [Unreadable(('{"x": ' + '{"x":' * 99)[:200]), A],
    ),
}
"""Too long to be cut at every place."""

WORDS = [
    "error: engine ran out of KV blocks",
    "Error: out of memory",
    "[ERROR] upstream closed",
    "Internal Server Error",
    "internal error, please retry",
    "502 Bad Gateway",
    "HTTP/1.1 503 Service Unavailable",
    "ValueError: boom",
    "torch.cuda.OutOfMemoryError: CUDA out of memory",
    "RuntimeException: boom",
    "SystemExit",
    "Too Many Requests",
    "upstream connect error or disconnect/reset before headers",
    "Model is unavailable",
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    "form", ["data: {}\n\n", 'data: "{}"\n\n', "{}\n\n", "{}"], ids=["data", "json", "bare", "last"]
)
def test_words_that_are_an_error_are_one_wherever_they_stand(form: str, words: str) -> None:
    body = b"data: %b\n\n" % ONE + form.format(words).encode()
    said = words[7:] if form.startswith("{}") and words.startswith("error: ") else words
    assert read([body]) == read(cut(body, range(1, len(body)))) == [A, {"error": said}]


@pytest.mark.parametrize("prefix", [b"", b"data: "], ids=["bare", "data"])
def test_of_a_traceback_the_last_line_is_the_error(prefix: bytes) -> None:
    trace = [b"Traceback (most recent call last):", b'  File "x.py", line 1, in f', b"ValueError: boom"]
    body = b"data: %b\n\n" % ONE + b"".join(prefix + line + b"\n" for line in trace) + b"\n"
    assert read([body]) == [A, {"error": "ValueError: boom"}]


def test_a_page_in_the_middle_of_a_stream_is_an_error() -> None:
    (_, error) = read([b"data: %b\n\n<html><title>502 Bad Gateway</title>\n\n" % ONE])
    assert find_error(error) is not None


def each(streams: dict[str, tuple[bytes, list[Any]]]) -> Any:
    return pytest.mark.parametrize(("body", "wanted"), streams.values(), ids=streams)


def read(chunks: list[bytes]) -> list[Any]:
    return list(iter_payloads(chunks))


@each(STREAMS | LONG)
def test_payloads_of_a_stream(body: bytes, wanted: list[Any]) -> None:
    assert read([body]) == wanted


@each(STREAMS)
def test_byte_by_byte(body: bytes, wanted: list[Any]) -> None:
    assert read(cut(body, range(1, len(body)))) == wanted


@each(STREAMS)
def test_cut_in_two_anywhere(body: bytes, wanted: list[Any]) -> None:
    for at in range(len(body) + 1):
        assert read([body[:at], b"", body[at:]]) == wanted, at


@each(STREAMS)
@examples(25)
@given(data=st.data())
def test_cut_anywhere(body: bytes, wanted: list[Any], data: st.DataObject) -> None:
    assert read(data.draw(pieces(body))) == wanted


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf" * 2, b"\n\xef\xbb\xbf", b"\xef\xbb\xbf \xef\xbb\xbf"])
def test_a_byte_order_mark_out_of_place_means_the_same_at_any_cut(start: bytes) -> None:
    body = start + b"data: %b\n\ndata: %b\n\n" % (ONE, TWO)
    whole = read([body])
    assert whole[-1] == B
    assert read(cut(body, range(1, len(body)))) == whole


_lines = st.sampled_from(
    [
        b"data: " + ONE,
        b"data: " + TWO,
        b'data: {"a":',
        b"data: 1}",
        b"data: 7",
        b"data:",
        b"data: [DONE]",
        b"event: error",
        b"event: x",
        b'error: {"message": "no"}',
        b"error: no",
        b": ping",
        b"id: 7",
        ONE,
        b"[DONE]",
        b"junk",
        b"",
        b"",
        b"",
        b'data: {"x": "\xff"}',
        b'data: {"message": "no"}',
        b"[" + ONE,
        b"]",
        b" ",
        b"\xef\xbb\xbf",
    ]
)
_ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
_bodies = st.lists(st.tuples(_lines, _ends).map(b"".join), max_size=10).map(b"".join) | st.binary(max_size=60)


@st.composite
def cut_bodies(draw: st.DrawFn) -> list[bytes]:
    return draw(pieces(draw(_bodies)))


@thorough
@given(cut_bodies())
def test_any_split_of_any_body_gives_the_same_payloads(chunks: list[bytes]) -> None:
    assert read(chunks) == read([b"".join(chunks)])


@thorough
@given(st.lists(_lines, max_size=8))
def test_line_ends_make_no_difference(lines: list[bytes]) -> None:
    assert read([b"\r\n".join(lines)]) == read([b"\r".join(lines)]) == read([b"\n".join(lines)])


@quick
@given(_bodies)
def test_nothing_follows_done(body: bytes) -> None:
    assert DONE not in read([body])[:-1]


@each({name: case for name, case in STREAMS.items() if name.startswith("error-")})
def test_every_error_is_in_a_shape_that_is_found(body: bytes, wanted: list[Any]) -> None:
    assert find_error(read([body])[-1]) is not None


def arrivals(chunks: list[bytes]) -> list[int]:
    """For each payload, how many chunks had been taken when it came."""
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += 1
            yield chunk

    return [taken for _ in iter_payloads(source())]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n"])
def test_an_event_comes_with_its_last_byte(end: bytes) -> None:
    event = b"data: " + ONE + end
    assert arrivals([event, event, event]) == [1, 2, 3]
    assert arrivals([event[:5], event[5:] + event + event[:5], event[5:]]) == [2, 2, 3]
    assert arrivals([event[:-2], event[-2:]]) == [2]


def test_an_event_that_ends_in_cr_comes_with_it() -> None:
    assert arrivals([b"data: %b\r\r" % ONE, b"data: %b\r\r" % TWO]) == [1, 2]
    assert arrivals([b"data: %b\r\n\r" % ONE, b"\ndata: %b\r\n\r\n" % TWO]) == [1, 2]


def test_an_event_that_one_newline_ends_comes_when_the_next_begins() -> None:
    event = b"data: " + ONE + b"\n"
    assert arrivals([event, event, event, b""]) == [2, 3, 4]


def test_done_ends_without_waiting_for_more() -> None:
    def source() -> Iterator[bytes]:
        yield b"data: [DONE]\n\n"
        raise AssertionError("asked for more")

    assert list(iter_payloads(source())) == [DONE]


# Size

BIG = b'data: "' + b"x" * 2000 + b'"\n\n'
OVERSIZE = {
    "event": BIG,
    "event-after-others": b"data: 1\n\n" * 9 + BIG,
    "event-before-others": BIG + b"data: 1\n\n" * 9,
    "unfinished": BIG[:-3],
    "comment": b":" + b"x" * 2000 + b"\n\n",
    "json-body": b'{"x": "' + b"x" * 2000 + b'"}',
    "lines": b"data: 1\n" * 300,
}


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("body", OVERSIZE.values(), ids=OVERSIZE)
def test_an_event_over_the_limit_is_an_error_at_any_cut(body: bytes, step: int) -> None:
    with pytest.raises(StreamError, match="larger than 1,000 bytes; raise max_event_bytes"):
        list(iter_payloads(cut(body, range(step, len(body), step)), max_event_bytes=1000))


@pytest.mark.parametrize(
    "chunks",
    [[b'data: {"a":\r', b"\ndata: 1}\r\n\r\n"], [b"event: error\r", b'\ndata: {"foo":"x"}\r\n\r\n']],
)
def test_a_cut_between_cr_and_lf_after_the_first_chunk_changes_nothing(chunks: list[bytes]) -> None:
    assert read(chunks) == read([b"".join(chunks)]) != []


def test_what_came_before_an_event_over_the_limit_is_given() -> None:
    payloads = iter_payloads([b"data: 1\n\n", BIG[:1500], BIG[1500:]], max_event_bytes=1000)
    assert next(payloads) == 1
    with pytest.raises(StreamError):
        next(payloads)


def test_an_event_that_has_ended_counts_no_more() -> None:
    half = b'data: {"a": "' + b"x" * 700
    chunks = [half + b'"}\n', b"\n" + half, b'"}\n\n']
    assert list(iter_payloads(chunks, max_event_bytes=1000)) == [{"a": "x" * 700}] * 2


def test_what_is_behind_the_end_is_not_looked_at() -> None:
    assert list(iter_payloads([b"data: 1\n\ndata: [DONE]\n\n" + BIG[:-2]], max_event_bytes=1000)) == [1, DONE]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("body", [b"data: {}\n\n" * 300, b"data: {}\n" * 300, b"data: {}\n" * 300 + b"\n"])
def test_many_small_events_are_under_the_limit(body: bytes, step: int) -> None:
    assert list(iter_payloads(cut(body, range(step, len(body), step)), max_event_bytes=1000)) == [{}] * 300


def in_pieces(body: bytes) -> Iterator[bytes]:
    return (body[at : at + 1024] for at in range(0, len(body), 1024))


def test_an_event_of_4_mb_in_1_kb_pieces() -> None:
    body = b'data: {"x": "' + b"x" * 4_000_000 + b'"}\n\n'
    (payload,) = iter_payloads(in_pieces(body))
    assert len(payload["x"]) == 4_000_000


def on_many_lines(count: int) -> bytes:
    lines = json.dumps({"x": [{"k": number} for number in range(count)]}, indent=1).split("\n")
    return b"".join(b"data: " + line.encode() + b"\n" for line in lines) + b"\n"


LARGE = {
    "one-line": lambda size: b'data: {"x": "' + b"x" * (100 * size) + b'"}\n\n',
    "many-lines": on_many_lines,
    "braces": lambda size: b'data: {"x": "' + b"}" * (100 * size) + b'"}\n\n',
    "single-newlines": lambda size: b'data: {"x": 1}\n' * size,
    "unfinished-then-whole-lines": lambda size: b"data: [\n" + b"data: {}\n" * size + b"data: ]\n\n",
    "newlines": lambda size: b"\n" * (10 * size),
    "comments": lambda size: b": ping\n" * size,
    "json-body": lambda size: b'{"x": "' + b"x" * (100 * size) + b'"}',
    "json-lines": lambda size: b'{"x": 1}\n' * size,
    "carriage-returns": lambda size: b"\r" * (10 * size),
    "fields": lambda size: b"data: {\n" + b"event: a\n" * size + b"\n",
    "short-lines": lambda size: b"data: [\n" + b"data: 1\n" * size + b"\n",
    "bare-words": lambda size: b"data: {}\n\n" + b"no\n" * size,
    "objects-on-a-line": lambda size: b"data: " + b'{"x": 1}' * size + b"\n\n",
    "commas": lambda size: b'data: {"x": [' + b"," * size + b"]}\n\n",
    "trailing-commas": lambda size: b"data: " + b'{"x": 1,}' * size + b"\n\n",
    "underscores": lambda size: b"data: " + b"a_" * (10 * size) + b"\n\n",
    "spaces": lambda size: b"data: " + b" " * (10 * size) + b"x\n\n",
    "junk-between-braces": lambda size: b"data: " + b'{"' * (10 * size) + b"\n\n",
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_cost_is_linear_in_the_size(make: Any) -> None:
    assert growth(lambda size: sum(1 for _ in iter_payloads(in_pieces(make(size)))), 6_000) < 10


@pytest.mark.slow
@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_cost_is_linear_in_the_size_of_one_chunk(make: Any) -> None:
    assert growth(lambda size: sum(1 for _ in iter_payloads([make(size)])), 6_000) < 10


# Time


def looks(body: bytes, limit: int = 1 << 30) -> list[int]:
    """How many payloads had been read at each look at the time."""
    seen: list[int] = []
    taken: list[Any] = []
    taken.extend(iter_payloads([body], max_event_bytes=limit, check=lambda: seen.append(len(taken))))
    return seen


LASTING: dict[str, bytes] = {
    "comments": b": ping\n\n" * 19_999,
    "events": b"data: {}\n\n" * 19_999,
    "json": b"{}\n" * 19_999,
    "objects-on-a-line": b"data: " + b"{}" * 199_999,
    "short-lines": b"data: [\n" + b"data: 1\n" * 59_999,
    "blank": b"data: {}\n" + b"\n" * 199_999,
    "fields": b"data: {\n" + b"event: a\n" * 19_999,
    "lines": b"data: [\n" + b"data: 1,\n" * 19_999,
    "junk": b"data: junk\n\n" * 19_999,
    "text": b"x" * 1_999_999,
}


@pytest.mark.slow
@pytest.mark.parametrize("body", LASTING.values(), ids=LASTING)
def test_the_time_is_looked_at_whatever_comes(body: bytes) -> None:
    lines = body.count(b"\n")
    assert len(looks(body)) >= max(len(body) // CHECK_EVERY_BYTES, lines // (2 * CHECK_EVERY_LINES))


def test_what_a_look_at_the_time_raises_ends_the_reading() -> None:
    def over() -> None:
        if len(taken) > 3:
            raise TimeoutError

    taken: list[Any] = []
    with pytest.raises(TimeoutError):
        taken.extend(iter_payloads([b"data: {}\n\n"] * 9, check=lambda: (taken.append(0), over())))
    assert 0 < len(taken) < 9


def test_a_beat_is_handed_on() -> None:
    assert list(iter_payloads([b"data: {}\n", TICK, b"\n"])) == [TICK, {}]


# Telling a stream from a JSON body

SSE = [
    b"data: 1",
    b"event: x",
    b":",
    b": ping",
    b"id: 7",
    b"retry: 1",
    b"error: no",
    b"\xef\xbb\xbfdata:",
    b"\n\n data: 1",
    b"\r\n:x",
]
NOT_SSE = [b"", b"{}", b'{"data": 1}', b"[1]", b'"data: 1"', b"null", b"<html>", b"\xef\xbb\xbf{}", b" ", b"date: 1"]


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("body", SSE)
def test_looks_like_sse(body: bytes, kind: Any) -> None:
    assert looks_like_sse(kind(body))


@pytest.mark.parametrize("body", NOT_SSE)
def test_does_not_look_like_sse(body: bytes) -> None:
    assert not looks_like_sse(body)


@pytest.mark.parametrize("body", [b"event: error\n\n", b"event: error\ndata:\n\n", b"event: error\ndata: \ndata:\n\n"])
def test_an_event_named_error_without_words_is_an_error(body: bytes) -> None:
    payloads = list(iter_payloads([b'data: {"choices": []}\n\n', body, b"data: [DONE]\n\n"]))
    assert payloads == [{"choices": []}, {"error": {"message": "an event named error, without words"}}, DONE]
