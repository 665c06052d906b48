"""The keyword arguments of ``chat`` as types; loaded by type checkers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypedDict

from .wire.messages import Image
from .wire.request import ToolSpec


class ToolRunFields(TypedDict, total=False):
    """The fields of ``ChatRequest`` but ``tools``, in the forms that its converters take."""

    system: str | None
    images: Sequence[Image | str | bytes | Path | IO[bytes]] | Image | str | bytes | Path | IO[bytes]
    messages: Iterable[Mapping[str, Any]]
    model: str | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop: str | Iterable[str] | None
    reasoning: bool | None
    reasoning_effort: str | None
    response_schema: Mapping[str, Any] | None
    strict: bool
    response_format: Mapping[str, Any] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    n: int | None
    user: str | None
    metadata: Mapping[str, str] | None
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]
    extra_query: Mapping[str, str]


class ChatFields(ToolRunFields, total=False):
    """All fields of ``ChatRequest``."""

    tools: Iterable[ToolSpec | Mapping[str, Any]]
