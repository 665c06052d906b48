"""Byte chunks to payloads: whole frames, mended for sseclient-py where they are not plain, then JSON.

The reader's contract:

1. Bytes may be cut anywhere; the payloads are the same.
2. An event is handed on as soon as its last byte is there, at a cost linear in its size.
3. What is not JSON is skipped, an error is never: not one in an ``error:`` field or on a bare line either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sseclient import SSEClient

from ..errors import StreamError
from .decode import NotJSONError, decode_json
from .error_body import find_error

DONE = object()
"""What stands for ``[DONE]`` among the payloads; nothing follows it."""
BEAT = b": silence\n\n"
"""This very object among the chunks is no part of the body: it is handed on as it is, to show that nothing comes."""
MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Default limit for one event, or for a whole JSON body in place of a stream."""

_BOM = b"\xef\xbb\xbf"
_PREAMBLE = rb"\A(?:\s|\xef\xbb\xbf)+"
_NEWLINE = b"\x0b"
"""Stands for a newline within data: no JSON has it, and no reader of lines splits at it."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SSE_START = re.compile(rb"\s*(?:data|event|id|retry|error)?:")


def looks_like_sse(body: bytes | bytearray) -> bool:
    """Whether a body is an event stream, whatever its content type says."""
    return _SSE_START.match(body.removeprefix(_BOM)) is not None


def iter_payloads(chunks: Iterable[bytes], *, max_event_bytes: int = MAX_EVENT_BYTES) -> Iterator[Any]:
    """The decoded payloads of a streamed body, then ``DONE`` if it said so.

    Also reads one JSON body, or a JSON array of chunks, sent in place of events. An event named ``error`` is always
    handed on in a shape that ``find_error`` knows.

    Raises:
        StreamError: one event, or the JSON body, is larger than ``max_event_bytes``.
    """
    for block in _Framer(max_event_bytes).blocks(chunks):
        if block is BEAT:
            yield BEAT
            continue
        lines = block.count(b"\n") if block.startswith(b"data:") else 0
        if lines == 2 or (lines and block.count(b"\n\ndata:") * 2 + 2 == lines):
            # Nothing but events of one "data:" line, as nearly always: sseclient-py would make the same of it.
            payloads: Iterable[Any] = _of_lines(block[5:-2].split(b"\n\ndata:"))
        else:
            payloads = _of_any(block)
        for payload in payloads:
            if type(payload) is list:
                yield from payload
            else:
                yield payload
                if payload is DONE:
                    return


def _of_lines(lines: list[bytes]) -> list[Any]:
    payloads: list[Any] = []
    for data in lines:
        try:
            payloads.append(decode_json(data))
        except NotJSONError:
            if data.lstrip().startswith(b"[DONE]"):
                payloads.append(DONE)
                break
    return payloads


def _of_any(block: bytes) -> Iterator[Any]:
    """The payloads of a block with other fields, comments, several lines or line ends gone astray."""
    mended = _valid_utf8(b"\n".join(_parted([_mend(line) for line in block.split(b"\n")])))
    for event in SSEClient(iter([mended])).events():
        data = event.data.replace(_NEWLINE.decode(), "\n")
        if data.startswith("[DONE]"):
            yield DONE
            return
        try:
            payload = decode_json(data)
        except NotJSONError:
            if event.event == "error":
                yield {"error": data}
            elif "\n" in data:
                yield from _one_a_line(data)
            continue
        if event.event == "error" and find_error(payload) is None:
            payload = {"error": payload or data}
        yield payload


def _one_a_line(data: str) -> Iterator[Any]:
    """Events that one newline separates, which the specification joins into one."""
    for line in data.split("\n"):
        if line.startswith("[DONE]"):
            yield DONE
            return
        try:
            yield decode_json(line)
        except NotJSONError:
            continue


class _Framer:
    """Cuts bytes at blank lines, and gives all lines the same end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._after_cr = False

    def blocks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Blocks of one or more whole events, with LF line ends."""
        source = iter(chunks)
        first = self._first(source)
        if first[:1] in (b"{", b"["):
            yield from self._json_body(first, source)
            return
        pending = bytearray()
        scanned = 0
        several = False  # the event has a data line that is not whole by itself
        for chunk in chain([first], map(self._with_lf, source)):
            if chunk is BEAT:
                yield chunk
                continue
            if not pending and chunk.endswith(b"\n\n"):
                self._check_events(chunk)
                yield chunk
                continue
            pending += chunk
            cut = pending.rfind(b"\n\n", scanned)
            if cut >= 0:
                cut += 2
                block = bytes(pending[:cut])
                self._check_events(block)
                yield block
            elif not several and (split := pending.rfind(b"}\ndata:", scanned)) >= 0:
                if not _is_whole(pending[: split + 1]):
                    several = True
                    continue
                # A server that ends its events with one newline: the next event shows that this one is whole.
                cut = split + 2
                yield bytes(pending[:cut]) + b"\n"
            else:
                scanned = max(0, len(pending) - 6)
                self._check_size(len(pending))
                continue
            del pending[:cut]
            scanned = 0
            several = False
        if pending:
            yield bytes(pending) + b"\n\n"

    def _check_events(self, block: bytes) -> None:
        if len(block) > self._limit:
            self._check_size(max(len(event) for event in block.split(b"\n\n")))

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise StreamError(
                f"one event of the stream is larger than {self._limit:,} bytes; raise max_event_bytes if that is right"
            )

    def _first(self, source: Iterator[bytes]) -> bytes:
        """The first bytes of a body, without byte order marks and white space in front of the first event."""
        start = b""
        for chunk in source:
            start = re.sub(_PREAMBLE, b"", start + self._with_lf(chunk))
            if start and not _BOM.startswith(start):
                break
        return start

    def _with_lf(self, chunk: bytes) -> bytes:
        """CRLF and CR become LF, also where a CR and its LF come in two chunks."""
        if self._after_cr and chunk and chunk is not BEAT:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _json_body(self, first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
        body = bytearray(first)
        self._check_size(len(body))
        for chunk in rest:
            body += self._with_lf(chunk)
            self._check_size(len(body))
        try:
            decode_json(body)
        except NotJSONError:
            yield bytes(body) + b"\n\n"
        else:
            yield b"data: " + bytes(body).replace(b"\n", b" ") + b"\n\n"


def _parted(lines: list[bytes]) -> Iterator[bytes]:
    """The lines, with one ``data:`` line to an event, and a blank one between events one newline apart.

    A ``data:`` line that is whole JSON, in an event of nothing else, cannot go on in a further one. Other data lines
    become one, with a mark for the newline: sseclient-py would copy the event for each of them.
    """
    data: list[bytes] = []
    alone = whole = True
    for line in lines:
        if line.startswith(b":"):
            continue
        if line.startswith(b"data:"):
            if data and alone and whole:
                yield b"data: " + data.pop()
                yield b""
            data.append(line[5:].removeprefix(b" "))
            whole = alone and len(data) == 1 and line.rstrip().endswith(b"}") and _is_json(line[5:])
            continue
        if not line:
            if data:
                yield b"data: " + _NEWLINE.join(data)
            data = []
        alone = not line
        yield line
    if data:
        yield b"data: " + _NEWLINE.join(data)


def _is_whole(lines: bytes | bytearray) -> bool:
    """Whether these lines, which another ``data:`` line follows, are whole events."""
    event = lines.rpartition(b"\n\n")[2].split(b"\n")
    return all(_is_json(line[5:]) if line.startswith(b"data:") else line[:1] in (b"", b":") for line in event)


def _is_json(text: bytes | bytearray) -> bool:
    try:
        decode_json(text)
    except NotJSONError:
        return False
    return True


def _mend(line: bytes) -> bytes:
    """A field that the specification knows, from a line that it would drop though it holds an error or a chunk."""
    if not line or line.startswith(_FIELDS):
        return line
    if line.startswith(b"error:"):
        return b"event: error\ndata:" + line[6:]
    if line.lstrip().startswith((b"{", b"[DONE]")):
        return b"data: " + line
    return line


def _valid_utf8(block: bytes) -> bytes:
    if block.isascii():
        return block
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode("utf-8", "replace").encode()
    return block
