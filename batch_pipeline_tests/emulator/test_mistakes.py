"""Mistakes that people make, and the error that the API answers each of them with.

The source of a line is that of its rule, see `batch_pipeline.emulator.rules`; where there is none the
rule says that it is our reading.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from batch_pipeline.emulator.betas import KNOWN
from batch_pipeline.emulator.errors import ApiError
from batch_pipeline.emulator.rules import OUR_READING, RULES, Asked, Occasion
from batch_pipeline.emulator.rules.fields import FIELDS
from batch_pipeline_tests.emulator.in_process import InProcess
from batch_pipeline_tests.emulator.odd_bodies import MARK, PIXEL, SCHEMA, TOOL
from batch_pipeline_tests.emulator.rules_table import PAGE, with_table
from batch_pipeline_tests.support.api_requests import params, with_schema

BATCHES = "/v1/messages/batches"
OLD, NEW = "2023-06-01", "2026-10-21"
FORCED = {"type": "tool", "name": "record"}
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
IMAGE = {"type": "base64", "media_type": "image/png", "data": PIXEL}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "Rent"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "record", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "dry"}
OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"


class Mistake(NamedTuple):
    """A request with a mistake, the rule that it breaks, and what the answer says."""

    rule: str
    asked: dict[str, Any]
    says: str
    type: str = "invalid_request_error"
    version: str = NEW
    betas: str = ""
    calls: tuple[str, ...] = ("message", "batch")


def talk(*contents: Any, **changes: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": one} for at, one in enumerate(contents)]
    return params(messages=turns, **changes)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def block(kind: str, source: Any) -> dict[str, Any]:
    return talk([{"type": kind, "source": source}, {"type": "text", "text": "What is it?"}])


MISTAKES = [
    Mistake("too_deep", params(metadata=nested(300)), "nested too deeply"),
    Mistake("not_in_batches", params(stream=True), "stream", calls=("batch",)),
    Mistake(
        "not_in_batches", params(speed="fast"), "speed", betas="fast-mode-2026-02-01", calls=("batch",)
    ),
    Mistake("unknown_field", params(max_token=5), "max_token: Extra inputs are not permitted"),
    Mistake("unknown_field", params(response_format={}), "response_format: Extra inputs"),
    Mistake("field_without_its_beta", params(fallbacks="default"), "fallbacks: Extra inputs"),
    Mistake("field_without_its_beta", params(mcp_servers=[]), "mcp_servers: Extra inputs"),
    Mistake("field_without_its_beta", params(context_management={}), "context_management: Extra"),
    *(
        Mistake(
            "wrong_compaction",
            params(context_management={"edits": [{"type": "compact_20260112", **edit}]}),
            f"context_management.edits.0{where}",
            betas=betas,
        )
        for edit, where, betas in (
            ({}, ": Extra inputs", "context-management-2025-06-27"),
            ({"keep": 3}, ".keep: Extra inputs", "compact-2026-01-12"),
            ({"pause_after_compaction": 1}, ".pause_after_compaction", "compact-2026-01-12"),
            (
                {"trigger": {"type": "input_tokens", "value": 49_999}},
                ".trigger.value: Input should be greater",
                "compact-2026-01-12",
            ),
        )
    ),
    Mistake(
        "cites_in_json",
        talk([{"type": "document", "source": PLAIN, "citations": {"enabled": True}}])
        | {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "citations cannot be enabled",
    ),
    Mistake("field_without_its_beta", params(billing_policy={}), "billing_policy: Extra inputs"),
    Mistake(
        "field_without_its_beta",
        params(output_format={"type": "json_schema", "schema": SCHEMA}),
        "output_format: Extra inputs",
    ),
    Mistake("wrong_type", params(max_tokens="200"), "max_tokens: Input should be a valid integer"),
    Mistake("wrong_type", params(system={"type": "text"}), "system: Input should be a valid list"),
    Mistake("wrong_type", {**params(), "tools": None}, "tools: Input should be a valid list"),
    Mistake("missing_field", params(max_tokens=None), "max_tokens: Field required"),
    Mistake("wrong_metadata", params(metadata={"record": "7"}), "metadata.record: Extra inputs"),
    Mistake("wrong_stop_sequences", params(stop_sequences=[" "]), "non-whitespace"),
    Mistake(
        "wrong_beta_field",
        params(fallbacks="best"),
        "fallbacks",
        betas="server-side-fallback-2026-07-01",
    ),
    Mistake("unknown_model", params(model="claude-haiku-4.5"), "claude-haiku-4.5", "not_found_error"),
    Mistake("unknown_model", params(model="gpt-5"), "model: gpt-5", "not_found_error"),
    Mistake("max_tokens_below_one", params(max_tokens=0), "or equal to 1", calls=("batch",)),
    Mistake("max_tokens_below_one", params(max_tokens=-1), "greater than or equal to"),
    Mistake("max_tokens_above_limit", params(max_tokens=64_001), "64001 > 64000"),
    Mistake("max_tokens_above_limit", params(model=OPUS, max_tokens=200_000), "> 128000"),
    Mistake(
        "max_tokens_above_limit",
        params(model=OPUS, max_tokens=200_000),
        "> 128000",
        betas="output-300k-2026-03-24",
        calls=("message",),
    ),
    Mistake("wrong_thinking", params(thinking={"type": "on"}), "thinking.type"),
    Mistake(
        "thinking_the_model_refuses",
        params(model=OPUS, thinking={"type": "disabled"}),
        '"thinking.type.disabled" is not supported for this model',
    ),
    Mistake(
        "thinking_the_model_refuses",
        params(model=HAIKU, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2000}),
        '"thinking.type.enabled" is not supported for this model',
    ),
    Mistake(
        "thinking_the_model_refuses",
        params(thinking={"type": "adaptive"}),
        "adaptive thinking is not supported on this model",
    ),
    Mistake(
        "wrong_budget",
        params(max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 2000}),
        "`max_tokens` must be greater than `thinking.budget_tokens`",
    ),
    Mistake(
        "wrong_budget",
        params(max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1000}),
        "greater than or equal to 1024",
    ),
    Mistake(
        "effort_the_model_refuses",
        params(output_config={"effort": "low"}),
        "This model does not support the effort parameter.",
    ),
    Mistake(
        "effort_the_model_refuses",
        params(model=OPUS, output_config={"effort": "highest"}),
        "output_config.effort",
    ),
    Mistake(
        "effort_without_thinking",
        params(model=HAIKU, thinking={"type": "disabled"}, output_config={"effort": "max"}),
        "'max' is not supported when thinking is disabled",
    ),
    Mistake("sampling_is_gone", params(temperature=0), "temperature"),
    Mistake("sampling_is_gone", params(temperature=1.0), "temperature"),
    Mistake("sampling_is_gone", params(model="claude-opus-4-5", top_k=5), "top_k"),
    Mistake(
        "sampling_the_model_refuses",
        params(model="claude-sonnet-5", temperature=0.2),
        "`temperature` is deprecated for this model.",
        version=OLD,
    ),
    Mistake("sampling_the_model_refuses", params(temperature=1.5), "0..1", version=OLD),
    Mistake("sampling_the_model_refuses", params(temperature=1, top_p=1), "both", version=OLD),
    Mistake("wrong_service_tier", params(service_tier="batch"), "'auto' or 'standard_only'"),
    Mistake("wrong_speed", params(speed="quick"), "speed", calls=("message",)),
    Mistake("wrong_speed", params(speed="fast"), "not supported for this model", calls=("message",)),
    Mistake(
        "wrong_speed", params(model="claude-opus-5", speed="standard"), "fast-mode", calls=("message",)
    ),
    Mistake("wrong_geo", params(inference_geo="eu"), "inference_geo"),
    Mistake("wrong_messages", params(messages=[]), "at least one message"),
    Mistake("wrong_messages", params(messages=[{"role": "tool", "content": "x"}]), "role"),
    Mistake("empty_content", params(""), "must have non-empty content"),
    Mistake("empty_content", params(" \n"), "non-whitespace"),
    Mistake("first_turn", params(messages=[{"role": "assistant", "content": "x"}]), "first message"),
    Mistake("prefill", talk("Count.", "{", model="claude-opus-4-6"), "assistant message prefill"),
    Mistake("prefill", talk("Count.", "one ", model="claude-sonnet-4-5"), "trailing whitespace"),
    Mistake("wrong_system", params(system=[{"type": "text", "text": ""}]), "system"),
    Mistake(
        "blocks_that_are_gone",
        talk("Read.", [{"type": "document", "source": PLAIN}], "And?"),
        "document blocks are not supported in assistant messages",
    ),
    Mistake(
        "blocks_that_are_gone",
        talk([{"type": "text", "text": "So it says", "citations": [{"type": "char_location"}]}]),
        "citations",
    ),
    Mistake("calls_and_results", talk("Ask.", [CALL], "Well?"), "toolu_1"),
    Mistake("calls_and_results", talk([RESULT]), "unexpected `tool_use_id`"),
    Mistake("wrong_block", talk([{"type": "input_text", "text": "x"}]), "Input tag 'input_text'"),
    Mistake("wrong_block", talk([{"type": "text", "text": "x", "lang": "en"}]), "lang: Extra inputs"),
    Mistake("wrong_block", talk([{"type": "image_url", "image_url": "x"}]), "Input tag 'image_url'"),
    Mistake(
        "wrong_image", block("image", {**IMAGE, "media_type": "image/jpeg"}), "does not match"
    ),
    Mistake("wrong_image", block("image", {**IMAGE, "media_type": "image/tiff"}), "media_type"),
    Mistake("wrong_image", block("image", {**IMAGE, "data": "data:;base64,x"}), "invalid base64"),
    Mistake(
        "wrong_document",
        block("document", {"type": "base64", "media_type": "application/pdf", "data": "eA=="}),
        "The PDF specified was not valid.",
    ),
    Mistake(
        "unknown_file",
        block("document", {"type": "file", "file_id": "file_none"}),
        "file_none",
        "not_found_error",
    ),
    Mistake("wrong_url", block("image", {"type": "url", "url": "http://x.example/a.png"}), "HTTPS"),
    Mistake("unknown_tool", params(tools=[{"type": "function", "name": "f"}]), "Input tag 'function'"),
    Mistake(
        "unknown_tool",
        params(model=HAIKU, tools=[{"type": "computer_toolset_20260801", "name": "computer"}]),
        "name: Extra inputs",
    ),
    Mistake(
        "unknown_tool", params(tools=[{"type": "web_search_20250305", "name": "search"}]), "web_search"
    ),
    Mistake(
        "tool_without_its_beta",
        params(tools=[{"type": "computer_20250124", "name": "computer"}]),
        "computer-use-2025-01-24",
    ),
    Mistake(
        "tool_the_model_refuses",
        params(model=SONNET, tools=[{"type": "computer_20251124", "name": "computer"}]),
        "does not support tool types: computer_20251124",
        betas="computer-use-2025-11-24",
    ),
    Mistake("wrong_custom_tool", params(tools=[{"name": "record"}]), "input_schema: Field required"),
    Mistake("wrong_custom_tool", params(tools=[{**TOOL, "name": "my tool"}]), "pattern"),
    Mistake("wrong_custom_tool", params(tools=[{**TOOL, "parameters": {}}]), "parameters: Extra"),
    Mistake(
        "wrong_custom_tool",
        params(tools=[{"name": "record", "input_schema": {"type": "object", "properties": []}}]),
        "JSON schema is invalid",
    ),
    Mistake("tool_named_twice", params(tools=[TOOL, TOOL]), "unique"),
    Mistake(
        "wrong_strict_tool",
        params(tools=[{"name": "record", "strict": True, "input_schema": OPEN_SCHEMA}]),
        "additionalProperties",
    ),
    Mistake("wrong_tool_choice", params(tools=[TOOL], tool_choice={"type": "required"}), "tool_choice"),
    Mistake("wrong_tool_choice", params(tool_choice={"type": "auto"}), "while providing tools"),
    Mistake(
        "wrong_tool_choice",
        params(tools=[TOOL], tool_choice={"type": "tool", "name": "other"}),
        "'other' not found",
    ),
    Mistake(
        "forced_tool",
        params(model=OPUS, tools=[TOOL], tool_choice=FORCED),
        'tool_choice: type "tool" and "any" are not supported for this model.',
    ),
    Mistake(
        "forced_tool_while_thinking",
        params(
            model="claude-sonnet-5", tools=[TOOL], tool_choice=FORCED, thinking={"type": "adaptive"}
        ),
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    Mistake(
        "toolset_without_server",
        params(tools=[{"type": "mcp_toolset", "mcp_server_name": "crm"}]),
        "mcp_server_name",
        betas="mcp-client-2025-11-20",
    ),
    Mistake("wrong_output_config", params(output_config={"schema": {}}), "output_config.schema: Extra"),
    Mistake("wrong_schema", with_schema(OPEN_SCHEMA, "x"), "additionalProperties"),
    Mistake(
        "wrong_schema",
        with_schema({**SCHEMA, "properties": {**SCHEMA["properties"], "n": {"minimum": 1}}}, "x"),
        "minimum",
    ),
    Mistake(
        "wrong_schema",
        params(output_config={"format": {"type": "json_object"}}),
        "Input should be 'json_schema'",
    ),
    Mistake(
        "two_formats",
        with_schema(SCHEMA, "x", output_format={"type": "json_schema", "schema": SCHEMA}),
        "output_format",
        betas="structured-outputs-2025-11-13",
    ),
    Mistake(
        "wrong_cache_control",
        params(system=[{"type": "text", "text": "x", "cache_control": MARK}] * 5),
        "maximum of 4",
    ),
    Mistake("wrong_cache_control", params(cache_control={"type": "ephemeral", "ttl": "24h"}), "ttl"),
]  # fmt: skip

# What the SDK's own tests send, with values that can be (they have "string" for a beta, for example).
STRICT = {
    "type": "object",
    "properties": {"foo": {"type": "string"}},
    "required": ["foo"],
    "additionalProperties": False,
}
EVERY = params(
    model=OPUS,
    cache_control=MARK,
    container={
        "id": "id",
        "skills": [{"skill_id": "pdf", "type": "anthropic", "version": "latest"}],
    },
    diagnostics={"previous_message_id": "msg_1"},
    inference_geo="us",
    metadata={"user_id": "13803d75"},
    output_config={"effort": "low", "format": {"schema": STRICT, "type": "json_schema"}},
    service_tier="auto",
    speed="standard",
    stop_sequences=["string"],
    stream=False,
    system=[
        {
            "type": "text",
            "text": "Today's date is 2024-06-01.",
            "cache_control": MARK,
            "citations": [
                {
                    "type": "char_location",
                    "cited_text": "The grass is green.",
                    "document_index": 0,
                    "document_title": "x",
                    "start_char_index": 0,
                    "end_char_index": 0,
                }
            ],
        }
    ],
    thinking={"type": "adaptive", "display": "summarized"},
    tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    tools=[
        {
            "type": "custom",
            "name": "name",
            "description": "Get the current weather",
            "input_schema": STRICT,
            "input_examples": [{"foo": "bar"}],
            "allowed_callers": ["direct"],
            "cache_control": MARK,
            "defer_loading": True,
            "eager_input_streaming": True,
            "strict": True,
        }
    ],
)
CLEARED = {
    "type": "clear_tool_uses_20250919",
    "clear_at_least": {"type": "input_tokens", "value": 0},
    "clear_tool_inputs": True,
    "exclude_tools": ["string"],
    "keep": {"type": "tool_uses", "value": 0},
    "trigger": {"type": "input_tokens", "value": 1},
}
EVERY_BETA = {
    **EVERY,
    "billing_policy": {"type": "billing_policy", "bill_to": "self"},
    "compaction": {"type": "summarize", "instructions": "instructions"},
    "context_management": {"edits": [CLEARED]},
    "fallback_credit_token": "x",
    "fallbacks": "default",
    "mcp_servers": [
        {
            "type": "url",
            "name": "name",
            "url": "https://mcp.example",
            "authorization_token": "authorization_token",
            "tool_configuration": {"allowed_tools": ["string"], "enabled": True},
        }
    ],
    "output_config": {
        **EVERY["output_config"],
        "task_budget": {"type": "tokens", "total": 1024, "remaining": 0},
    },
    "thinking": {
        "type": "adaptive",
        "display": "summarized",
        "block_binding": {"prefix_mismatch_behavior": "error"},
    },
    "thread": {"type": "create"},
}

# What is right, and looks much like some of the above.
RIGHT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (params(temperature=0), {"version": OLD}),
    (params(model=OPUS, temperature=1), {"version": OLD}),
    (talk("Read.", [{"type": "document", "source": PLAIN}], "And?"), {"version": OLD}),
    (params(model=OPUS, thinking={"type": "adaptive", "display": "summarized"}), {}),
    (params(model=SONNET, thinking={"type": "between_tools"}), {}),
    (params(model=HAIKU, thinking={"type": "disabled"}, output_config={"effort": "high"}), {}),
    (params(model=HAIKU, tools=[TOOL], tool_choice=FORCED), {}),
    (params(model="claude-sonnet-5", tools=[TOOL], tool_choice={"type": "any"}), {}),
    (params(max_tokens=3000, thinking={"type": "enabled", "budget_tokens": 1024}), {}),
    (talk("Count.", "one,", model="claude-sonnet-4-5"), {}),
    (talk("Ask.", [CALL], [RESULT], tools=[TOOL]), {}),
    (params(fallbacks="default"), {"betas": "server-side-fallback-2026-07-01"}),
    (params(model=HAIKU, tools=[{"type": "computer_toolset_20260801"}]), {}),
    (params(user_profile_id="uprof_1", workspace_id="wrkspc_1"), {}),
    (
        params(output_format={"type": "json_schema", "schema": SCHEMA}),
        {"betas": "structured-outputs-2025-11-13"},
    ),
    (params(service_tier="standard_only", metadata={"user_id": "u"}), {}),
    (params(model="claude-opus-4-6", inference_geo="us"), {}),
    (block("image", {"type": "url", "url": "https://x.example/a.png"}), {}),
]


def headers(version: str = NEW, betas: str = "") -> list[tuple[str, str]]:
    return [("anthropic-version", version), *([("anthropic-beta", betas)] if betas else [])]


def in_batch(
    emulator: InProcess, asked: Iterable[dict[str, Any]], sent: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """The results of requests that are sent as one batch, in their order."""
    requests = [{"custom_id": str(at), "params": one} for at, one in enumerate(asked)]
    text = b", ".join(
        # Deeper than what writes it, so the nesting is put in by hand.
        orjson.dumps(one, default=str) if one["params"].get("metadata") != nested(300)
        else orjson.dumps({**one, "params": {**one["params"], "metadata": "DEEP"}}).replace(
            b'"DEEP"', b"[" * 300 + b"]" * 300
        )
        for one in requests
    )  # fmt: skip
    created = emulator.call("POST", BATCHES, b'{"requests": [' + text + b"]}", headers=sent)
    assert created.status == 200, created
    emulator.call("GET", BATCHES)
    lines = emulator.call("GET", f"{BATCHES}/{created.document['id']}/results").body.splitlines()
    results = {row["custom_id"]: row["result"] for row in map(orjson.loads, lines)}
    return [results[one["custom_id"]] for one in requests]


def test_every_rule_has_a_mistake_and_a_source() -> None:
    assert len(MISTAKES) >= 40
    assert {one.rule for one in MISTAKES} == {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.refuses, rule
        assert rule.source == OUR_READING or any(
            word in rule.source for word in ("SDK ", "docs", "reference")
        ), rule


def test_the_page_has_every_rule() -> None:
    page = PAGE.read_text()
    assert with_table(page) == page, "python -m batch_pipeline_tests.emulator.rules_table"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: f"{one.rule}: {one.says}")
def test_a_mistake_breaks_its_rule(mistake: Mistake) -> None:
    for call in mistake.calls:
        betas = frozenset(filter(None, mistake.betas.split(",")))
        asked = Asked(mistake.asked, Occasion(call, mistake.version, betas))  # type: ignore[arg-type]
        for rule in RULES:
            try:
                rule.check(asked)
            except ApiError as error:
                assert (rule.name, error.type) == (mistake.rule, mistake.type), error.message
                assert mistake.says in error.message
                break
        else:
            pytest.fail("no rule refuses it")


def test_mistakes_are_refused_on_their_own_and_in_a_batch(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path)
    alone = [one for one in MISTAKES if "message" in one.calls and one.rule != "too_deep"]
    for mistake in alone:
        sent = headers(mistake.version, mistake.betas)
        answer = emulator.call("POST", "/v1/messages", mistake.asked, headers=sent)
        expected = 404 if mistake.type == "not_found_error" else 400
        assert (answer.status, answer.document["error"]["type"]) == (expected, mistake.type)
        assert mistake.says in answer.document["error"]["message"]
    groups: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in MISTAKES:
        if "batch" in mistake.calls:
            groups.setdefault((mistake.version, mistake.betas), []).append(mistake)
    for (version, betas), group in groups.items():
        results = in_batch(emulator, [one.asked for one in group], headers(version, betas))
        for mistake, result in zip(group, results, strict=True):
            assert result["type"] == "errored", mistake
            error = result["error"]["error"]
            assert error["type"] == mistake.type
            assert mistake.says in error["message"]
    assert emulator.call("GET", "/_emulator/bill").document["requests"] == 0


def test_what_is_right_is_answered(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path)
    for asked, how in RIGHT:
        sent = headers(**how)
        answer = emulator.call("POST", "/v1/messages", asked, headers=sent)
        assert answer.status == 200, (asked, answer.body)
        [result] = in_batch(emulator, [asked], sent)
        assert result["type"] == "succeeded", (asked, result)
    long = params(model=OPUS, max_tokens=300_000)
    [result] = in_batch(emulator, [long], headers(betas="output-300k-2026-03-24"))
    assert result["type"] == "succeeded"
    assert emulator.call("POST", "/v1/messages", params(max_tokens=0)).status == 200


def test_a_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path)
    answer = emulator.call("POST", "/v1/messages", params("x" * 500_100))
    assert answer.status == 400
    assert (
        "prompt is too long: 200044 tokens > 200000 maximum" in answer.document["error"]["message"]
    )


def test_a_relay_may_name_models_as_it_likes(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path, any_model=True)
    answer = emulator.call("POST", "/v1/messages", params(model="anthropic/claude-fast"))
    assert (answer.status, answer.document["model"]) == (200, "anthropic/claude-fast")
    asked_for = emulator.call("GET", "/v1/models/anthropic/claude-fast")
    assert (asked_for.status, asked_for.document["id"]) == (200, "anthropic/claude-fast")


def test_fast_mode_needs_its_beta_only_where_it_is_new(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path)
    beta = headers(betas="fast-mode-2026-02-01")
    for model, speed, sent in (
        (OPUS, "fast", headers()),
        (OPUS, "standard", headers()),
        ("claude-fable-5-2", "fast", headers()),
        ("claude-opus-4-8", "fast", beta),
        ("claude-haiku-4-5", "standard", headers()),
    ):
        asked = params(model=model, speed=speed)
        answer = emulator.call("POST", "/v1/messages", asked, headers=sent)
        assert answer.status == 200, (model, answer.body)
        assert answer.document["usage"]["speed"] == speed
    # No list of ours has its price: the three fast ones cost what nobody knows, not less.
    priced = [row["usd"] is not None for row in emulator.emulator._db.messages()]
    assert priced == [False, True, False, False, True]


def test_every_parameter_that_the_sdk_types_is_taken(tmp_path: Path) -> None:
    emulator = InProcess(tmp_path)
    for every, betas in ((EVERY, ""), (EVERY_BETA, ",".join(sorted(KNOWN)))):
        sent = headers(OLD, betas)
        answer = emulator.call("POST", "/v1/messages", every, headers=sent)
        assert answer.status == 200, answer.body
        counted = {name: every[name] for name in every if FIELDS[name].counted}
        answer = emulator.call("POST", "/v1/messages/count_tokens", counted, headers=sent)
        assert answer.status == 200, answer.body
        [result] = in_batch(
            emulator,
            [{name: every[name] for name in every if name not in ("speed", "thread")}],
            sent,
        )
        assert result["type"] == "succeeded", result


@pytest.mark.parametrize("model", ["claude-sonnet-5", "claude-opus-5-5", "claude-haiku-5-5"])
def test_newer_models_think_unasked_and_what_they_think_is_paid(tmp_path: Path, model: str) -> None:
    emulator = InProcess(tmp_path)
    answer = emulator.call("POST", "/v1/messages", params(model=model)).document
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert answer["content"][0]["thinking"] == ""
    thought = answer["usage"]["output_tokens_details"]["thinking_tokens"]
    assert 0 < thought < answer["usage"]["output_tokens"]


def test_a_batch_of_an_earlier_emulator_goes_on(tmp_path: Path) -> None:
    before = InProcess(tmp_path, manual=True)
    id = before.call(
        "POST", BATCHES, {"requests": [{"custom_id": "a", "params": params(fallbacks="default")}]}
    ).document["id"]
    # As a batch was kept when nobody kept the betas of one.
    before.emulator._db.change_batch(id, version=None, betas=None)
    before.emulator._db.close()
    after = InProcess(tmp_path)
    counts = after.call("GET", f"{BATCHES}/{id}").document["request_counts"]
    assert counts["succeeded"] == 1
