"""Stream payloads to events, and to the answer; a whole reply is a stream of one payload.

Fields are accumulated one by one and never merged by type: what a server repeats (role, id, name, usage) is replaced,
only text, reasoning, refusal and arguments grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import (
    APIError,
    ResponseShapeError,
    StreamInterruptedError,
    StreamServerError,
)
from .decode import as_int, as_text
from .error_body import MAX_DEPTH, ErrorDetail, find_error
from .messages import ToolCall, Usage
from .reasoning import DEFAULT_TAGS, REASONING, ReasoningSplitter
from .response import UNKNOWN, CallInfo, ChatResponse, Choice, StreamEvent

if TYPE_CHECKING:
    from .tool_calls import ToolCallAssembler

InlineThink = Literal["split", "keep"]

_CHUNK_KEYS = frozenset({"id", "object", "created", "model", "choices", "usage"})
_CHOICE_KEYS = frozenset({"index", "delta", "message", "finish_reason"})
_DELTA_KEYS = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "thinking", "refusal", "tool_calls", "function_call", "index"}
)
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


class Accumulator:
    """Takes payloads, gives events, and has the answer so far at any time.

    Args:
        call: stamped into events and the answer.
        inline_think: ``"split"`` takes ``<think>`` spans out of the text, ``"keep"`` leaves them there.
        think_opened: the span was opened in the prompt.
        think_tags: names of the tags around inline reasoning.
        make_id: makes an id for a tool call that has none; by default from the answer's own id and its position.
    """

    def __init__(
        self,
        call: CallInfo | None = None,
        *,
        inline_think: InlineThink = "split",
        think_opened: bool = False,
        think_tags: Sequence[str] = DEFAULT_TAGS,
        make_id: Callable[[], str] | None = None,
    ) -> None:
        self.call = call or CallInfo()
        self.error: ErrorDetail | None = None
        self._split = inline_think == "split"
        self._think_opened = think_opened
        self._think_tags = think_tags
        self._make_id = make_id or self._derived_id
        self._made_ids = 0
        self._choices: dict[int, _ChoiceState] = {}
        self._top: dict[str, Any] = {}
        self._headed = False
        self._model = ""
        self._usage: Any = None

    def feed(self, payload: Any) -> list[StreamEvent]:
        """The events of one payload. One that is an error sets ``error``, after its events."""
        events: list[StreamEvent] = []
        if type(payload) is not dict:
            return events
        choices = payload.get("choices")
        if not choices or "error" in payload or "base_resp" in payload:
            self.error = find_error(payload)
        if not self._model:
            self._model = as_text(payload.get("model"))
        usage = payload.get("usage")
        if usage is not None and type(usage) is dict:
            self._usage = usage
        if not self._headed:
            self._headed = True
            self._top.update((key, payload[key]) for key in ("id", "created", "object") if payload.get(key))
        if not _CHUNK_KEYS.issuperset(payload):
            self._keep_extra(payload)
        if type(choices) is list:
            for position, choice in enumerate(choices):
                if type(choice) is dict:
                    self._feed_choice(choice, position, events)
        return events

    def _keep_extra(self, payload: dict[str, Any]) -> None:
        for key, value in payload.items():
            if key not in _CHUNK_KEYS and value is not None:
                self._top[key] = value
        groq = payload.get("x_groq")
        if type(groq) is dict and type(groq.get("usage")) is dict:
            self._usage = groq["usage"]

    def _feed_choice(self, choice: dict[str, Any], position: int, events: list[StreamEvent]) -> None:
        index = choice.get("index")
        if type(index) is not int:
            index = as_int(index)
            if index is None:
                index = position
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _ChoiceState(self, index)
        delta = choice.get("delta")
        if delta and type(delta) is dict:
            state.feed(delta, events)
        elif type(message := choice.get("message")) is dict:
            state.feed(message, events, whole=True)
        reason = choice.get("finish_reason")
        if reason:
            state.finish_with(reason)
        if not _CHOICE_KEYS.issuperset(choice):
            self._feed_rare(choice, state)

    def _feed_rare(self, choice: dict[str, Any], state: _ChoiceState) -> None:
        """What stands beside index, delta and finish_reason, here and there."""
        if type(choice.get("usage")) is dict:
            self._usage = choice["usage"]
        if choice.get("logprobs"):
            state.add_logprobs(choice["logprobs"])
        if choice.get("error") and self.error is None:
            self.error = find_error({"error": choice["error"]})

    def flush(self) -> list[StreamEvent]:
        """Text that was held back as the beginning of a tag, now that nothing follows."""
        events: list[StreamEvent] = []
        for state in self._choices.values():
            state.flush(events)
        return events

    def finish(self) -> list[StreamEvent]:
        """The events that had to wait for the end: held-back text, complete tool calls, usage."""
        events = self.flush()
        for state in self._choices.values():
            for call in state.finished_calls():
                if call.name:
                    events.append(StreamEvent("tool_call_done", call, state.index, self.call))
        usage = Usage.from_wire(self._usage)
        if usage is not None:
            events.append(StreamEvent("usage", usage, 0, self.call))
        return events

    def response(
        self,
        *,
        truncated: bool = False,
        latency_ms: float = 0.0,
        first_token_ms: float | None = None,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> ChatResponse:
        """The answer, complete or so far."""
        return ChatResponse(
            choices=tuple(self._choices[index].choice() for index in sorted(self._choices)),
            model=self._model or self.call.model,
            provider=self.call.provider,
            usage=Usage.from_wire(self._usage),
            latency_ms=latency_ms,
            first_token_ms=first_token_ms,
            truncated=truncated,
            request_id=request_id,
            headers=headers or {},
            raw=_copied(self._top) if raw is None else raw,
            origin=self.call.origin,
        )

    @property
    def text_pieces(self) -> list[str]:
        """The pieces of the first choice's text so far: the list itself, which grows."""
        state = self._choices.get(0)
        return state.text_pieces if state is not None else []

    @property
    def finished(self) -> bool:
        """A ``finish_reason`` has come."""
        return any(state.finish_reason for state in self._choices.values())

    @property
    def any_content(self) -> bool:
        """Something of an answer has come: text, reasoning, a refusal or a tool call."""
        return any(state.any_content for state in self._choices.values())

    def next_id(self) -> str:
        """An id for a tool call that has none: nine letters and digits, all that Mistral takes."""
        return self._make_id()

    def _derived_id(self) -> str:
        self._made_ids += 1
        seed = f"{self._top.get('id')}/{self._top.get('created')}/{self.call.call_id}/{self._made_ids}"
        return hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:9]


def verdict(response: ChatResponse, *, complete: bool, strict: bool) -> APIError | None:
    """Why a reply that has ended is not an answer, or None where it is one.

    Args:
        complete: ``finish_reason`` or ``[DONE]`` has come, or the reply was one JSON body.
        strict: what is not complete is an error even where it has content.
    """
    if strict and not complete:
        return StreamInterruptedError(
            "the stream ended with neither finish_reason nor [DONE]; the text so far is in .partial",
            partial=response,
            retryable=True,
        )
    if not response.choices:
        return ResponseShapeError("the answer has no choices", partial=response)
    if response.finish_reason == "error":
        return StreamServerError(
            "the server ended the answer with finish_reason 'error' and did not say why; what came is in .partial",
            partial=response,
        )
    if any(not call.name for choice in response.choices for call in choice.tool_calls):
        return ResponseShapeError("the answer has a tool call without a name", partial=response)
    if all(choice.empty for choice in response.choices):
        return ResponseShapeError(_why_empty(response), partial=response)
    return None


def _why_empty(response: ChatResponse) -> str:
    reason = response.finish_reason
    only = "holds only reasoning" if response.reasoning else "is empty"
    what = f"the answer {only} (finish_reason: {reason!r})"
    if reason == "length":
        return f"{what}: the model hit max_tokens, likely while thinking; raise max_tokens or turn reasoning off"
    if reason in ("tool_calls", "function_call"):
        return f"{what}: it announces tool_calls but has none"
    if reason == "content_filter":
        return f"{what}: the provider's content filter withheld it"
    return what


class _ChoiceState:
    """One choice while it grows."""

    def __init__(self, owner: Accumulator, index: int) -> None:
        self.index = index
        self.finish_reason = ""
        self._make_id = owner.next_id
        self._calls: ToolCallAssembler | None = None
        self._call = owner.call
        self._splitter = ReasoningSplitter(owner._think_tags, opened=owner._think_opened) if owner._split else None
        self._content: list[str] = []
        self.text_pieces: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._extra: dict[str, Any] = {}
        self._grown: dict[str, list[str]] = {}
        self._logprobs: dict[str, Any] | None = None
        self._by_delta = False
        self._half = ""

    @property
    def calls(self) -> ToolCallAssembler:
        """Made, and its module loaded, at the first call."""
        if self._calls is None:
            from .tool_calls import ToolCallAssembler

            self._calls = ToolCallAssembler(self._make_id)
        return self._calls

    def finished_calls(self) -> tuple[ToolCall, ...]:
        return self._calls.finish() if self._calls is not None else ()

    @property
    def any_content(self) -> bool:
        return bool(self.text_pieces or self._reasoning or self._refusal or self._calls)

    def feed(self, delta: dict[str, Any], events: list[StreamEvent], *, whole: bool = False) -> None:
        if whole and self._by_delta:
            delta = self._news_in(delta)
        self._by_delta = self._by_delta or not whole
        content = delta.get("content")
        if len(delta) > (content is not None):
            self._feed_rest(delta, events, whole=whole)
        if content:
            if type(content) is not str:
                self._feed_parts(content, events)
            else:
                self._content.append(content)
                self._add_text(content, events)

    def _news_in(self, message: dict[str, Any]) -> dict[str, Any]:
        """Of a whole message after its own deltas, what they did not bring."""
        said: dict[str, bool] = {
            "refusal": bool(self._refusal),
            "tool_calls": bool(self._calls),
            "function_call": bool(self._calls),
            "reasoning_details": "reasoning_details" in self._extra,
            **dict.fromkeys(_REASONING_KEYS, bool(self._reasoning)),
        }
        news = {key: value for key, value in message.items() if not said.get(key)}
        if type(content := message.get("content")) is str:
            news["content"] = content.removeprefix("".join(self._content))
        elif self.text_pieces:
            news.pop("content", None)
        return news

    def _feed_rest(self, delta: dict[str, Any], events: list[StreamEvent], *, whole: bool) -> None:
        shown = False
        for key in _REASONING_KEYS:
            value = delta.get(key)
            if not value:
                continue
            piece = _plain_text(value)
            self._grown.setdefault(key, []).append(piece)
            if not shown:
                self._add_reasoning(piece, events)
                shown = True
        details = delta.get("reasoning_details")
        if type(details) is list:
            text = self._merge_details(details)
            if not shown:
                self._add_reasoning(text, events)
        refusal = delta.get("refusal")
        if type(refusal) is str:
            self._add_refusal(refusal, events)
        if calls := delta.get("tool_calls"):
            for kind, progress in self.calls.feed(calls, whole=whole):
                events.append(StreamEvent(kind, progress, self.index, self._call))
        if legacy := delta.get("function_call"):
            self.calls.feed_legacy(legacy)
        if not _DELTA_KEYS.issuperset(delta):
            for key, value in delta.items():
                if key not in _DELTA_KEYS and key != "reasoning_details" and value is not None:
                    self._extra[key] = value

    def _feed_parts(self, content: Any, events: list[StreamEvent]) -> None:
        """Content as a list of parts (Mistral's thinking among them), or as anything else that has text."""
        for part in content if type(content) is list else [content]:
            if type(part) is dict and part.get("type") in ("thinking", "reasoning"):
                self._add_reasoning(_plain_text(part.get("thinking") or part.get("text") or ""), events)
            elif type(part) is dict and part.get("type") == "refusal":
                self._add_refusal(_plain_text(part.get("refusal") or ""), events)
            else:
                self._add_text(_plain_text(part), events)

    def _add_text(self, piece: str, events: list[StreamEvent]) -> None:
        if self._half or "\ud7ff" < piece[-1:] < "\udc00":
            piece = self._with_half(piece)
        splitter = self._splitter
        if splitter is not None and not splitter.passes(piece):
            self._add_split(splitter.feed(piece), events)
        elif piece:
            self.text_pieces.append(piece)
            events.append(StreamEvent("text", piece, self.index, self._call))

    def _with_half(self, piece: str) -> str:
        """A piece whose characters are whole: some servers cut an emoji into its surrogates, one a delta."""
        piece = self._half + piece
        self._half = ""
        if "\ud7ff" < piece[-1:] < "\udc00":
            piece, self._half = piece[:-1], piece[-1]
        return piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _add_split(self, pieces: list[tuple[str, str]], events: list[StreamEvent]) -> None:
        for kind, piece in pieces:
            if kind is REASONING:
                self._add_reasoning(piece, events)
            else:
                self.text_pieces.append(piece)
                events.append(StreamEvent("text", piece, self.index, self._call))

    def _add_reasoning(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            self._reasoning.append(piece)
            events.append(StreamEvent("reasoning", piece, self.index, self._call))

    def _add_refusal(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            self._refusal.append(piece)
            events.append(StreamEvent("refusal", piece, self.index, self._call))

    def _merge_details(self, details: list[Any]) -> str:
        """OpenRouter's ``reasoning_details``: pieces of one entry are joined, entries are kept as they came."""
        kept: list[Any] = self._extra.setdefault("reasoning_details", [])
        text = ""
        for detail in details:
            if type(detail) is not dict:
                continue
            text += as_text(detail.get("text")) or as_text(detail.get("summary"))
            last = kept[-1] if kept else None
            same = last is not None and all(last.get(key) == detail.get(key) for key in ("type", "index"))
            if last is not None and same and detail.get("index") is not None:
                for key, value in detail.items():
                    grows = key in ("text", "summary", "data") and type(value) is str
                    if value is not None:
                        last[key] = as_text(last.get(key)) + value if grows else value
            else:
                kept.append(dict(detail))
        return text

    def finish_with(self, reason: Any) -> None:
        if type(reason) is dict:
            reason = reason.get("type")
        if type(reason) is str and reason != "null":
            self.finish_reason = reason

    def add_logprobs(self, logprobs: Any) -> None:
        if type(logprobs) is not dict:
            return
        if self._logprobs is None:
            self._logprobs = {}
        for key, value in logprobs.items():
            if type(value) is list and type(self._logprobs.get(key)) is list:
                self._logprobs[key].extend(value)
            elif value is not None:
                self._logprobs[key] = list(value) if type(value) is list else value

    def flush(self, events: list[StreamEvent]) -> None:
        if self._half:
            self._half = ""
            self._add_text("\ufffd", events)
        if self._splitter is not None:
            self._add_split(self._splitter.finish(), events)

    def choice(self) -> Choice:
        return Choice(
            index=self.index,
            text="".join(self.text_pieces),
            reasoning="".join(self._reasoning),
            refusal="".join(self._refusal),
            tool_calls=self.finished_calls(),
            finish_reason=self.finish_reason or UNKNOWN,
            # Copies, so that an answer so far stays as it was while more arrives.
            logprobs=None if self._logprobs is None else _copied(self._logprobs),
            extra={**{key: "".join(pieces) for key, pieces in self._grown.items()}, **_copied(self._extra)},
        )


def _copied(fields: dict[str, Any]) -> dict[str, Any]:
    """A copy down to the entries of lists, which is as deep as anything here grows."""

    def copied(value: Any) -> Any:
        if type(value) is list:
            return [dict(item) if type(item) is dict else item for item in value]
        return value

    return {key: copied(value) for key, value in fields.items()}


def _plain_text(value: Any, depth: int = 0) -> str:
    """The text in a string, a text part, or a list of them."""
    if isinstance(value, str):
        return value
    if depth > MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "".join(_plain_text(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return _plain_text(value.get("text") or value.get("content") or "", depth + 1)
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
