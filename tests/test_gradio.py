"""Gradio on loopback, asked by its own client: the page's code, the example, and its stop button."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from support.pages import ROOT, program_of

from openai_compat.testing import Answer, AskedRequest, FakeServer, RawReply, answer, error, stream_of

EXAMPLE = ROOT / "docs" / "examples" / "gradio_chat.py"
# In a process of its own, for Gradio leaves event loops and sockets to the collector.
VISIT = """
import gc, json, os, runpy, sys

page = {"__name__": "page"}
exec(sys.argv[2], page)
for name in ("answer", "thoughtful", "helper"):
    *_, said = page[name]("hi", [])
    assert said == "Hello", (name, said)
*_, (thinking, said) = page["thoughtful"]("think", [])
assert (thinking.content, thinking.metadata, said.content) == ("Hm.", {"title": "Thinking"}, "Hello")

demo = runpy.run_path(sys.argv[1])["demo"]
demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)

from gradio_client import Client

browser = Client(demo.local_url, verbose=False)

def tell(*what):
    print(json.dumps(what), flush=True)

job = browser.submit("hi", api_name="/answer")
tell(job.result(timeout=60), job.outputs())
browser.predict("bye", api_name="/answer")
try:
    browser.predict("fail", api_name="/answer")
except Exception as error:
    tell(str(error))
gc.collect()
gc.disable()
job = browser.submit("stop", api_name="/answer")
for piece in job:
    break
job.cancel()
tell("stopped")
sys.stdin.readline()
os._exit(0)
"""


def reply(request: AskedRequest) -> Answer | RawReply:
    match request.prompt:
        case "stop":
            # Gradio interrupts what it runs between two pieces.
            return answer("a" * 10_000, chunk_size=1, pause=0.01)
        case "think":
            return answer("Hello", reasoning="Hm.")
        case "fail":
            return error(400, "too long")
        case _:
            return stream_of("He", "llo")


def test_page_and_example_answer_and_the_example_tells_what_failed_and_stops() -> None:
    with FakeServer() as model:
        model.add(reply, times=None)
        named = {"OPENAI_BASE_URL": model.url, "OPENAI_MODEL": "m", "GRADIO_ANALYTICS_ENABLED": "False"}
        visit = subprocess.Popen(
            [sys.executable, "-c", VISIT, str(EXAMPLE), program_of("gradio.md")],
            env={**os.environ, **named},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with visit:
            assert visit.stdout is not None
            try:
                assert json.loads(visit.stdout.readline()) == ["Hello", ["He", "Hello"]]
                assert "too long" in json.loads(visit.stdout.readline())[0]
                assert json.loads(visit.stdout.readline()) == ["stopped"]
                model.wait_for(abandoned=1, timeout=20)
                visit.communicate("\n", timeout=20)
            finally:
                visit.kill()
    asked = [request.body["messages"] for request in model.requests[4:]]
    assert [messages[-1]["content"] for messages in asked] == ["hi", "bye", "fail", "stop"]
    messages = asked[1]
    assert [set(message) for message in messages] == [{"role", "content"}] * 3
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert "hi" in str(messages[0]["content"])
    assert "Hello" in str(messages[1]["content"])
