"""The search for a pattern of the user's in a text of the model's, which may not take for ever.

``re`` tries one way through a pattern after another, and there may be exponentially many, as in ``^(a+)+$``; it holds
the whole process meanwhile. Where that could be, all ways are followed at once here, one character after another.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

SHORT = 12
"""Characters of a text in which ``re`` finds its way soon enough, whatever the pattern."""
MAX_TEXT = 100_000
"""Characters of a text that are followed."""
MAX_GUESSED = 1000
"""Characters of a text for a pattern that only ``re`` can search for: with lookarounds, back references and such."""
MAX_STATES = 2000

# The parser of ``re`` has no public name. Without it, every pattern is one that only ``re`` can search for.
_parser: Any = importlib.import_module("re._parser")

_SINGLE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
"""What takes one character."""

Test = Callable[[str], bool]
Step = tuple[str, Any, list[int]]
"""What a state does: take a character that passes a test, stand at a place, or branch; and the states after it."""


class TooLongError(ValueError):
    """The text is too long for a pattern."""


def found_in(pattern: str, text: str) -> bool:
    """Whether a pattern, as ``re`` takes it, is found in a text.

    Raises:
        TooLongError: the text is too long for this pattern.
        re.error: it is no pattern.
    """
    if len(text) <= SHORT or _is_linear(pattern):
        return re.search(pattern, text) is not None
    steps = _steps(pattern)
    most = MAX_GUESSED if steps is None else MAX_TEXT
    if len(text) > most:
        raise TooLongError(f"{len(text)} characters are too many for the pattern {pattern!r}; at most {most}")
    return re.search(pattern, text) is not None if steps is None else _follow(steps, text)


@functools.lru_cache(maxsize=256)
def _is_linear(pattern: str) -> bool:
    """Whether ``re`` can go only one way: from the beginning, over at most one repetition of single characters."""
    parsed = list(_parser.parse(pattern))
    if any(str(op) not in (*_SINGLE, "AT", "SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT") for op, _ in parsed):
        return False
    repeats = [said for op, said in parsed if "REPEAT" in str(op)]
    if len(repeats) != len(_repeats(parsed)) or any(
        len(said[2]) != 1 or str(said[2][0][0]) not in _SINGLE for said in repeats
    ):
        return False
    ways = [least for least, most, _ in repeats if least != most]
    at_beginning = bool(parsed) and str(parsed[0][1]).startswith("AT_BEGINNING")
    return not ways or (len(ways) == 1 and at_beginning)


def _repeats(parsed: Any) -> list[Any]:
    """All repetitions, however deep."""
    found: list[Any] = []
    waiting: list[Any] = [parsed]
    while waiting:
        item = waiting.pop()
        if isinstance(item, tuple) and len(item) == 2 and "REPEAT" in str(item[0]):
            found.append(item)
        if isinstance(item, (tuple, list, _parser.SubPattern)):
            waiting += item
    return found


class _NotFollowedError(Exception):
    """The pattern has something that is not followed here."""


@functools.lru_cache(maxsize=256)
def _steps(pattern: str) -> list[Step] | None:
    """The states of a pattern, of which the first begins and the last is the end; None where it is not followed."""
    parsed = _parser.parse(pattern)
    if parsed.state.flags & ~re.UNICODE:
        return None
    steps: list[Step] = []
    try:
        _append(steps, list(parsed))
    except _NotFollowedError:
        return None
    steps.append(("end", None, []))
    return steps


def _append(steps: list[Step], parsed: list[tuple[Any, Any]]) -> None:
    """Append the states of a sequence; each goes on to the one appended next."""
    for op, said in parsed:
        name = str(op)
        if len(steps) > MAX_STATES:
            raise _NotFollowedError
        if name in _SINGLE:
            steps.append(("take", _test(name, said), [len(steps) + 1]))
        elif name == "AT":
            steps.append(("at", str(said), [len(steps) + 1]))
        elif name == "SUBPATTERN" and not said[1] and not said[2]:
            _append(steps, list(said[3]))
        elif name == "BRANCH":
            _append_branches(steps, [list(branch) for branch in said[1]])
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            _append_repeat(steps, said[0], said[1], list(said[2]))
        else:
            raise _NotFollowedError


def _append_branches(steps: list[Step], branches: list[list[tuple[Any, Any]]]) -> None:
    begins: list[int] = []
    steps.append(("branch", None, begins))
    ends: list[list[int]] = []
    for branch in branches:
        begins.append(len(steps))
        _append(steps, branch)
        ends.append([])
        steps.append(("branch", None, ends[-1]))
    for end in ends:
        end.append(len(steps))


def _append_repeat(steps: list[Step], least: int, most: Any, parsed: list[tuple[Any, Any]]) -> None:
    for _ in range(least):
        _append(steps, parsed)
        if len(steps) > MAX_STATES:
            raise _NotFollowedError
    if str(most) == "MAXREPEAT":
        begin = len(steps)
        onward = [begin + 1]
        steps.append(("branch", None, onward))
        _append(steps, parsed)
        steps.append(("branch", None, [begin]))
        onward.append(len(steps))
        return
    leaving: list[list[int]] = []
    for _ in range(int(most) - least):
        leaving.append([len(steps) + 1])
        steps.append(("branch", None, leaving[-1]))
        _append(steps, parsed)
        if len(steps) > MAX_STATES:
            raise _NotFollowedError
    for onward in leaving:
        onward.append(len(steps))


_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


def _test(name: str, said: Any) -> Test:
    """Whether a character is one that the pattern names."""
    if name == "ANY":
        return lambda char: char != "\n"
    if name == "LITERAL":
        return lambda char: ord(char) == said
    if name == "NOT_LITERAL":
        return lambda char: ord(char) != said
    items = [(str(op), value) for op, value in said]
    negated = bool(items) and items[0][0] == "NEGATE"
    tests = [_class_test(op, value) for op, value in items[negated:]]
    return functools.lru_cache(maxsize=512)(lambda char: any(test(char) for test in tests) is not negated)


def _class_test(op: str, value: Any) -> Test:
    if op == "LITERAL":
        return lambda char: ord(char) == value
    if op == "RANGE":
        return lambda char: value[0] <= ord(char) <= value[1]
    if op == "CATEGORY":
        wanted = "NOT_" not in str(value)
        match = re.compile(_CATEGORIES[str(value).rpartition("_")[2]]).match
        return lambda char: (match(char) is not None) is wanted
    raise _NotFollowedError


def _follow(steps: list[Step], text: str) -> bool:
    end = len(steps) - 1
    after: list[int] = []
    for place in range(len(text) + 1):
        # A search may begin at any place.
        here = _reached(steps, [0, *after], text, place)
        if end in here:
            return True
        if place < len(text):
            char = text[place]
            after = [state + 1 for state in here if steps[state][0] == "take" and steps[state][1](char)]
    return False


def _reached(steps: list[Step], states: list[int], text: str, place: int) -> set[int]:
    """The states, and those that they lead to without a character."""
    seen: set[int] = set()
    while states:
        state = states.pop()
        if state in seen:
            continue
        seen.add(state)
        kind, said, onward = steps[state]
        if kind == "branch" or (kind == "at" and _stands(said, text, place)):
            states += onward
    return seen


def _stands(where: str, text: str, place: int) -> bool:
    """Whether a place in a text is the one that an anchor names."""
    if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return place == 0
    if where == "AT_END_STRING":
        return place == len(text)
    if where == "AT_END":
        return place == len(text) or (place == len(text) - 1 and text[place] == "\n")
    words = [0 <= at < len(text) and re.match(r"\w", text[at]) is not None for at in (place - 1, place)]
    return (words[0] != words[1]) is (where == "AT_BOUNDARY")
