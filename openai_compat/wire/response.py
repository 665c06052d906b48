"""Answers and stream events as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import attrs

from .._rich_display import RichDisplay
from ..errors import OpenAICompatError
from .messages import Message, ToolCall, Usage
from .prices import Charge, Price, cost_of
from .retry import Attempt, rate_limits

if TYPE_CHECKING:
    from .answer_media import Annotation, AnswerAudio, AudioDelta
    from .media import Image

UNKNOWN = "unknown"
"""The finish reason of an answer whose server gave none."""
_ENDED = frozenset(
    {"complete", "completed", "end_turn", "eos", "eos_token", "finished", "function_call", "stop", "stop_sequence"}
    | {"stop_token", "tool_call", "tool_calls", "tool_use"}
)
_PLAIN_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "thinking")


def ended_by_itself(finish_reason: str) -> bool:
    """Whether the model came to its end, and nothing cut it short."""
    return finish_reason.strip().lower() in _ENDED


class CallInfo(NamedTuple):
    """Which call an event or an answer belongs to.

    ``model`` is the one asked for; ``origin`` names the server, so that what it wants echoed goes to no other;
    ``price`` is the user's own for the model.
    """

    call_id: str = ""
    provider: str = ""
    model: str = ""
    origin: str = ""
    price: Price | None = None

    def charge(self, usage: Usage | None, model: str = "", tier: Any = "") -> Charge:
        """The tokens of its answer, which ``model`` gave, and how they are paid."""
        tier = tier if isinstance(tier, str) else ""
        return Charge(usage, model or self.model, self.model, self.provider, self.origin, self.price, tier)


class ReplyInfo(NamedTuple):
    """What an answer says of the HTTP reply that brought it: header names are lower-case, times in milliseconds."""

    request_id: str | None = None
    headers: Mapping[str, str] | None = None
    url: str = ""
    latency_ms: float = 0.0
    first_token_ms: float | None = None


@attrs.frozen(kw_only=True)
class Choice:
    """One of the answers to a request; there is more than one only where ``n`` asked for them.

    ``parts`` is the content in its order where it is more than text, ``extra`` what came beside it and a later turn
    may have to echo, ``fields`` what the server says of this choice (``native_finish_reason``, ``stop_reason``, ...).
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = UNKNOWN
    logprobs: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    parts: tuple[Mapping[str, Any], ...] = attrs.field(default=(), repr=False)
    fields: Mapping[str, Any] = attrs.field(factory=dict, eq=False)

    @property
    def empty(self) -> bool:
        """Neither text nor a call, a refusal, speech, a picture or any other part."""
        return not (
            self.text.strip() or self.tool_calls or self.refusal or self.parts or self.audio or self.extra.get("images")
        )

    @property
    def audio(self) -> AnswerAudio | None:
        """What the model spoke."""
        if "audio" not in self.extra:
            return None
        from .answer_media import AnswerAudio

        return AnswerAudio.from_wire(self.extra["audio"])

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures that the model made, in their order."""
        if not self.parts and "images" not in self.extra:
            return ()
        from .answer_media import images_of

        return images_of(self.parts) + images_of(self.extra.get("images"))

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """Sources and other remarks on the text."""
        if "annotations" not in self.extra:
            return ()
        from .answer_media import annotations_of

        return annotations_of(self.extra["annotations"])


@attrs.frozen(kw_only=True)
class ChatResponse(RichDisplay):
    """The answer to a chat call, streamed or not.

    ``latency_ms`` is the time from the call to the whole answer, ``first_token_ms`` to its first piece (None where it
    was not streamed). ``attempts`` is what was sent for it, the last one with success. ``truncated`` marks an answer
    that is not known to be whole: its stream ended cleanly but said neither ``finish_reason`` nor ``[DONE]``, or
    ``skipped_events`` of it could not be read. ``raw`` is the body as decoded; of a stream, the fields beside its
    choices. ``charges`` are the tokens of each reply that the answer took, and how they are paid.
    ``choice_probabilities`` says how likely each choice was, where one of several was asked for with
    ``logprobs=True`` and the server gave them.
    """

    choices: tuple[Choice, ...] = ()
    model: str = ""
    provider: str = ""
    usage: Usage | None = None
    latency_ms: float = attrs.field(default=0.0, eq=False)
    first_token_ms: float | None = attrs.field(default=None, eq=False, repr=False)
    truncated: bool = False
    skipped_events: int = attrs.field(default=0, repr=False)
    request_id: str | None = attrs.field(default=None, eq=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False)
    origin: str = attrs.field(default="", eq=False, repr=False)
    attempts: tuple[Attempt, ...] = attrs.field(default=(), eq=False, repr=False)
    charges: tuple[Charge, ...] = attrs.field(default=(), eq=False, repr=False)
    choice_probabilities: Mapping[Any, float] | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def _first(self) -> Choice:
        return self.choices[0] if self.choices else Choice()

    @property
    def text(self) -> str:
        """The answer, without reasoning."""
        return self._first.text

    @property
    def reasoning(self) -> str:
        """What the model thought aloud, from a field of its own or from ``<think>`` spans."""
        return self._first.reasoning

    @property
    def refusal(self) -> str:
        """Why the model refuses, or the empty string."""
        return self._first.refusal

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model asks for."""
        return self._first.tool_calls

    @property
    def audio(self) -> AnswerAudio | None:
        """What the model spoke; ``save(path)`` writes it."""
        return self._first.audio

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures that the model made; ``save(path)`` writes one."""
        return self._first.images

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """Sources and other remarks on the text."""
        return self._first.annotations

    @property
    def finish_reason(self) -> str:
        """Why the model stopped, in the server's own word; ``"unknown"`` if it gave none."""
        return self._first.finish_reason

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt; 0 where nothing was reported."""
        return (self.usage and self.usage.input_tokens) or 0

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer, reasoning included; 0 where nothing was reported."""
        return (self.usage and self.usage.output_tokens) or 0

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens for each second after the first piece, else of the whole call; None without a count."""
        seconds = (self.latency_ms - (self.first_token_ms or 0.0)) / 1000
        return self.output_tokens / seconds if self.output_tokens and seconds > 0 else None

    @property
    def cost(self) -> float | None:
        """US dollars for all replies that the answer took; None where a price or their usage is not known.

        Raises:
            UnknownPriceError: it needs the price table, and the extra ``prices`` is not installed.
        """
        return cost_of(self.charges)

    @property
    def rate_limits(self) -> dict[str, float]:
        """The ``x-ratelimit-*`` headers as numbers: ``remaining_requests``, ``reset_tokens`` (seconds), and so on."""
        return rate_limits(self.headers)

    def to_message(self) -> Message:
        """The assistant message for the next turn, with what the server wants echoed."""
        first = self._first
        extra = {
            # Plain reasoning is wanted back only with tool calls; elsewhere some servers refuse it.
            key: value
            for key, value in first.extra.items()
            if first.tool_calls or key not in _PLAIN_REASONING
        }
        # A spoken answer is sent back by its name alone.
        extra.pop("audio", None)
        if first.audio is not None and first.audio.id:
            extra["audio"] = {"id": first.audio.id}
        if first.refusal and not first.text:
            extra["refusal"] = first.refusal
        return Message(
            role="assistant",
            content=list(first.parts) or first.text,
            tool_calls=first.tool_calls,
            extra=extra,
            reasoning=first.reasoning,
            origin=self.origin,
        )


T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ParsedResponse(ChatResponse, Generic[T]):
    """The answer to a call with ``response_type``.

    ``parsed`` is the value of that type; of an answer that calls tools it is None.
    """

    parsed: T


Kind = Literal[
    "text",
    "reasoning",
    "refusal",
    "tool_call",
    "tool_call_delta",
    "tool_call_done",
    "audio",
    "image",
    "annotation",
    "usage",
    "done",
    "error",
]


@attrs.frozen(kw_only=True)
class ToolCallDelta:
    """A piece of a tool call: ``position`` among the answer's calls, and a piece of its ``arguments``."""

    position: int
    id: str
    name: str
    arguments: str = ""


@attrs.frozen
class StreamEvent:
    """One thing that a stream said.

    ``kind`` tells which; ``data`` is what came with it: a ``str`` (text, reasoning, refusal), a ``ToolCallDelta``
    (tool_call, tool_call_delta), a ``ToolCall`` (tool_call_done), an ``AudioDelta`` (audio), an ``Image`` (image), an
    ``Annotation`` (annotation), a ``Usage``, the ``ChatResponse`` (done) or an
    exception (error). ``index`` is the choice, 0 unless ``n`` asked for more.

    As a string it is its ``delta``.
    """

    kind: Kind
    data: Any = ""
    index: int = 0
    call: CallInfo = attrs.field(factory=CallInfo, repr=False)

    def __str__(self) -> str:
        return self.delta

    @property
    def delta(self) -> str:
        """A piece of the first choice's text, and nothing else: safe to print as it comes."""
        return self.data if self.kind == "text" and not self.index else ""

    @property
    def reasoning(self) -> str:
        """A piece of the first choice's reasoning."""
        return self.data if self.kind == "reasoning" and not self.index else ""

    @property
    def refusal(self) -> str:
        """A piece of the first choice's refusal."""
        return self.data if self.kind == "refusal" and not self.index else ""

    @property
    def tool_call_delta(self) -> ToolCallDelta | None:
        """A call that opened, or a piece of its arguments."""
        return self.data if self.kind in ("tool_call", "tool_call_delta") else None

    @property
    def tool_call(self) -> ToolCall | None:
        """A complete call with its arguments parsed."""
        return self.data if self.kind == "tool_call_done" else None

    @property
    def audio(self) -> AudioDelta | None:
        """A piece of a spoken answer."""
        return self.data if self.kind == "audio" else None

    @property
    def image(self) -> Image | None:
        """A picture that the model made."""
        return self.data if self.kind == "image" else None

    @property
    def annotation(self) -> Annotation | None:
        """A source, or another remark on the text."""
        return self.data if self.kind == "annotation" else None

    @property
    def usage(self) -> Usage | None:
        """The tokens used, once they are known."""
        return self.data if self.kind == "usage" else None

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer, on the last event of a stream that succeeded."""
        return self.data if self.kind == "done" else None

    @property
    def done(self) -> bool:
        """The last event of a stream that succeeded."""
        return self.kind == "done"

    @property
    def error(self) -> OpenAICompatError | None:
        """The exception that the call raises, on the last event of a stream that failed."""
        return self.data if self.kind == "error" else None

    @property
    def call_id(self) -> str:
        """The same for all events of a call, and for no other call."""
        return self.call.call_id

    @property
    def provider(self) -> str:
        """Who is asked."""
        return self.call.provider

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.call.model
