"""Keys, logins and secret headers: how they go, and that nothing shows them."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import pprint
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply
from support.wire_bodies import chat_reply, error_reply
from urllib3.util import Retry

from openai_compat import (
    APIError,
    AuthenticationError,
    Client,
    ConfigurationError,
    ToolError,
)
from openai_compat.credentials import Secrets, checked_headers, secret_option
from openai_compat.integrations._settings import LazyClient, make_client
from openai_compat.server_options import environment_server


def test_no_key_sends_no_authorization() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        assert "Authorization" not in server.requests[0].headers


def test_a_key_goes_as_a_bearer_token_and_is_out_of_sight() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, "sk-0123456789", model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer sk-0123456789"
    assert "sk-0123456789" not in repr(client) + repr(vars(client))


def test_a_key_may_be_renewed_by_a_function() -> None:
    tokens = iter(["one", "two"])
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url, lambda: next(tokens), model="m")
        client.chat("hi")
        client.chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer two"]


def test_renewed_keys_are_all_kept_out_of_errors() -> None:
    keys = ["0a1b2c3d4e5f60718293aaaa4b5c6d7e", "ffeeddccbbaa99887766554433221100"]
    given = iter(keys)
    with ReplayServer([error_reply(401, f"bad key {keys[0]}")]) as server:
        client = Client(server.url, lambda: next(given), model="m")
        for _ in keys:
            with pytest.raises(AuthenticationError) as caught:
                client.chat("hi")
            assert keys[0] not in str(caught.value) + caught.value.body


def test_of_very_many_and_long_secrets_of_single_calls_the_last_are_known() -> None:
    secrets = Secrets()
    secrets.keep(["lasting-0123456789"])
    secrets.keep_a_while(f"{number:08}" for number in range(100))
    assert secrets() == ("lasting-0123456789", *(f"{number:08}" for number in range(36, 100)))
    secrets.keep_a_while(str(number) * 6000 for number in range(10))
    assert secrets() == ("lasting-0123456789", "8" * 6000, "9" * 6000)
    secrets.keep_a_while(["a" * 100_000])
    assert secrets() == ("lasting-0123456789", "a" * 100_000)
    secrets.keep(["lasting-0123456789"])
    assert "0123456789" not in repr(secrets) + pprint.pformat(vars(secrets))


def test_a_requests_auth_object_is_used() -> None:
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m", auth=HTTPBasicAuth("u", "p")).chat("hi")
        assert server.requests[0].headers["Authorization"].startswith("Basic ")


def test_digest_auth_answers_the_challenge() -> None:
    challenge = Reply(
        status=401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"', **JSON}, body=b"{}"
    )
    with ReplayServer([challenge, chat_reply()]) as server:
        assert Client(server.url, model="m", auth=HTTPDigestAuth("u", "p")).chat("hi").text == "ok"
        assert server.requests[1].headers["Authorization"].startswith("Digest ")


def test_a_login_in_the_base_url_becomes_basic_auth_and_is_not_shown() -> None:
    with ReplayServer([chat_reply()]) as server:
        client = Client(server.url.replace("http://", "http://user:pass@"), model="m")
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert "pass" not in repr(client)


def test_a_login_from_netrc_is_used_where_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with ReplayServer([chat_reply()]) as server:
        Client(server.url, model="m").chat("hi")
        Client(server.url, "key-of-mine", model="m").chat("hi")
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent[0].startswith("Basic ")
    assert sent[1] == "Bearer key-of-mine"


def test_a_key_given_beside_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with ReplayServer([chat_reply()]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        Client.from_env(api_key="mine-0123456", model="m").chat("hi")
        assert server.requests[0].headers["Authorization"] == "Bearer mine-0123456"


KEY = "sk-a-key-that-nobody-may-see"


@contextlib.contextmanager
def failing(way: str) -> Iterator[str]:
    """The URL of a server that does not answer."""
    replies = {"resets": Reply(head=b"", abort="rst"), "401": error_reply(401, f"no: {KEY}")}
    with ReplayServer([replies.get(way, Reply())]) as server:
        if way == "refuses":
            server.close()
        yield server.url


@pytest.mark.parametrize("carried", ["api_key", "headers", "userinfo"])
@pytest.mark.parametrize("way", ["refuses", "resets", "401"])
def test_variables_in_a_traceback_show_no_key(carried: str, way: str) -> None:
    with failing(way) as url:
        if carried == "userinfo":
            client = Client(url.replace("//", f"//user:{KEY}@"), model="m", max_retries=0)
        elif carried == "headers":
            client = Client(url, model="m", max_retries=0, headers={"X-Api-Key": KEY})
        else:
            client = Client(url, KEY, model="m", max_retries=0)
        for ask in (client.chat, lambda prompt: list(client.stream(prompt)), client.embed):
            with pytest.raises(APIError) as caught:
                ask("hi")
            frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            del caught
            shown = "".join(frames.format())
            assert "all_headers" in shown
            assert KEY not in shown
            assert base64.b64encode(f"user:{KEY}".encode()).decode() not in shown
            del frames, shown
        client.close()


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([("X-Team", "a")], "headers is a dict of names and values, not list"),
        ({"X-Team": 1}, "header 'X-Team' must be a string"),
        ({1: "a"}, "header 1 must be a string"),
        ({"X Team": "a"}, "header 'X Team' has a character that is not allowed in a name"),
        ({"Content-Length": "5"}, "header 'Content-Length' says where a request ends"),
        ({"X-Team": "a\r\nX-Key: b"}, "header 'X-Team' has a line break in it"),
        ({"X-Team": "a\0"}, "header 'X-Team' has a control character"),
        ({"X-Team": "\u20ac"}, "header 'X-Team' has a control character, or one that is not in Latin-1"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        checked_headers(headers)


def test_headers_that_carry_a_secret_do_not_show_it() -> None:
    headers = checked_headers({"X-Team": "search", "X-Api-Key": KEY, "Cookie": KEY})
    assert headers == {"X-Team": "search", "X-Api-Key": KEY, "Cookie": KEY}
    assert KEY not in repr(headers)
    assert "search" in repr(headers)


SECRETS: dict[str, tuple[dict[str, Any], str | None]] = {
    "none": ({}, None),
    "key": ({"api_key": KEY}, "api_key"),
    "key-by-a-function": ({"api_key": str}, None),
    "auth": ({"auth": HTTPBasicAuth("u", "p")}, "auth"),
    "login": ({"base_url": "http://u:p@x"}, "base_url"),
    "query": ({"base_url": "http://x?api-version=2024&api_key=abcd"}, "base_url"),
    "plain-query": ({"base_url": "http://x?api-version=2024"}, None),
    "header": ({"headers": {"X-Team": "a", "X-Auth": "b"}}, "headers"),
    "plain-header": ({"headers": {"X-Team": "a"}}, None),
    "proxy": ({"proxies": {"http": "http://u:p@x"}}, "proxies"),
    "plain-proxy": ({"proxies": {"http": "http://x"}}, None),
}


@pytest.mark.parametrize(("options", "held"), SECRETS.values(), ids=SECRETS)
def test_which_option_holds_a_secret(options: dict[str, Any], held: str | None) -> None:
    plain = {"api_key": None, "auth": None, "base_url": "http://x", "headers": None, "proxies": None}
    assert secret_option({**plain, **options}) == held


def test_a_function_for_the_key_is_pickled_with_its_client_or_refused() -> None:
    assert pickle.loads(pickle.dumps(Client("http://x", str))).base_url == "http://x/v1"
    with pytest.raises(ConfigurationError, match="api_key is a function that cannot be pickled"):
        pickle.dumps(Client("http://x", lambda: KEY))


def everything_shown(error: BaseException) -> str:
    """What a report shows of an error and its contexts: texts, attributes, the variables of all frames but ours."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    shown: list[str] = []
    while waiting:
        item = waiting.pop()
        if item is None or item in seen:
            continue
        seen.append(item)
        waiting += [item.__cause__, item.__context__]
        shown += [str(item), repr(item), repr(vars(item))]
        if (sent := getattr(item, "request", None)) is not None:
            shown += [str(sent.url), *map("{0[0]}: {0[1]}".format, sent.headers.items())]
        for frame, _ in traceback.walk_tb(item.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += [f"{name}={formatted(value)}" for name, value in frame.f_locals.items()]
    return "\n".join(shown)


def formatted(value: object) -> str:
    try:
        return pprint.pformat(value)
    except AttributeError:
        return object.__repr__(value)  # not made to its end


SECRET = "Zq7f3K9vTn2Xw8RbLd0HcJ"
LOGIN = f"user:{SECRET}"
SPELLINGS = (SECRET, base64.b64encode(LOGIN.encode()).decode(), SECRET.encode().hex())
BEARER = {"Authorization": f"Bearer {SECRET}"}


def in_proxies(url: str) -> Client:
    return Client("http://model.example", proxies={"http": url.replace("//", f"//{LOGIN}@")}, **ONCE)


def in_tunnel(url: str) -> Client:
    return Client("https://model.example", proxies={"https": url.replace("//", f"//{LOGIN}@")}, **ONCE)


def with_session(url: str, **attributes: Any) -> Client:
    session = requests.Session()
    for name, value in attributes.items():
        setattr(session, name, value)
    return Client(url, session=session, **ONCE)


ONCE: dict[str, Any] = {"model": "m", "max_retries": 0}
CARRIED: dict[str, Callable[[str], Client]] = {
    "key": lambda url: Client(url, SECRET, **ONCE),
    "key-of-azure": lambda url: Client(f"{url}/openai", SECRET, provider="azure", **ONCE),
    "key-by-a-function": lambda url: Client(url, lambda: SECRET, **ONCE),
    "key-and-session": lambda url: Client(url, SECRET, session=requests.Session(), **ONCE),
    "bearer": lambda url: Client(url, headers=BEARER, **ONCE),
    "password-header": lambda url: Client(url, headers={"X-Password": SECRET}, **ONCE),
    "credential-header": lambda url: Client(url, headers={"X-Credential": SECRET}, **ONCE),
    "login": lambda url: Client(url.replace("//", f"//{LOGIN}@"), **ONCE),
    "token-as-user": lambda url: Client(url.replace("//", f"//{SECRET}@"), **ONCE),
    "query": lambda url: Client(f"{url}?api_key={SECRET}", **ONCE),
    "query-and-session": lambda url: Client(f"{url}?api_key={SECRET}", session=requests.Session(), **ONCE),
    "auth": lambda url: Client(url, auth=("user", SECRET), **ONCE),
    "auth-object": lambda url: Client(url, auth=HTTPBasicAuth("user", SECRET), **ONCE),
    "session-headers": lambda url: with_session(url, headers=BEARER),
    "session-auth": lambda url: with_session(url, auth=("user", SECRET)),
    "proxy": in_proxies,
    "tunnel": in_tunnel,
}


def ask(client: Client) -> object:
    return client.chat("hi")


def ask_for_a_stream(client: Client) -> object:
    return list(client.stream("hi"))


@pytest.mark.parametrize("way", ["refused", "reset", "echoed", "redirect"])
@pytest.mark.parametrize("carried", CARRIED)
def test_no_report_of_a_failed_call_shows_a_secret(
    carried: str, way: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    echo = f"no {' '.join(SPELLINGS)}"
    location = f"http://{LOGIN}@h/{SECRET}/v1?api_key={SECRET}"
    moved = Reply(status=307, headers={"Location": location, **JSON}, body=b"{}")
    echoed = Reply(status=401, headers={"X-Echo": echo, **JSON}, body=json.dumps({"error": echo}).encode())
    replies = {"reset": Reply(head=b"", abort="rst"), "redirect": moved}
    with ReplayServer([replies.get(way, echoed)]) as server:
        if way == "refused":
            server.close()
        for asking in (ask, ask_for_a_stream):
            with CARRIED[carried](server.url) as client, pytest.raises(APIError) as caught:
                asking(client)
            shown = everything_shown(caught.value) + "".join(traceback.format_exception(caught.value))
            shown += caplog.text + pickle.dumps(caught.value).decode("latin-1")
            del caught
            assert not [spelling for spelling in SPELLINGS if spelling in shown]


ECHOES: dict[str, Callable[[str], Reply]] = {
    "a page": lambda echo: Reply(body=f"<p>You sent {echo}".encode()),
    "not an answer": lambda echo: Reply(headers=JSON, body=json.dumps({"headers": echo}).encode()),
    "an error": lambda echo: Reply(headers=JSON, body=json.dumps({"error": echo}).encode()),
    "an event": lambda echo: Reply(headers=EVENT_STREAM, body=f"data: {json.dumps({'error': echo})}\n\n".encode()),
    "no event": lambda echo: Reply(headers=EVENT_STREAM, body=f"data: {{{echo}\n\n".encode()),
    "a header": lambda echo: Reply(head=f"HTTP/1.1 200 OK\r\n{echo}\r\n\r\n".encode(), abort="rst"),
    "a length": lambda echo: Reply(head=f"HTTP/1.1 200 OK\r\nContent-Length: {echo}\r\n\r\n{{}}".encode(), abort="rst"),
    "a status line": lambda echo: Reply(head=f"HTTP/1.1 {echo}\r\n\r\n".encode(), abort="rst"),
}


@pytest.mark.parametrize("echoed", ECHOES)
@pytest.mark.parametrize("carried", ["key", "key-and-session"])
def test_no_report_shows_what_a_server_echoes_in_place_of_an_answer(
    carried: str, echoed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with ReplayServer([ECHOES[echoed](SECRET)]) as server:
        for asking in (ask, ask_for_a_stream, lambda client: client.embed(["a"]), lambda client: client.models()):
            with CARRIED[carried](server.url) as client, pytest.raises(APIError) as caught:
                asking(client)
            shown = everything_shown(caught.value)
            del caught
            assert SECRET not in shown + caplog.text


def test_what_urllib3_logs_of_its_own_tries_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=2, backoff_factor=0, allowed_methods=None)))
    with ReplayServer([Reply(head=b"", abort="rst")]) as server:
        with Client(f"{server.url}?api_key={SECRET}", session=session, **ONCE) as client, pytest.raises(APIError):
            client.chat("hi")
        assert len(server.requests) == 3
    assert "Incremented Retry" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("options", [{"extra_headers": BEARER}, {"extra_query": {"api_key": SECRET}}], ids=str)
def test_no_report_shows_what_a_single_call_carried(options: dict[str, Any]) -> None:
    with ReplayServer([error_reply(401, f"no: {SECRET}")] * 4) as server, Client(server.url, **ONCE) as client:
        for asking in (client.chat, client.stream, client.submit, client.run_tools):
            further: dict[str, Any] = {"tools": []} if asking == client.run_tools else {}
            with pytest.raises(AuthenticationError) as caught:
                finished(asking("hi", **options, **further))
            assert SECRET not in everything_shown(caught.value)
        assert len(server.requests) == 4


def finished(result: Any) -> object:
    return result.result(timeout=30) if isinstance(result, Future) else list(result)


class Interrupted(HTTPAdapter):
    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        with contextlib.suppress(requests.ConnectionError):
            super().send(*args, **kwargs)
        raise KeyboardInterrupt


def test_an_interrupted_call_shows_no_secret() -> None:
    session = requests.Session()
    session.mount("http://", Interrupted())
    with ReplayServer([chat_reply()]) as server:
        server.close()
        with pytest.raises(KeyboardInterrupt) as caught:
            Client(f"{server.url}?api_key={SECRET}", SECRET, session=session, **ONCE).chat("hi")
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.own_exception
def test_what_the_caller_is_handling_is_left_alone() -> None:
    spelled = SECRET.encode().hex()
    with ReplayServer([chat_reply()]) as server:
        server.close()
        with Client(server.url, SECRET, session=requests.Session(), **ONCE) as client:
            try:
                requests.get(f"{server.url}?api_key={spelled}", timeout=5)
            except requests.ConnectionError as error:
                handled, before = error, everything_shown(error)
                with pytest.raises(APIError):
                    client.chat("hi")
    assert everything_shown(handled) == before
    assert spelled in str(handled)


class Frozen(HTTPAdapter):
    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        raise FrozenError(SECRET)


@attrs.frozen(slots=False)
class FrozenError(Exception):
    text: str


def test_a_frozen_exception_of_a_hook_passes_without_the_secret() -> None:
    session = requests.Session()
    session.mount("http://", Frozen())
    with Client(HERE, SECRET, session=session, **ONCE) as client, pytest.raises(FrozenError) as caught:
        client.chat("hi")
    assert SECRET not in everything_shown(caught.value)


HERE = "http://127.0.0.1:9/v1"
REFUSED: dict[str, Callable[[], object]] = {
    "key-with-newline": lambda: Client(HERE, f"{SECRET}\n"),
    "key-with-space": lambda: Client(HERE, f"{SECRET} x"),
    "key-in-quotes": lambda: Client(HERE, f'"{SECRET}"'),
    "key-in-a-list": lambda: Client(HERE, [SECRET]),  # type: ignore[arg-type]
    "key-in-bytes": lambda: Client(HERE, SECRET.encode()),  # type: ignore[arg-type]
    "key-by-a-function": lambda: Client(HERE, lambda: f"{SECRET}\n", model="m").chat("hi"),
    "key-for-provider": lambda: Client.for_provider("openai", f"{SECRET}\n"),
    "unknown-provider": lambda: Client.for_provider("opnai", SECRET, headers=BEARER, base_url=f"http://{LOGIN}@x"),
    "key-as-url": lambda: Client(SECRET),
    "vendor-key-as-url": lambda: Client(f"sk-{SECRET}"),
    "url-one-slash": lambda: Client(f"http:/{LOGIN}@h"),
    "url-no-colon": lambda: Client(f"http//{LOGIN}@h/v1"),
    "url-no-scheme": lambda: Client(f"{LOGIN}@h"),
    "url-backslashes": lambda: Client(f"http:\\\\{LOGIN}@h"),
    "url-bad-scheme": lambda: Client(f"ftp://{LOGIN}@h?api_key={SECRET}"),
    "url-bad-port": lambda: Client(f"http://{LOGIN}@h:99999?api_key={SECRET}"),
    "url-bad-host": lambda: Client(f"http://{LOGIN}@[h"),
    "url-in-quotes": lambda: Client(f"'http://{LOGIN}@h'"),
    "url-with-line-break": lambda: Client(f"http://{LOGIN}\n@h"),
    "headers-in-a-list": lambda: Client(HERE, headers=list(BEARER.items())),  # type: ignore[arg-type]
    "header-with-line-break": lambda: Client(HERE, headers={"Authorization": f"Bearer {SECRET}\n"}),
    "header-not-latin": lambda: Client(HERE, headers={"Authorization": f"Bearer {SECRET}\u20ac"}),
    "header-bad-name": lambda: Client(HERE, headers={"X Y": SECRET}),
    "header-in-bytes": lambda: Client(HERE, headers={"X": SECRET.encode()}),  # type: ignore[dict-item]
    "other-option": lambda: Client(HERE, SECRET, truncated="x", headers=BEARER, auth=("u", SECRET)),  # type: ignore[arg-type]
    "proxy": lambda: Client("http://x.example", proxies={"http": f"foo://{LOGIN}@h"}, model="m").chat("hi"),
    "unknown-field": lambda: Client(HERE, model="m").chat("hi", headers=BEARER),  # type: ignore[call-overload]
    "settings-key": lambda: LazyClient({"BASE_URL": HERE, "API_KEY": f"{SECRET}\n"}).get(),
    "settings-name": lambda: make_client({"BASE_RL": HERE, "API_KEY": SECRET}),
    "settings-headers": lambda: make_client({"BASE_URL": HERE, "HEADERS": {"X-Key": f"{SECRET}\n"}}),
    "settings-login": lambda: make_client({"BASE_URL": f"htp://{LOGIN}@h"}),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_shows_no_secret(refused: Callable[[], object]) -> None:
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        refused()
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET} x", f"'{SECRET}'"], ids=["newline", "space", "quotes"])
def test_a_variable_with_a_key_that_cannot_be_sent_is_named(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", HERE)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigurationError, match="^OPENAI_API_KEY ") as caught:
        Client.from_env()
    assert SECRET not in everything_shown(caught.value)


def test_false_alarms_do_not_hide_what_a_server_says() -> None:
    with ReplayServer([error_reply(401, "basic authentication failed: a key is required")]) as server:
        with Client(server.url, "sk-no-key-required", **ONCE) as client, pytest.raises(AuthenticationError) as caught:
            client.chat("hi")
    assert "basic authentication failed: a key is required" in str(caught.value)


class SecretStr:
    """As pydantic's."""

    def get_secret_value(self) -> str:
        return SECRET


@pytest.mark.parametrize("key", [SecretStr(), SecretStr, lambda: SECRET], ids=["value", "made", "function"])
def test_a_key_may_be_a_value_that_hides_it(key: Any) -> None:
    with ReplayServer([chat_reply()]) as server, Client(server.url, key, **ONCE) as client:
        client.chat("hi")
        assert server.requests[0].headers["Authorization"] == f"Bearer {SECRET}"
        assert SECRET not in pprint.pformat([vars(client), vars(client._key)])


class URL:
    """As httpx's and yarl's."""

    def __init__(self, text: str) -> None:
        self.scheme, self.host, self._text = "http", "x", text

    def __str__(self) -> str:
        return self._text


@pytest.mark.parametrize("made", [URL, urlsplit], ids=["object", "urlsplit"])
def test_a_base_url_may_be_an_object(made: Callable[[str], Any]) -> None:
    with Client(made("http://x/v2")) as client:
        assert client.base_url == "http://x/v2"
    with pytest.raises(ConfigurationError, match="must begin with http") as caught:
        Client(made(f"htp://{LOGIN}@h"))
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("url", [Path("/v1"), 5, b"http://x"], ids=["path", "number", "bytes"])
def test_a_base_url_that_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="the base URL is a string, not"):
        Client(url)


def test_the_server_that_OPENAI_BASE_URL_names_gets_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.groq.com/openai/v1")
    for made_by_openai in ("sk-proj-0123456789", "sk-01234T3BlbkFJ56789"):
        monkeypatch.setenv("OPENAI_API_KEY", made_by_openai)
        assert environment_server({})["api_key"] is None  # type: ignore[index]
    monkeypatch.setenv("OPENAI_API_KEY", "set-for-this-url")
    assert environment_server({})["api_key"] == "set-for-this-url"  # type: ignore[index]
    monkeypatch.setenv("GROQ_API_KEY", "groqs-own-key")
    assert environment_server({})["api_key"] == "groqs-own-key"  # type: ignore[index]
    monkeypatch.delenv("GROQ_API_KEY")
    other = environment_server({"base_url": "https://api.mistral.ai/v1"})
    assert other is not None
    assert other["api_key"] is None


@pytest.mark.parametrize("variable", [True, False], ids=["variable", "argument"])
def test_a_providers_name_is_no_base_url(variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "groq" if variable else "")
    with pytest.raises(ConfigurationError, match="groq is a provider, not a base URL") as caught:
        Client.from_env() if variable else Client("Groq", SECRET)
    assert SECRET not in everything_shown(caught.value)


def test_a_tool_that_fails_tells_the_model_no_secret_of_the_client() -> None:
    def send() -> str:
        """Send."""
        raise ToolError(f"401 for {SECRET.encode().hex()}")

    call = {"id": "c", "type": "function", "function": {"name": "send", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    asked = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with ReplayServer([Reply(headers=JSON, body=json.dumps(asked).encode()), chat_reply()]) as server:
        with Client(server.url, SECRET, **ONCE) as client:
            client.run_tools("hi", tools=[send])
        assert len(server.requests) == 2
        told = json.loads(server.requests[1].body)["messages"][-1]["content"]
    assert json.loads(told) == {"error": "401 for ***"}
