"""Bags and data frames of prompts: who asks them, and that a failure stands in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.bag
import dask.dataframe
import pandas
import pytest
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import Client, ConfigurationError
from openai_compat.integrations.dask import ask_bag, ask_frame


def question(request: Request) -> str:
    text: str = request.json()["messages"][-1]["content"]
    return text


def reply(request: Request) -> Reply:
    return error_reply(400, "bad") if question(request) == "q3" else chat_reply(f"re: {question(request)}")


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(reply) as server:
        yield server


@pytest.fixture(params=["threads", pytest.param("processes", marks=pytest.mark.process)])
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    with dask.config.set(scheduler=request.param, num_workers=2, **{"multiprocessing.context": "spawn"}):
        yield request.param


def client(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", max_retries=0, **options)


def test_a_bag(server: ReplayServer, scheduler: str) -> None:
    prompts = dask.bag.from_sequence([f"q{number}" for number in range(20)], npartitions=4)
    results = ask_bag(client(server), prompts, workers=2, max_tokens=7)
    assert not server.requests
    computed = results.compute()
    assert [result.text for result in computed] == ["" if n == 3 else f"re: q{n}" for n in range(20)]
    assert [result.ok for result in computed].count(False) == 1
    assert Counter(map(question, server.requests)) == {f"q{number}": 1 for number in range(20)}
    assert all(request.json()["max_tokens"] == 7 for request in server.requests)
    # Two partitions at a time, and a client for each process.
    assert server.connections <= 2 * 2 * 2


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")  # Dask's own way with pandas
def test_a_frame_is_written_by_those_who_asked(server: ReplayServer, scheduler: str, tmp_path: Path) -> None:
    rows = pandas.DataFrame({"prompt": [f"q{number}" for number in range(6)], "other": range(6)}, index=range(10, 16))
    frame = ask_frame(client(server), dask.dataframe.from_pandas(rows, npartitions=2), "prompt", into="said")
    assert not server.requests
    frame.to_parquet(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    back = pandas.read_parquet(tmp_path / "out")
    assert list(back.columns) == ["prompt", "other", "said", "error"]
    assert list(back.index) == list(range(10, 16))
    assert back["said"].fillna("-").tolist() == ["re: q0", "re: q1", "re: q2", "-", "re: q4", "re: q5"]
    assert back["error"].isna().tolist() == [True, True, True, False, True, True]
    assert back["error"][13].startswith("BadRequestError: ")
    assert len(server.requests) == 6


def test_a_key_that_may_not_be_in_a_pickle_is_told_at_once(server: ReplayServer) -> None:
    with pytest.raises(ConfigurationError, match="pickle_key=True"):
        ask_bag(client(server, api_key="sk-clear"), dask.bag.from_sequence(["q"]))
