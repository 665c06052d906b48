"""Facts about a value, as lines and table rows of plain text that every format shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..wire.embeddings import EmbeddingResponse
    from ..wire.messages import Message, Usage
    from ..wire.response import ChatResponse

SHOWN_VECTORS = 10
SHOWN_NUMBERS = 5


def call_note(answer: ChatResponse) -> str:
    """Model, tokens, speed and why it stopped, in one line."""
    parts = [answer.model]
    if answer.usage is not None:
        parts.append(f"{answer.input_tokens:,} + {answer.output_tokens:,} tokens")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:,.1f} tokens/s")
    parts.append("not finished" if answer.truncated else answer.finish_reason)
    return " · ".join(part for part in parts if part)


def vector_note(answer: EmbeddingResponse) -> str:
    """Number, dimensions, model and tokens, in one line."""
    dims = answer.dims if answer.vectors else 0
    parts = [f"{len(answer):,} × {dims:,} float32", answer.model, f"{answer.input_tokens:,} tokens"]
    return " · ".join(part for part in parts if part)


def vector_rows(answer: EmbeddingResponse) -> list[list[str]]:
    """Number and first dimensions of each of the first vectors."""
    dims = answer.dims if answer.vectors else 0
    rows = [
        [str(at), ", ".join(f"{number:.4f}" for number in vector[:SHOWN_NUMBERS]) + ", …" * (dims > SHOWN_NUMBERS)]
        for at, vector in enumerate(answer.vectors[:SHOWN_VECTORS])
    ]
    if len(answer) > SHOWN_VECTORS:
        rows.append(["…", f"{len(answer) - SHOWN_VECTORS:,} more"])
    return rows


def usage_rows(usage: Usage) -> list[list[str]]:
    """Name and number of what was counted."""
    counted = {
        "input": usage.input_tokens,
        "of it cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "of it reasoning": usage.reasoning_tokens,
        "total": usage.total_tokens,
    }
    return [[name, f"{count:,}"] for name, count in counted.items() if count is not None]


def message_text(message: Message) -> str:
    """The text of a message, with the types of its other parts in square brackets."""
    parts = message.content if isinstance(message.content, (list, tuple)) else [{"text": message.content or ""}]
    return "\n".join(str(part["text"]) if "text" in part else f"[{part.get('type', 'unknown')}]" for part in parts)
