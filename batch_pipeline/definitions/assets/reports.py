"""The night reports of a collect run: in its metadata, and sent to whoever wants them."""

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import dagster as dg
from sqlalchemy import RowMapping

from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results.chart import draw
from batch_pipeline.results.report import Report, last_costs, markdown, report_of
from batch_pipeline.results.tell import due, tell
from batch_pipeline.store.overdue import came_late
from batch_pipeline.store.store import Store

MOST_SHOWN = 10  # partitions of one run, in its metadata


def reports(
    context: dg.AssetExecutionContext,
    store: Store,
    pipeline: BatchPipeline,
    settled: Sequence[RowMapping],
    partitions: Sequence[str],
) -> dict[str, Any]:
    """Return the metadata about the submissions that this run has settled; send what is to be sent.

    Whatever is wrong with a report, it fails no run.

    Args:
        context: the step's.
        store: where the files and the ledger are.
        pipeline: whose.
        settled: what this run has settled.
        partitions: that this run works on.
    """
    try:
        shown = _shown(store, pipeline, settled)
    except Exception as error:
        context.log.warning(f"There is no report on this run: {type(error).__name__}: {error}")
        shown = {}
    if pipeline.notify:
        try:
            _send(context, store, pipeline, partitions)
        except Exception as error:  # its text may hold an address
            context.log.warning(f"Reports could not be sent now: {type(error).__name__}.")
    return shown


def _shown(store: Store, pipeline: BatchPipeline, settled: Sequence[RowMapping]) -> dict[str, Any]:
    if not settled:
        return {}
    made = [_report(store, pipeline, one) for one in settled[-MOST_SHOWN:]]
    text = "\n\n".join(markdown(one) for one in made)
    if (image := draw(last_costs(store, pipeline.name))) is not None:
        text += (
            f"\n\n![USD by submission](data:image/png;base64,{base64.b64encode(image).decode()})"
        )
    more: dict[str, Any] = {"report": dg.MetadataValue.md(text)}
    if pipeline.notify_rows is not None:
        more["flagged_rows"] = sum(one.flagged_rows for one in made)
    return more


def _send(
    context: dg.AssetExecutionContext,
    store: Store,
    pipeline: BatchPipeline,
    partitions: Sequence[str],
) -> None:
    for submission in due(store, pipeline.name, partitions):
        make = partial(_made, store, pipeline, submission)
        sent = tell(store, submission, pipeline.notify, make, context.log.warning)
        if sent:
            context.log.info(f"The report on submission {submission['number']} was sent.")


def _report(store: Store, pipeline: BatchPipeline, submission: RowMapping) -> Report:
    report = report_of(store, submission, pipeline.prices, pipeline.notify_rows)
    if by := pipeline.deadline:
        late = came_late(store, submission, by.due(submission["created_at"]))
        report.late = f"{counted(late, 'record')} not answered by {by}" if late else ""
    return report


def _made(
    store: Store, pipeline: BatchPipeline, submission: RowMapping
) -> tuple[str, str, bytes | None] | None:
    report = _report(store, pipeline, submission)
    if pipeline.notify_when == "trouble" and not report.is_trouble:
        return None
    return report.title, markdown(report), draw(last_costs(store, pipeline.name))
