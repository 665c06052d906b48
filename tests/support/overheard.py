"""What the whole suite logs, prints, raises and stores, looked through for the keys that it uses.

A plugin of pytest's; with pytest-xdist each worker has its own. A key is what a client was given as one, if it is long
enough to be no word. When a test is over, what was said and stored meanwhile is looked through, and a test in which a
key is found has an error.
"""

from __future__ import annotations

import base64
import gc
import logging
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openai_compat.credentials import Secrets
from openai_compat.errors import OpenAICompatError

SHORTEST, FEWEST = 12, 5
"""Characters of a key, and different ones, that no other text holds by chance."""
WRITTEN_BY_TESTS = {".py", ".ipynb", ".env", ".toml", ".ini", ".cfg", "netrc", ".hypothesis", "__pycache__"}
"""What tests write themselves, with keys in it: scripts, notebooks, settings, logins, what is made of their source."""
AT_ONCE = 500
"""Texts that are kept until they are looked through, so that a long test's need little memory."""


class Overheard(logging.Handler):
    """Keeps what was said in the test under way, and where a key was found in it.

    It is told from any thread, and by the garbage collector amid anything else: hence no lock.
    """

    def __init__(self) -> None:
        super().__init__(level=0)
        self.keys: set[str] = set()
        self._spellings: dict[str, None] = {}
        self._said: list[tuple[str, str]] = []
        self._found: list[str] = []
        self._folders: list[Path] = []

    def learn(self, keys: Iterable[str]) -> None:
        """Look for these keys from now on, in Base64 too."""
        for key in {str(key) for key in keys if len(key) >= SHORTEST and len(set(key)) >= FEWEST} - self.keys:
            self._spellings.update(dict.fromkeys([key, *_in_base64(key.encode())]))
            self.keys.add(key)

    def say(self, how: str, text: str) -> None:
        """Take note of a text."""
        self._said.append((how, text))
        if len(self._said) > AT_ONCE:
            self._look_through()

    def emit(self, record: logging.LogRecord) -> None:
        self.say("logged", f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")

    def found(self) -> list[str]:
        """Where keys were, in all that was said and stored since this was last asked."""
        folders, self._folders = self._folders, []
        for path in (path for folder in folders for path in folder.rglob("*")):
            if path.is_file() and not {path.suffix, *path.parts} & WRITTEN_BY_TESTS:
                self.say("stored", f"{path.name}: {path.read_bytes().decode('latin-1')}")
        self._look_through()
        found, self._found = self._found, []
        return found

    def _look_through(self) -> None:
        said, self._said = self._said, []
        for how, text in dict.fromkeys(said):
            self._found += [f"{how}: {_around(text, key)}" for key in tuple(self._spellings) if key in text]

    # What pytest calls.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "teardown":
            for _, text in report.sections:
                self.say("printed", text)
            own = item.get_closest_marker("own_exception") is not None
            if own:
                gc.collect()
            if (found := self.found()) and not own:
                report.outcome = "failed"
                before = [str(report.longrepr)] if report.longrepr else []
                report.longrepr = "\n".join([*before, "a key was found in what was", *found])
        return report

    def pytest_sessionstart(self) -> None:
        logging.getLogger().addHandler(self)
        _after(Secrets, "keep", lambda secrets, _: self.learn(secrets()))
        _after(Secrets, "keep_a_while", lambda secrets, _: self.learn(secrets()))
        _after(pytest.CaptureFixture, "readouterr", lambda _, told: self.say("printed", f"{told.out}{told.err}"))
        _after(subprocess.Popen, "communicate", lambda _, told: self.say("printed", str(told)))
        _after(pytest.TempPathFactory, "mktemp", lambda _, folder: self._folders.append(folder))
        # When it is gone: to hold it for longer would keep streams and their connections alive.
        OpenAICompatError.__del__ = lambda error: self.say("raised", "\n".join(_told(error)))  # type: ignore[attr-defined]


def _in_base64(key: bytes) -> Iterator[str]:
    """What Base64 makes of a key at any place, without the letters that also hold bits of what is around it."""
    for before, mixed in enumerate((0, 2, 3)):
        yield base64.b64encode(bytes(before) + key).decode().rstrip("=")[mixed:-1]


def _around(text: str, key: str) -> str:
    at = text.index(key)
    return repr(text[max(0, at - 60) : at + len(key) + 20])


def _told(error: BaseException | None, depth: int = 0) -> Iterator[str]:
    """All that an exception says: of itself, and of those that led to it."""
    if error is None or depth > 5:
        return
    yield f"{error!r} {error} {vars(error) if isinstance(error, OpenAICompatError) else error.args!r}"
    yield from _told(error.__cause__, depth + 1)
    if error.__context__ is not error.__cause__:
        yield from _told(error.__context__, depth + 1)


def _after(owner: Any, name: str, listen: Callable[[Any, Any], None]) -> None:
    """Let ``listen`` hear of each call of a method, and of what it returned."""
    method = getattr(owner, name)

    def heard(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        listen(self, result)
        return result

    setattr(owner, name, heard)
