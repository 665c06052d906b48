"""Every case of the wire corpus, over a real socket and through the public face."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.client import HTTPMessage
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import examples
from support.corpus import (
    SECRET,
    Case,
    Outcome,
    drive,
    drive_steps,
    ids_are_unique,
    load_cases,
    reply_of,
    seen,
    seen_of_requests,
    summary,
)
from support.replay import Request

from openai_compat import Client

CASES = load_cases()
REPLIES = [case for case in CASES if case.kind != "request"]
STREAMS = [case for case in REPLIES if case.call == "stream"]
REASSEMBLED = [case for case in STREAMS if case.kind in ("stream", "tools")]
TOOLS = [case for case in REPLIES if case.kind == "tools" and case.expect.get("tool_calls")]
REQUESTS = [case for case in CASES if case.kind == "request" and not case.undrivable]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def test_only_cases_with_nothing_to_see_on_the_wire_are_left_out() -> None:
    driven = {case.id for case in REPLIES + REQUESTS}
    left_out = {case.id for case in CASES} - driven
    assert left_out == {case.id for case in CASES if case.undrivable} == {"request-anthropic-compat-ignored"}


def test_the_corpus_is_whole() -> None:
    assert len({case.id for case in CASES}) == len(CASES) == 150
    assert {case.call for case in REPLIES} == {"chat", "stream", "embeddings"}


@each(REPLIES)
def test_reply(case: Case) -> None:
    (outcome,) = drive(case, Client)
    came, wanted = seen(outcome, case.expect)
    assert came == wanted
    assert SECRET not in f"{outcome.error} {outcome.error!r} {vars(outcome.error) if outcome.error else ''}"


@each(STREAMS)
def test_stream_pushed_into_a_sink_is_the_stream_pulled(case: Case) -> None:
    (pushed,) = drive(case, Client, sink=True)
    came, wanted = seen(pushed, case.expect)
    assert came == wanted
    (pulled,) = drive(case, Client)
    assert summary(pushed, case) == summary(pulled, case)


@pytest.mark.parametrize("sink", [False, True], ids=["pulled", "pushed"])
@each(STREAMS)
def test_stream_has_one_last_event_and_its_deltas_are_the_text(case: Case, sink: bool) -> None:
    (outcome,) = drive(case, Client, sink=sink)
    assert [event.done or event.error is not None for event in outcome.events].count(True) == 1
    last = outcome.events[-1]
    assert last.done == (outcome.error is None)
    assert last.error is outcome.error
    assert "".join(outcome.deltas) == case.expect.get("text", "".join(outcome.deltas))


@each(TOOLS)
def test_every_tool_call_has_an_id_of_its_own(case: Case) -> None:
    (outcome,) = drive(case, Client)
    assert ids_are_unique(outcome.answer)


@each(REASSEMBLED)
def test_stream_byte_by_byte(case: Case) -> None:
    whole, split = drive_split(case, range(1, len(case.body)))
    assert summary(split, case) == summary(whole, case)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Case, int]:
    case = draw(st.sampled_from(REASSEMBLED))
    return case, draw(st.integers(1, len(case.body) - 1))


@examples(100)
@given(cuts())
def test_stream_cut_in_two_anywhere(cut: tuple[Case, int]) -> None:
    case, offset = cut
    whole, split = drive_split(case, [offset])
    assert summary(split, case) == summary(whole, case)


def drive_split(case: Case, splits: Sequence[int]) -> list[Outcome]:
    """The same call twice on one server: its reply in one piece, then cut at ``splits``, a chunk for each piece."""
    return drive(case, Client, replies=[reply_of(case, ()), reply_of(case, splits)])


@each(REQUESTS)
def test_request(case: Case) -> None:
    outcome, requests = drive_steps(as_we_ask(case), Client)
    came, wanted = seen_of_requests(requests, case.check)
    assert came == wanted
    if may_refuse_to_send(case) and len(requests) < max(case.check["requests"]):
        assert outcome.error is not None
        return
    came, wanted = seen(outcome, case.check.get("raises") or case.check.get("result", {}))
    assert came == wanted


def test_rules_for_requests_that_no_case_here_uses() -> None:
    request = Request(0, 0, "POST", "/", HTTPMessage(), b'{"a": "call_1", "b": ["call_1", "x"]}', threading.Event())
    rules = {"n": 0, "same": ["a", "b.0"], "must_match": {"a": "^call_"}}
    came, wanted = seen_of_requests([request], {"each": [rules]})
    assert came == wanted
    rules = {"n": 0, "same": [["a", "b.1"]], "must_match": {"a": "^id_"}}
    came, wanted = seen_of_requests([request], {"each": [rules]})
    assert {rule for rule in came if came[rule] != wanted[rule]} == {"0 same a, b.1", "0 must_match a"}


def as_we_ask(case: Case) -> Case:
    """The case as this library's user has to ask for it."""
    if case.id != "request-embedding-encoding-format":
        return case
    # The corpus wants floats or nothing by default. Ours is base64, spelled out in embed()'s signature, because it
    # is smaller and faster and both forms are accepted in the answer; so here floats are asked for.
    (step,) = case.steps
    return attrs.evolve(case, steps=({**step, "args": {**step["args"], "encoding_format": "float"}},))


def may_refuse_to_send(case: Case) -> bool:
    """Several counts of requests are right where a client may raise in place of sending the last one."""
    return isinstance(case.check["requests"], list)
