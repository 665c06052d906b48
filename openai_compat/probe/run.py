"""The probe: all questions, one after another; a feature that fails is a row, and Ctrl-C ends with what is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..errors import ConfigurationError
from ..wire.dialect import Dialect
from . import chat, media, refusals, speed, structured, tools, vectors
from .asking import Asker, Send, Unanswered, printable, shown
from .question import Context, Question
from .report import Finding, Probe, ProbeRow

QUESTIONS: tuple[Question, ...] = (
    *chat.QUESTIONS,
    *tools.QUESTIONS,
    *structured.QUESTIONS,
    *media.QUESTIONS,
    *vectors.QUESTIONS,
    *refusals.QUESTIONS,
    *speed.QUESTIONS,
)
FEATURES: tuple[str, ...] = tuple(name for question in QUESTIONS for name in question.names)
"""The names of all rows, in their order."""
ABOUT_TOKENS: int = 5000
"""Tokens, in and out, that it takes of a model that does not think; one that does may take 20 times as many."""


def most_requests(only: Iterable[str] = ()) -> int:
    """How many requests a probe makes at most; of these rows, or of all."""
    return sum(question.requests for question in _questions(only))


def _questions(only: Iterable[str]) -> list[Question]:
    """The questions that fill these rows, and those that they need; all where none are named."""
    wanted = set(only)
    if not wanted:
        return list(QUESTIONS)
    wanted.add("models")
    kept: list[Question] = []
    # What is needed stands before.
    for question in reversed(QUESTIONS):
        if wanted.intersection(question.names):
            wanted.add(question.needs)
            kept.insert(0, question)
    return kept


def check_features(names: Iterable[str]) -> tuple[str, ...]:
    """These names, each of a row.

    Raises:
        ConfigurationError: one is not.
    """
    from difflib import get_close_matches

    checked = tuple(names)
    for name in checked:
        if name not in FEATURES:
            near = get_close_matches(name, FEATURES, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigurationError(f"unknown feature {name!r}{hint}; known are {', '.join(FEATURES)}")
    return checked


def run_probe(
    send: Send,
    *,
    base_url: str,
    provider: str,
    dialect: Dialect,
    model: str = "",
    embedding_model: str = "",
    seconds: float,
    hide: Callable[[str], str],
    only: Iterable[str] = (),
    alone: bool = True,
    tell: Callable[[ProbeRow], object] | None = None,
) -> Probe:
    """Ask a server what it can do.

    Args:
        dialect: what is known of it; what the probe finds is changed.
        model, embedding_model: those that are asked; by default the first that the server lists.
        seconds: that each question may take.
        hide: takes secrets out of what the server said.
        only: the names of the rows that are wanted; those that they need come with them.
        alone: whether a model may be picked where the server lists several.
        tell: called with each row as it is found.
    """
    begun = time.monotonic()
    asker = Asker(send, seconds)
    context = Context(
        asker=asker, dialect=dialect, model=model, embedding_model=embedding_model or model, picks=alone, hide=hide
    )
    if tell is not None:
        context.tell = tell
    interrupted = False
    try:
        for question in _questions(check_features(only)):
            _ask(question, context)
    except KeyboardInterrupt:
        interrupted = True
    return Probe(
        base_url=base_url,
        provider=provider,
        model=printable(context.model),
        embedding_model=printable(context.embedding_model) if context.has("embeddings") else "",
        server=", ".join(shown(name, hide) for name in context.server),
        rows=tuple(context.rows),
        dialect=context.dialect,
        requests=asker.requests,
        input_tokens=asker.input_tokens,
        output_tokens=asker.output_tokens,
        seconds=time.monotonic() - begun,
        interrupted=interrupted,
    )


def _ask(question: Question, context: Context) -> None:
    context.group = question.group
    if question.needs and not context.has(question.needs):
        for name in question.names:
            context.found(name, "skipped", f"without {question.needs}")
        return
    context.asker.next_question()
    finding: Finding = "skipped"
    why = f"without {question.names[0]}"
    try:
        question.ask(context)
    except Unanswered as error:
        finding, why = "failed", str(error)
    told = {row.name for row in context.rows}
    for name in question.names:
        if name not in told:
            context.found(name, finding, why)
