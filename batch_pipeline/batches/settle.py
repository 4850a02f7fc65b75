"""Settling by hand what is open: one look at the API, one decision a file, and the reason of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import RowMapping, func, select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import expire_leases
from batch_pipeline.batches.held import decision, list_held
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.whose import whose
from batch_pipeline.store.budget import over_budget
from batch_pipeline.store.cost_unknown import CostUnknown, costs_unknown
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope
from batch_pipeline.store.tables import (
    OPEN,
    WAITS,
    FileState,
    endpoints,
    request_files,
    transitions,
)


@dataclass(frozen=True)
class Line:
    """What was found and done about one open file, or about a held pipeline (``file`` is "" then).

    Attributes:
        file: the request file's id.
        pipeline: whose it is.
        partition: of which partition; "" when there are none.
        state: where it stands now.
        requests: how many it has.
        batch_id: its batch, when it has one.
        did: the steps that were taken now, "" when none was.
        why: the reason, or what it waits for.
        todo: what a person must do; None when nothing.
    """

    file: str
    pipeline: str
    partition: str
    state: str
    requests: int
    batch_id: str | None
    did: str
    why: str
    todo: str | None


@dataclass
class Settlement:
    """What is open or held, what was done about it, and what the ledger's costs leave open."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    costs_unknown: list[CostUnknown] = field(default_factory=list)

    @property
    def waits_for_a_person(self) -> bool:
        """Whether anything will stay as it is until somebody acts."""
        return any(line.todo for line in self.lines)


def settle(
    store: Store, api: BatchesApi, policy: SendPolicy, pipeline: str | None = None
) -> Settlement:
    """Look at the API and settle what can be settled now; nothing is sent by it.

    Args:
        store: where the ledger is.
        api: the endpoint; what was sent elsewhere is shown and left alone.
        policy: limits and waits; ``on_unknown`` decides about files that the API does not have.
        pipeline: only this one; None: all of the ledger.

    Raises:
        HeldError, ApiUnavailable: the API refuses the key or does not answer. Nothing is decided
            then.
    """
    here = whose(store, api)
    report = Settlement()
    with store.ledger.read() as tx:
        before = tx.execute(select(func.max(transitions.c.id))).scalar() or 0
    expire_leases(store.ledger, here)
    open_before = _open(store, pipeline)
    report.notes += poll(store, api, here, policy).notes
    for scope in _scopes(open_before, here):
        report.notes += reconcile(store, api, scope, policy).adopted
    report.notes = list(dict.fromkeys(report.notes))
    ids = dict.fromkeys(
        [row["id"] for row in open_before] + [row["id"] for row in _open(store, pipeline)]
    )
    did = _steps(store, before)
    bases = _endpoints(store)
    for file_id in ids:
        row = store.ledger.rows(select(request_files).where(request_files.c.id == file_id))[0]
        report.lines.append(_line(store, row, did.get(file_id, []), here, bases, policy))
    for one in list_held(store, pipeline).pipelines:
        report.lines.append(
            Line(
                "",
                one.pipeline,
                "",
                FileState.HELD,
                0,
                None,
                "",
                one.error,
                one.todo,
            )
        )
    report.costs_unknown = costs_unknown(store, pipeline)
    return report


def _open(store: Store, pipeline: str | None) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.state.in_(OPEN),
            *([request_files.c.pipeline == pipeline] if pipeline else []),
        )
        .order_by(request_files.c.pipeline, request_files.c.number, request_files.c.seq)
    )


def _scopes(rows: Sequence[RowMapping], here: Endpoint) -> list[Scope]:
    mine = [row for row in rows if row["endpoint_id"] == here.id]
    return [
        Scope(*names, here)
        for names in sorted({(row["pipeline"], row["partition"]) for row in mine})
    ]


def _steps(store: Store, before: int) -> dict[str, list[RowMapping]]:
    """Return the steps that were taken since a line of the history, by file."""
    found: dict[str, list[RowMapping]] = {}
    rows = store.ledger.rows(
        select(transitions).where(transitions.c.id > before).order_by(transitions.c.id)
    )
    for row in rows:
        found.setdefault(row["file_id"], []).append(row)
    return found


def _endpoints(store: Store) -> dict[str, Endpoint]:
    rows = store.ledger.rows(select(endpoints))
    return {
        row["id"]: Endpoint(row["base_url"], row["organization"], row["workspace"]) for row in rows
    }


def _line(
    store: Store,
    row: RowMapping,
    steps: list[RowMapping],
    here: Endpoint,
    bases: dict[str, Endpoint],
    policy: SendPolicy,
) -> Line:
    did = "; ".join(f"{step['from_state'] or 'new'} → {step['to_state']}" for step in steps)
    why, todo = _standing(store, row, policy)
    if row["state"] == FileState.READY:
        for one in over_budget(store, row["pipeline"]):
            if one.submission == row["submission_id"]:
                why, todo = one.reason, one.todo if one.waits_for_a_person else None
    if row["endpoint_id"] != here.id:
        why = f"it belongs to {bases[row['endpoint_id']]}, and the key belongs to {here}"
        todo = "set ClaudeBatches(api_key=..., base_url=...) back to that account"
    elif steps and not todo:
        why = f"{steps[-1]['note']}. {why}"
    why = why.removeprefix(f"{row['id']}: ")
    return Line(
        row["id"], row["pipeline"], row["partition"], row["state"], row["requests"],
        row["batch_id"], did, why, todo,
    )  # fmt: skip


def _standing(store: Store, row: RowMapping, policy: SendPolicy) -> tuple[str, str | None]:
    """Return what a file waits for, and what a person must do about it."""
    now, name = store.clock.now(), row["pipeline"]
    later = row["not_before"] if row["not_before"] and row["not_before"] > now else None
    match row["state"]:
        case FileState.READY:
            when = f" from {later:%H:%M} UTC on" if later else ""
            return (
                f"the status sensor has it sent by {name}_send{when}, as the queue has room",
                None,
            )
        case FileState.SENDING:
            until = (
                f" until {row['lease_until']:%H:%M} UTC at the latest" if row["lease_until"] else ""
            )
            return f"a run is sending it at this moment{until}", None
        case FileState.UNKNOWN:
            due = (row["attempt_ended_at"] or now) + timedelta(
                seconds=policy.reconcile_after_seconds
            )
            if due > now:
                what = "its reply was lost" if row["error"] else "nobody knows whether it was sent"
                return f"{what}; the API's list is believed from {due:%H:%M:%S} UTC on", None
            return row[
                "error"
            ] or "nobody knows yet whether it was sent; the next look settles it", None
        case FileState.IN_PROGRESS:
            age = now - row["batch_created_at"] if row["batch_created_at"] else timedelta(0)
            hours = age.total_seconds() / 3600
            asked = ", and a person has cancelled it" if row["cancel_requested_at"] else ""
            return f"the API has been working on it for {hours:.1f} h (24 at most){asked}", None
        case FileState.ENDED if WAITS in (row["error"] or ""):
            todo = f"batch-pipeline held --drop {row['id']}, if that cannot be put right"
            return row["error"], todo
        case FileState.ENDED:
            when = f" after {later:%H:%M} UTC" if later else ""
            trouble = f"; {row['error']}" if row["error"] else ""
            what = "takes its answers" if row["batch_id"] else "writes its records' rows"
            return f"{name}_collect {what}{when}{trouble}", None
        case FileState.HELD:
            decide = decision(row["id"], row["error"] or "")
            return row["error"] or "it is held", decide
        case _:
            return "it is settled", None
