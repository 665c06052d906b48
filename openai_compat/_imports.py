"""Imports on the way of a call, which no fork interrupts: a child would wait for ever for a half-loaded module."""

from __future__ import annotations

import os
import threading

importing = threading.RLock()
"""Held where a call imports: ``with importing: from .stream import ChatStream``; a fork waits until it is free."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
