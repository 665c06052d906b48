"""The example applications with the chat page, each as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
WSGI = {"flask": "flask_chat:create_app()", "django": "django_chat:application"}
APPS = tuple(WSGI)


@contextlib.contextmanager
def serving(app: str, folder: Path, *, base_url: str = "", model: str = "m", gunicorn: bool = True) -> Iterator[str]:
    """An application's address.

    Args:
        app: one of ``APPS``.
        folder: where it keeps what it writes.
        base_url: of the model's server; by default it starts its own.
        gunicorn: whether a real one serves it, with threads and ``--preload``, or the framework's own server.
    """
    # Named by nobody else: the port stays taken from here on.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "SECRET_KEY": "for tests only",
            "CHAT_DATABASE": str(folder / "chat.sqlite3"),
            "CHAT_FOLDER": str(folder),
            "CHAT_MAX_TOKENS": "200",
        }
        if base_url:
            environment.update(OPENAI_BASE_URL=base_url, OPENAI_MODEL=model)
        script = str(EXAMPLES / f"{app}_chat.py")
        if gunicorn:
            if app == "django":
                subprocess.run([sys.executable, script, "migrate", "--verbosity=0"], env=environment, check=True)
            command = [sys.executable, "-m", "gunicorn", WSGI[app], "--chdir", str(EXAMPLES), "--preload"]
            command += ["--worker-class", "gthread", "--threads", "40", "--bind", f"fd://{listener.fileno()}"]
            command += ["--no-control-socket", "--graceful-timeout", "2"]
        else:
            listener.close()
            command = [sys.executable, script]
            command += ["--port", str(port)] if app == "flask" else ["runserver", str(port)]
        log = (folder / "log").open("w+")
        descriptors = [listener.fileno()] if gunicorn else []
        with (
            log,
            subprocess.Popen(
                command, env=environment, cwd=folder, pass_fds=descriptors, stdout=log, stderr=log
            ) as process,
        ):
            address = f"http://127.0.0.1:{port}/"
            try:
                _wait(address, process)
                yield address
            finally:
                process.terminate()
                process.wait(30)
                log.seek(0)
                told = log.read()
    # What gunicorn and Django say of an exception that has reached them.
    assert not re.search("Error handling request|Socket error|Internal Server Error|Exception happened", told), told


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the application answers."""
    for _ in range(600):
        with contextlib.suppress(requests.ConnectionError):
            requests.get(address, timeout=60).raise_for_status()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    raise AssertionError("the application did not start")
