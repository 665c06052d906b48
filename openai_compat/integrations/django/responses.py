"""Streamed answers as Django's responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
    headers: Iterable[tuple[str, str]] = (),
) -> HttpResponseBase:
    """Returns what a view returns to stream an answer.

    A browser that disconnects ends the call to the model. What fails before the first token is a response with an error
    status and a JSON body.

    Args:
        request: the view's, under WSGI.
        source: ``client.stream(...)``, or a function that reports to a sink: ``partial(conversation.say, "hi")``.
        format: ``"sse"`` for events, ``"text"``, or ``"openai"`` for OpenAI's own chunks.
        stream_options: for ``"openai"``, the field of that name in the client's request, which asks for token usage.
        heartbeat: seconds of silence after which a comment is sent.
        on_done: called with the whole answer before the browser learns that it is complete, on the thread of the
            request and after its view: a transaction of ``ATOMIC_REQUESTS`` has ended, and a change to the session
            needs ``request.session.save()``.
        on_disconnect: likewise, with the partial answer when the browser disconnects before the end.
        headers: further ones.

    Raises:
        ConfigurationError: unknown format, or a heartbeat that is not positive.
    """
    body = EventStream(
        source,
        format=format,
        environ=request.META,
        stream_options=stream_options,
        heartbeat=heartbeat,
        on_done=on_done,
        on_disconnect=on_disconnect,
    )
    try:
        sent = dict([*body.headers, *headers])
        if body.status_code != 200:
            return HttpResponse(b"".join(body), status=body.status_code, headers=sent)
        # GZipMiddleware would buffer it all, heartbeats included.
        return StreamingHttpResponse(body, headers={"Content-Encoding": "identity", **sent})
    except BaseException:
        body.close()
        raise
