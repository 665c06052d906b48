"""Django: clients from the settings, streamed answers from views, a chat endpoint, and conversations in the database.

::

    INSTALLED_APPS = [..., "openai_compat.integrations.django"]
    OPENAI_COMPAT = {"BASE_URL": "http://localhost:8080/v1", "MODEL": "m"}

    def ask(request):
        return stream_response(request, get_client().stream(request.POST["question"]))

    urlpatterns = [path("chat/", include(chat_urls(system="Be brief.")))]

``get_client`` and ``stream_response`` work without the app; the app adds system checks, the command
``openai_compat_check``, and the tables and the admin of the conversations, which ``chat_urls`` needs.

Needs ``pip install 'openai-compat[django]'``, and Django 4.2 or later, under WSGI or ASGI.
"""

from __future__ import annotations

from ...errors import ConfigurationError

try:
    from .clients import get_client
    from .responses import stream_response
    from .views import chat_urls
except ModuleNotFoundError as _error:
    if _error.name != "django":
        raise
    raise ConfigurationError("Django is not installed: pip install 'openai-compat[django]'") from _error

__all__ = ["chat_urls", "get_client", "stream_response"]
