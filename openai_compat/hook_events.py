"""What hooks are told: made, and loaded, only where a client has some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .wire.response import CallInfo, ChatResponse
from .wire.retry import Attempt, Reason
from .wire.sent_request import SentRequest

if TYPE_CHECKING:
    from .hooks import Operation
    from .wire.embeddings import EmbeddingResponse
    from .wire.models import Model

__all__ = ["ErrorEvent", "RequestEvent", "ResponseEvent", "RetryEvent"]


@attrs.frozen(kw_only=True)
class _CallEvent:
    call: CallInfo
    operation: Operation
    number: int
    seconds: float

    @property
    def call_id(self) -> str:
        """The same for all events of a call, and for no other call."""
        return self.call.call_id

    @property
    def provider(self) -> str:
        """Who is asked."""
        return self.call.provider

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.call.model


@attrs.frozen(kw_only=True)
class RequestEvent(_CallEvent):
    """A request is about to be sent.

    Args:
        call: which call it belongs to.
        operation: ``"chat"``, ``"embeddings"``, ``"models"``, ``"tokens"`` (their count), or ``"batch"``, the
            provider's Batch API.
        number: of the try, from 1.
        seconds: since the call began.
        reason: why it is sent again; "" the first time.
        request: what is sent, without secrets.
        body: what is sent, before it became JSON; not to be changed. None where there is no body.
    """

    reason: Reason
    request: SentRequest
    body: Mapping[str, Any] | None = attrs.field(default=None, repr=False)

    def curl(self) -> str:
        """The request as a command for a shell: see ``SentRequest.curl``."""
        return self.request.curl()


@attrs.frozen(kw_only=True)
class ResponseEvent(_CallEvent):
    """A call has its answer.

    Args:
        call, operation, number, seconds: as for ``RequestEvent``; ``seconds`` is how long the call took.
        answer: what the call returns; of a stream that was left, as far as it had come.
        attempts: what was sent for it.
        left: whether the caller left the stream before its end.
    """

    answer: ChatResponse | EmbeddingResponse | tuple[Model, ...] | Any = attrs.field(repr=False)
    attempts: tuple[Attempt, ...]
    left: bool = False


@attrs.frozen(kw_only=True)
class RetryEvent(_CallEvent):
    """A request has failed, and another follows.

    Args:
        call, operation, number, seconds: as for ``RequestEvent``.
        attempt: the one that failed.
        error: why.
        reason: why another follows: see ``Attempt.reason``. After ``"fallback"`` it is of another call, of another
            endpoint.
        delay: seconds that are waited before it.
    """

    attempt: Attempt
    error: BaseException
    reason: Reason
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class ErrorEvent(_CallEvent):
    """A call has failed: ``error`` is raised.

    Args:
        call, operation, number, seconds: as for ``RequestEvent``; ``seconds`` is how long the call took.
        error: of this library, or whatever else has ended the call, such as ``KeyboardInterrupt``.
        attempts: what was sent.
    """

    error: BaseException
    attempts: tuple[Attempt, ...]
