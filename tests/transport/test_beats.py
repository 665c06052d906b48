"""A stream that is asked to says so where nothing comes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from support.replay import EVENT_STREAM, ReplayServer, Reply, Request
from support.wire_bodies import stream_pieces

from openai_compat import Client
from openai_compat.wire.parse import TICK_EVENT


@pytest.mark.parametrize("wire", ["tcp", "tls"])
def test_a_silent_stream_beats_and_its_answer_is_whole(wire: str, tls: ssl.SSLContext) -> None:
    beats = 0

    def paused(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            first, *rest = stream_pieces("a", "b")
            yield first
            while beats < 3 and not request.closed.wait(0.005):
                pass
            yield from rest

        return Reply(headers=EVENT_STREAM, body=body())

    with (
        ReplayServer(paused, tls=tls if wire == "tls" else None) as server,
        Client(server.url, model="m", timeout=20).stream("hi") as stream,
    ):
        next(stream)
        assert stream.tick_every(0.02)
        for event in stream:
            beats += event is TICK_EVENT
        assert stream.response.text == "ab"
    assert beats >= 3
