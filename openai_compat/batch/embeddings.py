"""How ``client.map_embeddings`` embeds many texts: in batches, from the journal, else from the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import attrs
import msgspec

from ..cancel import CancelToken
from ..errors import APIStatusError, ConfigurationError, ResponseShapeError
from ..wire.embeddings import EmbeddingResponse
from ..wire.embeddings_request import Input, embedding_input
from .ask import outcome
from .journal import MAX_REQUEST, Entry, Journal, JournalError, open_journal, request_key
from .options import RunOptions
from .progress import progress_bar
from .result import EmbeddingResult, MapResult
from .run import MapRun, ThreadCrew
from .source import Item, is_pair
from .stored import embedded, failed, restored_error
from .vectors import EmbeddingRun

BATCH_SIZE = 128
"""Texts in a request: enough that a server's processors are full, few enough that a failure costs little."""

BATCH_TOKENS = 100_000
"""Estimated tokens in a request: at a token for each byte, OpenAI's limit of 300,000."""

_REFUSED_ALONE = 8
"""Texts that are refused one by one, and none taken: it is not the texts, and no more requests are split."""

_canonical = msgspec.json.Encoder(order="deterministic").encode

Batch = tuple[EmbeddingResult, ...]
"""Texts of one request, with neither vector nor error yet."""


@attrs.frozen(kw_only=True)
class Embedder:
    """What a client does for texts.

    Args:
        ask: the server's vectors.
        body: what a text is known by: model, dimensions, and what else makes another vector of it.
        finish: what is made of a vector as it came, or was kept.
    """

    ask: Callable[[Sequence[Input], CancelToken], EmbeddingResponse]
    body: Callable[[Input], Mapping[str, Any]]
    finish: Callable[[EmbeddingResult], EmbeddingResult]


def map_embeddings(embedder: Embedder, texts: Iterable[Any], batch_size: int, options: RunOptions) -> EmbeddingRun:
    """Begin to embed; see ``Client.map_embeddings``."""
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"texts must be an iterable of texts, not {type(texts).__name__}")
    total = len(texts) if options.total is None and isinstance(texts, Sized) else options.total
    bar = progress_bar(options.progress, total)
    kept, close = open_journal(options.journal)
    batches = (Item(index, None, batch) for index, batch in enumerate(read_batches(texts, batch_size)))
    asking = _Asking(embedder, kept, options.retry_failed)
    crew = ThreadCrew(batches, asking, options.workers, ahead=2 * options.workers)
    run: MapRun[Any] = MapRun(crew, ordered=options.ordered, on_error="keep", close=close, cancel=options.cancel)
    return EmbeddingRun(run, on_error=options.on_error, progress=bar)


def read_batches(texts: Iterable[Any], size: int) -> Iterator[Batch]:
    """The texts, so many at a time, and fewer where they are long.

    What cannot be embedded stands in its batch with the reason as ``error``.
    """
    batch: list[EmbeddingResult] = []
    tokens = 0
    for index, given in enumerate(texts):
        each = _read(index, given)
        estimate = _tokens(each.input) if each.ok else 0
        if batch and (len(batch) == size or tokens + estimate > BATCH_TOKENS):
            yield tuple(batch)
            batch, tokens = [], 0
        batch.append(each)
        tokens += estimate
    if batch:
        yield tuple(batch)


def _read(index: int, given: Any) -> EmbeddingResult:
    custom_id, text = given if is_pair(given) else (None, given)
    try:
        return EmbeddingResult(index=index, custom_id=custom_id, input=embedding_input(text, index))
    except ConfigurationError as error:
        return EmbeddingResult(index=index, custom_id=custom_id, input=text, error=error)


def _tokens(given: Input) -> int:
    return len(given.encode("utf-8", "replace")) // 3 + 1 if isinstance(given, str) else len(given)


@attrs.frozen
class _Question:
    """A text to be embedded, and what it is known by."""

    key: bytes
    body: bytes
    first: EmbeddingResult


class _Asking:
    """A function that embeds a batch: each text once, and none that the journal has.

    Args:
        retry_failed: as for ``Book``.
    """

    def __init__(self, embedder: Embedder, journal: Journal | None, retry_failed: bool | None) -> None:
        self._embedder, self._journal, self._retry_failed = embedder, journal, retry_failed
        self._lock = threading.Lock()
        self._under_way: dict[bytes, threading.Event] = {}
        self._own: set[bytes] = set()
        self._answered = False
        self._refused_alone = 0

    def __call__(self, item: Item, token: CancelToken) -> MapResult[Any]:
        batch: Batch = item.request
        asked = [each for each in batch if each.ok]
        # What a text is known by may need the server, to say which model it has.
        known, error, _ = outcome(lambda given, _: [self._question(each) for each in given], asked, token)
        if error is not None:
            results = [attrs.evolve(each, error=each.error or error) for each in batch]
            return MapResult(index=item.index, request=item.request, response=_as_any(results))
        questions: dict[bytes, _Question] = {}
        for question in known:
            questions.setdefault(question.key, question)
        found = self._found(questions, token)
        key_of = {question.first.index: question.key for question in known}
        results = [self._result(each, found.get(key_of.get(each.index, b""))) for each in batch]
        return MapResult(index=item.index, request=item.request, response=_as_any(results))

    def _question(self, each: EmbeddingResult) -> _Question:
        body = _canonical(self._embedder.body(each.input))
        return _Question(request_key(None, body), body, each)

    def _result(self, each: EmbeddingResult, found: EmbeddingResult | None) -> EmbeddingResult:
        if found is None:
            return each
        own = found.index == each.index
        return self._embedder.finish(
            attrs.evolve(
                found,
                index=each.index,
                custom_id=each.custom_id,
                input=each.input,
                tokens=found.tokens if own else 0,
            )
        )

    def _found(self, questions: dict[bytes, _Question], token: CancelToken) -> dict[bytes, EmbeddingResult]:
        """What came of each question: those that another batch asks are waited for, after one's own."""
        journal = self._journal
        if journal is None:
            return self._ask(list(questions.values()), token)
        found: dict[bytes, EmbeddingResult] = {}
        done = threading.Event()
        while left := questions.keys() - found.keys():
            with self._lock:
                mine = [key for key in questions if key in left and key not in self._under_way]
                self._under_way.update(dict.fromkeys(mine, done))
                others = [self._under_way[key] for key in left - set(mine)]
            try:
                kept = {key: entry for key in mine if (entry := journal.get(key)) is not None}
                known = {key: entry for key, entry in kept.items() if not self._asks_again(key, entry)}
                found.update((key, _restored(questions[key], entry)) for key, entry in known.items())
                found.update(self._ask([questions[key] for key in mine if key not in known], token))
            finally:
                with self._lock:
                    for key in mine:
                        del self._under_way[key]
                done.set()
            for other in others:
                while not other.wait(0.1):
                    token.raise_if_cancelled()
            done = threading.Event()
        return found

    def _asks_again(self, key: bytes, kept: Entry) -> bool:
        if kept.status != "failed" or key in self._own:
            return False
        return bool(kept.retryable) if self._retry_failed is None else self._retry_failed

    def _ask(self, questions: list[_Question], token: CancelToken) -> dict[bytes, EmbeddingResult]:
        """Ask for all at once; what is refused is asked in halves, until it is known which texts are at fault."""
        if not questions:
            return {}
        answer, error, seconds = outcome(self._embedder.ask, [question.first.input for question in questions], token)
        if error is not None and len(questions) > 1 and self._may_split(error):
            half = len(questions) // 2
            return self._ask(questions[:half], token) | self._ask(questions[half:], token)
        if error is not None:
            self._refused_alone += len(questions) == 1
            results = [attrs.evolve(question.first, error=error, seconds=seconds) for question in questions]
            entries = [failed(*_named(question), error, seconds) for question in questions]
            self._own.update(question.key for question in questions)
        else:
            self._answered = True
            share, rest = divmod(answer.input_tokens, len(questions))
            results = [
                attrs.evolve(question.first, embedding=vector, tokens=share + (number < rest), seconds=seconds)
                for number, (question, vector) in enumerate(zip(questions, answer.vectors, strict=True))
            ]
            entries = [
                embedded(*_named(question), answer.model, each.result(), each.tokens, seconds)
                for question, each in zip(questions, results, strict=True)
            ]
        if self._journal is not None:
            try:
                self._journal.add(*entries)
            except JournalError as full:
                raise JournalError(str(full), unsaved=_as_any(results)) from full
        return {question.key: each for question, each in zip(questions, results, strict=True)}

    def _may_split(self, error: Exception) -> bool:
        if self._refused_alone >= _REFUSED_ALONE and not self._answered:
            return False
        if isinstance(error, APIStatusError):
            # llama.cpp says with 500 that a text is longer than it takes.
            return error.status_code in (400, 413, 422) or (error.status_code == 500 and "too large" in str(error))
        return isinstance(error, ResponseShapeError)


def _named(question: _Question) -> tuple[bytes, str | None, str | None]:
    request = question.body.decode() if len(question.body) <= MAX_REQUEST else None
    return question.key, question.first.custom_id, request


def _restored(question: _Question, entry: Entry) -> EmbeddingResult:
    if entry.status == "failed":
        return attrs.evolve(question.first, error=restored_error(entry), seconds=entry.seconds, from_journal=True)
    vector = memoryview(entry.response or b"").cast("f")
    tokens = entry.input_tokens or 0
    return attrs.evolve(question.first, embedding=vector, tokens=tokens, seconds=entry.seconds, from_journal=True)


def _as_any(results: list[EmbeddingResult]) -> Any:
    return tuple(results)
