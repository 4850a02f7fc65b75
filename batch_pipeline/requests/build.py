"""Requests on disk: JSONL files, each of them the body of one batch, cut at the API's limits."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError
from batch_pipeline.requests.cache_groups import CacheGroups
from batch_pipeline.requests.compiled import (
    EMPTY,
    FILE,
    CompiledTemplate,
    RecordRejected,
    request_line,
)
from batch_pipeline.requests.correction import Correction, corrected
from batch_pipeline.requests.cutter import ENVELOPE, Cutter, Limits, RequestFile
from batch_pipeline.requests.expression import Lines, LineWriter, line_writer
from batch_pipeline.requests.pieces import Piece, read_pieces

PROGRESS_ROWS = 512
"""Records until progress is told for the first time; then after twice as many each time."""
REJECTED_AT_ONCE = 512
SAMPLES = 3
"""Requests that are shown."""
TRIED_FIRST = 16
"""Lines that SQL made and that are compared with what the template makes, before any counts; then one
in each piece."""
TOO_LARGE = "too large"
ABOUT_THE_DATA = {EMPTY, FILE, TOO_LARGE}
"""Kinds of rejection that are no sign of a wrong template, even when all records have them."""
REJECTED_SCHEMA = pa.schema(
    [("_row", pa.int64()), ("_custom_id", pa.string()), ("reason", pa.string())]
)


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
        groups: of requests that share a text by ``cache_by``; None: the question has none.
    """

    files: list[RequestFile]
    requests: int
    bytes: int
    rejected: int
    rejected_path: str | None
    samples: list[dict[str, Any]]
    more_tokens: int = 0
    groups: CacheGroups | None = None


def build_requests(
    records_path: str,
    template: CompiledTemplate,
    limits: Limits,
    out_dir: str,
    on_progress: Callable[[int], None] | None = None,
    groups: CacheGroups | None = None,
) -> Built:
    """Write one request per record to ask, into files of at most ``limits``.

    Args:
        records_path: the selection's local ``records.parquet``, ascending in ``_row``.
        template: what to ask.
        limits: of one batch.
        out_dir: an existing or new folder for ``00000.jsonl``, ... and ``rejected.parquet``.
        on_progress: called with the number of records done so far, now and then.
        groups: which records share a text that is to be cached; None: none.

    Raises:
        InputError: the template failed on all of two or more records in the same way.
        StoreError: the records are not in order.
    """
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    form = template.form()
    building = _Building(template, limits, Path(out_dir))
    told, next_told = 0, PROGRESS_ROWS
    # Memory: pre-buffering holds a whole row group compressed; threads keep an arena each.
    with (
        building,
        pq.ParquetFile(records_path, pre_buffer=False, buffer_size=1 << 16) as file,
        line_writer(form, template.reads, file.schema_arrow) as writer,
    ):
        line_bytes = sum(map(len, form.constants)) if form else 0
        for piece in read_pieces(file, records_path, template.reads, line_bytes):
            if groups is not None:
                piece = replace(piece, marked=groups.marked(piece.rows))
            building.add(piece, writer)
            told += len(piece)
            while on_progress and told >= next_told:
                on_progress(next_told)
                next_told *= 2
        built = replace(building.finish(), groups=groups)
    if on_progress:
        on_progress(built.requests + built.rejected)
    return built


class _Building:
    """Requests on their way into files."""

    def __init__(self, template: CompiledTemplate, limits: Limits, folder: Path):
        self._template = template
        self._limits = limits
        self._cutter = Cutter(limits, folder, template.template.cache_seed)
        self._rejects = _Rejects(folder / "rejected.parquet")
        self._samples: list[dict[str, Any]] = []
        self._more_tokens = 0
        self._is_alike = True
        self._tried = TRIED_FIRST

    def __enter__(self) -> "_Building":
        return self

    def __exit__(self, *error: object) -> None:
        self._cutter.close()
        self._rejects.close()

    def add(self, piece: Piece, writer: LineWriter | None) -> None:
        """Write the requests of some records: in one go, and one by one those that the writer leaves."""
        lines = None
        if writer and self._is_alike and len(self._samples) >= SAMPLES:
            lines = writer.write(piece)
        if lines is None or not self._agrees(piece, lines):
            self._add_each(piece, range(len(piece)))
            return
        largest = self._limits.max_bytes - ENVELOPE + 1
        left = dict.fromkeys(lines.left)
        starts = [0, *lines.ends[:-1]]
        left |= {
            place: None
            for place, (start, end) in enumerate(zip(starts, lines.ends, strict=True))
            if end - start > largest
        }
        done = 0
        for place in sorted(left):
            self._add_lines(piece, lines, done, place)
            self._add_each(piece, [place])
            done = place + 1
        self._add_lines(piece, lines, done, len(piece))

    def _add_lines(self, piece: Piece, lines: Lines, start: int, stop: int) -> None:
        if start == stop:
            return
        begin = lines.ends[start - 1] if start else 0
        ends = lines.ends[start:stop]
        if begin:
            ends = [end - begin for end in ends]
        self._cutter.add(piece.rows[start:stop], ends, lines.text[begin:])

    def _add_each(self, piece: Piece, places: Sequence[int]) -> None:
        template = self._template
        for place, custom_id, record in piece.at(places):
            row, doublings = piece.rows[place], piece.doublings[place]
            correction = piece.corrections[place] if piece.corrections else None
            try:
                params = template.params(record, doublings, piece.is_marked(place))
                params, line = self._made(custom_id, params, correction)
            except RecordRejected as rejected:
                self._rejects.add(row, custom_id, rejected)
                continue
            self._cutter.add([row], [len(line)], memoryview(line))
            if doublings:
                self._more_tokens += max(0, params["max_tokens"] - template.template.max_tokens)
            if len(self._samples) < SAMPLES:
                self._samples.append(params)

    def _made(
        self, custom_id: str, params: dict[str, Any], correction: Correction | None
    ) -> tuple[dict[str, Any], bytes]:
        """Return a request and its line: with the earlier answer where that is wanted and can be."""
        further = correction and corrected(params, correction)
        if further:
            # With the answer it may be too large: it is asked as before, then.
            with suppress(RecordRejected):
                return further, self._line(custom_id, further)
        return params, self._line(custom_id, params)

    def _line(self, custom_id: str, params: dict[str, Any]) -> bytes:
        line = request_line(custom_id, params)
        size = len(line) - 1 + ENVELOPE
        if size > self._limits.max_bytes:
            reason = f"The request is too large: {size:,} bytes, and a batch holds {self._limits.max_bytes:,}."
            raise RecordRejected(reason, TOO_LARGE)
        most = self._template.most_bytes
        if most is not None and len(line) > most:
            reason = f"The request is too large with its files: {len(line):,} bytes, and the API takes {most:,}."
            raise RecordRejected(reason, TOO_LARGE)
        return line

    def _agrees(self, piece: Piece, lines: Lines) -> bool:
        """Whether some of the lines are what the template makes of these records; else none counts."""
        left = set(lines.left)
        places = [place for place in range(len(piece)) if place not in left]
        some = places[:: max(1, len(places) // self._tried)][: self._tried]
        self._tried = 1
        for place, custom_id, record in piece.at(some):
            try:
                params = self._template.params(record, marked=piece.is_marked(place))
                line = request_line(custom_id, params)
            except RecordRejected:
                line = b""
            self._is_alike = self._is_alike and line == lines.line(place)
        return self._is_alike

    def finish(self) -> Built:
        """Close the files, and return what it came to.

        Raises:
            InputError: the template failed on all records in the same way.
        """
        files = self._cutter.finish()
        self._rejects.close()
        if not files:
            self._rejects.check_not_all_alike()
        return Built(
            files=files,
            requests=sum(file.requests for file in files),
            bytes=sum(file.bytes for file in files),
            rejected=self._rejects.count,
            rejected_path=str(self._rejects.path) if self._rejects.count else None,
            samples=self._samples,
            more_tokens=self._more_tokens,
        )


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
        if len(self._rows) >= REJECTED_AT_ONCE:
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
