"""A decimal arrives with its digits: as a class or a schema declares it, at any depth, in both destinations."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.column_values import decimal_type
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.judge import judge_line
from batch_pipeline_tests.requests.test_schema import object_of, schema_of
from batch_pipeline_tests.results.test_judge import NOW, succeeded, tool
from batch_pipeline_tests.support.given_answers import OneRecord, text

Price = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class Line(BaseModel):
    price: Price
    factor: Decimal | None = None


class Bill(BaseModel):
    total: Decimal = Field(max_digits=38, decimal_places=4)
    plain: Decimal
    few: Decimal | None = Field(None, max_digits=6)
    places: Decimal = Field(Decimal("0.125"), decimal_places=3)
    lines: list[Line]
    best: Line | None = None
    rates: list[Price] = []


def judged(schema: OutputSchema, answer: str, by_tool: bool = False) -> tuple[str, Any, str | None]:
    """Return status, error and answer of an answer that is written like this."""
    if by_tool:
        line = succeeded(tool("answer", "@"), stop_reason="tool_use")
        line = line.replace(b'"@"', answer.encode())
    else:
        line = succeeded(text(answer))
    found = judge_line(line, schema, NOW)
    assert found is not None
    return found.status, found.error, found.answer


def columns(schema: OutputSchema, answer: str, by_tool: bool = False) -> dict[str, Any]:
    status, error, fitted = judged(schema, answer, by_tool)
    assert (status, error) == ("answered", None)
    row = duckdb.sql(
        "select unnest(json_transform($answer, $structure))",
        params={"answer": fitted, "structure": schema.structure},
    )
    return dict(zip(row.columns, row.fetchall()[0], strict=True))


def test_a_class_gives_decimals_with_their_digits_at_any_depth() -> None:
    line = 'STRUCT("price" DECIMAL(12,2), "factor" DECIMAL(38,10))'
    assert schema_of(Bill).columns == (
        ("total", "DECIMAL(38,4)"),
        ("plain", "DECIMAL(38,10)"),
        ("few", "DECIMAL(12,6)"),
        ("places", "DECIMAL(38,3)"),
        ("lines", f"{line}[]"),
        ("best", line),
        ("rates", "DECIMAL(12,2)[]"),
    )


@pytest.mark.parametrize("by_tool", [False, True])
def test_no_digit_is_lost_between_the_answer_and_the_columns(by_tool: bool) -> None:
    answer = (
        '{"total": 1234567890123456789012345678901234.5678, "plain": 0.1, "few": 123456, '
        '"lines": [{"price": 9999999999.99, "factor": 1234567890123456789.0123456789}], '
        '"best": {"price": "0.10"}, "rates": [1, 2.50]}'
    )
    line = {"price": Decimal("9999999999.99"), "factor": Decimal("1234567890123456789.0123456789")}
    assert columns(schema_of(Bill), answer, by_tool) == {
        "total": Decimal("1234567890123456789012345678901234.5678"),
        "plain": Decimal("0.1"),
        "few": Decimal("123456"),
        "places": Decimal("0.125"),
        "lines": [line],
        "best": {"price": Decimal("0.10"), "factor": None},
        "rates": [Decimal(1), Decimal("2.5")],
    }


@pytest.mark.parametrize("parquet", [False, True])
def test_decimals_reach_the_destination(
    claude_emulator: EmulatorProcess, tmp_path: Path, parquet: bool
) -> None:
    one = OneRecord(tmp_path, claude_emulator)
    nights = one.nights(output=Bill, parquet=parquet)
    answer = {"total": 1.5, "plain": 19.99, "lines": [{"price": 0.1}]}
    one.send(nights)
    one.end_with(text(answer))
    nights.collect()
    row = nights.rows()[1]
    assert row["total"] == Decimal("1.5") and row["plain"] == Decimal("19.99")
    assert row["lines"] == [{"price": Decimal("0.10"), "factor": None}]
    shown = {c.name: c.type for c in nights.metadata("results")["dagster/column_schema"].columns}
    assert shown["total"] == "decimal(38,4)" and shown["few"] == "decimal(12,6)"


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"type": "string", "format": "decimal"}, "DECIMAL(38,10)"),
        ({"type": "number", "format": "decimal"}, "DECIMAL(38,10)"),
        ({"type": "string", "format": "decimal(12,2)"}, "DECIMAL(12,2)"),
        ({"type": "number", "format": "decimal(12, 2)"}, "DECIMAL(12,2)"),
        ({"type": "number", "format": "decimal(5)"}, "DECIMAL(5,0)"),
        ({"type": ["number", "null"], "format": "decimal(12,2)"}, "DECIMAL(12,2)"),
        ({"type": "array", "items": {"type": "number", "format": "decimal(9,1)"}}, "DECIMAL(9,1)[]"),
        ({"anyOf": [{"type": "number", "format": "decimal(9,1)"}, {"type": "integer"}]}, "DECIMAL(20,1)"),
        ({"anyOf": [{"type": "number", "format": "decimal"}, {"type": "number"}]}, "DOUBLE"),
        ({"anyOf": [{"type": "number", "format": "decimal"}, {"type": "boolean"}]}, "JSON"),
        ({"type": "number"}, "DOUBLE"),
    ],
)  # fmt: skip
def test_a_json_schema_declares_decimals_by_its_format(field: dict[str, Any], kind: str) -> None:
    assert schema_of(object_of(a=field)).columns == (("a", kind),)


@pytest.mark.parametrize(
    ("digits", "places", "kind"),
    [
        (None, None, "DECIMAL(38,10)"),
        (6, 2, "DECIMAL(6,2)"),
        (38, 0, "DECIMAL(38,0)"),
        (6, None, "DECIMAL(12,6)"),
        (25, None, "DECIMAL(38,13)"),
        (38, None, "DECIMAL(38,10)"),
        (None, 3, "DECIMAL(38,3)"),
        (2, 4, "DECIMAL(4,4)"),
        (60, 50, "DECIMAL(38,38)"),
    ],
)
def test_which_type_holds_so_many_digits(digits: int | None, places: int | None, kind: str) -> None:
    assert decimal_type(digits, places) == kind
    assert duckdb.sql(f"select null::{kind} as a").types[0] == kind


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"a": 1.005}', r"a: 1.005 has more digits than DECIMAL\(6,2\) holds"),
        ('{"a": 12345.1}', "a: 12345.1 has more digits"),
        ('{"a": 1e400}', "a: "),
        ('{"a": "12 EUR"}', "a: "),
        ('{"a": true}', "a: "),
    ],
)
def test_what_a_decimal_column_cannot_hold_is_invalid_and_not_silently_null(
    answer: str, says: str
) -> None:
    schema = schema_of(object_of(a={"type": ["number", "string"], "format": "decimal(6,2)"}))
    assert schema.columns == (("a", "DECIMAL(6,2)"),)
    status, error, _ = judged(schema, answer)
    assert status == "invalid" and re.match(says, error), error


def test_a_decimal_without_digits_is_rounded_to_ten_places() -> None:
    schema = schema_of(object_of(a={"type": "number", "format": "decimal"}))
    assert columns(schema, '{"a": 0.12345678901234}') == {"a": Decimal("0.1234567890")}
    assert judged(schema, '{"a": 1e28}')[0] == "invalid"


def test_the_model_is_told_of_the_digits() -> None:
    properties = schema_of(Bill).sent["properties"]
    assert properties["total"]["type"] == "number"
    assert properties["total"]["description"] == "{max_digits: 38, decimal_places: 4}"
    assert "description" not in properties["plain"]
    assert "x-decimal" not in json.dumps(schema_of(Bill).sent)


def test_the_version_of_a_question_with_decimals_is_that_of_earlier_releases() -> None:
    class Bill(BaseModel):
        total: Decimal = Field(max_digits=6, decimal_places=2, ge=0)
        rate: Decimal | None = Field(None, description="x")

    template = MessageTemplate(
        model="claude-haiku-4-5", max_tokens=9, prompt="{{ v }}", output=Bill
    )
    assert compile_question(template, {"v": "VARCHAR"}).version == "1f0abf7731c64d22"


def test_a_table_of_earlier_releases_keeps_its_doubles(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    one = OneRecord(tmp_path, claude_emulator, "select i as id, 'hello' as v from range(1, 3) r(i)")
    earlier = one.nights(output=object_of(plain={"type": "number"}), prompt="{{ v }}")
    earlier.night(limit=1)
    assert one.types()["plain"] == "DOUBLE"

    class Now(BaseModel):
        plain: Decimal

    later = one.nights(output=Now, prompt="{{ v }}")
    later.night()
    assert one.types()["plain"] == "DOUBLE"
    assert {row["_status"] for row in later.rows().values()} == {"answered"}
    asked = [claude_emulator.requests(b["id"]) for b in claude_emulator.batches()]
    assert sum(map(len, asked)) == 2, "the question is the same: nothing is asked again"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 38), st.data())
def test_every_decimal_of_the_declared_digits_comes_back_as_it_was(digits: int, data: Any) -> None:
    places = data.draw(st.integers(0, digits))
    number = data.draw(st.integers(-(10**digits) + 1, 10**digits - 1))
    exact = Decimal(f"{number}e-{places}")
    schema = schema_of(object_of(a={"type": "number", "format": f"decimal({digits},{places})"}))
    assert columns(schema, f'{{"a": {exact:f}}}') == {"a": exact}
    assert columns(schema, f'{{"a": {number}e-{places}}}') == {"a": exact}
