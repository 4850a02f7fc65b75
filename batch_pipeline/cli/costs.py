"""The command `batch-pipeline costs`: what was sent, and what it cost."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.compare import compare
from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    Row,
    errors_shown,
    in_usd,
    json_option,
    listing,
    print_json,
    say,
)

if TYPE_CHECKING:
    from batch_pipeline.store.costs import Cost
    from batch_pipeline.store.store import Store

BY = ("day", "month", "model", "label", "pipeline", "variant", "submission", "batch")


@click.command(epilog="Exit code: 0 fine; 1 an error; 2 wrong usage.")
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option(
    "--by", type=click.Choice(BY), default="month", show_default=True,
    help="What to add up; days and months are of the sending, UTC.",
)  # fmt: skip
@click.option(
    "--since", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]),
    help="Only what was sent from this day on, UTC.",
)  # fmt: skip
@click.option("--csv", "csv_path", metavar="FILE", help="Write the table to a CSV file, too.")
@click.option("--parquet", "parquet_path", metavar="FILE", help="Or to a Parquet file.")
@click.option(
    "--compare", "beside_console", is_flag=True,
    help="Show the Console's figures beside the ledger's, by day; the admin key is ANTHROPIC_ADMIN_KEY.",
)  # fmt: skip
@json_option("Print it as JSON.")
@errors_shown
@on_deployments(api=True, unused=True)
def costs(
    deployments: Deployments,
    pipeline: str | None,
    by: str,
    since: datetime | None,
    csv_path: str | None,
    parquet_path: str | None,
    beside_console: bool,
    as_json: bool,
) -> None:
    """Show what all pipelines, or NAME, have sent and what it cost, from the ledger.

    Requests whose cost nobody knows are counted beside it.
    """
    from batch_pipeline.store import costs as ledger

    if beside_console:
        if pipeline or csv_path or parquet_path or by not in ("month", "day"):
            raise click.UsageError(
                "--compare is about all pipelines, by day: the Console knows no names. It takes --since and --json."
            )
        compare(deployments, since, as_json)
        return
    start = since.replace(tzinfo=UTC) if since else None
    stores = deployments.stores(pipeline)
    found = [(store, ledger.costs(store, pipeline, by=by, since=start)) for store in stores]
    rows = [_plain(store, by, one) for store, some in found for one in some]
    if csv_path:
        _write_csv(csv_path, by, rows)
    if parquet_path:
        _write_parquet(parquet_path, by, rows)
    if as_json:
        print_json({"by": by, "costs": rows})
        return
    if not rows:
        say("Nothing was sent.")
    for store, some in found:
        listing(*_table(store, by, [*some, *([ledger.total(some)] if len(some) > 1 else [])]))


def _table(
    store: "Store", by: str, some: "Sequence[Cost]"
) -> tuple[str, Sequence[str], Sequence[Row]]:
    columns = (by, "batches", "requests", "answered", "tokens in", "read", "written", "for 1h", "tokens out", "searches", "cost")  # fmt: skip
    rows = [
        Row(
            (
                one.name,
                f"{one.batches:,}",
                f"{one.requests:,}",
                f"{one.answered:,}",
                f"{one.input_tokens:,}",
                f"{one.cache_read_tokens:,}",
                f"{one.cache_write_tokens:,}",
                f"{one.cache_write_1h_tokens:,}" if one.cache_write_1h_tokens else "",
                f"{one.output_tokens:,}",
                f"{one.web_searches:,}" if one.web_searches else "",
                in_usd(one.cost_usd),
            ),
            tuple(_left(one)),
            None,
        )
        for one in some
    ]
    return f"What the pipelines of the store {store.files.root} cost", columns, rows


def _left(one: "Cost") -> Sequence[str]:
    said: list[str] = []
    if one.open:
        said.append(f"{one.open:,} requests are not collected yet.")
    if one.unknown:
        said.append(f"Not in the cost: {one.unknown:,} requests of unknown cost.")
    return said


def _plain(store: "Store", by: str, one: "Cost") -> dict[str, Any]:
    values = asdict(one)
    return {"store": store.files.root, by: values.pop("name"), **values} | {
        "cost_usd": float(one.cost_usd)
    }


def _write_csv(path: str, by: str, rows: Sequence[dict[str, Any]]) -> None:
    import csv

    from batch_pipeline.store.costs import Cost

    names = ["store", by, *list(asdict(Cost("")))[1:]]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: str, by: str, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from batch_pipeline.store.costs import Cost

    counts = [name for name in list(asdict(Cost("")))[1:] if name != "cost_usd"]
    schema = pa.schema(
        [("store", pa.string()), (by, pa.string())]
        + [(name, pa.int64()) for name in counts]
        + [("cost_usd", pa.float64())]
    )
    pq.write_table(pa.Table.from_pylist([*rows], schema), path)
