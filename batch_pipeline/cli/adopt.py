"""The command `batch-pipeline adopt`: a batch that was made elsewhere joins a pipeline's table."""

import tempfile
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import in_project
from batch_pipeline.cli.output import (
    Row,
    confirm,
    errors_shown,
    in_usd,
    json_option,
    listing,
    print_json,
    say,
    warn,
)
from batch_pipeline.cli.preview import declared_as
from batch_pipeline.cli.preview_requests import one_variant, partition_of
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Declared, Project
    from batch_pipeline.results.adopt import Adoption, Known
    from batch_pipeline.results.fetch import Fetched
    from batch_pipeline.store.store import Store


@click.command(
    epilog="Exit code: 0 it is here, now or already; 1 an error, or the answer to the question was no; 2 wrong usage."
)
@click.argument("batch", metavar="BATCH")
@click.option("--pipeline", required=True, metavar="NAME", help="The pipeline whose records it asked about.")  # fmt: skip
@click.option(
    "--key-from", metavar="SQL",
    help="SQL over custom_id for the text of a record's key; by default custom_id is that text.",
)  # fmt: skip
@click.option(
    "--requests", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
    help="The requests that it was made of, as JSON lines; needed while it is in progress.",
)  # fmt: skip
@click.option("--partition", metavar="KEY", help="The partition; of time windows the last complete one when not given.")  # fmt: skip
@click.option("--variant", metavar="NAME", help="Which of the pipeline's variants it asked; needed where there are any.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Take it over without asking.")
@json_option("Print what was done as JSON.")
@errors_shown
@in_project
def adopt(
    project: "Project",
    batch: str,
    pipeline: str,
    key_from: str | None,
    requests: str | None,
    partition: str | None,
    variant: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Take over BATCH, which a script made or which was lost: its answers join the table of NAME. Nothing is sent.

    The records are stored as they are now: an answer counts as the answer to today's content and question.
    """
    from batch_pipeline.batches.whose import whose
    from batch_pipeline.definitions.assets.step import goes_on_with_old_name, question_of
    from batch_pipeline.definitions.partition import filter_of
    from batch_pipeline.definitions.question import bound
    from batch_pipeline.definitions.rows import source_of
    from batch_pipeline.definitions.variants import check_together
    from batch_pipeline.results import adopt as adoption
    from batch_pipeline.store.clock import process_clock
    from batch_pipeline.store.submissions import Scope
    from batch_pipeline.store.variants import partition_of as key_of
    from batch_pipeline.store.variants import scope_name

    one = declared_as(project, pipeline)
    asks = one_variant(one, variant)
    declared = one.pipeline.as_asked(asks)
    part = partition_of(one, partition, process_clock().now())
    store = one.store.open()
    goes_on_with_old_name(store, one.pipeline)
    check_together(store, one.pipeline)
    if (there := adoption.known(store, batch)) is not None:
        named = scope_name(part, asks) if partition else scope_name(key_of(there.partition), asks)
        _already(one, store, batch, there, named, as_json)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-pipeline-"))
        api = stack.enter_context(closing(one.claude.api()))
        scope = Scope(declared.name, scope_name(part, asks), whose(store, api))
        found = adoption.look(
            store,
            api.with_betas(declared.request.betas),
            adoption.Pipeline(
                scope,
                source_of(declared, store),
                lambda columns: bound(declared, columns),
                filter_of(declared, part),
                declared.max_attempts,
                question_of(declared),
            ),
            adoption.Wanted(batch, key_from, requests),
            folder,
        )
        if not as_json:
            _show(found, pipeline)
        confirm(_question(found, pipeline), yes, "Nothing was changed.")
        number = adoption.adopt(store, scope, found)
    fetched = _collect(one, store) if found.batch.ended else None
    if as_json:
        print_json(_as_json(pipeline, number, found, fetched))
        return
    say(f"{batch} is submission {number} of {pipeline} now.")
    _say_fetched(pipeline, fetched)


def _already(
    one: "Declared", store: "Store", batch: str, there: "Known", named: str, as_json: bool
) -> None:
    """Say where a batch is that the ledger has; one that was taken over and not collected is, now.

    ``named`` is the partition and variant that the command names.
    """
    from batch_pipeline.store.variants import shown

    name = one.pipeline.name
    of = f"{there.pipeline} {shown(there.partition)}".strip()
    where = f"submission {there.submission} of {of}, {there.state.replace('_', ' ')}"
    if not there.adopted or (there.pipeline, there.partition) != (name, named):
        made = "was taken over" if there.adopted else "was sent from here"
        raise InputError(
            f"{batch} {made}, and the ledger has it: {where} ({there.file}). Nothing was changed."
        )
    fetched = _collect(one, store) if there.state == "ended" else None
    if as_json:
        print_json({"batch": batch, "pipeline": name, "submission": there.submission, "already": True})  # fmt: skip
        return
    say(f"{batch} is here already: {where}. It counts once.")
    if there.state != "collected":
        _say_fetched(name, fetched)


def _collect(one: "Declared", store: "Store") -> "Fetched":
    """Collect and publish what has ended, as the collect job would."""
    from batch_pipeline.definitions.rows import destination_of
    from batch_pipeline.results.fetch import fetch

    declared = one.pipeline
    with closing(one.claude.api()) as api:
        return fetch(
            store,
            api,
            declared.name,
            one.claude.policy,
            declared.max_attempts,
            declared.source.keys,
            destination_of(declared, store),
            warn,
        )


def _show(found: "Adoption", pipeline: str) -> None:
    ended = found.batch.ended
    statuses = ", ".join(f"{count:,} {name}" for name, count in found.statuses.items())
    rows = [
        ("state", "ended" if ended else "in progress"),
        ("created", f"{found.batch.created_at:%Y-%m-%d %H:%M} UTC"),
        ("requests", f"{found.requests:,}"),
        (f"records of {pipeline}", f"{found.records:,}"),
        ("answered already", f"{found.answered_before:,}" if found.answered_before else ""),
        ("of no record", f"{found.unmatched:,}" if found.unmatched else ""),
        ("results", statuses),
        ("cost", in_usd(found.cost) if ended else ""),
    ]
    listing(f"The batch {found.batch.id}", ["", ""], [Row(row) for row in rows if row[1]])
    if found.unmatched:
        more = " ..." if found.unmatched > len(found.examples) else ""
        say(
            f"No record has the key of {counted(found.unmatched, 'request')}: {', '.join(found.examples)}{more}. Their "
            "results are kept with the others and are no rows; their cost counts."
        )
    if found.answered_before:
        say(
            f"{counted(found.answered_before, 'record')} are answered already: where the batch has an answer, it takes "
            "the place of that one."
        )
    if found.cost_unknown:
        say(f"Not in the cost: {counted(found.cost_unknown, 'request')} of unknown cost.")


def _question(found: "Adoption", pipeline: str) -> str:
    cost = f", {in_usd(found.cost)}," if found.cost is not None else ""
    return (
        f"Take it over: its {counted(found.records, 'answer')} count as answers to what {pipeline} asks today about these "
        f"records as they are now, and its cost{cost} as the pipeline's? Nothing is sent."
    )


def _say_fetched(pipeline: str, fetched: "Fetched | None") -> None:
    if fetched is None:
        say("The status sensor collects it when it has ended.")
        return
    rows = sum(one.rows for one in fetched.collected)
    say(f"{pipeline}: collected {counted(rows, 'row')}.")
    if fetched.published is not None:
        done = fetched.published
        say(
            f"Published into {fetched.table}: {done.inserted:,} inserted, {done.updated:,} updated."
        )
    for line in (*fetched.notes, *(line for one in fetched.collected for line in (*one.trouble, *one.broken))):  # fmt: skip
        say(f"{line.rstrip('.')}.")


def _as_json(
    pipeline: str, number: int, found: "Adoption", fetched: "Fetched | None"
) -> dict[str, Any]:
    return {
        "batch": found.batch.id,
        "pipeline": pipeline,
        "submission": number,
        "already": False,
        "state": "ended" if found.batch.ended else "in_progress",
        "requests": found.requests,
        "records": found.records,
        "answered_before": found.answered_before,
        "unmatched": found.unmatched,
        "unmatched_examples": found.examples,
        "statuses": found.statuses,
        "cost_usd": None if found.cost is None else float(found.cost),
        "cost_unknown": found.cost_unknown,
        "rows": sum(one.rows for one in fetched.collected) if fetched else 0,
    }
