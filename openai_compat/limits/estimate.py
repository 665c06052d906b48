"""About how many tokens a request will have, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEDIA = 1000
"""Tokens of an image or a clip."""
MOST = 2**53
"""That can be asked for; what is larger overflows a float."""


def input_tokens(body: Mapping[str, Any]) -> int:
    """One for four bytes of text, 4 a message, 1000 an image or clip; of an embeddings request each token id is one."""
    if "input" in body:
        return max(1, _of_inputs(body["input"]))
    forms = [body[name] for name in ("tools", "response_format") if body.get(name)]
    return sum(4 + _of_message(message) for message in body.get("messages") or ()) + sum(map(_of_value, forms))


def output_tokens(body: Mapping[str, Any], usual: float) -> int:
    """As many as answers ``usual``ly have, or as the request allows where that is less; none for embeddings."""
    if "input" in body:
        return 0
    return round(min(usual, _allowed(body) or usual) * _several(body))


def most_output_tokens(body: Mapping[str, Any], usual: int) -> int:
    """As many as the request allows, or ``usual`` where it sets no limit; none for embeddings."""
    if "input" in body:
        return 0
    return (_allowed(body) or usual) * _several(body)


def _allowed(body: Mapping[str, Any]) -> int | None:
    """The limit of each answer; None without one: -1 is none for llama.cpp."""
    return _positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens"))


def _several(body: Mapping[str, Any]) -> int:
    return _positive(body.get("n")) or 1


def _positive(value: Any) -> int | None:
    return min(value, MOST) if isinstance(value, int) and value > 0 else None


def text_tokens(text: str) -> int:
    """One for four bytes."""
    return _of_text(text)


def _of_message(message: Any) -> int:
    content = message.get("content") if isinstance(message, Mapping) else str(message)
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return sum(map(_of_part, parts)) + (_of_value(calls) if calls else 0)


def _of_part(part: Any) -> int:
    return _of_text(str(part["text"])) if isinstance(part, Mapping) and "text" in part else MEDIA


def _of_inputs(inputs: Any) -> int:
    if isinstance(inputs, list):
        return sum(map(_of_inputs, inputs))
    return 1 if isinstance(inputs, int) else _of_text(str(inputs))


def _of_text(text: str) -> int:
    return len(text.encode("utf-8", "replace")) // 4


def _of_value(value: Any) -> int:
    return len(str(value)) // 4
