"""Replies that are no answers: bytes as they are, vectors, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import attrs

from ..errors import ConfigurationError

FaultKind = Literal["reset", "cut", "stall", "garbage"]


@attrs.frozen
class Fault:
    """What goes wrong: ``fault`` says what each kind is."""

    kind: FaultKind

    def __attrs_post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ConfigurationError(f"a fault is one of {', '.join(get_args(FaultKind))}, not {self.kind!r}")

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
