"""Questions about models and plain answers: the models, a chat, its stream, likely tokens, several answers, a seed."""

from __future__ import annotations

from typing import Any

from .._json import as_int
from ..errors import ConfigurationError, ResponseShapeError
from ..wire.models import Model, first_model, parse_models
from .asking import Answer
from .framing import read_stream
from .question import SHORT_WITH_THOUGHTS, Context, Question, thoughts_of

_CONTEXTS = ("context_length", "max_model_len", "context_window", "max_context_length", "n_ctx", "max_input_tokens")


def ask_models(context: Context) -> None:
    """The list of models, which also names those that are then asked."""
    answer = context.asker.get("/models")
    if not answer.ok:
        context.found("models", "no", answer.refusal)
        context.found("context_length", "skipped", "no list of models")
        return
    _note_server(context, answer)
    try:
        models = parse_models(answer.value)
    except ResponseShapeError as error:
        context.found("models", "no", str(error))
        context.found("context_length", "skipped", "no list of models")
        return
    if not context.model and len(models) > 1 and not context.picks:
        raise ConfigurationError(f"which model? it lists {len(models)}, such as {models[0].id}: give one")
    context.model = context.model or first_model(models) or ""
    context.embedding_model = context.embedding_model or first_model(models, embeds=True) or context.model
    shown = ", ".join(model.id for model in models[:4]) + (", ..." if len(models) > 4 else "")
    context.found("models", "yes", f"{len(models)}: {shown}")
    lengths = {length for model in models if model.id == context.model for length in [_context_length(model)] if length}
    if lengths:
        context.found("context_length", "yes", f"{max(lengths):,} tokens")
    else:
        context.found("context_length", "no", "the list does not say")


def _context_length(model: Model) -> int | None:
    meta = model.raw.get("meta")
    for place in (model.raw, meta if isinstance(meta, dict) else {}):
        for name in _CONTEXTS:
            if length := as_int(place.get(name)):
                return length
    return None


def _note_server(context: Context, answer: Answer) -> None:
    said = [answer.headers.get("server")]
    if version := answer.headers.get("x-litellm-version"):
        said.append(f"LiteLLM {version}")
    value = answer.value if isinstance(answer.value, dict) else {}
    said.append(value.get("system_fingerprint"))
    for name in said:
        if isinstance(name, str) and name and name not in context.server:
            context.server.append(name)


def ask_chat(context: Context) -> None:
    """A plain answer. What the server refuses of the simplest request is left out of all that follow."""
    prompt = "Say hello in five words."
    answer = context.chat(prompt)
    for _ in range(2):
        words = answer.refusal.lower()
        if answer.ok or answer.status not in (400, 422):
            break
        if "temperature" in words and context.basics:
            context.basics = {}
        elif "max_tokens" in words or "max_completion_tokens" in words:
            names = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
            context.learn(max_tokens=names.get(context.dialect.max_tokens, "max_tokens"))
        else:
            break
        answer = context.chat(prompt)
    if not answer.ok:
        context.found("chat", "no", answer.refusal)
        return
    if not answer.choices:
        context.found("chat", "no", "the answer has no choices")
        return
    context.thinks = bool(thoughts_of(answer))
    if context.thinks:
        context.tokens = SHORT_WITH_THOUGHTS
    context.plain = answer
    _note_server(context, answer)
    finish = answer.choices[0].get("finish_reason")
    context.found("chat", "yes", f"finish_reason {finish}, {context.dialect.max_tokens}")
    if answer.usage:
        context.found("usage", "yes", ", ".join(f"{key} {value}" for key, value in _counts(answer.usage)))
    else:
        context.found("usage", "no")


def _counts(usage: Any) -> list[tuple[str, int]]:
    names = ("prompt_tokens", "completion_tokens")
    return [(name, usage[name]) for name in names if isinstance(usage.get(name), int)]


def ask_stream(context: Context) -> None:
    """A streamed answer, and how it is framed."""
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    answer = context.chat("Count from 1 to 8.", **fields)
    if not answer.ok and answer.status in (400, 422):
        without = context.chat("Count from 1 to 8.", stream=True)
        if without.ok:
            context.learn(stream_options=False)
            answer = without
    if not answer.ok:
        context.found("stream", "no", answer.refusal)
        return
    stream = read_stream(answer.pieces, answer.headers.get("content-type", ""))
    context.asker.count(stream.usage or {})
    if not stream.events:
        context.found("stream", "ignored", f"one body of {answer.headers.get('content-type', 'unknown type')}")
        return
    context.found("stream", "yes", f"{stream.deltas} pieces of text in {stream.events} events")
    context.found("stream_framing", "yes", stream.framing)
    if stream.usage:
        context.found("stream_usage", "yes", stream.usage_place)
    elif not context.dialect.stream_options:
        context.found("stream_usage", "no", "stream_options is refused")
    else:
        context.found("stream_usage", "ignored")


def ask_logprobs(context: Context) -> None:
    """The log probabilities of tokens, and of how many likely ones."""
    for most in (100, 20, 5):
        answer = context.chat("Say hello.", tokens=8, logprobs=True, top_logprobs=most)
        if answer.ok or answer.status not in (400, 422):
            break
    if not answer.ok:
        context.found("logprobs", "no", answer.refusal)
        return
    said = answer.choices[0].get("logprobs") if answer.choices else None
    content = said.get("content") if isinstance(said, dict) else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        context.found("logprobs", "ignored")
        return
    likely = content[0].get("top_logprobs")
    given = len(likely) if isinstance(likely, list) else 0
    if given:
        context.constrain(top_logprobs=most)
    context.found("logprobs", "yes", f"{given} likely ones with each token")


def ask_n(context: Context) -> None:
    """Several answers to one request."""
    answer = context.chat("Say hello.", tokens=8, n=2)
    if not answer.ok:
        context.found("n", "no", answer.refusal)
    else:
        context.found("n", "yes" if len(answer.choices) == 2 else "ignored", f"asked for 2, got {len(answer.choices)}")


def ask_seed(context: Context) -> None:
    """Whether a seed repeats an answer, and another changes it."""
    said: list[str] = []
    for seed in (7, 7, 8):
        answer = context.chat(
            "Invent a name for a fox.", tokens=24, seed=seed, **{**context.basics, "temperature": 1.5}
        )
        if not answer.ok and not context.basics:
            answer = context.chat("Invent a name for a fox.", tokens=24, seed=seed)
        if not answer.ok:
            context.found("seed", "no", answer.refusal)
            return
        said.append(answer.text)
    if said[0] != said[1]:
        context.found("seed", "ignored", "the same seed, another answer")
    elif said[1] == said[2]:
        context.found("seed", "unclear", "the same answer to every seed")
    else:
        context.found("seed", "yes", "the same seed, the same answer")


def ask_reasoning(context: Context) -> None:
    """Whether the model thinks aloud, and what turns it on and off."""
    prompt = "What is 17 + 26?"
    where = thoughts_of(context.plain) if context.plain else ""
    seen: dict[str, str | None] = {}
    for name, fields in _SWITCHES.items():
        # An unclear beginning is enough: whether there are thoughts shows soon.
        answer = context.chat(prompt, tokens=64, **fields)
        seen[name] = thoughts_of(answer) if answer.ok else None
        where = where or seen[name] or ""
    if not where:
        context.found("reasoning", "no", "no answer has thoughts")
        context.found("reasoning_switch", "skipped", "this model does not think aloud")
        return
    context.found("reasoning", "yes", f"{where}; by default {'on' if context.thinks else 'off'}")
    if seen["on"] and seen["off"] == "":
        context.learn(thinking="chat_template_kwargs")
        context.found("reasoning_switch", "yes", "chat_template_kwargs: enable_thinking")
    elif seen["none"] == "" and (seen["low"] or context.thinks):
        context.learn(thinking="reasoning_effort")
        context.found("reasoning_switch", "yes", "reasoning_effort: none")
    else:
        context.found("reasoning_switch", "ignored", "neither enable_thinking nor reasoning_effort turns it off")


_SWITCHES: dict[str, dict[str, Any]] = {
    "on": {"chat_template_kwargs": {"enable_thinking": True}},
    "off": {"chat_template_kwargs": {"enable_thinking": False}},
    "low": {"reasoning_effort": "low"},
    "none": {"reasoning_effort": "none"},
}

_PLAIN = "plain answers"
QUESTIONS = (
    Question(names=("models", "context_length"), ask=ask_models, requests=1, group="models"),
    Question(names=("chat", "usage"), ask=ask_chat, requests=3, group=_PLAIN),
    Question(
        names=("stream", "stream_framing", "stream_usage"), ask=ask_stream, requests=2, group=_PLAIN, needs="chat"
    ),
    Question(names=("logprobs",), ask=ask_logprobs, requests=3, group=_PLAIN, needs="chat"),
    Question(names=("n",), ask=ask_n, requests=1, group=_PLAIN, needs="chat"),
    Question(names=("seed",), ask=ask_seed, requests=3, group=_PLAIN, needs="chat"),
    Question(names=("reasoning", "reasoning_switch"), ask=ask_reasoning, requests=4, group=_PLAIN, needs="chat"),
)
