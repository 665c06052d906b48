"""Buckets and places that processes on any machines share, in Redis."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError, SharedLimitsError
from .bucket import SLACK, Bucket

if TYPE_CHECKING:
    from redis import Redis

log: logging.Logger = logging.getLogger("openai_compat")

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds until Redis has to answer."""
LEASE = 30.0
"""Seconds for which a call has its place, if its process does not say again that it is under way."""
GLANCE = 0.1
"""Seconds after which a call that waits for a place looks again."""

# One step for all: either there is room everywhere, and it is taken, or nothing changes and the answer is how many
# seconds are missing. The clock is Redis's own. ARGV: 1 to take in any case; the lease, its seconds and how many there
# may be, 0 for any number; then the name, rate, burst and need of each bucket.
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local wait, levels = 0, {}
if tonumber(ARGV[4]) > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then wait = %(glance)r end
end
for i = 5, #ARGV, 4 do
  local name, rate, burst, need = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local level = tonumber(redis.call('HGET', KEYS[1], name)) or burst
  local filled = tonumber(redis.call('HGET', KEYS[1], name .. ' at')) or now
  if filled > now then  -- the clock was set back, or another Redis took over
    filled = now
    redis.call('HSET', KEYS[1], name .. ' at', string.format('%%.17g', now))
  end
  level = math.min(burst, level + (now - filled) * rate)
  local missing = math.min(need, burst) - level
  if missing > %(slack)r then wait = math.max(wait, missing / rate) end
  levels[name] = {level - need, math.max(0, burst - level + need) / rate}
end
if wait > 0 and ARGV[1] ~= '1' then return string.format('%%.17g', wait) end
local lasts = 60
for name, level in pairs(levels) do
  redis.call('HSET', KEYS[1], name, string.format('%%.17g', level[1]), name .. ' at', string.format('%%.17g', now))
  lasts = math.max(lasts, level[2] + 60)
end
if next(levels) then redis.call('EXPIRE', KEYS[1], math.ceil(lasts)) end
if tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
  redis.call('EXPIRE', KEYS[2], math.ceil(ARGV[3]))
end
return '0'
""" % {"glance": GLANCE, "slack": SLACK}  # noqa: UP031 - the braces are Lua's

# KEYS: the places. ARGV: their seconds, and the leases that go on.
RENEW = """
local time = redis.call('TIME')
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', time[1] + time[2] / 1000000 + ARGV[1], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[1]))
"""


def is_redis(shared: object) -> bool:
    """Whether this names a Redis, and no file."""
    return isinstance(shared, str) and shared.partition("://")[0] in ("redis", "rediss", "unix")


def without_password(shared: object) -> str:
    """The address as it may be shown."""
    return re.sub(r"((?:\?|&)password=)[^&']*", r"\1***", re.sub(r"//.*@", "//***@", repr(shared)))


class RedisBuckets:
    """What may be asked in a minute, and how many calls may be under way, of all who use the same name in a Redis.

    Args:
        url: of the Redis.
        name: under which they share.
        buckets: by their names, with their rates; how full they are is in Redis.
        concurrency: most calls under way; None for any number.

    Raises:
        ConfigurationError: the package ``redis`` is missing, or the URL is none.
    """

    def __init__(self, url: str, name: str, buckets: Mapping[str, Bucket], concurrency: int | None) -> None:
        try:
            from redis import Redis, RedisError
        except ImportError as error:
            raise ConfigurationError(
                "limits in Redis need a package of its own: pip install 'openai-compat[redis]'"
            ) from error
        self._url, self._buckets, self._places = url, buckets, concurrency or 0
        self._failures: type[Exception] = RedisError
        try:
            self._redis: Redis = Redis.from_url(
                url, decode_responses=True, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
            )
        except ValueError:
            # Its words may be a part of the password.
            address = without_password(url)
            raise ConfigurationError(
                f"limits: {address} is no address that can be used: what is special in a password is written as in %40"
            ) from None
        # The braces keep both on one node of a cluster.
        self._keys = [f"openai_compat:limits:{{{name}}}", f"openai_compat:limits:{{{name}}}:calls"]
        self._take = self._redis.register_script(TAKE)
        self._renew = self._redis.register_script(RENEW)
        self._leases: set[str] = set()
        self._renewing: threading.Timer | None = None

    def take(self, needs: Mapping[str, float], lease: str) -> float:
        """Seconds until there is room; 0 where there is, and it was taken.

        Args:
            needs: by the names of the buckets.
            lease: a name for the call's place, until ``release``.

        Raises:
            SharedLimitsError: Redis does not answer.
        """
        seconds = float(self._asked(lambda: self._take(self._keys, self._arguments(needs, lease, self._places))))
        if not seconds and self._places:
            self._leases.add(lease)
            self._renew_later()
        return seconds

    def correct(self, amounts: Mapping[str, float]) -> None:
        """Take so much more, or give back a negative amount.

        Raises:
            SharedLimitsError: Redis does not answer.
        """
        self._asked(lambda: self._take(self._keys, self._arguments(amounts, "", 0, always=True)))

    def release(self, lease: str) -> None:
        """The call is over. Where Redis does not answer, its place is free when the lease ends."""
        if lease not in self._leases:
            return
        self._leases.discard(lease)
        try:
            self._asked(lambda: self._redis.zrem(self._keys[1], lease))
        except SharedLimitsError as error:
            log.warning("%s", error)

    def _arguments(self, needs: Mapping[str, float], lease: str, places: int, *, always: bool = False) -> list[Any]:
        arguments: list[Any] = [int(always), lease, LEASE, places]
        for name, need in needs.items():
            bucket = self._buckets[name]
            arguments += [name, bucket.rate, bucket.burst, need]
        return arguments

    def _renew_later(self) -> None:
        if self._renewing is None:
            timer = self._renewing = threading.Timer(LEASE / 3, self._renewed)
            timer.daemon = True
            timer.start()

    def _renewed(self) -> None:
        self._renewing = None
        if leases := list(self._leases):
            try:
                self._asked(lambda: self._renew(self._keys[1:], [LEASE, *leases]))
            except SharedLimitsError as error:
                log.warning("%s", error)
            self._renew_later()

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._failures as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> SharedLimitsError:
        return SharedLimitsError(f"limits: Redis at {without_password(self._url)} cannot be used: {error}")
