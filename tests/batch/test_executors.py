"""``client.map`` over executors: threads, processes, a Dask cluster of two processes, and workers that are killed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import attrs
import pytest
from support.echo import asked, client, echo, question
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply, tool_call

from openai_compat import (
    AuthenticationError,
    BadRequestError,
    Cancelled,
    ConfigurationError,
    Journal,
    JournalError,
    OpenAICompatError,
)
from openai_compat.batch.chunks import KEPT, Outcomes, Work, ask_chunk, dumps
from openai_compat.batch.executors import TRIES
from openai_compat.cancel import CancelToken

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""
PLACES = 2
"""Processes, or threads, of each executor."""


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(echo) as server:
        yield server


def processes(method: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(PLACES, mp_context=multiprocessing.get_context(method))


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(PLACES) as executor:
        yield executor


@pytest.fixture(scope="module")
def spawned() -> Iterator[Executor]:
    with processes("spawn") as executor:
        yield executor


@pytest.fixture(scope="module")
def forkserver() -> Iterator[Executor]:
    with processes("forkserver") as executor:
        yield executor


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A client of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")

    options = {"n_workers": PLACES, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(host="127.0.0.1", silence_logs=50, **options) as workers,
        distributed.Client(workers) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def dask(cluster: Any) -> Executor:
    executor: Executor = cluster.get_executor()
    return executor


PROCESSES = [pytest.param(name, marks=pytest.mark.process) for name in ("spawned", "forkserver", "dask")]


@pytest.fixture(params=["threads", *PROCESSES])
def executor(request: pytest.FixtureRequest) -> Executor:
    found: Executor = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["threads", PROCESSES[0], PROCESSES[2]])
def one_of_each(request: pytest.FixtureRequest) -> Executor:
    found: Executor = request.getfixturevalue(request.param)
    return found


# ------------------------------------------------------------------------------------------------------ what comes


def test_every_request_has_its_answer(server: ReplayServer, executor: Executor) -> None:
    requests = [(f"id-{number}", f"q{number}") for number in range(60)]
    with client(server) as asking:
        results = list(asking.map(requests, executor=executor, workers=3, ordered=True, max_tokens=7))
    assert [result.text for result in results] == [f"re: q{number}" for number in range(60)]
    assert [(result.custom_id, result.request.prompt) for result in results] == requests
    assert all(len(result.attempts) == 1 and result.seconds > 0 for result in results)
    assert asked(server) == Counter({f"q{number}": 1 for number in range(60)})
    assert all(request.json()["max_tokens"] == 7 for request in server.requests)
    # A client for each process, kept from one chunk to the next; no more than three calls of each at a time.
    assert server.connections <= 3 * PLACES


@attrs.frozen
class City:
    name: str


def test_typed_answers(one_of_each: Executor) -> None:
    with ReplayServer(lambda request: chat_reply(json.dumps({"name": question(request)}))) as server:
        results = list(
            client(server).map(["Rome", "Oslo"], response_type=City, ordered=True, executor=one_of_each, chunk_size=1)
        )
    assert [result.parsed for result in results] == [City("Rome"), City("Oslo")]


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def test_tools_run_where_the_request_is_asked(one_of_each: Executor) -> None:
    def reply(request: Request) -> Reply:
        messages = request.json()["messages"]
        if messages[-1]["role"] == "tool":
            return chat_reply(messages[-1]["content"])
        arguments = json.dumps({"number": int(messages[-1]["content"])})
        return chat_reply(None, finish_reason="tool_calls", tool_calls=[tool_call("double", arguments)])

    with ReplayServer(reply) as server:
        results = list(client(server).map(map(str, range(5)), tools=[double], ordered=True, executor=one_of_each))
    assert [result.text for result in results] == ["0", "2", "4", "6", "8"]


def fail_at_3(request: Request) -> Reply:
    return error_reply(400, "bad") if question(request) == "3" else echo(request)


def test_a_failure_is_kept_in_its_place(one_of_each: Executor) -> None:
    with ReplayServer(fail_at_3) as server:
        results = list(client(server).map(map(str, range(6)), executor=one_of_each, chunk_size=2, ordered=True))
    assert [result.ok for result in results] == [True, True, True, False, True, True]
    assert isinstance(results[3].error, BadRequestError)
    assert results[3].error.status_code == 400


def test_a_failure_ends_the_run_where_that_is_wanted(one_of_each: Executor) -> None:
    with ReplayServer(fail_at_3) as server:
        run = client(server).map(map(str, itertools.count()), executor=one_of_each, workers=2, on_error="raise")
        with pytest.raises(BadRequestError):
            list(run)
        list(run)


def test_a_key_that_is_refused_ends_the_run(one_of_each: Executor) -> None:
    with ReplayServer([error_reply(401, "no")]) as server:
        run = client(server).map(map(str, itertools.count()), executor=one_of_each, workers=2)
        with pytest.raises(AuthenticationError):
            list(run)
        assert len(server.requests) <= 2 * 2 * PLACES * 2


def test_a_file_of_requests(server: ReplayServer, one_of_each: Executor, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"custom_id": f"id-{number}", "url": "/v1/chat/completions", "body": {"messages": [{"content": f"q{number}"}]}}
        for number in range(10)
    ]
    source.write_text("\n".join(map(json.dumps, lines)))
    summary = client(server).map_file(source, output, executor=one_of_each, workers=2)
    assert (summary.answered, summary.failed) == (10, 0)
    answers = {
        answer["custom_id"]: answer["response"]["body"] for answer in map(json.loads, output.read_text().splitlines())
    }
    texts = {name: body["choices"][0]["message"]["content"] for name, body in answers.items()}
    assert texts == {f"id-{number}": f"re: q{number}" for number in range(10)}
    assert len(server.requests) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": 3}, r"executor must be a concurrent.futures.Executor, not 3"),
        ({"chunk_size": 0}, r"chunk_size must be a whole number from 1, not 0"),
        ({"chunk_size": True}, r"chunk_size must be a whole number from 1, not True"),
    ],
)
def test_bad_options(server: ReplayServer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client(server).map(["q"], **options)
    assert not server.requests


def test_a_request_that_is_none_ends_the_run(server: ReplayServer, threads: Executor) -> None:
    run = client(server).map(["q", 3], executor=threads)  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="request 1: a prompt is"):
        list(run)


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "locked", "message"),
    [({"api_key": "sk-clear"}, False, "pickle_key=True"), ({}, True, "cannot go to another process")],
    ids=["key", "tool"],
)
def test_what_cannot_leave_this_process_is_told_before_anything_is_asked(
    server: ReplayServer, spawned: Executor, options: dict[str, Any], locked: bool, message: str
) -> None:
    lock = threading.Lock()

    def tool() -> bool:
        """Whether the lock is free."""
        return lock.locked()

    tools = [tool] if locked else []
    with pytest.raises(ConfigurationError, match=message):
        client(server, **options).map(["q"], executor=spawned, tools=tools)
    assert not server.requests


def test_a_key_in_clear_may_go_to_threads(server: ReplayServer, threads: Executor) -> None:
    assert next(client(server, api_key="sk-clear").map(["q"], executor=threads)).ok


# ------------------------------------------------------------------------------------------------------- embeddings


def inputs(request: Request) -> list[str]:
    given = request.json()["input"]
    return given if isinstance(given, list) else [given]


def embed(request: Request) -> Reply:
    """A vector ``[1, 0, ..., n]`` for the text ``n``; not for 13."""
    texts = inputs(request)
    if "13" in texts:
        return error_reply(400, "no 13")
    data = [{"index": index, "embedding": [1.0, 0.5, float(text)]} for index, text in enumerate(texts)]
    return Reply(headers=JSON, body=json.dumps({"data": data, "model": "m"}).encode())


def embedded(server: ReplayServer) -> Counter[str]:
    return Counter(text for request in server.requests for text in inputs(request) if "13" not in inputs(request))


def test_embeddings(executor: Executor, tmp_path: Path) -> None:
    texts = [str(number % 70) for number in range(80)]
    options: dict[str, Any] = {"executor": executor, "batch_size": 4, "workers": 2, "journal": tmp_path / "j.db"}
    with ReplayServer(embed) as server:
        asking = client(server)
        run = asking.map_embeddings(texts, **options)
        array = run.to_array()
        wanted = [[1.0, 0.5, float(text)] for text in texts]
        failed = [index for index, text in enumerate(texts) if text == "13"]
        assert sorted(run.errors) == failed
        assert all(isinstance(error, BadRequestError) for error in run.errors.values())
        assert [row for index, row in enumerate(array.tolist()) if index not in failed] == [
            row for index, row in enumerate(wanted) if index not in failed
        ]
        assert embedded(server) == {str(number): 1 for number in range(70) if number != 13}
        assert server.connections <= 2 * PLACES
        sent = len(server.requests)
        again = list(asking.map_embeddings(texts, ordered=True, **options))
        assert all(result.from_journal for result in again)
        assert [result.input for result in again] == texts
        assert len(server.requests) == sent


def test_embeddings_are_asked_so_many_at_a_time_in_one_place() -> None:
    together = threading.Barrier(2)

    def reply(request: Request) -> Reply:
        together.wait(LIMIT)
        return embed(request)

    with ReplayServer(reply) as server, ThreadPoolExecutor(1) as one:
        run = client(server).map_embeddings(map(str, range(100, 164)), executor=one, workers=2, batch_size=4)
        assert sum(result.ok for result in run) == 64
        assert len(server.requests) == 16


def test_leaving_ends_embeddings_under_way_in_this_process(threads: Executor) -> None:
    waiting = threading.Semaphore(0)

    def reply(request: Request) -> Reply:
        waiting.release()
        request.closed.wait(LIMIT)
        return embed(request)

    with ReplayServer(reply) as server:
        run = client(server).map_embeddings(map(str, itertools.count(100)), executor=threads, workers=2)
        for _ in range(2):
            assert waiting.acquire(timeout=LIMIT)
        run.close()
        assert server.wait_closed()
        assert len(server.requests) == 2


@pytest.mark.process
def test_embeddings_of_a_killed_process_are_asked_again(tmp_path: Path) -> None:
    made: list[ProcessPoolExecutor] = []

    def make() -> ProcessPoolExecutor:
        made.append(processes("forkserver"))
        return made[-1]

    texts = [str(number) for number in range(100, 300)]
    with ReplayServer(embed) as server:
        run = client(server).map_embeddings(texts, executor=make, batch_size=2, workers=2, journal=tmp_path / "j.db")
        seen: list[str] = []
        for result in run:
            assert result.ok, result.error
            seen.append(str(result.input))
            if len(seen) == 40:
                kill_one(made)
        assert sorted(seen) == texts
        sent = embedded(server)
        assert set(sent) == set(texts)
        assert not {text for text, times in sent.items() if times > 1} & set(seen[:40])
        assert sum(sent.values()) - len(texts) <= 2 * PLACES * 2 * 2
    assert len(made) == 2
    with pytest.raises(RuntimeError, match="shutdown"):
        made[-1].submit(int)


# ---------------------------------------------------------------------------------------------------------- bounds


def test_no_more_is_taken_than_is_read(server: ReplayServer, one_of_each: Executor) -> None:
    taken: list[int] = []

    def requests() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield str(number)

    with client(server).map(requests(), executor=one_of_each, workers=2, chunk_size=3) as run:
        for read in range(1, 40):
            next(run)
            assert len(taken) <= read + 2 * PLACES * 3
    assert len(server.requests) <= len(taken)


def test_a_source_that_waits_for_answers_is_not_left_waiting(server: ReplayServer, threads: Executor) -> None:
    came = threading.Semaphore(1)

    def requests() -> Iterator[str]:
        for number in range(3):
            assert came.acquire(timeout=LIMIT)
            yield str(number)

    seen = []
    for result in client(server).map(requests(), executor=threads, chunk_size=10):
        seen.append(result.text)
        came.release()
    assert seen == ["re: 0", "re: 1", "re: 2"]


class Counting(ThreadPoolExecutor):
    """Notes how large its chunks are."""

    def __init__(self) -> None:
        super().__init__(1)
        self.sizes: list[int] = []

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Any:
        self.sizes.append(len(args[1]))
        return super().submit(function, *args, **options)


def test_who_reads_slowly_does_not_make_chunks_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai_compat.batch.executors.LINGER", LIMIT)
    taken, released = threading.Semaphore(0), threading.Event()

    def requests() -> Iterator[str]:
        for number in range(12):
            taken.release()
            yield str(number)

    def reply(request: Request) -> Reply:
        if int(question(request)) >= 4:
            released.wait(LIMIT)
        return echo(request)

    with ReplayServer(reply) as server, Counting() as executor:
        run = client(server).map(requests(), executor=executor, workers=2, chunk_size=4)
        for number in range(12):
            if number >= 8:  # two chunks are taken ahead, then one request for each that is read
                next(run)
            assert taken.acquire(timeout=LIMIT)
        released.set()
        assert len(list(run)) == 8
        assert executor.sizes == [4, 4, 4]


def test_leaving_ends_what_this_process_has_under_way(threads: Executor) -> None:
    waiting = threading.Semaphore(0)

    def reply(request: Request) -> Reply:
        if int(question(request)) < 2:
            return echo(request)

        def body() -> Iterator[bytes]:
            waiting.release()
            yield b"{"
            request.closed.wait(LIMIT)

        return Reply(headers={"Content-Type": "application/json"}, body=body())

    with ReplayServer(reply) as server:
        run = client(server).map(map(str, itertools.count()), executor=threads, workers=4, chunk_size=2)
        assert {next(run).ok, next(run).ok} == {True}
        for _ in range(4):
            assert waiting.acquire(timeout=LIMIT)
        run.close()
        assert server.wait_closed()
        assert len(server.requests) == 6
        assert list(run) == []


# --------------------------------------------------------------------------------------------------------- the journal


def test_the_journal_stays_here(server: ReplayServer, one_of_each: Executor, tmp_path: Path) -> None:
    requests = ["a", "b", "a", "c", "a"] * 4
    journal = tmp_path / "j.db"
    first = list(client(server).map(requests, executor=one_of_each, workers=2, journal=journal))
    assert sorted(result.text for result in first) == sorted(f"re: {each}" for each in requests)
    assert sum(not result.from_journal for result in first) == 3
    again = list(client(server).map(requests, executor=one_of_each, journal=journal, ordered=True))
    assert all(result.from_journal for result in again)
    assert [result.text for result in again] == [f"re: {each}" for each in requests]
    # The same run on threads knows them too.
    assert all(result.from_journal for result in client(server).map(requests, journal=journal))
    assert asked(server) == {"a": 1, "b": 1, "c": 1}


def test_a_journal_that_cannot_be_written_loses_nothing(
    server: ReplayServer, threads: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai_compat.batch.run.GRACE", LIMIT)  # for a machine that is busy
    with Journal(tmp_path / "j.db") as journal:
        pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
        journal._writer.execute(f"PRAGMA max_page_count = {pages + 8}")  # a disk that is full after these
        requests = (f"{number} {'x' * 1000}" for number in itertools.count())
        run = client(server).map(requests, journal=journal, executor=threads, workers=2, chunk_size=8)
        seen = []
        with pytest.raises(JournalError, match=r"full; what was written before stays") as caught:
            seen.extend(run)
        seen.extend(run)
        unsaved = {result.index for result in caught.value.unsaved}
        written = {int(entry.text.split()[1]) for entry in journal if entry.text}
        answered = {int(question(request).split()[0]) for request in server.requests}
    assert {result.index for result in seen} == written
    assert unsaved
    assert not written & unsaved
    assert len(answered - written - unsaved) <= 2


# ------------------------------------------------------------------------------------------- workers that are killed


def read_and_kill(run: Iterator[Any], at: int, kill: Callable[[], object]) -> tuple[list[str], set[str]]:
    """All texts, and the questions whose answers were read before the kill."""
    texts = []
    for result in run:
        assert result.ok, result.error
        texts.append(result.text)
        if len(texts) == at:
            before = {text.removeprefix("re: ") for text in texts}
            kill()
    return texts, before


COUNT, WORKERS = 200, 4


def assert_no_more_than_under_way(server: ReplayServer, texts: list[str], before: set[str]) -> None:
    assert sorted(texts) == sorted(f"re: {number}" for number in range(COUNT))
    sent = asked(server)
    assert set(sent) == set(map(str, range(COUNT)))
    assert not {each for each, times in sent.items() if times > 1} & before, "an answer that had been read"
    # Two chunks for each process, under way or answered and not yet fetched.
    assert sum(sent.values()) - COUNT <= 2 * PLACES * WORKERS


def nothing_answered_is_held(cluster: Any) -> bool:
    """Whether the scheduler has forgotten all chunks that were answered."""
    states = cluster.run_on_scheduler(lambda dask_scheduler: {task.state for task in dask_scheduler.tasks.values()})
    return "memory" not in states


@pytest.mark.process
def test_a_killed_dask_worker(cluster: Any, dask: Executor, tmp_path: Path) -> None:
    cluster.wait_for_workers(PLACES, timeout=LIMIT)
    victim = min(cluster.run(os.getpid).values())
    waiting, killed = threading.Semaphore(0), threading.Event()

    def reply(request: Request) -> Reply:
        if int(question(request)) >= 60:
            waiting.release()
            killed.wait(LIMIT)
        return echo(request)

    def kill() -> None:
        for _ in range(PLACES * WORKERS):  # a chunk in each worker
            assert waiting.acquire(timeout=LIMIT)
        end = time.monotonic() + LIMIT
        while not nothing_answered_is_held(cluster):
            assert time.monotonic() < end
        os.kill(victim, signal.SIGKILL)
        killed.set()

    journal = tmp_path / "j.db"
    with ReplayServer(reply) as server:
        run = client(server).map(map(str, range(COUNT)), executor=dask, workers=WORKERS, journal=journal)
        texts, before = read_and_kill(run, 60, kill)
        assert_no_more_than_under_way(server, texts, before)
        assert len(server.requests) > COUNT
    cluster.wait_for_workers(PLACES, timeout=LIMIT)
    with Journal(journal) as kept:
        assert kept.counts() == {"answered": COUNT, "failed": 0}


@pytest.mark.process
def test_a_cluster_that_grows() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")

    held = threading.Event()

    def reply(request: Request) -> Reply:
        if len(workers.scheduler_info["workers"]) == PLACES:
            held.set()
        held.wait(2 * LIMIT)
        return echo(request)

    options = {"n_workers": 0, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        ReplayServer(reply) as server,
        distributed.LocalCluster(host="127.0.0.1", silence_logs=50, **options) as workers,
        distributed.Client(workers) as connected,
    ):
        workers.adapt(minimum=0, maximum=PLACES, interval="50ms", target_duration="50ms")
        run = client(server).map(map(str, range(COUNT)), executor=connected.get_executor(), workers=WORKERS)
        assert sorted(result.text for result in run) == sorted(f"re: {number}" for number in range(COUNT))
        assert held.is_set()
        assert asked(server) == {str(number): 1 for number in range(COUNT)}


def kill_one(made: list[ProcessPoolExecutor]) -> None:
    next(iter(made[-1]._processes.values())).kill()


@pytest.mark.process
def test_a_broken_pool_is_made_anew_where_it_can_be(server: ReplayServer) -> None:
    made: list[ProcessPoolExecutor] = []

    def make() -> ProcessPoolExecutor:
        made.append(processes("forkserver"))
        return made[-1]

    run = client(server).map(map(str, range(COUNT)), executor=make, workers=WORKERS)
    texts, before = read_and_kill(run, 50, lambda: kill_one(made))
    assert_no_more_than_under_way(server, texts, before)
    assert len(made) == 2
    with pytest.raises(RuntimeError, match="shutdown"):
        made[-1].submit(int)


@pytest.mark.process
def test_a_broken_pool_ends_the_run_and_the_journal_goes_on(server: ReplayServer, tmp_path: Path) -> None:
    journal = tmp_path / "j.db"
    made = [processes("forkserver")]
    run = client(server).map(map(str, range(COUNT)), executor=made[0], workers=WORKERS, journal=journal)
    with pytest.raises(BrokenProcessPool), run:
        read_and_kill(run, 50, lambda: kill_one(made))
    made[0].shutdown()
    with Journal(journal) as kept:
        before = {entry.text.removeprefix("re: ") for entry in kept if entry.text}
    assert len(before) >= 50
    with processes("forkserver") as executor:
        texts = [
            result.text for result in client(server).map(map(str, range(COUNT)), executor=executor, journal=journal)
        ]
    assert_no_more_than_under_way(server, texts, before)


PROGRAM = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from openai_compat import Client
if __name__ == "__main__":
    url, journal, count, method = sys.argv[1:]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        client = Client(url, model="m", max_retries=0)
        for result in client.map(map(str, range(int(count))), executor=pool, workers=4, journal=journal):
            print(result.index, flush=True)
"""


@pytest.mark.process
def test_processes_that_are_forked(server: ReplayServer, tmp_path: Path) -> None:
    # In a program of its own: this one has threads, which Python warns of.
    command = [sys.executable, "-c", PROGRAM, f"{server.url}/v1", str(tmp_path / "j.db"), str(COUNT), "fork"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * LIMIT, check=True)
    assert sorted(map(int, done.stdout.split())) == list(range(COUNT))
    assert asked(server) == {str(number): 1 for number in range(COUNT)}
    assert server.connections <= PLACES * WORKERS


@pytest.mark.process
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_ended_goes_on(server: ReplayServer, tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    path = tmp_path / "j.db"
    command = [sys.executable, "program.py", f"{server.url}/v1", str(path), str(COUNT), "spawn"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "start_new_session": True, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        assert process.stdout is not None
        printed = {int(line) for line in itertools.islice(process.stdout, 50)}
        os.killpg(process.pid, end)  # as a terminal does
        process.communicate(timeout=2 * LIMIT)
    with Journal(path) as journal:
        kept = {entry.text.removeprefix("re: ") for entry in journal if entry.text}
    assert {str(number) for number in printed} <= kept
    # A worker that is interrupted before the program may have its requests asked by another one.
    before = asked(server)
    subprocess.run(command, timeout=3 * LIMIT, capture_output=True, check=True, **options)
    with Journal(path) as journal:
        assert journal.counts() == {"answered": COUNT, "failed": 0}
    sent = asked(server)
    assert set(sent) == set(map(str, range(COUNT)))
    assert not (sent - before).keys() & kept
    assert sum(sent.values()) - COUNT <= 2 * PLACES * WORKERS


# ------------------------------------------------------------------------------------------------------------- chunks


def test_an_interrupt_of_a_worker_leaves_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    gets = itertools.count()

    class Interrupted(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if next(gets) == 1:
                raise KeyboardInterrupt
            return super().get(block, timeout)

    def ask(request: int, token: CancelToken) -> Any:
        if request:
            assert token.wait(LIMIT)
            raise Cancelled
        return request, None, 0.0

    monkeypatch.setattr("openai_compat.batch.chunks.SimpleQueue", Interrupted)
    outcomes = ask_chunk(Work(ask, 1), [0, 1, 2])
    assert (outcomes.found, outcomes.failure) == ({0: (0, None, 0.0)}, None)


class Losing(ThreadPoolExecutor):
    """Loses the worker of each of its first ``times`` chunks."""

    def __init__(self, times: int, error: BaseException) -> None:
        super().__init__(1)
        self.times, self.error = times, error

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Any:
        if not self.times:
            return super().submit(function, *args, **options)
        self.times -= 1
        lost: Future[Any] = Future()
        lost.set_exception(self.error)
        return lost


class KilledWorker(Exception):  # noqa: N818
    """Has the name of Dask's."""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CancelledError(), KilledWorker()], ids=repr)
def test_what_a_lost_worker_had_is_asked_again_but_not_for_ever(server: ReplayServer, error: BaseException) -> None:
    with Losing(TRIES - 1, error) as executor:
        assert [result.text for result in client(server).map(["q"], executor=executor)] == ["re: q"]
    with Losing(TRIES, error) as executor, pytest.raises(type(error)):
        list(client(server).map(["q"], executor=executor))
    assert asked(server) == {"q": 1}


def test_a_worker_that_cannot_ask_ends_the_run(server: ReplayServer) -> None:
    missing = ModuleNotFoundError("No module named 'openai_compat'")
    with Losing(1, missing) as executor, pytest.raises(ModuleNotFoundError):
        list(client(server).map(map(str, itertools.count()), executor=executor, workers=2))


def test_an_answer_that_cannot_be_pickled_is_an_error_in_its_place() -> None:
    lock = threading.Lock()
    sent = pickle.loads(pickle.dumps(Outcomes({0: ("fine", None, 0.1), 1: (lock, None, 0.2)})))
    assert sent.found[0] == ("fine", None, 0.1)
    answer, error, seconds = sent.found[1]
    assert (answer, seconds) == (None, 0.2)
    assert isinstance(error, OpenAICompatError)
    assert "a lock cannot leave the process that it came to: " in str(error)


def plain_ask(request: Any, token: CancelToken) -> Any:
    return request, None, 0.0


def test_a_process_unpickles_a_work_once_and_forgets_the_oldest() -> None:
    data = [pickle.dumps(Work(plain_ask, 2)) for _ in range(KEPT + 1)]
    first = pickle.loads(data[0])
    assert pickle.loads(data[0]) is first
    for each in data[1:]:
        pickle.loads(each)
    assert pickle.loads(data[0]) is not first


def test_what_stands_in_a_program_goes_by_value() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def triple(number):\n    return 3 * number", space)
    assert pickle.loads(dumps(space["triple"]))(2) == 6
