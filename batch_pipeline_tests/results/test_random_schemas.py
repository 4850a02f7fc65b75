"""Whatever schema of those that the API takes: what fits is accepted and typed, what is broken names its place."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import duckdb
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from batch_pipeline.errors import InputError
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.judge import judge_line
from batch_pipeline.results.question import Question
from batch_pipeline_tests.results.test_judge import NOW, succeeded, text, tool
from batch_pipeline_tests.support.extent import extent

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NAMES = st.sampled_from(
    ["kind", "Total", "a b", "größe", 'q"uote', "1st", "_id", "in", "sum", "x.y", "日付", "null"]
)
Path = tuple[str | int, ...]
Broken = tuple[Path, Any]
"""A value that does not fit, and where it does not."""


@dataclass(frozen=True)
class Kind:
    """A schema, answers that fit it, and answers that do not fit it at one place.

    Attributes:
        schema: the JSON Schema.
        sql: the DuckDB type of its column.
        fits: what fits, as JSON has it.
        broken: what does not.
        typed: what a column holds of what fits.
    """

    schema: dict[str, Any]
    sql: str
    fits: st.SearchStrategy[Any]
    broken: st.SearchStrategy[Broken]
    typed: Callable[[Any], Any] = lambda value: value


def here(*values: Any) -> st.SearchStrategy[Broken]:
    return st.sampled_from([((), value) for value in values])


def moments() -> st.SearchStrategy[str]:
    return st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(
        lambda moment: moment.isoformat().replace("+00:00", "Z")
    )


INTEGERS = st.integers(-(2**63), 2**63 - 1)
LEAVES = [
    Kind({"type": "string"}, "VARCHAR", TEXT, here(5, None, True, [], {})),
    Kind(
        {"type": "string", "enum": ["red", "Green", "deep blue"]},
        "VARCHAR",
        st.sampled_from(["red", "Green", "deep blue"]),
        here("reds", "", 1, None),
    ),
    Kind({"type": "string", "maxLength": 8}, "VARCHAR", TEXT, here("x" * 9, 8)),
    Kind(
        {"type": "string", "pattern": "^[A-Z]{2}[0-9]*$"},
        "VARCHAR",
        st.from_regex("[A-Z]{2}[0-9]{0,5}", fullmatch=True),
        here("de1", "D", ""),
    ),
    Kind(
        {"type": "string", "format": "date"},
        "DATE",
        st.dates().map(str),
        here("2026-02-30", "1.2.2026", "", 20260101),
        lambda value: datetime.strptime(value, "%Y-%m-%d").date(),
    ),
    Kind(
        {"type": "string", "format": "date-time"},
        "TIMESTAMP WITH TIME ZONE",
        moments(),
        here("2026-01-01", "2026-01-01T25:00:00Z", "2026-01-01T10:00:00"),
        datetime.fromisoformat,
    ),
    Kind({"type": "integer"}, "BIGINT", INTEGERS, here(0.5, "1", None, 2**63, True)),
    Kind(
        {"type": "integer", "minimum": -3, "exclusiveMaximum": 10},
        "BIGINT",
        st.integers(-3, 9),
        here(-4, 10, 2.5),
    ),
    Kind(
        {"type": "number"},
        "DOUBLE",
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        here("0.5", None, False, [1.0]),
        float,
    ),
    Kind({"type": "boolean"}, "BOOLEAN", st.booleans(), here("true", 0, None)),
    Kind({"enum": [1, 5, 25]}, "BIGINT", st.sampled_from([1, 5, 25]), here(2, "1")),
    Kind({"const": "invoice"}, "VARCHAR", st.just("invoice"), here("bill", 1, None)),
]


def or_null(inner: Kind) -> Kind:
    """What may also be null: what fits neither is wrong at this place."""
    return Kind(
        {"anyOf": [inner.schema, {"type": "null"}]},
        inner.sql,
        st.none() | inner.fits,
        inner.broken.filter(lambda one: one[1] is not None).map(lambda one: ((), one[1])),
        lambda value: None if value is None else inner.typed(value),
    )


def list_of(inner: Kind) -> Kind:
    def broken(values: list[Any], place: int, one: Broken) -> Broken:
        place %= len(values) + 1
        return (place, *one[0]), [*values[:place], one[1], *values[place:]]

    items = st.lists(inner.fits, max_size=3)
    return Kind(
        {"type": "array", "items": inner.schema},
        f"{inner.sql}[]",
        items,
        st.builds(broken, items, st.integers(0, 9), inner.broken) | here("x", {}, None),
        lambda values: [inner.typed(value) for value in values],
    )


def object_of(fields: dict[str, tuple[Kind, bool]]) -> Kind:
    """An object: what each field is, and whether it must be there."""
    needed = [name for name, (_, required) in fields.items() if required]
    values = st.fixed_dictionaries(
        {name: kind.fits for name, (kind, required) in fields.items() if required},
        optional={name: kind.fits for name, (kind, required) in fields.items() if not required},
    )

    def inside(value: dict[str, Any], name: str, one: Broken) -> Broken:
        return (name, *one[0]), {**value, name: one[1]}

    def without(value: dict[str, Any], name: str) -> Broken:
        return (), {key: inner for key, inner in value.items() if key != name}

    ways = [
        st.builds(inside, values, st.just(name), kind.broken) for name, (kind, _) in fields.items()
    ]
    ways += [values.map(lambda value: ((), {**value, "nobody asked": 1})), here([], "x")]
    ways += [st.builds(without, values, st.just(name)) for name in needed]
    quoted = ", ".join(
        f'"{n.replace(chr(34), chr(34) * 2)}" {k.sql}' for n, (k, _) in fields.items()
    )
    return Kind(
        {
            "type": "object",
            "properties": {name: kind.schema for name, (kind, _) in fields.items()},
            "required": needed,
            "additionalProperties": False,
        },
        f"STRUCT({quoted})",
        values,
        st.one_of(ways),
        lambda value: {
            name: kind.typed(value[name]) if name in value else None
            for name, (kind, _) in fields.items()
        },
    )


def objects(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    fields = st.dictionaries(NAMES, st.tuples(inner, st.booleans()), min_size=1, max_size=4)
    return fields.map(object_of)


KINDS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(list_of), st.sampled_from(LEAVES).map(or_null), objects(inner)
    ),
    max_leaves=6,
)
MANY = settings(
    max_examples=extent(25, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@cache
def connection() -> duckdb.DuckDBPyConnection:
    found = duckdb.connect()
    found.execute("set TimeZone = 'UTC'")
    return found


def as_sent(answer: Any, by_tool: bool) -> bytes:
    """Return a line of results with an answer, as text or as the call of the answer's tool."""
    return succeeded(tool("answer", answer) if by_tool else text(json.dumps(answer)))


def declared(kind: Kind) -> OutputSchema:
    try:
        output = OutputSchema.from_(kind.schema)
    except InputError as error:
        if "and the API takes" not in str(error):
            raise
        reject()  # more optional fields than there may be
    assert output is not None
    return output


@MANY
@given(objects(KINDS), st.booleans(), st.data())
def test_what_fits_is_answered_and_typed(kind: Kind, by_tool: bool, data: st.DataObject) -> None:
    output = declared(kind)
    answer = data.draw(kind.fits)
    judged = judge_line(as_sent(answer, by_tool), output, NOW)
    assert judged is not None and (judged.status, judged.error) == ("answered", None)
    typed = Question(output, "").parsed()
    [(same_type, fields)] = (
        connection()
        .execute(
            f"select typeof(fields) = typeof(null::{kind.sql}), fields"
            f" from (select {typed} as fields from (select 'answered' as status, ? as answer))",
            [judged.answer],
        )
        .fetchall()
    )
    assert fields == kind.typed(answer) and same_type


@MANY
@given(objects(KINDS), st.booleans(), st.data())
def test_what_is_broken_is_invalid_and_says_where(
    kind: Kind, by_tool: bool, data: st.DataObject
) -> None:
    output = declared(kind)
    path, answer = data.draw(kind.broken.filter(lambda one: isinstance(one[1], dict)))
    judged = judge_line(as_sent(answer, by_tool), output, NOW)
    assert judged is not None and judged.status == "invalid" and judged.error is not None
    place = ".".join(str(step) for step in path)
    if place:
        assert judged.error.startswith(f"{place}: "), (place, judged.error)
    else:
        assert "nobody asked" in judged.error or "required property" in judged.error
