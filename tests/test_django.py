"""Django: settings, checks, streamed views, the chat, conversations in the database, the admin and the command."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.replay import Request as Received
from support.wire_bodies import chat_reply, chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import APIStatusError, ChatResponse, ConfigurationError, Message, Timeout
from openai_compat.integrations._chat import FIRST_LOAD, SHOWN_MESSAGES, StoredMessage

with mock.patch.dict(os.environ, {"DJANGO_SETTINGS_MODULE": "django_project.settings"}):
    django.setup()

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.http import BadHeaderError, HttpRequest
from django.middleware.gzip import GZipMiddleware
from django.test import AsyncClient as AsyncBrowser
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.test import Client as Browser
from django.test.utils import setup_test_environment, teardown_test_environment
from django.urls import reverse
from django.views.debug import ExceptionReporter

from openai_compat.integrations.django import chat_urls, get_client, stream_response
from openai_compat.integrations.django.models import Conversation
from openai_compat.integrations.django.models import Message as Row

URL = "http://localhost:9/v1"


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    setup_test_environment()
    connection.creation.create_test_db(verbosity=0)
    yield
    connection.creation.destroy_test_db(":memory:", verbosity=0)
    connection.close()
    teardown_test_environment()


@pytest.fixture(autouse=True)
def empty_tables() -> Iterator[None]:
    yield
    call_command("flush", interactive=False, verbosity=0)


# ------------------------------------------------------------------------------------------------ settings and checks


def test_one_client_for_the_site() -> None:
    with override_settings(OPENAI_COMPAT={"BASE_URL": URL, "TIMEOUT": {"first_token": 60}}):
        client = get_client()
        assert (client.base_url, client.timeout) == (URL, Timeout(first_token=60))
        assert get_client("default") is client


def test_the_mail_to_the_admins_does_not_show_a_key_that_was_refused() -> None:
    key = "-".join(("Zq7f3K9v", "Tn2Xw8Rb", "Ld0HcJ"))
    with override_settings(OPENAI_COMPAT={"BASE_URL": URL, "API_KEY": f"{key}\n"}):
        with pytest.raises(ConfigurationError, match="white space") as caught:
            get_client()
        error = caught.value
        assert error.__traceback__ is not None
        # From the library on: this frame has the key.
        reporter = ExceptionReporter(None, type(error), error, error.__traceback__.tb_next)
        assert "checked_key" in reporter.get_traceback_html()
        assert key not in reporter.get_traceback_html() + reporter.get_traceback_text()


def test_several_clients_by_name() -> None:
    several = {"default": {"BASE_URL": URL, "MODEL": "a"}, "local": {"BASE_URL": URL, "MODEL": "b"}}
    with override_settings(OPENAI_COMPAT=several):
        assert [get_client(alias).model for alias in ("default", "local", "default")] == ["a", "b", "a"]
        assert get_client() is get_client()
        with pytest.raises(ConfigurationError, match="has no client 'remote'; there are default, local"):
            get_client("remote")
    with override_settings(OPENAI_COMPAT={"BASE_URL": URL, "MODEL": "c"}):
        assert get_client().model == "c"


def test_without_the_setting_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(OPENAI_COMPAT={}):
        with pytest.raises(ConfigurationError, match="the environment names no server"):
            get_client()
        monkeypatch.setenv("OPENAI_BASE_URL", URL)
        assert get_client().base_url == URL


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ({"BASE_URL": URL}, None, ""),
        ({"default": {"BASE_URL": URL}, "other": {"PROVIDER": "ollama"}}, None, ""),
        ({"LOCAL": True}, None, ""),
        ({"LOCAL": True, "MAX_RETRIES": -1}, "E003", "max_retries"),
        ({"LOCAL": True, "PROVIDER": "openai"}, "W001", "set OPENAI_API_KEY"),
        ({"LOCAL": "yes"}, "E002", "OPENAI_COMPAT.LOCAL must be True or False, not 'yes'"),
        ([], "E001", "settings.OPENAI_COMPAT must be a dict, not list"),
        ({"default": URL}, "E001", "settings.OPENAI_COMPAT['default'] must be a dict, not str"),
        ({"one": {}, "two": {}}, "E001", "none of them is 'default'"),
        ({"BASEURL": URL}, "E002", "unknown setting OPENAI_COMPAT.BASEURL; did you mean OPENAI_COMPAT.BASE_URL?"),
        ({"default": {"BASE_URL": URL}, "x": {"KEY": 1}}, "E002", "unknown setting OPENAI_COMPAT['x'].KEY"),
        ({"BASE_URL": "localhost:80"}, "E003", "must begin with http://"),
        ({"BASE_URL": URL, "MAX_RETRIES": -1}, "E003", "max_retries"),
        ({"PROVIDER": "nobody"}, "E003", "unknown provider 'nobody'"),
        ({"PROVIDER": 5}, "E002", "OPENAI_COMPAT.PROVIDER must be a string, not 5"),
        ({"HEADERS": {"X-A": "b"}, "TIMEOUT": {"total": 60}}, "W001", "the environment names no server"),
        ({"PROVIDER": "openai"}, "W001", "set OPENAI_API_KEY"),
        ({}, "W001", "the environment names no server"),
    ],
)
def test_checks_tell_what_is_wrong(value: Any, code: str | None, said: str) -> None:
    with override_settings(OPENAI_COMPAT=value):
        found = [message for message in run_checks() if (message.id or "").startswith("openai_compat")]
        assert {message.id for message in found} == ({f"openai_compat.{code}"} if code else set())
        if code:
            assert any(said in message.msg for message in found)
        if code in ("E001", "E002"):
            with pytest.raises(ConfigurationError):
                get_client("x" if "x" in value else "default")


# --------------------------------------------------------------------------------------------------- streamed views


@contextmanager
def model(replies: Any) -> Iterator[ReplayServer]:
    """The site's model answers with these replies; ``other`` is the same one."""
    with ReplayServer(replies) as server:
        one = {"BASE_URL": server.url, "MODEL": "m", "MAX_RETRIES": 0, "API_KEY": "sk-secret"}
        with override_settings(OPENAI_COMPAT={"default": one, "other": one}):
            yield server


def then_silence(request: Received) -> Reply:
    def body() -> Iterator[bytes]:
        yield chunk({"content": "a"})
        request.closed.wait(30)

    return Reply(headers=EVENT_STREAM, body=body())


def named_events(body: bytes) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in body.decode().split("\n\n") if block]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "data" in block]


def get(path: str = "/", **headers: Any) -> HttpRequest:
    return RequestFactory().get(path, **headers)


@pytest.mark.parametrize(
    ("format", "content_type"), [("sse", "text/event-stream"), ("text", "text/plain"), ("openai", "text/event-stream")]
)
def test_a_view_streams_an_answer(format: Any, content_type: str) -> None:
    with model([stream_reply("a", "b")]):
        response: Any = stream_response(get(), get_client().stream("hi"), format=format, headers=[("X-Mine", "1")])
        assert (response.status_code, response.streaming) == (200, True)
        assert response["Content-Type"].startswith(content_type)
        assert (response["X-Accel-Buffering"], response["X-Mine"]) == ("no", "1")
        assert b"a" in b"".join(response)
        response.close()


def test_a_conversation_is_streamed_and_its_answer_handed_over() -> None:
    stored: list[ChatResponse] = []
    with model([stream_reply("a")]):
        talk = get_client().conversation()
        response: Any = stream_response(get(), partial(talk.say, "hi"), on_done=stored.append)
        assert [name for name, _ in named_events(b"".join(response))] == ["text", "done"]
    assert ([answer.text for answer in stored], len(talk.messages)) == (["a"], 2)


def test_an_error_before_the_first_token_is_a_response_of_its_own() -> None:
    with model([error_reply(429, "slow down", headers={"Retry-After": "7"})]):
        response: Any = stream_response(get(), get_client().stream("hi"))
    assert (response.status_code, response["Retry-After"], response.streaming) == (429, "7", False)
    assert json.loads(response.content)["error"]["code"] == "rate_limited"


def test_a_head_request_and_a_reconnect_ask_nothing() -> None:
    with model([]) as server:
        head: Any = stream_response(RequestFactory().head("/"), get_client().stream("hi"))
        assert (head.status_code, b"".join(head)) == (200, b"")
        again: Any = stream_response(get(HTTP_LAST_EVENT_ID="3"), get_client().stream("hi"))
        assert (again.status_code, again.content) == (204, b"")
        assert not server.requests


@pytest.mark.parametrize(("options", "status"), [({}, 403), ({"cross_site": True}, 200)])
def test_a_page_of_another_site_cannot_ask_by_get(options: Any, status: int) -> None:
    with model([stream_reply("a")]) as server:
        request = get(HTTP_SEC_FETCH_SITE="cross-site")
        response: Any = stream_response(request, get_client().stream("hi"), **options)
        assert b"".join(response)
        response.close()
        assert (response.status_code, len(server.requests)) == (status, status == 200)


def test_gzip_holds_nothing_back() -> None:
    with model([stream_reply("a", "b")]):
        answer = lambda request: stream_response(request, get_client().stream("hi"))  # noqa: E731
        response: Any = GZipMiddleware(answer)(get(HTTP_ACCEPT_ENCODING="gzip"))
        pieces = list(response)
        response.close()
    assert response["Content-Encoding"] == "identity"
    assert [b"event: text" in piece for piece in pieces].count(True) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the collector may come to the socket first, and says so
def test_a_response_that_cannot_be_made_ends_the_call() -> None:
    with model(then_silence) as server:
        with pytest.raises(BadHeaderError):
            stream_response(get(), get_client().stream("hi"), headers=[("X-Mine", "a\nb")])
        assert server.wait_closed()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the collector may come to the socket first, and says so
@pytest.mark.parametrize("way", ["closed", "forgotten"])
def test_a_response_that_is_dropped_ends_the_call(way: str) -> None:
    with model(then_silence) as server:
        response: Any = stream_response(get(), get_client().stream("hi"))
        assert b"retry" in next(iter(response))
        if way == "closed":
            response.close()
        del response
        gc.collect()
        assert server.wait_closed()


# ---------------------------------------------------------------------------------------------------------- the chat


def say(browser: Browser, message: str, chat: str = "openai_compat", **headers: Any) -> Any:
    response = browser.post(reverse(f"{chat}:ask"), {"message": message}, content_type="application/json", **headers)
    if not response.streaming:
        return response
    events = named_events(b"".join(response))
    response.close()
    return events


def contents(browser: Browser, chat: str = "openai_compat") -> list[str]:
    response = browser.get(reverse(f"{chat}:history"))
    assert "no-store" in response["Cache-Control"]
    return [message["content"] for message in response.json()["messages"]]


def test_each_visitor_has_a_history() -> None:
    with model([stream_reply(text) for text in "abc"]) as server:
        ann, ben = Browser(), Browser()
        assert say(ann, "1") == [
            ("text", {"delta": "a"}),
            ("done", {"finish_reason": "stop", "model": "m-served", "usage": None, "truncated": False}),
        ]
        say(ben, "2")
        say(ann, "3")
        assert (contents(ann), contents(ben), contents(Browser())) == (["1", "a", "3", "c"], ["2", "b"], [])
        assert ann.post(reverse("openai_compat:reset")).status_code == 204
        assert (contents(ann), contents(ben)) == ([], ["2", "b"])
        sent = [[message["content"] for message in json.loads(one.body)["messages"]] for one in server.requests]
    assert sent == [["Be brief.", "1"], ["Be brief.", "2"], ["Be brief.", "1", "a", "3"]]
    assert [row.title for row in Conversation.objects.all()] == ["2"]


def test_the_chat_is_the_same_under_asgi() -> None:
    browser = AsyncBrowser()

    async def ask(message: str, until: bytes) -> None:
        reply: Any = await browser.post(
            reverse("openai_compat:ask"), {"message": message}, content_type="application/json"
        )
        async for piece in reply:
            if until in piece:
                break
        await sync_to_async(reply.close)()

    async def turns() -> Any:
        await ask("1", b"event: done")
        await ask("2", b'"a"')
        return (await browser.get(reverse("openai_compat:history"))).json()["messages"]

    with model([stream_reply("b"), then_silence]) as server:
        shown = async_to_sync(turns)()
        assert server.requests[1].closed.wait(10)
    told = [(one["content"], one["stopped"]) for one in shown]
    assert told == [("1", False), ("b", False), ("2", False), ("a", True)]


def test_one_visitor_may_have_so_many_answers_under_way() -> None:
    patterns, _ = chat_urls(max_answers=2)
    ann, ben = User.objects.create_user("ann"), User.objects.create_user("ben")

    def ask(user: User) -> Any:
        request = RequestFactory().post("/", {"message": "hi"}, content_type="application/json")
        request.session, request.user = SessionStore(), user
        return patterns[0].callback(request)

    with model(then_silence) as server:
        replies = [ask(ann), ask(ann), ask(ben)]
        refused = ask(ann)
        assert (refused.status_code, len(server.requests)) == (429, 3)
        assert json.loads(refused.content)["error"]["code"] == "rate_limited"
        replies[0].close()
        replies.append(ask(ann))
        for reply in replies:
            assert reply.status_code == 200
            reply.close()


@pytest.mark.parametrize("several", [False, True])
def test_no_login_in_a_url_of_the_settings_is_in_djangos_reports(several: bool) -> None:
    login = "user:" + "Zq7f3K9v" * 2
    one = {"BASE_URL": f"http://{login}@127.0.0.1:9/v1", "PROXIES": {"http": f"http://{login}@127.0.0.1:9"}}
    with override_settings(OPENAI_COMPAT={"default": one} if several else one):
        get_client()
        reporter = ExceptionReporter(RequestFactory().get("/"), ValueError, ValueError("no"), None)
        for report in (reporter.get_traceback_text(), reporter.get_traceback_html()):
            assert "OPENAI_COMPAT" in report
            assert login not in report


def test_a_new_conversation_is_no_new_visitor() -> None:
    """Who could begin anew, and ask again, would have as many answers under way as they like."""
    patterns, _ = chat_urls(max_answers=2)
    session = SessionStore()

    def call(view: int) -> Any:
        request = RequestFactory().post("/", {"message": "hi"}, content_type="application/json")
        request.session = session
        return patterns[view].callback(request)

    with model(then_silence) as server:
        replies = [call(0), call(0)]
        assert call(2).status_code == 204  # reset
        assert (call(0).status_code, len(server.requests)) == (429, 2)
        for reply in replies:
            reply.close()


def test_of_a_long_conversation_only_what_is_sent_is_loaded() -> None:
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        say(browser, "1")
        row = Conversation.objects.get()
        turn = [StoredMessage(Message(role=role, content="x" * 4000)) for role in ("user", "assistant")]
        row.add(turn * 500, ChatResponse())
        with mock.patch.object(StoredMessage, "from_json", wraps=StoredMessage.from_json) as loaded:
            say(browser, "2")
        assert loaded.call_count == FIRST_LOAD
        assert len(contents(browser)) == SHOWN_MESSAGES


def test_two_chats_of_a_site_have_nothing_to_do_with_each_other() -> None:
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        say(browser, "1")
        say(browser, "2", "other")
        assert (contents(browser), contents(browser, "other")) == (["1", "a"], ["2", "b"])
        browser.post(reverse("other:reset"))
        assert (contents(browser), contents(browser, "other")) == (["1", "a"], [])


def test_who_logs_in_elsewhere_goes_on_with_their_latest_conversation() -> None:
    ann = User.objects.create_user("ann")
    with model([stream_reply(text) for text in "abc"]):
        here, there = Browser(), Browser()
        here.force_login(ann)
        say(here, "1")
        there.force_login(ann)
        assert contents(there) == ["1", "a"]
        there.post(reverse("openai_compat:reset"))
        say(there, "2")
        assert contents(there) == ["2", "b"]
        there.logout()
        assert contents(there) == []
    assert [(row.user, row.title) for row in Conversation.objects.all()] == [(ann, "2")]


def test_nobody_gets_at_a_conversation_of_somebody_else() -> None:
    row = Conversation.objects.create(user=User.objects.create_user("ann"), chat="openai_compat", title="private")
    with model([stream_reply("a"), stream_reply("b")]):
        row.say("secret")
        ben = Browser()
        ben.force_login(User.objects.create_user("ben"))
        for browser in (Browser(), ben):
            session = browser.session
            session["openai_compat.openai_compat"] = str(row.pk)
            session.save()
            browser.cookies["sessionid"] = session.session_key
            assert contents(browser) == []
            assert browser.post(reverse("openai_compat:reset")).status_code == 204
    assert Conversation.objects.filter(pk=row.pk).exists()


def test_a_conversation_that_began_before_the_login_goes_on_and_is_the_users() -> None:
    ann = User.objects.create_user("ann")
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        say(browser, "1")
        browser.force_login(ann)
        say(browser, "2")
        assert contents(browser) == ["1", "a", "2", "b"]
        elsewhere = Browser()
        elsewhere.force_login(ann)
        assert contents(elsewhere) == ["1", "a", "2", "b"]
    assert [row.user for row in Conversation.objects.all()] == [ann]


def test_who_only_looks_gets_no_session_and_finds_their_conversation_after_the_login() -> None:
    ann = User.objects.create_user("ann")
    with model([stream_reply("a")]):
        here, there = Browser(), Browser()
        here.force_login(ann)
        say(here, "1")
        assert contents(there) == []
        assert "sessionid" not in there.cookies
        there.force_login(ann)
        assert contents(there) == ["1", "a"]


def test_a_decorator_says_who_may_ask() -> None:
    patterns, _ = chat_urls("members", decorator=login_required)
    with model([]) as server:
        for pattern in patterns:
            for method in ("get", "post"):
                request = getattr(RequestFactory(), method)("/")
                request.user = AnonymousUser()
                assert pattern.callback(request).status_code == 302
        assert not server.requests
    with pytest.raises(TypeError, match="decorater"):
        chat_urls(decorater=login_required)


def test_no_transaction_is_open_while_the_model_is_asked() -> None:
    callbacks = {pattern.name: pattern.callback for pattern in chat_urls()[0]}
    assert getattr(callbacks["ask"], "_non_atomic_requests", None) == {"default"}


def test_a_thread_of_the_library_leaves_no_connection_to_the_database_open() -> None:
    seen: list[Any] = []

    def look_up() -> str:
        seen.append(connections["default"])
        return str(Conversation.objects.count())

    call = [chunk({"tool_calls": [{"index": i, **tool_call("look_up", "{}", f"c{i}")} for i in range(2)]})]
    asks = Reply(headers=EVENT_STREAM, body=[*call, *stream_pieces()])
    closed: list[Any] = []
    with model([asks, stream_reply("a")]):
        talk = get_client().conversation(tools=[look_up])
        with mock.patch.object(type(connections["default"]), "close", lambda self: closed.append(self)):
            response: Any = stream_response(get(), partial(talk.say, "hi"))
            b"".join(response)
            response.close()
            for thread in threading.enumerate():
                if thread.name in ("openai_compat web", "openai_compat tool"):
                    thread.join(10)
    assert len(seen) == 2
    assert {id(one) for one in seen} <= {id(one) for one in closed}
    for one in seen:
        one.connection.close()  # Django itself never closes a connection to a database in memory.


@pytest.mark.parametrize("factory", [RequestFactory, AsyncRequestFactory])
def test_tools_in_the_request_see_what_only_its_connection_does(factory: Any) -> None:
    def count_users() -> int:
        return User.objects.count()

    patterns, _ = chat_urls(tools=[count_users], tools_in_request=True)
    call = [chunk({"tool_calls": [{"index": i, **tool_call("count_users", "{}", f"c{i}")} for i in range(2)]})]
    asks = Reply(headers=EVENT_STREAM, body=[*call, *stream_pieces()])
    request = factory().post("/", {"message": "how many?"}, content_type="application/json")
    request.session, request.user = SessionStore(), AnonymousUser()

    async def body() -> bytes:
        response = await sync_to_async(patterns[0].callback)(request)
        pieces = [piece async for piece in response]
        await sync_to_async(response.close)()
        return b"".join(pieces)

    with model([asks, stream_reply("one")]) as server, transaction.atomic():
        User.objects.create_user("ann")
        if factory is AsyncRequestFactory:
            said = async_to_sync(body)()
        else:
            response = patterns[0].callback(request)
            said = b"".join(response)
            response.close()
        transaction.set_rollback(True)
        told = [m["content"] for m in json.loads(server.requests[1].body)["messages"] if m["role"] == "tool"]
    assert (told, [name for name, _ in named_events(said)]) == (["1", "1"], ["tool_call", "tool_call", "text", "done"])


FAILURES: dict[str, Any] = {
    "refused": lambda: error_reply(500, "no"),
    "broken off": lambda: Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"})], abort="rst"),
    "an error in the stream": lambda: Reply(
        headers=EVENT_STREAM, body=[chunk({"content": "a"}), b'data: {"error": {"message": "sk-secret"}}\n\n']
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_turn_that_fails_leaves_the_history_as_it_was(failure: str) -> None:
    with model([FAILURES[failure](), stream_reply("b"), FAILURES[failure](), stream_reply("d")]):
        browser = Browser()
        for question in "1234":
            said = say(browser, question)
            assert "sk-secret" not in str(said)
            if question == "1":
                assert not Conversation.objects.exists()
        assert contents(browser) == ["2", "b", "4", "d"]


def stop(browser: Browser, message: str, before: Callable[[], object] = lambda: None) -> None:
    """Ask, and leave when the first word has come."""
    response = browser.post(reverse("openai_compat:ask"), {"message": message}, content_type="application/json")
    pieces = iter(response)
    while b'"a"' not in next(pieces):
        pass
    before()
    response.close()


def test_a_turn_that_the_visitor_stops_is_kept_as_far_as_it_came_and_frees_the_model() -> None:
    with model([then_silence, stream_reply("b")]) as server:
        browser = Browser()
        stop(browser, "1")
        assert server.wait_closed()
        say(browser, "2")
        sent = [message["content"] for message in json.loads(server.requests[1].body)["messages"]]
        shown = browser.get(reverse("openai_compat:history")).json()["messages"]
    assert sent == ["Be brief.", "1", "a", "2"]
    assert [(message["content"], message["stopped"]) for message in shown] == [
        ("1", False), ("a", True), ("2", False), ("b", False)
    ]  # fmt: skip


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_conversation_that_is_reset_while_its_turn_is_stopped_leaves_nothing(earlier: int) -> None:
    with model([stream_reply("b")] * earlier + [then_silence, stream_reply("c")]):
        browser = Browser()
        for _ in range(earlier):
            say(browser, "0")
        stop(browser, "1", before=lambda: browser.post(reverse("openai_compat:reset")))
        assert contents(browser) == []
        assert not Conversation.objects.exists()
        say(browser, "2")
        assert contents(browser) == ["2", "c"]


def test_a_conversation_that_is_deleted_meanwhile_stays_deleted() -> None:
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        say(browser, "1")
        response = browser.post(reverse("openai_compat:ask"), {"message": "2"}, content_type="application/json")
        browser.post(reverse("openai_compat:reset"))
        assert [name for name, _ in named_events(b"".join(response))] == ["text", "done"]
        assert contents(browser) == []
    assert not Conversation.objects.exists()
    assert not Row.objects.exists()


def test_two_first_turns_at_once_are_both_kept() -> None:
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        contents(browser)
        ask = partial(browser.post, reverse("openai_compat:ask"), content_type="application/json")
        first, second = ask({"message": "1"}), ask({"message": "2"})
        for response in (first, second):
            assert b"".join(response)
        assert contents(browser) == ["1", "a", "2", "b"]
    assert Conversation.objects.count() == 1


class _Elsewhere:
    """Writes go to another database than the default one."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "other"


def test_a_turn_is_stored_in_one_transaction_of_the_database_that_it_goes_to() -> None:
    using: list[Any] = []

    def atomic(**options: Any) -> Any:
        using.append(options)
        raise RuntimeError("stop here")

    row = Conversation.objects.create()
    with override_settings(DATABASE_ROUTERS=[_Elsewhere()]), mock.patch.object(transaction, "atomic", atomic):
        with pytest.raises(RuntimeError):
            row.add([], ChatResponse(choices=()))
    assert using == [{"using": "other"}]


def test_a_turn_that_cannot_be_stored_whole_is_not_stored_at_all() -> None:
    with model([stream_reply("a"), stream_reply("b")]):
        browser = Browser()
        say(browser, "1")
        with mock.patch.object(Row.objects, "bulk_create", side_effect=OSError("disk full")):
            assert [name for name, _ in say(browser, "2")] == ["text", "error"]
        assert contents(browser) == ["1", "a"]
    assert Conversation.objects.get().title == "1"


def test_csrf_is_respected() -> None:
    with model([stream_reply("a")]) as server:
        browser = Browser(enforce_csrf_checks=True)
        assert say(browser, "1").status_code == 403
        assert browser.post(reverse("openai_compat:reset")).status_code == 403
        assert not server.requests
        browser.get(reverse("admin:login"))
        token = browser.cookies["csrftoken"].value
        assert [name for name, _ in say(browser, "1", HTTP_X_CSRFTOKEN=token)] == ["text", "done"]


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b'{"message": "hi"}', "text/plain", 415),
        (b"{", "application/json", 400),
        (b'{"message": ""}', "application/json; charset=utf-8", 400),
        (json.dumps({"message": "x" * 101}).encode(), "application/json", 413),
        (json.dumps({"message": "x" * 10_000}).encode(), "application/json", 413),
    ],
)
def test_what_cannot_be_asked_is_refused(data: bytes, content_type: str, status: int) -> None:
    with model([]) as server:
        response = Browser().generic("POST", reverse("openai_compat:ask"), data, content_type)
        assert response.status_code == status
        assert response.json()["error"]["message"]
        assert not server.requests


def test_only_the_right_methods_are_taken() -> None:
    assert Browser().get(reverse("openai_compat:ask")).status_code == 405
    assert Browser().get(reverse("openai_compat:reset")).status_code == 405
    assert Browser().post(reverse("openai_compat:history")).status_code == 405


def test_without_its_parts_the_chat_says_what_is_missing() -> None:
    with override_settings(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"]):
        with pytest.raises(ConfigurationError, match="add 'openai_compat.integrations.django' to INSTALLED_APPS"):
            chat_urls()
    with override_settings(MIDDLEWARE=[]), pytest.raises(ConfigurationError, match="sessions and its middleware"):
        Browser().get(reverse("openai_compat:history"))


def test_a_wrong_field_of_the_chat_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="sytem"):
        chat_urls(sytem="x")


# ---------------------------------------------------------------------------------------- conversations of one's own


def test_a_conversation_may_be_held_in_any_code() -> None:
    with model([chat_reply("a"), chat_reply("b")]) as server:
        row = Conversation.objects.create(system="Be brief.")
        assert row.say("1", max_tokens=5).text == "a"
        row = Conversation.objects.get(pk=row.pk)
        row.say("2", temperature=0)
        sent = json.loads(server.requests[1].body)
    assert [message["content"] for message in sent["messages"]] == ["Be brief.", "1", "a", "2"]
    assert [(one.role, one.content) for one in row.messages.all()] == [
        ("user", "1"),
        ("assistant", "a"),
        ("user", "2"),
        ("assistant", "b"),
    ]
    assert (str(row), row.input_tokens > 0, row.output_tokens > 0) == ("1", True, True)


def test_a_turn_that_fails_in_any_code_leaves_no_trace() -> None:
    with model([error_reply(400, "no")]):
        row = Conversation.objects.create()
        with pytest.raises(APIStatusError):
            row.say("1")
    assert not Row.objects.exists()
    assert str(row) == str(row.pk)


def test_everything_that_a_turn_had_comes_back() -> None:
    call = [
        chunk({"reasoning_content": "hm"}),
        chunk({"tool_calls": [{"index": 0, **tool_call("add", '{"a": 1}')}]}),
        *stream_pieces(finish_reason="tool_calls"),
    ]
    replies = [Reply(headers=EVENT_STREAM, body=call), stream_reply("x\0y \ud83d z")]

    def add(a: int) -> int:
        return a + 1

    with model(replies):
        talk = get_client().conversation(tools=[add])
        answer = talk.say("1\0 + 1?", sink=lambda event: None)
    row = Conversation.objects.create()
    row.add(StoredMessage.of_turn(talk.messages, answer), answer)
    assert [stored.message for stored in row.stored_messages()] == list(talk.messages)
    assert [one.role for one in row.messages.all()] == ["user", "assistant", "tool", "assistant"]
    assert "\0" not in row.title + "".join(one.content for one in row.messages.all())


def test_a_message_with_parts_is_stored_with_its_text() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    row = Conversation.objects.create()
    row.add([StoredMessage(Message(role="user", content=parts))], ChatResponse())
    assert (row.title, row.stored_messages()[0].message.content) == ("look", parts)
    assert [row.role for row in row.messages.all()] == ["user"]


def test_conversations_go_with_their_user() -> None:
    ann = User.objects.create_user("ann")
    Conversation.objects.create(user=ann)
    assert ann.llm_conversations.count() == 1
    ann.delete()
    assert not Conversation.objects.exists()


def test_the_admin_shows_conversations_and_changes_none() -> None:
    with model([chat_reply("<script>alert(1)</script>")]):
        row = Conversation.objects.create(id=uuid.uuid4())
        row.say("needle in a question")
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))
    listed = browser.get(reverse("admin:openai_compat_conversation_changelist"), {"q": "needle"})
    assert b"needle in a question" in listed.content
    shown = browser.get(reverse("admin:openai_compat_conversation_change", args=[row.pk]))
    assert b"&lt;script&gt;alert(1)&lt;/script&gt;" in shown.content
    assert b"<script>alert(1)" not in shown.content
    assert browser.get(reverse("admin:openai_compat_conversation_add")).status_code == 403
    browser.post(reverse("admin:openai_compat_conversation_delete", args=[row.pk]), {"post": "yes"})
    assert not Row.objects.exists()


def test_the_migrations_are_complete() -> None:
    out = io.StringIO()
    call_command("makemigrations", "openai_compat", check=True, dry_run=True, stdout=out)
    assert "No changes detected" in out.getvalue()


# ------------------------------------------------------------------------------------------------------- the command


def models(*names: str) -> Reply:
    body = {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
    return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(body).encode())


def test_the_command_tries_every_client() -> None:
    out = io.StringIO()
    with model([models("m", "n"), chat_reply("Hello."), models("m"), chat_reply("Hi.")]) as server:
        call_command("openai_compat_check", stdout=out)
        assert json.loads(server.requests[1].body)["messages"] == [{"role": "user", "content": "Say hello."}]
    said = out.getvalue()
    assert said.count("works") == 2
    for part in ("default", "other", "models: m, n", "answer: 'Hello.'", "tokens"):
        assert part in said


def test_the_command_takes_the_only_model_there_is() -> None:
    with model([models("only"), chat_reply("Hello.")]) as server:
        with override_settings(OPENAI_COMPAT={"BASE_URL": server.url}):
            call_command("openai_compat_check", "--prompt", "2?", stdout=io.StringIO())
        assert json.loads(server.requests[1].body)["model"] == "only"


def test_the_command_says_what_fails_and_tries_the_others() -> None:
    out = io.StringIO()
    with model([error_reply(401, "bad key sk-secret"), models("m"), chat_reply("Hi.")]):
        with pytest.raises(CommandError, match="1 of 2 clients failed: default"):
            call_command("openai_compat_check", stdout=out)
    assert "AuthenticationError" in out.getvalue()
    assert "sk-secret" not in out.getvalue()
    assert "works" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "arguments", "said"),
    [
        ([], [], "must be a dict, not list"),
        ({"BASE_URL": URL}, ["--client", "nobody"], "1 of 1 clients failed: nobody"),
        ({}, [], "1 of 1 clients failed: default"),
    ],
)
def test_the_command_tells_wrong_settings(value: Any, arguments: list[str], said: str) -> None:
    with override_settings(OPENAI_COMPAT=value), pytest.raises(CommandError, match=said):
        call_command("openai_compat_check", *arguments, "--skip-checks", stdout=io.StringIO())


def test_without_django_the_extra_is_named() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "django":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
import openai_compat.integrations.django
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("ConfigurationError: Django is not installed: pip install 'openai-compat[django]'\n")
