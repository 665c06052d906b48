"""How many threads are of use: once some keep the interpreter busy, one more would only fight with them for it.

A server that answers in 50 ms keeps hundreds of threads waiting, one that answers at once not even two: sixteen take
half as much again of a processor for each request as one does, and are slower.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from .._bell import Bell

SPAN = 0.1
"""Seconds that are looked at as one."""

SPANS = 3
"""Of these in a row, before those at rest are missed: a disk may keep all waiting for one."""

BUSY = 0.8
"""Part of a processor's time that the threads take, from which on half of them rest."""

KEPT = 0.9
"""Part of the requests that were done before in the same time, below which those at rest are missed: what computes
outside the interpreter, as much of NumPy does, is not in each other's way."""

ROOM = 0.65
"""Part of a processor's time below which more threads would get more done."""

LOOKOUT = 0.02
"""Seconds after which one of those at rest looks up."""

IDLE = 0.25
"""Part of a processor's time below which all others have begun to wait for a server."""

IDLE_FOR = 0.05
"""Seconds of that which are enough: more than a disk takes to write down what a journal has, as a rule."""

HOLD = 5.0
"""Seconds after a call back in which nobody is sent to rest: what was tried would only be tried again."""

TRY_AGAIN = 15.0
"""Seconds after which some are called back to see whether they are of use by now."""


class _Passed(NamedTuple):
    """Seconds in which there was something to ask, those of a processor that the threads took, and what they did."""

    seconds: float
    cpu: float
    requests: int


class Concurrency:
    """The threads of a crew, awake or at rest; asked and told by each of them.

    Only their own time on a processor counts. What else a program computes, however much, sends none of them to rest:
    it is not they who are in its way while they wait for a server. Half of them rest at a time, and come back where
    less is done without them; later as many as are awake where there is room, and three times as many where all wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._awake = 0
        self._surplus = 0
        self._returning = 0
        self._missed_below = 0.0
        self._over = False
        self._cpu = 0.0
        self._requests = 0
        self._looked = _Passed(0.0, 0.0, 0)
        self._not_before = 0.0
        self._changed = 0.0
        self._starved = 0
        self._stands_since: float | None = None
        self._stood = 0.0
        self._lookout = threading.Lock()
        self._end = Bell()

    def join(self) -> None:
        """A thread begins."""
        self._threads += 1
        self._change(awake=1)

    def starved(self) -> None:
        """A thread waits until it may ask, which says nothing of the interpreter; then it is ``fed``."""
        self._change(starved=1)

    def fed(self) -> None:
        """A thread may ask."""
        self._change(starved=-1)

    def stop(self) -> None:
        """Nobody rests any more. Takes no lock: the garbage collector may have come to it anywhere."""
        self._over = True
        self._end.ring()

    def worked(self, cpu: float, requests: int) -> None:
        """A thread took so many seconds of a processor for so many requests; returns once it is needed again."""
        with self._lock:
            self._cpu += cpu
            self._requests += requests
            passed = self._since(self._looked)
            if passed.seconds >= SPAN:
                self._looked = self._now()
                may_rest = self._awake > 1 and self._looked.seconds >= self._not_before
                if may_rest and passed.cpu >= BUSY * passed.seconds:
                    self._surplus = self._awake // 2
                    self._changed = self._looked.seconds
                    self._not_before = self._changed + (SPANS + 1) * SPAN  # until it is known who is missed
                    self._missed_below = KEPT * passed.requests / passed.seconds
            rests = self._surplus > 0 and not self._over
            self._surplus -= rests
        if rests:
            self._change(awake=-1)
            self._rest()
            self._change(awake=1)

    def _rest(self) -> None:
        with self._lookout:
            began, missed = self._now(), 0
            while not self._returning and not self._over:
                self._end.wait(LOOKOUT)
                passed, now = self._since(began), self._now()
                # Where there was nothing to ask, it is not known who would be needed.
                all_wait = passed.seconds >= IDLE_FOR and passed.cpu < IDLE * passed.seconds
                if passed.seconds >= SPAN:
                    missed = missed + 1 if self._are_missed(passed, now) else 0
                    began = now
                tries = now.seconds - self._changed >= TRY_AGAIN
                if all_wait or missed == SPANS or tries:
                    self._call_back(3 * self._awake if all_wait else self._awake)
                    self._changed = now.seconds
                    self._not_before = now.seconds + (HOLD if all_wait or missed == SPANS else SPAN)
            self._returning = max(0, self._returning - 1)

    def _are_missed(self, passed: _Passed, now: _Passed) -> bool:
        """Whether those that are awake leave room, or just after the others went to rest do less than with them."""
        on_trial = now.seconds < self._changed + (SPANS + 2) * SPAN
        does_less = on_trial and passed.requests < self._missed_below * passed.seconds
        return does_less or passed.cpu < ROOM * passed.seconds

    def _call_back(self, threads: int) -> None:
        self._returning = min(threads, self._threads - self._awake)
        self._surplus = 0
        self._missed_below = 0.0

    def _change(self, *, awake: int = 0, starved: int = 0) -> None:
        with self._lock:
            self._awake += awake
            self._starved += starved
            now = time.monotonic()
            if self._starved < self._awake:
                self._stood += now - (self._stands_since or now)
                self._stands_since = None
            elif self._stands_since is None:
                self._stands_since = now

    def _now(self) -> _Passed:
        return _Passed((self._stands_since or time.monotonic()) - self._stood, self._cpu, self._requests)

    def _since(self, began: _Passed) -> _Passed:
        now = self._now()
        return _Passed(now.seconds - began.seconds, now.cpu - began.cpu, now.requests - began.requests)
