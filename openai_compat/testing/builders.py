"""What a fake server is to say, written as a test would say it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._json import encode_json
from ..errors import ConfigurationError
from ..schema.json_value import to_json_value
from ..wire.messages import ToolCall, Usage
from .answers import Answer, Step, words
from .replies import Fault, FaultKind, RawReply, Vectors

_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def answer(
    content: Any = "",
    *,
    tool_calls: Iterable[ToolCall] = (),
    reasoning: str = "",
    refusal: str = "",
    usage: Usage | None = None,
    finish_reason: str | None = None,
    model: str = "",
    headers: Mapping[str, str] | None = None,
    chunk_size: int | None = None,
    pause: float = 0.0,
    logprobs: Iterable[Mapping[str, float]] = (),
) -> Answer:
    """An answer, streamed or not as the request wants it.

    Args:
        content: its text; anything else is written as JSON, for structured output.
        tool_calls: made with ``tool_call``.
        usage: None for a count of words.
        finish_reason: None for ``"tool_calls"`` where it calls, else ``"stop"``.
        model: empty for the one that was asked for.
        headers: beside those that every reply has.
        chunk_size: characters in each chunk of a stream; None for a word in each.
        pause: seconds between two chunks.
        logprobs: of each token of the text, for requests that want them: the token itself first, then what could have
            stood there: ``answer("yes", logprobs=[{"yes": -0.2, "no": -1.7}])``. By default each is certain.

    Raises:
        ConfigurationError: the tokens of ``logprobs`` are not the text.
    """
    text = content if isinstance(content, str) else encode_json(to_json_value(content)).decode()
    pieces: Iterable[Step] = words(text, chunk_size)
    tokens = tuple(logprobs)
    if tokens:
        pieces = [next(iter(token), "") for token in tokens]
        if "".join(map(str, pieces)) != text or not all(pieces):
            raise ConfigurationError(f"logprobs are of the tokens of the text {text!r}, not of {pieces}")
    if pause:
        pieces = itertools.islice(itertools.chain.from_iterable((pause, piece) for piece in pieces), 1, None)
    return Answer(
        steps=tuple(pieces),
        tool_calls=tuple(tool_calls),
        reasoning=reasoning,
        refusal=refusal,
        usage=usage,
        finish_reason=finish_reason,
        model=model,
        headers=headers or {},
        logprobs=tokens,
    )


def stream_of(
    *steps: Step,
    tool_calls: Iterable[ToolCall] = (),
    reasoning: str = "",
    usage: Usage | None = None,
    finish_reason: str | None = None,
    headers: Mapping[str, str] | None = None,
    done: bool = True,
) -> Answer:
    """An answer whose stream has these chunks: ``stream_of("Hel", 0.5, "lo", fault("reset"))``.

    Args:
        steps: a string is a piece of the text, a number so many seconds of silence, a ``threading.Event`` silence until
            it is set, a ``Fault`` what goes wrong there.
        done: whether ``[DONE]`` ends the stream.
    """
    return Answer(
        steps=steps,
        tool_calls=tuple(tool_calls),
        reasoning=reasoning,
        usage=usage,
        finish_reason=finish_reason,
        headers=headers or {},
        done=done,
    )


def tool_call(
    name: str, arguments: Mapping[str, Any] | str | None = None, /, *, id: str = "", **named: Any
) -> ToolCall:
    """A call that a model asks for: ``tool_call("weather", city="Oslo")``.

    Args:
        arguments: as a dict where a name of one is taken here; a string is sent as it is, also where it is no JSON.
        id: empty for one that no other call has.
    """
    if isinstance(arguments, str):
        return ToolCall(id=id, name=name, arguments_json=arguments)
    given = {**(arguments or {}), **named}
    return ToolCall(id=id, name=name, arguments=given, arguments_json=encode_json(to_json_value(given)).decode())


def error(
    status: int,
    message: str = "",
    *,
    code: str | None = None,
    type: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawReply:
    """An HTTP error with the body that OpenAI gives it.

    Args:
        retry_after: seconds, for the header of this name.
    """
    known_type, known_code = _TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    said = {"message": message or f"a scripted error, HTTP {status}", "type": type or known_type}
    wait = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    return RawReply(
        status=status,
        body=encode_json({"error": {**said, "param": param, "code": code or known_code}}),
        headers={"content-type": "application/json", **wait, **(headers or {})},
    )


def raw_reply(body: Any = b"", *, status: int = 200, headers: Mapping[str, str] | None = None) -> RawReply:
    """A reply as it is: bytes, text, or a value that is sent as JSON."""
    if isinstance(body, (bytes, str)):
        return RawReply(status=status, body=body.encode() if isinstance(body, str) else body, headers=headers or {})
    headers = {"content-type": "application/json", **(headers or {})}
    return RawReply(status=status, body=encode_json(to_json_value(body)), headers=headers)


def fault(kind: FaultKind) -> Fault:
    """What goes wrong in place of a reply, or in the middle of a stream.

    - ``"reset"``: the connection is reset.
    - ``"cut"``: it is closed; in a stream, before the body is over.
    - ``"stall"``: nothing more comes until the client leaves.
    - ``"garbage"``: bytes that are no HTTP; in a stream, an event that is no JSON, and the stream goes on.
    """
    return Fault(kind)


def vectors(*each: Sequence[float]) -> Vectors:
    """The vectors of an embeddings reply, one for each input."""
    return Vectors(each)
