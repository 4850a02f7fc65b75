"""The command `batch-pipeline advise`: what would make a pipeline's nights cheaper, from its own figures."""

from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import errors_shown, json_option, print_json, say
from batch_pipeline.cli.preview import declared_as
from batch_pipeline.store.variants import variant_of

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Project


@click.command(epilog="Exit code: 0 fine; 1 an error; 2 wrong usage.")
@click.argument("pipeline", metavar="NAME")
@json_option("Print it as JSON.")
@errors_shown
@in_project
def advise(project: "Project", pipeline: str, as_json: bool) -> None:
    """Show what would make NAME's nights cheaper, and by how much: from its last settled submission.

    It reads only the store; neither the API nor the source is asked.
    """
    from batch_pipeline.results.advice import FEWEST, last_settled
    from batch_pipeline.results.advice import advise as found_in

    one = declared_as(project, pipeline)
    store = used_store(one.store)
    submission = None if store is None else last_settled(store, pipeline)
    if store is None or submission is None:
        advice, number = [], None
    else:
        declared = one.pipeline
        request = declared.as_asked(variant_of(submission["partition"])).request
        advice = found_in(store, request, declared.prices, submission, dedupe=declared.dedupe)
        number = submission["number"]
    if as_json:
        listed = [
            {
                "kind": a.kind,
                "said": a.said,
                "usd_a_month": None if a.usd_a_month is None else float(a.usd_a_month),
            }
            for a in advice
        ]
        print_json({"pipeline": pipeline, "submission": number, "advice": listed})
        return
    if number is None:
        say(f"{pipeline}: no submission is settled yet, so there are no figures.")
    elif not advice:
        say(
            f"{pipeline}: submission {number} shows nothing that would be cheaper otherwise (advice needs {FEWEST} answers)."
        )
    for a in advice:
        say(f"- {a.line}")
