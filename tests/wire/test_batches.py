"""The forms of OpenAI's Batch API, and of those who speak it a little differently."""

from __future__ import annotations

import json
from email.parser import BytesParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat import APIError, APIStatusError, BatchStatus, ResponseShapeError
from openai_compat.wire.batches import (
    AnswerLine,
    batch_error,
    parse_answer_line,
    parse_batch,
    parse_batches,
    parse_file,
    request_line,
    upload_edges,
    why_unanswered,
)

OPENAI = {
    "id": "batch_abc123",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-abc123",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1711471533,
    "request_counts": {"total": 100, "completed": 95, "failed": 5},
    "metadata": None,
}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            OPENAI,
            BatchStatus(
                id="batch_abc123",
                status="in_progress",
                total=100,
                completed=95,
                failed=5,
                input_file_id="file-abc123",
                created_at=1711471533,
            ),
        ),
        (
            {
                **OPENAI,
                "status": "failed",
                "request_counts": {"total": 0},
                "errors": {"object": "list", "data": [{"code": "invalid_json_line", "line": 3, "message": "No JSON."}]},
            },
            BatchStatus(
                id="batch_abc123",
                status="failed",
                input_file_id="file-abc123",
                created_at=1711471533,
                errors=(("invalid_json_line", "No JSON. (line 3)"),),
            ),
        ),
        # Together
        (
            {"job": {"id": "b", "status": "VALIDATING", "input_file_id": "file-1", "request_count": 0}},
            BatchStatus(id="b", status="validating", input_file_id="file-1"),
        ),
        (
            {"id": "b", "status": "COMPLETED", "output_file_id": "file-2", "error_file_id": ""},
            BatchStatus(id="b", status="completed", output_file_id="file-2"),
        ),
        # others
        ({"id": "b", "status": "canceled"}, BatchStatus(id="b", status="cancelled")),
        ({"id": "b", "status": "in_progress", "errors": "?"}, BatchStatus(id="b", status="in_progress")),
        ({"id": "b", "status": "new word", "request_counts": []}, BatchStatus(id="b", status="new word")),
    ],
)
def test_a_batch(payload: Any, expected: BatchStatus) -> None:
    assert parse_batch(payload) == expected


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        *[(name, False) for name in ("validating", "in_progress", "finalizing", "cancelling", "new word")],
        *[(name, True) for name in ("completed", "failed", "expired", "cancelled")],
    ],
)
def test_which_states_are_the_last(status: str, ended: bool) -> None:
    assert parse_batch({"id": "b", "status": status}).ended is ended


@pytest.mark.parametrize("payload", [None, [], "b", {}, {"id": "b"}, {"status": "completed"}, {"id": 3, "status": "x"}])
def test_no_batch(payload: Any) -> None:
    with pytest.raises(ResponseShapeError, match="the reply of p is no batch"):
        parse_batch(payload, provider="p")


def test_the_reasons_of_a_batch_mask_keys() -> None:
    payload = {"id": "b", "status": "failed", "errors": {"data": [{"message": "bad key-123456789"}, "text"]}}
    batch = parse_batch(payload, secrets=["key-123456789"])
    assert "key-123456789" not in repr(batch)
    assert len(batch.errors) == 2


def test_an_error_under_http_200_masks_keys() -> None:
    for parse in (parse_batch, parse_batches, parse_file):
        with pytest.raises(APIStatusError, match="no such thing") as caught:
            parse({"error": {"message": "no such thing for key-123456789"}}, secrets=["key-123456789"])
        assert "key-123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "ready"),
    [({}, True), ({"status": "processed"}, True), ({"status": "pending"}, False), ({"status": "Running"}, False)],
)
def test_a_file(status: dict[str, str], ready: bool) -> None:
    assert parse_file({"id": "file-1", "object": "file", **status}) == ("file-1", ready)


def test_a_page_of_a_list() -> None:
    assert [each.id for each in parse_batches({"data": [OPENAI, {}, 3, {"id": "b", "status": "x"}]})] == [
        "batch_abc123",
        "b",
    ]
    assert [each.id for each in parse_batches([OPENAI])] == ["batch_abc123"]
    with pytest.raises(ResponseShapeError):
        parse_batches({"object": "list"})


BODY = {"id": "c", "choices": [{"message": {"content": "hi"}}]}


@pytest.mark.parametrize(
    ("line", "body", "error"),
    [
        ({"response": {"status_code": 200, "request_id": "r", "body": BODY}, "error": None}, BODY, None),
        ({"response": {"body": BODY}}, BODY, None),
        ({"response": {"status_code": 200, "body": BODY}, "error": {}}, BODY, None),
        ({"response": {"status_code": 400, "body": {"error": {"message": "bad"}}}}, None, "HTTP 400 from p: bad"),
        ({"response": {"status_code": 500, "body": "oh no"}}, None, "HTTP 500 from p: oh no"),
        ({"response": {"status_code": 500, "body": None}}, None, "HTTP 500 from p: "),
        (
            {"response": None, "error": {"code": "batch_expired", "message": "It could not be executed."}},
            None,
            "p: batch_expired: It could not be executed.",
        ),
        ({"error": {"message": "only words"}}, None, "p: only words"),
        ({"error": "text"}, None, "p: text"),
        ({"error": {"code": "c", "message": "sk-secret-123456 is bad"}}, None, r"p: c: (?!sk-secret).* is bad"),
        ({"response": {"status_code": 200, "body": {}}}, None, "the batch's line from p has no answer"),
        ({"response": {"status_code": 200}}, None, "the batch's line from p has no answer"),
        ({}, None, "the batch's line from p has no answer"),
    ],
)
def test_a_line_of_answers(line: dict[str, Any], body: Any, error: str | None) -> None:
    found = parse_answer_line(
        json.dumps({"id": "x", "custom_id": "mine", **line}).encode(), provider="p", secrets=["sk-secret-123456"]
    )
    assert found is not None
    assert found.custom_id == "mine"
    assert (found.body and json.loads(found.body)) == body
    if error is None:
        assert found.error is None
    else:
        with pytest.raises(APIError, match=error):
            raise found.error or AssertionError


@pytest.mark.parametrize("line", [b"", b"no", b"[]", b"{}", b'{"custom_id": 3}', b'{"custom_id": "a"', b"\xff"])
def test_what_is_no_line_of_answers(line: bytes) -> None:
    assert parse_answer_line(line) is None


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), lambda of: st.dictionaries(st.text(), of)))
def test_no_line_breaks_the_reading(line: Any) -> None:
    data = line if isinstance(line, bytes) else json.dumps({"custom_id": "a", "response": line, "error": line}).encode()
    found = parse_answer_line(data)
    assert found is None or isinstance(found, AnswerLine)


@pytest.mark.parametrize(
    ("batch", "message", "retryable"),
    [
        (BatchStatus(id="b", status="expired"), "p: batch_expired: batch b expired before", True),
        (BatchStatus(id="b", status="cancelled"), "p: batch_cancelled: batch b was cancelled", True),
        (BatchStatus(id="b", status="completed"), "p: batch b completed without an answer", True),
        (BatchStatus(id="b", status="failed"), "p: batch b failed without an answer", False),
        (BatchStatus(id="b", status="failed", errors=(("c", "no"),)), "p: c: batch b failed: no", False),
        (BatchStatus(id="b", status="failed", errors=(("token_limit_exceeded", "no"),) * 2), r"\(and 1 more\)", True),
    ],
)
def test_why_a_request_has_no_answer(batch: BatchStatus, message: str, retryable: bool) -> None:
    error = why_unanswered(batch, provider="p")
    assert error.retryable is retryable
    with pytest.raises(APIError, match=message):
        raise error


def test_an_error_without_words() -> None:
    assert str(batch_error("", "")) == "the server: no reason was given"


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3), max_size=5))
def test_an_upload_is_a_form_with_the_lines_as_they_are(bodies: list[dict[str, str]]) -> None:
    lines = [request_line(f"id-{number}", "/v1/embeddings", body) for number, body in enumerate(bodies)]
    head, tail = upload_edges("0" * 32)
    whole = b'Content-Type: multipart/form-data; boundary="%b"\r\n\r\n' % (b"0" * 32) + head + b"".join(lines) + tail
    purpose, file = BytesParser().parsebytes(whole).get_payload()  # type: ignore[misc]
    assert purpose.get_payload() == "batch"  # type: ignore[union-attr]
    assert file.get_filename() == "requests.jsonl"  # type: ignore[union-attr]
    content = file.get_payload(decode=True)  # type: ignore[union-attr]
    assert [json.loads(line) for line in content.splitlines()] == [  # type: ignore[union-attr]
        {"custom_id": f"id-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for number, body in enumerate(bodies)
    ]
