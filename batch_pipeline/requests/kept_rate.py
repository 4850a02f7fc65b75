"""The rate at which a question's requests become tokens, counted once and kept in the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.token_rate import (
    TokenRate,
    count,
    lines_at,
)
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import token_rates

Counting = Callable[[Mapping[str, Any]], int]
FRESH = timedelta(days=7)
"""After which the records may be other ones, and a sample is counted again."""
FEW = 10
"""A rate from fewer requests is counted again as soon as there are more."""


def known_rate(store: Store, pipeline: str, question: str) -> TokenRate | None:
    """Return what was counted for a question within a week; None when nothing was."""
    rows = store.ledger.rows(
        select(token_rates).where(
            token_rates.c.pipeline == pipeline, token_rates.c.question == question
        )
    )
    if not rows or abs(store.clock.now() - rows[0]["at"]) > FRESH:  # or of a clock far ahead
        return None
    row = rows[0]
    return TokenRate(row["each"], row["per_byte"], row["error"], row["sample"], row["shared"])


def rate_of(
    store: Store | None,
    pipeline: str,
    question: CompiledTemplate,
    paths: Sequence[str],
    sizes: Sequence[int],
    requests: int,
    counting: Counting | None,
    why_not: str = "",
    *,
    keep: bool = True,
) -> TokenRate:
    """Return the rate of a question's requests: as it was counted before, or counted now on a sample.

    Nothing that the API does fails this: where it does not count, the rate goes by bytes, and says so.

    Args:
        store: where the ledger is.
        pipeline: whose requests these are.
        question: what they ask.
        paths: the local request files.
        sizes: their bytes.
        requests: how many there are.
        counting: asks the API for the tokens of one request; None when it cannot be asked.
        why_not: why it cannot.
        keep: write down what was counted.
    """
    name = question.request_hash
    known = known_rate(store, pipeline, name) if store else None
    if known is not None and (known.sample >= FEW or requests <= known.sample):
        return known
    if counting is None or not requests:
        return known or TokenRate(why_not=why_not)
    rate = count(lines_at(paths, sizes, requests), requests, counting)
    if not rate.sample:
        return known or rate
    # Of all requests there is nothing left to be wrong about; of the next night's there is.
    now = replace(rate, error=0.0) if rate.sample >= requests else rate
    if store is None or not keep:
        return now
    mine = token_rates.c.pipeline == pipeline, token_rates.c.question == name
    try:
        with store.ledger.write() as tx:
            tx.execute(delete(token_rates).where(*mine))
            tx.execute(
                insert(token_rates).values(
                    pipeline=pipeline,
                    question=name,
                    at=store.clock.now(),
                    each=rate.each,
                    per_byte=rate.per_byte,
                    error=rate.error,
                    sample=rate.sample,
                    shared=rate.shared,
                )
            )
    except IntegrityError:
        pass  # another process counted at the same time
    return now
