"""The loop that people write: requests, sseclient-py and the standard library's JSON."""

import base64
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import requests
import sseclient

from benchmarks.contestants import Answer

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Contestant:
    def __init__(self, base_url: str) -> None:
        self.url = base_url
        self.session = requests.Session()

    def post(self, path: str, body: Any, stream: bool = False) -> requests.Response:
        headers = {"Authorization": "Bearer k"}
        response = self.session.post(self.url + path, headers=headers, json=body, stream=stream, timeout=60)
        response.raise_for_status()
        return response

    def chat(self) -> Answer:
        answer = self.post("/chat/completions", QUESTION).json()
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["message"]["content"]
        return Answer(text, choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])

    def chunks(self) -> Iterator[Any]:
        """Read on after `[DONE]`: a loop that breaks there opens a connection for every stream."""
        body = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}
        for event in sseclient.SSEClient(self.post("/chat/completions", body, stream=True)).events():
            if event.data != "[DONE]":
                yield json.loads(event.data)

    def stream(self, sink: Callable[[str], object]) -> Answer:
        pieces, finish, usage = [], None, None
        for chunk in self.chunks():
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                finish = choice["finish_reason"] or finish
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    sink(piece)
        return Answer("".join(pieces), finish, usage["prompt_tokens"], usage["completion_tokens"])

    def tools(self) -> list[tuple[str, Any]]:
        calls: dict[int, tuple[str, list[str]]] = {}
        for chunk in self.chunks():
            for choice in chunk["choices"]:
                for delta in choice["delta"].get("tool_calls") or ():
                    if delta["index"] not in calls:
                        calls[delta["index"]] = (delta["function"]["name"], [])
                    calls[delta["index"]][1].append(delta["function"]["arguments"])
        return [(name, json.loads("".join(pieces))) for name, pieces in calls.values()]

    def embed(self, texts: list[str], encoding: str) -> Sequence[Any]:
        answer = self.post("/embeddings", {"model": "m", "input": texts, "encoding_format": encoding}).json()
        vectors = [item["embedding"] for item in answer["data"]]
        return vectors if encoding == "float" else [array("f", base64.b64decode(vector)) for vector in vectors]
