"""What a beta brings into a batch, each as the API's documentation or the SDK's types have it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.emulator.catalog import charge
from batch_pipeline_tests.emulator.in_process import InProcess
from batch_pipeline_tests.support.api_requests import params

BATCHES = "/v1/messages/batches"
OPUS = "claude-opus-4-8"
COMPACT, LONG = "compact-2026-01-12", "output-300k-2026-03-24"
MCP = {"type": "url", "url": "https://mcp.example/sse", "name": "shop"}
LONG_TEXT = [{"role": "user", "content": "word " * 30_000}]  # 60,000 tokens


def answered(folder: Path, asked: dict[str, Any], betas: str = "") -> dict[str, Any]:
    """The result of a request in a batch of its own, and its line of the bill."""
    emulator = InProcess(folder)
    headers = [("anthropic-version", "2026-10-21"), *([("anthropic-beta", betas)] if betas else [])]
    body = {"requests": [{"custom_id": "a", "params": asked}]}
    created = emulator.call("POST", BATCHES, body, headers=headers).document
    ended = emulator.call("GET", f"{BATCHES}/{created['id']}").document
    assert ended["processing_status"] == "ended"
    (line,) = emulator.call("GET", f"{BATCHES}/{created['id']}/results").body.splitlines()
    return orjson.loads(line)["result"]


def compacting(**edit: Any) -> dict[str, Any]:
    given = {
        "type": "compact_20260112",
        "trigger": {"type": "input_tokens", "value": 50_000},
        **edit,
    }
    return params(model=OPUS, messages=LONG_TEXT, context_management={"edits": [given]})


@pytest.mark.parametrize(
    ("asked", "betas"),
    [
        (params(model=OPUS, max_tokens=300_000), LONG),
        (
            params(mcp_servers=[MCP], tools=[{"type": "mcp_toolset", "mcp_server_name": "shop"}]),
            "mcp-client-2025-11-20",
        ),
        (
            params(context_management={"edits": [{"type": "clear_tool_uses_20250919"}]}),
            "context-management-2025-06-27",
        ),
        (compacting(trigger=None), COMPACT),
        (params(fallbacks="default"), "server-side-fallback-2026-07-01"),
    ],
)
def test_what_needs_a_beta_is_answered_with_its_header_and_refused_without(
    tmp_path: Path, asked: dict[str, Any], betas: str
) -> None:
    result = answered(tmp_path / "with", asked, betas)
    assert result["type"] == "succeeded", result
    if "context_management" in asked:
        assert result["message"]["context_management"] == {"applied_edits": []}
    without = answered(tmp_path / "without", asked)["error"]["error"]
    assert without["type"] == "invalid_request_error"


def test_a_context_at_its_threshold_is_compacted_and_all_iterations_are_billed(
    tmp_path: Path,
) -> None:
    message = answered(tmp_path, compacting(), COMPACT)["message"]
    assert [block["type"] for block in message["content"]] == ["compaction", "text"]
    usage = message["usage"]
    compaction, last = usage["iterations"]
    assert compaction["type"] == "compaction" and compaction["input_tokens"] >= 60_000
    assert (last["input_tokens"], last["output_tokens"]) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )
    assert usage["input_tokens"] < 1_000
    billed = charge(OPUS, usage, batch=True)
    tokens = [
        sum(one[name] for one in (compaction, last)) for name in ("input_tokens", "output_tokens")
    ]
    assert billed == (tokens[0] * Decimal("2.5") + tokens[1] * Decimal("12.5")) / 1_000_000


@pytest.mark.parametrize(
    ("asked", "betas"),
    [
        (compacting(pause_after_compaction=True), COMPACT),
        (params(model=OPUS, compaction={"type": "summarize"}), "compact-2026-09-04"),
    ],
)
def test_a_turn_may_stop_after_its_compaction(
    tmp_path: Path, asked: dict[str, Any], betas: str
) -> None:
    message = answered(tmp_path, asked, betas)["message"]
    assert message["stop_reason"] == "compaction"
    assert [block["type"] for block in message["content"]] == ["compaction"]
    assert [one["type"] for one in message["usage"]["iterations"]] == ["compaction"]
    assert message["usage"]["output_tokens"] == 0


def test_a_plain_document_that_asks_for_it_is_cited(tmp_path: Path) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Rent is due on Monday."}
    document = {
        "type": "document",
        "source": source,
        "citations": {"enabled": True},
        "title": "Lease",
    }
    other = {"type": "document", "source": source}
    question = {"type": "text", "text": "When is rent due?"}
    asked = params(messages=[{"role": "user", "content": [other, document, question]}])
    (block,) = answered(tmp_path, asked)["message"]["content"]
    (cited,) = block["citations"]
    assert (cited["document_index"], cited["document_title"]) == (1, "Lease")
    assert (
        source["data"][cited["start_char_index"] : cited["end_char_index"]] == cited["cited_text"]
    )
