"""`python -m benchmarks.many`: progress on stderr, one Markdown table on stdout, exit code 1 if any answer was wrong.

The server and each contestant are processes of their own. The contestants take turns, round after round.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import ROOT
from benchmarks.driver import ENVIRONMENT, Lines
from benchmarks.environments import prepare
from benchmarks.many.contestants import MANY, Many

DELAY = 0.05
WORKER = "import sys; sys.path.append(sys.argv.pop(1)); from benchmarks.many.worker import main; main()"
KILLS = 5
LONGEST = 120.0
"""Seconds after which a contestant is given up."""


@dataclass
class Arena:
    """What the measures need: the contestants' interpreters, the server, and what went wrong."""

    contestants: tuple[Many, ...]
    count: int
    rounds: int
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pythons = {each.entry.name: prepare(each.entry) for each in self.contestants}
        self.server = Lines(sys.executable, "-m", "benchmarks.many.server", cwd=ROOT)
        self.url = f"http://127.0.0.1:{int(self.server.answer())}/v1"

    def reset(self, delay: float, refuse: int | None = None) -> None:
        self.server.ask(json.dumps({"delay": delay, "refuse": refuse}))

    def counts(self, *, end: bool = False) -> dict[str, int]:
        """What the server counted; ``end``: and tell it that who asks is killed now."""
        counts: dict[str, int] = json.loads(self.server.ask('{"end": true}' if end else "{}"))
        return counts

    def wait_for(self, answers: int) -> None:
        """Wait until the server has given so many."""
        end = time.monotonic() + LONGEST
        while self.counts()["answers"] < answers:
            if time.monotonic() > end:
                raise SystemExit("a contestant does not get on")
            time.sleep(0.01)

    @contextlib.contextmanager
    def started(self, each: Many, what: str, workers: int, kept: Path, count: int | None = None) -> Iterator[Any]:
        """A contestant's process; killed at the end, if it has not ended."""
        arguments = (each.run.__name__, self.url, count or self.count, workers, kept, what)
        command = [str(self.pythons[each.entry.name]), "-I", "-c", WORKER, str(ROOT), *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT, cwd=kept.parent
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def result(self, process: Any, each: Many, what: str, *, may_give_up: bool = False) -> dict[str, Any] | None:
        """The line that it prints; none, and remembered, where something was wrong."""
        line = process.stdout.readline()
        result = json.loads(line) if line else {}
        if may_give_up and not line:
            return None
        if not result.get("right"):
            self.wrong.append(f"{each.title}: {what}: {line.strip() or 'it ended without a result'}")
            return None
        return dict(result)

    def turns(self, measure: Callable[[Many, Path], float | None]) -> dict[str, list[float]]:
        """What each contestant measured, one value a round."""
        values: dict[str, list[float]] = {each.title: [] for each in self.contestants}
        for number in range(self.rounds):
            turn = number % len(self.contestants)
            for each in self.contestants[turn:] + self.contestants[:turn]:
                with tempfile.TemporaryDirectory() as folder:
                    if (value := measure(each, Path(folder) / "kept")) is not None:
                        values[each.title].append(value)
        return values


def run(arena: Arena, each: Many, kept: Path, workers: int, delay: float, *, refuse: bool = False) -> Any:
    """Ask everything once, and return what that cost."""
    with arena.started(each, "run", workers, kept) as process:
        arena.reset(0.0)
        ready = process.stdout.readline()
        arena.reset(delay, arena.count // 2 if refuse else None)
        if ready:
            process.stdin.write("\n")
            process.stdin.flush()
        return arena.result(process, each, f"{workers} workers", may_give_up=refuse)


def efficiency(arena: Arena) -> Iterator[tuple[str, dict[str, list[float]], str]]:
    """The time that the delays take, over the time that it took; and the CPU of the contestant's process."""
    used: dict[str, list[float]] = {each.title: [] for each in arena.contestants}
    for workers in (16, 64):

        def measure(each: Many, kept: Path, workers: int = workers) -> float | None:
            if (result := run(arena, each, kept, workers, DELAY)) is None:
                return None
            if workers == 16:
                used[each.title].append(result["cpu"] / arena.count * 1e6)
            return arena.count * DELAY / workers / float(result["wall"])

        yield f"efficiency with {workers} workers", arena.turns(measure), ".3f"
    yield "CPU a request, 16 workers (µs)", used, ",.0f"


def refusal(arena: Arena) -> Iterator[tuple[str, dict[str, list[float]], str]]:
    """One HTTP 429 in the middle, whose sender is asked to come back after two seconds."""

    def measure(each: Many, kept: Path) -> float | None:
        result = run(arena, each, kept, 16, DELAY, refuse=True)
        return None if result is None else float(result["wall"])

    yield "one 429 in the middle, 16 workers: seconds in all", arena.turns(measure), ".2f"


def killed(arena: Arena) -> Iterator[tuple[str, dict[str, list[float]], str]]:
    """``kill -9`` each time that a sixth was answered since the last, then the same line to its end."""
    lost: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    for each in arena.contestants:
        arena.reset(DELAY)
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "kept"
            for _ in range(KILLS):
                enough = arena.counts()["answers"] + arena.count // (KILLS + 1)
                with arena.started(each, "interrupt", 16, kept) as process:
                    arena.wait_for(enough)
                    process.kill()
                    arena.counts(end=True)
            with arena.started(each, "interrupt", 16, kept) as process:
                answers = json.loads(process.stdout.readline() or "{}").get("answers")
        counts = arena.counts()
        if answers != arena.count or counts["questions"] != arena.count:
            arena.wrong.append(f"{each.title}: killed: {answers} answers, {counts}")
        lost[each.title], again[each.title] = [counts["lost"]], [counts["sent_again"]]
    yield f"kill -9, {KILLS} times: answers lost", lost, ",.0f"
    yield f"kill -9, {KILLS} times: requests sent twice", again, ",.0f"


def interrupted(arena: Arena) -> Iterator[tuple[str, dict[str, list[float]], str]]:
    """One Ctrl-C after a third."""
    seconds: dict[str, list[float]] = {}
    lost: dict[str, list[float]] = {}
    for each in arena.contestants:
        arena.reset(DELAY)
        with (
            tempfile.TemporaryDirectory() as folder,
            arena.started(each, "interrupt", 16, Path(folder) / "k") as process,
        ):
            arena.wait_for(arena.count // 3)
            settled, start = arena.counts()["settled"], time.perf_counter()
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST)
            seconds[each.title] = [time.perf_counter() - start]
            process.kill()
            kept = json.loads(process.stdout.read() or "{}").get("answers", 0)
            lost[each.title] = [max(0, settled - kept)]
    yield "Ctrl-C: seconds to the end of the process", seconds, ".2f"
    yield "Ctrl-C: answers lost", lost, ",.0f"


def memory(arena: Arena) -> Iterator[tuple[str, dict[str, list[float]], str]]:
    """What the process grows by over many requests, after 200; the server answers at once."""
    grown: dict[str, list[float]] = {each.title: [] for each in arena.contestants}
    count = 10 * arena.count
    for each in arena.contestants:
        arena.reset(0.0)
        with (
            tempfile.TemporaryDirectory() as folder,
            arena.started(each, "grow", 16, Path(folder) / "k", count) as process,
        ):
            if result := arena.result(process, each, "memory"):
                grown[each.title].append(result["bytes"] / 2**20)
    yield f"memory grown, 200 to {count:,} lazy items (MiB)", grown, ".1f"


MEASURES = {each.__name__: each for each in (efficiency, refusal, killed, interrupted, memory)}


def cell(values: list[float], form: str) -> str:
    return format(statistics.median(values), form) if values else "none"


def main() -> int:
    names = [each.run.__name__ for each in MANY]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all contestants, 2,000 requests, three rounds")
    parser.add_argument("--contestants", help=f"separated by commas, of {', '.join(names)}")
    parser.add_argument("--measures", default=",".join(MEASURES), help="separated by commas: %(default)s")
    options = parser.parse_args()
    wanted = options.contestants.split(",") if options.contestants else None
    for given, known in ((wanted or [], names), (options.measures.split(","), [*MEASURES])):
        if unknown := set(given) - set(known):
            parser.error(f"no such thing: {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    contestants = tuple(
        each for each in MANY if (each.run.__name__ in wanted if wanted else each.usual or options.full)
    )
    arena = Arena(contestants, count=2000 if options.full else 400, rounds=3 if options.full else 1)
    loads = [os.getloadavg()[0]]
    print(f"| | {' | '.join(each.title for each in contestants)} |\n|---|{'---:|' * len(contestants)}")
    for name in options.measures.split(","):
        for title, values, form in MEASURES[name](arena):
            cells = (cell(values[each.title], form) for each in contestants)
            print(f"| {title} | {' | '.join(cells)} |", flush=True)
        loads.append(os.getloadavg()[0])
        print(f"{name} is done", file=sys.stderr)
    arena.server.close()
    print(
        f"\n{arena.count:,} requests of {DELAY * 1e3:.0f} ms, medians of {arena.rounds}. Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}."
    )
    for told in arena.wrong:
        print(f"WRONG: {told}", file=sys.stderr)
    return 1 if arena.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
