"""A full night, a change that somebody makes to the table of results, and another night.

Whatever the change: nothing is paid twice, and the table has exactly one row per record again, or the
second night is refused before any money, with what to do.
"""

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    ParquetDataset,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.results import comparing, holding, publish
from batch_pipeline.store import tally
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.tables import leases
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.stage_calls import PlayedNights, StageCalls

RECORDS = 20
Sql = Callable[..., list[tuple]]


@dataclass
class Town:
    """A pipeline over a table, into another table of the same database."""

    run: Nights
    emulator: EmulatorProcess
    database: str

    def sql(self, *statements: str) -> list[tuple]:
        rows: list[tuple] = []
        with duckdb.connect(self.database) as con:
            for statement in statements:
                rows = con.execute(statement).fetchall()
        return rows

    def sql_if(self, statement: str) -> None:
        """Run a statement, if there is what it is about."""
        with suppress(duckdb.Error):
            self.sql(statement)

    @property
    def paid(self) -> int:
        return self.emulator.bill()["requests"]

    def check(self) -> dict[str, int]:
        """Collect, and return the numbers of its check, which must pass."""
        (found,) = (
            one
            for one in self.run.collect().get_asset_check_evaluations()
            if one.check_name == "every_record_accounted_for"
        )
        assert found.passed, found.description
        return {name: value.value for name, value in found.metadata.items()}


@pytest.fixture
def town(tmp_path: Path, claude_emulator: EmulatorProcess) -> Any:
    database = str(tmp_path / "town.duckdb")

    def make(destination: Any = None, name: str = "people", **more: Any) -> Town:
        pipeline = BatchPipeline(
            **{
                "name": name,
                "source": DuckDBSource(database=database, table="source", key="id"),
                "request": MessageTemplate(
                    model="claude-haiku-4-5", max_tokens=50, prompt="Say {{ word }}"
                ),
                "destination": destination or DuckDBTable(database=database, table="results"),
                **more,
            }
        )
        claude = ClaudeBatches(
            api_key="key", base_url=claude_emulator.base_url, max_batch_requests=7
        )
        store = BatchStore(root=str(tmp_path / "store"))
        return Town(PlayedNights(pipeline, claude, store), claude_emulator, database)

    with duckdb.connect(database) as con:
        con.execute(
            "create table source as select range::INTEGER as id, 'word ' || range as word,"
            f" range::INTEGER as n, 'x' as note from range({RECORDS})"
        )
    with pooled(), going_by(HandClock()):
        yield make


MORE_WORK = (
    "insert into source (id, word) values (100, 'new'), (101, 'newer')",
    "update source set word = 'changed' where id = 3",
)

RIGHT = {
    "the table is dropped": ["drop table results"],
    "the table is emptied": ["delete from results"],
    "the table is truncated": ["truncate results"],
    "half of the rows are deleted": ["delete from results where id % 2 = 0"],
    "one row is deleted": ["delete from results where id = 7"],
    "every row stands twice": ["insert into results from results"],
    "some rows stand three times": [
        "insert into results select * from results where id < 3",
        "insert into results select * from results where id = 1",
    ],
    "a row stands twice, one of them with another custom_id": [
        "insert into results select * replace ('by hand' as _custom_id) from results where id = 5"
    ],
    "the table is made again from half of itself": [
        "create or replace table results as select * from results where id < 9"
    ],
    "the custom_ids are gone": ["update results set _custom_id = null"],
    "a column is added": [
        "alter table results add column seen varchar default 'no'",
        "update results set seen = 'yes' where id = 3",
    ],
    "a column is added, NOT NULL with a default": [
        "create table other as from results",
        "drop table results",
        "create table results as select *, 'yes' as seen from other",
        "alter table results alter seen set default 'no'",
        "alter table results alter seen set not null",
    ],
    "a column of the answer is renamed": ["alter table results rename column answer to said"],
    "a column of the answer is taken away": ["alter table results drop column answer"],
    "a column is retyped, wider": ["alter table results alter n type varchar"],
    "a column is retyped, narrower": ["alter table results alter n type tinyint"],
    "an index is added": ["create index by_status on results (_status, n)"],
    "a unique index is added over the key": ["create unique index by_id on results (id)"],
    "an index is added, and the source's type grows": [
        "create index by_n on results (n)",
        "comment on table results is 'ours'",
        "alter table source alter n type bigint",
    ],
    "a primary key is added, and the key's type grows": [
        "alter table results add primary key (id)",
        "alter table source alter id type bigint",
    ],
    "a computed column is added, and the type under it grows": [
        "create or replace table other as from results",
        "drop table results",
        "create table results (id integer, word varchar, n integer, note varchar, answer varchar,"
        " _status varchar, _custom_id varchar, twice integer generated always as (n * 2))",
        "insert into results by name select id, word, n, note, answer, _status, _custom_id from other",
        "alter table source alter n type bigint",
    ],
    "a view is added, and the source's type grows": [
        "create view readers as select * from results where _status = 'answered'",
        "alter table source alter n type bigint",
        "alter table source alter note type varchar[] using [note]",
    ],
    "a column of the source becomes a struct": [
        "alter table source alter note type struct(a varchar) using {'a': note}"
    ],
    "a column leaves the source": ["alter table source drop column note"],
}


QUIET = ["the table is dropped", "half of the rows are deleted", "every row stands twice"]


@pytest.mark.parametrize(
    ("change", "asks"),
    [*((change, True) for change in RIGHT), *((change, False) for change in QUIET)],
    ids=[*RIGHT, *(f"{change}, and nothing to ask" for change in QUIET)],
)
def test_a_change_of_the_table_is_put_right_and_costs_nothing(
    town: Callable[..., Town], change: str, asks: bool
) -> None:
    here = town()
    here.run.night()
    first = here.run.rows()
    assert here.paid == RECORDS
    here.sql(*RIGHT[change])
    if asks:
        here.sql(*MORE_WORK)
    here.run.night()
    assert here.paid == RECORDS + (3 if asks else 0)
    after = here.run.rows()  # it fails when a key has two rows
    assert set(after) == set(range(RECORDS)) | ({100, 101} if asks else set())
    assert {row["_status"] for row in after.values()} == {"answered"}
    for key, row in first.items():
        if key == 3 and asks:
            assert after[key]["word"] == "changed"
        else:
            assert after[key]["_custom_id"] == row["_custom_id"]
            assert after[key]["answer"] == row["answer"]
            assert str(after[key]["n"]) == str(row["n"])
            assert "x" in str(after[key].get("note", "x"))
    found = here.check()
    assert found["missing"] == found["doubled"] == found["unexpected"] == 0
    if "seen" in after[0]:
        added = "a column is added" == change
        assert after[3]["seen"] == "yes" and after[0]["seen"] == ("no" if added else "yes")
        assert not asks or after[100]["seen"] == "no"


def test_what_is_rebuilt_keeps_all_that_the_team_added(town: Callable[..., Town]) -> None:
    here = town()
    here.run.night()
    here.sql(
        "alter table results add column seen varchar default 'no'",
        "update results set seen = 'yes' where id < 5",
        "alter table results add primary key (id)",
        "create index by_n on results (n)",
        "create index by_word on results (word, n)",
        "comment on table results is 'the answers'",
        "comment on column results.word is 'what was said'",
        "comment on index by_n is 'for the report'",
        "create view readers as select * from results",
        "alter table source alter n type bigint",
        *MORE_WORK,
    )
    here.run.night()
    assert here.paid == RECORDS + 3
    assert here.sql("select seen, count(*) from results group by all order by all") == [
        ("no", 17), ("yes", 5),
    ]  # fmt: skip
    assert here.sql("select count(*), typeof(any_value(n)) from readers") == [(22, "BIGINT")]
    found = "from duckdb_{}s() where table_name = 'results'"
    assert here.sql(f"select index_name, comment {found.format('indexe')} order by all") == [
        ("by_n", "for the report"), ("by_word", None),
    ]  # fmt: skip
    assert here.sql(f"select comment {found.format('table')}") == [("the answers",)]
    assert here.sql(f"select comment {found.format('column')} and column_name = 'word'") == [
        ("what was said",)
    ]
    assert here.sql(
        f"select constraint_text {found.format('constraint')} and constraint_type = 'PRIMARY KEY'"
    ) == [("PRIMARY KEY(id)",)]


REFUSED = {
    "the table becomes a view": (
        ["alter table results rename to stored", "create view results as from stored"],
        "is a view",
    ),
    "a column is added, NOT NULL without a default": (
        [
            "alter table results add column seen varchar default 'no'",
            "alter table results alter seen set not null",
            "alter table results alter seen drop default",
        ],
        "column `seen` that is NOT NULL, has no default",
    ),
    "the answer is made NOT NULL": (
        ["alter table results alter answer set not null"],
        "`answer` NOT NULL",
    ),
    "a column is computed": (
        [
            "create table other as from results",
            "drop table results",
            "create table results (id integer, word varchar, n integer generated always as (id + 1),"
            " _status varchar, _custom_id varchar)",
            "insert into results by name select id, word, _status, _custom_id from other",
        ],
        "computes the column `n`",
    ),
    "another column is the primary key": (
        ["alter table results add primary key (word)"],
        r"a constraint PRIMARY KEY\(word\)",
    ),
    "a unique index over another column": (
        ["create unique index by_word on results (lower(word))"],
        "a unique index by_word",
    ),
    "a CHECK that an answer may fail": (
        [
            "create table other as from results",
            "drop table results",
            "create table results (id integer, word varchar, n integer, note varchar, answer varchar,"
            " _status varchar check (_status = 'answered'), _custom_id varchar)",
            "insert into results by name select id, word, n, note, answer, _status, _custom_id"
            " from other",
        ],
        "may turn away rows for their _status",
    ),
    "the key is renamed": (["alter table results rename column id to nr"], "no key column `id`"),
    "the status is renamed": (
        ["alter table results rename column _status to state"],
        "not made by batch_pipeline",
    ),
    "a foreign key refers to it, and a type must grow": (
        [
            "alter table results add primary key (id)",
            "create table orders (person integer references results (id))",
            "alter table source alter n type bigint",
        ],
        "foreign key of the table orders",
    ),
    "a column that somebody filled gets a name of ours": (
        [
            "alter table results add column remark varchar default 'mine'",
            "alter table source add column remark varchar",
        ],
        "column `remark` that somebody added",
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_change_that_would_lose_rows_is_refused_before_any_money(
    town: Callable[..., Town], change: str
) -> None:
    here = town()
    here.run.night()
    statements, words = REFUSED[change]
    here.sql(*statements, *MORE_WORK)
    with pytest.raises(dg.Failure, match=words) as refused:
        here.run.submit()
    assert here.paid == RECORDS
    assert "results in" in str(refused.value.description)


@only_whole
def test_a_foreign_key_that_refers_to_the_table_is_no_obstacle_to_rows(
    town: Callable[..., Town],
) -> None:
    here = town()
    here.run.night()
    here.sql(
        "alter table results add primary key (id)",
        "create table orders (person integer references results (id))",
        "insert into orders values (3)",
        *MORE_WORK,
    )
    here.run.night()
    assert here.paid == RECORDS + 3
    assert here.run.rows()[3]["word"] == "changed"
    assert here.sql("from orders") == [(3,)]


def test_two_pipelines_never_share_a_table(town: Callable[..., Town]) -> None:
    here = town()
    here.run.night()
    other = town(name="others")
    with pytest.raises(dg.Failure, match="holds the results of the pipeline people"):
        other.run.submit()
    assert here.paid == RECORDS
    here.run.night()
    assert len(here.run.rows()) == RECORDS


@only_whole
def test_a_table_of_an_earlier_version_has_no_mark_and_is_taken_over(
    town: Callable[..., Town],
) -> None:
    here = town()
    here.run.night()
    here.sql("drop schema _batch_pipeline cascade")
    here.sql("alter table results add column seen varchar default 'no'", *MORE_WORK)
    here.sql("alter table source drop column note")
    here.run.night()
    rows = here.run.rows()
    assert here.paid == RECORDS + 3 and len(rows) == RECORDS + 2
    assert (rows[3]["note"], rows[3]["seen"]) == (None, "no")
    assert rows[4]["note"] == "x"
    with pytest.raises(dg.Failure, match="holds the results of the pipeline people"):
        town(name="others").run.submit()


def test_a_row_that_was_dropped_on_purpose_does_not_come_back(town: Callable[..., Town]) -> None:
    here = town(on_deleted="drop")
    here.run.night()
    here.sql("create table copy as from results", "delete from source where id in (4, 5)")
    here.run.night()
    assert {4, 5}.isdisjoint(here.run.rows())
    here.sql("drop table results")
    here.run.night()
    assert set(here.run.rows()) == set(range(RECORDS)) - {4, 5}
    here.sql("create or replace table results as from copy")
    here.run.night()
    assert set(here.run.rows()) == set(range(RECORDS)) - {4, 5}
    assert here.paid == RECORDS
    here.check()


@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "partitions"])
def test_a_type_that_changes_while_a_batch_is_open_is_widened(
    town: Callable[..., Town], partitioned: bool
) -> None:
    more: dict[str, Any] = {}
    if partitioned:
        more = {
            "partitions": dg.StaticPartitionsDefinition(["0", "1"]),
            "partition_column": "half",
        }
    here = town(**more)
    here.sql("alter table source add column half varchar", "update source set half = id % 2")
    here.emulator.configure(manual=True)
    parts = ["0", "1"] if partitioned else [None]
    for part in parts:
        here.run.submit(part)
    here.sql(
        "alter table source alter note type struct(a varchar) using {'a': note}",
        "alter table source alter n type varchar[] using [n]",
        "insert into source (id, word, n, half) values (100, 'new', ['1'], '0')",
    )
    here.run.submit(parts[0])
    here.emulator.end()
    here.run.collect(parts[0])
    if partitioned:
        here.run.collect(parts[1])
    rows = here.run.rows()
    assert here.paid == RECORDS + 1 and len(rows) == RECORDS + 1
    assert (rows[100]["n"], rows[7]["n"], rows[7]["note"]) == ("[1]", "7", "x")


@pytest.mark.parametrize(
    "change",
    [
        "the folder is gone",
        "its files are gone",
        "its files are emptied",
        "one file is gone",
        "one file is cut",
        "manifests are gone",
    ],
)
def test_a_parquet_dataset_is_put_right(
    town: Callable[..., Town], tmp_path: Path, change: str
) -> None:
    here = town(destination=ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=4))
    here.run.night()
    first = here.run.rows()
    folder = tmp_path / "out"
    match change:
        case "the folder is gone":
            shutil.rmtree(folder)
        case "its files are gone":
            for file in (folder / "data").iterdir():
                file.unlink()
        case "its files are emptied":
            for file in (folder / "data").iterdir():
                file.write_bytes(b"")
        case "one file is cut":
            file = next((folder / "data").iterdir())
            file.write_bytes(file.read_bytes()[:100])
        case "one file is gone":
            next((folder / "data").iterdir()).unlink()
        case _:
            shutil.rmtree(folder / "_manifests")
    here.run.night()
    assert here.paid == RECORDS
    assert here.run.rows() == first
    here.check()
    with pytest.raises(dg.Failure, match="holds the results of the pipeline people"):
        town(
            name="others", destination=ParquetDataset(path=str(folder), rows_per_bucket=4)
        ).run.submit()


def test_a_damaged_manifest_is_said_by_name_and_the_way_on_works(
    town: Callable[..., Town], tmp_path: Path
) -> None:
    here = town(destination=ParquetDataset(path=str(tmp_path / "out")))
    here.run.night()
    first = here.run.rows()
    for file in (tmp_path / "out" / "_manifests").iterdir():
        file.write_bytes(b"")
    with pytest.raises(dg.Failure, match=r"manifest .*\.json is damaged"):
        here.run.submit()
    for file in (tmp_path / "out" / "_manifests").iterdir():
        file.unlink()
    here.run.night()
    assert here.run.rows() == first and here.paid == RECORDS


@pytest.mark.parametrize("kind", ["file", "folder", "dataset"])
def test_what_is_read_only_is_refused_before_any_money(
    town: Callable[..., Town], tmp_path: Path, kind: str
) -> None:
    inside = tmp_path / "out"
    inside.mkdir()
    destination: Any = DuckDBTable(database=str(inside / "w.duckdb"), table="results")
    if kind == "dataset":
        destination = ParquetDataset(path=str(inside / "set"))
    here = town(destination=destination)
    here.run.night()
    here.sql(*MORE_WORK)
    place = {"file": inside / "w.duckdb", "folder": inside, "dataset": inside / "set"}[kind]
    before = place.stat().st_mode
    place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        with pytest.raises(dg.Failure, match="is read-only"):
            here.run.submit()
        assert here.paid == RECORDS
    finally:
        place.chmod(before)
    here.run.night()
    assert len(here.run.rows()) == RECORDS + 2


def test_a_row_that_no_record_stands_behind_is_said_and_stops_nothing(
    town: Callable[..., Town],
) -> None:
    here = town()
    here.run.night()
    here.sql("insert into results (id, _status, _custom_id) values (999, 'answered', 'by hand')")
    with pytest.raises(AssertionError, match="1 row that no record of this store stands behind"):
        here.check()
    assert here.run.rows()[999]["_custom_id"] == "by hand"


RETYPED = {
    "double": ("integer", "double"),
    "decimal": ("integer", "decimal(18, 2)"),
    "timestamp": ("date using date '2024-01-01' + id", "timestamp"),
}


@only_whole
@pytest.mark.parametrize("kind", RETYPED)
def test_a_retyped_key_that_is_asked_again_on_purpose_has_one_row_per_record(
    town: Callable[..., Town], kind: str
) -> None:
    here = town()
    first, then = RETYPED[kind]
    here.sql(f"alter table source alter id type {first}")
    here.run.night()
    here.sql(f"alter table source alter id type {then}")
    with pytest.raises(dg.Failure, match="allow_reask"):
        here.run.submit()
    here.run.night(allow_reask=True)
    assert here.paid == 2 * RECORDS
    found = here.check()
    assert found["missing"] == found["doubled"] == found["unexpected"] == 0
    here.sql("update source set word = 'changed' where n = 3")
    here.run.night()
    asked = here.run.rows()
    assert len(asked) == RECORDS and here.paid == 2 * RECORDS + 1
    here.run.night()
    here.sql("drop table results")
    here.run.night()
    assert here.run.rows() == asked and here.paid == 2 * RECORDS + 1
    assert here.check()["missing"] == 0


@only_whole
def test_a_key_that_grows_by_a_column_and_is_asked_again_has_one_row_per_record(
    town: Callable[..., Town],
) -> None:
    here = town()
    here.run.night()
    source = DuckDBSource(database=here.database, table="source", key=["id", "n"])
    more = town(source=source)
    more.run.night(allow_reask=True)
    assert more.check()["missing"] == 0
    more.run.night()
    assert more.paid == 2 * RECORDS and len(more.run.rows()) == RECORDS
    again = town()
    again.run.night()
    assert again.paid == 2 * RECORDS and again.check()["missing"] == 0


@pytest.mark.parametrize("key", ["5000", "null"])
def test_the_row_of_a_key_that_somebody_edited_comes_back(
    town: Callable[..., Town], key: str
) -> None:
    here = town()
    here.run.night()
    first = here.run.rows()[7]
    here.sql(f"update results set id = {key} where id = 7")
    here.run.night()
    rows = here.run.rows()
    assert rows[7] == first and len(rows) == RECORDS + 1 and here.paid == RECORDS
    for _ in range(2):
        (found,) = (
            one
            for one in here.run.collect().get_asset_check_evaluations()
            if one.check_name == "every_record_accounted_for"
        )
        assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN
        assert "1 row that no record of this store stands behind" in str(found.description)
    assert here.run.rows() == rows


@only_whole
def test_keys_that_somebody_swapped_are_put_back(town: Callable[..., Town]) -> None:
    here = town()
    here.run.night()
    before = here.run.rows()
    here.sql("update results set id = 3 - id where id in (1, 2)")
    here.run.night()
    assert here.run.rows() == before and here.paid == RECORDS
    assert here.check()["unexpected"] == 0


def test_a_publisher_that_slept_looks_again_before_it_writes(
    town: Callable[..., Town], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it slept, its lease ran out, and another process published the same night."""
    here = town()
    here.run.night()
    here.sql(*MORE_WORK)
    here.run.submit()
    merge, slept = publish._merge, []

    def sleeping(*args: Any) -> Any:
        if not slept:
            slept.append(True)
            with here.run.store.open().ledger.write() as tx:
                tx.execute(leases.delete())  # it ran out
            here.run.collect()
            here.sql("update results set word = 'newer' where id = 3")
        return merge(*args)

    monkeypatch.setattr(publish, "_merge", sleeping)
    here.run.collect()
    rows = here.run.rows()
    assert slept and here.paid == RECORDS + 3 and len(rows) == RECORDS + 2
    assert rows[3]["word"] == "newer"


def test_a_table_that_nobody_changed_is_known_by_its_tally_and_any_change_is_noticed(
    town: Callable[..., Town], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what came since is compared; after a change by hand, all of it once."""
    compared: list[int | None] = []  # index files whose keys were compared; None: all keys

    def spied(store: Any, con: Any, index: Any, among: Any = None) -> None:
        compared.append(None if among is None else len(among))
        holding.find_winners(store, con, index, among)

    monkeypatch.setattr(comparing, "find_winners", spied)
    here = town()
    here.run.night()
    first = here.run.rows()
    assert compared == [None]
    here.run.submit()
    compared.clear()
    here.sql(*MORE_WORK)
    here.run.night()
    assert compared == [0, 1]
    assert len(here.run.rows()) == RECORDS + 2 and here.run.rows()[3]["word"] == "changed"
    for change in (
        "update results set _custom_id = (select _custom_id from results where id = 8) where id = 7",
        "update results set id = 50 where id = 7",
        "update results set id = 15 - id where id in (7, 8)",
        "delete from results where id = 7; insert into results from results where id = 8",
    ):
        here.sql(*change.split(";"))
        compared.clear()
        here.run.submit()
        assert compared[0] is None, change
        after = here.run.rows()
        assert after[7]["answer"] == first[7]["answer"], change
        assert after[8]["_custom_id"] == first[8]["_custom_id"], change
        here.sql("delete from results where id = 50")
        here.run.submit()
        compared.clear()
        here.run.submit()
        assert compared == [0], change
    assert here.paid == RECORDS + 3
    # A row that only its tally tells of, which is nothing to put right: it is looked at once.
    here.sql("update results set _status = 'errored' where id = 7")
    here.run.submit()
    compared.clear()
    here.run.submit()
    assert compared == [0]


def test_what_is_noted_of_a_table_is_of_no_use_to_another(town: Callable[..., Town]) -> None:
    """A table that was brought back from a backup has what it had then, and gets what came since."""
    here = town()
    here.run.night()
    backup = f"{here.database}.backup"
    shutil.copyfile(here.database, backup)
    here.sql(*MORE_WORK)
    here.run.night()
    shutil.copyfile(backup, here.database)
    here.sql(*MORE_WORK)
    here.run.night()
    assert here.paid == RECORDS + 3
    assert len(here.run.rows()) == RECORDS + 2 and here.run.rows()[3]["word"] == "changed"


def test_a_batch_of_before_the_key_was_retyped_that_comes_last_overwrites_nothing(
    town: Callable[..., Town],
) -> None:
    """Nothing but the keys themselves tells that its records are those of newer rows."""
    here = town()
    here.emulator.configure(manual=True)
    here.run.submit()
    older = {batch["id"] for batch in here.emulator.batches()}
    here.sql("alter table source alter id type decimal(18, 2)")
    here.run.submit(allow_reask=True)
    for batch in here.emulator.batches():
        if batch["id"] not in older:
            here.emulator.end(batch["id"])
    here.run.collect()
    newer = here.run.rows()
    assert len(newer) == RECORDS
    here.emulator.end()
    here.run.collect()
    assert here.run.rows() == newer
    assert here.check()["missing"] == 0 and here.paid == 2 * RECORDS


EDITS = (
    "update source set word = 'word ' || random() where id % 5 = {n} % 5",
    "update source set word = 'word 1' where id % 7 = {n} % 7",
    "delete from source where id % 9 = {n} % 9",
    "insert into source (id, word) values (200 + {n}, 'new')",
    "alter table source alter id type decimal(18, 2)",
    "alter table source alter id type integer",
)
HARM = (
    "drop table results",
    "delete from results where id % 4 = {n} % 4",
    "insert into results from results where id % 6 = {n} % 6",
    "update results set id = id + 1000 where id % 8 = {n} % 8",
    "update results set _custom_id = 'by hand' where id % 8 = {n} % 8",
    "update results set _status = 'errored' where id % 8 = {n} % 8",
    "create or replace table kept as from results",
    "create or replace table results as from kept",
    "alter table results alter id type bigint",
    "alter table results drop column answer",
)


@only_whole
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["table", "dataset"])
def test_after_publishing_what_came_since_the_long_way_finds_nothing_to_do(
    town: Callable[..., Town], tmp_path: Path, kind: str, seed: int
) -> None:
    """Random edits of source and table, batches that come in any order, partial and forced runs."""
    chance = random.Random(seed)
    destination = (
        ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=4) if kind == "dataset" else None
    )
    here = town(destination=destination, on_deleted=chance.choice(["keep", "drop"]), max_attempts=9)
    here.run = StageCalls(here.run.pipeline, here.run.claude, here.run.store)
    here.emulator.configure(manual=True)
    here.run.submit()
    table = here.run.pipeline.destination
    assert table is not None
    for step in range(14):
        for edit in chance.sample(EDITS, chance.randrange(3)):
            here.sql_if(edit.format(n=step))
        if kind == "table" and chance.random() < 0.3:
            here.sql_if(chance.choice(HARM).format(n=chance.randrange(10)))
        if kind == "dataset" and chance.random() < 0.2 and (tmp_path / "out" / "data").exists():
            chance.choice(sorted((tmp_path / "out" / "data").iterdir())).unlink()
        more: dict[str, Any] = chance.choice(
            [{}, {}, {}, {"limit": 2}, {"where": "id < 5"}, {"force": True, "where": "id < 2"}]
        )
        here.run.submit(allow_reask=True, **more)
        for batch in here.emulator.batches():
            if batch["processing_status"] != "ended" and chance.random() < 0.6:
                here.emulator.end(batch["id"], finished_share=chance.choice([1.0, 1.0, 0.5]))
        here.run.collect()
        store = here.run.store.open()
        with store.ledger.write() as tx:
            tally.note(tx, "people", None)
        found = publish.publish(store, "people", table, ["id"])
        assert not found.before.is_hurt, found.before
        assert (found.inserted, found.updated, found.deleted) == (0, 0, 0)
