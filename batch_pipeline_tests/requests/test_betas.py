"""A night whose question needs a beta: it is answered, and costs what the emulator's bill says."""

from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.given_answers import OneRecord

LONG = "select 1 as id, repeat('word ', 30000) as v"  # 60,000 tokens
EDIT = {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}


def test_compaction_in_a_batch_is_answered_and_its_cost_is_whole(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    one = OneRecord(tmp_path, claude_emulator, LONG)
    asked = {"model": "claude-opus-4-8", "params": {"context_management": {"edits": [EDIT]}}}
    refused = one.nights(**asked).refusal("submit", {})
    assert "context_management: Extra inputs are not permitted" in refused
    assert claude_emulator.batches() == []
    night = one.nights(**asked, betas=["compact-2026-01-12"])
    night.night()
    row, bill = one.row(), claude_emulator.bill()
    assert row["_status"] == "answered" and bill["requests"] == 1
    assert row["_cost_usd"] == pytest.approx(float(bill["usd"])) and row["_cost_usd"] > 0.15
