"""Answers, conversations, vectors and token counts as HTML, for notebooks.

What a model says is shown as Markdown, and is only ever text: it can run no script, load nothing from anywhere and
style nothing. Its raw HTML is escaped, its images become links, and links lead to http, https and mailto only.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

    from .conversation import Conversation
    from .wire.embeddings import EmbeddingResponse
    from .wire.messages import Message, ToolCall, Usage
    from .wire.response import ChatResponse, Choice

SHOWN_VECTORS = 10
SHOWN_NUMBERS = 5
MAX_MARKDOWN = 100_000
"""Characters of the longest text that is parsed as Markdown: there are texts that take quadratic time."""

_LINK = re.compile(r"https?://|mailto:", re.IGNORECASE)
_MATH = re.compile(
    r"\$\$.{1,2000}?\$\$|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]|\$(?![\s$])[^$\n]{1,500}(?<![\s\\])\$(?!\d)", re.DOTALL
)


def markdown_to_html(text: str) -> str:
    """Markdown as HTML, with formulas left to MathJax; without markdown-it-py (extra ``jupyter``) the text verbatim."""
    text = encodable(text)
    if len(text) > MAX_MARKDOWN:
        return _verbatim(text)
    try:
        parser = markdown_parser()
    except ImportError:
        return _verbatim(text)
    return str(parser.render(text))


@functools.cache
def markdown_parser() -> MarkdownIt:
    """The parser, made once.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    from markdown_it import MarkdownIt

    # Unlike the other presets, this one escapes raw HTML.
    parser = MarkdownIt("js-default").disable("image")
    parser.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]
    parser.inline.ruler.before("escape", "math", _math)
    parser.add_render_rule("math", lambda self, tokens, at, options, env: html.escape(tokens[at].content))
    parser.add_render_rule("text", lambda self, tokens, at, options, env: _prose(tokens[at].content))
    return parser


def encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which no message to a browser can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def answer_html(
    text: str, reasoning: str = "", calls: Iterable[ToolCall] = (), note: str = "", *, thinking: bool = False
) -> str:
    """An answer: its reasoning, folded unless the model is still ``thinking``, its text, its calls, and a note."""
    parts = []
    if reasoning.strip():
        opened = " open" if thinking else ""
        parts.append(f"<details{opened}><summary>Reasoning</summary>{_verbatim(reasoning.strip())}</details>")
    if text.strip():
        parts.append(markdown_to_html(text))
    parts += [f"<p>→ <code>{_escape(f'{call.name}({call.arguments_json})')}</code></p>" for call in calls]
    if note:
        parts.append(f"<p><small>{_prose(encodable(note))}</small></p>")
    return "".join(parts)


def chat_html(answer: ChatResponse) -> str:
    """A ``ChatResponse``: its value if it has a type, else each of its choices; and a line about the call."""
    parsed = getattr(answer, "parsed", None)
    said = "<hr>".join(_choice(choice) for choice in answer.choices) if parsed is None else _verbatim(repr(parsed))
    return said + answer_html("", note=call_note(answer))


def call_note(answer: ChatResponse) -> str:
    """Model, tokens, speed and why it stopped, in one line."""
    parts = [answer.model]
    if answer.usage is not None:
        parts.append(f"{answer.input_tokens:,} + {answer.output_tokens:,} tokens")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:,.1f} tokens/s")
    parts.append("not finished" if answer.truncated else answer.finish_reason)
    return " · ".join(part for part in parts if part)


def conversation_html(conversation: Conversation) -> str:
    """A ``Conversation``: its messages in their order, and the tokens used."""
    system = conversation.request.system
    parts = [_labelled("system", _verbatim(system))] if system else []
    parts += [_labelled(message.role, _message(message)) for message in conversation.messages]
    if conversation.usage is not None:
        parts.append(usage_html(conversation.usage))
    return "".join(parts) or _labelled("conversation", "nothing was said yet")


def embeddings_html(answer: EmbeddingResponse) -> str:
    """An ``EmbeddingResponse``: how much there is, and how the first vectors begin."""
    dims = answer.dims if answer.vectors else 0
    rows = [
        [str(at), ", ".join(f"{number:.4f}" for number in vector[:SHOWN_NUMBERS]) + ", …" * (dims > SHOWN_NUMBERS)]
        for at, vector in enumerate(answer.vectors[:SHOWN_VECTORS])
    ]
    if len(answer) > SHOWN_VECTORS:
        rows.append(["…", f"{len(answer) - SHOWN_VECTORS:,} more"])
    parts = [f"{len(answer):,} × {dims:,} float32", answer.model, f"{answer.input_tokens:,} tokens"]
    return _table(["", "vector"], rows) + answer_html("", note=" · ".join(part for part in parts if part))


def usage_html(usage: Usage) -> str:
    """A ``Usage``: what was counted."""
    counted = {
        "input": usage.input_tokens,
        "of it cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "of it reasoning": usage.reasoning_tokens,
        "total": usage.total_tokens,
    }
    return _table(["", "tokens"], [[name, f"{count:,}"] for name, count in counted.items() if count is not None])


def _math(state: StateInline, silent: bool) -> bool:
    """Keep a formula as it is, for MathJax: its underscores and backslashes are no Markdown."""
    found = _MATH.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _prose(text: str) -> str:
    """Text whose dollars, each in an element of its own, do not look like a formula to MathJax."""
    return html.escape(text).replace("$", "<span>$</span>")


def _choice(choice: Choice) -> str:
    return answer_html(choice.text or choice.refusal, choice.reasoning, choice.tool_calls)


def _message(message: Message) -> str:
    if message.role == "assistant" and isinstance(message.content, str):
        return answer_html(message.content, calls=message.tool_calls)
    parts = message.content if isinstance(message.content, (list, tuple)) else [{"text": message.content or ""}]
    shown = [str(part["text"]) if "text" in part else f"[{part.get('type', 'unknown')}]" for part in parts]
    return _verbatim("\n".join(shown)) + answer_html("", calls=message.tool_calls)


def _labelled(role: str, content: str) -> str:
    return f"<div><small><b>{_escape(role)}</b></small>{content}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _verbatim(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{_escape(text)}</pre>'


def _escape(text: str) -> str:
    return html.escape(encodable(text))
