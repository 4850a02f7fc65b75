"""A full night, one change, another night: nothing is paid twice and each record has one row, or a
clear refusal comes before any money.

These are the changes of identity and of the ledger; what each refusal and each kind says more
closely is in the files named for the kinds.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.guarantees.test_older_ledger import backup, lose, restore
from batch_pipeline_tests.support.house import RECORDS, House

Second = dict[str, Any]  # what the pipeline is declared with at the second night
Change = Callable[[House], Second]


def sql(*statements: str, **second: Any) -> Change:
    def change(house: House) -> Second:
        house.sql(*statements)
        return second

    return change


def declared(**second: Any) -> Change:
    return lambda house: second


def address(host: str, end: str = "") -> Change:
    return lambda house: {"claude": {"base_url": house.address(host) + end}}


def restored(house: House) -> Second:
    """A backup of before the first night is brought back."""
    restore(house, house.folder / "before.sqlite")
    return {}


def deleted_with_guard(house: House) -> Second:
    lose(house)
    (house.root / "ledger.json").unlink()
    return {}


def deleted(house: House) -> Second:
    lose(house)
    return {}


def emptied(house: House) -> Second:
    lose(house)
    (house.root / "ledger.sqlite").write_bytes(b"")
    return {}


def damaged(house: House) -> Second:
    lose(house)
    (house.root / "ledger.sqlite").write_bytes(b"no database" * 999)
    return {}


def vacuumed(house: House) -> Second:
    with sqlite3.connect(house.root / "ledger.sqlite") as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    return {}


CHANGES: dict[str, Change] = {
    "nothing": declared(),
    "key in capitals": declared(key="ID"),
    "key in quotes": declared(key='"id"'),
    "key column renamed by case in the source": sql(
        "alter table notes rename id to i_d", 'alter table notes rename i_d to "ID"'
    ),
    "key of a wider type": sql("alter table notes alter id type bigint"),
    "key of text": sql("alter table notes alter id type varchar"),
    "another column beside": sql("alter table notes add column seen date default '2026-01-01'"),
    "address in capitals": address("LOCALHOST"),
    "address by number, with a slash": address("127.0.0.1", "/"),
    "address by name": address("localhost"),
    "pipeline renamed": declared(name="remarks", renamed_from="notes"),
    "max_tokens raised": declared(request={"max_tokens": 900}),
    "more attempts": declared(max_attempts=9),
    "ledger checkpointed": vacuumed,
    "partitioned by a column": sql(
        "alter table notes alter part type varchar",
        partitions=dg.StaticPartitionsDefinition(["0", "1", "2", "3"]),
        partition_column="part",
    ),
}
REFUSED: dict[str, Change] = {
    "key is another column": sql(
        "alter table notes add column code varchar",
        "update notes set code = 'c' || id",
        key="code",
    ),
    "key column renamed": sql("alter table notes rename id to number", key="number"),
    "key of another type": sql("alter table notes alter id type double"),
    "all contents changed": sql("update notes set text = text || '!'"),
    "content of another type": sql(
        "alter table notes alter text type blob using encode(text || 'ä')"
    ),
    "ledger restored from before": restored,
    "ledger deleted": deleted,
    "ledger deleted with its guard": deleted_with_guard,
    "ledger emptied": emptied,
    "ledger damaged": damaged,
}
MENDED = ("ledger restored from before", "ledger deleted", "ledger deleted with its guard")


def first_night(house: House) -> None:
    house.nights().store.open()
    backup(house).rename(house.folder / "before.sqlite")
    house.nights().night()
    assert house.statuses() == {"answered": RECORDS} and house.paid == RECORDS


@pytest.mark.parametrize("change", CHANGES)
def test_it_goes_on_and_nothing_is_paid_again(house: House, change: str) -> None:
    first_night(house)
    run = house.nights(**CHANGES[change](house))
    partitions = run.pipeline.partitions
    for key in partitions.get_partition_keys() if partitions else [None]:
        run.night(key)
    assert house.paid == RECORDS and not house.paid_twice
    assert house.statuses() == {"answered": RECORDS}
    assert house.sql("select count(distinct id) from answers") == [(RECORDS,)]


@pytest.mark.parametrize("change", REFUSED)
def test_it_is_refused_before_any_money(house: House, change: str) -> None:
    first_night(house)
    run = house.nights(**REFUSED[change](house))
    said = house.refusal(run)
    assert any(word in said for word in ("allow_reask", "rebuild-ledger", "no key column"))
    run.tick()
    assert house.paid == RECORDS and len(house.emulator.batches()) == 1
    assert house.statuses() == {"answered": RECORDS}
    if change in MENDED:
        rebuild(open_store(str(house.root), lost=True))
        house.clock.advance(300)
        run.night()
        assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}
