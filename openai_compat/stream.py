"""A stream of chat events, pulled."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ._log import logger
from .cancel import CancelToken
from .errors import APIError, Cancelled, ConfigurationError, OpenAICompatError
from .transport import Call, Clock, Reply
from .transport.failures import hide
from .wire.accumulate import Accumulator
from .wire.completeness import check_complete
from .wire.parse import TICK_EVENT, stream_events
from .wire.response import CallInfo, ChatResponse, ParsedResponse, ReplyInfo, StreamEvent
from .wire.sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from typing import Self

    from .wire.output import Output
    from .wire.partial_json import PartialJSON

log: logging.Logger = logger("stream")

T = TypeVar("T")


class ChatStream(Iterator[StreamEvent]):
    """The events of one streamed call, and at the end its answer.

    An iterator and a context manager: the request is sent when the first event is asked for, and leaving the ``with``
    block early closes the connection, so that the server stops; so does dropping the stream. The last event is either
    ``done`` or an ``error``, whose exception is then raised.
    """

    def __init__(self, reading: Reading) -> None:
        self._partial: tuple[list[str], PartialJSON] | None = None
        self._parsed_pieces = 0
        # The generator knows the reading, and the reading knows nobody: who drops the stream drops all of it.
        self._reading = reading
        self._events = reading.events()

    @property
    def call(self) -> CallInfo:
        """Who is asked, and for which model."""
        return self._reading.info

    def __iter__(self) -> Iterator[StreamEvent]:
        return self._events

    def __next__(self) -> StreamEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the call. Where it is not over, the connection is closed and the server stops."""
        self._events.close()

    def cancel(self) -> None:
        """End the stream from any thread: its reader gets a last ``done`` event with the answer so far."""
        self._reading.left = True
        self._reading.stop.cancel()

    def tick_every(self, seconds: float) -> bool:
        """Whether the iterator now yields ``TICK_EVENT``, an empty text, whenever ``seconds`` pass without an event.

        Only once the first event has come, and not where the call goes through a session of requests.
        """
        reply = self._reading.reply
        return reply is not None and reply.tick_every(seconds)

    @property
    def response(self) -> ChatResponse:
        """The answer, complete or as far as it has come, and then ``truncated``.

        Raises:
            ConfigurationError: nothing was read yet, and nothing sent.
        """
        if not self._reading.begun:
            raise ConfigurationError("the stream has not been read yet: iterate over it, or call until_done()")
        return self._reading.response or self._reading.so_far()

    @property
    def text_stream(self) -> Iterator[str]:
        """The answer's text, piece by piece."""
        return _text(self._events)

    @property
    def partial(self) -> Any:
        """The JSON value in the text as far as it has come; None until it begins.

        Of several values in the text it is the first, until the end shows of which ``parsed`` was made. Strings are as
        long as they have come; numbers and keys appear once they are whole. It is one and the same object every time,
        and goes on growing while the stream is read: copy it to keep it. Reading it after each event costs as much in
        all as reading it once.
        """
        from .wire.partial_json import PartialJSON

        pieces = self._reading.accumulator.text_pieces
        if self._partial is None or self._partial[0] is not pieces:
            # A try that was repeated began anew.
            self._partial, self._parsed_pieces = (pieces, PartialJSON()), 0
        reader = self._partial[1]
        for piece in pieces[self._parsed_pieces :]:
            reader.feed(piece)
        self._parsed_pieces = len(pieces)
        if self._reading.output is None:
            return reader.value
        value = self._reading.output.unwrapped(reader.value)
        response = self._reading.response
        if isinstance(response, ParsedResponse) and (found := self._reading.output.found(response)) is not None:
            return value if value == found else found
        return value

    def until_done(self) -> ChatResponse:
        """Read to the end; the answer."""
        read_on(self._events)
        return self.response


def read_on(events: Iterable[object]) -> None:
    """Read to the end.

    Not in a loop, whose variable would hold the last event, which holds the exception that then comes, which holds the
    loop's frame and those of the callers, with all that is open there.
    """
    deque(events, maxlen=0)


def _text(events: Iterator[StreamEvent]) -> Iterator[str]:
    for event in events:
        if event.kind == "text" and not event.index:
            yield event.data
        del event  # as in read_on


class Source(NamedTuple):
    """How a server is asked for a stream, and what of that server its reading needs to know."""

    open_reply: Callable[[], tuple[Reply, Callable[[Any], Any] | None]]
    make_accumulator: Callable[[], Accumulator]
    info: CallInfo
    call: Call
    strict: bool = False
    secrets: Callable[[], Iterable[str]] = tuple
    max_event_bytes: int = MAX_EVENT_BYTES


class Reading:
    """What there is of a streamed call while it is read; ``run`` reads it."""

    def __init__(
        self, source: Source, *, stop: CancelToken, cancel: CancelToken | None = None, output: Output | None = None
    ) -> None:
        self.source = source
        self.accumulator: Accumulator = source.make_accumulator()
        self.reply: Reply | None = None
        self.response: ChatResponse | None = None
        self.begun: bool = False
        self.left = False
        self.stop = stop
        self._cancel = cancel
        self.output = output
        self._first_token_ms: float | None = None

    @property
    def info(self) -> CallInfo:
        """Who is asked."""
        return self.source.info

    def so_far(self, *, truncated: bool = True) -> ChatResponse:
        """The answer as far as it has come."""
        reply = self.reply
        info = ReplyInfo(
            reply.request_id if reply else None,
            reply.headers if reply else None,
            latency_ms=self.source.call.deadline.elapsed_ms,
            first_token_ms=self._first_token_ms,
        )
        response = self.accumulator.response(info, truncated=truncated)
        object.__setattr__(response, "attempts", self.source.call.so_far())  # nobody has seen the value yet
        return response

    @property
    def watched(self) -> bool:
        """Whether a hook hears of the events."""
        return bool(self.source.call.hooks.on_event)

    def events(self) -> Generator[StreamEvent, None, None]:
        """The events, the last one ``done`` or ``error``; the hooks hear of each before it is yielded."""
        return self._told_events() if self.watched else self.run()

    def _told_events(self) -> Generator[StreamEvent, None, None]:
        events = self.run()
        try:
            for event in events:
                hooks = self.source.call.hooks
                if event is not TICK_EVENT:
                    hooks.tell(hooks.on_event, event)
                yield event
                del event  # as in read_on
        finally:
            events.close()

    def run(self) -> Generator[StreamEvent, None, None]:
        """The events, the last one ``done`` or ``error``."""
        self.begun = True
        if self._cancel is not None:
            self._cancel.subscribe(self.stop.cancel)
        try:
            yield from self._tries()
        except Cancelled as error:
            yield from self.accumulator.flush()
            if not self.left:
                yield self._failed(error)
                raise
            self.response = self.so_far()
            self.source.call.left(self.so_far)
            yield StreamEvent("done", self.response, 0, self.info)
        except OpenAICompatError as error:
            hide((), error)
            yield from self.accumulator.flush()
            yield self._failed(error)
            raise
        except GeneratorExit:
            raise
        except BaseException as error:
            self.source.call.failed(error)
            raise
        finally:
            self.source.call.left(self.so_far)  # where it is not over
            if self._cancel is not None:
                self._cancel.unsubscribe(self.stop.cancel)

    def _failed(self, error: OpenAICompatError) -> StreamEvent:
        """The last event of a stream that failed; its exception holds what had come."""
        if isinstance(error, Cancelled):
            error.attempts = self.source.call.so_far()
        if isinstance(error, APIError):
            error.provider = error.provider or self.info.provider
        if isinstance(error, (APIError, Cancelled)) and error.partial is None and self.reply is not None:
            error.partial = self.so_far()
        self.source.call.failed(error)
        return StreamEvent("error", error, 0, self.info)

    def _tries(self) -> Iterator[StreamEvent]:
        """The events of the first try that delivers any: after that nothing is sent again."""
        call = self.source.call
        permit = call.permit
        while True:
            try:
                if permit is None:
                    call.begin()
                    yield from self._attempt()
                else:
                    with permit:
                        call.begin()
                        yield from self._attempt()
                return
            except APIError as error:
                if self._first_token_ms is not None:
                    call.give_up(error)
                    raise
                if not call.wait_to_retry(error):
                    raise

    def _attempt(self) -> Iterator[StreamEvent]:
        self.reply = None
        self.accumulator = accumulator = self.source.make_accumulator()
        reply, as_text = self.source.open_reply()
        self.reply = reply
        try:
            complete = yield from self._timed(
                stream_events(
                    reply.chunks(),
                    accumulator,
                    max_event_bytes=self.source.max_event_bytes,
                    request_id=reply.request_id,
                    secrets=self.source.secrets(),
                    on_payload=reply.clock.on_payload,
                    is_cancelled=self.stop.is_cancelled,
                    check=reply.clock.check,
                    strict=self.source.strict,
                    as_text=as_text,
                ),
                reply.clock,
            )
        except BaseException:
            if self.source.call.permit is not None:
                self.source.call.permit.cut_off(self.so_far())
            reply.close()
            raise
        intact = reply.finish()
        # Where nothing but [DONE] says that the answer is complete, the transfer has to have ended well.
        complete = complete and (intact or accumulator.finished)
        response = self.so_far(truncated=not complete)
        check_complete(
            response,
            complete=complete,
            strict=self.source.strict,
            secrets=self.source.secrets(),
            request_id=reply.request_id,
        )
        if not complete and not response.skipped_events:
            log.warning("%s: the stream ended with neither finish_reason nor [DONE]", self.info.provider)
        if self.source.call.permit is not None:
            self.source.call.permit.settle(response)
        if self.output is not None:
            response = self.output.read(response)
        self.response = response
        self.source.call.answered(response)
        yield StreamEvent("done", response, 0, self.info)

    def _timed(self, events: Generator[StreamEvent, None, bool], clock: Clock) -> Generator[StreamEvent, None, bool]:
        """The same events; notes when the first came. While its consumer holds one, no limit runs."""
        progress = clock.progress
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                return bool(stop.value)
            if self._first_token_ms is None:
                self._first_token_ms = self.source.call.deadline.elapsed_ms
            if event is TICK_EVENT:
                since = time.monotonic()
                yield event
                clock.exclude(since)
            else:
                yield event
                progress()


class ParsedStream(ChatStream, Generic[T]):
    """The events of a call with ``response_type``: at the end, ``response.parsed`` is a value of that type."""

    @property
    def response(self) -> ParsedResponse[T]:
        """The answer.

        Raises:
            ConfigurationError: nothing was read yet, and nothing sent.
            ResponseTypeError: what has come so far does not fit the type.
        """
        response = super().response
        if not isinstance(response, ParsedResponse) and self._reading.output is not None:
            response = self._reading.output.read(response)
        return response  # type: ignore[return-value]

    def until_done(self) -> ParsedResponse[T]:
        """Read to the end; the answer."""
        super().until_done()
        return self.response
