"""Typed answers of 54 KB from one worker process and from two: ``python -m benchmarks.processes``.

To check an answer against its type is work for a processor. ``map`` brings all answers back to this program,
``AskRows`` leaves them where they were asked. Two cores do all of it, the server's and this program's part as well; the
times are wall times, and need an otherwise idle machine.
"""

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import attrs
import pandas

from benchmarks.driver import Lines
from benchmarks.scenarios import ORDER_LINES
from openai_compat import Client
from openai_compat.integrations.partitions import AskRows

ROUNDS, ANSWERS, PARTITIONS = 5, 400, 8


@attrs.frozen
class Line:
    name: str
    price: float
    count: int


@attrs.frozen
class Order:
    customer: str
    lines: list[Line]


def by_map(client: Client, pool: Executor) -> None:
    prompts = map(str, range(ANSWERS))
    for result in client.map(prompts, executor=pool, workers=2, chunk_size=10, response_type=Order):
        assert len(result.parsed.lines) == ORDER_LINES


@attrs.frozen
class Count:
    """What is kept of a partition here: how many lines all its orders have."""

    ask: AskRows

    def __call__(self, rows: pandas.DataFrame) -> int:
        return sum(map(len, self.ask(rows)["lines"]))


def by_rows(client: Client, pool: Executor) -> None:
    rows = pandas.DataFrame({"prompt": [str(number) for number in range(ANSWERS)]})
    count = Count(AskRows(client, "prompt", workers=2, response_type=Order))
    size = ANSWERS // PARTITIONS
    partitions = [rows[start : start + size] for start in range(0, ANSWERS, size)]
    assert sum(pool.map(count, partitions)) == ANSWERS * ORDER_LINES


def seconds(ask: Callable[[Client, Executor], None], client: Client, pool: Executor) -> float:
    started = time.monotonic()
    ask(client, pool)
    return time.monotonic() - started


def main() -> None:
    server = Lines(sys.executable, "-m", "benchmarks.replay")
    client = Client(f"http://127.0.0.1:{int(server.answer())}/orders", model="m")
    server.ask("orders")
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as one, ProcessPoolExecutor(2, mp_context=context) as two:
        print("| | one process, answers a second | two | times |\n|---|---|---|---|")
        for name, ask in (("`map`", by_map), ("`AskRows`", by_rows)):
            for pool in (one, two):
                ask(client, pool)  # which starts its processes
            times = [(seconds(ask, client, one), seconds(ask, client, two)) for _ in range(ROUNDS)]
            alone, together = (ANSWERS / statistics.median(column) for column in zip(*times, strict=True))
            gain = statistics.median(first / second for first, second in times)
            print(f"| {name} | {alone:.0f} | {together:.0f} | {gain:.2f} |", flush=True)
    server.close()


if __name__ == "__main__":
    # The types are those of a module, which a pickle can name; a program's own are sent along.
    from benchmarks import processes

    processes.main()
