"""Cutting a request file that the API finds too large into two."""

import math
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import RowMapping, select, update

from batch_pipeline.batches.policy import watch_until
from batch_pipeline.store.layout import rejected_name, request_name
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.reservations import hand_on
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, add_file, next_seq
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

SUMS = ("input", "input_p99", "input_max", "output", "output_p99", "output_max", "searches")
"""What of a file's weight is the sum over its requests; see ``requests/weight.py``."""
ENVELOPE_BYTES = len(b'{"requests":[]}')


def split(store: Store, file: RowMapping, reason: str) -> bool:
    """Replace a claimed file by two halves that are ready to be sent.

    A file of one request cannot be cut: its record is evidence enough, and is rejected.

    Returns:
        True when there are halves, False when the one record was rejected.
    """
    submission = store.ledger.rows(
        select(submissions).where(submissions.c.id == file["submission_id"])
    )[0]
    with store.files.scratch() as scratch:
        parts = (
            _halves(store, file, scratch)
            if file["requests"] > 1
            else [_rejection(store, file, reason, scratch)]
        )
        with store.ledger.write() as tx:
            seq = next_seq(tx, file["submission_id"])
        placed = []
        for offset, (local, part) in enumerate(parts):
            name = rejected_name if part.kind is FileKind.REJECTED else request_name
            # Named after the parent too, so that two processes that cut the same file never
            # collide.
            path = name(
                file["pipeline"], file["submission_id"], f"{seq + offset:05d}-of-{file['seq']:05d}"
            )
            placed.append((store.files.put(local, path), part))
    with store.ledger.write() as tx:
        moved = store.ledger.move(
            tx,
            file["id"],
            FileState.SENDING,
            FileState.SPLIT,
            reason,
            request_files.c.owner == file["owner"],
            owner=None,
            error=reason,
            watch_until=watch_until(store.clock.now()),
        )
        if moved:
            for path, part in placed:
                new = NewFile(
                    next_seq(tx, file["submission_id"]), path, part.requests, part.bytes,
                    part.first_row, part.last_row, part.kind, part_of(file, part),
                )  # fmt: skip
                state = FileState.ENDED if part.kind is FileKind.REJECTED else FileState.READY
                part_id = add_file(
                    store.ledger, tx, submission, new, state, f"cut from {file['id']}",
                    cancel_requested_at=file["cancel_requested_at"],
                )  # fmt: skip
                if state is FileState.READY:
                    hand_on(tx, file, part_id, part.requests)
            if file["requests"] == 1:
                tx.execute(
                    update(submissions)
                    .where(submissions.c.id == file["submission_id"])
                    .values(rejected=submissions.c.rejected + 1)
                )
    keep_manifests(store, [file["submission_id"]])
    return file["requests"] > 1


def _halves(store: Store, file: RowMapping, scratch: str) -> list[tuple[str, NewFile]]:
    first_count = (file["requests"] + 1) // 2
    paths = [f"{scratch}/first", f"{scratch}/second"]
    middle = ""
    with (
        store.files.open(file["path"]) as lines,
        open(paths[0], "wb") as first,
        open(paths[1], "wb") as second,
    ):
        for number, line in enumerate(lines):
            if number == first_count:
                middle = orjson.loads(line)["custom_id"]
            (first if number < first_count else second).write(line)
    row = _row_of(store, file, middle)
    sizes = [size_of(path) for path in paths]
    return [
        (paths[0], NewFile(0, None, first_count, sizes[0], file["first_row"], row - 1)),
        (
            paths[1],
            NewFile(0, None, file["requests"] - first_count, sizes[1], row, file["last_row"]),
        ),
    ]


def part_of(file: RowMapping, part: NewFile) -> dict[str, Any] | None:
    """Return what a part of a file weighs: of what all requests add up to, as much as its share.

    Of several models nobody knows here which part has which: it is weighed by its lines before it is sent.
    """
    weight = file["weight"]
    if weight is None or weight.get("others") or part.kind is FileKind.REJECTED:
        return None
    found: dict[str, Any] = {**weight, "requests": part.requests}
    for name in SUMS:
        whole, by_size = weight.get(name), name.startswith("input")
        share = part.bytes / file["bytes"] if by_size else part.requests / file["requests"]
        found[name] = None if whole is None else math.ceil(whole * share)
    return found


def _rejection(store: Store, file: RowMapping, reason: str, scratch: str) -> tuple[str, NewFile]:
    with store.files.open(file["path"]) as lines:
        custom_id = orjson.loads(lines.readline())["custom_id"]
    row = _row_of(store, file, custom_id)
    path = f"{scratch}/rejected"
    table = pa.table(
        {"_row": pa.array([row], pa.int64()), "_custom_id": [custom_id], "reason": [reason]}
    )
    pq.write_table(table, path)
    return path, NewFile(0, None, 1, 0, row, row, FileKind.REJECTED)


def _row_of(store: Store, file: RowMapping, custom_id: str) -> int:
    records = store.ledger.rows(
        select(submissions.c.records_path).where(submissions.c.id == file["submission_id"])
    )[0]["records_path"]
    with store.files.local(records) as path, duckdb.connect() as connection:
        found = connection.execute(
            "select _row from read_parquet(?) where _custom_id = ?", [path, custom_id]
        ).fetchone()
    assert found is not None, f"{custom_id} is in {file['path']} but not in {records}"
    return found[0]


def size_of(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, 2) - 1 + ENVELOPE_BYTES
