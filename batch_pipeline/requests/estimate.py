"""What a submission may cost, before it is sent. An estimate: nothing counts tokens exactly.

``batch-pipeline preview`` and the run that builds the requests say the same numbers, because both come
from here: from the size of the requests, whatever the API would count.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from batch_pipeline.requests.build import Built
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.prices import BatchPrice, Tokens, batch_price, utc_day
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files

BYTES_PER_TOKEN = 2.5
"""Anthropic's rule for its current tokenizer: 1M tokens are about 2.5M characters (Opus 5.5
overview page, 2026). Applied to bytes of the request, which are never fewer than characters."""
RECENT_FILES = 20
"""Whose answers tell how long answers are."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of tokens and USD for all requests together.

    Attributes:
        input_tokens: from the size of the requests.
        output_tokens_max: if each answer were ``max_tokens`` long.
        usd_max: all of that at batch prices, the shared system prompt written to the cache by each
            request and never read; None when a price is unknown.
        usd_likely: the same with answers of the given mean length; None without one.
    """

    input_tokens: int
    output_tokens_max: int
    usd_max: Decimal | None
    usd_likely: Decimal | None


def estimate(
    built: Built,
    template: CompiledTemplate,
    *,
    at: datetime,
    mean_output_tokens: float | None = None,
) -> Estimate:
    """Return what the requests may cost.

    Args:
        built: the requests.
        template: what they were built from.
        at: when they would be sent; it decides the prices.
        mean_output_tokens: output tokens per answer seen so far, if any.
    """
    count = built.requests
    declared = template.template
    input_tokens = math.ceil(built.bytes / BYTES_PER_TOKEN)
    price = batch_price(declared.model, utc_day(at))
    usd_max = usd_likely = None
    if count == 0:
        usd_max = usd_likely = Decimal(0)
    elif price is not None:
        shared = _shared_tokens(template)
        mean_input = math.ceil(input_tokens / count)
        longest = declared.max_tokens + math.ceil(built.more_tokens / count)
        usd_max = _usd(price, count, mean_input, shared, declared.cache, longest)
        if mean_output_tokens is not None:
            likely = min(math.ceil(mean_output_tokens), declared.max_tokens)
            usd_likely = _usd(price, count, mean_input, 0, None, likely)
    output_tokens = count * declared.max_tokens + built.more_tokens
    return Estimate(input_tokens, output_tokens, usd_max, usd_likely)


def mean_output_tokens(store: Store, pipeline: str) -> float | None:
    """Return how many output tokens the last answers of a pipeline had; None when there are none."""
    rows = store.ledger.rows(
        select(request_files.c.tokens, request_files.c.statuses)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.state == FileState.COLLECTED,
        )
        .order_by(request_files.c.number.desc(), request_files.c.seq)
        .limit(RECENT_FILES)
    )
    answers = sum((row["statuses"] or {}).get("answered", 0) for row in rows)
    tokens = sum((row["tokens"] or {}).get("output", 0) for row in rows)
    return tokens / answers if answers else None


def _usd(
    price: BatchPrice, count: int, mean_input: int, shared: int, cache: str | None, output: int
) -> Decimal | None:
    shared = min(shared, mean_input)
    one = Tokens(
        input=mean_input - shared,
        output=output,
        cache_write_5m=shared if cache == "5m" else 0,
        cache_write_1h=shared if cache == "1h" else 0,
    )
    cost = price.cost(one)
    return None if cost is None else cost * count


def _shared_tokens(template: CompiledTemplate) -> int:
    declared = template.template
    if not declared.cache or not declared.system:
        return 0
    return math.ceil(len(declared.system.encode()) / BYTES_PER_TOKEN)
