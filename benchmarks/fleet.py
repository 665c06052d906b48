"""How long a million to a billion requests take on one to a thousand workers, and what the limit is.

``python -m benchmarks.fleet`` measures what a request costs on this machine, then simulates a driver that hands items
of many requests to worker processes, and takes their answers back::

    driver (one core: sends items, takes results, writes the journal)
      -> network -> workers (threads that wait for the provider, a core for each) -> network ->
    driver

Simulated are a few minutes in which all are busy; a billion requests take that rate for longer.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simpy

from benchmarks.contestants import ROOT
from benchmarks.driver import Lines

BUSY = 0.9
"""The part of the time from which on something that serves one after another is the limit."""

COUNTS = (10**6, 10**7, 10**8, 10**9)
WORKERS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Costs:
    """What one request costs, in seconds of one core and in bytes.

    Args:
        ask: of the process that asks: the request, the reply, the result.
        row: of the process that writes the journal.
        send: of the driver: a request is pickled.
        take: of the driver: a result is made of a pickle.
        schedule: of the driver for each item, however many requests are in it. Dask's scheduler takes 0.2 to 1 ms for
            a task.
        request_bytes, result_bytes: as pickles.
        row_bytes: in the journal's file.
    """

    ask: float = 250e-6
    row: float = 60e-6
    send: float = 10e-6
    take: float = 25e-6
    schedule: float = 1e-3
    request_bytes: float = 600.0
    result_bytes: float = 1500.0
    row_bytes: float = 700.0


@dataclass(frozen=True)
class Fleet:
    """Who asks, and whom.

    Args:
        workers: processes with a core each. One is the driver itself, with threads and nothing to send.
        threads: of each worker.
        item: requests that are handed to a worker at a time.
        parts: whether the workers write the answers themselves, and tell the driver only how many there are.
        latency: seconds from a request to its answer.
        rate: requests a second that the provider lets through, by whichever of its limits comes first.
        network: bytes a second to and from the driver.
    """

    workers: int = 1
    threads: int = 64
    item: int = 256
    parts: bool = False
    latency: float = 2.0
    rate: float = float("inf")
    network: float = 125e6


@dataclass(frozen=True)
class Outcome:
    """How fast a fleet is: requests a second, what is busy for which part of the time, and which of it is the limit."""

    rate: float
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        name, most = max(self.busy.items(), key=lambda item: item[1])
        return name if most >= BUSY else "threads"


ADVICE = {
    "threads": "nothing is busy: more threads or workers",
    "worker cores": "more workers: two processes parse twice as much",
    "driver": "larger items, then parts that the workers write",
    "network": "parts that the workers write",
    "provider": "no more workers: a higher limit, several endpoints, the provider's Batch API",
}


class Simulation:
    """One fleet at work.

    Args:
        rounds: items for each worker.
    """

    def __init__(self, costs: Costs, fleet: Fleet, rounds: int, seed: int = 0) -> None:
        self.costs, self.fleet = costs, fleet
        self.alone = fleet.workers == 1
        self.env = simpy.Environment()
        self.random = random.Random(seed)
        self.driver, self.network, self.provider = (simpy.Resource(self.env) for _ in range(3))
        self.used = dict.fromkeys(ADVICE, 0.0)
        self.left = rounds * fleet.workers
        self.items = 0

    def hold(self, name: str, resource: simpy.Resource, seconds: float) -> Generator[simpy.Event, Any, None]:
        """Have something that serves one after another for so long."""
        if seconds:
            with resource.request() as turn:
                yield turn
                yield self.env.timeout(seconds)
            self.used[name] += seconds

    def worker(self, asking: simpy.Resource) -> Generator[simpy.Event, Any, None]:
        """Takes item after item: each worker has two of these, so that one fetches while the other asks."""
        costs, fleet, item = self.costs, self.fleet, self.fleet.item
        brings_back = not (fleet.parts or self.alone)
        work = item * (costs.ask if brings_back else costs.ask + costs.row)
        while self.left:
            self.left -= 1
            if not self.alone:
                yield from self.hold("driver", self.driver, costs.schedule + item * costs.send)
                yield from self.hold("network", self.network, item * costs.request_bytes / fleet.network)
            with asking.request() as turn:
                yield turn
                yield from self.hold("provider", self.provider, item / fleet.rate)
                yield self.env.timeout(max(self.waited(), work))
            self.used["worker cores"] += work / fleet.workers
            if brings_back:
                yield from self.hold("network", self.network, item * costs.result_bytes / fleet.network)
                yield from self.hold("driver", self.driver, item * (costs.take + costs.row))
            self.items += 1

    def waited(self) -> float:
        """Seconds until the threads have the answers to all of an item."""
        return self.fleet.latency * max(1.0, self.fleet.item / self.fleet.threads) * self.random.uniform(0.9, 1.1)

    def run(self) -> Outcome:
        each = [simpy.Resource(self.env) for _ in range(self.fleet.workers)]
        begun = [self.env.process(self.worker(asking)) for asking in each + each]
        self.env.run(self.env.all_of(begun))
        seconds = self.env.now
        return Outcome(
            rate=self.items * self.fleet.item / seconds,
            busy={name: used / seconds for name, used in self.used.items() if name != "threads"},
        )


def simulate(costs: Costs, fleet: Fleet, rounds: int = 20) -> Outcome:
    """How fast a fleet is."""
    return Simulation(costs, fleet, rounds).run()


def measured(requests: int = 1000) -> Costs:
    """What a request costs on this machine: ``client.map`` against a server of its own, and pickles of what it gave."""
    from openai_compat import Client

    server = Lines(sys.executable, "-m", "benchmarks.many.server", cwd=ROOT)
    client = Client(f"http://127.0.0.1:{int(server.answer())}/v1", model="m")
    server.ask('{"delay": 0.02}')
    prompts = [f"Question {number}: {'how long is a prompt? ' * 20}" for number in range(requests)]
    bare, kept = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(3):
            journal = Path(folder) / f"{turn}.sqlite"
            results, seconds = cpu_of(lambda: list(client.map(prompts, workers=32)))
            bare.append(seconds / requests)
            _, seconds = cpu_of(lambda journal=journal: list(client.map(prompts, workers=32, journal=journal)))
            kept.append(seconds / requests)
        row_bytes = journal.stat().st_size / requests
    server.close()
    asked, came = ([pickle.dumps(each) for each in some] for some in ([r.request for r in results], results))
    _, send = cpu_of(lambda: [pickle.dumps(result.request) for result in results])
    _, take = cpu_of(lambda: [pickle.loads(each) for each in came])
    return Costs(
        ask=min(bare),
        row=max(0.0, min(kept) - min(bare)),
        send=send / requests,
        take=take / requests,
        request_bytes=sum(map(len, asked)) / requests,
        result_bytes=sum(map(len, came)) / requests,
        row_bytes=row_bytes,
    )


def cpu_of(function: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the CPU that this process took for it, in seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(costs: Costs, fleet: Fleet, tokens: float, price: float, core_hour: float) -> str:
    """A row for each number of workers: how fast, what the limit is, how long, and what the cores cost.

    Args:
        tokens: of a request and its answer.
        price: dollars for a million of them.
        core_hour: dollars for a core and an hour.
    """
    counts = [f"10^{len(str(count)) - 1}" for count in COUNTS]
    lines = [["workers", "requests/s", "limit", *counts, "cores for 10^6"], ["---:", "---:", "---", *["---:"] * 5]]
    for workers in WORKERS:
        outcome = simulate(costs, replace(fleet, workers=workers), rounds=20 if workers < 1000 else 6)
        times = [count / outcome.rate for count in COUNTS]
        dollars = COUNTS[0] / outcome.rate / 3600 * (workers + 1) * core_hour
        lines.append([f"{workers:,}", f"{outcome.rate:,.0f}", outcome.limit, *map(duration, times), f"${dollars:.2f}"])
    told = f"The model: ${tokens * price:,.0f} for 10^6 requests; the journal: {costs.row_bytes / 1e3:.2g} GB."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{told}"


def main() -> None:
    usual = Fleet()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description="A simulation of many requests.")
    parser.add_argument("--latency", type=float, default=usual.latency, help="seconds to an answer: %(default)s")
    parser.add_argument("--threads", type=int, default=usual.threads, help="of each worker: %(default)s")
    parser.add_argument(
        "--item", type=int, default=usual.item, help="requests handed to a worker at a time: %(default)s"
    )
    parser.add_argument(
        "--rpm", type=float, default=30_000, help="the provider's limit, requests a minute: %(default)s"
    )
    parser.add_argument("--tpm", type=float, default=150e6, help="and tokens a minute: %(default)s")
    parser.add_argument("--tokens", type=float, default=1000, help="of a request and its answer: %(default)s")
    parser.add_argument("--price", type=float, default=0.3, help="dollars for a million tokens: %(default)s")
    parser.add_argument("--core-hour", type=float, default=0.05, help="dollars for a core and an hour: %(default)s")
    parser.add_argument("--costs", type=json.loads, help="JSON in place of what is measured: '{\"row\": 6e-05}'")
    options = parser.parse_args()

    costs = measured() if options.costs is None else Costs(**options.costs)
    print(
        f"A request costs {costs.ask * 1e6:.0f} µs where it is asked, {costs.row * 1e6:.0f} µs in the journal, "
        f"{costs.send * 1e6:.0f} + {costs.take * 1e6:.0f} µs where it is sent from and taken back; "
        f"{costs.result_bytes:,.0f} bytes come back."
    )
    own = Fleet(threads=options.threads, item=options.item, latency=options.latency)
    limited = min(options.rpm, options.tpm / options.tokens) / 60
    for title, fleet in (
        (f"A provider's limits: {limited:,.0f} requests a second", replace(own, rate=limited)),
        ("Your own servers, as many as it takes; the driver writes the journal", own),
        ("The same, in parts that the workers write", replace(own, parts=True)),
    ):
        print(f"\n## {title}\n\n{table(costs, fleet, options.tokens, options.price, options.core_hour)}")
    print("\n## What to do\n\n| limit | then |\n|---|---|")
    print("\n".join(f"| {limit} | {advice} |" for limit, advice in ADVICE.items()))


if __name__ == "__main__":
    main()
