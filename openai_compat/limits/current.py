"""The budgets under which the code runs that is within their ``with``."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .budget import Budget

in_force: ContextVar[tuple[Budget, ...]] = ContextVar("openai_compat.budgets", default=())
