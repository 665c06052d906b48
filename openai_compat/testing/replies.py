"""Replies that are no answers: bytes as they are, vectors, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

FaultKind = Literal["reset", "cut", "stall", "garbage"]


@attrs.frozen
class Fault:
    """What goes wrong: ``fault`` says what each kind is."""

    kind: FaultKind

    def __str__(self) -> str:
        return f"fault {self.kind!r}"


@attrs.frozen(kw_only=True)
class RawReply:
    """A reply as it is; ``headers`` go beside those that every reply has."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return f"HTTP {self.status}"


@attrs.frozen
class Vectors:
    """The vectors of an embeddings reply, one for each input."""

    vectors: tuple[Sequence[float], ...]

    def __str__(self) -> str:
        return f"{len(self.vectors)} vectors"
