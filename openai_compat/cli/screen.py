"""What the program prints: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from .._terminal import harmless, one_line, write
from .wrap import Wrap

if TYPE_CHECKING:
    from ..wire.response import ChatResponse, StreamEvent

PROG = "openai-compat"


class Screen:
    """Prints the answer on stdout as it is; reasoning and notes on stderr, dimmed on a terminal, silent if quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._unfinished: list[TextIO] = []
        self._wraps: dict[TextIO, Wrap] = {}

    def show(self, event: StreamEvent) -> None:
        """A piece of an answer."""
        if event.delta:
            self.answer(event.delta)
        elif event.reasoning:
            self._aside(event.reasoning)
        elif event.tool_call is not None:
            self.note(f"the model calls {event.tool_call.name}({event.tool_call.arguments_json})")

    def answer(self, text: str) -> None:
        """A piece of the text that was asked for."""
        self._finish(sys.stderr)
        self._write(sys.stdout, text)

    def note(self, line: str) -> None:
        """A line about what is going on."""
        self._aside(f"{one_line(line)}\n", new_line=True)

    def summarize(self, answer: ChatResponse) -> None:
        """What the answer cost, and what cut it off; the library itself warns of a stream that ended early."""
        if answer.finish_reason == "length":
            self.note("the answer was cut off at the token limit: raise --max-tokens")
        elif answer.finish_reason == "content_filter":
            self.note("the answer was cut off by the server's content filter")
        seconds = f"{answer.latency_ms / 1000:.1f} s"
        if answer.usage is None:
            self.note(seconds)
            return
        speed = f", {answer.tokens_per_second:.0f} tokens/s" if answer.tokens_per_second else ""
        self.note(f"{answer.input_tokens} tokens in, {answer.output_tokens} out{speed}, {seconds}")

    def finish(self) -> None:
        """End the lines that were begun."""
        for stream in (sys.stderr, sys.stdout):
            self._finish(stream)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show a spinner on the terminal until something else happens."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield

    def _aside(self, text: str, *, new_line: bool = False) -> None:
        if self._quiet:
            return
        if new_line:
            self._finish(sys.stderr)
        if sys.stdout in self._unfinished and sys.stdout.isatty() and sys.stderr.isatty():
            # Both are the same terminal; where they are not, a line break of ours has no place in the answer.
            self._finish(sys.stdout)
        self._write(sys.stderr, text, dim=True)

    def _write(self, stream: TextIO, text: str, *, dim: bool = False) -> None:
        if not text:
            return
        shown = text
        if stream.isatty():
            shown = self._wrapped(stream, harmless(text))
            if dim and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
                shown = f"\x1b[2m{shown}\x1b[0m"
        if stream in self._unfinished:
            self._unfinished.remove(stream)
        if not text.endswith("\n"):
            self._unfinished.append(stream)
        write(stream, shown)
        stream.flush()

    def _wrapped(self, stream: TextIO, text: str) -> str:
        """Text whose lines break between words, where the terminal can move its cursor."""
        columns = 0
        if os.environ.get("TERM") != "dumb":
            with contextlib.suppress(OSError, ValueError):
                columns = os.get_terminal_size(stream.fileno()).columns
        return self._wraps.setdefault(stream, Wrap()).feed(text, columns)

    def _finish(self, stream: TextIO) -> None:
        self._wraps.pop(stream, None)
        if stream in self._unfinished:
            self._unfinished.remove(stream)
            stream.write("\n")
            stream.flush()


def say_error(line: str) -> None:
    # A stderr that has gone as well leaves nobody to tell.
    with contextlib.suppress(OSError):
        print(f"error: {one_line(line)}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    import json

    # ASCII, so that neither the locale nor a terminal can be upset by what a model wrote.
    print(json.dumps(value), flush=True)


@contextlib.contextmanager
def warnings_shown(screen: Screen) -> Iterator[None]:
    """The library's warnings, as notes."""
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            screen.note(record.getMessage())

    log = logging.getLogger("openai_compat")
    handler = Notes(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
