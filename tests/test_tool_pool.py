"""Running the calls of a round: at once, in order, bounded, and never for ever."""

from __future__ import annotations

import contextvars
import decimal
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Literal

import attrs
import pytest

from openai_compat import Cancelled, CancelToken, Tool, ToolCall, ToolError, tool
from openai_compat.tools.pool import run_call, run_calls
from openai_compat.tools.tool import Toolbox


def call_for(name: str, arguments: dict[str, Any] | None = None, text: str = "", number: int = 1) -> ToolCall:
    return ToolCall(
        id=f"c{number}",
        name=name,
        arguments={} if arguments is None and not text else arguments,
        arguments_json=text or json.dumps(arguments or {}),
        invalid=bool(text),
    )


def calls(name: str, count: int, **arguments: Any) -> list[ToolCall]:
    return [call_for(name, {"n": number, **arguments}, number=number) for number in range(count)]


def give(what: Literal["text", "list", "object", "raise", "tell", "missing", "surrogate"]) -> Any:
    """Give."""
    if what == "raise":
        raise RuntimeError("it broke")
    if what == "missing":
        raise KeyError("x")
    if what == "tell":
        raise ToolError("not on a Sunday")
    return {"text": "t", "list": [1], "object": object(), "surrogate": "\ud800"}[what]


@pytest.mark.parametrize(
    ("call", "content", "logged"),
    [
        (call_for("give", {"what": "text"}), "t", False),
        (call_for("give", {"what": "list"}), "[1]", False),
        (call_for("give", {"what": "raise"}), '{"error":"RuntimeError: it broke"}', True),
        (call_for("give", {"what": "missing"}), '{"error":"KeyError: \'x\'"}', True),
        (call_for("give", {"what": "tell"}), '{"error":"not on a Sunday"}', False),
        (call_for("give", {"what": "object"}), '{"error":"TypeError: object has no JSON form"}', True),
        (
            call_for("give", {"what": "nothing"}),
            "{\"error\":\"$.what: expected 'text' | 'list' | 'object' | 'raise' | 'tell' | 'missing' | 'surrogate', "
            "got 'nothing'\"}",
            False,
        ),
        (call_for("take", {}), '{"error":"there is no tool named \'take\'; there are give"}', False),
        (
            call_for("give", text='{"what": "te'),
            '{"error":"the arguments are not a JSON object: {\\"what\\": \\"te"}',
            False,
        ),
        (call_for("give", text="[1]"), '{"error":"the arguments are not a JSON object: [1]"}', False),
    ],
)
def test_whatever_goes_wrong_is_told_to_the_model(
    call: ToolCall, content: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    result = run_call(Toolbox([give]), call)
    assert (result.content, result.call) == (content, call)
    assert (result.error is None) == ("error" not in content or call.invalid)
    assert [bool(record.exc_info) for record in caplog.records] == [True] * logged
    assert "Traceback" not in result.content


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("cancel", [None, CancelToken()], ids=["on the calling thread", "on a thread"])
def test_leaving_the_program_is_no_failure_of_a_tool(leaving: type[BaseException], cancel: CancelToken | None) -> None:
    def leave() -> None:
        raise leaving

    with pytest.raises(leaving):
        run_calls(Toolbox([leave]), [call_for("leave")], cancel=cancel)


class Meeting:
    """A tool that returns when ``count`` calls of it are under way, and notes how many were at the most."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.threads: set[int] = set()

    def meet(self, n: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.get_ident())
        self.barrier.wait(20)
        with self.lock:
            self.now -= 1
        return n


def test_calls_run_at_once_and_results_keep_the_order_of_the_calls() -> None:
    meeting = Meeting(4)
    results = run_calls(Toolbox([meeting.meet]), calls("meet", 4))
    assert [result.content for result in results] == ["0", "1", "2", "3"]
    assert meeting.most == 4


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_run_at_once_than_may(limit: int) -> None:
    meeting = Meeting(1)
    results = run_calls(Toolbox([meeting.meet]), calls("meet", 9), max_parallel=limit)
    assert [result.content for result in results] == [str(number) for number in range(9)]
    assert meeting.most <= limit


def test_with_a_limit_of_one_tools_run_on_the_calling_thread() -> None:
    meeting = Meeting(1)
    run_calls(Toolbox([meeting.meet]), calls("meet", 3), max_parallel=1)
    assert meeting.threads == {threading.get_ident()}


def test_a_tool_that_is_not_parallel_runs_alone() -> None:
    beside: list[int] = []
    meeting = Meeting(2)

    @tool(parallel=False)
    def alone(n: int) -> int:
        beside.append(meeting.now)
        return n

    mixed = [*calls("meet", 2), *calls("alone", 2), *calls("meet", 2)]
    results = run_calls(Toolbox([meeting.meet, alone]), mixed)
    assert [result.content for result in results] == ["0", "1"] * 3
    assert beside == [0, 0]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_call_that_takes_too_long_is_told_so_and_its_token_cancelled(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[CancelToken] = []

    @tool(timeout=0.05)
    def slow(n: int, cancel: CancelToken) -> int:
        told.append(cancel)
        gate.wait(20)
        return n

    results = run_calls(Toolbox([slow, give]), [*calls("slow", 2), call_for("give", {"what": "text"})])
    assert [result.content for result in results] == ['{"error":"the tool timed out after 0.05 s"}'] * 2 + ["t"]
    assert isinstance(results[0].error, TimeoutError)
    assert [token.cancelled for token in told] == [True, True]
    assert "slow did not end within 0.05 s" in caplog.text


def test_calls_that_timed_out_count_while_they_run(gate: threading.Event) -> None:
    ran: list[int] = []

    @tool(timeout=0.05)
    def slow(n: int) -> int:
        ran.append(n)
        gate.wait(20)
        return n

    @tool(parallel=False, timeout=0.05)
    def alone(n: int) -> int:
        return n

    box = Toolbox([slow, alone])
    contents = [result.content for result in run_calls(box, calls("slow", 20), max_parallel=3)]
    assert contents[:3] == ['{"error":"the tool timed out after 0.05 s"}'] * 3
    held_up = '{"error":"not run: 3 calls that timed out are still running"}'
    assert contents[3:] == [held_up] * 17
    # In later rounds too; and what runs alone does not run beside them.
    assert [result.content for result in run_calls(box, calls("slow", 2), max_parallel=3)] == [held_up] * 2
    assert [result.content for result in run_calls(box, calls("alone", 1), max_parallel=4)] == [held_up]
    assert sorted(ran) == [0, 1, 2]
    gate.set()
    for thread in box._left_behind:
        thread.join(20)
    assert [result.content for result in run_calls(box, calls("alone", 2))] == ["0", "1"]


def test_a_call_without_a_limit_is_held_up_for_a_while_only(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tool(timeout=0.05)
    def slow(n: int) -> int:
        gate.wait(20)
        return n

    def quick(n: int) -> int:
        return n

    monkeypatch.setattr("openai_compat.tools.pool.HELD_UP_SECONDS", 0.05)
    box = Toolbox([slow, quick])
    run_calls(box, calls("slow", 1))
    (result,) = run_calls(box, calls("quick", 1), max_parallel=1)
    assert "not run: 1 calls that timed out are still running" in result.content
    monkeypatch.setattr("openai_compat.tools.pool.HELD_UP_SECONDS", 20)
    threading.Timer(0.1, gate.set).start()
    assert run_calls(box, calls("quick", 1), max_parallel=1)[0].content == "0", "not before they have ended"


def test_those_that_wait_for_their_turn_have_not_begun_to_be_late(gate: threading.Event) -> None:
    @tool
    def slow(n: int, cancel: CancelToken) -> int:
        if n == 0:
            cancel.wait(20)
        return n

    results = run_calls(Toolbox([slow]), calls("slow", 3), max_parallel=2, timeout=0.3)
    assert [result.content for result in results][1:] == ["1", "2"]
    assert "timed out" in results[0].content


def test_cancelling_gives_control_back_and_reaches_the_tools(gate: threading.Event) -> None:
    token, heard = CancelToken(), threading.Event()

    def hears(n: int, cancel: CancelToken) -> None:
        token.cancel()
        cancel.wait(20)
        if cancel.cancelled:
            heard.set()

    def deaf(n: int) -> None:
        gate.wait(20)

    with pytest.raises(Cancelled):
        run_calls(Toolbox([hears, deaf]), [*calls("hears", 1), *calls("deaf", 1)], cancel=token)
    assert heard.wait(20)


def test_a_token_that_is_cancelled_already_runs_nothing() -> None:
    token, ran = CancelToken(), []
    token.cancel()
    with pytest.raises(Cancelled):
        run_calls(Toolbox([Tool(ran.append, name="note", parameters={})]), [call_for("note")], cancel=token)
    assert ran == []


def test_a_tool_whose_own_call_was_cancelled_is_a_tool_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    def inner() -> None:
        raise Cancelled

    (result,) = run_calls(Toolbox([inner]), [call_for("inner")], cancel=CancelToken())
    assert result.content == '{"error":"Cancelled: cancelled"}'
    assert caplog.records[0].levelno == logging.WARNING


def test_tools_see_the_callers_context() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    user.set("alice")

    def who(n: int) -> str:
        return user.get()

    assert [result.content for result in run_calls(Toolbox([who]), calls("who", 3))] == ["alice"] * 3


INTERRUPTED = """
import signal, threading
from openai_compat import ToolCall, tool
from openai_compat.tools.pool import run_calls
from openai_compat.tools.tool import Toolbox

entered = threading.Barrier(3)

def stuck(n: int) -> None:
    entered.wait(20)
    threading.Event().wait()

landed = threading.Event()

def land(*_: object) -> None:
    if not landed.is_set():
        landed.set()
        raise KeyboardInterrupt

def interrupt() -> None:
    entered.wait(20)
    # Again, for one that comes just before the main thread waits is noticed only after it.
    while not landed.wait(0.05):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

signal.signal(signal.SIGINT, land)
threading.Thread(target=interrupt, daemon=True).start()
try:
    run_calls(Toolbox([stuck]), [ToolCall(id=str(n), name="stuck", arguments={"n": n}) for n in range(2)])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_comes_through_at_once_and_stuck_tools_keep_nobody_from_leaving() -> None:
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.returncode) == ("interrupted\n", 0), ran.stderr


def test_a_decimal_has_the_digits_that_the_model_wrote() -> None:
    @tool
    def pay(amount: decimal.Decimal, rate: float = 0.5) -> str:
        return f"{amount} at {rate!r}"

    text = '{"amount": 100000000000000000.01, "rate": 0.25}'
    call = ToolCall(id="1", name="pay", arguments=json.loads(text), arguments_json=text)
    assert run_call(Toolbox([pay]), call).content == "100000000000000000.01 at 0.25"
    # What somebody put in place of the model's arguments is what counts.
    changed = attrs.evolve(call, arguments={"amount": 3, "rate": 0.5})
    assert run_call(Toolbox([pay]), changed).content == "3 at 0.5"


def test_a_signal_that_is_handled_for_longer_than_a_tools_time_does_not_prolong_it(slow_alarm: None) -> None:
    """A ``SimpleQueue`` would be waited for without end, before Python 3.13."""
    ended = threading.Event()

    @tool(timeout=0.2)
    def wait() -> str:
        """Wait."""
        ended.wait(60)
        return "late"

    (result,) = run_calls(Toolbox([wait]), [call_for("wait")])
    assert not ended.is_set()
    ended.set()
    assert "0.2 s" in str(result.content)
