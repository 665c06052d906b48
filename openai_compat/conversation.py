"""A conversation that a person can hold, save and resume."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, overload

import attrs
import msgspec

from ._json import NotJSONError, as_mapping, as_text, decode_json
from ._misuse import unknown_fields
from ._rich_display import RichDisplay
from .errors import ConfigurationError
from .hooks import NO_HOOKS, Hooks
from .schema.text import text_of
from .tools.loop import ToolOptions, ToolRound, tool_rounds
from .tools.tool import Toolbox, ToolDispatcher
from .wire.messages import CUSTOM, Message, Usage, parse_arguments
from .wire.prices import Charge, cost_of
from .wire.request import ChatRequest, request_messages
from .wire.response import ChatResponse, ParsedResponse

T = TypeVar("T")
Ask = Callable[..., ChatResponse]
"""``Client.chat``, or a function like it, which takes a ``ChatRequest`` and keyword options."""


class Chats(Protocol):
    """A ``Client``, or an object like it."""

    @property
    def chat(self) -> Ask: ...


FORMAT = "openai_compat.conversation"
VERSION = 1
"""Of the file format. Every version that was ever written is read."""

_ASKED_IN_A_TURN = frozenset({"prompt", "images", "audio"})
_OF_A_TURN = _ASKED_IN_A_TURN | {"sink", "cancel", "timeout", "response_type", "repair", "think_opened", "on_round"}
_OF_THE_WHOLE = frozenset({"messages", "tools", "dispatcher"})
_REQUEST_FIELDS = frozenset(field.name for field in attrs.fields(ChatRequest)) - _ASKED_IN_A_TURN
_LOOP_FIELDS = frozenset(field.name for field in attrs.fields(ToolOptions)) - {"cancel", "watch"}


class Conversation(RichDisplay):
    """A chat history that grows with each ``say``.

    A turn that fails or is cancelled leaves history and usage as they were. While one is under way, another thread may
    read the history, save and fork it, but not change it. ``request`` holds what every turn asks with, apart from the
    messages.

    Args:
        client: who answers: a ``Client``, or a function like its ``chat``. ``Client.conversation`` fills it in.
        system: instructions, sent first.
        tools: run as ``Client.run_tools`` does; their calls and results become part of the history.
        dispatcher: runs the tools that are given as ``ToolSpec``.
        messages: a history to go on with.
        id: by which traces know it, saved with the conversation; by default a random one, which is not.
        fields: any other field of ``ChatRequest`` and ``ToolOptions``, for every turn.

    Raises:
        ConfigurationError: an unusable value.
        TypeError: an unknown field.
    """

    def __init__(
        self,
        client: Chats | Ask,
        *,
        system: str | None = None,
        tools: Iterable[Any] = (),
        dispatcher: ToolDispatcher | None = None,
        messages: Iterable[Mapping[str, Any]] = (),
        id: str | None = None,
        **fields: Any,
    ) -> None:
        self.id: str = id or _new_id()
        self._given_id = id
        given: Any = client
        self._ask: Ask = getattr(given, "chat", given)
        if not callable(self._ask):
            raise ConfigurationError(
                f"a conversation is with a Client, or a function like its chat, not {type(client).__name__}"
            )
        self._tools = Toolbox(tools, dispatcher)
        self._loop = ToolOptions(**_taken(fields, _LOOP_FIELDS))
        self.request: ChatRequest = ChatRequest(
            system=system, tools=self._tools.specs, **_taken(fields, _REQUEST_FIELDS)
        )
        if fields:
            of_a_turn = dict.fromkeys(_OF_A_TURN, "say() takes it")
            raise TypeError(unknown_fields("a conversation", fields, _REQUEST_FIELDS | _LOOP_FIELDS, of_a_turn))
        self._messages = tuple(Message.from_wire(message) for message in messages)
        self._usage: Usage | None = None
        self._charges: tuple[Charge, ...] = ()
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Which turn is under way is no part of a copy.
        return {name: value for name, value in self.__dict__.items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<Conversation of {len(self._messages)} messages>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history, without ``system``."""
        return self._messages

    @property
    def usage(self) -> Usage | None:
        """The tokens of all turns so far, those taken back included; None where no server reported any."""
        return self._usage

    @property
    def cost(self) -> float | None:
        """US dollars for all turns since it was made, forked or loaded; as ``ChatResponse.cost``."""
        return cost_of(self._charges)

    @overload
    def say(self, prompt: str, *, response_type: type[T], **options: Any) -> ParsedResponse[T]: ...
    @overload
    def say(self, prompt: str, *, response_type: None = None, **options: Any) -> ChatResponse: ...
    @overload
    def say(self, prompt: str, *, response_type: object, **options: Any) -> ParsedResponse[Any]: ...
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
            on_round: called with each round of the tool loop, before its calls run.
            options: what ``Client.chat`` takes: ``sink``, ``cancel``, ``timeout``, ``response_type``, ``repair``; and
                any field of ``ChatRequest`` and ``ToolOptions``, for this turn only.

        Raises:
            ConfigurationError: nothing to say, or a turn is under way.
            OpenAICompatError: whatever ``Client.chat`` and ``Client.run_tools`` raise.
            TypeError: an unknown field.
        """
        if text_of(prompt) is None:
            raise ConfigurationError(f"what is said is a string, not {type(prompt).__name__}")
        with self._alone(), self._hooks.watch_loop(self.id) as tell:
            if whole := options.keys() & _OF_THE_WHOLE:
                raise TypeError(f"{', '.join(sorted(whole))}: of the conversation as a whole, not of one turn")
            watch = self._hooks.watch_tool
            loop = attrs.evolve(self._loop, cancel=options.get("cancel"), watch=watch, **_taken(options, _LOOP_FIELDS))
            fields = _taken(options, _REQUEST_FIELDS)
            said = map(Message.from_wire, request_messages(ChatRequest(prompt, images=images, audio=audio)))
            request = attrs.evolve(self.request, messages=(*self._messages, *said), **fields)
            # Also without tools: a call that a model makes up needs its result, or the history could not be sent again.
            for round_ in tool_rounds(lambda asked: self._ask(asked, **options), request, self._tools, loop):
                if on_round is not None:
                    on_round(round_)
            answer = round_.total()
            messages = round_.messages[1:] if request.system else round_.messages
            usage = answer.usage + self._usage if answer.usage is not None else self._usage
            self._messages, self._usage, self._charges = messages, usage, self._charges + answer.charges
            tell(answer)
            return answer

    @property
    def _hooks(self) -> Hooks:
        """Those of the client that answers."""
        hooks = getattr(getattr(self._ask, "__self__", None), "hooks", None)
        return hooks if isinstance(hooks, Hooks) else NO_HOOKS

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the history meanwhile."""
        if not self._turn.acquire(blocking=False):
            raise ConfigurationError("a turn of this conversation is under way; fork() it to go on beside it")
        try:
            yield
        finally:
            self._turn.release()

    def fork(self) -> Conversation:
        """Another conversation with the same past; from here on each has its own history and count of tokens."""
        other = copy.copy(self)
        other._usage, other._charges = None, ()
        other.id, other._given_id = _new_id(), None
        return other

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn: what was said, and all that came of it. What was taken back, oldest first.

        Raises:
            ConfigurationError: a turn is under way.
        """
        with self._alone():
            begins = turn_beginnings(self._messages)
            if not begins:
                return ()
            kept, gone = self._messages[: begins[-1]], self._messages[begins[-1] :]
            self._messages = kept
            return gone

    def trim(self, *, max_tokens: int, count: Callable[[Sequence[Message]], int] | None = None) -> tuple[Message, ...]:
        """Forget the oldest turns until the rest has at most ``max_tokens``; what was forgotten, oldest first.

        Whole turns go, so that no tool call loses its result. The last one stays in any case, and so does what comes
        before the first.

        Args:
            max_tokens: of the system message and the history; leave room for the answer.
            count: tokens of the messages that it is given, which are all that would be left; by default
                ``estimate_tokens``.

        Raises:
            ConfigurationError: a turn is under way.
        """
        count = count or estimate_tokens
        system = [Message(role="system", content=self.request.system)] if self.request.system else []
        with self._alone():
            begins = turn_beginnings(self._messages)
            head = self._messages[: begins[0]] if begins else ()

            def fits(turns: int) -> bool:
                return count([*system, *head, *self._messages[begins[turns] :]]) <= max_tokens

            turns = bisect_left(range(len(begins) - 1), True, key=fits)
            if not turns:
                return ()
            gone = self._messages[begins[0] : begins[turns]]
            self._messages = head + self._messages[begins[turns] :]
            return gone

    def to_json(self) -> str:
        """The conversation as JSON: model, system message, history and usage; tools and other settings are not in it.

        The messages stand there in the wire's own form, for other programs to read; beside each what only the server
        that it came from wants back.

        Raises:
            ConfigurationError: a message that was given has no JSON form.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            **({"id": self._given_id} if self._given_id else {}),
            "model": self.request.model,
            "system": self.request.system,
            "usage": self._usage and attrs.asdict(self._usage, filter=attrs.filters.exclude("raw")),
            "messages": [saved_message(message) for message in self._messages],
        }
        try:
            text = json.dumps(document, ensure_ascii=False, indent=1)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"the conversation cannot be written as JSON: {error}") from error
        # Halves of surrogate pairs, which UTF-8 lacks, become escapes; JSON spells them in the same way.
        return text.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str | bytes, client: Chats | Ask, **options: Any) -> Conversation:
        """A conversation as ``to_json`` wrote it, in this or an earlier version.

        Args:
            client: as for the class.
            options: as for the class; ``model`` and ``system`` in place of the saved ones.

        Raises:
            ConfigurationError: not a saved conversation, or one of a later version.
        """
        document, messages = _document(text)
        saved = {"id": document.id, "model": document.model, "system": document.system}
        made = cls(client, messages=messages, **{**saved, **options})
        made._usage = document.usage
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json`` to a file, whole or not at all.

        A new file is readable by its owner alone; one that was there keeps its permissions.

        Raises:
            ConfigurationError: it cannot be written, and what was there before is untouched.
        """
        text = self.to_json()
        target = os.path.realpath(path)
        try:
            descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=".tmp")
            try:
                with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileNotFoundError):
                    shutil.copymode(target, beside)
                os.replace(beside, target)
            except BaseException:
                os.unlink(beside)
                raise
        except OSError as error:
            raise ConfigurationError(f"cannot write the conversation {str(path)!r}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: Chats | Ask, **options: Any) -> Conversation:
        """Read what ``save`` wrote; takes what ``from_json`` takes.

        Raises:
            ConfigurationError: no such file, not a saved conversation, or one of a later version.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read the conversation {str(path)!r}: {error.strerror}") from error
        return cls.from_json(text, client, **options)


def _new_id() -> str:
    return f"conv_{os.urandom(12).hex()}"


def _taken(fields: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """The fields of these names, which are no longer in ``fields``."""
    return {name: fields.pop(name) for name in names & fields.keys()}


def turn_beginnings(messages: Sequence[Message]) -> list[int]:
    """Where the turns of a history begin: each with what the user says.

    A user message with parts after a tool's result shows the tool's images, and begins no turn.
    """
    return [
        at
        for at, message in enumerate(messages)
        if message.role == "user" and (at == 0 or messages[at - 1].role != "tool" or isinstance(message.content, str))
    ]


def estimate_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens some messages have: one for four bytes of UTF-8, 4 a message, 1000 an image or clip."""
    return sum(4 + _estimate(message) for message in messages)


def _estimate(message: Message) -> int:
    content = message.content or ""
    texts = [content] if isinstance(content, str) else [str(part["text"]) for part in content if "text" in part]
    others = 0 if isinstance(content, str) else len(content) - len(texts)
    texts += [call.name + call.arguments_json for call in message.tool_calls]
    if message.extra:
        texts.append(json.dumps(message.extra, ensure_ascii=False, default=str))
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // 4 + 1000 * others


class _Wire(msgspec.Struct):
    """What a message of a file has at least to be."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Saved(msgspec.Struct):
    """A message of a file; ``extra`` goes back only to the server that is its ``origin``."""

    message: dict[str, Any]
    extra: dict[str, Any] = {}
    # Of the message; a store that shows it writes a reasoning of its own beside it.
    thoughts: str = ""
    origin: str = ""
    # Places of calls whose arguments never came.
    cut: list[int] = []


class _Head(msgspec.Struct):
    format: str
    version: Annotated[int, msgspec.Meta(ge=1)]


class _Document(_Head):
    messages: list[_Saved]
    id: str | None = None
    model: str | None = None
    system: str | None = None
    usage: Usage | None = None


def _document(text: str | bytes) -> tuple[_Document, list[Message]]:
    """What a file holds, and its history."""
    try:
        value = decode_json(text)
        head = msgspec.convert(value, _Head)
        if head.format != FORMAT:
            raise ConfigurationError(f"not a saved conversation: its format is {head.format!r}, not {FORMAT!r}")
        if head.version > VERSION:
            raise ConfigurationError(
                f"saved by a later version of this library (format {head.version}; this one reads up to {VERSION})"
            )
        document = msgspec.convert(value, _Document)
        return document, [_message(saved) for saved in document.messages]
    except (NotJSONError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"not a saved conversation: {error}") from error


def saved_message(message: Message) -> dict[str, Any]:
    """A message as ``to_json`` writes it, for a store with an entry for each."""
    wire = attrs.evolve(message, extra={}).to_wire()
    # As they came, and not as servers take them back: what to_wire mends is mended again when it is sent.
    wire["content"] = message.content
    for entry, call in zip(wire.get("tool_calls", ()), message.tool_calls, strict=True):
        if call.type != CUSTOM:
            entry["function"]["arguments"] = call.arguments_json
    saved: dict[str, Any] = {"message": wire}
    if cut := [
        place
        for place, call in enumerate(message.tool_calls)
        if call.invalid and call.type != CUSTOM and parse_arguments(call.arguments_json)[0] is not None
    ]:
        # Without a mark, no arguments would be read as none that were needed.
        saved["cut"] = cut
    if message.extra:
        saved["extra"] = dict(message.extra)
    if message.reasoning:
        saved["thoughts"] = message.reasoning
    if message.origin:
        saved["origin"] = message.origin
    return saved


def loaded_message(value: Mapping[str, Any]) -> Message:
    """What ``saved_message`` gave; other keys are ignored.

    Raises:
        ConfigurationError: something else.
    """
    try:
        return _message(msgspec.convert(value, _Saved))
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"not a saved message: {error}") from error


def _message(saved: _Saved) -> Message:
    msgspec.convert(saved.message, _Wire)
    message = Message.from_wire(saved.message, origin=saved.origin)
    wires = [wire for wire in saved.message.get("tool_calls") or () if isinstance(wire, Mapping)]
    calls = [
        attrs.evolve(call, arguments=None, arguments_json=_arguments_of(wires[place]), invalid=True)
        if place in saved.cut
        else call
        for place, call in enumerate(message.tool_calls)
    ]
    return attrs.evolve(message, extra={**message.extra, **saved.extra}, reasoning=saved.thoughts, tool_calls=calls)


def _arguments_of(wire: Mapping[str, Any]) -> str:
    return as_text(as_mapping(wire.get("function")).get("arguments"))
