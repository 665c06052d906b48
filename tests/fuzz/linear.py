"""Whether a target takes time linear in its input."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import process_time

SMALL, LARGE = 16_000, 64_000
LIMIT = 10
"""How many times as long the large input may take: four times would be linear, sixteen quadratic."""
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
    taken = _seconds(target, large)
    if taken < FREE:
        return
    small = swollen(data, SMALL)
    base = max(_seconds(target, small), 0.005)
    # A busy machine makes a measurement too large, never too small.
    for _ in range(2):
        if taken / base < LIMIT:
            break
        taken = min(taken, _seconds(target, large))
    growth = taken / base
    assert growth < LIMIT, f"{growth:.0f} times as long for {LARGE // SMALL} times as much"


def _seconds(target: Callable[[bytes], object], data: bytes) -> float:
    start = process_time()
    target(data)
    return process_time() - start
