"""What may be sent again? One logical call: its tries, the waits between them, and the record of both.

By hand, as urllib3's ``Retry`` and its like sleep where no ``CancelToken`` wakes them, and cannot see that a stream has
already told something, after which nothing may be sent again.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from .._imports import importing
from .._log import logger
from ..credentials import shell_headers
from ..errors import APIError, APITimeoutError, Cancelled, OpenAICompatError
from ..hooks import NO_HOOKS, NOTHING, Hooks, Operation
from ..redaction import mask_json, mask_secrets, mask_whole
from ..timeouts import Deadline
from ..wire.response import CallInfo
from ..wire.retry import Attempt, Reason, RetryPolicy
from ..wire.sent_request import SentRequest
from .failures import hide

if TYPE_CHECKING:
    from ..limits.budget import BudgetPermit
    from ..limits.limits import Answer, Permit

log: logging.Logger = logger("transport")

T = TypeVar("T")


class Sending(NamedTuple):
    """A request as it is sent, secrets included."""

    method: str
    url: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None


class Call:
    """One call of the user's, however often it is sent; an attempt begins and ends here, and is told of.

    At most ``1 + max_retries`` tries; within a try at most one replay, and that only of a request that went out over a
    kept connection that ended at once, with not one byte back.

    ``sent`` says whether the request of the attempt under way has gone out, ``status`` how it was answered; ``body`` is
    what is sent, before it becomes JSON.

    Args:
        deadline: when it has to be over, and what may end it before.
        policy: what is tried again, and when.
        hooks: who hears of it.
        permit: held during each try, of a client with limits or a budget.
        info: what the call is known by.
        operation: what is asked for.
        secrets: what is not to be shown of a request.
        once: no replay either: what was sent may have been heard.
    """

    def __init__(
        self,
        deadline: Deadline,
        policy: RetryPolicy,
        hooks: Hooks = NO_HOOKS,
        permit: Permit | BudgetPermit | None = None,
        *,
        info: CallInfo = CallInfo(),  # noqa: B008 - a tuple
        operation: Operation = "chat",
        secrets: Callable[[], Iterable[str]] = tuple,
        once: bool = False,
    ) -> None:
        self.deadline = deadline
        self.hooks = hooks
        self.permit: Permit | BudgetPermit | None = permit
        self._once = once
        self.attempts: tuple[Attempt, ...] = ()
        self.idempotency_key: str = os.urandom(16).hex() if policy.idempotency_key else ""
        self._policy = policy
        self._info = info
        self._operation: Operation = operation
        self._secrets = secrets
        self._tries = 0
        self._begun = False
        self._reason: Reason = ""
        self._started = deadline.started
        self._waited = 0.0
        self._sending: Sending | None = None
        self._over = False
        self.body: Mapping[str, Any] | None = None
        self.sent: bool = False
        self.status: int | None = None

    def run(self, attempt: Callable[[], T], read: Callable[[T], T] | None = None) -> T:
        """Call ``attempt`` until it succeeds or its error is not worth another try; that error is raised.

        Args:
            read: makes what is returned of an answer; what it raises is not tried again.
        """
        try:
            answer = self._try(attempt)
            if hasattr(answer, "attempts"):
                object.__setattr__(answer, "attempts", self.so_far())  # nobody has seen the value yet
            if read is not None:
                answer = read(answer)
        except BaseException as error:
            self.failed(error)
            raise
        self.answered(answer)
        return answer

    def _try(self, attempt: Callable[[], T]) -> T:
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
        self._reason = "retry" if self._tries else ""
        self._begin_attempt()

    def _begin_attempt(self) -> None:
        self._started = time.monotonic()
        self._begun = True
        self.sent = False
        self.status = None

    def sending(self, sending: Sending) -> AbstractContextManager[object]:
        """A request is sent in the context that is returned."""
        self._sending = sending
        return self._tell_request()

    def _tell_request(self) -> AbstractContextManager[object]:
        if log.isEnabledFor(logging.DEBUG):
            sent = self.request()
            which = f"{self._tries + 1} ({self._reason})" if self._reason else f"{self._tries + 1}"
            size = len(sent.body or b"")
            log.debug("%s %s, %d bytes, try %s", sent.method, sent.url, size, which, extra=self._extra())
        if not self.hooks.on_request:
            return NOTHING
        with importing:
            from ..hook_events import RequestEvent

        return self.hooks.sending(
            RequestEvent(**self._event(), reason=self._reason, request=self.request(), body=self.body)
        )

    def request(self) -> SentRequest:
        """What was sent last, without its secrets."""
        assert self._sending is not None
        method, url, _, headers, body = self._sending
        secrets = tuple(self._secrets())
        shown, hidden = shell_headers(headers)
        return SentRequest(
            method,
            mask_secrets(str(url), secrets) if "?" in url else mask_whole(url, secrets),
            {name: mask_whole(value, secrets) for name, value in shown.items()},
            None if body is None else mask_json(body, secrets),
            hidden,
        )

    def replay(self, error: BaseException) -> bool:
        """Whether the request of this try may be sent once more: a kept connection was closed by the server."""
        if self._reason == "replay" or self._once:
            return False
        failed = self._failed(f"the kept connection was closed ({type(error).__name__})")
        log.info("%s: sent again over a new connection", failed.error, extra=self._extra(failed))
        self._again(failed, error, "replay")
        # What the hooks may enter is entered already, by the one that failed.
        self._tell_request()
        return True

    def again(self, error: APIError, reason: Reason) -> None:
        """What a refusal has taught is tried at once, in the same try."""
        failed = self._failed(str(error))
        log.info("sent again (%s), after: %s", reason, failed.error, extra=self._extra(failed))
        self._again(failed, error, reason)

    def _again(self, failed: Attempt, error: BaseException, reason: Reason) -> None:
        self._tell_retry(failed, error, reason)
        self._reason = reason
        self._waited = 0.0
        self._begin_attempt()

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
            "try %d of %d in %.1f s, after: %s",
            failed.number + 1,
            self._policy.max_retries + 1,
            delay,
            failed.error,
            extra=self._extra(failed, delay=delay),
        )
        self._tell_retry(failed, error, "retry", delay)
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

    def failed(self, error: BaseException) -> None:
        """The call is over: ``error`` is raised."""
        if self._over:
            return
        self._over = True
        if isinstance(error, OpenAICompatError) and self._sending is not None:
            error.request = self.request()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("failed after %.2f s: %s", self._seconds(), str(error), extra=self._extra(error=error))
        if self.hooks.on_error:
            with importing:
                from ..hook_events import ErrorEvent

            attempts = getattr(error, "attempts", ()) or self.so_far()
            self.hooks.tell(self.hooks.on_error, ErrorEvent(**self._event(), error=error, attempts=attempts))

    def answered(self, answer: Any, *, left: bool = False) -> None:
        """The call is over: it has its answer, or its stream was ``left``."""
        if self._over:
            return
        self._over = True
        if log.isEnabledFor(logging.DEBUG):
            words = "left" if left else "answered"
            log.debug("%s after %.2f s", words, self._seconds(), extra=self._extra(answer=answer))
        if self.hooks.on_response:
            with importing:
                from ..hook_events import ResponseEvent

            attempts = getattr(answer, "attempts", None) or self.so_far()
            event = ResponseEvent(**self._event(), answer=answer, attempts=attempts, left=left)
            self.hooks.tell(self.hooks.on_response, event)

    def left(self, so_far: Callable[[], Any]) -> None:
        """The call is over: its caller has left the stream; ``so_far`` makes what had come of the answer."""
        if not self._over and (self.hooks.on_response or log.isEnabledFor(logging.DEBUG)):
            self.answered(so_far(), left=True)
        self._over = True

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
            reason=self._reason,
            started=self._started - self.deadline.started,
            seconds=time.monotonic() - self._started,
            error=error,
            status=self.status,
            waited=self._waited,
            origin=self._info.origin,
            path=self._sending.path if self._sending is not None else "",
        )

    def _tell_retry(self, attempt: Attempt, error: BaseException, reason: Reason, delay: float = 0.0) -> None:
        if self.hooks.on_retry:
            with importing:
                from ..hook_events import RetryEvent

            event = RetryEvent(**self._event(), attempt=attempt, error=error, reason=reason, delay=delay)
            self.hooks.tell(self.hooks.on_retry, event)

    def _seconds(self) -> float:
        return time.monotonic() - self.deadline.started

    def _event(self) -> dict[str, Any]:
        """What every event of the call says."""
        return {
            "call": self._info,
            "operation": self._operation,
            "number": self._tries + 1,
            "seconds": self._seconds(),
        }

    def _extra(
        self,
        failed: Attempt | None = None,
        *,
        delay: float | None = None,
        error: BaseException | None = None,
        answer: Any = None,
    ) -> dict[str, Any]:
        """The fields of a line in the log; those that say nothing are left out."""
        usage = getattr(answer, "usage", None)
        said = {
            "call_id": self._info.call_id,
            "provider": self._info.provider,
            "model": self._info.model,
            "origin": self._info.origin,
            "operation": self._operation,
            "attempt": self._tries + 1,
            "reason": failed.reason if failed is not None else self._reason,
            "status": failed.status if failed is not None else self.status,
            "seconds": round(self._seconds() if failed is None else failed.seconds, 6),
            "delay": delay,
            "error": str(error) if error is not None else failed and failed.error,
            "error_type": error and type(error).__name__,
            "request_id": getattr(error if error is not None else answer, "request_id", None),
            "finish_reason": getattr(answer, "finish_reason", None),
            "input_tokens": usage and usage.input_tokens,
            "output_tokens": usage and usage.output_tokens,
        }
        return {name: value for name, value in said.items() if value not in (None, "")}
