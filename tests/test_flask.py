"""Flask: configuration, streamed views, and the chat blueprint."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, request, session
from flask.testing import FlaskClient
from support.replay import EVENT_STREAM, ReplayServer, Reply
from support.replay import Request as Received
from support.wire_bodies import chunk, error_reply, stream_pieces, stream_reply, tool_call

from openai_compat import ChatResponse, Client, ConfigurationError, Timeout
from openai_compat.integrations.flask import OpenAICompat, SQLiteHistory, chat_blueprint, stream_response

URL = "http://localhost:9/v1"


def test_each_application_has_its_client() -> None:
    extension = OpenAICompat()
    apps = [Flask("a"), Flask("b")]
    for number, app in enumerate(apps):
        app.config.update(OPENAI_COMPAT_BASE_URL=URL, OPENAI_COMPAT_MODEL=f"m{number}", OTHER=1)
        extension.init_app(app)
    seen: list[Client] = []
    for app in (*apps, *apps):
        with app.app_context():
            seen.append(extension.client)
    assert [client.model for client in seen] == ["m0", "m1", "m0", "m1"]
    assert len(set(map(id, seen))) == 2


def test_the_configuration_is_that_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_OPENAI_COMPAT_TIMEOUT", '{"first_token": 60}')
    monkeypatch.setenv("FLASK_OPENAI_COMPAT_BASE_URL", URL)
    app = Flask("a")
    app.config.from_prefixed_env()
    extension = OpenAICompat(app)
    with app.app_context():
        assert extension.client.timeout == Timeout(first_token=60)


def test_the_environment_names_the_server_where_the_configuration_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("a")
    extension = OpenAICompat(app)
    with app.app_context():
        with pytest.raises(ConfigurationError, match="the environment names no server"):
            _ = extension.client
        monkeypatch.setenv("OPENAI_BASE_URL", URL)
        assert extension.client.base_url == URL


def test_a_setting_that_there_is_not_is_told_at_once() -> None:
    app = Flask("a")
    app.config["OPENAI_COMPAT_BASEURL"] = URL
    with pytest.raises(ConfigurationError, match="OPENAI_COMPAT_BASEURL; did you mean OPENAI_COMPAT_BASE_URL?"):
        OpenAICompat(app)


def test_an_application_without_the_extension_is_told() -> None:
    with Flask("a").app_context(), pytest.raises(ConfigurationError, match="init_app"):
        _ = OpenAICompat().client


def test_outside_of_an_application_there_is_no_client() -> None:
    with pytest.raises(RuntimeError, match="application context"):
        _ = OpenAICompat().client


@contextmanager
def application(replies: Any, folder: Path, **config: Any) -> Iterator[tuple[Flask, ReplayServer, OpenAICompat]]:
    """An application whose model answers with these replies."""
    with ReplayServer(replies) as server:
        app = Flask("chat", instance_path=str(folder))
        app.config.update(
            TESTING=True,
            SECRET_KEY="k",
            OPENAI_COMPAT_BASE_URL=server.url,
            OPENAI_COMPAT_MODEL="m",
            OPENAI_COMPAT_MAX_RETRIES=0,
        )
        app.config.update(config)
        extension = OpenAICompat(app)
        yield app, server, extension
        with app.app_context():
            extension.client.close()


def then_silence(request: Received) -> Reply:
    def body() -> Iterator[bytes]:
        yield chunk({"content": "a"})
        request.closed.wait(30)

    return Reply(headers=EVENT_STREAM, body=body())


def named_events(body: str) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in body.split("\n\n") if block]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "data" in block]


@pytest.mark.parametrize(
    ("format", "mimetype"), [("sse", "text/event-stream"), ("text", "text/plain"), ("openai", "text/event-stream")]
)
def test_a_view_streams_an_answer(format: Any, mimetype: str, tmp_path: Path) -> None:
    with application([stream_reply("a", "b")], tmp_path) as (app, _, llm):

        @app.post("/ask")
        def ask() -> Any:
            return stream_response(llm.client.stream(request.json["q"]), format=format, headers=[("X-Mine", "1")])

        with app.test_client().post("/ask", json={"q": "hi"}) as response:
            assert (response.status_code, response.mimetype) == (200, mimetype)
            assert response.headers["X-Accel-Buffering"] == "no"
            assert response.headers["X-Mine"] == "1"
            assert "a" in response.text


def test_a_view_streams_a_conversation_and_stores_the_answer_within_its_request(tmp_path: Path) -> None:
    stored: list[Any] = []
    with application([stream_reply("a")], tmp_path) as (app, _, llm):

        @app.get("/ask")
        def ask() -> Any:
            talk = llm.client.conversation()

            def store(answer: ChatResponse) -> None:
                stored.append((request.args["q"], current_app.name, answer.text, len(talk.messages)))

            return stream_response(partial(talk.say, "hi"), on_done=store)

        with app.test_client().get("/ask?q=1") as response:
            assert [name for name, _ in named_events(response.text)] == ["text", "done"]
    assert stored == [("1", "chat", "a", 2)]


def test_an_error_before_the_first_token_is_a_response_of_its_own(tmp_path: Path) -> None:
    with application([error_reply(429, "slow down", headers={"Retry-After": "7"})], tmp_path) as (app, _, llm):
        app.add_url_rule("/", view_func=lambda: stream_response(llm.client.stream("hi")))
        with app.test_client().get("/") as response:
            assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
            assert response.json["error"]["code"] == "rate_limited"  # type: ignore[index]


def test_a_head_request_asks_nothing(tmp_path: Path) -> None:
    with application([], tmp_path) as (app, server, llm):
        app.add_url_rule("/", view_func=lambda: stream_response(llm.client.stream("hi")))
        with app.test_client().head("/") as response:
            assert (response.status_code, response.mimetype, response.data) == (200, "text/event-stream", b"")
        assert not server.requests


@pytest.mark.parametrize(("options", "status"), [({}, 403), ({"cross_site": True}, 200)])
def test_a_page_of_another_site_cannot_ask_by_get(options: Any, status: int, tmp_path: Path) -> None:
    with application([stream_reply("a")], tmp_path) as (app, server, llm):
        app.add_url_rule("/", view_func=lambda: stream_response(llm.client.stream("hi"), **options))
        with app.test_client().get("/", headers={"Sec-Fetch-Site": "cross-site"}) as response:
            assert response.text
        assert (response.status_code, len(server.requests)) == (status, status == 200)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the collector may come to the socket first, and says so
@pytest.mark.parametrize("way", ["closed", "a header that fails", "an after_request that fails"])
def test_a_response_that_is_dropped_ends_the_call(way: str, tmp_path: Path) -> None:
    with application(then_silence, tmp_path) as (app, server, llm):
        headers: Any = [("X-Mine", "a\nb")] if way == "a header that fails" else []
        app.add_url_rule("/", view_func=lambda: stream_response(llm.client.stream("hi"), headers=headers))
        if headers:
            with pytest.raises(ValueError, match="newline"):
                app.test_client().get("/")
        elif way == "closed":
            response = app.test_client().get("/", buffered=False)
            assert b"retry" in next(response.iter_encoded())
            response.close()
        else:

            @app.after_request
            def fail(response: Any) -> Any:
                raise LookupError("here")

            with pytest.raises(LookupError):
                app.test_client().get("/")
            gc.collect()
        assert server.wait_closed()


@contextmanager
def chat(replies: Any, folder: Path, **options: Any) -> Iterator[tuple[Flask, ReplayServer]]:
    with application(replies, folder) as (app, server, _):
        app.register_blueprint(chat_blueprint(**options), url_prefix="/chat")
        yield app, server


def say(browser: FlaskClient, message: str, **options: Any) -> Any:
    with browser.post("/chat/ask", json={"message": message}, **options) as response:
        return named_events(response.text) if response.mimetype == "text/event-stream" else response


def contents(browser: FlaskClient) -> list[str]:
    with browser.get("/chat/history") as response:
        assert response.headers["Cache-Control"] == "no-store"
        return [message["content"] for message in response.json["messages"]]


def test_each_visitor_has_a_history(tmp_path: Path) -> None:
    with chat([stream_reply(text) for text in "abc"], tmp_path, system="Be brief.") as (app, server):
        ann, ben = app.test_client(), app.test_client()
        assert say(ann, "1") == [
            ("text", {"delta": "a"}),
            ("done", {"finish_reason": "stop", "model": "m-served", "usage": None, "truncated": False}),
        ]
        say(ben, "2")
        say(ann, "3")
        assert (contents(ann), contents(ben)) == (["1", "a", "3", "c"], ["2", "b"])
        assert contents(app.test_client()) == []
        assert ann.post("/chat/reset").status_code == 204
        assert (contents(ann), contents(ben)) == ([], ["2", "b"])
        sent = [[message["content"] for message in json.loads(one.body)["messages"]] for one in server.requests]
    assert sent == [["Be brief.", "1"], ["Be brief.", "2"], ["Be brief.", "1", "a", "3"]]


def test_the_history_is_there_after_a_restart_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    with chat([stream_reply("a")], tmp_path) as (app, _):
        browser = app.test_client()
        say(browser, "1")
        cookie = browser.get_cookie("session")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {os.stat(path).st_mode & 0o077 for path in files} == {0}
    with chat([], tmp_path) as (app, _):
        browser = app.test_client()
        browser.set_cookie("session", cookie.value if cookie else "")
        assert contents(browser) == ["1", "a"]


@pytest.mark.parametrize("key", ["_user_id", "user_id", "user", "username"])
def test_a_conversation_ends_with_the_logout(key: str, tmp_path: Path) -> None:
    with chat([stream_reply(text) for text in "abcd"], tmp_path) as (app, _):
        browser = app.test_client()

        def log_in(user: Any) -> None:
            with browser.session_transaction() as kept:
                kept.pop(key, None)
                if user is not None:
                    kept[key] = user

        say(browser, "1")
        log_in("ann")
        say(browser, "2")
        assert contents(browser) == ["1", "a", "2", "b"]
        log_in("ben")
        assert contents(browser) == []
        say(browser, "3")
        log_in(None)
        assert contents(browser) == []
        say(browser, "4")
        log_in({"id": 3})
        assert contents(browser) == ["4", "d"]
        with browser.session_transaction() as kept:
            kept.clear()
        assert contents(browser) == []


def test_one_visitor_may_have_so_many_answers_under_way(tmp_path: Path) -> None:
    with chat(then_silence, tmp_path, max_answers=1, visitor=lambda: request.headers.get("X-User")) as (app, server):

        def ask(user: str) -> Any:
            return app.test_client().post("/chat/ask", json={"message": "1"}, headers={"X-User": user})

        first, other = ask("ann"), ask("ben")
        with ask("ann") as refused:
            assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limited")
        assert len(server.requests) == 2
        first.close()
        again = ask("ann")
        assert [reply.status_code for reply in (first, other, again)] == [200] * 3
        for reply in (other, again):
            reply.close()


def test_two_applications_may_have_the_same_blueprint(tmp_path: Path) -> None:
    blueprint = chat_blueprint(visitor=lambda: "ann")
    for name in ("one", "two"):
        with application([stream_reply(name)], tmp_path / name) as (app, _, _):
            app.register_blueprint(blueprint, url_prefix="/chat")
            say(app.test_client(), "hi")
            assert contents(app.test_client()) == ["hi", name]


def test_the_application_may_say_who_the_visitor_is_and_where_the_history_goes(tmp_path: Path) -> None:
    store = SQLiteHistory(tmp_path / "elsewhere.sqlite3")
    visitor = lambda: request.headers.get("X-User")  # noqa: E731
    with chat([stream_reply("a")], tmp_path / "instance", visitor=visitor, history=store) as (app, server):
        say(app.test_client(), "1", headers={"X-User": "ann"})
        with app.test_client().get("/chat/history", headers={"X-User": "ben"}) as response:
            assert response.json == {"messages": []}
        with app.test_client().get("/chat/history", headers={"X-User": "ann"}) as response:
            assert len(response.json["messages"]) == 2  # type: ignore[index]
        for method, path in (("POST", "ask"), ("GET", "history"), ("POST", "reset")):
            with app.test_client().open(f"/chat/{path}", method=method, json={"message": "hi"}) as response:
                assert (response.status_code, response.json["error"]["message"]) == (401, "Please log in first.")  # type: ignore[index]
        assert len(server.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere.sqlite3"]


def test_two_chats_of_an_application_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    with application([stream_reply("a")], tmp_path) as (app, _, _):
        for name in ("chat", "other"):
            app.register_blueprint(chat_blueprint(name), url_prefix=f"/{name}")
        browser = app.test_client()
        say(browser, "1")
        assert contents(browser) == ["1", "a"]
        with browser.get("/other/history") as response:
            assert response.json == {"messages": []}


def test_tools_have_an_application_context_that_is_torn_down_after_them(tmp_path: Path) -> None:
    opened: list[Any] = []
    closed: list[Any] = []

    def look_up() -> str:
        if "connection" not in g:
            g.connection = object()
            opened.append(g.connection)
        assert g.connection not in closed
        return f"{current_app.name} {request.path}"

    call = [chunk({"tool_calls": [{"index": i, **tool_call("look_up", "{}", f"c{i}")} for i in range(2)]})]
    asks = Reply(headers=EVENT_STREAM, body=[*call, *stream_pieces()])
    with chat([asks, stream_reply("a")], tmp_path, tools=[look_up]) as (app, server):

        @app.teardown_appcontext
        def close(error: BaseException | None) -> None:
            if "connection" in g:
                closed.append(g.connection)

        say(app.test_client(), "1")
        told = [m["content"] for m in json.loads(server.requests[1].body)["messages"] if m["role"] == "tool"]
    assert told == ["chat /chat/ask"] * 2
    assert closed == opened
    assert opened


def test_tools_run_in_the_request_where_that_is_asked_for(tmp_path: Path) -> None:
    threads: list[Any] = []

    def look_up() -> str:
        threads.append(threading.current_thread())
        return f"{current_app.name} {request.path}"

    call = [chunk({"tool_calls": [{"index": i, **tool_call("look_up", "{}", f"c{i}")} for i in range(2)]})]
    asks = Reply(headers=EVENT_STREAM, body=[*call, *stream_pieces()])
    with chat([asks, stream_reply("a")], tmp_path, tools=[look_up], tools_in_request=True) as (app, server):
        say(app.test_client(), "1")
        told = [m["content"] for m in json.loads(server.requests[1].body)["messages"] if m["role"] == "tool"]
    assert (threads, told) == ([threading.current_thread()] * 2, ["chat /chat/ask"] * 2)


FAILURES: dict[str, Callable[[], Any]] = {
    "refused": lambda: error_reply(500, "no"),
    "broken off": lambda: Reply(headers=EVENT_STREAM, body=[chunk({"content": "a"})], abort="rst"),
    "an error in the stream": lambda: Reply(
        headers=EVENT_STREAM, body=[chunk({"content": "a"}), b'data: {"error": {"message": "x"}}\n\n']
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_turn_that_fails_leaves_the_history_as_it_was(failure: str, tmp_path: Path) -> None:
    replies = [stream_reply("a"), FAILURES[failure](), stream_reply("c")]
    with chat(replies, tmp_path) as (app, _):
        browser = app.test_client()
        for question in "123":
            say(browser, question)
        assert contents(browser) == ["1", "a", "3", "c"]


def stop(browser: FlaskClient, message: str, before: Callable[[], object] = lambda: None) -> None:
    """Ask, and leave when the first word has come."""
    response = browser.post("/chat/ask", json={"message": message}, buffered=False)
    got = response.iter_encoded()
    while b'"a"' not in next(got):
        pass
    before()
    response.close()


def test_a_turn_that_the_visitor_stops_is_kept_as_far_as_it_came_and_frees_the_model(tmp_path: Path) -> None:
    with chat([then_silence, stream_reply("b")], tmp_path) as (app, server):
        browser = app.test_client()
        stop(browser, "1")
        assert server.wait_closed()
        say(browser, "2")
        sent = [message["content"] for message in json.loads(server.requests[1].body)["messages"]]
        with browser.get("/chat/history") as response:
            shown = [(message["content"], message["stopped"]) for message in response.json["messages"]]  # type: ignore[index]
    assert sent == ["1", "a", "2"]
    assert shown == [("1", False), ("a", True), ("2", False), ("b", False)]


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_conversation_that_is_reset_meanwhile_stays_empty(earlier: int, tmp_path: Path) -> None:
    with chat([stream_reply("b")] * earlier + [then_silence, stream_reply("c")], tmp_path) as (app, _):
        browser = app.test_client()
        for _ in range(earlier):
            say(browser, "0")
        stop(browser, "1", before=lambda: browser.post("/chat/reset"))
        assert contents(browser) == []
        say(browser, "2")
        assert contents(browser) == ["2", "c"]


def test_two_turns_at_once_are_both_kept(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def reply(request: Received) -> Reply:
        both.wait(10)
        return stream_reply("a")

    with chat(reply, tmp_path, visitor=lambda: "ann") as (app, _):
        threads = [threading.Thread(target=say, args=(app.test_client(), question)) for question in "12"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(contents(app.test_client())) == ["1", "2", "a", "a"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8080"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"}, 200),
        ({}, 200),
    ],
)
@pytest.mark.parametrize("path", ["ask", "reset"])
def test_other_sites_may_not_ask_in_a_visitors_name(
    headers: dict[str, str], status: int, path: str, tmp_path: Path
) -> None:
    with chat([stream_reply("a")], tmp_path) as (app, server):
        with app.test_client().post(f"/chat/{path}", json={"message": "1"}, headers=headers) as response:
            assert response.status_code in (status, 204 if status == 200 else status)
            if status != 200:
                assert response.json["error"]["message"] == "The message comes from another site."  # type: ignore[index]
        assert len(server.requests) == (status == 200 and path == "ask")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"data": b'{"message": "hi"}', "content_type": "text/plain"}, 415),
        ({"data": {"message": "hi"}}, 415),
        ({"data": b"{", "content_type": "application/json"}, 400),
        ({"data": b'{"message": ' + b"[" * 100, "content_type": "application/json"}, 400),
        ({"json": {"message": "x" * 11}}, 413),
        ({"json": {"message": "x" * 1000}}, 413),
    ],
)
def test_what_cannot_be_asked_is_refused(request_: dict[str, Any], status: int, tmp_path: Path) -> None:
    with chat([], tmp_path, max_question=10) as (app, server):
        with app.test_client().post("/chat/ask", **request_) as response:
            assert response.status_code == status
            assert response.json["error"]["message"]  # type: ignore[index]
        assert not server.requests


def test_the_blueprints_guards_come_first(tmp_path: Path) -> None:
    with application([], tmp_path) as (app, server, _):
        blueprint = chat_blueprint()
        blueprint.before_request(lambda: ("who are you?", 401) if "user" not in session else None)
        app.register_blueprint(blueprint)
        for method, path in (("POST", "/ask"), ("GET", "/history"), ("POST", "/reset")):
            with app.test_client().open(path, method=method, json={"message": "hi"}) as response:
                assert response.status_code == 401
        assert not server.requests


def test_without_a_secret_key_the_error_says_what_to_do(tmp_path: Path) -> None:
    with chat([], tmp_path) as (app, _):
        app.secret_key = None
        with pytest.raises(ConfigurationError, match="set SECRET_KEY"):
            app.test_client().get("/chat/history")


def test_a_history_that_cannot_be_stored_is_an_error_that_the_visitor_sees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(SQLiteHistory):
        def add(self, *arguments: Any) -> None:
            raise OSError("disk full")

    with chat([stream_reply("a")], tmp_path, history=Full(tmp_path / "h.sqlite3")) as (app, _):
        assert [name for name, _ in say(app.test_client(), "1")] == ["text", "error"]
    assert "disk full" in caplog.text


def test_an_instance_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with chat([], tmp_path / "file") as (app, _):
        with pytest.raises(ConfigurationError, match="conversations cannot be stored in"):
            app.test_client().get("/chat/history")


def test_a_wrong_field_of_the_blueprint_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="sytem"):
        chat_blueprint(sytem="x")


def test_without_flask_the_extra_is_named() -> None:
    code = "import sys; sys.modules['flask'] = None; import openai_compat.integrations.flask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("ConfigurationError: Flask is not installed: pip install 'openai-compat[flask]'\n")
