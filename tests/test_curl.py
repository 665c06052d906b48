"""A request as a curl command: what real curl sends is what the client sent, and no secret stands in it."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from support.replay import ReplayServer, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import BadRequestError, Cancelled, CancelToken, Client, OpenAICompatError, RequestEvent, SentRequest
from openai_compat.timeouts import Deadline, Timeout
from openai_compat.transport.call import Call, Sending
from openai_compat.wire.retry import RetryPolicy

KEY = "sk-of-the-curl-1234567890"
SECRET = "s3cret-of-another-header"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


def run(command: str, **variables: str) -> str:
    """What a POSIX shell makes of a command."""
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def sent(request: Request) -> tuple[Any, ...]:
    names = ("content-type", "authorization", "api-key", "x-auth-token", "x-plain", "x-empty")
    return request.method, request.path, request.body, {name: request.headers.get(name) for name in names}


@pytest.mark.process
@needs_curl
@pytest.mark.parametrize(
    "prompt",
    [
        "hi",
        'it\'s "quoted" `id` $(id) $HOME \\ % !',
        "lines\nand\ttabs",
        "@file",
        "日本 😀",
        "x" * 70_000,
        "it's " * 20_000,
    ],
    ids=["plain", "shell", "lines", "at", "unicode", "big", "big and quoted"],
)
def test_curl_sends_what_the_client_sent(prompt: str) -> None:
    events: list[RequestEvent] = []
    headers = {"X-Auth-Token": SECRET, "X-Plain": "a $HOME 'b' \"c\"", "X-Empty": ""}
    with ReplayServer([chat_reply("ok")]) as server:
        url = f"{server.url}/a/../v1?api-version=1&x=%20a&list[]=1&b[1-3]=2"
        with Client(url, KEY, model="m", headers=headers, on_request=events.append) as client:
            client.chat(prompt)
        command = events[0].curl()
        assert KEY not in command
        assert SECRET not in command
        assert '"ok"' in run(command, OPENAI_API_KEY=KEY, X_AUTH_TOKEN=SECRET)
        first, again = map(sent, server.requests)
    # A here-document ends with a line break.
    assert (*again[:2], again[2].rstrip(b"\n"), again[3]) == first


@pytest.mark.process
@needs_curl
def test_curl_lists_models_and_streams() -> None:
    events: list[RequestEvent] = []
    with ReplayServer([error_reply(400)]) as server, Client(f"{server.url}/v1", KEY, model="m") as client:
        client.hooks.add(on_request=events.append)
        for ask in (client.models, client.stream("hi").until_done):
            with pytest.raises(BadRequestError):
                ask()
        models, stream = (event.curl() for event in events)
        assert shlex.split(models) == [
            *("curl", "-sS", f"{server.url}/v1/models"),
            *("-H", "Content-Type: application/json", "-H", "Authorization: Bearer $OPENAI_API_KEY"),
        ]
        assert " -N " in stream
        for command in (models, stream):
            run(command, OPENAI_API_KEY=KEY)
        first = [sent(request) for request in server.requests]
    assert first[:2] == first[2:]


def test_an_error_has_it_and_keeps_it_in_a_pickle() -> None:
    with ReplayServer([error_reply(400, "no")]) as server, Client(f"{server.url}/v1", KEY, model="m") as client:
        with pytest.raises(BadRequestError) as caught:
            client.chat("hi")
        with pytest.raises(BadRequestError) as streamed:
            client.stream("hi").until_done()
    error = caught.value
    assert error.request is not None
    assert error.request.body == server.requests[0].body
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in error.curl()
    assert "-N" in streamed.value.curl()
    again = pickle.loads(pickle.dumps(error))
    assert (again.curl(), again.request) == (error.curl(), error.request)
    assert KEY.encode() not in pickle.dumps(error)
    assert "hi" not in repr(error.request)


def test_an_error_of_what_was_never_sent_has_none() -> None:
    token = CancelToken()
    token.cancel()
    with Client("http://localhost:1", KEY, model="m") as client, pytest.raises(Cancelled) as caught:
        client.chat("hi", cancel=token)
    assert (caught.value.request, caught.value.curl()) == (None, "")
    assert OpenAICompatError("made by hand").curl() == ""


def test_a_key_in_a_body_or_a_query_is_masked() -> None:
    with ReplayServer([error_reply(400, "no")]) as server:
        with (
            Client(f"{server.url}/v1?code={SECRET}", KEY, model="m") as client,
            pytest.raises(BadRequestError) as caught,
        ):
            client.chat(f"my key is {KEY}, is it?", extra_query={"token": "passing-secret-1"})
    command = caught.value.curl()
    assert "my key is ***, is it?" in command
    assert not any(secret in command for secret in (KEY, SECRET, "passing-secret-1"))


@pytest.mark.parametrize("own", [False, True], ids=["own pool", "given session"])
def test_a_login_in_the_url_is_a_variable(own: bool) -> None:
    session = requests.Session() if own else None
    with ReplayServer([error_reply(400, "no")]) as server:
        url = server.url.replace("://", "://me:pass-of-mine-1@")
        with Client(f"{url}/v1", model="m", session=session) as client, pytest.raises(BadRequestError) as caught:
            client.chat("hi")
        assert server.requests[0].headers["Authorization"].startswith("Basic ")
    assert '-H "Authorization: Basic $BASIC_LOGIN"' in caught.value.curl()
    assert "pass-of-mine" not in caught.value.curl()


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Authorization": f"Bearer {KEY}"}, '"Authorization: Bearer $OPENAI_API_KEY"'),
        ({"api-key": KEY}, '"api-key: $OPENAI_API_KEY"'),
        ({"Authorization": "Basic dTpw"}, '"Authorization: Basic $BASIC_LOGIN"'),
        ({"X-Session-Token": KEY}, '"X-Session-Token: $X_SESSION_TOKEN"'),
        ({"Cookie": "a=b; c=d"}, '"Cookie: $COOKIE"'),
        ({"X-`id`-Key": KEY}, "'X-`id`-Key: '\"$X__ID__KEY\""),
        ({"Content-Type": "application/json"}, "'Content-Type: application/json'"),
    ],
)
def test_headers(headers: dict[str, str], words: str) -> None:
    call = Call(Deadline(Timeout()), RetryPolicy())
    with call.sending(Sending("POST", "http://h/v1", "/v1", headers, b"{}")):
        assert call.request().curl() == f"curl -sS http://h/v1 -H {words} --data-raw '{{}}'"


@pytest.mark.process
def test_a_big_body_ends_no_here_document() -> None:
    body = b"x" * 70_000 + b"\nJSON\necho forged\nJSON_\n"
    command = SentRequest("POST", "http://h/", {}, body).curl()
    assert run(command.replace("curl -sS http://h/ --data-binary @-", "cat")) == f"{body.decode()}\n"


@settings(max_examples=20)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80))
def test_any_text_is_one_argument_of_a_shell(text: str) -> None:
    request = SentRequest("POST", f"http://h/{text}", {"X-A": text}, text.encode())
    words = [word for word in shlex.split(request.curl()) if word not in ("-g", "--path-as-is")]
    header = f"X-A: {text}" if text.strip() else "X-A;"
    assert words == ["curl", "-sS", f"http://h/{text}", "-H", header, "--data-raw", text]
