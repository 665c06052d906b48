"""A server on this machine that says what a test tells it to, and knows what it was asked.

::

    with FakeServer("Hello!", answer("It rains.", pause=0.1)) as server:
        client = server.client()
        assert client.chat("Hi").text == "Hello!"
        assert client.chat("And the weather?", sink=print).text == "It rains."
        server.assert_asked("weather", streamed=True)
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._json import NotJSONError, decode_json, encode_json
from ..credentials import secrets_in_headers, secrets_in_query
from ..errors import ConfigurationError
from ..redaction import mask_secrets
from .answers import Answer, Frame, SentStep, chunk_steps, completion, words
from .asked import AskedRequest, Kind, text_of
from .assertions import explained
from .builders import error
from .clock import Clock, RealClock
from .complaints import complaint
from .embedded import embeddings_body, vector_of
from .http import Exchange, HTTPServer, HungUp, Left
from .rates import RateLimit
from .replies import Fault, RawReply, Vectors
from .script import Fits, Reply, Rule, Script, Scripted, as_reply_or_function

if TYPE_CHECKING:
    from typing import Self

    from ..client import Client

PORTS: set[int] = set()
"""Of all fake servers of this process, also of those that are closed: to ask one is no real call."""

JSON = {"content-type": "application/json"}
GARBAGE = b"\x00\x16\x03garbage, no HTTP\r\n\r\n"
GARBAGE_EVENT = b'data: {"id":"chatcmpl-fake","choices":[{"del\xff\xfe\n\n'


class UnscriptedRequestError(AssertionError):
    """A fake server was asked something that nothing is scripted for."""


class FakeServer:
    """Chat Completions, Embeddings and the list of models as OpenAI's server sends them, with scripted answers.

    Each answer is streamed or not as its request wants it. Embeddings need no script: a text's vector is always the
    same, and near those of texts with the same words. What nothing is scripted for is answered with HTTP 400, and
    ``close`` raises, as leaving the ``with`` block does.

    Args:
        replies: what is said, in order, as ``add`` takes them.
        models: names for the list of models; the first is the default of ``client()`` and ``environment``.
        api_key: what a request must bring, else it is answered with 401; None takes any, or none.
        dimensions: of a vector, where the request does not say.
        rate_limit: above which requests are answered with 429.
        clock: for pauses and rate limits; a ``FakeClock`` moves when the test moves it.

    Raises:
        ConfigurationError: ``models`` is one name, or a vector has no dimensions.
    """

    def __init__(
        self,
        *replies: Scripted,
        models: Sequence[str] = ("fake-model",),
        api_key: str | None = None,
        dimensions: int = 8,
        rate_limit: RateLimit | None = None,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(models, str):
            raise ConfigurationError(f"models are several names: models=[{models!r}]")
        if dimensions < 1:
            raise ConfigurationError(f"a vector has at least one dimension, not {dimensions}")
        self.models: tuple[str, ...] = tuple(models)
        self._api_key = api_key
        self._dimensions = dimensions
        self._rate_limit = rate_limit
        self._clock = clock or RealClock()
        self._script = Script()
        self._changed = threading.Condition()
        self._requests: list[AskedRequest] = []
        self._abandoned: list[AskedRequest] = []
        self._unscripted: list[str] = []
        self.add(*replies)
        self._http = HTTPServer(self._handle)
        PORTS.add(self._http.address[1])

    @property
    def url(self) -> str:
        """The base URL of the API, for any client."""
        host, port = self._http.address
        return f"http://{host}:{port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which ``Client.from_env()``, and OpenAI's own package, find this server."""
        return {
            "OPENAI_BASE_URL": self.url,
            "OPENAI_API_KEY": self._api_key or "sk-fake",
            "OPENAI_MODEL": self.models[0] if self.models else "fake-model",
        }

    def client(self, **options: Any) -> Client:
        """A client for this server; ``options`` are as for ``Client``."""
        from ..client import Client

        named = {"api_key": self._api_key, "model": self.models[0] if self.models else None}
        return Client(self.url, **{**named, **options})

    @contextlib.contextmanager
    def in_place_of(self, *base_urls: str) -> Iterator[None]:
        """Meanwhile calls to these servers come here, for code that names its server itself.

        They are sent by ``requests``; base URL, dialect and provider stay those of the server that is named.

        Args:
            base_urls: where they are; ``"https://api.openai.com"`` is all below it.
        """
        from .adapters import standing_between
        from .redirect import Redirect

        below = tuple(f"{base_url.rstrip('/')}/" for base_url in base_urls)
        with (
            contextlib.closing(Redirect(self.url)) as redirect,
            standing_between(lambda url: url.startswith(below), redirect.send),
        ):
            yield

    def add(
        self,
        *replies: Scripted,
        model: str | None = None,
        last: str | re.Pattern[str] | None = None,
        when: Fits | None = None,
        kind: Kind | None = None,
        times: int | None = 1,
    ) -> None:
        """Script replies. The first in order that fits a request, and is not used up, answers it.

        Args:
            replies: each a text; what a builder made (``answer``, ``stream_of``, ``error``, ``fault``, ...); a value to
                send as JSON; or a function that makes one of these of the request.
            model: only for requests that name it.
            last: only where the last message has this piece of text, or a match of this pattern.
            when: only where this function of the request is true.
            kind: only for this endpoint: by default answers and functions are for chats, vectors are for embeddings,
                and an error is for either.
            times: how often each answers; None for any number.

        Raises:
            TypeError: a value has no JSON form.
        """
        for reply in replies:
            self._script.add(Rule(as_reply_or_function(reply), kind, model, last, when, times))

    @property
    def requests(self) -> tuple[AskedRequest, ...]:
        """All that was asked so far."""
        return tuple(self._requests)

    @property
    def abandoned(self) -> tuple[AskedRequest, ...]:
        """Requests whose client left before their reply was over."""
        return tuple(self._abandoned)

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._http.connections

    def wait_for(self, *, requests: int = 0, abandoned: int = 0, timeout: float = 10.0) -> None:
        """Until there are that many.

        Raises:
            TimeoutError: there are not, after ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: len(self._requests) >= requests and len(self._abandoned) >= abandoned, timeout
            ):
                raise TimeoutError(f"{len(self._requests)} requests have come, {len(self._abandoned)} were abandoned")

    def assert_asked(
        self,
        last: str | re.Pattern[str] | None = None,
        *,
        times: int | None = None,
        tool_names: Iterable[str] | None = None,
        streamed: bool | None = None,
        **fields: Any,
    ) -> AskedRequest:
        """Assert that a request like this has come; the last of those that did.

        Args:
            last: a piece of the last message's text, or a pattern that matches in it.
            times: exactly how often, from 1; None for any number.
            tool_names: of the tools that it offers, in order.
            streamed: whether it wants a stream.
            fields: of the request's body, each with its exact value: ``model="m", temperature=0.2``. Messages may be
                given as ``Message`` values.

        Raises:
            AssertionError: it has not, or not as often; with what was asked instead.
        """
        matching, explanation = explained(self.requests, last, tool_names, streamed, fields)
        if not matching:
            raise AssertionError(f"not asked{explanation}")
        if times not in (None, len(matching)):
            raise AssertionError(f"asked {len(matching)} times, not {times}{explanation}")
        return matching[-1]

    def assert_not_asked(
        self,
        last: str | re.Pattern[str] | None = None,
        *,
        tool_names: Iterable[str] | None = None,
        streamed: bool | None = None,
        **fields: Any,
    ) -> None:
        """Assert that no request like this has come; with nothing said of it, that none has.

        Raises:
            AssertionError: one has.
        """
        matching, explanation = explained(self.requests, last, tool_names, streamed, fields)
        if matching:
            raise AssertionError(f"asked {len(matching)} times, and should not have been{explanation}")

    def assert_all_used(self) -> None:
        """Assert that every scripted reply has answered, as often as it was to.

        Raises:
            AssertionError: one has not.
        """
        if unused := self._script.unused:
            raise AssertionError("\n".join(["scripted, and not asked for:", *map(_line, unused)]))

    def verify(self) -> None:
        """Complain of requests that nothing was scripted for; of each once.

        Raises:
            UnscriptedRequestError: there were some.
        """
        unscripted, self._unscripted = self._unscripted, []
        if unscripted:
            told = "\n".join(unscripted)
            raise UnscriptedRequestError(
                f"the fake server was asked what is not scripted:\n{told}\nscripted are:\n{self._script}"
            )

    def close(self) -> None:
        """End all connections, and stop listening.

        Raises:
            UnscriptedRequestError: as ``verify``.
        """
        self._http.close()
        self.verify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UnscriptedRequestError as unscripted:
            if failure is None:
                raise
            failure.add_note(str(unscripted))

    def _handle(self, exchange: Exchange) -> None:
        request = self._record(exchange)
        try:
            self._answer(exchange, request)
        except Left:
            with self._changed:
                self._abandoned.append(request)
                self._changed.notify_all()
            raise
        except HungUp:
            raise
        except Exception as failure:
            self._unscripted.append(f"{request} could not be answered: {failure!r}")
            raise HungUp from failure

    def _record(self, exchange: Exchange) -> AskedRequest:
        received = exchange.received
        try:
            body = decode_json(received.body) if received.body else {}
        except NotJSONError:
            body = None
        with self._changed:
            request = AskedRequest(
                number=len(self._requests),
                connection=exchange.connection,
                method=received.method,
                path=mask_secrets(received.path, secrets_in_query(received.path.partition("?")[2])),
                headers={
                    name: mask_secrets(value, secrets_in_headers({name: value}))
                    for name, value in received.headers.items()
                },
                body=body if isinstance(body, dict) else {},
            )
            self._requests.append(request)
            self._changed.notify_all()
        return request

    def _answer(self, exchange: Exchange, request: AskedRequest) -> None:
        tokens = _prompt_tokens(request)
        headers = {"x-request-id": f"req_fake{request.number + 1}", "openai-version": "2020-10-01"}
        refused = self._refused(exchange, request, tokens)
        if self._rate_limit is not None:
            headers.update(self._rate_limit.headers(self._clock.now()))
        if refused is not None:
            self._send_raw(exchange, refused, headers)
        elif request.kind == "models":
            self._send_raw(exchange, self._models_reply(request), headers)
        else:
            self._send(exchange, request, self._reply_to(request), headers, tokens)

    def _refused(self, exchange: Exchange, request: AskedRequest, tokens: int) -> RawReply | None:
        """What is refused before any script is looked at."""
        if self._api_key is not None and not _brings(exchange.received.headers, self._api_key):
            return error(401, "Incorrect API key provided.")
        if request.kind in ("models", "other"):
            return None
        if self._rate_limit is not None:
            now = self._clock.now()
            with self._changed:
                too_many = self._rate_limit.take(tokens, now)
            if too_many is not None:
                wait = self._rate_limit.reset_in(now)
                said = f"Rate limit reached for {request.model} on {too_many}. Please try again in {wait:g}s."
                return error(429, said, type=too_many, retry_after=wait)
        if found := complaint(request):
            return error(400, found.message, param=found.param)
        return None

    def _reply_to(self, request: AskedRequest) -> Reply:
        try:
            reply = self._script.reply_to(request)
        except Exception as failure:
            return self._not_scripted(f"a scripted function raised {failure!r} for {request}")
        if reply is not None:
            return reply
        if request.kind == "embeddings":
            given = request.body.get("dimensions")
            dimensions = given if isinstance(given, int) and given > 0 else self._dimensions
            return Vectors(tuple(vector_of(text, dimensions) for text in request.inputs))
        if request.kind == "other":
            return error(404, f"Invalid URL ({request.method} {request.path.partition('?')[0]})", code="not_found")
        return self._not_scripted(f"nothing is scripted for {request}")

    def _not_scripted(self, told: str) -> RawReply:
        self._unscripted.append(told)
        return error(400, f"{told}; scripted are:\n{self._script}", code="unscripted_request")

    def _send(
        self, exchange: Exchange, request: AskedRequest, reply: Reply, headers: Mapping[str, str], tokens: int
    ) -> None:
        if isinstance(reply, Fault):
            self._suffer(exchange, reply)
            exchange.write(GARBAGE)
            exchange.cut()
        elif isinstance(reply, RawReply):
            self._send_raw(exchange, reply, headers)
        elif isinstance(reply, Vectors):
            body = embeddings_body(
                reply.vectors,
                model=request.model,
                base64_wanted=request.body.get("encoding_format") == "base64",
                tokens=tokens,
            )
            exchange.reply(200, {**headers, **JSON}, encode_json(body))
        else:
            options = request.body.get("stream_options")
            frame = Frame(
                number=request.number + 1,
                model=request.model,
                created=int(time.time()),
                n=n if isinstance(n := request.body.get("n"), int) and n > 0 else 1,
                include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
                prompt_tokens=tokens,
                top_logprobs=_top_logprobs(request.body),
            )
            headers = {**headers, "openai-processing-ms": "1", **reply.headers}
            (self._send_stream if request.streamed else self._send_whole)(exchange, reply, frame, headers)

    def _send_raw(self, exchange: Exchange, reply: RawReply, headers: Mapping[str, str]) -> None:
        exchange.reply(reply.status, {**headers, **reply.headers}, reply.body)

    def _send_stream(self, exchange: Exchange, reply: Answer, frame: Frame, headers: Mapping[str, str]) -> None:
        exchange.begin(
            200, {**headers, "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        )
        for step in chunk_steps(reply, frame):
            if isinstance(step, bytes):
                exchange.write(step)
            elif isinstance(step, Fault):
                self._suffer(exchange, step)
                exchange.write(GARBAGE_EVENT)
            else:
                self._pause(exchange, step)
        exchange.end()

    def _send_whole(self, exchange: Exchange, reply: Answer, frame: Frame, headers: Mapping[str, str]) -> None:
        body = encode_json(completion(reply, frame))
        for step in reply.steps:
            if isinstance(step, Fault):
                if step.kind == "garbage":
                    body = b"\x00garbage"
                    continue
                exchange.promise(200, {**headers, **JSON}, body)
                self._suffer(exchange, step)
            elif not isinstance(step, str):
                self._pause(exchange, step)
        exchange.reply(200, {**headers, **JSON}, body)

    def _suffer(self, exchange: Exchange, fault: Fault) -> None:
        """What goes wrong; returns only from garbage."""
        if fault.kind == "reset":
            exchange.reset()
        if fault.kind == "cut":
            exchange.cut()
        if fault.kind == "stall":
            exchange.wait(lambda: False)

    def _pause(self, exchange: Exchange, pause: SentStep) -> None:
        if isinstance(pause, threading.Event):
            exchange.wait(pause.is_set)
        elif isinstance(pause, (int, float)):
            over = self._clock.now() + pause
            self._clock.pausing(1)
            try:
                exchange.wait(lambda: self._clock.now() >= over)
            finally:
                self._clock.pausing(-1)

    def _models_reply(self, request: AskedRequest) -> RawReply:
        listed = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake"} for name in self.models]
        name = request.path.partition("?")[0].rpartition("/models")[2].strip("/")
        if not name:
            return RawReply(body=encode_json({"object": "list", "data": listed}), headers=JSON)
        found = next((entry for entry in listed if entry["id"] == name), None)
        if found is None:
            return error(404, f"The model '{name}' does not exist")
        return RawReply(body=encode_json(found), headers=JSON)


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    if body.get("logprobs") is not True:
        return None
    return top if isinstance(top := body.get("top_logprobs"), int) else 0


def _line(what: object) -> str:
    return f"  {what}"


def _brings(headers: Mapping[str, str], key: str) -> bool:
    return headers.get("authorization") == f"Bearer {key}" or headers.get("api-key") == key


def _prompt_tokens(request: AskedRequest) -> int:
    """A count of words, for usage and limits."""
    if request.kind == "embeddings":
        return sum(len(words(text)) for text in request.inputs)
    messages = request.body.get("messages")
    said = messages if isinstance(messages, list) else []
    return sum(len(words(text_of(message))) + 3 for message in said if isinstance(message, Mapping))
