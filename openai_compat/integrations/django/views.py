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
from .._chat import (
    HISTORY_TOKENS,
    MAX_ANSWERS,
    MAX_QUESTION,
    SHOWN_MESSAGES,
    ChatEndpoint,
    RequestError,
    page_history,
)
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
    max_answers: int = MAX_ANSWERS,
    shown_messages: int = SHOWN_MESSAGES,
    tools_in_request: bool = False,
    decorator: Callable[[View], View] | None = None,
    **fields: Any,
) -> tuple[list[URLPattern], str]:
    """A chat with a history for each visitor, for ``path("chat/", include(chat_urls()))``.

    ::

        POST ask      {"message": "..."}: the answer, as the events of ``EventStream``
        GET  history  {"messages": [{"role", "content", "reasoning", "tool_calls", "stopped"}]}
        POST reset    deletes the conversation

    Visitors send only their message, with Django's CSRF token as usual. A turn is stored when it is complete, or as far
    as it had come when the visitor stopped it; one that fails leaves the history as it was. The visitor's session holds
    the key of the conversation; a user who logs in elsewhere goes on with their latest one.

    Args:
        name: of the chat, and the namespace of its URLs: ``reverse("openai_compat:ask")``.
        client: the alias in ``settings.OPENAI_COMPAT`` of the client that answers.
        max_question: the most characters of a message.
        history_tokens: the most tokens of history sent with a question; older turns stay stored, but are not sent.
        max_answers: the most answers of one user, or one session, that may be under way at once, in one process; then
            429.
        shown_messages: the most messages that ``history`` returns, the newest.
        tools_in_request: whether tools run on the request's own thread and connection to the database, one after
            another: in Django's ``TestCase`` they see its rows.
        decorator: applied to each view, such as ``login_required``, to say who may ask.
        fields: arguments of ``Client.conversation``: ``system``, ``tools``, ``model``, ``max_tokens`` and so on.

    Raises:
        ConfigurationError: the app is not installed.
        ConfigurationError, TypeError: as for ``Client.conversation``.
    """
    if not apps.is_installed(APP):
        raise ConfigurationError(f"chat_urls stores conversations in the database: add {APP!r} to INSTALLED_APPS")
    endpoint = ChatEndpoint(max_question=max_question, history_tokens=history_tokens, max_answers=max_answers, **fields)

    @require_POST
    def ask(request: HttpRequest) -> HttpResponseBase:
        try:
            question = endpoint.question(request.content_type or "", _length(request), lambda: request.body)
            row = _current_conversation(request, name)
            ticket = endpoint.admit(_visitor(request, row))
        except RequestError as error:
            return JsonResponse(error.public_error.to_wire(), status=error.public_error.status)
        _set_current(request, name, row.pk)
        turn = endpoint.turn(ticket, get_client(client), row.stored_messages, question)

        def store(answer: ChatResponse) -> None:
            messages = turn.new_messages(answer)
            if messages and not _was_replaced(request, name, row):
                row.add(messages, answer)

        return stream_response(request, turn.run, on_done=store, on_disconnect=store, tools_in_request=tools_in_request)

    @require_GET
    def history(request: HttpRequest) -> HttpResponse:
        return JsonResponse(page_history(_current_conversation(request, name).stored_messages(shown_messages)))

    @require_POST
    def reset(request: HttpRequest) -> HttpResponse:
        row = _current_conversation(request, name)
        if not row._state.adding:
            row.delete()
        _set_current(request, name, uuid.uuid4())
        return HttpResponse(status=204)

    def decorated(view: View) -> View:
        view = never_cache(view if decorator is None else decorator(view))
        # Otherwise a transaction would stay open until the model's first word.
        return transaction.non_atomic_requests(view) if view.__name__ == "ask" else view

    return [path(view.__name__, decorated(view), name=view.__name__) for view in (ask, history, reset)], name


def _length(request: HttpRequest) -> int | None:
    length = str(request.META.get("CONTENT_LENGTH") or "")
    return int(length) if length.isdecimal() else None


def _current_conversation(request: HttpRequest, chat: str) -> Conversation:
    """The visitor's conversation; a new one is stored with its first turn."""
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


def _visitor(request: HttpRequest, row: Conversation) -> str:
    """Whose answers are counted: the user's, or else the session's, for which a new conversation changes nothing."""
    if row.user_id is not None:
        return str(row.user_id)
    if _VISITOR_KEY not in request.session:
        request.session[_VISITOR_KEY] = str(uuid.uuid4())
    return str(request.session[_VISITOR_KEY])


_VISITOR_KEY = "openai_compat visitor"
"""In the session; no chat's key, which has a full stop there."""


def _was_replaced(request: HttpRequest, chat: str, row: Conversation) -> bool:
    """Whether the visitor started another conversation during the first turn of this one."""
    if not row._state.adding:
        return False
    current = type(request.session)(request.session.session_key).get(_session_key(chat))
    return current is not None and current != str(row.pk)


def _set_current(request: HttpRequest, chat: str, key: uuid.UUID) -> None:
    if request.session.get(_session_key(chat)) != str(key):
        request.session[_session_key(chat)] = str(key)


def _session_key(chat: str) -> str:
    return f"openai_compat.{chat}"
