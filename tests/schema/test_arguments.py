"""What a schema by hand offers: the names and values that a call may have."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat import ConfigurationError
from openai_compat.schema import arguments
from openai_compat.schema.arguments import OfferedArguments, offered_arguments
from openai_compat.schema.problems import ValidationError

FOLDER = {"folder": {"type": "string"}}
NODE = {
    "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "n": {"type": "integer"}}}},
    "type": "object",
    "properties": {"head": {"$ref": "#/$defs/Node"}},
}
REFERRED = {
    "$defs": {"a b/c": {"properties": {"x": {}}}, "B": {"$anchor": "B", "properties": {"y": {}}}},
    "properties": {"a": {"$ref": "#/$defs/a%20b~1c"}, "b": {"$ref": "#B"}},
}
UNION = {"properties": {"x": {"anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {"properties": {"c": {}}}}}]}}}


def chain(depth: int, **last: Any) -> dict[str, Any]:
    made: dict[str, Any] = last
    for _ in range(depth):
        made = {"next": made}
    return {"head": made}


@pytest.fixture(params=["with jsonschema", "without"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_has_jsonschema", lambda: request.param == "with jsonschema")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("schema", "given", "problem"),
    [
        ({"properties": FOLDER}, {"folder": "in"}, None),
        ({"properties": FOLDER}, {"folder": "in", "user": "victim"}, "$.user: no such field"),
        ({"properties": FOLDER, "additionalProperties": False}, {"user": 1}, "$.user: no such field"),
        ({"properties": FOLDER, "additionalProperties": True}, {"user": 1}, None),
        ({"properties": FOLDER, "additionalProperties": {"type": "integer"}}, {"user": 1}, None),
        ({"properties": FOLDER, "additionalProperties": {"type": "integer"}}, {"user": "1"}, "$.user: expected"),
        ({"patternProperties": {"^x-": {"type": "string"}}}, {"x-a": "1"}, None),
        ({"patternProperties": {"^x-": {"type": "string"}}}, {"user": "1"}, "$.user: no such field"),
        ({}, {}, None),
        ({}, {"user": 1}, "$.user: no such field"),
        ({"type": "object"}, {"user": 1}, "$.user: no such field"),
        ({"properties": {"x": {"type": "object"}}}, {"x": {"any": 1}}, None),
        ({"properties": {"x": {"properties": FOLDER}}}, {"x": {"folder": "in", "user": 1}}, "$.x.user: no such field"),
        ({"properties": {"x": {"items": {"properties": FOLDER}}}}, {"x": [{}, {"user": 1}]}, "$.x[1].user: no such"),
        ({"allOf": [{"properties": FOLDER}, {"properties": {"n": {}}}]}, {"folder": "in", "n": 1}, None),
        ({"allOf": [{"properties": FOLDER}, {"properties": {"n": {}}}]}, {"user": 1}, "$.user: no such field"),
        (REFERRED, {"a": {"x": 1}, "b": {"y": 1}}, None),
        (REFERRED, {"a": {"y": 1}}, "$.a.y: no such field"),
        (REFERRED, {"b": {"x": 1}}, "$.b.x: no such field"),
        (UNION, {"x": {"a": 1}}, None),
        (UNION, {"x": {"b": {"c": 1}}}, None),
        (UNION, {"x": {"b": {"d": 1}}}, "$.x.b.d: no such field"),
        (NODE, chain(50, n=1), None),
        (NODE, chain(2, n="1"), "$.head.next.next.n: expected integer, got str"),
        (NODE, chain(2, user="1"), "$.head.next.next.user: no such field"),
        ({"properties": {"zone": {"type": "string"}}}, {"zone": {"x": 1}}, "$.zone: expected string, got object"),
        ({"properties": {"n": {"type": "integer"}}}, {"n": True}, "$.n: expected integer, got bool"),
        ({"properties": {"n": {"type": "integer"}}}, {"n": 3.0}, None),
        ({"properties": {"n": {"type": ["integer", "null"]}}}, {"n": None}, None),
        ({"properties": {"n": {"type": ["integer", "null"]}}}, {"n": "1"}, "$.n: expected integer or null, got str"),
        ({"properties": {"u": {"enum": ["C", "F"]}}}, {"u": "K"}, '$.u: expected "C" | "F"'),
        ({"properties": {"u": {"const": 1}}}, {"u": True}, "$.u: expected 1"),
        ({"properties": FOLDER, "required": ["folder"]}, {}, "$.folder: required, but missing"),
    ],
)
def test_what_is_offered(schema: Any, given: dict[str, Any], problem: str | None) -> None:
    offered = OfferedArguments(schema)
    if problem is None:
        offered.check(given)
        return
    with pytest.raises(ValidationError) as caught:
        offered.check(given)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "pattern": "^[a-z]+$"}, "A"),
        ({"type": "integer", "maximum": 7}, 8),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, None),
        ({"type": "string", "pattern": "^([a-z]+)+$"}, "a" * 50 + "!"),
        ({"type": "string", "pattern": "^(?=a)(a+)+$"}, "a" * 2000),
    ],
)
def test_jsonschema_checks_everything_else(schema: Any, value: Any) -> None:
    with pytest.raises(ValidationError, match=r"^\$\.x: ") as caught:
        OfferedArguments({"properties": {"x": schema}}).check({"x": value})
    assert len(str(caught.value)) < 600, "the model is not told all that it sent"


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="parameters is no JSON Schema: 'text' is not valid"):
        offered_arguments({"properties": {"x": {"type": "text"}}})
    with pytest.raises(ConfigurationError, match="parameters is no JSON Schema: object has no JSON form"):
        offered_arguments({"properties": {"x": object()}})
    offered_arguments({"properties": {"x": {"type": "text"}}}, values=False).check({"x": 1})


def test_names_that_are_hidden_pass_no_schema() -> None:
    with pytest.raises(ValidationError, match=r"^\$\.user: no such field$"):
        OfferedArguments({"additionalProperties": True}).check({"user": 1}, hidden={"user"})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
types = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
schemas = st.recursive(
    st.fixed_dictionaries({}, optional={"type": types | st.lists(types, min_size=1, max_size=2, unique=True)})
    | st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)}),
    lambda inner: (
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2)},
            optional={"additionalProperties": st.booleans() | inner, "required": st.sampled_from([[], ["a"]])},
        )
        | st.fixed_dictionaries({"items": inner})
        | st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)})
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), schemas, max_size=3), st.dictionaries(st.sampled_from("abc"), values))
def test_nothing_is_refused_that_jsonschema_takes_but_names(properties: Any, given: Any) -> None:
    schema = {"type": "object", "properties": properties}
    try:
        OfferedArguments(schema).check(given)
        refused = ""
    except ValidationError as error:
        refused = error.problem
    fits = jsonschema.Draft202012Validator(schema).is_valid(json.loads(json.dumps(given)))
    assert fits or refused
    assert not refused or not fits or refused == "no such field"


def test_a_name_that_a_model_made_very_long_is_told_in_part() -> None:
    with pytest.raises(ValidationError) as told:
        offered_arguments({"type": "object", "properties": {"a": {}}}).check({"b" * 1_000_000: 1})
    assert "no such field" in str(told.value)
    assert len(str(told.value)) < 500
