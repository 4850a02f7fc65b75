"""What a tick of ``NAME_status`` does about answers that are late, where they are asked live."""

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.live_claim import in_turn, over_at_full_price, said_over
from batch_pipeline.batches.overtime import cancel_late
from batch_pipeline.definitions.variants import is_declared
from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.store.budget import Caps
from batch_pipeline.store.deadlines import asking_files, deadlines, late_batches, late_files
from batch_pipeline.store.needs import Need
from batch_pipeline.store.queue import hold_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint


def cancel_what_is_late(
    store: Store, api: BatchesApi, pipeline: BatchPipeline, endpoint: Endpoint, caps: Caps
) -> list[str]:
    """Cancel the batches whose answers are late, and say so; nothing where what is late is only reported.

    Args:
        store: where the files and the ledger are.
        api: the endpoint.
        pipeline: whose batches.
        endpoint: who it is.
        caps: what may be spent.
    """
    by = pipeline.deadline
    if (
        by is None
        or by.late != "live"
        or hold_of(store.ledger, pipeline.name, endpoint) is not None
    ):
        return []
    wanted = deadlines(store, pipeline.name, by.due)
    declared = is_declared(pipeline)
    late = late_batches(store, pipeline.name, endpoint.id, wanted)
    late = [file for file in late if declared(file["partition"])]
    if not late:
        return []
    done = cancel_late(store, api, late, caps, pipeline.max_attempts)
    said = [*done.left]
    if done.cancelled:
        batches = counted(len(done.cancelled), "batch is", "batches are")
        said.append(f"{batches} late and cancelled; what is not answered by its end is asked live")
    return said


def live_needs(
    store: Store, pipeline: BatchPipeline, endpoint: Endpoint, caps: Caps
) -> tuple[list[Need], list[str]]:
    """Return the runs that asking live needs, and what a cap does not let through.

    Args:
        store: where the ledger is.
        pipeline: whose files.
        endpoint: the one in force.
        caps: what may be spent.
    """
    now, by = store.clock.now(), pipeline.deadline
    found: dict[str, Need] = {}
    said: list[str] = []
    if hold_of(store.ledger, pipeline.name, endpoint) is not None:
        return [], said
    for file in asking_files(store, pipeline.name, endpoint.id):
        is_due = file["not_before"] is None or file["not_before"] <= now
        is_free = file["owner"] is None or file["lease_until"] < now
        if is_due and is_free:
            partition = file["partition"]
            found.setdefault(partition, Need("send", partition, "late requests are asked live"))
    if by is None or by.late != "live":
        return [*found.values()], said
    wanted = deadlines(store, pipeline.name, by.due)
    declared = is_declared(pipeline)
    files = late_files(store, pipeline.name, endpoint.id, wanted)
    files = [
        file
        for file in files
        if declared(file["partition"]) and (file["not_before"] is None or file["not_before"] <= now)
    ]
    with store.ledger.read() as tx:
        for together in in_turn(files, caps):
            one = together[0]
            if (over := over_at_full_price(tx, store.ledger, together, caps)) is not None:
                said.append(said_over(one, over))
                continue
            why = "answers are late, and are asked live"
            found.setdefault(one["partition"], Need("send", one["partition"], why))
    return [*found.values()], said
