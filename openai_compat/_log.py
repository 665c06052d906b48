"""The library's logger. What a server or a model wrote stays in the line that tells of it."""

from __future__ import annotations

import logging

from ._terminal import harmless, one_line
from .redaction import redact_error_body

log: logging.Logger = logging.getLogger("openai_compat")


def _keep_lines(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_in_one_line, record.args))
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = _traceback(record.exc_info[1])
    return True


def _traceback(error: BaseException) -> str:
    """As logging writes it, but what an exception says stays below its name, without credentials.

    It may quote a model, or the address that a tool has asked.
    """
    import traceback

    pieces = traceback.TracebackException.from_exception(error).format()
    return "\n".join(_in_place(piece) for piece in pieces)


def _in_place(piece: str) -> str:
    if piece.startswith(" "):  # a frame and its lines of source
        return harmless(piece).rstrip("\n")
    said = redact_error_body(piece, limit=len(piece))
    return "\n    ".join(map(harmless, said.strip("\n").splitlines()))


def _in_one_line(value: object) -> object:
    if not isinstance(value, (str, BaseException)) or str(value).isprintable():
        return value
    return one_line(str(value))


log.addFilter(_keep_lines)
