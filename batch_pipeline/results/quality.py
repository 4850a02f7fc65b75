"""How good the answers are: what a settled submission came to, together with those that asked again for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, select

from batch_pipeline.errors import counted
from batch_pipeline.records.columns import file_columns
from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
)
from batch_pipeline.requests.correction import READS
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

MOST_REASONS = 5
MOST_KEYS = 3
REASON_SHOWN = 200
ASKED = (FileKind.BATCH, FileKind.LATE, FileKind.REJECTED)

# The rows of one file that tell what became of a record: of the first submission those without an answer,
# of the others all. Attempts at one record in one content and one version share the middle of the custom_id.
ROWS = """
select substr(_custom_id, 10, 16) as record, _status as status, _error as error, {key} as key,
       ({number}::bigint << 20) + _attempt * 4 + (_status = 'answered')::int as rank, {first} as first
from read_parquet({file}) where {condition}
"""

LAST = """
create temp table last as
select record, arg_max(status, rank) as status, arg_max(error, rank) as error,
       arg_max(key, rank) as key, bool_or(first) as first
from ({rows}) group by record
"""

REASONS = """
select status, reason, count(*) as rows, list(key order by key)[1:{keys}] as keys
from (select *, left({reason}, {shown}) as reason from last where status <> 'answered')
group by status, reason order by rows desc, status, reason limit {most}
"""


@dataclass(frozen=True)
class Reason:
    """Why records have no answer, of how many, and the keys of some."""

    status: str
    reason: str
    rows: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Quality:
    """What the records of a submission came to, as they stand after it was asked again.

    Attributes:
        number: the submission's.
        again: how many settled submissions asked again what failed.
        partition: the partition; "" without.
        asked: records that were asked, or could not be.
        failed: of them, those without an answer.
        invalid: of these, those whose answer does not fit.
        reasons: why, the commonest first.
    """

    number: int
    again: int
    partition: str
    asked: int
    failed: int
    invalid: int
    reasons: list[Reason] = field(default_factory=list)

    @property
    def error_rate(self) -> float | None:
        """Which share of the records has no answer; None: there are none."""
        return self.failed / self.asked if self.asked else None

    @property
    def schema_valid(self) -> float | None:
        """Which share of the answers that came back whole fits; None: none came."""
        back = self.asked - self.failed + self.invalid
        return (self.asked - self.failed) / back if back else None

    @property
    def name(self) -> str:
        """Which submissions these are, in words."""
        where = f" of {self.partition}" if self.partition else ""
        again = f" and {counted(self.again, 'submission')} that asked again" if self.again else ""
        return f"submission {self.number:,}{where}{again}"


def quality_of(store: Store, scope: Scope, keys: Sequence[str]) -> Quality | None:
    """Return what the last settled submission of a scope came to; None when none is settled.

    A submission that only asks again what failed counts with the one before it: each record once, as its
    last attempt left it.

    Raises:
        duckdb.Error, OSError: a file of the store cannot be read.
    """
    night = night_of(store, scope)
    if not night:
        return None
    first, *again = night
    numbers = {one["id"]: one["number"] for one in night}
    files = store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.submission_id.in_(list(numbers)),
            request_files.c.state == FileState.COLLECTED,
            request_files.c.kind.in_(ASKED),
            request_files.c.results_path.is_not(None),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )
    mine = [
        file["statuses"] or {}
        for file in files
        if file["submission_id"] == first["id"] and file["kind"] != FileKind.LATE
    ]
    asked = sum(sum(statuses.values()) for statuses in mine)
    failing = asked - sum(statuses.get("answered", 0) for statuses in mine)
    found = Quality(first["number"], len(again), scope.partition, asked, 0, 0)
    if not failing and not again:
        return found
    with memory_connection(MEMORY) as con:
        store.files.register(con)
        rows = " union all ".join(
            _rows(con, store, file, file["submission_id"] == first["id"], keys) for file in files
        )
        con.execute(LAST.format(rows=rows))
        [(failed, invalid, others)] = con.execute(
            "select count(*) filter (status <> 'answered'), count(*) filter (status = 'invalid'),"
            " count(*) filter (not first) from last"
        ).fetchall()
        reason = "coalesce(error, '')"
        for words in READS:
            reason = f"split_part({reason}, {quote_text(words)}, 1)"
        reasons = con.execute(
            REASONS.format(reason=reason, keys=MOST_KEYS, shown=REASON_SHOWN, most=MOST_REASONS)
        ).fetchall()
    return Quality(
        found.number,
        found.again,
        found.partition,
        # What failed on an earlier night and was asked again with these.
        asked + others,
        failed,
        invalid,
        [Reason(status, why, rows, tuple(some)) for status, why, rows, some in reasons],
    )


def night_of(store: Store, scope: Scope) -> list[RowMapping]:
    """Return the last settled submission that did more than ask again, and those after it, which did."""
    settled = store.ledger.rows(
        select(submissions)
        .where(
            submissions.c.pipeline == scope.pipeline,
            submissions.c.partition == scope.partition,
            submissions.c.verified_at.is_not(None),
        )
        .order_by(submissions.c.number.desc())
    )
    night: list[RowMapping] = []
    for one in settled:
        asked = one["counts"].get("asked", 0)
        if not asked:
            continue
        night.insert(0, one)
        if one["counts"].get("retried", 0) < asked:
            break
    return night


def _rows(con: Any, store: Store, file: RowMapping, first: bool, keys: Sequence[str]) -> str:
    """Return SQL for the rows of a file that tell what became of a record."""
    url = store.files.url(file["results_path"])
    known = {name.lower(): name for name in file_columns(con, url)}
    named = [known[key.lower()] for key in keys if key.lower() in known] or ["_custom_id"]
    texts = ", ".join(f"cast({quote_name(name)} as varchar)" for name in named)
    late = file["kind"] == FileKind.LATE
    own = first and not late
    return ROWS.format(
        key=f"concat_ws(', ', {texts})",
        number=int(file["number"]),
        first="true" if first else "false",
        condition="_status <> 'answered'" if own else "_status = 'answered'" if late else "true",
        file=quote_files([url]),
    )
