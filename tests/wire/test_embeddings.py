"""Vectors, and replies to them."""

from __future__ import annotations

import base64
import math
import pickle
import struct
import sys
from array import array
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import as_json, attempt, damaged, json_values, quick, thorough

from openai_compat.errors import (
    APIError,
    APIStatusError,
    ConfigurationError,
    OpenAICompatError,
    ResponseParseError,
    ResponseShapeError,
)
from openai_compat.wire.embeddings import (
    EmbeddingResponse,
    parse_embeddings_response,
)
from openai_compat.wire.messages import Usage
from openai_compat.wire.response import CallInfo, ReplyInfo

CALL = CallInfo(provider="ollama", model="asked")


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def reply(*embeddings: Any, **fields: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(embeddings)]
    return as_json({"object": "list", "data": data, "model": "given", **fields})


def listed(answer: EmbeddingResponse) -> list[list[float]]:
    return [list(vector) for vector in answer]


def bits(code: str, *numbers: int) -> str:
    return base64.b64encode(struct.pack(f"{len(numbers)}{code}", *numbers)).decode()


# What was asked for, what came, and what it is.
INTEGERS: dict[str, tuple[str, bytes, list[int], str, int]] = {
    "int8": ("int8", reply([1, -128, 127, 0]), [1, -128, 127, 0], "b", 4),
    "int8-base64": ("int8", reply(bits("b", 1, -128, 127, 0)), [1, -128, 127, 0], "b", 4),
    "uint8": ("uint8", reply([1, 255]), [1, 255], "B", 2),
    "uint8-base64": ("uint8", reply(bits("B", 1, 255, 7)), [1, 255, 7], "B", 3),
    "binary": ("binary", reply([-128, 127]), [-128, 127], "b", 16),
    "binary-base64": ("binary", reply(bits("b", -128, 127, 1, 2)), [-128, 127, 1, 2], "b", 32),
    "ubinary": ("ubinary", reply([255, 0]), [255, 0], "B", 16),
    "ubinary-base64": ("ubinary", reply(bits("B", 255, 0, 1, 2)), [255, 0, 1, 2], "B", 32),
    "whole-floats": ("int8", reply([1.0, -2.0]), [1, -2], "b", 2),
}


@pytest.mark.parametrize(("dtype", "body", "numbers", "code", "dims"), INTEGERS.values(), ids=INTEGERS)
def test_vectors_of_integers_are_what_they_are(
    dtype: str, body: bytes, numbers: list[int], code: str, dims: int
) -> None:
    answer = parse_embeddings_response(body, call=CALL, dtype=dtype)
    assert (list(answer.embedding), answer.embedding.format) == (numbers, code)
    assert (answer.dtype, answer.dims) == (dtype, dims)
    assert np.asarray(answer.embedding).dtype == {"b": np.int8, "B": np.uint8}[code]
    assert answer.embedding.readonly
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert ("int8" if code == "b" else "uint8") in repr(answer)
    if dtype in ("binary", "ubinary"):
        with pytest.raises(ConfigurationError, match="compared by their bits"):
            answer.normalized()
    else:
        assert answer.normalized().dtype == "float32"
        assert math.hypot(*answer.normalized().embedding) == pytest.approx(1)


def test_floats_that_come_in_place_of_integers_are_floats() -> None:
    answer = parse_embeddings_response(reply([0.5, -2.0], [1, 2]), count=2, dtype="int8")
    assert (answer.dtype, answer.dims, listed(answer)) == ("float32", 2, [[0.5, -2.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("dtype", "body", "message"),
    [
        ("int8", reply([128]), "not of dtype int8"),
        ("uint8", reply([-1]), "not of dtype uint8"),
        ("int8", reply([10**400]), "not of dtype int8"),
        ("int8", reply([1, None]), "not a finite number"),
        ("int8", reply([math.nan]), "not finite"),
        ("int8", reply(""), "0 bytes is not int8"),
        ("int8", reply([]), "missing or empty"),
        ("int8", reply([1], [1, 2]), "2 vectors"),
        ("float16", reply(packed(1.0)), "dtype float16 in base64 cannot be read"),
    ],
)
def test_what_is_no_vector_of_integers_is_a_shape_error(dtype: str, body: bytes, message: str) -> None:
    with pytest.raises(ResponseShapeError, match=message):
        parse_embeddings_response(body, dtype=dtype)


VECTORS: dict[str, tuple[bytes, int, list[list[float]]]] = {
    "floats": (reply([1.0, 2.5], [3, -4]), 2, [[1.0, 2.5], [3.0, -4.0]]),
    "base64": (reply(packed(1, 2.5), packed(3, -4)), 2, [[1.0, 2.5], [3.0, -4.0]]),
    "mixed": (reply(packed(1, 2.5), [3, -4]), 2, [[1.0, 2.5], [3.0, -4.0]]),
    "escaped-base64": (reply(packed(1, 2.5)).replace(b"=", b"\\u003d"), 1, [[1.0, 2.5]]),
    "escaped-slash": (
        reply(packed(1.9999999)).replace(b"/", b"\\/"),
        1,
        [[struct.unpack("f", struct.pack("f", 1.9999999))[0]]],
    ),
    "nested": (reply([[1.0, 2.0]]), 1, [[1.0, 2.0]]),
    "large": (reply([3e38]), 1, [[struct.unpack("f", struct.pack("f", 3e38))[0]]]),
    "large-base64": (reply(packed(3e38, -3e38)), 1, [list(struct.unpack("2f", struct.pack("2f", 3e38, -3e38)))]),
    "out-of-order": (
        as_json({"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]}),
        2,
        [[1.0], [2.0]],
    ),
    "index-text": (
        as_json({"data": [{"index": "1", "embedding": [2.0]}, {"index": 0.0, "embedding": [1.0]}]}),
        2,
        [[1.0], [2.0]],
    ),
    "no-index": (as_json({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}), 2, [[1.0], [2.0]]),
    "bare-list": (as_json([{"embedding": [1.0]}, {"embedding": [2.0]}]), 2, [[1.0], [2.0]]),
    "one-object": (as_json({"data": {"embedding": [1.0]}}), 1, [[1.0]]),
    "embeddings": (as_json({"embeddings": [[1.0], [2.0]], "model": "given"}), 2, [[1.0], [2.0]]),
    "embeddings-base64": (as_json({"embeddings": [packed(1, 2)]}), 1, [[1.0, 2.0]]),
    "embeddings-of-objects": (
        as_json({"embeddings": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]}),
        2,
        [[1.0], [2.0]],
    ),
    "data-of-lists": (as_json({"data": [[1.0], [2.0]]}), 2, [[1.0], [2.0]]),
    "bare-vectors": (as_json([[1.0, 2.0], [3.0, 4.0]]), 2, [[1.0, 2.0], [3.0, 4.0]]),
    "bare-vector": (as_json([1.0, 2.0]), 1, [[1.0, 2.0]]),
    "bare-nested": (as_json([[[1.0, 2.0]]]), 1, [[1.0, 2.0]]),
    "bare-object": (as_json({"embedding": [1.0], "model": "given"}), 1, [[1.0]]),
    "bom": (b"\xef\xbb\xbf" + reply([1.0]), 1, [[1.0]]),
    "error-null": (reply([1.0], error=None), 1, [[1.0]]),
}


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(("body", "count", "wanted"), VECTORS.values(), ids=VECTORS)
def test_vectors_in_every_shape(body: bytes, count: int, wanted: list[list[float]], kind: Any) -> None:
    answer = parse_embeddings_response(kind(body), count=count, call=CALL)
    assert listed(answer) == wanted
    assert (answer.dims, len(answer), list(answer.embedding)) == (len(wanted[0]), count, wanted[0])


def test_an_answer() -> None:
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    answer = parse_embeddings_response(
        reply([1.0, 2.0], usage=usage), call=CALL, reply=ReplyInfo("r", {"a": "b"}, latency_ms=9.0)
    )
    assert (answer.model, answer.provider, answer.latency_ms, answer.request_id) == ("given", "ollama", 9.0, "r")
    assert (answer.usage, answer.input_tokens) == (Usage(input_tokens=5, total_tokens=5), 5)
    assert (answer.headers, answer.raw["usage"]) == ({"a": "b"}, usage)
    assert repr(answer).startswith("EmbeddingResponse(vectors=<1 × 2 float32>, model='given'")


def test_the_model_asked_for_stands_in() -> None:
    answer = parse_embeddings_response(reply([1.0], model=None), call=CALL)
    assert (answer.model, answer.usage, answer.input_tokens) == ("asked", None, 0)


MISSHAPEN: dict[str, tuple[bytes, int, str]] = {
    "no-data": (as_json({"object": "list"}), 1, "no data"),
    "empty-data": (as_json({"data": []}), 1, "no data"),
    "null-data": (as_json({"data": None}), 1, "no data"),
    "data-number": (as_json({"data": 5}), 1, "no data"),
    "data-true": (as_json({"data": True}), 1, "no data"),
    "data-text": (as_json({"data": "x"}), 1, "no data"),
    "number": (b"5", 1, "no data"),
    "null": (b"null", 1, "no data"),
    "text": (b'"x"', 1, "no data"),
    "junk": (as_json({"data": [None, 7, "x"]}), 1, "no data"),
    "too-few": (reply([1.0]), 2, "1 vectors for 2 inputs"),
    "too-many": (reply([1.0], [2.0]), 1, "2 vectors for 1 inputs"),
    "gap": (
        as_json({"data": [{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [2]}]}),
        2,
        "index is not each of 0 to 1 once",
    ),
    "duplicate": (
        as_json({"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}]}),
        2,
        "index is not each",
    ),
    "one-index": (as_json({"data": [{"index": 0, "embedding": [1]}, {"embedding": [2]}]}), 2, "index is not each"),
    "negative-index": (as_json({"data": [{"index": -1, "embedding": [1]}]}), 1, "index is not each"),
    "missing": (as_json({"data": [{"index": 0}]}), 1, "missing or empty"),
    "null-vector": (reply(None), 1, "missing or empty"),
    "empty-vector": (reply([]), 1, "missing or empty"),
    "empty-base64": (reply(""), 1, "not float32"),
    "object": (reply({"values": [1.0]}), 1, "missing or empty"),
    "number-vector": (reply(7), 1, "missing or empty"),
    "nan": (reply([1.0, math.nan]), 1, "not finite"),
    "infinite": (reply([1.0, math.inf]), 1, "not finite"),
    "too-large": (reply([1e300]), 1, "not finite"),
    "huge-integer": (reply([10**400]), 1, "not a finite number"),
    "nan-base64": (reply(packed(1, math.nan)), 1, "not finite"),
    "infinite-base64": (reply(packed(-math.inf)), 1, "not finite"),
    "text-number": (reply([1.0, "2"]), 1, "not a finite number"),
    "null-number": (reply([1.0, None]), 1, "not a finite number"),
    "tokens": (reply([[1.0], [2.0]]), 1, "a vector for each token, not one for the text"),
    "bare-tokens": (as_json([[[1.0], [2.0]]]), 1, "a vector for each token"),
    "bare-number-list": (as_json([1.0, 2.0]), 2, "1 vectors for 2 inputs"),
    "embeddings-too-few": (as_json({"embeddings": [[1.0]]}), 2, "1 vectors for 2 inputs"),
    "dimensions": (reply([1.0], [1.0, 2.0]), 2, "different dimensions"),
    "not-base64": (reply("!"), 1, "an embedding"),
    "bad-padding": (reply("AAAAA"), 1, "not base64"),
    "three-bytes": (reply("AAAA"), 1, "3 bytes is not float32"),
    "non-ascii": (reply("é" * 8), 1, "embedding"),
    "url-safe-base64": (reply("-" * 16 + "AACAPw=="), 1, "not base64"),
    "junk-in-base64": (reply("AACA!!!!Pw=="), 1, "not base64"),
    "more-after-padding": (reply("AACAPw==AACAPw=="), 1, "not base64"),
}


@pytest.mark.parametrize(("body", "count", "message"), MISSHAPEN.values(), ids=MISSHAPEN)
def test_what_cannot_be_trusted_is_a_shape_error(body: bytes, count: int, message: str) -> None:
    with pytest.raises(ResponseShapeError, match=f"bad embeddings from ollama: .*{message}") as caught:
        parse_embeddings_response(body, count=count, call=CALL, reply=ReplyInfo("r"))
    assert (caught.value.provider, caught.value.request_id) == ("ollama", "r")


def test_a_shape_error_without_a_provider_names_the_server() -> None:
    with pytest.raises(ResponseShapeError, match="bad embeddings from the server: no data"):
        parse_embeddings_response(b"{}")


@pytest.mark.parametrize("body", [b"", b"<html>", b"no", b'{"data": ['])
def test_not_json_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ResponseParseError, match="the reply of ollama"):
        parse_embeddings_response(body, call=CALL)


@pytest.mark.parametrize(
    "body",
    [
        as_json({"error": {"message": "no sk-abcdefgh", "code": 429}}),
        reply([1.0], error={"message": "no sk-abcdefgh", "code": 429}),
        as_json({"object": "error", "message": "no sk-abcdefgh", "code": 429}),
        as_json([{"error": {"message": "no sk-abcdefgh", "code": 429}}]),
    ],
)
def test_an_error_under_200_is_a_status_error(body: bytes) -> None:
    with pytest.raises(APIStatusError, match=r"HTTP 429 from ollama: no \*\*\*") as caught:
        parse_embeddings_response(body, call=CALL, reply=ReplyInfo("r", {"retry-after": "3"}))
    assert (caught.value.request_id, caught.value.retry_after) == ("r", 3.0)


def test_a_wrong_path_is_named() -> None:
    with pytest.raises(APIStatusError, match="is it missing /v1"):
        parse_embeddings_response(b'{"error": "Unexpected endpoint"}', reply=ReplyInfo(url="http://h/embeddings"))


# Values


def test_numpy_takes_a_vector_without_a_copy() -> None:
    answer = parse_embeddings_response(reply(packed(1, 2)))
    seen = np.asarray(answer.embedding)
    assert (seen.dtype, seen.tolist()) == (np.float32, [1.0, 2.0])
    assert np.shares_memory(seen, np.asarray(answer.embedding))
    assert answer.embedding.readonly
    assert answer.embedding.format == "f"


@pytest.mark.parametrize(
    ("dtype", "kind", "rows"),
    [("float32", "f", [[0.5, -2.0], [3.0, 4.0]]), ("int8", "b", [[1, -2], [3, 4]]), ("ubinary", "B", [[255], [1]])],
)
def test_numpy_takes_all_vectors_as_rows(dtype: str, kind: str, rows: list[list[Any]]) -> None:
    vectors = [memoryview(array(kind, row).tobytes()).cast(kind) for row in rows]
    answer = EmbeddingResponse(vectors=vectors, dtype=dtype)
    made = np.asarray(answer)
    assert (made.dtype, made.tolist()) == (np.dtype(kind), rows)
    assert made.flags.writeable
    assert np.array(answer, dtype="float64").dtype == np.float64
    assert np.asarray(answer, dtype=kind).dtype == made.dtype
    made[:] = 0
    assert np.array(answer).tolist() == rows
    with pytest.raises(ValueError, match="is a copy"):
        answer.__array__(copy=False)


def test_numpy_takes_no_vectors_too() -> None:
    assert np.asarray(EmbeddingResponse(vectors=())).shape == (0, 0)
    assert np.asarray(EmbeddingResponse(vectors=[[1.0, 2.0]])).shape == (1, 2)


def test_vectors_may_be_given_as_numbers() -> None:
    answer = EmbeddingResponse(vectors=[[1.0, 2.0], array("f", [3.0, 4.0])])
    assert listed(answer) == [[1.0, 2.0], [3.0, 4.0]]
    assert repr(EmbeddingResponse(vectors=[])).startswith("EmbeddingResponse(vectors=<0 × 0 float32>")


def test_normalized() -> None:
    answer = EmbeddingResponse(vectors=[[3.0, 4.0], [0.0, 0.0]], model="m", latency_ms=3.0)
    unit = answer.normalized()
    assert listed(unit) == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    assert (unit.model, unit.latency_ms) == ("m", 3.0)
    assert listed(answer) == [[3.0, 4.0], [0.0, 0.0]]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = st.integers(1, 6).flatmap(
    lambda dims: st.lists(st.lists(finite, min_size=dims, max_size=dims), min_size=1, max_size=4)
)


@thorough
@given(matrices, st.booleans(), st.randoms())
def test_base64_and_floats_are_the_same_vectors_in_any_order(
    rows: list[list[float]], shuffled: bool, random: Any
) -> None:
    def body(rows: list[Any]) -> bytes:
        data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
        if shuffled:
            random.shuffle(data)
        return as_json({"data": data})

    from_floats = parse_embeddings_response(body(rows), count=len(rows))
    from_base64 = parse_embeddings_response(body([packed(*row) for row in rows]), count=len(rows))
    assert listed(from_floats) == listed(from_base64) == rows
    assert from_floats.vectors == from_base64.vectors


@quick
@given(matrices)
def test_normalized_vectors_have_length_one_or_zero(rows: list[list[float]]) -> None:
    for row, vector in zip(rows, EmbeddingResponse(vectors=rows).normalized(), strict=True):
        assert math.hypot(*vector) == pytest.approx(1.0 if any(row) else 0.0, abs=1e-5)


def test_answer_survives_pickle() -> None:
    answer = parse_embeddings_response(
        reply([1.0, 2.0], [3.0, 4.0], usage={"prompt_tokens": 5}),
        count=2,
        call=CALL,
        reply=ReplyInfo(headers={"a": "b"}),
    )
    back = pickle.loads(pickle.dumps(answer))
    assert back == answer
    assert listed(back) == [[1.0, 2.0], [3.0, 4.0]]
    assert (back.usage, back.headers, back.raw) == (answer.usage, answer.headers, answer.raw)
    assert back.embedding.readonly


def test_answer_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        EmbeddingResponse(vectors=[[1.0]]).model = "x"  # type: ignore[misc]


# Arbitrary bodies

items = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 2) | json_values,
        "embedding": st.lists(finite) | st.text(max_size=9) | json_values,
    },
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "data": st.lists(items | json_values, max_size=3) | json_values,
        "model": json_values,
        "usage": json_values,
        "error": json_values,
        "embedding": json_values,
        "embeddings": json_values,
    },
)
dtypes = st.sampled_from(["float32", "int8", "ubinary", "float16"])


@thorough
@given(
    st.binary(max_size=40) | bodies.map(as_json) | json_values.map(as_json) | damaged(bodies), st.integers(1, 2), dtypes
)
def test_arbitrary_bytes_are_vectors_or_an_error_of_this_library(body: bytes, count: int, dtype: str) -> None:
    found = attempt(OpenAICompatError, parse_embeddings_response, body, count=count, call=CALL, dtype=dtype)
    if isinstance(found, OpenAICompatError):
        assert isinstance(found, APIError)
        assert found.provider == "ollama"
    else:
        assert len(found) == count
        assert all(math.isfinite(number) for vector in found for number in vector)


@pytest.mark.parametrize("depth", [50, 480, 900, 9999])
@pytest.mark.parametrize(
    ("before", "after"), [(b'{"data": [{"embedding": ', b"}]}"), (b'{"error": ', b"}"), (b"", b"")]
)
def test_bodies_nested_deeply_are_errors_of_this_library(before: bytes, after: bytes, depth: int) -> None:
    for opens, closes in ((b"[", b"]"), (b'{"error":', b"}")):
        with pytest.raises(OpenAICompatError):
            parse_embeddings_response(before + opens * depth + b'"deep"' + closes * depth + after)


def test_base64_is_little_endian_wherever_it_is_read() -> None:
    assert struct.pack("<f", 1.0) == base64.b64decode(packed(1.0))
    assert sys.byteorder in ("little", "big")
    assert listed(parse_embeddings_response(reply("AACAPw=="))) == [[1.0]]
