"""Record a conversation in a terminal as an animated picture, with the real model: ``make screenshots``. Needs npm.

What is typed is typed by this script; what is answered comes as fast as the model writes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect

from openai_compat import LocalServer

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "chat.svg"
SVG_TERM = "svg-term-cli@2.1.1"
COLUMNS, ROWS = 80, 20
COMMAND = 'openai-compat chat --system "Be brief." --temperature 0'
QUESTIONS = ["What is the capital of France?", "And of Italy?"]
STOPPED = "Write a short poem about the sea."
"""What is asked last, and stopped with Ctrl-C."""
PROMPT = "> "
A_KEY, A_THOUGHT, A_WHILE, THE_END = 0.05, 0.7, 0.9, 4.0
"""Seconds between two keys, before one begins to type, until an answer is stopped, and at the last frame."""


class Cast:
    """A recording in asciinema's format, version 2: a line for each piece that the terminal got, with its time."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._events: list[tuple[float, str, str]] = []

    def write(self, text: str) -> None:
        self._events.append((time.monotonic() - self._began, "o", text))

    def flush(self) -> None:
        """As pexpect wants of a log."""

    def save(self, path: Path) -> None:
        header = {"version": 2, "width": COLUMNS, "height": ROWS}
        path.write_text("\n".join(map(json.dumps, [header, *self._events])) + "\n")


def pause(child: pexpect.spawn[str], seconds: float) -> None:
    """Meanwhile what the terminal gets is recorded."""
    child.expect(pexpect.TIMEOUT, timeout=seconds)


def ask(child: pexpect.spawn[str], question: str) -> None:
    child.expect_exact(PROMPT)
    pause(child, A_THOUGHT)
    for key in question:
        child.send(key)
        pause(child, A_KEY)
    child.send("\r")


def record(environ: dict[str, str]) -> Cast:
    cast = Cast()
    cast.write("$ ")
    time.sleep(A_THOUGHT)
    for key in COMMAND:
        cast.write(key)
        time.sleep(A_KEY)
    cast.write("\r\n")
    child = pexpect.spawn(COMMAND, env=environ, dimensions=(ROWS, COLUMNS), encoding="utf-8", timeout=60)
    child.logfile_read = cast
    for question in QUESTIONS:
        ask(child, question)
    ask(child, STOPPED)
    pause(child, A_WHILE)
    child.sendintr()
    child.expect_exact(PROMPT)
    pause(child, THE_END)
    cast.write(" ")
    child.terminate(force=True)
    return cast


def main() -> None:
    with LocalServer(api_key="", slots=1) as server, tempfile.TemporaryDirectory() as folder:
        environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm-256color",
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "none",
            "OPENAI_MODEL": server.model,
        }
        cast = Path(folder, "chat.cast")
        record(environ).save(cast)
        size = ("--width", str(COLUMNS), "--height", str(ROWS))
        files = ("--in", str(cast), "--out", str(PICTURE))
        subprocess.run(["npx", "--yes", SVG_TERM, *files, *size, "--window"], check=True)


if __name__ == "__main__":
    main()
