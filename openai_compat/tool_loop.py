"""The tool loop: ask, run what is called for, tell, ask again."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import attrs

from .deadline import CancelToken, interruptible
from .errors import ConfigurationError, ToolLoopError
from .tools import ToolDispatcher, run_call
from .wire.messages import Message, Usage
from .wire.request import ChatRequest, build_messages
from .wire.response import ChatResponse


def run_tools_loop(
    ask: Callable[[ChatRequest], ChatResponse],
    request: ChatRequest,
    dispatcher: ToolDispatcher,
    *,
    max_iterations: int = 8,
    cancel: CancelToken | None = None,
) -> ChatResponse:
    """Run tools until the model answers without calling any; that answer, with the tokens and time of all rounds.

    Args:
        cancel: ends the loop also while a tool runs; the tool itself goes on, on its thread, and is not waited for.

    Raises:
        Cancelled: by ``cancel``.
        ToolLoopError: it still calls tools after ``max_iterations`` rounds; holds the messages so far.
    """
    if max_iterations < 1:
        raise ConfigurationError(f"max_iterations must be at least 1, not {max_iterations}")
    started = time.monotonic()
    messages: list[object] = list(build_messages(request))
    usage: Usage | None = None
    for _ in range(max_iterations):
        asked = attrs.evolve(request, prompt=None, system=None, images=(), messages=messages)
        answer = ask(asked)
        if answer.usage is not None:
            usage = answer.usage + usage
        if not answer.tool_calls:
            return attrs.evolve(answer, usage=usage, latency_ms=(time.monotonic() - started) * 1000)
        turn: Message = answer.to_message()
        messages.append(turn)
        for call in answer.tool_calls:
            messages.append(interruptible(partial(run_call, dispatcher, call), cancel))
    raise ToolLoopError(
        f"the tool loop did not converge: the model still calls tools after {max_iterations} rounds; "
        "raise max_iterations, or see .messages for what it does",
        messages=messages,
        partial=answer,
        provider=answer.provider,
    )
