"""Real calls, refused: what this library is about to connect to anything but a fake server.

Python tells an audit hook of each address that is looked up or connected to; the stack tells whose doing it is. So
nothing of the library is replaced, nor even imported, and calls that a mock or a recording answers are not concerned.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

_CALLERS = ("openai_compat.transport", "openai_compat.server_options")
_ALLOWED = "openai_compat.testing.recorder"
_HERE = ("127.0.0.1", "::1", "localhost")


class RealCallBlockedError(RuntimeError):
    """A test was about to call a real server."""


class Blocker:
    """Refuses while it is on; ``blocked`` is what it has refused."""

    def __init__(self) -> None:
        self.on: bool = False
        self.blocked: list[str] = []
        self._hooked = False

    def install(self) -> None:
        """Begin to refuse. Python cannot take an audit hook away again, so one is all there ever is."""
        self.on = True
        if not self._hooked:
            self._hooked = True
            sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or event not in ("socket.connect", "socket.getaddrinfo"):
            return
        address = args[1] if event == "socket.connect" else args
        where = tuple(address[:2]) if isinstance(address, tuple) else (str(address),)
        if _is_fake(where) or not _is_ours(sys._getframe(1)):
            return
        told = ":".join(map(str, where))
        self.blocked.append(told)
        raise RealCallBlockedError(
            f"a call to {told} was blocked, for openai_compat_block is on: script a fake_server, replay a recording "
            "(recorded), or mark the test with @pytest.mark.real_calls"
        )


def _is_fake(where: tuple[Any, ...]) -> bool:
    server = sys.modules.get("openai_compat.testing.server")
    return server is not None and where[0] in _HERE and where[-1] in server.PORTS


def _is_ours(frame: FrameType | None) -> bool:
    """Whether a call of the library's is under way, and it is not recorded."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == _ALLOWED:
            return False
        if name.startswith(_CALLERS):
            return True
        frame = frame.f_back
    return False


blocker: Blocker = Blocker()
