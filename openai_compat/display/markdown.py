"""Values as Markdown, for what notebooks are exported to."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from ..conversation import Conversation
from ..wire.embeddings import EmbeddingResponse
from ..wire.messages import ToolCall, Usage
from ..wire.response import ChatResponse
from .escape import code_block, escape_markdown
from .rewrite import sanitize_markdown
from .summary import call_note, message_text, usage_rows, vector_note, vector_rows


@functools.singledispatch
def to_markdown(value: object) -> str | None:
    """A value as Markdown; None where its type has none."""
    return None


@to_markdown.register(ChatResponse)
def _response(answer: ChatResponse) -> str:
    """The value if the answer has a type, else each of its choices without its reasoning; and a line about the call."""
    parsed = getattr(answer, "parsed", None)
    if parsed is None:
        choices = [_answer(choice.text or choice.refusal, choice.tool_calls) for choice in answer.choices]
        content = "\n\n---\n\n".join(choices)
    else:
        content = code_block(repr(parsed))
    return _paragraphs(content, escape_markdown(call_note(answer)))


@to_markdown.register(Conversation)
def _conversation(conversation: Conversation) -> str:
    """The messages in their order, and the tokens used."""
    system = conversation.request.system
    parts = ["**system**", code_block(system)] if system else []
    for message in conversation.messages:
        from_model = message.role == "assistant" and isinstance(message.content, str)
        text = message_text(message)
        parts += [f"**{escape_markdown(message.role)}**", _answer(text if from_model else "", message.tool_calls)]
        if not from_model:
            parts.append(code_block(text))
    if conversation.usage is not None:
        parts.append(_usage(conversation.usage))
    return _paragraphs(*parts) or "**conversation**\n\nnothing was said yet"


@to_markdown.register(EmbeddingResponse)
def _embeddings(answer: EmbeddingResponse) -> str:
    """How many vectors there are, and how the first ones begin."""
    return _paragraphs(_table(["", "vector"], vector_rows(answer)), escape_markdown(vector_note(answer)))


@to_markdown.register(Usage)
def _usage(usage: Usage) -> str:
    return _table(["", "tokens"], usage_rows(usage))


def _answer(text: str, calls: Iterable[ToolCall]) -> str:
    """An answer's text and tool calls."""
    called = [f"→ {escape_markdown(f'{call.name}({call.arguments_json})')}" for call in calls]
    return _paragraphs(sanitize_markdown(text) if text.strip() else "", *called)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = [[escape_markdown(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *shown])


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
