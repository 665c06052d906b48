"""The bodies of embeddings requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.arbitrary import as_json

from openai_compat.errors import ConfigurationError
from openai_compat.wire.embeddings_request import build_embeddings_body, embedding_inputs, vector_dtype


def test_body_of_one_text() -> None:
    assert build_embeddings_body("a", model="m", encoding_format=None) == {"model": "m", "input": "a"}


def test_body_of_many_texts_and_options() -> None:
    body = build_embeddings_body(
        ("a", "b"), model="m", dimensions=3, user="u", extra_body={"truncate": True, "user": "v"}
    )
    assert body == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 3,
        "user": "v",
        "truncate": True,
    }
    assert build_embeddings_body("a", model="m", encoding_format="float")["encoding_format"] == "float"


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no-model": ("a", {"model": ""}, "no model"),
    "no-texts": ([], {}, "the list of texts is empty"),
    "empty": ("", {}, "input 0 to embed is empty"),
    "empty-one": (["a", ""], {}, "input 1 to embed is empty"),
    "number": (["a", 7], {}, "input 1 to embed is a int, not a string or a list of token ids"),
    "number-first": ([7, "a"], {}, "input 0 to embed is a int"),
    "float": ([1.5], {}, "input 0 to embed is a float"),
    "truth": ([True], {}, "input 0 to embed is a bool"),
    "no-tokens": ([[1], []], {}, "input 1 to embed is empty"),
    "mixed-tokens": ([[1, "a"]], {}, "input 0 to embed is a list"),
    "bytes": ([b"a"], {}, "input 0 to embed is a bytes"),
    "format": ("a", {"encoding_format": "float8"}, "encoding_format must be one of 'base64', 'float', .*not 'float8'"),
}


@pytest.mark.parametrize(("inputs", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_embedded_is_refused(inputs: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_embeddings_body(inputs, **{"model": "m", **fields})


TOKENS: dict[str, tuple[Any, Any, list[Any]]] = {
    "one": ([1, 2, 3], [1, 2, 3], [[1, 2, 3]]),
    "many": ([[1, 2], (3,)], [[1, 2], [3]], [[1, 2], [3]]),
    "numpy": (np.array([1, 2]), [1, 2], [[1, 2]]),
    "matrix": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    "beside-text": (["a", [3]], ["a", [3]], ["a", [3]]),
    "iterator": (iter([1, 2]), [1, 2], [[1, 2]]),
    "text": ("a", "a", ["a"]),
    "texts": (("a", "b"), ["a", "b"], ["a", "b"]),
}


@pytest.mark.parametrize(("given", "sent", "inputs"), TOKENS.values(), ids=TOKENS)
def test_token_ids_are_inputs_too(given: Any, sent: Any, inputs: list[Any]) -> None:
    given = list(given) if not isinstance(given, (str, np.ndarray)) else given
    body = build_embeddings_body(given, model="m", encoding_format=None)
    assert as_json(body) == as_json({"model": "m", "input": sent})
    assert embedding_inputs(given) == inputs


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({}, "float32"),
        ({"encoding_format": "base64"}, "float32"),
        ({"encoding_format": "float"}, "float32"),
        ({"encoding_format": "ubinary"}, "ubinary"),
        ({"encoding_format": "base64", "extra_body": {"output_dtype": "int8"}}, "int8"),
        ({"encoding_format": None, "extra_body": {"embedding_type": "binary"}}, "binary"),
        ({"extra_body": {"output_dtype": "float"}}, "float32"),
    ],
)
def test_a_body_says_which_numbers_it_asks_for(fields: dict[str, Any], dtype: str) -> None:
    assert vector_dtype(build_embeddings_body("a", model="m", **fields)) == dtype
