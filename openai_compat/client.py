"""The client: chat, stream, submit, run_tools, conversation, embed, models.

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
from .redaction import redact_error_body
from .schema.text import text_of
from .timeouts import Deadline, Timeout
from .transport import Call
from .wire.accumulate import Accumulator
from .wire.dialect import batch_limit
from .wire.parse import parse_response
from .wire.plain import label, whole
from .wire.prices import in_batch
from .wire.request import ChatRequest, build_body, build_streaming_body
from .wire.response import CallInfo, ChatResponse, ParsedResponse, ReplyInfo
from .wire.retry import RetryPolicy

if TYPE_CHECKING:
    import os
    from concurrent.futures import Executor
    from typing import Unpack

    from .batch.files import FileAnswer, FileRequest, FileSummary
    from .batch.journal import Journal
    from .batch.provider import Send
    from .batch.run import MapRun
    from .batch.submit import BatchRun
    from .batch.vectors import EmbeddingRun
    from .conversation import Conversation
    from .fallback import FallbackClient, Member
    from .futures import CallFuture
    from .hooks import Operation
    from .params import BatchOptions, ChatOptions, LoopFields, LoopOptions, MapOptions, MapPrompt, StreamOptions
    from .probe.report import Probe, ProbeRow
    from .sinks import Sink
    from .stream import ChatStream, ParsedStream, Source
    from .tokens import TokenCount
    from .tools.loop import ToolRound
    from .tools.tool import ToolDispatcher
    from .transport import Reply
    from .wire.embeddings import EmbeddingResponse
    from .wire.models import Model
    from .wire.output import Output

    S = TypeVar("S", bound=ChatStream)

T = TypeVar("T")
R = TypeVar("R", bound=ChatResponse)


class Client(BaseClient):
    """Calls one server, from any number of threads.

    Works with and without ``with``; closing it closes its pooled connections, and a later call opens new ones.

    Args:
        base_url: with or without ``/v1``, as a string or a URL object; a query (Azure's ``api-version``) stays on every
            request.
        api_key: sent with every request: a string, a value like pydantic's ``SecretStr``, or a function that returns
            one and is called for each. None sends no key.
        provider: the name of a row of ``PROVIDERS``, which also says how the server reads the format; any other name is
            a label. It is put on answers, events and errors. None: inferred from the base URL.
        model: for calls that name none. Without one, a server on this machine that needs no key is asked once for its
            models, and the first is taken.
        timeout: a ``Timeout``, a number of seconds for the whole call, or None for no limit.
        max_retries: further tries after connection errors and HTTP 408, 409, 429 and 5xx.
        retry: a ``RetryPolicy``, in place of ``max_retries``.
        on_request, on_response, on_retry, on_event, on_error: functions that hear of every call, one or several: see
            ``Hooks``; ``client.hooks`` adds and removes more.
        limits: a ``Limits``, how much may be asked at once and in a minute; shared by all clients that it is given to.
        budget: a ``Budget``, how much may be spent in all; shared likewise.
        prices: a ``Price`` for all models, or a dict of them by model, for ``answer.cost`` and budgets in dollars; in
            place of the table of the extra ``prices``.
        headers: sent with every request.
        session: a ``requests.Session`` of your own, whose adapters, proxies, auth and plugins apply.
        auth: a requests auth object, in place of ``api_key``.
        verify: which certificates are trusted: True for certifi's, the path of a file or folder, ``"system"`` for the
            operating system's (extra ``truststore``), False for any. None: what ``REQUESTS_CA_BUNDLE``,
            ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` says, else certifi's.
        cert: the client's own certificate: the path of one file with its key, or of both.
        proxies: as for requests; None: what ``HTTPS_PROXY`` and its like say, for servers on other machines.
        trust_env: whether proxies, certificates and netrc are read from the environment.
        pool_size: how many connections are kept for later calls.
        keepalive_expiry: how many seconds an idle connection stays usable; None for no limit.
        max_response_bytes: the size limit of a reply that is read as a whole.
        api_path: appended to ``base_url``, ``""`` for nothing. None: ``/v1`` where the URL has no path, and the root
            where that is not found.
        pickle_key: whether a key or another secret may go into a pickle of the client.
        truncated: ``"return"`` flags a stream that ended cleanly but unfinished, ``"raise"`` refuses it.
        inline_think: ``"leading"`` moves ``<think>`` spans at the beginning of the text to ``reasoning``, unless the
            server sends reasoning in a field of its own; ``"all"`` moves every span, ``"keep"`` none.
        think_tags: the tags around such spans: names of elements, or pairs of strings. By default ``think`` for
            ``"all"``, else all known ones.
        max_event_bytes: the size limit of one event of a stream.
        dialect: how the server reads the format, in place of what the provider's row says: the path of a file that
            ``probe`` saved, what is in it, or a ``Dialect``.

    Raises:
        ConfigurationError: a base URL without scheme or host, or a key that cannot be sent.
    """

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
        output, request = _typed(request, response_type, repair)
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
            return self._stream(ChatStream, request, cancel, timeout, think_opened, _typed(request, None)[0])
        output, request = _typed(request, response_type)
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
        _typed(request, response_type, repair)

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

    @overload
    def map(
        self, requests: Iterable[MapPrompt], *, response_type: type[T], **options: Unpack[MapOptions]
    ) -> MapRun[ParsedResponse[T]]: ...
    @overload
    def map(
        self, requests: Iterable[MapPrompt], *, response_type: None = None, **options: Unpack[MapOptions]
    ) -> MapRun[ChatResponse]: ...
    @overload
    def map(
        self, requests: Iterable[MapPrompt], *, response_type: object, **options: Unpack[MapOptions]
    ) -> MapRun[ParsedResponse[Any]]: ...
    def map(
        self,
        requests: Iterable[MapPrompt],
        *,
        workers: int = 16,
        executor: Executor | Callable[[], Executor] | None = None,
        chunk_size: int | None = None,
        ordered: bool = False,
        on_error: Literal["keep", "raise"] = "keep",
        journal: Journal | str | os.PathLike[str] | None = None,
        retry_failed: bool | None = None,
        progress: Any = None,
        total: int | None = None,
        response_type: Any = None,
        repair: int = 0,
        tools: Iterable[Any] = (),
        dispatcher: ToolDispatcher | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
        think_opened: bool = False,
        **fields: Any,
    ) -> MapRun[Any]:
        """Ask many things at once: an iterator of ``MapResult``, each as soon as it is there.

        Args:
            requests: prompts, ``ChatRequest`` values, lists of messages, or pairs of an id and one of these; from any
                iterable, which is read only as far as results are.
            workers: threads, each with one call under way; with ``executor``, in each process that it has.
            executor: who asks in place of this process's threads: any ``concurrent.futures.Executor``, of processes or
                of a cluster (Dask's ``client.get_executor()``), or a function that makes one, which is called again
                where its processes were killed. Each process gets a copy of this client, by its pickle.
            chunk_size: requests that go to the executor at a time, and that are asked again if a process is killed; by
                default as many as ``workers``.
            ordered: yield results in the order of the requests.
            on_error: ``"keep"`` yields what failed as a result with ``error``; ``"raise"`` raises it and ends the run.
                A wrong key (HTTP 401) always does.
            journal: the path of an SQLite file, or a ``Journal``. Each answer is in it before it is yielded, and what
                it has is not asked again: the same line, run again, goes on where it was killed. Without ids, a
                question that comes twice is asked once.
            retry_failed: whether what had failed in the journal is asked again: True, False, or None for what may
                succeed now (no connection, HTTP 429 and 5xx).
            progress: True for a bar where one can be drawn, and lines elsewhere; ``"tqdm"``, ``"rich"``, ``"lines"``, a
                logger, or a bar of your own in tqdm's shape.
            total: how many requests there are, where ``len`` does not say.
            tools, dispatcher: as for ``run_tools``; an answer is that of the whole loop.
            response_type, repair, cancel, timeout, think_opened, fields: as for ``chat``, for each request.

        Raises:
            ConfigurationError: bad input, while requests are taken.
            AuthenticationError: the server does not take the key.
            JournalError: the journal cannot be read or written; ``unsaved`` has the answers that it did not take.
            Cancelled: by ``cancel``.
        """
        with importing:
            from ._mapped import ChatAsker
            from .batch.map import map_requests
            from .batch.options import RunOptions
            from .tools.loop import ToolOptions
            from .tools.tool import tool_specs

        if response_type is not None:
            _typed(ChatRequest(""), response_type, repair)
        loop = {field.name: fields.pop(field.name) for field in attrs.fields(ToolOptions) if field.name in fields}
        if tools := tuple(tools):
            fields["tools"] = tool_specs(tools)
            loop.update(tools=tools, dispatcher=dispatcher)
        asker = ChatAsker(
            client=self,
            fields=fields,
            response_type=response_type,
            repair=repair,
            loop=loop if tools else {},
            timeout=timeout,
            think_opened=think_opened,
        )
        options = RunOptions(
            workers=workers,
            executor=executor,
            chunk_size=chunk_size,
            ordered=ordered,
            on_error=on_error,
            journal=journal,
            retry_failed=retry_failed,
            progress=progress,
            total=total,
            cancel=cancel,
        )
        return map_requests(asker, requests, options)

    @overload
    def submit_batch(
        self, requests: Iterable[MapPrompt], *, response_type: type[T], **options: Unpack[BatchOptions]
    ) -> BatchRun[ParsedResponse[T]]: ...
    @overload
    def submit_batch(
        self, requests: Iterable[MapPrompt], *, response_type: None = None, **options: Unpack[BatchOptions]
    ) -> BatchRun[ChatResponse]: ...
    @overload
    def submit_batch(
        self, requests: Iterable[MapPrompt], *, response_type: object, **options: Unpack[BatchOptions]
    ) -> BatchRun[ParsedResponse[Any]]: ...
    def submit_batch(
        self,
        requests: Iterable[MapPrompt],
        *,
        response_type: Any = None,
        think_opened: bool = False,
        timeout: Timeout | float | None = None,
        ordered: bool = False,
        on_error: Literal["keep", "raise"] = "keep",
        journal: Journal | str | os.PathLike[str] | None = None,
        retry_failed: bool | None = None,
        progress: Any = None,
        total: int | None = None,
        poll_every: float = 60.0,
        completion_window: str = "24h",
        cancel: CancelToken | None = None,
        **fields: Any,
    ) -> BatchRun[Any]:
        """Have the provider's own Batch API answer many things, within a day, at half the price where it says so.

        Takes what ``map`` takes, and yields the same results. When it returns, all has been uploaded; iterating waits.

        Args:
            requests: as for ``map``; all are taken at once, and wait on disk. A file has one model, and no more than
                providers take: 50,000 requests and 100 MB; what is more becomes several batches.
            journal: as for ``map``, and shared with it. The batches are in it as soon as there are any: the same line,
                run again, submits nothing twice but waits for them. Without one, no later run finds them.
            ordered: yield results in the order of the requests, not as batches end.
            retry_failed: as for ``map``; what a batch did not get to before it expired or was cancelled may succeed.
            poll_every: seconds between two looks at a batch, at the most: they begin with one, and double. A
                ``Retry-After`` of the server's is kept to.
            completion_window: in which the provider is to be done, in its own words.
            cancel: ends the waiting; ``run.cancel()`` ends the batches.
            timeout: for each request to the provider.
            on_error, progress, total, response_type, think_opened, fields: as for ``map``.

        Raises:
            NotFoundError, APIStatusError: the server has no Batch API, or does not take the batch.
            ConfigurationError: bad input.
            JournalError: the journal cannot be read or written, or the disk is full.
        """
        with importing:
            from .batch.submit import Submitter, submit_batch
            from .wire.response_format import tool_call_as_text

        output = None
        if response_type is not None:
            output, _ = _typed(ChatRequest(""), response_type)

        def make(prompt: Prompt) -> ChatRequest:
            request = self._with_model(self._request(prompt, fields), self._deadline(timeout, cancel))
            if request.extra_headers or request.extra_query:
                raise ConfigurationError("a request in a batch has no headers and no query of its own")
            return request

        def body(request: ChatRequest) -> dict[str, Any]:
            return self._body(build_body, request if output is None else output.asked(request))

        def read(kept: bytes, request: ChatRequest, request_id: str | None) -> ChatResponse:
            by_call = self._dialect_for(request.model).answers_by_call(body(request))
            answer = parse_response(
                kept,
                call=self._call_info(request),
                think=self._think._replace(opened=think_opened),
                several=bool(request.n and request.n > 1),
                strict=self._strict,
                make_id=new_id,
                reply=ReplyInfo(request_id),
                secrets=self._secrets(),
                as_text=tool_call_as_text if by_call else None,
            )
            answer = attrs.evolve(answer, charges=in_batch(answer.charges))
            return answer if output is None else output.read(answer)

        return submit_batch(
            Submitter(
                make=make,
                body=body,
                line=lambda request, asked: ("/v1/chat/completions", self._adapted(asked, request.model)),
                read=read,
                send=self._batch_sender(timeout, cancel),
                server=self.base_url,
                provider=self.provider,
                secrets=self._secrets,
            ),
            requests,
            journal=journal,
            retry_failed=retry_failed,
            ordered=ordered,
            on_error=on_error,
            progress=progress,
            total=total,
            poll_every=poll_every,
            completion_window=completion_window,
            cancel=cancel,
        )

    def _adapted(self, body: Mapping[str, Any], model: str | None) -> dict[str, Any]:
        """A body in the dialect of the server."""
        adapted, left_out = self._dialect_for(model).adapt(dict(body))
        self._tell(left_out)
        return adapted

    def _batch_sender(self, timeout: Timeout | float | None, cancel: CancelToken | None) -> Send:
        """What sends the requests of the Batch API."""

        def send(
            method: str,
            path: str,
            read: Callable[[Reply], T],
            *,
            body: bytes | None = None,
            content_type: str = "application/json",
            query: Mapping[str, str] | None = None,
            once: bool = False,
        ) -> T:
            policy = attrs.evolve(self._retry, max_retries=0) if once else self._retry
            deadline = self._deadline(timeout, cancel)
            call = Call(
                deadline,
                policy,
                self.hooks,
                info=CallInfo(new_id(), self.provider, "", self.base_url),
                operation="batch",
                secrets=self._secrets,
                once=once,
            )
            headers = {"Content-Type": content_type, "Accept": "application/json, */*"}
            return call.run(lambda: read(self._transport.send(method, path, body, call, headers=headers, query=query)))

        return send

    def map_file(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        template: str | None = None,
        **options: Unpack[MapOptions],
    ) -> FileSummary:
        """Run a file of requests, and write a file of answers.

        Without ``template``, ``source`` is a file made for OpenAI's Batch API, chat completions and embeddings, and
        ``output`` is what that API would return, in the order in which the answers come. With it, ``source`` is a CSV,
        JSONL or Parquet file (extra ``parquet``) with a row for each request; ``output``, of any of these kinds, has
        the same rows, with ``answer`` and ``error`` after them.

        Args:
            output: made once all has been asked. Until then the answers are in the journal: the same call, made again,
                goes on where it ended.
            template: a prompt with the names of columns, such as ``"Summarise: {text}"``.
            options: as for ``map``; the ``journal`` is by default beside ``output``, with ``.journal`` after its name.

        Raises:
            ConfigurationError: a line that is no request; nothing was asked.
            OSError: a file cannot be read or written.
        """
        with importing:
            from pathlib import Path

            from ._mapped import LineAsker
            from .batch.files import journal_of, run_batch_file, run_table
            from .batch.map import map_requests
            from .batch.options import RunOptions

        source, output = Path(source), Path(output)
        given: dict[str, Any] = {"journal": journal_of(output), **options}
        if template is not None:

            def ask_rows(prompts: Iterable[tuple[str, str]], total: int) -> MapRun[Any]:
                return self.map(prompts, **{**given, "total": total, "ordered": True})

            return run_table(source, output, template, ask_rows)
        timeout = given.pop("timeout", None)
        settings = RunOptions.taken_from(given)
        if given:
            raise TypeError(f"the lines of a file say what is asked: {', '.join(sorted(given))} cannot be given beside")

        def ask_lines(lines: Iterable[Any], total: int) -> MapRun[Any]:
            return map_requests(LineAsker(client=self, timeout=timeout), lines, attrs.evolve(settings, total=total))

        return run_batch_file(source, output, ask_lines)

    def submit_file(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        template: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> FileSummary:
        """``map_file`` by way of the provider's own Batch API, chat completions and embeddings.

        Args:
            source, output, template: as for ``map_file``.
            options: as for ``submit_batch``; the ``journal`` is by default that of ``map_file``.

        Raises:
            ConfigurationError: a line that is no request; nothing was submitted.
            NotFoundError, APIStatusError: the server has no Batch API, or does not take the batch.
            OSError: a file cannot be read or written.
        """
        with importing:
            from pathlib import Path

            from .batch.files import journal_of, run_batch_file, run_table
            from .batch.submit import Submitter, submit_batch

        source, output = Path(source), Path(output)
        given: dict[str, Any] = {"journal": journal_of(output), **options}
        if template is not None:

            def submit_rows(prompts: Iterable[tuple[str, str]], total: int) -> BatchRun[Any]:
                return self.submit_batch(prompts, **{**given, "total": total, "ordered": True})

            return run_table(source, output, template, submit_rows)
        settings: dict[str, Any] = {"retry_failed": None, "ordered": False, "on_error": "keep", "progress": None}
        settings.update({"poll_every": 60.0, "completion_window": "24h", "cancel": None})
        timeout = given.pop("timeout", None)
        settings.update({name: given.pop(name) for name in [*settings, "journal"] if name in given})
        if given:
            raise TypeError(f"the lines of a file say what is asked: {', '.join(sorted(given))} cannot be given beside")

        def read(kept: bytes, line: FileRequest, request_id: str | None) -> FileAnswer:
            answer = self._line_answer(line, kept, ReplyInfo(request_id))
            return attrs.evolve(answer, charges=in_batch(answer.charges))

        def submit_lines(lines: Iterable[Any], total: int) -> BatchRun[Any]:
            submitter = Submitter(
                make=lambda line: line,
                body=self._line_body,
                line=lambda line, body: (line.url, self._adapted(body, body.get("model"))),
                read=read,
                send=self._batch_sender(timeout, settings["cancel"]),
                server=self.base_url,
                provider=self.provider,
                secrets=self._secrets,
            )
            return submit_batch(submitter, lines, total=total, **settings)

        return run_batch_file(source, output, submit_lines)

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

    @staticmethod
    def fallback(
        clients: Iterable[Member | list[Member]],
        *,
        balance: bool = False,
        failures: int = 3,
        cool_down: float = 30.0,
    ) -> FallbackClient:
        """A client whose calls go to the first of several endpoints that is well, and to the next where one fails.

        The next one is asked after connection errors, time limits, HTTP 402, 408, 409, 429 and 5xx, and replies that
        are no answers; a stream changes only before its first event. Every other error is raised. An endpoint is asked
        once in a call; only where all have failed has one the further tries of its client's ``max_retries``. A
        conversation goes on with the endpoint that answered it last.

        Args:
            clients: in the order of preference: clients, pairs ``(client, {"gpt-4o": "llama3"})`` where models have
                other names, and lists of equal ones, which share the calls: ``[[a, b], c]``. A call that names no model
                uses each client's own.
            balance: all are equal: each call goes to the one with the fewest calls under way.
            failures: calls in a row that fail before an endpoint is left alone; one is enough where its quota is used
                up.
            cool_down: seconds for which it is then left alone, as long as another answers. After them one call tries
                it, and others follow if that one succeeds.

        Raises:
            ConfigurationError: no clients, or something else in their place.
        """
        with importing:
            from .fallback import FallbackClient

        return FallbackClient(clients, balance=balance, failures=failures, cool_down=cool_down)

    def conversation(
        self,
        *,
        tools: Iterable[Any] = (),
        dispatcher: ToolDispatcher | None = None,
        id: str | None = None,
        **fields: Unpack[LoopFields],
    ) -> Conversation:
        """A ``Conversation`` with this client's server; takes what ``Conversation`` takes."""
        with importing:
            from .conversation import Conversation

        given: dict[str, Any] = dict(fields)
        return Conversation(self, tools=tools, dispatcher=dispatcher, id=id, **given)

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

    def map_embeddings(
        self,
        texts: Iterable[str | Sequence[int] | tuple[str, str | Sequence[int]]],
        *,
        model: str | None = None,
        encoding_format: Literal["base64", "float"] | None = "base64",
        dimensions: int | None = None,
        batch_size: int | None = None,
        normalize: bool = False,
        user: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        workers: int = 4,
        executor: Executor | Callable[[], Executor] | None = None,
        chunk_size: int | None = None,
        ordered: bool = False,
        on_error: Literal["keep", "raise"] = "keep",
        journal: Journal | str | os.PathLike[str] | None = None,
        retry_failed: bool | None = None,
        progress: Any = None,
        total: int | None = None,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
    ) -> EmbeddingRun:
        """Embed many texts: an iterator of ``EmbeddingResult``, each as soon as it is there.

        ``map_embeddings(...).to_array()`` waits for all, and returns one float32 array in the order of the texts.

        Args:
            texts: texts or lists of token ids, or pairs of an id and one of these; from any iterable, which is read
                only as far as results are. An empty one fails in its place.
            batch_size: texts in one request, by default 128; fewer where they are long, or where the server takes no
                more. A request that is refused is asked again in halves, so that the texts at fault fail alone.
            workers: threads, each with one request under way; with ``executor``, in each process that it has.
            journal: as for ``map``. A text is known by itself, the model, the dimensions and ``extra_body``; ids do not
                matter. A text that comes twice is embedded once; without a journal, once a request.
            model, encoding_format, dimensions, normalize, user, extra_body, timeout: as for ``embed``.
            executor, chunk_size, ordered, on_error, retry_failed, progress, total, cancel: as for ``map``.

        Raises:
            ConfigurationError: no model, or bad input.
            AuthenticationError: the server does not take the key.
            JournalError: the journal cannot be read or written; ``unsaved`` has the vectors that it did not take.
            Cancelled: by ``cancel``.
        """
        with importing:
            from ._mapped import TextEmbedder
            from .batch.embeddings import BATCH_SIZE, map_embeddings
            from .batch.options import RunOptions
            from .wire.embeddings_request import build_embeddings_body

        name = label(model, "model") if model else self.model or ""
        told: dict[str, Any] = {"dimensions": dimensions, "extra_body": extra_body}
        checked = "any" if not name and self._picks_model else name
        build_embeddings_body("any", model=checked, encoding_format=encoding_format, **told)
        size = BATCH_SIZE if batch_size is None else whole(batch_size, "batch_size")
        self._batch_size(size, name)
        embedder = TextEmbedder(
            client=self,
            model=name,
            making=told,
            encoding_format=encoding_format,
            normalize=normalize,
            user=user,
            timeout=timeout,
        )
        options = RunOptions(
            workers=workers,
            executor=executor,
            chunk_size=chunk_size,
            ordered=ordered,
            on_error=on_error,
            journal=journal,
            retry_failed=retry_failed,
            progress=progress,
            total=total,
            cancel=cancel,
        )
        return map_embeddings(embedder, texts, size, options)

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

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        tools: Iterable[Any] = (),
        estimate: bool = False,
        cancel: CancelToken | None = None,
        timeout: Timeout | float | None = None,
    ) -> TokenCount:
        """How many tokens a text has, or a request, before it is sent.

        The server counts where it can: llama.cpp at ``/apply-template`` and ``/tokenize``, vLLM at ``/tokenize``. For
        OpenAI's models ``tiktoken`` does, on this machine (extra ``tokens``).

        Args:
            prompt: a text, which is counted as it is; or messages or a ``ChatRequest``, which are counted as the model
                sees them: with what the chat template puts around them, and the tools.
            tools: as for ``run_tools``.
            estimate: whether an estimate will do where nobody counts: a token for four bytes.

        Raises:
            ConfigurationError: nobody counts, and no estimate is wanted.
        """
        with importing:
            from .tokens import count_tokens

        deadline = self._deadline(timeout, cancel)
        text = text_of(prompt)
        fields = {key: value for key, value in (("model", model), ("tools", tools)) if value}
        request = self._with_model(self._request("." if text is not None else prompt, fields), deadline)
        body = {"model": request.model or "", "messages": []} if text is not None else self._body(build_body, request)
        counted = count_tokens(
            text,
            body,
            tokenizer=self._tokenizer,
            ask=lambda path, asked: self._beside(path, asked, deadline),
            estimate=estimate,
            provider=self.provider,
        )
        if self._tokenizer == "ask":
            self._tokenizer = counted.tokenizer
        return counted

    def probe(
        self,
        *,
        model: str | None = None,
        embedding_model: str | None = None,
        timeout: float = 30.0,
        only: Iterable[str] = (),
        on_row: Callable[[ProbeRow], object] | None = None,
        cancel: CancelToken | None = None,
    ) -> Probe:
        """Find out what the server can do, with a few dozen small requests.

        What it refuses, or does not answer, is a row of the result; Ctrl-C ends with what is known by then.

        Args:
            model: the model that is asked; by default the client's own, else the first that the server lists.
            embedding_model: the one that is asked for vectors; by default the first listed that looks like one.
            timeout: seconds that each question may take.
            only: the names of the rows that are wanted, such as ``"tools"``; by default all.
            on_row: called with each row as it is found.

        Raises:
            ConfigurationError: an unknown row, or a server elsewhere that lists several models where none is named.
            Cancelled: by ``cancel``.
        """
        with importing:
            from .probe.run import run_probe

        def send(
            method: str, path: str, body: bytes | None, *, seconds: float, headers: Mapping[str, str], at_root: bool
        ) -> Reply:
            call = Call(
                self._deadline(seconds, cancel),
                RetryPolicy(max_retries=0),
                info=CallInfo(new_id(), self.provider, "", self.base_url),
                secrets=self._secrets,
            )
            call.begin()
            return self._transport.send(method, path, body, call, headers=headers, at_root=at_root)

        name = model or self.model or ""
        return run_probe(
            send,
            base_url=self.base_url,
            provider=self.provider,
            dialect=self._dialect_for(name),
            model=name,
            embedding_model=embedding_model or "",
            seconds=timeout,
            only=only,
            hide=lambda said: redact_error_body(said, secrets=self._secrets()),
            alone=self._transport.endpoint.loopback,
            tell=on_row,
        )

    def models(self, *, cancel: CancelToken | None = None, timeout: Timeout | float | None = None) -> tuple[Model, ...]:
        """The models that the server lists, in its order."""
        return self._models(self._deadline(timeout, cancel))


MAX_BATCH = 2048
"""Texts in one embeddings request; OpenAI's own limit."""
MIN_BATCH = 8
"""Batches that a server goes on refusing are halved down to this."""
BATCH_MEMORY = 600.0
"""Seconds for which a server's limit on a batch is remembered."""


def _several(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for more than one answer."""
    return isinstance(body.get("n"), int) and body["n"] > 1


def _typed(request: ChatRequest, response_type: Any, repair: int = 0) -> tuple[Output | None, ChatRequest]:
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
