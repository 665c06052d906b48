"""Typed answers: what is asked of the server, and how its text becomes a value."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import msgspec

from .._json import NotJSONError, decode_json, encode_json
from ..errors import ConfigurationError, ResponseTypeError
from ..schema.direct import Decode, refuse
from ..schema.json_value import decode_exactly
from ..schema.problems import ValidationError
from ..schema.raw_schema import RawSchema
from ..schema.strict import check_limits
from ..schema.types import TypeSchema
from .constraints import value_schema
from .request import ChatRequest, request_messages
from .response import UNKNOWN, ChatResponse, ParsedResponse, ended_by_itself

MAX_CANDIDATES = 100
"""Places of a text that are tried, the last ones: so many JSON values, and so many code fences."""

MAX_PROBLEM = 300
"""Characters of what is wrong with an answer that an error shows, and that the model is told."""

_FENCE = re.compile(r"```[\w-]*[ \t]*\r?\n(.*?)(```|\Z)", re.DOTALL)
# What follows tells JSON from other brackets: {name}, [note], and [0, 1) for an interval.
_OPENING = re.compile(
    r"""\{(?=\s*["'}]) | \[(?![^\[\]{}"()]*\)) (?=\s*(?:["'\[{\]\d-] | (?:true|false|null|NaN|Infinity)\b))""",
    re.VERBOSE,
)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)
_BEGINS_AS_JSON = re.compile(rf"\s*(?:```[\w-]*\s*)?(?:{_OPENING.pattern}|[\[{{]\s*\Z)", re.VERBOSE)
_BLANKS = " \t\r\n\ufeff"
_MARKUP = _BLANKS + "*_`"
_QUOTES = "\"'“”‘’"
_TOO_LONG = ("length", "max_tokens", "model_length")


class Output:
    """The type of an answer.

    Args:
        response_type: what ``TypeSchema`` takes, or what ``RawSchema`` takes as a dict (checked with ``jsonschema``,
            extra ``schema``).
        strict: in the subset of JSON Schema that OpenAI's strict mode enforces. A schema of the user's stays as it is.

    Raises:
        ConfigurationError: no schema describes the type, or the schema is none.
    """

    def __init__(self, response_type: Any, *, strict: bool = False) -> None:
        self.schema: dict[str, Any]
        self.choices: tuple[Any, ...] = ()
        self._wrapped = False
        self._strict = strict
        self._decode: Decode | None = None  # made where it is first needed
        if isinstance(response_type, Mapping):
            self._decode = refuse
            raw = RawSchema(response_type)
            self.schema, self._convert = raw.schema, raw.convert
            self._strict = strict or raw.strict
            if self._strict:
                check_limits(self.schema)
            return
        typed = self._typed = TypeSchema(response_type, strict=strict)
        self._convert = typed.convert
        self.schema = _inlined(typed.schema)
        # Servers want an object at the root; anything else is put into one.
        if self.schema.get("type") != "object":
            self._wrapped = True
            self.schema = _wrapped(self.schema)
            self.choices = _choices(self.schema["properties"]["value"])
        if strict:
            check_limits(self.schema)

    @classmethod
    def of(cls, response_type: Any, *, strict: bool = False) -> Output:
        """The same, made once for each type."""
        try:
            hash(response_type)
        except TypeError:
            return cls(response_type, strict=strict)
        # A | B equals B | A, but is another schema.
        return _cached(response_type, repr(response_type), strict)

    def asked(self, request: ChatRequest) -> ChatRequest:
        """A request that asks for the type.

        Raises:
            ConfigurationError: it asks for another schema already.
        """
        if request.response_schema is not None or request.response_format is not None or request.constrained:
            raise ConfigurationError(
                "response_type is given, so response_schema, response_format, choice, regex and grammar cannot be"
            )
        return attrs.evolve(request, response_schema=self.schema, strict=self._strict)

    def read(self, answer: ChatResponse) -> ParsedResponse[Any]:
        """The answer with its value; None where it calls tools.

        Raises:
            ResponseTypeError: its text does not fit, or it is a refusal.
        """
        if answer.tool_calls:
            return parsed_response(answer, None)
        return self._with_probabilities(self._read(answer))

    def _with_probabilities(self, answer: ParsedResponse[Any]) -> ParsedResponse[Any]:
        logprobs = answer.choices[0].logprobs if answer.choices else None
        if not self.choices or not logprobs:
            return answer
        from .choice_probabilities import choice_probabilities

        chosen = getattr(answer.parsed, "value", answer.parsed)  # of an Enum
        found = choice_probabilities(self.choices, chosen, logprobs)
        named = None if found is None else {self._convert(value): mass for value, mass in found.items()}
        return attrs.evolve(answer, choice_probabilities=named)

    def _read(self, answer: ChatResponse) -> ParsedResponse[Any]:
        problems: list[ValidationError] = []
        cut = is_cut(answer)
        if (value := self._decoded(_whole(answer.text, cut=cut))) is not msgspec.UNSET:
            return parsed_response(answer, value)
        for candidate in _candidates(answer.text, cut=cut):
            try:
                return parsed_response(answer, self._from_json(candidate))
            except ValidationError as problem:
                problems.append(problem)
        for word in self._words(answer.text, cut=cut):
            try:
                return parsed_response(answer, self._convert(word))
            except ValidationError as problem:
                problems.append(problem)
        # The one that got furthest names what was meant.
        nearest = max(problems, key=lambda problem: len(re.findall(r"[.\[]", problem.path)), default=None)
        raise ResponseTypeError(
            _why(answer, nearest),
            path=nearest.path if nearest else "$",
            partial=answer,
            provider=answer.provider,
            request_id=answer.request_id,
        ) from nearest

    def found(self, answer: ChatResponse) -> Any:
        """The JSON of which the answer's value is made; None where there is none."""
        for candidate in _candidates(answer.text, cut=is_cut(answer)):
            try:
                self._from_json(candidate)
            except ValidationError:
                continue
            return self.unwrapped(decode_json(candidate))
        return None

    def unwrapped(self, partial: Any) -> Any:
        """What has come of the value, out of the object that it was put into."""
        if self._wrapped and isinstance(partial, dict) and partial.keys() <= {"value"}:
            return partial.get("value")
        return partial

    def _words(self, text: str, *, cut: bool) -> Iterator[str]:
        """What of a text may be a value written without quotes; none where it begins as JSON, which then is broken.

        Where the text was ``cut``, only what stands in a code fence: "no" may be the beginning of "none". Even that is
        none where the whole text is a value, as any text is for ``str``: then the fence is a part of it.
        """
        if not self._wrapped or _BEGINS_AS_JSON.match(text) or (cut and self._fits(text)):
            return
        for words in (*(() if cut else (text,)), *_fences(text)[-1:]):
            for bare in (words.strip(_BLANKS), _bare(words), _bare(_bare(words).strip(_QUOTES))):
                if bare:
                    yield bare

    def _fits(self, value: Any) -> bool:
        try:
            self._convert(value)
        except ValidationError:
            return False
        return True

    def _decoded(self, text: str) -> Any:
        """The value, where it needs no more than to be decoded; else UNSET."""
        if self._decode is None:
            self._decode = self._typed.decoder("value" if self._wrapped else "") or refuse
        return self._decode(text)

    def _from_json(self, text: str) -> Any:
        if (decoded := self._decoded(text)) is not msgspec.UNSET:
            return decoded
        try:
            value = decode_exactly(text)
        except NotJSONError as error:
            raise ValidationError("$", f"not JSON: {error}") from None
        if not self._wrapped or not isinstance(value, dict) or value.keys() != {"value"}:
            return self._convert(value)
        try:
            return self._convert(value["value"])
        except ValidationError as problem:
            try:
                # A class whose only field is called value.
                return self._convert(value)
            except ValidationError:
                raise problem from None


@functools.lru_cache(maxsize=128)
def _cached(response_type: Any, shown: str, strict: bool) -> Output:
    return Output(response_type, strict=strict)


def repair_request(request: ChatRequest, error: ResponseTypeError, output: Output) -> ChatRequest:
    """The same question, with the answer that did not fit, and why; with the schema, which not every server shows."""
    messages: list[Any] = list(request_messages(request))
    if error.partial is not None:
        messages.append(error.partial.to_message())
    schema = encode_json(output.schema).decode()
    wish = f"That cannot be used: {error}. Answer again, with nothing but JSON that fits this schema: {schema}"
    messages.append({"role": "user", "content": wish})
    return attrs.evolve(request, prompt=None, system=None, images=(), audio=(), messages=messages)


def parsed_response(answer: ChatResponse, value: Any) -> ParsedResponse[Any]:
    """The answer with its value."""
    fields = {field.name: getattr(answer, field.name) for field in attrs.fields(ChatResponse)}
    return ParsedResponse(**fields, parsed=value)


def _why(answer: ChatResponse, problem: ValidationError | None) -> str:
    if answer.refusal and not answer.text:
        return f"the model refused: {answer.refusal}"
    reason = answer.finish_reason.lower()
    if reason in _TOO_LONG:
        return "the answer was cut off at max_tokens, before it fitted its type; raise max_tokens"
    if is_cut(answer):
        where = "by a content filter" if reason == "content_filter" else f"({reason})"
        where = "where its stream ended" if answer.truncated else where
        return f"the answer was cut off {where}, before it fitted its type"
    return f"the answer does not fit its type: {_cut(problem or 'it has no JSON in it')}"


def is_cut(answer: ChatResponse) -> bool:
    """Whether something ended an answer before the model did; where nobody says so, it is taken for whole."""
    return answer.truncated or not (answer.finish_reason in ("", UNKNOWN) or ended_by_itself(answer.finish_reason))


def _cut(problem: object) -> str:
    """What is wrong, in one line that does not grow with what the model wrote."""
    line = " ".join(str(problem).split())
    return line if len(line) <= MAX_PROBLEM else f"{line[:MAX_PROBLEM]}…"


def _candidates(text: str, *, cut: bool) -> Iterator[str]:
    """What of a text may be its JSON: all of it, else code fences, else objects and arrays among words.

    Of several the last comes first: before it stand examples and drafts. Where the text was ``cut``, only what is
    closed: ``12`` may be the beginning of 1234.
    """
    whole = _whole(text, cut=cut)
    if _is_json(whole):
        yield whole
        return
    yield from _fences(text)[: -MAX_CANDIDATES - 1 : -1]
    yield from _among_words(text)[: -MAX_CANDIDATES - 1 : -1]


def _whole(text: str, *, cut: bool) -> str:
    """All of a text, where that may be its JSON; else nothing."""
    whole = _bare(text)
    return "" if cut and whole[-1:] not in ("}", "]", '"') else whole


def _fences(text: str) -> list[str]:
    """What stands in code fences; nothing where the last is not closed: before it stand examples and drafts."""
    found = _FENCE.findall(text)
    if found and not found[-1][1] and found.pop()[0].strip():
        return []
    return [inner for inner, _ in found]


def _bare(text: str) -> str:
    """A text without the markup around it, and the full stop behind it; a point before digits is theirs."""
    return text.strip(_MARKUP).removesuffix(".").strip(_MARKUP)


def _is_json(text: str) -> bool:
    try:
        decode_json(text)
    except NotJSONError:
        return False
    return True


def _among_words(text: str) -> list[str]:
    """The objects and arrays in a text, whether well-formed or not. Looks at each character once.

    What stands within one is never taken alone, and where the text ends before the last one does, there is only that:
    else a piece, or an example before it, would pass for the whole.
    """
    found: list[str] = []
    at = 0
    while opening := _OPENING.search(text, at):
        start, depth = opening.start(), 0
        for mark in _STRING_OR_BRACKET.finditer(text, start):
            if mark[0] in ("{", "["):
                depth += 1
            elif mark[0] in ("}", "]"):
                depth -= 1
            if not depth:
                at = mark.end()
                break
        else:
            return [text[start:]]
        found.append(text[start:at])
    return found


def _inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema itself where it is a reference to one of its own ``$defs``."""
    if "$ref" not in schema:
        return dict(schema)
    made = {key: value for key, value in schema.items() if key != "$ref"}
    reference, definitions = schema["$ref"], dict(schema["$defs"])
    name = reference.rpartition("/")[2]
    made = {**definitions[name], **made}
    # A class that holds itself still needs its definition.
    if json.dumps(reference) not in json.dumps(definitions):
        del definitions[name]
    return {**made, "$defs": definitions} if definitions else {key: made[key] for key in made if key != "$defs"}


def _choices(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that a schema allows, where it names them."""
    listed = schema.get("enum", (True, False) if schema.get("type") == "boolean" else ())
    return tuple(listed) if all(isinstance(value, (str, int, float)) or value is None for value in listed) else ()


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    made = value_schema(inner)
    return {**made, "$defs": schema["$defs"]} if "$defs" in schema else made
