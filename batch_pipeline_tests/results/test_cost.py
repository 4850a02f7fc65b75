"""What an answer cost, and when that is not known."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.results.cost import answer_cost

NOW = datetime(2026, 11, 20, tzinfo=UTC)
USAGE: dict[str, Any] = {
    "input_tokens": 100,
    "output_tokens": 10,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
    "service_tier": "batch",
    "inference_geo": "global",
}


def cost(**changes: Any) -> Decimal | None:
    return answer_cost("claude-haiku-4-5-20251001", USAGE | changes, NOW)


def test_reads_writes_and_the_rest_have_their_own_price() -> None:
    million = 1_000_000
    assert cost() == (
        100 * Decimal("0.5")
        + 10 * Decimal("2.5")
        + 1000 * Decimal("0.05")
        + 200 * Decimal("0.625")
        + 300 * Decimal("1")
    ) / Decimal(million)


def test_only_two_counts_are_needed() -> None:
    usage = {"input_tokens": 2, "output_tokens": 4, "cache_creation": None, "server_tool_use": None}
    assert answer_cost("claude-haiku-4-5", usage, NOW) == Decimal("0.000011")


def test_web_searches_are_added_and_fetches_are_free() -> None:
    tools = {"web_search_requests": 3, "web_fetch_requests": 5}
    assert cost(server_tool_use=tools) == (cost() or 0) + Decimal("0.03")


@pytest.mark.parametrize(
    "change",
    [
        {"input_tokens": None},
        {"input_tokens": -1},
        {"output_tokens": "7"},
        {"output_tokens": True},
        {"output_tokens": 10**15},
        {"cache_creation": None},
        {"cache_creation": {"ephemeral_5m_input_tokens": 499}},
        {"cache_creation": 7},
        {"inference_geo": "us"},
        {"inference_geo": ["us"]},
        {"speed": "fast"},
        {"service_tier": "priority"},
        {"server_tool_use": {"code_execution_requests": 1}},
        {"server_tool_use": [1]},
    ],
)
def test_what_cannot_be_priced_for_sure_has_no_cost(change: dict[str, Any]) -> None:
    assert cost(**change) is None


@pytest.mark.parametrize("usage", [None, [], {}])
def test_no_usage_has_no_cost(usage: Any) -> None:
    assert answer_cost("claude-haiku-4-5", usage, NOW) is None
    assert answer_cost(None, USAGE, NOW) is None
