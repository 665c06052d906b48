"""The routes of a provider's Batch API: ``/files`` and ``/batches``."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote

from .._json import encode_json
from ..cancel import CancelToken
from ..errors import APIError, APIStatusError, APITimeoutError, ResponseParseError, ResponseShapeError
from ..wire.batches import BatchStatus, UploadedFile, parse_batch, parse_batches, parse_file, upload_edges
from ..wire.parse import decode_body
from ..wire.retry import MAX_WAIT, retry_after
from ..wire.sse import TICK

T = TypeVar("T")

MAX_LINE = 256 * 1024 * 1024
"""Bytes of one answer."""

TRIES = 4
"""Times that a batch is asked to be made, and looked for in between."""

READY_IN = 600.0
"""Seconds in which a server is to have looked at a file."""

_PAGE, _PAGES = 100, 50
_SKEW = 86400.0
"""Seconds that the provider's clock may differ from this one's."""
_NO_ROUTES = (404, 405, 501)


class Clock(Protocol):
    """Which limit of time runs."""

    @property
    def deadline(self) -> Any:
        """The call's limits."""

    def enter(self, phase: Any, seconds: float | None, /) -> None:
        """Another phase begins."""

    def progress(self) -> None:
        """Something has come."""


class Reply(Protocol):
    """What is wanted of a reply."""

    @property
    def clock(self) -> Clock:
        """The limits of reading it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """With lower-case names."""

    def read(self) -> bytes | bytearray:
        """The whole body."""

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces; ``TICK`` where nothing comes."""

    def finish(self) -> bool:
        """The body has been read to its end."""

    def close(self) -> None:
        """The rest of it is not wanted."""


class Send(Protocol):
    """Sends a request, and again where that may help; ``read`` is called with each reply."""

    def __call__(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> T:
        """``once``: however it fails, it is not sent again."""


class Upload:
    """A file of requests, written line by line as the body of its upload."""

    def __init__(self) -> None:
        self.boundary: str = os.urandom(16).hex()
        head, self._tail = upload_edges(self.boundary)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._file.write(head)
        self.size: int = 0
        self.requests: int = 0
        self.keys: list[bytes] = []

    def add(self, key: bytes, line: bytes, requests: int) -> None:
        """A line, which counts as so many requests."""
        self._file.write(line)
        self.keys.append(key)
        self.size += len(line)
        self.requests += requests

    def send(self, send: Send, read: Callable[[Reply], T]) -> T:
        """Upload it."""
        self._file.write(self._tail)
        self._file.flush()
        # A map of the file: for whoever sends them these are bytes, and yet they are not in memory.
        body = cast("bytes", memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)))
        return send("POST", "/files", read, body=body, content_type=f"multipart/form-data; boundary={self.boundary}")

    def close(self) -> None:
        """Remove it."""
        self._file.close()


class BatchAPI:
    """The Batch API of one server.

    Args:
        send: sends requests to it.
        provider: its name, for errors.
        secrets: what no error may show.
    """

    def __init__(
        self, send: Send, *, provider: str, secrets: Callable[[], tuple[str, ...]], token: CancelToken
    ) -> None:
        self._send, self._provider, self._secrets, self._token = send, provider, secrets, token

    def upload(self, upload: Upload) -> str:
        """The id of the uploaded file, once the server has looked at it.

        Raises:
            APITimeoutError: it has not after ten minutes.
        """
        try:
            file = upload.send(self._send, self._file)
        except (APIStatusError, ResponseShapeError) as error:
            raise self._without_routes(error) from None
        pause, waited = 1.0, 0.0
        while not file.ready:
            if waited >= READY_IN:
                raise APITimeoutError(
                    f"{self._provider} has not looked at file {file.id} in {waited:.0f} s", provider=self._provider
                )
            self._pause(pause)
            waited, pause = waited + pause, min(2 * pause, 15.0)
            file = self._send("GET", _path("files", file.id), self._file)
        return file.id

    def create(self, input_file_id: str, endpoint: str, window: str, since: float) -> BatchStatus:
        """Make a batch of an uploaded file; one that a reply did not come through for is found, and not made again.

        Args:
            since: when the file was uploaded, POSIX time.
        """
        body = encode_json({"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": window})
        for number in range(1, TRIES + 1):
            try:
                return self._send("POST", "/batches", self._batch, body=body, once=True)
            except APIError as error:
                if not error.retryable or number == TRIES:
                    raise self._without_routes(error) from None
                pause = min(error.retry_after or 0.5 * 2**number, MAX_WAIT)
            self._pause(pause)
            if (found := self.find(input_file_id, since)) is not None:
                return found
        raise AssertionError

    def find(self, input_file_id: str, since: float) -> BatchStatus | None:
        """The batch of an uploaded file, if there is one; None also where the server lists none."""
        query = {"limit": str(_PAGE)}
        for _ in range(_PAGES):
            try:
                page = self._send(
                    "GET", "/batches", lambda reply: parse_batches(self._json(reply), **self._told()), query=query
                )
            except APIStatusError as error:
                if error.status_code in _NO_ROUTES:
                    return None
                raise
            for batch in page:
                if batch.input_file_id == input_file_id:
                    return batch
            if len(page) < _PAGE or all(each.created_at and each.created_at < since - _SKEW for each in page):
                return None
            query["after"] = page[-1].id
        return None

    def status(self, batch_id: str) -> tuple[BatchStatus, float]:
        """How it is with a batch, and in how many seconds the server wants to be asked again."""

        def read(reply: Reply) -> tuple[BatchStatus, float]:
            return self._batch(reply), retry_after(reply.headers, None, time.time()) or 0.0

        return self._send("GET", _path("batches", batch_id), read)

    def cancel(self, batch_id: str) -> BatchStatus:
        """End a batch; one that has ended stays as it is."""
        try:
            return self._send("POST", _path("batches", batch_id, "cancel"), self._batch, body=b"{}")
        except APIStatusError as error:
            if error.status_code not in (400, 409):
                raise
            batch, _ = self.status(batch_id)
            if not batch.ended:
                raise
            return batch

    def lines(self, file_id: str, take: Callable[[bytes], object]) -> None:
        """Call ``take`` with each line of a file, as it comes; from the beginning again where the connection breaks."""

        def read(reply: Reply) -> None:
            try:
                for line in _lines(reply):
                    take(line)
            except BaseException:
                reply.close()
                raise
            reply.finish()

        self._send("GET", _path("files", file_id, "content"), read)

    def _pause(self, seconds: float) -> None:
        self._token.wait(seconds)
        self._token.raise_if_cancelled()

    def _file(self, reply: Reply) -> UploadedFile:
        return parse_file(self._json(reply), **self._told())

    def _batch(self, reply: Reply) -> BatchStatus:
        return parse_batch(self._json(reply), **self._told())

    def _told(self) -> dict[str, Any]:
        return {"provider": self._provider, "secrets": self._secrets()}

    def _json(self, reply: Reply) -> Any:
        return decode_body(reply.read(), **self._told())

    def _without_routes(self, error: APIError) -> APIError:
        # LM Studio says with HTTP 200 that it has no such route.
        status = error.status_code if isinstance(error, APIStatusError) else 0
        if status in _NO_ROUTES or 200 <= status < 300 or isinstance(error, ResponseShapeError):
            error.args = (f"{error}; {self._provider} seems to have no Batch API: client.map asks one by one",)
        return error


def _path(*parts: str) -> str:
    """What a server named stays one part of a path, whatever is in it."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _lines(reply: Reply) -> Iterator[bytes]:
    """The lines of a body, without their ends."""
    clock = reply.clock
    clock.enter("idle", clock.deadline.timeout.idle)
    parts: list[bytes] = []
    size = 0
    for chunk in reply.chunks():
        if chunk is TICK:
            continue
        clock.progress()
        *ended, rest = bytes(chunk).split(b"\n")
        for end in ended:
            yield b"".join([*parts, end])
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > MAX_LINE:
            raise ResponseParseError(f"a line of the batch's file is larger than {MAX_LINE:,} bytes")
    if last := b"".join(parts):
        yield last
