"""The command probe."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.replay import ReplayServer

from openai_compat import Client, Probe
from openai_compat.cli.main import main
from probe import servers

Result = tuple[int, str, str]


@pytest.fixture
def able(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command against a server that does all: the exit status, stdout, stderr."""

    def run(*args: str) -> Result:
        with ReplayServer(servers.able) as server:
            status = main(["probe", f"{server.url}/v1", "--api-key", "k", *args])
            return status, *capsys.readouterr()

    return run


def test_the_table_is_on_stdout_and_what_it_costs_on_stderr(able: Any) -> None:
    status, out, err = able("--only", "tools,embeddings")
    assert status == 0
    assert "arguments fit" in out
    assert "up to 6 small requests" in err
    assert "4 requests, 30 tokens in, 12 out" in err


def test_on_a_terminal_what_it_costs_stands_once(able: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, err = able("--markdown", "--only", "tools")
    assert (out + err).count("tokens in,") == 1


def test_json_and_markdown(able: Any) -> None:
    status, out, _ = able("--json", "--only", "tools")
    assert status == 0
    assert json.loads(out)["features"]["tools"]["finding"] == "yes"
    status, out, _ = able("--markdown", "--only", "tools")
    assert "| `tools` | yes | arguments fit |" in out
    assert able("--json", "--markdown")[0] == 2


def test_what_is_required_decides_the_status(able: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert able("--only", "chat", "--require", "tools, json_schema")[0] == 0
    with ReplayServer(servers.deaf) as server:
        status = main(["probe", f"{server.url}/v1", "--api-key", "k", "--require", "chat,tools,json_schema", "-q"])
    assert status == 1
    assert capsys.readouterr().err == "error: missing: tools (unclear), json_schema (ignored)\n"
    status, _, err = able("--require", "tolls")
    assert status == 2
    assert "did you mean tools?" in err


def test_what_is_saved_is_a_dialect(able: Any, tmp_path: Path) -> None:
    where = tmp_path / "server.json"
    assert able("--save", str(where), "--only", "regex")[0] == 0
    with Client("http://localhost:1", dialect=where) as client:
        assert client._dialect.constraints.regex == "structured_outputs"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--save", "none/server.json", "no folder"), ("--each", "0", "--each"), ("--each", "-1", "--each")],
)
def test_what_cannot_be_done_is_told_before_anything_is_asked(
    option: str, value: str, words: str, tmp_path: Path, able: Any
) -> None:
    status, out, err = able(option, str(tmp_path / value) if option == "--save" else value, "--only", "chat")
    assert (status, out) == (2, "")
    assert words in err


def test_the_address_is_given_once(able: Any) -> None:
    status, _, err = able("--base-url", "http://localhost:1")
    assert status == 2
    assert "twice" in err


def test_a_server_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "http://127.0.0.1:9/v1", "--only", "chat", "-q"]) == 1
    assert "error: nothing listens" in capsys.readouterr().err


def test_ctrl_c_shows_what_is_known(able: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Client.probe

    def stopped(client: Client, **options: Any) -> Probe:
        def stop(row: Any) -> None:
            if row.name == "tools":
                raise KeyboardInterrupt

        return whole(client, **{**options, "on_row": stop})

    monkeypatch.setattr(Client, "probe", stopped)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    status, out, err = able()
    assert status == 130
    assert "arguments fit" in out
    assert "interrupted" in err
