"""How two JSON values differ, in words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

MOST = 20
"""Differences that are told; more are counted."""


def differences(wanted: Any, got: Any) -> list[str]:
    """A line for each place where they differ: ``messages[0].content: "hi", not "ho"``."""
    found = list(_walk(wanted, got, ""))
    rest = len(found) - MOST
    return [*found[:MOST], f"and {rest} more differences"] if rest > 0 else found


def likeness(one: Any, other: Any) -> float:
    """How alike they are, from 0 to 1."""
    return difflib.SequenceMatcher(None, _shown(one, 2000), _shown(other, 2000), autojunk=False).quick_ratio()


def _walk(wanted: Any, got: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in [*wanted, *(name for name in got if name not in wanted)]:
            inner = f"{path}.{name}" if path else str(name)
            if name not in got:
                yield f"{inner}: missing, not {_shown(wanted[name])}"
            elif name not in wanted:
                yield f"{inner}: {_shown(got[name])}, which was not expected"
            else:
                yield from _walk(wanted[name], got[name], inner)
    elif isinstance(wanted, list) and isinstance(got, list):
        for place, (left, right) in enumerate(zip(wanted, got, strict=False)):
            yield from _walk(left, right, f"{path}[{place}]")
        for place in range(len(got), len(wanted)):
            yield f"{path}[{place}]: missing, not {_shown(wanted[place])}"
        for place in range(len(wanted), len(got)):
            yield f"{path}[{place}]: {_shown(got[place])}, which was not expected"
    elif wanted != got or isinstance(wanted, bool) != isinstance(got, bool):
        yield f"{path or 'all of it'}: {_shown(got)}, not {_shown(wanted)}"


def _shown(value: Any, limit: int = 300) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}…"
