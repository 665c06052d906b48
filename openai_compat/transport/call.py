"""What may be sent again? One logical call: its tries, the waits between them, and the record of both.

By hand, as urllib3's ``Retry`` and its like sleep where no ``CancelToken`` wakes them, and cannot see that a stream has
already told something, after which nothing may be sent again.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from ..errors import APIError, APITimeoutError, Cancelled
from ..timeouts import Deadline
from ..wire.retry import Attempt, RetryPolicy
from .failures import hide

if TYPE_CHECKING:
    from ..limits.budget import BudgetPermit
    from ..limits.limits import Answer, Permit

log: logging.Logger = logging.getLogger("openai_compat")

T = TypeVar("T")


class Call:
    """One call of the user's, however often it is sent.

    At most ``1 + max_retries`` tries; within a try at most one replay, and that only of a request that went out over a
    kept connection on which not one byte came back.

    ``sent`` says whether the request of the attempt under way has gone out.

    Args:
        deadline: when it has to be over, and what may end it before.
        policy: what is tried again, and when.
        on_retry: called with each attempt that failed and is followed by another.
        permit: held during each try, of a client with limits or a budget.
        origin: the server, for the record.
        once: no replay either: what was sent may have been heard.
    """

    def __init__(
        self,
        deadline: Deadline,
        policy: RetryPolicy,
        on_retry: Callable[[Attempt], object] | None = None,
        permit: Permit | BudgetPermit | None = None,
        *,
        origin: str = "",
        once: bool = False,
    ) -> None:
        self.deadline = deadline
        self.permit: Permit | BudgetPermit | None = permit
        self._once = once
        self.attempts: tuple[Attempt, ...] = ()
        self.idempotency_key: str = os.urandom(16).hex() if policy.idempotency_key else ""
        self._policy = policy
        self._on_retry = on_retry
        self._origin = origin
        self._tries = 0
        self._begun = False
        self._replay = False
        self._started = deadline.started
        self._waited = 0.0
        self.sent: bool = False

    def run(self, attempt: Callable[[], T]) -> T:
        """Call ``attempt`` until it succeeds or its error is not worth another try; that error is raised."""
        while True:
            try:
                if self.permit is None:
                    self.begin()
                    return attempt()
                with self.permit:
                    self.begin()
                    answer = attempt()
                    # Only calls that answer with tokens need a permit.
                    self.permit.settle(cast("Answer", answer))
                    return answer
            except APIError as error:
                hide((), error)
                if not self.wait_to_retry(error):
                    raise
            except Cancelled as error:
                error.attempts = self.so_far()
                raise

    def begin(self) -> None:
        """A try begins.

        Raises:
            Cancelled: the call was ended.
        """
        if self.deadline.cancel is not None:
            self.deadline.cancel.raise_if_cancelled()
        self._started = time.monotonic()
        self._begun = True
        self._replay = False
        self.sent = False

    def replay(self, error: BaseException) -> bool:
        """Whether the request of this try may be sent once more: a kept connection was closed by the server."""
        if self._replay or self._once:
            return False
        failed = self._failed(f"the kept connection was closed ({type(error).__name__})")
        log.info("%s: sent again over a new connection", failed.error)
        self._tell(failed)
        self._started = time.monotonic()
        self._replay = True
        self._waited = 0.0
        return True

    def wait_to_retry(self, error: APIError) -> bool:
        """Whether there is another try after one that failed: waits as long as the policy says, or gives up.

        It does not raise ``error`` itself, here and wherever one is handed on: a frame that holds the exception that
        left it, and with it the caller's, would be freed by the garbage collector alone.
        """
        delay = self._policy.delay(self._tries, error, random.random())
        if delay is None:
            self.give_up(error)
            return False
        failed = self._failed(str(error))
        log.info(
            "try %d of %d in %.1f s, after: %s", failed.number + 1, self._policy.max_retries + 1, delay, failed.error
        )
        self._tell(failed)
        try:
            self.deadline.sleep(delay)
        except (APITimeoutError, Cancelled) as ended:
            if isinstance(ended, APITimeoutError):
                ended.provider = error.provider
            ended.attempts = self.attempts
            raise ended from error
        self._tries += 1
        self._begun = False
        self._waited = delay
        return True

    def give_up(self, error: APIError) -> None:
        """``error`` ends the call: it gets the record of what was tried."""
        if self._begun:
            self._failed(str(error))
        error.attempts = self.attempts
        if self._tries and error.args:
            tries = self._tries + self._begun
            error.args = (f"{error.args[0]} (after {tries} {'tries' if tries > 1 else 'try'})", *error.args[1:])

    def so_far(self) -> tuple[Attempt, ...]:
        """The record, with the attempt that is under way or has succeeded, if it was sent."""
        return (*self.attempts, self._attempt(None)) if self.sent else self.attempts

    def _failed(self, words: str) -> Attempt:
        attempt = self._attempt(words)
        self.attempts = (*self.attempts, attempt)
        self.sent = False
        return attempt

    def _attempt(self, error: str | None) -> Attempt:
        return Attempt(
            number=self._tries + 1,
            replay=self._replay,
            started=self._started - self.deadline.started,
            seconds=time.monotonic() - self._started,
            error=error,
            waited=self._waited,
            origin=self._origin,
        )

    def _tell(self, attempt: Attempt) -> None:
        if self._on_retry is not None:
            self._on_retry(attempt)
