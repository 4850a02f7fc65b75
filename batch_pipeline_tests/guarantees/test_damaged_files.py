"""Every kind of file that the store has, lost or damaged in every way: said in our words, or put right.

Whatever it is, nothing is paid twice, and what is said names the way on.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import update

from batch_pipeline import MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.results.account import account
from batch_pipeline.results.lost import rebuild_lost
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.store import open_store
from batch_pipeline.store.tables import submissions
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.deployment import (
    Deployment,
    Stages,
    change_records,
    make_records,
    read_records,
)
from batch_pipeline_tests.support.extent import extent, only_whole
from batch_pipeline_tests.support.house import RECORDS, House

KINDS = {
    "records": "p/*/records.parquet",
    "selected": "p/*/index/selected.parquet",
    "index": "p/*/index/0*.parquet",
    "results": "p/*/results/*.parquet",
    "results and answers": "p/*/[ra]*s/0*-msgbatch*",
    "requests": "p/*/requests/*.jsonl",
    "rejected": "p/*/requests/*.parquet",
    "answers": "p/*/answers/*.jsonl",
    "manifest": "p/*/manifest-*.json",
    "notes of sending": "p/*/sent/*",
    "owner": "ledger.json",
    "table": "p/table/**/*.parquet",
    "table's manifest": "p/table/**/*.json",
}
WAY_ON = {kind: "never" for kind in KINDS} | {
    # What was selected cannot be known any more: of what is open the rows cannot be made.
    "records": "records.parquet",
    "table's manifest": "or delete it",
}
"""What a run says where only a person can go on."""
DAMAGES = ("gone", "empty", "cut", "flipped")
TEXTS = {f"k{number}": f"text {number}" for number in range(6)} | {"nothing": ""}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "flipped":
        middle = len(content) // 2
        some = bytes(byte ^ 0xFF for byte in content[middle : middle + 40])
        path.write_bytes(content[:middle] + some + content[middle + 40 :])
    else:
        path.write_bytes(b"" if how == "empty" else content[: len(content) // 2])


@dataclass
class Built:
    """A store with all kinds of files, kept to be copied."""

    deployment: Deployment
    emulator: EmulatorProcess
    clock: HandClock


@pytest.fixture
def built(tmp_path: Path, claude_emulator: EmulatorProcess) -> Iterator[Built]:
    """Three nights, of which the last repeats the first, and a fourth that is on its way in part."""
    folder = tmp_path / "built"
    folder.mkdir()
    with going_by(HandClock()) as clock:
        deployment = Deployment(
            str(folder / "store"), str(folder / "warehouse.duckdb"), claude_emulator.base_url,
            table=False,
            pipeline={"request": MessageTemplate(model="claude-haiku-4-5", max_tokens=100, prompt="{{ t }}")},
        )  # fmt: skip
        make_records(deployment.warehouse, TEXTS)
        run = Stages(deployment, clock)
        for text in ("a", "b", "a"):
            change_records(deployment.warehouse, "update records set t = ? where k = 'k0'", text)
            run.submit()
            claude_emulator.end()
            clock.advance(400)
            run.collect()
        claude_emulator.configure(manual=True)
        change_records(
            deployment.warehouse,
            "insert into records values ('n1', 'n1', null), ('n2', 'n2', null)",
        )
        run.submit()
        yield Built(deployment, claude_emulator, clock)
        run.close()


CASES = [(kind, how) for kind in KINDS for how in DAMAGES]


def test_whatever_file_is_damaged_is_put_right_or_said_and_nothing_is_paid_twice(
    built: Built, tmp_path: Path
) -> None:
    asked = built.emulator.bill()["requests"] + 2  # two are on their way
    for kind, how in extent(CASES[::7], CASES):
        wrong = what_goes_wrong(built, tmp_path / f"{kind}-{how}", kind, how)
        assert not wrong, f"{kind} {how}: {wrong}"
        assert built.emulator.bill()["requests"] == asked, f"{kind} {how}"


def what_goes_wrong(built: Built, home: Path, kind: str, how: str) -> list[str]:
    """Damage a copy of the store, go on with it, and return what nobody could act on."""
    shutil.copytree(Path(built.deployment.folder).parent, home)
    root = home / "store"
    deployment = replace(
        built.deployment, folder=str(root), warehouse=str(home / "warehouse.duckdb")
    )
    paths = [path for path in root.glob(KINDS[kind]) if path.is_file()]
    assert paths
    for path in paths:
        damage(path, how)
    said: dict[str, str] = {}

    def act(name: str, action: Callable[[], object]) -> None:
        said[name] = ""
        try:
            action()
        except BatchPipelineError as error:
            said[name] = str(error)

    try:
        run = Stages(deployment, built.clock)
    except BatchPipelineError as error:
        assert "rebuild-ledger" in str(error)
        rebuild(open_store(str(root), clock=built.clock, lost=True))
        run = Stages(deployment, built.clock)
    with closing(run):
        with run.store.ledger.write() as tx:
            tx.execute(update(submissions).values(verified_at=None))
        act("status", run.standing)
        act("check", lambda: account(run.store, run.scope("")))
        act("submit", run.submit)
        built.emulator.end()
        built.clock.advance(400)
        act("collect", run.collect)
        act("submit again", run.submit)
        act("check again", lambda: account(run.store, run.scope("")))
        if WAY_ON[kind] in said["collect"] != "":
            return []
        table = sorted((row["k"], row["t"], row["_status"]) for row in run.rows())
    wanted = sorted(
        (key, text, "answered" if text else "rejected")
        for key, text in read_records(deployment.warehouse).items()
    )
    wrong = [f"{name}: {text}" for name, text in said.items() if text and name != "check"]
    return wrong + ([] if table == wanted else [f"the table holds {table}"])


@only_whole
def test_a_store_older_than_its_ledger_is_refused_and_gone_on_with_on_purpose(
    house: House,
) -> None:
    house.nights().night()
    backup = house.folder / "backup"
    shutil.copytree(house.root, backup)
    house.sql("insert into notes select id + 1000, text || ' more', part from notes where id < 15")
    house.nights().night()
    shutil.rmtree(house.root / "notes")
    shutil.copytree(backup / "notes", house.root / "notes")
    run = house.nights()
    refused = house.refusal(run)
    assert "records.parquet" in refused and "docs/operations.md" in refused
    for path in house.root.glob("ledger.sqlite*"):
        path.unlink()
    rebuild(open_store(str(house.root), lost=True))
    refused = house.refusal(run)
    assert "15 of their records would be paid again" in refused
    assert house.paid == RECORDS + 15
    run.night(allow_reask=True)
    assert house.paid == RECORDS + 30 and house.statuses() == {"answered": RECORDS + 15}


def test_a_selection_that_removed_keys_is_made_again_once(house: House) -> None:
    run = house.nights(on_deleted="drop")
    run.night()
    house.sql("delete from notes where id = 7", "update notes set text = 'new' where id = 8")
    run.night()
    paid = house.paid
    for path in house.root.rglob("index/selected.parquet"):
        path.unlink()
    with closing(run.claude.api()) as api:
        done, failed = rebuild_lost(run.store.open(), api, "notes", 3, thorough=True)
        assert len(done) == 2 and not failed and "1 key that had left the source" in done[-1]
        assert rebuild_lost(run.store.open(), api, "notes", 3, thorough=True) == ([], [])
    run.night()
    assert (house.paid, house.statuses()) == (paid, {"answered": RECORDS - 1})
