"""How ``client.map`` asks one request: from the journal, else from the server, and into the journal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, Literal

import attrs
import msgspec

from ..cancel import CancelToken
from ..errors import AuthenticationError, Cancelled, ConfigurationError
from .journal import MAX_REQUEST, Entry, Journal, JournalError, open_journal, request_key
from .progress import progress_bar
from .result import MapResult
from .run import MapRun
from .source import Item, read_requests
from .stored import answered, failed, restored_error

_canonical = msgspec.json.Encoder(order="deterministic").encode


@attrs.frozen(kw_only=True)
class Asker:
    """What a client does for each request.

    Args:
        make: a request of a prompt.
        ask: the server's answer.
        body: what is sent, by which a request is known.
        read: the answer in a body that was kept.
    """

    make: Callable[[Any], Any]
    ask: Callable[[Any, CancelToken], Any]
    body: Callable[[Any], Mapping[str, Any]]
    read: Callable[[bytes, Any], Any]


def map_requests(
    asker: Asker,
    requests: Iterable[Any],
    *,
    workers: int,
    ordered: bool,
    on_error: Literal["keep", "raise"],
    journal: Journal | str | os.PathLike[str] | None,
    retry_failed: bool | None,
    progress: Any,
    total: int | None,
    cancel: CancelToken | None,
) -> MapRun[Any]:
    """Begin to ask; see ``Client.map``."""
    check_options(workers, on_error)
    items = read_requests(requests, asker.make)
    if total is None and isinstance(requests, Sized):
        total = len(requests)
    bar = progress_bar(progress, total)
    kept, close = open_journal(journal)
    return MapRun(
        items,
        without_journal(asker) if kept is None else WithJournal(asker, kept, retry_failed),
        workers=workers,
        ordered=ordered,
        on_error=on_error,
        progress=bar,
        close=close,
        cancel=cancel,
    )


def check_options(workers: object, on_error: object) -> None:
    """Raise ``ConfigurationError`` where they cannot be used."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigurationError(f"workers must be a whole number from 1, not {workers!r}")
    if on_error not in ("keep", "raise"):
        raise ConfigurationError(f"on_error must be 'keep' or 'raise', not {on_error!r}")


def without_journal(asker: Asker) -> Callable[[Item, CancelToken], MapResult[Any]]:
    """A function that asks a server and keeps nothing."""

    def ask(item: Item, token: CancelToken) -> MapResult[Any]:
        started = time.monotonic()
        answer, error = outcome(asker.ask, item.request, token)
        seconds = time.monotonic() - started
        return MapResult(
            index=item.index,
            custom_id=item.custom_id,
            request=item.request,
            response=answer,
            error=error,
            seconds=seconds,
        )

    return ask


def outcome(ask: Callable[[Any, CancelToken], Any], request: Any, token: CancelToken) -> tuple[Any, Exception | None]:
    """What came of a request: the answer, or the exception, unless no other request would fare better."""
    try:
        return ask(request, token), None
    except AuthenticationError:
        raise
    except Cancelled as error:
        if token.cancelled:
            raise
        return None, error
    except Exception as error:
        return None, error


class WithJournal:
    """A function that looks into a journal before it asks, and writes into it after.

    Args:
        retry_failed: whether what failed is asked again: True for all, False for none, None for what may succeed now
            (connection errors, HTTP 429 and 5xx).
    """

    def __init__(self, asker: Asker, journal: Journal, retry_failed: bool | None) -> None:
        self._asker, self._journal, self._retry_failed = asker, journal, retry_failed
        self._lock = threading.Lock()
        self._under_way: dict[bytes, threading.Event] = {}
        self._own: set[bytes] = set()

    def __call__(self, item: Item, token: CancelToken) -> MapResult[Any]:
        try:
            body = _canonical(self._asker.body(item.request))
        except (ConfigurationError, TypeError, ValueError) as error:
            return MapResult(index=item.index, custom_id=item.custom_id, request=item.request, error=error)
        key = request_key(item.custom_id, body)
        mine = threading.Event()
        while True:
            with self._lock:
                other = self._under_way.setdefault(key, mine)
            if other is mine:
                break
            # The same question twice: whoever asks it writes the answer down.
            while not other.wait(0.1):
                token.raise_if_cancelled()
        try:
            kept = self._journal.get(key)
            if kept is not None and not self._asks_again(key, kept):
                return self._restored(item, kept)
            return self._ask(item, key, body, token)
        finally:
            with self._lock:
                del self._under_way[key]
            mine.set()

    def _asks_again(self, key: bytes, kept: Entry) -> bool:
        if kept.status != "failed" or key in self._own:
            return False
        return bool(kept.retryable) if self._retry_failed is None else self._retry_failed

    def _ask(self, item: Item, key: bytes, body: bytes, token: CancelToken) -> MapResult[Any]:
        started = time.monotonic()
        answer, error = outcome(self._asker.ask, item.request, token)
        seconds = time.monotonic() - started
        request = body.decode() if len(body) <= MAX_REQUEST else None
        result: MapResult[Any] = MapResult(
            index=item.index,
            custom_id=item.custom_id,
            request=item.request,
            response=answer,
            error=error,
            seconds=seconds,
        )
        if answer is not None:
            entry = answered(key, item.custom_id, request, answer, seconds)
        else:
            assert error is not None
            entry = failed(key, item.custom_id, request, error, seconds)
            self._own.add(key)
        try:
            self._journal.add(entry)
        except JournalError as full:
            raise JournalError(str(full), unsaved=(result,)) from full
        return result

    def _restored(self, item: Item, kept: Entry) -> MapResult[Any]:
        answer: Any = None
        error: Exception | None = None
        if kept.status == "failed":
            error = restored_error(kept)
        else:
            try:
                answer = self._asker.read(kept.response or b"", item.request)
            except Exception as unfit:
                error = unfit
        return MapResult(
            index=item.index,
            custom_id=item.custom_id,
            request=item.request,
            response=answer,
            error=error,
            seconds=kept.seconds,
            from_journal=True,
        )
