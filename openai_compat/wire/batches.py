"""OpenAI's Batch API: the file of requests that is uploaded, the batch's state, and the file of answers.

https://platform.openai.com/docs/api-reference/batch; others that speak it differ in little: Groq takes longer windows,
Azure has it below ``/openai/v1`` and looks at a file for a while before it takes it, Novita and Together write states
in capitals. Together wants its files elsewhere (``/files/upload``); Mistral's jobs are another format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs

from .._json import NotJSONError, as_int, as_mapping, as_text, decode_json, encode_json, encode_reply
from ..errors import APIError, ResponseShapeError
from ..redaction import redact_error_body
from .error_body import find_error, status_error

MAX_REQUESTS = 50_000
"""Requests in one batch: OpenAI's limit."""

MAX_BYTES = 100_000_000
"""Of one file: Groq's limit; OpenAI's and Azure's are twice that."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""States that a batch stays in."""

_STATES = {"canceled": "cancelled", "canceling": "cancelling", "cancel_requested": "cancelling", "error": "failed"}

_UNREADY = frozenset({"pending", "running", "processing", "uploading"})

_PASSING = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "token_limit_exceeded", "rate_limit_exceeded"}
)
"""Errors after which the same request may succeed."""


@attrs.frozen(kw_only=True)
class BatchStatus:
    """How it is with one batch.

    Args:
        id: the provider's.
        status: ``validating``, ``in_progress``, ``finalizing``, ``completed``, ``failed``, ``expired``, ``cancelling``
            or ``cancelled``.
        total: how many requests it has, as far as the provider knows yet.
        completed: how many of them are answered.
        failed: how many failed.
        input_file_id: of the requests.
        output_file_id: of the answers, once there are some; None before.
        error_file_id: of what failed, likewise.
        created_at: POSIX time in seconds, where it is said.
        errors: why the whole batch was refused, as pairs of a code and a message.
        raw: all that the provider says.
    """

    id: str
    status: str
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int | None = None
    errors: tuple[tuple[str, str], ...] = ()
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def ended(self) -> bool:
        """Whether it stays as it is; its answers are there then."""
        return self.status in ENDED


def parse_batch(payload: Any, *, provider: str = "", secrets: Iterable[str] = ()) -> BatchStatus:
    """A batch, as it was made or is now.

    Raises:
        APIStatusError: the reply is an error.
        ResponseShapeError: it is no batch.
    """
    found, secrets = as_mapping(payload), tuple(secrets)
    if isinstance(found.get("job"), dict):
        found = found["job"]
    batch_id, status = _id(found.get("id")), as_text(found.get("status")).lower()
    if not batch_id or not status:
        raise _no("batch", payload, provider, secrets)
    counts = as_mapping(found.get("request_counts"))
    listed = as_mapping(found.get("errors")).get("data")
    return BatchStatus(
        id=batch_id,
        status=_STATES.get(status, status),
        total=as_int(counts.get("total")) or 0,
        completed=as_int(counts.get("completed")) or 0,
        failed=as_int(counts.get("failed")) or 0,
        input_file_id=_id(found.get("input_file_id")) or None,
        output_file_id=_id(found.get("output_file_id")) or None,
        error_file_id=_id(found.get("error_file_id")) or None,
        created_at=as_int(found.get("created_at")),
        errors=tuple(
            (code, redact_error_body(message, secrets=secrets))
            for code, message in map(_told, listed if isinstance(listed, list) else ())
        ),
        raw=found,
    )


def parse_batches(payload: Any, *, provider: str = "", secrets: Iterable[str] = ()) -> tuple[BatchStatus, ...]:
    """The batches of a page of a list, the newest first; what is none of them is left out.

    Raises:
        APIStatusError, ResponseShapeError: as for ``parse_batch``.
    """
    listed = payload if isinstance(payload, list) else as_mapping(payload).get("data")
    if not isinstance(listed, list):
        raise _no("list of batches", payload, provider, secrets)
    return tuple(
        parse_batch(each, provider=provider)
        for each in listed
        if isinstance(each, dict) and _id(each.get("id")) and as_text(each.get("status"))
    )


class UploadedFile(NamedTuple):
    """A file that was uploaded; ``ready`` says whether a batch can be made of it."""

    id: str
    ready: bool


def parse_file(payload: Any, *, provider: str = "", secrets: Iterable[str] = ()) -> UploadedFile:
    """A file that was uploaded.

    Raises:
        APIStatusError, ResponseShapeError: as for ``parse_batch``.
    """
    found = as_mapping(payload)
    file_id = _id(found.get("id"))
    if not file_id:
        raise _no("file", payload, provider, secrets)
    return UploadedFile(file_id, as_text(found.get("status")).lower() not in _UNREADY)


def _id(value: Any) -> str:
    """What a server calls a batch or a file; none that would break a line of a request or of an error."""
    name = as_text(value)
    return name if name.isascii() and name.isprintable() else ""


def _no(what: str, payload: Any, provider: str, secrets: Iterable[str]) -> APIError:
    if find_error(payload) is not None:
        return status_error(200, {}, encode_reply(payload), provider=provider, secrets=secrets)
    return ResponseShapeError(f"the reply of {provider or 'the server'} is no {what}", provider=provider)


def _told(error: Any) -> tuple[str, str]:
    error = as_mapping(error)
    line = as_int(error.get("line"))
    message = as_text(error.get("message")) or as_text(error.get("code"))
    return as_text(error.get("code")), message + (f" (line {line})" if line is not None else "")


def upload_edges(boundary: str, *, filename: str = "requests.jsonl", purpose: str = "batch") -> tuple[bytes, bytes]:
    """What stands before and after the lines of a file that is uploaded as ``multipart/form-data`` (RFC 7578).

    By hand, for the whole is written to a disk line by line, and sent from there.
    """
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def request_line(custom_id: str, url: str, body: Mapping[str, Any]) -> bytes:
    """A line of the file of requests, with its end."""
    return encode_json({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + b"\n"


class AnswerLine(NamedTuple):
    """A line of a file of answers: ``body`` of a reply with HTTP 200, or the error in its place."""

    custom_id: str
    body: bytes | None
    error: APIError | None
    request_id: str | None = None


def parse_answer_line(line: bytes, *, provider: str = "", secrets: Iterable[str] = ()) -> AnswerLine | None:
    """A line of the file of answers, or of that of errors; None where it is none."""
    try:
        given = decode_json(line)
    except NotJSONError:
        return None
    custom_id = as_text(as_mapping(given).get("custom_id"))
    if not custom_id:
        return None
    secrets = tuple(secrets)
    response, told = as_mapping(given.get("response")), given.get("error")
    status, body = as_int(response.get("status_code")), response.get("body")
    request_id = as_text(response.get("request_id")) or None
    if status is not None and status >= 300:
        text = body if isinstance(body, str) else encode_reply(body)
        refused = status_error(status, {}, text, provider=provider, request_id=request_id, secrets=secrets)
        return AnswerLine(custom_id, None, refused, request_id)
    if told:
        return AnswerLine(custom_id, None, _failure(told, provider, secrets), request_id)
    if isinstance(body, dict) and body:
        return AnswerLine(custom_id, encode_reply(body), None, request_id)
    wrong = ResponseShapeError(f"the batch's line from {provider or 'the server'} has no answer", provider=provider)
    return AnswerLine(custom_id, None, wrong, request_id)


def _failure(told: Any, provider: str, secrets: Iterable[str]) -> APIError:
    code, message = _told(told) if isinstance(told, dict) else ("", as_text(told))
    return batch_error(code, message, provider=provider, secrets=secrets)


def batch_error(code: str, message: str, *, provider: str = "", secrets: Iterable[str] = ()) -> APIError:
    """Why a request of a batch, or the whole, has no answer; no HTTP status came with it."""
    told = ": ".join(part for part in (code, message if message != code else "") if part)
    shown = redact_error_body(told or "no reason was given", secrets=secrets)
    return APIError(f"{provider or 'the server'}: {shown}", provider=provider, retryable=code in _PASSING)


def why_unanswered(batch: BatchStatus, *, provider: str = "", secrets: Iterable[str] = ()) -> APIError:
    """The error of a request that a batch ended without an answer to."""
    if batch.status == "expired":
        return batch_error("batch_expired", f"batch {batch.id} expired before it was asked", provider=provider)
    if batch.status == "cancelled":
        return batch_error("batch_cancelled", f"batch {batch.id} was cancelled before it was asked", provider=provider)
    if batch.errors:
        code, message = batch.errors[0]
        more = f" (and {len(batch.errors) - 1} more)" if len(batch.errors) > 1 else ""
        return batch_error(
            code, f"batch {batch.id} {batch.status}: {message}{more}", provider=provider, secrets=secrets
        )
    lost = batch_error("", f"batch {batch.id} {batch.status} without an answer to this request", provider=provider)
    # A line that is missing, or was damaged, is not known to be wrong.
    lost.retryable = batch.status == "completed"
    return lost
