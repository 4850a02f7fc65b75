"""Finding out what became of attempts that had no reply, before anything is sent again."""

from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import or_, select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import withdraw
from batch_pipeline.batches.candidates import MAY_BE_IT
from batch_pipeline.batches.claim import expire_leases, postpone
from batch_pipeline.batches.listing import window_start
from batch_pipeline.batches.policy import SendPolicy, watch_until
from batch_pipeline.batches.poll import poll
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import FileState, candidates, request_files

WAIT_FOR_CANDIDATE_SECONDS = 60.0


@dataclass
class Reconciled:
    """What was decided; each line says what and why."""

    resent: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """All of it, for a log."""
        return [*self.adopted, *self.resent, *self.held, *self.withdrawn, *self.waiting]


def due(store: Store, scope: Scope, policy: SendPolicy):
    """Return the files of a scope whose outcome can be found out now."""
    now = store.clock.now()
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == scope.pipeline,
            request_files.c.partition == scope.partition,
            request_files.c.endpoint_id == scope.endpoint.id,
            request_files.c.state == FileState.UNKNOWN,
            request_files.c.attempt_ended_at
            <= now - timedelta(seconds=policy.reconcile_after_seconds),
            or_(request_files.c.not_before.is_(None), request_files.c.not_before <= now),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def reconcile(store: Store, api: BatchesApi, scope: Scope, policy: SendPolicy) -> Reconciled:
    """Settle every file of a scope whose outcome is unknown for long enough.

    A batch in the list that may be the file keeps it waiting until that batch ends and its
    custom_ids tell. When there is none, ``policy.on_unknown`` says whether it is sent again or
    held.

    Raises:
        HeldError, ApiUnavailable: as ``poll``; nothing is decided then.
    """
    report = Reconciled()
    expire_leases(store.ledger, scope.endpoint)
    doubtful = due(store, scope, policy)
    if not doubtful:
        return report
    found = poll(store, api, scope.endpoint, policy)
    report.adopted += found.notes
    for file in doubtful:
        if file["id"] in found.adopted:
            continue
        if found.cut:
            line = (
                f"{file['id']}: whether the API took it cannot be told, because its list cannot be read "
                f"as far as is needed ({found.cut}); it is not sent again before that"
            )
            postpone(store.ledger, file["id"], WAIT_FOR_CANDIDATE_SECONDS, line)
            report.waiting.append(line)
            continue
        verdicts = store.ledger.rows(
            select(candidates.c.batch_id, candidates.c.verdict).where(
                candidates.c.endpoint_id == scope.endpoint.id,
                candidates.c.requests.in_([file["requests"], 0]),
                # Wide on purpose: the listing applied the server's clock when it wrote the
                # candidate down.
                candidates.c.seen_at >= window_start(file, timedelta(0), store.clock.now()),
                candidates.c.verdict.in_(["open", "unreadable"]),
            )
        )
        open_ones = [row["batch_id"] for row in verdicts if row["verdict"] == "open"]
        unreadable = [row["batch_id"] for row in verdicts if row["verdict"] == "unreadable"]
        if open_ones:
            line = f"{file['id']}: {', '.join(open_ones)} may be it; known once that has ended"
            postpone(store.ledger, file["id"], WAIT_FOR_CANDIDATE_SECONDS, line)
            report.waiting.append(line)
        elif unreadable:
            line = (
                f"{file['id']}: {', '.join(unreadable)} {MAY_BE_IT} "
                "any more, so nobody "
                "can tell whether it was paid for. Look it up in the Console, then decide: "
                "`batch-pipeline held`."
            )
            if _step(store, file, FileState.HELD, line):
                report.held.append(line)
        elif file["cancel_requested_at"] is not None:
            line = (
                f"{file['id']}: attempt {file['attempts']} left no batch in the API's list, and a "
                "person has cancelled it; it is not sent"
            )
            with store.ledger.write() as tx:
                if withdraw(store.ledger, tx, file["id"], store.clock.now(), FileState.UNKNOWN):
                    report.withdrawn.append(line)
        elif policy.on_unknown == "hold":
            line = (
                f"{file['id']}: attempt {file['attempts']} had no reply and no such batch is in "
                "the API's list. "
                'on_unknown="hold" leaves the decision to you: `batch-pipeline held`.'
            )
            if _step(store, file, FileState.HELD, line):
                report.held.append(line)
        else:
            line = f"{file['id']}: attempt {file['attempts']} left no batch in the API's list; it is sent again"
            now = store.clock.now()
            if _step(
                store, file, FileState.READY, line,
                resent_at=now, watch_until=watch_until(now), not_before=None,
            ):  # fmt: skip
                report.resent.append(line)
    return report


def _step(store: Store, file, to: FileState, note: str, **values) -> bool:
    with store.ledger.write() as tx:
        return store.ledger.move(
            tx,
            file["id"],
            FileState.UNKNOWN,
            to,
            note,
            request_files.c.attempts == file["attempts"],
            error=None if to is FileState.READY else note,
            **values,
        )
