"""The floor: http.client, a raw split at blank lines, and msgspec into exactly the fields that are wanted.

It trusts the server in everything and copes with nothing that real servers do. Base64 goes through the stdlib.
"""

import binascii
import http.client
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.contestants import Answer

HEADERS = {"Authorization": "Bearer k", "Content-Type": "application/json"}
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str = ""


class ToolCall(msgspec.Struct):
    index: int
    function: Function


class Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[ToolCall] = []


class Choice(msgspec.Struct):
    message: Message | None = None
    delta: Message | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class Completion(msgspec.Struct):
    choices: list[Choice]
    usage: Usage | None = None


class Floats(msgspec.Struct):
    embedding: list[float]


class Base64(msgspec.Struct):
    embedding: str


class Embeddings(msgspec.Struct):
    data: list[Floats]


class Base64Embeddings(msgspec.Struct):
    data: list[Base64]


decode = msgspec.json.Decoder(Completion).decode


class Contestant:
    def __init__(self, base_url: str) -> None:
        self.url = urlsplit(base_url)
        self.local = threading.local()

    def post(self, path: str, body: Any) -> http.client.HTTPResponse:
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.url.netloc)
        self.local.connection.request("POST", self.url.path + path, msgspec.json.encode(body), HEADERS)
        return self.local.connection.getresponse()

    def chat(self) -> Answer:
        answer = decode(self.post("/chat/completions", QUESTION).read())
        choice, usage = answer.choices[0], answer.usage
        return Answer(choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)

    def chunks(self) -> Iterator[Completion]:
        response = self.post("/chat/completions", QUESTION | {"stream": True})
        buffer = bytearray()
        while piece := response.read1(65536):
            seen = max(len(buffer) - 1, 0)
            buffer += piece
            if (end := buffer.rfind(b"\n\n", seen)) >= 0:
                for event in bytes(buffer[:end]).split(b"\n\n"):
                    if event != b"data: [DONE]":
                        yield decode(event[6:])
                del buffer[: end + 2]

    def stream(self, sink: Callable[[str], object]) -> Answer:
        pieces, finish, usage = [], None, None
        for chunk in self.chunks():
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                if piece := choice.delta.content:
                    pieces.append(piece)
                    sink(piece)
        return Answer("".join(pieces), finish, usage.prompt_tokens, usage.completion_tokens)

    def tools(self) -> list[tuple[str, Any]]:
        calls: dict[int, tuple[str, list[str]]] = {}
        for chunk in self.chunks():
            for choice in chunk.choices:
                for delta in choice.delta.tool_calls:
                    if delta.index not in calls:
                        calls[delta.index] = (delta.function.name, [])
                    calls[delta.index][1].append(delta.function.arguments)
        return [(name, msgspec.json.decode("".join(pieces))) for name, pieces in calls.values()]

    def embed(self, texts: list[str], encoding: str) -> Sequence[Any]:
        body = self.post("/embeddings", {"model": "m", "input": texts, "encoding_format": encoding}).read()
        if encoding == "float":
            return [item.embedding for item in msgspec.json.decode(body, type=Embeddings).data]
        items = msgspec.json.decode(body, type=Base64Embeddings).data
        return [array("f", binascii.a2b_base64(item.embedding)) for item in items]
