"""One tolerant extractor for every server's error shape, and the exceptions made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._json import NotJSONError, decode_json, encode_json
from ..errors import APIStatusError, StreamServerError, status_error_class
from ..redaction import mask_secrets, redact_error_body
from .retry import MAX_WAIT, retry_after

MAX_MESSAGE = 1000
"""Characters of a server's message that an exception shows."""

MAX_DEPTH = 8
"""How deep in a body an error is looked for."""

_WORDS = (
    *("message", "msg", "Message", "status_msg", "error_msg", "error_message", "errorMessage", "error_description"),
    *("detail", "title"),
)
_CODES = ("code", "error_code", "errorCode", "Code")
_TYPES = ("type", "error_type", "status", "__type")
_SUCCESS = re.compile(r"(?:success(?:ful(?:ly)?)?|ok(?:ay)?|none|null|done)?[.!]?", re.IGNORECASE)
_STATUS_KEYS = ("code", "http_status_code", "status_code", "statusCode", "status", "raw_status_code")
_NO_QUOTA = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "exceeded_current_quota_error", "insufficient_balance"}
    # Z.ai, SiliconFlow
    | {"1113", "30001"}
)
_NO_BALANCE = (
    r"(?:insufficient|not enough|no|low|negative)\b.{0,20}\b(?:balance|credits?|funds|resource package)"
    r"|balance (?:is |was )?(?:insufficient|not enough|too low)|out of credits?"
    r"|please (?:recharge|top[ -]?up)|arrears|余额不足|欠费"
)
_NOT_POSSIBLE = (
    r"\b(?:is|are) not supported\b|\bdoes not support\b|\bdoesn't support\b|\bunsupported\b|\bnot implemented\b"
    r"|\btoo large to process\b|\bexceeds? the (?:available )?context\b|\brequires? --?\w"
    r"|\bfailed to parse (?:grammar|input)"
)
"""Words in a 500 that mean that it will never be otherwise; llama.cpp has no other status for them."""
_TOO_LONG = re.compile(r"(?:[\w.]+: ){0,2}(?:litellm\.)?ContextWindowExceededError\b")
_TITLE = r"<title[^>]*>(.*?)</title>"
_HEADING = r"<(?:h1|body)[^>]*>\s*([^<\s][^<]*)<"
_PASSING = r"rate.?limit|overloaded|unavailable|timeout|server.?error|internal"
_PASSING_WORDS = (
    r"\brate.?limit|\boverloaded\b|\btoo many requests\b|\bhigh traffic\b|\btry again\b|\bat capacity\b"
    r"|\btemporarily\b|\bservice unavailable\b|\bbad gateway\b|\bgateway time-?out\b|\btimed out\b"
)


class ErrorDetail(NamedTuple):
    """What an error body says. ``code`` is as sent; ``status`` is an HTTP status that the body names, or None.

    ``body`` is the whole where nobody knows its shape, and so there is no message.
    """

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None
    body: str = ""


def find_error(payload: Any) -> ErrorDetail | None:
    """The error in a body, or in a stream's chunk, that came under HTTP 200; None where there is none.

    Beside choices or data only ``error``, ``object: "error"`` and a non-zero ``base_resp.status_code`` mean one; an
    ``error`` that is null or empty, and words of success, mean none.
    """
    if isinstance(payload, list):
        # A list may wrap one error; a list of chunks is none.
        return find_error(payload[0]) if len(payload) == 1 and isinstance(payload[0], dict) else None
    if not isinstance(payload, dict):
        return None
    if payload.get("error") or payload.get("object") == "error":
        return _in_words(payload)
    base_resp = payload.get("base_resp")
    if isinstance(base_resp, dict) and base_resp.get("status_code"):
        return _in_words({"base_resp": base_resp})
    groq = payload.get("x_groq")
    if isinstance(groq, dict) and groq.get("error"):
        # Why a stream was stopped early.
        return _in_words({"error": groq["error"]})
    for choice in payload["choices"] if isinstance(payload.get("choices"), list) else ():
        if isinstance(choice, dict) and choice.get("error"):
            return _in_words({"error": choice["error"]})
    answers = "choices" in payload or payload.get("data") is not None
    if answers and (payload.get("choices") or payload.get("data") or _plausible_status(payload) is None):
        return None
    if payload.get("success") is False or payload.get("error_code") or payload.get("errors") or _tencent(payload):
        return _in_words(payload)
    words = [payload.get(key) for key in _WORDS if key != "title"]
    if any(word and not (isinstance(word, str) and _SUCCESS.fullmatch(word.strip())) for word in words):
        return _in_words(payload)
    return None


def _in_words(payload: Any) -> ErrorDetail:
    """What a body says; of a shape that nobody knows, the body itself."""
    detail = describe_error(payload)
    if detail.message or not payload:
        return detail
    try:
        return detail._replace(body=encode_json(payload)[: 4 * MAX_MESSAGE].decode("utf-8", "replace"))
    except (TypeError, ValueError, RecursionError):
        return detail


def _tencent(payload: dict[str, Any]) -> Any:
    response = payload.get("Response")
    return response.get("Error") if isinstance(response, dict) else None


def describe_error(payload: Any, depth: int = 0) -> ErrorDetail:
    """Message, code, type and param of an error in any shape; all empty where it says nothing."""
    if depth > MAX_DEPTH:
        return ErrorDetail()
    if isinstance(payload, str):
        return ErrorDetail(message=_page(payload.strip()) or payload.strip())
    if isinstance(payload, list):
        return _describe_list(payload, depth)
    if not isinstance(payload, dict):
        return ErrorDetail()
    inner = _inner(payload, depth)
    # FastChat says what is wrong where its text would be.
    words = (*_WORDS, "text") if payload.get("error_code") else _WORDS
    own = next((payload[key] for key in words if _is_text(payload.get(key))), "")
    message = inner.message or own
    if own and inner.message and _is_text(payload.get("error")):
        message = f"{inner.message}: {own}" if own not in inner.message else inner.message
    metadata = payload.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        # OpenRouter: the reason, as its upstream gave it.
        upstream = describe_error(_decoded(metadata["raw"]), depth + 1).message
        message = f"{message}: {upstream}" if message else upstream
    message = "; ".join(part for part in (message, *_further(payload)) if part)
    code = inner.code
    if code is None:
        code = next((payload[key] for key in _CODES if payload.get(key) is not None), None)
    if code is None and "status_msg" in payload:
        code = payload.get("status_code")
    location = payload.get("loc")
    if isinstance(location, list):
        param: Any = ".".join(str(part) for part in location)
        message = f"{param}: {message}"
    else:
        param = inner.param or payload.get("param")
    kind = inner.type or next((payload[key] for key in _TYPES if _is_text(payload.get(key))), None)
    return ErrorDetail(
        message=message,
        code=code if isinstance(code, (str, int)) and not isinstance(code, bool) else None,
        type=kind,
        param=param if isinstance(param, str) else None,
        status=inner.status or _plausible_status(payload),
    )


def _further(payload: dict[str, Any]) -> list[str]:
    """What some servers say beside their message: a moderation's reasons, an inner code, what the model had written."""
    metadata, inner = payload.get("metadata"), payload.get("innererror")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    said = [str(reason)[:200] for reason in reasons[:5] if _is_text(reason)] if isinstance(reasons, list) else []
    if isinstance(inner, dict) and _is_text(inner.get("code")):
        said.append(inner["code"])
    if _is_text(payload.get("failed_generation")):
        said.append(f"failed generation: {payload['failed_generation'][:300]}")
    return said


def _inner(payload: dict[str, Any], depth: int) -> ErrorDetail:
    for key in ("error", "errors", "detail", "message", "base_resp", "Response", "Error"):
        value = payload.get(key)
        if isinstance(value, (dict, list)) or (key in ("error", "detail") and _is_text(value)):
            found = describe_error(value, depth + 1)
            if found.message or found.code is not None:
                return found
    return ErrorDetail()


def _describe_list(items: list[Any], depth: int) -> ErrorDetail:
    found = [detail for item in items[:5] if (detail := describe_error(item, depth + 1)).message]
    if not found:
        return ErrorDetail()
    return found[0]._replace(message="; ".join(detail.message for detail in found))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return decode_json(value)
    except NotJSONError:
        return value


def _plausible_status(payload: Mapping[str, Any]) -> int | None:
    for key in _STATUS_KEYS:
        value = payload.get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def is_out_of_quota(error: APIStatusError | StreamServerError) -> bool:
    """Whether it is the account that has nothing left, which no wait helps."""
    if error.status_code == 402 or str(error.code) in _NO_QUOTA or error.type in _NO_QUOTA:
        return True
    words = error.status_code in (403, 429) and error.retry_after is None
    return words and bool(re.search(_NO_BALANCE, str(error)[: 2 * MAX_MESSAGE], re.IGNORECASE))


def is_retryable_status(status: int) -> bool:
    """A request that was refused so may be repeated."""
    return status in (408, 409, 429) or status >= 500


def _retryable(detail: ErrorDetail, status: int | None, wait: float | None, headers: Mapping[str, str]) -> bool:
    told = headers.get("x-should-retry", "").lower()
    if told in ("true", "false"):
        return told == "true"
    if str(detail.code) in _NO_QUOTA or detail.type in _NO_QUOTA or (wait is not None and wait > MAX_WAIT):
        return False
    if wait is None and re.search(_NO_BALANCE, detail.message[:MAX_MESSAGE], re.IGNORECASE):
        return False
    if status == 501 or detail.type == "not_supported_error":
        return False
    if status == 500 and re.search(_NOT_POSSIBLE, detail.message[:MAX_MESSAGE], re.IGNORECASE):
        return False
    if status is not None:
        return is_retryable_status(status)
    if re.search(_PASSING, f"{detail.code} {detail.type}", re.IGNORECASE):
        return True
    return bool(re.search(_PASSING_WORDS, detail.message[:MAX_MESSAGE], re.IGNORECASE))


def _code(detail: ErrorDetail, secrets: Iterable[str]) -> str | int | None:
    """The code as a caller sees it: OpenAI's own where a prompt is too long, whatever the server calls that."""
    names = (detail.type, detail.code)
    # LiteLLM has its name in front of the words, llama.cpp as the type.
    if "exceed_context_size_error" in names or "ContextWindowExceededError" in names or _TOO_LONG.match(detail.message):
        return "context_length_exceeded"
    return _shown(detail.code, secrets) if isinstance(detail.code, str) else detail.code


def _shown(text: str | None, secrets: Iterable[str]) -> str | None:
    return redact_error_body(text, secrets=secrets, limit=MAX_MESSAGE) if text else None


def _describe_body(text: str) -> tuple[ErrorDetail, Any]:
    """What an HTTP error's body says, and the body decoded (None where it is not JSON)."""
    try:
        payload = decode_json(text)
    except NotJSONError:
        return describe_text(text), None
    # Under HTTP 200 an error may stand beside, or in, the choices.
    return find_error(payload) or _in_words(payload), payload


def _page(text: str) -> str:
    """A page in place of words, by its title; empty where it is none."""
    if not text.startswith("<"):
        return ""
    title = re.search(_TITLE, text[:4096], re.IGNORECASE | re.DOTALL) or re.search(
        _HEADING, text[:4096], re.IGNORECASE | re.DOTALL
    )
    words = " ".join(title[1].split())[:120] if title else ""
    return f"an HTML page ({words})" if words else "an HTML page"


def describe_text(text: str) -> ErrorDetail:
    """What a body says that is not JSON: an HTML page by its title, an event stream by the error in it."""
    from .sse import iter_payloads, looks_like_sse

    stripped = text.strip()
    if page := _page(stripped):
        return ErrorDetail(message=page)
    if looks_like_sse(stripped.encode("utf-8", "replace")):
        body = stripped.encode("utf-8", "replace")
        for payload in iter_payloads([body], max_event_bytes=len(body) + 8):
            if (found := find_error(payload)) is not None:
                return found
    return ErrorDetail(message=stripped)


def status_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    provider: str = "",
    url: str = "",
    request_id: str | None = None,
    secrets: Iterable[str] = (),
    now: float = 0.0,
) -> APIStatusError:
    """The exception for an HTTP error, or for an error body under HTTP 200.

    Args:
        headers: with lower-case names.
        url: where it came from, shown where a path seems wrong.
        secrets: the caller's keys, masked wherever the server echoes them.
        now: POSIX time in seconds, for a ``Retry-After`` that is a date, where the response has none.
    """
    secrets = tuple(secrets)
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    detail, payload = _describe_body(text)
    effective = status if status >= 300 else detail.status or status
    wait = retry_after(headers, payload, _date(headers) or now if "retry-after" in headers else now)
    message = _shown(detail.message or detail.body, secrets) or "no message"
    shown = f"HTTP {effective} from {provider or 'the server'}: {message}"
    return status_error_class(effective)(
        shown + _advice(effective, message, redact_error_body(url.partition("?")[0], secrets=secrets)),
        status_code=effective,
        code=_code(detail, secrets),
        type=_shown(detail.type, secrets),
        param=_shown(detail.param, secrets),
        body=redact_error_body(text, secrets=secrets),
        headers={name: redact_error_body(value, secrets=secrets) for name, value in headers.items()},
        provider=provider,
        request_id=request_id and mask_secrets(request_id, secrets),
        retryable=_retryable(detail, effective if effective >= 300 else None, wait, headers),
        retry_after=wait,
    )


def _date(headers: Mapping[str, str]) -> float | None:
    """When the response was sent, by the server's own clock."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _advice(status: int, message: str, url: str) -> str:
    lower = message.lower()
    wrong_path = "unexpected endpoint" in lower or (status == 404 and "model" not in lower)
    if wrong_path and url:
        return f" (asked at {url}; is the base URL right, or is it missing /v1?)"
    if status == 401:
        return " (set api_key, or the provider's environment variable)"
    return ""


def stream_error(
    detail: ErrorDetail, *, provider: str = "", request_id: str | None = None, secrets: Iterable[str] = ()
) -> StreamServerError:
    """The exception for an error that a server sent inside a stream."""
    secrets = tuple(secrets)
    message = _shown(detail.message or detail.body, secrets) or "no message"
    return StreamServerError(
        f"{provider or 'the server'} sent an error inside the stream: {message}",
        status_code=detail.status,
        code=_code(detail, secrets),
        type=_shown(detail.type, secrets),
        param=_shown(detail.param, secrets),
        provider=provider,
        request_id=request_id,
        retryable=_retryable(detail, detail.status, None, {}),
    )
