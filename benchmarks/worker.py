"""One contestant in its own process and environment: a JSON job a line on stdin, a JSON result a line on stdout.

Every result holds under `answers` the different answers that the contestant got, for the driver to check.
Times are in seconds, memory in bytes.
"""

import contextlib
import gc
import importlib
import importlib.metadata
import json
import statistics
import sys
import sysconfig
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.scenarios import TEXTS, digest

Result = dict[str, Any]
QUESTIONS = [f"text number {i}" for i in range(TEXTS)]


def ask(contestant: Contestant, call: str) -> Any:
    """Make one call; its result still has to go through `seen`."""
    if call == "chat":
        return contestant.chat()
    if call == "tools":
        return contestant.tools()
    if call == "stream":
        pieces: list[str] = []
        return contestant.stream(pieces.append), pieces
    return contestant.embed(QUESTIONS, call.removeprefix("embed-"))


def seen(call: str, got: Any) -> Any:
    """Return what was got in the form in which the scenario expects it."""
    if call == "stream":
        answer, pieces = got
        return answer if "".join(pieces) == answer.text else ("the sink got", *pieces)
    return digest(got) if call.startswith("embed-") else got


def different(answers: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for answer in answers:
        if answer not in kept:
            kept.append(answer)
    return kept


def timed(contestant: Contestant, call: str, times: int = 1) -> Result:
    """CPU of this process and wall time, both a call."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    got = [ask(contestant, call) for _ in range(times)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu / times, "wall": wall / times, "answers": [seen(call, each) for each in got]}


def peak(contestant: Contestant, call: str) -> Result:
    """The most that Python had allocated during one call, over what it held before (compiled Rust is not seen)."""
    ask(contestant, call)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        got = ask(contestant, call)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return {"bytes": most - before, "answers": [seen(call, got)]}


def _memory(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def growth(contestant: Contestant) -> Result:
    """How much more memory the process had at its most during a stream whose pieces the sink lets go."""
    gc.collect()
    before = _memory("VmRSS")
    answer = contestant.stream(lambda piece: None)
    return {"bytes": _memory("VmHWM") - before, "answers": [answer]}


def delay(contestant: Contestant) -> Result:
    """From the server's write to the sink, percentiles over the pieces."""
    delays: list[float] = []
    answer = contestant.stream(lambda piece: delays.append((time.monotonic_ns() - int(piece)) / 1e9))
    percentiles = statistics.quantiles(delays, n=100)
    return {"p50": percentiles[49], "p99": percentiles[98], "answers": [(len(delays), *answer[1:])]}


def threads(contestant: Contestant, threads: int, streams: int) -> Result:
    """CPU a stream, of this whole process, when many threads share the contestant; an error is an answer too."""
    answers: list[Any] = []

    def run() -> None:
        for _ in range(streams):
            try:
                answers.append(contestant.stream(lambda piece: None))
            except Exception as error:
                answers.append(repr(error))

    pool = [threading.Thread(target=run) for _ in range(threads)]
    cpu = time.process_time()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return {"cpu": (time.process_time() - cpu) / (threads * streams), "answers": answers}


def installed() -> Result:
    """The distributions beside pip, with the bytes of their Python, of their compiled parts, and the version.

    Only those of the environment: the tree, from where this module comes, may have metadata of its own.
    """
    found = {}
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    for distribution in importlib.metadata.distributions(path=list(places)):
        if (name := distribution.metadata["Name"]) != "pip":
            python = compiled = 0
            for file in distribution.files or ():
                with contextlib.suppress(FileNotFoundError):
                    size = Path(file.locate()).stat().st_size
                    if ".so" in file.name or file.suffix in {".pyd", ".dylib"}:
                        compiled += size
                    elif file.suffix != ".pyc":
                        python += size
            found[name] = {"version": distribution.version, "Python": python, "compiled": compiled}
    return {"distributions": found, "answers": []}


def main() -> None:
    root_url, name = sys.argv[2:4]
    contestants: dict[str, Contestant] = {}

    def contestant(scenario: str) -> Contestant:
        if scenario not in contestants:
            contestants[scenario] = importlib.import_module(f"benchmarks.contestants.{name}").Contestant(
                f"{root_url}/{scenario}/v1"
            )
        return contestants[scenario]

    measures: dict[str, Callable[..., Result]] = {
        measure.__name__: measure for measure in (timed, peak, growth, delay, threads)
    }
    for line in sys.stdin:
        job = json.loads(line)
        try:
            measure = job.pop("measure")
            result = (
                installed() if measure == "installed" else measures[measure](contestant(job.pop("scenario")), **job)
            )
            result["answers"] = different(result["answers"])
        except Exception:
            result = {"error": traceback.format_exc(limit=-3)}
        print(json.dumps(result), flush=True)
