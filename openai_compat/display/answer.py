"""An answer as HTML, whole or while it grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .escape import encodable, escape_html, prose_html, verbatim_html
from .sanitize import markdown_to_html

if TYPE_CHECKING:
    from ..wire.messages import ToolCall


def answer_html(
    text: str, reasoning: str = "", calls: Iterable[ToolCall] = (), note: str = "", *, thinking: bool = False
) -> str:
    """An answer: its reasoning, folded unless the model is still ``thinking``, its text, its calls, and a note."""
    parts = []
    if reasoning.strip():
        opened = " open" if thinking else ""
        parts.append(f"<details{opened}><summary>Reasoning</summary>{verbatim_html(reasoning.strip())}</details>")
    if text.strip():
        parts.append(markdown_to_html(text))
    parts += [f"<p>→ <code>{escape_html(f'{call.name}({call.arguments_json})')}</code></p>" for call in calls]
    if note:
        parts.append(f"<p><small>{prose_html(encodable(note))}</small></p>")
    return "".join(parts)
