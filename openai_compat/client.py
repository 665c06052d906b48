"""The client: many requests, conversations, several servers and what one can do, beside what ``_chat_client`` asks.

What a plain chat does not need (streams, tools, embeddings) is imported where it is used: a short script starts faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs

from ._base_client import Prompt, new_id
from ._chat_client import ChatClient, typed
from ._imports import importing
from .cancel import CancelToken
from .errors import ConfigurationError
from .redaction import redact_error_body
from .schema.text import text_of
from .timeouts import Timeout
from .transport import Call
from .wire.parse import parse_response
from .wire.plain import label, whole
from .wire.prices import in_batch
from .wire.request import ChatRequest, build_body
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
    from .params import BatchOptions, LoopFields, MapOptions, MapPrompt
    from .probe.report import Probe, ProbeRow
    from .stream import ChatStream
    from .tokens import TokenCount
    from .tools.tool import ToolDispatcher
    from .transport import Reply

    S = TypeVar("S", bound=ChatStream)

T = TypeVar("T")
R = TypeVar("R", bound=ChatResponse)


class Client(ChatClient):
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
            typed(ChatRequest(""), response_type, repair)
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
            output, _ = typed(ChatRequest(""), response_type)

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
            if (method, path) == ("POST", "/files"):
                self._refuse_budgets()
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
