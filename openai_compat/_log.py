"""The library's logger. What a server or a model wrote stays in the line that tells of it."""

from __future__ import annotations

import logging
import os

from ._terminal import harmless, one_line
from .redaction import redact_error_body

log: logging.Logger = logging.getLogger("openai_compat")


_WORDS = frozenset({"provider", "model", "origin", "request_id", "error", "finish_reason"})
"""Fields of a record that somebody else wrote."""


def _keep_lines(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_in_one_line, record.args))
    for name in _WORDS & vars(record).keys():
        setattr(record, name, _in_one_line(getattr(record, name)))
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


def logger(room: str) -> logging.Logger:
    """The logger of a part of the library, ``openai_compat.<room>``, whose lines are kept as well."""
    child = log.getChild(room)
    child.addFilter(_keep_lines)  # that of the parent sees only what is logged there
    return child


def log_as_environment_says() -> None:
    """Log to standard error where ``OPENAI_COMPAT_LOG`` says ``debug``, ``info``, ``warning`` or ``error``.

    It is read once in a process. Where the program has handlers of its own, or gets them later, the lines go there, and
    only the level is set.
    """
    global _read_environment
    if _read_environment:
        return
    _read_environment = True
    said = os.environ.get("OPENAI_COMPAT_LOG", "").strip().upper()
    if not said:
        return
    if said not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        log.warning("OPENAI_COMPAT_LOG is debug, info, warning or error, not %r", said.lower())
        return
    log.setLevel(said)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.addFilter(lambda record: log.handlers == [handler] and not logging.root.handlers)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)


_read_environment = False
