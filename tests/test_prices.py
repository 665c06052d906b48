"""``answer.cost``: by whom it is told, which tokens are paid, and what is said where it is not known."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.replay import EVENT_STREAM, JSON, ReplayServer, Reply
from support.wire_bodies import tool_call

from openai_compat import (
    ChatResponse,
    Client,
    ConfigurationError,
    EmbeddingResponse,
    Price,
    UnknownPriceError,
    Usage,
    tool,
)
from openai_compat.wire.prices import Charge, cost_of, counted, in_batch, known_cost

OWN = Price(input=2.0, output=8.0, cached_input=0.5)


def usage(**fields: Any) -> Usage:
    found = Usage.from_wire(fields)
    assert found is not None
    return found


PLAIN = {"prompt_tokens": 1000, "completion_tokens": 100}

COUNTS = {
    "plain": (PLAIN, (1000, 100, 0, 0, 0, 0)),
    "cached is a part of the prompt": (
        {**PLAIN, "prompt_tokens_details": {"cached_tokens": 400}},
        (1000, 100, 400, 0, 0, 0),
    ),
    "DeepSeek's cache": ({**PLAIN, "prompt_cache_hit_tokens": 300}, (1000, 100, 300, 0, 0, 0)),
    "a cache that is counted beside the prompt": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 915, "cache_read_input_tokens": 900},
        (910, 5, 900, 0, 0, 0),
    ),
    "more cached than asked": ({**PLAIN, "cache_read_input_tokens": 5000}, (1000, 100, 1000, 0, 0, 0)),
    "written into the cache": (
        {**PLAIN, "prompt_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 500}},
        (1000, 100, 400, 500, 0, 0),
    ),
    "reasoning is a part of the answer": (
        {**PLAIN, "total_tokens": 1100, "completion_tokens_details": {"reasoning_tokens": 60}},
        (1000, 100, 0, 0, 0, 0),
    ),
    "Gemini's and xAI's reasoning is beside it": (
        {**PLAIN, "total_tokens": 1160, "completion_tokens_details": {"reasoning_tokens": 60}},
        (1000, 160, 0, 0, 0, 0),
    ),
    "sound": (
        {
            **PLAIN,
            "prompt_tokens_details": {"audio_tokens": 700},
            "completion_tokens_details": {"audio_tokens": 80},
        },
        (1000, 100, 0, 0, 700, 80),
    ),
    "embeddings": ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_which_tokens_are_paid_for(name: str) -> None:
    wire, expected = COUNTS[name]
    assert tuple(counted(usage(**wire))) == expected


tokens = st.integers(0, 10_000)


COUNTED = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cache_creation_input_tokens")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTED, tokens)))
def test_parts_are_never_more_than_the_whole(wire: dict[str, int]) -> None:
    found = Usage.from_wire(wire)
    if found is None:
        return
    count = counted(found)
    assert count.cached + count.written + count.heard <= count.input
    assert count.spoken <= count.output
    assert 0 <= OWN.of(found) <= 10_000 * 3 * 8 / 1e6


TOLD = {
    "OpenRouter": ({"cost": 0.5}, 0.5),
    "a key of the user's own at OpenRouter": (
        {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1.0}},
        1.05,
    ),
    "OpenRouter says it twice": (
        {"cost": 1.0, "is_byok": False, "cost_details": {"upstream_inference_cost": 1.0}},
        1.0,
    ),
    "Perplexity": ({"cost": {"input_tokens_cost": 0.1, "total_cost": 0.3}}, 0.3),
    "xAI": ({"cost_in_usd_ticks": 37_756_000}, 0.0037756),
    "nothing": ({"cost": 0}, 0.0),
    "no number": ({"cost": "0.5"}, OWN.of(usage(**PLAIN))),
    "less than nothing": ({"cost": -1}, OWN.of(usage(**PLAIN))),
    "true": ({"cost": True}, OWN.of(usage(**PLAIN))),
    "no float": ({"cost": 10**400}, OWN.of(usage(**PLAIN))),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_the_server_says_wins(name: str) -> None:
    told, expected = TOLD[name]
    assert cost_of([Charge(usage(**PLAIN, **told), "m", price=OWN)]) == pytest.approx(expected)


def test_a_price_is_for_a_million_tokens_and_less_for_cached_ones() -> None:
    found = usage(**PLAIN, prompt_tokens_details={"cached_tokens": 400})
    assert OWN.of(found) == pytest.approx((600 * 2.0 + 400 * 0.5 + 100 * 8.0) / 1e6)
    assert Price(input=2, output=8).of(found) == pytest.approx((1000 * 2.0 + 100 * 8.0) / 1e6)


@pytest.mark.parametrize("bad", [{"input": -1}, {"output": float("nan")}, {"cached_input": "1"}, {"input": 10**400}])
def test_a_price_that_is_none_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="dollars for a million tokens"):
        Price(**{"input": 1.0, "output": 1.0, **bad})
    with pytest.raises(ConfigurationError, match="prices="):
        Client("http://localhost:1", prices={"m": 1.0})  # type: ignore[dict-item]


def reply(text: str = "hello", *, counted: dict[str, Any] = PLAIN, calls: Any = None, **fields: Any) -> Reply:
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Reply(
        headers=JSON, body=json.dumps({"model": "served", "choices": [choice], "usage": counted, **fields}).encode()
    )


def streamed(counted: dict[str, Any] = PLAIN) -> Reply:
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": "hello"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": counted},
    ]
    return Reply(headers=EVENT_STREAM, body=[f"data: {json.dumps(piece)}\n\n".encode() for piece in pieces])


def embedded(counted: dict[str, Any]) -> Reply:
    data = [{"index": number, "embedding": [1.0]} for number in range(2)]
    return Reply(headers=JSON, body=json.dumps({"data": data, "usage": counted}).encode())


def priced(server: ReplayServer, **options: Any) -> Client:
    return Client(f"{server.url}/v1", model="m", max_retries=0, **{"prices": {"m": OWN}, **options})


@tool
def weather(city: str) -> str:
    "Weather right now."
    return "sunny"


def through_journal(client: Client, folder: Path) -> ChatResponse:
    journal = folder / "run.sqlite"
    for _ in client.map(["hi"], journal=journal):
        pass
    (again,) = client.map(["hi"], journal=journal)
    assert again.from_journal
    return again.result()


ONCE = OWN.of(usage(**PLAIN))
CALLS: dict[str, tuple[list[Reply], Callable[[Client, Path], ChatResponse | EmbeddingResponse], float]] = {
    "chat": ([reply()], lambda client, _: client.chat("hi"), ONCE),
    "stream": ([streamed()], lambda client, _: client.stream("hi").until_done(), ONCE),
    "a stream's own cost": (
        [streamed({**PLAIN, "cost": 0.25, "is_byok": True, "cost_details": {"upstream_inference_cost": 1.0}})],
        lambda client, _: client.stream("hi").until_done(),
        1.25,
    ),
    "sink": ([streamed()], lambda client, _: client.chat("hi", sink=lambda event: None), ONCE),
    "typed": ([reply("7")], lambda client, _: client.chat("hi", response_type=int), ONCE),
    "repaired": (
        [reply("none", counted={**PLAIN, "cost": 0.25}), reply("7")],
        lambda client, _: client.chat("hi", response_type=int, repair=1),
        0.25 + ONCE,
    ),
    "tools": (
        [reply("", calls=[tool_call("weather", '{"city": "Rome"}')]), reply(counted={**PLAIN, "cost": 0.5})],
        lambda client, _: client.run_tools("hi", tools=[weather]),
        ONCE + 0.5,
    ),
    "journal": ([reply()], through_journal, ONCE),
    "embed": (
        [embedded({"prompt_tokens": 500}), embedded({"prompt_tokens": 500})],
        lambda client, _: client.embed(["a", "b", "c", "d"], batch_size=2),
        1000 * 2.0 / 1e6,
    ),
    "fallback": ([reply()], lambda client, _: Client.fallback([client]).chat("hi"), ONCE),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_answer_has_its_cost(name: str, tmp_path: Path) -> None:
    replies, call, expected = CALLS[name]
    with ReplayServer(replies) as server, priced(server) as client:
        answer = call(client, tmp_path)
        assert len(server.requests) == len(replies)
    assert answer.cost == pytest.approx(expected)
    assert pickle.loads(pickle.dumps(answer)).cost == answer.cost


def test_a_conversation_costs_what_its_turns_did() -> None:
    with ReplayServer([reply(), reply(counted={**PLAIN, "cost": 0.5}), reply()]) as server, priced(server) as client:
        talk = client.conversation()
        assert talk.cost is None
        talk.say("hi")
        talk.say("and?")
        assert talk.cost == pytest.approx(ONCE + 0.5)
        beside = talk.fork()
        beside.say("so?")
    assert (talk.cost, beside.cost) == (pytest.approx(ONCE + 0.5), pytest.approx(ONCE))


def test_one_price_may_be_for_all_models_and_a_copy_of_the_client_keeps_it() -> None:
    with ReplayServer([reply(), reply()]) as server:
        client = priced(server, prices=OWN)
        assert client.chat("hi", model="another").cost == pytest.approx(ONCE)
        assert pickle.loads(pickle.dumps(client)).chat("hi").cost == pytest.approx(ONCE)


def test_an_answer_without_usage_has_no_cost_and_one_of_a_server_of_ones_own_needs_no_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with ReplayServer([reply(counted={}), reply()]) as server, priced(server, prices=None) as client:
        assert client.chat("hi").cost is None
        assert client.chat("hi").cost is None
    assert cost_of([Charge(usage(prompt_tokens=-1), "m", price=OWN)]) is None
    assert ChatResponse().cost is None


def test_without_the_table_it_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with ReplayServer([reply()]) as server, priced(server, prices=None, provider="openai") as client:
        answer = client.chat("hi")
    with pytest.raises(UnknownPriceError, match=r"pip install 'openai-compat\[prices\]'"):
        _ = answer.cost
    assert known_cost(answer.charges) is None


# --------------------------------------------------------------------------------------------------------- the table


def by_table(wire: dict[str, Any], model: str, provider: str, **fields: Any) -> float | None:
    pytest.importorskip("genai_prices", "0.2", reason="the price table is not installed")
    return cost_of([Charge(usage(**wire), model, provider=provider, **fields)])


def test_the_table_knows_a_model_by_its_provider_and_dated_names() -> None:
    plain = by_table(PLAIN, "gpt-4o-mini", "openai")
    assert plain == pytest.approx((1000 * 0.15 + 100 * 0.6) / 1e6)
    assert by_table(PLAIN, "gpt-4o-mini-2024-07-18", "openai") == plain
    assert by_table(PLAIN, "a-deployment", "openai", asked="gpt-4o-mini") == plain
    assert by_table(PLAIN, "gpt-4o-mini", "api.openai.com", origin="https://api.openai.com/v1") == plain
    cached = by_table({**PLAIN, "prompt_tokens_details": {"cached_tokens": 1000}}, "gpt-4o-mini", "openai")
    assert cached == pytest.approx((1000 * 0.075 + 100 * 0.6) / 1e6)


def test_sound_and_quick_service_have_prices_of_their_own() -> None:
    sound = {
        **PLAIN,
        "prompt_tokens_details": {"audio_tokens": 700, "cached_tokens": 100},
        "completion_tokens_details": {"audio_tokens": 80},
    }
    heard, plain = by_table(sound, "gpt-audio", "openai"), by_table(PLAIN, "gpt-audio", "openai")
    assert heard is not None
    assert heard > 3 * (plain or 1e6)
    quick, usual = by_table(PLAIN, "gpt-5", "openai", tier="priority"), by_table(PLAIN, "gpt-5", "openai")
    assert quick is not None
    assert quick > (usual or 1e6)
    assert by_table(PLAIN, "gpt-5", "openai", tier="default") == usual
    (batched,) = in_batch([Charge(usage(**PLAIN), "gpt-5", provider="openai")])
    assert cost_of([batched]) == pytest.approx((usual or 0.0) / 2)


@pytest.mark.parametrize(
    ("model", "provider", "origin"),
    [
        ("no-such-model", "openai", ""),
        ("gpt-4o-mini", "ollama", "http://localhost:11434/v1"),
        ("gpt-4o-mini", "llm.example.com", "https://llm.example.com/v1"),
        ("qwen-3-coder-480b", "cerebras", ""),
    ],
    ids=["model", "server of one's own", "unknown server", "no price in the table"],
)
def test_what_the_table_does_not_know_has_no_cost(model: str, provider: str, origin: str) -> None:
    assert by_table(PLAIN, model, provider, origin=origin) is None


@given(
    st.fixed_dictionaries(
        dict.fromkeys(("prompt_tokens", "completion_tokens"), tokens),
        optional={
            "total_tokens": tokens,
            "prompt_tokens_details": st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens"]), tokens
            ),
            "completion_tokens_details": st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens"]), tokens),
        },
    ),
    st.sampled_from(
        [
            ("openai", "gpt-audio"),
            ("openai", "gpt-5"),
            ("gemini", "gemini-2.5-flash"),
            ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ]
    ),
)
def test_whatever_a_server_counts_the_table_has_a_cost(wire: dict[str, Any], who: tuple[str, str]) -> None:
    cost = by_table(wire, who[1], who[0])
    assert cost is not None
    assert cost >= 0
