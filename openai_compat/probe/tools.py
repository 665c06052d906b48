"""Questions about tools: one call, a forced one, two at once, one in a stream, and what comes of a result."""

from __future__ import annotations

from typing import Any

from .._json import NotJSONError, decode_json
from .asking import Answer
from .framing import read_stream
from .question import Context, Question

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FORCED: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}
ONE = "What is the weather in Oslo? Use the tool."
TWO = "What is the weather in Oslo, and what is it in Lima? Call the tool once for each city, both at once."


def ask_one(context: Context) -> None:
    """Whether the model calls a tool of its own accord."""
    answer = context.chat(ONE, tokens=64, tools=[WEATHER])
    if not answer.ok:
        context.found("tools", "no", answer.refusal)
    elif answer.calls:
        context.found("tools", "yes", _described(answer))
    else:
        context.found("tools", "unclear", "the model answered with text")


def ask_forced(context: Context) -> None:
    """Whether ``tool_choice`` makes it call one."""
    answer = context.chat("Hello!", tokens=64, tools=[WEATHER], tool_choice=FORCED)
    if not answer.ok:
        context.found("tools_forced", "no", answer.refusal)
    elif answer.calls:
        context.found("tools_forced", "yes", _described(answer))
    else:
        context.found("tools_forced", "ignored", "the model answered with text")


def ask_parallel(context: Context) -> None:
    """Whether it calls two at once."""
    answer = context.chat(TWO, tokens=128, tools=[WEATHER])
    if not answer.ok:
        context.found("tools_parallel", "no", answer.refusal)
    elif len(answer.calls) > 1:
        context.found("tools_parallel", "yes", f"{len(answer.calls)} calls")
    else:
        context.found("tools_parallel", "unclear", f"{'one call' if answer.calls else 'no call'} where 2 were wanted")


def ask_streamed(context: Context) -> None:
    """Whether a call is streamed, and in how many pieces."""
    fields: dict[str, Any] = {"tool_choice": FORCED} if context.has("tools_forced") else {}
    answer = context.chat(ONE, tokens=64, tools=[WEATHER], **context.streamed, **fields)
    if not answer.ok:
        context.found("tools_streamed", "no", answer.refusal)
        return
    stream = read_stream(answer.pieces)
    context.asker.count(stream.usage or {})
    if stream.called:
        pieces = "piece" if stream.call_parts == 1 else "pieces"
        context.found("tools_streamed", "yes", f"arguments in {stream.call_parts} {pieces}")
    elif not stream.events:
        context.found("tools_streamed", "ignored", "no stream")
    else:
        context.found("tools_streamed", "unclear", "the model answered with text")


def ask_result(context: Context) -> None:
    """Whether a tool's result is taken."""
    call = {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    history = [
        {"role": "user", "content": ONE},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc123def", "content": '{"degrees": 19}'},
    ]
    answer = context.chat(history, tokens=64, tools=[WEATHER])
    if not answer.ok:
        context.found("tool_results", "no", answer.refusal)
    elif "19" in answer.text:
        context.found("tool_results", "yes", "the answer uses it")
    else:
        context.found("tool_results", "unclear", "taken; the answer does not use it")


def _described(answer: Answer) -> str:
    given = answer.calls[0].get("arguments")
    try:
        arguments = decode_json(given) if isinstance(given, str) else given
    except NotJSONError:
        return "arguments are no JSON"
    if not isinstance(given, str):
        return "arguments are an object, not a string"
    return "arguments fit" if isinstance(arguments, dict) and "city" in arguments else "arguments do not fit"


_GROUP = "tools"
QUESTIONS = (
    Question(names=("tools",), ask=ask_one, requests=1, group=_GROUP, needs="chat"),
    Question(names=("tools_forced",), ask=ask_forced, requests=1, group=_GROUP, needs="chat"),
    Question(names=("tools_parallel",), ask=ask_parallel, requests=1, group=_GROUP, needs="chat"),
    Question(names=("tools_streamed",), ask=ask_streamed, requests=1, group=_GROUP, needs="chat"),
    Question(names=("tool_results",), ask=ask_result, requests=1, group=_GROUP, needs="chat"),
)
