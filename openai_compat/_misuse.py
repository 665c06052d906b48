"""What to say of an argument that is a mistake: the right name of an unknown one, or the nearest; an async function."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping

from .errors import ConfigurationError

_SAMPLED = "max_tokens limits the answer, under the name that the server takes"
OF_THE_LOOP = (
    *("max_iterations", "max_tool_calls", "max_parallel_tool_calls", "tool_timeout", "before_tool", "after_tool"),
    *("withhold_tools", "tool_errors", "dispatcher", "on_round"),
)
_MEANT = {
    "stream": "stream() reads the answer as it comes; chat(sink=...) is called with each piece",
    "stream_options": "stream() always asks for the usage",
    "sink": "chat() takes it; a stream is read in a for loop",
    "repair": "chat() takes it",
    "max_completion_tokens": _SAMPLED,
    "max_output_tokens": _SAMPLED,
    "max_new_tokens": _SAMPLED,
    "headers": "did you mean extra_headers?",
    "query": "did you mean extra_query?",
    "params": "did you mean extra_query?",
    "body": "did you mean extra_body?",
    "functions": "did you mean tools?",
    "function_call": "did you mean tool_choice?",
    "schema": "did you mean response_schema, or response_type for a value?",
    "thinking": "did you mean reasoning?",
    "enable_thinking": "did you mean reasoning?",
    **dict.fromkeys(OF_THE_LOOP, "run_tools() and tool_rounds() take it"),
}


def unknown_fields(
    whose: str, unknown: Iterable[str], known: Collection[str], meant: Mapping[str, str] | None = None
) -> str:
    """The message for keyword arguments that nothing takes.

    Args:
        known: the names that are taken.
        meant: what to say of some names, in place of what is said of them anywhere.
    """
    from difflib import get_close_matches

    hints = {**_MEANT, **(meant or {})}
    told = []
    for name in sorted(unknown):
        near = get_close_matches(name, sorted({*known, *OF_THE_LOOP}), 1)
        hint = hints.get(name) or (near and f"did you mean {near[0]}?")
        told.append(f"{name} ({hint})" if hint else name)
    return f"unknown field of {whose}: {', '.join(told)}"


def refuse_coroutines(**callbacks: object) -> None:
    """Refuse functions that somebody would have to await: what they do would silently be left undone.

    Raises:
        ConfigurationError: a callback is a coroutine function.
    """
    for name, callback in callbacks.items():
        if inspect.iscoroutinefunction(callback):
            raise ConfigurationError(f"{name} is a plain function: nothing would await an async one")
