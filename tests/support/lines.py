"""What a call costs, in lines of Python that run: a measure that no other process disturbs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

Trace = Callable[[FrameType, str, Any], Any]


def traced(trace: Trace, work: Callable[[], T]) -> T:
    """Call ``work`` under a trace function; afterwards the thread has the one again that it had, such as coverage's."""
    before = sys.gettrace()
    # Set and restored in one frame, so that coverage's tracer sees as many calls as returns.
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)


def lines_run(work: Callable[[], object], module: ModuleType | None = None, *, most: int = sys.maxsize) -> int:
    """How many lines ``work`` runs, or how many of a module's own; it is ended by a TimeoutError after ``most``."""
    count = 0
    path = module and module.__file__

    def enter(frame: FrameType, event: str, arg: object) -> Trace | None:
        return step if path in (None, frame.f_code.co_filename) else None

    def step(frame: FrameType, event: str, arg: object) -> Trace:
        nonlocal count
        count += event == "line"
        if count > most:
            raise TimeoutError(f"more than {most} lines")
        return step

    traced(enter, work)
    return count
