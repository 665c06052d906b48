"""JSON from servers, and the small readers of what it holds."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import as_json, attempt, damaged, json_values, nested_lists, thorough

from openai_compat._json import NotJSONError, as_int, as_mapping, as_text, decode_json, encode_json

LENIENT: dict[str, tuple[bytes, Any]] = {
    "object": (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
    "bom": (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    "infinity": (b"[Infinity, -Infinity]", [math.inf, -math.inf]),
    "raw-newline": (b'{"a": "x\ny"}', {"a": "x\ny"}),
    "raw-control": (b'"\x01"', "\x01"),
    "damaged-utf8": (b'{"a": "\xff"}', {"a": "\ufffd"}),
    "lone-surrogate": (b'{"a": "\\ud83d"}', {"a": "\ud83d"}),
    "white-space": (b" \r\n\t[] \n", []),
    "big-integer": (b"123456789012345678901234567890", 123456789012345678901234567890),
    "last-key-wins": (b'{"a": 1, "a": 2}', {"a": 2}),
}
BROKEN = {
    "empty": (b"", True),
    "blank": (b"  \n", True),
    "cut-object": (b'{"a": ', True),
    "cut-string": (b'{"a": "x', True),
    "cut-list": (b"[1, 2", True),
    "html": (b"<html></html>", False),
    "word": (b"upstream error", False),
    "two-values": (b"{} {}", False),
    "single-quotes": (b"{'a': 1}", False),
    "nul": (b"\x00", False),
    "too-many-digits": (b"1" * 5000, False),
    "nested-10000-deep": (b"[" * 10_000 + b"]" * 10_000, False),
    "opened-100000-deep": (b"[" * 100_000, False),
    "objects-10000-deep": (b'{"a":' * 10_000, False),
}


@pytest.mark.parametrize(("data", "wanted"), LENIENT.values(), ids=LENIENT)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decodes_what_servers_send(data: bytes, wanted: Any, kind: Any) -> None:
    assert decode_json(kind(data)) == wanted


@pytest.mark.parametrize(("data", "wanted"), LENIENT.values(), ids=LENIENT)
def test_decodes_the_same_from_text(data: bytes, wanted: Any) -> None:
    assert decode_json(data.decode("utf-8", "replace")) == wanted


def test_decodes_nan() -> None:
    assert math.isnan(decode_json(b'{"a": NaN}')["a"])


@pytest.mark.parametrize(("data", "cut_short"), BROKEN.values(), ids=BROKEN)
def test_refuses_the_rest_and_says_whether_it_was_cut_short(data: bytes, cut_short: bool) -> None:
    with pytest.raises(NotJSONError) as caught:
        decode_json(data)
    assert caught.value.cut_short is cut_short
    assert str(caught.value)


def test_strings_inside_strings_may_hold_lone_surrogates() -> None:
    # A server that cuts an emoji in two sends halves, and json.loads gives them on.
    assert decode_json('{"a": "\ud83d"}') == {"a": "\ud83d"}


def test_not_json_error_is_a_value_error() -> None:
    assert issubclass(NotJSONError, ValueError)
    assert pickle.loads(pickle.dumps(NotJSONError("x", cut_short=True))).cut_short is True


@thorough
@given(st.binary() | st.text(st.characters()) | json_values.map(as_json) | damaged(json_values))
def test_raises_nothing_but_not_json_error(data: bytes | str) -> None:
    found = attempt(NotJSONError, decode_json, data)
    assert not isinstance(found, NotJSONError) or str(found)


@pytest.mark.parametrize("depth", [100, 400, 900, 990])
def test_raises_nothing_but_not_json_error_at_any_depth(depth: int) -> None:
    body = b"[" * depth + b'"deep"' + b"]" * depth
    found = attempt(NotJSONError, decode_json, body)
    if isinstance(found, NotJSONError):
        assert "deep" in str(found)
    else:
        assert found == nested_lists(depth)


def test_encodes_compactly_and_without_escapes() -> None:
    assert encode_json({"a": ["é", None, 1.5]}) == '{"a":["é",null,1.5]}'.encode()


COUNTS: dict[str, tuple[Any, int | None]] = {
    "int": (7, 7),
    "zero": (0, 0),
    "whole-float": (7.0, 7),
    "float": (7.9, 7),
    "text": ("7", 7),
    "text-float": ("7.5", 7),
    "text-spaced": (" 7 ", 7),
    "big": (2**53, 2**53),
    "absurd": (2**53 + 1, None),
    "absurd-text": ("9" * 400, None),
    "negative": (-1, None),
    "negative-text": ("-1", None),
    "none": (None, None),
    "true": (True, None),
    "false": (False, None),
    "word": ("seven", None),
    "empty": ("", None),
    "surrogate": ("\ud83d", None),
    "nan": (math.nan, None),
    "infinite": (math.inf, None),
    "infinite-text": ("1e999", None),
    "list": ([7], None),
    "object": ({"a": 7}, None),
}


@pytest.mark.parametrize(("value", "wanted"), COUNTS.values(), ids=COUNTS)
def test_as_int(value: Any, wanted: int | None) -> None:
    assert as_int(value) == wanted


@thorough
@given(json_values)
def test_readers_take_anything(value: Any) -> None:
    count = as_int(value)
    assert count is None or (type(count) is int and count >= 0)
    assert as_text(value) == (value if isinstance(value, str) else "")
    assert as_mapping(value) == (value if isinstance(value, dict) else {})
