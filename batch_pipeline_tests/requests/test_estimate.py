"""What a submission may cost, before it is sent."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest

from batch_pipeline.requests.build import Built
from batch_pipeline.requests.compiled import CompiledTemplate, compile_question
from batch_pipeline.requests.estimate import Estimate, estimate
from batch_pipeline.requests.lengths import Lengths, least_hits, most_mean
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.token_rate import count

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def compiled(**fields: Any) -> CompiledTemplate:
    declared = {"model": "claude-haiku-4-5", "max_tokens": 100, "prompt": "{{ t }}"} | fields
    return compile_question(MessageTemplate(**declared), {"t": "VARCHAR"})


def built(requests: int, size: int) -> Built:
    return Built([], requests, size, 0, None, [])


def answers(mean: float, **more: Any) -> Lengths:
    return Lengths(30, mean, mean, True, **more)


def test_tokens_come_from_bytes_and_the_worst_case_from_max_tokens() -> None:
    found = estimate(built(1000, 2_500_000), compiled(), at=NOW)
    usd = Decimal("0.5") + Decimal("0.25")
    assert found == Estimate(1_000_000, 100_000, usd, usd, usd, 2 * usd)
    assert found.usd_likely is None and "by the size of the requests" in found.line


def test_a_mean_answer_gives_the_likely_cost_never_above_the_worst() -> None:
    likely = estimate(built(1000, 2_500_000), compiled(), at=NOW, lengths=answers(9.5))
    assert likely.usd_likely == Decimal("0.5") + Decimal("0.025")
    capped = estimate(built(1000, 2_500_000), compiled(), at=NOW, lengths=answers(1e6))
    assert capped.usd_likely == capped.usd_max


def test_what_was_cut_short_is_reserved_with_all_that_it_is_allowed_now() -> None:
    question, known = compiled(), answers(1, allowed=100, is_cut=True)
    again = replace(built(10, 1000), more_tokens=1000)
    found = estimate(again, question, at=NOW, lengths=known)
    assert found.usd_reserved == found.usd_max
    # Beside many that were never asked.
    found = estimate(replace(again, requests=1000), question, at=NOW, lengths=known)
    assert found.output_tokens_max == 101_000
    assert found.usd_reserved is not None and found.usd_reserved < Decimal(3000 * 5) / 10**6


def test_the_worst_case_writes_the_shared_prompt_to_the_cache_each_time() -> None:
    template = compiled(system="s" * 1000, cache="1h")
    found = estimate(built(1000, 2_500_000), template, at=NOW)
    assert found.usd_max == Decimal("0.25") + Decimal("0.5") * Decimal("0.6") + Decimal("0.4")


def test_the_reserve_of_a_cache_goes_by_what_chance_does_not_explain() -> None:
    # Small batches are unlucky or lucky; a large one that is worse is worse.
    assert least_hits(0.7, [(1200, 0.7), (40, 0.55), (30, 0.5)]) == 0.7
    assert 0.4 < least_hits(0.7, [(1200, 0.8), (1200, 0.4), (40, 0.6)]) < 0.45
    assert least_hits(0.7, []) == 0
    # Of few requests, or after few answers, more may miss together.
    known = Lengths(10_000, 1.0, 1.0, True, 100, 0.9, 0.9)
    assert 0.6 < known.hits_p99(30) < known.hits_p99(1000) < known.hits_p99(10_000) < 0.9
    few = Lengths(60, 1.0, 1.0, True, 100, 0.9, 0.9)
    assert few.hits_p99(10_000) < 0.8 and few.hits_p99(1) == 0


def test_the_reserve_of_a_cache_is_passed_hardly_ever_and_not_far_above() -> None:
    """Nights of three files and one that asks again: 12,000 requests, whose misses are drawn."""
    chance = random.Random(1)

    def cost(hits: float) -> float:
        return (1 - hits) * 2 + hits * 0.1

    def drawn(requests: int, share: float) -> tuple[int, float]:
        spread = (share * (1 - share) / requests) ** 0.5
        return requests, min(max(chance.gauss(share, spread), 0), 1)

    ratios: list[float] = []
    for _ in range(500):
        share = chance.uniform(0.5, 0.98)
        past = [drawn(size, share) for _ in range(4) for size in (4000, 4000, 4000, 300)]
        answers = sum(count for count, _ in past)
        hits = sum(count * one for count, one in past) / answers
        known = Lengths(answers, 1.0, 1.0, True, 100, hits, least_hits(hits, past))
        _, came = drawn(12_000, share)
        ratios.append(cost(known.hits_p99(12_000)) / cost(came))
    assert sum(ratio < 1 for ratio in ratios) <= 2 and max(ratios) < 1.3


def test_the_reserve_of_answers_is_passed_hardly_ever_and_not_far_above() -> None:
    """Nights whose answers are a few words or many: two means, drawn anew each time."""
    chance = random.Random(2)
    ratios: list[float] = []
    for _ in range(300):
        short, long, share = chance.uniform(5, 50), chance.uniform(100, 400), chance.random()
        nights = chance.choice([60, 1_000, 12_000])

        def drawn(size: int, short=short, long=long, share=share) -> tuple[float, float, float]:
            spread = (long - short) * (share * (1 - share)) ** 0.5
            mean = share * long + (1 - share) * short
            return max(short, chance.gauss(mean, spread / size**0.5)), spread, long

        past = [(nights, drawn(nights)[0]) for _ in range(4)]
        mean, (came, spread, p99) = sum(one for _, one in past) / 4, drawn(nights)
        known = Lengths(
            4 * nights, mean, p99, True, spread=spread, mean_most=most_mean(mean, spread, past)
        )
        reserved = known.output_p99(nights)
        assert reserved is not None and reserved <= p99 and known.output_p99(1) == p99
        ratios.append(reserved / came if nights == 12_000 else min(reserved / came, 1.3))
    assert sum(ratio < 1 for ratio in ratios) <= 1 and max(ratios) <= 1.3
    # One batch whose answers were longer than chance makes them: there may be such a one again.
    assert 119 < most_mean(100, 10, [(1_000, 100), (1_000, 120)]) < 120
    assert Lengths(30, 10.0, 20.0, False).output_p99(30) is None


def test_an_unknown_price_is_an_unknown_cost() -> None:
    found = estimate(built(1, 1000), compiled(model="claude-x"), at=NOW, lengths=answers(1))
    assert (found.usd_max, found.usd_likely) == (None, None)
    assert found.input_tokens == 400


def test_inference_in_the_us_is_estimated_with_its_factor_where_that_is_published() -> None:
    def usd(**fields: Any) -> Decimal | None:
        return estimate(built(10, 5_000), compiled(**fields), at=NOW).usd_max

    us, plain = {"params": {"inference_geo": "us"}}, usd(model="claude-opus-4-8")
    assert plain is not None and usd(model="claude-opus-4-8", **us) == plain * Decimal("1.1")
    assert usd(**us) is None  # on Haiku 4.5 the API refuses it
    assert usd(model="claude-opus-4-8", params={"inference_geo": "eu"}) is None


def test_nothing_to_ask_costs_nothing_whatever_the_model() -> None:
    assert estimate(built(0, 0), compiled(model="claude-x"), at=NOW).usd_max == 0


@pytest.mark.parametrize("answer", [0, -5, 10**30, float("inf")])
def test_a_count_that_no_request_has_is_none(answer: float) -> None:
    """A gateway that answers 0 for whatever it does not know would let any sum pass a cap."""
    lines = [orjson.dumps({"params": {"system": "s", "n": n}}) for n in range(5)]
    for replies in ([answer], [300, 300, 300, 300, 300, answer]):
        left = iter(replies)
        rate = count(lines, 5, lambda _: int(next(left)))  # noqa: B023 - called at once
        assert (rate.sample, rate.shared) == ((0, None) if len(replies) == 1 else (5, None))
