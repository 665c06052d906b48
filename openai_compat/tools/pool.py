"""Running the calls of one round: each on a thread where that helps, their results in the order of the calls."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any

import attrs

from .._bell import Bell
from .._interrupts import interrupts
from .._log import logger
from .._threads import spawn
from ..cancel import CancelToken
from ..errors import Cancelled, ToolError
from ..schema.problems import ValidationError
from ..wire.messages import CUSTOM, ToolCall
from ..wire.tool_results import ToolResult
from .tool import Toolbox

log: logging.Logger = logger("tools")

HELD_UP_SECONDS = 5.0
"""How long a call that may take any time waits for those that timed out."""


WatchTool = Callable[[ToolCall], AbstractContextManager[Callable[[ToolResult], object]]]

tool_caller: ContextVar[Callable[[Callable[[], Any]], Any]] = ContextVar("tool_caller")
"""Calls the tools of this context, for instance on another thread, and returns what they return."""


def run_calls(
    toolbox: Toolbox,
    calls: Sequence[ToolCall],
    *,
    max_parallel: int = 8,
    timeout: float | None = None,
    cancel: CancelToken | None = None,
    watch: WatchTool | None = None,
) -> list[ToolResult]:
    """Run calls, and give their results in the same order.

    A single call runs on the calling thread, unless it may have to be left behind: with a timeout, or with ``cancel``.

    Args:
        max_parallel: most calls that run at once, those included that timed out before and still run; tools that are
            not ``parallel`` run alone.
        timeout: seconds for a call whose tool says nothing of it. A call that waits as long for those that timed out
            does not run.
        cancel: ends the waiting; tools that take a ``CancelToken`` are told, those that do not go on unheard.
        watch: makes what is entered, on its thread, while a call runs, and then told the result.

    Raises:
        Cancelled: by ``cancel``.
        KeyboardInterrupt, SystemExit: from a tool, or while waiting for it.
    """
    results: list[ToolResult] = []
    for batch in _batches(toolbox, calls, max_parallel):
        limits = [toolbox.timeout(call.name) or timeout for call in batch]
        most = max_parallel if toolbox.parallel(batch[0].name) else 1
        if len(batch) == 1 and cancel is None and limits[0] is None and toolbox.left_behind() < most:
            results.append(run_call(toolbox, batch[0], watch=watch))
        else:
            results.extend(_Round(toolbox, batch, limits, most, cancel, watch).run())
    return results


def _batches(toolbox: Toolbox, calls: Sequence[ToolCall], max_parallel: int) -> Iterator[list[ToolCall]]:
    """Runs of calls that may be under way at once."""
    batch: list[ToolCall] = []
    for call in calls:
        if max_parallel > 1 and toolbox.parallel(call.name):
            batch.append(call)
            continue
        if batch:
            yield batch
        batch = []
        yield [call]
    if batch:
        yield batch


def run_call(
    toolbox: Toolbox, call: ToolCall, cancel: CancelToken | None = None, *, watch: WatchTool | None = None
) -> ToolResult:
    """Run one call; whatever goes wrong is told to the model, which may recover from it.

    Raises:
        Cancelled: the tool gave up because ``cancel`` was cancelled.
        Exception: what a signal's handler raised while the tool ran, such as a task's time limit.
    """
    # A custom tool is a function of one parameter, which has the wire's name for its text.
    arguments = {"input": call.input} if call.type == CUSTOM else call.arguments
    if arguments is None or (call.invalid and call.type != CUSTOM):
        return invalid_result(call)
    if watch is None or not toolbox.has(call.name):
        return _run(toolbox, call, arguments, cancel)
    with watch(call) as tell:
        result = _run(toolbox, call, arguments, cancel)
        tell(result)
        return result


def _run(toolbox: Toolbox, call: ToolCall, arguments: Mapping[str, Any], cancel: CancelToken | None) -> ToolResult:
    started = time.monotonic()
    try:
        text = "" if call.type == CUSTOM else call.arguments_json
        use = partial(toolbox.call, call.name, arguments, cancel, text=text)
        caller = tool_caller.get(None)
        value = use() if caller is None else caller(use)
        return ToolResult.of(call, value, seconds=time.monotonic() - started)
    except (ToolError, ValidationError) as error:
        failure: Exception = error
        problem = str(error)
    except Exception as error:
        if (isinstance(error, Cancelled) and cancel is not None and cancel.cancelled) or interrupts(error):
            raise
        log.warning("tool %s failed", call.name, exc_info=True)
        failure = error
        problem = f"{type(error).__name__}: {error}"
    return ToolResult.failure(call, problem, error=failure, seconds=time.monotonic() - started)


def invalid_result(call: ToolCall) -> ToolResult:
    """What the model is told of a call without arguments that could be passed on."""
    return ToolResult.failure(call, f"the arguments are not a JSON object: {call.arguments_json[:200]}")


@attrs.define(eq=False)
class _Running:
    token: CancelToken
    thread: threading.Thread
    started: float
    limit: float | None

    @property
    def left(self) -> float | None:
        return None if self.limit is None else self.started + self.limit - time.monotonic()


class _Round:
    """Calls on threads of their own, which are daemons: one that never ends keeps nobody from leaving."""

    def __init__(
        self,
        toolbox: Toolbox,
        calls: Sequence[ToolCall],
        limits: Sequence[float | None],
        max_parallel: int,
        cancel: CancelToken | None,
        watch: WatchTool | None,
    ) -> None:
        self._watch = watch
        self._toolbox = toolbox
        self._calls = calls
        self._limits = limits
        self._max_parallel = max_parallel
        self._cancel = cancel
        self._running: dict[int, _Running] = {}
        self._results: dict[int, ToolResult] = {}
        self._held_up_since: float | None = None
        self._came: deque[tuple[int, ToolResult | BaseException]] = deque()
        self._news = Bell()

    def run(self) -> list[ToolResult]:
        """All results, in the order of the calls."""
        if self._cancel is not None:
            self._cancel.subscribe(self._news.ring)
        try:
            self._run()
        finally:
            if self._cancel is not None:
                self._cancel.unsubscribe(self._news.ring)
            for running in self._running.values():
                self._toolbox.leave_behind(running.thread)
                running.token.cancel()
        return [self._results[number] for number in range(len(self._calls))]

    def _run(self) -> None:
        waiting = deque(range(len(self._calls)))
        while waiting or self._running:
            if self._cancel is not None:
                self._cancel.raise_if_cancelled()
            while waiting and len(self._running) + self._toolbox.left_behind() < self._max_parallel:
                self._held_up_since = None
                self._start(waiting.popleft())
            if waiting and not self._running:
                self._give_up_on_the_held_up(waiting)
            limits = [left for running in self._running.values() if (left := running.left) is not None]
            # Never for long: a Ctrl-C that comes just before the wait is heard only after it; nor is the end of a call
            # that was left behind.
            most = 0.05 if waiting and not self._running else 0.5
            if not self._came and not self._news.wait(min([*limits, most])):
                self._give_up_on_the_late()
            elif self._came and not (self._cancel is not None and self._cancel.cancelled):
                self._take(*self._came.popleft())

    def _start(self, number: int) -> None:
        token = CancelToken()
        started = time.monotonic()
        thread = spawn(self._work, number, token, name="openai_compat tool")
        self._running[number] = _Running(token, thread, started, self._limits[number])

    def _work(self, number: int, token: CancelToken) -> None:
        try:
            outcome: ToolResult | BaseException = run_call(self._toolbox, self._calls[number], token, watch=self._watch)
        except BaseException as error:
            outcome = error
        self._came.append((number, outcome))
        self._news.ring()

    def _take(self, number: int, outcome: ToolResult | BaseException) -> None:
        if self._running.pop(number, None) is None:
            return  # too late: the model has been told that it timed out
        if isinstance(outcome, BaseException):
            raise outcome
        self._results[number] = outcome

    def _give_up_on_the_late(self) -> None:
        for number, running in list(self._running.items()):
            if running.limit is not None and (running.left or 0.0) <= 0:
                del self._running[number]
                self._toolbox.leave_behind(running.thread)
                running.token.cancel()
                call = self._calls[number]
                log.warning("tool %s did not end within %g s; its thread goes on", call.name, running.limit)
                problem = f"the tool timed out after {running.limit:g} s"
                self._results[number] = ToolResult.failure(
                    call, problem, error=TimeoutError(problem), seconds=running.limit
                )

    def _give_up_on_the_held_up(self, waiting: deque[int]) -> None:
        """Answer the calls that have waited for as long as they may run."""
        now = time.monotonic()
        since = self._held_up_since = now if self._held_up_since is None else self._held_up_since
        for number in list(waiting):
            if now - since >= (self._limits[number] or HELD_UP_SECONDS):
                waiting.remove(number)
                problem = f"not run: {self._toolbox.left_behind()} calls that timed out are still running"
                self._results[number] = ToolResult.failure(self._calls[number], problem)
