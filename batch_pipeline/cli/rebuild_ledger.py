"""The command `batch-pipeline rebuild-ledger`: make a lost ledger anew."""

from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, is_empty, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    Row,
    confirm,
    errors_shown,
    listing,
    say,
)
from batch_pipeline.cli.reconcile import settle_stores, show_settled

if TYPE_CHECKING:
    from batch_pipeline.results.rebuild import Rebuilt
    from batch_pipeline.store.store import Store


@click.command("rebuild-ledger", epilog=DECISION_EXIT_CODES)
@click.option("--yes", is_flag=True, help="Rebuild without asking.")
@errors_shown
@on_deployments(api=True, lost=True)
def rebuild_ledger(deployments: Deployments, yes: bool) -> None:
    """Make a lost ledger anew, from the store's files and the API's batch list.

    Nothing is bought again: a file without kept answers is looked for in the API's list first.
    """
    from batch_pipeline.results.rebuild import rebuild

    stores = deployments.stores()
    if len(stores) > 1:
        stores = [store for store in stores if is_empty(store)] or stores
    skipped: list[str] = []
    for store in stores:
        question = f"Rebuild the ledger {store.ledger.shown} from the files of the store {store.files.root}?"
        confirm(question, yes, "Nothing was rebuilt.")
        rebuilt = rebuild(store)
        _show_rebuilt(store, rebuilt)
        skipped += rebuilt.skipped
    settled, errors = settle_stores(deployments, stores, None)
    show_settled(settled)
    for error in errors:
        say(f"{error} Put that right, then: batch-pipeline reconcile")
    say(
        "The status sensors go on from here: kept answers are collected, and a file that the API's list does not have "
        "is sent again, or held if on_unknown says so. `batch-pipeline reconcile` shows how far that is."
    )
    if errors or skipped or any(one.waits_for_a_person for _, one in settled):
        raise SystemExit(WAITS_FOR_A_PERSON)


def _show_rebuilt(store: "Store", rebuilt: "Rebuilt") -> None:
    """Print what a rebuilt ledger knows, and what could not be read."""
    listing(
        f"Rebuilt the ledger of the store {store.files.root}",
        [""],
        [Row((line,)) for line in rebuilt.lines],
    )
