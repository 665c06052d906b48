"""Conversations in the admin, to read and to delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from .models import Conversation, Message

if TYPE_CHECKING:
    _Inline = admin.TabularInline[Message, Conversation]
    _Admin = admin.ModelAdmin[Conversation]
else:
    _Inline = admin.TabularInline
    _Admin = admin.ModelAdmin


class _ReadOnly:
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MessageInline(_ReadOnly, _Inline):
    """The messages of a conversation, below it."""

    model: type[Message] = Message
    fields: ClassVar[tuple[str, ...]] = ("created", "role", "content", "reasoning")
    readonly_fields: ClassVar[tuple[str, ...]] = fields
    extra = 0
    can_delete = False


@admin.register(Conversation)
class ConversationAdmin(_ReadOnly, _Admin):
    """Conversations, latest first."""

    list_display: tuple[str, ...] = ("__str__", "user", "chat", "updated", "input_tokens", "output_tokens")
    list_filter: ClassVar[tuple[str, ...]] = ("chat", "updated")
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    search_fields: ClassVar[tuple[str, ...]] = ("title", "messages__content")
    date_hierarchy: ClassVar[str] = "updated"
    inlines: ClassVar[tuple[type[MessageInline], ...]] = (MessageInline,)
