"""How one request of ``client.map`` is asked, and what a journal is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from ..cancel import CancelToken
from ..errors import AuthenticationError, BudgetExceededError, Cancelled, SharedLimitsError, UnknownPriceError
from .journal import MAX_REQUEST, Entry, Journal, JournalError, request_key
from .result import MapResult
from .source import Item
from .stored import answered, as_told, failed, restored_error

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Asker(Protocol):
    """What a client does for each request."""

    def make(self, prompt: Any) -> Any:
        """A request of what was given."""

    def ask(self, request: Any, token: CancelToken) -> Any:
        """The server's answer."""

    def body(self, request: Any, token: CancelToken) -> Mapping[str, Any]:
        """What is sent, by which a request is known."""

    def read(self, kept: bytes, request: Any) -> Any:
        """The answer in a body that was kept."""


Outcome = tuple[Any, Exception | None, float]
"""An answer, or else an exception, and the seconds that it took."""

Answer = tuple[Item, bytes, bytes, Outcome]
"""What came of a request, which is known by a key and its body."""


def outcome(ask: Callable[[Any, CancelToken], Any], request: Any, token: CancelToken) -> Outcome:
    """What comes of one request.

    Raises:
        AuthenticationError: the server does not take the key.
        Cancelled: by the token.
    """
    started = time.monotonic()
    answer: Any = None
    failure: Exception | None = None
    try:
        answer = ask(request, token)
    except (AuthenticationError, BudgetExceededError, SharedLimitsError, UnknownPriceError):
        raise  # no other request would fare better
    except Cancelled as error:
        if token.cancelled:
            raise
        failure = error
    except Exception as error:
        failure = error
    return answer, failure, time.monotonic() - started


def result_of(item: Item, came: Outcome, *, from_journal: bool = False) -> MapResult[Any]:
    """An outcome with its request."""
    answer, error, seconds = came
    return MapResult(
        index=item.index,
        custom_id=item.custom_id,
        request=item.request,
        response=answer,
        error=error,
        seconds=seconds,
        from_journal=from_journal,
    )


class Book:
    """A journal as a run uses it.

    Args:
        retry_failed: whether what failed is asked again: True for all, False for none, None for what may succeed now
            (connection errors, HTTP 429 and 5xx).
    """

    def __init__(self, asker: Asker, journal: Journal, retry_failed: bool | None) -> None:
        self._asker, self._journal, self._retry_failed = asker, journal, retry_failed
        self._own: set[bytes] = set()

    def key(self, item: Item, token: CancelToken) -> tuple[bytes, bytes]:
        """What a request is known by, and its canonical body.

        Raises:
            ConfigurationError, TypeError, ValueError: it cannot be sent.
        """
        body = _canonical(self._asker.body(item.request, token))
        return request_key(item.custom_id, body), body

    def found(self, item: Item, key: bytes) -> MapResult[Any] | None:
        """What the journal has, unless it is to be asked again."""
        kept = self._journal.find(key)
        if kept is None or self._asks_again(key, kept):
            return None
        return self._restored(item, kept)

    def _asks_again(self, key: bytes, kept: Entry) -> bool:
        if kept.status != "failed" or key in self._own:
            return False
        return bool(kept.retryable) if self._retry_failed is None else self._retry_failed

    def keep(self, *answers: Answer) -> list[MapResult[Any]]:
        """Write down what came.

        Raises:
            JournalError: it could not be; ``unsaved`` has the results.
        """
        results = [result_of(item, came) for item, _, _, came in answers]
        try:
            self._journal.add(*(self._entry(*each) for each in answers))
        except JournalError as full:
            raise JournalError(str(full), unsaved=tuple(results)) from full
        return results

    def tidy(self) -> None:
        """What ``Journal.tidy`` does."""
        self._journal.tidy()

    def _entry(self, item: Item, key: bytes, body: bytes, came: Outcome) -> Entry:
        answer, error, seconds = came
        request = body.decode() if len(body) <= MAX_REQUEST else None
        if error is None:
            return answered(key, item.custom_id, request, answer, seconds)
        self._own.add(key)
        return failed(key, item.custom_id, request, error, seconds)

    def _restored(self, item: Item, kept: Entry) -> MapResult[Any]:
        answer: Any = None
        error: Exception | None = None
        if kept.status == "failed":
            error = restored_error(kept)
        else:
            try:
                answer = as_told(kept, self._asker.read(kept.response or b"", item.request))
            except Exception as unfit:
                error = unfit
        return result_of(item, (answer, error, kept.seconds), from_journal=True)
