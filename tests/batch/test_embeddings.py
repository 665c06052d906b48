"""``client.map_embeddings``: batches, order, failures, what is asked once, the journal, and arrays of all vectors."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import (
    AuthenticationError,
    BadRequestError,
    Cancelled,
    CancelToken,
    Client,
    ConfigurationError,
    EmbeddingResult,
    InternalServerError,
    Journal,
    JournalError,
    Price,
    ResponseShapeError,
)
from openai_compat.batch import embeddings

LIMIT = 10.0
"""Seconds for whatever has to happen at once."""


def inputs(request: Request) -> list[Any]:
    given = request.json()["input"]
    return given if isinstance(given, list) else [given]


def vector_of(text: Any) -> list[float]:
    """Three numbers that tell one text from others; float32 holds them exactly."""
    return [float(len(text)), float(sum(map(ord, text)) if isinstance(text, str) else sum(text)), 0.5]


def vectors_reply(vectors: list[list[float]]) -> Reply:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 2 * len(vectors), "total_tokens": 2 * len(vectors)}
    return Reply(headers=JSON, body=json.dumps({"data": data, "model": "m", "usage": usage}).encode())


def embed(request: Request) -> Reply:
    return vectors_reply([vector_of(text) for text in inputs(request)])


def asked(server: ReplayServer) -> Counter[str]:
    return Counter(text for request in server.requests for text in inputs(request))


def client(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", **{"max_retries": 0, **options})


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer(embed) as server:
        yield server


# ---------------------------------------------------------------------------------------------------------- what comes


def test_every_text_has_its_vector(server: ReplayServer) -> None:
    texts = [f"text {number}" for number in range(50)]
    results = list(client(server).map_embeddings(texts, batch_size=8))
    assert sorted(result.index for result in results) == list(range(50))
    assert all(list(result.result()) == vector_of(result.input) and result.ok for result in results)
    assert all(result.input == texts[result.index] for result in results)
    assert [len(inputs(request)) for request in server.requests].count(8) == 6
    assert len(server.requests) == 7
    assert sum(result.tokens for result in results) == 100


@given(
    sizes=st.lists(st.integers(1, 12), max_size=20),
    batch_size=st.integers(1, 5),
    workers=st.integers(1, 4),
    journal=st.booleans(),
)
def test_in_order_and_in_one_array(
    sizes: list[int], batch_size: int, workers: int, journal: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = ["x" * size for size in sizes]
    path = tmp_path_factory.mktemp("journal") / "j.db" if journal else None
    with ReplayServer(embed) as server:
        options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "journal": path}
        results = list(client(server).map_embeddings(texts, ordered=True, **options))
        vectors = client(server).map_embeddings(iter(texts), **options).to_array()
        assert max((len(inputs(request)) for request in server.requests), default=0) <= batch_size
        if journal:
            assert asked(server) == Counter(set(texts))
    assert [result.index for result in results] == list(range(len(texts)))
    assert [list(result.result()) for result in results] == [vector_of(text) for text in texts]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector_of(text) for text in texts]


def test_kinds_of_texts(server: ReplayServer) -> None:
    given: list[Any] = ["a text", [1, 2, 3], ("id-1", "a named text"), ("id-2", [4, 5])]
    results = list(client(server).map_embeddings(given, ordered=True))
    assert [result.custom_id for result in results] == [None, None, "id-1", "id-2"]
    assert inputs(server.requests[0]) == ["a text", [1, 2, 3], "a named text", [4, 5]]


def test_long_texts_go_in_smaller_batches(server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCH_TOKENS", 100)
    texts = ["x" * 150, "y" * 150, "z" * 900, "a", "b"]
    list(client(server).map_embeddings(texts, workers=1))
    sent = [[text[0] for text in inputs(request)] for request in server.requests]
    assert sent == [["x"], ["y"], ["z"], ["a", "b"]]


def test_options_are_sent(server: ReplayServer) -> None:
    (result,) = client(server).map_embeddings(
        ["abc"], model="other", dimensions=3, user="u", extra_body={"task": "search"}, normalize=True
    )
    body = server.requests[0].json()
    assert body == {
        "model": "other",
        "input": ["abc"],
        "dimensions": 3,
        "user": "u",
        "task": "search",
        "encoding_format": "base64",
    }
    assert np.linalg.norm(result.result()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("a string", {}, "an iterable of texts"),
        (7, {}, "an iterable of texts"),
        (["q"], {"workers": 0}, "workers must be"),
        (["q"], {"on_error": "ignore"}, "on_error must be"),
        (["q"], {"batch_size": 0}, "batch_size must be"),
        (["q"], {"encoding_format": "octal"}, "encoding_format must be"),
        (["q"], {"progress": "bar"}, "progress must be"),
    ],
)
def test_bad_input(server: ReplayServer, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        client(server).map_embeddings(texts, **options)
    assert server.requests == []


def test_texts_are_taken_as_results_are_read(server: ReplayServer) -> None:
    taken: list[int] = []

    def texts() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield str(number)

    with client(server).map_embeddings(texts(), batch_size=4, workers=2) as run:
        for read in range(1, 60):
            next(run)
            assert len(taken) <= read + 4 + 4 * 4 + 1


def test_progress_counts_texts_and_tokens(server: ReplayServer) -> None:
    class Bar:
        done, postfix, closed = 0, "", False

        def update(self, n: int = 1, /) -> None:
            self.done += n

        def set_postfix_str(self, s: str = "", refresh: bool = True, /) -> None:
            self.postfix = s

        def close(self) -> None:
            self.closed = True

    bar = Bar()
    list(client(server).map_embeddings(["a", "b", "b", ""], progress=bar))
    assert (bar.done, bar.postfix, bar.closed) == (4, "4 tokens, 1 failed", True)


def test_a_result_goes_through_pickle(server: ReplayServer) -> None:
    results = list(client(server).map_embeddings(["a", ""], ordered=True))
    for result in results:
        copy: EmbeddingResult = pickle.loads(pickle.dumps(result))
        assert (copy.index, copy.input, copy.embedding) == (result.index, result.input, result.embedding)
        assert str(copy.error) == str(result.error)


# ------------------------------------------------------------------------------------------------------------ failures


def refuses(*bad: str) -> Callable[[Request], Reply]:
    return lambda request: error_reply(400, "too long") if set(bad) & set(inputs(request)) else embed(request)


@pytest.mark.parametrize("bad", [["t0"], ["t15"], ["t3", "t4"], ["t0", "t7", "t15"]])
def test_a_text_that_is_refused_fails_alone(bad: list[str]) -> None:
    texts = [f"t{number}" for number in range(16)]
    with ReplayServer(refuses(*bad)) as server:
        results = list(client(server).map_embeddings(texts, ordered=True))
        # A way down the halves for each: 1 + 2 * log2(16) requests at the most.
        assert len(server.requests) <= 9 * len(bad)
    assert [result.input for result in results if not result.ok] == bad
    assert all(isinstance(result.error, BadRequestError) for result in results if not result.ok)


def test_a_vector_that_is_no_number_fails_alone() -> None:
    def reply(request: Request) -> Reply:
        return vectors_reply([[float("nan")] if text == "bad" else [1.0] for text in inputs(request)])

    with ReplayServer(reply) as server:
        results = list(client(server).map_embeddings(["a", "bad", "c", "d"], ordered=True))
    assert [type(result.error) for result in results] == [type(None), ResponseShapeError, type(None), type(None)]


def test_what_fails_for_every_text_is_not_asked_for_each() -> None:
    with ReplayServer([error_reply(400, "dimensions are not supported")]) as server:
        results = list(client(server).map_embeddings(map(str, range(512)), batch_size=128, workers=1))
        assert len(server.requests) < 40
    assert len(results) == 512
    assert all(isinstance(result.error, BadRequestError) for result in results)


def test_a_server_that_takes_fewer_texts_is_asked_with_fewer() -> None:
    def reply(request: Request) -> Reply:
        if len(inputs(request)) > 32:
            return error_reply(413, f"batch size {len(inputs(request))} > maximum allowed batch size 32")
        return embed(request)

    texts = [f"text {number}" for number in range(300)]
    with ReplayServer(reply) as server:
        vectors = client(server).map_embeddings(texts, workers=2).to_array()
        refused = [request for request in server.requests if len(inputs(request)) > 32]
        assert len(refused) <= 2
    assert vectors.tolist() == [vector_of(text) for text in texts]


def test_a_failure_is_asked_once_a_run(tmp_path: Path) -> None:
    with ReplayServer(refuses("bad")) as server:
        run = client(server).map_embeddings(["bad"] * 20, journal=tmp_path / "j.db", batch_size=2, retry_failed=True)
        assert [type(result.error) for result in run] == [BadRequestError] * 20
        assert len(server.requests) == 1


def test_a_server_that_is_down_is_not_asked_for_each_text() -> None:
    with ReplayServer([error_reply(503, "down")]) as server:
        results = list(client(server).map_embeddings(map(str, range(64)), batch_size=16))
        assert len(server.requests) == 4
    assert all(isinstance(result.error, InternalServerError) for result in results)


def test_an_empty_text_fails_in_its_place(server: ReplayServer) -> None:
    given: list[Any] = ["a", "", None, "b"]
    results = list(client(server).map_embeddings(given, ordered=True))
    assert [result.ok for result in results] == [True, False, False, True]
    assert isinstance(results[1].error, ConfigurationError)
    assert "input 1 to embed is empty" in str(results[1].error)
    assert inputs(server.requests[0]) == ["a", "b"]


def test_a_failure_ends_the_run_where_that_is_wanted(server: ReplayServer) -> None:
    texts = itertools.chain(["a", ""], map(str, itertools.count()))
    run = client(server).map_embeddings(texts, on_error="raise", ordered=True, batch_size=2, workers=1)
    assert next(run).ok
    with pytest.raises(ConfigurationError, match="is empty"):
        next(run)
    assert len(server.requests) <= 3


def test_a_key_that_is_refused_ends_the_run() -> None:
    with ReplayServer([error_reply(401, "wrong key")]) as server:
        run = client(server, api_key="k").map_embeddings(map(str, itertools.count()), batch_size=2)
        with pytest.raises(AuthenticationError):
            list(run)


class Held:
    """Answers the first request, and holds all others until their clients leave."""

    def __init__(self) -> None:
        self._waiting = threading.Semaphore(0)

    def __call__(self, request: Request) -> Reply:
        if request.number < 1:
            return embed(request)

        def body() -> Iterator[bytes]:
            self._waiting.release()
            yield b"{"
            request.closed.wait(LIMIT)

        return Reply(headers=JSON, body=body())

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._waiting.acquire(timeout=LIMIT)


def test_leaving_ends_what_is_under_way() -> None:
    held = Held()
    with ReplayServer(held) as server:
        with client(server).map_embeddings(map(str, itertools.count()), batch_size=2, workers=2) as run:
            assert next(run).ok
            held.wait(2)
        assert server.wait_closed()
        assert len(list(run)) == 1, "what had come with the first"
        assert len(server.requests) == 3


def test_a_run_that_is_dropped_ends() -> None:
    held = Held()
    gc.disable()
    try:
        with ReplayServer(held) as server:
            for _ in client(server).map_embeddings(map(str, itertools.count()), batch_size=2, workers=3):
                held.wait(3)
                break
            assert server.wait_closed()
            assert len(server.requests) == 4
    finally:
        gc.enable()


def test_a_token_ends_the_run(tmp_path: Path) -> None:
    held, token = Held(), CancelToken()
    with ReplayServer(held) as server:
        run = client(server).map_embeddings(map(str, itertools.count()), batch_size=1, workers=2, cancel=token)
        next(run)
        held.wait(2)
        token.cancel()
        with pytest.raises(Cancelled):
            run.to_array(tmp_path / "vectors.npy")
        assert server.wait_closed()
        assert len(server.requests) == 3
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- the journal


def test_the_same_line_again_asks_nothing_twice(server: ReplayServer, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(30)]
    list(client(server).map_embeddings(texts[:20], journal=tmp_path / "j.db", batch_size=4))
    again = list(client(server).map_embeddings(texts, journal=tmp_path / "j.db", batch_size=7, ordered=True))
    assert asked(server) == Counter(dict.fromkeys(texts, 1))
    assert [result.from_journal for result in again] == [True] * 20 + [False] * 10
    assert [list(result.result()) for result in again] == [vector_of(text) for text in texts]


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ({}, 1),
        ({"encoding_format": "float"}, 1),
        ({"normalize": True}, 1),
        ({"user": "u"}, 1),
        ({"dimensions": 3}, 2),
        ({"model": "n"}, 2),
        ({"extra_body": {"task": "search"}}, 2),
    ],
)
def test_what_a_text_is_known_by(server: ReplayServer, tmp_path: Path, options: dict[str, Any], requests: int) -> None:
    for each, asking in (("q", {}), (("id", "q"), options)):
        (result,) = client(server).map_embeddings([each], journal=tmp_path / "j.db", **asking)
        assert result.ok
    assert len(server.requests) == requests


def test_a_text_that_comes_twice_is_embedded_once(server: ReplayServer, tmp_path: Path) -> None:
    texts = ["a", "bb"] * 100
    results = list(client(server).map_embeddings(texts, journal=tmp_path / "j.db", batch_size=3, ordered=True))
    assert [list(result.result()) for result in results] == [vector_of(text) for text in texts]
    assert asked(server) == Counter(["a", "bb"])
    assert list(client(server).map_embeddings(["c"] * 5)) != []
    assert asked(server)["c"] == 1


def test_failures_are_asked_again_where_they_may_succeed(tmp_path: Path) -> None:
    down = True
    with ReplayServer(lambda request: error_reply(503, "down") if down else refuses("bad")(request)) as server:

        def run(**options: Any) -> list[bool]:
            texts = ["a", "bad", "c"]
            found = client(server).map_embeddings(texts, journal=tmp_path / "j.db", ordered=True, **options)
            return [result.ok for result in found]

        assert run() == [False] * 3
        down = False
        assert run(retry_failed=False) == [False] * 3
        assert len(server.requests) == 1
        assert run() == [True, False, True]
        before = len(server.requests)
        assert run() == [True, False, True]
        assert len(server.requests) == before
        assert run(retry_failed=True) == [True, False, True]
        assert len(server.requests) == before + 1


def test_chat_and_embeddings_in_one_journal(tmp_path: Path) -> None:
    def reply(request: Request) -> Reply:
        return embed(request) if request.path.endswith("/embeddings") else chat_reply("hello")

    with ReplayServer(reply) as server, Journal(tmp_path / "j.db") as journal:
        for _ in range(2):
            assert [result.text for result in client(server).map(["q"], journal=journal)] == ["hello"]
            assert client(server).map_embeddings(["q"], journal=journal).to_array().tolist() == [vector_of("q")]
        assert len(server.requests) == 2
        entry = next(entry for entry in journal if entry.text is None)
    assert np.frombuffer(entry.response or b"", np.float32).tolist() == vector_of("q")
    assert json.loads(entry.request or "") == {"model": "m", "input": "q"}
    assert (entry.status, entry.model, entry.input_tokens) == ("answered", "m", 2)


def test_a_journal_that_cannot_be_written_loses_nothing(server: ReplayServer, tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
        journal._writer.execute(f"PRAGMA max_page_count = {pages + 8}")  # a disk that is full after these
        texts = (f"{number} {'x' * 1000}" for number in itertools.count())
        run = client(server).map_embeddings(texts, journal=journal, batch_size=4, workers=2)
        seen: list[EmbeddingResult] = []
        with pytest.raises(JournalError, match=r"full; what was written before stays") as caught:
            seen.extend(run)
        seen.extend(run)
        written = len(journal)
    unsaved = {result.index for result in caught.value.unsaved}
    assert unsaved
    assert not unsaved & {result.index for result in seen}
    assert len(seen) <= written


PROGRAM = """
import sys
from openai_compat import Client
url, journal = sys.argv[1:]
with Client(url, model="m", max_retries=0) as client:
    for result in client.map_embeddings(map(str, range(400)), journal=journal, batch_size=4):
        assert result.ok, result.error
        print(result.index, flush=True)
"""


@pytest.mark.process
def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    seen: set[int] = set()
    with ReplayServer(embed) as server:
        for kill in (True, True, False):
            command = [sys.executable, "-c", PROGRAM, f"{server.url}/v1", str(tmp_path / "j.db")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                seen.update(map(int, itertools.islice(process.stdout, len(seen) + 50) if kill else process.stdout))
                if kill:
                    process.kill()
            assert process.returncode == (-signal.SIGKILL if kill else 0)
        sent = asked(server)
    with Journal(tmp_path / "j.db") as journal:
        assert journal.counts() == {"answered": 400, "failed": 0}
    assert seen == set(range(400))
    assert set(sent) == set(map(str, range(400)))
    # What was under way at each kill: four workers with four texts each.
    assert sum(sent.values()) - 400 <= 2 * 16


# ----------------------------------------------------------------------------------------------------------- one array


def test_an_array_in_a_file(server: ReplayServer, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(40)]
    vectors = client(server).map_embeddings(iter(texts), batch_size=3).to_array(tmp_path / "vectors.npy")
    assert vectors.tolist() == [vector_of(text) for text in texts]
    read = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert (read.shape, read.dtype) == ((40, 3), np.float32)
    assert read.tolist() == vectors.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npy"]
    del read


def test_failures_are_rows_of_nan(tmp_path: Path) -> None:
    for out in (None, tmp_path / "vectors.npy"):
        with ReplayServer(refuses("bad")) as server:
            run = client(server).map_embeddings(["bad", "a", "bad"], batch_size=1)
            vectors = run.to_array(out)
        assert np.isnan(vectors).tolist() == [[True] * 3, [False] * 3, [True] * 3]
        assert {row: type(error) for row, error in run.errors.items()} == {0: BadRequestError, 2: BadRequestError}


def test_an_array_of_nothing(server: ReplayServer, tmp_path: Path) -> None:
    for out in (None, tmp_path / "vectors.npy"):
        assert client(server).map_embeddings([]).to_array(out).shape == (0, 0)
    assert np.load(tmp_path / "vectors.npy").shape == (0, 0)


def test_no_file_is_left_by_a_run_that_failed(tmp_path: Path) -> None:
    for reply in (refuses("a", "b"), lambda request: vectors_reply([[1.0] * (request.number + 1)])):
        with ReplayServer(reply) as server, pytest.raises((BadRequestError, ResponseShapeError)):
            client(server).map_embeddings(["a", "b"], batch_size=1, workers=1).to_array(tmp_path / "vectors.npy")
        assert list(tmp_path.iterdir()) == []


def test_an_array_without_numpy(server: ReplayServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    for out in (None, tmp_path / "vectors.npy"):
        vectors: Any = client(server).map_embeddings(["a", "bb"]).to_array(out)
        assert (vectors.format, vectors.shape) == ("f", (2, 3))
        assert vectors.tolist() == [vector_of("a"), vector_of("bb")]
    with pytest.raises(ConfigurationError, match="needs NumPy"):
        client(server).map_embeddings([]).to_array()


def test_numbers_of_another_kind_are_refused() -> None:
    def reply(request: Request) -> Reply:
        data = [{"index": 0, "embedding": [1, -2]}]
        return Reply(headers=JSON, body=json.dumps({"data": data}).encode())

    with ReplayServer(reply) as server:
        (result,) = client(server).map_embeddings(["a"], extra_body={"output_dtype": "int8"})
    assert isinstance(result.error, ConfigurationError)


def test_a_bar_shows_what_all_requests_cost(tmp_path: Path) -> None:
    words: list[str] = []

    class Bar:
        def update(self, n: int = 1) -> None:
            pass

        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            words.append(s)

        def close(self) -> None:
            pass

    texts = ["a", "b", "a", "c", "d"]
    with ReplayServer(embed) as server:
        asking = client(server, prices=Price(input=100_000, output=0))
        results = list(asking.map_embeddings(texts, batch_size=2, workers=1, progress=Bar(), journal=tmp_path / "j.db"))
        assert words[-1] == "8 tokens, $0.8000, 1 from the journal"
        assert asked(server) == Counter("abcd")
        list(asking.map_embeddings(texts, batch_size=2, progress=Bar(), journal=tmp_path / "j.db"))
        assert words[-1] == "0 tokens, 5 from the journal"
    assert sum(result.tokens for result in results if not result.from_journal) == 8
    assert [len(result.charges) for result in results].count(1) == len(server.requests)
