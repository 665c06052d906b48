"""What grows in pieces: by id, by index and type, or by itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import growth, json_values, quick

from openai_compat.errors import StreamError
from openai_compat.wire.delta_merge import MergedObject, merge_delta, merged_value


def grown(key: str, *values: Any) -> Any:
    into = MergedObject()
    for value in values:
        merge_delta(into, key, value)
    return merged_value(into).get(key)


def thought(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, **fields}


def picture(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **fields}


def block(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, **fields}


A, B = "data:image/png;base64,QUFB", "data:image/png;base64,QkJC"
CITED = {"type": "url_citation", "url_citation": {"url": "https://a.example"}}
GROWN: dict[str, tuple[str, list[Any], Any]] = {
    "replaced": ("format", ["a", "b"], "b"),
    "appended": ("reasoning_opaque", ["ab", "cd"], "abcd"),
    "null-says-nothing": ("reasoning_opaque", ["ab", None], "ab"),
    "signature": ("signature", ["ab", "cd"], "abcd"),
    "signature-said-again": ("signature", ["abcd", "abcd"], "abcd"),
    "audio": (
        "audio",
        [
            {"id": "a", "transcript": "Good "},
            {"transcript": "day."},
            {"data": "AAEC"},
            {"data": "AwQF"},
            {"expires_at": 9},
        ],
        {"id": "a", "transcript": "Good day.", "data": "AAECAwQF", "expires_at": 9},
    ),
    "pictures": ("images", [[picture(A, index=0)], [picture(B, index=1)]], [picture(A, index=0), picture(B, index=1)]),
    "pictures-of-one-index": (
        "images",
        [[picture(A, index=0)], [picture(B, index=0)]],
        [picture(A, index=0), picture(B, index=0)],
    ),
    "a-picture-said-again": ("images", [[picture(A, index=0)]] * 2, [picture(A, index=0)]),
    "a-picture-in-pieces": (
        "images",
        [[picture(A, index=0)], [picture("QkJC", index=0)]],
        [picture(A + "QkJC", index=0)],
    ),
    "pictures-without-index": ("images", [[picture(A)], [picture(B)], [picture(A)]], [picture(A), picture(B)]),
    "citations": ("annotations", [[CITED], [{**CITED, "x": 1}], [CITED]], [CITED, {**CITED, "x": 1}]),
    "links": ("citations", [["a"], ["a", "b"]], ["a", "b"]),
    "details-by-id": (
        "reasoning_details",
        [[thought("a", id="1", index=0)], [thought("b", id="2", index=0)], [thought("c", id="1", index=0)]],
        [thought("ac", id="1", index=0), thought("b", id="2", index=0)],
    ),
    "details-of-one-id-and-two-types": (
        "reasoning_details",
        [
            [{"type": "reasoning.summary", "summary": "a", "id": "1", "index": 0}],
            [{"type": "reasoning.encrypted", "data": "x", "id": "1", "index": 0}],
            [{"summary": "b", "id": "1", "index": 0}],
        ],
        [
            {"type": "reasoning.summary", "summary": "ab", "id": "1", "index": 0},
            {"type": "reasoning.encrypted", "data": "x", "id": "1", "index": 0},
        ],
    ),
    "a-type-that-comes-late": (
        "reasoning_details",
        [[{"text": "a", "id": "1"}], [thought("b", id="1")]],
        [thought("ab", id="1")],
    ),
    "plan": ("tool_plan", ["I will", " look"], "I will look"),
    "speech": ("audio_content", ["ff", "00"], "ff00"),
    "one-citation-a-delta": (
        "provider_specific_fields",
        [{"citation": {"a": 1}}, {"citation": None}, {"citation": {"a": 2, "b": 3}}],
        {"citations": [{"a": 1}, {"a": 2, "b": 3}]},
    ),
    "details-by-index": (
        "reasoning_details",
        [[thought("a", index=0)], [thought("b", index=1)], [thought("c", index=0)]],
        [thought("ac", index=0), thought("b", index=1)],
    ),
    "details-of-two-types": (
        "reasoning_details",
        [[thought("a", index=0)], [{"type": "reasoning.encrypted", "index": 0, "data": "x"}], [thought("b", index=0)]],
        [thought("ab", index=0), {"type": "reasoning.encrypted", "index": 0, "data": "x"}],
    ),
    "an-id-that-comes-late": (
        "reasoning_details",
        [[thought("a", index=0)], [thought("b", index=0, id="1")]],
        [thought("ab", index=0, id="1")],
    ),
    "an-id-that-is-said-once": (
        "reasoning_details",
        [[thought("a", index=0, id="1")], [thought("b", index=0)]],
        [thought("ab", index=0, id="1")],
    ),
    "details-without-either": ("reasoning_details", [[thought("a")], [thought("a")]], [thought("a"), thought("a")]),
    "blocks": (
        "thinking_blocks",
        [[block("a")], [block("b")], [block("", signature="S")], [block("c")]],
        [block("ab", signature="S"), block("c")],
    ),
    "text-then-object": ("audio", ["x", {"id": "a"}], {"id": "a"}),
    "object-then-list": ("images", [{"a": 1}, [1]], [1]),
}


@pytest.mark.parametrize(("key", "values", "wanted"), GROWN.values(), ids=GROWN)
def test_what_pieces_grow_to(key: str, values: list[Any], wanted: Any) -> None:
    before = copy.deepcopy(values)
    assert grown(key, *values) == wanted
    assert values == before


@quick
@given(
    st.sampled_from(["audio", "images", "reasoning_details", "thinking_blocks", "x"]), st.lists(json_values, max_size=4)
)
def test_anything_grows(key: str, values: list[Any]) -> None:
    grown(key, *values)


PIECES: dict[str, tuple[str, Any]] = {
    "details": ("reasoning_details", [thought("a" * 50, index=0)]),
    "details-by-id": ("reasoning_details", [thought("a", id="1")]),
    "blocks": ("thinking_blocks", [block("a")]),
    "audio": ("audio", {"data": "AAAA"}),
    "signature": ("signature", "ab"),
    "pictures": ("images", [picture("QUFB", index=0)]),
}


@pytest.mark.parametrize(("key", "piece"), PIECES.values(), ids=PIECES)
def test_cost_is_linear_in_the_number_of_pieces(key: str, piece: Any) -> None:
    assert growth(lambda size: grown(key, *[piece] * size), 5_000) < 10


def test_what_grows_without_end_is_an_error() -> None:
    with pytest.raises(StreamError, match="longer than 67,108,864 characters"):
        grown("audio", *[{"data": "A" * 1024 * 1024}] * 65)
    with pytest.raises(StreamError, match="more than 100,000 entries"):
        grown("citations", list(range(100_001)), [1])
