"""Questions about counts of tokens, embeddings and reranking."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from ..errors import APIStatusError
from ..tokens import count_tokens
from .asking import Answer
from .question import Context, Question

_TEXTS = ["The cat sleeps.", "Stocks fell sharply."]


def ask_tokens(context: Context) -> None:
    """Whether the server counts tokens, and as it bills them."""
    prompt = [{"role": "user", "content": "Say hello in five words."}]
    body = {"model": context.model, "messages": prompt}

    def ask(path: str, asked: Mapping[str, Any]) -> Any:
        answer = context.asker.post(path, asked, at_root=True)
        if not answer.ok:
            raise answer.error or APIStatusError(answer.refusal, status_code=answer.status)
        return answer.value

    for name in ("llamacpp", "vllm"):
        try:
            counted = count_tokens(None, body, tokenizer=name, ask=ask, estimate=True, provider="")
        except APIStatusError:
            continue
        if counted.method == "server":
            billed = context.plain.usage.get("prompt_tokens") if context.plain else None
            same = "as in usage" if billed == counted.tokens else f"usage says {billed}"
            context.learn(tokenizer=name)
            context.found("token_counts", "yes", f"at the address of {name}: {counted.tokens}, {same}")
            return
    context.learn(tokenizer="tiktoken" if context.dialect.tokenizer == "tiktoken" else "none")
    context.found("token_counts", "no", "neither /apply-template nor /tokenize")


def ask_floats(context: Context) -> None:
    """Vectors as numbers, and their length."""
    answer = _embed(context, _TEXTS, encoding_format="float")
    if not answer.ok:
        context.found("embeddings", "no", answer.refusal)
        return
    vectors = [_vector(entry) for entry in _entries(answer)]
    if len(vectors) != 2 or not all(vectors):
        context.found("embeddings", "ignored", "the answer holds no two vectors")
        return
    length = sum(number * number for number in vectors[0]) ** 0.5
    unit = "of length 1" if abs(length - 1) < 0.01 else f"of length {length:.3g}"
    context.found("embeddings", "yes", f"{len(vectors[0])} dimensions, {unit}")


def ask_base64(context: Context) -> None:
    """Vectors as base64, which are a quarter of the bytes."""
    answer = _embed(context, _TEXTS[0], encoding_format="base64")
    if not answer.ok:
        context.found("embeddings_base64", "no", answer.refusal)
        return
    entries = _entries(answer)
    said = entries[0].get("embedding") if entries else None
    if isinstance(said, str):
        context.found("embeddings_base64", "yes", f"{len(_vector(entries[0]))} dimensions")
    else:
        context.found("embeddings_base64", "ignored", "numbers came")


def ask_dimensions(context: Context) -> None:
    """Shorter vectors."""
    answer = _embed(context, _TEXTS[0], dimensions=64)
    if not answer.ok:
        context.found("embeddings_dimensions", "no", answer.refusal)
        return
    entries = _entries(answer)
    size = len(_vector(entries[0])) if entries else 0
    context.found("embeddings_dimensions", "yes" if size == 64 else "ignored", f"asked for 64, got {size}")


def ask_rerank(context: Context) -> None:
    """Documents in the order of how they answer a question."""
    body = {"model": context.embedding_model, "query": "Which animal sleeps?", "documents": _TEXTS}
    answer = context.asker.post("/rerank", body)
    value = answer.value if isinstance(answer.value, dict) else {}
    listed = value.get("results") or value.get("data")
    if not answer.ok:
        context.found("rerank", "no", answer.refusal)
    elif isinstance(listed, list) and len(listed) == 2 and isinstance(listed[0], dict):
        context.found("rerank", "yes", f"{', '.join(sorted(listed[0]))} of each")
    else:
        context.found("rerank", "ignored", "the answer holds no two results")


def _embed(context: Context, texts: Any, **fields: Any) -> Answer:
    return context.asker.post("/embeddings", {"model": context.embedding_model, "input": texts, **fields})


def _entries(answer: Answer) -> list[Mapping[str, Any]]:
    listed = answer.value.get("data") if isinstance(answer.value, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _vector(entry: Mapping[str, Any]) -> list[float]:
    said = entry.get("embedding")
    if isinstance(said, str):
        try:
            packed = base64.b64decode(said, validate=True)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        except (ValueError, struct.error):
            return []
    numbers = said if isinstance(said, list) else []
    try:
        return [float(number) for number in numbers if isinstance(number, (int, float))]
    except OverflowError:
        return []


_GROUP = "tokens and vectors"
QUESTIONS = (
    Question(names=("token_counts",), ask=ask_tokens, requests=3, group=_GROUP, needs="chat"),
    Question(names=("embeddings",), ask=ask_floats, requests=1, group=_GROUP),
    Question(names=("embeddings_base64",), ask=ask_base64, requests=1, group=_GROUP, needs="embeddings"),
    Question(names=("embeddings_dimensions",), ask=ask_dimensions, requests=1, group=_GROUP, needs="embeddings"),
    Question(names=("rerank",), ask=ask_rerank, requests=1, group=_GROUP),
)
