"""The command `batch-pipeline reconcile`: settle now what the status sensor would settle in time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    WAITS_FOR_A_PERSON,
    RefusedError,
    Row,
    errors_shown,
    fields_of,
    json_option,
    listing,
    print_json,
    say,
)
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store.variants import shown

if TYPE_CHECKING:
    from batch_pipeline.batches.settle import Line, Settlement
    from batch_pipeline.store.store import Store


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="[NAME]", required=False)
@json_option("Print the list as JSON.")
@errors_shown
@on_deployments(api=True)
def reconcile(deployments: Deployments, pipeline: str | None, as_json: bool) -> None:
    """Look at the API, and settle what is open or held, of all pipelines or of NAME.

    A file whose reply was lost is looked for in the API's batch list. Nothing is sent: what is found to be due, the
    status sensor has sent and collected.
    """
    settled, errors = settle_stores(deployments, deployments.stores(pipeline), pipeline)
    if as_json:
        _print_settled_json(settled, errors)
    elif settled or not errors:
        show_settled(settled)
    if errors:
        raise RefusedError("\n".join(errors))
    if any(one.waits_for_a_person for _, one in settled):
        raise SystemExit(WAITS_FOR_A_PERSON)


def settle_stores(
    deployments: Deployments, stores: "list[Store]", pipeline: str | None
) -> "tuple[list[tuple[Store, Settlement]], list[str]]":
    """Settle some stores; return what came out, and the errors of what could not be settled."""
    from batch_pipeline.batches.settle import Settlement, settle

    settled, errors = [], []
    for store in stores:
        parts: list[Settlement] = []
        for deployment, names in deployments.work(store, pipeline):
            try:
                with deployment.api() as (api, policy):
                    parts.extend(settle(store, api, policy, name) for name in names)
            except BatchPipelineError as error:
                errors.append(f"Not settled in the store {store.files.root}: {error}")
        if parts:
            # What waits for a person comes first. A file that several APIs were asked about is shown
            # by the one that has nothing to complain of: it is its own.
            lines = [line for part in parts for line in part.lines]
            lines.sort(key=lambda line: line.todo is None)
            lines = [_without_jobs(line, deployments.is_codeless) for line in lines]
            once = {(line.pipeline, line.file): line for line in lines}
            notes = dict.fromkeys(note for part in parts for note in part.notes)
            costs = dict.fromkeys(cost for part in parts for cost in part.costs_unknown)
            settled.append((store, Settlement([*once.values()], [*notes], [*costs])))
    return settled, errors


def _without_jobs(line: "Line", codeless: Callable[[str], bool]) -> "Line":
    """Of a pipeline whose code is gone, say who does what: there is no job and no sensor."""
    if not codeless(line.pipeline) or line.state not in ("ready", "ended", "unknown"):
        return line
    why = {
        "ready": f"no code sends it any more; `batch-pipeline cancel {line.pipeline}` gives it up",
        "ended": f"`batch-pipeline collect {line.pipeline}` takes its answers",
        "unknown": f"{line.why}; `batch-pipeline collect {line.pipeline}` takes its answers",
    }[line.state]
    return replace(line, why=why)


def show_settled(settled: Sequence[tuple["Store", "Settlement"]]) -> None:
    """Print what is open or held in some stores, what was done about it, and which costs are unknown."""
    if not any(one.lines for _, one in settled):
        say("Nothing is open, and nothing is held.")
    for store, one in settled:
        listing(
            f"Open or held in the store {store.files.root}",
            ["pipeline", "partition", "requests", "now", "file"],
            [
                Row(
                    (
                        line.pipeline,
                        shown(line.partition),
                        line.requests or None,
                        line.state,
                        line.file,
                    ),
                    (
                        f"batch {line.batch_id}" if line.batch_id else "",
                        f"done now: {line.did}" if line.did else "",
                        line.why.removeprefix(f"{line.file}: "),
                    ),
                    line.todo,
                )
                for line in one.lines
            ],
        )
        listing("Seen at the API", [""], [Row((note,)) for note in one.notes])
        listing(
            "Requests that may have been paid, and whose cost is unknown",
            ["pipeline", "requests", "batch", "file"],
            [
                Row((cost.pipeline, cost.requests, cost.batch_id, cost.file), (cost.why,))
                for cost in one.costs_unknown
            ],
        )


def _print_settled_json(
    settled: Sequence[tuple["Store", "Settlement"]], errors: Sequence[str]
) -> None:
    """Print the same as JSON, with what could not be settled."""
    kinds = {"files": "lines", "costs_unknown": "costs_unknown"}
    found: dict[str, Any] = {
        name: [
            {"store": store.files.root, **fields_of(line)}
            for store, one in settled
            for line in getattr(one, kind)
        ]
        for name, kind in kinds.items()
    }
    notes = [note for _, one in settled for note in one.notes]
    print_json({**found, "notes": notes, "errors": list(errors)})
