"""Streams of a cell that failed: closed, for IPython keeps its traceback, and that would keep them open."""

from __future__ import annotations

import sys
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from .shell import ipython

if TYPE_CHECKING:
    from ...stream import ChatStream

_watchers: weakref.WeakKeyDictionary[Any, _Watcher] = weakref.WeakKeyDictionary()


def close_streams_of_failed_cells(shell: Any) -> None:
    """Close the streams that a cell has opened, when it fails or is interrupted; those of other cells stay open."""
    if shell not in _watchers:
        watcher = _watchers[shell] = _Watcher()
        shell.events.register("pre_run_cell", watcher.cell_begins)
        shell.events.register("post_run_cell", watcher.cell_ended)
        watcher.note(shell.user_ns)


def leave_streams_open(shell: Any) -> None:
    """Leave it to the collector again."""
    watcher = _watchers.pop(shell, None)
    if watcher is not None:
        shell.events.unregister("pre_run_cell", watcher.cell_begins)
        shell.events.unregister("post_run_cell", watcher.cell_ended)


class _Watcher:
    def __init__(self) -> None:
        self._before: weakref.WeakSet[ChatStream] = weakref.WeakSet()

    def note(self, names: dict[str, Any]) -> None:
        """These streams are of cells before."""
        self._before.clear()
        self._before.update(_streams(names))

    def cell_begins(self, info: Any) -> None:
        self.note(ipython().user_ns)

    def cell_ended(self, result: Any) -> None:
        if result.error_in_exec is None:
            return
        for frame, _ in traceback.walk_tb(result.error_in_exec.__traceback__):
            for stream in _streams(frame.f_locals):
                if stream not in self._before:
                    stream.close()


def _streams(names: dict[str, Any]) -> list[ChatStream]:
    module = sys.modules.get("openai_compat.stream")
    return [] if module is None else [value for value in list(names.values()) if isinstance(value, module.ChatStream)]
