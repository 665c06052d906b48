"""The wire corpus: what servers really send, played to a client, and what the client made of it.

``wire_corpus.jsonl`` holds one case a line: a server's reply, and what is expected (or, of kind ``request``, steps
to take, and what has to be sent). ``drive`` and ``drive_steps`` play a case over a real socket through the public
face only. ``seen`` and ``seen_of_requests`` then give two dicts, what came and what was wanted, with the same keys.
"""

from __future__ import annotations

import base64
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from openai_compat.errors import (
    APIConnectionError,
    APIStatusError,
    OpenAICompatError,
    ResponseParseError,
    ResponseShapeError,
    StreamError,
)
from support.replay import ReplayServer, Reply, Request

PATH = Path(__file__).with_name("wire_corpus.jsonl")
SECRET = "sk-test-SECRETKEY123"
MISSING = "(missing)"

ClientFactory = Callable[..., Any]
Comparison = tuple[dict[str, Any], dict[str, Any]]
"""What came, and what was wanted."""


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """One line of the corpus. Only the id is shown, so that a failing test names its case and not all its bytes."""

    id: str
    kind: str
    call: str = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)
    replies: tuple[Reply, ...] = attrs.field(repr=False)
    expect: Mapping[str, Any] = attrs.field(repr=False)
    steps: tuple[Mapping[str, Any], ...] = attrs.field(repr=False)
    check: Mapping[str, Any] = attrs.field(repr=False)
    undrivable: str = attrs.field(repr=False)

    @property
    def body(self) -> bytes:
        body = self.replies[0].body
        assert isinstance(body, bytes)
        return body


@attrs.frozen(kw_only=True)
class Outcome:
    """What one call came to: its events, and an answer or an error."""

    answer: Any = None
    error: OpenAICompatError | None = None
    events: tuple[Any, ...] = ()

    @property
    def deltas(self) -> list[str]:
        return [event.delta for event in self.events if event.delta]

    @property
    def partial(self) -> Any:
        """The answer, or what the exception holds of it."""
        return self.answer if self.error is None else getattr(self.error, "partial", None)


def load_cases() -> list[Case]:
    with PATH.open(encoding="utf-8") as lines:
        return [_case(json.loads(line)) for line in lines if line.strip()]


def _case(row: Mapping[str, Any]) -> Case:
    replies = row.get("replies", [row] if "status" in row else [])
    return Case(
        id=row["id"],
        kind=row["kind"],
        call=row.get("call", ""),
        options=row.get("options", {}),
        replies=tuple(_reply(reply) for reply in replies),
        expect=row["expect"],
        steps=tuple(row.get("steps", ())),
        check=row.get("check", {}),
        undrivable=row.get("undrivable", ""),
    )


def _reply(row: Mapping[str, Any]) -> Reply:
    body = base64.b64decode(row["body_b64"]) if "body_b64" in row else row["body"].encode()
    return Reply(
        status=row["status"],
        headers=row["headers"],
        body=body,
        splits=tuple(row.get("splits", ())),
        **row.get("transport", {}),
    )


def reply_of(case: Case, splits: Sequence[int] | None = None) -> Reply:
    """The reply of a case, cut at ``splits`` where given."""
    (reply,) = case.replies
    if splits is None:
        return reply
    return Reply(**{**vars(reply), "splits": tuple(splits)})


# Playing a case


def drive(
    case: Case, client_factory: ClientFactory, *, sink: bool = False, replies: Sequence[Reply] | None = None
) -> list[Outcome]:
    """Make the call of ``case`` once for each reply (default: its own), with one client on one server."""
    replies = [reply_of(case)] if replies is None else replies
    with ReplayServer(replies) as server, closing(_client(case, client_factory, server)) as client:
        outcomes = [_call(case, client, sink=sink) for _ in replies]
    assert len(server.requests) == len(replies), "one request, one reply: nothing here may be retried"
    return outcomes


def _client(case: Case, client_factory: ClientFactory, server: ReplayServer) -> Any:
    return client_factory(
        f"{server.url}/v1",
        api_key=SECRET,
        model="m-1",
        max_retries=0,
        truncated="raise",
        inline_think=case.options.get("inline_think", "leading"),
    )


def _call(case: Case, client: Any, *, sink: bool) -> Outcome:
    events: list[Any] = []
    try:
        if case.call == "embeddings":
            answer = _embed(case, client)
        elif case.call == "stream" and not sink:
            answer = _pull(client, "hi", events, _chat_options(case))
        elif sink:
            answer = client.chat("hi", sink=events.append, **_chat_options(case))
        else:
            answer = client.chat("hi", **_chat_options(case))
    except OpenAICompatError as error:
        return Outcome(error=error, events=tuple(events))
    return Outcome(answer=answer, events=tuple(events))


def _chat_options(case: Case) -> dict[str, Any]:
    return {name: value for name, value in case.options.items() if name in ("think_opened", "n")}


def _pull(client: Any, prompt: Any, events: list[Any], options: Mapping[str, Any]) -> Any:
    with client.stream(prompt, **options) as stream:
        # One by one, since the events before an error count, too.
        for event in stream:
            events.append(event)
        return stream.response


def _embed(case: Case, client: Any) -> Any:
    count = case.options.get("inputs", case.expect.get("count", 1))
    texts = [f"text {number}" for number in range(count)]
    options = {name: value for name, value in case.options.items() if name == "encoding_format"}
    return client.embed(texts if count > 1 else texts[0], **options)


def drive_steps(case: Case, client_factory: ClientFactory) -> tuple[Outcome, list[Request]]:
    """Take the steps of a request case: the outcome of the last one, and all that was sent."""
    clients: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    outcome = Outcome()
    with ReplayServer(case.replies) as server:
        try:
            for step in case.steps:
                assert outcome.error is None, f"a step before {step['name']!r} failed: {outcome.error!r}"
                url, options = _address(step, server.url)
                with pytest.MonkeyPatch.context() as environment:
                    _set_environment(environment, step.get("env", {}))
                    if url not in clients:
                        clients[url] = client_factory(url, **options)
                    outcome = _take_step(step, clients[url], answers)
                answers[step["name"]] = outcome.answer
        finally:
            for client in clients.values():
                client.close()
    return outcome, server.requests


def _address(step: Mapping[str, Any], root: str) -> tuple[str, dict[str, Any]]:
    azure = step.get("azure")
    if not azure:
        return root + step.get("base", "/v1"), {"api_key": "k"}
    url = f"{root}/openai/deployments/{azure['deployment']}?api-version={azure['api_version']}"
    return url, {"api_key": azure["api_key"], "provider": "azure"}


def _set_environment(environment: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    if variables:
        # A machine whose own settings exempt localhost from proxies would pass for the wrong reason.
        environment.delenv("NO_PROXY", raising=False)
        environment.delenv("no_proxy", raising=False)
    for name, value in variables.items():
        environment.setenv(name, value)


def _take_step(step: Mapping[str, Any], client: Any, answers: Mapping[str, Any]) -> Outcome:
    args = dict(step["args"])
    events: list[Any] = []
    try:
        if step["do"] == "embeddings":
            return Outcome(answer=client.embed(args.pop("input"), **args))
        messages = list(_messages(args.pop("messages"), answers))
        if step["do"] == "stream":
            return Outcome(answer=_pull(client, messages, events, args), events=tuple(events))
        if args.pop("collect_stream", False):
            return Outcome(answer=client.chat(messages, sink=events.append, **args), events=tuple(events))
        return Outcome(answer=client.chat(messages, **args))
    except OpenAICompatError as error:
        return Outcome(error=error, events=tuple(events))


def _messages(messages: Iterable[Mapping[str, Any]], answers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if "$reply" in message:
            yield answers[message["$reply"]].to_message()
        elif "$tool" in message:
            for call in answers[message["$tool"]].tool_calls:
                yield {"role": "tool", "tool_call_id": call.id, "content": message["content"]}
        elif "$hand" in message:
            yield message["$hand"]
        else:
            yield message


# Judging an outcome


def seen(outcome: Outcome, expect: Mapping[str, Any]) -> Comparison:
    """For each key of ``expect``: what came, and what was wanted."""
    expect = {"error_kind": None, **expect}
    came = {key: _look(key, outcome, value) for key, value in expect.items()}
    wanted = {key: _wanted(key, value) for key, value in expect.items()}
    if outcome.error is not None and expect["error_kind"] is None:
        came["error"], wanted["error"] = repr(outcome.error), None
    return came, wanted


def _look(key: str, outcome: Outcome, expected: Any) -> Any:
    if key == "error_kind":
        return kind_of(outcome.error)
    if key == "error_contains":
        return expected if expected.lower() in str(outcome.error).lower() else str(outcome.error)
    if key == "error_not_contains":
        return f"{expected} in {outcome.error}" if expected.lower() in str(outcome.error).lower() else expected
    if key in ERROR_FIELDS:
        return getattr(outcome.error, ERROR_FIELDS[key], MISSING)
    if key == "deltas":
        return outcome.deltas
    if key == "partial":
        return MISSING if outcome.partial is None else {name: ANSWER[name](outcome.partial) for name in expected}
    if outcome.partial is None:
        # An error before the first piece need not hold an answer to say that there is no text.
        return "" if key == "text" else MISSING
    if key == "tool_calls":
        return _tool_calls(outcome.partial.tool_calls, expected)
    if key == "choices":
        return _choices(outcome.partial.choices, expected)
    return ANSWER[key](outcome.partial)


def summary(outcome: Outcome, case: Case) -> dict[str, Any]:
    """All of an outcome that may not depend on how its bytes arrived, nor on how it was asked for."""
    error = outcome.error
    return {
        "events": [(event.kind, event.delta, event.reasoning, event.done) for event in outcome.events],
        "error": error and (type(error).__name__, PORT.sub(r"\1PORT", str(error)), *_error_fields(error)),
        "answer": outcome.partial and _answer_fields(outcome.partial, case),
    }


PORT = re.compile(r"(127\.0\.0\.1:|port=)\d+")


def _error_fields(error: OpenAICompatError) -> list[Any]:
    return [getattr(error, name, None) for name in ERROR_FIELDS.values()]


def _answer_fields(answer: Any, case: Case) -> dict[str, Any]:
    usage = answer.usage
    message = {key: value for key, value in answer.to_message().items() if key != "tool_calls"}
    return {
        "model": answer.model,
        "usage": usage and (usage.input_tokens, usage.output_tokens, usage.total_tokens),
        "truncated": answer.truncated,
        "choices": [(one.index, one.text, one.reasoning, one.finish_reason) for one in answer.choices],
        "refusal": answer.refusal,
        "tool_calls": [_call_fields(call, case) for call in answer.tool_calls],
        "message": message,
    }


def _call_fields(call: Any, case: Case) -> tuple[Any, ...]:
    # Ids that the library makes up differ from call to call.
    known = call.id if call.id.encode() in case.body else "(made up)"
    return known, call.name, call.arguments, call.arguments_json, call.invalid, dict(call.extra)


def _wanted(key: str, value: Any) -> Any:
    if key == "finish_reason":
        return value or "unknown"
    if key in ("partial", "echo"):
        return {name: _wanted(name, part) for name, part in value.items()}
    if key == "tool_calls":
        return [{"invalid": False, **call} for call in value]
    if key == "choices":
        return [{name: _wanted(name, part) for name, part in choice.items()} for choice in value]
    if key == "embedding_first":
        return _float32(value)
    if key == "embedding_all":
        return [_float32(vector) for vector in value]
    return value


KINDS = {
    "status": APIStatusError,
    "stream": StreamError,
    "http": APIConnectionError,
    "parse": ResponseParseError,
    "shape": ResponseShapeError,
}
ERROR_FIELDS = {
    "error_code": "code",
    "error_type": "type",
    "error_param": "param",
    "retryable": "retryable",
    "retry_after_s": "retry_after",
}
ANSWER: dict[str, Callable[[Any], Any]] = {
    "text": lambda answer: answer.text,
    "reasoning": lambda answer: answer.reasoning,
    "refusal": lambda answer: answer.refusal,
    "finish_reason": lambda answer: answer.finish_reason,
    "model": lambda answer: answer.model,
    "prompt_tokens": lambda answer: answer.usage and answer.usage.input_tokens,
    "completion_tokens": lambda answer: answer.usage and answer.usage.output_tokens,
    "unique_ids": lambda answer: ids_are_unique(answer),
    "echo": lambda answer: {
        "reasoning_details_types": [part["type"] for part in answer.to_message().get("reasoning_details", ())]
    },
    "dims": lambda answer: answer.dims,
    "count": lambda answer: len(answer.vectors),
    "embedding_first": lambda answer: [float(number) for number in answer.embedding],
    "embedding_all": lambda answer: [[float(number) for number in vector] for vector in answer.vectors],
}
CALL_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": lambda call: call.id,
    "name": lambda call: call.name,
    "arguments": lambda call: call.arguments,
    "arguments_raw": lambda call: call.arguments_json,
    "invalid": lambda call: call.invalid,
    "extra_content": lambda call: call.extra.get("extra_content", MISSING),
}


def kind_of(error: OpenAICompatError | None) -> str | None:
    if error is None:
        return None
    return next((kind for kind, family in KINDS.items() if isinstance(error, family)), repr(error))


def ids_are_unique(answer: Any) -> bool:
    ids = [call.id for call in answer.tool_calls]
    return all(ids) and len(set(ids)) == len(ids)


def _tool_calls(calls: Sequence[Any], expected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = [dict.fromkeys(["invalid", *wanted]) for wanted in expected]
    return [{key: CALL_FIELDS[key](call) for key in some} for call, some in _each_with_keys(calls, keys, CALL_FIELDS)]


def _choices(choices: Sequence[Any], expected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: getattr(choice, key) for key in some} for choice, some in _each_with_keys(choices, expected, ("index",))
    ]


def _each_with_keys(values: Sequence[Any], keys: Sequence[Any], others: Any) -> Iterator[tuple[Any, Any]]:
    """Each value with the keys to look at; a value too many is shown with ``others``."""
    yield from zip(values, [*keys, *[others] * (len(values) - len(keys))], strict=False)


def _float32(numbers: Iterable[float]) -> list[float]:
    return array("f", numbers).tolist()


# Judging what was sent


def seen_of_requests(requests: Sequence[Request], check: Mapping[str, Any]) -> Comparison:
    """For all that ``check`` says of the requests: what came, and what was wanted, by request and rule."""
    count = check.get("requests", len(requests))
    if isinstance(count, list) and len(requests) in count:
        count = len(requests)
    came: dict[str, Any] = {"requests": len(requests)}
    wanted: dict[str, Any] = {"requests": count}
    for each in check.get("each", ()):
        number = each["n"]
        if number < len(requests):
            for rule, left, right in _rules(requests[number], each):
                came[f"{number} {rule}"], wanted[f"{number} {rule}"] = left, right
        elif not each.get("if_sent"):
            came[f"{number}"], wanted[f"{number}"] = MISSING, "a request"
    return came, wanted


def _rules(request: Request, each: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """One rule after the other: its name, what came, and what was wanted."""
    unknown = set(each) - RULES
    assert not unknown, f"the corpus has rules that nothing here looks at: {unknown}"
    body = request.json() if request.body else {}
    if "method" in each:
        yield "method", request.method, each["method"]
    if "path" in each:
        yield "path", request.path, each["path"]
    if "must_equal" in each:
        yield "must_equal", body, each["must_equal"]
    for path, value in each.get("must_send", {}).items():
        yield f"must_send {path}", at(body, path), value
    for path in each.get("must_not_send", ()):
        yield f"must_not_send {path}", at(body, path), MISSING
    for path, name in each.get("must_send_type", {}).items():
        yield f"must_send_type {path}", type(at(body, path)).__name__, name
    for path, pattern in each.get("must_match", {}).items():
        value = at(body, path)
        yield f"must_match {path}", value if not re.search(pattern, str(value)) else pattern, pattern
    for path, value in each.get("must_parse", {}).items():
        yield f"must_parse {path}", _parsed(at(body, path)), value
    for left, right in _pairs(each.get("same", ())):
        yield f"same {left}, {right}", at(body, left), at(body, right)
    for path, values in each.get("allowed", {}).items():
        value = at(body, path)
        yield f"allowed {path}", value, value if (None if value == MISSING else value) in values else values
    for name, value in each.get("must_send_headers", {}).items():
        yield f"must_send_headers {name}", request.headers.get(name, MISSING), value
    for name in each.get("must_not_send_headers", ()):
        yield f"must_not_send_headers {name}", request.headers.get(name, MISSING), MISSING


RULES = {
    *("n", "if_sent", "method", "path", "must_equal", "must_send", "must_not_send", "must_send_type", "must_match"),
    *("must_parse", "same", "allowed", "must_send_headers", "must_not_send_headers"),
}


def at(body: Any, path: str) -> Any:
    """The value at a dotted path, ``MISSING`` where there is none."""
    for step in path.split("."):
        try:
            body = body[int(step)] if isinstance(body, list) else body[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return MISSING
    return body


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return f"not JSON: {text!r}"


def _pairs(same: Sequence[Any]) -> Sequence[Any]:
    """``same`` is one pair of paths, or a list of such pairs."""
    return [same] if same and isinstance(same[0], str) else same
