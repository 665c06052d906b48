"""The simulation of a fleet: it finds the limit that the figures say."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("simpy")

from benchmarks.fleet import Costs, Fleet, simulate, table

COSTS = Costs(ask=250e-6, row=60e-6, send=10e-6, take=30e-6, schedule=0.0, request_bytes=600, result_bytes=2000)
FLEET = Fleet(workers=200, threads=64, item=128, latency=1.0)


@pytest.mark.parametrize(
    ("fleet", "limit", "rate"),
    [
        (replace(FLEET, workers=10), "threads", 10 * 64),
        (replace(FLEET, workers=1, latency=0.0), "worker cores", 1 / 310e-6),
        (replace(FLEET, workers=10, rate=100.0), "provider", 100),
        (FLEET, "driver", 1 / 100e-6),
        (replace(FLEET, parts=True), "threads", 200 * 64),
        (replace(FLEET, network=1e6), "network", 1e6 / 2600),
    ],
)
def test_the_rate_is_that_of_what_is_busy(fleet: Fleet, limit: str, rate: float) -> None:
    outcome = simulate(COSTS, fleet, rounds=10)

    assert outcome.limit == limit
    assert 0.75 * rate <= outcome.rate <= 1.05 * rate


def test_it_is_a_table_with_a_row_for_each_number_of_workers() -> None:
    told = table(COSTS, replace(FLEET, rate=500.0), tokens=1000, price=0.3, core_hour=0.05)

    assert [line.split(" | ")[0] for line in told.splitlines()[2:6]] == ["| 1", "| 10", "| 100", "| 1,000"]
    assert "$300 for 10^6 requests" in told
