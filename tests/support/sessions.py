"""Sessions of a user's own, in tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import requests
from requests.adapters import HTTPAdapter


@contextlib.contextmanager
def own_session(pool_size: int = 10) -> Iterator[requests.Session]:
    """A session whose kept connections are closed at the end.

    ``Session.close`` forgets urllib3's pools, which close their connections only when nobody refers to them any more.
    """
    adapter = HTTPAdapter(pool_maxsize=pool_size)
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        yield session
        pools = adapter.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - not a dict
            pools[key].close()
