"""The command `batch-pipeline publish`: put the results table right, from the store's files."""

from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    RefusedError,
    Row,
    errors_shown,
    json_option,
    listing,
    print_json,
    say,
)
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
    from batch_pipeline.results.publish import Published
    from batch_pipeline.store.store import Store


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="NAME")
@click.option("--all", "everything", is_flag=True, help="Write every row anew, also those that are there.")  # fmt: skip
@json_option("Print what was done as JSON.")
@errors_shown
@on_deployments(api=False)
def publish(deployments: Deployments, pipeline: str, everything: bool, as_json: bool) -> None:
    """Compare the results table of NAME with what it must hold, and put right what differs.

    All it takes is in the store: nothing is asked, and nothing is paid.
    """
    from batch_pipeline.results.publish import publish as publish_rows

    done: list[tuple[Store, str, Published]] = []
    for store in deployments.stores(pipeline):
        destination, key, names = destination_in(deployments, store, pipeline)
        report = publish_rows(store, pipeline, destination, key, names=names, everything=everything)
        done.append((store, destination.describe(), report))
    if as_json:
        print_json({"pipeline": pipeline, "tables": [_as_json(*one) for one in done]})
    else:
        _show(pipeline, done)
    if any(report.busy for _, _, report in done):
        raise RefusedError(
            f"Another process is writing the results of {pipeline}. What it leaves undone is done by "
            f"`batch-pipeline publish {pipeline}`, run again."
        )
    if any(_is_wrong(report) for _, _, report in done):
        raise SystemExit(WAITS_FOR_A_PERSON)


def destination_in(
    deployments: Deployments, store: "Store", pipeline: str
) -> "tuple[DuckDBTable | ParquetDataset, tuple[str, ...], tuple[str, ...]]":
    """Return a pipeline's table, the columns of its key, and what it was called earlier.

    Raises:
        InputError: only the code knows, and it is not here.
    """
    declared = deployments.declared.get(pipeline)
    if declared is not None:
        from batch_pipeline.definitions.rows import destination_of, earlier_names

        return destination_of(declared, store), declared.source.keys, earlier_names(declared)
    from batch_pipeline.results.destinations import ParquetDataset
    from batch_pipeline.store.layout import table_name

    kept = ParquetDataset(path=store.files.url(table_name(pipeline)))
    if key := kept.key():
        return kept, key, ()
    raise InputError(
        f"Where the results of {pipeline} go, and which columns are its key, stands in its code, which "
        f"is not here: the store {store.files.root} has no table of them. Run this in the project that "
        "declares the pipeline, without --store, or with --project DIR."
    )


def _is_wrong(report: "Published") -> bool:
    """Whether the table still is not what it must be: only a person can say why."""
    after = report.after
    return after is not None and bool(after.missing or after.doubled or after.unexpected)


def _as_json(store: "Store", table: str, report: "Published") -> dict[str, object]:
    before, after = report.before, report.after
    return {
        "store": store.files.root,
        "table": table,
        "busy": report.busy,
        "inserted": report.inserted,
        "updated": report.updated,
        "deleted": report.deleted,
        "lost": before.lost,
        "doubled": before.doubled,
        "came_back": before.back,
        "records": after.records if after else None,
        "missing": after.missing if after else None,
        "unexpected": after.unexpected if after else None,
    }


def _show(pipeline: str, done: "list[tuple[Store, str, Published]]") -> None:
    if not done:
        say(f"Nothing of {pipeline} was ever collected.")
        return
    listing(
        f"The results of {pipeline}",
        ["records", "inserted", "updated", "deleted", "table"],
        [
            Row(
                (
                    report.after.records if report.after else None,
                    report.inserted,
                    report.updated,
                    report.deleted,
                    table,
                ),
                (f"put right: {report.put_right}" if report.put_right else "",),
                _todo(pipeline, report),
            )
            for _, table, report in done
        ],
    )


def _todo(pipeline: str, report: "Published") -> str:
    after = report.after
    if after is None:
        return ""
    parts = []
    if after.missing or after.doubled:
        parts.append(
            f"{counted(after.missing, 'record has', 'records have')} no row, and the store does not have "
            f"it either: run {pipeline}_collect"
        )
    if after.unexpected:
        parts.append(
            f"{counted(after.unexpected, 'row is', 'rows are')} of no record of this store: delete them, "
            "or name another destination"
        )
    return "; ".join(parts)
