"""The list of models that a server offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from .._json import as_int, as_text
from ..errors import ResponseShapeError


@attrs.frozen(kw_only=True)
class Model:
    """A model on offer; ``created`` is POSIX time in seconds, ``raw`` all that the server says of it."""

    id: str
    created: int | None = None
    owned_by: str = ""
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)


def parse_models(payload: Any, *, provider: str = "") -> tuple[Model, ...]:
    """The models in a decoded reply: an object with ``data`` (or ``models``), or a bare list.

    Raises:
        ResponseShapeError: there is no such list.
    """
    listed = payload
    if isinstance(payload, dict):
        listed = payload.get("data") if payload.get("data") is not None else payload.get("models")
    if not isinstance(listed, list):
        raise ResponseShapeError(
            f"the reply of {provider or 'the server'} lists no models (no data)", provider=provider
        )
    models = []
    for entry in listed:
        if isinstance(entry, str):
            entry = {"id": entry}
        if isinstance(entry, dict) and (name := as_text(entry.get("id")) or as_text(entry.get("name"))):
            created = as_int(entry.get("created"))
            models.append(Model(id=name, created=created, owned_by=as_text(entry.get("owned_by")), raw=entry))
    return tuple(models)


def first_model(models: Iterable[Model], *, embeds: bool = False) -> str | None:
    """The name of the first model that looks as if it chats, or embeds; else the first; None where there is none."""
    names = [model.id for model in models]
    return next((name for name in names if ("embed" in name.lower()) == embeds), names[0] if names else None)
