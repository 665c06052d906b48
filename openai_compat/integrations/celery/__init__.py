"""Celery: an answer that a worker streams, relayed by Redis to the browsers that read it.

::

    @app.task
    def ask(key, question):
        with RelaySink(REDIS, key) as relay:
            return client.chat(question, sink=relay, cancel=relay.token).text

    @site.get("/answers/<key>")  # Flask; in Django: relay_response(key, redis=REDIS, request=request)
    def answer(key):
        return relay_response(key, redis=REDIS)

Whatever can reach Redis may use a ``RelaySink``: a thread, another queue's worker, a script. Events are kept for an
hour and have ids: a page that is loaded again, or a second one, goes on where it was, or reads the answer from its
beginning.

Needs ``pip install 'openai-compat[celery]'`` and Redis 5 or later.
"""

from __future__ import annotations

from ...errors import ConfigurationError

try:
    from .keys import cancel_relay
    from .response import RelayStream, relay_response
    from .sink import RelaySink
except ModuleNotFoundError as _error:
    if _error.name != "redis":
        raise
    raise ConfigurationError("redis is not installed: pip install 'openai-compat[celery]'") from _error

__all__ = ["RelaySink", "RelayStream", "cancel_relay", "relay_response"]
