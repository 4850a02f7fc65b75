"""The command `batch-pipeline preview`: the requests that a run would send now, their size and price."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import (
    WAITS_FOR_A_PERSON,
    RefusedError,
    confirm,
    errors_shown,
    in_usd,
    json_option,
    print_json,
    say,
    warn,
)
from batch_pipeline.cli.preview_output import (
    answers_json,
    preview_json,
    show_answers,
    show_preview,
)
from batch_pipeline.cli.preview_requests import (
    Answered,
    Preview,
    Shown,
    Wanted,
    build_preview,
    wanted_variants,
)
from batch_pipeline.errors import BatchPipelineError, InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.cli.project import Declared, Project

MOST = 100


@click.command(
    epilog="Exit code: 0 fine; 1 an error, or the answer to the question was no; 2 wrong usage; 3 a record cannot be "
    "asked, or with --send: was not answered."
)
@click.argument("pipeline", metavar="NAME")
@click.option(
    "-n", "number", type=click.IntRange(1, MOST), default=5, show_default=True,
    help="How many requests to show, the first ones by key.",
)  # fmt: skip
@click.option("--partition", metavar="KEY", help="The partition to look at; of time windows the last complete one when not given.")  # fmt: skip
@click.option("--variant", metavar="VARIANT", help="Only this variant; all of them when not given.")
@click.option("--where", metavar="SQL", help="Only records for which this condition holds, as in a run's config.")  # fmt: skip
@click.option("--force", is_flag=True, help="As a run with force: answered records, too.")
@click.option("--send", is_flag=True, help="Ask these requests now, through the Messages API, at full price.")  # fmt: skip
@click.option("--yes", is_flag=True, help="With --send: spend the money without asking.")
@json_option("Print it as JSON.")
@errors_shown
@in_project
def preview(
    project: "Project",
    pipeline: str,
    number: int,
    partition: str | None,
    variant: str | None,
    where: str | None,
    force: bool,
    send: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Show the first requests that a run of NAME would send now, their tokens and their price.

    It reads only: no submission, no ledger row, no file is written.
    """
    if yes and not send:
        raise click.UsageError("--yes goes with --send.")
    one = declared_as(project, pipeline)
    store = used_store(one.store)
    documents: list[dict[str, Any]] = []
    answers: list[Answered] = []
    failed: str | None = None
    unasked = False
    names = wanted_variants(one, variant)
    with ExitStack() as stack:
        api, why_not = open_api(stack, one, needed=send)
        for name in names:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-pipeline-"))
            wanted = Wanted(partition, where, force, number, name)
            found = build_preview(one, store, api, why_not, wanted, folder)
            if not as_json:
                show_preview(found, sends=send)
            unasked |= any(shown.rendered.params is None for shown in found.shown)
            mine: list[Answered] = []
            if send and api is not None:
                askable = [shown for shown in found.shown if shown.rendered.params is not None]
                if askable:
                    confirm(_question(askable, one, found), yes, "Nothing was sent.")
                try:
                    _ask(api, askable, found, mine)
                except BatchPipelineError as error:
                    failed = f"{error} The request for {', '.join(askable[len(mine)].first.key)} may be paid for."
            answers += mine
            documents.append(
                preview_json(found) | ({"answers": answers_json(mine)} if send else {})
            )
            if send and not as_json:
                show_answers(mine)
            if failed:
                break
    if as_json:
        print_json({"variants": documents} if names[0] else documents[0])
    if answers:
        say_or_warn = warn if as_json else say
        say_or_warn(
            "These answers are not kept, and what they cost is not in the ledger: a run asks these records again."
        )
    if failed:
        raise RefusedError(failed)
    if unasked or any(answer.judged.status != "answered" for answer in answers):
        raise SystemExit(WAITS_FOR_A_PERSON)


def declared_as(project: "Project", name: str) -> "Declared":
    for one in project.declared:
        if one.pipeline.name == name:
            return one
    there = ", ".join(sorted({one.pipeline.name for one in project.declared}))
    raise InputError(f"There is no pipeline {name} in the project's code. There are: {there}.")


def open_api(stack: ExitStack, one: "Declared", *, needed: bool) -> "tuple[BatchesApi | None, str]":
    """Return a connection to the API; or None, and why there is none."""
    try:
        api = stack.enter_context(closing(one.claude.api()))
        api.identify()
        return api, ""
    except BatchPipelineError as error:
        if needed:
            raise
        return None, str(error)


def _question(askable: Sequence[Shown], one: "Declared", found: Preview) -> str:
    from batch_pipeline.requests.prices import Tokens
    from batch_pipeline.requests.sample import full_price

    prices = [
        full_price(
            params["model"], Tokens(input=shown.tokens, output=params["max_tokens"]), found.at
        )
        for shown in askable
        if (params := shown.rendered.params) is not None
    ]
    known = [price for price in prices if price is not None]
    price = (
        f"at most about {in_usd(sum(known, Decimal(0)))}"
        if len(known) == len(prices)
        else "a price that is not known"
    )
    return (
        f"Ask {counted(len(askable), 'request')} now, through the Messages API at {one.claude.url}, at full price "
        f"(twice a batch's): {price}?"
    )


def _full_cost(model: str, usage: Mapping[str, Any], at: datetime) -> Decimal | None:
    """Return what an answer cost outside a batch."""
    from batch_pipeline.requests.prices import geo_factor
    from batch_pipeline.requests.sample import full_price
    from batch_pipeline.results.cost import used_of

    total = Decimal(0)
    for used in used_of(model, usage) or ():
        factor = geo_factor(used.model, usage.get("inference_geo"))
        price = None if factor is None else full_price(used.model, used.tokens, at, factor)
        if price is None:
            return None
        total += price
    return total


def _ask(
    api: "BatchesApi", askable: Sequence[Shown], found: Preview, answers: list[Answered]
) -> None:
    """Ask one after the other; what was answered before one fails is in ``answers``."""
    import orjson

    from batch_pipeline.results.judge import judge_line

    question = found.records.question
    for shown in askable:
        assert shown.rendered.params is not None
        result = api.with_betas(question.template.betas).ask(shown.rendered.params)
        line = orjson.dumps({"custom_id": shown.first.custom_id, "result": result})
        judged = judge_line(
            line, question.output, found.at, question.tool_calls, citations=question.citations
        )
        if judged is None:
            raise InputError(f"The API's answer for {', '.join(shown.first.key)} cannot be read.")
        # The judge knows a batch's prices: what it cannot price there, nobody can here.
        usage: Any = (result.get("message") or {}).get("usage")
        cost = judged.cost
        if cost is not None and judged.model and isinstance(usage, dict):
            cost = _full_cost(judged.model, usage, found.at)
        answers.append(Answered(shown, judged, cost))
