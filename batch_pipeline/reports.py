"""What the commands by hand found and did, for a person or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batch_pipeline.show import Row, listing, print_json, say

if TYPE_CHECKING:
    from batch_pipeline.batches.cancel import Canceled
    from batch_pipeline.batches.held import Held
    from batch_pipeline.batches.settle import Settlement
    from batch_pipeline.results.rebuild import Rebuilt
    from batch_pipeline.store.store import Store


def show_held(found: Sequence[tuple["Store", "Held"]], is_json: bool) -> None:
    """Print what is held in some stores, and how a person decides."""
    if is_json:
        print_json(
            {
                kind: [
                    {"store": store.files.root, **asdict(one)}
                    for store, held in found
                    for one in getattr(held, kind)
                ]
                for kind in ("pipelines", "files")
            }
        )
        return
    if not any(held.files or held.pipelines for _, held in found):
        say("Nothing is held.")
    for store, held in found:
        listing(
            f"Held pipelines of the store {store.files.root}",
            ["pipeline", "API"],
            [
                Row(
                    (one.pipeline, one.base_url),
                    (f"since {_moment(one.since)}: {one.error}",),
                    f"put it right, then: batch-pipeline held {one.pipeline} --release (or run {one.pipeline}_send)",
                )
                for one in held.pipelines
            ],
        )
        listing(
            f"Held files of the store {store.files.root}",
            ["pipeline", "partition", "requests", "file"],
            [
                Row(
                    (one.pipeline, one.partition, one.requests, one.id),
                    (f"since {_moment(one.since)}: {one.error}",),
                    f"batch-pipeline held --resend {one.id}, or --drop {one.id}",
                )
                for one in held.files
            ],
        )


def show_settled(settled: Sequence[tuple["Store", "Settlement"]]) -> None:
    """Print what is open or held in some stores, what was done about it, and which costs are unknown."""
    if not any(one.lines for _, one in settled):
        say("Nothing is open, and nothing is held.")
    for store, one in settled:
        listing(
            f"Open or held in the store {store.files.root}",
            ["pipeline", "partition", "requests", "now", "file"],
            [
                Row(
                    (line.pipeline, line.partition, line.requests or None, line.state, line.file),
                    (
                        f"batch {line.batch_id}" if line.batch_id else "",
                        f"done now: {line.did}" if line.did else "",
                        line.why.removeprefix(f"{line.file}: "),
                    ),
                    line.todo,
                )
                for line in one.lines
            ],
        )
        listing("Seen at the API", [""], [Row((note,)) for note in one.notes])
        listing(
            "Requests that may have been paid, and whose cost is unknown",
            ["pipeline", "requests", "batch", "file"],
            [
                Row((cost.pipeline, cost.requests, cost.batch_id, cost.file), (cost.why,))
                for cost in one.costs_unknown
            ],
        )


def settled_json(settled: Sequence[tuple["Store", "Settlement"]], errors: Sequence[str]) -> None:
    """Print the same as JSON, with what could not be settled."""
    kinds = {"files": "lines", "costs_unknown": "costs_unknown"}
    found: dict[str, Any] = {
        name: [
            {"store": store.files.root, **asdict(line)}
            for store, one in settled
            for line in getattr(one, kind)
        ]
        for name, kind in kinds.items()
    }
    notes = [note for _, one in settled for note in one.notes]
    print_json({**found, "notes": notes, "errors": list(errors)})


def show_cancellable(where: str, files: Sequence[Any]) -> None:
    """Print what cancelling would be about, and what it costs."""
    from batch_pipeline.store.tables import FileState

    kinds: dict[str, list[Any]] = {}
    for file in files:
        if file["cancel_requested_at"] is not None:
            kind = "cancelled already, and on its way to an end"
        elif file["state"] == FileState.IN_PROGRESS:
            kind = "sent: the API works on it"
        elif file["state"] == FileState.READY:
            kind = "not sent: it is withdrawn, and costs nothing"
        else:
            kind = "perhaps sent: no reply yet"
        kinds.setdefault(kind, []).append(file)
    listing(
        f"On its way: {where}",
        ["files", "requests", "what"],
        [Row((len(of), sum(file["requests"] for file in of), kind)) for kind, of in kinds.items()],
    )
    say("What the API has answered by now is paid for, and is still collected.")


def show_canceled(pipeline: str, done: Sequence["Canceled"]) -> None:
    """Print what cancelling did, and what happens next."""
    titles = {
        "canceled": "Cancelled batches",
        "withdrawn": "Files that were not sent, and are not sent any more",
        "waiting": "Files without a reply: withdrawn or cancelled as soon as their fate is known",
    }
    for name, title in titles.items():
        ids = [one for report in done for one in getattr(report, name)]
        listing(title, [""], [Row((one,)) for one in ids])
    if any(report.canceled or report.withdrawn or report.waiting for report in done):
        say(
            "The API ends cancelled batches within minutes. Then the status sensor has their answers collected. The "
            "other records count as canceled: the sensor does not ask them again, the next "
            f"{pipeline}_submit does, as far as max_attempts allows."
        )


def show_rebuilt(store: "Store", rebuilt: "Rebuilt") -> None:
    """Print what a rebuilt ledger knows, and what could not be read."""
    listing(
        f"Rebuilt the ledger of the store {store.files.root}",
        [""],
        [Row((line,)) for line in rebuilt.lines],
    )


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "a time unknown"
