"""Values that show themselves: with the methods that notebooks call, and at no cost before they are shown."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from openai_compat import ChatResponse, Conversation, EmbeddingResponse, Image, Usage
from openai_compat.display.html import to_html
from openai_compat.display.markdown import to_markdown
from openai_compat.wire.answer_media import AnswerAudio
from openai_compat.wire.response import Choice, ParsedResponse

ANSWER = ChatResponse(choices=(Choice(text="**a**"),), model="m", usage=Usage(input_tokens=3))
VALUES = [
    ANSWER,
    ParsedResponse(choices=(Choice(text="1"),), parsed=1),
    Usage(input_tokens=3, raw={"prompt_tokens": 3}),
    EmbeddingResponse(vectors=((0.5, 1.0),), model="m"),
    Image("https://x.test/c.png"),
    AnswerAudio(data="UklGRg==", transcript="hi"),
]


def ask(*arguments: Any, **options: Any) -> ChatResponse:
    return ANSWER


@pytest.mark.parametrize("value", [*VALUES, Conversation(ask, system="s")], ids=lambda value: type(value).__name__)
def test_notebooks_find_what_display_makes(value: Any) -> None:
    assert value._repr_html_() == to_html(value)
    assert value._repr_markdown_() == to_markdown(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_keep_their_slots_and_can_be_copied(value: Any) -> None:
    assert not hasattr(value, "__dict__")
    assert pickle.loads(pickle.dumps(value)) == copy.copy(value) == value


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from openai_compat import *", "openai_compat.display"),
        ("import openai_compat.integrations.jupyter.sink", "openai_compat.conversation"),
        ("import openai_compat.integrations.jupyter.sink", "openai_compat.wire.embeddings"),
    ],
)
def test_what_shows_values_is_loaded_when_one_is_shown(code: str, absent: str) -> None:
    check = f"import sys; {code}; assert {absent!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
