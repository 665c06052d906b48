"""The tool loop: ask, run what is called for, tell, ask again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs

from .._misuse import refuse_coroutines
from ..cancel import CancelToken
from ..errors import ConfigurationError, OpenAICompatError, ToolError, ToolLoopError
from ..redaction import redact_error_body
from ..schema.problems import ValidationError
from ..wire.messages import CUSTOM, Message, ToolCall, Usage
from ..wire.prices import Charge
from ..wire.request import ChatRequest, ToolSpec, request_messages
from ..wire.response import UNKNOWN, ChatResponse, ended_by_itself
from ..wire.tool_results import ToolResult, next_request, result_messages
from .pool import WatchTool, invalid_result, run_calls
from .tool import Toolbox, ToolDispatcher

BeforeTool = Callable[[ToolCall], "ToolCall | bool | None"]
AfterTool = Callable[[ToolResult], Any]


@attrs.frozen(kw_only=True)
class ToolOptions:
    """How a tool loop runs.

    Args:
        max_iterations: most rounds, that is, requests.
        max_tool_calls: most calls of all rounds together; the model is told of those that are over that they did not
            run.
        max_parallel_tool_calls: most calls that run at once, each on a thread of its own, those included that timed out
            and still run. With 1 they run one after another on the calling thread.
        tool_timeout: seconds for a call whose tool says nothing of it; then the model is told that it timed out.
        before_tool: called with each whole ``ToolCall`` of a round, on the calling thread, before any runs. None or
            True lets it run, False refuses it, another ``ToolCall`` runs in its place; a ``ToolError`` raised here
            refuses it in your own words.
        after_tool: called with each ``ToolResult``, on the calling thread, in the order of the calls. None keeps the
            result; anything else is told to the model in its place.
        withhold_tools: offer no tools in the last round, so that the model has to answer with what it has.
        tool_errors: what the model is told of an exception of a tool's: ``"message"`` its type and text, without what
            looks like a credential; ``"type"`` its type alone. A ``ToolError`` is told in your words in either case.
        secrets: returns what the model is not to see in an exception.
        watch: called with each call that is about to run, on the thread that runs it; returns a context manager, which
            is entered meanwhile, and whose value is called with the ``ToolResult``.
        cancel: ends the loop also while tools run; those that take a ``CancelToken`` are told, the others go on
            unheard on their threads.
    """

    max_iterations: int = 8
    max_tool_calls: int = 128
    max_parallel_tool_calls: int = 8
    tool_timeout: float | None = None
    before_tool: BeforeTool | None = None
    after_tool: AfterTool | None = None
    withhold_tools: bool = False
    tool_errors: Literal["message", "type"] = "message"
    secrets: Callable[[], Iterable[str]] = attrs.field(default=tuple, repr=False)
    watch: WatchTool | None = attrs.field(default=None, repr=False, eq=False)
    cancel: CancelToken | None = None

    def __attrs_post_init__(self) -> None:
        refuse_coroutines(before_tool=self.before_tool, after_tool=self.after_tool)
        for name in ("max_iterations", "max_tool_calls", "max_parallel_tool_calls"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tool_timeout is not None and not self.tool_timeout > 0:
            raise ConfigurationError(f"tool_timeout must be a positive number of seconds, not {self.tool_timeout}")
        if self.tool_errors not in ("message", "type"):
            raise ConfigurationError(f"tool_errors must be 'message' or 'type', not {self.tool_errors!r}")


class ToolRound:
    """One round of a tool loop: the model's reply, and the calls that it asks for.

    ``number`` counts from 1; ``answer`` is this round's reply; ``usage`` and ``latency_ms`` are of all rounds so far.
    """

    def __init__(
        self,
        number: int,
        answer: ChatResponse,
        messages: list[Any],
        run: Callable[[ChatResponse], list[ToolResult]],
        *,
        usage: Usage | None,
        latency_ms: float,
        charges: tuple[Charge, ...] = (),
    ) -> None:
        self.number = number
        self.answer = answer
        self.usage = usage
        self.latency_ms = latency_ms
        self._charges = charges
        self._messages = messages
        self._run = run
        self._results: tuple[ToolResult, ...] | None = None

    def __repr__(self) -> str:
        return f"ToolRound({self.number}, {', '.join(call.name for call in self.calls) or self.answer.text[:60]!r})"

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model asks for; none in the round that answers."""
        return self.answer.tool_calls

    @property
    def messages(self) -> tuple[Any, ...]:
        """The conversation so far, this round's reply and results included."""
        return tuple(self._messages)

    def run(self) -> tuple[ToolResult, ...]:
        """Run this round's calls, once; the loop does so itself when it goes on. Their results, in order.

        Calls of an answer that is ``truncated`` are not run, nor are those that are ``invalid``: the model is told so.
        """
        if self._results is None:
            self._results = tuple(self._run(self.answer))
            self._messages.extend(result_messages(self._results))
        return self._results

    def total(self) -> ChatResponse:
        """This round's reply, with the tokens and the time of all rounds so far."""
        return attrs.evolve(self.answer, usage=self.usage, latency_ms=self.latency_ms, charges=self._charges)


def tool_rounds(
    ask: Callable[[ChatRequest], ChatResponse],
    request: ChatRequest,
    dispatcher: ToolDispatcher,
    options: ToolOptions = ToolOptions(),
) -> Iterator[ToolRound]:
    """The rounds of a tool loop, each before its calls run; the last is the one that answers.

    Raises:
        Cancelled: by the token of ``options``.
        ToolLoopError: the model still calls tools in the last of ``max_iterations`` rounds.
        OpenAICompatError: whatever ``ask`` raises; ``messages`` holds the conversation so far.
    """
    toolbox = dispatcher if isinstance(dispatcher, Toolbox) else Toolbox(filter(_is_called, request.tools), dispatcher)
    started = time.monotonic()
    messages: list[Any] = list(request_messages(request))
    usage: Usage | None = None
    charges: tuple[Charge, ...] = ()
    left = options.max_tool_calls
    try:
        for number in range(1, options.max_iterations + 1):
            last = number == options.max_iterations
            answer = ask(
                next_request(request, messages, first=number == 1, last=last, withhold_tools=options.withhold_tools)
            )
            if answer.usage is not None:
                usage = answer.usage + usage
            charges += answer.charges
            turn: Message = answer.to_message()
            messages.append(turn)
            round_ = ToolRound(
                number,
                answer,
                messages,
                functools.partial(_run, toolbox, options, 0 if last and options.withhold_tools else left),
                usage=usage,
                latency_ms=(time.monotonic() - started) * 1000,
                charges=charges,
            )
            left = max(left - len(answer.tool_calls), 0)
            yield round_
            if not answer.tool_calls:
                return
            round_.run()
    except OpenAICompatError as error:
        error.messages = error.messages or tuple(messages)
        raise
    raise ToolLoopError(
        f"the tool loop did not converge: the model still calls tools after {options.max_iterations} rounds; "
        "raise max_iterations, or see .messages for what it does",
        messages=messages,
        partial=answer,
        provider=answer.provider,
    )


def run_tools_loop(
    ask: Callable[[ChatRequest], ChatResponse],
    request: ChatRequest,
    dispatcher: ToolDispatcher,
    *,
    on_round: Callable[[ToolRound], object] | None = None,
    **options: Any,
) -> ChatResponse:
    """Run tools until the model answers without calling any; that answer, with the tokens and time of all rounds.

    Args:
        on_round: called with each ``ToolRound``, before its calls run.
        options: as for ``ToolOptions``.

    Raises:
        Cancelled: by ``cancel``.
        ToolLoopError: it still calls tools after ``max_iterations`` rounds; holds the messages so far.
    """
    refuse_coroutines(on_round=on_round)
    rounds = tool_rounds(ask, request, dispatcher, ToolOptions(**options))
    for round_ in rounds:
        if on_round is not None:
            on_round(round_)
    return round_.total()


def _is_called(spec: ToolSpec | Mapping[str, Any]) -> bool:
    """Whether an entry of ``tools`` is one that is run here, not by the model's server."""
    return isinstance(spec, ToolSpec) or spec.get("type", "function") in ("function", CUSTOM)


def _run(toolbox: Toolbox, options: ToolOptions, most: int, answer: ChatResponse) -> list[ToolResult]:
    """Ask ``before_tool`` about all calls that are whole, run those that may, and show ``after_tool`` the results.

    ``most`` is how many may run; 0 where no tools were offered.
    """
    decided = [
        _refused(call, answer) or (_decide(call, options.before_tool) if number < most else _over(call))
        for number, call in enumerate(answer.tool_calls)
    ]
    ran = iter(
        run_calls(
            toolbox,
            [call for call in decided if isinstance(call, ToolCall)],
            max_parallel=options.max_parallel_tool_calls,
            timeout=options.tool_timeout,
            cancel=options.cancel,
            watch=options.watch,
        )
    )
    results = [_told(next(ran), options) if isinstance(call, ToolCall) else call for call in decided]
    return [_reviewed(result, options.after_tool) for result in results]


def _told(result: ToolResult, options: ToolOptions) -> ToolResult:
    """A call's result, of what its tool raised only what the model may see."""
    error = result.error
    if error is None:
        return result
    if options.tool_errors == "type" and not isinstance(error, (ToolError, ValidationError)):
        return ToolResult.failure(result.call, type(error).__name__, error=error, seconds=result.seconds)
    shown = redact_error_body(result.content, secrets=options.secrets(), limit=len(result.content))
    return attrs.evolve(result, content=shown)


def _refused(call: ToolCall, answer: ChatResponse) -> ToolResult | None:
    """The result of a call that is half a call, or may be: to run it could do what nobody asked for."""
    if answer.truncated:
        return ToolResult.failure(call, "your answer was cut off, and the call was not run: call again")
    cut = answer.finish_reason != UNKNOWN and not ended_by_itself(answer.finish_reason)
    # The text of a custom call has no form that would show whether it is whole: in a stream, its end has to be said.
    may_be_half = cut or (answer.finish_reason == UNKNOWN and answer.first_token_ms is not None)
    if (cut and call.invalid) or (may_be_half and call.type == CUSTOM):
        return ToolResult.failure(call, f"the call was cut off ({answer.finish_reason}), and not run: call again")
    return invalid_result(call) if call.invalid and call.type != CUSTOM else None


def _over(call: ToolCall) -> ToolResult:
    """The result of a call that is one too many."""
    return ToolResult.failure(call, "not run: no more calls may be made; answer with what you have")


def _decide(call: ToolCall, before_tool: BeforeTool | None) -> ToolCall | ToolResult:
    if before_tool is None:
        return call
    try:
        decision = before_tool(call)
    except ToolError as error:
        return ToolResult.failure(call, str(error), error=error)
    if decision is None or decision is True:
        return call
    if decision is False:
        return ToolResult.failure(call, "the user refused this call", error=ToolError("refused"))
    if isinstance(decision, ToolCall):
        # The result has to answer the call that the model made.
        return attrs.evolve(decision, id=call.id)
    raise ConfigurationError(f"before_tool gives None, a bool or a ToolCall, not {type(decision).__name__}")


def _reviewed(result: ToolResult, after_tool: AfterTool | None) -> ToolResult:
    replacement = None if after_tool is None else after_tool(result)
    if replacement is None:
        return result
    if isinstance(replacement, ToolResult):
        return replacement
    return ToolResult.of(result.call, replacement, seconds=result.seconds)
