"""OpenTelemetry: a client's calls, tools and conversations as spans and metrics.

By the semantic conventions for generative AI, version 1.41. Needs the extra ``otel``, which is the API alone: the
program's SDK decides what becomes of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .. import __version__
from ..errors import APIConnectionError, APIStatusError, StreamServerError
from ..hook_events import ErrorEvent, RequestEvent, ResponseEvent, RetryEvent
from ..hooks import Hooks
from ..wire.messages import ToolCall, Usage
from ..wire.response import ChatResponse, StreamEvent
from ..wire.retry import Attempt
from ..wire.tool_results import ToolResult
from . import _genai

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider

    from ..client import Client

__all__ = ["OpenTelemetry", "instrument"]

T = TypeVar("T")

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_WORDS = 500
"""Characters of an error's message that become the description of a span's status."""
MAX_MODELS = 100
"""Names of models, as servers give them, that metrics tell apart: each is kept for as long as the process lives."""
_CONVERSATION = "gen_ai.conversation.id"
_OPERATIONS = ("chat", "embeddings")
"""What the conventions have a span for."""
_PIECES = frozenset({"text", "reasoning", "refusal", "tool_call", "tool_call_delta", "audio"})


def instrument(client: Client, **options: Any) -> Callable[[], None]:
    """Make spans and metrics of a client's calls; returns a function that ends this.

    A client that is instrumented already stays as it is. Of a client made by ``Client.fallback``, each endpoint that is
    asked is a span of its own; instrument it, and not its endpoints.

    Args:
        options: as for ``OpenTelemetry``.
    """
    return OpenTelemetry(**options).attach(client)


class OpenTelemetry:
    """Makes spans and metrics of clients' calls.

    Args:
        tracer_provider: by default the global one.
        meter_provider: by default the global one.
        capture_content: whether messages, answers, and the arguments and results of tools are recorded; by default what
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, else not.
        chunk_times: whether the time between two pieces of a stream is measured, which costs a little for each.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool | None = None,
        chunk_times: bool = True,
    ) -> None:
        if capture_content is None:
            capture_content = os.environ.get(CAPTURE, "").strip().lower() in ("true", "span_only", "span_and_event")
        self._capture = capture_content
        self._chunk_times = chunk_times
        self._tracer = trace.get_tracer("openai_compat", __version__, tracer_provider, _genai.SCHEMA_URL)
        meter = metrics.get_meter("openai_compat", __version__, meter_provider, _genai.SCHEMA_URL)

        def seconds(name: str, description: str) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.client.operation.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=_genai.SECOND_BUCKETS,
            )

        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_genai.TOKEN_BUCKETS,
        )
        self._duration = seconds("duration", "GenAI operation duration.")
        self._first_chunk = seconds("time_to_first_chunk", "Time to receive the first chunk of a stream.")
        self._per_chunk = seconds("time_per_output_chunk", "Time between two chunks of a stream.")
        self._calls: dict[str, _Call] = {}
        self._models: set[str] = set()

    def attach(self, client: Client) -> Callable[[], None]:
        """Begin with a client; returns a function that ends this. A client that is instrumented already stays so."""
        hooks: Hooks = client.hooks
        if any(isinstance(getattr(function, "__self__", None), OpenTelemetry) for function in hooks.on_request):
            return lambda: None
        return hooks.add(
            on_request=self._requested,
            on_response=self._answered,
            on_retry=self._retried,
            on_event=self._heard if self._chunk_times else None,
            on_error=self._failed,
            watch_tool=self._tool,
            watch_loop=self.conversation,
        )

    def conversation(self, id: str) -> AbstractContextManager[Callable[[ChatResponse], object]]:
        """A span for what is asked in its block, with ``gen_ai.conversation.id``, which the calls in it have too.

        ``Conversation.say`` and ``Client.run_tools`` have one of their own.
        """

        def begin() -> tuple[Span, contexts.Context]:
            span = self._tracer.start_span("invoke_agent", kind=SpanKind.INTERNAL)
            if span.is_recording():
                said = {"gen_ai.operation.name": "invoke_agent"}
                _tell(span, {**said, _CONVERSATION: id} if id else said)
            around = trace.set_span_in_context(span)
            return span, contexts.set_value(_CONVERSATION, id, around) if id else around

        return _Scope(begin, self._round_up)

    def _round_up(self, span: Span, answer: ChatResponse) -> None:
        said = {
            "gen_ai.provider.name": _genai.provider_name(answer.provider),
            "gen_ai.response.finish_reasons": _genai.finish_reasons(answer),
            **_genai.usage_attributes(answer.usage),
        }
        _tell(span, said)

    def _tool(self, call: ToolCall) -> AbstractContextManager[Callable[[ToolResult], object]]:
        def begin() -> tuple[Span, contexts.Context]:
            name = _genai.exportable_text(call.name)
            span = self._tracer.start_span(f"execute_tool {name}", kind=SpanKind.INTERNAL)
            if span.is_recording():
                said = {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": name,
                    "gen_ai.tool.call.id": call.id[: _genai.MAX_NAME],
                    "gen_ai.tool.type": "function",
                }
                if self._capture:
                    said["gen_ai.tool.call.arguments"] = call.arguments_json
                _tell(span, said)
            return span, trace.set_span_in_context(span)

        return _Scope(begin, self._tool_ran)

    def _tool_ran(self, span: Span, result: ToolResult) -> None:
        if result.error is not None:
            _fail(span, result.error, words=self._capture)
        elif self._capture:
            _tell(span, {"gen_ai.tool.call.result": result.content})

    def _requested(self, event: RequestEvent) -> AbstractContextManager[object] | None:
        if event.operation not in _OPERATIONS:
            return None
        call = self._calls.get(event.call_id)
        if call is None:
            call = self._calls[event.call_id] = self._begun(event)
            if call.span.is_recording():
                _tell(call.span, _genai.request_attributes(event.body or {}))
                if self._capture and event.operation == "chat":
                    _tell(call.span, _genai.input_content(json.loads(event.request.body or b"{}")))
        return _Current(call.span)

    def _begun(self, event: RequestEvent | ErrorEvent | ResponseEvent) -> _Call:
        info = event.call
        model = _genai.exportable_text(info.model)
        attributes = _genai.call_attributes(event.operation, info.provider, model, info.origin)
        begun = time.time_ns() - int(event.seconds * 1e9)
        span = self._tracer.start_span(
            f"{event.operation} {model}".strip(), kind=SpanKind.CLIENT, attributes=attributes, start_time=begun
        )
        conversation = contexts.get_value(_CONVERSATION)
        if isinstance(conversation, str):
            span.set_attribute(_CONVERSATION, _genai.exportable_text(conversation))
        return _Call(span, attributes, begun)

    def _heard(self, event: StreamEvent) -> None:
        if event.kind in _PIECES and (call := self._calls.get(event.call.call_id)) is not None:
            call.pieces.append(time.perf_counter())

    def _retried(self, event: RetryEvent) -> None:
        if event.reason == "fallback" and (call := self._calls.pop(event.call_id, None)) is not None:
            self._end(call, event.seconds, (event.attempt,), error=event.error)

    def _answered(self, event: ResponseEvent) -> None:
        if event.operation not in _OPERATIONS:
            return
        # A server may have been found without a request, in what was kept.
        call = self._calls.pop(event.call_id, None) or self._begun(event)
        self._end(call, event.seconds, event.attempts, answer=event.answer)

    def _failed(self, event: ErrorEvent) -> None:
        if event.operation not in _OPERATIONS:
            return
        call = self._calls.pop(event.call_id, None) or self._begun(event)
        self._end(call, event.seconds, event.attempts, error=event.error)

    def _end(
        self,
        call: _Call,
        seconds: float,
        attempts: tuple[Attempt, ...],
        *,
        answer: Any = None,
        error: BaseException | None = None,
    ) -> None:
        came = answer if error is None else getattr(error, "partial", None)
        try:
            if call.span.is_recording():
                self._record(call, attempts, came, error)
            self._measure(call, seconds, came, error)
        finally:
            call.span.end()

    def _record(self, call: _Call, attempts: tuple[Attempt, ...], came: Any, error: BaseException | None) -> None:
        span = call.span
        for attempt in attempts:
            moment = call.begun + int(attempt.started * 1e9)
            said = _genai.exportable(_genai.attempt_attributes(attempt, words=self._capture))
            span.add_event("openai_compat.attempt", said, moment)
        if came is not None:
            _tell(span, _genai.answer_attributes(came))
            if self._capture and isinstance(came, ChatResponse):
                _tell(span, _genai.output_content(came))
        if error is not None:
            _fail(span, error, words=self._capture)

    def _measure(self, call: _Call, seconds: float, came: Any, error: BaseException | None) -> None:
        attributes = dict(call.attributes)
        if model := _genai.exportable_text((getattr(came, "model", "") or "")[: _genai.MAX_NAME]):
            if len(self._models) < MAX_MODELS:
                self._models.add(model)
            if model in self._models:
                attributes["gen_ai.response.model"] = model
        around = trace.set_span_in_context(call.span)
        usage: Usage | None = getattr(came, "usage", None)
        if usage is not None:
            for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                if count is not None:
                    self._tokens.record(count, {**attributes, "gen_ai.token.type": kind}, around)
        first = getattr(came, "first_token_ms", None)
        if first is not None:
            self._first_chunk.record(first / 1000, attributes, around)
        for before, after in zip(call.pieces, call.pieces[1:], strict=False):
            self._per_chunk.record(after - before, attributes, around)
        if error is not None:
            attributes["error.type"] = type(error).__name__
        self._duration.record(seconds, attributes, around)


class _Call:
    """A call that is under way."""

    def __init__(self, span: Span, attributes: _genai.Attributes, begun: int) -> None:
        self.span = span
        self.attributes = attributes
        self.begun = begun
        self.pieces: list[float] = []


class _Current:
    """In its block, a span is the current one."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[contexts.Context] | None = None

    def __enter__(self) -> None:
        self._token = contexts.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            contexts.detach(self._token)


class _Scope:
    """A span of its block, and what is done with the outcome that its value is told.

    It begins where the block does: what is never entered has none.
    """

    def __init__(self, begin: Callable[[], tuple[Span, contexts.Context]], told: Callable[[Span, Any], None]) -> None:
        self._begin = begin
        self._told = told
        self._span: Span = trace.INVALID_SPAN
        self._token: Token[contexts.Context] | None = None

    def __enter__(self) -> Callable[[Any], object]:
        self._span, around = self._begin()
        self._token = contexts.attach(around)
        return self._tell

    def _tell(self, outcome: Any) -> None:
        if self._span.is_recording():
            self._told(self._span, outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if self._token is not None:
            contexts.detach(self._token)
        if error is not None and self._span.is_recording():
            _fail(self._span, error, words=False)
        self._span.end()
        return False


def _tell(span: Span, attributes: Mapping[str, Any]) -> None:
    span.set_attributes(_genai.exportable(attributes))


def _fail(span: Span, error: BaseException, *, words: bool) -> None:
    """Mark a span as failed.

    What the server says of a request it refuses, or what broke, is told; any other error may quote an answer, or what a
    tool was given, and is only named without ``words``.
    """
    span.set_attributes(_genai.error_attributes(error))
    told = words or isinstance(error, (APIStatusError, APIConnectionError, StreamServerError))
    said = _genai.exportable_text(str(error)[:MAX_WORDS]) if told else type(error).__name__
    span.set_status(Status(StatusCode.ERROR, said))
