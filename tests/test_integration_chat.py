"""The chat endpoint without its framework."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import ChatResponse, Client, ConfigurationError, Conversation, Message
from openai_compat.integrations._chat import FIRST_LOAD, ChatEndpoint, RequestError, StoredMessage, Turn, page_history
from openai_compat.web import EventStream


def asked(body: bytes, content_type: str = "application/json", length: int | None = -1, **options: Any) -> str:
    return ChatEndpoint(**options).question(content_type, len(body) if length == -1 else length, lambda: body)


@pytest.mark.parametrize(
    ("body", "question"),
    [
        (b'{"message": "hi"}', "hi"),
        (b'{"message": "  hi\\n"}', "hi"),
        (b'{"message": "a\\nb", "model": "dear", "messages": [], "system": "obey"}', "a\nb"),
        ('{"message": "é 😀"}'.encode(), "é 😀"),
        (b'{"message": "\\ud83d\\ude00"}', "😀"),
    ],
)
def test_a_visitor_sends_a_message_and_nothing_else(body: bytes, question: str) -> None:
    assert asked(body) == question
    assert asked(body, "Application/JSON ; charset=utf-8") == question


@pytest.mark.parametrize(
    ("body", "options", "status"),
    [
        (b'{"message": "hi"}', {"content_type": "text/plain"}, 415),
        (b'{"message": "hi"}', {"content_type": ""}, 415),
        (b'{"message": "hi"}', {"content_type": "application/x-www-form-urlencoded"}, 415),
        (b'{"message": "hi"}', {"length": None}, 411),
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'"hi"', {}, 400),
        (b"{}", {}, 400),
        (b'{"message": null}', {}, 400),
        (b'{"message": ["hi"]}', {}, 400),
        (b'{"message": {"role": "system"}}', {}, 400),
        (b'{"message": ""}', {}, 400),
        (b'{"message": " \\n "}', {}, 400),
        (b'{"message": "\xff"}', {}, 400),
        (b'{"message": "\\ud83d"}', {}, 400),
        (b"[" * 100_000, {"max_question": 100_000}, 400),
        (b'{"message": "hi", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", {}, 400),
        (b'{"message": "123456"}', {"max_question": 5}, 413),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_reason(body: bytes, options: dict[str, Any], status: int) -> None:
    with pytest.raises(RequestError) as refused:
        asked(body, **options)
    assert refused.value.public_error.status == status
    assert refused.value.public_error.to_wire()["error"]["message"]


def test_a_body_that_is_too_long_is_not_read() -> None:
    endpoint = ChatEndpoint(max_question=10)

    def read() -> bytes:
        raise AssertionError("read")

    with pytest.raises(RequestError, match="longer than 10"):
        endpoint.question("application/json", endpoint.max_body + 1, read)


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=30), st.booleans())
def test_whatever_has_few_enough_characters_fits(text: str, ascii_only: bool) -> None:
    body = json.dumps({"message": text}, ensure_ascii=ascii_only).encode()
    if text.strip():
        assert asked(body, max_question=len(text)) == text.strip()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"sytem": "x"}, TypeError),
        ({"messages": []}, TypeError),
        ({"prompt": "x"}, TypeError),
        ({"tools": [3]}, ConfigurationError),
    ],
)
def test_a_wrong_field_is_told_before_anybody_asks(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ChatEndpoint(**fields)


def begin(endpoint: ChatEndpoint, client: Client, history: Sequence[StoredMessage], question: str) -> Turn:
    return endpoint.turn(endpoint.admit("ann"), client, lambda newest: history[-newest:], question)


def talk(endpoint: ChatEndpoint, client: Client, history: list[StoredMessage], question: str) -> list[StoredMessage]:
    """The history after a turn."""
    turn = begin(endpoint, client, history, question)
    kept: list[StoredMessage] = []
    list(EventStream(turn.run, on_done=lambda answer: kept.extend(turn.new_messages(answer))))
    return [*history, *kept]


def test_a_turn_asks_with_its_history_and_adds_to_it() -> None:
    thought = Reply(headers=EVENT_STREAM, body=[chunk({"reasoning_content": "hm"}), *stream_pieces("b")])
    endpoint = ChatEndpoint(system="Be brief.", max_tokens=5)
    with ReplayServer([stream_reply("a"), thought]) as server, Client(server.url, model="m") as client:
        history = talk(endpoint, client, talk(endpoint, client, [], "1"), "2")
        sent = [json.loads(request.body) for request in server.requests]
    assert [[(m["role"], m["content"]) for m in body["messages"]] for body in sent] == [
        [("system", "Be brief."), ("user", "1")],
        [("system", "Be brief."), ("user", "1"), ("assistant", "a"), ("user", "2")],
    ]
    assert [body["max_tokens"] for body in sent] == [5, 5]
    assert page_history(history) == {
        "messages": [
            {"role": "user", "content": "1", "reasoning": "", "tool_calls": [], "stopped": False},
            {"role": "assistant", "content": "a", "reasoning": "", "tool_calls": [], "stopped": False},
            {"role": "user", "content": "2", "reasoning": "", "tool_calls": [], "stopped": False},
            {"role": "assistant", "content": "b", "reasoning": "hm", "tool_calls": [], "stopped": False},
        ]
    }
    assert [StoredMessage.from_json(json.loads(json.dumps(kept.to_json()))) for kept in history] == history


def add(a: int, b: int) -> int:
    return a + b


def call_of_add(arguments: str = '{"a": 1, "b": 2}') -> Reply:
    call = chunk({"tool_calls": [{"index": 0, **tool_call("add", arguments)}]})
    return Reply(headers=EVENT_STREAM, body=[call, *stream_pieces()])


def shown(history: list[StoredMessage]) -> list[tuple[str, list[dict[str, Any]], bool]]:
    """What a page shows once the history has been stored and read again."""
    stored = [StoredMessage.from_json(json.loads(json.dumps(kept.to_json()))) for kept in history]
    messages = page_history(stored)["messages"]
    return [(message["content"], message["tool_calls"], message["stopped"]) for message in messages]


ADDED = [{"name": "add", "arguments": {"a": 1, "b": 2}}]


def test_tools_run_and_the_page_shows_their_calls_and_not_their_results() -> None:
    with ReplayServer([call_of_add(), stream_reply("three")]) as server, Client(server.url, model="m") as client:
        history = talk(ChatEndpoint(tools=[add]), client, [], "1 + 2?")
    assert [kept.message.role for kept in history] == ["user", "assistant", "tool", "assistant"]
    assert shown(history) == [("1 + 2?", [], False), ("", ADDED, False), ("three", [], False)]


def test_a_call_without_arguments_that_can_be_read_is_shown_with_none() -> None:
    with ReplayServer([call_of_add("[1"), stream_reply("?")]) as server, Client(server.url, model="m") as client:
        history = talk(ChatEndpoint(tools=[add]), client, [], "1 + 2?")
    assert shown(history)[1] == ("", [{"name": "add", "arguments": None}], False)


@pytest.mark.parametrize(
    ("saved", "calls"),
    [
        ({"message": {"role": "assistant", "content": "a"}, "reasoning": "", "stopped": False}, []),
        ({"message": {"role": "assistant", "tool_calls": [tool_call("add", '{"a": 1, "b": 2}')]}}, ADDED),
    ],
)
def test_the_calls_of_what_was_stored_before_are_shown(saved: dict[str, Any], calls: list[Any]) -> None:
    (message,) = page_history([StoredMessage.from_json(saved)])["messages"]
    assert message["tool_calls"] == calls


def leave(
    endpoint: ChatEndpoint, client: Client, question: str, until: bytes, history: Sequence[StoredMessage] = ()
) -> list[StoredMessage]:
    """What is kept of a turn whose browser leaves as soon as ``until`` has come."""
    turn = begin(endpoint, client, history, question)
    kept: list[StoredMessage] = []
    with EventStream(turn.run, on_disconnect=lambda answer: kept.extend(turn.new_messages(answer))) as body:
        while until not in next(body):
            pass
    return kept


def then_silence(*pieces: bytes) -> Any:
    def reply(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield from pieces
            request.closed.wait(30)

        return Reply(headers=EVENT_STREAM, body=body())

    return reply


def test_a_turn_that_is_left_is_kept_as_far_as_its_text_came() -> None:
    thought, said = chunk({"reasoning_content": "hm"}), chunk({"content": "a"})
    begun = chunk({"tool_calls": [{"index": 0, **tool_call("add", '{"a": 1')}]})
    with ReplayServer(then_silence(thought, begun, said)) as server, Client(server.url, model="m") as client:
        kept = leave(ChatEndpoint(), client, "1", b'"a"')
    question, answer = kept
    assert (question.message, question.stopped) == (Message(role="user", content="1"), False)
    assert (answer.message, answer.reasoning, answer.stopped) == (Message(role="assistant", content="a"), "hm", True)
    assert StoredMessage.from_json(json.loads(json.dumps(answer.to_json()))) == answer
    with ReplayServer(then_silence(thought)) as server, Client(server.url, model="m") as client:
        assert leave(ChatEndpoint(), client, "1", b'"hm"') == []


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_turn_that_is_left_after_its_tools_keeps_them_with_their_results(system: str | None) -> None:
    earlier = [StoredMessage(Message(role="user", content="0")), StoredMessage(Message(role="assistant", content="z"))]
    endpoint = ChatEndpoint(tools=[add], system=system)
    replies = [call_of_add(), then_silence(chunk({"content": "thr"})), stream_reply("3")]
    with ReplayServer(replies) as server, Client(server.url, model="m") as client:
        kept = leave(endpoint, client, "1 + 2?", b'"thr"', earlier)
        assert [one.message.role for one in kept] == ["user", "assistant", "tool", "assistant"]
        assert shown(kept) == [("1 + 2?", [], False), ("", ADDED, False), ("thr", [], True)]
        talk(endpoint, client, [*earlier, *kept], "And?")
        sent = json.loads(server.requests[2].body)["messages"]
    roles = ["user", "assistant", "user", "assistant", "tool", "assistant", "user"]
    assert [message["role"] for message in sent] == (["system"] if system else []) + roles


def test_a_turn_that_is_left_while_its_tool_runs_keeps_no_call_without_its_result() -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        running.set()
        go_on.wait(30)
        return "x"

    call = [
        chunk({"content": "Wait."}),
        chunk({"tool_calls": [{"index": 0, **tool_call("slow", "{}")}]}),
        *stream_pieces(),
    ]
    with ReplayServer([Reply(headers=EVENT_STREAM, body=call)]) as server, Client(server.url, model="m") as client:
        turn = begin(ChatEndpoint(tools=[slow]), client, [], "1")
        kept: list[StoredMessage] = []
        with EventStream(turn.run, on_disconnect=lambda answer: kept.extend(turn.new_messages(answer))) as body:
            next(body)
            assert running.wait(10)
        go_on.set()
    assert kept == []


def test_old_turns_are_kept_but_not_sent() -> None:
    history = [
        StoredMessage(Message(role=role, content="x" * 400)) for _ in range(20) for role in ("user", "assistant")
    ]
    with ReplayServer([stream_reply("a")]) as server, Client(server.url, model="m") as client:
        after = talk(ChatEndpoint(history_tokens=500), client, history, "now")
        messages = json.loads(server.requests[0].body)["messages"]
    assert (len(after), len(messages)) == (42, 5)
    assert after[-2].message.content == "now"


turns = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 40)).map(
        lambda turn: [
            Message(role="user", content="x" * turn[0]),
            *[Message(role="assistant", content="y" * turn[0])] * turn[1],
        ]
    ),
    max_size=40,
)


@given(turns, st.integers(1, 4000))
def test_what_is_loaded_of_a_history_is_sent_as_if_it_were_all(turns: list[list[Message]], tokens: int) -> None:
    history = [StoredMessage(message) for turn in turns for message in turn]
    whole = Conversation(lambda request: ChatResponse(), messages=[stored.message for stored in history])
    whole.trim(max_tokens=tokens)
    with Client("http://localhost:9", model="m") as client:
        turn = begin(ChatEndpoint(history_tokens=tokens), client, history, "now")
    assert turn.conversation.messages == whole.messages


def test_of_a_long_history_only_the_newest_messages_are_loaded() -> None:
    asked: list[int] = []

    def load(newest: int) -> list[StoredMessage]:
        asked.append(newest)
        return [StoredMessage(Message(role=role, content="x" * 400)) for role in ("user", "assistant")] * (newest // 2)

    endpoint = ChatEndpoint(history_tokens=5_000)
    with Client("http://localhost:9", model="m") as client:
        endpoint.turn(endpoint.admit("ann"), client, load, "now")
    assert asked == [FIRST_LOAD]


def test_a_visitor_may_have_so_many_answers_under_way() -> None:
    endpoint = ChatEndpoint(max_answers=2)
    first, second = endpoint.admit("ann"), endpoint.admit("ann")
    with pytest.raises(RequestError) as refused:
        endpoint.admit("ann")
    assert (refused.value.public_error.status, refused.value.public_error.code) == (429, "rate_limited")
    endpoint.admit("ben")
    first.under_way = False
    third = endpoint.admit("ann")
    with pytest.raises(RequestError):
        endpoint.admit("ann")
    # Of a response that was never made.
    del second
    assert endpoint.admit("ann").under_way
    assert third.under_way
    with pytest.raises(ConfigurationError, match="max_answers"):
        ChatEndpoint(max_answers=0)


def test_a_visitor_who_leaves_while_a_tool_runs_has_it_under_way_until_it_ends() -> None:
    """Or by asking and leaving they could have as many tools running as they like."""
    running, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> str:
        thread = threading.current_thread()
        threading.Thread(target=lambda: (thread.join(30), ended.set())).start()
        running.set()
        go_on.wait(30)
        return "x"

    call = [chunk({"tool_calls": [{"index": 0, **tool_call("slow", "{}")}]}), *stream_pieces()]
    endpoint = ChatEndpoint(tools=[slow], max_answers=1)
    with ReplayServer([Reply(headers=EVENT_STREAM, body=call)]) as server, Client(server.url, model="m") as client:
        with EventStream(begin(endpoint, client, [], "1").run, on_disconnect=lambda answer: None) as body:
            next(body)
            assert running.wait(10)
        with pytest.raises(RequestError):
            endpoint.admit("ann")
        assert endpoint.admit("ben").under_way
        go_on.set()
        assert ended.wait(30)
        assert endpoint.admit("ann").under_way


@pytest.mark.parametrize("end", ["answered", "failed", "left"])
def test_an_answer_that_has_ended_in_any_way_makes_room_for_the_next(end: str) -> None:
    replies = {
        "answered": stream_reply("a"),
        "failed": error_reply(500, "no"),
        "left": then_silence(chunk({"content": "a"})),
    }
    endpoint = ChatEndpoint(max_answers=1)
    with ReplayServer([replies[end], stream_reply("b")]) as server, Client(server.url, model="m") as client:
        if end == "left":
            leave(endpoint, client, "1", b"")
        else:
            talk(endpoint, client, [], "1")
        assert len(talk(endpoint, client, [], "2")) == 2


@pytest.mark.parametrize("value", [{}, {"message": 3}, {"message": {"content": "no role"}}, {"message": {"role": 1}}])
def test_what_is_no_kept_message_is_told(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a saved message"):
        StoredMessage.from_json(value)
