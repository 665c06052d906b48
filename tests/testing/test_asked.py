"""Requests as values, and how two of them differ."""

from __future__ import annotations

from typing import Any

import pytest

from openai_compat import ToolSpec
from openai_compat.testing import AskedRequest
from openai_compat.testing.differences import MOST, differences, likeness


def asked(path: str = "/v1/chat/completions", **body: Any) -> AskedRequest:
    return AskedRequest(number=0, connection=0, method="POST", path=path, headers={}, body=body)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "chat"),
        ("/openai/deployments/x/chat/completions?api-version=1", "chat"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/models", "models"),
        ("/v1/models/gpt-4o", "models"),
        ("/v1/audio/speech", "other"),
    ],
)
def test_which_endpoint_was_asked(path: str, kind: str) -> None:
    assert asked(path).kind == kind


def test_the_text_of_messages_in_parts() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "text", "text": "this?"},
    ]
    request = asked(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert (request.system, request.prompt) == ("Be brief.", "What is\nthis?")
    assert dict(request.messages[1])["content"] == parts


def test_a_request_without_anything() -> None:
    request = asked()
    assert (request.model, request.system, request.prompt, request.messages, request.tools) == ("", "", "", (), ())
    assert str(request) == "a chat with model '', whose last message (no) is ''"
    assert str(asked("/v1/models")) == "POST /v1/models"


def test_tools_are_what_was_offered() -> None:
    specs = [
        ToolSpec("f", "Does.", {"type": "object", "properties": {}}, strict=True),
        ToolSpec("g", type="custom", grammar="a", syntax="regex"),
        ToolSpec("h", type="custom"),
    ]
    request = asked(tools=[spec.to_wire() for spec in specs])
    assert list(request.tools) == specs
    assert request.tool_names == ("f", "g", "h")


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ("[1, 2]",)), ([[1, 2], [3]], ("[1, 2]", "[3]"))],
)
def test_inputs_to_embed(given: Any, inputs: tuple[str, ...]) -> None:
    request = asked("/v1/embeddings", input=given, model="e")
    assert request.inputs == inputs
    assert str(request) == f"embeddings of {len(inputs)} inputs with model 'e', the first {inputs[0]!r}"


def test_a_long_text_is_shortened() -> None:
    assert len(str(asked(messages=[{"role": "user", "content": "x" * 1000}]))) < 250


@pytest.mark.parametrize(
    ("wanted", "got", "told"),
    [
        ({"a": [1]}, {"a": [1]}, []),
        (1, 2, ["all of it: 2, not 1"]),
        (True, 1, ["all of it: 1, not true"]),
        ({"a": {"b": "é"}}, {"a": {"b": "e"}}, ['a.b: "e", not "é"']),
        ({"a": 1}, {"b": 1}, ["a: missing, not 1", "b: 1, which was not expected"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]: missing, not 2"]),
        ([1], [1, {"x": 2}], ['[1]: {"x": 2}, which was not expected']),
        ({"a": "x" * 1000}, {}, ["a: missing, not " + '"' + "x" * 299 + "…"]),
    ],
)
def test_differences(wanted: Any, got: Any, told: list[str]) -> None:
    assert differences(wanted, got) == told


def test_many_differences_are_counted() -> None:
    told = differences(list(range(100)), list(range(1, 101)))
    assert (len(told), told[-1]) == (MOST + 1, "and 80 more differences")


def test_what_is_more_alike() -> None:
    wanted = {"messages": "The capital of France?"}
    assert likeness(wanted, wanted) == 1
    assert likeness(wanted, {"messages": "The capital of Spain?"}) > likeness(wanted, {"messages": "xyz"})
