"""Python's garbage collector, and how it is kept out of the way of pickles."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_changing = threading.Lock()
_pauses = 0
_was_on = False


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No collection, in any thread, until the block ends; one that was off before stays off.

    Where a hundred thousand objects come to be that are all kept, collections look for garbage among them over and
    over, and take as long as all else.
    """
    global _pauses, _was_on
    with _changing:
        if not _pauses:
            _was_on = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _changing:
            _pauses -= 1
            if not _pauses and _was_on:
                gc.enable()


def _begin_anew() -> None:
    """In a forked child, which has none of the threads that are in such a block."""
    global _pauses
    if _pauses and _was_on:
        gc.enable()
    _pauses = 0
    _changing.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_begin_anew)
