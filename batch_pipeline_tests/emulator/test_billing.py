"""Tokens, prompt caches and the bill."""

from decimal import Decimal
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.api_requests import params, requests

LONG = "You are a careful clerk. " * 600  # 15,000 characters, about 6,000 tokens
HALF = Decimal("0.5")
MILLION = Decimal(1_000_000)


def cached(ttl: str = "1h", text: str = LONG) -> list[dict[str, Any]]:
    control = {"type": "ephemeral", "ttl": ttl}
    return [{"type": "text", "text": text, "cache_control": control}]


def answered(client: anthropic.Anthropic, asked: list[dict[str, Any]]) -> dict[str, Message]:
    batch = client.messages.batches.create(requests=asked)
    client.messages.batches.retrieve(batch.id)
    return {
        line.custom_id: line.result.message
        for line in client.messages.batches.results(batch.id)
        if line.result.type == "succeeded"
    }


def test_the_bill_is_the_usage_of_what_succeeded_at_half_price(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 0.2, "expired": 0.1})
    messages = answered(client, requests(100))
    expected = Decimal(0)
    for message in messages.values():
        tokens = message.usage
        expected += (tokens.input_tokens * Decimal(1) + tokens.output_tokens * 5) / MILLION * HALF
        assert tokens.service_tier == "batch"
    bill = claude_emulator.bill()
    assert 50 < bill["requests"] == len(messages) < 90
    assert bill["batches"] == 1
    assert Decimal(bill["usd"]) == expected
    rows = claude_emulator.billed_requests()
    assert len(rows) == 100
    assert sum(Decimal(row["usd"]) for row in rows) == expected
    assert {row["usd"] for row in rows if row["result"] != "succeeded"} == {"0"}
    assert len({row["params_sha256"] for row in rows}) == 100


def test_a_model_without_a_known_price_has_no_cost(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(any_model=True)
    answered(client, requests(2, model="claude-next-9"))
    assert {row["usd"] for row in claude_emulator.billed_requests()} == {None}
    bill = claude_emulator.bill()
    assert (bill["usd"], bill["unpriced_requests"]) == ("0", 2)


def test_a_direct_message_costs_the_full_price(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    message = client.messages.create(**params("Say hello to everybody."))
    assert message.usage.service_tier == "standard"
    cost = (message.usage.input_tokens + message.usage.output_tokens * 5) / MILLION
    bill = claude_emulator.bill()
    assert (bill["requests"], bill["messages"]) == (0, 1)
    assert Decimal(bill["messages_usd"]) == cost


def test_the_first_request_writes_the_cache_and_the_others_read_it(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    messages = answered(client, requests(20, system=cached()))
    usages = [message.usage for message in messages.values()]
    writers = [usage for usage in usages if usage.cache_creation_input_tokens]
    readers = [usage for usage in usages if usage.cache_read_input_tokens]
    assert (len(writers), len(readers)) == (1, 19)
    written = writers[0].cache_creation_input_tokens
    assert written == writers[0].cache_creation.ephemeral_1h_input_tokens == 6000
    assert {usage.cache_read_input_tokens for usage in readers} == {written}
    assert all(usage.input_tokens < 50 for usage in usages)
    expected = sum(
        usage.input_tokens
        + usage.output_tokens * 5
        + usage.cache_creation_input_tokens * 2
        + usage.cache_read_input_tokens * Decimal("0.1")
        for usage in usages
    )
    assert Decimal(claude_emulator.bill()["usd"]) == expected / MILLION * HALF


def test_a_cache_outlives_its_batch_for_as_long_as_its_ttl(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.set_clock("2030-01-01T00:00:00Z")
    claude_emulator.freeze_clock()

    def written(ttl: str, minutes: int) -> int | None:
        claude_emulator.advance(60 * minutes)
        [message] = answered(client, requests(1, system=cached(ttl, f"{ttl} {LONG}"))).values()
        return message.usage.cache_creation_input_tokens

    assert written("5m", 0)
    assert not written("5m", 4)
    assert not written("5m", 4), "reading keeps a cache alive"
    assert written("5m", 6)
    assert written("1h", 0)
    claude_emulator.kill()
    claude_emulator.restart()
    assert not written("1h", 50)
    assert written("1h", 61)


def test_a_prefix_below_the_models_minimum_is_not_cached(client: anthropic.Anthropic) -> None:
    short = cached(text="x" * 5000)  # 2,000 tokens: enough for Sonnet 5, too few for Haiku 4.5
    for usage in (
        message.usage for message in answered(client, requests(3, system=short)).values()
    ):
        assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (0, 0)
    sonnet = requests(3, system=short, model="claude-sonnet-5")
    reads = [m.usage.cache_read_input_tokens for m in answered(client, sonnet).values()]
    assert sorted(reads) == [0, 2000, 2000]


def test_caches_are_not_shared_by_models_schemas_or_direct_messages(
    client: anthropic.Anthropic,
) -> None:
    def reads(**changes: Any) -> int | None:
        [message] = answered(client, requests(1, system=cached(), **changes)).values()
        return message.usage.cache_read_input_tokens

    client.messages.create(**params(system=cached()))
    assert not reads()
    assert reads()
    assert not reads(model="claude-sonnet-5")
    schema = {"type": "object", "properties": {}, "additionalProperties": False, "required": []}
    assert not reads(output_config={"format": {"type": "json_schema", "schema": schema}})


def test_some_requests_can_miss_the_cache(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"cache_miss": 0.5})
    messages = answered(client, requests(60, system=cached()))
    writers = [m for m in messages.values() if m.usage.cache_creation_input_tokens]
    assert 15 < len(writers) < 45


def test_an_answer_longer_than_max_tokens_is_cut(client: anthropic.Anthropic) -> None:
    [message] = answered(client, requests(1, prefix="record" * 9, max_tokens=4)).values()
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 4
    assert len(message.content[0].text) == 10


def test_tokens_are_counted_as_they_are_billed(client: anthropic.Anthropic) -> None:
    asked = params("How many tokens are there in this prompt?", system="Count.")
    message = client.messages.create(**asked)
    del asked["max_tokens"]
    assert client.messages.count_tokens(**asked).input_tokens == message.usage.input_tokens


def test_the_models_say_what_they_can(client: anthropic.Anthropic) -> None:
    listed = list(client.models.list())
    assert len(listed) > 10
    haiku = client.models.retrieve("claude-haiku-4-5")
    assert haiku.id == "claude-haiku-4-5-20251001"
    assert haiku.capabilities is not None
    assert haiku.capabilities.batch.supported
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-nothing")
