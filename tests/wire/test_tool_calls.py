"""Tool calls put together from deltas, in every dialect."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import cut, growth, json_values, pieces, quick, texts

from openai_compat.errors import StreamError
from openai_compat.wire.messages import ToolCall
from openai_compat.wire.tool_calls import ToolCallAssembler, parse_arguments


def assembler() -> ToolCallAssembler:
    numbers = count(1)
    return ToolCallAssembler(lambda: f"made{next(numbers)}")


def fed(*deltas: Any, whole: bool = False) -> tuple[ToolCall, ...]:
    calls = assembler()
    for delta in deltas:
        list(calls.feed(delta, whole=whole))
    return calls.finish()


def entry(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in function.items() if value is not None}}


def brief(calls: tuple[ToolCall, ...]) -> list[tuple[str, str, Any]]:
    return [(call.id, call.name, call.arguments) for call in calls]


F1 = ("a", "f", {"x": 1})
G2 = ("b", "g", {"y": 2})
DIALECTS: dict[str, tuple[list[Any], list[tuple[str, str, Any]]]] = {
    "openai": (
        [
            [entry("f", "", index=0, id="a")],
            [entry(None, '{"x"', index=0)],
            [entry(None, ": 1}", index=0)],
            [entry("g", "", index=1, id="b")],
            [entry(None, '{"y": 2}', index=1)],
        ],
        [F1, G2],
    ),
    "interleaved": (
        [
            [entry("f", '{"x"', index=0, id="a"), entry("g", '{"y"', index=1, id="b")],
            [entry(None, ": 2}", index=1), entry(None, ": 1}", index=0)],
        ],
        [F1, G2],
    ),
    "no-index-new-ids": (
        [[entry("f", '{"x": 1}', id="a")], [entry("g", '{"y"', id="b")], [entry(None, ": 2}")]],
        [F1, G2],
    ),
    "no-index-known-ids": (
        [
            [entry("f", '{"x"', id="a")],
            [entry("g", '{"y"', id="b")],
            [entry(None, ": 1}", id="a")],
            [entry(None, ": 2}", id="b")],
        ],
        [F1, G2],
    ),
    "index-always-0": (
        [
            [entry("f", '{"x": 1}', index=0, id="a")],
            [entry("g", '{"y"', index=0, id="b")],
            [entry(None, ": 2}", index=0)],
        ],
        [F1, G2],
    ),
    "index-always-0-back-to-the-first": (
        [
            [entry("f", '{"x"', index=0, id="a")],
            [entry("g", '{"y": 2}', index=0, id="b")],
            [entry(None, ": 1}", index=0, id="a")],
        ],
        [F1, G2],
    ),
    "all-in-one-delta": ([[entry("f", '{"x": 1}', id="a"), entry("g", '{"y": 2}', id="b")]], [F1, G2]),
    "all-in-one-delta-without-ids": (
        [[entry("f", '{"x": 1}'), entry("f", '{"x": 2}')]],
        [("made1", "f", {"x": 1}), ("made2", "f", {"x": 2})],
    ),
    "no-index-no-id-named": (
        [[entry("f", '{"x": 1}')], [entry("g", '{"y"')], [entry(None, ": 2}")]],
        [("made1", "f", {"x": 1}), ("made2", "g", {"y": 2})],
    ),
    "same-name-again": (
        [[entry("f", '{"x": 1}')], [entry("f", '{"x": 2}')]],
        [("made1", "f", {"x": 1}), ("made2", "f", {"x": 2})],
    ),
    "same-name-announced-again": (
        [[entry("f", '{"x": 1}')], [entry("f", "")], [entry(None, '{"x": 2}')]],
        [("made1", "f", {"x": 1}), ("made2", "f", {"x": 2})],
    ),
    "other-name-announced": (
        [[entry("f", '{"x": 1}', index=0)], [entry("g", "", index=0)], [entry(None, '{"y": 2}', index=0)]],
        [("made1", "f", {"x": 1}), ("made2", "g", {"y": 2})],
    ),
    "all-repeated": (
        [[entry("f", piece, index=0, id="a", type="function")] for piece in ("", '{"x"', ": 1", "}")],
        [F1],
    ),
    "all-repeated-spaces-first": (
        [[entry("f", piece, index=0, id="a")] for piece in (" ", '{"x"', ": 1", "}", "\n")],
        [F1],
    ),
    "name-repeated-spaces-first": (
        [[entry("f", piece, index=0)] for piece in ("\n", '{"x"', ": 1}")],
        [("made1", "f", {"x": 1})],
    ),
    "all-repeated-without-index": ([[entry("f", piece, id="a")] for piece in ('{"x"', ": 1", "}")], [F1]),
    "name-repeated-after-the-end": (
        [[entry("f", '{"x": 1}', index=0)], [entry("f", "", index=0)]],
        [("made1", "f", {"x": 1})],
    ),
    "the-whole-call-said-again": ([[entry("f", '{"x": 1}', index=0, id="a")]] * 2, [F1]),
    "name-in-pieces": (
        [[entry("get_", "", index=0, id="a")], [entry("weather", '{"x": 1}', index=0)]],
        [("a", "get_weather", {"x": 1})],
    ),
    "name-after-arguments": ([[entry(None, '{"x"', index=0, id="a")], [entry("f", ": 1}", index=0)]], [F1]),
    "id-after-the-name": ([[entry("f", "", index=0)], [entry(None, '{"x": 1}', index=0, id="a")]], [F1]),
    "id-too-late": (
        # The call has been told of under another.
        [[entry("f", '{"x"', index=0)], [entry(None, ": 1}", index=0, id="a")]],
        [("made1", "f", {"x": 1})],
    ),
    "id-empty": ([[entry("f", '{"x": 1}', index=0, id="")]], [("made1", "f", {"x": 1})]),
    "id-null": ([[entry("f", '{"x": 1}', index=0, id=None)]], [("made1", "f", {"x": 1})]),
    "id-number": ([[entry("f", '{"x": 1}', index=0, id=7)]], [("made1", "f", {"x": 1})]),
    "id-twice": (
        [[entry("f", '{"x": 1}', index=0, id="a"), entry("g", '{"y": 2}', index=1, id="a")]],
        [F1, ("made1", "g", {"y": 2})],
    ),
    "index-text": ([[entry("f", '{"x"', index="0", id="a")], [entry(None, ": 1}", index="0")]], [F1]),
    "index-from-1": ([[entry("f", '{"x": 1}', index=1, id="a")], [entry("g", '{"y": 2}', index=2, id="b")]], [F1, G2]),
    "arguments-object": ([[entry("f", {"x": 1}, index=0, id="a")]], [F1]),
    "arguments-null": ([[{"index": 0, "id": "a", "function": {"name": "f", "arguments": None}}]], [("a", "f", {})]),
    "arguments-missing": ([[{"index": 0, "id": "a", "function": {"name": "f"}}]], [("a", "f", {})]),
    "arguments-empty": ([[entry("f", "", index=0, id="a")]], [("a", "f", {})]),
    "arguments-number": ([[entry("f", 7, index=0, id="a")]], [("a", "f", None)]),
    "one-object-in-place-of-a-list": ([entry("f", '{"x": 1}', id="a")], [F1]),
    "index-drifts": (
        [[entry("f", "", index=0, id="a")], [entry(None, '{"x":', index=1)], [entry(None, " 1}", index=2)]],
        [F1],
    ),
    "id-drifts": (
        [[entry("f", "", index=0, id="a")], [entry(None, '{"x":', index=0, id="z")], [entry(None, " 1}", id="y")]],
        [F1],
    ),
    "drift-after-two-calls": (
        [
            [entry("f", '{"x": 1}', index=0, id="a")],
            [entry("g", '{"y"', index=1, id="b")],
            [entry(None, ": 2}", index=7, id="z")],
        ],
        [F1, G2],
    ),
    "arguments-said-again-without-a-name": (
        [[entry("f", "", index=0, id="a")], [entry(None, '{"x": 1}', index=0)], [entry(None, '{"x": 1}', index=0)]],
        [F1],
    ),
    "pieces-said-again-as-a-whole": (
        [
            [entry("f", '{"x"', index=0, id="a")],
            [entry(None, ": 1}", index=0)],
            [entry(None, '{"x": 1}', index=0, id="a")],
        ],
        [F1],
    ),
    "other-arguments-after-the-end": (
        [[entry("f", '{"x": 1}', index=0, id="a")], [entry(None, '{"x": 2}', index=0)]],
        [("a", "f", None)],
    ),
    "two-named-at-index-0-without-ids": (
        [[entry("f", '{"x": 1}', index=0)], [entry("g", '{"y": 2}', index=0)]],
        [("made1", "f", {"x": 1}), ("made2", "g", {"y": 2})],
    ),
    "the-same-twice-at-index-0-without-ids": (
        [[entry("f", '{"x": 1}', index=0)], [entry("f", '{"x": 1}', index=0)]],
        [("made1", "f", {"x": 1}), ("made2", "f", {"x": 1})],
    ),
    "two-named-at-index-0-in-one-delta": (
        [[entry("f", "", index=0), entry("g", "", index=0)], [entry(None, '{"y": 2}', index=0)]],
        [("made1", "f", {}), ("made2", "g", {"y": 2})],
    ),
    "announced-with-an-id-then-named": (
        [
            [entry("f", '{"x": 1}', index=0, id="a")],
            [entry(None, "", index=1, id="b")],
            [entry("g", '{"y": 2}', index=1)],
        ],
        [F1, G2],
    ),
    "custom": (
        [
            [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "select "}}],
            [{"index": 0, "custom": {"input": "1;"}}],
        ],
        [("a", "sql", None)],
    ),
    "name-last": (
        [
            [{"index": 0, "id": "a", "function": {"arguments": '{"x": 1}'}}],
            [{"index": 0, "function": {"name": "f"}}],
        ],
        [F1],
    ),
    "junk-between": ([None, "x", [None, 7, "x", entry("f", '{"x": 1}', id="a")], []], [F1]),
    "function-null": ([[{"index": 0, "id": "a", "function": None}], [entry("f", '{"x": 1}', index=0)]], [F1]),
    "gpt-oss": ([[entry("f<|channel|>commentary", '{"x": 1}', index=0, id="a")]], [F1]),
    "braces-in-strings": (
        [[entry("f", '{"x": "}{\\"', index=0)], [entry("f", '}"}', index=0)]],
        [("made1", "f", {"x": '}{"}'})],
    ),
    "escape-at-the-cut": (
        [[entry("f", '{"x": "\\', index=0)], [entry("f", '"}"}', index=0)]],
        [("made1", "f", {"x": '"}'})],
    ),
}


@pytest.mark.parametrize(("deltas", "wanted"), DIALECTS.values(), ids=DIALECTS)
def test_calls_from_deltas(deltas: list[Any], wanted: list[tuple[str, str, Any]]) -> None:
    assert brief(fed(*deltas)) == wanted


@pytest.mark.parametrize(
    "entries", [[entry("f", "{}", id="a"), entry("g", "{}", id="a")], [entry("f", "{}"), entry("f", "{}")]]
)
def test_calls_of_a_whole_message_are_each_their_own(entries: list[Any]) -> None:
    calls = fed(entries, whole=True)
    assert len(calls) == len({call.id for call in calls}) == 2


ARGUMENTS: dict[str, tuple[str, tuple[dict[str, Any] | None, str]]] = {
    "object": ('{"a": 1}', ({"a": 1}, '{"a": 1}')),
    "spaced": (' {"a": 1} ', ({"a": 1}, ' {"a": 1} ')),
    "empty": ("", ({}, "{}")),
    "blank": (" \n", ({}, "{}")),
    "null": ("null", ({}, "{}")),
    "cut-short": ('{"a": ', (None, '{"a": ')),
    "not-json": ("a=1", (None, "a=1")),
    "list": ("[1]", (None, "[1]")),
    "text": ('"{}"', (None, '"{}"')),
    "number": ("7", (None, "7")),
    "two": ("{}{}", (None, "{}{}")),
    "after-an-empty-one": ('{}{"a": 1}', ({"a": 1}, '{"a": 1}')),
    "cut-after-an-empty-one": ('{}{"a": ', (None, '{}{"a": ')),
    "more-after-an-empty-one": ('{}{"a": 1}{}', (None, '{}{"a": 1}{}')),
    "escaped-surrogate": ('{"a": "\\ud83d"}', ({"a": "\ud83d"}, '{"a": "\\ud83d"}')),
    "halves-of-an-emoji": ('{"a": "\ud83d"}', ({"a": "\ud83d"}, '{"a": "\ud83d"}')),
    "deep": ("[" * 9999, (None, "[" * 9999)),
}


@pytest.mark.parametrize(("text", "wanted"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(text: str, wanted: tuple[dict[str, Any] | None, str]) -> None:
    assert parse_arguments(text) == wanted
    (call,) = fed([entry("f", text, index=0, id="a")])
    assert (call.arguments, call.arguments_json, call.invalid) == (*wanted, wanted[0] is None)


def test_arguments_as_an_object_may_hold_lone_surrogates() -> None:
    (call,) = fed([entry("f", {"x": "\ud83d"}, index=0)])
    assert call.arguments == {"x": "\ud83d"}


def test_what_the_server_wants_back_is_kept() -> None:
    first = entry("f", "{}", index=0, id="a", type="function", extra_content={"s": 1}, nothing=None)
    first["function"]["thought_signature"] = "t"
    first["function"]["nothing"] = None
    (call,) = fed([first], [entry(None, "", index=0, late="x")])
    assert call.extra == {"extra_content": {"s": 1}, "function": {"thought_signature": "t"}, "late": "x"}
    assert call.to_wire()["function"] == {"name": "f", "arguments": "{}", "thought_signature": "t"}


def test_events_announce_a_call_once_and_then_its_arguments() -> None:
    calls = assembler()
    deltas = [[entry("f", "", index=0, id="a")], [entry(None, '{"x"', index=0)], [entry("f", ": 1}", index=0, id="a")]]
    events = [
        (kind, delta.position, delta.id, delta.name, delta.arguments)
        for part in deltas
        for kind, delta in calls.feed(part)
    ]
    assert events == [
        ("tool_call", 0, "a", "f", ""),
        ("tool_call_delta", 0, "a", "f", '{"x"'),
        ("tool_call_delta", 0, "a", "f", ": 1}"),
    ]


def test_arguments_that_came_before_the_name_are_given_with_it() -> None:
    calls = assembler()
    assert list(calls.feed([entry(None, '{"x"', index=0, id="a")])) == []
    events = [(kind, delta.arguments) for kind, delta in calls.feed([entry("f", ": 1}", index=0)])]
    assert events == [("tool_call", ""), ("tool_call_delta", '{"x": 1}')]


def test_positions_count_calls() -> None:
    calls = assembler()
    events = list(calls.feed([entry("f", "", index=4, id="a"), entry("g", "", index=9, id="b")]))
    events += calls.announce()
    assert [delta.position for _, delta in events] == [0, 1]


def test_asking_twice_gives_the_same_ids() -> None:
    calls = assembler()
    list(calls.feed([entry("f", "{}"), entry("g", "{}")]))
    assert calls.finish() == calls.finish()
    assert [call.id for call in calls.finish()] == ["made1", "made2"]


def test_an_assembler_is_true_once_it_has_a_call() -> None:
    calls = assembler()
    assert not calls
    calls.feed_legacy("x")
    assert not calls
    calls.feed_legacy({"name": "f"})
    assert calls


def test_a_legacy_call_in_pieces() -> None:
    calls = assembler()
    for piece in ({"name": "f"}, {"arguments": '{"x"'}, {"name": "f", "arguments": ": 1}"}, {"arguments": None}):
        calls.feed_legacy(piece)
    assert brief(calls.finish()) == [("made1", "f", {"x": 1})]


def test_a_legacy_call_beside_tool_calls_is_the_same_call() -> None:
    calls = assembler()
    calls.feed_legacy({"name": "f", "arguments": "{}"})
    list(calls.feed([entry("f", "{}", id="a")]))
    assert brief(calls.finish()) == [("a", "f", {})]


def test_calls_of_other_types_keep_them() -> None:
    (builtin,) = fed([entry("$web_search", '{"q": 1}', index=0, id="a", type="builtin_function")])
    assert (builtin.type, builtin.arguments, builtin.to_wire()["type"]) == ("builtin_function", {"q": 1}, builtin.type)
    custom = {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select 1;"}}
    (call,) = fed([custom], whole=True)
    assert (call.name, call.arguments, call.arguments_json, call.invalid) == ("sql", None, "select 1;", True)
    assert call.to_wire() == custom


def test_events_and_calls_have_the_same_names_and_ids() -> None:
    calls = assembler()
    deltas = [[entry("get_", "", index=0)], [entry("weather<|chan", "", index=0)], [entry(None, "{}", index=0)]]
    deltas += [[entry("ping", "", index=1, id="b")], [entry(None, "", index=1, extra_content={"s": 1})]]
    events = [event for delta in deltas for event in calls.feed(delta)] + calls.announce()
    told = [(delta.position, delta.id, delta.name) for kind, delta in events if kind == "tool_call"]
    assert told == [(at, call.id, call.name) for at, call in enumerate(calls.finish())]
    assert told == [(0, "made1", "get_weather"), (1, "b", "ping")]


CUT: dict[str, tuple[str, bool]] = {
    "empty": ("", False),
    "blank": (" ", False),
    "null": ("null", False),
    "half": ('{"x": "/tm', False),
    "whole": ('{"x": 1}', True),
    "number": ("5", False),
    "true": ("true", False),
    "list": ("[]", False),
}


@pytest.mark.parametrize(("text", "valid"), CUT.values(), ids=CUT)
def test_in_an_answer_that_was_cut_only_a_whole_object_is_a_call(text: str, valid: bool) -> None:
    calls = assembler()
    calls.feed([entry("f", text, index=0, id="a")])
    (call,) = calls.finish(whole=False)
    assert (call.invalid, call.arguments_json) == (not valid, text)
    (lost,) = calls.finish(lost=True)
    assert (lost.invalid, lost.arguments) == (True, None)


@pytest.mark.slow
def test_too_many_calls_are_an_error() -> None:
    calls = assembler()
    with pytest.raises(StreamError, match="more than 10,000 tool calls"):
        calls.feed([entry("f", "{}", index=number) for number in range(100_000)])


def test_arguments_without_end_are_an_error() -> None:
    with pytest.raises(StreamError, match="more than 67,108,864 characters of arguments"):
        fed(*[[entry("f", "x" * 1024 * 1024, index=0, id="a")]] * 65)


def test_an_index_costs_no_more_for_being_large() -> None:
    (call,) = fed([entry("f", "{", index=10**9)], [entry(None, "}", index=10**9)])
    assert call.arguments == {}


# Properties

objects = st.dictionaries(st.text(max_size=3), json_values.filter(lambda value: value == value), max_size=4)
spaces = st.sampled_from(["", " ", "\n", "\r\n\t "])


@st.composite
def cut_arguments(draw: st.DrawFn) -> list[str]:
    text = draw(spaces) + json.dumps(draw(objects), indent=draw(st.sampled_from([None, 1]))) + draw(spaces)
    return draw(pieces(text))


REPEATS: dict[str, list[str]] = {"nothing": [], "id": ["id"], "index": ["index"], "index-and-id": ["index", "id"]}


@pytest.mark.parametrize("named", [False, True], ids=["", "and-name"])
@pytest.mark.parametrize("repeats", REPEATS.values(), ids=REPEATS)
@quick
@given(parts=cut_arguments())
def test_arguments_in_any_pieces_are_one_call(repeats: list[str], named: bool, parts: list[str]) -> None:
    fields = {"id": "a", "index": 0, "type": "function"}
    repeated = {key: value for key, value in fields.items() if key in repeats}
    rest = [[entry("f" if named else None, part, **repeated)] for part in parts[1:]]
    (call,) = fed([entry("f", parts[0], **fields)], *rest)
    assert (call.id, call.name, call.arguments_json) == ("a", "f", "".join(parts))
    assert not call.invalid


@quick
@given(st.lists(cut_arguments(), min_size=1, max_size=4), st.booleans())
def test_parallel_calls_in_any_pieces(calls: list[list[str]], indexed: bool) -> None:
    deltas = []
    for number, parts in enumerate(calls):
        fields: dict[str, Any] = {"index": number} if indexed else {}
        deltas.append([entry(f"f{number}", parts[0], id=f"id{number}", **fields)])
        deltas += [[entry(None, part, **fields)] for part in parts[1:]]
    assert [(call.id, call.name, call.arguments_json) for call in fed(*deltas)] == [
        (f"id{number}", f"f{number}", "".join(parts)) for number, parts in enumerate(calls)
    ]


@quick
@given(cut_arguments())
def test_argument_events_joined_are_the_arguments(parts: list[str]) -> None:
    calls = assembler()
    events = [event for part in parts for event in calls.feed([entry("f", part, index=0, id="a")])]
    assert "".join(delta.arguments for _, delta in events) == "".join(parts)


_entries = st.fixed_dictionaries(
    {},
    optional={
        "index": st.none() | st.integers(-1, 2) | json_values,
        "id": st.sampled_from(["a", "b", ""]) | json_values,
        "function": json_values
        | st.fixed_dictionaries({}, optional={"name": texts | json_values, "arguments": texts | json_values}),
    },
)


@quick
@given(st.lists(st.lists(_entries, max_size=3) | json_values, max_size=6), st.booleans(), st.none() | json_values)
def test_anything_gives_calls_with_ids_of_their_own(deltas: list[Any], whole: bool, legacy: Any) -> None:
    calls = assembler()
    for delta in deltas:
        list(calls.feed(delta, whole=whole))
    calls.feed_legacy(legacy)
    found = calls.finish()
    assert len({call.id for call in found}) == len(found)
    assert all(call.id and (call.invalid or isinstance(call.arguments, dict)) for call in found)


# Cost


def looks(amount: int, **fields: Any) -> ToolCallAssembler:
    calls = assembler()
    text = '{"x": "' + "y" * (4 * amount) + '"}'
    list(calls.feed([entry("f", "", index=0, id="a")]))
    for part in cut(text, range(4, len(text), 4)):
        list(calls.feed([entry("f", part, **fields)]))
    return calls


@pytest.mark.parametrize("fields", [{"index": 0, "id": "a"}, {"index": 0}, {"id": "a"}, {}], ids=str)
def test_ten_thousand_deltas_with_repeated_names_are_one_call_at_a_linear_cost(fields: dict[str, Any]) -> None:
    (call,) = looks(10_000, **fields).finish()
    assert call.arguments == {"x": "y" * 40_000}
    assert growth(lambda amount: looks(amount, **fields), 3_000) < 10


def test_ten_thousand_repeats_after_the_end_are_one_call_at_a_linear_cost() -> None:
    def repeats(amount: int) -> tuple[ToolCall, ...]:
        calls = assembler()
        list(calls.feed([entry("f", '{"x": "' + "y" * amount + '"}', index=0, id="a")]))
        for _ in range(amount):
            list(calls.feed([entry("f", " ", index=0, id="a")]))
        return calls.finish()

    assert len(repeats(10_000)) == 1
    assert growth(repeats, 3_000) < 10
