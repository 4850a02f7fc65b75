"""The command `batch-pipeline erase`: what the store and the table hold about a person, for good."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.history import key_values
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    Row,
    confirm,
    errors_shown,
    json_option,
    listing,
    print_json,
    say,
    warn,
)
from batch_pipeline.cli.publish import destination_in
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.results.erase import Erasure
    from batch_pipeline.store.store import Store

MOST_SHOWN = 5


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="NAME")
@click.argument("given", metavar="KEY...", nargs=-1, required=True)
@click.option(
    "--key-column", "columns", multiple=True, metavar="COLUMN",
    help="With --store: the key's column; repeat it for several, in the order of the source's key.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be erased, and change nothing.")
@click.option("--force", is_flag=True, help="Erase them although the source still has them.")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@json_option("Print what was erased as JSON.")
@errors_shown
@on_deployments(api=False)
def erase(
    deployments: Deployments,
    pipeline: str,
    given: tuple[str, ...],
    columns: tuple[str, ...],
    dry_run: bool,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase what NAME's store and table hold about the records KEY, for good: records, requests, answers, labels.

    What stays: hashes, the names of requests, tokens and costs, so that the books balance and nothing is asked or
    paid again. Remove the records from the source first. KEY is the key as text. Of several columns: a,b or, where a
    value has a comma, the JSON list ["a","b"].
    """
    from batch_pipeline.results.erase import erase as erase_keys

    stores = deployments.stores(pipeline)
    keys = columns or deployments.keys.get(pipeline, ())
    if not keys:
        raise click.UsageError(
            f"Which columns are the key of {pipeline} stands in its code, which is not here. Name them: --key-column COLUMN."
        )
    wanted = [key_values(key, len(keys)) for key in dict.fromkeys(given)]
    if strange := [one for one in wanted if len(one) != len(keys)]:
        raise InputError(
            f"The key of {pipeline} has {len(keys)} columns ({', '.join(keys)}), and {', '.join(strange[0])} has "
            f'{len(strange[0])} values: write them with commas between, or as JSON: ["a","b"]. Nothing was erased.'
        )
    there = {store.files.root: _in_source(deployments, store, pipeline, wanted) for store in stores}
    if (found := [key for keys in there.values() for key in keys or ()]) and not (force or dry_run):
        raise InputError(
            f"The source of {pipeline} still has {_named(found)}: remove them there first, or they come back, here or "
            "elsewhere. Nothing was erased. To erase here all the same: --force; no run asks about them then, except "
            "one with force: true."
        )
    if not dry_run:
        what = (
            f"the record {', '.join(wanted[0])}" if len(wanted) == 1 else f"{len(wanted)} records"
        )
        where = ", ".join(store.files.root for store in stores)
        confirm(
            f"Erase what {pipeline} holds about {what}, in {where} and in the results table? It cannot be undone.",
            yes,
            "Nothing was erased.",
        )
    done: list[tuple[Store, str, Erasure]] = []
    for store in stores:
        destination, _, names = destination_in(deployments, store, pipeline)
        report = erase_keys(store, pipeline, keys, wanted, destination, names=names, dry_run=dry_run)  # fmt: skip
        done.append((store, destination.describe(), report))
    readers = _readers(deployments, pipeline)
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                "dry_run": dry_run,
                "stores": [
                    {"store": store.files.root, "table": table, **asdict(report)}
                    | {"in_source": there[store.files.root]}
                    for store, table, report in done
                ],
                "read_by": readers,
            }
        )
    else:
        for store, table, report in done:
            _show(pipeline, store, table, report, there[store.files.root], dry_run)
        if readers:
            say(
                f"{' and '.join(readers)} read{'s' if len(readers) == 1 else ''} these results and may have records made "
                "from them: erase those there, too."
            )
    if any(report.busy for _, _, report in done):
        warn("Another process is writing the results table. Erase the same keys again when it is done.")  # fmt: skip
        raise SystemExit(WAITS_FOR_A_PERSON)


def _in_source(
    deployments: Deployments, store: "Store", pipeline: str, wanted: list[list[str]]
) -> list[list[str]] | None:
    """Return which keys the source still has; None when nobody can tell, because its code is not here."""
    declared = deployments.declared.get(pipeline)
    if declared is None:
        return None
    from batch_pipeline.definitions.rows import source_of
    from batch_pipeline.results.erase import in_source

    return in_source(source_of(declared, store), declared.source.keys, wanted)


def _readers(deployments: Deployments, pipeline: str) -> list[str]:
    """Return the names of pipelines whose source are this one's results."""
    from batch_pipeline.records.sources import ResultsSource

    return [
        name
        for name, one in deployments.declared.items()
        if isinstance(one.source, ResultsSource) and one.source.name == pipeline
    ]


def _show(
    pipeline: str,
    store: "Store",
    table: str,
    report: "Erasure",
    there: list[list[str]] | None,
    dry_run: bool,
) -> None:
    done = "Would be erased" if dry_run else "Erased"
    listing(
        f"{done} of {pipeline}: {_named(report.keys)}",
        ["submissions", "records", "rows", "requests", "answers", "labels", "rows of the table"],
        [
            Row(
                (
                    report.submissions,
                    report.records,
                    report.rows,
                    report.requests,
                    report.answers,
                    report.labels,
                    report.table_rows,
                ),
                (
                    f"store {store.files.root}, {table}",
                    _finished(report, dry_run),
                    _shared(report),
                    _source(there, dry_run),
                ),
            )
        ],
    )
    if dry_run:
        return
    say(
        "What stays are hashes, names of requests (which end with the key, where it is letters and digits), tokens and costs. "
        "Not reached from here: backups, exports, Dagster's own event log, and the free space of a DuckDB file, which keeps "
        "deleted rows until the database is copied into a new one. docs/howto/erase.md says how."
    )
    if report.batches:
        shown = ", ".join(report.batches[:MOST_SHOWN])
        more = f" and {len(report.batches) - MOST_SHOWN} more" if len(report.batches) > MOST_SHOWN else ""  # fmt: skip
        say(
            f"The API keeps the results of {counted(len(report.batches), 'batch', 'batches')} for 29 days after creation: "
            f"{shown}{more}. They can be deleted there sooner: client.messages.batches.delete(ID). Other records' answers in "
            "them could not be fetched again then; the store has them all."
        )


def _finished(report: "Erasure", dry_run: bool) -> str:
    if not report.finished or dry_run:
        return ""
    return "they were erased before; what was left of them is gone now"


def _shared(report: "Erasure") -> str:
    if not report.shared:
        return ""
    return (
        f"{counted(report.shared, 'request')} with the answer stays: other records, which are the same in all that was asked, "
        "need it"
    )


def _source(there: list[list[str]] | None, dry_run: bool) -> str:
    if there is None:
        return "whether the source still has them is not known here: the pipeline's code is not"
    if not there:
        return ""
    return f"the source still has {_named(there)}" + (
        ": remove them there first, or say --force"
        if dry_run
        else "; no run asks about them, except one with force: true"
    )


def _named(keys: list[list[str]]) -> str:
    shown = "; ".join(", ".join(one) for one in keys[:MOST_SHOWN])
    return shown + (f" and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else "")
