"""The rate limits of a fake server."""

from __future__ import annotations

import attrs


@attrs.define
class RateLimit:
    """So many requests, and so many tokens of prompts, in each span of ``seconds``; None for any number.

    What is above is answered with HTTP 429, ``Retry-After`` and OpenAI's body; every reply has the ``x-ratelimit-*``
    headers.
    """

    requests: int | None = None
    tokens: int | None = None
    seconds: float = 60.0
    _begun: float = attrs.field(default=0.0, init=False, repr=False)
    _requests: int = attrs.field(default=0, init=False, repr=False)
    _tokens: int = attrs.field(default=0, init=False, repr=False)

    def take(self, tokens: int, now: float) -> str | None:
        """Count a request; what there are too many of, or None where it may go."""
        if not self._requests or now - self._begun >= self.seconds:
            self._begun, self._requests, self._tokens = now, 0, 0
        if self.requests is not None and self._requests + 1 > self.requests:
            return "requests"
        if self.tokens is not None and self._tokens + tokens > self.tokens:
            return "tokens"
        self._requests += 1
        self._tokens += tokens
        return None

    def reset_in(self, now: float) -> float:
        """Seconds until the next span."""
        return max(0.0, self.seconds - (now - self._begun))

    def headers(self, now: float) -> dict[str, str]:
        """What every reply says of the limits."""
        said: dict[str, str] = {}
        for name, most, used in (("requests", self.requests, self._requests), ("tokens", self.tokens, self._tokens)):
            if most is not None:
                said[f"x-ratelimit-limit-{name}"] = str(most)
                said[f"x-ratelimit-remaining-{name}"] = str(max(0, most - used))
                said[f"x-ratelimit-reset-{name}"] = f"{self.reset_in(now):g}s"
        return said
