"""Many calls from many threads to a server of which every tenth reply is faulty: everything has to add up.

``make soak`` runs it for ten minutes; ``test_soak.py`` for a short while.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import gc
import itertools
import json
import random
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import attrs
import psutil

from openai_compat import APIError, Client, RetryPolicy
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces

THREADS = 64
FAULTS = 0.1
"""Of all replies."""
MAX_GROWTH = 16 * 2**20
"""Bytes that the process may grow by between its first third and its end."""


def words(tag: str) -> list[str]:
    """What the server says to a question: nobody else's answer."""
    chance = random.Random(tag)
    count = chance.choice((1, 3, 20, 20, 60, 400))
    return [f"{tag} ", *(f"{chance.randrange(10**6)} " for _ in range(count))]


def numbers(tag: str) -> list[float]:
    """The vector of a text."""
    chance = random.Random(tag)
    return [float(chance.randrange(1000)) for _ in range(chance.choice((8, 256)))]


# The server: in a process of its own, so that the client's memory is the client's.


class Server(ReplayServer):
    """Counts requests instead of keeping them, and how often each question came: that is in the model's name."""

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.posts = 0
        self.faults: collections.Counter[str] = collections.Counter()
        self._seen: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()

    def record(self, connection: Any, parts: tuple[str, str, HTTPMessage, bytes]) -> Request:
        with self._counting:
            self.posts += parts[0] == "POST"
            if self.posts % 1000 == 0:
                self._connections[:] = [one for one in self._connections if not one.closed.is_set()]
        return Request(0, connection.number, *parts, connection.closed)

    def _reply(self, request: Request) -> Reply:
        if request.method == "GET":
            return Reply(headers=JSON, body=json.dumps({"posts": self.posts, "faults": self.faults}).encode())
        body = request.json()
        tag = body["input"] if "input" in body else body["messages"][-1]["content"]
        with self._counting:
            self._seen[tag] += 1
            seen = self._seen[tag]
            fault = random.Random(f"{tag}/{seen}").choice([*FAULTY]) if random.random() < FAULTS else ""
            self.faults[fault or "none"] += 1
        good = _good(tag, f"m-{seen}", embeds="input" in body, streams=bool(body.get("stream")))
        return FAULTY[fault](good) if fault else good


def _good(tag: str, model: str, *, embeds: bool, streams: bool) -> Reply:
    if embeds:
        vector = base64.b64encode(struct.pack(f"<{len(numbers(tag))}f", *numbers(tag))).decode()
        return _json({"model": model, "data": [{"index": 0, "embedding": vector}]})
    if streams:
        pieces = [chunk({"content": word}, model=model) for word in words(tag)]
        return Reply(headers=EVENT_STREAM, body=[*pieces, *stream_pieces()])
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words(tag))}, "finish_reason": "stop"}
    return _json({"model": model, "choices": [choice]})


def _json(value: Any) -> Reply:
    return Reply(headers=JSON, body=json.dumps(value).encode())


def _pieces(reply: Reply) -> list[bytes]:
    if not isinstance(reply.body, bytes):
        return [*reply.body]
    return [reply.body[at : at + 100] for at in range(0, len(reply.body), 100)]


def _changed(reply: Reply, body: Any, **fields: Any) -> Reply:
    return Reply(headers=reply.headers, body=body, framing="chunked", **fields)


def _slowly(pieces: list[bytes]) -> Iterator[bytes]:
    for piece in pieces[:20]:
        time.sleep(0.01)
        yield piece
    yield b"".join(pieces[20:])


FAULTY: dict[str, Callable[[Reply], Reply]] = {
    "reset": lambda reply: Reply(head=b"", abort="rst"),
    "closed": lambda reply: Reply(head=b"", abort="fin"),
    "429": lambda reply: error_reply(429, "too fast", {"retry-after-ms": "5"}),
    "503": lambda reply: error_reply(503, "overloaded"),
    "cut": lambda reply: _changed(reply, _pieces(reply)[: len(_pieces(reply)) // 2], abort="fin"),
    "reset halfway": lambda reply: _changed(reply, _pieces(reply)[: len(_pieces(reply)) // 2], abort="rst"),
    "garbage": lambda reply: _changed(reply, [*_pieces(reply)[:1], b'data: {"choices": [{"delta"\n\n', b"\xff{\n\n"]),
    "not HTTP": lambda reply: Reply(head=b"220 smtp.example.com ESMTP\r\n", abort="fin"),
    "slow": lambda reply: _changed(reply, _slowly(_pieces(reply))),
}


def serve() -> None:
    """Until standard input ends."""
    with Server() as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


# The client.


@attrs.define
class Tally:
    """What came of a soak; ``problems`` says what did not add up."""

    calls: collections.Counter[str] = attrs.field(factory=collections.Counter)
    failures: collections.Counter[str] = attrs.field(factory=collections.Counter)
    faults: dict[str, int] = attrs.field(factory=dict)
    retries: int = 0
    posts: int = 0
    grown: int = 0
    problems: list[str] = attrs.field(factory=list)

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


def soak(seconds: float) -> Tally:
    """Call a server of this module's from ``THREADS`` threads for so long."""
    command = [sys.executable, "-m", "support.soak", "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as server:
        assert server.stdout is not None
        try:
            return _soak(server.stdout.readline().strip(), seconds)
        finally:
            server.kill()


def _soak(url: str, seconds: float) -> Tally:
    tally = Tally()
    counting = threading.Lock()
    process = psutil.Process()
    threads, files = threading.active_count(), process.num_fds()

    def heard(event: object) -> None:
        with counting:
            tally.retries += 1

    end = time.monotonic() + seconds
    policy = RetryPolicy(max_retries=2, first_wait=0.01, longest_wait=0.1)
    with Client(url, "sk-soak-0123456789abcdef", model="m", retry=policy, on_retry=heard, truncated="raise") as client:
        workers = [
            threading.Thread(target=_work, args=(client, number, end, tally, counting)) for number in range(THREADS)
        ]
        for worker in workers:
            worker.start()
        time.sleep(seconds / 3)
        tally.check(process.num_fds() - files <= 2 * THREADS, f"{process.num_fds()} open files amid the calls")
        gc.collect()
        begun = process.memory_info().rss
        for worker in workers:
            worker.join(seconds + 60)
        tally.check(not any(worker.is_alive() for worker in workers), "a call has not ended")
        gc.collect()
        tally.grown = process.memory_info().rss - begun
        tally.check(process.num_fds() - files <= THREADS, f"{process.num_fds()} open files after the calls")
    with urllib.request.urlopen(url, timeout=10) as reply:
        counts = json.load(reply)
    tally.posts, tally.faults = counts["posts"], counts["faults"]
    asked = tally.calls.total() + tally.retries
    tally.check(tally.posts == asked, f"the server saw {tally.posts} requests, the client sent {asked}")
    tally.check(tally.grown < MAX_GROWTH, f"memory grew by {tally.grown / 2**20:.1f} MB")
    tally.check(process.num_fds() <= files, f"{process.num_fds() - files} files were left open")
    tally.check(threading.active_count() <= threads, f"{threading.active_count() - threads} threads were left")
    return tally


def _work(client: Client, number: int, end: float, tally: Tally, counting: threading.Lock) -> None:
    """One thread's calls, one after the other."""
    for count in itertools.count():
        if time.monotonic() > end:
            return
        tag = f"q{number}-{count}"
        kind, call = list(CALLS.items())[count % len(CALLS)]
        failure, problems = "", []
        try:
            problems = call(client, tag)
        except APIError as error:
            failure = type(error).__name__
            said = "" if error.partial is None else error.partial.text
            problems = [] if "".join(words(tag)).startswith(said) else [f"{said!r} was never said"]
            if not 1 <= len(error.attempts) <= 6:
                problems.append(f"{len(error.attempts)} attempts")
        except Exception as error:  # a thread's exceptions are seen by nobody else
            problems = [f"{type(error).__name__}: {error}"]
        with counting:
            tally.calls[kind] += 1
            tally.failures.update([failure] if failure else [])
            tally.problems += [f"{kind} {tag}: {problem}" for problem in problems][: 20 - len(tally.problems)]


def _differences(answer: Any, came: Any, wanted: Any) -> list[str]:
    attempts = f"m-{len(answer.attempts)}"
    return [
        *([] if came == wanted else [f"{came!r} instead of {wanted!r}"[:300]]),
        *([] if answer.model == attempts else [f"{len(answer.attempts)} attempts, but the server said {answer.model}"]),
    ]


def _chat(client: Client, tag: str) -> list[str]:
    answer = client.chat(tag)
    return _differences(answer, answer.text, "".join(words(tag)))


def _stream(client: Client, tag: str) -> list[str]:
    deltas = []
    with client.stream(tag) as stream:
        for event in stream:
            deltas += [event.delta] if event.delta else []
    answer = stream.response
    return _differences(answer, (deltas, answer.text), (words(tag), "".join(words(tag))))


def _left(client: Client, tag: str) -> list[str]:
    """A stream that is left after its first word."""
    with client.stream(tag) as stream:
        first = next((event.delta for event in stream if event.delta), "")
    return [] if first == words(tag)[0] else [f"{first!r} came first"]


def _embed(client: Client, tag: str) -> list[str]:
    answer = client.embed(tag)
    return _differences(answer, list(answer.embedding), numbers(tag))


CALLS: dict[str, Callable[[Client, str], list[str]]] = {
    "chat": _chat,
    "stream": _stream,
    "embed": _embed,
    "left stream": _left,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with contextlib.suppress(KeyboardInterrupt):
            serve()
        return 0
    tally = soak(options.seconds)
    for name, value in attrs.asdict(tally).items():
        print(f"{name}: {dict(value) if isinstance(value, dict) else value}")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
