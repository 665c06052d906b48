"""Whom a client asks, with which key, and in which dialect: all that is behind its face."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from . import __version__
from ._imports import importing
from ._json import encode_json
from ._log import log_as_environment_says
from ._misuse import NamedOptions, unknown_fields
from .cancel import CancelToken
from .credentials import (
    ApiKey,
    EnvironmentKey,
    Key,
    Secrets,
    URLObject,
    check_picklable,
    checked_headers,
    key_from,
    mask_fields,
    masked_options,
    masked_url,
    secret_option,
    secrets_in_auth,
    secrets_in_headers,
    secrets_in_query,
)
from .errors import APIStatusError, ConfigurationError, NotFoundError
from .hooks import Hooks, OnError, OnEvent, OnRequest, OnResponse, OnRetry, Operation
from .limits.current import in_force
from .providers import PROVIDERS, azure_base_url, find_provider, refuse_provider
from .redaction import masked
from .schema.text import text_of
from .timeouts import Deadline, Timeout
from .transport import Call, Endpoint, Reply, Settings, Transport
from .transport.transport import MAX_RESPONSE_BYTES
from .wire.dialect import GENERIC, Dialect
from .wire.parse import decode_body
from .wire.plain import label
from .wire.prices import Prices, check_prices, price_of
from .wire.reasoning import InlineThink, Tag, ThinkOptions, tag_pairs
from .wire.request import NO_MODEL, ChatRequest, build_body
from .wire.response import CallInfo
from .wire.response_format import SchemaAs
from .wire.retry import RetryPolicy
from .wire.sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from typing import Self

    import requests

    from .limits.budget import Budget, BudgetPermit
    from .limits.limits import Limits, Permit
    from .wire.models import Model

    Build = Callable[..., dict[str, Any]]
    DialectOrFile = Dialect | Mapping[str, Any] | str | os.PathLike[str]

log = logging.getLogger("openai_compat")

Prompt = str | ChatRequest | Sequence[Mapping[str, Any]]

_REQUEST_FIELDS = frozenset(field.name for field in attrs.fields(ChatRequest))
_CALL_OPTIONS = frozenset({"response_type", "repair", "sink", "cancel", "timeout", "think_opened"})


class BaseClient(NamedOptions):
    """The server, the key, the settings, and what was learnt of the server's dialect; ``Client`` asks through it."""

    _budget: Budget | None = None
    _prices: Prices | None = None
    _meant: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_REQUEST_FIELDS | _CALL_OPTIONS, "chat() takes it"),
        **dict.fromkeys(("default_headers", "organization", "project"), "did you mean headers?"),
        **dict.fromkeys(("api_version", "default_query"), "the query of base_url is sent with every request"),
        **dict.fromkeys(("url", "api_base", "endpoint", "azure_endpoint"), "did you mean base_url?"),
        **dict.fromkeys(("key", "token"), "did you mean api_key?"),
        "http_client": "did you mean session?",
    }

    def __init__(
        self,
        base_url: str | URLObject,
        api_key: ApiKey = None,
        *,
        provider: str | None = None,
        model: str | None = None,
        timeout: Timeout | float | None = Timeout(),  # noqa: B008 - a frozen value
        max_retries: int = 2,
        retry: RetryPolicy | None = None,
        on_request: OnRequest | Iterable[OnRequest] | None = None,
        on_response: OnResponse | Iterable[OnResponse] | None = None,
        on_retry: OnRetry | Iterable[OnRetry] | None = None,
        on_event: OnEvent | Iterable[OnEvent] | None = None,
        on_error: OnError | Iterable[OnError] | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
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
        dialect: DialectOrFile | None = None,
    ) -> None:
        log_as_environment_says()
        # What may be secret is out of sight from here on: the frames of an error may be shown with it.
        api_key, headers, proxies, auth = masked(api_key), masked(headers), masked(proxies), masked(auth)
        base_url = masked_url(base_url)
        refuse_provider(base_url)
        options = {name: value for name, value in locals().items() if name != "self"}
        if truncated not in ("return", "raise"):
            raise ConfigurationError(f"truncated must be 'return' or 'raise', not {truncated!r}")
        if inline_think not in ("leading", "all", "keep"):
            raise ConfigurationError(f"inline_think must be 'leading', 'all' or 'keep', not {inline_think!r}")
        endpoint = Endpoint.parse(base_url, api_path)
        known = find_provider(provider, endpoint.host, endpoint.port)
        if known is not None and endpoint.guessed and known.api_path is not None:
            endpoint = Endpoint.parse(base_url, known.api_path)
        if known is PROVIDERS["azure"]:
            endpoint = endpoint._replace(base=azure_base_url(endpoint.base, endpoint.query, model))
        self.provider: str = known.name if known else label(provider or endpoint.host, "provider")
        self.model: str | None = label(model, "model") if model else None
        self.timeout: Timeout = Timeout.of(timeout)
        self._dialect = known.dialect if known else GENERIC
        if known is not None and known.local and provider is None:
            self._dialect = self._dialect.guessed()
        if dialect is not None:
            with importing:
                from .probe.saved import dialect_from

            self._dialect = options["dialect"] = dialect_from(dialect)
        self._tokenizer = self._dialect.tokenizer
        self._learnt: dict[str, Dialect] = {}
        self._batch_limits: dict[str, tuple[int, float]] = {}
        self._told: set[str] = set()
        self._first_models: dict[bool, str] = {}
        self._retry = RetryPolicy(max_retries=max_retries) if retry is None else retry
        self.hooks: Hooks = Hooks(
            on_request=on_request, on_response=on_response, on_retry=on_retry, on_event=on_event, on_error=on_error
        )
        if limits is not None and not hasattr(limits, "permit"):
            raise ConfigurationError(f"limits must be a Limits, not {type(limits).__name__}")
        self._limits = limits
        if budget is not None and not hasattr(budget, "spent"):
            raise ConfigurationError(f"budget must be a Budget, not {type(budget).__name__}")
        self._budget = budget
        if prices is not None:
            check_prices(prices)
        self._prices = prices
        self._strict = truncated == "raise"
        self._think = ThinkOptions(inline_think, None if think_tags is None else tag_pairs(think_tags))
        self._max_event_bytes = max_event_bytes
        self._secrets = Secrets()
        self._key = Key(api_key, self._dialect.key_header, self._secrets)
        headers = checked_headers(headers or {})
        self._secrets.keep([*secrets_in_headers(headers), *secrets_in_auth(auth)])
        self._picks_model = endpoint.loopback and auth is None and not self._key.given
        self._transport = Transport(
            endpoint,
            provider=self.provider,
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Accept-Encoding": "gzip, deflate",
                "User-Agent": f"openai_compat/{__version__}",
                **headers,
            },
            auth=self._key.header,
            has_key=self._key.given,
            secrets=self._secrets,
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
        self._options = {**options, "headers": headers}

    @classmethod
    def for_provider(cls, name: str, api_key: ApiKey = None, **options: Any) -> Self:
        """A client for a provider of the table, its key from the provider's environment variable.

        Args:
            name: ``"openai"``, ``"ollama"``, ... : see ``providers.PROVIDERS``.
            api_key: in place of the variable's.
            options: as for ``Client``; ``base_url`` in place of the table's.

        Raises:
            ConfigurationError: an unknown provider, or no key where one is needed.
        """
        with importing:
            from .server_options import provider_server

        api_key, options = masked(api_key), masked_options(options)
        return cls(**provider_server(name, {"api_key": api_key, **options}))

    @classmethod
    def from_env(cls, *, local: bool = False, **options: Any) -> Self:
        """A client for whatever the environment names.

        Read in this order: ``OPENAI_BASE_URL`` (with the key of the provider there, else ``OPENAI_API_KEY``), the key
        variable of a known provider, and ``OLLAMA_HOST``. ``OPENAI_MODEL`` is the model for calls that name none.

        Args:
            local: if the environment names no server, take the first that lists a model on a well-known port of this
                machine: Ollama's, LM Studio's and so on. Each is asked once and gets no key, nor ``headers=`` or
                ``session=``, which may hold one. The first model that is
                not for embeddings is the default. Any user of this machine can listen on these ports.
            options: as for ``Client``, in place of what the environment says.

        Raises:
            ConfigurationError: the environment names no server, and with ``local`` none is found either.
        """
        with importing:
            from .server_options import environment_server, local_server, no_server

        options = masked_options(options)
        found = environment_server(options) or (local_server(options, cls) if local else None)
        return cls(**(found or no_server(looked=local)))

    def __repr__(self) -> str:
        model = f", model={self.model!r}" if self.model else ""
        return f"{type(self).__name__}({self.base_url!r}, provider={self.provider!r}{model})"

    @property
    def base_url(self) -> str:
        """Where the API is, without a trailing slash."""
        return self._transport.endpoint.base

    def __copy__(self) -> Self:
        twin = type(self)(**self._options)
        twin.hooks = self.hooks.copy()
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has the settings, and no connection; the key only where it may be shown.

        Of the hooks it has those that the client was made with, and none that were added later.

        Raises:
            ConfigurationError: a secret would stand in the pickle in clear, without ``pickle_key``.
        """
        options = dict(self._options)
        key = options["api_key"]
        variable = key.variable if isinstance(key, EnvironmentKey) else None
        if variable:
            del options["api_key"]
        if callable(options.get("api_key")):
            check_picklable(options["api_key"])
        secret = secret_option(options)
        if secret and not options["pickle_key"]:
            raise ConfigurationError(
                f"{secret} would stand in the pickle in clear: take the key from the environment (Client.from_env, "
                "Client.for_provider) or from a function, or give pickle_key=True"
            )
        return _restored_client, (type(self), options, variable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections; a session that you gave stays open."""
        self._transport.close()

    def _request(self, prompt: Prompt | None, fields: dict[str, Any]) -> ChatRequest:
        mask_fields(fields)
        unknown = fields.keys() - _REQUEST_FIELDS
        if unknown:
            fields.update({name: masked(fields[name]) for name in unknown})
            of_the_client = dict.fromkeys(self._options.keys() - {"headers"}, "Client(...) takes it")
            told = unknown_fields("a chat request", unknown, _REQUEST_FIELDS | _CALL_OPTIONS, of_the_client)
            raise TypeError(f"{told}; what only your server knows goes into extra_body")
        if fields.get("tools"):
            with importing:
                from .tools.tool import tool_specs

            fields = {**fields, "tools": tool_specs(fields["tools"])}
        if isinstance(prompt, ChatRequest):
            request = attrs.evolve(prompt, **fields) if fields else prompt
        elif prompt is None or (said := text_of(prompt)) is not None:
            request = ChatRequest(None if prompt is None else said, **{"model": self.model, **fields})
        elif isinstance(prompt, (Mapping, bytes, bytearray)) or not isinstance(prompt, Iterable):
            raise ConfigurationError(
                f"a prompt is a string, a ChatRequest or a list of messages, not {type(prompt).__name__}"
            )
        else:
            request = ChatRequest(messages=prompt, **fields)
        if request.model or not self.model:
            return request
        return attrs.evolve(request, model=self.model)

    def _with_model(self, request: ChatRequest, deadline: Deadline) -> ChatRequest:
        """The request with a model: a server on this machine that asks for no key is asked for its first."""
        if request.model or not self._picks_model:
            return request
        # What cannot be asked is refused before anything is sent.
        self._body(build_body, attrs.evolve(request, model="any"))
        return attrs.evolve(request, model=self._first_model(deadline))

    def _first_model(self, deadline: Deadline, *, embeds: bool = False) -> str:
        """The first model that the server lists and whose name fits; asked for once.

        Raises:
            ConfigurationError: it lists none.
        """
        if embeds not in self._first_models:
            with importing:
                from .wire.models import first_model
            try:
                name = first_model(self._models(deadline), embeds=embeds)
            except NotFoundError as error:
                raise ConfigurationError(f"{NO_MODEL}; {self.provider} lists none") from error
            if name is None:
                raise ConfigurationError(f"{self.provider} at {self.base_url} has no model yet: load one there")
            self._first_models[embeds] = name
        return self._first_models[embeds]

    def _models(self, deadline: Deadline) -> tuple[Model, ...]:
        with importing:
            from .wire.models import parse_models

        call = self._call(deadline, info=CallInfo(new_id(), self.provider, "", self.base_url), operation="models")

        def attempt() -> tuple[Model, ...]:
            reply = self._transport.send("GET", "/models", None, call)
            # In no variable, for the frame may be shown with an error, and the body may echo a key.
            return parse_models(
                decode_body(reply.read(), provider=self.provider, request_id=reply.request_id, secrets=self._secrets()),
                provider=self.provider,
            )

        return call.run(attempt)

    def _call_info(self, request: ChatRequest) -> CallInfo:
        return self._info(request.model or "")

    def _info(self, model: str) -> CallInfo:
        return CallInfo(new_id(), self.provider, model, self.base_url, price_of(self._prices, model))

    def _deadline(self, timeout: Timeout | float | None, cancel: CancelToken | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else Timeout.of(timeout), cancel)

    def _call(
        self,
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
        *,
        info: CallInfo,
        operation: Operation = "chat",
    ) -> Call:
        """A call; one with a body keeps to the client's limits, and to its budgets."""
        call = Call(deadline, self._retry, self.hooks, info=info, operation=operation, secrets=self._secrets)
        if body is not None:
            call.permit = self._permit(body, call)
        return call

    def _budgets(self) -> tuple[Budget, ...]:
        return in_force.get() if self._budget is None else (self._budget, *in_force.get())

    def _refuse_budgets(self) -> None:
        """Nothing stops what a provider has taken: a batch keeps to no budget."""
        for each in self._budgets():
            if each.usd is not None or each.tokens is not None:
                raise ConfigurationError(
                    "a provider's batch keeps to no budget, as nothing stops it once it is submitted: submit it with a "
                    "client and in a block without one"
                )

    def _permit(self, body: Mapping[str, Any], call: Call) -> Permit | BudgetPermit | None:
        """What a call needs for each of its tries: room in the client's limits, and in all budgets."""
        permit = None if self._limits is None else self._limits.permit(body, call.deadline)
        budgets = self._budgets()
        if not budgets:
            return permit
        with importing:
            from .limits.budget import BudgetPermit

        return BudgetPermit(budgets, body, call, self._info(str(body.get("model") or "")), permit)

    def _with_retries(self, max_retries: int) -> Self:
        """This client, with its connections and all that it learns, and so many further tries."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._retry = attrs.evolve(self._retry, max_retries=max_retries)
        return twin

    def _beside(self, path: str, body: Mapping[str, Any], deadline: Deadline) -> Any:
        """Ask the server at a path that is not one of the API's; the decoded reply."""
        call = self._call(deadline, info=self._info(str(body.get("model") or "")), operation="tokens")

        def attempt() -> Any:
            reply = self._transport.send("POST", path, _encoded(dict(body)), call, at_root=True)
            return decode_body(
                reply.read(), provider=self.provider, request_id=reply.request_id, secrets=self._secrets()
            )

        return call.run(attempt)

    def _body(self, build: Build, request: ChatRequest) -> dict[str, Any]:
        """The body of a chat request, with what the server wants back of its own answers."""
        return self._body_in(self._dialect_for(request.model), build, request)

    def _first_body(self, build: Build, request: ChatRequest) -> dict[str, Any]:
        """The same as if nothing had been learnt of the server yet: a later run begins like that."""
        return self._body_in(self._dialect, build, request)

    def _body_in(self, dialect: Dialect, build: Build, request: ChatRequest) -> dict[str, Any]:
        return build(request, origin=self.base_url, echo=dialect.echo, constraints=dialect.constraints)

    def _ask(
        self, build: Build, body: dict[str, Any], call: Call, request: ChatRequest
    ) -> tuple[Reply, Callable[[Any], Any] | None]:
        """Send a chat request; the reply, and how its payloads are read where the answer comes as a call."""
        headers, query = checked_headers(request.extra_headers), masked(request.extra_query)
        if headers or query:
            self._secrets.keep_a_while([*secrets_in_headers(headers), *secrets_in_query(query)])
        reply, dialect, body = self._post(
            "/chat/completions",
            body,
            call,
            request.model,
            rebuild=lambda dialect: build(
                request, origin=self.base_url, echo=dialect.echo, constraints=dialect.constraints
            ),
            schema_as=request.response_mode,
            headers=headers,
            query=query,
        )
        if not dialect.answers_by_call(body):
            return reply, None
        with importing:
            from .wire.response_format import tool_call_as_text
        return reply, tool_call_as_text

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
        schema_as: SchemaAs | None = None,
    ) -> tuple[Reply, Dialect, dict[str, Any]]:
        """Send a body in the server's dialect; what a refusal teaches is tried at once, and kept if it was true.

        With ``schema_as``, a schema is asked for in that way and no other.
        Returns the reply, the dialect that it was asked in, and the body before that.
        """
        known = self._dialect_for(model)
        dialect = known if schema_as is None else known.asking(schema_as)
        tried = {dialect}
        while True:
            adapted, left_out = dialect.adapt(body)
            self._tell(left_out)
            call.body = adapted
            try:
                reply = self._transport.send("POST", path, _encoded(adapted), call, headers=headers, query=query)
            except APIStatusError as error:
                learnt = dialect.learn(error, adapted)
                if learnt is None or learnt in tried or len(tried) > MAX_LESSONS:
                    raise
                if schema_as is not None and learnt.schema_as != schema_as:
                    raise
                tried.add(learnt)
                if rebuild is not None and learnt.echo != dialect.echo:
                    body = rebuild(learnt)
                if learnt.adapt(body)[0] == adapted:
                    raise  # what was learnt changes nothing here
                call.again(error, "adapted")
                dialect = learnt
            else:
                if (learnt := dialect.asking(known.schema_as) if schema_as else dialect) != known:
                    self._learnt[model or ""] = learnt
                return reply, dialect, body

    def _dialect_for(self, model: str | None) -> Dialect:
        return self._learnt.get(model or "", self._dialect)

    def _tell(self, left_out: tuple[str, ...]) -> None:
        for name in left_out:
            if name not in self._told:
                self._told.add(name)
                log.warning("%s does not take %s; it is not sent", self.provider, name)


MAX_LESSONS = 8
"""Times that a request is sent anew in the forms that refusals teach."""


def _restored_client(cls: type[BaseClient], options: dict[str, Any], variable: str | None) -> BaseClient:
    if variable is not None:
        options["api_key"] = key_from(variable)
        if options["api_key"] is None:
            raise ConfigurationError(f"{variable} is not set, which had the key of the client in this pickle")
    return cls(**options)


def new_id() -> str:
    """Nine letters and digits, the only form of a tool call's id that every server takes."""
    return os.urandom(5).hex()[:9]


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return encode_json(body)
    except (UnicodeEncodeError, TypeError):
        # Half a character, which a model's answer or a file's name may hold; or what was put in later.
        with importing:
            from .schema.json_value import to_json_value

        try:
            return encode_json(to_json_value(body))
        except TypeError as error:
            raise ConfigurationError(f"the request cannot be written as JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request cannot be written as JSON: {error}") from error
