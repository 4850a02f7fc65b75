"""The command `batch-pipeline estimate`: what a run would cost now, before it is spent."""

import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import errors_shown, in_usd, json_option, print_json, say
from batch_pipeline.cli.preview import declared_as, open_api
from batch_pipeline.cli.preview_output import preview_json
from batch_pipeline.cli.preview_requests import Wanted, build_preview, wanted_variants
from batch_pipeline.errors import counted

if TYPE_CHECKING:
    from batch_pipeline.cli.preview_requests import Preview
    from batch_pipeline.cli.project import Project


@click.command(epilog="Exit code: 0 fine; 1 an error; 2 wrong usage.")
@click.argument("pipeline", metavar="NAME")
@click.option("--partition", metavar="KEY", help="The partition to look at; of time windows the last complete one when not given.")  # fmt: skip
@click.option("--variant", metavar="VARIANT", help="Only this variant; all of them when not given.")
@click.option("--where", metavar="SQL", help="Only records for which this condition holds, as in a run's config.")  # fmt: skip
@click.option("--force", is_flag=True, help="As a run with force: answered records, too.")
@json_option("Print it as JSON.")
@errors_shown
@in_project
def estimate(
    project: "Project",
    pipeline: str,
    partition: str | None,
    variant: str | None,
    where: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show what a run of NAME would cost now: expected, reserved, at most, and outside a batch.

    It reads only: no submission, no ledger row, no file is written. Tokens are counted by the API on a sample, at
    no cost.
    """
    one = declared_as(project, pipeline)
    store = used_store(one.store)
    with ExitStack() as stack:
        api, why_not = open_api(stack, one, needed=False)
        looked = []
        for name in wanted_variants(one, variant):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-pipeline-"))
            wanted = Wanted(partition, where, force, 1, name)
            looked.append(build_preview(one, store, api, why_not, wanted, folder))
    if as_json:
        documents = [
            {
                name: document[name]
                for name in ("pipeline", "partition", "variant", "asked", "estimate")
            }
            for document in map(preview_json, looked)
        ]
        print_json({"variants": documents} if looked[0].variant else documents[0])
        return
    for found in looked:
        _show(found)


def _show(found: "Preview") -> None:
    cost, asked = found.cost, found.records.asked
    pipeline = found.pipeline + (f", variant {found.variant}" if found.variant else "")
    if not asked:
        say(f"{pipeline}: nothing would be asked now, and nothing would be spent.")
        return
    say(f"{pipeline}: {counted(asked, 'record')} would be asked now, with {cost.said}.")
    if cost.usd_max is None:
        say(
            f"The batch price of {found.records.question.template.model} is not known: set BatchPipeline(prices={{...}})."
        )
        return
    history = (
        "answers as long as the earlier ones"
        if cost.likely
        else "answers of max_tokens: there are not 30 earlier ones yet"
    )
    say(f"expected       {in_usd(cost.usd_expected)}  ({history})")
    say(f"reserved       {in_usd(cost.usd_reserved)}")
    say(f"at most        {in_usd(cost.usd_max)}")
    say(f"synchronously  {in_usd(cost.usd_synchronous)}  (what is expected, outside a batch)")
    if found.late_said:
        say(found.late_said)
    if found.records.duplicates:
        say(
            f"Of the records, {found.records.duplicates:,} would ask what another one asks: that is asked once."
        )
    if cost.cache_by is not None:
        say(cost.cache_by.line)
    if found.weighed < found.records.requests:
        say(f"Going by the first {found.weighed:,}.")
