"""The TLS handshake, which no fork interrupts: a child could wait for ever for one of OpenSSL's own locks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

from urllib3.util.wait import wait_for_read, wait_for_write

from .._imports import importing

Wait = Callable[[Any, float | None], bool]


def in_steps(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context make sockets whose handshake leaves room for forks, unless it makes some of another library's."""
    if context.sslsocket_class is ssl.SSLSocket and issubclass(HandshakeSocket, ssl.SSLSocket):
        context.sslsocket_class = HandshakeSocket
    return context


class HandshakeSocket(ssl.SSLSocket):
    """A socket whose handshake is done in steps: none of them waits, and within none the process is forked."""

    def do_handshake(self, block: bool = False) -> None:
        timeout = self.gettimeout()
        if timeout == 0.0:
            super().do_handshake(block)
            return
        ends = None if timeout is None else time.monotonic() + timeout
        self.settimeout(0.0)
        try:
            while (wait := self._step()) is not None:
                left = None if ends is None else max(ends - time.monotonic(), 0.0)
                if not wait(self, left):
                    raise TimeoutError("the TLS handshake timed out")
        finally:
            self.settimeout(timeout)

    def _step(self) -> Wait | None:
        """What to wait for before the next step; None when there is none."""
        try:
            with importing:
                super().do_handshake()
        except ssl.SSLWantReadError:
            return wait_for_read
        except ssl.SSLWantWriteError:
            return wait_for_write
        return None
