"""The list of models that a server offers."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from support.arbitrary import json_values, quick

from openai_compat.errors import ResponseShapeError
from openai_compat.wire.models import Model, first_model, parse_models

LISTS: dict[str, Any] = {
    "openai": {"object": "list", "data": [{"id": "a"}, {"id": "b"}]},
    "bare": [{"id": "a"}, {"id": "b"}],
    "models": {"models": [{"name": "a"}, {"name": "b"}]},
    "both": {"data": [{"id": "a"}, {"id": "b"}], "models": [{"name": "x"}]},
    "null-data": {"data": None, "models": [{"id": "a"}, {"id": "b"}]},
    "names": {"data": ["a", "b"]},
    "empty-id": [{"id": "", "name": "a"}, {"id": "b"}],
    "junk-between": {"data": [None, {"id": "a"}, 7, {}, {"id": None}, "", {"id": "b"}]},
}


@pytest.mark.parametrize("payload", LISTS.values(), ids=LISTS)
def test_models_in_every_shape(payload: Any) -> None:
    assert [model.id for model in parse_models(payload)] == ["a", "b"]


def test_fields_of_a_model() -> None:
    entry = {"id": "a", "created": "1686935002", "owned_by": "me", "context_length": 4096}
    (model,) = parse_models({"data": [entry]})
    assert model == Model(id="a", created=1686935002, owned_by="me")
    assert model.raw == entry


def test_fields_that_say_nothing() -> None:
    assert parse_models([{"id": "a", "created": "never", "owned_by": None}]) == (Model(id="a"),)


def test_an_empty_list_is_a_list() -> None:
    assert parse_models({"data": []}) == ()


@pytest.mark.parametrize("payload", [None, 7, "x", {}, {"data": {}}, {"data": "a"}, {"data": None}])
def test_no_list_is_a_shape_error_that_names_the_server(payload: Any) -> None:
    with pytest.raises(ResponseShapeError, match="the reply of ollama lists no models") as caught:
        parse_models(payload, provider="ollama")
    assert caught.value.provider == "ollama"
    with pytest.raises(ResponseShapeError, match="the server"):
        parse_models(payload)


@quick
@given(json_values)
def test_anything_gives_models_or_a_shape_error(payload: Any) -> None:
    try:
        models = parse_models(payload)
    except ResponseShapeError:
        return
    assert all(model.id for model in models)


def test_model_survives_pickle_and_json() -> None:
    (model,) = parse_models([{"id": "a", "created": 7, "x": {"y": 1}}])
    for back in (pickle.loads(pickle.dumps(model)), msgspec.json.decode(msgspec.json.encode(model), type=Model)):
        assert back == model
        assert back.raw == model.raw


@pytest.mark.parametrize(
    ("names", "chats", "embeds"),
    [
        ([], None, None),
        (["a", "b"], "a", "a"),
        (["text-Embedding-3", "a"], "a", "text-Embedding-3"),
        (["bge-embed"], "bge-embed", "bge-embed"),
    ],
)
def test_the_first_model_that_fits(names: list[str], chats: str | None, embeds: str | None) -> None:
    models = [Model(id=name) for name in names]
    assert (first_model(models), first_model(models, embeds=True)) == (chats, embeds)
