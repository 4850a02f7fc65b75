"""Selection by what is kept and compacted, beside selection by all there is: the same comes of both."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.records import selection as selection_module
from batch_pipeline.records import statements
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.partitions import key_filter
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.selection import Ask, Contents, IndexFile, Selection, select
from batch_pipeline_tests.support.extent import extent

KEYS = 40
SAID = ("NULL", "''", "'a'", "'A'", "'é'", "'e\u0301'", "repeat('long ', 9)", "'x' || chr(0)")
NUMBERS = ("NULL", "0.0", "-0.0", "'nan'::DOUBLE", "1.5", "1e300")
AT = ("NULL", "TIMESTAMPTZ '2026-03-29 02:30:00+02'", "TIMESTAMPTZ '2026-03-29 00:30:00Z'")
NESTED = ("NULL", "[]", "[NULL]", "[{'a': 'x, b: y'}]", "[{'a': NULL}, {'a': ''}]")
STATUSES = (*["answered"] * 30, "refused", "rejected", "invalid", "truncated", "errored", "missing")
TYPES = (*["INTEGER"] * 12, "BIGINT", "VARCHAR", "DECIMAL(9,2)")


@dataclass
class Town:
    """A source that people edit, and what earlier nights left of it."""

    con: duckdb.DuckDBPyConnection
    folder: Path
    chance: random.Random
    index: list[IndexFile] = field(default_factory=list)
    # The same, without the selected rows of what is settled, as a compaction has them.
    short: list[IndexFile] = field(default_factory=list)
    known: dict[str, Contents] = field(default_factory=dict)
    older: list[Contents] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.con.execute(
            "CREATE TEMP TABLE t (id INTEGER, part VARCHAR, said VARCHAR, n DOUBLE, moment TIMESTAMPTZ,"
            " many STRUCT(a VARCHAR)[], unread INTEGER)"
        )
        self.con.execute(
            f"INSERT INTO t SELECT range, 'a', 'said ' || range, 0.5, NULL, NULL, 1 FROM range({KEYS - 5})"
        )

    def edit(self) -> None:
        """Change a row, add one, or take one away."""
        of = self.chance.choice
        row = f"{of('ab')!r}, {of(SAID)}, {of(NUMBERS)}, {of(AT)}, {of(NESTED)}, {of('123')}"
        key = self.chance.randrange(KEYS)
        kind = self.chance.random()
        if kind < 0.6:
            self.con.execute(f"DELETE FROM t WHERE id = {key}")
            self.con.execute(f"INSERT INTO t VALUES ({key}, {row})")
        elif kind < 0.7:
            self.con.execute(f"DELETE FROM t WHERE id = {key}")
        elif kind < 0.85:
            self.con.execute(f"UPDATE t SET said = {of(SAID)} WHERE id = {key}")
        else:
            self.con.execute(
                f"UPDATE t SET part = CASE part WHEN 'a' THEN 'b' ELSE 'a' END WHERE id = {key}"
            )

    def night(self) -> None:
        """Select in both ways, compare them, and let what was asked come back, or some of it."""
        of = self.chance.choice
        for _ in range(self.chance.randrange(5)):
            self.edit()
        columns = ["id", "part", "said", "n", "moment", "many", "unread"]
        self.chance.shuffle(columns)
        key = f"id::{of(TYPES)} AS id"
        shown = ", ".join(key if name == "id" else name for name in columns)
        self.con.execute(
            f"CREATE OR REPLACE TEMP VIEW source AS SELECT {shown} FROM t ORDER BY random()"
        )
        part = of((None, None, None, "a", "a", "b"))
        types = source_columns(self.con)
        content = of((*[("said",)] * 9, ("said", "n"), ("said", "n", "moment", "many"), ("SAID",)))
        known = self.known.get(part or "")
        if self.older and self.chance.random() < 0.3:
            known = of(self.older)  # of another night, another question, another partition
        options: dict[str, Any] = {
            "version": of((*["one"] * 9, "two")),
            "refresh": of((*["changed"] * 7, "new")),
            "on_deleted": of(("keep", "drop")),
            "partition": key_filter(types, "part", part) if part else None,
            "dedupe": of((True, False)),
            "together": of(((), (), ("part",))),
            "ask": of(
                (*[Ask(allow_reask=True)] * 5, Ask(limit=1), Ask(where="said = 'a'"), Ask(force=True),
                 Ask(force=True, where="n > 0"), Ask(retries_only=True))
            ),
            "rules": of((*[()] * 6, (Rule("said IS NULL", "skipped"),))),
            "content_columns": content,
        }  # fmt: skip
        self.number += 1
        quick, found = self._select(self.short, "quick", known, options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statements, "PLAIN", f"{statements.PLAIN.rstrip()} AND false\n")
            whole, expected = self._select(self.index, "whole", None, options)
        assert found == expected
        assert replace(quick, records_path=None, index_path=None, contents=None) == replace(
            whole, records_path=None, index_path=None, contents=None
        )
        for said in (quick.contents, whole.contents):
            if said is not None:
                self.known[part or ""] = said
                self.older.append(said)
        if whole.index_path is not None:
            self._come_back(IndexFile(whole.index_path, self.number, part or ""))

    def _select(
        self, index: list[IndexFile], folder: str, known: Contents | None, options: dict[str, Any]
    ) -> tuple[Selection, list[list[tuple[Any, ...]]]]:
        out = self.folder / f"{self.number}-{folder}"
        out.mkdir()
        selection = select(
            self.con, keys=("id",), index=index, out_dir=str(out), ledger_id="abcdef01", known=known,
            known_into=str(out / "contents.parquet"), **options,
        )  # fmt: skip
        queries = [
            "SELECT key_hash, content_hash, same_content, wanted, hashed.rule, verdict, attempts, latest,"
            " ruled, doubled FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = id ORDER BY ALL",
            "SELECT * EXCLUDE (place) FROM _bp_plan ORDER BY ALL",
            "SELECT * FROM _bp_gone ORDER BY ALL",
        ]
        if selection.records_path is not None:
            queries.append(f"SELECT * FROM '{selection.records_path}'")
        # As texts: NaN is not itself.
        return selection, [
            [tuple(map(str, row)) for row in self.con.execute(query).fetchall()]
            for query in queries
        ]

    def _come_back(self, selected: IndexFile) -> None:
        self.index.append(selected)
        if self.chance.random() < 0.2:
            self.short.append(selected)
            return  # it stays on its way
        path = selected.path.replace("selected", "collected")
        cases = " ".join(f"WHEN {n} THEN '{self.chance.choice(STATUSES)}'" for n in range(7))
        self.con.execute(
            f"COPY (SELECT * REPLACE (CASE attempt WHEN 0 THEN 'rule' ELSE CASE hash(custom_id) % 7 {cases} END"
            f" END AS status) FROM '{selected.path}' WHERE status = 'pending') TO '{path}' (FORMAT parquet)"
        )
        settled = path.replace("collected", "settled")
        self.con.execute(
            f"COPY (FROM '{selected.path}' WHERE status <> 'pending') TO '{settled}' (FORMAT parquet)"
        )
        came = replace(selected, path=path)
        self.index.append(came)
        self.short += [replace(selected, path=settled), came]


@pytest.mark.parametrize("seed", extent([1], [*range(24)]))
def test_what_is_kept_and_compacted_selects_what_the_whole_history_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(selection_module, "LEAST_ROWS", 1)
    with memory_connection() as con:
        town = Town(con, tmp_path, random.Random(seed))
        for _ in range(extent(8, 14)):
            town.night()
