"""Functions as tools: the schema that the model is told, and the running of a call."""

from __future__ import annotations

import builtins
import enum
import functools
from typing import Annotated, Any

import attrs
import jsonschema
import msgspec
import pytest
from support.ids import without_address

from openai_compat import CancelToken, ConfigurationError, Tool, ToolDispatcher, ToolError, ToolSpec, tool
from openai_compat.tools.tool import Toolbox


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

    Of any
    place.
    """
    return f"{place.city}/{place.country} {days} {unit.name}"


def test_the_schema_comes_from_the_signature() -> None:
    spec = forecast.spec
    assert (spec.name, spec.description) == ("forecast", "The weather to come.\n\nOf any place.")
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
        ({}, r"^\$\.place: required, but missing$"),
        ({"place": "Oslo"}, r"^\$\.place: expected object, got str$"),
        ({"place": {"city": 3}}, r"^\$\.place\.city: expected str, got int$"),
        ({"place": {"city": "x"}, "days": 9}, r"^\$\.days: expected int <= 7$"),
        ({"place": {"city": "x"}, "speed": 1}, r"^\$\.speed: no such field$"),
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


# What docstrings say


def google(city: str, days: int = 1) -> str:
    """The weather to come.

    For any place
    on Earth.

    Args:
        city: A city,
            in English.
        days (int): How many.

    Returns:
        Words.
    """
    return city


def numpy_style(city: str, days: int = 1) -> str:
    """The weather to come.

    For any place
    on Earth.

    Parameters
    ----------
    city : str
        A city,
        in English.
    days : int
        How many.
    """
    return city


def sphinx(city: str, days: int = 1) -> str:
    """The weather to come.

    For any place
    on Earth.

    :param city: A city,
        in English.
    :param days: How many.
    :returns: Words.
    """
    return city


@pytest.mark.parametrize("function", [google, numpy_style, sphinx])
def test_a_docstring_describes_the_tool_and_its_parameters(function: Any) -> None:
    spec = tool(function).spec
    assert spec.description == "The weather to come.\n\nFor any place on Earth."
    properties = spec.parameters["properties"]
    assert properties["city"] == {"type": "string", "description": "A city, in English."}
    assert properties["days"] == {"type": "integer", "description": "How many.", "default": 1}


def test_an_annotation_says_it_better_than_the_docstring() -> None:
    def forecast(city: Annotated[str, "Annotated."], days: int) -> None:
        """Weather.

        Args:
            city: Documented.
            days: Counted.
        """

    properties = tool(forecast).spec.parameters["properties"]
    assert (properties["city"]["description"], properties["days"]["description"]) == ("Annotated.", "Counted.")


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (None, ""),
        ("", ""),
        ("  One.  ", "One."),
        ("One.\n\n\nTwo\n  three.", "One.\n\nTwo three."),
        ("Args:\n    a: b", ""),
    ],
)
def test_any_docstring_will_do(text: str | None, description: str) -> None:
    def call(a: int = 1) -> None: ...

    call.__doc__ = text
    assert tool(call).spec.description == description


def test_without_the_parser_the_parameters_go_undescribed_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "docstring_parser":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    spec = tool(google).spec
    assert spec.description == "The weather to come.\n\nFor any place on Earth."
    assert spec.parameters["properties"]["city"] == {"type": "string"}
    assert "openai-compat[tools]" in caplog.text
    caplog.clear()
    tool(forecast.function)
    assert not caplog.records, "nothing is lost of a docstring without parameters"


# Kinds of callables


class Desk:
    """A desk."""

    def __init__(self, name: str = "d") -> None:
        self.name = name

    @tool
    def decorated(self, a: int) -> str:
        """Decorated."""
        return f"{self.name}{a}"

    @tool(name="renamed")
    @staticmethod
    def static(a: int) -> str:
        return f"static{a}"

    def plain(self, a: int) -> str:
        """Plain."""
        return f"{self.name}{a}"

    def __call__(self, a: int) -> str:
        return f"called{a}"


class Bell:
    """A bell."""

    def __call__(self, a: int) -> int:
        """Ring it."""
        return a


@attrs.frozen
class Documented:
    """What is inherited."""

    id: int


class Order(Documented):
    pass


class Told(Documented):
    """Its own."""


def add(a: int, b: int) -> str:
    """Add."""
    return f"{a}+{b}"


@functools.wraps(add)
def wrapper(*args: Any, **kwargs: Any) -> str:
    return add(*args, **kwargs)


def keyword_only(*, a: Any) -> Any:
    return a


CALLABLES: dict[str, tuple[Any, str, str, dict[str, Any], Any]] = {
    "function": (add, "add", "Add.", {"a": 1, "b": 2}, "1+2"),
    "partial-by-name": (functools.partial(add, b=5), "add", "Add.", {"a": 1}, "1+5"),
    "partial-by-place": (functools.partial(add, 7), "add", "Add.", {"b": 2}, "7+2"),
    "partial-of-a-partial": (functools.partial(functools.partial(add, b=5), a=4), "add", "Add.", {}, "4+5"),
    "wrapped": (wrapper, "add", "Add.", {"a": 1, "b": 2}, "1+2"),
    "method-whose-instance-is-given": (functools.partial(Desk.plain, Desk("m")), "plain", "Plain.", {"a": 1}, "m1"),
    "method": (Desk("m").plain, "plain", "Plain.", {"a": 1}, "m1"),
    "decorated-method": (Desk("x").decorated, "decorated", "Decorated.", {"a": 1}, "x1"),
    "static-method": (Desk("x").static, "renamed", "", {"a": 1}, "static1"),
    "callable-object": (Desk(), "Desk", "A desk.", {"a": 1}, "called1"),
    "callable-object-that-says-what": (Bell(), "Bell", "Ring it.", {"a": 1}, 1),
    "class": (Order, "Order", "", {"id": 1}, Order(1)),
    "class-with-words": (Told, "Told", "Its own.", {"id": 1}, Told(1)),
    "keyword-only": (keyword_only, "keyword_only", "", {"a": 1}, 1),
}


@pytest.mark.parametrize(("function", "name", "text", "arguments", "result"), CALLABLES.values(), ids=CALLABLES)
def test_anything_that_can_be_called_can_be_a_tool(
    function: Any, name: str, text: str, arguments: dict[str, Any], result: Any
) -> None:
    made = tool(function)
    assert (made.spec.name, made.spec.description) == (name, text)
    assert set(made.spec.parameters["properties"]) == set(arguments)
    assert made.run(arguments) == result


def test_what_a_partial_fixes_is_out_of_the_models_reach() -> None:
    made = tool(functools.partial(add, b=5))
    with pytest.raises(ValueError, match=r"\$\.b: no such field"):
        made.run({"a": 1, "b": 6})


def test_two_instances_have_tools_of_their_own() -> None:
    one, two = Desk("1"), Desk("2")
    assert (one.decorated(3), two.decorated(3)) == ("13", "23")
    assert [Toolbox([desk.decorated]).call("decorated", {"a": 0}) for desk in (one, two)] == ["10", "20"]
    assert isinstance(Desk.decorated, Tool)


def test_a_coroutine_is_refused() -> None:
    async def fetch(a: int) -> None: ...

    with pytest.raises(ConfigurationError, match="'fetch' is a coroutine"):
        tool(fetch)


class Awaited:
    async def __call__(self, a: int) -> int:
        return a


async def fetch(a: int) -> int:
    return a


def numbers(a: int) -> Any:
    yield a


async def pages(a: int) -> Any:
    yield a


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fetch, "'fetch' is a coroutine"),
        (functools.partial(fetch, a=1), "'fetch' is a coroutine"),
        (Awaited(), "'Awaited' is a coroutine"),
        (numbers, "'numbers' is a generator"),
        (pages, "'pages' is a generator"),
        (Desk.plain, "Desk.plain is a method without its instance"),
        (functools.lru_cache(Desk.plain), "Desk.plain is a method without its instance"),
        (functools.partial(Desk.plain), "Desk.plain is a method without its instance"),
        (ToolSpec("a.b"), "'a.b' cannot name a tool"),
        ({"type": "function", "function": {"name": "x" * 65}}, "cannot name a tool: a name has 1 to 64 letters"),
        (Desk.decorated, "Desk.decorated is a method without its instance"),
        (lambda a: a, "'<lambda>' cannot name a tool: a name has 1 to 64 letters"),
    ],
    ids=without_address,
)
def test_what_gives_no_result_is_refused_when_the_tools_are_given(function: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Toolbox([function])


@pytest.mark.parametrize("name", ["a.b", "a b", "", "x" * 65, "größe", "a\n", "a/b"])
def test_a_name_that_servers_refuse_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1 to 64 letters \(a to z\), digits, _ and -; give name="):
        Tool(add, name=name) if name else _named_nothing()


def _named_nothing() -> None:
    def call() -> None: ...

    call.__name__ = " "
    Tool(call)


def test_a_coroutine_is_never_a_result() -> None:
    @functools.wraps(add)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return fetch(1)

    with pytest.raises(TypeError, match="'add' gave a coroutine"):
        tool(wrapped).run({"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [({"folder": "in"}, True), ({"folder": "in", "admin": True}, False)],
)
def test_a_schema_by_hand_hides_the_other_parameters(arguments: dict[str, Any], offered: bool) -> None:
    def read_mail(folder: str, admin: bool = False) -> str:
        return f"{folder} {admin}"

    schema = {"type": "object", "properties": {"folder": {"type": "string"}}}
    made = Tool(read_mail, parameters=schema)
    if offered:
        assert made.run(arguments) == "in False"
    else:
        with pytest.raises(ValueError, match=r"^\$\.admin: no such field$"):
            made.run(arguments)
    open_schema = {**schema, "additionalProperties": True}
    assert Tool(read_mail, parameters=open_schema).run(arguments).startswith("in ")


def read_mail(folder: str, user: str = "nobody") -> str:
    return f"{user}: {folder}"


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        return function(**arguments)

    return call


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(read_mail, user="me"),
        functools.partial(functools.partial(read_mail, user="you"), user="me"),
        functools.partial(Tool(functools.partial(read_mail, user="me"), name="inner")),
        decorated(functools.partial(read_mail, user="me")),
    ],
)
def test_no_schema_by_hand_offers_what_a_partial_has_fixed(function: Any) -> None:
    folder = {"folder": {"type": "string"}}
    for schema in ({"properties": folder}, {"properties": folder, "additionalProperties": True}):
        made = Tool(function, name="read_mail", parameters=schema)
        assert made.run({"folder": "in"}) == "me: in"
        with pytest.raises(ValueError, match=r"^\$\.user: no such field$"):
            made.run({"folder": "in", "user": "victim"})
    with pytest.raises(ConfigurationError, match="'read_mail': parameters offers 'user', which its partial has fixed"):
        Tool(function, name="read_mail", parameters={"properties": {**folder, "user": {}}})


@pytest.mark.parametrize("schema", [True, [], "object"])
def test_a_schema_by_hand_is_an_object(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="'read_mail': parameters is a JSON Schema of type object, not"):
        Tool(read_mail, parameters=schema)


class Computed:
    """Has a docstring for its values only."""

    def __init__(self, a: int) -> None:
        self.a = a

    __doc__ = property(lambda self: "of a value")  # type: ignore[assignment]


def test_a_docstring_that_is_no_text_is_none() -> None:
    assert tool(Computed).spec.description == ""


DOCSTRINGS: dict[str, tuple[str, str, dict[str, str]]] = {
    "dashes-for-colons": ("Add.\n\nArgs:\n    a - One.", "Add.\n\nArgs: a - One.", {}),
    "see-also": ("Add.\n\nSee Also\n--------\nother : That.", "Add.", {}),
    "several-names": (
        "Add.\n\nParameters\n----------\na, b : int\n    Numbers.",
        "Add.",
        {"a": "Numbers.", "b": "Numbers."},
    ),
    "leading-args": ("Args:\n    a: One.\n    b: Two.", "", {"a": "One.", "b": "Two."}),
    "keyword-args": ("Add.\n\nArgs:\n    a: One.\n\nKeyword Args:\n    b: Two.", "Add.", {"a": "One.", "b": "Two."}),
    "keyword-arguments": ("Add.\n\nKeyword Arguments:\n    b (int): Two.", "Add.", {"b": "Two."}),
    "other-parameters": (
        "Add.\n\nParameters\n----------\na : int\n    One.\n\nOther Parameters\n----------------\nb : int\n    Two.",
        "Add.",
        {"a": "One.", "b": "Two."},
    ),
    "prose-of-notes": (
        "Notes: it is slow.\n\nArgs:\n    a: One.",
        "Notes: it is slow.",
        {"a": "One."},
    ),
    "prose-of-an-example": ("Example: 1 and 2 make 3.", "Example: 1 and 2 make 3.", {}),
    "only-an-example": ("Example:\n    add(1, 2)", "Example: add(1, 2)", {}),
    "an-example-and-parameters": ("Example:\n    add(1, 2)\n\nArgs:\n    a: One.", "Example: add(1, 2)", {"a": "One."}),
    "returns-in-a-line": ("Add.\n\nReturns: the sum.", "Add.\n\nReturns: the sum.", {}),
    "sphinx-with-types": ("Add.\n\n:param int a: One.\n:param b: Two.", "Add.", {"a": "One.", "b": "Two."}),
}


@pytest.mark.parametrize(("text", "description", "described"), DOCSTRINGS.values(), ids=DOCSTRINGS)
def test_docstrings_as_people_write_them(text: str, description: str, described: dict[str, str]) -> None:
    def call(a: int = 1, b: int = 2) -> None: ...

    call.__doc__ = text
    spec = tool(call).spec
    assert spec.description == description
    properties = spec.parameters["properties"]
    assert {name: said["description"] for name, said in properties.items() if "description" in said} == described


def test_the_decorator_takes_options() -> None:
    @tool(name="sum", description="Sum.", strict=True, parallel=False, timeout=3)
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert (add.spec.name, add.spec.description, add.spec.strict) == ("sum", "Sum.", True)
    assert add.spec.parameters["required"] == ["a", "b"]
    assert (add.parallel, add.timeout, add(1, 2)) == (False, 3, 3)
    assert add.run({"a": 1, "b": None}) == 3


def test_a_schema_by_hand_is_sent_as_it_is_and_arguments_are_passed_on() -> None:
    schema = {"type": "object", "properties": {"x-y": {"type": "string"}}}
    made = Tool(lambda **given: given, name="raw", parameters=schema)
    assert made.spec.parameters == schema
    assert made.run({"x-y": "1"}) == {"x-y": "1"}


def test_the_model_never_hears_of_the_token() -> None:
    @tool
    def search(words: str, cancel: CancelToken, other: CancelToken | None = None) -> Any:
        return cancel, other

    assert set(search.spec.parameters["properties"]) == {"words"}
    token = CancelToken()
    assert search.run({"words": "x"}, token) == (token, token)
    assert all(isinstance(given, CancelToken) for given in search.run({"words": "x"}))
    with pytest.raises(ValueError, match=r"\$\.cancel: no such field"):
        search.run({"words": "x", "cancel": {}})


# Toolboxes


def test_a_dispatcher_runs_what_is_no_function_here() -> None:
    class Mine:
        def call(self, name: str, arguments: Any) -> Any:
            return f"mine:{name}:{arguments}"

    assert isinstance(Mine(), ToolDispatcher)
    named = {"type": "function", "function": {"name": "near"}}
    far = ToolSpec("far", "Away.", {"type": "object", "properties": {"x": {"type": "integer"}}})
    box = Toolbox([far, named, add], Mine())
    assert box.specs == [far, named, tool(add).spec]
    assert box.call("far", {"x": 1}) == "mine:far:{'x': 1}"
    assert box.call("add", {"a": 1, "b": 1}) == "1+1"
    with pytest.raises(ToolError, match="no tool named 'delete'; there are far, near, add"):
        box.call("delete", {})
    with pytest.raises(ToolError, match="no tool named 'anything'; there are none"):
        Toolbox([], Mine()).call("anything", {})


ZONE = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}


@pytest.mark.parametrize(
    ("spec", "arguments", "problem"),
    [
        (ToolSpec("f", "", ZONE), {"zone": "UTC"}, None),
        (ToolSpec("f", "", ZONE), {"zone": {"x": 1}}, "$.zone: expected string, got object"),
        (ToolSpec("f", "", ZONE), {"zone": "UTC", "user": "victim"}, "$.user: no such field"),
        (ToolSpec("f", "", ZONE), {}, "$.zone: required, but missing"),
        (ToolSpec("f"), {"zone": "UTC"}, "$.zone: no such field"),
        (ToolSpec("f", type="custom"), {"input": "select 1"}, None),
        (ToolSpec("f", type="custom"), {"input": "select 1", "user": "victim"}, "$.user: no such field"),
        (ToolSpec("f", "", ZONE), {"input": "select 1", "zone": "UTC"}, "$.input: no such field"),
        ({"type": "function", "function": {"name": "f", "parameters": ZONE}}, {"zone": 1}, "$.zone: expected string"),
        ({"type": "function", "function": {"name": "f"}}, {"zone": 1}, "$.zone: no such field"),
        ({"type": "custom", "custom": {"name": "f"}}, {"input": "select 1"}, None),
    ],
)
def test_a_dispatcher_gets_only_arguments_that_were_offered(spec: Any, arguments: Any, problem: str | None) -> None:
    class Mine:
        def call(self, name: str, arguments: Any) -> Any:
            return arguments

    box = Toolbox([spec], Mine())
    if problem is None:
        assert box.call("f", arguments) == arguments
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
        box.call("f", arguments)
    assert str(caught.value).startswith(problem)


def test_a_schema_that_is_none_is_refused_by_the_tool_that_has_it() -> None:
    class Mine:
        def call(self, name: str, arguments: Any) -> Any: ...

    wrong = {"properties": {"x": {"type": "text"}}}
    for give in (lambda: Tool(add, parameters=wrong), lambda: Toolbox([ToolSpec("add", "", wrong)], Mine())):
        with pytest.raises(ConfigurationError, match="the tool 'add': parameters is no JSON Schema"):
            give()


def test_a_name_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(ToolError, match="no tool named 'take'; there are add, google"):
        Toolbox([add, google]).call("take", {})


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([ToolSpec("far")], "needs dispatcher="),
        ([add, add], "two tools are named 'add'"),
        ([add, Tool(google, name="add")], "two tools are named 'add'"),
        (["add"], "not str"),
        (add, "a list of tools"),
        ("add", "a list of tools"),
        (None, "a list of tools"),
        ({"type": "function"}, "a list of tools"),
    ],
)
def test_tools_that_make_no_sense_are_refused(tools: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Toolbox(tools)


@pytest.mark.parametrize("spec", [{}, {"name": "x"}, {"function": None}, {"function": {"name": 3}}])
def test_a_spec_without_a_name_is_refused(spec: Any) -> None:
    class Mine:
        def call(self, name: str, arguments: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="'function'"):
        Toolbox([spec], Mine())
