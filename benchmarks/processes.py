"""Typed answers of 46 KB from one worker process and from two: ``python -m benchmarks.processes``.

Those of a plain class are decoded at once, and threads suffice. Where the class has code of its own, here a validator,
each value is checked by itself, which is work for a processor. ``map`` brings all answers back to this program,
``AskRows`` leaves them where they were asked. Two cores do all of it, the server's and this program's part as well; the
times are wall times, and need an otherwise idle machine.
"""

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import attrs
import pandas

from benchmarks.driver import Lines
from benchmarks.scenarios import ORDER_LINES
from openai_compat import Client
from openai_compat.integrations.partitions import AskRows

ROUNDS, ANSWERS, PARTITIONS = 5, 200, 8


@attrs.frozen
class Line:
    name: str
    price: float
    count: int


@attrs.frozen
class Order:
    customer: str
    lines: list[Line]


def not_negative(line: "CheckedLine", field: object, count: int) -> None:
    """As a validator of attrs is called."""
    if count < 0:
        raise ValueError("count is negative")


@attrs.frozen
class CheckedLine:
    name: str
    price: float
    count: int = attrs.field(validator=not_negative)


@attrs.frozen
class CheckedOrder:
    customer: str
    lines: list[CheckedLine]


Type = type[Order] | type[CheckedOrder]


def by_map(client: Client, pool: Executor, order: Type) -> None:
    prompts = map(str, range(ANSWERS))
    for result in client.map(prompts, executor=pool, workers=2, chunk_size=10, response_type=order):
        assert len(result.parsed.lines) == ORDER_LINES


@attrs.frozen
class Count:
    """What is kept of a partition here: how many lines all its orders have."""

    ask: AskRows

    def __call__(self, rows: pandas.DataFrame) -> int:
        return sum(map(len, self.ask(rows)["lines"]))


def by_rows(client: Client, pool: Executor, order: Type) -> None:
    rows = pandas.DataFrame({"prompt": [str(number) for number in range(ANSWERS)]})
    count = Count(AskRows(client, "prompt", workers=2, response_type=order))
    size = ANSWERS // PARTITIONS
    partitions = [rows[start : start + size] for start in range(0, ANSWERS, size)]
    assert sum(pool.map(count, partitions)) == ANSWERS * ORDER_LINES


def by_threads(client: Client, order: Type) -> None:
    for result in client.map(map(str, range(ANSWERS)), workers=2, response_type=order):
        assert len(result.parsed.lines) == ORDER_LINES


def seconds(ask: Callable[[], None]) -> float:
    started = time.monotonic()
    ask()
    return time.monotonic() - started


def main() -> None:
    server = Lines(sys.executable, "-m", "benchmarks.replay")
    client = Client(f"http://127.0.0.1:{int(server.answer())}/orders", model="m")
    server.ask("orders")
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as one, ProcessPoolExecutor(2, mp_context=context) as two:
        print(
            "| answers a second | threads | `map`, one process | two | times | `AskRows`, one process | two | times |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for order in (Order, CheckedOrder):
            asks = [partial(by_threads, client, order)]
            asks += [partial(ask, client, pool, order) for ask in (by_map, by_rows) for pool in (one, two)]
            for ask in asks:
                ask()  # which starts its processes
            times = [[seconds(ask) for ask in asks] for _ in range(ROUNDS)]
            threads, *speeds = (ANSWERS / statistics.median(column) for column in zip(*times, strict=True))
            gains = [statistics.median(each[at] / each[at + 1] for each in times) for at in (1, 3)]
            (map_one, map_two, rows_one, rows_two), (by_map_gain, by_rows_gain) = speeds, gains
            print(
                f"| {order.__name__} | {threads:.0f} | {map_one:.0f} | {map_two:.0f} | {by_map_gain:.2f}"
                f" | {rows_one:.0f} | {rows_two:.0f} | {by_rows_gain:.2f} |",
                flush=True,
            )
    server.close()


if __name__ == "__main__":
    # The types are those of a module, which a pickle can name; a program's own are sent along.
    from benchmarks import processes

    processes.main()
