"""Conversations in the database of the site."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, router, transaction
from django.utils import timezone

from ... import conversation as library
from ...client import Client
from ...wire.response import ChatResponse
from .._chat import StoredMessage
from .clients import get_client

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager


class Conversation(models.Model):
    """A conversation; its messages are ``Message`` rows.

    ::

        row = Conversation.objects.create(user=request.user, system="Be brief.")
        answer = row.say("Why is the sky blue?")  # a turn that fails leaves no trace
    """

    id: models.UUIDField[uuid.UUID, uuid.UUID] = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user: models.ForeignKey[Any, Any] = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="llm_conversations"
    )
    chat: models.CharField[str, str] = models.CharField(
        max_length=100, blank=True, db_index=True, help_text="The chat that it belongs to."
    )
    title: models.CharField[str, str] = models.CharField(
        max_length=200, blank=True, help_text="How the first message begins."
    )
    system: models.TextField[str, str] = models.TextField(
        blank=True, help_text="Instructions, sent before all messages."
    )
    created: models.DateTimeField[datetime, datetime] = models.DateTimeField(auto_now_add=True)
    updated: models.DateTimeField[datetime, datetime] = models.DateTimeField(auto_now=True)
    input_tokens: models.PositiveBigIntegerField[int, int] = models.PositiveBigIntegerField(default=0)
    output_tokens: models.PositiveBigIntegerField[int, int] = models.PositiveBigIntegerField(default=0)

    if TYPE_CHECKING:
        # Django adds them.
        user_id: Any
        messages: RelatedManager[Message]

    class Meta:
        ordering: tuple[str, ...] = ("-updated",)

    def __str__(self) -> str:
        return self.title or str(self.pk)

    def stored_messages(self, newest: int | None = None) -> list[StoredMessage]:
        """The history, or its ``newest`` messages, oldest first."""
        rows = self.messages.order_by("-id")[:newest]
        return [row.to_stored() for row in reversed(rows)]

    def resume(self, client: Client | None = None, **fields: Any) -> library.Conversation:
        """The history as the library's own ``Conversation``, which stores nothing.

        Args:
            client: ``get_client()`` by default.
            fields: arguments of ``Client.conversation``.
        """
        if self.system:
            fields = {"system": self.system, **fields}
        resumed: library.Conversation = (client or get_client()).conversation(
            messages=[stored.message for stored in self.stored_messages()], **fields
        )
        return resumed

    def say(self, prompt: str, *, client: Client | None = None, **options: Any) -> ChatResponse:
        """Say something, wait for the answer, and store both.

        Args:
            client: ``get_client()`` by default.
            options: arguments of the library's ``Conversation.say``, such as ``sink`` and ``max_tokens``.

        Raises:
            OpenAICompatError: the turn failed; nothing is stored.
        """
        resumed = self.resume(client)
        before = len(resumed.messages)
        answer: ChatResponse = resumed.say(prompt, **options)
        self.add(StoredMessage.of_turn(resumed.messages[before:], answer), answer)
        return answer

    def add(self, turn: Sequence[StoredMessage], answer: ChatResponse) -> None:
        """Store a turn, all of it or nothing; nothing if its conversation has been deleted meanwhile."""
        if self._state.adding:
            fields = ("user", "chat", "system")
            # Two windows may store its first turns at the same time.
            Conversation.objects.get_or_create(pk=self.pk, defaults={name: getattr(self, name) for name in fields})
        title = next((_text(stored.message.content) for stored in turn if stored.message.role == "user"), "")
        with transaction.atomic(using=router.db_for_write(Conversation, instance=self)):
            # First, for it takes the lock, which SQLite denies a transaction that has read what another one changed.
            found = Conversation.objects.filter(pk=self.pk).update(
                updated=timezone.now(),
                input_tokens=models.F("input_tokens") + answer.input_tokens,
                output_tokens=models.F("output_tokens") + answer.output_tokens,
            )
            if not found:
                return
            Conversation.objects.filter(pk=self.pk, title="").update(title=title[:200])
            if self.user_id is not None:
                # A conversation that started before the login becomes the user's.
                Conversation.objects.filter(pk=self.pk, user=None).update(user=self.user_id)
            Message.objects.bulk_create([Message.from_stored(self, stored) for stored in turn])
        self.refresh_from_db()


class Message(models.Model):
    """A message of the user, the model or a tool."""

    id: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    conversation: models.ForeignKey[Conversation, Conversation] = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages"
    )
    role: models.CharField[str, str] = models.CharField(max_length=20)
    content: models.TextField[str, str] = models.TextField(blank=True)
    reasoning: models.TextField[str, str] = models.TextField(blank=True)
    # Text, for some databases reject NUL in their JSON type.
    saved: models.TextField[str, str] = models.TextField(help_text="The whole message as JSON.")
    created: models.DateTimeField[datetime, datetime] = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: tuple[str, ...] = ("id",)

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:50]}"

    @classmethod
    def from_stored(cls, conversation: Conversation, stored: StoredMessage) -> Message:
        """The row of a message, not yet in the database."""
        return cls(
            conversation=conversation,
            role=stored.message.role,
            content=_text(stored.message.content),
            reasoning=_storable(stored.reasoning),
            saved=json.dumps(stored.to_json()),
        )

    def to_stored(self) -> StoredMessage:
        """The message that the row holds."""
        return StoredMessage.from_json(json.loads(self.saved))


def _text(content: str | Iterable[Mapping[str, Any]] | None) -> str:
    """The text of a message, for people to read and search."""
    if content is None or isinstance(content, str):
        return _storable(content or "")
    return _storable("\n".join(str(part["text"]) for part in content if "text" in part))


def _storable(text: str) -> str:
    """Text without what some databases reject: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
