"""A few requests as they would be sent, and what they and all the others come to."""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.cache_groups import CacheGroups
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.prices import ONE, Tokens, batch_price, utc_day
from batch_pipeline.requests.token_rate import BYTES_PER_TOKEN


@dataclass(frozen=True)
class Rendered:
    """A record's request.

    Attributes:
        params: the API parameters; None when the record cannot be asked.
        rejected: why it cannot.
        bytes: the size of the request.
        more_tokens: that the answer may have beyond ``max_tokens``: an earlier one was cut short.
    """

    params: dict[str, Any] | None
    rejected: str | None
    bytes: int
    more_tokens: int = 0


def render(
    record: str,
    template: CompiledTemplate,
    limits: Limits,
    folder: str,
    groups: CacheGroups | None = None,
) -> Rendered:
    """Return the request of one record, built as all requests are.

    Args:
        record: a ``records.parquet`` with this one record.
        template: what to ask.
        limits: of one batch.
        folder: a new local folder.
        groups: of all records that would be asked, by what they share.
    """
    built = build_requests(record, template, limits, folder, None, groups)
    if built.rejected_path is not None:
        reason = pq.read_table(built.rejected_path).column("reason")[0].as_py()
        return Rendered(None, str(reason), 0)
    line = orjson.loads(Path(built.files[0].path).read_bytes())
    return Rendered(line["params"], None, built.bytes, built.more_tokens)


def estimated_tokens(rendered: Rendered) -> int:
    """Return about how many input tokens a request has, from its size."""
    return math.ceil(rendered.bytes / BYTES_PER_TOKEN)


def alone(rendered: Rendered) -> Built:
    """Return what a request comes to by itself, for ``estimate``."""
    samples = [] if rendered.params is None else [rendered.params]
    return Built([], 1, rendered.bytes, 0, None, samples, rendered.more_tokens)


def weigh(
    records: str | None,
    template: CompiledTemplate,
    limits: Limits,
    folder: str,
    asked: int,
    of: int,
    groups: CacheGroups | None = None,
) -> Built:
    """Return what the requests of a run come to, for ``estimate``: built as a run builds them.

    Args:
        records: the ``records.parquet`` with the first records that would be asked; None: there are none.
        template: what to ask.
        limits: of one batch.
        folder: a new local folder.
        asked: how many records would be asked.
        of: how many of them ``records`` has; the others are taken to be like these.
        groups: of these, by what they share.
    """
    nothing = Built([], 0, 0, 0, None, [])
    if records is None or not of:
        return nothing
    try:
        built = build_requests(records, template, limits, folder, None, groups)
    except InputError:  # none of them can be asked, and each that is shown says why
        return nothing
    if asked == of:
        return built

    def scaled(number: int) -> int:
        return round(number * asked / of)

    return replace(
        built,
        requests=scaled(built.requests),
        bytes=scaled(built.bytes),
        rejected=scaled(built.rejected),
        more_tokens=scaled(built.more_tokens),
    )


def full_price(model: str, tokens: Tokens, at: datetime, factor: Decimal = ONE) -> Decimal | None:
    """Return the USD of a request outside a batch, None when that is not known.

    ``factor`` is that of the region, see `geo_factor`. A batch halves the price of every token (pricing page); a web search costs the same in both.
    """
    price = batch_price(model, utc_day(at))
    if price is None:
        return None
    batched = price.cost(replace(tokens, web_searches=0), factor)
    both = price.cost(tokens, factor)
    return None if batched is None or both is None else batched + both
