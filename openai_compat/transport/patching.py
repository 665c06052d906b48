"""Who sees the call? Whether anything that a program may patch, to see or to answer its requests, is patched.

Mocks, recorders, caches and traces replace methods of ``requests``, ``urllib3`` and ``http.client``. Where one of these
is not the function that its own module defines, calls go through ``requests.Session.send``, so that whoever replaced
it sees them. What is not loaded is not patched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from operator import is_not
from types import FunctionType
from typing import Any

_WATCHED: dict[str, tuple[str, ...]] = {
    "requests": ("Session",),
    "requests.sessions": (
        "Session",
        "HTTPAdapter",
        *(f"Session.{name}" for name in ("__init__", "send", "request", "get_adapter", "prepare_request")),
    ),
    "requests.adapters": (
        "HTTPAdapter",
        *(f"HTTPAdapter.{name}" for name in ("send", "init_poolmanager", "cert_verify", "build_response")),
    ),
    "urllib3.connectionpool": (
        "HTTPConnection",
        "HTTPSConnection",
        "HTTPConnectionPool.ConnectionCls",
        "HTTPSConnectionPool.ConnectionCls",
        *(f"HTTPConnectionPool.{name}" for name in ("urlopen", "_make_request", "_get_conn")),
    ),
    "urllib3.connection": (
        "HTTPConnection",
        "HTTPSConnection",
        *(f"HTTPConnection.{name}" for name in ("request", "getresponse", "connect", "_new_conn")),
        "HTTPSConnection.connect",
    ),
    "urllib3.util.connection": ("create_connection",),
    "urllib3.response": tuple(f"HTTPResponse.{name}" for name in ("read", "read1", "stream")),
    "http.client": (
        "HTTPConnection",
        "HTTPSConnection",
        "HTTPConnection.debuglevel",
        *(
            f"HTTPConnection.{name}"
            for name in ("request", "putrequest", "putheader", "endheaders", "send", "getresponse", "connect")
        ),
        *(f"HTTPResponse.{name}" for name in ("begin", "read")),
    ),
}

_Spot = tuple[Mapping[str, Any], str]
_loaded: list[bool] = []
_spots: list[_Spot] = []
_seen: list[object] = []
_untouched = True


def unpatched() -> bool:
    """Whether everything is as its own module defines it."""
    global _loaded, _spots, _seen, _untouched
    loaded = [name in sys.modules for name in _WATCHED]
    now = [space.get(name) for space, name in _spots]
    # Nearly always nothing has changed since the last call; to find that out costs two microseconds.
    if loaded != _loaded or len(now) != len(_seen) or any(map(is_not, now, _seen)):
        _spots = _find_spots()
        _loaded, _seen = loaded, [space.get(name) for space, name in _spots]
        _untouched = all(map(original, _seen))
    return _untouched


def _find_spots() -> list[_Spot]:
    spots: list[_Spot] = []
    for module_name, paths in _WATCHED.items():
        module = sys.modules.get(module_name)
        for path in paths if module is not None else ():
            owner_name, _, name = path.rpartition(".")
            owner = getattr(module, owner_name, None) if owner_name else module
            if owner is not None:
                spots.append((vars(owner), name))
    return spots


def original(value: object) -> bool:
    """Whether a class or function is defined in the package that it stands in, and is no wrapper."""
    if value is None or isinstance(value, int):
        return not value  # of another version, or a debug level
    if isinstance(value, type):
        return value.__module__ in _WATCHED
    return type(value) is FunctionType and value.__globals__.get("__name__") in _WATCHED
