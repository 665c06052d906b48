"""What a visitor may know of an error."""

from __future__ import annotations

import math
from typing import Any

import attrs

from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BudgetExceededError,
    Cancelled,
    ConfigurationError,
    OpenAICompatError,
    StreamServerError,
)

PUBLIC_CODES = frozenset({"context_length_exceeded", "content_filter", "content_policy_violation"})
"""Codes of a model's server that say something about the visitor's question, and nothing about the server."""


@attrs.frozen(kw_only=True)
class PublicError:
    """What a visitor may know of an error: no key, no address, and nothing of what the model's server said.

    Args:
        status: the HTTP status.
        message: one sentence, always the same for the same kind of error.
        type: ``"invalid_request_error"`` where the visitor's question is to blame, else ``"server_error"``.
        code: which kind of error.
        retry_after: whole seconds, for the ``Retry-After`` header; None where the model's server named no time.
    """

    status: int
    message: str
    type: str
    code: str
    retry_after: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON body, in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code}}


def public_error(error: BaseException) -> PublicError:
    """What a visitor may know of ``error``, and the HTTP status that goes with it.

    A rejected key or an unknown model is this site's fault and not the visitor's: 502, as for a server that cannot be
    reached. A question that the server rejects is 400 or 413, one too many 429, a timeout 504, an overloaded server
    503, a bug 500.
    """
    if isinstance(error, (APIStatusError, StreamServerError)):
        shown = _for_status(error.status_code or 502, error.code)
        seconds = error.retry_after
        return attrs.evolve(shown, retry_after=None if seconds is None else math.ceil(seconds))
    if isinstance(error, APITimeoutError):
        return _server_error(504, "The model took too long to answer.", "timeout")
    if isinstance(error, APIConnectionError):
        return _server_error(502, "The model cannot be reached.", "unreachable")
    if isinstance(error, Cancelled):
        return _server_error(503, "The answer was cancelled.", "cancelled")
    if isinstance(error, BudgetExceededError):
        return _server_error(503, "The model is not available.", "unavailable")
    if isinstance(error, OpenAICompatError) and not isinstance(error, ConfigurationError):
        return _server_error(502, "The model's answer cannot be used.", "bad_answer")
    return _server_error(500, "Something went wrong on this server.", "internal_error")


def _for_status(status: int, code: object) -> PublicError:
    if status in (400, 413, 422):
        public_code = code if isinstance(code, str) and code in PUBLIC_CODES else "invalid_request"
        return PublicError(
            status=413 if status == 413 else 400,
            message="The model does not accept this question.",
            type="invalid_request_error",
            code=public_code,
        )
    if status == 429:
        return _server_error(429, "Too many questions at the moment; try again later.", "rate_limited")
    if status in (503, 529):
        return _server_error(503, "The model is overloaded; try again later.", "overloaded")
    if status in (408, 504):
        return _server_error(504, "The model took too long to answer.", "timeout")
    return _server_error(502, "The model is not available.", "unavailable")


def _server_error(status: int, message: str, code: str) -> PublicError:
    return PublicError(status=status, message=message, type="server_error", code=code)
