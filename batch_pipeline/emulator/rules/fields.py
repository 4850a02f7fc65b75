"""Which fields a request may have, and of what type they are."""

from typing import NamedTuple

import orjson

from batch_pipeline.emulator.betas import COMPACTION_EDIT, NEEDED_BY_FIELD
from batch_pipeline.emulator.errors import invalid
from batch_pipeline.emulator.rules.rule import OUR_READING, Asked, needs_beta, rule
from batch_pipeline.emulator.rules.shape import CHECKS, a_text, fields_of, one_of

COMPACT = "compact_20260112"
LEAST_TRIGGER = 50_000
_SDK = "SDK types/message_create_params.py, types/beta/message_create_params.py"
_BATCH_GUIDE = "docs batch processing 2026-09-26 (reference 2)"


class Field(NamedTuple):
    """A field: its types, whether it may be null, and whether only counting tokens knows it not."""

    kinds: tuple[str, ...]
    null: bool = False
    counted: bool = False


# SDK types/message_create_params.py; `counted`: types/message_count_tokens_params.py and its beta twin
FIELDS: dict[str, Field] = {
    "model": Field(("text",), counted=True),
    "max_tokens": Field(("integer",)),
    "messages": Field(("list",), counted=True),
    "system": Field(("text", "list"), counted=True),
    "stream": Field(("truth",)),
    "stop_sequences": Field(("list",)),
    "metadata": Field(("object",)),
    "tools": Field(("list",), counted=True),
    "tool_choice": Field(("object",), counted=True),
    "thinking": Field(("object",), counted=True),
    "output_config": Field(("object",), counted=True),
    "cache_control": Field(("object",), null=True, counted=True),
    "container": Field(("text", "object"), null=True),
    "diagnostics": Field(("object",), null=True),
    "inference_geo": Field(("text",), null=True),
    "service_tier": Field(("text",)),
    "speed": Field(("text",), null=True, counted=True),
    # headers that the SDK types beside the fields of a request of a batch
    "user_profile_id": Field(("text",), counted=True),
    "workspace_id": Field(("text",), counted=True),
    # SDK types/beta/message_create_params.py
    "context_management": Field(("object",), null=True, counted=True),
    "mcp_servers": Field(("list",), counted=True),
    "fallbacks": Field(("list", "text"), null=True, counted=True),
    "fallback_credit_token": Field(("text", "object"), null=True),
    "compaction": Field(("object",), null=True, counted=True),
    "billing_policy": Field(("object",), null=True),
    "thread": Field(("object",), null=True),
    "betas": Field(("list",), counted=True),
    # no longer typed; see the rules about them
    "output_format": Field(("object",), null=True, counted=True),
    "temperature": Field(("number",), null=True, counted=True),
    "top_p": Field(("number",), null=True, counted=True),
    "top_k": Field(("integer",), null=True, counted=True),
}
_REFUSED_IN_BATCHES = (
    "speed",
    "store",
    "previous_thread_event_id",
    "thread",
    "cache_hint",
    "context_hint",
    "research_preview_2026_02",
)


@rule(OUR_READING)
def too_deep(asked: Asked) -> None:
    """What is nested deeper than about 250 levels."""
    try:
        orjson.dumps(asked.params)
    except TypeError:
        raise invalid("Input is nested too deeply") from None


@rule(_BATCH_GUIDE)
def not_in_batches(asked: Asked) -> None:
    """In a batch: `stream`, `speed`, threads, cache and context hints."""
    if not asked.occasion.batch:
        return
    for name in _REFUSED_IN_BATCHES:
        if asked.params.get(name) is not None:
            raise invalid(f"{name}: not supported in the Message Batches API")
    if asked.params.get("stream") is True:
        raise invalid("stream: streaming is not supported in the Message Batches API")


@rule(_SDK + "; message_count_tokens_params.py")
def unknown_field(asked: Asked) -> None:
    """A field that the API does not have, or does not have for counting tokens."""
    for name in asked.params:
        field = FIELDS.get(name)
        if field is None or (asked.occasion.call == "count" and not field.counted):
            raise invalid(f"{name}: Extra inputs are not permitted")


@rule("SDK types/beta; Wei-Shaw/sub2api#6454; langchain-ai/langchain#34116")
def field_without_its_beta(asked: Asked) -> None:
    """A field that a beta brings, without its beta header."""
    for name, needed in NEEDED_BY_FIELD.items():
        if asked.params.get(name) is not None:
            needs_beta(asked, name, needed)


@rule(_SDK + "; null where the SDK does not type it is our reading")
def wrong_type(asked: Asked) -> None:
    """A field of the wrong type, or null where it may not be."""
    for name, value in asked.params.items():
        field = FIELDS[name]
        if value is None and field.null:
            continue
        for kind in field.kinds[:-1]:
            if _is(value, kind):
                break
        else:
            CHECKS[field.kinds[-1]](value, name)


def _is(value: object, kind: str) -> bool:
    return isinstance(value, str if kind == "text" else list if kind == "list" else dict)


@rule(_SDK)
def missing_field(asked: Asked) -> None:
    """No `model`, `messages` or `max_tokens`."""
    for name in ("model", "max_tokens", "messages"):
        if name not in asked.params and not (
            name == "max_tokens" and asked.occasion.call == "count"
        ):
            raise invalid(f"{name}: Field required")


@rule("SDK types/metadata_param.py; the length is our reading")
def wrong_metadata(asked: Asked) -> None:
    """`metadata` with another field than `user_id`, or a `user_id` above 256 characters."""
    if "metadata" in asked.params:
        found = fields_of(asked.params["metadata"], "metadata", {}, {"user_id": "text?"})
        if len(found.get("user_id") or "") > 256:
            raise invalid("metadata.user_id: String should have at most 256 characters")


@rule("SDK types/message_create_params.py; that blanks are refused is our reading")
def wrong_stop_sequences(asked: Asked) -> None:
    """`stop_sequences` that are no texts, or nothing but blanks."""
    for index, sequence in enumerate(asked.params.get("stop_sequences") or ()):
        if not a_text(sequence, f"stop_sequences.{index}").strip():
            raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


@rule("SDK types: container_params.py, diagnostics_param.py, beta_compaction_config_param.py, ...")
def wrong_beta_field(asked: Asked) -> None:
    """`container`, `diagnostics`, `compaction`, `billing_policy`, `fallbacks`, ... of another shape."""
    params = asked.params
    if isinstance(params.get("container"), dict):
        fields_of(params["container"], "container", {}, {"id": "text?", "skills": "list?"})
    if params.get("diagnostics") is not None:
        fields_of(params["diagnostics"], "diagnostics", {}, {"previous_message_id": "text?"})
    if params.get("compaction") is not None:
        fields_of(params["compaction"], "compaction", {"type": "text"}, {"instructions": "text?"})
    if params.get("billing_policy") is not None:
        fields_of(params["billing_policy"], "billing_policy", {"type": "text"}, {"bill_to": "any"})
    if isinstance(params.get("fallback_credit_token"), dict):
        fields_of(
            params["fallback_credit_token"], "fallback_credit_token", {"token": "text"},
            {"mode": "text"},
        )  # fmt: skip
    fallbacks = params.get("fallbacks")
    if isinstance(fallbacks, str) and fallbacks != "default":
        raise invalid("fallbacks: Input should be 'default' or a valid list")
    for index, one in enumerate(fallbacks if isinstance(fallbacks, list) else ()):
        fields_of(one, f"fallbacks.{index}", {"model": "text"}, more=True)
    for index, one in enumerate(params.get("mcp_servers") or ()):
        required = {"type": "text", "url": "text", "name": "text"}
        fields_of(one, f"mcp_servers.{index}", required, more=True)
    if params.get("context_management") is not None:
        found = fields_of(params["context_management"], "context_management", {}, {"edits": "list"})
        for index, one in enumerate(found.get("edits") or ()):
            fields_of(one, f"context_management.edits.{index}", {"type": "text"}, more=True)
    for index, one in enumerate(params.get("betas") or ()):
        a_text(one, f"betas.{index}")


@rule("docs Compaction at a token threshold; SDK types/beta/beta_compact_20260112_edit_param.py")
def wrong_compaction(asked: Asked) -> None:
    """`compact_20260112` without its own beta, with fields that it has not, or at less than 50,000 tokens."""
    edits = (asked.params.get("context_management") or {}).get("edits") or ()
    for index, edit in enumerate(edits):
        if edit["type"] != COMPACT:
            continue
        where = f"context_management.edits.{index}"
        needs_beta(asked, where, (COMPACTION_EDIT,))
        optional = {
            "instructions": "text?",
            "pause_after_compaction": "truth",
            "trigger": "object?",
        }
        fields_of(edit, where, {"type": "text"}, optional)
        if edit.get("trigger") is None:
            continue
        fields_of(edit["trigger"], f"{where}.trigger", {"type": "text", "value": "integer"})
        one_of(edit["trigger"]["type"], ("input_tokens",), f"{where}.trigger.type")
        if edit["trigger"]["value"] < LEAST_TRIGGER:
            raise invalid(
                f"{where}.trigger.value: Input should be greater than or equal to {LEAST_TRIGGER}"
            )
