"""The reply to a request: its status, its headers, and its body, read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Protocol

from ..errors import APIConnectionError, APITimeoutError, Cancelled, ResponseParseError
from ..wire.sse import TICK
from . import failures
from .clock import Clock

MAX_ERROR_BODY = 65536
"""Bytes of an error's body that are read."""
ERROR_BODY_TIME = 5.0
"""Seconds that an error's body may take in all."""
_REQUEST_IDS = ("x-request-id", "request-id", "x-litellm-call-id", "apim-request-id", "x-amzn-requestid")


class Body(Protocol):
    """Where a reply's body comes from, and what becomes of its connection."""

    clock: Clock
    pieces: Iterator[bytes]
    """Decoded; an empty piece where nothing came for a while."""
    can_tick: bool
    """Whether a read that timed out may be repeated."""

    def finish(self) -> bool:
        """The answer is complete: keep the connection if the body ends at once; whether it had not broken off."""

    def close(self) -> None:
        """Close the connection."""


class Reply:
    """The reply to a request: its status, its headers (lower-case names), and its body, read once.

    Args:
        url: that was asked, without its query.
        explain: makes an error of this library of one from below.
        max_bytes: most that the body may have where it is read as a whole.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: Body,
        *,
        url: str,
        explain: Callable[[BaseException], BaseException],
        max_bytes: int,
    ) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.clock: Clock = body.clock
        self._body = body
        self.explain = explain
        self._max_bytes = max_bytes

    @property
    def request_id(self) -> str | None:
        """The id under which the server knows this call."""
        return next((self.headers[name] for name in _REQUEST_IDS if self.headers.get(name)), None)

    def read(self) -> bytearray:
        """The whole body, decoded.

        Raises:
            APIConnectionError: it did not come to its end.
            ResponseParseError: it cannot be decoded, or is larger than ``max_bytes``.
        """
        self.clock.enter("idle", self.clock.deadline.timeout.idle)
        content = bytearray()
        declared = self.headers.get("content-length", "")
        with _Guarded(self):
            self._check_size(int(declared) if declared.isdigit() else 0)
            for piece in self._body.pieces:
                if piece:
                    self.clock.progress()
                    content += piece
                    self._check_size(len(content))
        self._body.finish()
        return content

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ResponseParseError(
                f"the reply is larger than {self._max_bytes:,} bytes; raise max_response_bytes if that is right",
                request_id=self.request_id,
            )

    def read_error(self) -> bytes:
        """The body of an error, or as much as comes of it: the status must not be lost with it."""
        idle = self.clock.deadline.timeout.idle
        self.clock.enter("idle", ERROR_BODY_TIME if idle is None else min(idle, ERROR_BODY_TIME))
        content = bytearray()
        try:
            with _Guarded(self):
                for piece in self._body.pieces:
                    content += piece
                    if len(content) >= MAX_ERROR_BODY:
                        self._body.close()
                        return bytes(content)
            self._body.finish()
        except (APIConnectionError, ResponseParseError) as error:
            if isinstance(error, APITimeoutError) and error.phase == "total":
                raise
        return bytes(content)

    def chunks(self) -> Iterator[bytes]:
        """The body's bytes, decoded, as they arrive; ``TICK`` where nothing comes."""
        with _Guarded(self):
            # Not "yield from", which would end the pieces with this generator: finish reads on.
            for piece in self._body.pieces:
                yield piece or TICK

    def tick_every(self, seconds: float) -> bool:
        """Whether ``chunks`` now yields ``TICK`` whenever ``seconds`` pass without a piece of the answer.

        On requests' own way it cannot: there a read that timed out is not to be repeated.
        """
        if self._body.can_tick:
            self.clock.tick_every(seconds)
        return self._body.can_tick

    def finish(self) -> bool:
        """The answer is complete: keep the connection if the body ends at once, else close it.

        Returns whether the body had not broken off, as far as that can be seen.
        """
        return self._body.finish()

    def close(self) -> None:
        """Close the connection; the server sees it go, also where a forked child has a copy of the socket."""
        self._body.close()


class _Guarded:
    """What goes wrong below becomes an error of this library, and closes the connection.

    A class, for the frames of ``contextlib.contextmanager`` and the exception that leaves them hold each other.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._reply.clock.deadline.cancelled:
            self._reply.close()
            raise Cancelled  # its shutdown looks like an end of the body
        if error is None or isinstance(error, GeneratorExit):
            return
        self._reply.close()
        explained = self._reply.explain(error)
        try:
            if explained is not error:
                raise explained from failures.root_cause(error)
        finally:
            del explained  # or this frame, the callers' and the exception hold each other
