"""How far a run is: as a bar of tqdm's or rich's, or as lines in a log."""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ..errors import ConfigurationError
from ..wire.prices import known_cost

if TYPE_CHECKING:
    from .result import EmbeddingResult, MapResult

LINE_EVERY = 10.0
"""Seconds between the lines that stand for a bar where nothing can be drawn."""


class Bar(Protocol):
    """What is asked of a bar: what tqdm's have."""

    def update(self, n: int = ..., /) -> object:
        """So many more are done."""

    def set_postfix_str(self, s: str = ..., refresh: bool = ..., /) -> object:
        """What is shown behind the bar."""

    def close(self) -> object:
        """The run has ended."""


class Progress:
    """Counts the results of a run, and shows the sums on a bar.

    Args:
        bar: tqdm's, or one of its shape.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tokens = 0
        self._dollars: float | None = None
        self._failed = 0
        self._skipped = 0
        self._closed = False

    def add(self, result: MapResult[Any] | EmbeddingResult) -> None:
        """One more result."""
        if not result.from_journal:
            self._tokens += result.tokens
            cost = known_cost(result.charges)
            self._dollars = self._dollars if cost is None else cost + (self._dollars or 0.0)
        self._failed += result.error is not None
        self._skipped += result.from_journal
        self._bar.set_postfix_str(self.summary(), False)
        if result.from_journal and isinstance(was_there := getattr(self._bar, "initial", None), int):
            # As tqdm calls what is no part of the rate.
            self._bar.initial = was_there + 1  # type: ignore[attr-defined]
        self._bar.update(1)

    def summary(self) -> str:
        """Tokens, dollars as far as they are known, failures and what an earlier run had done, in a few words."""
        parts = [f"{_short(self._tokens)} tokens"]
        if self._dollars is not None:
            parts.append(f"${self._dollars:.4f}" if self._dollars < 1 else f"${self._dollars:,.2f}")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._skipped:
            parts.append(f"{self._skipped} from the journal")
        return ", ".join(parts)

    def close(self) -> None:
        """The run has ended."""
        if not self._closed:
            self._closed = True
            self._bar.close()


def _short(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000 or unit == "G":
            break
        number /= 1000
    return f"{number:.3g}{unit}" if unit else f"{number:.0f}"


class Lines:
    """A bar as lines: one every ten seconds and one at the end.

    Args:
        write: called with each line. None: the standard error stream.
        clock: seconds.

    ``initial`` is how many of those that are done are no part of the rate.
    """

    def __init__(
        self,
        total: int | None,
        write: Callable[[str], object] | None = None,
        *,
        every: float = LINE_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.initial = 0
        self._total, self._write, self._every, self._clock = total, write or _to_stderr, every, clock
        self._started = self._told = clock()
        self._done = 0
        self._postfix = ""

    def update(self, n: int = 1, /) -> None:
        """So many more are done."""
        self._done += n
        if self._clock() - self._told >= self._every:
            self._tell("")

    def set_postfix_str(self, s: str = "", refresh: bool = False, /) -> None:
        """What stands at the end of a line."""
        self._postfix = s

    def close(self) -> None:
        """The last line, which also says how long it took."""
        self._tell(f" in {_time(self._clock() - self._started)}")

    def _tell(self, took: str) -> None:
        self._told = self._clock()
        seconds = self._told - self._started
        rate = (self._done - self.initial) / seconds if seconds > 0 else 0.0
        known = self._total is not None and self._total >= self._done
        parts = [f"{self._done}/{self._total}" if known else f"{self._done}"]
        parts[0] += f" requests{took}"
        parts.append(f"{rate:.1f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute")
        if self._postfix:
            parts.append(self._postfix)
        if known and self._done != self._total and not took:
            left = ((self._total or 0) - self._done) / rate if rate > 0 else None
            parts.append(f"{'unknown time' if left is None else _time(left)} left")
        self._write(", ".join(parts))


def _time(of: float) -> str:
    minutes, seconds = divmod(round(of), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class _Rich:
    """A bar of rich's, in tqdm's shape."""

    def __init__(self, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        self._task = self._progress.add_task("requests", total=total, words=_Words(self._progress))
        self._progress.start()
        # It hides the cursor: whoever ends before the run does would leave the terminal so.
        self._stop = weakref.finalize(self, self._progress.stop)

    def update(self, n: int = 1, /) -> None:
        self._progress.advance(self._task, n)

    def set_postfix_str(self, s: str = "", refresh: bool = False, /) -> None:
        self._progress.tasks[0].fields["words"].postfix = s

    def close(self) -> None:
        self._stop()


class _Words:
    """Rate and postfix of a bar of rich's, put together when that is drawn and not for each request."""

    def __init__(self, progress: Any) -> None:
        self._progress = weakref.ref(progress)
        self.postfix = ""

    def __str__(self) -> str:
        progress = self._progress()
        speed = (progress.tasks[0].finished_speed or progress.tasks[0].speed) if progress is not None else None
        return ", ".join(filter(None, [f"{speed:.1f}/s" if speed else "", self.postfix]))


def progress_bar(wanted: Any, total: int | None, stream: TextIO | None = None) -> Progress | None:
    """The bar that ``map(progress=...)`` asks for.

    Args:
        wanted: None and False: none; True: tqdm's where that is installed and something can be drawn, else lines;
            ``"tqdm"``, ``"rich"``, ``"lines"``; a ``logging.Logger``, for lines at level INFO; a bar of tqdm's shape;
            or a function that makes one, called with ``total=``.
        total: how many requests there are; None where that is not known.

    Raises:
        ConfigurationError: it is none of these, or not installed.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True:
        wanted = "tqdm" if _draws(stream or sys.stderr) and _installed("tqdm") else "lines"
    if wanted == "lines":
        return Progress(Lines(total))
    if isinstance(wanted, logging.Logger):
        return Progress(Lines(total, wanted.info))
    try:
        if wanted == "tqdm":
            # The rate is that of the whole run, and each moment is looked at: what a journal has comes so fast that a
            # bar would wait for as much again before it is drawn anew.
            return Progress(_tqdm()(total=total, unit="req", dynamic_ncols=True, smoothing=0, miniters=1))
        if wanted == "rich":
            return Progress(_rich_or_lines(total))
    except ImportError as error:
        raise ConfigurationError(f"progress={wanted!r} needs {wanted}: pip install {wanted}") from error
    if all(callable(getattr(wanted, name, None)) for name in ("update", "set_postfix_str", "close")):
        return Progress(wanted) if not isinstance(wanted, type) else Progress(wanted(total=total))
    if callable(wanted):
        return Progress(wanted(total=total))
    raise ConfigurationError(f"progress must be True, 'tqdm', 'rich', 'lines', a logger or a bar, not {wanted!r}")


def _tqdm() -> Any:
    """The bar that fits to where this runs; as text in a notebook without widgets, where tqdm would warn first."""
    if _installed("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def _rich_or_lines(total: int | None) -> Bar:
    """A bar of rich's; lines where its earlier versions draw something else, beside which they draw nothing."""
    from rich.errors import LiveError

    try:
        return _Rich(total)
    except LiveError:
        return Lines(total)


def _draws(stream: TextIO | None) -> bool:
    """Whether a bar can be drawn: in a terminal or a notebook."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
        return True
    try:
        return stream is not None and stream.isatty()
    except (ValueError, AttributeError):
        return False


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return name in sys.modules or find_spec(name) is not None
