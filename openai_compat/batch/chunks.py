"""What an executor's processes do: ask a chunk of requests, with a client that each makes once and keeps."""

from __future__ import annotations

import os
import pickle
import threading
import uuid
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import attrs

from .._threads import spawn
from ..cancel import CancelToken
from ..errors import Cancelled, ConfigurationError, OpenAICompatError
from .ask import Outcome
from .collector import collector_paused

KEPT = 8
"""Runs whose client a process keeps: a worker of a cluster lives longer than they do."""


class Work:
    """What a process needs in order to ask; unpickled once in each, however often it is sent.

    Args:
        ask: what can be pickled: of a request and a token that ends it, to its ``Outcome``.
        workers: calls under way at a time in each process.
    """

    def __init__(self, ask: Callable[..., Any], workers: int) -> None:
        self.ask: Callable[..., Any] = ask
        self.workers: int = workers
        self.token: CancelToken = CancelToken()
        self.free: threading.Semaphore = threading.Semaphore(workers)
        self._name = uuid.uuid4().bytes
        self._pickle: bytes | None = None

    def pickled(self) -> bytes:
        """Of what makes the same again.

        Raises:
            ConfigurationError: the client has a key that may not be in a pickle, or a tool cannot be in one.
        """
        if self._pickle is None:
            try:
                self._pickle = dumps((self.ask, self.workers))
            except ConfigurationError:
                raise
            except Exception as error:
                raise ConfigurationError(f"this client or its tools cannot go to another process: {error}") from error
        return self._pickle

    def __reduce__(self) -> tuple[Any, ...]:
        return _work, (self._name, self.pickled())


_works: dict[tuple[int, bytes], Work] = {}
_restoring = threading.Lock()


def _work(name: bytes, data: bytes) -> Work:
    """The work of this name in this process; a fork is another one."""
    key = os.getpid(), name
    with _restoring:
        known = _works.pop(key, None) or Work(*pickle.loads(data))
        _works[key] = known  # as the last one used
        while len(_works) > KEPT:
            del _works[next(iter(_works))]
    return known


def dumps(value: object) -> bytes:
    """A pickle; by cloudpickle, where it is installed, for what stands in a program or a notebook cell."""
    try:
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if b"__main__" not in data:
            return data
    except ConfigurationError:
        raise
    except Exception as error:
        return _by_value(value, error)
    return _by_value(value, None) or data


def _by_value(value: object, error: Exception | None) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        if error is not None:
            raise error from None
        return b""
    data: bytes = cloudpickle.dumps(value)
    return data


@attrs.frozen
class Outcomes:
    """What came of a chunk, by the place in it; what was not asked is missing. Pickled as one."""

    found: dict[int, Outcome]
    failure: Exception | None = None
    """What ends the run."""

    def __reduce__(self) -> tuple[Any, ...]:
        with collector_paused():
            try:
                data = dumps((self.found, self.failure))
            except Exception:
                data = dumps(({place: _portable(came) for place, came in self.found.items()}, self.failure))
        return _outcomes, (data,)


def _outcomes(data: bytes) -> Outcomes:
    with collector_paused():
        return Outcomes(*pickle.loads(data))


def _portable(came: Outcome) -> Outcome:
    try:
        dumps(came)
    except Exception as error:
        what = came[0] if came[1] is None else came[1]
        told = OpenAICompatError(f"a {type(what).__name__} cannot leave the process that it came to: {error}")
        return None, told, came[2]
    return came


def ask_chunk(work: Work, requests: Sequence[Any]) -> Outcomes:
    """Ask some requests, wherever this runs: ``work.workers`` at a time, with all other chunks of this process."""
    token = CancelToken()
    work.token.subscribe(token.cancel)
    places = iter(range(len(requests)))
    came: SimpleQueue[tuple[int, Outcome] | Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            for place in places:
                with work.free:
                    token.raise_if_cancelled()
                    came.put((place, work.ask(requests[place], token)))
        except Cancelled:
            pass
        except Exception as error:
            token.cancel()
            came.put(error)
        finally:
            came.put(None)

    found: dict[int, Outcome] = {}
    failure: Exception | None = None
    left = min(work.workers, len(requests))
    for _ in range(left):
        spawn(ask, name="openai_compat chunk")
    while left:
        try:
            one = came.get()
        except KeyboardInterrupt:
            # The driver has one as well; what is finished is still worth having there.
            token.cancel()
            continue
        if one is None:
            left -= 1
        elif isinstance(one, Exception):
            failure = failure or one
        else:
            found[one[0]] = one[1]
    work.token.unsubscribe(token.cancel)
    return Outcomes(found, failure)
