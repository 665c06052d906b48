"""How a run of ``client.map`` goes, whatever is asked in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ..cancel import CancelToken
    from .journal import Journal


def _whole(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{field.name} must be a whole number from 1, not {value!r}")


def _on_error(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value not in ("keep", "raise"):
        raise ConfigurationError(f"on_error must be 'keep' or 'raise', not {value!r}")


def _executor(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not hasattr(value, "submit") and not callable(value):
        raise ConfigurationError(f"executor must be a concurrent.futures.Executor, not {value!r}")


def _journal(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, (str, os.PathLike)) and not hasattr(value, "add"):
        raise ConfigurationError(f"journal must be a path or a Journal, not {value!r}")


@attrs.frozen(kw_only=True)
class RunOptions:
    """See ``Client.map``, which says what each of them is.

    Raises:
        ConfigurationError: one that cannot be used.
    """

    workers: int = attrs.field(default=16, validator=_whole)
    executor: Executor | Callable[[], Executor] | None = attrs.field(default=None, validator=_executor)
    chunk_size: int | None = attrs.field(default=None, validator=attrs.validators.optional(_whole))
    ordered: bool = False
    on_error: Literal["keep", "raise"] = attrs.field(default="keep", validator=_on_error)
    journal: Journal | str | os.PathLike[str] | None = attrs.field(default=None, validator=_journal)
    retry_failed: bool | None = None
    progress: Any = None
    total: int | None = None
    cancel: CancelToken | None = None

    @classmethod
    def taken_from(cls, given: dict[str, Any]) -> RunOptions:
        """Those among the keyword arguments of ``map``, which keep the others."""
        names = [field.name for field in attrs.fields(cls) if field.name in given]
        return cls(**{name: given.pop(name) for name in names})
