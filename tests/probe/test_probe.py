"""What a probe finds out about servers of different kinds, and what it costs them."""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.replay import ReplayServer, Reply, Request
from support.wire_bodies import error_reply

from openai_compat import Cancelled, CancelToken, Client, ConfigurationError, Constraints, Dialect, LocalServer, Probe
from openai_compat.probe.run import FEATURES, QUESTIONS, most_requests
from openai_compat.providers import PROVIDERS
from probe import servers


def probed(handler: servers.Handler, **options: Any) -> tuple[Probe, list[Request]]:
    with ReplayServer(handler) as server, Client(f"{server.url}/v1", "key", max_retries=2) as client:
        return client.probe(**options), list(server.requests)


def findings(probe: Probe) -> dict[str, str]:
    return {row.name: row.finding for row in probe.rows}


def test_a_server_that_does_all() -> None:
    probe, requests = probed(servers.able)
    assert findings(probe) == dict.fromkeys(FEATURES, "yes") | {"context_length": "yes"}
    assert (probe.model, probe.embedding_model, probe.server) == ("talker", "embedder", "able/1")
    details = {row.name: row.detail for row in probe.rows}
    assert details["context_length"] == "4,096 tokens"
    assert details["stream"] == "8 pieces of text in 10 events"
    assert details["stream_framing"].startswith("lines end in LF, [DONE]")
    assert details["tools_streamed"] == "arguments in 2 pieces"
    assert details["reasoning"] == "in reasoning_content; by default off"
    assert details["token_counts"] == "at the address of vllm: 10, as in usage"
    assert details["error_wrong_key"] == "HTTP 401: Incorrect API key; code invalid_api_key"
    assert probe.dialect == Dialect(
        constraints=Constraints(
            choice="structured_outputs", regex="structured_outputs", grammar="structured_outputs", top_logprobs=100
        ),
        tokenizer="vllm",
    )
    assert probe.requests == len(requests) <= most_requests()
    answered = [request for request in requests if request.path.startswith("/v1/") and request.method == "POST"]
    refused = 3  # an unknown model, a bad value, a wrong key
    assert probe.input_tokens == 10 * (len(answered) - refused - 1)  # the documents, whose order has no usage
    assert not probe.interrupted


def test_a_server_that_does_nothing_with_what_it_takes() -> None:
    probe, _ = probed(servers.deaf)
    assert findings(probe) == {
        **dict.fromkeys(FEATURES, "ignored"),
        **dict.fromkeys(("models", "chat", "usage", "embeddings"), "yes"),
        **dict.fromkeys(("context_length", "reasoning", "token_counts"), "no"),
        **dict.fromkeys(("seed", "tools", "tools_parallel", "tool_results", "images", "audio"), "unclear"),
        **dict.fromkeys(("stream_framing", "stream_usage", "reasoning_switch", "speed", "speed_parallel"), "skipped"),
        # A streamed call is no stream at all.
        "tools_streamed": "ignored",
    }
    assert probe.dialect == Dialect(
        schema_as="prompt", constraints=Constraints(regex="none", grammar="none"), tokenizer="none"
    )


def test_a_server_that_refuses() -> None:
    probe, requests = probed(servers.strict, model="m")
    found = findings(probe)
    assert {name for name, finding in found.items() if finding == "yes"} == {
        "chat",
        "stream",
        "stream_framing",
        "error_bad_value",
        "speed",
        "speed_parallel",
    }
    assert {name for name, finding in found.items() if finding == "failed"} == set()
    assert found["images"] == "no"
    assert probe["stream_framing"].detail.startswith("lines end in CRLF, [DONE]")
    assert probe["chat"].detail == "finish_reason stop, max_completion_tokens"
    assert probe["n"].detail == "HTTP 400: Unsupported parameter: 'n'"
    assert (probe.dialect.max_tokens, probe.dialect.stream_options) == ("max_completion_tokens", False)
    assert probe.dialect.schema_as == "prompt"
    assert probe.requests == len(requests)


def test_a_server_for_embeddings_alone() -> None:
    probe, requests = probed(servers.embedder)
    found = findings(probe)
    assert (found["chat"], found["embeddings"], found["embeddings_base64"]) == ("no", "yes", "yes")
    assert (found["embeddings_dimensions"], found["rerank"], found["tools"]) == ("ignored", "no", "skipped")
    # What nobody can answer is not asked.
    assert len(requests) == 6
    assert probe.missing(["embeddings", "chat", "tools"]) == ("chat", "tools")


def test_what_breaks_is_a_row() -> None:
    probe, requests = probed(servers.broken, model="m")
    assert set(findings(probe)) == set(FEATURES)
    assert "failed" in findings(probe).values()
    assert findings(probe)["models"] == "no"
    assert findings(probe)["embeddings"] == "ignored"
    # Nothing is tried twice: a probe tells of the first try.
    assert probe.requests == len(requests) <= most_requests()


def test_a_server_that_is_silent_costs_its_time_and_no_more() -> None:
    def silent(request: Request) -> Reply:
        if request.path == "/v1/chat/completions" and "n" in request.json():
            request.closed.wait(10)
        return servers.able(request)

    probe, _ = probed(silent, timeout=0.3, only=["n", "logprobs"])
    assert findings(probe)["n"] == "failed"
    assert findings(probe)["logprobs"] == "yes"


def test_a_server_that_is_not_there() -> None:
    with Client("http://127.0.0.1:9/v1") as client:
        probe = client.probe(only=["chat"])
    assert findings(probe) == dict.fromkeys(("models", "context_length", "chat", "usage"), "failed")


def test_only_what_is_wanted_is_asked() -> None:
    probe, requests = probed(servers.able, only=["tools", "embeddings_base64"])
    wanted = ["models", "context_length", "chat", "usage", "tools", "embeddings", "embeddings_base64"]
    assert [row.name for row in probe.rows] == wanted
    assert len(requests) == 5
    assert most_requests(["tools"]) < most_requests()
    with pytest.raises(ConfigurationError, match="did you mean json_schema"):
        probed(servers.able, only=["json_shema"])


@pytest.mark.parametrize("only", [["json_object"], ["json_object", "json_schema"], ["json_object", "tools_forced"]])
def test_a_way_that_was_not_asked_about_is_not_given_up(only: list[str]) -> None:
    probe, _ = probed(servers.able, only=only)
    assert probe.dialect.schema_as == "json_schema"


def test_ctrl_c_ends_with_what_is_known() -> None:
    def stop(row: Any) -> None:
        if row.name == "logprobs":
            raise KeyboardInterrupt

    probe, requests = probed(servers.able, on_row=stop)
    assert probe.interrupted
    assert probe.supports("stream")
    assert probe.rows[-1].name == "logprobs"
    assert probe.requests == len(requests) == 4
    assert probe.spent.endswith("interrupted")


def test_cancelling_ends_it() -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        probed(servers.able, cancel=token, on_row=lambda row: token.cancel())


def test_a_thinking_model_gets_room_to_think() -> None:
    def thinking(request: Request) -> Reply:
        body = request.json() if request.body else {}
        if request.path != "/v1/chat/completions":
            return servers.able(request)
        effort = body.get("reasoning_effort")
        text = "Hello." if effort == "none" else "<think>Hm.</think>Hello."
        return servers.said(servers.completion(servers.message(text)))

    probe, requests = probed(thinking, only=["reasoning"])
    assert probe["reasoning"].detail == "in <think>, within the text; by default on"
    assert probe["reasoning_switch"].detail == "reasoning_effort: none"
    assert probe.dialect.thinking == "reasoning_effort"
    assert [request.json()["max_tokens"] for request in requests[1:]] == [48, 1024, 1024, 1024, 1024]


@pytest.mark.parametrize(("limit", "asked"), [(200, [100]), (20, [100, 20]), (5, [100, 20, 5])])
def test_how_many_likely_tokens_a_server_gives(limit: int, asked: list[int]) -> None:
    def limited(request: Request) -> Reply:
        if request.body and request.json().get("top_logprobs", 0) > limit:
            return error_reply(400, f"top_logprobs must be at most {limit}")
        return servers.able(request)

    probe, requests = probed(limited, only=["logprobs"])
    sent = [json.loads(request.body or b"{}").get("top_logprobs") for request in requests]
    assert [number for number in sent if number] == asked
    assert probe["logprobs"].detail == f"{asked[-1]} likely ones with each token"
    assert probe.dialect.constraints.top_logprobs == asked[-1]


@pytest.mark.parametrize("field", ["grammar", "ebnf", "guided_regex", "regex"])
def test_each_way_to_constrain_is_found(field: str) -> None:
    def one_way(request: Request) -> Reply:
        body = request.json() if request.body else {}
        text = "zq99" if field in body else "Hello."
        if request.path != "/v1/chat/completions":
            return servers.able(request)
        return servers.said(servers.completion(servers.message(text)))

    probe, _ = probed(one_way, only=["regex", "grammar"])
    way = {"guided_regex": "guided"}.get(field, field)
    kind = "grammar" if field in ("grammar", "ebnf") else "regex"
    assert probe.supports(kind)
    assert getattr(probe.dialect.constraints, kind) == way
    if kind == "regex":
        assert probe.dialect.constraints.choice == way


def test_a_server_elsewhere_is_asked_for_no_model_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from openai_compat.transport import Endpoint

    monkeypatch.setattr(Endpoint, "loopback", property(lambda endpoint: False))
    with pytest.raises(ConfigurationError, match="which model"):
        probed(servers.able)
    probe, _ = probed(servers.able, model="talker", only=["chat"])
    assert probe.supports("chat")


def test_every_question_names_its_rows_once() -> None:
    assert len(FEATURES) == len(set(FEATURES))
    assert all(question.needs in ("", *FEATURES) for question in QUESTIONS)


def test_the_docs_say_of_each_provider_where_its_row_is_from() -> None:
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", page.partition("## Servers")[2])
    assert sorted(named) == sorted(PROVIDERS)


def test_the_docs_have_every_row_and_what_a_probe_costs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| .*\|.*\|.*\|.*\|$", page, re.MULTILINE) == list(FEATURES)
    assert f"at most {most_requests()} requests" in page
    manual = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"at most {most_requests()} small requests" in manual


@pytest.mark.parametrize("words", ["no, ", "n" * 60, "n" * 45])
def test_a_key_that_a_server_says_again_is_not_shown(words: str) -> None:
    key = "sk-a-key-that-nobody-may-see"

    def echoing(request: Request) -> Reply:
        told = {"Server": f"s {key}"}
        if request.path == "/v1/models":
            return servers.said({"data": [{"id": "m", "owned_by": key}]}, **told)
        return servers.said({"error": {"message": f"{words}{request.headers['Authorization']}"}}, **told)

    with ReplayServer(echoing) as server, Client(f"{server.url}/v1", key) as client:
        probe = client.probe()
    assert "an error" in probe["chat"].detail
    assert key[:12] not in f"{probe!r}{probe}{probe.to_json()}{probe.to_markdown()}"


# The result


def test_what_was_found_is_saved_and_loaded(tmp_path: Path) -> None:
    probe, _ = probed(servers.able)
    where = tmp_path / "server.json"
    probe.save(where)
    kept = json.loads(where.read_text())
    assert kept["features"]["tools"] == {"finding": "yes", "detail": "arguments fit"}
    assert kept["model"] == "talker"
    with ReplayServer(servers.able) as server, Client(f"{server.url}/v1", model="talker", dialect=where) as client:
        assert client.chat("hi", choice=["zq34", "zq35"]).text == "zq34"
        assert client.count_tokens([{"role": "user", "content": "hi"}]).tokens == 10
        assert "structured_outputs" in server.requests[0].json()
    assert pickle.loads(pickle.dumps(probe)) == probe
    with pytest.raises(ConfigurationError, match="cannot write"):
        probe.save(tmp_path / "none" / "server.json")


def test_what_was_found_can_be_read() -> None:
    probe, _ = probed(servers.able, only=["tools"])
    hostile = attrs.evolve(probe.rows[0], detail="a | b\n<script> `x` [y](z)")
    probe = attrs.evolve(probe, rows=(hostile, *probe.rows[1:]), provider="m\x1b[31m|")
    lines = probe.to_markdown().splitlines()
    assert lines[2] == "| Feature | Finding | Detail |"
    assert lines[4] == r"| `models` | yes | a \| b \<script\> \`x\` \[y\](z) |"
    assert "\x1b" not in str(probe)
    assert "tools" in str(probe)
    assert probe["tools"].finding == "yes"
    with pytest.raises(KeyError):
        probe["rerank"]


def test_it_is_a_table_where_rich_is() -> None:
    rich = pytest.importorskip("rich.console")
    probe, _ = probed(servers.able, only=["tools"])
    console = rich.Console(width=100, file=io.StringIO())
    console.print(probe)
    shown = console.file.getvalue()
    assert "arguments fit" in shown
    assert "Finding" in shown


def test_a_fallback_probes_its_first_endpoint() -> None:
    with ReplayServer(servers.able) as server, Client(f"{server.url}/v1") as client:
        assert Client.fallback([client]).probe(only=["chat"]).supports("chat")


# The real model


def test_a_real_server(local_server: LocalServer) -> None:
    with Client(local_server.base_url) as client:
        probe = client.probe(
            only=["stream_usage", "logprobs", "json_schema", "grammar", "token_counts", "embeddings_base64"]
        )
    asked = ("stream", "stream_usage", "logprobs", "json_schema", "grammar", "token_counts", "embeddings_base64")
    assert probe.missing(asked) == ()
    assert probe.dialect.constraints.grammar == "grammar"
    assert probe.dialect.tokenizer == "llamacpp"
