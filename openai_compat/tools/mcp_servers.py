"""MCP servers: a child process, or one that is reached over HTTP; and the thread of their event loop."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import shlex
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from .._json import NotJSONError, decode_json
from .._log import logger
from ..errors import ConfigurationError
from ..redaction import redact_error_body
from ..wire.error_body import describe_error, describe_text

if TYPE_CHECKING:
    import httpx2
    from anyio.from_thread import BlockingPortal

log: logging.Logger = logger("mcp")

CONNECT_SECONDS = 30.0
STDERR_BYTES = 2000
"""How much of what a child process wrote last is kept, to be shown when it fails."""
FORGOTTEN = -32098
"""The code, of our own, of an error that says that the server does not know the session any more."""
_METHOD_NOT_FOUND = -32601
_INTERNAL_ERROR = -32603


class Portal:
    """An event loop on a thread of its own, for as long as the ``with`` block lasts.

    anyio's own is a generator: in a forked child, where the thread is not, its end would wait for ever.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._ready: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._run, name="openai_compat mcp", daemon=True)

    def __enter__(self) -> BlockingPortal:
        self._thread.start()
        self._portal = self._ready.result()
        return self._portal

    def __exit__(self, *exc_info: object) -> None:
        if os.getpid() != self._pid:
            return
        with contextlib.suppress(RuntimeError):  # it has stopped by itself
            self._portal.call(self._portal.stop, True)
        self._thread.join()

    def _run(self) -> None:
        import anyio

        try:
            anyio.run(self._serve)
        except BaseException as error:
            if self._ready.done():
                log.warning("the event loop of an MCP server ended", exc_info=True)
            else:
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        from anyio.from_thread import BlockingPortal

        async with BlockingPortal() as portal:
            self._ready.set_result(portal)
            await portal.sleep_until_stopped()


class StdioServer:
    """A server that is a child process; inside ``with``, the last of what it writes to stderr is kept.

    One that has ended is not begun again: what it knew is lost.
    """

    begins_again = False

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
    ) -> None:
        if isinstance(command, (str, bytes)) or not command:
            raise ConfigurationError(f"command is a list of words, such as ['python', 'server.py'], not {command!r}")
        self._words = [os.fspath(word) for word in command]
        self._env = _checked("env", env)
        self._cwd = None if cwd is None else os.fspath(cwd)
        # A path is no secret, and to mask it would make every traceback unreadable.
        self.secrets: list[str] = [
            value for value in self._env.values() if not os.path.exists(value.partition(os.pathsep)[0])
        ]
        self.name: str = redact_error_body(shlex.join(self._words), secrets=self.secrets, limit=300)
        self._tail = bytearray()
        self._printed = False
        self.opened = False

    def __enter__(self) -> None:
        reading, writing = os.pipe()
        self._stderr = os.fdopen(writing, "w")
        self._reader = threading.Thread(target=self._read, args=(reading,), name="openai_compat mcp log", daemon=True)
        self._reader.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop_listening()

    @contextlib.asynccontextmanager
    async def transport(self) -> AsyncIterator[Any]:
        import mcp

        program, *arguments = self._words
        parameters = mcp.StdioServerParameters(
            command=program, args=arguments, env=self._env, cwd=self._cwd, encoding_error_handler="replace"
        )
        # All of a server's lines are read on this thread.
        here = threading.get_ident()

        def hear(record: logging.LogRecord) -> bool:
            ours = threading.get_ident() == here and record.msg == _NO_MESSAGE
            if ours:
                self._note_printed(record)
            return not ours

        logger = logging.getLogger("mcp.client.stdio")
        logger.addFilter(hear)
        try:
            async with mcp.stdio_client(parameters, errlog=self._stderr) as streams:
                yield streams
        finally:
            logger.removeFilter(hear)

    def _note_printed(self, record: logging.LogRecord) -> None:
        """Say once, in one line, what the SDK says with a traceback of each line that is no message."""
        error: Any = record.exc_info[1] if record.exc_info else None
        lines = [str(said["input"]) for said in error.errors()[:1]] if hasattr(error, "errors") else []
        if not "".join(lines).strip():
            return
        log.log(
            logging.DEBUG if self._printed else logging.WARNING,
            "the MCP server (%s) prints to its stdout, which is for messages: %s",
            self.name,
            redact_error_body("".join(lines), secrets=self.secrets, limit=200),
        )
        self._printed = True

    def stderr_tail(self) -> str:
        """What the program, which has ended, wrote last."""
        self._stop_listening()
        return bytes(self._tail).decode("utf-8", "replace").strip()

    def _stop_listening(self) -> None:
        self._stderr.close()
        # The end of the pipe may be far off: a process that the server has left behind can still hold it.
        self._reader.join(1.0)

    def _read(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as pipe, contextlib.ExitStack() as stack:
            wait: Callable[[], object] = bool
            if os.name == "posix":
                # Where threads are greenlets, the wait lets others run, and the read would not.
                selector = stack.enter_context(selectors.DefaultSelector())
                selector.register(pipe, selectors.EVENT_READ)
                wait = selector.select
            while True:
                wait()
                if not (chunk := pipe.read(65536)):
                    return
                self._tail += chunk
                del self._tail[:-STDERR_BYTES]


class HttpServer:
    """A server that is reached over HTTP."""

    begins_again = True

    def __init__(self, url: str, headers: Mapping[str, str] | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("url must be an http or https URL, such as 'http://127.0.0.1:8000/mcp'")
        self._url = url
        self._headers = _checked("header", headers)
        self.name: str = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        queried = [value for _, value in parse_qsl(parts.query)]
        self.secrets: list[str] = [*self._headers.values(), parts.password or "", *queried]
        self.opened = False
        self._troubled = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass

    @contextlib.asynccontextmanager
    async def transport(self) -> AsyncIterator[Any]:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # How long an answer may take is for call_timeout to say.
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=None)
        async with httpx2.AsyncClient(headers=self._headers, timeout=timeout) as http:
            send = http.send

            async def sent(request: httpx2.Request, **options: Any) -> httpx2.Response:
                return await self._exchange(send, request, **options)

            http.send = sent  # type: ignore[method-assign]
            async with streamable_http_client(self._url, http_client=http) as streams:
                yield streams

    async def _exchange(self, send: Callable[..., Any], request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a message. What goes wrong is the answer to it, and says why: the SDK would end the whole session."""
        import httpx2

        if request.method != "POST":
            response: httpx2.Response = await send(request, **options)
            return response
        try:
            response = await send(request, **options)
            if response.status_code < 400 and "json" not in response.headers.get("content-type", ""):
                return response
            # Whole, so that one that breaks off is noticed here.
            text = (await response.aread()).decode("utf-8", "replace")
        except httpx2.HTTPError as error:
            return self._failure(request, str(error) or type(error).__name__)
        if response.status_code < 400:
            self._troubled = False
            return response
        rpc = _rpc_error(text)
        if "mcp-session-id" in request.headers and (
            (response.status_code == 404 and rpc.get("code") != _METHOD_NOT_FOUND)
            or (response.status_code == 400 and "session" in text.lower())
        ):
            return self._failure(request, _status(response, text), FORGOTTEN)
        return response if rpc else self._failure(request, _status(response, text))

    def _failure(self, request: httpx2.Request, reason: str, code: int = _INTERNAL_ERROR) -> httpx2.Response:
        import httpx2

        shown = redact_error_body(reason, secrets=self.secrets, limit=500)
        if not self._troubled and self.opened and code != FORGOTTEN:
            log.warning("an exchange with the MCP server (%s) failed: %s", self.name, shown)
        self._troubled = True
        message = f"the MCP server ({self.name}): {shown}" if self.opened else shown
        told = {"jsonrpc": "2.0", "id": 0, "error": {"code": code, "message": message}}
        return httpx2.Response(502, json=told, request=request)

    def stderr_tail(self) -> str:
        return ""


def _checked(what: str, given: Mapping[str, str] | None) -> dict[str, str]:
    """The values of a mapping, which no error may show."""
    for name, value in (given or {}).items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{what} {name!r} must be a string")
        if what == "header" and re.search(r"[\r\n\0]", value):
            raise ConfigurationError(f"{what} {name!r} has a line break in it")
    return dict(given or {})


_NO_MESSAGE = "Failed to parse JSONRPC message from server"
"""What the SDK logs of a line that is no message."""
_ADVICE = {
    401: "it does not know these credentials; they go in headers=",
    403: "these credentials may not do this",
    404: "is the path of the url right?",
    429: "too many requests",
}


def _rpc_error(text: str) -> dict[str, Any]:
    """The error of a message; empty where the text is none."""
    message = _decoded(text)
    error = message.get("error") if isinstance(message, dict) and "jsonrpc" in message else None
    return error if isinstance(error, dict) else {}


def _decoded(text: str) -> Any:
    try:
        return decode_json(text)
    except NotJSONError:
        return None


def _status(response: httpx2.Response, text: str) -> str:
    """What a status says, in a line."""
    said = f"HTTP {response.status_code} {response.reason_phrase}".strip()
    payload = _decoded(text)
    detail = describe_text(text) if payload is None else describe_error(payload)
    parts = [said, _ADVICE.get(response.status_code, ""), detail.message or detail.body]
    if wait := response.headers.get("retry-after"):
        parts.append(f"try again after {wait}" + " s" * wait.isdigit())
    return ": ".join(dict.fromkeys(part for part in parts if part))
