"""A ledger with a long history answers as one with a short one: what is asked at every tick has an index."""

import re
from pathlib import Path
from typing import Any

from sqlalchemy import event, inspect, text

from batch_pipeline.store.needs import endpoints_at_work, needs
from batch_pipeline.store.standing import standings
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import (
    Endpoint,
    NewFile,
    NewSelection,
    Scope,
    commit_build,
    commit_selection,
    know_endpoint,
    situation,
    unbuilt,
)

HERE = Endpoint("http://here", "org", "workspace")
LONG = "request_files", "transitions", "reservations"
"""The tables that a batch has rows in."""
WHOLE = re.compile(rf"SCAN ({'|'.join(LONG)})\b|SEARCH ({'|'.join(LONG)}) USING .*\(pipeline=\?\)$")
"""Reading one of them from its beginning to its end, or all that a pipeline has in it."""


def plans(store: Store) -> dict[str, list[str]]:
    """Return what a status and a tick ask the ledger, each with how SQLite finds it."""
    asked: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        asked[statement] = given

    event.listen(store.ledger.engine, "before_cursor_execute", note)
    standings(store, "people", by_partition=True)
    endpoints_at_work(store, "people", escalates=True)
    needs(store, "people", HERE, max_queued_requests=9, reconcile_after_seconds=9, escalates=True)
    event.remove(store.ledger.engine, "before_cursor_execute", note)
    with store.ledger.read() as tx:
        return {
            statement: [
                row[3] for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            ]
            for statement, given in asked.items()
            if statement.startswith("SELECT")
        }


def test_a_status_and_a_tick_read_no_history(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    know_endpoint(store.ledger, HERE)
    scope = Scope("people", "", HERE)
    new = NewSelection("one", "v", None, "one/index", {"asked": 3})
    commit_selection(store.ledger, scope, situation(store.ledger, scope), new, complete=True)
    (row,) = unbuilt(store.ledger, scope)
    how = {"rejected_path": None, "rejected": 0, "estimate_nanousd": None, "question": {}}
    assert commit_build(store.ledger, row, [NewFile(0, "p", 3, 99, 0, 2)], **how)
    found = plans(store)
    whole = {
        statement: lines for statement, lines in found.items() if any(map(WHOLE.search, lines))
    }
    assert len(found) > 10 and not whole


def test_a_ledger_that_lacks_an_index_gets_it(tmp_path: Path) -> None:
    """As one that an earlier version made."""
    store = open_store(str(tmp_path / "store"))
    names = {index["name"] for index in inspect(store.ledger.engine).get_indexes("request_files")}
    with store.ledger.write() as tx:
        tx.execute(text("DROP INDEX request_files_by_state"))
        tx.execute(text("DELETE FROM meta WHERE key = 'indexes'"))
    store = open_store(str(tmp_path / "store"))
    found = {index["name"] for index in inspect(store.ledger.engine).get_indexes("request_files")}
    assert found == names >= {"request_files_by_state", "request_files_by_watch"}
