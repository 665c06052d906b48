"""Whether a reply that has ended is an answer."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import APIError, ResponseShapeError, StreamInterruptedError, StreamServerError
from ..redaction import redact_error_body
from .response import ChatResponse

_FAILED = frozenset({"error", "insufficient_system_resource", "network_error"})
"""Finish reasons that mean that the server failed."""


def completeness_error(
    response: ChatResponse, *, complete: bool, strict: bool, secrets: Iterable[str] = ()
) -> APIError | None:
    """Why a reply that has ended is not an answer, or None where it is one.

    Args:
        complete: ``finish_reason`` or ``[DONE]`` has come, or the reply was one JSON body.
        strict: what is not complete is an error even where it has content.
        secrets: the caller's keys, masked where the server gives one as the reason.
    """
    if strict and not complete:
        return StreamInterruptedError(
            "the stream ended with neither finish_reason nor [DONE]; the text so far is in .partial",
            partial=response,
            retryable=True,
        )
    if not response.choices:
        return ResponseShapeError("the answer has no choices", partial=response, retryable=not complete)
    if response.finish_reason in _FAILED:
        return StreamServerError(
            f"the server ended the answer with finish_reason {response.finish_reason!r} and did not say why; "
            "what came is in .partial",
            partial=response,
            retryable=response.finish_reason != "error",
        )
    if any(not call.name for choice in response.choices for call in choice.tool_calls):
        return ResponseShapeError("the answer has a tool call without a name", partial=response)
    if all(choice.empty for choice in response.choices):
        return ResponseShapeError(_why_empty(response, secrets), partial=response, retryable=not complete)
    return None


def check_complete(
    response: ChatResponse,
    *,
    complete: bool,
    strict: bool,
    secrets: Iterable[str] = (),
    request_id: str | None = None,
) -> None:
    """Raise ``completeness_error``, with who was asked, where there is one."""
    error = completeness_error(response, complete=complete, strict=strict, secrets=secrets)
    if error is not None:
        error.provider = response.provider
        error.request_id = request_id
        try:
            raise error
        finally:
            del error  # or this frame, the callers' and the exception hold each other


def _why_empty(response: ChatResponse, secrets: Iterable[str]) -> str:
    reason = redact_error_body(response.finish_reason, secrets=secrets, limit=100)
    only = "holds only reasoning" if response.reasoning else "is empty"
    what = f"the answer {only} (finish_reason: {reason!r})"
    if reason == "length":
        return f"{what}: the model hit max_tokens, likely while thinking; raise max_tokens or turn reasoning off"
    if reason in ("tool_calls", "function_call"):
        return f"{what}: it announces tool_calls but has none"
    if reason == "content_filter":
        return f"{what}: the provider's content filter withheld it"
    return what
