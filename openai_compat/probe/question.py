"""What a question is: the rows that it answers, what it costs, and what is known when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..wire.constraints import Constraints
from ..wire.dialect import Dialect
from .asking import Answer, Asker, shown
from .report import Finding, ProbeRow

SHORT = 48
"""Tokens that an answer may have."""
SHORT_WITH_THOUGHTS = 1024
"""Tokens that one may have of a model that thinks first."""


@attrs.frozen(kw_only=True)
class Question:
    """Some rows, which the same requests answer.

    Args:
        names: the rows that it fills; what it leaves out because the server did not answer is ``failed``.
        requests: that it takes at most.
        needs: the row without which it is not asked.
    """

    names: tuple[str, ...]
    ask: Callable[[Context], None]
    requests: int
    group: str
    needs: str = ""


@attrs.define(kw_only=True)
class Context:
    """What is known so far, and what the answers add to it."""

    asker: Asker
    dialect: Dialect
    model: str = ""
    embedding_model: str = ""
    picks: bool = True
    server: list[str] = attrs.field(factory=list)
    rows: list[ProbeRow] = attrs.field(factory=list)
    group: str = ""
    basics: dict[str, Any] = attrs.field(factory=lambda: {"temperature": 0})
    tokens: int = SHORT
    plain: Answer | None = None
    thinks: bool = False
    hide: Callable[[str], str] = str
    tell: Callable[[ProbeRow], object] = lambda row: None

    def found(self, name: str, finding: Finding, detail: str = "") -> None:
        """A row."""
        # A server may say again what it was sent: the key, for one.
        row = ProbeRow(name, finding, shown(detail, self.hide), self.group)
        self.rows.append(row)
        self.tell(row)

    def has(self, name: str) -> bool:
        """Whether a row of this name says yes."""
        return any(row.name == name and row.finding == "yes" for row in self.rows)

    def chat(self, prompt: str | list[Any], *, tokens: int | None = None, **fields: Any) -> Answer:
        """Ask the model."""
        return self.asker.post("/chat/completions", self.body(prompt, tokens=tokens, **fields))

    def body(self, prompt: str | list[Any], *, tokens: int | None = None, **fields: Any) -> dict[str, Any]:
        """The body of a chat request as this server takes it."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        limit = max(tokens or 0, self.tokens) if self.thinks else tokens or self.tokens
        return {"model": self.model, "messages": messages, self.dialect.max_tokens: limit, **self.basics, **fields}

    @property
    def streamed(self) -> dict[str, Any]:
        """What asks for a stream, and for its usage where that is known to be taken."""
        options = {"stream_options": {"include_usage": True}} if self.dialect.stream_options else {}
        return {"stream": True, **options}

    def learn(self, **changes: Any) -> None:
        """Change the dialect."""
        self.dialect = attrs.evolve(self.dialect, **changes)

    def constrain(self, **changes: Any) -> None:
        """Change how the dialect tells what an answer may be made of."""
        constraints: Constraints = attrs.evolve(self.dialect.constraints, **changes)
        self.learn(constraints=constraints)


def thoughts_of(answer: Answer) -> str:
    """Where an answer's thoughts are; empty where there are none."""
    return thoughts_in(answer.message) or ("counted only" if _details(answer.usage).get("reasoning_tokens") else "")


def thoughts_in(message: Mapping[str, Any]) -> str:
    """Where a message's thoughts are."""
    for field in ("reasoning_content", "reasoning", "reasoning_text", "thinking", "reasoning_details"):
        if message.get(field):
            return f"in {field}"
    content = message.get("content")
    if isinstance(content, str) and ("<think>" in content or "</think>" in content):
        return "in <think>, within the text"
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") == "thinking" for part in content):
        return "in parts of the content"
    return ""


def _details(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    said = usage.get("completion_tokens_details")
    return said if isinstance(said, dict) else {}
