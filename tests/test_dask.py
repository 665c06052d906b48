"""Bags and data frames of prompts: who asks them, and that a failure stands in its place."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.echo import question
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import Client, ConfigurationError
from openai_compat.integrations.dask import ask_bag, ask_frame

dask = pytest.importorskip("dask")
pandas = pytest.importorskip("pandas")
for needed in ("dask.bag", "dask.dataframe", "distributed"):
    pytest.importorskip(needed)

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""


@attrs.frozen
class City:
    name: str
    size: int


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


def test_a_template_and_typed_columns(scheduler: str) -> None:
    rows = pandas.DataFrame({"city": ["Rome", "Oslo", None]})
    with ReplayServer(lambda request: chat_reply(json.dumps({"name": question(request), "size": 3}))) as server:
        frame = dask.dataframe.from_pandas(rows, npartitions=2)
        asked = ask_frame(client(server), frame, template="In {city}?", response_type=City)
        assert list(asked.columns) == ["city", "name", "size", "error"]
        answers = asked.compute()
    assert answers["name"].tolist()[:2] == ["In Rome?", "In Oslo?"]
    assert answers["size"].tolist()[:2] == [3, 3]
    assert answers["name"].isna().tolist() == [False, False, True]
    assert len(server.requests) == 2


# ---------------------------------------------------------------------------------------------------------- parts


def test_parts_are_not_asked_again(server: ReplayServer, tmp_path: Path) -> None:
    rows = pandas.DataFrame({"prompt": [f"q{number}" for number in range(20)]})
    frame = dask.dataframe.from_pandas(rows, npartitions=2)
    asked = ask_frame(client(server), frame, "prompt", parts=tmp_path / "parts", part_size=4)
    first, again = asked.compute(scheduler="threads"), asked.compute(scheduler="threads")
    assert len(server.requests) == 20
    assert first["answer"].tolist()[4:] == again["answer"].tolist()[4:] == [f"re: q{number}" for number in range(4, 20)]
    assert again["error"][3] == first["error"][3]
    assert again["error"][3].startswith("BadRequestError: ")
    kept = pandas.read_parquet(tmp_path / "parts")
    # Of 4 at least, but for the last of each partition: answers that come together are in one.
    assert 4 <= len(list((tmp_path / "parts").glob("part=*/*.parquet"))) <= 6
    assert sorted(kept["text"].dropna()) == sorted(f"re: q{number}" for number in range(20) if number != 3)
    assert kept["status"].tolist().count("failed") == 1
    # A bag of the same prompts in the same partitions knows them, and another request does not.
    bag = dask.bag.from_delayed([part["prompt"].tolist() for part in frame.to_delayed()])
    results = ask_bag(client(server), bag, parts=tmp_path / "parts").compute(scheduler="threads")
    assert all(result.from_journal for result in results)
    assert len(server.requests) == 20
    ask_bag(client(server), bag, parts=tmp_path / "parts", max_tokens=7).compute(scheduler="threads")
    assert len(server.requests) == 40


@pytest.mark.process
def test_what_a_killed_worker_had_written_is_not_asked_again(tmp_path: Path) -> None:
    from distributed import Client as Dask
    from distributed import LocalCluster

    count, size, workers = 60, 5, 2
    waiting, killed = threading.Semaphore(0), threading.Event()

    def held(request: Request) -> Reply:
        if not killed.is_set() and int(question(request)[1:]) % 30 >= 20:
            waiting.release()
            killed.wait(LIMIT)
        return chat_reply(f"re: {question(request)}")

    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        ReplayServer(held) as server,
        LocalCluster(host="127.0.0.1", silence_logs=50, **options) as cluster,
        Dask(cluster) as connected,
    ):
        bag = dask.bag.from_sequence([f"q{number}" for number in range(count)], npartitions=2)
        asked = ask_bag(client(server), bag, workers=workers, parts=tmp_path, part_size=size)
        future = connected.compute(asked)
        for _ in range(2 * workers):
            assert waiting.acquire(timeout=LIMIT)
        before = set(pandas.read_parquet(tmp_path)["text"])
        os.kill(min(connected.run(os.getpid).values()), signal.SIGKILL)
        killed.set()
        results = future.result(timeout=3 * LIMIT)
    assert [result.text for result in results] == [f"re: q{number}" for number in range(count)]
    sent = Counter(map(question, server.requests))
    assert set(sent) == {f"q{number}" for number in range(count)}
    assert len(before) >= 20 - size
    assert not {f"re: {each}" for each, times in sent.items() if times > 1} & before
    # What had not been written, and what was under way, or waited for its turn.
    assert count < sum(sent.values()) <= count + size - 1 + 4 * workers


def test_a_key_that_may_not_be_in_a_pickle_is_told_at_once(server: ReplayServer) -> None:
    with pytest.raises(ConfigurationError, match="pickle_key=True"):
        ask_bag(client(server, api_key="sk-clear"), dask.bag.from_sequence(["q"]))
