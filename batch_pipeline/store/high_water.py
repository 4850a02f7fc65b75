"""What the store's files prove that its ledger must know.

A ledger that was restored from a backup, a replica that lags behind, or a new one in the place of
another does not know what was sent since. The files do: a manifest is written after the ledger has
committed what it says, and a note before each attempt of sending, after the ledger has committed
that. So a ledger that lacks one of them is older than the files. What a crash leaves behind (files
of a selection that was never built) has no manifest, and proves nothing.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
from sqlalchemy import RowMapping, func, select

from batch_pipeline.errors import StoreError, counted
from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import live_name, sent_name
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import OPEN, FileState, request_files, submissions, transitions

SUBMISSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
MANIFEST = re.compile(r"manifest-(\d+)\.json")
SENT = re.compile(r"(\d{5})-(\d{4,})")
RESULT = re.compile(r"(\d{5})-.+\.parquet")
NOT_ANSWERED = (
    FileState.READY,
    FileState.SENDING,
    FileState.UNKNOWN,
    FileState.HELD,
    FileState.ASKING,
)
REMOTE_SECONDS = 60.0  # how long a look at an object store is believed
SHOWN = 3

_LOOKED: dict[tuple[str, str], tuple[float, int]] = {}
"""Root and ledger; when this process last found all well there, and how long the history was."""


@dataclass(frozen=True)
class Behind:
    """A submission of which the ledger knows less than the files.

    Attributes:
        submission: its id.
        what: what the ledger does not know.
    """

    submission: str
    what: str


def note_attempt(files: Files, file: RowMapping) -> None:
    """Leave a note in the store that a request file is about to be sent."""
    name = sent_name(file["pipeline"], file["submission_id"], file["seq"], file["attempts"])
    _note(files, name)


def note_live(files: Files, file: RowMapping) -> None:
    """Leave a note in the store that the requests of a file are about to be asked live, which no list will tell."""
    note_attempt(files, file)
    _note(files, live_name(file["pipeline"], file["submission_id"], file["seq"]))


def _note(files: Files, name: str) -> None:
    with files.scratch() as folder:
        with open(f"{folder}/sent", "wb") as out:
            out.write(b"sent\n")
        files.put(f"{folder}/sent", name)


def check(files: Files, ledger: Ledger) -> None:
    """Refuse a ledger that is older than the files.

    Raises:
        StoreError: it is; the text says what it does not know, and what to do.
    """
    key = files.base, ledger.url
    length = _history(ledger)
    looked = _LOOKED.get(key)
    if (
        not files.is_local
        and looked is not None
        and time.monotonic() - looked[0] < REMOTE_SECONDS
        and length >= looked[1]
    ):
        _LOOKED[key] = looked[0], length  # a history that gets shorter is another ledger's
        return
    found = behind(files, ledger)
    if not found:
        _LOOKED[key] = time.monotonic(), length
        return
    shown = "; ".join(f"{one.submission}: {one.what}" for one in found[:SHOWN])
    raise StoreError(
        f"The ledger at {ledger.shown} is older than the files of the store at {files.root}: of "
        f"{counted(len(found), 'submission')} it does not know what the files tell ({shown}). It was restored from a "
        "backup, is a replica that lags behind, or is a new one in the place of another. What was sent and paid since "
        "would be sent again; nothing was. If BatchStore(ledger=...) names the wrong database, set it right. Else run "
        "`batch-pipeline rebuild-ledger`, which adds what is missing."
    )


def behind(files: Files, ledger: Ledger) -> list[Behind]:
    """Return the submissions of which the ledger knows less than the files."""
    folders = submission_folders(files)  # listed before the ledger is read: it must know all of it
    if not folders:
        return []
    known = _known(ledger)
    found = _unknown(files, ledger, folders, known)
    with_work = _open(ledger)
    suspects = [
        one for one in with_work if _less(_told(files, folders.get(one, ())), with_work[one])
    ]
    if suspects:
        told = {one: _told(files, folders.get(one, ())) for one in suspects}
        now = _open(ledger)  # somebody may have gone on meanwhile
        found += [
            Behind(one, what)
            for one in suspects
            if one in now and (what := _less(told[one], now[one]))
        ]
    return sorted(found, key=lambda one: one.submission)


def submission_folders(files: Files) -> dict[str, list[str]]:
    """Return the submissions that have files: id to folders, of which a renamed pipeline's has two."""
    found: dict[str, list[str]] = {}
    for pipeline in files.folders(""):
        for name in files.folders(pipeline):
            if SUBMISSION.fullmatch(name):
                found.setdefault(name, []).append(f"{pipeline}/{name}")
    return found


def _history(ledger: Ledger) -> int:
    with ledger.read() as tx:
        return tx.execute(select(func.max(transitions.c.id))).scalar() or 0


def _known(ledger: Ledger) -> dict[str, str]:
    rows = ledger.rows(select(submissions.c.id, submissions.c.state))
    known = {row["id"]: row["state"] for row in rows}
    selected = [one for one, state in known.items() if state == "selected"]
    built = ledger.rows(
        select(request_files.c.submission_id).where(request_files.c.submission_id.in_(selected))
    )
    return known | {row["submission_id"]: "built" for row in built}


def _unknown(
    files: Files, ledger: Ledger, folders: dict[str, list[str]], known: dict[str, str]
) -> list[Behind]:
    """Return the submissions that were built by what their manifests say, and are not in the ledger."""
    found: list[tuple[Behind, str]] = []
    own = False
    for submission, places in folders.items():
        if known.get(submission, "selected") != "selected":
            own = own or known[submission] == "built"
            continue
        manifests = [
            f"{place}/{name}"
            for place in places
            for name in files.file_names(place)
            if MANIFEST.fullmatch(name)
        ]
        if not manifests:
            continue
        if _state(ledger, submission) not in (None, "selected"):
            continue  # it was built while we looked, or began then
        found.append((Behind(submission, "all of it"), _ledger_of(files, max(manifests))))
    # A ledger that has work of its own here may stand beside files of one that was given up.
    return [one for one, whose in found if whose in (ledger.id, "") or not own]


def _state(ledger: Ledger, submission: str) -> str | None:
    rows = ledger.rows(select(submissions.c.state).where(submissions.c.id == submission))
    return rows[0]["state"] if rows else None


def _ledger_of(files: Files, manifest: str) -> str:
    """Return the id of the ledger that a manifest was written from; "" when it cannot be read."""
    try:
        with files.open(manifest) as file:
            return str(orjson.loads(file.read())["ledger"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass
class _Stand:
    """How far a submission is: its files, and by their number the attempts and whether answers came."""

    files: int
    attempts: dict[int, int]
    answered: set[int]


def _open(ledger: Ledger) -> dict[str, _Stand]:
    """Return what the ledger says of each submission that has work on its way."""
    with_work = select(request_files.c.submission_id).where(request_files.c.state.in_(OPEN))
    rows = ledger.rows(
        select(
            request_files.c.submission_id,
            request_files.c.seq,
            request_files.c.state,
            request_files.c.attempts,
        ).where(request_files.c.submission_id.in_(with_work))
    )
    found: dict[str, _Stand] = {}
    for row in rows:
        one = found.setdefault(row["submission_id"], _Stand(0, {}, set()))
        one.files += 1
        one.attempts[row["seq"]] = row["attempts"]
        if row["state"] not in NOT_ANSWERED:
            one.answered.add(row["seq"])
    return found


def _told(files: Files, places: Iterable[str]) -> _Stand:
    """Return what the files tell of a submission."""
    found = _Stand(0, {}, set())
    for place in places:
        for name in files.file_names(place):
            if part := MANIFEST.fullmatch(name):
                found.files = max(found.files, int(part[1]))
        for seq, attempt in attempts_in(files.file_names(f"{place}/sent")):
            found.attempts[seq] = max(attempt, found.attempts.get(seq, 0))
        for name in files.file_names(f"{place}/results"):
            if part := RESULT.fullmatch(name):
                found.answered.add(int(part[1]))
    return found


def attempts_in(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return what the notes of sending say: the number of a file, and that of the attempt."""
    found = (SENT.fullmatch(name) for name in names)
    return [(int(part[1]), int(part[2])) for part in found if part]


def _less(told: _Stand, known: _Stand) -> str:
    """Return what the ledger does not know of a submission; "" when it knows all that the files tell."""
    if told.files > known.files:
        return f"{told.files - known.files} of its {told.files} files"
    for seq, attempt in sorted(told.attempts.items()):
        if seq not in known.answered and attempt > known.attempts.get(seq, 0):
            return f"that file {seq:05d} was sent"
    for seq in sorted(told.answered):
        if seq in known.attempts and seq not in known.answered:
            return f"that file {seq:05d} was answered"
    return ""
