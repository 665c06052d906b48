"""A call as a future: its result, its failure, and ending it while it runs."""

from __future__ import annotations

from concurrent.futures import CancelledError, as_completed, wait
from typing import Any

import pytest

from openai_compat import BadRequestError, Cancelled, CancelToken, Client, CollectSink, ConfigurationError
from openai_compat.testing import AskedRequest, FakeServer, Fault, error, fault, stream_of


def test_the_result_is_the_answer() -> None:
    with FakeServer("ok") as server, server.client() as client:
        future = client.submit("hi", temperature=0)
        assert future.result(10).text == "ok"
        assert not future.running()
        assert not future.cancel()


def test_a_sink_hears_it_on_the_calls_thread() -> None:
    sink = CollectSink()
    with FakeServer(stream_of("a", "b")) as server, server.client() as client:
        assert client.submit("hi", sink=sink).result(10).text == "ab"
    assert sink.text == "ab"


def test_the_exception_is_the_calls() -> None:
    with FakeServer(error(400)) as server, server.client() as client:
        assert isinstance(client.submit("hi").exception(10), BadRequestError)


def test_bad_input_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        Client("http://127.0.0.1:9", "key").submit("hi")


@pytest.mark.parametrize("streamed", [False, True])
def test_cancelling_ends_a_call_that_runs(streamed: bool) -> None:
    with FakeServer(fault("stall")) as server, server.client() as client:
        future = client.submit("hi", sink=CollectSink() if streamed else None)
        server.wait_for(requests=1)
        assert future.running()
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(0)
        server.wait_for(abandoned=1)
        done, _ = wait([future], 10)
        assert list(as_completed([future], 10)) == [future]
        assert done == {future}


def test_a_token_of_the_callers_ends_it_too() -> None:
    token = CancelToken()

    def silent(request: AskedRequest) -> Fault:
        token.cancel()
        return fault("stall")

    with FakeServer(silent) as server, server.client() as client:
        future: Any = client.submit("hi", cancel=token)
        assert isinstance(future.exception(10), Cancelled)
