"""Values of other libraries' types, everywhere that a caller may put one: the server gets what they stand for."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import attrs
import flask_babel
import lazy_string
import numpy as np
import pandas as pd
import pytest
from babel.support import LazyProxy
from django.utils.functional import SimpleLazyObject, lazy
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_body, chat_reply, tool_call
from werkzeug.local import LocalProxy

from openai_compat import ChatRequest, Client, ConfigurationError, Image, Message, Timeout, ToolCall, ToolSpec, tool
from openai_compat.schema.text import text_of
from openai_compat.wire.plain import plain
from openai_compat.wire.request import build_body

TEXT = "<b> & 'you'"


class OfText(str):
    __slots__ = ()


class Word(str, enum.Enum):  # noqa: UP042 - what older programs have
    SAID = TEXT


class Said(enum.Enum):
    SAID = TEXT


TEXTS: dict[str, Any] = {
    "a subclass of str": OfText(TEXT),
    "Django's SafeString": mark_safe(TEXT),
    "Django's lazy": lazy(lambda: TEXT, str)(),
    "Django's lazy SafeString": lazy(lambda: mark_safe(TEXT), str)(),
    "Django's SimpleLazyObject": SimpleLazyObject(lambda: TEXT),
    "Markup": Markup(TEXT),
    "Flask-Babel's lazy": flask_babel.LazyString(lambda: TEXT),
    "Babel's lazy": LazyProxy(lambda: TEXT),
    "lazy-string": lazy_string.LazyString(lambda: TEXT),
    "Werkzeug's LocalProxy": LocalProxy(lambda: TEXT),
    "NumPy's str_": np.str_(TEXT),
    "an element of a Series": pd.Series([TEXT]).iloc[0],
    "UserString": collections.UserString(TEXT),
    "an enum of str": Word.SAID,
    "an enum": Said.SAID,
}


def answer(request: Request) -> Reply:
    """A call of the tool where there is one that has not answered, else words or vectors."""
    asked = request.json()
    if request.path.endswith("/embeddings"):
        several = isinstance(asked["input"], list)
        data = [{"index": at, "embedding": [1.0]} for at in range(len(asked["input"]) if several else 1)]
        return Reply(headers=JSON, body=json.dumps({"data": data}).encode())
    if asked.get("tools") and asked["messages"][-1]["role"] != "tool":
        return Reply(headers=JSON, body=chat_body(None, tool_calls=[tool_call("look", "{}")]))
    return chat_reply()


@pytest.fixture(scope="module")
def server() -> Iterator[ReplayServer]:
    with ReplayServer(answer) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ReplayServer) -> Iterator[Client]:
    with Client(server.url, model="m") as made:
        yield made


def returning(value: Any) -> Any:
    @tool(parallel=False)
    def look() -> Any:
        return value

    return look


def history(value: Any) -> list[Any]:
    call = ToolCall(id="c", name="look", arguments={"said": value})
    return [Message(role="assistant", tool_calls=(call,)), {"role": "tool", "tool_call_id": "c", "content": value}]


Place = tuple[Callable[[Client, Any], Any], Callable[[Any], Any]]
"""A call with a value in some place, and where in the body it is."""

CONTENTS: dict[str, Place] = {
    "prompt": (lambda client, it: client.chat(it), lambda body: body["messages"][-1]["content"]),
    "system": (lambda client, it: client.chat("x", system=it), lambda body: body["messages"][0]["content"]),
    "message": (
        lambda client, it: client.chat([{"role": "user", "content": it}]),
        lambda body: body["messages"][0]["content"],
    ),
    "Message": (
        lambda client, it: client.chat([Message(role="user", content=it)]),
        lambda body: body["messages"][0]["content"],
    ),
    "say": (lambda client, it: client.conversation().say(it), lambda body: body["messages"][-1]["content"]),
    "system of a conversation": (
        lambda client, it: client.conversation(system=it).say("x"),
        lambda body: body["messages"][0]["content"],
    ),
    "embed": (lambda client, it: client.embed(it), lambda body: body["input"]),
    "embed several": (lambda client, it: client.embed(["x", it]), lambda body: body["input"][1]),
    "stop": (lambda client, it: client.chat("x", stop=["x", it]), lambda body: body["stop"][1]),
}
"""Places of text and nothing else."""

PLACES: dict[str, Place] = {
    **CONTENTS,
    "part": (
        lambda client, it: client.chat([{"role": "user", "content": [{"type": "text", "text": it}]}]),
        lambda body: body["messages"][0]["content"][0]["text"],
    ),
    "part of a Message": (
        lambda client, it: client.chat([Message(role="user", content=[{"type": "text", "text": it}])]),
        lambda body: body["messages"][0]["content"][0]["text"],
    ),
    "arguments": (
        lambda client, it: client.chat("x", messages=history(it)),
        lambda body: json.loads(body["messages"][0]["tool_calls"][0]["function"]["arguments"])["said"],
    ),
    "stop alone": (lambda client, it: client.chat("x", stop=it), lambda body: body["stop"][0]),
    "model": (lambda client, it: client.chat("x", model=it), lambda body: body["model"]),
    "model of embeddings": (lambda client, it: client.embed("x", model=it), lambda body: body["model"]),
    "user": (lambda client, it: client.chat("x", user=it), lambda body: body["user"]),
    "metadata": (lambda client, it: client.chat("x", metadata={"k": it}), lambda body: body["metadata"]["k"]),
    "extra_body": (lambda client, it: client.chat("x", extra_body={"k": [it]}), lambda body: body["k"][0]),
    "extra_body of embeddings": (
        lambda client, it: client.embed("x", extra_body={"k": [it]}),
        lambda body: body["k"][0],
    ),
    "schema": (
        lambda client, it: client.chat("x", response_schema={"title": it}),
        lambda body: body["response_format"]["json_schema"]["schema"]["title"],
    ),
    "description": (
        lambda client, it: client.chat("x", tools=[ToolSpec("look", it, {"type": "object", "title": it})]),
        lambda body: body["tools"][0]["function"]["description"],
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_sent_as_it_is(client: Client, server: ReplayServer, place: str, kind: str) -> None:
    call, found = PLACES[place]
    call(client, TEXTS[kind])
    assert found(server.requests[-1].json()) == TEXT


# A LocalProxy can be awaited, whatever it stands for, and no tool may return what can.
@pytest.mark.parametrize("kind", sorted(TEXTS.keys() - {"Werkzeug's LocalProxy"}))
def test_text_that_a_tool_returns_is_sent_as_it_is(client: Client, server: ReplayServer, kind: str) -> None:
    client.run_tools("x", tools=[returning(TEXTS[kind])])
    assert server.requests[-1].json()["messages"][-1]["content"] == TEXT


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_plain_from_the_door_on(kind: str) -> None:
    """Python's own operators would else go on as the other library has them: Markup escapes what is added to it."""
    value = TEXTS[kind]
    request = ChatRequest(value, system=value, messages=[{"role": "user", "content": value}])
    message = Message(role="user", content=value)
    made = [request.prompt, request.system, request.messages[0]["content"], message.content, text_of(value)]
    assert [type(text) for text in made] == [str] * 5


class Level(enum.IntEnum):
    FIVE = 5


class Much(enum.Enum):
    FIVE = decimal.Decimal("5")


WHOLE: list[Any] = [
    np.int64(5),
    np.uint8(5),
    np.array(5),
    Level.FIVE,
    Much.FIVE,
    5.0,
    decimal.Decimal("5"),
    np.float64(5),
]
REAL: list[Any] = [np.float64(0.5), np.float32(0.5), np.float16(0.5), decimal.Decimal("0.50"), fractions.Fraction(1, 2)]


@pytest.mark.parametrize("name", ["max_tokens", "top_k", "seed", "top_logprobs", "n"])
@pytest.mark.parametrize("value", WHOLE, ids=lambda value: f"{type(value).__name__}")
def test_whole_numbers(client: Client, server: ReplayServer, name: str, value: Any) -> None:
    client.chat("x", **{name: value})
    sent = server.requests[-1].json()[name]
    assert (type(sent), sent) == (int, 5)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", REAL, ids=lambda value: f"{type(value).__name__}")
def test_real_numbers(client: Client, server: ReplayServer, name: str, value: Any) -> None:
    client.chat("x", **{name: value})
    assert server.requests[-1].json()[name] == 0.5


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"reasoning": np.bool_(False)}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"logprobs": np.bool_(True)}, {"logprobs": True}),
        ({"stop": pd.Series(["a", "b"])}, {"stop": ["a", "b"]}),
        ({"stop": np.array(["a", "b"])}, {"stop": ["a", "b"]}),
        ({"user": uuid.UUID(int=1)}, {"user": "00000000-0000-0000-0000-000000000001"}),
        ({"user": np.int64(7)}, {"user": "7"}),
        ({"model": PurePosixPath("/models/a")}, {"model": "/models/a"}),
        ({"extra_body": {"k": {Markup("<b>"): 1, np.str_("x"): 2, Said.SAID: 3}}}, {"k": {"<b>": 1, "x": 2, TEXT: 3}}),
        ({"logit_bias": {np.int64(7): np.float32(0.5)}}, {"logit_bias": {"7": 0.5}}),
        ({"metadata": {"row": pd.Series([7]).iloc[0]}}, {"metadata": {"row": 7}}),
        ({"extra_body": {"k": decimal.Decimal("1.10")}}, {"k": 1.1}),
        ({"extra_body": {"k": np.array([1.0, 2.0])}}, {"k": [1.0, 2.0]}),
        ({"extra_body": {"k": (1, {2})}}, {"k": [1, [2]]}),
        ({"extra_body": {"k": pd.Timestamp("2026-01-02 03:04")}}, {"k": "2026-01-02T03:04:00"}),
        ({"extra_body": {"k": datetime.date(2026, 1, 2)}}, {"k": "2026-01-02"}),
        ({"extra_body": {"k": [pd.NA, pd.NaT]}}, {"k": [None, None]}),
    ],
)
def test_parameters(client: Client, server: ReplayServer, fields: dict[str, Any], sent: dict[str, Any]) -> None:
    client.chat("x", **fields)
    body = server.requests[-1].json()
    assert {name: body[name] for name in sent} == sent


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.int64(5), "5"),
        (decimal.Decimal("1.10"), '"1.10"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (pd.Timestamp("2026-01-02"), '"2026-01-02T00:00:00"'),
        (PurePosixPath("/a"), '"/a"'),
        (pd.NA, "null"),
        (Level.FIVE, "5"),
        ({"a": Markup("<b>"), "b": [np.str_("x"), lazy(lambda: "y", str)()]}, '{"a":"<b>","b":["x","y"]}'),
    ],
)
def test_results_of_tools(client: Client, server: ReplayServer, value: Any, sent: str) -> None:
    client.run_tools("x", tools=[returning(value)])
    assert server.requests[-1].json()["messages"][-1]["content"] == sent


def test_tables_and_arrays_of_texts_are_embedded(client: Client, server: ReplayServer) -> None:
    for texts in (pd.Series(["a", "b"]), np.array(["a", "b"]), pd.Series(["a", "b"]).to_numpy(), iter(["a", "b"])):
        client.embed(texts)
        assert server.requests[-1].json()["input"] == ["a", "b"]
    client.embed(np.array([[1, 2], [3, 4]]), dimensions=np.int64(1), user=uuid.UUID(int=1))
    body = server.requests[-1].json()
    assert (body["input"], body["dimensions"], body["user"][-1]) == ([[1, 2], [3, 4]], 1, "1")


@pytest.mark.parametrize("seconds", [np.int64(5), np.float32(5), decimal.Decimal(5), fractions.Fraction(5)])
def test_seconds(client: Client, server: ReplayServer, seconds: Any) -> None:
    assert client.chat("x", timeout=seconds).text
    limits = Timeout(connect=seconds, first_token=seconds, idle=seconds, total=seconds)
    assert limits == Timeout(connect=5, first_token=5, idle=5, total=5)
    assert {type(limit) for limit in attrs.astuple(limits)} <= {int, float}


def test_counts_of_the_client_itself(client: Client, server: ReplayServer) -> None:
    before = len(server.requests)
    client.embed(["a", "b", "c"], batch_size=np.int64(2))
    client.chat("x", response_type=str, repair=np.int64(1))
    assert len(server.requests) == before + 3
    with pytest.raises(ConfigurationError, match="batch_size is a whole number, not 1.5"):
        client.embed("a", batch_size=decimal.Decimal("1.5"))


def test_names_of_the_client_itself(server: ReplayServer) -> None:
    with Client(server.url, model=np.str_("m-np"), provider=Markup("mine")) as named:
        answer = named.chat("x")
    assert (server.requests[-1].json()["model"], type(answer.provider), answer.provider) == ("m-np", str, "mine")


def test_a_row_of_a_table_asks(client: Client, server: ReplayServer) -> None:
    # A column that misses a number is one of floats.
    frame = pd.DataFrame({"text": ["a", "b"], "n": [5, None]})
    frame.iloc[:1].apply(lambda row: client.chat(row["text"], max_tokens=row["n"]), axis=1)
    body = server.requests[-1].json()
    assert (body["messages"][0]["content"], body["max_tokens"]) == ("a", 5)
    with pytest.raises(ConfigurationError, match=r"max_tokens is a number, not nan \(float"):
        client.chat("b", max_tokens=frame["n"].iloc[1])


def test_an_image_by_a_url_of_another_type() -> None:
    url = "https://example.org/a.png"
    for value in (Markup(url), np.str_(url), lazy(lambda: url, str)()):
        for image in (Image.of(value), *ChatRequest("x", images=value).images):
            assert (type(image.url), image.url) == (str, url)
    assert type(Image(Markup(url), detail=Markup("low")).detail) is str


NO_TEXT: list[Any] = [
    float("nan"), 5, np.int64(5), decimal.Decimal(5), pd.NA, pd.NaT, uuid.UUID(int=1), datetime.date(2026, 1, 2),
    PurePosixPath("/a"), pd.Timestamp("2026-01-02"), Level.FIVE, b"bytes",
    bytearray(b"bytes"),
]  # fmt: skip


@pytest.mark.parametrize("place", CONTENTS)
@pytest.mark.parametrize("value", NO_TEXT, ids=lambda value: type(value).__name__)
def test_what_is_no_text_is_refused_by_name(client: Client, server: ReplayServer, place: str, value: Any) -> None:
    before = len(server.requests)
    with pytest.raises(ConfigurationError, match=type(value).__name__):
        CONTENTS[place][0](client, value)
    assert len(server.requests) == before


@pytest.mark.parametrize(
    "table", [pd.Series(["a", "b"]), pd.DataFrame({"a": ["b"], "c": ["d"]}), np.array(["a", "b"])], ids=type
)
def test_a_table_of_texts_is_no_prompt(client: Client, server: ReplayServer, table: Any) -> None:
    before = len(server.requests)
    for ask in (client.chat, lambda it: client.chat(messages=it)):
        with pytest.raises(ConfigurationError, match="a message is a dict or a Message, not str"):
            ask(table)
    assert len(server.requests) == before


def test_messages_come_from_a_table(client: Client, server: ReplayServer) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    client.chat(pd.Series(said))
    assert server.requests[-1].json()["messages"] == said


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"max_tokens": 5.5}, "max_tokens is a whole number, not 5.5"),
        ({"max_tokens": "5"}, "max_tokens is a number, not str"),
        ({"max_tokens": pd.NA}, "max_tokens is a number, not NAType"),
        ({"temperature": float("inf")}, r"temperature is a number, not inf \(float\)"),
        ({"temperature": decimal.Decimal("NaN")}, r"temperature is a number, not NaN \(Decimal\)"),
        ({"temperature": 1 + 1j}, r"temperature is a number, not \(1\+1j\) \(complex\)"),
        ({"temperature": np.array([0.5])}, "temperature is a number, not ndarray"),
        ({"seed": datetime.date(2026, 1, 2)}, "seed is a number, not date"),
        ({"user": 0.5}, r"user is a string, not 0.5 \(float\)"),
        ({"user": object()}, "user cannot be written as JSON: object has no JSON form"),
        ({"extra_body": {"k": object()}}, "extra_body cannot be written as JSON: object has no JSON form"),
        ({"metadata": {"k": 1j}}, "metadata cannot be written as JSON: complex has no JSON form"),
        ({"stop": 5}, "stop is a string, or a list of strings, not int"),
    ],
)
def test_what_stands_for_no_parameter_is_refused_by_name(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        ChatRequest("x", **fields)


def test_what_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigurationError, match="extra_body is nested too deeply, or holds itself"):
        ChatRequest("x", extra_body={"k": endless})


def test_plain_values_stay_the_objects_that_they_are() -> None:
    extra, message = {"a": [1, "b", {"c": None}]}, {"role": "user", "content": [{"type": "text", "text": "x"}]}
    request = ChatRequest("x", messages=[message], extra_body=extra, model="m")
    assert request.messages[0] is message
    assert request.extra_body is extra
    assert build_body(request)["a"] is extra["a"]


class Stranger:
    """An object that has whatever it is asked for, as proxies of servers and mocks have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: pytest.fail(f"{name} was called")


def test_a_stranger_is_asked_nothing() -> None:
    assert text_of(Stranger()) is None
    with pytest.raises(ConfigurationError, match="prompt is a string, not Stranger"):
        ChatRequest(Stranger())  # type: ignore[arg-type]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(JSON_VALUES)
def test_any_json_is_plain_already(value: Any) -> None:
    assert plain(value, "it") is value


@given(JSON_VALUES)
def test_what_is_plain_stays_so(value: Any) -> None:
    made = plain({"text": Markup("<b>"), "number": np.int64(1), "value": value}, "it")
    assert made == {"text": "<b>", "number": 1, "value": value}
    assert (type(made["text"]), type(made["number"])) == (str, int)
    assert plain(made, "it") is made
