"""How a pipeline stands, read from the ledger alone: what is on its way, what came back, what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby

from sqlalchemy import RowMapping, func, or_, select

from batch_pipeline.errors import counted
from batch_pipeline.store.budget import over_budget
from batch_pipeline.store.refusals import refusal_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import (
    OPEN,
    WAITS,
    FileKind,
    FileState,
    endpoints,
    holds,
    is_live,
    request_files,
    submissions,
)

NANO = 10**9
LOOKED_BACK = 200  # submissions of a pipeline among which an ask's retries are looked for
FINAL = ("refused", "rejected", "paused")  # what is not asked again, besides what was answered
WAITS_FOR = "room in the queue, its hours, its submission's first request, or a next try"
"""What a file that is ready may wait for."""


@dataclass(frozen=True)
class Standing:
    """How a pipeline, or one partition of it, stands.

    The counts and ``cost`` are about what is asked now: the submissions that are still open, or else
    the last one, each with the ones that it is a retry of.

    Attributes:
        pipeline: its name.
        partition: the partition; None for the whole pipeline.
        submission: the number of the last submission; 0 when there is none.
        submitted_at: when that was selected.
        batches: batches that the API has, or had.
        batches_ended: those that ended.
        oldest: when the oldest one that did not end was created.
        asked: records, also those whose request is another one's, retries not counted.
        answered: answers that are in the store.
        other: records that came back without an answer, by status; what is asked again is left out.
        ready: files to be sent.
        unknown: files without a reply, or being sent.
        held: files that wait for a person.
        ended: files whose answers can be collected, or whose rows can go into the table.
        unbuilt: selections without request files.
        retryable: records that can be asked again and are not yet.
        holds: why nothing of the pipeline is sent until a person has acted.
        refused: whether the last look at the API was refused for the key or the account.
        cost: USD of what came back.
        cost_this_month: USD of all that ended since the month's first day, UTC.
        cost_unknown: requests, of the same submissions, that may have been paid and whose cost is
            not known.
        looked_at: when the API was last asked about the batches that are open.
        over_budget: files to be sent that a cap holds back; they are not among ``ready``.
        budget: what the caps hold back, a line for each submission.
        budget_waits_for_a_person: whether one of these needs a person's approval.
        watched: files of which a second batch may turn up in the API's list.
        asking: late files whose requests are asked live.
    """

    pipeline: str
    partition: str | None = None
    submission: int = 0
    submitted_at: datetime | None = None
    batches: int = 0
    batches_ended: int = 0
    oldest: datetime | None = None
    asked: int = 0
    answered: int = 0
    other: Mapping[str, int] = field(default_factory=dict)
    ready: int = 0
    unknown: int = 0
    held: int = 0
    ended: int = 0
    unbuilt: int = 0
    retryable: int = 0
    holds: tuple[str, ...] = ()
    refused: bool = False
    cost: Decimal = Decimal(0)
    cost_this_month: Decimal = Decimal(0)
    cost_unknown: int = 0
    looked_at: datetime | None = None
    watched: int = 0
    asking: int = 0
    over_budget: int = 0
    budget: tuple[str, ...] = ()
    budget_waits_for_a_person: bool = False

    @property
    def open(self) -> int:
        """Batches that did not end."""
        return self.batches - self.batches_ended

    @property
    def waits_for_a_person(self) -> bool:
        """Whether something is held."""
        return bool(self.held or self.holds or self.budget_waits_for_a_person)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing goes on by itself any more."""
        waits = self.ready, self.unbuilt, self.retryable, self.asking
        moving = any((self.open, self.unknown, self.ended))
        return not moving and (bool(self.holds) or not any(waits))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way but what a person must decide."""
        return not (self.open or self.ended or self.ready or self.unknown or self.asking)

    def line(self, now: datetime) -> str:
        """Say in a sentence what is on its way, for a tick."""
        if self.is_quiet and not (self.held or self.watched or self.budget):
            return "no batch is open"
        parts = []
        if self.batches:
            batches = counted(self.batches, "batch", "batches")
            parts.append(f"{self.batches_ended:,} of {batches} ended")
        if self.open:
            age = f", oldest {_age(now - self.oldest)}" if self.oldest else ""
            parts.append(f"{self.open} open{age}")
        if self.ready:
            parts.append(f"{counted(self.ready, 'file')} to be sent ({WAITS_FOR})")
        if self.asking:
            parts.append(f"{counted(self.asking, 'file')} late, and asked live")
        if self.unknown:
            parts.append(f"{counted(self.unknown, 'file')} without a reply, to be reconciled")
        if self.held:
            parts.append(
                f"{counted(self.held, 'file')} held: that needs you (`batch-pipeline held`)"
            )
        parts += self.budget
        if self.watched:
            parts.append(
                f"{counted(self.watched, 'file')} sent again or turned away within 24 h: the API's list is watched for an "
                "earlier batch of it"
            )
        return "; ".join(parts)


def standing(store: Store, pipeline: str) -> Standing:
    """Return how a whole pipeline stands."""
    return standings(store, pipeline)[0]


def standings(store: Store, pipeline: str, *, by_partition: bool = False) -> list[Standing]:
    """Return how a pipeline stands: in one line, or in one for each partition it ever asked for.

    Args:
        store: where the ledger is.
        pipeline: its name.
        by_partition: a line for each partition. A pipeline without partitions has one line anyway.
    """
    known = _submissions(store, pipeline)
    current = _current(known, by_partition=by_partition)
    files = _files(store, pipeline, [row["id"] for rows in current.values() for row in rows])
    months = _months(store, pipeline)
    held = tuple(
        row["reason"]
        for row in store.ledger.rows(select(holds.c.reason).where(holds.c.pipeline == pipeline))
    )
    refusal = refusal_of(store.ledger, pipeline)
    if refusal is not None:
        held += (refusal["reason"],)
    if not current:
        return [Standing(pipeline, holds=held, refused=refusal is not None)]
    watched = _watched(store, pipeline)
    over = over_budget(store, pipeline)
    looked = _looked_at(store, pipeline)
    found = []
    for partition, rows in sorted(current.items()):
        ids = {row["id"] for row in rows}
        mine = [file for file in files if file["submission_id"] in ids]
        cost = months.get(partition, Decimal(0)) if by_partition else sum(months.values())
        back = [row for row in over if row.submission in ids]
        one = _standing(pipeline, rows, mine, {row.submission for row in back})
        found.append(
            replace(
                one,
                partition=(partition or None) if by_partition else None,
                holds=held,
                refused=refusal is not None,
                budget=tuple(row.reason for row in back),
                budget_waits_for_a_person=any(row.waits_for_a_person for row in back),
                cost_this_month=Decimal(cost),
                looked_at=looked if one.open or one.unknown else None,
                watched=watched.total() if not by_partition else watched[partition],
            )
        )
    return found


def _submissions(store: Store, pipeline: str) -> Sequence[RowMapping]:
    """The submissions that are open, and the last ones, each with whether it is open."""
    mine = select(request_files.c.submission_id).where(request_files.c.pipeline == pipeline)
    # One condition for both would be looked for in the whole history.
    on_its_way = mine.where(request_files.c.state.in_(OPEN)).union(
        mine.where(
            request_files.c.state == FileState.COLLECTED, request_files.c.published_at.is_(None)
        )
    )
    last = select(func.max(submissions.c.number)).where(submissions.c.pipeline == pipeline)
    columns = [
        submissions.c[name]
        for name in ("id", "partition", "number", "state", "created_at", "counts", "retryable", "retried_at")
    ]  # fmt: skip
    newest_of_each = (
        select(func.max(submissions.c.number))
        .where(submissions.c.pipeline == pipeline, submissions.c.state != "abandoned")
        .group_by(submissions.c.partition)
    )
    return store.ledger.rows(
        select(
            *columns,
            or_(submissions.c.id.in_(on_its_way), submissions.c.state == "selected").label("open"),
        )
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state != "abandoned",
            or_(
                submissions.c.id.in_(on_its_way),
                submissions.c.state == "selected",
                submissions.c.number > last.scalar_subquery() - LOOKED_BACK,
                submissions.c.number.in_(newest_of_each),
            ),
        )
        .order_by(submissions.c.number.desc())
    )


def _current(known: Sequence[RowMapping], *, by_partition: bool) -> dict[str, list[RowMapping]]:
    """Return what is asked now, newest first, by partition; under "" for the whole pipeline."""
    parts: dict[str, list[RowMapping]] = {}
    for row in known:
        parts.setdefault(row["partition"], []).append(row)
    chosen = {partition: _of_one(rows) for partition, rows in parts.items()}
    if by_partition or not chosen:
        return chosen
    moving = [rows for rows in chosen.values() if any(row["open"] for row in rows)]
    newest = max(chosen.values(), key=lambda rows: rows[0]["number"])
    rows = [row for part in moving or [newest] for row in part]
    return {"": sorted(rows, key=lambda row: -row["number"])}


def _of_one(rows: list[RowMapping]) -> list[RowMapping]:
    """Of a partition's submissions, newest first: the open ones or the last, back to the first ask."""
    oldest = max((place for place, row in enumerate(rows) if row["open"]), default=0)
    while oldest + 1 < len(rows) and _is_retry(rows[oldest]):
        oldest += 1
    return rows[: oldest + 1]


def _is_retry(row: RowMapping) -> bool:
    counts = row["counts"]
    return 0 < counts.get("asked", 0) == counts.get("retried", 0)


def _files(store: Store, pipeline: str, ids: Sequence[str]) -> list[RowMapping]:
    names = (
        "submission_id", "kind", "state", "requests", "batch_id", "batch_created_at", "published_at",
        "statuses", "cost_nanousd", "cost_unknown", "error",
    )  # fmt: skip
    return [
        *store.ledger.rows(
            select(*(request_files.c[name] for name in names)).where(
                request_files.c.pipeline == pipeline, request_files.c.submission_id.in_(ids)
            )
        )
    ]


def _standing(
    pipeline: str, rows: Sequence[RowMapping], files: Sequence[RowMapping], over: Set[str]
) -> Standing:
    states = Counter(file["state"] for file in files)
    back = sum(
        1 for file in files if file["state"] == FileState.READY and file["submission_id"] in over
    )
    batches = [
        file for file in files if file["batch_id"] is not None and not is_live(file["batch_id"])
    ]
    is_open = [file for file in batches if file["state"] == FileState.IN_PROGRESS]
    created = [file["batch_created_at"] for file in is_open if file["batch_created_at"]]
    unpublished = [
        file
        for file in files
        if file["state"] == FileState.COLLECTED and file["published_at"] is None
    ]
    # It has ended, but what the API gives are no results.
    waiting = sum(
        1 for file in files if file["state"] == FileState.ENDED and WAITS in (file["error"] or "")
    )
    by_id = {row["id"]: row for row in rows}
    retries = {row["id"] for row in rows if _is_retry(row)} & _with_their_ask(rows)
    asked = sum(
        row["counts"].get("duplicates", 0)
        for row in rows
        if row["state"] == "built" and row["id"] not in retries
    )
    answered = 0
    other: Counter[str] = Counter()
    for file in files:
        submission = by_id[file["submission_id"]]
        if file["kind"] == FileKind.BATCH and file["state"] != FileState.SPLIT:
            asked += file["requests"] if submission["id"] not in retries else 0
        if file["kind"] == FileKind.REJECTED and submission["id"] not in retries:
            # Duplicates of what could not be asked.
            asked -= max(0, sum((file["statuses"] or {}).values()) - file["requests"])
        if file["kind"] not in (FileKind.BATCH, FileKind.REJECTED):
            continue
        for status, count in (file["statuses"] or {}).items():
            if status == "answered":
                answered += count
            elif status in FINAL or submission["retried_at"] is None:
                other[status] += count
    return Standing(
        pipeline,
        submission=rows[0]["number"],
        submitted_at=rows[0]["created_at"],
        batches=len(batches),
        batches_ended=len(batches) - len(is_open),
        oldest=min(created, default=None),
        asked=asked,
        answered=answered,
        other=dict(sorted(other.items())),
        ready=states[FileState.READY] - back,
        over_budget=back,
        unknown=states[FileState.UNKNOWN] + states[FileState.SENDING],
        held=states[FileState.HELD] + waiting,
        asking=states[FileState.ASKING],
        ended=states[FileState.ENDED] + len(unpublished),
        unbuilt=sum(1 for row in rows if row["state"] == "selected"),
        retryable=sum(row["retryable"] for row in rows if row["retried_at"] is None),
        cost=_usd(sum(file["cost_nanousd"] or 0 for file in files)),
        cost_unknown=sum(file["cost_unknown"] or 0 for file in files),
    )


def _with_their_ask(rows: Sequence[RowMapping]) -> set[str]:
    """Return the submissions before which there is an earlier one of their partition among these."""
    found = set()
    ordered = sorted(rows, key=lambda row: (row["partition"], row["number"]))
    for _, part in groupby(ordered, key=lambda row: row["partition"]):
        found |= {row["id"] for row in [*part][1:]}
    return found


def _months(store: Store, pipeline: str) -> dict[str, Decimal]:
    """Return what has ended since the first of the month, in USD, by partition."""
    first = store.clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    mine = select(request_files.c.partition, request_files.c.cost_nanousd).where(
        request_files.c.pipeline == pipeline
    )
    # Of coalesce(ended_at, collected_at) there is no index.
    ended = (
        mine.where(request_files.c.ended_at >= first)
        .union_all(
            mine.where(request_files.c.ended_at.is_(None), request_files.c.collected_at >= first)
        )
        .subquery()
    )
    rows = store.ledger.rows(
        select(ended.c.partition, func.sum(ended.c.cost_nanousd).label("nanousd")).group_by(
            ended.c.partition
        )
    )
    return {row["partition"]: _usd(row["nanousd"] or 0) for row in rows}


def _looked_at(store: Store, pipeline: str) -> datetime | None:
    open_at = select(request_files.c.endpoint_id).where(
        request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
    )
    rows = store.ledger.rows(select(endpoints.c.polled_at).where(endpoints.c.id.in_(open_at)))
    return max((row["polled_at"] for row in rows if row["polled_at"]), default=None)


def _usd(nanousd: int | Decimal) -> Decimal:
    return Decimal(nanousd) / NANO


def _watched(store: Store, pipeline: str) -> Counter[str]:
    """Return how many files are watched for a second batch, by partition."""
    rows = store.ledger.rows(
        select(request_files.c.partition).where(
            request_files.c.pipeline == pipeline,
            request_files.c.watch_until > store.clock.now(),
        )
    )
    return Counter(row["partition"] for row in rows)


def _age(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds() // 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
