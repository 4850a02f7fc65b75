"""The command `batch-pipeline history`: everything that happened with one record."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    RefusedError,
    Row,
    errors_shown,
    in_usd,
    json_option,
    listing,
    print_json,
    say,
)
from batch_pipeline.errors import counted

if TYPE_CHECKING:
    from batch_pipeline.results.history import Asking

MOST_ANSWER = 1_000
REASONS = {
    "new": "new",
    "changed": "its content changed",
    "version": "the question changed",
    "retry": "asked again",
    "forced": "asked again by force",
    "reuse": "an earlier answer was published again, at no cost",
    "rule": "settled by a rule, at no cost",
    "deleted": "its key was gone from the source, and its row was dropped",
    "erasure": "its records were erased, and its row was dropped",
    "erased": "why is not known any more, because its records were erased",
}
GONE = {"deleted": "deleted", "erasure": "erased"}
NOT_ASKED = ("reuse", "rule", "deleted", "erasure")
STATES = {
    "selected": "selected",
    "built": "selected",
    "ready": "to be sent",
    "sending": "being sent",
    "unknown": "no reply yet",
    "in_progress": "at the API",
    "ended": "to be collected",
    "held": "held",
    "collected": "collected",
}


@click.command(epilog="Exit code: 0 found; 1 no submission ever had that key, or another error; 2 wrong usage.")  # fmt: skip
@click.argument("pipeline", metavar="NAME")
@click.argument("key", metavar="KEY")
@click.option(
    "--key-column", "columns", multiple=True, metavar="COLUMN",
    help="With --store: the key's column; repeat it for several, in the order of the source's key.",
)  # fmt: skip
@json_option("Print it as JSON.")
@errors_shown
@on_deployments(api=False)
def history(
    deployments: Deployments, pipeline: str, key: str, columns: tuple[str, ...], as_json: bool
) -> None:
    """Show each time that NAME asked about the record KEY: why, in which batch, what came back, what it cost.

    KEY is the key as text. Of several columns: a,b or, where a value has a comma, the JSON list ["a","b"].
    """
    from batch_pipeline.results.history import history as history_of
    from batch_pipeline.results.history import key_examples

    stores = deployments.stores(pipeline)
    keys = columns or deployments.keys.get(pipeline, ())
    if not keys:
        raise click.UsageError(
            f"Which columns are the key of {pipeline} stands in its code, which is not here. Name them: --key-column COLUMN."
        )
    values = key_values(key, len(keys))
    found = [asking for store in stores for asking in history_of(store, pipeline, keys, values)]
    if not found:
        examples = [one for store in stores for one in key_examples(store, pipeline, keys)]
        like = f" Keys look like: {'; '.join(examples)}." if examples else " Nothing was asked yet."
        raise RefusedError(
            f"No submission of {pipeline} ever had the key {key} ({', '.join(keys)}).{like}"
        )
    if as_json:
        print_json({"pipeline": pipeline, "key": values, "submissions": [asdict(one) for one in found]})  # fmt: skip
        return
    _show(f"{pipeline}: the record {', '.join(values)}", found)


def key_values(key: str, columns: int) -> list[str]:
    """Return the values of a key that is written as text: a,b or, where a value has a comma, ["a","b"]."""
    if columns == 1:
        return [key]
    if key.lstrip().startswith("["):
        try:
            return [str(value) for value in json.loads(key)]
        except ValueError:
            pass  # a value may well begin with a bracket
    return key.split(",")


def _show(title: str, found: "Sequence[Asking]") -> None:
    listing(
        title,
        ("submission", "partition", "selected (UTC)", "attempt", "status", "answered (UTC)", "cost"),
        [
            Row(
                (
                    one.submission,
                    ", ".join(filter(None, [one.partition, f"variant {one.variant}" if one.variant else ""])),
                    _moment(one.selected_at),
                    one.attempt if one.reason not in NOT_ASKED else None,
                    one.status or GONE.get(one.reason) or STATES.get(one.state or "", one.state),
                    _moment(one.answered_at),
                    in_usd(Decimal(repr(one.cost_usd))) if one.cost_usd is not None else "",
                ),
                (
                    _why(one),
                    f"custom_id {one.custom_id}" + (f", batch {one.batch_id}" if one.batch_id else ""),
                    _answer(one),
                    one.error,
                ),
            )
            for one in found
        ],
    )  # fmt: skip
    costs = [Decimal(repr(one.cost_usd)) for one in found if one.cost_usd is not None]
    times = sum(1 for one in found if one.reason not in NOT_ASKED and one.duplicate_of is None)
    say(f"Asked {counted(times, 'time')}; its answers cost {in_usd(sum(costs, Decimal(0)))} in all.")  # fmt: skip


def _why(one: "Asking") -> str:
    """Return why it was in this submission, and the hashes that tell so."""
    changed = [
        name
        for name, is_new in (("content", one.is_new_content), ("question", one.is_new_version))
        if is_new
    ]
    differs = f"; new since the submission before: {' and '.join(changed)}" if changed else ""
    same = (
        f"; the same as another record, whose request it shares: {one.duplicate_of}"
        if one.duplicate_of
        else ""
    )
    after = f", because it was {one.after}" if one.after else ""
    after += ": with that answer and what was wrong with it" if one.corrects else ""
    return f"{REASONS.get(one.reason, one.reason)}{after} (content {one.content[:8]}, question {one.version[:8]}{differs}){same}"


def _answer(one: "Asking") -> str:
    if not one.answer:
        return ""
    text = json.dumps(dict(one.answer), default=str, ensure_ascii=False)
    return f"answer: {text if len(text) <= MOST_ANSWER else text[:MOST_ANSWER] + ' ...'}"


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
