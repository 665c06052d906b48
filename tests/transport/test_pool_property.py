"""Random uses of one client, several calls under way at once: no call's outcome changes another's, and nothing leaks.

Each call asks a question of its own, which the server gives back; so an answer that is not one's own is told. A reply
comes whole and at once, or its second half waits until the test lets it go; plain or compressed, in any framing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import ssl
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, get_args

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.arbitrary import examples
from support.replay import EVENT_STREAM, End, Framing, ReplayServer, Reply, Request
from support.sessions import own_session
from support.wire_bodies import chat_reply, stream_pieces

from openai_compat import Cancelled, CancelToken, ChatStream, Client, Timeout

LIMITS = Timeout(connect=20, first_token=20, idle=20, total=40)
"""So that a call that hangs is an error and not a test that hangs."""


@attrs.frozen
class Shape:
    """How a stream is served. ``held`` is by the test, half-way."""

    held: bool
    zipped: bool
    framing: Framing
    length: int


WHOLE = [
    Shape(held=False, zipped=zipped, framing=framing, length=30)
    for zipped in (False, True)
    for framing in get_args(Framing)
]
"""Over, for the server, before their first event is handed on. They fit into a socket's buffer: a reset loses none."""
HELD = [attrs.evolve(shape, held=True) for shape in WHOLE]
SHAPES = st.sampled_from(WHOLE) | st.sampled_from(HELD) | st.just(attrs.evolve(WHOLE[0], length=200))


class Echo:
    """Answers each question with itself, in the shape that was said of it."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.gates: dict[str, threading.Event] = {}

    def expect(self, question: str, shape: Shape) -> None:
        self.shapes[question] = shape
        self.gates[question] = threading.Event()

    def __call__(self, request: Request) -> Reply:
        question = request.json()["messages"][-1]["content"]
        if not request.json().get("stream"):
            return chat_reply(question)
        shape = self.shapes[question]
        pieces = stream_pieces(*question)
        middle = half_way(question)
        halves = [b"".join(pieces[:middle]), b"".join(pieces[middle:])]
        if shape.zipped:
            packer = zlib.compressobj(wbits=31)
            halves = [packer.compress(half) + packer.flush(zlib.Z_SYNC_FLUSH) for half in halves]
            halves[1] += packer.flush()
        headers = {**EVENT_STREAM, **({"Content-Encoding": "gzip"} if shape.zipped else {})}
        length = sum(map(len, halves)) if shape.framing == "content-length" else None
        body: Any = self._held(question, halves, request) if shape.held else iter([b"".join(halves)])
        return Reply(headers=headers, body=body, framing=shape.framing, declared_length=length)

    def _held(self, question: str, halves: list[bytes], request: Request) -> Iterator[bytes]:
        yield halves[0]
        while not self.gates[question].wait(0.005):
            if request.closed.is_set():
                return
        yield halves[1]


def half_way(question: str) -> int:
    """How many events the first half of a reply has, all of them text."""
    return len(question) // 2


class Call:
    """A stream under way, and all that may be done with it; each deed says whether the stream is over."""

    def __init__(self, client: Client, echo: Echo, question: str, shape: Shape) -> None:
        self.question = question
        self._gate = echo.gates[question]
        self._held = shape.held
        self._token = CancelToken()
        self._stream: ChatStream = client.stream(question, cancel=self._token, timeout=LIMITS)
        self._text = ""
        self._over = False

    def read(self) -> bool:
        """One event more. Of a reply that is held, only what has been let go."""
        if self._held and len(self._text) >= half_way(self.question):
            self._gate.set()
        event = next(self._stream, None)
        if event is None:
            return True
        assert event.kind in ("text", "done"), event
        self._text += event.delta
        assert self.question.startswith(self._text)
        if event.done:
            assert self._stream.response.text == self.question
        return False

    def finish(self) -> bool:
        self._over = True
        self._gate.set()
        answer = self._stream.until_done()
        assert (answer.text, answer.truncated, answer.finish_reason) == (self.question, False, "stop")
        return True

    def finish_if_open(self) -> None:
        if not self._over:
            self.finish()

    def leave(self) -> bool:
        self._over = True
        self._stream.close()
        assert self.question.startswith(self._stream.response.text)
        assert next(self._stream, None) is None
        return True

    def cancel(self) -> bool:
        """By its reader: the answer so far, or the whole where it was there."""
        self._over = True
        self._stream.cancel()
        assert self.question.startswith(self._stream.until_done().text)
        return True

    def cancel_by_token(self) -> bool:
        self._over = True
        self._token.cancel()
        over = self._stream.response.text == self.question
        try:
            self._stream.until_done()
        except Cancelled:
            over = True
        assert over, "it was not cancelled"
        assert self.question.startswith(self._stream.response.text)
        return True


DEEDS: dict[str, Callable[[Call], bool]] = {
    "read": Call.read,
    "finish": Call.finish,
    "leave": Call.leave,
    "cancel": Call.cancel,
    "cancel by token": Call.cancel_by_token,
}


class PoolMachine(RuleBasedStateMachine):
    """One client, one server, some calls at once."""

    tls: ssl.SSLContext | None = None
    given = False

    def __init__(self) -> None:
        super().__init__()
        self.echo = Echo()
        self.server = ReplayServer(self.echo, tls=self.tls)
        self.stack = contextlib.ExitStack()
        self.session = self.stack.enter_context(own_session()) if self.given else None
        # No further tries: a kept connection that is gone is no failure. requests' own adapter may take it for one.
        self.client = Client(
            self.server.url, model="m", session=self.session, max_retries=5 if self.given else 0, timeout=LIMITS
        )
        self.calls: list[Call] = []
        self.numbers = itertools.count(1)
        self.forks = 0

    def begin(self, shape: Shape) -> Call:
        question = f"{next(self.numbers)}:".ljust(shape.length, "x")
        self.echo.expect(question, shape)
        call = Call(self.client, self.echo, question, shape)
        call.read()
        return call

    @precondition(lambda self: len(self.calls) < 5)
    @rule(shape=SHAPES)
    def take(self, shape: Shape) -> None:
        """Begin a stream, and read its first event."""
        self.calls.append(self.begin(shape))

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 4), deed=st.sampled_from(sorted(DEEDS)))
    def do(self, which: int, deed: str) -> None:
        """Something with one of the calls under way."""
        call = self.calls[which % len(self.calls)]
        if DEEDS[deed](call):
            self.calls.remove(call)

    @rule()
    def chat(self) -> None:
        question = f"{next(self.numbers)}"
        assert self.client.chat(question, timeout=LIMITS).text == question

    @rule(how=st.sampled_from(["fin", "rst"]))
    def server_ends_idle_connections(self, how: End) -> None:
        self.server.end_idle(how)

    @rule()
    def close_the_client(self) -> None:
        """What is under way goes on, and later calls have connections of their own."""
        self.client.close()

    @precondition(lambda self: hasattr(os, "fork") and self.forks < 2)
    @rule(deed=st.sampled_from(["nothing", "leave", "cancel by token", "close"]))
    def fork(self, deed: str) -> None:
        """A child that ends all that it has inherited, which is not its own."""
        self.forks += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: the server's
            pid = os.fork()
        if not pid:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            with contextlib.suppress(BaseException):
                if deed == "close":
                    self.client.close()
                elif deed != "nothing":
                    for call in self.calls:
                        with contextlib.suppress(Exception):
                            DEEDS[deed](call)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child hangs"

    def teardown(self) -> None:
        try:
            # Those that nothing was done to: nothing has been done to them.
            for call in self.calls:
                call.finish()
            self.client.close()
            self.stack.close()
            assert self.server.wait_closed(), "a connection is left open"
        finally:
            self.server.close()


each_pool = pytest.mark.parametrize("pool", ["own pool", "session"])
each_wire = pytest.mark.parametrize("wire", ["tcp", "tls"])


def machine(wire: str, pool: str, tls: ssl.SSLContext) -> type[PoolMachine]:
    return type("Machine", (PoolMachine,), {"tls": tls if wire == "tls" else None, "given": pool == "session"})


@each_pool
@each_wire
@pytest.mark.usefixtures("pauses")
def test_one_thread(wire: str, pool: str, tls: ssl.SSLContext) -> None:
    run_state_machine_as_test(
        machine(wire, pool, tls),
        settings=settings(examples(30), stateful_step_count=40),
    )


@each_pool
@pytest.mark.parametrize("deed", ["leave", "cancel", "cancel by token", "finish"])
@pytest.mark.parametrize("first", WHOLE, ids=lambda shape: f"{shape.framing}{'-gzip' * shape.zipped}")
def test_how_one_ends_is_nothing_to_the_next(first: Shape, deed: str, pool: str, tls: ssl.SSLContext) -> None:
    """The body of the first has ended, its events are still read; where is its connection?"""
    calls = machine("tcp", pool, tls)()
    try:
        calls.take(first)
        calls.take(HELD[0])
        calls.do(0, deed)
    finally:
        calls.teardown()


Step = tuple[str, Shape]


@each_pool
@each_wire
@pytest.mark.usefixtures("pauses")
@settings(examples(15), suppress_health_check=list(HealthCheck))
@given(
    plans=st.lists(
        st.lists(st.tuples(st.sampled_from([*sorted(DEEDS), "chat", "close", "end idle"]), SHAPES), max_size=12),
        min_size=4,
        max_size=4,
    )
)
def test_several_threads(wire: str, pool: str, tls: ssl.SSLContext, plans: list[list[Step]]) -> None:
    """Each has two calls of its own under way, and the client, its pool and the server in common."""
    shared = machine(wire, pool, tls)()
    failures: list[BaseException] = []

    def run(steps: list[Step]) -> None:
        mine: list[Call] = []
        try:
            for deed, shape in steps:
                match deed:
                    case "chat":
                        shared.chat()
                    case "close":
                        shared.close_the_client()
                    case "end idle":
                        shared.server_ends_idle_connections("fin")
                    case _:
                        mine.append(shared.begin(shape))
                        if DEEDS[deed](mine[0]) or len(mine) > 1:
                            mine.pop(0).finish_if_open()
            for call in mine:
                call.finish_if_open()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(steps,), daemon=True) for steps in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call hangs"
    shared.teardown()
    if failures:
        raise failures[0]
