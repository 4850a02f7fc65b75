"""Files of ready requests, one ``{"custom_id": ..., "params": {...}}`` a line, read as records.

Every line is read once, in Python, because only that tells the same parameters in another order from other
parameters. No more than a line and a few megabytes are held; DuckDB works on the Parquet that this makes.
"""

import gzip
import hashlib
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import duckdb
import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError, plain
from batch_pipeline.records.connections import quote_files
from batch_pipeline.records.parquet_files import list_files
from batch_pipeline.records.sources import CUSTOM_ID, PARAMS, PARAMS_HASH, RequestFiles
from batch_pipeline.settings import project_path

ENDINGS = (".jsonl", ".jsonl.gz")
"""What the names of files in a folder end with that are read."""
LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""What a line holds, in a text or not, that has a number of more than 64 bits."""
ROWS_AT_ONCE = 2_048
BYTES_AT_ONCE = 4_000_000
EXAMPLES = 5
FILE, LINE = "_bp_place", "_bp_line"
SCHEMA = pa.schema(
    [
        (CUSTOM_ID, pa.string()),
        (PARAMS, pa.string()),
        (PARAMS_HASH, pa.string()),
        (FILE, pa.int32()),
        (LINE, pa.int64()),
    ]
)
COLUMNS = {CUSTOM_ID: "VARCHAR", PARAMS: "VARCHAR", PARAMS_HASH: "VARCHAR"}
"""The columns of the view ``source`` over such files, and their DuckDB types."""


@contextmanager
def view_lines(
    connection: duckdb.DuckDBPyConnection, source: RequestFiles, seconds: float | None = None
) -> Iterator[None]:
    """Make the view ``source`` of the lines of files, for a block.

    Args:
        connection: gets the view.
        source: the files.
        seconds: how long the reading may take; None: as long as it takes.

    Raises:
        InputError: there is no file, or a line is no request, or two lines have one custom_id.
        TimeoutError: it took longer.
    """
    files = request_files(source)
    with tempfile.TemporaryDirectory(
        prefix="batch-pipeline-", ignore_cleanup_errors=True
    ) as folder:
        path = f"{folder}/lines.parquet"
        _read(files, path, None if seconds is None else time.monotonic() + seconds)
        lines = f"read_parquet({quote_files([path])})"
        connection.execute(f"CREATE TEMP VIEW source AS SELECT {', '.join(COLUMNS)} FROM {lines}")
        _check_each_once(connection, lines, files)
        yield


def request_files(source: RequestFiles) -> list[str]:
    """Return the files that a source's path names.

    Raises:
        InputError: there are none.
    """
    path = project_path(source.path)
    found = list(list_files(path, ENDINGS))
    if not found:
        raise InputError(
            f"No file of requests matches {path}. Correct `path` (relative paths start at the project root), or write "
            "the files first. In a folder, names must end with .jsonl or .jsonl.gz; names that begin with `_` or `.` "
            "are passed over."
        )
    return found


def _read(files: list[str], path: str, deadline: float | None) -> None:
    """Write what all lines say into a Parquet file."""
    rows: list[tuple[str, str, str, int, int]] = []
    size = 0
    # Without dictionaries: nothing repeats, and one of 50 MB texts would be held.
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=False) as out:  # fmt: skip

        def write() -> None:
            nonlocal size
            if rows:
                columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), SCHEMA, strict=True)]  # fmt: skip
                out.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
                rows.clear()
                size = 0

        for place, file in enumerate(files):
            for number, line in _lines(file):
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                custom_id, params = _request(line, f"{file}, line {number:,}")
                # Not one expression: of a long line, the one copy goes before the other comes.
                digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS))
                text = orjson.dumps(params).decode()
                rows.append((custom_id, text, digest.hexdigest(), place, number))
                size += len(text)
                if len(rows) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                    write()
        write()


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line of a file that is not blank."""
    try:
        with fsspec.open(file, "rb") if "://" in file else open(file, "rb") as raw:
            stream = cast(io.BufferedIOBase, raw)
            opened = gzip.GzipFile(fileobj=stream) if file.endswith(".gz") else stream
            for number, line in enumerate(opened, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise InputError(
            f"{file} cannot be read: {plain(str(error))}. Write it anew, or leave it out."
        ) from error


def _request(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
    """Return the custom_id and the parameters of a line.

    Raises:
        InputError: it is no request; the message begins with ``where``.
    """
    form = 'Each line must be {"custom_id": "...", "params": {...}}. Nothing was sent.'
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        begins = plain(line[:60].decode("utf-8", "replace").strip())
        raise InputError(f"{where} is no JSON ({error}): {begins!r} ... {form}") from None
    if not isinstance(found, dict):
        raise InputError(f"{where} is JSON, but no object: {plain(repr(found)):.60}. {form}")
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        said = "has no custom_id" if custom_id is None else f"has the custom_id {custom_id!r:.60}, which is no text"  # fmt: skip
        raise InputError(f"{where} {said}. {form}")
    if not isinstance(found.get("params"), dict):
        said = "has no params" if found.get("params") is None else f"has params that are no object: {found['params']!r:.60}"  # fmt: skip
        raise InputError(f"{where} {plain(said)}. {form}")
    if LONG_NUMBER.search(line) and (number := _too_long(line)):
        raise InputError(
            f"{where} has the number {number:.40}, which has more than 64 bits: it would be sent as another one. Write it "
            "as text, or shorter. Nothing was sent."
        )
    if more := found.keys() - {"custom_id", "params"}:
        raise InputError(
            f"{where} has `{plain(min(more))}` beside custom_id and params, which a batch does not take. {form}"
        )
    return custom_id, found["params"]


def _too_long(line: bytes) -> str | None:
    """Return a whole number of a line's JSON that cannot be sent as it is; None when there is none."""
    found: list[str] = []

    def number(text: str) -> int:
        if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
            found.append(text)
        return 0

    with suppress(RecursionError):
        json.loads(line, parse_int=number)
    return found[0] if found else None


def _check_each_once(connection: duckdb.DuckDBPyConnection, lines: str, files: list[str]) -> None:
    """Check that no two lines have one custom_id.

    Raises:
        InputError: some have; it names up to five, and where both are.
    """
    found = connection.execute(
        f"SELECT {CUSTOM_ID}, list({FILE} ORDER BY {FILE}, {LINE})[:2], list({LINE} ORDER BY {FILE}, {LINE})[:2]"
        f" FROM {lines} GROUP BY {CUSTOM_ID} HAVING count(*) > 1 ORDER BY 1 LIMIT {EXAMPLES}"
    ).fetchall()
    if not found:
        return
    shown = "; ".join(
        f"{plain(custom_id)} ({' and '.join(f'{files[place]}, line {line:,}' for place, line in zip(places, numbers, strict=True))})"
        for custom_id, places, numbers in found
    )
    raise InputError(
        f"Two lines have the same custom_id, which is the key: {shown}. Give each request its own. Nothing was sent."
    )
