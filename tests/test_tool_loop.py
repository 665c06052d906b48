"""The tool loop, driven by answers that a test makes up; no client, no network."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from openai_compat import (
    Cancelled,
    CancelToken,
    ChatRequest,
    ChatResponse,
    Choice,
    ConfigurationError,
    ToolCall,
    ToolLoopError,
    Usage,
    build_messages,
    run_tools_loop,
)


def calling(*names: str, tokens: int = 2) -> ChatResponse:
    calls = tuple(
        ToolCall(id=f"c{i}", name=name, arguments={"n": i}, arguments_json=f'{{"n":{i}}}')
        for i, name in enumerate(names)
    )
    return answering("", tool_calls=calls, tokens=tokens, finish_reason="stop")


def answering(text: str, *, tokens: int = 2, **fields: Any) -> ChatResponse:
    usage = Usage(input_tokens=tokens, output_tokens=1, total_tokens=tokens + 1) if tokens else None
    return ChatResponse(choices=(Choice(text=text, **fields),), usage=usage, latency_ms=7.0, provider="p")


class Model:
    """Gives its answers one by one; the last repeats."""

    def __init__(self, *answers: ChatResponse) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict[str, Any]]] = []

    def __call__(self, request: ChatRequest) -> ChatResponse:
        self.asked.append(build_messages(request))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


class Tools:
    def call(self, name: str, arguments: Any) -> Any:
        if name == "broken":
            raise ValueError("no")
        return f"{name}:{arguments['n']}"


def test_row_15_ask_run_tell_ask_again() -> None:
    model = Model(calling("a", "b", tokens=5), answering("done", tokens=7))
    answer = run_tools_loop(model, ChatRequest("go", system="be brief", model="m"), Tools())
    assert answer.text == "done"
    assert (answer.input_tokens, answer.output_tokens) == (12, 2)
    assert [message["role"] for message in model.asked[1]] == ["system", "user", "assistant", "tool", "tool"]
    assert [m["content"] for m in model.asked[1][3:]] == ["a:0", "b:1"]
    assert [m["tool_call_id"] for m in model.asked[1][3:]] == [c["id"] for c in model.asked[1][2]["tool_calls"]]


def test_row_15_the_first_answer_without_calls_is_the_answer() -> None:
    model = Model(answering("at once"))
    assert run_tools_loop(model, ChatRequest("go", model="m"), Tools(), max_iterations=1).text == "at once"
    assert len(model.asked) == 1


def test_row_15_a_loop_that_does_not_converge_holds_the_messages() -> None:
    model = Model(calling("a"))
    with pytest.raises(ToolLoopError, match="did not converge") as caught:
        run_tools_loop(model, ChatRequest("go", model="m"), Tools(), max_iterations=3)
    assert len(model.asked) == 3
    assert [message["role"] for message in caught.value.messages] == ["user", *["assistant", "tool"] * 3]


def test_row_15_a_tool_that_fails_is_told() -> None:
    model = Model(calling("broken"), answering("sorry"))
    assert run_tools_loop(model, ChatRequest("go", model="m"), Tools()).text == "sorry"
    assert model.asked[1][-1]["content"] == '{"error":"ValueError: no"}'


def test_the_time_of_all_rounds_counts_not_the_last() -> None:
    answer = run_tools_loop(Model(answering("x")), ChatRequest("go", model="m"), Tools())
    assert 0 <= answer.latency_ms != 7.0


def test_rounds_that_report_no_usage_count_nothing() -> None:
    model = Model(calling("a", tokens=0), answering("x", tokens=0))
    assert run_tools_loop(model, ChatRequest("go", model="m"), Tools()).usage is None


def test_a_tool_that_runs_does_not_hold_up_cancelling() -> None:
    token = CancelToken()
    go_on = threading.Event()

    class Slow:
        def call(self, name: str, arguments: Any) -> Any:
            token.cancel()
            go_on.wait(20)

    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_tools_loop(Model(calling("a")), ChatRequest("go", model="m"), Slow(), cancel=token)
    assert time.monotonic() - started < 10
    go_on.set()


def test_with_a_token_tools_run_and_fail_as_ever() -> None:
    model = Model(calling("a", "broken"), answering("done"))
    answer = run_tools_loop(model, ChatRequest("go", model="m"), Tools(), cancel=CancelToken())
    assert answer.text == "done"
    assert [m["content"] for m in model.asked[1][2:]] == ["a:0", '{"error":"ValueError: no"}']


def test_there_is_at_least_one_round() -> None:
    with pytest.raises(ConfigurationError, match="max_iterations"):
        run_tools_loop(Model(answering("x")), ChatRequest("go", model="m"), Tools(), max_iterations=0)
