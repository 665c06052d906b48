"""One request of many, and what became of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs

from ..wire.embeddings import Vector
from ..wire.embeddings_request import Input
from ..wire.prices import Charge
from ..wire.request import ChatRequest
from ..wire.response import ChatResponse
from ..wire.retry import Attempt

R = TypeVar("R", bound=ChatResponse, covariant=True)


@attrs.frozen(kw_only=True)
class MapResult(Generic[R]):
    """A request with its answer, or with the exception in its place.

    Args:
        index: the request's place in what was given to ``map``, from 0.
        custom_id: the name that it was given; None where it had none.
        request: as it was asked, with the model.
        response: the answer; None where ``error`` says why there is none.
        error: what ``chat`` raised.
        seconds: from taking up the request to its answer, retries and waits included.
        from_journal: whether it was answered, or failed, in an earlier run.
    """

    index: int
    request: ChatRequest
    custom_id: str | None = None
    response: R | None = None
    error: Exception | None = None
    seconds: float = attrs.field(default=0.0, eq=False)
    from_journal: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    @property
    def text(self) -> str:
        """The answer's text; the empty string where there is none."""
        return self.response.text if self.response is not None else ""

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and the answer; 0 where there is none."""
        return self.response.input_tokens + self.response.output_tokens if self.response is not None else 0

    @property
    def charges(self) -> tuple[Charge, ...]:
        """The tokens of each reply that the answer took, and how they are paid."""
        return self.response.charges if self.response is not None else ()

    @property
    def cost(self) -> float | None:
        """US dollars; None where there is no answer, or where a price is not known."""
        return self.response.cost if self.response is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What was sent, in order."""
        came = self.response if self.response is not None else self.error
        found: tuple[Attempt, ...] = getattr(came, "attempts", ())
        return found

    @property
    def parsed(self) -> Any:
        """The answer's value where ``map`` had a ``response_type``.

        Raises:
            The error, where there is no answer.
            AttributeError: no ``response_type`` was given.
        """
        return self.result().parsed  # type: ignore[attr-defined]

    def result(self) -> R:
        """The answer.

        Raises:
            The error, where there is none.
        """
        if self.error is not None:
            raise self.error
        assert self.response is not None
        return self.response


def _show_vector(vector: Vector | None) -> str:
    return "None" if vector is None else f"<{len(vector)} float32>"


@attrs.frozen(kw_only=True)
class EmbeddingResult:
    """A text with its vector, or with the exception in its place.

    Args:
        index: the text's place in what was given to ``map_embeddings``, from 0.
        custom_id: the name that it was given; None where it had none.
        input: the text, or the ids of its tokens.
        embedding: float32 numbers, as a ``memoryview``; None where ``error`` says why there is none.
        error: what ``embed`` raised.
        tokens: its part of those of the request that it was in; 0 where another one was asked for the same text.
        charges: of the first text of a request, its tokens in all, and how they are paid; empty for the others.
        seconds: how long that request took, retries and waits included.
        from_journal: whether it was embedded, or failed, in an earlier run.
    """

    index: int
    input: Input
    custom_id: str | None = None
    embedding: Vector | None = attrs.field(default=None, repr=_show_vector)
    error: Exception | None = None
    tokens: int = 0
    charges: tuple[Charge, ...] = attrs.field(default=(), eq=False, repr=False)
    seconds: float = attrs.field(default=0.0, eq=False)
    from_journal: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a vector."""
        return self.error is None

    def result(self) -> Vector:
        """The vector.

        Raises:
            The error, where there is none.
        """
        if self.error is not None:
            raise self.error
        assert self.embedding is not None
        return self.embedding

    def __reduce__(self) -> tuple[Any, ...]:
        # A memoryview cannot be pickled; its bytes can.
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return _restored, ({**fields, "embedding": self.embedding and bytes(self.embedding)},)


def _restored(fields: dict[str, Any]) -> EmbeddingResult:
    packed = fields["embedding"]
    return EmbeddingResult(**{**fields, "embedding": None if packed is None else memoryview(packed).cast("f")})
