"""What a client asks for one thing at a time: chat, stream, submit, run_tools, embed, models.

What a plain chat does not need (streams, tools, embeddings) is imported where it is used: a short script starts faster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs

from ._base_client import BaseClient, Prompt, new_id
from ._imports import importing
from .cancel import CancelToken
from .credentials import mask_fields
from .errors import APIStatusError, ConfigurationError, ResponseShapeError, ResponseTypeError
from .schema.text import text_of
from .timeouts import Deadline, Timeout
from .wire.accumulate import Accumulator
from .wire.dialect import batch_limit
from .wire.parse import parse_response
from .wire.plain import label, whole
from .wire.request import ChatRequest, build_body, build_streaming_body
from .wire.response import CallInfo, ChatResponse, ParsedResponse, ReplyInfo

if TYPE_CHECKING:
    from typing import Unpack

    from .batch.files import FileAnswer, FileRequest
    from .futures import CallFuture
    from .hooks import Operation
    from .params import ChatOptions, LoopFields, LoopOptions, StreamOptions
    from .sinks import Sink
    from .stream import ChatStream, ParsedStream, Source
    from .tools.loop import ToolRound
    from .tools.tool import ToolDispatcher
    from .wire.embeddings import EmbeddingResponse
    from .wire.models import Model
    from .wire.output import Output

    S = TypeVar("S", bound=ChatStream)

T = TypeVar("T")
R = TypeVar("R", bound=ChatResponse)

MAX_BATCH = 2048
"""Texts in one embeddings request; OpenAI's own limit."""
MIN_BATCH = 8
"""Batches that a server goes on refusing are halved down to this."""
BATCH_MEMORY = 600.0
"""Seconds for which a server's limit on a batch is remembered."""


class ChatClient(BaseClient):
    """What a client asks of a server, one thing at a time."""

    @overload
    def chat(
        self, prompt: Prompt | None = None, *, response_type: type[T], **options: Unpack[ChatOptions]
    ) -> ParsedResponse[T]: ...
    @overload
    def chat(
        self, prompt: Prompt | None = None, *, response_type: None = None, **options: Unpack[ChatOptions]
    ) -> ChatResponse: ...
    @overload
    def chat(
        self, prompt: Prompt | None = None, *, response_type: object, **options: Unpack[ChatOptions]
    ) -> ParsedResponse[Any]: ...
    def chat(
        self,
        prompt: Prompt | None = None,
        *,
        response_type: Any = None,
        repair: int = 0,
        sink: Sink | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
        think_opened: bool = False,
        **fields: Any,
    ) -> ChatResponse:
        """Ask, and wait for the answer.

        Args:
            prompt: the question, a ``ChatRequest``, or a list of messages.
            response_type: the type of the answer's ``parsed``: an attrs class, dataclass, TypedDict, msgspec Struct or
                Pydantic model, any type made of them, or a JSON Schema as a dict. Its schema is sent as
                ``response_format``; where a server ignores that, the value is still looked for in the text.
            repair: how many times to ask again, with the error, where the answer does not fit ``response_type``.
            sink: streams on the wire: called with each ``StreamEvent``, or an object with ``emit``. The same answer
                is returned.
            cancel: ends the call from another thread.
            timeout: in place of the client's.
            think_opened: the prompt's template opens ``<think>``, so that the answer begins with reasoning.
            fields: any field of ``ChatRequest``.

        Raises:
            ConfigurationError: no model, nothing to ask, or an unusable value; nothing was sent.
            APIStatusError: the server replied with an HTTP error.
            APIConnectionError: it could not be reached, or the connection broke; ``APITimeoutError`` if too slow.
            ResponseParseError: the reply is not JSON.
            ResponseShapeError: it holds no answer, or with ``response_type`` one that does not fit
                (``ResponseTypeError``); ``.partial`` has what there was.
            StreamError: with a sink, the stream failed; ``.partial`` has what had arrived.
            Cancelled: by ``cancel``.
        """
        request = self._request(prompt, fields)
        options: dict[str, Any] = {"sink": sink, "cancel": cancel, "timeout": timeout, "think_opened": think_opened}
        return self._chat_typed(request, response_type, repair, options)

    def _chat_typed(
        self, request: ChatRequest, response_type: Any, repair: int, options: Mapping[str, Any]
    ) -> ChatResponse:
        """Ask for a type; where the answer does not fit, tell the model so, and ask again."""
        output, request = typed(request, response_type, repair)
        if output is None:
            return self._chat(request, **options)
        with importing:
            from .wire.output import is_cut, repair_request

        spent: ChatResponse | None = None
        for left in range(whole(repair, "repair"), -1, -1):
            try:
                # While a try is left, an answer that does not fit is no failure to report to the sink.
                answer = self._chat(request, output=None if left else output, **options)
                parsed = answer if isinstance(answer, ParsedResponse) else output.read(answer)
            except ResponseTypeError as error:
                answered = error.partial
                if answered is not None:
                    error.partial = spent = _after(spent, answered)
                if not left or answered is None or answered.refusal or is_cut(answered):
                    raise
                request = repair_request(request, error, output)
            except ResponseShapeError as error:
                # An empty answer has nothing that could be told: it is only asked for again.
                answered = error.partial
                if not left or answered is None or answered.text or answered.refusal or is_cut(answered):
                    raise
                spent = _after(spent, answered)
            else:
                break
        return _after(spent, parsed)

    def _chat(
        self,
        request: ChatRequest,
        *,
        sink: Sink | None,
        cancel: CancelToken | None,
        timeout: Timeout | float | None,
        think_opened: bool,
        output: Output | None = None,
    ) -> ChatResponse:
        if sink is not None:
            with importing:
                from .stream import ChatStream

            return _drive(self._stream(ChatStream, request, cancel, timeout, think_opened, output), sink)
        deadline = self._deadline(timeout, cancel)
        request = self._with_model(request, deadline)
        info = self._call_info(request)
        body = self._body(build_body, request)
        call = self._call(deadline, body, info=info)

        def attempt() -> ChatResponse:
            reply, as_text = self._ask(build_body, body, call, request)
            return parse_response(
                reply.read(),
                call=info,
                think=self._think._replace(opened=think_opened),
                several=_several(body),
                strict=self._strict,
                make_id=new_id,
                reply=ReplyInfo(reply.request_id, reply.headers, reply.url, call.deadline.elapsed_ms),
                secrets=self._secrets(),
                as_text=as_text,
            )

        return call.run(attempt, None if output is None else output.read)

    @overload
    def stream(
        self, prompt: Prompt | None = None, *, response_type: type[T], **options: Unpack[StreamOptions]
    ) -> ParsedStream[T]: ...
    @overload
    def stream(
        self, prompt: Prompt | None = None, *, response_type: None = None, **options: Unpack[StreamOptions]
    ) -> ChatStream: ...
    @overload
    def stream(
        self, prompt: Prompt | None = None, *, response_type: object, **options: Unpack[StreamOptions]
    ) -> ParsedStream[Any]: ...
    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        response_type: Any = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
        think_opened: bool = False,
        **fields: Any,
    ) -> ChatStream:
        """Ask, and read the answer as it comes: an iterator of ``StreamEvent`` and a context manager.

        Takes what ``chat`` takes; its errors are raised while the stream is read. With ``response_type``, ``partial``
        is the value as far as it has arrived, and ``response.parsed`` the whole.
        """
        with importing:
            from .stream import ChatStream, ParsedStream

        request = self._request(prompt, fields)
        if response_type is None:
            return self._stream(ChatStream, request, cancel, timeout, think_opened, typed(request, None)[0])
        output, request = typed(request, response_type)
        return self._stream(ParsedStream, request, cancel, timeout, think_opened, output)

    def _stream(
        self,
        kind: type[S],
        request: ChatRequest,
        cancel: CancelToken | None,
        timeout: Timeout | float | None,
        think_opened: bool,
        output: Output | None,
    ) -> S:
        with importing:
            from .stream import Reading

        stop = CancelToken()
        source = self._source(request, cancel, stop, timeout, think_opened)
        return kind(Reading(source, stop=stop, cancel=cancel, output=output))

    def _source(
        self,
        request: ChatRequest,
        cancel: CancelToken | None,
        stop: CancelToken,
        timeout: Timeout | float | None,
        think_opened: bool,
    ) -> Source:
        """How the server is asked for a stream; ``stop`` ends the call once it is under way."""
        with importing:
            from .stream import Source

        deadline = self._deadline(timeout, stop)
        request = self._with_model(request, self._deadline(timeout, cancel))
        info = self._call_info(request)
        body = self._body(build_streaming_body, request)
        call = self._call(deadline, body, info=info)
        return Source(
            lambda: self._ask(build_streaming_body, body, call, request),
            lambda: Accumulator(
                info, think=self._think._replace(opened=think_opened), several=_several(body), make_id=new_id
            ),
            info=info,
            call=call,
            strict=self._strict,
            secrets=self._secrets,
            max_event_bytes=self._max_event_bytes,
        )

    @overload
    def submit(
        self, prompt: Prompt | None = None, *, response_type: type[T], **options: Unpack[ChatOptions]
    ) -> CallFuture[ParsedResponse[T]]: ...
    @overload
    def submit(
        self, prompt: Prompt | None = None, *, response_type: None = None, **options: Unpack[ChatOptions]
    ) -> CallFuture[ChatResponse]: ...
    @overload
    def submit(
        self, prompt: Prompt | None = None, *, response_type: object, **options: Unpack[ChatOptions]
    ) -> CallFuture[ParsedResponse[Any]]: ...
    def submit(
        self,
        prompt: Prompt | None = None,
        *,
        response_type: Any = None,
        repair: int = 0,
        sink: Sink | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
        think_opened: bool = False,
        **fields: Any,
    ) -> CallFuture[Any]:
        """``chat`` on a thread of its own, with the same arguments.

        The future is a ``concurrent.futures.Future`` whose ``cancel()`` works while the call runs: it frees the waiting
        thread, and the server sees the connection close. ``sink`` is called on the call's thread.
        """
        with importing:
            from .futures import CallFuture

        request = self._request(prompt, fields)
        self._body(build_body, attrs.evolve(request, model="any") if self._picks_model else request)
        # What cannot be asked is refused here, not on the call's thread.
        typed(request, response_type, repair)

        def call(token: CancelToken) -> ChatResponse:
            options: dict[str, Any] = {"sink": sink, "cancel": token, "timeout": timeout, "think_opened": think_opened}
            return self._chat_typed(request, response_type, repair, options)

        if (expect := getattr(sink, "expect", None)) is not None:
            expect()
        return CallFuture(call, cancel)

    @overload
    def run_tools(
        self,
        prompt: Prompt | None = None,
        *,
        tools: Iterable[Any],
        response_type: type[T],
        **options: Unpack[LoopOptions],
    ) -> ParsedResponse[T]: ...
    @overload
    def run_tools(
        self,
        prompt: Prompt | None = None,
        *,
        tools: Iterable[Any],
        response_type: None = None,
        **options: Unpack[LoopOptions],
    ) -> ChatResponse: ...
    @overload
    def run_tools(
        self,
        prompt: Prompt | None = None,
        *,
        tools: Iterable[Any],
        response_type: object,
        **options: Unpack[LoopOptions],
    ) -> ParsedResponse[Any]: ...
    def run_tools(
        self,
        prompt: Prompt | None = None,
        *,
        tools: Iterable[Any],
        on_round: Callable[[ToolRound], object] | None = None,
        **options: Any,
    ) -> ChatResponse:
        """Ask, run the tools that the model calls, and ask again until it answers.

        Args:
            tools: functions, ``@tool`` objects, or ``ToolSpec`` where ``dispatcher`` runs them.
            on_round: called with each ``ToolRound``, before its calls run.
            options: ``dispatcher``; the fields of ``ToolOptions`` (``max_iterations``, ``max_tool_calls``,
                ``max_parallel_tool_calls``, ``tool_timeout``, ``before_tool``, ``after_tool``, ``withhold_tools``,
                ``tool_errors``); and what ``chat`` takes: ``timeout`` is for each request, ``sink`` hears every round.

        Raises:
            ToolLoopError: the model still calls tools after ``max_iterations`` rounds.
            OpenAICompatError: whatever ``chat`` raises; ``messages`` holds the conversation so far.
        """
        mask_fields(options)
        with self.hooks.watch_loop() as tell:
            for round_ in self.tool_rounds(prompt, tools=tools, **options):
                if on_round is not None:
                    on_round(round_)
            answer = round_.total()
            tell(answer)
        return answer

    def tool_rounds(
        self,
        prompt: Prompt | None = None,
        *,
        tools: Iterable[Any],
        dispatcher: ToolDispatcher | None = None,
        response_type: Any = None,
        repair: int = 0,
        sink: Sink | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
        think_opened: bool = False,
        **fields: Unpack[LoopFields],
    ) -> Iterator[ToolRound]:
        """The rounds of ``run_tools``, for a loop of your own.

        Each round is yielded when the model's reply has arrived, before its calls run. They run when the loop
        continues, or at ``round.run()``; leave the loop, and they do not.
        """
        with importing:
            from .tools.loop import ToolOptions, tool_rounds
            from .tools.tool import Toolbox

        names = [field.name for field in attrs.fields(ToolOptions) if field.name in fields]
        given: dict[str, Any] = dict(fields)
        watch = self.hooks.watch_tool
        options = ToolOptions(
            cancel=cancel, secrets=self._secrets, watch=watch, **{name: given.pop(name) for name in names}
        )
        toolbox = Toolbox(tools, dispatcher)
        request = attrs.evolve(self._request(prompt, given), tools=toolbox.specs)
        asking: dict[str, Any] = {"sink": sink, "cancel": cancel, "timeout": timeout, "think_opened": think_opened}

        def ask(round_: ChatRequest) -> ChatResponse:
            return self._chat_typed(round_, response_type, repair, asking)

        return tool_rounds(ask, request, toolbox, options)

    def _line_body(self, line: FileRequest) -> Mapping[str, Any]:
        return line.body if line.body.get("model") or not self.model else {"model": self.model, **line.body}

    def _ask_line(self, line: FileRequest, token: CancelToken, *, timeout: Timeout | float | None) -> FileAnswer:
        """Send a line's body, in the dialect of the server."""
        body = dict(self._line_body(line))
        info = CallInfo(new_id(), self.provider, str(body.get("model", "")), self.base_url)
        operation: Operation = "embeddings" if line.url.endswith("/embeddings") else "chat"
        call = self._call(self._deadline(timeout, token), body, info=info, operation=operation)

        def attempt() -> FileAnswer:
            reply, _, _ = self._post(line.url.removeprefix("/v1"), body, call, body.get("model"))
            told = ReplyInfo(reply.request_id, reply.headers, reply.url, call.deadline.elapsed_ms)
            return self._line_answer(line, reply.read(), told)

        return call.run(attempt)

    def _line_answer(self, line: FileRequest, body: bytes | bytearray, reply: ReplyInfo) -> FileAnswer:
        with importing:
            from .batch.files import read_answer

        info = self._info(str(line.body.get("model", "")))
        return read_answer(line, body, call=info, reply=reply, secrets=self._secrets())

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        model: str | None = None,
        encoding_format: Literal["base64", "float"] | None = "base64",
        dimensions: int | None = None,
        batch_size: int | None = None,
        normalize: bool = False,
        user: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
    ) -> EmbeddingResponse:
        """Vectors for one text or many, in their order.

        Args:
            texts: what to embed; lists of token ids are accepted too.
            encoding_format: what to ask for; either is understood, whatever the server sends. None leaves it out.
            dimensions: the length of a vector, where the model can shorten it.
            batch_size: the limit of texts in one request; by default 2048, or fewer where the server says so.
            normalize: scale every vector to length 1.

        Raises:
            ConfigurationError: no model, or nothing to embed.
            ResponseShapeError: a vector is missing, is not finite, or cannot be matched to its text.
        """
        with importing:
            from .wire.embeddings_request import build_embeddings_body, embedding_inputs

        name = label(model, "model") if model else self.model or ""
        picks = not name and self._picks_model
        inputs = embedding_inputs(texts)
        alone = text_of(texts)
        build_embeddings_body(inputs, model="any" if picks else name, encoding_format=encoding_format)
        deadline = self._deadline(timeout, cancel)
        name = self._first_model(deadline, embeds=True) if picks else name
        info = self._info(name)
        parts: list[EmbeddingResponse] = []
        done = 0
        size = self._batch_size(batch_size, name)
        shrunk = False
        while done < len(inputs):
            batch = inputs[done : done + size]
            body = build_embeddings_body(
                batch if alone is None else alone,
                model=name,
                encoding_format=encoding_format,
                dimensions=dimensions,
                user=user,
                extra_body=extra_body,
            )
            try:
                parts.append(self._embed_batch(body, len(batch), info, deadline))
            except APIStatusError as error:
                count = len(batch)
                limit = batch_limit(error, count)
                # The number that the server names is believed once: one that names another each time is not asked long.
                size = limit if limit and not shrunk else count // 2
                if limit is None or size < (MIN_BATCH if shrunk else 1):
                    raise
                shrunk = True
                continue
            if shrunk:
                self._batch_limits[name] = size, time.monotonic()
            done += len(batch)
        joined = _joined(parts, deadline.elapsed_ms)
        return joined.normalized() if normalize else joined

    def _batch_size(self, given: int | None, model: str) -> int:
        if given is not None and (given := whole(given, "batch_size")) < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {given}")
        limit, learnt = self._batch_limits.get(model, (MAX_BATCH, 0.0))
        if time.monotonic() - learnt > BATCH_MEMORY:
            limit = MAX_BATCH
        return min(given or MAX_BATCH, limit)

    def _embed_batch(self, body: dict[str, Any], count: int, info: CallInfo, deadline: Deadline) -> EmbeddingResponse:
        with importing:
            from .wire.embeddings import parse_embeddings_response
            from .wire.embeddings_request import vector_dtype

        call = self._call(deadline, body, info=info, operation="embeddings")

        def attempt() -> EmbeddingResponse:
            reply, dialect, asked = self._post("/embeddings", body, call, info.model)
            return parse_embeddings_response(
                reply.read(),
                dtype=vector_dtype(dialect.adapt(asked)[0]),
                count=count,
                call=info,
                reply=ReplyInfo(reply.request_id, reply.headers, reply.url, deadline.elapsed_ms),
                secrets=self._secrets(),
            )

        return call.run(attempt)

    def models(self, *, cancel: CancelToken | None = None, timeout: Timeout | float | None = None) -> tuple[Model, ...]:
        """The models that the server lists, in its order."""
        return self._models(self._deadline(timeout, cancel))


def _several(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for more than one answer."""
    return isinstance(body.get("n"), int) and body["n"] > 1


def typed(request: ChatRequest, response_type: Any, repair: int = 0) -> tuple[Output | None, ChatRequest]:
    """The type of an answer, or what ``choice`` or ``regex`` makes of it, and the request that asks for it."""
    if response_type is None and not request.constrained:
        return None, request
    with importing:
        from .wire.constrained import constrained_output
        from .wire.output import Output

    if whole(repair, "repair") < 0:
        raise ConfigurationError(f"repair must be 0 or more, not {repair}")
    if response_type is None:
        return constrained_output(request), request
    output = Output.of(response_type, strict=request.strict)
    return output, output.asked(request)


def _drive(stream: ChatStream, sink: Sink) -> ChatResponse:
    """Push a stream's events into a sink; a sink that raises ends the stream, one that raises StopStream quietly."""
    with importing:
        from .sinks import StopStream, emitter
        from .stream import read_on

    emit = emitter(sink)
    with stream:
        try:
            read_on(map(emit, stream))
        except StopStream:
            stream.cancel()
            for event in stream:
                with contextlib.suppress(StopStream):
                    emit(event)
        return stream.response


def _after(earlier: ChatResponse | None, answer: R) -> R:
    """An answer with the tokens and the time of the tries before it."""
    if earlier is None:
        return answer
    usage = answer.usage if earlier.usage is None else earlier.usage + answer.usage
    latency_ms, charges = earlier.latency_ms + answer.latency_ms, earlier.charges + answer.charges
    return attrs.evolve(answer, usage=usage, latency_ms=latency_ms, charges=charges)


def _joined(parts: list[EmbeddingResponse], latency_ms: float) -> EmbeddingResponse:
    if len(parts) == 1:
        return parts[0]
    usage = parts[0].usage
    for part in parts[1:]:
        usage = part.usage + usage if part.usage is not None else usage
    vectors = tuple(vector for part in parts for vector in part.vectors)
    attempts = tuple(attempt for part in parts for attempt in part.attempts)
    charges = tuple(charge for part in parts for charge in part.charges)
    return attrs.evolve(
        parts[-1], vectors=vectors, usage=usage, latency_ms=latency_ms, attempts=attempts, charges=charges
    )
