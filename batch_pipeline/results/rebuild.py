"""Making a lost ledger again, from the store's files; and lost rows, from the kept answers.

What was collected is read from the results as they stand. A batch whose answers are kept is joined
again. Of every other request file nobody knows here whether it was sent: it is reconciled with the
API's list like any file without a reply, so nothing is bought twice.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from batch_pipeline.errors import StoreError, counted
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.results.download import Lines, read_lines
from batch_pipeline.results.file_records import custom_ids_of
from batch_pipeline.results.join import FINAL
from batch_pipeline.store.high_water import attempts_in, behind
from batch_pipeline.store.layout import OWNER, safe_part
from batch_pipeline.store.manifest import read_manifest
from batch_pipeline.store.renaming import read_note, take_over_again
from batch_pipeline.store.reservations import forget_reservations, reserve_for_what_was_sent
from batch_pipeline.store.store import Store, own, owner_of
from batch_pipeline.store.submissions import Endpoint, NewFile, add_endpoint, add_file
from batch_pipeline.store.tables import (
    FileKind,
    FileState,
    is_live,
    numbers,
    request_files,
    submissions,
)

MANIFEST = re.compile(r"(?P<pipeline>[^/]+)/(?P<submission>[^/]+)/manifest-(?P<files>\d+)\.json")
RENAMED = re.compile(r"[^/]+/renamed-to-[^/]+\.json")
# <file's number>-<batch id, or what stands for it>-<6 random hex digits>
PART = re.compile(r"(?P<seq>\d{5})-(?P<batch>.+)-[0-9a-f]{6}\.(jsonl|parquet)")

COLLECTED = """
select _status, count(*), count(*) filter (where _cost_usd is null),
       coalesce(sum(cast(round(cast(_cost_usd as decimal(38, 15)) * 1000000000) as hugeint)), 0),
       coalesce(sum(_input_tokens), 0), coalesce(sum(_output_tokens), 0),
       coalesce(sum(_cache_read_tokens), 0), coalesce(sum(_cache_write_tokens), 0),
       any_value(_batch_id), max(_answered_at),
       count(*) filter (where _cost_usd is not distinct from 0 and _input_tokens is null)
from read_parquet({results}) group by all order by all
"""


@dataclass
class Rebuilt:
    """What a ledger was made of again.

    Attributes:
        submissions: how many.
        files: request files of these.
        collected: files whose rows are in the store.
        kept: files whose answers are kept, and are joined again by the next collect run.
        unknown: files that may have been sent; the API's list tells.
        skipped: what could not be read, one message each.
        guard: the ledger knew all, and only the file that says so was damaged.
    """

    submissions: int = 0
    files: int = 0
    collected: int = 0
    kept: int = 0
    unknown: int = 0
    skipped: list[str] = field(default_factory=list)
    guard: bool = False

    @property
    def lines(self) -> list[str]:
        """All of it, for a person."""
        if self.guard:
            return [
                f"The ledger knows all that the store's files tell; {OWNER}, which was damaged, is written anew"
            ]
        return [
            f"Written into the ledger again: {counted(self.submissions, 'submission')} with {counted(self.files, 'file')}",
            f"Collected before, with their rows in the store: {counted(self.collected, 'file')}",
            f"With their answers kept, for the next collect run to join: {counted(self.kept, 'file')}",
            f"Possibly sent; the API's list tells, before anything is sent: {counted(self.unknown, 'file')}",
            *self.skipped,
        ]


def rebuild(store: Store) -> Rebuilt:
    """Fill an empty ledger with what the store's files tell, or add to an older one what it lacks.

    Args:
        store: opened with ``lost=True``.

    Raises:
        StoreError: the ledger knows all that the files tell, the files belong to several ledgers, or
            there are none.
    """
    with store.ledger.read() as tx:
        is_empty = not tx.execute(select(func.count()).select_from(submissions)).scalar_one()
    if not is_empty and not behind(store.files, store.ledger):
        if _guard_is_damaged(store):
            own(store)
            return Rebuilt(guard=True)
        raise StoreError(
            f"The ledger at {store.ledger.shown} is not empty, and it knows all that the store's files tell, so it is "
            "not rebuilt. If it is damaged, move it away first (its files: the name, and the name with -wal and -shm)."
        )
    names = store.files.names("")
    report = Rebuilt()
    manifests = []
    for name in _newest_manifests(names):
        try:
            manifests.append(read_manifest(store, name))
        except (OSError, ValueError, KeyError, TypeError) as error:
            report.skipped.append(
                f"{name} cannot be read ({error}): what it was about is asked again"
            )
    notes = _renamed(store, names, manifests)
    ledgers = sorted({manifest["ledger"] for manifest in manifests})
    if store.ledger.id in ledgers and not is_empty:
        # Files of a ledger that was given up before this one began are not its own.
        manifests = [one for one in manifests if one["ledger"] == store.ledger.id]
        ledgers = [store.ledger.id]
    if not ledgers and not report.skipped and _guard_is_damaged(store):
        own(store)  # nothing was ever built here: what a crash left is selected afresh
        return Rebuilt(guard=True)
    if len(ledgers) != 1:
        raise StoreError(
            f"The store at {store.files.root} has files of {len(ledgers)} ledgers"
            f"{': ' + ', '.join(ledgers) if ledgers else ''}. A ledger can be rebuilt from the "
            "files of one; check BatchStore(root=...)."
        )
    found = [
        _submission(store, manifest, names)
        for manifest in sorted(manifests, key=lambda one: one["submission"]["number"])
    ]
    its_own = {one.row["id"] for one in found}
    # All of it or nothing: a ledger that knows a part would have the rest asked again.
    with store.ledger.write() as tx:
        for note in notes:
            if not its_own.isdisjoint(note["submissions"]):
                take_over_again(tx, note)
        for one in found:
            if is_empty or not _mend(store, tx, one, report):
                _add(store, tx, one, report)
        _count_on(tx)
        reserve_for_what_was_sent(tx)
        store.ledger.rename(tx, ledgers[0])
    own(store)
    return report


def _guard_is_damaged(store: Store) -> bool:
    try:
        return not owner_of(store)
    except FileNotFoundError:
        return False  # the next run writes it


def _newest_manifests(names: set[str]) -> list[str]:
    """Return, of each submission, the manifest that was written last: the one with the most files."""
    newest: dict[str, tuple[int, str]] = {}
    for name in names:
        if found := MANIFEST.fullmatch(name):
            one = found["submission"]  # under its pipeline's name, or under the one of before
            newest[one] = max(newest.get(one, (0, "")), (int(found["files"]), name))
    return sorted(name for _, name in newest.values())


ASKED_LIVE = (
    "Its requests were asked live, and the ledger that had the replies is lost. The API has no list of such requests, so "
    "they may have been paid or not, and nothing asks them again by itself: a person decides"
)
"""Why a file of a ledger that was made again waits for a person."""


@dataclass
class _Found:
    """A submission as the store's files tell it: its row, and its files with where they stand."""

    endpoint: Endpoint
    row: dict[str, Any]
    files: list[tuple[dict[str, Any], FileState, dict[str, Any]]]


def _submission(store: Store, manifest: dict[str, Any], names: set[str]) -> _Found:
    submission, endpoint = manifest["submission"], Endpoint(**manifest["endpoint"])
    parts = _parts(submission["id"], names)
    cut = {seq for file in manifest["files"] if (seq := _cut_from(file["path"]))}
    live = {seq for seq, found in parts.items() if found["live"]}
    files = []
    for file in manifest["files"]:
        seq = f"{file['seq']:05d}"
        asked_live = seq in live or (_cut_from(file["path"]) in live and not parts[seq]["sent"])
        state, values = (
            (FileState.SPLIT, {})
            if seq in cut
            else _state_of(store, submission, file, parts[seq], asked_live=asked_live)
        )
        files.append((file, state, values))
    retryable = sum(values.get("retryable") or 0 for _, _, values in files)
    row = submission | {"state": "built", "endpoint_id": endpoint.id, "retryable": retryable}
    return _Found(endpoint, row, files)


def _add(store: Store, tx: Connection, found: _Found, report: Rebuilt) -> None:
    add_endpoint(tx, found.endpoint)
    tx.execute(insert(submissions).values(**found.row))
    report.submissions += 1
    for file, state, values in found.files:
        new = NewFile(
            file["seq"], file["path"], file["requests"], file["bytes"],
            file["first_row"], file["last_row"], FileKind(file["kind"]),
        )  # fmt: skip
        add_file(store.ledger, tx, found.row, new, state, "from the store's files", **values)
        report.files += 1
        report.collected += state is FileState.COLLECTED
        report.unknown += state is FileState.UNKNOWN
        report.kept += state is not FileState.COLLECTED and bool(values.get("answers_path"))


def _mend(store: Store, tx: Connection, found: _Found, report: Rebuilt) -> bool:
    """Tell a ledger what it does not know of a submission that it has; False when it has it not."""
    one = found.row
    known = tx.execute(select(submissions).where(submissions.c.id == one["id"])).mappings().first()
    if known is None or known["state"] != "built":
        tx.execute(delete(submissions).where(submissions.c.id == one["id"]))
        taken = select(submissions.c.number).where(
            submissions.c.pipeline == one["pipeline"], submissions.c.number == one["number"]
        )
        if tx.execute(taken).first():  # it was used again since: this one goes behind all others
            last = select(func.max(submissions.c.number)).where(
                submissions.c.pipeline == one["pipeline"]
            )
            one["number"] = tx.execute(last).scalar_one() + 1
        return False
    rows = tx.execute(select(request_files).where(request_files.c.submission_id == one["id"]))
    there = {row["seq"]: row for row in rows.mappings()}
    scope = {name: known[name] for name in ("id", "pipeline", "partition", "endpoint_id", "number")}
    gained = 0
    for file, state, values in found.files:
        row = there.get(file["seq"])
        if row is None:
            new = NewFile(
                file["seq"], file["path"], file["requests"], file["bytes"],
                file["first_row"], file["last_row"], FileKind(file["kind"]),
            )  # fmt: skip
            add_file(store.ledger, tx, scope, new, state, "from the store's files", **values)
        elif not _is_further(row, state, values):
            continue
        else:
            forget_reservations(tx, row["id"])
            tx.execute(
                update(request_files)
                .where(request_files.c.id == row["id"])
                .values(state=state, owner=None, lease_until=None, not_before=None, **values)
            )
            store.ledger.record(
                tx, row["id"], row["pipeline"], row["partition"], row["state"], state,
                "from the store's files: the ledger was older",
            )  # fmt: skip
        gained += values.get("retryable") or 0
        report.files += 1
        report.collected += state is FileState.COLLECTED
        report.unknown += state is FileState.UNKNOWN
        report.kept += state is not FileState.COLLECTED and bool(values.get("answers_path"))
    if gained:
        tx.execute(
            update(submissions)
            .where(submissions.c.id == one["id"])
            .values(retryable=submissions.c.retryable + gained)
        )
    return True


def _is_further(row: Any, state: FileState, values: dict[str, Any]) -> bool:
    """Whether a file stands further by what the store tells than a ledger knows that is older.

    Of a file that was ready then, nobody knows whether it was sent since: the API's list tells.
    """
    if row["state"] in (FileState.COLLECTED, FileState.SPLIT):
        return False
    if state in (FileState.COLLECTED, FileState.SPLIT):
        return True
    if row["kind"] not in (FileKind.BATCH, FileKind.LATE):
        return False
    return row["state"] == FileState.READY or (
        row["state"] == FileState.HELD and values.get("attempts", 0) > row["attempts"]
    )


def _parts(submission: str, names: set[str]) -> dict[str, dict[str, list[str]]]:
    """Return what there is of each file of a submission: names by kind of folder, by its number.

    Of a pipeline that was renamed, they may lie under both of its names.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(name for name in names if f"/{submission}/" in name):
        folders = name.split("/")
        if len(folders) != 4 or folders[1] != submission:
            continue
        if folders[2] in ("sent", "live"):
            found[folders[3][:5]][folders[2]].append(name)
        elif part := PART.fullmatch(folders[3]):
            found[part["seq"]][folders[2]].append(name)
    return found


def _renamed(
    store: Store, names: set[str], manifests: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Give submissions the names that their pipelines have by now; the notes of that, oldest first."""
    notes = [read_note(store, name) for name in names if RENAMED.fullmatch(name)]
    notes.sort(key=lambda note: note["at"])
    for note in notes:
        went_over = set(note["submissions"])
        for manifest in manifests:
            one = manifest["submission"]
            if one["pipeline"] == note["from"] and one["id"] in went_over:
                one["pipeline"] = note["to"]
    return notes


def _cut_from(path: str | None) -> str | None:
    """Return the number of the file that a request file was cut from."""
    found = re.search(r"/\d{5}-of-(\d{5})\.", path or "")
    return found[1] if found else None


def _state_of(
    store: Store,
    submission: dict[str, Any],
    file: dict[str, Any],
    parts: dict[str, list[str]],
    *,
    asked_live: bool = False,
) -> tuple[FileState, dict[str, Any]]:
    """Tell where a file stands, from what there is of it, and what the ledger is to say of it.

    Of one that was ``asked_live``, no list tells what was paid.
    """
    asks = file["kind"] in (FileKind.BATCH, FileKind.LATE)
    indexes = {one: one.replace("/results/", "/index/") for one in parts["results"]}
    for results, index in sorted(indexes.items(), key=lambda one: one[1] not in parts["index"]):
        # Where answers were pruned, rows tell all: the next collect run makes their index again.
        if index in parts["index"] or (asks and not parts["answers"]):
            return FileState.COLLECTED, _collected(store, file, results, index, parts["answers"])
    sent = {
        "attempts": _attempts(file["seq"], parts["sent"]),
        "first_sent_at": file["first_sent_at"] or submission["created_at"],
        "sent_at": file["first_sent_at"] or submission["created_at"],
        "attempt_ended_at": store.clock.now(),
    }
    if not asks:
        return FileState.ENDED, {}
    if file["batch_id"]:
        sent |= {name: file[name] for name in ("batch_id", "batch_created_at")}
    batch_id = file["batch_id"] or _batch_of(parts["answers"])
    if is_live(batch_id) and parts["answers"]:
        # Which batch that was, the replies' own name tells: no list does.
        kept = _kept(store, submission, file, parts["answers"])
        return FileState.ENDED, sent | {"batch_id": batch_id, "ended_at": store.clock.now()} | kept
    if is_live(batch_id) or (batch_id is None and asked_live):
        return FileState.HELD, sent | {"error": ASKED_LIVE, "batch_id": None}
    if batch_id is None:
        return FileState.UNKNOWN, sent
    # Whether and when it ended, the API tells; its answers are not fetched again.
    return FileState.IN_PROGRESS, sent | {"batch_id": batch_id} | _kept(
        store, submission, file, parts["answers"]
    )


def _attempts(seq: int, notes: list[str]) -> int:
    """Return how often a file was about to be sent, at least once for all that is known."""
    found = attempts_in(name.rsplit("/", 1)[1] for name in notes)
    return max((attempt for one, attempt in found if one == seq), default=1)


def _batch_of(answers: list[str]) -> str | None:
    for name in answers:
        part = PART.fullmatch(name.rsplit("/", 1)[1])
        # Of an id that could not stand in a file's name, nothing is left: the list tells.
        if part and part["batch"] == safe_part(part["batch"]):
            return part["batch"]
    return None


def _kept(
    store: Store, submission: dict[str, Any], file: dict[str, Any], answers: list[str]
) -> dict[str, Any]:
    """Return which kept answers of a batch are the best, and whether they are whole."""
    best: tuple[int, str, str | None] | None = None
    for name in answers:
        lines = Lines(custom_ids_of(store, file, submission), file["requests"])
        read_lines(store, name, lines)
        if best is None or lines.lost < best[0]:
            best = (lines.lost, name, lines.damage)
    if best is None:
        return {}
    lost, name, damage = best
    return {
        "answers_path": name,
        "damaged": lost > 0,
        "error": damage if lost else None,
        "downloads": 1 if lost else 0,
        "first_download_at": store.clock.now() if lost else None,
    }


def _collected(
    store: Store, file: dict[str, Any], results: str, index: str, answers: list[str]
) -> dict[str, Any]:
    """Return what the ledger says of a file whose rows are there."""
    with memory_connection() as connection:
        store.files.register(connection)
        query = COLLECTED.format(results=quote_files([store.files.url(results)]))
        found = connection.execute(query).fetchall()
    asks = file["kind"] in (FileKind.BATCH, FileKind.LATE)
    statuses = {row[0]: row[1] for row in found}
    # A duplicate of what was asked has a row that costs nothing and has no tokens.
    once = sum(row[1] - row[10] for row in found if row[0] == "answered")
    batch_id = next((row[8] for row in found if row[8]), None)
    now = store.clock.now()
    return {
        "results_path": results,
        "index_path": index,
        "answers_path": answers[0] if answers else None,
        "damaged": asks and "missing" in statuses,
        "batch_id": batch_id if asks else None,
        "first_sent_at": file["first_sent_at"],
        "attempts": 1 if asks and batch_id else 0,
        "ended_at": max((row[9] for row in found if row[9]), default=now),
        "statuses": statuses,
        "tokens": dict(
            zip(
                ("input", "output", "cache_read", "cache_write"),
                (int(sum(row[place] for row in found)) for place in range(4, 8)),
                strict=True,
            )
        )
        | ({"answered": once} if asks and 0 < once < statuses["answered"] else {}),
        "cost_nanousd": int(sum(row[3] for row in found)) if asks else 0,
        "cost_unknown": sum(row[2] for row in found) if asks and batch_id else 0,
        "retryable": sum(count for status, count in statuses.items() if status not in FINAL)
        if asks
        else 0,
        "collected_at": now,
    }


def _count_on(tx: Connection) -> None:
    """Let new submissions get higher numbers than those of old."""
    highest = tx.execute(
        select(submissions.c.pipeline, func.max(submissions.c.number)).group_by(
            submissions.c.pipeline
        )
    ).all()
    tx.execute(delete(numbers))
    for pipeline, number in highest:
        tx.execute(insert(numbers).values(pipeline=pipeline, last=number))
