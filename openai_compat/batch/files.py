"""Files of requests: those of OpenAI's Batch API, and tables with a template.

A line of OpenAI's is ``{"custom_id", "method", "url", "body"}``, one of its answers ``{"id", "custom_id", "response":
{"status_code", "request_id", "body"}, "error"}``: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .._json import NotJSONError, decode_json, encode_reply
from ..errors import APIStatusError, ConfigurationError
from ..wire.embeddings import EmbeddingResponse, parse_embeddings_response
from ..wire.messages import Usage
from ..wire.parse import decode_body, parse_response
from ..wire.prices import Charge
from ..wire.response import CallInfo, ChatResponse, ReplyInfo
from ..wire.retry import Attempt
from .tables import parquet_schema, read_rows, reading_text, replacing, writing_rows

if TYPE_CHECKING:
    from .result import MapResult

Run = AbstractContextManager[Iterable[Any]]
"""What yields a ``MapResult`` for each request: a ``MapRun``, or a ``BatchRun``."""

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
ENDPOINTS = (CHAT, EMBEDDINGS)


@attrs.frozen(kw_only=True)
class FileRequest:
    """A line of a file of OpenAI's: ``body`` goes to ``url`` as it is, under the dialect of the server."""

    custom_id: str
    url: str
    body: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class FileAnswer:
    """The body of a reply as it came, and what a journal wants to know of it."""

    raw: Mapping[str, Any]
    model: str = ""
    provider: str = ""
    origin: str = ""
    text: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    request_id: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    charges: tuple[Charge, ...] = attrs.field(default=(), eq=False, repr=False)
    attempts: tuple[Attempt, ...] = attrs.field(default=(), eq=False)

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt; 0 where nothing was reported."""
        return (self.usage and self.usage.input_tokens) or 0

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer; 0 where nothing was reported."""
        return (self.usage and self.usage.output_tokens) or 0


def read_batch_file(path: Path) -> Iterator[FileRequest]:
    """The requests of a file of OpenAI's, one a line.

    Raises:
        ConfigurationError: a line is none, or has the id of an earlier one; the message says which line.
    """
    seen: set[str] = set()
    with reading_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            request = _batch_request(line, f"{path}:{number}")
            if request.custom_id in seen:
                raise ConfigurationError(f"{path}:{number}: custom_id {request.custom_id!r} has come before")
            seen.add(request.custom_id)
            yield request


def _batch_request(line: str, where: str) -> FileRequest:
    try:
        given = decode_json(line)
    except NotJSONError as error:
        raise ConfigurationError(f"{where}: no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigurationError(f"{where}: a request is a JSON object")
    custom_id, url, body = given.get("custom_id"), given.get("url"), given.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise ConfigurationError(f"{where}: no custom_id")
    if given.get("method", "POST") != "POST" or url not in ENDPOINTS:
        raise ConfigurationError(f"{where}: method must be POST and url one of {', '.join(ENDPOINTS)}, not {url!r}")
    if not isinstance(body, dict):
        raise ConfigurationError(f"{where}: no body")
    return FileRequest(custom_id=custom_id, url=url, body={name: body[name] for name in body if name != "stream"})


def read_answer(
    request: FileRequest, body: bytes | bytearray, *, call: CallInfo, reply: ReplyInfo, secrets: Iterable[str]
) -> FileAnswer:
    """The answer in the body of a reply.

    Raises:
        ResponseShapeError, ResponseParseError, APIStatusError: there is none.
    """
    several = isinstance(request.body.get("n"), int) and request.body["n"] > 1
    answer: ChatResponse | EmbeddingResponse
    if request.url == CHAT:
        answer = parse_response(body, call=call, several=several, reply=reply, secrets=secrets)
    else:
        inputs = request.body.get("input")
        count = len(inputs) if isinstance(inputs, list) and not all(isinstance(one, int) for one in inputs) else 1
        answer = parse_embeddings_response(body, call=call, count=count, reply=reply, secrets=secrets)
    return FileAnswer(
        raw=decode_body(body, provider=call.provider),
        model=answer.model,
        provider=call.provider,
        origin=call.origin,
        text=answer.text if isinstance(answer, ChatResponse) else "",
        finish_reason=answer.finish_reason if isinstance(answer, ChatResponse) else "",
        usage=answer.usage,
        request_id=reply.request_id,
        headers=answer.headers,
        charges=answer.charges,
    )


def batch_line(custom_id: str, answer: FileAnswer | None, error: Exception | None) -> bytes:
    """A line of the file of answers: an HTTP error is a response, anything else stands in ``error``."""
    response: dict[str, Any] | None = None
    told: dict[str, Any] | None = None
    if answer is not None:
        response = {"status_code": 200, "request_id": answer.request_id or "", "body": answer.raw}
    elif isinstance(error, APIStatusError):
        body = {"error": {"message": str(error), "type": error.type, "param": error.param, "code": error.code}}
        response = {"status_code": error.status_code, "request_id": error.request_id or "", "body": body}
    else:
        told = {"code": type(error).__name__, "message": str(error)}
    return encode_reply({"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": told})


@attrs.frozen(kw_only=True)
class Table:
    """Rows of a CSV, JSONL or Parquet file, and a prompt made of each by a template such as ``"Summarise: {text}"``.

    Args:
        columns: their names; of a JSONL file those of its first row.
        count: how many of the rows are asked: those where no column that the template names is null.
    """

    path: Path
    template: str
    columns: tuple[str, ...]
    count: int

    @classmethod
    def open(cls, path: Path, template: str) -> Table:
        """Look at every row.

        Raises:
            ConfigurationError: the file is of another kind, or the template does not fit a row.
        """
        columns: tuple[str, ...] | None = None
        count = 0
        for number, row in enumerate(read_rows(path), 1):
            columns = tuple(row) if columns is None else columns
            try:
                count += _prompt(template, row) is not None
            except (LookupError, ValueError, TypeError, AttributeError) as error:
                raise ConfigurationError(
                    f"the template does not fit the columns of {path} ({', '.join(row)}), in row {number}: {error}"
                ) from error
        if columns is None:
            raise ConfigurationError(f"{path} has no rows")
        return cls(path=path, template=template, columns=columns, count=count)

    def rows(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Each row as a dict, and what is asked of it: None for nothing."""
        return ((row, _prompt(self.template, row)) for row in read_rows(self.path))

    @contextlib.contextmanager
    def answering(self, output: Path) -> Iterator[Callable[[Mapping[str, Any], str | None, Exception | None], object]]:
        """Writes its rows, with the columns ``answer`` and ``error`` behind them, in the form of ``output``."""
        further = {"answer": "string", "error": "string"}
        columns = (*(name for name in self.columns if name not in further), *further)
        with writing_rows(output, columns, lambda: parquet_schema(self.path, further)) as write:

            def answer(row: Mapping[str, Any], text: str | None, error: Exception | None) -> None:
                told = None if error is None else f"{type(error).__name__}: {error}"
                write({**row, "answer": text and _whole_characters(text), "error": told and _whole_characters(told)})

            yield answer


class _Cells(Mapping[str, Any]):
    """A row, which remembers whether null was taken from it."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self.missing: bool = False

    def __getitem__(self, name: str) -> Any:
        value = self._row[name]
        self.missing = self.missing or value is None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def _prompt(template: str, row: Mapping[str, Any]) -> str | None:
    cells = _Cells(row)
    try:
        prompt = template.format_map(cells)
    except (TypeError, AttributeError):
        if cells.missing:
            return None
        raise
    return None if cells.missing else prompt


def _whole_characters(text: str) -> str:
    """A model may write half a character, which no file of text holds."""
    return text.encode("utf-8", "replace").decode()


@attrs.frozen(kw_only=True)
class FileSummary:
    """How many requests of a file were answered and failed; how many of both an earlier run had done."""

    answered: int = 0
    failed: int = 0
    from_journal: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Tally:
    """Adds up the results of a run."""

    def __init__(self) -> None:
        self.sums = {field.name: 0 for field in attrs.fields(FileSummary)}

    def add(self, result: MapResult[Any]) -> None:
        self.sums["answered" if result.ok else "failed"] += 1
        self.sums["from_journal"] += result.from_journal
        if result.response is not None:
            self.sums["input_tokens"] += result.response.input_tokens
            self.sums["output_tokens"] += result.response.output_tokens

    def summary(self) -> FileSummary:
        return FileSummary(**self.sums)


def journal_of(output: Path) -> Path:
    """Where the answers of a run are until its output is whole."""
    return output.with_name(f"{output.name}.journal")


def run_batch_file(source: Path, output: Path, run: Callable[..., Run]) -> FileSummary:
    """Run a file of OpenAI's; ``run`` begins to ask pairs of an id and a ``FileRequest``."""
    if output.exists() and output.samefile(source):
        raise ConfigurationError(f"{output} has the requests: the answers go into another file")
    total = sum(1 for _ in read_batch_file(source))  # and every line is looked at before the first is paid for
    tally = _Tally()
    with (
        replacing(output) as part,
        open(part, "w", encoding="utf-8", newline="") as file,
        run(((each.custom_id, each) for each in read_batch_file(source)), total) as results,
    ):
        for result in results:
            tally.add(result)
            file.write(batch_line(result.custom_id or "", result.response, result.error).decode() + "\n")
    return tally.summary()


def run_table(source: Path, output: Path, template: str, run: Callable[..., Run]) -> FileSummary:
    """Ask a prompt of each row; ``run`` begins to ask pairs of an id and a prompt, in order."""
    table = Table.open(source, template)
    prompts = ((str(number), prompt) for number, (_, prompt) in enumerate(table.rows()) if prompt is not None)
    tally = _Tally()
    with table.answering(output) as answer, run(prompts, table.count) as given:
        results = iter(given)
        # The rows are read once more: in memory none waits for its answer.
        for number, (row, prompt) in enumerate(table.rows()):
            if prompt is None:
                answer(row, None, None)
                continue
            result = next(results, None)
            if result is None or result.custom_id != str(number):
                raise ConfigurationError(f"{source} has changed while it was asked")
            tally.add(result)
            answer(row, result.text if result.ok else None, result.error)
    return tally.summary()
