"""A token that ends calls from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ._log import log
from .errors import Cancelled


class CancelToken:
    """Ends calls from another thread: give it to a call as ``cancel=``, and call ``cancel()``.

    One token may be given to many calls; once cancelled it stays so.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_cancelled: Callable[[], bool] = self._event.is_set
        # No lock, which a fork might leave locked: the methods of a set are whole.
        self._listeners: set[Callable[[], object]] = set()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` has been called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """End every call that has this token, in whatever phase it is."""
        self._event.set()
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:
                log.exception("a listener of a CancelToken failed")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait; True as soon as the token is cancelled."""
        return self._event.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if the token is."""
        if self.cancelled:
            raise Cancelled

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call ``listener``, which must not block, when the token is cancelled; at once if it is already."""
        self._listeners.add(listener)
        if self.cancelled:
            listener()

    def unsubscribe(self, listener: Callable[[], object]) -> None:
        """Forget ``listener``."""
        self._listeners.discard(listener)

    def __reduce__(self) -> tuple[Any, ...]:
        # Who listens belongs to this process: a copy knows only whether the token is cancelled.
        return _restored_token, (type(self), self.cancelled)


def _restored_token(cls: type[CancelToken], cancelled: bool) -> CancelToken:
    token = cls()
    if cancelled:
        token.cancel()
    return token
