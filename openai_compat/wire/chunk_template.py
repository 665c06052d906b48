"""Chunks that differ from an earlier one in one string alone, as nearly all of a stream do: read at less cost.

What stands before and after that string is compared byte by byte. A chunk that has anything else of its own, or whose
string is not whole, is none of these, and is decoded like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from .._json import NotJSONError, decode_json

_STRING = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*+")')
_NOT_AGAIN = ("error", "base_resp", "usage", "x_groq")
_CHOICE_KEYS = frozenset({"index", "delta", "finish_reason", "logprobs"})
_TRIES = 16
"""Chunks that are learnt from without a gain: where something changes with every chunk, learning would only cost."""

_string = msgspec.json.Decoder(str).decode


class ChunkTemplate:
    """One chunk as a pattern, the string in its delta being any."""

    __slots__ = ("_begin", "_end", "_make", "_prefix", "_suffix", "_tries")

    def __init__(self) -> None:
        self._prefix = b"\x00"
        self._suffix = b""
        self._begin = self._end = 0
        self._tries = 0
        self._make: Callable[[str], dict[str, Any]] | None = None

    def read(self, data: bytes) -> Any:
        """What ``data`` says, where it is such a chunk: a string of content, or what another delta holds; else None."""
        if not (data.startswith(self._prefix) and data.endswith(self._suffix)):
            return None
        try:
            text = _string(data[self._begin : self._end])
        except (msgspec.DecodeError, UnicodeError):
            return None
        self._tries = 0
        return text if self._make is None else self._make(text)

    def learn(self, data: bytes, payload: dict[str, Any]) -> None:
        """Take a chunk as the pattern, if to read it again with another string would change nothing else."""
        if self._tries >= _TRIES:
            return
        self._tries += 1
        path = _only_string(payload)
        if not path:
            return
        key = b'"%b"' % path[-1].encode()
        at = data.rfind(key)
        value = _STRING.match(data, at + len(key)) if at >= 0 else None
        if value is None or value.end() == len(data):
            return
        prefix, suffix = data[: value.start(1)], data[value.end() :]
        try:
            other = decode_json(prefix + b'"\\u007f"' + suffix)
        except NotJSONError:
            return
        # The proof: with another string there, nothing else is different.
        if other == _with(payload, path, "\x7f"):
            self._prefix, self._suffix = prefix, suffix
            self._begin, self._end = len(prefix), -len(suffix)
            self._make = _maker(payload["choices"][0], path)


def _only_string(payload: dict[str, Any]) -> tuple[Any, ...]:
    """Where the one string stands that a chunk brings; empty where it brings anything else, or nothing."""
    choices = payload.get("choices")
    if type(choices) is not list or len(choices) != 1 or any(payload.get(key) is not None for key in _NOT_AGAIN):
        return ()
    choice = choices[0]
    if type(choice) is not dict or not _CHOICE_KEYS.issuperset(choice):
        return ()
    delta = choice.get("delta")
    if type(delta) is not dict or choice.get("finish_reason") or choice.get("logprobs"):
        return ()
    said = [key for key, value in delta.items() if value is not None and value != "" and key != "role"]
    if len(said) != 1:
        return ()
    (key,) = said
    if key in ("content", "reasoning_content", "reasoning") and type(delta[key]) is str:
        return ("choices", 0, "delta", key)
    calls = delta[key]
    if key != "tool_calls" or type(calls) is not list or len(calls) != 1 or type(calls[0]) is not dict:
        return ()
    (call,) = calls
    brings = {name for name, value in call.items() if value} - {"index", "function"}
    function = call.get("function")
    if brings - {"type"} or type(function) is not dict or type(function.get("arguments")) is not str:
        return ()
    if any(value for name, value in function.items() if name != "arguments"):
        return ()
    return ("choices", 0, "delta", key, 0, "function", "arguments")


def _with(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """A copy of ``value`` with ``text`` at the end of ``path``."""
    if not path:
        return text
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], text)
    return copy


def _maker(choice: dict[str, Any], path: tuple[Any, ...]) -> Callable[[str], dict[str, Any]] | None:
    """What makes the least payload that says the same; None for the first choice's content, which is the string."""
    index, key = choice.get("index"), path[3]
    if key == "tool_calls":
        call = choice["delta"][key][0]
        if "index" in call:
            number = call["index"]
            return lambda text: {
                "choices": [
                    {"index": index, "delta": {key: [{"index": number, "function": {"arguments": text}}]}},
                ]
            }
        return lambda text: {"choices": [{"index": index, "delta": {key: [{"function": {"arguments": text}}]}}]}
    if key == "content" and not index:
        return None
    return lambda text: {"choices": [{"index": index, "delta": {key: text}}]}
