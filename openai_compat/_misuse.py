"""What to say of an argument that is a mistake: the right name of an unknown one, or the nearest; an async function."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Self

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
    return f"unknown field of {whose}: {_told(unknown, {*known, *OF_THE_LOOP}, {**_MEANT, **(meant or {})})}"


def _told(unknown: Iterable[str], known: Collection[str], meant: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    told = []
    for name in sorted(unknown):
        near = get_close_matches(name, sorted(known), 1)
        hint = meant.get(name) or (near and f"did you mean {near[0]}?")
        told.append(f"{name} ({hint})" if hint else name)
    return ", ".join(told)


class NamedOptions:
    """A class whose constructor refuses an unknown keyword argument with a TypeError that names the right one."""

    _meant: ClassVar[Mapping[str, str]] = {}
    """What to say of some names."""

    # Not in the constructor: its frame, or that of a wrapper, would show what is secret among the arguments.
    def __new__(cls, *args: Any, **options: Any) -> Self:
        code = getattr(cls.__init__, "__code__", None)  # that of a subclass may take others
        if options and code is not None and not code.co_flags & inspect.CO_VARKEYWORDS:
            known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            unknown = options.keys() - set(known)
            if unknown:
                del args, options
                raise TypeError(f"unknown option of {cls.__name__}: {_told(unknown, known, cls._meant)}")
        return super().__new__(cls)


def refuse_coroutines(**callbacks: object) -> None:
    """Refuse functions that somebody would have to await: what they do would silently be left undone.

    Raises:
        ConfigurationError: a callback is a coroutine function.
    """
    for name, callback in callbacks.items():
        if inspect.iscoroutinefunction(callback):
            raise ConfigurationError(f"{name} is a plain function: nothing would await an async one")
