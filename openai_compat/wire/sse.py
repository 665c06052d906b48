"""Byte chunks to payloads: whole events, tidied for sseclient-py where they are not plain, then JSON.

The reader's contract:

1. Bytes may be cut anywhere; the payloads are the same.
2. An event is handed on as soon as its last byte is there, at a cost linear in its size.
3. Nothing that was said is passed over in silence: what cannot be read is ``Unreadable``, and an error is an error,
   also as plain words, in an ``error:`` field or on a bare line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
from sseclient import SSEClient

from .._json import NotJSONError, decode_event, decode_json
from ..errors import StreamError
from .chunk_template import ChunkTemplate
from .event_data import CHECK_EVERY_LINES, DONE, TRACEBACK, Unreadable, flat, is_error, read_data

TICK = b": tick\n\n"
"""This very object among the chunks is no part of the body: it is handed on as it is, to show that nothing comes."""
MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Default limit for one event, or for a whole JSON body in place of a stream."""
CHECK_EVERY_BYTES = 64 * 1024
"""Bytes after which ``check`` is called at the latest."""
MAX_STRAY = 500
"""Bytes of a body that is no stream which are kept."""

_BOM = b"\xef\xbb\xbf"
_PREAMBLE = re.compile(rb"\A(?:\s|\xef\xbb\xbf)+")
_NEWLINE, _STAND_IN = b"\x0b1", b"\x0b0"
"""Stand for a newline within data, and for the character that both begin with: sseclient-py does not split at them."""
_SSE_START = re.compile(rb"\s*(?:data|event|id|retry|error)?:")


@attrs.frozen
class NotAStream:
    """All there is of a body that is neither an event stream nor JSON; of a text, how it begins."""

    body: bytes


def looks_like_sse(body: bytes | bytearray) -> bool:
    """Whether a body is an event stream, whatever its content type says."""
    return _SSE_START.match(body.removeprefix(_BOM)) is not None


def _nothing() -> None:
    pass


def iter_payloads(
    chunks: Iterable[bytes],
    *,
    max_event_bytes: int = MAX_EVENT_BYTES,
    check: Callable[[], object] | None = None,
    template: ChunkTemplate | None = None,
) -> Iterator[Any]:
    """The decoded payloads of a streamed body, then ``DONE`` if it said so; ``Unreadable`` for what cannot be read.

    Also reads one JSON body, or a JSON array of chunks, sent in place of events; any other body is ``NotAStream``. An
    error is always handed on in a shape that ``find_error`` knows.

    Args:
        check: called at least every 64 KB and every 1,000 lines, whatever they are; what it raises ends the reading.
        template: what reads chunks that differ from an earlier one in one string alone; their payloads are what its
            ``read`` returns.

    Raises:
        StreamError: one event, or the JSON body, is larger than ``max_event_bytes``.
    """
    check = check or _nothing
    reader = _Reader(max_event_bytes, check, template)
    idle = False
    for chunk in chunks:
        check()
        if chunk is TICK:
            yield TICK
            continue
        if idle and chunk.endswith(b"\n\n") and chunk.startswith(b"data:"):
            # One event, of which nearly every one is like the one before: no other way is as short.
            found = template.read(chunk[5:-2]) if template is not None else None
            if found is not None:
                yield found
                continue
        for piece in reader.cleaned(chunk):
            for payload in reader.feed(piece):
                yield payload
                if payload is DONE:
                    return
        idle = reader.idle
    for payload in reader.finish():
        yield payload
        if payload is DONE:
            return


class _Reader:
    """Takes pieces with LF line ends, and returns the payloads of the events that have ended."""

    def __init__(self, limit: int, check: Callable[[], object], template: ChunkTemplate | None) -> None:
        self._limit = limit
        self._check = check
        self._template = template
        self._after_cr = False
        self._feed: Callable[[bytes], Iterable[Any]] = self._begin
        self._pending = bytearray()  # a body that has not begun, a JSON body, or a line that has not ended
        self._scanned = 0
        self._event = _Event(check)
        self._stray = b""

    def cleaned(self, chunk: bytes) -> Iterable[bytes]:
        """A chunk in pieces of bounded size, with LF line ends, also where a CR and its LF come in two chunks."""
        if len(chunk) <= CHECK_EVERY_BYTES and not self._after_cr and b"\r" not in chunk:
            return (chunk,) if chunk else ()
        return self._cleaned(chunk)

    def _cleaned(self, chunk: bytes) -> Iterator[bytes]:
        for at in range(0, len(chunk), CHECK_EVERY_BYTES):
            if at:
                self._check()
            piece = chunk[at : at + CHECK_EVERY_BYTES]
            if self._after_cr:
                self._after_cr = False
                piece = piece.removeprefix(b"\n")
            if b"\r" in piece:
                self._after_cr = piece.endswith(b"\r")
                piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if piece:
                yield piece

    @property
    def idle(self) -> bool:
        """Nothing has begun that a piece would go on with."""
        return self._event.known and not (self._event.size or self._pending or self._after_cr or self._stray)

    def feed(self, piece: bytes) -> Iterable[Any]:
        """The payloads that ``piece`` completes."""
        return self._feed(piece)

    def finish(self) -> Iterator[Any]:
        """The payloads of what no blank line has ended."""
        if self._feed == self._json:
            yield from self._json_body()
        if self._pending:
            line = bytes(self._pending)
            self._pending.clear()
            yield from self._lines([line])
        yield from self._event.end()
        if not self._event.known:
            yield NotAStream(self._stray)

    def _begin(self, piece: bytes) -> Iterable[Any]:
        """Byte order marks and white space in front of the first event are no part of it."""
        start = _PREAMBLE.sub(b"", bytes(self._pending) + piece)
        self._pending[:] = start
        if not start or _BOM.startswith(start):
            return ()
        self._pending.clear()
        self._feed = self._json if start[:1] in (b"{", b"[") else self._events
        return self._feed(start)

    def _json(self, piece: bytes) -> Iterable[Any]:
        self._pending += piece
        self._check_size(len(self._pending))
        return ()

    def _json_body(self) -> Iterator[Any]:
        """One JSON body, which events may follow; else all of it is read as lines."""
        body = bytes(self._pending)
        self._pending.clear()
        try:
            payload = decode_json(body)
        except NotJSONError:
            text = body.decode("utf-8", "replace")
            values, rest = decode_event(text, most=1)
            if not values and not re.search(rb"^(?:data|event|error):|^\[DONE\]", body, re.MULTILINE):
                self._stray = body
                return
            yield from values
            yield from self._lines(rest.encode().split(b"\n"))
            self._event.known = True
        else:
            self._event.known = True
            yield from flat(payload, self._check)

    def _events(self, piece: bytes) -> Iterable[Any]:
        if not self._pending and not self._event.begun and piece.endswith(b"\n\n"):
            return self._block(piece)
        self._pending += piece
        cut = self._pending.rfind(b"\n", self._scanned) + 1
        if cut:
            block = bytes(self._pending[:cut])
            del self._pending[:cut]
        self._scanned = len(self._pending)
        if not cut:
            self._check_size(self._event.size + len(self._pending))
            return ()
        return self._mixed(block)

    def _mixed(self, block: bytes) -> Iterator[Any]:
        """The payloads of whole lines, which need not be whole events."""
        begins = 0
        if self._event.begun:
            blank = 0 if block.startswith(b"\n") else block.find(b"\n\n") + 1
            begins = blank + 1 if blank or block.startswith(b"\n") else len(block)
            yield from self._lines(block[:begins].split(b"\n")[:-1])
        blank = block.rfind(b"\n\n", begins)
        ends = blank + 2 if blank >= 0 else begins
        if ends > begins:
            yield from self._block(block[begins:ends])
        yield from self._lines(block[ends:].split(b"\n")[:-1])
        if self._event.waits and self._pending.startswith(b"data:"):
            # A server that ends its events with one newline: the next event shows that this one is whole.
            yield from self._event.end()
        self._check_size(self._event.size + len(self._pending))

    def _block(self, block: bytes) -> Iterable[Any]:
        """The payloads of whole events."""
        lines = block.count(b"\n") if block.startswith(b"data:") else 0
        if (lines == 2 or (lines and block.count(b"\n\ndata:") * 2 + 2 == lines)) and not self._stray:
            # Nothing but events of one "data:" line, as nearly always: sseclient-py would make the same of it.
            self._event.known = True
            events = block[5:-2].split(b"\n\ndata:")
            if len(block) > self._limit:
                self._check_size(max(map(len, events)) + len(b"data:"))
            return self._plain(events)
        return self._lines(block.split(b"\n")[:-1])

    def _plain(self, events: list[bytes]) -> Iterator[Any]:
        template = self._template
        for number, data in enumerate(events, 1):
            if number % CHECK_EVERY_LINES == 0:
                self._check()
            if template is not None:
                payload = template.read(data)
                if payload is not None:
                    yield payload
                    continue
            try:
                payload = decode_json(data)
            except NotJSONError:
                yield from read_data(data.decode("utf-8", "replace"), "", self._check)
                continue
            if type(payload) is dict:
                if template is not None:
                    template.learn(data, payload)
                yield payload
            else:
                yield from flat(payload, self._check)

    def _lines(self, lines: list[bytes]) -> Iterator[Any]:
        for number, line in enumerate(lines, 1):
            if number % CHECK_EVERY_LINES == 0:
                self._check()
            payloads = self._event.take(line)
            if self._stray and self._event.known:
                if b'{"' in self._stray:
                    yield Unreadable.of(self._stray.decode("utf-8", "replace"))
                self._stray = b""
            yield from payloads
            self._check_size(self._event.size)
            if not self._event.known and len(self._stray) < MAX_STRAY:
                self._stray += line[:MAX_STRAY] + b"\n"

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise StreamError(
                f"one event of the stream is larger than {self._limit:,} bytes; raise max_event_bytes if that is right"
            )


class _Event:
    """One event, line by line.

    A ``data:`` line that is whole JSON, in an event of nothing else, cannot go on in a further one: some servers put
    one newline between their events.
    """

    def __init__(self, check: Callable[[], object]) -> None:
        self._check = check
        self.known = False  # a line of an event stream has come
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        self._data: list[bytes] = []
        self._name = b""
        self._alone = True  # nothing but data so far
        self._single: bool | None = None  # the data is one line, and whole; None where that is to be seen

    @property
    def begun(self) -> bool:
        """A line has come, and no blank line after it."""
        return self.size > 0

    @property
    def waits(self) -> bool:
        """The event is whole by itself, if no further field comes."""
        if self._single is None:
            self._single = self._alone and len(self._data) == 1 and _is_whole(self._data[0])
        return self._single

    def take(self, line: bytes) -> Iterable[Any]:
        """The payloads that this line completes."""
        if not line:
            return self.end() if self.size else ()
        self.size += len(line) + 1
        if line.startswith(b"data:"):
            return self._take_data(line[5:].removeprefix(b" "))
        if line.startswith(b":"):  # a comment
            self.known = True
        elif line.startswith(b"event:"):
            self.known = True
            self._alone = self._single = False
            self._name = line[6:].removeprefix(b" ")
        elif line.startswith((b"id:", b"retry:")):
            self.known = True
            self._alone = self._single = False
        else:
            return self._take_other(line)
        return ()

    def _take_data(self, data: bytes) -> Iterable[Any]:
        self.known = True
        before = list(self.end(len(data) + 1)) if self._data and self.waits else ()
        self._single = None if self._alone and not self._data else False
        self._data.append(data)
        return before

    def _take_other(self, line: bytes) -> Iterable[Any]:
        """What the specification ignores, though it may hold an error or a chunk."""
        start = line.lstrip()
        if start.startswith((b"{", b"[DONE]")):
            return self._take_data(line)
        if line.startswith(b"error:"):
            before = list(self.end(len(line))) if self._data else []
            self.known = True
            self._name, self._alone, self._single = b"error", False, False
            self._data.append(line[6:].removeprefix(b" "))
            return before
        if not self.known:
            return ()
        text = start.decode("utf-8", "replace")
        if is_error(text) and not TRACEBACK.match(text):
            return [*self.end(), {"error": text}]
        return [Unreadable.of(text)] if b'{"' in line else ()

    def end(self, size: int = 0) -> Iterable[Any]:
        """The payloads of the event so far; another begins, of which ``size`` bytes have come."""
        data, name = self._data, self._name
        self._clear()
        self.size = size
        if name == b"error" and not any(map(bytes.strip, data)):
            return [{"error": {"message": "an event named error, without words"}}]
        if not data:
            return ()
        # One line for all: sseclient-py copies an event for each of its lines.
        joined = _NEWLINE.join([line.replace(b"\x0b", _STAND_IN) for line in data])
        frame = _valid_utf8(b"event: %b\ndata: %b\n\n" % (name, joined))
        return [
            payload
            for event in SSEClient(iter([frame])).events()
            for payload in read_data(_as_it_came(event.data), event.event, self._check)
        ]


def _as_it_came(data: str) -> str:
    return data.replace(_NEWLINE.decode(), "\n").replace(_STAND_IN.decode(), "\x0b")


def _is_whole(data: bytes) -> bool:
    if not data.rstrip().endswith(b"}"):
        return False
    try:
        decode_json(data)
    except NotJSONError:
        return False
    return True


def _valid_utf8(block: bytes) -> bytes:
    if block.isascii():
        return block
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode("utf-8", "replace").encode()
    return block
