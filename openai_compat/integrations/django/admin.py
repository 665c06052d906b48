"""Conversations in the admin, to read and to delete."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .models import Conversation, Message


class _ReadOnly:
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MessageInline(_ReadOnly, admin.TabularInline):
    """The messages of a conversation, below it."""

    model = Message
    fields = readonly_fields = ("created", "role", "content", "reasoning")
    extra = 0
    can_delete = False


@admin.register(Conversation)
class ConversationAdmin(_ReadOnly, admin.ModelAdmin):
    """Conversations, latest first."""

    list_display = ("__str__", "user", "chat", "updated", "input_tokens", "output_tokens")
    list_filter = ("chat", "updated")
    list_select_related = ("user",)
    search_fields = ("title", "messages__content")
    date_hierarchy = "updated"
    inlines = (MessageInline,)
