"""Ending a file that was asked live: its replies go into the store, and what has none is cut off it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import duckdb
from sqlalchemy import Connection, RowMapping, delete, select

from batch_pipeline.batches.cancel import WITHDRAWN
from batch_pipeline.batches.evidence import custom_id_in
from batch_pipeline.batches.split import part_of, size_of
from batch_pipeline.errors import counted
from batch_pipeline.store import live
from batch_pipeline.store.layout import answers_name, request_name
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.reservations import hand_on_live
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, add_file, next_seq
from batch_pipeline.store.tables import (
    FileState,
    live_requests,
    request_files,
    reservations,
    submissions,
)

Outcome = Literal["answered", "lost", "unasked"]
MOST_TRIES = 5  # another file of the submission may be cut at the same time


@dataclass
class _Part:
    """A run of requests of a file that have the same outcome."""

    outcome: Outcome
    custom_ids: list[str]
    path: str
    first_row: int = 0
    last_row: int = 0


def count(store: Store, file: RowMapping) -> dict[Outcome, int]:
    """Return how many requests of a file have a reply, have none that is known, and were not asked."""
    found = live.asked(store.ledger, file["id"])
    answered = sum(found.values())
    lost = len(found) - answered
    return {"answered": answered, "lost": lost, "unasked": file["requests"] - len(found)}


def finish(store: Store, file: RowMapping, unasked: Literal["send", "withdraw"]) -> None:
    """End a file that its owner asks no further.

    Requests with a reply are answered; a person decides about those whose reply was lost; what was not asked
    is sent in a batch, or was cancelled by a person.

    Args:
        store: where the files and the ledger are.
        file: its row, with its owner's lease.
        unasked: what becomes of requests that were not asked.
    """
    outcomes = count(store, file)
    if not outcomes["lost"] and not outcomes["unasked"]:
        _end(store, file)
        return
    for _ in range(MOST_TRIES):
        if _cut(store, file, unasked):
            break
    keep_manifests(store, [file["submission_id"]])


def take_late_replies(store: Store, pipeline: str) -> list[str]:
    """End the files that waited for a person, and whose replies came after all; return their ids."""
    waiting = store.ledger.rows(
        select(request_files).where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.HELD,
            request_files.c.id.in_(select(live_requests.c.file_id).distinct()),
        )
    )
    taken = []
    for file in waiting:
        outcomes = count(store, file)
        if outcomes["answered"] == file["requests"] and _end(store, file, FileState.HELD):
            taken.append(file["id"])
    return taken


def _end(store: Store, file: RowMapping, come_from: FileState = FileState.ASKING) -> bool:
    """Put the replies of a file into the store: it has ended."""
    custom_ids = [custom_id for custom_id, _ in _lines(store, file)]
    owner = [request_files.c.owner == file["owner"]] if come_from is FileState.ASKING else []
    with store.files.scratch() as folder:
        name = _keep(store, file, file["seq"], custom_ids, folder)
        with store.ledger.write() as tx:
            ended = store.ledger.move(
                tx,
                file["id"],
                come_from,
                FileState.ENDED,
                f"asked live: {counted(len(custom_ids), 'reply', 'replies')}",
                *owner,
                owner=None,
                lease_until=None,
                not_before=None,
                error=None,
                batch_id=live.live_id(file["submission_id"], file["seq"]),
                **_ended(store, name, len(custom_ids)),
            )
            if ended:
                live.forget(tx, file["id"])
    return ended


def _ended(store: Store, answers: str, requests: int) -> dict[str, Any]:
    now = store.clock.now()
    return {
        "answers_path": answers,
        "answered": requests,
        "ended_at": now,
        "attempt_ended_at": now,
    }


def _keep(store: Store, file: RowMapping, seq: int, custom_ids: list[str], folder: str) -> str:
    """Put replies into the store, as the results of a batch would be; return the name of the file."""
    with open(f"{folder}/answers", "wb") as out:
        out.writelines(live.replies(store.ledger, file["id"], custom_ids))
    batch = live.live_id(file["submission_id"], seq)
    part = f"{seq:05d}-{batch}-{store.files.new_part()}"
    name = answers_name(file["pipeline"], file["submission_id"], part)
    return store.files.put(f"{folder}/answers", name)


def _lines(store: Store, file: RowMapping) -> Iterator[tuple[str, bytes]]:
    """Yield the requests of a file in their order, each with its custom_id."""
    with store.files.open(file["path"]) as lines:
        for line in lines:
            custom_id = custom_id_in(line)
            assert custom_id is not None, f"{file['path']} holds a line that is no request"
            yield custom_id, line


def _cut(store: Store, file: RowMapping, unasked: Literal["send", "withdraw"]) -> bool:
    """Replace a file by parts of one outcome each; False: another file of its submission was cut meanwhile."""
    ledger = store.ledger
    mine = select(submissions).where(submissions.c.id == file["submission_id"])
    submission = ledger.rows(mine)[0]
    with store.files.scratch() as folder:
        parts = _parts(store, file, submission["records_path"], folder)
        with ledger.read() as tx:
            first = next_seq(tx, file["submission_id"])
        placed: list[tuple[NewFile, _Part, dict[str, Any]]] = []
        for seq, part in enumerate(parts, start=first):
            size = size_of(part.path)
            name = request_name(
                file["pipeline"], file["submission_id"], f"{seq:05d}-of-{file['seq']:05d}"
            )
            new = NewFile(
                seq, store.files.put(part.path, name), len(part.custom_ids), size,
                part.first_row, part.last_row,
            )  # fmt: skip
            values: dict[str, Any] = {}
            if part.outcome == "answered":
                values = _ended(
                    store, _keep(store, file, seq, part.custom_ids, folder), len(part.custom_ids)
                )
            placed.append((NewFile(**{**vars(new), "weight": part_of(file, new)}), part, values))
        with ledger.write() as tx:
            if next_seq(tx, file["submission_id"]) != first:
                return False
            moved = ledger.move(
                tx,
                file["id"],
                FileState.ASKING,
                FileState.SPLIT,
                "asked live, and not all of it has a reply",
                request_files.c.owner == file["owner"],
                owner=None,
                lease_until=None,
                not_before=None,
                batch_id=None,
            )
            if moved:
                for new, part, values in placed:
                    _add(store, tx, submission, file, new, part, values, unasked)
                tx.execute(
                    delete(reservations).where(
                        reservations.c.file_id == file["id"],
                        reservations.c.attempt == file["attempts"],
                    )
                )
                live.forget(tx, file["id"])
    return True


def _add(
    store: Store,
    tx: Connection,
    submission: RowMapping,
    file: RowMapping,
    new: NewFile,
    part: _Part,
    values: dict[str, Any],
    unasked: Literal["send", "withdraw"],
) -> None:
    """Add a part of a file that was cut, as its outcome says."""
    ledger, now = store.ledger, store.clock.now()
    note = f"cut from {file['id']}"
    was_asked = {name: file[name] for name in ("attempts", "first_sent_at", "sent_at", "label")}
    match part.outcome:
        case "answered":
            batch = live.live_id(file["submission_id"], new.seq)
            part_id = add_file(
                ledger, tx, submission, new, FileState.ENDED, note, batch_id=batch,
                batch_created_at=file["batch_created_at"], **was_asked, **values,
            )  # fmt: skip
            hand_on_live(tx, file, part_id, new.requests, now, lost=False)
        case "lost":
            error = _lost_said(ledger, file, f"{submission['id']}/{new.seq:05d}", new.requests)
            part_id = add_file(
                ledger, tx, submission, new, FileState.HELD, note, error=error,
                attempt_ended_at=now, **was_asked,
            )  # fmt: skip
            # It is held for what is not known of it, and not because it was refused.
            ledger.record(
                tx, part_id, file["pipeline"], file["partition"], FileState.ASKING, FileState.HELD, error
            )  # fmt: skip
            live.hand_over(tx, file["id"], part_id, part.custom_ids)
            hand_on_live(tx, file, part_id, new.requests, now, lost=True)
        case "unasked" if unasked == "send":
            add_file(ledger, tx, submission, new, FileState.READY, note)
        case "unasked":
            add_file(
                ledger, tx, submission, new, FileState.ENDED, WITHDRAWN, error=WITHDRAWN,
                cancel_requested_at=file["cancel_requested_at"] or now, ended_at=now,
            )  # fmt: skip


def _lost_said(ledger, file: RowMapping, part_id: str, requests: int) -> str:
    """Return why requests whose replies were lost are held, and what a person can do."""
    why = live.why_lost(ledger, file["id"]) or "whoever asked is gone"
    return (
        f"{counted(requests, 'request')} asked live at {file['sent_at']:%Y-%m-%d %H:%M} UTC, and no reply is known ({why}). "
        "The API has no list of such requests, so they may have been paid or not, and nothing asks them again by "
        "itself. If the Console's usage shows that they were not billed, or paying once more is right: "
        f"`batch-pipeline held --resend {part_id}` sends them in a batch"
    )


def _parts(store: Store, file: RowMapping, records: str, folder: str) -> list[_Part]:
    """Write the requests of a file into local files, one for each run of the same outcome."""
    asked = live.asked(store.ledger, file["id"])
    parts: list[_Part] = []

    def outcome(request: tuple[str, bytes]) -> Outcome:
        replied = asked.get(request[0])
        return "unasked" if replied is None else "answered" if replied else "lost"

    for found, run in groupby(_lines(store, file), key=outcome):
        part = _Part(found, [], f"{folder}/part-{len(parts)}")
        with open(part.path, "wb") as out:
            for custom_id, line in run:
                part.custom_ids.append(custom_id)
                out.write(line)
        parts.append(part)
    rows = _rows_of(store, records, [part.custom_ids[0] for part in parts])
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        part.first_row = rows[part.custom_ids[0]]
        part.last_row = file["last_row"] if after is None else rows[after.custom_ids[0]] - 1
    parts[0].first_row = file["first_row"]
    return parts


def _rows_of(store: Store, records: str, custom_ids: list[str]) -> dict[str, int]:
    with store.files.local(records) as path, duckdb.connect() as connection:
        return dict(
            connection.execute(
                "select _custom_id, _row from read_parquet(?) where _custom_id in (select unnest(?))",
                [path, custom_ids],
            ).fetchall()
        )
