"""What a model or a server wrote, on terminals, in logs and in errors: it commands nothing, and forges no line."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply

from openai_compat import APIStatusError, Client, PrintSink, RetryPolicy, StreamServerError
from openai_compat._terminal import harmless, one_line, write
from openai_compat.integrations.jupyter import NotebookSink
from openai_compat.redaction import Secret

EVIL = "a\x1b[2J\x1b]0;title\x07b\r\x9b1mc\x08\x7f\u202ed\x00e"
FORGED = "no\r\n2026-01-01 00:00:00 ERROR root: forged\x0bby\x85one\u2028more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, "a[2J]0;titleb1mcde"),
        ("a\tb\n\nc\r\nd", "a\tb\n\nc\nd"),
        ("h→ 😀 שלום \u200fمرحبا é", "h→ 😀 שלום \u200fمرحبا é"),
        ("\ud83d half", "\ud83d half"),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text())
def test_no_text_commands_a_terminal(text: str) -> None:
    shown = harmless(text)
    assert all(unicodedata.category(character) != "Cc" or character in "\t\n" for character in shown)
    assert harmless(shown) == shown
    assert [c for c in text if c not in "\u202d\u202e" and unicodedata.category(c) != "Cc"] == [
        c for c in shown if unicodedata.category(c) != "Cc"
    ]


@given(st.text())
def test_one_line_is_one(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(one_line(text)) == one_line(text)


def test_lines_are_joined_by_a_space() -> None:
    assert one_line(FORGED) == "no 2026-01-01 00:00:00 ERROR root: forged by one more"
    assert one_line("plain  text") == "plain  text"


def encoded(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="")


def written(file: io.TextIOWrapper) -> bytes:
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue()


CONSOLES = [
    ("utf-8", "h→ é 😀 end".encode()),
    ("cp1252", b"h\\u2192 \xe9 \\U0001f600 end"),
    ("ascii", b"h\\u2192 \\xe9 \\U0001f600 end"),
    ("cp437", b"h\\u2192 \x82 \\U0001f600 end"),
    ("utf-16-le", "h→ é 😀 end".encode("utf-16-le")),
]


@pytest.mark.parametrize(("encoding", "bytes_written"), CONSOLES)
def test_no_encoding_costs_an_answer(encoding: str, bytes_written: bytes) -> None:
    file = encoded(encoding)
    write(file, "h→ é 😀 end")
    assert written(file) == bytes_written


def test_half_a_character_costs_no_answer() -> None:
    file = encoded("utf-8")
    write(file, "a\ud83db")
    assert written(file) == b"a\\ud83db"


class Codec:
    """A stream that does not tell its encoding."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        text.encode("ascii")
        self.text += text


def test_a_stream_that_does_not_tell_its_encoding_gets_ascii() -> None:
    file: Any = Codec()
    write(file, "h→")
    assert file.text == "h\\u2192"


@pytest.mark.parametrize("sink", [PrintSink, NotebookSink])
@pytest.mark.parametrize(("encoding", "bytes_written"), CONSOLES)
def test_an_answer_is_printed_on_any_console(
    monkeypatch: pytest.MonkeyPatch, sink: Any, encoding: str, bytes_written: bytes
) -> None:
    console = encoded(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    with ReplayServer([stream_reply("h→", " é 😀", " end")]) as server, Client(server.url, model="m") as client:
        assert client.chat("x", sink=sink()).text == "h→ é 😀 end"
    assert written(console) == bytes_written + "\n".encode(encoding)


def test_an_answer_is_whole_where_there_is_no_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with ReplayServer([stream_reply("a", "b")]) as server, Client(server.url, model="m") as client:
        assert client.chat("x", sink=PrintSink()).text == "ab"


def test_a_model_commands_no_terminal() -> None:
    out = io.StringIO()
    # Cut in the middle of an escape too.
    with (
        ReplayServer([stream_reply("a\x1b", "[31mred", "\x9b", "1m\tb\nc")]) as server,
        Client(server.url, model="m") as client,
    ):
        answer = client.chat("x", sink=PrintSink(out))
    assert out.getvalue() == "a[31mred1m\tb\nc\n"
    assert answer.text == "a\x1b[31mred\x9b1m\tb\nc"


def status_error(client: Client) -> None:
    with pytest.raises(APIStatusError) as caught:
        client.chat("x")
    assert one_line(str(caught.value)) == str(caught.value)
    assert "forged by one more" in str(caught.value)


def test_an_error_of_the_server_is_one_line() -> None:
    with ReplayServer([error_reply(400, FORGED + EVIL)]) as server, Client(server.url, model="m") as client:
        status_error(client)


def test_an_error_in_a_stream_is_one_line() -> None:
    body = [chunk({"content": "a"}), b"data: " + json.dumps({"error": {"message": FORGED + EVIL}}).encode() + b"\n\n"]
    with (
        ReplayServer([Reply(headers=EVENT_STREAM, body=body)]) as server,
        Client(server.url, model="m") as client,
        pytest.raises(StreamServerError) as caught,
    ):
        client.stream("x").until_done()
    assert one_line(str(caught.value)) == str(caught.value)
    assert "forged by one more" in str(caught.value)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("openai_compat")]


def test_a_log_line_of_a_try_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "openai_compat")
    replies = [error_reply(503, FORGED + EVIL), chat_reply()]
    with (
        ReplayServer(replies) as server,
        Client(server.url, model="m", retry=RetryPolicy(max_retries=1, first_wait=0.0)) as client,
    ):
        client.chat("x")
    assert [one_line(line) for line in lines(caplog)] == lines(caplog) != []


def test_a_log_line_of_an_event_that_cannot_be_read_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    broken = b'data: {"a": \x1b[2J \xc2\x85 \xe2\x80\xa8\n\n'
    with (
        ReplayServer([Reply(headers=EVENT_STREAM, body=[broken, *stream_pieces("a")])]) as server,
        Client(server.url, model="m") as client,
    ):
        client.stream("x").until_done()
    assert [one_line(line) for line in lines(caplog)] == lines(caplog) != []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((FORGED,), "said no 2026-01-01 00:00:00 ERROR root: forged by one more"),
        ((ValueError("a\nb"),), "said a b"),
        ((7,), "said 7"),
        (("plain",), "said plain"),
    ],
)
def test_whatever_is_logged_stays_in_its_line(
    caplog: pytest.LogCaptureFixture, arguments: tuple[Any, ...], line: str
) -> None:
    logging.getLogger("openai_compat").warning("said %s", *arguments)
    assert [record.getMessage() for record in caplog.records] == [line]


def test_a_traceback_in_a_log_commands_nothing_and_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """What a tool raises often quotes what the model sent."""
    try:
        try:
            raise ValueError(FORGED)
        except ValueError as error:
            raise RuntimeError(EVIL) from error
    except RuntimeError:
        logging.getLogger("openai_compat").warning("tool f failed", exc_info=True)
    shown = logging.Formatter("%(message)s").format(caplog.records[0]).splitlines()
    assert all(map(str.isprintable, shown))
    assert "ValueError: no" in shown
    assert "    2026-01-01 00:00:00 ERROR root: forged" in shown
    assert shown[-1] == "    1mcde"
    known = ("tool f failed", "Traceback", "ValueError: no", "The above", "RuntimeError: a")
    assert all(line.startswith((" ", *known)) for line in shown if line)


def test_a_traceback_in_a_log_shows_no_credential(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ConnectionError("Max retries exceeded with url: /v1/search?api_key=" + "a1b2c3d4" * 2 + "&q=x")
    except ConnectionError:
        logging.getLogger("openai_compat").warning("tool f failed", exc_info=True)
    assert caplog.records[0].exc_text is not None
    assert caplog.records[0].exc_text.endswith("url: /v1/search?api_key=***&q=x")


def test_a_secret_in_a_log_stays_masked(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("openai_compat").warning("key %r", Secret("sk-1234567890"))
    assert [record.getMessage() for record in caplog.records] == ["key '***'"]
