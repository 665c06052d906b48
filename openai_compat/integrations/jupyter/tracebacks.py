"""Short tracebacks in IPython: the library's errors without the library's own frames."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any

from ...errors import OpenAICompatError

_SHORT = (KeyboardInterrupt, OpenAICompatError)
_LIBRARIES = {"openai_compat", "requests", "urllib3", "http", "ssl", "socket", "concurrent"}


def shorten_tracebacks(shell: Any) -> None:
    """Show what the library raises without the library's own frames, unless somebody handles exceptions already."""
    if not shell.custom_exceptions:
        shell.set_custom_exc(_SHORT, _show_short)


def restore_tracebacks(shell: Any) -> None:
    """Show whole tracebacks again."""
    if shell.custom_exceptions is _SHORT:
        shell.set_custom_exc((), None)


def show_one_line(error: BaseException, line: str) -> None:
    """Have IPython show one line in place of the traceback."""
    error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]


def _show_short(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    where: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    """IPython's handler of the exceptions in ``_SHORT``."""
    if isinstance(error, KeyboardInterrupt):
        if any(_library(frame.f_globals) == "openai_compat" for frame, _ in traceback.walk_tb(where)):
            # With all frames, IPython needs half a second longer.
            show_one_line(error, "KeyboardInterrupt: the call was stopped")
        shell.showtraceback((kind, error, where), tb_offset=tb_offset)
        return
    chained = error.__cause__, error.__context__, error.__suppress_context__
    error.__cause__ = error.__context__ = None
    try:
        shell.showtraceback((kind, error, _own_frames(where)), tb_offset=tb_offset)
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = chained
        # For %tb and %debug, which are asked for.
        sys.last_traceback = where


def _own_frames(where: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of libraries."""
    if where is None:
        return None
    rest = _own_frames(where.tb_next)
    if _library(where.tb_frame.f_globals) in _LIBRARIES:
        return rest
    return TracebackType(rest, where.tb_frame, where.tb_lasti, where.tb_lineno)


def _library(names: dict[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
