"""What came out of a night: the joined tables, how good the answers are, and the bill."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb

from batch_pipeline.demo.bill import bill, emulators_bill, total
from batch_pipeline.demo.packages import accuracy_of, overall
from batch_pipeline.demo.places import Places
from batch_pipeline.demo.screen import Screen, dollars
from batch_pipeline.demo.warehouse import connect
from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.results.destinations import ParquetDataset
from batch_pipeline.store.store import Store

Execute = Callable[..., Any]

SHOWN_INVOICES = 12
SHOWN_PACKAGES = 8
INVOICES = """
    select answers.*, coalesce(needs_manager, false) as manager,
        format('{:,.0f} {}', answers.amount, answers.currency) as "amount "
    from invoice_answers as answers left join invoice_approvals using (invoice_id)
    order by invoice_id limit ?"""
INVOICE_WIDTHS = {
    "invoice_id": 10,
    "supplier": 22,
    "description": 48,
    "department": 10,
    "amount ": 12,
    "manager": 7,
    "_status": 8,
}
PACKAGES = """
    select * from read_parquet(?) where _status = 'answered' order by package limit ?"""
PACKAGE_WIDTHS = {
    "package": 28,
    "summary": 48,
    "section": 12,
    "predicted_section": 17,
    "_status": 8,
}


def show_invoices(screen: Screen, places: Places) -> None:
    """Show the first rows of the invoices' table, if there is one."""
    with connect(places["warehouse"]) as warehouse:
        if not _has_table(warehouse, "invoice_approvals"):
            return
        rows = _rows(warehouse.execute, INVOICES, [SHOWN_INVOICES])
        title = _counted(len(rows), warehouse.execute, "invoice_answers")
    screen.head("Invoices: DuckDB table invoice_answers")
    screen.table(title, rows, INVOICE_WIDTHS)


def show_packages(screen: Screen, places: Places) -> None:
    """Show some rows of the packages' dataset and how many answers are right, if there is one."""
    files = ParquetDataset(path=places.sections).files()
    if not files:
        return
    with duckdb.connect() as connection:
        rows = _rows(connection.execute, PACKAGES, [files, SHOWN_PACKAGES])
        title = _counted(len(rows), connection.execute, "read_parquet(?)", [files])
    screen.head(f"Packages: Parquet dataset {places.sections}")
    screen.table(title, rows, PACKAGE_WIDTHS)
    sections = accuracy_of(places)
    screen.accuracy(sections, overall(sections))
    if not places.live:
        screen.say("(The emulator counts words in common; it asks no model.)", "dim")


def show_bill(
    screen: Screen,
    store: Store,
    emulator: EmulatorProcess | None,
    sent_before: Mapping[str, int],
) -> None:
    """Show what was sent and paid.

    Args:
        screen: where to.
        store: whose ledger says it.
        emulator: the one that was asked; None when the real API was.
        sent_before: how many requests each pipeline had sent before this night.
    """
    bills = [bill(store, name) for name in sent_before]
    all_of_it = total(bills)
    screen.head("Bill")
    screen.bills(bills, all_of_it)
    if emulator is not None:
        count, usd = emulators_bill(emulator, all_of_it.batch_ids)
        same = (count, usd) == (all_of_it.charged, all_of_it.usd)
        screen.say(
            f"The emulator's own bill {'agrees' if same else 'differs'}: {count:,} requests "
            f"charged, {dollars(usd)}.",
            "green" if same else "yellow",
        )
    sent = sum(one.requests - sent_before[one.name] for one in bills)
    if sent:
        screen.say(f"{sent:,} requests were sent in this run.", "bold")
    else:
        screen.say("Nothing needs an answer: 0 requests were sent in this run.", "bold green")


def _counted(shown: int, execute: Execute, table: str, values: Sequence[Any] = ()) -> str:
    """Return a title that says what became of every record of a results table."""
    query = f"select _status, count(*) as n from {table} group by all order by n desc"
    statuses = _rows(execute, query, values)
    parts = ", ".join(f"{row['n']:,} {row['_status']}" for row in statuses)
    return f"{shown} of {sum(row['n'] for row in statuses):,} rows ({parts})"


def _has_table(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    query = "select count(*) as n from duckdb_tables() where table_name = ?"
    return bool(_rows(connection.execute, query, [table])[0]["n"])


def _rows(execute: Execute, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    cursor = execute(query, list(values))
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
