"""``format="openai"`` as clients of that format read it: packages of PyPI and npm, each with a decoder of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from support.node import Node, running_node
from support.replay import EVENT_STREAM, Framing, ReplayServer, Reply, Request
from support.wire_bodies import chunk, error_reply, stream_pieces, tool_call

from openai_compat import ChatResponse, Client
from openai_compat.web import EventStream
from openai_compat.wire.response import Choice

TICK = b":\n"
PAUSE = b""
"""Stands for a silence of the model that lasts until a heartbeat was sent."""
Piece = dict[str, Any]
Reader = Callable[..., dict[str, Any]]


def of_choice(index: int, delta: Piece, finish_reason: str | None = None) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return b"data: %b\n\n" % json.dumps({"id": "c", "model": "m-served", "choices": [choice]}).encode()


def calls(*entries: Piece) -> bytes:
    return chunk({"tool_calls": list(entries)})


def arguments(index: int, piece: str) -> Piece:
    return {"index": index, "function": {"arguments": piece}}


USAGE = chunk(
    usage={
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
)
CALLED = [chunk({}, finish_reason="tool_calls"), USAGE, b"data: [DONE]\n\n"]
SAID = [chunk({}, finish_reason="stop"), USAGE, b"data: [DONE]\n\n"]

# What the model's server sends.
ANSWERS: dict[str, list[bytes]] = {
    "text": [chunk({"content": "Hé"}), chunk({"content": 'l"lo\n\n\u2028'}), *SAID],
    "no usage": stream_pieces("a", "b"),
    "no finish reason": [chunk({"content": "a"}), b"data: [DONE]\n\n"],
    "a finish reason of its own": stream_pieces("a", finish_reason="eos"),
    "reasoning": [chunk({"reasoning_content": t}) for t in ("hm\n", "so")] + [chunk({"content": "a"}), *SAID],
    "refusal": [chunk({"refusal": "I can"}), chunk({"refusal": "not"}), *SAID],
    "silence": [PAUSE, PAUSE, chunk({"content": "a"}), PAUSE, chunk({"content": "b"}), PAUSE, PAUSE, *SAID],
    "silence in a call": [
        calls({"index": 0, **tool_call("f", "")}), PAUSE, calls(arguments(0, '{"x"')), PAUSE,
        calls(arguments(0, ": 1}")), PAUSE, *CALLED,
    ],
    "one call": [
        chunk({"content": "Look:"}), calls({"index": 0, **tool_call("f", "")}), calls(arguments(0, '{"x": ')),
        calls(arguments(0, '"{"}')), *CALLED,
    ],
    "parallel calls": [
        calls({"index": 0, **tool_call("f", "")}), calls(arguments(0, '{"x": 1}')),
        calls({"index": 1, **tool_call("g", "", "call_2")}), calls(arguments(1, '{"y"')), calls(arguments(1, ":2}")),
        calls({"index": 2, **tool_call("f", '{"x": 3}', "call_3")}), *CALLED,
    ],
    "interleaved calls": [
        calls({"index": 0, **tool_call("f", '{"x"')}, {"index": 1, **tool_call("g", '{"y"', "call_2")}),
        calls(arguments(1, ": 2}"), arguments(0, ": 1}")), *CALLED,
    ],
    "calls without ids": [
        calls({"index": 0, "function": {"name": "f", "arguments": '{"x": '}}), calls(arguments(0, "1}")),
        calls({"index": 1, "function": {"name": "g", "arguments": "{}"}}), *CALLED,
    ],
    "calls of which one has an id": [
        calls({"index": 0, **tool_call("f", '{"x": 1}')}),
        calls({"index": 1, "function": {"name": "g", "arguments": '{"y": 2}'}}),
        calls({"index": 2, **tool_call("f", '{"x": 3}', "call_3")}), *CALLED,
    ],
    "calls with the same id": [
        calls({"index": 0, **tool_call("f", '{"x": 1}')}), calls({"index": 1, **tool_call("g", "{}")}), *CALLED,
    ],
    "an id that comes late": [
        calls({"index": 0, "function": {"name": "f", "arguments": ""}}),
        calls({"index": 0, "id": "call_9", "function": {"arguments": '{"x": 1}'}}), *CALLED,
    ],
    "an id that comes last": [
        calls({"index": 0, "function": {"name": "f", "arguments": '{"x"'}}),
        calls({"index": 0, "id": "call_9", "function": {"arguments": ": 1}"}}), *CALLED,
    ],
    "id and name in each delta": [
        calls({"index": 0, **tool_call("f", '{"x"')}), calls({"index": 0, **tool_call("f", ": 1}")}), *CALLED,
    ],
    "a name in pieces": [
        calls({"index": 0, "id": "call_1", "function": {"name": "f"}}), calls({"index": 0, "function": {"name": "oo"}}),
        calls(arguments(0, "{}")), *CALLED,
    ],
    "calls without arguments": [
        calls({"index": 0, **tool_call("f", "")}), calls({"index": 1, **tool_call("g", " ", "call_2")}),
        calls({"index": 2, **tool_call("f", "null", "call_3")}), *CALLED,
    ],
    "broken arguments": [calls({"index": 0, **tool_call("f", '{"x": ')}), *CALLED],
    "a function call of old": [chunk({"function_call": {"name": "f", "arguments": "{}"}}), *CALLED],
    "a call that stops": [calls({"index": 0, **tool_call("f", "{}")}), *SAID],
}  # fmt: skip
CHOICES: dict[str, list[bytes]] = {
    "in turn": [of_choice(i, {"content": t}) for i, t in [(0, "a"), (1, "A"), (0, "b"), (1, "B")]]
    + [of_choice(0, {}, "stop"), of_choice(1, {}, "stop"), USAGE, b"data: [DONE]\n\n"],
    "the second first": [of_choice(1, {"content": "A"}, "stop"), of_choice(0, {"content": "a"}, "stop"), USAGE],
    "calls of both": [
        of_choice(1, {"tool_calls": [{"index": 0, **tool_call("f", '{"x": 2}', "call_2")}]}, "tool_calls"),
        of_choice(0, {"tool_calls": [{"index": 0, **tool_call("f", '{"x": 1}')}]}, "tool_calls"),
        USAGE,
    ],
}


class Served:
    """``format="openai"`` on a socket, in front of a model's server that sends ``pieces``."""

    def __init__(self, pieces: Sequence[bytes] | Reply, stack: contextlib.ExitStack) -> None:
        self.answers: list[ChatResponse] = []
        self.beats = threading.Semaphore(0)
        self._pieces = pieces
        self.upstream = stack.enter_context(ReplayServer(self._say))
        self._client = stack.enter_context(Client(self.upstream.url, model="m", max_retries=0))
        self.server = stack.enter_context(ReplayServer(self._pass_on))
        self.url = f"{self.server.url}/v1"

    def _say(self, request: Request) -> Reply:
        def body(pieces: Sequence[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                if piece is PAUSE:
                    assert self.beats.acquire(timeout=20)
                yield piece

        return self._pieces if isinstance(self._pieces, Reply) else Reply(headers=EVENT_STREAM, body=body(self._pieces))

    def _pass_on(self, request: Request) -> Reply:
        asked = request.json()
        assert asked["stream"] is True
        stream = self._client.stream(asked["messages"], **({"n": asked["n"]} if "n" in asked else {}))
        body = EventStream(
            stream,
            format="openai",
            stream_options=asked.get("stream_options"),
            heartbeat=0.02 if not isinstance(self._pieces, Reply) and PAUSE in self._pieces else 15.0,
            on_done=self.answers.append,
        )
        framing: Framing = "chunked" if body.status_code == 200 else "content-length"
        return Reply(status=body.status_code, headers=dict(body.headers), body=self._counted(body), framing=framing)

    def _counted(self, body: EventStream) -> Iterator[bytes]:
        with body:
            for piece in body:
                yield piece
                if piece == TICK:
                    self.beats.release()


@contextlib.contextmanager
def served(pieces: Sequence[bytes] | Reply) -> Iterator[Served]:
    """Exactly one request is made, and passed on."""
    with contextlib.ExitStack() as stack:
        yield (made := Served(pieces, stack))
        assert (len(made.server.requests), len(made.upstream.requests)) == (1, 1)


def asked(n: int | None, usage: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    return {**options, "n": n} if n else options


def read_chunks(url: str, *, n: int | None = None, usage: bool = False) -> dict[str, Any]:
    """Every chunk of ``create(stream=True)``; ids and names are appended, as many readers do."""
    read: dict[str, Any] = {"choices": [], "usage": None, "error": None}
    choices: dict[int, dict[str, Any]] = {}
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        try:
            with client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True, **asked(n, usage)
            ) as stream:
                for piece in stream:
                    read["usage"] = tokens(piece.usage) or read["usage"]
                    for choice in piece.choices:
                        add_delta(choices, choice)
        except openai.APIError as error:
            read["error"] = error.message
    return {**read, "choices": [choices[index] for index in sorted(choices)]}


def add_delta(choices: dict[int, dict[str, Any]], choice: Any) -> None:
    grown = choices.setdefault(choice.index, {"text": "", "reasoning": "", "refusal": "", "calls": []})
    grown["text"] += choice.delta.content or ""
    grown["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
    grown["refusal"] += choice.delta.refusal or ""
    grown["finish_reason"] = choice.finish_reason
    for piece in choice.delta.tool_calls or ():
        if piece.index == len(grown["calls"]):
            grown["calls"].append({"id": "", "name": "", "arguments": ""})
        call = grown["calls"][piece.index]
        call["id"] += piece.id or ""
        call["name"] += piece.function.name or ""
        call["arguments"] += piece.function.arguments


def tokens(usage: Any) -> list[int] | None:
    return None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]


def read_with_helper(url: str, *, n: int | None = None, usage: bool = False) -> dict[str, Any]:
    """The answer that ``stream()`` puts together."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        try:
            with client.chat.completions.stream(
                model="m", messages=[{"role": "user", "content": "hi"}], **asked(n, usage)
            ) as stream:
                answer = stream.get_final_completion()
        except openai.APIError as error:
            return {"choices": [], "usage": None, "error": error.message}
    choices = [
        {
            "text": choice.message.content or "",
            "reasoning": getattr(choice.message, "reasoning_content", None) or "",
            "refusal": choice.message.refusal or "",
            "calls": [
                {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                for call in choice.message.tool_calls or ()
            ],
            "finish_reason": choice.finish_reason,
        }
        for choice in answer.choices
    ]
    return {"choices": choices, "usage": tokens(answer.usage), "error": None}


def read_with_langchain(url: str, *, usage: bool = False) -> dict[str, Any]:
    """The sum of the messages that ``stream`` gives."""
    chat = ChatOpenAI(model="m", base_url=url, api_key="none", max_retries=0, stream_usage=usage)
    message = AIMessageChunk(content="")
    try:
        for piece in chat.stream("hi"):
            assert isinstance(piece, AIMessageChunk)
            message = message + piece
    except openai.APIError as error:
        return {"choices": [], "usage": None, "error": error.message}
    finally:
        chat.root_client.close()
    choice = {
        "text": message.content,
        "calls": [
            {"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in message.tool_call_chunks
        ],
        "finish_reason": message.response_metadata.get("finish_reason"),
    }
    counted = message.usage_metadata
    total = counted and [counted["input_tokens"], counted["output_tokens"], counted["total_tokens"]]
    return {"choices": [choice], "usage": total, "error": None}


def read_in_node(node: Node, reader: str, url: str, *, n: int | None = None, usage: bool = False) -> dict[str, Any]:
    """What ``tests/node/read.mjs`` reads."""
    return node.ask(reader=reader, url=url, usage=usage, **({"n": n} if n else {}))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node("read.mjs") as process:
        yield process


PYTHON_READERS: dict[str, Reader] = {
    "openai of PyPI": read_chunks,
    "openai of PyPI, stream()": read_with_helper,
    "langchain-openai": read_with_langchain,
}
NPM_READERS = {"openai of npm": "openai", "openai of npm, stream()": "openai stream()", "ai of npm": "ai"}
READERS = [*PYTHON_READERS, *NPM_READERS]
OF_OPENAI = [name for name in READERS if name.startswith("openai")]


@pytest.fixture
def read(reader: str, request: pytest.FixtureRequest) -> Reader:
    """Node is wanted only for what is read there."""
    if reader in PYTHON_READERS:
        return PYTHON_READERS[reader]
    process: Node = request.getfixturevalue("node")
    return partial(read_in_node, process, NPM_READERS[reader])


def expected(answer: ChatResponse, reader: str, *, usage: bool) -> dict[str, Any]:
    """What a reader should have read of the answer that ``on_done`` got, as far as it knows such things."""
    choices = [told(choice, reader) for choice in answer.choices]
    counted = answer.usage if usage else None
    total = counted and [counted.input_tokens, counted.output_tokens, counted.total_tokens]
    return {"choices": choices, "usage": total, "error": None}


def told(choice: Choice, reader: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "text": choice.text,
        "reasoning": choice.reasoning,
        "refusal": choice.refusal,
        "calls": [{"id": call.id, "name": call.name, "arguments": call.arguments_json} for call in choice.tool_calls],
        "finish_reason": "stop" if choice.finish_reason == "unknown" else choice.finish_reason,
    }
    if reader == "openai of npm, stream()":
        del said["reasoning"]  # of which it keeps the last piece
    if reader == "langchain-openai":
        del said["reasoning"], said["refusal"]
    if reader == "ai of npm":
        said["text"] += said.pop("refusal")
    return said


def with_decoded_arguments(read: dict[str, Any]) -> dict[str, Any]:
    for choice in read["choices"]:
        for call in choice["calls"]:
            with contextlib.suppress(ValueError):
                call["arguments"] = json.loads(call["arguments"])
    return read


@pytest.mark.parametrize("usage", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
def test_every_client_reads_the_answer(pieces: list[bytes], reader: str, read: Reader, usage: bool) -> None:
    with served(pieces) as here:
        got = read(here.url, usage=usage)
        (answer,) = here.answers
    assert with_decoded_arguments(got) == with_decoded_arguments(expected(answer, reader, usage=usage))


@pytest.mark.parametrize("usage", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("reader", OF_OPENAI)
@pytest.mark.parametrize("pieces", CHOICES.values(), ids=CHOICES)
def test_two_choices_stay_apart(pieces: list[bytes], reader: str, read: Reader, usage: bool) -> None:
    with served(pieces) as here:
        got = read(here.url, n=2, usage=usage)
        (answer,) = here.answers
    assert len(got["choices"]) == 2
    assert with_decoded_arguments(got) == with_decoded_arguments(expected(answer, reader, usage=usage))


BROKEN = b'data: {"error": {"message": "our key sk-1 has expired", "code": 500}}\n\n'


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "before",
    [[chunk({"content": "a"})], [calls({"index": 0, **tool_call("f", '{"x"')})], [PAUSE]],
    ids=["text", "call", "nothing"],
)
def test_every_client_is_told_of_an_error_in_the_middle(before: list[bytes], reader: str, read: Reader) -> None:
    with served([*before, BROKEN]) as here:
        got = read(here.url)
        assert not here.answers
    assert got["error"] == "The model is not available."
    assert {choice["finish_reason"] for choice in got["choices"]} <= {None, "error"}


@pytest.mark.parametrize("reader", READERS)
def test_every_client_is_told_of_an_error_before_the_answer(reader: str, read: Reader) -> None:
    with served(error_reply(429, "the quota of sk-1 is used up")) as here:
        got = read(here.url)
    assert "Too many questions" in got["error"]
    assert "sk-1" not in got["error"]


@pytest.mark.parametrize("reader", READERS)
def test_no_client_takes_a_cut_answer_for_a_whole_one(reader: str, read: Reader) -> None:
    with served([chunk({"content": "a"})]) as here:
        got = read(here.url)
        (answer,) = here.answers
    assert answer.truncated
    if got["error"] is None:
        assert [(choice["text"], choice["finish_reason"]) for choice in got["choices"]] == [("a", None)]
    else:
        assert "finish" in got["error"]
