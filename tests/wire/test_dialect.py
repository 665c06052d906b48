"""What providers want or refuse, and what a refusal teaches."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest
from arbitrary import quick
from hypothesis import given
from hypothesis import strategies as st

from openai_compat.errors import APIStatusError
from openai_compat.wire.dialect import AZURE, CLOUD, GENERIC, OPEN_MODELS, OPENAI, Dialect, batch_limit

BODY: dict[str, Any] = {
    "model": "m",
    "stream_options": {"include_usage": True},
    "max_tokens": 9,
    "top_k": 5,
    "min_p": 0.1,
    "chat_template_kwargs": {"enable_thinking": True},
}
LEFT = ("min_p", "top_k")
WITHOUT = {"model": "m", "stream_options": {"include_usage": True}, "reasoning_effort": "medium"}
ADAPTED: dict[str, tuple[Dialect, dict[str, Any], tuple[str, ...]]] = {
    "generic": (GENERIC, BODY, ()),
    "openai": (OPENAI, {**WITHOUT, "max_completion_tokens": 9}, LEFT),
    "azure": (AZURE, {**WITHOUT, "max_completion_tokens": 9}, LEFT),
    "cloud": (CLOUD, {**WITHOUT, "max_tokens": 9}, LEFT),
    "open-models": (OPEN_MODELS, {**WITHOUT, "max_tokens": 9, "top_k": 5, "min_p": 0.1}, ()),
    "no-stream-options": (
        Dialect(stream_options=False),
        {key: BODY[key] for key in BODY if key != "stream_options"},
        (),
    ),
}


@pytest.mark.parametrize(("dialect", "wanted", "left_out"), ADAPTED.values(), ids=ADAPTED)
def test_row_05_a_body_as_each_server_takes_it(dialect: Dialect, wanted: Any, left_out: tuple[str, ...]) -> None:
    before = copy.deepcopy(BODY)
    assert dialect.adapt(BODY) == (wanted, left_out)
    assert before == BODY


TOKENS: dict[str, tuple[Dialect, dict[str, Any], dict[str, Any]]] = {
    "back": (GENERIC, {"max_completion_tokens": 9}, {"max_tokens": 9}),
    "both": (OPENAI, {"max_tokens": 8, "max_completion_tokens": 9}, {"max_tokens": 8, "max_completion_tokens": 9}),
    "none": (OPENAI, {}, {}),
}


@pytest.mark.parametrize(("dialect", "body", "wanted"), TOKENS.values(), ids=TOKENS)
def test_row_05_the_limit_goes_under_the_name_that_is_wanted(dialect: Dialect, body: Any, wanted: Any) -> None:
    assert dialect.adapt(body) == (wanted, ())


THINKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "on": ({"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "medium"}),
    "off": ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}),
    "effort-wins": (
        {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"},
        {"reasoning_effort": "high"},
    ),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize(("body", "wanted"), THINKING.values(), ids=THINKING)
def test_row_05_thinking_is_translated(body: Any, wanted: Any) -> None:
    assert OPEN_MODELS.adapt(body) == (wanted, ())


@pytest.mark.parametrize("kwargs", [{"custom": 1}, {"enable_thinking": True, "custom": 1}])
def test_row_05_what_cannot_be_translated_is_named_as_left_out(kwargs: Any) -> None:
    adapted, left_out = OPENAI.adapt({"chat_template_kwargs": kwargs})
    assert "chat_template_kwargs" not in adapted
    assert left_out == ("chat_template_kwargs",)


def test_where_the_key_goes() -> None:
    assert (AZURE.key_header, GENERIC.key_header) == ("api-key", "Authorization")


def refusal(message: str, status: int = 400, **fields: Any) -> APIStatusError:
    return APIStatusError(message, status_code=status, **fields)


SWAP = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
LEARNT: dict[str, tuple[Dialect, APIStatusError, Dialect]] = {
    "openai": (GENERIC, refusal(SWAP), Dialect(max_tokens="max_completion_tokens")),
    "param": (
        GENERIC,
        refusal("Unsupported parameter", param="max_tokens"),
        Dialect(max_tokens="max_completion_tokens"),
    ),
    "mistral": (
        Dialect(max_tokens="max_completion_tokens"),
        refusal("body.max_completion_tokens: Extra inputs are not permitted", 422),
        GENERIC,
    ),
    "stream-options": (GENERIC, refusal("unknown field stream_options", 422), Dialect(stream_options=False)),
    "include-usage": (GENERIC, refusal("include_usage: extra fields not permitted"), Dialect(stream_options=False)),
}
SENT = {"max_tokens": 9, "max_completion_tokens": 9, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(("dialect", "error", "wanted"), LEARNT.values(), ids=LEARNT)
def test_row_09_a_refusal_teaches(dialect: Dialect, error: APIStatusError, wanted: Dialect) -> None:
    assert dialect.learn(error, SENT) == wanted


NOT_LEARNT: dict[str, tuple[APIStatusError, dict[str, Any]]] = {
    "other-status": (refusal(SWAP, 401), SENT),
    "server-error": (refusal(SWAP, 500), SENT),
    "too-large": (refusal("max_tokens is too large: 99999"), SENT),
    "another-parameter": (refusal("Unsupported parameter: 'top_k'"), SENT),
    "not-sent": (refusal(SWAP), {}),
    "stream-options-not-sent": (refusal("unknown field stream_options"), {}),
    "longer-name": (refusal("unknown field my_max_tokens_x"), SENT),
}


@pytest.mark.parametrize(("error", "body"), NOT_LEARNT.values(), ids=NOT_LEARNT)
def test_row_09_another_refusal_teaches_nothing(error: APIStatusError, body: dict[str, Any]) -> None:
    assert GENERIC.learn(error, body) is None


LIMITS: dict[str, tuple[str, int, int | None]] = {
    "openai": ("'$.input' is invalid: array has 3000 items, maximum is 2048", 3000, 2048),
    "tei": ("batch size 64 > maximum allowed batch size 32", 64, 32),
    "larger": ("input batch must not be larger than 10", 64, 10),
    "at-most": ("at most 96 inputs are allowed", 200, 96),
    "smallest": ("batch: at most 96, up to 50 for this model", 200, 50),
    "not-smaller": ("at most 96 inputs", 96, None),
    "zero": ("at most 0 inputs", 96, None),
    "no-number": ("too many inputs", 96, None),
    "other": ("at most 5 requests a second", 96, None),
}


@pytest.mark.parametrize(("message", "sent", "wanted"), LIMITS.values(), ids=LIMITS)
def test_row_14_how_many_inputs_a_server_takes(message: str, sent: int, wanted: int | None) -> None:
    for status in (400, 413, 422):
        assert batch_limit(refusal(message, status), sent) == wanted
    assert batch_limit(refusal(message, 500), sent) is None


@quick
@given(st.text(max_size=60) | st.sampled_from([SWAP, "batch at most " + "9" * 900]), st.sampled_from([400, 413, 422]))
def test_any_refusal_is_read(message: str, status: int) -> None:
    error = refusal(message, status, code=message, type=None, param=message)
    limit = batch_limit(error, 10)
    assert limit is None or 0 < limit < 10
    learnt = GENERIC.learn(error, SENT)
    assert learnt is None or learnt != GENERIC


@pytest.mark.parametrize("dialect", [GENERIC, OPENAI, AZURE, CLOUD, OPEN_MODELS])
def test_dialects_survive_pickle_and_json(dialect: Dialect) -> None:
    assert pickle.loads(pickle.dumps(dialect)) == dialect
    assert msgspec.json.decode(msgspec.json.encode(dialect), type=Dialect) == dialect
