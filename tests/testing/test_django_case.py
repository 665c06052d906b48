"""A ``TestCase`` of Django's, whose tools query the database in the library's threads."""

from __future__ import annotations

import os
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import django
import pytest

with mock.patch.dict(os.environ, {"DJANGO_SETTINGS_MODULE": "django_project.settings"}):
    django.setup()

from django.contrib.auth.models import User
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase
from django.test.utils import setup_test_environment, teardown_test_environment

import openai_compat.integrations.django  # noqa: F401 - its hook closes the connections of each thread
from openai_compat import _threads, tool
from openai_compat.testing import FakeServer, answer, tool_call
from openai_compat.testing.django import SharedConnection, shared_connections


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # In a file, where another connection sees only what has been committed.
    path: Path = tmp_path_factory.mktemp("django") / "test.sqlite3"
    named = connection.settings_dict["NAME"]
    BaseDatabaseWrapper.close(connection)  # Django itself never closes a connection to a database in memory.
    connection.settings_dict["TEST"]["NAME"] = str(path)
    setup_test_environment()
    connection.creation.create_test_db(verbosity=0)
    yield
    connection.creation.destroy_test_db(named, verbosity=0)
    connection.close()
    connection.settings_dict["TEST"]["NAME"] = None
    teardown_test_environment()


threads: set[int] = set()


@tool
def count_users() -> int:
    """How many users there are."""
    threads.add(threading.get_ident())
    return User.objects.count()


def cases() -> tuple[type[TestCase], type[TestCase]]:
    """A test that does not share its connection, and one that does; not in the module, where pytest would run them."""

    class WithoutSharing(TestCase):
        def test_tools_see_the_rows_of_the_test(self) -> None:
            User.objects.create(username="alice")
            calls = [tool_call("count_users"), tool_call("count_users")]
            with FakeServer(answer(tool_calls=calls), "done") as server, server.client() as client:
                client.run_tools("How many?", tools=[count_users])
                assert [message.content for message in server.requests[1].messages[-2:]] == ["1", "1"]
            User.objects.create(username="bob")  # the connection is still good
            assert User.objects.count() == 2

        def test_nothing_is_left_of_it(self) -> None:
            assert User.objects.count() == 0

    class Sharing(SharedConnection, WithoutSharing):
        pass

    return WithoutSharing, Sharing


def ran(case: type[TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    threads.clear()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun == 2
    assert threads - {threading.get_ident()}, f"no tool ran in another thread: {result.errors} {result.failures}"
    return result


def test_the_librarys_threads_share_the_connection_of_a_testcase() -> None:
    before = _threads._run
    result = ran(cases()[1])
    assert (result.errors, result.failures) == ([], [])
    assert _threads._run is before
    assert connection.connection is None or not connection.allow_thread_sharing


def test_without_it_they_do_not() -> None:
    result = ran(cases()[0])
    assert [name.id().rpartition(".")[2] for name, _ in result.failures + result.errors] == [
        "test_tools_see_the_rows_of_the_test"
    ]


def test_a_thread_gives_back_what_was_shared() -> None:
    used: list[object] = []
    with shared_connections():
        thread = _threads.spawn(lambda: used.append(connections["default"]), name="openai_compat test")
        thread.join(10)
    assert used == [connections["default"]]
    thread = _threads.spawn(lambda: used.append(connections["default"]), name="openai_compat test")
    thread.join(10)
    assert used[1] is not used[0]
