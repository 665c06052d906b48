"""A reply's body, read once: as a whole, as an error's, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from openai_compat import (
    APIConnectionError,
    APITimeoutError,
    Cancelled,
    CancelToken,
    ResponseParseError,
    Timeout,
)
from openai_compat.timeouts import Deadline
from openai_compat.transport import Reply
from openai_compat.transport.clock import Clock
from openai_compat.transport.reply import MAX_ERROR_BODY
from openai_compat.wire.sse import TICK


class Body:
    """A body of these pieces; an exception among them is raised."""

    can_tick = True

    def __init__(self, *pieces: Any, cancel: CancelToken | None = None, timeout: Timeout | None = None) -> None:
        self.clock = Clock(Deadline(timeout or Timeout(), cancel), where="there")
        self.pieces = self._pieces(pieces)
        self.ended: list[str] = []

    def _pieces(self, pieces: tuple[Any, ...]) -> Iterator[bytes]:
        for piece in pieces:
            if callable(piece):
                piece()
            elif isinstance(piece, BaseException):
                raise piece
            else:
                yield piece

    def finish(self) -> None:
        self.ended.append("finish")

    def close(self) -> None:
        self.ended.append("close")


def explain(error: BaseException) -> BaseException:
    return APIConnectionError("explained") if isinstance(error, OSError) else error


def reply(body: Body, *, max_bytes: int = 100, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, headers or {}, body, url="http://there", explain=explain, max_bytes=max_bytes)


READERS: dict[str, Callable[[Reply], object]] = {
    "read": Reply.read,
    "chunks": lambda answer: b"".join(piece for piece in answer.chunks() if piece is not TICK),
}
each_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


class TestReading:
    @each_reader
    def test_gives_all_pieces(self, read: Callable[[Reply], object]) -> None:
        body = Body(b"a", b"", b"bc")
        assert read(reply(body)) == b"abc"
        assert body.ended == (["finish"] if read is Reply.read else [])

    def test_beats_where_nothing_comes(self) -> None:
        assert list(reply(Body(b"a", b"", b"bc")).chunks()) == [b"a", TICK, b"bc"]

    @each_reader
    def test_what_breaks_is_explained_and_closed(self, read: Callable[[Reply], object]) -> None:
        broken = ConnectionResetError("x")
        body = Body(b"a", broken)
        with pytest.raises(APIConnectionError, match="explained") as caught:
            read(reply(body))
        assert (caught.value.__cause__, body.ended) == (broken, ["close"])

    @each_reader
    @pytest.mark.parametrize("error", [ValueError("yours"), KeyboardInterrupt(), APITimeoutError("ours")])
    def test_what_needs_no_explanation_passes_as_it_is(
        self, read: Callable[[Reply], object], error: BaseException
    ) -> None:
        body = Body(b"a", error)
        with pytest.raises(type(error)) as caught:
            read(reply(body))
        assert (caught.value, caught.value.__cause__, body.ended) == (error, None, ["close"])

    @each_reader
    def test_an_end_by_cancelling_is_no_end(self, read: Callable[[Reply], object]) -> None:
        token = CancelToken()
        body = Body(b"a", token.cancel, cancel=token)
        with pytest.raises(Cancelled):
            read(reply(body))
        assert body.ended == ["close"]

    def test_leaving_chunks_ends_nothing(self) -> None:
        body = Body(b"a", b"b")
        chunks = reply(body).chunks()
        assert next(chunks) == b"a"
        chunks.close()  # type: ignore[attr-defined]
        assert (next(body.pieces), body.ended) == (b"b", [])

    @pytest.mark.parametrize(("size", "refused"), [(99, False), (100, False), (101, True)])
    def test_a_body_may_be_large_but_not_larger(self, size: int, refused: bool) -> None:
        body = Body(*[b"x"] * size, *([pytest.fail] if refused else []))
        if not refused:
            assert len(reply(body).read()) == size
            return
        with pytest.raises(ResponseParseError, match="larger than 100 bytes; raise max_response_bytes"):
            reply(body).read()
        assert body.ended == ["close"]


class TestErrorBodies:
    def test_whole(self) -> None:
        body = Body(b"no", b"", b"pe")
        assert (reply(body).read_error(), body.ended) == (b"nope", ["finish"])

    @pytest.mark.parametrize("error", [ConnectionResetError(), ResponseParseError("x"), APITimeoutError(phase="idle")])
    def test_what_came_of_it(self, error: Exception) -> None:
        body = Body(b"no", error)
        assert (reply(body).read_error(), body.ended) == (b"no", ["close"])

    @pytest.mark.parametrize("error", [APITimeoutError(phase="total"), Cancelled(), ValueError()])
    def test_what_ends_the_call_does(self, error: Exception) -> None:
        body = Body(b"no", error)
        with pytest.raises(type(error)):
            reply(body).read_error()
        assert body.ended == ["close"]

    def test_no_more_than_is_of_use(self) -> None:
        body = Body(*[b"x" * 1000] * 66, pytest.fail)
        assert (len(reply(body).read_error()), body.ended) == (66_000, ["close"])
        assert MAX_ERROR_BODY < 66_000

    @pytest.mark.parametrize(("idle", "limit"), [(None, 5.0), (120.0, 5.0), (2.0, 2.0)])
    def test_it_may_not_pause_for_long(self, idle: float | None, limit: float) -> None:
        body = Body(timeout=Timeout(idle=idle))
        reply(body).read_error()
        assert (body.clock.phase, body.clock._seconds) == ("idle", limit)


def test_beats_where_the_body_can(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body()
    assert reply(body).tick_every(5)
    assert body.clock._tick_every == 5
    other = Body()
    other.can_tick = False
    assert not reply(other).tick_every(5)
    assert other.clock._tick_every is None


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [({"x-request-id": "a", "request-id": "b"}, "a"), ({"request-id": "b"}, "b"), ({}, None)],
)
def test_request_id(headers: dict[str, str], request_id: str | None) -> None:
    assert reply(Body(), headers=headers).request_id == request_id


def test_finish_and_close_are_the_bodys() -> None:
    body = Body()
    answer = reply(body)
    answer.finish()
    answer.close()
    assert body.ended == ["finish", "close"]
