"""A chat endpoint without its framework: what a visitor may send, the turn, and what is stored of it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec

from ..client import Client
from ..conversation import Conversation, estimate_tokens, loaded_message, saved_message, turn_beginnings
from ..errors import ConfigurationError
from ..tools.loop import ToolRound
from ..tools.tool import Toolbox, tool
from ..web.public_error import PublicError
from ..wire.messages import Message
from ..wire.response import ChatResponse

MAX_QUESTION = 8_000
"""Characters of a visitor's message."""
HISTORY_TOKENS = 8_000
"""Of the history that is sent with a question, as ``Conversation.trim`` counts; older turns stay stored."""
MAX_ANSWERS = 4
"""Of one visitor, that may be under way at once."""
SHOWN_MESSAGES = 1_000
"""The newest of a conversation, which a page shows after a reload."""
FIRST_LOAD = 64
"""Messages that are read from the history at first; where they are too few, it is four times as many."""
BYTES_PER_CHARACTER = 12
"""The most that JSON needs for one: two escapes, each for half a surrogate pair."""


class RequestError(Exception):
    """A visitor's request that is rejected without asking the model; ``public_error`` is the response."""

    def __init__(self, status: int, message: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.public_error = PublicError(status=status, message=message, type="invalid_request_error", code=code)


@attrs.frozen
class StoredMessage:
    """A message with what the page shows beside it: its reasoning, and whether the visitor stopped it."""

    message: Message
    reasoning: str = ""
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """The message as plain JSON values, for ``from_json``."""
        return {**saved_message(self.message), "reasoning": self.reasoning, "stopped": self.stopped}

    @classmethod
    def of_turn(cls, messages: Iterable[Message], answer: ChatResponse) -> list[StoredMessage]:
        """The messages of a turn that ended with an answer."""
        *first, last = map(cls, messages)
        return [*first, attrs.evolve(last, reasoning=answer.reasoning)]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoredMessage:
        """The message that ``to_json`` returned.

        Raises:
            ConfigurationError: the value is no message.
        """
        return cls(loaded_message(value), str(value.get("reasoning", "")), value.get("stopped") is True)


def page_history(kept: Iterable[StoredMessage]) -> dict[str, Any]:
    """What a page shows after a reload: what was said and answered, and which tools were called with what.

    An answer that calls tools goes on in the messages after it. What the tools returned is for the model alone.
    """
    shown = [
        {
            "role": one.message.role,
            "content": one.message.content or "",
            "reasoning": one.reasoning,
            "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in one.message.tool_calls],
            "stopped": one.stopped,
        }
        for one in kept
        if one.message.role in ("user", "assistant") and isinstance(one.message.content, (str, type(None)))
    ]
    said = ("content", "reasoning", "tool_calls")
    return {"messages": [message for message in shown if any(message[key] for key in said)]}


class _Question(msgspec.Struct):
    message: str


@attrs.define(eq=False)
class Ticket:
    """Lets a visitor have one answer under way, until it has ended or the ticket is dropped."""

    visitor: str
    under_way: bool = True


Load = Callable[[int], Sequence[StoredMessage]]
"""Returns so many messages of a conversation, the newest, in their order."""


@attrs.frozen
class Turn:
    """A question, ready to ask: an ``EventStream`` streams ``run``, and its answer goes to ``new_messages``."""

    conversation: Conversation
    question: str
    _history_length: int
    _ended: Callable[[], None]
    _rounds: list[ToolRound] = attrs.field(factory=list, init=False)

    def run(self, **options: Any) -> ChatResponse:
        """Ask, and run the tools that the model calls."""
        try:
            answer: ChatResponse = self.conversation.say(self.question, on_round=self._rounds.append, **options)
            return answer
        finally:
            self._ended()

    def new_messages(self, answer: ChatResponse) -> list[StoredMessage]:
        """What the turn adds to the history.

        If the visitor stopped it, that is the question, the calls that were answered, and the text after them; nothing
        if no such text had arrived.
        """
        added = self.conversation.messages[self._history_length :]
        if added:
            return StoredMessage.of_turn(added, answer)
        if not answer.text:
            return []
        # Not the last calls, which have no results, nor what the server wants back with them.
        partial_answer = Message(role="assistant", content=answer.text)
        return [*map(StoredMessage, self._complete()), StoredMessage(partial_answer, answer.reasoning, stopped=True)]

    def _complete(self) -> tuple[Message, ...]:
        """The question, and the rounds that are complete where the model is answering again."""
        if not self._rounds:
            return (Message(role="user", content=self.question),)
        begins = self._history_length + bool(self.conversation.request.system)
        return self._rounds[-1].messages[begins:]


class ChatEndpoint:
    """A chat for visitors: checks what they send, and asks the model.

    Args:
        max_question: the most characters of a visitor's message.
        history_tokens: the most tokens of history sent with a question, as ``Conversation.trim`` estimates them.
        max_answers: the most answers of one visitor that may be under way at once, in one process.
        fields: arguments of ``Client.conversation``: ``system``, ``tools``, ``model``, ``max_tokens`` and so on.

    Raises:
        ConfigurationError, TypeError: as for ``Client.conversation``.
    """

    def __init__(
        self,
        *,
        max_question: int = MAX_QUESTION,
        history_tokens: int = HISTORY_TOKENS,
        max_answers: int = MAX_ANSWERS,
        **fields: Any,
    ) -> None:
        if max_answers < 1:
            raise ConfigurationError(f"max_answers must be at least 1, not {max_answers}")
        self.max_question = max_question
        self.max_body = max_question * BYTES_PER_CHARACTER + 100
        self._history_tokens = history_tokens
        self._max_answers = max_answers
        self._tickets: weakref.WeakSet[Ticket] = weakref.WeakSet()
        self._left_behind: list[tuple[str, Toolbox]] = []
        self._lock = threading.Lock()
        if "messages" in fields:
            raise TypeError("messages: each visitor has a history of their own")
        # Made once, or each question would build their schemas again.
        fields["tools"] = [tool(item) if callable(item) else item for item in fields.pop("tools", ())]
        self._fields = fields
        Conversation(_no_client, **fields)

    def question(self, content_type: str, length: int | None, read: Callable[[], bytes]) -> str:
        """The visitor's message, from a JSON body ``{"message": "..."}``.

        Args:
            content_type: the request's header; must be JSON, which other sites' pages cannot send without permission.
            length: of the body in bytes; None where the browser sends none.
            read: returns the body; not called if it is too long.

        Raises:
            RequestError: the request is rejected.
        """
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "The message must be sent as JSON.")
        if length is None:
            raise RequestError(411, "The request needs a Content-Length.")
        if length > self.max_body:
            raise RequestError(413, f"The message is longer than {self.max_question:,} characters.")
        try:
            question = msgspec.json.decode(read(), type=_Question).message.strip()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError(400, 'The message must be sent as {"message": "..."}.') from None
        if not question:
            raise RequestError(400, "There is nothing in the message.")
        if len(question) > self.max_question:
            raise RequestError(413, f"The message is longer than {self.max_question:,} characters.")
        return question

    def admit(self, visitor: str) -> Ticket:
        """Let a visitor ask; a tool that still runs for an answer that they left counts as one under way.

        Raises:
            RequestError: too many of their answers are under way.
        """
        with self._lock:
            self._left_behind = [(one, tools) for one, tools in self._left_behind if tools.left_behind()]
            under_way = sum(ticket.under_way and ticket.visitor == visitor for ticket in self._tickets)
            under_way += sum(one == visitor for one, _ in self._left_behind)
            if under_way >= self._max_answers:
                raise RequestError(429, "Other answers of yours are under way; wait for one to end.", "rate_limited")
            ticket = Ticket(visitor)
            self._tickets.add(ticket)
        return ticket

    def turn(self, ticket: Ticket, client: Client, load: Load, question: str) -> Turn:
        """The turn that a question starts."""
        conversation = client.conversation(messages=self._newest(load), **self._fields)
        conversation.trim(max_tokens=self._history_tokens)
        ended = partial(self._end, ticket, conversation._tools)
        return Turn(conversation, question, len(conversation.messages), ended)

    def _end(self, ticket: Ticket, tools: Toolbox) -> None:
        with self._lock:
            ticket.under_way = False
            if tools.left_behind():
                self._left_behind.append((ticket.visitor, tools))

    def _newest(self, load: Load) -> list[Message]:
        """The whole turns at the end of a history, enough of them to be trimmed."""
        count = FIRST_LOAD
        while True:
            messages = [stored.message for stored in load(count)]
            if len(messages) < count:
                return messages
            begins = turn_beginnings(messages)
            if begins and estimate_tokens(messages) > self._history_tokens:
                # What comes before is the rest of a turn that does not fit.
                return messages[begins[0] :]
            count *= 4


def _no_client(*arguments: Any, **options: Any) -> ChatResponse:
    raise ConfigurationError("this conversation has no client")
