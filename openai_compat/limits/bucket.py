"""A token bucket: so much a minute, in bursts of at most a second's worth."""

from __future__ import annotations

BURST = 1 / 60
"""Of a minute's worth: what may go at once after a pause."""

SLACK = 1e-6
"""What may be missing: sums of fractions are not exact."""


class Bucket:
    """So much a minute; times are in seconds, of whatever clock.

    In no minute is more taken than ``per_minute``, as long as nothing is larger than the burst. What is larger goes
    when the bucket is full, and is paid off afterwards.

    Args:
        per_minute: a whole number from 1.
    """

    def __init__(self, per_minute: int) -> None:
        self.burst: float = max(1.0, per_minute * BURST)
        # A window that begins with a full bucket gets the burst beside what flows in; amounts are whole numbers.
        self.rate: float = (per_minute + 1 - self.burst) / 60
        self.level: float = self.burst
        self.filled_at: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken."""
        self._fill(now)
        missing = min(amount, self.burst) - self.level
        return missing / self.rate if missing > SLACK else 0.0

    def take(self, amount: float) -> None:
        """Take it; a negative amount gives back."""
        self.level -= amount

    def _fill(self, now: float) -> None:
        if self.filled_at is not None:
            self.level += max(0.0, now - self.filled_at) * self.rate
        self.level = min(self.level, self.burst)
        self.filled_at = now
