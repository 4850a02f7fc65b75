"""Records that share the text of ``cache_by``: which of them are worth a place in the cache, and what it saves.

Writing to the cache costs more than plain input, so that a group pays when enough of its requests read what
one of them wrote. What does not pay is sent as plain input, without ``cache_control``.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import orjson

from batch_pipeline.errors import counted
from batch_pipeline.records.connections import memory_connection, quote_files, quote_name
from batch_pipeline.requests.cache_minimum import FEWEST_BYTES, cache_minimum
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.lengths import Lengths
from batch_pipeline.requests.prices import BatchPrice, Tokens
from batch_pipeline.requests.token_rate import BY_BYTES, TokenRate
from batch_pipeline.requests.weight import CacheShares, Weight, shared_tokens

ASSUMED_HITS = 0.64
"""The share of requests that find what an earlier one wrote, where the pipeline has no answers that tell it: the
middle of the 30 to 98 % that the batch guide says."""
FACTORS = {"5m": 1.25, "1h": 2.0}
"""What writing costs of the price of input, and reading, where a price is not known."""
READ_FACTOR = 0.1
CUSTOM_ID = "0" * 30
"""As long as they are."""
MOST_MEMBERS = 1_000_000
"""A group of so many that does not pay yet never does."""

GROUPS = """
-- One row per group of requests that share their texts: its first and last record, how many, bytes of the texts.
SELECT min(_row), max(_row), count(*), max(bytes) FROM (
    SELECT _row, hash({texts}) AS shared, {bytes} AS bytes FROM read_parquet({path}) WHERE _kind = 'ask'
) GROUP BY shared HAVING {having} ORDER BY 1
"""
SIZES = """
-- One row: how many requests there are, those in groups of several, and the texts of these.
SELECT coalesce(sum(members), 0), coalesce(sum(members) FILTER ({several}), 0), count(*) FILTER ({several}),
       coalesce(sum(members) FILTER ({several} AND {long}), 0), coalesce(max(members) FILTER ({long}), 0)
FROM (
    SELECT count(*) AS members, max(bytes) AS bytes FROM (
        SELECT hash({texts}) AS shared, {bytes} AS bytes FROM read_parquet({path}) WHERE _kind = 'ask'
    ) GROUP BY shared
)
"""


@dataclass(frozen=True)
class CacheGroups:
    """The groups of a submission that are cached.

    Attributes:
        firsts: the first record of each, ascending.
        lasts: its last record.
        members: how many requests each has.
        sizes: bytes of the text that each shares.
        requests: of the submission, in groups and not.
        why_not: why nothing is cached; "": something is.
        hits: the share of requests that find what an earlier one wrote.
        is_assumed: whether that is assumed, and not told by earlier answers.
    """

    firsts: Sequence[int] = field(default_factory=lambda: array("q"))
    lasts: Sequence[int] = field(default_factory=lambda: array("q"))
    members: Sequence[int] = field(default_factory=lambda: array("q"))
    sizes: Sequence[int] = field(default_factory=lambda: array("q"))
    requests: int = 0
    why_not: str = ""
    hits: float = ASSUMED_HITS
    is_assumed: bool = True

    def marked(self, rows: Sequence[int]) -> list[bool]:
        """Return which records (by ``_row``) share a text that is to be cached."""
        places = [bisect_right(self.firsts, row) - 1 for row in rows]
        return [
            place >= 0 and row <= self.lasts[place] for row, place in zip(rows, places, strict=True)
        ]

    def within(self, first_row: int, last_row: int, requests: int) -> "CacheGroups":
        """Return what of them a file has: of a group that goes on in another one, as many as there may be.

        Args:
            first_row: the first record of the file.
            last_row: its last.
            requests: how many it has.
        """
        start = max(bisect_right(self.firsts, first_row) - 1, 0)
        stop = bisect_right(self.firsts, last_row)
        start += start < stop and self.lasts[start] < first_row
        members = array("q")
        for place in range(start, stop):
            inside = min(last_row, self.lasts[place]) - max(first_row, self.firsts[place]) + 1
            members.append(min(self.members[place], inside, requests))
        return replace(
            self,
            firsts=self.firsts[start:stop],
            lasts=self.lasts[start:stop],
            members=members,
            sizes=self.sizes[start:stop],
            requests=requests,
        )


@dataclass(frozen=True)
class CacheSaving:
    """What ``cache_by`` saves.

    Attributes:
        usd: what it saves; None: a price is not known. 0: nothing is cached.
        usd_best: what it saves at best, when each request finds what an earlier one wrote.
        usd_without: what the input would cost without.
        requests: that share a text which is cached.
        texts: how many texts that are.
        hits: the share of requests that is reckoned with: they find what an earlier one wrote.
        is_assumed: whether that is assumed, and not told by earlier answers.
        why_not: why nothing is cached; "": something is.
    """

    usd: Decimal | None
    usd_best: Decimal | None
    usd_without: Decimal | None
    requests: int
    texts: int
    hits: float
    is_assumed: bool
    why_not: str = ""

    def plus(self, other: "CacheSaving") -> "CacheSaving":
        """Return both together."""

        def both(one: Decimal | None, two: Decimal | None) -> Decimal | None:
            return None if one is None or two is None else one + two

        return CacheSaving(
            both(self.usd, other.usd),
            both(self.usd_best, other.usd_best),
            both(self.usd_without, other.usd_without),
            self.requests + other.requests,
            self.texts + other.texts,
            other.hits,
            other.is_assumed,
            self.why_not and other.why_not,
        )

    @property
    def line(self) -> str:
        """It in a sentence."""
        if self.why_not:
            return f"cache_by does not pay here, and nothing of it is cached: {self.why_not}."
        whose = "assumed; earlier answers will tell" if self.is_assumed else "as of earlier answers"
        what = f"{counted(self.requests, 'request')} share {counted(self.texts, 'text')}"
        if self.usd is None or self.usd_without is None:
            return f"What cache_by saves is not known, because a price is not: {what}."
        return (
            f"cache_by saves about ${self.usd:.4f} of the ${self.usd_without:.4f} that the input would cost, and "
            f"${self.usd_best:.4f} at best: {what}, and {self.hits:.0%} of those that can are taken to find theirs in "
            f"the cache ({whose})."
        )


def read_groups(
    records_path: str,
    question: CompiledTemplate,
    lengths: Lengths,
    price: BatchPrice | None,
) -> CacheGroups | None:
    """Return which groups of a submission are cached; None: the question has no ``cache_by``.

    Args:
        records_path: the selection's local ``records.parquet``.
        question: what to ask.
        lengths: of earlier answers: they tell how much the cache held.
        price: of the model.
    """
    template = question.template
    if not template.cache_by or template.cache is None:
        return None
    is_assumed = lengths.hits_seen is None
    hits = ASSUMED_HITS if lengths.hits_seen is None else lengths.hits_seen
    fewest = fewest_members(template.cache, hits, price)
    shortest = _shortest(question)
    names = [f"CAST({quote_name(name)} AS VARCHAR)" for name in template.cache_by]
    words = {
        "texts": ", ".join(names),
        "bytes": " + ".join(f"coalesce(strlen({name}), 0)" for name in names),
        "path": quote_files([records_path]),
    }
    is_long = f"bytes >= {max(shortest, 1)}"
    with memory_connection() as connection:
        [(requests, several, texts, long, most)] = connection.execute(
            SIZES.format(several="members > 1 AND bytes > 0", long=is_long, **words)
        ).fetchall()
        rows = (
            connection.sql(
                GROUPS.format(
                    having=f"count(*) >= {fewest} AND max(bytes) >= {max(shortest, 1)}", **words
                )
            )
            .to_arrow_table()
            .columns
            if fewest is not None
            else []
        )
    firsts, lasts, members, sizes = (
        [array("q", column.to_pylist()) for column in rows] if rows else [array("q")] * 4
    )
    why_not = ""
    if not len(firsts):
        why_not = _why_not(question, int(several), int(texts), int(long), int(most), fewest, hits)
    return CacheGroups(firsts, lasts, members, sizes, int(requests), why_not, hits, is_assumed)


def fewest_members(cache: str, hits: float, price: BatchPrice | None) -> int | None:
    """Return from how many requests on a text that they share is cheaper cached; None: from none.

    The first one writes it; of the others ``hits`` read it, and the rest write it again.
    """
    write, read = factors(cache, price)
    each = hits * read + (1 - hits) * write
    if each >= 1:
        return None
    # write + (n - 1) * each < n
    fewest = math.floor((write - each) / (1 - each)) + 1
    return fewest if fewest <= MOST_MEMBERS else None


def factors(cache: str, price: BatchPrice | None) -> tuple[float, float]:
    """Return what writing and reading cost, of what input costs."""
    if price is not None:
        written = Tokens(cache_write_1h=1000) if cache == "1h" else Tokens(cache_write_5m=1000)
        costs = [price.cost(one) for one in (Tokens(input=1000), written, Tokens(cache_read=1000))]
        plain, write, read = costs
        if plain and write is not None and read is not None:
            return float(write / plain), float(read / plain)
    return FACTORS[cache], READ_FACTOR


def _shortest(question: CompiledTemplate) -> int:
    """Return the bytes of a text below which its model surely does not cache it."""
    least = cache_minimum(question.template.model) or 0
    return math.ceil(least * FEWEST_BYTES) - (question.shared_bytes or 0)


def _why_not(
    question: CompiledTemplate,
    several: int,
    texts: int,
    long: int,
    most: int,
    fewest: int | None,
    hits: float,
) -> str:
    model, least = question.template.model, cache_minimum(question.template.model)
    if not several:
        return "no two requests share a text"
    if not long:
        return f"{model} caches from {least or 0:,} tokens on, and each of the {texts:,} texts is shorter"
    if fewest is None:
        return (
            f"of the requests that could, {hits:.0%} find what an earlier one wrote, and writing it so often costs more "
            "than that saves"
        )
    return (
        f"it pays from {fewest:,} requests about a text on, when {hits:.0%} find it in the cache, and "
        f"no text is shared by more than {most:,}"
    )


def shares_of(
    groups: CacheGroups | None, question: CompiledTemplate, rate: TokenRate, size: float
) -> CacheShares | None:
    """Return what groups come to; None: there is no ``cache_by``.

    Args:
        groups: which are cached.
        question: what is asked.
        rate: how many tokens a byte is.
        size: bytes of a request, on average.
    """
    if groups is None:
        return None
    per_byte = _of_a_text(rate, question, size)
    least = cache_minimum(question.template.model) or 0
    system = shared_tokens(question.template) if rate.shared is None else rate.shared
    alone = system if system >= least else 0  # what is cached of the system prompt by itself
    cached = read = most = requests = texts = 0.0
    for members, length in zip(groups.members, groups.sizes, strict=True):
        most += members * (system + length / BY_BYTES.bytes_per_token)
        tokens = system + length * per_byte
        if tokens < least:
            continue
        cached += members * tokens
        read += (members - 1) * tokens + alone
        requests += members
        texts += 1
    rest = max(groups.requests - requests, 0)
    cached += rest * alone
    read += rest * alone
    most += max(groups.requests - sum(groups.members), 0) * system
    whole = max(groups.requests, 1)
    return CacheShares(
        cached / whole, most / whole, read / cached if cached else 1.0, int(requests), int(texts)
    )


def _of_a_text(rate: TokenRate, question: CompiledTemplate, size: float) -> float:
    """Return the tokens of a byte of text: where requests are alike, the rate is that of whole ones."""
    block = {"type": "text", "text": ""}
    blocks = [block] * len(question.cache_by) + [{**block, "cache_control": {"ttl": "1h"}}]
    messages = [{"role": "user", "content": blocks}]
    params = {"model": question.template.model, "max_tokens": 100, "messages": messages}
    frame = len(orjson.dumps({"custom_id": CUSTOM_ID, "params": params}))
    if not rate.sample or rate.each or size < 2 * frame:
        return rate.per_byte
    return rate.per_byte * size / (size - frame)


def saving_of(
    groups: CacheGroups,
    shares: CacheShares,
    weight: Weight,
    question: CompiledTemplate,
    rate: TokenRate,
    price: BatchPrice | None,
) -> CacheSaving:
    """Return what ``cache_by`` saves, beside the same requests with a cached system prompt alone.

    Args:
        groups: which are cached.
        shares: what they come to.
        weight: of the requests.
        question: what they ask.
        rate: how many tokens a byte is.
        price: of the model.
    """
    least = cache_minimum(question.template.model) or 0
    system = shared_tokens(question.template) if rate.shared is None else rate.shared
    alone = system if system >= least else 0
    plain = replace(weight, output=0, searches=0)
    shared = replace(plain, cached=math.ceil(shares.cached))
    without = replace(plain, cached=alone, hits=groups.hits).cost("expected", price)
    usual = replace(shared, hits=groups.hits * shares.read_most).cost("expected", price)
    best = replace(shared, hits=shares.read_most).cost("expected", price)
    before = replace(plain, cached=alone, hits=1.0).cost("expected", price)
    why_not = groups.why_not
    if not why_not and not shares.texts:
        why_not = (
            f"{question.template.model} caches from {least:,} tokens on, and each of the {len(groups.firsts):,} texts "
            "is shorter"
        )

    def saved(one: Decimal | None, other: Decimal | None) -> Decimal | None:
        if one is None or other is None:
            return None
        return Decimal(0) if why_not else one - other

    return CacheSaving(
        saved(without, usual),
        saved(before, best),
        without,
        shares.requests,
        shares.texts,
        groups.hits,
        groups.is_assumed,
        why_not,
    )
