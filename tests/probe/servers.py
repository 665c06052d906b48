"""Servers to be probed, each of another kind, made of what they do with a request's fields."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

from support.replay import EVENT_STREAM, JSON, Reply, Request
from support.wire_bodies import error_reply

Handler = Callable[[Request], Reply]

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
MODELS = {"data": [{"id": "talker", "max_model_len": 4096}, {"id": "embedder"}]}


def said(value: Any, **headers: str) -> Reply:
    return Reply(headers={**JSON, **headers}, body=json.dumps(value).encode())


def message(text: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def completion(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choices = [
        {"index": at, "message": one, "finish_reason": "tool_calls" if one.get("tool_calls") else "stop", **fields}
        for at, one in enumerate(messages)
    ]
    return {"id": "c", "model": "talker", "choices": choices, "usage": USAGE}


def call(city: str, at: int = 0) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return {"index": at, "id": f"call_{at}", "type": "function", "function": function}


def streamed(*deltas: dict[str, Any], usage: bool, end: bytes = b"\n\n") -> Reply:
    events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        events.append({"choices": [], "usage": USAGE})
    lines = [b"data: " + json.dumps(event).encode() + end for event in events]
    return Reply(headers=EVENT_STREAM, body=[*lines, b"data: [DONE]" + end])


def vectors(body: dict[str, Any], size: int) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector = [1.0] + [0.0] * (size - 1)
    packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
    embedding = packed if body.get("encoding_format") == "base64" else vector
    return {"data": [{"index": at, "embedding": embedding} for at in range(len(texts))], "usage": USAGE}


# One that does all.


def able(request: Request) -> Reply:
    if request.headers.get("Authorization") == "Bearer wrong-key-of-a-probe":
        return error_reply(401, "Incorrect API key", code="invalid_api_key")
    if request.path == "/v1/models":
        return said(MODELS, Server="able/1")
    body = request.json()
    if request.path == "/v1/embeddings":
        return said(vectors(body, body.get("dimensions", 128)))
    if request.path == "/v1/rerank":
        return said({"results": [{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.1}]})
    if request.path == "/tokenize" and "messages" in body:
        return said({"count": 10, "tokens": [1] * 10})
    if request.path != "/v1/chat/completions":
        return error_reply(404)
    return able_chat(body)


def able_chat(body: dict[str, Any]) -> Reply:
    if body["model"] != "talker":
        return error_reply(404, "no such model", code="model_not_found")
    if not isinstance(body.get("temperature", 0), (int, float)):
        return error_reply(400, "not a number", param="temperature", type="invalid_request_error")
    if body.get("stream"):
        usage = "stream_options" in body
        if "tools" not in body:
            return streamed(*[{"content": f"{number} "} for number in range(8)], usage=usage)
        first = {**call("Oslo"), "function": {"name": "get_weather", "arguments": ""}}
        parts = [{"index": 0, "function": {"arguments": part}} for part in ('{"city"', ': "Oslo"}')]
        return streamed(*[{"tool_calls": [part]} for part in (first, *parts)], usage=usage)
    return said(completion(*[able_answer(body)] * body.get("n", 1), **able_logprobs(body)))


def able_logprobs(body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("logprobs"):
        return {}
    likely = [{"token": "a", "logprob": -1.0}] * body["top_logprobs"]
    return {"logprobs": {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": likely}]}}


def able_answer(body: dict[str, Any]) -> dict[str, Any]:
    asked = body["messages"][-1]["content"]
    wanted = body.get("response_format", {})
    if body["messages"][-1]["role"] == "tool":
        return message("It is 19 degrees.")
    if "tools" in body:
        cities = ["Oslo", "Lima"] if "Lima" in asked else ["Oslo"]
        return message(None, tool_calls=[call(city, at) for at, city in enumerate(cities)])
    if wanted.get("type") == "json_schema":
        inner = wanted["json_schema"]["schema"]["properties"]
        return message('{"value": "zq12"}' if "value" in inner else '{"colour": "teal", "count": 3}')
    if wanted.get("type") == "json_object":
        return message('{"hello": 1}')
    if body.get("structured_outputs"):
        return message("zq34")
    if isinstance(asked, list):
        return message("Red." if asked[1]["type"] == "image_url" else "Silence.")
    thinks = body.get("chat_template_kwargs", {}).get("enable_thinking", False)
    return message(f"Hello {body.get('seed', '')}.", **({"reasoning_content": "Hm."} if thinks else {}))


# One that takes all, and does nothing with it.


def deaf(request: Request) -> Reply:
    if request.path == "/v1/models":
        return said(["talker"])
    if request.path == "/v1/embeddings":
        return said(vectors({"input": request.json()["input"]}, 8))
    return said(completion(message("Hello.")))


# One that refuses all but the simplest, in OpenAI's words for newer models.


def strict(request: Request) -> Reply:
    if request.path != "/v1/chat/completions":
        return error_reply(404, "unknown path")
    body = request.json()
    for name in body.keys() - {"model", "messages", "max_completion_tokens", "stream"}:
        return error_reply(400, f"Unsupported parameter: '{name}'", param=name)
    if isinstance(body["messages"][0]["content"], list):
        return error_reply(500, "image input is not supported")
    if body.get("stream"):
        return streamed({"content": "Hello"}, usage=False, end=b"\r\n\r\n")
    return said({"choices": completion(message("Hello."))["choices"]})


# Embeddings alone.


def embedder(request: Request) -> Reply:
    if request.path == "/v1/models":
        return said({"data": [{"id": "e5"}]})
    if request.path == "/v1/embeddings":
        return said(vectors(request.json(), 8))
    return error_reply(404, "unknown path")


# Garbage.


def broken(request: Request) -> Reply:
    if request.path == "/v1/models":
        return said({"data": 3})
    if request.path == "/v1/chat/completions" and len(request.json()) == 4:
        return said(completion(message("Hello.")))
    if request.path == "/v1/embeddings":
        return said({"data": [{"embedding": "!"}, None]})
    if request.number % 3 == 0:
        return error_reply(503, "overloaded")
    if request.number % 3 == 1:
        return Reply(headers=JSON, body=b'{"choices": [', abort="rst")
    return Reply(headers=JSON, body=b'{"choices": [{"message": 3}, 4], "usage": [], "error": {"message": "no"}}')
