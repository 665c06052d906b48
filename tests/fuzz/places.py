"""What says where a server is, and how a reply begins and ends on the wire."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable

import h11

from openai_compat.credentials import checked_headers, checked_key
from openai_compat.errors import ConfigurationError, ResponseParseError
from openai_compat.transport.endpoint import Endpoint
from openai_compat.transport.exchange import READ_SIZE, _Inflater
from openai_compat.transport.http1 import BadReplyError, Head, body, read_head, request_head, split_head
from openai_compat.wire.retry import parse_duration, rate_limits, retry_after

from .inputs import attempt, cut, json_value, text


def http1(data: bytes) -> None:
    """A reply on a connection is the same however its bytes come, and what h11 takes is read as h11 reads it."""
    sent, pieces = cut(data)
    whole = _received([sent])
    assert whole == _received(pieces)
    told = _by_h11(sent)
    if told is not None:
        assert whole[:2] == told


def _received(pieces: list[bytes]) -> tuple[object, ...]:
    """Status, body and whether the body had its end: of the first reply that is not an informational one."""
    waiting = [*pieces, b""]
    got: list[bytes] = []
    buffer = b""
    try:
        while True:
            looked = 0
            while (found := split_head(buffer, looked)) is None:
                looked = len(buffer)
                piece = waiting.pop(0) if waiting else b""
                if not piece:
                    return ("no head",)
                buffer += piece
            head = read_head(found[0])
            buffer = found[1]
            if not 100 <= head.status < 200 or head.status == 101:
                break
    except BadReplyError as error:
        return ("no reply", str(error))
    return (head.status, *_body(head, buffer, waiting, got))


def _body(head: Head, behind: bytes, waiting: list[bytes], got: list[bytes]) -> tuple[object, ...]:
    reader: Callable[[], bytes | None] = iter([*([behind] if behind else []), *waiting, *[b""] * 3]).__next__
    steps = body(head, reader)
    try:
        while True:
            got.append(next(steps))
    except StopIteration:
        return b"".join(got), "whole"
    except BadReplyError as error:
        # How many bytes are missing does not depend on the cuts, nor does what had come.
        return b"".join(got), str(error)


def _by_h11(sent: bytes) -> tuple[int, bytes] | None:
    """Status and body as h11 reads them; None where it refuses, all has not come, or it is more lenient on purpose."""
    if re.search(rb"HTTP/1\.[2-9]", sent):
        return None
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    status, content = 0, b""
    with contextlib.suppress(h11.RemoteProtocolError):
        connection.receive_data(sent)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                if event.http_version != b"1.1":
                    return None
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, content
            elif not isinstance(event, h11.InformationalResponse):
                return None
    return None


def inflated(data: bytes) -> None:
    """A compressed body is the same in any pieces, and comes in small ones, or is refused."""
    sent, pieces = cut(data)
    whole = _inflated([sent])
    told = _inflated(pieces)
    assert whole == told or "cannot be decompressed" in whole[1] == told[1]


def _inflated(pieces: list[bytes]) -> tuple[bytes, str]:
    inflater = _Inflater("deflate")
    made: list[bytes] = []
    try:
        for piece in pieces:
            for part in inflater.feed(piece):
                assert len(part) <= READ_SIZE
                made.append(part)
                if len(made) > 1000:
                    return b"", "large"
    except ResponseParseError as error:
        return b"", str(error)
    return b"".join(made), ""


def base_url(data: bytes) -> None:
    """A base URL is refused, or names a host and gives URLs of one line, without a password in what is shown."""
    given = text(data)
    endpoint = attempt(lambda: Endpoint.parse(given), ConfigurationError)
    if isinstance(endpoint, ConfigurationError):
        return
    assert endpoint.base.startswith(("http://", "https://"))
    assert endpoint.host
    url = endpoint.url("/chat/completions", {"a": "b"})
    assert url.isascii()
    assert str(url).isprintable()
    assert " " not in url
    assert "@" not in endpoint.authority
    target = url.split("/", 3)[3]
    assert request_head("POST", f"/{target}", {"Host": endpoint.authority}).count(b"\r\n") == 3
    assert Endpoint.parse(endpoint.base, "").base == endpoint.base


def headers(data: bytes) -> None:
    """Waits and limits in headers are sane or absent; a caller's own headers and keys are sendable or refused."""
    head, _, payload = data.partition(b"\n\n")
    pairs = [line.partition(":") for line in text(head).split("\n")]
    given = {name.strip().lower(): value.strip() for name, _, value in pairs}
    wait = retry_after(given, json_value(payload), 1.8e9)
    assert wait is None or 0 < wait < 1e9
    assert all(math.isfinite(value) and value >= 0 for value in rate_limits(given).values())
    for value in given.values():
        seconds = parse_duration(value)
        assert seconds is None or 0 < seconds < 1e9
        key = attempt(lambda: checked_key(value), ConfigurationError)  # noqa: B023 - called at once
        assert not isinstance(key, ConfigurationError) or len(value) < 8 or value not in str(key)
    taken = attempt(lambda: checked_headers(dict(given)), ConfigurationError)
    if isinstance(taken, dict):
        assert request_head("GET", "/", taken).count(b"\n") == len(taken) + 2
