"""Plain lines of results: answered, in one block of text, at a known price. Nearly all are.

They are read without a look at all that a line might be. What is read here is what ``judge_line``
makes of the same line, to the last digit; whatever is not plain is left to it.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

import orjson

from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import TieredPrices, price_of, utc_day
from batch_pipeline.results.cost import BATCH_SPEEDS, BATCH_TIERS, GLOBAL_GEOS

SCALE = 15
"""Digits after the point of USD: a cost is a whole number of these parts."""
MOST_TOKENS = 10**8
"""Of a plain answer, so that its cost in parts has 64 bits."""
MOST_PARTS_A_TOKEN = 10**10
FIVE_MINUTES, ONE_HOUR = "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"
"""Of ``cache_creation``: tokens that were written to the cache for so long."""

Row = tuple[
    str,
    str,
    None,
    str,
    str,
    int,
    int,
    int | None,
    int | None,
    int | Decimal | None,
    str,
    None,
    None,
    None,
]
"""A judged line, in the order of ``Judged``; its cost is in parts."""


class Prices(NamedTuple):
    """What a token of each kind costs, in parts; None where that is not known.

    Attributes:
        most: of the tokens of a prompt, while these prices hold.
    """

    input: int
    output: int
    cache_read: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    most: int


class PlainLines:
    """Reads plain lines of one file.

    Args:
        priced_at: when the batch was processed.
        own: prices that the user declared.
    """

    def __init__(self, priced_at: datetime, own: OwnPrices | None = None) -> None:
        self._day = utc_day(priced_at)
        self._own = own
        self._prices: dict[str, Prices | None] = {}

    def read(self, line: bytes) -> Row | None:
        """Return the row of a plain line; None for any other."""
        try:
            result = orjson.loads(line)
            custom_id = result["custom_id"]
            body = result["result"]
            message = body["message"]
            (block,) = message["content"]
            text = block["text"]
            model = message["model"]
            stop_reason = message["stop_reason"]
            usage = message["usage"]
            sent, written = usage["input_tokens"], usage["output_tokens"]
            if (
                body["type"] != "succeeded"
                or block["type"] != "text"
                or (stop_reason != "end_turn" and stop_reason != "stop_sequence")
                or type(custom_id) is not str
                or type(text) is not str
                or not text
                or type(model) is not str
                or type(sent) is not int
                or type(written) is not int
                or sent < 0
                or written < 0
                or usage.get("service_tier") not in BATCH_TIERS
                or usage.get("inference_geo") not in GLOBAL_GEOS
                or usage.get("speed") not in BATCH_SPEEDS
                or usage.get("server_tool_use")
                or usage.get("iterations")
                or usage.get("fallback_credit") is not None
                or message.get("container")
            ):
                return None
            prices = self._prices[model] if model in self._prices else self._learn(model)
            if prices is None or sent + written > MOST_TOKENS or sent > prices.most:
                return None
            cost = sent * prices.input + written * prices.output
            read = usage.get("cache_read_input_tokens")
            made = usage.get("cache_creation_input_tokens")
            split = usage.get("cache_creation") or {}
            if read or made or (split and (split.get(FIVE_MINUTES) or split.get(ONE_HOUR))):
                cached = _cached(read, made, split, sent, prices)
                if cached is None:
                    return None
                cost += cached
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return (
            custom_id, "answered", None, model, stop_reason, sent, written,
            read if type(read) is int else None, made if type(made) is int else None,
            cost, text, None, None, None,
        )  # fmt: skip

    def _learn(self, model: str) -> Prices | None:
        self._prices[model] = prices_of(model, self._day, self._own)
        return self._prices[model]


def _cached(read, made, split, sent: int, prices: Prices) -> int | None:
    """Return what the tokens read from and written to the cache cost; None when that is not plain."""
    five = split.get(FIVE_MINUTES) or 0
    hour = split.get(ONE_HOUR) or 0
    read, made = read or 0, made or 0
    for count in (read, made, five, hour):
        if type(count) is not int or count < 0:
            return None
    # Writes for 5 minutes and for an hour differ in price: a total alone prices neither.
    if made != five + hour or (total := sent + read + made) > MOST_TOKENS or total > prices.most:
        return None
    cost = 0
    for count, price in (
        (read, prices.cache_read),
        (five, prices.cache_write_5m),
        (hour, prices.cache_write_1h),
    ):
        if count and price is None:
            return None
        cost += count * (price or 0)
    return cost


def prices_of(model: str, day: date, own: OwnPrices | None = None) -> Prices | None:
    """Return the prices of a model in whole parts; None when they are not known, or not whole."""
    found = price_of(model, day, own) if model else None
    if found is None:
        return None
    parts: dict[str, int] = {}
    most = MOST_TOKENS
    for name, price in found.per_token.items():
        if isinstance(price, TieredPrices):
            # Beyond the first step it costs more; such a prompt is not plain.
            most = min([most, *(tier.start for tier in price.tiers)])
            price = price.base
        scaled = Decimal(price).scaleb(SCALE)
        if scaled != int(scaled) or not 0 <= scaled <= MOST_PARTS_A_TOKEN:
            return None
        parts[name] = int(scaled)
    if not {"input_mtok", "output_mtok"} <= parts.keys():
        return None
    return Prices(
        parts["input_mtok"],
        parts["output_mtok"],
        parts.get("cache_read_mtok"),
        parts.get("cache_write_mtok"),
        parts.get("cache_write_1h_mtok"),
        most,
    )
