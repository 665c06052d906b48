"""The client: chat, stream, run_tools, embed, models.

What a plain chat does not need (streams, tools, embeddings) is imported where it is used: a short script starts faster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload
from urllib.parse import parse_qs, quote

import attrs

from . import __version__
from ._imports import importing
from ._json import encode_json
from .cancel import CancelToken
from .errors import APIStatusError, ConfigurationError, ResponseShapeError, ResponseTypeError
from .providers import PROVIDERS, Provider, provider_for_url, provider_named
from .redaction import Secret
from .timeouts import Deadline, Timeout
from .transport import Call, Endpoint, Reply, Settings, Transport
from .transport.transport import MAX_RESPONSE_BYTES
from .wire.accumulate import Accumulator, InlineThink
from .wire.dialect import GENERIC, Dialect, batch_limit
from .wire.parse import decode_body, parse_response
from .wire.reasoning import Tag, tag_pairs
from .wire.request import ChatRequest, build_body, build_streaming_body
from .wire.response import CallInfo, ChatResponse, ParsedResponse
from .wire.retry import Attempt, RetryPolicy
from .wire.sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from typing import Unpack

    import requests

    from .conversation import Conversation
    from .futures import CallFuture
    from .params import ChatOptions, LoopFields, LoopOptions, StreamOptions
    from .sinks import Sink
    from .stream import ChatStream, ParsedStream
    from .tools.loop import ToolRound
    from .tools.tool import ToolDispatcher
    from .wire.embeddings import EmbeddingResponse
    from .wire.models import Model
    from .wire.output import Output

    S = TypeVar("S", bound=ChatStream)
    Build = Callable[..., dict[str, Any]]

log = logging.getLogger("openai_compat")

Prompt = str | ChatRequest | Sequence[Mapping[str, Any]]
T = TypeVar("T")
R = TypeVar("R", bound=ChatResponse)

_REQUEST_FIELDS = frozenset(field.name for field in attrs.fields(ChatRequest))


class Client:
    """Calls one server, from any number of threads.

    Works with and without ``with``; closing it closes its pooled connections, and a later call opens new ones.

    Args:
        base_url: with or without ``/v1``; a query (Azure's ``api-version``) stays on every request.
        api_key: None sends no key; a callable is asked for one at each request.
        provider: whom this is, stamped into answers, events and errors, and how it reads the format; told from the
            base URL where None. See ``providers.PROVIDERS``; any other name is taken as a label.
        model: for calls that name none.
        timeout: a ``Timeout``, seconds in all, or None for no limit.
        max_retries: further tries after connection errors and HTTP 408, 409, 429 and 5xx.
        retry: a ``RetryPolicy``, in place of ``max_retries``.
        on_retry: called with each ``Attempt`` that failed and is followed by another.
        headers: sent with every request.
        session: a ``requests.Session`` of your own, whose adapters, proxies, auth and plugins apply.
        auth: a requests auth object, in place of ``api_key``.
        verify: which certificates are trusted: True for certifi's, the path of a file or folder, ``"system"`` for the
            operating system's (extra ``truststore``), False for any. None: what ``REQUESTS_CA_BUNDLE``,
            ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` says, else certifi's.
        cert: the client's own certificate: the path of one file with its key, or of both.
        proxies: as for requests; None: what ``HTTPS_PROXY`` and its like say, for servers on other machines.
        trust_env: whether proxies, certificates and netrc are read from the environment.
        pool_size: most connections that are kept for later calls.
        keepalive_expiry: seconds after which a kept connection is not used again; None for ever.
        max_response_bytes: most that a reply may have that is read as a whole.
        api_path: appended to ``base_url``, ``""`` for nothing. None: ``/v1`` where the URL has no path, and the root
            where that is not found.
        pickle_key: whether a key or another secret may go into a pickle of the client.
        truncated: ``"return"`` flags a stream that ended cleanly but unfinished, ``"raise"`` refuses it.
        inline_think: ``"leading"`` takes ``<think>`` spans out of the text where it begins, and none once the server
            tells thoughts in a field of their own; ``"all"`` takes out every span, ``"keep"`` none.
        think_tags: what stands around such spans: names of elements, or pairs of strings. By default ``think`` for
            ``"all"``, else all that are known.
        max_event_bytes: most that one event of a stream may have.

    Raises:
        ConfigurationError: a base URL without scheme or host, or a key that cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | Callable[[], str] | None = None,
        *,
        provider: str | None = None,
        model: str | None = None,
        timeout: Timeout | float | None = Timeout(),  # noqa: B008 - a frozen value
        max_retries: int = 2,
        retry: RetryPolicy | None = None,
        on_retry: Callable[[Attempt], object] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        auth: Any = None,
        verify: bool | str | os.PathLike[str] | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        trust_env: bool = True,
        pool_size: int = 100,
        keepalive_expiry: float | None = 60.0,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        api_path: str | None = None,
        pickle_key: bool = False,
        truncated: Literal["return", "raise"] = "return",
        inline_think: InlineThink = "leading",
        think_tags: Sequence[Tag] | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        api_key = Secret(api_key) if type(api_key) is str else api_key
        options = {name: value for name, value in locals().items() if name != "self"}
        if truncated not in ("return", "raise"):
            raise ConfigurationError(f"truncated must be 'return' or 'raise', not {truncated!r}")
        if inline_think not in ("leading", "all", "keep"):
            raise ConfigurationError(f"inline_think must be 'leading', 'all' or 'keep', not {inline_think!r}")
        endpoint = Endpoint.parse(base_url, api_path)
        known = _known_provider(provider, endpoint)
        if known is not None and endpoint.guessed and known.api_path is not None:
            endpoint = Endpoint.parse(base_url, known.api_path)
        if known is PROVIDERS["azure"]:
            endpoint = _azure_endpoint(endpoint, model)
        self.provider = known.name if known else provider or endpoint.host
        self.model = model
        self.timeout = Timeout.of(timeout)
        self._dialect = known.dialect if known else GENERIC
        self._learnt: dict[str, Dialect] = {}
        self._batch_limits: dict[str, tuple[int, float]] = {}
        self._told: set[str] = set()
        self._retry = RetryPolicy(max_retries=max_retries) if retry is None else retry
        self._on_retry = on_retry
        self._strict = truncated == "raise"
        self._inline_think: InlineThink = inline_think
        self._think_tags = None if think_tags is None else tag_pairs(think_tags)
        self._max_event_bytes = max_event_bytes
        self._key = _Key(api_key, self._dialect.key_header)
        self._transport = Transport(
            endpoint,
            provider=self.provider,
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Accept-Encoding": "gzip, deflate",
                "User-Agent": f"openai_compat/{__version__}",
                **_checked_headers(headers or {}),
            },
            auth=self._key.header,
            keyed=self._key.given,
            secrets=self._key.secrets,
            settings=Settings(
                verify=verify,
                cert=cert,
                proxies=proxies,
                trust_env=trust_env,
                pool_size=pool_size,
                keepalive_expiry=keepalive_expiry,
            ),
            session=session,
            requests_auth=auth,
            max_response_bytes=max_response_bytes,
        )
        # What a copy is made of.
        self._options = {**options, "base_url": Secret(base_url), "headers": _checked_headers(headers or {})}

    @classmethod
    def for_provider(cls, name: str, api_key: str | Callable[[], str] | None = None, **options: Any) -> Client:
        """A client for a provider of the table, its key from the provider's environment variable.

        Args:
            name: ``"openai"``, ``"ollama"``, ... : see ``providers.PROVIDERS``.
            api_key: in place of the variable's.
            options: as for ``Client``; ``base_url`` in place of the table's.

        Raises:
            ConfigurationError: an unknown provider, or no key where one is needed.
        """
        known = provider_named(name)
        base_url = options.pop("base_url", None) or _address(known)
        if not base_url:
            raise ConfigurationError(f"{known.name} has no common address: give base_url=")
        if known.name == "azure" and "?" not in base_url and (version := os.environ.get("OPENAI_API_VERSION")):
            base_url += f"?api-version={version}"
        key = api_key or (_key_from(known.key_variable) if known.key_variable else None)
        if known.key_variable and not key and "auth" not in options and "session" not in options:
            raise ConfigurationError(f"{known.name} needs a key: set {known.key_variable}, or give api_key=")
        return cls(base_url, key, provider=known.name, **options)

    @classmethod
    def from_env(cls, **options: Any) -> Client:
        """A client for whatever the environment names.

        Read in this order: ``OPENAI_BASE_URL`` (with ``OPENAI_API_KEY``), the key variable of a known provider, and
        ``OLLAMA_HOST``. ``OPENAI_MODEL`` is the model for calls that name none.

        Raises:
            ConfigurationError: the environment names no server.
        """
        environ = os.environ
        if model := environ.get("OPENAI_MODEL"):
            options.setdefault("model", model)
        if base_url := environ.get("OPENAI_BASE_URL"):
            options.setdefault("api_key", _key_from("OPENAI_API_KEY"))
            return cls(base_url, **options)
        for known in PROVIDERS.values():
            if known.key_variable and environ.get(known.key_variable):
                return cls.for_provider(known.name, **options)
        if environ.get("OLLAMA_HOST"):
            return cls.for_provider("ollama", **options)
        variables = ", ".join(known.key_variable for known in PROVIDERS.values() if known.key_variable)
        raise ConfigurationError(f"the environment names no server: set OPENAI_BASE_URL, or one of {variables}")

    def __repr__(self) -> str:
        model = f", model={self.model!r}" if self.model else ""
        return f"Client({self.base_url!r}, provider={self.provider!r}{model})"

    @property
    def base_url(self) -> str:
        """Where the API is, without a trailing slash."""
        return self._transport.endpoint.base

    def __copy__(self) -> Client:
        return type(self)(**self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        return type(self)(**self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has the settings, and no connection; the key only where it may be shown.

        Raises:
            ConfigurationError: a secret would stand in the pickle in clear, without ``pickle_key``.
        """
        options = dict(self._options)
        key = options["api_key"]
        variable = key.variable if isinstance(key, _EnvironmentKey) else None
        if variable:
            del options["api_key"]
        if callable(options.get("api_key")):
            _check_picklable(options["api_key"])
        secret = _secret_option(options)
        if secret and not options["pickle_key"]:
            raise ConfigurationError(
                f"{secret} would stand in the pickle in clear: take the key from the environment (Client.from_env, "
                "Client.for_provider) or from a function, or give pickle_key=True"
            )
        return _restored_client, (type(self), options, variable)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections; a session that you gave stays open."""
        self._transport.close()

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
            APIStatusError: the server refused.
            APIConnectionError: it could not be reached, or not to the end; ``APITimeoutError`` if that took too long.
            ResponseParseError: the reply is not JSON.
            ResponseShapeError: it holds no answer, or with ``response_type`` one that does not fit
                (``ResponseTypeError``); ``.partial`` has what there was.
            StreamError: with a sink, the stream failed; ``.partial`` has what had come.
            Cancelled: by ``cancel``.
        """
        request = self._request(prompt, fields)
        options: dict[str, Any] = {"sink": sink, "cancel": cancel, "timeout": timeout, "think_opened": think_opened}
        return self._chat_typed(request, response_type, repair, options)

    def _chat_typed(
        self, request: ChatRequest, response_type: Any, repair: int, options: Mapping[str, Any]
    ) -> ChatResponse:
        """Ask for a type; where the answer does not fit, tell the model so, and ask again."""
        if response_type is None:
            return self._chat(request, **options)
        with importing:
            from .wire.output import is_cut, repair_request

        output, request = _typed(request, response_type, repair)
        spent: ChatResponse | None = None
        for left in range(repair, -1, -1):
            try:
                # While there is a try left, an answer that does not fit is no failure for the sink to hear of.
                answer = self._chat(request, output=None if left else output, **options)
                parsed = answer if isinstance(answer, ParsedResponse) else output.read(answer)
            except ResponseTypeError as error:
                answered = error.partial
                if answered is not None:
                    error.partial = spent = _after(spent, answered)
                if not left or answered is None or answered.refusal or is_cut(answered):
                    raise
                request = repair_request(request, error)
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
        info = self._call_info(request)
        body = self._body(build_body, request)
        call = self._call(timeout, cancel)

        def attempt() -> ChatResponse:
            reply, as_text = self._ask(build_body, body, call, request)
            return parse_response(
                reply.read(),
                call=info,
                inline_think=self._inline_think,
                think_opened=think_opened,
                think_tags=self._think_tags,
                several=_several(body),
                strict=self._strict,
                as_text=as_text,
                make_id=_new_id,
                latency_ms=call.deadline.elapsed_ms,
                request_id=reply.request_id,
                headers=reply.headers,
                secrets=self._key.secrets(),
                url=reply.url,
            )

        answer = call.run(attempt)
        object.__setattr__(answer, "attempts", call.so_far())  # nobody has seen the value yet
        return answer if output is None else output.read(answer)

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
        is the value as far as it has come, and ``response.parsed`` the whole.
        """
        with importing:
            from .stream import ChatStream, ParsedStream

        request = self._request(prompt, fields)
        if response_type is None:
            return self._stream(ChatStream, request, cancel, timeout, think_opened, None)
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
        info = self._call_info(request)
        body = self._body(build_streaming_body, request)
        stop = CancelToken()
        call = self._call(timeout, stop)
        return kind(
            lambda: self._ask(build_streaming_body, body, call, request),
            lambda: Accumulator(
                info,
                inline_think=self._inline_think,
                think_opened=think_opened,
                think_tags=self._think_tags,
                several=_several(body),
                make_id=_new_id,
            ),
            info=info,
            call=call,
            stop=stop,
            cancel=cancel,
            strict=self._strict,
            secrets=self._key.secrets,
            max_event_bytes=self._max_event_bytes,
            output=output,
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
        """``chat`` on a thread of its own; takes what it takes.

        The future is a ``concurrent.futures.Future`` whose ``cancel()`` works while the call runs: it frees the waiting
        thread, and the server sees the connection close. ``sink`` is called on the call's thread.
        """
        with importing:
            from .futures import CallFuture

        request = self._request(prompt, fields)
        build_body(request)
        if response_type is not None:
            # What cannot be asked is refused here, not on the call's thread.
            _typed(request, response_type, repair)

        def call(token: CancelToken) -> ChatResponse:
            options: dict[str, Any] = {"sink": sink, "cancel": token, "timeout": timeout, "think_opened": think_opened}
            return self._chat_typed(request, response_type, repair, options)

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
            options: ``dispatcher``; the fields of ``ToolOptions`` (``max_iterations``, ``max_parallel_tool_calls``,
                ``tool_timeout``, ``before_tool``, ``after_tool``, ``withhold_tools``); and what ``chat`` takes:
                ``timeout`` is for each request, ``sink`` hears every round.

        Raises:
            ToolLoopError: the model still calls tools after ``max_iterations`` rounds.
            OpenAICompatError: whatever ``chat`` raises; ``messages`` holds the conversation so far.
        """
        for round_ in self.tool_rounds(prompt, tools=tools, **options):
            if on_round is not None:
                on_round(round_)
        return round_.total()

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

        Each round comes when the model's reply is there, before its calls run. They run when the loop goes on, or at
        ``round.run()``; leave the loop, and they do not.
        """
        with importing:
            from .tools.loop import ToolOptions, tool_rounds
            from .tools.tool import Toolbox

        names = [field.name for field in attrs.fields(ToolOptions) if field.name in fields]
        given: dict[str, Any] = dict(fields)
        options = ToolOptions(cancel=cancel, **{name: given.pop(name) for name in names})
        toolbox = Toolbox(tools, dispatcher)
        request = attrs.evolve(self._request(prompt, given), tools=toolbox.specs)
        asking: dict[str, Any] = {"sink": sink, "cancel": cancel, "timeout": timeout, "think_opened": think_opened}

        def ask(round_: ChatRequest) -> ChatResponse:
            return self._chat_typed(round_, response_type, repair, asking)

        return tool_rounds(ask, request, toolbox, options)

    def conversation(
        self,
        *,
        tools: Iterable[Any] = (),
        dispatcher: ToolDispatcher | None = None,
        **fields: Unpack[LoopFields],
    ) -> Conversation:
        """A ``Conversation`` with this client's server; takes what ``Conversation`` takes."""
        with importing:
            from .conversation import Conversation

        given: dict[str, Any] = dict(fields)
        return Conversation(self.chat, tools=tools, dispatcher=dispatcher, **given)

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
            texts: what to embed; lists of token ids are taken too.
            encoding_format: what to ask for; either is understood, whatever the server sends. None leaves it out.
            dimensions: numbers in a vector, where the model can shorten them.
            batch_size: most texts in one request; by default 2048, or fewer where the server says so.
            normalize: scale every vector to length 1.

        Raises:
            ConfigurationError: no model, or nothing to embed.
            ResponseShapeError: a vector is missing, not finite, or cannot be told to belong to a text.
        """
        with importing:
            from .wire.embeddings import build_embeddings_body, embedding_inputs

        name = model or self.model or ""
        inputs = embedding_inputs(texts)
        build_embeddings_body(inputs, model=name, encoding_format=encoding_format)
        info = CallInfo(call_id=_new_id(), provider=self.provider, model=name, origin=self.base_url)
        deadline = Deadline(self.timeout if timeout is None else Timeout.of(timeout), cancel)
        parts: list[EmbeddingResponse] = []
        done = 0
        size = self._batch_size(batch_size, name)
        shrunk = False
        while done < len(inputs):
            batch = inputs[done : done + size]
            body = build_embeddings_body(
                texts if isinstance(texts, str) else batch,
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
        if given is not None and given < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {given}")
        limit, learnt = self._batch_limits.get(model, (MAX_BATCH, 0.0))
        if time.monotonic() - learnt > BATCH_MEMORY:
            limit = MAX_BATCH
        return min(given or MAX_BATCH, limit)

    def _embed_batch(self, body: dict[str, Any], count: int, info: CallInfo, deadline: Deadline) -> EmbeddingResponse:
        with importing:
            from .wire.embeddings import parse_embeddings_response, vector_dtype

        call = Call(deadline, self._retry, self._on_retry)

        def attempt() -> EmbeddingResponse:
            reply, dialect, asked = self._post("/embeddings", body, call, info.model)
            return parse_embeddings_response(
                reply.read(),
                dtype=vector_dtype(dialect.adapt(asked)[0]),
                count=count,
                call=info,
                latency_ms=deadline.elapsed_ms,
                request_id=reply.request_id,
                headers=reply.headers,
                secrets=self._key.secrets(),
                url=reply.url,
            )

        answer = call.run(attempt)
        object.__setattr__(answer, "attempts", call.so_far())
        return answer

    def models(self, *, cancel: CancelToken | None = None, timeout: Timeout | float | None = None) -> tuple[Model, ...]:
        """The models that the server offers, in its order."""
        with importing:
            from .wire.models import parse_models

        call = self._call(timeout, cancel)

        def attempt() -> tuple[Model, ...]:
            reply = self._transport.send("GET", "/models", None, call)
            payload = decode_body(reply.read(), provider=self.provider, request_id=reply.request_id)
            return parse_models(payload, provider=self.provider)

        return call.run(attempt)

    def _request(self, prompt: Prompt | None, fields: Mapping[str, Any]) -> ChatRequest:
        unknown = fields.keys() - _REQUEST_FIELDS
        if unknown:
            raise TypeError(
                f"no such field of a chat request: {', '.join(sorted(unknown))}; what only your server knows goes "
                "into extra_body"
            )
        if fields.get("tools"):
            with importing:
                from .tools.tool import tool_specs

            fields = {**fields, "tools": tool_specs(fields["tools"])}
        if isinstance(prompt, ChatRequest):
            request = attrs.evolve(prompt, **fields) if fields else prompt
        elif prompt is None or isinstance(prompt, str):
            request = ChatRequest(prompt, **{"model": self.model, **fields})
        elif isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
            raise ConfigurationError(
                f"a prompt is a string, a ChatRequest or a list of messages, not {type(prompt).__name__}"
            )
        else:
            request = ChatRequest(messages=prompt, **fields)
        if request.model or not self.model:
            return request
        return attrs.evolve(request, model=self.model)

    def _call_info(self, request: ChatRequest) -> CallInfo:
        return CallInfo(call_id=_new_id(), provider=self.provider, model=request.model or "", origin=self.base_url)

    def _call(self, timeout: Timeout | float | None, cancel: CancelToken | None) -> Call:
        deadline = Deadline(self.timeout if timeout is None else Timeout.of(timeout), cancel)
        return Call(deadline, self._retry, self._on_retry)

    def _body(self, build: Build, request: ChatRequest) -> dict[str, Any]:
        """The body of a chat request, with what the server wants back of its own answers."""
        return build(request, origin=self.base_url, echo=self._dialect_for(request.model).echo)

    def _ask(
        self, build: Build, body: dict[str, Any], call: Call, request: ChatRequest
    ) -> tuple[Reply, Callable[[Any], Any] | None]:
        """Send a chat request; the reply, and how its payloads are read where the answer comes as a call."""
        headers = _checked_headers(request.extra_headers)
        reply, dialect, body = self._post(
            "/chat/completions",
            body,
            call,
            request.model,
            rebuild=lambda dialect: build(request, origin=self.base_url, echo=dialect.echo),
            headers=headers,
            query=request.extra_query,
        )
        if not dialect.answers_by_call(body):
            return reply, None
        with importing:
            from .wire.schema_wish import text_of_call
        return reply, text_of_call

    def _post(
        self,
        path: str,
        body: dict[str, Any],
        call: Call,
        model: str | None,
        *,
        rebuild: Callable[[Dialect], dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> tuple[Reply, Dialect, dict[str, Any]]:
        """Send a body in the server's dialect; what a refusal teaches is tried at once, and kept if it was true.

        Returns the reply, the dialect that it was asked in, and the body before that.
        """
        dialect = known = self._dialect_for(model)
        tried = {known}
        while True:
            adapted, left_out = dialect.adapt(body)
            self._tell(left_out)
            try:
                reply = self._transport.send("POST", path, _encoded(adapted), call, headers=headers, query=query)
            except APIStatusError as error:
                learnt = dialect.learn(error, adapted)
                if learnt is None or learnt in tried or len(tried) > MAX_LESSONS:
                    raise
                tried.add(learnt)
                if rebuild is not None and learnt.echo != dialect.echo:
                    body = rebuild(learnt)
                if learnt.adapt(body)[0] == adapted:
                    raise  # what was learnt changes nothing here
                dialect = learnt
            else:
                if dialect is not known:
                    self._learnt[model or ""] = dialect
                return reply, dialect, body

    def _dialect_for(self, model: str | None) -> Dialect:
        return self._learnt.get(model or "", self._dialect)

    def _tell(self, left_out: tuple[str, ...]) -> None:
        for name in left_out:
            if name not in self._told:
                self._told.add(name)
                log.warning("%s does not take %s; it is not sent", self.provider, name)


MAX_BATCH = 2048
"""Texts in one embeddings request; OpenAI's own limit."""
MIN_BATCH = 8
"""Batches that a server goes on refusing are halved down to this."""
BATCH_MEMORY = 600.0
"""Seconds for which a server's limit on a batch is remembered."""
MAX_LESSONS = 8
"""Times that a request is sent anew in the forms that refusals teach."""


class _Key:
    """The API key, checked, and out of sight."""

    def __init__(self, key: str | Callable[[], str] | None, header: str) -> None:
        self._given = key if callable(key) else _checked_key(key)
        self._name = header
        # With renewed keys, those that other threads may still have under way.
        self._recent: deque[str] = deque([self._given] if isinstance(self._given, str) else [], maxlen=64)
        self.given = self._given is not None

    def __repr__(self) -> str:
        return "<key>"

    def header(self) -> dict[str, str]:
        """The header that carries the key; none without a key."""
        key = _checked_key(self._given()) if callable(self._given) else self._given
        if not key:
            return {}
        if key not in self._recent:
            self._recent.append(key)
        return {self._name: Secret(f"Bearer {key}") if self._name == "Authorization" else key}

    def secrets(self) -> list[str]:
        """The keys that nothing may show."""
        return list(self._recent)


class _EnvironmentKey(Secret):
    """A key that a variable of the environment gave, where a copy of the client finds it again."""

    variable: str


def _key_from(variable: str) -> _EnvironmentKey | None:
    value = os.environ.get(variable)
    if not value:
        return None
    key = _EnvironmentKey(value)
    key.variable = variable
    return key


def _restored_client(cls: type[Client], options: dict[str, Any], variable: str | None) -> Client:
    if variable is not None:
        options["api_key"] = _key_from(variable)
        if options["api_key"] is None:
            raise ConfigurationError(f"{variable} is not set, which had the key of the client in this pickle")
    return cls(**options)


def _check_picklable(function: Callable[[], str]) -> None:
    import pickle

    try:
        pickle.dumps(function)
    except Exception as error:
        raise ConfigurationError(f"api_key is a function that cannot be pickled: {error}") from None


def _secret_option(options: Mapping[str, Any]) -> str | None:
    """The first of a client's options that holds a secret in clear."""
    key, headers, proxies = options.get("api_key"), options["headers"] or {}, options["proxies"] or {}
    held = {
        "api_key": bool(key) and not callable(key),
        "auth": options["auth"] is not None,
        "base_url": "@" in options["base_url"],
        "headers": any(_CREDENTIAL.search(name) for name in headers),
        "proxies": any("@" in proxy for proxy in proxies.values()),
    }
    return next((name for name, holds in held.items() if holds), None)


def _checked_key(key: Any) -> Secret | None:
    """A key that can be sent; the message of one that cannot does not show it."""
    if key is None or key == "":
        return None
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key must be a string or a function that gives one, not {type(key).__name__}")
    if key != key.strip():
        raise ConfigurationError("api_key begins or ends with white space (a newline from a file?): strip it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("api_key has a character that no key has (a space, a control or non-ASCII character)")
    return Secret(key)


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers is a dict of names and values, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"header {name!r} must be a string")
        if not _HEADER_NAME(name):
            raise ConfigurationError(f"header {name!r} has a character that is not allowed in a name")
        if name.lower() in _FRAMING:
            raise ConfigurationError(f"header {name!r} says where a request ends, and is not the caller's to set")
        if "\n" in value or "\r" in value:
            raise ConfigurationError(f"header {name!r} has a line break in it")
        if not _HEADER_VALUE(value):
            raise ConfigurationError(f"header {name!r} has a control character, or one that is not in Latin-1")
    return {name: Secret(value) if _CREDENTIAL.search(name) else value for name, value in headers.items()}


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_FRAMING = {"content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer", "te"}
_CREDENTIAL = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)


def _known_provider(name: str | None, endpoint: Endpoint) -> Provider | None:
    if name is None:
        return provider_for_url(endpoint.host, endpoint.port)
    return PROVIDERS.get(name.lower())


def _azure_endpoint(endpoint: Endpoint, model: str | None) -> Endpoint:
    """A bare Azure address names the resource only: the deployment is the model, unless the new API is meant."""
    root = endpoint.base.removesuffix("/v1")
    if root.count("/") > 2:
        return endpoint
    if "api-version" not in parse_qs(endpoint.query):
        return endpoint._replace(base=f"{root}/openai/v1")
    if not model:
        raise ConfigurationError("Azure with api-version needs model=, the name of the deployment")
    if model in (".", ".."):
        raise ConfigurationError(f"{model!r} cannot be the name of a deployment")
    return endpoint._replace(base=f"{root}/openai/deployments/{quote(model, safe='')}")


def _address(known: Provider) -> str:
    """Where a provider is: as its own environment variable says, else as the table does."""
    if known.name == "ollama" and (host := os.environ.get("OLLAMA_HOST")):
        return _ollama_url(host)
    return known.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT", "")


def _ollama_url(host: str) -> str:
    """``OLLAMA_HOST`` as Ollama reads it: scheme and port may be missing, 0.0.0.0 is this machine."""
    scheme, _, rest = host.rpartition("://")
    name, colon, port = rest.rstrip("/").partition(":")
    return f"{scheme or 'http'}://{'127.0.0.1' if name in ('', '0.0.0.0') else name}:{port if colon else 11434}/v1"


def _several(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for more than one answer."""
    return isinstance(body.get("n"), int) and body["n"] > 1


def _new_id() -> str:
    """Nine letters and digits, the only form of a tool call's id that every server takes."""
    return os.urandom(5).hex()[:9]


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return encode_json(body)
    except UnicodeEncodeError:
        # Half a character, which a model's answer or a file's name may hold.
        with importing:
            from .schema.json_value import to_json_value

        return encode_json(to_json_value(body))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request cannot be written as JSON: {error}") from error


def _typed(request: ChatRequest, response_type: Any, repair: int = 0) -> tuple[Output, ChatRequest]:
    """The type of an answer, and the request that asks for it."""
    with importing:
        from .wire.output import Output

    if repair < 0:
        raise ConfigurationError(f"repair must be 0 or more, not {repair}")
    output = Output.of(response_type, strict=request.strict)
    return output, output.asked(request)


def _drive(stream: ChatStream, sink: Any) -> ChatResponse:
    """Push a stream's events into a sink; a sink that raises ends the stream, one that raises StopStream quietly."""
    with importing:
        from .sinks import StopStream, emitter

    emit = emitter(sink)
    with stream:
        try:
            for event in stream:
                emit(event)
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
    return attrs.evolve(answer, usage=usage, latency_ms=earlier.latency_ms + answer.latency_ms)


def _joined(parts: list[EmbeddingResponse], latency_ms: float) -> EmbeddingResponse:
    if len(parts) == 1:
        return parts[0]
    usage = parts[0].usage
    for part in parts[1:]:
        usage = part.usage + usage if part.usage is not None else usage
    vectors = tuple(vector for part in parts for vector in part.vectors)
    attempts = tuple(attempt for part in parts for attempt in part.attempts)
    return attrs.evolve(parts[-1], vectors=vectors, usage=usage, latency_ms=latency_ms, attempts=attempts)
