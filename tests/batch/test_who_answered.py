"""A journal says who answered, and so does a result that comes from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import Client, Journal


def test_a_run_that_goes_on_knows_which_of_several_servers_had_answered(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with ReplayServer([error_reply(503)]) as down, ReplayServer([chat_reply("here")]) as up:
        first = Client(f"{down.url}/v1", provider="first", model="m", max_retries=0)
        second = Client(f"{up.url}/v1", provider="second", model="m", max_retries=0)
        client = Client.fallback([first, second])
        [asked] = client.map(["hi"], journal=path)
        [again] = client.map(["hi"], journal=path)
        [by_another] = second.map(["hi"], journal=path, model="m")
        assert (len(down.requests), len(up.requests)) == (1, 1)
    assert again.from_journal
    for result in (asked, again, by_another):
        assert (result.result().provider, result.result().origin) == ("second", f"{up.url}/v1")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT provider, server FROM answers").fetchall() == [("second", f"{up.url}/v1")]
    database.close()


def test_of_a_failure_and_of_a_file_of_requests_too(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    body = '"body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    source.write_text(f'{{"custom_id": "a", "url": "/v1/chat/completions", {body}}}\n')

    def reply(request: Request) -> Reply:
        return chat_reply() if request.number else error_reply(400)

    with ReplayServer(reply) as server:
        client = Client(f"{server.url}/v1", provider="mine", model="m", max_retries=0)
        [failed] = client.map(["hi"], journal=tmp_path / "j.db")
        client.map_file(source, tmp_path / "out.jsonl")
    assert not failed.ok
    with Journal(tmp_path / "j.db") as journal:
        assert [(entry.status, entry.provider) for entry in journal] == [("failed", "mine")]
    with Journal(tmp_path / "out.jsonl.journal") as journal:
        assert [(entry.provider, entry.server) for entry in journal] == [("mine", f"{server.url}/v1")]
