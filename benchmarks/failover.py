"""Three servers that break in turn under 32 threads: ``python -m benchmarks.failover --seconds 60``.

At any moment one is gone, or accepts and resets, one is out of quota, and one is slow; at random moments they change
places. The servers, in a process of their own, count. Afterwards each call must have been answered, no server asked
twice for the same, and a broken one asked by one call at a time. Exit code 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from benchmarks.contestants import ROOT
from benchmarks.many.server import completion, reply

THREADS = 32
SLOW, ERROR = 0.3, 0.1
"""Seconds to an answer, and to an error: long enough that two of them at a time are seen."""
NEWS = 1.0
"""Seconds after a server's third error: the calls know of it, and those that were sent before have ended."""


class Server:
    """One of the three; ``role`` says how it fares."""

    def __init__(self) -> None:
        self.port = 0
        self.role = "slow"
        self.errors = 0
        self.known = math.inf
        self.sent: Counter[str] = Counter()
        self.listening: asyncio.Server | None = None
        self.open: set[asyncio.Transport] = set()
        self.under_way = 0
        self.most_probes = 0

    async def become(self, role: str) -> None:
        self.role, self.errors, self.known = role, 0, math.inf
        if role in ("gone", "resets"):
            for transport in list(self.open):
                transport.abort()
        if role == "gone" and self.listening:
            self.listening.close()
            self.listening = None
        elif role != "gone" and self.listening is None:
            loop = asyncio.get_running_loop()
            self.listening = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
            self.port = self.listening.sockets[0].getsockname()[1]

    def told(self) -> dict[str, int]:
        again = sum(times - 1 for times in self.sent.values())
        return {"asked": self.sent.total(), "asked twice": again, "most probes at a time": self.most_probes}


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, _, rest = self.received.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths and len(rest) == lengths[0]:
            self.received = b""
            self.asked(json.loads(rest)["messages"][-1]["content"])

    def asked(self, question: str) -> None:
        server = self.server
        server.sent[question] += 1
        slow = server.role == "slow"
        if not slow:
            server.under_way += 1
            if time.monotonic() > server.known + NEWS:
                server.most_probes = max(server.most_probes, server.under_way)
        answer = self.answer if slow else self.fail
        asyncio.get_running_loop().call_later(SLOW if slow else ERROR, answer, question)

    def answer(self, question: str) -> None:
        self.transport.write(completion(question))

    def fail(self, question: str) -> None:
        self.server.under_way -= 1
        self.server.errors += 1
        if self.server.errors == 3:
            self.server.known = time.monotonic()
        if self.server.role == "quota":
            error = {"error": {"message": "You exceeded your quota", "type": "insufficient_quota"}}
            self.transport.write(reply("429 Too Many Requests", error | {"code": "insufficient_quota"}))
        else:
            self.transport.abort()


async def serve() -> None:
    """Ports on a line; then a line of roles each time that they change, and the counts at the end."""
    servers = [Server() for _ in range(3)]
    for server in servers:
        await server.become("slow")
    print(json.dumps([server.port for server in servers]), flush=True)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        for server, role in zip(servers, json.loads(line), strict=True):
            if role != server.role:
                await server.become(role)
    print(json.dumps([server.told() for server in servers]), flush=True)


def run(seconds: float, seed: int) -> tuple[dict[str, Any], list[str]]:
    """What was counted, and what was wrong."""
    from openai_compat import Client

    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "benchmarks.failover", "--serve"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin
    assert process.stdout
    ports = json.loads(process.stdout.readline())
    # No connection is kept: what went out over a kept one that was closed meanwhile is sent once more, to the same.
    clients = [Client(f"http://127.0.0.1:{port}/v1", model="m", pool_size=0) for port in ports]
    client = Client.fallback(clients, cool_down=1.0)
    end = time.monotonic() + seconds
    wrong: list[str] = []
    longest = [0.0] * THREADS
    answered = [0] * THREADS

    def ask(thread: int) -> None:
        while time.monotonic() < end:
            question = f"question {answered[thread]} of {thread}"
            start = time.monotonic()
            try:
                answer = client.chat(question)
            except Exception as error:
                wrong.append(f"{question}: {error!r:.300}, tried {[each.origin for each in error.attempts]}")
            else:
                if answer.text != f"answer to {question}":
                    wrong.append(f"{question}: {answer.text}")
            answered[thread] += 1
            longest[thread] = max(longest[thread], time.monotonic() - start)

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    chance = random.Random(seed)
    changes = 0
    while (left := end - time.monotonic()) > 0:
        roles = [chance.choice(["gone", "resets"]), "slow", "quota"]
        chance.shuffle(roles)
        process.stdin.write(json.dumps(roles) + "\n")
        process.stdin.flush()
        changes += 1
        time.sleep(min(left, chance.uniform(1.5, 4.0)))
    for thread in threads:
        thread.join()
    counts, _ = process.communicate()
    servers = json.loads(counts)
    for number, told in enumerate(servers):
        if told["asked twice"] or told["most probes at a time"] > 1:
            wrong.append(f"server {number}: {told}")
    told = {"calls": sum(answered), "changes": changes, "longest": round(max(longest), 2), "servers": servers}
    return told, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return 0
    told, wrong = run(options.seconds, options.seed)
    print(json.dumps(told, indent=2))
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
