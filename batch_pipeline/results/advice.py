"""Advice from a pipeline's own figures: what would make its nights cheaper, and by how much.

It reads what one settled submission left in the store: its rows' counts of tokens, and its index. Where there
is nothing to say, it says nothing.
"""

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import duckdb
from sqlalchemy import RowMapping, func, select

from batch_pipeline.errors import counted
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.requests.cache_groups import ASSUMED_HITS
from batch_pipeline.requests.cache_minimum import cache_minimum
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import BatchPrice, Tokens, price_of, utc_day
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.cheaper_variant import cheaper_variant
from batch_pipeline.results.shared_columns import SharedColumn, shared_column
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import OPEN, FileKind, FileState, request_files, submissions

FEWEST = 30
"""Answers below which nothing is concluded."""
FAR_ABOVE = 4
"""How many times the longest hundredth `max_tokens` is, to be far above it."""
MONTH = timedelta(days=30)
LIKELY_HITS = Decimal("0.9")
"""The share that a cache is read of, where the pipeline has none yet; the batch guide says 30 to 98 %."""
LEAST_USD = Decimal("0.01")
"""A month; of what saves less nothing is said."""

FIGURES = """
select count(*), quantile_cont(_output_tokens, 0.99), max(_output_tokens),
  coalesce(sum(_cache_read_tokens), 0), coalesce(sum(_cache_write_tokens), 0), coalesce(sum(_input_tokens), 0),
  count(*) filter (where _status = 'truncated'), avg(_cost_usd)
from read_parquet({files}, union_by_name = true)
where _output_tokens is not null and _batch_id is not null
"""
DUPLICATES = """
select count(*) - count(distinct _content_hash) from read_parquet({files}) where _kind = 'ask'
"""


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        kind: max_tokens, prompt_head, cache, cache_by, duplicates or variant.
        said: what was seen, and what to do.
        usd_a_month: what it would have saved in the last 30 days; None: it frees room under caps, and
            saves nothing by itself.
    """

    kind: str
    said: str
    usd_a_month: Decimal | None

    @property
    def line(self) -> str:
        """All of it in a line."""
        if self.usd_a_month is None:
            return self.said
        return f"{self.said} That would have saved ${self.usd_a_month:,.2f} in the last 30 days."


def last_settled(store: Store, pipeline: str) -> RowMapping | None:
    """Return a pipeline's newest submission whose batches are all collected; None when there is none."""
    still_open = select(request_files.c.submission_id).where(request_files.c.state.in_(OPEN))
    answered = select(request_files.c.submission_id).where(
        request_files.c.kind == FileKind.BATCH,
        request_files.c.state == FileState.COLLECTED,
        request_files.c.batch_id.is_not(None),
    )
    found = store.ledger.rows(
        select(submissions)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.id.in_(answered),
            submissions.c.id.not_in(still_open),
        )
        .order_by(submissions.c.number.desc())
        .limit(1)
    )
    return found[0] if found else None


def advise(
    store: Store,
    template: MessageTemplate,
    prices: OwnPrices,
    submission: RowMapping,
    *,
    dedupe: bool = True,
) -> list[Advice]:
    """Return what one settled submission shows that could be cheaper, the dearest first.

    Files that are lost or damaged tell nothing: this is advice, and fails no run.

    Args:
        store: where the files and the ledger are.
        template: the question of today's code.
        prices: that the user declared.
        submission: the ledger's row.
        dedupe: whether today's code asks once what is the same.
    """
    files = [
        file
        for file in store.ledger.rows(
            select(request_files).where(request_files.c.submission_id == submission["id"])
        )
        if file["kind"] == FileKind.BATCH and file["results_path"] and file["batch_id"]
    ]
    answers = sum(sum((file["statuses"] or {}).values()) for file in files)
    if answers < FEWEST:
        return []
    try:
        figures = _figures(store, submission, files, dedupe) if files else None
        price = price_of(template.model, utc_day(submission["created_at"]), prices)
        shared = figures and price and _shared(store, template, figures, price, submission, files)
        month = _answers_of_a_month(store, submission["pipeline"])
        variant = cheaper_variant(store, submission["pipeline"], max(month, answers))
    except (duckdb.Error, OSError):
        return []
    if figures is None or figures.answers < FEWEST:
        return []
    times = Decimal(max(month, figures.answers)) / figures.answers
    requests = sum(file["requests"] for file in files)
    found = [
        _max_tokens(template, figures, price, requests),
        _duplicates(figures, requests, times),
        *_caching(template, figures, price, files, times),
        _by_column(shared, times) if shared else None,
        Advice("variant", *variant) if variant else None,
    ]
    said = [
        one for one in found if one and (one.usd_a_month is None or one.usd_a_month >= LEAST_USD)
    ]
    return sorted(said, key=lambda one: -(one.usd_a_month or 0))


@dataclass(frozen=True)
class _Figures:
    answers: int
    p99: float
    longest: int
    read: int
    written: int
    bytes_a_token: (
        float  # of whole requests, with their form: a text has rather more tokens than that tells
    )
    truncated: int
    mean_usd: Decimal | None
    duplicates: int


def _figures(
    store: Store, submission: RowMapping, files: list[RowMapping], dedupe: bool
) -> _Figures:
    with memory_connection() as connection:
        store.files.register(connection)
        rows = quote_files([store.files.url(file["results_path"]) for file in files])
        [found] = connection.execute(FIGURES.format(files=rows)).fetchall()
        duplicates = 0
        if not dedupe and submission["records_path"]:
            records = quote_files([store.files.url(submission["records_path"])])
            [(duplicates,)] = connection.execute(DUPLICATES.format(files=records)).fetchall()
    answers, p99, longest, read, written, plain, truncated, mean = found
    requests, size = (sum(file[name] for file in files) for name in ("requests", "bytes"))
    tokens = max(int(read + written + plain), 1)
    usd = None if mean is None else Decimal(str(mean))
    return _Figures(
        answers,
        p99 or 0,
        longest or 0,
        int(read),
        int(written),
        max(size * answers / max(requests, 1) / tokens, 1.0),
        truncated,
        usd,
        duplicates,
    )


def _answers_of_a_month(store: Store, pipeline: str) -> int:
    """Return how many requests of the last 30 days' batches have come back."""
    with store.ledger.read() as tx:
        found = tx.execute(
            select(func.sum(request_files.c.requests)).where(
                request_files.c.pipeline == pipeline,
                request_files.c.kind == FileKind.BATCH,
                request_files.c.state == FileState.COLLECTED,
                request_files.c.batch_id.is_not(None),
                request_files.c.sent_at >= store.clock.now() - MONTH,
            )
        ).scalar_one()
    return int(found or 0)


def _max_tokens(
    template: MessageTemplate, figures: _Figures, price: BatchPrice | None, requests: int
) -> Advice | None:
    if figures.truncated or template.max_tokens < FAR_ABOVE * figures.p99:
        return None
    enough = _round_up(max(2 * figures.p99, 1.25 * figures.longest))
    if enough * 2 > template.max_tokens:
        return None
    freed = ""
    if price is not None:
        usd = price.cost(Tokens(output=template.max_tokens - enough))
        if usd is not None:
            freed = (
                f", and the figure 'at most' of such a submission falls by ${usd * requests:,.2f}"
            )
    return Advice(
        "max_tokens",
        f"max_tokens is {template.max_tokens:,}, and 99 of 100 answers have {math.ceil(figures.p99):,} tokens at most "
        f"(the longest {figures.longest:,}). max_tokens={enough} is enough{freed}. Nothing is asked again for it.",
        None,
    )


def _duplicates(figures: _Figures, requests: int, times: Decimal) -> Advice | None:
    if not figures.duplicates or figures.mean_usd is None:
        return None
    return Advice(
        "duplicates",
        f"{counted(figures.duplicates, 'request')} of {requests:,} ask what another one asks, word for word: the "
        "columns that the prompt reads are the same. dedupe=True asks each once and answers all of them. Nothing is asked "
        "again for it.",
        figures.mean_usd * figures.duplicates * times,
    )


def _caching(
    template: MessageTemplate,
    figures: _Figures,
    price: BatchPrice | None,
    files: list[RowMapping],
    times: Decimal,
) -> list[Advice]:
    if price is None or template.cache_by:
        return []  # each submission looks itself whether its texts are worth a place in the cache
    kept = {(file["weight"] or {}).get("cache") for file in files}
    ttl = template.cache if template.cache in kept else None
    if figures.read or figures.written:
        return [*_dear_cache(figures, price, ttl, times)]
    shared = _tokens(template.system or "", figures)
    head = _tokens(_head(template), figures)
    least = cache_minimum(template.model)
    if least is None or shared + head < least:
        if ttl is None or least is None:
            return []
        return [
            Advice(
                "cache",
                f'cache="{ttl}" does nothing: {template.model} caches from {least:,} tokens on, and what the requests '
                f"share has about {shared:,}. Leave it out, or let them share more.",
                None,
            )
        ]
    if ttl is not None and shared >= least:
        return []  # it should be cached, and was not: nothing in the question tells why
    to = ttl or "1h"
    saved = _saved_by_cache(price, shared + head, figures.answers, to)
    if saved is None or saved <= 0:
        return []
    what = (
        f'All requests begin with the same system prompt (about {shared:,} tokens): cache="{to}" lets most of them read '
        "it from the cache."
        if shared >= least
        else f"All prompts begin with the same {head:,} tokens or so. Put that head into `system`"
        + ("" if ttl else f', with cache="{to}"')
        + f": with {shared + head:,} shared tokens the cache takes it ({template.model} from {least:,} on)."
    )
    again = (
        "Nothing is asked again for it."
        if shared >= least
        else "Set version= with it: without, that is another question, and all records are asked again."
    )
    return [
        Advice(
            "cache" if shared >= least else "prompt_head",
            f"{what} Reckoned with {LIKELY_HITS:.0%} read. {again}",
            saved * times,
        )
    ]


def _shared(
    store: Store,
    template: MessageTemplate,
    figures: _Figures,
    price: BatchPrice,
    submission: RowMapping,
    files: list[RowMapping],
) -> SharedColumn | None:
    """Return the column that many requests share; it is looked for where a request is long enough to be cached."""
    least = cache_minimum(template.model)
    requests, size = (sum(file[name] for file in files) for name in ("requests", "bytes"))
    is_short = least is None or size < least * figures.bytes_a_token * requests
    if least is None or is_short or not submission["records_path"]:
        return None
    with memory_connection() as connection:
        store.files.register(connection)
        records = store.files.url(submission["records_path"])
        return shared_column(connection, records, template, price, figures.bytes_a_token, least)


def _by_column(shared: SharedColumn, times: Decimal) -> Advice:
    return Advice(
        "cache_by",
        f"{counted(shared.requests, 'request')} print {counted(shared.texts, 'text')} of {shared.column}, of about "
        f'{shared.tokens:,} tokens each: cache_by=["{shared.column}"] with cache="{shared.cache}", and without that column '
        f"in the prompt, lets most of them read it from the cache. Reckoned with {ASSUMED_HITS:.0%} that do. It is another "
        'question: all records are asked again, but with refresh="new".',
        shared.usd * times,
    )


def _dear_cache(
    figures: _Figures, price: BatchPrice, ttl: str | None, times: Decimal
) -> list[Advice]:
    parts = {"cache_write_5m": 0, "cache_write_1h": 0}
    parts["cache_write_1h" if ttl == "1h" else "cache_write_5m"] = figures.written
    paid = price.cost(Tokens(cache_read=figures.read, **parts))
    plain = price.cost(Tokens(input=figures.read + figures.written))
    if paid is None or plain is None or paid <= plain:
        return []
    hits = figures.read / (figures.read + figures.written)
    way_on = 'Try cache="5m", whose writing is cheaper, or leave' if ttl == "1h" else "Leave"
    return [
        Advice(
            "cache",
            f"The cache costs more than it saves: of what the requests share, {hits:.0%} was read and the rest written "
            f"anew. {way_on} cache out. "
            "Nothing is asked again for it.",
            (paid - plain) * times,
        )
    ]


def _saved_by_cache(price: BatchPrice, tokens: int, answers: int, ttl: str) -> Decimal | None:
    parts: dict[str, Any] = {f"cache_write_{ttl}": tokens}
    costs = [
        price.cost(one)
        for one in (Tokens(input=tokens), Tokens(cache_read=tokens), Tokens(**parts))
    ]
    plain, read, written = costs
    if plain is None or read is None or written is None:
        return None
    return answers * (plain - LIKELY_HITS * read - (1 - LIKELY_HITS) * written)


def _head(template: MessageTemplate) -> str:
    """Return what all prompts of a template begin with."""
    if template.prompt is None:
        return ""
    return re.split(r"\{\{|\{%|\{#", template.prompt, maxsplit=1)[0]


def _tokens(text: str, figures: _Figures) -> int:
    """Return about how many tokens a text has; 0 of one that is not the same in all requests."""
    constant = "{{" not in text and "{%" not in text
    return math.floor(len(text.encode()) / figures.bytes_a_token) if constant else 0


def _round_up(tokens: float) -> int:
    """Return a round number of tokens that is not less."""
    step = 16 if tokens < 512 else 128
    return max(step, math.ceil(tokens / step) * step)
