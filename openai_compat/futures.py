"""A call on a thread of its own, as a future that can be cancelled while it runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from ._threads import spawn
from .cancel import CancelToken

T = TypeVar("T")


class CallFuture(Future[T]):
    """A ``concurrent.futures.Future`` of a call that is under way; works with ``wait`` and ``as_completed``.

    Args:
        call: what to run; given a token that ends it.
        cancel: a token of the caller's, which ends it too.
    """

    def __init__(self, call: Callable[[CancelToken], T], cancel: CancelToken | None = None) -> None:
        super().__init__()
        self._token = CancelToken()
        self._outer = cancel
        self._thread = spawn(self._work, call, name="openai_compat call")

    def cancel(self) -> bool:
        """End the call, in whatever phase it is; False if it is over."""
        if not super().cancel():
            return False
        self._token.cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """The call's result, or its exception raised; an interrupt (Ctrl-C) that ends the wait ends the call too."""
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def running(self) -> bool:
        """Whether the call is under way."""
        return not self.done()

    def _work(self, call: Callable[[CancelToken], T]) -> None:
        if self._outer is not None:
            self._outer.subscribe(self._token.cancel)
        outcome: Any = None
        failure: BaseException | None = None
        try:
            outcome = call(self._token)
        except BaseException as error:
            failure = error
        finally:
            if self._outer is not None:
                self._outer.unsubscribe(self._token.cancel)
        try:
            if failure is None:
                self.set_result(outcome)
            else:
                self.set_exception(failure)
        except InvalidStateError:
            # Cancelled meanwhile: tell those who wait for it in as_completed.
            self.set_running_or_notify_cancel()
