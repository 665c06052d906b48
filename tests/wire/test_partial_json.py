"""JSON read while it is written: what is shown when, what is given up, and what it costs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import cut, keys, pieces, quick, texts, thorough
from support.lines import lines_run

from openai_compat.errors import ConfigurationError
from openai_compat.wire import partial_json
from openai_compat.wire.partial_json import PartialJSON


def read(text: str | Iterable[str], opens: str = "{[") -> PartialJSON:
    """A reader that has heard a text in one piece, or its pieces, with ``value`` read after each."""
    reader = PartialJSON(opens)
    for piece in [text] if isinstance(text, str) else text:
        reader.feed(piece)
        assert not (reader.complete and reader.value is None)
    return reader


def outcome(reader: PartialJSON) -> tuple[str, bool]:
    """Value and completeness; the value as text, in which 1, 1.0 and True differ, and the order of keys counts."""
    return repr(reader.value), reader.complete


PARTIAL: dict[str, tuple[str, Any]] = {
    "nothing": ("", None),
    "white-space": (" \n\t\r", None),
    "object-opens": ("{", {}),
    "array-opens": ("[", []),
    "key-begins": ('{"a', {}),
    "key-ends": ('{"a"', {}),
    "key-and-colon": ('{"a": ', {}),
    "string-opens": ('{"a": "', {"a": ""}),
    "string": ('{"a": "Hel', {"a": "Hel"}),
    "string-ends": ('{"a": "Hel"', {"a": "Hel"}),
    "second-key": ('{"a": "Hel", "b', {"a": "Hel"}),
    "key-with-escapes": ('{"a\\n\\u00e4": [', {"a\nä": []}),
    "nested-object": ('{"a": {', {"a": {}}),
    "nested-array": ('{"a": [', {"a": []}),
    "number": ('{"a": 12', {}),
    "number-and-space": ('{"a": 12 ', {"a": 12}),
    "number-and-comma": ("[12,", [12]),
    "number-and-bracket": ("[[12]", [[12]]),
    "number-cut-at-point": ("[1, 2.", [1]),
    "number-cut-in-exponent": ("[1, 2e", [1]),
    "number-cut-at-sign": ("[1, -", [1]),
    "true": ("[true", []),
    "true-and-comma": ("[true,", [True]),
    "false-and-line": ("[false\n", [False]),
    "null-and-comma": ("[null,", [None]),
    "null-cut": ("[1, nul", [1]),
    "escape": ('["a\\n', ["a\n"]),
    "escape-cut": ('["a\\', ["a"]),
    "escaped-quote": ('["a\\"b', ['a"b']),
    "escaped-backslash": ('["a\\\\', ["a\\"]),
    "unicode": ('["\\u00e4', ["ä"]),
    "unicode-cut-0": ('["a\\u', ["a"]),
    "unicode-cut-3": ('["a\\u12a', ["a"]),
    "pair": ('["\\ud83d\\ude00', ["😀"]),
    "pair-cut": ('["a\\ud83d', ["a"]),
    "pair-cut-at-backslash": ('["a\\ud83d\\', ["a"]),
    "pair-cut-in-second-half": ('["a\\ud83d\\ude0', ["a"]),
    "first-half-alone": ('["\\ud83dx', ["\ufffdx"]),
    "first-half-alone-then-escape": ('["\\ud83d\\n', ["\ufffd\n"]),
    "first-half-at-the-end": ('["\\ud83d"', ["\ufffd"]),
    "second-half-alone": ('["\\ude00', ["\ufffd"]),
    "halves-in-the-wrong-order": ('["\\ude00\\ud83dx', ["\ufffd\ufffdx"]),
    "first-half-twice": ('["\\ud83d\\ud83d\\ude00', ["\ufffd😀"]),
    "raw-halves": ('["\ud83d\ude00 \ud83d"', ["😀 \ufffd"]),
    "raw-and-escaped-half": ('["\ud83d\\ude00', ["😀"]),
    "half-in-a-key": ('{"\\ud83d": "', {"\ufffd": ""}),
    "raw-line-end": ('["a\nb\x01', ["a\nb\x01"]),
    "raw-line-end-and-escape": ('["a\n\\tb', ["a\n\tb"]),
    "brackets-in-a-string": ('["a]}{[', ["a]}{["]),
    "last-key-wins": ('{"a": 1, "a": "x', {"a": "x"}),
    "first-key-until-the-next-has-begun": ('{"a": 1, "a": 2', {"a": 1}),
    "prose": ("Sure, here you are:\n", None),
    "after-prose": ('Sure: {"a": "x', {"a": "x"}),
    "fence": ('```json\n{"a": "x', {"a": "x"}),
    "bom": ('\ufeff{"a": "x', {"a": "x"}),
    "no-bracket": ('"a string" and 17', None),
}


@pytest.mark.parametrize(("text", "wanted"), PARTIAL.values(), ids=PARTIAL)
def test_shows_what_is_certain(text: str, wanted: Any) -> None:
    for reader in (read(text), read(list(text))):
        assert outcome(reader) == (repr(wanted), False)


COMPLETE: dict[str, tuple[str, Any]] = {
    "object": ("{}", {}),
    "array": ("[ ]", []),
    "white-space": (' \r\n{ "a" : [ 1 , {\t} ] }\n ', {"a": [1, {}]}),
    "numbers": ("[0, -0, 1.5, -1e3, 1E+2, 1.5e-3, 1e999]", [0, 0, 1.5, -1000.0, 100.0, 0.0015, math.inf]),
    "large-integer": (f"[{'9' * 400}]", [10**400 - 1]),
    "constants": ("[true, false, null]", [True, False, None]),
    "escapes": (r'["\"\\\/\b\f\n\r\t\u0041\uD83D\uDE00"]', ['"\\/\b\f\n\r\tA😀']),
    "last-key-wins": ('{"a": 1, "b": 2, "a": [3]}', {"a": [3], "b": 2}),
    "empty-key": ('{"": ""}', {"": ""}),
    "fenced": ('```json\n{"a": 1}\n```\nI hope [this] helps {you}!', {"a": 1}),
    "what-follows-is-ignored": ('{"a": 1}{"b": 2}', {"a": 1}),
    "even-what-is-no-json": ("[1]]]}}\\", [1]),
}


@pytest.mark.parametrize(("text", "wanted"), COMPLETE.values(), ids=COMPLETE)
def test_ends_with_the_last_bracket(text: str, wanted: Any) -> None:
    for reader in (read(text), read(list(text))):
        assert outcome(reader) == (repr(wanted), True)


GIVEN_UP: dict[str, tuple[str, Any]] = {
    "word-in-brackets": ("[note]", None),
    "word-in-braces": ("{note}", None),
    "then-the-value": ('see [note] or {x}: {"a": 1}', {"a": 1}),
    "at-another-bracket": ('{{"a": 1}}', {"a": 1}),
    "begun-then-broken": ('{"a": "x", b: {"c": 2}}', {"c": 2}),
    "word-then-bracket": ("[note[9]", [9]),
    "nan": ("[NaN] [9]", [9]),
    "infinity": ("[Infinity] [-Infinity] [9]", [9]),
    "capitals": ("[True] [9]", [9]),
    "leading-zero": ("[01] [9]", [9]),
    "leading-plus": ("[+1] [9]", [9]),
    "no-digit-before-the-point": ("[.5] [9]", [9]),
    "no-digit-after-the-point": ("[5.] [9]", [9]),
    "no-exponent": ("[5e] [9]", [9]),
    "sign-only": ("[-] [9]", [9]),
    "two-signs": ("[--1] [9]", [9]),
    "foreign-digits": ("[١] [9]", [9]),
    "number-in-a-word": ("[1a] [9]", [9]),
    "word-too-long": ("[nulll] [9]", [9]),
    "trailing-comma": ("[1, ] [9]", [9]),
    "trailing-comma-in-an-object": ('{"a": 1, } [9]', [9]),
    "leading-comma": ("[, 1] [9]", [9]),
    "two-commas": ("[1,, 2] [9]", [9]),
    "no-comma": ("[2 3] [9]", [9]),
    "no-comma-after-a-string": ('["a" "b"] [9]', [9]),
    "no-colon": ('{"a" 1} [9]', [9]),
    "two-colons": ('{"a":: 1} [9]', [9]),
    "no-value": ('{"a"} [9]', [9]),
    "comma-for-a-value": ('{"a":, "b": 2} [9]', [9]),
    "key-is-a-number": ("{2: 3} [9]", [9]),
    "colon-in-an-array": ('["a": 2] [9]', [9]),
    "closed-by-the-other-bracket": ("[2} [9]", [9]),
    "object-closed-by-the-other-bracket": ('{"a": 2] [9]', [9]),
    "single-quotes": ("{'a': 2} [9]", [9]),
    "comment": ("[2 /* two */] [9]", [9]),
    "other-white-space": ("[\xa02] [9]", [9]),
    "unknown-escape": ('["\\x"] [9]', [9]),
    "unicode-without-digits": ('["\\u12G4"] [9]', [9]),
    "unicode-with-a-sign": ('["\\u+123"] [9]', [9]),
    "unicode-cut-by-the-quote": ('["\\u12"] [9]', [9]),
    "escaped-bracket": ('["\\[9]', [9]),
    "half-a-pair-then-broken": ('["a\\ud83d\\x"] ["b"]', ["b"]),
    "key-then-broken": ('{"ab\\x"} {"c": 1}', {"c": 1}),
}


@pytest.mark.parametrize(("text", "wanted"), GIVEN_UP.values(), ids=GIVEN_UP)
def test_gives_up_what_is_no_json_and_looks_further(text: str, wanted: Any) -> None:
    for reader in (read(text), read(list(text))):
        assert outcome(reader) == (repr(wanted), wanted is not None)


def test_a_value_that_is_given_up_is_shown_no_more() -> None:
    reader = PartialJSON()
    reader.feed('{"a": "x", ')
    assert reader.value == {"a": "x"}
    reader.feed("b")
    assert reader.value is None


OPENS: dict[str, tuple[str, str, Any]] = {
    "object": ("{", 'see [1]: {"a": [2]}', {"a": [2]}),
    "object-in-an-array": ("{", '[{"a": 1}, {"b": 2}]', {"a": 1}),
    "array": ("[", 'for {"a": 1} write [{"b": 2}]', [{"b": 2}]),
    "array-in-an-object": ("[", '{"a": [1]}', [1]),
    "either": ("{[", 'see [1]: {"a": 2}', [1]),
    "either-in-the-other-order": ("[{", '{"a": 2} [1]', {"a": 2}),
    "still-after-giving-up": ("{", '{x} [1] {"a": 2}', {"a": 2}),
}


@pytest.mark.parametrize(("opens", "text", "wanted"), OPENS.values(), ids=OPENS)
def test_opens_says_what_may_begin_the_value(opens: str, text: str, wanted: Any) -> None:
    for reader in (read(text, opens), read(list(text), opens)):
        assert outcome(reader) == (repr(wanted), True)


@pytest.mark.parametrize("opens", ["", "(", "{{", "{[(", '"', "^"])
def test_opens_must_be_brackets(opens: str) -> None:
    with pytest.raises(ConfigurationError, match="opens must be"):
        PartialJSON(opens)


@pytest.mark.parametrize(("sign", "wanted"), [("", math.inf), ("-", -math.inf)])
def test_an_integer_of_too_many_digits_is_a_float(sign: str, wanted: float) -> None:
    if not 0 < getattr(sys, "get_int_max_str_digits", lambda: 0)() < 10_000:
        pytest.skip("this Python converts any number of digits")
    reader = read(f"[1, {sign}{'9' * 10_000}, 2]")
    assert outcome(reader) == (repr([1, wanted, 2]), True)


def test_every_step_of_an_answer() -> None:
    text = 'Ok: {"id": 12, "t": "a\\u00e9", "l": [true, {"x": null}]}'
    seen = ["None"]
    reader = PartialJSON()
    for piece in text:
        reader.feed(piece)
        if repr(reader.value) != seen[-1]:
            seen.append(repr(reader.value))
    assert seen == [
        "None",
        "{}",
        "{'id': 12}",
        "{'id': 12, 't': ''}",
        "{'id': 12, 't': 'a'}",
        "{'id': 12, 't': 'aé'}",
        "{'id': 12, 't': 'aé', 'l': []}",
        "{'id': 12, 't': 'aé', 'l': [True]}",
        "{'id': 12, 't': 'aé', 'l': [True, {}]}",
        "{'id': 12, 't': 'aé', 'l': [True, {'x': None}]}",
    ]


def test_the_value_is_one_object_that_grows() -> None:
    reader = read('{"a": ["x')
    first: Any = reader.value
    inner = first["a"]
    reader.feed('y", 1, ')
    assert reader.value is first
    assert first["a"] is inner
    assert inner == ["xy", 1]


def test_a_string_that_the_caller_keeps_stays_as_it_was() -> None:
    reader = read('["ab')
    value: Any = reader.value
    kept = value[0]
    reader.feed("cd")
    assert (reader.value, kept) == (["abcd"], "ab")


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Strings without lone surrogates, which ``json.loads`` would keep."""
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain
)


def trees(strings: st.SearchStrategy[str], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects and arrays."""

    def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4)

    return containers(st.recursive(leaves, containers, max_leaves=16))


@st.composite
def spelled(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> str:
    """JSON of a value, in one of the ways to write it."""
    indent = draw(st.sampled_from([None, 0, 1, "\t"]))
    separators = draw(st.sampled_from([None, (",", ":"), (" ,\r\n", " : ")]))
    return json.dumps(draw(values), ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)


def is_prefix(part: Any, whole: Any) -> bool:
    """Whether a value is one that the whole may have grown from: a prefix in every string, list and list of keys."""
    if type(part) is not type(whole):
        return False
    if isinstance(part, dict):
        order = list(part) == list(whole)[: len(part)]
        return order and all(is_prefix(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) <= len(whole) and all(map(is_prefix, part, whole))
    if isinstance(part, str):
        return bool(whole.startswith(part))
    return bool(part == whole)


@pytest.mark.parametrize(
    ("part", "whole"),
    [([1], [2]), ([1], [1.0]), ({"b": 1}, {"a": 1, "b": 1}), ("b", "ab"), ([1, 2], [1]), ([1], {}), ([""], [None])],
)
def test_the_helper_knows_what_is_no_prefix(part: Any, whole: Any) -> None:
    assert not is_prefix(part, whole)
    assert is_prefix(whole, whole)


@thorough
@given(text=spelled(trees(keys, scalars)), data=st.data())
def test_any_json_in_any_pieces_is_what_json_loads_makes_of_it(text: str, data: st.DataObject) -> None:
    whole = json.loads(text)
    reader = PartialJSON()
    before: Any = type(whole)()
    for piece in data.draw(pieces(text)):
        reader.feed(piece)
        value = json.loads(json.dumps(reader.value)) if reader.value is not None else before
        assert is_prefix(before, value)
        assert is_prefix(value, whole)
        before = value
    assert outcome(reader) == (repr(whole), True)


@quick
@given(text=spelled(trees(keys, scalars)))
def test_every_prefix_shows_a_prefix(text: str) -> None:
    whole = json.loads(text)
    reader = PartialJSON()
    for piece in text:
        assert not reader.complete
        reader.feed(piece)
        assert is_prefix(reader.value, whole)
    assert reader.complete


@quick
@given(text=plain, ensure_ascii=st.booleans())
def test_a_string_shows_each_character_as_soon_as_it_is_there(text: str, ensure_ascii: bool) -> None:
    reader = read('["')
    for end, character in enumerate(text, 1):
        reader.feed(json.dumps(character, ensure_ascii=ensure_ascii)[1:-1])
        assert reader.value == [text[:end]]


def mended(value: Any) -> Any:
    """``value`` with surrogate pairs joined, and U+FFFD for the halves that are left."""
    if isinstance(value, str):
        joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", lambda pair: join(*pair[0]), value)
        return re.sub("[\ud800-\udfff]", "\ufffd", joined)
    if isinstance(value, list):
        return [mended(inner) for inner in value]
    if isinstance(value, dict):
        return {mended(key): mended(inner) for key, inner in value.items()}
    return value


def join(high: str, low: str) -> str:
    return chr(0x10000 + (ord(high) - 0xD800) * 0x400 + ord(low) - 0xDC00)


broken = texts | st.text(st.sampled_from("a\ud83d\ude00\udbff\udc00"), max_size=6)


@thorough
@given(text=spelled(trees(broken, broken)), data=st.data())
def test_surrogates_in_any_pieces(text: str, data: st.DataObject) -> None:
    whole = mended(json.loads(text))
    reader = read(data.draw(pieces(text)))
    assert (reader.value, reader.complete) == (whole, True)
    json.dumps(reader.value, ensure_ascii=False).encode()


TOKENS = (
    *'{}[]",:\\ \nau0-.eE1é\ud83d',
    "\\u",
    "\\ud83d",
    "\\ude00",
    '\\"',
    '"a"',
    '"a": ',
    '{"a": ',
    "true",
    "false",
    "null",
    "NaN",
    "-1.5e3",
    "```json\n",
    "see [1] or [note]: ",
)
jsonish = st.lists(st.sampled_from(TOKENS), max_size=40).map("".join) | st.text(max_size=20)


@thorough
@given(text=jsonish, opens=st.sampled_from(["{[", "{", "["]), data=st.data())
def test_any_text_in_any_pieces_gives_the_same(text: str, opens: str, data: st.DataObject) -> None:
    whole = PartialJSON(opens)
    whole.feed(text)
    assert outcome(read(data.draw(pieces(text)), opens)) == outcome(whole)
    assert outcome(read(text, opens)) == outcome(read(list(text), opens)) == outcome(whole)
    assert whole.value is None or type(whole.value) in [{"{": dict, "[": list}[bracket] for bracket in opens]


def refuse(constant: str) -> None:
    raise ValueError(constant)


decoder = json.JSONDecoder(strict=False, parse_constant=refuse)


def loaded(text: str, at: int) -> Any:
    """What the standard library finds at a place; None where that is no JSON."""
    try:
        return mended(decoder.raw_decode(text, at)[0])
    except ValueError:
        return None


@thorough
@given(text=jsonish, opens=st.sampled_from(["{[", "{", "["]))
def test_what_is_complete_is_json_for_the_standard_library_too(text: str, opens: str) -> None:
    starts = [at for at, character in enumerate(text) if character in opens]
    reader = read(text, opens)
    if reader.complete:
        assert repr(reader.value) in [repr(loaded(text, at)) for at in starts]
    if starts and (first := loaded(text, starts[0])) is not None:
        assert outcome(reader) == (repr(first), True)


DEPTH = 20_000


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_nesting_has_no_limit(opening: str, closing: str) -> None:
    reader = read(opening * DEPTH + '"deep')
    value: Any = reader.value
    for _ in range(DEPTH):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == "deep"
    reader.feed('"' + closing * (DEPTH - 1))
    assert not reader.complete
    reader.feed(closing)
    assert reader.complete


SHAPES: dict[str, Callable[[int], str]] = {
    "string": lambda n: '["' + "a" * n,
    "wide-string": lambda n: '["' + "aé😀" * n,
    "escapes": lambda n: '["' + "\\n" * n,
    "unicode-escapes": lambda n: '["' + "\\u00e9" * n,
    "pairs": lambda n: '["' + "\\ud83d\\ude00" * n,
    "halves": lambda n: '["' + "\\ud83d" * n,
    "key": lambda n: '{"' + "a" * n,
    "number": lambda n: "[" + "1" * n,
    "letters": lambda n: "[" + "a" * n,
    "strings": lambda n: "[" + '"a", ' * n,
    "numbers": lambda n: "[" + "1, " * n,
    "members": lambda n: "{" + '"a": [], ' * n,
    "arrays": lambda n: "[" * n,
    "objects": lambda n: '{"a": ' * n,
    "white-space": lambda n: "[" + " " * n,
    "prose": lambda n: "word " * n,
    "notes": lambda n: "[note] " * n,
    "open-braces": lambda n: "{" * n,
    "deep-then-broken": lambda n: "[" * n + "x" + "{" * n,
    "broken-string": lambda n: '["{{[[\\x' * n,
    "after-the-end": lambda n: "{}" + "{" * n,
}


@pytest.mark.parametrize("step", [1, 4, 1_000_000], ids=["by-1", "by-4", "whole"])
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_steps_grow_no_faster_than_the_text(make: Callable[[int], str], step: int) -> None:
    def cost(size: int) -> int:
        text = make(size)
        return lines_run(lambda: read(cut(text, range(step, len(text), step))), partial_json)

    small = cost(300)
    assert small > 0
    assert cost(1200) < 5 * small


@pytest.mark.parametrize("make", [SHAPES[name] for name in ("string", "escapes", "key", "white-space", "prose")])
def test_runs_are_no_step_for_each_character(make: Callable[[int], str]) -> None:
    text = make(100_000)
    assert lines_run(lambda: read(text), partial_json) < len(text) / 25


LONG: dict[str, tuple[str, str, str]] = {
    "string": ('{"text": "', "abcd", '"}'),
    "wide-string": ('{"text": "', 'é\\"\\n😀', '"}'),
    "key": ('{"', "abcd", '": []}'),
    "number": ("[0.", "1234", "]"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("opening", "piece", "ending"), LONG.values(), ids=LONG)
def test_a_long_value_that_is_looked_at_after_each_piece(opening: str, piece: str, ending: str) -> None:
    # Minutes, and so the suite's timeout, where a piece costs all that was before it. To a traced program, as under
    # coverage, CPython 3.11 does append by copying.
    amount = 500_000 if sys.gettrace() is None else 20_000
    reader = PartialJSON()
    reader.feed(opening)
    for _ in range(amount):
        reader.feed(piece)
        assert reader.value is not None
    reader.feed(ending)
    assert reader.complete
    assert reader.value == json.loads(opening + piece * amount + ending)


@pytest.mark.slow
def test_a_long_text_in_one_piece() -> None:
    # The long string makes it slow to copy what is left of the text for each number or note.
    text = f'{"[note] " * 20_000}[{"1, " * 50_000}"{"a" * 10_000_000}"]'
    assert read(text).value == json.loads(text[text.rindex("[") :])
