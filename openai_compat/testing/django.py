"""For Django's ``TestCase``: its connection, with the data of its transaction, in the threads that the library starts.

A ``TestCase`` runs in a transaction that is never committed, which other connections do not see. The library runs
tools, and calls in the background, in threads of its own, and these would open connections of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import _threads

__all__ = ["SharedConnection", "shared_connections"]


@contextlib.contextmanager
def shared_connections() -> Iterator[None]:
    """Meanwhile the threads of the library use this thread's connections.

    As with Django's own ``LiveServerTestCase``, queries of several threads go through one connection: savepoints of
    threads that run at the same time mix.
    """
    shared: dict[str, BaseDatabaseWrapper] = {alias: connections[alias] for alias in connections}
    original = _threads._run

    def run(function: Callable[..., object], args: tuple[Any, ...]) -> None:
        for alias, connection in shared.items():
            connections[alias] = connection

        def and_let_go() -> None:
            try:
                function(*args)
            finally:
                # Before the thread closes what it has: the connections are not its own.
                for alias in shared:
                    del connections[alias]

        original(and_let_go, ())

    for connection in shared.values():
        connection.inc_thread_sharing()
    _threads._run = run
    try:
        yield
    finally:
        _threads._run = original
        for connection in shared.values():
            connection.dec_thread_sharing()


class SharedConnection:
    """To put in front of ``TestCase``: ``class MyTest(SharedConnection, TestCase)``."""

    @classmethod
    def setUpClass(cls) -> None:
        """Share the connections until the class is done."""
        super().setUpClass()  # type: ignore[misc]
        cls.enterClassContext(shared_connections())  # type: ignore[attr-defined]
