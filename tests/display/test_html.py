"""Values as HTML: nothing in them is more than text."""

from __future__ import annotations

from typing import Any

import pytest
from support.replay import ReplayServer
from support.wire_bodies import chat_reply, tool_call

from display.pages import EVIL, check_harmless, shown
from openai_compat import ChatResponse, Client, Conversation, EmbeddingResponse, Usage
from openai_compat.display.html import to_html
from openai_compat.wire.answer_media import AnswerAudio
from openai_compat.wire.media import Image
from openai_compat.wire.response import Choice, ParsedResponse


@pytest.mark.parametrize("text", EVIL)
def test_nothing_in_an_answer_is_more_than_text(text: str) -> None:
    call = ChatResponse(model=text, choices=(Choice(text=text, reasoning=text, finish_reason=text),))
    check_harmless(to_html(call))
    said = [{"role": text or "user", "content": text}, {"role": "assistant", "content": text}]
    check_harmless(to_html(Conversation(lambda request, **options: call, system=text, messages=said)))
    check_harmless(to_html(EmbeddingResponse(model=text, vectors=[[1.0]])))
    check_harmless(to_html(Image(f"https://x.test/{text}")))


def test_an_answer_shows_its_choices_its_calls_and_its_cost() -> None:
    with ReplayServer([chat_reply("**hi**", tool_calls=[tool_call("add", '{"a": "<b>"}')])]) as server:
        with Client(server.url, model="m") as client:
            page = to_html(client.chat("hi"))
    assert "<strong>hi</strong>" in page
    assert '→ add({"a": "<b>"})' in shown(page)
    assert "m-served · 3 + 2 tokens" in shown(page)
    two = ChatResponse(choices=(Choice(text="one"), Choice(index=1, refusal="no")), truncated=True)
    assert shown(to_html(two)) == "one no not finished"


def test_a_typed_answer_shows_its_value() -> None:
    answer = ParsedResponse(choices=(Choice(text='{"a": 1}', finish_reason="stop"),), parsed={"a": "<b>"})
    assert shown(to_html(answer)) == "{'a': '<b>'} stop"


def test_usage_is_a_table_of_what_is_known() -> None:
    assert shown(to_html(Usage(input_tokens=1234, total_tokens=2000))) == "tokens input 1,234 total 2,000"
    assert "of it cached 7" in shown(to_html(Usage(cached_tokens=7)))


def test_embeddings_show_how_they_begin() -> None:
    answer = EmbeddingResponse(vectors=[[0.5] * 8] * 12, model="m", usage=Usage(input_tokens=5))
    words = shown(to_html(answer))
    assert words.startswith("vector 0 0.5000, 0.5000, 0.5000, 0.5000, 0.5000, … 1 ")
    assert words.endswith("… 2 more 12 × 8 float32 · m · 5 tokens")
    assert shown(to_html(EmbeddingResponse(vectors=()))) == "vector 0 × 0 float32 · 0 tokens"


def test_a_conversation_shows_who_said_what() -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "<b>?"}, {"type": "image_url", "image_url": {"url": "u"}}],
        },
        {"role": "assistant", "content": "*yes*", "tool_calls": [tool_call("add", "{}")]},
        {"role": "tool", "content": "<3>", "tool_call_id": "call_1"},
    ]
    conversation = Conversation(lambda request, **options: ChatResponse(), system="brief", messages=messages)
    page = to_html(conversation)
    assert "<em>yes</em>" in page
    assert shown(page) == "system brief user <b>? [image_url] assistant yes → add({}) tool <3>"
    empty = Conversation(lambda request, **options: ChatResponse())
    assert "nothing was said yet" in to_html(empty)


def test_a_value_without_html_of_its_own_is_shown_verbatim() -> None:
    assert shown(to_html(["<b>"])) == "['<b>']"


PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("value", "begins"),
    [
        (Image(PNG), f'<img src="{PNG}"'),
        (Image("https://a/?x=<b>"), '<a href="https://a/?x=&lt;b&gt;">'),
        (Image("javascript:alert(1)"), "<pre"),
        (Image('data:image/png;base64,"onload="x'), "<pre"),
        (Image("data:image/svg+xml;base64,AAAA"), "<pre"),
        (AnswerAudio(data="SUQzBA==", transcript="<b>"), '<audio controls src="data:audio/mp3;base64,SUQzBA==">'),
        (AnswerAudio(data="????", transcript="<b>"), "<pre"),
    ],
)
def test_pictures_and_sounds_load_nothing_from_elsewhere(value: Any, begins: str) -> None:
    page = to_html(value)
    assert page.startswith(begins)
    assert "<b>" not in page
