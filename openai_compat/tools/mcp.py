"""The tools of an MCP server, for a model to call.

::

    with mcp_tools(command=["python", "server.py"]) as tools:
        answer = client.run_tools("What is 2 + 3?", tools=tools)

Needs ``pip install 'openai-compat[mcp]'``. The MCP SDK is asynchronous: its event loop runs on a thread of its own for
as long as the block lasts, so that this works wherever blocking code does, Jupyter included.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import concurrent.futures
import contextlib
import json
import logging
import math
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import attrs

from .._log import logger
from ..errors import Cancelled, ConfigurationError, ToolError
from ..redaction import redact_error_body
from ..schema.arguments import offered_arguments
from ..wire.media import Image
from .mcp_servers import FORGOTTEN, STDERR_BYTES, HttpServer, Portal, StdioServer
from .tool import Tool

if TYPE_CHECKING:
    import mcp.types
    from anyio.abc import TaskStatus
    from anyio.from_thread import BlockingPortal

    from ..cancel import CancelToken

__all__ = ["mcp_tools"]

log: logging.Logger = logger("mcp")

CLOSE_SECONDS = 5.0
"""How long an HTTP server may take to hear that its session is over; a child process is killed sooner."""
MAX_NAME = 64
"""Characters of a tool's name that every model's server takes."""


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
    call_timeout: float | None = 300.0,
) -> AbstractContextManager[list[Tool[..., Any]]]:
    """The tools of one MCP server, connected to for as long as the ``with`` block lasts.

    Either ``command`` starts the server as a child process, spoken to over its standard streams and ended with the
    block, or ``url`` names one that speaks streamable HTTP. The tools may be called from several threads at once.

    A tool returns its text; a list of texts and :class:`Image` values where the server sends images; the structured
    content where it sends nothing else. What a model cannot be shown (audio, binary resources) becomes a short note.
    A call that fails raises ``ToolError``, which ``run_tools`` tells the model.

    Over HTTP, an exchange that breaks fails its own call only, and a session that the server does not know any more, as
    after a restart, is opened again at the next call. A child process that has ended stays so: its calls fail with what
    it wrote last. Either is logged once. In a forked child the tools are refused: connect there again.

    Args:
        command: the program and its arguments.
        env: variables for the program, besides ``PATH``, ``HOME`` and the few others that every program needs; it
            sees nothing else of this process's environment.
        cwd: the folder that the program starts in; by default this process's own.
        url: the server's address, such as ``http://127.0.0.1:8000/mcp``.
        headers: sent with every HTTP request.
        only: the server's names of the tools to offer; by default all.
        prefix: put before each name, so that the tools of two servers can be mixed. Characters that no model's server
            takes in a name become ``_``; two names that are then the same, or one of more than 64 characters, are
            refused.
        timeout: seconds until the server has answered and has listed its tools.
        call_timeout: seconds that one call may take, 300 by default; None is no limit.

    Raises:
        ConfigurationError: the arguments do not fit, or the SDK is not installed; on entering, the server does not
            start or answer, with the last lines that it wrote, has no such tool as ``only`` names, or has names that
            cannot be told to a model. Calling a tool after the block raises it too, or in a forked child.
    """
    if (command is None) == (url is None):
        raise ConfigurationError("mcp_tools takes either command= or url=")
    for name, seconds in (("timeout", timeout), ("call_timeout", math.inf if call_timeout is None else call_timeout)):
        if not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds!r}")
    if isinstance(only, str):
        raise ConfigurationError(f"only is a list of names, such as [{only!r}]")
    _require_sdk()
    server: StdioServer | HttpServer
    if url is not None:
        if env is not None or cwd is not None:
            raise ConfigurationError("env and cwd go with command=, not with url=")
        server = HttpServer(url, headers)
    else:
        assert command is not None
        if headers is not None:
            raise ConfigurationError("headers go with url=, not with command=")
        server = StdioServer(command, env, cwd)
    return _connect(server, only, prefix, timeout, call_timeout)


def _require_sdk() -> None:
    try:
        from mcp import Client  # noqa: F401 - not in version 1, which cannot be used
    except ImportError:
        raise ConfigurationError("MCP tools need the MCP SDK, version 2: pip install 'openai-compat[mcp]'") from None


@contextlib.contextmanager
def _connect(
    server: StdioServer | HttpServer,
    only: Collection[str] | None,
    prefix: str,
    timeout: float,
    call_timeout: float | None,
) -> Iterator[list[Tool[..., Any]]]:
    with server, Portal() as portal:
        session = _Session(server, portal, timeout, call_timeout)
        listed = session.open()
        try:
            chosen = _chosen(listed, only, server.name)
            names = _names([found.name for found in chosen], prefix, server.name)
            yield [_ServerTool(session, found, name) for found, name in zip(chosen, names, strict=True)]
        finally:
            session.close()


def _names(originals: list[str], prefix: str, server: str) -> list[str]:
    """What a model is told for the names of a server's tools.

    Raises:
        ConfigurationError: two become the same, or one is too long.
    """
    made: dict[str, str] = {}
    for original in originals:
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", prefix + original)
        if len(name) > MAX_NAME:
            problem = f"has a tool whose name has {len(name)} characters, at most {MAX_NAME} can be told: {original!r}"
        elif name in made:
            problem = f"has tools that would have one name, {name!r}: {made[name]!r} and {original!r}"
        else:
            made[name] = original
            continue
        raise ConfigurationError(f"the MCP server ({server}) {problem}; leave it out with only=")
    return list(made)


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


class _Connection:
    """One life of a session: ``_serve`` and ``ask`` run in the portal's loop, the rest in any thread."""

    def __init__(self, server: StdioServer | HttpServer, portal: BlockingPortal) -> None:
        self._server = server
        self._portal = portal
        self.calls: set[Future[mcp.types.CallToolResult]] = set()
        self.ended = False
        self._left = False

    def open(self, timeout: float) -> list[mcp.types.Tool]:
        """Connect, and list the tools."""
        listed: list[mcp.types.Tool]
        self._served: Future[None]
        self._served, listed = self._portal.start_task(self._serve, timeout)
        self._served.add_done_callback(self._note_end)
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

    async def ask(
        self,
        asked: Future[mcp.types.CallToolResult],
        name: str,
        arguments: dict[str, Any],
        timeout: float | None,
    ) -> None:
        """Put what comes of the call into ``asked``; cancelling that ends the call."""
        import anyio

        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(timeout) as scope:
                asked.add_done_callback(lambda _: loop.call_soon_threadsafe(scope.cancel))
                result = await self._client.call_tool(name, arguments)
                if asked.set_running_or_notify_cancel():
                    asked.set_result(result)
        except Exception as error:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)
        finally:
            asked.cancel()

    def _note_end(self, served: Future[None]) -> None:
        self.ended = True
        if not served.cancelled() and (error := served.exception()):
            what = "the MCP server did not close cleanly" if self._left else "the session with the MCP server ended"
            log.warning("%s (%s): %s", what, self._server.name, _shown(error, self._server))

    def leave(self) -> None:
        """Begin to end it."""
        self._left = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._portal.call(self._closing.set)

    def close(self) -> None:
        """End it; what is still under way there ends with an error."""
        self.leave()
        concurrent.futures.wait([self._served])


class _Session:
    """One server, for as long as the ``with`` block lasts; over several connections where it is reached again."""

    def __init__(
        self, server: StdioServer | HttpServer, portal: BlockingPortal, timeout: float, call_timeout: float | None
    ) -> None:
        self._server = server
        self._portal = portal
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        self._before: list[_Connection] = []

    def open(self) -> list[mcp.types.Tool]:
        """Connect for the first time, and list the tools."""
        try:
            listed = self._connect()
        except Exception as error:
            # Not chained: the cause comes in anyio's groups, and may quote a header.
            said = self._not_opened(error) + self._written()
            raise ConfigurationError(f"the MCP server did not start ({self._server.name}): {said}") from None
        self._server.opened = True
        return listed

    def _connect(self) -> list[mcp.types.Tool]:
        connection = _Connection(self._server, self._portal)
        listed = connection.open(self._timeout)
        self._connection = connection
        return listed

    def _not_opened(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        return _shown(error, self._server)

    def _written(self) -> str:
        written = self._server.stderr_tail()
        shown = redact_error_body(written, secrets=self._server.secrets, limit=2 * STDERR_BYTES)
        return f"; it wrote:\n{shown}" if shown else ""

    def call(self, name: str, arguments: Mapping[str, Any], cancel: CancelToken | None) -> mcp.types.CallToolResult:
        """Have the server run a tool, and wait.

        Raises:
            ToolError: it did not work.
            ConfigurationError: the session is over, or belongs to the process of which this one is a fork.
            Cancelled: by ``cancel``; the server is told.
        """
        if os.getpid() != self._pid:
            raise ConfigurationError(
                f"the tool {name!r} belongs to the process that opened it, not to its fork: "
                f"use mcp_tools again in this one ({self._server.name})"
            )
        if cancel is not None:
            cancel.raise_if_cancelled()
        try:
            return self._ask(name, arguments, cancel)
        except _ForgottenError:
            # The server has not looked at the call, so it may be sent again.
            return self._ask(name, arguments, cancel)

    def _current(self, name: str, asked: Future[mcp.types.CallToolResult]) -> _Connection:
        """The connection, opened again where it has ended, with a call under way on it."""
        with self._lock:
            self._open_again(name)
            self._connection.calls.add(asked)
            return self._connection

    def _open_again(self, name: str) -> None:
        if self._closed:
            raise self._over(name)
        if not self._connection.ended:
            return
        if not self._server.begins_again:
            raise ToolError(self._last_words())
        before = self._connection
        try:
            self._connect()
        except Exception as error:
            reason = self._not_opened(error)
            raise ToolError(f"the MCP server ({self._server.name}) is not reached: {reason}") from None
        log.info("the session with the MCP server (%s) was opened again", self._server.name)
        self._warned = False
        self._before.append(before)
        self._leave_unused(before)

    def _leave_unused(self, connection: _Connection) -> None:
        """Leave a connection that is not the current one any more, after its last call."""
        if connection is not self._connection and not connection.calls:
            connection.leave()

    def _ask(self, name: str, arguments: Mapping[str, Any], cancel: CancelToken | None) -> mcp.types.CallToolResult:
        # Held before the call begins: wherever a Ctrl-C tears its caller away from here on, the call can be ended.
        asked: Future[mcp.types.CallToolResult] = Future()
        connection = self._current(name, asked)
        try:
            if cancel is not None:
                cancel.subscribe(asked.cancel)
            self._portal.start_task_soon(connection.ask, asked, name, dict(arguments), self._call_timeout)
            return asked.result()
        except Exception as error:
            if cancel is not None and cancel.cancelled:
                raise Cancelled from None
            if self._closed:
                raise self._over(name) from None
            raise self._failed(connection, _leaf(error)) from _leaf(error)
        finally:
            asked.cancel()
            if cancel is not None:
                cancel.unsubscribe(asked.cancel)
            connection.calls.discard(asked)
            self._leave_unused(connection)

    def _failed(self, connection: _Connection, error: BaseException) -> Exception:
        """What the failure of a call is for its caller."""
        import anyio

        if isinstance(error, TimeoutError) and self._call_timeout is not None:
            return ToolError(f"no answer within {self._call_timeout:g} s")
        code = getattr(error, "code", None)
        if code == FORGOTTEN:
            connection.ended = True
            if not self._warned:
                log.warning("a session is not known any more: %s", error)
            self._warned = True
            return _ForgottenError(str(error))
        if isinstance(error, (anyio.ClosedResourceError, anyio.BrokenResourceError)) or str(error) == _CLOSED:
            connection.ended = True
            return ToolError(self._last_words())
        said = _shown(error, self._server)
        if code == _ABANDONED:
            said = f"the MCP server ({self._server.name}): {said}"
            log.warning("%s", said)
        return ToolError(said)

    def _last_words(self) -> str:
        """What is said of a server that is gone; logged once."""
        if self._server.begins_again:
            said = f"{_CLOSED}: the MCP server ({self._server.name}) has ended the session"
        else:
            said = f"{_CLOSED}: the MCP server ({self._server.name}) has ended{self._written()}"
        if not self._warned:
            log.warning("%s", said)
        self._warned = True
        return said

    def _over(self, name: str) -> ConfigurationError:
        return ConfigurationError(
            f"the tool {name!r} is closed: call it inside the `with mcp_tools(...)` block ({self._server.name})"
        )

    def close(self) -> None:
        """Leave the server; what is still under way there ends with an error."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        for connection in [*self._before, self._connection]:
            connection.close()


class _ForgottenError(ToolError):
    """The server does not know the session any more."""


_ABANDONED = -32000
"""The SDK's code of a call whose answer can never arrive, as when an event stream breaks off."""
_CLOSED = "Connection closed"
"""What the SDK says of a call whose connection is gone."""


class _ServerTool(Tool[..., Any]):
    """A tool that its server runs."""

    def __init__(self, session: _Session, found: mcp.types.Tool, name: str) -> None:
        def ask(**arguments: Any) -> Any:
            return self.run(arguments)

        super().__init__(
            ask,
            name=name,
            description=found.description or found.title or "",
            parameters={},
        )
        # MCP lets properties be left out, OpenAI does not.
        self.spec = attrs.evolve(self.spec, parameters={"type": "object", "properties": {}, **found.input_schema})
        # Values are for the server to check; and where it says nothing of names, they are too.
        offered = found.input_schema if "properties" in found.input_schema else {"additionalProperties": True}
        self._offered = offered_arguments(offered, values=False)
        self._session = session
        self._its_name = found.name

    def run(self, arguments: Mapping[str, Any], cancel: CancelToken | None = None, *, text: str = "") -> Any:
        self._offered.check(arguments)
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
        reasons = result.structured_content
        raise ToolError("\n".join(texts) or _text(reasons) or "the tool failed, and did not say why")
    if not parts:
        return result.structured_content
    return "\n".join(texts) if len(texts) == len(parts) else parts


def _part(block: mcp.types.ContentBlock) -> str | Image:
    if block.type == "text":
        return block.text
    if block.type == "image":
        try:
            return Image.from_bytes(base64.b64decode(block.data, validate=True))
        except (binascii.Error, ValueError, ConfigurationError):
            return f"[image, {block.mime_type}, not shown]"
    if block.type == "audio":
        return f"[audio, {block.mime_type}, not shown]"
    if block.type == "resource_link":
        return f"[resource {block.name}: {block.uri}]"
    resource = block.resource
    text = getattr(resource, "text", None)
    return text if isinstance(text, str) else f"[resource {resource.uri}, {resource.mime_type or 'binary'}, not shown]"


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _leaf(error: BaseException) -> BaseException:
    """The first of the exceptions in a group of groups."""
    while inner := getattr(error, "exceptions", ()):
        error = inner[0]
    return error


def _shown(error: BaseException | None, server: StdioServer | HttpServer) -> str:
    """What an error says, without the server's secrets."""
    leaf = _leaf(error) if error is not None else None
    return redact_error_body(str(leaf) or type(leaf).__name__, secrets=server.secrets, limit=2 * STDERR_BYTES)
