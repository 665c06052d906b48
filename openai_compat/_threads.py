"""Threads that run code of the library's users: tools, sinks, calls in the background."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger("openai_compat")

_at_end: list[Callable[[], object]] = []


def spawn(function: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Call a function on a new thread, in a copy of the caller's context; a daemon, which keeps nobody from leaving."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_run, function, args), name=name, daemon=True)
    thread.start()
    return thread


def at_thread_end(hook: Callable[[], object]) -> None:
    """Have every thread of ``spawn`` call ``hook`` as its last act, for what users' code leaves open in a thread."""
    if hook not in _at_end:
        _at_end.append(hook)


def _run(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    finally:
        for hook in _at_end:
            try:
                hook()
            except Exception:
                log.exception("what a thread left open could not be closed")
