"""Answers kept by requests-cache: what was asked before is answered from SQLite or Redis, streams as streams.

::

    client = Client.from_env(session=CachedSession("answers.sqlite"))
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import requests

from ..credentials import secrets_in_headers
from ..errors import ConfigurationError

try:
    import requests_cache
    from requests_cache.backends.base import BaseCache
    from requests_cache.backends.sqlite import SQLiteCache, SQLiteDict
    from requests_cache.models.response import CachedResponse
    from requests_cache.policy import get_expiration_datetime
    from requests_cache.serializers import SerializerPipeline, Stage
except ImportError as _missing:
    raise ConfigurationError("the cache needs another package: pip install 'openai-compat[cache]'") from _missing

__all__ = ["CachedSession"]

HIT = "x-openai-compat-cache"
"""The header of an answer that was kept; its value is ``hit``."""
_PIECES = "x-openai-compat-pieces"
TICK = 0.02
"""Seconds after which a replayed pause is looked at again."""
LOCKED = 2.0
"""Seconds for which another program's lock of SQLite is waited for."""
SILENT = 2.0
"""Seconds after which a Redis that does not answer is given up."""
ACCOUNTS: set[str] = {"openai-organization", "openai-project"}
"""Headers that say who pays, besides the credentials."""
PASSING: set[str] = {"cookie", "idempotency-key"}
"""Headers that are named like credentials, and differ from request to request."""
_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct):
    """What is kept of an answer, as JSON."""

    url: str
    reason: str
    headers: dict[str, str]
    content: bytes
    created_at: datetime
    expires: datetime | None


def _dumped(kept: CachedResponse) -> str:
    entry = _Entry(kept.url, kept.reason or "", dict(kept.headers), kept.content, kept.created_at, kept.expires)
    return msgspec.json.encode(entry).decode()


def _loaded(data: str | bytes) -> CachedResponse:
    entry = msgspec.json.decode(data, type=_Entry)
    return CachedResponse(
        status_code=200,
        reason=entry.reason,
        url=entry.url,
        headers=requests.structures.CaseInsensitiveDict(entry.headers),
        content=entry.content,
        created_at=entry.created_at,
        expires=entry.expires,
    )


_using_sqlite = threading.RLock()
"""Held while SQLite is used: a fork waits, or a child would have half a transaction, and locks that nobody opens."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_using_sqlite.acquire, after_in_parent=_using_sqlite.release, after_in_child=_using_sqlite.release
    )

# requests-cache's own default is pickle, by which whoever can write to the cache runs code in who reads it.
_JSON = SerializerPipeline([Stage(dumps=_dumped, loads=_loaded)], name="json")


class CachedSession(requests_cache.CachedSession):
    """A session for ``Client(session=...)`` that answers what it was asked before.

    Kept is what came whole and without an error: chat, embeddings, lists of models. A streamed answer is handed on
    while it comes, kept once it has ended, and is a stream again when it is replayed. An answer that was kept has the
    header ``x-openai-compat-cache: hit``. Neither the request nor its headers are kept, only a hash of both.
    Answers are kept as JSON, not as pickles, which could run code.

    What the cache cannot do, because a disk is full or a server is down, is logged, and the model is asked.

    Args:
        cache_name: the path of an SQLite file, or a ``redis://`` URL.
        backend: as for ``requests_cache.CachedSession``, such as ``"memory"``; by default what ``cache_name`` says.
        expire_after: seconds, a ``timedelta`` or a date; by default answers are kept for ever.
        replay: how a stream is replayed: ``"at_once"``, or ``"timed"``, with the pauses that it had.
        match_headers: the headers that are part of the question, besides the URL and the body. By default all that
            carry credentials, but cookies, so that nobody is answered with what another's key has paid for; ``()``
            shares all.
        options: for ``requests_cache.CachedSession``.

    Raises:
        ConfigurationError: requests-cache, or for Redis redis, is not installed; a value is of no use; or the file is
            no SQLite file, or not to be opened.
    """

    def __init__(
        self,
        cache_name: str = "openai_compat.sqlite",
        backend: Any = None,
        *,
        expire_after: Any = -1,
        replay: Literal["at_once", "timed"] = "at_once",
        match_headers: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        if replay not in ("at_once", "timed"):
            raise ConfigurationError(f"replay is 'at_once' or 'timed', not {replay!r}")
        if backend is None and str(cache_name).startswith(("redis://", "rediss://", "unix://")):
            cache_name, backend = requests_cache.DEFAULT_CACHE_NAME, _redis(str(cache_name))
        self._timed = replay == "timed"
        self._matched = None if match_headers is None else tuple(sorted(name.lower() for name in match_headers))
        self._caches: dict[int, BaseCache] = {}
        self._open: Callable[[], BaseCache] | None = None
        if backend in (None, "sqlite"):
            self._open = lambda: _sqlite(str(cache_name), **{"serializer": _JSON, **options})
            backend = self._open()
            super().__init__(backend=backend, expire_after=expire_after, **options)
        else:
            super().__init__(str(cache_name), backend, expire_after=expire_after, **options)
        if "serializer" not in options and self.cache.responses.serializer is not None:
            self.cache.responses.serializer = _JSON

    @property
    def cache(self) -> BaseCache:
        """Where answers are kept. A child process opens SQLite anew: a connection does not outlive a fork."""
        process = os.getpid()
        if process not in self._caches:
            inherited = next(reversed(self._caches.values()))
            self._caches.setdefault(process, inherited if self._open is None else self._open())
            self.settings = inherited._settings
        return self._caches[process]

    @cache.setter
    def cache(self, opened: BaseCache) -> None:
        self._caches[os.getpid()] = opened

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        """The answer that was kept, or the server's, which will be."""
        if (key := self._key(request)) is None:
            return requests.Session.send(self, request, *args, **options)
        kept = self._kept(key)
        if kept is not None:
            return _replayed(*kept, request, timed=self._timed)
        response: requests.Response = requests.Session.send(self, request, *args, **options)
        if response.status_code == 200:
            reference = weakref.ref(response)
            _record(response, lambda pieces: self._keep(key, reference(), pieces))
        return response

    def _key(self, request: requests.PreparedRequest) -> str | None:
        """What is asked: the order of a JSON object's keys does not matter, nor how the request is told from others.

        None for what is no question, such as an upload, or the state of a batch.
        """
        is_list = request.method == "GET" and urlsplit(str(request.url)).path.endswith("/models")
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        if not (is_list or request.method == "POST") or not isinstance(body, (bytes, bytearray)):
            return None
        digest = hashlib.sha256(f"{request.method} {request.url}\n".encode())
        for name in _with_credentials(request.headers) if self._matched is None else self._matched:
            digest.update(f"{name}: {request.headers.get(name, '')}\n".encode())
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            body = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
        digest.update(body)
        return digest.hexdigest()

    def _kept(self, key: str) -> tuple[CachedResponse, list[tuple[float, bytes]]] | None:
        try:
            with self._in_use():
                kept = self.cache.get_response(key)
            return None if kept is None or kept.is_expired else (kept, _pieces(kept))
        except Exception as error:
            _log.warning("the cache cannot be read, and the server is asked: %s", error)
            return None

    def _keep(self, key: str, response: requests.Response | None, pieces: list[tuple[float, bytes]]) -> None:
        content = b"".join(piece for _, piece in pieces)
        if response is None or not _whole(content):
            return
        headers = {name: response.headers[name] for name in ("Content-Type", "Date") if name in response.headers}
        request_ids = {name: value for name, value in response.headers.items() if name.lower().endswith("request-id")}
        times = ",".join(f"{len(piece)}@{seconds:.4f}" for seconds, piece in pieces)
        try:
            answer = CachedResponse(
                status_code=200,
                reason=response.reason,
                url=_without_secrets(str(response.url)),
                headers=requests.structures.CaseInsensitiveDict({**headers, **request_ids, _PIECES: times}),
                content=content,
                expires=get_expiration_datetime(self.settings.expire_after),
            )
            with self._in_use():
                if isinstance(self.cache.responses, SQLiteDict):
                    _require_unlocked(self.cache.responses.db_path)
                self.cache.responses[key] = answer
        except Exception as error:
            _log.warning("an answer could not be kept: %s", error)

    def _in_use(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._open is None else _using_sqlite


def _sqlite(path: str, **options: Any) -> SQLiteCache:
    try:
        with _using_sqlite:
            file = Path(path).expanduser()
            file = file if file.suffix else Path(f"{file}.sqlite")  # as requests-cache does
            if file.is_file():
                _require_unlocked(file)
            return SQLiteCache(path, **options)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"{path!r} cannot be opened as a cache: {error}") from error


def _require_unlocked(path: str | os.PathLike[str]) -> None:
    """See that SQLite can be written to; requests-cache would wait for that without end.

    Raises:
        sqlite3.Error: it cannot.
    """
    path = os.fspath(path)
    with contextlib.closing(
        sqlite3.connect(path, timeout=LOCKED, isolation_level=None, uri=path.startswith("file:"))
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")


def _without_secrets(url: str) -> str:
    """A URL without what may hold a key: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _with_credentials(headers: Mapping[str, str]) -> list[str]:
    names = {name.lower(): name for name in headers}
    secret = {
        name for name in names if name not in PASSING and any(secrets_in_headers({name: str(headers[names[name]])}))
    }
    return sorted(secret | (ACCOUNTS & names.keys()))


def _redis(url: str) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
        from requests_cache.backends.redis import RedisCache
    except ImportError as error:
        raise ConfigurationError("a cache in Redis needs another package: pip install redis") from error
    # A Redis that does not answer must not hold up an answer of the model; the URL may say other limits.
    limits = {"socket_timeout": SILENT, "socket_connect_timeout": SILENT, "retry": Retry(NoBackoff(), 1)}
    return RedisCache("openai_compat", connection=redis.Redis.from_url(url, **limits))


def _whole(content: bytes) -> bool:
    """Whether this is a whole answer: JSON, or a stream that says its end, and no error in it."""
    try:
        said = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        lines = [line[5:].strip() for line in content.splitlines() if line.startswith(b"data:")]
        said_something = any(b'"choices"' in line for line in lines)
        return b"[DONE]" in lines and said_something and not any(b'"error"' in line and _failed(line) for line in lines)
    answered = isinstance(said, dict) and (said.get("choices") or said.get("data") or said.get("models"))
    return bool(answered) and not said.get("error")


def _failed(line: bytes) -> bool:
    try:
        said = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return True
    return isinstance(said, dict) and bool(said.get("error"))


def _record(response: requests.Response, keep: Callable[[list[tuple[float, bytes]]], None]) -> None:
    """Have a response call ``keep`` with its pieces, and the seconds until each, when it is closed."""
    # Only what the response itself holds may be held here, or both would wait for the collector.
    body: Any = response.raw
    kind, raw, closed = type(body), weakref.ref(body), weakref.WeakMethod(response.close)
    begun = time.monotonic()
    pieces: list[tuple[float, bytes]] = []

    def read1(*args: Any, **kwargs: Any) -> bytes:
        data: bytes = kind.read1(raw(), *args, **kwargs)
        pieces.append((time.monotonic() - begun, data))
        return data

    def stream(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        for data in kind.stream(raw(), *args, **kwargs):
            pieces.append((time.monotonic() - begun, data))
            yield data

    def close() -> None:
        # Not at the end of the body, which some servers let wait for after the answer's own end.
        if (close := closed()) is not None:
            close()
        read = [piece for piece in pieces if piece[1]]
        pieces.clear()
        if read:
            keep(read)

    body.read1, body.stream = read1, stream
    vars(response)["close"] = close


class _Replay:
    """What stands where urllib3's response would: the pieces of a kept answer."""

    def __init__(self, pieces: list[tuple[float, bytes]], *, timed: bool) -> None:
        self._pieces = pieces
        self._timed = timed

    def stream(self, amt: int = 0, decode_content: bool | None = None) -> Iterator[bytes]:
        begun = time.monotonic()
        for seconds, piece in self._pieces:
            while self._timed and (left := begun + seconds - time.monotonic()) > 0:
                time.sleep(min(left, TICK))
                yield b""  # so that limits and a token are heard
            yield piece

    def tell(self) -> int:
        return sum(len(piece) for _, piece in self._pieces)

    def close(self) -> None:
        """Nothing is open."""


def _pieces(kept: CachedResponse) -> list[tuple[float, bytes]]:
    """The pieces in which an answer came, and the seconds until each.

    Raises:
        ValueError: another program has kept this.
    """
    start, pieces = 0, []
    for item in kept.headers.get(_PIECES, "").split(","):
        size, _, seconds = item.partition("@")
        pieces.append((float(seconds), kept.content[start : start + int(size)]))
        start += int(size)
    if start != len(kept.content):
        raise ValueError(f"{start} bytes in pieces, and {len(kept.content)} in all")
    return pieces


def _replayed(
    kept: CachedResponse, pieces: list[tuple[float, bytes]], request: requests.PreparedRequest, *, timed: bool
) -> requests.Response:
    response = requests.Response()
    response.status_code, response.reason, response.url = 200, kept.reason, str(request.url)
    response.headers = requests.structures.CaseInsensitiveDict({**kept.headers, HIT: "hit"})
    del response.headers[_PIECES]
    response.request = request
    response.raw = _Replay(pieces, timed=timed)
    return response
