"""What a fake server was asked, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from .._json import as_mapping, as_text
from ..wire.messages import Message
from ..wire.request import ToolSpec

Kind = Literal["chat", "embeddings", "models", "other"]


@attrs.frozen(kw_only=True)
class AskedRequest:
    """A request as it came.

    ``headers`` have lower-case names, and no secrets; ``body`` is the decoded JSON, empty where there is none.
    ``number`` counts the server's requests from 0, ``connection`` its connections.
    """

    number: int
    connection: int
    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: Mapping[str, Any]

    @property
    def kind(self) -> Kind:
        """Which endpoint was asked."""
        path = self.path.partition("?")[0]
        if path.endswith("/chat/completions"):
            return "chat"
        if path.endswith("/embeddings"):
            return "embeddings"
        return "models" if "/models" in path else "other"

    @property
    def model(self) -> str:
        """The model asked for."""
        return as_text(self.body.get("model"))

    @property
    def streamed(self) -> bool:
        """Whether a stream was wanted."""
        return self.body.get("stream") is True

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages of a chat; ``dict(message)`` is one as it came."""
        return tuple(Message.from_wire(message) for message in self._list("messages"))

    @property
    def system(self) -> str:
        """The text of the first message where it is the system's, else empty."""
        messages = self._list("messages")
        first = messages[0] if messages else {}
        return text_of(first) if first.get("role") in ("system", "developer") else ""

    @property
    def prompt(self) -> str:
        """The text of the last message: of the user's question, or of a tool's result."""
        messages = self._list("messages")
        return text_of(messages[-1]) if messages else ""

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        """The tools that were offered."""
        return tuple(_spec(entry) for entry in self._list("tools"))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(spec.name for spec in self.tools)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The texts to embed."""
        given = self.body.get("input")
        given = given if isinstance(given, list) and not all(isinstance(part, int) for part in given) else [given]
        return tuple(part if isinstance(part, str) else json.dumps(part) for part in given)

    def _list(self, name: str) -> list[Mapping[str, Any]]:
        value = self.body.get(name)
        return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []

    def __str__(self) -> str:
        if self.kind == "chat":
            messages = self._list("messages")
            role = messages[-1].get("role") if messages else "no"
            return f"a chat with model {self.model!r}, whose last message ({role}) is {_short(self.prompt)!r}"
        if self.kind == "embeddings":
            first = _short(self.inputs[0])
            return f"embeddings of {len(self.inputs)} inputs with model {self.model!r}, the first {first!r}"
        return f"{self.method} {self.path}"


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, of all its parts together."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(as_text(as_mapping(part).get("text")) for part in content if as_mapping(part).get("text"))
    return as_text(content)


def _spec(entry: Mapping[str, Any]) -> ToolSpec:
    custom = as_mapping(entry.get("custom"))
    if entry.get("type") == "custom":
        grammar = as_mapping(as_mapping(custom.get("format")).get("grammar"))
        return ToolSpec(
            as_text(custom.get("name")),
            as_text(custom.get("description")),
            type="custom",
            grammar=as_text(grammar.get("definition")),
            syntax="regex" if grammar.get("syntax") == "regex" else "lark",
        )
    function = as_mapping(entry.get("function"))
    return ToolSpec(
        as_text(function.get("name")),
        as_text(function.get("description")),
        as_mapping(function.get("parameters")),
        strict=function.get("strict"),
    )


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}…"
