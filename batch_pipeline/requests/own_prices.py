"""Prices that a user declares: of an own contract, or of a model that no price list knows yet.

They are of a batch, in USD: for a million tokens, and for a thousand web searches. This module only
checks them, so that declaring a pipeline loads no price list.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from batch_pipeline.errors import InputError

PARTS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "web_search")
NEEDED = ("input", "output")
HOW = (
    'prices={"MODEL": {"input": 0.5, "output": 2.5}}: USD for a million tokens in a batch (also cache_read, '
    "cache_write_5m, cache_write_1h; and web_search for a thousand searches)"
)

OwnPrices = Mapping[str, Mapping[str, Any]]
"""Prices by model and part."""


def check_prices(prices: object) -> None:
    """Refuse what are no prices.

    Raises:
        InputError: it says which, and how prices are written.
    """
    if not isinstance(prices, Mapping):
        raise InputError(f"prices is {prices!r}; it must be a mapping: {HOW}.")
    for model, parts in prices.items():
        if not isinstance(model, str) or not model:
            raise InputError(f"prices has the model {model!r}, which must be a name: {HOW}.")
        if not isinstance(parts, Mapping):
            raise InputError(f"prices of {model} is {parts!r}; it must be a mapping: {HOW}.")
        for name, price in parts.items():
            if name not in PARTS:
                raise InputError(
                    f"prices of {model} has no part {name!r}; the parts are {', '.join(PARTS)}: {HOW}."
                )
            if (
                isinstance(price, bool)
                or not isinstance(price, int | float | Decimal)
                or not math.isfinite(price)
                or price < 0
            ):
                raise InputError(
                    f"prices of {model}: {name} is {price!r}; it must be a number of USD, 0 or more: {HOW}."
                )
        if missing := [name for name in NEEDED if name not in parts]:
            raise InputError(f"prices of {model}: {' and '.join(missing)} is missing: {HOW}.")


def prices_to_store(prices: OwnPrices) -> dict[str, dict[str, str]]:
    """Return prices as the ledger keeps them, beside the question they were declared for."""
    return {
        model: {name: str(price) for name, price in parts.items()}
        for model, parts in prices.items()
    }
