"""What an answer may be made of: one of several choices, a regular expression, a grammar; and how servers take that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from ..errors import ConfigurationError

ChoiceAs = Literal["enum", "strict", "structured_outputs", "guided", "regex", "grammar"]
RegexAs = Literal["pattern", "strict", "structured_outputs", "guided", "regex", "none"]
GrammarAs = Literal["grammar", "ebnf", "structured_outputs", "guided", "response_format", "none"]

CHOICE_WAYS: tuple[str, ...] = ("enum", "strict", "structured_outputs", "guided", "regex", "grammar")
REGEX_WAYS: tuple[str, ...] = ("pattern", "strict", "structured_outputs", "guided", "regex", "none")
GRAMMAR_WAYS: tuple[str, ...] = ("grammar", "ebnf", "structured_outputs", "guided", "response_format", "none")


@attrs.frozen(kw_only=True)
class Constraints:
    """How a server is told what an answer may be made of.

    Args:
        choice: ``enum`` and ``strict`` in a JSON Schema, the second under OpenAI's strict mode; ``structured_outputs``
            and ``guided`` as vLLM has them, now and before 0.12; ``regex`` as SGLang; ``grammar`` as llama.cpp.
        regex: as a ``pattern`` in a JSON Schema, or ``strict``; the others as for choices; ``none``: it takes none.
        grammar: the name of the field; ``response_format`` as Fireworks has it; ``none``: it takes none.
        top_logprobs: how many likely tokens may be asked for with each token; OpenAI and vLLM give 20.
    """

    choice: ChoiceAs = "enum"
    regex: RegexAs = "pattern"
    grammar: GrammarAs = "none"
    top_logprobs: int = 20


DEFAULT = Constraints()


def choices_of(value: Any) -> tuple[str, ...]:
    """Choices as they are given: several different texts.

    Raises:
        ConfigurationError: they are not.
    """
    from .plain import text

    if value is None or value == ():
        return ()
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"choice is a list of strings, not {type(value).__name__}")
    made = tuple(dict.fromkeys(text(item, "a choice") for item in value))
    if not made or not all(choice.strip() == choice != "" for choice in made):
        raise ConfigurationError("choice is a list of strings, each with text and without blanks around it")
    return made


def pattern_of(value: Any) -> str | None:
    """A regular expression as it is given: a string, or a pattern without flags.

    Raises:
        ConfigurationError: it is none.
    """
    from .plain import text

    if value is None:
        return None
    flags = value.flags if isinstance(value, re.Pattern) else 0
    pattern = text(value.pattern if isinstance(value, re.Pattern) else value, "regex")
    try:
        flags |= re.compile(pattern).flags
        if not flags & ~re.UNICODE:
            re.compile(f"(?:{pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"regex is no regular expression: {error}") from error
    if flags & ~re.UNICODE:
        raise ConfigurationError("regex has flags, which servers do not take: write [Yy]es for (?i)yes")
    return pattern


def constrained_fields(
    choice: tuple[str, ...], regex: str | None, grammar: str | None, ways: Constraints
) -> dict[str, Any]:
    """The fields of a body that ask for it.

    Raises:
        ConfigurationError: the server cannot be asked for that.
    """
    if choice:
        return _choice_fields(choice, ways.choice)
    if regex is not None:
        return _regex_fields(regex, ways.regex)
    return _grammar_fields(grammar or "", ways.grammar)


def _choice_fields(choice: tuple[str, ...], way: ChoiceAs) -> dict[str, Any]:
    match way:
        case "structured_outputs":
            return {"structured_outputs": {"choice": list(choice)}}
        case "guided":
            return {"guided_choice": list(choice)}
        case "regex":
            return {"regex": f"({'|'.join(map(_literally, choice))})"}
        case "grammar":
            return {"grammar": f"root ::= {' | '.join(json.dumps(one, ensure_ascii=False) for one in choice)}"}
        case _:
            return _as_schema({"type": "string", "enum": list(choice)}, strict=way == "strict")


def _regex_fields(regex: str, way: RegexAs) -> dict[str, Any]:
    bare = _without_anchors(regex)
    match way:
        case "structured_outputs":
            return {"structured_outputs": {"regex": bare}}
        case "guided":
            return {"guided_regex": bare}
        case "regex":
            return {"regex": bare}
        case "none":
            raise ConfigurationError(
                "this server enforces no regular expression; ask for a response_type, whose bounds are checked"
            )
        case _:
            # llama.cpp takes a pattern only with both anchors; in JSON Schema one without them matches anywhere.
            return _as_schema({"type": "string", "pattern": f"^({bare})$"}, strict=way == "strict")


def _grammar_fields(grammar: str, way: GrammarAs) -> dict[str, Any]:
    match way:
        case "structured_outputs":
            return {"structured_outputs": {"grammar": grammar}}
        case "guided":
            return {"guided_grammar": grammar}
        case "response_format":
            return {"response_format": {"type": "grammar", "grammar": grammar}}
        case "none":
            raise ConfigurationError(
                "this server takes no grammar, or is not known to: name one that does (provider='llamacpp', 'vllm', "
                "'sglang', 'fireworks'), or give Client(dialect=...) what openai-compat probe found; "
                "OpenAI takes one in a tool: ToolSpec(type='custom', grammar=...)"
            )
        case _:
            return {way: grammar}


def value_schema(inner: Mapping[str, Any]) -> dict[str, Any]:
    """A schema for an object with one ``value``: servers want an object at the root."""
    return {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
    }


def _as_schema(inner: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    named = {"name": "output", "schema": value_schema(inner), "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def names_choices(schema: Mapping[str, Any] | None) -> bool:
    """Whether a schema is for an object with one ``value`` of a few that it names."""
    properties = schema.get("properties") if schema is not None else None
    value = properties.get("value") if isinstance(properties, Mapping) and len(properties) == 1 else None
    return isinstance(value, Mapping) and ("enum" in value or value.get("type") == "boolean")


def _literally(choice: str) -> str:
    # ``re.escape`` also escapes blanks and dashes, which other engines refuse.
    return re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", choice)


def _without_anchors(regex: str) -> str:
    """An expression without anchors around it, which is to match the whole answer anyway."""
    if regex.startswith("^") and regex.endswith("$") and not regex.endswith("\\$") and not _branches(regex):
        return regex[1:-1]
    return regex


def _branches(regex: str) -> bool:
    """Whether ``|`` stands outside all brackets, so that an anchor belongs to one branch alone."""
    depth, bare = 0, re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]", "", regex)
    for character in bare:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            return True
    return False
