"""Questions about what an answer may be made of: a schema, an expression, a grammar; each with one no model hits on."""

from __future__ import annotations

import re
from typing import Any

from .._json import NotJSONError, decode_json
from ..wire.constraints import value_schema
from .asking import Answer
from .question import Context, Question
from .report import Finding

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["teal", "mauve"]}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
PATTERN: str = "zq[0-9][0-9]"
GRAMMAR: str = 'root ::= "zq" [0-9] [0-9]'
_HELLO = "Say hello."


def ask_schema(context: Context) -> None:
    """Whether a schema is obeyed that the question says nothing of."""
    answer = context.chat(_HELLO, response_format=_named(SCHEMA))
    if not answer.ok:
        context.found("json_schema", "no", answer.refusal)
    elif _fits(_json(answer)):
        context.found("json_schema", "yes", "obeyed")
    else:
        context.found("json_schema", "ignored", "the answer is other JSON" if _json(answer) else "the answer is text")


def ask_object(context: Context) -> None:
    """Whether the answer is JSON where that is all that is asked."""
    answer = context.chat("Say hello, as a JSON object.", tokens=96, response_format={"type": "json_object"})
    if not answer.ok:
        context.found("json_object", "no", answer.refusal)
    elif isinstance(_json(answer), dict):
        context.found("json_object", "yes")
    elif answer.text.startswith("{"):
        context.found("json_object", "unclear", "JSON that came to no end")
    else:
        context.found("json_object", "ignored", "the answer is text")
    told = {row.name: row.finding for row in context.rows}
    # What was not asked about, or not answered, is not given up for another way.
    if told.get("json_schema", "failed") != "failed" and (context.has("json_schema") or "tools_forced" in told):
        context.learn(schema_as=_best_way(context))


def _best_way(context: Context) -> Any:
    ways = {"json_schema": "json_schema", "tools_forced": "tool", "json_object": "json_object"}
    return next((way for name, way in ways.items() if context.has(name)), "prompt")


def ask_regex(context: Context) -> None:
    """Which of the ways to give a regular expression works, if any."""
    ways: dict[str, dict[str, Any]] = {
        "structured_outputs": {"structured_outputs": {"regex": PATTERN}},
        "regex": {"regex": PATTERN},
        "guided": {"guided_regex": PATTERN},
        "pattern": {"response_format": _named(value_schema({"type": "string", "pattern": f"^{PATTERN}$"}))},
    }
    way, refused = _first_that_works(context, ways)
    context.found("regex", *_said(_WORDS.get(way, f"as {way}") if way else "", refused))
    context.constrain(regex=way or "none", choice=way if way in ("structured_outputs", "regex", "guided") else "enum")


def ask_grammar(context: Context) -> None:
    """Which of the ways to give a grammar works, if any."""
    ways: dict[str, dict[str, Any]] = {
        "structured_outputs": {"structured_outputs": {"grammar": GRAMMAR}},
        "grammar": {"grammar": GRAMMAR},
        "ebnf": {"ebnf": GRAMMAR},
        "response_format": {"response_format": {"type": "grammar", "grammar": GRAMMAR}},
    }
    way, refused = _first_that_works(context, ways)
    context.found("grammar", *_said(f"as {way}" if way else "", refused))
    context.constrain(grammar=way or "none")


_WORDS = {
    "pattern": "as pattern in a schema",
    "structured_outputs": "as structured_outputs",
    "guided": "as guided_regex",
}


def _first_that_works(context: Context, ways: dict[str, dict[str, Any]]) -> tuple[str, str]:
    refused = ""
    for way, fields in ways.items():
        answer = context.chat(_HELLO, tokens=24, **fields)
        refused = refused or answer.refusal
        said = _json(answer)
        text = said.get("value") if isinstance(said, dict) else answer.text
        if answer.ok and isinstance(text, str) and re.fullmatch(PATTERN, text):
            return way, ""
    return "", refused


def _said(way: str, refused: str) -> tuple[Finding, str]:
    if way:
        return "yes", way
    return ("no", refused) if refused else ("ignored", "none of the fields for it has an effect")


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": True}}


def _json(answer: Answer) -> Any:
    try:
        return decode_json(answer.text)
    except NotJSONError:
        return None


def _fits(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"colour", "count"}
        and value["colour"] in ("teal", "mauve")
        and isinstance(value["count"], int)
    )


_GROUP = "structured answers"
QUESTIONS = (
    Question(names=("json_schema",), ask=ask_schema, requests=1, group=_GROUP, needs="chat"),
    Question(names=("json_object",), ask=ask_object, requests=1, group=_GROUP, needs="chat"),
    Question(names=("regex",), ask=ask_regex, requests=4, group=_GROUP, needs="chat"),
    Question(names=("grammar",), ask=ask_grammar, requests=4, group=_GROUP, needs="chat"),
)
