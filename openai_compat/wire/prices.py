"""What an answer costs: as its server says, by a price of one's own, or by the table of genai-prices."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs

from .._imports import importing
from .._json import as_int, as_mapping
from ..errors import ConfigurationError, UnknownPriceError
from .messages import Usage

INSTALL = (
    "what answers cost is in a package of its own: pip install 'openai-compat[prices]', or give Client(prices=...)"
)
MILLION = 1_000_000
BATCH = "batch"
"""The service tier of a provider's Batch API."""
MOST = sys.float_info.max
"""Of what may be a float: JSON's numbers, and Python's, have no end."""
TICKS = 10_000_000_000
"""Of xAI's, in a dollar: https://docs.x.ai/developers/cost-tracking"""

_TABLE_NAMES = {
    **{name: name for name in ("azure", "cerebras", "cohere", "deepseek", "fireworks", "groq", "minimax", "mistral")},
    **{name: name for name in ("openai", "openrouter", "perplexity", "together", "zai")},
    "bedrock": "aws",
    "gemini": "google",
    "moonshot": "moonshotai",
    "xai": "x-ai",
}
"""Our names of providers, and genai-prices'."""


def _dollars(instance: Any, attribute: Any, value: Any) -> None:
    if value is None and attribute.name == "cached_input":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST:
        raise ConfigurationError(f"a price's {attribute.name} must be dollars for a million tokens, not {value!r}")


@attrs.frozen(kw_only=True)
class Price:
    """US dollars for a million tokens.

    Args:
        input: of the prompt, or of the texts to embed.
        output: of the answer, reasoning included.
        cached_input: of the prompt's tokens that the server had in its cache; by default as ``input``.

    Raises:
        ConfigurationError: it is no number from 0.
    """

    input: float = attrs.field(validator=_dollars)
    output: float = attrs.field(validator=_dollars)
    cached_input: float | None = attrs.field(default=None, validator=_dollars)

    def of(self, usage: Usage) -> float:
        """Dollars for so many tokens."""
        count = counted(usage)
        cached = self.input if self.cached_input is None else self.cached_input
        dollars = (count.input - count.cached) * self.input + count.cached * cached + count.output * self.output
        return dollars / MILLION


Prices = Price | Mapping[str, Price]
"""One for all models, or one for each by the name under which it is asked for."""


def check_prices(prices: object) -> None:
    """Raise ``ConfigurationError`` where they cannot be used."""
    values = prices.values() if isinstance(prices, Mapping) else [prices]
    if not all(isinstance(value, Price) for value in values):
        raise ConfigurationError("prices= takes a Price(input=..., output=...), or a dict of them by model")


def price_of(prices: Prices | None, model: str) -> Price | None:
    """The price of a model; None where there is none."""
    return prices if prices is None or isinstance(prices, Price) else prices.get(model)


class Charge(NamedTuple):
    """The tokens of one reply, and how they are paid.

    ``model`` is the one that answered, ``asked`` the one asked for, ``price`` the user's own.
    """

    usage: Usage | None
    model: str = ""
    asked: str = ""
    provider: str = ""
    origin: str = ""
    price: Price | None = None
    tier: str = ""


def in_batch(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """The same, of a provider's Batch API."""
    return tuple(charge._replace(tier=BATCH) for charge in charges)


def cost_of(charges: Iterable[Charge]) -> float | None:
    """US dollars; None where those of one of them are not known.

    Raises:
        UnknownPriceError: the table is needed, and not installed.
    """
    total: float | None = None
    for charge in charges:
        cost = _cost(charge)
        if cost is None:
            return None
        total = cost + (total or 0.0)
    return total


def known_cost(charges: Iterable[Charge]) -> float | None:
    """The same, but None where the table is needed and not installed."""
    try:
        return cost_of(charges)
    except UnknownPriceError:
        return None


def _cost(charge: Charge) -> float | None:
    if charge.usage is None:
        return None
    reported = _reported(charge.usage.raw)
    if reported is not None:
        return reported
    if not tells_tokens(charge.usage):
        return None
    return _by_table(charge) if charge.price is None else charge.price.of(charge.usage)


def _reported(usage: Mapping[str, Any]) -> float | None:
    """What the server says that it cost: OpenRouter, Perplexity and xAI do."""
    cost = usage.get("cost")
    dollars = _number(cost.get("total_cost") if isinstance(cost, dict) else cost)
    if dollars is not None and usage.get("is_byok") is True:
        # With a key of the user's own for the model's provider, OpenRouter's own fee is all that it charges.
        dollars += _number(as_mapping(usage.get("cost_details")).get("upstream_inference_cost")) or 0.0
    if dollars is None and (ticks := _number(usage.get("cost_in_usd_ticks"))) is not None:
        return ticks / TICKS
    return dollars


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST
    return float(value) if is_number else None


def tells_tokens(usage: Usage) -> bool:
    """Whether there is any count in it that can be read."""
    return any(count is not None for count in (usage.input_tokens, usage.output_tokens, usage.total_tokens))


class Counted(NamedTuple):
    """Tokens that are paid for; all but ``output`` and ``spoken``, which is a part of it, are parts of ``input``.

    ``written`` into the server's cache, ``cached`` read from it; ``heard`` and ``spoken`` are sound.
    """

    input: int
    output: int
    cached: int
    written: int
    heard: int
    spoken: int


def counted(usage: Usage) -> Counted:
    """The tokens that are paid for, wherever in a usage the server counts them."""
    inputs, outputs, cached = usage.input_tokens or 0, usage.output_tokens or 0, usage.cached_tokens or 0
    read = as_mapping(usage.raw.get("prompt_tokens_details"))
    made = as_mapping(usage.raw.get("completion_tokens_details"))
    beside = (usage.total_tokens or 0) - inputs - outputs
    if 0 < beside == cached and cached > inputs:
        inputs += cached
    elif beside > 0:
        # Gemini and xAI count reasoning in the total, and not in the answer.
        outputs += beside
    written = as_int(read.get("cache_write_tokens")) or as_int(usage.raw.get("cache_creation_input_tokens")) or 0
    heard, spoken = as_int(read.get("audio_tokens")) or 0, as_int(made.get("audio_tokens")) or 0
    cached = min(cached, inputs)
    written = min(written, inputs - cached)
    return Counted(inputs, outputs, cached, written, min(heard, inputs - cached - written), min(spoken, outputs))


def _by_table(charge: Charge) -> float | None:
    provider = _TABLE_NAMES.get(charge.provider)
    if provider is None and not charge.origin.startswith("https://"):
        return None  # The table has no servers without TLS: those of this machine, above all.
    try:
        with importing:
            from genai_prices import Usage as TableUsage
            from genai_prices import calc_price
    except ImportError as error:
        raise UnknownPriceError(INSTALL) from error
    assert charge.usage is not None
    count = counted(charge.usage)
    tokens = TableUsage(
        input_tokens=count.input,
        output_tokens=count.output,
        cache_read_tokens=count.cached,
        cache_write_tokens=count.written,
        input_audio_tokens=count.heard,
        output_audio_tokens=count.spoken,
        # No server tells what it had in its cache of what was heard.
        cache_audio_read_tokens=0,
        cache_audio_write_tokens=0,
    )
    where: dict[str, Any] = {"provider_api_url": charge.origin} if provider is None else {"provider_id": provider}
    context = {"processing" if charge.tier == BATCH else "service_tier": charge.tier} if charge.tier else None
    for model in dict.fromkeys((charge.model, charge.asked)):
        try:
            found = calc_price(tokens, model.removeprefix("models/"), price_context=context, **where)
        except LookupError:
            continue
        if any(price is not None for price in vars(found.model_price).values()) or model.endswith(":free"):
            return float(found.total_price)
    return None
