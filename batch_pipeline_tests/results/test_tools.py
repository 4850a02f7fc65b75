"""The user's own tools: what the model calls is kept, text and calls apart from our forced tool."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.requests.compiled import RecordRejected, compile_question
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.judge import Judged, judge_line
from batch_pipeline_tests.requests.test_schema import object_of, schema_of
from batch_pipeline_tests.results.test_judge import NOW, SCHEMA, succeeded
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.given_answers import OneRecord, call, text

SAVE_CITY: dict[str, Any] = {
    "name": "save_city",
    "description": "Saves it.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TOOLS: dict[str, Any] = {"params": {"tools": [SAVE_CITY]}}
PARIS = {"name": "save_city", "input": {"city": "Paris"}}
ROME = {"name": "save_city", "input": {"city": "Rome"}}


def judged(*content: Any, schema: OutputSchema | None = None, tools: bool = True) -> Judged:
    found = judge_line(succeeded(*content, stop_reason="tool_use"), schema, NOW, tools)
    assert found is not None
    return found


@pytest.fixture
def one(claude_emulator: EmulatorProcess, tmp_path: Path) -> OneRecord:
    return OneRecord(tmp_path, claude_emulator)


def test_a_call_beside_text_is_kept_with_its_input(one: OneRecord) -> None:
    content = [text("I will save that."), call("save_city", city="Paris")]
    row = one.answer(one.nights(**TOOLS), *content, stop_reason="tool_use")
    assert (row["_status"], row["_stop_reason"]) == ("answered", "tool_use")
    assert json.loads(row["tool_calls"]) == [PARIS]
    said, called = row["answer"].split("\n")
    assert said == "I will save that." and json.loads(called) == PARIS
    assert one.types()["tool_calls"] == "JSON"


def test_an_answer_that_is_only_calls_is_answered(one: OneRecord) -> None:
    content = [call("save_city", city="Paris"), call("save_city", city="Rome")]
    nights = one.nights(**TOOLS)
    row = one.answer(nights, *content, stop_reason="tool_use")
    assert row["_status"] == "answered" and row["_error"] is None
    assert json.loads(row["tool_calls"]) == [PARIS, ROME]
    assert [json.loads(line) for line in row["answer"].split("\n")] == [PARIS, ROME]
    nights.submit()
    assert len(one.emulator.batches()) == 1, "an answered record is not asked again"


LONG = ["12345678901234567890.123", "1e400", "123456789012345678901234567890", "1e-400", "0.1", "7"]


def test_numbers_that_tools_are_called_with_keep_their_digits() -> None:
    line = succeeded(call("pay", sums="@"), stop_reason="tool_use")
    line = line.replace(b'"@"', f"[{', '.join(LONG)}]".encode())
    for schema in (None, SCHEMA):
        found = judge_line(line, schema, NOW, True)
        assert found is not None and found.tool_calls is not None
        (said,) = json.loads(found.tool_calls, parse_float=Decimal)
        assert said["input"]["sums"] == [Decimal(digits) for digits in LONG]
    assert found.status == "answered"


def test_numbers_in_a_column_of_json_keep_their_digits() -> None:
    field = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]}
    schema = schema_of(object_of(mixed=field, n={"type": "number"}))
    assert dict(schema.columns)["mixed"] == "JSON"
    found = judge_line(succeeded(text(f'{{"mixed": [{", ".join(LONG)}], "n": 0.5}}')), schema, NOW)
    assert found is not None and found.answer is not None
    said = json.loads(found.answer, parse_float=Decimal)
    assert said["mixed"] == [Decimal(digits) for digits in LONG]
    found = judge_line(succeeded(text('{"mixed": "", "n": 1e400}')), schema, NOW)
    assert found is not None and found.status == "invalid"
    assert "n: Decimal('1E+400') is larger than a DOUBLE holds" in str(found.error)


def test_without_tools_there_is_no_column(one: OneRecord) -> None:
    one.answer(one.nights(), text("Paris"))
    assert "tool_calls" not in one.types()


@only_whole
def test_tools_that_are_not_called_leave_the_column_empty(one: OneRecord) -> None:
    row = one.answer(one.nights(**TOOLS), text("No "), text("need."))
    assert (row["answer"], row["tool_calls"], row["_status"]) == ("No need.", None, "answered")


def test_a_call_in_the_place_of_a_declared_output_is_answered_with_empty_fields(
    one: OneRecord,
) -> None:
    output = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    nights = one.nights(output=output, **TOOLS)
    row = one.answer(nights, text("Let me."), call("save_city", city="Paris"))
    assert (row["_status"], row["city"], json.loads(row["tool_calls"])) == (
        "answered",
        None,
        [PARIS],
    )


@pytest.mark.parametrize(
    ("content", "status", "answer", "calls"),
    [
        ([text('{"kind": "Food"}'), call("f", a=1)], "answered", '{"kind":"Food"}', 1),
        ([text('{"kind": '), text('"Food"}')], "answered", '{"kind":"Food"}', 0),
        ([text('{"kind": "Stone"}'), call("f")], "invalid", None, 0),
        ([text("no"), call("f")], "answered", None, 1),
        ([call("answer", kind="Food")], "answered", None, 1),
        ([text("no")], "invalid", None, 0),
        ([], "invalid", None, 0),
    ],
)
def test_a_declared_output_beside_tools(
    content: list[Any], status: str, answer: str | None, calls: int
) -> None:
    row = judged(*content, schema=SCHEMA)
    assert (row.status, row.answer) == (status, answer)
    assert len(json.loads(row.tool_calls or "[]")) == calls


def test_our_own_forced_tool_stays_an_answer(one: OneRecord) -> None:
    output = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    nights = one.nights(output=output, output_mode="tool")
    row = one.answer(nights, call("answer", city="Paris"), stop_reason="tool_use")
    assert (row["_status"], row["city"]) == ("answered", "Paris")
    assert "tool_calls" not in row


def test_calls_of_tools_that_the_api_runs_are_kept_but_are_not_said() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    row = judged(text("I look. "), search, found, text("Paris."))
    assert row.answer == "I look. Paris."
    assert json.loads(str(row.tool_calls)) == [{"name": "web_search", "input": {"query": "x"}}]


@pytest.mark.parametrize("given", [None, [], "x", {"deep": {"n": 1.5}}, {"big": 2**63}])
def test_any_input_is_kept_as_it_came(given: Any) -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": given}
    assert json.loads(str(judged(block).tool_calls)) == [{"name": "f", "input": given}]


def test_without_declared_tools_a_call_alone_is_no_answer() -> None:
    row = judged(call("f"), tools=False)
    assert (row.status, row.tool_calls) == ("invalid", None)


@pytest.mark.parametrize("prefix", ["", "ai_"])
def test_a_name_clash_is_refused_before_anything_is_sent(
    claude_emulator: EmulatorProcess, tmp_path: Path, prefix: str
) -> None:
    one = OneRecord(tmp_path, claude_emulator, f"select 1 as id, 'x' as v, 2 as {prefix}tool_calls")
    nights = one.nights(output_prefix=prefix, **TOOLS)
    with pytest.raises(dg.Failure, match="tool_calls"):
        nights.submit()
    assert claude_emulator.batches() == []


def test_an_output_field_of_the_columns_name_is_refused_when_declared() -> None:
    output = {"type": "object", "properties": {"Tool_Calls": {"type": "string"}}, "required": []}
    fields: dict[str, Any] = {"model": "m", "max_tokens": 9, "prompt": "{{ v }}", "output": output}
    MessageTemplate(**fields)
    with pytest.raises(InputError, match="tool_calls"):
        MessageTemplate(**fields, **TOOLS)


def test_tools_that_only_a_function_returns_are_refused_for_their_calls_would_be_lost() -> None:
    def build(record: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": record["v"]}], "tools": [SAVE_CITY]}

    template = MessageTemplate(
        model="claude-haiku-4-5", max_tokens=9, build=build, columns=["v"], version="1"
    )
    with pytest.raises(RecordRejected, match="Declare the tools in the template's params"):
        compile_question(template, {"v": "VARCHAR"}).params({"v": "x"})


def test_the_version_is_the_same_as_before_there_was_a_column() -> None:
    template = MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ v }}", **TOOLS)
    assert compile_question(template, {"v": "VARCHAR"}).version == "8a2440a0a48fdc87"


def test_a_paused_turn_is_told_apart_and_not_paid_again_unchanged(one: OneRecord) -> None:
    nights = one.nights(**TOOLS)
    row = one.answer(nights, text("Looking"), stop_reason="pause_turn")
    assert (row["_status"], row["_stop_reason"], row["answer"]) == ("paused", "pause_turn", None)
    assert "max_uses" in row["_error"]
    nights.submit()
    nights.tick()
    assert len(one.emulator.batches()) == 1
    found: dg.AssetCheckEvaluation
    (found, *_) = nights.collect().get_asset_check_evaluations()
    assert found.passed
    changed = one.nights(prompt="Shorter: {{ v }}", **TOOLS)
    changed.submit()
    assert len(one.emulator.batches()) == 2
