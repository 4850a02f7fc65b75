"""How requests are written and cut into files."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import InputError, StoreError
from batch_pipeline.requests.build import Built, Limits, build_requests
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.template import MessageTemplate

AMPLE = Limits(max_requests=10_000, max_bytes=240_000_000)


def records(folder: Path, query: str, kind: str = "'ask'", order: str = "_row") -> str:
    """Write records.parquet as the selection does; ``query`` gives the source's columns and i."""
    path = str(folder / "records.parquet")
    duckdb.sql(
        f"""copy (select *, i as _row, {kind} as _kind,
                  'abcdef01-' || substr(sha256(i::varchar), 1, 16) || '-1' as _custom_id
            from ({query}) order by {order})
            to '{path}' (format parquet, row_group_size 2048)"""
    )
    return path


def build(path: str, folder: Path, limits: Limits = AMPLE, **fields: Any) -> Built:
    declared = {"model": "claude-haiku-4-5", "max_tokens": 8, "prompt": "{{ text }}"} | fields
    columns = {n: str(t) for n, t in zip(*_described(path), strict=True)}
    return build_requests(
        path,
        compile_question(MessageTemplate(**declared), columns),
        limits,
        str(folder / "requests"),
    )


def _described(path: str) -> tuple[list[str], list[Any]]:
    relation = duckdb.sql(f"from '{path}'")
    return relation.columns, list(relation.types)


def lines_of(built: Built) -> list[list[dict[str, Any]]]:
    return [
        [json.loads(x) for x in Path(file.path).read_text().splitlines()] for file in built.files
    ]


def check(built: Built, limits: Limits) -> None:
    """What holds for every cut: nothing lost, no limit passed, sizes and ranges as reported."""
    before = -1
    for number, (file, lines) in enumerate(zip(built.files, lines_of(built), strict=True)):
        assert file.seq == number
        assert Path(file.path).name == f"{number:05d}.jsonl"
        assert file.requests == len(lines) <= limits.max_requests
        raw = Path(file.path).read_bytes().splitlines()
        body = b'{"requests":[' + b",".join(raw) + b"]}"
        assert json.loads(body) == {"requests": lines}
        assert file.bytes == len(body) <= limits.max_bytes
        assert before < file.first_row <= file.last_row
        before = file.last_row
    assert built.requests == sum(file.requests for file in built.files)
    assert built.bytes == sum(file.bytes for file in built.files)


def test_each_record_to_ask_becomes_one_line_in_order(tmp_path: Path) -> None:
    query = "select i, 'text é ' || i as text from range(7) t(i)"
    built = build(records(tmp_path, query, kind="if(i % 3 = 1, 'reuse', 'ask')"), tmp_path)
    (lines,) = lines_of(built)
    contents = [line["params"]["messages"][0]["content"] for line in lines]
    assert contents == [f"text é {i}" for i in (0, 2, 3, 5, 6)]
    assert lines[0]["custom_id"].startswith("abcdef01-")
    assert (built.files[0].first_row, built.files[0].last_row) == (0, 6)
    assert built.samples == [line["params"] for line in lines[:3]]
    assert built.rejected == 0
    assert built.rejected_path is None


def test_no_two_files_have_the_same_number_of_requests(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, 'x' as text from range(2300) t(i)")
    limits = Limits(max_requests=500, max_bytes=10**9)
    built = build(path, tmp_path, limits)
    check(built, limits)
    assert [file.requests for file in built.files] == [500, 499, 498, 497, 306]


def test_a_last_file_with_a_used_number_is_written_as_two(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, repeat('x', if(i = 4, 900, 10)) as text from range(8) t(i)")
    limits = Limits(max_requests=100, max_bytes=1200)
    built = build(path, tmp_path, limits)
    check(built, limits)
    counts = [file.requests for file in built.files]
    assert sum(counts) == 8
    assert len(set(counts)) == len(counts)


def test_the_size_of_a_body_is_counted_to_the_byte(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, 'ünï' as text from range(10) t(i)")
    whole = build(path, tmp_path).files[0].bytes
    exact = Limits(max_requests=100, max_bytes=whole)
    assert len(build(path, tmp_path, exact).files) == 1
    less = Limits(max_requests=100, max_bytes=whole - 1)
    built = build(path, tmp_path, less)
    check(built, less)
    assert [file.requests for file in built.files] == [9, 1]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=120),
    max_requests=st.integers(1, 40),
    max_bytes=st.integers(700, 3000),
)
def test_any_cut_loses_nothing_and_passes_no_limit(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], max_requests: int, max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = records(
        folder,
        f"select i - 1 as i, repeat('x', {sizes}[i]) as text from range(1, {len(sizes) + 1}) t(i)",
    )
    limits = Limits(max_requests, max_bytes)
    built = build(path, folder, limits)
    check(built, limits)
    texts = [line["params"]["messages"][0]["content"] for file in lines_of(built) for line in file]
    assert [len(text) for text in texts] == sizes
    assert not list((folder / "requests").glob(f"{len(built.files):05d}.jsonl"))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=120))
def test_files_that_end_by_size_have_distinct_numbers_too(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = records(
        folder,
        f"select i - 1 as i, repeat('x', {sizes}[i]) as text from range(1, {len(sizes) + 1}) t(i)",
    )
    limits = Limits(1000, 20_000)
    built = build(path, folder, limits)
    check(built, limits)
    counts = [file.requests for file in built.files[:-1]]
    assert len(set(counts)) == len(counts)


def test_a_record_too_large_for_any_batch_is_rejected_with_its_size(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, repeat('x', if(i = 1, 5000, 5)) as text from range(3) t(i)")
    built = build(path, tmp_path, Limits(100, 2000))
    assert built.requests == 2
    ((row, custom_id, reason),) = duckdb.sql(f"from '{built.rejected_path}'").fetchall()
    assert row == 1
    assert custom_id.startswith("abcdef01-")
    assert "too large" in reason
    assert "2,000" in reason


def test_a_record_that_cannot_be_rendered_is_rejected_alone(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, i as text from range(4) t(i)")
    built = build(path, tmp_path, prompt="{{ 6 / text }}")
    assert built.requests == 3
    assert built.rejected == 1
    relation = duckdb.sql(f"from '{built.rejected_path}'")
    assert [str(t) for t in relation.types] == ["BIGINT", "VARCHAR", "VARCHAR"]
    assert relation.columns == ["_row", "_custom_id", "reason"]
    assert "ZeroDivisionError" in relation.fetchall()[0][2]


def test_a_template_that_fails_on_every_record_is_an_error_about_the_template(
    tmp_path: Path,
) -> None:
    path = records(tmp_path, "select i, 0 as text from range(3) t(i)")
    with pytest.raises(InputError, match=r"all 3 records.*abcdef01-.*ZeroDivisionError"):
        build(path, tmp_path, prompt="{{ 6 / text }}")


def test_one_bad_record_on_a_quiet_night_is_not_an_error_about_the_template(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, 0 as text from range(1) t(i)")
    built = build(path, tmp_path, prompt="{{ 6 / text }}")
    assert (built.requests, built.rejected, built.files) == (0, 1, [])


def test_records_without_any_text_are_rejected_however_many(tmp_path: Path) -> None:
    built = build(records(tmp_path, "select i, '' as text from range(3) t(i)"), tmp_path)
    assert (built.requests, built.rejected) == (0, 3)


def test_nothing_to_ask_makes_no_file(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, 'x' as text from range(0) t(i)")
    built = build(path, tmp_path)
    assert (built.files, built.requests, built.bytes, built.samples) == ([], 0, 0, [])
    assert list((tmp_path / "requests").iterdir()) == []


def test_records_out_of_order_are_refused(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, 'x' as text from range(3) t(i)", order="_row desc")
    with pytest.raises(StoreError, match="order of _row"):
        build(path, tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("3.3::float", "3.3"),
        ("null::float", ""),
        ("1.50::decimal(10,2)", "1.50"),
        ("1::hugeint", "1.0"),
        ("date '2024-02-01'", "2024-02-01"),
        ("timestamp '2024-02-01 03:04:05'", "2024-02-01T03:04:05"),
        ("timestamptz '2024-02-01 03:04:05+02'", "2024-02-01T01:04:05+00:00"),
        ("time '03:04:05'", "03:04:05"),
        ("true", "true"),
        ("['a', null]", '["a",null]'),
        ("{'a': 1, 'b': [1.5::decimal(3,1)]}", '{"a":1,"b":["1.5"]}'),
        ("map {'k': 1}", '{"k":1}'),
        ("'{\"a\": 1}'::json", '{"a": 1}'),
        ("'5d0f3e5e-0000-4000-8000-000000000000'::uuid", "5d0f3e5e-0000-4000-8000-000000000000"),
    ],
)
def test_a_column_of_each_type_reads_as_documented(tmp_path: Path, value: str, text: str) -> None:
    path = records(tmp_path, f"select i, {value} as text from range(1) t(i)")
    built = build(path, tmp_path, prompt="[{{ text }}]")
    assert lines_of(built)[0][0]["params"]["messages"][0]["content"] == f"[{text}]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'infinity'::timestamp", "infinity"),
        ("'-infinity'::timestamptz", "-infinity"),
        ("'infinity'::timestamp_ns", "infinity"),
        ("'290000-01-01'::date", "290000-01-01"),
        ("'0044-03-15 (BC)'::date", "0044-03-15 (BC)"),
        ("'24:00:00'::time", "24:00:00"),
        ("'23:59:59.999999999'::time_ns", "23:59:59.999999999"),
        ("'2024-01-01 00:00:00.123456789'::timestamp_ns", "2024-01-01T00:00:00.123456789"),
        ("['infinity'::date, '2024-01-01']", '["infinity","2024-01-01"]'),
        ("[3.3::float, null, 'inf'::float]", '[3.3,null,"inf"]'),
        ("{'a': {'b': [1.1::float]}, 'c': null}", '{"a":{"b":[1.1]},"c":null}'),
        ("map {{'k': 1}: 0.1::float}", "{\"{'k': 1}\":0.1}"),
        ("map {1.50::decimal(3,2): 'x'}", '{"1.50":"x"}'),
        ("map {date '2024-01-01': 1, 'infinity': 2}", '{"2024-01-01":1,"infinity":2}'),
        ("map([], [])", "{}"),
        ("{'l': []::integer[], 'm': null::integer[]}", '{"l":[],"m":null}'),
        ("'a\\x00\\xFF\\x5C\\x27'::blob", "a\\x00\\xFF\\x5C\\x27"),
    ],
)
def test_a_value_that_python_cannot_hold_reads_as_duckdb_prints_it(
    tmp_path: Path, value: str, text: str
) -> None:
    path = records(
        tmp_path, f"select i, case when i = 700 then {value} end as text from range(1000) t(i)"
    )
    built = build(path, tmp_path, prompt="[{{ text }}]")
    asked = [line["params"]["messages"][0]["content"] for line in lines_of(built)[0]]
    assert sorted(set(asked)) == sorted({"[]", f"[{text}]"})
    assert (built.requests, built.rejected) == (1000, 0)


def test_a_field_of_such_a_value_rejects_only_its_record(tmp_path: Path) -> None:
    path = records(
        tmp_path,
        "select i, if(i = 1, 'infinity'::date, '2024-01-01') as text from range(3) t(i)",
    )
    built = build(path, tmp_path, prompt="{{ text.year }}")
    assert (built.requests, built.rejected) == (2, 1)


def test_columns_of_any_name_can_be_read(tmp_path: Path) -> None:
    path = records(
        tmp_path, """select i, 'A' as "a.b", {'b': 'no'} as a, 'S' as "my col" from range(1) t(i)"""
    )
    built = build(path, tmp_path, prompt='{{ record["a.b"] }}{{ record["my col"] }}')
    assert lines_of(built)[0][0]["params"]["messages"][0]["content"] == "AS"


def test_progress_ends_with_every_record(tmp_path: Path) -> None:
    path = records(tmp_path, "select i, if(i = 3, '', 'x') as text from range(1500) t(i)")
    seen: list[int] = []
    template = compile_question(
        MessageTemplate("claude-haiku-4-5", 8, prompt="{{ text }}"), {"text": "VARCHAR"}
    )
    build_requests(path, template, AMPLE, str(tmp_path / "requests"), seen.append)
    assert seen == [512, 1024, 1500]
