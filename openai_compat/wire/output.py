"""Typed answers: what is asked of the server, and how its text becomes a value."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError, ResponseTypeError
from .decode import NotJSONError, decode_json
from .request import ChatRequest, request_messages
from .response import ChatResponse, ParsedResponse
from .schema import TypeSchema, ValidationError

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
MAX_PLACES = 100
"""Places in a text that are tried as the beginning of a JSON value."""


class Output:
    """The type of an answer.

    Args:
        response_type: what ``TypeSchema`` takes, or a JSON Schema as a dict (checked with ``jsonschema``, extra
            ``schema``).
        strict: in the subset of JSON Schema that OpenAI's strict mode enforces.

    Raises:
        ConfigurationError: no schema describes the type, or the schema is none.
    """

    def __init__(self, response_type: Any, *, strict: bool = False) -> None:
        self._type = _RawSchema(response_type) if isinstance(response_type, Mapping) else None
        typed = self._type or TypeSchema(response_type, strict=strict)
        self._convert = typed.convert
        root = _inlined(typed.schema)
        # Servers want an object at the root; anything else is put into one.
        self._wrapped = self._type is None and root.get("type") != "object"
        self.schema = _wrapped(root) if self._wrapped else root

    @classmethod
    def of(cls, response_type: Any, *, strict: bool = False) -> Output:
        """The same, made once for each type."""
        try:
            return _cached(response_type, strict)
        except TypeError:  # not hashable
            return cls(response_type, strict=strict)

    def asked(self, request: ChatRequest) -> ChatRequest:
        """A request that asks for the type.

        Raises:
            ConfigurationError: it asks for another schema already.
        """
        if request.response_schema is not None or request.response_format is not None:
            raise ConfigurationError("response_type is given, so response_schema and response_format cannot be")
        return attrs.evolve(request, response_schema=self.schema)

    def read(self, answer: ChatResponse) -> ParsedResponse[Any]:
        """The answer with its value.

        Raises:
            ResponseTypeError: its text does not fit, or it is a refusal.
        """
        if answer.tool_calls and not answer.text.strip():
            return _parsed(answer, None)
        error: ValidationError | None = None
        for value in _values(answer.text, bare=self._wrapped):
            try:
                return _parsed(answer, self._value(value))
            except ValidationError as problem:
                error = error or problem
        raise ResponseTypeError(
            _why(answer, error), path=error.path if error else "$", partial=answer, provider=answer.provider
        ) from error

    def _value(self, value: Any) -> Any:
        if self._wrapped and isinstance(value, dict) and value.keys() == {"value"}:
            value = value["value"]
        return self._convert(value)


@functools.lru_cache(maxsize=128)
def _cached(response_type: Any, strict: bool) -> Output:
    return Output(response_type, strict=strict)


def repair_request(request: ChatRequest, error: ResponseTypeError) -> ChatRequest:
    """The same question, with the answer that did not fit, and why."""
    messages: list[Any] = list(request_messages(request))
    if error.partial is not None:
        messages.append(error.partial.to_message())
    messages.append(
        {
            "role": "user",
            "content": f"That does not fit the schema: {error}. Answer again, with JSON that fits it and nothing else.",
        }
    )
    return attrs.evolve(request, prompt=None, system=None, images=(), audio=(), messages=messages)


def _parsed(answer: ChatResponse, value: Any) -> ParsedResponse[Any]:
    fields = {field.name: getattr(answer, field.name) for field in attrs.fields(ChatResponse)}
    return ParsedResponse(**fields, parsed=value)


def _why(answer: ChatResponse, error: ValidationError | None) -> str:
    if answer.refusal and not answer.text:
        return f"the model refused: {answer.refusal}"
    if answer.finish_reason == "length":
        return "the answer was cut off at max_tokens, before it fitted its type; raise max_tokens (text: .partial.text)"
    what = str(error) if error else "it has no JSON in it"
    return f"the answer does not fit its type: {what} (text: .partial.text)"


def _values(text: str, *, bare: bool) -> Iterator[Any]:
    """What may be meant in a text: all of it, else code fences, else JSON among words.

    Args:
        bare: the text itself may be the value, a word without quotes.
    """
    try:
        yield decode_json(text)
        return
    except NotJSONError:
        pass
    for fence in _FENCE.finditer(text):
        try:
            yield decode_json(fence[1])
        except NotJSONError:
            continue
    yield from _among_words(text)
    if bare:
        yield text.strip()


def _among_words(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    at = 0
    for _ in range(MAX_PLACES):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        try:
            value, at = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
        else:
            yield value


def _inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema itself where it is a reference to one of its own ``$defs``."""
    if set(schema) != {"$ref", "$defs"}:
        return dict(schema)
    name = schema["$ref"].rpartition("/")[2]
    own = schema["$defs"][name]
    others = {key: value for key, value in schema["$defs"].items() if key != name}
    if schema["$ref"] in json.dumps(list(schema["$defs"].values())):
        others = dict(schema["$defs"])
    return {**own, "$defs": others} if others else dict(own)


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    made: dict[str, Any] = {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {**made, "$defs": schema["$defs"]} if "$defs" in schema else made


class _RawSchema:
    """A JSON Schema of the user's; the value is the decoded JSON."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            import jsonschema
        except ImportError:
            raise ConfigurationError(
                "checking an answer against a JSON Schema needs jsonschema: pip install 'openai-compat[schema]'; "
                "response_schema= asks for the schema without checking"
            ) from None
        self.schema = dict(schema)
        kind = jsonschema.validators.validator_for(self.schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            raise ConfigurationError(f"response_type is no JSON Schema: {error.message}") from error
        self._validator = kind(self.schema)

    def convert(self, value: Any) -> Any:
        from jsonschema.exceptions import best_match

        error = best_match(self._validator.iter_errors(value))
        if error is not None:
            raise ValidationError(error.json_path, " ".join(error.message.split())[:300])
        return value
