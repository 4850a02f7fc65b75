"""Batch prices of Claude models, from the data that genai-prices ships (no network).

genai-prices answers with the standard price, twice the batch price, when a model has no batch price
or not yet on that day, and it matches many models by the beginning of their name. Here both are an
unknown price: None, never a guess.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from genai_prices import Usage, calc_price
from genai_prices.types import TieredPrices

from batch_pipeline.requests.own_prices import OwnPrices

PROVIDER = "anthropic"
BATCH = {"processing": "batch"}
SOURCE = "genai-prices' list of Anthropic batch prices"

_PER_MTOK = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
)
_DECLARED = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
"""The same parts, as a user writes them."""
_SEARCHES = "web_searches_kcount"
_RELEASE = re.compile(r"(-latest|[-@]\d{8})$")
_VERSION = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?")
GLOBAL_GEOS = (None, "", "global", "not_available")
"""Values of ``inference_geo`` at which the listed prices hold."""
GEO_FACTORS = {"us": Decimal("1.1")}
"""What all token prices are multiplied with for inference in one region, and from which models on (docs
Pricing and Data residency: Opus 4.6, Sonnet 4.6 and later ones)."""
GEO_SINCE = (4, 6)
ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one request used. ``input`` counts tokens neither read from nor written to the cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    web_searches: int = 0

    def plus(self, other: "Tokens") -> "Tokens":
        """Return the sum of both."""
        return Tokens(*(getattr(self, one) + getattr(other, one) for one in self.__slots__))


@dataclass(frozen=True)
class BatchPrice:
    """The prices of one model in a batch, in USD per token; a part that is not known is absent.

    ``own`` ones are those that the user declared: what a list says beside its prices does not hold for them.
    """

    per_token: dict[str, Decimal | TieredPrices]
    per_search: Decimal | None
    own: bool = False

    def cost(self, tokens: Tokens, factor: Decimal = ONE) -> Decimal | None:
        """Return what one request costs in USD, exactly; None when a part has no known price.

        Args:
            tokens: what it uses.
            factor: what the prices of all tokens are multiplied with, see `geo_factor`.
        """
        if self.own and factor != ONE:
            return None
        prompt = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
        # In the order of _PER_MTOK: genai-prices calls the price of 5-minute writes `cache_write`.
        counts = (
            tokens.input,
            tokens.output,
            tokens.cache_read,
            tokens.cache_write_5m,
            tokens.cache_write_1h,
        )
        total = Decimal(0)
        for name, count in zip(_PER_MTOK, counts, strict=True):
            if not count:
                continue
            price = self.per_token.get(name)
            if price is None:
                return None
            if isinstance(price, TieredPrices):
                price = _in_tier(price, prompt)
            total += price * count
        total *= factor
        if tokens.web_searches:
            if self.per_search is None:
                return None
            total += self.per_search * tokens.web_searches
        return total


def batch_cost(
    model: str,
    tokens: Tokens,
    at: datetime,
    own: OwnPrices | None = None,
    factor: Decimal = ONE,
) -> Decimal | None:
    """Return the USD that one request of a batch costs, None when it is not known.

    Args:
        model: as the API names it.
        tokens: what the request used.
        at: when it was processed; its UTC day decides which price was valid.
        own: prices that the user declared, which go before the list's.
        factor: what the prices of all tokens are multiplied with, see `geo_factor`.
    """
    price = price_of(model, utc_day(at), own)
    return price.cost(tokens, factor) if price else None


def geo_factor(model: str, geo: Any) -> Decimal | None:
    """Return what the listed prices are multiplied with where inference ran; None when that is not known."""
    if geo in GLOBAL_GEOS:
        return ONE
    found = _VERSION.fullmatch(_RELEASE.sub("", model.lower()))
    since = found and (int(found[1]), int(found[2] or 0)) >= GEO_SINCE
    return GEO_FACTORS.get(geo) if since and isinstance(geo, str) else None


def price_of(model: str, day: date, own: OwnPrices | None = None) -> BatchPrice | None:
    """Return a model's prices in a batch: the user's own, else the list's of a UTC day; None: unknown."""
    if own:
        name = _RELEASE.sub("", model.lower())
        # The exact name before one that differs by its release.
        for known in sorted(own, key=lambda known: known != model):
            if known == model or _RELEASE.sub("", known.lower()) == name:
                return _declared(tuple(own[known].items()))
    return batch_price(model, day)


def without_release(model: str) -> str:
    """Return a model's name without its release: of one model, the API has two names."""
    return _RELEASE.sub("", model.lower())


@lru_cache(maxsize=256)
def _declared(parts: tuple[tuple[str, Any], ...]) -> BatchPrice:
    """Return declared prices; a part that is not among them is unknown where it is used."""
    given = {name: Decimal(str(price)) for name, price in parts}
    searches = given.get("web_search")
    return BatchPrice(
        {
            listed: given[name] / 1_000_000
            for name, listed in zip(_DECLARED, _PER_MTOK, strict=True)
            if name in given
        },
        None if searches is None else searches / 1000,
        own=True,
    )


def utc_day(at: datetime) -> date:
    """Return the UTC day of an instant; one without a time zone is in UTC."""
    return at.date() if at.tzinfo is None else at.astimezone(UTC).date()


@lru_cache(maxsize=256)
def batch_price(model: str, day: date) -> BatchPrice | None:
    """Return a model's prices in a batch on a UTC day, None when they are not known."""
    noon = datetime.combine(day, time(12), UTC)
    try:
        found = calc_price(
            Usage(input_tokens=0, output_tokens=0),
            model,
            provider_id=PROVIDER,
            genai_request_timestamp=noon,
            price_context=BATCH,
        )
    except LookupError:
        return None
    if _RELEASE.sub("", model.lower()) != _RELEASE.sub("", found.model.id):
        return None
    halved: set[str] = set()
    for variant in found.model.price_variants or ():
        if variant.when == BATCH and (
            variant.constraint is None or variant.constraint.active(noon)
        ):
            halved |= {name for name, price in vars(variant.prices).items() if price is not None}
    prices = {name: price for name, price in vars(found.model_price).items() if price is not None}
    if not {"input_mtok", "output_mtok"} <= halved or prices.keys() - {*_PER_MTOK, _SEARCHES}:
        return None
    # Web searches cost the same in a batch (pricing page), so theirs need not be in the variant.
    searches = prices.get(_SEARCHES)
    return BatchPrice(
        {name: _per_token(prices[name]) for name in _PER_MTOK if name in halved and name in prices},
        searches / 1000 if isinstance(searches, Decimal) else None,
    )


def _per_token(price: Decimal | TieredPrices) -> Decimal | TieredPrices:
    if isinstance(price, Decimal):
        return price / 1_000_000
    tiers = [type(tier)(tier.start, tier.price / 1_000_000) for tier in price.tiers]
    return TieredPrices(price.base / 1_000_000, tiers)


def _in_tier(price: TieredPrices, prompt: int) -> Decimal:
    """Return the price of every token of a request whose prompt has this many tokens."""
    reached = (tier.price for tier in reversed(price.tiers) if prompt > tier.start)
    return next(reached, price.base)
