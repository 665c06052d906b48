"""The chat endpoint, to be included in a site's URLs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from ...errors import ConfigurationError
from ...wire.response import ChatResponse
from .._chat import HISTORY_TOKENS, MAX_QUESTION, ChatEndpoint, RequestError, page_history
from .clients import DEFAULT, get_client
from .responses import stream_response

if TYPE_CHECKING:
    from .models import Conversation

View = Callable[..., HttpResponseBase]

APP = "openai_compat.integrations.django"


def chat_urls(
    name: str = "openai_compat",
    *,
    client: str = DEFAULT,
    max_question: int = MAX_QUESTION,
    history_tokens: int = HISTORY_TOKENS,
    decorator: Callable[[View], View] | None = None,
    **fields: Any,
) -> tuple[list[URLPattern], str]:
    """A chat with a history for each visitor, for ``path("chat/", include(chat_urls()))``.

    ::

        POST ask      {"message": "..."}: the answer, as the events of ``EventStream``
        GET  history  {"messages": [{"role", "content", "reasoning", "stopped"}]}
        POST reset    deletes the conversation

    Visitors send their message and nothing else, and Django's CSRF token as everywhere. A turn is stored when it is
    complete, or as far as it had come when the visitor stops it; one that fails leaves the history as it was. The
    visitor's session knows the conversation; who logs in elsewhere goes on with their latest one.

    Args:
        name: of the chat, and the namespace of its URLs: ``reverse("openai_compat:ask")``.
        client: which one of ``settings.OPENAI_COMPAT`` answers.
        max_question: characters of a message.
        history_tokens: most of the history that goes with a question; older turns are kept, but not sent.
        decorator: for each view, such as ``login_required``: who may ask.
        fields: what ``Client.conversation`` takes: ``system``, ``tools``, ``model``, ``max_tokens`` and so on.

    Raises:
        ConfigurationError: the app is not installed.
        ConfigurationError, TypeError: what ``Client.conversation`` does not take.
    """
    if not apps.is_installed(APP):
        raise ConfigurationError(f"chat_urls keeps conversations in the database: add {APP!r} to INSTALLED_APPS")
    endpoint = ChatEndpoint(max_question=max_question, history_tokens=history_tokens, **fields)

    @require_POST
    def ask(request: HttpRequest) -> HttpResponseBase:
        try:
            question = endpoint.question(request.content_type, _length(request), lambda: request.body)
        except RequestError as error:
            return JsonResponse(error.shown.to_wire(), status=error.shown.status)
        row = _current(request, name)
        _remember(request, name, row.pk)
        turn = endpoint.turn(get_client(client), row.kept(), question)

        def keep(answer: ChatResponse) -> None:
            kept = turn.kept(answer)
            if kept and not _left_behind(request, name, row):
                row.add(kept, answer)

        return stream_response(request, turn.run, on_done=keep, on_disconnect=keep)

    @require_GET
    def history(request: HttpRequest) -> HttpResponse:
        return JsonResponse(page_history(_current(request, name).kept()))

    @require_POST
    def reset(request: HttpRequest) -> HttpResponse:
        row = _current(request, name)
        if not row._state.adding:
            row.delete()
        _remember(request, name, uuid.uuid4())
        return HttpResponse(status=204)

    def guarded(view: View) -> View:
        view = never_cache(view if decorator is None else decorator(view))
        # Else a transaction would be open while the first word is awaited.
        return transaction.non_atomic_requests(view) if view.__name__ == "ask" else view

    return [path(view.__name__, guarded(view), name=view.__name__) for view in (ask, history, reset)], name


def _length(request: HttpRequest) -> int | None:
    length = str(request.META.get("CONTENT_LENGTH") or "")
    return int(length) if length.isdecimal() else None


def _current(request: HttpRequest, chat: str) -> Conversation:
    """The visitor's conversation; a new one is in the database only when its first turn is."""
    from .models import Conversation

    if not hasattr(request, "session"):
        raise ConfigurationError("the chat needs django.contrib.sessions and its middleware")
    user = getattr(request, "user", None)
    user = user if user is not None and user.is_authenticated else None
    known = request.session.get(_session_key(chat))
    row: Conversation | None = None
    if known is not None:
        row = Conversation.objects.filter(pk=known, chat=chat).first()
    elif user is not None:
        row = Conversation.objects.filter(user=user, chat=chat).first()
    if row is None:
        return Conversation(pk=uuid.uuid4() if known is None else uuid.UUID(known), user=user, chat=chat)
    if row.user_id not in (None, user and user.pk):
        return Conversation(user=user, chat=chat)
    row.user = user
    return row


def _left_behind(request: HttpRequest, chat: str, row: Conversation) -> bool:
    """Whether the visitor began another conversation while the first turn of this one was under way."""
    if not row._state.adding:
        return False
    now = type(request.session)(request.session.session_key).get(_session_key(chat))
    return now is not None and now != str(row.pk)


def _remember(request: HttpRequest, chat: str, key: uuid.UUID) -> None:
    if request.session.get(_session_key(chat)) != str(key):
        request.session[_session_key(chat)] = str(key)


def _session_key(chat: str) -> str:
    return f"openai_compat.{chat}"
