"""How long a call may take, and how it is ended from another thread."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from ._threads import spawn
from .errors import APIConnectionError, APITimeoutError, Cancelled, ConfigurationError, Phase

T = TypeVar("T")


def _seconds(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf
    ):
        raise ConfigurationError(f"timeout: {attribute.name} must be a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeout:
    """How long to wait, in seconds; None is for ever.

    Args:
        connect: for the connection, TLS included.
        first_token: from the request to the first piece of the answer; without a stream, to the reply's headers, which
            most servers send when the whole answer is there.
        idle: between two pieces of the answer; keep-alive comments are no pieces.
        total: for the whole call, retries included. A plain number given as a timeout is this.
    """

    connect: float | None = attrs.field(default=10.0, validator=_seconds)
    first_token: float | None = attrs.field(default=600.0, validator=_seconds)
    idle: float | None = attrs.field(default=120.0, validator=_seconds)
    total: float | None = attrs.field(default=None, validator=_seconds)

    @classmethod
    def of(cls, value: Timeout | float | None) -> Timeout:
        """``value`` as a Timeout; None means no limit at all."""
        if isinstance(value, Timeout):
            return value
        if value is None:
            return cls(connect=None, first_token=None, idle=None)
        return cls(total=value)


class CancelToken:
    """Ends calls from another thread: give it to a call as ``cancel=``, and call ``cancel()``.

    One token may be given to many calls; once cancelled it stays so.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_cancelled: Callable[[], bool] = self._event.is_set
        self._lock = threading.RLock()
        self._listeners: set[Callable[[], object]] = set()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` has been called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """End every call that has this token, in whatever phase it is."""
        self._event.set()
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait; True as soon as the token is cancelled."""
        return self._event.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if the token is."""
        if self.cancelled:
            raise Cancelled

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call ``listener``, which must not block, when the token is cancelled; at once if it is already."""
        with self._lock:
            self._listeners.add(listener)
        if self.cancelled:
            listener()

    def unsubscribe(self, listener: Callable[[], object]) -> None:
        """Forget ``listener``."""
        with self._lock:
            self._listeners.discard(listener)


def interruptible(function: Callable[[], T], cancel: CancelToken | None) -> T:
    """Call a function; with a token, on a thread of its own, so that cancelling gives control back at once.

    Raises:
        Cancelled: the token was cancelled first; the thread goes on until the function returns.
    """
    if cancel is None:
        return function()
    cancel.raise_if_cancelled()
    over = threading.Event()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    cancel.subscribe(over.set)
    try:
        spawn(work, name="openai_compat tool")
        over.wait()
    finally:
        cancel.unsubscribe(over.set)
    if failure:
        raise failure[0]
    if outcome:
        return outcome[0]
    raise Cancelled


class Deadline:
    """When a call has to be over, and what may end it before."""

    def __init__(self, timeout: Timeout, cancel: CancelToken | None = None) -> None:
        self.timeout = timeout
        self.cancel = cancel
        self.started = time.monotonic()
        self.ends = None if timeout.total is None else self.started + timeout.total

    @property
    def cancelled(self) -> bool:
        """Whether the caller has ended the call."""
        return self.cancel is not None and self.cancel.cancelled

    @property
    def left(self) -> float | None:
        """Seconds until the call's total is used up, 0 at the least; None where there is no total."""
        return None if self.ends is None else max(self.ends - time.monotonic(), 0.0)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.monotonic() - self.started) * 1000

    def within(self, seconds: float | None) -> float | None:
        """``seconds``, or what is left of the total where that is less."""
        left = self.left
        return seconds if left is None else left if seconds is None else min(seconds, left)

    def sleep(self, seconds: float) -> None:
        """Wait to try again; ends early with ``Cancelled``, or at once with a timeout that would come before."""
        left = self.left
        if left is not None and left < seconds:
            raise APITimeoutError(
                f"no time is left to try again: {seconds:.1f} s are to be waited, {self.timeout.total:g} s were given",
                phase="total",
            )
        if self.cancel is None:
            time.sleep(seconds)
        elif self.cancel.wait(seconds):
            raise Cancelled


class Exchange:
    """One request and its reply: what another thread needs to end it, and what its reader needs to time it.

    It is of this process alone, for a forked child has its parent's sockets too.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.rearms = False
        self.reused = False
        self.body: Any = None
        self.wire: Any = None
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._sock: Any = None
        self._set: float | None = None
        self._beat_every: float | None = None
        self._next_beat = self._armed_until = 0.0
        self.enter("connect", deadline.timeout.connect)

    def enter(self, phase: Phase, seconds: float | None) -> None:
        """Begin a phase that may last ``seconds``."""
        self.phase = phase
        self._seconds = seconds
        self._since = time.monotonic()
        self._armed_until = 0.0

    def progress(self) -> None:
        """Something has come: the phase begins anew."""
        self._since = time.monotonic()

    def heard(self, *, token: bool) -> None:
        """A payload of a stream has come, with a piece of the answer in it or not: the idle limit starts anew."""
        if self.phase == "idle":
            self.progress()
        elif token and self.phase == "first_token":
            self.enter("idle", self.deadline.timeout.idle)
        if token and self._beat_every is not None:
            self._next_beat = self._since + self._beat_every

    def use(self, sock: Any) -> None:
        """The connection's socket, from before it is connected."""
        self._sock = sock
        self._set = None
        if self.deadline.cancelled:
            self.shut_down()

    @property
    def connected(self) -> bool:
        """Whether there is a socket to time and to shut down."""
        return self._sock is not None

    def shut_down(self) -> None:
        """Wake whoever is blocked on the socket."""
        if self._process != os.getpid():
            return
        with self._lock:
            if self._sock is not None:
                # Not SSLSocket's own shutdown, which would pull the TLS state from under the reader.
                with contextlib.suppress(OSError, TypeError):
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def detach(self) -> None:
        """The connection is about to serve another call: from now on nothing is shut down."""
        with self._lock:
            self._sock = None

    def rearm(self) -> None:
        """From now on each read of the socket arms it itself."""
        self.rearms = True
        self._set = None

    def resume(self, left: float) -> None:
        """The reader was busy since ``left``, a monotonic time; that is not the server's fault."""
        now = time.monotonic()
        self._since = min(now, self._since + now - left)

    def arm(self) -> None:
        """Limit the next read to what is left, or to the next beat.

        Raises:
            TimeoutError: nothing is left.
            APIConnectionError: in a forked child.
        """
        if self._process != os.getpid():
            raise APIConnectionError("this reply belongs to the parent process; a forked child has to ask anew")
        now = time.monotonic()
        if now < self._armed_until:
            return
        left = self._left(now)
        beat = None if self._beat_every is None else self._next_beat - now
        if beat is not None and (left is None or beat < left):
            left = beat
        if left is not None and left <= 0:
            raise TimeoutError
        if left is None or self._set is None or not left <= self._set <= left * 1.02:
            self._set = left
            # A reply that closes its connection has closed the socket once all of it is read.
            with contextlib.suppress(OSError):
                self._sock.settimeout(left)
        if beat is not None and left is not None:
            # As exact as without beats, and not a system call for each token.
            self._armed_until = now + left * 0.02

    def _left(self, now: float) -> float | None:
        """Seconds that the phase and the call may still take; None without a limit."""
        left = None if self._seconds is None else self._since + self._seconds - now
        ends = self.deadline.ends
        return left if ends is None or (left is not None and left <= ends - now) else ends - now

    def beat_every(self, seconds: float) -> None:
        """From now on a read ends when ``seconds`` have passed since the last piece of the answer, or the last beat."""
        self._beat_every = seconds
        self._next_beat = time.monotonic() + seconds
        self._armed_until = 0.0

    def beat(self) -> bool:
        """Whether a read that has timed out was only to give a beat, and may be tried again."""
        if self._beat_every is None:
            return False
        left = self._left(time.monotonic())
        if left is not None and left <= 0:
            return False
        self.beat_every(self._beat_every)
        return True

    def timeout(self, where: str, provider: str) -> APITimeoutError:
        """The error for a limit that was reached."""
        phase = "total" if self.deadline.left == 0.0 else self.phase
        limits: dict[Phase, str] = {
            "connect": "no connection to {where} within {seconds:g} s",
            "first_token": "no answer from {where} within {seconds:g} s",
            "idle": "nothing more from {where} for {seconds:g} s",
            "total": "the call to {where} took more than {seconds:g} s in all",
        }
        seconds = getattr(self.deadline.timeout, phase) or 0.0
        return APITimeoutError(
            limits[phase].format(where=where, seconds=seconds) + f" (timeout: {phase})",
            phase=phase,
            provider=provider,
            # A server that is slow to answer may still be at work: to ask again would double its load.
            retryable=phase == "connect",
        )
