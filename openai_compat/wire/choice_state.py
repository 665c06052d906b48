"""One choice of an answer while it grows: deltas, or a whole message, to events.

What a server repeats is replaced; text, reasoning, refusal and arguments grow, and so does, by the rules of
``delta_merge``, what else a message may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import StreamError
from .delta_merge import MAX_TEXT, MergedObject, merge_delta, merged_value
from .error_body import MAX_DEPTH
from .messages import ToolCall
from .reasoning import REASONING, ThinkOptions
from .response import UNKNOWN, CallInfo, Choice, StreamEvent, ended_by_itself

if TYPE_CHECKING:
    from .tool_calls import ToolCallAssembler

_DELTA_KEYS = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "reasoning_text", "thinking", "refusal", "tool_calls"}
    | {"function_call", "index"}
)
_REASONING_KEYS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_REASONING_LISTS = ("reasoning_details", "thinking_blocks")
_THOUGHT_KEYS = ("thinking", "text", "reasoning", "summary")
"""Where the words of a content part stand that is a thought; Databricks gives a summary."""
_MEDIA_KEYS = frozenset({"audio", "images", "annotations"})


class ChoiceState:
    """One choice while it grows."""

    def __init__(self, index: int, call: CallInfo, think: ThinkOptions, make_id: Callable[[], str]) -> None:
        self.index = index
        self.finish_reason: str = ""
        self.went_on = False
        self.fields: dict[str, Any] = {}
        self._make_id = make_id
        self._calls: ToolCallAssembler | None = None
        self._call = call
        self._splitter = think.splitter()
        self._think_opened = think.opened
        # Thoughts in a field of their own mean that a tag in the content is prose.
        self._heeds_fields = think.mode == "leading"
        self._fielded = False
        # Thoughts at the beginning of the content, held back while they may be those of a field, told twice.
        self._copy: list[str] | None = None
        self._copied = 0
        self._told = 0
        # What the content told, once a field begins to tell it again, and how much of it the field has told.
        self._inline: str | None = None
        self._again = 0
        self._size = 0
        self._parts: list[tuple[int, dict[str, Any]]] = []  # each with how many pieces of text came before it
        self._media = False
        self._content: list[str] = []
        self.text_pieces: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._extra = MergedObject()
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

    def announce_calls(self, events: list[StreamEvent]) -> None:
        for kind, progress in self._calls.announce() if self._calls is not None else ():
            events.append(StreamEvent(kind, progress, self.index, self._call))

    def finished_calls(self, *, lost: bool = False) -> tuple[ToolCall, ...]:
        if self._calls is None:
            return ()
        # Without a reason, only a message that came in one piece is known to be whole.
        whole = ended_by_itself(self.finish_reason) if self.finish_reason else not self._by_delta
        return self._calls.finish(whole=whole, lost=lost)

    @property
    def any_content(self) -> bool:
        return bool(self.text_pieces or self._reasoning or self._refusal or self._calls or self._media)

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
                self.feed_text(content, events)

    def feed_plain_text(self, text: str) -> list[StreamEvent]:
        """The events of content that holds no half of a character."""
        splitter = self._splitter
        if self._half or not (splitter is None or splitter.over):
            events: list[StreamEvent] = []
            self.feed_text(text, events)
            return events
        self._content.append(text)
        self._count(text)
        self.text_pieces.append(text)
        return [StreamEvent("text", text, self.index, self._call)]

    def feed_text(self, text: str, events: list[StreamEvent]) -> None:
        self._content.append(text)
        self._add_text(text, events)

    def _news_in(self, message: dict[str, Any]) -> dict[str, Any]:
        """Of a whole message after its own deltas, what they did not bring."""
        said: dict[str, bool] = {
            "refusal": bool(self._refusal),
            "tool_calls": bool(self._calls),
            "function_call": bool(self._calls),
            **dict.fromkeys(self._extra, True),
            **dict.fromkeys(_REASONING_KEYS, bool(self._reasoning)),
        }
        news = {key: value for key, value in message.items() if not said.get(key)}
        if type(content := message.get("content")) is str:
            told = "".join(self._content)
            # Some servers trim the whole, or take the thoughts out: it is then no news either.
            news["content"] = content[len(told) :] if content.startswith(told) else ""
        elif self.text_pieces:
            news.pop("content", None)
        return news

    def _feed_rest(self, delta: dict[str, Any], events: list[StreamEvent], *, whole: bool) -> None:
        if len(delta) == 1 and "tool_calls" in delta:
            self._add_calls(delta["tool_calls"], events, whole=whole)
            return
        shown = False
        for key in _REASONING_KEYS:
            value = delta.get(key)
            if not value:
                continue
            piece = _plain_text(value)
            self._grown.setdefault(key, []).append(piece)
            if not shown and piece:
                self._add_field_reasoning(piece, events)
                shown = True
        for key in _REASONING_LISTS:
            details = delta.get(key)
            if type(details) is list and (text := _thoughts(details)) and not shown:
                self._add_field_reasoning(text, events)
                shown = True
        refusal = delta.get("refusal")
        if type(refusal) is str:
            self._add_refusal(refusal, events)
        self._add_calls(delta.get("tool_calls"), events, whole=whole)
        if legacy := delta.get("function_call"):
            self.calls.feed_legacy(legacy)
        if not _DELTA_KEYS.issuperset(delta):
            for key, value in delta.items():
                if key not in _DELTA_KEYS:
                    merge_delta(self._extra, key, value)
            if not _MEDIA_KEYS.isdisjoint(delta):
                self._add_media(delta, events)

    def _add_calls(self, entries: Any, events: list[StreamEvent], *, whole: bool) -> None:
        for kind, progress in self.calls.feed(entries, whole=whole) if entries else ():
            events.append(StreamEvent(kind, progress, self.index, self._call))

    def _add_media(self, delta: dict[str, Any], events: list[StreamEvent]) -> None:
        from .answer_media import AudioDelta, annotations_of, images_of

        found: list[tuple[Any, Any]] = []
        if type(audio := delta.get("audio")) is dict and audio:
            found.append(("audio", AudioDelta.from_wire(audio)))
        found += [("image", image) for image in images_of(delta.get("images"))]
        found += [("annotation", annotation) for annotation in annotations_of(delta.get("annotations"))]
        for kind, value in found:
            self._media = self._media or kind != "annotation"
            events.append(StreamEvent(kind, value, self.index, self._call))

    def _feed_parts(self, content: Any, events: list[StreamEvent]) -> None:
        """Content as a list of parts (Mistral's thinking among them), or as anything else that has text."""
        for part in content if type(content) is list else [content]:
            kind = part.get("type") if type(part) is dict else ""
            if kind in ("thinking", "reasoning"):
                words = next((part[key] for key in _THOUGHT_KEYS if part.get(key)), "")
                self._add_field_reasoning(_plain_text(words), events)
            elif kind == "refusal":
                self._add_refusal(_plain_text(part.get("refusal") or ""), events)
            elif text := _plain_text(part):
                self._content.append(text)
                self._add_text(text, events)
            elif kind and kind not in ("text", "output_text", "reference"):
                self._add_part(part, events)

    def _add_part(self, part: dict[str, Any], events: list[StreamEvent]) -> None:
        """A part that is no text: a picture, a file, or what else there may be."""
        from .answer_media import picture

        self._media = True
        if self._splitter is not None:
            self._add_split(self._splitter.finish(), events, last=True)
        self._parts.append((len(self.text_pieces), part))
        if (image := picture(part)) is not None:
            events.append(StreamEvent("image", image, self.index, self._call))

    def _add_text(self, piece: str, events: list[StreamEvent]) -> None:
        if self._half or "\ud7ff" < piece[-1:] < "\udc00":
            piece = self._with_half(piece)
        splitter = self._splitter
        if splitter is not None and not splitter.passes(piece):
            self._add_split(splitter.feed(piece), events)
        elif piece:
            self._emit_text(piece, events)

    def _with_half(self, piece: str) -> str:
        """A piece whose characters are whole: some servers cut an emoji into its surrogates, one a delta."""
        piece = self._half + piece
        self._half = ""
        if "\ud7ff" < piece[-1:] < "\udc00":
            piece, self._half = piece[:-1], piece[-1]
        return piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _add_split(self, pieces: list[tuple[str, str]], events: list[StreamEvent], *, last: bool = False) -> None:
        if self._copy is not None:
            self._look_at_copy(pieces, events, last)
            return
        for kind, piece in pieces:
            if kind is REASONING:
                self._add_reasoning(piece, events)
            else:
                self._emit_text(piece, events)

    def _emit_text(self, piece: str, events: list[StreamEvent]) -> None:
        self._count(piece)
        self.text_pieces.append(piece)
        events.append(StreamEvent("text", piece, self.index, self._call))

    def _look_at_copy(self, pieces: list[tuple[str, str]], events: list[StreamEvent], last: bool) -> None:
        """Thoughts inline beside those of a field: the same are told once, others are prose in tags."""
        assert self._copy is not None
        thoughts = [piece for kind, piece in pieces if kind is REASONING]
        self._copy += thoughts
        self._copied += sum(map(len, thoughts))
        splitter = self._splitter
        text = [piece for kind, piece in pieces if kind is not REASONING]
        inside = splitter is not None and splitter.inside
        waits = self._copied <= self._told if inside else not self._copied
        if waits and not text and not last:
            return
        copy, self._copy = "".join(self._copy).strip(), None
        if copy == "".join(self._reasoning).strip() or not copy:
            for piece in text:
                self._emit_text(piece, events)
            return
        self._splitter = None
        self._emit_text("".join(self._content), events)

    def _add_field_reasoning(self, piece: str, events: list[StreamEvent]) -> None:
        """Thoughts from a field of their own."""
        if piece and not self._fielded:
            self._fielded = True
            if self._heeds_fields and self._think_opened:
                self._splitter = None
            elif self._heeds_fields and not self.text_pieces and not self._reasoning:
                self._copy = []
            elif self._heeds_fields and self._reasoning and not (self._splitter and self._splitter.inside):
                self._inline = "".join(self._reasoning).strip()
        self._add_reasoning(self._news_of_thoughts(piece), events)

    def _news_of_thoughts(self, piece: str) -> str:
        """A piece of thoughts from a field, unless the content has told them before: then what is told is once."""
        if self._inline is None:
            return piece
        said = piece if self._again else piece.lstrip()
        if self._inline.startswith(said, self._again):
            self._again += len(said)
            return ""
        if self._again == len(self._inline) and not piece.strip():
            return ""
        told, self._inline = self._inline[: self._again], None
        return told + piece

    def _add_reasoning(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            self._count(piece)
            self._told += len(piece)
            self._reasoning.append(piece)
            events.append(StreamEvent("reasoning", piece, self.index, self._call))

    def _count(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > MAX_TEXT:
            raise StreamError(f"the answer is longer than {MAX_TEXT:,} characters")

    def _add_refusal(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            self._count(piece)
            self._refusal.append(piece)
            events.append(StreamEvent("refusal", piece, self.index, self._call))

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
            self._add_split(self._splitter.finish(), events, last=True)

    def choice(self, *, lost: bool = False) -> Choice:
        return Choice(
            index=self.index,
            text="".join(self.text_pieces),
            reasoning="".join(self._reasoning),
            refusal="".join(self._refusal),
            tool_calls=self.finished_calls(lost=lost),
            finish_reason=self.finish_reason or UNKNOWN,
            # Copies, so that an answer so far stays as it was while more arrives.
            logprobs=None if self._logprobs is None else copied_fields(self._logprobs),
            extra={**{key: "".join(pieces) for key, pieces in self._grown.items()}, **merged_value(self._extra)},
            parts=tuple(self._content_parts()),
            fields=dict(self.fields),
        )

    def _content_parts(self) -> Iterator[dict[str, Any]]:
        """The content in its order, text between its parts; nothing where it is text alone."""
        begin = 0
        for end, part in [*self._parts, (len(self.text_pieces), None)] if self._parts else ():
            if text := "".join(self.text_pieces[begin:end]):
                yield {"type": "text", "text": text}
            if part is not None:
                yield part
            begin = end


def _thoughts(entries: list[Any]) -> str:
    """The words in ``reasoning_details`` or ``thinking_blocks``."""
    return "".join(
        next((entry[key] for key in ("text", "summary", "thinking") if type(entry.get(key)) is str and entry[key]), "")
        for entry in entries
        if type(entry) is dict
    )


def copied_fields(fields: dict[str, Any]) -> dict[str, Any]:
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
