"""Functions as tools: the schema that the model is told, and the running of a call."""

from __future__ import annotations

import enum
import json
import logging
from typing import Annotated, Any, Literal

import attrs
import jsonschema
import msgspec
import pytest

from openai_compat import ConfigurationError, Tool, ToolCall, ToolDispatcher, ToolSpec, tool
from openai_compat.tools import Toolbox, run_call


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


@attrs.define
class Place:
    city: str
    country: str = "NO"


@tool
def forecast(place: Place, days: Annotated[int, msgspec.Meta(ge=1, le=7)] = 3, unit: Unit = Unit.C) -> Any:
    """The weather to come.

    More about it, which the model need not know.
    """
    return f"{place.city}/{place.country} {days} {unit.name}"


def test_the_schema_comes_from_the_signature() -> None:
    spec = forecast.spec
    assert (spec.name, spec.description) == ("forecast", "The weather to come.")
    schema = dict(spec.parameters)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"] == {"type": "integer", "minimum": 1, "maximum": 7, "default": 3}
    assert schema["$defs"]["Place"]["required"] == ["city"]


def test_a_tool_is_still_the_function() -> None:
    assert forecast(Place("Oslo")) == "Oslo/NO 3 C"
    assert repr(forecast) == "Tool('forecast')"
    assert tool(forecast) is forecast


def test_arguments_are_converted_before_the_function_runs() -> None:
    assert forecast.run({"place": {"city": "Rome", "country": "IT"}, "unit": "fahrenheit"}) == "Rome/IT 3 F"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"missing required field `place`"),
        ({"place": "Oslo"}, r"\$\.place"),
        ({"place": {"city": 3}}, r"got `int`.*\$\.place\.city"),
        ({"place": {"city": "x"}, "days": 9}, r"\$\.days"),
        ({"place": {"city": "x"}, "speed": 1}, r"unknown field `speed`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_their_path(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast.run(arguments)


def positional(a: int, /) -> None: ...


def starred(*a: int) -> None: ...


def double_starred(**a: int) -> None: ...


def odd(a: complex) -> None: ...


@pytest.mark.parametrize("function", [positional, starred, double_starred, odd])
def test_a_signature_that_cannot_be_described_is_refused_by_its_parameter(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="'a'"):
        tool(function)


def test_a_name_and_description_of_ones_own() -> None:
    made = Tool(lambda mode: mode, name="set_mode", description="Set it.")
    assert (made.spec.name, made.spec.description) == ("set_mode", "Set it.")
    assert made.run({"mode": [1]}) == [1]


def call_for(name: str, arguments: dict[str, Any] | None, text: str = "") -> ToolCall:
    return ToolCall(
        id="c1", name=name, arguments=arguments, arguments_json=text or json.dumps(arguments), invalid=arguments is None
    )


def give(what: Literal["text", "list", "none", "value", "object", "raise"]) -> Any:
    """Give."""
    if what == "raise":
        raise RuntimeError("it broke")
    results = {"text": "t", "list": [1], "none": None, "value": Place("Oslo"), "object": object()}
    return results[what]


@pytest.mark.parametrize(
    ("call", "content"),
    [
        (call_for("give", {"what": "text"}), "t"),
        (call_for("give", {"what": "list"}), "[1]"),
        (call_for("give", {"what": "none"}), "null"),
        (call_for("give", {"what": "value"}), '{"city":"Oslo","country":"NO"}'),
        (call_for("give", {"what": "raise"}), '{"error":"RuntimeError: it broke"}'),
        (call_for("give", {"what": "object"}), '{"error":"TypeError: Encoding objects of type object is unsupported"}'),
    ],
)
def test_results_become_text_and_failures_are_told_to_the_model(call: ToolCall, content: str) -> None:
    message = run_call(Toolbox([give]), call)
    assert (message.role, message.tool_call_id, message.content) == ("tool", "c1", content)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (call_for("give", {"what": "nothing"}), "Invalid enum value 'nothing' - at `$.what`"),
        (call_for("take", {}), "there is no tool named 'take'; there are give"),
        (call_for("give", None, '{"what": "te'), 'not a JSON object: {"what": "te'),
    ],
)
def test_a_call_that_makes_no_sense_is_told_to_the_model_not_run(call: ToolCall, words: str) -> None:
    content = run_call(Toolbox([give]), call).content
    assert words in json.loads(str(content))["error"]


def test_a_tool_that_fails_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    run_call(Toolbox([give]), call_for("give", {"what": "raise"}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is not None


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_not_swallowed(leaving: type[BaseException]) -> None:
    def leave() -> None:
        raise leaving

    with pytest.raises(leaving):
        run_call(Toolbox([leave]), call_for("leave", {}))


def test_a_dispatcher_of_ones_own_runs_specified_tools() -> None:
    class Mine:
        def call(self, name: str, arguments: Any) -> Any:
            return {name: arguments}

    assert isinstance(Mine(), ToolDispatcher)
    box = Toolbox([ToolSpec("far", "Away."), give], Mine())
    assert box.call("far", {"x": 1}) == {"far": {"x": 1}}
    assert box.call("give", {"what": "text"}) == "t"
    assert len(box.specs) == 2


def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs dispatcher"):
        Toolbox([ToolSpec("far")])
    with pytest.raises(ConfigurationError, match="two tools"):
        Toolbox([give, give])
    with pytest.raises(ConfigurationError, match="a tool is"):
        Toolbox(["give"])
