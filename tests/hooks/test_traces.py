"""Auto-instrumentation sees every try: OpenTelemetry's for requests and urllib3, and Sentry's SDK."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.calls import CALLS, PATHS, body, headers, kind_of, reply, saying
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import error_reply, stream_pieces

from openai_compat import APIConnectionError, Cancelled, CancelToken, Client

each_kind = pytest.mark.parametrize("kind", CALLS)
each_session = pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])


class Traces:
    """What an instrumentation has recorded."""

    def __init__(self, instrumentor: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._instrumentor = instrumentor
        self.tracer = self._provider.get_tracer("tests")

    def start(self) -> None:
        self._instrumentor.instrument(tracer_provider=self._provider)

    def stop(self) -> None:
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()

    @property
    def spans(self) -> list[ReadableSpan]:
        """The calls, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name != "view"]


@pytest.fixture(params=[RequestsInstrumentor, URLLib3Instrumentor], ids=["requests", "urllib3"])
def traces(request: pytest.FixtureRequest) -> Iterator[Traces]:
    traces = Traces(request.param())
    yield traces
    traces.stop()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", slept.append)
    return slept


def traceparent(request: Request) -> list[str]:
    """Trace and span, as the server is told."""
    return str(request.headers["traceparent"]).split("-")[1:3]


def names(span: ReadableSpan) -> list[str]:
    context = span.get_span_context()
    assert context is not None
    return [f"{context.trace_id:032x}", f"{context.span_id:016x}"]


def status(span: ReadableSpan) -> Any:
    """Older and newer semantic conventions."""
    attributes = span.attributes or {}
    return attributes.get("http.status_code", attributes.get("http.response.status_code"))


def client_of(server: ReplayServer, own: bool, **options: Any) -> Client:
    return Client(server.url, "key", model="m", session=requests.Session() if own else None, **options)


@each_kind
@each_session
@pytest.mark.parametrize("before", ["made before", "used before", "made after"])
def test_a_call_is_one_span_which_the_server_is_told(kind: str, own: bool, before: str, traces: Traces) -> None:
    with ReplayServer(saying("real")) as server:
        client = client_of(server, own)
        if before == "used before":
            assert CALLS[kind](client) == "real"
        traces.start()
        if before == "made after":
            client = client_of(server, own)
        with traces.tracer.start_as_current_span("view") as view:
            assert CALLS[kind](client) == "real"
        (span,) = traces.spans
        assert names(span)[0] == f"{view.get_span_context().trace_id:032x}"
        assert traceparent(server.requests[-1]) == names(span)
        assert status(span) == 200
        assert PATHS[kind] in str(dict(span.attributes or {}))
        assert len(server.requests) == (2 if before == "used before" else 1)


@each_kind
@each_session
def test_after_the_instrumentation_calls_go_on_without_it(kind: str, own: bool, traces: Traces) -> None:
    with ReplayServer(saying("real")) as server:
        client = client_of(server, own)
        traces.start()
        assert CALLS[kind](client) == "real"
        traces.stop()
        assert CALLS[kind](client) == "real"
        assert len(traces.spans) == 1
        assert ["traceparent" in request.headers for request in server.requests] == [True, False]
        traces.start()
        assert CALLS[kind](client) == "real"
        assert len(traces.spans) == 2


@each_kind
@each_session
def test_each_try_is_a_span(kind: str, own: bool, traces: Traces) -> None:
    def replies(request: Request) -> Reply:
        return error_reply(503) if request.number < 2 else reply(kind_of(request), "real")

    traces.start()
    with ReplayServer(replies) as server, traces.tracer.start_as_current_span("view"):
        assert CALLS[kind](client_of(server, own)) == "real"
        assert [status(span) for span in traces.spans] == [503, 503, 200]
        assert [traceparent(request) for request in server.requests] == [names(span) for span in traces.spans]


@each_kind
@each_session
def test_a_try_that_gets_no_answer_is_a_span_with_an_error(kind: str, own: bool, traces: Traces) -> None:
    def replies(request: Request) -> Reply:
        return Reply(head=b"", abort="rst") if request.number == 0 else reply(kind_of(request), "real")

    traces.start()
    with ReplayServer(replies) as server:
        assert CALLS[kind](client_of(server, own)) == "real"
        failed, answered = traces.spans
        assert [traceparent(request) for request in server.requests] == [names(failed), names(answered)]
    assert failed.status.status_code is StatusCode.ERROR
    assert (answered.status.status_code, status(answered)) == (StatusCode.UNSET, 200)


@each_kind
def test_a_server_that_is_not_there_is_a_span_with_an_error(kind: str, traces: Traces) -> None:
    with ReplayServer(saying("real")) as server:
        url = server.url
    traces.start()
    with pytest.raises(APIConnectionError):
        CALLS[kind](Client(url, model="m", max_retries=1))
    assert [span.status.status_code for span in traces.spans] == [StatusCode.ERROR] * 2


@pytest.mark.parametrize("kind", ["chat", "stream"])
@each_session
def test_a_span_lasts_until_the_headers(kind: str, own: bool, traces: Traces) -> None:
    clock: dict[str, int] = {}
    looked = threading.Event()

    def slow(request: Request) -> Reply:
        clock["asked"] = time.time_ns()

        def pieces() -> Iterator[bytes]:
            yield body(kind, "abc")
            # The body goes on until the test has seen that the span is over.
            looked.wait(10)

        clock["answered"] = time.time_ns()
        return Reply(headers=headers(kind), body=pieces(), framing="chunked")

    def look() -> None:
        for _ in range(500):
            if traces.spans or looked.wait(0.01):
                break
        clock["seen"] = time.time_ns()
        looked.set()

    traces.start()
    with ReplayServer(slow) as server:
        looker = threading.Thread(target=look)
        looker.start()
        try:
            assert CALLS[kind](client_of(server, own)) == "abc"
        finally:
            looker.join(20)
    (span,) = traces.spans
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= clock["asked"] <= clock["answered"] <= span.end_time <= clock["seen"]


def test_a_traced_stream_comes_piece_by_piece(traces: Traces) -> None:
    read = threading.Event()

    def gated(request: Request) -> Reply:
        def pieces() -> Iterator[bytes]:
            first, *rest = stream_pieces("a", "b")
            yield first
            if read.wait(10):
                yield from rest

        return Reply(headers=EVENT_STREAM, body=pieces())

    traces.start()
    with ReplayServer(gated) as server, client_of(server, own=False).stream("hi") as stream:
        assert next(stream).delta == "a"
        read.set()
        assert stream.until_done().text == "ab"
    assert len(traces.spans) == 1


@pytest.mark.parametrize("kind", ["chat", "stream"])
@each_session
def test_a_traced_call_can_be_cancelled(kind: str, own: bool, traces: Traces) -> None:
    token = CancelToken()

    def silent(request: Request) -> Reply:
        token.cancel()
        request.closed.wait(10)
        return Reply(head=b"", abort="fin")

    traces.start()
    with ReplayServer(silent) as server:
        with pytest.raises(Cancelled):
            CALLS[kind](client_of(server, own), cancel=token)
        assert server.requests[0].closed.wait(10)
        assert len(server.requests) == 1
    assert len(traces.spans) == 1


# Sentry cannot be taken out of a process again.
SENTRY = """
import json, sys
import sentry_sdk
from sentry_sdk.transport import Transport
from openai_compat import Client

url, when, *kinds = sys.argv[1:]
envelopes = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        envelopes.append(envelope)

def ask(client, kind):
    if kind == "chat":
        return client.chat("hi").text
    if kind == "stream":
        return client.stream("hi").until_done().text
    return len(client.embed(["hi"]).embedding)

def start():
    sentry_sdk.init(dsn="http://public@sentry.invalid/1", traces_sample_rate=1.0, trace_propagation_targets=[".*"],
                    auto_enabling_integrations=False, transport=Kept)  # not those of each package that is installed

client = Client(url, "sk-of-the-tests-1234567890", model="m", max_retries=0)
if when == "after":
    for kind in kinds:
        ask(client, kind)
start()
for kind in kinds:
    envelopes.clear()
    with sentry_sdk.start_transaction(name="view", op="test") as transaction:
        try:
            ask(client, kind)
        except Exception as error:
            sentry_sdk.capture_exception(error)
        trace = transaction.trace_id
    sentry_sdk.flush()
    items = [item.payload.json for envelope in envelopes for item in envelope.items]
    spans = [span for item in items if item and item.get("type") == "transaction" for span in item["spans"]]
    spans = [span for span in spans if span["op"] == "http.client"]
    errors = [item for item in items if item and "exception" in item]
    print(json.dumps({"trace": trace, "spans": spans, "errors": errors}))
"""


def under_sentry(server: ReplayServer, when: str) -> dict[str, dict[str, Any]]:
    """What Sentry has kept of a call of each kind, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", SENTRY, server.url, when, *CALLS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CALLS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("when", ["before", "after"])
def test_sentry_sees_a_call_and_the_server_is_told_its_trace(when: str) -> None:
    with ReplayServer(saying("real")) as server:
        kept = under_sentry(server, when)
        for (kind, seen), request in zip(kept.items(), server.requests[-len(CALLS) :], strict=True):
            (span,) = seen["spans"]
            told = request.headers
            assert told["sentry-trace"].split("-")[:2] == [seen["trace"], span["span_id"]]
            assert seen["trace"] in told["baggage"]
            assert PATHS[kind] in span["description"]
            assert span["data"]["http.response.status_code"] == 200
            assert seen["errors"] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_sentry_keeps_of_a_failed_call_shows_no_key(when: str) -> None:
    def replies(request: Request) -> Reply:
        good = when == "after" and request.number < len(CALLS)
        return reply(kind_of(request), "real") if good else error_reply(401, "no such key: sk-of-the-tests-1234567890")

    with ReplayServer(replies) as server:
        kept = under_sentry(server, when)
    for seen in kept.values():
        (error,) = seen["errors"]
        assert error["exception"]["values"][-1]["type"] == "AuthenticationError"
        assert "1234567890" not in json.dumps(seen)
        assert [span["data"]["http.response.status_code"] for span in seen["spans"]] == [401]
