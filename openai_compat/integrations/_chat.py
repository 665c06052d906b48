"""A chat endpoint without its framework: what a visitor may send, the turn, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import attrs
import msgspec

from ..client import Client
from ..conversation import Conversation, loaded_message, saved_message
from ..errors import ConfigurationError
from ..tools.tool import tool
from ..web.public_error import PublicError
from ..web.stream import Run
from ..wire.messages import Message
from ..wire.response import ChatResponse

MAX_QUESTION = 8_000
"""Characters of a visitor's message."""
HISTORY_TOKENS = 8_000
"""Of the history that goes with a question, as ``Conversation.trim`` counts; older turns are kept, but not sent."""
BYTES_PER_CHARACTER = 12
"""Most that JSON spends on one: two escapes of half a surrogate pair each."""


class RequestError(Exception):
    """A visitor's request that the model is not asked about; ``shown`` is what the visitor hears."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.shown = PublicError(status=status, message=message, type="invalid_request_error", code="invalid_request")


@attrs.frozen
class StoredMessage:
    """A message as a store keeps it.

    What is beside it is for the page: the reasoning, which no server wants back, and whether the visitor stopped it.
    """

    message: Message
    reasoning: str = ""
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**saved_message(self.message), "reasoning": self.reasoning, "stopped": self.stopped}

    @classmethod
    def of_turn(cls, messages: Iterable[Message], answer: ChatResponse) -> list[StoredMessage]:
        """The messages of a turn that ended with an answer."""
        *first, last = map(cls, messages)
        return [*first, attrs.evolve(last, reasoning=answer.reasoning)]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoredMessage:
        """What ``to_json`` gave.

        Raises:
            ConfigurationError: something else.
        """
        return cls(loaded_message(value), str(value.get("reasoning", "")), value.get("stopped") is True)


def page_history(kept: Iterable[StoredMessage]) -> dict[str, Any]:
    """What a page shows after a reload: what was said and answered, and not what passed between model and tools."""
    shown = [
        {
            "role": one.message.role,
            "content": one.message.content or "",
            "reasoning": one.reasoning,
            "stopped": one.stopped,
        }
        for one in kept
        if one.message.role in ("user", "assistant") and isinstance(one.message.content, (str, type(None)))
    ]
    return {"messages": [message for message in shown if message["content"] or message["reasoning"]]}


class _Question(msgspec.Struct):
    message: str


@attrs.frozen
class Turn:
    """A question that may be asked: ``run`` is for an ``EventStream``, and ``kept`` for what it hands over."""

    conversation: Conversation
    question: str
    _sent: int

    @property
    def run(self) -> Run:
        """Asks, and runs the tools that the model calls."""
        return partial(self.conversation.say, self.question)

    def kept(self, answer: ChatResponse) -> list[StoredMessage]:
        """What the turn adds to the history.

        Of one that the visitor stopped, the question and the text until then; nothing where no text had come.
        """
        added = self.conversation.messages[self._sent :]
        if added:
            return StoredMessage.of_turn(added, answer)
        if not answer.text:
            return []
        # Not the calls, which have no results, nor what the server wants back with them.
        said = Message(role="assistant", content=answer.text)
        return [
            StoredMessage(Message(role="user", content=self.question)),
            StoredMessage(said, answer.reasoning, stopped=True),
        ]


class ChatEndpoint:
    """What a chat for visitors asks with, and what it takes from them.

    Args:
        max_question: characters of a visitor's message.
        history_tokens: of the history that goes with a question, by the estimate of ``Conversation.trim``.
        fields: what ``Client.conversation`` takes: ``system``, ``tools``, ``model``, ``max_tokens`` and so on.

    Raises:
        ConfigurationError, TypeError: what ``Client.conversation`` does not take.
    """

    def __init__(
        self, *, max_question: int = MAX_QUESTION, history_tokens: int = HISTORY_TOKENS, **fields: Any
    ) -> None:
        self.max_question = max_question
        self.max_body = max_question * BYTES_PER_CHARACTER + 100
        self._history_tokens = history_tokens
        if "messages" in fields:
            raise TypeError("messages: each visitor has a history of their own")
        # Made once: a schema for each of them would be made with every question.
        fields["tools"] = [tool(item) if callable(item) else item for item in fields.pop("tools", ())]
        self._fields = fields
        Conversation(_nobody, **fields)

    def question(self, content_type: str, length: int | None, read: Callable[[], bytes]) -> str:
        """The visitor's message, from a JSON body ``{"message": "..."}``.

        Args:
            content_type: the request's header. JSON, for a page of another site cannot send that unasked.
            length: of the body in bytes; None where the browser does not say.
            read: gives the body; not called where it is too long.

        Raises:
            RequestError: it cannot be asked.
        """
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "The message must be sent as JSON.")
        if length is None:
            raise RequestError(411, "The message must say how long it is.")
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

    def turn(self, client: Client, history: Iterable[StoredMessage], question: str) -> Turn:
        """The turn that a question begins."""
        conversation = client.conversation(messages=[kept.message for kept in history], **self._fields)
        conversation.trim(max_tokens=self._history_tokens)
        return Turn(conversation, question, len(conversation.messages))


def _nobody(*arguments: Any, **options: Any) -> ChatResponse:
    raise ConfigurationError("nobody is there to answer")
