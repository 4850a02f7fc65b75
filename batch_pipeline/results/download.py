"""Getting a batch's answers onto our disk, and believing them only when they are complete."""

from dataclasses import dataclass
from datetime import timedelta

import orjson
from sqlalchemy import RowMapping, update

from batch_pipeline.batches.api import BatchesApi, NoSuchBatch
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store.layout import answers_name
from batch_pipeline.store.ledger import seconds_since
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, request_files

MOST_DOWNLOADS = 5
SPREAD_SECONDS = 3600.0
AGAIN_SECONDS = SPREAD_SECONDS / (MOST_DOWNLOADS - 2)  # the first pass downloads twice
TRIES_OF_FIRST_PASS = 2


class Incomplete(BatchPipelineError):
    """The results that were served are not all of them; they are fetched again later."""


@dataclass(frozen=True)
class Answers:
    """A batch's kept answers: the name of the file (None when they are gone), and what is wrong with it."""

    name: str | None
    damage: str | None


def answers_of(store: Store, api: BatchesApi, file: RowMapping) -> Answers:
    """Return the kept answers of an ended batch, downloading them first if need be.

    Raises:
        Incomplete: what was served is not complete, and there is time left to try again.
        ApiUnavailable, HeldError: the API could not be asked.
    """
    if file["answers_path"]:
        return Answers(file["answers_path"], file["error"] if file["damaged"] else None)
    if file["batch_id"] is None:
        return Answers(None, file["error"])  # a person gave it up: there is nothing to fetch
    downloads = file["downloads"]
    tries = TRIES_OF_FIRST_PASS if downloads == 0 else 1
    first = file["first_download_at"] or store.clock.now()
    damage = ""
    for _ in range(tries):
        with store.files.scratch() as folder:
            local = f"{folder}/answers"
            try:
                with open(local, "wb") as out:
                    out.writelines(api.results(file["batch_id"]))
                damage, lost = damage_of(local, file["answered"] or file["requests"]), False
            except NoSuchBatch as error:
                # One such reply proves nothing: answers are paid for, and given up only when it stays.
                damage, lost = f"the API has no answers of {file['batch_id']}: {error}", True
            downloads += 1
            _count_download(store, file, downloads, first)
            last = (
                downloads >= MOST_DOWNLOADS and seconds_since(store.clock, first) >= SPREAD_SECONDS
            )
            if damage is None or last:
                return _keep(store, file, None if lost else _place(store, file, local), damage)
    again = store.clock.now() + timedelta(seconds=AGAIN_SECONDS)
    message = (
        f"the results of {file['batch_id']} came incomplete ({damage}), download {downloads} of "
        f"{MOST_DOWNLOADS}; "
        f"fetched again after {again:%H:%M} UTC"
    )
    with store.ledger.write() as tx:
        tx.execute(
            update(request_files).where(*_still_ended(file)).values(not_before=again, error=message)
        )
    raise Incomplete(message)


def _place(store: Store, file: RowMapping, local: str) -> str:
    """Put the answers into the store, under a name that no other process writes to."""
    part = f"{file['seq']:05d}-{file['batch_id']}-{store.files.new_part()}"
    return store.files.put(local, answers_name(file["pipeline"], file["submission_id"], part))


def damage_of(path: str, expected: int) -> str | None:
    """Return what is wrong with a results file of ``expected`` lines; None when it is whole.

    A download may be cut at a line end without any error, so only the count proves that it is
    complete.
    """
    lines = unreadable = 0
    seen: set[str] = set()
    with open(path, "rb") as results:
        for line in results:
            if not line.strip():
                continue
            lines += 1
            try:
                seen.add(orjson.loads(line)["custom_id"])
            except (orjson.JSONDecodeError, KeyError, TypeError):
                unreadable += 1
    problems = []
    if lines != expected:
        problems.append(f"{lines:,} lines instead of {expected:,}")
    if unreadable:
        problems.append(f"{unreadable:,} lines that are no results")
    if len(seen) + unreadable < lines:
        problems.append(f"{lines - unreadable - len(seen):,} answers twice")
    return ", ".join(problems) or None


def _count_download(store: Store, file: RowMapping, downloads: int, first) -> None:
    with store.ledger.write() as tx:
        tx.execute(
            update(request_files)
            .where(*_still_ended(file))
            .values(downloads=downloads, first_download_at=first)
        )


def _keep(store: Store, file: RowMapping, name: str | None, damage: str | None) -> Answers:
    with store.ledger.write() as tx:
        kept = tx.execute(
            update(request_files)
            .where(*_still_ended(file))
            .values(answers_path=name, damaged=damage is not None, error=damage, not_before=None)
        )
        if not kept.rowcount:
            raise Incomplete(f"{file['id']} was collected by another process meanwhile")
    return Answers(name, damage)


def _still_ended(file: RowMapping):
    """What is collected already is not touched again, whatever an overtaken process believes."""
    return request_files.c.id == file["id"], request_files.c.state == FileState.ENDED
