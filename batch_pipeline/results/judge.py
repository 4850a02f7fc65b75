"""Judging answers: one line of a batch's results becomes a status, a reason, a cost, an answer."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.batches.lines import LARGE_LINE_BYTES, is_overfull, lines_in
from batch_pipeline.requests.compiled import ANSWER_TOOL
from batch_pipeline.requests.correction import READS
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results.cost import answer_cost, tokens_used
from batch_pipeline.results.json_text import number_as_written, parsed
from batch_pipeline.results.pattern import pattern_of
from batch_pipeline.results.plain import SCALE, PlainLines, Row
from batch_pipeline.store.erasures import ERASED

JUDGED_SCHEMA = pa.schema(
    [
        ("custom_id", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("model", pa.string()),
        ("stop_reason", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cache_read_tokens", pa.int64()),
        ("cache_write_tokens", pa.int64()),
        ("cost", pa.decimal128(38, SCALE)),
        ("answer", pa.string()),
        ("tool_calls", pa.string()),
        ("citations", pa.string()),
        ("thinking", pa.string()),
    ]
)
"""Columns of judged rows; ``cost`` in USD, ``answer`` as text or as JSON text, ``tool_calls`` and
``citations`` as JSON."""

ROWS_AT_ONCE = 10_000
BYTES_AT_ONCE = 8_000_000
"""A batch of judged rows ends at whichever comes first, so that long answers stay bounded."""
NOT_BILLED = Decimal(0)
"""Errored, expired and canceled requests are not billed (batch guide, 2026-09-26)."""
RAW_SHOWN = 500
"""Characters of an unusable answer that its error shows."""

CUT_SHORT = {
    "max_tokens": "The answer reached max_tokens; raise it to have it whole.",
    "model_context_window_exceeded": "The answer reached the end of the model's context window. More max_tokens "
    "would not help: shorten the prompt, or ask a model with a larger window. It is asked again once its request "
    "differs.",
}
PAUSED = (
    "The turn was paused while a server tool ran, and a batch cannot go on with it. Ask for less: fewer "
    "uses of the tool (max_uses), a narrower question. A changed question is asked again."
)
COMPACTED = (
    "The turn was paused after its context was compacted (pause_after_compaction, or compaction on demand), and "
    "a batch cannot go on with it. Leave that out of params. A changed question is asked again."
)
TOOL_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Blocks that call a tool: the user's own, one that the API runs, one of an MCP server."""
NEVER_ACCEPTED = ("invalid_request_error", "request_too_large")
_ABOUT_THE_ACCOUNT = re.compile(r"credit balance|usage limit|spend limit|spending limit", re.I)
"""The API words these as an invalid request, too, though they say nothing about the record."""


class Judged(NamedTuple):
    """One judged line. ``input_tokens`` is the uncached part, as the API reports it."""

    custom_id: str
    status: str
    error: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost: Decimal | None = None
    answer: str | None = None
    tool_calls: str | None = None
    citations: str | None = None
    thinking: str | None = None


WRITTEN = Judged._fields.index("cache_write_tokens")
COST = Judged._fields.index("cost")
USES_TOOLS = b'"web_search_requests"'


class _Verdict(NamedTuple):
    status: str
    error: str | None = None
    answer: str | None = None
    tool_calls: str | None = None


@dataclass
class Counts:
    """What a results file came to.

    Attributes:
        lines: all but blank ones.
        damaged: of these, lines that are no result at all.
        foreign: of these, results of requests that are not asked for, and second results of one;
            they count nowhere else.
        statuses: rows by status.
        input_tokens: and the other tokens: sums of what was reported.
        cache_write_5m: of the tokens written to the cache, those that are said to be for five minutes.
        cache_write_1h: the same for an hour.
        web_searches: that the API ran for the answers.
        cost: USD of the rows whose cost is known.
        cost_unknown: rows that may have been billed and whose cost is not known.
        foreign_cost: USD of the foreign results, as far as it is known.
        foreign_unknown: of these, those whose cost is not known.
    """

    lines: int = 0
    damaged: int = 0
    foreign: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    web_searches: int = 0
    cost: Decimal = Decimal(0)
    cost_unknown: int = 0
    foreign_cost: Decimal = Decimal(0)
    foreign_unknown: int = 0

    def see_foreign(self, cost: Any) -> None:
        """Count a result of a request that is not asked for."""
        self.foreign += 1
        if cost is None:
            self.foreign_unknown += 1
        else:
            self.foreign_cost += Decimal(cost).scaleb(-SCALE) if type(cost) is int else cost

    def add_foreign(self) -> None:
        """Let what foreign results cost count: they are of this batch, and no record is theirs."""
        self.cost += self.foreign_cost
        self.cost_unknown += self.foreign_unknown

    @property
    def tokens(self) -> dict[str, int]:
        """What the ledger keeps of the tokens; what few files have is left out where there is none."""
        rare = {
            name: count
            for name in ("cache_write_5m", "cache_write_1h", "web_searches")
            if (count := getattr(self, name))
        }
        return {
            "input": self.input_tokens,
            "output": self.output_tokens,
            "cache_read": self.cache_read_tokens,
            "cache_write": self.cache_write_tokens,
            **rare,
        }

    def add_usage(self, line: bytes) -> None:
        """Count what no column has, of a line whose request wrote to the cache or used a tool of the API."""
        try:
            usage = orjson.loads(line)["result"]["message"]["usage"]
            tokens = tokens_used(usage)
        except (ValueError, KeyError, TypeError):
            return
        if tokens is not None:
            self.cache_write_5m += tokens.cache_write_5m
            self.cache_write_1h += tokens.cache_write_1h
            self.web_searches += tokens.web_searches

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Count rows, given by column."""
        self.statuses.update(columns["status"])
        self.input_tokens += sum(filter(None, columns["input_tokens"]))
        self.output_tokens += sum(filter(None, columns["output_tokens"]))
        self.cache_read_tokens += sum(filter(None, columns["cache_read_tokens"]))
        self.cache_write_tokens += sum(filter(None, columns["cache_write_tokens"]))
        parts = 0
        for cost in columns["cost"]:
            if type(cost) is int:
                parts += cost
            elif cost is None:
                self.cost_unknown += 1
            else:
                self.cost += cost
        self.cost += Decimal(parts).scaleb(-SCALE)


def judge_line(
    line: bytes,
    output: OutputSchema | None,
    priced_at: datetime,
    tools: bool = False,
    prices: OwnPrices | None = None,
    citations: bool = False,
    thinking: bool = False,
    live: bool = False,
) -> Judged | None:
    """Return what one line of results says, None when it is damaged (no JSON, no custom_id).

    Args:
        line: as the API wrote it.
        output: the schema an answer must fit; None for plain text.
        priced_at: when the batch was processed; it decides the prices.
        tools: the user declared tools: what the model calls is part of the answer.
        prices: that the user declared.
        citations: documents asked for citations: they are kept.
        thinking: what the model thought is kept.
        live: it was asked through the Messages API, at full price.
    """
    # What tools are called with is kept as it was written.
    exact = tools or (output is not None and output.exact and b'"tool_use"' in line)
    result = parsed(line, exact)
    if not isinstance(result, dict) or not isinstance(result.get("custom_id"), str):
        return None
    judged = _judged(line, result, output, priced_at, tools, prices, citations, thinking, live)
    if (status := result.get(ERASED)) is None:
        return judged
    # What was said is erased; what came of it, and what it cost, stays.
    return judged._replace(
        status=status, error=None, answer=None, tool_calls=None, citations=None, thinking=None
    )


def _judged(
    line: bytes,
    result: dict[str, Any],
    output: OutputSchema | None,
    priced_at: datetime,
    tools: bool,
    prices: OwnPrices | None,
    citations: bool,
    thinking: bool,
    live: bool,
) -> Judged:
    custom_id = result["custom_id"]
    body = result.get("result")
    body = body if isinstance(body, dict) else {}
    match body.get("type"):
        case "succeeded" if isinstance(body.get("message"), dict):
            judged = _judged_message(
                custom_id, body["message"], output, priced_at, tools, prices, live=live
            )
            if thinking:
                judged = judged._replace(thinking=_thinking(body["message"]))
            return judged._replace(citations=_citations(body["message"])) if citations else judged
        case "errored":
            return _judged_error(custom_id, body)
        case "expired":
            why = "The batch expired, after 24 hours, before this request was processed."
            return Judged(custom_id, "expired", why, cost=NOT_BILLED)
        case "canceled":
            why = "The batch was canceled before this request was processed."
            return Judged(custom_id, "canceled", why, cost=NOT_BILLED)
        case other:
            raw = _shown(line.decode("utf-8", "replace").strip())
            why = f"A result of unknown form, type {other!r:.100}. It reads: {raw}"
            return Judged(custom_id, "errored", why)


def _judged_message(
    custom_id: str,
    message: dict[str, Any],
    output: OutputSchema | None,
    priced_at: datetime,
    tools: bool,
    prices: OwnPrices | None,
    *,
    live: bool,
) -> Judged:
    reported = message.get("usage")
    usage = reported if isinstance(reported, dict) else {}
    model = _text(message.get("model"))
    stop_reason = _text(message.get("stop_reason"))
    verdict = _verdict(message, stop_reason, output, tools)
    return Judged(
        custom_id,
        verdict.status,
        verdict.error,
        model,
        stop_reason,
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
        _count(usage.get("cache_read_input_tokens")),
        _count(usage.get("cache_creation_input_tokens")),
        answer_cost(
            model, usage, priced_at, prices, ran_code=bool(message.get("container")), live=live
        ),
        verdict.answer,
        verdict.tool_calls,
    )


def _verdict(
    message: dict[str, Any], stop_reason: str | None, output: OutputSchema | None, tools: bool
) -> _Verdict:
    if stop_reason == "refusal":
        details = message.get("stop_details")
        why = details.get("explanation") if isinstance(details, dict) else None
        return _Verdict(
            "refused", f"The model refused to answer{f': {_text(why)}' if why else '.'}"
        )
    if stop_reason in CUT_SHORT:
        return _Verdict("truncated", CUT_SHORT[stop_reason])
    if stop_reason == "pause_turn":
        return _Verdict("paused", PAUSED)
    if stop_reason == "compaction":
        return _Verdict("paused", COMPACTED)
    blocks = message.get("content")
    blocks = [b for b in blocks if isinstance(b, dict)] if isinstance(blocks, list) else []
    calls = _calls(blocks) if tools else None
    texts = [
        b["text"] for b in blocks if b.get("type") == "text" and isinstance(b.get("text"), str)
    ]
    if output is None:
        if text := "".join(texts):
            said = [text, *_called(blocks)] if tools else [text]
            return _Verdict("answered", None, "\n".join(said), calls)
        if calls:
            return _Verdict("answered", None, "\n".join(_called(blocks)) or None, calls)
        return _Verdict("invalid", f"The answer holds no text{_instead(blocks)}")
    if not tools:  # with tools of the user, none is ours
        for block in blocks:
            if block.get("type") == "tool_use" and block.get("name") == ANSWER_TOOL:
                return _fitted(block.get("input"), output)
    # Server tools may put a remark before the answer, which is then the last block.
    for text in dict.fromkeys(["".join(texts), texts[-1]] if texts else ()):
        found = parsed(text, output.exact)
        if isinstance(found, dict) or (found is not None and not calls):
            return _fitted(found, output, calls)
    if calls:  # the model called a tool in the place of an answer
        return _Verdict("answered", None, None, calls)
    if not texts:
        return _Verdict("invalid", f"The answer holds no JSON{_instead(blocks)}")
    return _Verdict("invalid", f"The answer is not JSON.{READS[1]}{_shown(''.join(texts))}")


def _calls(blocks: list[dict[str, Any]]) -> str | None:
    """Return all calls of tools as a JSON list of name and input, None when there is none."""
    calls = [_call(block) for block in blocks if block.get("type") in TOOL_CALLS]
    return f"[{','.join(calls)}]" if calls else None


def _citations(message: dict[str, Any]) -> str | None:
    """Return what each text of an answer cites, as a JSON list of text and citations; None: it cites nothing."""
    content = message.get("content")
    found = [
        {"text": block.get("text"), "citations": block["citations"]}
        for block in (content if isinstance(content, list) else ())
        if isinstance(block, dict) and block.get("type") == "text" and block.get("citations")
    ]
    try:
        return orjson.dumps(found, default=number_as_written).decode() if found else None
    except TypeError:  # nested deeper than JSON is written
        return None


def _thinking(message: dict[str, Any]) -> str | None:
    """Return what the model thought, its blocks joined by a line break; None: nothing that is shown."""
    content = message.get("content")
    found = [
        block["thinking"]
        for block in (content if isinstance(content, list) else ())
        if isinstance(block, dict)
        and block.get("type") == "thinking"
        and isinstance(block.get("thinking"), str)
        and block["thinking"]
    ]
    return "\n".join(found) or None


def _called(blocks: list[dict[str, Any]]) -> list[str]:
    """Return the calls of the user's own tools: what the model answers with them is not said in text."""
    return [_call(block) for block in blocks if block.get("type") == "tool_use"]


def _call(block: dict[str, Any]) -> str:
    call = {"name": block.get("name"), "input": block.get("input")}
    try:
        return orjson.dumps(call, default=number_as_written).decode()
    except TypeError:  # nested deeper than JSON is written
        return orjson.dumps({"name": str(block.get("name")), "input": None}).decode()


def _instead(blocks: list[dict[str, Any]]) -> str:
    kinds = ", ".join(dict.fromkeys(str(block.get("type")) for block in blocks))
    return f", only {kinds}." if kinds else "."


def _fitted(answer: Any, output: OutputSchema, calls: str | None = None) -> _Verdict:
    fitted, error = output.judged(answer)
    try:
        text = orjson.dumps(fitted, default=number_as_written).decode()
    except TypeError as problem:  # nested deeper than a column could be, a number of any length
        if error is not None:
            return _Verdict("invalid", f"{error.rstrip('.')}.")
        return _Verdict("invalid", f"The answer cannot be kept: {problem}.")
    if error is None:
        return _Verdict("answered", None, text, calls)
    return _Verdict("invalid", f"{error.rstrip('.')}.{READS[0]}{_shown(text)}")


def _judged_error(custom_id: str, body: dict[str, Any]) -> Judged:
    outer = body.get("error")
    outer = outer if isinstance(outer, dict) else {}
    nested = outer.get("error")
    inner = nested if isinstance(nested, dict) else outer
    kind, message = str(inner.get("type")), str(inner.get("message"))
    final = kind in NEVER_ACCEPTED and not _ABOUT_THE_ACCOUNT.search(message)
    why = message if final else f"{kind}: {message}"
    return Judged(custom_id, "rejected" if final else "errored", why, cost=NOT_BILLED)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _shown(text: str) -> str:
    return text if len(text) <= RAW_SHOWN else f"{text[:RAW_SHOWN]}..."


def judge_file(
    path: str,
    output: OutputSchema | None,
    *,
    priced_at: datetime,
    counts: Counts | None = None,
    asked: Collection[str] | None = None,
    tools: bool = False,
    prices: OwnPrices | None = None,
    citations: bool = False,
    thinking: bool = False,
    live: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield the judged rows of a results file, in the file's order, in memory of bounded size.

    Args:
        path: a local JSONL file as the API returned it.
        output: the schema answers must fit; None for plain text.
        priced_at: when the batch was processed; it decides the prices.
        counts: is filled while the rows are read.
        asked: the custom_ids of the batch's requests, of which each counts once; None: all that
            come.
        tools: the user declared tools, so that calls count as answers.
        prices: that the user declared.
        citations: documents asked for citations: they are kept.
        thinking: what the model thought is kept.
        live: it was asked through the Messages API, at full price.

    Yields:
        Batches of `JUDGED_SCHEMA`. A damaged line gives no row; ``counts.damaged`` counts it.
    """
    counts = Counts() if counts is None else counts
    left = None if asked is None else set(asked)
    work = _Judging(output, priced_at, tools, counts, left, prices, citations, thinking, live)
    lines: list[bytes] = []
    size = 0
    with open(path, "rb") as source:
        for line in lines_in(source):
            if len(line) > LARGE_LINE_BYTES and is_overfull(line):
                counts.lines += 1
                counts.damaged += 1
                continue
            lines.append(line)
            size += len(line)
            if len(lines) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                yield from work.batch(lines)
                lines, size = [], 0
    yield from work.batch(lines)


class _Judging:
    """What the batches of one file share."""

    def __init__(
        self,
        output: OutputSchema | None,
        priced_at: datetime,
        tools: bool,
        counts: Counts,
        left: set[str] | None,
        prices: OwnPrices | None,
        citations: bool,
        thinking: bool,
        live: bool,
    ) -> None:
        self._live = live
        self._output, self._priced_at, self._tools = output, priced_at, tools
        self._citations, self._thinking = citations, thinking
        self._counts, self._left, self._prices = counts, left, prices
        # Text fits as it is, and so does what matches the pattern of a simple schema.
        self._pattern = None if output is None else pattern_of(output)
        is_more = tools or citations or thinking or live
        has_plain = not is_more and (output is None or self._pattern is not None)
        self._plain = PlainLines(priced_at, prices) if has_plain else None

    def batch(self, lines: list[bytes]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some lines, unless there are none."""
        self._counts.lines += len(lines)
        rows: list[Row | Judged] = []
        for line, plain in zip(lines, self._read(lines), strict=True):
            row = plain or judge_line(
                line,
                self._output,
                self._priced_at,
                self._tools,
                self._prices,
                self._citations,
                self._thinking,
                self._live,
            )
            if row is None:
                self._counts.damaged += 1
                continue
            if self._left is not None:
                custom_id = row[0]
                if custom_id not in self._left:
                    self._counts.see_foreign(row[COST])
                    continue
                self._left.remove(custom_id)
            if row[WRITTEN] or (plain is None and USES_TOOLS in line):
                self._counts.add_usage(line)
            rows.append(row)
        if rows:
            columns: dict[str, Sequence[Any]] = dict(
                zip(Judged._fields, zip(*rows, strict=True), strict=True)
            )
            self._counts.add(columns)
            columns["cost"] = [_parts(cost) for cost in columns["cost"]]
            arrays = [_array(columns[field.name], field.type) for field in JUDGED_SCHEMA]
            yield pa.RecordBatch.from_arrays(arrays, schema=JUDGED_SCHEMA)

    def _read(self, lines: list[bytes]) -> list[Row | None]:
        """Return the rows of the plain lines that fit; None for any other line."""
        if self._plain is None:
            return [None] * len(lines)
        found = list(map(self._plain.read, lines))
        if self._pattern is not None:
            place = Judged._fields.index("answer")
            texts = pa.array([row and row[place] for row in found], pa.string())
            fits = pc.call_function(
                "match_substring_regex", [texts], pc.MatchSubstringOptions(self._pattern)
            ).to_pylist()
            found = [row if fit else None for row, fit in zip(found, fits, strict=True)]
        return found


def _parts(cost: int | Decimal | None) -> int | None:
    """Return a cost in parts, rounded to whole ones."""
    if not isinstance(cost, Decimal):
        return cost
    return int(round(cost, SCALE).scaleb(SCALE))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_decimal(kind):
        return pa.array(values, kind)
    parts = pa.array(values, pa.decimal128(kind.precision, 0))
    return pa.Array.from_buffers(kind, len(parts), parts.buffers(), parts.null_count)
