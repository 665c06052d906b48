"""Values as Markdown: nothing in them is more than text."""

from __future__ import annotations

import pytest

from display.pages import EVIL, RENDERERS, check_harmless
from openai_compat import ChatResponse, Conversation, EmbeddingResponse, Image, Usage
from openai_compat.display.markdown import to_markdown
from openai_compat.wire.answer_media import AnswerAudio
from openai_compat.wire.response import Choice, ParsedResponse


@pytest.mark.parametrize("text", EVIL)
def test_markdown_for_exports_is_no_more_than_text(text: str) -> None:
    answer = ChatResponse(model=text, choices=(Choice(text=text, finish_reason=text),))
    for renderer in RENDERERS:
        check_harmless(renderer.render(to_markdown(answer)), mathjax=False)


def test_values_as_markdown() -> None:
    usage = Usage(input_tokens=3, total_tokens=2000)
    assert to_markdown(usage) == "|  | tokens |\n| --- | --- |\n| input | 3 |\n| total | 2\\,000 |"
    answer = ChatResponse(model="m_1", choices=(Choice(text="**a**", reasoning="hm"), Choice(refusal="no")))
    assert to_markdown(answer) == "**a**\n\n---\n\nno\n\nm\\_1 · unknown"
    parsed = ParsedResponse(choices=(Choice(text="1"),), parsed=7)
    assert to_markdown(parsed) == "```text\n7\n```\n\nunknown"
    vectors = EmbeddingResponse(vectors=[[1.0]])
    assert to_markdown(vectors).startswith("|  | vector |\n| --- | --- |\n| 0 | 1\\.0000 |\n\n1 × 1 float32")
    messages = [{"role": "user", "content": "*hi*"}, {"role": "assistant", "content": "*yes*"}]
    conversation = Conversation(lambda request, **options: ChatResponse(), system="brief", messages=messages)
    assert to_markdown(conversation) == (
        "**system**\n\n```text\nbrief\n```\n\n**user**\n\n```text\n*hi*\n```\n\n**assistant**\n\n*yes*"
    )


def test_pictures_and_sounds_have_no_markdown() -> None:
    assert to_markdown(Image("https://x.test/c.png")) is None
    assert to_markdown(AnswerAudio(transcript="hi")) is None


def test_a_conversation_ends_with_what_it_cost() -> None:
    answer = ChatResponse(choices=(Choice(text="yes", finish_reason="stop"),), usage=Usage(input_tokens=3))
    conversation = Conversation(lambda request, **options: answer)
    conversation.say("hi")
    assert (to_markdown(conversation) or "").endswith("**assistant**\n\nyes\n\n" + (to_markdown(answer.usage) or "!"))
