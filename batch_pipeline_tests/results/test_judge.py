"""What a line of a batch's results says about its record."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.judge import (
    JUDGED_SCHEMA,
    ROWS_AT_ONCE,
    Counts,
    Judged,
    judge_file,
    judge_line,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
USAGE = {"input_tokens": 10, "output_tokens": 4}
COST = Decimal("0.000015")
SCHEMA = OutputSchema.from_(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["Food", "Travel"]}, "total": {"type": "number"}},
        "required": ["kind"],
    }
)


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def tool(name: str, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": value}


def result(body: Any, custom_id: Any = "abcdef01-x-1") -> bytes:
    return json.dumps({"custom_id": custom_id, "result": body}).encode() + b"\n"


def succeeded(*content: Any, stop_reason: str | None = "end_turn", **fields: Any) -> bytes:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": list(content),
        "stop_reason": stop_reason,
        "usage": USAGE,
    }
    return result({"type": "succeeded", "message": message | fields})


def errored(kind: str, message: str = "no") -> bytes:
    error = {"type": "error", "request_id": None, "error": {"type": kind, "message": message}}
    return result({"type": "errored", "error": error})


def judged(line: bytes, schema: OutputSchema | None = None) -> Judged:
    found = judge_line(line, schema, NOW)
    assert found is not None
    return found


def test_a_text_is_the_answer_with_its_tokens_and_cost() -> None:
    assert judged(
        succeeded({"type": "thinking", "thinking": "hm"}, text("Yes"), text("!"))
    ) == Judged(
        custom_id="abcdef01-x-1",
        status="answered",
        error=None,
        model="claude-haiku-4-5-20251001",
        stop_reason="end_turn",
        input_tokens=10,
        output_tokens=4,
        cache_read_tokens=None,
        cache_write_tokens=None,
        cost=COST,
        answer="Yes!",
    )


@pytest.mark.parametrize("content", [[], [{"type": "thinking"}], [tool("f", {})], [text("")], None])
def test_an_answer_without_text_is_invalid(content: Any) -> None:
    row = judged(succeeded(content=content))
    assert (row.status, row.answer, row.cost) == ("invalid", None, COST)
    assert "no text" in str(row.error)


@pytest.mark.parametrize(
    ("stop_reason", "status"),
    [
        ("refusal", "refused"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("pause_turn", "paused"),
        ("compaction", "paused"),
        ("end_turn", "answered"),
        ("stop_sequence", "answered"),
        ("tool_use", "answered"),
        (None, "answered"),
        ("something_new", "answered"),
    ],
)
@pytest.mark.parametrize("schema", [None, SCHEMA])
def test_the_stop_reason_decides_first_and_every_message_costs(
    stop_reason: str | None, status: str, schema: OutputSchema | None
) -> None:
    row = judged(succeeded(text('{"kind": "Food"}'), stop_reason=stop_reason), schema)
    assert (row.status, row.stop_reason, row.cost) == (status, stop_reason, COST)
    assert (row.answer is not None) == (row.error is None) == (status == "answered")


def test_a_cut_answer_is_truncated_and_not_invalid() -> None:
    assert judged(succeeded(text('{"ki'), stop_reason="max_tokens"), SCHEMA).status == "truncated"


def test_a_refusal_says_why_when_the_api_does() -> None:
    details = {"type": "refusal", "explanation": "not this"}
    row = judged(succeeded(stop_reason="refusal", stop_details=details))
    assert row.error == "The model refused to answer: not this"


def test_a_fitting_answer_is_kept_as_canonical_json() -> None:
    row = judged(succeeded(text(' {"kind": "FOOD",\n "total": 1.50} ')), SCHEMA)
    assert (row.status, row.answer) == ("answered", '{"kind":"Food","total":1.5}')


def test_an_answer_by_tool_is_its_input() -> None:
    line = succeeded(text("Here:"), tool("answer", {"kind": "Food"}), stop_reason="tool_use")
    assert judged(line, SCHEMA).answer == '{"kind":"Food"}'
    other = judged(succeeded(tool("search", {"kind": "Food"}), stop_reason="tool_use"), SCHEMA)
    assert (other.status, other.error) == ("invalid", "The answer holds no JSON, only tool_use.")


def test_a_remark_before_the_answer_is_passed_over() -> None:
    row = judged(succeeded(text("I looked it up."), text('{"kind": "Food"}')), SCHEMA)
    assert row.answer == '{"kind":"Food"}'


def test_json_in_two_blocks_is_one_answer() -> None:
    assert judged(succeeded(text('{"kind": '), text('"Food"}')), SCHEMA).status == "answered"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"kind": "Foods"}', 'kind: "Foods" is not one of'),
        ('{"total": 1}', '"kind" is a required property'),
        ("[1]", "is not of type"),
        ("null", "not JSON|is not of type"),
        ("Food, of course", "not JSON. It reads: Food, of course"),
        ('{"kind": "Food", "total": 1e999}', "total: null is not of type"),
        ('{"kind": "Food", "total": NaN}', "total: null is not of type"),
    ],
)
def test_an_answer_that_does_not_fit_names_the_field_and_shows_itself(
    answer: str, says: str
) -> None:
    row = judged(succeeded(text(answer)), SCHEMA)
    assert (row.status, row.answer) == ("invalid", None)
    assert re.search(says, str(row.error)), row.error


def test_a_long_unusable_answer_is_shown_in_part() -> None:
    row = judged(succeeded(text("x" * 100_000)), SCHEMA)
    assert len(str(row.error)) < 600


@pytest.mark.parametrize(
    ("kind", "message", "status", "error"),
    [
        ("invalid_request_error", "max_tokens: too big", "rejected", "max_tokens: too big"),
        ("request_too_large", "32 MB", "rejected", "32 MB"),
        ("invalid_request_error", "Your credit balance is too low to", "errored", None),
        (
            "invalid_request_error",
            "You have reached your specified API usage limits.",
            "errored",
            None,
        ),
        ("not_found_error", "model: claude-x", "errored", "not_found_error: model: claude-x"),
        ("overloaded_error", "Overloaded", "errored", "overloaded_error: Overloaded"),
        ("billing_error", "no", "errored", None),
        ("permission_error", "no", "errored", None),
        ("brand_new_error", "no", "errored", "brand_new_error: no"),
    ],
)
def test_only_an_error_about_the_record_rejects_it(
    kind: str, message: str, status: str, error: str | None
) -> None:
    row = judged(errored(kind, message))
    assert (row.status, row.error) == (status, error or f"{kind}: {message}")
    assert row.cost == 0


@pytest.mark.parametrize("kind", ["expired", "canceled"])
def test_what_was_not_processed_is_not_billed(kind: str) -> None:
    row = judged(result({"type": kind}))
    assert (row.status, row.cost) == (kind, 0)
    assert row.error


@pytest.mark.parametrize(
    "body",
    [
        {"type": "paused"},
        {"type": None},
        {},
        None,
        [],
        7,
        {"type": "succeeded"},
        {"type": "succeeded", "message": []},
        {"type": ["succeeded"]},
    ],
)
def test_a_result_of_unknown_form_is_errored_at_unknown_cost(body: Any) -> None:
    row = judged(result(body))
    assert (row.status, row.cost) == ("errored", None)
    assert "unknown form" in str(row.error)


@pytest.mark.parametrize(
    "error", [None, 7, {}, {"error": 7}, {"type": "api_error", "message": "x"}]
)
def test_an_error_of_unknown_form_is_errored(error: Any) -> None:
    assert judged(result({"type": "errored", "error": error})).status == "errored"


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff\xfe\n", b"7\n", b"[]\n", b"{}\n", result({"type": "expired"}, None), b"[" * 9999],
)
def test_a_line_that_names_no_request_is_damaged(line: bytes) -> None:
    assert judge_line(line, None, NOW) is None


def test_half_a_surrogate_pair_and_nul_are_text() -> None:
    line = succeeded(text("a\ud83d\x00b"))
    assert b"\\ud83d" in line
    assert judged(line).answer == "a\ufffd\x00b"
    assert judged(succeeded(text('{"kind": "Food", "x": "\\ud83d"}')), SCHEMA).status == "answered"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("succeeded"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("type message content text usage model error stop_reason name".split()),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values, st.sampled_from([None, SCHEMA]))
def test_no_json_whatever_breaks_the_judging(value: Any, schema: OutputSchema | None) -> None:
    for body in (
        value,
        {"type": "errored", "error": value},
        {"type": "succeeded", "message": value},
        {"type": "succeeded", "message": {"content": value, "usage": value, "stop_reason": value}},
        {"type": "succeeded", "message": {"content": [{"type": "text", "text": value}]}},
        {"type": "succeeded", "message": {"content": [tool("answer", value)]}},
    ):
        assert judge_line(result(body), schema, NOW) is not None


def write(folder: Path, *lines: bytes) -> str:
    path = folder / "answers.jsonl"
    path.write_bytes(b"".join(lines))
    return str(path)


def test_a_file_is_judged_in_batches_with_its_counts(tmp_path: Path) -> None:
    long = succeeded(text("y" * 3_000_000))
    lines = [succeeded(text("a"))] * (ROWS_AT_ONCE + 1) + [long] * 4
    path = write(
        tmp_path, *lines, b"\n", b"\r\n", errored("api_error"), result({"type": "x"}), b'{"cu'
    )
    counts = Counts()
    batches = list(judge_file(path, None, priced_at=NOW, counts=counts))
    assert [batch.num_rows for batch in batches] == [ROWS_AT_ONCE, 4, 3]
    assert all(batch.schema == JUDGED_SCHEMA for batch in batches)
    answered = ROWS_AT_ONCE + 5
    assert counts == Counts(
        lines=answered + 3,
        damaged=1,
        statuses=counts.statuses,
        input_tokens=10 * answered,
        output_tokens=4 * answered,
        cost=COST * answered,
        cost_unknown=1,
    )
    assert counts.statuses == {"answered": answered, "errored": 2}


def test_an_empty_file_gives_no_row(tmp_path: Path) -> None:
    assert list(judge_file(write(tmp_path), None, priced_at=NOW)) == []


def test_judged_rows_read_in_duckdb_with_exact_cost_and_typed_answer(tmp_path: Path) -> None:
    path = write(tmp_path, succeeded(text('{"kind": "food", "total": 2}')), errored("api_error"))
    assert SCHEMA is not None
    rows = pa.Table.from_batches(judge_file(path, SCHEMA, priced_at=NOW))
    found = duckdb.sql(
        "select status, cost, json_transform(answer, $structure).kind from rows",
        params={"structure": SCHEMA.structure},
    )
    assert rows.num_rows == 2
    assert found.fetchall() == [("answered", COST, "Food"), ("errored", Decimal(0), None)]
