"""How ``client.map_embeddings`` embeds many texts: in batches, from the journal, else from the server."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

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
from .run import Arrivals, MapRun
from .source import Item, is_pair
from .stored import embedded, failed, restored_error
from .threads import ThreadCrew
from .vectors import EmbeddingRun

if TYPE_CHECKING:
    from .executors import Pool

BATCH_SIZE = 128
"""Texts in a request: enough that a server's processors are full, few enough that a failure costs little."""

BATCH_TOKENS = 100_000
"""Estimated tokens in a request: at a token for each byte, OpenAI's limit of 300,000."""

_REFUSED_ALONE = 8
"""Texts that are refused one by one, and none taken: it is not the texts, and no more requests are split."""

_canonical = msgspec.json.Encoder(order="deterministic").encode

Batch = tuple[EmbeddingResult, ...]
"""Texts of one request, with neither vector nor error yet."""


class Embedder(Protocol):
    """What a client does for texts."""

    def ask(self, inputs: Sequence[Input], token: CancelToken) -> EmbeddingResponse:
        """The server's vectors."""

    def body(self, text: Input, token: CancelToken) -> Mapping[str, Any]:
        """What a text is known by: model, dimensions, and what else makes another vector of it."""

    def finish(self, result: EmbeddingResult) -> EmbeddingResult:
        """What is made of a vector as it came, or was kept."""


@attrs.frozen
class Part:
    """What came of so many texts of a batch."""

    count: int
    answer: EmbeddingResponse | None
    error: Exception | None
    seconds: float


AskBatches = Callable[[list[list[Input]], CancelToken], Iterator[list[Part]]]
"""Of the texts of some requests, to what came of them, in their order; what comes at a time is together."""


def map_embeddings(embedder: Embedder, texts: Iterable[Any], batch_size: int, options: RunOptions) -> EmbeddingRun:
    """Begin to embed; see ``Client.map_embeddings``."""
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"texts must be an iterable of texts, not {type(texts).__name__}")
    total = len(texts) if options.total is None and isinstance(texts, Sized) else options.total
    bar = progress_bar(options.progress, total)
    kept, close = open_journal(options.journal)
    splitter = Splitter(embedder)
    at_end = contextlib.ExitStack()
    if close is not None:
        at_end.callback(close)
    ask: AskBatches = splitter.ask
    threads, together = options.workers, 1
    pool: Pool | None = None
    if options.executor is not None:
        from .chunks import Work
        from .executors import Pool

        pool = Pool(options.executor, Work(partial(outcome, splitter.all), options.workers))
        at_end.callback(pool.close)
        ask, together = partial(_ask_elsewhere, pool), options.chunk_size or options.workers
    arrivals = Arrivals()
    crew = ThreadCrew(
        _items(texts, batch_size, together),
        _Asking(embedder, ask, kept, options.retry_failed, arrivals),
        arrivals,
        workers=lambda: threads if pool is None else 2 * pool.places(),
    )
    run: MapRun[Any] = MapRun(crew, ordered=options.ordered, on_error="keep", close=at_end.close, cancel=options.cancel)
    return EmbeddingRun(run, on_error=options.on_error, progress=bar)


def _items(texts: Iterable[Any], size: int, together: int) -> Iterator[Item]:
    """So many batches at a time."""
    batches = read_batches(texts, size)
    for index in itertools.count():
        some = tuple(itertools.islice(batches, together))
        if not some:
            return
        yield Item(index, None, some)


def _ask_elsewhere(pool: Pool, batches: list[list[Input]], token: CancelToken) -> Iterator[list[Part]]:
    came: list[Part] = []
    for batch, (parts, error, seconds) in zip(batches, pool.ask(batches, token), strict=True):
        came += parts if error is None else [Part(len(batch), None, error, seconds)]
    yield came


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


class Splitter:
    """Asks for all texts of a request at once; what is refused in halves, until it is known which are at fault."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._answered = False
        self._refused_alone = 0

    def ask(self, batches: list[list[Input]], token: CancelToken) -> Iterator[list[Part]]:
        """What came of each request, or of each part of it, as soon as it is there."""
        for batch in batches:
            for part in self._parts(batch, token):
                yield [part]

    def all(self, batch: list[Input], token: CancelToken) -> list[Part]:
        """The same of one request, and no more of an answer than is kept: a pickle of it is small."""
        return [
            part if part.answer is None else attrs.evolve(part, answer=attrs.evolve(part.answer, raw={}, headers={}))
            for part in self._parts(batch, token)
        ]

    def _parts(self, texts: list[Input], token: CancelToken) -> Iterator[Part]:
        answer, error, seconds = outcome(self._embedder.ask, texts, token)
        if error is not None and len(texts) > 1 and self._may_split(error):
            half = len(texts) // 2
            yield from self._parts(texts[:half], token)
            yield from self._parts(texts[half:], token)
            return
        if error is None:
            self._answered = True
        elif len(texts) == 1:
            self._refused_alone += 1
        yield Part(len(texts), answer, error, seconds)

    def _may_split(self, error: Exception) -> bool:
        if self._refused_alone >= _REFUSED_ALONE and not self._answered:
            return False
        if isinstance(error, APIStatusError):
            # llama.cpp says with 500 that a text is longer than it takes.
            return error.status_code in (400, 413, 422) or (error.status_code == 500 and "too large" in str(error))
        return isinstance(error, ResponseShapeError)


@attrs.frozen
class _Question:
    """A text to be embedded, and what it is known by."""

    key: bytes
    body: bytes
    first: EmbeddingResult
    batch: int


class _Asking:
    """A function that embeds some batches: each text once, and none that the journal has.

    Args:
        retry_failed: as for ``Book``.
        arrivals: where the results are handed on.
    """

    def __init__(
        self,
        embedder: Embedder,
        ask: AskBatches,
        journal: Journal | None,
        retry_failed: bool | None,
        arrivals: Arrivals,
    ) -> None:
        self._embedder, self._ask_batches, self._arrivals = embedder, ask, arrivals
        self._journal, self._retry_failed = journal, retry_failed
        self._lock = threading.Lock()
        self._under_way: dict[bytes, threading.Event] = {}
        self._own: set[bytes] = set()

    def __call__(self, item: Item, token: CancelToken) -> None:
        results = self._embedded(item, token)
        self._arrivals.put(MapResult(index=item.index, request=item.request, response=_as_any(results)))

    def finish(self) -> None:
        pass

    def _embedded(self, item: Item, token: CancelToken) -> list[EmbeddingResult]:
        batches: tuple[Batch, ...] = item.request
        texts = [each for batch in batches for each in batch]
        # What a text is known by may need the server, to say which model it has.
        known, error, _ = outcome(self._questions, batches, token)
        if error is not None:
            return [attrs.evolve(each, error=each.error or error) for each in texts]
        questions: dict[bytes, _Question] = {}
        for question in known:
            questions.setdefault(question.key, question)
        found = self._found(questions, token)
        key_of = {question.first.index: question.key for question in known}
        return [self._result(each, found.get(key_of.get(each.index, b""))) for each in texts]

    def _questions(self, batches: tuple[Batch, ...], token: CancelToken) -> list[_Question]:
        return [
            _Question(request_key(None, body), body, each, number)
            for number, batch in enumerate(batches)
            for each in batch
            if each.ok
            for body in [_canonical(self._embedder.body(each.input, token))]
        ]

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
                charges=found.charges if own else (),
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
        batches = [list(batch) for _, batch in itertools.groupby(questions, lambda question: question.batch)]
        found: dict[bytes, EmbeddingResult] = {}
        left = iter(questions)
        for came in self._ask_batches([[question.first.input for question in batch] for batch in batches], token):
            found.update(self._keep([(list(itertools.islice(left, part.count)), part) for part in came]))
        return found

    def _keep(self, came: list[tuple[list[_Question], Part]]) -> dict[bytes, EmbeddingResult]:
        """The results of some texts, once the journal has them."""
        found: dict[bytes, EmbeddingResult] = {}
        entries: list[Entry] = []
        for questions, part in came:
            results, rows = self._refused(questions, part) if part.answer is None else _embedded(questions, part)
            found.update((question.key, each) for question, each in zip(questions, results, strict=True))
            entries += rows
        if self._journal is not None:
            try:
                self._journal.add(*entries)
            except JournalError as full:
                raise JournalError(str(full), unsaved=_as_any(list(found.values()))) from full
        return found

    def _refused(self, questions: list[_Question], part: Part) -> tuple[list[EmbeddingResult], list[Entry]]:
        assert part.error is not None
        self._own.update(question.key for question in questions)
        results = [attrs.evolve(question.first, error=part.error, seconds=part.seconds) for question in questions]
        return results, [failed(*_named(question), part.error, part.seconds) for question in questions]


def _embedded(questions: list[_Question], part: Part) -> tuple[list[EmbeddingResult], list[Entry]]:
    answer = part.answer
    assert answer is not None
    share, rest = divmod(answer.input_tokens, len(questions))
    results = [
        attrs.evolve(
            question.first,
            embedding=vector,
            tokens=share + (number < rest),
            charges=() if number else answer.charges,
            seconds=part.seconds,
        )
        for number, (question, vector) in enumerate(zip(questions, answer.vectors, strict=True))
    ]
    entries = [
        embedded(*_named(question), answer.model, each.result(), each.tokens, part.seconds, answer.provider)
        for question, each in zip(questions, results, strict=True)
    ]
    return results, entries


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
