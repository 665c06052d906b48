"""Whether a reply that has ended is an answer."""

from __future__ import annotations

from typing import Any

import pytest

from openai_compat.errors import ResponseShapeError, StreamInterruptedError, StreamServerError
from openai_compat.wire.completeness import completeness_error
from openai_compat.wire.messages import ToolCall
from openai_compat.wire.response import ChatResponse, Choice


def answer(reason: str = "stop", **fields: Any) -> ChatResponse:
    return ChatResponse(choices=(Choice(finish_reason=reason, **fields),))


NAMED = ToolCall(id="a", name="f")
FINE: dict[str, ChatResponse] = {
    "text": answer(text="Hi"),
    "unknown": answer("unknown", text="Hi"),
    "calls": answer("tool_calls", tool_calls=(NAMED,)),
    "refusal": answer(refusal="No."),
    "audio": answer(extra={"audio": {"id": "a", "data": "AAAA"}}),
    "pictures": answer(extra={"images": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}),
    "parts": answer(parts=({"type": "file", "file": {}},)),
    "one-of-two": ChatResponse(choices=(Choice(), Choice(index=1, text="Hi"))),
}
WRONG: dict[str, tuple[ChatResponse, str]] = {
    "no-choices": (ChatResponse(), "the answer has no choices"),
    "empty": (answer(), "the answer is empty (finish_reason: 'stop')"),
    "blank": (answer(text=" \n"), "the answer is empty (finish_reason: 'stop')"),
    "unknown": (answer("unknown"), "the answer is empty (finish_reason: 'unknown')"),
    "length": (
        answer("length"),
        "is empty (finish_reason: 'length'): the model hit max_tokens, likely while thinking; "
        "raise max_tokens or turn reasoning off",
    ),
    "reasoning": (
        answer("length", reasoning="hm"),
        "holds only reasoning (finish_reason: 'length'): the model hit max_tokens",
    ),
    "tool-calls": (answer("tool_calls"), "it announces tool_calls but has none"),
    "function-call": (answer("function_call"), "it announces tool_calls but has none"),
    "filter": (answer("content_filter"), "the provider's content filter withheld it"),
    "nameless": (answer(tool_calls=(ToolCall(id="a", name=""),)), "the answer has a tool call without a name"),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("response", FINE.values(), ids=FINE)
def test_an_answer(response: ChatResponse, strict: bool) -> None:
    assert completeness_error(response, complete=True, strict=strict) is None
    assert completeness_error(response, complete=False, strict=False) is None


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("response", "message"), WRONG.values(), ids=WRONG)
def test_no_answer_is_a_shape_error_that_says_why(response: ChatResponse, message: str, complete: bool) -> None:
    error = completeness_error(response, complete=complete, strict=False)
    assert type(error) is ResponseShapeError
    assert message in str(error)
    assert error.partial is response


def test_a_stream_cut_short_is_refused_where_strict() -> None:
    for response in (answer("unknown", text="Hi"), ChatResponse()):
        error = completeness_error(response, complete=False, strict=True)
        assert type(error) is StreamInterruptedError
        assert (error.partial, error.retryable) == (response, True)


@pytest.mark.parametrize("complete", [False, True])
def test_an_answer_that_never_began_may_be_asked_for_again(complete: bool) -> None:
    error = completeness_error(ChatResponse(), complete=complete, strict=False)
    assert error is not None
    assert error.retryable is not complete


@pytest.mark.parametrize(
    ("reason", "retryable"), [("error", False), ("network_error", True), ("insufficient_system_resource", True)]
)
def test_finish_reasons_that_are_a_failure_of_the_server(reason: str, retryable: bool) -> None:
    error = completeness_error(answer(reason, text="Hi"), complete=True, strict=False)
    assert type(error) is StreamServerError
    assert error.partial is not None
    assert error.retryable is retryable


def test_a_reason_shows_no_key_and_is_short() -> None:
    key = "quite-ordinary-words"
    error = completeness_error(answer(key * 1000), complete=True, strict=False, secrets=[key])
    assert error is not None
    assert "ordinary" not in str(error)
    assert len(str(error)) < 250
