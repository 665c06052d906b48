"""The schema of an answer, asked for in the ways that servers take, and an answer that came as a call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import ConfigurationError

SchemaAs = Literal["json_schema", "tool", "json_object", "prompt"]
SCHEMA_WAYS: tuple[str, ...] = ("json_schema", "tool", "json_object", "prompt")


def _json_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The named schema in a body; None where it asks for none."""
    wanted = body.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return None
    named = wanted.get("json_schema")
    return named if isinstance(named, Mapping) and isinstance(named.get("schema"), Mapping) else None


def can_be_tool(body: Mapping[str, Any]) -> bool:
    """Whether the schema can be asked for as a tool that must be called: not beside tools of the request's own."""
    return _json_schema(body) is not None and not body.get("tools")


def set_response_format(body: dict[str, Any], way: SchemaAs) -> None:
    """Ask for the schema in another way than ``json_schema``; a body that asks for none stays as it is."""
    named = _json_schema(body)
    if named is None:
        return
    can_ask_by_call = can_be_tool(body)
    del body["response_format"]
    if way == "tool" and can_ask_by_call:
        name = str(named.get("name") or "output")
        function = {"name": name, "description": "Give the answer.", "parameters": named["schema"]}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = {"type": "function", "function": {"name": name}}
        return
    if way != "prompt":
        body["response_format"] = {"type": "json_object"}
    body["messages"] = _with_schema_in_words(body.get("messages"), named["schema"])


def _with_schema_in_words(messages: Any, schema: Mapping[str, Any]) -> list[Any]:
    """The messages with the schema in words, at the end of the system message."""
    try:
        instruction = f"Answer with nothing but JSON that fits this schema: {json.dumps(schema, ensure_ascii=False)}"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the schema cannot be written as JSON: {error}") from error
    said = list(messages) if isinstance(messages, list) else []
    first = said[0] if said and isinstance(said[0], Mapping) and said[0].get("role") == "system" else {}
    content = first.get("content")
    if isinstance(content, str) and content:
        return [{**first, "content": f"{content}\n\n{instruction}"}, *said[1:]]
    if isinstance(content, list):
        return [{**first, "content": [*content, {"type": "text", "text": instruction}]}, *said[1:]]
    return [{"role": "system", "content": instruction}, *said]


def next_schema_as(body: Mapping[str, Any], way: SchemaAs) -> SchemaAs | None:
    """What to try after this body, which was made in ``way``, was refused; None where there is nothing else.

    A schema that the server was to enforce to the letter (``strict``) is asked for in no other way.
    """
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "json_schema":
        named = _json_schema(body)
        if named is None or named.get("strict"):
            return None
        return "tool" if can_be_tool(body) else "json_object"
    if way == "tool" and kind is None and isinstance(body.get("tool_choice"), Mapping):
        return "json_object"
    return "prompt" if kind == "json_object" and way in ("tool", "json_object") else None


def tool_call_as_text(payload: Any) -> Any:
    """A reply, or a chunk of one, in which the arguments of the tool that had to be called are the text."""
    if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
        return payload
    return {**payload, "choices": [_text_choice(choice) for choice in payload["choices"]]}


def _text_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    made = dict(choice)
    for key in ("delta", "message"):
        said = choice.get(key)
        if isinstance(said, dict) and isinstance(said.get("tool_calls"), list):
            rest = {name: value for name, value in said.items() if name != "tool_calls"}
            text = said.get("content") if isinstance(said.get("content"), str) else ""
            # The call is the answer: words before it in the same message are none.
            made[key] = {**rest, "content": "".join(map(_arguments, said["tool_calls"])) or text}
    if choice.get("finish_reason") in ("tool_calls", "function_call"):
        made["finish_reason"] = "stop"
    return made


def _arguments(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    given = function.get("arguments") if isinstance(function, dict) else None
    return json.dumps(given) if isinstance(given, dict) else given if isinstance(given, str) else ""
