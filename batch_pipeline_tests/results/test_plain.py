"""Plain lines are judged at once: as the careful way judges each, on lines that are valid and damaged."""

import json
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, field_validator

from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.judge import Counts, Judged, judge_file, judge_line
from batch_pipeline.results.pattern import pattern_of
from batch_pipeline.results.plain import SCALE, PlainLines
from batch_pipeline_tests.support.extent import extent

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LINES = extent(4_000, 100_000)


class Entry(BaseModel):
    kind: Literal["Food", "Travel", "a.b (c)", "é^]"]
    score: float
    count: int
    sure: bool
    words: list[str]
    on: date
    said: str | None


class Shade(Enum):
    dark = "dark"


class Odd(BaseModel):
    """Where the class decides, nothing is judged without it."""

    shade: Shade


class Upper(BaseModel):
    said: str

    @field_validator("said")
    @classmethod
    def upper(cls, said: str) -> str:
        return said.upper()


class Own(BaseModel):
    said: str

    @classmethod
    def model_validate_json(cls, *given: Any, **how: Any) -> Any:
        raise ValueError("no")


class Strict(BaseModel, str_strip_whitespace=True):
    said: str


class Bounded(BaseModel):
    score: float = Field(ge=0)


FLAT = {
    "type": "object",
    "$defs": {"kind": {"enum": ["Food", "Travel", "a.b (c)", "é^]"]}},
    "properties": {
        "said": {"type": ["string", "null"]},
        "kind": {"$ref": "#/$defs/kind"},
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "sure": {"type": "boolean"},
        "words": {"type": "array", "items": {"type": "string"}},
        "on": {"type": "string", "format": "date"},
    },
    "required": ["kind", "score", "count", "sure", "words", "on"],
    "additionalProperties": False,
}
SCHEMAS = {
    "text": None,
    "class": OutputSchema.from_(Entry),
    "schema": OutputSchema.from_(FLAT),
    "one number": OutputSchema.from_(
        {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    ),
}
NUMBERS: list[
    str
] = """0 -0 0.0 -0.0 -0.00 1 -1 5 1.0 1.50 -0.5 0.1 -0.10 1e2 1E400 -1e-400 NaN Infinity 01 .5 5. +1
9007199254740993 -9007199254740993 999999999999999999 9223372036854775807 9223372036854775808 -9223372036854775808
-9223372036854775809 123456789012345.123456789012345 0.30000000000000004 1234567890123456789012345678901234567890
1.7976931348623157e308 4.9e-324 0.000000000000001 true false null "5" "x" [] {} 1,5""".split()
TEXTS: list[str] = (
    r"""x Food food \u00e9 é \ud83d \ud83d\ude00 😀 \/ / \n \t a\\b \"q\" \u0000 \x NaN null {} [1,] ,} "open""".split()
)
TEXTS += ["", " ", "a\x01b", "\u2028", "a\x7fb", "  padded ", "x" * 300]
DATES: list[
    str
] = """2026-01-31 2026-02-28 2026-02-29 2024-02-29 2026-02-30 2026-04-31 2026-13-01 2026-00-01 0000-01-01
0001-01-01 9999-12-31 2026-1-1 20260131 2026-01-31T00:00:00Z""".split()


def made(rng: random.Random, number: int) -> tuple[str, bytes]:
    """Return which schema is asked, and a line that answers it: plain, odd, or damaged."""
    asked = rng.choice(list(SCHEMAS))
    line = envelope(rng, number, json.dumps(answer(rng, asked), ensure_ascii=rng.random() < 0.3))
    raw = line.encode("utf-8", "surrogatepass")
    if rng.random() < 0.25:
        raw = damaged(rng, raw)
    return asked, raw.replace(b"\n", b" ") + b"\n"


def answer(rng: random.Random, asked: str) -> str:
    if asked == "text":
        return rng.choice([*TEXTS, "A plain answer.", "Another, of two sentences. Yes."])
    if asked == "one number":
        return f'{{"n": {rng.choice(NUMBERS)}}}'
    sure = rng.random() < 0.6  # of this many answers all is as it should be

    def one(good: list[str], bad: list[str]) -> str:
        return rng.choice(good if sure or rng.random() < 0.8 else bad)

    def texts(good: list[str]) -> str:
        return f'"{one(good, TEXTS)}"'

    words = ", ".join(texts(["a", "b c", "é"]) for _ in range(rng.randrange(4)))
    fields = {
        "kind": texts(["Food", "Travel", "a.b (c)", "é^]"]),
        "score": one(["0.5", "1", "-0.25", "0.30000000000000004"], NUMBERS),
        "count": one(["0", "7", "-12"], NUMBERS),
        "sure": one(["true", "false"], ["True", "1", "null", '"true"']),
        "words": one([f"[{words}]"], ["[1]", "[null]", "{}", "[[]]", '["a",]']),
        "on": f'"{one(DATES[:2], DATES)}"',
        "said": one([texts(["Yes.", "\\n"]), "null"], ["1", "[]"]),
    }
    if not sure:
        for _ in range(rng.randrange(3)):
            match rng.randrange(4):
                case 0:
                    fields.pop(rng.choice(list(fields)), None)
                case 1:
                    fields["more"] = "1"
                case 2:
                    names = list(fields)
                    rng.shuffle(names)
                    fields = {name: fields[name] for name in names}
                case _:
                    fields |= {"kind": f'{fields.get("kind", 1)}, "kind": {texts(["Food"])}'}
    space = rng.choice(["", "", " ", "\n  "])
    inside = f",{space}".join(f'"{name}":{space}{value}' for name, value in fields.items())
    return f"{space}{{{space}{inside}{space}}}{space}" + (
        "" if sure else rng.choice(["", "", " x", "}"])
    )


def envelope(rng: random.Random, number: int, text: str) -> str:
    def other(plain: str, *odd: str) -> str:
        return plain if rng.random() < 0.97 else rng.choice(odd)

    counts = [
        "true",
        "null",
        "-1",
        "1.0",
        '"5"',
        "100000001",
        "99999999999",
        "1e3",
        "{}",
        "18446744073709551616",
    ]
    read, five, hour = (rng.choice([0, 0, 0, 3, 200_000]) for _ in range(3))
    block = other(
        f'{{"type": "text", "text": {text}}}',
        f'{{"text": {text}, "citations": null, "type": "text"}}',
        f'{{"type": "text", "text": {text}}}, {{"type": "text", "text": "x"}}',
        f'{{"type": "thinking", "thinking": "x"}}, {{"type": "text", "text": {text}}}',
        '{"type": "tool_use", "name": "answer", "input": {"n": 1}}',
        f'{{"type": "text", "text": {text}, "text": "twice"}}',
        '{"type": "text", "text": 5}',
        '{"type": "text"}',
        "",
        "null",
    )
    usage = ", ".join(
        [
            f'"input_tokens": {other("480", *counts)}',
            f'"output_tokens": {other("31", *counts)}',
            f'"cache_read_input_tokens": {other(str(read), *counts)}',
            f'"cache_creation_input_tokens": {other(str(five + hour), *counts)}',
            '"cache_creation": '
            + other(
                f'{{"ephemeral_5m_input_tokens": {five}, "ephemeral_1h_input_tokens": {hour}}}',
                *("null", "{}", "[]", "7", '{"ephemeral_5m_input_tokens": true}'),
            ),
            f'"service_tier": {other(chr(34) + "batch" + chr(34), "null", chr(34) * 2, "[]", "1")}',
            f'"inference_geo": {other("null", chr(34) + "us" + chr(34), "{}")}',
            '"server_tool_use": '
            + other(
                "null",
                "{}",
                '{"web_search_requests": 2}',
                '{"code_execution_requests": 1}',
                "[]",
                "5",
            ),
            '"iterations": '
            + other(
                "null", "[]", '[{"type": "compaction", "input_tokens": 5, "output_tokens": 1}]', "7"
            ),
            f'"fallback_credit": {other("null", "{}")}',
        ]
    )
    model = other(
        '"claude-haiku-4-5"',
        '"claude-sonnet-4-5"',
        '"claude-haiku-5-5"',
        '"unknown"',
        '""',
        "null",
        "7",
    )
    stop = other(
        '"end_turn"',
        '"stop_sequence"',
        '"max_tokens"',
        '"refusal"',
        '"pause_turn"',
        "null",
        "[]",
        '"new"',
    )
    message = (
        f'{{"id": "msg", "type": "message", "model": {model}, "content": '
        f"{other(f'[{block}]', block or '0', chr(34) + 'x' + chr(34), 'null')}, "
        f'"stop_reason": {stop}, "usage": {other(f"{{{usage}}}", "null", "[]", "7")}}}'
    )
    body = other(
        f'{{"type": "succeeded", "message": {message}}}',
        f'{{"message": {message}, "type": "succeeded", "type": "expired"}}',
        '{"type": "errored", "error": {"error": {"type": "api_error", "message": "no"}}}',
        '{"type": "expired"}',
        '{"type": "canceled"}',
        '{"type": "succeeded", "message": [1]}',
        "[]",
    )
    name = other(f'"{number:x}"', "7", "null", f'"{number:x}", "custom_id": "x"')
    return f'{{"custom_id": {name}, "result": {body}}}'


def damaged(rng: random.Random, raw: bytes) -> bytes:
    place = rng.randrange(len(raw))
    match rng.randrange(6):
        case 0:
            return raw[:place]
        case 1:
            return raw[:place] + raw[place + 1 :]
        case 2:
            odd = rng.choice(
                [
                    b"\xff",
                    b",",
                    b"}",
                    b'"',
                    b"\\",
                    b"\x00",
                    b" ",
                    b"\r",
                    b"\\ud83d",
                    b"NaN",
                    b"\xc3",
                ]
            )
            return raw[:place] + odd + raw[place:]
        case 3:
            return raw.replace(b"}", b",}", 1)
        case 4:
            return raw + raw
        case _:
            return b"\xef\xbb\xbf" + raw


def test_plain_lines_are_judged_as_the_careful_way_judges_them(tmp_path: Path) -> None:
    rng = random.Random(20261120)
    lines: dict[str, list[bytes]] = {name: [] for name in SCHEMAS}
    for number in range(LINES):
        asked, line = made(rng, number)
        lines[asked].append(line)
    for asked, some in lines.items():
        schema = SCHEMAS[asked]
        path = tmp_path / "answers.jsonl"
        path.write_bytes(b"".join(some))
        counts = Counts()
        quick = pa.Table.from_batches(judge_file(str(path), schema, priced_at=NOW, counts=counts))
        careful = [judge_line(line, schema, NOW) for line in some if not line.isspace()]
        rows = [row for row in careful if row is not None]
        assert counts.damaged == len(careful) - len(rows)
        assert counts.cost == sum((row.cost or 0 for row in rows), Decimal(0))
        assert counts.cost_unknown == sum(row.cost is None for row in rows)
        names = [name for name in Judged._fields if name not in ("answer", "cost")]
        for name in names:
            assert quick[name].to_pylist() == [getattr(row, name) for row in rows], name
        rounded = [None if row.cost is None else round(row.cost, SCALE) for row in rows]
        assert quick["cost"].to_pylist() == rounded
        answers = [row.answer for row in rows]
        if schema is None:
            assert quick["answer"].to_pylist() == answers
        else:
            assert columns_of(quick["answer"], schema) == columns_of(answers, schema)
        # Not all of it by the careful way, and not all of it plain.
        plain = sum(PlainLines(NOW).read(line) is not None for line in some)
        assert 0.4 < plain / len(some) < 0.9
        if schema is not None:
            said = quick["answer"].to_pylist()
            assert sum(one != two for one, two in zip(said, answers, strict=True)) > len(some) / 20


def columns_of(answers: Any, schema: OutputSchema) -> list[Any]:
    """Return what DuckDB reads from answers; a -0.0 is told from 0.0."""
    texts = pa.table(
        {"answer": pa.array(answers, pa.string()) if isinstance(answers, list) else answers}
    )
    with duckdb.connect() as con:
        con.register("texts", texts)
        found = con.execute(
            "select json_transform(answer, $structure)::varchar from texts",
            {"structure": schema.structure},
        )
        return found.fetchall()


@pytest.mark.parametrize("model", [Odd, Upper, Own, Strict, Bounded])
def test_a_class_that_may_decide_otherwise_than_its_schema_judges_itself(model: Any) -> None:
    schema = OutputSchema.from_(model)
    assert schema is not None
    assert pattern_of(schema) is None


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "minLength": 2},
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": 0},
        {"enum": [1, 2]},
        {"enum": ["a", 1]},
        {"anyOf": [{"type": "string"}, {"type": "number"}]},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "object", "properties": {"x": {"type": "string"}}},
        {"type": "number", "x-decimal": {"max_digits": 4}},
        {"type": "string", "format": "decimal(4,1)"},
    ],
)
def test_a_schema_with_more_to_it_is_judged_by_its_validator(field: Any) -> None:
    schema = OutputSchema.from_({"type": "object", "properties": {"x": field}, "required": ["x"]})
    assert schema is not None
    assert pattern_of(schema) is None
