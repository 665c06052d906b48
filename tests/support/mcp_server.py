"""A small MCP server, run as a child process: ``python mcp_server.py [stdio|http]``.

Over HTTP it listens on a free port of 127.0.0.1, and prints that port as its first line.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from mcp.server import Server, ServerRequestContext
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PAGE = 2
"""Tools on one page of the list, so that there are many pages."""

Context = ServerRequestContext[Any]
Handler = Callable[[Context, dict[str, Any]], Awaitable[CallToolResult]]
TOOLS: dict[str, tuple[Tool, Handler]] = {}


def tool(
    name: str, description: str | None = None, /, *, output: dict[str, Any] | None = None, **properties: Any
) -> Callable[[Handler], Handler]:
    schema: dict[str, Any] = {"type": "object"}
    if properties:
        schema |= {"properties": properties, "required": list(properties)}

    def register(handler: Handler) -> Handler:
        found = Tool(name=name, description=description, input_schema=schema, output_schema=output)
        TOOLS[name] = (found, handler)
        return handler

    return register


def said(*texts: str, failed: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text) for text in texts], is_error=failed)


@tool("add", "Add two numbers.", a={"type": "number"}, b={"type": "number"})
async def add(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said(str(arguments["a"] + arguments["b"]))


@tool("fail", "Fails.")
async def fail(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said("the disk is full", "try later", failed=True)


@tool("fail_silently")
async def fail_silently(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said(failed=True)


@tool("crash")
async def crash(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    raise ValueError("a bug in the server")


@tool("picture", "Draws.")
async def picture(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    image = ImageContent(data=base64.b64encode(PIXEL).decode(), mime_type="image/png")
    return CallToolResult(content=[TextContent(text="one pixel"), image])


@tool("structured", output={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
async def structured(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[], structured_content={"n": 7})


@tool("malformed", output={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
async def malformed(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[], structured_content={"n": "seven"})


@tool("both")
async def both(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[TextContent(text="n is 7")], structured_content={"n": 7})


@tool("nothing")
async def nothing(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said()


@tool("lines")
async def lines(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said("one", "two")


@tool("resources")
async def resources(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    text = TextResourceContents(uri="memo://1", mime_type="text/plain", text="remember")
    blob = BlobResourceContents(uri="memo://2", mime_type="application/zip", blob="AAAA")
    return CallToolResult(
        content=[
            EmbeddedResource(resource=text),
            EmbeddedResource(resource=blob),
            ResourceLink(name="memo", uri="memo://3"),
            AudioContent(data="AAAA", mime_type="audio/wav"),
        ]
    )


@tool("files.read/all", path={"type": "string"})
async def read_all(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said(f"read {arguments['path']}")


@tool("keywords", self={"type": "string"}, name={"type": "string"}, arguments={"type": "string"})
async def keywords(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said("+".join(arguments[name] for name in ("self", "name", "arguments")))


@tool("pid")
async def pid(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said(str(os.getpid()))


@tool("touch", path={"type": "string"})
async def touch(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    Path(arguments["path"]).touch()
    return said("done")


@tool("environment", variable={"type": "string"})
async def environment(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    return said(os.environ.get(arguments["variable"], "unset"), Path.cwd().name)


@tool("header", name={"type": "string"})
async def header(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    request = context.request
    assert request is not None
    return said(request.headers.get(arguments["name"], "none"))


@tool(
    "slow",
    "Touches <folder>/started, then waits until it is cancelled; touches <folder>/cancelled.",
    folder={"type": "string"},
)
async def slow(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    folder = Path(arguments["folder"])
    (folder / "started").touch()
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        (folder / "cancelled").touch()
        raise
    raise AssertionError("for ever is over")


meeting: list[anyio.Event] = []


@tool("meet", "Answers when as many calls are waiting as it is told.", guests={"type": "integer"})
async def meet(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    mine = anyio.Event()
    meeting.append(mine)
    if len(meeting) == arguments["guests"]:
        for guest in meeting:
            guest.set()
    await mine.wait()
    return said("all here")


@tool("die", "Ends the server in the middle of the call.")
async def die(context: Context, arguments: dict[str, Any]) -> CallToolResult:
    os._exit(3)


async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    start = int(params.cursor) if params and params.cursor else 0
    found = [listed for listed, _ in TOOLS.values()]
    following = str(start + PAGE) if start + PAGE < len(found) else None
    return ListToolsResult(tools=found[start : start + PAGE], next_cursor=following)


async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
    return await TOOLS[params.name][1](context, params.arguments or {})


server = Server("test server", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


async def serve_http() -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    anyio.run(serve_http if sys.argv[1:] == ["http"] else serve_stdio)
