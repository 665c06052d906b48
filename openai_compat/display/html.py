"""Answers, conversations, vectors and token counts as HTML, for notebooks, and as Markdown, for what they export to.

What a model says is shown as Markdown, and is only ever text: it can run no script, load nothing from anywhere and
style nothing. Its raw HTML is escaped, its images become links, and links lead to http, https and mailto only.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline

    from ..conversation import Conversation
    from ..wire.answer_media import AnswerAudio
    from ..wire.embeddings import EmbeddingResponse
    from ..wire.messages import Message, ToolCall, Usage
    from ..wire.response import ChatResponse, Choice

SHOWN_VECTORS = 10
SHOWN_NUMBERS = 5
MAX_MARKDOWN = 100_000
"""Characters of the longest text that is parsed as Markdown."""
MAX_LABELS = 500_000
"""Characters of a text that are searched for the ends of links, all links together: brackets that are never closed
would take quadratic time."""

_LINK = re.compile(r"https?://|mailto:", re.IGNORECASE)
_URL = re.compile(r"https?://(?:[^\s<>\"`*\\\[\]|()]|\([^\s<>\"`*\\\[\]|()]*\))+", re.IGNORECASE)
# None of them holds a second beginning: a text that only ever begins formulas would take quadratic time.
_MATH = re.compile(
    r"\$\$(?:[^$`]|\$(?!\$)){1,2000}+\$\$"
    r"|\\\((?:[^\\]|\\[^()]){1,2000}+\\\)"
    r"|\\\[(?:[^\\]|\\[^\[\]]){1,2000}+\\\]"
    r"|\$(?![\s$])[^$\n`]{1,500}(?<![\s\\])\$(?!\w)"
)
# These two are compiled when they are used: only exports need them.
_UNTAMED = (
    rf"(?ims)(?P<math>{_MATH.pattern})"
    r"|(?P<kept>^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)|(?<!`)(?P<ticks>`++).+?(?<!`)(?P=ticks)(?!`)"
    r"|\\[!-/:-@\[-`{-~])"
    r"|[<$]|(?<!!)!++(?=\[)|\](?=\((?!<?(?:https?://|mailto:)))|\\(?=[a-z])"
)
_TEX_OF_FILES = (
    r"(?i)\\\w*(?:input|include|read|open|write|file|csname|catcode|scantokens|special|lua|pdf|xetex|package|command|font)"
    r"|\\(?:future)?let\b|\\[egx]?def\b|\^\^"
)
_MATH_ENDS = {"$$": "$$", r"\[": r"\]"}
_DIRECTED = {"p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "blockquote"}


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
    # Unlike the other presets, this one escapes raw HTML.
    parser = _new_parser(linkify=True)
    parser.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]
    # Of links that are no more than an address only the search is replaced: the parser's own needs one more package.
    parser.linkify = SimpleNamespace(match_at_start=_address)
    parser.core.ruler.disable("linkify")
    parser.core.ruler.push("finish", _finish)
    parser.block.ruler.before(
        "blockquote", "math", _math_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    parser.inline.ruler.before("escape", "math", _math)
    parser.inline.ruler.at("image", _image)
    parser.add_render_rule("math", lambda self, tokens, at, options, env: html.escape(tokens[at].content))
    parser.add_render_rule(
        "math_block", lambda self, tokens, at, options, env: f"<p>{html.escape(tokens[at].content)}</p>\n"
    )
    parser.add_render_rule("text", lambda self, tokens, at, options, env: _prose(tokens[at].content))
    return parser


def _new_parser(**options: bool) -> MarkdownIt:
    """A parser that gives up on links once they have cost too much."""
    from markdown_it import MarkdownIt, helpers

    def bounded(state: StateInline, start: int, disable_nested: bool = False) -> int:
        if state.env.setdefault("labels", MAX_LABELS) < 0:
            return -1
        end = helpers.parseLinkLabel(state, start, disable_nested)
        state.env["labels"] -= (state.posMax if end < 0 else end) - start
        return end

    parser = MarkdownIt("js-default", options)
    parser.helpers = SimpleNamespace(  # type: ignore[assignment]
        parseLinkLabel=bounded,
        parseLinkDestination=helpers.parseLinkDestination,
        parseLinkTitle=helpers.parseLinkTitle,
    )
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


def chat_markdown(answer: ChatResponse) -> str:
    """The same as Markdown, without reasoning."""
    parsed = getattr(answer, "parsed", None)
    if parsed is None:
        said = "\n\n---\n\n".join(_said(choice.text or choice.refusal, choice.tool_calls) for choice in answer.choices)
    else:
        said = _fenced(repr(parsed))
    return _joined(said, _literal(call_note(answer)))


def conversation_html(conversation: Conversation) -> str:
    """A ``Conversation``: its messages in their order, and the tokens used."""
    system = conversation.request.system
    parts = [_labelled("system", _verbatim(system))] if system else []
    parts += [_labelled(message.role, _message(message)) for message in conversation.messages]
    if conversation.usage is not None:
        parts.append(usage_html(conversation.usage))
    return "".join(parts) or _labelled("conversation", "nothing was said yet")


def conversation_markdown(conversation: Conversation) -> str:
    """The same as Markdown."""
    system = conversation.request.system
    parts = ["**system**", _fenced(system)] if system else []
    for message in conversation.messages:
        own = message.role == "assistant" and isinstance(message.content, str)
        words = _words(message)
        parts += [f"**{_literal(message.role)}**", _said(words if own else "", message.tool_calls)]
        if not own:
            parts.append(_fenced(words))
    if conversation.usage is not None:
        parts.append(usage_markdown(conversation.usage))
    return _joined(*parts) or "**conversation**\n\nnothing was said yet"


def embeddings_html(answer: EmbeddingResponse) -> str:
    """An ``EmbeddingResponse``: how much there is, and how the first vectors begin."""
    return _table(["", "vector"], _vector_rows(answer)) + answer_html("", note=_vector_note(answer))


def embeddings_markdown(answer: EmbeddingResponse) -> str:
    """The same as Markdown."""
    return _joined(_markdown_table(["", "vector"], _vector_rows(answer)), _literal(_vector_note(answer)))


def usage_html(usage: Usage) -> str:
    """A ``Usage``: what was counted."""
    return _table(["", "tokens"], _usage_rows(usage))


def usage_markdown(usage: Usage) -> str:
    """The same as Markdown."""
    return _markdown_table(["", "tokens"], _usage_rows(usage))


def tame_markdown(text: str) -> str:
    """Markdown as Markdown that can do no more than its HTML here, wherever it is rendered or typeset.

    Raw HTML, images, links to elsewhere than the web, and TeX outside of formulas become text. What still looks like
    more than text then, and all text where markdown-it-py is missing, is shown verbatim.
    """
    text = encodable(text)
    tame = re.sub(_UNTAMED, _tamed, text) if len(text) <= MAX_MARKDOWN else ""
    return tame if tame and _is_tame(tame) else _fenced(text)


def _vector_rows(answer: EmbeddingResponse) -> list[list[str]]:
    dims = answer.dims if answer.vectors else 0
    rows = [
        [str(at), ", ".join(f"{number:.4f}" for number in vector[:SHOWN_NUMBERS]) + ", …" * (dims > SHOWN_NUMBERS)]
        for at, vector in enumerate(answer.vectors[:SHOWN_VECTORS])
    ]
    if len(answer) > SHOWN_VECTORS:
        rows.append(["…", f"{len(answer) - SHOWN_VECTORS:,} more"])
    return rows


def _vector_note(answer: EmbeddingResponse) -> str:
    dims = answer.dims if answer.vectors else 0
    parts = [f"{len(answer):,} × {dims:,} float32", answer.model, f"{answer.input_tokens:,} tokens"]
    return " · ".join(part for part in parts if part)


def _usage_rows(usage: Usage) -> list[list[str]]:
    counted = {
        "input": usage.input_tokens,
        "of it cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "of it reasoning": usage.reasoning_tokens,
        "total": usage.total_tokens,
    }
    return [[name, f"{count:,}"] for name, count in counted.items() if count is not None]


def _tamed(found: re.Match[str]) -> str:
    """A piece of Markdown as text. Formulas are put between dollars, which all know."""
    if found["math"]:
        formula = re.sub(r"<(?=\S)", "< ", found[0])
        if formula.startswith(r"\("):
            return f"${formula[2:-2].strip()}$"
        return f"$${formula[2:-2]}$$" if formula.startswith(r"\[") else formula
    if found["kept"]:
        return found[0]
    if found[0].startswith("!"):
        return ""
    return "&lt;" if found[0] == "<" else f"\\{found[0]}"


def _is_tame(text: str) -> bool:
    """Whether those who let HTML through find neither any in this text, nor an image, nor a link to elsewhere."""
    # In Pandoc's Markdown, code with this mark is handed to TeX as it is.
    if "{=" in text or any(re.search(_TEX_OF_FILES, formula[0]) for formula in _MATH.finditer(text)):
        return False
    try:
        parsers = _strict_parsers()
    except ImportError:
        return False
    return all(_is_plain(parser, text) for parser in parsers)


def _is_plain(parser: MarkdownIt, text: str) -> bool:
    env: dict[str, Any] = {}
    tokens = parser.parse(text, env)
    tokens += [child for token in tokens for child in token.children or ()]
    return env.get("labels", 0) >= 0 and all(
        not token.type.startswith("html_")
        and token.type != "image"
        and (token.type != "link_open" or _LINK.match(str(token.attrs["href"])) is not None)
        for token in tokens
    )


@functools.cache
def _strict_parsers() -> list[MarkdownIt]:
    """One that knows tables and one that does not: what is code to the one may be text to the other."""
    parsers = [_new_parser(html=True), _new_parser(html=True).disable("table")]
    for parser in parsers:
        parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parsers


def _math(state: StateInline, silent: bool) -> bool:
    """Keep a formula as it is, for MathJax: its underscores and backslashes are no Markdown."""
    found = _MATH.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _math_block(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """The same for a formula that has lines of its own, which may look like lists, headings or quotations."""
    start = state.bMarks[first] + state.tShift[first]
    opener = state.src[start : start + 2]
    closer = _MATH_ENDS.get(opener)
    if closer is None or state.is_code_block(first):
        return False
    for at in range(first, end):
        line = state.getLines(at, at + 1, state.blkIndent, False).strip()
        if not line or state.sCount[at] < state.blkIndent:
            return False
        if at == first:
            line = line[2:]
        elif line.startswith(opener) and opener != closer:
            return False
        if closer in line:
            break
    else:
        return False
    if line.index(closer) + 2 < len(line):
        return False
    if not silent:
        state.push("math_block", "", 0).content = state.getLines(first, at + 1, state.blkIndent, False).strip()
        state.line = at + 1
    return True


def _image(state: StateInline, silent: bool) -> bool:
    """A link in place of an image; within a link, nothing but the words."""
    if not state.src.startswith("![", state.pos):
        return False
    from markdown_it.rules_inline import link

    begun = len(state.tokens)
    state.pos += 1
    if not link(state, silent):
        state.pos -= 1
        return False
    if state.linkLevel:
        state.tokens[begun:] = [token for token in state.tokens[begun:] if token.tag != "a"]
    return True


def _address(text: str) -> Any:
    """The address that the text begins with, without the punctuation of the sentence around it."""
    found = _URL.match(text)
    return found and SimpleNamespace(url=found[0].rstrip(".,:;!?'_~"))


def _finish(state: StateCore) -> None:
    """Give each block the direction of its own first letter, and mend links without words or without an address."""
    from markdown_it.token import Token

    for token in state.tokens:
        if token.nesting == 1 and token.tag in _DIRECTED:
            token.attrSet("dir", "auto")
        children = token.children or []
        for at in range(len(children) - 1, 0, -1):
            if children[at].type == "link_close" and children[at - 1].type == "link_open":
                children.insert(at, Token("text", "", 0, content=str(children[at - 1].attrs["href"])))
        for child in children:
            if child.attrs.get("href") == "":
                del child.attrs["href"]


def _prose(text: str) -> str:
    """Text whose dollars, each in an element of its own, do not look like a formula to MathJax."""
    return html.escape(text).replace("$", "<span>$</span>")


def _choice(choice: Choice) -> str:
    said = answer_html(choice.text or choice.refusal, choice.reasoning, choice.tool_calls)
    heard = audio_html(choice.audio) if choice.audio is not None else ""
    return said + "".join(picture_html(image.url) for image in choice.images) + heard


def picture_html(url: str) -> str:
    """A picture that came with the answer; one that is elsewhere is a link, and loads nothing."""
    if _PICTURE.fullmatch(url):
        return f'<img src="{url}" alt="picture" style="max-width: 100%">'
    return f'<a href="{_escape(url)}">{_escape(url)}</a>' if _LINK.match(url) else _verbatim(url[:200])


_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|avif|bmp);base64,[A-Za-z0-9+/=\s]*", re.IGNORECASE)


def audio_html(audio: AnswerAudio) -> str:
    """A spoken answer, to be played where its format is known, and its words."""
    try:
        name = audio.format
    except ValueError:
        name = ""
    words = _verbatim(audio.transcript) if audio.transcript else ""
    if not name:
        return words
    sound = base64.b64encode(audio.content).decode("ascii")
    return f'<audio controls src="data:audio/{name};base64,{sound}"></audio>{words}'


def _message(message: Message) -> str:
    if message.role == "assistant" and isinstance(message.content, str):
        return answer_html(message.content, calls=message.tool_calls)
    return _verbatim(_words(message)) + answer_html("", calls=message.tool_calls)


def _words(message: Message) -> str:
    parts = message.content if isinstance(message.content, (list, tuple)) else [{"text": message.content or ""}]
    return "\n".join(str(part["text"]) if "text" in part else f"[{part.get('type', 'unknown')}]" for part in parts)


def _labelled(role: str, content: str) -> str:
    return f"<div><small><b>{_escape(role)}</b></small>{content}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _said(text: str, calls: Iterable[ToolCall]) -> str:
    """An answer's text and calls as Markdown."""
    called = [f"→ {_literal(f'{call.name}({call.arguments_json})')}" for call in calls]
    return _joined(tame_markdown(text) if text.strip() else "", *called)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = [[_literal(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *shown])


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _literal(text: str) -> str:
    """A line of text with every sign of Markdown escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(encodable(text).split()))


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{encodable(text)}\n{fence}"


def _verbatim(text: str) -> str:
    return f'<pre dir="auto" style="white-space: pre-wrap">{_escape(text)}</pre>'


def _escape(text: str) -> str:
    return html.escape(encodable(text))
