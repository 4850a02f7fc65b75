"""The ledger: each step once, whoever else tries, on SQLite and on PostgreSQL."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.errors import StoreError
from batch_pipeline.store import ledger as ledger_module
from batch_pipeline.store.clock import SystemClock
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.migrations import SCHEMA_VERSION
from batch_pipeline.store.reservations import counted_for, month_of
from batch_pipeline.store.submissions import (
    Endpoint,
    NewFile,
    NewSelection,
    Scope,
    abandon,
    commit_build,
    commit_selection,
    index_files,
    know_endpoint,
    situation,
    unbuilt,
)
from batch_pipeline.store.tables import (
    STEPS,
    FileKind,
    FileState,
    approvals,
    endpoints,
    leases,
    live_requests,
    meta,
    refusals,
    request_files,
    sources,
    transitions,
)
from batch_pipeline_tests.support.clock import HandClock

HERE = Endpoint("http://127.0.0.1:1", "org", "workspace")
SCOPE = Scope("invoices", "", HERE)
BUILT = dict(rejected_path=None, rejected=0, estimate_nanousd=None, question={"output": None})


def select_records(ledger: Ledger, submission: str, scope: Scope = SCOPE) -> int | None:
    """Commit a selection as a run would that nobody else disturbs."""
    new = NewSelection(
        submission, "v", f"{submission}/records", f"{submission}/index", {"asked": 3}
    )
    return commit_selection(ledger, scope, situation(ledger, scope), new, complete=True)


def add_file(ledger: Ledger, submission: str = "one") -> str:
    """Commit a submission of one request file; return the file's id."""
    select_records(ledger, submission)
    (row,) = unbuilt(ledger, SCOPE)
    assert commit_build(ledger, row, [NewFile(0, "path", 3, 99, 0, 2)], **BUILT)
    return f"{submission}/00000"


def state(ledger: Ledger, file_id: str) -> str:
    return ledger.rows(select(request_files.c.state).where(request_files.c.id == file_id))[0][
        "state"
    ]


def test_a_step_is_taken_once_and_written_down(ledger: Ledger) -> None:
    file_id = add_file(ledger)

    def claim(owner: str) -> bool:
        with ledger.write() as tx:
            step = (FileState.READY, FileState.SENDING)
            return ledger.move(tx, file_id, *step, "attempt 1", owner=owner, attempts=1)

    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(claim, "abcdefgh"))
    assert won.count(True) == 1 and state(ledger, file_id) == FileState.SENDING
    history = ledger.rows(select(transitions).order_by(transitions.c.id))
    assert [(row["from_state"], row["to_state"]) for row in history] == [
        (None, "ready"),
        ("ready", "sending"),
    ]
    assert all(abs((datetime.now(UTC) - row["at"]).total_seconds()) < 600 for row in history)


def test_a_step_that_does_not_exist_is_an_error_of_the_program(ledger: Ledger) -> None:
    file_id = add_file(ledger)
    with pytest.raises(ValueError, match="no such step"), ledger.write() as tx:
        ledger.move(tx, file_id, FileState.COLLECTED, FileState.READY, "again")
    # Nothing that was paid for can become ready to be sent, but by way of proof that it was not; a batch
    # that only its reply has named, and that never showed, is held for a person.
    paid = {FileState.IN_PROGRESS, FileState.ENDED, FileState.COLLECTED, FileState.SPLIT}
    leaving = [step[:2] for step in STEPS if step[0] in paid and step[1] not in paid]
    assert leaving == [(FileState.IN_PROGRESS, FileState.HELD)]


def test_a_condition_that_does_not_hold_changes_nothing(ledger: Ledger) -> None:
    file_id = add_file(ledger)
    with ledger.write() as tx:
        assert ledger.move(tx, file_id, FileState.READY, FileState.SENDING, "1", owner="me")
    with ledger.write() as tx:
        mine = request_files.c.owner == "another"
        to = FileState.IN_PROGRESS
        assert not ledger.move(tx, file_id, FileState.SENDING, to, "2", mine, batch_id="b")
    assert state(ledger, file_id) == FileState.SENDING
    assert len(ledger.rows(select(transitions))) == 2


def test_a_block_that_fails_leaves_nothing_behind(ledger: Ledger) -> None:
    file_id = add_file(ledger)
    with pytest.raises(RuntimeError), ledger.write() as tx:
        ledger.move(tx, file_id, FileState.READY, FileState.SENDING, "attempt 1")
        raise RuntimeError("the power is gone")
    assert state(ledger, file_id) == FileState.READY
    assert len(ledger.rows(select(transitions))) == 1


def test_a_batch_belongs_to_one_file(ledger: Ledger) -> None:
    for submission in ("one", "two"):
        file_id = add_file(ledger, submission)
        with ledger.write() as tx:
            ledger.move(tx, file_id, FileState.READY, FileState.SENDING, "attempt 1")
    step = (FileState.SENDING, FileState.IN_PROGRESS, "accepted")
    with ledger.write() as tx:
        assert ledger.move(tx, "one/00000", *step, batch_id="msgbatch_1")
    with pytest.raises(IntegrityError), ledger.write() as tx:
        ledger.move(tx, "two/00000", *step, batch_id="msgbatch_1")
    assert state(ledger, "two/00000") == FileState.SENDING


def test_of_two_selections_at_the_same_time_one_counts(ledger: Ledger) -> None:
    read = situation(ledger, SCOPE)
    new = [NewSelection(name, "v", None, f"{name}/index") for name in ("a", "b")]
    assert commit_selection(ledger, SCOPE, read, new[0], complete=True) == 1
    assert commit_selection(ledger, SCOPE, read, new[1], complete=True) is None
    again = situation(ledger, SCOPE)
    assert [row.name for row in again.index] == ["a/index"]
    assert commit_selection(ledger, SCOPE, again, new[1], complete=True) == 2
    # Partitions do not stand in each other's way, and share the numbers.
    march = Scope("invoices", "2026-03", HERE)
    assert select_records(ledger, "c", march) == 3
    assert {row.partition for row in index_files(ledger, "invoices")} == {"", "2026-03"}
    elsewhere = Scope("invoices", "", Endpoint("http://other", "org", "workspace"))
    assert situation(ledger, elsewhere).index == []


def test_many_runs_at_once_get_numbers_of_their_own(ledger: Ledger) -> None:
    def select_one(number: int) -> int | None:
        return select_records(ledger, f"s{number}", Scope("invoices", f"p{number}", HERE))

    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(select_one, range(8)))
    assert sorted(number or 0 for number in numbers) == list(range(1, 9))


def test_a_submission_is_built_once_or_dropped(ledger: Ledger) -> None:
    select_records(ledger, "one")
    (row,) = unbuilt(ledger, SCOPE)
    files = [NewFile(0, "p", 3, 99, 0, 2), NewFile(1, "r", 1, 0, 3, 3, FileKind.REJECTED)]
    assert commit_build(ledger, row, files, **BUILT)
    assert not commit_build(ledger, row, files, **BUILT)
    assert not abandon(ledger, "one") and not unbuilt(ledger, SCOPE)
    assert [state(ledger, f"one/0000{n}") for n in (0, 1)] == [FileState.READY, FileState.ENDED]
    select_records(ledger, "two")
    (row,) = unbuilt(ledger, SCOPE)
    assert abandon(ledger, "two") and not abandon(ledger, "two")
    assert not commit_build(ledger, row, files, **BUILT)
    assert [row.name for row in index_files(ledger, "invoices")] == ["one/index"]


def test_an_endpoint_is_written_down_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: know_endpoint(ledger, HERE), range(8)))
    (row,) = ledger.rows(select(endpoints))
    assert (row["id"], row["base_url"]) == (HERE.id, HERE.base_url)


def test_a_lease_has_one_holder_and_is_given_back(ledger: Ledger) -> None:
    with ledger.lease("publish/invoices") as mine:
        assert mine is not None and mine.still_held()
        with ledger.lease("publish/invoices") as theirs:
            assert theirs is None
        with ledger.lease("publish/letters") as other:
            assert other is not None
    with ledger.lease("publish/invoices") as again:
        assert again is not None
    assert not ledger.rows(select(leases))


def test_a_lease_is_waited_for(ledger: Ledger) -> None:
    order: list[str] = []

    def hold(name: str) -> None:
        with ledger.lease("publish/invoices", wait_seconds=30) as lease:
            assert lease is not None
            order.extend((f"{name} in", f"{name} out"))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(hold, "abc"))
    assert [line.split()[0] for line in order[::2]] == [line.split()[0] for line in order[1::2]]


def test_a_lease_whose_holder_was_killed_is_free_after_a_while(ledger_url: str) -> None:
    clock = HandClock()
    ledger = Ledger(ledger_url, clock)
    with ledger.lease("collect/one") as sleeper:
        assert sleeper is not None
        clock.advance(ledger_module.LEASE_SECONDS - 1)
        with ledger.lease("collect/one") as early:
            assert early is None
        clock.advance(2)
        with ledger.lease("collect/one") as next_one:
            assert next_one is not None and next_one.still_held()
            assert not sleeper.still_held()  # it woke up too late
        assert not ledger.rows(select(leases))


def test_a_ledger_of_a_newer_version_is_left_as_it_is(ledger_url: str) -> None:
    first = Ledger(ledger_url, SystemClock())
    assert Ledger(ledger_url, SystemClock()).id == first.id
    with first.write() as tx:
        newer = str(SCHEMA_VERSION + 1)
        tx.execute(update(meta).where(meta.c.key == "schema_version").values(value=newer))
    with pytest.raises(StoreError, match=f"newer batch_pipeline.*version {newer}.*Upgrade"):
        Ledger(ledger_url, SystemClock())
    assert dict(first.rows(select(meta))[0])  # it can still be read by whoever had it open


def test_a_ledger_of_an_older_version_is_brought_up_to_date(ledger_url: str) -> None:
    first = Ledger(ledger_url, SystemClock())
    at = datetime(2026, 11, 5, tzinfo=UTC)
    collected, on_its_way = add_file(first, "one"), add_file(first, "two")
    with first.write() as tx:
        done = dict(state="collected", batch_id="b1", cost_nanousd=70, sent_at=at, attempts=2)
        for file, values in (
            (collected, done),
            (on_its_way, dict(state="in_progress", batch_id="b2", sent_at=at, attempts=1)),
        ):
            mine = request_files.c.id == file
            tx.execute(update(request_files).where(mine).values(**values))
        for table in ("reservations", "approvals", "token_rates", "live_requests"):
            tx.execute(text(f"DROP TABLE {table}"))
        tx.execute(text("DROP INDEX request_files_by_watch"))
        tx.execute(meta.delete().where(meta.c.key == "indexes"))
        for column in ("weight", "label"):
            tx.execute(text(f"ALTER TABLE request_files DROP COLUMN {column}"))
        for column in ("cancel_requested_at", "cancel_sent_at", "watch_until"):
            tx.execute(text(f"ALTER TABLE request_files DROP COLUMN {column}"))
        for column in ("unreadable_since", "read_at"):
            tx.execute(text(f"ALTER TABLE candidates DROP COLUMN {column}"))
        for table in ("refusals", "sources"):
            tx.execute(text(f"DROP TABLE {table}"))
        tx.execute(update(meta).where(meta.c.key == "schema_version").values(value="1"))
    again = Ledger(ledger_url, SystemClock())
    assert again.id == first.id
    assert len(again.rows(select(request_files))) == 2
    assert again.rows(select(refusals)) == again.rows(select(sources)) == []
    assert again.rows(select(approvals)) == again.rows(select(live_requests)) == []
    # What was sent this month counts for the caps of this month.
    with again.read() as tx:
        known = counted_for(tx, at, lambda _: None, since=month_of(at))
        priced = counted_for(tx, at, lambda file: file["requests"], since=month_of(at))
    assert (known.spent, known.reserved, known.unknown) == (70, 0, 1)
    assert (priced.reserved, priced.unknown) == (3, 0)
    assert {row["key"]: row["value"] for row in again.rows(select(meta))}["schema_version"] == "5"


def test_a_database_that_fails_says_so_and_what_to_do(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/one.sqlite", SystemClock())
    (tmp_path / "one.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"fails.*is damaged.*rebuild-ledger"), ledger.write():
        pass
    with pytest.raises(StoreError, match="cannot be used"):
        Ledger(f"sqlite:///{tmp_path}/one.sqlite", SystemClock())


def test_ids_of_ledgers_differ(tmp_path: Path) -> None:
    ids = {Ledger(f"sqlite:///{tmp_path}/{n}", SystemClock()).id for n in range(3)}
    assert len(ids) == 3 and all(len(one) == 8 and int(one, 16) >= 0 for one in ids)


OPENING = """
import sys
from batch_pipeline.store.clock import SystemClock
from batch_pipeline.store.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
print(Ledger(sys.argv[1], SystemClock()).id)
"""


def test_processes_that_make_one_ledger_at_the_same_time_agree(ledger_url: str) -> None:
    command = [sys.executable, "-c", OPENING, ledger_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(command, cwd=root, text=True, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert {out.strip() for out, _ in said} == {Ledger(ledger_url, SystemClock()).id}


def test_threads_that_make_one_ledger_at_the_same_time_agree(ledger_url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: Ledger(ledger_url, SystemClock()).id, range(8)))
    assert len(set(made)) == 1


def test_times_keep_their_instant(ledger: Ledger) -> None:
    berlin = datetime.fromisoformat("2026-03-29T03:30:00.123456+02:00")
    with ledger.write() as tx:
        tx.execute(insert(leases).values(name="x", owner="me", until=berlin))
    (row,) = ledger.rows(select(leases))
    assert row["until"] == berlin and row["until"].tzinfo is UTC
    assert row["until"].isoformat() == "2026-03-29T01:30:00.123456+00:00"
