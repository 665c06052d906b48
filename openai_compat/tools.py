"""Python functions as tools, and the running of one call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from .errors import ConfigurationError
from .wire.messages import Message, ToolCall
from .wire.request import ToolSpec
from .wire.schema import Signature

log = logging.getLogger("openai_compat")


@runtime_checkable
class ToolDispatcher(Protocol):
    """Whoever runs calls: ``call(name, arguments)`` gives the result, or raises."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any: ...


class Tool:
    """A function that a model may call; calling the tool calls the function.

    ``spec`` is what the model is told: the name, the docstring's first paragraph, and the parameters' schema.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> None:
        self.function = function
        self._signature = Signature(function)
        documentation = (inspect.getdoc(function) or "").partition("\n\n")[0]
        self.spec = ToolSpec(
            name=name or str(getattr(function, "__name__", type(function).__name__)),
            description=" ".join((description or documentation).split()),
            parameters=self._signature.parameters,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.spec.name!r})"

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Check the arguments, convert them, and call the function.

        Raises:
            ValueError: the arguments do not fit the signature.
        """
        return self.function(**self._signature.convert(arguments))


def tool(function: Callable[..., Any]) -> Tool:
    """Make a function a tool: its signature becomes the schema, its docstring the description."""
    return function if isinstance(function, Tool) else Tool(function)


class Toolbox:
    """Several tools under their names, with another dispatcher for those that are no functions here."""

    def __init__(self, tools: Iterable[Any], dispatcher: ToolDispatcher | None = None) -> None:
        self.specs: list[ToolSpec | Mapping[str, Any]] = []
        self._tools: dict[str, Tool] = {}
        self._dispatcher = dispatcher
        for item in tools:
            if isinstance(item, (ToolSpec, Mapping)):
                self.specs.append(item)
                if dispatcher is None:
                    raise ConfigurationError("a tool given as a specification needs dispatcher= to run it")
            elif callable(item):
                made = tool(item)
                if made.spec.name in self._tools:
                    raise ConfigurationError(f"two tools are named {made.spec.name!r}")
                self._tools[made.spec.name] = made
                self.specs.append(made.spec)
            else:
                raise ConfigurationError(f"a tool is a function, a Tool or a ToolSpec, not {type(item).__name__}")

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run the tool of that name."""
        if name in self._tools:
            return self._tools[name].run(arguments)
        if self._dispatcher is not None:
            return self._dispatcher.call(name, arguments)
        raise LookupError(f"there is no tool named {name!r}; there are {', '.join(self._tools)}")


def run_call(dispatcher: ToolDispatcher, call: ToolCall) -> Message:
    """The message that answers a call: the tool's result, or ``{"error": …}`` for the model to recover from."""
    if call.invalid or call.arguments is None:
        return _answer(call, {"error": f"the arguments are not a JSON object: {call.arguments_json[:200]}"})
    try:
        return _answer(call, dispatcher.call(call.name, call.arguments))
    except Exception as error:
        if not isinstance(error, (msgspec.ValidationError, LookupError)):
            log.warning("tool %s failed", call.name, exc_info=True)
        return _answer(call, {"error": f"{type(error).__name__}: {error}"})


def _answer(call: ToolCall, result: Any) -> Message:
    content = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    return Message(role="tool", content=content, tool_call_id=call.id)
