"""What a probe has found, as a value: a table, JSON, Markdown, and a dialect for later clients."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import msgspec

from .._terminal import one_line
from ..errors import ConfigurationError
from ..wire.dialect import Dialect
from .saved import VERSION, dialect_fields

if TYPE_CHECKING:
    from rich.table import Table

Finding = Literal["yes", "no", "ignored", "unclear", "failed", "skipped"]

MEANING: dict[str, str] = {
    "yes": "it does",
    "no": "refused",
    "ignored": "taken, without effect",
    "unclear": "taken; this model's answer does not show it",
    "failed": "no answer, or an error of the server's",
    "skipped": "not asked",
}
_COLOURS = {"yes": "green", "no": "red", "ignored": "red", "unclear": "yellow", "failed": "red", "skipped": "dim"}


@attrs.frozen
class ProbeRow:
    """One thing that a server may be able to do.

    ``finding`` is ``"yes"``, ``"no"`` (refused), ``"ignored"`` (taken, without effect), ``"unclear"`` (taken; the
    model's answer does not show it), ``"failed"`` or ``"skipped"``; ``detail`` says how, or why not.
    """

    name: str
    finding: Finding
    detail: str = ""
    group: str = ""


@attrs.frozen(kw_only=True)
class Probe:
    """What a server can do, as far as its answers showed.

    ``server`` is what it says of itself. ``dialect`` is how it is best asked. ``requests``, ``input_tokens`` and
    ``output_tokens`` are what the probe took; ``interrupted`` means that Ctrl-C ended it early.
    """

    base_url: str
    provider: str
    model: str
    embedding_model: str = ""
    server: str = ""
    rows: tuple[ProbeRow, ...] = ()
    dialect: Dialect = attrs.field(factory=Dialect, repr=False)
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def __getitem__(self, name: str) -> ProbeRow:
        """The row of this name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def supports(self, name: str) -> bool:
        """Whether the finding of this name is ``"yes"``."""
        return any(row.name == name and row.finding == "yes" for row in self.rows)

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these names whose finding is not ``"yes"``."""
        return tuple(name for name in names if not self.supports(name))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "version": VERSION,
            "base_url": self.base_url,
            "provider": self.provider,
            "model": self.model,
            "embedding_model": self.embedding_model,
            "server": self.server,
            "interrupted": self.interrupted,
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "seconds": round(self.seconds, 1),
            "features": {row.name: {"finding": row.finding, "detail": row.detail} for row in self.rows},
            "dialect": dialect_fields(self.dialect),
        }

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=2).decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json`` to a file, which ``Client(dialect=path)`` takes.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            Path(path).write_text(f"{self.to_json()}\n", encoding="utf-8")
        except OSError as error:
            where = os.fspath(path)
            raise ConfigurationError(f"cannot write {where!r}: {error.strerror or error}") from error

    def to_markdown(self) -> str:
        """A table in Markdown."""
        lines = ["| Feature | Finding | Detail |", "|---|---|---|"]
        lines += [f"| `{row.name}` | {row.finding} | {_cell(row.detail)} |" for row in self.rows]
        return "\n".join([f"{_cell(self.title)}. {_cell(self.spent)}.", "", *lines])

    @property
    def title(self) -> str:
        """Which server and which models."""
        models = " and ".join(dict.fromkeys(filter(None, (self.model, self.embedding_model))))
        said = f" ({self.server})" if self.server else ""
        return one_line(f"{self.provider} at {self.base_url}{said}" + (f", model {models}" if models else ""))

    @property
    def spent(self) -> str:
        """What the probe took."""
        told = (
            f"{self.requests} requests, {self.input_tokens} tokens in, {self.output_tokens} out, {self.seconds:.0f} s"
        )
        return f"{told}, interrupted" if self.interrupted else told

    def __str__(self) -> str:
        widths = [max([len(getattr(row, name)) for row in self.rows] or [0]) for name in ("name", "finding")]
        lines = [f"{row.name:{widths[0]}}  {row.finding:{widths[1]}}  {row.detail}".rstrip() for row in self.rows]
        return "\n".join([self.title, "", *lines, "", self.spent])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), caption=Text(self.spent))
        for heading in ("Feature", "Finding", "Detail"):
            table.add_column(heading, no_wrap=heading != "Detail")
        for before, row in zip((None, *self.rows), self.rows, strict=False):
            if before is not None and before.group != row.group:
                table.add_section()
            table.add_row(row.name, Text(row.finding, style=_COLOURS[row.finding]), Text(row.detail))
        return table


def _cell(text: str) -> str:
    """What others wrote, in a cell of a table."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#~$" else character for character in text)
    return " ".join(escaped.split())
