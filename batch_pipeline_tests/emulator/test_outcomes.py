"""Requests that do not end well, drawn the same way every time."""

from collections import Counter
from typing import Any

import anthropic
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.api_requests import params


def outcomes(
    client: anthropic.Anthropic, attempt: int, prompts: int = 200
) -> dict[str, tuple[str, str | None]]:
    """Prompt -> type of the result, and why."""
    batch = client.messages.batches.create(
        requests=[
            {"custom_id": f"{number}-{attempt}", "params": params(f"prompt number {number}")}
            for number in range(prompts)
        ]
    )
    client.messages.batches.retrieve(batch.id)
    return {
        line.custom_id.split("-")[0]: (line.result.type, _reason(line.result))
        for line in client.messages.batches.results(batch.id)
    }


def _reason(result: Any) -> str | None:
    if result.type == "errored":
        return result.error.error.type
    return result.message.stop_reason if result.type == "succeeded" else None


def test_rates_are_about_kept(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 0.1, "expired": 0.1, "invalid": 0.1})
    counted = Counter(outcomes(client, 1).values())
    assert 8 < counted["errored", "invalid_request_error"] < 35
    assert 8 < counted["errored", "api_error"] + counted["errored", "overloaded_error"] < 35
    assert 8 < counted["expired", None] < 35


def test_passing_trouble_passes_and_invalid_requests_stay_invalid(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 0.1, "invalid": 0.1})
    first, second = outcomes(client, 1), outcomes(client, 2)
    invalid = {key for key, (_, reason) in first.items() if reason == "invalid_request_error"}
    assert invalid == {key for key, (_, why) in second.items() if why == "invalid_request_error"}
    passing = {key for key, (type, _) in first.items() if type == "errored"} - invalid
    again = {key for key in passing if second[key][0] == "errored"}
    assert len(again) < len(passing) / 2


def test_the_seed_decides(client: anthropic.Anthropic, claude_emulator: EmulatorProcess) -> None:
    claude_emulator.configure(rates={"expired": 0.5})
    first = outcomes(client, 1)
    assert outcomes(client, 1) == first
    claude_emulator.configure(seed=1)
    assert outcomes(client, 1) != first


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("refused", ("succeeded", "refusal")),
        ("truncated", ("succeeded", "max_tokens")),
        ("expired", ("expired", None)),
        ("invalid", ("errored", "invalid_request_error")),
    ],
)
def test_a_text_in_the_prompt_can_decide(
    client: anthropic.Anthropic,
    claude_emulator: EmulatorProcess,
    outcome: str,
    expected: tuple[str, str | None],
) -> None:
    claude_emulator.configure(outcomes={"number 3": outcome})
    found = outcomes(client, 1, prompts=5)
    assert found.pop("3") == expected
    assert set(found.values()) == {("succeeded", "end_turn")}
