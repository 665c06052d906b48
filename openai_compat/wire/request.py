"""Requests as values, and the one builder of bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ..errors import ConfigurationError
from ..schema.text import text_of
from .constraints import DEFAULT, Constraints, choices_of, constrained_fields, names_choices, pattern_of
from .echo import NO_ECHO, Echo, echoed
from .messages import Message, message_dict, plain_message
from .plain import PlainFields, label, number, plain, text, whole
from .response_format import SCHEMA_WAYS, SchemaAs

if TYPE_CHECKING:
    from .media import Audio, Image


@attrs.frozen
class ToolSpec:
    """A tool as the model is told of it: ``parameters`` is a JSON Schema of type object.

    One of type ``"custom"`` takes text in place of arguments: any, or what a ``grammar`` allows, written in ``syntax``.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = attrs.field(factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None
    type: Literal["function", "custom"] = attrs.field(default="function", kw_only=True)
    grammar: str = attrs.field(default="", kw_only=True)
    syntax: Literal["lark", "regex"] = attrs.field(default="lark", kw_only=True)

    def __attrs_post_init__(self) -> None:
        for name, known in (("type", ("function", "custom")), ("syntax", ("lark", "regex"))):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"a tool's {name} is {known[0]!r} or {known[1]!r}, not {getattr(self, name)!r}"
                )
        _OF_A_TOOL(self)

    def to_wire(self) -> dict[str, Any]:
        """The entry of ``tools``."""
        said: dict[str, Any] = {"name": self.name}
        if self.description:
            said["description"] = self.description
        if self.type == "custom":
            if self.grammar:
                grammar = {"syntax": self.syntax, "definition": self.grammar}
                said["format"] = {"type": "grammar", "grammar": grammar}
            return {"type": "custom", "custom": said}
        said["parameters"] = self.parameters
        if self.strict is not None:
            said["strict"] = self.strict
        return {"type": "function", "function": said}


_OF_A_TOOL = PlainFields(
    {"name": label, "description": text, "parameters": plain, "strict": plain, "grammar": text, "syntax": text}
)


def _strings(value: str | Iterable[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    if (alone := text_of(value)) is not None:
        return (alone,)
    if not isinstance(value, Iterable):
        raise ConfigurationError(f"stop is a string, or a list of strings, not {type(value).__name__}")
    return tuple(text(item, "stop") for item in value)


def _as_message(value: Any) -> Message | Mapping[str, Any]:
    if isinstance(value, Message):
        return value
    value = message_dict(value)
    if isinstance(value, Mapping):
        if not isinstance(value.get("role"), str):
            raise ConfigurationError("a message needs a 'role' of system, user, assistant or tool")
        return plain_message(value)
    raise ConfigurationError(f"a message is a dict or a Message, not {type(value).__name__}")


def _tools(value: Iterable[Any] | None) -> tuple[ToolSpec | Mapping[str, Any], ...]:
    if value is not None and (isinstance(value, (str, Mapping)) or not isinstance(value, Iterable)):
        raise ConfigurationError(f"tools is a list of tools, not {type(value).__name__}")
    return tuple(_as_spec(item) for item in value or ())


def _as_spec(item: Any) -> ToolSpec | Mapping[str, Any]:
    spec = getattr(item, "spec", item)
    if isinstance(spec, (ToolSpec, Mapping)):
        return spec if isinstance(spec, ToolSpec) else plain(spec, "a tool")
    raise ConfigurationError(f"a tool is a ToolSpec, a dict or a @tool function, not {type(item).__name__}")


def _messages(value: Iterable[Any] | None) -> tuple[Message | Mapping[str, Any], ...]:
    if isinstance(value, (str, Mapping)) or (value is not None and not isinstance(value, Iterable)):
        raise ConfigurationError("messages is a list of messages; a single question goes into prompt")
    return tuple(_as_message(message) for message in (() if value is None else value))


def _each(value: Any) -> Iterable[Any]:
    # One image or clip is what a person gives who has one; text, bytes and files would else be walked through.
    alone = isinstance(value, (bytes, bytearray, memoryview, Mapping)) or hasattr(value, "read")
    return value if isinstance(value, Iterable) and not alone and text_of(value) is None else [value]


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and not value)


def _images(value: Any) -> tuple[Image, ...]:
    if _is_nothing(value):
        return ()
    # Most requests have none: media.py loads with the first.
    from .media import Image

    return tuple(Image.of(item) for item in _each(value))


def _audio(value: Any) -> tuple[Audio, ...]:
    if _is_nothing(value):
        return ()
    from .media import Audio

    return tuple(Audio.of(item) for item in _each(value))


def _not_a_class(_request: ChatRequest, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, type):
        raise ConfigurationError(f"{field.name} is JSON, as a dict; the class {value.__name__} goes into response_type")


def _known_mode(_request: ChatRequest, _field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and value not in SCHEMA_WAYS:
        raise ConfigurationError(f"response_mode is one of {', '.join(SCHEMA_WAYS)}, not {value!r}")


def _prompt_by_place(_class: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    # Before attrs 25.4 a field of a keyword-only class is keyword-only whatever it says itself.
    return [field.evolve(kw_only=field.name != "prompt") for field in fields]


@attrs.frozen(kw_only=True, field_transformer=_prompt_by_place)
class ChatRequest:
    """What to ask, and how. Only what is set is sent.

    Either ``prompt`` (with ``system``, ``images`` and ``audio`` at will) or ``messages`` says what to ask; with both,
    ``system`` goes first and ``prompt`` last. Text, numbers and flags may be of other libraries' types: Django's
    SafeString and lazy translations, Markup, NumPy's and pandas' scalars, Decimal, enums.

    Args:
        prompt: the user's message.
        system: instructions, sent as the first message where not empty.
        images: one or several, as ``Image.of`` takes them: URLs as strings, or ``pathlib.Path``, bytes, binary files,
            Pillow images, Matplotlib figures; sent after the text, in order.
        audio: one or several clips, as ``Audio.of`` takes them; sent after the images, in order.
        messages: OpenAI-style dicts, or ``Message`` values.
        model: the model's name; the client's own where it is None.
        tools: what the model may call.
        max_tokens: most tokens of output, reasoning included.
        reasoning: True or False turns thinking on or off where the server can.
        response_schema: a JSON Schema that the answer is to follow, sent as ``response_format`` named ``output``.
        strict: whether the server is to enforce ``response_schema`` to the letter.
        response_format: sent as it is, in place of ``response_schema``.
        response_mode: how a schema is asked for, where it is to be another way than the server's dialect says:
            ``"json_schema"``, ``"tool"``, ``"json_object"`` or ``"prompt"``.
        choice: what the answer's ``text`` may be, one of these. With ``logprobs=True`` the answer has
            ``choice_probabilities``.
        regex: a regular expression that all of the answer's ``text`` matches, as a string or ``re.compile`` made it.
        grammar: a grammar that the answer follows, in the server's own notation; it is not checked here.
        extra_body: merged into the body last; extra_headers and extra_query into the request.
    """

    prompt: str | None = attrs.field(default=None, kw_only=False)
    system: str | None = None
    images: tuple[Image, ...] = attrs.field(default=(), converter=_images)
    audio: tuple[Audio, ...] = attrs.field(default=(), converter=_audio)
    messages: tuple[Message | Mapping[str, Any], ...] = attrs.field(default=(), converter=_messages)
    model: str | None = None
    tools: tuple[ToolSpec | Mapping[str, Any], ...] = attrs.field(default=(), converter=_tools)
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = attrs.field(default=(), converter=_strings)
    reasoning: bool | None = None
    reasoning_effort: str | None = None
    response_schema: Mapping[str, Any] | None = attrs.field(default=None, validator=_not_a_class)
    strict: bool = False
    response_format: Mapping[str, Any] | None = attrs.field(default=None, validator=_not_a_class)
    response_mode: SchemaAs | None = attrs.field(default=None, validator=_known_mode)
    choice: tuple[str, ...] = attrs.field(default=(), converter=choices_of)
    regex: str | None = attrs.field(default=None, converter=pattern_of)
    grammar: str | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    user: str | None = None
    metadata: Mapping[str, str] | None = None
    extra_body: Mapping[str, Any] = attrs.field(factory=dict)
    extra_headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    extra_query: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        _OF_A_REQUEST(self)
        if self.choice or self.regex is not None or self.grammar is not None:
            _one_constraint(self)

    @property
    def constrained(self) -> bool:
        """Whether ``choice``, ``regex`` or ``grammar`` says what the answer may be."""
        return bool(self.choice) or self.regex is not None or self.grammar is not None


def _one_constraint(request: ChatRequest) -> None:
    names = ("choice", "regex", "grammar", "response_schema", "response_format")
    given = [name for name in names if getattr(request, name) not in (None, ())]
    if len(given) > 1:
        raise ConfigurationError(f"an answer follows one thing only: {' and '.join(given)} cannot be combined")


_OF_A_REQUEST = PlainFields(
    {
        **dict.fromkeys(("prompt", "system", "grammar"), text),
        **dict.fromkeys(("model", "user", "reasoning_effort"), label),
        **dict.fromkeys(("max_tokens", "top_k", "seed", "top_logprobs", "n"), whole),
        **dict.fromkeys(("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"), number),
        **dict.fromkeys(("reasoning", "strict", "logprobs", "parallel_tool_calls"), plain),
        **dict.fromkeys(("tool_choice", "response_schema", "response_format"), plain),
        **dict.fromkeys(("logit_bias", "metadata", "extra_body", "extra_query"), plain),
    }
)

NO_MODEL = "no model: give model= here or to the client (Client.from_env() takes it from OPENAI_MODEL)"

_SENT_OTHERWISE = {
    *("prompt", "system", "images", "audio", "messages", "model", "tools", "stop"),
    *("reasoning", "response_schema", "strict", "response_format", "response_mode", "choice", "regex", "grammar"),
    *("extra_body", "extra_headers", "extra_query"),
}
_SENT_AS_IS = [field.name for field in attrs.fields(ChatRequest) if field.name not in _SENT_OTHERWISE]


def build_messages(request: ChatRequest, *, origin: str | None = None, echo: Echo = NO_ECHO) -> list[dict[str, Any]]:
    """The ``messages`` of a request: system first, then the history, then the prompt with its images and audio.

    Args:
        origin: the server they go to; what another one wants echoed is left out.
        echo: what that server wants back of its own answers: its ``Dialect.echo``.

    Raises:
        ConfigurationError: nothing to ask, or images or audio without a prompt.
    """
    return echoed(request_messages(request), origin, echo)


def request_messages(request: ChatRequest) -> list[Message | Mapping[str, Any]]:
    """The same as values, not yet in any server's form.

    Raises:
        ConfigurationError: nothing to ask, or images or audio without a prompt.
    """
    messages: list[Message | Mapping[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    messages.extend(request.messages)
    media: tuple[Image | Audio, ...] = (*request.images, *request.audio)
    if request.prompt is not None and (request.prompt or media or not request.messages):
        messages.append({"role": "user", "content": _user_content(request.prompt, media)})
    elif media:
        kind = "images" if request.images else "audio clips"
        raise ConfigurationError(f"{kind} need a prompt beside them; in messages, put them into the content")
    if not request.messages and not request.prompt and not media:
        raise ConfigurationError("nothing to ask: give a prompt or messages")
    return messages


def _user_content(prompt: str, media: tuple[Image | Audio, ...]) -> str | list[dict[str, Any]]:
    if not media:
        return prompt
    return [{"type": "text", "text": prompt}, *(part.to_wire() for part in media)]


def tools_json(tools: Iterable[ToolSpec | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ``tools`` of a body."""
    return [tool.to_wire() if isinstance(tool, ToolSpec) else dict(tool) for tool in tools]


def build_body(
    request: ChatRequest, *, origin: str | None = None, echo: Echo = NO_ECHO, constraints: Constraints = DEFAULT
) -> dict[str, Any]:
    """The body of a chat request that is not streamed.

    Args:
        origin, echo: as for ``build_messages``.
        constraints: how the server takes ``choice``, ``regex`` and ``grammar``: its ``Dialect.constraints``.

    Raises:
        ConfigurationError: no model, nothing to ask, or what this server cannot be asked for.
    """
    if not request.model:
        raise ConfigurationError(NO_MODEL)
    messages = build_messages(request, origin=origin, echo=echo)
    body: dict[str, Any] = {"model": request.model, "messages": messages, "stream": False}
    if request.tools:
        body["tools"] = tools_json(request.tools)
    for name in _SENT_AS_IS:
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.reasoning is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.reasoning}
    if request.response_format is not None:
        body["response_format"] = request.response_format
    elif request.response_schema is not None:
        schema = {"name": "output", "schema": request.response_schema, "strict": request.strict}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.constrained:
        body.update(constrained_fields(request.choice, request.regex, request.grammar, constraints))
    if request.logprobs and request.top_logprobs is None and (request.choice or names_choices(request.response_schema)):
        # An unlikely choice is among many likely tokens only, and one that is not has no probability.
        body["top_logprobs"] = constraints.top_logprobs
    if request.response_mode == "tool" and request.tools:
        raise ConfigurationError("response_mode='tool' cannot be used beside tools")
    body.update(request.extra_body)
    return body


def build_streaming_body(
    request: ChatRequest, *, origin: str | None = None, echo: Echo = NO_ECHO, constraints: Constraints = DEFAULT
) -> dict[str, Any]:
    """The same body with ``stream: true`` and a wish for usage at the end."""
    body = build_body(request, origin=origin, echo=echo, constraints=constraints)
    body["stream"] = True
    body.setdefault("stream_options", {"include_usage": True})
    return body
