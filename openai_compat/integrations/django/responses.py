"""Streamed answers as Django's responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from ...web.stream import EventStream, Format, Handler, Run

if TYPE_CHECKING:
    from ...stream import ChatStream


def stream_response(
    request: HttpRequest,
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
) -> HttpResponseBase:
    """Returns what a view returns to stream an answer.

    A browser that disconnects ends the call to the model. What fails before the first token is a response with an error
    status and a JSON body; from an ``async def`` view, which must not wait, it is an event of the stream.

    Args:
        request: the view's, under WSGI or ASGI.
        source: ``client.stream(...)``, or a function that reports to a sink: ``partial(conversation.say, "hi")``.
        format: ``"sse"`` for events, ``"text"``, or ``"openai"`` for OpenAI's own chunks.
        stream_options: for ``"openai"``, the field of that name in the client's request, which asks for token usage.
        heartbeat: seconds of silence after which a comment is sent.
        on_done: called with the whole answer before the browser learns that it is complete, on the thread of the
            request (under ASGI that of its synchronous code) and after its view: a transaction of ``ATOMIC_REQUESTS``
            has ended, and a change to the session needs ``request.session.save()``.
        on_disconnect: likewise, with the partial answer when the browser disconnects before the end.
        tools_in_request: whether the tools of a function run on the request's own thread, one after another, and so
            with its connection to the database: in Django's ``TestCase`` they see its rows.
        cross_site: whether pages of other sites may ask by GET; else they get 403.
        headers: further ones.

    Raises:
        ConfigurationError: unknown format, or a heartbeat that is not positive.
    """
    under_asgi = isinstance(request, ASGIRequest)
    body = EventStream(
        source,
        format=format,
        environ=request.META,
        first_wait=0 if under_asgi else None,
        stream_options=stream_options,
        heartbeat=heartbeat,
        on_done=on_done,
        on_disconnect=on_disconnect,
        tools_in_request=tools_in_request,
        cross_site=cross_site,
    )
    try:
        if under_asgi and not _in_event_loop():
            async_to_sync(_until_begun)(body.begun, heartbeat)
            body.settle()
        sent = dict([*body.headers, *headers])
        if body.status_code != 200:
            return HttpResponse(b"".join(body), status=body.status_code, headers=sent)
        # GZipMiddleware would buffer it all, heartbeats included.
        content = AsyncBody(body) if under_asgi else body
        return StreamingHttpResponse(content, headers={"Content-Encoding": "identity", **sent})
    except BaseException:
        # The CancelledError of a browser that has disconnected is one.
        body.close()
        raise


class Body(Iterator[bytes], Protocol):
    """What ``EventStream`` and ``RelayStream`` are here."""

    def cancel(self) -> None:
        """End the reading, from any thread."""

    def close(self) -> None:
        """End the response."""


class AsyncBody:
    """The body for Django's ASGI handler: read on the request's own thread, and ended with the task that reads it."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = sync_to_async(partial(next, self._body, None))
        try:
            while (piece := await read()) is not None:
                yield piece
        except asyncio.CancelledError:
            # Its thread is still waiting for the next event; Django closes the response only after it.
            self._body.cancel()
            raise

    def close(self) -> None:
        self._body.close()


async def _until_begun(begun: Future[Any], seconds: float) -> None:
    """Wait on the loop and not in the thread: there the view is cancelled when its browser disconnects."""
    await asyncio.wait([asyncio.wrap_future(begun)], timeout=seconds)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
