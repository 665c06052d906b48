"""Python functions as tools, and the running of calls."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import re
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from .._log import logger
from ..cancel import CancelToken
from ..errors import ConfigurationError, ToolError
from ..schema.arguments import OfferedArguments, offered_arguments
from ..schema.json_value import with_digits
from ..schema.parameters import innermost, is_unbound_method
from ..schema.signature import Signature
from ..wire.messages import CUSTOM
from ..wire.request import ToolSpec

log: logging.Logger = logger("tools")

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class ToolDispatcher(Protocol):
    """Whoever runs calls: ``call(name, arguments)`` returns the result, or raises."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any: ...


class Tool(Generic[P, R]):
    """A function that a model may call; calling the tool calls the function.

    ``spec`` is what the model is told: name, description, and a JSON Schema of the parameters. A parameter annotated
    as ``CancelToken`` is not told: it gets the token that ends the tool's call.

    Args:
        function: its parameters can be given by name. What its docstring says of them (in Google's, NumPy's or
            Sphinx's style) is told to the model where ``docstring-parser`` is installed (extra ``tools``).
        name: in place of the function's.
        description: in place of the docstring's text.
        parameters: a hand-written JSON Schema of type object, which arguments have to fit; what it does not offer is
            refused, unless it says ``additionalProperties``. The function gets them as they are decoded.
        strict: a schema that OpenAI's strict mode enforces.
        parallel: whether it may run while other tools of the same round run.
        timeout: seconds that a call may take, after which the model is told so.

    Raises:
        ConfigurationError: a signature that no JSON Schema describes; the message names the parameter. A hand-written
            schema that is none, or that offers what a ``functools.partial`` has fixed.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        strict: bool = False,
        parallel: bool = True,
        timeout: float | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.parallel = parallel
        self.timeout = timeout
        plain: Any = _unwrapped(function)
        name = name or str(getattr(plain, "__name__", type(plain).__name__))
        _check_kind(name, plain)
        _check_name(name)
        documentation, described = _documentation(plain)
        self._signature: Signature | None = None
        try:
            if parameters is None:
                self._signature = Signature(function, descriptions=described, injected=CancelToken, strict=strict)
                parameters = self._signature.parameters
            else:
                self._offered: OfferedArguments = self._by_hand(parameters)
        except ConfigurationError as error:
            raise ConfigurationError(f"the tool {name!r}: {error}") from error
        self.spec: ToolSpec = ToolSpec(
            name=name,
            description=documentation if description is None else description,
            parameters=parameters,
            strict=True if strict else None,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Tool[..., R]:
        """A tool that is a method, bound to its instance."""
        if instance is None or not is_unbound_method(self.function):
            return self
        bound: Any = copy.copy(self)
        bound.function = self.function.__get__(instance, owner)
        return bound  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Tool({self.spec.name!r})"

    def run(self, arguments: Mapping[str, Any], cancel: CancelToken | None = None, *, text: str = "") -> R:
        """Check the arguments, convert them, and call the function.

        Args:
            cancel: for the function's parameter of that type.
            text: the JSON of which the arguments were decoded; a Decimal is made of the digits that stand there.

        Raises:
            ValueError: the arguments do not fit, as in ``$.days: expected int, got str``.
        """
        call: Callable[..., R] = self.function
        if self._signature is None:
            self._offered.check(arguments, hidden=_fixed(self.function))
            return self._finished(call(**arguments))
        converted = self._signature.convert(with_digits(arguments, text))
        converted.update(dict.fromkeys(self._signature.injected, cancel or CancelToken()))
        return self._finished(call(**converted))

    def _by_hand(self, parameters: Mapping[str, Any]) -> OfferedArguments:
        if not isinstance(parameters, Mapping):
            raise ConfigurationError(f"parameters is a JSON Schema of type object, not {type(parameters).__name__}")
        properties = parameters.get("properties")
        if offered := [
            name for name in _fixed(self.function) if isinstance(properties, Mapping) and name in properties
        ]:
            raise ConfigurationError(f"parameters offers {offered[0]!r}, which its partial has fixed")
        return offered_arguments(parameters)

    def _finished(self, result: R) -> R:
        """A result, but never one that is still to be awaited."""
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"the tool {self.spec.name!r} gave a coroutine; a tool is a plain function")
        return result


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    parallel: bool = True,
    timeout: float | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(function: Any = None, /, **options: Any) -> Any:
    """Make a function a tool, as ``@tool`` or ``@tool(timeout=5)``; the options are those of ``Tool``."""
    if function is None:
        return functools.partial(tool, **options)
    return function if isinstance(function, Tool) and not options else Tool(function, **options)


_HEADINGS = "Args|Arguments|Params|Parameters"
_OTHERS = rf"(?:Keyword|Other|Optional) (?:{_HEADINGS})"
_FIELDS = r":(?:param|type|returns?|rtype|raises?)\b"
_MORE = "Returns|Raises|Yields|Examples?|Attributes|Notes?|See Also|References"
# A heading stands alone on its line: "Notes: it is slow." is prose.
_SECTION = re.compile(
    rf"\n[ \t]*(?:(?:{_HEADINGS}|{_OTHERS}|{_MORE})[ \t]*(?::[ \t]*(?=\n|\Z)|\n[ \t]*-{{3,}})|{_FIELDS})"
)
_OF_PARAMETERS = re.compile(
    rf"\n[ \t]*(?:(?:{_HEADINGS}|{_OTHERS})[ \t]*(?::[ \t]*(?=\n|\Z)|\n[ \t]*-{{3,}})|{_FIELDS})"
)
_OTHER_HEADING = re.compile(rf"^[ \t]*{_OTHERS}:[ \t]*$", re.MULTILINE)


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a tool: a name has 1 to 64 letters (a to z), digits, _ and -; give name="
        )


def _check_kind(name: str, function: Any) -> None:
    """Refuse what returns no result when it is called, but something that is still to run."""
    called = function if inspect.isroutine(function) or isinstance(function, type) else type(function).__call__
    if inspect.iscoroutinefunction(called):
        raise ConfigurationError(f"the tool {name!r} is a coroutine; a tool is a plain function")
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(f"the tool {name!r} is a generator; a tool is a plain function: return a list")


def _fixed(function: Any) -> set[str]:
    """The names that partials around a function have given values, which a call could replace."""
    names: set[str] = set()
    while function is not None:
        if isinstance(function, functools.partial):
            names |= function.keywords.keys()
            function = function.func
        else:
            function = getattr(function, "__wrapped__", None)  # a decorator's, or a tool's
    return names


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function.function if isinstance(function, Tool) else function


def _documentation(function: Any) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of its parameters."""
    text = _indented(_docstring(function))
    if not text:
        return "", {}
    section = _SECTION.search("\n" + text)
    if section is None:
        return _joined(text), {}
    plain = _joined(("\n" + text)[: section.start()])
    if not plain:
        first = _OF_PARAMETERS.search("\n" + text)
        plain = _joined(("\n" + text)[: first.start()] if first else text)
    try:
        import docstring_parser
    except ImportError:
        log.warning(
            "the docstring of %s describes its parameters, but docstring-parser is not installed: "
            "pip install 'openai-compat[tools]'",
            getattr(function, "__qualname__", function),
        )
        return plain, {}
    described: dict[str, str] = {}
    for part in _parts(text):
        try:
            parsed = docstring_parser.parse(part)
        except docstring_parser.ParseError:
            continue
        for item in parsed.params:
            for name in item.arg_name.split(","):
                described.setdefault(name.strip(" *"), _joined(item.description or ""))
    if not described and _OF_PARAMETERS.search("\n" + text):
        return _joined(text), {}  # in a style that is not known: "name - what it is"
    return plain, described


def _parts(text: str) -> list[str]:
    """A docstring as several, of which each describes parameters under one heading, with words before it."""
    first, *others = _OTHER_HEADING.split(text)
    return [f"Words.\n\n{first}", *(f"Words.\n\nArgs:{other}" for other in others)]


def _indented(text: str) -> str:
    """A docstring that begins with a heading, with what stands under it indented again: ``cleandoc`` took that away."""
    heading, _, rest = text.partition("\n")
    if not re.fullmatch(rf"(?:{_HEADINGS}|{_OTHERS}|{_MORE}):[ \t]*", heading) or rest[:1].isspace():
        return text
    return f"{heading}\n{textwrap.indent(rest, '    ')}"


def _docstring(function: Any) -> str:
    """What a function says of itself; a class, in its own words, not inherited ones; an object, of its call."""
    if inspect.isroutine(function):
        return inspect.getdoc(function) or ""
    cls = function if isinstance(function, type) else type(function)
    own = vars(cls)
    if cls is not function and "__call__" in own and (text := own["__call__"].__doc__):
        return inspect.cleandoc(text)
    text = own.get("__doc__")
    if not isinstance(text, str) or text.startswith(f"{cls.__name__}("):  # written by dataclasses
        text = own["__init__"].__doc__ if "__init__" in own else None  # None has a docstring of its own
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def _joined(text: str) -> str:
    """The paragraphs of a text, each in one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))


class Toolbox:
    """Several tools under their names, with another dispatcher for those that are no functions here.

    The dispatcher is asked for what was offered only: names, and their arguments.
    """

    def __init__(self, tools: Iterable[Any], dispatcher: ToolDispatcher | None = None) -> None:
        given = _checked(tools)
        self._tools = {item.spec.name: item for item in given if isinstance(item, Tool)}
        self._dispatcher = dispatcher
        self._left_behind: list[threading.Thread] = []
        self.specs: list[ToolSpec | Mapping[str, Any]] = [
            item.spec if isinstance(item, Tool) else item for item in given
        ]
        self._offered = {_name_of(spec): _arguments_of(spec) for spec in given if not isinstance(spec, Tool)}
        if dispatcher is None and len(self._tools) < len(self.specs):
            raise ConfigurationError("a tool given as a specification needs dispatcher= to run it")

    def call(
        self, name: str, arguments: Mapping[str, Any], cancel: CancelToken | None = None, *, text: str = ""
    ) -> Any:
        """Run the tool of that name.

        Args:
            text: the JSON of which the arguments were decoded; a Decimal is made of the digits that stand there.
        """
        if name in self._tools:
            return self._tools[name].run(arguments, cancel, text=text)
        if self._dispatcher is not None and name in self._offered:
            self._offered[name].check(arguments)
            return self._dispatcher.call(name, arguments)
        names = ", ".join(map(_name_of, self.specs)) or "none"
        raise ToolError(f"there is no tool named {name!r}; there are {names}")

    def has(self, name: str) -> bool:
        """Whether there is a tool of that name, here or with the dispatcher."""
        return name in self._tools or (self._dispatcher is not None and name in self._offered)

    def leave_behind(self, thread: threading.Thread) -> None:
        """Note the thread of a call that timed out, or that was given up."""
        self._left_behind.append(thread)

    def left_behind(self) -> int:
        """How many of these calls still run."""
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        return len(self._left_behind)

    def timeout(self, name: str) -> float | None:
        """Seconds that a call may take, where the tool says so."""
        return self._tools[name].timeout if name in self._tools else None

    def parallel(self, name: str) -> bool:
        """Whether calls may run beside others."""
        return self._tools[name].parallel if name in self._tools else True


def tool_specs(tools: Iterable[Any]) -> list[ToolSpec | Mapping[str, Any]]:
    """What a model is told of tools that nobody here is to run."""
    return [item.spec if isinstance(item, Tool) else item for item in _checked(tools)]


def _checked(tools: Iterable[Any]) -> list[Tool[..., Any] | ToolSpec | Mapping[str, Any]]:
    """Tools as they are given, functions made tools of; no two of one name."""
    if isinstance(tools, (str, Mapping)) or callable(tools) or not isinstance(tools, Iterable):
        raise ConfigurationError(f"tools is a list of tools, not {type(tools).__name__}")
    checked: list[Tool[..., Any] | ToolSpec | Mapping[str, Any]] = []
    names: set[str] = set()
    for item in tools:
        if not isinstance(item, (ToolSpec, Mapping)) and not callable(item):
            raise ConfigurationError(f"a tool is a function, a Tool or a ToolSpec, not {type(item).__name__}")
        plain = item.function if isinstance(item, Tool) else item
        if is_unbound_method(plain):
            method = innermost(plain)
            raise ConfigurationError(
                f"{method.__qualname__} is a method without its instance; give one's: thing.{method.__name__}"
            )
        made = item if isinstance(item, (ToolSpec, Mapping)) else tool(item)
        name = made.spec.name if isinstance(made, Tool) else _name_of(made)
        _check_name(name)
        if name in names:
            raise ConfigurationError(f"two tools are named {name!r}")
        names.add(name)
        checked.append(made)
    return checked


def _name_of(spec: ToolSpec | Mapping[str, Any]) -> str:
    if isinstance(spec, ToolSpec):
        return spec.name
    name = _said(spec).get("name")
    if not isinstance(name, str):
        raise ConfigurationError("a tool given as a dict has the form {'type': 'function', 'function': {'name': …}}")
    return name


def _said(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an entry of ``tools`` says of its function, or of its custom tool."""
    said = spec.get(CUSTOM if spec.get("type") == CUSTOM else "function")
    return said if isinstance(said, Mapping) else {}


def _arguments_of(spec: ToolSpec | Mapping[str, Any]) -> OfferedArguments:
    """What a tool that a dispatcher runs is offered with."""
    if (spec.type if isinstance(spec, ToolSpec) else spec.get("type")) == CUSTOM:
        return offered_arguments(_TEXT)
    try:
        return offered_arguments(spec.parameters if isinstance(spec, ToolSpec) else _said(spec).get("parameters"))
    except ConfigurationError as error:
        raise ConfigurationError(f"the tool {_name_of(spec)!r}: {error}") from error


_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""What a custom tool is called with."""
