"""Endpoints that stand in for each other, with a client's face."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import attrs

from ._log import logger
from .breaker import Breaker, Fault, State, fault_of
from .cancel import CancelToken
from .client import Client
from .credentials import Secrets
from .errors import APIConnectionError, APIError, Cancelled, ConfigurationError, OpenAICompatError
from .hook_events import ErrorEvent, RetryEvent
from .hooks import Hooks
from .stream import ChatStream, Reading, Source
from .timeouts import Deadline, Timeout
from .wire.embeddings import EmbeddingResponse
from .wire.models import Model
from .wire.request import ChatRequest
from .wire.response import CallInfo, ChatResponse, StreamEvent
from .wire.retry import Attempt

if TYPE_CHECKING:
    from typing import Self, Unpack

    from ._base_client import Prompt
    from .batch.files import FileAnswer, FileRequest
    from .params import EmbedOptions
    from .probe.report import Probe
    from .sinks import Sink
    from .tokens import TokenCount
    from .wire.output import Output

log: logging.Logger = logger("fallback")

T = TypeVar("T")
S = TypeVar("S", bound=ChatStream)
F = TypeVar("F", bound="FallbackClient")

Member = Client | tuple[Client, Mapping[str, str]]
"""A client, or with it what the models are called there."""


@attrs.frozen(kw_only=True)
class EndpointStatus:
    """How it is with one endpoint of a ``FallbackClient``, in this process.

    Args:
        base_url: the endpoint.
        provider: its name.
        state: of its circuit breaker: ``closed`` is good; ``open`` is not asked; ``half-open`` is asked once, to see.
        failures: calls that failed since the last that did not.
        outstanding: calls under way.
    """

    base_url: str
    provider: str
    state: State
    failures: int
    outstanding: int


class FallbackClient(Client):
    """A client whose calls go to the first of several endpoints that is well; ``Client.fallback`` makes one.

    ``base_url``, ``provider`` and settings that a whole client has are those of the first endpoint.

    Args:
        clients: see ``Client.fallback``, as are the others.
        clock: seconds, as of ``time.monotonic``.
    """

    def __init__(
        self,
        clients: Iterable[Member | list[Member]],
        *,
        balance: bool = False,
        failures: int = 3,
        cool_down: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # What a plain client begins with is of one server: its address, its key, its connections.
        self._members = tuple(_members(clients, balance=balance))
        if not self._members:
            raise ConfigurationError("fallback needs at least one client")
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise ConfigurationError(f"failures must be a whole number from 1, not {failures!r}")
        if isinstance(cool_down, bool) or not isinstance(cool_down, (int, float)) or not cool_down > 0:
            raise ConfigurationError(f"cool_down must be a positive number of seconds, not {cool_down!r}")
        self._settings: dict[str, Any] = {"failures": failures, "cool_down": cool_down, "clock": clock}
        self._options = {"clients": self._members, "balance": balance, **self._settings}
        self._by_process: dict[int, _Endpoints] = {}
        first = self._members[0].client
        self.provider: str = first.provider
        self.timeout: Timeout = first.timeout
        self.model: str | None = None
        self._picks_model = True
        self._think = first._think
        self.hooks: Hooks = Hooks()
        self._secrets = _AllSecrets([member.client for member in self._members])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(member.client) for member in self._members)})"

    @property
    def base_url(self) -> str:
        """Where the first endpoint is."""
        return self._members[0].client.base_url

    @property
    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """How it is with each, in the order that they were given in."""
        return self._endpoints.status()

    @property
    def _endpoints(self) -> _Endpoints:
        """This process's: a forked child has none of its parent's calls, and of its locks only copies."""
        process = os.getpid()
        return self._by_process.get(process) or self._by_process.setdefault(
            process, _Endpoints(self._members, **self._settings)
        )

    def __copy__(self) -> Self:
        return self._twin(self._members)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._twin([member._replace(client=member.client.__deepcopy__(memo)) for member in self._members])

    def _twin(self, members: Sequence[_Place]) -> Self:
        twin = _restored(type(self), members, self._settings)
        twin.hooks = self.hooks.copy()
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has the clients, under the same conditions as theirs, and no hooks of its own."""
        return _restored, (type(self), self._members, self._settings)

    def close(self) -> None:
        """Close the connections of all clients."""
        for member in self._members:
            member.client.close()

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        model: str | None = None,
        timeout: Timeout | float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> EmbeddingResponse:
        """As ``Client.embed``; all vectors of a call are of one endpoint.

        Vectors of different models cannot be compared: each endpoint has to have the same one.
        """
        return self._in_turn(
            lambda turns: turns.client.embed(texts, model=turns.model(model), timeout=turns.timeout, **options),
            timeout,
            options.get("cancel"),
        )

    def count_tokens(self, prompt: Prompt, **options: Any) -> TokenCount:
        """As ``Client.count_tokens``, by the first endpoint."""
        return self._members[0].client.count_tokens(prompt, **options)

    def probe(self, **options: Any) -> Probe:
        """As ``Client.probe``, of the first endpoint."""
        return self._members[0].client.probe(**options)

    def models(self, *, cancel: CancelToken | None = None, timeout: Timeout | float | None = None) -> tuple[Model, ...]:
        """The models that the endpoint lists whose turn it is."""
        return self._in_turn(lambda turns: turns.client.models(cancel=cancel, timeout=turns.timeout), timeout, cancel)

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
        options: dict[str, Any] = {"cancel": cancel, "think_opened": think_opened, "output": output}
        if sink is not None:
            return super()._chat(request, sink=sink, timeout=timeout, **options)
        return self._in_turn(
            lambda turns: turns.client._chat(turns.request(request), sink=None, timeout=turns.timeout, **options),
            timeout,
            cancel,
            _who_answered(request),
        )

    def _in_turn(
        self,
        ask: Callable[[_Turns], T],
        timeout: Timeout | float | None,
        cancel: CancelToken | None,
        origin: str = "",
    ) -> T:
        """Ask one endpoint after the other, until one answers."""
        with _Turns(self._endpoints, self.hooks, timeout, cancel, origin) as turns:
            while True:
                try:
                    answer = ask(turns)
                except APIError as error:
                    if not turns.next_after(error):
                        raise
                except Cancelled as error:
                    error.attempts = turns.attempts(error.attempts)
                    raise
                else:
                    turns.answered()
                    return turns.whole(answer)

    def _stream(
        self,
        kind: type[S],
        request: ChatRequest,
        cancel: CancelToken | None,
        timeout: Timeout | float | None,
        think_opened: bool,
        output: Output | None,
    ) -> S:
        stop = CancelToken()

        def source(client: Client, asked: ChatRequest, limit: Timeout | float | None) -> Source:
            return client._source(asked, cancel, stop, limit, think_opened)

        turns = _Turns(self._endpoints, self.hooks, timeout, stop, _who_answered(request))
        # What is known of a stream before it is read, and what no endpoint could be asked, is found with the first.
        begun = source(self._members[0].client, self._with_model(request, turns.deadline), timeout)
        return kind(_FallbackReading(begun, turns, request, source, stop=stop, cancel=cancel, output=output))

    def submit_batch(self, *_: Any, **__: Any) -> Any:
        """Refused: a batch stays with one provider."""
        raise ConfigurationError("a batch stays with one provider: submit it to one of the clients")

    submit_file = submit_batch

    def _ask_line(self, line: FileRequest, token: CancelToken, *, timeout: Timeout | float | None) -> FileAnswer:
        def ask(turns: _Turns) -> FileAnswer:
            model = turns.model(line.body.get("model"))
            here = attrs.evolve(line, body={**line.body, "model": model}) if model else line
            return turns.client._ask_line(here, token, timeout=turns.timeout)

        return self._in_turn(ask, timeout, token)

    def _line_body(self, line: FileRequest) -> Mapping[str, Any]:
        return self._members[0].client._line_body(line)

    def _first_model(self, deadline: Deadline, *, embeds: bool = False) -> str:
        first = self._members[0].client
        return first.model or first._first_model(deadline, embeds=embeds)

    def _batch_size(self, given: int | None, model: str) -> int:
        return self._members[0].client._batch_size(given, model)

    def _with_model(self, request: ChatRequest, deadline: Deadline) -> ChatRequest:
        """The request as it is known by, whoever answers it."""
        return request if request.model else attrs.evolve(request, model=self._members[0].client.model or "default")

    def _body(self, build: Callable[..., dict[str, Any]], request: ChatRequest) -> dict[str, Any]:
        return self._members[0].client._body(build, request)

    def _first_body(self, build: Callable[..., dict[str, Any]], request: ChatRequest) -> dict[str, Any]:
        return self._members[0].client._first_body(build, request)

    def _call_info(self, request: ChatRequest) -> CallInfo:
        # Of an answer that was kept: who gave it is not known.
        return super()._call_info(request)._replace(provider="", origin="")


class _Place(NamedTuple):
    """A client, what its server calls the models, and its place in the order; those of one place share the calls."""

    client: Client
    models: Mapping[str, str]
    rank: int


def _members(clients: Iterable[Member | list[Member]], *, balance: bool) -> Iterator[_Place]:
    for rank, given in enumerate(clients):
        for one in given if isinstance(given, list) else [given]:
            client, models = one if isinstance(one, tuple) and len(one) == 2 else (one, {})
            if not isinstance(client, Client) or not isinstance(models, Mapping):
                raise ConfigurationError(
                    "fallback takes clients, (client, {model: its name there}), and lists of equal ones, "
                    f"not {type(one).__name__}"
                )
            if isinstance(client, FallbackClient):
                raise ConfigurationError("a fallback within a fallback: put its clients in the list, as in [[a, b], c]")
            yield _Place(client, dict(models), 0 if balance else rank)


def _restored(cls: type[F], members: Sequence[_Place], settings: dict[str, Any]) -> F:
    ranks: dict[int, list[Member]] = {}
    for client, models, rank in members:
        ranks.setdefault(rank, []).append((client, models))
    return cls(ranks.values(), **settings)


class _AllSecrets(Secrets):
    """The secrets of all clients."""

    def __init__(self, clients: Sequence[Client]) -> None:
        super().__init__()
        self._clients = clients

    def __call__(self) -> tuple[str, ...]:
        return tuple(secret for client in self._clients for secret in client._secrets())


def _who_answered(request: ChatRequest) -> str:
    """The server that gave the last answer of a history; it has the rest in its cache, and wants its fields back."""
    origins = (getattr(message, "origin", "") for message in reversed(request.messages))
    return next(filter(None, origins), "")


class _Endpoint:
    """A member, and how it is with it."""

    def __init__(self, member: _Place, breaker: Breaker) -> None:
        self.client, self.models, self.rank = member
        self.breaker = breaker
        self.outstanding = 0
        self.last_asked = 0
        self.last_error = ""


class _Turn(NamedTuple):
    """An endpoint's turn in a call; whether it is a probe, and how many further tries it has."""

    endpoint: _Endpoint
    probe: bool
    retries: int = 0


class _Endpoints:
    """What the calls of a process know of the endpoints."""

    def __init__(
        self, members: Sequence[_Place], *, failures: int, cool_down: float, clock: Callable[[], float]
    ) -> None:
        self.all = [
            _Endpoint(member, Breaker(failures=failures, cool_down=cool_down, clock=clock)) for member in members
        ]
        self._locks: dict[int, threading.Condition] = {}
        self._asked = 0

    @property
    def _lock(self) -> threading.Condition:
        """This process's own, for streams of a parent; told when a turn is over.

        Reentrant, as the garbage collector may end a stream at any place.
        """
        return self._locks.setdefault(os.getpid(), threading.Condition(threading.RLock()))

    def take(self, asked: Collection[_Endpoint], origin: str, deadline: Deadline) -> _Turn | None:
        """The best one that was not asked yet; ``origin`` is preferred.

        Where none is ready, one is tried before its time, for there is nothing to lose; where others are trying, what
        they find is waited for. None where nothing is left to ask.

        Raises:
            Cancelled: the call was ended.
        """
        awaited: dict[_Endpoint, int] = {}
        with self._lock:
            while True:
                left = [one for one in self.all if one not in asked]
                # One whose probe failed meanwhile is as good as asked.
                left = [one for one in left if awaited.get(one, one.breaker.opened) == one.breaker.opened]
                ready = [one for one in left if one.breaker.ready] or [one for one in left if not one.breaker.probed]
                if ready:
                    return self._turn(ready, origin)
                if not left or deadline.left == 0.0:
                    return None
                awaited.update((one, one.breaker.opened) for one in left)
                if deadline.cancel is not None:
                    deadline.cancel.raise_if_cancelled()
                self._lock.wait(0.05)

    def _turn(self, ready: list[_Endpoint], origin: str) -> _Turn:
        chosen = min(
            ready,
            key=lambda one: (
                one.breaker.resting,
                bool(origin) and one.client.base_url != origin,
                one.rank,
                one.outstanding,
                one.last_asked,
            ),
        )
        self._asked += 1
        chosen.last_asked = self._asked
        chosen.outstanding += 1
        return _Turn(chosen, chosen.breaker.begin())

    def take_again(self, endpoint: _Endpoint, deadline: Deadline) -> _Turn | None:
        """A second turn for one that has failed in this call."""
        turn = self.take([one for one in self.all if one is not endpoint], "", deadline)
        return turn and turn._replace(retries=endpoint.client._retry.max_retries - 1)

    def answered(self, turn: _Turn) -> None:
        """Its endpoint works."""
        breaker = turn.endpoint.breaker
        with self._lock:
            closes = turn.probe and breaker.state != "closed"
            breaker.succeeded(probe=turn.probe)
        if closes:
            log.info("%s answers again", turn.endpoint.client.base_url)

    def failed(self, turn: _Turn, fault: Fault, error: APIError) -> None:
        """Its endpoint does not."""
        endpoint = turn.endpoint
        with self._lock:
            endpoint.last_error = str(error)
            opens = endpoint.breaker.failed(fault, error.retry_after, probe=turn.probe)
            left = endpoint.breaker.left
        if opens:
            log.warning("%s is not asked for %.0f s, after: %s", endpoint.client.base_url, left, error)

    def end(self, turn: _Turn) -> None:
        """The turn is over."""
        with self._lock:
            turn.endpoint.outstanding -= 1
            turn.endpoint.breaker.end(probe=turn.probe)
            self._lock.notify_all()

    def none_ready(self) -> APIConnectionError:
        """What to raise where others have found that no endpoint answers."""
        with self._lock:
            told = "; ".join(f"{one.client.base_url}: {one.last_error}" for one in self.all)
            soonest = min(one.breaker.left for one in self.all)
        return APIConnectionError(
            f"no endpoint answers ({told})",
            provider=self.all[0].client.provider,
            retryable=True,
            retry_after=soonest or None,
        )

    def status(self) -> tuple[EndpointStatus, ...]:
        with self._lock:
            return tuple(
                EndpointStatus(
                    base_url=one.client.base_url,
                    provider=one.client.provider,
                    state=one.breaker.state,
                    failures=one.breaker.failures,
                    outstanding=one.outstanding,
                )
                for one in self.all
            )


class _Turns:
    """One call of the user's: the endpoints that were asked so far, and the one whose turn it is.

    A context manager, in which a turn is under way.
    """

    def __init__(
        self,
        endpoints: _Endpoints,
        hooks: Hooks,
        timeout: Timeout | float | None,
        cancel: CancelToken | None,
        origin: str,
    ) -> None:
        self.hooks = hooks
        self._failure: ErrorEvent | None = None
        self._given = None if timeout is None else Timeout.of(timeout)
        self.deadline = Deadline(self._given or Timeout(), cancel)
        self._endpoints = endpoints
        self._origin = origin
        self._asked: list[_Endpoint] = []
        self._told: list[str] = []
        self._attempts: tuple[Attempt, ...] = ()
        self._began = self.deadline.started
        self._turn: _Turn | None = None
        self._delays: dict[_Endpoint, float] = {}
        self._last = False
        self._answered = False
        self._recorded = False

    def __enter__(self) -> Self:
        if not self._begin():
            error = self._endpoints.none_ready()
            seconds = self.deadline.elapsed_ms / 1000
            event = ErrorEvent(call=CallInfo(), operation="chat", number=1, seconds=seconds, error=error, attempts=())
            self.hooks.tell(self.hooks.on_error, event)
            raise error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        if self._failure is not None:
            self.hooks.tell(self.hooks.on_error, self._failure)
            self._failure = None

    def _begin(self) -> bool:
        try:
            turn = self._turn = self._endpoints.take(self._asked, self._origin, self.deadline)
        except Cancelled as error:
            error.attempts = self._attempts
            raise
        return turn is not None and self._begun(turn)

    def _begin_again(self) -> bool:
        """Where all have failed, the one that may be tried again soonest has the rest of its tries."""
        if self._last or not self._delays:
            return False
        self._last = True
        endpoint, delay = min(self._delays.items(), key=lambda item: item[1])
        left = self.deadline.left
        if left is not None and left <= delay:
            return False
        try:
            self.deadline.sleep(delay)
            turn = self._turn = self._endpoints.take_again(endpoint, self.deadline)
        except Cancelled as error:
            error.attempts = self._attempts
            raise
        return turn is not None and self._begun(turn)

    def _begun(self, turn: _Turn) -> bool:
        self._asked.append(turn.endpoint)
        self._recorded = False
        self._began = time.monotonic()
        return True

    def _end(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            self._endpoints.end(turn)

    @property
    def _now(self) -> _Turn:
        assert self._turn is not None
        return self._turn

    @property
    def watched(self) -> bool:
        """Whether an endpoint's client has a hook that hears of a stream's events."""
        return any(one.client.hooks.on_event for one in self._endpoints.all)

    @property
    def client(self) -> Client:
        """Who is asked: once, as long as there are others, for then there is nothing to wait for."""
        client = self._now.endpoint.client._with_retries(self._now.retries)
        if self.hooks:
            client.hooks = client.hooks.joined(self.hooks, on_error=self._note_failure)
        return client

    def _note_failure(self, event: ErrorEvent) -> None:
        """A call of an endpoint's has failed: whether the whole has is not known yet."""
        self._failure = event

    @property
    def timeout(self) -> Timeout | None:
        """What is left of the time that the call was given; None: what the client has."""
        left = self.deadline.left
        return self._given if self._given is None or left is None else attrs.evolve(self._given, total=left or 1e-3)

    def model(self, name: str | None) -> str | None:
        """What a model is called here."""
        return name and self._now.endpoint.models.get(name, name)

    def request(self, request: ChatRequest) -> ChatRequest:
        """A request with the model of this endpoint."""
        name = self.model(request.model)
        client = self._now.endpoint.client
        return client._request(request if name == request.model else attrs.evolve(request, model=name), {})

    def answered(self) -> None:
        """The endpoint has begun to answer: no other one is asked."""
        self._answered = True
        self._endpoints.answered(self._now)

    def next_after(self, error: APIError) -> bool:
        """Whether it is another's turn after an error; if not, the error gets the record of all."""
        turn = self._now
        fault = fault_of(error)
        error.attempts = self._attempts = self.attempts(error.attempts)
        self._recorded = True
        if fault in ("caller", "unable"):
            self._endpoints.answered(turn)
        else:
            self._endpoints.failed(turn, fault, error)
            delay = turn.endpoint.client._retry.delay(0, error, random.random())
            if delay is not None:
                self._delays[turn.endpoint] = delay
        self._end()
        ends = self._answered or fault == "caller" or self.deadline.left == 0.0
        if ends or not (self._begin() or self._begin_again()):
            if self._told and error.args:
                error.args = (f"{error.args[0]} (before that, {'; '.join(self._told)})", *error.args[1:])
            return False
        self._told.append(f"{turn.endpoint.client.base_url}: {error}")
        self._tell_retry()
        log.info("%s is asked, after: %s", self._now.endpoint.client.base_url, error)
        return True

    def _tell_retry(self) -> None:
        failed, self._failure = self._failure, None
        if failed is not None and self.hooks.on_retry:
            event = RetryEvent(
                call=failed.call,
                operation=failed.operation,
                number=failed.number,
                seconds=failed.seconds,
                attempt=self._attempts[-1],
                error=failed.error,
                reason="fallback",
            )
            self.hooks.tell(self.hooks.on_retry, event)

    def attempts(self, own: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        """The record of the call, with what was sent in this turn, where that is not over."""
        if self._recorded:
            return self._attempts
        if len(self._asked) == 1:
            return own
        before = self._attempts[-1].number if self._attempts else 0
        since = self._began - self.deadline.started
        return self._attempts + tuple(
            attrs.evolve(one, number=before + one.number, started=since + one.started, reason=one.reason or "fallback")
            for one in own
        )

    def whole(self, answer: T) -> T:
        """An answer of this turn, which nobody has seen yet, as that of the whole call."""
        own: tuple[Attempt, ...] | None = getattr(answer, "attempts", None)
        if len(self._asked) == 1 or own is None:
            return answer
        object.__setattr__(answer, "attempts", self.attempts(own))
        if isinstance(answer, (ChatResponse, EmbeddingResponse)):
            since = (self._began - self.deadline.started) * 1000
            object.__setattr__(answer, "latency_ms", answer.latency_ms + since)
            if isinstance(answer, ChatResponse) and answer.first_token_ms is not None:
                object.__setattr__(answer, "first_token_ms", answer.first_token_ms + since)
        return answer


class _FallbackReading(Reading):
    """A stream that is read from the first endpoint that tells anything."""

    def __init__(
        self,
        source: Source,
        turns: _Turns,
        request: ChatRequest,
        make_source: Callable[[Client, ChatRequest, Timeout | float | None], Source],
        *,
        stop: CancelToken,
        cancel: CancelToken | None,
        output: Output | None,
    ) -> None:
        super().__init__(source, stop=stop, cancel=cancel, output=output)
        self._turns = turns
        self._request = request
        self._make_source = make_source

    @property
    def watched(self) -> bool:
        return bool(self._turns.hooks.on_event) or self._turns.watched

    def so_far(self, *, truncated: bool = True) -> ChatResponse:
        return self._turns.whole(super().so_far(truncated=truncated))

    def _failed(self, error: OpenAICompatError) -> StreamEvent:
        event = super()._failed(error)
        if isinstance(error, Cancelled):
            error.attempts = self._turns.attempts(error.attempts)
        return event

    def _tries(self) -> Iterator[StreamEvent]:
        with self._turns as turns:
            while True:
                try:
                    self.source = self._make_source(turns.client, turns.request(self._request), turns.timeout)
                    events = super()._tries()
                    for event in events:
                        turns.answered()
                        yield event
                        del event
                        yield from events
                    return
                except APIError as error:
                    self.source.call.failed(error)
                    if not turns.next_after(error):
                        raise
                except GeneratorExit:
                    raise
                except BaseException as error:
                    if not (isinstance(error, Cancelled) and self.left):
                        self.source.call.failed(error)
                    raise
