"""What is given to ``map``, one request at a time: it may be endless, and is never held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError
from ..wire.request import ChatRequest


@attrs.frozen
class Item:
    """A request under way."""

    index: int
    custom_id: str | None
    request: Any


def read_requests(requests: Iterable[Any], make: Callable[[Any], Any]) -> Iterator[Item]:
    """Each of the requests with its place and its id.

    Args:
        requests: prompts, ``ChatRequest``s, lists of messages, or pairs of an id and one of these.
        make: makes a request of a prompt.

    Raises:
        ConfigurationError: not an iterable of such.
    """
    if isinstance(requests, (str, bytes, Mapping, ChatRequest)) or not isinstance(requests, Iterable):
        raise ConfigurationError(f"requests must be an iterable of prompts, not {type(requests).__name__}")
    return _read(requests, make)


def _read(requests: Iterable[Any], make: Callable[[Any], ChatRequest]) -> Iterator[Item]:
    for index, given in enumerate(requests):
        custom_id, prompt = given if is_pair(given) else (None, given)
        try:
            yield Item(index, custom_id, make(prompt))
        except (ConfigurationError, TypeError) as error:
            name = f"request {index}" + (f" ({custom_id})" if custom_id else "")
            raise ConfigurationError(f"{name}: {error}") from error


def is_pair(given: Any) -> bool:
    """Whether it is an id and what it names."""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)
