"""An MCP server of the bare protocol, for what no SDK would send: ``python raw_mcp_server.py NAME...``.

Its tools have the names that it is given; ``x`` says what comes of a call.
"""

import json
import os
import sys
import time
from typing import Any

NAMES = sys.argv[1:] or ["t"]
RESULTS: dict[str, Any] = {
    "svg": {"content": [{"type": "image", "mimeType": "image/svg+xml", "data": "PHN2Zy8+"}]},
    "broken": {"content": [{"type": "image", "mimeType": "image/png", "data": "no base64!"}]},
    "no picture": {"content": [{"type": "image", "mimeType": "image/png", "data": "AAAA"}]},
    "reasons": {"content": [], "isError": True, "structuredContent": {"reason": "the disk is full"}},
}


def send(message: dict[str, Any]) -> None:
    write((json.dumps({"jsonrpc": "2.0", **message}) + "\n").encode())


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def call(number: int, x: str) -> None:
    if x == "latin1":
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}\n' % number)
        return
    if x == "die":
        sys.stderr.write("out of memory\n")
        os._exit(3)
    if x == "print":
        write(b"\nwarn: caf\xe9 1\nwarn: 2\n\nwarn: 3\n")
    if x.startswith("/"):
        while not os.path.exists(x):
            time.sleep(0.01)
    send({"id": number, "result": RESULTS.get(x, {"content": [{"type": "text", "text": "fine"}]})})


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        number, method = asked.get("id"), asked.get("method")
        if method == "initialize":
            info = {"name": "raw", "version": "1"}
            version = asked["params"]["protocolVersion"]
            send({"id": number, "result": {"protocolVersion": version, "capabilities": {}, "serverInfo": info}})
        elif method == "tools/list":
            send({"id": number, "result": {"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in NAMES]}})
        elif method == "tools/call":
            call(number, asked["params"]["arguments"].get("x", ""))
        elif number is not None:
            send({"id": number, "error": {"code": -32601, "message": "no"}})


if __name__ == "__main__":
    main()
