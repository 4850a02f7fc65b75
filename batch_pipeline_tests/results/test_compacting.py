"""Index files of nights that are over become one file: the same rows count, whoever is killed, reads or comes second."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.records import statements
from batch_pipeline.records.comparison import Comparison
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.index_rows import index_rows, located
from batch_pipeline.records.selection import IndexFile, _view_index
from batch_pipeline.results import compacting
from batch_pipeline.results.compacting import LEAST_FILES, compact
from batch_pipeline.results.holding import find_winners
from batch_pipeline.results.lost import make_again
from batch_pipeline.store import compactions
from batch_pipeline.store.compactions import compactions_of, exchange
from batch_pipeline.store.layout import compacted_name
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import (
    Endpoint,
    NewFile,
    NewSelection,
    Scope,
    add_file,
    commit_selection,
    index_files,
    situation,
)
from batch_pipeline.store.tables import FileState, request_files, submissions
from batch_pipeline_tests.support.clock import HandClock

HERE = Endpoint("http://here", "org", "workspace")
SCOPE = Scope("people", "", HERE)
STATUSES = ("answered", "answered", "answered", "refused", "errored", "invalid", "deleted")


class KilledError(BaseException):
    """The process ends here."""


@dataclass
class Past:
    """A store with nights that are over."""

    store: Store
    clock: HandClock
    draw: random.Random
    number: int = 0

    def night(self, files: int = 1, keys: int = 40, *, over: bool = True) -> None:
        """Let a night go by, of which some records are asked; ``over``: each of them is accounted for."""
        self.number += 1
        ledger, name = self.store.ledger, f"s{self.number}"
        rows = [
            [
                self._row(key, self.draw.choice(STATUSES if over else ("pending",)))
                for key in self.draw.sample(range(keys), 3)
            ]
            for _ in range(files)
        ]
        pending = [(*row[:5], "pending") for some in rows for row in some if row[5] != "deleted"]
        gone = [row for some in rows for row in some if row[5] == "deleted"]
        index = self._put(f"people/{name}/index/selected.parquet", [*pending, *gone])
        new = NewSelection(name, "v", None, index, {"asked": len(pending), "deleted": len(gone)})
        read = situation(ledger, SCOPE)
        assert commit_selection(ledger, SCOPE, read, new, complete=True) == self.number
        if not over:
            return
        (row,) = [one for one in ledger.rows(submissions.select()) if one["id"] == name]
        with ledger.write() as tx:
            for seq, some in enumerate(rows):
                path = self._put(f"people/{name}/index/{seq:05d}.parquet", some)
                counts: dict[str, int] = {}
                for one in some:
                    counts[one[5]] = counts.get(one[5], 0) + 1
                file_id = add_file(
                    ledger, tx, row, NewFile(seq, None, 3, 9, 0, 2), FileState.ENDED, "made"
                )
                tx.execute(
                    request_files.update()
                    .where(request_files.c.id == file_id)
                    .values(state=FileState.COLLECTED, index_path=path, statuses=counts)
                )
            tx.execute(
                submissions.update()
                .where(submissions.c.id == name)
                .values(state="built", verified_at=self.store.clock.now())
            )

    def _row(self, key: int, status: str) -> tuple[Any, ...]:
        content, version, attempt = (self.draw.randint(0, 1) for _ in range(3))
        # What is done with a key that has one row is what most records get.
        custom_id = f"{self.number}-{key}-{content}{version}-{attempt + 1}"
        return f"k{key}", f"c{content}", f"v{version}", custom_id, attempt + 1, status

    def _put(self, name: str, rows: Sequence[tuple[Any, ...]]) -> str:
        with self.store.files.scratch() as folder, memory_connection() as con:
            con.execute(
                "create or replace temp table t (k varchar, c varchar, version varchar, custom_id varchar,"
                " attempt integer, status varchar)"
            )
            if rows:
                con.executemany("insert into t values (?, ?, ?, ?, ?, ?)", rows)
            con.execute(
                "copy (select cast(md5(k) as uuid) as key_hash, cast(md5(c) as uuid) as content_hash,"
                f" version, custom_id, attempt, status from t) to '{folder}/f' (format parquet)"
            )
            return self.store.files.put(f"{folder}/f", name)

    @property
    def used(self) -> list[int]:
        """How many index files each compaction stands for."""
        return [len(one.files) for one in compactions_of(self.store.ledger, "people").used]

    @property
    def stored(self) -> int:
        """How many compactions lie in the store."""
        return len(self.store.files.file_names(compacted_name("people")))

    def read(self) -> list[str]:
        """The names of the files that the index is read from."""
        return index_rows(located(index_files(self.store.ledger, "people"), str)).paths

    def judged(self, **how: Any) -> tuple[Any, ...]:
        """What selection and publishing make of the index."""
        index = index_files(self.store.ledger, "people")
        with memory_connection() as con:
            verdicts = verdicts_of(
                con, [IndexFile.of(row, self.store.files.url) for row in index], **how
            )
            find_winners(self.store, con, index)
            winners = con.execute(
                "select key_hash, custom_id, status, position, failed_id, failed_position, rank"
                " from winners order by all"
            ).fetchall()
        return verdicts, winners


def verdicts_of(
    con: duckdb.DuckDBPyConnection,
    index: Sequence[IndexFile],
    *,
    refresh: str = "changed",
    force: bool = False,
    moves: str | None = None,
) -> list[tuple[Any, ...]]:
    con.execute(
        "create or replace temp view source as select range as id, 'c' as text from range(45)"
    )
    question = Comparison(con, ["id"], ["text"], "v1", None, None)
    _view_index(con, "_bp_index", index)
    question.hash_source("source")
    con.execute(
        "update _bp_hashed set key_hash = cast(md5('k' || k0) as uuid),"
        " content_hash = cast(md5('c' || k0 % 2) as uuid)"
    )
    question.judge(refresh, 3, force, moves, "", 1)
    return con.execute("select * from _bp_verdicts order by all").fetchall()


@pytest.fixture
def past(tmp_path: Path) -> Past:
    clock = HandClock()
    return Past(open_store(str(tmp_path / "store"), clock=clock), clock, random.Random(7))


def test_the_same_rows_count_and_fewer_files_are_read(past: Past) -> None:
    compacted: list[str] = []
    for number in range(1, 41):
        past.night()
        if number % 8:
            continue
        before = past.judged()
        opened = len(past.read())
        assert compact(past.store, "people")
        assert past.judged() == before
        assert past.judged(refresh="new") and len(past.read()) < opened
        compacted += past.read()
    assert sum(past.used) == 80 and len(past.read()) == len(past.used) <= 5
    assert not compact(past.store, "people")  # there is nothing to do
    # Each row is copied a few times, and not once a night.
    assert len(set(compacted)) >= 5
    # What is not over is read from its own file.
    past.night(over=False)
    assert len(past.read()) == len(past.used) + 1
    for _ in range(LEAST_FILES):
        past.night(over=False)
    assert not compact(past.store, "people")


@pytest.mark.parametrize("how", [{}, {"refresh": "new"}, {"force": True}, {"moves": "2026"}])
def test_a_key_with_one_answer_is_judged_as_with_its_whole_history(
    past: Past, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most keys have one row in a compacted index, and are judged by that alone."""
    for _ in range(9):
        past.night(keys=70)
    assert compact(past.store, "people")
    past.night(keys=70, over=False)
    fast, _ = past.judged(**how)
    plain = statements.PLAIN
    monkeypatch.setattr(statements, "PLAIN", plain + " AND false")
    assert past.judged(**how)[0] == fast
    told = "forced" if how.get("force") else "reuse" if how.get("moves") else "settled"
    assert {row[-1] for row in fast} >= {told, "new"} - ({"new"} if how.get("force") else set())


@pytest.mark.parametrize("step", ["written", "put", "committed"])
def test_a_process_that_is_killed_leaves_what_counted_before_or_after(
    past: Past, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        past.night()
    before = past.judged()

    def killed(*_: Any) -> Any:
        raise KilledError

    def committed(*given: Any) -> bool:
        assert exchange(*given)
        raise KilledError

    with monkeypatch.context() as patched:
        if step == "written":
            patched.setattr(type(past.store.files), "put", killed)
        else:
            patched.setattr(compacting, "exchange", killed if step == "put" else committed)
        with pytest.raises(KilledError):
            compact(past.store, "people")
    assert past.judged() == before
    assert (past.used, past.stored) == ([16] if step == "committed" else [], int(step != "written"))
    # Whoever comes next does what is left, and what nobody uses is gone a day later.
    assert compact(past.store, "people") == (step != "committed")
    assert past.judged() == before and past.used == [16]
    past.clock.advance(25 * 3600)
    compact(past.store, "people")
    assert past.stored == 1


def test_who_read_the_ledger_before_a_compaction_reads_on(past: Past) -> None:
    for _ in range(8):
        past.night()
    assert compact(past.store, "people")
    index = index_files(past.store.ledger, "people")
    first = compactions_of(past.store.ledger, "people").used[0].name
    for _ in range(8):
        past.night()
    assert compact(past.store, "people") and past.used == [32]
    past.clock.advance(23 * 3600)
    compact(past.store, "people")
    with memory_connection() as con:
        find_winners(past.store, con, index)
    assert past.store.files.exists(first)
    past.clock.advance(2 * 3600)
    compact(past.store, "people")
    assert not past.store.files.exists(first) and past.stored == 1


def test_of_two_processes_one_is_too_late_and_leaves_nothing(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        past.night()
    before = past.judged()

    def overtaken(*given: Any) -> bool:
        monkeypatch.undo()
        assert compact(past.store, "people")
        return exchange(*given)

    monkeypatch.setattr(compacting, "exchange", overtaken)
    assert not compact(past.store, "people")
    assert (past.used, past.stored) == ([16], 1) and past.judged() == before


@pytest.mark.parametrize("harm", ["gone", "emptied", "cut", "damaged"])
def test_a_compaction_that_cannot_be_read_is_done_without(past: Past, harm: str) -> None:
    for _ in range(8):
        past.night()
    before = past.judged()
    assert compact(past.store, "people")
    (one,) = compactions_of(past.store.ledger, "people").used
    path = Path(past.store.files.url(one.name))
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(content[:40] + bytes(len(content) - 80) + content[-40:])
    else:
        path.write_bytes(b"" if harm == "emptied" else content[:-50])
    # As after a file that could not be read; what is gone or cut is seen without that.
    thorough = harm == "damaged"
    assert make_again(past.store, None, "people", 3, thorough=thorough)  # type: ignore[arg-type]
    assert past.used == [] and past.judged() == before
    assert compact(past.store, "people") and past.used == [16] and past.judged() == before


def test_an_index_file_that_is_made_again_counts_instead_of_what_was_compacted(past: Past) -> None:
    for _ in range(8):
        past.night()
    assert compact(past.store, "people")
    with past.store.ledger.write() as tx:
        name = "people/s8/index/00000.parquet"
        again = past._put("people/s8/index/00000-again.parquet", [past._row(3, "answered")] * 3)
        tx.execute(
            request_files.update()
            .where(request_files.c.index_path == name)
            .values(index_path=again, statuses={"answered": 3})
        )
    now = past.judged()
    assert name not in {row.name for row in index_files(past.store.ledger, "people")}
    for _ in range(8):
        past.night()
    expected = past.judged()
    assert compact(past.store, "people") and past.judged() == expected != now
    (one,) = compactions_of(past.store.ledger, "people").used
    assert one.rows < sum(3 for _ in one.files)


def test_rows_that_do_not_count_are_not_those_of_the_next_compaction(past: Past) -> None:
    for files in (5, 1):
        for _ in range(8):
            past.night(files)
        assert compact(past.store, "people")
    assert past.used == [48, 16]
    with past.store.ledger.write() as tx:
        again = past._put("people/s8/index/00004-again.parquet", [past._row(3, "answered")])
        tx.execute(
            request_files.update()
            .where(request_files.c.index_path == "people/s8/index/00004.parquet")
            .values(index_path=again, statuses={"answered": 1})
        )
    compacted = past.judged()
    compactions.drop(past.store.files, past.store.ledger, "people")
    assert past.judged() == compacted


def test_an_index_that_is_not_what_the_ledger_says_is_not_compacted(past: Past) -> None:
    for _ in range(8):
        past.night()
    past._put("people/s8/index/00000.parquet", [])
    assert not compact(past.store, "people") and (past.used, past.stored) == ([], 0)
    compactions.drop(past.store.files, past.store.ledger, "people")
    assert past.stored == 0
