"""Flask: one client for an application, streamed answers from its views, and a chat endpoint.

::

    llm = OpenAICompat(app)  # configured by app.config["OPENAI_COMPAT_BASE_URL"] and so on, or by the environment

    @app.post("/ask")
    def ask():
        return stream_response(llm.client.stream(request.json["question"]))

    app.register_blueprint(chat_blueprint(system="Be brief."), url_prefix="/chat")

Needs ``pip install 'openai-compat[flask]'``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..credentials import masked_options
from ..errors import ConfigurationError
from ..web.stream import EventStream, Format, Handler, Run
from ..wire.response import ChatResponse
from ._chat import (
    HISTORY_TOKENS,
    MAX_ANSWERS,
    MAX_QUESTION,
    SHOWN_MESSAGES,
    ChatEndpoint,
    RequestError,
    StoredMessage,
    page_history,
)
from ._history import History, SQLiteHistory
from ._settings import LazyClient, client_options

try:
    import flask
except ImportError as _error:
    raise ConfigurationError("Flask is not installed: pip install 'openai-compat[flask]'") from _error

if TYPE_CHECKING:
    from ..stream import ChatStream

__all__ = ["History", "OpenAICompat", "SQLiteHistory", "chat_blueprint", "stream_response"]

PREFIX = "OPENAI_COMPAT_"
EXTENSION = "openai_compat"
SESSION_KEY = "openai_compat_visitor"
LOGIN_KEY = "openai_compat_login"
LOGIN_KEYS = ("_user_id", "user_id", "user", "username")
"""Where applications keep in the session who is logged in: Flask-Login, Flask's tutorial, and many others."""


class OpenAICompat:
    """The Flask extension: one client per application.

    ``app.config`` has the arguments of ``Client`` in capitals after ``OPENAI_COMPAT_``: ``BASE_URL``, ``API_KEY``,
    ``PROVIDER``, ``MODEL``, ``MAX_RETRIES``, ``TIMEOUT`` (seconds, or a dict like ``{"first_token": 60}``), and so on.
    Without ``BASE_URL`` and ``PROVIDER`` the environment names the server, as for ``Client.from_env``, and with
    ``LOCAL = True`` one on a well-known port of this machine will do.

    Args:
        app: the application; None where ``init_app`` gets it later.

    Raises:
        ConfigurationError: an unknown setting, or one of the wrong type.
    """

    def __init__(self, app: flask.Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Read an application's configuration; its client is made on first use.

        Raises:
            ConfigurationError: an unknown setting, or one of the wrong type.
        """
        settings = masked_options(app.config.get_namespace(PREFIX, lowercase=False))
        client_options(settings, prefix=PREFIX)
        app.extensions[EXTENSION] = LazyClient(settings, prefix=PREFIX)

    @property
    def client(self) -> Client:
        """The client of the current application, one for all its threads.

        Raises:
            ConfigurationError: a setting is wrong, nothing names a server, or ``init_app`` was not called.
            RuntimeError: outside an application context.
        """
        return _client()


def _client() -> Client:
    extension = flask.current_app.extensions.get(EXTENSION)
    if extension is None:
        raise ConfigurationError("this application has no client: call OpenAICompat(app), or init_app(app)")
    client: Client = extension.get()
    return client


def stream_response(
    source: ChatStream | Run,
    *,
    format: Format = "sse",
    stream_options: dict[str, Any] | None = None,
    heartbeat: float = 15.0,
    on_done: Handler | None = None,
    on_disconnect: Handler | None = None,
    tools_in_request: bool = False,
    cross_site: bool = False,
    headers: Iterable[tuple[str, str]] = (),
) -> flask.Response:
    """Returns what a view returns to stream an answer.

    A browser that disconnects ends the call to the model. What fails before the first token is a response with an error
    status and a JSON body.

    Args:
        source: ``client.stream(...)``, or a function that reports to a sink: ``partial(conversation.say, "hi")``.
        format: ``"sse"`` for events, ``"text"``, or ``"openai"`` for OpenAI's own chunks.
        stream_options: for ``"openai"``, the field of that name in the client's request, which asks for token usage.
        heartbeat: seconds of silence after which a comment is sent.
        on_done: called with the whole answer before the browser learns that it is complete. ``request``, ``session``
            and ``current_app`` are available, ``g`` is a new one; a change to ``session`` is too late for its cookie.
        on_disconnect: likewise, with the partial answer when the browser disconnects before the end.
        tools_in_request: whether the tools of a function run on the request's own thread, one after another.
        cross_site: whether pages of other sites may ask by GET; else they get 403.
        headers: further ones.

    Raises:
        ConfigurationError: unknown format, or a heartbeat that is not positive.
    """
    body = EventStream(
        _in_context(source) if callable(source) else source,
        format=format,
        environ=flask.request.environ,
        stream_options=stream_options,
        heartbeat=heartbeat,
        on_done=on_done and flask.copy_current_request_context(on_done),
        on_disconnect=on_disconnect and flask.copy_current_request_context(on_disconnect),
        tools_in_request=tools_in_request,
        cross_site=cross_site,
    )
    try:
        return flask.Response(body, body.status_code, [*body.headers, *headers])
    except BaseException:
        body.close()
        raise


def _in_context(run: Run) -> Run:
    """The function in an application context of its own: the request's may be torn down long before it returns."""
    app = flask.current_app._get_current_object()  # type: ignore[attr-defined]
    within_request = flask.copy_current_request_context(run)

    def run_in_context(**options: Any) -> ChatResponse:
        with app.app_context():
            return within_request(**options)

    return run_in_context


def chat_blueprint(
    name: str = "openai_compat",
    *,
    history: History | None = None,
    visitor: Callable[[], str | None] | None = None,
    max_question: int = MAX_QUESTION,
    history_tokens: int = HISTORY_TOKENS,
    max_answers: int = MAX_ANSWERS,
    shown_messages: int = SHOWN_MESSAGES,
    tools_in_request: bool = False,
    **fields: Any,
) -> flask.Blueprint:
    """A chat with a history for each visitor, as three endpoints for a page's scripts.

    ::

        POST ask      {"message": "..."}: the answer, as the events of ``EventStream``
        GET  history  {"messages": [{"role", "content", "reasoning", "tool_calls", "stopped"}]}
        POST reset    deletes the conversation

    Visitors send only their message. A turn is stored when it is complete, or as far as it had come when the visitor
    stopped it; one that fails leaves the history as it was. Requests from other sites are rejected. Use the blueprint's
    ``before_request`` to say who may ask.

    Args:
        name: of the blueprint: ``url_for("openai_compat.ask")``.
        history: where conversations are stored; by default in the file ``openai_compat.sqlite3`` of the application's
            instance folder, for 30 days, which all processes of one machine share.
        visitor: returns whose conversation it is, such as ``lambda: session.get("user")``; None is rejected with 401.
            By default each browser has its own, in Flask's session, which needs a ``SECRET_KEY``; it ends when the
            session is cleared, or when who is logged in changes, as far as a key of ``LOGIN_KEYS`` tells.
        max_question: the most characters of a message.
        history_tokens: the most tokens of history sent with a question; older turns stay stored, but are not sent.
        max_answers: the most answers of one visitor that may be under way at once, in one process; then 429.
        shown_messages: the most messages that ``history`` returns, the newest.
        tools_in_request: whether tools run on the request's own thread, one after another.
        fields: arguments of ``Client.conversation``: ``system``, ``tools``, ``model``, ``max_tokens`` and so on.

    Raises:
        ConfigurationError, TypeError: as for ``Client.conversation``.
    """
    endpoint = ChatEndpoint(max_question=max_question, history_tokens=history_tokens, max_answers=max_answers, **fields)
    blueprint = flask.Blueprint(name, __name__)

    @blueprint.before_request
    def reject_other_sites() -> None:
        if flask.request.method == "POST" and _is_cross_site():
            raise RequestError(403, "The message comes from another site.")

    @blueprint.errorhandler(RequestError)
    def rejected(error: RequestError) -> tuple[dict[str, Any], int]:
        return error.public_error.to_wire(), error.public_error.status

    @blueprint.after_request
    def prevent_caching(response: flask.Response) -> flask.Response:
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @blueprint.post("/ask")
    def ask() -> flask.Response:
        request = flask.request
        question = endpoint.question(request.content_type or "", request.content_length, request.get_data)
        store, owner = current_history(), current_owner()
        ticket = endpoint.admit(owner)
        conversation = ""

        def load(newest: int) -> list[StoredMessage]:
            nonlocal conversation
            conversation, messages = store.load(owner, newest)
            return [StoredMessage.from_json(message) for message in messages]

        turn = endpoint.turn(ticket, _client(), load, question)

        def save(answer: ChatResponse) -> None:
            if new := turn.new_messages(answer):
                store.add(owner, conversation, [message.to_json() for message in new])

        return stream_response(turn.run, on_done=save, on_disconnect=save, tools_in_request=tools_in_request)

    @blueprint.get("/history", endpoint="history")
    def show() -> dict[str, Any]:
        _, messages = current_history().load(current_owner(), shown_messages)
        return page_history(map(StoredMessage.from_json, messages))

    @blueprint.post("/reset")
    def reset() -> tuple[str, int]:
        current_history().forget(current_owner())
        return "", 204

    def current_history() -> History:
        return history or SQLiteHistory(os.path.join(flask.current_app.instance_path, "openai_compat.sqlite3"))

    def current_owner() -> str:
        owner = (visitor or _browser_id)()
        if not owner:
            raise RequestError(401, "Please log in first.")
        return f"{name}:{owner}"

    return blueprint


def _browser_id() -> str:
    """The id of this browser, from its session cookie."""
    if not flask.current_app.secret_key:
        raise ConfigurationError("the chat tells visitors apart by Flask's session: set SECRET_KEY, or pass visitor=")
    session, login = flask.session, _login()
    # What was said before the login goes on after it.
    if SESSION_KEY not in session or session.get(LOGIN_KEY, login) != login:
        session[SESSION_KEY] = secrets.token_urlsafe(16)
        session.pop(LOGIN_KEY, None)
    if login is not None and LOGIN_KEY not in session:
        session[LOGIN_KEY] = login
    browser_id: str = session[SESSION_KEY]
    return browser_id


def _login() -> str | None:
    """Something that is another for each user; None where nobody is logged in."""
    for key in LOGIN_KEYS:
        if (user := flask.session.get(key)) is not None:
            told = str(user) if isinstance(user, (int, str)) else ""
            return hashlib.sha256(f"{key} {told}".encode("utf-8", "replace")).hexdigest()[:16]
    return None


def _is_cross_site() -> bool:
    """Whether a page of another site made the browser send this request; other programs send neither header."""
    site = flask.request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = flask.request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != flask.request.host
