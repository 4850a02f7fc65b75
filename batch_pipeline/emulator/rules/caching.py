"""What may be cached."""

from collections.abc import Iterator
from typing import Any

from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.rules.rule import Asked, rule
from batch_pipeline.emulator.rules.shape import fields_of

MAX_BREAKPOINTS = 4


def cacheable_blocks(params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that may carry `cache_control`, in the order of the prompt."""
    yield from params.get("tools") or ()
    if isinstance(params.get("system"), list):
        yield from params["system"]
    for message in params["messages"]:
        if isinstance(message["content"], list):
            yield from message["content"]


@rule("SDK types/cache_control_ephemeral_param.py; docs Prompt caching 2026-08-22 (reference 6)")
def wrong_cache_control(asked: Asked) -> None:
    """More than four breakpoints, one of another kind, or one of an hour after one of five minutes."""
    params = asked.params
    found = [block["cache_control"] for block in cacheable_blocks(params) if _marked(block)]
    if params.get("cache_control") is not None:
        found.append(params["cache_control"])
    if len(found) > MAX_BREAKPOINTS:
        raise invalid(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {len(found)}."
        )
    short_seen = False
    for control in found:
        if not isinstance(control, dict) or control.get("type") != "ephemeral":
            raise invalid("cache_control.type: Input should be 'ephemeral'")
        fields_of(control, "cache_control", {"type": "any"}, {"ttl": "any"})
        ttl = control.get("ttl", "5m")
        if not isinstance(ttl, str) or ttl not in ("5m", "1h"):
            raise invalid("cache_control.ttl: Input should be '5m' or '1h'")
        if ttl == "1h" and short_seen:
            raise invalid("cache_control: a ttl='1h' block must not come after a ttl='5m' block")
        short_seen = short_seen or ttl == "5m"


def _marked(block: dict[str, Any]) -> bool:
    return block.get("cache_control") is not None
