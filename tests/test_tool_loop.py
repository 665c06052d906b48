"""The tool loop, driven by answers that a test makes up; no client, no network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.lines import lines_run

from openai_compat import (
    APIConnectionError,
    Cancelled,
    CancelToken,
    ChatRequest,
    ChatResponse,
    Choice,
    ConfigurationError,
    Image,
    Message,
    OpenAICompatError,
    ResponseShapeError,
    ToolCall,
    ToolError,
    ToolLoopError,
    ToolOptions,
    ToolResult,
    ToolRound,
    ToolSpec,
    Usage,
    build_messages,
    run_tools_loop,
    tool_rounds,
)

ANY = {"type": "object", "additionalProperties": True}
OFFERED = [ToolSpec(name, parameters=ANY) for name in ("a", "b", "c", "f", "broken", "paint")]
REQUEST = ChatRequest("go", model="m", tools=OFFERED)
ONE_THREAD = ToolOptions(max_parallel_tool_calls=1)


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


class Recorder:
    def __init__(self) -> None:
        self.ran: list[Any] = []

    def call(self, name: str, arguments: Any) -> Any:
        self.ran.append(arguments)
        return "ran"


def test_ask_run_tell_ask_again() -> None:
    model = Model(calling("a", "b", tokens=5), answering("done", tokens=7))
    answer = run_tools_loop(model, ChatRequest("go", system="be brief", model="m", tools=OFFERED), Tools())
    assert answer.text == "done"
    assert (answer.input_tokens, answer.output_tokens) == (12, 2)
    assert [message["role"] for message in model.asked[1]] == ["system", "user", "assistant", "tool", "tool"]
    assert [m["content"] for m in model.asked[1][3:]] == ["a:0", "b:1"]
    assert [m["tool_call_id"] for m in model.asked[1][3:]] == [c["id"] for c in model.asked[1][2]["tool_calls"]]


def test_the_first_answer_without_calls_is_the_answer() -> None:
    model = Model(answering("at once"))
    assert run_tools_loop(model, REQUEST, Tools(), max_iterations=1).text == "at once"
    assert len(model.asked) == 1


def test_a_loop_that_does_not_converge_holds_the_messages() -> None:
    model = Model(calling("a"))
    with pytest.raises(ToolLoopError, match="did not converge") as caught:
        run_tools_loop(model, REQUEST, Tools(), max_iterations=3)
    assert len(model.asked) == 3
    assert [message["role"] for message in caught.value.messages] == ["user", *["assistant", "tool"] * 3]


def test_a_tool_that_fails_is_told() -> None:
    model = Model(calling("broken"), answering("sorry"))
    assert run_tools_loop(model, REQUEST, Tools()).text == "sorry"
    assert model.asked[1][-1]["content"] == '{"error":"ValueError: no"}'


@pytest.mark.parametrize(
    ("error", "options", "told"),
    [
        (ValueError("at /srv/x"), {}, "ValueError: at /srv/x"),
        (ValueError("at /srv/x"), {"tool_errors": "type"}, "ValueError"),
        (ToolError("no such town"), {"tool_errors": "type"}, "no such town"),
        (ValueError("GET /v1?api_key=abcdef123456"), {}, "ValueError: GET /v1?api_key=***"),
        (ValueError("I sent Zq7-f3K9_vTn2Xw8"), {"secrets": lambda: ["Zq7-f3K9_vTn2Xw8"]}, "ValueError: I sent ***"),
        (ToolError("I sent Zq7-f3K9_vTn2Xw8"), {"secrets": lambda: ["Zq7-f3K9_vTn2Xw8"]}, "I sent ***"),
    ],
)
@pytest.mark.parametrize("parallel", [1, 8])
def test_of_what_a_tool_raises_the_model_is_told_what_it_may_see(
    error: Exception, options: dict[str, Any], told: str, parallel: int
) -> None:
    model = Model(calling("broken", "a"), answering("sorry"))

    class Breaking(Tools):
        def call(self, name: str, arguments: Any) -> Any:
            if name == "broken":
                raise error
            return super().call(name, arguments)

    results: list[ToolResult] = []
    options = {"max_parallel_tool_calls": parallel, "after_tool": results.append, **options}
    run_tools_loop(model, REQUEST, Breaking(), **options)
    assert [message["content"] for message in model.asked[1][-2:]] == [f'{{"error":"{told}"}}', "a:1"]
    assert results[0].error is error


def test_the_time_of_all_rounds_counts_not_the_last() -> None:
    answer = run_tools_loop(Model(answering("x")), REQUEST, Tools())
    assert 0 <= answer.latency_ms != 7.0


def test_rounds_that_report_no_usage_count_nothing() -> None:
    model = Model(calling("a", tokens=0), answering("x", tokens=0))
    assert run_tools_loop(model, REQUEST, Tools()).usage is None


def test_a_tool_that_runs_does_not_hold_up_cancelling() -> None:
    token = CancelToken()
    go_on = threading.Event()

    class Slow:
        def call(self, name: str, arguments: Any) -> Any:
            token.cancel()
            go_on.wait(20)

    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_tools_loop(Model(calling("a")), REQUEST, Slow(), cancel=token)
    assert time.monotonic() - started < 10
    go_on.set()


def test_with_a_token_tools_run_and_fail_as_ever() -> None:
    model = Model(calling("a", "broken"), answering("done"))
    answer = run_tools_loop(model, REQUEST, Tools(), cancel=CancelToken())
    assert answer.text == "done"
    assert [m["content"] for m in model.asked[1][2:]] == ["a:0", '{"error":"ValueError: no"}']


def test_there_is_at_least_one_round() -> None:
    with pytest.raises(ConfigurationError, match="max_iterations"):
        run_tools_loop(Model(answering("x")), REQUEST, Tools(), max_iterations=0)


# Rounds


def test_a_round_comes_before_its_calls_run_and_they_run_once() -> None:
    ran: list[str] = []

    class Noting:
        def call(self, name: str, arguments: Any) -> Any:
            ran.append(name)
            return name

    seen = []
    for round_ in tool_rounds(Model(calling("a", "b"), calling("c"), answering("x")), REQUEST, Noting(), ONE_THREAD):
        seen.append((round_.number, [call.name for call in round_.calls], list(ran)))
        if round_.number == 2:
            assert [result.content for result in round_.run()] == ["c"]
            assert round_.run() is round_.run()
    assert seen == [(1, ["a", "b"], []), (2, ["c"], ["a", "b"]), (3, [], ["a", "b", "c"])]
    assert ran == ["a", "b", "c"]
    assert [message["role"] for message in round_.messages] == [
        *("user", "assistant", "tool", "tool"),
        *("assistant", "tool", "assistant"),
    ]
    assert round_.run() == ()


def test_leaving_the_loop_runs_nothing_more() -> None:
    model = Model(calling("a"))
    ran: list[str] = []

    class Noting:
        def call(self, name: str, arguments: Any) -> None:
            ran.append(name)

    rounds = tool_rounds(model, REQUEST, Noting())
    round_ = next(rounds)
    del rounds
    assert (ran, len(model.asked), round_.answer.tool_calls[0].name) == ([], 1, "a")


def test_rounds_count_the_tokens_so_far() -> None:
    rounds = list(tool_rounds(Model(calling("a", tokens=5), answering("x", tokens=7)), REQUEST, Tools()))
    assert [round_.usage and round_.usage.input_tokens for round_ in rounds] == [5, 12]
    assert [round_.answer.input_tokens for round_ in rounds] == [5, 7]
    assert rounds[-1].total().input_tokens == 12
    assert 0 <= rounds[0].latency_ms <= rounds[1].latency_ms


def test_on_round_hears_what_the_rounds_are() -> None:
    heard: list[ToolRound] = []
    run_tools_loop(Model(calling("a"), answering("x")), REQUEST, Tools(), on_round=heard.append)
    assert [repr(round_) for round_ in heard] == ["ToolRound(1, 'a')", "ToolRound(2, 'x')"]


def test_tools_are_withheld_in_the_last_round_on_request() -> None:
    offered: list[int] = []

    def model(request: ChatRequest) -> ChatResponse:
        offered.append(len(request.tools))
        return calling("a") if request.tools else answering("what I have")

    request = ChatRequest("go", model="m", tools=[ToolSpec("a", parameters=ANY)])
    answer = run_tools_loop(model, request, Tools(), max_iterations=3, withhold_tools=True)
    assert (answer.text, offered) == ("what I have", [1, 1, 0])


# What may run


def test_a_dispatcher_is_not_asked_for_what_was_never_offered() -> None:
    model, tools = Model(calling("f", "drop_database"), answering("done")), Recorder()
    run_tools_loop(model, REQUEST, tools)
    assert tools.ran == [{"n": 0}]
    assert "there is no tool named 'drop_database'" in model.asked[1][-1]["content"]
    for offered in ((), [{"type": "web_search"}]):
        run_tools_loop(Model(calling("f"), answering("done")), ChatRequest("go", model="m", tools=offered), tools)
    assert tools.ran == [{"n": 0}]


def test_no_more_calls_run_than_may_in_one_round_and_in_all() -> None:
    model, tools = Model(calling(*"fff"), calling(*"ff"), calling("f"), answering("done")), Recorder()
    asked: list[ToolCall] = []
    run_tools_loop(model, REQUEST, tools, max_tool_calls=4, before_tool=asked.append)
    assert (len(tools.ran), len(asked)) == (4, 4), "nobody is asked about a call that does not run"
    told = [message["content"] for message in model.asked[-1] if message["role"] == "tool"]
    assert told[:4] == ["ran"] * 4
    assert told[4:] == ['{"error":"not run: no more calls may be made; answer with what you have"}'] * 2


def test_a_flood_of_calls_is_answered_but_not_run() -> None:
    model, tools = Model(calling(*"f" * 1000), answering("done")), Recorder()
    assert run_tools_loop(model, REQUEST, tools).text == "done"
    assert len(tools.ran) == 128
    assert [message["role"] for message in model.asked[1]].count("tool") == 1000


def test_a_call_in_a_round_that_offers_no_tools_does_not_run() -> None:
    tools = Recorder()
    with pytest.raises(ToolLoopError):
        run_tools_loop(Model(calling("f")), REQUEST, tools, max_iterations=2, withhold_tools=True)
    assert tools.ran == [{"n": 0}], "in the first round only"


# What goes wrong


def failing(error: BaseException) -> Any:
    calls = iter([calling("a")])

    def ask(request: ChatRequest) -> ChatResponse:
        for answer in calls:
            return answer
        raise error

    return ask


@pytest.mark.parametrize(
    "error", [APIConnectionError("gone"), Cancelled(), ResponseShapeError("no choices"), ConfigurationError("bad")]
)
def test_an_error_in_mid_loop_holds_the_conversation_so_far(error: OpenAICompatError) -> None:
    with pytest.raises(type(error)) as caught:
        run_tools_loop(failing(error), REQUEST, Tools())
    assert caught.value is error
    assert [message["role"] for message in error.messages] == ["user", "assistant", "tool"]
    again = run_tools_loop(Model(answering("on")), ChatRequest(messages=error.messages, model="m"), Tools())
    assert again.text == "on"


def test_cancelling_while_a_tool_runs_holds_the_conversation_so_far() -> None:
    token = CancelToken()

    class Cancelling:
        def call(self, name: str, arguments: Any) -> None:
            token.cancel()

    with pytest.raises(Cancelled) as caught:
        run_tools_loop(Model(calling("a")), REQUEST, Cancelling(), cancel=token)
    assert [message["role"] for message in caught.value.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_iterations": 0},
        {"max_tool_calls": 0},
        {"max_parallel_tool_calls": 0},
        {"tool_errors": "all"},
        {"tool_timeout": 0},
        {"tool_timeout": -1.0},
        {"tool_timeout": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    model = Model(answering("x"))
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        run_tools_loop(model, REQUEST, Tools(), **options)
    assert model.asked == []


# Hooks


def test_before_tool_approves_refuses_and_replaces() -> None:
    asked: list[str] = []

    def judge(call: ToolCall) -> ToolCall | bool | None:
        asked.append(call.name)
        if call.name == "replaced":
            return ToolCall(id="other", name="instead", arguments={"n": 9}, arguments_json='{"n":9}')
        if call.name == "worded":
            raise ToolError("ask again on Monday")
        return {"refused": False, "approved": True}.get(call.name)

    model = Model(calling("silent", "approved", "refused", "replaced", "worded"), answering("done"))
    offered = [ToolSpec(name, parameters=ANY) for name in ("silent", "approved", "refused", "replaced", "instead")]
    run_tools_loop(model, ChatRequest("go", model="m", tools=offered), Tools(), before_tool=judge)
    assert asked == ["silent", "approved", "refused", "replaced", "worded"]
    told = model.asked[1][2:]
    assert [message["content"] for message in told] == [
        "silent:0",
        "approved:1",
        '{"error":"the user refused this call"}',
        "instead:9",
        '{"error":"ask again on Monday"}',
    ]
    assert [message["tool_call_id"] for message in told] == [call["id"] for call in model.asked[1][1]["tool_calls"]]


def test_all_calls_are_judged_before_any_runs_and_on_the_callers_thread() -> None:
    order: list[tuple[str, str]] = []
    here = threading.get_ident()

    def judge(call: ToolCall) -> None:
        assert threading.get_ident() == here
        order.append(("judged", call.name))

    class Noting:
        def call(self, name: str, arguments: Any) -> None:
            order.append(("ran", name))

    def after(result: ToolResult) -> None:
        assert threading.get_ident() == here
        order.append(("after", result.call.name))

    run_tools_loop(
        Model(calling("a", "b"), answering("x")),
        REQUEST,
        Noting(),
        before_tool=judge,
        after_tool=after,
        max_parallel_tool_calls=1,
    )
    assert order == [(what, name) for what in ("judged", "ran", "after") for name in ("a", "b")]


def test_after_tool_sees_and_replaces_results() -> None:
    seen: list[ToolResult] = []

    def review(result: ToolResult) -> Any:
        seen.append(result)
        return {"a": None, "b": {"better": 1}, "broken": ToolResult.failure(result.call, "sorry")}[result.call.name]

    model = Model(calling("a", "b", "broken"), answering("done"))
    run_tools_loop(model, REQUEST, Tools(), after_tool=review)
    assert [message["content"] for message in model.asked[1][2:]] == ["a:0", '{"better":1}', '{"error":"sorry"}']
    assert [(result.value, str(result.error)) for result in seen] == [("a:0", "None"), ("b:1", "None"), (None, "no")]
    assert all(result.seconds >= 0 for result in seen)


@pytest.mark.parametrize("hook", ["before_tool", "after_tool", "on_round"])
def test_a_hook_that_raises_ends_the_loop(hook: str) -> None:
    def raises(_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tools_loop(Model(calling("a"), answering("x")), REQUEST, Tools(), **{hook: raises})


@pytest.mark.parametrize("hook", ["before_tool", "after_tool", "on_round"])
def test_a_hook_that_would_have_to_be_awaited_is_refused_before_anything_is_asked(hook: str) -> None:
    async def never_runs(_: Any) -> None:
        """Would never be awaited."""

    model = Model(calling("a"), answering("x"))
    with pytest.raises(ConfigurationError, match=f"{hook} is a plain function"):
        run_tools_loop(model, REQUEST, Tools(), **{hook: never_runs})
    assert not model.asked


def test_before_tool_must_give_something_that_can_be_understood() -> None:
    with pytest.raises(ConfigurationError, match="before_tool gives None, a bool or a ToolCall, not str"):
        run_tools_loop(Model(calling("a")), REQUEST, Tools(), before_tool=lambda call: "yes")


# What is sent


def test_a_picture_that_a_tool_gives_is_shown_after_all_results() -> None:
    picture = Image("https://example.org/a.png")

    class Painter:
        def call(self, name: str, arguments: Any) -> Any:
            return picture if name == "paint" else "words"

    model = Model(calling("paint", "write"), answering("nice"))
    run_tools_loop(model, REQUEST, Painter())
    roles = [message["role"] for message in model.asked[1]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert model.asked[1][-1]["content"][1] == {"type": "image_url", "image_url": {"url": picture.url}}


def test_what_another_server_wants_echoed_stays_out_of_the_loop() -> None:
    earlier = Message(role="assistant", content="hi", extra={"reasoning_details": ["theirs"]}, origin="http://other/v1")
    sent: list[ChatRequest] = []

    def model(request: ChatRequest) -> ChatResponse:
        sent.append(request)
        return answering("x")

    run_tools_loop(model, ChatRequest("go", messages=[earlier], model="m"), Tools())
    assert "reasoning_details" not in build_messages(sent[0], origin="http://here/v1")[0]
    assert "reasoning_details" in build_messages(sent[0], origin="http://other/v1")[0]


# Cost


def loop_of(rounds: int) -> Callable[[], object]:
    def run() -> None:
        answers = [calling("a")] * (rounds - 1) + [answering("done")]
        asked = iter(answers)
        run_tools_loop(lambda request: next(asked), REQUEST, Tools(), max_iterations=rounds)

    return run


def test_a_round_costs_no_more_than_the_body_that_grows_with_it() -> None:
    """Each round passes over the messages so far, as writing the body does: a few lines each, and no more."""
    few, many = lines_run(loop_of(50)), lines_run(loop_of(200))
    messages_seen = sum(2 * number for number in range(200)) - sum(2 * number for number in range(50))
    rounds = 200 - 50
    per_round = few / 50
    assert many - few < rounds * per_round + 8 * messages_seen


def test_a_thousand_rounds_in_one_loop() -> None:
    model = Model(*[calling("a")] * 999, answering("done"))
    answer = run_tools_loop(lambda request: model.answers.pop(0), REQUEST, Tools(), max_iterations=1000)
    assert (answer.text, answer.input_tokens) == ("done", 2000)


# Half a call

WHOLE = ToolCall(id="a", name="f", arguments={"n": 1}, arguments_json='{"n": 1}')
HALF = ToolCall(id="b", name="f", arguments=None, arguments_json='{"n": ', invalid=True)
SQL = ToolCall(id="c", name="f", arguments=None, arguments_json="drop table", invalid=True, type="custom")


@pytest.mark.parametrize(
    ("call", "reason", "truncated", "ran", "told"),
    [
        (WHOLE, "tool_calls", False, [{"n": 1}], "ran"),
        (WHOLE, "length", False, [{"n": 1}], "ran"),
        (WHOLE, "tool_calls", True, [], "your answer was cut off"),
        (HALF, "tool_calls", False, [], "the arguments are not a JSON object"),
        (HALF, "length", False, [], "the call was cut off (length)"),
        (HALF, "unknown", True, [], "your answer was cut off"),
        (SQL, "tool_calls", False, [{"input": "drop table"}], "ran"),
        (SQL, "length", False, [], "the call was cut off (length)"),
        (SQL, "tool_calls", True, [], "your answer was cut off"),
    ],
)
def test_half_a_call_is_never_run_and_the_model_is_told(
    call: ToolCall, reason: str, truncated: bool, ran: list[Any], told: str
) -> None:
    asked: list[ToolCall] = []
    answer = ChatResponse(choices=(Choice(tool_calls=(call,), finish_reason=reason),), truncated=truncated)
    tools, model = Recorder(), Model(answer, answering("done"))
    run_tools_loop(model, REQUEST, tools, before_tool=asked.append)
    assert tools.ran == ran
    assert told in model.asked[1][-1]["content"]
    assert bool(asked) is bool(ran), "nobody is asked about a call that is not run"


@pytest.mark.parametrize(("first_token_ms", "ran"), [(None, [{"input": "drop table"}]), (5.0, [])])
def test_text_for_a_tool_is_whole_only_where_its_end_was_said(first_token_ms: float | None, ran: list[Any]) -> None:
    answer = ChatResponse(choices=(Choice(tool_calls=(SQL,)),), first_token_ms=first_token_ms)
    tools, model = Recorder(), Model(answer, answering("done"))
    run_tools_loop(model, REQUEST, tools)
    assert tools.ran == ran
    assert ("the call was cut off" in model.asked[1][-1]["content"]) is not bool(ran)
