"""A real Redis server for tests, with nothing in it, on a port of its own.

::

    from support.redis_server import redis_server  # a fixture

    def test_relay(redis_server: RedisServer) -> None:
        client = Redis.from_url(redis_server.url)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

PATIENCE = 20.0
"""Seconds until a server answers."""


@dataclass(frozen=True)
class RedisServer:
    """A server, and the port on which it listens."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for a module's tests."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """A server that keeps nothing on disk."""
    program = shutil.which("redis-server")
    if program is None:
        message = "these tests need a Redis server on the PATH: apt-get install redis-server"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    for _ in range(5):  # another program may take the port in between
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            if _answers(process, port):
                yield RedisServer(process, port)
                return
        finally:
            process.kill()
            process.wait(PATIENCE)
    raise RuntimeError("the Redis server did not start")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    with Redis(port=port) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(RedisConnectionError):
                return bool(client.info("server")["process_id"] == process.pid)
            threading.Event().wait(0.02)
    return False
