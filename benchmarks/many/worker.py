"""One contestant in its own process and environment; a JSON result on its standard output.

Its arguments: the contestant, the server's URL, how many questions, how many workers, a file, and what is done: ``run``
asks them all and says what that cost, ``interrupt`` also goes on reading after a Ctrl-C, ``grow`` asks 200 first and
says how much memory the others took. Times are in seconds, memory in bytes.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.many.contestants import MANY, Run

SMALL = 200


def questions(first: int, last: int) -> Iterator[str]:
    return (f"question {number}" for number in range(first, last))


def text(came: Any) -> str:
    return came if isinstance(came, str) else came.text


def answered(came: Iterator[Any]) -> set[str]:
    return {text(each) for each in came}


def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(contestant: Run, url: str, count: int, workers: int, kept: Path) -> dict[str, Any]:
    warm = answered(contestant(url, questions(count, count + 2 * workers), workers, kept.with_suffix(".warm")))
    print(json.dumps({"warm": len(warm)}), flush=True)
    sys.stdin.readline()
    used, start = cpu(), time.perf_counter()
    texts = answered(contestant(url, questions(0, count), workers, kept))
    wall = time.perf_counter() - start
    right = texts == {f"answer to {question}" for question in questions(0, count)}
    return {"wall": wall, "cpu": cpu() - used, "right": right}


def interrupt(contestant: Run, url: str, count: int, workers: int, kept: Path) -> dict[str, Any]:
    texts: set[str] = set()
    came = contestant(url, questions(0, count), workers, kept)
    try:
        for each in came:
            texts.add(text(each))
    except KeyboardInterrupt:
        texts |= answered(came)
    return {"answers": len(texts)}


def grow(contestant: Run, url: str, count: int, workers: int, kept: Path) -> dict[str, Any]:
    few = sum(1 for _ in contestant(url, questions(count, count + SMALL), workers, kept.with_suffix(".warm")))
    before = most_memory()
    many = sum(1 for _ in contestant(url, questions(0, count), workers, kept))
    return {"bytes": most_memory() - before, "right": (few, many) == (SMALL, count)}


def main() -> None:
    name, url, count, workers, kept, what = sys.argv[1:]
    (contestant,) = (each.run for each in MANY if each.run.__name__ == name)
    result = {"run": run, "interrupt": interrupt, "grow": grow}[what](
        contestant, url, int(count), int(workers), Path(kept)
    )
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
