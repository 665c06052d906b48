"""Real exchanges, kept in a file and replayed from it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import attrs
import requests
import urllib3
from requests.adapters import BaseAdapter

from .._json import NotJSONError, decode_json
from ..credentials import secrets_in_headers, secrets_in_query
from ..errors import ConfigurationError
from ..redaction import redact_error_body
from .adapters import standing_between
from .differences import differences, likeness
from .masking import masked_events
from .recording import Exchange, Piece, events, kept_headers, load, save

if TYPE_CHECKING:
    from typing import Self

RecordMode = Literal["none", "once", "new_episodes", "all"]

TICK = 0.02
"""Seconds after which a replayed pause is looked at again."""
_ENDPOINTS = ("/chat/completions", "/embeddings", "/models")


class RecordingMismatchError(AssertionError):
    """What was asked is not what was recorded."""


class Recorder:
    """Records calls, or replays them; all requests to these endpoints through ``requests`` are meant.

    ::

        with Recorder("recordings/weather.json", mode="once"):
            answer = client.chat("Will it rain?")

    A request is replayed only if method, URL and body are what they were, each recorded one once, in any order. Leaving
    the ``with`` block raises if something recorded was not asked for.

    Args:
        path: of the file.
        mode: as with VCR: ``"none"`` replays only; ``"once"`` records where there is no file yet, else replays only;
            ``"new_episodes"`` replays what is recorded, and records the rest; ``"all"`` records all anew.
        timed: replay with the pauses that the server made; else all at once.
        secrets: words to mask in the file, beside keys of requests and all that looks like a credential.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: RecordMode = "none",
        timed: bool = False,
        secrets: tuple[str, ...] = (),
    ) -> None:
        if mode not in ("none", "once", "new_episodes", "all"):
            raise ConfigurationError(f"mode is 'none', 'once', 'new_episodes' or 'all', not {mode!r}")
        self.path: Path = Path(path)
        self.mode: RecordMode = mode
        self._timed = timed
        self._secrets = set(secrets)
        self._lock = threading.Lock()
        self._old: list[Exchange] = []
        self._unused: list[Exchange] = []
        self._new: list[_Taken] = []
        self._records = False
        self._complaints: list[str] = []
        self._between = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if failure is None:
            self.verify()

    def start(self) -> None:
        """Read the file, and stand between the library and the network from now on.

        Raises:
            ConfigurationError: the file is no recording.
        """
        exists = self.path.exists()
        self._old = load(self.path) if exists and self.mode != "all" else []
        self._unused = list(self._old)
        self._new, self._complaints = [], []
        self._records = self.mode in ("all", "new_episodes") or (self.mode == "once" and not exists)
        self._between.enter_context(standing_between(_is_endpoint, self._send))

    def stop(self) -> None:
        """Step aside, and write what was recorded."""
        self._between.close()
        if self._new:
            save(self.path, [*self._old, *(taken.exchange(self._masked) for taken in self._new)])

    def verify(self) -> None:
        """Complain of requests that were not as recorded, and of recorded ones that have not come; of each once.

        Raises:
            RecordingMismatchError: there were some.
        """
        complaints, self._complaints = self._complaints, []
        unused, self._unused = self._unused, []
        if unused and self.mode != "new_episodes":
            complaints += [f"recorded in {self.path}, and not asked for:", *(f"  {_named(one)}" for one in unused)]
        if complaints:
            raise RecordingMismatchError("\n".join(complaints))

    def _send(
        self, adapter: BaseAdapter, request: requests.PreparedRequest, options: Mapping[str, Any]
    ) -> requests.Response:
        """A request of ``requests``, replayed, or recorded on its way.

        Raises:
            RecordingMismatchError: it is not recorded, and is not to be.
        """
        asked = self._asked(request)
        if (found := self._take(asked)) is not None:
            return _replayed(found, request, timed=self._timed)
        if not self._records:
            message = self._explained(asked)
            self._complaints.append(message)
            raise RecordingMismatchError(message)
        taken = _Taken(asked)
        with self._lock:
            self._new.append(taken)
        try:
            response = adapter.send(request, **options)
        except BaseException:
            with self._lock:
                self._new.remove(taken)
            raise
        taken.follow(response)
        return response

    def _asked(self, request: requests.PreparedRequest) -> Exchange:
        url = str(request.url)
        headers = {name: value for name, value in request.headers.items() if isinstance(value, str)}
        self._secrets.update(map(str, (*secrets_in_headers(headers), *secrets_in_query(urlsplit(url).query))))
        data = request.body or b""
        body: Any = self._masked(data if isinstance(data, bytes) else str(data).encode())
        with contextlib.suppress(NotJSONError):
            body = decode_json(body)
        return Exchange(method=str(request.method), url=self._masked(url.encode()), body=body or None)

    def _masked(self, data: bytes) -> str:
        text = data.decode("utf-8", "replace")
        return redact_error_body(text, secrets=sorted(self._secrets), limit=len(text))

    def _take(self, asked: Exchange) -> Exchange | None:
        with self._lock:
            found = next((exchange for exchange in self._unused if exchange.request == asked.request), None)
            if found is not None:
                self._unused.remove(found)
        return found

    def _explained(self, asked: Exchange) -> str:
        how = f"record it with mode='all' ({self.mode!r} now), or pytest --openai-compat-record=all"
        if not self._old:
            return f"{_named(asked)} is not recorded, for {self.path} is not there yet: {how.replace('all', 'once')}"
        if not self._unused:
            return f"{_named(asked)} is not recorded in {self.path}, of which all has been asked for: {how}"
        nearest = max(self._unused, key=lambda exchange: likeness(exchange.request, asked.request))
        told = (f"  {line}" for line in differences(nearest.request, asked.request))
        return "\n".join([f"{_named(asked)} differs from what is recorded in {self.path}:", *told, how])


class _Taken:
    """An exchange while it takes place."""

    def __init__(self, asked: Exchange) -> None:
        self._asked = asked
        self._begun = time.monotonic()
        self._response: requests.Response | None = None
        self._pieces: list[Piece] = []
        self._broken = False

    def follow(self, response: requests.Response) -> None:
        """See what is read of a response's body, by either way to read it."""
        self._response = response
        raw: Any = response.raw
        read1, stream = raw.read1, raw.stream

        def seen_read1(*args: Any, **options: Any) -> bytes:
            with self._watching():
                data: bytes = read1(*args, **options)
            self._keep(data)
            return data

        def seen_stream(*args: Any, **options: Any) -> Iterator[bytes]:
            pieces = stream(*args, **options)
            while True:
                with self._watching():
                    data = next(pieces, None)
                if data is None:
                    return
                self._keep(data)
                yield data

        raw.read1, raw.stream = seen_read1, seen_stream

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._broken = True
            raise

    def _keep(self, data: bytes) -> None:
        if data:
            self._pieces.append((round(time.monotonic() - self._begun, 3), data))

    def exchange(self, masked: Callable[[bytes], str]) -> Exchange:
        """What has come so far, with its secrets masked."""
        response = self._response
        if response is None:
            return self._asked
        headers = kept_headers(response.headers)
        # Masked whole, for a key may come in two pieces.
        streamed = "text/event-stream" in headers.get("content-type", "")
        at = self._pieces[-1][0] if self._pieces else 0.0
        pieces = events(self._pieces) if streamed else [(at, b"".join(piece for _, piece in self._pieces))]
        if streamed:
            safe = masked_events([data for _, data in pieces], lambda text: masked(text.encode("utf-8", "replace")))
            pieces = [(at, data) for (at, _), data in zip(pieces, safe, strict=True)]
        return attrs.evolve(
            self._asked,
            status=response.status_code,
            headers={name: masked(value.encode("latin-1", "replace")) for name, value in headers.items()},
            pieces=tuple((at, _masked_bytes(data, masked)) for at, data in pieces if data),
            broken=self._broken,
        )


def _masked_bytes(data: bytes, masked: Callable[[bytes], str]) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError:
        return data
    return masked(data).encode()


class _Body(urllib3.HTTPResponse):
    """A recorded body, in its pieces."""

    def __init__(self, exchange: Exchange, *, timed: bool) -> None:
        super().__init__(
            body=b"", headers=dict(exchange.headers), status=exchange.status, version=11, preload_content=False
        )
        self._exchange = exchange
        self._timed = timed
        self._begun = time.monotonic()

    def stream(self, amt: int | None = 65536, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        """The pieces, each at its time."""
        for at, data in self._exchange.pieces:
            while self._timed and (left := self._begun + at - time.monotonic()) > 0:
                time.sleep(min(left, TICK))
                yield b""  # so that limits and a token are heard
            yield data
        if self._exchange.broken:
            raise urllib3.exceptions.ProtocolError("the connection broke here when this was recorded")

    def read(self, *args: Any, **options: Any) -> bytes:
        """All of it."""
        return b"".join(self.stream())


def _replayed(exchange: Exchange, request: requests.PreparedRequest, *, timed: bool) -> requests.Response:
    response = requests.Response()
    response.status_code = exchange.status
    response.headers.update(exchange.headers)
    response.url = str(request.url)
    response.request = request
    response.raw = _Body(exchange, timed=timed)
    return response


def _is_endpoint(url: str) -> bool:
    return urlsplit(url).path.endswith(_ENDPOINTS)


def _named(exchange: Exchange) -> str:
    model = exchange.body.get("model") if isinstance(exchange.body, dict) else None
    return f"{exchange.method} {exchange.url}" + (f" with model {model!r}" if model else "")
