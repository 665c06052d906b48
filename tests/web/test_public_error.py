"""What a visitor is told of an error: a status, and nothing of the key, the address or what the server said."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import pytest
from support.browser_streams import KEY, model
from support.wire_bodies import error_reply

from openai_compat import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BudgetExceededError,
    Cancelled,
    Client,
    ConfigurationError,
    ResponseShapeError,
    StreamServerError,
)
from openai_compat.web import EventStream, PublicError, public_error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (APITimeoutError("http://10.0.0.7"), 504, "timeout"),
        (APIConnectionError("http://10.0.0.7"), 502, "unreachable"),
        (StreamServerError("x", status_code=429), 429, "rate_limited"),
        (StreamServerError("x"), 502, "unavailable"),
        (ResponseShapeError("x"), 502, "bad_answer"),
        (Cancelled(), 503, "cancelled"),
        (BudgetExceededError("x"), 503, "unavailable"),
        (ConfigurationError("x"), 500, "internal_error"),
        (OSError("x"), 500, "internal_error"),
        (APIStatusError("x", status_code=529), 503, "overloaded"),
        (APIStatusError("x", status_code=408), 504, "timeout"),
    ],
)
def test_what_a_visitor_may_know(error: Exception, status: int, code: str) -> None:
    shown = public_error(error)
    assert (shown.status, shown.code, shown.retry_after) == (status, code, None)
    assert "10.0.0.7" not in shown.message
    assert isinstance(shown, PublicError)


REFUSALS: list[tuple[int, dict[str, Any], int, str]] = [
    (400, {}, 400, "invalid_request"),
    (400, {"code": "context_length_exceeded"}, 400, "context_length_exceeded"),
    (400, {"code": "API_KEY_INVALID"}, 400, "invalid_request"),
    (401, {}, 502, "unavailable"),
    (403, {}, 502, "unavailable"),
    (404, {"code": "model_not_found"}, 502, "unavailable"),
    (413, {}, 413, "invalid_request"),
    (422, {}, 400, "invalid_request"),
    (429, {}, 429, "rate_limited"),
    (500, {}, 502, "unavailable"),
    (503, {}, 503, "overloaded"),
    (504, {}, 504, "timeout"),
]


@pytest.mark.parametrize("format", ["sse", "text", "openai"])
@pytest.mark.parametrize(("status", "error", "public", "code"), REFUSALS)
def test_an_error_before_the_first_byte_is_a_status_and_a_body(
    format: Any, status: int, error: dict[str, Any], public: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = f"no: {KEY} at http://10.0.0.7/v1"
    with model([error_reply(status, message, headers={"Retry-After": "1.2"}, **error)], api_key=KEY) as (_, client):
        body = EventStream(client.stream("hi"), format=format)
        raw = b"".join(body)
    headers = dict(body.headers)
    shown = json.loads(raw)["error"]
    assert (body.status_code, body.status.split()[0], shown["code"]) == (public, str(public), code)
    assert set(shown) == {"message", "type", "code"}
    assert KEY not in raw.decode() + str(headers)
    assert client.base_url not in raw.decode()
    assert "10.0.0.7" not in raw.decode()
    assert (headers["Content-Type"], headers["Content-Length"]) == ("application/json", str(len(raw)))
    assert headers.get("Retry-After") == "2"
    ours = public in (500, 502, 503, 504)
    level = logging.ERROR if ours else logging.WARNING
    assert [(record.levelno, record.exc_info is not None) for record in caplog.records] == [(level, ours)]


def test_nothing_listening_is_a_bad_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with Client(address, model="m", max_retries=0) as client:
        body = EventStream(client.stream("hi"))
        assert (body.status, json.loads(b"".join(body))["error"]["code"]) == ("502 Bad Gateway", "unreachable")
