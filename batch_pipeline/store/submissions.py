"""Submissions in the ledger: begun by a selection, built into request files, or abandoned."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.addresses import normal_address, same_address
from batch_pipeline.store.compactions import read_compactions
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.scopes import is_of
from batch_pipeline.store.tables import (
    OPEN,
    FileKind,
    FileState,
    approvals,
    candidates,
    endpoints,
    generations,
    holds,
    numbers,
    request_files,
    reservations,
    sources,
    submissions,
)
from batch_pipeline.store.variants import ESCALATED, partition_of, shown, variant_of


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

    def is_account_of(self, other: "Endpoint") -> bool:
        """Whether both are the same organization and workspace, and say so."""
        mine, yours = (self.organization, self.workspace), (other.organization, other.workspace)
        return any(mine) and mine == yours

    def __str__(self) -> str:
        """The endpoint as a message names it."""
        names = [name for name in (self.organization, self.workspace) if name]
        return f"{self.base_url} ({', '.join(names)})" if names else self.base_url


@dataclass(frozen=True)
class Scope:
    """What a stage works on: one partition of one pipeline ("" when it has none), at one endpoint.

    Where a pipeline has variants it is one variant of one partition: ``partition`` is what the ledger
    calls both (see ``variants.py``).
    """

    pipeline: str
    partition: str
    endpoint: Endpoint

    @property
    def key(self) -> str:
        """The partition's key alone."""
        return partition_of(self.partition)

    @property
    def variant(self) -> str:
        """The variant; "" when there are none."""
        return variant_of(self.partition)

    @property
    def title(self) -> str:
        """The scope as a message names it."""
        return f"{self.pipeline} {shown(self.partition)}".strip()


@dataclass(frozen=True)
class IndexRow:
    """An index file that counts."""

    name: str
    number: int
    partition: str
    request: str | None = None  # a hash of what its requests had in common, if that is known
    rows: str | None = None  # the file of the rows that it is about
    answers: str | None = None  # the kept answers that these were made of
    is_selection: bool = False  # it says what was selected, and not what came of that
    settles: bool = True  # it says more than what was asked
    compacted: str | None = None  # the compaction that has its rows
    place: int | None = None  # its place in that


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
    weight: dict[str, Any] | None = None  # tokens of its requests


@dataclass(frozen=True)
class NewSelection:
    """A selection to commit."""

    id: str
    version: str
    records_path: str | None
    index_path: str
    counts: dict[str, Any] = field(default_factory=dict)


REQUEST = submissions.c.question["request"].as_string()
"""The hash of what a submission's requests have in common; NULL for those of earlier versions."""

KEPT = request_files.c.results_path, request_files.c.answers_path
"""Where the rows of an index file are, and the answers that they were made of."""


def betas_of(ledger: Ledger, submission_id: str) -> tuple[str, ...]:
    """Return the betas that a submission's batches are created with, as it was built."""
    rows = ledger.rows(
        select(submissions.c.question).where(submissions.c.id == submission_id).limit(1)
    )
    question = (rows[0]["question"] if rows else None) or {}
    return tuple(question.get("betas") or ())


def know_endpoint(ledger: Ledger, endpoint: Endpoint, aliases: Collection[str] = ()) -> Endpoint:
    """Return an endpoint as the ledger knows it, however its address is spelled; a new one is written down.

    Where the ledger knows several that are one, by their spelling or because ``aliases`` says so, the
    one that was asked first goes on, and the work of the others becomes its own.

    Args:
        ledger: where endpoints are known.
        endpoint: the address in force, and the account that its replies name.
        aliases: other addresses of the same API.
    """
    found, goes_on = _known_as(ledger, endpoint, aliases)
    if goes_on is None:
        with suppress(IntegrityError), ledger.write() as tx:  # another process writes it down, too
            add_endpoint(tx, endpoint)
        return endpoint
    others = [one.id for one in found if one != goes_on]
    if others and _has_work(ledger, others):
        _make_one(ledger, goes_on.id, others)
    return goes_on


def known_as(ledger: Ledger, endpoint: Endpoint, aliases: Collection[str] = ()) -> Endpoint:
    """Return an endpoint as the ledger knows it, and as it is when it does not; nothing is changed."""
    return _known_as(ledger, endpoint, aliases)[1] or endpoint


def _known_as(
    ledger: Ledger, endpoint: Endpoint, aliases: Collection[str]
) -> tuple[list[Endpoint], Endpoint | None]:
    """Return the endpoints of the ledger that are this one, and which of them goes on."""
    found = _the_same(known_endpoints(ledger, endpoint.base_url, *aliases), endpoint)
    if len(found) < 2:
        return found, found[0] if found else None
    ids = [one.id for one in found]
    asked = ledger.rows(
        select(submissions.c.endpoint_id, func.min(submissions.c.created_at).label("first"))
        .where(submissions.c.endpoint_id.in_(ids))
        .group_by(submissions.c.endpoint_id)
    )
    first = {row["endpoint_id"]: row["first"] for row in asked}
    if not first:
        return found, endpoint if endpoint in found else found[0]
    return found, min((one for one in found if one.id in first), key=lambda one: first[one.id])


def _the_same(known: Sequence[Endpoint], endpoint: Endpoint) -> list[Endpoint]:
    """Return those that are the endpoint: of its account; else the only account that may be."""
    account = endpoint.organization, endpoint.workspace
    exact = [one for one in known if (one.organization, one.workspace) == account]
    others = [one for one in known if one not in exact and not one.differs_from(endpoint)]
    elsewhere = [one for one in others if not same_address(one.base_url, [endpoint.base_url])]
    # An alias may hide the account that the other address names.
    accounts = {(one.organization, one.workspace) for one in elsewhere}
    return [*exact, *elsewhere] if len(accounts) == 1 else exact


def _has_work(ledger: Ledger, endpoint_ids: Sequence[str]) -> bool:
    with ledger.read() as tx:
        return any(
            tx.execute(
                select(table.c.endpoint_id).where(table.c.endpoint_id.in_(endpoint_ids)).limit(1)
            ).first()
            for table in (submissions, request_files, holds, candidates)
        )


def _make_one(ledger: Ledger, goes_on: str, others: Sequence[str]) -> None:
    """Give one endpoint all that the ledger has of others."""
    with ledger.write() as tx:
        # A selection that did not see these as its own is made again.
        moved = select(submissions.c.pipeline).where(submissions.c.endpoint_id.in_(others))
        tx.execute(
            update(generations)
            .where(generations.c.pipeline.in_(moved))
            .values(generation=generations.c.generation + 1)
        )
        for table in (submissions, request_files, reservations, approvals):
            tx.execute(
                update(table).where(table.c.endpoint_id.in_(others)).values(endpoint_id=goes_on)
            )
        # A hold is about an address, and is found out again.
        tx.execute(holds.delete().where(holds.c.endpoint_id.in_(others)))
        for other in others:
            known = select(candidates.c.batch_id).where(candidates.c.endpoint_id == goes_on)
            theirs = candidates.c.endpoint_id == other
            tx.execute(candidates.delete().where(theirs, candidates.c.batch_id.in_(known)))
            tx.execute(update(candidates).where(theirs).values(endpoint_id=goes_on))


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


def known_endpoints(ledger: Ledger, *addresses: str) -> list[Endpoint]:
    """Return the endpoints that addresses were found to be, however they were spelled then."""
    columns = endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace
    rows = ledger.rows(select(*columns).order_by(endpoints.c.id))
    wanted = {normal_address(address) for address in addresses}
    return [Endpoint(**row) for row in rows if normal_address(row["base_url"]) in wanted]


def asked_at(ledger: Ledger, pipeline: str) -> list[Endpoint]:
    """Return the endpoints at which a pipeline was asked, the latest first."""
    last = func.max(submissions.c.number).label("last")
    rows = ledger.rows(
        select(endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace, last)
        .join(submissions, submissions.c.endpoint_id == endpoints.c.id)
        .where(submissions.c.pipeline == pipeline, submissions.c.state == "built")
        .group_by(endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace)
        .order_by(last.desc())
    )
    return [Endpoint(row["base_url"], row["organization"], row["workspace"]) for row in rows]


def asked_elsewhere(ledger: Ledger, scope: Scope) -> Endpoint | None:
    """Return where a pipeline was asked when it never was here: of another account at this address, or
    of this account at another address.

    What was asked there would not be found: it would all be asked, and paid, once more.
    """
    found = asked_at(ledger, scope.pipeline)
    if scope.endpoint in found:
        return None
    return next(
        (
            one
            for one in found
            if same_address(one.base_url, [scope.endpoint.base_url])
            or one.is_account_of(scope.endpoint)
        ),
        None,
    )


def abandon_unbuilt(ledger: Ledger, scope: Scope) -> int:
    """Drop selections that nobody built, so that their records are selected afresh. Returns how many."""
    with ledger.write() as tx:
        return tx.execute(
            update(submissions)
            .where(*_in_scope(scope), submissions.c.state == "selected")
            .values(state="abandoned")
        ).rowcount


def situation(ledger: Ledger, scope: Scope) -> Situation:
    """Return the index files that count for a scope's endpoint and variant, over all partitions of the pipeline."""
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
        about = submissions.c.number, submissions.c.partition, REQUEST
        selected = select(submissions.c.index_path, *about).where(*mine)
        collected = (
            select(request_files.c.index_path, *about, *KEPT)
            .join(submissions, submissions.c.id == request_files.c.submission_id)
            .where(*mine, request_files.c.index_path.is_not(None))
        )
        index = [
            IndexRow(name, number, partition_of(partition), *rest)
            for query in (selected, collected)
            for name, number, partition, *rest in tx.execute(query)
            if name and variant_of(partition) == scope.variant
        ]
        index = placed(tx, scope.pipeline, index)
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


def take_generation(tx: Connection, scope: Scope, read: Situation) -> bool:
    """Begin the next generation of a scope; False: another process has begun it since ``read``."""
    return bool(
        tx.execute(
            update(generations)
            .where(
                generations.c.pipeline == scope.pipeline,
                generations.c.partition == scope.partition,
                generations.c.generation == read.generation,
            )
            .values(generation=read.generation + 1)
        ).rowcount
    )


def commit_selection(
    ledger: Ledger,
    scope: Scope,
    read: Situation,
    new: NewSelection | None,
    *,
    complete: bool,
    counts: Mapping[str, int] | None = None,
) -> int | None:
    """Make a selection count, unless another one was committed since ``read``.

    A selection that asks for nothing (``new`` is None) is committed too: when ``complete`` (not
    limited to a part of the records) it has looked at every settled submission's retryable rows.
    ``counts`` is what it found in the source.

    Returns:
        The submission's number (0 when there is none); None when the race is lost: discard the
        files, select again.
    """
    now = ledger.clock.now()
    with ledger.write() as tx:
        if not take_generation(tx, scope, read):
            return None
        if complete and read.settled:
            tx.execute(
                update(submissions).where(submissions.c.id.in_(read.settled)).values(retried_at=now)
            )
        number = next_number(tx, scope.pipeline) if new is not None else 0
        if counts is not None:
            _note_source(tx, scope, now, number, counts)
        if new is None:
            return 0
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


def _note_source(
    tx: Connection, scope: Scope, now: datetime, number: int, counts: Mapping[str, int]
) -> None:
    """Write down what a selection found in the source, in the place of what an earlier one did."""
    mine = sources.c.pipeline == scope.pipeline, sources.c.partition == scope.partition
    tx.execute(delete(sources).where(*mine))
    tx.execute(
        insert(sources).values(
            pipeline=scope.pipeline,
            partition=scope.partition,
            number=number,
            at=now,
            counts=dict(counts),
        )
    )


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
            weight=file.weight,
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


def placed(tx: Connection, pipeline: str, rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Return index files of a pipeline, each with where its rows are compacted, if they are."""
    places = read_compactions(tx, pipeline).places()
    found = [(row, places.get(row.name)) for row in rows]
    return [
        replace(row, compacted=place[0], place=place[1]) if place else row for row, place in found
    ]


def index_files(ledger: Ledger, pipeline: str) -> list[IndexRow]:
    """Return every index file of a pipeline that counts, whatever its endpoint."""
    mine = submissions.c.pipeline == pipeline, submissions.c.state != "abandoned"
    about = submissions.c.number, submissions.c.partition
    selected = select(submissions.c.index_path, *about, submissions.c.counts).where(*mine)
    collected = (
        select(request_files.c.index_path, *about)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(*mine)
    )
    with ledger.read() as tx:
        rows = [
            *(
                IndexRow(
                    name,
                    number,
                    partition,
                    is_selection=True,
                    settles=bool(counts.get("deleted")),
                )
                for name, number, partition, counts in tx.execute(selected)
                if name
            ),
            *(IndexRow(*row) for row in tx.execute(collected) if row[0]),
        ]
        return placed(tx, pipeline, rows)


def index_elsewhere(ledger: Ledger, scope: Scope) -> list[IndexRow]:
    """Return the collected index files of a pipeline at other endpoints than the scope's."""
    query = (
        select(request_files.c.index_path, submissions.c.number, submissions.c.partition)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            submissions.c.pipeline == scope.pipeline,
            submissions.c.endpoint_id != scope.endpoint.id,
            submissions.c.state != "abandoned",
            request_files.c.index_path.is_not(None),
        )
    )
    with ledger.read() as tx:
        rows = [
            IndexRow(name, number, partition_of(partition))
            for name, number, partition in tx.execute(query)
            if variant_of(partition) == scope.variant
        ]
        return placed(tx, scope.pipeline, rows)


def index_beside(ledger: Ledger, scope: Scope) -> list[IndexRow]:
    """Return the index files of the other model of an escalation, over all partitions and endpoints.

    Of the first model's scope these are the better one's, and the other way round.
    """
    other = "" if scope.variant == ESCALATED else ESCALATED
    mine = (
        submissions.c.pipeline == scope.pipeline,
        submissions.c.state != "abandoned",
        is_of(submissions.c.partition, other),
    )
    about = submissions.c.number, submissions.c.partition
    selected = select(submissions.c.index_path, *about).where(*mine)
    collected = (
        select(request_files.c.index_path, *about)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(*mine)
    )
    with ledger.read() as tx:
        rows = [
            IndexRow(name, number, partition_of(partition))
            for query in (selected, collected)
            for name, number, partition in tx.execute(query)
            if name
        ]
        return placed(tx, scope.pipeline, rows)


def asked_beside(ledger: Ledger, scope: Scope, version: str) -> bool:
    """Whether the other model of an escalation was asked the question that a scope asks now, by the same model."""
    other = "" if scope.variant == ESCALATED else ESCALATED
    rows = ledger.rows(
        select(submissions.c.id)
        .where(
            submissions.c.pipeline == scope.pipeline,
            submissions.c.state != "abandoned",
            submissions.c.version == version,
            is_of(submissions.c.partition, other),
        )
        .limit(1)
    )
    return bool(rows)


def planned_in(counts: Mapping[str, int]) -> int:
    """Return how many records a submission holds, by its counts; those of earlier versions lack some."""
    return sum(counts.get(name, 0) for name in ("asked", "reused", "ruled"))


def unsent(ledger: Ledger, pipeline: str) -> list[int]:
    """Return the numbers of a pipeline's submissions that have files which were never sent."""
    rows = ledger.rows(
        select(request_files.c.number)
        .distinct()
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.READY,
            request_files.c.first_sent_at.is_(None),
        )
    )
    return [row["number"] for row in rows]


def latest_records(ledger: Ledger, pipeline: str, variant: str, most: int = 3) -> list[str]:
    """Return the names of the latest files of selected records of a pipeline's variant, the newest first."""
    rows = ledger.rows(
        select(submissions.c.records_path)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state != "abandoned",
            submissions.c.records_path.is_not(None),
            is_of(submissions.c.partition, variant),
        )
        .order_by(submissions.c.number.desc())
        .limit(most)
    )
    return [row["records_path"] for row in rows]


def latest_prefix(ledger: Ledger, pipeline: str) -> str | None:
    """Return what stood before the names of an answer's columns when a pipeline last asked; None: it never did."""
    rows = ledger.rows(
        select(submissions.c.question)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state == "built",
            submissions.c.requests > 0,
        )
        .order_by(submissions.c.number.desc())
        .limit(1)
    )
    return rows[0]["question"].get("prefix", "") if rows and rows[0]["question"] else None


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


def next_number(tx: Connection, pipeline: str) -> int:
    """Count up a pipeline's submissions; the row is locked until the transaction ends."""
    return tx.execute(
        update(numbers)
        .where(numbers.c.pipeline == pipeline)
        .values(last=numbers.c.last + 1)
        .returning(numbers.c.last)
    ).scalar_one()
