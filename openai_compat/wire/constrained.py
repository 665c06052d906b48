"""Answers that are one of several choices, or match a regular expression: checked, whatever the server made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from .._json import NotJSONError, decode_json
from ..errors import ResponseTypeError
from ..schema.direct import refuse
from ..schema.problems import ValidationError
from ..schema.safe_search import TooLongError, found_in
from .constraints import value_schema
from .output import Output, is_cut, parsed_response
from .request import ChatRequest
from .response import ChatResponse, Choice, ParsedResponse


def constrained_output(request: ChatRequest) -> Output | None:
    """How the answer to a request with ``choice`` or ``regex`` is read; None for one without."""
    if request.choice:
        return ChoiceOutput(request.choice)
    return None if request.regex is None else RegexOutput(request.regex)


class _TextOutput(Output):
    """An answer that is a text, which is then its ``text`` and its ``parsed``; so are further ones that fit."""

    def _read(self, answer: ChatResponse) -> ParsedResponse[Any]:
        read = self._found(answer)
        first, *others = read.choices
        kept = (attrs.evolve(first, text=read.parsed), *(self._bare(answer, choice) for choice in others))
        return attrs.evolve(read, choices=kept)

    def _found(self, answer: ChatResponse) -> ParsedResponse[Any]:
        return super()._read(answer)

    def _bare(self, answer: ChatResponse, choice: Choice) -> Choice:
        try:
            return attrs.evolve(choice, text=self._found(attrs.evolve(answer, choices=(choice,))).parsed)
        except ResponseTypeError:
            return choice


class ChoiceOutput(_TextOutput):
    """An answer that is one of several texts, which is then its ``text`` and its ``parsed``."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__(Literal[choices])

    def _found(self, answer: ChatResponse) -> ParsedResponse[Any]:
        if (text := answer.text.strip()) in self.choices and not is_cut(answer):
            return parsed_response(answer, text)
        return super()._found(answer)


class RegexOutput(_TextOutput):
    """An answer that a regular expression matches as a whole; the text that does is its ``text`` and its ``parsed``."""

    def __init__(self, regex: str) -> None:
        super().__init__(str)
        self.schema: dict[str, Any] = value_schema({"type": "string", "pattern": f"^(?:{regex})$"})
        self._regex = regex
        self._convert = self._matching
        self._decode = refuse

    def _matching(self, value: Any) -> str:
        try:
            # The end of the text, and not that of its last line.
            if isinstance(value, str) and found_in(rf"\A(?:{self._regex})\Z", value):
                return value
        except TooLongError as error:
            raise ValidationError("$", str(error)) from None
        raise ValidationError("$", f"does not match {self._regex!r}")

    def _words(self, text: str, *, cut: bool) -> Iterator[str]:
        # What the server was told is anchored: the text is the match, or holds it as JSON. A match within a longer
        # text may be of something else.
        if not _is_wrapped(text) and not cut:
            yield text
            yield text.strip()


def _is_wrapped(text: str) -> bool:
    """Whether a text is the object that the value was to be put into."""
    try:
        value = decode_json(text)
    except NotJSONError:
        return False
    return isinstance(value, dict) and value.keys() == {"value"}
