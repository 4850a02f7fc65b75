"""Submissions in the ledger: begun by a selection, built into request files, or abandoned."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import (
    OPEN,
    FileKind,
    FileState,
    endpoints,
    generations,
    numbers,
    request_files,
    submissions,
)


@dataclass(frozen=True)
class Endpoint:
    """Who is asked: a base URL, and the organization and workspace that its replies name."""

    base_url: str
    organization: str
    workspace: str

    @property
    def id(self) -> str:
        """A short name for this endpoint, the same for ever."""
        text = "\n".join((self.base_url, self.organization, self.workspace))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differs_from(self, other: "Endpoint") -> bool:
        """Whether both name their account, and not the same one."""
        return any(
            mine and yours and mine != yours
            for mine, yours in (
                (self.organization, other.organization),
                (self.workspace, other.workspace),
            )
        )

    def __str__(self) -> str:
        """The endpoint as a message names it."""
        names = [name for name in (self.organization, self.workspace) if name]
        return f"{self.base_url} ({', '.join(names)})" if names else self.base_url


@dataclass(frozen=True)
class Scope:
    """What a stage works on: one partition of one pipeline ("" when it has none), at one endpoint."""

    pipeline: str
    partition: str
    endpoint: Endpoint


@dataclass(frozen=True)
class IndexRow:
    """An index file that counts."""

    name: str
    number: int
    partition: str


@dataclass(frozen=True)
class Situation:
    """What a selection reads before it decides; committing it compares ``generation``."""

    generation: int
    index: list[IndexRow]
    settled: list[
        str
    ]  # submissions with nothing on its way, whose retryable rows nobody has looked at


@dataclass(frozen=True)
class NewFile:
    """A request file that a build wrote."""

    seq: int
    path: str | None
    requests: int
    bytes: int
    first_row: int
    last_row: int
    kind: FileKind = FileKind.BATCH


@dataclass(frozen=True)
class NewSelection:
    """A selection to commit."""

    id: str
    version: str
    records_path: str | None
    index_path: str
    counts: dict[str, Any] = field(default_factory=dict)


def know_endpoint(ledger: Ledger, endpoint: Endpoint) -> None:
    """Write an endpoint down, once."""
    if ledger.rows(select(endpoints.c.id).where(endpoints.c.id == endpoint.id)):
        return
    with suppress(IntegrityError), ledger.write() as tx:  # another process writes it down, too
        add_endpoint(tx, endpoint)


def add_endpoint(tx: Connection, endpoint: Endpoint) -> None:
    """Write an endpoint down unless it is there."""
    if tx.execute(select(endpoints.c.id).where(endpoints.c.id == endpoint.id)).first():
        return
    tx.execute(
        insert(endpoints).values(
            id=endpoint.id,
            base_url=endpoint.base_url,
            organization=endpoint.organization,
            workspace=endpoint.workspace,
        )
    )


def known_endpoints(ledger: Ledger, base_url: str) -> list[Endpoint]:
    """Return the endpoints that a base URL was found to be."""
    columns = endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace
    rows = ledger.rows(select(*columns).where(endpoints.c.base_url == base_url))
    return [Endpoint(**row) for row in rows]


def asked_elsewhere(ledger: Ledger, scope: Scope) -> Endpoint | None:
    """Return the account at the same address for which a pipeline was asked, when it never was here.

    A key that was moved to another workspace finds nothing of what was asked: it would all be asked,
    and paid, once more.
    """
    built = (
        select(submissions.c.endpoint_id)
        .where(submissions.c.pipeline == scope.pipeline, submissions.c.state == "built")
        .distinct()
    )
    columns = endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace
    rows = ledger.rows(
        select(*columns).where(
            endpoints.c.id.in_(built), endpoints.c.base_url == scope.endpoint.base_url
        )
    )
    found = [Endpoint(**row) for row in rows]
    return found[0] if found and scope.endpoint not in found else None


def abandon_unbuilt(ledger: Ledger, scope: Scope) -> int:
    """Drop selections that nobody built, so that their records are selected afresh. Returns how many."""
    with ledger.write() as tx:
        return tx.execute(
            update(submissions)
            .where(*_in_scope(scope), submissions.c.state == "selected")
            .values(state="abandoned")
        ).rowcount


def situation(ledger: Ledger, scope: Scope) -> Situation:
    """Return the index files that count for a scope's endpoint, over all partitions of the pipeline."""
    try:
        with ledger.write() as tx:
            if not tx.execute(
                select(numbers.c.last).where(numbers.c.pipeline == scope.pipeline)
            ).first():
                tx.execute(insert(numbers).values(pipeline=scope.pipeline, last=0))
    except IntegrityError:
        pass  # another selection wrote the row first
    try:
        with ledger.write() as tx:
            if _generation(tx, scope) is None:
                tx.execute(
                    insert(generations).values(
                        pipeline=scope.pipeline, partition=scope.partition, generation=0
                    )
                )
    except IntegrityError:
        pass  # another selection wrote the row first
    with ledger.read() as tx:
        generation = _generation(tx, scope)
        assert generation is not None
        mine = (
            submissions.c.pipeline == scope.pipeline,
            submissions.c.endpoint_id == scope.endpoint.id,
            submissions.c.state != "abandoned",
        )
        selected = select(
            submissions.c.index_path, submissions.c.number, submissions.c.partition
        ).where(*mine)
        collected = (
            select(request_files.c.index_path, submissions.c.number, submissions.c.partition)
            .join(submissions, submissions.c.id == request_files.c.submission_id)
            .where(*mine, request_files.c.index_path.is_not(None))
        )
        index = [
            IndexRow(*row) for query in (selected, collected) for row in tx.execute(query) if row[0]
        ]
        # Whatever their endpoint: what was asked elsewhere cannot be retried here, and a sensor
        # that went on asking for it would never be quiet.
        settled = tx.execute(
            select(submissions.c.id).where(
                submissions.c.pipeline == scope.pipeline,
                submissions.c.partition == scope.partition,
                submissions.c.state == "built",
                submissions.c.retried_at.is_(None),
                submissions.c.id.not_in(_open_submissions(scope)),
            )
        )
        return Situation(generation, index, list(settled.scalars()))


def commit_selection(
    ledger: Ledger, scope: Scope, read: Situation, new: NewSelection | None, *, complete: bool
) -> int | None:
    """Make a selection count, unless another one was committed since ``read``.

    A selection that asks for nothing (``new`` is None) is committed too: when ``complete`` (not
    limited to a part of the records) it has looked at every settled submission's retryable rows.

    Returns:
        The submission's number (0 when there is none); None when the race is lost: discard the
        files, select again.
    """
    now = ledger.clock.now()
    with ledger.write() as tx:
        won = tx.execute(
            update(generations)
            .where(
                generations.c.pipeline == scope.pipeline,
                generations.c.partition == scope.partition,
                generations.c.generation == read.generation,
            )
            .values(generation=read.generation + 1)
        ).rowcount
        if not won:
            return None
        if complete and read.settled:
            tx.execute(
                update(submissions).where(submissions.c.id.in_(read.settled)).values(retried_at=now)
            )
        if new is None:
            return 0
        number = _next_number(tx, scope.pipeline)
        tx.execute(
            insert(submissions).values(
                id=new.id,
                pipeline=scope.pipeline,
                partition=scope.partition,
                number=number,
                state="selected",
                endpoint_id=scope.endpoint.id,
                version=new.version,
                created_at=now,
                records_path=new.records_path,
                index_path=new.index_path,
                counts=new.counts,
            )
        )
        return number


def unbuilt(ledger: Ledger, scope: Scope) -> Sequence[RowMapping]:
    """Return the selections that wait for their request files, oldest first."""
    return ledger.rows(
        select(submissions)
        .where(*_in_scope(scope), submissions.c.state == "selected")
        .order_by(submissions.c.number)
    )


def abandon(ledger: Ledger, submission_id: str) -> bool:
    """Drop one selection that nobody built. Returns whether it was still there to drop."""
    with ledger.write() as tx:
        dropped = tx.execute(
            update(submissions)
            .where(submissions.c.id == submission_id, submissions.c.state == "selected")
            .values(state="abandoned")
        )
        return bool(dropped.rowcount)


def commit_build(
    ledger: Ledger,
    submission: RowMapping,
    files: Sequence[NewFile],
    *,
    rejected_path: str | None,
    rejected: int,
    estimate_nanousd: int | None,
    question: dict[str, Any],
) -> bool:
    """Make request files count. Returns False when another process built or dropped the submission first."""
    batches = [file for file in files if file.kind is FileKind.BATCH]
    with ledger.write() as tx:
        won = tx.execute(
            update(submissions)
            .where(submissions.c.id == submission["id"], submissions.c.state == "selected")
            .values(
                state="built",
                requests=sum(file.requests for file in batches),
                bytes=sum(file.bytes for file in batches),
                rejected_path=rejected_path,
                rejected=rejected,
                estimate_nanousd=estimate_nanousd,
                question=question,
            )
        ).rowcount
        if not won:
            return False
        for file in files:
            # Rows that need no API are, so to speak, answered already.
            state = FileState.READY if file.kind is FileKind.BATCH else FileState.ENDED
            add_file(ledger, tx, submission, file, state, "written")
        return True


def add_file(
    ledger: Ledger,
    tx: Connection,
    submission: RowMapping | Mapping[str, Any],
    file: NewFile,
    state: FileState,
    note: str,
    **values: Any,
) -> str:
    """Add a request file's row to a submission and return its id."""
    file_id = f"{submission['id']}/{file.seq:05d}"
    tx.execute(
        insert(request_files).values(
            id=file_id,
            submission_id=submission["id"],
            pipeline=submission["pipeline"],
            partition=submission["partition"],
            endpoint_id=submission["endpoint_id"],
            number=submission["number"],
            seq=file.seq,
            kind=file.kind,
            path=file.path,
            requests=file.requests,
            bytes=file.bytes,
            first_row=file.first_row,
            last_row=file.last_row,
            state=state,
            **values,
        )
    )
    ledger.record(tx, file_id, submission["pipeline"], submission["partition"], None, state, note)
    return file_id


def next_seq(tx: Connection, submission_id: str) -> int:
    """Return a number for one more file of a submission."""
    last = tx.execute(
        select(func.max(request_files.c.seq)).where(request_files.c.submission_id == submission_id)
    ).scalar()
    return 0 if last is None else last + 1


def index_files(ledger: Ledger, pipeline: str) -> list[IndexRow]:
    """Return every index file of a pipeline that counts, whatever its endpoint."""
    mine = submissions.c.pipeline == pipeline, submissions.c.state != "abandoned"
    selected = select(
        submissions.c.index_path, submissions.c.number, submissions.c.partition
    ).where(*mine)
    collected = (
        select(request_files.c.index_path, submissions.c.number, submissions.c.partition)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(*mine)
    )
    with ledger.read() as tx:
        return [
            IndexRow(*row) for query in (selected, collected) for row in tx.execute(query) if row[0]
        ]


def _open_submissions(scope: Scope):
    """The submissions of a scope that still have a file on its way."""
    return select(request_files.c.submission_id).where(
        request_files.c.pipeline == scope.pipeline,
        request_files.c.partition == scope.partition,
        request_files.c.state.in_(OPEN),
    )


def _in_scope(scope: Scope):
    return (
        submissions.c.pipeline == scope.pipeline,
        submissions.c.partition == scope.partition,
        submissions.c.endpoint_id == scope.endpoint.id,
    )


def _generation(tx: Connection, scope: Scope) -> int | None:
    return tx.execute(
        select(generations.c.generation).where(
            generations.c.pipeline == scope.pipeline, generations.c.partition == scope.partition
        )
    ).scalar()


def _next_number(tx: Connection, pipeline: str) -> int:
    """Count up a pipeline's submissions; the row is locked until the transaction ends."""
    return tx.execute(
        update(numbers)
        .where(numbers.c.pipeline == pipeline)
        .values(last=numbers.c.last + 1)
        .returning(numbers.c.last)
    ).scalar_one()
