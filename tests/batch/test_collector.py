"""No collections while a chunk is in its pickle or out of it; before and after, as the user has it."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from openai_compat.batch.chunks import Outcomes
from openai_compat.batch.collector import collector_paused

LIMIT = 10.0


@pytest.fixture(params=[True, False], ids=["on", "off"])
def on(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the collector is on; after the test it is."""
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


seen: list[bool] = []


class Watching:
    """Notes whether collections may begin while it is pickled, and while it is made again."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Watching)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> Any:
        seen.append(gc.isenabled())
        return {"a": 1}

    def __setstate__(self, state: Any) -> None:
        seen.append(gc.isenabled())


class Refusing:
    """Can be in no pickle, or not be read from one."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> Any:
        if self.when == "written":
            raise ValueError("not to be written")
        return {"when": self.when}

    def __setstate__(self, state: Any) -> None:
        raise ValueError("not to be read")


class RefusingError(Exception):
    def __reduce__(self) -> Any:
        raise ValueError("not to be written")


def test_nothing_is_collected_while_a_chunk_is_written_and_read(on: bool) -> None:
    seen.clear()
    outcomes = Outcomes({0: (Watching(), None, 0.5), 3: (None, ValueError("a"), 1.0)}, None)
    again = pickle.loads(pickle.dumps(outcomes))
    assert set(seen) == {False}
    assert len(seen) == 2
    assert gc.isenabled() is on
    assert (again.found[0], again.found[3][2], str(again.found[3][1])) == (outcomes.found[0], 1.0, "a")


def test_after_a_chunk_that_cannot_be_written_all_is_as_it_was(on: bool) -> None:
    again = pickle.loads(pickle.dumps(Outcomes({0: (Refusing("written"), None, 0.5), 1: (7, None, 0.5)}, None)))
    assert gc.isenabled() is on
    assert "not to be written" in str(again.found[0][1])
    assert again.found[1] == (7, None, 0.5)
    with pytest.raises(ValueError, match="not to be written"):
        pickle.dumps(Outcomes({}, RefusingError()))
    assert gc.isenabled() is on


def test_after_a_chunk_that_cannot_be_read_all_is_as_it_was(on: bool) -> None:
    data = pickle.dumps(Outcomes({0: (Refusing("read"), None, 0.5)}, None))
    with pytest.raises(ValueError, match="not to be read"):
        pickle.loads(data)
    assert gc.isenabled() is on


def test_of_several_threads_the_last_one_ends_the_pause(on: bool) -> None:
    paused, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        with collector_paused():
            paused.set()
            assert go_on.wait(LIMIT)

    thread = threading.Thread(target=pause)
    thread.start()
    assert paused.wait(LIMIT)
    with collector_paused():
        assert not gc.isenabled()
    assert not gc.isenabled()
    go_on.set()
    thread.join(LIMIT)
    assert gc.isenabled() is on


IN_FORK = """
import gc, os, signal, sys
from openai_compat.batch.collector import collector_paused

if "off" in sys.argv:
    gc.disable()
with collector_paused():
    child = os.fork()
    if not child:
        signal.alarm(30)  # for a child that waits for ever
        on = gc.isenabled()
        with collector_paused():
            paused = not gc.isenabled()
        os._exit(paused and gc.isenabled() is on is ("off" not in sys.argv))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, "the child"
assert gc.isenabled() is ("off" not in sys.argv), "the parent"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("state", ["on", "off"])
def test_a_child_that_is_forked_meanwhile_has_it_as_the_user_has(state: str) -> None:
    subprocess.run([sys.executable, "-c", IN_FORK, state], check=True, timeout=60)
