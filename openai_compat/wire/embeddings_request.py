"""The bodies of embeddings requests."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..schema.text import text_of
from .plain import label, plain, text, whole
from .request import NO_MODEL

Input = str | Sequence[int]
"""One thing to embed: a text, or the ids of its tokens."""

ENCODING_FORMATS = ("base64", "float", "int8", "uint8", "binary", "ubinary")


def embedding_inputs(given: Input | Iterable[Input]) -> list[Input]:
    """The inputs one by one: a text or a list of token ids alone is one.

    Raises:
        ConfigurationError: nothing to embed, an empty input, or one that is neither.
    """
    if (alone := text_of(given)) is not None:
        items: list[Any] = [alone]
    else:
        items = list(_several(given))
        if not items:
            raise ConfigurationError("nothing to embed: the list of texts is empty")
        if (tokens := _token_ids(items)) is not None:
            return [tokens]
    return [embedding_input(item, position) for position, item in enumerate(items)]


def _several(given: Any) -> Iterable[Any]:
    if isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"what is embedded is a text, or a list of texts, not {type(given).__name__}")
    return given


def embedding_input(item: object, position: int) -> Input:
    """One of several inputs, checked; see ``embedding_inputs``."""
    if (said := text_of(item)) is not None:
        checked: Input = said
    elif (tokens := _token_ids(item)) is not None:
        checked = tokens
    else:
        raise ConfigurationError(
            f"input {position} to embed is a {type(item).__name__}, not a string or a list of token ids"
        )
    if not checked:
        raise ConfigurationError(f"input {position} to embed is empty")
    return checked


def _token_ids(value: object) -> list[int] | None:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, bytearray, memoryview, Mapping)):
        return None
    try:
        tokens = list(value)
        return None if any(isinstance(token, bool) for token in tokens) else [operator.index(token) for token in tokens]
    except TypeError:
        return None


def vector_dtype(body: Mapping[str, Any]) -> str:
    """Which numbers a request asks for: ``"float32"`` unless it says otherwise, as Voyage, Mistral, mixedbread and Jina
    have it."""
    for name in ("output_dtype", "embedding_type", "encoding_format"):
        wanted = body.get(name)
        if isinstance(wanted, str) and wanted not in ("float", "base64"):
            return wanted
    return "float32"


def build_embeddings_body(
    inputs: Input | Iterable[Input],
    *,
    model: str,
    encoding_format: str | None = "base64",
    dimensions: int | None = None,
    user: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of an embeddings request.

    Raises:
        ConfigurationError: no model, nothing to embed, an empty input, or an unknown ``encoding_format``.
    """
    if not model:
        raise ConfigurationError(NO_MODEL)
    said = text_of(inputs)
    given: Any = list(_several(inputs)) if said is None else said
    items = embedding_inputs(given)
    if encoding_format not in (None, *ENCODING_FORMATS):
        known = ", ".join(map(repr, ENCODING_FORMATS))
        raise ConfigurationError(f"encoding_format must be one of {known} or None, not {encoding_format!r}")
    alone = isinstance(given, str) or _token_ids(given) is not None
    body: dict[str, Any] = {"model": label(model, "model"), "input": items[0] if alone else items}
    if encoding_format is not None:
        body["encoding_format"] = text(encoding_format, "encoding_format")
    if dimensions is not None:
        body["dimensions"] = whole(dimensions, "dimensions")
    if user is not None:
        body["user"] = label(user, "user")
    body.update(plain(extra_body or {}, "extra_body"))
    return body
