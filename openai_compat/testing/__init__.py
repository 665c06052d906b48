"""For tests of your own code: a server that says what you script, recordings of real ones, streams of all kinds.

Names load on first use. ``plugin`` is for pytest, ``strategies`` for Hypothesis, ``django`` for Django's ``TestCase``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Type checkers, which cannot read this, find the same names below.
_MODULES = {
    "answers": ("Answer",),
    "asked": ("AskedRequest",),
    "blocking": ("RealCallBlockedError",),
    "builders": ("answer", "error", "fault", "raw_reply", "stream_of", "tool_call", "vectors"),
    "clock": ("FakeClock",),
    "rates": ("RateLimit",),
    "recorder": ("Recorder", "RecordingMismatchError"),
    "replies": ("Fault", "RawReply", "Vectors"),
    "server": ("FakeServer", "UnscriptedRequestError"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from .answers import Answer as Answer
    from .asked import AskedRequest as AskedRequest
    from .blocking import RealCallBlockedError as RealCallBlockedError
    from .builders import answer as answer
    from .builders import error as error
    from .builders import fault as fault
    from .builders import raw_reply as raw_reply
    from .builders import stream_of as stream_of
    from .builders import tool_call as tool_call
    from .builders import vectors as vectors
    from .clock import FakeClock as FakeClock
    from .rates import RateLimit as RateLimit
    from .recorder import Recorder as Recorder
    from .recorder import RecordingMismatchError as RecordingMismatchError
    from .replies import Fault as Fault
    from .replies import RawReply as RawReply
    from .replies import Vectors as Vectors
    from .server import FakeServer as FakeServer
    from .server import UnscriptedRequestError as UnscriptedRequestError


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
