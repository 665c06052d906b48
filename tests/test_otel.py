"""OpenTelemetry: what stands in the spans and metrics, whose children they are, and that each of them ends."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("opentelemetry.sdk.metrics", reason="no OpenTelemetry SDK")
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.calls import CALLS, kind_of, reply, saying
from support.pages import ROOT
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, tool_call

from openai_compat import (
    APIConnectionError,
    BadRequestError,
    Cancelled,
    CancelToken,
    Client,
    RateLimitError,
    ResponseTypeError,
    RetryPolicy,
    StreamInterruptedError,
    tool,
)
from openai_compat.integrations import _genai, otel
from openai_compat.integrations.otel import CAPTURE, OpenTelemetry, instrument

KEY = "sk-of-the-traces-1234567890"
each_kind = pytest.mark.parametrize("kind", CALLS)


class Telemetry:
    """What was recorded."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader])
        self.otel = OpenTelemetry(tracer_provider=self.tracer_provider, meter_provider=self._meters, **options)
        self.tracer = self.tracer_provider.get_tracer("tests")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        data = self._reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found.setdefault(metric.name, []).extend(metric.data.data_points)
        return found

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self._meters.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.close()


@contextlib.contextmanager
def traced(replies: Any, telemetry: Telemetry, **options: Any) -> Iterator[tuple[Client, ReplayServer]]:
    options = {"model": "m", "retry": RetryPolicy(max_retries=2, first_wait=0.001), **options}
    with ReplayServer(replies) as server, Client(f"{server.url}/v1", KEY, **options) as client:
        telemetry.otel.attach(client)
        yield client, server


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def ident(span: Any) -> int:
    return int(span.get_span_context().span_id)


USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def whole(text: str = "ok", **fields: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "model": "m-2026", "choices": [choice], "usage": USAGE, **fields}
    return Reply(headers=JSON, body=json.dumps(body).encode())


def streamed(*texts: str) -> Reply:
    pieces = [chunk({"content": text}, id="chatcmpl-1", model="m-2026") for text in texts]
    pieces.append(chunk(finish_reason="length", id="chatcmpl-1", model="m-2026", usage=USAGE))
    return Reply(headers=EVENT_STREAM, body=[*pieces, b"data: [DONE]\n\n"])


class TestSpans:
    def test_of_a_chat_say_what_the_conventions_want(self, telemetry: Telemetry) -> None:
        asking: dict[str, Any] = {
            "temperature": 0,
            "top_p": 0.9,
            "max_tokens": 50,
            "seed": 7,
            "stop": ["\n"],
            "n": 1,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "reasoning_effort": "low",
            "top_k": 40,
        }
        with traced([whole()], telemetry) as (client, server):
            client.chat("hi", **asking)
            port = int(server.url.rpartition(":")[2])
        (span,) = telemetry.spans
        assert (span.name, span.kind, span.status.status_code) == ("chat m", SpanKind.CLIENT, StatusCode.UNSET)
        assert said(span) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "127.0.0.1",
            "gen_ai.request.model": "m",
            "server.address": "127.0.0.1",
            "server.port": port,
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.request.top_k": 40,
            "gen_ai.request.max_tokens": 50,
            "gen_ai.request.seed": 7,
            "gen_ai.request.frequency_penalty": 0.1,
            "gen_ai.request.presence_penalty": 0.2,
            "gen_ai.request.reasoning.level": "low",
            "gen_ai.request.stop_sequences": ("\n",),
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.model": "m-2026",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 20,
            "gen_ai.usage.output_tokens": 7,
            "gen_ai.usage.cache_read.input_tokens": 16,
            "gen_ai.usage.reasoning.output_tokens": 3,
        }
        (attempt,) = span.events
        assert attempt.name == "openai_compat.attempt"
        assert dict(attempt.attributes or {})["http.response.status_code"] == 200

    def test_of_a_stream_say_when_it_began(self, telemetry: Telemetry) -> None:
        with traced([streamed("a", "b")], telemetry) as (client, _):
            answer = client.stream("hi").until_done()
        (span,) = telemetry.spans
        assert span.start_time is not None
        assert span.end_time is not None
        attributes = said(span)
        assert attributes["gen_ai.request.stream"] is True
        assert attributes["gen_ai.response.time_to_first_chunk"] == (answer.first_token_ms or 0) / 1000
        assert attributes["gen_ai.response.finish_reasons"] == ("length",)
        assert (attributes["gen_ai.response.id"], attributes["gen_ai.usage.output_tokens"]) == ("chatcmpl-1", 7)
        assert (span.end_time - span.start_time) / 1e6 >= (answer.first_token_ms or 0)

    def test_of_embeddings(self, telemetry: Telemetry) -> None:
        with traced(saying("ok"), telemetry) as (client, _):
            client.embed(["hi"], dimensions=2, encoding_format="float")
        (span,) = telemetry.spans
        assert (span.name, said(span)["gen_ai.operation.name"]) == ("embeddings m", "embeddings")
        assert said(span)["gen_ai.embeddings.dimension.count"] == 2
        assert said(span)["gen_ai.request.encoding_formats"] == ("float",)
        assert said(span)["gen_ai.response.model"] == "m-served"

    @pytest.mark.parametrize(
        ("provider", "name"),
        [("openai", "openai"), ("azure", "azure.ai.openai"), ("gemini", "gcp.gemini"), ("mistral", "mistral_ai")],
    )
    def test_name_the_provider_as_the_conventions_do(self, provider: str, name: str, telemetry: Telemetry) -> None:
        with traced([whole()], telemetry, provider=provider) as (client, _):
            client.chat("hi")
        assert said(telemetry.spans[0])["gen_ai.provider.name"] == name

    def test_of_several_answers_and_of_speech(self, telemetry: Telemetry) -> None:
        with traced([whole()], telemetry) as (client, _):
            client.chat("hi", n=2, stop=["a", "b"], extra_body={"modalities": ["text", "audio"]})
        attributes = said(telemetry.spans[0])
        assert attributes["gen_ai.request.choice.count"] == 2
        assert attributes["gen_ai.request.stop_sequences"] == ("a", "b")
        assert attributes["gen_ai.output.type"] == "speech"

    def test_of_json(self, telemetry: Telemetry) -> None:
        with traced([whole("3")], telemetry) as (client, _):
            client.chat("hi", response_type=int)
        assert said(telemetry.spans[0])["gen_ai.output.type"] == "json"

    @each_kind
    def test_have_an_event_for_each_attempt(self, kind: str, telemetry: Telemetry) -> None:
        def replies(request: Request) -> Reply:
            if request.number == 1:
                return Reply(head=b"", abort="rst")
            return error_reply(503, "busy") if request.number == 0 else reply(kind_of(request), "ok")

        with traced(replies, telemetry) as (client, server):
            CALLS[kind](client)
            assert len(server.requests) == 3
        (span,) = telemetry.spans
        assert span.status.status_code is StatusCode.UNSET
        attempts = [dict(event.attributes or {}) for event in span.events]
        assert [one["openai_compat.attempt.reason"] for one in attempts] == ["first", "retry", "retry"]
        assert [one.get("http.response.status_code") for one in attempts] == [503, None, 200]
        assert ["busy" in str(one.get("openai_compat.attempt.error")) for one in attempts] == [True, False, False]
        moments = [event.timestamp for event in span.events]
        assert moments == sorted(moments)
        assert span.start_time is not None
        assert moments[0] >= span.start_time

    @each_kind
    def test_of_a_call_that_fails_name_the_error(self, kind: str, telemetry: Telemetry) -> None:
        with traced([error_reply(429, f"slow down, {KEY}")], telemetry, max_retries=0) as (client, _):
            with pytest.raises(RateLimitError):
                CALLS[kind](client)
        (span,) = telemetry.spans
        assert span.status.status_code is StatusCode.ERROR
        assert "slow down, ***" in (span.status.description or "")
        assert said(span)["error.type"] == "RateLimitError"
        assert said(span)["http.response.status_code"] == 429
        assert KEY not in span.to_json()

    def test_of_a_stream_that_breaks_have_what_had_come(self, telemetry: Telemetry) -> None:
        broken = Reply(headers=EVENT_STREAM, body=stream_pieces("a")[:1], framing="chunked", abort="rst")
        with traced([broken], telemetry) as (client, _):
            with pytest.raises((StreamInterruptedError, APIConnectionError)):
                client.stream("hi").until_done()
        (span,) = telemetry.spans
        assert span.status.status_code is StatusCode.ERROR
        assert "gen_ai.response.time_to_first_chunk" in said(span)

    @each_kind
    def test_of_a_call_that_is_interrupted_end(self, kind: str, telemetry: Telemetry) -> None:
        token = CancelToken()

        def silent(request: Request) -> Reply:
            token.cancel()
            request.closed.wait(10)
            return Reply(head=b"", abort="fin")

        with traced(silent, telemetry) as (client, _), pytest.raises(Cancelled):
            CALLS[kind](client, cancel=token)
        (span,) = telemetry.spans
        assert said(span)["error.type"] == "Cancelled"

    @pytest.mark.parametrize("how", ["closed", "dropped"])
    def test_of_a_stream_that_is_let_go_end(self, how: str, telemetry: Telemetry) -> None:
        def half(request: Request) -> Reply:
            def pieces() -> Iterator[bytes]:
                yield stream_pieces("a")[0]
                request.closed.wait(10)

            return Reply(headers=EVENT_STREAM, body=pieces())

        with traced(half, telemetry) as (client, _):
            stream = client.stream("hi")
            next(stream)
            assert telemetry.spans == []
            if how == "closed":
                stream.close()
            del stream
            gc.collect()
            (span,) = telemetry.spans
        assert span.status.status_code is StatusCode.UNSET
        assert telemetry.otel._calls == {}

    def test_of_endpoints_that_stand_in_for_each_other(self, telemetry: Telemetry) -> None:
        with ReplayServer([error_reply(503)]) as down, ReplayServer([whole()]) as up:
            first = Client(f"{down.url}/v1", model="m1", provider="one")
            second = Client(f"{up.url}/v1", model="m2", provider="two")
            with Client.fallback([first, second]) as client:
                telemetry.otel.attach(client)
                client.chat("hi")
        failed, answered = telemetry.spans
        assert [span.name for span in (failed, answered)] == ["chat m1", "chat m2"]
        assert [span.status.status_code for span in (failed, answered)] == [StatusCode.ERROR, StatusCode.UNSET]

    def test_models_are_no_operation_of_the_conventions(self, telemetry: Telemetry) -> None:
        with traced([Reply(headers=JSON, body=b'{"data": [{"id": "a"}]}'), error_reply(400)], telemetry) as (client, _):
            client.models()
            with pytest.raises(BadRequestError):
                client.models()
        assert telemetry.spans == []
        assert telemetry.metrics() == {}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    inside.append(trace.get_current_span())
    return a + b


@tool
def fail() -> None:
    """Fail."""
    raise ZeroDivisionError("private words")


inside: list[Any] = []


class TestLoops:
    def test_tools_and_calls_are_children_of_the_turn(self, telemetry: Telemetry) -> None:
        inside.clear()
        calls = [tool_call("add", '{"a": 1, "b": 2}', "call_1"), tool_call("fail", "{}", "call_2")]
        replies = [chat_reply(None, tool_calls=calls, finish_reason="tool_calls"), whole("3")]
        with traced(replies, telemetry) as (client, _), telemetry.tracer.start_as_current_span("view") as view:
            client.conversation(tools=[add, fail], id="conv_9").say("1 + 2?")
            assert trace.get_current_span() is view
        turn, ran, failed = map(telemetry.named, ("invoke_agent", "execute_tool add", "execute_tool fail"))
        chats = [span for span in telemetry.spans if span.name == "chat m"]
        assert parent(turn) == ident(view)
        assert [parent(span) for span in (ran, failed, *chats)] == [ident(turn)] * 4
        assert [span.kind for span in (turn, ran)] == [SpanKind.INTERNAL] * 2
        assert {said(span).get("gen_ai.conversation.id") for span in (turn, *chats)} == {"conv_9"}
        assert said(turn)["gen_ai.operation.name"] == "invoke_agent"
        assert said(turn)["gen_ai.usage.input_tokens"] == 3 + 20
        assert said(ran) == {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "add",
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.type": "function",
        }
        assert [ident(span) for span in inside] == [ident(ran)]
        assert said(failed)["error.type"] == "ZeroDivisionError"
        assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ZeroDivisionError")

    def test_what_is_not_entered_has_none(self, telemetry: Telemetry) -> None:
        started: list[str] = []
        telemetry.otel._tracer.start_span = lambda name, **said: started.append(name)  # type: ignore[method-assign]
        telemetry.otel.conversation("mine")

        def stop(told: object) -> Any:
            raise KeyboardInterrupt

        with traced([chat_reply(None, tool_calls=[tool_call("add", '{"a": 1, "b": 2}')])], telemetry) as (client, _):
            client.hooks.remove(telemetry.otel._requested)
            client.hooks.add(watch_loop=stop)
            with pytest.raises(KeyboardInterrupt):
                client.run_tools("1 + 2?", tools=[add])
        assert started == []

    def test_run_tools_is_one_without_a_conversation(self, telemetry: Telemetry) -> None:
        replies = [chat_reply(None, tool_calls=[tool_call("add", '{"a": 1, "b": 2}')]), whole("3")]
        with traced(replies, telemetry) as (client, _):
            client.run_tools("1 + 2?", tools=[add])
        assert sorted(span.name for span in telemetry.spans) == ["chat m", "chat m", "execute_tool add", "invoke_agent"]
        assert not any("gen_ai.conversation.id" in said(span) for span in telemetry.spans)

    def test_a_turn_that_fails_says_so(self, telemetry: Telemetry) -> None:
        with traced([error_reply(400, "no")], telemetry) as (client, _), pytest.raises(BadRequestError):
            client.conversation().say("hi")
        assert said(telemetry.named("invoke_agent"))["error.type"] == "BadRequestError"

    def test_calls_of_a_history_of_ones_own_can_be_named(self, telemetry: Telemetry) -> None:
        with traced([whole()], telemetry) as (client, _), telemetry.otel.conversation("mine"):
            client.chat("hi")
        assert said(telemetry.named("chat m"))["gen_ai.conversation.id"] == "mine"


class TestContext:
    def test_calls_on_other_threads_are_children_of_who_asked(self, telemetry: Telemetry) -> None:
        with traced(saying("ok"), telemetry) as (client, _):
            with telemetry.tracer.start_as_current_span("view") as view:
                client.submit("hi").result(20)
                assert len(list(client.map(["a", "b", "c", "d"], workers=3))) == 4
                client.map_embeddings(["a"], encoding_format="float").to_array()
            client.chat("alone")
        *children, alone = [span for span in telemetry.spans if span.name != "view"]
        assert [parent(span) for span in children] == [ident(view)] * 6
        assert alone.parent is None

    def test_the_span_of_a_stream_is_not_current_in_its_readers_code(self, telemetry: Telemetry) -> None:
        with traced([streamed("a", "b")], telemetry) as (client, _):
            with telemetry.tracer.start_as_current_span("view") as view:
                for _ in client.stream("hi"):
                    assert trace.get_current_span() is view
        assert parent(telemetry.named("chat m")) == ident(view)

    def test_a_stream_may_be_read_on_another_thread(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
    ) -> None:
        with traced([streamed("a", "b")], telemetry) as (client, _):
            stream = client.stream("hi")
            next(stream)
            reader = threading.Thread(target=stream.until_done)
            reader.start()
            reader.join(20)
        assert [span.name for span in telemetry.spans] == ["chat m"]
        assert caplog.records == []

    @each_kind
    def test_the_span_of_the_request_itself_is_a_child(self, kind: str, telemetry: Telemetry) -> None:
        instrumentor = RequestsInstrumentor()
        instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
        try:
            with traced(saying("ok"), telemetry) as (client, server):
                CALLS[kind](client)
                (request,) = server.requests
        finally:
            instrumentor.uninstrument()
        http, call = telemetry.spans
        assert http.name == "POST"
        assert parent(http) == ident(call)
        assert str(request.headers["traceparent"]).split("-")[2] == f"{ident(http):016x}"

    def test_nothing_stays_attached(self, telemetry: Telemetry) -> None:
        before = contexts.get_current()
        with traced([error_reply(400)], telemetry) as (client, _), pytest.raises(BadRequestError):
            client.chat("hi")
        assert contexts.get_current() == before


class TestMetrics:
    def test_have_the_buckets_of_the_conventions(self, telemetry: Telemetry) -> None:
        with traced([streamed("a", "b", "c")], telemetry) as (client, _):
            client.stream("hi").until_done()
        metrics = telemetry.metrics()
        seconds = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
        tokens = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
        assert {name: tuple(points[0].explicit_bounds) for name, points in metrics.items()} == {
            "gen_ai.client.token.usage": tokens,
            "gen_ai.client.operation.duration": seconds,
            "gen_ai.client.operation.time_to_first_chunk": seconds,
            "gen_ai.client.operation.time_per_output_chunk": seconds,
        }
        counts = {point.attributes["gen_ai.token.type"]: point.sum for point in metrics["gen_ai.client.token.usage"]}
        assert counts == {"input": 20, "output": 7}
        assert metrics["gen_ai.client.operation.time_per_output_chunk"][0].count == 2
        attributes = dict(metrics["gen_ai.client.operation.duration"][0].attributes)
        del attributes["server.port"]
        assert attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "127.0.0.1",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m-2026",
            "server.address": "127.0.0.1",
        }

    def test_of_errors_say_which(self, telemetry: Telemetry) -> None:
        with traced([error_reply(400)], telemetry) as (client, _), pytest.raises(BadRequestError):
            client.chat("hi")
        (point,) = telemetry.metrics()["gen_ai.client.operation.duration"]
        assert point.attributes["error.type"] == "BadRequestError"

    def test_of_whole_answers_have_no_chunks(self, telemetry: Telemetry) -> None:
        with traced([whole()], telemetry) as (client, _):
            client.chat("hi")
        assert sorted(telemetry.metrics()) == ["gen_ai.client.operation.duration", "gen_ai.client.token.usage"]

    def test_the_time_between_chunks_can_be_left_out(self) -> None:
        telemetry = Telemetry(chunk_times=False)
        with traced([streamed("a", "b", "c")], telemetry) as (client, _):
            assert not client.hooks.on_event
            client.stream("hi").until_done()
        assert "gen_ai.client.operation.time_per_output_chunk" not in telemetry.metrics()
        telemetry.close()


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": f"private question, {KEY}"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    },
    {"role": "assistant", "content": "", "tool_calls": [tool_call("add", '{"a": 1}', "call_0")]},
    {"role": "tool", "tool_call_id": "call_0", "content": "private result"},
]


class TestContent:
    @pytest.mark.parametrize("variable", ["", "false", "no_content", "event_only"])
    def test_is_left_out(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CAPTURE, variable)
        telemetry = Telemetry()
        replies = [chat_reply(None, tool_calls=[tool_call("add", '{"a": 123456, "b": 2}')]), whole("private")]
        with traced(replies, telemetry) as (client, _):
            client.run_tools(messages=MESSAGES, tools=[add])
        told = "".join(span.to_json() for span in telemetry.spans)
        assert not any(word in told for word in ("private", "123456", "123458", "Be brief"))
        telemetry.close()

    def test_is_not_quoted_by_an_error_either(self, telemetry: Telemetry) -> None:
        with traced([whole('"private words"')], telemetry) as (client, _):
            with pytest.raises(ResponseTypeError, match="private"):
                client.chat("hi", response_type=Literal["yes", "no"])
        (span,) = telemetry.spans
        assert "private" not in span.to_json()
        assert span.status.description == "ResponseTypeError"

    @pytest.mark.parametrize("how", ["argument", "true", "span_only", "SPAN_AND_EVENT"])
    def test_is_recorded_where_that_is_wanted(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if how != "argument":
            monkeypatch.setenv(CAPTURE, how)
        telemetry = Telemetry(**({"capture_content": True} if how == "argument" else {}))
        calls = [tool_call("add", '{"a": 1, "b": 2}', "call_1")]
        with traced([chat_reply(None, tool_calls=calls), whole("3")], telemetry) as (client, _):
            client.run_tools(messages=MESSAGES, tools=[add])
        first, second = [said(span) for span in telemetry.spans if span.name == "chat m"]
        assert json.loads(first["gen_ai.input.messages"]) == [
            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "private question, ***"},
                    {"type": "uri", "modality": "image", "uri": "https://example.org/a.png"},
                    {"type": "image", "mime_type": "image/png", "characters": 26},
                    {"type": "input_audio"},
                ],
            },
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "call_0", "name": "add", "arguments": {"a": 1}}],
            },
            {
                "role": "tool",
                "parts": [{"type": "tool_call_response", "id": "call_0", "response": "private result"}],
            },
        ]
        assert json.loads(first["gen_ai.output.messages"])[0]["parts"] == [
            {"type": "tool_call", "id": "call_1", "name": "add", "arguments": {"a": 1, "b": 2}}
        ]
        assert json.loads(second["gen_ai.output.messages"]) == [
            {"role": "assistant", "parts": [{"type": "text", "content": "3"}], "finish_reason": "stop"}
        ]
        assert json.loads(first["gen_ai.tool.definitions"])[0]["name"] == "add"
        ran = said(telemetry.named("execute_tool add"))
        assert json.loads(ran["gen_ai.tool.call.arguments"]) == {"a": 1, "b": 2}
        assert ran["gen_ai.tool.call.result"] == "3"
        telemetry.close()


HALF = "\ud800"


class TestHostileWords:
    """Half a character, which JSON can spell and UTF-8 cannot: an exporter would lose all spans of its batch."""

    @pytest.mark.parametrize("capture", [False, True])
    @pytest.mark.parametrize(
        "ask",
        [
            lambda client: client.chat("hi"),
            lambda client: client.chat(HALF, stop=HALF, model=HALF, seed=2**80, extra_body={"reasoning_effort": HALF}),
            lambda client: client.conversation(id=HALF).say("hi"),
            lambda client: client.run_tools("hi", tools=[add]),
        ],
        ids=["chat", "request", "conversation", "tools"],
    )
    @pytest.mark.parametrize(
        "reply",
        [
            error_reply(400, HALF),
            whole(HALF, id=HALF, model=HALF),
            chat_reply(HALF, finish_reason=HALF),
            chat_reply(None, tool_calls=[tool_call("add", f'{{"a": 1, "b": "{HALF}"}}', HALF)]),
            chat_reply(None, tool_calls=[tool_call(HALF, "{}", "1")]),
        ],
        ids=["error", "answer", "reason", "arguments", "tool"],
    )
    def test_can_be_exported(self, reply: Reply, ask: Any, capture: bool, caplog: pytest.LogCaptureFixture) -> None:
        encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder", reason="no exporter")
        telemetry = Telemetry(capture_content=capture)
        replies = itertools.chain([reply], itertools.repeat(whole()))
        with traced(lambda _: next(replies), telemetry) as (client, server):
            with contextlib.suppress(BadRequestError):
                ask(client)
            assert len([span for span in telemetry.spans if span.name.startswith("chat")]) == len(server.requests)
        encoder.encode_spans(telemetry.spans).SerializeToString()
        assert [record.getMessage() for record in caplog.records if "tool add failed" not in record.getMessage()] == []
        telemetry.close()

    def test_of_a_model_name_no_tools(self, telemetry: Telemetry) -> None:
        replies = [chat_reply(None, tool_calls=[tool_call("of the model", "{}")]), whole()]
        with traced(replies, telemetry) as (client, _):
            client.run_tools("hi", tools=[add])
        assert sorted(span.name for span in telemetry.spans) == ["chat m", "chat m", "invoke_agent"]

    def test_do_not_make_ever_more_metrics(self, telemetry: Telemetry) -> None:
        with traced(lambda request: whole(model=f"m-{request.number}"), telemetry) as (client, _):
            for _ in range(otel.MAX_MODELS + 10):
                client.chat("hi")
        points = telemetry.metrics()["gen_ai.client.operation.duration"]
        assert len(points) == otel.MAX_MODELS + 1
        assert sum(point.count for point in points) == otel.MAX_MODELS + 10

    @pytest.mark.parametrize(
        "fields",
        [
            {"stop": 5},
            {"modalities": 5},
            {"top_k": 1e300},
            {"tools": 5},
            {"tools": ["x", {"type": 5}]},
            {"messages": [{"role": "user", "content": "hi", "tool_calls": 5}]},
            {"messages": [{"role": "user", "content": [5], "tool_calls": [5]}]},
        ],
        ids=str,
    )
    def test_of_an_odd_body_are_no_failure(self, fields: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        telemetry = Telemetry(capture_content=True)
        with traced([whole()], telemetry) as (client, _):
            client.chat("hi", extra_body=fields)
        assert [record.getMessage() for record in caplog.records] == []
        assert said(telemetry.named("chat m"))["gen_ai.output.messages"]
        telemetry.close()


class TestAttaching:
    def test_twice_is_once_and_ends(self, telemetry: Telemetry) -> None:
        with traced(saying("ok"), telemetry) as (client, _):
            instrument(client)()
            client.chat("hi")
            assert len(telemetry.spans) == 1
            (twin,) = [client.__copy__()]
            twin.chat("hi")
            assert len(telemetry.spans) == 2
            twin.close()
        with ReplayServer(saying("ok")) as server, Client(f"{server.url}/v1", model="m") as client:
            end = telemetry.otel.attach(client)
            end()
            client.chat("hi")
            assert repr(client.hooks) == "Hooks()"
        assert len(telemetry.spans) == 2

    def test_without_an_sdk_calls_go_on(self) -> None:
        with ReplayServer(saying("ok")) as server, Client(f"{server.url}/v1", model="m") as client:
            instrument(client)
            for call in CALLS.values():
                assert call(client) == "ok"


def test_the_page_names_what_is_emitted_and_nothing_else() -> None:
    source = "".join(Path(module.__file__ or "").read_text() for module in (_genai, otel))
    page = (ROOT / "docs" / "observability.md").read_text()
    names = r"((?:gen_ai\.|openai_compat\.attempt|server|error\.type|http\.response)[a-z_.]*[a-z])"
    emitted = set(re.findall(f'"{names}"', source)) | {
        f"gen_ai.client.operation.{name}" for name in re.findall(r'seconds\(\s*"(\w+)"', source)
    }
    told = set(re.findall(f"`{names}`", page))
    assert len(told) > 40
    assert told == emitted


PROGRAM = """
import sys
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from openai_compat import Client
from openai_compat.integrations.otel import instrument

url, collector = sys.argv[1:]
traces = TracerProvider()
traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
trace.set_tracer_provider(traces)
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector}/v1/metrics"))])
metrics.set_meter_provider(meters)
client = Client(url, model="m")
instrument(client)
client.stream("hi").until_done()
traces.shutdown()
meters.shutdown()
"""


@pytest.mark.process
def test_a_collector_is_told_over_otlp() -> None:
    traces = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    metrics = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with ReplayServer([streamed("a", "b")]) as server, ReplayServer([Reply()]) as collector:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"{server.url}/v1", collector.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        bodies = {request.path: request.body for request in collector.requests}
    spans = traces.ExportTraceServiceRequest.FromString(bodies["/v1/traces"])
    (span,) = [span for of in spans.resource_spans for scope in of.scope_spans for span in scope.spans]
    attributes = {pair.key: pair.value for pair in span.attributes}
    assert (span.name, attributes["gen_ai.usage.input_tokens"].int_value) == ("chat m", 20)
    assert [event.name for event in span.events] == ["openai_compat.attempt"]
    told = metrics.ExportMetricsServiceRequest.FromString(bodies["/v1/metrics"])
    (scope,) = told.resource_metrics[0].scope_metrics
    assert scope.scope.name == "openai_compat"
    assert len(scope.metrics) == 4
