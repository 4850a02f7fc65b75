"""What the UI shows of a stage: numbers under names that never change, and a few rows to look at."""

import logging
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from batch_pipeline.batches.live import AskedLive
from batch_pipeline.batches.send import Sent
from batch_pipeline.records.connections import memory_connection, quote_name
from batch_pipeline.records.selection import Selection
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.requests.compiled import CITATIONS, THINKING, TOOL_CALLS, answer_columns
from batch_pipeline.requests.estimate import sum_of
from batch_pipeline.requests.prepare import Prepared
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.advice import Advice
from batch_pipeline.results.collect import Collected
from batch_pipeline.results.destinations import Destination, DuckDBTable, ParquetDataset
from batch_pipeline.results.publish import Published

log = logging.getLogger(__name__)

STATUSES = (
    "answered",
    "invalid",
    "truncated",
    "refused",
    "paused",
    "errored",
    "expired",
    "canceled",
    "missing",
    "rejected",
    "skipped",
    "rule",
)
NOT_FAILED = {"answered", "skipped", "rule"}
ALWAYS_THERE = (
    "answered", "failed", "cost_usd", "rows_collected", "input_tokens", "output_tokens",
    "cache_read_tokens", "cache_write_tokens", "rows_inserted", "rows_updated", "dagster/row_count",
)  # fmt: skip
"""Numbers that every materialization of ``NAME/results`` has, and that a check may be bound to."""
# What the columns that every results table has say, for the column schema.
RESERVED = {
    "_status": "How it went: answered, rule or skipped (by a rule, not asked), or why there is no answer.",
    "_error": "Why there is no answer, in words.",
    "_model": "The model that answered.",
    "_stop_reason": "Why the model stopped.",
    "_input_tokens": "Input tokens that were not cached.",
    "_output_tokens": "Output tokens.",
    "_cache_read_tokens": "Input tokens read from the prompt cache.",
    "_cache_write_tokens": "Input tokens written to the prompt cache.",
    "_cost_usd": "What the answer cost, in US dollars: 0 where nothing was asked; empty when the price is not known.",
    "_custom_id": "The request's id in its batch.",
    "_batch_id": "The batch's id at the API; of what was asked live, at full price, a name that begins with live_.",
    "_attempt": "How many times this record, with this content, had been asked.",
    "_answered_at": "When the batch ended.",
    "_duplicate_of": "The request that was asked for this record, too, because it is the same; else empty.",
    "_attempts": "Earlier attempts without an answer, as JSON: attempt, status, reason, batch, at; empty when there are none.",
    "_last_error": "Why a later attempt failed, while this earlier answer stays; else empty.",
}
OF_VARIANT = {VARIANT: "Which variant of the question the row is of."}
CALLED = "The tools that the answer calls: a JSON list of name and input."
THOUGHT = "What the model thought before it answered, as far as the API shows it."
CITED = "What the answer cites: a JSON list of each text and its citations."
ANSWERED = "What the model answered; empty when there is no answer."
# Left out of the sample, which has to fit on a page.
NOT_SAMPLED = {*RESERVED} - {"_status", "_error", "_cost_usd", "_attempt"}
SELECTED = (
    "source_rows", "asked", "new", "changed", "version_changed", "retried", "forced",
    "reused", "deleted", "in_flight", "settled", "exhausted", "left_out", "duplicates", "ruled", "by_rule",
)  # fmt: skip
# To Dagster's event log a dictionary with such a key is an object of Dagster's own: a column of that
# name would make an event that cannot be read again, or one that is something else.
DAGSTERS_KEYS = ("__class__", "__enum__", "__set__", "__frozenset__", "__mapping_items__")
SAMPLE_ROWS = 5
SHOWN_CHARACTERS = 60
SHOWN_OF_A_DESCRIPTION = 500
# What Markdown would read: code, emphasis (not the underscore in a word), links, HTML, entities, and
# at the start of a line headings, quotes and lists.
_MARKS = re.compile(r"[\\`*~\[\]]|(?<![^\W_])_|_(?![^\W_])|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|^[#>+-]")
_NUMBERED = re.compile(r"^(\d{1,9})([.)])")
SHOWN_OF_A_REQUEST = 4_000


def of_selection(
    selections: Sequence[Selection], columns: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the metadata of ``records``."""
    counts: dict[str, Any] = {
        name: sum(getattr(one, name) for one in selections) for name in SELECTED
    }
    counts["selected"] = counts["asked"]
    counts["dagster/row_count"] = counts["asked"] + counts["reused"] + counts["ruled"]
    return counts | schema(columns)


def of_requests(prepared: Sequence[Prepared]) -> dict[str, Any]:
    """Return the metadata of ``requests``."""
    priced = sum_of([one for report in prepared for one in report.estimates])
    metadata: dict[str, Any] = {
        "requests": sum(one.requests for one in prepared),
        "bytes": sum(one.bytes for one in prepared),
        "files": sum(one.files for one in prepared),
        "rejected": sum(one.rejected for one in prepared),
        "estimated_input_tokens": priced.input_tokens,
        "output_tokens_at_most": priced.output_tokens_max,
        "dagster/row_count": sum(one.requests for one in prepared),
    }
    if priced.usd_max is not None:
        metadata["estimated_usd_at_most"] = float(priced.usd_max)
        if priced.usd_expected is not None and priced.usd_reserved is not None:
            metadata["estimated_usd_expected"] = float(priced.usd_expected)
            metadata["estimated_usd_reserved"] = float(priced.usd_reserved)
        if priced.usd_synchronous is not None:
            metadata["estimated_usd_synchronous"] = float(priced.usd_synchronous)
        if priced.said:
            metadata["estimated_by"] = priced.said
    else:
        metadata["estimated_usd"] = "unknown: no batch price is known for this model"
    if priced.cache_by is not None:
        metadata["cache_by"] = priced.cache_by.line
        if priced.cache_by.usd is not None and priced.cache_by.usd_best is not None:
            metadata["cache_by_saves_usd"] = float(priced.cache_by.usd)
            metadata["cache_by_saves_at_best_usd"] = float(priced.cache_by.usd_best)
    samples = [sample for one in prepared for sample in one.samples][:3]
    if samples:
        metadata["first_request"] = dg.MetadataValue.md(_as_read(samples[0]))
        metadata["sample_requests"] = dg.MetadataValue.json(_shortened(samples))
    return metadata


def of_batches(
    sent: Sequence[Sent], console: str | None = None, asked: Sequence[AskedLive] = ()
) -> dict[str, Any]:
    """Return the metadata of ``batches``.

    Args:
        sent: what was sent.
        console: the page of the Console that lists these batches, where there is one.
        asked: what was asked live, where anything was.
    """
    metadata: dict[str, Any] = {
        "batches": sum(len(one.batches) for one in sent),
        "requests": sum(one.requests for one in sent),
        "bytes": sum(one.bytes for one in sent),
        "files_waiting": sum(one.waiting for one in sent),
        "files_in_trouble": sum(len(one.trouble) for one in sent),
    }
    ids = [batch for one in sent for batch in one.batches]
    if ids:
        metadata["sent"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "batch": batch.id,
                        "requests": batch.requests,
                        "created": batch.created_at.isoformat(),
                    }
                )
                for batch in ids[:100]
            ]
        )
    if console is not None:
        metadata["console"] = dg.MetadataValue.url(console)
    if any(one.replies or one.lost or one.left for one in asked):
        metadata["asked_live"] = sum(one.replies for one in asked)
        metadata["asked_live_without_reply"] = sum(one.lost for one in asked)
    held = [line for one in [*asked, *sent] for line in one.over_budget]
    if held:
        metadata["over_budget"] = "; ".join(held)
    waiting = sorted({one.reason for one in sent if one.waiting and one.reason})
    if waiting:
        metadata["waiting_because"] = "; ".join(waiting)
    return metadata


def of_results(
    collected: Sequence[Collected],
    published: Published,
    table: str,
    columns: Sequence[tuple[str, str]],
    rows: int,
    sample: pa.Table | None,
    said: Mapping[str, str] | None = None,
    totals: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the metadata of ``results``.

    Dagster draws a plot for each number. Those of ``ALWAYS_THERE`` are in every run, so that a check can
    hold them; a number that is seldom anything but 0 is there once it is not.

    Args:
        collected: what this run has collected.
        published: what it has changed in the table.
        table: which table that is.
        columns: the table's columns and their types.
        rows: its rows.
        sample: a few of them.
        said: what is said of the answer's columns.
        totals: all rows of the table by status, beside the run's numbers.
    """
    totals = totals or {}
    statuses = {
        status: sum(one.statuses.get(status, 0) for one in collected) for status in STATUSES
    }
    failed = sum(statuses[status] for status in STATUSES if status not in NOT_FAILED)
    metadata: dict[str, Any] = {
        "answered": statuses["answered"],
        "failed": failed,
        "cost_usd": float(sum((one.cost_usd for one in collected), Decimal(0))),
        "statuses": dg.MetadataValue.md(_by_status(statuses, totals, rows)),
        "rows_collected": sum(one.rows for one in collected),
        "input_tokens": sum(one.input_tokens for one in collected),
        "output_tokens": sum(one.output_tokens for one in collected),
        "cache_read_tokens": sum(one.cache_read_tokens for one in collected),
        "cache_write_tokens": sum(one.cache_write_tokens for one in collected),
        "rows_inserted": published.inserted,
        "rows_updated": published.updated,
        "table": table,
        "dagster/row_count": rows,
    }
    put_right = published.before.lost + published.before.doubled + published.before.back
    seldom = {
        "answers_of_unknown_cost": sum(one.cost_unknown for one in collected),
        "rows_deleted": published.deleted,
        "rows_superseded": published.superseded,
        "rows_put_right": put_right,
    }
    metadata |= {name: count for name, count in seldom.items() if count}
    # Once the table has such rows, a night without any is a point of the plot, too.
    metadata |= {
        status: count
        for status, count in statuses.items()
        if status != "answered" and (count or totals.get(status))
    }
    if sample is not None and sample.num_rows:
        rows_shown = sample.to_pylist()
        metadata["sample"] = dg.MetadataValue.table([_record(row) for row in rows_shown])
    return metadata | schema(columns, {**(said or {}), **OF_VARIANT, **RESERVED})


def _by_status(run: Mapping[str, int], totals: Mapping[str, int], rows: int) -> str:
    """Return Markdown: how many rows of this run, and of the table, have each status that occurs."""
    lines = [
        f"| {status} | {run[status]:,} | {totals.get(status, 0):,} |"
        for status in STATUSES
        if run[status] or totals.get(status)
    ]
    whole = f"| **all** | {sum(run.values()):,} | {rows:,} |"
    return "\n".join(["| status | this run | the table |", "|---|--:|--:|", *lines, whole])


def of_advice(advice: Sequence[Advice]) -> dict[str, Any]:
    """Return what a settled submission shows that could be cheaper; nothing where there is nothing."""
    if not advice:
        return {}
    lines = "\n".join(f"- {unmarked(one.line)}" for one in advice)
    saved = sum((one.usd_a_month or Decimal(0) for one in advice), Decimal(0))
    # A number is drawn as a plot: none of nothing.
    dollars = {"advice_usd_a_month": float(saved)} if saved else {}
    return {"advice": dg.MetadataValue.md(lines), **dollars}


def sample_of(destination: Destination) -> pa.Table | None:
    """Return a few rows of a table as numbers and texts; None when they cannot be shown.

    Whatever is in them, it must not fail the run that wrote them: they are a display.
    """
    try:
        rows = destination.sample(SAMPLE_ROWS)
        shown = ", ".join(
            f"{_shown(quote_name(field.name), field.type)} AS {quote_name(field.name)}"
            for field in rows.schema
            if field.name not in NOT_SAMPLED
        )
        with memory_connection() as con:
            con.register("_bp_rows", rows)
            return con.sql(f"SELECT {shown} FROM _bp_rows").to_arrow_table()
    except Exception:  # it came through three libraries, each with types of its own
        log.warning("The sample of %s is not shown.", destination.describe(), exc_info=True)
        return None


def _shown(column: str, kind: pa.DataType) -> str:
    """Return SQL that makes a column one that JSON holds; a value Python cannot hold is text."""
    if pa.types.is_float32(kind):  # 3.3, and not 3.299999952316284
        return f"CAST(CAST({column} AS VARCHAR) AS DOUBLE)"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_float64(kind):
        return column
    return f"left(CAST({column} AS VARCHAR), {SHOWN_CHARACTERS + 1})"


def place_of(destination: Destination) -> dict[str, Any]:
    """Return a table's name, or a dataset's address, under Dagster's own keys."""
    match destination:
        case DuckDBTable():
            where = ".".join((Path(destination.path).stem, *destination.schema_and_table))
            return {"dagster/table_name": where}
        case ParquetDataset():
            url = destination.url
            return {"dagster/uri": url if "://" in url else Path(url).as_uri()}
    return {}


def answers_said(request: MessageTemplate, output_prefix: str) -> dict[str, str]:
    """Return what is said of the answer's columns: what its schema says, or what they are."""
    output = OutputSchema.stored(request.output)
    columns = answer_columns(output, request.calls_tools, request.cites, request.keep_thinking)
    said = {name: ANSWERED for name, _ in columns}
    if output is not None:
        said |= {name: unmarked(text) for name, text in output.descriptions.items()}
    if request.calls_tools:
        said[TOOL_CALLS] = CALLED
    if request.cites:
        said[CITATIONS] = CITED
    if request.keep_thinking:
        said[THINKING] = THOUGHT
    return {f"{output_prefix}{name}": text for name, text in said.items()}


def unmarked(text: str) -> str:
    """Return a text as one line that reads as it stands where the UI reads Markdown."""
    line = " ".join(text.split())
    line = line if len(line) <= SHOWN_OF_A_DESCRIPTION else f"{line[: SHOWN_OF_A_DESCRIPTION - 1]}…"
    return _NUMBERED.sub(r"\1\\\2", _MARKS.sub(r"\\\g<0>", line))


def schema(
    columns: Sequence[tuple[str, str]], said: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the column schema under Dagster's own key, with what is said of some columns."""
    if not columns:
        return {}
    said = said or {}
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[dg.TableColumn(name, kind.lower(), said.get(name)) for name, kind in columns]
        )
    }


def _record(row: Mapping[str, Any]) -> dg.TableRecord:
    return dg.TableRecord({_key(name): _cell(value) for name, value in row.items()})


def _key(name: str) -> str:
    return f"'{name}'" if name in DAGSTERS_KEYS else name


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and isfinite(value):  # JSON has no NaN and no infinity
        return value
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _as_read(params: Mapping[str, Any]) -> str:
    """Return Markdown: a request as a person reads it, who speaks and what is said."""
    turns = [("system", params["system"])] if params.get("system") else []
    turns += [
        (str(turn.get("role")), turn.get("content"))
        for turn in params.get("messages") or ()
        if isinstance(turn, Mapping)  # a ready request may hold anything
    ]
    head = unmarked(f"{params.get('model')}, at most {params.get('max_tokens')} tokens")
    said = [f"**{unmarked(role)}**\n\n{_fenced(_words(content))}" for role, content in turns]
    return "\n\n".join([head, *said])


def _words(content: Any) -> str:
    """Return what a turn says; blocks that are no text by their type."""
    blocks = content if isinstance(content, list) else [content]
    # Of several, such as a long document and a question about it, each is shown.
    most = SHOWN_OF_A_REQUEST // max(len(blocks), 1)
    texts = [
        block if isinstance(block, str)
        else str(block.get("text", f"({block.get('type')})")) if isinstance(block, Mapping)
        else str(block)
        for block in blocks
    ]  # fmt: skip
    return "\n".join(
        text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
        for text in texts
    )


def _fenced(text: str) -> str:
    """Return a text as a block of Markdown that shows it as it stands, whatever is in it."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _shortened(value: Any) -> Any:
    """Return JSON data with its long texts cut: an event log is no place for documents."""
    match value:
        case Mapping():
            return {_key(str(name)): _shortened(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_shortened(inner) for inner in value]
        case str() if len(value) > SHOWN_OF_A_REQUEST:
            return f"{value[:SHOWN_OF_A_REQUEST]}… ({len(value):,} characters)"
    return value
