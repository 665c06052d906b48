"""Answers and failures as a journal keeps them: the server's own body, and what an exception says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from .. import errors
from .._json import NotJSONError, decode_json, encode_reply
from ..errors import APIError, OpenAICompatError
from .journal import Entry, JournalError

if TYPE_CHECKING:
    from ..wire.embeddings import Vector
    from ..wire.response import ChatResponse

_TOLD = ("provider", "request_id", "retry_after", "status_code", "code", "type", "param", "body", "phase", "path")
"""What an exception says beside its message."""


def answered(key: bytes, custom_id: str | None, request: str | None, answer: Any, seconds: float) -> Entry:
    """The row of an answer."""
    return Entry(
        key=key,
        custom_id=custom_id and _whole(custom_id),
        model=_whole(answer.model),
        provider=answer.provider or None,
        server=answer.origin or None,
        status="answered",
        text=_whole(answer.text),
        finish_reason=_whole(answer.finish_reason),
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        attempts=len(answer.attempts) or 1,
        seconds=seconds,
        request=request,
        response=encode_reply(answer.raw if "choices" in answer.raw or "data" in answer.raw else _as_body(answer)),
    )


def _whole(text: str) -> str:
    """Half a character is a question mark: SQLite takes none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def as_told(entry: Entry, answer: Any) -> Any:
    """An answer that was read from a journal, with who gave it: not always whom this client would ask."""
    if entry.provider is None or (answer.provider, answer.origin) == (entry.provider, entry.server or ""):
        return answer
    return attrs.evolve(answer, provider=entry.provider, origin=entry.server or "")


def embedded(
    key: bytes,
    custom_id: str | None,
    request: str | None,
    model: str,
    vector: Vector,
    tokens: int,
    seconds: float,
    provider: str = "",
) -> Entry:
    """The row of a text's vector."""
    return Entry(
        key=key,
        custom_id=custom_id and _whole(custom_id),
        model=_whole(model),
        provider=provider or None,
        status="answered",
        input_tokens=tokens,
        seconds=seconds,
        request=request,
        response=bytes(vector),
    )


def failed(key: bytes, custom_id: str | None, request: str | None, error: Exception, seconds: float) -> Entry:
    """The row of a failure."""
    name = type(error).__name__
    # What another exception has under these names may be anything, and is not restored.
    own = vars(error) if isinstance(error, OpenAICompatError) else {}
    told = {field: own[field] for field in _TOLD if own.get(field) not in (None, "")}
    message = _whole(str(error))
    return Entry(
        key=key,
        custom_id=custom_id and _whole(custom_id),
        provider=own.get("provider") or None,
        status="failed",
        error=f"{name}: {message}",
        retryable=isinstance(error, APIError) and error.retryable,
        attempts=len(own.get("attempts", ())),
        seconds=seconds,
        request=request,
        response=encode_reply({"class": name, "message": message, **told}),
    )


def _as_body(answer: ChatResponse) -> dict[str, Any]:
    """A body for an answer that came as an event stream."""
    choices = [
        {
            "index": choice.index,
            "finish_reason": choice.finish_reason,
            "message": {
                "role": "assistant",
                "content": choice.text,
                "reasoning_content": choice.reasoning,
                "refusal": choice.refusal or None,
                "tool_calls": [call.to_wire() for call in choice.tool_calls],
            },
        }
        for choice in answer.choices
    ]
    usage = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens}
    return {"object": "chat.completion", "model": answer.model, "choices": choices, "usage": usage}


def restored_error(entry: Entry) -> Exception:
    """The exception of a failure: of its own class where that is this library's, else an ``APIError``."""
    try:
        told = decode_json(entry.response or b"")
        name, message = str(told.pop("class")), str(told.pop("message"))
    except (NotJSONError, AttributeError, KeyError, TypeError) as error:
        raise JournalError(f"the journal holds no failure where it should: {error}") from error
    cls = getattr(errors, name, None) if name in errors.__all__ else None
    if not (isinstance(cls, type) and issubclass(cls, OpenAICompatError)):
        return APIError(f"{name}: {message}")
    restored = cls(message)
    known = {**told, "retryable": bool(entry.retryable)}
    for field in vars(restored).keys() & known.keys():
        setattr(restored, field, known[field])
    return restored
