"""Every server's error shape, and the exceptions made of it."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arbitrary import as_json, growth, json_values, nested, nested_lists, pieces, quick, texts, thorough

from openai_compat import errors
from openai_compat.errors import APIStatusError, InternalServerError, RateLimitError
from openai_compat.wire.error_body import (
    ErrorDetail,
    describe_error,
    find_error,
    is_retryable_status,
    status_error,
    stream_error,
)

KEY = "Zq7-f3K9_vTn2Xw8RbLd0HcJ"


def detail(message: str = "", **fields: Any) -> ErrorDetail:
    return ErrorDetail(message=message, **fields)


SHAPES: dict[str, tuple[Any, ErrorDetail]] = {
    "openai": (
        {"error": {"message": "no", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}},
        detail("no", type="invalid_request_error", param="model", code="model_not_found"),
    ),
    "openai-nulls": ({"error": {"message": "no", "type": None, "param": None, "code": None}}, detail("no")),
    "text": ({"error": " no "}, detail("no")),
    "text-and-message": ({"error": "Not Found", "message": "no such model"}, detail("Not Found: no such model")),
    "text-in-message": ({"error": "no such model x", "message": "such model"}, detail("no such model x")),
    "message": ({"message": "no", "code": 7}, detail("no", code=7)),
    "msg": ({"msg": "no"}, detail("no")),
    "message-object": ({"message": {"detail": "no"}}, detail("no")),
    "vllm": (
        {"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400},
        detail("no", type="BadRequestError", code=400, status=400),
    ),
    "detail": ({"detail": "Not Found"}, detail("Not Found")),
    "detail-object": ({"detail": {"error": {"message": "no", "code": "x"}}}, detail("no", code="x")),
    "fastapi": (
        {"detail": [{"loc": ["body", "model", 0], "msg": "field required", "type": "missing"}]},
        detail("body.model.0: field required", type="missing", param="body.model.0"),
    ),
    "fastapi-two": (
        {"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["body", "b"], "msg": "y"}]},
        detail("body.a: x; body.b: y", param="body.a"),
    ),
    "list": (
        [{"error": {"message": "no", "code": 404, "status": "NOT_FOUND"}}],
        detail("no", code=404, type="NOT_FOUND", status=404),
    ),
    "list-of-text": (["no", "never"], detail("no; never")),
    "list-of-nothing": ([{}, None, 7], detail()),
    "empty-list": ([], detail()),
    "errors": ({"errors": [{"message": "a"}, {"message": "b"}]}, detail("a; b")),
    "errors-of-many": ({"errors": [{"message": str(n)} for n in range(9)]}, detail("0; 1; 2; 3; 4")),
    "cloudflare": ({"success": False, "errors": [{"code": 5007, "message": "no"}]}, detail("no", code=5007)),
    "minimax": ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, detail("login fail", code=1004)),
    "openrouter": (
        {
            "error": {
                "message": "Provider returned error",
                "code": 429,
                "metadata": {"raw": '{"error": {"message": "slow down"}}'},
            }
        },
        detail("Provider returned error: slow down", code=429, status=429),
    ),
    "openrouter-text": ({"error": {"message": "no", "metadata": {"raw": "slow down"}}}, detail("no: slow down")),
    "openrouter-object": ({"error": {"message": "", "metadata": {"raw": {"message": "why"}}}}, detail("why")),
    "status-text": ({"error": {"message": "no", "code": "503"}}, detail("no", code="503", status=503)),
    "status-key": ({"message": "no", "status_code": 500}, detail("no", status=500)),
    "status-absurd": ({"message": "no", "code": 1302, "status": 200}, detail("no", code=1302)),
    "status-inner-wins": ({"error": {"message": "no", "code": 429}, "status": 500}, detail("no", code=429, status=429)),
    "code-true": ({"error": {"message": "no", "code": True}}, detail("no")),
    "code-object": ({"error": {"message": "no", "code": {"a": 1}}}, detail("no")),
    "param-number": ({"error": {"message": "no", "param": 7}}, detail("no")),
    "string": ("  no ", detail("no")),
    "number": (7, detail()),
    "null": (None, detail()),
    "empty": ({}, detail()),
    "blank-text": ({"error": " ", "message": "no"}, detail("no")),
    "error-of-nothing": ({"error": {}, "detail": "no"}, detail("no")),
}


@pytest.mark.parametrize(("payload", "wanted"), SHAPES.values(), ids=SHAPES)
def test_describe_error(payload: Any, wanted: ErrorDetail) -> None:
    assert describe_error(payload) == wanted


FOUND: dict[str, tuple[Any, str]] = {
    "error": ({"error": {"message": "no"}}, "no"),
    "error-text": ({"error": "no"}, "no"),
    "beside-choices": ({"choices": [{"delta": {"content": "x"}}], "error": {"message": "no"}}, "no"),
    "object": ({"object": "error", "message": "no"}, "no"),
    "object-beside-data": ({"object": "error", "message": "no", "data": []}, "no"),
    "base-resp": ({"base_resp": {"status_code": 1, "status_msg": "no"}, "choices": []}, "no"),
    "in-a-choice": ({"choices": [7, {"error": {"message": "no"}}]}, "no"),
    "list-of-one": ([{"error": {"message": "no"}}], "no"),
    "detail": ({"detail": "no"}, "no"),
    "message": ({"message": "no"}, "no"),
    "msg": ({"msg": "no"}, "no"),
    "errors": ({"errors": ["no"]}, "no"),
    "groq": ({"choices": [{"delta": {"content": "x"}}], "x_groq": {"id": "r", "error": "no"}}, "no"),
    "page": ({"error": "<html><head><title>502 Bad\nGateway</title></head></html>"}, "an HTML page (502 Bad Gateway)"),
    "page-without-title": ({"error": "<html><body><h1>502 no</h1></body>"}, "an HTML page (502 no)"),
    "success-false": ({"success": False, "why": "no"}, ""),
}
NO_ERROR: dict[str, Any] = {
    "null": {"error": None},
    "empty": {"error": {}},
    "empty-text": {"error": ""},
    "nothing": {},
    "answer": {"choices": [{"message": {"content": "x"}}]},
    "answer-with-message": {"choices": [], "message": "ok"},
    "embeddings-with-detail": {"data": [], "detail": "ok"},
    "base-resp-fine": {"base_resp": {"status_code": 0, "status_msg": "ok"}},
    "base-resp-text": {"base_resp": "ok"},
    "choices-null": {"choices": None, "detail": "x"},
    "groq-id": {"choices": [], "x_groq": {"id": "r", "error": None}},
    "choice-error-null": {"choices": [{"error": None}]},
    "success": {"success": True},
    "list-of-two": [{"error": "a"}, {"error": "b"}],
    "empty-list": [],
    "text": "error",
    "none": None,
    "number": 500,
}


@pytest.mark.parametrize(("payload", "message"), FOUND.values(), ids=FOUND)
def test_find_error(payload: Any, message: str) -> None:
    found = find_error(payload)
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize("payload", NO_ERROR.values(), ids=NO_ERROR)
def test_find_no_error(payload: Any) -> None:
    assert find_error(payload) is None


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_retryable_statuses(status: int) -> None:
    assert is_retryable_status(status)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 402, 403, 404, 413, 422])
def test_final_statuses(status: int) -> None:
    assert not is_retryable_status(status)


def refusal(status: int, body: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> APIStatusError:
    return status_error(status, headers or {}, body if isinstance(body, (bytes, str)) else as_json(body), **fields)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
        (529, "InternalServerError"),
        (418, "APIStatusError"),
    ],
)
def test_class_for_a_status(status: int, name: str) -> None:
    error = refusal(status, {"error": {"message": "no"}})
    assert type(error) is getattr(errors, name)
    assert error.status_code == status


def test_fields_of_a_status_error() -> None:
    body = {"error": {"message": "slow down", "type": "requests", "param": "model", "code": "rate_limit_exceeded"}}
    error = refusal(429, body, {"retry-after": "7"}, provider="groq", request_id="req_1")
    assert type(error) is RateLimitError
    assert str(error) == "HTTP 429 from groq: slow down"
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", "model")
    assert (error.provider, error.request_id, error.retry_after, error.retryable) == ("groq", "req_1", 7.0, True)
    assert error.headers == {"retry-after": "7"}
    assert json.loads(error.body) == body


MESSAGES: dict[str, tuple[bytes | str, str]] = {
    "text": (b"upstream down\n", "upstream down"),
    "str": ("upstream down", "upstream down"),
    "nothing": (b"", "no message"),
    "says-nothing": (b"{}", "no message"),
    "html": (b"<html><head><title>502\n Bad Gateway</title></head></html>", "an HTML page (502 Bad Gateway)"),
    "html-without-title": (b"<html></html>", "an HTML page"),
    "html-empty-title": (b"<html><title> </title></html>", "an HTML page"),
    "html-long-title": (b"<title>" + b"x" * 500 + b"</title>", f"an HTML page ({'x' * 120})"),
    "long": (b"x" * 5000, "x" * 1000 + "… (5000 characters in all)"),
    "damaged": (b"\xff", "\ufffd"),
    "json-text": (b'"no"', "no"),
}


@pytest.mark.parametrize(("body", "message"), MESSAGES.values(), ids=MESSAGES)
def test_message_of_a_status_error(body: bytes | str, message: str) -> None:
    assert str(refusal(500, body)) == f"HTTP 500 from the server: {message}"


def test_body_is_bounded() -> None:
    assert len(refusal(500, b"x" * 100_000).body) < 2100


URL = "http://h/chat/completions"
ADVICE: dict[str, tuple[int, bytes, str, str]] = {
    "404": (404, b"404 page not found", URL, f"(asked at {URL}; is the base URL right, or is it missing /v1?)"),
    "lm-studio": (200, b'{"error": "Unexpected endpoint or method"}', URL, f"(asked at {URL}; is the base URL right"),
    "401": (401, b"{}", URL, "(set api_key, or the provider's environment variable)"),
}
NO_ADVICE: dict[str, tuple[int, bytes, str]] = {
    "no-model": (404, b'{"error": "Model x not found"}', URL),
    "no-url": (404, b"404 page not found", ""),
    "other": (500, b"{}", URL),
}


@pytest.mark.parametrize(("status", "body", "url", "advice"), ADVICE.values(), ids=ADVICE)
def test_message_says_what_to_do(status: int, body: bytes, url: str, advice: str) -> None:
    assert advice in str(refusal(status, body, url=url))


@pytest.mark.parametrize(("status", "body", "url"), NO_ADVICE.values(), ids=NO_ADVICE)
def test_message_gives_no_advice_where_none_fits(status: int, body: bytes, url: str) -> None:
    assert "(" not in str(refusal(status, body, url=url))


RETRYABLE: dict[str, tuple[int, Any, dict[str, str], bool]] = {
    "429": (429, {"error": {"message": "x"}}, {}, True),
    "400": (400, {"error": {"message": "x"}}, {}, False),
    "500": (500, {}, {}, True),
    "told-yes": (400, {}, {"x-should-retry": "true"}, True),
    "told-no": (500, {}, {"x-should-retry": "False"}, False),
    "told-nonsense": (500, {}, {"x-should-retry": "maybe"}, True),
    "no-quota-code": (429, {"error": {"message": "x", "code": "insufficient_quota"}}, {}, False),
    "no-quota-type": (429, {"error": {"message": "x", "type": "insufficient_quota"}}, {}, False),
    "long-wait": (429, {}, {"retry-after": "3600"}, False),
    "short-wait": (429, {}, {"retry-after": "60"}, True),
    "no-pictures": (500, {"error": {"message": "image input is not supported - hint: mmproj"}}, {}, False),
    "too-large": (500, {"error": {"message": "input is too large to process. increase the batch"}}, {}, False),
    "no-tools": (500, {"error": {"message": "This server does not support tools; start it with x"}}, {}, False),
    "no-template": (500, {"error": {"message": "tools param requires --jinja flag"}}, {}, False),
    "no-grammar": (500, {"error": {"message": "Failed to parse grammar"}}, {}, False),
    "not-implemented": (501, {"error": {"message": "x"}}, {}, False),
    "never": (500, {"error": {"message": "x", "type": "not_supported_error"}}, {}, False),
    "a-server-in-trouble": (503, {"error": {"message": "the model is not supported right now"}}, {}, True),
    "200-with-status": (200, {"error": {"message": "x", "code": 503}}, {}, True),
    "200-with-final-status": (200, {"error": {"message": "x", "code": 400}}, {}, False),
    "200-with-passing-type": (200, {"error": {"message": "x", "type": "overloaded_error"}}, {}, True),
    "200-with-passing-code": (200, {"error": {"message": "x", "code": "rate_limit_exceeded"}}, {}, True),
    "200-with-nothing": (200, {"error": {"message": "x", "code": 1302}}, {}, False),
}


@pytest.mark.parametrize(("status", "body", "headers", "wanted"), RETRYABLE.values(), ids=RETRYABLE)
def test_retryable(status: int, body: Any, headers: dict[str, str], wanted: bool) -> None:
    assert refusal(status, body, headers).retryable is wanted


def test_an_error_under_200_has_its_own_status() -> None:
    error = refusal(200, {"error": {"message": "busy", "code": 503}})
    assert type(error) is InternalServerError
    assert error.status_code == 503
    assert "HTTP 503" in str(error)


def test_an_error_under_200_without_a_plausible_status_keeps_200() -> None:
    error = refusal(200, {"error": {"message": "x", "code": 1302}})
    assert (type(error), error.status_code, error.code) == (APIStatusError, 200, 1302)


def test_an_http_status_is_not_overruled_by_the_body() -> None:
    assert refusal(400, {"error": {"message": "x", "code": 503}}).status_code == 400


def test_a_date_to_retry_after_is_counted_from_now() -> None:
    headers = {"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}
    assert refusal(429, {}, headers, now=1_700_000_000.0).retry_after == 30.0


def shown_by(error: BaseException) -> str:
    return f"{error} {error!r} {vars(error)}"


def test_a_key_that_the_server_echoes_is_shown_nowhere() -> None:
    body = {"error": {"message": f"bad key {KEY}", "type": KEY, "param": f"x{KEY}", "code": KEY, "more": KEY}}
    error = refusal(401, body, {"x-echo": KEY, "x-part": KEY[3:15]}, url=URL, secrets=[KEY])
    assert "bad key ***" in str(error)
    assert not any(KEY[i : i + 8] in shown_by(error) for i in range(len(KEY) - 7))


@pytest.mark.parametrize("body", [b"", b"not found", b'{"error": "Unexpected endpoint"}'])
def test_a_key_in_the_base_url_is_shown_nowhere(body: bytes) -> None:
    error = refusal(404, body, url=f"http://h/v1/chat/completions?key={KEY}", secrets=[KEY])
    assert KEY not in shown_by(error)


@quick
@given(st.data())
def test_no_piece_of_a_key_is_shown_wherever_it_is_echoed(data: st.DataObject) -> None:
    def echo(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: echo(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [echo(inner) for inner in value]
        return (
            data.draw(st.sampled_from([KEY, KEY[2:14], f"Bearer {KEY}", base64.b64encode(KEY.encode()).decode()]))
            if isinstance(value, str)
            else value
        )

    body = echo(data.draw(st.sampled_from([payload for payload, _ in SHAPES.values()])))
    status = data.draw(st.sampled_from([200, 401, 404, 500]))
    shown = shown_by(refusal(status, body, {"x": KEY}, secrets=[KEY], url=URL))
    if (found := find_error(body)) is not None:
        shown += shown_by(stream_error(found, secrets=[KEY]))
    assert not any(KEY[i : i + 8] in shown for i in range(len(KEY) - 7))


def test_secrets_may_come_from_an_iterator() -> None:
    body = {"error": {"message": f"bad {KEY}", "type": KEY, "code": KEY, "param": KEY}}
    error = refusal(401, body, {"x": KEY}, secrets=iter([KEY]))
    assert KEY not in shown_by(error)


def test_stream_error() -> None:
    found = detail("slow down", code="rate_limit", type="requests", param="model", status=429)
    error = stream_error(found, provider="groq", request_id="req_1")
    assert str(error) == "groq sent an error inside the stream: slow down"
    assert (error.status_code, error.code, error.type, error.param) == (429, "rate_limit", "requests", "model")
    assert (error.provider, error.request_id, error.retryable, error.retry_after) == ("groq", "req_1", True, None)


@pytest.mark.parametrize(
    ("found", "retryable"),
    [
        (detail("x"), False),
        (detail("x", code=1302), False),
        (detail("x", type="server_error"), True),
        (detail("x", code="overloaded"), True),
        (detail("rate limit", code=1002), True),
        (detail("Requested model is overloaded", type="unexpected_error"), True),
        (detail("We are busy; please try again later"), True),
        (detail("rate limit", status=400), False),
        (detail("insufficient balance, try again later"), False),
        (detail("x", status=400, type="server_error"), False),
        (detail("x", code="insufficient_quota", status=429), False),
    ],
)
def test_stream_error_says_whether_to_retry(found: ErrorDetail, retryable: bool) -> None:
    assert stream_error(found).retryable is retryable


def test_stream_error_without_words() -> None:
    assert str(stream_error(detail())) == "the server sent an error inside the stream: no message"


def test_stream_error_shows_no_key() -> None:
    error = stream_error(detail(KEY, code=KEY, type=KEY, param=KEY), secrets=[KEY])
    assert KEY not in shown_by(error)


def test_errors_survive_pickle() -> None:
    for error in (refusal(429, {"error": {"message": "x"}}, {"retry-after": "1"}), stream_error(detail("x", code=1))):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), vars(back), str(back)) == (type(error), vars(error), str(error))


def test_detail_survives_pickle_and_json() -> None:
    found = detail("x", code="1", type="t", param="p", status=429)
    assert pickle.loads(pickle.dumps(found)) == found
    assert msgspec.json.decode(msgspec.json.encode(found), type=ErrorDetail) == found


# Arbitrary bodies


@thorough
@given(json_values)
def test_describing_never_raises(payload: Any) -> None:
    assert isinstance(describe_error(payload).message, str)
    found = find_error(payload)
    assert found is None or isinstance(found.message, str)
    str(stream_error(describe_error(payload)))


@thorough
@given(
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(["retry-after", "x-should-retry", "x"]), texts),
    json_values.map(as_json) | st.binary() | texts,
)
def test_status_error_never_raises(status: int, headers: dict[str, str], body: bytes | str) -> None:
    error = status_error(status, headers, body, provider="p", url=URL, secrets=["a key of mine"])
    assert len(str(error)) < 1500
    pickle.dumps(error)


DEEP_KEYS = ["error", "errors", "detail", "message", "base_resp"]


@pytest.mark.parametrize("depth", [50, 200, 480, 900])
@pytest.mark.parametrize("key", DEEP_KEYS)
def test_objects_nested_deeply_are_no_reason_to_fail(key: str, depth: int) -> None:
    payload = nested(depth, key)
    describe_error(payload)
    find_error(payload)
    refusal(500, b'{"%b":' % key.encode() * depth + b'"deep"' + b"}" * depth)


@pytest.mark.parametrize("depth", [50, 200, 480, 900])
def test_lists_nested_deeply_are_no_reason_to_fail(depth: int) -> None:
    payload = {"error": nested_lists(depth)}
    describe_error(payload)
    find_error(nested_lists(depth))
    find_error(payload)
    refusal(500, b"[" * depth + b'"deep"' + b"]" * depth)


@pytest.mark.parametrize("piece", ["<title>", "<title", "<title>x", "<title></title", "<"])
def test_cost_of_a_page_is_linear_in_its_size(piece: str) -> None:
    assert growth(lambda size: refusal(502, "<html>" + piece * size), 500) < 10


def test_cost_of_many_details_is_linear_in_their_number() -> None:
    def wide(size: int) -> Any:
        return {"error": [{"detail": [{}] * 5}] * size}

    assert growth(lambda size: describe_error(wide(size)), 20_000) < 10


@quick
@given(st.data())
def test_a_cut_body_is_still_a_body(data: st.DataObject) -> None:
    whole = as_json({"error": {"message": "no such model", "code": 404}})
    start = data.draw(pieces(whole))[0]
    assert refusal(404, start).body == start.decode()


TOO_LONG = [
    {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 4096}},
    {"error": {"code": "400", "message": "litellm.ContextWindowExceededError: litellm.BadRequestError: too long"}},
    {"error": {"code": "400", "message": "litellm.BadRequestError: ContextWindowExceededError: too long"}},
    {"error": {"code": "400", "message": "too long", "type": "ContextWindowExceededError"}},
    {"error": {"code": "context_length_exceeded", "message": "too long"}},
]


@pytest.mark.parametrize("payload", TOO_LONG)
def test_a_prompt_that_is_too_long_has_one_code_everywhere(payload: Any) -> None:
    assert status_error(400, {}, json.dumps(payload)).code == "context_length_exceeded"
    assert stream_error(describe_error(payload)).code == "context_length_exceeded"


def test_words_of_a_visitor_make_no_code() -> None:
    said = {"error": {"code": 400, "message": "invalid content: 'ContextWindowExceededError: x'"}}
    assert status_error(400, {}, json.dumps(said)).code == 400


# Words that newer servers use

WORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "aws": ({"Message": "no key"}, {"message": "no key"}),
    "code-msg-data": ({"code": 1001, "msg": "no", "data": None}, {"message": "no", "code": 1001}),
    "qianfan": ({"error_code": 336003, "error_msg": "too long"}, {"message": "too long", "code": 336003}),
    "description": ({"error_description": "no"}, {"message": "no"}),
    "camel": ({"errorMessage": "no", "errorCode": "E7"}, {"message": "no", "code": "E7"}),
    "problem": ({"type": "about:blank", "title": "no"}, {"message": "no", "type": "about:blank"}),
    "tencent": ({"Response": {"Error": {"Code": "Auth", "Message": "no"}}}, {"message": "no", "code": "Auth"}),
    "tgi": ({"error": "busy", "error_type": "overloaded"}, {"message": "busy", "type": "overloaded"}),
    "reasons": ({"error": {"message": "no", "metadata": {"reasons": ["a", "b"]}}}, {"message": "no; a; b"}),
    "inner-error": ({"error": {"message": "no", "innererror": {"code": "Policy"}}}, {"message": "no; Policy"}),
    "failed-generation": (
        {"error": {"message": "no", "failed_generation": "<f>"}},
        {"message": "no; failed generation: <f>"},
    ),
    "code-alone": ({"error": {"code": 7}}, {"message": "", "code": 7}),
    "fastchat": ({"text": "too long", "error_code": 40303}, {"message": "too long", "code": 40303}),
}


@pytest.mark.parametrize(("payload", "wanted"), WORDS.values(), ids=WORDS)
def test_words_code_and_type_of_an_error(payload: Any, wanted: dict[str, Any]) -> None:
    found = describe_error(payload)
    assert {key: getattr(found, key) for key in wanted} == wanted
    raised = status_error(400, {}, json.dumps(payload))
    assert wanted["message"] in str(raised)
    assert raised.code == wanted.get("code")


SUCCESSES = [
    {"code": 0, "message": "Success", "choices": [{"message": {"content": "x"}}]},
    {"code": 0, "message": "Success"},
    {"code": 200, "msg": "ok.", "data": []},
    {"text": "x", "error_code": 0},
    {"choices": [], "message": "OK"},
]


@pytest.mark.parametrize("payload", SUCCESSES)
def test_words_of_success_are_no_error(payload: Any) -> None:
    assert find_error(payload) is None


@pytest.mark.parametrize(
    "payload", [{"why": {"a": 1}}, [{"why": 1}, 2], {"success": False, "x": 1}, {"error": {"code": 7}}]
)
def test_a_shape_that_nobody_knows_is_shown_itself(payload: Any) -> None:
    assert json.dumps(payload, separators=(",", ":")) in str(status_error(500, {}, json.dumps(payload)))


def test_a_large_body_of_an_unknown_shape_is_shown_in_part() -> None:
    assert len(str(status_error(500, {}, json.dumps({"why": "x" * 99_999})))) < 1200


def test_an_event_stream_under_an_http_error_is_read() -> None:
    body = 'event: error\ndata: {"error": {"message": "slow down", "code": "busy"}}\n\ndata: [DONE]\n\n'
    error = status_error(429, {}, body)
    assert "slow down" in str(error)
    assert error.code == "busy"


NO_BALANCE = [
    {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}},
    {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}},
    {"code": 30001, "message": "Sorry, your account balance is insufficient"},
    {"error": {"type": "exceeded_current_quota_error", "message": "no"}},
    {"error": {"message": "Your credit balance is too low to access the API"}},
]


@pytest.mark.parametrize("payload", NO_BALANCE)
def test_where_the_money_is_gone_to_ask_again_is_no_use(payload: Any) -> None:
    assert status_error(429, {}, json.dumps(payload)).retryable is False


def test_a_wait_that_is_asked_for_is_no_lack_of_money() -> None:
    payload = {"error": {"message": "no credits left in this minute"}}
    assert status_error(429, {"retry-after": "7"}, json.dumps(payload)).retryable is True


def test_a_date_to_wait_for_is_reckoned_by_the_servers_own_clock() -> None:
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert status_error(429, headers, "", now=0.0).retry_after == 30.0
    assert status_error(429, headers, "", now=2e9).retry_after == 30.0
    assert status_error(429, {**headers, "date": "yesterday"}, "", now=2e9).retry_after is None
