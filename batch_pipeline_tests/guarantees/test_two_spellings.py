"""Two spellings of one thing are one thing; what would ask most of a table again stops first."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import select

from batch_pipeline import DuckDBTable, ParquetDataset
from batch_pipeline.definitions.jobs import ask_config
from batch_pipeline.records import submission
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    Endpoint,
    add_endpoint,
    know_endpoint,
    known_endpoints,
)
from batch_pipeline.store.tables import endpoints, reservations, submissions
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House


def answered(house: House) -> bool:
    return house.statuses() == {"answered": RECORDS} and house.paid == RECORDS


# --- addresses


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("127.0.0.1", "localhost"),
        ("localhost", "LOCALHOST"),
        ("LocalHost", "127.0.0.1"),
    ],
)
def test_an_address_spelled_otherwise_is_the_same_endpoint(
    house: House, first: str, then: str
) -> None:
    house.nights(claude={"base_url": house.address(first)}).night()
    house.nights(claude={"base_url": house.address(then) + "/"}).night()
    assert answered(house)


def test_what_is_open_is_collected_under_another_spelling(house: House) -> None:
    house.emulator.configure(manual=True)
    house.nights(claude={"base_url": house.address("127.0.0.1")}).submit()
    house.emulator.end()
    house.nights(claude={"base_url": house.address("LOCALHOST")}).until_quiet()
    assert answered(house)


@only_whole
def test_an_endpoint_keeps_the_id_it_was_stored_with(house: House) -> None:
    spelled = house.address("LOCALHOST")
    house.nights(claude={"base_url": spelled}).night()
    house.nights(claude={"base_url": house.address("localhost")}).night()
    ledger = house.nights().store.open().ledger
    (row,) = ledger.rows(select(endpoints))
    assert row["base_url"] == spelled
    found = known_endpoints(ledger, house.address("127.0.0.1"))
    assert [one.id for one in found] == [row["id"]]
    assert row["id"] == Endpoint(spelled, row["organization"], row["workspace"]).id


def test_a_gateway_with_the_same_account_is_refused_and_declared_as_an_alias_it_counts(
    house: House,
) -> None:
    house.nights().night()
    gateway = house.emulator.base_url + "/gateway"
    house.emulator.configure(manual=False)
    # The account is what the replies name; another path stands for a gateway's address.
    ledger = house.nights().store.open().ledger
    with ledger.write() as tx:
        row = tx.execute(select(endpoints)).mappings().one()
        moved = Endpoint("https://gateway.example", row["organization"], row["workspace"])
        tx.execute(endpoints.update().values(base_url=moved.base_url, id=moved.id))
        tx.execute(submissions.update().values(endpoint_id=moved.id))
        tx.exec_driver_sql(f"update request_files set endpoint_id = '{moved.id}'")
    refused = house.refusal(house.nights())
    assert "aliases" in refused and "https://gateway.example" in refused
    assert gateway not in refused and house.paid == RECORDS
    house.nights(claude={"aliases": ["https://GATEWAY.example:443/"]}).night()
    assert answered(house)
    # And from the gateway's side, the public address counts as well.
    house.nights(claude={"aliases": ["https://gateway.example"]}).night()
    assert answered(house)


def test_work_of_two_addresses_becomes_the_work_of_one(house: House) -> None:
    """Asked at two addresses on purpose, and then declared to be one: all of it counts."""
    house.nights().night(limit=25)
    ledger = house.nights().store.open().ledger
    with ledger.write() as tx:
        row = tx.execute(select(endpoints)).mappings().one()
        moved = Endpoint("https://gateway.example", row["organization"], row["workspace"])
        tx.execute(
            endpoints.insert().values(
                id=moved.id,
                base_url=moved.base_url,
                organization=moved.organization,
                workspace=moved.workspace,
            )
        )
        tx.execute(submissions.update().values(endpoint_id=moved.id))
        for table in ("request_files", "reservations"):
            tx.exec_driver_sql(f"update {table} set endpoint_id = '{moved.id}'")
    house.nights().night(where="id >= 25", force=True)
    house.nights(claude={"aliases": ["https://gateway.example"]}).night()
    assert answered(house)
    # So does what was paid, for the caps of the endpoint.
    with ledger.read() as tx:
        here = tx.execute(select(submissions.c.endpoint_id).distinct()).scalar_one()
        paid = tx.execute(select(reservations)).mappings().all()
    assert len(paid) == 2 and {row["endpoint_id"] for row in paid} == {here}


def test_a_selection_that_runs_while_its_address_is_given_to_another_asks_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes: the old one, and one that declares its address as an alias of another."""
    run = house.nights()
    run.night(limit=5)
    store = run.store.open()
    here = Endpoint(**store.ledger.rows(select(*list(endpoints.c)[1:4]))[0])
    other = Endpoint("https://gateway.example", here.organization, here.workspace)
    with store.ledger.write() as tx:
        add_endpoint(tx, other)
        tx.execute(submissions.insert().values(**asked_first(store, other)))
    commit = submission.commit_selection

    def slowly(*given: Any, **more: Any) -> int | None:
        monkeypatch.undo()
        assert know_endpoint(store.ledger, other, [here.base_url]) == other
        return commit(*given, **more)

    monkeypatch.setattr(submission, "commit_selection", slowly)
    assert "aliases" in house.refusal(run)
    assert house.paid == 5


def asked_first(store: Store, there: Endpoint) -> dict[str, Any]:
    """Return a submission that was asked at another endpoint before the first one of the ledger."""
    row = dict(store.ledger.rows(select(submissions))[0])
    at = row["created_at"] - timedelta(days=1)
    changed = {"id": "0", "number": 900, "created_at": at, "endpoint_id": there.id}
    return row | changed | {"records_path": None, "index_path": None}


# --- keys


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [("ID", "duckdb"), ('"Id"', "duckdb"), ("ID", "parquet"), ('"id"', "store")],
)
def test_a_key_spelled_otherwise_is_the_same_key(house: House, spelled: str, kind: str) -> None:
    where: dict[str, Any] = {}
    if kind != "duckdb":
        path = str(house.folder / "answers")
        where["destination"] = ParquetDataset(path=path) if kind == "parquet" else None
    house.nights(key="id", **where).night()
    run = house.nights(key=spelled, **where)
    house.sql("insert into notes values (900, 'one more', 0)")
    run.night()
    assert house.paid == RECORDS + 1 and not house.paid_twice
    house.sql("update notes set text = 'changed' where id = 3")
    run.night()
    rows = house.nights(key="id", **where).rows()
    assert len(rows) == RECORDS + 1 and rows[3]["text"] == "changed"
    house.nights(key="id", **where).night()
    assert house.paid == RECORDS + 2 and not house.paid_twice


@only_whole
def test_a_store_whose_key_was_declared_in_capitals_is_gone_on_with(house: House) -> None:
    """Its hashes hold the spelling of then."""
    house.nights(key="ID").night()
    for spelled in ("id", "ID", "Id", '"iD"'):
        house.nights(key=spelled).night()
    assert answered(house)


@only_whole
def test_a_key_of_several_columns_in_another_order_is_the_same_key(house: House) -> None:
    house.sql('alter table notes rename id to "order id"')
    house.nights(key=["order id", "part"]).night()
    house.nights(key=["PART", '"Order ID"']).night()
    assert answered(house)


@only_whole
def test_a_column_of_the_source_may_change_its_case(house: House) -> None:
    house.nights().night()
    house.sql("alter table notes rename id to ID_", "alter table notes rename ID_ to ID")
    house.nights().night()
    assert answered(house)


# --- the guard


def rekeyed(house: House) -> dict[str, Any]:
    house.sql("alter table notes add column code varchar", "update notes set code = 'c' || id")
    return {"key": "code", "destination": DuckDBTable(database=house.warehouse, table="other")}


def test_a_renamed_key_stops_before_anything_is_sent(house: House) -> None:
    house.nights().night()
    assert "the key (code)" in house.refusal(house.nights(**rekeyed(house)))
    assert house.paid == RECORDS


def test_a_key_column_of_another_type_stops(house: House) -> None:
    house.nights().night()
    house.sql("alter table notes alter id type double")
    refused = house.refusal(house.nights())
    assert "`id` was INTEGER and is DOUBLE" in refused and house.paid == RECORDS


@only_whole
def test_a_key_of_a_wider_type_is_the_same_key(house: House) -> None:
    house.nights().night()
    house.sql("alter table notes alter id type bigint")
    house.nights().night()
    house.sql("alter table notes alter id type varchar")
    assert not house.refusal(house.nights())
    assert house.paid == RECORDS


@only_whole
def test_a_content_column_of_another_type_stops(house: House) -> None:
    prompt = {"prompt": "Sort {{ part }} {{ text }}"}
    house.nights(prompt).night()
    house.sql("alter table notes alter part type double")
    refused = house.refusal(house.nights(prompt))
    assert "`part` was BIGINT and is DOUBLE" in refused and house.paid == RECORDS
    house.nights(prompt).night(allow_reask=True)
    assert house.paid == 2 * RECORDS


def test_most_contents_changed_stops_and_a_few_do_not(house: House) -> None:
    house.nights().night()
    house.sql("update notes set text = text || '!' where id < 20")
    house.nights().night()
    assert house.paid == RECORDS + 20
    house.sql("update notes set text = text || '?'")
    assert "has changed" in house.refusal(house.nights())
    assert "has changed" in house.refusal(house.nights(), limit=1)
    assert house.paid == RECORDS + 20


@only_whole
def test_force_a_changed_question_and_new_records_do_not_stop(house: House) -> None:
    house.nights().night()
    house.nights().night(force=True)
    assert house.paid == 2 * RECORDS
    house.nights({"prompt": "Weigh {{ text }}"}).night()
    assert house.paid == 3 * RECORDS
    house.nights({"prompt": "Weigh {{ text }} of {{ part }}"}).night()
    assert house.paid == 4 * RECORDS
    house.sql("insert into notes select id + 1000, text || ' more', part from notes")
    house.nights({"prompt": "Weigh {{ text }} of {{ part }}"}).night()
    assert house.paid == 5 * RECORDS
    # A window that moves on: all records are new, and none of them was asked before.
    house.sql("update notes set id = id + 5000, text = text || ' of today'")
    house.nights({"prompt": "Weigh {{ text }} of {{ part }}"}).night()
    assert house.paid == 7 * RECORDS


@only_whole
def test_a_small_table_does_not_stop(house: House) -> None:
    house.sql("delete from notes where id >= 9")
    house.nights().night()
    house.sql("update notes set text = text || '!'")
    house.nights().night()
    assert house.paid == 18


def move_away(house: House) -> None:
    """Let the ledger say that all was asked at another address, of which no account is known."""
    ledger = house.nights().store.open().ledger
    with ledger.write() as tx:
        moved = Endpoint("https://gateway.example", "", "")
        tx.execute(
            endpoints.update().values(
                base_url=moved.base_url, organization="", workspace="", id=moved.id
            )
        )
        tx.execute(submissions.update().values(endpoint_id=moved.id))
        tx.exec_driver_sql(f"update request_files set endpoint_id = '{moved.id}'")


def in_partitions(*names: str) -> dict[str, Any]:
    return {"partitions": dg.StaticPartitionsDefinition(names), "partition_column": "part"}


def test_another_address_without_an_account_stops(house: House) -> None:
    house.nights().night()
    move_away(house)
    refused = house.refusal(house.nights())
    assert "at another address" in refused and "aliases" in refused
    assert house.paid == RECORDS
    house.nights(claude={"aliases": ["https://gateway.example"]}).night()
    assert answered(house)


@only_whole
@pytest.mark.parametrize("change", ["type", "columns", "names", "address"])
def test_small_partitions_are_counted_together(house: House, change: str) -> None:
    house.sql("alter table notes alter part type varchar")
    fields = in_partitions("0", "1", "2", "3")
    run = house.nights(**fields)
    for part in ("0", "1", "2", "3"):
        run.night(part)
    key: str | list[str] = "id"
    said = "the key"
    if change == "type":
        house.sql("alter table notes alter id type double")
    elif change == "columns":
        key = ["id", "part"]
    elif change == "names":
        house.sql("update notes set id = id + 1000")
    else:
        move_away(house)
        said = "at another address"
    run = house.nights(key=key, **fields)
    for part in ("0", "3"):
        refused = house.refusal(run, part)
        assert "40 of 40 answered records of all partitions" in refused and said in refused, refused
    assert house.paid == RECORDS
    run.run("submit", ask_config(run.pipeline, allow_reask=True), "0")
    assert house.paid == RECORDS + 10


@only_whole
def test_a_small_partition_that_changed_does_not_stop(house: House) -> None:
    house.sql("alter table notes alter part type varchar")
    fields = in_partitions("0", "1", "2", "3")
    run = house.nights(**fields)
    for part in ("0", "1", "2", "3"):
        run.night(part)
    house.sql("update notes set text = text || '!' where part = '0'")
    run.night("0")
    # And one whose records have other keys, with the same content, while the others stay.
    house.sql("update notes set id = id + 1000 where part = '1'")
    run.night("1")
    assert house.paid == RECORDS + 20


@only_whole
def test_another_workspace_is_called_one(house: House) -> None:
    house.emulator.configure(keys={"first": "ws1", "second": "ws2"})
    house.nights(claude={"api_key": "first"}).night()
    second = house.nights(claude={"api_key": "second"})
    second.night(force=True, limit=3)
    refused = house.refusal(second)
    assert "another workspace" in refused and "ws1" in refused and "api_key" in refused
    assert "another address" not in refused and "aliases" not in refused
    assert house.paid == RECORDS + 3


@only_whole
def test_a_partition_stops_by_itself_and_takes_allow_reask_the_long_way(house: House) -> None:
    house.sql("update notes set part = id % 2", "alter table notes alter part type varchar")
    fields = in_partitions("0", "1")
    run = house.nights(**fields)
    for part in ("0", "1"):
        run.night(part)
    assert house.paid == 40
    house.sql("update notes set text = text || '!' where part = '0'")
    run.night("1")
    assert house.paid == 40
    assert "notes 0: 20 of 20" in house.refusal(run, "0")
    run.run("submit", ask_config(run.pipeline, allow_reask=True), "0")
    run.until_quiet()
    assert house.paid == 60
