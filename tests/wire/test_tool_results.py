"""What a result tells the model, and what the next round asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from openai_compat import ChatRequest, Image, Message, ToolCall, ToolSpec
from openai_compat.wire.tool_results import ToolResult, content_and_images, next_request, result_messages


@attrs.define
class Place:
    city: str
    country: str = "NO"


PICTURE = Image("data:image/png;base64,AAAA")
OTHER = Image("https://example.org/a.png")


@pytest.mark.parametrize(
    ("value", "content", "images"),
    [
        ("t", "t", ()),
        ("", "", ()),
        ([1, None], "[1,null]", ()),
        (None, "null", ()),
        (Place("Oslo"), '{"city":"Oslo","country":"NO"}', ()),
        (
            {
                "a": {
                    1,
                }
            },
            '{"a":[1]}',
            (),
        ),
        (Path("a/b"), '"a/b"', ()),
        (float("nan"), "null", ()),
        (PICTURE, "1 image(s), shown in the next message", (PICTURE,)),
        ([PICTURE, OTHER], "2 image(s), shown in the next message", (PICTURE, OTHER)),
        (["a map", PICTURE, {"scale": 2}], 'a map\n{"scale":2}', (PICTURE,)),
        ((), "[]", ()),
    ],
)
def test_a_value_becomes_text_and_images(value: Any, content: str, images: tuple[Image, ...]) -> None:
    assert content_and_images(value) == (content, images)


def test_a_value_without_a_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        content_and_images(object())


def test_results_answer_their_calls_in_order_and_images_follow() -> None:
    calls = [ToolCall(id=f"c{number}", name="look") for number in range(3)]
    results = [
        ToolResult.of(calls[0], "zero"),
        ToolResult.of(calls[1], [PICTURE, OTHER]),
        ToolResult.failure(calls[2], "no"),
    ]
    messages = [message.to_wire() for message in result_messages(results)]
    assert [(message["role"], message.get("tool_call_id")) for message in messages] == [
        ("tool", "c0"),
        ("tool", "c1"),
        ("tool", "c2"),
        ("user", None),
    ]
    assert json.loads(messages[2]["content"]) == {"error": "no"}
    assert messages[3]["content"] == [
        {"type": "text", "text": "Shown by look (c1):"},
        {"type": "image_url", "image_url": {"url": PICTURE.url}},
        {"type": "image_url", "image_url": {"url": OTHER.url}},
    ]


def test_without_images_nothing_follows() -> None:
    assert [message.role for message in result_messages([ToolResult.of(ToolCall(id="c", name="n"), 1)])] == ["tool"]


FORCED = {"type": "function", "function": {"name": "look"}}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": []}


@pytest.mark.parametrize(
    ("choice", "first", "sent"),
    [
        ("required", True, "required"),
        ("required", False, None),
        (FORCED, True, FORCED),
        (FORCED, False, None),
        (ALLOWED, False, ALLOWED),
        ("auto", False, "auto"),
        ("none", False, "none"),
        (None, False, None),
    ],
)
def test_a_forced_call_is_forced_once(choice: Any, first: bool, sent: Any) -> None:
    request = ChatRequest("go", tools=[ToolSpec("look")], tool_choice=choice)
    assert next_request(request, [], first=first, last=False, withhold_tools=False).tool_choice == sent


@pytest.mark.parametrize(("last", "withhold", "offered"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_the_last_round_offers_no_tools_where_they_are_withheld(last: bool, withhold: bool, offered: int) -> None:
    request = ChatRequest("go", tools=[ToolSpec("look")], tool_choice="auto", parallel_tool_calls=True)
    asked = next_request(request, [], first=False, last=last, withhold_tools=withhold)
    assert len(asked.tools) == offered
    assert (asked.tool_choice is None, asked.parallel_tool_calls is None) == (not offered, not offered)


def test_the_question_is_not_asked_twice() -> None:
    request = ChatRequest("go", system="be brief", images=[OTHER], temperature=0.5)
    history = [Message(role="user", content="go")]
    asked = next_request(request, history, first=True, last=False, withhold_tools=False)
    assert (asked.prompt, asked.system, asked.images, asked.messages) == (None, None, (), tuple(history))
    assert asked.temperature == 0.5
