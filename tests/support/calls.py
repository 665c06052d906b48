"""The kinds of call, each with a server's reply to it: one word goes in, the same word comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from openai_compat import Client
from support.replay import EVENT_STREAM, JSON, Reply, Request
from support.wire_bodies import chat_body, stream_pieces

Call = Callable[..., str]


def chat(client: Client, **options: Any) -> str:
    return client.chat("hi", **options).text


def stream(client: Client, **options: Any) -> str:
    return client.stream("hi", **options).until_done().text


def embed(client: Client, **options: Any) -> str:
    return "".join(chr(int(number)) for number in client.embed(["hi"], encoding_format="float", **options).embedding)


CALLS: dict[str, Call] = {"chat": chat, "stream": stream, "embed": embed}
PATHS = {"chat": "/v1/chat/completions", "stream": "/v1/chat/completions", "embed": "/v1/embeddings"}


def body(kind: str, word: str) -> bytes:
    """What a server sends in answer to a call of this kind."""
    if kind == "chat":
        return chat_body(word)
    if kind == "stream":
        return b"".join(stream_pieces(*word))
    vector = [float(ord(character)) for character in word]
    return json.dumps({"model": "m-served", "data": [{"index": 0, "embedding": vector}]}).encode()


def headers(kind: str) -> dict[str, str]:
    return EVENT_STREAM if kind == "stream" else JSON


def kind_of(request: Request) -> str:
    if request.path.partition("?")[0].endswith("/embeddings"):
        return "embed"
    return "stream" if request.json().get("stream") else "chat"


def reply(kind: str, word: str) -> Reply:
    return Reply(headers=headers(kind), body=stream_pieces(*word) if kind == "stream" else body(kind, word))


def saying(word: str) -> Callable[[Request], Reply]:
    """Replies for a server that has one word for everything."""
    return lambda request: reply(kind_of(request), word)
