"""Whether a target takes time linear in its input."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import process_time

SMALL, LARGE = 16_000, 64_000
FREE = 0.5
"""Seconds of the processor that a large input may take whatever its growth."""


def swollen(data: bytes, size: int) -> bytes:
    """``data`` with a part of it said again and again, up to a size; the first byte, which is a setting, stays."""
    chance = random.Random(data)
    head, rest = data[:1], data[1:] or b"x"
    begin = chance.choice((0, chance.randrange(len(rest))))
    end = chance.choice((len(rest), chance.randrange(begin, len(rest)) + 1))
    times = max(1, (size - len(rest)) // (end - begin))
    return head + rest[:begin] + rest[begin:end] * times + rest[end:]


def check_linear(target: Callable[[bytes], object], data: bytes) -> None:
    """Run a target on an input that has been made large."""
    large = swollen(data, LARGE)
    if _seconds(target, large) < FREE:
        return
    small = swollen(data, SMALL)
    # A busy machine makes a measurement too large, never too small.
    growth = min(_seconds(target, large) for _ in range(3)) / max(min(_seconds(target, small) for _ in range(3)), 0.005)
    assert growth < 2.5 * LARGE / SMALL, f"{growth:.0f} times as long for {LARGE // SMALL} times as much"


def _seconds(target: Callable[[bytes], object], data: bytes) -> float:
    start = process_time()
    target(data)
    return process_time() - start
