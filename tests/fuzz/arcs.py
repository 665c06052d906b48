"""What an input reaches: pairs of lines of the package that ran one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from support.lines import traced

import openai_compat

_PACKAGE = str(Path(openai_compat.__file__).parent)

Arc = tuple[str, int, int]


def reached(target: Callable[[bytes], object], data: bytes) -> set[Arc]:
    """The arcs that a target runs through."""
    arcs: set[Arc] = set()

    def enter(frame: FrameType, event: str, arg: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(_PACKAGE):
            return None
        before = -frame.f_code.co_firstlineno

        def step(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "line":
                arcs.add((path, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    with contextlib.suppress(Exception):  # what breaks a promise reaches something, too
        traced(enter, lambda: target(data))
    return arcs
