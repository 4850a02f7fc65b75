"""The command `batch-pipeline held`: what waits for a person, and what they decide."""

import getpass
import socket
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    Row,
    errors_shown,
    fields_of,
    in_usd,
    json_option,
    listing,
    plain,
    print_json,
    say,
)
from batch_pipeline.store.variants import shown

if TYPE_CHECKING:
    from batch_pipeline.batches.held import Held
    from batch_pipeline.store.store import Store


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option(
    "--resend", "resent", multiple=True, metavar="FILE", help="Send this held file again."
)
@click.option(
    "--drop",
    "dropped",
    multiple=True,
    metavar="FILE",
    help="Give it up; its records are asked anew.",
)
@click.option(
    "--release",
    "released",
    is_flag=True,
    help="Let the held pipeline NAME send again, and what a budget holds of it, once.",
)
@json_option("Print the list as JSON.")
@errors_shown
@on_deployments(api=False)
def held(
    deployments: Deployments,
    pipeline: str | None,
    resent: tuple[str, ...],
    dropped: tuple[str, ...],
    released: bool,
    as_json: bool,
) -> None:
    """List what waits for a person to decide, of all pipelines or of NAME; or decide it."""
    from batch_pipeline.batches.held import drop, list_held, release, resend

    decides = bool(resent or dropped or released)
    if as_json and decides:
        raise click.UsageError("--json lists; it does not go with a decision.")
    if released and pipeline is None:
        raise click.UsageError("--release needs the name of the pipeline.")
    stores = deployments.stores(pipeline)
    found = [(store, list_held(store, pipeline)) for store in stores]
    if not decides:
        _show_held(found, as_json)
        if any(held.waits_for_a_person for _, held in found):
            raise SystemExit(WAITS_FOR_A_PERSON)
        return
    holding = {file.id: store for store, held in found for file in held.files}
    for file in resent:
        resend(holding.get(file, stores[0]), file)
        click.echo(f"{file} is ready; its status sensor has it sent.")
    for file in dropped:
        drop(holding.get(file, stores[0]), file)
        click.echo(
            f"{file} is given up; its records are asked anew, as far as max_attempts allows."
        )
    if released and pipeline is not None:
        holders = [store for store, held in found if held.pipelines or held.submissions]
        refused = any(held.pipelines for _, held in found)
        for store in holders or stores[:1]:
            for one in release(store, pipeline, _who()):
                click.echo(f"Let through once: {plain(one.reason)}.")
        again = " It is held again if the API still refuses." if refused else ""
        click.echo(f"{pipeline} is released; its status sensor has it sent.{again}")


def _show_held(found: Sequence[tuple["Store", "Held"]], is_json: bool) -> None:
    """Print what is held in some stores, and how a person decides."""
    if is_json:
        print_json(
            {
                kind: [
                    {"store": store.files.root, **fields_of(one)}
                    for store, held in found
                    for one in getattr(held, kind)
                ]
                for kind in ("pipelines", "submissions", "files")
            }
        )
        return
    if not any(held.files or held.pipelines or held.submissions for _, held in found):
        say("Nothing is held.")
    for store, held in found:
        listing(
            f"Held pipelines of the store {store.files.root}",
            ["pipeline", "API"],
            [
                Row(
                    (one.pipeline, one.base_url),
                    (f"since {_moment(one.since)}: {one.error}",),
                    one.todo,
                )
                for one in held.pipelines
            ],
        )
        listing(
            f"Submissions that a budget holds, of the store {store.files.root}",
            [
                "pipeline",
                "partition",
                "submission",
                "requests",
                "cap",
                "spent",
                "reserved",
                "this one",
            ],
            [
                Row(
                    (
                        one.pipeline,
                        shown(one.partition),
                        one.number,
                        one.requests,
                        _usd(one.cap_usd),
                        _usd(one.spent_usd),
                        _usd(one.reserved_usd),
                        _usd(one.asked_usd),
                    ),
                    (f"since {_moment(one.since)}: {one.reason}",),
                    one.todo if one.waits_for_a_person else None,
                )
                for one in held.submissions
            ],
        )
        listing(
            f"Held files of the store {store.files.root}",
            ["pipeline", "partition", "requests", "file"],
            [
                Row(
                    (one.pipeline, shown(one.partition), one.requests, one.id),
                    (f"since {_moment(one.since)}: {one.error}",),
                    one.todo,
                )
                for one in held.files
            ],
        )


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "a time unknown"


def _usd(usd: float | None) -> str:
    return in_usd(None if usd is None else Decimal(str(usd)))


def _who() -> str:
    """Return who says so, for the ledger: the user of this machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        user = "an unknown user"
    return f"{user} on {socket.gethostname()}"
