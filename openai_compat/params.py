"""The keyword arguments of ``chat`` as types; loaded by type checkers only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, TypedDict

from .batch.journal import Journal
from .cancel import CancelToken
from .sinks import Sink
from .timeouts import Timeout
from .tools.loop import AfterTool, BeforeTool, ToolRound
from .tools.tool import ToolDispatcher
from .wire.media import AudioInput, ImageInput
from .wire.request import ChatRequest, ToolSpec
from .wire.response_format import SchemaAs


class ToolRunFields(TypedDict, total=False):
    """The fields of ``ChatRequest`` but ``tools``, in the forms that its converters take."""

    system: str | None
    images: Iterable[ImageInput] | ImageInput | None
    audio: Iterable[AudioInput] | AudioInput | None
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
    response_mode: SchemaAs | None
    choice: Iterable[str] | None
    regex: str | re.Pattern[str] | None
    grammar: str | None
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

    tools: Iterable[ToolSpec | Mapping[str, Any] | Callable[..., Any]]


class StreamOptions(ChatFields, total=False):
    """What ``stream`` takes."""

    cancel: CancelToken | None
    timeout: Timeout | float | None
    think_opened: bool


class EmbedOptions(TypedDict, total=False):
    """What ``embed`` takes beside the texts, the model and ``timeout``."""

    encoding_format: Literal["base64", "float"] | None
    dimensions: int | None
    batch_size: int | None
    normalize: bool
    user: str | None
    extra_body: Mapping[str, Any] | None
    cancel: CancelToken | None


class ChatOptions(StreamOptions, total=False):
    """What ``chat`` takes."""

    sink: Sink | None
    repair: int


MapPrompt = (
    str | ChatRequest | Sequence[Mapping[str, Any]] | tuple[str, str | ChatRequest | Sequence[Mapping[str, Any]]]
)
"""A prompt, or a pair of its id and a prompt."""


class LoopFields(ToolRunFields, total=False):
    """What ``run_tools`` and ``tool_rounds`` pass on: to the request, and to ``ToolOptions``."""

    max_iterations: int
    max_tool_calls: int
    max_parallel_tool_calls: int
    tool_timeout: float | None
    before_tool: BeforeTool | None
    after_tool: AfterTool | None
    withhold_tools: bool
    tool_errors: Literal["message", "type"]


class LoopOptions(LoopFields, total=False):
    """What ``run_tools`` takes."""

    dispatcher: ToolDispatcher | None
    on_round: Callable[[ToolRound], object] | None
    sink: Sink | None
    cancel: CancelToken | None
    timeout: Timeout | float | None
    think_opened: bool
    repair: int


class MapOptions(LoopFields, total=False):
    """What ``map`` takes."""

    workers: int
    executor: Executor | Callable[[], Executor] | None
    chunk_size: int | None
    ordered: bool
    on_error: Literal["keep", "raise"]
    journal: Journal | str | os.PathLike[str] | None
    retry_failed: bool | None
    progress: Any
    total: int | None
    repair: int
    tools: Iterable[Any]
    dispatcher: ToolDispatcher | None
    cancel: CancelToken | None
    timeout: Timeout | float | None
    think_opened: bool


class BatchOptions(ChatFields, total=False):
    """What ``submit_batch`` takes."""

    think_opened: bool
    timeout: Timeout | float | None
    ordered: bool
    on_error: Literal["keep", "raise"]
    journal: Journal | str | os.PathLike[str] | None
    retry_failed: bool | None
    progress: Any
    total: int | None
    poll_every: float
    completion_window: str
    cancel: CancelToken | None
