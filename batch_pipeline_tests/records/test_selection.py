"""Who needs an answer: each rule of selection, on real files, over several nights."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records import selection as selection_module
from batch_pipeline.records.comparison import Comparison
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.partitions import key_filter
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.selection import (
    Ask,
    Contents,
    IndexFile,
    Selection,
    check_keys,
    select,
)
from batch_pipeline_tests.support.extent import only_whole

LEDGER = "abcdef01"


@dataclass
class Nights:
    """A source, and the index files that earlier nights have left."""

    con: duckdb.DuckDBPyConnection
    folder: Path
    keys: tuple[str, ...] = ("id",)
    content: tuple[str, ...] = ("text",)
    index: list[IndexFile] = field(default_factory=list)
    number: int = 0

    def source(self, *rows: tuple) -> None:
        """Make ``rows`` (id, text[, part]) the source."""
        self.con.execute("CREATE OR REPLACE TEMP TABLE t (id INTEGER, text VARCHAR, part VARCHAR)")
        for row in rows:
            self.con.execute("INSERT INTO t VALUES (?, ?, ?)", [*row, *[None] * (3 - len(row))])
        self.view("SELECT * FROM t")

    def view(self, query: str) -> None:
        self.con.execute(f"CREATE OR REPLACE TEMP VIEW source AS {query}")

    def select(self, version: str = "v1", part: str | None = None, **options) -> Selection:
        """Select as the next submission; its index file counts from now on."""
        self.number += 1
        columns = source_columns(self.con)
        selection = select(
            self.con,
            keys=self.keys,
            content_columns=self.content,
            version=version,
            index=self.index,
            out_dir=str(self.folder / str(self.number)),
            ledger_id=LEDGER,
            partition=key_filter(columns, "part", part) if part else None,
            **options,
        )
        if selection.index_path:
            self.index.append(IndexFile(selection.index_path, self.number, part or ""))
        return selection

    def settle(self, number: int, status: str, only: str = "true") -> None:
        """Collect the pending rows of a submission with a final status."""
        selected = next(file for file in self.index if file.number == number)
        path = f"{self.folder}/{number}/index/collected{len(self.index)}.parquet"
        self.con.execute(
            f"COPY (SELECT * REPLACE ('{status}' AS status) FROM '{selected.path}'"
            f" WHERE status = 'pending' AND {only}) TO '{path}' (FORMAT parquet)"
        )
        self.index.append(IndexFile(path, number, selected.partition))

    def night(self, status: str = "answered", **options) -> Selection:
        selection = self.select(**options)
        if selection.index_path:
            self.settle(self.number, status)
        return selection

    def records(self, selection: Selection, columns: str) -> list[tuple]:
        if selection.records_path is None:
            return []
        return self.con.execute(
            f"SELECT {columns} FROM '{selection.records_path}' ORDER BY _row"
        ).fetchall()


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    with memory_connection() as con:
        yield Nights(con, tmp_path)


def counts(selection: Selection) -> dict[str, int]:
    """The counts that are not zero; they must add up."""
    found = {k: v for k, v in vars(selection).items() if isinstance(v, int) and v}
    s = selection
    # The same rows in another way: how they stand, besides what is done about them.
    stand = found.pop("answered", 0) + found.pop("failed", 0)
    least = s.settled + s.exhausted + s.reused
    assert least <= stand <= least + s.left_out
    assert s.asked == s.new + s.changed + s.version_changed + s.retried + s.forced
    assert s.source_rows == (
        s.asked + s.reused + s.in_flight + s.settled + s.exhausted + s.left_out
    )
    return found


def test_the_first_night_asks_everything(nights: Nights) -> None:
    nights.source((2, "b"), (1, "a"))
    first = nights.select()
    assert counts(first) == {"source_rows": 2, "asked": 2, "new": 2}
    assert first.columns == [("id", "INTEGER"), ("text", "VARCHAR"), ("part", "VARCHAR")]
    assert nights.records(first, "id, text, _row, _kind, _reason, _attempt") == [
        (1, "a", 0, "ask", "new", 1),
        (2, "b", 1, "ask", "new", 1),
    ]
    assert nights.con.execute(
        f"SELECT r.id FROM '{first.records_path}' r JOIN '{first.index_path}' i"
        " ON r._custom_id = i.custom_id AND r._key_hash = i.key_hash"
        " AND r._content_hash = i.content_hash AND i.version = 'v1' AND i.status = 'pending'"
        " AND i.attempt = r._attempt"
    ).fetchall() == [(1,), (2,)]


def test_the_files_have_the_agreed_columns_and_types(nights: Nights) -> None:
    nights.source((1, "a"))
    first = nights.select()
    described = [
        {row[0]: row[1] for row in nights.con.execute(f"DESCRIBE FROM '{path}'").fetchall()}
        for path in (first.records_path, first.index_path)
    ]
    assert described[0] == {
        "id": "INTEGER", "text": "VARCHAR", "part": "VARCHAR", "_row": "BIGINT",
        "_kind": "VARCHAR", "_reason": "VARCHAR", "_key_hash": "UUID", "_content_hash": "UUID",
        "_custom_id": "VARCHAR", "_attempt": "INTEGER",
    }  # fmt: skip
    assert described[1] == {
        "key_hash": "UUID", "content_hash": "UUID", "version": "VARCHAR", "custom_id": "VARCHAR",
        "attempt": "INTEGER", "status": "VARCHAR",
    }  # fmt: skip


def test_a_quiet_night_writes_nothing(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night()
    quiet = nights.select()
    assert counts(quiet) == {"source_rows": 2, "settled": 2}
    assert (quiet.records_path, quiet.index_path) == (None, None)


def test_an_empty_source_is_no_error(nights: Nights) -> None:
    nights.source()
    assert counts(nights.select()) == {}


def test_new_and_changed_records_are_asked(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night()
    nights.source((1, "a"), (2, "B"), (3, None))
    second = nights.select()
    assert counts(second) == {
        "source_rows": 3, "asked": 2, "new": 1, "changed": 1, "settled": 1,
    }  # fmt: skip
    assert nights.records(second, "id, _reason, _attempt") == [(2, "changed", 1), (3, "new", 1)]


def test_a_column_the_template_does_not_read_changes_nothing(nights: Nights) -> None:
    nights.source((1, "a", "x"))
    nights.night()
    nights.source((1, "a", "y"))
    assert counts(nights.select()) == {"source_rows": 1, "settled": 1}


def test_a_new_version_asks_again_and_says_so(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night()
    nights.source((1, "a"), (2, "B"))
    assert counts(nights.select(version="v2")) == {
        "source_rows": 2, "asked": 2, "changed": 1, "version_changed": 1,
    }  # fmt: skip


def test_what_is_in_flight_is_never_asked_again_even_by_force(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.select()
    for ask in (Ask(), Ask(force=True), Ask(retries_only=True), Ask(limit=5)):
        assert counts(nights.select(ask=ask)) == {"source_rows": 1, "in_flight": 1}
    nights.source((1, "b"))
    assert counts(nights.select()) == {"source_rows": 1, "asked": 1, "changed": 1}


def test_an_older_attempt_in_flight_keeps_a_settled_group_from_being_asked(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.select()
    open_file = nights.index.pop()
    nights.night(status="errored")
    nights.index.append(open_file)
    assert counts(nights.select()) == {"source_rows": 1, "in_flight": 1}
    nights.settle(1, "answered")
    # It is answered as it is: what a later attempt came to does not matter.
    assert counts(nights.select(max_attempts=3)) == {"source_rows": 1, "settled": 1}


@pytest.mark.parametrize(
    "status", ["errored", "expired", "canceled", "missing", "invalid", "truncated"]
)
def test_a_failure_is_asked_again_up_to_max_attempts(nights: Nights, status: str) -> None:
    nights.source((1, "a"))
    assert nights.night(status).new == 1
    for attempt in (2, 3):
        again = nights.night(status)
        assert counts(again) == {"source_rows": 1, "asked": 1, "retried": 1}
        assert nights.records(again, "_reason, _attempt") == [("retry", attempt)]
    assert counts(nights.select()) == {"source_rows": 1, "exhausted": 1}
    assert nights.select(max_attempts=4).retried == 1


@pytest.mark.parametrize("status", ["answered", "refused", "rejected"])
def test_a_final_status_is_not_asked_again(nights: Nights, status: str) -> None:
    nights.source((1, "a"))
    nights.night(status)
    assert counts(nights.select()) == {"source_rows": 1, "settled": 1}


def test_a_late_answer_of_the_same_attempt_settles_it(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night("missing")
    nights.settle(1, "answered")
    assert counts(nights.select()) == {"source_rows": 1, "settled": 1}


def test_an_earlier_answer_is_published_again_when_content_returns(nights: Nights) -> None:
    nights.source((1, "a"))
    first = nights.night()
    nights.source((1, "b"))
    nights.night()
    nights.source((1, "a"), (2, "z"))
    third = nights.select()
    assert counts(third) == {"source_rows": 2, "asked": 1, "new": 1, "reused": 1}
    (earlier,) = nights.records(first, "_custom_id")
    assert nights.records(third, "id, _row, _kind, _reason, _custom_id, _attempt")[1] == (
        1, 1, "reuse", "reuse", earlier[0], 1,
    )  # fmt: skip
    assert counts(nights.select()) == {"source_rows": 2, "in_flight": 2}
    nights.settle(3, "answered")
    assert counts(nights.select()) == {"source_rows": 2, "settled": 2}


def test_content_that_returns_while_the_other_is_in_flight_wins(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night()
    nights.source((1, "b"))
    nights.select()
    nights.source((1, "a"))
    assert counts(nights.select()) == {"source_rows": 1, "reused": 1}


def test_a_reused_answer_is_the_latest_attempts(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night("errored")
    second = nights.night("answered")
    nights.source((1, "b"))
    nights.night()
    nights.source((1, "a"))
    again = nights.select()
    assert nights.records(again, "_custom_id, _attempt") == nights.records(
        second, "_custom_id, _attempt"
    )


def test_exhausted_content_that_returns_shows_its_last_reason_again(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night("errored", max_attempts=1)
    nights.source((1, "b"))
    nights.night(max_attempts=1)
    nights.source((1, "a"))
    assert counts(nights.select(max_attempts=1)) == {"source_rows": 1, "reused": 1}


@pytest.mark.parametrize("first", ["b", "c"])
def test_a_key_that_moves_to_another_partition_keeps_its_row(nights: Nights, first: str) -> None:
    nights.source((1, "x", "c"), (2, "y", "b"))
    for part in ("b", "c"):
        nights.night(part=part, on_deleted="drop")
    nights.source((1, "x", "b"), (2, "y", "b"))
    found = {
        part: nights.night(part=part, on_deleted="drop")
        for part in (first, "c" if first == "b" else "b")
    }
    assert (found["b"].asked, found["b"].reused) == (0, 1)
    # It is in the source, so its row stays until the other partition takes it over.
    assert found["c"].deleted == 0
    again = nights.night(part="b", on_deleted="drop")
    assert (again.asked, again.reused, again.settled) == (0, 0, 2)


@pytest.mark.parametrize("refresh", ["new", "changed"])
def test_a_key_that_was_deleted_and_is_back_is_asked_unless_it_says_the_same(
    nights: Nights, refresh: str
) -> None:
    rules = {"refresh": refresh, "on_deleted": "drop"}
    nights.source((1, "a"), (2, "b"))
    nights.night(**rules)
    nights.source((2, "b"))
    assert nights.select(**rules).deleted == 1
    nights.source((1, "other"), (2, "b"))
    back = nights.select(**rules)
    assert (back.asked, back.reused) == (1, 0)
    nights.settle(nights.number, "answered")
    nights.source((2, "b"))
    nights.select(**rules)
    nights.source((1, "other"), (2, "b"))
    same = nights.select(**rules)
    assert (same.asked, same.reused) == (0, 1)


def test_an_older_version_that_returns_is_reused(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night(version="v1")
    nights.night(version="v2")
    assert counts(nights.select(version="v1")) == {"source_rows": 1, "reused": 1}


def test_refresh_new_asks_each_key_once(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night(refresh="new")
    nights.source((1, "A"), (2, "b"), (3, "c"))
    second = nights.select(version="v2", refresh="new")
    assert counts(second) == {"source_rows": 3, "asked": 1, "new": 1, "settled": 2}


def test_refresh_new_still_retries_failures(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night("errored", refresh="new")
    nights.source((1, "A"))
    second = nights.select(refresh="new")
    assert nights.records(second, "_reason, _attempt") == [("retry", 2)]
    assert counts(nights.select(refresh="new")) == {"source_rows": 1, "in_flight": 1}


def test_force_asks_again_with_the_next_attempt(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"), (3, "c"))
    nights.night()
    forced = nights.select(ask=Ask(force=True, where="id <= 2", limit=1))
    assert counts(forced) == {
        "source_rows": 3, "asked": 1, "forced": 1, "left_out": 1, "settled": 1,
    }  # fmt: skip
    assert nights.records(forced, "id, _reason, _attempt") == [(1, "forced", 2)]
    assert (forced.answered, forced.failed) == (2, 0)


def test_force_on_records_never_asked_is_their_first_attempt(nights: Nights) -> None:
    nights.source((1, "a"))
    assert nights.records(nights.select(ask=Ask(force=True)), "_attempt") == [(1,)]


def test_retries_only_leaves_new_records_out(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night("errored")
    nights.source((1, "a"), (2, "b"))
    none = nights.select(ask=Ask(limit=0))
    assert (none.left_out, none.answered, none.failed) == (2, 0, 1)
    only = nights.select(ask=Ask(retries_only=True))
    assert counts(only) == {"source_rows": 2, "asked": 1, "retried": 1, "left_out": 1}


def test_limit_takes_the_first_by_key(nights: Nights) -> None:
    nights.source(*[(i, "x") for i in (5, 10, 2, 1, 7)])
    limited = nights.select(ask=Ask(limit=3))
    assert counts(limited) == {"source_rows": 5, "asked": 3, "new": 3, "left_out": 2}
    assert nights.records(limited, "id, _row") == [(1, 0), (2, 1), (5, 2)]
    assert nights.records(nights.select(), "id") == [(7,), (10,)]
    assert nights.select(ask=Ask(limit=0)).records_path is None


def test_where_restricts_what_is_asked(nights: Nights) -> None:
    nights.source((1, "a"), (2, None), (3, "c"))
    some = nights.select(ask=Ask(where="text > 'b' -- late letters"))
    assert nights.records(some, "id") == [(3,)]
    assert counts(some) == {"source_rows": 3, "asked": 1, "new": 1, "left_out": 2}


@pytest.mark.parametrize("where", ["nope = 1", "1 = ", "true) union (select 1", "true; select 1"])
def test_a_wrong_where_is_an_input_error(nights: Nights, where: str) -> None:
    nights.source((1, "a"))
    with pytest.raises(InputError, match="`where` of this run"):
        nights.select(ask=Ask(where=where))


def test_a_where_that_fails_on_a_value_is_an_input_error(nights: Nights) -> None:
    nights.source((1, "a"))
    with pytest.raises(InputError, match=r"where: CAST\(text AS INTEGER\) > 1"):
        nights.select(ask=Ask(where="CAST(text AS INTEGER) > 1"))


def tombstones(nights: Nights, selection: Selection) -> list[tuple]:
    return nights.con.execute(
        f"SELECT custom_id, attempt FROM '{selection.index_path}' WHERE status = 'deleted'"
    ).fetchall()


def test_a_key_that_left_the_source_is_dropped_once(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    first = nights.night(on_deleted="drop")
    nights.source((1, "a"))
    second = nights.select(on_deleted="drop")
    assert counts(second) == {"source_rows": 1, "settled": 1, "deleted": 1}
    assert second.records_path is None
    assert tombstones(nights, second) == nights.records(first, "_custom_id, _attempt")[1:]
    assert counts(nights.select(on_deleted="drop")) == {"source_rows": 1, "settled": 1}


def test_a_dropped_key_that_returns_is_published_again(nights: Nights) -> None:
    for refresh in ("changed", "new"):
        nights.index.clear()
        nights.source((1, "a"), (2, "b"))
        nights.night(on_deleted="drop", refresh=refresh)
        nights.source((1, "a"))
        nights.select(on_deleted="drop", refresh=refresh)
        nights.source((1, "a"), (2, "b"))
        again = nights.select(on_deleted="drop", refresh=refresh)
        assert counts(again) == {"source_rows": 2, "settled": 1, "reused": 1}


def test_a_dropped_key_that_returns_changed_is_asked(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night(on_deleted="drop")
    nights.source((2, "b"))
    nights.select(on_deleted="drop")
    nights.source((1, "b"), (2, "b"))
    assert counts(nights.select()) == {
        "source_rows": 2, "asked": 1, "changed": 1, "settled": 1,
    }  # fmt: skip


def test_a_key_in_flight_that_left_is_dropped_too(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.select()
    nights.source((2, "b"))
    assert nights.select(on_deleted="drop").deleted == 1


def test_an_empty_source_drops_nothing(nights: Nights) -> None:
    nights.source((1, "a"), (2, "b"))
    nights.night(on_deleted="drop")
    nights.source()
    assert counts(nights.select(on_deleted="drop")) == {}
    nights.source((1, "a"), (2, "b"))
    assert counts(nights.select(on_deleted="drop")) == {"source_rows": 2, "settled": 2}


def test_nothing_is_dropped_on_a_partial_look_or_by_default(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.night()
    nights.source()
    assert nights.select().deleted == 0
    for ask in (Ask(limit=1), Ask(where="true"), Ask(retries_only=True)):
        assert nights.select(on_deleted="drop", ask=ask).deleted == 0


def test_a_partition_drops_only_its_own_keys(nights: Nights) -> None:
    nights.source((1, "a", "x"), (2, "b", "x"), (3, "c", "y"))
    assert counts(nights.night(part="x", on_deleted="drop")) == {
        "source_rows": 2, "asked": 2, "new": 2,
    }  # fmt: skip
    nights.night(part="y", on_deleted="drop")
    nights.source((1, "a", "x"), (3, "c", "y"))
    assert nights.select(part="y", on_deleted="drop").deleted == 0
    assert nights.select(part="x", on_deleted="drop").deleted == 1


def test_a_key_that_moved_to_another_partition_is_not_dropped_by_the_first(nights: Nights) -> None:
    nights.source((1, "a", "x"))
    nights.night(part="x", on_deleted="drop")
    nights.source((1, "b", "y"))
    nights.night(part="y", on_deleted="drop")
    assert nights.select(part="x", on_deleted="drop").deleted == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(1, "a"), (1, "b"), (2, "c"), (2, "d"), (2, "e")], "3 source rows repeat.*2 .3 times.*1"),
        ([(None, "a"), (1, "b")], "NULL in 1 source rows"),
    ],
)
def test_keys_must_be_there_and_unique(nights: Nights, rows: Sequence[tuple], says: str) -> None:
    nights.source(*rows)
    with pytest.raises(InputError, match=says):
        nights.select()
    with pytest.raises(InputError, match=says):
        check_keys(nights.con, ["id"])


def test_only_the_partitions_own_keys_must_be_unique(nights: Nights) -> None:
    nights.source((1, "a", "x"), (1, "b", "y"))
    columns = source_columns(nights.con)
    check_keys(nights.con, ["id"], key_filter(columns, "part", "x"))
    with pytest.raises(InputError, match="not unique"):
        check_keys(nights.con, ["id"])


def test_an_absent_content_column_is_an_input_error(nights: Nights) -> None:
    nights.source((1, "a"))
    nights.content = ("txet",)
    with pytest.raises(InputError, match=r"`txet`.*Did you mean `text`"):
        nights.select()


ODD_NAMES = ("select", 'a "quoted" name', "Größe", "k0", "row", "hashed", "{braces}", "100%")


def test_column_names_may_be_anything(nights: Nights) -> None:
    for name in ODD_NAMES:
        quoted = '"' + name.replace('"', '""') + '"'
        nights.index.clear()
        nights.view(f"SELECT range AS {quoted}, 'x' AS \"Other {{one}}\" FROM range(3)")
        nights.keys = nights.content = (name,)
        assert nights.night().asked == 3
        assert nights.select().settled == 3
        nights.keys = (name.upper() if name.isascii() else name,)
        nights.content = ("oTHER {ONE}",)
        nights.index.clear()
        assert nights.night(ask=Ask(where=f"{quoted} < 2", limit=1)).asked == 1


@pytest.mark.parametrize(
    "value",
    [
        "range::INTEGER", "range::HUGEINT", "'k ' || range", "md5(range::VARCHAR)::UUID",
        "DATE '2024-01-01' + range::INTEGER", "range::DECIMAL(10,2)", "(range || '')::BLOB",
        "TIMESTAMP '2024-01-01' + INTERVAL 1 DAY * range", "[range, NULL]", "{'a': range}",
        "range::VARCHAR::ENUM ('0', '1', '2')", "range / 2.0::DOUBLE",
        "TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL 1 DAY * range",
    ],
)  # fmt: skip
def test_a_key_may_be_of_any_type(nights: Nights, value: str) -> None:
    nights.view(f"SELECT {value} AS id, 'x' AS text, range AS n FROM range(3)")
    first = nights.night()
    assert len(nights.records(first, "id, n")) == first.asked == 3
    assert nights.select().settled == 3
    assert sorted(nights.records(first, "n, id")) == sorted(
        nights.con.execute(
            f"SELECT n, {'id::VARCHAR' if 'ENUM' in value else 'id'} FROM source"
        ).fetchall()
    )


def test_composite_keys(nights: Nights) -> None:
    nights.keys = ("a", "b")
    nights.view("SELECT range // 2 AS a, DATE '2024-01-01' + (range % 2)::INTEGER AS b, 'x' AS text"
                " FROM range(4)")  # fmt: skip
    first = nights.night()
    assert nights.records(first, "a, b")[:2] == [(0, date(2024, 1, 1)), (0, date(2024, 1, 2))]
    assert nights.records(first, "_custom_id")[0][0].endswith("-1-0_2024-01-01")
    assert nights.select().settled == 4


def test_wide_integers_are_stored_without_loss(nights: Nights) -> None:
    nights.view("SELECT 1 AS id, 'x' AS text, sum(9007199254740993::BIGINT) AS total")
    first = nights.select()
    assert ("total", "DECIMAL(38,0)") in first.columns
    assert nights.records(first, "total") == [(9007199254740993,)]


def test_columns_are_told_as_the_file_has_them(nights: Nights) -> None:
    nights.view(
        "SELECT 1 AS id, 'x' AS text, ['a'::ENUM ('a')] AS e, NULL AS n, [1, 2]::INT[2] AS l"
    )
    first = nights.select()
    described = nights.con.execute(f"DESCRIBE FROM '{first.records_path}'").fetchall()
    assert first.columns == [(row[0], row[1]) for row in described[:5]]


def test_keys_that_are_equal_as_values_are_records_of_their_own_where_they_are_kept_as_text(
    nights: Nights,
) -> None:
    nights.view(
        "SELECT unnest([INTERVAL '30 days', INTERVAL '1 month', INTERVAL '720 hours']) AS id,"
        " 'x' AS text"
    )
    first = nights.select()
    assert first.asked == 3
    assert sorted(nights.records(first, "id")) == [("1 month",), ("30 days",), ("720:00:00",)]
    nights.settle(1, "answered")
    assert nights.select().settled == 3


def test_an_integer_that_no_decimal_holds_is_stored_as_text(nights: Nights) -> None:
    wide = "3" + "0" * 38
    nights.view(f"SELECT 1 AS id, 'x' AS text, '{wide}'::UHUGEINT AS n, [{{'a': 1::HUGEINT}}] AS l")
    first = nights.select()
    assert ("n", "VARCHAR") in first.columns and ("l", "STRUCT(a DECIMAL(38,0))[]") in first.columns
    assert nights.records(first, "n") == [(wide,)]


def test_the_order_of_the_source_does_not_matter(nights: Nights) -> None:
    files = []
    for order in ("ASC", "DESC"):
        nights.view(f"SELECT range AS id, 'x' AS text FROM range(30000) ORDER BY range {order}")
        nights.index.clear()
        files.append(nights.select().records_path)
    assert nights.con.execute(f"(FROM '{files[0]}') EXCEPT (FROM '{files[1]}')").fetchall() == []


def test_records_lie_in_the_order_of_their_rows(nights: Nights) -> None:
    nights.view("SELECT range AS id, 'x' AS text FROM range(300000) ORDER BY hash(range)")
    path = nights.select().records_path
    assert nights.con.execute(
        f"SELECT count(*) FROM read_parquet('{path}') WHERE _row <> file_row_number"
    ).fetchone() == (0,)


def test_a_query_that_reads_differently_each_time_is_read_once(nights: Nights) -> None:
    nights.view("SELECT range AS id, uuid()::VARCHAR AS text FROM range(5)")
    first = nights.select()
    assert first.asked == 5
    assert nights.con.execute(
        f"SELECT count(*) FROM '{first.records_path}' r"
        f" JOIN '{first.index_path}' i ON i.content_hash = r._content_hash"
    ).fetchone() == (5,)


def test_keys_that_are_equal_but_print_differently_are_an_input_error(nights: Nights) -> None:
    nights.view("SELECT unnest([0.0::DOUBLE, -0.0::DOUBLE]) AS id, 'x' AS text")
    with pytest.raises(InputError, match="print differently"):
        nights.select()


def test_documents_too_wide_for_the_memory_limit_still_pass(tmp_path: Path) -> None:
    with memory_connection("100MB") as con:
        con.execute(
            "CREATE TEMP VIEW source AS SELECT range AS id, repeat('x', 60000) AS text"
            " FROM range(4096)"
        )
        assert Nights(con, tmp_path).select().asked == 4096


MEASURED = """
import sys
from batch_pipeline.records.selection import select
from batch_pipeline.records.reading import open_source
from batch_pipeline.records.sources import ParquetSource
with open_source(ParquetSource(path=sys.argv[1], key="id")) as con:
    found = select(con, keys=["id"], content_columns=["text"], version="v1", index=[],
                   out_dir=sys.argv[2], ledger_id="abcdef01")
assert found.asked == 100_000, found
status = open("/proc/self/status").read()  # ru_maxrss would include the process that forked us
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@only_whole
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_selecting_100_thousand_rows_of_1_kb_needs_little_memory(tmp_path: Path) -> None:
    path = str(tmp_path / "source.parquet")
    with memory_connection() as con:
        con.execute(
            "COPY (SELECT range AS id, repeat(md5(range::VARCHAR), 32) AS text FROM range(100000))"
            f" TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 10240)"
        )
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, path, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 350, f"{run.stdout} MB"


def test_columns_that_compare_in_ways_of_their_own_are_asked_by_their_text(tmp_path: Path) -> None:
    with memory_connection() as con:
        con.execute(
            "CREATE TEMP TABLE source (id VARCHAR COLLATE NOCASE, a VARCHAR COLLATE NOACCENT, b VARCHAR)"
        )
        con.execute("INSERT INTO source VALUES ('a', 'é', 'x'), ('A', 'e', 'x')")
        options = {"keys": ["id"], "version": "v", "ledger_id": "0" * 8}
        options |= {"content_columns": ["a", "b", "id"]}
        first = select(con, index=[], out_dir=f"{tmp_path}/1", **options)
        assert (first.asked, first.index_path is not None) == (2, True)
        index = [IndexFile(str(first.index_path), 1, "")]
        con.execute("UPDATE source SET a = 'e'")
        again = select(con, index=index, out_dir=f"{tmp_path}/2", **options)
        assert (again.asked, again.in_flight) == (1, 1)


@pytest.mark.parametrize("order", ["id", "id desc", "hash(id)"])
def test_records_are_written_in_the_order_of_their_keys_whatever_the_source_has(
    nights: Nights, order: str
) -> None:
    """A source in its order is written as it is read; any other is sorted."""
    nights.view(f"SELECT range AS id, 'text ' || range AS text FROM range(5000) ORDER BY {order}")
    found = nights.select()
    rows = duckdb.execute(f"FROM (SELECT id, _row, text FROM '{found.records_path}')").fetchall()
    assert rows == [(n, n, f"text {n}") for n in range(5000)]
    hashes = duckdb.execute(
        f"SELECT count(DISTINCT _content_hash) FROM '{found.records_path}' AS records"
        " SEMI JOIN (SELECT content_hash AS _content_hash, custom_id AS _custom_id"
        f" FROM '{found.index_path}') AS index USING (_content_hash, _custom_id)"
    ).fetchall()
    assert hashes == [(5000,)]


def test_what_records_share_stands_together_whatever_their_reason(nights: Nights) -> None:
    nights.content = ("text", "part")
    nights.source(*((i, f"question {i % 30}", f"document {i % 3}") for i in range(40)))
    nights.night("errored", ask=Ask(where="id < 10"), together=("part",))
    second = nights.select(together=("part",), dedupe=True)
    assert counts(second)["retried"] == 10 and second.duplicates == 10
    asked = [row[1:] for row in nights.records(second, "_kind, part, id") if row[0] == "ask"]
    parts = [part for part, _ in asked]
    assert sum(one != other for one, other in pairwise(parts)) == 2
    # Those that share it, by key.
    assert all(one[1] < other[1] for one, other in pairwise(asked) if one[0] == other[0])


def test_what_is_known_of_records_changes_nothing_but_the_work(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the file says of other records, other questions, or is damaged: the same is asked."""
    monkeypatch.setattr(selection_module, "LEAST_ROWS", 1)
    said = str(tmp_path / "said.parquet")
    rows = [(n, f"text {n}") for n in range(40)]
    nights.source(*rows)
    nowhere = str(tmp_path / "full disk" / "said.parquet")
    assert nights.select(known_into=nowhere, ask=Ask(limit=0)).contents is None
    nights.number = 0
    first = nights.night(known_into=said)
    assert first.contents == Contents(said, first.contents.by if first.contents else "", 40)
    known = first.contents
    hashed: list[int] = []
    stands = Comparison.stands

    def spied(question: Comparison) -> tuple[int, ...]:
        hashed.append(question.rows - question.known)
        return stands(question)

    monkeypatch.setattr(Comparison, "stands", spied)
    nights.source(*rows[1:], (0, "another"), (40, "new"))
    again = nights.select(known=known, known_into=str(tmp_path / "more.parquet"))
    assert (again.changed, again.new, again.settled) == (1, 1, 39)
    assert hashed == [2] and again.contents is None  # little has changed: what is known will do
    # What a run wants is asked of the source's own columns.
    some = nights.select(
        known=known, ask=Ask(where="CAST(source AS VARCHAR) LIKE '%-%'", force=True)
    )
    assert (some.forced, hashed.pop()) == (0, 2)
    nights.view("SELECT *, uuid() AS _bp_key FROM t")
    assert nights.select(known=known, ask=Ask(limit=0)).settled == 39 and hashed.pop() == 41
    nights.view("SELECT * FROM t")
    # Of another question nothing is known.
    nights.content = ("text", "part")
    assert nights.select(known=known, ask=Ask(limit=0)).settled == 0 and hashed[-1] == 41
    nights.content = ("text",)
    # A row that is not what was written is not believed.
    damaged = str(tmp_path / "damaged.parquet")
    nights.con.execute(
        f"COPY (SELECT * REPLACE (uuid() AS content_hash) FROM '{said}') TO '{damaged}' (FORMAT parquet)"
    )
    (tmp_path / "cut.parquet").write_bytes(Path(said).read_bytes()[:-20])
    nights.index, nights.number = nights.index[:2], 1
    for path in (damaged, str(tmp_path / "cut.parquet"), str(tmp_path / "gone.parquet")):
        assert known is not None
        other = nights.select(known=replace(known, path=path), ask=Ask(limit=0))
        assert (other.left_out, other.settled) == (2, 39) and hashed[-1] == 41
