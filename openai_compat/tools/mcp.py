"""The tools of an MCP server, for a model to call.

::

    with mcp_tools(command=["python", "server.py"]) as tools:
        answer = client.run_tools("What is 2 + 3?", tools=tools)

Needs ``pip install 'openai-compat[mcp]'``. The MCP SDK is asynchronous: its event loop runs on a thread of its own for
as long as the block lasts, so that this works wherever blocking code does, Jupyter included.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import os
import re
import shlex
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from ..errors import Cancelled, ConfigurationError, ToolError
from ..redaction import redact_error_body
from ..wire.media import Image
from .tool import Tool

if TYPE_CHECKING:
    import mcp.types
    from anyio.abc import TaskStatus
    from anyio.from_thread import BlockingPortal

    from ..cancel import CancelToken

__all__ = ["mcp_tools"]

log: logging.Logger = logging.getLogger("openai_compat")

CLOSE_SECONDS = 5.0
"""How long an HTTP server may take to hear that its session is over; a child process is killed sooner."""
CONNECT_SECONDS = 30.0
STDERR_BYTES = 2000
"""How much of what a child process wrote last is kept, to be shown when it fails."""


def mcp_tools(
    *,
    command: Sequence[str | os.PathLike[str]] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    prefix: str = "",
    timeout: float = 30.0,
    call_timeout: float | None = None,
) -> AbstractContextManager[list[Tool[..., Any]]]:
    """The tools of one MCP server, connected to for as long as the ``with`` block lasts.

    Either ``command`` starts the server as a child process, spoken to over its standard streams and ended with the
    block, or ``url`` names one that speaks streamable HTTP. The tools may be called from several threads at once.

    A tool returns its text; a list of texts and :class:`Image` values where the server sends images; the structured
    content where it sends nothing else. What a model cannot be shown (audio, binary resources) becomes a short note.
    A call that fails raises ``ToolError``, which ``run_tools`` tells the model.

    Args:
        command: the program and its arguments.
        env: variables for the program, besides ``PATH``, ``HOME`` and the few others that every program needs; it
            sees nothing else of this process's environment.
        cwd: the folder that the program starts in; by default this process's own.
        url: the server's address, such as ``http://127.0.0.1:8000/mcp``.
        headers: sent with every HTTP request.
        only: the server's names of the tools to offer; by default all.
        prefix: put before each name, so that the tools of two servers can be mixed. Characters that no model's server
            takes in a name become ``_``.
        timeout: seconds until the server has answered and has listed its tools.
        call_timeout: seconds that one call may take; by default no limit.

    Raises:
        ConfigurationError: the arguments do not fit, or the SDK is not installed; on entering, the server does not
            start or answer, with the last lines that it wrote, or has no such tool as ``only`` names. Calling a tool
            after the block raises it too.
    """
    if (command is None) == (url is None):
        raise ConfigurationError("mcp_tools takes either command= or url=")
    for name, seconds in (("timeout", timeout), ("call_timeout", math.inf if call_timeout is None else call_timeout)):
        if not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds!r}")
    if isinstance(only, str):
        raise ConfigurationError(f"only is a list of names, such as [{only!r}]")
    _require_sdk()
    server: _StdioServer | _HttpServer
    if url is not None:
        if env is not None or cwd is not None:
            raise ConfigurationError("env and cwd go with command=, not with url=")
        server = _HttpServer(url, headers)
    else:
        assert command is not None
        if headers is not None:
            raise ConfigurationError("headers go with url=, not with command=")
        server = _StdioServer(command, env, cwd)
    return _connect(server, only, prefix, timeout, call_timeout)


def _require_sdk() -> None:
    try:
        from mcp import Client  # noqa: F401 - not in version 1, which cannot be used
    except ImportError:
        raise ConfigurationError("MCP tools need the MCP SDK, version 2: pip install 'openai-compat[mcp]'") from None


@contextlib.contextmanager
def _connect(
    server: _StdioServer | _HttpServer,
    only: Collection[str] | None,
    prefix: str,
    timeout: float,
    call_timeout: float | None,
) -> Iterator[list[Tool[..., Any]]]:
    from anyio.from_thread import start_blocking_portal

    with server, start_blocking_portal(name="openai_compat mcp") as portal:
        session = _Session(server, portal, call_timeout)
        listed = session.open(timeout)
        try:
            yield [_ServerTool(session, found, prefix) for found in _chosen(listed, only, server.name)]
        finally:
            session.close()


def _chosen(listed: list[mcp.types.Tool], only: Collection[str] | None, server: str) -> list[mcp.types.Tool]:
    if only is None:
        return listed
    names = [found.name for found in listed]
    if missing := [name for name in only if name not in names]:
        raise ConfigurationError(
            f"the MCP server ({server}) has no tool named {', '.join(map(repr, missing))}; "
            f"it has {', '.join(names) or 'none'}"
        )
    return [found for found in listed if found.name in only]


class _StdioServer:
    """A server that is a child process; inside ``with``, the last of what it writes to stderr is kept."""

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
        self.secrets = [value for value in self._env.values() if not os.path.exists(value.partition(os.pathsep)[0])]
        self.name = redact_error_body(shlex.join(self._words), secrets=self.secrets, limit=300)
        self._tail = bytearray()

    def __enter__(self) -> None:
        reading, writing = os.pipe()
        self._stderr = os.fdopen(writing, "w")
        self._reader = threading.Thread(target=self._read, args=(reading,), name="openai_compat mcp log", daemon=True)
        self._reader.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop_listening()

    def transport(self) -> AbstractAsyncContextManager[Any]:
        import mcp

        program, *arguments = self._words
        parameters = mcp.StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
        return mcp.stdio_client(parameters, errlog=self._stderr)

    def stderr_tail(self) -> str:
        """What the program, which has ended, wrote last."""
        self._stop_listening()
        return bytes(self._tail).decode("utf-8", "replace").strip()

    def _stop_listening(self) -> None:
        self._stderr.close()
        # The end of the pipe may be far off: a process that the server has left behind can still hold it.
        self._reader.join(1.0)

    def _read(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                self._tail += chunk
                del self._tail[:-STDERR_BYTES]


class _HttpServer:
    """A server that is reached over HTTP."""

    def __init__(self, url: str, headers: Mapping[str, str] | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("url must be an http or https URL, such as 'http://127.0.0.1:8000/mcp'")
        self._url = url
        self._headers = _checked("header", headers)
        self.name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        queried = [value for _, value in parse_qsl(parts.query)]
        self.secrets = [*self._headers.values(), parts.password or "", *queried]

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
        async with (
            httpx2.AsyncClient(headers=self._headers, timeout=timeout) as http,
            streamable_http_client(self._url, http_client=http) as streams,
        ):
            yield streams

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


class _Session:
    """One connected server: ``_serve`` and ``_ask`` run in the portal's loop, the rest in any thread."""

    def __init__(self, server: _StdioServer | _HttpServer, portal: BlockingPortal, call_timeout: float | None) -> None:
        self._server = server
        self._portal = portal
        self._call_timeout = call_timeout
        self._closed = False

    def open(self, timeout: float) -> list[mcp.types.Tool]:
        """Connect, and list the tools."""
        listed: list[mcp.types.Tool]
        try:
            self._served: Future[None]
            self._served, listed = self._portal.start_task(self._serve, timeout)
        except Exception as error:
            # Not chained: the cause comes in anyio's groups, and may quote a header.
            raise self._not_started(error, timeout) from None
        return listed

    async def _serve(self, timeout: float, *, task_status: TaskStatus[list[mcp.types.Tool]]) -> None:
        import anyio
        import mcp

        # One task for the whole life of the connection, because anyio's scopes end in the task that began them.
        with anyio.fail_after(timeout) as limit:
            async with mcp.Client(self._server.transport(), cache=None) as self._client:
                listed = await _all_tools(self._client)
                self._closing = anyio.Event()
                limit.deadline = math.inf
                task_status.started(listed)
                await self._closing.wait()
                limit.deadline = anyio.current_time() + CLOSE_SECONDS

    def _not_started(self, error: BaseException, timeout: float) -> ConfigurationError:
        cause = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else _reason(_leaf(error))
        written = self._server.stderr_tail()
        said = f"{cause}; it wrote:\n{written}" if written else cause
        shown = redact_error_body(said, secrets=self._server.secrets, limit=2 * STDERR_BYTES)
        return ConfigurationError(f"the MCP server did not start ({self._server.name}): {shown}")

    def call(self, name: str, arguments: Mapping[str, Any], cancel: CancelToken | None) -> mcp.types.CallToolResult:
        """Have the server run a tool, and wait.

        Raises:
            ToolError: it did not work.
            ConfigurationError: the session is over.
            Cancelled: by ``cancel``; the server is told.
        """
        if cancel is not None:
            cancel.raise_if_cancelled()
        # Held before the call begins: wherever a Ctrl-C tears its caller away from here on, the call can be ended.
        asked: Future[mcp.types.CallToolResult] = Future()
        try:
            if cancel is not None:
                cancel.subscribe(asked.cancel)
            self._portal.start_task_soon(self._ask, asked, name, dict(arguments))
            return asked.result()
        except Exception as error:
            if cancel is not None and cancel.cancelled:
                raise Cancelled from None
            if self._closed:
                raise self._over(name) from None
            leaf = _leaf(error)
            late = isinstance(leaf, TimeoutError) and self._call_timeout is not None
            raise ToolError(f"no answer within {self._call_timeout:g} s" if late else _reason(leaf)) from leaf
        finally:
            asked.cancel()
            if cancel is not None:
                cancel.unsubscribe(asked.cancel)

    async def _ask(self, asked: Future[mcp.types.CallToolResult], name: str, arguments: dict[str, Any]) -> None:
        """Put what comes of the call into ``asked``; cancelling that ends the call."""
        import anyio

        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(self._call_timeout) as scope:
                asked.add_done_callback(lambda _: loop.call_soon_threadsafe(scope.cancel))
                result = await self._client.call_tool(name, arguments)
                if asked.set_running_or_notify_cancel():
                    asked.set_result(result)
        except Exception as error:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)
        finally:
            asked.cancel()

    def _over(self, name: str) -> ConfigurationError:
        return ConfigurationError(
            f"the tool {name!r} is closed: call it inside the `with mcp_tools(...)` block ({self._server.name})"
        )

    def close(self) -> None:
        """Leave the server; what is still under way there ends with an error."""
        self._closed = True
        self._portal.call(self._closing.set)
        concurrent.futures.wait([self._served])
        if error := self._served.exception():
            log.warning("the MCP server did not close cleanly (%s): %s", self._server.name, _reason(_leaf(error)))


class _ServerTool(Tool[..., Any]):
    """A tool that its server runs."""

    def __init__(self, session: _Session, found: mcp.types.Tool, prefix: str) -> None:
        def ask(**arguments: Any) -> Any:
            return self.run(arguments)

        super().__init__(
            ask,
            name=re.sub(r"[^a-zA-Z0-9_-]", "_", prefix + found.name)[:64],
            description=found.description or found.title or "",
            # MCP lets properties be left out, OpenAI does not.
            parameters={"type": "object", "properties": {}, **found.input_schema},
        )
        self._session = session
        self._its_name = found.name

    def run(self, arguments: Mapping[str, Any], cancel: CancelToken | None = None, *, text: str = "") -> Any:
        return _value(self._session.call(self._its_name, arguments, cancel))


async def _all_tools(client: mcp.Client) -> list[mcp.types.Tool]:
    page = await client.list_tools()
    listed = list(page.tools)
    while page.next_cursor:
        page = await client.list_tools(cursor=page.next_cursor)
        listed += page.tools
    return listed


def _value(result: mcp.types.CallToolResult) -> Any:
    """What the tool returns.

    Raises:
        ToolError: the server says that it failed.
    """
    parts = [_part(block) for block in result.content]
    texts = [part for part in parts if isinstance(part, str)]
    if result.is_error:
        raise ToolError("\n".join(texts) or "the tool failed, and did not say why")
    if not parts:
        return result.structured_content
    return "\n".join(texts) if len(texts) == len(parts) else parts


def _part(block: mcp.types.ContentBlock) -> str | Image:
    if block.type == "text":
        return block.text
    if block.type == "image":
        return Image(f"data:{block.mime_type};base64,{block.data}")
    if block.type == "audio":
        return f"[audio, {block.mime_type}, not shown]"
    if block.type == "resource_link":
        return f"[resource {block.name}: {block.uri}]"
    resource = block.resource
    text = getattr(resource, "text", None)
    return text if isinstance(text, str) else f"[resource {resource.uri}, {resource.mime_type or 'binary'}, not shown]"


def _leaf(error: BaseException) -> BaseException:
    """The first of the exceptions in a group of groups."""
    while inner := getattr(error, "exceptions", ()):
        error = inner[0]
    return error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
