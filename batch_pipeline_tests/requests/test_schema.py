"""What a schema becomes: what the API is sent, what answers fit, which columns there are."""

import json
import re
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import duckdb
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from batch_pipeline.errors import InputError
from batch_pipeline.requests.schema import OutputSchema

STRING = {"type": "string"}
PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"


def schema_of(output: Any) -> OutputSchema:
    found = OutputSchema.from_(output)
    assert found is not None
    return found


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def table_of(schema: OutputSchema, answer: Any) -> list[tuple[str, str]]:
    """Return (column, type) as DuckDB makes them of an answer."""
    relation = duckdb.sql(
        "select unnest(json_transform($answer, $structure))",
        params={"answer": json.dumps(answer), "structure": schema.structure},
    )
    return list(zip(relation.columns, map(str, relation.types), strict=True))


class Line(BaseModel):
    """One line."""

    sku: str = Field(max_length=5, pattern="^[A-Z]+$", description="the code")
    count: int = Field(ge=1)


class Kind(Enum):
    FOOD = "Food"
    TRAVEL = "Travel"


class Invoice(BaseModel):
    vendor: str
    kind: Kind
    paid: bool
    total: Decimal = Field(ge=0)
    rate: float | None = None
    due: date
    sent: datetime | None
    lines: list[Line] = Field(min_length=2, description="all lines")
    best: Line = Field(description="the best line")
    tags: list[str]
    code: int | str


INVOICE = {
    "vendor": "V",
    "kind": "Food",
    "paid": True,
    "total": 1.5,
    "rate": None,
    "due": "2024-02-29",
    "sent": "2024-02-29T10:00:00+02:00",
    "lines": [{"sku": "AB", "count": 1}, {"sku": "C", "count": 2}],
    "best": {"sku": "AB", "count": 1},
    "tags": ["x"],
    "code": "7",
}


def test_plain_text_has_no_schema() -> None:
    assert OutputSchema.from_(None) is None


def test_each_field_becomes_a_column_of_its_type() -> None:
    schema = schema_of(Invoice)
    line = 'STRUCT("sku" VARCHAR, "count" BIGINT)'
    assert schema.columns == (
        ("vendor", "VARCHAR"),
        ("kind", "VARCHAR"),
        ("paid", "BOOLEAN"),
        ("total", "DECIMAL(38,10)"),
        ("rate", "DOUBLE"),
        ("due", "DATE"),
        ("sent", "TIMESTAMPTZ"),
        ("lines", f"{line}[]"),
        ("best", line),
        ("tags", "VARCHAR[]"),
        ("code", "JSON"),
    )
    assert schema.validate(INVOICE) == (INVOICE, None)
    connection = duckdb.connect()
    expected = ", ".join(f'null::{kind} as "{name}"' for name, kind in schema.columns)
    types = connection.sql(f"select {expected}")
    assert table_of(schema, INVOICE) == list(zip(types.columns, map(str, types.types), strict=True))


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"enum": ["a", "b", None]}, "VARCHAR"),
        ({"enum": [1, 2]}, "BIGINT"),
        ({"enum": [1, 2.5]}, "DOUBLE"),
        ({"enum": [1, "a"]}, "JSON"),
        ({"const": True}, "BOOLEAN"),
        ({"type": ["string", "null"]}, "VARCHAR"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": ["integer", "string"]}, "JSON"),
        ({"type": "null"}, "JSON"),
        ({"oneOf": [STRING, {"type": "null"}]}, "VARCHAR"),
        ({"allOf": [STRING]}, "VARCHAR"),
        ({"type": "string", "format": "time"}, "VARCHAR"),
        ({"type": "array", "items": {"type": "array", "items": STRING}}, "VARCHAR[][]"),
        ({"type": "array", "items": {"anyOf": [STRING, {"type": "integer"}]}}, "JSON[]"),
    ],
)
def test_a_json_schema_field_becomes_its_type(field: dict[str, Any], kind: str) -> None:
    schema = schema_of(object_of(**{'od"d name': field}))
    assert schema.columns == (('od"d name', kind),)
    assert table_of(schema, {'od"d name': None}) == [('od"d name', kind)]


leaves = st.sampled_from(
    [
        (STRING, "text é\x00"),
        ({"type": "integer"}, 2**63 - 1),
        ({"type": "number"}, -0.25),
        ({"type": "boolean"}, False),
        ({"type": "string", "format": "date"}, "2024-02-29"),
        ({"type": "string", "format": "date-time"}, "2024-02-29T23:59:59.5Z"),
        ({"enum": ["A", "b"]}, "b"),
        ({"anyOf": [STRING, {"type": "null"}]}, None),
        ({"anyOf": [STRING, {"type": "integer"}]}, 5),
    ]
)
names = st.text("abc \"'.é-_0", min_size=1, max_size=4)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(names, inner, min_size=1, max_size=4)
    return fields.map(
        lambda f: (
            object_of(**{k: s for k, (s, _) in f.items()}),
            {k: v for k, (_, v) in f.items()},
        )
    )


values = st.recursive(
    leaves,
    lambda inner: (
        objects(inner)
        | inner.map(lambda pair: ({"type": "array", "items": pair[0]}, [pair[1], pair[1]]))
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(objects(values))
def test_any_legal_schema_gives_the_columns_that_duckdb_makes(pair: tuple[Any, Any]) -> None:
    declared, answer = pair
    try:
        schema = schema_of(declared)
    except InputError as error:
        assert "union-typed" in str(error)
        return
    assert schema.validate(answer) == (answer, None)
    row = duckdb.sql(
        "select unnest(json_transform($answer, $structure))",
        params={"answer": json.dumps(answer), "structure": schema.structure},
    )
    expected = ", ".join(
        f"""null::{kind} as "{name.replace('"', '""')}" """ for name, kind in schema.columns
    )
    assert [str(t) for t in row.types] == [str(t) for t in duckdb.sql(f"select {expected}").types]
    (values,) = row.fetchall()
    assert [v is None for v in values] == [v is None for v in answer.values()]


def test_what_the_api_does_not_support_is_told_in_words() -> None:
    sent = schema_of(Invoice).sent
    sku = sent["$defs"]["Line"]["properties"]["sku"]
    assert sku["description"] == 'the code\n\n{maxLength: 5, pattern: "^[A-Z]+$"}'
    assert set(sku) == {"type", "title", "description"}
    assert sent["properties"]["lines"]["description"] == "all lines\n\n{minItems: 2}"
    assert sent["properties"]["total"]["type"] == "number"


def test_every_object_is_closed_and_keeps_its_required_fields() -> None:
    sent = schema_of(Invoice).sent
    assert sent["additionalProperties"] is False
    assert sent["$defs"]["Line"]["additionalProperties"] is False
    assert sent["$defs"]["Line"]["required"] == ["sku", "count"]
    assert "rate" not in sent["required"]


def test_a_description_beside_a_reference_reaches_the_model() -> None:
    sent = schema_of(Invoice).sent
    assert sent["properties"]["best"]["description"] == "the best line"
    assert sent["properties"]["kind"] == {"$ref": "#/$defs/Kind"}


def test_sending_leaves_out_every_keyword_that_the_api_refuses() -> None:
    declared = object_of(
        a={"type": ["string", "null"], "minLength": 1},
        b={"type": "array", "items": STRING, "minItems": 1, "uniqueItems": True},
        c={"oneOf": [{"type": "integer", "minimum": 1}, STRING], "default": 1},
        d={"type": "string", "format": "iban"},
    )
    sent = schema_of(declared).sent["properties"]
    assert sent["a"]["anyOf"][0] == {"type": "string", "description": "{minLength: 1}"}
    assert sent["a"]["anyOf"][1]["type"] == "null"
    assert sent["b"]["minItems"] == 1
    assert sent["b"]["description"] == "{uniqueItems: true}"
    assert [branch["type"] for branch in sent["c"]["anyOf"]] == ["integer", "string"]
    assert sent["d"] == {"type": "string", "description": '{format: "iban"}'}


def test_only_definitions_in_use_are_sent() -> None:
    declared = object_of(a={"$ref": "#/$defs/A"}, b={"$ref": "#/properties/a"})
    declared["$defs"] = {"A": STRING, "Unused": {"type": "object"}}
    sent = schema_of(declared).sent
    assert sent["$defs"] == {"A": STRING}
    assert sent["properties"] == {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#/$defs/A"}}


def test_a_root_by_reference_is_sent_as_an_object() -> None:
    sent = schema_of({"$ref": "#/$defs/A", "$defs": {"A": object_of(x=STRING)}}).sent
    assert sent["type"] == "object"
    assert sent["properties"] == {"x": STRING}


class Node(BaseModel):
    name: str
    children: list["Node"]


class Free(BaseModel):
    scores: dict[str, int]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({"type": "array", "items": STRING}, "root must be an object"),
        ({"type": "object"}, "needs named `properties`"),
        ({"type": "object", "properties": {}}, "needs named `properties`"),
        (Free, r"output\.scores: an object needs named `properties`"),
        (object_of(a=STRING) | {"additionalProperties": STRING}, "extra keys"),
        (Node, "contains itself"),
        (object_of(a={}), r"output\.a: needs a `type`"),
        (object_of(a={"type": "text"}), r"valid JSON Schema: properties\.a\.type"),
        (object_of(a={"type": "array"}), r"output\.a: an array needs"),
        (object_of(a={"$ref": "other.json"}), "outside the schema"),
        (object_of(a={"$ref": "#/$defs/X"}), "points to nothing"),
        (object_of(a={"allOf": [STRING, STRING]}), "write them as one"),
        (object_of(a={"enum": []}), "enum and const"),
        (object_of(a={"enum": [[1]]}), "enum and const"),
        (object_of(a=STRING, A=STRING), "differ by case only"),
        (object_of(**{"a": STRING, "": STRING}), "output: a property has an empty name"),
        (
            object_of(a={"type": "array", "items": object_of(**{"": STRING})}),
            r"output\.a\[\]: a property has an empty name",
        ),
        (object_of(a={"type": "string", "pattern": "("}), "not a valid JSON Schema"),
        (object_of(a={"type": "integer", "minimum": "x"}), r"properties\.a\.minimum"),
        (object_of(a=STRING) | {"required": "a"}, "required: "),
        (object_of(a=STRING) | {"type": ["object", "null"]}, "root must be an object"),
        (
            object_of(a=STRING | {"not": {"$ref": "http://127.0.0.1:9/x"}}),
            "not a valid JSON Schema",
        ),
        ({"type": "object", "properties": {f"f{i}": STRING for i in range(25)}}, "25 optional"),
        (object_of(**{f"f{i}": {"type": ["string", "null"]} for i in range(17)}), "17 union"),
    ],
)
def test_what_the_api_would_refuse_is_an_error_that_names_the_place(output: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        OutputSchema.from_(output)


class Guess(BaseModel):
    kind: Kind
    sure: Literal["Yes", "no"] | None
    kinds: list[Kind] = []


def test_capitalisation_is_folded_to_the_declared_one() -> None:
    answer = {"kind": "FOOD", "sure": "yes", "kinds": ["travel", "Food"]}
    fitted = {"kind": "Food", "sure": "Yes", "kinds": ["Travel", "Food"]}
    assert schema_of(Guess).validate(answer) == (fitted, None)


def test_capitalisation_that_two_values_share_is_not_guessed() -> None:
    schema = schema_of(object_of(a={"enum": ["us", "US", "it"]}))
    assert schema.validate({"a": "IT"}) == ({"a": "it"}, None)
    assert schema.validate({"a": "Us"})[1] is not None
    assert schema.validate({"a": "US"}) == ({"a": "US"}, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "Foods"}, r'kind: "Foods" is not one of'),
        ({"due": "2024-02-30"}, 'due: "2024-02-30" is not a "date"'),
        ({"due": "20240229"}, "due: "),
        ({"sent": "2024-02-29T10:00:00"}, "sent: "),
        ({"sent": "2024-02-29t10:00:00z"}, "sent: "),
        ({"sent": "2016-12-31T23:59:60Z"}, "sent: "),
        ({"total": -1}, r"total: -1 is less than the minimum of 0"),
        ({"lines": [{"sku": "AB", "count": 0}] * 2}, r"lines\.0\.count: .*\(and 1 more\)"),
        ({"lines": []}, "lines: "),
        ({"best": {"sku": "toolong", "count": 1}}, r"best\.sku: "),
        ({"best": {"sku": "A", "count": 2**63}}, r"best\.count: .*greater than the maximum"),
        ({"vendor": None}, "vendor: "),
    ],
)
def test_an_answer_that_does_not_fit_names_the_field(change: dict[str, Any], says: str) -> None:
    _, error = schema_of(Invoice).validate(INVOICE | change)
    assert error is not None
    assert re.match(says, error), error


def test_a_missing_field_is_named() -> None:
    assert schema_of(Invoice).validate({})[1] is not None
    assert "vendor" in str(schema_of(object_of(vendor=STRING)).validate({})[1])
    assert schema_of(object_of(a=STRING)).validate(["x"])[1] is not None


def test_a_stored_schema_reads_back_the_same() -> None:
    schema = schema_of(Invoice)
    assert schema_of(json.loads(json.dumps(schema.declared))) == schema


def rows_of_the_page() -> list[tuple[str, str, str]]:
    """The table of types in docs/pipelines.md: a pydantic type, a JSON Schema, a column's type."""
    rows = re.findall(r"^\| (.+?) \| (`\{.+?\}`) \| (`.+?`) \|$", PAGE.read_text(), re.MULTILINE)
    return [(a.replace("\\|", "|").strip("`"), b.strip("`"), c.strip("`")) for a, b, c in rows]


class Inner(BaseModel):
    n: int


@pytest.mark.parametrize(("annotation", "schema", "kind"), rows_of_the_page())
def test_the_table_of_types_on_the_page_is_so(annotation: str, schema: str, kind: str) -> None:
    words: dict[str, Any] = {name: getattr(typing, name) for name in ("Annotated", "Literal")}
    words |= {t.__name__: t for t in (date, datetime, time, timedelta, Decimal, UUID)}
    a_type = Inner if annotation == "a model" else eval(annotation, {"Field": Field, **words})
    model = create_model("Model", a=(a_type, ...))
    assert schema_of(model).columns == (("a", kind),)
    assert schema_of(object_of(a=yaml.safe_load(schema))).columns == (("a", kind),)


def test_the_page_has_the_table() -> None:
    assert len(rows_of_the_page()) >= 15
