"""Bytes from a fuzzer as what a target takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from openai_compat._json import NotJSONError, decode_json

SECRET = "sk-fuzz-4f9Kq27ZtRw81LmXyC"
"""A caller's key, which stands for the byte 0x00 in texts that a server may echo it in."""


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """All but the first byte, and the same in pieces, whose lengths follow from that byte."""
    body = data[1:]
    lengths = random.Random(data[:1])
    pieces = []
    at = 0
    while at < len(body):
        size = lengths.choice((1, 1, 2, 3, 7, 40, 300, 5000))
        pieces.append(body[at : at + size])
        at += size
    return body, pieces


def text(data: bytes) -> str:
    """A text that JSON can spell: ``\\xed\\xa0\\xbd`` is half of a surrogate pair."""
    return data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("utf-8", "replace")


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeError:
        return False
    return True


def json_value(data: bytes) -> Any:
    """The JSON value that ``data`` is; None where it is none."""
    try:
        return decode_json(data)
    except NotJSONError:
        return None


def attempt(work: Callable[[], Any], *documented: type[BaseException]) -> Any:
    """What ``work`` returns, or the documented exception that it raises; any other is a finding."""
    try:
        return work()
    except documented as error:
        return error
