"""How all records of a source stand, and not only those that are asked now.

The source is not read for it: it may be locked, large, or far away. A selection counts what it finds
there, and what came back since is in the ledger.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, func, select

from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files, sources, submissions
from batch_pipeline.store.variants import ESCALATED, variant_of


@dataclass(frozen=True)
class Whole:
    """How the records of a source stand, or of a partition of it.

    Each is counted once: ``rows`` is the sum of the others.

    Attributes:
        rows: of the source.
        answered: answered as they are.
        failed: without an answer, for good or until they are asked again.
        on_their_way: asked, and not back.
        by_rule: settled by a rule: nothing is asked about them.
        never_asked: never asked as they are: left out by a limit or a condition.
        since: when the source was looked at; of several partitions, the one longest ago.
        until: the one last.
        partitions: which ones that is; "" for a pipeline without.
    """

    rows: int
    answered: int
    failed: int
    on_their_way: int
    never_asked: int
    since: datetime
    until: datetime
    partitions: tuple[str, ...]
    by_rule: int = 0


def wholes(store: Store, pipeline: str) -> dict[str, Whole]:
    """Return how all records of each partition stand, as far as a selection has looked at them.

    Args:
        store: where the ledger is.
        pipeline: its name.
    """
    newest = {
        row["partition"]: row["at"]
        for row in store.ledger.rows(
            select(submissions.c.partition, func.max(submissions.c.created_at).label("at"))
            .where(submissions.c.pipeline == pipeline)
            .group_by(submissions.c.partition)
        )
    }
    looked = {
        row["partition"]: row
        for row in store.ledger.rows(select(sources).where(sources.c.pipeline == pipeline))
        if variant_of(row["partition"]) != ESCALATED  # those of the first model once more
        # A ledger that was made again may know of later submissions than of looks at the source.
        and (row["partition"] not in newest or row["at"] >= newest[row["partition"]])
    }
    if not looked:
        return {}
    back = _back(store, pipeline, looked)
    return {name: _whole(row, back.get(name, [])) for name, row in sorted(looked.items())}


def whole(parts: Sequence[Whole]) -> Whole | None:
    """Return how the records of several partitions stand together; None when there are none."""
    if not parts:
        return None
    return Whole(
        rows=sum(one.rows for one in parts),
        answered=sum(one.answered for one in parts),
        failed=sum(one.failed for one in parts),
        on_their_way=sum(one.on_their_way for one in parts),
        never_asked=sum(one.never_asked for one in parts),
        since=min(one.since for one in parts),
        until=max(one.until for one in parts),
        partitions=tuple(name for one in parts for name in one.partitions),
        by_rule=sum(one.by_rule for one in parts),
    )


def _back(
    store: Store, pipeline: str, looked: dict[str, RowMapping]
) -> dict[str, list[RowMapping]]:
    """Return the files that came back since each partition's source was looked at, by partition."""
    first = min(row["at"] for row in looked.values())
    found: dict[str, list[RowMapping]] = {}
    names = ("partition", "number", "statuses", "collected_at")
    for row in store.ledger.rows(
        select(*(request_files.c[name] for name in names)).where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind.in_((FileKind.BATCH, FileKind.REJECTED)),
            request_files.c.state == FileState.COLLECTED,
            request_files.c.collected_at >= first,
        )
    ):
        look = looked.get(row["partition"])
        if look is not None and row["collected_at"] >= look["at"]:
            found.setdefault(row["partition"], []).append(row)
    return found


def _whole(look: RowMapping, back: Sequence[RowMapping]) -> Whole:
    counts: dict[str, int] = look["counts"]
    asked, in_flight = counts["asked"], counts["in_flight"]
    answered, failed = counts["answered"], counts["failed"]
    # Of what was on its way before, some may be about records that are others now.
    for mine, most in ((True, asked), (False, in_flight)):
        statuses: Counter[str] = Counter()
        for row in back:
            if (row["number"] == look["number"]) is mine:
                statuses.update(row["statuses"] or {})
        good = min(statuses["answered"], most)
        bad = min(statuses.total() - statuses["answered"], most - good)
        answered, failed = answered + good, failed + bad
        asked -= (good + bad) if mine else 0
        in_flight -= 0 if mine else good + bad
    rows, by_rule = counts["source_rows"], counts.get("by_rule", 0)
    on_their_way = asked + in_flight
    return Whole(
        rows=rows,
        answered=answered,
        failed=failed,
        on_their_way=on_their_way,
        never_asked=rows - answered - failed - on_their_way - by_rule,
        since=look["at"],
        until=look["at"],
        partitions=(look["partition"],),
        by_rule=by_rule,
    )
