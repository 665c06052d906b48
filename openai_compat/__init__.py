"""Blocking Python for every server that speaks OpenAI's Chat Completions and Embeddings formats.

Names load on first use, so that importing the package costs next to nothing.

PYTEST_DONT_REWRITE: where this is imported before pytest begins, pytest would warn that it cannot rewrite its asserts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Type checkers, which cannot read this, find the same names below.
_MODULES = {
    "errors": (
        "APIConnectionError",
        "APIError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "BudgetExceededError",
        "Cancelled",
        "ConfigurationError",
        "ConflictError",
        "InternalServerError",
        "LocalServerError",
        "NotFoundError",
        "OpenAICompatError",
        "PermissionDeniedError",
        "RateLimitError",
        "ResponseParseError",
        "ResponseShapeError",
        "ResponseTypeError",
        "SharedLimitsError",
        "StreamError",
        "StreamInterruptedError",
        "StreamServerError",
        "ToolError",
        "ToolLoopError",
        "UnknownPriceError",
        "UnprocessableEntityError",
    ),
    "redaction": ("redact_error_body",),
    "client": ("Client",),
    "fallback": ("EndpointStatus", "FallbackClient"),
    "conversation": ("Conversation", "estimate_tokens"),
    "cancel": ("CancelToken",),
    "timeouts": ("Timeout",),
    "probe.report": ("Probe", "ProbeRow"),
    "tokens": ("TokenCount",),
    "wire.constraints": ("Constraints",),
    "wire.dialect": ("Dialect",),
    "local.server": ("LocalServer",),
    "providers": ("PROVIDERS", "Provider"),
    "sinks": (
        "CollectSink",
        "IsolateSink",
        "PrintSink",
        "QueueSink",
        "StopStream",
        "TeeSink",
        "ThreadSink",
        "ThrottleSink",
    ),
    "batch.files": ("FileSummary",),
    "batch.journal": ("Journal", "JournalError"),
    "batch.result": ("EmbeddingResult", "MapResult"),
    "batch.run": ("MapRun",),
    "batch.submit": ("BatchRun",),
    "limits.budget": ("Budget", "Spent", "budget"),
    "limits.limits": ("Limits",),
    "batch.vectors": ("EmbeddingRun",),
    "tools.mcp": ("mcp_tools",),
    "stream": ("ChatStream", "ParsedStream"),
    "futures": ("CallFuture",),
    "hook_events": ("ErrorEvent", "RequestEvent", "ResponseEvent", "RetryEvent"),
    "hooks": ("Hooks",),
    "tools.loop": ("ToolOptions", "ToolRound", "run_tools_loop", "tool_rounds"),
    "tools.tool": ("Tool", "ToolDispatcher", "tool"),
    "wire.accumulate": ("Accumulator",),
    "wire.batches": ("BatchStatus",),
    "wire.answer_media": ("Annotation", "AnswerAudio", "AudioDelta"),
    "wire.embeddings": ("EmbeddingResponse", "parse_embeddings_response"),
    "wire.embeddings_request": ("build_embeddings_body",),
    "wire.media": ("Audio", "Image"),
    "wire.messages": ("Message", "ToolCall", "Usage"),
    "wire.models": ("Model",),
    "wire.parse": ("parse_response", "parse_stream", "parse_turn"),
    "wire.prices": ("Price",),
    "wire.reasoning": ("ThinkOptions", "strip_reasoning"),
    "wire.request": ("ChatRequest", "ToolSpec", "build_body", "build_messages", "build_streaming_body", "tools_json"),
    "wire.retry": ("Attempt", "RetryPolicy"),
    "wire.sent_request": ("SentRequest",),
    "wire.response": ("ChatResponse", "Choice", "ParsedResponse", "ReplyInfo", "StreamEvent", "ToolCallDelta"),
    "wire.tool_results": ("ToolResult",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .batch.files import FileSummary as FileSummary
    from .batch.journal import Journal as Journal
    from .batch.journal import JournalError as JournalError
    from .batch.result import EmbeddingResult as EmbeddingResult
    from .batch.result import MapResult as MapResult
    from .batch.run import MapRun as MapRun
    from .batch.submit import BatchRun as BatchRun
    from .batch.vectors import EmbeddingRun as EmbeddingRun
    from .cancel import CancelToken as CancelToken
    from .client import Client as Client
    from .conversation import Conversation as Conversation
    from .conversation import estimate_tokens as estimate_tokens
    from .errors import APIConnectionError as APIConnectionError
    from .errors import APIError as APIError
    from .errors import APIStatusError as APIStatusError
    from .errors import APITimeoutError as APITimeoutError
    from .errors import AuthenticationError as AuthenticationError
    from .errors import BadRequestError as BadRequestError
    from .errors import BudgetExceededError as BudgetExceededError
    from .errors import Cancelled as Cancelled
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConflictError as ConflictError
    from .errors import InternalServerError as InternalServerError
    from .errors import LocalServerError as LocalServerError
    from .errors import NotFoundError as NotFoundError
    from .errors import OpenAICompatError as OpenAICompatError
    from .errors import PermissionDeniedError as PermissionDeniedError
    from .errors import RateLimitError as RateLimitError
    from .errors import ResponseParseError as ResponseParseError
    from .errors import ResponseShapeError as ResponseShapeError
    from .errors import ResponseTypeError as ResponseTypeError
    from .errors import SharedLimitsError as SharedLimitsError
    from .errors import StreamError as StreamError
    from .errors import StreamInterruptedError as StreamInterruptedError
    from .errors import StreamServerError as StreamServerError
    from .errors import ToolError as ToolError
    from .errors import ToolLoopError as ToolLoopError
    from .errors import UnknownPriceError as UnknownPriceError
    from .errors import UnprocessableEntityError as UnprocessableEntityError
    from .fallback import EndpointStatus as EndpointStatus
    from .fallback import FallbackClient as FallbackClient
    from .futures import CallFuture as CallFuture
    from .hook_events import ErrorEvent as ErrorEvent
    from .hook_events import RequestEvent as RequestEvent
    from .hook_events import ResponseEvent as ResponseEvent
    from .hook_events import RetryEvent as RetryEvent
    from .hooks import Hooks as Hooks
    from .limits.budget import Budget as Budget
    from .limits.budget import Spent as Spent
    from .limits.budget import budget as budget
    from .limits.limits import Limits as Limits
    from .local.server import LocalServer as LocalServer
    from .probe.report import Probe as Probe
    from .probe.report import ProbeRow as ProbeRow
    from .providers import PROVIDERS as PROVIDERS
    from .providers import Provider as Provider
    from .redaction import redact_error_body as redact_error_body
    from .sinks import CollectSink as CollectSink
    from .sinks import IsolateSink as IsolateSink
    from .sinks import PrintSink as PrintSink
    from .sinks import QueueSink as QueueSink
    from .sinks import StopStream as StopStream
    from .sinks import TeeSink as TeeSink
    from .sinks import ThreadSink as ThreadSink
    from .sinks import ThrottleSink as ThrottleSink
    from .stream import ChatStream as ChatStream
    from .stream import ParsedStream as ParsedStream
    from .timeouts import Timeout as Timeout
    from .tokens import TokenCount as TokenCount
    from .tools.loop import ToolOptions as ToolOptions
    from .tools.loop import ToolRound as ToolRound
    from .tools.loop import run_tools_loop as run_tools_loop
    from .tools.loop import tool_rounds as tool_rounds
    from .tools.mcp import mcp_tools as mcp_tools
    from .tools.tool import Tool as Tool
    from .tools.tool import ToolDispatcher as ToolDispatcher
    from .tools.tool import tool as tool
    from .wire.accumulate import Accumulator as Accumulator
    from .wire.answer_media import Annotation as Annotation
    from .wire.answer_media import AnswerAudio as AnswerAudio
    from .wire.answer_media import AudioDelta as AudioDelta
    from .wire.batches import BatchStatus as BatchStatus
    from .wire.constraints import Constraints as Constraints
    from .wire.dialect import Dialect as Dialect
    from .wire.embeddings import EmbeddingResponse as EmbeddingResponse
    from .wire.embeddings import parse_embeddings_response as parse_embeddings_response
    from .wire.embeddings_request import build_embeddings_body as build_embeddings_body
    from .wire.media import Audio as Audio
    from .wire.media import Image as Image
    from .wire.messages import Message as Message
    from .wire.messages import ToolCall as ToolCall
    from .wire.messages import Usage as Usage
    from .wire.models import Model as Model
    from .wire.parse import parse_response as parse_response
    from .wire.parse import parse_stream as parse_stream
    from .wire.parse import parse_turn as parse_turn
    from .wire.prices import Price as Price
    from .wire.reasoning import ThinkOptions as ThinkOptions
    from .wire.reasoning import strip_reasoning as strip_reasoning
    from .wire.request import ChatRequest as ChatRequest
    from .wire.request import ToolSpec as ToolSpec
    from .wire.request import build_body as build_body
    from .wire.request import build_messages as build_messages
    from .wire.request import build_streaming_body as build_streaming_body
    from .wire.request import tools_json as tools_json
    from .wire.response import ChatResponse as ChatResponse
    from .wire.response import Choice as Choice
    from .wire.response import ParsedResponse as ParsedResponse
    from .wire.response import ReplyInfo as ReplyInfo
    from .wire.response import StreamEvent as StreamEvent
    from .wire.response import ToolCallDelta as ToolCallDelta
    from .wire.retry import Attempt as Attempt
    from .wire.retry import RetryPolicy as RetryPolicy
    from .wire.sent_request import SentRequest as SentRequest
    from .wire.tool_results import ToolResult as ToolResult


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
