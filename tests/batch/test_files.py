"""Files of requests: OpenAI's Batch format and tables, through the client and the command line."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.replay import JSON, ReplayServer, Reply, Request
from support.wire_bodies import chat_reply, error_reply

from openai_compat import APIError, AuthenticationError, Client, ConfigurationError, FileSummary, Limits, MapResult
from openai_compat.batch.files import run_table
from openai_compat.cli.main import main

VECTOR = {
    "object": "list",
    "model": "e",
    "data": [{"index": 0, "embedding": [0.5, 1.0]}],
    "usage": {"prompt_tokens": 2},
}


def line(custom_id: str, content: str = "hi", **fields: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def embedding_line(custom_id: str, text: str) -> str:
    body = {"model": "e", "input": text}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body})


def serve(request: Request) -> Reply:
    if request.path.endswith("/embeddings"):
        return Reply(headers=JSON, body=json.dumps(VECTOR).encode())
    asked = request.json()["messages"][-1]["content"]
    if asked == "bad":
        return error_reply(400, "not this", code="wrong", type="invalid_request_error")
    if asked == "nonsense":
        return Reply(headers=JSON, body=b"<html>")
    return chat_reply(f"re: {asked}")


def answers(path: Path) -> dict[str, Any]:
    return {each["custom_id"]: each for each in map(json.loads, path.read_text().splitlines())}


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def client(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", max_retries=0, **options)


def test_a_file_of_openai_s(tmp_path: Path) -> None:
    source = written(
        tmp_path / "in.jsonl",
        line("chat", "hello", temperature=0.5, some_field={"of": "the server"}),
        embedding_line("vector", "text"),
        "",
        line("refused", "bad"),
        line("broken", "nonsense"),
    )
    with ReplayServer(serve) as server:
        summary = client(server).map_file(source, tmp_path / "out.jsonl")
        sent = {json.dumps(request.json(), sort_keys=True) for request in server.requests}
        assert len(server.requests) == 4
    assert summary == FileSummary(answered=2, failed=2, input_tokens=5, output_tokens=2)
    found = answers(tmp_path / "out.jsonl")
    assert found["chat"]["response"]["status_code"] == 200
    assert found["chat"]["response"]["body"]["choices"][0]["message"]["content"] == "re: hello"
    assert found["chat"]["error"] is None
    assert found["vector"]["response"]["body"] == VECTOR
    assert found["refused"]["response"]["status_code"] == 400
    assert found["refused"]["response"]["body"]["error"]["code"] == "wrong"
    assert found["refused"]["error"] is None
    assert found["broken"]["response"] is None
    assert found["broken"]["error"]["code"] == "ResponseParseError"
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    assert json.dumps({**asked, "temperature": 0.5, "some_field": {"of": "the server"}}, sort_keys=True) in sent


def test_the_requests_are_not_written_over(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line("a"))
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_bytes()
    with ReplayServer(serve) as server:
        for output in ("in.jsonl", "link.jsonl"):
            with pytest.raises(ConfigurationError, match="has the requests"):
                client(server).map_file(source, tmp_path / output)
        assert not server.requests
    assert source.read_bytes() == before


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", *(line(f"row-{number}", str(number)) for number in range(20)))
    output, down = tmp_path / "out.jsonl", [False]

    def reply(request: Request) -> Reply:
        return error_reply(401, "the key has expired") if request.number == 10 and not down[0] else serve(request)

    with ReplayServer(reply) as server:
        with pytest.raises(AuthenticationError):
            client(server).map_file(source, output, workers=2)
        assert not output.exists()
        down[0] = True
        before = len(server.requests)
        summary = client(server).map_file(source, output, workers=2)
        assert len(server.requests) - before == 20 - summary.from_journal
    assert summary.answered == 20
    assert summary.from_journal >= 8
    assert {
        name: each["response"]["body"]["choices"][0]["message"]["content"] for name, each in answers(output).items()
    } == {f"row-{number}": f"re: {number}" for number in range(20)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.journal"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "no JSON"),
        ("[]", "a request is a JSON object"),
        ("{}", "no custom_id"),
        (json.dumps({"custom_id": "x", "url": "/v1/responses", "body": {}}), "url one of"),
        (json.dumps({"custom_id": "x", "method": "GET", "url": "/v1/embeddings", "body": {}}), "method must be POST"),
        (json.dumps({"custom_id": "x", "url": "/v1/embeddings"}), "no body"),
        (line("first"), "'first' has come before"),
    ],
)
def test_a_line_that_is_no_request_is_told_before_anything_is_asked(tmp_path: Path, bad: str, message: str) -> None:
    source = written(tmp_path / "in.jsonl", line("first"), bad)
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match=rf"in\.jsonl:2: .*{message}"):
            client(server).map_file(source, tmp_path / "out.jsonl")
        assert server.requests == []
    assert not (tmp_path / "out.jsonl").exists()


def test_a_table_with_a_template(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('\ufeffword,note\nsun,"two\nlines"\nbad,\n"a, b",x\n', encoding="utf-8")
    with ReplayServer(serve) as server:
        summary = client(server, model="m").map_file(source, tmp_path / "out.csv", template="{word}", workers=2)
        assert len(server.requests) == 3
    with open(tmp_path / "out.csv", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[:2] == [["word", "note", "answer", "error"], ["sun", "two\nlines", "re: sun", ""]]
    assert rows[2][:3] == ["bad", "", ""]
    assert rows[2][3].startswith("BadRequestError: ")
    assert rows[3] == ["a, b", "x", "re: a, b", ""]
    assert (summary.answered, summary.failed) == (2, 1)


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_half_a_character_costs_no_file(tmp_path: Path, output: str) -> None:
    source = written(tmp_path / "in.csv", "word", "sun")
    reply = Reply(headers=JSON, body=b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}')
    with ReplayServer([reply]) as server:
        client(server, model="m").map_file(source, tmp_path / output, template="{word}")
    assert "a?b" in (tmp_path / output).read_text()


def test_a_table_of_json(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", '{"word": "sun", "n": 1}', '{"word": "moon", "n": 2}')
    with ReplayServer(serve) as server:
        client(server, model="m").map_file(source, tmp_path / "out.jsonl", template="{word}{n}")
    assert [json.loads(each) for each in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        {"word": "sun", "n": 1, "answer": "re: sun1", "error": None},
        {"word": "moon", "n": 2, "answer": "re: moon2", "error": None},
    ]


@pytest.mark.parametrize(
    ("name", "text", "template", "message"),
    [
        ("in.csv", "word\nsun\n", "{text}", r"does not fit the columns of .*in\.csv \(word\), in row 1: 'text'"),
        ("in.csv", "", "{word}", "has no rows"),
        ("in.xlsx", "", "{word}", r"a \.csv, \.jsonl or \.parquet file is wanted"),
        ("in.jsonl", "[]\n", "{word}", "in.jsonl:1: a row is a JSON object"),
        ("in.jsonl", "{\n", "{word}", "in.jsonl:1: no JSON"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path: Path, name: str, text: str, template: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match=message):
            client(server, model="m").map_file(tmp_path / name, tmp_path / f"out-{name}", template=template)
        assert server.requests == []


ODD_TABLES: dict[str, tuple[bytes, list[str], list[dict[str, str]]]] = {
    "a byte order mark": (b"\xef\xbb\xbfword\nsun\n", ["sun"], [{"word": "sun"}]),
    "a document in a field": (b"word\n" + b"x" * 200_000 + b"\n", ["x" * 200_000], [{"word": "x" * 200_000}]),
    "a row that is short": (b"word,place\nsun\n", ["sun"], [{"word": "sun", "place": ""}]),
    "commas at the end": (b"word\nsun,,\n", ["sun"], [{"word": "sun"}]),
    "columns without a name": (b"word,,\nsun,1,2\n", ["sun"], [{"word": "sun", "": "2"}]),
    "quotes, lines, NUL": (b'word\n"a ""b""\n\0c"\n', ['a "b"\n\0c'], [{"word": 'a "b"\n\0c'}]),
}


@pytest.mark.parametrize("name", ODD_TABLES)
def test_an_odd_table(tmp_path: Path, name: str) -> None:
    content, prompts, rows = ODD_TABLES[name]
    (tmp_path / "in.csv").write_bytes(content)
    with ReplayServer(serve) as server:
        client(server, model="m").map_file(tmp_path / "in.csv", tmp_path / "out.jsonl", template="{word}")
        assert [request.json()["messages"][-1]["content"] for request in server.requests] == prompts
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answered = [f"re: {prompt}" for prompt in prompts]
    assert written == [{**row, "answer": text, "error": None} for row, text in zip(rows, answered, strict=True)]


def test_what_is_missing_is_not_asked(tmp_path: Path) -> None:
    source = written(
        tmp_path / "in.jsonl", '{"word": "sun"}', '{"word": null}', '{"word": "moon", "further": null}', '{"word": 0}'
    )
    with ReplayServer(serve) as server:
        summary = client(server, model="m").map_file(source, tmp_path / "out.csv", template="{word}")
        assert len(server.requests) == 3
    assert (summary.answered, summary.failed) == (3, 0)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = [(row["word"], row["answer"], row["error"]) for row in csv.DictReader(file)]
    assert rows == [("sun", "re: sun", ""), ("", "", ""), ("moon", "re: moon", ""), ("0", "re: 0", "")]


def test_a_row_of_half_a_character_costs_no_file(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", '{"word": "sun", "mark": "\\ud800"}')
    with ReplayServer(serve) as server:
        client(server, model="m").map_file(source, tmp_path / "out.csv", template="{word}")
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "sun,?,re: sun,"


def test_a_table_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    source = written(tmp_path / "in.csv", "word", "sun")

    def run(prompts: Iterable[tuple[str, str]], total: int) -> Any:
        given = list(prompts)
        written(source, "word", "sun", "moon")
        return contextlib.nullcontext(
            [MapResult(index=0, custom_id=each, request=prompt, error=APIError("no")) for each, prompt in given]
        )

    with pytest.raises(ConfigurationError, match="has changed"):
        run_table(source, tmp_path / "out.csv", "{word}", run)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"word\ncaf\xe9\n", "not in UTF-8"),
        ("in.csv", "word\nsun\n".encode("utf-16"), "not in UTF-8"),
        ("in.csv", b"word\nsun, moon\n", r"in\.csv:2: more fields than columns"),
        ("in.csv", b"word,word\nsun,moon\n", "two columns are named 'word'"),
        ("in.jsonl", b'{"word": "sun"}\n{"words": "moon"}\n', "in row 2: 'word'"),
        ("in.jsonl", b'{"word": "caf\xe9"}\n', "not in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_before_anything_is_asked(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match=message):
            client(server, model="m").map_file(tmp_path / name, tmp_path / "out.csv", template="{word}")
        assert server.requests == []


def test_so_is_a_file_of_openai_s(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(line("a", "caf").encode() + b"\xe9")
    with ReplayServer(serve) as server:
        with pytest.raises(ConfigurationError, match="not in UTF-8"):
            client(server, model="m").map_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        assert server.requests == []


def test_fields_have_no_place_beside_a_file_of_openai_s(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line("a"))
    with ReplayServer(serve) as server:
        with pytest.raises(TypeError, match="the lines of a file say what is asked: temperature"):
            client(server).map_file(source, tmp_path / "out.jsonl", temperature=0.1)
        assert server.requests == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = written(tmp_path / "in.jsonl", line("a", "x"), line("b", "bad")), tmp_path / "out.jsonl"
    with ReplayServer(serve) as server:
        command = ["batch", str(source), "-o", str(output), "--base-url", f"{server.url}/v1", "--model", "m"]
        assert main(command) == 0
        told = capsys.readouterr()
        assert "1 answered, 1 failed" in told.err
        assert set(answers(output)) == {"a", "b"}
        assert main([*command, "--json", "--quiet"]) == 0
        assert len(server.requests) == 2
        assert json.loads(capsys.readouterr().out)["from_journal"] == 2
        assert main([*command, "--retry-failed", "--quiet"]) == 0
        assert len(server.requests) == 3


def test_the_command_with_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "in.csv", "word", "sun")
    with ReplayServer(serve) as server:
        command = [
            "batch",
            str(source),
            "-o",
            str(tmp_path / "out.csv"),
            "--base-url",
            f"{server.url}/v1",
            "--model",
            "m",
        ]
        assert main([*command, "--template", "{word}", "--system", "Be brief.", "--max-tokens", "5", "--quiet"]) == 0
        body = server.requests[0].json()
        assert main([*command, "--system", "Be brief."]) == 2
    assert (body["messages"][0]["content"], body["max_tokens"]) == ("Be brief.", 5)
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "sun,re: sun,"
    assert "--system and --max-tokens are for --template" in capsys.readouterr().err


def test_the_command_stops_before_its_budget_is_exceeded_and_goes_on_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "in.csv", "word", *(f"word {number}" for number in range(10)))
    output = tmp_path / "out.csv"
    with ReplayServer(serve) as server:
        command = ["batch", str(source), "-o", str(output), "--base-url", f"{server.url}/v1", "--model", "m"]
        command += ["--template", "{word}", "--max-tokens", "3", "--workers", "1"]
        assert main([*command, "--budget", "1"]) == 2
        assert "which is not known: give --price INPUT OUTPUT" in capsys.readouterr().err
        assert len(server.requests) == 0

        command += ["--price", "100000", "100000"]  # ten requests of five tokens are five dollars
        assert main([*command, "--budget", "3"]) == 1
        asked = len(server.requests)
        assert 2 <= asked <= 6
        told = capsys.readouterr().err
        assert f"stopped at ${asked / 2:.4f}, as the next request could cost more than the $3 given" in told
        assert f"tokens, ${asked / 2:.2f}" in told
        assert not output.exists()

        assert main(command) == 0
        assert len(server.requests) == 10
        assert f"{asked} of these by an earlier run, ${5 - asked / 2:.4f} spent" in capsys.readouterr().err
        assert main([*command, "--json", "--quiet"]) == 0
        assert json.loads(capsys.readouterr().out)["usd"] == 0


def test_a_file_keeps_to_limits(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line("a", "x"), line("b", "y"))
    with ReplayServer(serve) as server:
        done = client(server, limits=Limits(requests_per_minute=6000)).map_file(source, tmp_path / "out.jsonl")
    assert (done.answered, done.failed) == (2, 0)
