"""Requests as values, and the one builder of bodies."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from PIL import Image as Pillow

from openai_compat.errors import ConfigurationError
from openai_compat.wire.media import Audio, Image
from openai_compat.wire.messages import Message
from openai_compat.wire.request import (
    ChatRequest,
    ToolSpec,
    build_body,
    build_messages,
    build_streaming_body,
    tools_json,
)

PNG = b"\x89PNG\r\n\x1a\n"
MP3 = b"ID3rest"
CLIP = Audio("SUQzcmVzdA==", "mp3")
USER = {"role": "user", "content": "hi"}
WEATHER = ToolSpec("weather", "Weather right now.", {"type": "object", "properties": {"city": {"type": "string"}}})


def body(prompt: str | None = "hi", **fields: Any) -> dict[str, Any]:
    return build_body(ChatRequest(prompt, **{"model": "m", **fields}))


def test_the_plainest_body() -> None:
    assert body() == {"model": "m", "messages": [USER], "stream": False}


def test_without_images_the_message_is_a_plain_string() -> None:
    assert build_messages(ChatRequest("hi")) == [USER]
    assert build_messages(ChatRequest("hi", images=())) == [USER]
    assert build_messages(ChatRequest("hi", images=None)) == [USER]


def test_with_images_it_is_a_list_of_the_text_and_the_images_in_order() -> None:
    (message,) = build_messages(ChatRequest("hi", images=["https://h/b", PNG, Image("https://h/a")]))
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "image_url", "image_url"]
    assert message["content"][0] == {"type": "text", "text": "hi"}
    urls = [part["image_url"]["url"] for part in message["content"][1:]]
    assert urls == ["https://h/b", "data:image/png;base64,iVBORw0KGgo=", "https://h/a"]


def test_audio_comes_after_the_text_and_the_images_in_order() -> None:
    clips = ["https://h/b.wav", MP3, Audio("AAAA", "wav")]
    (message,) = build_messages(ChatRequest("hi", audio=clips, images="https://h/a"))
    assert message["content"] == [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": "https://h/a"}},
        {"type": "audio_url", "audio_url": {"url": "https://h/b.wav"}},
        {"type": "input_audio", "input_audio": {"data": "SUQzcmVzdA==", "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    (message,) = build_messages(ChatRequest("hi", audio=MP3))
    assert [part["type"] for part in message["content"]] == ["text", "input_audio"]


@pytest.mark.parametrize("media", ["images", "audio"])
def test_a_prompt_of_images_or_audio_may_be_empty(media: str) -> None:
    (message,) = build_messages(ChatRequest("", **{media: "https://h/a"}))
    text, part = message["content"]
    assert text == {"type": "text", "text": ""}
    assert part["type"] == ("image_url" if media == "images" else "audio_url")


@pytest.mark.parametrize(
    "image",
    [
        "https://h/a",
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        io.BytesIO(PNG),
        Image("https://h/a"),
        Pillow.new("L", (1, 1)),
    ],
    ids=type,
)
def test_one_image_may_be_given_alone(image: Any) -> None:
    assert len(ChatRequest("hi", images=image).images) == 1


@pytest.mark.parametrize("clip", ["https://h/a", MP3, bytearray(MP3), memoryview(MP3), io.BytesIO(MP3), CLIP], ids=type)
def test_one_clip_may_be_given_alone(clip: Any) -> None:
    assert len(ChatRequest("hi", audio=clip).audio) == 1


@pytest.mark.parametrize("several", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_several_may_come_in_any_iterable(several: Any) -> None:
    urls = ["https://h/b", "https://h/a"]
    assert ChatRequest("hi", images=several(urls)).images == (Image("https://h/b"), Image("https://h/a"))
    assert ChatRequest("hi", audio=several(urls)).audio == (Audio(url="https://h/b"), Audio(url="https://h/a"))


def test_a_directory_listing_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG)
    assert ChatRequest("hi", images=tmp_path.glob("*.png")).images == (Image.of(PNG), Image.of(PNG))


def test_system_is_the_first_message_where_not_empty() -> None:
    assert build_messages(ChatRequest("hi", system="Be brief.")) == [{"role": "system", "content": "Be brief."}, USER]
    assert build_messages(ChatRequest("hi", system="")) == [USER]


def test_a_history_stands_between_system_and_prompt() -> None:
    history = [{"role": "user", "content": "a"}, Message(role="assistant", content="b")]
    messages = build_messages(ChatRequest("hi", system="s", messages=history))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in messages] == ["s", "a", "b", "hi"]
    assert build_messages(ChatRequest(messages=history)) == messages[1:3]
    assert build_messages(ChatRequest("", messages=history)) == messages[1:3]


def test_a_history_of_dicts_is_sent_as_it_is_and_copied() -> None:
    message = {"role": "developer", "content": "x", "anything": [1]}
    (sent,) = build_messages(ChatRequest(messages=[message]))
    assert sent == message
    assert sent is not message


CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"role": "assistant", "tool_calls": CALLS}, {"role": "assistant", "content": None, "tool_calls": CALLS}),
        (
            {"role": "assistant", "content": "", "tool_calls": CALLS},
            {"role": "assistant", "content": "", "tool_calls": CALLS},
        ),
        ({"role": "assistant", "tool_calls": []}, {"role": "assistant", "tool_calls": []}),
        ({"role": "assistant"}, {"role": "assistant"}),
    ],
)
def test_calls_without_a_content_have_null_beside_them(message: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = dict(message)
    assert build_messages(ChatRequest(messages=[message])) == [wanted]
    assert message == before


def test_a_message_echoes_only_to_its_own_server() -> None:
    request = ChatRequest(
        messages=[Message(role="assistant", content="b", extra={"thinking": "x"}, origin="a")], model="m"
    )
    assert "thinking" in build_messages(request, origin="a")[0]
    assert "thinking" not in build_messages(request, origin="b")[0]
    assert "thinking" not in build_streaming_body(request, origin="b")["messages"][0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "nothing to ask"),
    "empty": ({"prompt": ""}, "nothing to ask"),
    "system-alone": ({"system": "s"}, "nothing to ask"),
    "images-alone": ({"images": ["https://h/a"]}, "images need a prompt"),
    "images-and-history": ({"images": ["https://h/a"], "messages": [USER]}, "images need a prompt"),
    "audio-alone": ({"audio": CLIP}, "audio clips need a prompt"),
    "audio-and-history": ({"audio": CLIP, "messages": [USER]}, "audio clips need a prompt"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_asks_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_messages(ChatRequest(**fields))


NEVER_MADE: dict[str, tuple[dict[str, Any], str]] = {
    "text-as-messages": ({"messages": "hi"}, "messages is a list"),
    "number-as-messages": ({"messages": 7}, "messages is a list"),
    "dict-as-messages": ({"messages": USER}, "messages is a list"),
    "message-as-messages": ({"messages": Message(role="user")}, "messages is a list"),
    "one-tool": ({"tools": {"type": "function"}}, "tools is a list of tools, not dict"),
    "function-as-tool": ({"tools": [print]}, "a tool is a ToolSpec, a dict or a @tool function, not builtin"),
    "no-role": ({"messages": [{"content": "hi"}]}, "a message needs a 'role'"),
    "role-number": ({"messages": [{"role": 7}]}, "a message needs a 'role'"),
    "text-message": ({"messages": ["hi"]}, "a message is a dict or a Message, not str"),
    "bad-image": ({"images": ["a.png"]}, "must be an http, https or data URL"),
    "part-as-image": ({"images": Image("https://h/a").to_wire()}, "an image is a URL.*, not dict"),
    "number-as-image": ({"images": 7}, "an image is a URL.*, not int"),
    "path-as-audio": ({"audio": "a.wav"}, "must be an http, https or data URL"),
    "image-as-audio": ({"audio": [Image("https://h/a")]}, "an audio clip is a URL.*, not Image"),
    "options-as-audio": ({"audio": {"voice": "alloy"}}, "an audio clip is a URL.*, not dict"),
    "class-as-format": ({"response_format": Message}, "response_format is JSON.*Message goes into response_type"),
    "class-as-schema": ({"response_schema": Message}, "response_schema is JSON.*Message goes into response_type"),
}


@pytest.mark.parametrize(("fields", "message"), NEVER_MADE.values(), ids=NEVER_MADE)
def test_a_request_is_valid_or_was_never_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChatRequest("hi", **fields)


@pytest.mark.parametrize("model", [None, ""])
def test_a_body_needs_a_model(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        body(model=model)


def test_tools_are_functions() -> None:
    own = {"type": "web_search"}
    assert (
        body(tools=[WEATHER, own])["tools"]
        == tools_json([WEATHER, own])
        == [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Weather right now.", "parameters": WEATHER.parameters},
            },
            own,
        ]
    )


@pytest.mark.parametrize("tools", [None, (), [], iter(())])
def test_without_tools_there_is_no_key(tools: Any) -> None:
    assert "tools" not in body(tools=tools)


@pytest.mark.parametrize("strict", [True, False])
def test_strict_where_asked_for(strict: bool) -> None:
    assert ToolSpec("f", strict=strict).to_wire()["function"]["strict"] is strict
    assert "strict" not in ToolSpec("f").to_wire()["function"]
    assert ToolSpec("f").to_wire()["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_tool_without_a_description_sends_none() -> None:
    assert ToolSpec("f").to_wire()["function"].keys() == {"name", "parameters"}
    assert ToolSpec("f", type="custom").to_wire() == {"type": "custom", "custom": {"name": "f"}}


def test_a_custom_tool_takes_text_or_what_a_grammar_allows() -> None:
    free = ToolSpec("run_sql", "Runs SQL.", type="custom")
    assert body(tools=[free])["tools"] == [
        {"type": "custom", "custom": {"name": "run_sql", "description": "Runs SQL."}}
    ]
    lark = ToolSpec("f", type="custom", grammar="start: /x+/")
    regex = ToolSpec("f", type="custom", grammar="x+", syntax="regex")
    for spec, grammar in (
        (lark, {"syntax": "lark", "definition": "start: /x+/"}),
        (regex, {"syntax": "regex", "definition": "x+"}),
    ):
        assert spec.to_wire()["custom"] == {"name": "f", "format": {"type": "grammar", "grammar": grammar}}


@pytest.mark.parametrize("fields", [{"type": "free"}, {"type": "custom", "grammar": "x", "syntax": "ebnf"}])
def test_a_tool_is_of_a_known_type(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a tool's (type|syntax) is"):
        ToolSpec("f", **fields)


SENT: dict[str, Any] = {
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 0,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 0,
    "min_p": 0.1,
    "reasoning_effort": "low",
    "seed": 0,
    "presence_penalty": 0.0,
    "frequency_penalty": -1.0,
    "logit_bias": {"7": -100},
    "logprobs": False,
    "top_logprobs": 0,
    "n": 1,
    "user": "",
    "metadata": {},
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize(("name", "value"), SENT.items(), ids=SENT)
def test_a_field_is_sent_when_set_and_never_when_not(name: str, value: Any) -> None:
    assert body(**{name: value}) == {**body(), name: value}
    assert body(**{name: None}) == body()


def test_every_field_has_a_test_or_a_place_of_its_own() -> None:
    placed = {
        "prompt",
        "system",
        "images",
        "audio",
        "messages",
        "model",
        "tools",
        "stop",
        "reasoning",
        "response_schema",
        "strict",
        *("response_mode", "choice", "regex", "grammar"),
    }
    assert {field.name for field in attrs.fields(ChatRequest)} == {
        *SENT,
        *placed,
        "extra_body",
        "extra_headers",
        "extra_query",
    }


@pytest.mark.parametrize(
    ("stop", "sent"), [("x", ["x"]), (["x", "y"], ["x", "y"]), ([], None), ((), None), (None, None), ("", [""])]
)
def test_stop_is_sent_when_not_empty(stop: Any, sent: Any) -> None:
    assert body(stop=stop).get("stop") == sent


@pytest.mark.parametrize("reasoning", [True, False])
def test_reasoning_becomes_the_chat_templates_switch(reasoning: bool) -> None:
    assert body(reasoning=reasoning)["chat_template_kwargs"] == {"enable_thinking": reasoning}
    assert "chat_template_kwargs" not in body(reasoning=None)


@pytest.mark.parametrize("strict", [True, False])
def test_a_response_schema_is_sent_as_output(strict: bool) -> None:
    schema = {"type": "object"}
    assert body(response_schema=schema, strict=strict)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": strict},
    }
    assert body(response_schema=schema)["response_format"]["json_schema"]["strict"] is False
    assert "response_format" not in body(strict=strict)


def test_a_response_format_of_the_callers_own_wins() -> None:
    assert body(response_schema={"type": "object"}, response_format={"type": "text"})["response_format"] == {
        "type": "text"
    }


def test_extra_body_comes_last() -> None:
    assert body(temperature=0.5, extra_body={"temperature": 1.0, "mirostat": 2}) == {
        **body(),
        "temperature": 1.0,
        "mirostat": 2,
    }


def test_extra_headers_and_query_are_not_in_the_body() -> None:
    assert body(extra_headers={"x-a": "b"}, extra_query={"c": "d"}) == body()


def test_extra_headers_are_not_in_the_repr() -> None:
    assert "secret-of-mine" not in repr(ChatRequest("hi", extra_headers={"x-api-key": "secret-of-mine"}))


def test_the_streaming_body_is_the_plain_body_with_two_keys() -> None:
    request = ChatRequest("hi", model="m", tools=[WEATHER], temperature=0.5, extra_body={"x": 1})
    assert build_streaming_body(request) == {
        **build_body(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_stream_options_of_the_callers_own_win() -> None:
    request = ChatRequest("hi", model="m", extra_body={"stream_options": {"include_usage": False}, "stream": False})
    assert build_streaming_body(request)["stream_options"] == {"include_usage": False}
    assert build_streaming_body(request)["stream"] is True


def test_building_changes_nothing() -> None:
    request = ChatRequest("hi", model="m", messages=[USER], extra_body={"x": [1]}, tools=[{"type": "f"}], stop="x")
    before = attrs.asdict(request)
    build_streaming_body(request)["messages"].clear()
    build_body(request)["stop"].append("y")
    assert attrs.asdict(request) == before


FULL = ChatRequest(
    "hi",
    system="s",
    images=["https://h/a"],
    audio=[CLIP],
    messages=[USER, Message(role="assistant", content="b")],
    model="m",
    tools=[WEATHER, {"type": "web_search"}],
    stop=["x"],
    reasoning=True,
    logit_bias={"7": 1.0},
    extra_body={"x": 1},
    extra_headers={"a": "b"},
    **{name: value for name, value in SENT.items() if name != "logit_bias"},
)


CUSTOM = ToolSpec("f", type="custom", grammar="x+", syntax="regex")


@pytest.mark.parametrize("value", [FULL, ChatRequest("hi"), WEATHER, CUSTOM], ids=["full", "plain", "tool", "custom"])
def test_values_survive_pickle(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("value", [WEATHER, CUSTOM], ids=["tool", "custom"])
def test_values_survive_json(value: Any) -> None:
    back = msgspec.json.decode(msgspec.json.encode(value), type=type(value))
    if isinstance(value, ChatRequest):
        assert build_body(back) == build_body(value)
    else:
        assert back == value


def test_values_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        FULL.model = "x"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        WEATHER.name = "x"  # type: ignore[misc]


def test_only_the_prompt_may_be_given_by_place() -> None:
    with pytest.raises(TypeError):
        ChatRequest("hi", "system")  # type: ignore[misc]
