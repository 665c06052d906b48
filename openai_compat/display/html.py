"""Values as HTML, for notebooks."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Sequence

from ..conversation import Conversation
from ..wire.answer_media import AnswerAudio
from ..wire.embeddings import EmbeddingResponse
from ..wire.media import Image
from ..wire.messages import Message, Usage
from ..wire.response import ChatResponse, Choice
from .answer import answer_html
from .escape import encodable, escape_html, prose_html, verbatim_html
from .sanitize import LINK
from .summary import call_note, message_text, usage_rows, vector_note, vector_rows

_EMBEDDED_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|avif|bmp);base64,[A-Za-z0-9+/=\s]*", re.IGNORECASE)


@functools.singledispatch
def to_html(value: object) -> str:
    """A value as HTML: verbatim where its type has no HTML of its own."""
    return verbatim_html(repr(value))


@to_html.register(ChatResponse)
def _response(answer: ChatResponse) -> str:
    """The value if the answer has a type, else each of its choices; and a line about the call."""
    parsed = getattr(answer, "parsed", None)
    content = "<hr>".join(map(_choice, answer.choices)) if parsed is None else verbatim_html(repr(parsed))
    return content + answer_html("", note=call_note(answer))


def _choice(choice: Choice) -> str:
    text = answer_html(choice.text or choice.refusal, choice.reasoning, choice.tool_calls)
    audio = _audio(choice.audio) if choice.audio is not None else ""
    return text + "".join(map(_picture, choice.images)) + audio


@to_html.register(Image)
def _picture(image: Image) -> str:
    """The picture itself where it came with the answer; one that is elsewhere is a link, and loads nothing."""
    url = image.url
    if _EMBEDDED_PICTURE.fullmatch(url):
        return f'<img src="{url}" alt="picture" style="max-width: 100%">'
    if LINK.match(url):
        return f'<a href="{escape_html(url)}">{prose_html(encodable(url))}</a>'
    return verbatim_html(url[:200])


@to_html.register(AnswerAudio)
def _audio(audio: AnswerAudio) -> str:
    """A player where the format of the sound is known, and the transcript."""
    try:
        name = audio.format
    except ValueError:
        name = ""
    transcript = verbatim_html(audio.transcript) if audio.transcript else ""
    if not name:
        return transcript
    sound = base64.b64encode(audio.content).decode("ascii")
    return f'<audio controls src="data:audio/{name};base64,{sound}"></audio>{transcript}'


@to_html.register(Conversation)
def _conversation(conversation: Conversation) -> str:
    """The messages in their order, and the tokens used."""
    system = conversation.request.system
    parts = [_labelled("system", verbatim_html(system))] if system else []
    parts += [_labelled(message.role, _message(message)) for message in conversation.messages]
    if conversation.usage is not None:
        parts.append(_usage(conversation.usage))
    return "".join(parts) or _labelled("conversation", "nothing was said yet")


def _message(message: Message) -> str:
    if message.role == "assistant" and isinstance(message.content, str):
        return answer_html(message.content, calls=message.tool_calls)
    return verbatim_html(message_text(message)) + answer_html("", calls=message.tool_calls)


def _labelled(role: str, content: str) -> str:
    return f"<div><small><b>{prose_html(encodable(role))}</b></small>{content}</div>"


@to_html.register(EmbeddingResponse)
def _embeddings(answer: EmbeddingResponse) -> str:
    """How many vectors there are, and how the first ones begin."""
    return _table(["", "vector"], vector_rows(answer)) + answer_html("", note=vector_note(answer))


@to_html.register(Usage)
def _usage(usage: Usage) -> str:
    return _table(["", "tokens"], usage_rows(usage))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{prose_html(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{prose_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
