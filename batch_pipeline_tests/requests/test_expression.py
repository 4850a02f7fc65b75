"""Lines that SQL makes are, byte for byte, what the template makes, or are left to it."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.records.connections import limit_memory
from batch_pipeline.requests import expression
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.compiled import (
    CompiledTemplate,
    RecordRejected,
    compile_question,
    request_line,
)
from batch_pipeline.requests.expression import LineWriter, line_writer
from batch_pipeline.requests.pieces import Piece
from batch_pipeline.requests.template import MessageTemplate

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    '\0\x01\b\t\n\v\f\r\x0e\x1a\x1f\x7f\x85\u2028"\\/{}%éß𝄞 ', max_size=8
)
WHOLE = st.integers(-(2**63), 2**63 - 1)
TYPED: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXTS),
    "number": (pa.int64(), WHOLE),
    "small": (pa.uint8(), st.integers(0, 255)),
    "double": (pa.float64(), st.floats()),
    "money": (pa.decimal128(38, 2), st.decimals("-1e30", "1e30", places=2)),
    "part": (pa.decimal128(5, 4), st.decimals("-0.9999", "0.9999", places=4)),
    "flag": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.integers(-800_000, 4_000_000) | st.just(2**31 - 1)),
    "wall": (pa.timestamp("us"), st.integers(-(10**17), 10**18) | st.just(2**63 - 1)),
    "moment": (pa.timestamp("us", "UTC"), st.datetimes(datetime(800, 1, 1))),
}


def question(available: Sequence[str], **fields: Any) -> CompiledTemplate:
    declared = {"model": "claude-haiku-4-5", "max_tokens": 8} | fields
    return compile_question(MessageTemplate(**declared), dict.fromkeys(available, "VARCHAR"))


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Make a column; numbers for times are what Arrow has in it."""
    if any(type(value) is int for value in values) and pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array(values, width).view(kind)
    return pa.array(values, kind)


def piece_of(template: CompiledTemplate, columns: dict[str, pa.Array]) -> Piece:
    records = pa.record_batch({name: columns[name] for name in template.columns})
    count = records.num_rows
    ids = pa.array([f"abcdef01-{n:016x}-1" for n in range(count)])
    return Piece(records, list(range(0, 3 * count, 3)), ids, [0] * count)


def written(template: CompiledTemplate, piece: Piece) -> Iterator[bytes | None]:
    """Yield the line of each record; None where it is left to the template."""
    with line_writer(template.form(), template.columns, piece.records.schema) as writer:
        assert writer is not None
        lines = writer.write(piece)
    assert lines is not None
    for place in range(len(piece)):
        yield None if place in lines.left else bytes(lines.line(place))


def rendered(template: CompiledTemplate, piece: Piece) -> Iterator[bytes | None]:
    """Yield the line that the template makes of each record; None where it rejects it."""
    for _, custom_id, record in piece.at(range(len(piece))):
        try:
            yield request_line(custom_id, template.params(record))
        except RecordRejected:
            yield None


def check(template: CompiledTemplate, columns: dict[str, pa.Array]) -> list[int]:
    """Check each line; return the places of those that are left."""
    piece = piece_of(template, columns)
    left = []
    for place, (line, right) in enumerate(
        zip(written(template, piece), rendered(template, piece), strict=True)
    ):
        if line is None:
            left.append(place)
        else:
            assert line == right
    return left


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({name: st.none() | values for name, (_, values) in TYPED.items()}),
        min_size=1,
        max_size=40,
    )
)
def test_values_of_each_type_are_written_as_the_template_writes_them(
    rows: list[dict[str, Any]],
) -> None:
    columns = {name: column([row[name] for row in rows], kind) for name, (kind, _) in TYPED.items()}
    prompt = "".join(f"{name}: {{{{ {name} }}}}\n" for name in TYPED)
    check(question(list(TYPED), prompt=prompt), columns)
    check(question(list(TYPED), prompt="{{ text }}"), columns)


def test_ordinary_values_are_not_left() -> None:
    values: dict[str, list[Any]] = {
        "text": ['say "é"\n\tC:\\x\u2028 \x7f 𝄞', "", None],
        "number": [-1, 0, None],
        "small": [255, 0, None],
        "double": [0.1, 1e300, None],
        "money": [Decimal("1.50"), Decimal(0), None],
        "part": [Decimal("-0.0500"), Decimal(0), None],
        "flag": [True, False, None],
        "day": [date(2024, 2, 1), date(1, 1, 1), None],
        "wall": [datetime(2024, 2, 1, 3, 4, 5), datetime(2024, 2, 1, 3, 4, 5, 60), None],
        "moment": [datetime(2024, 2, 1, 3, 4, 5), datetime(2024, 2, 1, 3, 4, 5, 60), None],
    }
    columns = {name: column(values[name], kind) for name, (kind, _) in TYPED.items()}
    prompt = "".join(f"{name}: {{{{ {name} }}}}\n" for name in TYPED)
    assert check(question(list(TYPED), prompt=prompt), columns) == []


def test_every_character_is_escaped_alike_or_left() -> None:
    characters = [chr(n) for n in range(0x3000) if not 0xD800 <= n < 0xE000]
    columns = {"text": pa.array([f"a{character}b" for character in characters])}
    left = check(question(["text"], prompt="{{ text }}"), columns)
    assert set(left) <= set(range(32))


def test_what_may_be_blank_is_left() -> None:
    blanks = ["", " ", "\u3000\n", None, "\x1c"]
    columns = {"text": pa.array([*blanks, " x", "字"])}
    assert check(question(["text"], prompt="{{ text }}\n"), columns) == [0, 1, 2, 3, 4]
    assert check(question(["text"], prompt="{{ text }}."), columns) == [4]


LONG = "x" * 300_000


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "{{ text | trim }}."},
        {"prompt": "{{ text | trim | default('none') }}."},
        {"prompt": "{{ text | default('no \\'ne') }}{{ text | d('x') | trim }}."},
        {"prompt": "{{ text | replace('a', '\"') | string }}."},
        {"prompt": "{{ 'a' ~ text ~ record['other col'] | trim }} {{ record.text }}\r\n"},
        {"prompt": "a'b\\{{ text }}{# no #}", "system": "You \"know\" {{ text }}.", "cache": "5m"},
        {"prompt": "{{ text }}.", "system": "Constant 'é'", "cache": "1h", "params": {"top_k": 1}},
        {"prompt": "{{ text }}.", "output": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "{{ text }}:"}]},
                {"role": "assistant", "content": "no Jinja"},
                {"role": "user", "content": "{{ record['other col'] }}!"},
            ]
        },
    ],
)  # fmt: skip
def test_a_template_of_columns_and_constants_is_an_expression(fields: dict[str, Any]) -> None:
    if "system" in fields and "{{" in fields["system"]:
        fields = {**fields, "cache": None}
    texts = ["banana", " \u3000a\n ", "", None, LONG, 'a"\\', "\0a", "ÄSS ß\u2029"]
    columns = {"text": pa.array(texts), "other col": pa.array(list(reversed(texts)))}
    left = check(question(list(columns), **fields), columns)
    assert len(left) <= 2


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "{% for x in text %}{{ x }}{% endfor %}"},
        {"prompt": "{% if text %}a{% endif %}{{ text }}"},
        {"prompt": "{{ text | upper }}"},
        {"prompt": "{{ text | replace('', 'x') }}"},
        {"prompt": "{{ text | default(1) }}"},
        {"prompt": "{{ text.strip() }}"},
        {"prompt": "{{ record }}"},
        {"prompt": "{{ text }}\0"},
        {"messages": [{"role": "{{ text }}", "content": "Constant"}]},
        {"build": lambda _: {"messages": []}, "columns": ["text"], "version": "1"},
    ],
)
def test_what_has_no_twin_in_sql_is_no_expression(fields: dict[str, Any]) -> None:
    template = question(["text"], **fields)
    with line_writer(template.form(), ["text"], pa.schema({"text": pa.string()})) as writer:
        assert writer is None


@pytest.mark.parametrize(
    "kind",
    [pa.float32(), pa.time64("us"), pa.binary(), pa.list_(pa.int8()), pa.decimal128(4, 4)],
)
def test_a_type_without_a_twin_makes_no_expression(kind: pa.DataType) -> None:
    template = question(["text"], prompt="{{ text }}")
    with line_writer(template.form(), ["text"], pa.schema({"text": kind})) as writer:
        assert writer is None


QUERY = """
    select i as _row, if(i % 7 = 6 or i // 2048 = 1, 'reuse', 'ask') as _kind, 'abcdef01-' || i || '-1' as _custom_id,
           if(i % 1000 = 999, 2, 0) as _bp_doubled,
           case when i % 500 = 3 then '' when i % 500 = 4 then chr(1) || chr(31) || 'x'
                when i = 5000 then repeat('y', 9000) else repeat('é', i % 200 + 1) end as text
    from range(6500) t(i)
"""


def built(folder: Path, name: str) -> tuple[Built, list[bytes]]:
    path = str(folder / "records.parquet")
    duckdb.execute(f"copy ({QUERY}) to '{path}' (format parquet, row_group_size 2048)")
    template = question(["text"], prompt="{{ text }}", system="S" * 300)
    made = build_requests(path, template, Limits(900, 200_000), str(folder / name))
    return made, [Path(file.path).read_bytes() for file in made.files]


def test_files_are_the_same_whoever_makes_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_sql, lines = built(tmp_path, "sql")
    agrees = LineWriter.write
    made = []

    def seen(self: LineWriter, piece: Piece) -> Any:
        made.append(len(piece))
        return agrees(self, piece)

    monkeypatch.setattr(LineWriter, "write", seen)
    assert built(tmp_path, "sql")[1] == lines
    assert sum(made) > 3000
    monkeypatch.setattr(LineWriter, "write", lambda *_: None)
    by_template, right = built(tmp_path, "template")
    assert lines == right
    assert [vars(file) | {"path": ""} for file in by_sql.files] == [
        vars(file) | {"path": ""} for file in by_template.files
    ]
    rejected = [
        duckdb.execute(f"from '{one.rejected_path}'").fetchall() for one in (by_sql, by_template)
    ]
    assert rejected[0] == rejected[1]
    assert by_sql.more_tokens == by_template.more_tokens > 0
    assert by_sql.samples == by_template.samples


def test_records_too_wide_for_its_memory_are_left_to_the_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record of 20 MB stopped the run."""
    template = question(["text"], prompt="{{ text }}")
    narrow = {"text": pa.array(["a"] * 3)}
    wide = {"text": pa.array(['"' * 15_000_000])}
    schema = piece_of(template, wide).records.schema
    limit_memory(100)
    try:
        with line_writer(template.form(), template.columns, schema) as writer:
            assert writer is not None
            assert writer.write(piece_of(template, wide)) is None
            assert writer.write(piece_of(template, narrow)) is not None
            monkeypatch.setattr(expression, "MOST_BYTES", 1)
            assert writer.write(piece_of(template, narrow)) is None
    finally:
        limit_memory(256)


def test_lines_that_differ_from_the_template_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a release of DuckDB wrote JSON in another way."""
    _, right = built(tmp_path, "template")
    write = LineWriter.write

    def other(self: LineWriter, piece: Piece) -> Any:
        lines = write(self, piece)
        assert lines is not None
        changed = bytes(lines.text).replace("é".encode(), "è".encode())
        return type(lines)(memoryview(changed), lines.ends, lines.left)

    monkeypatch.setattr(LineWriter, "write", other)
    assert built(tmp_path, "changed")[1] == right
