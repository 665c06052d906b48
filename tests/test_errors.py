"""The exception tree and its pickles."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from openai_compat import errors
from openai_compat.errors import (
    APIError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    Cancelled,
    ConfigurationError,
    InternalServerError,
    LocalServerError,
    OpenAICompatError,
    RateLimitError,
    ResponseShapeError,
    StreamServerError,
    ToolLoopError,
    status_error_class,
)
from openai_compat.wire.response import ChatResponse, Choice

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, OpenAICompatError)
}
FIELDS: dict[str, Any] = {
    "log": "last line",
    "partial": ChatResponse(choices=(Choice(text="so far"),), headers={"a": "b"}, raw={"c": 1}),
    "provider": "ollama",
    "request_id": "req_1",
    "retryable": True,
    "retry_after": 2.5,
    "unit": "tokens",
    "limit": 1000.0,
    "spent": 900.0,
    "reserved": 50.0,
    "asked": 60.0,
    "phase": "idle",
    "path": "$.rows[2].id",
    "status_code": 418,
    "code": "teapot",
    "type": "kitchen",
    "param": "water",
    "body": "{}",
    "headers": {"x-a": "b"},
    "messages": ({"role": "user", "content": "hi"},),
}


def drawn_tree() -> dict[str, tuple[str, str]]:
    """``{class: (parent, status)}`` as the module's docstring draws it."""
    tree: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").partition("::")[2].splitlines():
        start = re.search(r"[A-Za-z]", line)
        if start is None:
            continue
        depth = (start.start() - 4) // 4
        column = re.split(r" {2,}", line[start.start() :])[0]
        for name, status in re.findall(r"([A-Z]\w+)(?: (\d\w\w))?", column):
            del path[depth:]
            tree[name] = (path[-1] if path else "Exception", status)
            path.append(name)
    return tree


def fields_of(cls: type[OpenAICompatError]) -> dict[str, Any]:
    """A value for every keyword that the class and its bases take."""
    names = {
        parameter.name
        for base in cls.__mro__
        if issubclass(base, OpenAICompatError)
        for parameter in inspect.signature(base.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return {name: FIELDS[name] for name in names}


def made(name: str) -> OpenAICompatError:
    cls = CLASSES[name]
    return cls("what went wrong", **fields_of(cls))


def test_tree_is_the_one_drawn_in_the_docstring() -> None:
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == {
        name: cls.__bases__[0].__name__ for name, cls in CLASSES.items()
    }


def test_statuses_are_those_drawn_in_the_docstring() -> None:
    drawn = {status: name for name, (_, status) in drawn_tree().items() if status}
    assert len(drawn) == 8
    for status, name in drawn.items():
        for number in (500, 501, 529, 599, 999) if status == "5xx" else (int(status),):
            assert status_error_class(number) is CLASSES[name]


@pytest.mark.parametrize("status", [0, 200, 302, 402, 405, 408, 410, 413, 418, 451, 499])
def test_other_statuses_have_the_common_class(status: int) -> None:
    assert status_error_class(status) is APIStatusError


def test_every_class_and_function_is_exported() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    assert set(errors.__all__) == {*CLASSES, "status_error_class"}


def test_configuration_error_is_a_value_error() -> None:
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", CLASSES)
def test_pickle_keeps_every_field(name: str, protocol: int) -> None:
    error = made(name)
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == "what went wrong"
    assert vars(back) == vars(error)
    assert vars(error).keys() == fields_of(CLASSES[name]).keys()


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_says_nothing_it_was_not_told(name: str) -> None:
    error = CLASSES[name]()
    assert str(error) == ("cancelled" if name == "Cancelled" else "")
    assert vars(pickle.loads(pickle.dumps(error))) == vars(copy.copy(error)) == vars(error)


def test_pickle_keeps_what_a_partial_answer_holds() -> None:
    partial = pickle.loads(pickle.dumps(Cancelled(partial=FIELDS["partial"]))).partial
    assert (partial.text, partial.headers, partial.raw) == ("so far", {"a": "b"}, {"c": 1})


def test_pickle_keeps_attributes_set_later() -> None:
    error = BadRequestError("no")
    error.provider = "ollama"
    assert pickle.loads(pickle.dumps(error)).provider == "ollama"


def test_defaults() -> None:
    error = APIError("x")
    assert (error.provider, error.request_id, error.retryable, error.retry_after, error.partial) == (
        "",
        None,
        False,
        None,
        None,
    )
    assert APITimeoutError("x").phase == "total"
    assert LocalServerError("x").log == ""
    assert ToolLoopError("x").messages == ()
    assert StreamServerError("x").status_code is None
    assert RateLimitError("x").headers == {}


def test_messages_and_headers_are_taken_as_copies() -> None:
    messages, headers = [{"role": "user"}], {"a": "b"}
    loop, status = ToolLoopError("x", messages=messages), APIStatusError("x", headers=headers)
    messages.clear()
    headers.clear()
    assert loop.messages == ({"role": "user"},)
    assert status.headers == {"a": "b"}


def test_a_tool_loop_error_is_caught_as_a_shape_error() -> None:
    with pytest.raises(ResponseShapeError, match="no end"):
        raise ToolLoopError("no end")


def test_an_api_error_without_a_status_is_no_status_error() -> None:
    assert not issubclass(StreamServerError, APIStatusError)
    assert issubclass(InternalServerError, APIStatusError)
