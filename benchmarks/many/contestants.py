"""Who takes part: each asks all prompts and hands out what came, texts or results with a ``text``.

They are written as the documentation of each shows it. Imports stand inside, because each has an environment of its
own. ``kept`` is a file for what must outlive the process.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import ENTRIES, Entry

Run = Callable[[str, Iterable[str], int, Path], Iterator[Any]]


def ours(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[Any]:
    from openai_compat import Client

    return Client(url, model="m").map(prompts, workers=workers)


def ours_journal(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[Any]:
    from openai_compat import Client

    return Client(url, model="m").map(prompts, workers=workers, journal=kept)


def openai_pool(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    from concurrent.futures import ThreadPoolExecutor

    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="k")

    def ask(prompt: str) -> str:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(workers) as pool:
        yield from list(pool.map(ask, prompts))


def openai_jsonl(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    import contextlib
    import json
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="k")

    def ask(prompt: str) -> tuple[str, str]:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
        return prompt, answer.choices[0].message.content or ""

    done: dict[str, str] = {}
    if kept.exists():
        for line in kept.read_text().splitlines():
            with contextlib.suppress(ValueError):  # cut by the kill
                done.update([json.loads(line)])
    yield from done.values()
    with kept.open("a") as file, ThreadPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(ask, prompt) for prompt in prompts if prompt not in done]):
            file.write(json.dumps(future.result()) + "\n")
            yield future.result()[1]


def plain_pool(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    from concurrent.futures import ThreadPoolExecutor

    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=workers))

    def ask(prompt: str) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
        response = session.post(f"{url}/chat/completions", json=body, headers={"Authorization": "Bearer k"}, timeout=60)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(workers) as pool:
        yield from list(pool.map(ask, prompts))


def litellm_batch(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    import litellm

    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    answers = litellm.batch_completion(
        model="openai/m", messages=messages, max_workers=workers, base_url=url, api_key="k"
    )
    yield from (answer.choices[0].message.content for answer in answers)


def langchain_batch(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(base_url=url, api_key=SecretStr("k"), model="m")
    yield from [str(answer.content) for answer in model.batch(list(prompts), {"max_concurrency": workers})]


@functools.cache
def _openai(url: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=url, api_key="k")


def _asked_by_dask(prompt: str, url: str) -> str:
    answer = _openai(url).chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content or ""


def dask_futures(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    from dask.distributed import Client as Cluster

    with Cluster(processes=False, n_workers=1, threads_per_worker=workers, dashboard_address=None) as cluster:
        yield from cluster.gather(cluster.map(_asked_by_dask, list(prompts), url=url, pure=False))


def floor(url: str, prompts: Iterable[str], workers: int, kept: Path) -> Iterator[str]:
    """Threads with a connection each, a line on disk for each answer, and nothing that real servers need."""
    import http.client
    import queue
    import threading
    import time
    from urllib.parse import urlsplit

    import msgspec

    done = dict(map(msgspec.json.decode, kept.read_bytes().splitlines())) if kept.exists() else {}
    yield from done.values()
    left, taking = (prompt for prompt in prompts if prompt not in done), threading.Lock()
    came: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    server, path = urlsplit(url).netloc, urlsplit(url).path + "/chat/completions"
    slots = threading.Semaphore(2 * workers)

    def work() -> None:
        connection = http.client.HTTPConnection(server)
        while True:
            slots.acquire()
            with taking:
                prompt = next(left, None)
            if prompt is None:
                slots.release()
                came.put(None)
                return
            body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": prompt}]})
            while True:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = msgspec.json.decode(response.read())
                if response.status == 200:
                    break
                time.sleep(int(response.headers["Retry-After"]))
            text = answer["choices"][0]["message"]["content"]
            file.write(msgspec.json.encode((prompt, text)) + b"\n")
            came.put(text)

    with kept.open("ab", buffering=0) as file:
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(workers):
            while (text := came.get()) is not None:
                slots.release()
                yield text


@dataclass(frozen=True)
class Many:
    """A contestant: what asks, what it is called in the table, its environment, and whether it always takes part."""

    run: Run
    title: str
    entry: Entry
    usual: bool = True


_own = {entry.name: entry for entry in ENTRIES}
MANY = (
    Many(ours, "openai_compat", _own["ours"]),
    Many(ours_journal, "with a journal", _own["ours"]),
    Many(openai_pool, "thread pool + openai", _own["openai_sdk"]),
    Many(openai_jsonl, "+ JSONL resume", _own["openai_sdk"]),
    Many(plain_pool, "thread pool + requests", _own["plain"]),
    Many(litellm_batch, "litellm", Entry("litellm", "litellm", "import litellm", ("litellm",)), usual=False),
    Many(
        langchain_batch,
        "langchain",
        Entry("langchain", "langchain", "import langchain_openai", ("langchain-openai",)),
        usual=False,
    ),
    Many(dask_futures, "dask", Entry("dask", "dask", "import dask", ("distributed", "openai")), usual=False),
    Many(floor, "floor", _own["floor"]),
)
