"""Batch prices, and that an unknown one stays unknown."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.emulator.catalog import MODELS
from batch_pipeline.requests.prices import BATCH, Tokens, batch_cost, batch_price

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MILLION = 1_000_000


def reference(model: str, tokens: Tokens) -> Decimal:
    """Return what genai-prices itself says."""
    written = tokens.cache_write_5m + tokens.cache_write_1h
    usage = Usage(
        input_tokens=tokens.input + tokens.cache_read + written,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=written,
        cache_write_5m_tokens=tokens.cache_write_5m,
        cache_write_1h_tokens=tokens.cache_write_1h,
        web_searches=tokens.web_searches,
    )
    return calc_price(
        usage,
        model,
        provider_id="anthropic",
        price_context=BATCH,
        genai_request_timestamp=NOW,
    ).total_price


def test_every_part_of_a_request_has_its_batch_price() -> None:
    price = batch_price("claude-haiku-4-5", NOW.date())
    assert price is not None
    assert price.cost(Tokens(input=MILLION)) == Decimal("0.5")
    assert price.cost(Tokens(output=MILLION)) == Decimal("2.5")
    assert price.cost(Tokens(cache_read=MILLION)) == Decimal("0.05")
    assert price.cost(Tokens(cache_write_5m=MILLION)) == Decimal("0.625")
    assert price.cost(Tokens(cache_write_1h=MILLION)) == Decimal("1")
    assert price.cost(Tokens(web_searches=1000)) == Decimal("10")
    assert price.cost(Tokens()) == 0


def test_a_long_prompt_has_the_price_of_its_tier_cache_included() -> None:
    short = batch_cost("claude-haiku-5-5", Tokens(input=100, cache_read=99_900), NOW)
    long = batch_cost("claude-haiku-5-5", Tokens(input=101, cache_read=99_900), NOW)
    assert short == (100 * Decimal("0.05") + 99_900 * Decimal("0.005")) / MILLION
    assert long == (101 * Decimal("0.25") + 99_900 * Decimal("0.025")) / MILLION


counts = st.integers(0, 300_000)
priced = [
    model.id
    for provider in get_snapshot().providers
    if provider.id == "anthropic"
    for model in provider.models
    if batch_price(model.id, NOW.date())
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(priced), st.builds(Tokens, counts, counts, counts, counts, counts, counts))
def test_costs_are_exactly_those_of_genai_prices(model: str, tokens: Tokens) -> None:
    assert batch_cost(model, tokens, NOW) == reference(model, tokens)


@pytest.mark.parametrize("prompt", [1000, 150_000])
def test_the_emulator_bills_what_the_list_says(prompt: int) -> None:
    """Of each part, so that no mean hides one: its own list is made from other sources."""
    parts = {"input": "input", "cache_read": "read", "cache_write_5m": "write_5m", "cache_write_1h": "write_1h"}  # fmt: skip
    for model in MODELS.values():
        price = (prompt > 100_000 and model.long_price) or model.price
        for part, billed in parts.items():
            listed = batch_cost(model.id, Tokens(**{part: prompt}), NOW)
            usd = price and getattr(price, billed)
            if listed is not None and usd is not None:
                assert listed == prompt * usd / 2 / MILLION, f"{model.id}: {part}"


def test_every_model_of_today_has_a_price() -> None:
    today = "haiku-4-5 haiku-5-5 sonnet-4-6 sonnet-5-5 opus-4-8 opus-5-5 fable-5-1 fable-5-2"
    assert {f"claude-{name}" for name in today.split()} <= set(priced)


def test_a_dated_release_has_the_price_of_its_model() -> None:
    tokens = Tokens(input=10, output=10)
    dated = batch_cost("claude-haiku-4-5-20251001", tokens, NOW)
    assert dated == batch_cost("claude-haiku-4-5", tokens, NOW) is not None


@pytest.mark.parametrize(
    "model",
    [
        "gpt-9",
        "",
        "claude-haiku-4-5-turbo",
        "claude-haiku-4-51",
        "claude-sonnet-4-0",
        "claude-3-haiku-20240307",
    ],
)
def test_a_model_without_a_known_batch_price_has_no_cost(model: str) -> None:
    assert batch_cost(model, Tokens(input=1, output=1), NOW) is None


def test_a_day_before_the_batch_price_was_listed_has_no_cost() -> None:
    assert batch_price("claude-haiku-4-5", date(2026, 10, 13)) is None
    assert batch_price("claude-haiku-4-5", date(2026, 10, 14)) is not None


def test_the_utc_day_decides() -> None:
    west = timezone(timedelta(hours=-8))
    late = datetime(2026, 10, 13, 20, tzinfo=west)
    tokens = Tokens(input=1)
    assert batch_cost("claude-haiku-4-5", tokens, late) is not None
    assert batch_cost("claude-haiku-4-5", tokens, datetime(2026, 10, 13, 20)) is None
