"""How fast a server is asked, by what it says: additive increase, multiplicative decrease, as TCP does.

The window is how many calls may be under way. A refusal makes it smaller, each answer a little larger. It may fall
below one: then calls go one at a time, with pauses between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..wire.retry import MAX_WAIT, rate_limits

DECREASE = 0.7
"""What a refusal leaves of the window."""
CAREFUL = 0.2
"""How much of its growth is left where it was refused the last time: from a tenth below to a fifth above."""
USUAL_LATENCY = 0.5
"""Seconds that a call is taken to last before any was answered."""
LONGEST_PAUSE = 20.0
"""Seconds between two calls, however small the window."""


class Pace:
    """The window, and the calls in it; times are in seconds, of whatever clock.

    Args:
        concurrency: most calls under way; None for any number.
    """

    def __init__(self, concurrency: int | None) -> None:
        self._most: float = math.inf if concurrency is None else concurrency
        self.window: float = self._most
        self.under_way: int = 0
        self._begun = 0
        self._slowed = 0
        self._refused_at = math.inf
        self._last = -math.inf
        self._latency: float | None = None
        self._spacing = 0.0
        self._spaced_until = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until a call may begin; infinite where one has to end before."""
        if self.under_way and self.under_way + 1 > self.window:
            return math.inf
        pause = min((self._latency or USUAL_LATENCY) / self.window, LONGEST_PAUSE) if self.window < 1 else 0.0
        if now < self._spaced_until:
            pause = max(pause, self._spacing)
        return max(0.0, self._last + pause - now)

    def begin(self, now: float) -> int:
        """A call begins; its number."""
        self.under_way += 1
        self._begun += 1
        self._last = now
        return self._begun

    def end(self) -> None:
        """A call has ended, in whatever way."""
        self.under_way -= 1

    def answered(self, number: int, seconds: float) -> None:
        """A call was answered."""
        self._latency = seconds if self._latency is None else 0.8 * self._latency + 0.2 * seconds
        if number <= self._slowed or self.window == math.inf:
            return
        # By one call a round, and a small window by a twentieth an answer.
        step = min(1 / self.window, self.window / 20)
        near = 0.9 * self._refused_at
        if self.window < near:
            grown = min(self.window + step, near)
        elif self.window <= 1.2 * self._refused_at:
            grown = self.window + CAREFUL * step
        else:
            grown = self.window + step
        self.window = min(grown, self._most)

    def refused(self, number: int) -> None:
        """The server had a call wait: those that were sent before it could be heard of count as one."""
        if number <= self._slowed:
            return
        self._slowed = self._begun
        least = max(self._latency or USUAL_LATENCY, 0.001) / LONGEST_PAUSE
        self._refused_at = min(self.window, self.under_way)
        self.window = max(self._refused_at * DECREASE, min(least, 1.0))

    def told(self, headers: Mapping[str, str], tokens: float, now: float) -> None:
        """Heed what the server says is left: where it is less than a call needs, calls go as fast as it fills up.

        Args:
            headers: of a reply, with lower-case names.
            tokens: of a call.
        """
        said = rate_limits(headers)
        spacing = until = 0.0
        for what, need in (("requests", 1.0), ("tokens", max(tokens, 1.0))):
            limit, left, reset = [said.get(f"{word}_{what}") for word in ("limit", "remaining", "reset")]
            if limit is None or left is None or reset is None or left >= need:
                continue
            reset = min(reset, MAX_WAIT)
            spacing = max(spacing, reset * need / max(limit - left, need))
            until = max(until, reset)
        if said:
            self._spacing, self._spaced_until = spacing, now + until
