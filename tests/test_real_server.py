"""The whole road on the real llama.cpp server with the real model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from openai_compat import (
    AuthenticationError,
    BadRequestError,
    Client,
    InternalServerError,
    LocalServer,
    NotFoundError,
    StreamEvent,
    tool,
)

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\nIDATx\x9cc\x00\x01\x00\x00\x05\x00\x01\r\n-\xb4\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture(scope="module")
def client(local_server: LocalServer) -> Client:
    return Client(local_server.base_url, model=local_server.model, max_retries=0, timeout=110)


def test_chat(client: Client) -> None:
    answer = client.chat("Why is the sky blue?", temperature=0, max_tokens=40)
    assert "sky" in answer.text.lower()
    assert answer.usage is not None
    assert answer.input_tokens > 5
    assert answer.output_tokens > 1
    assert answer.finish_reason in ("stop", "length")


def test_a_stream_gives_the_same_answer_piece_by_piece(client: Client) -> None:
    whole = client.chat("What is the capital of France?", temperature=0, max_tokens=30)
    events: list[StreamEvent] = []
    streamed = client.chat("What is the capital of France?", temperature=0, max_tokens=30, sink=events.append)
    assert streamed.text == whole.text == "".join(event.delta for event in events)
    assert streamed.usage is not None
    assert streamed.usage.output_tokens == whole.output_tokens
    assert len([event for event in events if event.delta]) > 3
    assert [event.done for event in events][-2:] == [False, True]


def test_the_system_prompt_and_the_history_reach_the_model(client: Client) -> None:
    messages = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Hello Alice."},
        {"role": "user", "content": "What is my name?"},
    ]
    assert "Alice" in client.chat(messages, temperature=0, max_tokens=20).text


def test_max_tokens_and_stop_are_obeyed(client: Client) -> None:
    short = client.chat("Tell me a long story.", temperature=0, max_tokens=3)
    assert (short.output_tokens, short.finish_reason) == (3, "length")
    stopped = client.chat("Count from 1 to 9, separated by commas.", temperature=0, max_tokens=40, stop=["5"])
    assert "5" not in stopped.text


def test_a_json_schema_is_obeyed(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    for sink in (None, lambda event: None):
        answer = client.chat("Alice is 30 years old.", response_schema=schema, temperature=0, max_tokens=80, sink=sink)
        person = json.loads(answer.text)
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)


def test_embeddings_are_the_same_in_both_encodings(client: Client) -> None:
    packed = client.embed("the quick brown fox", encoding_format="base64")
    floats = client.embed("the quick brown fox", encoding_format="float")
    assert packed.dims == floats.dims == 576
    assert list(packed.embedding) == pytest.approx(list(floats.embedding), abs=1e-6)
    assert packed.input_tokens > 0


WORDS = ["the", "cat", "sat", "while", "stocks", "fell", "in", "Paris", "and", "rain", "ran", "down", "a", "window"]
# Texts of these numbers of words, in no order: a server that cuts a batch where one of them ends is found out.
LENGTHS = (1, 90, 5, 160, 2, 34, 140, 3, 21, 1, 13, 200, 8, 55)
TEXTS = [" ".join(WORDS[(start + n) % len(WORDS)] for n in range(length)) for start, length in enumerate(LENGTHS)]


def same(vectors: Iterable[Sequence[float]], others: Iterable[Sequence[float]]) -> list[bool]:
    """Of each pair of normalized vectors, whether their cosine is 1 but for the rounding of the model's arithmetic."""
    pairs = zip(vectors, others, strict=True)
    return [math.fsum(a * b for a, b in zip(one, other, strict=True)) > 0.99 for one, other in pairs]


@pytest.fixture(scope="module")
def alone(client: Client) -> list[Sequence[float]]:
    """The vector of each text, embedded with nothing beside it."""
    return [client.embed(text, normalize=True).embedding for text in TEXTS]


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_text_has_the_same_vector_in_a_batch_as_alone(
    client: Client, alone: list[Sequence[float]], batch_size: int | None
) -> None:
    together = client.embed(TEXTS[::-1], normalize=True, batch_size=batch_size).vectors[::-1]
    assert same(alone, together) == [True] * len(TEXTS)


def test_a_text_has_the_same_vector_beside_other_calls(client: Client, alone: list[Sequence[float]]) -> None:
    with ThreadPoolExecutor(len(TEXTS) + 2) as pool:
        chats = [
            pool.submit(client.chat, "What is the capital of Japan?", temperature=0, max_tokens=30) for _ in range(2)
        ]
        embedded = list(pool.map(lambda text: client.embed(text, normalize=True).embedding, TEXTS))
    assert same(alone, embedded) == [True] * len(TEXTS)
    assert ["Tokyo" in chat.result().text for chat in chats] == [True, True]


def test_chats_beside_each_other_answer_their_own_question(client: Client) -> None:
    def ask(country: str) -> str:
        return client.chat(f"What is the capital of {country}?", temperature=0, max_tokens=20).text

    capitals = {"Japan": "Tokyo", "Germany": "Berlin", "Greece": "Athens", "Egypt": "Cairo", "Norway": "Oslo"}
    with ThreadPoolExecutor(len(capitals)) as pool:
        answers = dict(zip(capitals, pool.map(ask, capitals), strict=True))
    assert {country: capital for country, capital in capitals.items() if capital not in answers[country]} == {}


def test_no_chat_takes_the_room_of_another() -> None:
    with LocalServer(api_key="", context=256, slots=3) as server, ThreadPoolExecutor(3) as pool:
        client = Client(server.base_url, model=server.model, max_retries=0, timeout=110)

        def run_on(question: str) -> tuple[int, str]:
            answer = client.chat(question, temperature=0, extra_body={"ignore_eos": True})
            return answer.input_tokens + answer.output_tokens, answer.finish_reason

        together = list(pool.map(run_on, ["Hi", "Tell me a story.", "Why is the sky blue? " * 20]))
        assert together == [(256, "length")] * 3
        with pytest.raises(BadRequestError, match=r"exceeds the available context size \(256 tokens\)"):
            client.chat("word " * 300)


def test_models_are_listed(client: Client, local_server: LocalServer) -> None:
    assert [model.id for model in client.models()] == [local_server.model]


def test_a_context_that_is_too_long_is_told(client: Client) -> None:
    with pytest.raises(BadRequestError, match=r"exceeds the available context size") as caught:
        client.chat("word " * 20_000)
    assert not caught.value.retryable


def test_an_image_it_cannot_take_is_told(client: Client) -> None:
    with pytest.raises(InternalServerError, match="image input is not supported"):
        client.chat("What is this?", images=[PNG])


def test_a_wrong_path_is_told(local_server: LocalServer) -> None:
    with pytest.raises(NotFoundError, match="missing /v1"):
        Client(local_server.base_url + "/nowhere", model="m").chat("hi")


def test_a_wrong_key_is_told_and_a_right_one_works() -> None:
    with LocalServer(api_key="right-key-0123456789") as server:
        with pytest.raises(AuthenticationError) as caught:
            Client(server.base_url, "wrong-key-0123456789", model=server.model).chat("hi")
        assert "wrong-key" not in str(caught.value) + caught.value.body
        right = Client(server.base_url, "right-key-0123456789", model=server.model)
        assert right.chat("Say hello.", max_tokens=5, temperature=0).text


def busy_slots(server: LocalServer) -> int:
    root = server.base_url.removesuffix("/v1")
    return sum(slot["is_processing"] for slot in requests.get(f"{root}/slots", timeout=10).json())


def test_a_stream_that_is_left_frees_the_servers_slot(client: Client, local_server: LocalServer) -> None:
    with client.stream("Tell me a very long story about the sea.", max_tokens=2000, temperature=0) as stream:
        for number, _ in enumerate(stream.text_stream, 1):
            if number == 5:
                assert busy_slots(local_server) == 1
                break
    deadline = time.monotonic() + 5
    while busy_slots(local_server) and time.monotonic() < deadline:
        pass
    assert busy_slots(local_server) == 0
    assert stream.response.text


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_is_in_the_answer(client: Client, streamed: bool) -> None:
    called: list[tuple[int, int]] = []

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        called.append((a, b))
        return a + b

    answer = client.run_tools(
        "Add 3 and 4.",
        tools=[add],
        temperature=0,
        max_tokens=60,
        max_iterations=3,
        sink=(lambda event: None) if streamed else None,
    )
    assert called == [(3, 4)]
    assert "7" in answer.text
