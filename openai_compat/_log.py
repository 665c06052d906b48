"""The library's logger. What a server or a model wrote stays in the line that tells of it."""

from __future__ import annotations

import logging

from ._terminal import one_line

log: logging.Logger = logging.getLogger("openai_compat")


def _keep_lines(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_in_one_line, record.args))
    return True


def _in_one_line(value: object) -> object:
    if not isinstance(value, (str, BaseException)) or str(value).isprintable():
        return value
    return one_line(str(value))


log.addFilter(_keep_lines)
