"""What a tool's result tells the model, and what the next round asks: the tool loop's decisions as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from ..schema.json_value import to_json_value
from ..schema.text import text_of
from .media import Image
from .messages import Message, ToolCall
from .request import ChatRequest


@attrs.frozen(kw_only=True)
class ToolResult:
    """What came of one call.

    ``content`` is what the model is told, ``images`` what it is shown; ``value`` is what the tool returned, ``error``
    what it raised in its place. ``seconds`` is how long it ran.
    """

    call: ToolCall
    content: str
    images: tuple[Image, ...] = ()
    value: Any = None
    error: BaseException | None = None
    seconds: float = attrs.field(default=0.0, eq=False)

    @classmethod
    def of(cls, call: ToolCall, value: Any, *, seconds: float = 0.0) -> ToolResult:
        """The result of a tool that returned ``value``.

        Raises:
            TypeError: the value has no JSON form.
        """
        content, images = content_and_images(value)
        return cls(call=call, content=content, images=images, value=value, seconds=seconds)

    @classmethod
    def failure(
        cls, call: ToolCall, problem: str, *, error: BaseException | None = None, seconds: float = 0.0
    ) -> ToolResult:
        """The result of a call that did not succeed: ``{"error": …}``, for the model to recover from."""
        return cls(call=call, content=_json({"error": problem}), error=error, seconds=seconds)

    def to_message(self) -> Message:
        """The message that answers the call."""
        return Message(role="tool", content=self.content, tool_call_id=self.call.id)


def content_and_images(value: Any) -> tuple[str, tuple[Image, ...]]:
    """A tool's return value as text and images: a string stays as it is, anything else becomes JSON.

    Args:
        value: an image, or a list of images and other values, shows the model the images.

    Raises:
        TypeError: it has no JSON form.
    """
    if (said := text_of(value)) is not None:
        return said, ()
    items: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    images = tuple(Image.of(item) for item in items if Image.is_one(item))
    if not images:
        return _json(value), ()
    texts = [_text(item) for item in items if not Image.is_one(item)]
    return "\n".join(texts) or f"{len(images)} image(s), shown in the next message", images


def _text(value: Any) -> str:
    said = text_of(value)
    return _json(value) if said is None else said


def _json(value: Any) -> str:
    return msgspec.json.encode(to_json_value(value)).decode()


def result_messages(results: Iterable[ToolResult]) -> list[Message]:
    """The messages that answer a round's calls, in their order.

    Images follow in a user message: in one of role ``tool`` servers take text only.
    """
    results = list(results)
    messages = [result.to_message() for result in results]
    parts: list[dict[str, Any]] = []
    for result in results:
        if result.images:
            parts.append({"type": "text", "text": f"Shown by {result.call.name} ({result.call.id}):"})
            parts.extend(image.to_wire() for image in result.images)
    return [*messages, Message(role="user", content=parts)] if parts else messages


def next_request(
    request: ChatRequest, messages: Iterable[Any], *, first: bool, last: bool, withhold_tools: bool
) -> ChatRequest:
    """The request of one round.

    A call that ``tool_choice`` forces is forced in the first round only, or the model could never answer. With
    ``withhold_tools`` the last round offers no tools, so that it has to.
    """
    changes: dict[str, Any] = {"prompt": None, "system": None, "images": (), "audio": (), "messages": messages}
    if not first and _forces_a_call(request.tool_choice):
        changes["tool_choice"] = None
    if last and withhold_tools:
        changes.update(tools=(), tool_choice=None, parallel_tool_calls=None)
    return attrs.evolve(request, **changes)


def _forces_a_call(choice: str | Mapping[str, Any] | None) -> bool:
    return choice == "required" or (isinstance(choice, Mapping) and choice.get("type") != "allowed_tools")
