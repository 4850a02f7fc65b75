"""The command `batch-pipeline collect`: fetch and publish what a pipeline has at the API, code or not."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    RefusedError,
    errors_shown,
    in_usd,
    json_option,
    print_json,
    say,
    warn,
)
from batch_pipeline.errors import counted

if TYPE_CHECKING:
    from batch_pipeline.results.fetch import Fetched
    from batch_pipeline.store.store import Store

ATTEMPTS = 3  # what BatchPipeline(max_attempts=...) is when nobody says so


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="NAME")
@click.option(
    "--key-column", "columns", multiple=True, metavar="COLUMN",
    help="Without the pipeline's code: the key's column, if it is asked for; repeat it for several.",
)  # fmt: skip
@json_option("Print what was done as JSON.")
@errors_shown
@on_deployments(api=True)
def collect(
    deployments: Deployments, pipeline: str, columns: tuple[str, ...], as_json: bool
) -> None:
    """Fetch what has ended of NAME at the API, and publish it; the pipeline's code may be gone. Nothing is sent.

    Without code the rows go into the Parquet table under the store. If earlier rows went elsewhere, they stay in the
    store, and that is said.
    """
    done = [
        _of_store(deployments, store, pipeline, columns) for store in deployments.stores(pipeline)
    ]
    if as_json:
        print_json({"pipelines": [_as_json(pipeline, one) for one in done]})
    else:
        for one in done:
            _show(pipeline, one)
    broken = [line for one in done for some in one.collected for line in some.broken]
    if broken:
        raise RefusedError(
            f"Of the files that have ended, {len(broken)} cannot be collected: {'; '.join(broken[:5])}. "
            "Bring the store's files back, then run this again."
        )
    if any(one.held or one.kept for one in done):
        raise SystemExit(WAITS_FOR_A_PERSON)


def _of_store(
    deployments: Deployments, store: "Store", pipeline: str, columns: tuple[str, ...]
) -> "Fetched":
    from batch_pipeline.results.fetch import fetch

    code = deployments.declared.get(pipeline)
    destination = None
    if code is not None:
        from batch_pipeline.definitions.rows import destination_of

        destination = destination_of(code, store)
    from batch_pipeline.results.fetch import Fetched

    found, errors = Fetched(), list[str]()
    for deployment, _ in deployments.work(store, pipeline):
        with deployment.api() as (api, policy):
            found = fetch(
                store,
                api,
                pipeline,
                policy,
                code.max_attempts if code is not None else ATTEMPTS,
                columns or deployments.keys.get(pipeline),
                destination,
                warn,
            )
        if not found.elsewhere:
            return found
        errors += found.elsewhere
    found.elsewhere = list(dict.fromkeys(errors))
    return found


def _show(pipeline: str, one: "Fetched") -> None:
    rows = sum(some.rows for some in one.collected)
    files = sum(len(some.files) for some in one.collected)
    if files:
        statuses = sum((Counter(some.statuses) for some in one.collected), Counter())
        shown = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        cost = in_usd(
            sum((some.cost_usd for some in one.collected), start=type(one.collected[0].cost_usd)(0))
        )
        say(
            f"{pipeline}: collected {counted(rows, 'row')} of {counted(files, 'file')} ({shown or 'no row'}), {cost}."
        )
    if one.published is not None:
        changed = one.published
        say(
            f"Published into {one.table}: {changed.inserted:,} inserted, {changed.updated:,} updated, "
            f"{changed.deleted:,} deleted."
        )
    for line in (*one.notes, *(line for some in one.collected for line in some.trouble)):
        say(f"{line.rstrip('.')}.")
    if one.kept:
        say(one.kept)
    if one.elsewhere:
        say(f"Left alone: {'; '.join(one.elsewhere)}.")
    if one.open:
        say(
            f"{counted(one.open, 'file is', 'files are')} still at the API, or to be fetched again: run this again later."
        )
    if one.ready:
        say(
            f"{counted(one.ready, 'file was', 'files were')} never sent, and this sends nothing: "
            f"`batch-pipeline cancel {pipeline}` gives them up."
        )
    if one.held:
        say(
            f"{counted(one.held, 'file is', 'files are')} held: `batch-pipeline held {pipeline}` says why, and what to do."
        )
    if not (
        files or one.published or one.open or one.ready or one.held or one.kept or one.elsewhere
    ):
        say(f"{pipeline}: nothing is at the API, and nothing waits to be published.")


def _as_json(pipeline: str, one: "Fetched") -> dict[str, Any]:
    statuses = sum((Counter(some.statuses) for some in one.collected), Counter())
    return {
        "pipeline": pipeline,
        "files": [name for some in one.collected for name in some.files],
        "rows": sum(some.rows for some in one.collected),
        "statuses": dict(statuses),
        "cost_usd": float(sum(some.cost_usd for some in one.collected)),
        "table": one.table,
        "inserted": one.published.inserted if one.published else 0,
        "updated": one.published.updated if one.published else 0,
        "deleted": one.published.deleted if one.published else 0,
        "kept_in_store": one.kept,
        "open": one.open,
        "not_sent": one.ready,
        "held": one.held,
        "left_alone": one.elsewhere,
        "trouble": [line for some in one.collected for line in (*some.trouble, *some.broken)],
    }
