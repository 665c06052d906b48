"""``client.submit_batch``: requests to a provider's Batch API, and their answers, by way of a journal."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import attrs
import msgspec

from .._json import decode_json
from ..cancel import CancelToken
from ..errors import APIError, APIStatusError, APITimeoutError, Cancelled, ConfigurationError, NotFoundError
from ..wire.batches import (
    MAX_BYTES,
    MAX_REQUESTS,
    AnswerLine,
    BatchStatus,
    batch_error,
    parse_answer_line,
    request_line,
    why_unanswered,
)
from ..wire.response import ChatResponse
from .files import EMBEDDINGS, FileAnswer
from .journal import MAX_REQUEST, Entry, Journal, request_key
from .progress import Progress, progress_bar
from .provider import BatchAPI, Send, Upload
from .result import MapResult
from .source import Item, read_requests
from .spool import Spool
from .stored import answered, as_told, failed, restored_error
from .submissions import Submission, Submissions, submitting

if TYPE_CHECKING:
    from typing import Self

log: logging.Logger = logging.getLogger("openai_compat")

R = TypeVar("R", bound=ChatResponse)

FIRST_PAUSE = 1.0
"""Seconds before the second look at a batch; doubled with each, up to ``poll_every``."""

MAX_HINT = 900.0
"""Seconds that a server may have a look wait."""

MAX_FAILED_LOOKS = 60
"""In a row, after which a server that cannot be reached is given up."""

_GROUP = 200
"""Answers that are written to the journal at a time."""

_KNOWN = 0
"""The part of requests that wait for nothing."""

_canonical = msgspec.json.Encoder(order="deterministic").encode


@attrs.frozen(kw_only=True)
class Submitter:
    """What a client does for a batch.

    Args:
        make: a request of a prompt.
        body: by which a request is known.
        line: the path, and the body as this server takes it.
        read: the answer in a body, of the request and with the id that the provider gave it.
        send: sends to the server.
        server: its base URL.
        provider: its name.
        secrets: what no error may show.
    """

    make: Callable[[Any], Any]
    body: Callable[[Any], Mapping[str, Any]]
    line: Callable[[Any, Mapping[str, Any]], tuple[str, Mapping[str, Any]]]
    read: Callable[[bytes, Any, str | None], Any]
    send: Send
    server: str
    provider: str
    secrets: Callable[[], tuple[str, ...]]


def submit_batch(
    submitter: Submitter,
    requests: Iterable[Any],
    *,
    journal: Journal | str | os.PathLike[str] | None,
    retry_failed: bool | None,
    ordered: bool,
    on_error: Literal["keep", "raise"],
    progress: Any,
    total: int | None,
    poll_every: float,
    completion_window: str,
    cancel: CancelToken | None,
) -> BatchRun[Any]:
    """Submit what the journal does not know; see ``Client.submit_batch``."""
    if on_error not in ("keep", "raise"):
        raise ConfigurationError(f"on_error must be 'keep' or 'raise', not {on_error!r}")
    if isinstance(poll_every, bool) or not isinstance(poll_every, (int, float)) or not poll_every > 0:
        raise ConfigurationError(f"poll_every must be a positive number of seconds, not {poll_every!r}")
    if journal is not None and not isinstance(journal, (str, os.PathLike, Journal)):
        raise ConfigurationError(f"journal must be a path or a Journal, not {journal!r}")
    items = read_requests(requests, submitter.make)
    if total is None and isinstance(requests, Sized):
        total = len(requests)
    bar = progress_bar(progress, total)
    run: BatchRun[Any] = BatchRun(
        submitter,
        journal,
        retry_failed=retry_failed,
        ordered=ordered,
        on_error=on_error,
        progress=bar,
        poll_every=poll_every,
        window=completion_window,
        token=cancel or CancelToken(),
    )
    try:
        run._submit(items)
    except BaseException as error:
        run._tell_how_to_go_on(error)
        run.close()
        raise
    return run


class BatchRun(Generic[R]):
    """The results of ``client.submit_batch``, as batches end; an iterator and a context manager.

    All has been submitted when there is one. Waiting can be broken off and taken up again: here by iterating again, in
    a later process by the same line.
    """

    def __init__(
        self,
        submitter: Submitter,
        journal: Journal | str | os.PathLike[str] | None,
        *,
        retry_failed: bool | None,
        ordered: bool,
        on_error: Literal["keep", "raise"],
        progress: Progress | None,
        poll_every: float,
        window: str,
        token: CancelToken,
    ) -> None:
        self._submitter, self._token, self._progress = submitter, token, progress
        self._retry_failed, self._raises = retry_failed, on_error == "raise"
        self._window, self._poll_every = window, poll_every
        # Without a journal of the caller's there is one for as long as this lives.
        self._folder = None if journal is not None else tempfile.TemporaryDirectory(prefix="openai_compat-")
        self._own_journal = not isinstance(journal, Journal)
        if self._folder is not None:
            journal = Path(self._folder.name) / "batch.db"
        assert journal is not None
        self._journal = journal if isinstance(journal, Journal) else Journal(journal)
        self._submissions = Submissions(self._journal)
        self._api = BatchAPI(submitter.send, provider=submitter.provider, secrets=submitter.secrets, token=token)
        self._spool = Spool()
        self._uploads: dict[tuple[str, str], tuple[int, Upload]] = {}
        self._parts = _KNOWN
        self._waiting: dict[int, Submission] = {}
        self._statuses: dict[str, BatchStatus] = {}
        self._looks = self._failed_looks = 0
        self._hint = 0.0
        self._at = -1
        self._ready: deque[int] | None = None if ordered else deque([_KNOWN])

    @property
    def ids(self) -> tuple[str, ...]:
        """The provider's ids of the batches that have not ended yet, or did while this waited."""
        return tuple(self._statuses)

    def status(self) -> tuple[BatchStatus, ...]:
        """How it is with each batch, asked now where it has not ended."""
        for batch_id, known in list(self._statuses.items()):
            if not known.ended:
                self._statuses[batch_id], _ = self._api.status(batch_id)
        return tuple(self._statuses.values())

    def cancel(self) -> tuple[BatchStatus, ...]:
        """Have the provider end the batches: what it has answered comes, the rest fails and may be asked again."""
        for batch_id, known in list(self._statuses.items()):
            if not known.ended:
                self._statuses[batch_id] = self._api.cancel(batch_id)
        self._looks = 0
        return tuple(self._statuses.values())

    def close(self) -> None:
        """Stop to wait, and close the progress bar and the journal; the batches go on at the provider."""
        for _, upload in self._uploads.values():
            upload.close()
        self._uploads.clear()
        self._spool.close()
        if self._own_journal:
            self._journal.close()
        if self._folder is not None:
            self._folder.cleanup()
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def __del__(self) -> None:
        # Of a run that was dropped; the journal sees to itself.
        if "_spool" in self.__dict__:
            self._spool.close()
        if self.__dict__.get("_folder") is not None:
            self._folder.cleanup()  # type: ignore[union-attr]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Submitting

    def _submit(self, items: Iterable[Item]) -> None:
        """Take all requests; upload those that are neither answered nor at the provider."""
        with submitting(self._journal.path, self._token):
            for unmade in self._submissions.unmade(self._submitter.server):
                self._find(unmade)
            for item in items:
                self._token.raise_if_cancelled()
                self._take(item)
            for kind in list(self._uploads):
                self._upload(kind)

    def _take(self, item: Item) -> None:
        try:
            body = self._submitter.body(item.request)
            key = request_key(item.custom_id, _canonical(body))
            url, adapted = self._submitter.line(item.request, body)
            line = request_line(key.hex(), url, adapted)
            if len(line) > MAX_BYTES:
                raise ConfigurationError(f"a line of {len(line):,} bytes; a file of requests has {MAX_BYTES:,} at most")
        except (ConfigurationError, TypeError, ValueError) as error:
            self._spool.add(item, None, _KNOWN, error)
            return
        part = self._spool.part_of(key)
        if part is None:
            part = self._part(key)
        if part is None:
            part = self._write(key, line, url, adapted)
        self._spool.add(item, key, part)

    def _part(self, key: bytes) -> int | None:
        """The part that a request waits for already, or waits for nothing; None where it is to be submitted."""
        submitted = self._submissions.of(key)
        if submitted is not None and not submitted.finished:
            if submitted.server != self._submitter.server:
                raise ConfigurationError(
                    f"a request is in batch {submitted.batch_id} of {submitted.server}: wait with a client of "
                    "that server, or take another journal"
                )
            for part, waiting in self._waiting.items():
                if waiting.number == submitted.number:
                    return part
            return self._wait_for(submitted)
        kept = self._journal.get(key)
        return None if kept is None or self._asks_again(kept) else _KNOWN

    def _asks_again(self, kept: Entry) -> bool:
        return kept.status == "failed" and bool(kept.retryable if self._retry_failed is None else self._retry_failed)

    def _wait_for(self, submission: Submission, status: BatchStatus | None = None) -> int:
        self._parts += 1
        self._waiting[self._parts] = submission
        assert submission.batch_id is not None
        self._statuses[submission.batch_id] = status or BatchStatus(id=submission.batch_id, status="validating")
        return self._parts

    def _write(self, key: bytes, line: bytes, url: str, body: Mapping[str, Any]) -> int:
        """Put a request into a file; one that is full is uploaded before."""
        texts = body.get("input") if url == EMBEDDINGS else None
        count = len(texts) if isinstance(texts, (list, tuple)) and not isinstance(texts[:1], str) else 1
        kind = url, str(body.get("model", ""))  # a file has one endpoint and one model
        if kind in self._uploads:
            _, upload = self._uploads[kind]
            if upload.requests + count > MAX_REQUESTS or upload.size + len(line) > MAX_BYTES:
                self._upload(kind)
        if kind not in self._uploads:
            self._parts += 1
            self._uploads[kind] = self._parts, Upload()
        part, upload = self._uploads[kind]
        upload.add(key, line, count)
        return part

    def _upload(self, kind: tuple[str, str]) -> None:
        part, upload = self._uploads[kind]
        file_id = self._api.upload(upload)
        submission = self._submissions.add(self._submitter.server, kind[0], file_id, upload.keys)
        upload.close()
        del self._uploads[kind]
        try:
            status = self._api.create(file_id, kind[0], self._window, submission.submitted_at)
        except APIStatusError as error:
            if not error.retryable:
                self._submissions.refused(submission)
            raise
        self._waiting[part] = self._submissions.made(submission, status.id, status.status)
        self._statuses[status.id] = status
        log.info("%s: batch %s of %d requests", self._submitter.provider, status.id, len(upload.keys))

    def _find(self, unmade: Submission) -> None:
        """Find the batch of a file that an earlier run had uploaded; without one, its requests are not submitted."""
        found = self._api.find(unmade.input_file_id, unmade.submitted_at)
        if found is None:
            self._submissions.refused(unmade)
        else:
            self._submissions.made(unmade, found.id, found.status)

    # Waiting

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MapResult[R]:
        try:
            result = self._next()
        except BaseException as error:
            self._tell_how_to_go_on(error)
            raise
        if result is None:
            self.close()
            raise StopIteration
        if self._progress is not None:
            self._progress.add(result)
        if self._raises and result.error is not None:
            raise result.error
        return result

    def _next(self) -> MapResult[R] | None:
        """The next result; None after the last."""
        while self._ready is None:  # in their order
            item, key, part, error = self._spool.after(self._at)
            if item is None:
                return None
            while part in self._waiting:
                self._wait()
            return self._result(item, key, part, error)
        while True:
            while self._ready:
                item, key, part, error = self._spool.after(self._at, self._ready[0])
                if item is not None:
                    return self._result(item, key, part, error)
                self._ready.popleft()
                self._at = -1
            if not self._waiting:
                return None
            self._wait()

    def _result(self, item: Item, key: bytes | None, part: int, error: Exception | None) -> MapResult[R]:
        kept = None if key is None else self._journal.get(key)
        answer: Any = None
        if kept is None:
            error = error or batch_error("", "the journal has lost this answer", provider=self._submitter.provider)
        elif kept.status == "failed":
            error = restored_error(kept)
        else:
            try:
                answer = as_told(kept, self._submitter.read(kept.response or b"", item.request, None))
            except Exception as unfit:
                error = unfit
        self._at = item.index
        return MapResult(
            index=item.index,
            custom_id=item.custom_id,
            request=item.request,
            response=answer,
            error=error,
            seconds=0.0 if kept is None else kept.seconds,
            from_journal=part == _KNOWN and kept is not None,
        )

    def _wait(self) -> None:
        """Look at each batch that is waited for, after a while; what has ended goes into the journal."""
        if self._looks:
            pause = max(min(FIRST_PAUSE * 2 ** (self._looks - 1), self._poll_every), min(self._hint, MAX_HINT))
            self._token.wait(pause)
        self._token.raise_if_cancelled()
        self._looks = min(self._looks + 1, 64)
        self._hint = 0.0
        for part, submission in list(self._waiting.items()):
            try:
                status, hint = self._look(submission)
                self._statuses[status.id] = status
                if status.ended:
                    self._fetch(submission, status)
            except APIError as error:
                self._failed_looks += 1
                passing = error.retryable or isinstance(error, APITimeoutError)
                if not passing or self._failed_looks >= MAX_FAILED_LOOKS:
                    raise
                log.warning("batch %s: %s; it is looked for again", submission.batch_id, error)
                self._hint = max(self._hint, error.retry_after or 0.0)
                continue
            self._failed_looks = 0
            self._hint = max(self._hint, hint)
            if status.ended:
                del self._waiting[part]
                if self._ready is not None:
                    self._ready.append(part)

    def _look(self, submission: Submission) -> tuple[BatchStatus, float]:
        assert submission.batch_id is not None
        try:
            return self._api.status(submission.batch_id)
        except NotFoundError as error:
            self._give_up(error, f"batch {submission.batch_id} is not there: another key or project, or it was removed")
            return BatchStatus(id=submission.batch_id, status="failed", errors=(("not_found", str(error)),)), 0.0

    def _give_up(self, error: NotFoundError, what: str) -> None:
        """What is not there any more ends the run, unless the caller means to ask anew."""
        if not self._retry_failed:
            error.args = (f"{error} ({what}; retry_failed=True gives it up, and the run after it asks anew)",)
            raise error

    def _fetch(self, submission: Submission, status: BatchStatus) -> None:
        """Write all that came of a batch into the journal."""
        seen: set[bytes] = set()
        damaged = False
        entries: list[Entry] = []
        seconds = max(0.0, time.time() - submission.submitted_at)
        provider, secrets = self._submitter.provider, self._submitter.secrets()

        def take(line: bytes) -> None:
            nonlocal damaged
            told = parse_answer_line(line, provider=provider, secrets=secrets) if line.strip() else None
            key = None if told is None else _key_of(told.custom_id)
            if told is None or key is None or not self._submissions.has(submission, key):
                if line.strip():
                    damaged = True
                    log.warning("batch %s: a line of its file is no answer, and left out", status.id)
                return
            seen.add(key)
            entries.append(self._entry(key, told, seconds))
            if len(entries) >= _GROUP:
                write()

        def write() -> None:
            self._journal.add(*entries)
            entries.clear()

        for file_id in (status.output_file_id, status.error_file_id):
            if file_id is not None:
                try:
                    self._api.lines(file_id, take)
                except NotFoundError as error:
                    self._give_up(error, f"file {file_id} of batch {status.id} is not there any more")
        if entries:
            write()
        left = [key for key in self._submissions.keys(submission) if key not in seen]
        if left and not self._retry_failed and (damaged or len(seen) < status.completed + status.failed):
            # What it has may be paid for: to fail these is to have them paid for once more.
            raise APIError(
                f"{provider}: the files of batch {status.id} are not whole: {len(left)} requests have no answer in "
                "them; retry_failed=True gives these up, and the run after it asks anew",
                provider=provider,
                retryable=True,
            )
        why = why_unanswered(status, provider=provider, secrets=secrets)
        for key in left:
            entries.append(self._entry(key, AnswerLine(key.hex(), None, why), seconds))
            if len(entries) >= _GROUP:
                write()
        if entries:
            write()
        self._submissions.ended(submission, status.status)

    def _entry(self, key: bytes, told: AnswerLine, seconds: float) -> Entry:
        """The row of an answer, or of what failed; of a request that this run has not been given, as it came."""
        item = self._spool.first(key)
        custom_id = None if item is None else item.custom_id
        request = None if item is None else _canonical(self._submitter.body(item.request))
        kept = None if request is None or len(request) > MAX_REQUEST else request.decode()
        error: Exception | None = told.error
        answer: Any = None
        if told.body is not None:
            try:
                answer = (
                    self._submitter.read(told.body, item.request, told.request_id)
                    if item is not None
                    else FileAnswer(
                        raw=decode_json(told.body),
                        provider=self._submitter.provider,
                        origin=self._submitter.server,
                    )
                )
            except Exception as unfit:
                error = unfit
        if error is not None:
            return failed(key, custom_id, kept, error, seconds)
        return answered(key, custom_id, kept, answer, seconds)

    def _tell_how_to_go_on(self, error: BaseException) -> None:
        """A note at an exception that ends the waiting: nothing is lost."""
        left = [waiting.batch_id for waiting in self._waiting.values()]
        if not left or not isinstance(error, (KeyboardInterrupt, Cancelled, APIError)):
            return
        if self._folder is None:
            go_on = f"the same line, with the journal {self._journal.path}, goes on waiting"
        else:
            go_on = "without journal= no later run will find them"
        note = (
            f"{len(left)} at {self._submitter.provider} ({', '.join(map(str, left[:3]))}{', ...' if left[3:] else ''})"
        )
        error.add_note(f"batches go on: {note}; {go_on}")


def _key_of(custom_id: str) -> bytes | None:
    try:
        key = bytes.fromhex(custom_id)
    except ValueError:
        return None
    return key if len(key) == 16 else None
