"""The keyword arguments that type checkers see are those that the functions take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from openai_compat import ChatRequest, Client, ToolOptions, params
from openai_compat._misuse import OF_THE_LOOP
from openai_compat.wire import request

REQUEST = {field.name: field for field in attrs.fields(ChatRequest)}
LOOP = {field.name for field in attrs.fields(ToolOptions)} - {"cancel", "secrets", "watch"}
CONVERTED = {name for name, field in REQUEST.items() if field.converter is not None}


def keywords(function: Callable[..., Any]) -> set[str]:
    """What a function takes by name alone, apart from the fields that it passes on."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def test_fields_of_a_request() -> None:
    assert set(params.ChatFields.__annotations__) == set(REQUEST) - {"prompt"}
    assert set(params.ToolRunFields.__annotations__) == set(REQUEST) - {"prompt", "tools"}


def test_fields_have_the_types_of_the_request_where_nothing_converts_them() -> None:
    for name, hint in params.ToolRunFields.__annotations__.items():
        if name not in CONVERTED:
            assert hint.__forward_arg__ == REQUEST[name].type


def test_fields_of_the_tool_loop() -> None:
    assert set(params.LoopFields.__annotations__) == set(params.ToolRunFields.__annotations__) | LOOP


@pytest.mark.parametrize(
    ("options", "fields", "functions"),
    [
        (params.StreamOptions, params.ChatFields, [Client.stream]),
        (params.ChatOptions, params.ChatFields, [Client.chat]),
        (params.ChatOptions, params.ChatFields, [Client.submit]),
        (params.LoopOptions, params.LoopFields, [Client.run_tools, Client.tool_rounds]),
    ],
    ids=["stream", "chat", "submit", "run_tools"],
)
def test_options_are_what_the_functions_take(options: type, fields: type, functions: list[Callable[..., Any]]) -> None:
    named = set().union(*map(keywords, functions)) - {"response_type", "tools"}
    assert set(options.__annotations__) == set(fields.__annotations__) | named


def test_every_field_is_sent_in_one_way() -> None:
    assert set(REQUEST) >= request._SENT_OTHERWISE
    assert {REQUEST[name].default for name in request._SENT_AS_IS} == {None}


def test_what_the_tool_loop_takes_is_told_to_whoever_gives_it_to_a_chat() -> None:
    assert set(OF_THE_LOOP) == LOOP | {"dispatcher", "on_round"}
