"""The server, in a process of its own: it answers each question after a delay, and counts how often it was asked.

It prints its port. Then each line on its standard input is a JSON object, and is answered with the counts as one:
``{}`` asks for them; ``{"delay": seconds, "refuse": number}`` begins anew, and the request of that number gets HTTP 429
and is told to come back after ``RETRY_AFTER`` seconds; ``{"end": true}`` says that who asks is killed now. What had
been answered ``SETTLED`` seconds before and is asked again was lost.
"""

import asyncio
import contextlib
import json
import math
import sys
import time
from collections import Counter
from typing import Any

RETRY_AFTER = 2
SETTLED = 0.1
"""Seconds in which an answer is read by whoever asked."""


class State:
    def __init__(self, delay: float = 0.0, refuse: int | None = None) -> None:
        self.delay, self.refuse = delay, refuse
        self.requests = 0
        self.sent: Counter[str] = Counter()
        self.answered: dict[str, float] = {}
        self.answers = self.lost = 0
        self.ended = -math.inf

    def counts(self) -> dict[str, int]:
        settled = time.monotonic() - SETTLED
        return {
            "answers": self.answers,
            "questions": len(self.answered),
            "settled": sum(1 for when in self.answered.values() if when < settled),
            "sent_again": self.sent.total() - len(self.sent),
            "lost": self.lost,
        }


state = State()


def reply(status: str, value: Any, *headers: str) -> bytes:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(question: str) -> bytes:
    message = {"role": "assistant", "content": f"answer to {question}"}
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    return reply("200 OK", answer)


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, rest = self.received.split(b"\r\n\r\n", 1)
            (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            if len(rest) < length:
                return
            self.received = rest[length:]
            self.asked(json.loads(rest[:length])["messages"][-1]["content"])

    def asked(self, question: str) -> None:
        state.requests += 1
        if state.requests == state.refuse:
            error = {"error": {"message": "too many requests", "type": "rate_limit_error"}}
            self.transport.write(reply("429 Too Many Requests", error, f"Retry-After: {RETRY_AFTER}"))
            return
        state.sent[question] += 1
        state.lost += state.answered.get(question, math.inf) < state.ended - SETTLED
        if state.delay:
            asyncio.get_running_loop().call_later(state.delay, self.answer, question)
        else:
            self.answer(question)

    def answer(self, question: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(completion(question))
            state.answers += 1
            state.answered[question] = time.monotonic()


async def serve() -> None:
    global state
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        settings = json.loads(line)
        if settings.get("end"):
            state.ended = time.monotonic()
        elif settings:
            state = State(**settings)
        print(json.dumps(state.counts()), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
