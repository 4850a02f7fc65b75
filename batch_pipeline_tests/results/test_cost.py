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


def iteration(type: str, sent: int, written: int, **more: Any) -> dict[str, Any]:
    return {"type": type, "input_tokens": sent, "output_tokens": written, **more}


PLAIN: dict[str, Any] = {"input_tokens": 100, "output_tokens": 10}


def test_what_compaction_and_an_advisor_used_beside_the_total_is_billed_too() -> None:
    each = answer_cost("claude-opus-4-8", PLAIN, NOW)
    assert each is not None
    message, compaction = iteration("message", 100, 10), iteration("compaction", 1000, 100)
    assert answer_cost("claude-opus-4-8", PLAIN | {"iterations": [message]}, NOW) == each
    iterations = [compaction, iteration("message", 40, 4), iteration("message", 60, 6)]
    assert answer_cost("claude-opus-4-8", PLAIN | {"iterations": iterations}, NOW) == 11 * each
    advisor = iteration("advisor_message", 100, 10, model="claude-haiku-4-5")
    cheap = answer_cost("claude-haiku-4-5", PLAIN, NOW)
    both = answer_cost("claude-opus-4-8", PLAIN | {"iterations": [message, advisor]}, NOW)
    assert cheap is not None and both == each + cheap
    searched = {"iterations": [message], "server_tool_use": {"web_search_requests": 2}}
    assert answer_cost("claude-opus-4-8", PLAIN | searched, NOW) == each + Decimal("0.02")


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": [iteration("message", 100, 9)]},  # not what the total says
        {"iterations": [iteration("message", 100, 10), iteration("fallback_message", 5, 5)]},
        {"iterations": [iteration("message", 100, 10, model="claude-opus-5")]},
        {"iterations": [iteration("message", 100, 10), iteration("dreaming", 0, 0)]},
        {
            "iterations": [
                iteration("message", 100, 10),
                iteration("advisor_message", 1, 1, model="x"),
            ]
        },
        {"iterations": [iteration("message", 100, 10), iteration("compaction", 1, -1)]},
        {"iterations": [7]},
        {"iterations": {"message": 1}},
        {"fallback_credit": {"status": {"type": "redeemed"}}},
        {"fallback_credit": 1},
    ],
)
def test_iterations_and_credits_that_cannot_be_priced_leave_no_cost(change: dict[str, Any]) -> None:
    assert answer_cost("claude-opus-4-8", PLAIN | change, NOW) is None
    given = {"fallback_credit": {"status": {"type": "not_applied", "reason": "expired"}}}
    assert answer_cost("claude-opus-4-8", PLAIN | given, NOW) is not None


def test_inference_in_the_us_costs_a_tenth_more_where_that_is_published() -> None:
    for model in ("claude-opus-4-6", "claude-sonnet-5", "claude-opus-4-8-20260528"):
        here, tools = (
            answer_cost(model, PLAIN, NOW),
            {"server_tool_use": {"web_search_requests": 1}},
        )
        us = answer_cost(model, PLAIN | {"inference_geo": "us"}, NOW)
        assert here is not None and us == here * Decimal("1.1")
        searched = answer_cost(model, PLAIN | tools | {"inference_geo": "us"}, NOW)
        assert searched == us + Decimal("0.01")
        assert answer_cost(model, PLAIN | {"inference_geo": "eu"}, NOW) is None
    own = {"claude-opus-4-8": {"input": 1, "output": 1}}
    assert answer_cost("claude-opus-4-8", PLAIN, NOW, own) is not None
    assert answer_cost("claude-opus-4-8", PLAIN | {"inference_geo": "us"}, NOW, own) is None


def test_hours_of_a_container_are_known_only_where_they_are_free() -> None:
    assert answer_cost("claude-opus-4-8", PLAIN, NOW, ran_code=True) is None
    fetched = PLAIN | {"server_tool_use": {"web_fetch_requests": 1}}
    assert answer_cost("claude-opus-4-8", fetched, NOW, ran_code=True) is not None


@pytest.mark.parametrize("usage", [None, [], {}])
def test_no_usage_has_no_cost(usage: Any) -> None:
    assert answer_cost("claude-haiku-4-5", usage, NOW) is None
    assert answer_cost(None, USAGE, NOW) is None
