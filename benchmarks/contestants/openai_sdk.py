"""The `openai` package, blocking, as its documentation shows it."""

from collections.abc import Callable, Sequence
from typing import Any

from openai import OpenAI

from benchmarks.contestants import Answer

MESSAGES: Any = [{"role": "user", "content": "hi"}]


class Contestant:
    def __init__(self, base_url: str) -> None:
        self.client = OpenAI(base_url=base_url, api_key="k")

    def chat(self) -> Answer:
        answer = self.client.chat.completions.create(model="m", messages=MESSAGES)
        choice, usage = answer.choices[0], answer.usage
        return Answer(choice.message.content or "", choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)

    def chunks(self) -> Any:
        return self.client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )

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
        import json

        calls: dict[int, tuple[str, list[str]]] = {}
        for chunk in self.chunks():
            for choice in chunk.choices:
                for delta in choice.delta.tool_calls or ():
                    if delta.index not in calls:
                        calls[delta.index] = (delta.function.name, [])
                    calls[delta.index][1].append(delta.function.arguments or "")
        return [(name, json.loads("".join(pieces))) for name, pieces in calls.values()]

    def embed(self, texts: list[str], encoding: str) -> Sequence[Any]:
        if encoding == "float":
            answer = self.client.embeddings.create(model="m", input=texts, encoding_format="float")
        else:  # its default asks for base64 and decodes; asked for base64 by name, it would leave that to the caller
            answer = self.client.embeddings.create(model="m", input=texts)
        return [item.embedding for item in answer.data]
