"""The chat, another one, and views that a test may replace."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from openai_compat.integrations.django import chat_urls

urlpatterns = [
    path("admin/", admin.site.urls),
    path("chat/", include(chat_urls(system="Be brief.", max_question=100))),
    path("other/", include(chat_urls("other", client="other"))),
]
