"""Build the wheel, install it alone in a clean environment, and use it there.

Run by ``make wheel``: a package that is there by accident in the development environment is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, stream_pieces

ROOT = Path(__file__).parent.parent
NAMED = {"requests", "sseclient-py", "attrs", "msgspec"}
OF_REQUESTS = {"urllib3", "certifi", "charset-normalizer", "idna"}

USE = """
import sys
from openai_compat import Client, __version__
client = Client(sys.argv[1], "key", model="m")
assert client.chat("hi").text == "ok"
assert client.chat("hi", sink=lambda event: None).text == "ab"
assert list(client.embed("hi").embedding) == [1.0, 2.0]
from openai_compat import tool
def now(): pass
assert tool(now).spec.parameters["type"] == "object"
assert client.run_tools("hi", tools=[now]).text == "ok"
assert client.chat("hi", response_type=str).parsed == "ok"
said = client.conversation()
assert said.say("hi").text == "ok" and len(said.messages) == 2
print(__version__)
"""

LIST = """
from importlib.metadata import distributions
print(*{item.metadata["Name"].lower().replace("_", "-") for item in distributions()})
"""


def answer(request: Request) -> Reply:
    if request.path.endswith("/embeddings"):
        return Reply(headers=JSON, body=json.dumps({"data": [{"embedding": [1.0, 2.0]}]}).encode())
    if request.json()["stream"]:
        return Reply(headers=EVENT_STREAM, body=stream_pieces("a", "b"))
    return chat_reply()


# The tests' helpers are on the path of this script alone.
os.environ.pop("PYTHONPATH", None)


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=tempfile.gettempdir(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
        run(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", made, str(ROOT))
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "clean", with_pip=True)
        python = str(folder / "clean" / "bin" / "python")
        run(python, *pip, "install", str(wheel))
        installed = set(run(python, "-c", LIST).split())
        more = installed - NAMED - OF_REQUESTS - {"openai-compat", "pip", "setuptools"}
        assert not more, f"unexpected packages: {more}"
        with ReplayServer(answer) as server:
            version = run(python, "-W", "error", "-c", USE, server.url)
        help_ = subprocess.run([str(folder / "clean" / "bin" / "openai-compat")], capture_output=True, text=True)
        assert help_.returncode == 2, help_
        assert "openai-compat[cli]" in help_.stderr, help_.stderr
        print(f"{wheel.name}: works alone, version {version}")


if __name__ == "__main__":
    main()
