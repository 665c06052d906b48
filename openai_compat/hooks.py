"""Functions that hear of a client's calls: each request, reply, further try, event of a stream, and error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ._interrupts import interrupts
from ._log import logger
from ._misuse import refuse_coroutines
from .errors import ConfigurationError
from .wire.response import ChatResponse, StreamEvent

if TYPE_CHECKING:
    from .hook_events import ErrorEvent, RequestEvent, ResponseEvent, RetryEvent
    from .wire.messages import ToolCall
    from .wire.tool_results import ToolResult

__all__ = ["Hooks"]

log: logging.Logger = logger("hooks")

Operation = Literal["chat", "embeddings", "models", "batch", "tokens"]


OnRequest = Callable[["RequestEvent"], object]
OnResponse = Callable[["ResponseEvent"], object]
OnRetry = Callable[["RetryEvent"], object]
OnEvent = Callable[[StreamEvent], object]
OnError = Callable[["ErrorEvent"], object]
WatchTool = Callable[["ToolCall"], AbstractContextManager[Callable[["ToolResult"], object]]]
WatchLoop = Callable[[str], AbstractContextManager[Callable[[ChatResponse], object]]]

F = TypeVar("F", bound=Callable[..., object])
_KINDS = ("on_request", "on_response", "on_retry", "on_event", "on_error")
_ALL = (*_KINDS, "_watch_tool", "_watch_loop")
_locks: dict[int, threading.Lock] = {}


def _changing() -> threading.Lock:
    """This process's own: at a fork, another thread may hold that of the parent."""
    return _locks.setdefault(os.getpid(), threading.Lock())


class Hooks:
    """The functions that hear of a client's calls; ``client.hooks``.

    Each is called on the thread of its call, in the order in which they were added. One that raises breaks no call: its
    first exception is logged. What ends a task passes through it: ``KeyboardInterrupt``, ``SystemExit``, and what a
    signal's handler raises, such as Celery's ``SoftTimeLimitExceeded``.

    Every ``on_request`` is followed by one ``on_retry``, ``on_response`` or ``on_error`` of the same call.

    Args:
        on_request: a function, or several, called with a ``RequestEvent`` before each request is sent. It may return a
            context manager, which is entered on the same thread until the head of the reply is there.
        on_response: called with a ``ResponseEvent`` when a call has its answer.
        on_retry: called with a ``RetryEvent`` when a request has failed and another follows.
        on_event: called with each ``StreamEvent`` of a stream, before whoever reads it.
        on_error: called with an ``ErrorEvent`` when a call has failed.

    Raises:
        ConfigurationError: something that is no function, or a coroutine function.
    """

    def __init__(
        self,
        *,
        on_request: OnRequest | Iterable[OnRequest] | None = None,
        on_response: OnResponse | Iterable[OnResponse] | None = None,
        on_retry: OnRetry | Iterable[OnRetry] | None = None,
        on_event: OnEvent | Iterable[OnEvent] | None = None,
        on_error: OnError | Iterable[OnError] | None = None,
    ) -> None:
        self.on_request: tuple[OnRequest, ...] = ()
        self.on_response: tuple[OnResponse, ...] = ()
        self.on_retry: tuple[OnRetry, ...] = ()
        self.on_event: tuple[OnEvent, ...] = ()
        self.on_error: tuple[OnError, ...] = ()
        self._watch_tool: tuple[WatchTool, ...] = ()
        self._watch_loop: tuple[WatchLoop, ...] = ()
        self._failed: list[Callable[..., object]] = []
        self.add(
            on_request=on_request, on_response=on_response, on_retry=on_retry, on_event=on_event, on_error=on_error
        )

    def __repr__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in _KINDS}
        return f"Hooks({', '.join(f'{name}={count}' for name, count in counts.items() if count)})"

    def add(
        self,
        *,
        on_request: OnRequest | Iterable[OnRequest] | None = None,
        on_response: OnResponse | Iterable[OnResponse] | None = None,
        on_retry: OnRetry | Iterable[OnRetry] | None = None,
        on_event: OnEvent | Iterable[OnEvent] | None = None,
        on_error: OnError | Iterable[OnError] | None = None,
        watch_tool: WatchTool | None = None,
        watch_loop: WatchLoop | None = None,
    ) -> Callable[[], None]:
        """Add functions, for calls that begin from now on; returns a function that removes them again.

        Args:
            watch_tool: called with each ``ToolCall`` that is about to run, on the thread that runs it; returns a
                context manager, entered meanwhile, whose value is called with the ``ToolResult``.
            watch_loop: called with the id of the conversation (or "") for each turn of a conversation and each
                ``run_tools``; returns a context manager, entered meanwhile, whose value is called with the answer.
        """
        given = {
            "on_request": on_request,
            "on_response": on_response,
            "on_retry": on_retry,
            "on_event": on_event,
            "on_error": on_error,
            "_watch_tool": watch_tool,
            "_watch_loop": watch_loop,
        }
        added = {name: _functions(name, functions) for name, functions in given.items() if functions is not None}
        with _changing():
            for name, functions in added.items():
                setattr(self, name, (*getattr(self, name), *functions))

        def remove() -> None:
            while added:
                name, functions = added.popitem()
                for function in functions:
                    self._remove(name, function)

        return remove

    def remove(self, function: Callable[..., object]) -> None:
        """Remove a function from wherever it was added; nothing where it was not."""
        for name in _KINDS:
            self._remove(name, function)

    def _remove(self, name: str, function: Callable[..., object]) -> None:
        with _changing():
            left = list(getattr(self, name))
            if function in left:
                left.remove(function)
                setattr(self, name, tuple(left))
            if function in self._failed:
                self._failed.remove(function)

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return any(getattr(self, name) for name in _ALL)

    def copy(self) -> Hooks:
        """The same functions, for another client."""
        return Hooks().joined(self)

    def joined(self, other: Hooks, *, on_error: OnError | None = None) -> Hooks:
        """These functions, and then those of ``other``; in place of its ``on_error`` the one that is given."""
        both = Hooks()
        for name in _ALL:
            setattr(both, name, (*getattr(self, name), *getattr(other, name)))
        both._failed = self._failed
        if on_error is not None:
            both.on_error = (*self.on_error, on_error)
        return both

    def tell(self, functions: Iterable[Callable[[Any], object]], event: Any) -> None:
        """Call the functions of one kind."""
        rest = iter(functions)
        for function in rest:
            try:
                try:
                    function(event)
                except Exception as error:
                    self._failed_once(function, error)
            except BaseException:
                # The others are told first: spans end there.
                self.tell(rest, event)
                raise

    def sending(self, event: RequestEvent) -> AbstractContextManager[object]:
        """Call ``on_request``; what to enter while the request is sent."""
        scopes: list[AbstractContextManager[Any]] = []
        for function in self.on_request:
            try:
                scope = function(event)
            except Exception as error:
                self._failed_once(function, error)
            else:
                if isinstance(scope, AbstractContextManager):
                    scopes.append(scope)
        return _Scopes(self, scopes) if scopes else NOTHING

    def watch_tool(self, call: ToolCall) -> AbstractContextManager[Callable[[ToolResult], object]]:
        """What to enter while a tool runs."""
        return _Scopes(self, self._opened(self._watch_tool, call)) if self._watch_tool else NOTHING

    def watch_loop(self, conversation: str = "") -> AbstractContextManager[Callable[[ChatResponse], object]]:
        """What to enter while a turn of a conversation, or a tool loop, is under way."""
        return _Scopes(self, self._opened(self._watch_loop, conversation)) if self._watch_loop else NOTHING

    def _opened(self, watchers: Iterable[Callable[[Any], Any]], about: object) -> list[AbstractContextManager[Any]]:
        opened: list[AbstractContextManager[Any]] = []
        for watch in watchers:
            try:
                opened.append(watch(about))
            except Exception as error:
                self._failed_once(watch, error)
        return opened

    def _failed_once(self, function: Callable[..., object], error: Exception) -> None:
        """Log the first exception of a function; raise one that is none of its own."""
        if interrupts(error):
            raise error
        if function not in self._failed:
            self._failed.append(function)
            name = getattr(function, "__qualname__", type(function).__name__)
            log.error("the hook %s failed; the call goes on, and further failures are not logged", name, exc_info=error)


def _functions(name: str, given: Any) -> tuple[Callable[..., object], ...]:
    functions = (given,) if callable(given) else tuple(given) if isinstance(given, Iterable) else (given,)
    for function in functions:
        if not callable(function):
            raise ConfigurationError(f"{name} is a function, or several, not {type(function).__name__}")
        refuse_coroutines(**{name: function})
    return functions


def _ignore(told: object) -> None:
    """Nobody listens."""


NOTHING: contextlib.nullcontext[Callable[[Any], object]] = contextlib.nullcontext(_ignore)
"""A scope in which nothing happens."""


class _Scopes:
    """Context managers of hooks, entered together; as isolated as what made them.

    A class, for the frames of ``contextlib.contextmanager`` and the exception that leaves them hold each other.
    """

    def __init__(self, hooks: Hooks, scopes: list[AbstractContextManager[Any]]) -> None:
        self._hooks = hooks
        self._scopes = scopes
        self._listeners: list[Callable[[Any], object]] = []

    def __enter__(self) -> Callable[[Any], object]:
        scopes, self._scopes = self._scopes, []
        try:
            for scope in scopes:
                self._enter(scope)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self._tell

    def _enter(self, scope: AbstractContextManager[Any]) -> None:
        try:
            listener = scope.__enter__()
        except Exception as error:
            self._hooks._failed_once(type(scope).__enter__, error)
        else:
            self._scopes.append(scope)
            if callable(listener):
                self._listeners.append(listener)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._scopes:
            return
        scope = self._scopes.pop()
        try:
            scope.__exit__(kind, error, traceback)
        except Exception as failure:
            if failure is not error:
                self._hooks._failed_once(type(scope).__exit__, failure)
        finally:
            self.__exit__(kind, error, traceback)

    def _tell(self, event: Any) -> None:
        self._hooks.tell(self._listeners, event)


NO_HOOKS = Hooks()
