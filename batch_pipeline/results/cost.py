"""What one answer cost, from the usage that the API reported with it."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import Tokens, batch_cost

GLOBAL_GEOS = (None, "", "global", "not_available")
"""Where inference costs the listed price; ``us`` costs 1.1 times on some models, which the price
list does not hold."""
BATCH_SPEEDS = (None, "standard")
BATCH_TIERS = (None, "batch", "standard")
TOO_MANY = 10**10
"""Tokens that no request has: such a count is damage, and its cost would not fit its column."""
FREE_TOOLS = ("web_fetch_requests",)
"""Server tools that cost their tokens only (web fetch guide)."""


def tokens_used(usage: Mapping[str, Any]) -> Tokens | None:
    """Return the tokens of a message's ``usage``, None when it does not tell them for sure."""
    created = usage.get("cache_creation_input_tokens") or 0
    split = usage.get("cache_creation") or {}
    tools = usage.get("server_tool_use") or {}
    if not isinstance(split, Mapping) or not isinstance(tools, Mapping):
        return None
    used: tuple[Any, ...] = (
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        usage.get("cache_read_input_tokens") or 0,
        split.get("ephemeral_5m_input_tokens") or 0,
        split.get("ephemeral_1h_input_tokens") or 0,
        tools.get("web_search_requests") or 0,
    )
    if not all(type(count) is int and 0 <= count < TOO_MANY for count in used):
        return None
    tokens = Tokens(*used)
    # Writes for 5 minutes and for an hour differ in price: a total alone prices neither.
    return tokens if created == tokens.cache_write_5m + tokens.cache_write_1h else None


def answer_cost(
    model: str | None, usage: Any, at: datetime, own: OwnPrices | None = None
) -> Decimal | None:
    """Return the USD one answer cost in its batch, None when that is not known.

    Args:
        model: the model that answered.
        usage: the ``usage`` of its message.
        at: when the batch was processed.
        own: prices that the user declared.
    """
    if not model or not isinstance(usage, Mapping):
        return None
    if (
        usage.get("inference_geo") not in GLOBAL_GEOS
        or usage.get("speed") not in BATCH_SPEEDS
        or usage.get("service_tier") not in BATCH_TIERS
    ):
        return None
    tokens = tokens_used(usage)
    if tokens is None:
        return None
    for name, count in (usage.get("server_tool_use") or {}).items():
        if count and name != "web_search_requests" and name not in FREE_TOOLS:
            return None
    return batch_cost(model, tokens, at, own)
