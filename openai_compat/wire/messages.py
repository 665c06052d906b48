"""Messages, tool calls and usage: attrs values and their wire JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..errors import ConfigurationError
from .decode import NotJSONError, as_int, as_mapping, as_text, decode_json


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens as the server counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_wire(cls, value: Any) -> Usage | None:
        """Read a ``usage`` object; None where it says nothing."""
        if not isinstance(value, dict) or not value:
            return None
        get = value.get
        input_tokens = as_int(get("prompt_tokens", get("input_tokens")))
        output_tokens = as_int(get("completion_tokens", get("output_tokens")))
        total_tokens = as_int(get("total_tokens"))
        if total_tokens is None and input_tokens is not None and output_tokens is not None:
            total_tokens = input_tokens + output_tokens
        cached = as_mapping(get("prompt_tokens_details") or get("input_tokens_details")).get("cached_tokens")
        thought = as_mapping(get("completion_tokens_details") or get("output_tokens_details")).get("reasoning_tokens")
        return cls(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=total_tokens,
            cached_tokens=as_int(get("prompt_cache_hit_tokens", get("cached_tokens")) if cached is None else cached),
            reasoning_tokens=as_int(get("reasoning_tokens") if thought is None else thought),
            raw=value,
        )

    def _repr_html_(self) -> str:
        from .._html import usage_html

        return usage_html(self)

    def _repr_markdown_(self) -> str:
        from .._html import usage_markdown

        return usage_markdown(self)

    def __add__(self, other: Usage | None) -> Usage:
        """The sum of two calls; what neither reported stays None."""
        if other is None:
            return self

        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            total_tokens=add(self.total_tokens, other.total_tokens),
            cached_tokens=add(self.cached_tokens, other.cached_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
        )


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call that the model asks for.

    ``arguments`` is the decoded object, or None where no JSON object can be had: then ``invalid`` is True and
    ``arguments_json`` the text as it came. ``extra`` holds what the server sent with the call, for echoing.
    """

    id: str
    name: str
    arguments: dict[str, Any] | None = None
    arguments_json: str = "{}"
    invalid: bool = False
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> ToolCall:
        """A call as it stands in a message."""
        function = as_mapping(value.get("function"))
        arguments, text = parse_arguments(as_text(function.get("arguments")))
        extra = {key: item for key, item in value.items() if key not in ("id", "type", "function")}
        if own := {key: item for key, item in function.items() if key not in ("name", "arguments")}:
            extra["function"] = own
        return cls(
            id=as_text(value.get("id")),
            name=as_text(function.get("name")),
            arguments=arguments,
            arguments_json=text,
            invalid=arguments is None,
            extra=extra,
        )

    def to_wire(self, *, own_fields: bool = True) -> dict[str, Any]:
        """The call as it is sent back. Invalid arguments go as ``{}``: servers refuse a history with broken JSON.

        Args:
            own_fields: whether ``extra`` goes with it.
        """
        function = {"name": self.name, "arguments": "{}" if self.invalid else self.arguments_json}
        extra = dict(self.extra) if own_fields else {}
        function.update(as_mapping(extra.pop("function", None)))
        return {"id": self.id, "type": "function", "function": function, **extra}


def parse_arguments(text: str) -> tuple[dict[str, Any] | None, str]:
    """``(arguments, text)``: empty and null are ``{}``; what is no JSON object gives None and the text as sent."""
    if not text.strip():
        return {}, "{}"
    try:
        value = decode_json(text)
    except NotJSONError:
        return None, text
    if value is None:
        return {}, "{}"
    return (value, text) if isinstance(value, dict) else (None, text)


def _calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(calls)


@attrs.frozen(kw_only=True)
class Message(Mapping[str, Any]):
    """One message of a conversation, readable like its wire dict: ``message["content"]``, ``dict(message)``.

    ``extra`` holds provider fields that a later turn must echo (``reasoning_content``, ``reasoning_details``, ...);
    they go only to the server named by ``origin``.
    """

    role: str
    content: str | Sequence[Mapping[str, Any]] | None = None
    tool_calls: tuple[ToolCall, ...] = attrs.field(default=(), converter=_calls)
    tool_call_id: str | None = None
    name: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    origin: str = attrs.field(default="", repr=False)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any], *, origin: str = "") -> Message:
        """A message from its wire dict; what is a ``Message`` already stays as it is.

        Args:
            origin: the server that wants its provider fields back.

        Raises:
            ConfigurationError: no role.
        """
        if isinstance(value, Message):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
            raise ConfigurationError("a message needs a 'role' of system, user, assistant or tool")
        known: dict[str, Any] = {key: value.get(key) for key in ("role", "content", "tool_call_id", "name")}
        wires = value.get("tool_calls")
        if not isinstance(wires, (list, tuple, type(None))):
            raise ConfigurationError(f"tool_calls is a list, not {type(wires).__name__}")
        calls = [ToolCall.from_wire(call) for call in wires or () if isinstance(call, Mapping)]
        extra = {key: item for key, item in value.items() if key not in known and key != "tool_calls"}
        return cls(**known, tool_calls=calls, extra=extra, origin=origin)

    def to_wire(self, origin: str | None = None) -> dict[str, Any]:
        """The wire dict, with the provider's own fields unless it goes to another ``origin``.

        An assistant message with tool calls and no text has ``content: null``; without calls it has ``""``.
        """
        at_home = not self.origin or origin is None or origin == self.origin
        wire: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            wire["name"] = self.name
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            wire["content"] = self.content or None
            wire["tool_calls"] = [call.to_wire(own_fields=at_home) for call in self.tool_calls]
        elif self.content is None:
            wire["content"] = ""
        if at_home:
            wire.update(self.extra)
        return wire

    def __getitem__(self, key: str) -> Any:
        return self.to_wire()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_wire())

    def __len__(self) -> int:
        return len(self.to_wire())
