"""Messages, tool calls and usage: attrs values and their wire JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from .._json import NotJSONError, as_int, as_mapping, as_text, decode_json, encode_json
from .._rich_display import RichDisplay
from ..errors import ConfigurationError
from ..schema.json_value import to_json_value
from ..schema.text import text_of
from .plain import PlainFields, label, plain, text

MAX_COUNT = 2**53
"""A count above is no count: a database's integer column, and JSON in a browser, would not hold it."""


@attrs.frozen(kw_only=True)
class Usage(RichDisplay):
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
        input_tokens = _count(value, "prompt_tokens", "input_tokens")
        output_tokens = _count(value, "completion_tokens", "output_tokens")
        total_tokens = _count(value, "total_tokens")
        if total_tokens is None and input_tokens is not None and output_tokens is not None:
            total_tokens = input_tokens + output_tokens
        read, thought = as_mapping(_first(value, *_INPUT_DETAILS)), as_mapping(_first(value, *_OUTPUT_DETAILS))
        cached_tokens = _count(read, "cached_tokens")
        reasoning_tokens = _count(thought, "reasoning_tokens")
        return cls(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=total_tokens,
            cached_tokens=_count(value, *_CACHED) if cached_tokens is None else cached_tokens,
            reasoning_tokens=_count(value, "reasoning_tokens") if reasoning_tokens is None else reasoning_tokens,
            raw=value,
        )

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


_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens")


def _first(value: Mapping[str, Any], *names: str) -> Any:
    """The first of these keys that says something."""
    return next((value[name] for name in names if value.get(name) is not None), None)


def _count(value: Mapping[str, Any], *names: str) -> int | None:
    count = as_int(_first(value, *names))
    return count if count is not None and count <= MAX_COUNT else None


def merged_usage(earlier: Mapping[str, Any] | None, later: Mapping[str, Any]) -> Mapping[str, Any]:
    """What two chunks of one stream say of its tokens: the later one wins, where it says something.

    Counts that only the earlier one has stay: some servers tell the prompt's at the beginning and the answer's at the
    end. They are never added up.
    """
    if not earlier:
        return later
    merged = {**earlier, **{key: value for key, value in later.items() if value or key not in earlier}}
    counts = Usage.from_wire(merged)
    if counts is not None and (counts.total_tokens or 0) < (counts.input_tokens or 0) + (counts.output_tokens or 0):
        # The total of one chunk, beside the counts of both.
        merged.pop("total_tokens", None)
    return merged


CUSTOM = "custom"
"""The type of a call whose tool takes free text, or text of a grammar, in place of JSON arguments."""

_CALL_KEYS = frozenset({"id", "type", "function", "custom", "index"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})
_CUSTOM_KEYS = frozenset({"name", "input"})


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call that the model asks for.

    ``arguments`` is the decoded object, or None where no JSON object can be had: then ``invalid`` is True and
    ``arguments_json`` the text as it came; a call that is made here need not give it. Of a call of type ``"custom"``
    that text is its ``input``, which is no JSON.
    ``extra`` holds what the server sent with the call, for echoing; it never stands in for what is named here.
    """

    id: str
    name: str
    arguments: dict[str, Any] | None = None
    arguments_json: str = "{}"
    invalid: bool = False
    type: str = "function"
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.arguments and self.arguments_json == "{}":
            object.__setattr__(self, "arguments_json", _arguments_text(self.arguments))
        _OF_A_CALL(self)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any]) -> ToolCall:
        """A call as it stands in a message."""
        kind = as_text(value.get("type")) or "function"
        custom = kind == CUSTOM
        inner = as_mapping(value.get(CUSTOM if custom else "function"))
        given = as_text(inner.get("input")) if custom else _arguments_text(inner.get("arguments"))
        arguments, text = (None, given) if custom else parse_arguments(given)
        extra = {key: item for key, item in value.items() if key not in _CALL_KEYS}
        known = _CUSTOM_KEYS if custom else _FUNCTION_KEYS
        if own := {key: item for key, item in inner.items() if key not in known}:
            extra["function"] = own
        return cls(
            id=as_text(value.get("id")),
            name=as_text(inner.get("name")),
            arguments=arguments,
            arguments_json=text,
            invalid=arguments is None,
            type=kind,
            extra=extra,
        )

    @property
    def input(self) -> str:
        """The text that a custom tool is given; empty for all others."""
        return self.arguments_json if self.type == CUSTOM else ""

    def to_wire(self, *, own_fields: bool = True) -> dict[str, Any]:
        """The call as it is sent back. Invalid arguments go as ``{}``: servers refuse a history with broken JSON.

        Args:
            own_fields: whether ``extra`` goes with it.
        """
        extra = self.extra if own_fields else {}
        own = as_mapping(extra.get("function"))
        if self.type == CUSTOM:
            inner, known = {"name": self.name, "input": self.arguments_json}, _CUSTOM_KEYS
        else:
            inner, known = (
                {"name": self.name, "arguments": "{}" if self.invalid else self.arguments_json},
                _FUNCTION_KEYS,
            )
        inner.update((key, value) for key, value in own.items() if key not in known)
        rest = {key: value for key, value in extra.items() if key not in _CALL_KEYS}
        return {"id": self.id, "type": self.type, CUSTOM if self.type == CUSTOM else "function": inner, **rest}


_OF_A_CALL = PlainFields({"id": label, "name": label, "arguments_json": text, "type": text})


def _arguments_text(value: Any) -> str:
    """Arguments as the wire has them: some histories hold them decoded."""
    if value is None:
        return ""
    if (said := text_of(value)) is not None:
        return said
    if isinstance(value, Mapping):
        return encode_json(to_json_value(value)).decode()
    raise ConfigurationError(f"the arguments of a tool call are JSON text or a dict, not {type(value).__name__}")


def parse_arguments(text: str) -> tuple[dict[str, Any] | None, str]:
    """``(arguments, text)``: empty and null are ``{}``; of what is no JSON object None and the text as sent."""
    if not text.strip():
        return {}, "{}"
    try:
        value = decode_json(text)
    except NotJSONError:
        return _after_empty(text)
    if value is None:
        return {}, "{}"
    return (value, text) if isinstance(value, dict) else (None, text)


def _after_empty(text: str) -> tuple[dict[str, Any] | None, str]:
    """Arguments after the empty object with which Anthropic's servers begin a call, and gateways hand it on."""
    if text.startswith("{}{"):
        arguments, rest = parse_arguments(text[2:])
        if arguments:
            return arguments, rest
    return None, text


def message_dict(value: Any) -> Any:
    """The wire dict of a message object of another SDK; anything else as it is."""
    dump = getattr(value, "model_dump", None)
    return value if isinstance(value, Mapping) or dump is None else dump(mode="json", exclude_none=True)


def _is_parts(content: Any) -> bool:
    return isinstance(content, (list, tuple)) and all(isinstance(part, Mapping) and "type" in part for part in content)


def _content(content: Any, name: str = "content") -> Any:
    """The content of a message as plain text or plain parts."""
    if (said := text_of(content)) is not None:
        return said
    if _is_parts(content):
        return plain(content, name)
    raise ConfigurationError(f"the content of a message is a string or a list of parts, not {type(content).__name__}")


def _result(content: Any) -> Any:
    """What a tool returned as what a message holds: other than text and parts as JSON."""
    if content is None or text_of(content) is not None or _is_parts(content):
        return content
    return encode_json(to_json_value(content)).decode()


_TEXT = frozenset({str})


def plain_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A wire dict of plain values only; itself where it is one.

    Raises:
        ConfigurationError: its content is something else than text or parts, or a value has no JSON form.
    """
    if _TEXT.issuperset(map(type, message.values())):
        return message
    content = message.get("content")
    if message["role"] == "tool":
        content = _result(content)
    elif not isinstance(content, (list, tuple, Mapping, type(None))):
        content = _content(content)
    changed = content is not message.get("content")
    made: Mapping[str, Any] = plain({**message, "content": content} if changed else message, "a message")
    return made


def _calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(calls)


_OF_A_MESSAGE = PlainFields(
    {
        **dict.fromkeys(("role", "tool_call_id", "name"), label),
        **dict.fromkeys(("reasoning", "origin"), text),
        "content": _content,
    }
)
_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name"})


def _beside(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a server or a saved file put there under a message's own names would be sent in place of them."""
    return extra if _KEYS.isdisjoint(extra) else {key: value for key, value in extra.items() if key not in _KEYS}


@attrs.frozen(kw_only=True)
class Message(Mapping[str, Any]):
    """One message of a conversation, readable like its wire dict: ``message["content"]``, ``dict(message)``.

    ``extra`` holds provider fields that a later turn must echo (``reasoning_content``, ``reasoning_details``, ...);
    they go only to the server named by ``origin``, and never stand in for what is named here. ``reasoning`` is what the
    model thought, wherever it told it: kept for servers that want it back in some other place, and sent to no other.
    """

    role: str
    content: str | Sequence[Mapping[str, Any]] | None = None
    tool_calls: tuple[ToolCall, ...] = attrs.field(default=(), converter=_calls)
    tool_call_id: str | None = None
    name: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, converter=_beside)
    reasoning: str = attrs.field(default="", repr=False)
    origin: str = attrs.field(default="", repr=False)

    def __attrs_post_init__(self) -> None:
        _OF_A_MESSAGE(self)

    @classmethod
    def from_wire(cls, value: Mapping[str, Any], *, origin: str = "") -> Message:
        """A message from its wire dict; what is a ``Message`` already stays as it is.

        A tool's result that is no text is written as JSON, and so are decoded arguments of a call.

        Args:
            value: also a message object of another SDK, which has ``model_dump``.
            origin: the server that wants its provider fields back.

        Raises:
            ConfigurationError: no role, or content that is neither text nor parts.
        """
        if isinstance(value, Message):
            return value
        value = message_dict(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
            raise ConfigurationError("a message needs a 'role' of system, user, assistant or tool")
        known: dict[str, Any] = {key: value.get(key) for key in ("role", "content", "tool_call_id", "name")}
        if known["role"] == "tool":
            known["content"] = _result(known["content"])
        wires = value.get("tool_calls")
        if not isinstance(wires, (list, tuple, type(None))):
            raise ConfigurationError(f"tool_calls is a list, not {type(wires).__name__}")
        calls = [ToolCall.from_wire(call) for call in wires or () if isinstance(call, Mapping)]
        return cls(**known, tool_calls=calls, extra=dict(value), origin=origin)

    def at_home(self, origin: str | None) -> bool:
        """Whether ``origin`` is the server that this came from, or may be."""
        return not self.origin or origin is None or origin == self.origin

    def to_wire(self, origin: str | None = None) -> dict[str, Any]:
        """The wire dict, with the provider's own fields unless it goes to another ``origin``.

        An assistant message with tool calls and no text has ``content: null``; without calls it has ``""``.
        """
        at_home = self.at_home(origin)
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
