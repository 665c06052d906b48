"""A program of ``tests/node``, which answers one question after another.

::

    with running_node("read.mjs") as node:
        answer = node.ask(reader="openai", url=server.url)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "node"


class Node:
    """A running program: a line of JSON in is a question, one out is its answer."""

    def __init__(self, script: str) -> None:
        self._process = subprocess.Popen(
            ["node", script], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._lines.get(timeout=60)
        assert line, "node has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._listener.join(20)
            self._process.stdout.close()


@contextlib.contextmanager
def running_node(script: str) -> Iterator[Node]:
    """Node with the packages of ``tests/node/package-lock.json``, which are installed where they are not there."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on this machine")
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    with (FOLDER / ".install.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, timeout=110)
    process = Node(script)
    try:
        yield process
    finally:
        process.close()
