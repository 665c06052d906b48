"""A stream of chat events, pulled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .deadline import CancelToken, Deadline
from .errors import APIError, Cancelled, OpenAICompatError
from .transport import Reply, wait_to_retry
from .wire.accumulate import Accumulator, verdict
from .wire.parse import stamped, stream_events
from .wire.response import CallInfo, ChatResponse, ParsedResponse, StreamEvent
from .wire.retry import RetryPolicy
from .wire.sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from typing import Self

    from .wire.output import Output
    from .wire.partial_json import PartialJSON

log = logging.getLogger("openai_compat")

T = TypeVar("T")


class ChatStream(Iterator[StreamEvent]):
    """The events of one streamed call, and at the end its answer.

    An iterator and a context manager: the request is sent when the first event is asked for, and leaving the ``with``
    block early closes the connection, so that the server stops. The last event is either ``done`` or an ``error``,
    whose exception is then raised.
    """

    def __init__(
        self,
        open_reply: Callable[[], Reply],
        make_accumulator: Callable[[], Accumulator],
        *,
        call: CallInfo,
        deadline: Deadline,
        stop: CancelToken,
        cancel: CancelToken | None = None,
        retry: RetryPolicy,
        strict: bool = False,
        secrets: Callable[[], list[str]] = list,
        max_event_bytes: int = MAX_EVENT_BYTES,
        output: Output | None = None,
    ) -> None:
        self.call = call
        self._open_reply = open_reply
        self._make_accumulator = make_accumulator
        self._accumulator = make_accumulator()
        self._deadline = deadline
        self._stop = stop
        self._cancel = cancel
        self._left = False
        self._retry = retry
        self._strict = strict
        self._secrets = secrets
        self._max_event_bytes = max_event_bytes
        self._output = output
        self._partial: tuple[list[str], PartialJSON] | None = None
        self._parsed_pieces = 0
        self._reply: Reply | None = None
        self._response: ChatResponse | None = None
        self._first_token_ms: float | None = None
        self._events = self._run()

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
        self._left = True
        self._stop.cancel()

    def beat_every(self, seconds: float) -> bool:
        """Whether the iterator now gives ``SILENCE``, an empty text event, whenever ``seconds`` pass without an event.

        Only once the first event has come, and not with a compressed reply or a session of the user's own.
        """
        return self._reply is not None and self._reply.beat_every(seconds)

    @property
    def response(self) -> ChatResponse:
        """The answer, complete or as far as it has come, and then ``truncated``."""
        return self._response or self._so_far()

    @property
    def text_stream(self) -> Iterator[str]:
        """The answer's text, piece by piece."""
        return (event.data for event in self._events if event.kind == "text" and not event.index)

    @property
    def partial(self) -> Any:
        """The JSON value in the text as far as it has come; None until it begins.

        Strings are as long as they have come; numbers and keys appear once they are whole. It is one and the same
        object every time, and goes on growing while the stream is read: copy it to keep it. Reading it after each event
        costs as much in all as reading it once.
        """
        from .wire.partial_json import PartialJSON

        pieces = self._accumulator.text_pieces
        if self._partial is None or self._partial[0] is not pieces:
            # A try that was repeated began anew.
            self._partial, self._parsed_pieces = (pieces, PartialJSON()), 0
        reader = self._partial[1]
        for piece in pieces[self._parsed_pieces :]:
            reader.feed(piece)
        self._parsed_pieces = len(pieces)
        return reader.value if self._output is None else self._output.unwrapped(reader.value)

    def until_done(self) -> ChatResponse:
        """Read to the end; the answer."""
        for _ in self._events:
            pass
        return self.response

    def _so_far(self, *, truncated: bool = True) -> ChatResponse:
        reply = self._reply
        return self._accumulator.response(
            truncated=truncated,
            latency_ms=self._deadline.elapsed_ms,
            first_token_ms=self._first_token_ms,
            request_id=reply.request_id if reply else None,
            headers=reply.headers if reply else None,
        )

    def _run(self) -> Generator[StreamEvent, None, None]:
        if self._cancel is not None:
            self._cancel.subscribe(self._stop.cancel)
        try:
            yield from self._tries()
        except Cancelled as error:
            yield from self._accumulator.flush()
            if not self._left:
                yield self._failed(error)
                raise
            self._response = self._so_far()
            yield StreamEvent("done", self._response, 0, self.call)
        except OpenAICompatError as error:
            yield from self._accumulator.flush()
            yield self._failed(error)
            raise
        finally:
            if self._cancel is not None:
                self._cancel.unsubscribe(self._stop.cancel)

    def _failed(self, error: OpenAICompatError) -> StreamEvent:
        """The last event of a stream that failed; its exception holds what had come."""
        if isinstance(error, APIError):
            error.provider = error.provider or self.call.provider
        if isinstance(error, (APIError, Cancelled)) and error.partial is None and self._reply is not None:
            error.partial = self._so_far()
        return StreamEvent("error", error, 0, self.call)

    def _tries(self) -> Iterator[StreamEvent]:
        """The events of the first try that delivers any: after that nothing is sent again."""
        tries = 0
        while True:
            self._stop.raise_if_cancelled()
            try:
                yield from self._attempt()
                return
            except APIError as error:
                if self._first_token_ms is not None:
                    raise
                wait_to_retry(error, tries, self._retry, self._deadline)
            tries += 1

    def _attempt(self) -> Iterator[StreamEvent]:
        self._reply = None
        self._accumulator = accumulator = self._make_accumulator()
        self._reply = reply = self._open_reply()
        try:
            complete = yield from self._timed(
                stream_events(
                    reply.chunks(),
                    accumulator,
                    max_event_bytes=self._max_event_bytes,
                    request_id=reply.request_id,
                    secrets=self._secrets(),
                    heard=reply.heard,
                    stopped=self._stop.is_cancelled,
                )
            )
        except BaseException:
            reply.close()
            raise
        reply.finish()
        response = self._so_far(truncated=not complete)
        error = verdict(response, complete=complete, strict=self._strict)
        if error is not None:
            raise stamped(error, self.call.provider, reply.request_id)
        if not complete:
            log.warning("%s: the stream ended with neither finish_reason nor [DONE]", self.call.provider)
        if self._output is not None:
            response = self._output.read(response)
        self._response = response
        yield StreamEvent("done", response, 0, self.call)

    def _timed(self, events: Generator[StreamEvent, None, bool]) -> Generator[StreamEvent, None, bool]:
        """The same events; notes when the first came."""
        try:
            first = next(events)
        except StopIteration as stop:
            return bool(stop.value)
        self._first_token_ms = self._deadline.elapsed_ms
        yield first
        return (yield from events)


class ParsedStream(ChatStream, Generic[T]):
    """The events of a call with ``response_type``: at the end, ``response.parsed`` is a value of that type."""

    @property
    def response(self) -> ParsedResponse[T]:
        """The answer.

        Raises:
            ResponseTypeError: what has come so far does not fit the type.
        """
        response = super().response
        if not isinstance(response, ParsedResponse) and self._output is not None:
            response = self._output.read(response)
        return response  # type: ignore[return-value]

    def until_done(self) -> ParsedResponse[T]:
        """Read to the end; the answer."""
        super().until_done()
        return self.response
