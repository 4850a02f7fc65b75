"""Requests on disk: JSONL files, each of them the body of one batch, cut at the API's limits."""

import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError, StoreError
from batch_pipeline.records.columns import DOUBLED
from batch_pipeline.requests.compiled import EMPTY, CompiledTemplate, RecordRejected
from batch_pipeline.requests.values import python_values

ENVELOPE = len('{"requests":[') + len("]}")
"""Bytes of a batch's body around its requests."""
ROWS_AT_ONCE = 512
"""Records held in memory together."""
BYTES_AT_ONCE = 1 << 26
"""And how many bytes of them, as far as they come in more than one."""
TOO_LARGE = "too large"
ABOUT_THE_DATA = {EMPTY, TOO_LARGE}
"""Kinds of rejection that are no sign of a wrong template, even when all records have them."""
REJECTED_SCHEMA = pa.schema(
    [("_row", pa.int64()), ("_custom_id", pa.string()), ("reason", pa.string())]
)


@dataclass(frozen=True)
class Limits:
    """The most that one batch may hold: requests, and bytes of the body that is posted."""

    max_requests: int
    max_bytes: int


@dataclass(frozen=True)
class RequestFile:
    """One JSONL file.

    Attributes:
        path: where it is.
        seq: its number, from 0.
        requests: its lines.
        bytes: of the body that is posted: ``{"requests":[`` line ``,`` line ... ``]}``.
        first_row: the first record's ``_row`` in ``records.parquet``.
        last_row: the last record's, inclusive.
    """

    path: str
    seq: int
    requests: int
    bytes: int
    first_row: int
    last_row: int


@dataclass(frozen=True)
class Built:
    """What a submission's requests came to.

    Attributes:
        files: in order; no two have the same number of requests, as far as that can be arranged.
        requests: in all files.
        bytes: of all bodies.
        rejected: records that cannot be asked.
        rejected_path: Parquet of these (``_row, _custom_id, reason``), None when there are none.
        samples: the API parameters of the first three requests.
        more_tokens: of all answers together, beyond ``max_tokens`` each: earlier ones were cut short.
    """

    files: list[RequestFile]
    requests: int
    bytes: int
    rejected: int
    rejected_path: str | None
    samples: list[dict[str, Any]]
    more_tokens: int = 0


def build_requests(
    records_path: str,
    template: CompiledTemplate,
    limits: Limits,
    out_dir: str,
    on_progress: Callable[[int], None] | None = None,
) -> Built:
    """Write one request per record to ask, into files of at most ``limits``.

    Args:
        records_path: the selection's local ``records.parquet``, ascending in ``_row``.
        template: what to ask.
        limits: of one batch.
        out_dir: an existing or new folder for ``00000.jsonl``, ... and ``rejected.parquet``.
        on_progress: called with the number of records done so far, now and then.

    Raises:
        InputError: the template failed on all of two or more records in the same way.
        StoreError: the records are not in order.
    """
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    cutter = _Cutter(limits, Path(out_dir))
    rejects = _Rejects(Path(out_dir) / "rejected.parquet")
    samples: list[dict[str, Any]] = []
    more_tokens = 0
    try:
        for done, row, custom_id, record, doublings in _asked(records_path, template.columns):
            try:
                params = template.params(record, doublings)
                line = _line(custom_id, params, limits)
            except RecordRejected as rejected:
                rejects.add(row, custom_id, rejected)
            else:
                cutter.add(row, line)
                if doublings:
                    more_tokens += max(0, params["max_tokens"] - template.template.max_tokens)
                if len(samples) < 3:
                    samples.append(params)
            if on_progress and done % ROWS_AT_ONCE == 0:
                on_progress(done)
        files = cutter.finish()
        if on_progress:
            on_progress(sum(file.requests for file in files) + rejects.count)
    finally:
        cutter.close()
        rejects.close()
    if not files:
        rejects.check_not_all_alike()
    return Built(
        files=files,
        requests=sum(file.requests for file in files),
        bytes=sum(file.bytes for file in files),
        rejected=rejects.count,
        rejected_path=str(rejects.path) if rejects.count else None,
        samples=samples,
        more_tokens=more_tokens,
    )


def _line(custom_id: str, params: dict[str, Any], limits: Limits) -> bytes:
    try:
        line = orjson.dumps(
            {"custom_id": custom_id, "params": params}, option=orjson.OPT_APPEND_NEWLINE
        )
    except TypeError as error:  # a lone surrogate, a number of more than 64 bits
        raise RecordRejected(f"The request is not JSON: {error}", "json") from error
    size = len(line) - 1 + ENVELOPE
    if size > limits.max_bytes:
        reason = (
            f"The request is too large: {size:,} bytes, and a batch holds {limits.max_bytes:,}."
        )
        raise RecordRejected(reason, TOO_LARGE)
    return line


def _asked(
    path: str, columns: tuple[str, ...]
) -> Iterator[tuple[int, int, str, dict[str, Any], int]]:
    """Yield (records so far, row, custom_id, record, doublings) of each record to ask, by ascending row."""
    needed = dict.fromkeys([*columns, "_row", "_kind", "_custom_id"])
    done, before = 0, -1
    # Memory: pre-buffering holds a whole row group compressed; threads keep an arena each.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
        # What was selected by an earlier version has no such column.
        doubles = DOUBLED in file.schema_arrow.names
        if doubles:
            needed[DOUBLED] = None
        rows_at_once = _rows_at_once(file.metadata)
        for batch in file.iter_batches(rows_at_once, columns=list(needed), use_threads=False):
            asked = batch.filter(
                pc.call_function("equal", [batch.column("_kind"), pa.scalar("ask")])
            )
            rows = asked.column("_row").to_pylist()
            ids = asked.column("_custom_id").to_pylist()
            doublings = asked.column(DOUBLED).to_pylist() if doubles else [0] * len(rows)
            lists = [python_values(asked.column(name)) for name in columns]
            for number, (row, custom_id) in enumerate(zip(rows, ids, strict=True)):
                if row <= before:
                    raise StoreError(f"{path} is not in the order of _row: {row} after {before}.")
                before = row
                done += 1
                record = {name: values[number] for name, values in zip(columns, lists, strict=True)}
                yield done, row, custom_id, record, doublings[number]


def _rows_at_once(file: pq.FileMetaData) -> int:
    """Return how many records to hold in memory together: fewer of documents of many megabytes."""
    groups = [file.row_group(place) for place in range(file.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(widest, 1)))


class _Cutter:
    """Writes lines into files so that no two files have the same number of requests.

    A batch in the API's list shows its number of requests and nothing else of ours, so a distinct
    number is what ties a batch to its file when the reply to a POST was lost. File ``r`` takes at
    most ``max_requests - r`` (not below half of ``max_requests``). A file that ends at a number
    already used, because of bytes, gives its last lines to the next one.
    """

    def __init__(self, limits: Limits, out_dir: Path):
        self._limits = limits
        self._least = max(1, limits.max_requests // 2)
        self._out_dir = out_dir
        self._files: list[RequestFile] = []
        self._used: set[int] = set()
        self._open()

    def _open(self) -> None:
        self._path = self._out_dir / f"{len(self._files):05d}.jsonl"
        self._out = open(self._path, "w+b", buffering=1 << 18)
        self._most = max(self._limits.max_requests - len(self._files), self._least)
        self._rows = array("q")
        self._ends = array("q")

    def add(self, row: int, line: bytes) -> None:
        while self._rows and not self._fits(line):
            self._cut(self._distinct(len(self._rows)))
        self._put(row, line)

    def _fits(self, line: bytes) -> bool:
        size = self._ends[-1] + len(line) - 1 + ENVELOPE
        return len(self._rows) < self._most and size <= self._limits.max_bytes

    def _put(self, row: int, line: bytes) -> None:
        self._out.write(line)
        self._rows.append(row)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(line))

    def _distinct(self, count: int) -> int:
        """Return the largest unused number up to ``count``, or ``count`` when there is none."""
        least = self._least if count >= self._least else 1
        return next((n for n in range(count, least - 1, -1) if n not in self._used), count)

    def _cut(self, keep: int) -> None:
        """Close the file after ``keep`` lines; the others begin the next file."""
        done, rows, ends = self._out, self._rows, self._ends
        size = ends[keep - 1]
        self._files.append(
            RequestFile(
                str(self._path),
                len(self._files),
                keep,
                size - 1 + ENVELOPE,
                rows[0],
                rows[keep - 1],
            )
        )
        self._used.add(keep)
        self._open()
        if keep < len(rows):
            done.seek(size)
            shutil.copyfileobj(done, self._out)
            done.truncate(size)
            self._rows.extend(rows[keep:])
            self._ends.extend(end - size for end in ends[keep:])
        done.close()

    def finish(self) -> list[RequestFile]:
        """Close the last file, in two where one would have a used number, and return them all."""
        while self._rows:
            count = len(self._rows)
            keep = count
            if count in self._used:
                free = (n for n in range(count - 1, count // 2, -1))
                pairs = (n for n in free if not {n, count - n} & self._used)
                keep = next(pairs, count)
            self._cut(keep)
        return self._files

    def close(self) -> None:
        if not self._out.closed:
            self._out.close()
            os.unlink(self._path)


class _Rejects:
    """The records that cannot be asked, written as they come."""

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self._kinds: dict[str, tuple[str, str]] = {}
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: int, custom_id: str, rejected: RecordRejected) -> None:
        self.count += 1
        self._kinds.setdefault(rejected.kind, (custom_id, rejected.reason))
        reason = rejected.reason.encode(errors="replace").decode()
        self._rows.append({"_row": row, "_custom_id": custom_id, "reason": reason})
        if len(self._rows) >= ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        if not self._rows:
            return
        self._writer = self._writer or pq.ParquetWriter(
            self.path, REJECTED_SCHEMA, compression="zstd"
        )
        self._writer.write_table(pa.Table.from_pylist(self._rows, REJECTED_SCHEMA))
        self._rows = []

    def close(self) -> None:
        self._write()
        if self._writer is not None:
            self._writer.close()

    def check_not_all_alike(self) -> None:
        if self.count > 1 and len(self._kinds) == 1 and not ABOUT_THE_DATA & self._kinds.keys():
            ((custom_id, reason),) = self._kinds.values()
            raise InputError(
                f"The template failed on all {self.count:,} records, each in the same way. For "
                f"{custom_id}: {reason} Nothing was sent. Correct the template, and run again."
            )
