"""The exceptions that this library raises.

::

    OpenAICompatError
    ├── ConfigurationError           bad input, found before anything was sent (also a ValueError)
    │   ├── SharedLimitsError        the file or Redis by which processes share limits cannot be used
    │   └── UnknownPriceError        a price is needed, and not known
    ├── BudgetExceededError          a budget has no room for the call: it was not sent
    ├── LocalServerError             the embedded server could not be started; holds its log
    ├── APIError                     provider, request_id, retryable, retry_after
    │   ├── APIConnectionError       the request or its answer did not get through
    │   │   └── APITimeoutError      phase: connect | first_token | idle | total
    │   ├── APIStatusError           status_code, code, type, param, body (redacted), headers
    │   │   ├── BadRequestError 400, AuthenticationError 401, PermissionDeniedError 403,
    │   │   ├── NotFoundError 404, ConflictError 409, UnprocessableEntityError 422,
    │   │   └── RateLimitError 429, InternalServerError 5xx
    │   ├── ResponseParseError       the body is not JSON
    │   ├── ResponseShapeError       JSON, but not an answer (no choices, empty content, bad embeddings)
    │   │   ├── ResponseTypeError    an answer, but not of the type that was asked for; partial holds its text
    │   │   └── ToolLoopError        the loop did not converge; holds the messages so far
    │   └── StreamError              a stream that failed; partial holds what had arrived
    │       ├── StreamInterruptedError   ended without finish_reason or [DONE]
    │       └── StreamServerError        the server sent an error inside the stream
    ├── Cancelled                    partial, if anything had arrived
    └── ToolError                    raised by a tool of yours: the model is told, and may try again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ._terminal import one_line

if TYPE_CHECKING:
    from .wire.response import ChatResponse
    from .wire.retry import Attempt
    from .wire.sent_request import SentRequest

__all__ = [
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
    "status_error_class",
]


def _restore(cls: type[OpenAICompatError], args: tuple[Any, ...], state: dict[str, Any]) -> OpenAICompatError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class OpenAICompatError(Exception):
    """The root of every exception that this library raises on its own account.

    ``messages`` is the conversation so far where a tool loop was under way, as values that can be sent again;
    ``attempts`` is what was sent, and failed, as ``Attempt`` values; ``request`` the last of it, without secrets, or
    None.
    """

    messages: tuple[Any, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    request: SentRequest | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def curl(self) -> str:
        """The request that failed as a command for a shell, its key as ``$OPENAI_API_KEY``; "" if none was sent."""
        return "" if self.request is None else self.request.curl()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


class ToolError(OpenAICompatError):
    """Raise it in a tool to tell the model what is wrong, in your own words; it is no failure of the program."""


class ConfigurationError(OpenAICompatError, ValueError):
    """What the caller gave cannot be used; nothing was sent."""


class SharedLimitsError(ConfigurationError):
    """The file or the Redis by which processes share their limits cannot be used."""


class UnknownPriceError(ConfigurationError):
    """A price is needed, by a budget in dollars or by ``answer.cost``, and nobody tells it."""


class BudgetExceededError(OpenAICompatError):
    """A budget has no room for the call, which was not sent.

    ``unit`` is ``"usd"`` or ``"tokens"``, in which ``limit`` is the budget, ``spent`` what was spent of it,
    ``reserved`` what calls under way may still cost, and ``asked`` what this one might have.
    """

    def __init__(
        self,
        message: str = "",
        *,
        unit: Literal["usd", "tokens"] = "usd",
        limit: float = 0.0,
        spent: float = 0.0,
        reserved: float = 0.0,
        asked: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.unit: Literal["usd", "tokens"] = unit
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.asked = asked


class LocalServerError(OpenAICompatError):
    """The embedded server could not be started. ``log`` holds the last lines it wrote."""

    def __init__(self, message: str = "", *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Cancelled(OpenAICompatError):
    """The caller ended the call. ``partial`` is the answer so far, or None."""

    def __init__(self, message: str = "cancelled", *, partial: ChatResponse | None = None) -> None:
        super().__init__(message)
        self.partial = partial


class APIError(OpenAICompatError):
    """A call to a server failed.

    ``retryable`` says whether the same call may succeed soon, ``retry_after`` is the server's hint in
    seconds, ``partial`` the answer as far as it had arrived.
    """

    def __init__(
        self,
        message: str = "",
        *,
        provider: str = "",
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        partial: ChatResponse | None = None,
    ) -> None:
        super().__init__(one_line(message))
        self.provider = provider
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after = retry_after
        self.partial = partial


class APIConnectionError(APIError):
    """The request, or its answer, did not get through."""


Phase = Literal["connect", "first_token", "idle", "total"]


class APITimeoutError(APIConnectionError):
    """Time ran out. ``phase`` says which limit: ``connect``, ``first_token``, ``idle`` or ``total``."""

    def __init__(self, message: str = "", *, phase: Phase = "total", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.phase = phase


class APIStatusError(APIError):
    """The server answered with an error status.

    ``status_code`` is the HTTP status, or the one that an error body under HTTP 200 names. ``code``,
    ``type`` and ``param`` are the server's own words, ``body`` the redacted text, ``headers`` the
    response's headers with lower-case names.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        code: str | int | None = None,
        type: str | None = None,
        param: str | None = None,
        body: str = "",
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.status_code = status_code
        self.code = code
        self.type = type
        self.param = param
        self.body = body
        self.headers: dict[str, str] = dict(headers or {})


class BadRequestError(APIStatusError):
    """400: the request is not one that this server takes."""


class AuthenticationError(APIStatusError):
    """401: no key, or a wrong one."""


class PermissionDeniedError(APIStatusError):
    """403: this key may not do that."""


class NotFoundError(APIStatusError):
    """404: no such model, or no such path."""


class ConflictError(APIStatusError):
    """409: something else is under way there."""


class UnprocessableEntityError(APIStatusError):
    """422: understood, but not acceptable."""


class RateLimitError(APIStatusError):
    """429: too much, too fast, or no quota left."""


class InternalServerError(APIStatusError):
    """5xx: the server, or one behind it, failed."""


class ResponseParseError(APIError):
    """The body of an answer is not JSON."""


class ResponseShapeError(APIError):
    """JSON, but not an answer. ``partial`` holds what there was."""


class ResponseTypeError(ResponseShapeError):
    """An answer that does not fit the type that was asked for.

    ``path`` says where, as in ``$.rows[2].id``; ``partial`` is the answer, its text as it came.
    """

    def __init__(self, message: str = "", *, path: str = "$", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.path = path


class ToolLoopError(ResponseShapeError):
    """The tool loop did not converge. ``messages`` is the conversation so far."""

    def __init__(self, message: str = "", *, messages: Iterable[Any] = (), **fields: Any) -> None:
        super().__init__(message, **fields)
        self.messages: tuple[Any, ...] = tuple(messages)


class StreamError(APIError):
    """A stream failed. ``partial`` is the answer so far."""


class StreamInterruptedError(StreamError):
    """A stream ended without ``finish_reason`` or ``[DONE]``: its answer may be cut short."""


class StreamServerError(StreamError):
    """The server sent an error inside a stream that had begun with HTTP 200."""

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str | int | None = None,
        type: str | None = None,
        param: str | None = None,
        body: str = "",
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.status_code = status_code
        self.code = code
        self.type = type
        self.param = param
        self.body = body


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error_class(status: int) -> type[APIStatusError]:
    """The exception class for an HTTP status."""
    if status >= 500:
        return InternalServerError
    return _BY_STATUS.get(status, APIStatusError)
