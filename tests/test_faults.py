"""Every fault of a stream × TCP and TLS × sink and iterator: the named error in its time, with what had come."""

from __future__ import annotations

import contextlib
import gzip
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest
import trustme
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import chunk, stream_pieces

from openai_compat import (
    APIConnectionError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    ChatResponse,
    Client,
    ResponseParseError,
    StreamError,
    StreamEvent,
    StreamInterruptedError,
    Timeout,
)

FIRST = chunk({"content": "first"})
LIMIT = 0.4
"""Seconds that an idle stream is given here."""


def serving(pieces: Callable[[Request], Iterator[bytes]], **options: Any) -> Callable[[Request], Reply]:
    return lambda request: Reply(headers=EVENT_STREAM, body=pieces(request), **options)


def until_closed(piece: bytes, seconds: float) -> Callable[[Request], Iterator[bytes]]:
    """The first event, then ``piece`` byte by byte or as a whole, for as long as the client listens."""

    def pieces(request: Request) -> Iterator[bytes]:
        yield FIRST
        while not request.closed.wait(seconds):
            yield piece

    return pieces


def huge(request: Request) -> Iterator[bytes]:
    yield FIRST
    yield b'data: {"x": "'
    for _ in range(1600):
        if request.closed.is_set():
            return
        yield b"x" * 65536


def zipped(*, cut: int) -> bytes:
    return gzip.compress(b"".join(stream_pieces("first", *["more"] * 200)))[:-cut]


LYING = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = {**EVENT_STREAM, "Content-Encoding": "gzip"}
SLOW = [bytes([byte]) for byte in b'data: {"choices": [{"delta": {"content": "never whole' + b" " * 500]


def one_byte_at_a_time(request: Request) -> Iterator[bytes]:
    yield FIRST
    for byte in SLOW:
        if request.closed.wait(0.05):
            return
        yield byte


def dripped_head(request: Request) -> Iterator[bytes]:
    for byte in LYING[:-2] + b"X: " + b"y" * 500:
        if request.closed.wait(0.05):
            return
        yield bytes([byte])


@attrs.frozen
class Fault:
    reply: Callable[[Request], Reply]
    error: type[BaseException] | None
    phase: str = ""
    partial: str = "first"


FAULTS = {
    "reset": Fault(lambda request: Reply(headers=EVENT_STREAM, body=[FIRST], abort="rst"), APIConnectionError),
    "clean early end": Fault(lambda request: Reply(headers=EVENT_STREAM, body=[FIRST]), StreamInterruptedError),
    "cut between chunks": Fault(
        lambda request: Reply(headers=EVENT_STREAM, body=[FIRST], abort="fin"), APIConnectionError
    ),
    "close-delimited, cut": Fault(
        lambda request: Reply(headers=EVENT_STREAM, body=[FIRST], framing="close"), StreamInterruptedError
    ),
    "silence": Fault(serving(until_closed(b"", 20)), APITimeoutError, "idle"),
    "keep-alives for ever": Fault(serving(until_closed(b": ping\n\n", 0.05)), APITimeoutError, "idle"),
    "blank data for ever": Fault(serving(until_closed(b"data:\n\n", 0.05)), APITimeoutError, "idle"),
    "one byte at a time": Fault(serving(one_byte_at_a_time), APITimeoutError, "idle"),
    "one byte at a time, unframed": Fault(serving(one_byte_at_a_time, framing="close"), APITimeoutError, "idle"),
    "headers one byte at a time": Fault(
        lambda request: Reply(head=b"", body=dripped_head(request), framing="close"), APITimeoutError, "first_token", ""
    ),
    "a 100 MB event": Fault(serving(huge), StreamError),
    "garbage after [DONE]": Fault(
        lambda request: Reply(headers=EVENT_STREAM, body=[*stream_pieces("first"), b"\xff\xfe<html>", b"data: {}\n\n"]),
        None,
    ),
    "chunk size lies": Fault(
        lambda request: Reply(head=LYING, body=[b"fff\r\n" + FIRST], framing="close"), APIConnectionError
    ),
    "chunk size is no number": Fault(
        lambda request: Reply(head=LYING, body=[b"%x\r\n" % len(FIRST) + FIRST + b"\r\nzz\r\n"], framing="close"),
        APIConnectionError,
    ),
    "gzip cut short": Fault(
        lambda request: Reply(headers=GZIP, body=[zipped(cut=40)], framing="close"), StreamInterruptedError
    ),
    "gzip cut short, chunked": Fault(
        lambda request: Reply(headers=GZIP, body=[zipped(cut=40)], abort="fin"), APIConnectionError
    ),
    "no gzip at all": Fault(lambda request: Reply(headers=GZIP, body=[b"not gzip"]), ResponseParseError, "", ""),
}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = Path(tmp_path_factory.mktemp("tls")) / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, str(bundle)


def listen(client: Client, how: str, events: list[StreamEvent], **options: Any) -> ChatResponse:
    if how == "sink":
        return client.chat("hi", sink=events.append, **options)
    with client.stream("hi", **options) as stream:
        for event in stream:
            events.append(event)
        return stream.response


@pytest.mark.parametrize("how", ["sink", "iterator"])
@pytest.mark.parametrize("wire", ["tcp", "tls"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault(
    fault: Fault, wire: str, how: str, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls[1])
    before = set(threading.enumerate())
    # A limit that is not the fault itself is far away: 32 MB of one event take their time on a busy machine.
    first_token, idle = (LIMIT if fault.phase == phase else 20 for phase in ("first_token", "idle"))
    timeout = Timeout(first_token=first_token, idle=idle, total=60)
    events: list[StreamEvent] = []
    with ReplayServer(fault.reply, tls=tls[0] if wire == "tls" else None) as server:
        client = Client(server.url, model="m", max_retries=0, timeout=timeout, truncated="raise")
        started = time.monotonic()
        if fault.error is None:
            assert listen(client, how, events).text == fault.partial
        else:
            with pytest.raises(fault.error) as caught:
                listen(client, how, events)
            assert type(caught.value) is fault.error
            assert getattr(caught.value, "phase", "") == fault.phase
            partial = getattr(caught.value, "partial", None)
            text = partial.text if partial else ""
            assert text.startswith(fault.partial)
            assert text == "".join(event.delta for event in events)
            assert events[-1].error is caught.value
        assert time.monotonic() - started < 20
        assert sum(1 for event in events if event.done or event.error) == 1
        client.close()
        assert server.wait_closed()
    assert set(threading.enumerate()) <= before


def half_open() -> tuple[Any, list[Any]]:
    """A listener whose queue is full, so that a connection to it hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


def test_connecting_has_a_limit_and_can_be_cancelled() -> None:
    listener, fillers = half_open()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(APITimeoutError) as caught:
            Client(url, model="m", max_retries=0, timeout=Timeout(connect=0.2)).chat("hi")
        assert (caught.value.phase, caught.value.retryable) == ("connect", True)
        token = CancelToken()
        threading.Timer(0.2, token.cancel).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            Client(url, model="m", max_retries=0, timeout=Timeout(connect=60)).chat("hi", cancel=token)
        assert time.monotonic() - started < 20
    finally:
        for sock in (listener, *fillers):
            sock.close()


def packed(encoding: str, piece: bytes, packer: Any) -> bytes:
    return piece if encoding == "identity" else packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("wire", ["tcp", "tls"])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
@pytest.mark.parametrize("framing", ["chunked", "close", "http/1.0"])
def test_each_token_is_delivered_before_the_next_is_sent(
    framing: str, encoding: str, wire: str, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls[1])
    heard: queue.Queue[str] = queue.Queue()
    late: list[bytes] = []

    def body() -> Iterator[bytes]:
        packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        for piece in stream_pieces("a", "b", "c"):
            yield packed(encoding, piece, packer)
            if b"content" in piece:
                try:
                    heard.get(timeout=10)
                except queue.Empty:
                    late.append(piece)
        if encoding != "identity":
            yield packer.flush()

    headers = dict(EVENT_STREAM) if encoding == "identity" else {**EVENT_STREAM, "Content-Encoding": encoding}
    options: Any = {"http": "1.0", "framing": "close"} if framing == "http/1.0" else {"framing": framing}
    served = ReplayServer(
        lambda request: Reply(headers=headers, body=body(), **options), tls=tls[0] if wire == "tls" else None
    )
    with served as server, Client(server.url, model="m") as client:
        answer = client.chat("hi", sink=lambda event: heard.put(event.delta) if event.delta else None)
    assert (answer.text, late) == ("abc", [])


def test_a_stream_that_inflates_without_end_is_refused_while_it_is_small() -> None:
    bomb = gzip.compress(FIRST + (b": keep-alive" + b" " * 1000 + b"\n\n") * 100_000)
    with ReplayServer([Reply(headers=GZIP, body=bomb)]) as server, Client(server.url, model="m") as client:
        tracemalloc.start()
        try:
            with pytest.raises(ResponseParseError, match="decompression bomb") as caught:
                client.chat("hi", sink=lambda event: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert caught.value.partial is not None
    assert caught.value.partial.text == "first"
    assert peak < 50_000_000


INTERRUPTED = """
import sys
from openai_compat import Client
try:
    Client(sys.argv[1], model="m").chat("hi", sink=lambda event: print(event.delta, flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("reply", ["before_headers", "between_tokens"])
def test_ctrl_c_stops_a_silent_call_at_once(reply: str) -> None:
    reached = threading.Event()
    with ReplayServer(lambda request: PHASES[reply](reached, request)) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert reached.wait(20)
            if reply == "between_tokens":
                assert process.stdout is not None
                assert process.stdout.readline() == "first\n"
            # Sent again until it lands: a signal just before the call blocks is noticed only after it.
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            out, _ = process.communicate(timeout=10)
        assert "interrupted" in out or process.returncode
        assert server.wait_closed()


def test_a_slow_reader_is_not_taken_for_a_silent_server() -> None:
    def pieces(request: Request) -> Iterator[bytes]:
        for piece in stream_pieces("a", "b", "c"):
            yield piece
            request.closed.wait(0.05)

    with ReplayServer(serving(pieces)) as server, Client(server.url, model="m", timeout=Timeout(idle=0.3)) as client:
        answer = client.chat("hi", sink=lambda event: time.sleep(0.4) if event.delta else None)
    assert answer.text == "abc"


def test_a_tls_handshake_that_hangs_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        token = CancelToken()
        threading.Timer(0.2, token.cancel).start()
        started = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = Client(url, model="m", max_retries=0, timeout=Timeout(connect=60))
        with pytest.raises(Cancelled):
            client.chat("hi", cancel=token)
        assert time.monotonic() - started < 20


def test_sending_a_large_request_is_not_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = Client(url, model="m", max_retries=0, timeout=Timeout(connect=0.1, first_token=1))
        started = time.monotonic()
        with pytest.raises(APITimeoutError) as caught:
            client.chat("x" * 30_000_000)
        assert (caught.value.phase, caught.value.retryable) == ("first_token", False)
        assert time.monotonic() - started > 0.9


PHASES: dict[str, Callable[[threading.Event, Request], Reply]] = {}


def phase(function: Callable[[threading.Event, Request], Reply]) -> Callable[[threading.Event, Request], Reply]:
    PHASES[function.__name__] = function
    return function


@phase
def before_headers(reached: threading.Event, request: Request) -> Reply:
    reached.set()
    request.closed.wait(20)
    return Reply(head=b"", abort="fin")


@phase
def between_tokens(reached: threading.Event, request: Request) -> Reply:
    def body() -> Iterator[bytes]:
        yield FIRST
        reached.set()
        request.closed.wait(20)

    return Reply(headers=EVENT_STREAM, body=body())


@phase
def between_tries(reached: threading.Event, request: Request) -> Reply:
    reached.set()
    return Reply(status=503, headers={"Retry-After": "60"}, body=b"{}")


@pytest.mark.parametrize("wire", ["tcp", "tls"])
@pytest.mark.parametrize("where", PHASES.values(), ids=PHASES)
def test_cancelling_again_and_again_leaves_nothing_behind(
    where: Any, wire: str, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls[1])
    reached = threading.Event()
    before = set(threading.enumerate())
    waits: list[float] = []
    rounds = 170
    with ReplayServer(lambda request: where(reached, request), tls=tls[0] if wire == "tls" else None) as server:
        client = Client(server.url, model="m")
        descriptors = 0
        for turn in range(rounds):
            reached.clear()
            token = CancelToken()
            future = client.submit("hi", cancel=token, sink=lambda event: None)
            assert reached.wait(10)
            began = time.monotonic()
            token.cancel()
            assert isinstance(future.exception(10), Cancelled)
            waits.append(time.monotonic() - began)
            if turn == 20:
                descriptors = psutil.Process().num_fds()
        client.close()
        assert server.wait_closed()
        # The server's own sockets come and go as well, hence the margin.
        assert psutil.Process().num_fds() <= descriptors + 5
    assert sorted(waits)[len(waits) // 2] < 0.1
    assert {thread for thread in threading.enumerate() if "openai_compat" in thread.name} <= before


def test_a_call_that_waits_for_its_first_token_outlasts_keep_alives() -> None:
    def pieces(request: Request) -> Iterator[bytes]:
        for _ in range(10):
            yield b": OPENROUTER PROCESSING\n\n"
            if request.closed.wait(0.05):
                return
        yield from stream_pieces("first")

    with ReplayServer(serving(pieces)) as server, Client(server.url, model="m", timeout=Timeout(idle=0.2)) as client:
        assert client.chat("hi", sink=lambda event: None).text == "first"
