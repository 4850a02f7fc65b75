"""`prune` and `BatchStore(keep_days=...)` delete old requests and answers, and nothing that anybody needs."""

import json
from typing import Any

import pyarrow.parquet as parquet
import pytest
from pydantic import ValidationError

from batch_pipeline import BatchStore
from batch_pipeline.cli.project import inside
from batch_pipeline.results.lost import rebuild_lost
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.support.stage_calls import PlayedNights
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject

DAY = 24 * 3600


def night(user_project: UserProject) -> PlayedNights:
    with inside(user_project.folder):
        one = user_project.nights("notes")
        nights = PlayedNights(one.pipeline, one.claude, one.store)
        nights.submit()
        user_project.emulator.end()
        nights.collect()
        return nights


def pruned(user_project: UserProject, *words: str) -> dict[str, Any]:
    result = user_project.run("prune", "notes", "--yes", "--json", *words)
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)["stores"]
    return found


def kept(user_project: UserProject) -> int:
    return len([*(user_project.folder / "data" / "batches").rglob("*.jsonl")])


def test_old_requests_and_answers_go_and_nothing_is_paid_or_lost(user_project: UserProject) -> None:
    # The one answer that does not come is asked again, with what was said; the rest is settled.
    user_project.emulator.configure(rates={"errored": 1.0})
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("**more,", "max_attempts=2, **more,", 1)
    )
    night(user_project)
    user_project.emulator.configure(rates={})
    assert user_project.run("prune", "notes").exit_code == 1  # nobody said how long
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        BatchStore(root="data", keep_days=0)
    user_project.clock.advance(40 * DAY)
    found = pruned(user_project, "--keep-days", "30")
    assert found["files"] == 0 and "may be asked again" in found["kept"][0]
    night(user_project)
    before, bill = kept(user_project), user_project.emulator.bill()
    tried = pruned(user_project, "--keep-days", "30", "--dry-run")
    assert tried["files"] == 8 and kept(user_project) == before
    assert pruned(user_project, "--keep-days", "30")["files"] == 8
    assert pruned(user_project, "--keep-days", "1")["files"] == 0  # tonight's
    # A night by the declared days deletes the rest; another asks nothing.
    days = 'BatchStore(root="data/batches", keep_days=30)'
    user_project.write(
        "pipelines.py", (CODE + TWO).replace('BatchStore(root="data/batches")', days)
    )
    user_project.clock.advance(40 * DAY)
    nights = night(user_project)
    assert kept(user_project) == 0
    assert user_project.emulator.bill() == bill
    with inside(user_project.folder):
        rows = nights.rows()
        assert {row["_status"] for row in rows.values()} == {"answered"}
        store, api = nights.store.open(), nights.claude.api()
        assert rebuild_lost(store, api, "notes", 2, thorough=True) == ([], [])
        # An index that is lost is made again from the rows; a lost ledger's, too.
        folder = user_project.folder / "data" / "batches"
        names = [path for path in folder.rglob("index/0*.parquet") if "notes" in path.parts]
        indexes = {path: parquet.read_table(path) for path in names}
        for path in (*indexes, *folder.glob("ledger.sqlite*")):
            path.unlink()
        assert rebuild(open_store(str(folder), lost=True)).unknown == 0
        store = nights.store.open()
        done, failed = rebuild_lost(store, api, "notes", 2)
        assert len(done) == len(indexes) and not failed
        assert all(parquet.read_table(path) == table for path, table in indexes.items())
        # Rows that are lost then cannot be made again: that is said, and they are not thought unanswered.
        for path in (folder / "notes").rglob("results/*.parquet"):
            path.unlink()
        done, failed = rebuild_lost(store, api, "notes", 2)
        assert not done and "gone from the store and from the API" in failed[-1]
        assert nights.rows() == rows
        api.close()
