"""A few requests as they would be sent, and what they and all the others may cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.estimate import BYTES_PER_TOKEN, Estimate, estimate
from batch_pipeline.requests.prices import Tokens, batch_price, utc_day


@dataclass(frozen=True)
class Rendered:
    """A record's request.

    Attributes:
        params: the API parameters; None when the record cannot be asked.
        rejected: why it cannot.
        bytes: the size of the request.
    """

    params: dict[str, Any] | None
    rejected: str | None
    bytes: int


def render(record: str, template: CompiledTemplate, limits: Limits, folder: str) -> Rendered:
    """Return the request of one record, built as all requests are.

    Args:
        record: a ``records.parquet`` with this one record.
        template: what to ask.
        limits: of one batch.
        folder: a new local folder.
    """
    built = build_requests(record, template, limits, folder)
    if built.rejected_path is not None:
        reason = pq.read_table(built.rejected_path).column("reason")[0].as_py()
        return Rendered(None, str(reason), 0)
    line = orjson.loads(Path(built.files[0].path).read_bytes())
    return Rendered(line["params"], None, built.bytes)


def estimated_tokens(rendered: Rendered) -> int:
    """Return about how many input tokens a request has, from its size."""
    return math.ceil(rendered.bytes / BYTES_PER_TOKEN)


def expected(
    template: CompiledTemplate,
    tokens: Sequence[int],
    requests: int,
    at: datetime,
    mean_output_tokens: float | None = None,
) -> Estimate:
    """Return what a number of requests may cost in batches, going by a sample of them.

    Args:
        template: what is asked.
        tokens: input tokens of each request of the sample.
        requests: how many there are in all.
        at: when they would be sent; it decides the prices.
        mean_output_tokens: output tokens per answer seen so far, if any.
    """
    mean = sum(tokens) / len(tokens) if tokens else 0.0
    size = int(math.ceil(mean * requests) * BYTES_PER_TOKEN)
    built = Built([], requests, size, 0, None, [])
    return estimate(built, template, at=at, mean_output_tokens=mean_output_tokens)


def full_price(model: str, tokens: Tokens, at: datetime) -> Decimal | None:
    """Return the USD of a request outside a batch, None when that is not known.

    A batch halves the price of every token (pricing page); a web search costs the same in both.
    """
    price = batch_price(model, utc_day(at))
    if price is None:
        return None
    batched = price.cost(replace(tokens, web_searches=0))
    both = price.cost(tokens)
    return None if batched is None or both is None else batched + both
