"""Where a relayed answer is in Redis.

::

    openai_compat:relay:{KEY}                a stream: one entry an event, with the fields "event" and "data"
    openai_compat:relay:{KEY}:alive:ATTEMPT  there while what writes it is
    openai_compat:relay:{KEY}:cancel         there once it is to end

An attempt is a time in milliseconds, the first half of its events' ids.
"""

from __future__ import annotations

from redis import Redis

from ...errors import ConfigurationError

CANCEL_SECONDS = 24 * 60 * 60
"""How long a task that has not begun may find that nobody wants it any more."""
SOCKET_SECONDS = 10.0
"""How long Redis may take to answer, on connections that are made here."""


def stream_key(key: str) -> str:
    """The stream of an answer. With a prefix, for a visitor may name the key: no other stream can be read so.

    Raises:
        ConfigurationError: not a string, or empty.
    """
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"the key of a relay is a string that is not empty, not {key!r}")
    return f"openai_compat:relay:{{{key}}}"


def alive_key(stream: str, attempt: int) -> str:
    """There while an attempt writes to a stream."""
    return f"{stream}:alive:{attempt}"


def cancel_key(stream: str) -> str:
    """There once what writes to a stream is to end."""
    return f"{stream}:cancel"


def text(value: bytes | str) -> str:
    """What Redis answered; a client may have decoded it."""
    return value.decode() if isinstance(value, bytes) else value


def connect(redis: Redis | str) -> tuple[Redis, bool]:
    """A client, and whether it was made here, to be closed here."""
    if not isinstance(redis, str):
        return redis, False
    return Redis.from_url(redis, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS), True


def cancel_relay(redis: Redis | str, key: str) -> None:
    """End an answer that a ``RelaySink`` relays, or will: within a second its ``token`` is cancelled.

    Args:
        redis: a client or a URL.
        key: as given to the ``RelaySink``.

    Raises:
        ConfigurationError: a key that is not a string, or empty.
    """
    stream = stream_key(key)
    client, owned = connect(redis)
    try:
        client.set(cancel_key(stream), 1, ex=CANCEL_SECONDS)
    finally:
        if owned:
            client.close()
