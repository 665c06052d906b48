"""The tool calls of the corpus drive the tool loop; what goes back to the server is checked byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from support.corpus import Case, drive, load_cases, reply_of, summary
from support.replay import ReplayServer
from support.wire_bodies import chat_reply, stream_reply

from openai_compat import Client, ToolSpec

CASES = {case.id: case for case in load_cases() if case.kind in ("tools", "stream", "chat")}


class Recorder:
    """Runs every call, and gives back what it was asked."""

    def call(self, name: str, arguments: Any) -> Any:
        return f"{name} ran"


def custom(call_id: str, name: str, text: str) -> tuple[str, str, str]:
    """A custom tool's call as it goes back, its id and its name."""
    wire = f'{{"id":"{call_id}","type":"custom","custom":{{"name":"{name}","input":{json.dumps(text)}}}}}'
    return wire, call_id, name


def call(call_id: str, name: str, arguments: str, extra: str = "") -> tuple[str, str, str]:
    """A call as it goes back, its id and its name."""
    wire = f'{{"id":"{call_id}","type":"function","function":{{"name":"{name}","arguments":{json.dumps(arguments)}}}'
    return wire + extra + "}", call_id, name


def turn(*calls: tuple[str, str, str], text: str = "null", results: Sequence[str] = ()) -> str:
    """What a round adds to the messages."""
    assistant = f'{{"role":"assistant","content":{text},"tool_calls":[{",".join(wire for wire, _, _ in calls)}]}}'
    tools = [
        f'{{"role":"tool","content":{json.dumps(result)},"tool_call_id":"{call_id}"}}'
        for (_, call_id, _), result in zip(calls, results or [f"{name} ran" for _, _, name in calls], strict=True)
    ]
    return ",".join([assistant, *tools])


OSLO = '{"city":"Oslo"}'
REFUSED = '{"error":"the arguments are not a JSON object: %s"}'

ECHOES: dict[str, str] = {
    "tools-no-index-same-chunk-as-finish": turn(call("gSIMJiOkT", "weather", OSLO)),
    "tools-no-index-parallel-same-delta": turn(
        call("c1", "a", '{"n":1}'), call("c2", "b", '{"n":2}'), call("c3", "a", '{"n":3}')
    ),
    "tools-same-index-no-ids": turn(
        call("(1)", "search", '{"q":"Emma Bull"}'), call("(2)", "search", '{"q":"Virginia Woolf"}')
    ),
    "tools-index-starts-at-one": turn(call("toolu_s", "read_file", '{"path": "a.txt"}'), text='"Reading it."'),
    "tools-duplicate-ids": turn(call("weather", "weather", OSLO), call("(1)", "weather", '{"city":"Rome"}')),
    "tools-name-split-over-deltas": turn(call("t1", "edit_existing_file", "{}")),
    "tools-name-empty-in-later-deltas": turn(call("chatcmpl-tool-9f", "webSearch", '{"query": "Berlin"}')),
    "tools-name-arrives-late": turn(call("call_late", "test-tool", '{"value":"hi"}')),
    "tools-args-object-stream": turn(call("t1", "weather", OSLO)),
    "tools-args-empty-string": turn(call("call_e", "ping", "{}")),
    "tools-args-null": turn(call("c1", "ping", "{}"), call("c2", "pong", "{}")),
    "tools-function-call-and-tool-calls-both": turn(call("call__0_weather_cmpl-1", "weather", OSLO)),
    "tools-args-two-objects-concatenated": turn(
        call("t1", "search", "{}"), results=[REFUSED % r"{\"q\":\"A\"}{\"q\":\"B\"}"]
    ),
    "tools-args-not-an-object": turn(call("t1", "weather", "{}"), results=[REFUSED % r"[\"Oslo\"]"]),
    "tools-harmony-name-leak": turn(call("t1", "query_dataset", '{"sql":"1"}')),
    "w-custom-tool-chat": turn(custom("call_cu1", "run_sql", "select 1;")),
    "w-tool-index-drift": turn(call("call_d1", "lookup", '{"term":"tide"}')),
    "w-tool-args-resent-whole": turn(call("call_r1", "shell", '{"command":"ls /srv"}')),
    "w-choice-index-tools-at-1": turn(call("call_i1", "lookup", '{"term":"tide"}'), text='"Let me look."'),
    "w-cut-call-length": turn(
        call("call_c1", "clean", "{}"), results=['{"error":"the call was cut off (length), and not run: call again"}']
    ),
    "tools-gemini-extra-content-own-delta": turn(
        call(
            "function-call-1",
            "get_weather",
            '{"location":"Sydney"}',
            ',"extra_content":{"google":{"thought_signature":"SigA=="}}',
        )
    ),
}
"""What goes back; ``(1)`` and ``(2)`` stand for ids that the library makes up."""
CALLING = [CASES[name] for name in ECHOES]
OTHERS = [case for case in CASES.values() if case.id not in ECHOES]


def test_every_case_with_calls_is_in_the_table() -> None:
    assert set(ECHOES) == {case.id for case in CASES.values() if case.expect.get("tool_calls")}


def messages_of(body: bytes) -> str:
    """The messages of a request after the question, as they were sent; ids that were made up, by number."""
    head = '"messages":[{"role":"user","content":"hi"},'
    text = body.decode()
    begin = text.index(head) + len(head)
    text = text[begin : text.index('],"stream"', begin)]
    for number, made_up in enumerate(dict.fromkeys(re.findall(r'"id":"([0-9a-f]{9})"', text)), 1):
        text = text.replace(f'"{made_up}"', f'"({number})"')
    return text


@pytest.mark.parametrize("case", CALLING, ids=lambda case: case.id)
def test_what_is_echoed(case: Case) -> None:
    streamed = case.call == "stream"
    events: list[Any] = []
    # A dispatcher is asked only for what was offered.
    names = dict.fromkeys(call["name"] for call in case.expect["tool_calls"])
    offered = [ToolSpec(name, parameters={"type": "object", "additionalProperties": True}) for name in names]
    last = stream_reply("done") if streamed else chat_reply("done")
    with ReplayServer([reply_of(case), last]) as server, Client(f"{server.url}/v1", model="m-1") as client:
        answer = client.run_tools("hi", tools=offered, dispatcher=Recorder(), sink=events.append if streamed else None)
    assert answer.text == "done"
    assert messages_of(server.requests[1].body) == ECHOES[case.id]
    assert [event.done for event in events].count(True) == 2 * streamed, "the sink hears every round"


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.id)
def test_without_calls_the_loop_is_one_call(case: Case) -> None:
    def with_tools(*args: Any, **options: Any) -> Client:
        client = Client(*args, **options)
        client.chat = partial(client.run_tools, tools=[ToolSpec("weather")], dispatcher=Recorder())  # type: ignore[method-assign]
        return client

    streamed = case.call == "stream"
    (looped,) = drive(case, with_tools, sink=streamed)
    (asked,) = drive(case, Client, sink=streamed)
    assert summary(looped, case) == summary(asked, case)
