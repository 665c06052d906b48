"""Connections that wait for another call: how long, how many, and whose."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from openai_compat import Timeout
from openai_compat.timeouts import Deadline
from openai_compat.transport import pool as module
from openai_compat.transport.connection import Connection
from openai_compat.transport.lease import Lease
from openai_compat.transport.pool import Pool, _close_all


class Route:
    """Opens socket pairs."""

    def __init__(self) -> None:
        self.theirs: list[socket.socket] = []

    def connect(self, deadline: Deadline, opening: object) -> Connection:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.theirs.append(theirs)
        return Connection(ours)

    def open(self) -> list[bool]:
        """Which of the connections have not been closed."""
        return [_open(sock) for sock in self.theirs]


def _open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def route() -> Iterator[Route]:
    route = Route()
    yield route
    for sock in route.theirs:
        sock.close()


DEADLINE = Deadline(Timeout())


def pool_of(route: Route, *, size: int = 10, expiry: float | None = 60.0) -> Pool:
    return Pool(route, size=size, expiry=expiry)  # type: ignore[arg-type]


def taken(pool: Pool, count: int) -> list[Lease]:
    return [pool.lease(DEADLINE) for _ in range(count)]


def release(leases: list[Lease]) -> None:
    for lease in leases:
        lease.release()


class TestTaking:
    def test_what_was_given_back_is_taken_again(self, route: Route) -> None:
        pool = pool_of(route)
        first = pool.lease(DEADLINE)
        sock = first.sock
        first.release()
        second = pool.lease(DEADLINE)
        assert (first.reused, second.reused, second.sock is sock, len(route.theirs)) == (False, True, True, 1)
        second.close()
        assert route.open() == [False]
        pool.close()

    def test_the_one_used_last_is_taken_first(self, route: Route) -> None:
        pool = pool_of(route)
        leases = taken(pool, 3)
        socks = [lease.sock for lease in leases]
        release(leases)
        assert [lease.sock for lease in taken(pool, 3)] == socks[::-1]

    def test_a_fresh_one_leaves_the_kept_alone(self, route: Route) -> None:
        pool = pool_of(route)
        pool.lease(DEADLINE).release()
        fresh = pool.lease(DEADLINE, fresh=True)
        assert (fresh.reused, route.open()) == (False, [True, True])
        fresh.close()
        assert pool.lease(DEADLINE).reused

    def test_none_is_lent_twice(self, route: Route) -> None:
        pool = pool_of(route)
        release(taken(pool, 2))
        leases = taken(pool, 4)
        assert len({lease.sock for lease in leases}) == 4

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
    def test_one_that_is_not_quiet_is_closed(self, route: Route, said: bytes) -> None:
        pool = pool_of(route)
        release(taken(pool, 2))
        for sock in route.theirs:
            if said:
                sock.send(said)
            else:
                sock.shutdown(socket.SHUT_WR)
        lease = pool.lease(DEADLINE)
        assert (lease.reused, route.open()) == (False, [False, False, True])

    def test_one_that_cannot_be_opened_is_not_leased(self, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = pool_of(route)

        def refuse(deadline: Deadline, opening: object) -> Connection:
            raise ConnectionRefusedError

        monkeypatch.setattr(route, "connect", refuse)
        with pytest.raises(ConnectionRefusedError):
            pool.lease(DEADLINE)
        assert pool._leased == set()


class TestKeeping:
    @pytest.mark.parametrize(
        ("expiry", "idle", "kept"), [(60.0, 59.9, True), (60.0, 60.0, False), (0.5, 1.0, False), (None, 1e9, True)]
    )
    def test_for_how_long(self, route: Route, clock: Time, expiry: float | None, idle: float, kept: bool) -> None:
        pool = pool_of(route, expiry=expiry)
        pool.lease(DEADLINE).release()
        clock.now += idle
        lease = pool.lease(DEADLINE)
        assert (lease.reused, route.open()) == (kept, [True] if kept else [False, True])

    def test_each_use_begins_the_time_anew(self, route: Route, clock: Time) -> None:
        pool = pool_of(route)
        for _ in range(5):
            clock.now += 50
            pool.lease(DEADLINE).release()
        assert route.open() == [True]

    def test_what_is_not_needed_any_more_is_closed_while_others_are_in_use(self, route: Route, clock: Time) -> None:
        pool = pool_of(route)
        release(taken(pool, 3))
        for _ in range(4):
            clock.now += 20
            pool.lease(DEADLINE).release()
        assert route.open() == [False, False, True]

    @pytest.mark.parametrize("size", [0, 1, 2, 5])
    def test_how_many(self, route: Route, size: int) -> None:
        pool = pool_of(route, size=size)
        release(taken(pool, 3))
        assert route.open() == [True] * min(size, 3) + [False] * max(3 - size, 0)

    def test_not_what_is_ended_otherwise(self, route: Route) -> None:
        pool = pool_of(route)
        for lease in taken(pool, 2):
            lease.close()
        assert route.open() == [False, False]

    def test_not_what_is_dropped(self, route: Route) -> None:
        pool = pool_of(route)
        pool.lease(DEADLINE)
        gc.collect()
        assert (route.open(), pool._leased) == ([False], set())


class TestClosing:
    def test_closes_what_waits_and_what_is_given_back_later(self, route: Route) -> None:
        pool = pool_of(route)
        leases = taken(pool, 2)
        leases[0].release()
        pool.close()
        pool.close()
        assert route.open() == [False, True]
        leases[1].sock.send(b"still in use")
        assert route.theirs[1].recv(99) == b"still in use"
        leases[1].release()
        assert route.open() == [False, False]

    def test_while_one_is_given_back(self, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another thread closes the pool between the look at it and the keeping."""
        pool = pool_of(route)
        lease = pool.lease(DEADLINE)

        class Turning(Time):
            def monotonic(self) -> float:
                pool.close()
                return super().monotonic()

        monkeypatch.setattr(module, "time", Turning())
        lease.release()
        assert route.open() == [False]

    def test_dropping_the_pool_closes_what_waits(self, route: Route) -> None:
        pool = pool_of(route)
        release(taken(pool, 2))
        del pool
        gc.collect()
        assert route.open() == [False, False]

    def test_a_lease_keeps_its_pool_alive(self, route: Route) -> None:
        pool = pool_of(route)
        lease = pool.lease(DEADLINE)
        del pool
        gc.collect()
        assert route.open() == [True]
        lease.release()
        gc.collect()
        assert route.open() == [True]
        del lease
        gc.collect()
        assert route.open() == [False]

    def test_at_exit_while_other_threads_still_end_theirs(self) -> None:
        leased: set[Any] = set()

        class Ending:
            closed = 0

            def close(self) -> None:
                Ending.closed += 1
                leased.clear()  # what daemon threads do meanwhile

        leased.update(Ending() for _ in range(3))
        _close_all(leased)
        assert Ending.closed == 3


def test_a_forked_child_keeps_nothing_of_its_parent(route: Route) -> None:
    pool = pool_of(route)
    waiting, used = taken(pool, 2)
    waiting.release()
    child = os.fork()
    if not child:
        status = 1
        try:
            used.release()
            pool.close()
            status = len(pool._idle)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert route.open() == [True, True]
    used.release()
    pool.close()
    assert route.open() == [False, False]
