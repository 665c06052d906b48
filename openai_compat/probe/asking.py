"""The requests of a probe: sent one by one, counted, bounded in time; a refusal is an answer like others."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import attrs

from .._json import NotJSONError, as_int, decode_json, encode_reply
from .._terminal import one_line
from ..errors import APIError, APIStatusError
from ..wire.sse import TICK

MAX_DETAIL = 90
"""Characters of a server's words that a row shows."""
MAX_BYTES = 2_000_000
"""Bytes of one answer that are read."""


_OURS = re.compile(r"^HTTP \d+ from \S+?: | \((?:asked at|set api_key)[^()]*\)$")
"""What the library adds to a server's words for other readers."""
_UNSUPPORTED = re.compile(r"\bnot? (?:be )?support|unsupported|not implemented|does not exist", re.IGNORECASE)
"""How servers refuse with a status that says that they failed."""


class Reply(Protocol):
    """An answer whose body has yet to come."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> Iterator[bytes]:
        """The body, as it comes."""

    def finish(self) -> object:
        """All has been read."""

    def close(self) -> None:
        """Read no further."""


class Send(Protocol):
    """How a request reaches the server; raises an ``APIError``."""

    def __call__(
        self, method: str, path: str, body: bytes | None, *, seconds: float, headers: Mapping[str, str], at_root: bool
    ) -> Reply:
        """Send it, and wait for the head of the reply."""


class Unanswered(Exception):  # noqa: N818 - nobody's error: what a row then says
    """The server did not answer, or broke off."""


@attrs.frozen(kw_only=True)
class Answer:
    """What came back. ``refusal`` is empty where the server did as it was asked; ``pieces`` have the bytes and when."""

    status: int
    value: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    pieces: tuple[tuple[float, bytes], ...] = ()
    seconds: float = 0.0
    refusal: str = ""
    error: APIStatusError | None = None

    @property
    def ok(self) -> bool:
        """Whether it is no refusal."""
        return not self.refusal

    @property
    def choices(self) -> list[Mapping[str, Any]]:
        """The choices of a completion."""
        listed = self.value.get("choices") if isinstance(self.value, dict) else None
        return [choice for choice in listed if isinstance(choice, dict)] if isinstance(listed, list) else []

    @property
    def message(self) -> Mapping[str, Any]:
        """The message of the first choice."""
        said = self.choices[0].get("message") if self.choices else None
        return said if isinstance(said, dict) else {}

    @property
    def text(self) -> str:
        """The text of the first choice, without blanks around it."""
        content = self.message.get("content")
        return content.strip() if isinstance(content, str) else ""

    @property
    def calls(self) -> list[Mapping[str, Any]]:
        """The functions that the first choice calls."""
        listed = self.message.get("tool_calls")
        calls = [call.get("function") for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
        return [call for call in calls if isinstance(call, dict)]

    @property
    def usage(self) -> Mapping[str, Any]:
        """The tokens, as the server counted them."""
        said = self.value.get("usage") if isinstance(self.value, dict) else None
        return said if isinstance(said, dict) else {}


class Asker:
    """Asks one server, and keeps count.

    Args:
        seconds: that a question, with all its requests, may take.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._until = 0.0
        self._lock = threading.Lock()
        self.requests: int = 0
        self.input_tokens: int = 0
        self.output_tokens: int = 0

    def next_question(self) -> None:
        """Its time begins now."""
        self._until = time.monotonic() + self._seconds

    def get(self, path: str) -> Answer:
        """Ask for a path of the API."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, at_root: bool = False) -> Answer:
        """Post to a path of the API, or of the server's root.

        Raises:
            Unanswered: no answer, or not the whole of one.
        """
        answer = self._ask("POST", path, encode_reply(body), headers or {}, at_root)
        if answer.ok:
            self.count(answer.usage)
        return answer

    def count(self, usage: Mapping[str, Any]) -> None:
        """Add the tokens that an answer tells of."""
        with self._lock:
            self.input_tokens += as_int(usage.get("prompt_tokens")) or 0
            self.output_tokens += as_int(usage.get("completion_tokens")) or 0

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None, root: bool = False
    ) -> Answer:
        begun = time.monotonic()
        left = self._until - begun
        if left <= 0:
            raise Unanswered(f"no answer within {self._seconds:g} s")
        with self._lock:
            self.requests += 1
        try:
            reply = self._send(method, path, body, seconds=left, headers=headers or {}, at_root=root)
            pieces = tuple((time.monotonic() - begun, piece) for piece in self._pieces(reply))
        except APIStatusError as error:
            said = _OURS.sub("", one_line(str(error)))
            words = f"HTTP {error.status_code}: {said}"
            if error.status_code >= 500 and not _UNSUPPORTED.search(said):
                raise Unanswered(words) from error
            return Answer(status=error.status_code, refusal=words, seconds=time.monotonic() - begun, error=error)
        except APIError as error:
            raise Unanswered(str(error)) from error
        whole = b"".join(piece for _, piece in pieces)
        value = _decoded(whole)
        error_said = value.get("error") if isinstance(value, dict) else None
        return Answer(
            status=reply.status,
            value=value,
            headers=reply.headers,
            pieces=pieces,
            seconds=time.monotonic() - begun,
            refusal=f"HTTP {reply.status}, an error: {error_said}" if error_said else "",
        )

    @staticmethod
    def _pieces(reply: Reply) -> Iterator[bytes]:
        size = 0
        for piece in reply.chunks():
            if piece is TICK:
                continue
            size += len(piece)
            if size > MAX_BYTES:
                reply.close()
                raise Unanswered(f"an answer of more than {MAX_BYTES:,} bytes")
            yield piece
        # The connection is for the next question.
        reply.finish()


def shown(said: str, hide: Callable[[str], str]) -> str:
    """Others' words as a row shows them: in one short line, and without what ``hide`` takes out of it."""
    # Cut is what is hidden already: a piece of a key is not found.
    line = hide(one_line(printable(said)))
    return line if len(line) <= MAX_DETAIL else f"{line[: MAX_DETAIL - 1]}…"


def _decoded(body: bytes) -> Any:
    try:
        return decode_json(body)
    except NotJSONError:
        return None


def printable(text: str) -> str:
    """A text without halves of surrogate pairs, which no file and no terminal takes."""
    return text.encode("utf-8", "replace").decode()
