"""What is wrong with a value, and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Step = str | int


class ValidationError(ValueError):
    """A value does not fit its type. ``path`` says where, as in ``$.days`` or ``$.rows[2].id``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problem)


def nested_error(step: Step, error: ValidationError) -> ValidationError:
    """The error of a value, as one of the value around it."""
    outer = ValidationError(f"${path_step(step)}{error.path[1:]}", error.problem)
    outer.__cause__ = error.__cause__
    return outer


MAX_NAME = 100
"""Characters of a name in a path."""


def path_step(step: Step) -> str:
    """A step of a path: ``.name``, ``["a name"]`` or ``[0]``; of a name that a model made as long as a book, a part."""
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) > MAX_NAME:
        return f'[{json.dumps(step[:MAX_NAME])[:-1]}…"]'
    return f".{step}" if step.isidentifier() else f"[{json.dumps(step)}]"


def uncapitalized(problem: str) -> str:
    """What follows a path: begun with a small letter, unless it begins with a name such as UUID."""
    return problem if problem[:2].isupper() else problem[:1].lower() + problem[1:]


def type_name(value: Any) -> str:
    """What a value is called in errors."""
    if isinstance(value, Mapping):
        return "object"
    if isinstance(value, (list, tuple)):
        return "array"
    return "null" if value is None else type(value).__name__
