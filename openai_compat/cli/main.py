"""The command line ``openai-compat``: chat, embed, batch, models, serve.

The answer goes to stdout, everything else to stderr. Exit status: 0 success, 1 the call failed, 2 wrong usage or
configuration, 130 Ctrl-C, 141 the reader of stdout has closed it, 143 SIGTERM.

click, rich and the library itself are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from ..errors import ConfigurationError, OpenAICompatError
from .screen import PROG, say_error

FAILED, MISUSED, INTERRUPTED, PIPE_BROKEN = 1, 2, 130, 141
COMPLETE = "_OPENAI_COMPAT_COMPLETE"
"""The variable by which click's completion scripts ask for what may come next."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    from importlib.util import find_spec

    _prepare_streams()
    if any(find_spec(name) is None for name in ("click", "rich")):
        say_error("the command line needs two more packages: pip install 'openai-compat[cli]'")
        return MISUSED
    try:
        status = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        import signal

        # We are as good as gone: a second Ctrl-C could only make Python's own end noisy.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    except BrokenPipeError:
        _let_go_of_stdout()
        return PIPE_BROKEN
    except Exception as error:
        line, status = _message_and_status(error)
        if os.environ.get("OPENAI_COMPAT_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        if isinstance(error, OSError):
            _let_go_of_stdout()
        if line:
            say_error(line)
        return status


def _run(args: Sequence[str]) -> int:
    from click.exceptions import Exit

    from .commands import program

    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, PROG, COMPLETE, asked)
    # Not program.main(), which answers exceptions, Ctrl-C and broken pipes itself.
    try:
        with program.make_context(PROG, list(args)) as context:
            program.invoke(context)
    except Exit as done:
        return done.exit_code
    return 0


def _message_and_status(error: Exception) -> tuple[str, int]:
    """The error line, empty for none, and the exit status."""
    import click

    if isinstance(error, click.Abort):
        return "", INTERRUPTED
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else PROG
        return f"{error.format_message().rstrip('.')} ('{where} --help' lists the options)", MISUSED
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, ConfigurationError):
        return str(error), MISUSED
    if isinstance(error, OpenAICompatError):
        return str(error) or type(error).__name__, FAILED
    if isinstance(error, OSError):
        return f"cannot write the answer: {error.strerror or error}", FAILED
    return f"unexpected {type(error).__name__}: {error} (OPENAI_COMPAT_DEBUG=1 shows where)", FAILED


def _prepare_streams() -> None:
    """Write any text in any locale, and run although the program that started us closed our streams."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as we run
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdin" else "backslashreplace")


def _let_go_of_stdout() -> None:
    """Keep Python from trying again at exit to write what could not be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
