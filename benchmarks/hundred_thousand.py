"""A hundred thousand requests through ``client.map``: ``python -m benchmarks.hundred_thousand``.

The server replays bytes as fast as it can. One run without a journal and one with go on in turn, and ``chat`` in a loop
between them, so that what else the machine does falls on all three. A run that is not read goes on for some requests,
and then no further: its turn is over once it has come to rest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.contestants import ROOT
from benchmarks.driver import Lines
from openai_compat import Client

TURNS = 20
LOOP = 1000


class Turn(NamedTuple):
    """Seconds a request, and resident bytes at the end."""

    cpu: float
    wall: float
    memory: int


def turn(ask: Callable[[], object], requests: int) -> Turn:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(requests):
        ask()
    end = at_rest()
    return Turn(
        cpu=(time.process_time() - cpu) / requests,
        wall=(end - wall) / requests,
        memory=psutil.Process().memory_info().rss,
    )


def at_rest() -> float:
    """Since when all threads of this process have done next to nothing."""
    while True:
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(0.005)
        if time.process_time() - cpu < 0.0005:
            return wall


def turns(requests: int, workers: int) -> dict[str, list[Turn]]:
    server = Lines(sys.executable, "-m", "benchmarks.replay", cwd=ROOT)
    client = Client(f"http://127.0.0.1:{int(server.answer())}/chat/v1", model="m")
    prompts = (f"Question {number}" for number in range(requests))
    again = (f"Question {number}" for number in range(requests))
    found: dict[str, list[Turn]] = {"chat in a loop": [], "map": [], "map, with a journal": []}
    with tempfile.TemporaryDirectory() as folder:
        bare = client.map(prompts, workers=workers)
        kept = client.map(again, workers=workers, journal=Path(folder) / "run.sqlite")

        def answered(run: Iterator[object]) -> Callable[[], None]:
            def ask() -> None:
                assert next(run).ok  # type: ignore[attr-defined]

            return ask

        asks = (lambda: client.chat("Question"), answered(bare), answered(kept))
        for number in range(TURNS):
            for (title, done), ask in zip(found.items(), asks, strict=True):
                done.append(turn(ask, LOOP if title == "chat in a loop" else requests // TURNS))
            print(f"{number + 1} of {TURNS} turns", file=sys.stderr)
        bare.close()
        kept.close()
    server.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hundred_thousand", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="of each run: %(default)s")
    parser.add_argument("--workers", type=int, default=16, help="of each run: %(default)s")
    options = parser.parse_args()
    found = turns(options.requests, options.workers)
    loop, bare, kept = found.values()
    print("| | CPU a request (µs) | requests a second | CPU / chat |\n|---|---:|---:|---:|")
    for title, each in found.items():
        cpu, wall = (statistics.median(one[place] for one in each) for place in (0, 1))
        ratio = statistics.median(one.cpu / other.cpu for one, other in zip(each, loop, strict=True))
        print(f"| {title} | {cpu * 1e6:.0f} | {1 / wall:,.0f} | {ratio:.2f} |")
    slower = statistics.median(1 - one.wall / other.wall for one, other in zip(bare, kept, strict=True))
    grown = (kept[-1].memory - loop[1].memory) / 2**20
    print(f"\nThe journal takes {slower:.0%} of the throughput. Memory after the first turn: {grown:+.1f} MiB.")
    print(f"{options.requests:,} requests of each, {options.workers} workers, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
