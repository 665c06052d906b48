"""A conversation that a person can hold, save and resume."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from .errors import ConfigurationError
from .tool_loop import ToolOptions, ToolRound, tool_rounds
from .tools import Toolbox, ToolDispatcher
from .wire.messages import Message, Usage
from .wire.request import ChatRequest, request_messages
from .wire.response import ChatResponse

FORMAT = "openai_compat.conversation"
VERSION = 1
"""Of the file format. Every version that was ever written is read."""

_TOOL_OPTIONS = frozenset(field.name for field in attrs.fields(ToolOptions)) - {"cancel"}


Ask = Callable[..., ChatResponse]
"""Who answers: ``Client.chat``, or a function like it, which takes a ``ChatRequest`` and keyword options."""


class Conversation:
    """A chat history that grows with each ``say``.

    A turn that fails or is cancelled leaves the history as it was. One thread at a time may ``say``.

    Args:
        ask: ``Client.chat``, or a function like it. ``Client.conversation`` fills it in.
        system: instructions, sent first.
        tools: run as ``Client.run_tools`` does; their calls and results become part of the history.
        dispatcher: runs the tools that are given as ``ToolSpec``.
        messages: a history to go on with.
        fields: any other field of ``ChatRequest`` and ``ToolOptions``, for every turn.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        system: str | None = None,
        tools: Iterable[Any] = (),
        dispatcher: ToolDispatcher | None = None,
        messages: Iterable[Mapping[str, Any]] = (),
        **fields: Any,
    ) -> None:
        self._ask = ask
        self._tools = Toolbox(tools, dispatcher)
        self._options = {name: fields.pop(name) for name in _TOOL_OPTIONS & fields.keys()}
        ToolOptions(**self._options)
        self.request = _request(ChatRequest(system=system, tools=self._tools.specs), fields)
        self._messages = tuple(
            message if isinstance(message, Message) else Message.from_wire(message) for message in messages
        )
        self._usage: Usage | None = None
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<Conversation of {len(self._messages)} messages>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history, without the system message."""
        return self._messages

    @property
    def usage(self) -> Usage | None:
        """The tokens of all that was said through this object; None where no server reported any."""
        return self._usage

    def say(
        self,
        prompt: str,
        *,
        images: Any = (),
        audio: Any = (),
        on_round: Callable[[ToolRound], object] | None = None,
        **options: Any,
    ) -> ChatResponse:
        """Say something, and wait for the answer.

        Args:
            images, audio: as for ``Client.chat``; sent after the text.
            on_round: called with each round of the tool loop, where there are tools.
            options: what ``Client.chat`` takes: ``sink``, ``cancel``, ``timeout``, ``response_type``, ``repair``; and
                any field of ``ChatRequest`` for this turn only.

        Raises:
            ConfigurationError: another thread is in the middle of a turn.
            OpenAICompatError: whatever ``Client.chat`` and ``Client.run_tools`` raise; the history is as before.
        """
        if not self._turn.acquire(blocking=False):
            raise ConfigurationError("a turn of this conversation is under way; fork() it to ask beside it")
        try:
            fields = {name: options.pop(name) for name in options.keys() & _REQUEST_FIELDS}
            tool_options = {name: options.pop(name) for name in options.keys() & _TOOL_OPTIONS}
            said = request_messages(ChatRequest(prompt, images=images, audio=audio))
            request = _request(attrs.evolve(self.request, messages=(*self._messages, *said)), fields)
            answer, messages = self._answer(request, {**self._options, **tool_options}, on_round, options)
            self._messages = tuple(Message.from_wire(message) for message in messages)
            self._usage = answer.usage + self._usage if answer.usage is not None else self._usage
            return answer
        finally:
            self._turn.release()

    def _answer(
        self,
        request: ChatRequest,
        tool_options: Mapping[str, Any],
        on_round: Callable[[ToolRound], object] | None,
        options: Mapping[str, Any],
    ) -> tuple[ChatResponse, Sequence[Mapping[str, Any]]]:
        """The answer to the last message, and the history with it."""
        if not request.tools:
            answer = self._ask(request, **options)
            return answer, (*request.messages, answer.to_message())
        loop = ToolOptions(cancel=options.get("cancel"), **tool_options)
        for round_ in tool_rounds(lambda asked: self._ask(asked, **options), request, self._tools, loop):
            if on_round is not None:
                on_round(round_)
        return round_.total(), round_.messages[1 if request.system else 0 :]

    def fork(self) -> Conversation:
        """Another conversation with the same past; from here on each has its own history and count of tokens."""
        other = Conversation(self._ask)
        other._tools, other._options, other.request = self._tools, self._options, self.request
        other._messages = self._messages
        return other

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn: what was said, and all that came of it. What was taken back, oldest first."""
        turns = list(_turns(self._messages))
        if not turns:
            return ()
        self._messages = self._messages[: len(self._messages) - len(turns[-1])]
        return turns[-1]

    def trim(self, *, max_tokens: int, count: Callable[[Sequence[Message]], int] | None = None) -> tuple[Message, ...]:
        """Forget the oldest turns until the rest has at most ``max_tokens``; what was forgotten.

        Whole turns go, so that no tool call loses its result; the last turn and the system message stay in any case.

        Args:
            max_tokens: of the system message and the history; leave room for the answer.
            count: tokens of some messages; by default ``estimate_tokens``.
        """
        count = count or estimate_tokens
        turns = list(_turns(self._messages))
        system = [Message(role="system", content=self.request.system)] if self.request.system else []
        sizes = [count(turn) for turn in turns]
        excess = sum(sizes) + (count(system) if system else 0) - max_tokens
        dropped = 0
        while excess > 0 and dropped < len(turns) - 1:
            excess -= sizes[dropped]
            dropped += 1
        gone = tuple(message for turn in turns[:dropped] for message in turn)
        self._messages = self._messages[len(gone) :]
        return gone

    def to_json(self) -> str:
        """The conversation as JSON: model, system message, history and usage; tools and other settings are not in it.

        The messages stand there in the wire's own form, for other programs to read.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.request.model,
            "system": self.request.system,
            "usage": None if self._usage is None else attrs.asdict(self._usage),
            "messages": [_saved(message) for message in self._messages],
        }
        return json.dumps(document, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, ask: Ask, **options: Any) -> Conversation:
        """A conversation as ``to_json`` gave it, of this or of an earlier version.

        Args:
            options: as for the class; ``model`` and ``system`` in place of the saved ones.

        Raises:
            ConfigurationError: not a saved conversation, or one of a later version.
        """
        document = _document(text)
        options = {"model": document.model, "system": document.system, **options}
        made = cls(ask, messages=[_loaded(message) for message in document.messages], **options)
        made._usage = Usage(**document.usage) if document.usage else None
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json`` to a file, whole or not at all."""
        target = Path(path)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            try:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], ask: Ask, **options: Any) -> Conversation:
        """Read what ``save`` wrote; takes what ``from_json`` takes.

        Raises:
            ConfigurationError: no such file, not a saved conversation, or one of a later version.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read the conversation {str(path)!r}: {error.strerror}") from error
        return cls.from_json(text, ask, **options)


_REQUEST_FIELDS = frozenset(field.name for field in attrs.fields(ChatRequest)) - {"prompt", "images", "audio"}
_OWN_FIELDS = frozenset({"messages", "tools"})


def _request(request: ChatRequest, fields: Mapping[str, Any]) -> ChatRequest:
    """A request with other fields."""
    if unknown := fields.keys() - _REQUEST_FIELDS:
        raise TypeError(f"no such field of a chat request: {', '.join(sorted(unknown))}")
    if own := fields.keys() & _OWN_FIELDS:
        raise TypeError(f"{', '.join(sorted(own))}: of the conversation as a whole, not of one turn")
    return attrs.evolve(request, **fields) if fields else request


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """The turns of a history: each begins with what the user says.

    A user message after a tool's result shows the tool's images, and belongs to the turn.
    """
    begins = 0
    for at in range(1, len(messages)):
        if messages[at].role == "user" and messages[at - 1].role != "tool":
            yield tuple(messages[begins:at])
            begins = at
    if messages:
        yield tuple(messages[begins:])


def estimate_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens some messages have: one for four bytes of UTF-8, 4 a message, 1000 an image or sound."""
    total = 0
    for message in messages:
        parts = message.content if isinstance(message.content, (list, tuple)) else [{"text": message.content or ""}]
        texts = [str(part["text"]) for part in parts if "text" in part]
        texts += [call.name + call.arguments_json for call in message.tool_calls]
        total += 4 + sum(len(text.encode("utf-8", "replace")) for text in texts) // 4
        total += 1000 * sum("text" not in part for part in parts)
    return total


class _Saved(msgspec.Struct):
    """One message of a file. ``invalid_arguments``: of calls whose arguments were no JSON, by the call's id."""

    message: dict[str, Any]
    origin: str = ""
    invalid_arguments: dict[str, str] = msgspec.field(default_factory=dict)


class _Document(msgspec.Struct):
    format: str
    version: int
    messages: list[_Saved] = msgspec.field(default_factory=list)
    model: str | None = None
    system: str | None = None
    usage: dict[str, Any] | None = None


class _Head(msgspec.Struct):
    format: str
    version: int


def _document(text: str | bytes) -> _Document:
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format != FORMAT:
            raise ConfigurationError(f"not a saved conversation: its format is {head.format!r}, not {FORMAT!r}")
        if head.version > VERSION:
            raise ConfigurationError(
                f"saved by a later version of this library (format {head.version}; this one reads up to {VERSION})"
            )
        return msgspec.json.decode(text, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"not a saved conversation: {error}") from error


def _saved(message: Message) -> dict[str, Any]:
    saved: dict[str, Any] = {"message": message.to_wire()}
    if message.origin:
        saved["origin"] = message.origin
    if invalid := {call.id: call.arguments_json for call in message.tool_calls if call.invalid}:
        saved["invalid_arguments"] = invalid
    return saved


def _loaded(saved: _Saved) -> Message:
    try:
        message = Message.from_wire(saved.message, origin=saved.origin)
    except ConfigurationError as error:
        raise ConfigurationError(f"not a saved conversation: {error}") from error
    calls = [
        attrs.evolve(call, arguments=None, arguments_json=saved.invalid_arguments[call.id], invalid=True)
        if call.id in saved.invalid_arguments
        else call
        for call in message.tool_calls
    ]
    return attrs.evolve(message, tool_calls=calls)
