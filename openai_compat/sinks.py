"""Sinks that everyone needs. A sink is any callable that takes a ``StreamEvent``, or an object with ``emit``.

One that has ``expect`` as well is told by ``submit``, on the thread that submits, that events will come on another.

A sink that raises ends its stream, and its exception reaches the caller; one that raises ``StopStream`` ends it with
the answer so far. ``IsolateSink`` is for sinks whose failure must not cost the answer.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO

import attrs

from ._log import log
from ._misuse import refuse_coroutines
from ._terminal import harmless, write
from ._threads import spawn
from .errors import ConfigurationError
from .wire.messages import ToolCall
from .wire.response import ChatResponse, StreamEvent

__all__ = [
    "CollectSink",
    "IsolateSink",
    "PrintSink",
    "QueueSink",
    "Sink",
    "StopStream",
    "TeeSink",
    "ThreadSink",
    "ThrottleSink",
    "emitter",
]


class StopStream(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a sink that wants no more: the stream ends, and the call returns the answer so far."""


class _Emits(Protocol):
    def emit(self, event: StreamEvent) -> Any: ...


Sink = Callable[[StreamEvent], Any] | _Emits


def emitter(sink: Sink) -> Callable[[StreamEvent], Any]:
    """The callable in a sink.

    Raises:
        ConfigurationError: neither a callable nor an object with ``emit``, the class of one, or a coroutine function.
    """
    emit = getattr(sink, "emit", sink)
    if isinstance(sink, type) and emit is not sink:
        raise ConfigurationError(f"a sink is an object: {sink.__name__}(), not the class")
    refuse_coroutines(sink=emit)
    if not callable(emit):
        raise ConfigurationError(f"a sink is a callable or has emit; {type(sink).__name__} is neither")
    return emit


class PrintSink:
    """Prints the answer's text as it comes, and a line end after the last piece.

    Escapes and other controls, by which a model could command the terminal, are left out. What the file's encoding
    lacks is written as an escape, such as ``\\u2192``. Where there is no standard output, nothing is printed.

    Args:
        file: where to; standard output by default.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._printed = False

    def emit(self, event: StreamEvent) -> None:
        """Print a piece."""
        file = self._file or sys.stdout
        if file is None:  # under pythonw
            return
        if event.delta:
            self._printed = True
            write(file, harmless(event.delta))
            file.flush()
        elif (event.done or event.error) and self._printed:
            self._printed = False
            file.write("\n")
            file.flush()


class CollectSink:
    """Keeps every event; ``text``, ``reasoning`` and ``tool_calls`` are what they add up to."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []

    def emit(self, event: StreamEvent) -> None:
        """Keep an event."""
        self.events.append(event)

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(event.delta for event in self.events)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(event.reasoning for event in self.events)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The complete tool calls so far."""
        return tuple(event.tool_call for event in self.events if event.tool_call)

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer, once the stream is done."""
        return self.events[-1].response if self.events else None


class QueueSink:
    """Puts events into a queue, for another thread to take; the last one is ``done`` or ``error``."""

    def __init__(self, to: queue.Queue[StreamEvent]) -> None:
        self.queue = to

    def emit(self, event: StreamEvent) -> None:
        """Put an event; waits where the queue is full."""
        self.queue.put(event)


class TeeSink:
    """Hands each event to several sinks in turn; the first that raises ends the stream."""

    def __init__(self, *sinks: Sink) -> None:
        self._emitters = [emitter(sink) for sink in sinks]

    def emit(self, event: StreamEvent) -> None:
        """Hand on an event."""
        for emit in self._emitters:
            emit(event)


class IsolateSink:
    """Goes on when its sink raises: the exception is logged with its traceback. ``StopStream`` still stops."""

    def __init__(self, sink: Sink) -> None:
        self._emit = emitter(sink)

    def emit(self, event: StreamEvent) -> None:
        """Hand on an event."""
        try:
            self._emit(event)
        except StopStream:
            raise
        except Exception:
            log.exception("a sink failed; the stream goes on")


class ThrottleSink:
    """Joins pieces of text, reasoning or arguments, so that its sink hears at most one of them in ``seconds``.

    Nothing is lost or put out of order: a different kind of event, and the last one, push out what was held. A piece is
    held until another event comes.
    """

    def __init__(self, sink: Sink, seconds: float = 0.1) -> None:
        if not seconds > 0:
            raise ConfigurationError(f"seconds must be positive, not {seconds!r}")
        self._emit = emitter(sink)
        self._seconds = seconds
        self._held: list[StreamEvent] = []
        self._next = 0.0

    def emit(self, event: StreamEvent) -> None:
        """Take an event."""
        if event.kind not in ("text", "reasoning", "refusal"):
            self._flush()
            self._emit(event)
            return
        if self._held and (self._held[0].kind, self._held[0].index) != (event.kind, event.index):
            self._flush()
        self._held.append(event)
        if time.monotonic() >= self._next:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._next = time.monotonic() + self._seconds
            self._emit(attrs.evolve(held[0], data="".join(event.data for event in held)))


WhenFull = Literal["wait", "drop", "stop"]


class ThreadSink:
    """Calls its sink on a thread of its own, so that a slow sink does not slow the socket.

    The call returns when the sink has taken the last event. An exception of the sink ends the stream and reaches the
    caller. Used with ``with``, the thread ends with the block, also where a stream was given up.

    Args:
        sink: what is called.
        size: how many events may wait.
        when_full: ``"wait"`` for room, ``"drop"`` the event (never the last one), or ``"stop"`` the stream.
    """

    def __init__(self, sink: Sink, *, size: int = 1000, when_full: WhenFull = "wait") -> None:
        if when_full not in ("wait", "drop", "stop"):
            raise ConfigurationError(f"when_full must be 'wait', 'drop' or 'stop', not {when_full!r}")
        if size < 1:
            raise ConfigurationError(f"size must be at least 1, not {size}")
        self.dropped: int = 0
        self._emit = emitter(sink)
        self._when_full = when_full
        self._queue: queue.Queue[StreamEvent | None] = queue.Queue(size)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._broken = False

    def __enter__(self) -> ThreadSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def emit(self, event: StreamEvent) -> None:
        """Take an event; returns for the last one when the sink has taken it."""
        if self._thread is None:
            self._broken = False
            self._thread = spawn(self._work, name="openai_compat sink")
        last = event.done or event.error is not None
        if self._when_full == "wait" or last:
            self._queue.put(event)
        else:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                if self._when_full == "stop":
                    raise StopStream from None
                self.dropped += 1
        if last:
            self.close()
        if self._failure is not None:
            self.close()
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Pass on the events that still wait, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            if not self._broken:
                try:
                    self._emit(event)
                except BaseException as failure:
                    # Raised where the stream is read; what still comes is taken and not passed on.
                    self._broken = True
                    self._failure = failure
