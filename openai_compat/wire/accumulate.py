"""Stream payloads to events, and to the answer; a whole reply is a stream of one payload.

What stands beside the choices is kept here; each choice grows by itself, as ``choice_state`` has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from .._json import as_int, as_text
from ..errors import StreamError
from .choice_state import ChoiceState, copied_fields
from .error_body import ErrorDetail, find_error
from .messages import Usage, merged_usage
from .reasoning import ThinkOptions
from .response import CallInfo, ChatResponse, ReplyInfo, StreamEvent

MAX_CHOICES = 1000
"""Choices of one answer; OpenAI gives 128 at most."""
_CHUNK_KEYS = frozenset({"id", "object", "created", "model", "choices", "usage"})
_ERROR_KEYS = frozenset({"error", "base_resp", "x_groq"})
"""Where an error stands beside choices."""
_CHOICE_KEYS = frozenset({"index", "delta", "message", "finish_reason"})
_RARE_KEYS = _CHOICE_KEYS | {"usage", "logprobs", "error"}


class Accumulator:
    """Takes payloads, returns events, and has the answer so far at any time.

    Args:
        call: stamped into events and the answer.
        think: how inline reasoning is separated from text.
        several: more than one choice was asked for. Where it was not, whatever comes is one answer, also under other
            indexes.
        make_id: makes an id for a tool call that has none, of nine letters and digits, all that Mistral takes; by
            default from the answer's own id and its position.
    """

    def __init__(
        self,
        call: CallInfo | None = None,
        *,
        think: ThinkOptions = ThinkOptions(),  # noqa: B008 - a frozen value
        several: bool = False,
        make_id: Callable[[], str] | None = None,
    ) -> None:
        self.call: CallInfo = call or CallInfo()
        self.error: ErrorDetail | None = None
        self.skipped = 0
        self._think = think
        self._several = several
        self._make_id = make_id or self._derived_id
        self._made_ids = 0
        self._choices: dict[int, ChoiceState] = {}
        self._top: dict[str, Any] = {}
        self._headed = False
        self._model = ""
        self._usage: Any = None

    def feed(self, payload: Any) -> list[StreamEvent]:
        """The events of one payload. One that is an error sets ``error``, after its events.

        Raises:
            StreamError: the answer is larger than any that a server would give.
        """
        events: list[StreamEvent] = []
        if type(payload) is not dict:
            return events
        choices = payload.get("choices")
        if not choices or not _ERROR_KEYS.isdisjoint(payload):
            self.error = find_error(payload)
        if not self._model:
            self._model = as_text(payload.get("model"))
        usage = payload.get("usage")
        if usage is not None and type(usage) is dict:
            self._usage = merged_usage(self._usage, usage)
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

    def feed_text(self, text: str) -> list[StreamEvent]:
        """The events of a chunk that differs from an earlier one in the content of its first choice alone."""
        if not text:
            return []
        state = self._choices[0]
        if state.finish_reason:
            state.went_on = True
        return state.feed_plain_text(text)

    def _keep_extra(self, payload: dict[str, Any]) -> None:
        for key, value in payload.items():
            if key not in _CHUNK_KEYS and value is not None:
                self._top[key] = value
        groq = payload.get("x_groq")
        if type(groq) is dict and type(groq.get("usage")) is dict:
            self._usage = merged_usage(self._usage, groq["usage"])

    def _feed_choice(self, choice: dict[str, Any], position: int, events: list[StreamEvent]) -> None:
        index = self._index(choice, position) if self._several else 0
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = self._new_choice(index)
        before = len(events)
        ended = bool(state.finish_reason)
        delta = choice.get("delta")
        if delta and type(delta) is dict:
            state.feed(delta, events)
        if "message" in choice and type(message := choice["message"]) is dict and (not delta or _is_empty(delta)):
            state.feed(message, events, whole=True)
        reason = choice.get("finish_reason")
        if ended and len(events) > before:
            state.went_on = True
        elif reason:
            state.went_on = False
        if reason:
            state.finish_with(reason)
        if not _CHOICE_KEYS.issuperset(choice):
            self._feed_rare(choice, state)

    @staticmethod
    def _index(choice: dict[str, Any], position: int) -> int:
        index = as_int(choice.get("index"))
        return position if index is None else index

    def _new_choice(self, index: int) -> ChoiceState:
        if len(self._choices) >= MAX_CHOICES:
            raise StreamError(f"the answer has more than {MAX_CHOICES:,} choices")
        return ChoiceState(index, self.call, self._think, self._make_id)

    def _feed_rare(self, choice: dict[str, Any], state: ChoiceState) -> None:
        """What stands beside index, delta and finish_reason, here and there."""
        for key, value in choice.items():
            if key not in _RARE_KEYS and value is not None:
                state.fields[key] = value
        if type(choice.get("usage")) is dict:
            self._usage = merged_usage(self._usage, choice["usage"])
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
            state.announce_calls(events)
            for call in state.finished_calls(lost=self.skipped > 0):
                if call.name:
                    events.append(StreamEvent("tool_call_done", call, state.index, self.call))
        usage = Usage.from_wire(self._usage)
        if usage is not None:
            events.append(StreamEvent("usage", usage, 0, self.call))
        return events

    def response(
        self,
        reply: ReplyInfo = ReplyInfo(),  # noqa: B008 - a frozen value
        *,
        truncated: bool = False,
        raw: Mapping[str, Any] | None = None,
    ) -> ChatResponse:
        """The answer, complete or so far."""
        usage, model = Usage.from_wire(self._usage), self._model or self.call.model
        return ChatResponse(
            choices=tuple(self._choices[index].choice(lost=self.skipped > 0) for index in sorted(self._choices)),
            model=model,
            provider=self.call.provider,
            usage=usage,
            latency_ms=reply.latency_ms,
            first_token_ms=reply.first_token_ms,
            truncated=truncated or self.skipped > 0,
            skipped_events=self.skipped,
            request_id=reply.request_id,
            headers=reply.headers or {},
            raw=copied_fields(self._top) if raw is None else raw,
            origin=self.call.origin,
            charges=(self.call.charge(usage, model, self._top.get("service_tier")),),
        )

    @property
    def text_pieces(self) -> list[str]:
        """The pieces of the first choice's text so far: the list itself, which grows."""
        state = self._choices.get(0)
        return state.text_pieces if state is not None else []

    @property
    def finished(self) -> bool:
        """A ``finish_reason`` has come, and nothing of its choice after it: some servers say it with every chunk."""
        return any(state.finish_reason and not state.went_on for state in self._choices.values())

    @property
    def settled(self) -> bool:
        """All choices that were begun have their ``finish_reason``, and usage has come: nothing more is needed."""
        states = self._choices.values()
        return bool(states) and bool(self._usage) and all(one.finish_reason and not one.went_on for one in states)

    @property
    def any_content(self) -> bool:
        """Something of an answer has come: text, reasoning, a refusal or a tool call."""
        return any(state.any_content for state in self._choices.values())

    def _derived_id(self) -> str:
        self._made_ids += 1
        seed = f"{self._top.get('id')}/{self._top.get('created')}/{self.call.call_id}/{self._made_ids}"
        return hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:9]


def _is_empty(delta: Any) -> bool:
    return type(delta) is not dict or not any(value for key, value in delta.items() if key != "role")
