"""The Batch API as llmock, a mock of many providers, understands it; its server runs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openai_compat import Client, NotFoundError

testing = pytest.importorskip("llmock.testing", reason="llmock is not installed, or another version of it")
batches = pytest.importorskip("llmock.routers.batch", reason="another version of llmock")


@pytest.fixture(scope="module")
def llmock() -> Iterator[Any]:
    with testing.LLMockServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_BATCH_DELAY", 0.1)
    read = batches._read_upload

    async def read_and_close(request: Any) -> Any:
        try:
            return await read(request)
        finally:
            await request.close()  # which it forgets, and warnings are errors here

    monkeypatch.setattr(batches, "_read_upload", read_and_close)


@pytest.mark.parametrize("provider", ["openai", "groq"])
def test_each_provider_s_routes(llmock: Any, provider: str, tmp_path: Path) -> None:
    client = Client(llmock.base_url(provider), "key", provider=provider, model="m")
    asked = [("one", "What is 1?"), ("two", "What is 2?")]
    files = len(batches._files)
    client.submit_batch(asked, journal=tmp_path / "j.db").close()
    with client.submit_batch(asked, journal=tmp_path / "j.db", poll_every=0.05, ordered=True) as run:
        results = list(run)
    assert [(result.custom_id, result.from_journal) for result in results] == [("one", False), ("two", False)]
    assert all(result.text for result in results)
    assert {result.result().provider for result in results} == {provider}
    assert len(batches._files) - files == 2  # the requests, once, and the answers


def test_what_it_cancels_fails_and_is_asked_again(llmock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_BATCH_DELAY", 100.0)
    client = Client(llmock.base_url("openai"), "key", model="m")
    with client.submit_batch(["a", "b"], journal=tmp_path / "j.db") as run:
        assert [status.status for status in run.cancel()] == ["cancelled"]
        assert [result.ok for result in run] == [False, False]
    monkeypatch.setattr(batches, "_BATCH_DELAY", 0.1)
    with client.submit_batch(["a", "b"], journal=tmp_path / "j.db", poll_every=0.05) as run:
        assert [result.ok for result in run] == [True, True]


def test_where_it_has_no_such_route(llmock: Any) -> None:
    client = Client(f"{llmock.url}/cohere/v1", "key", model="m")
    with pytest.raises(NotFoundError, match=r"no Batch API: client\.map"):
        client.submit_batch(["a"])
