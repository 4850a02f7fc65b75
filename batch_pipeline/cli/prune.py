"""The command `batch-pipeline prune`: delete requests and answers that are old."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    Row,
    confirm,
    errors_shown,
    json_option,
    listing,
    print_json,
    say,
)
from batch_pipeline.errors import InputError

if TYPE_CHECKING:
    from batch_pipeline.results.prune import Pruned
    from batch_pipeline.store.store import Store

MOST_SHOWN = 10


@click.command(epilog="Exit code: 0 done, or nothing to do; 1 an error; 2 wrong usage.")
@click.argument("pipeline", metavar="NAME")
@click.option(
    "--keep-days", "days", metavar="N", type=click.IntRange(min=1),
    help="Keep the last N days; by default what BatchStore(keep_days=...) says.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@json_option("Print what was deleted as JSON.")
@errors_shown
@on_deployments(api=False)
def prune(
    deployments: Deployments,
    pipeline: str,
    days: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete NAME's requests and answers that are old. Records, rows, index and ledger stay.

    Nothing is asked or paid again by it, and no row is lost. What goes is the second copy of the answers.
    """
    from batch_pipeline.results.prune import prune as prune_files

    declared = deployments.declared.get(pipeline)
    most = declared.max_attempts if declared is not None else None
    done: list[tuple[Store, Pruned]] = []
    for store in deployments.stores(pipeline):
        keep = days or store.keep_days
        if keep is None:
            raise InputError(
                "All requests and answers are kept for ever, unless somebody says otherwise: --keep-days N, or "
                "BatchStore(keep_days=N) in the code. Nothing was deleted."
            )
        if not dry_run:
            confirm(
                f"Delete the requests and answers of {pipeline} in {store.files.root} that are older than {keep} days?",
                yes,
                "Nothing was deleted.",
            )
        done.append((store, prune_files(store, pipeline, keep, max_attempts=most, dry_run=dry_run)))
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                "dry_run": dry_run,
                "stores": [{"store": store.files.root, **asdict(found)} for store, found in done],
            }
        )
        return
    for store, found in done:
        _show(pipeline, store, found, dry_run)


def _show(pipeline: str, store: "Store", found: "Pruned", dry_run: bool) -> None:
    if not found.files and not found.kept:
        say(
            f"{pipeline} has no requests and answers from before {found.before:%Y-%m-%d %H:%M} UTC."
        )
        return
    kept = found.kept[:MOST_SHOWN]
    more = len(found.kept) - len(kept)
    listing(
        f"{'Would be deleted' if dry_run else 'Deleted'} of {pipeline}, from before {found.before:%Y-%m-%d %H:%M} UTC",
        ["submissions", "files", "megabytes", "store"],
        [
            Row(
                (found.submissions, found.files, f"{found.bytes / 1e6:,.1f}", store.files.root),
                (
                    *(f"stays: {reason}" for reason in kept),
                    f"and {more:,} more submissions stay" if more else "",
                ),
            )
        ],
    )
