"""Progress: what the bars and lines say."""

from __future__ import annotations

import gc
import io
import logging
import sys
from typing import Any

import pytest
from support.replay import ReplayServer
from support.wire_bodies import chat_reply, error_reply

from openai_compat import AuthenticationError, Client, ConfigurationError, Price
from openai_compat.batch.progress import Lines, progress_bar

ENDS = (", 6.0 a minute, 5 tokens, 20:00:00 left", " in 0:10, 6.0 a minute, 5 tokens")
NEVER = (", 0.0 a minute, 5 tokens, unknown time left", " in 0:10, 0.0 a minute, 5 tokens")


class Bar:
    """In tqdm's shape."""

    def __init__(self, total: int | None = None) -> None:
        self.total, self.done, self.closed, self.words = total, 0, 0, [""]

    def update(self, n: int = 1) -> None:
        self.done += n

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        self.words.append(s)

    def close(self) -> None:
        self.closed += 1


def test_a_bar_is_told_of_each_result_and_of_the_end() -> None:
    bar = Bar()
    with ReplayServer([chat_reply(), error_reply(400), chat_reply()]) as server:
        assert len(list(Client(server.url, model="m").map(["a", "b", "c"], workers=1, progress=bar))) == 3
    assert (bar.done, bar.closed, bar.words[-1]) == (3, 1, "10 tokens, 1 failed")


def test_a_bar_is_closed_where_the_run_is_left() -> None:
    bar = Bar()
    with ReplayServer([chat_reply()]) as server, Client(server.url, model="m") as client:
        with client.map(["a"] * 50, workers=1, progress=bar) as run:
            next(run)
    assert 1 <= bar.done <= 3  # with what came before the run was left
    assert bar.closed == 1


@pytest.mark.parametrize("wanted", [Bar, lambda total: Bar(total)])
def test_a_bar_may_be_made_for_the_run(wanted: Any) -> None:
    progress = progress_bar(wanted, 7)
    assert progress is not None
    assert progress._bar.total == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(("million", "shown"), [(1_000, "$0.0100"), (1_000_000, "$10.00"), (None, "")])
def test_dollars_are_shown_where_they_are_known(million: float | None, shown: str) -> None:
    bar, prices = Bar(), None if million is None else Price(input=million, output=million)
    with ReplayServer([chat_reply(), error_reply(400), chat_reply()]) as server:
        client = Client(server.url, model="m", prices=prices)
        list(client.map(["a", "b", "c"], workers=1, progress=bar))
    assert bar.words[-1] == ", ".join(filter(None, ["10 tokens", shown, "1 failed"]))


def test_what_the_journal_had_costs_no_tokens(tmp_path: Any) -> None:
    bar = Bar()
    with ReplayServer([chat_reply()]) as server, Client(server.url, model="m") as client:
        list(client.map(["a", "b"], journal=tmp_path / "j.db"))
        list(client.map(["a", "b", "c"], journal=tmp_path / "j.db", progress=bar, ordered=True))
    assert bar.words[-1] == "5 tokens, 2 from the journal"


def test_what_the_journal_had_is_no_part_of_the_rate(tmp_path: Any) -> None:
    bar = Bar()
    bar.initial = 0  # type: ignore[attr-defined]
    with ReplayServer([chat_reply()]) as server, Client(server.url, model="m") as client:
        list(client.map(["a", "b"], journal=tmp_path / "j.db"))
        list(client.map(["a", "b", "c"], journal=tmp_path / "j.db", progress=bar))
    assert (bar.done, bar.initial) == (3, 2)  # type: ignore[attr-defined]


def test_a_bar_is_closed_once_where_the_run_fails() -> None:
    bar = Bar()
    with ReplayServer([error_reply(401)]) as server, Client(server.url, model="m") as client:
        run = client.map(["a", "b"], workers=1, progress=bar)
        with pytest.raises(AuthenticationError):
            next(run)
        closed = bar.closed
        run.close()
    assert (closed, bar.closed) == (1, 1)


def lines_of(total: int | None, *moments: float, skipped: int = 0) -> list[str]:
    """What is written where a request is done at each of these seconds."""
    written: list[str] = []
    now = 0.0
    lines = Lines(total, written.append, every=10.0, clock=lambda: now)
    lines.initial = skipped
    for moment in moments:
        now = moment
        lines.set_postfix_str("5 tokens", False)
        lines.update(1)
    lines.close()
    return written


@pytest.mark.parametrize(
    ("total", "moments", "skipped", "lines"),
    [
        (3, (1.0, 1.5, 2.0), 0, ["3/3 requests in 0:02, 1.5 a second, 5 tokens"]),
        (
            4,
            (5.0, 10.0),
            0,
            ["2/4 requests, 12.0 a minute, 5 tokens, 0:10 left", "2/4 requests in 0:10, 12.0 a minute, 5 tokens"],
        ),
        (None, (20.0,), 0, [f"1 requests{took}, 3.0 a minute, 5 tokens" for took in ("", " in 0:20")]),
        (7201, (10.0,), 0, [f"1/7201 requests{end}" for end in ENDS]),
        (1, (1.0, 2.0), 0, ["2 requests in 0:02, 1.0 a second, 5 tokens"]),
        (4, (0.0, 0.0, 10.0), 2, [f"3/4 requests{end}".replace("20:00:00", "0:10") for end in ENDS]),
        (2, (10.0,), 1, [f"1/2 requests{end}" for end in NEVER]),
    ],
)
def test_lines(total: int | None, moments: tuple[float, ...], skipped: int, lines: list[str]) -> None:
    assert lines_of(total, *moments, skipped=skipped) == lines


def test_lines_go_to_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("mine")
    with caplog.at_level(logging.INFO, "mine"), ReplayServer([chat_reply()]) as server:
        list(Client(server.url, model="m").map(["a"], progress=log))
    assert [record.getMessage().split(" in ")[0] for record in caplog.records if record.name == "mine"] == [
        "1/1 requests"
    ]


def test_true_is_lines_where_nothing_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with ReplayServer([chat_reply()]) as server:
        list(Client(server.url, model="m").map(["a"], progress=True))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("1/1 requests in ")


def test_lines_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with ReplayServer([chat_reply()]) as server:
        assert len(list(Client(server.url, model="m").map(["a"], progress=True))) == 1


@pytest.mark.parametrize("name", ["tqdm", "rich"])
def test_the_well_known_bars(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    with ReplayServer([chat_reply()]) as server:
        list(Client(server.url, model="m").map(["a", "b"], progress=name))
    told = capsys.readouterr()
    assert "2/2" in told.out + told.err
    assert "10 tokens" in told.out + told.err


def test_a_bar_of_rich_gives_the_cursor_back_where_its_run_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    console = pytest.importorskip("rich", reason="rich is not installed").get_console()
    shown: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "show_cursor", lambda show=True: shown.append(show))
        progress = progress_bar("rich", 2)
        del progress
        gc.collect()
    assert shown == [False, True]


def test_a_bar_of_rich_beside_something_else_that_rich_draws(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    first, second = progress_bar("rich", 2), progress_bar("rich", 2)
    for progress in (second, first):
        assert progress is not None
        progress.close()


def test_a_notebook_without_widgets_has_a_bar_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "ipywidgets", raising=False)
    progress = progress_bar("tqdm", 1)
    assert progress is not None
    assert type(progress._bar) is tqdm.tqdm
    progress.close()


def test_a_bar_of_tqdm_is_drawn_as_soon_as_a_run_goes_on(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    prompts = [str(number) for number in range(300)]
    with ReplayServer([chat_reply()]) as server, Client(server.url, model="m") as client:
        list(client.map(prompts[:-1], journal=tmp_path / "j.db"))
        with client.map(prompts, journal=tmp_path / "j.db", progress="tqdm") as run:
            assert len(list(run)) == 300
            bar = run._progress._bar  # type: ignore[union-attr]
    assert (bar.n, bar.initial, bar.miniters) == (300, 299, 1)  # type: ignore[attr-defined]
    assert bar.format_dict["rate"] is None, "no rate but that of what was asked"  # type: ignore[attr-defined]


def test_a_bar_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match="pip install tqdm"):
        progress_bar("tqdm", 1)


def test_true_draws_in_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pytest.importorskip("tqdm")
    progress = progress_bar(True, 1, Terminal())
    assert progress is not None
    assert not isinstance(progress._bar, Lines)
    progress.close()
