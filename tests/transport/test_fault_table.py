"""A connection that ends at any stage of a call: the error, the requests that the server saw, and the pauses.

Every cell of: how it ends × after what × TCP, TLS × own pool, a session given, compressed replies × kind of call ×
first connection, kept connection × once, every time. What is expected of a cell is one function, ``expected``.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import logging
import ssl
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import attrs
import pytest
from support.replay import EVENT_STREAM, JSON, End, ReplayServer, Reply, Request, Stage
from support.sessions import own_session
from support.wire_bodies import chat_body, stream_pieces, tool_call

from openai_compat import APIConnectionError, APIError, Client, tool

RETRIES = 2
STORM = 15
"""Faults after which the server gives in, so that a client without a bound is told from a test that hangs."""
CONNECTING = ("accept", "handshake")
"""Stages before a request: none is seen, and a kept connection is past them."""
UNHEARD = ("head", "request")
"""Stages after which the request may have been read, and not one byte has come back."""


@attrs.frozen(kw_only=True)
class Cell:
    how: End
    after: Stage
    wire: Literal["tcp", "tls"]
    pool: Literal["own pool", "session", "gzip"]
    call: Literal["chat", "stream", "embed", "tools"]
    connection: Literal["first", "kept"]
    times: Literal["once", "always"]

    def __str__(self) -> str:
        return "-".join(attrs.astuple(self)).replace(" ", "_")

    @property
    def kept(self) -> bool:
        return self.connection == "kept"

    @property
    def lasting(self) -> bool:
        return self.times == "always"


TABLE = [
    Cell(how=how, after=after, wire=wire, pool=pool, call=call, connection=connection, times=times)
    for how, after, wire, pool, call, connection, times in itertools.product(
        get_args(End),
        get_args(Stage),
        ("tcp", "tls"),
        ("own pool", "session", "gzip"),
        ("chat", "stream", "embed", "tools"),
        ("first", "kept"),
        ("once", "always"),
    )
    # Without TLS there is nothing between the connection and the request.
    if (after, wire) != ("handshake", "tcp")
]


@attrs.frozen(kw_only=True)
class Expected:
    """Without ``error`` there is an answer, with ``either`` there may be; a range is of numbers that are right."""

    error: type[APIError] | None = None
    either: bool = False
    requests: int | range = 1
    connections: int | None = None
    pauses: int | range = 0


def expected(cell: Cell) -> Expected:
    tries: int | range
    # A call of tools that gets on makes two requests. On a kept connection the first is the one that it is kept from,
    # and not counted.
    more = 1 if cell.call == "tools" and not cell.kept else 0
    if cell.after == "end":
        # The reply was whole; that its connection is gone concerns the next call, which looks before it writes.
        return Expected(requests=1 + more)
    if cell.after == "body" and cell.call == "stream":
        # An event was delivered: nothing is sent again, whatever the policy allows.
        return Expected(error=APIConnectionError, requests=1)
    if cell.after in CONNECTING and cell.kept and not cell.lasting:
        # It is the idle connection that ends: seen before anything is written, so it costs no try, and no request.
        return Expected(requests=1, connections=1)
    if cell.after == "status line" and cell.pool == "session" and (cell.how == "fin" or cell.wire == "tls"):
        # http.client takes the end of the connection for the end of the headers, and the reply for an empty one; so
        # it does with a reset under TLS, which Python reports as an end. An empty reply is tried again, an empty stream
        # need not be.
        if cell.lasting and cell.call != "stream":
            return Expected(error=APIError, requests=1 + RETRIES, pauses=RETRIES)
        if cell.call == "stream":
            most = 1 + RETRIES if cell.lasting else 2
            return Expected(error=APIError, either=not cell.lasting, requests=range(1, 1 + most), pauses=range(most))
    if not cell.lasting:
        if cell.after in CONNECTING:
            return Expected(requests=1 + more, connections=2, pauses=1)
        if cell.kept and cell.after in UNHEARD:
            # A kept connection on which not a byte came back: replaced at once, within the try. requests' own adapter
            # makes no replay, and does not tell that the connection was kept: there it may cost a try.
            return Expected(requests=2, pauses=range(2) if cell.pool == "session" else 0)
        # A fresh connection, or one that the server had begun to answer on: a failed try.
        return Expected(requests=2 + more, pauses=1)
    if cell.after in CONNECTING:
        return Expected(error=APIConnectionError, requests=0, connections=1 + RETRIES, pauses=RETRIES)
    tries = 1 + RETRIES
    if cell.kept and cell.after in UNHEARD:
        # One connection was kept, so that one replay comes on top.
        tries = range(1 + RETRIES, 3 + RETRIES) if cell.pool == "session" else 2 + RETRIES
    return Expected(error=APIConnectionError, requests=tries, pauses=RETRIES)


class Fault:
    """Ends connections after one stage, once it is armed; counts what comes from then on."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._lock = threading.Lock()
        self._left = 0
        self._socket_timeout = False
        self.requests = 0
        self.connections = 0

    def arm(self) -> None:
        idle_only = self._cell.kept and self._cell.after in CONNECTING
        with self._lock:
            self._socket_timeout = True
            self._left = STORM if self._cell.lasting else 0 if idle_only else 1

    def disarm(self) -> None:
        with self._lock:
            self._socket_timeout = False

    def __call__(self, stage: Stage, connection: int) -> End | None:
        with self._lock:
            if not self._socket_timeout:
                return None
            self.requests += stage == "head"
            self.connections += stage == "accept"
            if stage != self._cell.after or not self._left:
                return None
            self._left -= 1
            return self._cell.how


def packed(body: bytes | list[bytes], zipped: bool) -> bytes | list[bytes]:
    """A body in gzip's form where that is asked for, each piece of it readable when it comes."""
    if not zipped:
        return body
    if isinstance(body, bytes):
        return gzip.compress(body)
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in body]
    return [*pieces, packer.flush()]


def replies(zipped: bool) -> Callable[[Request], Reply]:
    coding = {"Content-Encoding": "gzip"} if zipped else {}

    def reply(request: Request) -> Reply:
        asked = request.json()
        if request.path.endswith("/embeddings"):
            body = b'{"data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "m"}'
            return Reply(headers={**JSON, **coding}, body=packed(body, zipped))
        if asked.get("stream"):
            return Reply(headers={**EVENT_STREAM, **coding}, body=packed(stream_pieces("first", " last"), zipped))
        if asked.get("tools") and asked["messages"][-1]["role"] == "user":
            body = chat_body(None, tool_calls=[tool_call("act", "{}")], finish_reason="tool_calls")
        else:
            body = chat_body("ok")
        return Reply(headers={**JSON, **coding}, body=packed(body, zipped))

    return reply


@attrs.define
class Rig:
    """A client, a server with a fault, and what became of the call."""

    cell: Cell
    server: ReplayServer
    fault: Fault
    client: Client
    ran: int = 0

    def break_kept(self) -> None:
        """Arm the fault, there being a kept connection."""
        self.server.wait_idle()
        self.fault.arm()
        if self.cell.after in CONNECTING:
            # The connection is past these stages: it ends while it is idle.
            self.server.end_idle(self.cell.how)

    def ask(self) -> Any:
        match self.cell.call:
            case "chat":
                return self.client.chat("hi")
            case "stream":
                return self.client.stream("hi").until_done()
            case "embed":
                return self.client.embed("hi")
            case "tools":
                return self.client.run_tools("hi", tools=[self.act()])

    def call(self) -> Any:
        answer = self.ask()
        return list(answer.embedding) if self.cell.call == "embed" else answer.text

    def act(self) -> Any:
        @tool
        def act() -> str:
            """Do it."""
            self.ran += 1
            if self.cell.kept:
                self.break_kept()
            elif self.cell.after == "end":
                self.server.wait_ended(0)
            return "done"

        return act

    @property
    def answer(self) -> Any:
        return {"chat": "ok", "stream": "first last", "embed": [1.0, 2.0], "tools": "ok"}[self.cell.call]


@contextlib.contextmanager
def rigged(cell: Cell, tls: ssl.SSLContext, **options: Any) -> Iterator[Rig]:
    """A client before the call that the cell is about, and the fault armed where it strikes."""
    fault = Fault(cell)
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as stack:
        server = ReplayServer(replies(cell.pool == "gzip"), tls=tls if cell.wire == "tls" else None, hang_up=fault)
        closing.enter_context(server)
        closing.callback(lambda: pytest.fail("a connection is left open") if not server.wait_closed() else None)
        session = stack.enter_context(own_session()) if cell.pool == "session" else None
        client = Client(server.url, model="m", session=session, max_retries=RETRIES, timeout=60, **options)
        stack.enter_context(client)
        rig = Rig(cell, server, fault, client)
        if not cell.kept:
            fault.arm()
        elif cell.call != "tools":  # which keeps the connection of its first round
            assert rig.call() == rig.answer
            rig.break_kept()
        yield rig


def within(got: int, wanted: int | range) -> bool:
    return got in wanted if isinstance(wanted, range) else got == wanted


def in_the_policys_range(pauses: list[float]) -> bool:
    """Half a second, doubled each time, less up to half of it."""
    return all(0.25 * 2**turn <= pause <= 0.5 * 2**turn for turn, pause in enumerate(pauses))


@pytest.mark.parametrize("cell", TABLE, ids=str)
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_cell(cell: Cell, tls: ssl.SSLContext, pauses: list[float]) -> None:
    wanted = expected(cell)
    with rigged(cell, tls) as rig:
        try:
            outcome: Any = rig.call()
        except APIError as error:
            outcome = error
        seen = f"{outcome!r}; {rig.fault.requests} requests, {rig.fault.connections} connections, pauses {pauses}"
        if wanted.error is None or (wanted.either and outcome == rig.answer):
            assert outcome == rig.answer, seen
        else:
            assert isinstance(outcome, wanted.error), seen
            # Neither a timeout nor anything else that is more than "it did not get through".
            assert wanted.error is APIError or type(outcome) is APIConnectionError, seen
        assert within(rig.fault.requests, wanted.requests), f"{wanted.requests} requests, not so: {seen}"
        assert wanted.connections in (None, rig.fault.connections), f"{wanted.connections} connections, not so: {seen}"
        assert within(len(pauses), wanted.pauses), f"{wanted.pauses} pauses, not so: {seen}"
        assert in_the_policys_range(pauses), seen
        if cell.call == "tools":
            # What is sent again is a request; a tool is never run for it twice.
            assert rig.ran == (1 if cell.kept or wanted.error is None else 0), seen
        if cell.call == "stream" and cell.after == "body":
            assert outcome.partial is not None, seen
            assert outcome.partial.text == "first", seen

        # The client is none the worse for it.
        rig.fault.disarm()
        if cell.call != "tools":
            assert rig.call() == rig.answer
    if (cell.how, cell.after, cell.wire) == ("rst", "accept", "tls"):
        # Python's ssl leaves a socket unclosed that was reset before it could ask who the other side is.
        outcome = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.mark.parametrize(
    "cell", [cell for cell in TABLE if (cell.wire, cell.pool) == ("tcp", "own pool") and cell.call != "tools"], ids=str
)
def test_what_was_tried_is_told(
    cell: Cell, tls: ssl.SSLContext, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    with rigged(cell, tls, on_retry=heard.append) as rig, caplog.at_level(logging.INFO, "openai_compat"):
        try:
            outcome: Any = rig.ask()
            failed = False
        except APIError as error:
            outcome = error
            failed = True
        made = rig.fault.connections if cell.after in CONNECTING else rig.fault.requests
        # A kept connection that was seen to be gone is no attempt.
        replays = 1 if cell.kept and cell.after in UNHEARD else 0
        attempts = list(outcome.attempts)
        assert len(attempts) == made, attempts
        assert [attempt.number for attempt in attempts] == [1] * replays + list(range(1, 1 + made - replays)), attempts
        assert [attempt.replay for attempt in attempts] == [replays and turn == 1 for turn in range(made)], attempts
        assert [bool(attempt.error) for attempt in attempts] == [True] * (made - 1) + [failed], attempts
        assert [attempt.waited for attempt in attempts if attempt.waited] == pauses, attempts
        assert all(attempt.seconds >= 0 for attempt in attempts), attempts
        starts = [attempt.started for attempt in attempts]
        assert starts == sorted(starts), attempts
        assert [event.attempt for event in heard] == attempts[:-1], attempts
        told = [record.getMessage() for record in caplog.records if record.name == "openai_compat.transport"]
        assert len(told) == made - 1, told
        for turn in range(2, 2 + len(pauses)):
            assert any(f"try {turn} of {1 + RETRIES}" in words for words in told), told
        if failed:
            assert ("after 3 tries" in str(outcome)) == (len(pauses) == RETRIES), outcome
