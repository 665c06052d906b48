"""What is measured, in groups: each group is a function from a `Bench` to the rows of the table."""

import subprocess
import time
from collections.abc import Callable, Iterator

from benchmarks.contestants import ENTRIES, ROOT
from benchmarks.driver import ENVIRONMENT, Bench, Result
from benchmarks.environments import ENVS
from benchmarks.scenarios import scenario
from benchmarks.table import Row

FULL = [entry for entry in ENTRIES if not entry.only_chat]
SLOW_ROUNDS = 3  # for what takes seconds a call in some contestant


def _row(title: str, results: dict[str, list[Result]], what: str, unit: float) -> Row:
    return Row(title, {name: [result[what] / unit for result in of_one] for name, of_one in results.items()})


def _first_line(bench: Bench, name: str, *arguments: str) -> tuple[float, str]:
    """Return the seconds from starting a contestant's Python to its first line, and the line."""
    command = [str(bench.pythons[name]), "-I", *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, cwd=ENVS) as process:
        assert process.stdout
        line = process.stdout.readline()
        return time.perf_counter() - start, line.decode().strip()


def startup(bench: Bench) -> Iterator[Row]:
    repetitions = 2 * bench.rounds
    told = "print(flush=True)"
    count = "import sys; before = len(sys.modules); {}; print(len(sys.modules) - before)"
    modules = {
        entry.name: [float(_first_line(bench, entry.name, "-c", count.format(entry.imports))[1])] for entry in FULL
    }
    milliseconds: dict[str, list[float]] = {entry.name: [] for entry in FULL}
    for _ in range(repetitions):
        for entry in FULL:
            bare, _ = _first_line(bench, entry.name, "-c", told)
            loaded, _ = _first_line(bench, entry.name, "-c", f"{entry.imports}; {told}")
            milliseconds[entry.name].append(1e3 * (loaded - bare))
    yield Row("import, minus bare Python (ms)", milliseconds)
    yield Row("modules that the import loads", modules)

    expected = scenario("chat").expected.text
    milliseconds = {entry.name: [] for entry in FULL}
    for number in range(repetitions + 1):
        for entry in FULL:
            script = str(ROOT / "benchmarks" / "first_answer" / f"{entry.name}.py")
            seconds, line = _first_line(bench, entry.name, script, f"{bench.url}/chat/v1")
            if line != expected:
                bench.failures[f"{entry.title}: first answer"] = f"expected {expected!r}, got {line!r}"
            elif number:  # the first fills the disk's cache
                milliseconds[entry.name].append(1e3 * seconds)
    yield Row("process start to first answer (ms)", milliseconds)


def chat(bench: Bench) -> Iterator[Row]:
    results = bench.turns("timed", "chat", call="chat", times=100, rounds=5 * bench.rounds)
    yield _row("small chat call, kept-alive connection: CPU (µs)", results, "cpu", 1e-6)


def embeddings(bench: Bench) -> Iterator[Row]:
    for encoding in ("float", "base64"):
        name, title = f"embed-{encoding}", f"256 × 1536 embeddings, {encoding}"
        results = bench.turns("timed", name, call=name)
        yield _row(f"{title}: CPU (ms)", results, "cpu", 1e-3)
        yield _row(f"{title}: wall (ms)", results, "wall", 1e-3)
        results = bench.turns("peak", name, call=name, rounds=1)
        size = scenario(name).body_bytes
        yield _row(f"{title}: peak memory (× the payload's {size / 1e6:.1f} MB)", results, "bytes", size)


def connections(bench: Bench) -> Iterator[Row]:
    opened: dict[str, list[float]] = {entry.name: [] for entry in FULL}
    for entry in FULL:
        worker = bench.worker(entry)
        before = bench.connections("stream-100")
        if bench.ask(entry, worker, "timed", "stream-100", call="stream", times=20):
            opened[entry.name] = [bench.connections() - before]
        worker.close()
    yield Row("connections opened for 20 streams in a row, after the first ones", opened)


def dependencies(bench: Bench) -> Iterator[Row]:
    found = bench.installed
    yield Row("distributions installed, itself included", {name: [len(of_one)] for name, of_one in found.items()})
    for part in ("Python", "compiled"):
        sums = {name: [sum(each[part] for each in of_one.values()) / 1e6] for name, of_one in found.items()}
        yield Row(f"{part} parts installed (MB)", sums)


def streams(bench: Bench) -> Iterator[Row]:
    slow = min(SLOW_ROUNDS, bench.rounds)
    for kind, title in (("stream", "one event a write"), ("grouped", "100 events a write")):
        for chunks, rounds in ((5_000, bench.rounds), (50_000, slow)):
            results = bench.turns("timed", f"{kind}-{chunks}", call="stream", rounds=rounds)
            yield _row(f"{chunks:,} chunks, {title}: CPU a chunk (µs)", results, "cpu", 1e-6 * chunks)
    results = bench.turns("timed", "tools-5000", call="tools")
    yield _row("5,000 tool-call deltas: CPU a delta (µs)", results, "cpu", 1e-6 * 5_000)
    for name, framing in (("delay-chunked", "chunked"), ("delay-closed", "close-delimited")):
        results = bench.turns("delay", name)
        for percentile in ("p50", "p99"):
            title = f"delay from the server's write to the sink, {framing}: {percentile} (µs)"
            yield _row(title, results, percentile, 1e-6)
    results = bench.turns("timed", "big-event", call="stream", rounds=slow)
    yield _row("one event of 4 MB in 1 KB writes: wall (ms)", results, "wall", 1e-3)
    yield from _growth(bench)
    yield from _threads(bench)


def _growth(bench: Bench) -> Iterator[Row]:
    """In workers of their own: a high-water mark never falls."""
    grown: dict[str, list[float]] = {entry.name: [] for entry in FULL}
    bench.connections("stream-50000")
    for entry in FULL:
        worker = bench.worker(entry)
        if result := bench.ask(entry, worker, "growth", "stream-50000"):
            grown[entry.name] = [result["bytes"] / 1e6]
        worker.close()
    yield Row("memory grown over a stream of 50,000 chunks (MB)", grown)


def _threads(bench: Bench) -> Iterator[Row]:
    """In workers of their own, so that no connection is left from before."""
    cost: dict[str, list[float]] = {entry.name: [] for entry in FULL}
    opened: dict[str, list[float]] = {entry.name: [] for entry in FULL}
    for _ in range(min(SLOW_ROUNDS, bench.rounds)):
        for entry in FULL:
            worker = bench.worker(entry)
            before = bench.connections()
            if result := bench.ask(entry, worker, "threads", "stream-100", threads=32, streams=20):
                cost[entry.name].append(1e6 * result["cpu"] / 100)
                opened[entry.name].append(bench.connections() - before)
            worker.close()
    yield Row("32 threads, one client, 20 streams of 100 chunks each: CPU a chunk (µs)", cost)
    yield Row("32 threads: connections opened for the 640 streams", opened)


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    group.__name__: group for group in (startup, chat, embeddings, connections, dependencies, streams)
}
