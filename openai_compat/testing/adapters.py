"""Standing between ``requests`` and the network, as a mock does.

The library sees that its sessions' adapters are asked for through something else, and sends its calls that way; base
URL, dialect and provider stay those of the real server.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import requests
from requests.adapters import BaseAdapter

Send = Callable[[BaseAdapter, requests.PreparedRequest, Mapping[str, Any]], requests.Response]
"""Answers a request, by the adapter that would have sent it, with its options, or otherwise."""

_patching = threading.Lock()


class _Stand(NamedTuple):
    concerns: Callable[[str], bool]
    send: Send


class _Patch:
    """One patch of ``requests.Session.get_adapter`` for all that stand there, who may leave in any order."""

    current: ClassVar[_Patch | None] = None

    def __init__(self) -> None:
        self.stands: list[_Stand] = []
        self._original = original = requests.Session.get_adapter

        def get_adapter(session: requests.Session, url: str) -> BaseAdapter:
            adapter = original(session, url)
            for stand in tuple(self.stands):  # the last who came has the first say
                if stand.concerns(url):
                    adapter = _Between(adapter, stand.send)
            return adapter

        self._patched = get_adapter
        requests.Session.get_adapter = get_adapter  # type: ignore[method-assign, assignment]

    @property
    def on_top(self) -> bool:
        """Whether nobody else has patched it since."""
        return requests.Session.get_adapter is self._patched

    def undo(self) -> None:
        requests.Session.get_adapter = self._original  # type: ignore[method-assign]


@contextlib.contextmanager
def standing_between(concerns: Callable[[str], bool], send: Send) -> Iterator[None]:
    """Meanwhile ``send`` answers the requests to URLs that it concerns, of all sessions."""
    stand = _Stand(concerns, send)
    with _patching:
        patch = _Patch.current
        if patch is None or not patch.on_top:
            patch = _Patch.current = _Patch()
        patch.stands.append(stand)
    try:
        yield
    finally:
        with _patching:
            patch.stands.remove(stand)
            if not patch.stands and patch.on_top:
                patch.undo()


class _Between(BaseAdapter):
    def __init__(self, adapter: BaseAdapter, send: Send) -> None:
        self._adapter = adapter
        self._send = send

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return self._send(self._adapter, request, options)

    def close(self) -> None:
        self._adapter.close()
