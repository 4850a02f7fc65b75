"""What compaction makes of an answer: a summary before it or in its place, and usage by iteration.

Sources: docs "Compaction at a token threshold" (the trigger is 150,000 input tokens unless it says so, 50,000
at least; the top level of `usage` leaves the compaction out; the sum of `iterations` is billed); SDK
types/beta/beta_compact_20260112_edit_param.py, beta_compaction_config_param.py, beta_compaction_block.py,
beta_usage.py. How long a summary is, that it is not read from a cache, and that compaction on demand stops
with `compaction`, too, are our reading.
"""

from typing import Any

from batch_pipeline.emulator.prompt import Prompt, count_tokens
from batch_pipeline.emulator.rules.fields import COMPACT

TRIGGER = 150_000
_SUMMARY = "Summary of the conversation: {}"
_SUMMARY_CHARACTERS = 400
_COUNTS = (
    "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
    "cache_creation",
)  # fmt: skip
_NOTHING: dict[str, Any] = {
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
}


def compaction_edit(params: dict[str, Any]) -> dict[str, Any] | None:
    """The edit that asks for compaction at a threshold."""
    edits = (params.get("context_management") or {}).get("edits") or ()
    return next((one for one in edits if one.get("type") == COMPACT), None)


def trigger_of(edit: dict[str, Any]) -> int:
    """The input tokens at which it compacts."""
    return (edit.get("trigger") or {}).get("value", TRIGGER)


def with_compaction(
    params: dict[str, Any], prompt: Prompt, message: dict[str, Any]
) -> dict[str, Any]:
    """The message as it is when its request asks for compaction; as it was when it does not.

    Args:
        params: Parameters of the request, which have been checked.
        prompt: Its prompt.
        message: The answer without compaction.
    """
    if params.get("context_management") is not None:
        message = {**message, "context_management": {"applied_edits": []}}
    edit, on_demand = compaction_edit(params), params.get("compaction") is not None
    if not on_demand and (edit is None or prompt.tokens < trigger_of(edit)):
        return message
    summary = _SUMMARY.format(prompt.user[:_SUMMARY_CHARACTERS])
    block = {"type": "compaction", "content": summary}
    length, usage = count_tokens(summary), message["usage"]
    read = {name: usage[name] for name in _COUNTS} | {"output_tokens": length}
    iterations = [{"type": "compaction", **read}]
    if on_demand or (edit or {}).get("pause_after_compaction"):
        stopped = {"stop_reason": "compaction", "stop_sequence": None, "stop_details": None}
        left = {"input_tokens": 0, "output_tokens": 0, **_NOTHING}
        usage = {**usage, **left, "iterations": iterations}
        return {**message, **stopped, "content": [block], "usage": usage}
    left = {"input_tokens": length, "output_tokens": usage["output_tokens"], **_NOTHING}
    iterations.append({"type": "message", **left})
    usage = {**usage, **left, "iterations": iterations}
    return {**message, "content": [block, *message["content"]], "usage": usage}
