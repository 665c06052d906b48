"""Sinks: what they hear, and what becomes of a stream whose sink fails, stops or is slow."""

from __future__ import annotations

import io
import logging
import queue
import threading
from functools import partial
from typing import Any

import pytest
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, stream_pieces, stream_reply

from openai_compat import (
    Client,
    CollectSink,
    ConfigurationError,
    IsolateSink,
    PrintSink,
    QueueSink,
    StopStream,
    StreamEvent,
    TeeSink,
    ThreadSink,
    ThrottleSink,
)


def push(sink: Any, reply: Reply | None = None) -> Any:
    with ReplayServer([reply or stream_reply("a", "b", "c")]) as server, Client(server.url, model="m") as client:
        return client.chat("hi", sink=sink, max_tokens=3)


async def coroutine(event: StreamEvent) -> None:
    """Would never be awaited."""


class OfCoroutines:
    emit = staticmethod(coroutine)


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        ("print", "a sink is a callable or has emit; str is neither"),
        (PrintSink, r"a sink is an object: PrintSink\(\), not the class"),
        (coroutine, "sink is a plain function: nothing would await an async one"),
        (partial(coroutine), "sink is a plain function"),
        (OfCoroutines(), "sink is a plain function"),
    ],
)
def test_what_is_no_sink_is_refused_before_anything_is_asked(sink: Any, told: str) -> None:
    with ReplayServer([]) as server, Client(server.url, model="m") as client:
        for ask in (client.chat, client.conversation().say, partial(client.run_tools, tools=[])):
            with pytest.raises(ConfigurationError, match=told):
                ask("hi", sink=sink)
        with pytest.raises(ConfigurationError, match=told):
            TeeSink(sink)
        assert not server.requests


def endless(request: Request) -> Reply:
    def body() -> Any:
        while not request.closed.is_set():
            yield chunk({"content": "x"})

    return Reply(headers=EVENT_STREAM, body=body())


def test_print_shows_the_text_and_ends_the_line() -> None:
    out = io.StringIO()
    thinking = Reply(headers=EVENT_STREAM, body=[chunk({"reasoning_content": "hm"}), *stream_pieces("a", "b")])
    push(PrintSink(out), thinking)
    assert out.getvalue() == "ab\n"


def test_print_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    push(PrintSink())
    assert capsys.readouterr().out == "abc\n"


def test_collect_adds_up_what_came() -> None:
    sink = CollectSink()
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    pieces = [chunk({"reasoning_content": "hm"}), chunk({"tool_calls": [call]}), *stream_pieces("a", "b")]
    assert sink.response is None
    answer = push(sink, Reply(headers=EVENT_STREAM, body=pieces))
    assert (sink.text, sink.reasoning, sink.response) == ("ab", "hm", answer)
    assert [call.name for call in sink.tool_calls] == ["f"]


def test_queue_hands_over_to_another_thread() -> None:
    events: queue.Queue[StreamEvent] = queue.Queue()
    push(QueueSink(events))
    kinds = [events.get_nowait().kind for _ in range(events.qsize())]
    assert kinds == ["text", "text", "text", "done"]


def test_tee_hands_to_all() -> None:
    one, two = CollectSink(), CollectSink()
    push(TeeSink(one, two.emit))
    assert one.events == two.events
    assert len(one.events) == 4


def test_isolate_logs_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def fails(event: StreamEvent) -> None:
        raise ValueError("mine")

    assert push(IsolateSink(fails)).text == "abc"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 4
    assert caplog.records[0].exc_info is not None


def stop_at_once(event: StreamEvent) -> None:
    raise StopStream


@pytest.mark.parametrize("wrap", [lambda sink: sink, IsolateSink, TeeSink], ids=["bare", "isolate", "tee"])
def test_stop_stream_ends_with_the_answer_so_far(wrap: Any) -> None:
    heard: list[StreamEvent] = []

    def sink(event: StreamEvent) -> None:
        heard.append(event)
        if len(heard) == 3:
            raise StopStream

    with ReplayServer(endless) as server, Client(server.url, model="m") as client:
        answer = client.chat("hi", sink=wrap(sink))
        assert server.wait_closed()
    assert answer.text == "xxx"
    assert answer.truncated
    assert [event.kind for event in heard] == ["text"] * 3 + ["done"]
    assert heard[-1].response == answer


def test_stop_stream_on_the_last_event_too_is_quiet() -> None:
    assert push(stop_at_once).text == "a"


def test_throttle_joins_pieces_and_keeps_their_order() -> None:
    sink = CollectSink()
    pieces = [chunk({"reasoning_content": word}) for word in ("x", "y")] + stream_pieces(*"abcdef")
    push(ThrottleSink(sink, 60), Reply(headers=EVENT_STREAM, body=pieces))
    assert [(event.kind, event.data) for event in sink.events[:-1]] == [
        ("reasoning", "x"),
        ("reasoning", "y"),
        ("text", "abcdef"),
    ]
    assert sink.events[-1].done


def test_throttle_lets_through_what_comes_slowly() -> None:
    sink = CollectSink()
    push(ThrottleSink(sink, 1e-9))
    assert [event.delta for event in sink.events] == ["a", "b", "c", ""]


def test_a_thread_takes_the_work_off_the_socket() -> None:
    threads: set[int] = set()
    sink = CollectSink()

    def slow(event: StreamEvent) -> None:
        threads.add(threading.get_ident())
        sink.emit(event)

    push(ThreadSink(slow))
    assert sink.text == "abc"
    assert sink.events[-1].done
    assert threading.get_ident() not in threads


def test_a_full_thread_waits_by_default() -> None:
    sink = CollectSink()
    push(ThreadSink(sink, size=1), stream_reply(*["x"] * 50))
    assert len(sink.text) == 50


def test_a_full_thread_may_drop_but_never_the_last_event() -> None:
    go = threading.Event()
    heard: list[StreamEvent] = []

    def stuck(event: StreamEvent) -> None:
        go.wait(10)
        heard.append(event)

    thread = ThreadSink(stuck, size=2, when_full="drop")
    for piece in "abcdef":
        thread.emit(StreamEvent("text", piece))
    go.set()
    thread.emit(StreamEvent("done"))
    assert heard[-1].done
    assert thread.dropped >= 3
    assert thread.dropped + len(heard) == 7


def test_a_full_thread_may_stop_the_stream() -> None:
    go = threading.Event()

    def stuck(event: StreamEvent) -> None:
        go.wait(10)

    with ReplayServer(endless) as server, Client(server.url, model="m") as client:
        with ThreadSink(stuck, size=2, when_full="stop") as sink:
            threading.Timer(0.2, go.set).start()
            assert client.chat("hi", sink=sink).truncated


def test_an_exception_on_the_thread_reaches_the_caller() -> None:
    def fails(event: StreamEvent) -> None:
        raise ValueError("mine")

    with ReplayServer(endless) as server, Client(server.url, model="m") as client:
        with pytest.raises(ValueError, match="mine"), ThreadSink(fails) as sink:
            client.chat("hi", sink=sink)
        assert server.wait_closed()


def test_a_thread_ends_with_its_stream() -> None:
    before = set(threading.enumerate())
    sink = ThreadSink(CollectSink())
    push(sink)
    sink.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThrottleSink(print, 0),
        lambda: ThreadSink(print, size=0),
        lambda: ThreadSink(print, when_full="panic"),  # type: ignore[arg-type]
        lambda: TeeSink(3),
    ],
)
def test_a_sink_that_could_not_work_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()
