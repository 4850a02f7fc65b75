"""What one answer cost, from the usage that the API reported with it.

Complete or unknown: whatever it says was used has a known price, or the whole cost is None.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import GLOBAL_GEOS, Tokens, batch_cost, geo_factor

BATCH_SPEEDS = (None, "standard")
BATCH_TIERS = (None, "batch", "standard")
TOO_MANY = 10**10
"""Tokens that no request has: such a count is damage, and its cost would not fit its column."""
SEARCHES = "web_search_requests"
FREE_TOOLS = ("web_fetch_requests",)
"""Server tools that cost their tokens only (web fetch guide)."""
IN_THE_TOTAL = ("message",)
BESIDE_THE_TOTAL = ("compaction", "advisor_message")
"""Iterations whose tokens the top level of a usage has, and those whose it has not (SDK
types/beta/beta_usage.py for compaction; docs Advisor tool). Others, as of a fallback model, may be billed
otherwise than they say."""

__all__ = ["BATCH_SPEEDS", "BATCH_TIERS", "GLOBAL_GEOS", "Used", "answer_cost", "used_of"]


class Used(NamedTuple):
    """Tokens of one model."""

    model: str
    tokens: Tokens


def tokens_used(usage: Mapping[str, Any]) -> Tokens | None:
    """Return the tokens of a ``usage``, or of one of its iterations, None when it does not tell them for sure."""
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
        tools.get(SEARCHES) or 0,
    )
    if not all(type(count) is int and 0 <= count < TOO_MANY for count in used):
        return None
    tokens = Tokens(*used)
    # Writes for 5 minutes and for an hour differ in price: a total alone prices neither.
    return tokens if created == tokens.cache_write_5m + tokens.cache_write_1h else None


def used_of(model: str, usage: Mapping[str, Any]) -> list[Used] | None:
    """Return all that an answer used and is billed, by model; None when that is not known for sure.

    The sum of the iterations is what is billed (docs Compaction): the top level, and what it leaves out. Each
    has the price of its own length, where a model's price goes by that.
    """
    whole = tokens_used(usage)
    if whole is None:
        return None
    iterations = usage.get("iterations")
    if not iterations:
        return [Used(model, whole)]
    if not isinstance(iterations, list):
        return None
    counted = searches = Tokens(web_searches=whole.web_searches)
    found: list[Used] = []
    for one in iterations:
        if not isinstance(one, Mapping) or (tokens := tokens_used(one)) is None:
            return None
        of = one.get("model") or model
        if one.get("type") in IN_THE_TOTAL and of == model:
            counted = counted.plus(tokens)
        elif one.get("type") not in BESIDE_THE_TOTAL or not isinstance(of, str):
            return None
        found.append(Used(of, tokens))
    # Where the two do not agree, nobody can say which is billed.
    return [*found, Used(model, searches)] if counted == whole else None


def answer_cost(
    model: str | None,
    usage: Any,
    at: datetime,
    own: OwnPrices | None = None,
    *,
    ran_code: bool = False,
    live: bool = False,
) -> Decimal | None:
    """Return the USD one answer cost in its batch, None when that is not known.

    Args:
        model: the model that answered.
        usage: the ``usage`` of its message.
        at: when the batch was processed.
        own: prices that the user declared.
        ran_code: the answer had a container, in which code runs by the hour.
        live: it was asked through the Messages API, whose tokens cost twice a batch's.
    """
    if not model or not isinstance(usage, Mapping):
        return None
    if (
        usage.get("speed") not in BATCH_SPEEDS
        or usage.get("service_tier") not in BATCH_TIERS
        or not _is_free_of_credit(usage.get("fallback_credit"))
    ):
        return None
    found = used_of(model, usage)
    if found is None:
        return None
    tools = usage.get("server_tool_use") or {}
    known = (SEARCHES, *FREE_TOOLS)
    if any(count for name, count in tools.items() if name not in known):
        return None
    # Beside a web search or a fetch it is free; else its hours are not told (docs Pricing).
    if ran_code and not any(tools.get(name) for name in known):
        return None
    total = Decimal(0)
    for used in found:
        factor = geo_factor(used.model, usage.get("inference_geo"))
        # Web searches cost the same in a batch (docs Pricing).
        searches = Tokens(web_searches=used.tokens.web_searches)
        parts = ((replace(used.tokens, web_searches=0), 2), (searches, 1)) if live else ((used.tokens, 1),)  # fmt: skip
        for tokens, times in parts:
            cost = None if factor is None else batch_cost(used.model, tokens, at, own, factor)
            if cost is None:
                return None
            total += times * cost
    return total


def _is_free_of_credit(credit: Any) -> bool:
    """Whether nothing of an answer was billed at other prices because another model had refused before."""
    if credit is None:
        return True
    status = credit.get("status") if isinstance(credit, Mapping) else None
    return isinstance(status, Mapping) and status.get("type") == "not_applied"
