"""This library."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contestants import Answer
from openai_compat import Client


class Contestant:
    def __init__(self, base_url: str) -> None:
        self.client = Client(base_url, api_key="k", model="m")

    def chat(self) -> Answer:
        answer = self.client.chat("hi")
        return Answer(answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens)

    def stream(self, sink: Callable[[str], object]) -> Answer:
        answer = self.client.chat("hi", sink=lambda event: sink(event.delta) if event.delta else None)
        return Answer(answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens)

    def tools(self) -> list[tuple[str, Any]]:
        answer = self.client.chat("hi", sink=lambda event: None)
        return [(call.name, call.arguments) for call in answer.tool_calls]

    def embed(self, texts: list[str], encoding: str) -> Sequence[Any]:
        return self.client.embed(texts, encoding_format=encoding).vectors
