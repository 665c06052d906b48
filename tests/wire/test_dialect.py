"""What providers want or refuse, and what a refusal teaches."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import json_values, quick

from openai_compat.errors import APIStatusError
from openai_compat.wire import dialect as dialect_module
from openai_compat.wire.accumulate import Accumulator
from openai_compat.wire.dialect import (
    AZURE,
    BEDROCK,
    CEREBRAS,
    CLOUD,
    COHERE,
    DASHSCOPE,
    DEEPSEEK,
    EFFORT,
    GENERIC,
    MINIMAX,
    MISTRAL,
    MOONSHOT,
    OPEN_MODELS,
    OPENAI,
    OPENROUTER,
    TOGETHER,
    ZAI,
    Dialect,
    batch_limit,
)
from openai_compat.wire.messages import Message, ToolCall
from openai_compat.wire.output import Output
from openai_compat.wire.request import ChatRequest, build_body
from openai_compat.wire.response import CallInfo
from openai_compat.wire.response_format import tool_call_as_text

BODY: dict[str, Any] = {
    "model": "m",
    "stream_options": {"include_usage": True},
    "max_tokens": 9,
    "top_k": 5,
    "min_p": 0.1,
    "chat_template_kwargs": {"enable_thinking": True},
}
LEFT = ("min_p", "top_k")
WITHOUT = {"model": "m", "stream_options": {"include_usage": True}, "reasoning_effort": "medium"}
ADAPTED: dict[str, tuple[Dialect, dict[str, Any], tuple[str, ...]]] = {
    "generic": (GENERIC, BODY, ()),
    "openai": (OPENAI, {**WITHOUT, "max_completion_tokens": 9}, LEFT),
    "azure": (AZURE, {**WITHOUT, "max_completion_tokens": 9}, LEFT),
    "cloud": (CLOUD, {**WITHOUT, "max_tokens": 9}, LEFT),
    "open-models": (OPEN_MODELS, {**WITHOUT, "max_tokens": 9, "top_k": 5, "min_p": 0.1}, ()),
    "no-stream-options": (
        Dialect(stream_options=False),
        {key: BODY[key] for key in BODY if key != "stream_options"},
        (),
    ),
}


@pytest.mark.parametrize(("dialect", "wanted", "left_out"), ADAPTED.values(), ids=ADAPTED)
def test_a_body_as_each_server_takes_it(dialect: Dialect, wanted: Any, left_out: tuple[str, ...]) -> None:
    before = copy.deepcopy(BODY)
    assert dialect.adapt(BODY) == (wanted, left_out)
    assert before == BODY


TOKENS: dict[str, tuple[Dialect, dict[str, Any], dict[str, Any]]] = {
    "back": (GENERIC, {"max_completion_tokens": 9}, {"max_tokens": 9}),
    "both": (OPENAI, {"max_tokens": 8, "max_completion_tokens": 9}, {"max_tokens": 8, "max_completion_tokens": 9}),
    "none": (OPENAI, {}, {}),
}


@pytest.mark.parametrize(("dialect", "body", "wanted"), TOKENS.values(), ids=TOKENS)
def test_the_limit_goes_under_the_name_that_is_wanted(dialect: Dialect, body: Any, wanted: Any) -> None:
    assert dialect.adapt(body) == (wanted, ())


THINKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "on": ({"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "medium"}),
    "off": ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}),
    "effort-wins": (
        {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"},
        {"reasoning_effort": "high"},
    ),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize(("body", "wanted"), THINKING.values(), ids=THINKING)
def test_thinking_is_translated(body: Any, wanted: Any) -> None:
    assert OPEN_MODELS.adapt(body) == (wanted, ())


NEVER_OFF = "reasoning=False (this model always thinks; the least of it is asked for)"
# Model, what is wished, what is sent beside model, messages and stream, and what the log is told.
SWITCHES: dict[str, tuple[Dialect, str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "vllm-qwen-off": (
        GENERIC,
        "Qwen/Qwen3-8B",
        {"reasoning": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        (),
    ),
    "vllm-deepseek": (
        GENERIC,
        "deepseek-ai/DeepSeek-V3.1",
        {"reasoning": True},
        {"chat_template_kwargs": {"thinking": True}},
        (),
    ),
    "sglang-deepseek-v4": (
        GENERIC,
        "deepseek-v4-flash",
        {"reasoning": False},
        {"chat_template_kwargs": {"thinking": False}},
        (),
    ),
    "vllm-granite": (
        GENERIC,
        "ibm-granite/granite-3.3-8b-instruct",
        {"reasoning": True},
        {"chat_template_kwargs": {"thinking": True}},
        (),
    ),
    "vllm-kimi": (
        GENERIC,
        "moonshotai/Kimi-K2.5",
        {"reasoning": False},
        {"chat_template_kwargs": {"thinking": False}},
        (),
    ),
    "vllm-glm": (
        GENERIC,
        "zai-org/GLM-4.6",
        {"reasoning": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        (),
    ),
    "vllm-deepseek-v3": (
        GENERIC,
        "deepseek-ai/DeepSeek-V3",
        {"reasoning": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        (),
    ),
    "vllm-gpt-oss-off": (
        GENERIC,
        "openai/gpt-oss-20b",
        {"reasoning": False},
        {"reasoning_effort": "low"},
        (NEVER_OFF,),
    ),
    "vllm-gpt-oss-on": (GENERIC, "openai/gpt-oss-20b", {"reasoning": True}, {}, ()),
    "vllm-effort": (GENERIC, "openai/gpt-oss-20b", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}, ()),
    "vllm-effort-none": (
        GENERIC,
        "Qwen/Qwen3-8B",
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        (),
    ),
    "vllm-effort-of-a-model-that-does-not-think-by-itself": (
        GENERIC,
        "deepseek-ai/DeepSeek-V3.1",
        {"reasoning_effort": "high"},
        {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "high"},
        (),
    ),
    "vllm-own-kwargs": (
        GENERIC,
        "deepseek-v3.1",
        {"reasoning": True, "extra_body": {"chat_template_kwargs": {"enable_thinking": True, "custom": 1}}},
        {"chat_template_kwargs": {"thinking": True, "custom": 1}},
        (),
    ),
    "ollama-off": (EFFORT, "qwen3", {"reasoning": False}, {"reasoning_effort": "none"}, ()),
    "ollama-on": (EFFORT, "qwen3", {"reasoning": True}, {"reasoning_effort": "medium"}, ()),
    "mistral-on": (MISTRAL, "mistral-small-latest", {"reasoning": True}, {"reasoning_effort": "high"}, ()),
    "mistral-effort": (MISTRAL, "mistral-large-4-0", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, ()),
    "openai-off": (OPENAI, "gpt-5.1", {"reasoning": False}, {"reasoning_effort": "none"}, ()),
    "deepseek-off": (DEEPSEEK, "deepseek-v4-pro", {"reasoning": False}, {"thinking": {"type": "disabled"}}, ()),
    "deepseek-on": (DEEPSEEK, "deepseek-v4-pro", {"reasoning": True}, {"thinking": {"type": "enabled"}}, ()),
    "deepseek-effort": (
        DEEPSEEK,
        "deepseek-v4-pro",
        {"reasoning_effort": "max"},
        {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
        (),
    ),
    "deepseek-none": (
        DEEPSEEK,
        "deepseek-v4-pro",
        {"reasoning_effort": "none"},
        {"thinking": {"type": "disabled"}},
        (),
    ),
    "glm-off": (ZAI, "glm-4.7", {"reasoning": False}, {"thinking": {"type": "disabled"}}, ()),
    "kimi-off": (MOONSHOT, "kimi-k2.5", {"reasoning": False}, {"thinking": {"type": "disabled"}}, ()),
    "kimi-effort": (
        MOONSHOT,
        "kimi-k2.5",
        {"reasoning_effort": "high"},
        {"thinking": {"type": "enabled"}},
        ("reasoning_effort",),
    ),
    "minimax-on": (MINIMAX, "MiniMax-M3", {"reasoning": True}, {"thinking": {"type": "adaptive"}}, ()),
    "minimax-off": (MINIMAX, "MiniMax-M3", {"reasoning": False}, {"thinking": {"type": "disabled"}}, ()),
    "dashscope-off": (DASHSCOPE, "qwen3-max", {"reasoning": False}, {"enable_thinking": False}, ()),
    "dashscope-effort": (
        DASHSCOPE,
        "qwen3-max",
        {"reasoning_effort": "low"},
        {"enable_thinking": True},
        ("reasoning_effort",),
    ),
    "openrouter-off": (OPENROUTER, "x", {"reasoning": False}, {"reasoning": {"effort": "none"}}, ()),
    "openrouter-on": (OPENROUTER, "x", {"reasoning": True}, {"reasoning": {"enabled": True}}, ()),
    "openrouter-effort": (OPENROUTER, "x", {"reasoning_effort": "high"}, {"reasoning": {"effort": "high"}}, ()),
    "together-off": (TOGETHER, "x", {"reasoning": False}, {"reasoning": {"enabled": False}}, ()),
    "together-effort": (
        TOGETHER,
        "x",
        {"reasoning_effort": "high"},
        {"reasoning": {"enabled": True}, "reasoning_effort": "high"},
        (),
    ),
    "cohere-on": (COHERE, "command-a-reasoning", {"reasoning": True}, {"reasoning_effort": "high"}, ()),
    "cohere-low": (COHERE, "command-a-reasoning", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, ()),
    "bedrock-off": (BEDROCK, "openai.gpt-oss-20b", {"reasoning": False}, {"reasoning_effort": "low"}, (NEVER_OFF,)),
    "bedrock-xhigh": (BEDROCK, "openai.gpt-oss-20b", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}, ()),
    "an-effort-of-its-own": (BEDROCK, "x", {"reasoning_effort": "ultra"}, {"reasoning_effort": "ultra"}, ()),
    "own-key-wins": (
        DEEPSEEK,
        "x",
        {"reasoning": False, "extra_body": {"thinking": {"type": "enabled"}}},
        {"thinking": {"type": "enabled"}},
        (),
    ),
    "no-switch": (Dialect(thinking="none"), "x", {"reasoning": False}, {}, ("reasoning=False",)),
    "no-effort": (Dialect(thinking="none"), "x", {"reasoning_effort": "low"}, {}, ("reasoning_effort",)),
    "beside-tools": (
        attrs.evolve(OPENAI, thinks_beside_tools=False),
        "gpt-5.6",
        {"reasoning": True, "tools": [{"type": "function"}]},
        {"tools": [{"type": "function"}], "reasoning_effort": "none"},
        (dialect_module._BESIDE_TOOLS,),
    ),
    "beside-tools-by-default": (
        attrs.evolve(OPENAI, thinks_beside_tools=False),
        "gpt-5.6",
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function"}], "reasoning_effort": "none"},
        (dialect_module._BESIDE_TOOLS,),
    ),
    "beside-tools-as-chosen": (
        attrs.evolve(OPENAI, thinks_beside_tools=False),
        "gpt-5.6",
        {"tools": [{"type": "function"}], "reasoning_effort": "none"},
        {"tools": [{"type": "function"}], "reasoning_effort": "none"},
        (),
    ),
    "beside-tools-as-the-log-says": (
        attrs.evolve(OPENAI, thinks_beside_tools=False),
        "gpt-5.6",
        {"tools": [{"type": "function"}], "reasoning": False},
        {"tools": [{"type": "function"}], "reasoning_effort": "none"},
        (),
    ),
    "without-tools": (
        attrs.evolve(OPENAI, thinks_beside_tools=False),
        "gpt-5.6",
        {"reasoning": True},
        {"reasoning_effort": "medium"},
        (),
    ),
}


def sent(dialect: Dialect, request: ChatRequest) -> Any:
    """What the bytes sent say."""
    adapted, _ = dialect.adapt(build_body(request, origin="here", echo=dialect.echo))
    return msgspec.json.decode(msgspec.json.encode(adapted))


@pytest.mark.parametrize(("dialect", "model", "wish", "wanted", "told"), SWITCHES.values(), ids=SWITCHES)
def test_the_wish_to_think_reaches_the_switch_that_the_server_reads(
    dialect: Dialect, model: str, wish: dict[str, Any], wanted: dict[str, Any], told: tuple[str, ...]
) -> None:
    request = ChatRequest("hi", model=model, **wish)
    plain = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    assert sent(dialect, request) == {**plain, **wanted}
    assert dialect.adapt(build_body(request))[1] == told


PROVIDER_DIALECTS = sorted(
    {name for name, value in vars(dialect_module).items() if isinstance(value, Dialect) and name.isupper()}
)


@pytest.mark.parametrize("name", PROVIDER_DIALECTS)
def test_where_nothing_is_wished_nothing_is_said(name: str) -> None:
    dialect: Dialect = getattr(dialect_module, name)
    body = build_body(ChatRequest("hi", model="m", system="s"))
    assert dialect.adapt(body) == (body, ())


@pytest.mark.parametrize("name", PROVIDER_DIALECTS)
def test_a_body_of_embeddings_is_sent_as_it_is(name: str) -> None:
    body = {"model": "m", "input": ["a"], "encoding_format": "base64"}
    assert getattr(dialect_module, name).adapt(body) == (body, ())


@pytest.mark.parametrize("kwargs", [{"custom": 1}, {"enable_thinking": True, "custom": 1}])
def test_what_cannot_be_translated_is_named_as_left_out(kwargs: Any) -> None:
    adapted, left_out = OPENAI.adapt({"chat_template_kwargs": kwargs})
    assert "chat_template_kwargs" not in adapted
    assert left_out == ("chat_template_kwargs",)


# What goes back

CALL = ToolCall(id="c", name="f", arguments={}, arguments_json="{}")


def turn(**fields: Any) -> list[Message]:
    """What a user says, a call with its result, and the answer; the assistant's messages with these fields."""
    return [
        Message(role="user", content="go"),
        Message(role="assistant", content="so", tool_calls=[CALL], origin="here", **fields),
        Message(role="tool", content="7", tool_call_id="c"),
        Message(role="assistant", content="done", origin="here", **fields),
    ]


CALLING = {"role": "assistant", "content": "so", "tool_calls": [CALL.to_wire()]}
DONE = {"role": "assistant", "content": "done"}
THOUGHT_PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}]
DETAILS = {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}
MARK = {"extra_content": {"google": {"thought_signature": "sig"}}}
# The fields of both assistant messages, and how the one with the call and the last one go back.
ECHOES: dict[str, tuple[Dialect, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "deepseek": (
        DEEPSEEK,
        {"reasoning": "hm"},
        {**CALLING, "reasoning_content": "hm"},
        {**DONE, "reasoning_content": "hm"},
    ),
    "deepseek-none": (DEEPSEEK, {}, {**CALLING, "reasoning_content": ""}, {**DONE, "reasoning_content": ""}),
    "kimi": (MOONSHOT, {"reasoning": "hm"}, {**CALLING, "reasoning_content": "hm"}, DONE),
    "kimi-none": (MOONSHOT, {}, {**CALLING, "reasoning_content": ""}, DONE),
    "kimi-as-it-came": (
        MOONSHOT,
        {"reasoning": "hm", "extra": {"reasoning_content": " hm\n"}},
        {**CALLING, "reasoning_content": " hm\n"},
        {**DONE, "reasoning_content": " hm\n"},
    ),
    "minimax": (MINIMAX, {"reasoning": "hm"}, {**CALLING, "content": "<think>\nhm\n</think>\n\nso"}, DONE),
    "minimax-split": (MINIMAX, {"reasoning": "hm", "extra": DETAILS}, {**CALLING, **DETAILS}, {**DONE, **DETAILS}),
    "minimax-none": (MINIMAX, {}, CALLING, DONE),
    "mistral": (MISTRAL, {"reasoning": "hm"}, {**CALLING, "content": THOUGHT_PARTS}, DONE),
    "mistral-none": (MISTRAL, {}, CALLING, DONE),
    "gemini": (CLOUD, {"reasoning": "hm", "extra": MARK}, {**CALLING, **MARK}, {**DONE, **MARK}),
    "openrouter": (OPENROUTER, {"reasoning": "hm", "extra": DETAILS}, {**CALLING, **DETAILS}, {**DONE, **DETAILS}),
    "others": (GENERIC, {"reasoning": "hm"}, CALLING, DONE),
    "others-as-it-came": (
        GENERIC,
        {"reasoning": "hm", "extra": {"reasoning": "hm"}},
        {**CALLING, "reasoning": "hm"},
        {**DONE, "reasoning": "hm"},
    ),
}


@pytest.mark.parametrize(("dialect", "fields", "calling", "done"), ECHOES.values(), ids=ECHOES)
def test_what_a_server_wants_back_is_sent_back(
    dialect: Dialect, fields: dict[str, Any], calling: dict[str, Any], done: dict[str, Any]
) -> None:
    messages = sent(dialect, ChatRequest("and?", model="m", messages=turn(**fields)))["messages"]
    assert [messages[1], messages[3]] == [calling, done]
    assert messages[4] == {"role": "user", "content": "and?"}


@pytest.mark.parametrize(
    ("dialect", "part"),
    [(MINIMAX, {"type": "text", "text": "<think>\nhm\n</think>\n\n"}), (MISTRAL, THOUGHT_PARTS[0])],
)
@pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": "so"}]])
def test_thoughts_go_back_before_whatever_was_said(dialect: Dialect, part: Any, content: Any) -> None:
    message = Message(role="assistant", content=content, tool_calls=[CALL], reasoning="hm", origin="here")
    (wire,) = sent(dialect, ChatRequest(messages=[message], model="m"))["messages"]
    told = wire["content"]
    assert told == [part, *(content or [])] or (dialect is MINIMAX and not content and told == part["text"])


def test_geminis_mark_on_a_call_goes_back_on_that_call() -> None:
    call = attrs.evolve(CALL, extra=MARK)
    message = Message(role="assistant", tool_calls=[call, CALL], origin="here")
    (wire,) = sent(CLOUD, ChatRequest(messages=[message], model="m"))["messages"]
    assert [MARK.items() <= one.items() for one in wire["tool_calls"]] == [True, False]
    assert "extra_content" not in wire


def test_a_turn_without_tools_keeps_its_thoughts_to_itself() -> None:
    history = [
        *turn(reasoning="hm"),
        Message(role="user", content="and?"),
        Message(role="assistant", content="yes", reasoning="hm", origin="here"),
    ]
    messages = sent(DEEPSEEK, ChatRequest("so?", model="m", messages=history))["messages"]
    assert ["reasoning_content" in message for message in messages] == [False, True, False, True, False, False, False]


def test_pictures_of_a_tool_begin_no_turn() -> None:
    shown = Message(role="user", content=[{"type": "text", "text": "Shown by f (c):"}])
    history = turn(reasoning="hm")
    messages = sent(DEEPSEEK, ChatRequest(messages=[*history[:3], shown, history[3]], model="m"))["messages"]
    assert messages[-1] == {**DONE, "reasoning_content": "hm"}


@pytest.mark.parametrize("dialect", [DEEPSEEK, MOONSHOT, MINIMAX, MISTRAL, GENERIC])
def test_thoughts_of_another_server_are_not_told(dialect: Dialect) -> None:
    history = [
        attrs.evolve(message, origin="there") for message in turn(reasoning="secret", extra={"thinking": "secret"})
    ]
    assert "secret" not in str(sent(dialect, ChatRequest("and?", model="m", messages=history)))


@pytest.mark.parametrize("dialect", [DEEPSEEK, MOONSHOT])
def test_a_call_written_by_hand_is_one_without_reasoning(dialect: Dialect) -> None:
    by_hand = {"role": "assistant", "tool_calls": [CALL.to_wire()]}
    (wire,) = sent(dialect, ChatRequest(messages=[by_hand], model="m"))["messages"]
    assert wire == {**by_hand, "content": None, "reasoning_content": ""}
    assert by_hand == {"role": "assistant", "tool_calls": [CALL.to_wire()]}


PICTURE = {"role": "user", "content": [{"type": "text", "text": "Shown by f (c):"}]}


def test_no_user_message_follows_a_tools_result_where_that_is_refused() -> None:
    history = [*turn()[:3], PICTURE, {"role": "user", "content": "and?"}]
    request = ChatRequest(messages=history, model="m")
    roles = [message["role"] for message in sent(MISTRAL, request)["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "user"]
    assert sent(MISTRAL, request)["messages"][3]["content"]
    assert [m["role"] for m in sent(GENERIC, request)["messages"]] == ["user", "assistant", "tool", "user", "user"]


def test_where_the_key_goes() -> None:
    assert (AZURE.key_header, GENERIC.key_header) == ("api-key", "Authorization")


def refusal(message: str, status: int = 400, **fields: Any) -> APIStatusError:
    return APIStatusError(message, status_code=status, **fields)


SWAP = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
NEW_NAME = Dialect(max_tokens="max_completion_tokens")
LEARNT: dict[str, tuple[Dialect, APIStatusError, Dialect]] = {
    "openai": (GENERIC, refusal(SWAP), NEW_NAME),
    "param": (GENERIC, refusal("Unsupported parameter", param="max_tokens"), NEW_NAME),
    "code": (GENERIC, refusal("No.", param="max_tokens", code="unsupported_parameter"), NEW_NAME),
    "fastapi": (
        GENERIC,
        refusal(
            "body.max_tokens: Extra inputs are not permitted", 422, param="body.max_tokens", type="extra_forbidden"
        ),
        NEW_NAME,
    ),
    "mistral": (
        NEW_NAME,
        refusal("body.max_completion_tokens: Extra inputs are not permitted", 422),
        GENERIC,
    ),
    "does-not-support": (GENERIC, refusal("This model does not support the parameter max_tokens."), NEW_NAME),
    "invalid-parameter": (GENERIC, refusal("Invalid parameter: max_tokens"), NEW_NAME),
    "no-valid-field": (NEW_NAME, refusal("max_completion_tokens is not a valid field"), GENERIC),
    "deprecated": (GENERIC, refusal("max_tokens is deprecated, use max_completion_tokens"), NEW_NAME),
    "use-instead": (NEW_NAME, refusal("Please use `max_tokens` rather than `max_completion_tokens`."), GENERIC),
    "groq": (NEW_NAME, refusal("property 'max_completion_tokens' is unsupported"), GENERIC),
    "go": (NEW_NAME, refusal('json: unknown field "max_completion_tokens"'), GENERIC),
    "argument": (NEW_NAME, refusal("Unrecognized request argument supplied: max_completion_tokens"), GENERIC),
    "additional": (
        NEW_NAME,
        refusal("Additional properties are not allowed ('max_completion_tokens' was unexpected)"),
        GENERIC,
    ),
    "pydantic-as-text": (
        GENERIC,
        refusal(
            "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted', "
            "'input': {'include_usage': True}}]"
        ),
        Dialect(stream_options=False),
    ),
    "google": (
        GENERIC,
        refusal('Invalid JSON payload received. Unknown name "stream_options": Cannot find field.'),
        Dialect(stream_options=False),
    ),
    "stream-options": (GENERIC, refusal("unknown field stream_options", 422), Dialect(stream_options=False)),
    "include-usage": (GENERIC, refusal("include_usage: extra fields not permitted"), Dialect(stream_options=False)),
    "dotted": (GENERIC, refusal("Unknown parameter: 'stream_options.include_usage'."), Dialect(stream_options=False)),
}
SENT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "stream_options": {"include_usage": True},
}


@pytest.mark.parametrize(("dialect", "error", "wanted"), LEARNT.values(), ids=LEARNT)
def test_a_refusal_teaches(dialect: Dialect, error: APIStatusError, wanted: Dialect) -> None:
    assert dialect.learn(error, SENT) == wanted


NOT_LEARNT: dict[str, tuple[APIStatusError, dict[str, Any]]] = {
    "other-status": (refusal(SWAP, 401), SENT),
    "server-error": (refusal(SWAP, 500), SENT),
    "too-large": (refusal("max_tokens is too large: 99999"), SENT),
    "too-large-param": (
        refusal("max_tokens is too large: 99999. This model does not support more than 4096.", param="max_tokens"),
        SENT,
    ),
    "another-parameter": (refusal("Unsupported parameter: 'top_k'"), SENT),
    "another-beside-it": (refusal("Unsupported parameter: 'top_k'. You sent max_tokens, top_k."), SENT),
    "not-sent": (refusal(SWAP), {}),
    "stream-options-not-sent": (refusal("unknown field stream_options"), {}),
    "longer-name": (refusal("unknown field my_max_tokens_x"), SENT),
    "part-of-a-message": (refusal("messages.0.max_tokens: extra inputs are not permitted", param="messages.0"), SENT),
}


@pytest.mark.parametrize(("error", "body"), NOT_LEARNT.values(), ids=NOT_LEARNT)
def test_another_refusal_teaches_nothing(error: APIStatusError, body: dict[str, Any]) -> None:
    assert GENERIC.learn(error, body) is None


TEACHING = (
    SWAP,
    "unknown field stream_options",
    "extra fields not permitted: stream_options",
    "max_tokens is deprecated, use max_completion_tokens",
    "Function tools with reasoning_effort are not supported for gpt-5.6.",
    "reasoning_effort must be one of: 'low', 'high'",
    "Unknown parameter: 'chat_template_kwargs'",
    "This response_format type is unavailable now",
    "json_schema is not supported",
    "encoding_format is not supported",
    "Unexpected role 'user' after role 'tool'",
    "The reasoning_content in the thinking mode must be passed back to the API.",
)
WHOLE: dict[str, Any] = {
    **SENT,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "input": "x",
    "encoding_format": "base64",
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
    "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}},
}
CARRIERS: dict[str, Any] = {
    "question": lambda words: {"messages": [{"role": "user", "content": words}]},
    "part": lambda words: {"messages": [{"role": "user", "content": [{"type": "text", "text": words}]}]},
    "earlier-answer": lambda words: {"messages": [{"role": "assistant", "content": words}]},
    "arguments": lambda words: {
        "messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": f'{{"q": "{words}"}}'}}]}
        ]
    },
    "result": lambda words: {"messages": [{"role": "tool", "content": words}]},
    "key": lambda words: {"metadata": {words: "x"}},
    "user": lambda words: {"user": words},
    "input": lambda words: {"input": [words]},
    "model": lambda words: {"model": words},
}
QUOTED = ("{}", "Invalid value: '{}'", "messages[0].content: {}", "could not read “{}”\n", "bad request: {}; try again")


@pytest.mark.parametrize("words", TEACHING)
def test_words_of_the_servers_own_teach(words: str) -> None:
    learnt = GENERIC.learn(refusal(words), WHOLE)
    assert learnt is not None
    assert learnt != GENERIC


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS)
@pytest.mark.parametrize("words", TEACHING)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_somebodys_words_that_a_server_repeats_teach_nothing(words: str, carrier: Any, status: int) -> None:
    body = {**WHOLE, **carrier(words)}
    for quoted in QUOTED:
        for said in (words, words.upper(), repr(words), words.replace("'", "\\'"), words.replace(" ", "\n")):
            assert GENERIC.learn(refusal(quoted.format(said), status), body) is None


def test_a_limit_may_have_a_name_of_its_own() -> None:
    own = Dialect(max_tokens="max_new_tokens")
    adapted, _ = own.adapt({"max_tokens": 5})
    assert adapted == {"max_new_tokens": 5}
    assert own.learn(refusal("max_tokens is not supported"), adapted) is None


def test_what_param_says_is_believed_whatever_was_asked() -> None:
    body = {**SENT, "messages": [{"role": "user", "content": SWAP}]}
    assert GENERIC.learn(refusal(SWAP, param="max_tokens", code="unsupported_parameter"), body) == NEW_NAME
    assert GENERIC.learn(refusal(SWAP, param="messages.0.content"), body) is None


TOOLS = [{"type": "function", "function": {"name": "f"}}]
GPT_56 = (
    "Function tools with reasoning_effort are not supported for gpt-5.6-terra in /v1/chat/completions. To use function "
    "tools, use /v1/responses or set reasoning_effort to 'none'."
)
ABOUT_REASONING: dict[str, tuple[Dialect, dict[str, Any], APIStatusError, dict[str, Any] | None]] = {
    "openai-tools": (
        OPENAI,
        {"tools": TOOLS, "reasoning": True},
        refusal(GPT_56, param="reasoning_effort"),
        {"tools": TOOLS, "reasoning_effort": "none"},
    ),
    "openai-tools-by-default": (
        OPENAI,
        {"tools": TOOLS},
        refusal(GPT_56, param="reasoning_effort"),
        {"tools": TOOLS, "reasoning_effort": "none"},
    ),
    "tools-behind-a-gateway": (
        GENERIC,
        {"tools": TOOLS, "reasoning": True},
        refusal(f"litellm.BadRequestError: OpenAIException - {GPT_56}"),
        {"tools": TOOLS, "reasoning_effort": "none"},
    ),
    "gpt-5-has-no-none": (
        OPENAI,
        {"reasoning": False},
        refusal(
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are: "
            "'minimal', 'low', 'medium', and 'high'.",
            param="reasoning_effort",
            code="unsupported_value",
        ),
        {"reasoning_effort": "minimal"},
    ),
    "groq-qwen": (
        CLOUD,
        {"reasoning": True},
        refusal("`reasoning_effort` must be one of `none` or `default`", param="reasoning_effort"),
        {"reasoning_effort": "default"},
    ),
    "cerebras-gpt-oss": (
        CEREBRAS,
        {"reasoning": False},
        refusal("body.reasoning_effort: Input should be 'low', 'medium' or 'high'", 422, param="body.reasoning_effort"),
        {"reasoning_effort": "low"},
    ),
    "grok": (
        CLOUD,
        {"reasoning": False},
        refusal("Model grok-4 does not support parameter reasoning_effort."),
        {},
    ),
    "no-template": (
        GENERIC,
        {"reasoning": False},
        refusal("Unrecognized request argument supplied: chat_template_kwargs"),
        {"reasoning_effort": "none"},
    ),
    "glm-5.3": (ZAI, {"reasoning": False}, refusal("thinking.type: not supported", param="thinking.type"), {}),
    "value-of-another": (OPENAI, {"temperature": 0.5}, refusal("'temperature' must be one of 'low', 'high'"), None),
    "the-same-again": (
        OPENAI,
        {"reasoning_effort": "low"},
        refusal("busy: reasoning_effort must be one of 'low', 'high'"),
        None,
    ),
    "another-matter": (
        OPENAI,
        {"tools": TOOLS, "reasoning": True},
        refusal("tools[0] is no tool", param="tools"),
        None,
    ),
}


@pytest.mark.parametrize(("dialect", "wish", "error", "wanted"), ABOUT_REASONING.values(), ids=ABOUT_REASONING)
def test_refusals_of_reasoning_teach(
    dialect: Dialect, wish: dict[str, Any], error: APIStatusError, wanted: dict[str, Any] | None
) -> None:
    request = ChatRequest("hi", model="m", **wish)
    learnt = dialect.learn(error, sent(dialect, request))
    if wanted is None:
        assert learnt is None
        return
    assert learnt is not None
    assert sent(learnt, request) == {"model": "m", "messages": SENT["messages"], "stream": False, **wanted}


def test_the_log_is_told_how_to_choose_between_tools_and_reasoning() -> None:
    request = ChatRequest("hi", model="m", tools=TOOLS)
    learnt = OPENAI.learn(refusal(GPT_56, param="reasoning_effort"), sent(OPENAI, request))
    assert learnt is not None
    (told,) = learnt.adapt(build_body(request))[1]
    assert "reasoning=False" in told


MISSING = (
    "thinking is enabled but reasoning_content is missing in assistant tool call message at index 1",
    "The `reasoning_content` in the thinking mode must be passed back to the API.",
)


@pytest.mark.parametrize("words", MISSING)
def test_that_thoughts_go_back_is_learnt(words: str) -> None:
    request = ChatRequest("and?", model="m", messages=turn(extra={"reasoning_content": "hm"}))
    bare = ChatRequest("and?", model="m", messages=turn())
    for asked, thoughts in ((request, "hm"), (bare, "")):
        body = build_body(asked, origin="here")
        learnt = GENERIC.learn(refusal(words), body)
        assert learnt is not None
        adapted, left_out = learnt.adapt(body)
        assert [m.get("reasoning_content") for m in adapted["messages"]] == [None, thoughts, None, thoughts, None]
        assert left_out == ()
        assert learnt.learn(refusal(words), adapted) is None
    said = ChatRequest(words, model="m", messages=turn())
    assert GENERIC.learn(refusal(words), build_body(said)) is None


def test_the_order_of_roles_is_learnt() -> None:
    error = refusal("Unexpected role 'user' after role 'tool'", code="3230", type="invalid_request_message_order")
    request = ChatRequest(messages=[*turn()[:3], PICTURE], model="m")
    learnt = GENERIC.learn(error, sent(GENERIC, request))
    assert learnt == Dialect(user_after_tool=False)
    assert learnt.learn(error, sent(learnt, request)) is None


def test_an_encoding_that_is_refused_is_not_asked_for() -> None:
    body = {"model": "m", "input": ["a"], "encoding_format": "base64"}
    learnt = GENERIC.learn(refusal("encoding_format: Extra inputs are not permitted", 422), body)
    assert learnt is not None
    assert learnt.adapt(body)[0] == {"model": "m", "input": ["a"]}


refusals = st.builds(
    refusal,
    st.sampled_from(
        (*TEACHING, "body.thinking: not supported", "response_format must be 'text'", "tools are not supported")
    ),
    st.sampled_from([400, 422, 500]),
    param=st.sampled_from([None, "max_tokens", "reasoning_effort", "response_format", "tool_choice", "stream_options"]),
)


@quick
@given(st.sampled_from(PROVIDER_DIALECTS), st.lists(refusals, max_size=40))
def test_what_was_tried_ends_a_quarrel(name: str, errors: list[APIStatusError]) -> None:
    """A caller that tries no dialect twice comes to an end, whatever a server says."""
    dialect: Dialect = getattr(dialect_module, name)
    body = {**WHOLE, "messages": turn()[:3], "max_tokens": 4}
    tried = {dialect}
    for error in errors:
        learnt = dialect.learn(error, dialect.adapt(body)[0])
        if learnt is None or learnt in tried:
            continue
        dialect = learnt
        tried.add(dialect)
    assert len(tried) <= 12


# Schemas

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
LLAMA_CPP_PYTHON = (
    "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text' or "
    "'json_object'\", 'input': 'json_schema'}]"
)
NO_SCHEMA: dict[str, APIStatusError] = {
    "llama-cpp-python": refusal(LLAMA_CPP_PYTHON, 500),
    "llama-cpp-old": refusal('response_format type must be one of "text" or "json_object", but got: json_schema', 500),
    "deepseek": refusal("This response_format type is unavailable now"),
    "openai": refusal(
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        param="response_format",
    ),
    "groq": refusal("This model does not support response format `json_schema`."),
    "pydantic": refusal("body.response_format.type: Input should be 'text' or 'json_object'", 422),
    "not-implemented": refusal("structured outputs are not supported", 501),
    "with-tools": refusal("json mode cannot be combined with tool/function calling"),
}


def ways(dialect: Dialect, request: ChatRequest, *errors: APIStatusError) -> list[Any]:
    """What is sent, after each of these refusals."""
    bodies = [sent(dialect, request)]
    for error in errors:
        learnt = dialect.learn(error, bodies[-1])
        assert learnt is not None
        dialect = learnt
        bodies.append(sent(dialect, request))
    return bodies


@pytest.mark.parametrize("error", NO_SCHEMA.values(), ids=NO_SCHEMA)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["alone", "beside-tools"])
def test_a_schema_that_is_refused_is_asked_for_in_another_way(error: APIStatusError, tools: Any) -> None:
    request = ChatRequest("hi", model="m", response_schema=SCHEMA, tools=tools)
    first, second = ways(GENERIC, request, error)
    assert first["response_format"]["type"] == "json_schema"
    if tools:
        assert (second["response_format"], second["tools"]) == ({"type": "json_object"}, tools)
    else:
        (forced,) = second["tools"]
        assert forced["function"]["parameters"] == SCHEMA
        assert second["tool_choice"] == {"type": "function", "function": {"name": "output"}}
        assert "response_format" not in second


def test_the_ways_to_ask_for_a_schema_in_their_order() -> None:
    request = ChatRequest("hi", model="m", system="Be brief.", response_schema=SCHEMA)
    _, by_call, as_object, in_words = ways(
        GENERIC,
        request,
        refusal(LLAMA_CPP_PYTHON, 500),
        refusal("deepseek-reasoner does not support this tool_choice"),
        refusal("'response_format.type' must be 'json_schema' or 'text'"),
    )
    assert by_call["messages"][0] == {"role": "system", "content": "Be brief."}
    assert as_object["response_format"] == {"type": "json_object"}
    assert in_words.keys() == {"model", "messages", "stream"}
    for body in (as_object, in_words):
        assert not {"tools", "tool_choice"} & body.keys()
        system, user = body["messages"]
        assert (system["role"], user) == ("system", {"role": "user", "content": "hi"})
        assert system["content"].startswith("Be brief.\n\nAnswer with nothing but JSON")
        assert json.loads(system["content"].partition("schema: ")[2]) == SCHEMA
    assert Dialect(schema_as="prompt").learn(refusal("response_format is not supported"), in_words) is None


@pytest.mark.parametrize(
    ("messages", "system"),
    [
        ([{"role": "user", "content": "hi"}], str),
        ([{"role": "system", "content": ""}], str),
        ([{"role": "system", "content": [{"type": "text", "text": "x"}]}], list),
    ],
)
def test_the_schema_in_words_is_part_of_the_system_message(messages: Any, system: type) -> None:
    before = copy.deepcopy(messages)
    request = ChatRequest(messages=messages, model="m", response_schema=SCHEMA)
    first = sent(Dialect(schema_as="prompt"), request)["messages"][0]
    assert (first["role"], type(first["content"])) == ("system", system)
    assert "fits this schema" in str(first["content"])
    assert messages == before


NOT_ABOUT_THE_WAY: dict[str, tuple[APIStatusError, dict[str, Any]]] = {
    "invalid-schema": (
        refusal(
            "Invalid schema for response_format 'output': 'additionalProperties' is required", param="response_format"
        ),
        {},
    ),
    "strict": (refusal("response_format is not supported"), {"strict": True}),
    "key": (refusal("response_format is not supported", 401), {}),
    "too-many": (refusal("response_format is not supported", 429), {}),
    "broken": (refusal("Internal Server Error", 500), {}),
    "another-parameter": (refusal("Unsupported parameter: 'seed'"), {}),
}


@pytest.mark.parametrize(("error", "fields"), NOT_ABOUT_THE_WAY.values(), ids=NOT_ABOUT_THE_WAY)
def test_other_refusals_leave_the_way_as_it_is(error: APIStatusError, fields: dict[str, Any]) -> None:
    request = ChatRequest("hi", model="m", response_schema=SCHEMA, **fields)
    assert GENERIC.learn(error, sent(GENERIC, request)) is None


@pytest.mark.parametrize("wanted", [{"type": "json_object"}, {"type": "text"}, {"type": "json_schema"}])
def test_a_format_of_the_callers_own_is_sent_as_it_is(wanted: dict[str, Any]) -> None:
    request = ChatRequest("hi", model="m", response_format=wanted)
    for way in ("json_schema", "tool", "json_object", "prompt"):
        dialect = Dialect(schema_as=way)
        assert sent(dialect, request)["response_format"] == wanted
        assert not dialect.answers_by_call(build_body(request))
    assert GENERIC.learn(refusal("response_format is not supported"), sent(GENERIC, request)) is None


def test_an_answer_by_call_is_announced() -> None:
    body = build_body(ChatRequest("hi", model="m", response_schema=SCHEMA))
    assert Dialect(schema_as="tool").answers_by_call(body)
    assert not GENERIC.answers_by_call(body)
    assert not Dialect(schema_as="tool").answers_by_call({**body, "tools": TOOLS})


CALLED = {"id": "c", "type": "function", "function": {"name": "output", "arguments": '{"a": 1}'}}
AS_TEXT: dict[str, tuple[Any, Any]] = {
    "reply": (
        {
            "choices": [
                {
                    "message": {"role": "assistant", "content": None, "tool_calls": [CALLED]},
                    "finish_reason": "tool_calls",
                }
            ]
        },
        {"choices": [{"message": {"role": "assistant", "content": '{"a": 1}'}, "finish_reason": "stop"}]},
    ),
    "arguments-as-object": (
        {"choices": [{"message": {"tool_calls": [{"function": {"arguments": {"a": 1}}}]}}]},
        {"choices": [{"message": {"content": '{"a": 1}'}}]},
    ),
    "first-delta": (
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "output", "arguments": ""}}]}}
            ]
        },
        {"choices": [{"delta": {"content": ""}}]},
    ),
    "piece": (
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}, "finish_reason": None}
            ]
        },
        {"choices": [{"delta": {"content": '{"a"'}, "finish_reason": None}]},
    ),
    "text": ({"choices": [{"delta": {"content": "x"}}]}, {"choices": [{"delta": {"content": "x"}}]}),
    "cut": ({"choices": [{"finish_reason": "length"}]}, {"choices": [{"finish_reason": "length"}]}),
    "usage": ({"choices": [], "usage": {"prompt_tokens": 1}}, {"choices": [], "usage": {"prompt_tokens": 1}}),
    "null-calls": ({"choices": [{"delta": {"tool_calls": None}}]}, {"choices": [{"delta": {"tool_calls": None}}]}),
    "list": ([1], [1]),
}


@pytest.mark.parametrize(("payload", "wanted"), AS_TEXT.values(), ids=AS_TEXT)
def test_the_arguments_of_the_forced_call_are_the_text(payload: Any, wanted: Any) -> None:
    before = copy.deepcopy(payload)
    assert tool_call_as_text(payload) == wanted
    assert payload == before


def test_a_type_is_read_from_an_answer_by_call_whole_or_streamed() -> None:
    output = Output.of(dict[str, int])
    whole = {"choices": [{"message": {"tool_calls": [CALLED]}, "finish_reason": "tool_calls"}]}
    pieces = [
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "output", "arguments": ""}}]}}
            ]
        },
        *(
            {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}}]}
            for piece in '{"a": 1}'
        ),
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ]
    for payloads in ([whole], pieces):
        accumulator = Accumulator(CallInfo())
        events = [event for payload in payloads for event in accumulator.feed(tool_call_as_text(payload))]
        assert {event.kind for event in [*events, *accumulator.finish()]} == {"text"}
        answer = accumulator.response()
        assert (answer.text, answer.tool_calls, answer.finish_reason) == ('{"a": 1}', (), "stop")
        assert output.read(answer).parsed == {"a": 1}


@quick
@given(json_values)
def test_any_payload_is_taken(payload: Any) -> None:
    tool_call_as_text({"choices": [{"delta": payload, "message": {"tool_calls": [payload]}}, payload]})
    tool_call_as_text(payload)


LIMITS: dict[str, tuple[str, int, int | None]] = {
    "openai": ("'$.input' is invalid: array has 3000 items, maximum is 2048", 3000, 2048),
    "openai-2": (
        "Invalid 'input': array too long. Expected an array with maximum length 2048, but got one with length 3000.",
        3000,
        2048,
    ),
    "tei": ("batch size 64 > maximum allowed batch size 32", 64, 32),
    "dashscope": ("Value error, batch size is invalid, it should not be larger than 10.: input.contents", 64, 10),
    "cohere": ("invalid request: total number of texts must be at most 96 - received 200", 200, 96),
    "gemini": ("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch", 200, 100),
    "azure": ("Too many inputs. The max number of inputs is 16. We hope to increase it.", 200, 16),
    "voyage": ("The max allowed batch size is 128. Your batch size is 200.", 200, 128),
    "infinity": ("List should have at most 2048 items after validation, not 3000", 3000, 2048),
    "larger": ("input batch must not be larger than 10", 64, 10),
    "at-most": ("at most 96 inputs are allowed", 200, 96),
    "smallest": ("batch: at most 96, up to 50 for this model", 200, 50),
    "no-number": ("too many inputs in request, split into more batches", 96, 48),
    "not-smaller": ("at most 96 inputs", 96, None),
    "zero": ("at most 0 inputs", 96, None),
    "one-alone": ("too many inputs", 1, None),
    "other": ("at most 5 requests a second", 96, None),
    "context": ("context length is 512", 600, None),
    "context-of-openai": (
        "This model's maximum context length is 512 tokens. However, you requested 600 tokens in the input. Please "
        "reduce the length of the input.",
        600,
        None,
    ),
    "tokens-of-tei": ("`inputs` must have less than 512 tokens. Given: 600", 600, None),
    "tokens-of-a-batch": ("the batch may have at most 512 tokens", 600, None),
    "thousands-of-tokens": ("input array: at most 8,192 tokens", 9000, None),
    "physical-batch": (
        "input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
        600,
        None,
    ),
    "dimensions": ("input batch: at most 512 dimensions", 600, None),
}


@pytest.mark.parametrize(("message", "sent", "wanted"), LIMITS.values(), ids=LIMITS)
def test_how_many_inputs_a_server_takes(message: str, sent: int, wanted: int | None) -> None:
    for status in (400, 413, 422):
        assert batch_limit(refusal(message, status), sent) == wanted
    assert batch_limit(refusal(message, 500), sent) is None


@quick
@given(st.text(max_size=60) | st.sampled_from([SWAP, "batch at most " + "9" * 900]), st.sampled_from([400, 413, 422]))
def test_any_refusal_is_read(message: str, status: int) -> None:
    error = refusal(message, status, code=message, type=None, param=message)
    limit = batch_limit(error, 10)
    assert limit is None or 0 < limit < 10
    learnt = GENERIC.learn(error, SENT)
    assert learnt is None or learnt != GENERIC


@quick
@given(json_values, st.sampled_from(PROVIDER_DIALECTS))
def test_any_body_is_adapted(value: Any, name: str) -> None:
    keys = (
        "messages",
        "tools",
        "response_format",
        "chat_template_kwargs",
        "reasoning_effort",
        "model",
        "stream_options",
    )
    for key in keys:
        getattr(dialect_module, name).adapt({**SENT, "messages": [value], key: value})


@pytest.mark.parametrize("name", PROVIDER_DIALECTS)
def test_dialects_survive_pickle_and_json(name: str) -> None:
    dialect: Dialect = getattr(dialect_module, name)
    assert pickle.loads(pickle.dumps(dialect)) == dialect
    assert msgspec.json.decode(msgspec.json.encode(dialect), type=Dialect) == dialect
