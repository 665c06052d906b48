"""One request of many, and what became of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs

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
