"""Streamlit's own script runner, without a browser: the page's code, the example, and streams in Streamlit's hands."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import ROOT, program_of

from openai_compat.testing import FakeServer, error, fault, stream_of, vectors

EXAMPLE = ROOT / "docs" / "examples" / "streamlit_chat.py"


@pytest.fixture(autouse=True)
def empty_caches() -> Iterator[None]:
    import streamlit

    yield
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()


def run(script: Path | str | Callable[[str], None], *arguments: str) -> Any:
    """A script, or a function as one, which sees nothing of this file."""
    from streamlit.testing.v1 import AppTest

    if isinstance(script, Path):
        return AppTest.from_file(str(script), default_timeout=60).run()
    if isinstance(script, str):
        return AppTest.from_string(script, default_timeout=60).run()
    return AppTest.from_function(script, args=arguments, default_timeout=60).run()


def texts(app: Any) -> list[tuple[str, str]]:
    return [(message.name, message.markdown[0].value) for message in app.chat_message if message.markdown]


def test_the_example_answers_and_knows_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(stream_of("He", "llo"), error(400, "too long"), stream_of("Bye")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_MODEL", "m")
        app = run(EXAMPLE)
        app.chat_input[0].set_value("hi").run()
        assert texts(app) == [("user", "hi"), ("assistant", "Hello")]
        app.chat_input[0].set_value("?").run()
        assert "too long" in app.error[0].value
        app.chat_input[0].set_value("bye").run()
        assert not app.exception
    assert texts(app) == [("user", "hi"), ("assistant", "Hello"), ("user", "bye"), ("assistant", "Bye")]
    assert [message.content for message in server.requests[-1].messages] == ["hi", "Hello", "bye"]
    assert server.connections == 1


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        server.add("Hello", times=None)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_MODEL", "m")
        app = run(program_of("streamlit.md"))
        assert not app.exception
    assert [shown.value for shown in app.markdown] == ["Hello"] * 5
    assert app.session_state["answer"] == "Hello"


def stopped(url: str) -> None:
    """Stopped in the midst of an answer, by the exception with which Streamlit stops a script itself."""
    import streamlit as st

    from openai_compat import Client

    def words():  # type: ignore[no-untyped-def]
        for piece in Client(url, model="m").stream("hi").text_stream:
            yield piece
            if piece == "b":
                st.stop()

    st.write_stream(words())


def test_a_script_that_is_stopped_frees_the_model() -> None:
    with FakeServer(stream_of("a", "b", fault("stall"))) as server:
        gc.collect()
        gc.disable()
        try:
            app = run(stopped, server.url)
            server.wait_for(abandoned=1)
        finally:
            gc.enable()
        assert ([shown.value for shown in app.markdown], len(server.requests)) == (["ab"], 1)


def shown(url: str) -> None:
    import streamlit as st

    from openai_compat import Client

    st.write_stream(Client(url, model="m").stream("hi"))


def test_an_event_is_shown_as_its_text() -> None:
    with FakeServer("Hello") as server:
        app = run(shown, server.url)
    assert not app.exception
    assert [markdown.value for markdown in app.markdown] == ["`Hello`", "``", "``"]  # text, usage, done


def cached(url: str) -> None:
    import streamlit as st

    from openai_compat import ChatResponse, Client, EmbeddingResponse

    @st.cache_resource
    def client() -> Client:
        return Client(url, model="m")

    @st.cache_data
    def ask(question: str) -> ChatResponse:
        return client().chat(question)

    @st.cache_data
    def vector(text: str) -> EmbeddingResponse:
        return client().embed(text)

    if "talk" not in st.session_state:
        st.session_state.talk = client().conversation()
    st.session_state.talk.say("hi")
    st.text(
        f"{ask('hi').text} {ask('hi') == ask('hi')} {list(vector('a').embedding)} {len(st.session_state.talk.messages)}"
    )


def test_answers_and_vectors_are_cached_and_a_conversation_outlives_a_rerun() -> None:
    with FakeServer(vectors([1.0, 2.0])) as server:
        server.add("ok", times=None)
        app = run(cached, server.url)
        assert app.text[0].value == "ok True [1.0, 2.0] 2"
        assert app.run().text[0].value == "ok True [1.0, 2.0] 4"
    assert len(server.requests) == 4  # two turns, one answer, one vector
