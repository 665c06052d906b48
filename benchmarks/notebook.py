"""What a streamed answer costs in a notebook, with a real kernel: `python -m benchmarks.notebook`.

It compares a `NotebookSink` with what cookbooks show, a `display(Markdown(...))` for each token, by the seconds that
the cell takes and the bytes that the kernel sends to the browser; and says how long an interrupt takes. Needs ipykernel
and jupyter_client.
"""

import http.server
import json
import threading
import time

from jupyter_client.manager import KernelManager

PREPARE = """
from IPython.display import Markdown, clear_output, display
from openai_compat import Client
from openai_compat.integrations.jupyter import NotebookSink

client = Client({url!r}, model="m")
"""
SINK = "client.chat('hi', sink=NotebookSink()).finish_reason"
COOKBOOK = """
text = ""
for event in client.stream("hi"):
    if event.delta:
        text += event.delta
        clear_output(wait=True)
        display(Markdown(text))
"""
SILENT = 0
"""As a number of tokens: say nothing, for ever."""


class Model(http.server.BaseHTTPRequestHandler):
    """Answers at once, with as many tokens as the path says."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        tokens = int(self.path.split("/")[1])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if tokens == SILENT:
            self.server.asked.set()
            self.rfile.read(1)
        for number in range(tokens):
            delta = {"content": f"word{number % 10}" + ("\n\n" if number % 50 == 49 else " ")}
            self.wfile.write(b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())
        self.wfile.write(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')

    def log_message(self, *_: object) -> None:
        pass


def run(client, code: str) -> tuple[float, int]:
    """Seconds and bytes of a cell."""
    channel, session = client.iopub_channel.socket, client.session
    sent = 0
    began = time.perf_counter()
    asked = client.execute(code)
    while True:
        frames = channel.recv_multipart()
        message = session.deserialize(session.feed_identities(frames)[1])
        if message["parent_header"].get("msg_id") == asked:
            sent += sum(map(len, frames))
            if message["content"].get("execution_state") == "idle":
                return time.perf_counter() - began, sent


def interrupt(manager, client, model) -> float:
    """Seconds from the interrupt of a silent stream until the kernel is idle again."""
    pressed = []

    def press() -> None:
        model.asked.wait()
        # The kernel has to be reading by then.
        time.sleep(0.2)
        pressed.append(time.perf_counter())
        manager.interrupt_kernel()

    thread = threading.Thread(target=press)
    thread.start()
    run(client, SINK)
    ended = time.perf_counter()
    thread.join()
    return ended - pressed[0]


def main() -> None:
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    model.daemon_threads = True
    model.asked = threading.Event()
    threading.Thread(target=model.serve_forever, daemon=True).start()
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready()
    try:
        print(f"{'tokens':>8} {'':16} {'seconds':>8} {'KiB':>10}")
        for tokens in (2000, 4000):
            run(client, PREPARE.format(url=f"http://127.0.0.1:{model.server_port}/{tokens}"))
            for name, code in (("NotebookSink", SINK), ("each token", COOKBOOK)):
                seconds, sent = min(run(client, code) for _ in range(3))
                print(f"{tokens:>8,} {name:16} {seconds:8.3f} {sent / 1024:10,.0f}")
        run(client, PREPARE.format(url=f"http://127.0.0.1:{model.server_port}/{SILENT}"))
        print(f"interrupt of a silent stream, until idle: {interrupt(manager, client, model):.3f} s")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
