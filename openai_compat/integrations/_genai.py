"""Calls in the words of OpenTelemetry's semantic conventions for generative AI, version 1.41, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .._json import as_mapping, encode_reply
from ..errors import APIStatusError, StreamServerError
from ..wire.messages import ToolCall, Usage
from ..wire.response import ChatResponse
from ..wire.retry import Attempt

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]

MAX_NAME = 500
"""Characters of a name that the server gives."""

TOKEN_BUCKETS = [4.0**power for power in range(14)]
SECOND_BUCKETS = [0.01 * 2.0**power for power in range(14)]

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "xai": "x_ai",
}
_NUMBERS = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "seed": ("gen_ai.request.seed", int),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
}


def exportable(attributes: Mapping[str, Any]) -> Attributes:
    """The attributes, as each exporter takes them: without halves of characters, and integers of more than 64 bits."""
    made: Attributes = {}
    for name, value in attributes.items():
        if isinstance(value, str):
            made[name] = exportable_text(value)
        elif isinstance(value, (list, tuple)):
            made[name] = [exportable_text(str(item)) for item in value]
        elif isinstance(value, float) or -(2**63) <= value < 2**63:
            made[name] = value
    return made


def exportable_text(text: str) -> str:
    """A text without halves of surrogate pairs, which UTF-8 lacks: an exporter would lose its whole batch to one."""
    return text.encode("utf-8", "replace").decode()


def provider_name(provider: str) -> str:
    """The conventions' name of a provider."""
    return _PROVIDERS.get(provider, provider)


def call_attributes(operation: str, provider: str, model: str, origin: str) -> Attributes:
    """What is known of a call before it is sent; metrics have these too."""
    attributes: Attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": provider_name(provider)}
    if model:
        attributes["gen_ai.request.model"] = model
    parts = urlsplit(origin)
    if parts.hostname:
        attributes["server.address"] = parts.hostname
        attributes["server.port"] = parts.port or (80 if parts.scheme == "http" else 443)
    return attributes


def request_attributes(body: Mapping[str, Any]) -> Attributes:
    """What a body asks for, its content left out."""
    attributes: Attributes = {}
    for name, (key, kind) in _NUMBERS.items():
        value = body.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            attributes[key] = kind(value)
    if isinstance(body.get("n"), int) and body["n"] != 1:
        attributes["gen_ai.request.choice.count"] = body["n"]
    if body.get("stream") is True:
        attributes["gen_ai.request.stream"] = True
    stop = body.get("stop")
    if stop and isinstance(stop, (str, list)):
        attributes["gen_ai.request.stop_sequences"] = [stop] if isinstance(stop, str) else list(map(str, stop))
    if isinstance(body.get("reasoning_effort"), str):
        attributes["gen_ai.request.reasoning.level"] = body["reasoning_effort"]
    if isinstance(body.get("encoding_format"), str):
        attributes["gen_ai.request.encoding_formats"] = [body["encoding_format"]]
    kind_of_answer = as_mapping(body.get("response_format")).get("type")
    if kind_of_answer in ("json_schema", "json_object"):
        attributes["gen_ai.output.type"] = "json"
    elif "audio" in _listed(body.get("modalities")):
        attributes["gen_ai.output.type"] = "speech"
    return attributes


def answer_attributes(answer: Any) -> Attributes:
    """What an answer says of itself, its content left out."""
    attributes: Attributes = {}
    if getattr(answer, "model", ""):
        attributes["gen_ai.response.model"] = answer.model[:MAX_NAME]
    raw = getattr(answer, "raw", None)
    identifier = raw.get("id") if isinstance(raw, Mapping) else None
    if isinstance(identifier, str) and identifier:
        attributes["gen_ai.response.id"] = identifier[:MAX_NAME]
    if isinstance(answer, ChatResponse):
        attributes["gen_ai.response.finish_reasons"] = finish_reasons(answer)
        if answer.first_token_ms is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = answer.first_token_ms / 1000
    attributes.update(usage_attributes(getattr(answer, "usage", None)))
    return attributes


def finish_reasons(answer: ChatResponse) -> list[str]:
    """Why each choice ended."""
    return [choice.finish_reason[:MAX_NAME] for choice in answer.choices]


def usage_attributes(usage: Usage | None) -> Attributes:
    """The tokens, as far as the server has counted them."""
    if usage is None:
        return {}
    counts = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}


def error_attributes(error: BaseException) -> Attributes:
    """What kind of error has ended a call: the name of its class, and the HTTP status."""
    attributes: Attributes = {"error.type": type(error).__name__}
    if isinstance(error, (APIStatusError, StreamServerError)) and error.status_code:
        attributes["http.response.status_code"] = error.status_code
    return attributes


def attempt_attributes(attempt: Attempt, *, words: bool) -> Attributes:
    """One time that a request was sent; what is said of an answer that is no good may quote it, and needs ``words``."""
    said = {
        "openai_compat.attempt.number": attempt.number,
        "openai_compat.attempt.reason": attempt.reason or "first",
        "openai_compat.attempt.duration": attempt.seconds,
        "openai_compat.attempt.waited": attempt.waited,
        "openai_compat.attempt.error": attempt.error if words or attempt.status != 200 else None,
        "http.response.status_code": attempt.status,
        "server.address": urlsplit(attempt.origin).hostname,
    }
    return {name: value for name, value in said.items() if value is not None}


def input_content(body: Mapping[str, Any]) -> Attributes:
    """What was asked, and with which tools, as JSON."""
    messages = body.get("messages")
    content: Attributes = {}
    if isinstance(messages, list):
        content["gen_ai.input.messages"] = _json([_message(message) for message in map(as_mapping, messages)])
    if tools := _listed(body.get("tools")):
        content["gen_ai.tool.definitions"] = _json(
            [
                {"type": tool.get("type", "function"), **as_mapping(tool.get("function"))}
                for tool in map(as_mapping, tools)
            ]
        )
    return content


def output_content(answer: ChatResponse) -> Attributes:
    """What was answered, as JSON."""
    choices = [
        {
            "role": "assistant",
            "parts": [
                *([{"type": "reasoning", "content": choice.reasoning}] if choice.reasoning else ()),
                *([{"type": "text", "content": text}] if (text := choice.text or choice.refusal) else ()),
                *map(call_part, choice.tool_calls),
            ],
            "finish_reason": choice.finish_reason,
        }
        for choice in answer.choices
    ]
    return {"gen_ai.output.messages": _json(choices)}


def call_part(call: ToolCall) -> dict[str, Any]:
    """A call that the model asks for."""
    arguments = call.arguments if call.arguments is not None else call.arguments_json
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = str(message.get("role", ""))
    content = message.get("content")
    if role == "tool":
        response = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return {"role": role, "parts": [response]}
    parts = [{"type": "text", "content": content}] if isinstance(content, str) and content else []
    if isinstance(content, list):
        parts = [_part(part) for part in map(as_mapping, content)]
    return {"role": role, "parts": [*parts, *_calls(_listed(message.get("tool_calls")))]}


def _calls(calls: Iterable[Any]) -> list[dict[str, Any]]:
    return [call_part(ToolCall.from_wire(call)) for call in map(as_mapping, calls)]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message; of pictures and sound that are sent along, only what they are."""
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "content": part.get("text")}
    if kind == "image_url":
        url = str(as_mapping(part.get("image_url")).get("url", ""))
        if not url.startswith("data:"):
            return {"type": "uri", "modality": "image", "uri": url}
        return {"type": "image", "mime_type": url[5:].partition(";")[0], "characters": len(url)}
    return {"type": str(kind)}


def _json(value: Any) -> str:
    return encode_reply(value).decode("utf-8", "replace")


def _listed(value: Any) -> list[Any]:
    """``value`` where it is a list, else an empty one: a body may hold anything, by ``extra_body``."""
    return value if isinstance(value, list) else []
