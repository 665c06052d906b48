"""Standing between ``requests`` and the network, as a mock does.

The library sees that its sessions' adapters are asked for through something else, and sends its calls that way; base
URL, dialect and provider stay those of the real server.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter

Send = Callable[[BaseAdapter, requests.PreparedRequest, Mapping[str, Any]], requests.Response]
"""Answers a request, by the adapter that would have sent it, with its options, or otherwise."""

_patching = threading.Lock()


@contextlib.contextmanager
def standing_between(concerns: Callable[[str], bool], send: Send) -> Iterator[None]:
    """Meanwhile ``send`` answers the requests to URLs that it concerns, of all sessions."""
    with _patching:
        original = requests.Session.get_adapter

        def get_adapter(session: requests.Session, url: str) -> BaseAdapter:
            adapter = original(session, url)
            return _Between(adapter, send) if concerns(url) else adapter

        requests.Session.get_adapter = get_adapter  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        with _patching:
            requests.Session.get_adapter = original  # type: ignore[method-assign]


class _Between(BaseAdapter):
    def __init__(self, adapter: BaseAdapter, send: Send) -> None:
        self._adapter = adapter
        self._send = send

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return self._send(self._adapter, request, options)

    def close(self) -> None:
        self._adapter.close()
