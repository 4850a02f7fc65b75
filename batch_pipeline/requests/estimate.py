"""What a submission may cost, before it is sent.

``batch-pipeline preview``, ``batch-pipeline estimate`` and the run that builds the requests say the same
numbers, because all come from here: input tokens as the API counts a sample of the requests (by their
size where it cannot be asked), output tokens and cache reads as earlier answers had them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce

from batch_pipeline.requests.build import Built
from batch_pipeline.requests.cache_groups import CacheSaving, saving_of, shares_of
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.requests.lengths import NO_ANSWERS, Lengths
from batch_pipeline.requests.line_weight import weigh_built
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import price_of, utc_day
from batch_pipeline.requests.token_rate import BY_BYTES, TokenRate
from batch_pipeline.requests.weight import Kind, Weight, weigh


@dataclass(frozen=True)
class Estimate:
    """An estimate of tokens and USD for all requests together; USD are None when a price is unknown.

    Attributes:
        input_tokens: of all requests.
        output_tokens_max: if each answer were ``max_tokens`` long.
        usd_expected: at batch prices, with answers as long as the earlier ones and as much read from the
            cache; each ``max_tokens`` long and nothing read, where there are too few of these.
        usd_reserved: the same with answers as long as the longest hundredth of the earlier ones.
        usd_max: with answers of ``max_tokens``, the shared system prompt written to the cache by each
            request and never read.
        usd_synchronous: what is expected, if the requests were asked one by one outside a batch.
        likely: whether there are enough earlier answers to tell what is expected.
        said: how the tokens were counted, in words.
        cache_by: what sharing texts by ``cache_by`` saves; None: the question has none.
    """

    input_tokens: int
    output_tokens_max: int
    usd_expected: Decimal | None
    usd_reserved: Decimal | None
    usd_max: Decimal | None
    usd_synchronous: Decimal | None
    likely: bool = False
    said: str = BY_BYTES.said
    cache_by: CacheSaving | None = None

    @property
    def usd_likely(self) -> Decimal | None:
        """What is expected, if earlier answers tell it; else None."""
        return self.usd_expected if self.likely else None

    @property
    def line(self) -> str:
        """The figures in a line."""
        if self.usd_max is None or self.usd_expected is None or self.usd_reserved is None:
            return f"unknown: no batch price is known for this model ({self.said})"
        sync = (
            "" if self.usd_synchronous is None else f", ${self.usd_synchronous:.4f} synchronously"
        )
        expected = (
            f"about ${self.usd_expected:.4f}, reserved ${self.usd_reserved:.4f}, "
            if self.likely
            else ""
        )
        counted = f" ({self.said})" if self.said else ""  # of no requests there is nothing to count
        return f"{expected}at most ${self.usd_max:.4f}{sync}{counted}"


def estimate(
    built: Built,
    template: CompiledTemplate,
    *,
    at: datetime,
    lengths: Lengths = NO_ANSWERS,
    rate: TokenRate = BY_BYTES,
    prices: OwnPrices | None = None,
) -> Estimate:
    """Return what the requests may cost.

    Args:
        built: the requests.
        template: what they were built from.
        at: when they would be sent; it decides the prices.
        lengths: of earlier answers.
        rate: how many tokens a byte is.
        prices: that the user declared.
    """
    if template.by_line:
        return estimate_of(weigh_built(built, lengths, rate), at, prices, rate)
    shares = shares_of(built.groups, template, rate, built.bytes / max(built.requests, 1))
    weight = weigh(
        template.template,
        built.requests,
        built.bytes,
        built.more_tokens,
        lengths,
        rate,
        None,
        shares,
    )
    found = estimate_of(weight, at, prices, rate)
    if built.groups is None or shares is None:
        return found
    price = price_of(weight.model, utc_day(at), prices)
    return replace(found, cache_by=saving_of(built.groups, shares, weight, template, rate, price))


def estimate_of(
    weight: Weight, at: datetime, prices: OwnPrices | None = None, rate: TokenRate = BY_BYTES
) -> Estimate:
    """Return what requests of a weight may cost."""

    def cost(kind: Kind) -> Decimal | None:
        return weight.usd(kind, lambda model: price_of(model, utc_day(at), prices))

    expected = cost("expected")
    return Estimate(
        sum(one.input for one in weight.all),
        sum(one.output_max for one in weight.all),
        expected,
        cost("p99"),
        cost("max"),
        # A batch halves the price of every token (pricing page).
        None if expected is None or any(one.searches for one in weight.all) else 2 * expected,
        weight.output is not None,
        rate.said,
    )


def sum_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate for several submissions together."""

    def total(name: str) -> Decimal | None:
        known = [getattr(one, name) for one in estimates]
        return None if None in known else sum(known, Decimal(0))

    return Estimate(
        sum(one.input_tokens for one in estimates),
        sum(one.output_tokens_max for one in estimates),
        total("usd_expected"),
        total("usd_reserved"),
        total("usd_max"),
        total("usd_synchronous"),
        all(one.likely for one in estimates) and bool(estimates),
        estimates[-1].said if estimates else "",
        _saved_by(estimates),
    )


def _saved_by(estimates: Sequence[Estimate]) -> CacheSaving | None:
    known = [one.cache_by for one in estimates if one.cache_by is not None]
    return reduce(CacheSaving.plus, known) if known else None
