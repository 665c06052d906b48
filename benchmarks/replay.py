"""The server, in a process of its own: `python -m benchmarks.replay`.

`POST /SCENARIO/...` replays that scenario. It prints its port, then, for each line on its standard input, the number
of connections that it has accepted so far, but for a line that names a scenario: that one is made ready. It ends with
its standard input.
"""

import contextlib
import re
import socket
import sys
import threading
import time

from benchmarks.scenarios import STAMP, scenario

accepted = 0


def replay(connection: socket.socket, name: str) -> bool:
    """Write one reply; return whether the connection is still open."""
    reply = scenario(name)
    for write in reply.writes:
        if reply.pause:
            time.sleep(reply.pause)
            write = write.replace(STAMP, b"%020d" % time.monotonic_ns())
        connection.sendall(write)
    return not reply.close


def serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError), connection.makefile("rb") as requests:
        while line := requests.readline():
            name = line.split(b"/")[1].decode()
            length = 0
            while (header := requests.readline()) != b"\r\n":
                if match := re.fullmatch(rb"content-length: *(\d+)\r\n", header, re.IGNORECASE):
                    length = int(match[1])
            requests.read(length)
            if not replay(connection, name):
                return


def accept(listener: socket.socket) -> None:
    global accepted
    while True:
        connection, _ = listener.accept()
        accepted += 1
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        if name := line.strip():
            scenario(name)
        print(accepted, flush=True)


if __name__ == "__main__":
    main()
