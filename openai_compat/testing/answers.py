"""An answer of a model, as Chat Completions has it: one body, or the chunks of a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import attrs

from .._json import encode_json
from ..errors import ConfigurationError
from ..wire.messages import CUSTOM, ToolCall, Usage
from ..wire.parse import parse_response, parse_stream
from ..wire.response import ChatResponse, StreamEvent
from .replies import Fault

Step = str | float | threading.Event | Fault
"""Of a stream: a piece of the text, seconds of silence, silence until an event is set, or what goes wrong there."""
SentStep = bytes | float | threading.Event | Fault

ARGUMENTS_PIECE = 8
"""Characters of a call's arguments that come in one chunk."""


class Frame(NamedTuple):
    """What the request and the server put around an answer."""

    number: int = 1
    model: str = "fake-model"
    created: int = 1_700_000_000
    n: int = 1
    include_usage: bool = True
    prompt_tokens: int = 1
    top_logprobs: int | None = None
    """How many the request wants of each token; None for no logprobs."""


@attrs.frozen(kw_only=True)
class Answer:
    """What a model says, for a fake server to send, or as bytes and values: ``answer`` and ``stream_of`` make one.

    Args:
        steps: the text in the pieces that a stream has, with what happens between them.
        tool_calls: those without an id are given one.
        usage: None for a count of words and pieces.
        finish_reason: None for ``"tool_calls"`` or ``"stop"``.
        model: empty for the one that was asked for.
        headers: beside those that every reply has.
        done: whether a stream ends with ``[DONE]``.
        logprobs: of each piece of the text: itself, and what could have stood there; empty where each was certain.
    """

    steps: tuple[Step, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    done: bool = True
    logprobs: tuple[Mapping[str, float], ...] = ()

    def __attrs_post_init__(self) -> None:
        steps: Iterable[object] = self.steps
        for step in steps:
            if not isinstance(step, (str, int, float, threading.Event, Fault)):
                kind = type(step).__name__
                raise ConfigurationError(f"a step of a stream is text, seconds, an Event or a fault, not {kind}")

    def __str__(self) -> str:
        calls = ", ".join(f"{call.name}({call.arguments_json})" for call in self.tool_calls)
        return f"answer {self.refusal or self.text!r}" if not calls else f"answer that calls {calls}"

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(step for step in self.steps if isinstance(step, str))

    @property
    def pieces(self) -> tuple[str, ...]:
        """Its text, as a stream has it."""
        return tuple(step for step in self.steps if isinstance(step, str) and step)

    @property
    def body(self) -> bytes:
        """The body of a reply that is not streamed."""
        return encode_json(completion(self, Frame()))

    @property
    def chunks(self) -> tuple[bytes, ...]:
        """The events of a streamed reply, ``data: [DONE]`` included; pauses are left out, and faults."""
        return tuple(step for step in chunk_steps(self, Frame()) if isinstance(step, bytes))

    @property
    def stream(self) -> bytes:
        """The body of a streamed reply."""
        return b"".join(self.chunks)

    @property
    def response(self) -> ChatResponse:
        """The value that ``Client.chat`` returns for it."""
        return parse_response(self.body)

    @property
    def events(self) -> tuple[StreamEvent, ...]:
        """The events that ``Client.stream`` gives for it."""
        events: list[StreamEvent] = []
        parse_stream(self.chunks, events.append)
        return tuple(events)


def completion(said: Answer, frame: Frame) -> dict[str, Any]:
    """The body of a reply that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": _content(said), "refusal": said.refusal or None}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tool_calls:
        message["tool_calls"] = _calls(said, frame)
    finish_reason = _finish_reason(said)
    logprobs = _logprobs(said, frame, range(len(said.pieces)))
    return {
        **_envelope(said, frame, "chat.completion"),
        "choices": [
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
            for index in range(frame.n)
        ],
        "usage": _usage(said, frame),
    }


def chunk_steps(said: Answer, frame: Frame) -> Iterator[SentStep]:
    """A streamed reply: each chunk as its event, and what happens between them."""
    envelope = _envelope(said, frame, "chat.completion.chunk")
    usage = {"usage": None} if frame.include_usage else {}

    def chunks(delta: Mapping[str, Any], finish_reason: str | None = None, logprobs: Any = None) -> Iterator[bytes]:
        for index in range(frame.n):
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            yield _event({**envelope, "choices": [choice], **usage})

    yield from chunks({"role": "assistant", "content": _content(said) and "", "refusal": None})
    for piece in words(said.reasoning):
        yield from chunks({"reasoning_content": piece})
    place = 0
    for step in said.steps:
        if not isinstance(step, str):
            yield step
        elif step:
            yield from chunks({"content": step}, logprobs=_logprobs(said, frame, range(place, place + 1)))
            place += 1
    for piece in words(said.refusal):
        yield from chunks({"refusal": piece})
    for delta in _call_deltas(_calls(said, frame)):
        yield from chunks({"tool_calls": [delta]})
    yield from chunks({}, _finish_reason(said))
    if frame.include_usage:
        yield _event({**envelope, "choices": [], "usage": _usage(said, frame)})
    if said.done:
        yield b"data: [DONE]\n\n"


def words(text: str, size: int | None = None) -> list[str]:
    """A text in pieces: its words, each with the space in front of it; or ``size`` characters each."""
    if size is not None:
        return [text[start : start + size] for start in range(0, len(text), size)]
    pieces: list[str] = []
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or (text[at].isspace() and not text[at - 1].isspace()):
            pieces.append(text[start:at])
            start = at
    return pieces


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode_json(chunk)


def _envelope(said: Answer, frame: Frame, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-fake{frame.number}",
        "object": kind,
        "created": frame.created,
        "model": said.model or frame.model,
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }


def _content(said: Answer) -> str | None:
    return said.text or (None if said.tool_calls or said.refusal else "")


def _finish_reason(said: Answer) -> str:
    return said.finish_reason or ("tool_calls" if said.tool_calls else "stop")


def _calls(said: Answer, frame: Frame) -> list[dict[str, Any]]:
    calls = []
    for place, call in enumerate(said.tool_calls, 1):
        custom = call.type == CUSTOM
        # Not ``to_wire``, which mends arguments that are no JSON.
        inner = {"name": call.name, "input" if custom else "arguments": call.arguments_json}
        call_id = call.id or f"call_fake{frame.number}n{place}"
        calls.append({"id": call_id, "type": call.type, CUSTOM if custom else "function": inner})
    return calls


def _call_deltas(calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(calls):
        kind = CUSTOM if CUSTOM in call else "function"
        grows = "input" if kind == CUSTOM else "arguments"
        yield {"index": index, **call, kind: {**call[kind], grows: ""}}
        for piece in words(call[kind][grows], ARGUMENTS_PIECE):
            yield {"index": index, kind: {grows: piece}}


def _logprobs(said: Answer, frame: Frame, places: Iterable[int]) -> dict[str, Any] | None:
    """Those of some of its pieces, if the request wants them."""
    if frame.top_logprobs is None:
        return None
    tokens = said.logprobs or [{piece: 0.0} for piece in said.pieces]
    content = []
    for place in places:
        likely = sorted(tokens[place].items(), key=lambda token: -token[1])
        top = [_logprob(*token) for token in likely[: frame.top_logprobs]]
        content.append({**_logprob(*next(iter(tokens[place].items()))), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _usage(said: Answer, frame: Frame) -> dict[str, Any]:
    counted = said.usage or Usage()
    thought = len(words(said.reasoning))
    written = [said.text, said.refusal, *(call.arguments_json for call in said.tool_calls)]
    reasoning = thought if counted.reasoning_tokens is None else counted.reasoning_tokens
    put_in = frame.prompt_tokens if counted.input_tokens is None else counted.input_tokens
    put_out = reasoning + sum(len(words(text)) for text in written)
    if counted.output_tokens is not None:
        put_out = counted.output_tokens
    total = put_in + put_out if counted.total_tokens is None else counted.total_tokens
    return {
        "prompt_tokens": put_in,
        "completion_tokens": put_out,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens or 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
